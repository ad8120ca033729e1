//! Descriptors in numbers: closing what a process got from its parent and must not hold (the other
//! end of a pipe, say, that never ends otherwise), and how many there may be.

use super::{check, entry};
use std::ffi::{c_int, c_uint};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{fs, io};

/// The first descriptor that is not stdio.
const FIRST: c_int = 3;
/// How far descriptors are tried one by one, where neither `close_range` nor /proc helps. Ours are
/// low: the kernel gives the lowest free.
const MOST_TRIED: c_int = 65_536;

/// Closes every descriptor from 3 on that is not listed. For a process just forked, and the
/// parent's values that own what is closed here must be forgotten in it, not dropped.
pub fn close_from_other_than(keep: &[BorrowedFd]) {
    let mut kept: Vec<c_int> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    kept.sort_unstable();
    if close_gaps(&kept).is_err() {
        open_descriptors()
            .filter(|fd| *fd >= FIRST && !kept.contains(fd))
            .for_each(close);
    }
}

/// Closes the descriptors above 2 that this process inherited. They are for the command, which
/// decides how long they stay open. All descriptors that this program opens are close-on-exec, so
/// the others are inherited.
///
/// If `entry` has seen none, this makes no system call. `entry` misses a descriptor that is the
/// only one and has a number that it does not look at, or is of `O_PATH`. The command gets it all
/// the same, but it stays open here until this process ends.
pub fn close_inherited() {
    if entry::take_inherited() {
        close_all_that_pass_exec();
    }
}

fn close_all_that_pass_exec() {
    open_descriptors()
        .filter(|&fd| fd >= FIRST && !is_close_on_exec(fd))
        .for_each(close);
}

/// Whether an open descriptor goes when a program is executed.
fn is_close_on_exec(fd: c_int) -> bool {
    // SAFETY: fcntl(2) with F_GETFD touches no memory.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) })
        .is_ok_and(|flags| flags & libc::FD_CLOEXEC != 0)
}

/// Closes what is between and beyond `kept`, which is sorted. ENOSYS before Linux 5.9.
fn close_gaps(kept: &[c_int]) -> io::Result<()> {
    let mut first = FIRST;
    for &fd in kept.iter().filter(|&&fd| fd >= FIRST) {
        if first < fd {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, c_int::MAX)
}

fn close_range(first: c_int, last: c_int) -> io::Result<()> {
    // SAFETY: close_range(2) touches no memory. Whose descriptors these were is the contract of
    // `close_from_other_than`.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first.cast_unsigned(),
            last.cast_unsigned(),
            0 as c_uint,
        )
    })?;
    Ok(())
}

/// What may be open: what /proc lists, else every number up to the limit.
fn open_descriptors() -> Box<dyn Iterator<Item = c_int>> {
    match fs::read_dir("/proc/self/fd") {
        Ok(entries) => {
            // Collected first, for the listing has a descriptor too.
            let listed: Vec<c_int> = entries
                .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
                .collect();
            Box::new(listed.into_iter())
        }
        Err(_) => Box::new(0..limit()),
    }
}

/// Above the highest number that a descriptor can have here.
fn limit() -> c_int {
    found_limit().map_or(MOST_TRIED, |limit| {
        c_int::try_from(limit.rlim_cur).map_or(MOST_TRIED, |limit| limit.min(MOST_TRIED))
    })
}

/// Raises how many descriptors this process may have as far as it may be raised; returns how many
/// that are.
pub fn raise_limit() -> io::Result<u64> {
    let found = found_limit()?;
    let raised = libc::rlimit {
        rlim_cur: found.rlim_max,
        ..found
    };
    // SAFETY: setrlimit(2) reads one rlimit.
    match check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) }) {
        Ok(_) => Ok(raised.rlim_cur),
        Err(_) => Ok(found.rlim_cur), // a hard limit above fs.nr_open, which was lowered since
    }
}

fn found_limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit(2) fills the one rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok(limit)
}

fn close(fd: c_int) {
    // SAFETY: close(2) touches no memory. Whose descriptor this was is the contract of
    // `close_from_other_than`.
    unsafe { libc::close(fd) };
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_in_child, refuse};
    use super::*;
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};

    /// Opens a descriptor with just this number.
    fn open_at(fd: c_int) -> OwnedFd {
        // SAFETY: dup2(2) touches no memory; in the forked child nobody uses the numbers that the
        // test picks.
        let fd = check(unsafe { libc::dup2(1, fd) }).unwrap();
        // SAFETY: just made.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    fn is_open(fd: c_int) -> bool {
        // SAFETY: fcntl(2) with F_GETFD touches no memory.
        check(unsafe { libc::fcntl(fd, libc::F_GETFD) }).is_ok()
    }

    #[test]
    fn only_stdio_and_what_is_kept_stays_open() {
        let close_range = (libc::SYS_close_range, libc::ENOSYS);
        let opening = (libc::SYS_openat, libc::ENOENT);
        for refused in [&[][..], &[close_range], &[close_range, opening]] {
            check_in_child(|| {
                // Forgotten, for most of them are about to be closed.
                let fds = std::mem::ManuallyDrop::new([100, 101, 102, 104, 105].map(open_at));
                refuse(refused);
                close_from_other_than(&[fds[3].as_fd(), fds[1].as_fd(), fds[2].as_fd()]);
                assert_eq!(
                    (FIRST..200).filter(|&fd| is_open(fd)).collect::<Vec<_>>(),
                    [101, 102, 104],
                    "without {refused:?}"
                );
                assert!((0..FIRST).all(is_open));
            });
        }
    }

    #[test]
    fn inherited_descriptors_are_closed_and_the_programs_own_stay() {
        for refused in [&[][..], &[(libc::SYS_openat, libc::ENOENT)]] {
            check_in_child(|| {
                // Forgotten, for some are about to be closed.
                let _fds = std::mem::ManuallyDrop::new([100, 101, 102, 300].map(open_at));
                for own in [101, 300] {
                    // SAFETY: fcntl(2) with F_SETFD touches no memory.
                    check(unsafe { libc::fcntl(own, libc::F_SETFD, libc::FD_CLOEXEC) }).unwrap();
                }
                refuse(refused);
                close_all_that_pass_exec();
                assert_eq!(
                    (100..400).filter(|&fd| is_open(fd)).collect::<Vec<_>>(),
                    [101, 300],
                    "without {refused:?}"
                );
                assert!((0..FIRST).all(is_open));
            });
        }
    }

    #[test]
    fn the_limit_is_raised_to_the_hard_one() {
        check_in_child(|| {
            let hard = found_limit().unwrap().rlim_max;
            let low = libc::rlimit {
                rlim_cur: 100,
                rlim_max: hard,
            };
            // SAFETY: setrlimit(2) reads one rlimit.
            check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const low) }).unwrap();
            assert_eq!(raise_limit().unwrap(), hard);
            assert_eq!(found_limit().unwrap().rlim_cur, hard);
        });
    }

    #[test]
    fn the_limit_is_a_sane_number() {
        assert!((FIRST..=MOST_TRIED).contains(&limit()));
    }
}

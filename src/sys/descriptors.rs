//! Descriptors by number: closing inherited ones that a process must not hold (e.g. the other end
//! of a pipe, which would never see end of file), and the limit on their number.

use super::{check, entry};
use std::ffi::{c_int, c_uint};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{fs, io};

/// The first descriptor that is not stdio.
const FIRST: c_int = 3;
/// Descriptors up to this number are tried one by one if neither `close_range` nor /proc is
/// available. This program's numbers are low, because the kernel allocates the lowest free one.
const MOST_TRIED: c_int = 65_536;

/// Closes every descriptor from 3 on that is not in `keep`. Only for a process that has just been
/// forked: values that own a closed descriptor must be forgotten there, not dropped.
pub fn close_all_except(keep: &[BorrowedFd]) {
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

/// Makes reads and writes return at once if they would have to wait.
pub fn set_nonblocking(fd: BorrowedFd) -> io::Result<()> {
    // SAFETY: fcntl(2) with F_SETFL touches no memory. The flags of a new descriptor are those of
    // its access mode, which the call ignores.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok(())
}

/// Whether an open descriptor is closed by exec.
fn is_close_on_exec(fd: c_int) -> bool {
    // SAFETY: fcntl(2) with F_GETFD touches no memory.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) })
        .is_ok_and(|flags| flags & libc::FD_CLOEXEC != 0)
}

/// Closes the gaps between the numbers in `kept`, which is sorted, and everything above. ENOSYS
/// before Linux 5.9.
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
    // SAFETY: close_range(2) touches no memory. `close_all_except` documents which descriptors
    // are closed.
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

/// Descriptors that may be open: the listing of /proc, otherwise every number up to the limit.
fn open_descriptors() -> Box<dyn Iterator<Item = c_int>> {
    match fs::read_dir("/proc/self/fd") {
        Ok(entries) => {
            // Collected first, because the listing itself uses a descriptor.
            let listed: Vec<c_int> = entries
                .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
                .collect();
            Box::new(listed.into_iter())
        }
        Err(_) => Box::new(0..limit()),
    }
}

/// The upper bound (exclusive) of descriptor numbers in this process.
fn limit() -> c_int {
    found_limit().map_or(MOST_TRIED, |limit| {
        c_int::try_from(limit.rlim_cur).map_or(MOST_TRIED, |limit| limit.min(MOST_TRIED))
    })
}

/// Raises the soft limit of descriptors to the hard limit and returns the result.
pub fn raise_limit() -> io::Result<u64> {
    let found = found_limit()?;
    let raised = libc::rlimit {
        rlim_cur: found.rlim_max,
        ..found
    };
    // SAFETY: setrlimit(2) reads one rlimit.
    match check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) }) {
        Ok(_) => Ok(raised.rlim_cur),
        Err(_) => Ok(found.rlim_cur), // the hard limit is above fs.nr_open, which was lowered since
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
    // SAFETY: close(2) touches no memory. `close_all_except` documents which descriptors are
    // closed.
    unsafe { libc::close(fd) };
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_in_child, refuse};
    use super::*;
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};

    /// Opens a descriptor with this number.
    fn open_at(fd: c_int) -> OwnedFd {
        // SAFETY: dup2(2) touches no memory; the forked child uses none of the numbers that the
        // test picks.
        let fd = check(unsafe { libc::dup2(1, fd) }).unwrap();
        // SAFETY: dup2 has just made it.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    fn is_open(fd: c_int) -> bool {
        // SAFETY: fcntl(2) with F_GETFD touches no memory.
        check(unsafe { libc::fcntl(fd, libc::F_GETFD) }).is_ok()
    }

    #[test]
    fn only_stdio_and_kept_descriptors_stay_open() {
        let close_range = (libc::SYS_close_range, libc::ENOSYS);
        let opening = (libc::SYS_openat, libc::ENOENT);
        for refused in [&[][..], &[close_range], &[close_range, opening]] {
            check_in_child(|| {
                // Forgotten, because most of them are closed below.
                let fds = std::mem::ManuallyDrop::new([100, 101, 102, 104, 105].map(open_at));
                refuse(refused);
                close_all_except(&[fds[3].as_fd(), fds[1].as_fd(), fds[2].as_fd()]);
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
                // Forgotten, because some of them are closed below.
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
    fn soft_limit_is_raised_to_the_hard_limit() {
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
    fn limit_is_positive_and_bounded() {
        assert!((FIRST..=MOST_TRIED).contains(&limit()));
    }
}

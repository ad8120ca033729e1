//! Processes: fork, exit, parents, and exit statuses of children.

pub use super::title::{rename, rename_for};

use super::check;
use crate::signal::{Signal, Status};
use std::ffi::{c_int, c_ulong};
use std::mem::MaybeUninit;
use std::{fmt, io};

/// The largest id that a kernel allocates: `PID_MAX_LIMIT` of 64-bit Linux.
const LARGEST_PID: i32 = 1 << 22;

/// A process id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pid(pub i32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which of the two processes a fork returned to.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old process, with the id of the new one.
    Parent(Pid),
}

/// Forks this process. The programs that fork have one thread, so the child may run any code.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: fork(2) touches no memory. In a process with several threads (tests) the child only
    // makes async-signal-safe calls.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid(pid))),
    }
}

/// Ends this process at once, without destructors and without flushing buffers, which the parent
/// holds too.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: _exit(2) does not return and touches no memory.
    unsafe { libc::_exit(code.into()) }
}

/// The id of this process.
pub fn own_pid() -> Pid {
    // SAFETY: getpid(2) touches no memory and cannot fail.
    Pid(unsafe { libc::getpid() })
}

/// The process that receives this one's exit status. 1 or a subreaper if the original parent is
/// dead; 0 if it is outside this process namespace.
pub fn parent_pid() -> Pid {
    // SAFETY: getppid(2) touches no memory and cannot fail.
    Pid(unsafe { libc::getppid() })
}

/// Makes this process the leader of a new session and process group, without a terminal.
pub fn own_session() -> io::Result<()> {
    // SAFETY: setsid(2) touches no memory.
    check(unsafe { libc::setsid() })?;
    Ok(())
}

/// Makes this process the leader of a new process group. It cannot fail in a process that has just
/// been forked. Async-signal-safe.
pub fn own_group() {
    // SAFETY: setpgid(2) touches no memory.
    unsafe { libc::setpgid(0, 0) };
}

/// Makes orphaned descendants children of this process, not of init.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: prctl(2) with PR_SET_CHILD_SUBREAPER takes one unsigned long and touches no memory.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as c_ulong) })?;
    Ok(())
}

/// Has the kernel send `signal` to this process when the thread that forked it ends. ESRCH if
/// `parent`, which forked it, has ended already. Async-signal-safe. A forked process starts without
/// such a signal, so `None` makes no call.
pub fn die_with_parent(signal: Option<Signal>, parent: Pid) -> io::Result<()> {
    let Some(signal) = signal else { return Ok(()) };
    // SAFETY: prctl(2) with PR_SET_PDEATHSIG takes one unsigned long and touches no memory.
    check(unsafe {
        libc::prctl(
            libc::PR_SET_PDEATHSIG,
            c_ulong::from(signal.0.cast_unsigned()),
        )
    })?;
    // The parent may have died between fork and prctl; then no signal is ever sent.
    if parent_pid() == parent {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// State of the children.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reap {
    /// This child ended with this status. Its id is free for reuse.
    Ended(Pid, Status),
    /// There are children, and none has ended.
    Running,
    /// There are no children.
    NoChildren,
}

/// Reaps one child that has ended, without waiting. A stopped child counts as running.
pub fn reap() -> Reap {
    let mut status = 0;
    // SAFETY: waitpid(2) writes one int.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        0 => Reap::Running,
        pid if pid > 0 => Reap::Ended(Pid(pid), decode(status)),
        _ => Reap::NoChildren,
    }
}

/// Living children of this process, for use without /proc: asks the kernel for each id whether it
/// is a child. First the ids allocated since this process started (a few milliseconds for 32,768 of
/// them); all ids only if none of those is a living child.
pub fn children_by_number() -> Vec<Pid> {
    let (own, newest) = (own_pid().0, newest_pid().unwrap_or(LARGEST_PID));
    let recent = if own < newest {
        living_children(own + 1..=newest)
    } else {
        living_children((own + 1..=LARGEST_PID).chain(1..=newest))
    };
    if recent.is_empty() {
        living_children(1..=LARGEST_PID)
    } else {
        recent
    }
}

fn living_children(ids: impl Iterator<Item = i32>) -> Vec<Pid> {
    ids.map(Pid).filter(|&pid| is_living_child(pid)).collect()
}

/// The id that the kernel allocated last, from a child that exits at once.
fn newest_pid() -> io::Result<i32> {
    match fork()? {
        Fork::Child => exit_now(0),
        Fork::Parent(child) => wait(child).map(|_| child.0),
    }
}

fn is_living_child(pid: Pid) -> bool {
    // SAFETY: siginfo_t is plain data, for which zeros are valid.
    let mut ended: libc::siginfo_t = unsafe { MaybeUninit::zeroed().assume_init() };
    let id = pid.0.cast_unsigned();
    // SAFETY: waitid(2) writes one siginfo_t. WNOWAIT leaves the child to be reaped.
    let found = unsafe {
        libc::waitid(
            libc::P_PID,
            id,
            &raw mut ended,
            libc::WEXITED | libc::WNOHANG | libc::WNOWAIT,
        )
    } == 0;
    // SAFETY: waitid(2) has written it, or left the zeros.
    found && unsafe { ended.si_pid() } == 0
}

/// Waits until a child ends, and reaps it.
pub fn wait(child: Pid) -> io::Result<Status> {
    let mut status = 0;
    // SAFETY: waitpid(2) writes one int.
    check(unsafe { libc::waitpid(child.0, &raw mut status, 0) })?;
    Ok(decode(status))
}

/// Decodes a status of waitpid without WUNTRACED: an exit or a signal.
fn decode(status: c_int) -> Status {
    if libc::WIFSIGNALED(status) {
        Status::Killed(Signal(libc::WTERMSIG(status)))
    } else {
        Status::Exited(u8::try_from(libc::WEXITSTATUS(status)).expect("eight bits of the status"))
    }
}

/// Sends a signal to one process. ESRCH for ids that kill(2) takes for groups.
pub fn kill(pid: Pid, signal: Signal) -> io::Result<()> {
    if pid.0 <= 0 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill(2) touches no memory.
    check(unsafe { libc::kill(pid.0, signal.0) })?;
    Ok(())
}

/// The process group of a process, also of one that /proc does not show. `None`: there is no such
/// process.
pub fn group(pid: Pid) -> Option<Pid> {
    // SAFETY: getpgid(2) touches no memory.
    check(unsafe { libc::getpgid(pid.0) }).ok().map(Pid)
}

/// Whether a process with this id exists, a zombie included; it need not be a child.
pub fn exists(pid: Pid) -> bool {
    kill(pid, Signal(0)).map_or_else(|error| error.raw_os_error() == Some(libc::EPERM), |()| true)
}

/// Sends a signal to the process group of `leader`, if it has made one.
pub fn kill_group(leader: Pid, signal: Signal) -> io::Result<()> {
    if leader.0 <= 1 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill(2) touches no memory.
    check(unsafe { libc::kill(-leader.0, signal.0) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_in_child, in_child};
    use super::super::{poll, socket};
    use super::*;
    use std::os::fd::AsFd;

    /// Any child, for waitpid.
    const ANY: Pid = Pid(-1);

    #[test]
    fn every_exit_code_is_decoded() {
        for code in 0..=255 {
            assert_eq!(in_child(|| exit_now(code)), Status::Exited(code));
        }
    }

    #[test]
    fn children_are_reaped_one_at_a_time() {
        check_in_child(|| {
            assert_eq!(reap(), Reap::NoChildren);
            let (local, remote) = socket::pair().unwrap();
            let Fork::Parent(child) = fork().unwrap() else {
                poll::wait(&mut [poll::Watched::new(remote.as_fd(), false)], None).unwrap();
                exit_now(7)
            };
            assert_eq!(reap(), Reap::Running);
            socket::send(&local, b"go").unwrap();
            let ended = std::iter::repeat_with(reap).find(|reap| *reap != Reap::Running);
            assert_eq!(ended, Some(Reap::Ended(child, Status::Exited(7))));
            assert_eq!(reap(), Reap::NoChildren);
        });
    }

    #[test]
    fn subreaper_adopts_orphans() {
        check_in_child(|| {
            become_subreaper().unwrap();
            if let Fork::Child = fork().unwrap() {
                let _orphan = fork().unwrap();
                exit_now(3);
            }
            assert_eq!(
                [wait(ANY).unwrap(), wait(ANY).unwrap()],
                [Status::Exited(3); 2]
            );
            assert_eq!(reap(), Reap::NoChildren);
        });
    }

    #[test]
    fn living_children_are_found_by_number() {
        check_in_child(|| {
            let (_ours, remote) = socket::pair().unwrap();
            let born = || match fork().unwrap() {
                Fork::Parent(child) => child,
                Fork::Child => {
                    poll::wait(&mut [poll::Watched::new(remote.as_fd(), false)], None).unwrap();
                    exit_now(0)
                }
            };
            let children = [born(), born()];
            assert_eq!(children_by_number(), children);
            kill(children[0], Signal::KILL).unwrap();
            while is_living_child(children[0]) {}
            assert_eq!(
                children_by_number(),
                [children[1]],
                "the dead one has not been reaped"
            );
            kill(children[1], Signal::KILL).unwrap();
            for child in children {
                assert_eq!(wait(child).unwrap(), Status::Killed(Signal::KILL));
            }
            assert_eq!(living_children(1..=newest_pid().unwrap()), []);
        });
    }

    #[test]
    fn process_dies_with_its_parent() {
        let (local, remote) = socket::pair().unwrap();
        check_in_child(|| {
            let parent = own_pid();
            if let Fork::Child = fork().unwrap() {
                die_with_parent(Some(Signal::KILL), parent).unwrap();
                socket::send(&remote, b"set").unwrap();
                // SAFETY: pause(2) touches no memory.
                unsafe { libc::pause() };
            }
            poll::wait(&mut [poll::Watched::new(local.as_fd(), false)], None).unwrap();
        });
        drop(remote);
        assert_eq!(socket::receive(&local, &mut [0; 8]).unwrap(), 3);
        poll::wait(&mut [poll::Watched::new(local.as_fd(), false)], None).unwrap();
        assert_eq!(
            socket::receive(&local, &mut [0; 8]).unwrap(),
            0,
            "its end is closed: it is dead"
        );
    }

    #[test]
    fn parent_that_has_ended_is_an_error() {
        check_in_child(|| {
            let other = Pid(parent_pid().0 + 1);
            assert_eq!(
                die_with_parent(Some(Signal::TERM), other)
                    .unwrap_err()
                    .raw_os_error(),
                Some(libc::ESRCH)
            );
            die_with_parent(None, other).unwrap();
        });
    }

    #[test]
    fn group_ids_are_refused() {
        for id in [0, -1, i32::MIN] {
            assert_eq!(
                kill(Pid(id), Signal::CONT).unwrap_err().raw_os_error(),
                Some(libc::ESRCH)
            );
        }
    }
}

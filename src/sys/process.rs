//! Processes: fork, exit, parents, and how children ended.

pub use super::title::rename;

use super::check;
use crate::plan::Status;
use crate::signal::Signal;
use std::ffi::{c_int, c_ulong};
use std::{fmt, io};

/// A process id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pid(pub i32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which of the two a fork returned to.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old one, told the new one's id.
    Parent(Pid),
}

/// Splits this process in two. The programs that fork have one thread, so the child may go on as any program would.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: fork(2) touches no memory. In a process of several threads (tests) the child confines itself to async-signal-safe calls.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid(pid))),
    }
}

/// Ends this process at once: no destructors, no flushing of what the parent has buffered too.
pub fn leave(code: u8) -> ! {
    // SAFETY: _exit(2) does not return and touches no memory.
    unsafe { libc::_exit(code.into()) }
}

/// This process.
pub fn own_pid() -> Pid {
    // SAFETY: getpid(2) touches no memory and cannot fail.
    Pid(unsafe { libc::getpid() })
}

/// The process that gets this one's exit status; 1 or a subreaper once the real one is dead, 0 if it is outside our namespace.
pub fn parent_pid() -> Pid {
    // SAFETY: getppid(2) touches no memory and cannot fail.
    Pid(unsafe { libc::getppid() })
}

/// Makes this process the leader of a process group of its own.
pub fn own_group() -> io::Result<()> {
    // SAFETY: setpgid(2) touches no memory.
    check(unsafe { libc::setpgid(0, 0) })?;
    Ok(())
}

/// Makes orphans among our descendants our children, instead of init's.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: prctl(2) with PR_SET_CHILD_SUBREAPER takes one unsigned long and touches no memory.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as c_ulong) })?;
    Ok(())
}

/// Has the kernel send us `signal` when the thread that forked us ends. ESRCH if `parent`, which forked us, has gone already.
/// Async-signal-safe. A forked process begins without, so `None` has nothing to do.
pub fn die_with_parent(signal: Option<Signal>, parent: Pid) -> io::Result<()> {
    let Some(signal) = signal else { return Ok(()) };
    // SAFETY: prctl(2) with PR_SET_PDEATHSIG takes one unsigned long and touches no memory.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, c_ulong::from(signal.0.cast_unsigned())) })?;
    // It may have died between fork and prctl; then no signal will ever come.
    if parent_pid() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

/// What there is to hear of children.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reap {
    /// This one ended so, and its id is free for another.
    Ended(Pid, Status),
    /// There are children, and none has ended.
    Running,
    /// There are none.
    NoChildren,
}

/// Buries one child that has ended, without waiting for any. One that is merely stopped is running.
pub fn reap() -> Reap {
    let mut status = 0;
    // SAFETY: waitpid(2) writes one int.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        0 => Reap::Running,
        pid if pid > 0 => Reap::Ended(Pid(pid), decode(status)),
        _ => Reap::NoChildren,
    }
}

/// Waits until a child ends, and buries it.
pub fn wait(child: Pid) -> io::Result<Status> {
    let mut status = 0;
    // SAFETY: waitpid(2) writes one int.
    check(unsafe { libc::waitpid(child.0, &raw mut status, 0) })?;
    Ok(decode(status))
}

/// The end of a process, from waitpid without WUNTRACED: an exit or a signal.
fn decode(status: c_int) -> Status {
    if libc::WIFSIGNALED(status) {
        Status::Killed(Signal(libc::WTERMSIG(status)))
    } else {
        Status::Exited(u8::try_from(libc::WEXITSTATUS(status)).expect("eight bits of the status"))
    }
}

/// Sends a signal to one process. Ids that kill(2) takes for groups are nobody's: ESRCH.
pub fn kill(pid: Pid, signal: Signal) -> io::Result<()> {
    if pid.0 <= 0 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill(2) touches no memory.
    check(unsafe { libc::kill(pid.0, signal.0) })?;
    Ok(())
}

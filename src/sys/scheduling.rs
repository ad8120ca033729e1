//! Scheduling priority of processes.

use super::check;
use std::io;
use std::mem::MaybeUninit;

/// The lowest real-time priority: it precedes every ordinary process, and no real-time one.
const LOWEST: libc::c_int = 1;

/// Makes this process run before all ordinary ones; processes that it forks do not inherit this.
/// EPERM without `CAP_SYS_NICE`, unless `RLIMIT_RTPRIO` allows it, or in a control group without a
/// real-time budget.
pub fn run_ahead() -> io::Result<()> {
    // SAFETY: sched_param is plain data, for which zeros are valid.
    let mut parameters: libc::sched_param = unsafe { MaybeUninit::zeroed().assume_init() };
    parameters.sched_priority = LOWEST;
    // By number: musl's own wrapper returns ENOSYS. SAFETY: sched_setscheduler(2) reads the
    // parameters, which are valid.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_RR | libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::process::{Fork, exit_now, fork, wait};
    use super::super::testing::{check_in_child, refuse};
    use super::*;
    use crate::signal::Status;

    fn policy() -> libc::c_int {
        // SAFETY: sched_getscheduler(2) touches no memory.
        let policy = check(unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) }).unwrap();
        policy.try_into().unwrap()
    }

    #[test]
    fn permitted_process_runs_ahead_and_its_children_do_not() {
        check_in_child(|| {
            if run_ahead().is_err() {
                return assert_eq!(policy(), libc::SCHED_OTHER, "not root");
            }
            assert_eq!(policy() & !libc::SCHED_RESET_ON_FORK, libc::SCHED_RR);
            match fork().unwrap() {
                Fork::Child => exit_now(u8::from(policy() != libc::SCHED_OTHER)),
                Fork::Parent(child) => assert_eq!(wait(child).unwrap(), Status::Exited(0)),
            }
        });
    }

    #[test]
    fn unpermitted_process_keeps_its_policy() {
        check_in_child(|| {
            refuse(&[(libc::SYS_sched_setscheduler, libc::EPERM)]);
            assert_eq!(run_ahead().unwrap_err().raw_os_error(), Some(libc::EPERM));
            assert_eq!(policy(), libc::SCHED_OTHER);
        });
    }
}

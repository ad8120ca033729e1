//! Helpers for tests that change a whole process: they run in a forked child.

use super::check;
use super::process::{self, Fork};
use crate::signal::Status;
use std::ffi::{c_int, c_long, c_ulong};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seconds after which a hanging test is killed.
const PATIENCE: u32 = 20;

/// Runs `work` in a child with one thread and returns its status: 0 if `work` returned, 101 if it
/// panicked.
pub(super) fn in_child(work: impl FnOnce()) -> Status {
    match process::fork().unwrap() {
        Fork::Child => {
            // SAFETY: alarm(2) touches no memory.
            unsafe { libc::alarm(PATIENCE) };
            process::exit_now(if catch_unwind(AssertUnwindSafe(work)).is_ok() {
                0
            } else {
                101
            })
        }
        Fork::Parent(child) => process::wait(child).unwrap(),
    }
}

/// Runs `work`, with its assertions, in a child.
pub(super) fn check_in_child(work: impl FnOnce()) {
    assert_eq!(in_child(work), Status::Exited(0));
}

/// From now on these system calls fail with the given errno in this process, as on an old kernel or
/// in a sandbox.
pub(super) fn refuse(calls: &[(c_long, c_int)]) {
    let step = |code: u32, value: u32, if_equal: u8, if_not: u8| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: if_equal,
        jf: if_not,
        k: value,
    };
    let answer = |answer| step(libc::BPF_RET | libc::BPF_K, answer, 0, 0);
    // seccomp's data starts with the number of the call.
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for &(call, errno) in calls {
        program.push(step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            u32::try_from(call).unwrap(),
            0,
            1,
        ));
        program.push(answer(libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog {
        len: program.len().try_into().unwrap(),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: prctl(2) with PR_SET_NO_NEW_PRIVS takes four numbers and touches no memory.
    check(unsafe {
        libc::prctl(
            libc::PR_SET_NO_NEW_PRIVS,
            1 as c_ulong,
            0 as c_ulong,
            0 as c_ulong,
            0 as c_ulong,
        )
    })
    .unwrap();
    // SAFETY: prctl(2) with PR_SET_SECCOMP reads the program, which is valid.
    check(unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            c_ulong::from(libc::SECCOMP_MODE_FILTER),
            &raw const program,
        )
    })
    .unwrap();
}

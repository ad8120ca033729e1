//! For tests of what changes a whole process: a forked child to do it in.

use super::process::{self, Fork};
use crate::plan::Status;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seconds after which a test that hangs is killed.
const PATIENCE: u32 = 20;

/// Does `work` in a child, which has one thread; returns how the child ended: with 0 if `work` returned, 101 if it panicked.
pub(super) fn in_child(work: impl FnOnce()) -> Status {
    match process::fork().unwrap() {
        Fork::Child => {
            // SAFETY: alarm(2) touches no memory.
            unsafe { libc::alarm(PATIENCE) };
            process::leave(if catch_unwind(AssertUnwindSafe(work)).is_ok() { 0 } else { 101 })
        }
        Fork::Parent(child) => process::wait(child).unwrap(),
    }
}

/// Does `work`, with its assertions, in a child.
pub(super) fn check_in_child(work: impl FnOnce()) {
    assert_eq!(in_child(work), Status::Exited(0));
}

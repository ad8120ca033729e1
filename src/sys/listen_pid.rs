//! Sockets that a service manager opened for a command (`sd_listen_fds(3)`). `LISTEN_PID` names the
//! process that they are for, and a program that finds another id there does not use them. If it
//! names zk-flock, it must name the command instead. That id exists only after the clone, so the
//! child writes it into its own environment.

use super::process::{self, Pid};
use std::env;
use std::ffi::c_char;
use std::iter::once;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// The process, by its id.
const NAME: &str = "LISTEN_PID";
/// The process, by the inode of its pidfd. The variable is optional, so it is removed: a child
/// would need three more calls to learn its own inode.
const NAME_PIDFD: &str = "LISTEN_PIDFDID";

/// Decimal digits of the largest i32.
const DIGITS: usize = 10;
/// Name, `=`, digits and a NUL.
const LENGTH: usize = NAME.len() + 1 + DIGITS + 1;

/// Whether a service manager passed sockets to this process.
pub(super) fn names_this_process() -> bool {
    env::var(NAME).is_ok_and(|pid| pid.parse() == Ok(process::own_pid().0))
}

/// Whether this entry of an environment is one of the two variables.
pub(super) fn names_process(variable: &[u8]) -> bool {
    [NAME, NAME_PIDFD].iter().any(|name| {
        variable
            .strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&b'='))
    })
}

/// `LISTEN_PID` of a process that does not exist yet, with space for its id.
pub(super) struct ListenPid([AtomicU8; LENGTH]);

impl ListenPid {
    pub(super) fn new() -> ListenPid {
        let mut start = NAME.bytes().chain(once(b'='));
        ListenPid([(); LENGTH].map(|()| AtomicU8::new(start.next().unwrap_or(0))))
    }

    /// The string, for an environment.
    pub(super) fn as_ptr(&self) -> *const c_char {
        self.0.as_ptr().cast()
    }

    /// Writes the id. Async-signal-safe: the process calls it on itself before exec.
    pub(super) fn set(&self, Pid(pid): Pid) {
        let mut digits = [0; DIGITS];
        let (mut rest, mut first) = (pid.unsigned_abs(), DIGITS);
        while rest > 0 || first == DIGITS {
            first -= 1;
            digits[first] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        let written = digits[first..].iter().chain(once(&0));
        for (place, &byte) in self.0[NAME.len() + 1..].iter().zip(written) {
            place.store(byte, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn id_is_written_into_the_variable() {
        let variable = ListenPid::new();
        for (pid, text) in [
            (i32::MAX, c"LISTEN_PID=2147483647"),
            (0, c"LISTEN_PID=0"),
            (4_194_304, c"LISTEN_PID=4194304"),
            (7, c"LISTEN_PID=7"),
        ] {
            variable.set(Pid(pid));
            // SAFETY: a NUL follows the digits.
            assert_eq!(unsafe { CStr::from_ptr(variable.as_ptr()) }, text);
        }
    }

    #[test]
    fn only_the_two_variables_match() {
        for (variable, is) in [
            ("LISTEN_PID=7", true),
            ("LISTEN_PIDFDID=7", true),
            ("LISTEN_PIDS=7", false),
            ("LISTEN_FDS=1", false),
            ("LISTEN_FDNAMES=LISTEN_PID=", false),
        ] {
            assert_eq!(names_process(variable.as_bytes()), is, "{variable}");
        }
    }
}

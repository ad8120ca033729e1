//! What a command is to be started with, just as we were: signal mask, dispositions, closed stdio; and the signal that it gets when the
//! process that started it dies.

use super::disposition::{self, Disposition};
use super::mask::Mask;
use super::{check, entry, process};
use crate::signal::Signal;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What this process found on entry and changed for itself.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    pub(super) mask: Mask,
    pub(super) child: Disposition,
    pub(super) pipe: Disposition,
    pub(super) file_size: Disposition,
}

impl Inherited {
    /// Makes `command`, when it is spawned, begin with what we found, and get `death_signal` when we die. A command whose parent is dead
    /// already is not begun: ESRCH.
    pub fn hand_to(self, command: &mut Command, death_signal: Option<Signal>) {
        let parent = process::own_pid();
        let before_exec = move || {
            process::die_with_parent(death_signal, parent)?;
            self.restore_for_exec()
        };
        // SAFETY: the closure runs between fork and exec, and makes async-signal-safe system calls only, with no allocation.
        unsafe { command.pre_exec(before_exec) };
    }

    /// Sets mask, SIGCHLD, SIGPIPE, SIGXFSZ and the closed stdio descriptors back to what they were on entry. Async-signal-safe; for a forked
    /// child just before exec, since a std type that believes in one of those descriptors may be left.
    pub fn restore_for_exec(&self) -> io::Result<()> {
        disposition::set(Signal::CHLD, self.child)?;
        disposition::set(Signal::PIPE, self.pipe)?;
        disposition::set(Signal::XFSZ, self.file_size)?;
        for fd in entry::closed_stdio() {
            // SAFETY: nothing that runs between here and exec uses stdio, the only thing that knows of 0 to 2.
            check(unsafe { libc::close(fd) })?;
        }
        self.mask.restore()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::signals::Signals;
    use super::*;
    use std::env;
    use std::process::{Command, Stdio};

    /// Tells a run of this test that it is the program in the middle.
    const MIDDLE: &str = "ZK_FLOCK_TEST_MIDDLE";
    const NAME: &str = "sys::inherited::tests::a_command_begins_as_we_did";

    /// Programs that tell what they were started with. A shell would change its signals, and grep opens a file where stdin is closed.
    const WITNESSES: [&[&str]; 2] = [
        &["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"],
        &["sh", "-c", "for fd in 0 1 2; do test -e /proc/$$/fd/$fd && echo $fd open || echo $fd closed; done"],
    ];

    fn command(words: &[&str]) -> Command {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    }

    /// Starts a process in an odd state: two signals ignored, two blocked, stdin closed.
    fn oddly(command: &mut Command) -> String {
        let odd = || {
            for signal in [Signal::PIPE, Signal::CHLD] {
                disposition::set(signal, Disposition::Ignored)?;
            }
            Mask::of([Signal::USR2, Signal::TERM]).restore()?;
            // SAFETY: close(2) touches no memory, and exec follows.
            check(unsafe { libc::close(0) })?;
            Ok(())
        };
        // SAFETY: the closure makes async-signal-safe calls only.
        unsafe { command.pre_exec(odd) };
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_command_begins_as_we_did() {
        if env::var_os(MIDDLE).is_some() {
            let signals = Signals::take().unwrap();
            let guard = signals.watch_children_only().unwrap();
            for witness in WITNESSES {
                let mut command = command(witness);
                guard.inherited().hand_to(&mut command, Some(Signal::KILL));
                assert!(command.status().unwrap().success());
            }
            return;
        }
        let direct = WITNESSES.map(|witness| oddly(&mut command(witness))).concat();
        let through_us = oddly(Command::new(env::current_exe().unwrap()).args(["--exact", "--nocapture", NAME]).env(MIDDLE, "1"));
        assert!(direct.contains("SigBlk:\t0000000000004800") && direct.ends_with("0 closed\n1 open\n2 open\n"), "{direct}");
        assert!(through_us.contains(&direct), "{through_us} should have {direct}");
    }

    #[test]
    fn a_command_that_cannot_be_run_is_told_by_errno() {
        let inherited =
            Inherited { mask: Mask::of([]), child: Disposition::Default, pipe: Disposition::Default, file_size: Disposition::Default };
        let mut command = Command::new("/nonexistent");
        inherited.hand_to(&mut command, None);
        assert_eq!(command.spawn().unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }
}

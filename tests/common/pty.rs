//! A terminal with an interactive shell, for which a test types.

#![allow(unsafe_code, reason = "openpty(3), setsid(2), TIOCSCTTY")]

use super::sandbox::Sandbox;
use super::wait_until;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::{io, ptr, thread};

/// Ctrl-C.
pub const INTERRUPT: &str = "\x03";
/// Ctrl-D.
pub const END: &str = "\x04";
/// Ctrl-Z.
pub const SUSPEND: &str = "\x1a";
/// Ctrl-\.
pub const QUIT: &str = "\x1c";

/// A terminal and its shell.
pub struct Terminal {
    keyboard: File,
    shell: Child,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Opens one with an interactive bash with the prompt `$ ` in the sandbox's folder.
    pub fn open(sandbox: &Sandbox) -> Terminal {
        let (ours, theirs) = openpty();
        let stdio = || theirs.try_clone().expect("a descriptor can be cloned");
        let (key, value) = sandbox.mark();
        let mut bash = Command::new("bash");
        bash.args(["--norc", "--noprofile", "--noediting", "-i"])
            .current_dir(&sandbox.folder)
            .env(key, value);
        bash.envs([
            ("PS1", "$ "),
            ("HISTFILE", "/dev/null"),
            ("TERM", "dumb"),
            ("LC_ALL", "C"),
        ]);
        bash.stdin(stdio()).stdout(stdio()).stderr(stdio());
        // SAFETY: between fork and exec only the system calls setsid and ioctl are made, on
        // descriptor 0, which is the terminal by then.
        unsafe {
            bash.pre_exec(|| {
                let done = libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) == 0;
                if done {
                    Ok(())
                } else {
                    Err(io::Error::last_os_error())
                }
            });
        }
        let shell = bash.spawn().expect("bash can be started");
        drop(bash);
        drop(theirs);
        let screen = Arc::default();
        show(
            ours.try_clone().expect("a descriptor can be cloned"),
            Arc::clone(&screen),
        );
        let terminal = Terminal {
            keyboard: ours,
            shell,
            screen,
        };
        terminal.wait_for("$ ");
        terminal
    }

    /// Types keys as they are; a line needs its `\n`.
    pub fn press(&mut self, keys: &str) {
        self.keyboard
            .write_all(keys.as_bytes())
            .expect("the terminal takes keys");
    }

    /// Types a command and enters it.
    pub fn enter(&mut self, line: &str) {
        self.press(line);
        self.press("\n");
    }

    /// All output so far, with the echo of typed keys.
    pub fn screen(&self) -> String {
        self.screen
            .lock()
            .expect("nobody panics with the lock")
            .clone()
    }

    /// Waits until `text` was shown.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        wait_until(&format!("{text:?} on the terminal"), || {
            self.screen().contains(text)
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("terminal of the failed test:\n{}", self.screen());
        }
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// A new terminal: the master for the test and the slave for the programs. Both are
/// close-on-exec.
fn openpty() -> (File, File) {
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: openpty writes two integers; null is allowed for name, attributes and size.
    let failed = unsafe {
        libc::openpty(
            &raw mut ours,
            &raw mut theirs,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    assert!(failed == 0);
    let file = |descriptor| {
        // SAFETY: fcntl with F_SETFD takes an integer and touches no memory.
        assert!(unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } == 0);
        // SAFETY: openpty has just made the descriptor, and no other value owns it.
        File::from(unsafe { OwnedFd::from_raw_fd(descriptor) })
    };
    (file(ours), file(theirs))
}

/// Collects the output until the last program has left the terminal.
fn show(mut terminal: File, screen: Arc<Mutex<String>>) {
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = terminal.read(&mut chunk) {
            screen
                .lock()
                .expect("nobody panics with the lock")
                .push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
    });
}

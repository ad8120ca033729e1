//! The lock that prevents a second distributex for the same pool on this host. Like the Python
//! original, it is a file with a pid in it. flock(2) locks the file as well, because a pid proves
//! little and is not written at once. The file is removed with the lock, as in the original.

use crate::plan::ExitReason;
use crate::reason::reason;
use crate::sys::file::{self, LockMode};
use crate::sys::process::{self, Pid};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Every user may read the file, as in the original.
const MODE: u32 = 0o644;

/// How often to try again if the file is removed while it is being locked. Each time another run has
/// ended.
const TRIES: usize = 100;

/// How much of the file is read: more than a pid has, so that a longer text is not a pid.
const LONGEST_PID: u64 = 32;

/// A word on the command line of a process that can have made the file.
const PROGRAM: &[u8] = b"distributex";

/// The lock. Dropping it releases it.
#[derive(Debug)]
pub(super) struct HostLock {
    path: PathBuf,
    file: File,
}

/// Why the lock cannot be acquired.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Another run holds it. `pid`: its process, if the file has it. `flock`: it holds the flock, not
    /// only the file.
    Taken {
        pid: Option<Pid>,
        flock: bool,
        path: PathBuf,
    },
    /// The file's content is not a pid.
    Broken(PathBuf),
    /// A system call failed.
    System { path: PathBuf, error: io::Error },
}

impl Refusal {
    /// The reason to exit.
    pub(super) fn end(&self) -> ExitReason {
        match self {
            Refusal::Taken { .. } => ExitReason::Busy,
            Refusal::Broken(_) => ExitReason::IncompatibleLock,
            Refusal::System { .. } => ExitReason::SystemError,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Refusal::Taken { pid, flock, path } => {
                write!(
                    f,
                    "Another instance of distributex is running for this pool"
                )?;
                pid.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))?;
                write!(f, ". Wait for it to end")?;
                if *flock {
                    Ok(())
                } else {
                    write!(f, " or remove {}", path.display())
                }
            }
            Refusal::Broken(path) => {
                write!(f, "Broken lock file {}. Please remove it", path.display())
            }
            Refusal::System { path, error } => {
                write!(f, "cannot lock {}: {}", path.display(), reason(error))
            }
        }
    }
}

impl HostLock {
    /// Acquires the lock without waiting. Also returns the dead process that left the file behind,
    /// if one did.
    pub(super) fn take(path: &Path) -> Result<(HostLock, Option<Pid>), Refusal> {
        let system = |error| Refusal::System {
            path: path.into(),
            error,
        };
        let mut stale = None;
        for _ in 0..TRIES {
            let file = file::open_lock_file(path, MODE).map_err(system)?;
            let locked = file::lock(&file, LockMode::NonBlocking).map_err(system)?;
            if locked && file::in_place(&file, path).is_none() {
                continue;
            }
            // A Python program may still own the file, since it does not use flock.
            let owner = owner(&file).map_err(|BadPidFile| Refusal::Broken(path.into()))?;
            if !locked || owner.is_some_and(is_running) {
                return Err(Refusal::Taken {
                    pid: owner,
                    flock: !locked,
                    path: path.into(),
                });
            }
            stale = stale.or(owner);
            // The file of a Python program has no sticky bit, so a cleaner may remove it. It is
            // replaced, unless another user owns it.
            if !file.metadata().is_ok_and(|found| file::is_marked(&found))
                && fs::remove_file(path).is_ok()
            {
                continue;
            }
            write_pid(&file).map_err(system)?;
            return Ok((
                HostLock {
                    path: path.into(),
                    file,
                },
                stale,
            ));
        }
        Err(system(io::Error::other(format!(
            "gave up after {TRIES} attempts, because other processes keep creating and removing it"
        ))))
    }

    /// The descriptor of the lock, which lasts until its last copy is closed.
    pub(super) fn held(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Keeps the file, and leaves the lock to the guard, because processes of the command are still
    /// alive.
    pub(super) fn hand_over_to_guard(self) {
        std::mem::forget(self);
    }
}

impl Drop for HostLock {
    /// Removes the file first and unlocks second, so that no other run can have locked a file that
    /// is removed. A file of another user may stay; soon no process has the pid in it.
    fn drop(&mut self) {
        if file::in_place(&self.file, &self.path).is_some() {
            let _ = fs::remove_file(&self.path);
        }
        let _ = file::unlock(&self.file); // the guard shares the lock and may not have exited yet
    }
}

/// The content of a file is not a pid.
struct BadPidFile;

/// The pid in a file. `None` if the file is empty: its process has not written yet, or was killed
/// before. A file with a second link is not accepted: another user may have made the link, so that a
/// pid is written into another file.
fn owner(file: &File) -> Result<Option<Pid>, BadPidFile> {
    let mut text = String::new();
    let is_plain = file
        .metadata()
        .is_ok_and(|found| found.is_file() && found.nlink() <= 1);
    if !is_plain || file.take(LONGEST_PID).read_to_string(&mut text).is_err() {
        return Err(BadPidFile);
    }
    match text.trim() {
        "" => Ok(None),
        number => number
            .parse()
            .ok()
            .filter(|&pid| pid > 0)
            .map(|pid| Some(Pid(pid)))
            .ok_or(BadPidFile),
    }
}

fn write_pid(mut file: &File) -> io::Result<()> {
    let text = process::own_pid().to_string();
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

/// Whether the process is alive and may be a distributex. If /proc does not show its command line,
/// it may be.
fn is_running(pid: Pid) -> bool {
    if pid == process::own_pid() || !process::exists(pid) {
        return false;
    }
    match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(line) => is_distributex(&line),
        Err(_) => process::exists(pid),
    }
}

/// Whether a word of a command line is the program's name: alone, at the end of a path, or after
/// `--program=`. The names of its server and of its config file do not count.
fn is_distributex(line: &[u8]) -> bool {
    line.split(|byte| b"\0/=".contains(byte))
        .any(|name| name == PROGRAM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributex_is_recognised_by_its_command_line() {
        for (line, expected) in [
            ("distributex\0-H\0dx\0", true),
            ("/usr/bin/python\0/usr/local/bin/distributex\0-r\0a\0", true),
            ("zk-flock\0--program=distributex\0", true),
            ("/usr/sbin/distributexd\0-c\0/etc/distributex.yaml\0", false),
            ("/usr/bin/vim\0distributex.py\0", false),
            ("", false),
        ] {
            assert_eq!(is_distributex(line.as_bytes()), expected, "{line:?}");
        }
    }
}

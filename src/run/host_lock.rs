//! The lock that keeps a second distributex off this host: a file that the Python original makes
//! too, with a pid in it, and, because a pid proves little and is not there at once, held by
//! flock(2) as well. Here the file goes with the lock, as there.

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

/// Who may read whose run it is: everybody, as with the original's file.
const MODE: u32 = 0o644;

/// How often a file that was removed while we took it is tried anew. Each time another run has come
/// to its end.
const TRIES: usize = 100;

/// Longest text that is read for a pid: more than a pid has, so that what is longer is none.
const LONGEST_PID: u64 = 32;

/// What a process says of itself that can have made the file.
const PROGRAM: &[u8] = b"distributex";

/// The lock, held until it is dropped.
#[derive(Debug)]
pub(super) struct HostLock {
    path: PathBuf,
    file: File,
}

/// Why it cannot be taken.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Another run has it: that of this process, if the file says so. `flock`: not only by its pid.
    Taken {
        pid: Option<Pid>,
        flock: bool,
        path: PathBuf,
    },
    /// The file is none of the kind.
    Broken(PathBuf),
    /// A system call failed.
    System { path: PathBuf, error: io::Error },
}

impl Refusal {
    /// What it means for the run.
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
    /// Takes it, at once or not at all. Also tells which dead process has left the file behind, if
    /// one has.
    pub(super) fn take(path: &Path) -> Result<(HostLock, Option<Pid>), Refusal> {
        let system = |error| Refusal::System {
            path: path.into(),
            error,
        };
        let mut stale = None;
        for _ in 0..TRIES {
            let file = file::open_lock_file(path, MODE).map_err(system)?;
            let ours = file::lock(&file, LockMode::NonBlocking).map_err(system)?;
            if ours && file::in_place(&file, path).is_none() {
                continue;
            }
            // Locked, the file may still be that of a Python program, which knows nothing of flock.
            let owner = owner(&file).map_err(|NoOwner| Refusal::Broken(path.into()))?;
            if !ours || owner.is_some_and(is_running) {
                return Err(Refusal::Taken {
                    pid: owner,
                    flock: !ours,
                    path: path.into(),
                });
            }
            stale = stale.or(owner);
            // The file of a Python program has no mark, and a cleaner may remove it. If it cannot
            // be replaced (another user made it), it has to do.
            if !file.metadata().is_ok_and(|found| file::is_marked(&found))
                && fs::remove_file(path).is_ok()
            {
                continue;
            }
            sign(&file).map_err(system)?;
            return Ok((
                HostLock {
                    path: path.into(),
                    file,
                },
                stale,
            ));
        }
        Err(system(io::Error::other(
            "others make and remove it all the time",
        )))
    }

    /// The descriptor that the lock lasts as long as.
    pub(super) fn held(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Leaves the file where it is, and the lock to the guard: what we were to keep apart is not
    /// over.
    pub(super) fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for HostLock {
    /// The file goes first and the lock second, so that nobody can have locked what is removed. One
    /// that another user made may have to stay: soon the pid in it is nobody's.
    fn drop(&mut self) {
        if file::in_place(&self.file, &self.path).is_some() {
            let _ = fs::remove_file(&self.path);
        }
        let _ = file::unlock(&self.file); // the guard, which shares it, may not have left yet
    }
}

/// What a file holds is not the number of a process.
struct NoOwner;

/// The process that a file names. `None` if it is empty: its maker has not come to writing, or
/// never will. A file with another link names none: another user may have put it there so that a
/// pid is written into the other.
fn owner(file: &File) -> Result<Option<Pid>, NoOwner> {
    let mut text = String::new();
    let is_plain = file
        .metadata()
        .is_ok_and(|found| found.is_file() && found.nlink() <= 1);
    if !is_plain || file.take(LONGEST_PID).read_to_string(&mut text).is_err() {
        return Err(NoOwner);
    }
    match text.trim() {
        "" => Ok(None),
        number => number
            .parse()
            .ok()
            .filter(|&pid| pid > 0)
            .map(|pid| Some(Pid(pid)))
            .ok_or(NoOwner),
    }
}

fn sign(mut file: &File) -> io::Result<()> {
    let text = process::own_pid().to_string();
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

/// Whether the process is alive and may be one that makes such files. Where /proc does not show it,
/// being there is enough.
fn is_running(pid: Pid) -> bool {
    if pid == process::own_pid() || !process::exists(pid) {
        return false;
    }
    match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(line) => is_ours(&line),
        Err(_) => process::exists(pid),
    }
}

/// Whether a word of a command line names the program: alone, by a path, or after `--program=`. Its
/// server and its config are others.
fn is_ours(line: &[u8]) -> bool {
    line.split(|byte| b"\0/=".contains(byte))
        .any(|name| name == PROGRAM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ours_by_a_word_of_its_own() {
        for (line, ours) in [
            ("distributex\0-H\0dx\0", true),
            ("/usr/bin/python\0/usr/local/bin/distributex\0-r\0a\0", true),
            ("zk-flock\0--program=distributex\0", true),
            ("/usr/sbin/distributexd\0-c\0/etc/distributex.yaml\0", false),
            ("/usr/bin/vim\0distributex.py\0", false),
            ("", false),
        ] {
            assert_eq!(is_ours(line.as_bytes()), ours, "{line:?}");
        }
    }
}

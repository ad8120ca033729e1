//! Reads the file locks of this host from /proc: their holders and waiters. It opens files only to
//! read, makes none, and locks none.

use super::files::token_of_the_holder;
use super::lock_folder::LockFolder;
use crate::lock::Failure;
use crate::reason::reason;
use crate::status::local::{self, FileId, FileLock};
use crate::status::{Holder, Kind, Lock, Report, Waiter};
use crate::sys::clock;
use crate::sys::process::Pid;
use crate::sys::tree::{self, Process};
use crate::sys::{file, host};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The kernel's ticks in a second, in /proc, on every architecture of the packages (`USER_HZ`).
const TICKS: u64 = 100;

/// The name of the helper that waits for a file instead of zk-flock, its parent.
const HELPER: &str = "lock-waiter";

/// A process may have been started in the same tick in which it wrote its token.
const TICK_MS: i64 = 10;

/// The locks in a folder; without names, all of them.
pub(super) fn read(folder: &LockFolder, names: Option<&[String]>) -> Result<Report, Failure> {
    let names = match names {
        Some(names) => names.to_vec(),
        None => files_in(&folder.path(""))?,
    };
    let mut survey = Survey::new();
    let locks = names
        .iter()
        .map(|name| survey.lock(name, &folder.path(name)));
    let locks = locks.collect::<Result<_, _>>()?;
    Ok(Report {
        locks,
        warnings: survey.warnings,
    })
}

/// The names of the regular files in a folder, sorted. A folder that does not exist has none.
fn files_in(folder: &Path) -> Result<Vec<String>, Failure> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot_read(folder, &error)),
    };
    let mut names: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}

struct Survey {
    /// `None`: /proc/locks cannot be read.
    locks: Option<Vec<FileLock>>,
    mounts: String,
    host: String,
    /// When the host booted, in ms of real time.
    booted: i64,
    warnings: Vec<String>,
}

impl Survey {
    fn new() -> Survey {
        let locks = fs::read_to_string("/proc/locks");
        let warning = locks.as_ref().err().map(|error| {
            format!(
                "cannot read /proc/locks: {}: the holders are not known",
                reason(error)
            )
        });
        let uptime = i64::try_from(clock::since_boot().as_millis()).unwrap_or(i64::MAX);
        Survey {
            locks: locks.ok().map(|text| local::parse(&text)),
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
            host: host::name(),
            booted: clock::unix_ms().saturating_sub(uptime),
            warnings: warning.into_iter().collect(),
        }
    }

    fn lock(&mut self, name: &str, path: &Path) -> Result<Lock, Failure> {
        let free = Lock {
            name: name.into(),
            path: path.display().to_string(),
            kind: Some(Kind::File),
            slots: Some(1),
            holders: self.locks.as_ref().map(|_| Vec::new()),
            waiters: Vec::new(),
        };
        let file = match file::open_nofollow(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Lock {
                    holders: Some(Vec::new()),
                    ..free
                });
            }
            Err(error) => return Err(cannot_read(path, &error)),
        };
        let ids = self.ids(&file).map_err(|error| cannot_read(path, &error))?;
        let Some(locks) = &self.locks else {
            return Ok(free);
        };
        let of_this_file = locks.iter().filter(|lock| ids.contains(&lock.file));
        let (waiting, holding): (Vec<_>, Vec<_>) = of_this_file.partition(|lock| lock.waits);
        Ok(Lock {
            holders: Some(
                holding
                    .iter()
                    .map(|lock| self.holder(lock, &file))
                    .collect(),
            ),
            waiters: self.waiters(&waiting),
            ..free
        })
    }

    /// How the kernel may list this file: by the device of stat(2), or by that of the mount.
    fn ids(&self, file: &File) -> io::Result<Vec<FileId>> {
        let found = file.metadata()?;
        let (device, inode) = (found.dev(), found.ino());
        let fdinfo = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()));
        let of_mount = local::device(&fdinfo.unwrap_or_default(), &self.mounts);
        let devices = [Some((libc::major(device), libc::minor(device))), of_mount];
        let ids = devices.into_iter().flatten();
        Ok(ids
            .map(|(major, minor)| FileId {
                major,
                minor,
                inode,
            })
            .collect())
    }

    fn holder(&self, lock: &FileLock, file: &File) -> Holder {
        let process = holding_process(lock, file);
        let written = process.and_then(|process| self.written_by(&process, file));
        Holder {
            host: Some(self.host.clone()),
            pid: process.map(|process| process.pid.0.unsigned_abs()),
            since: written,
            token: written
                .and_then(|_| token_of_the_holder(file))
                .filter(|&token| token > 0),
            session: None,
            expires: None,
            node: None,
        }
    }

    /// When the token in the file was written, if this process can have done that. Otherwise
    /// another program locked the file, and the token is an earlier holder's.
    fn written_by(&self, process: &Process, file: &File) -> Option<i64> {
        let modified = file.metadata().ok()?.modified().ok()?;
        let modified = modified.duration_since(UNIX_EPOCH).ok()?.as_millis();
        let modified = i64::try_from(modified).ok()?;
        (self.started(process) <= modified + TICK_MS).then_some(modified)
    }

    /// When a process was started, in ms of real time.
    fn started(&self, process: &Process) -> i64 {
        let ms = process.started.saturating_mul(1000 / TICKS);
        self.booted.saturating_add_unsigned(ms)
    }

    fn waiters(&self, waiting: &[FileLock]) -> Vec<Waiter> {
        let waiters = waiting.iter().enumerate();
        waiters
            .map(|(ahead, lock)| {
                let process = lock.pid.and_then(find);
                let is_helper = process.is_some_and(|it| tree::name(it.pid) == HELPER);
                let pid = process.map(|it| if is_helper { it.parent } else { it.pid });
                Waiter {
                    host: Some(self.host.clone()),
                    pid: pid.map(|pid| pid.0.unsigned_abs()),
                    since: process.map(|process| self.started(&process)),
                    session: None,
                    position: ahead + 1,
                }
            })
            .collect()
    }
}

/// The process that holds a lock. The one that called flock(2) may have been a helper, which has
/// ended: then it is the oldest process with a descriptor that holds the lock, because zk-flock is
/// older than its guard. Only processes of this user can be looked at, or all by root.
fn holding_process(lock: &FileLock, file: &File) -> Option<Process> {
    let found = file.metadata().ok()?;
    let holds = |process: &Process| descriptors(process.pid, (found.dev(), found.ino()));
    let named = lock.pid.and_then(find);
    named.filter(holds).or_else(|| {
        let mut holders: Vec<_> = tree::all().ok()?.into_iter().filter(holds).collect();
        holders.sort_by_key(|process| (process.started, process.pid));
        holders.first().copied().or(named)
    })
}

fn find(pid: u32) -> Option<Process> {
    tree::find(Pid(i32::try_from(pid).ok()?))
}

/// Whether a process has a descriptor of this file that holds a lock.
fn descriptors(pid: Pid, file: (u64, u64)) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    entries.filter_map(Result::ok).any(|entry| {
        let is_this =
            fs::metadata(entry.path()).is_ok_and(|found| (found.dev(), found.ino()) == file);
        let number = entry.file_name();
        let fdinfo: PathBuf = format!("/proc/{pid}/fdinfo/{}", number.display()).into();
        is_this && fs::read_to_string(fdinfo).is_ok_and(|text| local::holds(&text))
    })
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::System(format!("cannot read {}: {}", path.display(), reason(error)))
}

//! Reads the file locks of this host from /proc: their holders and waiters. It opens files only to
//! read, makes none, and locks none.

use super::files::{record_in, token_of_the_holder};
use super::lock_folder::LockFolder;
use crate::lock::Failure;
use crate::lock::file::record::FileRecord;
use crate::reason::reason;
use crate::status::local::{self, FileId, FileLock};
use crate::status::{Holder, Kind, LastRun, Lock, Report, Waiter};
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

/// How the name of zk-flock as a process begins.
const PROGRAM: &str = "zk-flock";

/// The process namespace of the host (`PROC_PID_INIT_INO` of the kernel). Only there are all locks
/// listed: elsewhere the kernel omits those whose process has ended or is in another namespace.
const INITIAL_NAMESPACE: &str = "pid:[4026531836]";

/// The warning where not all locks are listed.
const OUTSIDE: &str = "this is a container or another process namespace, where the kernel does not \
                       show the locks of processes outside it: a lock that no process in it holds \
                       may be held outside";

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
        .map(|name| survey.lock(name, &folder.path(name)))
        .collect();
    Ok(Report {
        locks,
        warnings: survey.warnings,
    })
}

/// The processes that can be seen to hold the lock of a file.
pub(super) struct Seen {
    /// The oldest first.
    pub(super) processes: Vec<Process>,
    /// The descriptors of every process could be read.
    pub(super) is_complete: bool,
}

/// The processes that hold the lock of a file, each seen with a descriptor that holds it.
pub(super) fn seen_holding(path: &Path) -> Result<Seen, Failure> {
    file::open_as_path(path)
        .and_then(|file| processes_with(identity(&file)?))
        .map_err(|error| cannot_read(path, &error))
}

/// Whether a process is a zk-flock, by its name: that of its file, as in `zk-flock-x86_64`.
pub(super) fn is_zk_flock(pid: Pid) -> bool {
    tree::name(pid).starts_with(PROGRAM)
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

/// The last run with `--every`, if the file can be read and has a record.
fn last_run(path: &Path) -> Option<LastRun> {
    let file = file::open_nofollow(path).ok()?;
    let record = FileRecord::parse(&record_in(&file).ok()??)?;
    Some(LastRun {
        host: Some(record.run.host),
        pid: Some(record.run.pid),
        token: Some(record.run.token),
        started: Some(record.started),
        ended: record.ended,
        exit: record.run.exit,
    })
}

/// What was found of a lock. The default: it is not known whether it is held.
#[derive(Default)]
struct Found {
    /// Readers hold it.
    shared: bool,
    holders: Option<Vec<Holder>>,
    waiters: Vec<Waiter>,
}

struct Survey {
    /// `None`: /proc/locks cannot be read.
    locks: Option<Vec<FileLock>>,
    /// All locks of the host are in that list.
    lists_all: bool,
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
            lists_all: fs::read_link("/proc/self/ns/pid")
                .is_ok_and(|link| link.as_os_str() == INITIAL_NAMESPACE),
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
            host: host::name(),
            booted: clock::unix_ms().saturating_sub(uptime),
            warnings: warning.into_iter().collect(),
        }
    }

    /// What is known of a lock. A file that tells nothing does not hide the other locks.
    fn lock(&mut self, name: &str, path: &Path) -> Lock {
        let unknown = Lock {
            name: name.into(),
            path: path.display().to_string(),
            kind: Some(Kind::File),
            slots: Some(1),
            holders: None,
            waiters: Vec::new(),
            last_run: None,
        };
        match self.found(path) {
            Ok(found) => Lock {
                kind: Some(if found.shared {
                    Kind::SharedFile
                } else {
                    Kind::File
                }),
                slots: (!found.shared).then_some(1),
                holders: found.holders,
                waiters: found.waiters,
                last_run: last_run(path),
                ..unknown
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Lock {
                holders: Some(Vec::new()),
                ..unknown
            },
            Err(error) => {
                let (path, reason) = (path.display(), reason(&error));
                let why = format!("cannot read {path}: {reason}: its holder is not known");
                self.warnings.push(why);
                unknown
            }
        }
    }

    /// The holders of a file, if they are known, and its waiters.
    fn found(&mut self, path: &Path) -> io::Result<Found> {
        let file = file::open_as_path(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let ids = self.ids(&file)?;
        let Some(locks) = &self.locks else {
            return Ok(Found::default());
        };
        let of_this_file = locks.iter().filter(|lock| ids.contains(&lock.file));
        let (waiting, holding): (Vec<_>, Vec<_>) = of_this_file.partition(|lock| lock.waits);
        let identity = identity(&file)?;
        if holding.iter().any(|lock: &FileLock| lock.shared) {
            return self.held_by_readers(&holding, self.waiters(&waiting), identity);
        }
        let processes = if holding.is_empty() && !self.lists_all {
            let seen = processes_with(identity)?.processes;
            seen.first().map(|&process| vec![Some(process)])
        } else {
            let holding = holding.iter();
            Some(
                holding
                    .map(|lock| holding_process(lock, identity))
                    .collect(),
            )
        };
        let waiters = self.waiters(&waiting);
        let Some(processes) = processes else {
            self.warn_once(OUTSIDE);
            return Ok(Found {
                waiters,
                ..Found::default()
            });
        };
        // Another user's file may be unreadable. Its holder is known nevertheless.
        let content = file::open_nofollow(path).ok();
        let content = content.filter(|it| self::identity(it).is_ok_and(|it| it == identity));
        let holders = processes.into_iter();
        let holders = holders.map(|process| self.holder(process, content.as_ref()));
        Ok(Found {
            shared: false,
            holders: Some(holders.collect()),
            waiters,
        })
    }

    /// What is known if readers hold the file. Its token is that of the last one that came, which
    /// may have left, and the file was not changed by the others: so tokens and times are not known.
    fn held_by_readers(
        &self,
        holding: &[FileLock],
        waiters: Vec<Waiter>,
        file: (u64, u64),
    ) -> io::Result<Found> {
        let named = holding.iter().map(|lock| {
            let process = lock.pid.and_then(find);
            process.filter(|it| look_at(it.pid, file) != Look::HoldsNot)
        });
        let seen = roots(&processes_with(file)?.processes);
        let holders = readers(named.collect(), seen, self.lists_all);
        let holders = holders.into_iter().map(|it| self.holder(it, None));
        Ok(Found {
            shared: true,
            holders: Some(holders.collect()),
            waiters,
        })
    }

    fn warn_once(&mut self, warning: &str) {
        if !self.warnings.iter().any(|it| it == warning) {
            self.warnings.push(warning.into());
        }
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

    fn holder(&self, process: Option<Process>, file: Option<&File>) -> Holder {
        let written = process
            .zip(file)
            .and_then(|(process, file)| self.written_by(&process, file));
        // A step of the clock of the host can hide that a zk-flock has written the token.
        let has_token = written.is_some() || process.is_some_and(|it| is_zk_flock(it.pid));
        Holder {
            host: Some(self.host.clone()),
            pid: process.map(|process| process.pid.0.unsigned_abs()),
            since: written,
            token: file
                .filter(|_| has_token)
                .and_then(token_of_the_holder)
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
/// older than its guard. Only processes of this user can be looked at, or all by root: of any other
/// the kernel's word is taken. Its process id may be another process's by now.
fn holding_process(lock: &FileLock, file: (u64, u64)) -> Option<Process> {
    let named = lock.pid.and_then(find);
    let shown = named.map(|process| look_at(process.pid, file));
    if shown == Some(Look::Holds) {
        return named;
    }
    let seen = processes_with(file).ok().map(|seen| seen.processes);
    let oldest = seen.and_then(|seen| seen.first().copied());
    oldest.or(named.filter(|_| shown == Some(Look::Unreadable)))
}

/// The processes that hold the shared lock of a file, one for each lock that the kernel lists.
/// `named`: those that called flock(2), unless that was a helper, which has ended. The others are
/// among `seen`, which have a descriptor that holds it. If the kernel does not list all locks, there
/// may be more of them.
fn readers(
    named: Vec<Option<Process>>,
    mut seen: Vec<Process>,
    lists_all: bool,
) -> Vec<Option<Process>> {
    seen.retain(|process| named.iter().flatten().all(|it| it.pid != process.pid));
    let mut others = seen.into_iter();
    let one_each = named.into_iter();
    let mut found: Vec<_> = one_each
        .map(|process| process.or_else(|| others.next()))
        .collect();
    if !lists_all {
        found.extend(others.map(Some));
    }
    found
}

/// Those of these processes whose parent is not one of them: a guard is a child of its zk-flock.
fn roots(processes: &[Process]) -> Vec<Process> {
    let has_parent = |process: &Process| processes.iter().any(|it| it.pid == process.parent);
    let roots = processes.iter().filter(|it| !has_parent(it)).copied();
    roots.collect()
}

/// All processes that can be seen to hold the lock of this file.
fn processes_with(file: (u64, u64)) -> io::Result<Seen> {
    let mut seen = Seen {
        processes: Vec::new(),
        is_complete: true,
    };
    for process in tree::all()? {
        match look_at(process.pid, file) {
            Look::Holds => seen.processes.push(process),
            Look::HoldsNot => {}
            Look::Unreadable => seen.is_complete = false,
        }
    }
    let by_age = |process: &Process| (process.started, process.pid);
    seen.processes.sort_by_key(by_age);
    Ok(seen)
}

fn find(pid: u32) -> Option<Process> {
    tree::find(Pid(i32::try_from(pid).ok()?))
}

/// Device and inode, as stat(2) shows them.
fn identity(file: &File) -> io::Result<(u64, u64)> {
    let found = file.metadata()?;
    Ok((found.dev(), found.ino()))
}

/// What the descriptors of a process say of the lock of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    /// It has a descriptor that holds the lock.
    Holds,
    /// It has none, or has ended.
    HoldsNot,
    /// This user may not read them.
    Unreadable,
}

fn look_at(pid: Pid, file: (u64, u64)) -> Look {
    let entries = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Look::Unreadable,
        Err(_) => return Look::HoldsNot,
    };
    let holds = entries.filter_map(Result::ok).any(|entry| {
        let is_this =
            fs::metadata(entry.path()).is_ok_and(|found| (found.dev(), found.ino()) == file);
        let number = entry.file_name();
        let fdinfo: PathBuf = format!("/proc/{pid}/fdinfo/{}", number.display()).into();
        is_this && fs::read_to_string(fdinfo).is_ok_and(|text| local::holds(&text))
    });
    if holds { Look::Holds } else { Look::HoldsNot }
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::System(format!("cannot read {}: {}", path.display(), reason(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::LockMode;
    use crate::sys::process;

    #[test]
    fn process_that_does_not_hold_the_file_is_not_its_holder() {
        let path = std::env::temp_dir().join(format!("zk-flock-reused-{}", std::process::id()));
        let file = file::open_lock_file(&path, 0o600).unwrap();
        let identity = identity(&file).unwrap();
        // The process with this id had locked the file, and its id was reused.
        let lock = FileLock {
            pid: Some(process::own_pid().0.unsigned_abs()),
            file: FileId {
                major: 0,
                minor: 0,
                inode: identity.1,
            },
            shared: false,
            waits: false,
        };
        assert_eq!(holding_process(&lock, identity), None);
        assert!(seen_holding(&path).unwrap().processes.is_empty());
        assert!(file::lock(&file, LockMode::NonBlocking).unwrap());
        let holder = holding_process(&lock, identity).map(|process| process.pid);
        assert_eq!(holder, Some(process::own_pid()));
        let named_another = FileLock {
            pid: Some(1),
            ..lock
        };
        let seen = holding_process(&named_another, identity).map(|process| process.pid);
        assert_eq!(seen, Some(process::own_pid()));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn each_shared_lock_has_a_process_of_its_own() {
        let process = |pid, parent| Process {
            pid: Pid(pid),
            parent: Pid(parent),
            started: 0,
            ..tree::find(process::own_pid()).unwrap()
        };
        // 10 and its guard 11, 20 and its guard 21 whose locks helpers have taken; 31, a guard alone.
        let all = vec![
            process(10, 1),
            process(11, 10),
            process(20, 1),
            process(21, 20),
            process(31, 1),
        ];
        let seen = roots(&all);
        let pids = |all: Vec<Option<Process>>| -> Vec<_> {
            all.iter()
                .map(|it| it.map(|process| process.pid.0))
                .collect()
        };
        let named = vec![None, Some(process(20, 1)), None, None];
        let found = pids(readers(named, seen.clone(), true));
        assert_eq!(found, [Some(10), Some(20), Some(31), None]);
        let in_container = pids(readers(vec![Some(process(20, 1))], seen, false));
        assert_eq!(in_container, [Some(20), Some(10), Some(31)]);
    }
}

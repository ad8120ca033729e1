//! Writes the file of `--metrics`. It is replaced whole, by a rename, so that a scrape never reads
//! half of it. The new content is first written beside it, to a file that only one run at a time has
//! and that only its user may open. So runs do not undo each other's changes, and a user who may
//! only read the folder cannot keep them from it by a lock. A run that is stopped for a second just
//! before its rename may publish what the next run has written so far; that one then writes again.

use crate::moment::Moment;
use crate::plan::{ExitReason, Plan};
use crate::reason::reason;
use crate::sys::file::{self, LockMode};
use crate::sys::{clock, host, poll};
use crate::textfile::{self, Figures, Foreign, Record};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Every user may read the file: node_exporter has a user of its own.
const MODE: u32 = 0o644;

/// Until it is complete, only its user may open it: who can open a file can lock it.
const NEW_MODE: u32 = 0o600;

/// The most bytes of a file: about a thousand locks, which a scrape reads every few seconds.
const MAX_LENGTH: u64 = 1 << 20;

/// How long to wait while other runs write the same file, one after the other. Each takes about a
/// millisecond.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait for one of them: if it was stopped, it must not keep this run from its end.
const STOPPED_AFTER: Duration = Duration::from_secs(1);

/// How often to try whether no other run writes the file.
const TURN_INTERVAL: Duration = Duration::from_millis(10);

/// Adds the run to the file. Returns what failed.
pub(super) fn record(
    path: &Path,
    plan: &Plan,
    end: ExitReason,
    figures: Option<Figures>,
) -> Result<(), String> {
    let record = Record {
        lock: plan.lock_label(),
        host: host_label(plan),
        outcome: outcome(end),
        now: clock::unix_ms(),
        figures,
    };
    update(path, &record)
        .map_err(|why| format!("cannot write the metrics file {}: {why}", path.display()))
}

fn host_label(plan: &Plan) -> String {
    plan.own_name().map_or_else(host::name, str::to_owned)
}

/// The label `outcome`.
fn outcome(end: ExitReason) -> &'static str {
    match end {
        ExitReason::Command(_) => "ran",
        ExitReason::Busy => "busy",
        ExitReason::AlreadyRun => "already_run",
        ExitReason::Unreachable => "unreachable",
        ExitReason::Refused => "refused",
        ExitReason::IncompatibleLock => "incompatible_lock",
        ExitReason::LoadTooHigh => "load_too_high",
        ExitReason::NotRunnable | ExitReason::NotFound => "not_started",
        ExitReason::Lost => "lost",
        ExitReason::Revoked => "revoked",
        ExitReason::Signalled(_) => "signalled",
        ExitReason::SystemError | ExitReason::ConfigError => "system_error",
        // The last two are not of runs.
        ExitReason::InternalError | ExitReason::Free | ExitReason::StillHeld => "internal_error",
    }
}

fn update(path: &Path, record: &Record) -> Result<(), String> {
    let shown = |error: io::Error| reason(&error);
    let temp = temp_path(path);
    let deadline = clock::now() + TURN_TIMEOUT;
    loop {
        let mut file = take_turn(&temp, deadline).map_err(|error| match error.kind() {
            ErrorKind::ResourceBusy => {
                let seconds = TURN_TIMEOUT.as_secs();
                format!("other runs have been writing it for {seconds} s")
            }
            _ => reason(&error),
        })?;
        let changed = changed(path, record).and_then(|text| {
            file.write_all(text.as_bytes()).map_err(shown)?;
            // Independent of the umask.
            file.set_permissions(Permissions::from_mode(MODE))
                .map_err(shown)
        });
        if file::in_place(&file, &temp).is_none() {
            continue; // this run was stopped, and another one did not wait longer for it
        }
        let replaced = changed.and_then(|()| fs::rename(&temp, path).map_err(shown));
        if replaced.is_err() {
            let _ = fs::remove_file(&temp); // it may fill the disk
        }
        return replaced;
    }
}

/// The new content of the file.
fn changed(path: &Path, record: &Record) -> Result<String, String> {
    textfile::updated(&read(path)?, record).map_err(|Foreign(line)| {
        format!("its line {line} is not of such a file: use a file of its own")
    })
}

/// The content; empty if there is no file.
fn read(path: &Path) -> Result<String, String> {
    let file = match file::open_nofollow(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err("it is a symbolic link: give the path of a file".into());
        }
        opened => opened.map_err(|error| reason(&error))?,
    };
    let is_file = file.metadata().is_ok_and(|found| found.is_file());
    if !is_file {
        return Err("it is not a file".into());
    }
    let mut text = Vec::new();
    let length = file
        .take(MAX_LENGTH + 1)
        .read_to_end(&mut text)
        .map_err(|error| reason(&error))?;
    if length as u64 > MAX_LENGTH {
        return Err(format!(
            "it is larger than {} MiB: remove it to begin again",
            MAX_LENGTH >> 20
        ));
    }
    // In a file of a run, all is UTF-8; a line of another program is refused by its number.
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Makes the file for the new content, which no other run has then. One that a killed run has left
/// is removed at once, and one that stays as it is for some time is too: its run was stopped, or it
/// is of another user.
fn take_turn(temp: &Path, deadline: Moment) -> io::Result<File> {
    let mut other = (None, clock::now());
    loop {
        if clock::now() >= deadline {
            return Err(ErrorKind::ResourceBusy.into());
        }
        match new_file(temp) {
            Ok(file) => match is_own(&file, temp) {
                Ok(true) => return Ok(file),
                Ok(false) => continue, // another run took it for one that was left
                Err(error) => return remove(temp).and(Err(error)),
            },
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            Err(_) => {}
        }
        let (now, state) = (clock::now(), state(temp));
        if other.0 != state {
            other = (state, now);
        }
        let left = lock_left(temp); // until it is removed
        if left.is_some() || now >= other.1 + STOPPED_AFTER {
            remove(temp)?;
        } else {
            poll::wait(&mut [], Some(TURN_INTERVAL))?;
        }
    }
}

fn new_file(temp: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(NEW_MODE)
        .open(temp)
}

/// Locks the file. Returns whether that succeeded and the path still refers to it.
fn is_own(file: &File, temp: &Path) -> io::Result<bool> {
    Ok(file::lock(file, LockMode::NonBlocking)? && file::in_place(file, temp).is_some())
}

/// Locks the file at the path if its run is gone.
fn lock_left(temp: &Path) -> Option<File> {
    let file = file::open_nofollow(temp).ok()?;
    is_own(&file, temp).ok()?.then_some(file)
}

/// Tells one file from the next at the path: a new one may get the inode of the old one.
fn state(temp: &Path) -> Option<(u64, i64, i64)> {
    let found = fs::symlink_metadata(temp).ok()?;
    Some((found.ino(), found.ctime(), found.ctime_nsec()))
}

fn remove(temp: &Path) -> io::Result<()> {
    match fs::remove_file(temp) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// `.x.prom.new` beside `x.prom`. The collector reads only names that end in `.prom`.
fn temp_path(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A folder for one test, removed with this value.
    struct TestFolder(PathBuf);

    impl TestFolder {
        fn new(name: &str) -> TestFolder {
            let name = format!("zk-flock-metrics-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            TestFolder(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("runs.prom")
        }
    }

    impl Drop for TestFolder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn busy() -> Record {
        Record {
            lock: "/app/report".into(),
            host: "web3".into(),
            outcome: "busy",
            now: 0,
            figures: None,
        }
    }

    #[test]
    fn file_is_replaced_whole_with_its_mode_and_nothing_is_left_beside_it() {
        let folder = TestFolder::new("whole");
        fs::write(folder.0.join(".runs.prom.new"), "torn by a kill").unwrap();
        for count in [1, 2] {
            update(&folder.file(), &busy()).unwrap();
            let text = fs::read_to_string(folder.file()).unwrap();
            assert!(
                text.contains(&format!("outcome=\"busy\"}} {count}\n")),
                "{text}"
            );
        }
        let mode = fs::metadata(folder.file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, MODE);
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }

    #[test]
    fn file_that_is_not_of_a_run_stays_as_it_is() {
        let folder = TestFolder::new("foreign");
        for content in ["node_x 1\n".as_bytes(), b"\xff\xfe\n"] {
            fs::write(folder.file(), content).unwrap();
            let why = "its line 1 is not of such a file: use a file of its own";
            assert_eq!(update(&folder.file(), &busy()), Err(why.into()));
            assert_eq!(fs::read(folder.file()).unwrap(), content);
            assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
        }
        let (link, target) = (folder.0.join("link.prom"), folder.file());
        symlink(target, &link).unwrap();
        let why = "it is a symbolic link: give the path of a file".to_owned();
        assert_eq!(update(&link, &busy()), Err(why));
        let missing = folder.0.join("missing/runs.prom");
        let why = "no such file or directory".to_owned();
        assert_eq!(update(&missing, &busy()), Err(why));
    }

    #[test]
    fn pipe_in_place_of_the_folder_or_the_file_is_an_error_at_once() {
        let folder = TestFolder::new("pipe");
        let pipe = folder.0.join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let why = Err("not a directory".to_owned());
        assert_eq!(update(&pipe.join("runs.prom"), &busy()), why);
        assert_eq!(update(&pipe, &busy()), Err("it is not a file".into()));
    }

    #[test]
    fn lock_on_the_folder_or_the_file_keeps_no_run_from_writing() {
        let folder = TestFolder::new("locked");
        update(&folder.file(), &busy()).unwrap();
        // As every user can do who may read them.
        let locked = [&folder.0, &folder.file()].map(|path| File::open(path).unwrap());
        for file in &locked {
            assert!(file::lock(file, LockMode::NonBlocking).unwrap());
        }
        update(&folder.file(), &busy()).unwrap();
        let text = fs::read_to_string(folder.file()).unwrap();
        assert!(text.contains("outcome=\"busy\"} 2\n"), "{text}");
    }

    #[test]
    fn other_users_cannot_open_and_lock_the_new_content() {
        let folder = TestFolder::new("private");
        let file = take_turn(&temp_path(&folder.file()), clock::now() + TURN_TIMEOUT).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, NEW_MODE);
    }

    #[test]
    fn run_that_was_stopped_while_it_wrote_delays_others_for_a_second() {
        let folder = TestFolder::new("stopped");
        let temp = temp_path(&folder.file());
        let stopped = take_turn(&temp, clock::now() + TURN_TIMEOUT).unwrap();
        assert!(lock_left(&temp).is_none(), "its run is there");
        let begin = clock::now();
        update(&folder.file(), &busy()).unwrap();
        assert!(clock::now() >= begin + STOPPED_AFTER);
        assert!(file::in_place(&stopped, &temp).is_none());
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }

    #[test]
    fn turn_that_does_not_come_is_an_error_in_time() {
        let folder = TestFolder::new("late");
        let turn = take_turn(&temp_path(&folder.file()), clock::now());
        assert_eq!(turn.unwrap_err().kind(), ErrorKind::ResourceBusy);
    }

    #[test]
    fn each_of_many_runs_at_once_is_counted() {
        let (folder, runs) = (TestFolder::new("crowd"), 16);
        std::thread::scope(|scope| {
            for _ in 0..runs {
                scope.spawn(|| {
                    while let Err(why) = update(&folder.file(), &busy()) {
                        assert!(why.starts_with("other runs have been writing"), "{why}");
                    }
                });
            }
        });
        let text = fs::read_to_string(folder.file()).unwrap();
        let count = format!("outcome=\"busy\"}} {runs}\n");
        assert!(text.contains(&count), "{text}");
    }

    #[test]
    fn outcomes_are_label_values() {
        for end in [
            ExitReason::Busy,
            ExitReason::Lost,
            ExitReason::Signalled(crate::signal::Signal::TERM),
        ] {
            let outcome = outcome(end);
            assert!(
                outcome.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                "{outcome}"
            );
        }
    }
}

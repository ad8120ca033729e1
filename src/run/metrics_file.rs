//! Writes the file of `--metrics`. It is replaced whole, by a rename, so that a scrape never reads
//! half of it. The lock of its folder keeps runs from undoing each other's changes.

use crate::plan::{ExitReason, Plan};
use crate::reason::reason;
use crate::sys::file::{self, LockMode};
use crate::sys::{clock, host, poll};
use crate::textfile::{self, Figures, Foreign, Record};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Every user may read the file: node_exporter has a user of its own.
const MODE: u32 = 0o644;

/// The most bytes of a file: about a thousand locks, which a scrape reads every few seconds.
const MAX_LENGTH: u64 = 1 << 20;

/// How long to wait for other runs that write in the same folder. Each takes about a millisecond; a
/// process that was stopped meanwhile must not keep the run from its end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often to try to lock the folder.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

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
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let shown = |error: io::Error| reason(&error);
    let lock = file::open_folder(folder).map_err(shown)?;
    if !lock_in_time(&lock).map_err(shown)? {
        let seconds = LOCK_TIMEOUT.as_secs();
        return Err(format!(
            "another process has locked its folder for {seconds} s"
        ));
    }
    let old = read(path)?;
    let new = textfile::updated(&old, record).map_err(|Foreign(line)| {
        format!("its line {line} is not of such a file: use a file of its own")
    })?;
    replace(path, &new).map_err(shown)
}

/// Locks the folder; false if another process holds the lock.
fn lock_in_time(folder: &File) -> io::Result<bool> {
    let deadline = clock::now() + LOCK_TIMEOUT;
    while !file::lock(folder, LockMode::NonBlocking)? {
        if clock::now() >= deadline {
            return Ok(false);
        }
        poll::wait(&mut [], Some(LOCK_INTERVAL))?;
    }
    Ok(true)
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

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let temp = temp_path(path);
    let written = file::create_draft(&temp, MODE)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&temp, path));
    if written.is_err() {
        let _ = fs::remove_file(&temp); // it may fill the disk
    }
    written
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
    use std::os::unix::fs::{PermissionsExt, symlink};

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
    fn folder_that_stays_locked_is_an_error_in_time() {
        let folder = TestFolder::new("locked");
        let other = File::open(&folder.0).unwrap();
        assert!(file::lock(&other, LockMode::NonBlocking).unwrap());
        let error = update(&folder.file(), &busy()).unwrap_err();
        assert!(error.contains("locked its folder"), "{error}");
        file::unlock(&other).unwrap();
        update(&folder.file(), &busy()).unwrap();
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

//! The state file, in which the holders outlive the server. Each save writes a temporary file and
//! renames it, so that the state file is always complete. A lock file lets one server at a time use
//! it.

use crate::plan::ExitReason;
use crate::pool::state::{self, Clocks, State};
use crate::reason::reason;
use crate::sys::clock;
use crate::sys::file::{self, LockMode};
use std::cell::RefCell;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The most bytes of a state file, written or read: a million holders.
const MAX_LENGTH: u64 = 256 << 20;

/// Only the server's user may read or write the file: a user who can write it can grant locks.
const MODE: u32 = 0o600;

/// The bit of a folder's mode that lets each user put files there. In other folders a state can
/// belong to another user than the server's: on a network file system, or after its user has changed.
const WRITABLE_BY_ALL: u32 = 0o002;

/// An open state file. It stays locked until this is dropped.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    temp_path: PathBuf,
    dir: File,
    lock: RefCell<File>,
}

/// Why the state file cannot be used.
#[derive(Debug)]
pub(super) enum Error {
    /// A system call failed on this file.
    System {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Another server uses it.
    InUse(PathBuf),
    /// It is not a regular file.
    NotFile(PathBuf),
    /// It is longer than `MAX_LENGTH`.
    TooLong(PathBuf),
    /// This other user owns it, and its folder lets all users put files there.
    Planted(PathBuf, u32),
    /// It is not a valid state.
    Invalid(state::Error),
}

impl StateFile {
    /// Locks the file and reads it. A missing file is a state without holders.
    pub(super) fn open(path: &Path) -> Result<(StateFile, State), Error> {
        let lock = take_lock(path)?;
        let dir_path = path.parent().unwrap_or(path);
        let dir = File::open(dir_path).map_err(system("open", dir_path))?;
        let state = match read(path)? {
            Some(text) => State::parse(&text, path, &clocks()).map_err(Error::Invalid)?,
            None => State::default(),
        };
        Ok((
            StateFile {
                path: path.to_owned(),
                temp_path: sibling(path, "new"),
                dir,
                lock: lock.into(),
            },
            state,
        ))
    }

    /// Whether a server could start with this file, apart from another server's lock. It changes no
    /// file.
    pub(super) fn check(path: &Path) -> Result<(), Error> {
        let dir = path.parent().unwrap_or(path);
        file::check_writable_folder(dir).map_err(system("write in", dir))?;
        File::open(dir).map_err(system("open", dir))?;
        let temp_path = sibling(path, "new");
        if temp_path.is_dir() {
            let error = io::Error::from(ErrorKind::IsADirectory);
            return Err(system("replace", &temp_path)(error));
        }
        let lock = sibling(path, "lock");
        match file::open_existing_lock_file(&lock) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(system("open", &lock)(error));
            }
            _ => {}
        }
        match read(path)? {
            Some(text) => State::parse(&text, path, &clocks())
                .map(drop)
                .map_err(Error::Invalid),
            None => Ok(()),
        }
    }

    /// Replaces the saved state, completely or not at all. When this returns `Ok`, the new state
    /// survives a power cut; after an error the file has the old or the new state.
    pub(super) fn save(&self, state: &State) -> Result<(), String> {
        let text = state.text(&clocks());
        check_length(text.len() as u64, &self.path)
            .and_then(|()| self.keep_lock())
            .map_err(|error| error.to_string())?;
        let saved = self
            .write(&text)
            .and_then(|()| fs::rename(&self.temp_path, &self.path))
            .and_then(|()| self.sync_dir());
        if saved.is_err() {
            let _ = fs::remove_file(&self.temp_path); // it may fill the disk
        }
        saved.map_err(|error| format!("{}: {}", self.path.display(), reason(&error)))
    }

    /// Takes the lock again if its file was removed or replaced: it would not exclude another server.
    fn keep_lock(&self) -> Result<(), Error> {
        let lock = &mut *self.lock.borrow_mut();
        if file::in_place(lock, &sibling(&self.path, "lock")).is_none() {
            *lock = take_lock(&self.path)?;
        }
        Ok(())
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut file = file::create_draft(&self.temp_path, MODE)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    /// Makes the rename survive a power cut, if the file system can sync a directory.
    fn sync_dir(&self) -> io::Result<()> {
        match self.dir.sync_all() {
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        }
    }
}

impl Error {
    /// The result of the program after this error.
    pub(super) fn end(&self) -> ExitReason {
        match self {
            Error::System { .. } => ExitReason::SystemError,
            Error::InUse(_) => ExitReason::Busy,
            Error::NotFile(_) | Error::TooLong(_) | Error::Planted(..) | Error::Invalid(_) => {
                ExitReason::IncompatibleLock
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::System { what, path, source } => {
                write!(f, "cannot {what} {}: {}", path.display(), reason(source))
            }
            Error::InUse(path) => write!(f, "another server keeps its state in {}", path.display()),
            Error::NotFile(path) => write!(f, "{} is not a file", path.display()),
            Error::TooLong(path) => write!(
                f,
                "{} is larger than a state can be, {} MiB",
                path.display(),
                MAX_LENGTH >> 20
            ),
            Error::Planted(path, owner) => write!(
                f,
                "{} belongs to user {owner}, who can have put it there, as all users may write in \
                 its folder (use a folder of the server's user)",
                path.display()
            ),
            Error::Invalid(error) => error.fmt(f),
        }
    }
}

/// Keeps other servers off the state file, until the lock file is closed.
fn take_lock(path: &Path) -> Result<File, Error> {
    let lock_path = sibling(path, "lock");
    let lock = file::open_lock_file(&lock_path, MODE).map_err(system("open", &lock_path))?;
    if file::lock(&lock, LockMode::NonBlocking).map_err(system("lock", &lock_path))? {
        Ok(lock)
    } else {
        Err(Error::InUse(path.to_owned()))
    }
}

/// The bytes of a file; `None` if it does not exist.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let file = match file::open_nofollow(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(system("open", path))?,
    };
    let metadata = file.metadata().map_err(system("look at", path))?;
    if !metadata.is_file() {
        return Err(Error::NotFile(path.to_owned()));
    }
    if ![0, file::effective_uid()].contains(&metadata.uid()) {
        let dir = path.parent().unwrap_or(path);
        let mode = fs::metadata(dir).map_err(system("look at", dir))?.mode();
        if mode & WRITABLE_BY_ALL != 0 {
            return Err(Error::Planted(path.to_owned(), metadata.uid()));
        }
    }
    let mut text = Vec::new();
    let length = file
        .take(MAX_LENGTH + 1)
        .read_to_end(&mut text)
        .map_err(system("read", path))?;
    check_length(length as u64, path).map(|()| Some(text))
}

/// Refuses to write what could not be read, and the other way round.
fn check_length(length: u64, path: &Path) -> Result<(), Error> {
    if length > MAX_LENGTH {
        Err(Error::TooLong(path.to_owned()))
    } else {
        Ok(())
    }
}

/// `state.json.lock` in the directory of `state.json`.
fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

fn system(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::System { what, path, source }
}

/// The clocks of this host.
pub(super) fn clocks() -> Clocks {
    Clocks {
        boot: clock::boot_id(),
        date: clock::unix_ms(),
        uptime: i64::try_from(clock::since_boot().as_millis()).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moment::Moment;
    use crate::pool::state::SavedHolding;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    /// A directory for one test, removed with this value.
    struct TestDir(PathBuf);

    impl TestDir {
        fn new(name: &str) -> TestDir {
            let path =
                std::env::temp_dir().join(format!("zk-flock-state-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            TestDir(path)
        }

        fn state(&self) -> PathBuf {
            self.0.join("state.json")
        }
    }

    impl Drop for TestDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn state(token: i64) -> State {
        let since = Moment(clock::since_boot()).into();
        let (pool, host) = ("p".into(), "h".into());
        let held = SavedHolding {
            pool,
            host,
            token,
            since,
            expires: Moment::NEVER,
            run: None,
            lease: None,
            revoked: false,
        };
        State {
            last_token: token,
            holders: vec![held],
        }
    }

    fn open_error(path: &Path) -> (ExitReason, String) {
        let error = StateFile::open(path).unwrap_err();
        (error.end(), error.to_string())
    }

    #[test]
    fn saved_state_is_read_by_the_next_server_and_is_private_to_its_user() {
        let dir = TestDir::new("saved");
        let (file, empty) = StateFile::open(&dir.state()).unwrap();
        assert_eq!(empty, State::default());
        fs::write(dir.0.join("state.json.new"), "torn by a kill").unwrap();
        for token in [5, 6] {
            file.save(&state(token)).unwrap();
        }
        drop(file);
        let (_file, found) = StateFile::open(&dir.state()).unwrap();
        assert_eq!((found.last_token, found.holders[0].token), (6, 6));
        assert_eq!(
            fs::metadata(dir.state()).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let names: Vec<_> = fs::read_dir(&dir.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn state_that_another_user_can_have_planted_is_refused() {
        if file::effective_uid() != 0 {
            return; // only root can give a file away
        }
        let dir = TestDir::new("planted");
        let (file, _) = StateFile::open(&dir.state()).unwrap();
        file.save(&state(5)).unwrap();
        drop(file);
        chown(dir.state(), Some(12_345), None).unwrap();
        StateFile::open(&dir.state()).unwrap();
        let mode = |mode| fs::set_permissions(&dir.0, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o1777);
        let (end, why) = open_error(&dir.state());
        assert_eq!(end, ExitReason::IncompatibleLock);
        assert!(why.contains(" belongs to user 12345, "), "{why}");
        chown(dir.state(), Some(0), None).unwrap();
        StateFile::open(&dir.state()).unwrap();
    }

    #[test]
    fn second_server_cannot_open_a_state_file_that_is_in_use() {
        let dir = TestDir::new("taken");
        let (file, _) = StateFile::open(&dir.state()).unwrap();
        assert_eq!(
            open_error(&dir.state()),
            (
                ExitReason::Busy,
                format!(
                    "another server keeps its state in {}",
                    dir.state().display()
                )
            )
        );
        drop(file);
        StateFile::open(&dir.state()).unwrap();
    }

    #[test]
    fn server_whose_lock_file_was_removed_saves_only_if_it_is_still_alone() {
        let dir = TestDir::new("unlocked");
        let (file, _) = StateFile::open(&dir.state()).unwrap();
        let lock = dir.0.join("state.json.lock");
        fs::remove_file(&lock).unwrap();
        file.save(&state(5)).unwrap();
        assert_eq!(open_error(&dir.state()).0, ExitReason::Busy);
        fs::remove_file(&lock).unwrap();
        let (second, _) = StateFile::open(&dir.state()).unwrap();
        let why = file.save(&state(6)).unwrap_err();
        assert!(
            why.starts_with("another server keeps its state in "),
            "{why}"
        );
        drop(second);
        file.save(&state(7)).unwrap();
        drop(file);
        assert_eq!(StateFile::open(&dir.state()).unwrap().1.last_token, 7);
    }

    #[test]
    fn check_finds_what_would_stop_a_start_and_changes_no_file() {
        let dir = TestDir::new("check");
        let checked =
            |path: &Path| StateFile::check(path).map_err(|error| (error.end(), error.to_string()));
        assert_eq!(checked(&dir.state()), Ok(()));
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
        let (_file, _) = StateFile::open(&dir.state()).unwrap();
        assert_eq!(checked(&dir.state()), Ok(()), "while a server has it");
        let missing = dir.0.join("missing/state.json");
        let why = format!(
            "cannot write in {}: no such file or directory",
            dir.0.join("missing").display()
        );
        assert_eq!(checked(&missing), Err((ExitReason::SystemError, why)));
        let temp = dir.0.join("state.json.new");
        fs::create_dir(&temp).unwrap();
        let why = format!("cannot replace {}: is a directory", temp.display());
        assert_eq!(checked(&dir.state()), Err((ExitReason::SystemError, why)));
        fs::remove_dir(&temp).unwrap();
        fs::write(dir.state(), "{").unwrap();
        assert_eq!(
            checked(&dir.state()).unwrap_err().0,
            ExitReason::IncompatibleLock
        );
        let below = dir.state().join("state.json");
        let why = format!("cannot write in {}: not a directory", dir.state().display());
        assert_eq!(checked(&below), Err((ExitReason::SystemError, why)));
    }

    #[test]
    fn invalid_or_too_long_state_is_refused_and_left_unchanged() {
        let dir = TestDir::new("unfit");
        for text in ["", "{", "[]"] {
            fs::write(dir.state(), text).unwrap();
            let (end, why) = open_error(&dir.state());
            assert!(
                end == ExitReason::IncompatibleLock
                    && why.starts_with(&dir.state().display().to_string()),
                "{why}"
            );
            assert_eq!(fs::read_to_string(dir.state()).unwrap(), text);
        }
        File::create(dir.state())
            .unwrap()
            .set_len(MAX_LENGTH + 1)
            .unwrap();
        assert!(
            open_error(&dir.state())
                .1
                .ends_with("is larger than a state can be, 256 MiB")
        );
    }

    #[test]
    fn pipe_symlink_and_missing_directory_are_errors_at_once() {
        let dir = TestDir::new("odd");
        let pipe = dir.0.join("pipe");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(
            open_error(&pipe),
            (
                ExitReason::IncompatibleLock,
                format!("{} is not a file", pipe.display())
            )
        );
        symlink(&pipe, dir.state()).unwrap();
        assert_eq!(open_error(&dir.state()).0, ExitReason::SystemError);
        let nowhere = dir.0.join("nowhere/state");
        let why = format!(
            "cannot open {}.lock: no such file or directory",
            nowhere.display()
        );
        assert_eq!(open_error(&nowhere), (ExitReason::SystemError, why));
    }

    #[test]
    fn failed_save_keeps_the_previous_state() {
        let dir = TestDir::new("full");
        let (file, _) = StateFile::open(&dir.state()).unwrap();
        file.save(&state(5)).unwrap();
        fs::create_dir_all(dir.0.join("state.json.new/in the way")).unwrap();
        assert_eq!(
            file.save(&state(6)),
            Err(format!("{}: is a directory", dir.state().display()))
        );
        fs::remove_dir_all(dir.0.join("state.json.new")).unwrap();
        drop(file);
        assert_eq!(StateFile::open(&dir.state()).unwrap().1.last_token, 5);
    }
}

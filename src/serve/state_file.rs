//! The file that outlives the server: who holds what. It is written whole beside its place and then
//! moved there, so that it is never torn, and one server at a time has it.

use crate::plan::End;
use crate::pool::state::{self, Clocks, State};
use crate::reason::reason;
use crate::sys::clock;
use crate::sys::file::{self, LockMode};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The most bytes of a state that are read: half a million holders. More is no state.
const LONGEST: u64 = 64 << 20;

/// Nobody but the server's user has any business with it: who can write it can give locks.
const MODE: u32 = 0o600;

/// See above. The lock on it lasts until it is dropped.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    /// What is being written.
    draft: PathBuf,
    folder: File,
    _lock: File,
}

/// Why a state cannot be had.
#[derive(Debug)]
pub(super) enum Error {
    /// A system call failed on this file.
    System {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// It is another server's.
    Taken(PathBuf),
    /// It is not a file.
    NotFile(PathBuf),
    /// It is more than `LONGEST`.
    Long(PathBuf),
    /// It is no state.
    Unfit(state::Error),
}

impl StateFile {
    /// Takes the file, and reads what is in it; if it is not there, nobody holds anything.
    pub(super) fn open(path: &Path) -> Result<(StateFile, State), Error> {
        let lock_path = beside(path, "lock");
        let lock = file::open_lock_file(&lock_path, MODE).map_err(system("open", &lock_path))?;
        if !file::lock(&lock, LockMode::NonBlocking).map_err(system("lock", &lock_path))? {
            return Err(Error::Taken(path.to_owned()));
        }
        let folder_path = path.parent().unwrap_or(path);
        let folder = File::open(folder_path).map_err(system("open", folder_path))?;
        let state = match read(path)? {
            Some(text) => State::parse(&text, path, &clocks()).map_err(Error::Unfit)?,
            None => State::default(),
        };
        Ok((
            StateFile {
                path: path.to_owned(),
                draft: beside(path, "new"),
                folder,
                _lock: lock,
            },
            state,
        ))
    }

    /// Whether a server could begin with this file, another server's lock aside. Leaves everything
    /// as it is.
    pub(super) fn check(path: &Path) -> Result<(), Error> {
        let folder = path.parent().unwrap_or(path);
        file::check_writable_folder(folder).map_err(system("write in", folder))?;
        let lock = beside(path, "lock");
        match file::open_existing_lock_file(&lock) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(system("open", &lock)(error));
            }
            _ => {}
        }
        match read(path)? {
            Some(text) => State::parse(&text, path, &clocks())
                .map(drop)
                .map_err(Error::Unfit),
            None => Ok(()),
        }
    }

    /// Puts a state in place of the one before, whole or not at all; when this returns it outlives
    /// a power cut. After an error it may be the one or the other.
    pub(super) fn save(&self, state: &State) -> Result<(), String> {
        let saved = self
            .write(&state.text(&clocks()))
            .and_then(|()| fs::rename(&self.draft, &self.path))
            .and_then(|()| self.settle());
        if saved.is_err() {
            let _ = fs::remove_file(&self.draft); // the disk may be full of it
        }
        saved.map_err(|error| format!("{}: {}", self.path.display(), reason(&error)))
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let _ = fs::remove_file(&self.draft); // left by a server that was killed
        let mut draft = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&self.draft)?;
        draft.write_all(text.as_bytes())?;
        draft.sync_all()
    }

    /// Makes the new name outlive a power cut, where the file system has a way to.
    fn settle(&self) -> io::Result<()> {
        match self.folder.sync_all() {
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        }
    }
}

impl Error {
    /// What it is as an end.
    pub(super) fn end(&self) -> End {
        match self {
            Error::System { .. } => End::System,
            Error::Taken(_) => End::Busy,
            Error::NotFile(_) | Error::Long(_) | Error::Unfit(_) => End::Unfit,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::System { what, path, source } => {
                write!(f, "cannot {what} {}: {}", path.display(), reason(source))
            }
            Error::Taken(path) => write!(f, "another server keeps its state in {}", path.display()),
            Error::NotFile(path) => write!(f, "{} is not a file", path.display()),
            Error::Long(path) => write!(
                f,
                "{} is longer than any state, {} MiB",
                path.display(),
                LONGEST >> 20
            ),
            Error::Unfit(error) => error.fmt(f),
        }
    }
}

/// The bytes of a file, if it is there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let file = match file::open_nofollow(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(system("open", path))?,
    };
    if !file.metadata().map_err(system("look at", path))?.is_file() {
        return Err(Error::NotFile(path.to_owned()));
    }
    let mut text = Vec::new();
    let length = file
        .take(LONGEST + 1)
        .read_to_end(&mut text)
        .map_err(system("read", path))?;
    if length as u64 > LONGEST {
        Err(Error::Long(path.to_owned()))
    } else {
        Ok(Some(text))
    }
}

/// `state.json.lock` beside `state.json`.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(end);
    path.with_file_name(name)
}

fn system(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::System { what, path, source }
}

/// What the clocks of this host say.
pub(super) fn clocks() -> Clocks {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Clocks {
        boot: clock::boot_id(),
        date: milliseconds(now),
        uptime: milliseconds(clock::since_boot()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moment::Moment;
    use crate::pool::state::SavedHolding;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A folder of its own for each test, gone with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path =
                std::env::temp_dir().join(format!("zk-flock-state-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn state(&self) -> PathBuf {
            self.0.join("state.json")
        }
    }

    impl Drop for Folder {
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

    fn refused(path: &Path) -> (End, String) {
        let error = StateFile::open(path).unwrap_err();
        (error.end(), error.to_string())
    }

    #[test]
    fn what_is_saved_is_read_by_the_next_server_and_nobody_else_reads_it() {
        let folder = Folder::new("saved");
        let (file, empty) = StateFile::open(&folder.state()).unwrap();
        assert_eq!(empty, State::default());
        fs::write(folder.0.join("state.json.new"), "torn by a kill").unwrap();
        for token in [5, 6] {
            file.save(&state(token)).unwrap();
        }
        drop(file);
        let (_file, found) = StateFile::open(&folder.state()).unwrap();
        assert_eq!((found.last_token, found.holders[0].token), (6, 6));
        assert_eq!(
            fs::metadata(folder.state()).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let names: Vec<_> = fs::read_dir(&folder.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn one_server_at_a_time_has_it() {
        let folder = Folder::new("taken");
        let (file, _) = StateFile::open(&folder.state()).unwrap();
        assert_eq!(
            refused(&folder.state()),
            (
                End::Busy,
                format!(
                    "another server keeps its state in {}",
                    folder.state().display()
                )
            )
        );
        drop(file);
        StateFile::open(&folder.state()).unwrap();
    }

    #[test]
    fn a_check_finds_what_would_stop_a_start_and_leaves_nothing() {
        let folder = Folder::new("check");
        let checked =
            |path: &Path| StateFile::check(path).map_err(|error| (error.end(), error.to_string()));
        assert_eq!(checked(&folder.state()), Ok(()));
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
        let (_file, _) = StateFile::open(&folder.state()).unwrap();
        assert_eq!(checked(&folder.state()), Ok(()), "while a server has it");
        let missing = folder.0.join("missing/state.json");
        let why = format!(
            "cannot write in {}: no such file or directory",
            folder.0.join("missing").display()
        );
        assert_eq!(checked(&missing), Err((End::System, why)));
        fs::write(folder.state(), "{").unwrap();
        assert_eq!(checked(&folder.state()).unwrap_err().0, End::Unfit);
        let below = folder.state().join("state.json");
        let why = format!(
            "cannot write in {}: not a directory",
            folder.state().display()
        );
        assert_eq!(checked(&below), Err((End::System, why)));
    }

    #[test]
    fn what_is_no_state_is_refused_and_left_as_it_is() {
        let folder = Folder::new("unfit");
        for text in ["", "{", "[]"] {
            fs::write(folder.state(), text).unwrap();
            let (end, why) = refused(&folder.state());
            assert!(
                end == End::Unfit && why.starts_with(&folder.state().display().to_string()),
                "{why}"
            );
            assert_eq!(fs::read_to_string(folder.state()).unwrap(), text);
        }
        File::create(folder.state())
            .unwrap()
            .set_len(LONGEST + 1)
            .unwrap();
        assert!(
            refused(&folder.state())
                .1
                .ends_with("is longer than any state, 64 MiB")
        );
    }

    #[test]
    fn no_pipe_no_link_and_no_missing_folder_is_waited_for_or_followed() {
        let folder = Folder::new("odd");
        let pipe = folder.0.join("pipe");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(
            refused(&pipe),
            (End::Unfit, format!("{} is not a file", pipe.display()))
        );
        symlink(&pipe, folder.state()).unwrap();
        assert_eq!(refused(&folder.state()).0, End::System);
        let nowhere = folder.0.join("nowhere/state");
        let why = format!(
            "cannot open {}.lock: no such file or directory",
            nowhere.display()
        );
        assert_eq!(refused(&nowhere), (End::System, why));
    }

    #[test]
    fn a_state_that_cannot_be_written_leaves_the_one_before() {
        let folder = Folder::new("full");
        let (file, _) = StateFile::open(&folder.state()).unwrap();
        file.save(&state(5)).unwrap();
        fs::create_dir_all(folder.0.join("state.json.new/in the way")).unwrap();
        assert_eq!(
            file.save(&state(6)),
            Err(format!("{}: file exists", folder.state().display()))
        );
        fs::remove_dir_all(folder.0.join("state.json.new")).unwrap();
        drop(file);
        assert_eq!(StateFile::open(&folder.state()).unwrap().1.last_token, 5);
    }
}

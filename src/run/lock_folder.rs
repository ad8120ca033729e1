//! The directory of `--local` lock files: which one it is, and how to open it so that no other user
//! can redirect a run. Its path is opened one directory at a time, from the top, each relative to
//! the one before. Below a directory that other users may write to, a symbolic link may belong to
//! them and is refused; other links are followed (`/var/run` is one). Missing directories are
//! created. An existing directory keeps its mode.

use crate::reason::reason;
use crate::sys::file;
use crate::sys::folder::{self, Folder};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// How many links a path may contain; the kernel has the same limit.
const MOST_LINKS: usize = 40;

/// Every user may keep lock files here, on systems that allow it (Debian). It is empty after a boot.
const LOCKS: &str = "/run/lock";

/// Every user may keep files here, on all other systems.
const TEMPORARY: &str = "/tmp";

/// Mode of a directory in which every user may create files, and remove only their own.
const OPEN_TO_ALL: u32 = 0o1777;

/// Mode of the default directory, which only its user may use.
const PRIVATE: u32 = 0o700;

/// The directory of the lock files of a run.
#[derive(Debug)]
pub(super) struct LockFolder {
    /// The directory of `--local=DIR`, or the default one.
    base: PathBuf,
    /// `base` is the default directory. No other user may have access to it, because it is below a
    /// directory that other users may write to.
    private: bool,
    app_id: String,
}

impl LockFolder {
    /// The directory of an application, below the given directory or the default one.
    pub(super) fn new(given: Option<&Path>, app_id: &str) -> LockFolder {
        let base = given.map_or_else(default_base, Path::to_owned);
        LockFolder {
            base,
            private: given.is_none(),
            app_id: app_id.to_owned(),
        }
    }

    /// Path of a file in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.base.join(&self.app_id).join(name)
    }

    /// Opens the directory. `NotFound`: a directory was removed after it was created or seen.
    pub(super) fn open(&self) -> io::Result<Opened> {
        let (mut way, mode) = if self.private {
            (self.open_private()?, PRIVATE)
        } else {
            self.open_shared()?
        };
        way.enter(self.app_id.as_ref(), Missing::MakeWith(mode))?;
        Ok(Opened {
            folder: way.folder,
            mode: mode & 0o666,
            exposed: way.exposed,
        })
    }

    fn open_shared(&self) -> io::Result<(Way, u32)> {
        let way = Way::to(&self.base)?;
        let mode = way.metadata.mode();
        Ok((way, mode))
    }

    fn open_private(&self) -> io::Result<Way> {
        let mut way = Way::to(self.base.parent().unwrap_or(&self.base))?;
        way.enter(
            self.base.file_name().unwrap_or_default(),
            Missing::MakeWith(PRIVATE),
        )?;
        if way.metadata.uid() != way.uid || way.metadata.mode() & 0o077 != 0 {
            let folder = self.base.display();
            return Err(refusal(format!(
                "{folder} must belong to this user and have mode 0700: remove it, or use --local=DIR"
            )));
        }
        Ok(way)
    }
}

/// The open directory.
pub(super) struct Opened {
    pub(super) folder: Folder,
    /// Mode for new files in it: every user who may write to `base` may use its locks.
    pub(super) mode: u32,
    /// The last directory on the path that other users may write to. Its content may be theirs.
    pub(super) exposed: Option<PathBuf>,
}

/// The default directory of this user. It depends only on the host: runs from cron, from a service
/// and from a shell must use the same one.
fn default_base() -> PathBuf {
    let locks = fs::symlink_metadata(LOCKS)
        .is_ok_and(|found| found.is_dir() && found.mode() & OPEN_TO_ALL == OPEN_TO_ALL);
    Path::new(if locks { LOCKS } else { TEMPORARY })
        .join(format!("zk-flock-{}", file::effective_uid()))
}

/// What to do about a directory that does not exist.
#[derive(Clone, Copy)]
enum Missing {
    /// Fail: the path contains a dangling link.
    Refuse,
    /// Create it with the usual mode, limited by the umask.
    Make,
    /// Create it with exactly this mode.
    MakeWith(u32),
}

/// A directory, and how it was reached.
struct Way {
    folder: Folder,
    metadata: Metadata,
    path: PathBuf,
    /// The user whose rights this process has.
    uid: u32,
    /// The last directory on the path that other users may write to. Its content may be theirs.
    exposed: Option<PathBuf>,
    links: usize,
}

impl Way {
    /// Opens a directory; creates missing directories.
    fn to(path: &Path) -> io::Result<Way> {
        // A path is relative only if the current directory is not known. Then its parents are not
        // known either.
        let (start, exposed) = if path.is_absolute() {
            ("/", None)
        } else {
            (".", Some(".".into()))
        };
        let folder = Folder::at(start).map_err(|error| cannot_open(start.as_ref(), &error))?;
        let metadata = folder.metadata()?;
        let mut way = Way {
            folder,
            metadata,
            path: start.into(),
            uid: file::effective_uid(),
            exposed,
            links: 0,
        };
        way.note_exposure();
        way.walk(path, Missing::Make)?;
        Ok(way)
    }

    fn walk(&mut self, path: &Path, missing: Missing) -> io::Result<()> {
        path.components().try_for_each(|part| match part {
            Component::RootDir if self.path == Path::new("/") => Ok(()),
            Component::RootDir => self.arrive(Folder::at("/")?, "/".into()),
            Component::ParentDir | Component::Normal(_) => self.enter(part.as_os_str(), missing),
            Component::CurDir | Component::Prefix(_) => Ok(()),
        })
    }

    /// Opens the next directory, or follows a link.
    fn enter(&mut self, name: &OsStr, missing: Missing) -> io::Result<()> {
        let path = self.path.join(name);
        let mut found = self.folder.open(name);
        if found
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            match missing {
                Missing::Refuse => {
                    return Err(refusal(format!(
                        "cannot open {}: no such folder",
                        path.display()
                    )));
                }
                Missing::Make => self.folder.make(name, 0o777),
                Missing::MakeWith(mode) => folder::without_umask(|| self.folder.make(name, mode)),
            }
            .map_err(|error| {
                unless_missing(error, |error| {
                    refusal(format!(
                        "cannot create {}: {}",
                        path.display(),
                        reason(error)
                    ))
                })
            })?;
            found = self.folder.open(name);
        }
        match found {
            Ok(folder) => self.arrive(folder, path),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
                self.follow(name, &path)
            }
            Err(error) => Err(unless_missing(error, |error| cannot_open(&path, error))),
        }
    }

    fn arrive(&mut self, folder: Folder, path: PathBuf) -> io::Result<()> {
        self.metadata = folder.metadata()?;
        self.folder = folder;
        self.path = path;
        self.note_exposure();
        Ok(())
    }

    fn note_exposure(&mut self) {
        if others_may_write(&self.metadata, self.uid) {
            self.exposed = Some(self.path.clone());
        }
    }

    /// Follows a link, if it cannot belong to another user.
    fn follow(&mut self, name: &OsStr, path: &Path) -> io::Result<()> {
        let target = match self.folder.read_link(name) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(refusal(format!(
                    "{} is not a folder: remove it, or use another --local=DIR",
                    path.display()
                )));
            }
            read => read.map_err(|error| cannot_open(path, &error))?,
        };
        if let Some(exposed) = &self.exposed {
            let (link, exposed) = (path.display(), exposed.display());
            let why = format!(
                "{link} is a symbolic link, and other users may write to {exposed}: remove the link, or use another --local=DIR"
            );
            return Err(refusal(why));
        }
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(refusal(format!(
                "cannot open {}: its path has more than {MOST_LINKS} symbolic links",
                path.display()
            )));
        }
        self.walk(&target, Missing::Refuse)
    }
}

/// Whether users other than root and the one with this id may create or replace files in a directory.
/// The owner may, because the owner can change the mode.
fn others_may_write(folder: &Metadata, uid: u32) -> bool {
    folder.mode() & 0o022 != 0 || ![0, uid].contains(&folder.uid())
}

/// An error with a complete sentence.
fn refusal(why: String) -> io::Error {
    io::Error::other(why)
}

fn cannot_open(path: &Path, error: &io::Error) -> io::Error {
    refusal(format!("cannot open {}: {}", path.display(), reason(error)))
}

/// Returns `NotFound` as it is, so that the caller tries again, and explains other errors.
fn unless_missing(error: io::Error, explain: impl FnOnce(&io::Error) -> io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::NotFound {
        error
    } else {
        explain(&error)
    }
}

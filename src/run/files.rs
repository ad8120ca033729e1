//! The files of `--local` locks: flock(2), waited for by helper processes that block in it on an open file that we share, and the fencing token
//! that each file holds. Files stay when locks go: unlinking is the classic race of two inodes.

use crate::lock::Input;
use crate::signal::Signal;
use crate::sys::file::{self, How};
use crate::sys::process::{self, Fork, Pid};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest text of a token: i64::MAX has 19 digits.
const TOKEN: u64 = 32;

/// The lock files of one run.
#[derive(Debug)]
pub(super) struct Files {
    paths: Vec<PathBuf>,
    /// Folder to be made, and to be ours alone if it is the default one.
    directory: PathBuf,
    private: bool,
    open: Vec<Option<File>>,
    helpers: Vec<(Pid, usize)>,
}

impl Files {
    pub(super) fn new(directory: PathBuf, private: bool, names: &[String]) -> Files {
        let paths = names.iter().map(|name| directory.join(name)).collect();
        Files { paths, directory, private, open: names.iter().map(|_| None).collect(), helpers: Vec::new() }
    }

    /// Tries to lock a file, now or by a helper that waits; tells what came of it, if anything yet.
    pub(super) fn contend(&mut self, index: usize, wait: bool) -> Option<Input<'static>> {
        let path = self.paths[index].display().to_string();
        let tried = if wait { self.send_helper(index) } else { self.lock(index) };
        tried.unwrap_or_else(|error| Some(Input::Broken(format!("cannot lock {path}: {}", crate::link::reason(&error)))))
    }

    /// A child has ended: if it was a helper, whose file is ours now.
    pub(super) fn ended(&mut self, child: Pid) -> Option<Input<'static>> {
        let position = self.helpers.iter().position(|&(helper, _)| helper == child)?;
        let (_, index) = self.helpers.remove(position);
        let path = self.paths[index].display().to_string();
        // Locking what is locked through this very open file is granted at once; if the helper was killed instead, it is not.
        let tried = self.lock(index).and_then(|input| match input {
            Some(Input::Taken { .. }) => self.send_helper(index),
            input => Ok(input),
        });
        tried.unwrap_or_else(|error| Some(Input::Broken(format!("cannot lock {path}: {}", crate::link::reason(&error)))))
    }

    /// The descriptor of the lock that is held.
    pub(super) fn held(&self) -> Option<BorrowedFd<'_>> {
        self.open.iter().flatten().next().map(AsFd::as_fd)
    }

    /// Gives up all but this file, or all.
    pub(super) fn keep_only(&mut self, kept: Option<usize>) {
        for (helper, _) in self.helpers.drain(..) {
            let _ = process::kill(helper, Signal::KILL);
        }
        for (index, open) in self.open.iter_mut().enumerate() {
            if let Some(file) = open.take_if(|_| Some(index) != kept) {
                // The guard may not have left yet, and a helper may have got it just now: they share the open file.
                let _ = file::unlock(file);
            }
        }
    }

    fn lock(&mut self, index: usize) -> io::Result<Option<Input<'static>>> {
        if !file::lock(self.file(index)?, How::Now)? {
            return Ok(Some(Input::Taken { file: index }));
        }
        self.keep_only(Some(index));
        let token = take_token(self.file(index)?)?;
        Ok(Some(Input::Granted { file: index, token }))
    }

    fn send_helper(&mut self, index: usize) -> io::Result<Option<Input<'static>>> {
        let parent = process::own_pid();
        match process::fork()? {
            Fork::Parent(helper) => self.helpers.push((helper, index)),
            Fork::Child => {
                process::rename("lock-waiter");
                let waited =
                    process::die_with_parent(Some(Signal::KILL), parent).and_then(|()| file::lock(self.file(index)?, How::WhenFree));
                process::leave(u8::from(waited.is_err()))
            }
        }
        Ok(None)
    }

    fn file(&mut self, index: usize) -> io::Result<&File> {
        if self.open[index].is_none() {
            let mode = make(&self.directory, self.private)?;
            self.open[index] = Some(file::open_lock_file(&self.paths[index], mode)?);
        }
        self.open[index].as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Makes the folder of the lock files, and says with what mode files are to be made in it. The default folder lies where others may write, so nobody
/// but us may have made it. Of one that was asked for, whoever may write in it may use its locks.
fn make(directory: &Path, private: bool) -> io::Result<u32> {
    let base = directory.parent().unwrap_or(directory);
    if private {
        if let Some(system) = base.parent() {
            fs::create_dir_all(system)?; // small containers come without /run/lock
        }
        make_one(base, 0o700)?;
        let found = fs::symlink_metadata(base)?;
        if !found.is_dir() || found.uid() != file::effective_uid() || found.mode() & 0o077 != 0 {
            let why = format!("{} is not a folder of this user alone (expected mode 0700): remove it, or use --local=DIR", base.display());
            return Err(io::Error::other(why));
        }
        make_one(directory, 0o700)?;
        return Ok(0o600);
    }
    fs::create_dir_all(base)?;
    let mode = fs::metadata(base)?.mode();
    if make_one(directory, mode)? {
        fs::set_permissions(directory, Permissions::from_mode(mode & 0o7777))?; // whatever the umask
    }
    Ok(mode & 0o666)
}

/// Makes one folder; false if it is there.
fn make_one(folder: &Path, mode: u32) -> io::Result<bool> {
    match DirBuilder::new().mode(mode & 0o7777).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        result => result.map(|()| true),
    }
}

/// The next fencing token of a lock file, noted in it: larger than every one before, and larger than those of a file that was lost, as long as the
/// clock is right.
fn take_token(mut file: &File) -> io::Result<i64> {
    let mut text = String::new();
    let last = file.take(TOKEN).read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<i64>().ok()).unwrap_or(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
    let token = last.saturating_add(1).max(now);
    let text = format!("{token}\n");
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)?;
    Ok(token)
}

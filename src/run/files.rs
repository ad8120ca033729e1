//! The files of `--local` locks, locked by flock(2). Helper processes wait for a lock: they block
//! in flock on an open file that they share with this process. Each file holds the last fencing
//! token. Files are not removed when their locks are released, because two runs could then lock
//! two inodes of one path. Another program may remove a file all the same, so a lock counts only if
//! its file is the one at the path.
//!
//! Readers (`--shared`) hold the shared lock of a file together, so each of them takes its token
//! under a second, exclusive lock: the record lock of the content, which lasts two system calls.

use super::lock_folder::{LockFolder, Opened};
use crate::lock::FileEvent;
use crate::plan::Sharing;
use crate::reason::reason;
use crate::signal::Signal;
use crate::sys::clock;
use crate::sys::descriptors;
use crate::sys::file::{self, LockMode};
use crate::sys::process::{self, Fork, Pid};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str;

/// The most bytes of a lock file: a token of up to 19 digits, and a record whose longest part is a
/// host name. A longer text is of another program.
const CONTENT: usize = 2048;

/// How often a file is opened again that was removed or replaced while it was being locked. A
/// cleaner runs once a day; this many removals in a row are a fault.
const MOST_REMOVALS: usize = 100;

/// How a lock of a file is taken.
type FileLock = fn(&File, LockMode) -> io::Result<bool>;

/// The lock files of one run.
#[derive(Debug)]
pub(super) struct Files {
    folder: LockFolder,
    names: Vec<String>,
    sharing: Sharing,
    open: Vec<Option<File>>,
    helpers: Vec<(Pid, usize)>,
}

impl Files {
    pub(super) fn new(folder: LockFolder, names: &[String], sharing: Sharing) -> Files {
        Files {
            folder,
            names: names.to_vec(),
            sharing,
            open: names.iter().map(|_| None).collect(),
            helpers: Vec::new(),
        }
    }

    /// Locks a file, at once or by a helper that waits. Returns the result, if it is known already.
    pub(super) fn lock(&mut self, index: usize, wait: bool) -> Option<FileEvent> {
        let tried = if wait {
            self.wait_in_helper(index, self.flock())
        } else {
            self.try_lock(index)
        };
        tried.unwrap_or_else(|error| Some(self.broken(index, &error)))
    }

    /// A child has ended. If it was a helper, its file is locked for this process now.
    pub(super) fn ended(&mut self, child: Pid) -> Option<FileEvent> {
        let position = self
            .helpers
            .iter()
            .position(|&(helper, _)| helper == child)?;
        let (_, index) = self.helpers.remove(position);
        // The helper shared the open file, so this lock succeeds at once. It does not if the helper
        // was killed, or if the file was replaced.
        let tried = self.try_lock(index);
        tried.unwrap_or_else(|error| Some(self.broken(index, &error)))
    }

    /// The descriptor of the lock that is held.
    pub(super) fn held(&self) -> Option<BorrowedFd<'_>> {
        self.open.iter().flatten().next().map(AsFd::as_fd)
    }

    /// Releases all files except this one, or all.
    pub(super) fn release_others(&mut self, kept: Option<usize>) {
        for (helper, _) in self.helpers.drain(..) {
            let _ = process::kill(helper, Signal::KILL);
        }
        for (index, open) in self.open.iter_mut().enumerate() {
            if let Some(file) = open.take_if(|_| Some(index) != kept) {
                // Closing is not enough: the guard may not have exited yet, and a helper may have
                // locked the file just now. Both share the open file.
                let _ = file::unlock(file);
            }
        }
    }

    /// Reads the record of the last run in a file that is locked.
    pub(super) fn read_record(&mut self, index: usize) -> FileEvent {
        let found = self.file(index).and_then(record_in);
        found.map_or_else(
            |error| self.unusable("read", index, &error),
            FileEvent::Record,
        )
    }

    /// Writes a record into a file that is locked.
    pub(super) fn write_record(&mut self, index: usize, record: &str) -> FileEvent {
        let written = self.file(index).and_then(|file| put_record(file, record));
        match written {
            Ok(()) => FileEvent::Written,
            Err(error) => self.unusable("write", index, &error),
        }
    }

    fn unusable(&self, verb: &str, index: usize, error: &io::Error) -> FileEvent {
        let (path, why) = (self.path(index), reason(error));
        let path = path.display();
        FileEvent::Failed(format!(
            "cannot {verb} the record of the last run in {path}: {why}"
        ))
    }

    fn try_lock(&mut self, index: usize) -> io::Result<Option<FileEvent>> {
        let (path, flock) = (self.path(index), self.flock());
        for _ in 0..MOST_REMOVALS {
            let file = match self.file(index) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue, /* the directory was removed in the meantime */
                file => file?,
            };
            if !flock(file, LockMode::NonBlocking)? {
                return Ok(Some(FileEvent::Busy {
                    file: index,
                    token: token_of_the_holder(file),
                }));
            }
            if let Some(found) = file::in_place(file, &path) {
                check_kind(&found)?; // at the path, because a link may have been there only for a moment
                self.release_others(Some(index));
                return self.locked(index);
            }
            self.open[index] = None; // it was removed, and the next run would lock a new file
        }
        Err(io::Error::other(format!(
            "another program removed it {MOST_REMOVALS} times while zk-flock locked it: stop that program, or use another --local=DIR"
        )))
    }

    /// The file is locked, and is the one at the path. Takes the token.
    fn locked(&mut self, index: usize) -> io::Result<Option<FileEvent>> {
        let (sharing, file) = (self.sharing, self.file(index)?);
        let token = match sharing {
            Sharing::Exclusive => Some(take_token(file)?),
            Sharing::Shared => take_token_as_reader(file)?,
        };
        match token {
            Some(token) => Ok(Some(FileEvent::Locked { file: index, token })),
            // Another reader takes its token at this moment, or was stopped while it did.
            None => self
                .wait_in_helper(index, |file, mode| file::lock_content(file, mode))
                .map(|_| Some(FileEvent::Delayed { file: index })),
        }
    }

    fn flock(&self) -> FileLock {
        match self.sharing {
            Sharing::Exclusive => |file, mode| file::lock(file, mode),
            Sharing::Shared => |file, mode| file::lock_shared(file, mode),
        }
    }

    /// Starts a helper that ends when it has got this lock. A lock of flock(2) stays with the open
    /// file; another one ends with the helper, and is tried again.
    fn wait_in_helper(
        &mut self,
        index: usize,
        wait_for: FileLock,
    ) -> io::Result<Option<FileEvent>> {
        let parent = process::own_pid();
        let file = self.file(index)?;
        match process::fork()? {
            Fork::Parent(helper) => self.helpers.push((helper, index)),
            Fork::Child => {
                descriptors::close_inherited();
                process::rename("lock-waiter", process::own_pid());
                let waited = process::die_with_parent(Some(Signal::KILL), parent)
                    .and_then(|()| wait_for(file, LockMode::Blocking));
                process::exit_now(u8::from(waited.is_err()))
            }
        }
        Ok(None)
    }

    fn file(&mut self, index: usize) -> io::Result<&File> {
        if self.open[index].is_none() {
            let Opened {
                folder,
                mode,
                exposed,
            } = self.folder.open()?;
            let file =
                file::open_lock_file_in(&folder, &self.names[index], mode).map_err(explain)?;
            let found = file.metadata()?;
            check_kind(&found)?;
            if let Some(exposed) = exposed.filter(|_| !file::is_marked(&found)) {
                return Err(unmarked(&exposed));
            }
            self.open[index] = Some(file);
        }
        self.open[index]
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Path of a file.
    pub(super) fn path(&self, index: usize) -> PathBuf {
        self.folder.path(&self.names[index])
    }

    fn broken(&self, index: usize, error: &io::Error) -> FileEvent {
        FileEvent::Failed(format!(
            "cannot lock {}: {}",
            self.path(index).display(),
            reason(error)
        ))
    }
}

/// Explains why the kernel did not open a path as a lock file.
fn explain(error: io::Error) -> io::Error {
    let what = match error.raw_os_error() {
        Some(libc::ELOOP) => "a symbolic link",
        Some(libc::EISDIR) => "a directory",
        Some(libc::ENXIO | libc::ENODEV) => "a socket or a device",
        _ => return error,
    };
    io::Error::other(format!(
        "it is {what}, not a regular file: remove it, or use another name"
    ))
}

/// Another user may have linked any file to the name of a lock, and can change its number of links
/// while it is being checked. The sticky bit is safe: only the owner of a file can set it.
fn unmarked(exposed: &Path) -> io::Error {
    let exposed = exposed.display();
    io::Error::other(format!(
        "the file has no sticky bit, and other users may write to {exposed}: remove it, or chmod +t it if it is a lock file"
    ))
}

/// Refuses a file that cannot be a lock file, because a token is written into it, and another user
/// may have put it there. A file with a second link is refused, because it is another file of this
/// user, too.
fn check_kind(found: &Metadata) -> io::Result<()> {
    if !found.is_file() {
        return Err(io::Error::other(
            "it is not a regular file: remove it, or use another name",
        ));
    }
    if found.nlink() > 1 {
        let others = found.nlink() - 1;
        return Err(io::Error::other(format!(
            "the file has more hard links ({others} others), so no token is written into it: remove this link, or use another name"
        )));
    }
    Ok(())
}

/// Writes the next fencing token into a lock file. It is larger than all earlier tokens, and, if the
/// clock is right, larger than those of an earlier file that was removed.
fn take_token(file: &File) -> io::Result<i64> {
    let mut buffer = [0; CONTENT];
    let length = file.read_at(&mut buffer, 0)?;
    let content = Content::parse(&buffer[..length]).ok_or_else(|| {
        io::Error::other("the file holds something other than a fencing token: move it away, or use another name")
    })?;
    let now = i64::try_from(clock::unix_time().as_nanos()).unwrap_or(i64::MAX);
    let token = content.token.saturating_add(1).max(now);
    let mut text = text(token).into_bytes();
    if text.len() != content.token_length {
        text.extend_from_slice(content.rest); // which begins later now
    }
    file.write_all_at(&text, 0)?; // never shorter than before, because the token is larger
    Ok(token)
}

/// The same for a reader, which holds the lock together with others. `None`: another process is in
/// the middle of it.
fn take_token_as_reader(file: &File) -> io::Result<Option<i64>> {
    if !file::lock_content(file, LockMode::NonBlocking)? {
        return Ok(None);
    }
    let token = take_token(file);
    file::unlock_content(file)?;
    token.map(Some)
}

/// The token in a file that another run has locked.
pub(super) fn token_of_the_holder(file: &File) -> Option<i64> {
    let mut buffer = [0; CONTENT];
    let length = file.read_at(&mut buffer, 0).ok()?;
    Content::parse(&buffer[..length]).map(|content| content.token)
}

/// The record of the last run in a file.
pub(super) fn record_in(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = [0; CONTENT];
    let length = file.read_at(&mut buffer, 0)?;
    let content = Content::parse(&buffer[..length]);
    Ok(content.and_then(|content| content.record().map(<[u8]>::to_vec)))
}

/// Writes a record into a file, after its token. One write, so that a run that is killed leaves
/// the record before it or this one; what follows the first line of a record is no part of it.
fn put_record(file: &File, record: &str) -> io::Result<()> {
    let mut buffer = [0; CONTENT];
    let length = file.read_at(&mut buffer, 0)?;
    let content = Content::parse(&buffer[..length])
        .ok_or_else(|| io::Error::other("another program has changed the file"))?;
    let whole = format!("{}{record}\n", text(content.token));
    file.write_all_at(whole.as_bytes(), 0)?;
    file.set_len(whole.len() as u64)
}

/// What is in a lock file: a line with a fencing token, and after runs with `--every` a line with
/// the record of the last one.
struct Content<'a> {
    token: i64,
    /// The length of its line; 0 if there is none.
    token_length: usize,
    /// What follows it.
    rest: &'a [u8],
}

impl Content<'_> {
    /// `None`: no run has written this content.
    fn parse(found: &[u8]) -> Option<Content<'_>> {
        let end = found.iter().position(|&byte| byte == b'\n');
        let token_length = end.map_or(found.len(), |end| end + 1);
        let (first, rest) = found.split_at(token_length);
        let is_record = matches!(rest, [] | [b'{', ..]) && found.len() < CONTENT;
        let token = last_token(first).filter(|_| is_record)?;
        Some(Content {
            token,
            token_length,
            rest,
        })
    }

    fn record(&self) -> Option<&[u8]> {
        let line = self.rest.split(|&byte| byte == b'\n').next();
        line.filter(|line| !line.is_empty())
    }
}

/// The token in a file; 0 if the file is empty. `None`: no run has written this content.
fn last_token(found: &[u8]) -> Option<i64> {
    if found.is_empty() {
        return Some(0);
    }
    let last = str::from_utf8(found).ok()?.trim_end().parse().ok()?;
    (last >= 0 && text(last).as_bytes() == found).then_some(last)
}

fn text(token: i64) -> String {
    format!("{token}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::Status;

    #[test]
    fn text_that_is_not_a_token_is_refused() {
        for (found, last) in [
            ("", Some(0)),
            ("7\n", Some(7)),
            ("9223372036854775807\n", Some(i64::MAX)),
            ("7", None),
            ("7\n\n", None),
            ("07\n", None),
            ("+7\n", None),
            ("-7\n", None),
            (" 7\n", None),
            ("\n", None),
            ("9223372036854775808\n", None),
            ("root:x:0:0:root:/root:/b", None),
            ("7\nroot:x:0:0:root:/root", None),
        ] {
            assert_eq!(last_token(found.as_bytes()), last, "{found:?}");
        }
        assert_eq!(last_token(b"\xff7\n"), None);
    }

    #[test]
    fn a_reader_takes_its_token_while_no_other_does() {
        let folder = std::env::temp_dir();
        let path = folder.join(format!("zk-flock-readers-{}", std::process::id()));
        let open = || file::open_lock_file(&path, 0o600).unwrap();
        let (own, other) = (open(), path.clone());
        let (first, second) = (
            take_token_as_reader(&own).unwrap().unwrap(),
            take_token_as_reader(&own).unwrap().unwrap(),
        );
        assert!(second > first);
        assert!(file::lock_content(&own, LockMode::NonBlocking).unwrap());
        let takes = |path: &Path| {
            let file = file::open_lock_file(path, 0o600).unwrap();
            take_token_as_reader(&file).unwrap().is_some()
        };
        let is_refused = in_child(|| !takes(&other));
        assert!(is_refused);
        assert!(file::lock_shared(&own, LockMode::NonBlocking).unwrap()); // of another kind
        file::unlock_content(&own).unwrap();
        let is_taken = in_child(|| takes(&other));
        assert!(is_taken);
        assert!(token_of_the_holder(&own) > Some(second));
        std::fs::remove_file(path).unwrap();
    }

    /// Whether this holds in a child, which has record locks of its own.
    fn in_child(check: impl FnOnce() -> bool) -> bool {
        match process::fork().unwrap() {
            Fork::Child => process::exit_now(u8::from(!check())),
            Fork::Parent(child) => process::wait(child).unwrap() == Status::Exited(0),
        }
    }

    #[test]
    fn a_record_follows_the_token_and_survives_it() {
        let folder = std::env::temp_dir();
        let path = folder.join(format!("zk-flock-files-{}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(record_in(&file).unwrap(), None);
        let first = take_token(&file).unwrap();
        assert_eq!(record_in(&file).unwrap(), None);
        for record in ["{\"longer\":1}", "{}"] {
            put_record(&file, record).unwrap();
            assert_eq!(record_in(&file).unwrap().unwrap(), record.as_bytes());
            assert!(take_token(&file).unwrap() > first);
            assert_eq!(record_in(&file).unwrap().unwrap(), record.as_bytes());
        }
        let length = text(first).len() + 3;
        assert_eq!(file.metadata().unwrap().len(), length as u64);
        // A clock that was wrong until now makes the token longer.
        file.set_len(0).unwrap();
        file.write_all_at(b"7\n{\"a\":1}\n", 0).unwrap();
        let token = take_token(&file).unwrap();
        assert_eq!(record_in(&file).unwrap().unwrap(), b"{\"a\":1}");
        assert_eq!(token_of_the_holder(&file), Some(token));
    }

    #[test]
    fn only_a_record_may_follow_a_token() {
        let long = format!("7\n{{{}", "a".repeat(CONTENT));
        let none: Option<&[u8]> = None;
        for (found, expected) in [
            ("", Some((0, none))),
            ("7\n", Some((7, none))),
            ("7\n{a}\n", Some((7, Some(b"{a}")))),
            ("7\n{a}\nleft over", Some((7, Some(b"{a}")))),
            ("7\n{a", Some((7, Some(b"{a")))),
            ("7\n\n", None),
            ("7\nroot:x:0:0", None),
            ("7{", None),
            (&long, None),
        ] {
            let content = Content::parse(found.as_bytes());
            let parsed = content.as_ref().map(|it| (it.token, it.record()));
            assert_eq!(parsed, expected, "{found}");
        }
    }
}

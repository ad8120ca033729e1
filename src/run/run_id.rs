//! The id of a run, by which a lock server tells the runs of one host apart, and the file beside
//! the lock of this host that keeps it. If a run is killed, the server still has its slot; the next
//! run takes over the lock of this host when nothing of the killed one is left, and goes on with
//! its id, so that it need not wait until the lease ends.
//!
//! The file belongs to the lock: it is read and written only by the run that holds it. What it says
//! counts only if it names the dead process whose lock was taken over, or none: otherwise the id
//! may be that of a run that lives, whose lock file was removed. Python programs know nothing of
//! it.

use crate::sys::file::{self, effective_uid};
use crate::sys::process::{self, Pid};
use crate::sys::random;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Only its owner may read it. The sticky bit keeps systemd-tmpfiles from removing it by its age.
const MODE: u32 = 0o1600;

/// Longest text that is read: more than an id and a process have.
const LONGEST: u64 = 128;

/// The longest id that a server takes.
const LONGEST_ID: usize = 64;

/// The id of a run, and what keeps it.
#[derive(Debug)]
pub(super) struct RunId {
    /// 1 to 64 characters of `[0-9A-Za-z._-]`.
    pub(super) id: String,
    /// The dead process whose id it was; 0 if that has ended in order, and the server may not
    /// know.
    pub(super) inherited: Option<Pid>,
    /// The file that keeps it, removed with this value. `None` if there is none, or it could not
    /// be written.
    file: Option<RunFile>,
}

/// A file as it was written.
#[derive(Debug)]
struct RunFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl RunId {
    /// A new one, which nothing keeps.
    pub(super) fn new() -> RunId {
        RunId {
            id: format!("{:032x}", u128::from_be_bytes(random::bytes())),
            inherited: None,
            file: None,
        }
    }

    /// The id of a run that has the lock of this host, which is the file `lock`, and had been left
    /// behind by the process `dead`, if by any. Also why it cannot be kept, and where.
    pub(super) fn kept_beside(
        lock: &Path,
        dead: Option<Pid>,
    ) -> (RunId, Option<(PathBuf, io::Error)>) {
        let path = lock.with_extension("run");
        let before = read(&path).filter(|&(_, owner)| owner == NONE || Some(owner) == dead);
        let mut run = RunId::new();
        if let Some((id, owner)) = before {
            (run.id, run.inherited) = (id, Some(owner));
        }
        let written = write(&path, &run.id, process::own_pid());
        let flaw = written.map(|file| run.file = Some(file)).err();
        (run, flaw.map(|error| (path, error)))
    }

    /// Removes the file: from now on the next run has an id of its own.
    pub(super) fn retire(&mut self) {
        if let Some(RunFile { path, identity }) = &self.file
            && fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == *identity)
        {
            let _ = fs::remove_file(path);
        }
    }

    /// Leaves the id to the next run all the same.
    pub(super) fn pass_on(mut self) {
        if let Some(RunFile { path, .. }) = self.file.take() {
            let _ = write(&path, &self.id, NONE);
        }
    }
}

impl Drop for RunId {
    fn drop(&mut self) {
        self.retire();
    }
}

/// In the place of a process: the id is not in use.
const NONE: Pid = Pid(0);

/// Id and process of a file. `None` if it is not there, is another user's, or has other content.
fn read(path: &Path) -> Option<(String, Pid)> {
    let file = file::open_nofollow(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.uid() != effective_uid() {
        return None;
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    let (id, owner) = text.strip_suffix('\n')?.split_once(' ')?;
    let fits = (1..=LONGEST_ID).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let owner = owner.parse().ok().filter(|&owner| owner >= 0)?;
    fits.then(|| (id.to_owned(), Pid(owner)))
}

/// Replaces the file in one step, so that it is never half written, and never written through what
/// another user has put there.
fn write(path: &Path, id: &str, owner: Pid) -> io::Result<RunFile> {
    let draft = path.with_extension("run-new");
    let mut file = create(&draft)?;
    let written = file
        .write_all(format!("{id} {owner}\n").as_bytes())
        .and_then(|()| fs::rename(&draft, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    let metadata = file.metadata()?;
    Ok(RunFile {
        path: path.to_owned(),
        identity: (metadata.dev(), metadata.ino()),
    })
}

/// Makes a file. One that a killed run has left half written is removed.
fn create(path: &Path) -> io::Result<File> {
    let create = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(path)
    }; // never through a link
    let file = match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path).and_then(|()| create())
        }
        result => result,
    }?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const DEAD: Option<Pid> = Some(Pid(4711));

    /// A folder for one test, and the lock file of a pool in it.
    fn lock(name: &str) -> (PathBuf, PathBuf) {
        let folder =
            std::env::temp_dir().join(format!("zk-flock-run-{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        (folder.clone(), folder.join("dx-a.lock"))
    }

    fn content(lock: &Path) -> String {
        fs::read_to_string(lock.with_extension("run")).unwrap()
    }

    #[track_caller]
    fn kept(lock: &Path, dead: Option<Pid>) -> RunId {
        let (run, flaw) = RunId::kept_beside(lock, dead);
        assert!(flaw.is_none(), "{flaw:?}");
        assert_eq!(
            content(lock),
            format!("{} {}\n", run.id, process::own_pid())
        );
        run
    }

    #[test]
    fn every_run_has_an_id_of_its_own_and_its_file_goes_with_it() {
        let (folder, lock) = lock("own");
        let first = kept(&lock, None);
        let id = first.id.clone();
        assert!(
            id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{id}"
        );
        assert_eq!(
            fs::metadata(lock.with_extension("run"))
                .unwrap()
                .permissions()
                .mode()
                & 0o7777,
            MODE
        );
        drop(first);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        assert_ne!(kept(&lock, None).id, id);
        assert_ne!(RunId::new().id, RunId::new().id);
        fs::remove_dir_all(folder).unwrap();
    }

    /// Whose lock file was removed may live on: its id is not to be used by another run.
    #[test]
    fn an_id_is_taken_over_from_the_dead_process_whose_lock_was_taken_over_and_from_no_other() {
        let (folder, lock) = lock("over");
        let path = lock.with_extension("run");
        for (text, dead, taken_over) in [
            ("abc.X_9-z 4711\n", DEAD, true),
            ("abc.X_9-z 4711\n", Some(Pid(4712)), false),
            ("abc.X_9-z 4711\n", None, false),
            ("abc.X_9-z 0\n", DEAD, true),
            ("abc.X_9-z 0\n", None, true),
            ("abc.X_9-z 4711", DEAD, false),
            ("abc.X_9-z", DEAD, false),
            (" 4711\n", DEAD, false),
            ("a&b=c 4711\n", DEAD, false),
            ("abc.X_9-z -1\n", DEAD, false),
            ("abc.X_9-z 4711\nmore\n", DEAD, false),
            ("", DEAD, false),
        ] {
            fs::write(&path, text).unwrap();
            let run = kept(&lock, dead);
            assert_eq!(
                (run.inherited.is_some(), run.id == "abc.X_9-z"),
                (taken_over, taken_over),
                "{text:?} {dead:?}"
            );
        }
        fs::write(&path, format!("{} 4711\n", "a".repeat(65))).unwrap();
        assert_eq!(kept(&lock, DEAD).inherited, None);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_left_to_the_next_run_is_there_for_it() {
        let (folder, lock) = lock("next");
        let killed = kept(&lock, None);
        let id = killed.id.clone();
        std::mem::forget(killed);
        let mut taken_over = kept(&lock, Some(process::own_pid()));
        assert_eq!(
            (&taken_over.id, taken_over.inherited),
            (&id, Some(process::own_pid()))
        );
        taken_over.retire();
        assert!(
            !lock.with_extension("run").exists(),
            "its release may be under way"
        );
        taken_over.pass_on();
        assert_eq!(content(&lock), format!("{id} 0\n"));
        assert_eq!(kept(&lock, None).id, id);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn nothing_is_read_or_written_through_a_link_and_no_file_of_another_user_counts() {
        let (folder, lock) = lock("planted");
        let (path, target) = (lock.with_extension("run"), folder.join("target"));
        fs::write(&target, "abc 4711\n").unwrap();
        symlink(&target, &path).unwrap();
        symlink(&target, path.with_extension("run-new")).unwrap();
        assert_eq!(kept(&lock, DEAD).inherited, None);
        assert_eq!(fs::read_to_string(&target).unwrap(), "abc 4711\n");
        if effective_uid() == 0 {
            std::os::unix::fs::chown(&target, Some(65_534), None).unwrap();
            fs::rename(&target, &path).unwrap();
            assert_eq!(kept(&lock, DEAD).inherited, None);
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn without_its_file_a_run_has_an_id_all_the_same() {
        let (folder, lock) = lock("without");
        let path = lock.with_extension("run");
        fs::create_dir_all(path.join("in the way")).unwrap();
        let (run, flaw) = RunId::kept_beside(&lock, DEAD);
        assert_eq!((run.id.len(), run.inherited), (32, None));
        assert_eq!(flaw.map(|(found, _)| found), Some(path.clone()));
        drop(run);
        assert!(path.exists() && !path.with_extension("run-new").exists());
        fs::remove_dir_all(folder).unwrap();
    }
}

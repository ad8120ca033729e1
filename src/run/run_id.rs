//! The id of a run, by which a lock server distinguishes the runs of one host, and the file next to
//! the host lock that stores it. If a run is killed, the server still has its slot. The next run
//! takes over the host lock when no process of the killed run is left, and continues with its id,
//! so that it does not wait until the lease expires.
//!
//! Only the run that holds the host lock reads and writes the file. Its id is used only if the file
//! names the dead process whose host lock was taken over, or no process. Otherwise the id may
//! belong to a living run whose lock file was removed. Python programs do not use this file.

use crate::sys::file::{self, effective_uid};
use crate::sys::process::{self, Pid};
use crate::sys::random;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Only its owner may read the file. The sticky bit keeps systemd-tmpfiles from removing it by age.
const MODE: u32 = 0o1600;

/// How much of the file is read: more than an id and a pid have.
const LONGEST: u64 = 128;

/// The longest id that a server accepts.
const LONGEST_ID: usize = 64;

/// The id of a run, and the file that stores it.
#[derive(Debug)]
pub(super) struct RunId {
    /// 1 to 64 characters of `[0-9A-Za-z._-]`.
    pub(super) id: String,
    /// The dead process that had this id; 0 if that process has ended by itself, but the server may
    /// not know that it has released its slot.
    pub(super) inherited: Option<Pid>,
    /// The file that stores it, removed with this value. `None` if there is none, or if it could
    /// not be written.
    file: Option<RunFile>,
}

/// A file that this run has written.
#[derive(Debug)]
struct RunFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl RunId {
    /// A new id, without a file.
    pub(super) fn new() -> RunId {
        RunId {
            id: format!("{:032x}", u128::from_be_bytes(random::bytes())),
            inherited: None,
            file: None,
        }
    }

    /// The id of a run that holds the host lock, the file `lock`. `dead`: the process that left this
    /// file behind, if one did. Also returns the path that cannot be written, and why.
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

    /// Removes the file, so that the next run gets a new id.
    pub(super) fn retire(&mut self) {
        if let Some(RunFile { path, identity }) = &self.file
            && fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == *identity)
        {
            let _ = fs::remove_file(path);
        }
    }

    /// Leaves the id to the next run, although this run ends by itself.
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

/// Instead of a pid: no process uses the id.
const NONE: Pid = Pid(0);

/// The id and the pid in a file. `None` if the file is missing, belongs to another user, or has other
/// content.
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

/// Replaces the file in one step, so that it is never half written, and that nothing is written
/// through a link that another user has made.
fn write(path: &Path, id: &str, owner: Pid) -> io::Result<RunFile> {
    let draft = path.with_extension("run-new");
    let mut file = file::create_draft(&draft, MODE)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const DEAD: Option<Pid> = Some(Pid(4711));

    /// A directory for one test, and the lock file of a pool in it.
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
    fn each_run_has_its_own_id_and_removes_its_file() {
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

    /// A run whose lock file was removed may be alive, so no other run may use its id.
    #[test]
    fn id_is_taken_over_only_from_the_dead_process_whose_lock_was_taken_over() {
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
    fn id_that_was_passed_on_is_used_by_the_next_run() {
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
    fn links_are_not_followed_and_files_of_other_users_are_ignored() {
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
    fn run_without_its_file_still_has_an_id() {
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

//! Files: locks on them by flock(2), which belongs to the open file, so forked processes hold it
//! together; and what of them std does not say.

pub use super::descriptors::close_from_other_than;

use super::check;
use super::folder::{self, Folder};
use std::ffi::{CString, c_int};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// How patiently to lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// At once or not at all.
    Now,
    /// Block until it is free: for a helper process that does nothing else.
    WhenFree,
}

/// Takes the exclusive lock of a file; false if it is another's.
pub fn lock(file: impl AsFd, how: How) -> io::Result<bool> {
    let operation = match how {
        How::Now => libc::LOCK_EX | libc::LOCK_NB,
        How::WhenFree => libc::LOCK_EX,
    };
    // SAFETY: flock(2) touches no memory.
    match check(unsafe { libc::flock(file.as_fd().as_raw_fd(), operation) }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives the lock back, for all processes that share the open file.
pub fn unlock(file: impl AsFd) -> io::Result<()> {
    // SAFETY: flock(2) touches no memory.
    check(unsafe { libc::flock(file.as_fd().as_raw_fd(), libc::LOCK_UN) })?;
    Ok(())
}

/// How a lock file is opened: a pipe, a device or another process's lease on it must not block this
/// process, nor may a terminal become its own.
const LOCK_FILE: c_int = libc::O_RDWR | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;

/// Marks a file as in use however old it is: systemd-tmpfiles does not remove a file with the
/// sticky bit.
const IN_USE: u32 = libc::S_ISVTX;

/// Opens a lock file for reading and writing. If it is not there, it is made with this mode,
/// whatever the umask, and the sticky bit. Never follows a link as the last part of the path.
pub fn open_lock_file(path: &Path, mode: u32) -> io::Result<File> {
    open_or_make(mode, |flags, mode| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .mode(mode)
            .open(path)
    })
}

/// The same in an open folder.
pub fn open_lock_file_in(folder: &Folder, name: &str, mode: u32) -> io::Result<File> {
    open_or_make(mode, |flags, mode| {
        folder
            .open_entry(name.as_ref(), flags, mode)
            .map(File::from)
    })
}

fn open_or_make(mode: u32, open: impl Fn(c_int, u32) -> io::Result<File>) -> io::Result<File> {
    // First without O_CREAT: fs.protected_regular forbids that on another's file in a sticky
    // folder, though it be there.
    match open(LOCK_FILE, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let mode = mode | IN_USE;
    match folder::with_whole_modes(|| open(LOCK_FILE | libc::O_CREAT | libc::O_EXCL, mode)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(LOCK_FILE, 0), /* another run was quicker */
        // Again by descriptor: not every file system takes the sticky bit from open(2), and a
        // default ACL takes permissions away.
        result => result.and_then(|file| {
            file.set_permissions(Permissions::from_mode(mode))
                .map(|()| file)
        }),
    }
}

/// Whether a file has the mark that keeps cleaners off. A lock file that another program made has
/// not.
pub fn is_marked(found: &Metadata) -> bool {
    found.mode() & IN_USE != 0
}

/// What is at a path, if it is this open file. A lock on a file that was removed or replaced keeps
/// no other process out.
pub fn in_place(file: &File, path: &Path) -> Option<Metadata> {
    let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
    let found = fs::symlink_metadata(path).ok()?;
    file.metadata()
        .is_ok_and(|open| identity(&open) == identity(&found))
        .then_some(found)
}

/// The beginning of a file, in one read. For files of /proc: they are short, and do not say how
/// long they are.
pub fn read_start(path: impl AsRef<Path>, buffer: &mut [u8]) -> io::Result<&[u8]> {
    let length = File::open(path)?.read(buffer)?;
    Ok(&buffer[..length])
}

/// Opens a file to be read. Never follows a link, and never waits, be it a pipe.
pub fn open_own(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Whether exec may run this file, as far as permissions go.
pub fn executable(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_encoded_bytes()) else {
        return false;
    };
    // SAFETY: the path is a C string that outlives the call.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) == 0 }
}

/// Whose rights this process has; 0 is root.
pub fn effective_uid() -> u32 {
    // SAFETY: geteuid(2) touches no memory and cannot fail.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_in_child;
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::process::Command;
    use std::time::Duration;

    /// A new folder for one test.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("zk-flock-{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        folder
    }

    #[test]
    fn a_lock_is_one_holders_and_free_after() {
        let folder = folder("lock");
        let [ours, theirs] = [(); 2].map(|()| open_lock_file(&folder.join("lock"), 0o600).unwrap());
        assert_eq!(ours.metadata().unwrap().mode() & 0o7777, 0o1600);
        assert!(lock(&ours, How::Now).unwrap());
        assert!(!lock(&theirs, How::Now).unwrap());
        check_in_child(|| {
            assert!(lock(&ours, How::Now).unwrap(), "a forked process shares it");
            assert!(!lock(&theirs, How::Now).unwrap());
        });
        unlock(&ours).unwrap();
        assert!(lock(&theirs, How::WhenFree).unwrap());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_lock_file_is_no_link() {
        let folder = folder("link");
        let link = folder.join("link");
        symlink(folder.join("target"), &link).unwrap();
        assert_eq!(
            open_lock_file(&link, 0o600).unwrap_err().raw_os_error(),
            Some(libc::ELOOP)
        );
        fs::write(folder.join("target"), "").unwrap();
        assert_eq!(
            open_lock_file(&link, 0o600).unwrap_err().raw_os_error(),
            Some(libc::ELOOP)
        );
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_is_there_keeps_its_mode() {
        let path = folder("mode");
        let lock = path.join("lock");
        fs::write(&lock, "").unwrap();
        fs::set_permissions(&lock, Permissions::from_mode(0o640)).unwrap();
        let opened = [
            open_lock_file(&lock, 0o600).unwrap(),
            open_lock_file_in(&Folder::at(&path).unwrap(), "lock", 0o600).unwrap(),
        ];
        assert!(
            opened
                .iter()
                .all(|file| file.metadata().unwrap().mode() & 0o7777 == 0o640)
        );
        let made = open_lock_file_in(&Folder::at(&path).unwrap(), "other", 0o666).unwrap();
        assert_eq!(made.metadata().unwrap().mode() & 0o7777, 0o1666);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_pipe_does_not_block() {
        let path = folder("pipe");
        assert!(
            Command::new("mkfifo")
                .arg(path.join("pipe"))
                .status()
                .unwrap()
                .success()
        );
        let opened = std::sync::mpsc::channel();
        #[allow(
            clippy::disallowed_methods,
            reason = "what hangs must not hang the test"
        )]
        std::thread::spawn({
            let pipe = path.join("pipe");
            move || {
                opened.0.send(
                    open_lock_file(&pipe, 0o600).map(|file| file.metadata().unwrap().is_file()),
                )
            }
        });
        assert!(matches!(
            opened.1.recv_timeout(Duration::from_secs(20)),
            Ok(Ok(false))
        ));
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_file_is_at_its_path_until_it_is_moved_removed_or_replaced() {
        let path = folder("identity");
        let lock = path.join("lock");
        let file = open_lock_file(&lock, 0o600).unwrap();
        assert!(in_place(&file, &lock).is_some());
        fs::rename(&path, path.with_extension("moved")).unwrap();
        assert!(in_place(&file, &lock).is_none());
        fs::create_dir(&path).unwrap();
        open_lock_file(&lock, 0o600).unwrap();
        assert!(in_place(&file, &lock).is_none());
        fs::remove_file(&lock).unwrap();
        symlink(path.with_extension("moved").join("lock"), &lock).unwrap();
        assert!(in_place(&file, &lock).is_none(), "a link to it is not it");
        fs::remove_dir_all(path.with_extension("moved")).unwrap();
        fs::remove_dir_all(path).unwrap();
    }
}

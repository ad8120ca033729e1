//! Files: locks on them by flock(2), which belongs to the open file, so forked processes hold it together; and what of them std does not say.

pub use super::descriptors::close_from_other_than;

use super::check;
use std::ffi::CString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
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

/// Opens a lock file for reading and writing; if it is not there, it is made with this mode, whatever the umask. Never follows a link.
pub fn open_lock_file(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW);
    // First without O_CREAT: fs.protected_regular forbids that on another's file in a sticky folder, though it be there.
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    match options.create_new(true).mode(mode).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.create_new(false).open(path), // another was quicker
        result => result.and_then(|file| file.set_permissions(Permissions::from_mode(mode)).map(|()| file)),
    }
}

/// The beginning of a file, in one read. For files of /proc: they are short, and do not say how long they are.
pub fn read_start(path: impl AsRef<Path>, buffer: &mut [u8]) -> io::Result<&[u8]> {
    let length = File::open(path)?.read(buffer)?;
    Ok(&buffer[..length])
}

/// Opens a file to be read. Never follows a link, and never waits, be it a pipe.
pub fn open_own(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Whether exec may run this file, as far as permissions go.
pub fn executable(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_encoded_bytes()) else { return false };
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
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

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
        assert_eq!(ours.metadata().unwrap().permissions().mode() & 0o777, 0o600);
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
        assert_eq!(open_lock_file(&link, 0o600).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        fs::write(folder.join("target"), "").unwrap();
        assert_eq!(open_lock_file(&link, 0o600).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        fs::remove_dir_all(folder).unwrap();
    }
}

//! Files: locks by flock(2), and operations that std lacks. An flock belongs to the open file
//! description, so forked processes share it.

pub use super::descriptors::close_all_except;

use super::check;
use super::folder::{self, Folder};
use std::ffi::{CString, c_int};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Whether to wait for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockMode {
    /// Fail at once if another process holds it.
    NonBlocking,
    /// Block until it is free: for a helper process that does nothing else.
    Blocking,
}

/// Takes the exclusive lock of a file; false if another process holds it.
pub fn lock(file: impl AsFd, mode: LockMode) -> io::Result<bool> {
    flock(file, libc::LOCK_EX, mode)
}

/// Takes the shared lock of a file; false if another process holds the exclusive one.
pub fn lock_shared(file: impl AsFd, mode: LockMode) -> io::Result<bool> {
    flock(file, libc::LOCK_SH, mode)
}

fn flock(file: impl AsFd, operation: c_int, mode: LockMode) -> io::Result<bool> {
    let operation = match mode {
        LockMode::NonBlocking => operation | libc::LOCK_NB,
        LockMode::Blocking => operation,
    };
    // SAFETY: flock(2) touches no memory.
    let locked = check(unsafe { libc::flock(file.as_fd().as_raw_fd(), operation) });
    busy_is_false(locked, &[libc::EWOULDBLOCK])
}

/// Takes the record lock of the content of a file, which no lock of flock(2) excludes; false if
/// another process holds it. It belongs to this process, not to the open file, and ends when the
/// process closes any descriptor of the file.
pub fn lock_content(file: impl AsFd, mode: LockMode) -> io::Result<bool> {
    let command = match mode {
        LockMode::NonBlocking => libc::F_SETLK,
        LockMode::Blocking => libc::F_SETLKW,
    };
    busy_is_false(
        record_lock(file, command, libc::F_WRLCK),
        &[libc::EAGAIN, libc::EACCES],
    )
}

/// Releases that lock.
pub fn unlock_content(file: impl AsFd) -> io::Result<()> {
    record_lock(file, libc::F_SETLK, libc::F_UNLCK).map(drop)
}

fn record_lock(file: impl AsFd, command: c_int, kind: c_int) -> io::Result<c_int> {
    // SAFETY: all bits of the structure are integers, and zero is a value of each.
    let mut whole: libc::flock = unsafe { std::mem::zeroed() };
    whole.l_type = i16::try_from(kind).map_err(io::Error::other)?;
    whole.l_whence = i16::try_from(libc::SEEK_SET).map_err(io::Error::other)?; // all of it
    // SAFETY: the structure outlives the call, which reads it.
    check(unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, &raw const whole) })
}

fn busy_is_false(locked: io::Result<c_int>, busy: &[c_int]) -> io::Result<bool> {
    match locked {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error().is_some_and(|it| busy.contains(&it)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Releases the lock, for all processes that share the open file description.
pub fn unlock(file: impl AsFd) -> io::Result<()> {
    // SAFETY: flock(2) touches no memory.
    check(unsafe { libc::flock(file.as_fd().as_raw_fd(), libc::LOCK_UN) })?;
    Ok(())
}

/// Creates a file that will replace another by rename(2), with this mode, independent of the umask.
/// It removes the file that a killed process has left there, and follows no link.
pub fn create_draft(path: &Path, mode: u32) -> io::Result<File> {
    let create = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
    };
    let file = match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path).and_then(|()| create())
        }
        created => created,
    }?;
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

/// Flags for opening a lock file: a pipe, a device or another process's lease on it must not block
/// this process, and a terminal must not become its controlling terminal.
const LOCK_FILE: c_int = libc::O_RDWR | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;

/// Marks a file as in use regardless of its age: systemd-tmpfiles does not remove a file with the
/// sticky bit.
const IN_USE: u32 = libc::S_ISVTX;

/// Opens a lock file for reading and writing. If it does not exist, it is created with this mode,
/// independent of the umask, and the sticky bit. Never follows a link as the last part of the path.
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

/// Opens a lock file that is there, as a run would.
pub fn open_existing_lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(LOCK_FILE)
        .open(path)
}

/// The same as `open_lock_file`, relative to an open folder.
pub fn open_lock_file_in(folder: &Folder, name: &str, mode: u32) -> io::Result<File> {
    open_or_make(mode, |flags, mode| {
        folder
            .open_entry(name.as_ref(), flags, mode)
            .map(File::from)
    })
}

fn open_or_make(mode: u32, open: impl Fn(c_int, u32) -> io::Result<File>) -> io::Result<File> {
    // First without O_CREAT: fs.protected_regular forbids O_CREAT on another user's existing file
    // in a sticky folder.
    match open(LOCK_FILE, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let mode = mode | IN_USE;
    match folder::without_umask(|| open(LOCK_FILE | libc::O_CREAT | libc::O_EXCL, mode)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(LOCK_FILE, 0), /* another run was quicker */
        // The mode is set again by descriptor: some file systems ignore the sticky bit in open(2),
        // and a default ACL removes permissions.
        result => result.and_then(|file| {
            file.set_permissions(Permissions::from_mode(mode))
                .map(|()| file)
        }),
    }
}

/// Whether a file has the mark that keeps cleaners off. A lock file made by another program lacks
/// it.
pub fn is_marked(found: &Metadata) -> bool {
    found.mode() & IN_USE != 0
}

/// The metadata of the path, if the path still refers to this open file. A lock on a file that was
/// removed or replaced excludes no other process.
pub fn in_place(file: &File, path: &Path) -> Option<Metadata> {
    let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
    let found = fs::symlink_metadata(path).ok()?;
    file.metadata()
        .is_ok_and(|open| identity(&open) == identity(&found))
        .then_some(found)
}

/// Reads the start of a file in one read. For files of /proc, which are short and do not report
/// their length.
pub fn read_start(path: impl AsRef<Path>, buffer: &mut [u8]) -> io::Result<&[u8]> {
    let length = File::open(path)?.read(buffer)?;
    Ok(&buffer[..length])
}

/// Opens a file for reading. Never follows a link, and never blocks, even on a pipe.
pub fn open_nofollow(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Opens a file of any kind only to find out what it is: that needs no permission for the file, and
/// does not follow a link.
pub fn open_as_path(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_PATH)
        .open(path)
}

/// Whether permissions allow exec to run this file.
pub fn executable(path: &Path) -> bool {
    access(path, libc::X_OK).is_ok()
}

/// Whether files may be made and replaced in this folder, as far as permissions and the mount go.
/// Writes nothing.
pub fn check_writable_folder(path: &Path) -> io::Result<()> {
    if !fs::metadata(path)?.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
    }
    access(path, libc::W_OK | libc::X_OK)
}

fn access(path: &Path, how: c_int) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: the path is a C string that outlives the call.
    check(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), how, libc::AT_EACCESS) })?;
    Ok(())
}

/// The effective user id of this process; 0 is root.
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
    fn lock_has_one_holder_and_is_free_after_release() {
        let folder = folder("lock");
        let [first, second] =
            [(); 2].map(|()| open_lock_file(&folder.join("lock"), 0o600).unwrap());
        assert_eq!(first.metadata().unwrap().mode() & 0o7777, 0o1600);
        assert!(lock(&first, LockMode::NonBlocking).unwrap());
        assert!(!lock(&second, LockMode::NonBlocking).unwrap());
        check_in_child(|| {
            assert!(
                lock(&first, LockMode::NonBlocking).unwrap(),
                "a forked process shares it"
            );
            assert!(!lock(&second, LockMode::NonBlocking).unwrap());
        });
        unlock(&first).unwrap();
        assert!(lock(&second, LockMode::Blocking).unwrap());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn lock_file_is_not_opened_through_a_link() {
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
    fn existing_lock_file_keeps_its_mode() {
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
    fn pipe_in_place_of_a_lock_file_does_not_block() {
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
    fn file_is_in_place_until_moved_removed_or_replaced() {
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

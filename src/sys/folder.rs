//! Folders by descriptor. A file opened or created in an open folder is in that folder, even if its
//! path leads elsewhere by now.

use super::{check, opened};
use std::ffi::{CString, OsStr, OsString, c_int};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The bits of a mode that mkdir(2) uses: permissions and the sticky bit. The kernel inherits the
/// set-group-ID bit by itself.
const FOLDER_MODE: u32 = 0o1777;

/// Maximum length of a link's target (the kernel's PATH_MAX).
const LONGEST_LINK: usize = 4096;

/// An open folder. Opened with O_PATH, so reading it needs no permission, like the intermediate
/// folders of a path.
#[derive(Debug)]
pub struct Folder(File);

impl Folder {
    /// Opens the folder at a path; the kernel follows links.
    pub fn at(path: impl AsRef<Path>) -> io::Result<Folder> {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(path)
            .map(Folder)
    }

    /// Opens a subfolder. `NotADirectory` for anything else, including a link to a folder.
    pub fn open(&self, name: &OsStr) -> io::Result<Folder> {
        self.open_entry(name, libc::O_PATH | libc::O_DIRECTORY, 0)
            .map(|fd| Folder(fd.into()))
    }

    /// Opens an entry that is not a folder, or creates a file. Never follows a link.
    pub(super) fn open_entry(&self, name: &OsStr, flags: c_int, mode: u32) -> io::Result<OwnedFd> {
        let name = CString::new(name.as_bytes())?;
        let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        // SAFETY: openat(2) reads the name, a C string that outlives the call, and with these flags
        // at most one more number, the mode.
        opened(unsafe { libc::openat(self.0.as_raw_fd(), name.as_ptr(), flags, mode) })
    }

    /// Creates a subfolder; false if the name exists. The umask limits the mode.
    pub fn make(&self, name: &OsStr, mode: u32) -> io::Result<bool> {
        let name = CString::new(name.as_bytes())?;
        // SAFETY: mkdirat(2) reads the name, a C string that outlives the call.
        match check(unsafe { libc::mkdirat(self.0.as_raw_fd(), name.as_ptr(), mode & FOLDER_MODE) })
        {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            result => result.map(|_| true),
        }
    }

    /// Reads the target of a link. `InvalidInput` if it is not a link.
    pub fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        let name = CString::new(name.as_bytes())?;
        let mut target = vec![0; LONGEST_LINK];
        // SAFETY: readlinkat(2) reads the name, a C string that outlives the call, and writes at
        // most as many bytes as fit.
        let length = check(unsafe {
            libc::readlinkat(
                self.0.as_raw_fd(),
                name.as_ptr(),
                target.as_mut_ptr().cast(),
                target.len(),
            )
        })?;
        target.truncate(length.cast_unsigned());
        Ok(OsString::from_vec(target).into())
    }

    /// Owner and mode.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }
}

/// Runs `work` with umask 0: files get their whole mode at creation, so that no other user is
/// refused in between.
pub fn without_umask<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: umask(2) touches no memory and cannot fail. Other threads, if any, create no secret
    // files meanwhile.
    let umask = unsafe { libc::umask(0) };
    let result = work();
    // SAFETY: as above.
    unsafe { libc::umask(umask) };
    result
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_in_child;
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn in_new_folder(name: &str, test: impl FnOnce(&Path, Folder)) {
        let path = std::env::temp_dir().join(format!("zk-flock-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        test(&path, Folder::at(&path).unwrap());
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn open_folder_stays_the_same_when_its_path_changes() {
        in_new_folder("moved", |path, folder| {
            assert!(folder.make("below".as_ref(), 0o700).unwrap());
            assert!(
                !folder.make("below".as_ref(), 0o700).unwrap(),
                "it is there"
            );
            let below = folder.open("below".as_ref()).unwrap();
            fs::rename(path.join("below"), path.join("moved")).unwrap();
            symlink("/", path.join("below")).unwrap();
            assert!(below.make("made".as_ref(), 0o700).unwrap());
            assert!(path.join("moved/made").is_dir());
        });
    }

    #[test]
    fn link_is_read_and_not_followed() {
        in_new_folder("link-to-folder", |path, folder| {
            symlink("/tmp", path.join("link")).unwrap();
            assert_eq!(
                folder.open("link".as_ref()).unwrap_err().kind(),
                io::ErrorKind::NotADirectory
            );
            assert_eq!(
                folder.read_link("link".as_ref()).unwrap(),
                Path::new("/tmp")
            );
            fs::write(path.join("file"), "").unwrap();
            assert_eq!(
                folder.open("file".as_ref()).unwrap_err().kind(),
                io::ErrorKind::NotADirectory
            );
            assert_eq!(
                folder.read_link("file".as_ref()).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
            assert_eq!(
                folder.open("nothing".as_ref()).unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
        });
    }

    #[test]
    fn umask_applies_except_within_with_whole_modes() {
        in_new_folder("modes", |path, folder| {
            check_in_child(|| {
                // SAFETY: umask(2) touches no memory and cannot fail.
                unsafe { libc::umask(0o027) };
                assert!(folder.make("usual".as_ref(), 0o777).unwrap());
                assert!(without_umask(|| folder.make("whole".as_ref(), 0o1777)).unwrap());
                assert!(folder.make("again".as_ref(), 0o777).unwrap());
                let mode =
                    |name| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o7777;
                assert_eq!(
                    ["usual", "whole", "again"].map(mode),
                    [0o750, 0o1777, 0o750]
                );
            });
        });
    }
}

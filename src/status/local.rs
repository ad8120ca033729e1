//! The locks of files, as the kernel lists them in /proc/locks (proc(5)):
//!
//! ```text
//! 1: FLOCK  ADVISORY  WRITE 4711 00:1b:5211 0 EOF
//! 1: -> FLOCK  ADVISORY  WRITE 4712 00:1b:5211 0 EOF
//! ```
//!
//! The second line is of a process that waits for the first lock.

/// A file by device and inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileId {
    /// The number of the device's driver.
    pub major: u32,
    /// The number of the device there.
    pub minor: u32,
    /// The inode.
    pub inode: u64,
}

/// A line of /proc/locks about flock(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileLock {
    /// The process that called flock(2). `None`: it has ended, or is in another process namespace.
    pub pid: Option<u32>,
    /// What is locked.
    pub file: FileId,
    /// It is a shared lock.
    pub shared: bool,
    /// The process waits for the lock.
    pub waits: bool,
}

/// The locks of flock(2) in the text of /proc/locks, in its order. Other lines are skipped.
pub fn parse(text: &str) -> Vec<FileLock> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<FileLock> {
    let mut fields = line.split_ascii_whitespace().skip(1).peekable();
    let waits = fields.next_if_eq(&"->").is_some();
    if fields.next()? != "FLOCK" {
        return None;
    }
    let shared = fields.nth(1)? == "READ";
    let pid = fields.next()?.parse().ok().filter(|&pid| pid > 0);
    let mut id = fields.next()?.split(':');
    let device = |text| u32::from_str_radix(text, 16).ok();
    Some(FileLock {
        pid,
        file: FileId {
            major: device(id.next()?)?,
            minor: device(id.next()?)?,
            inode: id.next()?.parse().ok()?,
        },
        shared,
        waits,
    })
}

/// The device of a file, by the text of /proc/self/fdinfo/FD and that of /proc/self/mountinfo: the
/// kernel lists locks by the device of the mount, which is not that of stat(2) on btrfs.
pub fn device(fdinfo: &str, mountinfo: &str) -> Option<(u32, u32)> {
    let mount = fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))?;
    let line = mountinfo
        .lines()
        .find(|line| line.split(' ').next() == Some(mount.trim()))?;
    let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Whether the text of a /proc/PID/fdinfo/FD says that a lock of flock(2) is held by this
/// descriptor.
pub fn holds(fdinfo: &str) -> bool {
    let mut locks = fdinfo.lines().filter_map(|line| line.strip_prefix("lock:"));
    locks.any(|lock| lock.split_ascii_whitespace().nth(1) == Some("FLOCK"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_flock_are_read_and_others_skipped() {
        let text = "\
1: FLOCK  ADVISORY  WRITE 4711 00:1b:5211 0 EOF
1: -> FLOCK  ADVISORY  WRITE 4712 00:1b:5211 0 EOF
2: POSIX  ADVISORY  WRITE 7 fd:01:99 0 EOF
3: FLOCK  ADVISORY  READ  0 fd:01:7 0 EOF
4: FLOCK
nonsense
";
        let file = FileId {
            major: 0,
            minor: 0x1b,
            inode: 5211,
        };
        let other = FileId {
            major: 0xfd,
            minor: 1,
            inode: 7,
        };
        let lock = |pid, file, shared, waits| FileLock {
            pid,
            file,
            shared,
            waits,
        };
        assert_eq!(
            parse(text),
            [
                lock(Some(4711), file, false, false),
                lock(Some(4712), file, false, true),
                lock(None, other, true, false)
            ]
        );
    }

    #[test]
    fn device_is_that_of_the_mount() {
        let mounts =
            "22 28 0:20 / /proc rw - proc proc rw\n25 28 0:27 / /run rw - tmpfs tmpfs rw\n";
        assert_eq!(
            device("pos:\t0\nflags:\t0\nmnt_id:\t25\n", mounts),
            Some((0, 27))
        );
        assert_eq!(device("pos:\t0\n", mounts), None);
        assert_eq!(device("mnt_id:\t9\n", mounts), None);
    }

    #[test]
    fn descriptor_that_holds_a_lock_is_told_from_one_that_waits() {
        assert!(holds(
            "pos:\t0\nlock:\t1: FLOCK  ADVISORY  WRITE 9 00:1b:5 0 EOF\n"
        ));
        assert!(!holds("pos:\t0\nmnt_id:\t25\n"));
        assert!(!holds("lock:\t1: POSIX  ADVISORY  WRITE 9 00:1b:5 0 EOF\n"));
    }
}

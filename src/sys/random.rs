//! Random bytes, for a uuid and to shuffle hosts. Not for secrets: if the kernel has none, they are
//! derived from time and process id.

use super::{check, clock, process};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::time::SystemTime;

/// Returns N random bytes. N is 256 at most, because getrandom(2) may return fewer bytes of a
/// larger request.
pub fn bytes<const N: usize>() -> [u8; N] {
    const { assert!(N <= 256) };
    from_kernel()
        .or_else(|_| from_device())
        .unwrap_or_else(|_| from_time())
}

/// ENOSYS before Linux 3.17, EAGAIN early in the boot.
fn from_kernel<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: getrandom(2) writes at most N bytes, and all of them if it succeeds and N is 256 at
    // most.
    check(unsafe {
        libc::syscall(
            libc::SYS_getrandom,
            bytes.as_mut_ptr(),
            N,
            libc::GRND_NONBLOCK,
        )
    })?;
    Ok(bytes)
}

fn from_device<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn from_time<const N: usize>() -> [u8; N] {
    let mut hasher = DefaultHasher::new();
    (SystemTime::now(), clock::since_boot(), process::own_pid()).hash(&mut hasher);
    std::array::from_fn(|place| {
        place.hash(&mut hasher);
        hasher.finish().to_ne_bytes()[0]
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_in_child, refuse};
    use super::*;

    #[test]
    fn each_source_gives_different_bytes_each_time() {
        let sources: [fn() -> io::Result<[u8; 16]>; 4] =
            [from_kernel, from_device, || Ok(from_time()), || Ok(bytes())];
        for source in sources {
            assert_ne!(source().unwrap(), source().unwrap());
        }
    }

    #[test]
    fn bytes_are_random_without_getrandom() {
        check_in_child(|| {
            refuse(&[(libc::SYS_getrandom, libc::ENOSYS)]);
            assert!(from_kernel::<16>().is_err());
            assert_ne!(bytes::<16>(), bytes());
            refuse(&[(libc::SYS_openat, libc::ENOENT)]);
            assert!(from_device::<16>().is_err());
            assert_ne!(bytes::<16>(), bytes());
        });
    }
}

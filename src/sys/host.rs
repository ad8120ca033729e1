//! The names of this host.

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::zeroed;
use std::ptr;

/// Linux names have at most 64 bytes; POSIX allows 255.
const LONGEST: usize = 256;

/// Maximum length of a name from the resolver, including its NUL (NI_MAXHOST).
const LONGEST_FULL: u32 = 1025;

/// The kernel's host name, without a look-up.
pub fn name() -> String {
    let mut name = [0u8; LONGEST];
    // SAFETY: gethostname(2) writes at most one byte less than the buffer has, so that a NUL is
    // left.
    unsafe { libc::gethostname(name.as_mut_ptr().cast(), LONGEST - 1) };
    CStr::from_bytes_until_nul(&name).map_or_else(
        |_| String::new(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// The full name of a host, as Python's `gethostbyaddr(name)` gives it: the name of its first
/// address; without one, the canonical name. `None` if the look-up fails. Blocks as long as the
/// name servers do.
pub fn full_name(name: &str) -> Option<String> {
    let name = CString::new(name).ok()?;
    let found = Found::look_up(&name)?;
    found
        .name_of_address()
        .or_else(|| found.canonical_name())
        .filter(|name| !name.is_empty())
}

/// The result list of getaddrinfo(3).
struct Found(*mut libc::addrinfo);

impl Found {
    fn look_up(name: &CStr) -> Option<Found> {
        // SAFETY: an addrinfo consists of numbers and pointers, for which zeros are valid.
        let mut wanted: libc::addrinfo = unsafe { zeroed() };
        wanted.ai_flags = libc::AI_CANONNAME;
        wanted.ai_socktype = libc::SOCK_STREAM;
        let mut found = ptr::null_mut();
        // SAFETY: getaddrinfo(3) reads the name and the hints, and on success returns a list.
        let result = unsafe {
            libc::getaddrinfo(
                name.as_ptr(),
                ptr::null(),
                &raw const wanted,
                &raw mut found,
            )
        };
        (result == 0 && !found.is_null()).then(|| Found(found)) // musl does not free a list that is null
    }

    fn first(&self) -> &libc::addrinfo {
        // SAFETY: this value owns the list until it is dropped, and the list is not empty.
        unsafe { &*self.0 }
    }

    /// The name of the first address.
    fn name_of_address(&self) -> Option<String> {
        let mut name = [0u8; LONGEST_FULL as usize];
        let (address, length) = (self.first().ai_addr, self.first().ai_addrlen);
        let buffer = name.as_mut_ptr().cast::<c_char>();
        let flags: c_int = libc::NI_NAMEREQD;
        // SAFETY: getnameinfo(3) reads `length` bytes of the address and writes at most as many
        // bytes as fit.
        let result = unsafe {
            libc::getnameinfo(
                address,
                length,
                buffer,
                LONGEST_FULL,
                ptr::null_mut(),
                0,
                flags,
            )
        };
        (result == 0).then(|| CStr::from_bytes_until_nul(&name).ok().map(text))?
    }

    fn canonical_name(&self) -> Option<String> {
        let name = self.first().ai_canonname;
        // SAFETY: the first entry has the canonical name, a C string that lives as long as the
        // list, or null.
        (!name.is_null()).then(|| text(unsafe { CStr::from_ptr(name) }))
    }
}

impl Drop for Found {
    fn drop(&mut self) {
        // SAFETY: getaddrinfo(3) returned the list, and no reference to it is left.
        unsafe { libc::freeaddrinfo(self.0) };
    }
}

fn text(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_the_kernels() {
        assert_eq!(
            name() + "\n",
            std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap()
        );
    }

    #[test]
    fn full_name_is_the_first_name_in_etc_hosts() {
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap();
        let first = hosts
            .lines()
            .find_map(|line| line.strip_prefix("127.0.0.1")?.split_whitespace().next())
            .unwrap();
        assert_eq!(full_name("127.0.0.1").as_deref(), Some(first));
    }

    #[test]
    fn name_without_an_address_has_no_full_name() {
        assert_eq!(full_name("no-such-host.invalid"), None);
        assert_eq!(full_name(""), None);
        assert_eq!(full_name("a\0b"), None);
    }
}

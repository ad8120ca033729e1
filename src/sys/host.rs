//! The names of this host.

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::zeroed;
use std::ptr;

/// Linux names have 64 bytes at most; POSIX allows 255.
const LONGEST: usize = 256;

/// Longest name that the resolver gives, with its NUL (NI_MAXHOST).
const LONGEST_FULL: u32 = 1025;

/// The host's name as it calls itself, without any look-up.
pub fn name() -> String {
    let mut name = [0u8; LONGEST];
    // SAFETY: gethostname(2) writes one byte less than we have at most, so that a NUL is left.
    unsafe { libc::gethostname(name.as_mut_ptr().cast(), LONGEST - 1) };
    CStr::from_bytes_until_nul(&name).map_or_else(
        |_| String::new(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// What name servers call the host of this name, as Python's `gethostbyaddr(name)` has it: the name
/// of its first address; if that has none, what its own name stands for. `None` if that is nothing.
/// Blocks for as long as name servers do.
pub fn full_name(name: &str) -> Option<String> {
    let name = CString::new(name).ok()?;
    let found = Found::look_up(&name)?;
    found
        .name_of_address()
        .or_else(|| found.canonical_name())
        .filter(|name| !name.is_empty())
}

/// What getaddrinfo(3) has found.
struct Found(*mut libc::addrinfo);

impl Found {
    fn look_up(name: &CStr) -> Option<Found> {
        // SAFETY: an addrinfo is numbers and pointers, which may be zero.
        let mut wanted: libc::addrinfo = unsafe { zeroed() };
        wanted.ai_flags = libc::AI_CANONNAME;
        wanted.ai_socktype = libc::SOCK_STREAM;
        let mut found = ptr::null_mut();
        // SAFETY: getaddrinfo(3) reads the name and what is wanted, and on success hands out a
        // list.
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
        // SAFETY: the list is ours until it is dropped, and is not empty.
        unsafe { &*self.0 }
    }

    /// Of the first address.
    fn name_of_address(&self) -> Option<String> {
        let mut name = [0u8; LONGEST_FULL as usize];
        let (address, length) = (self.first().ai_addr, self.first().ai_addrlen);
        let buffer = name.as_mut_ptr().cast::<c_char>();
        let flags: c_int = libc::NI_NAMEREQD;
        // SAFETY: getnameinfo(3) reads `length` bytes of the address and writes as many of the name
        // as there is room for.
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
        // SAFETY: the first of the list has the name, a C string that lives as long as the list, or
        // null.
        (!name.is_null()).then(|| text(unsafe { CStr::from_ptr(name) }))
    }
}

impl Drop for Found {
    fn drop(&mut self) {
        // SAFETY: the list is that of getaddrinfo(3), and nothing refers to it any more.
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
    fn the_name_is_the_kernels() {
        assert_eq!(
            name() + "\n",
            std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap()
        );
    }

    #[test]
    fn an_address_has_the_name_that_hosts_gives_it_first() {
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap();
        let first = hosts
            .lines()
            .find_map(|line| line.strip_prefix("127.0.0.1")?.split_whitespace().next())
            .unwrap();
        assert_eq!(full_name("127.0.0.1").as_deref(), Some(first));
    }

    #[test]
    fn a_name_without_an_address_has_no_full_one() {
        assert_eq!(full_name("no-such-host.invalid"), None);
        assert_eq!(full_name(""), None);
        assert_eq!(full_name("a\0b"), None);
    }
}

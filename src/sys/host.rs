//! The name of this host.

use std::ffi::CStr;

/// Linux names have 64 bytes at most; POSIX allows 255.
const LONGEST: usize = 256;

/// The host's name as it calls itself, without any look-up.
pub fn name() -> String {
    let mut name = [0u8; LONGEST];
    // SAFETY: gethostname(2) writes one byte less than we have at most, so that a NUL is left.
    unsafe { libc::gethostname(name.as_mut_ptr().cast(), LONGEST - 1) };
    CStr::from_bytes_until_nul(&name).map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_name_is_the_kernels() {
        assert_eq!(super::name() + "\n", std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap());
    }
}

//! Network faults as a peer sees them: a power cut and a reset.

#![allow(unsafe_code, reason = "setsockopt(2)")]

use std::ffi::c_int;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Drops all packets of the other end from now on, as if this host had lost power: nothing is
/// acknowledged, not even a FIN.
pub fn power_off(stream: &TcpStream) {
    let nothing = libc::sock_filter {
        code: u16::try_from(libc::BPF_RET | libc::BPF_K).expect("it is small"),
        jt: 0,
        jf: 0,
        k: 0,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: (&raw const nothing).cast_mut(),
    };
    set(stream, libc::SO_ATTACH_FILTER, &program);
}

/// Closes with a reset, as a host does that was restarted.
pub fn reset(stream: TcpStream) {
    set(
        &stream,
        libc::SO_LINGER,
        &libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    );
    drop(stream);
}

fn set<T>(stream: &TcpStream, option: c_int, value: &T) {
    let length = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: setsockopt(2) reads as many bytes as the value has, and the one instruction that a
    // program points to.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

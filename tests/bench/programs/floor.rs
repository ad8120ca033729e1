//! `floor ADDRESS PATH COMMAND [WORD...]`: the least that a command under a ZooKeeper lock can
//! cost, as a yardstick. It takes the lock, runs the command and gives the lock back, and does
//! nothing else: no waiting, no signals, no heartbeat, no guard, no runtime.

#![no_main]
#![allow(
    unsafe_code,
    reason = "argv, and posix_spawn(3) for the cheapest child there is"
)]

use std::ffi::{CStr, c_char, c_int};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ptr;
use zk_flock::internals::zookeeper::code::{flag, operation};
use zk_flock::internals::zookeeper::record::{
    Acl, ConnectRequest, CreateRequest, Id, RequestHeader,
};
use zk_flock::internals::zookeeper::wire::{Vector, Wire};

/// Session timeout in ms.
const TIMEOUT: i32 = 15_000;

/// Larger than any reply here.
const REPLY: usize = 4096;

unsafe extern "C" {
    static environ: *const *mut c_char;
}

#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, words: *const *mut c_char) -> c_int {
    let word = |index: usize| {
        // SAFETY: the C library gives an array of strings that a null pointer ends, and nobody here
        // asks for one beyond it.
        unsafe { CStr::from_ptr(*words.add(index)) }
            .to_str()
            .expect("words are text")
    };
    let mut stream = TcpStream::connect(word(1)).expect("the server accepts");
    send(&mut stream, &[new_session(), create(word(2))]);
    let [_session, created] = replies(&mut stream);
    assert_eq!(error_of(&created), 0, "the lock is not to be had");
    // SAFETY: the same array, and the command is in it.
    let code = unsafe { run(words.add(3)) };
    send(
        &mut stream,
        &[bytes(&RequestHeader {
            xid: 2,
            kind: operation::CLOSE_SESSION,
        })],
    );
    let [closed] = replies(&mut stream);
    assert_eq!(error_of(&closed), 0);
    code
}

/// Spawns a command and waits for its exit code.
///
/// # Safety
/// `words` is an array of strings, not empty, that a null pointer ends.
unsafe fn run(words: *const *mut c_char) -> c_int {
    let (mut pid, mut status) = (0, 0);
    // SAFETY: posix_spawnp(3) reads the array, the first word of it as the name, and the
    // environment; no actions, no attributes.
    let spawned = unsafe {
        libc::posix_spawnp(
            &raw mut pid,
            *words,
            ptr::null(),
            ptr::null(),
            words,
            environ,
        )
    };
    assert_eq!(spawned, 0, "it cannot be run");
    // SAFETY: waitpid(2) writes one int.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    libc::WEXITSTATUS(status)
}

fn new_session() -> Vec<u8> {
    bytes(&ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: 0,
        time_out: TIMEOUT,
        session_id: 0,
        passwd: vec![0; 16],
        read_only: false,
    })
}

fn create(path: &str) -> Vec<u8> {
    let anyone = Acl {
        perms: 31,
        id: Id {
            scheme: "world".into(),
            id: "anyone".into(),
        },
    };
    let mut request = bytes(&RequestHeader {
        xid: 1,
        kind: operation::CREATE,
    });
    CreateRequest {
        path: path.into(),
        data: b"floor".to_vec(),
        acl: Vector(vec![anyone]),
        flags: flag::EPHEMERAL,
    }
    .write(&mut request);
    request
}

fn bytes(record: &impl Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.write(&mut bytes);
    bytes
}

/// Sends messages in one write.
fn send(stream: &mut TcpStream, messages: &[Vec<u8>]) {
    let length = |message: &Vec<u8>| {
        u32::try_from(message.len())
            .expect("it is short")
            .to_be_bytes()
    };
    let frames: Vec<u8> = messages
        .iter()
        .flat_map(|message| [&length(message), &message[..]].concat())
        .collect();
    stream.write_all(&frames).expect("the server reads");
}

/// Reads just so many messages; what the server sends besides is no news here.
fn replies<const N: usize>(stream: &mut TcpStream) -> [Vec<u8>; N] {
    let (mut received, mut buffer) = (Vec::new(), [0; REPLY]);
    loop {
        let count = stream.read(&mut buffer).expect("the server answers");
        assert!(count > 0, "the server has hung up");
        received.extend_from_slice(&buffer[..count]);
        if let Some(messages) = split(&received) {
            return messages;
        }
    }
}

fn split<const N: usize>(mut bytes: &[u8]) -> Option<[Vec<u8>; N]> {
    let mut messages = Vec::new();
    while messages.len() < N {
        let (length, rest) = bytes.split_first_chunk()?;
        let (message, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        messages.push(message.to_vec());
        bytes = rest;
    }
    messages.try_into().ok()
}

/// The error in a reply's header, after xid and zxid.
fn error_of(reply: &[u8]) -> i32 {
    i32::from_be_bytes(reply[12..16].try_into().expect("four bytes"))
}

//! What measures processes, and what they run while they are measured: so small that it does not
//! show in their figures.
//!
//! ```text
//! stopwatch time PROGRAM [WORD...]   runs it, its stdout thrown away; prints time (ns), time on a processor (ns), peak memory (KiB), status
//! stopwatch stamp FILE               appends the time, in ns since boot, to the file
//! stopwatch hold FILE LEASH          does so at once, and again, to end, when somebody has opened and closed the named pipe LEASH
//! stopwatch nothing                  ends
//! ```
//!
//! No runtime and no allocation: at exec a process inherits the peak memory of whoever forked it.

#![no_main]
#![allow(
    unsafe_code,
    reason = "argv, posix_spawn(3), and wait4(2), which alone tells the usage of one child"
)]

use std::ffi::{CStr, c_char, c_int};
use std::io::Write;
use std::mem::MaybeUninit;
use std::ptr;

/// Exit code where a call fails that cannot, and of words that are none of ours.
const BROKEN: c_int = 125;

unsafe extern "C" {
    static environ: *const *mut c_char;
}

#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, words: *const *mut c_char) -> c_int {
    // SAFETY: the C library gives `count` strings.
    let words = unsafe { std::slice::from_raw_parts(words, count.cast_unsigned() as usize + 1) };
    // SAFETY: each is one but the last, which is null.
    let verb = words
        .get(1)
        .filter(|word| !word.is_null())
        .map(|&word| unsafe { CStr::from_ptr(word) }.to_bytes());
    match (verb, words) {
        (Some(b"time"), [_, _, command @ .., _]) if !command.is_empty() => time(&words[2..]),
        (Some(b"stamp"), [_, _, file, _]) => stamp(*file),
        (Some(b"hold"), [_, _, file, leash, _]) => {
            stamp(*file).max(wait_for_end_of(*leash)).max(stamp(*file))
        }
        (Some(b"nothing"), [_, _, _]) => 0,
        _ => BROKEN,
    }
}

/// `command` ends with a null pointer.
fn time(command: &[*mut c_char]) -> c_int {
    let (mut pid, mut status, mut usage, mut actions) = (
        0,
        0,
        MaybeUninit::<libc::rusage>::zeroed(),
        MaybeUninit::zeroed(),
    );
    let nowhere = c"/dev/null".as_ptr();
    // SAFETY: posix_spawn_file_actions_init(3) makes it a list of actions.
    unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) };
    // SAFETY: it is one now, and the path is there.
    unsafe {
        libc::posix_spawn_file_actions_addopen(actions.as_mut_ptr(), 1, nowhere, libc::O_WRONLY, 0)
    };
    let began = now();
    // SAFETY: posix_spawnp(3) reads the list, the array, which a null pointer ends, and the
    // environment.
    let spawned = unsafe {
        libc::posix_spawnp(
            &raw mut pid,
            command[0],
            actions.as_ptr(),
            ptr::null(),
            command.as_ptr(),
            environ,
        )
    };
    if spawned != 0 {
        return BROKEN;
    }
    // SAFETY: wait4(2) writes one int and one rusage.
    unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
    let wall = now() - began;
    // SAFETY: all zeros are a rusage too, and wait4 has filled it.
    let usage = unsafe { usage.assume_init() };
    let processor = nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime);
    print(
        1,
        format_args!("{wall} {processor} {} {status}\n", usage.ru_maxrss),
    )
}

fn stamp(file: *const c_char) -> c_int {
    // SAFETY: open(2) reads the path, which is one of our words.
    let file = unsafe { libc::open(file, libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND, 0o644) };
    print(file, format_args!("{}\n", now()))
}

fn wait_for_end_of(leash: *const c_char) -> c_int {
    // SAFETY: open(2) reads the path, which is one of our words.
    let leash = unsafe { libc::open(leash, libc::O_RDONLY) };
    let mut byte = 0u8;
    loop {
        // SAFETY: read(2) writes one byte at most.
        match unsafe { libc::read(leash, (&raw mut byte).cast(), 1) } {
            0 => return 0,
            -1 => return BROKEN,
            _ => {}
        }
    }
}

/// Time since boot, in ns.
fn now() -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime(2) fills the one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn nanoseconds(time: libc::timeval) -> i64 {
    (time.tv_sec * 1_000_000 + time.tv_usec) * 1000
}

/// One write of one line.
fn print(fd: c_int, line: std::fmt::Arguments) -> c_int {
    let mut text = [0; 128];
    let mut room = &mut text[..];
    if room.write_fmt(line).is_err() {
        return BROKEN;
    }
    let length = 128 - room.len();
    // SAFETY: write(2) reads `length` bytes.
    let written = unsafe { libc::write(fd, text.as_ptr().cast(), length) };
    if written.cast_unsigned() == length {
        0
    } else {
        BROKEN
    }
}

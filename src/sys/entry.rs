//! The state in which this process was started, before it is overwritten: Rust's runtime ignores
//! SIGPIPE and opens /dev/null on a closed stdin, stdout or stderr; this program ignores SIGXFSZ
//! and opens descriptors of its own. The state is read in `.init_array`, which the C library runs
//! before the runtime.

use super::disposition::{self, Disposition};
use crate::signal::Signal;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);
static FILE_SIZE_IGNORED: AtomicBool = AtomicBool::new(false);
static CLOSED: [AtomicBool; STDIO] = [const { AtomicBool::new(false) }; STDIO];
static INHERITED: AtomicBool = AtomicBool::new(false);

/// Number of stdio descriptors.
const STDIO: usize = 3;
/// Descriptors up to this number are checked. bash numbers process substitutions from 63 downwards;
/// other programs use the lowest free number. The poll is made for stdio in any case, and each
/// entry adds 12 ns to it: 64 more than stdio cost 0.8 µs, 1,021 more would cost 10 µs.
const CONTIGUOUS: c_int = 63;
/// Above that, round numbers that scripts use for their lock files are checked.
const PICKED: [c_int; 2] = [100, 200];
/// Number of checked descriptors.
const LOOKED_AT: usize = CONTIGUOUS as usize + 1 + PICKED.len();

// SAFETY: the C library calls the functions in .init_array with arguments that a C function may
// ignore; `look` is such a function, and needs nothing that is set up later.
// Not under Miri, which cannot call sigaction(2) or poll(2) for it.
#[cfg_attr(not(miri), unsafe(link_section = ".init_array"))]
#[used]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    PIPE_IGNORED.store(
        disposition::of(Signal::PIPE) == Disposition::Ignored,
        Relaxed,
    );
    FILE_SIZE_IGNORED.store(
        disposition::of(Signal::XFSZ) == Disposition::Ignored,
        Relaxed,
    );
    let mut entries = [libc::pollfd {
        fd: 0,
        events: 0,
        revents: 0,
    }; LOOKED_AT];
    for (entry, fd) in entries.iter_mut().zip((0..=CONTIGUOUS).chain(PICKED)) {
        entry.fd = fd;
    }
    // EINVAL if RLIMIT_NOFILE is smaller: then only stdio is checked, and others are assumed to be
    // open.
    let all = poll(&mut entries);
    if !all {
        poll(&mut entries[..STDIO]);
    }
    let is_closed = |entry: &libc::pollfd| entry.revents & libc::POLLNVAL != 0;
    let (stdio, others) = entries.split_at(STDIO);
    for (entry, closed) in stdio.iter().zip(&CLOSED) {
        closed.store(is_closed(entry), Relaxed);
    }
    INHERITED.store(!all || !others.iter().all(is_closed), Relaxed);
}

/// Has the kernel mark the entries whose descriptors are closed. Returns whether the call
/// succeeded.
fn poll(entries: &mut [libc::pollfd]) -> bool {
    // SAFETY: poll(2) reads and writes that many entries, and with a timeout of zero returns at
    // once.
    unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, 0) >= 0 }
}

/// Whether inherited descriptors above 2 are possible. True only in the first call, because the
/// caller closes them.
pub(super) fn take_inherited() -> bool {
    INHERITED.swap(false, Relaxed)
}

/// SIGPIPE's disposition on entry.
pub(super) fn pipe() -> Disposition {
    found(&PIPE_IGNORED)
}

/// SIGXFSZ's disposition on entry.
pub(super) fn file_size() -> Disposition {
    found(&FILE_SIZE_IGNORED)
}

fn found(ignored: &AtomicBool) -> Disposition {
    if ignored.load(Relaxed) {
        Disposition::Ignored
    } else {
        Disposition::Default
    }
}

/// The descriptors 0 to 2 that were closed on entry and still hold /dev/null in their place.
pub(super) fn closed_stdio() -> impl Iterator<Item = c_int> {
    (0..)
        .zip(&CLOSED)
        .filter(|(_, closed)| closed.load(Relaxed))
        .map(|(fd, _)| fd)
}

/// From now on `closed_stdio` is empty: descriptors 0 to 2 have their final files.
pub(super) fn forget_closed_stdio() {
    for closed in &CLOSED {
        closed.store(false, Relaxed);
    }
}

//! What this process was started with and is covered up later: Rust's runtime ignores SIGPIPE, and opens /dev/null where stdin, stdout or
//! stderr are closed; we ignore SIGXFSZ. All is looked at earlier, in `.init_array`, which the C library runs before the runtime.

use super::disposition::{self, Disposition};
use crate::signal::Signal;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);
static FILE_SIZE_IGNORED: AtomicBool = AtomicBool::new(false);
static CLOSED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

// SAFETY: the C library calls what it finds in .init_array with arguments that a C function may disregard; `look` is one, and needs
// nothing that is not set up by then.
#[unsafe(link_section = ".init_array")]
#[used]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    PIPE_IGNORED.store(disposition::of(Signal::PIPE) == Disposition::Ignored, Relaxed);
    FILE_SIZE_IGNORED.store(disposition::of(Signal::XFSZ) == Disposition::Ignored, Relaxed);
    let mut stdio = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: poll(2) reads and writes the three entries, and with a timeout of zero returns at once.
    unsafe { libc::poll(stdio.as_mut_ptr(), 3, 0) };
    for (entry, closed) in stdio.iter().zip(&CLOSED) {
        closed.store(entry.revents & libc::POLLNVAL != 0, Relaxed);
    }
}

/// SIGPIPE's disposition as it was on entry.
pub(super) fn pipe() -> Disposition {
    found(&PIPE_IGNORED)
}

/// SIGXFSZ's disposition as it was on entry.
pub(super) fn file_size() -> Disposition {
    found(&FILE_SIZE_IGNORED)
}

fn found(ignored: &AtomicBool) -> Disposition {
    if ignored.load(Relaxed) { Disposition::Ignored } else { Disposition::Default }
}

/// Which of the descriptors 0 to 2 were closed on entry and still stand for closed ones.
pub(super) fn closed_stdio() -> impl Iterator<Item = c_int> {
    (0..).zip(&CLOSED).filter(|(_, closed)| closed.load(Relaxed)).map(|(fd, _)| fd)
}

/// From here on descriptors 0 to 2 are what they should be.
pub(super) fn stdio_is_settled() {
    for closed in &CLOSED {
        closed.store(false, Relaxed);
    }
}

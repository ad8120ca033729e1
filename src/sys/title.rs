//! How this process shows in ps: its name, and its arguments, which are a stretch of its memory that the kernel remembers the bounds of.

use std::ffi::CString;
use std::ops::Range;
use std::{fs, ptr, slice};

/// Changes what ps shows of this process; where the kernel does not tell where the arguments lie, only the name. After that
/// `std::env::args` has nothing sensible to say.
pub fn rename(title: &str) {
    if let Ok(name) = CString::new(title) {
        // SAFETY: prctl(2) with PR_SET_NAME reads a string to its NUL, 15 bytes of it at most.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    }
    if let Some(bounds) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| arguments(&stat)) {
        let start = ptr::with_exposed_provenance_mut(bounds.start);
        // SAFETY: proc(5): these are the bounds of this process's own argv strings, on the stack, writable, and there for good. std reads
        // them in `args`, by copying, and nothing else refers to them.
        overwrite(unsafe { slice::from_raw_parts_mut(start, bounds.len()) }, title);
    }
}

/// Where the arguments lie: fields 48 and 49 of /proc/PID/stat. `None` where they are hidden (zeros) or older than Linux 3.5.
fn arguments(stat: &str) -> Option<Range<usize>> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(48 - 3).map(str::parse);
    let bounds = fields.next()?.ok()?..fields.next()?.ok()?;
    (bounds.start != 0 && !bounds.is_empty()).then_some(bounds)
}

/// As much of the title as fits and zeros: if the last byte were not zero, the kernel would show what follows it, the environment.
fn overwrite(arguments: &mut [u8], title: &str) {
    let shown = title.len().min(arguments.len() - 1);
    arguments.fill(0);
    arguments[..shown].copy_from_slice(&title.as_bytes()[..shown]);
}

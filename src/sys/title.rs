//! The process's name and arguments in ps. The arguments are a range of its memory whose bounds the
//! kernel stores.

use super::file;
use super::process::Pid;
use super::tree::LONGEST_STAT;
use std::ffi::CString;
use std::ops::Range;
use std::{ptr, slice};

/// Changes what ps shows of this process, `own`. If the kernel hides where the arguments are, only
/// the name changes. Afterwards `std::env::args` returns garbage. Returns whether the session has a
/// terminal, which is in the same line of /proc; `None` if /proc is missing, or belongs to another
/// process namespace.
pub fn rename(title: &str, own: Pid) -> Option<bool> {
    rename_for(title, "", own)
}

/// The same. The arguments are the name and, if there is one, what the process works for; the name
/// alone is what `pgrep` finds without `-f`.
pub fn rename_for(name: &str, purpose: &str, own: Pid) -> Option<bool> {
    let title = format!("{name} {purpose}");
    let title = title.trim_end();
    if let Ok(name) = CString::new(name) {
        // SAFETY: prctl(2) with PR_SET_NAME reads a string to its NUL, at most 15 bytes of it.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    }
    let mut buffer = [0; LONGEST_STAT];
    let line = String::from_utf8_lossy(file::read_start("/proc/self/stat", &mut buffer).ok()?);
    if line.split(' ').next() != Some(own.to_string().as_str()) {
        return None;
    }
    if let Some(bounds) = arguments(&line) {
        let start = ptr::with_exposed_provenance_mut(bounds.start);
        // SAFETY: proc(5): these are the bounds of this process's own argv strings, on the stack,
        // writable, and permanent. std reads them in `args`, by copying, and no other reference to
        // them exists.
        overwrite(
            unsafe { slice::from_raw_parts_mut(start, bounds.len()) },
            title,
        );
    }
    fields(&line)?
        .nth(TERMINAL - 3)
        .map(|terminal| terminal != "0")
}

/// The field of /proc/PID/stat with the device of the controlling terminal.
const TERMINAL: usize = 7;

/// The fields after the name, starting with field 3, "state".
fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    stat.rsplit_once(')')
        .map(|(_, after_name)| after_name.split_ascii_whitespace())
}

/// The range of the arguments: fields 48 and 49 of /proc/PID/stat. `None` if they are hidden
/// (zeros) or missing (before Linux 3.5).
fn arguments(stat: &str) -> Option<Range<usize>> {
    let mut fields = fields(stat)?.skip(48 - 3).map(str::parse);
    let bounds = fields.next()?.ok()?..fields.next()?.ok()?;
    (bounds.start != 0 && !bounds.is_empty()).then_some(bounds)
}

/// Writes as much of the title as fits, then zeros: if the last byte were not zero, the kernel
/// would show the environment, which follows.
fn overwrite(arguments: &mut [u8], title: &str) {
    let shown = title.len().min(arguments.len() - 1);
    arguments.fill(0);
    arguments[..shown].copy_from_slice(&title.as_bytes()[..shown]);
}

#[cfg(test)]
mod tests {
    use super::super::process::own_pid;
    use super::super::testing::check_in_child;
    use super::*;
    use std::fs;

    #[test]
    fn ps_shows_the_new_name_and_no_argument() {
        check_in_child(|| {
            rename("guard (a) of tests", own_pid());
            rename("lock-guard", own_pid());
            assert_eq!(
                fs::read_to_string("/proc/self/comm").unwrap(),
                "lock-guard\n"
            );
            assert_eq!(
                fs::read_to_string("/proc/self/cmdline")
                    .unwrap()
                    .trim_end_matches('\0'),
                "lock-guard"
            );
        });
    }

    #[test]
    fn ps_shows_the_purpose_after_the_name() {
        check_in_child(|| {
            rename_for("lock-guard", "a", own_pid());
            let read = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).unwrap();
            assert_eq!(read("comm"), "lock-guard\n");
            assert_eq!(read("cmdline").trim_end_matches('\0'), "lock-guard a");
        });
    }

    #[test]
    fn title_is_cut_to_fit_before_a_zero() {
        for (room, expected) in [(1, "\0"), (5, "lock\0"), (12, "lock-guard\0\0")] {
            let mut arguments = vec![b'x'; room];
            overwrite(&mut arguments, "lock-guard");
            assert_eq!(arguments, expected.as_bytes());
        }
    }

    #[test]
    fn hidden_missing_or_invalid_bounds_are_none() {
        let stat = |bounds: &str| format!("7 (a) b) S{} {bounds} 9 9 0", " 0".repeat(44));
        assert_eq!(arguments(&stat("4096 4100")), Some(4096..4100));
        for bounds in ["0 0", "0 5", "5 5", "6 5", "-1 5", "x y", ""] {
            assert_eq!(arguments(&stat(bounds)), None, "{bounds}");
        }
        assert_eq!(arguments("7 (a) S 1 2"), None);
    }
}

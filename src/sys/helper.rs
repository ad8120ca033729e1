//! Starts a helper process whose stdin and stdout are a connection.

use super::disposition::{self, Disposition};
use super::mask::Mask;
use super::process::{self, Fork, Pid};
use super::{check, descriptors, spawn};
use crate::reason::reason;
use crate::signal::Signal;
use std::ffi::{CString, OsString, c_char};
use std::io::{self, PipeReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

/// A process that was started.
#[derive(Debug)]
pub struct Helper {
    /// Its id. It leads a session and a process group of its own.
    pub process: Pid,
    /// The other end of its stdin and stdout, non-blocking.
    pub stream: UnixStream,
    /// The other end of its stderr, non-blocking.
    pub words: PipeReader,
}

/// Starts a program found on PATH. It gets stdin, stdout and stderr and no other descriptor, and no
/// signal of this process's terminal or group. Its environment has none of the variables `without`.
/// The kernel kills it when this process dies. If it cannot be executed, the reason is what it
/// writes to stderr.
pub fn start(words: &[OsString], without: &[&str]) -> io::Result<Helper> {
    let shown = words.first().map(|word| word.to_string_lossy());
    let program = shown.unwrap_or_default().into_owned();
    let words: Vec<CString> = words
        .iter()
        .map(|word| CString::new(word.as_bytes()))
        .collect::<Result<_, _>>()?;
    let without: Vec<_> = without.iter().map(|&name| (name, None)).collect();
    let environment = spawn::terminated(spawn::inherited_environment(&without, false));
    let (stream, its_stream) = UnixStream::pair()?;
    stream.set_nonblocking(true)?;
    let (reader, its_words) = io::pipe()?;
    descriptors::set_nonblocking(reader.as_fd())?;
    let parent = process::own_pid();
    match process::fork()? {
        Fork::Parent(process) => Ok(Helper {
            process,
            stream,
            words: reader,
        }),
        Fork::Child => {
            let ends = [its_stream.as_fd(), its_words.as_fd()];
            let error = execute(&words, &environment, ends, parent);
            let _ = writeln!(&its_words, "cannot run {program}: {}", reason(&error));
            process::exit_now(127)
        }
    }
}

/// Becomes the program. Returns why it cannot. `environment` ends with a null pointer.
fn execute(
    words: &[CString],
    environment: &[*const c_char],
    [stream, stderr]: [BorrowedFd; 2],
    parent: Pid,
) -> io::Error {
    let ready = || {
        process::die_with_parent(Some(Signal::KILL), parent)?;
        process::own_session()?;
        for (fd, number) in [(stream, 0), (stream, 1), (stderr, 2)] {
            // SAFETY: dup2(2) touches no memory. No code between here and exec uses stdio.
            check(unsafe { libc::dup2(fd.as_raw_fd(), number) })?;
        }
        // `stderr` itself is for the reason, and closed by exec.
        descriptors::close_all_except(&[stderr]);
        for signal in [Signal::CHLD, Signal::PIPE, Signal::XFSZ] {
            disposition::set(signal, Disposition::Default)?;
        }
        Mask::of([]).restore()?;
        Ok(())
    };
    if let Err(error) = ready() {
        return error;
    }
    let argv = spawn::terminated(words.iter().map(|word| word.as_ptr()));
    // SAFETY: execvpe(3) reads strings and two null-terminated arrays; the first is not empty.
    unsafe { libc::execvpe(argv[0], argv.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    use super::super::poll::{Watched, wait};
    use super::super::testing::check_in_child;
    use super::*;
    use crate::signal::Status;
    use std::io::Read;

    fn started(words: &[&str]) -> Helper {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        start(&words, &["HOME"]).unwrap()
    }

    /// All that a program writes until it closes this.
    fn all(mut from: impl Read + AsFd) -> String {
        let mut text = Vec::new();
        loop {
            wait(&mut [Watched::new(from.as_fd(), false)], None).unwrap();
            let mut bytes = [0; 512];
            match from.read(&mut bytes).unwrap() {
                0 => return String::from_utf8(text).unwrap(),
                length => text.extend_from_slice(&bytes[..length]),
            }
        }
    }

    #[test]
    fn stdin_and_stdout_are_the_stream_and_no_other_descriptor_is_open() {
        check_in_child(|| {
            let script = "read line; echo got $line; cd /proc/self/fd; echo *; echo why >&2";
            let helper = started(&["sh", "-c", script]);
            (&helper.stream).write_all(b"it\n").unwrap();
            let text = all(&helper.stream);
            // The shell has one more for the folder that it lists.
            assert!(
                text == "got it\n0 1 2\n" || text == "got it\n0 1 2 3\n",
                "{text}"
            );
            assert_eq!(all(&helper.words), "why\n");
            assert_eq!(process::wait(helper.process).unwrap(), Status::Exited(0));
        });
    }

    #[test]
    fn helper_has_the_environment_without_these_variables() {
        check_in_child(|| {
            let helper = started(&["sh", "-c", "echo $PATH:${HOME-none}"]);
            let path = std::env::var("PATH").unwrap();
            assert_eq!(all(&helper.stream), format!("{path}:none\n"));
            process::wait(helper.process).unwrap();
        });
    }

    #[test]
    fn helper_leads_a_session() {
        check_in_child(|| {
            let helper = started(&["sh", "-c", "read line"]);
            assert_ne!(process::group(process::own_pid()), Some(helper.process));
            while process::group(helper.process) != Some(helper.process) {}
            drop(helper.stream);
            process::wait(helper.process).unwrap();
        });
    }

    #[test]
    fn program_that_cannot_run_gives_the_reason() {
        check_in_child(|| {
            let helper = started(&["/nonexistent"]);
            assert!(all(&helper.words).starts_with("cannot run /nonexistent: no such file"));
            assert_eq!(process::wait(helper.process).unwrap(), Status::Exited(127));
        });
    }
}

//! The helper commands of a connection: the one that carries it, and those that are about to end.

use super::helper_words::Words;
use crate::plan::notify::VARIABLES;
use crate::signal::Signal;
use crate::sys::helper;
use crate::sys::process::{self, Pid};
use crate::transport::Event;
use std::ffi::OsString;
use std::io::{self, ErrorKind, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// The most reads of stderr at a time: a helper that writes without end must not stop the loop.
const READS: usize = 16;

/// The helper commands that were started and not reaped.
#[derive(Debug, Default)]
pub(super) struct Helpers {
    current: Option<Current>,
    /// Not reaped, so that no other process has their ids.
    unreaped: Vec<Pid>,
}

/// The helper that carries the connection.
#[derive(Debug)]
struct Current {
    process: Pid,
    /// Until the helper has closed it.
    stderr: Option<PipeReader>,
    words: Words,
    /// The server has sent something.
    answered: bool,
    /// The stream has ended.
    ended: bool,
}

impl Helpers {
    /// Starts a helper. Earlier ones have had their time to end. Its messages to a service manager
    /// would be taken for those of the run.
    pub(super) fn start(&mut self, words: &[OsString]) -> io::Result<UnixStream> {
        self.kill();
        let helper = helper::start(words, &VARIABLES)?;
        self.unreaped.push(helper.process);
        self.current = Some(Current {
            process: helper.process,
            stderr: Some(helper.words),
            words: Words::default(),
            answered: false,
            ended: false,
        });
        Ok(helper.stream)
    }

    /// Whether a helper carries the connection.
    pub(super) fn is_used(&self) -> bool {
        self.current.is_some()
    }

    /// The server has sent something.
    pub(super) fn answered(&mut self) {
        if let Some(current) = &mut self.current
            && !std::mem::replace(&mut current.answered, true)
        {
            current.words.connected();
        }
    }

    /// The stderr of the helper, to poll for.
    pub(super) fn stderr(&self) -> Option<BorrowedFd<'_>> {
        let stderr = self.current.as_ref()?.stderr.as_ref()?;
        Some(stderr.as_fd())
    }

    /// The stream has ended. The reason follows when the helper has closed its stderr or was reaped.
    pub(super) fn end(&mut self) {
        if let Some(current) = &mut self.current {
            current.ended = true;
        }
    }

    /// Reads what the helper has written to stderr.
    pub(super) fn read(&mut self) {
        if let Some(current) = &mut self.current {
            current.read();
        }
    }

    /// The end of the connection with its reason, if the helper can say nothing more.
    pub(super) fn event(&mut self) -> Option<Event<'static>> {
        let is_reaped = |process| !self.unreaped.contains(&process);
        let current = self.current.as_mut().filter(|current| current.ended)?;
        current.read();
        let is_silent = current.stderr.is_none() || is_reaped(current.process);
        is_silent.then(|| Event::Disconnected(current.words.reason(current.answered)))
    }

    /// Hangs up: the helper of the connection gets this signal, with its process group.
    pub(super) fn hang_up(&mut self, signal: Signal) {
        let current = self.current.take();
        if let Some(Current { process, .. }) = current.filter(|it| self.contains(it.process)) {
            signal_group(process, signal);
        }
    }

    /// Kills all of them, and their process groups. They are reaped later.
    pub(super) fn kill(&mut self) {
        self.current = None;
        for &process in &self.unreaped {
            signal_group(process, Signal::KILL);
        }
    }

    /// Whether a process is one of them.
    pub(super) fn contains(&self, process: Pid) -> bool {
        self.unreaped.contains(&process)
    }

    /// Whether one of them was not reaped.
    pub(super) fn any(&self) -> bool {
        !self.unreaped.is_empty()
    }

    /// A child was reaped: if it was a helper, its id may be another process's now.
    pub(super) fn reaped(&mut self, child: Pid) {
        self.unreaped.retain(|&helper| helper != child);
    }
}

impl Drop for Helpers {
    /// No helper outlives the connection of a program without a loop that reaps.
    fn drop(&mut self) {
        self.kill();
        for &process in &self.unreaped {
            let _ = process::wait(process);
        }
    }
}

impl Current {
    fn read(&mut self) {
        let mut bytes = [0; 1024];
        for _ in 0..READS {
            let Some(stderr) = &mut self.stderr else {
                return;
            };
            match stderr.read(&mut bytes) {
                Ok(length @ 1..) => self.words.push(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => self.stderr = None,
            }
        }
    }
}

/// The process leads its group, unless it has not come that far.
fn signal_group(process: Pid, signal: Signal) {
    let _ = process::kill_group(process, signal).or_else(|_| process::kill(process, signal));
}

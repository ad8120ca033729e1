//! Sends what is due to the service manager that has started this process.

use crate::moment::Moment;
use crate::notify::{Notice, Outbox};
use crate::plan::notify::Manager;
use crate::sys::{self, process};
use std::ffi::OsString;
use std::io;

/// A service manager, and what it was not told yet.
#[derive(Debug)]
pub struct ServiceManager {
    socket: OsString,
    outbox: Outbox,
    /// A failure was reported.
    failed: bool,
}

impl ServiceManager {
    /// The messages of this process.
    pub fn new(manager: &Manager, now: Moment) -> ServiceManager {
        let watchdog = manager.watchdog_of(process::own_pid().0);
        ServiceManager {
            socket: manager.socket.clone(),
            outbox: Outbox::new(watchdog, now),
            failed: false,
        }
    }

    /// Adds to the next message.
    pub fn add(&mut self, notice: Notice) {
        self.outbox.add(notice);
    }

    /// Sends what is due, without waiting. `alive`: this process does what it is there for. Returns
    /// why the service manager cannot be reached, once.
    pub fn send(&mut self, alive: bool, now: Moment) -> Option<io::Error> {
        let message = self.outbox.due(alive, now)?;
        match sys::notify::send(&self.socket, &message) {
            Ok(()) => {
                self.outbox.sent();
                None
            }
            Err(error) => {
                self.outbox.failed(now);
                let busy = error.kind() == io::ErrorKind::WouldBlock; // it reads on later
                let first = !busy && !std::mem::replace(&mut self.failed, true);
                first.then_some(error)
            }
        }
    }

    /// When the next message is due.
    pub fn wake(&self) -> Moment {
        self.outbox.wake()
    }
}

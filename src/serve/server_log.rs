//! What the log is told of a server's life. What happens in the pools is told by these.

use super::listener::Door;
use crate::log;
use crate::plan::{Backend, Level, Server};
use crate::reason::reason;
use std::fmt::Display;

/// Tells stderr, one line an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Story<'a> {
    pub(super) program: &'a str,
    /// Of each request too.
    pub(super) verbose: bool,
}

impl Story<'_> {
    pub(super) fn tell(self, level: Level, message: &dyn Display) {
        if level > Level::Debug || self.verbose {
            log::event(self.program, level, message);
        }
    }

    /// It begins.
    pub(super) fn begin(self, plan: &Server, door: &Door) {
        self.warn(plan);
        let address = door
            .address()
            .map_or_else(|error| reason(&error), |address| address.to_string());
        let kept = match (&plan.backend, &plan.state) {
            (Backend::Memcache(host), _) => format!("memcached at {host}"),
            (Backend::Memory, Some(path)) => path.display().to_string(),
            (Backend::Memory, None) => "memory".into(),
        };
        let (pools, most) = (plan.pool_count(), door.most());
        self.tell(Level::Info, &format_args!("listening on {address}: {pools}, holders kept in {kept}, {most} connections at most"));
    }

    /// The config was read again. Some of it counts only at a start.
    pub(super) fn read_again(self, before: &Server, plan: &Server) {
        self.warn(plan);
        let keys = [
            ("listen", plan.listen != before.listen),
            ("backend", plan.backend != before.backend),
            ("state", plan.state != before.state),
        ];
        for (key, _) in keys.iter().filter(|(_, changed)| *changed) {
            self.tell(
                Level::Warning,
                &format_args!(
                    "{}: {key:?} has changed: that needs a restart",
                    plan.config.display()
                ),
            );
        }
        self.tell(
            Level::Info,
            &format_args!(
                "read {} again: {}",
                plan.config.display(),
                plan.pool_count()
            ),
        );
    }

    fn warn(self, plan: &Server) {
        for warning in &plan.warnings {
            self.tell(Level::Warning, warning);
        }
    }
}

//! Looks up server names again while the program runs, in helper processes. The helpers are children
//! of this process, not of a command: the loop reaps them, and a kill of the command's tree spares
//! them.

use super::{BackgroundLookup, HostAddresses};
use crate::endpoint::Found;
use crate::moment::Moment;
use crate::signal::Signal;
use crate::sys::poll::Watched;
use crate::sys::process::{self, Pid};
use std::io;

/// The names of servers.
pub struct Lookup {
    names: HostAddresses,
    search: Option<BackgroundLookup>,
    /// Helpers that have not been reaped, so that no other process has their ids.
    helpers: Vec<Pid>,
}

impl Lookup {
    /// For these names, which have been looked up once. There may be none.
    pub fn new(names: HostAddresses) -> Lookup {
        Lookup {
            names,
            search: None,
            helpers: Vec::new(),
        }
    }

    /// Begins to look up all names, and cancels an earlier lookup. `result` returns the addresses.
    /// Without names, nothing begins.
    pub fn begin(&mut self, now: Moment) -> io::Result<()> {
        self.cancel();
        self.search = BackgroundLookup::begin(&self.names, now)?;
        self.helpers
            .extend(self.search.iter().flat_map(BackgroundLookup::processes));
        Ok(())
    }

    /// The addresses that are known from earlier lookups.
    pub fn known(&self) -> Found {
        self.names.result()
    }

    /// Whether names are being looked up.
    pub fn is_under_way(&self) -> bool {
        self.search.is_some()
    }

    /// What to poll for; nothing unless a lookup is under way.
    pub fn watched(&self) -> impl Iterator<Item = Watched<'_>> {
        self.search.iter().flat_map(BackgroundLookup::watched)
    }

    /// When a lookup ends at the latest.
    pub fn until(&self) -> Moment {
        self.search
            .as_ref()
            .map_or(Moment::NEVER, BackgroundLookup::until)
    }

    /// Reads the answers that are ready; `ready` has a value for each that was watched. Returns the
    /// addresses when the lookup has ended.
    pub fn result(&mut self, ready: impl Iterator<Item = bool>, now: Moment) -> Option<Found> {
        let search = self.search.as_mut()?;
        search.read(ready);
        if now < search.until() {
            return None;
        }
        search.tell(&mut self.names);
        self.cancel();
        Some(self.names.result())
    }

    /// Cancels a lookup: kills the helpers, which are reaped later.
    pub fn cancel(&mut self) {
        self.search = None;
        for &helper in &self.helpers {
            let _ = process::kill(helper, Signal::KILL); // a helper that has exited is still a zombie
        }
    }

    /// A child was reaped: if it was a helper, its id may be another process's now.
    pub fn reaped(&mut self, child: Pid) {
        self.helpers.retain(|&helper| helper != child);
    }

    /// Whether a process is a helper.
    pub fn is_helper(&self, process: Pid) -> bool {
        self.helpers.contains(&process)
    }

    /// Whether a helper has not been reaped.
    pub fn has_helpers(&self) -> bool {
        !self.helpers.is_empty()
    }
}

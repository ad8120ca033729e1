//! Names that are looked up again beside a run, by helpers. These are children of this process and
//! none of the command's: `Run` reaps them, and its kill of the command's tree passes them over.

use crate::endpoint::Found;
use crate::moment::Moment;
use crate::prepare::{BackgroundLookup, HostAddresses};
use crate::signal::Signal;
use crate::sys::poll::Watched;
use crate::sys::process::{self, Pid};
use std::io;

/// The names of a run's servers.
pub(super) struct Lookup {
    names: HostAddresses,
    search: Option<BackgroundLookup>,
    /// Helpers that have not been reaped: until then their ids are theirs.
    helpers: Vec<Pid>,
}

impl Lookup {
    /// For these names, which have been looked up once; or for none.
    pub(super) fn new(names: HostAddresses) -> Lookup {
        Lookup {
            names,
            search: None,
            helpers: Vec::new(),
        }
    }

    /// Begins to look up all names, in place of any look-up before. What is found is told by
    /// `result`; nothing, where there are no names.
    pub(super) fn begin(&mut self, now: Moment) -> io::Result<()> {
        self.cancel();
        self.search = BackgroundLookup::begin(&self.names, now)?;
        self.helpers
            .extend(self.search.iter().flat_map(BackgroundLookup::processes));
        Ok(())
    }

    /// What is known without another look-up.
    pub(super) fn known(&self) -> Found {
        self.names.result()
    }

    /// Whether names are being looked up.
    pub(super) fn is_under_way(&self) -> bool {
        self.search.is_some()
    }

    /// What to wake up for; nothing unless a look-up is under way.
    pub(super) fn watched(&self) -> impl Iterator<Item = Watched<'_>> {
        self.search.iter().flat_map(BackgroundLookup::watched)
    }

    /// When a look-up is over, at the latest.
    pub(super) fn until(&self) -> Moment {
        self.search
            .as_ref()
            .map_or(Moment::NEVER, BackgroundLookup::until)
    }

    /// Reads the answers that are ready, given for each that was watched. What was found, once the
    /// look-up is over.
    pub(super) fn result(
        &mut self,
        ready: impl Iterator<Item = bool>,
        now: Moment,
    ) -> Option<Found> {
        let search = self.search.as_mut()?;
        search.read(ready);
        if now < search.until() {
            return None;
        }
        search.tell(&mut self.names);
        self.cancel();
        Some(self.names.result())
    }

    /// Gives up a look-up: the helpers are killed, but not reaped yet.
    pub(super) fn cancel(&mut self) {
        self.search = None;
        for &helper in &self.helpers {
            let _ = process::kill(helper, Signal::KILL); // one that has ended is still there to be reaped
        }
    }

    /// A child was reaped: if it was a helper, its id may be another process's now.
    pub(super) fn reaped(&mut self, child: Pid) {
        self.helpers.retain(|&helper| helper != child);
    }

    /// Whether a process is a helper.
    pub(super) fn is_helper(&self, process: Pid) -> bool {
        self.helpers.contains(&process)
    }

    /// Whether a helper has not been reaped.
    pub(super) fn has_helpers(&self) -> bool {
        !self.helpers.is_empty()
    }
}

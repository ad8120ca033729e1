//! Locks, as the driver sees them.

use super::{Machine, Step};
use crate::lock::{Event, Input, Lock, Output};
use crate::moment::Moment;
use crate::transport;
use crate::transport::Address;

/// What a lock has reported, as far as it limits what may follow. See [`crate::lock`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum LockRules {
    /// It is not acquired yet.
    #[default]
    Contending,
    /// It will not be acquired.
    Refused,
    /// It is held.
    Held,
    /// It is lost, and kept as far as possible.
    Kept,
    /// It is lost, and another host can acquire it.
    Gone,
    /// Nothing is left of it.
    Released,
}

impl<L: Lock> Machine for L {
    type To = Address;
    type Report = Output;
    type Rules = LockRules;

    fn take_event(&mut self, event: transport::Event, now: Moment) {
        self.handle(Input::Transport(event), now);
    }

    fn take_time(&mut self, now: Moment) {
        self.handle(Input::Tick, now);
    }

    fn give(&mut self, now: Moment) -> Step<Address, Output> {
        match self.poll(now) {
            Output::Transport(output) => Step::Transport(output),
            Output::Wait(until) => Step::Wait(until),
            output => Step::Report(output),
        }
    }

    /// `Acquired` comes once, and is followed by exactly one of `Lost` and `Released`.
    fn check(rules: &mut LockRules, report: &Output) {
        use LockRules::*;
        let Output::Event(event) = report else {
            return;
        };
        *rules = match (*rules, event) {
            (state, Event::Note(_) | Event::Warn(_)) => state,
            (Contending, Event::Trying(_) | Event::Waiting { .. } | Event::LeaseUntil(_)) => {
                Contending
            }
            (Contending, Event::Acquired(_)) => Held,
            (Contending, Event::Busy(_) | Event::AlreadyRun(_) | Event::Failed(_)) => Refused,
            (
                Held,
                Event::LeaseUntil(_) | Event::Suspended(_) | Event::Resumed | Event::Revoked { .. },
            ) => Held,
            (Held, Event::Lost { gone: false, .. }) => Kept,
            (Held, Event::Lost { gone: true, .. }) | (Kept, Event::Gone(_)) => Gone,
            (
                Contending | Refused | Held | Kept | Gone,
                Event::Released { .. } | Event::ReleasedSilently,
            ) => Released,
            (state, event) => panic!("{event:?} cannot follow when a lock is {state:?}"),
        };
    }
}

//! The outputs of the memory backend. A reply about a holding is deferred until the state that
//! contains this holding is saved. A change during a save goes into the next save.

use super::super::events::Log;
use super::super::waiters::PendingRequest;
use super::super::{Answer, NotReleased, Output, Ticket};
use crate::moment::Moment;
use crate::plan::Level;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// From a failed save to the next attempt, so that a full disk is not kept busy as well.
const RETRY: Duration = Duration::from_secs(1);

const CANNOT_SAVE: &str = "cannot write the state file";

/// Deferred replies, in the order in which they were decided.
type DeferredReplies = VecDeque<(Ticket, DeferredReply)>;

/// A reply that is sent once the state is saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum DeferredReply {
    /// OK to a release; `None`: the host holds nothing.
    Ok(Option<NotReleased>),
    /// YES: the host holds the pool.
    Yes(PendingGrant),
    /// The host's holding of this pool is revoked.
    Revoked {
        pool: Rc<str>,
        request: PendingRequest,
    },
}

/// A holding that a deferred YES will report to its host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PendingGrant {
    pub(super) pool: Rc<str>,
    pub(super) token: i64,
    pub(super) request: PendingRequest,
    /// The end of the lease that the reply reports. A renewal before the save is not included: it
    /// may not be saved.
    pub(super) expires: Moment,
}

/// The last save failed.
#[derive(Debug)]
struct SaveFailure {
    since: Moment,
    retry: Moment,
    why: String,
}

/// Outputs that the loop has not taken yet, and replies that wait for a save.
#[derive(Debug)]
pub(super) struct Outbox {
    last_token: i64,
    out: VecDeque<Output>,
    /// Something changed since the last save began.
    changed: bool,
    /// The state that they depend on is saved.
    sendable: DeferredReplies,
    /// They wait for the next save.
    unsaved: DeferredReplies,
    /// They wait for the save that is running; `None`: no save is running.
    in_flight: Option<DeferredReplies>,
    failure: Option<SaveFailure>,
}

impl Log for Outbox {
    fn note(&mut self, level: Level, note: String) {
        self.out.push_back(Output::Note(level, note));
    }
}

impl Outbox {
    /// Tokens are above `last_token`. The first state is saved at once, so that a file that cannot
    /// be written is reported at the start.
    pub(super) fn new(last_token: i64) -> Outbox {
        let (out, sendable, unsaved) = (
            VecDeque::new(),
            DeferredReplies::new(),
            DeferredReplies::new(),
        );
        Outbox {
            last_token,
            out,
            changed: true,
            sendable,
            unsaved,
            in_flight: None,
            failure: None,
        }
    }

    pub(super) fn last_token(&self) -> i64 {
        self.last_token
    }

    /// A token for a new holding. Marks the state as changed.
    pub(super) fn new_token(&mut self) -> i64 {
        self.changed = true;
        self.last_token = self.last_token.saturating_add(1);
        self.last_token
    }

    pub(super) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.out.push_back(Output::Answer(ticket, answer));
    }

    /// Answers OK to a release. `why`: it has released nothing.
    pub(super) fn answer_release(&mut self, ticket: Ticket, why: Option<NotReleased>) {
        self.answer(ticket, why.map_or(Answer::Ok, Answer::NotReleased));
    }

    /// The pools' state is in memory, so a report needs no preparation.
    pub(super) fn report(&mut self, ticket: Ticket) {
        self.out.push_back(Output::Report(ticket));
    }

    pub(super) fn next_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Holders changed since the last save.
    pub(super) fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// Whether the last save succeeded. Otherwise nothing is granted or renewed.
    pub(super) fn can_save(&self) -> bool {
        self.failure.is_none()
    }

    /// Why the last save failed, if it did.
    pub(super) fn save_failure(&self) -> Option<String> {
        self.failure
            .as_ref()
            .map(|failure| format!("{CANNOT_SAVE}: {}", failure.why))
    }

    /// Sends a reply once the present state is saved. While saves fail it is sent at once: nothing
    /// is granted or renewed then, so all holders are in the state that was saved before.
    pub(super) fn defer(&mut self, ticket: Ticket, reply: DeferredReply) {
        let list = match &mut self.in_flight {
            _ if self.failure.is_some() => &mut self.sendable,
            _ if self.changed => &mut self.unsaved,
            Some(in_flight) => in_flight,
            None => &mut self.sendable,
        };
        list.push_back((ticket, reply));
    }

    /// The next reply whose state is saved.
    pub(super) fn next_sendable(&mut self) -> Option<(Ticket, DeferredReply)> {
        self.sendable.pop_front()
    }

    /// Drops the deferred reply to a client that has hung up.
    pub(super) fn cancel(&mut self, ticket: Ticket) -> Option<DeferredReply> {
        let mut lists = [
            Some(&mut self.sendable),
            Some(&mut self.unsaved),
            self.in_flight.as_mut(),
        ]
        .into_iter()
        .flatten();
        lists
            .find_map(|list| list.remove(list.iter().position(|(other, _)| *other == ticket)?))
            .map(|(_, reply)| reply)
    }

    /// Whether a save is to begin now.
    pub(super) fn is_save_due(&self, now: Moment) -> bool {
        self.changed
            && self.in_flight.is_none()
            && self
                .failure
                .as_ref()
                .is_none_or(|failure| failure.retry <= now)
    }

    /// When to retry a failed save.
    pub(super) fn wake(&self) -> Moment {
        self.failure
            .as_ref()
            .filter(|_| self.in_flight.is_none())
            .map_or(Moment::NEVER, |failure| failure.retry)
    }

    /// The loop is given the present state to save.
    pub(super) fn begin_save(&mut self) {
        self.changed = false;
        self.in_flight = Some(std::mem::take(&mut self.unsaved));
    }

    /// The save has succeeded: its replies can be sent.
    pub(super) fn saved(&mut self, now: Moment) {
        if let Some(SaveFailure { since, .. }) = self.failure.take() {
            self.note(
                Level::Warning,
                format!(
                    "the state file can be written again, after {:.1} s",
                    now.since(since).as_secs_f64()
                ),
            );
        }
        self.sendable
            .append(&mut self.in_flight.take().unwrap_or_default());
    }

    /// The save has failed. Returns the replies that must not be sent.
    pub(super) fn not_saved(&mut self, why: String, now: Moment) -> DeferredReplies {
        if self.failure.is_none() {
            self.note(
                Level::Error,
                format!("{CANNOT_SAVE}: {why}; no lock is granted or renewed until it is written, which is tried every second"),
            );
        }
        let since = self.failure.as_ref().map_or(now, |failure| failure.since);
        self.failure = Some(SaveFailure {
            since,
            retry: now + RETRY,
            why,
        });
        self.changed = true;
        let mut undone = self.in_flight.take().unwrap_or_default();
        undone.append(&mut self.unsaved);
        undone
    }
}

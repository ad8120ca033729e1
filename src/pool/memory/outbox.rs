//! What all pools of a server share: its tokens, what it wants done, and the rule that an answer
//! about a holding goes out only when the state that has this holding is saved. What changes while
//! a state is being saved goes into the next one.

use super::super::waiters::PendingRequest;
use super::super::{Answer, Output, Ticket};
use crate::moment::Moment;
use crate::plan::Level;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// From a save that failed to the next attempt: a full disk must not become a busy one.
const RETRY: Duration = Duration::from_secs(1);

const CANNOT_SAVE: &str = "cannot save who holds what";

/// Answers that wait, in the order in which they were decided.
type DeferredReplies = VecDeque<(Ticket, DeferredReply)>;

/// An answer that waits until the state is saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum DeferredReply {
    /// OK: the host holds nothing.
    Ok,
    /// YES, it holds this.
    Yes(PendingGrant),
    /// What the host holds of this pool is revoked.
    Revoked {
        pool: Rc<str>,
        request: PendingRequest,
    },
}

/// A holding that a host is to be told of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PendingGrant {
    pub(super) pool: Rc<str>,
    pub(super) token: i64,
    pub(super) request: PendingRequest,
    /// What it is to be told of its end. The holding may be renewed before that is saved, but
    /// nobody must count on it.
    pub(super) expires: Moment,
}

/// Saving fails.
#[derive(Debug)]
struct SaveFailure {
    since: Moment,
    retry: Moment,
    why: String,
}

/// What is decided but not done yet.
#[derive(Debug)]
pub(super) struct Outbox {
    last_token: i64,
    out: VecDeque<Output>,
    /// Whether there is something to save that is not being saved.
    changed: bool,
    /// What can be told.
    sendable: DeferredReplies,
    /// What can be told after the next save.
    unsaved: DeferredReplies,
    /// What can be told after the save that is under way.
    in_flight: Option<DeferredReplies>,
    failure: Option<SaveFailure>,
}

impl Outbox {
    /// Gives out tokens above this one. The first state is saved at once, so that a file that
    /// cannot be written is known from the start.
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

    /// A token for a new holding, which has to be saved.
    pub(super) fn new_token(&mut self) -> i64 {
        self.changed = true;
        self.last_token = self.last_token.saturating_add(1);
        self.last_token
    }

    pub(super) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.out.push_back(Output::Answer(ticket, answer));
    }

    /// What the pools are like is known at any time.
    pub(super) fn report(&mut self, ticket: Ticket) {
        self.out.push_back(Output::Report(ticket));
    }

    pub(super) fn note(&mut self, level: Level, note: String) {
        self.out.push_back(Output::Note(level, note));
    }

    pub(super) fn next_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Holders are not any more as they were saved.
    pub(super) fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// Whether anything can be granted or renewed.
    pub(super) fn can_save(&self) -> bool {
        self.failure.is_none()
    }

    /// Why nothing can, if so.
    pub(super) fn save_failure(&self) -> Option<String> {
        self.failure
            .as_ref()
            .map(|failure| format!("{CANNOT_SAVE}: {}", failure.why))
    }

    /// Keeps an answer until what is so now is saved, if it is not. In failure it is: nothing is
    /// granted or renewed then, so those who hold do so in what was saved before.
    pub(super) fn defer(&mut self, ticket: Ticket, reply: DeferredReply) {
        let list = match &mut self.in_flight {
            _ if self.failure.is_some() => &mut self.sendable,
            _ if self.changed => &mut self.unsaved,
            Some(in_flight) => in_flight,
            None => &mut self.sendable,
        };
        list.push_back((ticket, reply));
    }

    /// What can be told now.
    pub(super) fn next_sendable(&mut self) -> Option<(Ticket, DeferredReply)> {
        self.sendable.pop_front()
    }

    /// Nobody waits for this answer any more.
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

    /// Whether to save now.
    pub(super) fn is_save_due(&self, now: Moment) -> bool {
        self.changed
            && self.in_flight.is_none()
            && self
                .failure
                .as_ref()
                .is_none_or(|failure| failure.retry <= now)
    }

    /// When to save, if it is not due for time alone.
    pub(super) fn wake(&self) -> Moment {
        self.failure
            .as_ref()
            .filter(|_| self.in_flight.is_none())
            .map_or(Moment::NEVER, |failure| failure.retry)
    }

    /// Holders are being saved as they are now.
    pub(super) fn begin_save(&mut self) {
        self.changed = false;
        self.in_flight = Some(std::mem::take(&mut self.unsaved));
    }

    /// They are saved.
    pub(super) fn saved(&mut self, now: Moment) {
        if let Some(SaveFailure { since, .. }) = self.failure.take() {
            self.note(
                Level::Warning,
                format!(
                    "who holds what is saved again, after {:.1} s",
                    now.since(since).as_secs_f64()
                ),
            );
        }
        self.sendable
            .append(&mut self.in_flight.take().unwrap_or_default());
    }

    /// They are not: returns what cannot be told.
    pub(super) fn not_saved(&mut self, why: String, now: Moment) -> DeferredReplies {
        if self.failure.is_none() {
            self.note(
                Level::Error,
                format!("{CANNOT_SAVE}: {why}; nothing is granted or renewed until it is saved, which is tried every second"),
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

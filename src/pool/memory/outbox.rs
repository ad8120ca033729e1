//! What all pools of a server share: its tokens, what it wants done, and the rule that an answer
//! about a holding goes out only when the state that has this holding is saved. What changes while
//! a state is being saved goes into the next one.

use super::super::waiters::Asked;
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
type Promises = VecDeque<(Ticket, Promise)>;

/// An answer that waits until the state is saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Promise {
    /// OK: the host holds nothing.
    Ok,
    /// YES, it holds this.
    Yes(Stake),
    /// What the host holds of this pool is revoked.
    Revoked { pool: Rc<str>, asked: Asked },
}

/// A holding that a host is to be told of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stake {
    pub(super) pool: Rc<str>,
    pub(super) token: i64,
    pub(super) asked: Asked,
    /// What it is to be told of its end. The holding may be renewed before that is saved, but
    /// nobody must count on it.
    pub(super) expires: Moment,
}

/// Saving fails.
#[derive(Debug)]
struct Trouble {
    since: Moment,
    retry: Moment,
    why: String,
}

/// What is decided but not done yet.
#[derive(Debug)]
pub(super) struct Desk {
    last_token: i64,
    out: VecDeque<Output>,
    /// Whether there is something to save that is not being saved.
    changed: bool,
    /// What can be told.
    ready: Promises,
    /// What can be told after the next save.
    promises: Promises,
    /// What can be told after the save that is under way.
    under_way: Option<Promises>,
    trouble: Option<Trouble>,
}

impl Desk {
    /// Gives out tokens above this one. The first state is saved at once, so that a file that
    /// cannot be written is known from the start.
    pub(super) fn new(last_token: i64) -> Desk {
        let (out, ready, promises) = (VecDeque::new(), Promises::new(), Promises::new());
        Desk {
            last_token,
            out,
            changed: true,
            ready,
            promises,
            under_way: None,
            trouble: None,
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
    pub(super) fn change(&mut self) {
        self.changed = true;
    }

    /// Whether anything can be granted or renewed.
    pub(super) fn can_grant(&self) -> bool {
        self.trouble.is_none()
    }

    /// Why nothing can, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble
            .as_ref()
            .map(|trouble| format!("{CANNOT_SAVE}: {}", trouble.why))
    }

    /// Keeps an answer until what is so now is saved, if it is not. In trouble it is: nothing is
    /// granted or renewed then, so those who hold do so in what was saved before.
    pub(super) fn promise(&mut self, ticket: Ticket, promise: Promise) {
        let list = match &mut self.under_way {
            _ if self.trouble.is_some() => &mut self.ready,
            _ if self.changed => &mut self.promises,
            Some(under_way) => under_way,
            None => &mut self.ready,
        };
        list.push_back((ticket, promise));
    }

    /// What can be told now.
    pub(super) fn next_ready(&mut self) -> Option<(Ticket, Promise)> {
        self.ready.pop_front()
    }

    /// Nobody waits for this answer any more.
    pub(super) fn withdraw(&mut self, ticket: Ticket) -> Option<Promise> {
        let mut lists = [
            Some(&mut self.ready),
            Some(&mut self.promises),
            self.under_way.as_mut(),
        ]
        .into_iter()
        .flatten();
        lists
            .find_map(|list| list.remove(list.iter().position(|(other, _)| *other == ticket)?))
            .map(|(_, promise)| promise)
    }

    /// Whether to save now.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.changed
            && self.under_way.is_none()
            && self
                .trouble
                .as_ref()
                .is_none_or(|trouble| trouble.retry <= now)
    }

    /// When to save, if it is not due for time alone.
    pub(super) fn wake(&self) -> Moment {
        self.trouble
            .as_ref()
            .filter(|_| self.under_way.is_none())
            .map_or(Moment::NEVER, |trouble| trouble.retry)
    }

    /// Holders are being saved as they are now.
    pub(super) fn save(&mut self) {
        self.changed = false;
        self.under_way = Some(std::mem::take(&mut self.promises));
    }

    /// They are saved.
    pub(super) fn saved(&mut self, now: Moment) {
        if let Some(Trouble { since, .. }) = self.trouble.take() {
            self.note(
                Level::Warning,
                format!(
                    "who holds what is saved again, after {:.1} s",
                    now.since(since).as_secs_f64()
                ),
            );
        }
        self.ready
            .append(&mut self.under_way.take().unwrap_or_default());
    }

    /// They are not: returns what cannot be told.
    pub(super) fn not_saved(&mut self, why: String, now: Moment) -> Promises {
        if self.trouble.is_none() {
            self.note(
                Level::Error,
                format!("{CANNOT_SAVE}: {why}; nothing is granted or renewed until it is saved, which is tried every second"),
            );
        }
        let since = self.trouble.as_ref().map_or(now, |trouble| trouble.since);
        self.trouble = Some(Trouble {
            since,
            retry: now + RETRY,
            why,
        });
        self.changed = true;
        let mut undone = self.under_way.take().unwrap_or_default();
        undone.append(&mut self.promises);
        undone
    }
}

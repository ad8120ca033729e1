//! The connection to memcached: when to connect and disconnect, and which command each reply
//! belongs to. memcached replies in the order of the commands.

use super::super::Target;
use super::cas_cycle::CycleId;
use super::protocol::{Command, Malformed, Reply};
use crate::moment::Moment;
use crate::transport::Output;
use std::collections::VecDeque;
use std::time::Duration;

/// How long connecting may take; in one network it takes milliseconds.
const CONNECTING: Duration = Duration::from_secs(2);

/// How long a reply may take until the connection is dropped. Only a reply shows whether a command
/// took effect, so a stalled memcached gets this time to recover. Requests fail earlier.
const SILENCE: Duration = Duration::from_secs(10);

/// From a lost connection to the next attempt: the first pause, and the longest. The pause doubles
/// until a connection was good.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A connection that completed a cycle was good if it lasted this long. So no peer, whatever it
/// replies, is connected to and logged more than a few times a second.
const LASTING: Duration = Duration::from_millis(200);

#[derive(Debug)]
enum State {
    Down { until: Moment },
    Connecting { since: Moment },
    Up { since: Moment },
}

/// The connection, or the state between two connections.
#[derive(Debug)]
pub(super) struct MemcachedClient {
    state: State,
    pause: Duration,
    outgoing: String,
    /// The beginning of an incomplete reply.
    incoming: Vec<u8>,
    /// The cycles of the commands that have no reply yet, and when each command was sent.
    awaited: VecDeque<(CycleId, Moment)>,
    /// Since when no cycle has completed, and why, if the connection is known to be the reason.
    outage: Option<(Moment, String)>,
}

impl MemcachedClient {
    /// Not connected yet.
    pub(super) fn new(now: Moment) -> MemcachedClient {
        MemcachedClient {
            state: State::Down { until: now },
            pause: FIRST_PAUSE,
            outgoing: String::new(),
            incoming: Vec::new(),
            awaited: VecDeque::new(),
            outage: None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Why memcached is unreachable, if it is.
    pub(super) fn outage(&self) -> Option<&str> {
        self.outage.as_ref().map(|(_, why)| why.as_str())
    }

    /// The next order for the connection.
    pub(super) fn output(&mut self, now: Moment) -> Option<Output<Target>> {
        match self.state {
            State::Down { until } if until <= now => {
                self.state = State::Connecting { since: now };
                Some(Output::Connect(None))
            }
            State::Up { .. } if !self.outgoing.is_empty() => Some(Output::Send(
                std::mem::take(&mut self.outgoing).into_bytes(),
            )),
            _ => None,
        }
    }

    /// When something is due without an event.
    pub(super) fn wake(&self) -> Moment {
        match self.state {
            State::Down { until } => until,
            State::Connecting { since } => since + CONNECTING,
            State::Up { .. } => self
                .awaited
                .front()
                .map_or(Moment::NEVER, |(_, since)| *since + SILENCE),
        }
    }

    /// Why the connection is to be dropped, if a reply or the connecting takes too long.
    pub(super) fn timed_out(&self, now: Moment) -> Option<String> {
        let what = match self.state {
            State::Down { .. } => return None,
            State::Connecting { .. } => "no connection",
            State::Up { .. } => "no reply",
        };
        (self.wake() <= now).then(|| {
            format!(
                "{what} for {} s",
                (if self.is_up() { SILENCE } else { CONNECTING }).as_secs()
            )
        })
    }

    pub(super) fn connected(&mut self, now: Moment) {
        self.state = State::Up { since: now };
    }

    /// The connection is lost. Returns whether this begins an outage.
    pub(super) fn lost(&mut self, why: &str, now: Moment) -> bool {
        let news = self.outage.is_none();
        let lasted = matches!(self.state, State::Up { since } if since + LASTING <= now);
        if news && lasted {
            self.pause = FIRST_PAUSE;
        }
        self.outage = Some((
            self.outage.as_ref().map_or(now, |(since, _)| *since),
            why.to_owned(),
        ));
        self.state = State::Down {
            until: now + self.pause,
        };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.outgoing.clear();
        self.incoming.clear();
        self.awaited.clear();
        news
    }

    /// Sends a command of a cycle.
    pub(super) fn ask(&mut self, command: Command, cycle: &CycleId, now: Moment) {
        command.write(&mut self.outgoing);
        self.awaited.push_back((cycle.clone(), now));
    }

    /// Takes bytes of replies.
    pub(super) fn received(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
    }

    /// The next complete reply and its cycle; `Err`: the bytes are not a reply to any command.
    pub(super) fn reply(&mut self) -> Result<Option<(CycleId, Reply)>, String> {
        let mut rest = &self.incoming[..];
        let Some(reply) = Reply::read(&mut rest).map_err(|flaw| flaw.to_string())? else {
            return Ok(None);
        };
        let read = self.incoming.len() - rest.len();
        self.incoming.drain(..read);
        match (self.awaited.pop_front(), reply) {
            (Some((cycle, _)), reply) => Ok(Some((cycle, reply))),
            (None, Reply::Error(why)) => Err(why), // e.g. too many connections; memcached closes this one
            (None, _) => Err(Malformed::Unasked.to_string()),
        }
    }

    /// A cycle has completed, so the connection is good. Returns how long the outage was, if there
    /// was one.
    pub(super) fn recovered(&mut self, now: Moment) -> Option<Duration> {
        self.outage.take().map(|(since, _)| now.since(since))
    }
}

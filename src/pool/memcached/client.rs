//! The line to memcached: when to connect and to give up, and whose each reply is. Commands go out
//! in the order in which they are given, and their replies come back so.

use super::cas_cycle::CycleId;
use super::protocol::{Command, Malformed, Reply};
use crate::moment::Moment;
use crate::transport::Output;
use std::collections::VecDeque;
use std::time::Duration;

/// How long a connection may take to come about; in one network that is milliseconds.
const CONNECTING: Duration = Duration::from_secs(2);

/// How long a reply may take until the line is given up. What was sent may have had its effect,
/// which only the replies tell: so memcached is given time to come to itself. Requests do not wait
/// for that.
const SILENCE: Duration = Duration::from_secs(10);

/// From a line that was lost to the next attempt: at first, and at most. It doubles in between,
/// until a line was good.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A line over which a round came to its end was good if it lasted so long. So nobody, whatever he
/// answers, is connected to, and told of in the log, more than a few times a second.
const LASTING: Duration = Duration::from_millis(200);

#[derive(Debug)]
enum State {
    Down { until: Moment },
    Connecting { since: Moment },
    Up { since: Moment },
}

/// A connection, or the want of one.
#[derive(Debug)]
pub(super) struct MemcachedClient {
    state: State,
    pause: Duration,
    outgoing: String,
    /// Of the reply that is not whole yet.
    incoming: Vec<u8>,
    /// Who awaits a reply, and since when.
    awaited: VecDeque<(CycleId, Moment)>,
    /// Since when no round has come to its end over it, and why, if that is known to be its fault.
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

    /// Why nothing can be asked, if it cannot.
    pub(super) fn outage(&self) -> Option<&str> {
        self.outage.as_ref().map(|(_, why)| why.as_str())
    }

    /// What to do now.
    pub(super) fn output(&mut self, now: Moment) -> Option<Output<()>> {
        match self.state {
            State::Down { until } if until <= now => {
                self.state = State::Connecting { since: now };
                Some(Output::Connect(()))
            }
            State::Up { .. } if !self.outgoing.is_empty() => Some(Output::Send(
                std::mem::take(&mut self.outgoing).into_bytes(),
            )),
            _ => None,
        }
    }

    /// When it does something by itself.
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

    /// Why it is to be given up, if so.
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

    /// It is lost. Whether that is news.
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

    /// Asks something.
    pub(super) fn ask(&mut self, command: Command, cycle: &CycleId, now: Moment) {
        command.write(&mut self.outgoing);
        self.awaited.push_back((cycle.clone(), now));
    }

    /// Bytes came.
    pub(super) fn received(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
    }

    /// The next reply that is whole, and whose it is; or why there can be none.
    pub(super) fn reply(&mut self) -> Result<Option<(CycleId, Reply)>, String> {
        let mut rest = &self.incoming[..];
        let Some(reply) = Reply::read(&mut rest).map_err(|flaw| flaw.to_string())? else {
            return Ok(None);
        };
        let read = self.incoming.len() - rest.len();
        self.incoming.drain(..read);
        match (self.awaited.pop_front(), reply) {
            (Some((cycle, _)), reply) => Ok(Some((cycle, reply))),
            (None, Reply::Error(why)) => Err(why), // it is full, say, and closes the connection
            (None, _) => Err(Malformed::Unasked.to_string()),
        }
    }

    /// All that a round has asked was answered: the line is good. For how long it was not, if so.
    pub(super) fn recovered(&mut self, now: Moment) -> Option<Duration> {
        self.outage.take().map(|(since, _)| now.since(since))
    }
}

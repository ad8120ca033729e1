//! A client's request, over a connection of its own, tried at one address of the server after another until it is answered. Pure: bytes and
//! moments in, bytes and news out. It knows nothing of locks.

use super::{Malformed, Reply};
use crate::moment::Moment;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Pauses between rounds over all addresses: the first, and the longest; each is twice the one before. A fleet whose server is away is to leave it
/// room to come back.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long one address may take to accept: one lost packet is made up for in that time.
const ACCEPT: Duration = Duration::from_secs(3);

/// How long a reply may take from its first byte to its last.
const REST: Duration = Duration::from_secs(3);

/// Who is kept waiting for so long, where that is to be expected, has reached the server: what ends it is a new outage.
const KEPT_WAITING: Duration = Duration::from_secs(1);

/// What came of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// It was answered.
    Answered {
        /// How.
        reply: Reply,
        /// When it was sent, on the connection that brought the answer.
        sent: Moment,
    },
    /// An attempt has failed, and there will be another.
    Failed {
        /// Index of its address.
        address: usize,
        /// Why.
        fault: Fault,
    },
}

/// What is to be done with the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Connect to the address with this index.
    Connect(usize),
    /// Send these bytes, all of them.
    Send(Vec<u8>),
    /// Say that nothing more will be sent, and go on reading.
    Finish,
    /// Close the connection.
    Disconnect,
}

/// Why an attempt has failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The network says so.
    Network(String),
    /// No connection or no answer for so long.
    Silent(Duration),
    /// The server closed the connection and had not answered.
    HungUp,
    /// It answered what is no HTTP.
    Nonsense(Malformed),
    /// It, or a proxy before it, has no time for us: status and reason.
    Unavailable(u16, String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Fault::Network(why) => f.write_str(why),
            Fault::Silent(time) => write!(f, "no answer for {:.1} s", time.as_secs_f64()),
            Fault::HungUp => f.write_str("closed the connection"),
            Fault::Nonsense(malformed) => write!(f, "does not speak HTTP: {malformed}"),
            Fault::Unavailable(status, reason) => write!(f, "{status} {reason}"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing is asked.
    Idle,
    /// No connection. The next attempt is due then.
    Down { retry: Moment },
    /// A connection is being made, since then.
    Connecting { since: Moment },
    /// The request was sent then; the answer must have come by then.
    Asked { since: Moment, by: Moment },
}

/// One request after another.
#[derive(Debug)]
pub struct Caller {
    /// How each address is called in a message.
    servers: Vec<String>,
    /// Why each was given up last.
    faults: Vec<Option<Fault>>,
    /// Address of this attempt, or of the last one. Who has answered is asked again: others may know nothing of us.
    server: usize,
    /// Attempts in vain since one was not.
    attempts: usize,
    /// Since when nobody was to be reached; `None`: somebody is.
    away: Option<Moment>,
    request: Vec<u8>,
    /// How long an answer may take.
    patience: Duration,
    phase: Phase,
    incoming: Vec<u8>,
    steps: VecDeque<Step>,
    news: VecDeque<News>,
}

impl Caller {
    /// For a server at these addresses, of which there is at least one; so far it was not to be reached since `began`.
    pub fn new(servers: Vec<String>, began: Moment) -> Caller {
        Caller {
            faults: vec![None; servers.len()],
            servers,
            server: 0,
            attempts: 0,
            away: Some(began),
            request: Vec::new(),
            patience: Duration::MAX,
            phase: Phase::Idle,
            incoming: Vec::new(),
            steps: VecDeque::new(),
            news: VecDeque::new(),
        }
    }

    /// Asks this, in place of anything else; an answer may take so long, `Duration::MAX` if it is to be waited for. The first attempt is due at
    /// once.
    pub fn ask(&mut self, request: Vec<u8>, patience: Duration, now: Moment) {
        self.stop();
        (self.request, self.patience) = (request, patience);
        self.phase = Phase::Down { retry: now };
    }

    /// Asks nothing any more.
    pub fn stop(&mut self) {
        if matches!(self.phase, Phase::Connecting { .. } | Phase::Asked { .. }) {
            self.steps.push_back(Step::Disconnect);
        }
        self.phase = Phase::Idle;
        self.incoming.clear();
        self.news.clear();
    }

    /// Tells the server that nothing more will come from here, in the hope that it ends what it keeps open for us.
    pub fn finish(&mut self) {
        if let Phase::Asked { .. } = self.phase {
            self.steps.push_back(Step::Finish);
        }
    }

    /// Since when a server has our request, as far as we know; `None` if none has.
    pub fn asked(&self) -> Option<Moment> {
        if let Phase::Asked { since, .. } = self.phase { Some(since) } else { None }
    }

    /// Since when nobody was to be reached who answers, or keeps us waiting as is to be expected; `None`: somebody was.
    pub fn away(&self) -> Option<Moment> {
        self.away
    }

    /// Each address that was tried, and why it was given up: `dx:9889: connection refused`.
    pub fn faults(&self, now: Moment) -> String {
        let waiting = match self.phase {
            Phase::Connecting { since } | Phase::Asked { since, .. } => Some(Fault::Silent(now.since(since))),
            Phase::Down { .. } | Phase::Idle => None,
        };
        let tried = self.servers.iter().zip(&self.faults).enumerate().map(|(index, (server, fault))| {
            match fault.as_ref().or(waiting.as_ref().filter(|_| index == self.server)) {
                Some(fault) => format!("{server}: {fault}"),
                None => format!("{server}: not tried yet"),
            }
        });
        tried.collect::<Vec<_>>().join("; ")
    }

    /// The connection is there: the request goes out.
    pub fn connected(&mut self, now: Moment) {
        if let Phase::Connecting { .. } = self.phase {
            self.steps.push_back(Step::Send(self.request.clone()));
            self.phase = Phase::Asked { since: now, by: now + self.patience };
        }
    }

    /// The connection is gone, or could not be made.
    pub fn disconnected(&mut self, why: Option<String>, now: Moment) {
        match (self.phase, why) {
            (Phase::Idle | Phase::Down { .. }, _) => {}
            (_, Some(why)) => self.fall(Fault::Network(why), now),
            (_, None) if self.incoming.is_empty() => self.fall(Fault::HungUp, now),
            (_, None) => self.read(true, now),
        }
    }

    /// Bytes came.
    pub fn received(&mut self, bytes: &[u8], now: Moment) {
        if let Phase::Asked { since, by } = self.phase {
            if self.incoming.is_empty() {
                self.phase = Phase::Asked { since, by: by.min(now + REST) };
            }
            self.incoming.extend_from_slice(bytes);
            self.read(false, now);
        }
    }

    fn read(&mut self, closed: bool, now: Moment) {
        let Phase::Asked { since: sent, .. } = self.phase else { return };
        match Reply::read(&self.incoming, closed) {
            Ok(None) => {}
            Ok(Some((Reply { status: status @ (502..=504), reason, .. }, _))) => self.leave(Fault::Unavailable(status, reason), now),
            Ok(Some((reply, _))) => {
                self.stop();
                (self.attempts, self.away) = (0, None);
                self.news.push_back(News::Answered { reply, sent });
            }
            Err(malformed) => self.leave(Fault::Nonsense(malformed), now),
        }
    }

    /// Does what is due: the next attempt, giving up a silent server.
    pub fn tick(&mut self, now: Moment) {
        match self.phase {
            Phase::Down { retry } if now >= retry => {
                self.phase = Phase::Connecting { since: now };
                self.steps.push_back(Step::Connect(self.server));
            }
            Phase::Connecting { since } if now >= since + ACCEPT => self.leave(Fault::Silent(now.since(since)), now),
            Phase::Asked { since, by } if now >= by => self.leave(Fault::Silent(now.since(since)), now),
            _ => {}
        }
    }

    /// What to do next with the connection.
    pub fn step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// What has happened.
    pub fn news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// When time alone brings about something next.
    pub fn wake(&self) -> Moment {
        match self.phase {
            Phase::Idle => Moment::NEVER,
            Phase::Down { retry } => retry,
            Phase::Connecting { since } => since + ACCEPT,
            Phase::Asked { by, .. } => by,
        }
    }

    /// Gives up a connection that is still there.
    fn leave(&mut self, fault: Fault, now: Moment) {
        self.steps.push_back(Step::Disconnect);
        self.fall(fault, now);
    }

    /// The connection is gone: the next address is tried at once, after a round over all of them there is a pause.
    fn fall(&mut self, fault: Fault, now: Moment) {
        if self.patience == Duration::MAX && self.asked().is_some_and(|since| now >= since + KEPT_WAITING) {
            (self.attempts, self.away) = (0, None);
        }
        self.away.get_or_insert(now);
        self.incoming.clear();
        self.attempts += 1;
        let rounds = self.attempts / self.servers.len();
        let pause = if self.attempts.is_multiple_of(self.servers.len()) { pause(rounds) } else { Duration::ZERO };
        self.phase = Phase::Down { retry: now + pause };
        self.faults[self.server] = Some(fault.clone());
        self.news.push_back(News::Failed { address: self.server, fault });
        self.server = (self.server + 1) % self.servers.len();
    }
}

/// After so many rounds.
fn pause(rounds: usize) -> Duration {
    let doublings = u32::try_from(rounds.saturating_sub(1)).unwrap_or(u32::MAX).min(8);
    (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE)
}

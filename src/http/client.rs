//! A client's request, over a connection of its own, tried at one address of the server after
//! another until it is answered. Pure: bytes and moments in, bytes and news out. It knows nothing
//! of locks.

use super::{Malformed, Reply};
use crate::endpoint::{self, Endpoint};
use crate::moment::Moment;
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Pauses between rounds over all addresses: the first, and the longest; each is twice the one
/// before. A fleet whose server is away is to leave it room to come back.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long one address may take to accept: one lost packet is made up for in that time.
const ACCEPT: Duration = Duration::from_secs(3);

/// How long a reply may take from its first byte to its last.
const REST: Duration = Duration::from_secs(3);

/// Who is kept waiting for so long, where that is to be expected, has reached the server: what ends
/// it is a new outage.
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
        /// How its address is called.
        server: String,
        /// Why.
        fault: Fault,
    },
}

/// What is to be done with the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Connect to this address.
    Connect(SocketAddr),
    /// Send these bytes, all of them.
    Send(Vec<u8>),
    /// Say that nothing more will be sent, and go on reading.
    Finish,
    /// Close the connection: the request was answered.
    Disconnect,
    /// Break the connection off: the request was given up, and is not to arrive later, when
    /// something else is true.
    Abandon,
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
            Fault::Nonsense(Malformed::Cut) => {
                f.write_str("closed the connection in the middle of its answer")
            }
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
    /// The server's addresses, and how messages call them. Never empty.
    servers: Vec<Endpoint>,
    /// Why each was given up last.
    faults: Vec<Option<Fault>>,
    /// Address of this attempt, or of the last one. Who has answered is asked again: others may
    /// know nothing of us.
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
    /// For a server at these addresses, of which there is at least one; so far it was not to be
    /// reached since `began`.
    pub fn new(servers: Vec<Endpoint>, began: Moment) -> Caller {
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

    /// Asks this, in place of anything else, for the first time when it is `due`. An answer may
    /// take so long, `Duration::MAX` if it is to be waited for.
    pub fn ask(&mut self, request: Vec<u8>, patience: Duration, due: Moment) {
        self.stop();
        (self.request, self.patience) = (request, patience);
        self.phase = Phase::Down { retry: due };
    }

    /// Asks nothing any more.
    pub fn stop(&mut self) {
        if matches!(self.phase, Phase::Connecting { .. } | Phase::Asked { .. }) {
            self.steps.push_back(Step::Abandon);
        }
        self.phase = Phase::Idle;
        self.incoming.clear();
        self.news.clear();
    }

    /// Tells the server that nothing more will come from here, in the hope that it ends what it
    /// keeps open for us.
    pub fn finish(&mut self) {
        if let Phase::Asked { .. } = self.phase {
            self.steps.push_back(Step::Finish);
        }
    }

    /// Since when a server has our request, as far as we know; `None` if none has.
    pub fn asked(&self) -> Option<Moment> {
        if let Phase::Asked { since, .. } = self.phase {
            Some(since)
        } else {
            None
        }
    }

    /// When a server will have had our request for so long that it is the request, and not the
    /// server, that we wait for: at once, unless attempts have failed. `None` if none has it.
    pub fn kept_waiting(&self) -> Option<Moment> {
        self.asked().map(|since| {
            if self.attempts == 0 {
                since
            } else {
                since + KEPT_WAITING
            }
        })
    }

    /// Since when nobody was to be reached who answers, or keeps us waiting as is to be expected;
    /// `None`: somebody was.
    pub fn away(&self) -> Option<Moment> {
        self.away
    }

    /// Since when no address could be reached, if one is wanted. A request that is left alone until
    /// it is answered has reached the server.
    pub fn unreached(&self) -> Option<Moment> {
        match self.phase {
            Phase::Idle => None,
            Phase::Asked { .. } if self.patience == Duration::MAX => None,
            _ => self.away,
        }
    }

    /// Names were looked up again: these are the server's addresses from now on. Whether that
    /// changes anything. An address that was asked stays until it has answered or failed; an
    /// attempt to connect to one that is no longer listed ends.
    pub fn relist(&mut self, found: Vec<Endpoint>, now: Moment) -> bool {
        let Some(mut servers) = endpoint::relisted(&self.servers, found) else {
            return false;
        };
        let current = self.servers[self.server].clone();
        let position = endpoint::position(&servers, current.address);
        match self.phase {
            Phase::Connecting { .. } if position.is_none() => {
                self.steps.push_back(Step::Abandon);
                self.phase = Phase::Down { retry: now };
            }
            Phase::Down { retry } if self.attempts > 0 => {
                self.phase = Phase::Down {
                    retry: retry.min(now),
                }
            }
            Phase::Asked { .. } if position.is_none() => servers.push(current),
            _ => {}
        }
        let stays = self.attempts == 0
            || matches!(self.phase, Phase::Connecting { .. } | Phase::Asked { .. });
        let last = servers.len() - 1;
        self.attempts = self.attempts / self.servers.len() * servers.len(); // as many rounds as before
        let fault = |server: &Endpoint| {
            endpoint::position(&self.servers, server.address)
                .and_then(|old| self.faults[old].clone())
        };
        self.faults = servers.iter().map(fault).collect();
        self.server = match self.phase {
            Phase::Asked { .. } => position.unwrap_or(last),
            _ => position.filter(|_| stays).unwrap_or(0),
        };
        self.servers = servers;
        true
    }

    /// Each address that was tried, and why it was given up: `dx:9889: connection refused`.
    pub fn faults(&self, now: Moment) -> String {
        let waiting = match self.phase {
            Phase::Connecting { since } | Phase::Asked { since, .. } => {
                Some(Fault::Silent(now.since(since)))
            }
            Phase::Down { .. } | Phase::Idle => None,
        };
        let tried = self.servers.iter().zip(&self.faults).enumerate().map(
            |(index, (Endpoint { name: server, .. }, fault))| match fault
                .as_ref()
                .or(waiting.as_ref().filter(|_| index == self.server))
            {
                Some(fault) => format!("{server}: {fault}"),
                None => format!("{server}: not tried yet"),
            },
        );
        tried.collect::<Vec<_>>().join("; ")
    }

    /// The connection is there: the request goes out.
    pub fn connected(&mut self, now: Moment) {
        if let Phase::Connecting { .. } = self.phase {
            self.steps.push_back(Step::Send(self.request.clone()));
            self.phase = Phase::Asked {
                since: now,
                by: now + self.patience,
            };
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
                self.phase = Phase::Asked {
                    since,
                    by: by.min(now + REST),
                };
            }
            self.incoming.extend_from_slice(bytes);
            self.read(false, now);
        }
    }

    fn read(&mut self, closed: bool, now: Moment) {
        let Phase::Asked { since: sent, .. } = self.phase else {
            return;
        };
        match Reply::read(&self.incoming, closed) {
            Ok(None) => {}
            Ok(Some((
                Reply {
                    status: status @ (502..=504),
                    reason,
                    ..
                },
                _,
            ))) => self.leave(Fault::Unavailable(status, reason), now),
            Ok(Some((reply, _))) => {
                self.phase = Phase::Idle;
                self.steps.push_back(Step::Disconnect);
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
                self.steps
                    .push_back(Step::Connect(self.servers[self.server].address));
            }
            Phase::Connecting { since } if now >= since + self.acceptance() => {
                self.leave(Fault::Silent(now.since(since)), now);
            }
            Phase::Asked { since, by } if now >= by => {
                self.leave(Fault::Silent(now.since(since)), now);
            }
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
            Phase::Connecting { since } => since + self.acceptance(),
            Phase::Asked { by, .. } => by,
        }
    }

    /// How long an address may take to accept.
    fn acceptance(&self) -> Duration {
        ACCEPT.min(self.patience)
    }

    /// Gives up a connection that is still there.
    fn leave(&mut self, fault: Fault, now: Moment) {
        self.steps.push_back(Step::Abandon);
        self.fall(fault, now);
    }

    /// The connection is gone: the next address is tried at once, after a round over all of them
    /// there is a pause.
    fn fall(&mut self, fault: Fault, now: Moment) {
        if self.patience == Duration::MAX
            && self
                .asked()
                .is_some_and(|since| now >= since + KEPT_WAITING)
        {
            (self.attempts, self.away) = (0, None);
        }
        self.away.get_or_insert(now);
        self.incoming.clear();
        self.attempts += 1;
        let rounds = self.attempts / self.servers.len();
        let pause = if self.attempts.is_multiple_of(self.servers.len()) {
            pause(rounds)
        } else {
            Duration::ZERO
        };
        self.phase = Phase::Down { retry: now + pause };
        self.faults[self.server] = Some(fault.clone());
        self.news.push_back(News::Failed {
            server: self.servers[self.server].name.clone(),
            fault,
        });
        self.server = (self.server + 1) % self.servers.len();
    }
}

/// After so many rounds.
fn pause(rounds: usize) -> Duration {
    let doublings = u32::try_from(rounds.saturating_sub(1))
        .unwrap_or(u32::MAX)
        .min(8);
    (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{LONGEST_REPLY_BODY, Terms};

    const ASK: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
    const ANSWER: Duration = Duration::from_secs(3);

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_secs(100) + Duration::from_millis(milliseconds))
    }

    fn caller(addresses: &[&str]) -> Caller {
        Caller::new(addresses.iter().map(|&name| name.into()).collect(), at(0))
    }

    fn address(name: &str) -> SocketAddr {
        Endpoint::from(name).address
    }

    fn connect(name: &str) -> Step {
        Step::Connect(address(name))
    }

    fn steps(caller: &mut Caller, now: Moment) -> Vec<Step> {
        caller.tick(now);
        std::iter::from_fn(|| caller.step()).collect()
    }

    fn reply(body: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        Reply::new(200, "text/html", body).write(Terms::UNREADABLE, "", &mut bytes);
        bytes
    }

    /// A caller that has asked, at 0 ms, and kept waiting for so long.
    fn asked(patience: Duration) -> Caller {
        let mut caller = caller(&["a"]);
        caller.ask(ASK.to_vec(), patience, at(0));
        assert_eq!(steps(&mut caller, at(0)), [connect("a")]);
        caller.connected(at(0));
        assert_eq!(steps(&mut caller, at(0)), [Step::Send(ASK.to_vec())]);
        caller
    }

    #[track_caller]
    fn fails(caller: &mut Caller, expected: &Fault) {
        let Some(News::Failed { fault, .. }) = caller.news() else {
            panic!("no failure")
        };
        assert_eq!((&fault, caller.news()), (expected, None));
    }

    #[test]
    fn an_answer_is_told_with_the_moment_of_its_request_and_ends_the_connection() {
        for whole in [
            reply("YES"),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nYES\r\n0\r\n\r\n".to_vec(),
        ] {
            for cut in 0..whole.len() {
                let mut caller = asked(ANSWER);
                caller.received(&whole[..cut], at(500));
                assert_eq!(caller.news(), None);
                caller.received(&whole[cut..], at(900));
                let Some(News::Answered { reply, sent }) = caller.news() else {
                    panic!("no answer, cut at {cut}")
                };
                assert_eq!((&reply.body[..], sent), (&b"YES"[..], at(0)));
                assert_eq!(steps(&mut caller, at(900)), [Step::Disconnect]);
                assert_eq!((caller.wake(), caller.away()), (Moment::NEVER, None));
            }
        }
    }

    #[test]
    fn an_answer_may_end_with_the_connection() {
        let mut caller = asked(ANSWER);
        caller.received(b"HTTP/1.0 200 OK\r\n\r\nYES", at(1));
        assert_eq!(caller.news(), None);
        caller.disconnected(None, at(2));
        assert!(
            matches!(caller.news(), Some(News::Answered { reply, .. }) if reply.body == b"YES")
        );
    }

    #[test]
    fn what_is_no_answer_is_a_fault() {
        type Harm = fn(&mut Caller);
        let rows: &[(Harm, &str)] = &[
            (
                |caller| caller.disconnected(None, at(1)),
                "closed the connection",
            ),
            (
                |caller| caller.disconnected(Some("connection reset by peer".into()), at(1)),
                "connection reset by peer",
            ),
            (|caller| caller.tick(at(3000)), "no answer for 3.0 s"),
            (
                |caller| caller.received(b"220 mail.example ESMTP\r\n", at(1)),
                "does not speak HTTP: ",
            ),
            (
                |caller| caller.received(&reply(&"x".repeat(LONGEST_REPLY_BODY + 1)), at(1)),
                "does not speak HTTP: ",
            ),
            (
                |caller| caller.received(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", at(1)),
                "503 Busy",
            ),
            (
                |caller| {
                    caller.received(b"HTTP/1.1 200 OK\r\n", at(1));
                    caller.disconnected(None, at(2));
                },
                "closed the connection in the middle of its answer",
            ),
        ];
        for (harm, sentence) in rows {
            let mut caller = asked(ANSWER);
            harm(&mut caller);
            let Some(News::Failed { fault, .. }) = caller.news() else {
                panic!("no failure: {sentence}")
            };
            assert!(fault.to_string().starts_with(sentence), "{fault}");
            assert!(
                caller
                    .faults(at(3000))
                    .starts_with(&format!("a: {sentence}")),
                "{}",
                caller.faults(at(3000))
            );
            assert_eq!(caller.asked(), None);
        }
    }

    #[test]
    fn a_reply_that_has_begun_must_come_to_its_end() {
        let mut caller = asked(Duration::MAX);
        caller.received(b"HTTP", at(60_000));
        assert_eq!(caller.wake(), at(63_000));
        caller.received(b"/1.1", at(62_000));
        caller.tick(at(63_000));
        fails(&mut caller, &Fault::Silent(Duration::from_secs(63)));
    }

    #[test]
    fn addresses_are_tried_in_turn_and_after_each_round_there_is_a_longer_pause() {
        let mut caller = caller(&["a", "b"]);
        caller.ask(ASK.to_vec(), ANSWER, at(0));
        let mut now = at(0);
        let mut tries = Vec::new();
        for _ in 0..12 {
            now = now.max(caller.wake());
            let [Step::Connect(address)] = steps(&mut caller, now)[..] else {
                panic!("no attempt at {now:?}")
            };
            tries.push((address, now.since(at(0)).as_millis()));
            caller.disconnected(Some("connection refused".into()), now);
        }
        let starts = [0, 100, 300, 700, 1500, 2500];
        assert_eq!(
            tries,
            starts
                .iter()
                .flat_map(|&start| [(address("a"), start), (address("b"), start)])
                .collect::<Vec<_>>()
        );
        assert_eq!(caller.away(), Some(at(0)));
        assert_eq!(
            caller.faults(now),
            "a: connection refused; b: connection refused"
        );
    }

    fn list(names: &[&str]) -> Vec<Endpoint> {
        names.iter().map(|&name| name.into()).collect()
    }

    #[test]
    fn a_server_that_has_moved_is_asked_at_once() {
        let mut caller = caller(&["a", "b"]);
        caller.ask(ASK.to_vec(), ANSWER, at(0));
        for name in ["a", "b"] {
            assert_eq!(steps(&mut caller, at(0)), [connect(name)]);
            caller.disconnected(Some("connection refused".into()), at(0));
        }
        assert_eq!(caller.unreached(), Some(at(0)));
        assert!(
            !caller.relist(list(&["b", "a"]), at(10)),
            "they are the same"
        );
        assert_eq!(caller.wake(), at(100));
        assert!(caller.relist(list(&["b", "c"]), at(10)));
        assert_eq!(steps(&mut caller, at(10)), [connect("c")]);
        assert_eq!(
            caller.faults(at(10)),
            "c: no answer for 0.0 s; b: connection refused"
        );
    }

    #[test]
    fn an_attempt_at_an_address_that_is_none_any_more_ends_and_a_request_goes_on() {
        let mut caller = caller(&["a"]);
        caller.ask(ASK.to_vec(), Duration::MAX, at(0));
        assert_eq!(steps(&mut caller, at(0)), [connect("a")]);
        assert!(caller.relist(list(&["b"]), at(1000)));
        assert_eq!(steps(&mut caller, at(1000)), [Step::Abandon, connect("b")]);
        caller.connected(at(1000));
        steps(&mut caller, at(1000));
        assert_eq!(
            caller.unreached(),
            None,
            "it is kept waiting, as is to be expected"
        );
        assert!(caller.relist(list(&["c"]), at(2000)));
        assert_eq!(steps(&mut caller, at(2000)), []);
        caller.disconnected(None, at(9000));
        let due = caller.wake();
        assert_eq!(steps(&mut caller, due), [connect("c")]);
    }

    #[test]
    fn an_address_that_does_not_accept_is_left_and_one_that_has_answered_is_asked_again() {
        let mut caller = caller(&["a", "b"]);
        caller.ask(ASK.to_vec(), ANSWER, at(0));
        assert_eq!(steps(&mut caller, at(0)), [connect("a")]);
        assert_eq!(caller.wake(), at(3000));
        assert_eq!(
            caller.faults(at(2000)),
            "a: no answer for 2.0 s; b: not tried yet"
        );
        caller.tick(at(3000));
        assert_eq!(steps(&mut caller, at(3000)), [Step::Abandon, connect("b")]);
        caller.connected(at(3000));
        steps(&mut caller, at(3000));
        caller.received(&reply("YES"), at(3001));
        steps(&mut caller, at(3001));
        caller.ask(ASK.to_vec(), ANSWER, at(4000));
        assert_eq!(steps(&mut caller, at(4000)), [connect("b")]);
    }

    /// Else a server that hangs up on everybody at once would be tried for ever.
    #[test]
    fn only_who_was_kept_waiting_as_expected_has_reached_the_server() {
        for (patience, ended, away) in [
            (Duration::MAX, 1000, 1000), // a new outage
            (Duration::MAX, 999, 0),
            (Duration::from_mins(1), 59_000, 0),
        ] {
            let mut caller = asked(patience);
            caller.disconnected(None, at(ended));
            fails(&mut caller, &Fault::HungUp);
            assert_eq!(caller.away(), Some(at(away)), "{patience:?}");
        }
    }

    #[test]
    fn a_new_question_ends_the_one_before_and_nothing_late_is_heard_of_it() {
        let mut caller = asked(Duration::MAX);
        caller.received(b"HTTP/1.1 2", at(1));
        caller.ask(b"other".to_vec(), ANSWER, at(2));
        assert_eq!(steps(&mut caller, at(2)), [Step::Abandon, connect("a")]);
        caller.received(&reply("YES"), at(2));
        assert_eq!(caller.news(), None);
        caller.connected(at(3));
        assert_eq!(steps(&mut caller, at(3)), [Step::Send(b"other".to_vec())]);
        caller.received(&reply("OK"), at(4));
        assert!(matches!(caller.news(), Some(News::Answered { reply, .. }) if reply.body == b"OK"));
        caller.stop();
        caller.disconnected(None, at(5));
        assert_eq!((caller.news(), caller.wake()), (None, Moment::NEVER));
    }

    #[test]
    fn only_a_request_that_is_out_can_be_finished() {
        let mut caller = asked(Duration::MAX);
        caller.finish();
        assert_eq!(steps(&mut caller, at(1)), [Step::Finish]);
        caller.stop();
        caller.finish();
        assert_eq!(steps(&mut caller, at(1)), [Step::Abandon]);
    }
}

//! A client's request, over a connection of its own, tried at one address of the server after
//! another until it is answered. Pure: bytes and moments in, bytes and news out. It knows nothing
//! of locks.

use super::{Malformed, Reply};
use crate::endpoint::{self, Endpoint};
use crate::moment::Moment;
use crate::transport::{Event, Output};
use std::collections::VecDeque;
use std::fmt;
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
pub enum HttpEvent {
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
    ProtocolError(Malformed),
    /// It, or a proxy before it, has no time for us: status and reason.
    Unavailable(u16, String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Fault::Network(why) => f.write_str(why),
            Fault::Silent(time) => write!(f, "no answer for {:.1} s", time.as_secs_f64()),
            Fault::HungUp => {
                f.write_str("closed the connection (not an HTTP server, or it expects TLS?)")
            }
            Fault::ProtocolError(Malformed::Cut) => {
                f.write_str("closed the connection in the middle of its answer")
            }
            Fault::ProtocolError(malformed) => write!(f, "does not speak HTTP: {malformed}"),
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
pub struct HttpClient {
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
    unreachable_since: Option<Moment>,
    request: Vec<u8>,
    /// How long an answer may take.
    patience: Duration,
    phase: Phase,
    incoming: Vec<u8>,
    outputs: VecDeque<Output>,
    events: VecDeque<HttpEvent>,
}

impl HttpClient {
    /// For a server at these addresses, of which there is at least one; so far it was not to be
    /// reached since `began`.
    pub fn new(servers: Vec<Endpoint>, began: Moment) -> HttpClient {
        HttpClient {
            faults: vec![None; servers.len()],
            servers,
            server: 0,
            attempts: 0,
            unreachable_since: Some(began),
            request: Vec::new(),
            patience: Duration::MAX,
            phase: Phase::Idle,
            incoming: Vec::new(),
            outputs: VecDeque::new(),
            events: VecDeque::new(),
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
            self.outputs.push_back(Output::Reset);
        }
        self.phase = Phase::Idle;
        self.incoming.clear();
        self.events.clear();
    }

    /// Tells the server that nothing more will come from here, in the hope that it ends what it
    /// keeps open for us.
    pub fn shutdown_write(&mut self) {
        if let Phase::Asked { .. } = self.phase {
            self.outputs.push_back(Output::ShutdownWrite);
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
    pub fn unreachable_since(&self) -> Option<Moment> {
        self.unreachable_since
    }

    /// Since when no address could be reached, if one is wanted. A request that is left alone until
    /// it is answered has reached the server.
    pub fn unreached(&self) -> Option<Moment> {
        match self.phase {
            Phase::Idle => None,
            Phase::Asked { .. } if self.patience == Duration::MAX => None,
            _ => self.unreachable_since,
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
                self.outputs.push_back(Output::Reset);
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

    /// Takes in what happened to the connection.
    pub fn on_transport(&mut self, event: Event, now: Moment) {
        match event {
            Event::Connected => self.connected(now),
            Event::Disconnected(why) => self.disconnected(why, now),
            Event::Received(bytes) => self.received(bytes, now),
        }
    }

    /// The connection is there: the request goes out.
    fn connected(&mut self, now: Moment) {
        if let Phase::Connecting { .. } = self.phase {
            self.outputs.push_back(Output::Send(self.request.clone()));
            self.phase = Phase::Asked {
                since: now,
                by: now + self.patience,
            };
        }
    }

    /// The connection is gone, or could not be made.
    fn disconnected(&mut self, why: Option<String>, now: Moment) {
        match (self.phase, why) {
            (Phase::Idle | Phase::Down { .. }, _) => {}
            (_, Some(why)) => self.next_address(Fault::Network(why), now),
            (_, None) if self.incoming.is_empty() => self.next_address(Fault::HungUp, now),
            (_, None) => self.read(true, now),
        }
    }

    /// Bytes came.
    fn received(&mut self, bytes: &[u8], now: Moment) {
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
            ))) => self.disconnect(Fault::Unavailable(status, reason), now),
            Ok(Some((reply, _))) => {
                self.phase = Phase::Idle;
                self.outputs.push_back(Output::Close);
                self.stop();
                (self.attempts, self.unreachable_since) = (0, None);
                self.events.push_back(HttpEvent::Answered { reply, sent });
            }
            Err(malformed) => self.disconnect(Fault::ProtocolError(malformed), now),
        }
    }

    /// Does what is due: the next attempt, giving up a silent server.
    pub fn tick(&mut self, now: Moment) {
        match self.phase {
            Phase::Down { retry } if now >= retry => {
                self.phase = Phase::Connecting { since: now };
                self.outputs
                    .push_back(Output::Connect(self.servers[self.server].address));
            }
            Phase::Connecting { since } if now >= since + self.acceptance() => {
                self.disconnect(Fault::Silent(now.since(since)), now);
            }
            Phase::Asked { since, by } if now >= by => {
                self.disconnect(Fault::Silent(now.since(since)), now);
            }
            _ => {}
        }
    }

    /// What to do next with the connection.
    pub fn output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What has happened.
    pub fn event(&mut self) -> Option<HttpEvent> {
        self.events.pop_front()
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
    fn disconnect(&mut self, fault: Fault, now: Moment) {
        self.outputs.push_back(Output::Reset);
        self.next_address(fault, now);
    }

    /// The connection is gone: the next address is tried at once, after a round over all of them
    /// there is a pause.
    fn next_address(&mut self, fault: Fault, now: Moment) {
        if self.patience == Duration::MAX
            && self
                .asked()
                .is_some_and(|since| now >= since + KEPT_WAITING)
        {
            (self.attempts, self.unreachable_since) = (0, None);
        }
        self.unreachable_since.get_or_insert(now);
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
        self.events.push_back(HttpEvent::Failed {
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
    use std::net::SocketAddr;

    const ASK: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
    const ANSWER: Duration = Duration::from_secs(3);

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_secs(100) + Duration::from_millis(milliseconds))
    }

    fn client(addresses: &[&str]) -> HttpClient {
        HttpClient::new(addresses.iter().map(|&name| name.into()).collect(), at(0))
    }

    fn address(name: &str) -> SocketAddr {
        Endpoint::from(name).address
    }

    fn connect(name: &str) -> Output {
        Output::Connect(address(name))
    }

    fn outputs(client: &mut HttpClient, now: Moment) -> Vec<Output> {
        client.tick(now);
        std::iter::from_fn(|| client.output()).collect()
    }

    fn reply(body: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        Reply::new(200, "text/html", body).write(Terms::UNREADABLE, "", &mut bytes);
        bytes
    }

    /// A client that has asked, at 0 ms, and kept waiting for so long.
    fn asked(patience: Duration) -> HttpClient {
        let mut client = client(&["a"]);
        client.ask(ASK.to_vec(), patience, at(0));
        assert_eq!(outputs(&mut client, at(0)), [connect("a")]);
        client.connected(at(0));
        assert_eq!(outputs(&mut client, at(0)), [Output::Send(ASK.to_vec())]);
        client
    }

    #[track_caller]
    fn fails(client: &mut HttpClient, expected: &Fault) {
        let Some(HttpEvent::Failed { fault, .. }) = client.event() else {
            panic!("no failure")
        };
        assert_eq!((&fault, client.event()), (expected, None));
    }

    #[test]
    fn an_answer_is_told_with_the_moment_of_its_request_and_ends_the_connection() {
        for whole in [
            reply("YES"),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nYES\r\n0\r\n\r\n".to_vec(),
        ] {
            for cut in 0..whole.len() {
                let mut client = asked(ANSWER);
                client.received(&whole[..cut], at(500));
                assert_eq!(client.event(), None);
                client.received(&whole[cut..], at(900));
                let Some(HttpEvent::Answered { reply, sent }) = client.event() else {
                    panic!("no answer, cut at {cut}")
                };
                assert_eq!((&reply.body[..], sent), (&b"YES"[..], at(0)));
                assert_eq!(outputs(&mut client, at(900)), [Output::Close]);
                assert_eq!(
                    (client.wake(), client.unreachable_since()),
                    (Moment::NEVER, None)
                );
            }
        }
    }

    #[test]
    fn an_answer_may_end_with_the_connection() {
        let mut client = asked(ANSWER);
        client.received(b"HTTP/1.0 200 OK\r\n\r\nYES", at(1));
        assert_eq!(client.event(), None);
        client.disconnected(None, at(2));
        assert!(
            matches!(client.event(), Some(HttpEvent::Answered { reply, .. }) if reply.body == b"YES")
        );
    }

    #[test]
    fn what_is_no_answer_is_a_fault() {
        type Harm = fn(&mut HttpClient);
        let rows: &[(Harm, &str)] = &[
            (
                |client| client.disconnected(None, at(1)),
                "closed the connection (not an HTTP server, or it expects TLS?)",
            ),
            (
                |client| client.disconnected(Some("connection reset by peer".into()), at(1)),
                "connection reset by peer",
            ),
            (|client| client.tick(at(3000)), "no answer for 3.0 s"),
            (
                |client| client.received(b"220 mail.example ESMTP\r\n", at(1)),
                "does not speak HTTP: ",
            ),
            (
                |client| client.received(&reply(&"x".repeat(LONGEST_REPLY_BODY + 1)), at(1)),
                "does not speak HTTP: ",
            ),
            (
                |client| client.received(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", at(1)),
                "503 Busy",
            ),
            (
                |client| {
                    client.received(b"HTTP/1.1 200 OK\r\n", at(1));
                    client.disconnected(None, at(2));
                },
                "closed the connection in the middle of its answer",
            ),
        ];
        for (harm, sentence) in rows {
            let mut client = asked(ANSWER);
            harm(&mut client);
            let Some(HttpEvent::Failed { fault, .. }) = client.event() else {
                panic!("no failure: {sentence}")
            };
            assert!(fault.to_string().starts_with(sentence), "{fault}");
            assert!(
                client
                    .faults(at(3000))
                    .starts_with(&format!("a: {sentence}")),
                "{}",
                client.faults(at(3000))
            );
            assert_eq!(client.asked(), None);
        }
    }

    #[test]
    fn a_reply_that_has_begun_must_come_to_its_end() {
        let mut client = asked(Duration::MAX);
        client.received(b"HTTP", at(60_000));
        assert_eq!(client.wake(), at(63_000));
        client.received(b"/1.1", at(62_000));
        client.tick(at(63_000));
        fails(&mut client, &Fault::Silent(Duration::from_secs(63)));
    }

    #[test]
    fn addresses_are_tried_in_turn_and_after_each_round_there_is_a_longer_pause() {
        let mut client = client(&["a", "b"]);
        client.ask(ASK.to_vec(), ANSWER, at(0));
        let mut now = at(0);
        let mut tries = Vec::new();
        for _ in 0..12 {
            now = now.max(client.wake());
            let [Output::Connect(address)] = outputs(&mut client, now)[..] else {
                panic!("no attempt at {now:?}")
            };
            tries.push((address, now.since(at(0)).as_millis()));
            client.disconnected(Some("connection refused".into()), now);
        }
        let starts = [0, 100, 300, 700, 1500, 2500];
        assert_eq!(
            tries,
            starts
                .iter()
                .flat_map(|&start| [(address("a"), start), (address("b"), start)])
                .collect::<Vec<_>>()
        );
        assert_eq!(client.unreachable_since(), Some(at(0)));
        assert_eq!(
            client.faults(now),
            "a: connection refused; b: connection refused"
        );
    }

    fn list(names: &[&str]) -> Vec<Endpoint> {
        names.iter().map(|&name| name.into()).collect()
    }

    #[test]
    fn a_server_that_has_moved_is_asked_at_once() {
        let mut client = client(&["a", "b"]);
        client.ask(ASK.to_vec(), ANSWER, at(0));
        for name in ["a", "b"] {
            assert_eq!(outputs(&mut client, at(0)), [connect(name)]);
            client.disconnected(Some("connection refused".into()), at(0));
        }
        assert_eq!(client.unreached(), Some(at(0)));
        assert!(
            !client.relist(list(&["b", "a"]), at(10)),
            "they are the same"
        );
        assert_eq!(client.wake(), at(100));
        assert!(client.relist(list(&["b", "c"]), at(10)));
        assert_eq!(outputs(&mut client, at(10)), [connect("c")]);
        assert_eq!(
            client.faults(at(10)),
            "c: no answer for 0.0 s; b: connection refused"
        );
    }

    #[test]
    fn an_attempt_at_an_address_that_is_none_any_more_ends_and_a_request_goes_on() {
        let mut client = client(&["a"]);
        client.ask(ASK.to_vec(), Duration::MAX, at(0));
        assert_eq!(outputs(&mut client, at(0)), [connect("a")]);
        assert!(client.relist(list(&["b"]), at(1000)));
        assert_eq!(
            outputs(&mut client, at(1000)),
            [Output::Reset, connect("b")]
        );
        client.connected(at(1000));
        outputs(&mut client, at(1000));
        assert_eq!(
            client.unreached(),
            None,
            "it is kept waiting, as is to be expected"
        );
        assert!(client.relist(list(&["c"]), at(2000)));
        assert_eq!(outputs(&mut client, at(2000)), []);
        client.disconnected(None, at(9000));
        let due = client.wake();
        assert_eq!(outputs(&mut client, due), [connect("c")]);
    }

    #[test]
    fn an_address_that_does_not_accept_is_left_and_one_that_has_answered_is_asked_again() {
        let mut client = client(&["a", "b"]);
        client.ask(ASK.to_vec(), ANSWER, at(0));
        assert_eq!(outputs(&mut client, at(0)), [connect("a")]);
        assert_eq!(client.wake(), at(3000));
        assert_eq!(
            client.faults(at(2000)),
            "a: no answer for 2.0 s; b: not tried yet"
        );
        client.tick(at(3000));
        assert_eq!(
            outputs(&mut client, at(3000)),
            [Output::Reset, connect("b")]
        );
        client.connected(at(3000));
        outputs(&mut client, at(3000));
        client.received(&reply("YES"), at(3001));
        outputs(&mut client, at(3001));
        client.ask(ASK.to_vec(), ANSWER, at(4000));
        assert_eq!(outputs(&mut client, at(4000)), [connect("b")]);
    }

    /// Else a server that hangs up on everybody at once would be tried for ever.
    #[test]
    fn only_who_was_kept_waiting_as_expected_has_reached_the_server() {
        for (patience, ended, away) in [
            (Duration::MAX, 1000, 1000), // a new outage
            (Duration::MAX, 999, 0),
            (Duration::from_mins(1), 59_000, 0),
        ] {
            let mut client = asked(patience);
            client.disconnected(None, at(ended));
            fails(&mut client, &Fault::HungUp);
            assert_eq!(client.unreachable_since(), Some(at(away)), "{patience:?}");
        }
    }

    #[test]
    fn a_new_question_ends_the_one_before_and_nothing_late_is_heard_of_it() {
        let mut client = asked(Duration::MAX);
        client.received(b"HTTP/1.1 2", at(1));
        client.ask(b"other".to_vec(), ANSWER, at(2));
        assert_eq!(outputs(&mut client, at(2)), [Output::Reset, connect("a")]);
        client.received(&reply("YES"), at(2));
        assert_eq!(client.event(), None);
        client.connected(at(3));
        assert_eq!(
            outputs(&mut client, at(3)),
            [Output::Send(b"other".to_vec())]
        );
        client.received(&reply("OK"), at(4));
        assert!(
            matches!(client.event(), Some(HttpEvent::Answered { reply, .. }) if reply.body == b"OK")
        );
        client.stop();
        client.disconnected(None, at(5));
        assert_eq!((client.event(), client.wake()), (None, Moment::NEVER));
    }

    #[test]
    fn only_a_request_that_is_out_can_be_finished() {
        let mut client = asked(Duration::MAX);
        client.shutdown_write();
        assert_eq!(outputs(&mut client, at(1)), [Output::ShutdownWrite]);
        client.stop();
        client.shutdown_write();
        assert_eq!(outputs(&mut client, at(1)), [Output::Reset]);
    }
}

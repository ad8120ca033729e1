//! An HTTP client that sends one request at a time, over a new connection, to one address of the
//! server after another until it is answered. Sans-I/O: bytes and moments in, outputs and events
//! out. It knows nothing of locks.

use super::{LONGEST_REPLY_BODY, Malformed, Reply};
use crate::endpoint::{self, Endpoint};
use crate::moment::Moment;
use crate::printable::beginning;
use crate::transport::{Event, Output};
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Pauses between rounds over all addresses: the first, and the longest; each is twice the previous
/// one. The longest limits the load that many clients put on a server that starts again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long one address may take to accept. This is enough to retransmit one lost packet.
const ACCEPT: Duration = Duration::from_secs(3);

/// The longest reason of a server that is shown, in characters.
const LONGEST_REASON: usize = 200;

/// How long a reply may take from its first byte to its last.
const REST: Duration = Duration::from_secs(3);

/// A request that may stay unanswered has reached the server once it has been open for this long;
/// its end is then a new outage.
const KEPT_WAITING: Duration = Duration::from_secs(1);

/// The result of a request or an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HttpEvent {
    /// The request was answered.
    Answered {
        /// The reply.
        reply: Reply,
        /// When the request was sent, on the connection of the reply.
        sent: Moment,
    },
    /// An attempt has failed, and another will follow.
    Failed {
        /// The name of the address.
        server: String,
        /// The reason.
        fault: Fault,
    },
}

/// Why an attempt has failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The network reports this error.
    Network(String),
    /// No connection or no answer for this time.
    Silent(Duration),
    /// The server closed the connection without an answer.
    HungUp,
    /// The answer is not valid HTTP.
    ProtocolError(Malformed),
    /// The server, or a proxy before it, is temporarily unavailable: the status, and the reason that
    /// it gives.
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
    /// No request.
    Idle,
    /// No connection. The next attempt is due at `retry`.
    Down { retry: Moment },
    /// Connecting since then.
    Connecting { since: Moment },
    /// The request was sent at `since`; the answer is due at `by`.
    Asked { since: Moment, by: Moment },
}

/// A client that sends one request after another.
#[derive(Debug)]
pub struct HttpClient {
    /// The server's addresses and their names. Never empty.
    servers: Vec<Endpoint>,
    /// The last fault of each address.
    faults: Vec<Option<Fault>>,
    /// Index of the address of this attempt, or of the last one. An address that has answered is
    /// used again: other addresses may not know this client.
    server: usize,
    /// Failed attempts since the last success.
    attempts: usize,
    /// Since when no address has been reachable; `None`: one is.
    unreachable_since: Option<Moment>,
    request: Vec<u8>,
    /// How long an answer may take.
    patience: Duration,
    phase: Phase,
    longest_body: usize,
    incoming: Vec<u8>,
    outputs: VecDeque<Output>,
    events: VecDeque<HttpEvent>,
}

impl HttpClient {
    /// A client for a server with these addresses, at least one. The server counts as unreachable
    /// since `began`.
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
            longest_body: LONGEST_REPLY_BODY,
            incoming: Vec::new(),
            outputs: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The same for replies with bodies up to this length.
    #[must_use]
    pub fn reading(self, longest_body: usize) -> HttpClient {
        HttpClient {
            longest_body,
            ..self
        }
    }

    /// Sends this request when it is `due`, and replaces any other. `patience` limits the time for
    /// an answer; `Duration::MAX` is no limit.
    pub fn ask(&mut self, request: Vec<u8>, patience: Duration, due: Moment) {
        self.stop();
        (self.request, self.patience) = (request, patience);
        self.phase = Phase::Down { retry: due };
    }

    /// Drops the request.
    pub fn stop(&mut self) {
        if matches!(self.phase, Phase::Connecting { .. } | Phase::Asked { .. }) {
            self.outputs.push_back(Output::Reset);
        }
        self.phase = Phase::Idle;
        self.incoming.clear();
        self.events.clear();
    }

    /// Closes the sending direction, so that the server may end the request that it keeps open.
    pub fn shutdown_write(&mut self) {
        if let Phase::Asked { .. } = self.phase {
            self.outputs.push_back(Output::ShutdownWrite);
        }
    }

    /// When the current request was sent to a server; `None` if it has not been.
    pub fn asked(&self) -> Option<Moment> {
        if let Phase::Asked { since, .. } = self.phase {
            Some(since)
        } else {
            None
        }
    }

    /// When the request counts as received by the server, so that the client waits for the answer
    /// and not for the server: at once, unless attempts have failed. `None` if it has not been
    /// sent.
    pub fn kept_waiting(&self) -> Option<Moment> {
        self.asked().map(|since| {
            if self.attempts == 0 {
                since
            } else {
                since + KEPT_WAITING
            }
        })
    }

    /// Since when the server has been unreachable, i.e. no address has answered or kept the request
    /// open as expected; `None` if it is reachable.
    pub fn unreachable_since(&self) -> Option<Moment> {
        self.unreachable_since
    }

    /// Since when no address could be reached, if there is a request. A request without a time
    /// limit has reached the server once it is sent.
    pub fn unreached(&self) -> Option<Moment> {
        match self.phase {
            Phase::Idle => None,
            Phase::Asked { .. } if self.patience == Duration::MAX => None,
            _ => self.unreachable_since,
        }
    }

    /// Replaces the addresses after a look-up of names; returns whether anything changes. An
    /// address with a request under way stays until it has answered or failed; an attempt to
    /// connect to an address that is no longer listed ends.
    pub fn relist(&mut self, found: Vec<Endpoint>, now: Moment) -> bool {
        let Some(mut servers) = endpoint::relisted(&self.servers, found) else {
            return false;
        };
        let current = self.servers[self.server].clone();
        let position = endpoint::position(&servers, &current.address);
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
        self.attempts = self.attempts / self.servers.len() * servers.len(); // the number of rounds stays
        let fault = |server: &Endpoint| {
            endpoint::position(&self.servers, &server.address)
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

    /// Each address with its fault: `dx:9889: connection refused`.
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

    /// Takes in an event of the connection.
    pub fn on_transport(&mut self, event: Event, now: Moment) {
        match event {
            Event::Connected => self.connected(now),
            Event::Disconnected(why) => self.disconnected(why, now),
            Event::Received(bytes) => self.received(bytes, now),
        }
    }

    /// The connection is established: the request is sent.
    fn connected(&mut self, now: Moment) {
        if let Phase::Connecting { .. } = self.phase {
            self.outputs.push_back(Output::Send(self.request.clone()));
            self.phase = Phase::Asked {
                since: now,
                by: now + self.patience,
            };
        }
    }

    /// The connection has ended, or could not be established.
    fn disconnected(&mut self, why: Option<String>, now: Moment) {
        match (self.phase, why) {
            (Phase::Idle | Phase::Down { .. }, _) => {}
            (_, Some(why)) => self.next_address(Fault::Network(why), now),
            (_, None) if self.incoming.is_empty() => self.next_address(Fault::HungUp, now),
            (_, None) => self.read(true, now),
        }
    }

    /// Bytes have arrived.
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
        match Reply::read_up_to(self.longest_body, &self.incoming, closed) {
            Ok(None) => {}
            Ok(Some((reply, _))) if (502..=504).contains(&reply.status) => {
                self.disconnect(Fault::Unavailable(reply.status, explained(&reply)), now);
            }
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

    /// Does what is due: the next attempt, or giving up a silent server.
    pub fn tick(&mut self, now: Moment) {
        match self.phase {
            Phase::Down { retry } if now >= retry => {
                self.phase = Phase::Connecting { since: now };
                self.outputs
                    .push_back(Output::Connect(self.servers[self.server].address.clone()));
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

    /// The next output for the connection.
    pub fn output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next event.
    pub fn event(&mut self) -> Option<HttpEvent> {
        self.events.pop_front()
    }

    /// When `tick` is due.
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

    /// Gives up a connection that is still open.
    fn disconnect(&mut self, fault: Fault, now: Moment) {
        self.outputs.push_back(Output::Reset);
        self.next_address(fault, now);
    }

    /// Without a connection: the next address follows at once, the next round after a pause.
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
        if self.attempts == 0 {
            self.faults.fill(None); // of an earlier outage
        }
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

/// The reason phrase, and the text of the body if it is one: a proxy sends a page instead.
fn explained(reply: &Reply) -> String {
    let is_text = |it: &str| it.split(';').next() == Some("text/plain");
    let why = String::from_utf8_lossy(&reply.body);
    if reply.header("Content-Type").is_some_and(is_text) && !why.is_empty() {
        format!("{}: {}", reply.reason, beginning(&why, LONGEST_REASON))
    } else {
        reply.reason.clone()
    }
}

/// The pause after this number of rounds.
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
    use crate::transport::Address;

    const ASK: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
    const ANSWER: Duration = Duration::from_secs(3);

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_secs(100) + Duration::from_millis(milliseconds))
    }

    fn client(addresses: &[&str]) -> HttpClient {
        HttpClient::new(addresses.iter().map(|&name| name.into()).collect(), at(0))
    }

    fn address(name: &str) -> Address {
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

    fn busy(kind: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        let head = format!("Content-Type: {kind}\r\nContent-Length: {length}");
        format!("HTTP/1.1 503 Busy\r\n{head}\r\n\r\n{body}").into_bytes()
    }

    /// A client whose request was sent at 0 ms, with this patience.
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
    fn answer_has_the_time_of_its_request_and_ends_the_connection() {
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
    fn answer_may_end_with_the_connection() {
        let mut client = asked(ANSWER);
        client.received(b"HTTP/1.0 200 OK\r\n\r\nYES", at(1));
        assert_eq!(client.event(), None);
        client.disconnected(None, at(2));
        assert!(
            matches!(client.event(), Some(HttpEvent::Answered { reply, .. }) if reply.body == b"YES")
        );
    }

    #[test]
    fn invalid_answer_is_a_fault() {
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
                |client| client.received(&busy("text/html", "<html>"), at(1)),
                "503 Busy",
            ),
            (
                |client| client.received(&busy("text/plain", "it ends"), at(1)),
                "503 Busy: it ends",
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
    fn faults_of_an_earlier_outage_are_forgotten() {
        let mut client = client(&["a", "b"]);
        let refused = || Some("connection refused".to_owned());
        client.ask(ASK.to_vec(), ANSWER, at(0));
        outputs(&mut client, at(0));
        client.disconnected(refused(), at(0));
        outputs(&mut client, at(0));
        client.connected(at(0));
        client.received(&reply("YES"), at(1));
        client.ask(ASK.to_vec(), ANSWER, at(60_000));
        outputs(&mut client, at(60_000));
        client.disconnected(refused(), at(60_000));
        let faults = client.faults(at(60_000));
        assert_eq!(faults, "a: not tried yet; b: connection refused");
    }

    #[test]
    fn reply_must_be_complete_in_time() {
        let mut client = asked(Duration::MAX);
        client.received(b"HTTP", at(60_000));
        assert_eq!(client.wake(), at(63_000));
        client.received(b"/1.1", at(62_000));
        client.tick(at(63_000));
        fails(&mut client, &Fault::Silent(Duration::from_secs(63)));
    }

    #[test]
    fn addresses_are_tried_in_turn_with_a_longer_pause_after_each_round() {
        let mut client = client(&["a", "b"]);
        client.ask(ASK.to_vec(), ANSWER, at(0));
        let mut now = at(0);
        let mut tries = Vec::new();
        for _ in 0..12 {
            now = now.max(client.wake());
            let [Output::Connect(address)] = &outputs(&mut client, now)[..] else {
                panic!("no attempt at {now:?}")
            };
            tries.push((address.clone(), now.since(at(0)).as_millis()));
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
    fn server_that_has_moved_is_asked_at_once() {
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
    fn attempt_at_a_dropped_address_ends_and_a_sent_request_continues() {
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
    fn silent_address_is_left_and_one_that_answered_is_used_again() {
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

    /// Otherwise a server that closes all connections at once would be tried without a pause.
    #[test]
    fn only_an_open_request_that_may_wait_has_reached_the_server() {
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
    fn new_request_replaces_the_previous_one_and_its_late_answer() {
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
    fn only_a_sent_request_can_be_half_closed() {
        let mut client = asked(Duration::MAX);
        client.shutdown_write();
        assert_eq!(outputs(&mut client, at(1)), [Output::ShutdownWrite]);
        client.stop();
        client.shutdown_write();
        assert_eq!(outputs(&mut client, at(1)), [Output::Reset]);
    }
}

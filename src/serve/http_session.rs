//! The HTTP of one connection, without I/O (only the date of a reply is read from the clock):
//! requests come in one at a time, and replies go out in the same order. The next request is not
//! read until the reply to the one before is sent. A client that sends faster than it reads fills
//! its own host's memory, not the server's.

use crate::http::{LONGEST_REQUEST, Reply, Request, Terms, date};
use crate::sys::clock;
use std::time::Duration;

/// The limit from the first byte of a request to its last, and from the start of a connection to
/// its first byte.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The limit from a reply to the next request.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// How long the kernel may take no more bytes of a reply. It is also how long a reply may stay
/// unacknowledged.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the server waits for the peer to close after the server's last byte. This is longer
/// than `SEND_TIMEOUT`, so that by then it is known which replies have arrived.
pub(super) const LINGER: Duration = Duration::from_secs(15);

/// The most bytes that are read and discarded after the last reply. If a socket is closed with
/// unread bytes, the kernel sends a reset, and the peer may lose the reply.
const MAX_DISCARDED: usize = 64 << 10;

/// The state of one connection's HTTP.
#[derive(Debug)]
pub(super) struct HttpSession {
    phase: Phase,
    input: Vec<u8>,
    output: Vec<u8>,
    /// How many bytes of `output` were sent.
    sent: usize,
    /// How many bytes were sent before those in `output`.
    sent_before: u64,
    /// Whether the peer has closed its direction.
    peer_closed: bool,
    /// Whether the next reply is the last one.
    shutting_down: bool,
    requests: u64,
    discarded: usize,
}

/// The next step, once all replies so far are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// A request is read.
    AwaitingRequest,
    /// The reply to the request that was read is sent.
    Responding(Terms),
    /// The connection closes.
    Done,
}

/// What a connection waits for. Its timeout counts from the moment at which the value changed; the
/// number in it makes the next wait of the same kind a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WaitingFor {
    /// The first byte of the first request.
    FirstRequest,
    /// The rest of a request, after this many requests.
    RestOfRequest(u64),
    /// The next request, after this many requests.
    NextRequest(u64),
    /// The server's own answer.
    Answer,
    /// Space in the kernel's send buffer, after this many bytes of replies.
    SendBuffer(u64),
    /// The peer's close.
    PeerClose,
}

impl WaitingFor {
    /// How long the wait may last.
    pub(super) fn timeout(self) -> Duration {
        match self {
            WaitingFor::FirstRequest | WaitingFor::RestOfRequest(_) => REQUEST_TIMEOUT,
            WaitingFor::NextRequest(_) => IDLE_TIMEOUT,
            WaitingFor::Answer => Duration::MAX,
            WaitingFor::SendBuffer(_) => SEND_TIMEOUT,
            WaitingFor::PeerClose => LINGER,
        }
    }
}

impl HttpSession {
    pub(super) fn new() -> HttpSession {
        HttpSession {
            phase: Phase::AwaitingRequest,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            sent_before: 0,
            peer_closed: false,
            shutting_down: false,
            requests: 0,
            discarded: 0,
        }
    }

    /// How many bytes it can receive now.
    pub(super) fn receive_capacity(&self) -> usize {
        match self.phase {
            _ if self.peer_closed => 0,
            Phase::AwaitingRequest => LONGEST_REQUEST - self.input.len(),
            Phase::Responding(_) => 0,
            Phase::Done => MAX_DISCARDED - self.discarded,
        }
    }

    /// How many received bytes are in memory.
    pub(super) fn buffered(&self) -> usize {
        self.input.len()
    }

    /// The peer has sent these bytes, at most `receive_capacity()` of them.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        match self.phase {
            Phase::Done => self.discarded += bytes.len(),
            _ => self.input.extend_from_slice(bytes),
        }
    }

    /// The peer has closed its direction.
    pub(super) fn on_peer_close(&mut self) {
        self.peer_closed = true;
    }

    pub(super) fn peer_has_closed(&self) -> bool {
        self.peer_closed
    }

    /// The next request, if it is complete and all earlier ones are answered. A malformed request
    /// is answered here.
    pub(super) fn next_request(&mut self) -> Option<Request> {
        if self.phase != Phase::AwaitingRequest || !self.unsent().is_empty() {
            return None;
        }
        match Request::read(&self.input) {
            Ok(Some((request, length))) => {
                self.input.drain(..length);
                self.requests += 1;
                self.phase = Phase::Responding(request.terms());
                self.free_empty_input();
                Some(request)
            }
            Ok(None) => {
                if self.peer_closed {
                    self.phase = Phase::Done;
                }
                None
            }
            Err(malformed) => {
                self.reply_and_close(&Reply::refusing(&malformed));
                None
            }
        }
    }

    /// Replies to the last request.
    pub(super) fn reply(&mut self, reply: &Reply) {
        let Phase::Responding(terms) = self.phase else {
            return;
        };
        let terms = Terms {
            keep_alive: terms.keep_alive && !self.shutting_down,
            ..terms
        };
        self.queue_reply(reply, terms);
        self.phase = if terms.keep_alive && reply.keep_alive {
            Phase::AwaitingRequest
        } else {
            Phase::Done
        };
    }

    /// The next reply is the last one. If no request has begun, the session ends at once.
    pub(super) fn begin_shutdown(&mut self) {
        self.shutting_down = true;
        if self.phase == Phase::AwaitingRequest && self.input.is_empty() {
            self.phase = Phase::Done;
        }
    }

    /// Sends a reply without a complete request, as the last reply.
    pub(super) fn reply_and_close(&mut self, reply: &Reply) {
        self.queue_reply(reply, Terms::UNREADABLE);
        self.phase = Phase::Done;
        self.input = Vec::new();
    }

    fn queue_reply(&mut self, reply: &Reply, terms: Terms) {
        let now = clock::unix_time().as_secs();
        reply.write(terms, &date(now), &mut self.output);
    }

    /// The bytes to send.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// The first `length` bytes of `unsent()` were sent.
    pub(super) fn mark_sent(&mut self, length: usize) {
        self.sent += length;
        if self.sent == self.output.len() {
            self.sent_before += self.sent as u64;
            self.sent = 0;
            self.output = Vec::new();
        }
    }

    /// How many bytes of replies were sent since the start.
    pub(super) fn total_sent(&self) -> u64 {
        self.sent_before + self.sent as u64
    }

    /// How many bytes of replies were sent or queued since the start.
    pub(super) fn total_queued(&self) -> u64 {
        self.sent_before + self.output.len() as u64
    }

    /// Whether the last reply was sent.
    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Done && self.unsent().is_empty()
    }

    pub(super) fn waiting_for(&self) -> WaitingFor {
        match self.phase {
            _ if !self.unsent().is_empty() => WaitingFor::SendBuffer(self.total_sent()),
            Phase::Responding(_) => WaitingFor::Answer,
            Phase::Done => WaitingFor::PeerClose,
            Phase::AwaitingRequest if !self.input.is_empty() => {
                WaitingFor::RestOfRequest(self.requests)
            }
            Phase::AwaitingRequest if self.requests == 0 => WaitingFor::FirstRequest,
            Phase::AwaitingRequest => WaitingFor::NextRequest(self.requests),
        }
    }

    /// Frees the memory of an empty buffer: thousands of clients may wait for a long time.
    fn free_empty_input(&mut self) {
        if self.input.is_empty() {
            self.input = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{LONGEST_HEAD, LONGEST_REQUEST_BODY};

    fn request(path: &str) -> String {
        format!("GET /{path} HTTP/1.1\r\n\r\n")
    }

    fn ok(word: &str) -> Reply {
        Reply::new(200, "text/html", word)
    }

    /// A session that has received this text.
    fn session_with(text: &str) -> HttpSession {
        let mut session = HttpSession::new();
        session.receive(text.as_bytes());
        session
    }

    /// The path of the next request.
    fn next_path(session: &mut HttpSession) -> Option<String> {
        session.next_request().map(|request| request.path)
    }

    /// Sends all unsent bytes. Returns the status of each reply, and whether the last one closes
    /// the connection.
    fn send_all(session: &mut HttpSession) -> (Vec<u16>, bool) {
        let mut rest = session.unsent();
        let (mut statuses, mut last) = (Vec::new(), false);
        while let Ok(Some((reply, length))) = Reply::read(rest, true) {
            statuses.push(reply.status);
            last = !reply.keep_alive;
            rest = &rest[length..];
        }
        session.mark_sent(session.unsent().len());
        (statuses, last)
    }

    #[test]
    fn next_request_is_read_after_the_previous_reply_is_sent() {
        let mut session = session_with(&(request("a") + &request("b")));
        assert_eq!(
            (next_path(&mut session).as_deref(), next_path(&mut session)),
            (Some("/a"), None)
        );
        session.reply(&ok("NO"));
        assert_eq!(next_path(&mut session), None);
        assert_eq!(send_all(&mut session), (vec![200], false));
        assert_eq!(next_path(&mut session).as_deref(), Some("/b"));
    }

    #[test]
    fn nothing_is_received_while_a_request_is_answered() {
        let mut session = session_with(&request("a"));
        assert_eq!(
            session.receive_capacity(),
            LONGEST_REQUEST - request("a").len()
        );
        next_path(&mut session);
        assert_eq!(
            (session.receive_capacity(), session.input.capacity()),
            (0, 0)
        );
        session.reply(&ok("NO"));
        assert_eq!(session.receive_capacity(), LONGEST_REQUEST);
    }

    #[test]
    fn session_ends_when_client_or_server_asks_for_it() {
        let close = "GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
        for (text, end, shutdown) in [
            (close, false, false),
            ("GET / HTTP/1.0\r\n\r\n", false, false),
            ("GET / HTTP/1.1\r\n\r\n", true, false),
            ("GET / HTTP/1.1\r\n\r\n", false, true),
        ] {
            let mut session = session_with(&(text.to_owned() + if end { "" } else { close }));
            if end {
                session.on_peer_close();
            }
            next_path(&mut session);
            if shutdown {
                session.begin_shutdown();
            }
            session.reply(&ok("NO"));
            assert!(!session.is_done(), "{text:?}");
            assert_eq!(send_all(&mut session), (vec![200], !end), "{text:?}");
            assert_eq!(next_path(&mut session), None, "{text:?}");
            assert!(session.is_done(), "{text:?}");
        }
    }

    #[test]
    fn complete_requests_are_answered_after_the_peer_has_closed() {
        let mut session = session_with(&(request("a") + &request("b") + "GET /c"));
        session.on_peer_close();
        for path in ["/a", "/b"] {
            assert_eq!(next_path(&mut session).as_deref(), Some(path));
            session.reply(&ok("NO"));
            send_all(&mut session);
        }
        assert_eq!((next_path(&mut session), session.is_done()), (None, true));
    }

    #[test]
    fn malformed_request_is_refused_once_and_the_rest_is_discarded() {
        let mut session = session_with(&(request("a") + "garbage\r\n" + &request("b")));
        next_path(&mut session);
        session.reply(&ok("NO"));
        send_all(&mut session);
        assert_eq!(next_path(&mut session), None);
        assert_eq!(send_all(&mut session), (vec![400], true));
        assert!(session.is_done());
        while session.receive_capacity() > 0 {
            session.receive(&vec![b'x'; session.receive_capacity().min(1000)]);
        }
        assert_eq!(
            (
                session.discarded,
                session.input.capacity(),
                next_path(&mut session)
            ),
            (MAX_DISCARDED, 0, None)
        );
    }

    #[test]
    fn longest_request_fits_and_endless_garbage_is_refused() {
        let body = format!("Content-Length: {LONGEST_REQUEST_BODY}\r\n\r\n");
        let line = "\r\nPOST / HTTP/1.1\r\nA: ";
        let head = format!(
            "{line}{}\r\n{body}",
            "x".repeat(LONGEST_HEAD - line.len() - 2 - body.len())
        );
        let mut session = session_with(&(head + &"x".repeat(LONGEST_REQUEST_BODY)));
        assert_eq!(session.receive_capacity(), 0);
        assert!(next_path(&mut session).is_some());
        for garbage in ["x", "x\r\n", "GET / HTTP/1.1\r\nA: x\r\n", "\r\n"] {
            let mut session = HttpSession::new();
            while session.receive_capacity() > 0 && session.phase == Phase::AwaitingRequest {
                session
                    .receive(&garbage.as_bytes()[..garbage.len().min(session.receive_capacity())]);
                next_path(&mut session);
            }
            assert_eq!(session.phase, Phase::Done, "{garbage:?}");
        }
    }

    #[test]
    fn each_wait_has_a_timeout_that_starts_again_with_each_request() {
        let mut session = HttpSession::new();
        let mut waits = vec![session.waiting_for()];
        let mut receive = |session: &mut HttpSession, text: &str| {
            session.receive(text.as_bytes());
            next_path(session);
            waits.push(session.waiting_for());
        };
        receive(&mut session, "GET / HT");
        receive(&mut session, "TP/1.1\r\n\r\nGET ");
        session.reply(&ok("NO"));
        session.mark_sent(5);
        receive(&mut session, "");
        send_all(&mut session);
        receive(&mut session, "/ HTTP/1.1\r\n");
        receive(&mut session, "\r\n");
        session.reply(&ok("NO"));
        send_all(&mut session);
        receive(&mut session, "");
        session.begin_shutdown();
        receive(&mut session, "");
        let expected = [
            (WaitingFor::FirstRequest, 10),
            (WaitingFor::RestOfRequest(0), 10),
            (WaitingFor::Answer, u64::MAX),
            (WaitingFor::SendBuffer(5), 10),
            (WaitingFor::RestOfRequest(1), 10),
            (WaitingFor::Answer, u64::MAX),
            (WaitingFor::NextRequest(2), 60),
            (WaitingFor::PeerClose, 15),
        ];
        assert_eq!(
            waits
                .into_iter()
                .map(|wait| (wait, wait.timeout().as_secs()))
                .collect::<Vec<_>>(),
            expected
        );
    }

    #[test]
    fn sent_and_queued_bytes_are_counted() {
        let mut session = session_with(&request("a").repeat(2));
        let mut total = 0;
        for _ in 0..2 {
            next_path(&mut session);
            session.reply(&ok("NO"));
            total += session.unsent().len() as u64;
            assert_eq!(session.total_queued(), total);
            session.mark_sent(7);
            assert_eq!(
                (session.total_queued(), session.total_sent()),
                (total, total - session.unsent().len() as u64)
            );
            send_all(&mut session);
            assert_eq!(
                (session.total_queued(), session.total_sent()),
                (total, total)
            );
        }
    }
}

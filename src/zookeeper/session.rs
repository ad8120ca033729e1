//! A ZooKeeper session over successive connections: connect, resume, authenticate, match replies
//! with requests, report watch events, expire, close. Sans-I/O: bytes and moments in, outputs and
//! events out. It knows nothing of locks. Sources: `zookeeper.jute`, ClientCnxn.java.

use super::code::{Code, operation, xid};
use super::lease::Lease;
use super::record::{
    AuthPacket, ConnectRequest, ConnectResponse, ReplyHeader, RequestHeader, WatcherEvent,
};
use super::request::{Answer, Request, answer};
use super::wire::{LARGEST_FRAME, Malformed, Wire, frame, next_frame};
use crate::endpoint::{self, Endpoint};
use crate::moment::Moment;
use crate::plan::Auth;
use crate::transport;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Number of heartbeats per session timeout.
const HEARTBEATS_PER_TIMEOUT: u32 = 10;

/// Pauses between rounds over all servers: the first, and the longest; each is twice the previous
/// one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Pauses between rounds of a program with a limited number of rounds, as kazoo makes them: the
/// first, plus a jitter, so that the rounds of several hosts do not coincide. Each is twice the
/// previous one. kazoo lets them grow to a minute or more, and `KazooClient.start` gives up after
/// 15 s: with a longest pause of 5 s this client tries for as long, and connects soon after the
/// server is back.
const FIRST_COUNTED_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_COUNTED_PAUSE: Duration = Duration::from_secs(5);
/// kazoo 2.2.1 adds up to 0.8 s to each. At least half of that, so that five rounds take at least 3
/// s.
const LEAST_JITTER: Duration = Duration::from_millis(400);
const SPREAD: Duration = Duration::from_millis(400);

/// The minimum time for one server to accept and to answer, even with a short timeout or many
/// servers.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(250);

/// The same if a command makes the connection: openssl needs 10 to 60 ms on a fast network, and 0.3 s
/// with a server that has just started.
const SHORTEST_COMMAND_ATTEMPT: Duration = Duration::from_secs(1);

/// An attempt that lasted this long says why it fails; a shorter one does not replace the reason of
/// the attempt before it.
const MIN_TELLING_ATTEMPT: Duration = Duration::from_secs(1);

/// The network's errors if the server closed a connection that it had accepted while the first
/// bytes were still on the way.
const REJECTION_ERRORS: [&str; 2] = ["connection reset by peer", "broken pipe"];

/// Errors after which a server ends the connection without answering any other request.
const FATAL_CODES: [Code; 2] = [Code::AUTH_FAILED, Code::AUTH_DEMANDED];

/// The session id with which a server refuses all sessions (ClickHouse Keeper without a leader).
/// Other negative ids are valid: the highest byte is the number of the server that created the
/// session.
const NO_SESSION: i64 = -1;

/// Bytes of a list of children before its first name: the reply's header, and the number of names.
const LIST_HEADER: usize = 16 + 4;

/// How an alert of TLS begins, read as the length of a frame: type 21, major version 3.
const TLS_ALERT: i32 = 0x1503;

/// The event of a watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The node was created.
    Created,
    /// The node was deleted.
    Deleted,
    /// Its data or its children have changed.
    Changed,
}

/// An event of the session.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum SessionEvent {
    /// A server has accepted the session: a new one, or the previous one (`resumed`).
    Up { resumed: bool },
    /// A request was answered.
    Reply {
        request: Request,
        result: Result<Answer, Code>,
    },
    /// A watch fired.
    Watch { change: Change, path: String },
    /// The connection is lost; the session may still be alive.
    Down(Fault),
    /// The session has expired, and its ephemeral nodes are deleted.
    Expired,
    /// The server created a new session (`by`) instead of resuming this one, and does so each time
    /// (ClickHouse Keeper). This one cannot be resumed; its ephemeral nodes remain until it expires
    /// by itself. The new one was closed.
    Replaced { by: i64 },
    /// The server has closed the connection in place of a reply to the close of the session, as
    /// ClickHouse Keeper does: it commits the close first.
    ClosedSilently,
    /// No server has accepted the session for its whole timeout, although one closed the
    /// connection: the servers' state may be older than the session. The session is requested once
    /// more without the newest transaction that it has seen; a server that does not know it then
    /// reports so.
    Disowned { silence: Duration },
    /// The server rejects the credentials, or requires some, and closes the connection.
    Refused(Code),
}

/// Why a connection was given up.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Fault {
    /// The network reports this error.
    Network(String),
    /// No answer for this time.
    Silent(Duration),
    /// The server accepted the connection and has not answered the connect request for so long.
    Mute(Duration),
    /// The server closed the connection after it had accepted the session.
    HungUp,
    /// The server ended the connection before it had accepted the session, with the network's error
    /// if there is one. `known`: the request was for a session that the server may know.
    TurnedAway { why: Option<String>, known: bool },
    /// The server has lost its quorum, and only answers reads.
    ReadOnly,
    /// The reply would be a list of this many children of this node, with this many bytes of names.
    LongList {
        path: String,
        children: i32,
        bytes: usize,
    },
    /// The server sent a message that ZooKeeper never sends.
    ProtocolError(Malformed),
    /// A frame of this length.
    FrameLength(i32),
    /// A reply to a request other than the oldest one.
    OutOfOrder(i32),
    /// The server reports a session as expired that it was asked to create.
    ExpiredOnConnect,
    /// The server rejects the connect request with this protocol version and this session id.
    Refuses { version: i32, id: i64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Fault::Network(why) => f.write_str(why),
            Fault::Silent(time) => write!(f, "no answer for {:.1} s", time.as_secs_f64()),
            Fault::Mute(time) => write!(
                f,
                "no answer for {:.1} s (stopped, overloaded, or it expects TLS?)",
                time.as_secs_f64()
            ),
            Fault::HungUp => f.write_str("closed the connection"),
            Fault::TurnedAway { why, known } => {
                let why = why.as_deref().unwrap_or("closed the connection at once");
                // A server that had the session before took it without TLS.
                let guesses = if *known {
                    "state older than this session, or too many connections from this host?"
                } else {
                    "too many connections from this host, or it expects TLS?"
                };
                write!(f, "{why} (not serving, read-only, {guesses})")
            }
            Fault::ReadOnly => f.write_str("is read-only: it has lost its quorum"),
            Fault::LongList {
                path,
                children,
                bytes,
            } => {
                write!(
                    f,
                    "{path} has {children} children, and a list of their names ({bytes} bytes) is longer than the limit of {LARGEST_FRAME} bytes"
                )
            }
            Fault::ProtocolError(malformed) => {
                write!(f, "does not speak ZooKeeper's protocol: {malformed}")
            }
            Fault::FrameLength(length) if length >> 16 == TLS_ALERT => {
                f.write_str("expects TLS: use \"tls\" in the config or --tls-ca, or the plain port")
            }
            Fault::FrameLength(length) => write!(
                f,
                "does not speak ZooKeeper's protocol: frame of {length} bytes"
            ),
            Fault::OutOfOrder(xid) => write!(
                f,
                "does not speak ZooKeeper's protocol: unexpected reply {xid}"
            ),
            Fault::ExpiredOnConnect => f.write_str("reports a new session as expired"),
            Fault::Refuses { version, id } => {
                write!(
                    f,
                    "refuses all sessions, as a server without a leader does (protocol version {version}, session {id})"
                )
            }
        }
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Fault {
        Fault::ProtocolError(malformed)
    }
}

/// The server's identification of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Identity {
    id: i64,
    password: Vec<u8>,
}

/// A sent request without an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
struct InFlight {
    xid: i32,
    request: Request,
    sent: Moment,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// No connection. The next attempt is due at `retry`.
    Down { retry: Moment },
    /// Connecting since then.
    Connecting { since: Moment },
    /// The connect request was sent then and is not answered.
    Handshake { since: Moment },
    /// A server has accepted the session.
    Up,
    /// Closed, or given up.
    Closed,
}

/// One session, or successive ones if they expire before a lock is held.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts
pub struct Session {
    /// The servers' addresses and their names. Never empty.
    servers: Vec<Endpoint>,
    /// The last fault of each server.
    faults: Vec<Option<Fault>>,
    timeout: Duration,
    auth: Option<Auth>,
    phase: Phase,
    identity: Option<Identity>,
    lease: Lease,
    /// Index of the server of this attempt, or of the last one.
    server: usize,
    /// Attempts since a connection last lived for a heartbeat. A shorter connection counts as
    /// failed too, so no server can cause connects without a pause.
    attempts: usize,
    last_zxid: i64,
    /// When the last connection with an accepted session was lost.
    lost: Option<Moment>,
    /// Whether a server has rejected the session since then.
    rejected: bool,
    /// Whether the session is requested without its last transaction.
    disowned: bool,
    last_xid: i32,
    in_flight: VecDeque<InFlight>,
    /// The request sent every tenth of the timeout, and when the next is due.
    beat: Request,
    next_beat: Moment,
    /// Sent once, with the next heartbeat.
    with_next_beat: Option<Request>,
    /// A lock is held: silent servers are left quickly.
    holding: bool,
    /// Silent servers are left as quickly, although no lock is held in this session.
    hurrying: bool,
    /// When bytes last arrived.
    heard: Moment,
    /// The number of rounds is limited, so the rounds must last as long as a starting server needs.
    counting: bool,
    /// A server without a quorum is accepted too.
    only_reads: bool,
    /// The server that has accepted the session has no quorum.
    read_only: bool,
    /// The server that has accepted the session is ClickHouse Keeper.
    keeper: bool,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    steps: VecDeque<transport::Output>,
    events: VecDeque<SessionEvent>,
}

impl Session {
    /// A new session with one of these servers, at least one. The first attempt is due at once.
    pub fn new(
        servers: Vec<Endpoint>,
        timeout: Duration,
        auth: Option<Auth>,
        now: Moment,
    ) -> Session {
        Session {
            faults: vec![None; servers.len()],
            server: servers.len() - 1,
            servers,
            timeout,
            auth,
            phase: Phase::Down { retry: now },
            identity: None,
            lease: Lease::new(timeout, now),
            attempts: 0,
            last_zxid: 0,
            lost: None,
            rejected: false,
            disowned: false,
            last_xid: 0,
            in_flight: VecDeque::new(),
            beat: Request::Ping,
            next_beat: Moment::NEVER,
            with_next_beat: None,
            holding: false,
            hurrying: false,
            heard: now,
            counting: false,
            only_reads: false,
            read_only: false,
            keeper: false,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            steps: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The session id, once a server has assigned it.
    pub fn id(&self) -> Option<i64> {
        self.identity.as_ref().map(|identity| identity.id)
    }

    /// The session's lease.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Whether a server has accepted the session, and the connection stands.
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// Whether it is closed, or given up.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether the session is up, and the oldest request waits no longer than with a healthy
    /// server.
    pub fn is_answering(&self, now: Moment) -> bool {
        self.is_up()
            && self.in_flight.front().is_none_or(|oldest| {
                now < oldest.sent + self.lease.timeout() * 2 / HEARTBEATS_PER_TIMEOUT
            })
    }

    /// Whether the connection takes requests: the session is up, or its connect request is sent.
    pub fn takes_requests(&self) -> bool {
        matches!(self.phase, Phase::Handshake { .. } | Phase::Up)
    }

    /// Whether a connect request for a new session is sent: the server may be creating one whose id
    /// is not known yet.
    fn is_opening(&self) -> bool {
        matches!(self.phase, Phase::Handshake { .. }) && self.identity.is_none()
    }

    /// The name of this connection's server.
    pub fn server(&self) -> &str {
        &self.servers[self.server].name
    }

    /// The names of all servers.
    pub fn servers(&self) -> String {
        self.servers
            .iter()
            .map(|server| server.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The number of rounds over all servers in which none accepted the session; `None` once one
    /// has.
    pub fn failed_rounds(&self) -> Option<u32> {
        let tried = self
            .attempts
            .saturating_sub(usize::from(!matches!(self.phase, Phase::Down { .. })));
        self.identity
            .is_none()
            .then(|| u32::try_from(tried / self.servers.len()).unwrap_or(u32::MAX))
    }

    /// Each server with its fault: `h1:2181: connection refused; h2:2181: no answer for 2.5 s`.
    pub fn faults(&self, now: Moment) -> String {
        let attempt = match self.phase {
            Phase::Connecting { since } => Some((Fault::Silent(now.since(since)), since)),
            Phase::Handshake { since } => Some((Fault::Mute(now.since(since)), since)),
            Phase::Up => self
                .in_flight
                .front()
                .map(|oldest| (Fault::Silent(now.since(oldest.sent)), oldest.sent)),
            Phase::Down { .. } | Phase::Closed => None,
        };
        let tried = self.servers.iter().zip(&self.faults).enumerate().map(
            |(index, (Endpoint { name: server, .. }, earlier))| {
                let attempt = attempt.as_ref().filter(|_| index == self.server);
                // An attempt that is cut short says less than the one before it.
                let attempt = attempt.filter(|(_, since)| {
                    earlier.is_none() || now.since(*since) >= MIN_TELLING_ATTEMPT
                });
                match attempt.map(|(fault, _)| fault).or(earlier.as_ref()) {
                    Some(fault) => format!("{server}: {fault}"),
                    None => format!("{server}: not tried yet"),
                }
            },
        );
        tried.collect::<Vec<_>>().join("; ")
    }

    /// Replaces the servers after a look-up of names; returns whether anything changes. A connected
    /// server stays until it is left; an attempt to connect to an address that is no longer listed
    /// ends.
    pub fn relist(&mut self, found: Vec<Endpoint>, now: Moment) -> bool {
        let Some(mut servers) = endpoint::relisted(&self.servers, found) else {
            return false;
        };
        let current = self.servers[self.server].clone();
        let position = endpoint::position(&servers, &current.address);
        let tried = self
            .attempts
            .saturating_sub(usize::from(!matches!(self.phase, Phase::Down { .. })));
        match self.phase {
            Phase::Connecting { .. } if position.is_none() => {
                self.hang_up();
                self.phase = Phase::Down { retry: now };
            }
            Phase::Down { .. } => self.phase = Phase::Down { retry: now },
            Phase::Handshake { .. } | Phase::Up if position.is_none() => servers.push(current),
            _ => {}
        }
        let down = matches!(self.phase, Phase::Down { .. });
        // The number of failed rounds stays.
        self.attempts = tried / self.servers.len() * servers.len() + usize::from(!down);
        let fault = |server: &Endpoint| {
            endpoint::position(&self.servers, &server.address)
                .and_then(|old| self.faults[old].clone())
        };
        self.faults = servers.iter().map(fault).collect();
        self.server = if down {
            servers.len() - 1
        } else {
            position.unwrap_or(servers.len() - 1)
        };
        self.servers = servers;
        true
    }

    /// From now on a lock is held, and this request confirms the session every tenth of the
    /// timeout. A server that is silent for two of them is left, and each attempt is short: the
    /// rest of the lease must suffice for reaching another server.
    pub fn hold(&mut self, beat: Request) {
        self.beat = beat;
        self.holding = true;
    }

    /// No lock is held any more. The session waits for one, as it did before.
    pub fn stop_holding(&mut self) {
        self.holding = false;
        self.beat = Request::Ping;
        self.with_next_beat = None;
    }

    /// From now on a silent server is left as quickly as by a holder, because the leases of a lock
    /// server's clients are renewed by this session. Unlike the session of a holder it may end without
    /// harm, so `check_loss` still applies to it.
    pub fn hurry(&mut self) {
        self.hurrying = true;
    }

    /// Sends this request with the next heartbeat, in place of one that still waits for it. It costs
    /// a session nothing that ends before.
    pub fn ask_with_next_beat(&mut self, request: Request) {
        self.with_next_beat = Some(request);
    }

    /// Whether the number of rounds is limited, so that they pause as kazoo's do.
    pub fn count_rounds(&mut self, counting: bool) {
        self.counting = counting;
    }

    /// From now on the session only reads, so a server that has lost its quorum is accepted too.
    /// Never for a lock: such a server grants a session of its own, which the ensemble does not know.
    pub fn only_reads(&mut self) {
        self.only_reads = true;
    }

    /// Whether the server has lost its quorum: what it reads may be old, and it does not answer
    /// `sync`.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether the server is ClickHouse Keeper: its answers to connect requests end without the
    /// `readOnly` byte that each ZooKeeper from 3.4 on appends for this client. So it is known
    /// without a request.
    pub fn is_keeper(&self) -> bool {
        self.keeper
    }

    /// Whether the server may know container nodes. Keeper closes the connection of a client that
    /// requests one, unless it is new and has them switched on (ClickHouse#108908).
    pub fn takes_containers(&self) -> bool {
        !self.keeper
    }

    /// The pause after this number of rounds.
    fn pause(&self, rounds: usize, now: Moment) -> Duration {
        let doublings = u32::try_from(rounds - 1).unwrap_or(u32::MAX).min(8);
        let grown = |first: Duration, longest| first.saturating_mul(1 << doublings).min(longest);
        if !self.counting {
            return grown(FIRST_PAUSE, LONGEST_PAUSE);
        }
        // The clock's nanoseconds serve as a random number: they differ between hosts.
        let jitter =
            Duration::from_nanos(u64::try_from(now.0.as_nanos() % SPREAD.as_nanos()).unwrap_or(0));
        grown(FIRST_COUNTED_PAUSE, LONGEST_COUNTED_PAUSE) + LEAST_JITTER + jitter
    }

    /// Queues a request; it is sent with the next bytes. Without a connection it is dropped: after
    /// the next connect, the caller repeats its requests.
    pub fn ask(&mut self, request: Request, now: Moment) {
        if !self.takes_requests() {
            return;
        }
        let xid = if request == Request::Ping {
            xid::PING
        } else {
            self.next_xid()
        };
        frame(&mut self.outgoing, |out| request.write(xid, out));
        self.in_flight.push_back(InFlight {
            xid,
            request,
            sent: now,
        });
    }

    /// The connection is established: queues the connect request and the credentials. Requests may
    /// follow in the same write.
    pub fn connected(&mut self, now: Moment) {
        if !matches!(self.phase, Phase::Connecting { .. }) {
            return;
        }
        self.phase = Phase::Handshake { since: now };
        self.check_loss(now);
        let (session_id, passwd) = self
            .identity
            .as_ref()
            .map_or((0, vec![0; 16]), |known| (known.id, known.password.clone()));
        let time_out = i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX);
        let last_zxid_seen = if self.disowned { 0 } else { self.last_zxid };
        let connect = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen,
            time_out,
            session_id,
            passwd,
            read_only: self.only_reads,
        };
        frame(&mut self.outgoing, |out| connect.write(out));
        if let Some(Auth { scheme, data }) = &self.auth {
            frame(&mut self.outgoing, |out| {
                RequestHeader {
                    xid: xid::AUTH,
                    kind: operation::AUTH,
                }
                .write(out);
                AuthPacket {
                    kind: 0,
                    scheme: scheme.clone(),
                    auth: data.clone().into_bytes(),
                }
                .write(out);
            });
        }
    }

    /// Servers close the connection of a session that has seen a newer transaction than they know:
    /// servers restored from an older backup, or wiped, always do. Once the session must have
    /// expired by this client's clock, its last transaction can be left out without risk. A holder
    /// never gets here.
    fn check_loss(&mut self, now: Moment) {
        let Some(lost) = self.lost.filter(|&lost| now >= lost + self.lease.timeout()) else {
            return;
        };
        if self.identity.is_some()
            && self.rejected
            && !self.holding
            && !std::mem::replace(&mut self.disowned, true)
        {
            self.events.push_back(SessionEvent::Disowned {
                silence: now.since(lost),
            });
        }
    }

    /// Whether a command makes the connection. It gives the reason of a failure itself.
    fn is_by_command(&self) -> bool {
        self.servers[self.server].address.is_command()
    }

    /// The connection has ended, or could not be established.
    pub fn disconnected(&mut self, why: Option<String>, now: Moment) {
        if why.is_none() && self.is_answered_by_the_end() {
            self.hang_up();
            self.phase = Phase::Closed;
            return self.events.push_back(SessionEvent::ClosedSilently);
        }
        let rejected = |why| Fault::TurnedAway {
            why,
            known: self.identity.is_some(),
        };
        // A command may not know that the server has closed the connection.
        let in_handshake = matches!(self.phase, Phase::Handshake { .. });
        self.rejected |= in_handshake && self.is_by_command() && self.identity.is_some();
        let fault = match (self.phase, why) {
            (Phase::Down { .. } | Phase::Closed, _) => return,
            (Phase::Handshake { .. }, None) => rejected(None),
            (Phase::Handshake { .. }, Some(why)) if !self.is_by_command() => rejected(Some(why)),
            (Phase::Connecting { .. }, Some(why)) if REJECTION_ERRORS.contains(&why.as_str()) => {
                rejected(Some(why))
            }
            (_, why) => why.map_or(Fault::HungUp, Fault::Network),
        };
        self.disconnect(fault, now);
    }

    /// Whether the end of the connection stands for the reply to the close of the session. Keeper
    /// replies in order, so all other requests are answered by then.
    fn is_answered_by_the_end(&self) -> bool {
        let oldest = self.in_flight.front().map(|oldest| &oldest.request);
        self.is_up() && self.keeper && oldest == Some(&Request::Close) && self.incoming.is_empty()
    }

    /// Whether the last request is the close of the session. No heartbeat follows: its bytes, which
    /// the server never reads, would make a reset of the end of the connection.
    fn is_closing(&self) -> bool {
        let newest = self.in_flight.back().map(|newest| &newest.request);
        newest == Some(&Request::Close)
    }

    /// Bytes have arrived.
    pub fn received(&mut self, bytes: &[u8], now: Moment) {
        self.heard = now;
        self.incoming.extend_from_slice(bytes);
        let mut incoming = std::mem::take(&mut self.incoming);
        let mut rest = &incoming[..];
        while self.takes_requests() {
            let read = match next_frame(&mut rest) {
                Ok(None) => break,
                Ok(Some(frame)) if self.is_up() => self.on_frame(frame, now),
                Ok(Some(frame)) => self.on_connect_response(frame, now),
                Err(length) => match self.too_long(length, rest) {
                    Some(fault) => Err(fault),
                    None => break,
                },
            };
            if let Err(fault) = read {
                return self.give_up(fault, now);
            }
        }
        let done = incoming.len() - rest.len();
        incoming.drain(..done);
        if self.takes_requests() {
            self.incoming = incoming;
        }
    }

    /// The fault of a frame with this invalid length; `None` if more of its bytes are needed.
    fn too_long(&self, length: i32, frame: &[u8]) -> Option<Fault> {
        let invalid = Some(Fault::FrameLength(length));
        let (
            Some(InFlight {
                xid,
                request: Request::Children { path, .. },
                ..
            }),
            true,
            Ok(bytes),
        ) = (
            self.in_flight.front(),
            self.is_up(),
            usize::try_from(length),
        )
        else {
            return invalid;
        };
        let mut head = frame.get(size_of::<i32>()..size_of::<i32>() + LIST_HEADER)?;
        match (
            ReplyHeader::read(&mut head, "reply"),
            i32::read(&mut head, "children"),
        ) {
            (Ok(header), Ok(children))
                if header.xid == *xid
                    && usize::try_from(children).is_ok_and(|children| children < bytes) =>
            {
                Some(Fault::LongList {
                    path: path.clone(),
                    children,
                    bytes,
                })
            }
            _ => invalid,
        }
    }

    /// Does what is due: the next attempt, a heartbeat, giving up a silent server.
    pub fn tick(&mut self, now: Moment) {
        match self.phase {
            Phase::Down { retry } if now >= retry => {
                self.server = (self.server + 1) % self.servers.len();
                self.attempts += 1;
                self.phase = Phase::Connecting { since: now };
                self.steps.push_back(transport::Output::Connect(
                    self.servers[self.server].address.clone(),
                ));
            }
            Phase::Connecting { since } if now >= since + self.attempt() => {
                self.give_up(Fault::Silent(now.since(since)), now);
            }
            Phase::Handshake { since } if now >= since + self.attempt() => {
                self.give_up(Fault::Mute(now.since(since)), now);
            }
            Phase::Up if now >= self.silent_at() => {
                let oldest = self.in_flight.front().map_or(now, |oldest| oldest.sent);
                self.give_up(Fault::Silent(now.since(oldest)), now);
            }
            Phase::Up if now >= self.beat_at() => {
                self.next_beat = now + self.lease.timeout() / HEARTBEATS_PER_TIMEOUT;
                self.attempts = 0;
                self.ask(self.beat.clone(), now);
                if let Some(request) = self.with_next_beat.take() {
                    self.ask(request, now);
                }
            }
            _ => {}
        }
    }

    /// When `tick` is due.
    pub fn wake(&self) -> Moment {
        match self.phase {
            Phase::Down { retry } => retry,
            Phase::Connecting { since } | Phase::Handshake { since } => since + self.attempt(),
            Phase::Up => self.beat_at().min(self.silent_at()),
            Phase::Closed => Moment::NEVER,
        }
    }

    /// The next event.
    pub fn next_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// The next output for the connection.
    pub fn step(&mut self) -> Option<transport::Output> {
        self.steps.pop_front().or_else(|| {
            (!self.outgoing.is_empty())
                .then(|| transport::Output::Send(std::mem::take(&mut self.outgoing)))
        })
    }

    /// Gives up the session. A server that is creating it is asked to close it.
    pub fn forget(&mut self, now: Moment) {
        if self.is_opening() {
            self.ask(Request::Close, now);
        }
        if let Phase::Connecting { .. } | Phase::Handshake { .. } | Phase::Up = self.phase {
            self.hang_up();
        }
        self.phase = Phase::Closed;
    }

    /// How long one server may take to accept and to answer.
    fn attempt(&self) -> Duration {
        // From the second round on slow servers have time: perhaps all of them are slow.
        let is_first_round = self.attempts <= self.servers.len();
        let is_short = self.holding || self.hurrying && is_first_round;
        let share = if is_short {
            self.lease.timeout() / HEARTBEATS_PER_TIMEOUT
        } else {
            self.timeout / u32::try_from(self.servers.len()).unwrap_or(u32::MAX)
        };
        let shortest = if self.is_by_command() {
            // A holder has 0.45 of the timeout for all attempts.
            let most = self.lease.timeout() * 2 / HEARTBEATS_PER_TIMEOUT;
            SHORTEST_COMMAND_ATTEMPT
                .min(if is_short { most } else { Duration::MAX })
                .max(SHORTEST_ATTEMPT)
        } else {
            SHORTEST_ATTEMPT
        };
        share.max(shortest)
    }

    /// When the next heartbeat is due.
    fn beat_at(&self) -> Moment {
        if self.is_closing() {
            Moment::NEVER
        } else {
            self.next_beat
        }
    }

    /// A connection is given up if a request is unanswered for this time.
    fn patience(&self) -> Duration {
        if self.holding && self.keeper {
            self.lease.timeout() // no other server would resume the session
        } else if self.holding || self.hurrying && !self.keeper {
            self.lease.timeout() * 2 / HEARTBEATS_PER_TIMEOUT
        } else {
            self.lease.timeout() * 2 / 3
        }
    }

    fn silent_at(&self) -> Moment {
        let Some(oldest) = self.in_flight.front() else {
            return Moment::NEVER;
        };
        // A server that still answers earlier requests is not silent.
        let since = if self.hurrying {
            oldest.sent.max(self.heard)
        } else {
            oldest.sent
        };
        since + self.patience()
    }

    fn next_xid(&mut self) -> i32 {
        self.last_xid = self.last_xid.checked_add(1).unwrap_or(1);
        self.last_xid
    }

    /// A frame before the answer to the connect request.
    fn on_connect_response(&mut self, mut frame: &[u8], now: Moment) -> Result<(), Fault> {
        let Phase::Handshake { since } = self.phase else {
            return Ok(());
        };
        if error_alone(frame) == Some(Code::READ_ONLY) {
            return Err(Fault::ReadOnly); // and it has no local sessions
        }
        if let Some(code) = fatal_code(frame) {
            self.events.push_back(SessionEvent::Refused(code));
            return Ok(());
        }
        if frame.starts_with(&xid::AUTH.to_be_bytes()) {
            self.on_auth_reply(&ReplyHeader::read(&mut frame, "auth reply")?); // Netty may send it first
            return Ok(());
        }
        let response = ConnectResponse::read(&mut frame, "connect response")?;
        let keeper = frame.is_empty();
        let read_only = match frame {
            [] | [0] => false,
            [_] if self.only_reads => true,
            [_] => return Err(Fault::ReadOnly),
            more => {
                return Err(Fault::FrameLength(
                    i32::try_from(more.len()).unwrap_or(i32::MAX),
                ));
            }
        };
        let (version, id) = (response.protocol_version, response.session_id);
        if version != 0 || id == NO_SESSION {
            return Err(Fault::Refuses { version, id });
        }
        let timeout = Duration::from_millis(u64::try_from(response.time_out).unwrap_or(0));
        if timeout.is_zero() || id == 0 {
            return self.expired_on_connect(now);
        }
        if self.id().is_some_and(|known| known != id) {
            self.on_replaced(id, now);
            return Ok(());
        }
        let resumed = self.identity.is_some();
        self.identity = Some(Identity {
            id,
            password: response.passwd,
        });
        if resumed {
            self.lease.reconnected(timeout, since);
        } else {
            self.lease = Lease::new(timeout, since);
        }
        (self.read_only, self.keeper) = (read_only, keeper);
        self.phase = Phase::Up;
        self.clear_loss();
        self.faults[self.server] = None;
        self.next_beat = since + self.lease.timeout() / HEARTBEATS_PER_TIMEOUT;
        self.wake_keeper(now);
        self.events.push_back(SessionEvent::Up { resumed });
        Ok(())
    }

    /// Sends a ping if Keeper has requests that came with the connect request. They are in its buffer
    /// by now, but it reads them only when its socket has more (`KeeperTCPHandler.cpp`, `poll`), which
    /// would be the first heartbeat.
    fn wake_keeper(&mut self, now: Moment) {
        if self.keeper && !self.in_flight.is_empty() {
            self.ask(Request::Ping, now);
        }
    }

    /// The server does not know the requested session.
    fn expired_on_connect(&mut self, now: Moment) -> Result<(), Fault> {
        if self.identity.is_none() {
            return Err(Fault::ExpiredOnConnect);
        }
        self.end(SessionEvent::Expired, now);
        Ok(())
    }

    /// The server has created another session instead of resuming this one. It is closed at once:
    /// the requests sent with the connect request belonged to that session, and their answers say
    /// nothing about this one.
    fn on_replaced(&mut self, by: i64, now: Moment) {
        self.ask(Request::Close, now);
        self.end(SessionEvent::Replaced { by }, now);
    }

    /// The session has ended; the next attempt creates another.
    fn end(&mut self, event: SessionEvent, now: Moment) {
        self.identity = None;
        self.last_zxid = 0;
        self.clear_loss();
        self.stop_holding();
        self.hang_up();
        self.phase = Phase::Down { retry: now };
        self.events.push_back(event);
    }

    /// A server has accepted the session, or the session has ended.
    fn clear_loss(&mut self) {
        (self.lost, self.rejected) = (None, false);
        if std::mem::take(&mut self.disowned) {
            self.last_zxid = 0;
        }
    }

    /// A frame while the session is up.
    fn on_frame(&mut self, mut frame: &[u8], now: Moment) -> Result<(), Fault> {
        let header = ReplyHeader::read(&mut frame, "reply")?;
        if header.zxid > 0 {
            self.last_zxid = self.last_zxid.max(header.zxid);
        }
        match header.xid {
            xid::WATCH => self.on_watch_event(WatcherEvent::read(&mut frame, "watch event")?),
            xid::AUTH => self.on_auth_reply(&header),
            _ => return self.on_reply(&header, frame, now),
        }
        Ok(())
    }

    fn on_watch_event(&mut self, event: WatcherEvent) {
        let change = match event.kind {
            1 => Change::Created,
            2 => Change::Deleted,
            3 | 4 => Change::Changed,
            _ => return, // the state of the connection, which is known
        };
        self.events.push_back(SessionEvent::Watch {
            change,
            path: event.path,
        });
    }

    fn on_auth_reply(&mut self, header: &ReplyHeader) {
        if header.err != 0 {
            self.events
                .push_back(SessionEvent::Refused(Code(header.err)));
        }
    }

    /// A reply to the oldest request; replies come in the order of requests.
    fn on_reply(&mut self, header: &ReplyHeader, body: &[u8], now: Moment) -> Result<(), Fault> {
        if FATAL_CODES.contains(&Code(header.err)) {
            self.events
                .push_back(SessionEvent::Refused(Code(header.err)));
            return Ok(());
        }
        let Some(InFlight { request, sent, .. }) = self
            .in_flight
            .pop_front_if(|oldest| oldest.xid == header.xid)
        else {
            return Err(Fault::OutOfOrder(header.xid));
        };
        let result = if header.err == 0 {
            answer(&request, body)?
        } else {
            Err(Code(header.err))
        };
        match result {
            Err(Code::SESSION_EXPIRED)
            | Ok(Answer::Undone {
                code: Code::SESSION_EXPIRED,
                ..
            }) => {
                self.end(SessionEvent::Expired, now);
                return Ok(());
            }
            Err(Code::SESSION_MOVED)
            | Ok(Answer::Undone {
                code: Code::SESSION_MOVED,
                ..
            }) => return Err(Fault::HungUp),
            Err(Code::READ_ONLY) => return Err(Fault::ReadOnly),
            _ => {}
        }
        self.lease.answered(sent, now);
        if !matches!(result, Err(_) | Ok(Answer::Undone { .. })) && self.proves(&request) {
            self.lease.proved(sent);
        }
        if request == Request::Close {
            self.hang_up();
            self.phase = Phase::Closed;
        }
        self.events
            .push_back(SessionEvent::Reply { request, result });
        Ok(())
    }

    /// Whether an answer to this request proves that the leader knows the session to be alive: a
    /// quorum write, or the request that the operator configured as one.
    fn proves(&self, request: &Request) -> bool {
        matches!(
            request,
            Request::Create { .. } | Request::Check { .. } | Request::Multi(_)
        ) || (self.holding && *request == self.beat)
    }

    /// Gives up an open connection. If the server may be creating a session whose id is not known
    /// yet, it is asked to close it: otherwise a frozen server that wakes later would keep this
    /// client's node for a whole timeout.
    fn give_up(&mut self, fault: Fault, now: Moment) {
        if self.is_opening() {
            self.ask(Request::Close, now);
        }
        self.hang_up();
        self.disconnect(fault, now);
    }

    fn hang_up(&mut self) {
        if !self.outgoing.is_empty() {
            self.steps
                .push_back(transport::Output::Send(std::mem::take(&mut self.outgoing)));
        }
        self.steps.push_back(transport::Output::Close);
        self.in_flight.clear();
        self.incoming.clear();
    }

    /// Without a connection: the next server follows at once, the next round after a pause.
    fn disconnect(&mut self, fault: Fault, now: Moment) {
        self.in_flight.clear();
        self.incoming.clear();
        self.outgoing.clear();
        if self.is_up() {
            self.lost = Some(now);
        }
        self.rejected |= matches!(fault, Fault::TurnedAway { known: true, .. });
        let pause = match self.attempts.checked_div(self.servers.len()) {
            Some(rounds) if rounds > 0 && self.attempts.is_multiple_of(self.servers.len()) => {
                self.pause(rounds, now)
            }
            _ => Duration::ZERO,
        };
        self.phase = Phase::Down { retry: now + pause };
        self.faults[self.server] = Some(fault.clone());
        self.events.push_back(SessionEvent::Down(fault));
    }
}

/// The error in a reply to any request, after which the server closes the connection. Such a reply
/// consists of its header, and an answer to a connect request is never so short.
fn fatal_code(frame: &[u8]) -> Option<Code> {
    error_alone(frame).filter(|code| FATAL_CODES.contains(code))
}

/// The error of a reply that consists of its header.
fn error_alone(mut frame: &[u8]) -> Option<Code> {
    let header = ReplyHeader::read(&mut frame, "reply").ok()?;
    frame.is_empty().then_some(Code(header.err))
}

#[cfg(test)]
mod recorded_tests;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(Duration::from_secs(1));

    #[test]
    fn an_attempt_that_is_cut_short_does_not_hide_the_reason_of_the_one_before() {
        let mut session = Session::new(vec!["h1:2181".into()], Duration::from_secs(5), None, NOW);
        let closed = "h1:2181: closed the connection at once (not serving, read-only, too many connections from this host, or it expects TLS?)";
        session.tick(NOW);
        session.connected(NOW);
        assert_eq!(
            session.faults(NOW + Duration::from_secs(2)),
            "h1:2181: no answer for 2.0 s (stopped, overloaded, or it expects TLS?)"
        );
        session.disconnected(None, NOW);
        assert_eq!(session.faults(NOW), closed);
        let again = session.wake();
        session.tick(again);
        assert_eq!(session.faults(again + Duration::from_millis(100)), closed);
        session.connected(again);
        assert_eq!(session.faults(again + Duration::from_millis(100)), closed);
        assert_eq!(
            session.faults(again + Duration::from_secs(4)),
            "h1:2181: no answer for 4.0 s (stopped, overloaded, or it expects TLS?)"
        );
        session.received(b"\x15\x03\x03\x00\x02\x02\x50", again);
        let tls = "h1:2181: expects TLS: use \"tls\" in the config or --tls-ca, or the plain port";
        assert_eq!(session.faults(again), tls);
    }

    #[test]
    fn request_without_a_connection_is_not_sent_before_the_connect_request() {
        let mut session = Session::new(vec!["h1:2181".into()], Duration::from_secs(5), None, NOW);
        session.ask(Request::Ping, NOW);
        assert_eq!(session.step(), None);
        session.tick(NOW);
        assert_eq!(
            session.step(),
            Some(transport::Output::Connect(
                Endpoint::from("h1:2181").address
            ))
        );
        session.ask(Request::Ping, NOW);
        session.connected(NOW);
        let Some(transport::Output::Send(bytes)) = session.step() else {
            panic!("no connect request")
        };
        let mut rest = &bytes[..];
        let hello = next_frame(&mut rest).unwrap().unwrap();
        assert_eq!(
            (
                ConnectRequest::read(&mut &hello[..], "")
                    .unwrap()
                    .session_id,
                rest
            ),
            (0, &b""[..])
        );
    }

    #[test]
    fn only_a_quorum_write_or_the_configured_heartbeat_proves_that_the_session_lives() {
        let mut session = fresh(&["h1:2181"]);
        let path = || "/app/lock".to_owned();
        let sync = Request::Sync { path: path() };
        let (data, watch) = (path(), true);
        let read = Request::Data { path: data, watch };
        assert!(session.proves(&Request::Check { path: path() }));
        for request in [&Request::Ping, &sync, &read] {
            assert!(!session.proves(request), "{request:?}");
        }
        session.hold(Request::Ping);
        assert!(session.proves(&Request::Ping));
        for request in [&sync, &read] {
            assert!(!session.proves(request), "{request:?}");
        }
    }

    /// When a session of 10 s on two servers leaves a server that is silent after the handshake, and
    /// one that accepts connections and answers nothing.
    fn leaves_after(prepare: impl FnOnce(&mut Session)) -> [Duration; 2] {
        let mut session = fresh(&["h1:2181", "h2:2181"]);
        prepare(&mut session);
        handshake(&mut session, NOW, 0, 7, 10_000);
        assert!(session.is_up());
        session.ask(Request::Check { path: "/".into() }, NOW);
        let mut now = NOW;
        while session.is_up() {
            now = session.wake();
            session.tick(now);
        }
        let silent = now.since(NOW);
        session.tick(session.wake());
        session.connected(now);
        [silent, session.wake().since(now)]
    }

    #[test]
    fn silent_server_is_left_as_quickly_as_by_a_holder_if_the_session_hurries() {
        let times = |times: [u64; 2]| times.map(Duration::from_millis);
        assert_eq!(leaves_after(|_| {})[1], Duration::from_secs(5));
        assert!(leaves_after(|_| {})[0] > Duration::from_secs(6));
        assert_eq!(leaves_after(Session::hurry), times([2_000, 1_000]));
    }

    #[test]
    fn session_that_hurries_asks_whether_it_has_ended() {
        let mut session = fresh(&["h1:2181"]);
        session.hurry();
        handshake(&mut session, NOW, 0, 7, 10_000);
        session.disconnected(None, NOW);
        let mut events = Vec::new();
        while session.wake() < NOW + Duration::from_secs(12) {
            let now = session.wake();
            session.tick(now);
            session.connected(now);
            session.disconnected(None, now);
            events.extend(std::iter::from_fn(|| session.next_event()));
        }
        let is_disowned = |event: &SessionEvent| matches!(event, SessionEvent::Disowned { .. });
        assert!(events.iter().any(is_disowned), "{events:?}");
    }

    #[test]
    fn session_that_hurries_leaves_no_server_that_works_through_many_requests() {
        let mut session = fresh(&["h1:2181", "h2:2181"]);
        session.hurry();
        handshake(&mut session, NOW, 0, 7, 10_000);
        let path = || "/a".to_string();
        for _ in 0..10 {
            session.ask(Request::Check { path: path() }, NOW);
        }
        let first = session.last_xid - 9;
        for second in 1..9 {
            let now = NOW + Duration::from_secs(second);
            session.tick(now);
            assert!(session.is_up(), "after {second} s");
            let xid = first + i32::try_from(second).unwrap() - 1;
            session.received(&reply(xid, Code::NO_NODE.0), now);
        }
        let now = NOW + Duration::from_secs(10);
        session.tick(now);
        assert!(!session.is_up(), "it has been silent for 2 s");
    }

    #[test]
    fn session_that_hurries_gives_slow_servers_their_time_in_the_second_round() {
        let mut session = fresh(&["h1:2181", "h2:2181"]);
        session.hurry();
        let mut now = NOW;
        let mut times = Vec::new();
        for _ in 0..4 {
            session.tick(now);
            session.connected(now);
            let since = now;
            while matches!(session.phase, Phase::Handshake { .. }) {
                now = session.wake();
                session.tick(now);
            }
            times.push(now.since(since).as_secs());
            now = session.wake();
        }
        assert_eq!(times, [1, 1, 5, 5]);
    }

    /// A session with this timeout in ms, which was up and is reconnecting.
    fn reconnecting(timeout: u64) -> Session {
        let mut session = Session::new(
            vec!["h1:2181".into(), "h2:2181".into()],
            Duration::from_secs(10),
            None,
            NOW,
        );
        handshake(&mut session, NOW, 0, 7, timeout);
        session.hold(Request::Ping);
        session.disconnected(None, NOW);
        session
    }

    /// Connects and gets this answer.
    fn handshake(
        session: &mut Session,
        now: Moment,
        protocol_version: i32,
        session_id: i64,
        granted: u64,
    ) {
        session.tick(now);
        session.connected(now);
        while session.step().is_some() || session.next_event().is_some() {}
        let time_out = i32::try_from(granted).unwrap();
        let response = ConnectResponse {
            protocol_version,
            time_out,
            session_id,
            passwd: vec![7; 16],
        };
        let mut bytes = Vec::new();
        frame(&mut bytes, |out| {
            response.write(out);
            false.write(out);
        });
        session.received(&bytes, now);
    }

    /// A session that ClickHouse Keeper has made, after this request. What was sent is dropped.
    fn with_keeper(request: Option<Request>) -> Session {
        let mut session = fresh(&["h1:2181"]);
        session.tick(NOW);
        session.connected(NOW);
        if let Some(request) = request {
            session.ask(request, NOW);
        }
        let response = ConnectResponse {
            protocol_version: 0,
            time_out: 10_000,
            session_id: 7,
            passwd: vec![0; 16],
        };
        while session.step().is_some() {}
        let mut bytes = Vec::new();
        frame(&mut bytes, |out| response.write(out));
        session.received(&bytes, NOW);
        assert_eq!(
            session.next_event(),
            Some(SessionEvent::Up { resumed: false })
        );
        session
    }

    fn answered(session: &mut Session, xid: i32) {
        let header = ReplyHeader {
            xid,
            zxid: 1,
            err: 0,
        };
        let mut bytes = Vec::new();
        frame(&mut bytes, |out| header.write(out));
        session.received(&bytes, NOW);
    }

    #[test]
    fn keeper_is_recognized_and_pinged_if_requests_came_with_the_connect_request() {
        let mut quiet = with_keeper(None);
        assert_eq!((quiet.is_keeper(), quiet.step()), (true, None));
        let path = "/lock".to_owned();
        let mut waiting = with_keeper(Some(Request::Delete { path }));
        assert!(waiting.step().is_some(), "the ping");
        assert_eq!(waiting.in_flight.back().unwrap().request, Request::Ping);
        let mut zookeeper = fresh(&["h1:2181"]);
        handshake(&mut zookeeper, NOW, 0, 7, 10_000);
        assert!(!zookeeper.is_keeper());
    }

    #[test]
    fn end_of_the_connection_is_keepers_reply_to_the_close_if_all_else_is_answered() {
        let reset = || Some("connection reset by peer".to_owned());
        let path = || "/lock".to_owned();
        for (is_answered, why, is_closed) in [
            (true, None, true),
            (true, reset(), false),
            (false, None, false),
        ] {
            let mut session = with_keeper(None);
            session.ask(Request::Delete { path: path() }, NOW);
            session.ask(Request::Close, NOW);
            while session.step().is_some() {}
            if is_answered {
                answered(&mut session, 1);
                session.next_event();
            }
            session.disconnected(why, NOW);
            let event = session.next_event();
            assert_eq!(event == Some(SessionEvent::ClosedSilently), is_closed);
            assert_eq!(session.wake() == Moment::NEVER, is_closed);
        }
        let mut other = with_keeper(None);
        other.disconnected(None, NOW);
        let event = other.next_event();
        assert_eq!(event, Some(SessionEvent::Down(Fault::HungUp)));
    }

    fn list(names: &[&str]) -> Vec<Endpoint> {
        names.iter().map(|&name| name.into()).collect()
    }

    fn connect(name: &str) -> transport::Output {
        transport::Output::Connect(Endpoint::from(name).address)
    }

    fn fresh(names: &[&str]) -> Session {
        Session::new(list(names), Duration::from_secs(10), None, NOW)
    }

    #[test]
    fn servers_that_have_moved_are_tried_at_once_and_rounds_continue() {
        let mut session = fresh(&["h1:2181", "h2:2181"]);
        for _ in 0..6 {
            let due = session.wake();
            session.tick(due);
            assert!(matches!(
                session.step(),
                Some(transport::Output::Connect(_))
            ));
            session.disconnected(Some("connection refused".into()), due);
        }
        assert_eq!(session.failed_rounds(), Some(3));
        let now = session.wake().before(Duration::from_millis(1));
        assert!(
            !session.relist(list(&["h2:2181", "h1:2181"]), now),
            "they are the same"
        );
        assert!(session.relist(list(&["h2:2181", "h3:2181", "h4:2181"]), now));
        assert_eq!((session.failed_rounds(), session.wake()), (Some(3), now));
        session.tick(now);
        assert_eq!(session.step(), Some(connect("h3:2181")));
        session.disconnected(Some("no route".into()), now);
        session.tick(session.wake());
        assert_eq!(session.step(), Some(connect("h4:2181")));
        assert_eq!(
            session.faults(now),
            "h3:2181: no route; h4:2181: no answer for 0.0 s; h2:2181: connection refused"
        );
        assert_eq!(session.failed_rounds(), Some(3));
    }

    #[test]
    fn attempt_at_a_dropped_address_ends_and_another_continues() {
        for (found, steps) in [
            (
                &["h3:2181"][..],
                [Some(transport::Output::Close), Some(connect("h3:2181"))],
            ),
            (&["h3:2181", "h1:2181"], [None, None]),
        ] {
            let mut session = fresh(&["h1:2181"]);
            session.tick(NOW);
            assert_eq!(session.step(), Some(connect("h1:2181")));
            assert!(session.relist(list(found), NOW));
            session.tick(NOW);
            assert_eq!([session.step(), session.step()], steps);
            assert_eq!(session.failed_rounds(), Some(0));
        }
    }

    #[test]
    fn connected_server_stays_when_its_name_has_moved() {
        let mut session = fresh(&["h1:2181"]);
        handshake(&mut session, NOW, 0, 7, 10_000);
        assert!(session.relist(list(&["h3:2181"]), NOW));
        assert_eq!((session.is_up(), session.server()), (true, "h1:2181"));
        session.disconnected(None, NOW);
        session.tick(session.wake());
        assert_eq!(session.step(), Some(connect("h3:2181")));
    }

    #[test]
    fn silence_is_measured_by_the_current_timeout() {
        for granted in [10_000, 3000, 900] {
            let mut session = reconnecting(10_000);
            handshake(&mut session, NOW, 0, 7, granted);
            assert_eq!(
                session.next_event(),
                Some(SessionEvent::Up { resumed: true })
            );
            session.ask(Request::Ping, NOW);
            let limit = NOW + Duration::from_millis(granted * 2 / 10);
            session.next_beat = Moment::NEVER;
            assert_eq!(session.wake(), limit, "{granted}");
            session.tick(limit);
            assert!(
                matches!(
                    session.next_event(),
                    Some(SessionEvent::Down(Fault::Silent(_)))
                ),
                "{granted}"
            );
        }
    }

    #[test]
    fn session_with_another_id_is_closed_and_the_old_one_ends() {
        let mut session = reconnecting(10_000);
        let (id, lease) = (session.id(), session.lease().deadlines(Duration::ZERO));
        handshake(&mut session, NOW + Duration::from_secs(1), 0, 8, 10_000);
        assert_eq!(
            (session.next_event(), session.next_event()),
            (Some(SessionEvent::Replaced { by: 8 }), None)
        );
        assert_eq!((id, session.id(), session.is_up()), (Some(7), None, false));
        assert_eq!(
            session.lease().deadlines(Duration::ZERO),
            lease,
            "nothing of it says anything of our lease"
        );
        let Some(transport::Output::Send(bytes)) = session.step() else {
            panic!("no word to end it")
        };
        let mut rest = &bytes[..];
        let close = next_frame(&mut rest).unwrap().unwrap();
        assert_eq!(
            RequestHeader::read(&mut &close[..], "").unwrap().kind,
            operation::CLOSE_SESSION
        );
        assert_eq!(session.step(), Some(transport::Output::Close));
    }

    #[test]
    fn refusal_ends_the_connection_and_not_the_session() {
        for (version, id) in [(42, -1), (42, 7), (1, 7), (0, -1)] {
            let mut session = reconnecting(10_000);
            handshake(&mut session, NOW, version, id, 10_000);
            assert_eq!(
                session.next_event(),
                Some(SessionEvent::Down(Fault::Refuses { version, id }))
            );
            assert_eq!(session.id(), Some(7), "it may live");
            let mut fresh =
                Session::new(vec!["h1:2181".into()], Duration::from_secs(10), None, NOW);
            handshake(&mut fresh, NOW, version, id, 10_000);
            assert_eq!(
                (fresh.next_event(), fresh.id()),
                (
                    Some(SessionEvent::Down(Fault::Refuses { version, id })),
                    None
                )
            );
        }
    }

    /// A reply's header as a frame.
    fn reply(xid: i32, err: i32) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(&mut bytes, |out| {
            ReplyHeader { xid, zxid: 0, err }.write(out);
        });
        bytes
    }

    #[test]
    fn fatal_error_is_reported_in_any_reply() {
        for code in FATAL_CODES {
            for xid in [1, 2, 99] {
                let mut session =
                    Session::new(vec!["h1:2181".into()], Duration::from_secs(10), None, NOW);
                handshake(&mut session, NOW, 0, 7, 10_000);
                session.ask(
                    Request::Exists {
                        path: "/a".into(),
                        watch: false,
                    },
                    NOW,
                );
                session.ask(
                    Request::Data {
                        path: "/a".into(),
                        watch: false,
                    },
                    NOW,
                );
                session.received(&reply(xid, code.0), NOW);
                assert_eq!(
                    (session.next_event(), session.next_event()),
                    (
                        Some(SessionEvent::Up { resumed: false }),
                        Some(SessionEvent::Refused(code))
                    ),
                    "{xid}"
                );
                let mut greeting =
                    Session::new(vec!["h1:2181".into()], Duration::from_secs(10), None, NOW);
                greeting.tick(NOW);
                greeting.connected(NOW);
                greeting.received(&reply(xid, code.0), NOW);
                assert_eq!(
                    greeting.next_event(),
                    Some(SessionEvent::Refused(code)),
                    "it overtakes the greeting"
                );
            }
        }
    }

    #[test]
    fn session_that_servers_reject_through_a_command_is_given_up_too() {
        let server = Endpoint {
            name: "h1:2181".into(),
            address: transport::Address::Command(["nc".into()].into()),
        };
        let mut session = Session::new(vec![server], Duration::from_secs(10), None, NOW);
        handshake(&mut session, NOW, 0, 7, 10_000);
        session.disconnected(None, NOW);
        let connect = |session: &mut Session, now: Moment| {
            session.tick(now);
            session.connected(now);
        };
        let (early, late) = (session.wake(), NOW + Duration::from_secs(10));
        connect(&mut session, early);
        session.disconnected(Some("ended without a reason".into()), early);
        connect(&mut session, late);
        let events = std::iter::from_fn(|| session.next_event());
        let disowned = SessionEvent::Disowned {
            silence: Duration::from_secs(10),
        };
        assert!(events.into_iter().any(|event| event == disowned));
    }

    #[test]
    fn oversized_list_is_reported_with_its_length_as_soon_as_known() {
        let (bytes, children) = (i32::try_from(LARGEST_FRAME).unwrap() + 1, 77_672);
        let head = |xid: i32, children: i32| {
            let mut head = bytes.to_be_bytes().to_vec();
            ReplyHeader {
                xid,
                zxid: 5,
                err: 0,
            }
            .write(&mut head);
            children.write(&mut head);
            head
        };
        let asking = || {
            let mut session = reconnecting(10_000);
            handshake(&mut session, NOW, 0, 7, 10_000);
            session.ask(
                Request::Children {
                    path: "/a".into(),
                    watch: false,
                },
                NOW,
            );
            while session.next_event().is_some() {}
            session
        };
        let mut session = asking();
        let xid = session.last_xid;
        let head_of_ours = head(xid, children);
        session.received(&head_of_ours[..23], NOW);
        assert_eq!(session.next_event(), None, "the number is not there yet");
        session.received(&head_of_ours[23..], NOW);
        let list = Fault::LongList {
            path: "/a".into(),
            children,
            bytes: LARGEST_FRAME + 1,
        };
        assert_eq!(session.next_event(), Some(SessionEvent::Down(list)));
        for invalid in [head(xid + 1, children), head(xid, -1), head(xid, i32::MAX)] {
            let mut session = asking();
            session.received(&invalid, NOW);
            assert_eq!(
                session.next_event(),
                Some(SessionEvent::Down(Fault::FrameLength(bytes)))
            );
        }
    }

    #[test]
    fn connection_that_ends_unanswered_has_the_same_hint_for_any_error() {
        for why in [None, Some("connection reset by peer"), Some("broken pipe")] {
            for accepted in [true, false] {
                let mut session =
                    Session::new(vec!["h1:2181".into()], Duration::from_secs(10), None, NOW);
                session.tick(NOW);
                if accepted {
                    session.connected(NOW);
                }
                session.disconnected(why.map(str::to_owned), NOW);
                let Some(SessionEvent::Down(fault)) = session.next_event() else {
                    panic!()
                };
                let hinted = fault
                    .to_string()
                    .contains("too many connections from this host");
                assert_eq!(hinted, accepted || why.is_some(), "{fault}");
            }
        }
        let mut session = Session::new(vec!["h1:2181".into()], Duration::from_secs(10), None, NOW);
        session.tick(NOW);
        session.disconnected(Some("connection refused".into()), NOW);
        assert_eq!(
            session.next_event(),
            Some(SessionEvent::Down(Fault::Network(
                "connection refused".into()
            )))
        );
    }

    #[test]
    fn read_only_server_is_reported_as_such() {
        let mut session = Session::new(vec!["h1:2181".into()], Duration::from_secs(10), None, NOW);
        session.tick(NOW);
        session.connected(NOW);
        let mut bytes = Vec::new();
        frame(&mut bytes, |out| {
            ConnectResponse {
                protocol_version: 0,
                time_out: 10_000,
                session_id: 7,
                passwd: vec![7; 16],
            }
            .write(out);
            true.write(out);
        });
        session.received(&bytes, NOW);
        assert_eq!(
            (session.next_event(), session.id()),
            (Some(SessionEvent::Down(Fault::ReadOnly)), None)
        );
    }

    #[test]
    fn read_only_server_without_local_sessions_is_reported_as_such() {
        let mut session = fresh(&["h1:2181"]);
        session.only_reads();
        session.tick(NOW);
        session.connected(NOW);
        let mut bytes = Vec::new();
        frame(&mut bytes, |out| {
            ReplyHeader {
                xid: 0,
                zxid: 0,
                err: Code::READ_ONLY.0,
            }
            .write(out);
        });
        session.received(&bytes, NOW);
        assert_eq!(
            session.next_event(),
            Some(SessionEvent::Down(Fault::ReadOnly))
        );
    }

    #[test]
    fn counted_rounds_pause_as_kazoos_do() {
        for nanoseconds in (0..100_000).map(|step| step * 7919) {
            let now = Moment(Duration::from_nanos(nanoseconds));
            let mut session =
                Session::new(vec!["h1:2181".into()], Duration::from_secs(10), None, now);
            let plain = |session: &Session, rounds| {
                (1..rounds)
                    .map(|round| session.pause(round, now))
                    .sum::<Duration>()
            };
            assert_eq!(
                plain(&session, 5),
                Duration::from_millis(50 + 100 + 200 + 400)
            );
            session.count_rounds(true);
            assert!(
                (Duration::from_millis(3100)..Duration::from_millis(4700))
                    .contains(&plain(&session, 5)),
                "{nanoseconds}"
            );
            assert!(
                plain(&session, 10) >= Duration::from_secs(15),
                "{nanoseconds}"
            );
        }
    }

    #[test]
    fn negative_id_is_a_session_of_a_server_above_127() {
        let mut session = Session::new(vec!["h1:2181".into()], Duration::from_secs(10), None, NOW);
        handshake(&mut session, NOW, 0, i64::MIN + 1, 10_000);
        assert_eq!(
            session.next_event(),
            Some(SessionEvent::Up { resumed: false })
        );
    }
}

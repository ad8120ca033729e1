//! The session machine against what a real server has sent (`captures/`), cut at every byte, and
//! against what no server sends.

use super::{Change, Fault, Session, SessionEvent};
use crate::endpoint::Endpoint;
use crate::moment::Moment;
use crate::plan::Auth;
use crate::testing::{Connection, Delivery, Driver, Machine, Peer, Reply, Step};
use crate::transport;
use crate::transport::Address;
use crate::zookeeper::code::{Code, flag, operation};
use crate::zookeeper::record::{Acl, Id, MultiHeader, ReplyHeader};
use crate::zookeeper::request::{Answer, Operation, Request};
use crate::zookeeper::wire::{Wire, frame};
use common::SECOND;
use common::capture::{hex, pieces};
use common::proxy::From;
use proptest::prelude::*;
use std::collections::VecDeque;

const LOCK: &str = "/app/lock";
const HOLDER: &str = "host.example6b1b36cb-0000-4000-8000-000000000001";
const WAITER: &str = "other.example6b1b36cb-0000-4000-8000-000000000002";

/// All that happens in this file happens at once.
const NOW: Moment = Moment(SECOND);

fn auth() -> Auth {
    Auth {
        scheme: "digest".into(),
        data: "user:secret".into(),
    }
}

fn create(data: &str) -> Request {
    let acl = vec![Acl {
        perms: 31,
        id: Id {
            scheme: "world".into(),
            id: "anyone".into(),
        },
    }];
    Request::Create {
        path: LOCK.into(),
        data: data.into(),
        acl,
        flags: flag::EPHEMERAL,
    }
}

fn look() -> Request {
    Request::Data {
        path: LOCK.into(),
        watch: true,
    }
}

/// A session that is asked for these as soon as it has a connection, as a lock does.
#[derive(Debug)]
struct Asking {
    session: Session,
    requests: Vec<Request>,
}

impl Machine for Asking {
    type To = Address;
    type Report = SessionEvent;
    type Rules = ();

    fn take_event(&mut self, event: transport::Event, now: Moment) {
        match event {
            transport::Event::Connected => {
                self.session.connected(now);
                for request in std::mem::take(&mut self.requests) {
                    self.session.ask(request, now);
                }
            }
            transport::Event::Disconnected(why) => self.session.disconnected(why, now),
            transport::Event::Received(bytes) => self.session.received(bytes, now),
        }
    }

    fn take_time(&mut self, now: Moment) {
        self.session.tick(now);
    }

    fn give(&mut self, _: Moment) -> Step<Address, SessionEvent> {
        if let Some(event) = self.session.next_event() {
            return Step::Report(event);
        }
        match self.session.step() {
            Some(output) => Step::Transport(output),
            None => Step::Wait(self.session.wake()),
        }
    }

    fn check((): &mut (), _: &SessionEvent) {}
}

/// A server that sends these pieces, whatever the session says.
#[derive(Default)]
struct Recording {
    pieces: VecDeque<Vec<u8>>,
    received: Vec<Vec<u8>>,
}

impl Recording {
    fn of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Recording {
        Recording {
            pieces: pieces.into_iter().map(<[u8]>::to_vec).collect(),
            received: Vec::new(),
        }
    }
}

impl Peer<Address> for Recording {
    fn connect(&mut self, _: Address, _: Moment) -> Reply {
        Reply::Accepted(0)
    }

    fn receive(&mut self, _: Connection, bytes: &[u8], _: Moment) {
        self.received.push(bytes.to_vec());
    }

    fn close(&mut self, _: Connection) {
        self.pieces.clear();
    }

    fn deliver(&mut self, _: Connection, _: Moment) -> Option<Delivery> {
        self.pieces.pop_front().map(Delivery::Bytes)
    }
}

/// A session that asks for these first.
fn greeting(requests: &[Request]) -> Driver<Asking> {
    let server = Endpoint {
        name: "server".into(),
        address: Address::Tcp(([192, 0, 2, 1], 2181).into()),
    };
    let asking = Asking {
        session: Session::new(vec![server], 15 * SECOND, Some(auth()), NOW),
        requests: requests.to_vec(),
    };
    Driver::new(asking, NOW)
}

/// All that a session has to tell after it was given these pieces.
#[track_caller]
fn events<'a>(
    mut session: Driver<Asking>,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<SessionEvent> {
    let mut server = Recording::of(pieces);
    std::iter::from_fn(|| session.next_report(&mut server)).collect()
}

/// The same events, whatever pieces the bytes of a capture come in.
#[track_caller]
fn assert_events(capture: &str, session: impl Fn() -> Driver<Asking>, expected: &[SessionEvent]) {
    let bytes = pieces(capture, From::Server).concat();
    assert_eq!(
        events(session(), [bytes.as_slice()]),
        expected,
        "in one piece"
    );
    assert_eq!(events(session(), bytes.chunks(1)), expected, "byte by byte");
    for cut in 0..bytes.len() {
        let (front, back) = bytes.split_at(cut);
        assert_eq!(events(session(), [front, back]), expected, "cut at {cut}");
    }
}

/// Data and owner of what a reply says is the lock.
fn holder(event: &SessionEvent) -> Option<(&[u8], i64)> {
    match event {
        SessionEvent::Reply {
            result: Ok(Answer::Data(data, stat)),
            ..
        } => Some((data, stat.ephemeral_owner)),
        _ => None,
    }
}

fn answered(request: Request, result: Result<Answer, Code>) -> SessionEvent {
    SessionEvent::Reply { request, result }
}

#[test]
fn the_first_write_is_connect_auth_and_the_first_requests_as_a_server_took_them() {
    for (capture, data) in [("holder", HOLDER), ("waiter", WAITER)] {
        let mut server = Recording::default();
        assert_eq!(
            greeting(&[create(data), look()]).next_report(&mut server),
            None
        );
        assert_eq!(
            hex(&server.received.concat()),
            hex(&pieces(capture, From::Client)[0])
        );
    }
}

#[test]
fn a_holder_gets_replies_to_create_and_heartbeat_and_the_expiry() {
    let check = || Request::Check { path: LOCK.into() };
    let requests = [
        create(HOLDER),
        look(),
        check(),
        Request::Ping,
        Request::Sync { path: LOCK.into() },
        Request::Delete { path: LOCK.into() },
        check(),
        Request::Close,
    ];
    let locked = events(
        greeting(&requests),
        pieces("holder", From::Server).iter().map(Vec::as_slice),
    )
    .remove(2);
    assert_eq!(
        holder(&locked),
        Some((HOLDER.as_bytes(), 0x0100_0018_317c_0002))
    );
    let [create, _, check, ping, sync, delete, check_again, close] = requests.clone();
    let expected = [
        SessionEvent::Up { resumed: false },
        answered(create, Ok(Answer::Created(LOCK.into()))),
        locked,
        answered(check, Ok(Answer::Done)),
        answered(ping, Ok(Answer::Done)),
        answered(sync, Ok(Answer::Done)),
        SessionEvent::Watch {
            change: Change::Deleted,
            path: LOCK.into(),
        },
        answered(delete, Ok(Answer::Done)),
        answered(check_again, Err(Code::NO_NODE)),
        answered(close, Ok(Answer::Done)),
    ];
    assert_events("holder", || greeting(&requests), &expected);
}

#[test]
fn a_waiter_gets_the_holder_and_the_event_of_its_release() {
    let session = || greeting(&[create(WAITER), look()]);
    let locked = events(
        session(),
        [pieces("waiter", From::Server).concat().as_slice()],
    )
    .remove(2);
    assert_eq!(
        holder(&locked),
        Some((HOLDER.as_bytes(), 0x0100_0018_317c_0002))
    );
    let busy = answered(create(WAITER), Err(Code::NODE_EXISTS));
    let free = SessionEvent::Watch {
        change: Change::Deleted,
        path: LOCK.into(),
    };
    assert_events(
        "waiter",
        session,
        &[SessionEvent::Up { resumed: false }, busy, locked, free],
    );
}

#[test]
fn a_missing_parent_answers_both_requests() {
    let expected = [
        SessionEvent::Up { resumed: false },
        answered(create(HOLDER), Err(Code::NO_NODE)),
        answered(look(), Err(Code::NO_NODE)),
    ];
    assert_events(
        "parent-missing",
        || greeting(&[create(HOLDER), look()]),
        &expected,
    );
}

#[test]
fn a_refused_auth_scheme_is_reported_as_such() {
    assert_events(
        "auth-refused",
        || greeting(&[]),
        &[
            SessionEvent::Up { resumed: false },
            SessionEvent::Refused(Code::AUTH_FAILED),
        ],
    );
}

#[test]
fn a_session_that_is_unknown_on_reconnect_has_expired() {
    let returning = || {
        let mut session = greeting(&[]);
        let mut server = Recording::of([&pieces("holder", From::Server)[0][..]]);
        let up = SessionEvent::Up { resumed: false };
        assert_eq!(session.next_report(&mut server), Some(up));
        session.cut(NOW, &mut server);
        while session.next_report(&mut server).is_some() {}
        while session.advance(&mut server, NOW + SECOND).is_some() {}
        session
    };
    assert_events("expired", returning, &[SessionEvent::Expired]);
}

#[test]
fn a_new_session_cannot_have_expired() {
    assert_events(
        "expired",
        || greeting(&[]),
        &[SessionEvent::Down(Fault::ExpiredOnConnect)],
    );
}

#[test]
fn an_expired_or_moved_session_is_recognised_in_a_multi_reply() {
    for (code, expected) in [
        (Code::SESSION_EXPIRED, SessionEvent::Expired),
        (Code::SESSION_MOVED, SessionEvent::Down(Fault::HungUp)),
    ] {
        for request in [
            Request::Check { path: LOCK.into() },
            Request::Multi(vec![Operation::Check { path: LOCK.into() }]),
        ] {
            let replies = pieces("holder", From::Server);
            let heard = events(
                greeting(std::slice::from_ref(&request)),
                [&replies[0][..], &replies[1], &undone(code)],
            );
            assert_eq!(
                heard,
                [SessionEvent::Up { resumed: false }, expected.clone()],
                "{request:?}"
            );
        }
    }
}

/// A reply to the first request, a multi of one operation that could not be done.
fn undone(Code(err): Code) -> Vec<u8> {
    let mut message = Vec::new();
    ReplyHeader {
        xid: 1,
        zxid: 20,
        err: 0,
    }
    .write(&mut message);
    MultiHeader {
        kind: operation::ERROR,
        done: false,
        err,
    }
    .write(&mut message);
    err.write(&mut message);
    MultiHeader {
        kind: operation::ERROR,
        done: true,
        err: -1,
    }
    .write(&mut message);
    let mut framed = Vec::new();
    frame(&mut framed, |out| out.extend(message));
    framed
}

#[test]
fn an_impossible_frame_length_closes_the_connection_at_once() {
    for length in [i32::MAX, i32::MIN, -5, -1, 0, (4 << 20) + 1] {
        assert_eq!(
            events(greeting(&[]), [&length.to_be_bytes()[..]]),
            [SessionEvent::Down(Fault::FrameLength(length))]
        );
        let [up, auth] = [0, 1].map(|at| pieces("holder", From::Server).swap_remove(at));
        let heard = events(greeting(&[]), [&up, &auth, &length.to_be_bytes()[..]]);
        assert_eq!(
            heard,
            [
                SessionEvent::Up { resumed: false },
                SessionEvent::Down(Fault::FrameLength(length))
            ]
        );
    }
}

#[test]
fn an_unexpected_reply_closes_the_connection() {
    let replies = pieces("holder", From::Server);
    let out_of_order = [&replies[0][..], &replies[1], &replies[3]];
    let heard = events(greeting(&[create(HOLDER), look()]), out_of_order);
    assert_eq!(
        heard,
        [
            SessionEvent::Up { resumed: false },
            SessionEvent::Down(Fault::OutOfOrder(2))
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise_never_panics(noise: Vec<Vec<u8>>) {
        events(greeting(&[create(HOLDER), look()]), noise.iter().map(Vec::as_slice));
    }

    #[test]
    fn a_byte_that_is_off_never_panics(at: prop::sample::Index, byte: u8, capture in prop::sample::select(vec!["holder", "waiter", "expired"])) {
        let mut bytes = pieces(capture, From::Server).concat();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        events(greeting(&[create(HOLDER), look()]), [bytes.as_slice()]);
    }
}

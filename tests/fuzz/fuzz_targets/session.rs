//! Whatever a server says, in whatever pieces, and whatever happens in between: the session goes on
//! or gives the connection up. It never panics, never asks for two things at once, and comes to
//! rest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use zk_flock::internals::endpoint::{Address, Endpoint};
use zk_flock::internals::moment::Moment;
use zk_flock::internals::plan::Auth;
use zk_flock::internals::transport::Output;
use zk_flock::internals::zookeeper::code::flag;
use zk_flock::internals::zookeeper::request::{Operation, Request};
use zk_flock::internals::zookeeper::session::Session;

/// Bytes at the front of an input that say what happens besides; what the server says follows.
const EVENTS: usize = 16;

/// The servers, by name and address.
const SERVERS: [(&str, [u8; 4]); 2] = [("one", [192, 0, 2, 1]), ("two", [192, 0, 2, 2])];

/// More than one event can make a session do.
const BUSY: usize = 1000;

fuzz_target!(|input: &[u8]| {
    let (events, mut bytes) = input.split_at(input.len().min(EVENTS));
    let mut now = Moment(Duration::from_secs(1000));
    let auth = Auth {
        scheme: "digest".into(),
        data: "user:secret".into(),
    };
    let mut session = Session::new(
        SERVERS
            .map(|(name, address)| Endpoint {
                name: name.into(),
                address: Address::Tcp((address, 2181).into()),
            })
            .to_vec(),
        Duration::from_secs(15),
        Some(auth),
        now,
    );
    open(&mut session, now);
    for &event in events {
        let length = usize::from(event >> 3) * 8;
        let (piece, rest) = bytes.split_at(if length == 0 {
            bytes.len()
        } else {
            length.min(bytes.len())
        });
        bytes = rest;
        session.received(piece, now);
        settle(&mut session, now);
        match event % 8 {
            0 => {}
            1 => now = now + Duration::from_millis(1500),
            2 => now = now + Duration::from_mins(1),
            3 => session.disconnected(None, now),
            4 => session.hold(Request::Check {
                path: "/app/lock".into(),
            }),
            5 => session.forget(now),
            6 => open(&mut session, now),
            _ => ask(&mut session, now),
        }
        settle(&mut session, now);
    }
});

/// The server accepts; the first requests go out with the connect request.
fn open(session: &mut Session, now: Moment) {
    settle(session, now);
    session.connected(now);
    ask(session, now);
}

/// The requests of the captures, in their order.
fn ask(session: &mut Session, now: Moment) {
    if !session.takes_requests() {
        return;
    }
    let path = || "/app/lock".to_owned();
    let check = || Request::Check { path: path() };
    let create = Request::Create {
        path: path(),
        data: b"host".into(),
        acl: Vec::new(),
        flags: flag::EPHEMERAL,
    };
    let look = Request::Data {
        path: path(),
        watch: true,
    };
    for request in [
        create,
        look,
        check(),
        Request::Ping,
        Request::Sync { path: path() },
        Request::Delete { path: path() },
        check(),
    ] {
        session.ask(request, now);
    }
    let container = Operation::CreateContainer {
        path: path(),
        acl: Vec::new(),
    };
    let create = Operation::Create {
        path: path(),
        data: b"host".into(),
        acl: Vec::new(),
        flags: flag::EPHEMERAL,
    };
    let multi = Request::Multi(vec![
        container,
        create,
        Operation::Delete { path: path() },
        Operation::Check { path: path() },
    ]);
    for request in [
        Request::Acl { path: path() },
        Request::Children {
            path: path(),
            watch: true,
        },
        multi,
        Request::Close,
    ] {
        session.ask(request, now);
    }
}

/// Does what the loop does until there is nothing to do.
fn settle(session: &mut Session, now: Moment) {
    for _ in 0..BUSY {
        session.tick(now);
        while session.next_event().is_some() {}
        match session.step() {
            Some(Output::Send(bytes)) => assert!(!bytes.is_empty()),
            Some(Output::Connect(server)) => assert!(
                SERVERS
                    .iter()
                    .any(|(_, address)| server == Address::Tcp((*address, 2181).into()))
            ),
            Some(Output::Close) => {}
            Some(output @ (Output::ShutdownWrite | Output::Reset)) => {
                panic!("a session does not use {output:?}")
            }
            None => return,
        }
    }
    panic!("the session comes to no rest");
}

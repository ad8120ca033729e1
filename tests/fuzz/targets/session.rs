//! A server that says anything at any time, in pieces of any size, to a session that asks: never a panic, never bytes before the connect request,
//! and no news of a session that no server has given.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use zk_flock::moment::Moment;
use zk_flock::zookeeper::record::ConnectResponse;
use zk_flock::zookeeper::request::Request;
use zk_flock::zookeeper::session::{News, Session, Step};
use zk_flock::zookeeper::wire::{Wire, frame};

/// What a real server answers first, so that the fuzzer need not find it.
fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    let response = ConnectResponse { protocol_version: 0, time_out: 5000, session_id: 77, passwd: vec![7; 16] };
    frame(&mut bytes, |out| response.write(out));
    bytes
}

fuzz_target!(|script: &[u8]| {
    let mut now = Moment(Duration::from_secs(1));
    let mut session = Session::new(vec!["a".into(), "b".into()], Duration::from_secs(5), None, now);
    let mut rest = script;
    while let Some((&operation, after)) = rest.split_first() {
        rest = after;
        match operation {
            0..=31 => session.connected(now),
            32..=47 => session.disconnected(None, now),
            48..=63 => session.received(&hello(), now),
            64..=71 => session.ask(Request::Data { path: "/a".into(), watch: true }, now),
            72..=79 => session.ask(Request::Check { path: "/a".into() }, now),
            80..=87 => session.ask(Request::Children { path: "/a".into(), watch: false }, now),
            88..=95 => session.ask(Request::Close, now),
            96..=103 => session.hold(Request::Check { path: "/a".into() }),
            104..=127 => now = now + Duration::from_millis(u64::from(operation) * 10),
            length => {
                let (piece, after) = rest.split_at(usize::from(length - 128).min(rest.len()));
                rest = after;
                session.received(piece, now);
            }
        }
        session.tick(now);
        while let Some(news) = session.news() {
            assert!(session.id().is_some() || !matches!(news, News::Reply { .. }), "a reply without a session: {news:?}");
        }
        for _ in 0..64 {
            match session.step() {
                Some(Step::Send(bytes)) => assert!(bytes.len() < 1 << 20),
                Some(Step::Connect(server)) => assert!(server < 2),
                Some(Step::Disconnect) => {}
                None => break,
            }
        }
        let _ = session.wake();
    }
});

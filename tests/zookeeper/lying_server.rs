//! A server that sends what no ZooKeeper sends: it is left, named with what was wrong, and nothing
//! it says makes us panic, hang, spin or run a command without a lock.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time and use threads; the program may not"
)]

use common::probe_job::{FOREVER, Probe};
use common::report;
use common::run::exited;
use common::sandbox::Sandbox;
use common::scripted_server::Act::{Dribble, Hear, Keep, Say};
use common::scripted_server::{Act, ScriptedServer, hello, message};
use common::zookeeper::ZooKeeper;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use zk_flock::internals::zookeeper::record::{CreateResponse, GetDataResponse, ReplyHeader, Stat};
use zk_flock::internals::zookeeper::wire::Wire;

/// Session timeout of the runs here.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long after it a run may end: a second is promised, the rest is for a machine that is busy
/// with other things.
const LATE: Duration = Duration::from_secs(4);

/// The session that a liar claims to have made.
const SESSION: i64 = 0x7a;

const HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";

/// A reply: its header, then a record.
fn reply(xid: i32, err: i32, record: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    ReplyHeader { xid, zxid: 7, err }.write(&mut header);
    message(&[&header, record])
}

fn bytes(record: &impl Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.write(&mut bytes);
    bytes
}

/// What no server sends once it has a session, each kind with a name.
fn junk() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a frame of 2 GiB", i32::MAX.to_be_bytes().to_vec()),
        ("a frame of -5", (-5i32).to_be_bytes().to_vec()),
        (
            "a frame of the least length there is",
            i32::MIN.to_be_bytes().to_vec(),
        ),
        ("an empty frame", message(&[])),
        ("a short frame", message(&[b"\0\0\0\x01\0"])),
        ("a reply to nothing", reply(4711, 0, b"")),
        ("a reply of xid -3", reply(-3, 0, b"")),
        ("a watch event without a body", reply(-1, 0, b"")),
        ("a reply cut short", reply(1, 0, b"\0\0\0\x7f/")),
        ("a string of 2 GiB", reply(1, 0, &i32::MAX.to_be_bytes())),
        ("a string of -5", reply(1, 0, &(-5i32).to_be_bytes())),
        ("HTTP", HTTP.to_vec()),
        ("0xff", vec![0xff; 5000]),
        ("zeros", vec![0; 5000]),
    ]
}

/// Proves something of all cases at the same time: most of it is waiting.
fn at_once(cases: Vec<(&'static str, Vec<u8>)>, prove: impl Fn(&str, Vec<u8>) + Sync) {
    let prove = &prove;
    thread::scope(|scope| {
        cases
            .into_iter()
            .for_each(|(what, bytes)| drop(scope.spawn(move || prove(what, bytes))));
    });
}

/// Runs on a liar with such a script; asserts that it ends in time, runs nothing, and says all of
/// this of it in one line.
#[track_caller]
fn is_found_out(what: &str, script: Vec<Act>, why: &str) {
    let (sandbox, scripted) = (Sandbox::new(), ScriptedServer::start(script));
    let run = sandbox
        .flock_at(&scripted.address, 2, &["-x", "17", "lock", "touch ran"])
        .start();
    let started = run.started;
    let outcome = run.wait();
    assert!(
        started.elapsed() < TIMEOUT + LATE,
        "{what}: {:?}",
        started.elapsed()
    );
    assert_eq!(outcome.end, Ok(1), "{what}: {outcome:?}");
    outcome.complains(1, &[&scripted.address, why]);
    assert!(!sandbox.path("ran").exists(), "{what}");
    assert!(
        scripted.connections() < 40,
        "{what}: {} connections in {TIMEOUT:?}",
        scripted.connections()
    );
}

#[test]
fn a_malformed_connect_response_is_reported() {
    let session = hello(SESSION, TIMEOUT);
    let lies = vec![
        ("a frame of 2 GiB", i32::MAX.to_be_bytes().to_vec()),
        ("a frame of -5", (-5i32).to_be_bytes().to_vec()),
        ("an empty frame", message(&[])),
        ("a short frame", message(&[&[0; 8]])),
        ("a frame with a tail", message(&[&session[4..], &[0; 100]])),
        (
            "a password of 2 GiB",
            message(&[&session[4..20], &i32::MAX.to_be_bytes()]),
        ),
        ("HTTP", HTTP.to_vec()),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        ("0xff", vec![0xff; 5000]),
        ("zeros", vec![0; 5000]),
    ];
    at_once(lies, |what, lie| {
        is_found_out(
            what,
            vec![Say(lie.clone()), Keep],
            "does not speak ZooKeeper's protocol",
        );
        is_found_out(
            what,
            vec![Hear, Say(lie)],
            "does not speak ZooKeeper's protocol",
        );
    });
}

#[test]
fn a_new_session_that_is_already_expired_is_refused() {
    for (id, timeout) in [(0, TIMEOUT), (SESSION, Duration::ZERO), (0, Duration::ZERO)] {
        is_found_out(
            "expired",
            vec![Hear, Say(hello(id, timeout)), Keep],
            "reports a new session as expired",
        );
    }
}

#[test]
fn bytes_that_arrive_slowly_do_not_extend_the_timeout() {
    let pause = Duration::from_millis(50);
    is_found_out(
        "slow HTTP",
        vec![Dribble(HTTP.to_vec(), pause), Keep],
        "does not speak ZooKeeper's protocol",
    );
    is_found_out(
        "a slow session",
        vec![Hear, Dribble(hello(SESSION, TIMEOUT), pause), Keep],
        "no answer for",
    );
}

#[test]
fn malformed_data_after_a_valid_connect_response_is_reported_and_no_command_runs() {
    at_once(junk(), |what, junk| {
        is_found_out(
            what,
            vec![Hear, Say(hello(SESSION, TIMEOUT)), Say(junk), Keep],
            "does not speak ZooKeeper's protocol",
        );
    });
}

#[test]
fn an_unknown_error_is_a_refusal_with_its_number() {
    let replies = [
        hello(SESSION, TIMEOUT),
        reply(1, -4711, b""),
        reply(2, -4711, b""),
    ]
    .concat();
    let (sandbox, scripted) = (
        Sandbox::new(),
        ScriptedServer::start(vec![Hear, Say(replies), Keep]),
    );
    let run = sandbox
        .flock_at(&scripted.address, 2, &["-x", "17", "lock", "touch ran"])
        .run();
    run.complains(1, &[&sandbox.node("lock"), "ZooKeeper error -4711"]);
    assert!(!sandbox.path("ran").exists());
}

/// All that a server says to whom it gives a free lock.
fn lock_granted(node: &str, timeout: Duration) -> Vec<u8> {
    let stat = Stat {
        czxid: 7,
        mzxid: 7,
        ctime: 0,
        mtime: 0,
        version: 0,
        cversion: 0,
        aversion: 0,
        ephemeral_owner: SESSION,
        data_length: 0,
        num_children: 0,
        pzxid: 7,
    };
    let created = bytes(&CreateResponse { path: node.into() });
    let data = bytes(&GetDataResponse {
        data: Vec::new(),
        stat,
    });
    [
        hello(SESSION, timeout),
        reply(1, 0, &created),
        reply(2, 0, &data),
    ]
    .concat()
}

#[test]
fn malformed_data_while_the_lock_is_held_kills_the_command_in_time() {
    at_once(junk(), |what, junk| {
        let sandbox = Sandbox::new();
        let scripted = ScriptedServer::start(vec![
            Hear,
            Say(lock_granted(&sandbox.node("lock"), TIMEOUT)),
            Hear,
            Say(junk),
            Keep,
        ]);
        let run = sandbox
            .flock_at(&scripted.address, 2, &["lock", "sleep 1000"])
            .start();
        run.job();
        let started = Instant::now();
        let outcome = run.wait();
        assert!(
            started.elapsed() < 2 * TIMEOUT + LATE,
            "{what}: {:?}, of which one is for the release",
            started.elapsed()
        );
        assert!(sandbox.running("sleep 1000").is_empty(), "{what}");
        outcome.complains(1, &["lost", &sandbox.node("lock")]);
    });
}

#[test]
fn a_session_resumed_with_a_timeout_below_a_second_has_no_longer_lease() {
    const LONG: Duration = Duration::from_secs(10);
    const GRANTED: Duration = Duration::from_millis(900);
    let sandbox = Sandbox::new();
    let first = vec![Hear, Say(lock_granted(&sandbox.node("lock"), LONG)), Hear]; // hangs up at the first heartbeat
    let second = vec![Hear, Say(hello(SESSION, GRANTED)), Keep];
    let scripted = ScriptedServer::start_in_turn(vec![first, second, vec![Keep]]);
    let probe = Probe::of(&sandbox);
    let run = probe
        .job(
            sandbox.flock_at(&scripted.address, 10, &["--sysexits", "-l", "0", "lock"]),
            FOREVER,
        )
        .start();
    probe.wait_for(1);
    assert_eq!(run.wait().end, Ok(79), "{}", sandbox.log());
    let expires = scripted.accepted()[1] + GRANTED; // or later: it has not been asked for before it was accepted
    let dead = probe.all()[0].dead;
    assert!(
        dead < expires,
        "the job lived for {:?} after the end of its session",
        dead.saturating_sub(expires)
    );
    report(
        "session resumed for 900 ms: tree dead before its end by",
        format!("{:.2} s", expires.saturating_sub(dead).as_secs_f64()),
    );
}

#[test]
fn replies_that_were_not_requested_grant_nothing() {
    let session = hello(SESSION, TIMEOUT);
    let events: Vec<u8> = std::iter::repeat_n(
        reply(
            -1,
            0,
            &[&[0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 2][..], b"/x"].concat(),
        ),
        100,
    )
    .flatten()
    .collect();
    is_found_out(
        "a hundred events",
        vec![Hear, Say([session, events].concat()), Keep],
        "no answer for",
    );
}

/// Passes connections on to a server whose answers come byte by byte.
fn slow_link(server: String, pause: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(&server).expect("the server accepts");
            let [mut to_server, mut from_client] = [&server, &client]
                .map(|stream| stream.try_clone().expect("a socket can be cloned"));
            thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
            thread::spawn(move || {
                for byte in BufReader::new(server).bytes().map_while(Result::ok) {
                    thread::sleep(pause);
                    if (&client).write_all(&[byte]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn a_real_server_over_a_slow_link_works() {
    let sandbox = Sandbox::new();
    let address = slow_link(ZooKeeper::shared().address(), Duration::from_millis(10));
    let run = sandbox
        .flock_at(&address, 60, &["-l", "0", "lock", "echo mine"])
        .run();
    assert_eq!(run, exited(0).printing("mine\n"));
    assert!(
        sandbox
            .client(ZooKeeper::shared())
            .stat(&sandbox.node("lock"))
            .is_none()
    );
}

//! A memcached that is away, is frozen, forgets or lies: requests fail within a second, who waits
//! goes on waiting, nobody else is harmed, and nothing is given away twice but what memcached
//! itself has forgotten.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time and use threads; the program may not"
)]

use common::distributexd::{Connection, Distributexd};
use common::memcached::{Memcached, config_at};
use common::proxy::{From, Passage, Proxy};
use common::sandbox::Sandbox;
use common::scripted_server::Act::{Dribble, Hear, Keep, Say};
use common::scripted_server::{Act, ScriptedServer};
use common::{SECOND, let_last, process, report, summary, tries, wait_for, wait_until};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use zk_flock::internals::http::Reply;

const POOL: &str = "pools:\n- name: pool\n";

/// Within which time a request is answered: a second is promised, the rest is for a machine that is
/// busy with other things.
const ANSWERED: Duration = Duration::from_secs(3);

/// The most memory that a server may have, whatever its memcached says, in kB.
const MEMORY: usize = 40 << 10;

/// Asserts that a request fails, and how it says so; returns after which time.
#[track_caller]
fn fails(server: &Distributexd, call: &str, why: &str) -> Duration {
    let started = Instant::now();
    let reply = server.calls(call, "me", "pool").reply();
    let (took, body) = (started.elapsed(), String::from_utf8(reply.body).unwrap());
    assert!(
        reply.status == 503 && body.contains(why),
        "{call}: {} {body}",
        reply.status
    );
    assert!(took < ANSWERED, "{call}: {took:?}");
    took
}

/// Without memcached nothing is shown that may not be so any more.
fn status(server: &Distributexd) -> Reply {
    let mut connection = server.connect();
    connection.say("GET /status/ HTTP/1.1\r\n\r\n");
    connection.reply()
}

fn waiting(server: &Distributexd) -> usize {
    server.ask("/status/").matches("\"waiting\"").count()
}

/// Hosts that wait, in their order.
fn queue(server: &Distributexd, hosts: usize) -> Vec<Connection> {
    let queue = (1..=hosts).map(|number| {
        let connection = server.calls("wait", &format!("w{number}"), "pool");
        wait_until("it to wait", || waiting(server) == number);
        connection
    });
    queue.collect()
}

/// How often something is in what the server has said.
fn said(server: &Distributexd, what: &str) -> usize {
    server.stderr().matches(what).count()
}

#[test]
fn while_memcached_is_frozen_requests_fail_and_who_waits_is_served_afterwards() {
    let sandbox = Sandbox::new();
    let [memcached, other] = [(); 2].map(|()| Memcached::start(&sandbox));
    let server = Distributexd::start(&sandbox, &(memcached.config() + POOL));
    let neighbour = Distributexd::start(&sandbox, &(other.config() + POOL));
    assert_eq!(server.call("get", "holder", "pool"), "YES");
    let mut queue = queue(&server, 10);
    memcached.freeze();
    let (frozen, mut took) = (Instant::now(), Vec::new());
    while frozen.elapsed() < 5 * SECOND {
        took.extend(
            ["get", "renew", "release"]
                .map(|call| fails(&server, call, "memcached does not answer")),
        );
        let started = Instant::now();
        assert_eq!(status(&server).status, 503);
        let metrics = server.ask("/metrics");
        assert!(
            metrics.contains("\ndistributexd_backend_up 0\n") && !metrics.contains("{pool="),
            "{metrics}"
        );
        assert_eq!(server.call("get", "me", "nowhere"), "INVALID");
        assert_eq!(
            (
                neighbour.call("get", "me", "pool"),
                neighbour.call("release", "me", "pool")
            ),
            ("YES".into(), "OK".into())
        );
        assert!(started.elapsed() < 2 * ANSWERED, "{:?}", started.elapsed());
    }
    report(
        "distributexd: requests while memcached is frozen fail after",
        summary(took),
    );
    memcached.thaw();
    assert!(queue.iter_mut().all(Connection::is_silent));
    let mut holder = "holder".to_owned();
    for (number, mut next) in (1..).zip(queue) {
        wait_until("a release", || {
            server.calls("release", &holder, "pool").reply().status == 200
        });
        assert_eq!(next.hear(), "YES", "w{number}");
        holder = format!("w{number}");
    }
}

#[test]
fn a_server_that_is_started_without_memcached_waits_for_it_in_peace() {
    let sandbox = Sandbox::new();
    let mut memcached = Memcached::absent(&sandbox);
    let server = Distributexd::start(&sandbox, &(memcached.config() + POOL));
    let refused = format!(
        "cannot ask memcached at {}: connection refused",
        memcached.address()
    );
    fails(&server, "get", &refused);
    let mut next = server.calls("wait", "w1", "pool");
    let (started, before) = (Instant::now(), process::cpu(server.pid()).unwrap());
    let_last(2 * SECOND);
    let spent = process::cpu(server.pid()).unwrap().saturating_sub(before);
    assert!(spent < started.elapsed() / 20, "{spent:?}");
    report(
        "distributexd: processor time without a memcached for 2 s",
        format!("{} ms", spent.as_millis()),
    );
    assert_eq!(
        (said(&server, " ERROR "), said(&server, &refused)),
        (1, 2),
        "{}",
        server.stderr()
    );
    memcached.start_again();
    assert_eq!(next.hear(), "YES");
    assert_eq!(
        said(
            &server,
            &format!(
                " WARNING memcached at {} answers again, after ",
                memcached.address()
            )
        ),
        1
    );
    memcached.kill();
    fails(
        &server,
        "release",
        &format!("cannot ask memcached at {}", memcached.address()),
    );
    memcached.start_again();
    wait_until("an answer", || {
        server.calls("release", "w1", "pool").reply().status == 200
    });
}

#[test]
fn a_memcached_whose_name_has_no_address_is_told_at_once() {
    let sandbox = Sandbox::new();
    fs::write(
        sandbox.path("config"),
        "backend: memcache\nmemcachehost: no..name\npools:\n- name: pool\n",
    )
    .unwrap();
    for (option, code) in [("-v", 1), ("--sysexits", 69)] {
        let outcome = sandbox
            .program(&["--program=distributexd", "-c", "config", "-p", "0", option])
            .run();
        assert_eq!(outcome.end, Ok(code), "{}", outcome.stderr);
        outcome.complaint_of(
            "distributexd",
            &["cannot reach memcached: no..name:11211: "],
        );
    }
}

/// What no memcached says, each with a name and with how the server calls it.
fn lies() -> Vec<(&'static str, Vec<Act>, &'static str)> {
    let reply = "its reply is not one of memcached";
    let value = "VALUE pool:lockedby 0 1048576 7\r\n";
    vec![
        (
            "HTTP",
            vec![
                Hear,
                Say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec()),
            ],
            reply,
        ),
        (
            "0xff",
            vec![Hear, Say(vec![0xff; 5000])],
            "a line of its reply is too long",
        ),
        (
            "zeros",
            vec![Hear, Say(vec![0; 64 << 20])],
            "a line of its reply is too long",
        ),
        ("lines", vec![Hear, Say(b"\r\n".repeat(5000))], reply),
        (
            "slow words",
            vec![
                Dribble(
                    b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
                    Duration::from_millis(20),
                ),
                Keep,
            ],
            reply,
        ),
        (
            "2^64 bytes",
            vec![
                Hear,
                Say(b"VALUE pool:lockedby 0 18446744073709551615 7\r\n".to_vec()),
            ],
            "more than 1 MiB",
        ),
        (
            "-5 bytes",
            vec![Hear, Say(b"VALUE pool:lockedby 0 -5 7\r\n".to_vec())],
            reply,
        ),
        (
            "more than it says",
            vec![
                Hear,
                Say(b"VALUE pool:lockedby 0 1 7\r\nabcdef\r\nEND\r\n".to_vec()),
            ],
            "does not end where it says",
        ),
        (
            "1 MiB and more",
            vec![
                Hear,
                Say(format!("{value}{}", "a,".repeat(32 << 20)).into_bytes()),
            ],
            "does not end where it says",
        ),
        (
            "half a reply",
            vec![Hear, Say(b"VALUE pool:lockedby 0 5 7\r\nab".to_vec())],
            "it closed the connection",
        ),
        ("no reply", vec![Hear], "it closed the connection"),
        (
            "STORED",
            vec![Hear, Say(b"STORED\r\n".to_vec()), Keep],
            "its reply does not match the request",
        ),
        (
            "many replies",
            vec![Hear, Say(b"END\r\n".repeat(100_000)), Keep],
            "its reply does not match the request",
        ),
        (
            "numbers",
            vec![
                Hear,
                Say(b"END\r\n".to_vec()),
                Hear,
                Say(b"7\r\n".repeat(9)),
                Keep,
            ],
            "its reply does not match the request",
        ),
    ]
}

#[test]
fn a_memcached_that_lies_is_left_and_named_once() {
    thread::scope(|scope| {
        lies().into_iter().for_each(|(what, script, why)| {
            scope.spawn(move || {
                let (sandbox, scripted) = (Sandbox::new(), ScriptedServer::start(script));
                let server = Distributexd::start(&sandbox, &(config_at(&scripted.address) + POOL));
                let _waits = server.calls("wait", "w", "pool");
                let line = format!(" ERROR cannot ask memcached at {}: ", scripted.address);
                let told = wait_for(what, || {
                    server
                        .stderr()
                        .lines()
                        .find(|line_told| line_told.contains(&line))
                        .map(str::to_owned)
                });
                assert!(told.contains(why), "{what}: {told}");
                fails(&server, "get", "memcached");
                let before = scripted.connections();
                let_last(4 * SECOND);
                assert!(
                    (1..=5).contains(&(scripted.connections() - before)),
                    "{what}: {} times more",
                    scripted.connections() - before
                );
                assert!(server.memory() < MEMORY, "{what}: {} kB", server.memory());
            });
        });
    });
}

#[test]
fn a_connection_that_breaks_at_any_byte_costs_nobody_the_lock_and_gives_it_to_nobody_twice() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let pools: String = (0..10)
        .map(|number| format!("- name: p{number}\n"))
        .collect();
    let sound = Distributexd::start(&sandbox, &format!("{}pools:\n{pools}", memcached.config()));
    thread::scope(|scope| {
        for number in 0..10 {
            let (sandbox, memcached, sound) = (&sandbox, &memcached, &sound);
            scope.spawn(move || {
                let pool = format!("p{number}");
                let proxy = Proxy::start(memcached.address());
                let broken = Distributexd::start(
                    sandbox,
                    &format!("{}pools:\n- name: {pool}\n", config_at(&proxy.address)),
                );
                let until_done = |call: &str| {
                    wait_for(call, || {
                        Some(broken.calls(call, "a", &pool).reply())
                            .filter(|reply| reply.status == 200)
                    })
                    .body
                };
                for (side, bytes) in (number..300)
                    .step_by(30)
                    .flat_map(|bytes| [(From::Client, bytes), (From::Server, bytes)])
                {
                    proxy.set(side, Passage::Cut(bytes));
                    assert_eq!(until_done("get"), b"YES", "{side:?} {bytes}");
                    assert_eq!(sound.call("get", "b", &pool), "NO", "{side:?} {bytes}");
                    assert_eq!(until_done("release"), b"OK", "{side:?} {bytes}");
                    assert_eq!(sound.call("get", "b", &pool), "YES", "{side:?} {bytes}");
                    assert_eq!(sound.call("release", "b", &pool), "OK");
                }
                assert!(proxy.cuts() > 3, "{}", proxy.cuts());
            });
        }
    });
}

#[test]
fn a_list_as_long_as_memcached_has_them_is_read() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let server = Distributexd::start(&sandbox, &(memcached.config() + POOL));
    let hosts: Vec<_> = (0..150_000).map(|number| number.to_string()).collect();
    memcached.set("pool:lockedby", &hosts.join(","));
    for (call, host, answer) in [
        ("get", "me", "NO"),
        ("get", "149999", "YES"),
        ("release", "0", "OK"),
    ] {
        assert_eq!(server.call(call, host, "pool"), answer, "{call} {host}");
    }
    report(
        "distributexd: memory with a list of 150,000 hosts in memcached",
        format!("{} kB", server.memory()),
    );
    assert!(server.memory() < 3 * MEMORY, "{} kB", server.memory());
}

/// A host had the pool: when it asked and was told, and when it began to let go.
#[derive(Clone, Copy, Debug)]
struct Holding {
    host: usize,
    token: i64,
    asked: Instant,
    told: Instant,
    let_go: Instant,
}

/// How long a host works with the pool, and how long the first does: longer than a memcached takes
/// to start.
const WORK: Duration = Duration::from_millis(2);
const LONG_WORK: Duration = Duration::from_millis(500);

/// Takes and gives back the pool until `over`; whatever fails is tried again.
fn work(server: &Distributexd, host: usize, over: &AtomicBool) -> Vec<Holding> {
    let name = format!("h{host}");
    let mut holdings = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let reply = server.calls("get", &name, "pool").reply();
        let told = Instant::now();
        let holds = reply.body == b"YES";
        thread::sleep(if holds && host == 0 { LONG_WORK } else { WORK });
        if !holds {
            continue;
        }
        let token = reply.header("X-Lock-Token").unwrap().parse().unwrap();
        holdings.push(Holding {
            host,
            token,
            asked,
            told,
            let_go: Instant::now(),
        });
        while server.calls("release", &name, "pool").reply().body != b"OK" {}
    }
    holdings
}

#[test]
fn a_memcached_that_is_killed_under_load_gives_away_twice_only_what_it_forgot() {
    let sandbox = Sandbox::new();
    let mut memcached = Memcached::start(&sandbox);
    let servers = [(); 2].map(|()| {
        Distributexd::start(
            &sandbox,
            &format!("{}{POOL}  expire: 0\n", memcached.config()),
        )
    });
    let (over, mut kills) = (AtomicBool::new(false), Vec::new());
    let mut holdings = thread::scope(|scope| {
        let (over, servers) = (&over, &servers);
        let hosts: Vec<_> = (0..8)
            .map(|host| scope.spawn(move || work(&servers[host % 2], host, over)))
            .collect();
        for round in 0..tries(5) {
            let_last(Duration::from_millis(
                300 + 37 * u64::try_from(round % 10).unwrap(),
            ));
            kills.push(Instant::now());
            memcached.kill();
            memcached.start_again();
        }
        let_last(SECOND);
        over.store(true, Ordering::Relaxed);
        hosts
            .into_iter()
            .flat_map(|host| host.join().expect("it works to its end"))
            .collect::<Vec<_>>()
    });
    holdings.sort_unstable_by_key(|holding| holding.told);
    let mut explained = 0;
    for (index, later) in holdings.iter().enumerate() {
        for earlier in &holdings[..index] {
            if later.told < earlier.let_go && later.host != earlier.host {
                assert!(
                    kills
                        .iter()
                        .any(|kill| (earlier.asked..later.told).contains(kill)),
                    "{earlier:?} {later:?}"
                );
                explained += 1;
            } else if earlier.let_go < later.asked {
                assert!(earlier.token < later.token, "{earlier:?} {later:?}");
            }
        }
    }
    assert!(holdings.len() > 10 * kills.len(), "{}", holdings.len());
    let story = format!(
        "{} restarts, {} holdings, {explained} at a time with another",
        kills.len(),
        holdings.len()
    );
    report("distributexd: memcached killed under load", story);
}

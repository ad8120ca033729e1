//! Lock servers that share a memcached: what they write there is what the original writes, and
//! together they give nothing away twice.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::distributexd::{Connection, Distributexd};
use common::memcached::Memcached;
use common::sandbox::Sandbox;
use common::{SECOND, let_last, report, summary, tries, wait_until};
use std::time::{Duration, Instant};
use zk_flock::internals::http::Reply;

const POOL: &str = "pools:\n- name: pool\n";

/// So many hosts ask at one moment.
const HOSTS: usize = 20;

/// From one look at memcached, of a server that somebody waits at, to the next.
const LOOK: Duration = Duration::from_millis(250);

/// So many keys it asks for at once: the list, the leases, and the list again.
const KEYS_OF_A_LOOK: u64 = 3;

/// How long a lock may take from one server to another: 0.3 s are promised, the rest is for a
/// machine that is busy with other things.
const HANDED_OVER: Duration = Duration::from_millis(1500);

/// Two servers on one memcached.
fn pair<'a>(sandbox: &'a Sandbox, memcached: &Memcached, pools: &str) -> [Distributexd<'a>; 2] {
    [(); 2].map(|()| Distributexd::start(sandbox, &(memcached.config() + pools)))
}

/// The token of a YES, and for how many seconds that is, if not for ever.
#[track_caller]
fn granted(reply: &Reply) -> (i64, Option<f64>) {
    assert_eq!(
        (reply.status, reply.body.as_slice()),
        (200, &b"YES"[..]),
        "{reply:?}"
    );
    let token = reply
        .header("X-Lock-Token")
        .and_then(|token| token.parse().ok());
    (
        token.expect("a YES has a token"),
        reply
            .header("X-Lock-Expires")
            .and_then(|left| left.parse().ok()),
    )
}

/// Waits at a server, once that knows.
fn waiter(server: &Distributexd, host: &str) -> Connection {
    let connection = server.calls("wait", host, "pool");
    wait_until(&format!("{host} to wait"), || {
        server
            .ask("/status/")
            .contains(&format!("{{\"host\":\"{host}\",\"waiting\""))
    });
    connection
}

#[test]
fn rules_of_a_pool_hold_by_each_of_its_names() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let pools = "pools:\n- name: r&amp;d\n  networks: 10.0.0.0/8\n";
    let [server, _] = pair(&sandbox, &memcached, pools);
    for pool in ["r&d", "r&amp;d"] {
        let reply = server.calls("get", "a", pool).reply();
        let why = reply.header("X-Lock-Error");
        assert_eq!((reply.status, why), (403, Some("network not allowed")));
    }
    assert!(memcached.value("r&amp;d:lockedby").is_none());
}

#[test]
fn what_stands_in_memcached_is_what_the_original_writes() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let pools = "pools:\n- name: day\n  maxlocks: 3\n- name: ever\n  expire: 0\n- name: year\n  expire: 31536000\n- name: r&amp;d\n";
    let [one, two] = pair(&sandbox, &memcached, pools);
    for (server, host) in [(&one, "a.example.org"), (&two, "b"), (&one, "<r&d>")] {
        assert_eq!(server.call("get", host, "day"), "YES");
    }
    assert_eq!(two.call("get", "d", "day"), "NO");
    assert_eq!(
        memcached.value("day:lockedby").unwrap(),
        "a.example.org,b,&lt;r&amp;d&gt;"
    );
    assert!(
        memcached
            .value("day:token")
            .unwrap()
            .parse::<u64>()
            .is_ok_and(|token| token > 1_500_000_000_000_000)
    );
    // A second more than the lease: memcached may end it up to a second early.
    let is_about = |key, seconds: u64| {
        let left = memcached.expires(key).expect("it expires").as_secs();
        assert!((seconds - 20..=seconds).contains(&left), "{key}: {left}");
    };
    is_about("day:lockedby", 1801);
    let leases = memcached.value("day:leases").unwrap();
    let hosts: Vec<_> = leases
        .lines()
        .map(|line| line.split(',').next().unwrap())
        .collect();
    assert_eq!(
        hosts,
        ["1", "&lt;r&amp;d&gt;", "a.example.org", "b"],
        "{leases}"
    );
    assert_eq!(memcached.expires("day:leases"), None);
    assert_eq!(one.call("get", "a", "ever"), "YES");
    assert_eq!(
        (
            memcached.expires("ever:lockedby"),
            memcached.expires("ever:token")
        ),
        (None, None)
    );
    assert_eq!(one.call("get", "a", "year"), "YES");
    // That is told as a date, and memcached's clock may be a second behind.
    is_about("year:lockedby", 31_536_002);
    assert_eq!(one.call("get", "a", "r&d"), "YES");
    assert_eq!(memcached.value("r&amp;d:lockedby").unwrap(), "a");
    assert_eq!(two.call("release", "a", "ever"), "OK");
    assert_eq!(memcached.value("ever:lockedby").unwrap(), "");
    wait_until("its lease to be dropped", || {
        memcached.value("ever:leases").unwrap() == "1"
    });
}

#[test]
fn what_the_original_writes_is_understood() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let server = Distributexd::start(
        &sandbox,
        &format!("{}{POOL}  maxlocks: 2\n", memcached.config()),
    );
    memcached.set("pool:lockedby", "a,r&amp;d");
    for (call, host, answer) in [
        ("get", "c", "NO"),
        ("get", "a", "YES"),
        ("get", "r&d", "YES"),
        ("release", "a", "OK"),
        ("get", "c", "YES"),
    ] {
        assert_eq!(server.call(call, host, "pool"), answer, "{call} {host}");
    }
    assert_eq!(memcached.value("pool:lockedby").unwrap(), "r&amp;d,c");
    memcached.set("pool:lockedby", "");
    assert_eq!(server.call("get", "d", "pool"), "YES");
    assert_eq!(server.call("wait", "e", "pool"), "YES");
    let mut next = waiter(&server, "f");
    memcached.set("pool:lockedby", "e");
    assert_eq!(next.hear(), "YES");
}

/// As many hosts as there are ask both servers for the pool at one moment, again and again; each
/// time so many get it.
#[track_caller]
fn assert_no_more_get_it(permits: usize) {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let servers = pair(
        &sandbox,
        &memcached,
        &format!("{POOL}  maxlocks: {permits}\n"),
    );
    let mut hosts: Vec<_> = (0..HOSTS).map(|host| servers[host % 2].connect()).collect();
    let mut last = 0;
    for round in 0..tries(20) {
        let asks: Vec<_> = (0..HOSTS)
            .map(|host| format!("GET /get/?host=h{host}&pool=pool HTTP/1.1\r\n\r\n"))
            .collect();
        hosts
            .iter_mut()
            .zip(&asks)
            .for_each(|(connection, ask)| connection.say(ask));
        let replies: Vec<_> = hosts.iter_mut().map(Connection::reply).collect();
        let holders: Vec<_> = (0..HOSTS)
            .filter(|&host| replies[host].body == b"YES")
            .collect();
        assert_eq!(holders.len(), permits, "round {round}: {holders:?}");
        assert!(
            replies.iter().all(|reply| reply.status == 200),
            "{replies:?}"
        );
        let mut tokens: Vec<_> = holders
            .iter()
            .map(|&host| granted(&replies[host]).0)
            .collect();
        tokens.sort_unstable();
        tokens.dedup();
        assert!(
            tokens.len() == permits && tokens[0] > last,
            "round {round}: {tokens:?} after {last}"
        );
        last = tokens[permits - 1];
        for host in holders {
            assert_eq!(
                servers[(host + round) % 2].call("release", &format!("h{host}"), "pool"),
                "OK"
            );
        }
    }
}

#[test]
fn of_twenty_hosts_that_ask_two_servers_at_one_moment_one_gets_it() {
    assert_no_more_get_it(1);
}

#[test]
fn of_twenty_hosts_that_ask_two_servers_at_one_moment_three_get_a_semaphore() {
    assert_no_more_get_it(3);
}

#[test]
fn a_release_on_one_server_wakes_who_waits_at_the_other() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let servers = pair(&sandbox, &memcached, POOL);
    let (mut token, _) = granted(&servers[0].calls("get", "h0", "pool").reply());
    let mut times = Vec::new();
    for turn in 1..=tries(10) {
        let (holder, host) = (format!("h{}", turn - 1), format!("h{turn}"));
        let mut next = waiter(&servers[turn % 2], &host);
        let started = Instant::now();
        assert_eq!(
            servers[(turn - 1) % 2].call("release", &holder, "pool"),
            "OK"
        );
        let (later, _) = granted(&next.reply());
        times.push(started.elapsed());
        assert_eq!(later, token + 1, "turn {turn}");
        assert!(
            started.elapsed() < HANDED_OVER,
            "turn {turn}: {:?}",
            started.elapsed()
        );
        token = later;
    }
    report(
        "distributexd: from a host at one server to one at another, by memcached",
        summary(times),
    );
}

#[test]
fn however_many_wait_memcached_is_asked_four_times_a_second() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let server = Distributexd::start(
        &sandbox,
        &format!("{}{POOL}- name: other\n", memcached.config()),
    );
    assert_eq!(server.call("get", "holder", "pool"), "YES");
    let mut waiting = Vec::new();
    for waiters in [1, 100] {
        (waiting.len()..waiters)
            .for_each(|number| waiting.push(waiter(&server, &format!("w{number}"))));
        let (started, before) = (Instant::now(), memcached.figure("cmd_get"));
        let_last(3 * SECOND);
        let asked = (memcached.figure("cmd_get") - before) / KEYS_OF_A_LOOK;
        let looks = started.elapsed().as_secs_f64() / LOOK.as_secs_f64();
        report(
            &format!("distributexd: times that memcached is asked in 3 s for {waiters} who wait"),
            asked,
        );
        assert!(
            (1.0..=looks + 1.0).contains(&f64::from(u32::try_from(asked).unwrap())),
            "{asked} in {looks:.1} quarters of a second"
        );
    }
    drop(waiting);
    wait_until("them to be gone", || {
        !server.ask("/status/").contains("waiting")
    });
    let before = memcached.figure("cmd_get");
    let_last(SECOND);
    assert_eq!(memcached.figure("cmd_get"), before, "nobody waits");
}

#[test]
fn a_lock_that_memcached_forgets_in_time_is_given_to_who_waits_and_one_that_is_renewed_is_not() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let [one, two] = pair(&sandbox, &memcached, &format!("{POOL}  expire: 4\n"));
    let (token, left) = granted(&one.calls("get", "a", "pool").reply());
    assert!(
        left.is_some_and(|left| left <= 3.0),
        "{left:?}: memcached's seconds may be short"
    );
    let mut next = waiter(&two, "b");
    for _ in 0..5 {
        let_last(SECOND);
        assert!(next.is_silent());
        assert_eq!(granted(&one.calls("renew", "a", "pool").reply()).0, token);
    }
    let renewed = Instant::now();
    assert!(granted(&next.reply()).0 > token);
    assert!(renewed.elapsed() > 3 * SECOND, "{:?}", renewed.elapsed());
    assert_eq!(one.call("renew", "a", "pool"), "NO");
    assert_eq!(
        one.ask(&format!("/release/?host=a&pool=pool&token={token}")),
        "OK"
    );
    assert_eq!(memcached.value("pool:lockedby").unwrap(), "b");
}

#[test]
fn what_a_host_without_power_is_given_is_taken_back_and_given_to_the_next() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let [one, two] = pair(&sandbox, &memcached, POOL);
    assert_eq!(one.call("get", "first", "pool"), "YES");
    let dark = waiter(&one, "dark");
    dark.power_off();
    assert_eq!(one.call("release", "first", "pool"), "OK");
    wait_until("it to be given away", || {
        memcached
            .value("pool:lockedby")
            .is_some_and(|hosts| hosts == "dark")
    });
    assert_eq!(waiter(&two, "next").hear(), "YES");
    assert_eq!(memcached.value("pool:lockedby").unwrap(), "next");
    assert!(
        one.stderr().contains("taken back pool=pool host=dark "),
        "{}",
        one.stderr()
    );
}

#[test]
fn hup_changes_the_pools_and_after_term_the_holders_are_still_known() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let mut server = Distributexd::start(&sandbox, &(memcached.config() + POOL));
    let holders = format!("holders kept in memcached at {}, ", memcached.address());
    assert!(server.stderr().contains(&holders), "{}", server.stderr());
    assert_eq!(server.call("get", "a", "pool"), "YES");
    let [mut second, mut third] = ["b", "c"].map(|host| waiter(&server, host));
    server.configure(&format!(
        "{}{POOL}  maxlocks: 2\n- name: new\n",
        memcached.config()
    ));
    server.signal(libc::SIGHUP);
    assert_eq!(second.hear(), "YES");
    assert_eq!(server.call("get", "a", "new"), "YES");
    server.configure(&format!("{POOL}  maxlocks: 2\n"));
    server.signal(libc::SIGHUP);
    wait_until("a warning", || {
        server
            .stderr()
            .contains("\"backend\" has changed: restart the server to apply it")
    });
    server.configure(&format!("{}{POOL}  maxlocks: 2\n", memcached.config()));
    assert_eq!(server.stop().end, Ok(0));
    assert_eq!(third.reply().status, 503);
    server.start_again();
    for (host, answer) in [("c", "NO"), ("a", "YES"), ("b", "YES")] {
        assert_eq!(server.call("get", host, "pool"), answer, "{host}");
    }
}

/// What a client says and hears that has a run id.
fn call_of_run(server: &Distributexd, call: &str, host: &str, run: &str) -> Reply {
    let mut connection = server.connect();
    connection.say(&format!(
        "GET /{call}/?host={host}&pool=pool&run={run} HTTP/1.1\r\n\r\n"
    ));
    connection.reply()
}

/// What an operator says and hears who takes a lock away.
fn revoke(server: &Distributexd, host: &str) -> Reply {
    let mut connection = server.connect();
    connection.say(&format!(
        "POST /revoke/?host={host}&pool=pool HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
    ));
    connection.reply()
}

fn body(reply: Reply) -> String {
    String::from_utf8(reply.body).expect("answers are text")
}

#[test]
fn a_longer_expire_is_told_only_once_memcached_keeps_the_list_for_it() {
    for (expire, least) in [(600, Some(560.0)), (0, None)] {
        let sandbox = Sandbox::new();
        let memcached = Memcached::start(&sandbox);
        let [one, two] = pair(&sandbox, &memcached, &format!("{POOL}  expire: 3\n"));
        assert!(
            granted(&one.calls("get", "a", "pool").reply())
                .1
                .is_some_and(|left| left <= 2.0)
        );
        one.configure(&format!("{}{POOL}  expire: {expire}\n", memcached.config()));
        one.signal(libc::SIGHUP);
        wait_until("the new lease", || {
            match (granted(&one.calls("get", "a", "pool").reply()).1, least) {
                (told, None) => told.is_none(),
                (told, Some(least)) => told.is_some_and(|told| told > least),
            }
        });
        let_last(5 * SECOND);
        assert_eq!(
            (
                two.call("get", "b", "pool"),
                memcached.value("pool:lockedby").as_deref()
            ),
            ("NO".into(), Some("a"))
        );
        let left = memcached.expires("pool:lockedby");
        assert!(
            left.is_none_or(|left| left > 560 * SECOND) && left.is_none() == least.is_none(),
            "{left:?}"
        );
    }
}

#[test]
fn a_shorter_expire_of_either_server_shortens_no_lease_that_was_told() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let pools = |expire| {
        format!(
            "{}{POOL}  maxlocks: 2\n  expire: {expire}\n",
            memcached.config()
        )
    };
    let mut servers = [600, 2].map(|expire| Distributexd::start(&sandbox, &pools(expire)));
    assert!(
        granted(&servers[0].calls("get", "a", "pool").reply())
            .1
            .is_some_and(|told| told > 560.0)
    );
    let b = granted(&servers[1].calls("get", "b", "pool").reply());
    assert!(b.1.is_some_and(|told| told <= 1.0), "{b:?}");
    servers[0].configure(&pools(2));
    servers[0].signal(libc::SIGHUP);
    wait_until("it to be read", || {
        servers[0].ask("/status/").contains("\"expire\":2.000")
    });
    servers[1].kill();
    servers[1].start_again();
    for server in &servers {
        assert_eq!(server.call("renew", "b", "pool"), "YES");
        let left = memcached
            .expires("pool:lockedby")
            .expect("it ends some time");
        assert!(left > 560 * SECOND, "{left:?}");
        let_last(3 * SECOND);
        assert_eq!(server.call("get", "c", "pool"), "NO");
    }
    assert!(
        granted(&servers[1].calls("get", "a", "pool").reply())
            .1
            .is_some_and(|told| told > 560.0)
    );
}

#[test]
fn the_shortest_lease_is_kept_as_long_as_it_was_told() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let [one, two] = pair(&sandbox, &memcached, &format!("{POOL}  expire: 1\n"));
    let mut gaps = Vec::new();
    for turn in 0..tries(8) {
        wait_until("the pool to be free", || {
            memcached
                .value("pool:lockedby")
                .is_none_or(|hosts| hosts.is_empty())
        });
        let (_, told) = granted(&one.calls("get", &format!("c{turn}"), "pool").reply());
        let told_until = Instant::now() + Duration::from_secs_f64(told.expect("it ends"));
        granted(&two.calls("wait", &format!("d{turn}"), "pool").reply());
        assert!(Instant::now() > told_until, "turn {turn}");
        gaps.push(told_until.elapsed());
        assert_eq!(two.call("release", &format!("d{turn}"), "pool"), "OK");
    }
    report(
        "distributexd: from the end of a lease of 1 s, as told, to the next holder, by memcached",
        summary(gaps),
    );
}

#[test]
fn a_token_releases_its_own_holding_and_no_other_at_either_server_and_after_a_restart() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let mut servers = pair(&sandbox, &memcached, &format!("{POOL}  maxlocks: 2\n"));
    let release = |server: &Distributexd, host: &str, token: i64| {
        assert_eq!(
            server.ask(&format!("/release/?host={host}&pool=pool&token={token}")),
            "OK"
        );
    };
    let old = granted(&servers[0].calls("get", "a", "pool").reply()).0;
    release(&servers[1], "a", old);
    let [a, b] = ["a", "b"].map(|host| granted(&servers[0].calls("get", host, "pool").reply()).0);
    assert!(old < a && a < b, "{old} {a} {b}");
    let wrong = [old, a + 1, a - 1, b, i64::MAX, 0, -1];
    for again in [false, true] {
        if again {
            servers.iter_mut().for_each(Distributexd::kill);
            servers.iter_mut().for_each(Distributexd::start_again);
        }
        for server in &servers {
            wrong
                .into_iter()
                .for_each(|token| release(server, "a", token));
            assert_eq!(memcached.value("pool:lockedby").unwrap(), "a,b");
            assert_eq!(granted(&server.calls("get", "a", "pool").reply()).0, a);
            assert_eq!(granted(&server.calls("get", "b", "pool").reply()).0, b);
        }
    }
    release(&servers[1], "a", a);
    assert_eq!(memcached.value("pool:lockedby").unwrap(), "b");
}

#[test]
fn one_run_of_a_host_holds_the_pool_whichever_server_it_asks() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let [one, two] = pair(&sandbox, &memcached, &format!("{POOL}  maxlocks: 2\n"));
    let (token, _) = granted(&call_of_run(&one, "get", "a", "r1"));
    assert_eq!(granted(&call_of_run(&two, "renew", "a", "r1")).0, token);
    for server in [&one, &two] {
        assert_eq!(body(call_of_run(server, "get", "a", "r2")), "NO");
        assert_eq!(server.call("get", "a", "pool"), "NO");
        assert_eq!(body(call_of_run(server, "release", "a", "r2")), "OK");
    }
    let mut next = two.connect();
    next.say("GET /wait/?host=a&pool=pool&run=r2 HTTP/1.1\r\n\r\n");
    wait_until("it to wait", || {
        two.ask("/status/").contains("\"run\":\"r2\",\"waiting\"")
    });
    assert_eq!(one.call("get", "b", "pool"), "YES");
    assert!(next.is_silent());
    assert_eq!(body(call_of_run(&one, "release", "a", "r1")), "OK");
    assert!(granted(&next.reply()).0 > token);
    assert_eq!(body(call_of_run(&one, "get", "a", "r1")), "NO");
}

#[test]
fn a_lock_that_is_revoked_at_one_server_is_confirmed_at_neither() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let [one, two] = pair(&sandbox, &memcached, POOL);
    assert_eq!(revoke(&two, "a").status, 404);
    let (token, _) = granted(&call_of_run(&one, "get", "a", "r"));
    let mut next = waiter(&one, "b");
    let revoked = revoke(&two, "a");
    assert_eq!(
        (revoked.status, revoked.header("X-Lock-Token")),
        (200, Some(token.to_string().as_str())),
        "{revoked:?}"
    );
    let said = body(revoked);
    assert!(
        said.contains("at most 1800")
            || said.contains("at most 1801")
            || said.contains("at most 17"),
        "{said}"
    );
    for server in [&one, &two] {
        for call in ["get", "renew", "wait"] {
            let reply = call_of_run(server, call, "a", "r");
            assert_eq!(
                (reply.header("X-Lock-Revoked"), reply.body.as_slice()),
                (Some("1"), &b"NO"[..]),
                "{call}"
            );
        }
        assert!(server.ask("/status/").contains("\"revoked\":true"));
    }
    assert!(next.is_silent());
    assert_eq!(
        two.ask(&format!("/release/?host=a&pool=pool&run=r&token={token}")),
        "OK"
    );
    assert!(granted(&next.reply()).0 > token);
}

/// What `/status/` says of the holders, without how old it is and for how long, by the second.
fn holders(server: &Distributexd) -> Vec<serde_json::Value> {
    let status: serde_json::Value =
        serde_json::from_str(&server.ask("/status/")).expect("it is JSON");
    status["pools"][0]["holders"]
        .as_array()
        .expect("it is a list")
        .clone()
}

#[test]
fn both_servers_show_the_same_holders_and_none_that_they_do_not_know_of() {
    let sandbox = Sandbox::new();
    let mut memcached = Memcached::start(&sandbox);
    let servers = pair(&sandbox, &memcached, &format!("{POOL}  maxlocks: 9\n"));
    granted(&call_of_run(&servers[0], "get", "a", "r"));
    granted(&servers[1].calls("get", "b", "pool").reply());
    let with_the_originals = format!("{},x", memcached.value("pool:lockedby").unwrap());
    memcached.set("pool:lockedby", &with_the_originals);
    let_last(SECOND);
    let [one, two] = [0, 1].map(|server| holders(&servers[server]));
    let named: Vec<_> = one
        .iter()
        .map(|holder| holder["host"].as_str().unwrap())
        .collect();
    assert_eq!(named, ["a", "b", "x"]);
    for (one, two) in one.iter().zip(&two) {
        for key in ["host", "run", "token", "expires", "revoked"] {
            assert_eq!(one.get(key), two.get(key), "{key}: {one} {two}");
        }
        let [one, two] = [one, two].map(|holder| holder["held"].as_f64());
        assert!(
            one.zip(two)
                .is_none_or(|(one, two)| (one - two).abs() < 5.0),
            "{one:?} {two:?}"
        );
    }
    assert_eq!(
        (&one[0]["run"], &one[2]["token"], &one[2]["held"]),
        (
            &"r".into(),
            &serde_json::Value::Null,
            &serde_json::Value::Null
        )
    );
    assert!(servers.iter().all(|server| {
        server
            .ask("/metrics")
            .contains("\ndistributexd_holders{pool=\"pool\"} 3\n")
    }));
    memcached.kill();
    for server in &servers {
        let mut connection = server.connect();
        connection.say("GET /status/ HTTP/1.1\r\n\r\n");
        assert_eq!(connection.reply().status, 503);
        let metrics = server.ask("/metrics");
        assert!(
            metrics.contains("\ndistributexd_backend_up 0\n") && !metrics.contains("{pool="),
            "{metrics}"
        );
    }
    memcached.start_again();
    wait_until("it to be seen", || {
        servers.iter().all(|server| {
            server
                .ask("/metrics")
                .contains("\ndistributexd_backend_up 1\n")
        })
    });
    assert!(servers.iter().all(|server| holders(server).is_empty()));
}

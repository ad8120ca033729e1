//! Lock servers that share a memcached: what they write there is what the original writes, and together they give nothing away twice.

#![allow(clippy::disallowed_methods, reason = "a test may take the time; the program asks sys::clock")]

mod common;

use common::distributexd::{Connection, Distributexd};
use common::memcached::Memcached;
use common::sandbox::Sandbox;
use common::{SECOND, let_last, report, summary, tries, wait_until};
use std::time::{Duration, Instant};
use zk_flock::http::Reply;

const POOL: &str = "pools:\n- name: pool\n";

/// So many hosts ask at one moment.
const HOSTS: usize = 20;

/// From one look at memcached, of a server that somebody waits at, to the next.
const LOOK: Duration = Duration::from_millis(250);

/// How long a lock may take from one server to another: 0.3 s are promised, the rest is for a machine that is busy with other things.
const HANDED_OVER: Duration = Duration::from_millis(1500);

/// Two servers on one memcached.
fn pair<'a>(sandbox: &'a Sandbox, memcached: &Memcached, pools: &str) -> [Distributexd<'a>; 2] {
    [(); 2].map(|()| Distributexd::start(sandbox, &(memcached.config() + pools)))
}

/// The token of a YES, and for how many seconds that is, if not for ever.
#[track_caller]
fn granted(reply: &Reply) -> (i64, Option<f64>) {
    assert_eq!((reply.status, reply.body.as_slice()), (200, &b"YES"[..]), "{reply:?}");
    let token = reply.header("X-Lock-Token").and_then(|token| token.parse().ok());
    (token.expect("a YES has a token"), reply.header("X-Lock-Expires").and_then(|left| left.parse().ok()))
}

/// Waits at a server, once that knows.
fn waiter(server: &Distributexd, host: &str) -> Connection {
    let connection = server.calls("wait", host, "pool");
    wait_until(&format!("{host} to wait"), || server.ask("/status/").contains(&format!("{{\"host\":\"{host}\",\"waiting\"")));
    connection
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
    assert_eq!(memcached.value("day:lockedby").unwrap(), "a.example.org,b,&lt;r&amp;d&gt;");
    assert!(memcached.value("day:token").unwrap().parse::<u64>().is_ok_and(|token| token > 1_500_000_000_000_000));
    let is_about = |key, seconds: u64| {
        let left = memcached.expires(key).expect("it expires").as_secs();
        assert!((seconds - 20..=seconds).contains(&left), "{key}: {left}");
    };
    is_about("day:lockedby", 1800);
    assert_eq!(one.call("get", "a", "ever"), "YES");
    assert_eq!((memcached.expires("ever:lockedby"), memcached.expires("ever:token")), (None, None));
    assert_eq!(one.call("get", "a", "year"), "YES");
    is_about("year:lockedby", 31_536_000);
    assert_eq!(one.call("get", "a", "r&d"), "YES");
    assert_eq!(memcached.value("r&amp;d:lockedby").unwrap(), "a");
    assert_eq!(two.call("release", "a", "ever"), "OK");
    assert_eq!(memcached.value("ever:lockedby").unwrap(), "");
}

#[test]
fn what_the_original_writes_is_understood() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let server = Distributexd::start(&sandbox, &format!("{}{POOL}  maxlocks: 2\n", memcached.config()));
    memcached.set("pool:lockedby", "a,r&amp;d");
    for (call, host, answer) in
        [("get", "c", "NO"), ("get", "a", "YES"), ("get", "r&d", "YES"), ("release", "a", "OK"), ("get", "c", "YES")]
    {
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

/// As many hosts as there are ask both servers for the pool at one moment, again and again; each time so many get it.
#[track_caller]
fn assert_no_more_get_it(permits: usize) {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let servers = pair(&sandbox, &memcached, &format!("{POOL}  maxlocks: {permits}\n"));
    let mut hosts: Vec<_> = (0..HOSTS).map(|host| servers[host % 2].connect()).collect();
    let mut last = 0;
    for round in 0..tries(20) {
        let asks: Vec<_> = (0..HOSTS).map(|host| format!("GET /get/?host=h{host}&pool=pool HTTP/1.1\r\n\r\n")).collect();
        hosts.iter_mut().zip(&asks).for_each(|(connection, ask)| connection.say(ask));
        let replies: Vec<_> = hosts.iter_mut().map(Connection::reply).collect();
        let holders: Vec<_> = (0..HOSTS).filter(|&host| replies[host].body == b"YES").collect();
        assert_eq!(holders.len(), permits, "round {round}: {holders:?}");
        assert!(replies.iter().all(|reply| reply.status == 200), "{replies:?}");
        let mut tokens: Vec<_> = holders.iter().map(|&host| granted(&replies[host]).0).collect();
        tokens.sort_unstable();
        tokens.dedup();
        assert!(tokens.len() == permits && tokens[0] > last, "round {round}: {tokens:?} after {last}");
        last = tokens[permits - 1];
        for host in holders {
            assert_eq!(servers[(host + round) % 2].call("release", &format!("h{host}"), "pool"), "OK");
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
        assert_eq!(servers[(turn - 1) % 2].call("release", &holder, "pool"), "OK");
        let (later, _) = granted(&next.reply());
        times.push(started.elapsed());
        assert_eq!(later, token + 1, "turn {turn}");
        assert!(started.elapsed() < HANDED_OVER, "turn {turn}: {:?}", started.elapsed());
        token = later;
    }
    report("distributexd: from a host at one server to one at another, by memcached", summary(times));
}

#[test]
fn however_many_wait_memcached_is_asked_four_times_a_second() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let server = Distributexd::start(&sandbox, &format!("{}{POOL}- name: other\n", memcached.config()));
    assert_eq!(server.call("get", "holder", "pool"), "YES");
    let mut waiting = Vec::new();
    for waiters in [1, 100] {
        (waiting.len()..waiters).for_each(|number| waiting.push(waiter(&server, &format!("w{number}"))));
        let (started, before) = (Instant::now(), memcached.figure("cmd_get"));
        let_last(3 * SECOND);
        let asked = memcached.figure("cmd_get") - before;
        let looks = started.elapsed().as_secs_f64() / LOOK.as_secs_f64();
        report(&format!("distributexd: times that memcached is asked in 3 s for {waiters} who wait"), asked);
        assert!((1.0..=looks + 1.0).contains(&f64::from(u32::try_from(asked).unwrap())), "{asked} in {looks:.1} quarters of a second");
    }
    drop(waiting);
    wait_until("them to be gone", || !server.ask("/status/").contains("waiting"));
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
    assert!(left.is_some_and(|left| left <= 3.0), "{left:?}: memcached's seconds may be short");
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
    assert_eq!(one.ask(&format!("/release/?host=a&pool=pool&token={token}")), "OK");
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
    wait_until("it to be given away", || memcached.value("pool:lockedby").is_some_and(|hosts| hosts == "dark"));
    assert_eq!(waiter(&two, "next").hear(), "YES");
    assert_eq!(memcached.value("pool:lockedby").unwrap(), "next");
    assert!(one.stderr().contains("took pool back from dark"), "{}", one.stderr());
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
    server.configure(&format!("{}{POOL}  maxlocks: 2\n- name: new\n", memcached.config()));
    server.signal(libc::SIGHUP);
    assert_eq!(second.hear(), "YES");
    assert_eq!(server.call("get", "a", "new"), "YES");
    server.configure(&format!("{POOL}  maxlocks: 2\n"));
    server.signal(libc::SIGHUP);
    wait_until("a warning", || server.stderr().contains("\"backend\" has changed: that needs a restart"));
    server.configure(&format!("{}{POOL}  maxlocks: 2\n", memcached.config()));
    assert_eq!(server.stop().end, Ok(0));
    assert_eq!(third.reply().status, 503);
    server.start_again();
    for (host, answer) in [("c", "NO"), ("a", "YES"), ("b", "YES")] {
        assert_eq!(server.call("get", host, "pool"), answer, "{host}");
    }
}

//! What a run costs on the wire, counted and not timed: connections, and turns of who speaks.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::proxy::From::{Client, Server};
use common::proxy::Proxy;
use common::run::{Job, Running, exited};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use common::{process, report, wait_until};
use std::path::Path;
use std::time::{Duration, Instant};

/// Long enough that no heartbeat falls into a test.
const TIMEOUT: u32 = 60;

#[test]
fn an_uncontended_run_is_one_round_trip_to_start_and_one_to_release() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    sandbox.client(server);
    let proxy = Proxy::start(server.address());
    let mut run = sandbox
        .flock_at(
            &proxy.address,
            TIMEOUT,
            &["-l", "0", "lock", "sh -c 'echo ready; cat'"],
        )
        .leashed()
        .start();
    run.wait_for_output("ready");
    assert_eq!(proxy.turns(), [Client, Server], "until the command started");
    run.let_go();
    assert_eq!(run.wait(), exited(0).printing("ready\n"));
    assert_eq!(
        proxy.turns(),
        [Client, Server, Client, Server],
        "to the end"
    );
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn an_uncontended_run_and_its_guard_set_one_deadline_each_at_most() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let words = ["-l", "0", "lock", "true"];
    let run = sandbox.flock_at(&server.address(), TIMEOUT, &words);
    let traced = format!(
        "exec strace -f -qq -o trace -e trace=timerfd_settime {}",
        run.line()
    );
    let traced = Job::new(&sandbox, Path::new("sh")).words(&["-c", &traced]);
    assert_eq!(traced.run(), exited(0));
    let trace = sandbox.read("trace");
    let calls = trace.matches("timerfd_settime(").count();
    // The guard sets none if the command has ended before it sleeps.
    assert!((1..=2).contains(&calls), "{trace}");
}

#[test]
fn a_run_with_every_is_one_round_trip_more() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let every = |address: &str, period: &str| {
        let words = ["-l", "0", "-x", "17", "--every", period, "lock", "true"];
        sandbox.flock_at(address, TIMEOUT, &words).run()
    };
    assert_eq!(every(&server.address(), "1h"), exited(0), "makes the nodes");
    for (period, end, turns) in [("0.001", 0, 3), ("1h", 17, 2)] {
        let proxy = Proxy::start(server.address());
        assert_eq!(every(&proxy.address, period), exited(end));
        assert_eq!(proxy.turns(), [Client, Server].repeat(turns), "{period}");
        assert_eq!(proxy.connections(), 1);
    }
}

#[test]
fn only_a_run_that_outlives_a_heartbeat_looks_for_requests_to_release() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    sandbox.client(server);
    let proxy = Proxy::start(server.address());
    let looks = || {
        let sent = |(from, bytes): &(_, Vec<u8>)| {
            *from == Client && bytes.windows(7).any(|part| part == b"/.break")
        };
        proxy.chunks().iter().filter(|chunk| sent(chunk)).count()
    };
    let words = ["-l", "0", "lock", "true"];
    let run = sandbox.flock_at(&proxy.address, TIMEOUT, &words).run();
    assert_eq!((run, looks()), (exited(0), 0));
    let words = ["-l", "0", "lock", "cat"];
    let run = sandbox
        .flock_at(&proxy.address, 5, &words)
        .leashed()
        .start();
    wait_until("a watch for requests", || looks() == 1);
    assert_eq!(run.finish(), exited(0));
    assert_eq!(looks(), 1, "the watch stays");
}

#[test]
fn a_busy_lock_is_one_round_trip_to_know_it_and_one_to_leave() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    sandbox
        .client(server)
        .create_ephemeral(&sandbox.node("lock"), b"host")
        .unwrap();
    let proxy = Proxy::start(server.address());
    assert_eq!(
        sandbox
            .flock_at(&proxy.address, TIMEOUT, &["lock", "true"])
            .run(),
        exited(0)
    );
    assert_eq!(proxy.turns(), [Client, Server, Client, Server]);
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn a_waiter_is_silent_until_the_lock_is_free_and_then_acquires_in_one_round_trip() {
    /// To see that the lock is taken; to find no queue; to make one with a place; to see, as the
    /// first there, that the lock is still taken.
    const TO_WAIT: usize = 4;

    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut holder = sandbox.client(server);
    holder
        .create_ephemeral(&sandbox.node("lock"), b"host")
        .unwrap();
    let proxy = Proxy::start(server.address());
    let run = sandbox
        .flock_at(
            &proxy.address,
            TIMEOUT,
            &["-l", "0", "-w", "60", "lock", "sh -c 'echo ready; cat'"],
        )
        .leashed()
        .start();
    wait_until("the waiter to wait", || {
        sandbox.log().contains("waiting for")
    });
    assert_eq!(
        proxy.turns(),
        [Client, Server].repeat(TO_WAIT),
        "asked, and left a watch"
    );
    holder.delete(&sandbox.node("lock")).unwrap();
    run.wait_for_output("ready");
    wait_until("the queue to be put away", || {
        holder.stat(&sandbox.node(".queue")).is_none()
    });
    assert_eq!(run.finish(), exited(0).printing("ready\n"));
    // The event joins the last reply; two more to delete the queue and what it was in, and one to
    // end the session.
    assert_eq!(proxy.turns(), [Client, Server].repeat(TO_WAIT + 1 + 2 + 1));
    assert_eq!(proxy.connections(), 1);
}

/// A crowd on one lock, whose holder is let go when all of it waits: how long until all have run,
/// and how many packets each hand-over costs the server, in both directions.
struct Crowd {
    time: Duration,
    packets: f64,
    /// Of the waiter that took most, in KiB.
    memory: u64,
}

fn crowd(server: &ZooKeeper, permits: usize, size: usize) -> Crowd {
    let sandbox = Sandbox::new();
    let count = permits.to_string();
    let lockex = |command: &str| {
        sandbox.lockex_at(
            &server.address(),
            TIMEOUT * 2,
            &["-i", "id", "-c", &count, command],
        )
    };
    let holders: Vec<_> = (0..permits)
        .map(|_| lockex("echo held; cat").leashed().start())
        .collect();
    holders
        .iter()
        .for_each(|holder| holder.wait_for_output("held"));
    let waiters: Vec<_> = (0..size).map(|_| lockex("true").start()).collect();
    let (queue, already) = if permits == 1 {
        ("id", 1)
    } else {
        ("id-__lock__", 0)
    };
    sandbox
        .client(server)
        .wait_for_children(&sandbox.node(queue), size + already);
    let watches = permits + size + usize::from(permits > 1); // each watches one node, and who is first for a lease also the leases
    wait_until("all to have looked who is before them", || {
        server.watches() == watches
    });
    let peak = |waiter: &Running| {
        process::status(waiter.pid(), "VmHWM").and_then(|line| line.split(' ').next()?.parse().ok())
    };
    let memory = waiters.iter().filter_map(peak).max().expect("they wait");
    let (before, began) = (server.packets(), Instant::now());
    holders
        .into_iter()
        .for_each(|holder| assert_eq!(holder.finish(), exited(0).printing("held\n")));
    waiters
        .into_iter()
        .for_each(|waiter| assert_eq!(waiter.wait(), exited(0)));
    let farewells = 2 * permits; // of the first holders
    let [packets, size] = [server.packets() - before - farewells, size]
        .map(|count| f64::from(u32::try_from(count).expect("it is a test")));
    Crowd {
        time: began.elapsed(),
        packets: packets / size,
        memory,
    }
}

/// `CROWD=50` and more by hand: the crowds are this large, and four times.
#[test]
fn a_hand_over_costs_the_same_with_any_number_of_waiters() {
    let server = ZooKeeper::start(); // of its own: nobody else's packets
    let small = std::env::var("CROWD").map_or(5, |size| size.parse().expect("CROWD is a number"));
    for (permits, most) in [(1, 11.0), (10, 30.0)] {
        let costs = [small, small * 4].map(|size| {
            let Crowd {
                time,
                packets,
                memory,
            } = crowd(&server, permits, size);
            let what = format!("{size} wait for a lock of {permits}, to run `true`");
            report(
                &what,
                format!(
                    "{:.2} s in all, {packets:.1} packets for each hand-over, {memory} KiB each",
                    time.as_secs_f64()
                ),
            );
            packets
        });
        assert!(
            costs.iter().all(|&packets| packets <= most),
            "{permits}: {costs:?}"
        );
        assert!(
            costs[1] <= costs[0] * 1.2 + 1.0,
            "it grows with the queue, {permits}: {costs:?}"
        );
    }
}

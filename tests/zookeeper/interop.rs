//! The Python original on the same lock node, and sessions that expire: each side respects the
//! other and wakes on its release.

use common::client::{Client, Kind};
use common::proxy::{From, Proxy};
use common::run::{Job, Running, exited};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use common::{SECOND, report, summary, wait_until};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};
use zk_flock::internals::zookeeper::record::{Acl, Id};

/// Within this a waiter has the lock after a second client saw the deletion. The goal is 50 ms,
/// which `report` shows; this bound is for a machine with other things to do.
const HAND_OVER: Duration = Duration::from_secs(2);

/// The Python original's ways, leashed.
fn python<'a>(sandbox: &'a Sandbox, server: &ZooKeeper, name: &str, wait: &str) -> Running<'a> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/python_holder.py");
    Job::new(sandbox, Path::new("python3"))
        .words(&[script, &server.port.to_string(), &sandbox.id, name, wait])
        .leashed()
        .start()
}

/// Starts a zk-flock that waits for the lock, frees the lock, and measures from the deletion that a
/// second client sees to the new node.
fn hand_over(sandbox: &Sandbox, server: &ZooKeeper, free: impl FnOnce()) -> Duration {
    let (mut client, node) = (sandbox.client(server), sandbox.node("lock"));
    let holder = client.wait_for_node(&node);
    let already = sandbox.log().matches("waiting for").count();
    let mut waiter = sandbox
        .flock(server, &["-l", "0", "-w", "60", "lock", "cat"])
        .leashed()
        .start();
    wait_until("the waiter to wait", || {
        sandbox.log().matches("waiting for").count() > already
    });
    client.watch(&node).expect("the lock is held");
    free();
    let deleted = client.wait_for_event(&node);
    assert_eq!(deleted.kind, Kind::Deleted);
    let taken = client.wait_for_node(&node);
    assert_ne!(taken.ephemeral_owner, holder.ephemeral_owner);
    waiter.let_go();
    assert_eq!(waiter.wait(), exited(0));
    let taken = UNIX_EPOCH + Duration::from_millis(taken.ctime.try_into().expect("time goes on"));
    taken.duration_since(deleted.seen).unwrap_or_default()
}

#[track_caller]
fn judge(what: &str, times: Vec<Duration>) {
    let worst = times.iter().max().copied().expect("there are some");
    report(
        &format!("hand-over from {what}, after a second client saw the deletion"),
        summary(times),
    );
    assert!(worst < HAND_OVER, "{worst:?}");
}

#[test]
fn a_waiter_wakes_when_another_zk_flock_releases() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let measure = |_| {
        let mut holder = sandbox
            .flock(server, &["-l", "0", "-w", "60", "lock", "cat"])
            .leashed()
            .start();
        let time = hand_over(&sandbox, server, || holder.let_go());
        assert_eq!(holder.wait(), exited(0));
        time
    };
    judge("zk-flock", (0..10).map(measure).collect());
}

#[test]
fn a_waiter_wakes_when_a_python_holder_releases() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let measure = |_| {
        let mut holder = python(&sandbox, server, "lock", "60");
        holder.wait_for_output("held");
        let time = hand_over(&sandbox, server, || holder.let_go());
        assert_eq!(holder.wait().end, Ok(0));
        time
    };
    judge("the Python original", (0..10).map(measure).collect());
}

#[test]
fn a_waiter_wakes_when_the_holders_session_expires() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let measure = |_| {
        sandbox.client(server).close();
        let mut holder = Client::connect(server, 2 * SECOND);
        holder
            .create_ephemeral(&sandbox.node("lock"), b"host")
            .expect("the lock is free");
        let time = hand_over(&sandbox, server, || {});
        drop(holder);
        time
    };
    judge("an expired session", (0..3).map(measure).collect());
}

#[test]
fn zk_flock_is_busy_while_a_python_holder_has_the_lock() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut holder = python(&sandbox, server, "lock", "0");
    holder.wait_for_output("held");
    assert_eq!(
        sandbox.flock(server, &["lock", "touch ran"]).run(),
        exited(0)
    );
    assert_eq!(
        sandbox
            .flock(server, &["-x", "17", "-w", "0.3", "lock", "touch ran"])
            .run(),
        exited(17)
    );
    assert!(!sandbox.path("ran").exists());
    holder.let_go();
    assert_eq!(holder.wait().end, Ok(0));
    assert_eq!(
        sandbox
            .flock(server, &["-l", "0", "lock", "echo mine"])
            .run(),
        exited(0).printing("mine\n")
    );
}

#[test]
fn a_python_waiter_is_busy_and_wakes_when_zk_flock_releases() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut holder = sandbox
        .flock(server, &["-l", "0", "lock", "cat"])
        .leashed()
        .start();
    holder.job();
    let loser = python(&sandbox, server, "lock", "0.3").finish();
    assert_eq!(first_words(&loser.stdout), ["busy", "gave-up"]);
    let waiter = python(&sandbox, server, "lock", "60");
    waiter.wait_for_output("busy");
    holder.let_go();
    assert_eq!(holder.wait(), exited(0));
    waiter.wait_for_output("held");
    let waiter = waiter.finish();
    assert_eq!(
        first_words(&waiter.stdout),
        ["busy", "deleted", "held", "released"]
    );
}

#[test]
fn a_held_node_is_never_changed_so_watches_of_python_do_not_fire() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let (mut client, node) = (sandbox.client(server), sandbox.node("lock"));
    let proxy = Proxy::start(server.address());
    let mut holder = sandbox
        .flock_at(&proxy.address, 3, &["-l", "0", "lock", "cat"])
        .leashed()
        .start();
    let held = client.wait_for_node(&node);
    let mut waiter = python(&sandbox, server, "lock", "60");
    waiter.wait_for_output("busy");
    wait_until("five heartbeats", || {
        proxy
            .turns()
            .iter()
            .filter(|&&from| from == From::Server)
            .count()
            > 6
    });
    assert_eq!(client.stat(&node), Some(held));
    assert_eq!(first_words(&waiter.stdout()), ["busy"]);
    holder.let_go();
    assert_eq!(holder.wait(), exited(0));
    waiter.wait_for_output("held");
    waiter.let_go();
    assert_eq!(waiter.wait().end, Ok(0));
}

#[test]
fn nodes_have_the_format_of_the_original() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut run = sandbox
        .flock(server, &["-l", "0", "lock", "cat"])
        .leashed()
        .start();
    run.job();
    let mut client = Client::connect(server, 15 * SECOND);
    let anyone = [Acl {
        perms: 31,
        id: Id {
            scheme: "world".into(),
            id: "anyone".into(),
        },
    }];
    let above = format!("/{}", sandbox.id);
    assert_eq!(client.data(&above), Some(b"Rootnode".to_vec()));
    assert_eq!(
        client.stat(&above).map(|stat| stat.ephemeral_owner),
        Some(0),
        "it stays"
    );
    assert_eq!(client.children(&above), ["lock"], "and no sequence number");
    assert_eq!(
        [client.acl(&above), client.acl(&sandbox.node("lock"))].concat(),
        [anyone.clone(), anyone].concat()
    );
    let data = String::from_utf8(client.data(&sandbox.node("lock")).expect("it is held"))
        .expect("it is text");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux");
    let uuid = data
        .strip_prefix(host.trim_end())
        .expect("the host's name leads");
    let shape: String = uuid
        .chars()
        .map(|letter| {
            if matches!(letter, '0'..='9' | 'a'..='f') {
                'x'
            } else {
                letter
            }
        })
        .collect();
    assert_eq!(shape, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx");
    assert_eq!(&uuid[14..15], "8", "the version of a uuid with own content");
    assert_eq!(uuid[28..].parse(), Ok(run.pid()), "the process id");
    run.let_go();
    assert_eq!(run.wait(), exited(0));
}

fn first_words(lines: &str) -> Vec<&str> {
    lines
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect()
}

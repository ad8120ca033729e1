//! What a run costs on the wire, counted and not timed: connections, and turns of who speaks.

mod common;

use common::proxy::From::{Client, Server};
use common::proxy::Proxy;
use common::run::exited;
use common::sandbox::Sandbox;
use common::wait_until;
use common::zookeeper::ZooKeeper;

/// Long enough that no heartbeat falls into a test.
const TIMEOUT: u32 = 60;

#[test]
fn an_uncontended_run_is_one_round_trip_to_start_and_one_to_release() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    sandbox.client(server);
    let proxy = Proxy::start(server.address());
    let mut run = sandbox.flock_at(&proxy.address, TIMEOUT, &["-l", "0", "lock", "sh -c 'echo ready; cat'"]).leashed().start();
    run.wait_for_output("ready");
    assert_eq!(proxy.turns(), [Client, Server], "until the command started");
    run.let_go();
    assert_eq!(run.wait(), exited(0).printing("ready\n"));
    assert_eq!(proxy.turns(), [Client, Server, Client, Server], "to the end");
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn a_busy_lock_is_one_round_trip_to_know_it_and_one_to_leave() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    sandbox.client(server).create_ephemeral(&sandbox.node("lock"), b"host").unwrap();
    let proxy = Proxy::start(server.address());
    assert_eq!(sandbox.flock_at(&proxy.address, TIMEOUT, &["lock", "true"]).run(), exited(0));
    assert_eq!(proxy.turns(), [Client, Server, Client, Server]);
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn a_waiter_says_nothing_until_the_lock_is_free_and_then_takes_it_in_one_round_trip() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut holder = sandbox.client(server);
    holder.create_ephemeral(&sandbox.node("lock"), b"host").unwrap();
    let proxy = Proxy::start(server.address());
    let run = sandbox.flock_at(&proxy.address, TIMEOUT, &["-l", "0", "-w", "60", "lock", "sh -c 'echo ready; cat'"]).leashed().start();
    wait_until("the waiter to wait", || sandbox.log().contains("waiting for"));
    assert_eq!(proxy.turns(), [Client, Server], "asked, and left a watch");
    holder.delete(&sandbox.node("lock")).unwrap();
    run.wait_for_output("ready");
    assert_eq!(proxy.turns(), [Client, Server, Client, Server], "the event joins the first reply");
    assert_eq!(run.finish(), exited(0).printing("ready\n"));
    assert_eq!(proxy.turns().len(), 6);
    assert_eq!(proxy.connections(), 1);
}

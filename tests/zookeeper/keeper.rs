//! ClickHouse Keeper, or what stands in for it: a server that resumes no session, hangs up instead of
//! a reply to the close of one, and knows no containers. The command of a holder dies with its
//! connection, and a waiter queues again.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::keeper::{Fate, Keeper};
use common::probe_job::{FOREVER, Probe};
use common::run::exited;
use common::sandbox::Sandbox;
use common::scripted_server::Act::{Hear, Keep, Say};
use common::scripted_server::ScriptedServer;
use common::zookeeper::ZooKeeper;
use common::{SECOND, client, let_last, report, wait_for, wait_until};
use std::time::Duration;
use zk_flock::internals::sys::clock;
use zk_flock::internals::zookeeper::record::ConnectResponse;

/// The shortest session timeout that it grants, in seconds.
const TIMEOUT: u32 = 10;

/// When a session that was asked for was replaced, and by which.
fn replaced(keeper: &Keeper) -> Option<(i64, Duration)> {
    keeper
        .fates()
        .into_iter()
        .find_map(|(by, fate, when)| match fate {
            Fate::Made { asked } if asked != 0 => Some((by, when)),
            _ => None,
        })
}

/// What happened to this session in the end, and when.
fn end_of(keeper: &Keeper, session: i64) -> (Fate, Duration) {
    wait_for("the end of a session", || {
        let ends = |&(id, fate, _): &(i64, Fate, Duration)| {
            id == session && !matches!(fate, Fate::Made { .. })
        };
        let (_, fate, when) = keeper.fates().into_iter().find(ends)?;
        Some((fate, when))
    })
}

#[test]
fn a_command_dies_with_the_connection_to_keeper() {
    type Ends = fn(&Keeper);
    let ends: [(&str, Ends, Fate); 2] = [
        ("connection cut", Keeper::cut, Fate::Expired),
        ("server stopped", Keeper::stop, Fate::Stopped),
    ];
    for (what, happens, fate) in ends {
        let (keeper, sandbox) = (Keeper::start(), Sandbox::new());
        let probe = Probe::of(&sandbox);
        let words = ["--sysexits", "-l", "0", "lock"];
        let run = probe
            .job(sandbox.flock_at(&keeper.address, TIMEOUT, &words), FOREVER)
            .start();
        probe.wait_for(1);
        let_last(2 * SECOND); // until the lease would last for more than 4 s
        let session = keeper.owner(&sandbox.node("lock")).expect("it is held");
        let happened = clock::since_boot();
        happens(&keeper);
        let outcome = run.wait();
        assert_eq!(outcome.end, Ok(79), "{}", outcome.stderr);
        outcome.complaint(&["lost /", "Keeper does not resume the session", "killed"]);
        let after = probe.all()[0].dead.saturating_sub(happened);
        report(
            &format!("ClickHouse Keeper, {what}, timeout {TIMEOUT} s: tree dead after"),
            format!("{:.2} s", after.as_secs_f64()),
        );
        assert!(after < 4 * SECOND, "that is the lease: {after:?}");
        assert_eq!(end_of(&keeper, session).0, fate);
    }
}

#[test]
fn a_run_on_keeper_is_as_short_as_on_zookeeper_and_is_released_when_keeper_hangs_up() {
    let (keeper, sandbox) = (Keeper::start(), Sandbox::new());
    let words = ["-l", "0", "lock", "true"];
    assert_eq!(
        sandbox.flock_at(&keeper.address, 100, &words).run(),
        exited(0)
    );
    let [
        (session, Fate::Made { .. }, made),
        (_, Fate::Closed, closed),
    ] = keeper.fates()[..]
    else {
        panic!("one session: {:?}", keeper.fates())
    };
    assert!(
        closed.saturating_sub(made) < 10 * SECOND,
        "session {session} did not wait for its first heartbeat"
    );
    let released = "(the server hung up, as ClickHouse Keeper does)";
    assert!(sandbox.log().contains(released), "{}", sandbox.log());
}

#[test]
fn waiters_on_keeper_are_served_in_order_and_leave_no_queue() {
    let (keeper, sandbox) = (Keeper::start(), Sandbox::new());
    let mut holder = client::Client::connect_to(&keeper.address, Duration::from_mins(1));
    holder.create_if_missing(&format!("/{}", sandbox.id), b"");
    holder
        .create_ephemeral(&sandbox.node("lock"), b"host")
        .unwrap();
    let entries = || {
        let queue = format!("{}/", sandbox.node(".queue/lock"));
        let nodes = keeper.nodes();
        nodes.iter().filter(|path| path.starts_with(&queue)).count()
    };
    let order = sandbox.path("order").display().to_string();
    let waiters: Vec<_> = (0..3)
        .map(|number| {
            let command = format!("sh -c 'echo {number} >> {order}'");
            let words = ["-l", "0", "-w", "60", "lock", &command];
            let run = sandbox.flock_at(&keeper.address, TIMEOUT, &words).start();
            wait_until("its entry in the queue", || entries() == number + 1);
            run
        })
        .collect();
    holder.delete(&sandbox.node("lock")).unwrap();
    for run in waiters {
        assert_eq!(run.wait(), exited(0), "{}", sandbox.log());
    }
    assert_eq!(sandbox.read("order"), "0\n1\n2\n");
    assert_eq!(keeper.nodes(), [format!("/{}", sandbox.id)]);
}

#[test]
fn a_waiter_whose_session_is_not_resumed_queues_again() {
    let (keeper, sandbox) = (Keeper::start(), Sandbox::new());
    let mut holder = client::Client::connect_to(&keeper.address, Duration::from_mins(1));
    holder.create_if_missing(&format!("/{}", sandbox.id), b"");
    holder
        .create_ephemeral(&sandbox.node("lock"), b"host")
        .unwrap();
    let run = sandbox
        .flock_at(
            &keeper.address,
            TIMEOUT,
            &["-l", "0", "-w", "60", "lock", "echo mine"],
        )
        .start();
    wait_until("it to wait", || sandbox.log().contains("waiting for"));
    drop(holder);
    keeper.cut();
    let mut holder = client::Client::connect_to(&keeper.address, Duration::from_mins(1));
    wait_until("another session", || replaced(&keeper).is_some());
    holder.delete(&sandbox.node("lock")).unwrap();
    let outcome = run.wait();
    assert_eq!(
        (outcome.end, outcome.stdout.as_str()),
        (Ok(0), "mine\n"),
        "{}",
        sandbox.log()
    );
}

#[test]
fn a_server_that_refuses_all_sessions_is_reported_and_the_next_is_tried() {
    let refusal = |protocol_version, session_id| {
        let response = ConnectResponse {
            protocol_version,
            time_out: 10_000,
            session_id,
            passwd: vec![0; 16],
        };
        ScriptedServer::start(vec![Hear, Say(client::frame(&response)), Keep])
    };
    for (version, id) in [(42, -1), (42, 7), (0, -1)] {
        let (sandbox, scripted) = (Sandbox::new(), refusal(version, id));
        let run = sandbox
            .flock_at(&scripted.address, 1, &["lock", "touch ran"])
            .run();
        run.complains(1, &[&scripted.address, "refuses all sessions", "leader"]);
        assert!(!sandbox.path("ran").exists());
        let both = format!("{},{}", scripted.address, ZooKeeper::shared().address());
        for _ in 0..4 {
            let run = sandbox
                .program(&[
                    "--hosts",
                    &both,
                    "--app-id",
                    &sandbox.id,
                    "-l",
                    "0",
                    "lock",
                    "echo mine",
                ])
                .run();
            assert_eq!(run, exited(0).printing("mine\n"));
        }
    }
}

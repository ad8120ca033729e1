//! ClickHouse Keeper, or what stands in for it: a server that never resumes a session and gives
//! another instead. The job of a holder lives to the end of its lease, which nothing of the other
//! session extends; a waiter begins again; nothing is deleted by its path.

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

#[test]
fn a_command_whose_session_is_not_resumed_is_killed_when_the_lease_ends() {
    let (keeper, sandbox) = (Keeper::start(), Sandbox::new());
    let probe = Probe::of(&sandbox);
    let run = probe
        .job(
            sandbox.flock_at(&keeper.address, TIMEOUT, &["--sysexits", "-l", "0", "lock"]),
            FOREVER,
        )
        .start();
    probe.wait_for(1);
    let_last(2 * SECOND); // until belief is in step
    let session = keeper.owner(&sandbox.node("lock")).expect("it is held");
    keeper.cut();
    let (other, reconnected) = wait_for("another session", || replaced(&keeper));
    wait_until("it to be closed", || {
        keeper
            .fates()
            .iter()
            .any(|&(id, fate, _)| (id, fate) == (other, Fate::Closed))
    });
    assert_eq!(keeper.owner(&sandbox.node("lock")), Some(session));
    let outcome = run.wait();
    assert_eq!(outcome.end, Ok(79), "{}", outcome.stderr);
    outcome.complaint(&["lost /", "instead of resuming the session", "killed"]);
    let (_, _, expired) = wait_for("the end of the first session", || {
        keeper
            .fates()
            .into_iter()
            .find(|&(id, fate, _)| (id, fate) == (session, Fate::Expired))
    });
    let dead = probe.all()[0].dead;
    let (after, ahead) = (
        dead.saturating_sub(reconnected),
        expired.saturating_sub(dead),
    );
    assert!(after > 4 * SECOND, "what was left of the lease: {after:?}");
    assert!(dead < expired, "the job outlived its lock");
    report(
        &format!("session not resumed, timeout {TIMEOUT} s: tree dead"),
        format!(
            "{:.2} s after the reconnect, {:.2} s before the session's end",
            after.as_secs_f64(),
            ahead.as_secs_f64()
        ),
    );
    assert_eq!(
        sandbox.log().matches(" resumed ").count(),
        0,
        "{}",
        sandbox.log()
    );
}

#[test]
fn after_a_session_was_not_resumed_the_log_says_when_the_lock_is_free() {
    let (keeper, sandbox) = (Keeper::start(), Sandbox::new());
    let run = sandbox
        .flock_at(&keeper.address, TIMEOUT, &["-l", "0", "lock", "cat"])
        .leashed()
        .start();
    run.job();
    let session = keeper.owner(&sandbox.node("lock"));
    keeper.cut();
    wait_until("the log to say it", || {
        sandbox.log().contains("suspended /")
    });
    let outcome = run.finish();
    assert_eq!(outcome.end, Ok(0));
    outcome.complaint(&[
        "cannot release /",
        "the lock is free when the session has expired, within 10.0 s",
    ]);
    assert_eq!(
        keeper.owner(&sandbox.node("lock")),
        session,
        "left to its session"
    );
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

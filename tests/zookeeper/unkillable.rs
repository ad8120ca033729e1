//! A process of the command that zk-flock may not kill: it became root by a setuid program, and
//! zk-flock is not root. A lock that was lost because no server answered in time is kept once the
//! session is resumed, until the process has exited: no other host acquires it beside that process.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::lock_server::{Answer, LockServer, lent, plain};
use common::proxy::Proxy;
use common::run::{Job, Outcome, Running, exited};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use common::{SECOND, let_last, process, wait_for, wait_until};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// A session timeout, in seconds: between the end of the lease and that of the session there is a
/// third of it to end the outage in.
const TIMEOUT: u32 = 9;

/// Runs zk-flock without the right to kill others, in a sandbox whose folder it may use all the
/// same.
const USER: &str = "exec setpriv --reuid=54321 --clear-groups --inh-caps=-all,+dac_override --ambient-caps=-all,+dac_override \
                    --bounding-set=-all,+dac_override";

/// What the command comes to: `sleep` of root.
const IMMORTAL: &str = "sleep 1000";

/// A holder with such a process in its tree.
#[track_caller]
fn holder<'a>(sandbox: &'a Sandbox, address: &str) -> (Running<'a>, i32) {
    holder_by(
        sandbox,
        sandbox.flock_at(address, TIMEOUT, &["--sysexits", "-l", "0", "lock"]),
    )
}

/// The same by a program that is given its command last.
#[track_caller]
fn holder_by<'a>(sandbox: &'a Sandbox, program: Job<'a>) -> (Running<'a>, i32) {
    let become_root = sandbox.path("become-root");
    fs::copy("/usr/bin/setpriv", &become_root).expect("util-linux is installed");
    fs::set_permissions(&become_root, Permissions::from_mode(0o4755)).expect("it is ours");
    let command = format!("{} --reuid=0 {IMMORTAL}", become_root.display());
    let line = program.words(&[&command]).line();
    let run = Job::new(sandbox, Path::new("sh"))
        .words(&["-c", &format!("{USER} {line}")])
        .start();
    let immortal = wait_for("a process of root", || {
        sandbox.running(IMMORTAL).first().copied()
    });
    let ids = process::status(immortal, "Uid").expect("it lives");
    assert_eq!(
        ids, "0\t0\t0\t0",
        "is the folder of the tests mounted nosuid?"
    );
    (run, immortal)
}

/// Lets no server answer until the lock is lost.
fn lose(sandbox: &Sandbox, proxy: &Proxy) {
    let_last(2 * SECOND); // until belief is in step
    proxy.set_away(true);
    wait_until("the loss", || sandbox.log().contains("Lock lost lock=/"));
    proxy.set_away(false);
    wait_until("the session to be resumed", || {
        sandbox.log().contains("still belongs to this session")
    });
}

/// Asserts what was said, a line each.
#[track_caller]
fn assert_told(outcome: &Outcome, lines: &[&[&str]]) {
    assert_eq!(
        (outcome.end, outcome.stderr.lines().count()),
        (Ok(79), lines.len()),
        "{}",
        outcome.stderr
    );
    for (line, facts) in outcome.stderr.lines().zip(lines) {
        facts
            .iter()
            .for_each(|fact| assert!(line.contains(fact), "no {fact:?} in {line:?}"));
    }
}

#[test]
fn a_lost_lock_is_kept_for_a_process_that_cannot_be_killed_while_its_session_lives() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let proxy = Proxy::start(server.address());
    let (mut run, immortal) = holder(&sandbox, &proxy.address);
    let mut waiter = sandbox
        .flock(server, &["-l", "0", "-w", "80", "lock", "echo mine"])
        .start();
    wait_until("the waiter to wait", || {
        sandbox.log().contains("waiting for")
    });
    lose(&sandbox, &proxy);
    let_last(SECOND * (TIMEOUT + 2)); // no session that is not kept lives so long
    assert!(process::alive(immortal) && !run.has_ended() && !waiter.has_ended());
    assert_eq!(waiter.stdout(), "");
    assert!(process::kill(immortal, libc::SIGKILL));
    assert_eq!(waiter.wait(), exited(0).printing("mine\n"));
    let pid = format!("sleep (pid {immortal})");
    assert_told(
        &run.wait(),
        &[
            &["cannot kill ", &pid, "keeping /"],
            &[
                "lost /",
                "could not be killed; /",
                "was kept until it exited",
            ],
        ],
    );
}

#[test]
fn a_lost_lock_that_is_gone_for_certain_is_not_kept_for_a_process_that_cannot_be_killed() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let proxy = Proxy::start(server.address());
    let (run, immortal) = holder(&sandbox, &proxy.address);
    lose(&sandbox, &proxy);
    wait_until("it to be named", || run.stderr().contains("cannot kill"));
    sandbox
        .client(server)
        .delete(&sandbox.node("lock"))
        .expect("it is kept");
    let outcome = run.wait();
    assert!(process::alive(immortal));
    process::kill(immortal, libc::SIGKILL);
    let pid = format!("sleep (pid {immortal})");
    assert_told(
        &outcome,
        &[
            &["cannot kill ", &pid],
            &["lost /", "then the node was deleted", "STILL RUNNING", &pid],
        ],
    );
}

/// The server keeps the slot of a holder that is cut off for a while longer than it told.
#[test]
fn a_lost_slot_is_kept_for_a_process_that_cannot_be_killed_while_the_server_renews_it() {
    const LEASE: Duration = Duration::from_secs(3);
    let lends = |what: &str| {
        if what.starts_with("release") {
            plain("OK")
        } else {
            lent(7, LEASE)
        }
    };
    for says_no in [false, true] {
        let (sandbox, server) = (Sandbox::new(), LockServer::start(lends));
        let (mut run, immortal) = holder_by(
            &sandbox,
            sandbox.distributex(server.port, &["--sysexits", "--no-local-lock"]),
        );
        server.set(|_| Answer::HangUp);
        wait_until("it to be named", || run.stderr().contains("cannot kill"));
        server.set(lends);
        let before = server.words().len();
        wait_until("three renewals", || server.words().len() >= before + 3); // no lease that is not kept lasts so long
        assert!(process::alive(immortal) && !run.has_ended() && server.last("release 7").is_none());
        let pid = format!("sleep (pid {immortal})");
        if says_no {
            server.set(|what| {
                plain(if what.starts_with("release") {
                    "OK"
                } else {
                    "NO"
                })
            });
            let outcome = run.wait();
            assert!(process::kill(immortal, libc::SIGKILL), "it lives");
            assert_told(
                &outcome,
                &[
                    &["cannot kill ", &pid, "unless its lease ends"],
                    &["lost ", "said NO", "STILL RUNNING", &pid],
                ],
            );
        } else {
            assert!(process::kill(immortal, libc::SIGKILL));
            assert_told(
                &run.wait(),
                &[
                    &["cannot kill ", &pid, "keeping "],
                    &["lost ", "could not be killed; ", "was kept until it exited"],
                ],
            );
            assert!(server.last("release 7").is_some(), "{:?}", server.words());
        }
    }
}

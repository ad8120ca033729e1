//! ZooKeeper away in every way it can be: one line that names each host and its reason, within the
//! timeout, and never "busy".

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::run::{Job, Outcome, exited};
use common::sandbox::Sandbox;
use common::scripted_server::{DeadNameServer, ScriptedServer, SwitchedOff, nobody};
use common::zookeeper::ZooKeeper;
use common::{SECOND, report};
use std::time::{Duration, Instant};

/// Session timeout of these runs, which bounds connecting.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long after it a run may end: a second is promised, the rest is for a machine that is busy
/// with other things.
const LATE: Duration = Duration::from_secs(4);

/// The program, about to ask these hosts.
fn asking<'a>(sandbox: &'a Sandbox, hosts: &str, words: &[&str]) -> Job<'a> {
    sandbox
        .program(&[
            "--hosts",
            hosts,
            "--app-id",
            &sandbox.id,
            "--timeout",
            &TIMEOUT.as_secs().to_string(),
            "-l",
            "0",
        ])
        .words(words)
}

/// Runs it; asserts that it ends in time.
#[track_caller]
fn in_time(what: &str, job: Job) -> Outcome {
    let run = job.start();
    let started = run.started;
    let outcome = run.wait();
    let took = started.elapsed();
    assert!(took < TIMEOUT + LATE, "{what}: {took:?}");
    outcome
}

/// Runs it on hosts that are away; asserts that the one line says of each host all of `why`.
#[track_caller]
fn is_unreachable(what: &str, hosts: &str, why: &[&str]) {
    let sandbox = Sandbox::new();
    let facts = [&hosts.split(',').collect::<Vec<_>>()[..], why].concat();
    let started = Instant::now();
    in_time(
        what,
        asking(&sandbox, hosts, &["-x", "17", "lock", "touch ran"]),
    )
    .complains(1, &facts);
    report(
        &format!("unreachable in {TIMEOUT:?} ({what}) after"),
        format!("{:.2} s", started.elapsed().as_secs_f64()),
    );
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_port_without_listener_is_unreachable() {
    is_unreachable("nobody listens", &nobody(), &["connection refused"]);
}

#[test]
fn a_reason_that_repeats_is_logged_once_and_then_counted() {
    let (sandbox, refusing) = (Sandbox::new(), nobody());
    let outcome = asking(&sandbox, &refusing, &["-v", "lock", "true"]).run();
    let reason = format!("zk-flock: {refusing}: connection refused");
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, reason.as_str()), "{lines:?}");
    let count = lines[1]
        .strip_prefix(&format!("{reason}: "))
        .expect(lines[1]);
    assert!(count.contains(" more time"), "{count}");
    assert!(lines[2].contains("cannot reach ZooKeeper"), "{lines:?}");
}

#[test]
fn a_host_that_is_switched_off_is_unreachable() {
    is_unreachable(
        "switched off",
        &SwitchedOff::new().address,
        &["no answer for 2.0 s"],
    );
}

#[test]
fn a_silent_server_is_unreachable() {
    is_unreachable(
        "silent",
        &ScriptedServer::silent().address,
        &["no answer for 2.0 s"],
    );
}

#[test]
fn a_server_that_hangs_up_is_unreachable() {
    let server = ScriptedServer::start(vec![]);
    is_unreachable("hangs up", &server.address, &[]);
    assert!(
        server.connections() < 20,
        "{} connections in {TIMEOUT:?}",
        server.connections()
    );
}

#[test]
fn a_name_without_address_is_unreachable() {
    is_unreachable("no such name", "no-such-host.invalid:2181", &["its name"]);
}

#[test]
fn each_host_is_reported_with_its_own_reason() {
    let (silent, off) = (ScriptedServer::silent(), SwitchedOff::new());
    let hosts = [
        &nobody(),
        &silent.address,
        &off.address,
        "no-such-host.invalid:2181",
    ]
    .map(str::to_owned)
    .join(",");
    is_unreachable(
        "each in its own way",
        &hosts,
        &["connection refused", "no answer for", "its name"],
    );
}

#[test]
fn a_frozen_server_is_unreachable() {
    let server = ZooKeeper::start();
    server.freeze();
    is_unreachable("frozen", &server.address(), &["no answer for 2.0 s"]);
    server.thaw();
}

#[test]
fn a_wait_that_ends_during_an_outage_is_unreachable_and_not_busy() {
    let sandbox = Sandbox::new();
    for (options, code) in [
        (&["-w", "1"][..], 1),
        (&["-w", "3"], 1),
        (&["--sysexits", "-w", "1"], 69),
    ] {
        let words = [options, &["-x", "17", "lock", "touch ran"]].concat();
        in_time(&options.join(" "), asking(&sandbox, &nobody(), &words))
            .complains(code, &["connection refused"]);
    }
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_longer_wait_gives_more_time_to_connect() {
    let (server, sandbox) = (ZooKeeper::start(), Sandbox::new());
    server.freeze();
    let run = asking(
        &sandbox,
        &server.address(),
        &["-w", "60", "lock", "echo mine"],
    )
    .start();
    std::thread::sleep(TIMEOUT + SECOND); // time itself is the condition here
    server.thaw();
    assert_eq!(run.wait(), exited(0).printing("mine\n"));
}

#[test]
fn a_good_host_among_bad_ones_is_reached_in_time() {
    let server = ZooKeeper::shared();
    let (silent, off, closing) = (
        ScriptedServer::silent(),
        SwitchedOff::new(),
        ScriptedServer::start(vec![]),
    );
    for bad in [
        &nobody(),
        &silent.address,
        &off.address,
        &closing.address,
        "no-such-host.invalid:2181",
    ] {
        let sandbox = Sandbox::new();
        for _ in 0..4 {
            let hosts = format!("{bad},{}", server.address()); // tried in an order of chance
            let outcome = in_time(
                &format!("{bad} and a good one"),
                asking(&sandbox, &hosts, &["lock", "echo mine"]),
            );
            assert_eq!(outcome, exited(0).printing("mine\n"), "{bad}");
        }
    }
}

#[test]
fn a_dead_name_server_takes_no_longer_than_a_dead_server_and_does_not_stop_the_others() {
    let (names, sandbox) = (DeadNameServer::start(), Sandbox::new());
    let job = asking(
        &sandbox,
        "some-host.example:2181",
        &["-x", "17", "lock", "touch ran"],
    );
    let outcome = in_time("dead name server", DeadNameServer::asked_by(&sandbox, &job));
    outcome.complains(
        1,
        &[
            "some-host.example:2181",
            "not looked up in time",
            "name server",
        ],
    );
    assert!(names.was_asked() && !sandbox.path("ran").exists());

    let hosts = format!("some-host.example:2181,{}", ZooKeeper::shared().address());
    let job = asking(&sandbox, &hosts, &["lock", "echo mine"]);
    assert_eq!(
        in_time(
            "dead name server and an address",
            DeadNameServer::asked_by(&sandbox, &job)
        ),
        exited(0).printing("mine\n")
    );
    let hosts = format!(
        "some-host.example:2181,localhost:{}",
        ZooKeeper::shared().port
    );
    let job = asking(&sandbox, &hosts, &["lock", "echo mine"]);
    assert_eq!(
        in_time(
            "dead name server and a known name",
            DeadNameServer::asked_by(&sandbox, &job)
        ),
        exited(0).printing("mine\n")
    );
}

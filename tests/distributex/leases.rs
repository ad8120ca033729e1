//! What a lock server says of a lease, and what becomes of a command: no lease that cannot be kept
//! is one, and a lock that an operator revokes is released when its command has been stopped.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use super::{complains, fails};
use common::lock_server::{Answer, LockServer, lent, lent_as, plain, revoked};
use common::probe_job::{self, FOREVER, Probe};
use common::run::listener;
use common::sandbox::Sandbox;
use common::{SECOND, process, report, wait_until};
use std::time::Duration;
use zk_flock::internals::sys::clock;

/// The lease that is granted here where one is granted.
const SHORT: Duration = Duration::from_secs(3);

/// How much longer our own server keeps it.
const SLACK: Duration = Duration::from_secs(1);

/// Each was a lock that never ends.
const NO_LEASES: [(&str, &str); 7] = [
    ("0", "has already ended"),
    ("-5", "has already ended"),
    ("nan", "not a number of seconds"),
    ("inf", "not a number of seconds"),
    ("1e300", "not a number of seconds"),
    ("30s", "not a number of seconds"),
    ("", "not a number of seconds"),
];

/// A server that lends its one slot, number 7.
fn lends(what: &str) -> Answer {
    lends_for(SHORT, what)
}

fn lends_for(lease: Duration, what: &str) -> Answer {
    if what.starts_with("release") {
        plain("OK")
    } else {
        lent(7, lease)
    }
}

#[test]
fn no_command_starts_under_a_lease_that_is_none_and_the_slot_is_released() {
    let sandbox = Sandbox::new();
    for (expires, why) in NO_LEASES
        .into_iter()
        .chain([("0.5", "too short"), ("1e-9", "too short")])
    {
        for (options, code, first) in [
            (&[][..], 1, "wait"),
            (&["-w0", "-x17"], 1, "get"),
            (&["--sysexits"], 65, "wait"),
        ] {
            let server = LockServer::start(move |what| {
                if what.starts_with("release") {
                    plain("OK")
                } else {
                    lent_as(7, expires)
                }
            });
            let outcome = sandbox
                .distributex(server.port, &[options, &["touch ran"]].concat())
                .run();
            complains(
                &outcome,
                code,
                &[
                    "cannot acquire",
                    &format!(
                        "said \"X-Lock-Expires: {}",
                        if expires == "1e-9" { "0.00" } else { expires }
                    ),
                    why,
                ],
            );
            let asked: Vec<_> = server
                .words()
                .into_iter()
                .filter(|what| what != "renew 7")
                .collect();
            assert_eq!(asked, [first, "release 7"], "{expires}");
            assert!(!sandbox.path("ran").exists(), "{expires}");
        }
    }
}

#[test]
fn a_renewal_without_a_lease_leaves_the_command_the_time_that_it_had() {
    std::thread::scope(|scope| {
        for (expires, why) in NO_LEASES.into_iter().chain([("0.3", "too short")]) {
            scope.spawn(move || is_killed_in_time(expires, why, 3));
        }
    });
}

/// What is told must not make the lease longer, nor endless. `tries`: how often the machine may stop
/// the run for so long that this is the reason for the loss.
fn is_killed_in_time(expires: &'static str, why: &str, tries: u32) {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(lends));
    let probe = Probe::of(&sandbox);
    let run = probe
        .line(sandbox.distributex(server.port, &["--sysexits"]), FOREVER)
        .start();
    probe.wait_for(1);
    wait_until("a renewal", || server.words().len() > 2);
    let harmed = clock::since_boot();
    server.set(move |what| {
        if what.starts_with("release") {
            plain("OK")
        } else {
            lent_as(7, expires)
        }
    });
    let outcome = run.wait();
    if tries > 1 && outcome.stderr.contains("this process was stopped for") {
        return is_killed_in_time(expires, why, tries - 1);
    }
    fails(
        &outcome,
        79,
        &[
            "lost ",
            &format!("said \"X-Lock-Expires: {expires}\""),
            why,
            "killed",
        ],
    );
    let proofs = server
        .asked()
        .into_iter()
        .filter(|asked| asked.what == "renew 7" && asked.at < harmed)
        .map(|asked| asked.at);
    let (end, holding) = (
        proofs.max().expect("it was renewed") + SHORT,
        probe.all()[0].clone(),
    );
    let lead = end.as_secs_f64() - holding.dead.as_secs_f64();
    report(
        &format!("renewed with {expires:?}: tree dead before its lease was over by"),
        format!("{lead:.2} s"),
    );
    assert!(
        holding.dead <= end + SLACK,
        "{expires}: dead at {:?}, lent until {end:?}",
        holding.dead
    );
}

#[test]
fn a_renewal_without_a_lease_does_no_harm_if_a_good_one_follows() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(lends));
    let run = sandbox
        .distributex(server.port, &["-v", "cat"])
        .leashed()
        .start();
    run.job();
    server.set(|what| {
        if what.starts_with("release") {
            plain("OK")
        } else {
            lent_as(7, "nan")
        }
    });
    wait_until("the lock to be suspended", || {
        run.stderr().contains("suspended ")
    });
    server.set(lends);
    wait_until("the lock to be resumed", || {
        run.stderr().contains("resumed ")
    });
    assert_eq!(run.finish().end, Ok(0));
}

/// From now on the lock is revoked: renewals say so, and a release is a release.
fn revoke(server: &LockServer) {
    server.set(|what| {
        if what.starts_with("release") {
            plain("OK")
        } else {
            revoked()
        }
    });
}

#[test]
fn a_revoked_lock_is_released_when_its_command_has_been_stopped() {
    // The lease leaves a busy machine time to stop the command.
    let lends = |what: &str| lends_for(4 * SHORT, what);
    for (option, code) in [("-v", 1), ("--sysexits", 79)] {
        let (sandbox, server) = (Sandbox::new(), LockServer::start(lends));
        let run = sandbox
            .distributex(
                server.port,
                &[option, &format!("exec {}", listener("TERM=0/0.3"))],
            )
            .leashed()
            .start();
        run.wait_for_output("ready");
        revoke(&server);
        let outcome = run.wait();
        assert_eq!(
            (outcome.end, outcome.stdout.as_str()),
            (Ok(code), "ready\nTERM\n"),
            "{}",
            outcome.stderr
        );
        let line = outcome
            .stderr
            .lines()
            .find(|line| line.starts_with("distributex: revoked "))
            .unwrap_or_else(|| panic!("{}", outcome.stderr));
        for fact in [
            &format!("{}@127.0.0.1:{} after ", sandbox.id, server.port),
            "an operator revoked it at 127.0.0.1",
            "stopped",
        ] {
            assert!(line.contains(fact), "no {fact:?} in {line:?}");
        }
        assert!(
            option == "-v" || outcome.stderr.lines().count() == 1,
            "{}",
            outcome.stderr
        );
        let (told, released) = (
            server.last("renew 7").unwrap(),
            server.last("release 7").expect("with its token"),
        );
        assert!(
            released.saturating_sub(told) >= Duration::from_millis(300),
            "while the command ran on"
        );
    }
}

#[test]
fn a_command_that_is_deaf_to_a_revoke_is_killed_by_its_grace_or_by_the_end_of_its_lease() {
    for (grace, code, facts) in [
        ("0.3", 1, ["revoked ", "stopped"]),
        (
            "60",
            1,
            ["lost ", "its lease ended before the command exited"],
        ),
    ] {
        let (sandbox, server) = (Sandbox::new(), LockServer::start(lends));
        let probe = Probe::of(&sandbox);
        let run = probe
            .line(sandbox.distributex(server.port, &["-k", grace]), FOREVER)
            .start();
        probe.wait_for(1);
        wait_until("a renewal", || server.words().len() > 2);
        revoke(&server);
        fails(&run.wait(), code, &facts);
        let renewals: Vec<_> = server
            .asked()
            .into_iter()
            .filter(|asked| asked.what == "renew 7")
            .map(|asked| asked.at)
            .collect();
        let &[.., confirmed, told] = &renewals[..] else {
            panic!("{renewals:?}")
        };
        let (dead, released) = (probe.all()[0].dead, server.last("release 7").unwrap());
        assert!(
            dead <= confirmed + SHORT + SLACK && dead <= released + probe_job::PULSE,
            "dead at {dead:?}, renewals {renewals:?}, released at {released:?}"
        );
        if grace == "0.3" {
            assert!(
                dead.saturating_sub(told) < SECOND,
                "{:?}",
                dead.saturating_sub(told)
            );
        }
        assert_eq!(sandbox.processes(), process::NONE);
    }
}

/// The run before was killed, and its lock revoked; this one goes on with its id.
#[test]
fn a_revoked_lock_is_a_refusal_at_the_start_and_is_released() {
    let sandbox = Sandbox::new();
    for (options, first) in [(&[][..], "wait"), (&["-w0", "-x17"], "get")] {
        let server = LockServer::start(|what| {
            if what.starts_with("release") {
                plain("OK")
            } else {
                revoked()
            }
        });
        let outcome = sandbox
            .distributex(server.port, &[options, &["touch ran"]].concat())
            .run();
        complains(
            &outcome,
            1,
            &["Error obtaining lock, server said NO", "revoked"],
        );
        assert_eq!(server.words(), [first, "release"]);
        assert!(!sandbox.path("ran").exists());
    }
}

//! Real ensembles of three: what a job lives through, and that its tree is dead before anybody else
//! is given its lock. With `TRIES=20` each way to lose a lock is tried so often, and `tests/all`'s
//! figures say how early the tree was dead.

use common::checker::judge;
use common::ensemble::{Ensemble, SERVERS};
use common::probe_job::{self, FOREVER, Probe, SHORT};
use common::run::{Job, Running};
use common::sandbox::{Sandbox, executable};
use common::{let_last, report, tries, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use zk_flock::internals::sys::clock;

#[test]
fn a_job_lives_on_when_the_leader_is_killed() {
    let _alone = crate::alone();
    let (mut ensemble, sandbox) = (Ensemble::start(), Sandbox::new());
    let away = outlived(&mut ensemble, &sandbox, &SERVERS, |ensemble| {
        ensemble.kill(ensemble.leader());
    });
    assert!(!away.is_empty(), "not suspended");
    report(
        "leader killed, timeout 10 s: suspended for",
        away.join(", "),
    );
}

#[test]
fn a_job_lives_on_when_the_follower_that_it_talks_to_is_killed() {
    let _alone = crate::alone();
    let (mut ensemble, sandbox) = (Ensemble::start(), Sandbox::new());
    let leader = ensemble.leader();
    let followers: Vec<usize> = SERVERS
        .into_iter()
        .filter(|&server| server != leader)
        .collect();
    let away = outlived(&mut ensemble, &sandbox, &followers, |ensemble| {
        let server = followers.iter().find(|&&server| {
            sandbox
                .read("holder.log")
                .contains(&ensemble.address(server))
        });
        ensemble.kill(*server.expect("it is connected"));
    });
    assert!(!away.is_empty(), "not suspended");
    report(
        "follower killed, timeout 10 s: suspended for",
        away.join(", "),
    );
}

#[test]
fn a_job_lives_on_when_all_servers_are_restarted_in_turn() {
    let _alone = crate::alone();
    let (mut ensemble, sandbox) = (Ensemble::start(), Sandbox::new());
    let away = outlived(&mut ensemble, &sandbox, &SERVERS, |ensemble| {
        for server in SERVERS {
            ensemble.kill(server);
            ensemble.recover();
        }
    });
    assert!(!away.is_empty(), "not suspended");
    report(
        "rolling restart, timeout 10 s: suspended for",
        away.join(", "),
    );
}

#[test]
fn a_job_lives_on_when_the_leader_hangs_for_two_seconds() {
    let _alone = crate::alone();
    let (mut ensemble, sandbox) = (Ensemble::start(), Sandbox::new());
    outlived(&mut ensemble, &sandbox, &SERVERS, |ensemble| {
        let leader = ensemble.leader();
        ensemble.freeze(leader);
        let_last(Duration::from_secs(2));
        ensemble.thaw(leader);
    });
}

#[test]
fn when_all_servers_are_gone_the_tree_is_dead_before_the_session_could_be() {
    let _alone = crate::alone();
    let (mut ensemble, sandbox) = (Ensemble::start(), Sandbox::new());
    let probe = Probe::of(&sandbox);
    let holder = zk_flock(
        &sandbox,
        "holder",
        &addresses(&ensemble, &SERVERS),
        5,
        "write",
    )
    .words(&["lock"]);
    let run = probe.job(holder, FOREVER).start();
    probe.wait_for(1);
    let last_proof = clock::since_boot(); // or before
    for server in SERVERS {
        ensemble.kill(server);
    }
    assert_lost(run);
    let survived = probe.wait_for(1)[0].dead.saturating_sub(last_proof);
    assert!(survived < Duration::from_secs(5), "{survived:?}");
    report(
        "all servers killed, timeout 5 s: tree dead after",
        format!("{survived:.1?}"),
    );
}

#[test]
fn a_cut_off_follower_keeps_no_tree_alive() {
    let _alone = crate::alone();
    let (mut ensemble, sandbox) = (Ensemble::start(), Sandbox::new());
    let leads = (0..tries(2)).map(|_| {
        let follower = ensemble.follower();
        takeover(
            &mut ensemble,
            &sandbox,
            &executable(),
            "write",
            follower,
            Ensemble::cut_from_peers,
        )
    });
    probe_job::assert_no_overlap("follower cut off, timeout 5 s", leads.collect());
}

#[test]
fn an_isolated_leader_keeps_no_tree_alive() {
    let _alone = crate::alone();
    let (mut ensemble, sandbox) = (Ensemble::start(), Sandbox::new());
    let leads = (0..tries(2)).map(|_| {
        let leader = ensemble.leader();
        takeover(
            &mut ensemble,
            &sandbox,
            &executable(),
            "write",
            leader,
            Ensemble::depose,
        )
    });
    probe_job::assert_no_overlap("leader isolated, timeout 5 s", leads.collect());
}

#[test]
fn a_holder_that_trusts_pings_is_seen_to_overlap() {
    let _alone = crate::alone();
    let (mut ensemble, sandbox) = (Ensemble::start(), Sandbox::new());
    let follower = ensemble.follower();
    let lead = takeover(
        &mut ensemble,
        &sandbox,
        &executable(),
        "ping",
        follower,
        Ensemble::cut_from_peers,
    );
    assert_overlap(&sandbox, lead);
    report(
        "follower cut off, pings trusted: both jobs ran for",
        format!("{:.1} s", -lead),
    );
}

#[test]
fn a_holder_that_trusts_sync_is_seen_to_overlap() {
    let _alone = crate::alone();
    let trusting = build_that_trusts_sync();
    let (mut ensemble, sandbox) = (Ensemble::start(), Sandbox::new());
    let leader = ensemble.leader();
    let lead = takeover(
        &mut ensemble,
        &sandbox,
        &trusting,
        "write",
        leader,
        Ensemble::depose,
    );
    assert_overlap(&sandbox, lead);
    report(
        "leader isolated, sync trusted: both jobs ran for",
        format!("{:.1} s", -lead),
    );
}

/// The checker of the torture run sees what this file sees. If it did not, neither could fail.
#[track_caller]
fn assert_overlap(sandbox: &Sandbox, lead: f64) {
    assert!(lead < 0.0, "the tree was dead {lead:.3} s before");
    let verdict = judge(
        &Probe::of(sandbox).all(),
        1,
        &[],
        Duration::ZERO,
        clock::since_boot(),
    );
    assert_eq!(verdict.overlaps.len(), 1, "{verdict}");
}

/// zk-flock on these hosts. Config and log are called `name`.
fn zk_flock<'a>(
    sandbox: &'a Sandbox,
    name: &str,
    hosts: &[String],
    timeout: u32,
    heartbeat: &str,
) -> Job<'a> {
    zk_flock_at(sandbox, &executable(), name, hosts, timeout, heartbeat)
}

/// The same of another build.
fn zk_flock_at<'a>(
    sandbox: &'a Sandbox,
    build: &Path,
    name: &str,
    hosts: &[String],
    timeout: u32,
    heartbeat: &str,
) -> Job<'a> {
    let config = sandbox.path(&format!("{name}.json"));
    let text = format!(
        r#"{{"host": {hosts:?}, "timeout": {timeout}, "app_id": "{}", "heartbeat": "{heartbeat}",
            "logger": {{"path": "{}", "level": "DEBUG", "zklevel": "DEBUG"}}}}"#,
        sandbox.id,
        sandbox.path(&format!("{name}.log")).display()
    );
    fs::write(&config, text).expect("the config can be written");
    Job::new(sandbox, build).words(&[
        "--confpath",
        config.to_str().expect("paths of tests are text"),
        "-l",
        "0",
    ])
}

fn addresses(ensemble: &Ensemble, servers: &[usize]) -> Vec<String> {
    servers
        .iter()
        .map(|&server| ensemble.address(server))
        .collect()
}

/// Runs a job under a session of 10 s, on these servers, through a fault. Asserts that it lived on
/// in the same session; says how long its lock was suspended each time.
fn outlived(
    ensemble: &mut Ensemble,
    sandbox: &Sandbox,
    servers: &[usize],
    fault: impl FnOnce(&mut Ensemble),
) -> Vec<String> {
    let mut run = zk_flock(
        sandbox,
        "holder",
        &addresses(ensemble, servers),
        10,
        "write",
    )
    .words(&["lock", "cat"])
    .leashed()
    .start();
    run.job();
    fault(ensemble);
    ensemble.recover();
    let log = || sandbox.read("holder.log");
    wait_until("the lock to be resumed", || {
        log().matches(" suspended ").count() == log().matches(" resumed /").count()
    });
    assert!(!run.has_ended(), "{}", log());
    assert_eq!(
        log().matches("started, timeout 10.0 s").count(),
        1,
        "more than one session: {}",
        log()
    );
    assert_eq!(run.finish().end, Ok(0));
    log()
        .lines()
        .filter(|line| line.contains(" resumed /"))
        .filter_map(|line| Some(line.split_once(" after ")?.1.to_owned()))
        .collect()
}

/// A holder knows `server` alone, a waiter the others; then the fault. By how many seconds the
/// holder's tree was dead before the waiter's job began; negative if both ran.
fn takeover(
    ensemble: &mut Ensemble,
    sandbox: &Sandbox,
    build: &Path,
    heartbeat: &str,
    server: usize,
    fault: fn(&Ensemble, usize),
) -> f64 {
    let probe = Probe::of(sandbox);
    let before = probe.all().len();
    let lock = format!("lock-{before}");
    let others: Vec<usize> = SERVERS
        .into_iter()
        .filter(|&other| other != server)
        .collect();
    let holder = zk_flock_at(
        sandbox,
        build,
        &format!("{lock}-holder"),
        &addresses(ensemble, &[server]),
        5,
        heartbeat,
    )
    .words(&[&lock]);
    let holder = probe.job(holder, FOREVER).start();
    probe.wait_for(before + 1);
    let waiter = zk_flock(
        sandbox,
        &format!("{lock}-waiter"),
        &addresses(ensemble, &others),
        5,
        "write",
    )
    .words(&["-w", "60", &lock]);
    let waiter = probe.job(waiter, SHORT).start();
    wait_until("the waiter to wait", || {
        sandbox
            .read(&format!("{lock}-waiter.log"))
            .contains("waiting for")
    });
    fault(ensemble, server);
    assert_eq!(waiter.wait().end, Ok(0));
    assert_lost(holder);
    ensemble.recover();
    probe.wait_for(before + 2)[before..]
        .windows(2)
        .map(probe_job::lead)
        .sum()
}

/// Waits for the end of a run whose lock was taken from it.
#[track_caller]
fn assert_lost(run: Running) {
    let outcome = run.wait();
    assert_eq!(outcome.end, Ok(1));
    assert!(
        outcome.stderr.contains("zk-flock: lost /"),
        "{}",
        outcome.stderr
    );
}

/// zk-flock with `sync` for a heartbeat.
fn build_that_trusts_sync() -> PathBuf {
    let target = concat!(env!("CARGO_TARGET_TMPDIR"), "/trusts-sync");
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--locked",
            "--bin",
            "zk-flock",
            "--target-dir",
            target,
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("RUSTFLAGS", "--cfg zk_flock_trusts_sync")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status();
    assert!(built.expect("cargo is where it was").success());
    Path::new(target).join("debug/zk-flock")
}

//! The id of a run: every request has it, no two runs have the same, but one that follows a killed
//! run on its host goes on with its id.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::lock_server::{Answer, LockServer, lent, plain};
use common::run::{Outcome, Running, exited};
use common::sandbox::Sandbox;
use common::{process, wait_until};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::time::Duration;

const LEASE: Duration = Duration::from_mins(1);

fn lends(what: &str) -> Answer {
    if what.starts_with("release") {
        plain("OK")
    } else {
        lent(7, LEASE)
    }
}

/// The ids that were asked with so far, each once.
fn ids(server: &LockServer) -> Vec<String> {
    let mut ids: Vec<_> = server.asked().into_iter().map(|asked| asked.run).collect();
    ids.dedup();
    ids
}

#[track_caller]
fn goes_well(outcome: &Outcome) {
    assert_eq!(
        (outcome.end, outcome.stdout.as_str()),
        (Ok(0), "mine\n"),
        "{}",
        outcome.stderr
    );
}

/// A run whose command lives until it is killed.
#[track_caller]
fn holder<'a>(sandbox: &'a Sandbox, server: &LockServer) -> Running<'a> {
    let holder = sandbox
        .distributex(server.port, &["echo ready; exec sleep 1000"])
        .start();
    holder.wait_for_output("ready");
    holder
}

/// Kills the run and its guard, and waits until nothing is left of it.
fn crash(sandbox: &Sandbox, run: Running) {
    let guard = run.guard();
    run.signal(libc::SIGKILL);
    process::kill(guard, libc::SIGKILL);
    run.wait();
    wait_until("the tree to be gone", || {
        sandbox.processes() == process::NONE
    });
}

#[test]
fn every_request_of_a_run_has_its_id_and_no_other_run_has_it() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(lends));
    let run = |options: &[&str]| {
        sandbox
            .distributex(server.port, &[options, &["echo mine"]].concat())
            .run()
    };
    for options in [
        &[][..],
        &["-w0"],
        &["--no-local-lock"],
        &["--no-local-lock"],
    ] {
        assert_eq!(run(options), exited(0).printing("mine\n"));
        assert!(!sandbox.run_file().exists());
    }
    assert_eq!(server.words().len(), 4 * 3);
    let ids = ids(&server);
    assert_eq!(
        (ids.len(), ids.iter().collect::<BTreeSet<_>>().len()),
        (4, 4),
        "{ids:?}"
    );
    assert!(
        ids.iter()
            .all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())),
        "{ids:?}"
    );
}

#[test]
fn the_id_is_in_its_file_from_before_the_first_request_until_the_slot_is_released() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(lends));
    let file = sandbox.run_file();
    server.set(move |what| {
        let kept = fs::read_to_string(&file).is_ok_and(|text| text.len() > 32);
        assert_eq!(kept, !what.starts_with("release"), "{what}");
        lends(what)
    });
    let mut run = sandbox
        .distributex(server.port, &["-v", "echo ready; cat"])
        .leashed()
        .start();
    run.wait_for_output("ready");
    let id = ids(&server).remove(0);
    assert_eq!(
        fs::read_to_string(sandbox.run_file()).unwrap(),
        format!("{id} {}\n", run.pid())
    );
    assert_eq!(
        fs::read_to_string(sandbox.host_lock()).unwrap(),
        run.pid().to_string(),
        "as the original writes it"
    );
    let metadata = fs::metadata(sandbox.run_file()).unwrap();
    assert_eq!(
        metadata.mode() & 0o7777,
        0o1600,
        "systemd-tmpfiles leaves it alone, and others cannot read it"
    );
    run.let_go();
    let outcome = run.wait();
    assert!(
        outcome.stderr.contains(&format!("run id {id}\n")),
        "{}",
        outcome.stderr
    );
    assert_eq!(server.words().last().map(String::as_str), Some("release 7"));
    assert!(!sandbox.run_file().exists() && !sandbox.host_lock().exists());
}

#[test]
fn after_a_crash_the_next_run_goes_on_with_the_id_and_the_one_after_that_has_its_own() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(lends));
    crash(&sandbox, holder(&sandbox, &server));
    // Another crash in between makes no difference.
    crash(&sandbox, holder(&sandbox, &server));
    goes_well(&sandbox.distributex(server.port, &["echo mine"]).run());
    assert_eq!(ids(&server).len(), 1, "{:?}", ids(&server));
    assert!(!sandbox.run_file().exists());
    goes_well(&sandbox.distributex(server.port, &["echo mine"]).run());
    assert_eq!(ids(&server).len(), 2);
}

/// A run whose lock file was removed lives on: its id is none to go on with.
#[test]
fn an_id_whose_lock_file_is_gone_or_has_another_owner_is_not_used() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(lends));
    let first = holder(&sandbox, &server);
    fs::remove_file(sandbox.host_lock()).unwrap();
    let second = holder(&sandbox, &server);
    assert_eq!(ids(&server).len(), 2);
    crash_of(&second);
    fs::write(sandbox.host_lock(), dead_pid()).unwrap(); // an original, which has crashed too
    goes_well(&sandbox.distributex(server.port, &["echo mine"]).run());
    assert_eq!(ids(&server).len(), 3);
    drop(second);
    crash(&sandbox, first);
}

/// Kills a run and its guard while others of the sandbox go on.
fn crash_of(run: &Running) {
    let (guard, job) = (run.guard(), run.job());
    run.signal(libc::SIGKILL);
    process::kill(guard, libc::SIGKILL);
    wait_until("its command to be gone", || !process::alive(job));
}

/// The number of a process that has ended.
fn dead_pid() -> String {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id().to_string()
}

/// Otherwise the next run would have to wait until the lease ends.
#[test]
fn the_next_run_goes_on_with_the_id_of_one_that_could_not_release_its_lock() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(lends));
    server.set(|what| {
        if what.starts_with("release") {
            plain("INVALID")
        } else {
            lends(what)
        }
    });
    let run = sandbox.distributex(server.port, &["echo mine"]).run();
    goes_well(&run);
    run.complaint_of("distributex", &["cannot release"]);
    assert!(sandbox.run_file().exists() && !sandbox.host_lock().exists());
    server.set(lends);
    goes_well(&sandbox.distributex(server.port, &["echo mine"]).run());
    assert_eq!(ids(&server).len(), 1);
    assert!(!sandbox.run_file().exists());
}

#[test]
fn a_file_that_another_user_has_planted_is_not_used_and_nothing_is_written_through_it() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(lends));
    let planted = "ab".repeat(16);
    for plant in [
        (|file, victim| {
            fs::copy(victim, file).unwrap();
            chown(file, Some(65_534), Some(65_534)).unwrap();
        }) as fn(&std::path::Path, &std::path::Path),
        |file, victim| symlink(victim, file).unwrap(),
        |file, victim| {
            fs::hard_link(victim, file).unwrap_or_else(|_| symlink(victim, file).unwrap());
        },
    ] {
        let victim = sandbox.path("victim");
        fs::write(&victim, format!("{planted} 0\nmore\n")).unwrap();
        plant(&sandbox.run_file(), &victim);
        assert_eq!(
            sandbox.distributex(server.port, &["echo mine"]).run(),
            exited(0).printing("mine\n")
        );
        assert_eq!(
            fs::read_to_string(&victim).unwrap(),
            format!("{planted} 0\nmore\n")
        );
        assert!(!ids(&server).contains(&planted) && !sandbox.run_file().exists());
    }
}

#[test]
fn an_id_that_cannot_be_kept_is_a_warning_and_the_run_goes_on() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(lends));
    fs::create_dir_all(sandbox.run_file().join("in the way")).unwrap();
    let outcome = sandbox.distributex(server.port, &["echo mine"]).run();
    fs::remove_dir_all(sandbox.run_file()).unwrap();
    goes_well(&outcome);
    let file = sandbox.run_file();
    outcome.complaint_of(
        "distributex",
        &[
            "WARNING: cannot keep the id of this run in ",
            file.to_str().unwrap(),
            "if it is killed",
        ],
    );
    assert_eq!(ids(&server)[0].len(), 32);
}

/// The request may arrive when the next run has the slot, and must not release that.
#[test]
fn a_run_that_is_killed_while_it_releases_its_lock_leaves_no_id() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(lends));
    server.set(|what| {
        if what.starts_with("release") {
            Answer::Freeze
        } else {
            lends(what)
        }
    });
    let run = sandbox.distributex(server.port, &["echo mine"]).start();
    wait_until("a release", || server.last("release 7").is_some());
    run.signal(libc::SIGKILL);
    run.wait();
    server.set(lends);
    goes_well(&sandbox.distributex(server.port, &["echo mine"]).run());
    assert_eq!(ids(&server).len(), 2);
}

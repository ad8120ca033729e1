//! The command's process tree: gone when either of the two processes above it is, and left alone
//! when the command ends by itself.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::client::Client;
use common::run::{Job, Running, exited, listener};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use common::{SECOND, process, report, wait_until};
use std::path::Path;
use std::time::Instant;

/// A tree of three: one in the process group of the command, one in a session of its own.
const TREE: &str = "sh -c 'sleep 1000 & setsid sleep 1000 & wait'";

/// The same, deaf to TERM.
const DEAF: &str = "sh -c 'trap \"\" TERM; sleep 1000 & setsid sleep 1000 & wait'";

/// Waits until all of a tree runs.
#[track_caller]
fn grown(sandbox: &Sandbox, run: &Running) {
    run.job();
    wait_until("two sleeps", || sandbox.running("sleep 1000").len() == 2);
}

/// Waits until nothing runs in the sandbox but these.
#[track_caller]
fn only(sandbox: &Sandbox, expected: &[i32]) {
    wait_until("the tree to be gone", || sandbox.processes() == expected);
}

#[test]
fn when_zk_flock_is_killed_the_tree_is_killed() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let run = sandbox.flock(server, &["lock", TREE]).start();
    grown(&sandbox, &run);
    let killed = Instant::now();
    run.signal(libc::SIGKILL);
    only(&sandbox, &process::NONE);
    report(
        "tree gone after kill -9 of zk-flock",
        format!("{:.0} ms", killed.elapsed().as_secs_f64() * 1000.0),
    );
    let outcome = run.wait();
    assert_eq!(
        (outcome.end, outcome.stdout.as_str()),
        (Err(libc::SIGKILL), "")
    );
    outcome.complaint(&["killed"]);
}

#[test]
fn when_zk_flock_is_killed_a_tree_that_ignores_term_is_dead_before_the_lock_is_free() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    let run = sandbox
        .flock_at(&server.address(), 6, &["-k", "600", "lock", DEAF])
        .start();
    grown(&sandbox, &run);
    let held = client.watch(&sandbox.node("lock"));
    run.signal(libc::SIGKILL);
    only(&sandbox, &process::NONE);
    assert_eq!(
        client.stat(&sandbox.node("lock")),
        held,
        "whose session has not expired yet"
    );
    client.wait_until_gone(&sandbox.node("lock"));
}

#[test]
fn while_zk_flock_is_stopped_the_tree_is_dead_before_the_lock_is_free() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    for options in [&[][..], &["-p", "0"]] {
        let run = sandbox
            .flock_at(&server.address(), 6, &[options, &["lock", DEAF]].concat())
            .start();
        grown(&sandbox, &run);
        let held = client.watch(&sandbox.node("lock"));
        run.signal(libc::SIGSTOP);
        wait_until("the tree to be gone", || {
            sandbox.running("sleep 1000").is_empty()
        });
        assert_eq!(
            client.stat(&sandbox.node("lock")),
            held,
            "whose session has not expired yet"
        );
        client.wait_until_gone(&sandbox.node("lock"));
        run.signal(libc::SIGCONT);
        run.wait().complains(1, &["lost", &sandbox.node("lock")]);
    }
}

#[test]
fn when_zk_flock_is_killed_the_command_gets_the_chosen_signal() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    for (option, signal) in [
        ("USR1", "USR1"),
        ("SIGHUP", "HUP"),
        ("12", "USR2"),
        ("2", "INT"),
    ] {
        let words = [
            "-w",
            "60",
            "-p",
            option,
            "lock",
            &listener(&format!("{signal}=0")),
        ];
        let run = sandbox.flock(server, &words).leashed().start();
        run.wait_for_output("ready\n");
        let killed = Instant::now();
        run.signal(libc::SIGKILL);
        run.wait_for_output(&format!("{signal}\n"));
        report(
            &format!("SIG{signal} in the command after kill -9 of zk-flock"),
            format!("{:.1} ms", killed.elapsed().as_secs_f64() * 1000.0),
        );
        only(&sandbox, &process::NONE);
        let mut client = Client::connect(server, 15 * SECOND);
        client.delete(&sandbox.node("lock")).unwrap();
    }
}

#[test]
fn with_pdeathsig_0_the_command_outlives_zk_flock() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    let run = sandbox
        .flock_at(&server.address(), 2, &["-p", "0", "lock", "sleep 1000"])
        .start();
    let job = run.job();
    client.watch(&sandbox.node("lock")).expect("it is held");
    run.signal(libc::SIGKILL);
    client.wait_until_gone(&sandbox.node("lock"));
    assert!(process::alive(job), "though the lock is not held any more");
    process::kill(job, libc::SIGKILL);
    only(&sandbox, &process::NONE);
}

#[test]
fn when_the_guard_is_killed_the_tree_is_killed_and_the_lock_released() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    for (options, code) in [(&[][..], 1), (&["--sysexits", "-l", "600"], 70)] {
        for tree in [TREE, DEAF] {
            let run = sandbox
                .flock(server, &[options, &["lock", tree]].concat())
                .start();
            grown(&sandbox, &run);
            process::kill(run.guard(), libc::SIGKILL);
            let outcome = run.wait();
            assert_eq!(sandbox.processes(), process::NONE);
            assert_eq!(client.stat(&sandbox.node("lock")), None);
            outcome.complains(code, &["guard"]);
        }
    }
}

#[test]
fn when_zk_flock_and_guard_are_killed_the_command_dies() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    for guard_first in [false, true] {
        let run = sandbox
            .flock(server, &["-w", "60", "lock", "sleep 1000"])
            .start();
        run.job();
        let mut pids = [run.pid(), run.guard()];
        if guard_first {
            pids.reverse();
        }
        for pid in pids {
            process::kill(pid, libc::SIGKILL);
        }
        only(&sandbox, &process::NONE);
        Client::connect(server, 15 * SECOND)
            .delete(&sandbox.node("lock"))
            .ok();
    }
}

#[test]
fn a_daemon_of_the_command_survives_a_normal_end() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let command = "sh -c '(setsid sleep 1000 &) ; (sleep 1001 &) ; exit 4'";
    assert_eq!(
        sandbox.flock(server, &["-l", "0", "lock", command]).run(),
        exited(4)
    );
    for words in ["sleep 1000", "sleep 1001"] {
        wait_until(words, || sandbox.running(words).len() == 1);
    }
    wait_until("the guard to leave", || sandbox.processes().len() == 2);
    for daemon in sandbox.processes() {
        assert!(process::kill(daemon, libc::SIGKILL));
    }
}

#[test]
fn a_search_for_zk_flock_or_the_command_does_not_match_the_guard() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut run = sandbox
        .flock(server, &["-l", "0", "lock", "cat"])
        .leashed()
        .start();
    let (guard, job) = (run.guard(), run.job());
    assert!(
        process::words(guard).contains("lock-guard lock")
            && !process::words(guard).contains("flock"),
        "{}",
        process::words(guard)
    );
    assert!(!process::words(guard).contains("cat"));
    assert_eq!(
        (process::parent(guard), process::parent(job)),
        (Some(run.pid()), Some(guard))
    );
    let expected = if process::has_terminal(job) {
        process::group(run.pid())
    } else {
        Some(job)
    };
    assert_eq!(
        process::group(job),
        expected,
        "its own, unless a terminal's job control needs it in ours"
    );
    wait_until("the guard to be out of that group", || {
        process::group(guard) == Some(guard)
    });
    run.let_go();
    assert_eq!(run.wait(), exited(0));
}

#[test]
fn a_full_stderr_does_not_keep_the_guard_from_killing() {
    let sandbox = Sandbox::new();
    let line = sandbox.local(&["-k", "1", "lock", DEAF]).line();
    let full =
        "mkfifo fifo; exec 9<>fifo; dd if=/dev/zero of=fifo oflag=nonblock bs=4096 2>/dev/null";
    let run = Job::new(&sandbox, Path::new("sh"))
        .words(&["-c", &format!("{full}; exec {line} 2>&9")])
        .start();
    grown(&sandbox, &run);
    run.signal(libc::SIGKILL);
    only(&sandbox, &process::NONE);
}

#[test]
fn when_the_guard_is_killed_while_it_stops_the_tree_zk_flock_stops_the_rest() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    let command = "sh -c '(trap \"\" TERM; sleep 1000 & setsid sleep 1000 & wait) & trap \"exit 3\" TERM; wait'";
    let run = sandbox
        .flock(server, &["-l", "0", "-k", "600", "lock", command])
        .start();
    grown(&sandbox, &run);
    run.signal(libc::SIGTERM);
    wait_until("the command to have ended", || {
        sandbox.log().contains("Child exited")
    });
    process::kill(run.guard(), libc::SIGKILL);
    let outcome = run.wait();
    assert_eq!(
        sandbox.processes(),
        process::NONE,
        "nothing is left when we are"
    );
    assert_eq!(outcome.end, Ok(3));
    client.wait_until_gone(&sandbox.node("lock"));
}

#[test]
fn the_end_of_a_command_sends_no_hangup_to_stopped_processes_of_its_group() {
    let sandbox = Sandbox::new();
    let line = sandbox.local(&["-l", "0", "lock", "true"]).line();
    // As under cron: a session whose process group nobody in it is outside of, so that the group is
    // an orphaned one.
    let script = format!(
        "sleep 1000 & kill -STOP $!; until grep -q '^State:.*T' /proc/$!/status; do :; done; {line}; kill -KILL $!; echo still here"
    );
    for _ in 0..5 {
        let outcome = Job::new(&sandbox, Path::new("setsid"))
            .words(&["--wait", "sh", "-c", &script])
            .run();
        assert_eq!(
            (outcome.end, outcome.stdout.as_str()),
            (Ok(0), "still here\n")
        );
    }
}

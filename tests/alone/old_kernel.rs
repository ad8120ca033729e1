//! The main job's promises on kernels that lack what ours has: strace answers ENOSYS and EINVAL in
//! the place of newer calls.

use common::run::{Job, exited};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use common::{process, wait_until};
use std::path::Path;

/// Since Linux 5.3, 5.1, 5.9, 5.3, 4.11 and 3.17.
const MISSING: &str = "pidfd_open,pidfd_send_signal,close_range,clone3,statx,getrandom";

/// A tree of three, one of them in a session of its own, deaf to TERM as long as it is told
/// politely.
const TREE: &str =
    "sh -c 'trap \"\" TERM; sleep 1000 & setsid sleep 1000 & echo ready; wait; wait'";

/// The same program on an old kernel. The tracer stands aside, so that the process that is started
/// is still the program.
fn on_an_old_kernel<'a>(sandbox: &'a Sandbox, job: &Job) -> Job<'a> {
    let trace = format!("strace -D -f -qq -o trace -e trace={MISSING},timerfd_create");
    let inject = format!("-e inject={MISSING}:error=ENOSYS -e inject=timerfd_create:error=EINVAL");
    Job::new(sandbox, Path::new("sh"))
        .words(&["-c", &format!("exec {trace} {inject} {}", job.line())])
        .leashed()
}

/// A run on a server, and one on this host alone.
fn both<'a>(sandbox: &'a Sandbox, words: &[&str]) -> [Job<'a>; 2] {
    [
        sandbox.flock(ZooKeeper::shared(), words),
        sandbox.local(words),
    ]
    .map(|job| on_an_old_kernel(sandbox, &job))
}

#[test]
fn the_calls_are_missed_indeed() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    let [node, _] = both(&sandbox, &["-l", "0", "lock", "true"]);
    assert_eq!(node.run(), exited(0));
    wait_until("the tracer to leave", || sandbox.processes().is_empty());
    let trace = sandbox.read("trace");
    for call in ["getrandom(", "timerfd_create(", "close_range("] {
        assert!(
            trace
                .lines()
                .any(|line| line.contains(call) && line.contains("(INJECTED)")),
            "no {call} in {trace}"
        );
    }
}

#[test]
fn exit_codes_are_as_ever() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    for (command, code) in [
        ("true", 0),
        ("sh -c 'exit 123'", 123),
        ("sh -c 'exit 255'", 255),
        ("sh -c 'kill -9 $$'", 137),
    ] {
        for job in both(&sandbox, &["-l", "0", "lock", command]) {
            assert_eq!(job.run(), exited(code), "{command}");
        }
    }
    for (command, code) in [("no-such-command", 127), ("/", 126)] {
        for job in both(&sandbox, &["lock", command]) {
            job.run().complains(code, &["cannot run"]);
        }
    }
}

#[test]
fn a_waiter_gets_its_turn_or_is_busy_in_time() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    let holders = both(&sandbox, &["-l", "0", "lock", "cat"]).map(Job::start);
    for holder in &holders {
        holder.job();
    }
    for job in both(&sandbox, &["-w", "0.5", "-x", "17", "lock", "touch ran"]) {
        assert_eq!(job.run(), exited(17));
    }
    let waiters = both(&sandbox, &["-l", "0", "-w", "60", "lock", "echo mine"]).map(Job::start);
    for holder in holders {
        assert_eq!(holder.finish(), exited(0));
    }
    for waiter in waiters {
        assert_eq!(waiter.wait(), exited(0).printing("mine\n"));
    }
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn term_ends_all_of_the_tree_and_frees_the_lock() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    for job in both(&sandbox, &["-l", "0", "-k", "0.5", "lock", TREE]) {
        let run = job.start();
        run.wait_for_output("ready");
        wait_until("two sleeps", || sandbox.running("sleep 1000").len() == 2);
        run.signal(libc::SIGTERM);
        assert_eq!(run.wait(), exited(137).printing("ready\n"));
        assert!(sandbox.running("sleep 1000").is_empty());
        assert_eq!(
            sandbox
                .client(ZooKeeper::shared())
                .stat(&sandbox.node("lock")),
            None
        );
    }
}

#[test]
fn when_zk_flock_or_its_guard_is_killed_all_of_the_tree_goes() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    for guard in [false, true] {
        for job in both(
            &sandbox,
            &["-l", "0", "-k", "0.5", "-w", "60", "lock", TREE],
        ) {
            let run = job.start();
            run.wait_for_output("ready");
            wait_until("two sleeps", || sandbox.running("sleep 1000").len() == 2);
            let victim = if guard { run.guard() } else { run.pid() };
            process::kill(victim, libc::SIGKILL);
            wait_until("the tree to be gone", || {
                sandbox.running("sleep 1000").is_empty()
            });
            let outcome = run.wait();
            assert_eq!(
                outcome.end,
                if guard { Ok(1) } else { Err(libc::SIGKILL) },
                "{outcome:?}"
            );
        }
    }
}

#[test]
fn a_minimum_hold_is_kept_without_a_timer() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    for job in both(&sandbox, &["-l", "1", "lock", "true"]) {
        let run = job.start();
        let started = run.started;
        assert_eq!(run.wait(), exited(0));
        assert!(
            started.elapsed() >= common::SECOND,
            "{:?}",
            started.elapsed()
        );
    }
}

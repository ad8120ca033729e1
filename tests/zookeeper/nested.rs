//! A run that is started under a lock and waits for that lock would wait for itself: an error at
//! once, in every program, and only then.

use common::run::{Outcome, exited};
use common::sandbox::{Sandbox, executable};
use common::zookeeper::ZooKeeper;

/// The program with these words, as a command of another run.
fn inner(words: &[&str]) -> Vec<String> {
    std::iter::once(executable().display().to_string())
        .chain(words.iter().map(ToString::to_string))
        .collect()
}

/// Runs one under another, outermost first; each has options, the last one a command too.
fn nest(sandbox: &Sandbox, runs: &[&[&str]]) -> Outcome {
    let words: Vec<String> = runs.iter().flat_map(|words| inner(words)).skip(1).collect();
    sandbox
        .program(&words.iter().map(String::as_str).collect::<Vec<_>>())
        .run()
}

/// The words of a zk-flock that waits for this lock.
fn flock<'a>(sandbox: &'a Sandbox, hosts: &'a str, lock: &[&'a str]) -> Vec<&'a str> {
    let options = [
        "--hosts",
        hosts,
        "--app-id",
        &sandbox.id,
        "--timeout",
        "15",
        "-l",
        "0",
        "--sysexits",
        "-w",
        "inf",
    ];
    [&options[..], lock, &["--"]].concat()
}

/// The words of a lockex that waits for this lock.
fn lockex<'a>(hosts: &'a str, lock: &[&'a str]) -> Vec<&'a str> {
    [
        &["--program=lockex", "--zkhosts", hosts, "--sysexits"],
        lock,
        &["--"],
    ]
    .concat()
}

#[track_caller]
fn is_circular(outcome: &Outcome, program: &str) {
    assert_eq!(outcome.end, Ok(65), "{outcome:?}");
    outcome.complaint_of(
        program,
        &[
            "is held by a run that this one was started under",
            "the wait cannot end",
        ],
    );
}

#[test]
fn a_wait_for_a_lock_of_any_enclosing_run_is_an_error() {
    let (address, sandbox) = (ZooKeeper::shared().address(), Sandbox::new());
    let [a, b] = [["a"], ["b"]].map(|lock| flock(&sandbox, &address, &lock));
    let last = |words: &[&'static str], run: &[&str]| {
        [run, words]
            .concat()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let echo = last(&["echo", "ran"], &a);
    let echo: Vec<&str> = echo.iter().map(String::as_str).collect();
    is_circular(&nest(&sandbox, &[&a, &echo]), "zk-flock");
    is_circular(&nest(&sandbox, &[&a, &b, &echo]), "zk-flock");
    assert_eq!(
        nest(&sandbox, &[&b, &echo]),
        exited(0).printing("ran\n"),
        "another lock is none of that"
    );
}

#[test]
fn a_wait_for_several_locks_is_an_error_only_if_enclosing_runs_hold_all() {
    let (address, sandbox) = (ZooKeeper::shared().address(), Sandbox::new());
    let id = ["-i", &sandbox.id, "-c", "2"];
    for (program, run) in [
        ("zk-flock", flock(&sandbox, &address, &["-n", "2", "lock"])),
        ("lockex", lockex(&address, &id)),
    ] {
        let echo = [&run[..], &["echo", "ran"]].concat();
        let once = nest(&sandbox, &[&run, &echo]);
        assert!(
            once.end == Ok(0) && once.stdout.ends_with("ran\n"),
            "{program}: {once:?}"
        );
        is_circular(&nest(&sandbox, &[&run, &run, &echo]), program);
    }
    let alone = lockex(&address, &["-i", "nested-alone"]);
    is_circular(
        &nest(&sandbox, &[&alone, &[&alone[..], &["true"]].concat()]),
        "lockex",
    );
}

#[test]
fn a_local_lock_is_known_by_its_token() {
    let sandbox = Sandbox::new();
    let folder = format!("--local={}", sandbox.path("").display());
    let local = |lock| {
        vec![
            folder.as_str(),
            "-l",
            "0",
            "--sysexits",
            "-w",
            "inf",
            lock,
            "--",
        ]
    };
    let echo = [&local("a")[..], &["echo", "ran"]].concat();
    is_circular(
        &nest(&sandbox, &[&local("a"), &local("b"), &echo]),
        "zk-flock",
    );
    assert_eq!(
        nest(&sandbox, &[&local("b"), &echo]),
        exited(0).printing("ran\n")
    );
}

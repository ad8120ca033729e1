//! `--every PERIOD`: one run in a period, whichever asks first, and what the record of it shows.

use common::run::{Outcome, exited, killed};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;

const KILL: i32 = 9;

/// One run with these options, of a command that leaves a line and exits with this code.
fn run(sandbox: &Sandbox, options: &[&str], exit: u8) -> Outcome {
    let command = format!("sh -c 'echo ran >>runs; exit {exit}'");
    let words = [options, &["-l", "0", "-x", "17", "lock", &command]].concat();
    sandbox.flock(ZooKeeper::shared(), &words).run()
}

fn runs(sandbox: &Sandbox) -> usize {
    sandbox.read("runs").lines().count()
}

#[test]
fn a_period_has_one_run_and_plain_runs_do_not_count() {
    let sandbox = Sandbox::new();
    let mut client = sandbox.client(ZooKeeper::shared());
    assert_eq!(run(&sandbox, &[], 0), exited(0));
    let record = sandbox.node(".runs/lock");
    assert_eq!(client.stat(&record), None, "a plain run leaves none");
    assert_eq!(run(&sandbox, &["--every", "1h"], 3), exited(3));
    let left = client.data(&record).expect("a record");
    let left = String::from_utf8(left).expect("JSON");
    assert!(left.contains("\"exit\":3"), "{left}");
    assert_eq!(
        run(&sandbox, &["--every", "1h"], 0),
        exited(17),
        "in silence"
    );
    assert_eq!(
        run(&sandbox, &[], 0),
        exited(0),
        "a plain run is not limited"
    );
    assert_eq!(runs(&sandbox), 3);
    let loud = run(&sandbox, &["-v", "--every", "1h"], 0);
    let line = loud
        .stderr
        .lines()
        .find(|line| line.contains("already run at 20"));
    let line = line.unwrap_or_else(|| panic!("{}", loud.stderr));
    assert!(
        line.ends_with(&format!(" lock={}", sandbox.node("lock"))),
        "{line}"
    );
    let retry = ["--every", "1h", "--retry-failed"];
    assert_eq!(
        run(&sandbox, &retry, 0),
        exited(0),
        "exit code 3 does not count"
    );
    assert_eq!(run(&sandbox, &retry, 0), exited(17), "and 0 does");
    let started = client.stat(&record).expect("a record").czxid;
    assert_eq!(
        run(&sandbox, &["--every", "0.001"], 0),
        exited(0),
        "the next period"
    );
    assert!(client.stat(&record).expect("a record").czxid > started);
}

#[test]
fn a_run_that_was_killed_counts_unless_failed_runs_are_repeated() {
    let sandbox = Sandbox::new();
    let mut client = sandbox.client(ZooKeeper::shared());
    let words = ["-l", "0", "--every", "1h", "lock", "cat"];
    let held = sandbox.flock_at(&ZooKeeper::shared().address(), 5, &words);
    let held = held.leashed().start();
    held.job();
    held.signal(KILL);
    assert_eq!(held.wait().end, killed(KILL).end); // and the guard reports it
    client.wait_until_gone(&sandbox.node("lock"));
    assert_eq!(run(&sandbox, &["--every", "1h"], 0), exited(17));
    let retry = ["--every", "1h", "--retry-failed"];
    assert_eq!(run(&sandbox, &retry, 0), exited(0));
    assert_eq!(runs(&sandbox), 1);
}

#[test]
fn waiters_find_their_turn_taken_by_the_run_that_they_waited_for() {
    let sandbox = Sandbox::new();
    let server = ZooKeeper::shared();
    let mut client = sandbox.client(server);
    let words = ["-l", "0", "--every", "1s", "lock", "cat"];
    let holder = sandbox.flock(server, &words).leashed().start();
    holder.job();
    let waiters: Vec<_> = (1..=2)
        .map(|count| {
            let every = ["--every", "0.001", "-w", "60", "-l", "0", "-x", "17"];
            let words = [&every[..], &["lock", "sh -c 'echo ran >>runs'"]].concat();
            let waiter = sandbox.flock(server, &words).start();
            client.wait_for_children(&sandbox.node(".queue/lock"), count);
            waiter
        })
        .collect();
    assert_eq!(holder.finish(), exited(0));
    // The start is more than half of 1 ms ago, but the first of them asked after it, and the second
    // before the first started.
    let ends: Vec<_> = waiters.into_iter().map(|waiter| waiter.wait()).collect();
    assert_eq!(ends, [exited(0), exited(17)]);
    assert_eq!(runs(&sandbox), 1);
}

#[test]
fn lockex_exits_0_in_silence_and_keeps_its_record_beside_the_lock() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let every = ["--every", "1h", "-i", "id", "echo ran"];
    let ran = exited(0).printing("ran\n");
    assert_eq!(sandbox.lockex(server, &every).run(), ran);
    assert_eq!(sandbox.lockex(server, &every).run(), exited(0));
    let mut client = sandbox.client(server);
    assert!(client.stat(&sandbox.node(".runs/id")).is_some());
    assert!(client.children(&sandbox.node("id")).is_empty());
}

#[test]
fn a_period_of_one_host_has_one_run_in_any_number_of_processes() {
    let sandbox = Sandbox::new();
    let every = |options: &[&str], exit: u8| {
        let command = format!("sh -c 'echo ran >>runs; exit {exit}'");
        let words = [options, &["-l", "0", "-x", "17", "lock", &command]].concat();
        sandbox.local(&words)
    };
    let hour = ["--every", "1h", "-w", "60"];
    let all: Vec<_> = (0..8).map(|_| every(&hour, 3).start()).collect();
    let mut ends: Vec<_> = all.into_iter().map(|run| run.wait().end).collect();
    ends.sort_unstable();
    assert_eq!(ends[..2], [Ok(3), Ok(17)], "{ends:?}");
    assert_eq!(runs(&sandbox), 1);
    assert_eq!(
        every(&[], 0).run(),
        exited(0),
        "a plain run keeps the record"
    );
    assert_eq!(every(&hour, 0).run(), exited(17));
    assert_eq!(
        every(&["--every", "1h", "--retry-failed"], 0).run(),
        exited(0)
    );
    assert_eq!(every(&["--every", "0.001"], 0).run(), exited(0));
    let status = sandbox.local(&["--status", "lock"]).run();
    assert!(status.stdout.contains("last run by "), "{}", status.stdout);
    assert!(
        status.stdout.contains(": exit code 0 after "),
        "{}",
        status.stdout
    );
}

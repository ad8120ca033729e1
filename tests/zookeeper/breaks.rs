//! `--break`: a holder that is asked stops its command and releases the lock; one that does not
//! answer keeps it, unless its node is deleted.

use common::kazoo::Kazoo;
use common::process;
use common::run::{Job, Outcome, Running, exited};
use common::sandbox::Sandbox;
use common::wait_until;
use common::zookeeper::ZooKeeper;
use std::net::TcpListener;
use std::path::Path;

/// A session timeout whose lease outlives a test in which a holder is stopped.
const LONG: u32 = 60;

/// A command that says when it is up, ends at TERM, and takes a moment for it.
const ENDS_AT_TERM: &str = "sh -c 'exec 2>/dev/null; trap \"sleep 0.3; echo trapped; exit 3\" TERM; echo up; while :; do sleep 0.05; done'";

/// The same command, deaf to TERM.
const DEAF: &str =
    "sh -c 'exec 2>/dev/null; trap \"\" TERM; echo up; while :; do sleep 0.05; done'";

fn held<'a>(
    sandbox: &'a Sandbox,
    server: &ZooKeeper,
    options: &[&str],
    command: &str,
) -> Running<'a> {
    let run = sandbox
        .flock(server, options)
        .words(&["lock", command])
        .start();
    run.wait_for_output("up");
    run
}

/// The token of the lock's holder.
fn token(sandbox: &Sandbox, server: &ZooKeeper) -> i64 {
    let node = sandbox.node("lock");
    let mut client = sandbox.client(server);
    client.wait_for_node(&node).czxid
}

/// The Python original's ways, leashed.
fn python<'a>(sandbox: &'a Sandbox, server: &ZooKeeper, wait: &str) -> Running<'a> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/python_holder.py");
    Job::new(sandbox, Path::new("python3"))
        .words(&[script, &server.port.to_string(), &sandbox.id, "lock", wait])
        .leashed()
        .start()
}

#[test]
fn a_holder_that_is_asked_stops_its_command_and_the_next_starts_after_that() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    sandbox.client(server);
    let holder = held(&sandbox, server, &["-l", "600"], ENDS_AT_TERM);
    let waiter = sandbox
        .flock(server, &["-l", "0", "-w", "60", "lock", "echo next"])
        .start();
    wait_until("the waiter to wait", || {
        sandbox.log().contains("waiting for")
    });
    let node = sandbox.node("lock");
    let broken = sandbox.flock(server, &["--break", "lock"]).run();
    assert_eq!((broken.end, broken.stderr.as_str()), (Ok(0), ""));
    let began = format!("evicted {}:{} (token ", hostname(), holder.pid());
    assert!(broken.stdout.starts_with(&began), "{broken:?}");
    assert!(
        broken
            .stdout
            .contains(&format!("from {node}, which it had held for"))
    );
    let end = holder.wait();
    end.complaint(&["revoked", &node, "asked for it by --break"]);
    assert_eq!((end.end, end.stdout.as_str()), (Ok(1), "up\ntrapped\n"));
    assert_eq!(waiter.wait(), exited(0).printing("next\n"));
    let log = sandbox.log();
    let [gone, next] = [
        "all processes of the command have exited",
        "Start subprocess: echo next",
    ]
    .map(|line| log.find(line).unwrap_or_else(|| panic!("{line}: {log}")));
    assert!(gone < next, "{log}");
}

#[test]
fn a_deaf_command_is_killed_and_the_run_exits_with_79() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    sandbox.client(server);
    let holder = held(&sandbox, server, &["--sysexits", "-k", "0.5"], DEAF);
    assert_eq!(sandbox.flock(server, &["--break", "lock"]).run().end, Ok(0));
    let end = holder.wait();
    end.complaint(&["revoked"]);
    assert_eq!(end.end, Ok(79));
}

#[test]
fn a_stopped_holder_is_named_and_keeps_the_lock() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    sandbox.client(server);
    let words = ["-l", "0", "lock", "sh -c 'echo up; cat'"];
    let holder = sandbox
        .flock_at(&server.address(), LONG, &words)
        .leashed()
        .start();
    holder.wait_for_output("up");
    holder.signal(libc::SIGSTOP);
    wait_until("it is stopped", || {
        process::state(holder.pid()) == Some('T')
    });
    let broken = sandbox.flock(server, &["--break", "lock"]).run();
    let who = format!("{}:{}", hostname(), holder.pid());
    broken.complains(1, &[&who, "does not answer and keeps", "--force"]);
    assert!(sandbox.client(server).stat(&sandbox.node("lock")).is_some());
    holder.signal(libc::SIGCONT);
    // It finds the request gone: the client that made it has left.
    assert_eq!(holder.finish(), exited(0).printing("up\n"));
}

#[test]
fn a_python_holder_is_refused_until_its_node_is_deleted_by_force() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    sandbox.client(server);
    let holder = python(&sandbox, server, "5");
    holder.wait_for_output("held");
    let node = sandbox.node("lock");
    let token = token(&sandbox, server);
    let broken = sandbox
        .flock(server, &["--sysexits", "--break", "lock"])
        .run();
    broken.complains(
        75,
        &[&format!("(token {token}) does not answer and keeps {node}")],
    );
    assert!(sandbox.client(server).stat(&node).is_some());
    let forced = sandbox.flock(server, &["--break", "lock", "--force"]).run();
    let line = format!(
        "deleted the node of {} (token {token}), which did not answer, from {node}; its command may run on\n",
        hostname()
    );
    assert_eq!(forced, exited(0).printing(&line));
    assert_eq!(
        sandbox
            .flock(server, &["-l", "0", "lock", "echo next"])
            .run(),
        exited(0).printing("next\n")
    );
    holder.finish();
}

#[test]
fn a_python_waiter_wakes_after_a_break() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    sandbox.client(server);
    let holder = held(&sandbox, server, &["-l", "600"], ENDS_AT_TERM);
    let waiter = python(&sandbox, server, "60");
    waiter.wait_for_output("busy");
    assert_eq!(sandbox.flock(server, &["--break", "lock"]).run().end, Ok(0));
    waiter.wait_for_output("held");
    assert!(!waiter.stdout().contains("woken"), "{}", waiter.stdout());
    assert!(waiter.stdout().contains("deleted"), "{}", waiter.stdout());
    holder.wait().complaint(&["revoked"]);
    waiter.finish();
}

#[test]
fn the_token_of_an_earlier_holder_is_refused_and_a_free_lock_is_said_to_be_free() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    sandbox.client(server);
    sandbox
        .flock(server, &["--break", "lock"])
        .run()
        .complains(3, &["lock is free"]);
    let words = ["-l", "0", "lock", "sh -c 'echo up; cat'"];
    let mut first = sandbox.flock(server, &words).leashed().start();
    first.wait_for_output("up");
    let earlier = token(&sandbox, server).to_string();
    first.let_go();
    first.wait();
    let second = sandbox.flock(server, &words).leashed().start();
    second.wait_for_output("up");
    let of_first = ["--break", "lock", "--token", &earlier];
    sandbox.flock(server, &of_first).run().complains(
        1,
        &[
            &format!("token {earlier} does not hold lock any more"),
            "it is held by",
        ],
    );
    assert_eq!(second.finish(), exited(0).printing("up\n"));
}

#[test]
fn the_time_of_w_bounds_the_connecting() {
    let (sandbox, silent) = (Sandbox::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = silent.local_addr().unwrap().to_string();
    let words = ["--break", "-w", "2", "lock"];
    let broken = sandbox.flock_at(&address, LONG, &words).run();
    broken.complains(1, &["cannot reach ZooKeeper", "no answer for "]);
    let (_, silence) = broken.stderr.split_once("no answer for ").unwrap();
    let silence: f64 = silence.split(' ').next().unwrap().parse().unwrap();
    assert!(silence < f64::from(LONG) / 2.0, "{silence}");
}

#[test]
fn several_holders_are_listed_and_one_is_chosen_by_its_token() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    sandbox.client(server);
    let words = ["-n", "2", "-l", "0", "lock", ENDS_AT_TERM];
    let holders = [(); 2].map(|()| {
        let holder = sandbox.flock(server, &words).start();
        holder.wait_for_output("up");
        holder
    });
    let mut client = sandbox.client(server);
    let second = client
        .wait_for_node(&sandbox.node("lock_1"))
        .czxid
        .to_string();
    let listed = sandbox.flock(server, &["-n", "2", "--break", "lock"]).run();
    listed.complains(1, &["lock has 2 holders", &format!("(token {second})")]);
    let words = ["-n", "2", "--break", "lock", "--token", &second];
    assert_eq!(sandbox.flock(server, &words).run().end, Ok(0));
    let [first, second] = holders;
    second.wait().complaint(&["revoked", "lock_1"]);
    assert!(client.stat(&sandbox.node("lock_0")).is_some());
    first.signal(libc::SIGTERM);
    assert_eq!(first.wait().end, Ok(3));
}

/// The same command as one of lockex, which has a shell.
const SHELL_ENDS_AT_TERM: &str = "exec 2>/dev/null; trap 'sleep 0.3; echo trapped; exit 3' TERM; echo up; while :; do sleep 0.05; done";

#[track_caller]
fn assert_evicted(outcome: &Outcome, holder: &str, path: &str, time: &str) {
    let line = outcome.stdout.as_str();
    assert!(
        line.starts_with(&format!("evicted {holder} (token "))
            && line.contains(&format!(" from {path}, which it had {time} ")),
        "{outcome:?}"
    );
    assert_eq!((outcome.end, outcome.stderr.as_str()), (Ok(0), ""));
}

#[test]
fn the_holder_of_a_lockex_lock_stops_its_command() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let holder = sandbox
        .lockex(server, &["-i", "id", SHELL_ENDS_AT_TERM])
        .start();
    holder.wait_for_output("up");
    let waiter = sandbox.lockex(server, &["-i", "id", "echo next"]).start();
    sandbox
        .client(server)
        .wait_for_children(&sandbox.node("id"), 2);
    let broken = sandbox.lockex(server, &["--break", "-i", "id"]).run();
    let who = format!("{}:{}", hostname(), holder.pid());
    assert_evicted(&broken, &who, &sandbox.node("id"), "requested");
    let end = holder.wait();
    end.complaint_of("lockex", &["revoked", "asked for it by --break"]);
    assert_eq!((end.end, end.stdout.as_str()), (Ok(1), "up\ntrapped\n"));
    assert_eq!(waiter.wait(), exited(0).printing("next\n"));
    sandbox
        .lockex(server, &["--break", "-i", "id"])
        .run()
        .complaint_of("lockex", &["id is free"]);
}

#[test]
fn the_second_holder_of_a_semaphore_is_chosen_by_its_token() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let holders = [(); 2].map(|()| {
        let words = ["-i", "id", "-c", "2", SHELL_ENDS_AT_TERM];
        let holder = sandbox.lockex(server, &words).start();
        holder.wait_for_output("up");
        holder
    });
    let mut client = sandbox.client(server);
    let leases = client.wait_for_children(&sandbox.node("id"), 2);
    let tokens = leases.iter().map(|lease| {
        let path = format!("{}/{lease}", sandbox.node("id"));
        client.wait_for_node(&path).czxid
    });
    let second = tokens.max().expect("two leases").to_string();
    let listed = sandbox.lockex(server, &["--break", "-i", "id"]).run();
    assert_eq!(listed.end, Ok(1));
    listed.complaint_of(
        "lockex",
        &["id has 2 holders", &format!("(token {second})")],
    );
    let words = ["--break", "-i", "id", "--token", &second];
    let broken = sandbox.lockex(server, &words).run();
    let [first, second] = holders;
    let who = format!("{}:{}", hostname(), second.pid());
    assert_evicted(&broken, &who, &sandbox.node("id"), "held for");
    second.wait().complaint_of("lockex", &["revoked"]);
    client.wait_for_children(&sandbox.node("id"), 1);
    first.signal(libc::SIGTERM);
    assert_eq!(first.wait().end, Ok(3));
}

#[test]
fn a_kazoo_lock_is_refused_until_its_contender_is_deleted_by_force() {
    let kazoo = Kazoo::newest();
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let node = sandbox.node("id");
    let verb = ["run", "echo up; cat"];
    let holder = kazoo
        .lock(&sandbox, server, &node, "Lock", &verb)
        .leashed()
        .start();
    holder.wait_for_output("up");
    let broken = sandbox.lockex(server, &["--break", "-i", "id"]).run();
    assert_eq!(broken.end, Ok(1));
    let who = format!("kazoo:{}", holder.pid());
    broken.complaint_of("lockex", &[&who, "does not answer and keeps", &node]);
    let forced = sandbox
        .lockex(server, &["--break", "-i", "id", "--force"])
        .run();
    assert!(
        forced
            .stdout
            .starts_with(&format!("deleted the node of {who} (token ")),
        "{forced:?}"
    );
    assert!(
        forced.stdout.ends_with("; its command may run on\n"),
        "{forced:?}"
    );
    assert_eq!(
        sandbox.lockex(server, &["-i", "id", "echo next"]).run(),
        exited(0).printing("next\n")
    );
    holder.finish();
}

#[test]
fn the_holder_of_a_file_gets_term_and_skips_its_minimum_hold() {
    let sandbox = Sandbox::new();
    let words = ["-l", "600", "lock", ENDS_AT_TERM];
    let holder = sandbox.local(&words).start();
    holder.wait_for_output("up");
    let broken = sandbox.local(&["--break", "lock"]).run();
    let who = format!("{}:{}", hostname(), holder.pid());
    assert_eq!(broken.end, Ok(0), "{broken:?}");
    assert!(
        broken.stdout.starts_with(&format!("evicted {who} (token ")),
        "{broken:?}"
    );
    let end = holder.wait();
    assert_eq!(end, exited(3).printing("up\ntrapped\n"));
    let released = sandbox.local(&["--break", "lock"]).run();
    if process::shows_all_locks() {
        released.complains(3, &["lock is free"]);
    } else {
        assert_eq!(released.end, Ok(1), "{released:?}");
        assert!(released.stderr.contains("cannot find the holder of lock"));
    }
}

#[test]
fn the_holder_of_a_file_that_has_waited_for_it_is_found() {
    let sandbox = Sandbox::new();
    let mut first = sandbox
        .local(&["-l", "0", "lock", "sh -c 'echo up; cat'"])
        .leashed()
        .start();
    first.wait_for_output("up");
    let second = sandbox
        .local(&["-v", "-l", "0", "-w", "60", "lock", ENDS_AT_TERM])
        .start();
    wait_until("it waits", || second.stderr().contains("waiting for"));
    first.let_go();
    assert_eq!(first.wait().end, Ok(0));
    second.wait_for_output("up");
    let broken = sandbox.local(&["--break", "lock"]).run();
    assert_eq!(broken.end, Ok(0), "{broken:?}");
    assert_eq!(second.wait().end, Ok(3));
}

/// The path of the file of the local lock `lock`, which is made.
fn lock_file(sandbox: &Sandbox) -> std::path::PathBuf {
    sandbox.local(&["-l", "0", "lock", "true"]).run();
    sandbox.path(&format!("locks/{}/lock", sandbox.id))
}

#[test]
fn a_lock_that_a_child_has_inherited_is_not_said_to_be_released() {
    let sandbox = Sandbox::new();
    let file = lock_file(&sandbox);
    // The shell ends at TERM, and its child keeps the descriptor.
    let script = "exec 9>>\"$0\"; flock 9; sleep 1000 & echo up; wait";
    let holder = Job::new(&sandbox, Path::new("sh"))
        .words(&["-c", script, &file.display().to_string()])
        .start();
    holder.wait_for_output("up");
    wait_until("the child", || sandbox.running("sleep 1000").len() == 1);
    let child = sandbox.running("sleep 1000")[0];
    let broken = sandbox.local(&["-w", "1", "--break", "lock"]).run();
    assert_eq!(broken.end, Ok(1), "{broken:?}");
    broken.complaint(&["was asked", &format!("held by process {child}")]);
    process::kill(child, libc::SIGKILL);
    holder.wait();
}

#[test]
fn another_program_gets_one_term() {
    let sandbox = Sandbox::new();
    let file = lock_file(&sandbox);
    let script = "import fcntl, signal, sys, time
terms = []
signal.signal(signal.SIGTERM, lambda *_: terms.append(1))
file = open(sys.argv[1], 'a')
fcntl.flock(file, fcntl.LOCK_EX)
print('up', flush=True)
while not terms: time.sleep(0.01)
time.sleep(1.5)
print(len(terms))";
    let holder = Job::new(&sandbox, Path::new("python3"))
        .words(&["-c", script, &file.display().to_string()])
        .start();
    holder.wait_for_output("up");
    let broken = sandbox.local(&["--break", "lock"]).run();
    assert_eq!(broken.end, Ok(0), "{broken:?}");
    assert_eq!(holder.wait(), exited(0).printing("up\n1\n"));
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .expect("/proc is mounted")
        .trim()
        .to_owned()
}

//! `lockex` on a real server: its options and exit codes, its nodes, its signals, and what becomes
//! of lock and job when something is killed, stopped or deleted.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::client::Client;
use common::probe_job::{self, Holding, Probe};
use common::proxy::Proxy;
use common::run::{Job, Outcome, Running, exited, killed};
use common::sandbox::{Sandbox, executable};
use common::scripted_server::ScriptedServer;
use common::zookeeper::ZooKeeper;
use common::{SECOND, let_last, process, wait_for, wait_until};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

/// A session timeout of few seconds, for tests that wait for a session to end.
const SHORT: u32 = 4;

/// For tests that look at what is there between the end of a job and the end of its session, a
/// third of this later: time enough to look, whatever else the machine does.
const LONG: u32 = 10;

/// The lock of every test: as many as this may hold it.
const MODES: [&str; 2] = ["-c1", "-c2"];

/// lockex on the lock `id`.
fn lockex<'a>(sandbox: &'a Sandbox, words: &[&str]) -> Job<'a> {
    sandbox
        .lockex(ZooKeeper::shared(), &["-i", "id"])
        .words(words)
}

/// As many as may hold the lock, until they are let go.
#[track_caller]
fn holders<'a>(sandbox: &'a Sandbox, mode: &str) -> Vec<Running<'a>> {
    let permits: usize = mode["-c".len()..].parse().unwrap();
    let holders: Vec<_> = (0..permits)
        .map(|_| lockex(sandbox, &[mode, "echo held; cat"]).leashed().start())
        .collect();
    holders
        .iter()
        .for_each(|holder| holder.wait_for_output("held"));
    holders
}

fn let_go(holders: Vec<Running>) {
    holders
        .into_iter()
        .for_each(|holder| assert_eq!(holder.finish(), exited(0).printing("held\n")));
}

/// One more than may hold it, who says that it waits.
#[track_caller]
fn waiter<'a>(sandbox: &'a Sandbox, words: &[&str]) -> Running<'a> {
    let waiter = lockex(sandbox, &["-v"]).words(words).start();
    wait_until("the waiter to wait", || {
        waiter.stderr().contains("] waiting for ")
    });
    waiter
}

/// The node that whoever waits has a contender below.
fn queue(sandbox: &Sandbox, mode: &str) -> String {
    if mode == "-c1" {
        sandbox.node("id")
    } else {
        sandbox.node("id-__lock__")
    }
}

/// Names of all contenders and leases, as soon as they are so many.
#[track_caller]
fn nodes(sandbox: &Sandbox, mode: &str, count: usize) -> Vec<String> {
    let mut client = sandbox.client(ZooKeeper::shared());
    wait_for(&format!("{count} nodes"), || {
        let found = all_nodes(&mut client, sandbox, mode);
        (found.len() == count).then_some(found)
    })
}

fn all_nodes(client: &mut Client, sandbox: &Sandbox, mode: &str) -> Vec<String> {
    let mut parents = vec![sandbox.node("id"), queue(sandbox, mode)];
    parents.dedup();
    parents.retain(|parent| client.stat(parent).is_some());
    let children = |parent: &String| {
        let mut names = client.children(parent);
        names.sort_by_key(|name| name.rsplit("__lock__").next().map(str::to_owned)); // contenders in their order
        names
            .into_iter()
            .map(|name| format!("{parent}/{name}"))
            .collect::<Vec<_>>()
    };
    parents.iter().flat_map(children).collect()
}

/// Asserts that nothing is left of those who held the lock or waited for it, now.
#[track_caller]
fn assert_empty(sandbox: &Sandbox, mode: &str) {
    assert_eq!(
        all_nodes(&mut sandbox.client(ZooKeeper::shared()), sandbox, mode),
        [""; 0]
    );
}

#[track_caller]
fn complains(outcome: &Outcome, code: i32, facts: &[&str]) {
    outcome.complains_as("lockex", code, facts);
}

#[test]
fn words_are_a_shell_line_or_after_a_double_dash_argv() {
    let sandbox = Sandbox::new();
    for (words, code, stdout) in [
        (&["echo", "one   two"][..], 0, "one two\n"),
        (&["echo one; echo two"], 0, "one\ntwo\n"),
        (&["echo", "one", "&&", "exit", "3"], 3, "one\n"),
        (&["--", "printf", "'%s.'", "a b", "-x"], 0, "a.b.-x."),
        (&["kill -9 $$"], 137, ""),
        (&["kill -TERM $$"], 143, ""),
        (
            &["--no-shell", "--", "printf", "%s.", "a b", "&&"],
            0,
            "a b.&&.",
        ),
        (&["--no-shell", "false"], 1, ""),
    ] {
        assert_eq!(
            lockex(&sandbox, words).run(),
            exited(code).printing(stdout),
            "{words:?}"
        );
    }
    let outcome = lockex(&sandbox, &["no-such-command"]).run();
    assert_eq!(outcome.end, Ok(127));
    assert!(
        outcome.stderr.starts_with("/bin/sh: "),
        "the shell says so: {}",
        outcome.stderr
    );
    assert_empty(&sandbox, "-c1");
}

#[test]
fn lockex_exits_with_the_code_of_the_command() {
    let sandbox = Sandbox::new();
    for code in 0..=255 {
        assert_eq!(
            lockex(&sandbox, &[&format!("exit {code}")]).run(),
            exited(code)
        );
    }
}

#[test]
fn without_a_shell_a_missing_command_is_an_error_before_connecting() {
    let (sandbox, listener) = (Sandbox::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    listener.set_nonblocking(true).unwrap();
    fs::write(sandbox.path("data"), "no program").unwrap();
    for (command, code) in [("no-such-command", 127), ("./data", 126)] {
        let address = listener.local_addr().unwrap().to_string();
        complains(
            &sandbox
                .lockex_at(&address, 15, &["--no-shell", command])
                .run(),
            code,
            &[command],
        );
    }
    assert!(listener.accept().is_err(), "somebody has connected");
}

#[test]
fn without_a_command_it_exits_1_with_the_usage_and_with_a_wrong_option_2() {
    let sandbox = Sandbox::new();
    let outcome = lockex(&sandbox, &[]).run();
    assert_eq!((outcome.end, outcome.stdout.as_str()), (Ok(1), ""));
    assert!(
        outcome
            .stderr
            .starts_with("lockex: the command is missing\nUsage: lockex"),
        "{}",
        outcome.stderr
    );
    for words in [
        &["--bogus", "true"][..],
        &["-i", "", "true"],
        &["-t", "nan", "true"],
        &["-T", "0", "true"],
    ] {
        complains(&lockex(&sandbox, words).run(), 2, &[]);
    }
}

#[test]
fn a_busy_lock_is_silent_and_exits_0_1_or_with_the_chosen_code() {
    for mode in MODES {
        let sandbox = Sandbox::new();
        let holders = holders(&sandbox, mode);
        for (options, code) in [
            (&["--no-blocking"][..], 0),
            (&["--no-blocking", "-x", "17"], 17),
            (&["--no-blocking", "--sysexits"], 75),
            (&["-t", "0"], 1),
            (&["-t", "0.3"], 1),
            (&["-w", "0.3"], 1),
            (&["-t", "0.3", "-x", "17"], 17),
            (&["-t", "0.3", "--sysexits"], 75),
        ] {
            let outcome = lockex(&sandbox, &[&[mode], options, &["touch ran"]].concat()).run();
            assert_eq!(outcome, exited(code), "{mode} {options:?}");
            assert_eq!(
                nodes(&sandbox, mode, holders.len()).len(),
                holders.len(),
                "{mode} {options:?}"
            );
        }
        assert!(!sandbox.path("ran").exists());
        let_go(holders);
        assert_eq!(
            lockex(&sandbox, &[mode, "--no-blocking", "echo free"]).run(),
            exited(0).printing("free\n")
        );
        assert_empty(&sandbox, mode);
    }
}

#[test]
fn a_lock_timeout_lasts_as_long_as_set() {
    for mode in MODES {
        let sandbox = Sandbox::new();
        let holders = holders(&sandbox, mode);
        let run = lockex(&sandbox, &[mode, "-t", "1", "touch ran"]).start();
        let started = run.started;
        assert_eq!(run.wait(), exited(1));
        let waited = started.elapsed();
        assert!(
            waited >= SECOND && waited < 4 * SECOND,
            "{mode}: {waited:?}"
        );
        let_go(holders);
    }
}

#[test]
fn a_concurrency_below_1_is_1() {
    let sandbox = Sandbox::new();
    for count in ["0", "-3"] {
        let holders = holders(&sandbox, "-c1");
        assert_eq!(
            lockex(
                &sandbox,
                &["-c", count, "--no-blocking", "-x", "17", "true"]
            )
            .run(),
            exited(17)
        );
        let_go(holders);
    }
}

#[test]
fn semaphores_of_different_ids_are_independent() {
    let sandbox = Sandbox::new();
    for (mode, others) in [("-c2", ["-c1", "-c3"])] {
        assert_eq!(lockex(&sandbox, &[mode, "true"]).run(), exited(0));
        for other in others {
            complains(
                &lockex(&sandbox, &[other, "touch ran"]).run(),
                1,
                &[&sandbox.node("id"), "semaphore of 2", "--concurrent 2"],
            );
        }
    }
    complains(
        &lockex(&sandbox, &["--sysexits", "-c3", "touch ran"]).run(),
        65,
        &[],
    );
    assert!(!sandbox.path("ran").exists());
    assert_empty(&sandbox, "-c2");
}

#[test]
fn nodes_have_the_layout_of_kazoo() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    let host = fs::read_to_string("/proc/sys/kernel/hostname")
        .expect("Linux")
        .trim_end()
        .to_owned();
    let hex = |text: &str| {
        text.len() == 32
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    for (options, parent) in [
        (&["-i", "id"][..], "id"),
        (&["-i", "a/b"], "a/b"),
        (
            &["-p", &format!("{}/nested/deep", sandbox.id), "-i", "id"],
            "nested/deep/id",
        ),
        (&[], "799031295820617361"), // of the command
    ] {
        let mut run = sandbox
            .lockex(server, options)
            .words(&["cat"])
            .leashed()
            .start();
        run.job();
        let parent = sandbox.node(parent);
        let [contender] = &client.children(&parent)[..] else {
            panic!("not one contender")
        };
        let (mark, sequence) = contender
            .split_once("__lock__")
            .expect("kazoo looks for this");
        assert!(
            hex(mark) && sequence.len() == 10 && sequence.parse::<u32>().is_ok(),
            "{contender}"
        );
        let path = format!("{parent}/{contender}");
        assert_eq!(
            client.data(&path),
            Some(format!("{host}:{}", run.pid()).into_bytes())
        );
        assert_ne!(client.stat(&path).unwrap().ephemeral_owner, 0);
        assert_eq!(
            (
                client.data(&parent),
                client.stat(&parent).unwrap().ephemeral_owner
            ),
            (Some(vec![]), 0),
            "it stays"
        );
        assert_eq!(
            client.acl(&path),
            client.acl("/"),
            "anyone may do everything"
        );
        run.let_go();
        assert_eq!(run.wait(), exited(0));
        assert_eq!(client.children(&parent), [""; 0]);
    }
    let run = lockex(&sandbox, &["-i", "many", "-c", "3", "cat"])
        .leashed()
        .start();
    run.job();
    let [lease] = &client.children(&sandbox.node("many"))[..] else {
        panic!("not one lease")
    };
    assert!(hex(lease), "{lease}");
    assert_eq!(client.data(&sandbox.node("many")), Some(b"3".to_vec()));
    assert_eq!(
        client.data(&format!("{}/{lease}", sandbox.node("many"))),
        Some(format!("{host}:{}", run.pid()).into_bytes())
    );
    client.wait_for_children(&sandbox.node("many-__lock__"), 0);
    assert_eq!(run.finish(), exited(0));
}

#[test]
fn the_command_gets_lock_and_token_in_its_environment() {
    for mode in MODES {
        let sandbox = Sandbox::new();
        let run = lockex(
            &sandbox,
            &[mode, "env | grep ^ZK_FLOCK_ | sort; echo all; cat"],
        )
        .leashed()
        .start();
        run.wait_for_output("all\n");
        let [path] = &nodes(&sandbox, mode, 1)[..] else {
            panic!("not one node")
        };
        let node = sandbox.client(ZooKeeper::shared()).stat(path).unwrap();
        let (session, token) = (node.ephemeral_owner, node.czxid);
        let expected = format!(
            "ZK_FLOCK_HELD=1\nZK_FLOCK_LOCK={path}\nZK_FLOCK_SESSION={session:#x}\nZK_FLOCK_TOKEN={token}\nall\n"
        );
        assert_eq!(run.finish(), exited(0).printing(&expected));
    }
}

#[test]
fn servers_come_from_the_environment_unless_an_option_sets_them() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let [nobody, address] = ["127.0.0.1:1", &server.address()].map(str::to_owned);
    let words = ["--program=lockex", "-p", &sandbox.id, "-T", "5", "echo ran"];
    assert_eq!(
        sandbox.program(&words).env("ZKHOSTS", &address).run(),
        exited(0).printing("ran\n")
    );
    assert_eq!(
        sandbox
            .program(&words)
            .words(&["-z", &address])
            .env("ZKHOSTS", &nobody)
            .run(),
        exited(0).printing("ran\n")
    );
    complains(
        &sandbox.program(&words).env("ZKHOSTS", &nobody).run(),
        1,
        &[&nobody, "refused"],
    );
    let chroot = format!("{address}/{}", sandbox.id);
    sandbox.client(server);
    assert_eq!(
        sandbox.program(&words).env("ZKHOSTS", &chroot).run(),
        exited(0).printing("ran\n")
    );
    assert_eq!(
        sandbox
            .client(server)
            .children(&format!("/{}", sandbox.id))
            .len(),
        2,
        "a lock, and another below a node of that name"
    );
}

#[test]
fn unreachable_servers_are_tried_in_the_set_number_of_rounds() {
    let sandbox = Sandbox::new();
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    for (options, rounds) in [
        (&[][..], 1),
        (&["-R", "1"], 1),
        (&["-R", "3"], 3),
        (&["-R", "0"], 1),
    ] {
        let deaf = [ScriptedServer::start(vec![]), ScriptedServer::start(vec![])];
        let both = format!("{},{}", deaf[0].address, deaf[1].address);
        let outcome = sandbox
            .lockex_at(&both, 30, &[options, &["touch ran"]].concat())
            .run();
        complains(
            &outcome,
            1,
            &deaf.each_ref().map(|server| server.address.as_str()),
        );
        assert_eq!(
            deaf.each_ref().map(ScriptedServer::connections),
            [rounds; 2],
            "{options:?}"
        );
    }
    let unlimited = sandbox
        .lockex_at(&nobody, 1, &["-R", "-1", "touch ran"])
        .start();
    let started = unlimited.started;
    complains(&unlimited.wait(), 1, &[&nobody, "refused"]);
    assert!(started.elapsed() >= SECOND && started.elapsed() < 20 * SECOND);
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn five_rounds_reach_a_server_that_starts_within_three_seconds() {
    let sandbox = Sandbox::new();
    for late in [SECOND / 2, 3 * SECOND / 2, 3 * SECOND] {
        let proxy = Proxy::start(ZooKeeper::shared().address());
        proxy.set_away(true);
        let run = sandbox
            .lockex_at(&proxy.address, 30, &["-R", "5", "echo mine"])
            .start();
        let_last(late.saturating_sub(run.started.elapsed()));
        proxy.set_away(false);
        assert_eq!(run.wait(), exited(0).printing("mine\n"), "{late:?}");
    }
    let proxy = Proxy::start(ZooKeeper::shared().address());
    proxy.set_away(true);
    let bounded = sandbox
        .lockex_at(&proxy.address, 1, &["-R", "5", "touch ran"])
        .start();
    let started = bounded.started;
    complains(
        &bounded.wait(),
        1,
        &[&proxy.address, "too many connections"],
    );
    assert!(
        started.elapsed() < 3 * SECOND,
        "-T bounds it: {:?}",
        started.elapsed()
    );
}

#[test]
fn silent_servers_are_unreachable_after_the_timeout_and_never_busy() {
    let sandbox = Sandbox::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    for (options, code) in [
        (&[][..], 1),
        (&["-x", "17"], 1),
        (&["-x", "17", "--no-blocking"], 1),
        (&["-R", "-1"], 1),
        (&["--sysexits"], 69),
    ] {
        let run = sandbox
            .lockex_at(&address, 1, &[options, &["touch ran"]].concat())
            .start();
        let started = run.started;
        complains(&run.wait(), code, &[&address]);
        assert!(
            started.elapsed() < 4 * SECOND,
            "{options:?}: {:?}",
            started.elapsed()
        );
    }
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_successful_run_is_silent_without_verbose() {
    let sandbox = Sandbox::new();
    assert_eq!(lockex(&sandbox, &["true"]).run(), exited(0));
    let outcome = lockex(&sandbox, &["-v", "true"]).run();
    assert_eq!(outcome.end, Ok(0));
    for line in outcome.stderr.lines() {
        let (head, _) = line.split_once("] ").expect("a head and a message");
        let [level, time, _pid, name] = head.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        assert!(
            level.starts_with('I')
                && level.len() == 5
                && time.len() == "09:24:00.123456".len()
                && name == "lockex:0",
            "{line}"
        );
    }
    for fact in [
        &sandbox.node("id"),
        "Start subprocess: true",
        "Child exited with code: 0",
        "released",
    ] {
        assert!(
            outcome.stderr.contains(fact),
            "no {fact:?} in {}",
            outcome.stderr
        );
    }
}

#[test]
fn a_signal_ends_the_wait_and_deletes_the_contender() {
    for mode in MODES {
        let sandbox = Sandbox::new();
        let holders = holders(&sandbox, mode);
        let mut last = waiter(&sandbox, &[mode, "echo mine"]);
        let before = nodes(&sandbox, mode, holders.len() + 1);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            let waiter = lockex(&sandbox, &[mode, "touch ran"]).start();
            nodes(&sandbox, mode, before.len() + 1);
            waiter.signal(signal);
            assert_eq!(waiter.wait(), killed(signal), "{mode}");
            assert_eq!(
                all_nodes(&mut sandbox.client(ZooKeeper::shared()), &sandbox, mode),
                before,
                "{mode}, signal {signal}"
            );
        }
        assert!(!sandbox.path("ran").exists() && !last.has_ended());
        let_go(holders);
        assert_eq!(
            (last.wait().stdout.as_str(), sandbox.path("ran").exists()),
            ("mine\n", false)
        );
        assert_empty(&sandbox, mode);
    }
}

#[test]
fn two_signals_at_once_do_not_leave_the_contender_behind() {
    for mode in MODES {
        let sandbox = Sandbox::new();
        let holders = holders(&sandbox, mode);
        let before = nodes(&sandbox, mode, holders.len());
        let waiter = lockex(&sandbox, &[mode, "touch ran"]).start();
        nodes(&sandbox, mode, before.len() + 1);
        for signal in [libc::SIGSTOP, libc::SIGTERM, libc::SIGHUP, libc::SIGCONT] {
            waiter.signal(signal); // stopped, it reads both at once
        }
        assert!(waiter.wait().end.is_err());
        wait_until("the contender to be gone", || {
            all_nodes(&mut sandbox.client(ZooKeeper::shared()), &sandbox, mode) == before // long before its session expires
        });
        let_go(holders);
    }
}

#[test]
fn a_full_semaphore_names_its_holders_and_not_its_waiters() {
    let sandbox = Sandbox::new();
    let holders = holders(&sandbox, "-c2");
    let waiter = waiter(&sandbox, &["-c2", "true"]);
    let busy = lockex(&sandbox, &["-v", "-c2", "--no-blocking", "touch ran"]).run();
    assert_eq!(busy.end, Ok(0), "{}", busy.stderr);
    for holder in &holders {
        for told in [&busy.stderr, &waiter.stderr()] {
            assert!(
                told.contains(&format!(":{}", holder.pid())),
                "no {} in {told:?}",
                holder.pid()
            );
        }
    }
    assert!(
        busy.stderr.contains("(all 2 leases taken)\" holder=")
            && !busy.stderr.contains(&format!(":{}", waiter.pid())),
        "{busy:?}"
    );
    let_go(holders);
    assert_eq!(waiter.wait().end, Ok(0));
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_waiter_that_leaves_the_queue_changes_nothing_for_the_others() {
    for mode in MODES {
        let sandbox = Sandbox::new();
        let holders = holders(&sandbox, mode);
        let first = waiter(&sandbox, &[mode, "touch ran"]);
        let mut second = lockex(&sandbox, &[mode, "echo mine"]).start();
        nodes(&sandbox, mode, holders.len() + 2);
        first.signal(libc::SIGKILL); // its contender stays until its session is over
        assert_eq!(first.wait().end, Err(libc::SIGKILL));
        assert!(!second.has_ended());
        sandbox
            .client(ZooKeeper::shared())
            .delete(&nodes(&sandbox, mode, holders.len() + 2)[if mode == "-c1" { 1 } else { 2 }])
            .unwrap();
        nodes(&sandbox, mode, holders.len() + 1);
        assert!(!second.has_ended());
        let_go(holders);
        assert_eq!(second.wait(), exited(0).printing("mine\n"), "{mode}");
        assert_empty(&sandbox, mode);
    }
}

#[test]
fn a_signal_stops_the_shell_before_its_children_so_it_runs_nothing_more() {
    for mode in MODES {
        let sandbox = Sandbox::new();
        for (signal, outcome) in [
            (libc::SIGTERM, exited(143)),
            (libc::SIGHUP, exited(129)),
            (libc::SIGINT, killed(libc::SIGINT)),
            (libc::SIGQUIT, killed(libc::SIGQUIT)),
        ] {
            let run = lockex(
                &sandbox,
                &[mode, "ulimit -c 0; echo ready; sleep 1000; echo next"],
            )
            .start();
            run.wait_for_output("ready\n");
            wait_until("a sleep", || sandbox.running("sleep 1000").len() == 1);
            run.signal(signal);
            assert_eq!(
                run.wait(),
                outcome.printing("ready\n"),
                "{mode}, signal {signal}"
            );
            assert_eq!(
                sandbox.running("sleep 1000"),
                process::NONE,
                "{mode}, signal {signal}"
            );
            assert_empty(&sandbox, mode);
        }
    }
}

#[test]
fn a_command_that_ignores_term_is_killed_with_its_tree_after_kill_after() {
    for mode in MODES {
        let sandbox = Sandbox::new();
        let command = "trap '' TERM; setsid sleep 1000 & echo ready; sleep 1000; echo next";
        let run = lockex(&sandbox, &[mode, "-k", "0.5", command]).start();
        wait_until("two sleeps", || sandbox.running("sleep 1000").len() == 2);
        let told = Instant::now();
        run.signal(libc::SIGTERM);
        assert_eq!(run.wait(), exited(137).printing("ready\n"));
        assert!(told.elapsed() >= Duration::from_millis(500));
        assert_eq!(sandbox.processes(), process::NONE);
        assert_empty(&sandbox, mode);
    }
}

#[test]
fn when_lockex_is_killed_its_tree_is_dead_before_the_lock_is_free() {
    for mode in MODES {
        let sandbox = Sandbox::new();
        let words = [
            "-i",
            "id",
            mode,
            "trap '' TERM; setsid sleep 1000 & sleep 1000",
        ];
        let run = sandbox
            .lockex_at(&ZooKeeper::shared().address(), LONG, &words)
            .start();
        wait_until("two sleeps", || sandbox.running("sleep 1000").len() == 2);
        let held = nodes(&sandbox, mode, 1);
        run.signal(libc::SIGKILL);
        wait_until("the tree to be gone", || {
            sandbox.processes() == process::NONE
        });
        assert_eq!(
            nodes(&sandbox, mode, 1),
            held,
            "whose session has not expired yet"
        );
        assert_eq!(run.wait().end, Err(libc::SIGKILL));
        nodes(&sandbox, mode, 0);
    }
}

#[test]
fn when_the_guard_is_killed_the_tree_is_killed_and_the_lock_released() {
    for mode in MODES {
        let sandbox = Sandbox::new();
        let run = lockex(
            &sandbox,
            &[mode, "trap '' TERM; setsid sleep 1000 & sleep 1000"],
        )
        .start();
        wait_until("two sleeps", || sandbox.running("sleep 1000").len() == 2);
        process::kill(run.guard(), libc::SIGKILL);
        let outcome = run.wait();
        assert_eq!(sandbox.processes(), process::NONE);
        assert_empty(&sandbox, mode);
        complains(&outcome, 1, &["guard"]);
    }
}

#[test]
fn while_lockex_is_stopped_its_tree_is_dead_before_the_lock_is_free() {
    for mode in MODES {
        let sandbox = Sandbox::new();
        let words = [
            "-i",
            "id",
            mode,
            "trap '' TERM; setsid sleep 1000 & sleep 1000",
        ];
        let run = sandbox
            .lockex_at(&ZooKeeper::shared().address(), LONG, &words)
            .start();
        wait_until("two sleeps", || sandbox.running("sleep 1000").len() == 2);
        let held = nodes(&sandbox, mode, 1);
        run.signal(libc::SIGSTOP);
        wait_until("the tree to be gone", || {
            sandbox.running("sleep 1000").is_empty()
        });
        assert_eq!(
            nodes(&sandbox, mode, 1),
            held,
            "whose session has not expired yet"
        );
        nodes(&sandbox, mode, 0);
        run.signal(libc::SIGCONT);
        complains(&run.wait(), 1, &["lost", &held[0], "stopped"]);
    }
}

#[test]
fn a_waiter_whose_session_expired_queues_again_as_often_as_set() {
    for mode in MODES {
        for (option, again) in [("-r1", true), ("-r0", false)] {
            let sandbox = Sandbox::new();
            let holders = holders(&sandbox, mode);
            let words = ["-v", "-i", "id", mode, option, "echo mine"];
            let waiter = sandbox
                .lockex_at(&ZooKeeper::shared().address(), SHORT, &words)
                .start();
            nodes(&sandbox, mode, holders.len() + 1);
            waiter.signal(libc::SIGSTOP);
            nodes(&sandbox, mode, holders.len());
            waiter.signal(libc::SIGCONT);
            if again {
                nodes(&sandbox, mode, holders.len() + 1);
                let_go(holders);
                let outcome = waiter.wait();
                assert_eq!(
                    (outcome.end, outcome.stdout.as_str()),
                    (Ok(0), "mine\n"),
                    "{mode}: {}",
                    outcome.stderr
                );
            } else {
                let outcome = waiter.wait();
                assert_eq!(
                    (outcome.end, outcome.stdout.as_str()),
                    (Ok(1), ""),
                    "{mode}: {}",
                    outcome.stderr
                );
                assert!(
                    outcome.stderr.contains("lockex: cannot reach"),
                    "{}",
                    outcome.stderr
                );
                let_go(holders);
            }
            assert_empty(&sandbox, mode);
        }
    }
}

#[test]
fn a_holder_whose_node_is_deleted_by_hand_is_killed_at_once() {
    for mode in MODES {
        let sandbox = Sandbox::new();
        for (options, code) in [(&[][..], 1), (&["--sysexits"], 79)] {
            let run = lockex(&sandbox, &[options, &[mode, "sleep 1000"]].concat()).start();
            run.job();
            let [node] = &nodes(&sandbox, mode, 1)[..] else {
                panic!("not one node")
            };
            sandbox.client(ZooKeeper::shared()).delete(node).unwrap();
            complains(&run.wait(), code, &["lost", node]);
            assert_eq!(sandbox.processes(), process::NONE);
        }
    }
}

#[test]
fn a_waiter_whose_contender_is_deleted_by_hand_still_acquires() {
    for mode in MODES {
        let sandbox = Sandbox::new();
        let holders = holders(&sandbox, mode);
        let first = waiter(&sandbox, &[mode, "echo first >>runs"]);
        let second = lockex(&sandbox, &[mode, "echo second >>runs"]).start();
        nodes(&sandbox, mode, holders.len() + 2);
        let contenders = sandbox
            .client(ZooKeeper::shared())
            .wait_for_children(&queue(&sandbox, mode), if mode == "-c1" { 3 } else { 2 });
        let own = &contenders[contenders.len() - 2];
        sandbox
            .client(ZooKeeper::shared())
            .delete(&format!("{}/{own}", queue(&sandbox, mode)))
            .unwrap();
        let_go(holders);
        assert_eq!(
            (first.wait().end, second.wait().end),
            (Ok(0), Ok(0)),
            "{mode}"
        );
        assert_eq!(sandbox.read("runs").lines().count(), 2);
        assert_empty(&sandbox, mode);
    }
}

/// Three hosts, one command: the next starts when the one that runs is killed, or its guard is, or
/// it is told to end.
#[test]
fn in_cold_standby_the_next_command_starts_after_the_previous_is_dead() {
    for mode in [libc::SIGKILL, libc::SIGTERM] {
        for guard in [false, true] {
            let sandbox = Sandbox::new();
            let probe = Probe::of(&sandbox);
            let host = || {
                probe
                    .job(
                        sandbox.lockex_at(&ZooKeeper::shared().address(), SHORT, &["-k", "0.3"]),
                        100_000,
                    )
                    .start()
            };
            let mut hosts: Vec<_> = (0..3).map(|_| host()).collect();
            for count in 1..=3 {
                assert_eq!(probe.wait_for(count).len(), count);
                let position = hosts
                    .iter()
                    .position(|host| process::children(host.pid()).len() == 1)
                    .expect("one runs");
                let running = hosts.remove(position);
                let victim = if guard {
                    running.guard()
                } else {
                    running.pid()
                };
                process::kill(victim, mode);
                if guard && mode == libc::SIGTERM {
                    running.signal(libc::SIGTERM); // which the guard itself takes no notice of
                }
                assert_ne!(running.wait().end, Ok(0));
            }
            wait_until("all jobs to be gone", || sandbox.processes().is_empty());
            let holdings = probe.all();
            assert_eq!(holdings.len(), 3);
            let last_sign =
                |pair: &[Holding]| probe_job::lead(pair) + probe_job::PULSE.as_secs_f64();
            assert!(
                holdings.windows(2).all(|pair| last_sign(pair) > 0.0),
                "two at once: {holdings:?}"
            );
        }
    }
}

/// As it was published, with a shorter sleep.
#[test]
fn of_five_hosts_with_the_same_line_in_cron_one_runs() {
    const LINE: &str = "lockex -t 1 -- sleep 5 && uptime";
    let sandbox = Sandbox::new();
    symlink(executable(), sandbox.path("lockex")).unwrap();
    let path = format!(
        "{}:{}",
        sandbox.folder.display(),
        std::env::var("PATH").unwrap()
    );
    let cron = || {
        Job::new(&sandbox, Path::new("sh"))
            .words(&["-c", LINE])
            .env("PATH", &path)
            .env("ZKHOSTS", &ZooKeeper::shared().address())
    };
    let hosts: Vec<_> = (0..5).map(|_| cron().start()).collect();
    let (mut ran, mut waited) = (0, Vec::new());
    wait_until("four to give up", || {
        sandbox.running("sleep 5").len() <= 1 && sandbox.processes().len() <= 4
    });
    for host in hosts {
        let started = host.started;
        let outcome = host.wait();
        match outcome.end {
            Ok(0) if outcome.stdout.contains("load average") && outcome.stderr.is_empty() => {
                ran += 1;
            }
            Ok(1) if outcome == exited(1) => waited.push(started.elapsed()),
            _ => panic!("{outcome:?}"),
        }
    }
    assert_eq!((ran, waited.len()), (1, 4));
    assert!(waited.iter().all(|time| *time >= SECOND), "{waited:?}");
}

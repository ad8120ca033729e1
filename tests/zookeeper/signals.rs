//! Signals: what is sent to zk-flock, what is typed at its terminal, and what it was started to
//! ignore.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::client::Kind;
use common::pty::{END, INTERRUPT, QUIT, SUSPEND, Terminal};
use common::run::{Job, Running, exited, killed, listener};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use common::{process, wait_for, wait_until};
use std::path::Path;
use std::time::{Duration, Instant};

/// A leashed zk-flock whose command is ready.
#[track_caller]
fn ready<'a>(sandbox: &'a Sandbox, words: &[&str]) -> Running<'a> {
    let run = sandbox
        .flock(ZooKeeper::shared(), &[&["-l", "0"], words].concat())
        .leashed()
        .start();
    run.wait_for_output("ready\n");
    run
}

#[test]
fn after_term_the_lock_is_held_until_the_command_has_exited() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    let run = ready(&sandbox, &["lock", &listener("TERM=3/0.5")]);
    let job = run.job();
    client.watch(&sandbox.node("lock")).expect("it is held");
    run.signal(libc::SIGTERM);
    assert_eq!(
        client.wait_for_event(&sandbox.node("lock")).kind,
        Kind::Deleted
    );
    assert!(!process::alive(job), "released under a running command");
    assert_eq!(run.wait(), exited(3).printing("ready\nTERM\n"));
    assert!(sandbox.log().contains("Stop work by SIGTERM"));
}

#[test]
fn processes_that_a_command_starts_to_clean_up_may_finish() {
    let sandbox = Sandbox::new();
    for _ in 0..5 {
        let command = "bash -c 'trap \"sleep 0.1; echo code \\$?; exit 3\" TERM; echo ready; until read -r -t 0.01; do :; done'";
        let run = ready(&sandbox, &["lock", command]);
        run.signal(libc::SIGTERM);
        assert_eq!(
            run.wait(),
            exited(3).printing("ready\ncode 0\n"),
            "143: the TERM was meant for those that were there when it came"
        );
    }
}

#[test]
fn every_signal_that_ends_a_run_reaches_the_command() {
    let sandbox = Sandbox::new();
    for (signal, name) in [
        (libc::SIGTERM, "TERM"),
        (libc::SIGHUP, "HUP"),
        (libc::SIGINT, "INT"),
        (libc::SIGQUIT, "QUIT"),
    ] {
        let run = ready(&sandbox, &["lock", &listener(&format!("{name}=7"))]);
        run.signal(signal);
        assert_eq!(run.wait(), exited(7).printing(&format!("ready\n{name}\n")));
    }
}

#[test]
fn all_other_signals_are_passed_on_and_do_not_end_the_run() {
    let sandbox = Sandbox::new();
    for (signal, name) in [
        (libc::SIGUSR1, "USR1"),
        (libc::SIGUSR2, "USR2"),
        (libc::SIGWINCH, "WINCH"),
        (libc::SIGCONT, "CONT"),
    ] {
        let run = ready(&sandbox, &["lock", &listener(name)]);
        run.signal(signal);
        run.wait_for_output(name);
        assert_eq!(
            run.finish(),
            exited(5).printing(&format!("ready\n{name}\n"))
        );
    }
}

#[test]
fn a_command_that_dies_of_the_signal_gives_128_and_its_number_or_the_same_death() {
    let sandbox = Sandbox::new();
    for (signal, outcome) in [
        (libc::SIGTERM, exited(143)),
        (libc::SIGHUP, exited(129)),
        (libc::SIGINT, killed(libc::SIGINT)),
        (libc::SIGQUIT, killed(libc::SIGQUIT)),
    ] {
        let run = ready(
            &sandbox,
            &["lock", "sh -c 'ulimit -c 0; echo ready; exec sleep 1000'"],
        );
        run.signal(signal);
        assert_eq!(run.wait(), outcome.printing("ready\n"), "signal {signal}");
    }
}

#[test]
fn a_command_that_ignores_the_signal_is_killed_with_its_tree() {
    let sandbox = Sandbox::new();
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        let command =
            "sh -c 'trap \"\" TERM HUP INT QUIT; setsid sleep 1000 & echo ready; sleep 1000'";
        let run = ready(&sandbox, &["-k", "0.3", "lock", command]);
        wait_until("two sleeps", || sandbox.running("sleep 1000").len() == 2);
        let told = Instant::now();
        run.signal(signal);
        let outcome = run.wait();
        assert!(told.elapsed() >= Duration::from_millis(300));
        assert_eq!(sandbox.processes(), process::NONE);
        assert_eq!(outcome, exited(137).printing("ready\n"), "signal {signal}");
    }
}

#[test]
fn a_guard_that_is_stopped_after_the_signal_does_not_save_the_tree() {
    let sandbox = Sandbox::new();
    let command = "bash -c 'trap \"echo TERM\" TERM; setsid sleep 1000 & echo ready; until read -r -t 0.01; do :; done'";
    let run = ready(&sandbox, &["-k", "0.5", "lock", command]);
    wait_until("a child", || sandbox.running("sleep 1000").len() == 1);
    let guard = run.guard();
    run.signal(libc::SIGTERM);
    run.wait_for_output("TERM"); // the guard says that it obeys before it passes the signal on
    assert!(process::kill(guard, libc::SIGSTOP));
    let outcome = run.wait();
    assert_eq!(
        (outcome.end, sandbox.processes()),
        (Ok(1), process::NONE.to_vec()),
        "{}",
        outcome.stderr
    );
    outcome.complaint(&["the guard of /", "was killed or stopped"]);
}

#[test]
fn a_stopped_command_still_gets_term() {
    let sandbox = Sandbox::new();
    let run = ready(
        &sandbox,
        &["-k", "600", "lock", "sh -c 'echo ready; exec sleep 1000'"],
    );
    let job = run.job();
    process::kill(job, libc::SIGSTOP);
    wait_until("the command to stop", || process::state(job) == Some('T'));
    run.signal(libc::SIGTERM);
    assert_eq!(run.wait(), exited(143).printing("ready\n"));
}

#[test]
fn a_signal_ends_the_wait_and_the_command_is_never_started() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    client
        .create_ephemeral(&sandbox.node("lock"), b"host")
        .unwrap();
    for (count, signal) in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT]
        .into_iter()
        .enumerate()
    {
        let waiter = sandbox
            .flock(server, &["-w", "inf", "lock", "touch ran"])
            .start();
        wait_until("the waiter to wait", || {
            sandbox.log().matches("waiting for").count() > count
        });
        waiter.signal(signal);
        let outcome = waiter.wait();
        assert_eq!((outcome.end, outcome.stdout.as_str()), (Err(signal), ""));
        assert!(outcome.stderr.lines().count() <= 1, "{}", outcome.stderr);
    }
    client.delete(&sandbox.node("lock")).unwrap();
    assert_eq!(
        sandbox.flock(server, &["-l", "0", "lock", "true"]).run(),
        exited(0)
    );
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn under_nohup_a_hangup_changes_nothing() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let line = sandbox
        .flock(server, &["-l", "0", "lock", &listener("USR1")])
        .line();
    let run = Job::new(&sandbox, Path::new("sh"))
        .words(&["-c", &format!("exec nohup {line}")])
        .leashed()
        .start();
    run.wait_for_output("ready\n");
    assert!(process::ignores(run.pid(), libc::SIGHUP));
    assert!(
        process::ignores(run.job(), libc::SIGHUP),
        "the command finds it as we did"
    );
    run.signal(libc::SIGHUP);
    run.signal(libc::SIGUSR1);
    run.wait_for_output("USR1\n");
    assert!(
        !sandbox.log().contains("Stop work"),
        "a hangup that came before USR1 was heeded"
    );
    assert_eq!(run.finish(), exited(5).printing("ready\nUSR1\n"));
}

#[test]
fn in_the_background_of_a_script_int_and_quit_stay_ignored() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let line = sandbox
        .flock(
            server,
            &[
                "-l",
                "0",
                "lock",
                "sh -c 'echo ready; until test -e go; do sleep 0.01; done; exit 6'",
            ],
        )
        .line();
    let script = format!("{line} & echo $! >pid; wait $!");
    let run = Job::new(&sandbox, Path::new("sh"))
        .words(&["-c", &script])
        .start();
    run.wait_for_output("ready\n");
    let pid: i32 = wait_for("a pid", || sandbox.read("pid").trim().parse().ok());
    for signal in [libc::SIGINT, libc::SIGQUIT] {
        assert!(process::ignores(pid, signal));
        process::kill(pid, signal);
    }
    std::fs::write(sandbox.path("go"), "").unwrap();
    assert_eq!(run.wait(), exited(6).printing("ready\n"));
}

/// A terminal in which a zk-flock is about to be typed, and the line to type.
fn terminal(sandbox: &Sandbox, command: &str) -> (Terminal, String) {
    let line = sandbox
        .flock(ZooKeeper::shared(), &["-l", "0", "lock", command])
        .line();
    (Terminal::open(sandbox), line)
}

/// Waits for the one process with these words.
#[track_caller]
fn find(sandbox: &Sandbox, words: &str) -> i32 {
    wait_for(words, || sandbox.running(words).first().copied())
}

#[test]
fn ctrl_c_and_ctrl_backslash_end_the_run_and_free_the_lock() {
    let sandbox = Sandbox::new();
    let mut client = sandbox.client(ZooKeeper::shared());
    for (key, code) in [(INTERRUPT, "code=130"), (QUIT, "code=131")] {
        let (mut terminal, line) = terminal(&sandbox, "sleep 1000");
        terminal.enter("ulimit -c 0");
        terminal.enter(&line);
        find(&sandbox, "sleep 1000");
        terminal.press(key);
        wait_until("the command to be gone", || {
            sandbox.running("sleep 1000").is_empty()
        });
        client.wait_until_gone(&sandbox.node("lock"));
        terminal.enter("echo code=$?");
        terminal.wait_for(code);
    }
}

#[test]
fn ctrl_c_ends_a_loop_in_the_shell() {
    let sandbox = Sandbox::new();
    let (mut terminal, line) = terminal(&sandbox, "sleep 1000");
    terminal.enter(&format!("for i in 1 2 3; do {line}; echo once=$i; done"));
    find(&sandbox, "sleep 1000");
    terminal.press(INTERRUPT);
    terminal.enter("echo code=$?");
    terminal.wait_for("code=130");
    assert!(
        !terminal.screen().contains("once=1"),
        "{}",
        terminal.screen()
    );
    assert_eq!(sandbox.running("sleep 1000"), process::NONE);
}

#[test]
fn a_command_that_handles_ctrl_c_gets_it_once_and_decides_the_exit_code() {
    let sandbox = Sandbox::new();
    let command = "bash -c 'trap \"echo caught >>caught\" INT; echo $((1000 * 123 + 456)); read -r line; exit 9'";
    let (mut terminal, line) = terminal(&sandbox, command);
    terminal.enter(&line);
    terminal.wait_for("123456");
    terminal.press(INTERRUPT);
    wait_until("the trap", || !sandbox.read("caught").is_empty());
    terminal.enter("");
    terminal.enter("echo code=$?");
    terminal.wait_for("code=9");
    assert_eq!(sandbox.read("caught"), "caught\n");
}

#[test]
fn ctrl_z_stops_the_run_and_fg_continues_it() {
    let sandbox = Sandbox::new();
    let (mut terminal, line) = terminal(&sandbox, "cat");
    terminal.enter(&line);
    let job = find(&sandbox, "cat");
    let guard = process::parent(job).unwrap();
    let ours = process::parent(guard).unwrap();
    terminal.press("one\n");
    terminal.wait_for("one\r\none\r\n");
    for round in ["two", "three"] {
        terminal.press(SUSPEND);
        for pid in [job, ours] {
            wait_until("both to stop", || process::state(pid) == Some('T'));
        }
        assert_ne!(process::state(guard), Some('T'), "the guard keeps watch");
        terminal.wait_for("Stopped");
        terminal.enter("fg");
        for pid in [job, ours] {
            wait_until("both to go on", || process::state(pid) != Some('T'));
        }
        terminal.enter(round);
        terminal.wait_for(&format!("{round}\r\n{round}\r\n"));
    }
    terminal.press(END);
    wait_until("the end", || sandbox.running("cat").is_empty());
    terminal.enter("echo code=$?");
    terminal.wait_for("code=0");
}

/// A command of two processes that each write down every signal that they get, until they are
/// killed.
const COUNTING: &str = r#"bash -c 'count() { for s in TERM INT HUP QUIT USR1; do trap "echo $1 $s >>got" $s; done; echo ready; while :; do read -r -t 0.01 <>pipe; done; }; mkfifo pipe; count child & count command; wait'"#;

/// What the two have written, sorted.
fn counted(sandbox: &Sandbox) -> Vec<String> {
    let mut lines: Vec<String> = sandbox.read("got").lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Sends a signal to a run of zk-flock whose command counts; what the command has got when it is
/// killed, 1 s later.
fn got(sandbox: &Sandbox, run: Running) -> Vec<String> {
    run.wait();
    let got = counted(sandbox);
    for file in ["got", "pipe"] {
        std::fs::remove_file(sandbox.path(file)).expect("the command has made it");
    }
    got
}

fn counting(sandbox: &Sandbox) -> Running<'_> {
    let run = sandbox
        .local(&["-l", "0", "-k", "1", "lock", COUNTING])
        .start();
    wait_until("both to be ready", || {
        run.stdout().matches("ready").count() == 2
    });
    run
}

/// Signals that may be sent to more than one process, and their names.
const ORDERS: [(i32, &str); 3] = [
    (libc::SIGTERM, "TERM"),
    (libc::SIGINT, "INT"),
    (libc::SIGHUP, "HUP"),
];

#[test]
fn a_signal_to_zk_flock_alone_reaches_each_process_of_the_command_once() {
    let sandbox = Sandbox::new();
    for (signal, name) in ORDERS {
        let run = counting(&sandbox);
        run.signal(signal);
        assert_eq!(
            got(&sandbox, run),
            [format!("child {name}"), format!("command {name}")]
        );
    }
}

/// C1: timeout(1), supervisord's stopasgroup, `kill -- -PGID`.
#[test]
fn a_signal_to_the_process_group_reaches_each_process_of_the_command_once() {
    let sandbox = Sandbox::new();
    for (_, name) in ORDERS {
        let line = sandbox
            .local(&["-l", "0", "-k", "1", "lock", COUNTING])
            .line();
        let run = Job::new(&sandbox, Path::new("setsid"))
            .words(&["--wait", "bash", "-c", &format!("exec {line}")])
            .start();
        wait_until("both to be ready", || {
            run.stdout().matches("ready").count() == 2
        });
        let leader = sandbox
            .processes()
            .into_iter()
            .find(|&pid| process::name(pid).starts_with("zk-flock"));
        let zk_flock = leader.expect("it runs");
        let group = format!("-{zk_flock}");
        assert_eq!(
            Job::new(&sandbox, Path::new("kill"))
                .words(&["-s", name, "--", &group])
                .run(),
            exited(0)
        );
        assert_eq!(
            got(&sandbox, run),
            [format!("child {name}"), format!("command {name}")]
        );
        let timeout = Job::new(&sandbox, Path::new("timeout"))
            .words(&["-s", name, "2", "bash", "-c", &format!("exec {line}")])
            .start();
        assert_eq!(
            got(&sandbox, timeout),
            [format!("child {name}"), format!("command {name}")],
            "timeout signals its child and then the group"
        );
    }
}

/// C1: systemd's default KillMode, which signals each process of a unit, the main one first.
#[test]
fn a_signal_to_each_process_of_a_control_group_reaches_each_process_of_the_command_once() {
    let sandbox = Sandbox::new();
    for (signal, name) in ORDERS {
        let run = counting(&sandbox);
        let all = sandbox.processes();
        let main = run.pid();
        for pid in std::iter::once(main).chain(all.into_iter().filter(|&pid| pid != main)) {
            process::kill(pid, signal);
        }
        assert_eq!(
            got(&sandbox, run),
            [format!("child {name}"), format!("command {name}")]
        );
    }
}

/// C1, where the command is in our process group because the session has a terminal.
#[test]
fn at_a_terminal_a_signal_reaches_each_process_of_the_command_once() {
    let sandbox = Sandbox::new();
    let line = sandbox
        .local(&["-l", "0", "-k", "1", "lock", COUNTING])
        .line();
    for (signal, name) in ORDERS {
        for send in [
            "kill -$s -- -$!",
            "kill -$s $!",
            "for p in $! $(pgrep -P $!) $(pgrep -g $! bash); do kill -$s $p; done",
            "timeout",
        ] {
            let mut terminal = Terminal::open(&sandbox);
            let typed = if send == "timeout" {
                format!("timeout -s {signal} 2 {line}")
            } else {
                format!("{line} &")
            };
            terminal.enter(&typed);
            wait_until("both to be ready", || {
                terminal.screen().matches("ready\r").count() == 2
            });
            if send != "timeout" {
                terminal.enter(&format!("s={signal}; {send}; wait"));
            }
            wait_until("the command to be killed", || {
                sandbox.processes().len() == 1
            });
            assert_eq!(
                counted(&sandbox),
                [format!("child {name}"), format!("command {name}")],
                "{send}"
            );
            for file in ["got", "pipe"] {
                std::fs::remove_file(sandbox.path(file)).expect("the command has made it");
            }
        }
    }
}

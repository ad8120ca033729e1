//! The main job: one command under one lock, on a real ZooKeeper.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::client::Client;
use common::run::exited;
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use common::{IN_TURN, SECOND, assert_in_turn, process, report, summary, wait_until};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

#[test]
fn zk_flock_exits_with_the_code_of_its_command() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    for code in 0..=255 {
        assert_eq!(
            sandbox
                .flock(
                    server,
                    &["-l", "0", "lock", &format!("sh -c 'exit {code}'")]
                )
                .run(),
            exited(code)
        );
    }
}

#[test]
fn a_command_killed_by_a_signal_gives_128_and_its_number() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let ends_nobody = [
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGURG,
        libc::SIGWINCH,
    ];
    for signal in (1..=31)
        .chain([34, 64])
        .filter(|signal| !ends_nobody.contains(signal))
    {
        let command = format!("sh -c 'ulimit -c 0; kill -{signal} $$'");
        assert_eq!(
            sandbox.flock(server, &["-l", "0", "lock", &command]).run(),
            exited(128 + signal),
            "signal {signal}"
        );
    }
}

#[test]
fn the_command_inherits_stdin_stdout_stderr_and_directory() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let run = sandbox
        .flock(
            server,
            &[
                "-l",
                "0",
                "lock",
                "sh -c 'pwd; wc -c; echo oops >&2; ls /proc/self/fd | wc -l'",
            ],
        )
        .run();
    assert_eq!(run.end, Ok(0));
    assert_eq!(
        run.stdout,
        format!("{}\n0\n4\n", sandbox.folder.display()),
        "pwd; an empty stdin; 0, 1, 2 and the folder that ls reads"
    );
    assert_eq!(run.stderr, "oops\n");
}

#[test]
fn five_hundred_runs_in_a_row_succeed_and_leave_no_node() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let run = |_| {
        let started = Instant::now();
        assert_eq!(
            sandbox.flock(server, &["-l", "0", "lock", "true"]).run(),
            exited(0)
        );
        started.elapsed()
    };
    report(
        "an uncontended run of `true`",
        summary((0..500).map(run).collect()),
    );
    let mut client = sandbox.client(server);
    assert_eq!(client.children(&format!("/{}", sandbox.id)), [""; 0]);
}

#[test]
fn fifty_runs_at_once_never_overlap() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let started = Instant::now();
    let runs: Vec<_> = (0..50)
        .map(|_| {
            sandbox
                .flock(
                    server,
                    &["-l", "0", "-w", "60", "-x", "17", "lock", IN_TURN],
                )
                .start()
        })
        .collect();
    for run in runs {
        assert_eq!(run.wait(), exited(0));
    }
    report(
        "fifty at once on one lock, 10 ms each",
        format!("{:.2} s", started.elapsed().as_secs_f64()),
    );
    assert_in_turn(&sandbox.read("runs"), 50);
}

#[test]
fn a_busy_lock_is_silent_and_exits_0_or_with_the_chosen_code() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    sandbox
        .client(server)
        .create_ephemeral(&sandbox.node("lock"), b"host")
        .unwrap();
    for (options, code) in [
        (&["-l", "0"][..], 0),
        (&["-x", "17"], 17),
        (&["--sysexits"], 75),
        (&["--sysexits", "-x", "17"], 17),
    ] {
        for wait in [&[][..], &["-w", "0"], &["-w", "-1"], &["-w", "0.3"]] {
            let words = [options, wait, &["lock", "touch ran"]].concat();
            assert_eq!(
                sandbox.flock(server, &words).run(),
                exited(code),
                "{words:?}"
            );
        }
    }
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_waiter_acquires_when_another_run_releases() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    let mut holder = sandbox
        .flock(server, &["-l", "0", "lock", "cat"])
        .leashed()
        .start();
    let held = client.wait_for_node(&sandbox.node("lock"));
    let mut waiter = sandbox
        .flock(server, &["-l", "0", "-w", "60", "lock", "echo mine"])
        .start();
    wait_until("the waiter to wait", || {
        sandbox.log().contains("waiting for")
    });
    assert!(!waiter.has_ended());
    assert_eq!(client.stat(&sandbox.node("lock")), Some(held));
    holder.let_go();
    assert_eq!(holder.wait(), exited(0));
    assert_eq!(waiter.wait(), exited(0).printing("mine\n"));
}

#[test]
fn the_lock_is_held_for_at_least_the_minimum_hold() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    let run = sandbox
        .flock(server, &["-l", "0.8", "lock", "true"])
        .start();
    let held = client.wait_for_node(&sandbox.node("lock"));
    client.wait_until_gone(&sandbox.node("lock"));
    let gone = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let lasted = gone.saturating_sub(Duration::from_millis(held.ctime.try_into().unwrap()));
    assert_eq!(run.wait(), exited(0));
    assert!(
        lasted >= Duration::from_millis(790),
        "{lasted:?}, with the server's stamp rounded down"
    );
}

#[test]
fn a_command_that_ran_longer_than_the_minimum_hold_adds_nothing() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let run = sandbox
        .flock(server, &["-l", "3", "lock", "sleep 3"])
        .start();
    let started = run.started;
    assert_eq!(run.wait(), exited(0));
    let lasted = started.elapsed();
    assert!(
        lasted < 6 * SECOND,
        "{lasted:?}: the hold counts from the taking of the lock, not from the end of the command"
    );
}

#[test]
fn a_signal_ends_the_minimum_hold() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        let run = sandbox
            .flock(server, &["-l", "600", "lock", "sh -c 'echo done; exit 3'"])
            .start();
        run.wait_for_output("done");
        wait_until("the end of the command", || {
            sandbox.log().contains("Child exited with code: 3")
        });
        run.signal(signal);
        assert_eq!(run.wait(), exited(3).printing("done\n"), "signal {signal}");
        assert_eq!(sandbox.client(server).stat(&sandbox.node("lock")), None);
        fs::remove_file(sandbox.path("log")).unwrap();
    }
}

#[test]
fn the_command_gets_lock_and_token_in_its_environment() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    let mut run = sandbox
        .flock(
            server,
            &[
                "-l",
                "0",
                "lock",
                "sh -c 'env | grep ^ZK_FLOCK_ | sort; cat'",
            ],
        )
        .leashed()
        .start();
    run.wait_for_output("ZK_FLOCK_TOKEN");
    let node = client
        .stat(&sandbox.node("lock"))
        .expect("the lock is held");
    run.let_go();
    let expected = format!(
        "ZK_FLOCK_HELD=1\nZK_FLOCK_LOCK={}\nZK_FLOCK_SESSION={:#x}\nZK_FLOCK_TOKEN={}\n",
        sandbox.node("lock"),
        node.ephemeral_owner,
        node.czxid
    );
    assert_eq!(run.wait(), exited(0).printing(&expected));
}

#[test]
fn a_command_that_cannot_run_is_an_error_before_connecting() {
    let sandbox = Sandbox::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    fs::write(sandbox.path("data"), "no program").unwrap();
    fs::set_permissions(sandbox.path("data"), fs::Permissions::from_mode(0o644)).unwrap();
    for (command, code) in [
        ("no-such-command-anywhere", 127),
        ("./missing", 127),
        ("./data", 126),
        ("/", 126),
    ] {
        for options in [&[][..], &["--sysexits"]] {
            let words = [options, &["lock", command]].concat();
            sandbox
                .flock_at(&address, 15, &words)
                .run()
                .complains(code, &[command]);
        }
    }
    assert!(listener.accept().is_err(), "somebody has connected");
}

#[test]
fn a_stopped_server_is_unreachable_and_never_busy() {
    let sandbox = Sandbox::new();
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    for (options, code) in [
        (&[][..], 1),
        (&["-x", "17"], 1),
        (&["-w", "0.5", "-x", "17"], 1),
        (&["--sysexits", "-x", "17"], 69),
    ] {
        let words = [options, &["lock", "touch ran"]].concat();
        sandbox
            .flock_at(&nobody, 1, &words)
            .run()
            .complains(code, &[&nobody, "refused"]);
    }
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_server_that_accepts_and_sends_nothing_is_unreachable() {
    let sandbox = Sandbox::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    sandbox
        .flock_at(&address, 1, &["-x", "17", "lock", "touch ran"])
        .run()
        .complains(1, &[&address]);
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_name_that_no_node_can_have_is_an_error_and_not_busy() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    sandbox.client(server);
    for name in ["", "a//b", "..", "."] {
        let run = sandbox.flock(server, &["-x", "0", name, "touch ran"]).run();
        assert!(matches!(run.end, Ok(1 | 2)), "{name:?}: {run:?}");
        run.complaint(&[]);
    }
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn without_a_config_file_hosts_and_app_id_are_enough() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let options = [
        "--hosts",
        &server.address(),
        "--app-id",
        &sandbox.id,
        "--timeout",
        "15",
        "-l",
        "0",
    ];
    for separate in [
        &["lock", "echo one two"][..],
        &["lock", "--", "echo", "one two"],
        &["lock", "--", "echo one two"],
    ] {
        let run = sandbox.program(&[&options, separate].concat()).run();
        assert_eq!(run, exited(0).printing("one two\n"), "{separate:?}");
    }
}

#[test]
fn the_first_run_creates_the_parent_node_of_the_locks() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    assert_eq!(
        sandbox.flock(server, &["-l", "0", "lock", "true"]).run(),
        exited(0)
    );
    assert_eq!(
        sandbox.client(server).data(&format!("/{}", sandbox.id)),
        Some(b"Rootnode".to_vec())
    );
}

#[test]
fn a_waiter_and_a_guard_use_little_memory() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut holder = sandbox
        .flock(server, &["-l", "0", "lock", "cat"])
        .leashed()
        .start();
    let guard = holder.guard();
    let waiter = sandbox
        .flock(server, &["-l", "0", "-w", "60", "lock", "true"])
        .start();
    wait_until("the waiter to wait", || {
        sandbox.log().contains("waiting for")
    });
    for (what, pid) in [
        ("a holder", holder.pid()),
        ("its guard", guard),
        ("a waiter", waiter.pid()),
    ] {
        report(
            &format!("peak memory of {what}"),
            process::status(pid, "VmHWM").expect("it lives"),
        );
    }
    holder.let_go();
    assert_eq!(holder.wait(), exited(0));
    assert_eq!(waiter.wait(), exited(0));
}

#[test]
fn a_lock_lost_to_a_deletion_by_hand_kills_the_command() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    for (options, code) in [(&[][..], 1), (&["--sysexits"], 79)] {
        let mut client = Client::connect(server, 15 * SECOND);
        let run = sandbox
            .flock(server, &[options, &["lock", "sleep 1000"]].concat())
            .start();
        run.job();
        client.delete(&sandbox.node("lock")).unwrap();
        run.wait().complains(code, &["lost", &sandbox.node("lock")]);
        assert_eq!(sandbox.running("sleep 1000"), process::NONE);
    }
}

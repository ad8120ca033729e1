//! `-d`: the original's own three tests, and what a daemon has of its caller and what not.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::run::{Job, exited};
use common::sandbox::Sandbox;
use common::scripted_server::ScriptedServer;
use common::zookeeper::ZooKeeper;
use common::{SECOND, process, wait_for, wait_until};
use std::path::Path;
use std::process::Command;

/// A run in the background whose job is `sleep 3600`, found as the original's tests find it.
struct Daemon {
    sandbox: Sandbox,
    program: i32,
    job: i32,
}

impl Daemon {
    fn start() -> Daemon {
        let sandbox = Sandbox::new();
        // Options at the end, as there; the lock's name tells this run from those of other tests.
        assert_eq!(
            sandbox
                .flock(
                    ZooKeeper::shared(),
                    &["-l", "0", &sandbox.id, "sleep 3600", "-d"]
                )
                .run(),
            exited(0)
        );
        let job = wait_for("the job", || sandbox.running("sleep 3600").first().copied());
        let program = ps(&["zk-flock", "sleep", &sandbox.id]);
        assert_eq!(program.len(), 1, "exactly one line of ps");
        Daemon {
            program: program[0],
            job,
            sandbox,
        }
    }

    #[track_caller]
    fn is_gone(&self) {
        wait_until("both to be gone", || {
            !process::alive(self.program) && !process::alive(self.job)
        });
        assert_eq!(
            self.sandbox
                .client(ZooKeeper::shared())
                .stat(&self.sandbox.node(&self.sandbox.id)),
            None
        );
    }
}

/// Ids of the processes whose line in `ps aux` has all these parts.
fn ps(parts: &[&str]) -> Vec<i32> {
    let output = Command::new("ps")
        .args(["aux", "-ww"])
        .output()
        .expect("ps is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text
        .lines()
        .filter(|line| parts.iter().all(|part| line.contains(part)));
    lines
        .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
        .collect()
}

#[test]
fn term_ends_a_daemon_and_its_command() {
    let daemon = Daemon::start();
    assert!(process::kill(daemon.program, libc::SIGTERM));
    daemon.is_gone();
}

#[test]
fn a_daemon_ends_when_its_command_ends() {
    let daemon = Daemon::start();
    assert!(process::kill(daemon.job, libc::SIGTERM));
    daemon.is_gone();
}

#[test]
fn a_daemon_exits_with_the_code_of_its_command() {
    let sandbox = Sandbox::new();
    assert_eq!(
        sandbox
            .flock(
                ZooKeeper::shared(),
                &["-l", "0", "ffffff", "bash -c 'exit 123'"]
            )
            .run(),
        exited(123)
    );
}

#[test]
fn a_daemon_keeps_the_umask_and_environment_and_leaves_directory_terminal_and_stdio() {
    let sandbox = Sandbox::new();
    let facts = r#"umask; pwd; readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2; ps -o tty= -p $$; echo "$KEPT""#;
    let command = format!(
        "sh -c '({facts}) >{0}.new 2>&1; mv {0}.new {0}'",
        sandbox.path("facts").display()
    );
    let line = sandbox
        .flock(ZooKeeper::shared(), &["-d", "-l", "0", "lock", &command])
        .line();
    let run = Job::new(&sandbox, Path::new("sh"))
        .words(&["-c", &format!("umask 027; exec {line}")])
        .env("KEPT", "kept")
        .leashed();
    assert_eq!(run.run(), exited(0));
    wait_until("the facts", || sandbox.path("facts").exists());
    let file = sandbox.path("facts.new").display().to_string();
    assert_eq!(
        sandbox.read("facts"),
        format!("0027\n/\n/dev/null\n{file}\n{file}\n?\nkept\n")
    );
}

#[test]
fn the_caller_gets_exit_code_0_before_a_server_answers() {
    let (sandbox, silent) = (Sandbox::new(), ScriptedServer::silent());
    let run = sandbox
        .flock_at(&silent.address, 60, &["-d", "lock", "touch ran"])
        .start();
    let started = run.started;
    assert_eq!(run.wait(), exited(0));
    assert!(started.elapsed() < 30 * SECOND, "{:?}", started.elapsed());
    wait_until("the daemon to connect", || silent.connections() == 1);
    let daemon = sandbox.processes();
    assert_eq!(daemon.len(), 1);
    assert!(process::kill(daemon[0], libc::SIGTERM));
    wait_until("it to be gone", || !process::alive(daemon[0]));
}

#[test]
fn an_error_in_options_or_config_is_reported_to_the_caller() {
    let sandbox = Sandbox::new();
    for (words, code) in [
        (&["-w", "soon", "lock", "true"][..], 2),
        (&["lock", "echo 'one"], 2),
        (&["-c", "/no/such/file", "lock", "true"], 1),
    ] {
        let outcome = sandbox.program(&[&["-d"], words].concat()).run();
        outcome.complains(code, &[]);
    }
}

#[test]
fn a_daemon_reports_a_busy_lock_in_the_log_only() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut keeper = sandbox.client(server);
    keeper
        .create_ephemeral(&sandbox.node("kept"), b"host")
        .unwrap();
    assert_eq!(
        sandbox
            .flock(server, &["-d", "-x", "17", "kept", "touch ran"])
            .run(),
        exited(0)
    );
    wait_until("the end", || sandbox.log().contains("Lock: fail"));
    wait_until("it to be gone", || sandbox.processes().is_empty());
    assert!(!Path::new("/ran").exists());
}

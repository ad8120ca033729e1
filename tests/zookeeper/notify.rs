//! `--notify` reports a run to its service manager, whose socket the test reads.

use common::run::{Job, exited};
use common::sandbox::Sandbox;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// Prints the variables of the service manager that the command gets.
const VARIABLES: &str =
    "sh -c 'echo ${NOTIFY_SOCKET-none} ${WATCHDOG_USEC-none} ${WATCHDOG_PID-none}'";

/// The socket of a service manager, in the sandbox.
fn manager(sandbox: &Sandbox) -> UnixDatagram {
    let socket = UnixDatagram::bind(sandbox.path("notify")).expect("a socket can be bound");
    let limit = Some(Duration::from_mins(1)); // a message that does not come fails the test
    socket.set_read_timeout(limit).expect("it is not zero");
    socket
}

fn message(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let length = manager.recv(&mut buffer).expect("a message");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// All messages until one has this line.
fn until(manager: &UnixDatagram, line: &str) -> String {
    let mut messages = String::new();
    while !messages.contains(line) {
        messages += &message(manager);
    }
    messages
}

/// A run with the variables of a service manager.
fn notified<'a>(sandbox: &'a Sandbox, words: &[&str]) -> Job<'a> {
    let socket = sandbox.path("notify");
    sandbox
        .local(&[&["-l", "0"], words].concat())
        .env("NOTIFY_SOCKET", socket.to_str().expect("text"))
        .env("WATCHDOG_USEC", "200000")
}

#[test]
fn a_run_is_ready_under_the_lock_and_its_command_has_no_variables_of_the_manager() {
    let sandbox = Sandbox::new();
    let manager = manager(&sandbox);
    let run = notified(&sandbox, &["--notify", "lock", VARIABLES]).run();
    assert_eq!(run, exited(0).printing("none none none\n"));
    let messages = until(&manager, "STOPPING=1\n");
    assert!(messages.contains("READY=1\n"), "{messages}");
    assert!(
        messages.contains(&format!("/{}/lock", sandbox.id)),
        "{messages}"
    );
}

#[test]
fn a_command_keeps_the_variables_with_pass_or_without_the_option() {
    let sandbox = Sandbox::new();
    let manager = manager(&sandbox);
    let kept = format!("{} 200000 none\n", sandbox.path("notify").display());
    let passed = notified(&sandbox, &["--notify=pass", "lock", VARIABLES]).run();
    assert_eq!(passed, exited(0).printing(&kept));
    until(&manager, "STOPPING=1\n");
    let plain = notified(&sandbox, &["lock", VARIABLES]).run();
    assert_eq!(plain, exited(0).printing(&kept));
    manager.set_nonblocking(true).expect("it is a socket");
    let nothing = manager.recv(&mut [0; 100]).expect_err("it did not ask");
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_standby_is_ready_while_it_waits_and_gives_signs_of_life() {
    let sandbox = Sandbox::new();
    let manager = manager(&sandbox);
    let mut holder = sandbox.local(&["-l", "0", "lock", "cat"]).leashed().start();
    holder.job();
    let standby = notified(
        &sandbox,
        &[
            "--notify=wait",
            "-w",
            "inf",
            "lock",
            "--",
            "sh",
            "-c",
            "echo up; exec cat",
        ],
    )
    .leashed()
    .start();
    let waiting = until(&manager, "WATCHDOG=1\n");
    assert!(
        waiting.starts_with("READY=1\n") && waiting.contains("STATUS=waiting for "),
        "{waiting}"
    );
    holder.let_go();
    assert_eq!(holder.wait(), exited(0));
    standby.wait_for_output("up\n");
    let holding = until(&manager, "STATUS=holding ") + &until(&manager, "WATCHDOG=1\n");
    assert!(!holding.contains("READY=1\n"), "{holding}");
    standby.signal(libc::SIGTERM);
    let stopping = until(&manager, "STOPPING=1\n");
    assert!(stopping.contains("received SIGTERM"), "{stopping}");
    assert_eq!(standby.wait(), exited(143).printing("up\n"));
}

#[test]
fn a_full_or_missing_socket_does_not_delay_a_run() {
    let sandbox = Sandbox::new();
    let manager = manager(&sandbox);
    let other = UnixDatagram::unbound().expect("a socket");
    other.set_nonblocking(true).expect("it is a socket");
    while other.send_to(b"STATUS=x", sandbox.path("notify")).is_ok() {}
    let full = notified(&sandbox, &["--notify=wait,pass", "lock", "true"]).run();
    assert_eq!(full, exited(0));
    drop(manager);
    let dead = notified(&sandbox, &["--notify", "lock", "true"]).run();
    assert_eq!(dead.end, Ok(0));
    dead.complaint(&["WARNING", "$NOTIFY_SOCKET", "connection refused"]);
}

#[test]
fn a_daemon_or_a_command_line_without_a_command_cannot_notify() {
    let sandbox = Sandbox::new();
    for (words, with) in [
        (&["--notify", "-d", "lock", "true"][..], "--daemonize"),
        (&["--notify", "--status"], "--status"),
    ] {
        let refused = sandbox.local(words).run();
        refused.complains(2, &["--notify cannot be used with", with]);
    }
    let refused = sandbox.local(&["--notify=soon", "lock", "true"]).run();
    refused.complains(2, &["--notify: expected wait, pass, or both"]);
    let unknown = sandbox
        .local(&["-l", "0", "--notify", "lock", "true"])
        .env("NOTIFY_SOCKET", "vsock:2:1")
        .run();
    assert_eq!(unknown.end, Ok(0));
    unknown.complaint(&["--notify has no effect", "vsock:2:1"]);
}

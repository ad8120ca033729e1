//! Connections that are not plain TCP keep the promises too.

#![allow(
    clippy::disallowed_methods,
    reason = "a tunnel of the test needs threads; the programs have one"
)]

use common::run::{Job, Running, exited};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use common::{process, wait_for, wait_until};
use std::fs::Permissions;
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

/// Listens on a unix socket, and passes each connection on to a server, until the test ends.
fn tunnel(socket: &Path, server: String) {
    let listener = UnixListener::bind(socket).expect("a socket in the sandbox can be bound");
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(&server).expect("the server runs");
            let (mut from_client, mut to_client) = (client.try_clone().unwrap(), client);
            let (mut from_server, mut to_server) = (server.try_clone().unwrap(), server);
            thread::spawn(move || {
                let _ = io::copy(&mut from_client, &mut to_server);
                let _ = to_server.shutdown(std::net::Shutdown::Write);
            });
            thread::spawn(move || {
                let _ = io::copy(&mut from_server, &mut to_client);
                let _ = to_client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
}

/// The program with these servers, and this session timeout.
fn flock_at<'a>(sandbox: &'a Sandbox, hosts: &str, timeout: u32, words: &[&str]) -> Job<'a> {
    let timeout = timeout.to_string();
    let servers = ["--hosts", hosts, "--app-id", &sandbox.id, "--timeout"];
    sandbox.program(&servers).words(&[&timeout]).words(words)
}

#[test]
fn unix_socket_stands_for_a_host() {
    let sandbox = Sandbox::new();
    let socket = sandbox.path("zk.sock");
    let host = format!("unix:{}", socket.display());
    flock_at(&sandbox, &host, 2, &["lock", "true"])
        .run()
        .complains(1, &[&host, "no such file"]);
    drop(UnixListener::bind(&socket).unwrap());
    flock_at(&sandbox, &host, 2, &["lock", "true"])
        .run()
        .complains(1, &[&host, "connection refused"]);
    std::fs::remove_file(&socket).unwrap();

    tunnel(&socket, ZooKeeper::shared().address());
    let mut holder = flock_at(&sandbox, &host, 30, &["-l", "0", "lock", "cat"])
        .leashed()
        .start();
    holder.job();
    let busy = ["-l", "0", "-x", "9", "lock", "true"];
    assert_eq!(flock_at(&sandbox, &host, 30, &busy).run(), exited(9));
    let check = flock_at(&sandbox, &host, 30, &["--check"]).run();
    assert!(
        check.end == Ok(0) && check.stdout.contains(&host) && check.stdout.contains("ZooKeeper 3"),
        "{check:?}"
    );
    holder.let_go();
    assert_eq!(holder.wait(), exited(0));
}

/// A command that connects to the server, as `nc %h %p` does.
fn tunnel_command() -> String {
    format!(
        "python3 {}/tests/common/tunnel.py %h %p",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// The helpers of a run: its children that are not its guard.
fn helpers(run: &Running) -> Vec<i32> {
    let children = process::children(run.pid()).into_iter();
    let running = children.filter(|&pid| process::alive(pid));
    running
        .filter(|&pid| process::name(pid).starts_with("python3"))
        .collect()
}

#[test]
fn proxy_command_carries_the_connection() {
    let sandbox = Sandbox::new();
    let (server, tunnel) = (ZooKeeper::shared().address(), tunnel_command());
    let through = |proxy: &str, words: &[&str]| {
        let words = [&["--proxy", proxy, "-l", "0"], words].concat();
        flock_at(&sandbox, &server, 20, &words)
    };
    assert_eq!(through(&tunnel, &["lock", "true"]).run(), exited(0));
    for (proxy, why) in [
        (
            "sh -c 'echo first >&2; echo no route to %h >&2; exit 1'",
            "no route to 127.0.0.1",
        ),
        ("/nonexistent %h", "cannot run /nonexistent: no such file"),
        ("true", "ended without a reason"),
    ] {
        let run = flock_at(
            &sandbox,
            &server,
            5,
            &["--proxy", proxy, "lock", "touch ran"],
        );
        run.run().complains(1, &[&server, why]);
    }

    let mut holder = through(&tunnel, &["-v", "lock", "cat"]).leashed().start();
    let job = holder.job();
    let first = helpers(&holder);
    assert_eq!(first.len(), 1, "one helper");
    assert!(process::kill(first[0], libc::SIGKILL));
    wait_until("the session to resume through another helper", || {
        holder.stderr().contains("resumed")
    });
    assert!(process::alive(job), "{}", holder.stderr());
    // A process that is killed closes its files before it is seen to be dead.
    wait_until("one helper to be left, another one", || {
        let left = helpers(&holder);
        left.len() == 1 && left != first
    });
    holder.let_go();
    assert_eq!(holder.wait().end, Ok(0));

    let killed = through(&tunnel, &["lock", "sleep 60"]).start();
    killed.job();
    let helper = helpers(&killed)[0];
    killed.signal(libc::SIGKILL);
    wait_until("the helper to die with its zk-flock", || {
        !process::alive(helper)
    });
}

#[test]
fn look_at_servers_that_are_down_leaves_no_zombie_of_its_helpers() {
    let sandbox = Sandbox::new();
    let log = sandbox.path("helpers");
    let proxy = format!("sh -c 'echo >>{}; exit 1'", log.display());
    let words = ["--proxy", &proxy, "--status", "lock"];
    let status = flock_at(&sandbox, "127.0.0.1:1", 60, &words).start();
    wait_until("eight helpers to end", || {
        std::fs::read(&log).is_ok_and(|lines| lines.len() >= 8)
    });
    let left = process::children(status.pid());
    assert!(left.len() <= 2, "{left:?}");
    status.signal(libc::SIGKILL);
}

#[test]
fn tls_verifies_the_server_and_shows_the_certificate() {
    let sandbox = Sandbox::new();
    let (_server, address) = ZooKeeper::start_secure(&sandbox.folder);
    let at = |timeout: u32, words: &[&str]| flock_at(&sandbox, &address, timeout, words);
    let trusted = ["-l", "0", "--tls-ca", "ca.pem", "--tls-cert", "me.pem"];
    assert_eq!(at(20, &trusted).words(&["lock", "true"]).run(), exited(0));

    let refused = |words: &[&str], why: &str| {
        // A busy machine needs most of a second for a handshake.
        let run = at(5, words).words(&["lock", "touch ran"]);
        run.run().complains(1, &[&address, why]);
    };
    let other = ["--tls-ca", "other.pem", "--tls-cert", "me.pem"];
    refused(
        &other,
        "its certificate is not accepted: unable to get local issuer",
    );
    let name = [&trusted[2..], &["--tls-name", "zk9"]].concat();
    refused(&name, "its certificate is not accepted: hostname mismatch");
    refused(&["--tls-ca", "ca.pem"], "it refuses the TLS connection");

    let mut holder = at(20, &trusted)
        .words(&["-v", "lock", "cat"])
        .leashed()
        .start();
    let job = holder.job();
    let helper = wait_for("a helper", || {
        let children = process::children(holder.pid()).into_iter();
        children
            .filter(|&pid| process::alive(pid))
            .find(|&pid| process::name(pid) == "openssl")
    });
    assert!(process::kill(helper, libc::SIGKILL));
    wait_until("the session to resume", || {
        holder.stderr().contains("resumed")
    });
    assert!(process::alive(job));
    holder.let_go();
    assert_eq!(holder.wait().end, Ok(0));

    let check = at(20, &trusted[2..]).words(&["--check"]).run();
    assert!(
        check.stdout.contains("authenticated as x509:CN=me"),
        "{check:?}"
    );
    std::fs::set_permissions(sandbox.path("me.pem"), Permissions::from_mode(0o644)).unwrap();
    at(1, &trusted)
        .words(&["lock", "true"])
        .run()
        .complains(1, &["me.pem has mode 0644"]);
    for mode in [&["lock", "true"][..], &["--status"], &["--break", "lock"]] {
        let missing = ["--sysexits", "--tls-ca", "none.pem"];
        let why = "zk-flock: cannot connect by TLS: cannot read the CA certificates";
        let run = at(1, &missing).words(mode).run();
        run.complains(78, &[why, "none.pem: no such file"]);
    }
    let check = at(1, &["--sysexits", "--tls-ca", "none.pem", "--check"]).run();
    let line = format!("{address}: FAILED: cannot connect by TLS: cannot read");
    assert!(
        check.end == Ok(78) && check.stdout.contains(&line),
        "{check:?}"
    );
}

#[test]
fn plain_text_port_is_named() {
    let sandbox = Sandbox::new();
    let plain = ZooKeeper::shared().address();
    flock_at(
        &sandbox,
        &plain,
        5,
        &["--tls-name", "localhost", "lock", "true"],
    )
    .run()
    .complains(1, &[&plain, "no TLS there (is this a plain-text port?)"]);
}

//! Connections that are not plain TCP keep the promises too.

use common::run::{Job, exited};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use std::io;
use std::net::TcpStream;
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

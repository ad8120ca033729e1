//! distributexd reports to its service manager, whose socket the test reads.

use common::sandbox::Sandbox;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// All messages until one has this text.
fn until(manager: &UnixDatagram, text: &str) -> String {
    let mut messages = String::new();
    while !messages.contains(text) {
        let mut buffer = [0; 4096];
        let length = manager.recv(&mut buffer).expect("a message");
        messages += &String::from_utf8_lossy(&buffer[..length]);
    }
    messages
}

#[test]
fn a_server_reports_its_start_its_state_a_reload_and_its_end() {
    let sandbox = Sandbox::new();
    let socket = sandbox.path("notify");
    let manager = UnixDatagram::bind(&socket).expect("a socket can be bound");
    let limit = Some(Duration::from_mins(1)); // a message that does not come fails the test
    manager.set_read_timeout(limit).expect("it is not zero");
    let config = "listen: 127.0.0.1\npools:\n  - name: backup\n";
    fs::write(sandbox.path("pools.yaml"), config).expect("a config can be written");
    let words = ["--program=distributexd", "-c", "pools.yaml", "-p", "0"];
    let server = sandbox
        .program(&words)
        .env("NOTIFY_SOCKET", socket.to_str().expect("text"))
        .env("WATCHDOG_USEC", "200000")
        .start();
    let started = until(&manager, "STATUS=1 pool, 0 holders, 0 waiters\n");
    assert!(started.starts_with("READY=1\n"), "{started}");
    until(&manager, "WATCHDOG=1\n");
    server.signal(libc::SIGHUP);
    let reloading = until(&manager, "RELOADING=1\nMONOTONIC_USEC=");
    let reloaded = reloading + &until(&manager, "READY=1\n");
    assert!(!reloaded.contains("STOPPING"), "{reloaded}");
    server.signal(libc::SIGTERM);
    until(&manager, "STOPPING=1\n");
    let end = server.wait();
    assert_eq!(end.end, Ok(0), "{}", end.stderr);
}

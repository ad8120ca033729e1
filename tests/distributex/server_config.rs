//! distributexd serves configs of the original: the pools and hosts are those that PyYAML reads.

use common::distributexd::Distributexd;
use common::run::Job;
use common::sandbox::{Sandbox, executable};
use common::{free_port, wait_until};
use std::fs;
use std::net::TcpStream;

const CONFIG: &str = "\
x-common: &common
  expire: 1h30m
  servers: [web1, web2]
pools:
- <<: *common
  name: b c
- {name: 12, expire: \"60\", maxlocks: 2}
- name: listed
  servers:
  - web1
  - web2
...
";

#[test]
fn pool_and_host_names_in_every_yaml_spelling_are_served() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, CONFIG);
    for (call, host, pool, answer) in [
        ("get", "web1", "b c", "YES"),
        ("get", "web2", "b c", "NO"),
        ("get", "db1", "b c", "INVALID"),
        ("get", "a", "12", "YES"),
        ("get", "b", "12", "YES"),
        ("get", "c", "12", "NO"),
        ("get", "web2", "listed", "YES"),
        ("get", "[web1", "listed", "INVALID"),
        ("release", "web1", "b c", "OK"),
        ("get", "web2", "b c", "YES"),
    ] {
        assert_eq!(
            server.call(call, host, pool),
            answer,
            "{call} {host} {pool}"
        );
    }
}

#[test]
fn distributex_locks_a_pool_whose_name_has_a_blank() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, "pools:\n- name: b c\n");
    let port = server.port.to_string();
    let words = [
        "--program=distributex",
        "-H",
        "127.0.0.1",
        "-p",
        &port,
        "-r",
        "b c",
        "--as",
        "a",
        "--no-local-lock",
        "echo ran",
    ];
    let outcome = sandbox.program(&words).run();
    assert_eq!(
        (
            outcome.end,
            outcome.stdout.as_str(),
            outcome.stderr.as_str()
        ),
        (Ok(0), "ran\n", "")
    );
}

#[test]
fn port_option_overrides_the_port_of_the_config() {
    let sandbox = Sandbox::new();
    let ports = [free_port(), free_port()];
    fs::write(
        sandbox.path("config.yaml"),
        format!("listen: 127.0.0.1\nport: {}\npools:\n- name: a\n", ports[0]),
    )
    .unwrap();
    for (words, port) in [
        (&[][..], ports[0]),
        (&["-p", &ports[1].to_string()], ports[1]),
    ] {
        let mut running = Job::new(&sandbox, &executable())
            .words(&["--program=distributexd", "-c", "config.yaml"])
            .words(words)
            .start();
        wait_until("the server to listen", || {
            assert!(!running.has_ended(), "{}", running.stderr());
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        running.signal(libc::SIGTERM);
        assert_eq!(running.wait().end, Ok(0));
    }
}

//! Lock servers that share a ZooKeeper: together they grant nothing twice, and a lock survives the
//! server that granted it.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::distributexd::{Connection, Distributexd};
use common::proxy::Proxy;
use common::run::exited;
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use common::{SECOND, free_port, let_last, process, wait_for, wait_until};
use std::time::Instant;
use zk_flock::internals::http::Reply;
use zk_flock::internals::zookeeper::code::Code;

/// So many hosts ask at one moment.
const HOSTS: usize = 20;

/// So many wait, one after another.
const WAITERS: usize = 30;

/// The config of a server whose pools are below this node.
fn config(zookeeper: &ZooKeeper, path: &str, pools: &str) -> String {
    let address = zookeeper.address();
    format!("backend: zookeeper\nhost: {address}\ntimeout: 2\npath: {path}\npools:\n{pools}")
}

/// Three servers on one ZooKeeper.
fn three<'a>(
    sandbox: &'a Sandbox,
    zookeeper: &ZooKeeper,
    path: &str,
    pools: &str,
) -> [Distributexd<'a>; 3] {
    [(); 3].map(|()| Distributexd::start(sandbox, &config(zookeeper, path, pools)))
}

fn token(reply: &Reply) -> i64 {
    let token = reply.header("X-Lock-Token");
    token.expect("a YES has a token").parse().unwrap()
}

/// A client that waits for the pool `one`, once all servers know.
fn waiter(servers: &[Distributexd], number: usize, host: &str) -> Connection {
    let connection = servers[number % servers.len()].calls("wait", host, "one");
    wait_until(&format!("{host} to wait"), || {
        servers.iter().all(|server| {
            let status = server.ask("/status/");
            status.contains(&format!("{{\"host\":\"{host}\",\"waiting\""))
        })
    });
    connection
}

#[test]
fn hosts_that_ask_at_one_moment_get_as_many_yes_as_there_are_slots() {
    let (sandbox, zookeeper) = (Sandbox::new(), ZooKeeper::shared());
    let pools = "- name: one\n- name: three\n  maxlocks: 3\n";
    let servers = three(&sandbox, zookeeper, "/moment", pools);
    for round in 0..5 {
        for (pool, slots) in [("one", 1), ("three", 3)] {
            let host = |number: usize| format!("h{round}-{number}");
            let mut asked: Vec<_> = (0..HOSTS)
                .map(|number| servers[number % 3].calls("get", &host(number), pool))
                .collect();
            let answers: Vec<_> = asked.iter_mut().map(Connection::hear).collect();
            let granted: Vec<_> = (0..HOSTS)
                .filter(|number| answers[*number].ends_with("YES"))
                .collect();
            assert_eq!(granted.len(), slots, "{answers:?}");
            for number in granted {
                let released = servers[(number + 1) % 3].call("release", &host(number), pool);
                assert_eq!(released, "OK");
            }
        }
    }
}

#[test]
fn waiters_of_three_servers_are_granted_in_their_order() {
    let (sandbox, zookeeper) = (Sandbox::new(), ZooKeeper::shared());
    let servers = three(&sandbox, zookeeper, "/order", "- name: one\n");
    assert_eq!(servers[0].call("get", "first", "one"), "YES");
    let mut waiting: Vec<_> = (0..WAITERS)
        .map(|number| waiter(&servers, number, &format!("w{number}")))
        .collect();
    assert_eq!(servers[1].call("get", "late", "one"), "NO");
    assert_eq!(servers[1].call("release", "first", "one"), "OK");
    let mut last = 0;
    for (number, connection) in waiting.iter_mut().enumerate() {
        let reply = connection.reply();
        assert_eq!(reply.body, b"YES");
        assert!(token(&reply) > last, "tokens grow");
        last = token(&reply);
        let released = servers[(number + 2) % 3].call("release", &format!("w{number}"), "one");
        assert_eq!(released, "OK");
    }
}

#[test]
fn lock_survives_the_server_that_granted_it() {
    let (sandbox, zookeeper) = (Sandbox::new(), ZooKeeper::start());
    let pools = "- name: one\n  expire: 3\n";
    let mut servers = three(&sandbox, &zookeeper, "/survives", pools);
    let granted = servers[0].calls("get", "a", "one").reply();
    let renewal = format!("/renew/?host=a&pool=one&token={}", token(&granted));
    let mut next = waiter(&servers, 2, "b");
    servers[0].kill();
    for _ in 0..3 {
        assert_eq!(servers[1].ask(&renewal), "YES");
        assert!(next.is_silent());
    }
    // Without the ensemble nothing is granted, renewed or released.
    zookeeper.freeze();
    for call in [
        renewal.as_str(),
        "/release/?host=a&pool=one",
        "/get/?host=c&pool=one",
    ] {
        let mut connection = servers[1].connect();
        connection.say(&format!("GET {call} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(connection.reply().status, 503, "{call}");
    }
    zookeeper.thaw();
    // The lease ends by itself, and the waiter of the third server is next.
    let reply = next.reply();
    assert_eq!(reply.body, b"YES");
    assert!(token(&reply) > token(&granted));
    assert_eq!(servers[1].ask(&renewal), "NO");
}

#[test]
fn command_goes_on_when_the_server_that_granted_its_lock_is_killed() {
    let (sandbox, zookeeper) = (Sandbox::new(), ZooKeeper::shared());
    let pools = format!("- name: {}\n  expire: 6\n", sandbox.id);
    let [mut first, second, third] = three(&sandbox, zookeeper, "/killed", &pools);
    // The addresses that the client knows, with one port.
    let port = free_port();
    let at = |address: &str, server: &Distributexd| {
        Proxy::start_at(&format!("{address}:{port}"), server.address())
    };
    let (to_first, to_second) = (at("127.0.78.1", &first), at("127.0.78.2", &second));
    to_second.set_away(true); // so that the first one grants it
    let words = [
        "--program=distributex",
        "-v",
        "-H",
        "127.0.78.1,127.0.78.2",
        "-p",
        &port.to_string(),
        "-r",
        &sandbox.id,
        "--as",
        "a",
        "cat",
    ];
    let mut holder = sandbox.program(&words).leashed().start();
    let command = holder.job();
    to_second.set_away(false);
    let mut next = third.calls("wait", "b", &sandbox.id);
    first.kill();
    to_first.set_away(true);
    wait_until("a renewal at the other server", || {
        second.stderr().contains("renew")
    });
    let renewed = Instant::now();
    while renewed.elapsed() < SECOND * 7 {
        assert!(next.is_silent(), "no second holder");
        assert!(process::alive(command), "{}", holder.stderr());
        let_last(SECOND / 10);
    }
    holder.let_go();
    assert_eq!(holder.wait().end, exited(0).end);
    assert_eq!(next.hear(), "YES");
}

#[test]
fn pool_that_moves_between_backends_has_one_holder_and_tokens_that_grow() {
    let (sandbox, zookeeper) = (Sandbox::new(), ZooKeeper::shared());
    let pools = "- name: one\n  expire: 2\n- name: idle\n";
    let state = sandbox.path("state").display().to_string();
    let in_memory = format!("state: {state}\npools:\n{pools}");
    let shared = config(zookeeper, "/moved", pools);
    let mut server = Distributexd::start(&sandbox, &in_memory);
    let mut last = 0;
    // The last time the node is there from an earlier time, with its holder and older tokens.
    for (backend, is_old) in [(&shared, false), (&in_memory, false), (&shared, true)] {
        // The steps of the manual: no new holder, the old ones leave, then the other backend.
        let held = server.calls("get", "a", "one").reply();
        let (granted, lent) = (token(&held), Instant::now());
        assert!(granted > last, "{granted} follows {last}");
        last = granted;
        server.stop();
        server.configure(backend);
        let_last((SECOND * 2).saturating_sub(lent.elapsed()));
        server.start_again();
        let status = server.ask("/status/");
        assert_eq!(status.contains("\"host\":\"a\""), is_old, "{status}");
        let other = if is_old {
            server.calls("wait", "b", "one").reply()
        } else {
            server.calls("get", "b", "one").reply()
        };
        assert_eq!(other.body, b"YES");
        assert!(token(&other) > last, "{} follows {last}", token(&other));
        last = token(&other);
        assert_eq!(server.call("release", "b", "one"), "OK");
    }
}

#[test]
fn tls_carries_the_connection_and_its_certificate_is_the_identity() {
    let sandbox = Sandbox::new();
    let (zookeeper, address) = ZooKeeper::start_secure(&sandbox.folder);
    let file = |name: &str| sandbox.path(name).display().to_string();
    let config = |ca: &str| {
        let (ca, cert) = (file(ca), file("me.pem"));
        format!(
            "backend: zookeeper\nhost: {address}\ntimeout: 4\ntls:\n  ca: {ca}\n  cert: {cert}\n\
             pools:\n- name: one\n"
        )
    };
    let mut server = Distributexd::start(&sandbox, &config("ca.pem"));
    let grants = |server: &Distributexd| {
        wait_until("a YES", || {
            server.calls("get", "a", "one").reply().body == b"YES"
        });
    };
    grants(&server);
    let refused = sandbox.client(&zookeeper).delete("/distributex/one");
    assert_eq!(refused, Err(Code::NO_AUTH), "only the certificate may");

    // The command that carries the connection is replaced when it ends, and reaped.
    let helper = || process::children(server.pid());
    let [first] = helper()[..] else {
        panic!("{:?}", helper())
    };
    assert_eq!(process::name(first), "openssl");
    assert!(process::kill(first, libc::SIGKILL));
    let second = wait_for("another one", || {
        helper().into_iter().find(|&helper| helper != first)
    });
    grants(&server);
    assert_eq!(helper(), [second]);
    let began = process::cpu(server.pid());
    let_last(SECOND);
    let used = process::cpu(server.pid()).zip(began);
    assert!(
        used.is_some_and(|(now, began)| now.saturating_sub(began) < SECOND / 4),
        "{used:?}"
    );
    server.stop();
    assert!(!process::alive(second));

    // A server without the right certificate is none.
    server.configure(&config("other.pem"));
    server.start_again();
    wait_until("the log to say why", || {
        server.stderr().contains("its certificate is not accepted")
    });
    assert_eq!(server.calls("get", "b", "one").reply().status, 503);
    server.stop();
}

#[test]
fn server_that_stops_leaves_no_entry_that_others_wait_for() {
    let (sandbox, zookeeper) = (Sandbox::new(), ZooKeeper::shared());
    let pools = "- name: one\n";
    // Entries of a server that is dead stay for the timeout of its session.
    let config = config(zookeeper, "/stops", pools).replace("timeout: 2", "timeout: 30");
    let mut servers = [(); 2].map(|()| Distributexd::start(&sandbox, &config));
    assert_eq!(servers[1].call("get", "first", "one"), "YES");
    let mut gone = waiter(&servers, 0, "gone");
    let mut next = waiter(&servers, 1, "next");
    assert_eq!(servers[0].stop().end, Ok(0));
    assert_eq!(gone.reply().status, 503);
    assert_eq!(servers[1].call("release", "first", "one"), "OK");
    assert_eq!(next.hear(), "YES");
}

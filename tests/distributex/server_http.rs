//! The HTTP of distributexd: it answers what the original answered, in order, while other clients
//! are slow, send garbage or have half closed their connections.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use super::curl;
use common::capture;
use common::distributexd::{Connection, Distributexd};
use common::sandbox::Sandbox;
use common::{SECOND, let_last, process, report, tries, wait_until};
use std::fs;
use std::time::Instant;
use zk_flock::internals::http::{LONGEST_HEAD, LONGEST_REQUEST_BODY, Reply};

/// The pools of the capture, and one with two slots.
const CONFIG: &str = "
backend: inmemory
pools:
    - name: pool1
      expire: 300
    - name: guarded
      servers: me, them
    - name: pair
      maxlocks: 2
";

/// Waits until the host is in the queue.
fn wait_until_queued(server: &Distributexd, host: &str) {
    wait_until(&format!("{host} to wait"), || {
        server.ask("/status/").contains(&format!("\"{host}\""))
    });
}

#[test]
fn the_five_published_lines_give_yes_no_ok_yes_ok() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, CONFIG);
    let mut answers = Vec::new();
    for line in [
        "/get/?host=me&pool=pool1",
        "/get/?host=them&pool=pool1",
        "/release/?host=me&pool=pool1",
        "/get/?host=them&pool=pool1",
        "/release/?host=them&pool=pool1",
    ] {
        let url = format!("http://localhost:{}{line}", server.port);
        answers.push(curl(&["--ipv4"], &url));
    }
    assert_eq!(answers, ["YES", "NO", "OK", "YES", "OK"]);
}

/// Such a request may arrive long after its host has done something else.
#[test]
fn request_on_a_reset_connection_is_not_carried_out() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, CONFIG);
    assert_eq!(server.call("get", "me", "pool1"), "YES");
    server.signal(libc::SIGSTOP);
    server.calls("release", "me", "pool1").reset();
    server.signal(libc::SIGCONT);
    assert_eq!(server.call("get", "them", "pool1"), "NO");
}

/// What clients depend on. Bodies for people differ from those of the original.
fn essence(reply: &Reply) -> (u16, &[u8], Option<&str>) {
    match reply.status {
        200 => (200, &reply.body, reply.header("Content-Type")),
        status => (status, b"", reply.header("Allow")),
    }
}

#[test]
fn captured_requests_get_the_answers_of_the_original() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, CONFIG);
    let has_a_test_below = |asked: &str| asked.starts_with("HEAD");
    for (asked, answered) in capture::distributexd().filter(|(asked, _)| !has_a_test_below(asked)) {
        let mut connection = server.connect();
        connection.say(&asked);
        for theirs in capture::replies(&answered) {
            assert_eq!(essence(&connection.reply()), essence(&theirs), "{asked:?}");
        }
    }
}

#[test]
fn request_without_a_pool_and_host_that_fit_is_invalid() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, CONFIG);
    for target in [
        "/",
        "/get",
        "/get/?host=me",
        "/get/?pool=pool1",
        "/get/?host&pool=pool1",
        "/get/?host=me&pool=nowhere",
        "/get/?host=me&pool=",
        "/get/?host=other&pool=guarded",
        "/wait/?host=other&pool=guarded",
        "/release/?host=other&pool=guarded",
        "/renew/?host=other&pool=guarded",
        "/gets/?host=me&pool=pool1",
        "/GET/?host=me&pool=pool1",
        "/get/?host=&pool=pool1",
        "/get/?host=a,b&pool=pool1",
        "/get/?host=a%2Cb&pool=pool1",
        "/get/?host=a%0Ab&pool=pool1",
        "/get/?host=a%00&pool=pool1",
        "/get/?host=%7F&pool=pool1",
        "/get/?host=%ff&pool=pool1",
        "/get/?host=&pool=pool1&host=me",
        "*",
    ] {
        assert_eq!(server.ask(target), "INVALID", "{target}");
    }
    assert_eq!(
        server.call("get", "me", "pool1"),
        "YES",
        "none of these requests was granted it"
    );
}

#[test]
fn slashes_are_ignored_and_the_first_of_repeated_parameters_counts() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, CONFIG);
    for (target, answer) in [
        ("/g/e/t?host=me&pool=pool1&host=them&pool=nowhere", "YES"),
        ("//get//?pool=pool1;host=them", "NO"),
        ("/%72elease?host=m%65&pool=pool1", "OK"),
        ("http://elsewhere/get/?host=a+b&pool=pool1", "YES"),
        ("get?host=a%20b&pool=pool1&x&%zz", "YES"),
        ("/v1/release/?host=a%20b&pool=pool1", "OK"),
        ("/v1/get/?host=me&pool=pool1", "YES"),
        ("/v1/get/?host=me&pool=pool1&host=them", "INVALID"),
        ("/v1/g/et/?host=me&pool=pool1", "INVALID"),
        ("/health", "OK\n"),
    ] {
        assert_eq!(server.ask(target), answer, "{target}");
    }
}

#[test]
fn head_is_answered_like_get_and_changes_nothing() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, CONFIG);
    for call in ["get", "wait", "renew"] {
        let mut connection = server.connect();
        connection.say(&format!(
            "HEAD /{call}/?host=me&pool=pool1 HTTP/1.1\r\nConnection: close\r\n\r\n"
        ));
        let said = connection.rest();
        assert!(
            said.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n")
                && said.ends_with("\r\n\r\n"),
            "{said:?}"
        );
        assert!(
            said.contains("\r\nDate: ") && said.contains(" GMT\r\n"),
            "{said:?}"
        );
    }
    assert_eq!(server.call("get", "them", "pool1"), "YES");
    let mut connection = server.connect();
    connection.say("HEAD /release/?host=them&pool=pool1 HTTP/1.1\r\nConnection: close\r\n\r\n");
    connection.rest();
    assert_eq!(server.call("get", "me", "pool1"), "NO");
}

#[test]
fn other_methods_are_refused_and_the_connection_is_kept() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, CONFIG);
    let mut connection = server.connect();
    for (method, status, allow) in [
        ("POST", 405, Some("HEAD, GET")),
        ("PUT", 501, None),
        ("DELETE", 501, None),
        ("OPTIONS", 501, None),
        ("get", 501, None),
    ] {
        connection.say(&format!(
            "{method} /get/?host=me&pool=pool1 HTTP/1.1\r\nContent-Length: 8\r\n\r\nhost=you"
        ));
        let reply = connection.reply();
        assert_eq!(
            (reply.status, reply.header("Allow"), reply.keep_alive),
            (status, allow, true),
            "{method}"
        );
    }
    connection.say("GET /get/?host=them&pool=pool1 HTTP/1.1\r\n\r\n");
    assert_eq!(connection.hear(), "YES");
}

/// Bytes that are not a request, and the status of the reply.
fn garbage() -> Vec<(Vec<u8>, u16)> {
    let long = "x".repeat(2 * LONGEST_HEAD);
    let body = "x".repeat(2 * LONGEST_REQUEST_BODY);
    let texts = [
        ("foo\r\n\r\n".to_owned(), 400),
        ("GET /\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.0\n\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost : h\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n".to_owned(), 400),
        (
            "GET / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n".to_owned(),
            400,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
            400,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n".to_owned(),
            400,
        ),
        (
            format!(
                "POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
            413,
        ),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), 431),
        (long, 431),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".to_owned(),
            501,
        ),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
    ];
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(); // a TLS ClientHello
    texts
        .into_iter()
        .map(|(text, status)| (text.into_bytes(), status))
        .chain([(hello, 400), (vec![0; 100_000], 400)])
        .collect()
}

#[test]
fn malformed_request_is_refused_and_the_connection_is_closed() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, CONFIG);
    for _ in 0..tries(3) {
        for (bytes, status) in garbage() {
            let mut connection = server.connect();
            connection.say("GET /release/?host=me&pool=pool1 HTTP/1.1\r\n\r\n");
            connection.say_bytes(&bytes);
            assert_eq!(connection.hear(), "OK", "what came before it is answered");
            let refusal = connection.reply();
            let shown = bytes[..bytes.len().min(80)].escape_ascii();
            assert_eq!(
                (refusal.status, refusal.keep_alive),
                (status, false),
                "{shown}: {refusal:?}"
            );
            connection.hears_the_end();
        }
        assert_eq!(server.call("get", "me", "pool1"), "YES");
    }
}

#[test]
fn connection_is_kept_or_closed_as_the_client_requests() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, CONFIG);
    for (version, said, kept) in [
        ("HTTP/1.1", "", true),
        ("HTTP/1.1", "Connection: close\r\n", false),
        ("HTTP/1.0", "", false),
        ("HTTP/1.0", "Connection: Keep-Alive\r\n", true),
    ] {
        let mut connection = server.connect();
        for _ in 0..3 {
            connection.say(&format!(
                "GET /get/?host=me&pool=pool1 {version}\r\n{said}\r\n"
            ));
            let reply = connection.reply();
            assert_eq!(
                (reply.body.as_slice(), reply.keep_alive),
                (&b"YES"[..], kept),
                "{version} {said:?}"
            );
            if !kept {
                connection.hears_the_end();
                break;
            }
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, CONFIG);
    assert_eq!(server.call("get", "first", "pool1"), "YES");
    let mut connection = server.connect();
    let requests = [
        "get/?host=me&pool=pool1",
        "wait/?host=me&pool=pool1",
        "nothing/",
        "get/?host=me&pool=pool1",
        "release/?host=me&pool=pool1",
    ];
    connection.say(
        &requests
            .map(|request| format!("GET /{request} HTTP/1.1\r\n\r\n"))
            .concat(),
    );
    assert_eq!(connection.hear(), "NO");
    wait_until_queued(&server, "me");
    assert!(
        connection.is_silent(),
        "what comes after a wait waits with it"
    );
    assert_eq!(server.call("release", "first", "pool1"), "OK");
    let answers = [(); 4].map(|()| connection.hear());
    assert_eq!(answers, ["YES", "INVALID", "YES", "OK"]);
    assert_eq!(server.call("get", "them", "pool1"), "YES");
}

#[test]
fn thousand_pipelined_requests_are_answered_one_by_one() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, CONFIG);
    let mut connection = server.connect();
    let round = ["get", "release"]
        .map(|call| format!("GET /{call}/?host=me&pool=pool1 HTTP/1.1\r\n\r\n"))
        .concat();
    connection.say(&round.repeat(500));
    for _ in 0..500 {
        assert_eq!([connection.hear(), connection.hear()], ["YES", "OK"]);
    }
}

#[test]
fn slow_clients_are_answered_and_do_not_delay_others() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, CONFIG);
    let mut slow: Vec<Connection> = (0..50).map(|_| server.connect()).collect();
    let mut quick = server.connect();
    for byte in "GET /get/?host=slow&pool=pair HTTP/1.1\r\nConnection: close\r\n\r\n".bytes() {
        for connection in &mut slow {
            connection.say_bytes(&[byte]);
        }
        for (call, answer) in [("get", "YES"), ("release", "OK")] {
            quick.say(&format!(
                "GET /{call}/?host=quick&pool=pool1 HTTP/1.1\r\n\r\n"
            ));
            assert_eq!(quick.hear(), answer);
        }
    }
    for connection in &mut slow {
        assert_eq!(connection.hear(), "YES");
        connection.hears_the_end();
    }
}

/// So many pools that some replies to `/status/` exceed the kernel's buffers for a client that does
/// not read.
fn many_pools() -> String {
    let pools: String = (0..700)
        .map(|number| format!("    - name: pool{number}\n"))
        .collect();
    format!("pools:\n{pools}")
}

/// A client that sends requests and reads no reply.
fn client_that_never_reads(server: &Distributexd) -> Connection {
    let mut connection = server.connect();
    connection.say(&"GET /status/ HTTP/1.1\r\n\r\n".repeat(300));
    connection
}

#[test]
fn unread_replies_do_not_delay_others_and_are_not_queued_without_limit() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, &many_pools());
    let _non_reading: Vec<_> = (0..20).map(|_| client_that_never_reads(&server)).collect();
    for _ in 0..100 {
        assert_eq!(
            ["get", "release"].map(|call| server.call(call, "me", "pool1")),
            ["YES", "OK"]
        );
    }
    let memory = server.memory();
    assert!(memory < 30_000, "{memory} kB");
}

#[test]
fn pages_that_are_requested_at_the_same_time_are_not_queued_without_limit() {
    let sandbox = Sandbox::new();
    // A page of 5 MB is more than the kernel takes for a client that does not read.
    let letter = |number: u32| char::from_digit(10 + number % 16, 36).expect("a letter");
    let name = |number: u32| [12, 8, 4, 0].map(|shift| letter(number >> shift));
    let names = (0..65_000).map(|number| String::from_iter(name(number)));
    let pools: String = names.map(|name| format!("- name: {name}\n")).collect();
    let server = Distributexd::start(&sandbox, &format!("pools:\n- name: pool1\n{pools}"));
    let mut readers: Vec<_> = (0..60).map(|_| server.connect()).collect();
    assert_eq!(server.call("get", "me", "pool1"), "YES"); // the server has accepted all of them
    let before = server.memory();
    server.signal(libc::SIGSTOP);
    for reader in &mut readers {
        reader.say("GET /status/ HTTP/1.1\r\n\r\n");
    }
    server.signal(libc::SIGCONT);
    assert_eq!(server.call("release", "me", "pool1"), "OK");
    let grown = server.memory() - before;
    assert!(grown < 120_000, "{grown} kB");
}

#[test]
fn silent_connections_cost_no_cpu_time() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, &many_pools());
    assert_eq!(server.call("get", "first", "pool1"), "YES");
    let connect_and_send = |text: &str| {
        let mut connection = server.connect();
        connection.say(text);
        connection
    };
    let fresh = connect_and_send("");
    let partial_request = connect_and_send("GET /get/?host=me");
    let idle = server.calls("get", "me", "pool2");
    let refused = connect_and_send("foo\r\n\r\n");
    let waiting = server.calls("wait", "me", "pool1");
    let waiting_with_more_data = connect_and_send(&format!(
        "GET /wait/?host=other&pool=pool1 HTTP/1.1\r\n\r\n{}",
        "x".repeat(50_000)
    ));
    let (non_reading, mut half_closed) = (
        client_that_never_reads(&server),
        client_that_never_reads(&server),
    );
    half_closed.end();
    for host in ["me", "other"] {
        wait_until_queued(&server, host);
    }
    let cpu = || process::cpu(server.pid()).expect("the server runs");
    let before = cpu();
    let_last(2 * SECOND);
    let spent = cpu().saturating_sub(before);
    assert!(spent < SECOND / 10, "{spent:?} of 2 s");
    drop((
        fresh,
        partial_request,
        idle,
        refused,
        waiting,
        waiting_with_more_data,
        non_reading,
        half_closed,
    ));
}

#[test]
fn request_that_takes_over_ten_seconds_gets_408_or_the_connection_is_closed() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, &many_pools());
    let started = Instant::now();
    let mut fresh = server.connect();
    let mut stopped = server.connect();
    stopped.say("GET /get/?host=me");
    let mut non_reading = client_that_never_reads(&server);
    let mut slow: Vec<_> = (0..tries(100)).map(|_| server.connect()).collect();
    let request = "GET /get/?host=slow&pool=pool1 HTTP/1.1\r\n\r\n".as_bytes();
    for byte in &request[..9] {
        slow.iter_mut()
            .for_each(|connection| connection.say_bytes(&[*byte]));
        assert_eq!(server.call("get", "me", "pool1"), "YES");
        let_last(SECOND);
    }
    report(
        &format!(
            "memory of a lock server with {} clients of a byte a second",
            slow.len()
        ),
        format!("{} kB", server.memory()),
    );
    for connection in slow.iter_mut().chain([&mut stopped]) {
        let reply = connection.reply();
        assert_eq!((reply.status, reply.keep_alive), (408, false));
        connection.hears_the_end();
    }
    fresh.hears_the_end();
    assert!(started.elapsed() >= 10 * SECOND);
    drop((fresh, stopped, slow));
    wait_until("the client that never reads to be disconnected", || {
        connections_of(&server) == 0
    });
    assert!(
        non_reading.rest().len() < 10 << 20,
        "it gets no more than the kernel had buffered"
    );
}

/// How many connections the server has, without the one that asks.
fn connections_of(server: &Distributexd) -> usize {
    let folder = format!("/proc/{}/fd", server.pid());
    let sockets = fs::read_dir(folder)
        .expect("the server runs")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    sockets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
        - 1 // the listening socket
}

#[test]
fn connection_above_the_limit_gets_a_503() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start_with_descriptors(&sandbox, CONFIG, 128);
    let most: usize =
        number_before(&server.stderr(), " connections at most").expect("it tells how many");
    wait_until("the connections of the start to be gone", || {
        connections_of(&server) == 0
    });
    let mut inside: Vec<_> = (0..most).map(|_| server.connect()).collect();
    inside
        .iter_mut()
        .for_each(|connection| connection.say("GET /get/?host=me&pool=pool1 HTTP/1.1\r\n\r\n"));
    inside
        .iter_mut()
        .for_each(|connection| assert_eq!(connection.hear(), "YES"));
    let reply = server.connect().reply();
    assert_eq!(
        (
            reply.status,
            reply.keep_alive,
            reply.header("Retry-After").is_some()
        ),
        (503, false, true),
        "{reply:?}"
    );
    let crowd: Vec<_> = (0..200).map(|_| server.connect()).collect();
    for connection in &mut inside {
        connection.say("GET /get/?host=them&pool=pool1 HTTP/1.1\r\n\r\n");
        assert_eq!(connection.hear(), "NO");
    }
    drop((crowd, inside));
    wait_until("there to be room again", || {
        server.calls("get", "me", "pool1").reply().status == 200
    });
}

/// Connections on which no request is made cannot keep clients out.
#[test]
fn idle_connections_make_room_for_a_client() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start_with_descriptors(&sandbox, CONFIG, 128);
    let mut holder = server.calls("get", "me", "pool1");
    assert_eq!(holder.hear(), "YES");
    let mut waiter = server.calls("wait", "them", "pool1");
    wait_until_queued(&server, "them");
    let mut crowd: Vec<_> = (0..300).map(|_| server.connect()).collect();
    for (index, connection) in crowd.iter_mut().enumerate() {
        connection.say(["", "GET /ge", "GET /health HTTP/1.1\r\n\r\n"][index % 3]);
    }
    for _ in 0..20 {
        assert_eq!(server.call("get", "other", "pool1"), "NO");
    }
    holder.say("GET /release/?host=me&pool=pool1 HTTP/1.1\r\n\r\n");
    assert_eq!([holder.hear(), waiter.hear()], ["OK", "YES"]);
}

/// The number before these words.
fn number_before(text: &str, words: &str) -> Option<usize> {
    text.split_once(words)?.0.rsplit(' ').next()?.parse().ok()
}

#[test]
fn client_that_half_closes_gets_its_answers() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, CONFIG);
    let mut connection = server.connect();
    connection.say("GET /get/?host=me&pool=pool1 HTTP/1.1\r\n\r\nGET /get/?host=them&pool=pool1 HTTP/1.1\r\n\r\nGET /rel");
    connection.end();
    assert_eq!([connection.hear(), connection.hear()], ["YES", "NO"]);
    connection.hears_the_end();
}

#[test]
fn waiter_that_disconnects_leaves_the_queue() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, CONFIG);
    assert_eq!(server.call("get", "first", "pool1"), "YES");
    let mut gone = server.calls("wait", "gone", "pool1");
    let mut half_closed = server.calls("wait", "half-gone", "pool1");
    let mut last = server.calls("wait", "last", "pool1");
    for host in ["gone", "half-gone", "last"] {
        wait_until_queued(&server, host);
    }
    gone.end();
    drop(gone);
    half_closed.end();
    half_closed.hears_the_end();
    wait_until("the places to be free", || {
        !server.ask("/status/").contains("gone")
    });
    assert_eq!(server.call("release", "first", "pool1"), "OK");
    assert_eq!(last.hear(), "YES");
}

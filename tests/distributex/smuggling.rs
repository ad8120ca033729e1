//! Requests that hide another one, or another path, do not pass the rules of an nginx before
//! distributexd.

use common::distributexd::{Connection, Distributexd};
use common::run::{Job, Running};
use common::sandbox::Sandbox;
use common::{free_port, wait_until};
use std::fs;
use std::path::Path;

const NGINX: &str = "/usr/sbin/nginx";

/// An nginx with a path prefix. It forwards `/health`, and `/get/` to the strict path of the
/// server, on one connection that it keeps. It forbids all other paths.
fn nginx<'a>(sandbox: &'a Sandbox, server: &Distributexd) -> (Running<'a>, u16) {
    assert!(
        Path::new(NGINX).exists(),
        "{NGINX} is missing: apt-get install nginx-light, or let tests/all do it"
    );
    let (port, folder) = (free_port(), sandbox.folder.display().to_string());
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {folder}/{name}; "))
        .concat();
    let config = format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr; events {{ }}
        http {{
            access_log off; {paths}
            upstream distributexd {{ server 127.0.0.1:{}; keepalive 1; }}
            server {{
                listen 127.0.0.1:{port};
                proxy_http_version 1.1;
                proxy_set_header Connection \"\";
                location = /locks/health {{ proxy_pass http://distributexd/health; }}
                location ~ ^/locks(?<call>/get/)$ {{
                    proxy_pass http://distributexd/v1$call?$args;
                }}
                location / {{ return 403; }}
            }}
        }}",
        server.port
    );
    let file = sandbox.path("nginx.conf");
    fs::write(&file, config).expect("a config can be written");
    let words = ["-p", &folder, "-c", file.to_str().expect("it is text")];
    let mut nginx = Job::new(sandbox, Path::new(NGINX)).words(&words).start();
    wait_until("nginx to serve", || {
        assert!(!nginx.has_ended(), "nginx has ended: {}", nginx.stderr());
        Connection::to(port).is_some()
    });
    (nginx, port)
}

const HEALTH: &str = "/locks/health HTTP/1.1\r\nHost: x\r\n";

/// Requests, each of which hides another one.
fn tricks(hidden: &str) -> Vec<String> {
    let length = hidden.len();
    let chunk = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    let mut tricks = vec![
        format!("POST {HEALTH}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"),
        format!("POST {HEALTH}X: y\n\n{hidden}"),
        format!("GET {HEALTH}X: y\r\r\n\r\n{hidden}"),
        format!("GET {HEALTH}Host: y\r\n\r\n{hidden}"),
        format!("GET {HEALTH}content_length: {length}\r\n\r\n{hidden}"),
        format!("POST {HEALTH}Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n{hidden}"),
        format!("POST {HEALTH}Transfer-Encoding: chunked\r\n\r\n0 ;a=b\r\n\r\n{hidden}"),
        format!("POST {HEALTH}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff0\r\n{hidden}"),
        format!("GET /locks/health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n{hidden}"),
        format!("GET {HEALTH}Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n{hidden}"),
    ];
    for coding in [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "X: y\r\n Transfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: \u{b}chunked",
        "X: y\nTransfer-Encoding: chunked",
    ] {
        let (both, body) = (5 + length, format!("0\r\n\r\n{hidden}"));
        tricks.push(format!(
            "POST {HEALTH}Content-Length: {both}\r\n{coding}\r\n\r\n{body}"
        ));
        tricks.push(format!("POST {HEALTH}{coding}\r\n\r\n{body}"));
    }
    for lengths in [
        format!("Content-Length: 0\r\nContent-Length: {length}"),
        format!("Content-Length: {length}\r\nContent-Length: 0"),
        format!("Content-Length: 0, {length}"),
        format!("Content-Length: +{length}"),
        format!("Content-Length : {length}"),
        format!("Content-Length:\r\n {length}"),
    ] {
        tricks.push(format!("POST {HEALTH}{lengths}\r\n\r\n{hidden}"));
        tricks.push(format!("GET {HEALTH}{lengths}\r\n\r\n{hidden}"));
    }
    tricks
}

/// Other spellings of a release, all of them with the prefix of the proxy.
fn spellings(query: &str) -> Vec<String> {
    [
        "/locks/release/?Q",
        "/locks//release/?Q",
        "/locks/rel/ease/?Q",
        "/locks/r%65lease/?Q",
        "/locks/r%2felease/?Q",
        "/locks/%2frelease/?Q",
        "/locks/get/../release/?Q",
        "/locks/get/%2e%2e/release/?Q",
        "/locks/health/../release/?Q",
        "/locks/v1/release/?Q",
        "/v1/release/?Q",
        "/release/?Q",
        "http://x/release/?Q",
        "http://x/locks//rel/ease/?Q",
        "/locks/get/%0d%0aGET%20/release/?Q",
        "/locks/release;/?Q",
        "/locks/release%3fQ",
    ]
    .map(|target| target.replace('Q', query))
    .to_vec()
}

#[test]
fn hidden_requests_and_other_spellings_do_not_pass_the_rules_of_nginx() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, "pools: [{name: p}]\n");
    let (_nginx, port) = nginx(&sandbox, &server);
    let through = |request: &str| {
        let mut connection = Connection::to(port).expect("nginx listens");
        connection.say(request);
        connection.reply().status
    };
    let query = "pool=p&host=victim";
    let is_held = || {
        // nginx has one connection to the server, which has read all that came on it before this.
        assert_eq!(through(&format!("GET {HEALTH}\r\n")), 200);
        server.ask("/status/").contains("\"victim\"")
    };
    assert_eq!(server.call("get", "victim", "p"), "YES");
    let target = format!("/release/?{query}");
    let hidden = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
    for trick in tricks(&hidden) {
        let status = through(&trick);
        assert!(
            [200, 400, 403, 405, 501].contains(&status),
            "{trick:?}: {status}"
        );
        assert!(is_held(), "{trick:?}");
    }
    for target in spellings(query) {
        let status = through(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(status, 403, "{target}");
        assert!(is_held(), "{target}");
    }
    for query in ["pool=p&host=victim&host=x", "x=1;host=victim&host=x&pool=p"] {
        let target = format!("/locks/get/?{query}");
        let mut connection = Connection::to(port).expect("nginx listens");
        connection.say(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(connection.hear(), "INVALID", "{target}");
    }
    // The hidden request itself is what it should be.
    let mut connection = server.connect();
    connection.say(&hidden);
    assert_eq!(connection.hear(), "OK");
    assert!(!is_held());
}

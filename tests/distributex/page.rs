//! `/status/` as a page: a browser gets HTML, and every other client gets the JSON of before.

use common::distributexd::Distributexd;
use common::sandbox::Sandbox;
use serde_json::Value;
use zk_flock::internals::http::Reply;

const BROWSER: &str = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n";

/// The reply to a request with these header lines.
#[track_caller]
fn ask(server: &Distributexd, line: &str, fields: &str) -> Reply {
    let mut connection = server.connect();
    connection.say(&format!("{line} HTTP/1.1\r\n{fields}\r\n"));
    connection.reply()
}

fn body(reply: &Reply) -> &str {
    str::from_utf8(&reply.body).expect("pages are text")
}

#[test]
fn browser_gets_a_page_and_every_other_client_json() {
    let sandbox = Sandbox::new();
    let config = format!("pools:\n- name: {}\n  maxlocks: 2\n", sandbox.id);
    let server = Distributexd::start(&sandbox, &config);
    let hostile = "<script>alert(1)</script>";
    for host in ["me", hostile] {
        assert_eq!(server.call("get", host, &sandbox.id), "YES");
    }
    for fields in [
        "",
        "Accept: */*\r\n",
        "Accept: application/json\r\n",
        "Accept: application/json, text/html;q=0.9\r\n",
        "Accept: text/html;q=0\r\n",
        "Accept: text/html, image/gif, *; q=.2, */*; q=.2\r\n",
    ] {
        let reply = ask(&server, "GET /status/", fields);
        assert_eq!(
            reply.header("Content-Type"),
            Some("application/json"),
            "{fields}"
        );
        assert_eq!(reply.header("Vary"), None, "as before");
        let state: Value = serde_json::from_slice(&reply.body).expect("JSON");
        assert_eq!(state["pools"][0]["holders"][0]["host"], hostile);
    }
    let reply = ask(&server, "GET /status/", BROWSER);
    assert_eq!((reply.status, reply.keep_alive), (200, true));
    for (name, value) in [
        ("Content-Type", "text/html; charset=utf-8"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
    ] {
        assert_eq!(reply.header(name), Some(value));
    }
    let policy = reply.header("Content-Security-Policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    let page = body(&reply);
    assert!(page.contains("<bdi>me</bdi>"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert_eq!(
        page.matches("<script").count(),
        1,
        "the one of the page itself"
    );

    let reply = ask(&server, "GET /status/?host=nobody", BROWSER);
    assert!(body(&reply).contains("No pool matches the filter."));
    let reply = ask(&server, "GET /status", BROWSER);
    assert_eq!(
        (reply.status, reply.header("Location")),
        (308, Some("status/"))
    );
    let reply = ask(&server, "GET /s/tatus", BROWSER);
    assert_eq!(reply.header("Content-Type"), Some("application/json"));
}

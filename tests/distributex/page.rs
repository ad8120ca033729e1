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

    let reply = ask(&server, "GET /status/?host=unknown", BROWSER);
    assert!(body(&reply).contains("No pool matches the filter."));
    let reply = ask(&server, "GET /status", BROWSER);
    assert_eq!(
        (reply.status, reply.header("Location")),
        (308, Some("status/"))
    );
    let reply = ask(&server, "GET /s/tatus", BROWSER);
    assert_eq!(reply.header("Content-Type"), Some("application/json"));
}

/// A browser sends its stored credentials with any request, also with one that another site causes.
#[test]
fn form_revokes_with_the_token_in_it_and_stored_credentials_never_do() {
    let sandbox = Sandbox::new();
    let administrator = "an-administrator-0123456789";
    let (file, pool) = (sandbox.secret("administer", administrator), &sandbox.id);
    let file = file.display();
    let server = Distributexd::start(
        &sandbox,
        &format!("access_tokens:\n  administer: {file}\npools:\n- name: {pool}\n"),
    );
    // base64 of "x:an-administrator-0123456789"
    let stored = "Authorization: Basic eDphbi1hZG1pbmlzdHJhdG9yLTAxMjM0NTY3ODk=\r\n";
    let bearer = format!("Authorization: Bearer {administrator}\r\n");
    let held = ask(&server, &format!("GET /get/?pool={pool}&host=me"), &bearer);
    assert_eq!(body(&held), "YES");

    let refused = ask(&server, "GET /status/", BROWSER);
    assert_eq!(refused.status, 401);
    let schemes = refused.combined("WWW-Authenticate").unwrap_or_default();
    assert!(schemes.starts_with("Basic "), "{schemes}");
    assert!(body(&refused).contains("as the password"));
    let browser = format!("{BROWSER}{stored}");
    let target = format!("GET /status/?only={pool}&revoke=me");
    let page = ask(&server, &target, &browser);
    let token = held.header("X-Lock-Token").expect("a token");
    let action = format!("action=\"../revoke/?pool={pool}&amp;host=me&amp;token={token}\"");
    assert!(body(&page).contains(&action), "{}", body(&page));

    let send = |token: &str, fields: &str, form: &str| {
        let length = form.len();
        let mut connection = server.connect();
        connection.say(&format!(
            "POST /revoke/?pool={pool}&host=me&token={token} HTTP/1.1\r\n{BROWSER}{fields}\
             Content-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {length}\r\n\r\n{form}"
        ));
        connection.reply()
    };
    let post = |fields: &str, form: &str| send(token, fields, form);
    for (fields, form) in [
        (stored, ""),
        (stored, "access_token="),
        (stored, "access_token=wrong"),
        (stored, "token=an-administrator-0123456789"),
        ("", ""),
        (&*bearer, "access_token="),
    ] {
        let reply = post(fields, form);
        assert_eq!(reply.status, 401, "{form}");
        let schemes = reply.combined("WWW-Authenticate").unwrap_or_default();
        assert!(!schemes.contains("Basic"), "{schemes}");
        assert!(body(&reply).contains("Not revoked"));
    }
    let state = |server| body(&ask(server, "GET /status/", &bearer)).to_owned();
    assert!(state(&server).contains("\"revoked\":false"));
    let form = format!("access_token={administrator}");
    let reply = send("0", stored, &form);
    assert_eq!(reply.status, 404);
    let text = format!("holds {pool} with another fencing token");
    assert!(body(&reply).contains(&text), "{}", body(&reply));
    assert!(state(&server).contains("\"revoked\":false"));
    let reply = post(stored, &form);
    assert_eq!(reply.status, 200);
    assert!(body(&reply).contains("<h2>Revoked</h2>"));
    assert!(state(&server).contains("\"revoked\":true"));
    let log = server.stderr();
    let line = format!(" method=POST path=/revoke/ pool={pool} host=me status=200 token=");
    assert!(log.contains(&line), "{log}");
    assert!(!log.contains(administrator), "{log}");
}

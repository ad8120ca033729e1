//! Grants hold across reloads and restarts, whatever changes in the config; runs of one host
//! exclude each other; a lock can be revoked. The promises are in distributexd(8), PROMISES.

use common::distributexd::Distributexd;
use common::sandbox::Sandbox;
use common::{SECOND, let_last, wait_until};
use zk_flock::internals::http::Reply;

fn config(sandbox: &Sandbox, pools: &str) -> String {
    format!(
        "state: {}\npools:\n{pools}",
        sandbox.path("state").display()
    )
}

/// A pool in a config.
fn pool(name: &str, expire: &str) -> String {
    format!("    - name: {name}\n      expire: {expire}\n")
}

/// The reply to a GET or POST on a connection of its own.
#[track_caller]
fn reply(server: &Distributexd, method: &str, target: &str) -> Reply {
    let mut connection = server.connect();
    connection.say(&format!("{method} {target} HTTP/1.1\r\n\r\n"));
    connection.reply()
}

/// Status, body, and whether the reply says that the lock is revoked.
#[track_caller]
fn answer(server: &Distributexd, method: &str, target: &str) -> (u16, String, bool) {
    let reply = reply(server, method, target);
    (
        reply.status,
        String::from_utf8_lossy(&reply.body).into_owned(),
        reply.header("X-Lock-Revoked") == Some("1"),
    )
}

/// Makes the server read its config again, by HUP or by a restart.
fn reload(server: &mut Distributexd, config: &str, by_hup: bool) {
    server.configure(config);
    if by_hup {
        server.signal(libc::SIGHUP);
        wait_until("the new config", || {
            server.stderr().matches("reloaded ").count() == 1
        });
    } else {
        server.kill();
        server.start_again();
    }
}

#[test]
fn lease_in_a_reply_is_shorter_than_on_the_server_and_never_zero() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(
        &sandbox,
        &format!(
            "pools:\n{}{}{}",
            pool("short", "1"),
            pool("long", "100"),
            pool("endless", "0")
        ),
    );
    for (pool, least, most) in [("short", 0.3, 0.5), ("long", 90.0, 95.0)] {
        let reply = reply(&server, "GET", &format!("/get/?pool={pool}&host=a"));
        let told: f64 = reply
            .header("X-Lock-Expires")
            .expect("a lease has an end")
            .parse()
            .expect("a number");
        assert!((least..=most).contains(&told), "{pool}: {told}");
    }
    assert_eq!(
        reply(&server, "GET", "/get/?pool=endless&host=a").header("X-Lock-Expires"),
        None
    );
}

#[test]
fn lock_without_expiry_keeps_none_when_a_reload_or_restart_sets_expire() {
    for by_hup in [true, false] {
        let sandbox = Sandbox::new();
        let mut server = Distributexd::start(&sandbox, &config(&sandbox, &pool("p", "0")));
        assert_eq!(server.call("get", "a", "p"), "YES");
        reload(&mut server, &config(&sandbox, &pool("p", "1")), by_hup);
        let_last(SECOND + SECOND / 5);
        assert_eq!(
            ["b", "a"].map(|host| server.call("get", host, "p")),
            ["NO", "YES"],
            "by HUP: {by_hup}"
        );
        assert_eq!(
            ["a", "b"].map(|host| server.call(
                if host == "a" { "release" } else { "get" },
                host,
                "p"
            )),
            ["OK", "YES"]
        );
    }
}

#[test]
fn pool_removed_from_the_config_for_a_while_keeps_its_holders() {
    for by_hup in [true, false] {
        let sandbox = Sandbox::new();
        let (with, without) = (pool("p", "60") + &pool("other", "60"), pool("other", "60"));
        let mut server = Distributexd::start(&sandbox, &config(&sandbox, &with));
        let token = reply(&server, "GET", "/get/?pool=p&host=a")
            .header("X-Lock-Token")
            .expect("YES has a token")
            .to_owned();
        reload(&mut server, &config(&sandbox, &without), by_hup);
        let kept = format!(
            "pool p was removed from the config: a keeps it (token {token}) until it is released or the lease ends, in "
        );
        assert!(server.stderr().contains(&kept), "{}", server.stderr());
        assert_eq!(
            ["get", "wait"].map(|call| server.call(call, "b", "p")),
            ["INVALID", "INVALID"]
        );
        assert_eq!(
            answer(
                &server,
                "GET",
                &format!("/renew/?pool=p&host=a&token={token}")
            ),
            (200, "YES".into(), false)
        );
        server.configure(&config(&sandbox, &with));
        server.signal(libc::SIGHUP);
        wait_until("the pool", || server.call("get", "b", "p") == "NO");
        assert_eq!(
            reply(&server, "GET", "/get/?pool=p&host=a").header("X-Lock-Token"),
            Some(&*token)
        );
        assert_eq!(
            ["release", "get"].map(|call| server.call(
                call,
                if call == "get" { "b" } else { "a" },
                "p"
            )),
            ["OK", "YES"]
        );
    }
}

#[test]
fn two_runs_of_one_host_exclude_each_other_and_a_third_host() {
    let sandbox = Sandbox::new();
    let mut server = Distributexd::start(&sandbox, &config(&sandbox, &pool("p", "60")));
    assert_eq!(server.ask("/get/?pool=p&host=a&run=r1"), "YES");
    server.kill();
    server.start_again();
    assert_eq!(server.ask("/get/?pool=p&host=a&run=r2"), "NO");
    assert_eq!(
        server.ask("/get/?pool=p&host=a"),
        "NO",
        "a client without a run id is another one"
    );
    let mut waiting = server.connect();
    waiting.say("GET /wait/?pool=p&host=a&run=r2 HTTP/1.1\r\n\r\n");
    wait_until("it to wait", || {
        server
            .ask("/status/")
            .contains("\"run\":\"r2\",\"waiting\"")
    });
    assert_eq!(
        server.ask("/release/?pool=p&host=a&run=r2"),
        "OK",
        "that releases nothing of r1"
    );
    assert_eq!(server.ask("/get/?pool=p&host=a&run=r1"), "YES");
    assert_eq!(server.ask("/release/?pool=p&host=a&run=r1"), "OK");
    assert_eq!(waiting.hear(), "YES");
    assert_eq!(server.ask("/get/?pool=p&host=b"), "NO");
    assert_eq!(server.ask("/get/?pool=p&host=a&run=a/b"), "INVALID");
    assert!(
        server
            .stderr()
            .contains(r#"invalid request from "a" for "p": run must be 1 to 64 characters"#)
    );
}

#[test]
fn revoked_lock_is_not_renewed_and_is_granted_after_its_holder_releases_it() {
    let sandbox = Sandbox::new();
    let mut server = Distributexd::start(
        &sandbox,
        &config(&sandbox, &(pool("p", "60") + &pool("endless", "0"))),
    );
    assert_eq!(server.ask("/get/?pool=p&host=a&run=r"), "YES");
    assert_eq!(server.ask("/get/?pool=endless&host=a"), "YES");
    for (method, target, status) in [
        ("GET", "/revoke/?pool=p&host=a", 405),
        ("POST", "/revoke?pool=p&host=a", 405),
        ("POST", "/re/voke/?pool=p&host=a", 405),
        ("POST", "/revoke/?pool=p", 400),
        ("POST", "/revoke/?pool=p&host=b", 404),
        ("POST", "/revoke/?pool=q&host=a", 404),
    ] {
        assert_eq!(
            answer(&server, method, target).0,
            status,
            "{method} {target}"
        );
    }
    assert_eq!(
        server.ask("/get/?pool=p&host=a&run=r"),
        "YES",
        "none of that revoked it"
    );
    let (status, sentence, _) = answer(&server, "POST", "/revoke/?pool=p&host=a");
    let left = sentence
        .strip_prefix("revoked p for a: it is held until released, at most ")
        .and_then(|rest| rest.strip_suffix(" s\n"));
    let left: f64 = left
        .and_then(|left| left.parse().ok())
        .unwrap_or_else(|| panic!("{sentence}"));
    assert!(status == 200 && (1.0..=60.0).contains(&left), "{sentence}");
    let endless = (
        200,
        "revoked endless for a: it is held until released\n".to_owned(),
        false,
    );
    assert_eq!(
        answer(&server, "POST", "/revoke/?pool=endless&host=a"),
        endless
    );
    server.kill();
    server.start_again();
    for target in [
        "/get/?pool=p&host=a&run=r",
        "/wait/?pool=p&host=a&run=r",
        "/renew/?pool=p&host=a&run=r",
        "/renew/?pool=endless&host=a",
    ] {
        assert_eq!(
            answer(&server, "GET", target),
            (200, "NO".into(), true),
            "{target}"
        );
    }
    assert_eq!(
        answer(&server, "GET", "/get/?pool=p&host=b"),
        (200, "NO".into(), false)
    );
    assert_eq!(
        server.ask("/status/").matches("\"revoked\":true").count(),
        2
    );
    let mut waiting = server.calls("wait", "b", "p");
    wait_until("it to wait", || {
        server.ask("/status/").contains("\"waiting\"")
    });
    assert_eq!(server.ask("/release/?pool=p&host=a&run=r"), "OK");
    assert_eq!(waiting.hear(), "YES");
}

#[test]
fn lease_too_short_to_renew_is_a_config_error() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, &format!("pools:\n{}", pool("p", "1")));
    server.configure(&format!("pools:\n{}", pool("p", "0.999")));
    server.signal(libc::SIGHUP);
    let why = "\"expire\": expected seconds from 1 to 1e9 (a client cannot renew in time for less), a time like 1h30m, or 0 for until released, found 0.999";
    wait_until("a complaint", || server.stderr().contains(why));
}

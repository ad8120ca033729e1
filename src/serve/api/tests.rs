use super::*;
use crate::http::Terms;
use crate::pool::{Grant, NotReleased};

fn route_line(line: &str) -> ApiCall {
    route(
        &Request::read(format!("{line} HTTP/1.1\r\n\r\n").as_bytes())
            .unwrap()
            .unwrap()
            .0,
    )
}

fn written(reply: &Reply) -> String {
    let mut out = Vec::new();
    reply.write(Terms::UNREADABLE, "", &mut out);
    String::from_utf8(out).unwrap()
}

fn get() -> PoolRequest {
    PoolRequest {
        call: Call::Get,
        pool: "p".into(),
        host: "h".into(),
        run: None,
        outer: vec![],
    }
}

#[test]
fn slashes_in_the_path_of_a_call_are_ignored() {
    for (line, call) in [
        ("GET /get/?pool=p&host=h", Call::Get),
        ("GET get?host=h&pool=p&host=x", Call::Get),
        ("GET /g/e//t?host=h&pool=p", Call::Get),
        ("GET /wait/?pool=p&host=h", Call::Wait),
        ("GET /renew/?pool=p&host=h", Call::Renew { token: None }),
        (
            "GET /renew/?pool=p&host=h&token=5",
            Call::Renew { token: Some(5) },
        ),
        ("GET /release/?pool=p&host=h", Call::Release { token: None }),
        (
            "GET /release/?pool=p&host=h&token=-5",
            Call::Release { token: Some(-5) },
        ),
    ] {
        assert_eq!(
            route_line(line),
            ApiCall::Pool(PoolRequest {
                call,
                pool: "p".into(),
                host: "h".into(),
                run: None,
                outer: vec![],
            }),
            "{line}"
        );
    }
    assert_eq!(
        [
            route_line("GET /status/"),
            route_line("HEAD /status"),
            route_line("GET /metrics")
        ],
        [Page::Status, Page::Status, Page::Metrics].map(ApiCall::Page)
    );
    for line in ["GET /status/?pool=p&page=2", "GET /status", "GET /s/tatus"] {
        assert_eq!(route_line(line), ApiCall::Page(Page::Status), "{line}");
    }
    for line in ["GET /health", "HEAD /health/"] {
        assert_eq!(route_line(line), ApiCall::Health);
    }
    for (failure, status, body) in [(None, 200, "OK\n"), (Some("disk full"), 503, "disk full")] {
        let reply = health_reply(failure);
        assert_eq!(
            (reply.status, String::from_utf8_lossy(&reply.body).as_ref()),
            (status, body)
        );
    }
}

#[test]
fn browser_gets_html_at_the_one_path_from_which_its_links_lead() {
    let browser = |line: &str| {
        let text = format!("{line} HTTP/1.1\r\nAccept: text/html, */*;q=0.8\r\n\r\n");
        route(&Request::read(text.as_bytes()).unwrap().unwrap().0)
    };
    let view = View::of_pool("p");
    assert_eq!(
        browser("GET /status/?only=p"),
        ApiCall::Page(Page::Html(view))
    );
    let html = ApiCall::Page(Page::Html(View::default()));
    assert_eq!(browser("HEAD /status/"), html);
    assert_eq!(want(&html), Some(Want::Read));
    let ApiCall::Reply(reply) = browser("GET /status?only=p") else {
        panic!("its links would lead elsewhere")
    };
    assert_eq!(
        (reply.status, reply.header("Location")),
        (308, Some("status/"))
    );
    for line in ["GET //status/", "GET /sta/tus", "GET /%73tatus/x"] {
        let call = browser(line);
        assert!(!matches!(call, ApiCall::Page(Page::Html(_))), "{line}");
    }
    assert_eq!(browser("GET /metrics"), ApiCall::Page(Page::Metrics));
}

#[test]
fn names_of_clients_cannot_control_the_terminal_of_curl() {
    let request = PoolRequest {
        call: Call::Revoke { token: None },
        host: "h\u{202e}".into(),
        ..get()
    };
    let why = "memcached says \u{1b}[31m";
    for (answer, body) in [
        (Answer::NotHeld, "cannot revoke: h? does not hold p\n"),
        (
            Answer::Unavailable(why.into()),
            "memcached says ?[31m; the lock may be revoked: look at the pool\n",
        ),
    ] {
        assert_eq!(answer_reply(&request, &answer).body, body.as_bytes());
    }
    let reply = answer_reply(&get(), &Answer::Unavailable(why.into()));
    assert_eq!(reply.body, b"memcached says ?[31m");
}

#[test]
fn form_of_the_page_is_answered_with_a_page() {
    let post = |accept: &str| {
        let text = format!("POST /revoke/?pool=p&host=h HTTP/1.1\r\n{accept}\r\n");
        let request = Request::read(text.as_bytes()).unwrap().unwrap().0;
        is_form(&route(&request), &request)
    };
    assert!(post("Accept: text/html\r\n"));
    assert!(!post("Accept: */*\r\n") && !post(""));
    let request = PoolRequest {
        call: Call::Revoke { token: None },
        pool: "<p>".into(),
        ..get()
    };
    let page = |answer| revocation_page(&request, &answer, answer_reply(&request, &answer));
    let ends = Remaining::UntilReleased;
    let revocation = Answer::Revocation {
        token: Some(7),
        ends,
    };
    for (reply, status, parts) in [
        (
            page(revocation),
            200,
            [
                "<h2>Revoked</h2>",
                "revoked &lt;p&gt; for h: it is held until released</p>",
            ],
        ),
        (
            page(Answer::NotHeld),
            404,
            ["<h2>Not revoked</h2>", "href=\"../status/?only=%3Cp%3E\""],
        ),
        (
            page(Answer::Unavailable("disk full".into())),
            503,
            [
                "<h2>Revocation not confirmed</h2>",
                "disk full; the lock may be revoked: look at the pool</p>",
            ],
        ),
        (
            form_denial_page(Denial::NotAdministrator),
            403,
            [
                "<h2>Not revoked</h2>",
                "access token not of an administrator",
            ],
        ),
        (
            form_denial_page(Denial::BasicOnlyReads),
            401,
            ["<h2>Not revoked</h2>", "href=\"../status/\""],
        ),
    ] {
        let body = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, status, "{body}");
        assert!(parts.iter().all(|part| body.contains(part)), "{body}");
        assert!(reply.header("Content-Security-Policy").is_some());
        let scheme = reply.header("WWW-Authenticate");
        assert!(
            scheme.is_none_or(|it| it.starts_with("Bearer ")),
            "no dialog"
        );
    }
}

#[test]
fn reader_of_some_pools_learns_the_name_of_no_other_pool() {
    let corrupt = Answer::Unavailable("backup:leases is not understood".into());
    let some = Scope::Pools(["a".to_owned()].into());
    for (scope, failure, why) in [
        (&Scope::All, None, "backup:leases is not understood"),
        (&Scope::All, Some("down"), "backup:leases is not understood"),
        (&some, None, "the holders of some pool are unknown"),
        (&some, Some("down"), "down"),
    ] {
        assert_eq!(why_unknown(&corrupt, scope, failure), why);
    }
}

#[test]
fn page_has_the_headers_that_bind_a_browser() {
    let reply = html_reply(200, "page".into());
    let text = written(&reply);
    for line in [
        "Content-Type: text/html; charset=utf-8",
        "X-Content-Type-Options: nosniff",
        "Referrer-Policy: no-referrer",
        "Cache-Control: no-store",
        "Vary: Accept",
    ] {
        assert!(text.contains(&format!("\r\n{line}\r\n")), "{text}");
    }
    assert!(text.contains("\r\nContent-Security-Policy: default-src 'none'; "));
    let refused = denial_reply(Denial::NoToken, true);
    let notice = denial_page(Denial::NoToken);
    assert_eq!(notice.status, 401);
    assert_eq!(
        notice.combined("WWW-Authenticate"),
        refused.combined("WWW-Authenticate")
    );
    assert_eq!(
        notice.combined("Content-Type").as_deref(),
        Some("text/html; charset=utf-8")
    );
    assert!(notice.header("Content-Security-Policy").is_some());
    let body = String::from_utf8(notice.body).unwrap();
    let advice = "<p>access token missing: enter an access token of this server as the password";
    assert!(body.contains(advice), "{body}");
    assert!(body.contains("<a href=\"./\">Try again</a>"), "{body}");
}

#[test]
fn only_what_tells_of_pools_needs_a_right() {
    for (line, wanted) in [
        ("GET /get/?pool=p&host=h", Some(Want::Pool(Call::Get, "p"))),
        (
            "POST /revoke/?pool=p&host=h",
            Some(Want::Pool(Call::Revoke { token: None }, "p")),
        ),
        (
            "GET /v1/get/?pool=p&host=h",
            Some(Want::Pool(Call::Get, "p")),
        ),
        ("GET /status/", Some(Want::Read)),
        ("GET /health", None),
        ("HEAD /m/etrics", Some(Want::Read)),
        ("GET /get/?pool=p&host=h&run=%2e%00", Some(Want::Report)),
        ("GET /get/?pool=p", None),
        ("HEAD /get/?pool=p&host=h", None),
        ("GET /", None),
        ("POST /get/?pool=p&host=h", None),
        ("GET /revoke/?pool=p&host=h", None),
    ] {
        assert_eq!(want(&route_line(line)), wanted, "{line}");
    }
}

#[test]
fn denial_asks_for_a_password_only_to_read_a_page() {
    for (denial, is_page, schemes) in [
        (
            Denial::NoToken,
            true,
            "Basic realm=\"distributexd\", Bearer realm=\"distributexd\"",
        ),
        (Denial::NoToken, false, "Bearer realm=\"distributexd\""),
        (
            Denial::BasicOnlyReads,
            false,
            "Bearer realm=\"distributexd\"",
        ),
        (Denial::NoRight, true, ""),
        (Denial::Network, true, ""),
    ] {
        let reply = denial_reply(denial, is_page);
        let found = reply.combined("WWW-Authenticate").unwrap_or_default();
        assert_eq!(found, schemes, "{denial:?}");
        assert_eq!(reply.header("X-Lock-Error"), Some(denial.short()));
        assert_eq!(reply.status == 401, !schemes.is_empty());
    }
    let reply = denial_reply(Denial::NotAdministrator, false);
    assert_eq!(
        (
            reply.status,
            String::from_utf8(reply.body).unwrap().as_str()
        ),
        (
            403,
            "refused: access token not of an administrator: use an access token with the right to \
             administer\n"
        )
    );
}

#[test]
fn unknown_call_and_missing_or_malformed_parameter_are_invalid() {
    for (line, why) in [
        ("GET /", "unknown path"),
        ("GET /get/", "missing parameter"),
        ("GET /get/?pool=p", "missing parameter"),
        ("GET /get/?host=h", "missing parameter"),
        ("GET /get/?host=%ff&pool=p", "bad host name"),
        ("GET /get/?host=h&pool=%ff", "unknown pool"),
        ("GET /grab/?host=h&pool=p", "unknown path"),
        ("GET /release/?pool=p&host=h&token=", "bad token"),
        ("GET /release/?pool=p&host=h&token=1e3", "bad token"),
        (
            "GET /release/?pool=p&host=h&token=99999999999999999999",
            "bad token",
        ),
    ] {
        let expected = plain_reply("INVALID").with("X-Lock-Error", why);
        assert_eq!(route_line(line), ApiCall::Reply(expected), "{line}");
    }
}

#[test]
fn strict_paths_are_compared_as_they_are_written_with_their_parameters() {
    for call in ["get", "wait", "renew", "release"] {
        let query = "pool=p&host=h&run=r";
        assert_eq!(
            route_line(&format!("GET /v1/{call}/?{query}")),
            route_line(&format!("GET /{call}/?{query}"))
        );
    }
    for (target, why) in [
        ("/v1/get?pool=p&host=h", "unknown path"),
        ("/v1//get/?pool=p&host=h", "unknown path"),
        ("/v1/g/et/?pool=p&host=h", "unknown path"),
        ("/v1/get//?pool=p&host=h", "unknown path"),
        ("/v1/%67et/?pool=p&host=h", "unknown path"),
        ("/v1get/?pool=p&host=h", "unknown path"),
        ("//v1/get/?pool=p&host=h", "unknown path"),
        ("/v1/grab/?pool=p&host=h", "unknown path"),
        ("/v1/status/?pool=p&host=h", "unknown path"),
        ("/v1/get/?pool=p&host=h&host=i", "bad parameter"),
        ("/v1/get/?x=1;host=victim&host=h&pool=p", "bad parameter"),
        ("/v1/get/?pool=p&host=h&x=1", "bad parameter"),
        ("/v1/get/?pool=p&%68ost=h", "bad parameter"),
        ("/v1/get/?pool=p&HOST=h", "bad parameter"),
        ("/v1/get/?pool=p", "missing parameter"),
    ] {
        assert_eq!(
            route_line(&format!("GET {target}")),
            ApiCall::Reply(invalid_reply(why)),
            "{target}"
        );
    }
}

#[test]
fn invalid_pool_request_is_answered_with_its_reason_in_a_header() {
    for (refusal, why) in [
        (InvalidRequest::UnknownPool, "unknown pool"),
        (InvalidRequest::HostNotAllowed, "host not allowed"),
        (InvalidRequest::EmptyHostName, "bad host name"),
        (InvalidRequest::LongHostName, "bad host name"),
        (InvalidRequest::BadHostName, "bad host name"),
        (InvalidRequest::BadRunId, "bad run id"),
    ] {
        let reply = answer_reply(&get(), &Answer::Invalid(refusal));
        assert_eq!(
            (reply.status, reply.body.as_slice()),
            (200, &b"INVALID"[..])
        );
        assert_eq!(reply.header("X-Lock-Error"), Some(why));
    }
}

#[test]
fn release_of_nothing_is_ok_with_its_reason_in_a_header() {
    for (why, reason) in [
        (NotReleased::NotHeld, "not held"),
        (NotReleased::WrongToken, "wrong token"),
        (NotReleased::OtherRun, "other run"),
    ] {
        let reply = answer_reply(&get(), &Answer::NotReleased(why));
        assert_eq!(reply, plain_reply("OK").with("X-Lock-Error", reason));
    }
    let reply = answer_reply(&get(), &Answer::Ok);
    assert_eq!(reply, plain_reply("OK"), "as the original has it");
}

#[test]
fn methods_other_than_get_make_no_call() {
    for (method, status) in [("HEAD", 200), ("POST", 405), ("PUT", 501), ("get", 501)] {
        let ApiCall::Reply(reply) = route_line(&format!("{method} /get/?host=h&pool=p")) else {
            panic!("{method}")
        };
        assert_eq!(
            (reply.status, reply.header("Allow")),
            (status, (status == 405).then_some("HEAD, GET")),
            "{method}"
        );
    }
}

#[test]
fn answers_are_the_words_of_the_original_and_a_grant_has_more_header_fields() {
    let expires = Some(Duration::from_micros(1_799_999_900));
    for (answer, status, body, fields) in [
        (
            Answer::Yes(Grant {
                token: 7,
                expires: None,
            }),
            200,
            "YES",
            [Some("7"), None, None],
        ),
        (
            Answer::Yes(Grant { token: 7, expires }),
            200,
            "YES",
            [Some("7"), Some("1799.999"), None],
        ),
        (Answer::No, 200, "NO", [None; 3]),
        (Answer::Ok, 200, "OK", [None; 3]),
        (
            Answer::Invalid(InvalidRequest::UnknownPool),
            200,
            "INVALID",
            [None; 3],
        ),
        (
            Answer::Unavailable("disk full".into()),
            503,
            "disk full",
            [None, None, Some("1")],
        ),
    ] {
        let reply = answer_reply(&get(), &answer);
        assert_eq!(
            (reply.status, reply.body.as_slice()),
            (status, body.as_bytes())
        );
        assert_eq!(
            ["X-Lock-Token", "X-Lock-Expires", "Retry-After"].map(|name| reply.header(name)),
            fields,
            "{answer:?}"
        );
    }
    assert_eq!(
        answer_reply(&get(), &Answer::NoRevoked).header("X-Lock-Revoked"),
        Some("1")
    );
    assert_eq!(answer_reply(&get(), &Answer::NoRevoked).body, b"NO");
    assert!(
        written(&answer_reply(&get(), &Answer::No)).contains("\r\nContent-Type: text/html\r\n")
    );
}

#[test]
fn run_id_is_passed_on_and_a_malformed_one_is_invalid_and_logged() {
    for (id, run) in [
        ("r", Some("r")),
        ("0aZ._-", Some("0aZ._-")),
        ("%72", Some("r")),
        (&"x".repeat(64), Some(&*"x".repeat(64))),
    ] {
        let expected = PoolRequest {
            run: run.map(str::to_owned),
            ..get()
        };
        assert_eq!(
            route_line(&format!("GET /get/?pool=p&host=h&run={id}")),
            ApiCall::Pool(expected),
            "{id}"
        );
    }
    for id in ["", "%ff", "a%20b", "a/b", "a,b", &"x".repeat(65)] {
        let ApiCall::Invalid("bad run id", note) =
            route_line(&format!("GET /wait/?pool=p&host=h&run={id}"))
        else {
            panic!("{id}")
        };
        let why = "run must be 1 to 64 characters of 0-9, A-Z, a-z, '.', '_' and '-'";
        assert_eq!(note, format!(r#"invalid request from "h" for "p": {why}"#));
    }
}

#[test]
fn tokens_of_outer_runs_are_passed_on_with_a_wait() {
    for (outer, tokens) in [("7", &[7][..]), ("7,5", &[7, 5]), ("7%2C5", &[7, 5])] {
        let expected = PoolRequest {
            call: Call::Wait,
            outer: tokens.to_vec(),
            ..get()
        };
        assert_eq!(
            route_line(&format!("GET /wait/?pool=p&host=h&outer={outer}")),
            ApiCall::Pool(expected),
            "{outer}"
        );
    }
    assert_eq!(
        route_line("GET /get/?pool=p&host=h&outer=7"),
        ApiCall::Pool(get())
    );
    let most = vec!["7"; MAX_OUTER_LOCKS + 1].join(",");
    let ApiCall::Pool(request) = route_line(&format!("GET /wait/?pool=p&host=h&outer={most}"))
    else {
        panic!("as many tokens as a client sends are allowed")
    };
    assert_eq!(request.outer, [7; MAX_OUTER_LOCKS + 1]);
    let more = format!("{most},7");
    for outer in ["", ",", "7,", "x", "7;8", "99999999999999999999", &more] {
        let expected = plain_reply("INVALID").with("X-Lock-Error", "bad token");
        let line = format!(
            "GET /wait/?pool=p&host=h&outer={}",
            outer.replace(';', "%3B")
        );
        assert_eq!(route_line(&line), ApiCall::Reply(expected), "{outer}");
    }
    let reply = answer_reply(&get(), &Answer::NoOuter);
    assert_eq!(
        (reply.body.as_slice(), reply.header("X-Lock-Outer")),
        (&b"NO"[..], Some("1"))
    );
}

#[test]
fn only_post_on_the_exact_path_revokes_a_lock() {
    let revoke = PoolRequest {
        call: Call::Revoke { token: None },
        ..get()
    };
    for line in [
        "POST /revoke/?pool=p&host=h",
        "POST /revoke/?host=h&pool=%70",
    ] {
        assert_eq!(route_line(line), ApiCall::Pool(revoke.clone()), "{line}");
    }
    let one_lock = PoolRequest {
        call: Call::Revoke { token: Some(7) },
        ..get()
    };
    let line = "POST /revoke/?token=7&pool=p&host=h";
    assert_eq!(route_line(line), ApiCall::Pool(one_lock));
    for (line, status, allow) in [
        ("GET /revoke/?pool=p&host=h", 405, Some("POST")),
        ("HEAD /revoke/?pool=p&host=h", 405, Some("POST")),
        ("POST /revoke?pool=p&host=h", 405, Some("HEAD, GET")),
        ("POST //revoke/?pool=p&host=h", 405, Some("HEAD, GET")),
        ("POST /rev/oke/?pool=p&host=h", 405, Some("HEAD, GET")),
        ("POST /%72evoke/?pool=p&host=h", 405, Some("HEAD, GET")),
        ("GET /rev/oke/?pool=p&host=h", 200, None),
        ("PUT /revoke/?pool=p&host=h", 501, None),
        ("POST /revoke/", 400, None),
        ("POST /revoke/?pool=p", 400, None),
        ("POST /revoke/?pool=p&host=h&host=h", 400, None),
        ("POST /revoke/?x=1;host=h&pool=p&host=h", 400, None),
        ("POST /revoke/?pool=p;host=db1", 400, None),
        ("POST /revoke/?pool=p&h%6Fst=db1", 400, None),
        ("POST /revoke/?pool=p&host=h&host", 400, None),
        ("POST /revoke/?pool=p&host=h&x", 400, None),
        ("POST /revoke/?pool=p&host=h&run=r", 400, None),
        ("POST /revoke/?pool=p&host=h&token=", 400, None),
        ("POST /revoke/?pool=p&host=h&token=x", 400, None),
        ("POST /revoke/?pool=p&host=h&token=7&token=8", 400, None),
        ("POST /revoke/?pool=p&token=7", 400, None),
    ] {
        let ApiCall::Reply(reply) = route_line(line) else {
            panic!("{line}")
        };
        assert_eq!(
            (reply.status, reply.header("Allow")),
            (status, allow),
            "{line}"
        );
    }
}

#[test]
fn reply_to_a_revocation_is_one_line_with_the_time_left() {
    let request = PoolRequest {
        call: Call::Revoke { token: None },
        ..get()
    };
    let revocation = |ends| Answer::Revocation {
        token: Some(7),
        ends,
    };
    for (answer, status, body) in [
        (
            revocation(Remaining::For(Duration::from_millis(57_040))),
            200,
            "revoked p for h: it is held until released, at most 57.0 s\n",
        ),
        (
            revocation(Remaining::UntilReleased),
            200,
            "revoked p for h: it is held until released\n",
        ),
        (
            revocation(Remaining::Unknown),
            200,
            "revoked p for h: it is held until released or until its lease ends\n",
        ),
        (Answer::NotHeld, 404, "cannot revoke: h does not hold p\n"),
        (
            Answer::OtherToken,
            404,
            "cannot revoke: h holds p with another fencing token (look at its holders again)\n",
        ),
        (
            Answer::Invalid(InvalidRequest::UnknownPool),
            404,
            "cannot revoke: no such pool\n",
        ),
        (
            Answer::Invalid(InvalidRequest::EmptyHostName),
            400,
            "cannot revoke: the host name is empty\n",
        ),
        (
            Answer::Unavailable("disk full".into()),
            503,
            "disk full; the lock may be revoked: look at the pool\n",
        ),
    ] {
        let reply = answer_reply(&request, &answer);
        assert_eq!(
            (reply.status, String::from_utf8_lossy(&reply.body).as_ref()),
            (status, body)
        );
        assert_eq!(
            reply.header("X-Lock-Token"),
            matches!(answer, Answer::Revocation { .. }).then_some("7")
        );
        assert_eq!(reply.header("Retry-After"), None, "{answer:?}");
    }
}

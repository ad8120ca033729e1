use super::*;
use crate::http::Terms;
use crate::pool::Grant;

fn of(line: &str) -> Wish {
    wish(
        &Request::read(format!("{line} HTTP/1.1\r\n\r\n").as_bytes())
            .unwrap()
            .unwrap()
            .0,
    )
}

fn said(reply: &Reply) -> String {
    let mut out = Vec::new();
    reply.write(Terms::UNREADABLE, "", &mut out);
    String::from_utf8(out).unwrap()
}

fn get() -> Asked {
    Asked {
        call: Call::Get,
        pool: "p".into(),
        host: "h".into(),
        run: None,
    }
}

#[test]
fn calls_are_known_by_their_letters_wherever_the_slashes_are() {
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
            of(line),
            Wish::Ask(Asked {
                call,
                pool: "p".into(),
                host: "h".into(),
                run: None
            }),
            "{line}"
        );
    }
    assert_eq!(
        [of("GET /status/"), of("HEAD /status"), of("GET /metrics")],
        [Page::Status, Page::Status, Page::Metrics].map(Wish::Show)
    );
}

#[test]
fn what_asks_nothing_that_can_be_asked_is_invalid() {
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
        let expected = word("INVALID").with("X-Lock-Error", why);
        assert_eq!(of(line), Wish::Reply(expected), "{line}");
    }
}

#[test]
fn an_invalid_request_of_a_pool_is_answered_with_its_reason_in_a_header() {
    for (refusal, why) in [
        (InvalidRequest::UnknownPool, "unknown pool"),
        (InvalidRequest::HostNotAllowed, "host not allowed"),
        (InvalidRequest::EmptyHostName, "bad host name"),
        (InvalidRequest::LongHostName, "bad host name"),
        (InvalidRequest::BadHostName, "bad host name"),
        (InvalidRequest::BadRunId, "bad run id"),
    ] {
        let reply = reply(&get(), &Answer::Invalid(refusal));
        assert_eq!(
            (reply.status, reply.body.as_slice()),
            (200, &b"INVALID"[..])
        );
        assert_eq!(reply.header("X-Lock-Error"), Some(why));
    }
}

#[test]
fn other_methods_ask_nothing() {
    for (method, status) in [("HEAD", 200), ("POST", 405), ("PUT", 501), ("get", 501)] {
        let Wish::Reply(reply) = of(&format!("{method} /get/?host=h&pool=p")) else {
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
fn answers_are_the_originals_words_and_those_of_a_grant_say_more() {
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
        let reply = reply(&get(), &answer);
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
        reply(&get(), &Answer::NoRevoked).header("X-Lock-Revoked"),
        Some("1")
    );
    assert_eq!(reply(&get(), &Answer::NoRevoked).body, b"NO");
    assert!(said(&reply(&get(), &Answer::No)).contains("\r\nContent-Type: text/html\r\n"));
}

#[test]
fn a_run_id_is_passed_on_and_an_unfit_one_is_invalid_with_a_reason_in_the_log() {
    for (id, run) in [
        ("r", Some("r")),
        ("0aZ._-", Some("0aZ._-")),
        ("%72", Some("r")),
        (&"x".repeat(64), Some(&*"x".repeat(64))),
    ] {
        let expected = Asked {
            run: run.map(str::to_owned),
            ..get()
        };
        assert_eq!(
            of(&format!("GET /get/?pool=p&host=h&run={id}")),
            Wish::Ask(expected),
            "{id}"
        );
    }
    for id in ["", "%ff", "a%20b", "a/b", "a,b", &"x".repeat(65)] {
        let Wish::Invalid("bad run id", note) = of(&format!("GET /wait/?pool=p&host=h&run={id}"))
        else {
            panic!("{id}")
        };
        let why = "run must be 1 to 64 characters of 0-9, A-Z, a-z, '.', '_' and '-'";
        assert_eq!(note, format!(r#"invalid request from "h" for "p": {why}"#));
    }
}

#[test]
fn a_lock_is_revoked_by_post_on_the_exact_path_and_by_nothing_else() {
    let revoke = Asked {
        call: Call::Revoke,
        ..get()
    };
    for line in [
        "POST /revoke/?pool=p&host=h",
        "POST /revoke/?host=h&pool=%70",
    ] {
        assert_eq!(of(line), Wish::Ask(revoke.clone()), "{line}");
    }
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
        ("POST /revoke/?pool=p&host=h&run=r", 400, None),
    ] {
        let Wish::Reply(reply) = of(line) else {
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
fn a_revocation_says_when_the_lock_ends_in_one_line() {
    let asked = Asked {
        call: Call::Revoke,
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
            Answer::Invalid(InvalidRequest::UnknownPool),
            404,
            "cannot revoke: no such pool\n",
        ),
        (
            Answer::Invalid(InvalidRequest::EmptyHostName),
            400,
            "cannot revoke: the host has no name\n",
        ),
        (Answer::Unavailable("disk full".into()), 503, "disk full"),
    ] {
        let reply = reply(&asked, &answer);
        assert_eq!(
            (reply.status, String::from_utf8_lossy(&reply.body).as_ref()),
            (status, body)
        );
        assert_eq!(
            reply.header("X-Lock-Token"),
            matches!(answer, Answer::Revocation { .. }).then_some("7")
        );
    }
}

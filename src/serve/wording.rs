//! What requests mean, and how answers are said: the original's words, and a few more that it would
//! answer INVALID.

use crate::http::{Method, Reply, Request};
use crate::pool::refusal::{self, Refusal};
use crate::pool::{Answer, Call, Remaining};
use std::fmt::Display;
use std::num::ParseIntError;
use std::time::Duration;

/// What a request comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// A host asks something of a pool.
    Ask(Asked),
    /// A client wants to see the pools.
    Show(Page),
    /// INVALID, with a line for the log.
    Invalid(String),
    /// Nothing but this answer.
    Reply(Reply),
}

/// What shows the pools.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Page {
    /// JSON, for people.
    Status,
    /// For Prometheus.
    Metrics,
}

/// What a host asks of a pool; whether there are such is for the pools to say.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub(super) struct Asked {
    pub(super) call: Call,
    pub(super) pool: String,
    pub(super) host: String,
    pub(super) run: Option<String>,
}

/// When to come again after a 503, in seconds.
const RETRY_AFTER: u8 = 1;

/// The one path that counts as it is written, slashes included, so that a proxy's rule for it
/// holds.
const REVOKE: &str = "/revoke/";

/// What a request is for. Slashes do not count in all other paths, wherever they are.
pub(super) fn wish(request: &Request) -> Wish {
    let is_revoke = request.is_literal && request.path == REVOKE;
    match (request.method, request.path.replace('/', "").as_str()) {
        (Method::Post, _) if is_revoke => revoke(request),
        (Method::Get | Method::Head, _) if is_revoke => {
            Wish::Reply(Reply::new(405, "text/plain", "expected POST").with("Allow", "POST"))
        }
        (Method::Get | Method::Head, "status") => Wish::Show(Page::Status),
        (Method::Get | Method::Head, "metrics") => Wish::Show(Page::Metrics),
        // A client that asks for nothing but a head is told what can be told so, and nothing
        // changes.
        (Method::Head, _) => Wish::Reply(word("NO")),
        (Method::Get, call) => asked(call, request).unwrap_or_else(|| Wish::Reply(invalid())),
        (Method::Post, _) => Wish::Reply(
            Reply::new(405, "text/plain", format!("expected GET, or POST {REVOKE}"))
                .with("Allow", "HEAD, GET"),
        ),
        (Method::Other, _) => Wish::Reply(Reply::new(501, "text/plain", "expected GET")),
    }
}

/// A name that is not UTF-8 names nothing.
fn asked(call: &str, request: &Request) -> Option<Wish> {
    let call = match call {
        "get" => Call::Get,
        "wait" => Call::Wait,
        "renew" => Call::Renew {
            token: token(request).ok()?,
        },
        "release" => Call::Release {
            token: token(request).ok()?,
        },
        _ => return None,
    };
    let (pool, host) = (text(request, "pool")?, text(request, "host")?);
    Some(match request.parameter("run").map(run).transpose() {
        Ok(run) => Wish::Ask(Asked {
            call,
            pool,
            host,
            run,
        }),
        Err(refusal) => Wish::Invalid(refusal::told(&pool, &host, refusal)),
    })
}

fn text(request: &Request, name: &str) -> Option<String> {
    String::from_utf8(request.parameter(name)?).ok()
}

fn run(id: Vec<u8>) -> Result<String, Refusal> {
    refusal::check_run(&id)?;
    String::from_utf8(id).map_err(|_| Refusal::UnfitRun)
}

/// The token that a request names, if it does; it must be one then.
fn token(request: &Request) -> Result<Option<i64>, ParseIntError> {
    request
        .parameter("token")
        .map(|token| String::from_utf8_lossy(&token).parse())
        .transpose()
}

/// Nothing but pool and host, each once: what a proxy took for the host is the host here.
fn revoke(request: &Request) -> Wish {
    let mut names: Vec<_> = request.parameters().map(|(name, _)| name).collect();
    names.sort_unstable();
    match (text(request, "pool"), text(request, "host")) {
        (Some(pool), Some(host)) if names == [&b"host"[..], b"pool"] => Wish::Ask(Asked {
            call: Call::Revoke,
            pool,
            host,
            run: None,
        }),
        _ => Wish::Reply(line(
            400,
            &format_args!(
                "cannot revoke: expected {REVOKE}?pool=POOL&host=HOST, each once and nothing else"
            ),
        )),
    }
}

/// How an answer is said.
pub(super) fn reply(asked: &Asked, answer: &Answer) -> Reply {
    match answer {
        Answer::Yes(grant) => {
            let yes = word("YES").with("X-Lock-Token", grant.token);
            grant.expires.iter().fold(yes, |yes, expires| {
                yes.with("X-Lock-Expires", seconds(*expires))
            })
        }
        Answer::No => word("NO"),
        Answer::NoRevoked => word("NO").with("X-Lock-Revoked", 1),
        Answer::Ok => word("OK"),
        Answer::Invalid(refusal) if asked.call == Call::Revoke => line(
            refusal_status(*refusal),
            &format_args!("cannot revoke: {refusal}"),
        ),
        Answer::Invalid(_) => invalid(),
        Answer::Revocation { token, ends } => {
            let reply = line(
                200,
                &format_args!("revoked {} for {}: {}", asked.pool, asked.host, end(*ends)),
            );
            token
                .iter()
                .fold(reply, |reply, token| reply.with("X-Lock-Token", token))
        }
        Answer::NotHeld => line(
            404,
            &format_args!("cannot revoke: {} does not hold {}", asked.host, asked.pool),
        ),
        Answer::Unavailable(why) => unavailable(why),
    }
}

/// When a revoked holding ends.
fn end(ends: Remaining) -> String {
    match ends {
        Remaining::For(left) => format!(
            "it is held until released, at most {:.1} s",
            left.as_secs_f64()
        ),
        Remaining::UntilReleased => "it is held until released".into(),
        Remaining::Unknown => "it is held until released or until its lease ends".into(),
    }
}

fn refusal_status(refusal: Refusal) -> u16 {
    match refusal {
        Refusal::UnknownPool | Refusal::Stranger => 404,
        Refusal::NoHost | Refusal::LongHost | Refusal::UnfitHost | Refusal::UnfitRun => 400,
    }
}

/// A sentence for a person.
fn line(status: u16, text: &dyn Display) -> Reply {
    Reply::new(status, "text/plain", format!("{text}\n"))
}

/// INVALID, with status 200, as the original says it.
pub(super) fn invalid() -> Reply {
    word("INVALID")
}

/// The log's line about a request and its answer.
pub(super) fn told(asked: &Asked, answer: &Answer) -> String {
    let call = match asked.call {
        Call::Get => "get",
        Call::Wait => "wait",
        Call::Renew { .. } => "renew",
        Call::Release { .. } => "release",
        Call::Revoke => "revoke",
    };
    let said = match answer {
        Answer::Yes(grant) => format!("YES (token {})", grant.token),
        Answer::No => "NO".into(),
        Answer::NoRevoked => "NO (revoked)".into(),
        Answer::Ok => "OK".into(),
        Answer::Revocation { ends, .. } => end(*ends),
        Answer::NotHeld => "not held".into(),
        Answer::Invalid(_) => "INVALID".into(),
        Answer::Unavailable(why) => why.clone(),
    };
    let run = asked
        .run
        .as_ref()
        .map_or(String::new(), |run| format!(" (run {run})"));
    format!("{call} {} for {}{run}: {said}", asked.pool, asked.host)
}

/// Not now.
pub(super) fn unavailable(why: &str) -> Reply {
    Reply::new(503, "text/plain", why).with("Retry-After", RETRY_AFTER)
}

fn word(word: &str) -> Reply {
    Reply::new(200, "text/html", word)
}

/// Rounded down: nobody is to think that they hold what another has.
fn seconds(time: Duration) -> String {
    let (seconds, millis) = (time.as_secs(), time.subsec_millis());
    if millis == 0 {
        seconds.to_string()
    } else {
        format!("{seconds}.{millis:03}")
    }
}

#[cfg(test)]
mod tests {
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
        for line in [
            "GET /",
            "GET /get/",
            "GET /get/?pool=p",
            "GET /get/?host=h",
            "GET /get/?host=%ff&pool=p",
            "GET /grab/?host=h&pool=p",
            "GET /release/?pool=p&host=h&token=",
            "GET /release/?pool=p&host=h&token=1e3",
            "GET /release/?pool=p&host=h&token=99999999999999999999",
        ] {
            assert_eq!(of(line), Wish::Reply(word("INVALID")), "{line}");
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
                Answer::Invalid(Refusal::UnknownPool),
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
            let Wish::Invalid(note) = of(&format!("GET /wait/?pool=p&host=h&run={id}")) else {
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
                Answer::Invalid(Refusal::UnknownPool),
                404,
                "cannot revoke: no such pool\n",
            ),
            (
                Answer::Invalid(Refusal::NoHost),
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
}

//! What requests mean, and how answers are said: the original's words, and a few more that it would answer INVALID.

use crate::http::{Method, Reply, Request};
use crate::pool::{Answer, Call};
use std::num::ParseIntError;
use std::time::Duration;

/// What a request comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// A host asks something of a pool.
    Ask(Asked),
    /// Somebody wants to know what the pools are like.
    Status,
    /// A Prometheus does.
    Metrics,
    /// Nothing but this answer.
    Reply(Reply),
}

/// What a host asks of a pool; whether there are such is for the pools to say.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub(super) struct Asked {
    pub(super) call: Call,
    pub(super) pool: String,
    pub(super) host: String,
}

/// When to come again after a 503, in seconds.
const RETRY_AFTER: u8 = 1;

/// What a request is for. Slashes do not count, wherever they are.
pub(super) fn wish(request: &Request) -> Wish {
    match (request.method, request.path.replace('/', "").as_str()) {
        (Method::Get | Method::Head, "status") => Wish::Status,
        (Method::Get | Method::Head, "metrics") => Wish::Metrics,
        // Whoever asks for nothing but a head is told what can be told so, and nothing changes.
        (Method::Head, _) => Wish::Reply(word("NO")),
        (Method::Get, call) => asked(call, request).map_or_else(|| Wish::Reply(word("INVALID")), Wish::Ask),
        (Method::Post, _) => Wish::Reply(Reply::new(405, "text/plain", "expected GET").with("Allow", "HEAD, GET")),
        (Method::Other, _) => Wish::Reply(Reply::new(501, "text/plain", "expected GET")),
    }
}

/// Names that are not UTF-8 are nobody's.
fn asked(call: &str, request: &Request) -> Option<Asked> {
    let text = |name| String::from_utf8(request.parameter(name)?).ok();
    let call = match call {
        "get" => Call::Get,
        "wait" => Call::Wait,
        "renew" => Call::Renew { token: token(request).ok()? },
        "release" => Call::Release { token: token(request).ok()? },
        _ => return None,
    };
    Some(Asked { call, pool: text("pool")?, host: text("host")? })
}

/// The token that a request names, if it does; it must be one then.
fn token(request: &Request) -> Result<Option<i64>, ParseIntError> {
    request.parameter("token").map(|token| String::from_utf8_lossy(&token).parse()).transpose()
}

/// How an answer is said.
pub(super) fn reply(answer: &Answer) -> Reply {
    match answer {
        Answer::Yes(grant) => {
            let yes = word("YES").with("X-Lock-Token", grant.token);
            grant.expires.iter().fold(yes, |yes, expires| yes.with("X-Lock-Expires", seconds(*expires)))
        }
        Answer::No => word("NO"),
        Answer::Ok => word("OK"),
        Answer::Invalid => word("INVALID"),
        Answer::Unavailable(why) => unavailable(why),
    }
}

/// The log's line about a request and its answer.
pub(super) fn told(asked: &Asked, answer: &Answer) -> String {
    let call = match asked.call {
        Call::Get => "get",
        Call::Wait => "wait",
        Call::Renew { .. } => "renew",
        Call::Release { .. } => "release",
    };
    let said = match answer {
        Answer::Yes(grant) => format!("YES (token {})", grant.token),
        Answer::No => "NO".into(),
        Answer::Ok => "OK".into(),
        Answer::Invalid => "INVALID".into(),
        Answer::Unavailable(why) => why.clone(),
    };
    format!("{call} {} for {}: {said}", asked.pool, asked.host)
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
    if millis == 0 { seconds.to_string() } else { format!("{seconds}.{millis:03}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Terms;
    use crate::pool::Grant;

    fn of(line: &str) -> Wish {
        wish(&Request::read(format!("{line} HTTP/1.1\r\n\r\n").as_bytes()).unwrap().unwrap().0)
    }

    fn said(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write(Terms::UNREADABLE, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn calls_are_known_by_their_letters_wherever_the_slashes_are() {
        for (line, call) in [
            ("GET /get/?pool=p&host=h", Call::Get),
            ("GET get?host=h&pool=p&host=x", Call::Get),
            ("GET /g/e//t?host=h&pool=p", Call::Get),
            ("GET /wait/?pool=p&host=h", Call::Wait),
            ("GET /renew/?pool=p&host=h", Call::Renew { token: None }),
            ("GET /renew/?pool=p&host=h&token=5", Call::Renew { token: Some(5) }),
            ("GET /release/?pool=p&host=h", Call::Release { token: None }),
            ("GET /release/?pool=p&host=h&token=-5", Call::Release { token: Some(-5) }),
        ] {
            assert_eq!(of(line), Wish::Ask(Asked { call, pool: "p".into(), host: "h".into() }), "{line}");
        }
        assert_eq!([of("GET /status/"), of("HEAD /status"), of("GET /metrics")], [Wish::Status, Wish::Status, Wish::Metrics]);
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
            let Wish::Reply(reply) = of(&format!("{method} /get/?host=h&pool=p")) else { panic!("{method}") };
            assert_eq!((reply.status, reply.header("Allow")), (status, (status == 405).then_some("HEAD, GET")), "{method}");
        }
    }

    #[test]
    fn answers_are_the_originals_words_and_those_of_a_grant_say_more() {
        let expires = Some(Duration::from_micros(1_799_999_900));
        for (answer, status, body, fields) in [
            (Answer::Yes(Grant { token: 7, expires: None }), 200, "YES", [Some("7"), None, None]),
            (Answer::Yes(Grant { token: 7, expires }), 200, "YES", [Some("7"), Some("1799.999"), None]),
            (Answer::No, 200, "NO", [None; 3]),
            (Answer::Ok, 200, "OK", [None; 3]),
            (Answer::Invalid, 200, "INVALID", [None; 3]),
            (Answer::Unavailable("disk full".into()), 503, "disk full", [None, None, Some("1")]),
        ] {
            let reply = reply(&answer);
            assert_eq!((reply.status, reply.body.as_slice()), (status, body.as_bytes()));
            assert_eq!(["X-Lock-Token", "X-Lock-Expires", "Retry-After"].map(|name| reply.header(name)), fields, "{answer:?}");
        }
        assert!(said(&reply(&Answer::No)).contains("\r\nContent-Type: text/html\r\n"));
    }
}

//! What requests mean, and how answers are said: the original's words, and a few more that it would
//! answer INVALID.

use crate::http::{Method, Reply, Request};
use crate::pool::invalid_request::{self, InvalidRequest};
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
    /// INVALID, with its reason, and a line for the log.
    Invalid(&'static str, String),
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
        (Method::Get, call) => asked(call, request).unwrap_or_else(|why| Wish::Reply(invalid(why))),
        (Method::Post, _) => Wish::Reply(
            Reply::new(405, "text/plain", format!("expected GET, or POST {REVOKE}"))
                .with("Allow", "HEAD, GET"),
        ),
        (Method::Other, _) => Wish::Reply(Reply::new(501, "text/plain", "expected GET")),
    }
}

/// What a host asks, or the reason of INVALID.
fn asked(call: &str, request: &Request) -> Result<Wish, &'static str> {
    let token = || token(request).map_err(|_| "bad token");
    let call = match call {
        "get" => Call::Get,
        "wait" => Call::Wait,
        "renew" => Call::Renew { token: token()? },
        "release" => Call::Release { token: token()? },
        _ => return Err("unknown path"),
    };
    let (pool, host) = (text(request, "pool")?, text(request, "host")?);
    Ok(match request.parameter("run").map(run).transpose() {
        Ok(run) => Wish::Ask(Asked {
            call,
            pool,
            host,
            run,
        }),
        Err(refusal) => Wish::Invalid(
            refusal.short(),
            invalid_request::log_line(&pool, &host, refusal),
        ),
    })
}

/// A parameter that must be there. One that is not UTF-8 names nothing.
fn text(request: &Request, name: &str) -> Result<String, &'static str> {
    let value = request.parameter(name).ok_or("missing parameter")?;
    String::from_utf8(value).map_err(|_| {
        if name == "host" {
            "bad host name"
        } else {
            "unknown pool"
        }
    })
}

fn run(id: Vec<u8>) -> Result<String, InvalidRequest> {
    invalid_request::check_run(&id)?;
    String::from_utf8(id).map_err(|_| InvalidRequest::BadRunId)
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
        (Ok(pool), Ok(host)) if names == [&b"host"[..], b"pool"] => Wish::Ask(Asked {
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
        Answer::Invalid(refusal) => invalid(refusal.short()),
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

fn refusal_status(refusal: InvalidRequest) -> u16 {
    match refusal {
        InvalidRequest::UnknownPool | InvalidRequest::HostNotAllowed => 404,
        InvalidRequest::EmptyHostName
        | InvalidRequest::LongHostName
        | InvalidRequest::BadHostName
        | InvalidRequest::BadRunId => 400,
    }
}

/// A sentence for a person.
fn line(status: u16, text: &dyn Display) -> Reply {
    Reply::new(status, "text/plain", format!("{text}\n"))
}

/// INVALID, with status 200, as the original says it, and the reason beside it.
pub(super) fn invalid(why: &'static str) -> Reply {
    word("INVALID").with("X-Lock-Error", why)
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
mod tests;

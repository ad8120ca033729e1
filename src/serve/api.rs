//! The HTTP interface: which call a request makes, and which reply an answer becomes. The words are
//! those of the original; calls and fields that the original does not know are additions, to which
//! it would reply INVALID.

use crate::http::{Method, Reply, Request};
use crate::plan::outer::MAX_OUTER_LOCKS;
use crate::pool::access::{Denial, Scope, Want};
use crate::pool::invalid_request::{self, InvalidRequest};
use crate::pool::page::{self, view::View};
use crate::pool::{Answer, Call, Remaining};
use crate::printable::printable;
use std::fmt::Display;
use std::num::ParseIntError;
use std::time::Duration;

/// What the server does with a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ApiCall {
    /// Passes it to a pool.
    Pool(PoolRequest),
    /// Shows all pools.
    Page(Page),
    /// Says whether locks can be granted.
    Health,
    /// Replies INVALID with this reason, and logs this line.
    Invalid(&'static str, String),
    /// Sends this reply.
    Reply(Reply),
}

/// A page about all pools.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Page {
    /// JSON, for programs.
    Status,
    /// HTML, for browsers.
    Html(View),
    /// For Prometheus.
    Metrics,
}

/// A host's request to a pool. The backend checks whether the pool and the host exist.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub(super) struct PoolRequest {
    pub(super) call: Call,
    pub(super) pool: String,
    pub(super) host: String,
    pub(super) run: Option<String>,
    pub(super) outer: Vec<i64>,
}

/// After how many seconds a client may repeat a request that got a 503.
const RETRY_AFTER: u8 = 1;

/// The header with the reason of INVALID, or of an OK to a release that has released nothing.
const ERROR: &str = "X-Lock-Error";

/// This path is compared as it is written, slashes included, so that a rule of a proxy for it cannot
/// be avoided by another spelling.
const REVOKE: &str = "/revoke/";

/// The path of the page for browsers. Its links are relative, as a proxy may have a prefix before
/// it, so they need this path exactly.
const STATUS: &str = "/status/";

/// Paths below this one make the same calls as those of the original. They are compared as they are
/// written, too, and have no parameters that a proxy could read differently.
const STRICT: &str = "/v1/";

/// The parameters of all calls.
const PARAMETERS: [&str; 5] = ["pool", "host", "run", "token", "outer"];

/// The call that a request makes. In all paths except `REVOKE`, `STATUS` and those below `STRICT`
/// slashes are ignored, wherever they are, as in the original.
pub(super) fn route(request: &Request) -> ApiCall {
    let is_revoke = request.is_literal && request.path == REVOKE;
    match (request.method, request.path.replace('/', "").as_str()) {
        (Method::Post, _) if is_revoke => revoke(request),
        (Method::Get | Method::Head, _) if is_revoke => {
            ApiCall::Reply(Reply::new(405, "text/plain", "expected POST").with("Allow", "POST"))
        }
        (Method::Get | Method::Head, "status") => status(request),
        (Method::Get | Method::Head, "metrics") => ApiCall::Page(Page::Metrics),
        (Method::Get | Method::Head, "health") => ApiCall::Health,
        // A HEAD request must not change anything.
        (Method::Head, _) => ApiCall::Reply(plain_reply("NO")),
        (Method::Get, call) => strict_path(request)
            .unwrap_or(Ok(call))
            .and_then(|call| pool_call(call, request))
            .unwrap_or_else(|why| ApiCall::Reply(invalid_reply(why))),
        (Method::Post, _) => ApiCall::Reply(
            Reply::new(405, "text/plain", format!("expected GET, or POST {REVOKE}"))
                .with("Allow", "HEAD, GET"),
        ),
        (Method::Other, _) => ApiCall::Reply(Reply::new(501, "text/plain", "expected GET")),
    }
}

/// A browser gets HTML, all others get JSON.
fn status(request: &Request) -> ApiCall {
    match (request.prefers_html, request.path.as_str()) {
        (true, STATUS) => ApiCall::Page(Page::Html(View::read(request.parameters()))),
        (true, path) if path == STATUS.trim_end_matches('/') => {
            // Relative, too.
            ApiCall::Reply(Reply::new(308, "text/plain", "").with("Location", "status/"))
        }
        _ => ApiCall::Page(Page::Status),
    }
}

/// The call of a path below `STRICT`; `None`: it is another path. `Err`: the reason of INVALID.
fn strict_path(request: &Request) -> Option<Result<&str, &'static str>> {
    let rest = request.path.strip_prefix(STRICT)?;
    let call = rest
        .strip_suffix('/')
        .filter(|call| request.is_literal && !call.contains('/'));
    Some(match call {
        None => Err("unknown path"),
        Some(_) if !request.has_only(&PARAMETERS) => Err("bad parameter"),
        Some(call) => Ok(call),
    })
}

/// The pool call of a request. `Err`: the reason of INVALID.
fn pool_call(call: &str, request: &Request) -> Result<ApiCall, &'static str> {
    let token = || token(request).map_err(|_| "bad token");
    let call = match call {
        "get" => Call::Get,
        "wait" => Call::Wait,
        "renew" => Call::Renew { token: token()? },
        "release" => Call::Release { token: token()? },
        _ => return Err("unknown path"),
    };
    let (pool, host) = (text(request, "pool")?, text(request, "host")?);
    let outer = match call {
        Call::Wait => outer(request).ok_or("bad token")?,
        _ => vec![],
    };
    Ok(match request.parameter("run").map(run).transpose() {
        Ok(run) => ApiCall::Pool(PoolRequest {
            call,
            pool,
            host,
            run,
            outer,
        }),
        Err(refusal) => ApiCall::Invalid(
            refusal.short(),
            invalid_request::log_line(&pool, &host, refusal),
        ),
    })
}

/// A required parameter. No pool or host has a name that is not UTF-8.
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

/// The `token` parameter, if the request has one. It must be a number.
fn token(request: &Request) -> Result<Option<i64>, ParseIntError> {
    request
        .parameter("token")
        .map(|token| String::from_utf8_lossy(&token).parse())
        .transpose()
}

/// The `outer` parameter: numbers with commas between them, not more than a client sends. `None`:
/// it is invalid.
fn outer(request: &Request) -> Option<Vec<i64>> {
    let Some(tokens) = request.parameter("outer") else {
        return Some(vec![]);
    };
    let tokens = String::from_utf8_lossy(&tokens);
    let tokens: Result<Vec<i64>, _> = tokens.split(',').map(str::parse).collect();
    // The nearest lock of a client is not in its list of outer locks.
    tokens
        .ok()
        .filter(|tokens| tokens.len() <= MAX_OUTER_LOCKS + 1)
}

/// Only `pool`, `host` and `token` are allowed, each once: then a proxy that checks the host reads
/// the same host as the server.
fn revoke(request: &Request) -> ApiCall {
    match (text(request, "pool"), text(request, "host"), token(request)) {
        (Ok(pool), Ok(host), Ok(token)) if request.has_only(&["pool", "host", "token"]) => {
            ApiCall::Pool(PoolRequest {
                call: Call::Revoke { token },
                pool,
                host,
                run: None,
                outer: vec![],
            })
        }
        _ => ApiCall::Reply(text_reply(
            400,
            &format_args!(
                "cannot revoke: expected {REVOKE}?pool=POOL&host=HOST, or with &token=NUMBER, each \
                 once and nothing else"
            ),
        )),
    }
}

/// What a request wants; `None`: its reply contains nothing about the pools.
pub(super) fn want(call: &ApiCall) -> Option<Want<'_>> {
    match call {
        ApiCall::Pool(request) => Some(Want::Pool(request.call, &request.pool)),
        ApiCall::Page(_) => Some(Want::Read),
        ApiCall::Invalid(..) => Some(Want::Report),
        ApiCall::Health | ApiCall::Reply(_) => None,
    }
}

/// The reply to a request that this client may not make. A browser that reads a page asks its user
/// for the access token as a password; for a call it must not, as another site may have caused it.
pub(super) fn denial_reply(denial: Denial, is_page: bool) -> Reply {
    let reply = text_reply(
        denial.status(),
        &format_args!("refused: {}: {}", denial.short(), denial.advice()),
    )
    .with(ERROR, denial.short());
    let schemes: &[_] = match (denial.status(), is_page) {
        (401, true) => &["Basic", "Bearer"],
        (401, false) => &["Bearer"],
        _ => &[],
    };
    schemes.iter().fold(reply, |reply, scheme| {
        reply.with(
            "WWW-Authenticate",
            format_args!("{scheme} realm=\"distributexd\""),
        )
    })
}

/// HTML for a browser, with what the browser may do with it.
pub(super) fn html_reply(status: u16, html: String) -> Reply {
    as_page(Reply::new(status, page::CONTENT_TYPE, ""), html)
}

/// A reply for a person as a page, with the same status and header fields.
pub(super) fn notice_reply(reply: Reply, title: &str, link: (&str, &str)) -> Reply {
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let html = page::notice(title, text.trim(), link);
    as_page(reply, html)
}

fn as_page(reply: Reply, html: String) -> Reply {
    let reply = reply.replacing(page::CONTENT_TYPE, html);
    let add = |reply: Reply, (name, value)| reply.with(name, value);
    page::HEADERS.into_iter().fold(reply, add)
}

/// The reply to a call that is denied. `is_form`: a browser has sent the form of the page.
pub(super) fn denial(call: &ApiCall, is_form: bool, denial: Denial) -> Reply {
    match call {
        _ if is_form => form_denial_page(denial),
        ApiCall::Page(Page::Html(_)) => denial_page(denial),
        ApiCall::Page(_) => denial_reply(denial, true),
        _ => denial_reply(denial, false),
    }
}

/// The reply to a browser that may not read the page, for a user who has entered no valid token.
pub(super) fn denial_page(denial: Denial) -> Reply {
    let reply = denial_reply(denial, true);
    let text = match reply.status {
        401 => format!(
            "{}: enter an access token of this server as the password, with any user name",
            denial.short()
        ),
        _ => format!("{}: {}", denial.short(), denial.advice()),
    };
    let reply = reply.replacing("text/plain", text);
    notice_reply(reply, "Refused", ("./", "Try again"))
}

/// Whether a browser has sent the form of the page, and expects a page.
pub(super) fn is_form(call: &ApiCall, request: &Request) -> bool {
    let is_revoke = matches!(
        call,
        ApiCall::Pool(PoolRequest {
            call: Call::Revoke { .. },
            ..
        })
    );
    is_revoke && request.prefers_html
}

/// The reply to a browser whose form is denied.
pub(super) fn form_denial_page(denial: Denial) -> Reply {
    let text = format!("cannot revoke: {}", denial.short());
    let reply = denial_reply(denial, false).replacing("text/plain", text);
    notice_reply(reply, "Not revoked", ("../status/", "All pools"))
}

/// The reply to the form of a page. `reply`: the reply to a program.
pub(super) fn revocation_page(request: &PoolRequest, answer: &Answer, reply: Reply) -> Reply {
    let title = match answer {
        Answer::Revocation { .. } => "Revoked",
        Answer::Unavailable(_) => "Revocation not confirmed",
        _ => "Not revoked",
    };
    let address = format!("../status/{}", View::of_pool(&request.pool).link());
    notice_reply(reply, title, (&address, "Back to the pool"))
}

/// 503 to a browser while the time for its pages is used up: it asks again by itself.
pub(super) fn busy_reply() -> Reply {
    unavailable_reply("other pages are being written; this page is loaded again in a second")
        .with("Refresh", RETRY_AFTER)
}

/// The reply to a pool request.
pub(super) fn answer_reply(request: &PoolRequest, answer: &Answer) -> Reply {
    match answer {
        Answer::Yes(grant) => {
            let yes = plain_reply("YES").with("X-Lock-Token", grant.token);
            grant.expires.iter().fold(yes, |yes, expires| {
                yes.with("X-Lock-Expires", seconds(*expires))
            })
        }
        Answer::No => plain_reply("NO"),
        Answer::NoRevoked => plain_reply("NO").with("X-Lock-Revoked", 1),
        Answer::NoOuter => plain_reply("NO").with("X-Lock-Outer", 1),
        Answer::Ok => plain_reply("OK"),
        Answer::NotReleased(why) => plain_reply("OK").with(ERROR, why.short()),
        Answer::Invalid(refusal) if matches!(request.call, Call::Revoke { .. }) => text_reply(
            refusal_status(*refusal),
            &format_args!("cannot revoke: {refusal}"),
        ),
        Answer::Invalid(refusal) => invalid_reply(refusal.short()),
        Answer::Revocation { token, ends } => {
            let reply = text_reply(
                200,
                &format_args!(
                    "revoked {} for {}: {}",
                    request.pool,
                    request.host,
                    remaining(*ends)
                ),
            );
            token
                .iter()
                .fold(reply, |reply, token| reply.with("X-Lock-Token", token))
        }
        Answer::NotHeld => text_reply(
            404,
            &format_args!(
                "cannot revoke: {} does not hold {}",
                request.host, request.pool
            ),
        ),
        Answer::OtherToken => text_reply(
            404,
            &format_args!(
                "cannot revoke: {} holds {} with another fencing token (look at its holders again)",
                request.host, request.pool
            ),
        ),
        // A server that cannot confirm a revocation may have made it, or makes it later: the client
        // is not asked to repeat it.
        Answer::Unavailable(why) if matches!(request.call, Call::Revoke { .. }) => text_reply(
            503,
            &format_args!("{why}; the lock may be revoked: look at the pool"),
        ),
        Answer::Unavailable(why) => unavailable_reply(why),
    }
}

/// How long a revoked lock is still held.
fn remaining(ends: Remaining) -> String {
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

/// A line for a person.
fn text_reply(status: u16, text: &dyn Display) -> Reply {
    let line = printable(&text.to_string()) + "\n";
    Reply::new(status, "text/plain", line)
}

/// INVALID, with status 200 as in the original, and the reason in a header field.
pub(super) fn invalid_reply(why: &'static str) -> Reply {
    plain_reply("INVALID").with(ERROR, why)
}

/// Whether this server grants locks, for load balancers. `failure`: why it does not.
pub(super) fn health_reply(failure: Option<&str>) -> Reply {
    match failure {
        None => Reply::new(200, "text/plain", "OK\n"),
        Some(why) => unavailable_reply(why),
    }
}

/// Why the holders are unknown to a reader of these pools. The backend may name a pool that the
/// reader may not see; `failure`, why the server grants no locks, names none.
pub(super) fn why_unknown<'a>(
    answer: &'a Answer,
    scope: &Scope,
    failure: Option<&'a str>,
) -> &'a str {
    match (answer, scope) {
        (Answer::Unavailable(why), Scope::All) => why,
        (Answer::Unavailable(_), Scope::Pools(_)) => {
            failure.unwrap_or("the holders of some pool are unknown")
        }
        _ => "the pools cannot be shown",
    }
}

/// 503: the client may try again after `RETRY_AFTER`.
pub(super) fn unavailable_reply(why: &str) -> Reply {
    Reply::new(503, "text/plain", printable(why)).with("Retry-After", RETRY_AFTER)
}

fn plain_reply(word: &str) -> Reply {
    Reply::new(200, "text/html", word)
}

/// Rounded down, so that a client never takes a lock for its own that another may hold.
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

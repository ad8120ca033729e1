//! The line about a request and its reply, for `-v`: the same facts in the same order for each.

use super::api::PoolRequest;
use crate::fact::fact;
use crate::http::{Method, Reply, Request};
use crate::moment::Moment;

/// The most characters of a value that are logged: a whole host name.
const MAX_SHOWN: usize = 255;

/// What is logged of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct AccessRecord {
    began: Moment,
    method: &'static str,
    path: String,
    agent: String,
}

impl AccessRecord {
    /// A request that was read at this moment.
    pub(super) fn new(request: &Request, began: Moment) -> AccessRecord {
        let method = match request.method {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Other => "other",
        };
        AccessRecord {
            began,
            method,
            path: cut(&request.path),
            agent: cut(&request.agent),
        }
    }

    /// The line. A fact that is missing is left out. Names are as clients chose them: the log
    /// makes them harmless when it prints the line.
    pub(super) fn line(
        &self,
        peer: &str,
        request: Option<&PoolRequest>,
        reply: &Reply,
        now: Moment,
    ) -> String {
        let mut line = "request".to_owned();
        let mut add = |key, value: Option<&str>| {
            if let Some(value) = value {
                line += &fact(key, cut(value));
            }
        };
        add("peer", Some(peer));
        add("method", Some(self.method));
        add("path", Some(&self.path));
        add("pool", request.map(|request| request.pool.as_str()));
        add("host", request.map(|request| request.host.as_str()));
        add("run", request.and_then(|request| request.run.as_deref()));
        add("status", Some(&reply.status.to_string()));
        let body = String::from_utf8_lossy(&reply.body);
        let is_word = reply.status == 200 && reply.header("Content-Type") == Some("text/html");
        add("answer", is_word.then_some(&*body));
        add("token", reply.header("X-Lock-Token"));
        add("reason", reason(reply, &body));
        let took = format!("{:.3}s", now.since(self.began).as_secs_f64());
        add("took", Some(&took));
        add(
            "agent",
            Some(&self.agent)
                .filter(|agent| !agent.is_empty())
                .map(String::as_str),
        );
        line
    }
}

/// Why the answer is not the one that the client would like to have.
fn reason<'a>(reply: &'a Reply, body: &'a str) -> Option<&'a str> {
    let has = |name| reply.header(name).is_some();
    match reply.header("X-Lock-Error") {
        Some(why) => Some(why),
        None if has("X-Lock-Revoked") => Some("revoked"),
        None if has("X-Lock-Outer") => Some("held by outer runs"),
        None if reply.header("Content-Type") != Some("text/plain") => None, // a page
        None => (reply.status >= 400).then(|| body.trim_end()),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Call;
    use std::time::Duration;

    fn record(head: &str) -> AccessRecord {
        let text = format!("{head}\r\n\r\n");
        let (request, _) = Request::read(text.as_bytes()).unwrap().unwrap();
        AccessRecord::new(&request, Moment(Duration::from_secs(1)))
    }

    fn pool_request(host: &str) -> PoolRequest {
        PoolRequest {
            call: Call::Get,
            pool: "p".into(),
            host: host.into(),
            run: Some("r-1".into()),
            outer: vec![],
        }
    }

    #[test]
    fn facts_have_one_order_and_names_cannot_add_any() {
        let now = Moment(Duration::from_millis(1_250));
        let word = |word: &str| Reply::new(200, "text/html", word);
        let get = "GET /get/?pool=p&host=h HTTP/1.1\r\nUser-Agent: distributex/1.0.0";
        for (head, host, reply, line) in [
            (
                get,
                Some("h"),
                word("YES").with("X-Lock-Token", 7),
                "request peer=[::1]:9 method=GET path=/get/ pool=p host=h run=r-1 status=200 \
                 answer=YES token=7 took=0.250s agent=distributex/1.0.0",
            ),
            (
                "GET /wait/ HTTP/1.1",
                Some("a status=200 \"x\""),
                word("NO").with("X-Lock-Revoked", 1),
                "request peer=[::1]:9 method=GET path=/wait/ pool=p \
                 host=\"a status=200 \\\"x\\\"\" run=r-1 status=200 answer=NO reason=revoked \
                 took=0.250s",
            ),
            (
                "POST /a%20b HTTP/1.1\r\nUser-Agent: a b=\"c",
                None,
                Reply::new(405, "text/plain", "expected GET\n"),
                "request peer=[::1]:9 method=POST path=\"/a b\" status=405 \
                 reason=\"expected GET\" took=0.250s agent=\"a b=\\\"c\"",
            ),
            (
                "GET /status/ HTTP/1.1\r\nAuthorization: Bearer secret",
                None,
                Reply::new(401, "text/plain", "refused: ...").with("X-Lock-Error", "why not"),
                "request peer=[::1]:9 method=GET path=/status/ status=401 reason=\"why not\" \
                 took=0.250s",
            ),
            (
                "PUT / HTTP/1.1",
                None,
                Reply::new(200, "application/json", "{}"),
                "request peer=[::1]:9 method=other path=/ status=200 took=0.250s",
            ),
        ] {
            let request = host.map(pool_request);
            let found = record(head).line("[::1]:9", request.as_ref(), &reply, now);
            assert_eq!(found, line);
        }
        let long = record(&format!("GET /{} HTTP/1.1", "x".repeat(1000)));
        assert_eq!(long.path.len(), MAX_SHOWN);
    }
}

//! Requests: the server reads them; the client sends one kind.

use super::accept;
use super::body::Framing;
use super::credentials;
use super::head::{Head, Version};
use super::lines::{is_token, within};
use super::malformed::{Malformed, shown};
use super::{LONGEST_HEAD, LONGEST_REQUEST_BODY, percent};
use crate::plan::access::Credentials;

/// Number of empty lines that a server skips before a request (RFC 9112, 2.2): some clients send
/// one after the body of the previous request.
const EMPTY_LINES: usize = 4;

/// The name of the client in its requests, for the logs of servers and proxies.
const USER_AGENT: &str = concat!("distributex/", env!("CARGO_PKG_VERSION"));

/// A request method. The server supports GET and HEAD, and POST for one path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Head,
    Post,
    Other,
}

/// A request of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, found in another part of the head"
)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, decoded, without scheme and host. Bytes that are not UTF-8 become U+FFFD.
    pub path: String,
    /// Whether the path was sent without escapes, so that a proxy's rule for it has applied.
    pub is_literal: bool,
    /// The query, verbatim.
    query: Vec<u8>,
    /// The version, also for the reply.
    pub version: Version,
    /// Whether the client wants the connection to stay open after the reply.
    pub keep_alive: bool,
    /// What proves the rights of the client.
    pub credentials: Credentials,
    /// The User-Agent; empty without one.
    pub agent: String,
    /// Whether a browser sends it because a page of another site wants that (Fetch Metadata).
    pub is_cross_site: bool,
    /// Whether the client is a browser, which shows HTML.
    pub prefers_html: bool,
}

/// The facts about a request that its reply depends on: all that is kept of it until it is
/// answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The version of the reply.
    pub version: Version,
    /// Whether only the head of the reply is sent: the request was a HEAD.
    pub head_only: bool,
    /// Whether the connection may stay open after the reply.
    pub keep_alive: bool,
}

impl Terms {
    /// For an unreadable request: a whole reply, then the connection closes.
    pub const UNREADABLE: Terms = Terms {
        version: Version::Http11,
        head_only: false,
        keep_alive: false,
    };
}

impl Request {
    /// The request at the start of `bytes` and its length there, including a body. `None`:
    /// incomplete.
    pub fn read(bytes: &[u8]) -> Result<Option<(Request, usize)>, Malformed> {
        let found = within(LONGEST_HEAD, Malformed::LongHead, bytes, |rest| {
            skip_empty_lines(rest);
            Head::take(rest, request_line)
        })?;
        let Some((head, length)) = found else {
            return Ok(None);
        };
        let (method, target, version) = head.start;
        if head.values("host").nth(1).is_some() {
            return Err(Malformed::Hosts);
        }
        let framing = head.framing(version)?.unwrap_or(Framing::Length(0));
        let Some((body, body_length)) =
            framing.read(&bytes[length..], LONGEST_REQUEST_BODY, false)?
        else {
            return Ok(None);
        };
        let form = match method {
            Method::Post => credentials::read_form(head.values("content-type"), &body),
            _ => None,
        };
        let (path, query) = split_at_first(origin(target), b'?');
        let (came, path) = (
            path,
            String::from_utf8_lossy(&percent::decode(path)).into_owned(),
        );
        let is_literal = came == path.as_bytes();
        let request = Request {
            method,
            path,
            is_literal,
            query: query.to_vec(),
            version,
            keep_alive: head.keep_alive(version),
            credentials: form.unwrap_or_else(|| credentials::read(head.values("authorization"))),
            agent: String::from_utf8_lossy(head.values("user-agent").next().unwrap_or_default())
                .into_owned(),
            is_cross_site: head.values("sec-fetch-site").any(is_other_site),
            prefers_html: accept::prefers_html(head.values("accept")),
        };
        Ok(Some((request, length + body_length)))
    }

    /// The first value of this name in the query, decoded. It may not be UTF-8.
    pub fn parameter(&self, name: &str) -> Option<Vec<u8>> {
        self.parameters()
            .find(|(found, _)| found == name.as_bytes())
            .map(|(_, value)| value)
    }

    /// Names and values of the query, decoded, in their order.
    pub fn parameters(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        percent::pairs(&self.query)
    }

    /// Whether all parameters are among these, at most once each, with names that are written
    /// without escapes and with `&` between them. Then a proxy reads the same parameters.
    pub fn has_only(&self, names: &[&str]) -> bool {
        let mut seen = Vec::new();
        !self.query.contains(&b';')
            && self.query.split(|&byte| byte == b'&').all(|parameter| {
                let (name, _) = split_at_first(parameter, b'=');
                let is_new = !seen.contains(&name);
                seen.push(name);
                is_new && names.iter().any(|known| known.as_bytes() == name)
            })
    }

    /// The terms of its reply.
    pub fn terms(&self) -> Terms {
        Terms {
            version: self.version,
            head_only: self.method == Method::Head,
            keep_alive: self.keep_alive,
        }
    }
}

/// Formats a request for `path`, which begins with a slash. `host` is the target host, with a port
/// unless that is 80.
pub fn get(path: &str, parameters: &[(&str, &str)], host: &str, keep_alive: bool) -> Vec<u8> {
    request("GET", path, parameters, host, keep_alive)
}

/// The same with POST, without a body, on a connection that is closed after the reply.
pub fn post(path: &str, parameters: &[(&str, &str)], host: &str) -> Vec<u8> {
    request("POST", path, parameters, host, false)
}

fn request(
    method: &str,
    path: &str,
    parameters: &[(&str, &str)],
    host: &str,
    keep_alive: bool,
) -> Vec<u8> {
    let mut out = format!("{method} ").into_bytes();
    percent::encode(path, b"/", &mut out);
    percent::query(parameters.iter().copied(), &mut out);
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    percent::encode(host, b":[]", &mut out);
    out.extend_from_slice(b"\r\nUser-Agent: ");
    out.extend_from_slice(USER_AGENT.as_bytes());
    // Prevents a cache from answering for the server.
    out.extend_from_slice(b"\r\nCache-Control: no-store\r\n");
    if !keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    if method == "POST" {
        out.extend_from_slice(b"Content-Length: 0\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Whether this value of Sec-Fetch-Site is that of a request of another page than the server's own.
/// `same-origin` is one of its own pages, and `none` is the user of the browser.
fn is_other_site(value: &[u8]) -> bool {
    let others = [&b"cross-site"[..], b"same-site"];
    others.iter().any(|other| value.eq_ignore_ascii_case(other))
}

fn skip_empty_lines(from: &mut &[u8]) {
    for _ in 0..EMPTY_LINES {
        *from = from.strip_prefix(b"\r\n").unwrap_or(from);
    }
}

/// Parses three words, separated by one space each.
fn request_line(line: &[u8]) -> Result<(Method, &[u8], Version), Malformed> {
    let malformed = || Malformed::RequestLine(shown(line));
    let (method, rest) = split_at_first(line, b' ');
    let (target, version) = split_at_first(rest, b' ');
    if !is_token(method) || target.is_empty() || target.contains(&b'\t') {
        return Err(malformed());
    }
    let version = Version::read(version).ok_or_else(malformed)??;
    let method = match method {
        b"GET" => Method::Get,
        b"HEAD" => Method::Head,
        b"POST" => Method::Post,
        _ => Method::Other,
    };
    Ok((method, target, version))
}

/// Removes scheme and host from a target in the form that is sent to a proxy.
fn origin(target: &[u8]) -> &[u8] {
    let schemes = [&b"http://"[..], b"https://"];
    let scheme = schemes.into_iter().find(|scheme| {
        target
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    let Some(scheme) = scheme else { return target };
    let rest = &target[scheme.len()..];
    let path = rest
        .iter()
        .position(|byte| b"/?".contains(byte))
        .unwrap_or(rest.len());
    &rest[path..]
}

/// Splits at the first `separator`.
fn split_at_first(bytes: &[u8], separator: u8) -> (&[u8], &[u8]) {
    bytes
        .iter()
        .position(|&byte| byte == separator)
        .map_or((bytes, b""), |at| (&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The request that consists of all these bytes.
    fn whole(bytes: &str) -> Request {
        let (request, length) = Request::read(bytes.as_bytes())
            .unwrap_or_else(|wrong| panic!("{bytes:?}: {wrong}"))
            .unwrap();
        assert_eq!(length, bytes.len(), "{bytes:?}");
        request
    }

    fn wrong(bytes: &str) -> Malformed {
        Request::read(bytes.as_bytes()).expect_err(bytes)
    }

    #[test]
    fn request_line_is_a_method_a_target_and_a_version() {
        for (line, method, path, version) in [
            (
                "GET /get/?host=h HTTP/1.1",
                Method::Get,
                "/get/",
                Version::Http11,
            ),
            ("HEAD / HTTP/1.0", Method::Head, "/", Version::Http10),
            (
                "POST /g/e/t HTTP/1.2",
                Method::Post,
                "/g/e/t",
                Version::Http11,
            ),
            ("OPTIONS * HTTP/1.1", Method::Other, "*", Version::Http11),
            ("get / HTTP/1.1", Method::Other, "/", Version::Http11),
            (
                "GET /g%65t/%ff?%3f HTTP/1.1",
                Method::Get,
                "/get/\u{fffd}",
                Version::Http11,
            ),
            (
                "GET http://host:9889/get/?a=http://b/ HTTP/1.1",
                Method::Get,
                "/get/",
                Version::Http11,
            ),
            (
                "GET HTTPS://host?a=b HTTP/1.1",
                Method::Get,
                "",
                Version::Http11,
            ),
            ("GET http://host HTTP/1.1", Method::Get, "", Version::Http11),
            ("GET get/ HTTP/1.1", Method::Get, "get/", Version::Http11),
            (
                "GET /замок HTTP/1.1",
                Method::Get,
                "/замок",
                Version::Http11,
            ),
        ] {
            let request = whole(&format!("{line}\r\n\r\n"));
            assert_eq!(
                (request.method, request.path.as_str(), request.version),
                (method, path, version),
                "{line}"
            );
        }
    }

    #[test]
    fn invalid_request_lines_are_refused() {
        let shown = |line: &str| Malformed::RequestLine(line.into());
        for line in [
            "foo",
            "GET",
            "GET /",
            "GET / ",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "GET / x HTTP/1.1",
            "G(T / HTTP/1.1",
        ] {
            assert_eq!(wrong(&format!("{line}\r\n")), shown(line));
        }
        assert_eq!(wrong("GET /\ta HTTP/1.1\r\n"), shown("GET /\\ta HTTP/1.1"));
        assert_eq!(
            wrong("GET / HTTP/2.0\r\n"),
            Malformed::Version("HTTP/2.0".into())
        );
        assert_eq!(wrong("GET / HTTP/1.0\n"), Malformed::Control(b'\n'));
        assert_eq!(wrong("\u{16}\u{3}\u{1}"), Malformed::Control(0x16));
    }

    #[test]
    fn first_of_repeated_parameters_wins() {
        let request = whole("GET /get/?pool=a%20b&host=&pool=c&h%6Fst=d&x HTTP/1.1\r\n\r\n");
        assert_eq!(request.parameter("pool").as_deref(), Some(&b"a b"[..]));
        assert_eq!(request.parameter("host").as_deref(), Some(&b""[..]));
        assert_eq!(request.parameter("x"), None);
        assert_eq!(
            whole("GET /get/?host=%ff HTTP/1.1\r\n\r\n")
                .parameter("host")
                .map(String::from_utf8)
                .map(|text| text.is_err()),
            Some(true)
        );
    }

    #[test]
    fn request_body_is_skipped() {
        whole("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\na=b");
        whole("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na=b\r\n0\r\n\r\n");
        whole("GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(
            wrong("POST / HTTP/1.1\r\nContent-Length: 8193\r\n\r\n"),
            Malformed::LongBody(LONGEST_REQUEST_BODY)
        );
        assert_eq!(
            wrong("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Malformed::OldCoding
        );
    }

    #[test]
    fn request_of_another_site_is_recognized() {
        for (field, is_cross_site) in [
            ("", false),
            ("Sec-Fetch-Site: none\r\n", false),
            ("Sec-Fetch-Site: same-origin\r\n", false),
            ("sec-fetch-site:Cross-Site\r\n", true),
            ("Sec-Fetch-Site: same-site\r\n", true),
            (
                "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n",
                true,
            ),
        ] {
            let request = whole(&format!("GET / HTTP/1.1\r\n{field}\r\n"));
            assert_eq!(request.is_cross_site, is_cross_site, "{field}");
        }
    }

    #[test]
    fn two_hosts_are_refused() {
        whole("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        for second in ["Host: a", "host:b", "HOST:"] {
            let found = wrong(&format!("GET / HTTP/1.1\r\nHost: a\r\n{second}\r\n\r\n"));
            assert_eq!(found, Malformed::Hosts, "{second}");
        }
    }

    #[test]
    fn some_empty_lines_before_a_request_are_skipped() {
        whole("\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        whole("\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na=b\r\n0\r\n\r\n");
        assert_eq!(
            wrong("\r\n\r\n\r\n\r\n\r\n"),
            Malformed::RequestLine(String::new())
        );
        assert_eq!(wrong("\n"), Malformed::Control(b'\n'));
        assert_eq!(Request::read(b"\r\n\r"), Ok(None));
    }

    #[test]
    fn head_over_the_limit_is_refused() {
        let start = "GET / HTTP/1.1\r\nA: ";
        let head =
            |length: usize| format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4));
        whole(&head(LONGEST_HEAD));
        assert_eq!(wrong(&head(LONGEST_HEAD + 1)), Malformed::LongHead);
        whole(&format!("\r\n{}", head(LONGEST_HEAD - 2)));
        assert_eq!(
            wrong(&format!("\r\n{}", head(LONGEST_HEAD - 1))),
            Malformed::LongHead
        );
        assert_eq!(wrong(&"x".repeat(LONGEST_HEAD)), Malformed::LongHead);
        assert_eq!(
            Request::read("x".repeat(LONGEST_HEAD - 1).as_bytes()),
            Ok(None)
        );
    }

    #[test]
    fn terms_are_those_of_the_request() {
        let terms = whole("HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").terms();
        assert_eq!(
            terms,
            Terms {
                version: Version::Http10,
                head_only: true,
                keep_alive: true
            }
        );
        let terms = whole("GET / HTTP/1.1\r\nConnection: close\r\n\r\n").terms();
        assert_eq!(
            terms,
            Terms {
                version: Version::Http11,
                head_only: false,
                keep_alive: false
            }
        );
    }

    #[test]
    fn parameters_that_a_proxy_could_read_differently_are_found() {
        for (query, same) in [
            ("pool=p&host=h", true),
            ("host=h%26&pool=a+b%3B", true),
            ("host", true),
            ("", false),
            ("pool=p&host=h&host=i", false),
            ("pool=p;host=h", false),
            ("pool=p&host=h&x=1", false),
            ("pool=p&HOST=h", false),
            ("pool=p&%68ost=h", false),
            ("pool=p&&host=h", false),
            ("pool=p& host=h", false),
        ] {
            let request = Request {
                query: query.into(),
                ..whole("GET / HTTP/1.1\r\n\r\n")
            };
            assert_eq!(request.has_only(&["pool", "host"]), same, "{query}");
        }
    }

    #[test]
    fn client_request_is_one_request_with_any_parameters() {
        let asked = get(
            "/wait/",
            &[("pool", "a b&c=d"), ("host", "h\r\nX: y")],
            "[::1]:9889",
            false,
        );
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            String::from_utf8_lossy(&asked),
            format!(
                "GET /wait/?pool=a%20b%26c%3Dd&host=h%0D%0AX%3A%20y HTTP/1.1\r\nHost: [::1]:9889\r\nUser-Agent: distributex/{version}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
            )
        );
        assert_eq!(
            String::from_utf8_lossy(&get("/", &[], "h\r\n", true)),
            format!(
                "GET / HTTP/1.1\r\nHost: h%0D%0A\r\nUser-Agent: distributex/{version}\r\nCache-Control: no-store\r\n\r\n"
            )
        );
    }
}

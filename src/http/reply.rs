//! Replies: the client reads them, the server writes them.

use super::body::Framing;
use super::head::{Head, Version};
use super::lines::within;
use super::malformed::{Malformed, shown};
use super::{LONGEST_HEAD, LONGEST_REPLY_BODY, Terms};
use std::fmt::Display;

/// A reply of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The status code, e.g. 200.
    pub status: u16,
    /// The reason phrase.
    pub reason: String,
    /// Names and values.
    fields: Vec<(String, String)>,
    /// The body, with chunks joined.
    pub body: Vec<u8>,
    /// Whether the connection may stay open after it.
    pub keep_alive: bool,
}

impl Reply {
    /// The reply to a GET at the start of `bytes` and its length there, including interim replies
    /// before it. `None`: incomplete. `closed`: no more bytes will arrive.
    pub fn read(bytes: &[u8], closed: bool) -> Result<Option<(Reply, usize)>, Malformed> {
        Reply::read_up_to(LONGEST_REPLY_BODY, bytes, closed)
    }

    /// The same with a limit for the body.
    pub fn read_up_to(
        longest_body: usize,
        bytes: &[u8],
        closed: bool,
    ) -> Result<Option<(Reply, usize)>, Malformed> {
        match Reply::whole(longest_body, bytes, closed)? {
            None if closed => Err(Malformed::Cut),
            reply => Ok(reply),
        }
    }

    fn whole(
        longest_body: usize,
        bytes: &[u8],
        closed: bool,
    ) -> Result<Option<(Reply, usize)>, Malformed> {
        let Some((head, length)) = within(LONGEST_HEAD, Malformed::LongHead, bytes, final_head)?
        else {
            return Ok(None);
        };
        let StatusLine {
            version,
            status,
            reason,
        } = head.start;
        let framing = match (status, head.framing(version)?) {
            (204 | 304, _) => Framing::Length(0),
            (_, framing) => framing.unwrap_or(Framing::ToEnd),
        };
        let Some((body, body_length)) = framing.read(&bytes[length..], longest_body, closed)?
        else {
            return Ok(None);
        };
        let fields = head
            .fields
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect();
        let keep_alive = framing != Framing::ToEnd && head.keep_alive(version);
        Ok(Some((
            Reply {
                status,
                reason: text(reason),
                fields,
                body,
                keep_alive,
            },
            length + body_length,
        )))
    }

    /// The first value of this field; the case of the name is ignored.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// All values of this field, joined as RFC 9110 (5.3) allows a proxy to join them. A caller
    /// that expects one value thus rejects two. `None` if the field is missing.
    pub fn combined(&self, name: &str) -> Option<String> {
        let values = self
            .fields
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str());
        values
            .map(str::to_owned)
            .reduce(|all, value| format!("{all}, {value}"))
    }

    /// Creates a reply.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        let fields = vec![("Content-Type".to_owned(), content_type.to_owned())];
        Reply {
            status,
            reason: reason(status).to_owned(),
            fields,
            body: body.into(),
            keep_alive: true,
        }
    }

    /// The same, with one more field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Display) -> Reply {
        self.fields.push((name.to_owned(), value.to_string()));
        self
    }

    /// The same with another body.
    #[must_use]
    pub fn replacing(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        self.fields.retain(|(name, _)| name != "Content-Type");
        let content_type = ("Content-Type".to_owned(), content_type.to_owned());
        self.fields.insert(0, content_type);
        self.body = body.into();
        self
    }

    /// A plain text reply that reports an error to the sender, with part of the offending text. The
    /// connection ends with it, because the start of the next request is unknown.
    pub fn refusing(why: &Malformed) -> Reply {
        Reply {
            keep_alive: false,
            ..Reply::new(why.status(), "text/plain", why.to_string())
        }
    }

    /// Appends the reply on the terms of its request, with this date.
    pub fn write(&self, terms: Terms, date: &str, out: &mut Vec<u8>) {
        let fields: String = self
            .fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let connection = match (terms.version, self.keep_alive && terms.keep_alive) {
            (_, false) => "Connection: close\r\n",
            (Version::Http10, true) => "Connection: keep-alive\r\n",
            (Version::Http11, true) => "",
        };
        let (version, status, reason, length) = (
            terms.version.name(),
            self.status,
            &self.reason,
            self.body.len(),
        );
        // Prevents a cache from giving one host the answer to another.
        let own = format!(
            "Date: {date}\r\nCache-Control: no-store\r\nContent-Length: {length}\r\n{connection}"
        );
        out.extend_from_slice(
            format!("{version} {status} {reason}\r\n{fields}{own}\r\n").as_bytes(),
        );
        if !terms.head_only {
            out.extend_from_slice(&self.body);
        }
    }
}

/// The content of a status line.
#[derive(Debug)]
struct StatusLine<'a> {
    version: Version,
    status: u16,
    reason: &'a [u8],
}

/// Takes a head off the front, and the interim replies (1xx) before it.
fn final_head<'a>(from: &mut &'a [u8]) -> Result<Option<Head<'a, StatusLine<'a>>>, Malformed> {
    while let Some(head) = Head::take(from, status_line)? {
        if !(100..200).contains(&head.start.status) {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

/// A version, a number of three digits, and an optional reason phrase, whose space is optional too.
fn status_line(line: &[u8]) -> Result<StatusLine<'_>, Malformed> {
    let malformed = || Malformed::StatusLine(shown(line));
    let mut words = line.splitn(3, |&byte| byte == b' ');
    let version = words
        .next()
        .and_then(Version::read)
        .ok_or_else(malformed)??;
    let status = match words.next() {
        Some(
            &[
                hundreds @ b'1'..=b'9',
                tens @ b'0'..=b'9',
                ones @ b'0'..=b'9',
            ],
        ) => [hundreds, tens, ones]
            .into_iter()
            .fold(0, |number, digit| number * 10 + u16::from(digit - b'0')),
        _ => return Err(malformed()),
    };
    Ok(StatusLine {
        version,
        status,
        reason: words.next().unwrap_or_default(),
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The reason phrases of the status codes that the server uses.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    use crate::http::malformed::Malformed::{Cut, LongHead};

    /// The reply that consists of all these bytes.
    fn whole(bytes: &str, closed: bool) -> Reply {
        let (reply, length) = Reply::read(bytes.as_bytes(), closed)
            .unwrap_or_else(|wrong| panic!("{bytes:?}: {wrong}"))
            .unwrap();
        assert_eq!(length, bytes.len(), "{bytes:?}");
        reply
    }

    fn wrong(bytes: &str) -> Malformed {
        Reply::read(bytes.as_bytes(), false).expect_err(bytes)
    }

    #[test]
    fn status_line_is_a_version_a_number_and_a_reason() {
        for (line, status, reason) in [
            ("HTTP/1.1 200 OK", 200, "OK"),
            ("HTTP/1.0 503 Try  again ", 503, "Try  again "),
            ("HTTP/1.1 404 ", 404, ""),
            ("HTTP/1.1 999", 999, ""),
        ] {
            let reply = whole(&format!("{line}\r\nContent-Length: 0\r\n\r\n"), false);
            assert_eq!(
                (reply.status, reply.reason.as_str()),
                (status, reason),
                "{line}"
            );
        }
        for line in [
            "",
            "YES",
            "HTTP/1.1",
            "HTTP/1.1 ",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000",
            "HTTP/1.1 +20",
            "HTTP/1.1 099 x",
            "HTTP/1.1  200 OK",
        ] {
            assert_eq!(
                wrong(&format!("{line}\r\n")),
                Malformed::StatusLine(line.into())
            );
        }
        assert_eq!(
            wrong("SSH-2.0-OpenSSH_9.2\r\n"),
            Malformed::StatusLine("SSH-2.0-OpenSSH_9.2".into())
        );
        assert_eq!(
            wrong("HTTP/2.0 200\r\n"),
            Malformed::Version("HTTP/2.0".into())
        );
    }

    #[test]
    fn body_ends_by_length_last_chunk_or_connection_end() {
        for (bytes, closed, keep_alive) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nYES",
                false,
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nYES",
                false,
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nYES",
                false,
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nYES\r\n0\r\n\r\n",
                false,
                true,
            ),
            ("HTTP/1.1 200 OK\r\n\r\nYES", true, false),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nYES",
                true,
                false,
            ),
        ] {
            let reply = whole(bytes, closed);
            assert_eq!(
                (reply.body.as_slice(), reply.keep_alive),
                (&b"YES"[..], keep_alive),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn truncated_reply_is_incomplete_or_an_error() {
        for bytes in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nYE",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nYES\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
        ] {
            assert_eq!(Reply::read(bytes.as_bytes(), false), Ok(None), "{bytes:?}");
            assert_eq!(Reply::read(bytes.as_bytes(), true), Err(Cut), "{bytes:?}");
        }
    }

    #[test]
    fn interim_replies_are_skipped_and_some_have_no_body() {
        let reply = whole(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nNO",
            false,
        );
        assert_eq!((reply.status, reply.body.as_slice()), (200, &b"NO"[..]));
        whole("HTTP/1.1 204 No Content\r\n\r\n", false);
        whole(
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
            false,
        );
        assert_eq!(
            wrong(&"HTTP/1.1 100 Continue\r\n\r\n".repeat(400)),
            LongHead
        );
    }

    #[test]
    fn fields_are_found_in_any_case_and_the_first_one_wins() {
        let reply = whole(
            "HTTP/1.1 200 OK\r\nx-lock-TOKEN: 7\r\nX-Lock-Token: 8\r\nContent-Length: 0\r\n\r\n",
            false,
        );
        assert_eq!(
            (reply.header("X-Lock-Token"), reply.header("X-Lock-Expires")),
            (Some("7"), None)
        );
        assert_eq!(
            (
                reply.combined("X-Lock-Token"),
                reply.combined("X-Lock-Expires")
            ),
            (Some("7, 8".into()), None)
        );
    }

    #[test]
    fn reply_is_written_on_the_terms_of_the_request() {
        let yes = Reply::new(200, "text/html", "YES").with("X-Lock-Token", 7);
        let fields = "Content-Type: text/html\r\nX-Lock-Token: 7\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nCache-Control: no-store\r\nContent-Length: 3\r\n";
        let of = |version, head_only, keep_alive| Terms {
            version,
            head_only,
            keep_alive,
        };
        for (terms, start, end) in [
            (of(Version::Http11, false, true), "HTTP/1.1", "\r\nYES"),
            (
                of(Version::Http11, false, false),
                "HTTP/1.1",
                "Connection: close\r\n\r\nYES",
            ),
            (of(Version::Http11, true, true), "HTTP/1.1", "\r\n"),
            (
                of(Version::Http10, false, true),
                "HTTP/1.0",
                "Connection: keep-alive\r\n\r\nYES",
            ),
            (
                of(Version::Http10, true, false),
                "HTTP/1.0",
                "Connection: close\r\n\r\n",
            ),
        ] {
            let mut out = b"before".to_vec();
            yes.write(terms, DATE, &mut out);
            assert_eq!(
                String::from_utf8(out).unwrap(),
                format!("before{start} 200 OK\r\n{fields}{end}"),
                "{terms:?}"
            );
        }
    }

    #[test]
    fn malformed_request_is_refused_and_the_connection_ends() {
        let mut out = Vec::new();
        Reply::refusing(&LongHead).write(Terms::UNREADABLE, DATE, &mut out);
        let reply = whole(str::from_utf8(&out).unwrap(), false);
        assert_eq!(
            (reply.status, reply.reason.as_str(), reply.keep_alive),
            (431, "Request Header Fields Too Large", false)
        );
        assert_eq!(reply.body, LongHead.to_string().as_bytes());
        let kept = Terms {
            keep_alive: true,
            ..Terms::UNREADABLE
        };
        out.clear();
        Reply::refusing(&Cut).write(kept, DATE, &mut out);
        assert!(!whole(str::from_utf8(&out).unwrap(), false).keep_alive);
    }
}

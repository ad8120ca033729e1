//! Replies: what the client reads, and what a server writes.

use super::body::Framing;
use super::head::{Head, Version, within};
use super::malformed::{Malformed, shown};
use super::{LONGEST_HEAD, LONGEST_REPLY_BODY, Terms};
use std::fmt::Display;

/// What a server answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// 200 and its like.
    pub status: u16,
    /// The same in words.
    pub reason: String,
    /// Names and values.
    fields: Vec<(String, String)>,
    /// What it says; without chunks, if there were any.
    pub body: Vec<u8>,
    /// Whether the connection may outlive it.
    pub keep_alive: bool,
}

impl Reply {
    /// The reply to a GET at the start of `bytes` and its length there, interim replies before it included. `None`: not yet. `closed`: nothing
    /// will follow these bytes.
    pub fn read(bytes: &[u8], closed: bool) -> Result<Option<(Reply, usize)>, Malformed> {
        match Reply::whole(bytes, closed)? {
            None if closed => Err(Malformed::Cut),
            reply => Ok(reply),
        }
    }

    fn whole(bytes: &[u8], closed: bool) -> Result<Option<(Reply, usize)>, Malformed> {
        let Some((head, length)) = within(LONGEST_HEAD, Malformed::LongHead, bytes, final_head)? else { return Ok(None) };
        let StatusLine { version, status, reason } = head.start;
        let framing = match (status, head.framing(version)?) {
            (204 | 304, _) => Framing::Length(0),
            (_, framing) => framing.unwrap_or(Framing::ToEnd),
        };
        let Some((body, body_length)) = framing.read(&bytes[length..], LONGEST_REPLY_BODY, closed)? else { return Ok(None) };
        let fields = head.fields.iter().map(|(name, value)| (text(name), text(value))).collect();
        let keep_alive = framing != Framing::ToEnd && head.keep_alive(version);
        Ok(Some((Reply { status, reason: text(reason), fields, body, keep_alive }, length + body_length)))
    }

    /// The first value of this field, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// A reply to be written.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        let fields = vec![("Content-Type".to_owned(), content_type.to_owned())];
        Reply { status, reason: reason(status).to_owned(), fields, body: body.into(), keep_alive: true }
    }

    /// The same, with one more field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Display) -> Reply {
        self.fields.push((name.to_owned(), value.to_string()));
        self
    }

    /// Tells the sender what is wrong. The connection ends with it, because nobody knows where the next request would begin.
    pub fn refusing(why: &Malformed) -> Reply {
        Reply { keep_alive: false, ..Reply::new(why.status(), "text/html", why.to_string()) }
    }

    /// Appends it, on the terms of the request that it answers.
    pub fn write(&self, terms: Terms, out: &mut Vec<u8>) {
        let fields: String = self.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let connection = match (terms.version, self.keep_alive && terms.keep_alive) {
            (_, false) => "Connection: close\r\n",
            (Version::Http10, true) => "Connection: keep-alive\r\n",
            (Version::Http11, true) => "",
        };
        let (version, status, reason, length) = (terms.version.name(), self.status, &self.reason, self.body.len());
        // No cache in between may give one host the answer to another.
        let own = format!("Cache-Control: no-store\r\nContent-Length: {length}\r\n{connection}");
        out.extend_from_slice(format!("{version} {status} {reason}\r\n{fields}{own}\r\n").as_bytes());
        if !terms.head_only {
            out.extend_from_slice(&self.body);
        }
    }
}

/// What a status line says.
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

/// A version, a number of three digits, and words that may be missing, with the space before them too.
fn status_line(line: &[u8]) -> Result<StatusLine<'_>, Malformed> {
    let malformed = || Malformed::StatusLine(shown(line));
    let mut words = line.splitn(3, |&byte| byte == b' ');
    let version = words.next().and_then(Version::read).ok_or_else(malformed)??;
    let status = match words.next() {
        Some(&[hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9']) => {
            [hundreds, tens, ones].into_iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'))
        }
        _ => return Err(malformed()),
    };
    Ok(StatusLine { version, status, reason: words.next().unwrap_or_default() })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The words of those that a server here has to say.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
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

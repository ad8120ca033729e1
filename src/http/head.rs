//! The head of a message: a start line, which differs between requests and replies, and fields.

use super::body::Framing;
use super::lines::{Fields, take_fields, take_line};
use super::malformed::{Malformed, shown};

/// A supported version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// A connection is closed after each reply, unless both sides ask to keep it.
    Http10,
    /// A connection is kept, unless one side asks to close it.
    Http11,
}

impl Version {
    /// Reads `HTTP/1.1`; later minor versions are read as 1.1. `None` if this is not a version.
    pub(super) fn read(name: &[u8]) -> Option<Result<Version, Malformed>> {
        match name.strip_prefix(b"HTTP/")? {
            b"1.0" => Some(Ok(Version::Http10)),
            [b'1', b'.', b'1'..=b'9'] => Some(Ok(Version::Http11)),
            [b'0'..=b'9', b'.', b'0'..=b'9'] => Some(Err(Malformed::Version(shown(name)))),
            _ => None,
        }
    }

    /// The name in a start line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        }
    }
}

/// A head; `S` is the content of its start line.
#[derive(Debug)]
pub(super) struct Head<'a, S> {
    pub(super) start: S,
    pub(super) fields: Fields<'a>,
}

impl<'a, S> Head<'a, S> {
    /// Takes a head off the front. An error is returned as soon as it is visible, even if the head
    /// is incomplete.
    pub(super) fn take(
        from: &mut &'a [u8],
        start: impl FnOnce(&'a [u8]) -> Result<S, Malformed>,
    ) -> Result<Option<Head<'a, S>>, Malformed> {
        let Some(line) = take_line(from)? else {
            return Ok(None);
        };
        let start = start(line)?;
        Ok(take_fields(from)?.map(|fields| Head { start, fields }))
    }

    /// All values of the fields with this name.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| *value)
    }

    /// Whether the connection stays open after the message.
    pub(super) fn keep_alive(&self, version: Version) -> bool {
        let says = |word: &str| {
            let mut words = self
                .values("connection")
                .flat_map(|value| value.split(|&byte| byte == b','));
            words.any(|found| found.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
        };
        !says("close") && (version == Version::Http11 || says("keep-alive"))
    }

    /// How the body is framed; `None` if the head does not specify it.
    pub(super) fn framing(&self, version: Version) -> Result<Option<Framing>, Malformed> {
        let codings: Vec<_> = self.values("transfer-encoding").collect();
        let mut lengths = self.values("content-length");
        match (codings.as_slice(), lengths.next()) {
            ([], None) => Ok(None),
            ([], Some(first)) => match lengths.find(|other| *other != first) {
                None => length(first).map(Some),
                Some(other) => Err(Malformed::Length(shown(&[first, other].join(&b", "[..])))),
            },
            (_, Some(_)) => Err(Malformed::BothLengths),
            (_, None) if version == Version::Http10 => Err(Malformed::OldCoding),
            ([only], None) if only.eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
            (several, None) => Err(Malformed::Coding(shown(&several.join(&b", "[..])))),
        }
    }
}

/// Digits only. A number beyond `usize` becomes `usize::MAX`, which exceeds every limit.
fn length(value: &[u8]) -> Result<Framing, Malformed> {
    let digits = str::from_utf8(value)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    let digits = digits.ok_or_else(|| Malformed::Length(shown(value)))?;
    Ok(Framing::Length(digits.parse().unwrap_or(usize::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A complete head with these fields.
    fn head(fields: &str) -> Result<Head<'_, ()>, Malformed> {
        Head::take(&mut fields.as_bytes(), |_| Ok(())).map(|head| head.expect("it is whole"))
    }

    fn framing(fields: &str) -> Result<Option<Framing>, Malformed> {
        head(&format!("\r\n{fields}\r\n\r\n"))?.framing(Version::Http11)
    }

    #[test]
    fn field_is_a_name_a_colon_and_a_value() {
        let fields = |text: &'static str| head(text).map(|head| head.fields);
        assert_eq!(
            fields("\r\nA:b\r\nc-D: \t e f \t\r\nG:\r\nh: :\u{e4}\r\n\r\n").unwrap(),
            [
                (&b"A"[..], &b"b"[..]),
                (b"c-D", b"e f"),
                (b"G", b""),
                (b"h", ":\u{e4}".as_bytes()),
            ]
        );
        for line in [
            "A",
            "A : b",
            ": b",
            " A: b",
            "\tA: b",
            "A b: c",
            "\u{e4}: b",
            "(A): b",
        ] {
            let wrong = head(&format!("\r\n{line}\r\n\r\n"))
                .map(|_| ())
                .unwrap_err();
            assert_eq!(wrong, Malformed::Field(shown(line.as_bytes())), "{line:?}");
        }
    }

    #[test]
    fn field_does_not_continue_in_the_next_line() {
        assert_eq!(
            head("\r\nA: b\r\n c\r\n\r\n").map(|_| ()),
            Err(Malformed::Field(" c".into()))
        );
    }

    #[test]
    fn conflicting_lengths_are_refused() {
        let length = |text: &str| Err(Malformed::Length(text.into()));
        let coding = |text: &str| Err(Malformed::Coding(text.into()));
        for (fields, expected) in [
            ("Host: h", Ok(None)),
            ("Content-Length: 0", Ok(Some(Framing::Length(0)))),
            ("content-LENGTH:00042", Ok(Some(Framing::Length(42)))),
            (
                "Content-Length: 5\r\nContent-Length: 5",
                Ok(Some(Framing::Length(5))),
            ),
            (
                "Content-Length: 99999999999999999999999",
                Ok(Some(Framing::Length(usize::MAX))),
            ),
            ("Content-Length: 5\r\nContent-Length: 6", length("5, 6")),
            ("Content-Length: 5\r\nContent-Length: 05", length("5, 05")),
            ("Content-Length: 5, 5", length("5, 5")),
            ("Content-Length:", length("")),
            ("Content-Length: +5", length("+5")),
            ("Content-Length: -1", length("-1")),
            ("Content-Length: 5 5", length("5 5")),
            ("Content-Length: 0x5", length("0x5")),
            ("Content-Length: \u{665}", length("\\xd9\\xa5")),
            ("Transfer-Encoding: Chunked", Ok(Some(Framing::Chunked))),
            ("Transfer-Encoding: gzip, chunked", coding("gzip, chunked")),
            (
                "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
                coding("gzip, chunked"),
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                coding("chunked, chunked"),
            ),
            ("Transfer-Encoding: \"chunked\"", coding("\\\"chunked\\\"")),
            ("Transfer-Encoding:", coding("")),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 5",
                Err(Malformed::BothLengths),
            ),
            (
                "Content-Length: 5\r\nTransfer-Encoding: identity",
                Err(Malformed::BothLengths),
            ),
        ] {
            assert_eq!(framing(fields), expected, "{fields:?}");
        }
        let chunked = head("\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        assert_eq!(chunked.framing(Version::Http10), Err(Malformed::OldCoding));
    }

    #[test]
    fn connection_is_kept_by_default_since_1_1() {
        for (fields, [old, new]) in [
            ("Host: h", [false, true]),
            ("Connection: close", [false, false]),
            ("Connection: Keep-Alive", [true, true]),
            ("Connection: keep-alive, Close", [false, false]),
            (
                "Connection: keep-alive\r\nConnection: close",
                [false, false],
            ),
            ("Connection: upgrade , keep-alive", [true, true]),
            ("Connection: closed", [false, true]),
            ("X-Connection: close", [false, true]),
        ] {
            let text = format!("\r\n{fields}\r\n\r\n");
            let head = head(&text).unwrap();
            assert_eq!(
                [Version::Http10, Version::Http11].map(|version| head.keep_alive(version)),
                [old, new],
                "{fields:?}"
            );
        }
    }

    #[test]
    fn only_1_0_and_1_1_are_supported() {
        for (name, version) in [
            ("HTTP/1.0", Some(Ok(Version::Http10))),
            ("HTTP/1.1", Some(Ok(Version::Http11))),
            ("HTTP/1.2", Some(Ok(Version::Http11))),
            ("HTTP/0.9", Some(Err(Malformed::Version("HTTP/0.9".into())))),
            ("HTTP/2.0", Some(Err(Malformed::Version("HTTP/2.0".into())))),
            ("HTTP/1.10", None),
            ("HTTP/1", None),
            ("http/1.1", None),
            ("ICY", None),
            ("", None),
        ] {
            assert_eq!(Version::read(name.as_bytes()), version, "{name}");
        }
    }
}

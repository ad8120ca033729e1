//! Errors in bytes that should be HTTP, and the status code with which a server answers each.

use super::LONGEST_HEAD;
use std::fmt;

/// Maximum number of bytes shown of the offending text.
const SHOWN: usize = 60;

/// Why bytes are not a valid message. The offending text is escaped and cut, so that it fits into a
/// log line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// The head is longer than [`LONGEST_HEAD`].
    LongHead,
    /// The body is longer than this number of bytes.
    LongBody(usize),
    /// A control character in a line. CR and LF count if they are not a pair.
    Control(u8),
    /// The first line of a request is invalid.
    RequestLine(String),
    /// The first line of a reply is invalid.
    StatusLine(String),
    /// An unsupported version.
    Version(String),
    /// A line of the head that is not a name and a value.
    Field(String),
    /// More than one Host.
    Hosts,
    /// A Content-Length that is not a number, or conflicts with another.
    Length(String),
    /// Both Content-Length and Transfer-Encoding are present.
    BothLengths,
    /// A Transfer-Encoding in HTTP/1.0, which has none.
    OldCoding,
    /// An unsupported Transfer-Encoding.
    Coding(String),
    /// A line that is not the length of a chunk.
    ChunkLength(String),
    /// A chunk that is longer than its length.
    ChunkEnd(String),
    /// The connection was closed before the reply was complete.
    Cut,
}

impl Malformed {
    /// The status code of the server's answer.
    pub fn status(&self) -> u16 {
        match self {
            Malformed::LongBody(_) => 413,
            Malformed::LongHead => 431,
            Malformed::Coding(_) => 501,
            Malformed::Version(_) => 505,
            _ => 400,
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Malformed::LongHead => write!(
                f,
                "expected a head of at most {LONGEST_HEAD} bytes, found more"
            ),
            Malformed::LongBody(longest) => {
                write!(f, "expected a body of at most {longest} bytes, found more")
            }
            Malformed::Control(b'\n') => {
                write!(f, "expected CR LF at the end of a line, found LF alone")
            }
            Malformed::Control(b'\r') => {
                write!(f, "expected CR LF at the end of a line, found CR alone")
            }
            Malformed::Control(byte) => write!(f, "expected text, found byte {byte:#04x}"),
            Malformed::RequestLine(found) => write!(
                f,
                "expected a line like \"GET /path HTTP/1.1\", found \"{found}\""
            ),
            Malformed::StatusLine(found) => write!(
                f,
                "expected a line like \"HTTP/1.1 200 OK\", found \"{found}\""
            ),
            Malformed::Version(found) => write!(f, "expected HTTP/1.0 or HTTP/1.1, found {found}"),
            Malformed::Field(found) => {
                write!(f, "expected a line like \"Name: value\", found \"{found}\"")
            }
            Malformed::Hosts => write!(f, "expected one Host, found several"),
            Malformed::Length(found) => write!(
                f,
                "expected one number as Content-Length, found \"{found}\""
            ),
            Malformed::BothLengths => write!(
                f,
                "expected Content-Length or Transfer-Encoding, found both"
            ),
            Malformed::OldCoding => write!(
                f,
                "expected Transfer-Encoding only in HTTP/1.1, found it in HTTP/1.0"
            ),
            Malformed::Coding(found) => write!(
                f,
                "expected \"chunked\" as Transfer-Encoding, found \"{found}\""
            ),
            Malformed::ChunkLength(found) => {
                write!(f, "expected the length of a chunk, found \"{found}\"")
            }
            Malformed::ChunkEnd(found) => {
                write!(f, "expected the end of a chunk, found \"{found}\"")
            }
            Malformed::Cut => write!(
                f,
                "expected more of the reply, found the end of the connection"
            ),
        }
    }
}

/// The offending text, escaped and cut.
pub(super) fn shown(found: &[u8]) -> String {
    let text = found[..found.len().min(SHOWN)].escape_ascii().to_string();
    if found.len() > SHOWN {
        text + "…"
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_status() {
        for (wrong, status) in [
            (Malformed::RequestLine("foo".into()), 400),
            (Malformed::Control(b'\n'), 400),
            (Malformed::Hosts, 400),
            (Malformed::BothLengths, 400),
            (Malformed::LongBody(1), 413),
            (Malformed::LongHead, 431),
            (Malformed::Coding("gzip".into()), 501),
            (Malformed::Version("HTTP/2.0".into()), 505),
        ] {
            assert_eq!(wrong.status(), status, "{wrong}");
        }
    }

    #[test]
    fn offending_text_fits_in_a_line() {
        assert_eq!(
            shown("\"a\\\r\n\u{e4}".as_bytes()),
            "\\\"a\\\\\\r\\n\\xc3\\xa4"
        );
        assert_eq!(shown(&[b'x'; SHOWN]), "x".repeat(SHOWN));
        assert_eq!(shown(&[b'x'; SHOWN + 1]), "x".repeat(SHOWN) + "…");
        assert_eq!(
            Malformed::Control(b'\n').to_string(),
            "expected CR LF at the end of a line, found LF alone"
        );
        assert_eq!(
            Malformed::Control(0).to_string(),
            "expected text, found byte 0x00"
        );
    }
}

//! What is wrong with bytes that claim to be HTTP, and with which status a server answers them.

use super::LONGEST_HEAD;
use std::fmt;

/// The most that is shown of what was found.
const SHOWN: usize = 60;

/// Why this is no message. What was found is shown escaped and cut, so that it fits in a line of a
/// log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// The head goes on after [`LONGEST_HEAD`].
    LongHead,
    /// The body goes on after so many bytes.
    LongBody(usize),
    /// A control character in a line. CR and LF are some, where they are not together.
    Control(u8),
    /// A request does not begin with such a line.
    RequestLine(String),
    /// A reply does not begin with such a line.
    StatusLine(String),
    /// A version that is not spoken here.
    Version(String),
    /// A line of the head that is not a name and a value.
    Field(String),
    /// A Content-Length that is no number, or not the only one.
    Length(String),
    /// A Content-Length and a Transfer-Encoding.
    BothLengths,
    /// A Transfer-Encoding in HTTP/1.0, which has none.
    OldCoding,
    /// A Transfer-Encoding that is not known here.
    Coding(String),
    /// A line that is not the length of a chunk.
    ChunkLength(String),
    /// A chunk that goes on after its length.
    ChunkEnd(String),
    /// The connection was closed before the reply was whole.
    Cut,
}

impl Malformed {
    /// The status that says so to whoever sent it.
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

/// What was found, as it can be shown.
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
    fn each_is_answered_by_the_status_that_fits() {
        for (wrong, status) in [
            (Malformed::RequestLine("foo".into()), 400),
            (Malformed::Control(b'\n'), 400),
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
    fn what_was_found_fits_in_a_line() {
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

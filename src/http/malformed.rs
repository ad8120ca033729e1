//! What is wrong with bytes that claim to be HTTP, and with which status a server answers them.

use super::LONGEST_HEAD;
use std::fmt;

/// The most that is shown of what was found.
const SHOWN: usize = 60;

/// Why this is no message. What was found is shown escaped and cut, so that it fits in a line of a log.
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
    /// A Transfer-Encoding where there may be none.
    Framing,
    /// A Transfer-Encoding that is not known here.
    Coding(String),
    /// This stands where a chunk should begin or end.
    Chunk(String),
    /// The connection was closed before the message was whole.
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
            Malformed::LongHead => write!(f, "the head is longer than {LONGEST_HEAD} bytes"),
            Malformed::LongBody(longest) => write!(f, "the body is longer than {longest} bytes"),
            Malformed::Control(b'\n') => write!(f, "a line ends with LF alone, expected CR LF"),
            Malformed::Control(b'\r') => write!(f, "a CR without LF after it, expected CR LF"),
            Malformed::Control(byte) => write!(f, "a byte {byte:#04x}, expected text"),
            Malformed::RequestLine(found) => write!(f, "\"{found}\", expected a line like \"GET /path HTTP/1.1\""),
            Malformed::StatusLine(found) => write!(f, "\"{found}\", expected a line like \"HTTP/1.1 200 OK\""),
            Malformed::Version(found) => write!(f, "\"{found}\", expected HTTP/1.0 or HTTP/1.1"),
            Malformed::Field(found) => write!(f, "\"{found}\", expected a line like \"Name: value\""),
            Malformed::Length(found) => write!(f, "Content-Length \"{found}\", expected one number"),
            Malformed::Framing => write!(f, "Transfer-Encoding in HTTP/1.0 or beside a Content-Length, expected one of them"),
            Malformed::Coding(found) => write!(f, "Transfer-Encoding \"{found}\", expected chunked"),
            Malformed::Chunk(found) => write!(f, "\"{found}\" in a chunked body, expected the length of a chunk or the end of one"),
            Malformed::Cut => write!(f, "the connection was closed before the message was whole"),
        }
    }
}

/// What was found, as it can be shown.
pub(super) fn shown(found: &[u8]) -> String {
    let text = found[..found.len().min(SHOWN)].escape_ascii().to_string();
    if found.len() > SHOWN { text + "…" } else { text }
}

//! HTTP/1.0 and 1.1 (RFC 9110, 9112) without I/O: one grammar for the lock server, which reads
//! requests and writes replies, and for its client, which does the opposite. A reader is called
//! with all bytes received so far, after each arrival, and returns `None` until a message is
//! complete.
//!
//! Parsing is strict where two readers of one stream could disagree on the end of a message: lines
//! end with CR LF only, and there is one length, in digits. A client that ends lines with LF alone
//! gets an error at once; the original program let it wait forever.

mod accept;
mod body;
pub mod client;
mod credentials;
mod date;
mod head;
mod lines;
mod malformed;
mod percent;
#[cfg(test)]
mod recorded_tests;
mod reply;
mod request;

pub use credentials::authorize;
pub use date::{date, rfc3339};
pub use malformed::Malformed;
pub use percent::query;
pub use reply::Reply;
pub use request::{Method, Request, Terms, get, post};

/// The longest head that is read, including empty lines or interim replies before it. The longest
/// names of host and pool, with every byte encoded, take a fifth of it.
pub const LONGEST_HEAD: usize = 8 << 10;

/// The longest body of a request, on the wire. Only an access token in a form is read from it.
pub const LONGEST_REQUEST_BODY: usize = 8 << 10;

/// The longest request: this number of bytes always contains a complete request or an error.
pub const LONGEST_REQUEST: usize = LONGEST_HEAD + LONGEST_REQUEST_BODY;

/// The longest body of a reply, on the wire. The client reads single words; a proxy may send an
/// error page.
pub const LONGEST_REPLY_BODY: usize = 64 << 10;

/// The longest list of holders and waiters that is read. One of them takes a hundred bytes.
pub const LONGEST_LIST: usize = 16 << 20;

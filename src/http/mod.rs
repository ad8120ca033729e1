//! HTTP/1.0 and 1.1 (RFC 9110, 9112) without I/O: one grammar for the lock server, which reads
//! requests and writes replies, and for its client, which does the opposite. Readers are given all
//! that has arrived, again with each arrival, and say "not yet" until a message is whole.
//!
//! Strict where two readers of one stream could disagree on where a message ends: lines end with CR
//! LF and nothing else, a length is digits, and there is one of it. Who ends lines with LF alone is
//! told so at once; the original let them wait for ever.

mod body;
pub mod call;
mod date;
mod head;
mod lines;
mod malformed;
mod percent;
mod reply;
mod request;

pub use date::date;
pub use head::Version;
pub use malformed::Malformed;
pub use reply::Reply;
pub use request::{Method, Request, Terms, get};

/// The longest head that is read, together with what may come before it: empty lines, interim
/// replies. The longest names of host and pool, with every byte encoded, take a fifth of it.
pub const LONGEST_HEAD: usize = 8 << 10;

/// The longest body of a request, as it is on the wire. It is skipped: nothing that is asked here
/// needs one.
pub const LONGEST_REQUEST_BODY: usize = 8 << 10;

/// The longest request that is read: of so many bytes it is known whether they begin with one.
pub const LONGEST_REQUEST: usize = LONGEST_HEAD + LONGEST_REQUEST_BODY;

/// The longest body of a reply, as it is on the wire. The client reads single words; a proxy in
/// between may have a page to say about an error.
pub const LONGEST_REPLY_BODY: usize = 64 << 10;

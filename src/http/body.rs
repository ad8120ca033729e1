//! What follows a head, and where it ends.

use super::head::{take_fields, take_line, within};
use super::malformed::{Malformed, shown};

/// The most digits that the length of a chunk has: more than any body that is read.
const CHUNK_DIGITS: usize = 8;

/// Where a body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(usize),
    /// After a chunk of no length, and fields.
    Chunked,
    /// With the connection.
    ToEnd,
}

impl Framing {
    /// The body at the start of `bytes` and how many of them it takes. `closed`: nothing will follow them.
    pub(super) fn read(self, bytes: &[u8], longest: usize, closed: bool) -> Result<Option<(Vec<u8>, usize)>, Malformed> {
        match self {
            Framing::Length(length) if length > longest => Err(Malformed::LongBody(longest)),
            Framing::Length(length) => Ok(bytes.get(..length).map(|body| (body.to_vec(), length))),
            Framing::Chunked => within(longest, Malformed::LongBody(longest), bytes, |rest| chunks(rest, longest)),
            Framing::ToEnd if bytes.len() > longest => Err(Malformed::LongBody(longest)),
            Framing::ToEnd => Ok(closed.then(|| (bytes.to_vec(), bytes.len()))),
        }
    }
}

/// Takes chunks, the last of which has no length, and the fields after them off the front. The fields and what chunks are said to be besides
/// their length are not believed.
fn chunks(from: &mut &[u8], longest: usize) -> Result<Option<Vec<u8>>, Malformed> {
    let mut body = Vec::new();
    while let Some(line) = take_line(from)? {
        let length = chunk_length(line)?;
        if length > longest {
            return Err(Malformed::LongBody(longest));
        }
        if length == 0 {
            return Ok(take_fields(from)?.map(|_| body));
        }
        let Some((chunk, rest)) = from.split_at_checked(length) else { return Ok(None) };
        body.extend_from_slice(chunk);
        *from = match rest {
            [b'\r', b'\n', rest @ ..] => rest,
            [] | [b'\r'] => return Ok(None),
            _ => return Err(Malformed::Chunk(shown(rest))),
        }
    }
    Ok(None)
}

/// Hexadecimal digits only, then nothing or `;` and what we do not know.
fn chunk_length(line: &[u8]) -> Result<usize, Malformed> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or(line);
    let number = str::from_utf8(digits).ok().filter(|text| text.len() <= CHUNK_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    number.and_then(|text| usize::from_str_radix(text, 16).ok()).ok_or_else(|| Malformed::Chunk(shown(line)))
}

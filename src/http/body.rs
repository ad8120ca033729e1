//! Message bodies and their framing.

use super::lines::{take_fields, take_line, within};
use super::malformed::{Malformed, shown};

/// Maximum number of digits of a chunk's length; it allows more than the longest body.
const CHUNK_DIGITS: usize = 8;

/// How the end of a body is marked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    /// After this number of bytes.
    Length(usize),
    /// By an empty chunk, followed by fields.
    Chunked,
    /// By the end of the connection.
    ToEnd,
}

impl Framing {
    /// The body at the start of `bytes` and its length on the wire. `closed`: no more bytes will
    /// arrive.
    pub(super) fn read(
        self,
        bytes: &[u8],
        longest: usize,
        closed: bool,
    ) -> Result<Option<(Vec<u8>, usize)>, Malformed> {
        match self {
            Framing::Length(length) if length > longest => Err(Malformed::LongBody(longest)),
            Framing::Length(length) => Ok(bytes.get(..length).map(|body| (body.to_vec(), length))),
            Framing::Chunked => within(longest, Malformed::LongBody(longest), bytes, |rest| {
                chunks(rest, longest)
            }),
            Framing::ToEnd if bytes.len() > longest => Err(Malformed::LongBody(longest)),
            Framing::ToEnd => Ok(closed.then(|| (bytes.to_vec(), bytes.len()))),
        }
    }
}

/// Takes chunks up to the empty one, and the fields after it, off the front. The fields and the
/// chunk extensions are ignored.
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
        let Some((chunk, rest)) = from.split_at_checked(length) else {
            return Ok(None);
        };
        body.extend_from_slice(chunk);
        *from = rest;
        match take_line(from)? {
            Some([]) => {}
            Some(more) => return Err(Malformed::ChunkEnd(shown(more))),
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// Hexadecimal digits only, then nothing or `;` and an extension.
fn chunk_length(line: &[u8]) -> Result<usize, Malformed> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or(line);
    let number = str::from_utf8(digits).ok().filter(|text| {
        text.len() <= CHUNK_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    number
        .and_then(|text| usize::from_str_radix(text, 16).ok())
        .ok_or_else(|| Malformed::ChunkLength(shown(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: usize = 64;

    fn read(
        framing: Framing,
        bytes: &str,
        closed: bool,
    ) -> Result<Option<(String, usize)>, Malformed> {
        let body = framing.read(bytes.as_bytes(), LONGEST, closed)?;
        Ok(body.map(|(body, length)| (String::from_utf8(body).unwrap(), length)))
    }

    #[test]
    fn chunks_are_joined_and_extensions_are_skipped() {
        for (bytes, body) in [
            ("0\r\n\r\n", ""),
            ("3\r\nYES\r\n0\r\n\r\n", "YES"),
            ("1\r\nY\r\n02\r\nES\r\n000\r\n\r\n", "YES"),
            (
                "A;a=b;\"c\r\n0123456789\r\n0;\r\nSum: 1\r\n\r\n",
                "0123456789",
            ),
            ("6\r\n0\r\n\r\nx\r\n0\r\n\r\n", "0\r\n\r\nx"),
        ] {
            assert_eq!(
                read(Framing::Chunked, &format!("{bytes}more"), false),
                Ok(Some((body.into(), bytes.len()))),
                "{bytes:?}"
            );
            for cut in 0..bytes.len() {
                assert_eq!(
                    read(Framing::Chunked, &bytes[..cut], true),
                    Ok(None),
                    "{:?}",
                    &bytes[..cut]
                );
            }
        }
    }

    #[test]
    fn chunk_length_is_plain_hexadecimal_digits() {
        let length = |found: &str| Malformed::ChunkLength(found.into());
        for (bytes, wrong) in [
            ("\r\n", length("")),
            (";a\r\n", length(";a")),
            ("+3\r\nYES", length("+3")),
            ("-1\r\n", length("-1")),
            ("0x3\r\n", length("0x3")),
            (" 3\r\n", length(" 3")),
            ("3 \r\n", length("3 ")),
            ("000000003\r\n", length("000000003")),
            ("g\r\n", length("g")),
            ("3\nYES", Malformed::Control(b'\n')),
            ("3;a\nb\r\n", Malformed::Control(b'\n')),
            ("3\r\nYES\n0", Malformed::Control(b'\n')),
            ("3\r\nYES, so\r\n", Malformed::ChunkEnd(", so".into())),
            ("0\r\nno field\r\n", Malformed::Field("no field".into())),
            ("41\r\n", Malformed::LongBody(LONGEST)),
            ("ffffffff\r\n", Malformed::LongBody(LONGEST)),
        ] {
            assert_eq!(
                read(Framing::Chunked, bytes, false),
                Err(wrong),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn body_over_the_limit_is_refused_with_any_framing() {
        let [longest, longer] = [LONGEST, LONGEST + 1].map(|length| "x".repeat(length));
        let many = "1\r\nx\r\n".repeat(LONGEST / 6 + 1);
        let extended = format!("1;{longest}");
        for (framing, bytes) in [
            (Framing::Length(LONGEST + 1), ""),
            (Framing::Length(usize::MAX), ""),
            (Framing::ToEnd, &longer),
            (Framing::Chunked, &many),
            (Framing::Chunked, &extended),
        ] {
            assert_eq!(
                read(framing, bytes, false),
                Err(Malformed::LongBody(LONGEST)),
                "{framing:?}"
            );
        }
        assert_eq!(
            read(Framing::Length(LONGEST), &longer, false),
            Ok(Some((longest.clone(), LONGEST)))
        );
        assert_eq!(
            read(Framing::ToEnd, &longest, true),
            Ok(Some((longest.clone(), LONGEST)))
        );
        let chunked = format!("36\r\n{}\r\n0\r\n\r\n", &longest[..54]);
        assert_eq!(
            (chunked.len(), read(Framing::Chunked, &chunked, false)),
            (65, Err(Malformed::LongBody(LONGEST)))
        );
        let chunked = format!("35\r\n{}\r\n0\r\n\r\n", &longest[..53]);
        assert_eq!(
            (chunked.len(), read(Framing::Chunked, &chunked, false)),
            (64, Ok(Some((longest[..53].into(), 64))))
        );
    }

    #[test]
    fn body_to_the_end_is_complete_when_the_connection_is_closed() {
        assert_eq!(read(Framing::ToEnd, "YES", false), Ok(None));
        assert_eq!(
            read(Framing::ToEnd, "YES", true),
            Ok(Some(("YES".into(), 3)))
        );
    }
}

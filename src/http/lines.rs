//! Lines of a message: a start line, fields, the head of a chunk.

use super::malformed::{Malformed, shown};

/// Names and values, as they came. Their number is bounded by the length of the head.
pub(super) type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;

/// Takes fields and the empty line after them off the front.
pub(super) fn take_fields<'a>(from: &mut &'a [u8]) -> Result<Option<Fields<'a>>, Malformed> {
    let mut fields = Fields::new();
    while let Some(line) = take_line(from)? {
        if line.is_empty() {
            return Ok(Some(fields));
        }
        fields.push(field(line)?);
    }
    Ok(None)
}

/// The name is a token: no space before the colon, and no line that goes on with the value of the
/// one before.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let colon = line
        .iter()
        .position(|&byte| byte == b':')
        .filter(|&colon| is_token(&line[..colon]));
    let colon = colon.ok_or_else(|| Malformed::Field(shown(line)))?;
    Ok((&line[..colon], line[colon + 1..].trim_ascii()))
}

/// Takes a line off the front, without its end. The first control character must be the end's, tabs
/// apart.
pub(super) fn take_line<'a>(from: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
    let Some(end) = from
        .iter()
        .position(|&byte| byte.is_ascii_control() && byte != b'\t')
    else {
        return Ok(None);
    };
    let (line, rest) = from.split_at(end);
    match rest {
        [b'\r', b'\n', rest @ ..] => {
            *from = rest;
            Ok(Some(line))
        }
        [b'\r'] => Ok(None),
        _ => Err(Malformed::Control(rest[0])),
    }
}

/// What `take` finds in the first `longest` bytes, and how much of them it is. All of them without
/// anything whole among them are too long.
pub(super) fn within<'a, T>(
    longest: usize,
    too_long: Malformed,
    bytes: &'a [u8],
    take: impl FnOnce(&mut &'a [u8]) -> Result<Option<T>, Malformed>,
) -> Result<Option<(T, usize)>, Malformed> {
    let seen = &bytes[..bytes.len().min(longest)];
    let mut rest = seen;
    match take(&mut rest)? {
        Some(found) => Ok(Some((found, seen.len() - rest.len()))),
        None if seen.len() == longest => Err(too_long),
        None => Ok(None),
    }
}

/// A method or the name of a field (RFC 9110, 5.6.2).
pub(super) fn is_token(word: &[u8]) -> bool {
    !word.is_empty()
        && word
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_with_cr_lf_and_nothing_else() {
        for (bytes, line) in [
            ("line\r\nmore", Ok(Some("line"))),
            ("\r\n", Ok(Some(""))),
            ("a\tb\r\n", Ok(Some("a\tb"))),
            ("", Ok(None)),
            ("line", Ok(None)),
            ("line\r", Ok(None)),
            ("line\nmore", Err(Malformed::Control(b'\n'))),
            ("line\rmore", Err(Malformed::Control(b'\r'))),
            ("line\r\r\n", Err(Malformed::Control(b'\r'))),
            ("li\0ne\r\n", Err(Malformed::Control(0))),
            ("\x7f", Err(Malformed::Control(0x7f))),
        ] {
            let mut rest = bytes.as_bytes();
            assert_eq!(
                take_line(&mut rest),
                line.clone().map(|line| line.map(str::as_bytes)),
                "{bytes:?}"
            );
            let taken = line.ok().flatten().map_or(0, |line| line.len() + 2);
            assert_eq!(rest, &bytes.as_bytes()[taken..], "{bytes:?}");
        }
    }
}

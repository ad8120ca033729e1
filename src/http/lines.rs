//! Lines of a message: start lines, fields, chunk heads.

use super::malformed::{Malformed, shown};

/// Names and values, verbatim. The length of the head bounds their number.
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

/// Splits a field. The name is a token: a space before the colon is refused, and so is a line that
/// continues the value of the previous one.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let colon = line
        .iter()
        .position(|&byte| byte == b':')
        .filter(|&colon| is_token(&line[..colon]));
    let colon = colon.ok_or_else(|| Malformed::Field(shown(line)))?;
    Ok((&line[..colon], line[colon + 1..].trim_ascii()))
}

/// Takes a line off the front, without its line end. The first control character, except tabs, must
/// be that of the line end.
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

/// The result of `take` within the first `longest` bytes, and the number of bytes taken. `too_long`
/// if these bytes do not contain a complete item.
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

/// Whether this is a token: a method or a field name (RFC 9110, 5.6.2).
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
    fn line_ends_with_cr_lf_only() {
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

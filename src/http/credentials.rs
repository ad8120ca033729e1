//! The header `Authorization` (RFC 9110, 11.6.2): the server reads it, the client writes it.

use crate::plan::access::{AccessToken, Credentials};

/// What the values of the header prove. Two of them prove nothing: a proxy may have added one.
pub(super) fn read<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Credentials {
    match (values.next(), values.next()) {
        (None, _) => Credentials::None,
        (Some(value), None) => read_value(value).unwrap_or(Credentials::Unknown),
        (Some(_), Some(_)) => Credentials::Unknown,
    }
}

fn read_value(value: &[u8]) -> Option<Credentials> {
    let end = value.iter().position(|&byte| byte == b' ')?;
    let (scheme, rest) = (&value[..end], value[end..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(Credentials::Bearer(AccessToken::sent(rest)));
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = decode_base64(rest)?;
    let colon = pair.iter().position(|&byte| byte == b':')?;
    Some(Credentials::Basic(AccessToken::sent(&pair[colon + 1..])))
}

/// Decodes base64 (RFC 4648, 4), with or without its padding.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    let text = &text[..text.len() - padding];
    if padding > 2 || text.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for &byte in text {
        bits = (bits << 6) | u32::from(value_of_digit(byte)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count).to_le_bytes()[0]);
        }
    }
    Some(bytes)
}

fn value_of_digit(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

/// Adds the access token of a client to its request, which has no body. Without a token the request
/// stays as it is.
pub fn authorize(mut request: Vec<u8>, token: Option<&AccessToken>) -> Vec<u8> {
    let end = request.len().saturating_sub(b"\r\n".len()); // before the empty line
    if let Some(token) = token {
        let field = [b"Authorization: Bearer ", token.secret(), b"\r\n"].concat();
        request.splice(end..end, field);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::super::{Request, get, post};
    use super::*;

    fn bearer(token: &str) -> Credentials {
        Credentials::Bearer(AccessToken::sent(token.as_bytes()))
    }

    fn basic(password: &str) -> Credentials {
        Credentials::Basic(AccessToken::sent(password.as_bytes()))
    }

    #[test]
    fn token_is_read_from_bearer_and_from_the_password_of_basic() {
        for (value, credentials) in [
            ("Bearer abc", bearer("abc")),
            ("bEARER   abc", bearer("abc")),
            ("Bearer a=b", bearer("a=b")),
            ("Bearer ", bearer("")),
            ("Basic dXNlcjpwYXNz", basic("pass")),
            ("basic dTphOmI=", basic("a:b")),
            ("Basic dTphOmI", basic("a:b")),
            ("Basic Og==", basic("")),
        ] {
            let found = read([value.as_bytes()].into_iter());
            assert_eq!(found, credentials, "{value}");
        }
        let not_text = Credentials::Basic(AccessToken::sent(&[0xff, 0xfe]));
        assert_eq!(read([&b"Basic Ov/+"[..]].into_iter()), not_text);
        for value in [
            "",
            "Bearer",
            "abc",
            "Digest a=b",
            "Basic",
            "Basic dXNlcg==",
            "Basic a",
            "Basic a===",
            "Basic dX=lcjpw",
            "Basic dX lcjpw",
            "Basic dX-lcjpw",
        ] {
            let found = read([value.as_bytes()].into_iter());
            assert_eq!(found, Credentials::Unknown, "{value}");
        }
        assert_eq!(read([].into_iter()), Credentials::None);
        let two = [&b"Bearer a"[..], b"Bearer a"];
        assert_eq!(read(two.into_iter()), Credentials::Unknown);
    }

    #[test]
    fn request_with_a_token_is_the_same_request_otherwise() {
        let token = AccessToken::sent(b"abc");
        for request in [
            get("/get/", &[("pool", "p")], "h", false),
            post("/revoke/", &[], "h"),
        ] {
            assert_eq!(authorize(request.clone(), None), request);
            let sent = authorize(request.clone(), Some(&token));
            let (read, length) = Request::read(&sent).unwrap().unwrap();
            assert_eq!(length, sent.len());
            assert_eq!(read.credentials, bearer("abc"));
            let text = String::from_utf8(sent).unwrap();
            let without = text.replace("Authorization: Bearer abc\r\n", "");
            assert_eq!(without.as_bytes(), request);
        }
    }
}

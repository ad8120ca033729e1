//! Access tokens in a request: the header `Authorization` (RFC 9110, 11.6.2), which the server reads
//! and the client writes, and the form of the page (RFC 6750, 2.2).

use super::percent;
use crate::plan::access::{AccessToken, Credentials, MAX_TOKEN};

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
        return token(rest).map(Credentials::Bearer);
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = decode_base64(rest)?;
    let colon = pair.iter().position(|&byte| byte == b':')?;
    token(&pair[colon + 1..]).map(Credentials::Basic)
}

/// A token as it was sent. `None`: it is longer than any valid one, and is not kept while its
/// client waits for a lock.
fn token(bytes: &[u8]) -> Option<AccessToken> {
    (bytes.len() <= MAX_TOKEN).then(|| AccessToken::sent(bytes))
}

/// The name of the field of a form that has an access token.
const FORM_FIELD: &str = "access_token";

/// What the body of a POST proves, if it is a form with an access token. It counts instead of the
/// header: the operator has entered it for this request, while a browser or a proxy adds the header
/// to any. Two fields prove nothing.
pub(super) fn read_form<'a>(
    mut content_types: impl Iterator<Item = &'a [u8]>,
    body: &[u8],
) -> Option<Credentials> {
    let content_type = content_types.next()?;
    let end = content_type.iter().position(|&byte| byte == b';');
    let content_type = content_type[..end.unwrap_or(content_type.len())].trim_ascii();
    if !content_type.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
        return None;
    }
    let mut tokens = percent::pairs(body).filter(|(name, _)| name == FORM_FIELD.as_bytes());
    let (_, first) = tokens.next()?;
    let only = match tokens.next() {
        None => token(first.trim_ascii()),
        Some(_) => None,
    };
    Some(only.map_or(Credentials::Unknown, Credentials::Bearer))
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
    fn token_longer_than_any_valid_one_proves_nothing_and_is_not_kept() {
        let (longest, longer) = ("=".repeat(MAX_TOKEN), "=".repeat(MAX_TOKEN + 1));
        let header = |value: &str| read([value.as_bytes()].into_iter());
        let form = |token: &str| {
            let body = format!("access_token={token}");
            let form = &b"application/x-www-form-urlencoded"[..];
            read_form([form].into_iter(), body.as_bytes()).unwrap()
        };
        assert_eq!(header(&format!("Bearer {longest}")), bearer(&longest));
        assert_eq!(header(&format!("Bearer {longer}")), Credentials::Unknown);
        assert_eq!(form(&longest), bearer(&longest));
        assert_eq!(form(&longer), Credentials::Unknown);
        // Base64 of "u:=" and of "===" for each group.
        let password = |groups: usize| format!("Basic dTo9{}", "PT09".repeat(groups));
        let groups = (MAX_TOKEN - 1) / 3;
        assert_eq!(
            header(&password(groups)),
            basic(&"=".repeat(1 + 3 * groups))
        );
        assert_eq!(header(&password(groups + 1)), Credentials::Unknown);
    }

    #[test]
    fn token_in_a_form_counts_instead_of_the_header() {
        let post = |content_type: &str, body: &str| {
            let length = body.len();
            let text = format!(
                "POST /revoke/ HTTP/1.1\r\nAuthorization: Basic dTphOmI=\r\n{content_type}\
                 Content-Length: {length}\r\n\r\n{body}"
            );
            let (request, read) = Request::read(text.as_bytes()).unwrap().unwrap();
            assert_eq!(read, text.len());
            request.credentials
        };
        let form = "Content-Type: application/x-www-form-urlencoded\r\n";
        let header = basic("a:b");
        for (content_type, body, credentials) in [
            (form, "access_token=abc", bearer("abc")),
            (form, "x=1&access_token=%20a%2Bb%3D+&y", bearer("a+b=")),
            (form, "access_token=", bearer("")),
            (
                "Content-Type: Application/X-WWW-Form-Urlencoded ;charset=utf-8\r\n",
                "access_token=abc",
                bearer("abc"),
            ),
            (form, "access_token=a&access_token=a", Credentials::Unknown),
            (form, "", header.clone()),
            (form, "token=abc", header.clone()),
            (form, "access_token", header.clone()),
            (
                "Content-Type: text/plain\r\n",
                "access_token=abc",
                header.clone(),
            ),
            ("", "access_token=abc", header.clone()),
        ] {
            assert_eq!(
                post(content_type, body),
                credentials,
                "{content_type}{body}"
            );
        }
        let get = "GET /get/?access_token=abc HTTP/1.1\r\nContent-Type: \
                   application/x-www-form-urlencoded\r\nContent-Length: 16\r\n\r\naccess_token=abc";
        let (request, _) = Request::read(get.as_bytes()).unwrap().unwrap();
        assert_eq!(request.credentials, Credentials::None);
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

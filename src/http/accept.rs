//! The header `Accept` (RFC 9110, 12.5.1): whether a client is a browser, which shows HTML.

use super::lines::is_token;

/// The weight of a media range without one, in thousandths.
const FULL_WEIGHT: u16 = 1000;

/// Whether the values of the header name `text/html`, and JSON is worth less. A client that takes
/// anything, or that has no such header, gets JSON. So does one whose header is malformed: no
/// browser sends that, but older Java programs do, and they have always read JSON here.
pub(super) fn prefers_html<'a>(values: impl Iterator<Item = &'a [u8]>) -> bool {
    let ranges = values.flat_map(|value| value.split(|&byte| byte == b','));
    let ranges = ranges.map(<[u8]>::trim_ascii).filter(|it| !it.is_empty());
    let Some(ranges) = ranges.map(read_range).collect::<Option<Vec<_>>>() else {
        return false;
    };
    let weight = |name: &[u8]| {
        let named = ranges
            .iter()
            .filter(|(range, _)| range.eq_ignore_ascii_case(name));
        named.map(|(_, weight)| *weight).max()
    };
    let html = weight(b"text/html").unwrap_or(0);
    if let Some(json) = weight(b"application/json") {
        return html > json;
    }
    let any = weight(b"application/*").or_else(|| weight(b"*/*"));
    html > 0 && html >= any.unwrap_or(0)
}

/// A media range and its weight. Parameters other than `q` are skipped.
fn read_range(text: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = text.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    let range = parts.next()?;
    let slash = range.iter().position(|&byte| byte == b'/')?;
    if !is_token(&range[..slash]) || !is_token(&range[slash + 1..]) {
        return None;
    }
    let weight = parts.find_map(|part| match part {
        [b'q' | b'Q', b'=', weight @ ..] => Some(weight),
        _ => None,
    });
    Some((range, weight.map_or(Some(FULL_WEIGHT), read_weight)?))
}

/// 0 to 1, with at most three digits after the point, in thousandths.
fn read_weight(text: &[u8]) -> Option<u16> {
    let (&first, rest) = text.split_first()?;
    let digits = match rest {
        [] => rest,
        [b'.', digits @ ..] => digits,
        _ => return None,
    };
    if digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) || !first.is_ascii_digit() {
        return None;
    }
    let padded = [first].into_iter().chain(digits.iter().copied());
    let padded = padded.chain([b'0'; 3]).take(4);
    let weight = padded.fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    (weight <= FULL_WEIGHT).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIREFOX: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    const CHROMIUM: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,\
                            image/webp,image/apng,*/*;q=0.8,\
                            application/signed-exchange;v=b3;q=0.7";
    const LYNX: &str = "text/html, text/plain, text/sgml, text/css, */*;q=0.01";
    const OLD_JAVA: &str = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2";

    #[test]
    fn browser_gets_html_and_everything_else_json() {
        for (accept, html) in [
            (FIREFOX, true),
            (CHROMIUM, true),
            (LYNX, true),
            ("text/html, application/xhtml+xml, */*", true),
            ("text/html", true),
            ("TEXT/Html", true),
            ("text/html;charset=utf-8", true),
            ("text/html ; Q=0.5", true),
            ("text/html;q=0.001", true),
            (",text/html,", true),
            ("text/html;q=0.9, application/json;q=0.8", true),
            ("text/html;q=1.000, */*", true),
            ("text/html;q=0.5, */*;q=0.9, application/*;q=0.1", true),
            ("text/html;q=0.2, text/html;q=0.9, */*;q=0.8", true),
            ("", false),
            ("*/*", false),
            ("text/*", false),
            ("application/json", false),
            ("text/plain", false),
            ("text/html;q=0", false),
            ("text/html;q=0.000", false),
            ("application/json, text/html;q=0.9", false),
            ("application/json, text/html, */*", false),
            ("text/html;q=0.5, */*", false),
            ("text/html;q=0.5, application/*", false),
            ("text/html;q=0.5, application/*;q=0.6, */*;q=0", false),
            (OLD_JAVA, false),
            ("text/html;q=2", false),
            ("text/html;q=1.001", false),
            ("text/html;q=0.1234", false),
            ("text/html;q=", false),
            ("text/html;q=-1", false),
            ("text/html;q=x", false),
            ("text/html;q=0x", false),
            ("text", false),
            ("text/", false),
            ("/html", false),
            ("text/ html", false),
            ("text/html, text html", false),
            ("text/html/x", false),
            ("text/htmlx", false),
        ] {
            let found = prefers_html([accept.as_bytes()].into_iter());
            assert_eq!(found, html, "{accept:?}");
        }
        assert!(!prefers_html([].into_iter()));
        assert!(!prefers_html([&b"\xff/\xfe"[..]].into_iter()));
        let two = [&b"text/html;q=0.5"[..], b"application/json"];
        assert!(!prefers_html(two.into_iter()), "two headers are one list");
        assert!(prefers_html([&b"*/*;q=0.1"[..], b"text/html"].into_iter()));
    }
}

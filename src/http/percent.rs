//! Percent-encoding (RFC 3986), and the pairs of a query as forms and curl write them.

/// Appends `text` with all bytes encoded that have a meaning in a path, a query or a host, except
/// the bytes of `kept`.
pub(super) fn encode(text: &str, kept: &[u8], out: &mut Vec<u8>) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}

/// Appends the query of an address: `?`, and the pairs with `&` between them. Without any pair
/// nothing.
pub fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>, out: &mut Vec<u8>) {
    for (index, (name, value)) in pairs.into_iter().enumerate() {
        out.push(if index == 0 { b'?' } else { b'&' });
        encode(name, b"", out);
        out.push(b'=');
        encode(value, b"", out);
    }
}

/// Decodes text. A `%` without two hexadecimal digits after it is kept, as in Python's `unquote`.
pub(super) fn decode(mut text: &[u8]) -> Vec<u8> {
    let mut meant = Vec::with_capacity(text.len());
    while let Some((&first, rest)) = text.split_first() {
        let encoded = rest
            .first_chunk::<2>()
            .filter(|_| first == b'%')
            .and_then(|digits| hexadecimal(*digits));
        meant.push(encoded.unwrap_or(first));
        text = if encoded.is_some() { &rest[2..] } else { rest };
    }
    meant
}

fn hexadecimal(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

/// The pairs of a query, decoded, in their order. The rules are those of Twisted: `;` separates
/// like `&`, `+` is a space, and a name without `=` is skipped.
pub(super) fn pairs(query: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    query
        .split(|&byte| byte == b'&' || byte == b';')
        .filter_map(|pair| {
            let equals = pair.iter().position(|&byte| byte == b'=')?;
            Some((form(&pair[..equals]), form(&pair[equals + 1..])))
        })
}

fn form(word: &[u8]) -> Vec<u8> {
    decode(
        &word
            .iter()
            .map(|&byte| if byte == b'+' { b' ' } else { byte })
            .collect::<Vec<_>>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_text_has_no_reserved_byte_and_decodes_to_itself() {
        for (text, encoded) in [
            ("web-1.example_~", "web-1.example_~"),
            ("a b+c", "a%20b%2Bc"),
            ("&=;?#%/", "%26%3D%3B%3F%23%25%2F"),
            ("\r\n\0", "%0D%0A%00"),
            ("замок", "%D0%B7%D0%B0%D0%BC%D0%BE%D0%BA"),
        ] {
            let mut out = Vec::new();
            encode(text, b"", &mut out);
            assert_eq!(out, encoded.as_bytes(), "{text:?}");
            assert_eq!(decode(&out), text.as_bytes());
        }
    }

    #[test]
    fn query_has_a_question_mark_and_then_its_pairs() {
        for (pairs, text) in [
            (&[][..], "/"),
            (&[("a", "")], "/?a="),
            (&[("a", "&="), ("b c", "?")], "/?a=%26%3D&b%20c=%3F"),
        ] {
            let mut out = b"/".to_vec();
            query(pairs.iter().copied(), &mut out);
            assert_eq!(out, text.as_bytes(), "{pairs:?}");
        }
    }

    #[test]
    fn unencoded_text_decodes_to_itself() {
        for (text, meant) in [
            ("%", "%"),
            ("%4", "%4"),
            ("%zz", "%zz"),
            ("%%41", "%A"),
            ("%4%41", "%4A"),
            ("%+1", "%+1"),
            ("%C3%A4", "ä"),
        ] {
            assert_eq!(decode(text.as_bytes()), meant.as_bytes(), "{text:?}");
        }
        assert_eq!(decode(b"%ff\xfe"), b"\xff\xfe");
    }

    #[test]
    fn query_is_parsed_as_twisted_does() {
        let query = b"pool=a+b&host=%2B;pool=c&none&=empty&last=&x=1=2&&po%6fl=d";
        let expected = [
            ("pool", "a b"),
            ("host", "+"),
            ("pool", "c"),
            ("", "empty"),
            ("last", ""),
            ("x", "1=2"),
            ("pool", "d"),
        ];
        let expected: Vec<_> = expected
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .into();
        assert_eq!(pairs(query).collect::<Vec<_>>(), expected);
        assert_eq!(pairs(b"").count(), 0);
    }
}

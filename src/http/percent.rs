//! Percent-encoding (RFC 3986), and the pairs of a query as forms and curl write them.

/// Appends `text` so that it stands for nothing but itself in a path, a query or a host; the bytes of `kept` stay too.
pub(super) fn encode(text: &str, kept: &[u8], out: &mut Vec<u8>) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}

/// What was meant. A `%` without two hexadecimal digits after it stands for itself, as in Python's `unquote`.
pub(super) fn decode(mut text: &[u8]) -> Vec<u8> {
    let mut meant = Vec::with_capacity(text.len());
    while let Some((&first, rest)) = text.split_first() {
        let encoded = rest.first_chunk::<2>().filter(|_| first == b'%').and_then(|digits| hexadecimal(*digits));
        meant.push(encoded.unwrap_or(first));
        text = if encoded.is_some() { &rest[2..] } else { rest };
    }
    meant
}

fn hexadecimal(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

/// The pairs of a query, decoded, in their order. As Twisted has it: `;` separates like `&`, `+` is a space, and a name without `=` is nothing.
pub(super) fn pairs(query: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    query.split(|&byte| byte == b'&' || byte == b';').filter_map(|pair| {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        Some((form(&pair[..equals]), form(&pair[equals + 1..])))
    })
}

fn form(word: &[u8]) -> Vec<u8> {
    decode(&word.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect::<Vec<_>>())
}

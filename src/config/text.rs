//! Preparation of a config's text: removes the comments that the documented sample has, and finds
//! the lines of keys.

/// The text as strict JSON. Line breaks stay, so that line numbers are right.
pub(super) fn as_json(text: &str) -> String {
    with_words_quoted(&without_comments(text))
}

/// Numbers that Python's parser accepts, and JSON does not have.
const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// Turns these words into strings, which keeps their effect: as a load they do not limit, elsewhere
/// they are refused.
fn with_words_quoted(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let end = match first {
            '"' => end_of_string(text, at) - at,
            _ if first.is_ascii_alphanumeric() || first == '-' => rest
                .find(|c: char| !c.is_ascii_alphanumeric() && !"-+.".contains(c))
                .unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let token = &rest[..end];
        if WORDS.contains(&token) {
            kept.extend(["\"", token, "\""]);
        } else {
            kept.push_str(token);
        }
        at += end;
    }
    kept
}

/// Removes `//` comments.
fn without_comments(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut quoted = false;
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '/' if !quoted && rest.peek() == Some(&'/') => {
                while rest.next_if(|&c| c != '\n').is_some() {}
                continue;
            }
            '"' => quoted = !quoted,
            '\\' if quoted => {
                kept.push(character);
                kept.extend(rest.next());
                continue;
            }
            _ => {}
        }
        kept.push(character);
    }
    kept
}

/// The line, counted from 1, of the key at `path` in `json`, which is valid. For a duplicate key it
/// is the last line, whose value counts. 1 if there is no such key.
pub(super) fn line_of(json: &str, path: &[&str]) -> usize {
    let mut found = 1;
    let mut open: Vec<String> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = json.as_bytes().get(at) {
        match byte {
            b'{' | b'[' => open.push(String::new()),
            b'}' | b']' => drop(open.pop()),
            b'"' => {
                let end = end_of_string(json, at);
                if json[end..].trim_start().starts_with(':')
                    && let Some(key) = open.last_mut()
                {
                    *key = serde_json::from_str(&json[at..end]).unwrap_or_default();
                    if open == path {
                        found = 1 + json[..at].matches('\n').count();
                    }
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// The end of the string that starts at `start`, after its closing quote.
pub(super) fn end_of_string(json: &str, start: usize) -> usize {
    let mut escaped = false;
    for (at, byte) in json.bytes().enumerate().skip(start + 1) {
        match byte {
            b'"' if !escaped => return at + 1,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_removed_and_line_breaks_stay() {
        for (text, kept) in [
            ("1 // one\n2", "1 \n2"),
            ("//\n//\r\n3 //", "\n\n3 "),
            ("\"http://a\" // b \"c\"", "\"http://a\" "),
            (r#""\"//" // x"#, r#""\"//" "#),
            (r#""\\" // x"#, r#""\\" "#),
            ("1 / 2", "1 / 2"),
            ("/", "/"),
            ("\"a", "\"a"),
            ("\"a\\", "\"a\\"),
        ] {
            assert_eq!(without_comments(text), kept, "{text:?}");
        }
    }

    #[test]
    fn number_words_of_python_become_strings() {
        for (text, json) in [
            ("{\"a\": NaN}", "{\"a\": \"NaN\"}"),
            (
                "[NaN,Infinity, -Infinity]",
                "[\"NaN\",\"Infinity\", \"-Infinity\"]",
            ),
            ("\"NaN\" \"\\\" NaN\" é", "\"NaN\" \"\\\" NaN\" é"),
            ("NaNs xNaN nan - -1.5e+3", "NaNs xNaN nan - -1.5e+3"),
            ("\"NaN", "\"NaN"),
        ] {
            assert_eq!(with_words_quoted(text), json, "{text}");
        }
    }

    #[test]
    fn line_of_a_key_is_found() {
        let json = "{\n \"a\": \"b\",\n \"c\": {\n  \"a\": [\"a\",\n   {\"a\": 1}],\n  \"\\u0064\": 2 },\n \"b\"\n : 0,\n \"e\\\"\": 1, \"twice\": 1,\n \"twice\": 2}";
        for (path, line) in [
            (&["a"][..], 2),
            (&["c"], 3),
            (&["c", "a"], 4),
            (&["c", "d"], 6),
            (&["b"], 7),
            (&["e\""], 9),
            (&["twice"], 10),
            (&["nowhere"], 1),
        ] {
            assert_eq!(line_of(json, path), line, "{path:?}");
        }
    }
}

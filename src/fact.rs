//! Facts in log lines: `key=value`, as programs that read logs expect them.

use std::fmt::Display;

/// ` key=value`; a value that is empty, or has blanks, quotes, equals signs or backslashes, is in
/// double quotes.
pub fn fact(key: &str, value: impl Display) -> String {
    let value = value.to_string();
    if value.is_empty() || value.contains([' ', '"', '=', '\\']) {
        format!(" {key}={value:?}")
    } else {
        format!(" {key}={value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_quoted_where_its_end_would_be_unclear() {
        assert_eq!(fact("lock", "/app/x"), " lock=/app/x");
        assert_eq!(fact("token", 7), " token=7");
        assert_eq!(
            fact("reason", "it said \"no\""),
            r#" reason="it said \"no\"""#
        );
        assert_eq!(fact("reason", ""), r#" reason="""#);
    }
}

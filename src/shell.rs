//! Shell syntax: detects commands that were written for a shell, and quotes words for lines that
//! can be pasted into one.

pub mod words;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use words::{Quoting, Word};

/// Words that are shell operators.
const OPERATORS: [&str; 16] = [
    "&&", "||", ";", "|", "&", "|&", ">", ">>", "<", "<<", "2>", "2>>", "&>", "2>&1", "1>&2", ">&2",
];

/// Prefixes of redirections; `>=1.2` and `<name>` are no redirections.
const REDIRECTIONS: [&str; 6] = [">>", "&>", "2>", "1>", ">", "<"];

/// Commands that take operators as arguments: they compare, or pass their words to a shell.
const TAKE_OPERATORS: [&str; 6] = ["ssh", "watch", "parallel", "expr", "test", "["];

/// Options whose arguments may end with `;`, as in `find -exec ls {} ;`.
const TAKE_SEMICOLON: [&str; 4] = ["-exec", "-execdir", "-ok", "-okdir"];

/// First words that only a shell understands: common builtins and keywords.
const SHELL_WORDS: [&str; 24] = [
    ".", "!", "[[", "alias", "case", "cd", "eval", "exec", "exit", "export", "for", "function",
    "if", "let", "local", "read", "set", "shopt", "source", "trap", "ulimit", "umask", "unset",
    "while",
];

/// The first word that shows that a command was written for a shell, if there is one. Words that a
/// shell would pass on unchanged do not count.
pub fn meant_for_shell(words: &[Word]) -> Option<&OsStr> {
    let program = Path::new(&words.first()?.text).file_name()?.to_str();
    let takes_operators = program.is_some_and(|program| TAKE_OPERATORS.contains(&program));
    let takes_semicolon = words
        .iter()
        .any(|word| TAKE_SEMICOLON.iter().any(|option| word.text == *option));
    let last = words.len() - 1;
    let mut arguments = words
        .iter()
        .enumerate()
        .skip(1)
        .filter_map(|(at, word)| Some((at == last, word.text.to_str()?, word)));
    let found = arguments.find(|(is_last, text, word)| match word.quoting {
        Quoting::Full => false,
        Quoting::Double => is_expansion(text),
        Quoting::Bare if is_expansion(text) || text.starts_with("~/") => true,
        Quoting::Bare if takes_operators || (takes_semicolon && text.ends_with(';')) => false,
        Quoting::Bare => {
            OPERATORS.contains(text) || is_redirection(text) || (text.ends_with(';') && !is_last)
        }
    });
    found.map(|(_, _, word)| word.text.as_os_str())
}

/// Whether the text is `$NAME`, `${NAME}`, `$(command)` or a backtick.
fn is_expansion(text: &str) -> bool {
    let follows = text.strip_prefix('$').and_then(|rest| rest.chars().next());
    text.starts_with('`') || follows.is_some_and(|c| c.is_ascii_alphabetic() || "_{(".contains(c))
}

/// Whether the text is like `>file` or `2>/dev/null`.
fn is_redirection(text: &str) -> bool {
    let target = REDIRECTIONS
        .iter()
        .find_map(|operator| text.strip_prefix(operator))
        .and_then(|rest| rest.chars().next());
    !text.ends_with('>')
        && target.is_some_and(|c| c.is_ascii_alphanumeric() || "/.~$&_".contains(c))
}

/// Whether a program that does not exist is shell syntax: a builtin, `A=b`, `$A`, `(`, or a name
/// with an operator in it.
pub fn is_shell_syntax(program: &OsStr) -> bool {
    let Some(word) = program.to_str() else {
        return false;
    };
    let assigns = word
        .split_once('=')
        .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    SHELL_WORDS.contains(&word)
        || assigns
        || word.starts_with(['$', '`', '{', '('])
        || word.contains([';', '&', '|', '<', '>'])
}

/// Quotes a word so that a shell reads it unchanged.
pub fn quote(word: &OsStr) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(byte);
    let text = word.to_string_lossy();
    if !word.is_empty() && word.as_bytes().iter().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A command line of quoted words.
pub fn line(words: &[OsString]) -> String {
    words
        .iter()
        .map(|word| quote(word))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(line: &str) -> Option<String> {
        let words = words::read(line.as_ref()).unwrap();
        meant_for_shell(&words).map(|word| word.to_str().unwrap().to_owned())
    }

    #[test]
    fn shell_syntax_in_a_command_is_found() {
        for (line, word) in [
            ("echo hi && echo ho", "&&"),
            ("a || b", "||"),
            ("a ; b", ";"),
            ("cd /tmp; ls", "/tmp;"),
            ("a | b", "|"),
            ("a &", "&"),
            ("a > b", ">"),
            ("a >> b", ">>"),
            ("a < b", "<"),
            ("a >b", ">b"),
            ("a >/dev/null 2>&1", ">/dev/null"),
            ("a 2>&1", "2>&1"),
            ("a 2>/dev/null", "2>/dev/null"),
            ("a &>log", "&>log"),
            ("echo $HOME", "$HOME"),
            ("echo $HOME/x", "$HOME/x"),
            ("echo \"$HOME\"/x", "$HOME/x"),
            ("echo ${HOME}", "${HOME}"),
            ("echo $(date)", "$(date)"),
            ("echo `date`", "`date`"),
            ("ls ~/x", "~/x"),
            ("ssh host ls $HOME", "$HOME"),
            ("/usr/bin/find . -exec ls {} ; -a > b", ">"),
        ] {
            assert_eq!(found(line).as_deref(), Some(word), "{line}");
        }
    }

    #[test]
    fn ordinary_arguments_are_not_shell_syntax() {
        for line in [
            "",
            "a",
            "echo 'a && b' \"c | d\" \\> '$HOME' \"\\$HOME\" '~/x'",
            "sh -c 'a && b > c'",
            "awk '{print $1}'",
            "awk {print $1}",
            "grep foo$ a$b 'x;' $",
            "pip install a>=1.2 >=1.2 a&b a|b",
            "git commit --author=a <a@b.c>",
            "curl http://h/?a=1&b=2",
            "find . -name *.log -exec rm {} ;",
            "psql -c VACUUM;",
            "ssh host a && b",
            "/usr/bin/expr 5 > 3",
            "[ 1 < 2 ]",
            "watch df | head",
            "rm ~ a~ ~user",
        ] {
            assert_eq!(found(line), None, "{line}");
        }
    }

    #[test]
    fn program_that_is_shell_syntax_is_known() {
        for word in [
            "cd", "LANG=C", "A_1=", "$HOME/x", "(cd", "{", "a;", "`a`", "if", "[[",
        ] {
            assert!(is_shell_syntax(word.as_ref()), "{word}");
        }
        for word in ["ls", "/opt/a=b", "no-such", "a-b", "test", "["] {
            assert!(!is_shell_syntax(word.as_ref()), "{word}");
        }
    }

    #[test]
    fn words_are_quoted_only_if_necessary() {
        for (word, quoted) in [
            ("a", "a"),
            ("--a=b,c:1/@%+", "--a=b,c:1/@%+"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$A", "'$A'"),
            ("*", "'*'"),
        ] {
            assert_eq!(quote(word.as_ref()), quoted);
        }
    }

    proptest! {
        #[test]
        fn quoted_line_is_split_back(words in prop::collection::vec(any::<String>(), 0..5)) {
            let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
            prop_assert_eq!(words::split(line(&words).as_ref()), Ok(words));
        }
    }
}

//! The command line as the operator typed it: the positions of its words and options, and the
//! corrected line, which passes the command's own options to the command. Options may stand
//! anywhere, so options after a one-word command are the program's, although they were usually
//! meant for the command.

use crate::shell;
use std::ffi::{OsStr, OsString};

/// The form in which a program takes its command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// The name of the program.
    pub program: &'static str,
    /// The number of words before the command.
    pub before: usize,
    /// Whether the command is one word for `sh -c`; otherwise `--` may stand before it.
    pub one_word: bool,
}

/// The command line.
#[derive(Default, Debug)]
pub(super) struct Line {
    args: Vec<OsString>,
    /// Positions of the words that are neither options nor values of options.
    words: Vec<usize>,
    /// Positions of the options.
    options: Vec<usize>,
    /// Position of the first fault.
    fault: Option<usize>,
}

impl Line {
    pub(super) fn new(args: impl IntoIterator<Item = OsString>) -> Line {
        Line {
            args: args.into_iter().collect(),
            ..Line::default()
        }
    }

    pub(super) fn args(&self) -> &[OsString] {
        &self.args
    }

    pub(super) fn add_word(&mut self, at: usize) {
        self.words.push(at);
    }

    pub(super) fn add_option(&mut self, at: usize) {
        self.options.push(at);
    }

    pub(super) fn add_fault(&mut self, at: usize) {
        self.fault.get_or_insert(at);
    }

    /// The corrected line for the message about the first fault, if the fault is after the command.
    pub(super) fn advice_on_fault(&self, form: Form) -> Option<String> {
        let command = self.command_of_one_word(form)?;
        self.fault
            .filter(|&at| at > command)
            .and_then(|_| self.corrected(form))
    }

    /// A hint about the first option after a one-word command.
    pub(super) fn advice_on_options(&self, form: Form) -> Option<String> {
        let command = self.command_of_one_word(form)?;
        let option = self.options.iter().find(|&&at| at > command)?;
        let [option, command] = [*option, command].map(|at| self.args[at].to_string_lossy());
        let line = self.corrected(form)?;
        Some(format!(
            "{option} stands after the command, but is an option of {}; to pass it to {command}, use: {line}",
            form.program
        ))
    }

    /// The line that passes everything after the command's first word to the command.
    pub(super) fn corrected(&self, form: Form) -> Option<String> {
        let (before, command) = self.args.split_at(self.command_of_one_word(form)?);
        let mut command = command.to_vec();
        command
            .iter()
            .position(|word| word == "--")
            .map(|dashes| command.remove(dashes));
        let command = if form.one_word {
            vec![command.join(OsStr::new(" "))]
        } else {
            [vec!["--".into()], command].concat()
        };
        Some(shell::line(
            &[&[form.program.into()], before, &command].concat(),
        ))
    }

    /// The position of the command, unless its first word is a quoted command of several words.
    fn command_of_one_word(&self, form: Form) -> Option<usize> {
        let at = *self.words.get(form.before)?;
        let word = self.args[at].to_string_lossy();
        (!word.is_empty() && !word.contains(char::is_whitespace)).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Environment, Error, Request, distributex, lockex, zk_flock};
    use super::*;
    use crate::plan::Warning;

    /// The request of a line whose first word is the program.
    fn ask(line: &str) -> Result<Request, Error> {
        let mut words = line.split('|').map(OsString::from);
        let (program, given): (_, &[&str]) = match words.next().unwrap().to_str().unwrap() {
            "zk-flock" => (zk_flock::PROGRAM, &["--hosts=h", "--app-id=a"]),
            "lockex" => (lockex::PROGRAM, &[]),
            _ => (distributex::PROGRAM, &["-H", "dx", "-rp"]),
        };
        let environment = Environment {
            current_dir: "/".into(),
            ..Environment::default()
        };
        let words = given.iter().map(OsString::from).chain(words).collect();
        (program.request)(words, &environment)
    }

    #[test]
    fn fault_after_the_command_gets_a_corrected_line() {
        for (line, sentence) in [
            (
                "zk-flock|report|ls|-la",
                "--minlocktime: expected seconds from 0 to 1e9, a time like 1h30m, or inf, found \"a\"; \
                 to pass options to the command, use: zk-flock --hosts=h --app-id=a report -- ls -la",
            ),
            (
                "zk-flock|-w|5|report|grep|--color|a b|-w",
                "invalid option '--color'; to pass options to the command, use: \
                 zk-flock --hosts=h --app-id=a -w 5 report -- grep --color 'a b' -w",
            ),
            (
                "zk-flock|report|tail|-n|5|/etc/hostname",
                "expected LOCKNAME and one quoted COMMAND, or LOCKNAME -- PROGRAM ARG..., found 3 words; \
                 use: zk-flock --hosts=h --app-id=a report -- tail -n 5 /etc/hostname",
            ),
            (
                "zk-flock|report|ls|-x",
                "missing argument for option '-x'; to pass options to the command, use: \
                 zk-flock --hosts=h --app-id=a report -- ls -x",
            ),
            (
                "zk-flock|report|a|--|-b",
                "expected LOCKNAME and one quoted COMMAND, or LOCKNAME -- PROGRAM ARG..., found 3 words; \
                 use: zk-flock --hosts=h --app-id=a report -- a -b",
            ),
            (
                "lockex|ls|-l",
                "invalid option '-l'; to pass options to the command, use: lockex -- ls -l",
            ),
            (
                "lockex|-t1|sleep|-t|x",
                "--locktimeout: expected seconds up to 1e9, a time like 1h30m, or inf, found \"x\"; \
                 to pass options to the command, use: lockex -t1 -- sleep -t x",
            ),
            (
                "distributex|ls|-la",
                "invalid option '-a'; to pass options to the command, use: distributex -H dx -rp 'ls -la'",
            ),
            (
                "distributex|ls|a b",
                "expected one quoted COMMAND, found 2 words; use: distributex -H dx -rp 'ls a b'",
            ),
        ] {
            assert_eq!(ask(line).unwrap_err().to_string(), sentence, "{line}");
        }
    }

    #[test]
    fn fault_elsewhere_gets_no_corrected_line() {
        for (line, sentence) in [
            ("zk-flock|--bogus|report|ls", "invalid option '--bogus'"),
            ("zk-flock|report|--bogus|ls", "invalid option '--bogus'"),
            ("zk-flock|report|ls -l|--bogus", "invalid option '--bogus'"),
            (
                "zk-flock|report|ls|--wiat=5",
                "invalid option '--wiat' (did you mean --wait?)",
            ),
            (
                "zk-flock|--config|f|report|ls",
                "invalid option '--config' (did you mean --confpath?)",
            ),
            (
                "lockex|--hosts|h|true",
                "invalid option '--hosts' (did you mean --zkhosts?)",
            ),
            (
                "distributex|--exit-code=1|true",
                "invalid option '--exit-code' (did you mean --exitcode?)",
            ),
            (
                "zk-flock|report|ls -l|a",
                "expected LOCKNAME and one quoted COMMAND, or LOCKNAME -- PROGRAM ARG..., found 3 words",
            ),
        ] {
            assert_eq!(ask(line).unwrap_err().to_string(), sentence, "{line}");
        }
    }

    #[test]
    fn option_after_a_one_word_command_gets_a_hint() {
        let hint = |option: &str, program: &str, line: &str| {
            Some(format!(
                "{option} stands after the command, but is an option of {program}; to pass it to ls, use: {line}"
            ))
        };
        for (line, expected) in [
            (
                "zk-flock|report|ls|-d",
                hint(
                    "-d",
                    "zk-flock",
                    "zk-flock --hosts=h --app-id=a report -- ls -d",
                ),
            ),
            (
                "zk-flock|-d|report|ls|-dv",
                hint(
                    "-dv",
                    "zk-flock",
                    "zk-flock --hosts=h --app-id=a -d report -- ls -dv",
                ),
            ),
            ("lockex|ls|-v|a", hint("-v", "lockex", "lockex -- ls -v a")),
            (
                "distributex|ls|-v",
                hint("-v", "distributex", "distributex -H dx -rp 'ls -v'"),
            ),
            ("zk-flock|report|-d|ls", None),
            ("zk-flock|report|ls -l|-d", None),
            ("zk-flock|report|--|ls|-d", None),
            ("zk-flock|report|ls", None),
            ("lockex|-v|--|ls|-v", None),
        ] {
            let Ok(Request::Run(plan)) = ask(line) else {
                panic!("{line}")
            };
            let hints = plan.log.warnings.into_iter().filter_map(|warning| {
                if let Warning::Hint(text) = warning {
                    Some(text)
                } else {
                    None
                }
            });
            assert_eq!(
                hints.collect::<Vec<_>>(),
                Vec::from_iter(expected),
                "{line}"
            );
        }
    }
}

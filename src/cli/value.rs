//! Values of options that several programs have: numbers, durations, signals, hosts. Each kind
//! names what it expects, for the message that refuses other values.

use super::Fault;
use crate::plan::Warning;
use crate::plan::duration::{number, session_timeout, time};
use crate::plan::hosts::{self, Ensemble};
use crate::signal::Signal;
use lexopt::Parser;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

/// A kind of value: its parser, and what the message about an invalid value says.
pub struct ValueKind<T> {
    /// Printed after "expected".
    expected: &'static str,
    read: fn(&str) -> Option<T>,
}

impl<T> ValueKind<T> {
    /// Takes the value of `option`, which is the next argument.
    pub(super) fn take(&self, option: &'static str, parser: &mut Parser) -> Result<T, Fault> {
        self.read(option, &parser.value()?)
    }

    /// Parses `found` as the value of `option`.
    pub(super) fn read(&self, option: &'static str, found: &OsStr) -> Result<T, Fault> {
        found
            .to_str()
            .and_then(self.read)
            .ok_or_else(|| invalid(option, self.expected, found))
    }

    /// Takes a whole number as [`optparse_int`] parses it. If a leading zero makes it another
    /// number than it seems, `warnings` gets a line.
    pub(super) fn take_int(
        &self,
        option: &'static str,
        parser: &mut Parser,
        warnings: &mut Vec<Warning>,
    ) -> Result<T, Fault> {
        let found = parser.value()?;
        let looks = found
            .to_str()
            .filter(|text| text.starts_with('0'))
            .and_then(|text| text.parse::<i64>().ok());
        match (looks, found.to_str().and_then(optparse_int)) {
            (Some(decimal), None) => return Err(Fault::Octal { option, found: found.to_string_lossy().into_owned(), decimal }),
            (Some(decimal), Some(octal)) if decimal != octal => warnings.push(Warning::Shown(format!(
                "{option}: \"{}\" is octal because of its leading zero: taken for {octal} (write {octal}, or {decimal} if you meant that)",
                found.display()
            ))),
            _ => {}
        }
        self.read(option, &found)
    }
}

/// The fault of an option with an invalid value.
pub(super) fn invalid(option: &'static str, expected: &'static str, found: &OsStr) -> Fault {
    Fault::Value {
        option,
        expected,
        found: found.to_string_lossy().into_owned(),
    }
}

/// A value that must be UTF-8.
pub(super) fn text(option: &'static str, value: OsString) -> Result<String, Fault> {
    value
        .into_string()
        .map_err(|found| invalid(option, "UTF-8", &found))
}

/// A value that must be a connection string.
pub(super) fn ensemble(option: &'static str, value: OsString) -> Result<Ensemble, Fault> {
    hosts::parse(&text(option, value)?).map_err(|flaw| Fault::Hosts { option, flaw })
}

/// The most names that `-n` makes. Each of them is a request in every try.
const MAX_NAMES: u32 = 10_000;

/// A duration; `inf` is `Duration::MAX`.
pub const SECONDS: ValueKind<Duration> = ValueKind {
    expected: "seconds from 0 to 1e9, a time like 1h30m, or inf",
    read: |text| seconds(time(text)?),
};

/// A time to wait; below zero is the same as zero: one try.
pub const WAIT: ValueKind<Duration> = ValueKind {
    expected: "seconds up to 1e9, a time like 1h30m, or inf",
    read: |text| seconds(time(text)?.max(0.0)),
};

/// A session timeout.
pub const TIMEOUT: ValueKind<Duration> = ValueKind {
    expected: "seconds from 0.001 to 2147483, or a time like 30s",
    read: |text| session_timeout(time(text)?),
};

/// A load average; below zero means no limit.
pub const LOAD: ValueKind<f64> = ValueKind {
    expected: "a load average up to 1e9",
    read: number,
};

/// An exit code.
pub const EXIT_CODE: ValueKind<u8> = ValueKind {
    expected: "an exit code, 0 to 255",
    read: |text| optparse_int(text)?.try_into().ok(),
};

/// A port to listen on.
pub const PORT: ValueKind<u16> = ValueKind {
    expected: "a port, 0 to 65535",
    read: |text| text.trim().parse().ok(),
};

/// A port to connect to.
pub const SERVER_PORT: ValueKind<u16> = ValueKind {
    expected: "a port, 1 to 65535",
    read: |text| text.trim().parse().ok().filter(|&port| port != 0),
};

/// How many names `-n` makes.
pub const NAMES: ValueKind<u32> = ValueKind {
    expected: "a number of names, 0 to 10000",
    read: |text| {
        optparse_int(text)?
            .try_into()
            .ok()
            .filter(|&count| count <= MAX_NAMES)
    },
};

/// How many clients may hold a lock at once; below one means one.
pub const CONCURRENCY: ValueKind<u32> = ValueKind {
    expected: "a whole number up to 4294967295",
    read: |text| text.trim().parse::<i64>().ok()?.max(1).try_into().ok(),
};

/// How many times to try; below zero means without limit.
pub const TRIES: ValueKind<Option<u32>> = ValueKind {
    expected: "a whole number up to 4294967295, or -1 for no limit",
    read: |text| {
        text.trim()
            .parse::<i64>()
            .ok()
            .filter(|&tries| tries <= u32::MAX.into())
            .map(|tries| tries.try_into().ok())
    },
};

/// A signal, or 0 for none.
pub const SIGNAL: ValueKind<Option<Signal>> = ValueKind {
    expected: "a signal by number or name, or 0 for none",
    read: |text| match optparse_int(text) {
        Some(0) => Some(None),
        Some(number) => Signal::parse(&number.to_string()).map(Some),
        None if text.starts_with(|first: char| first.is_ascii_digit()) => None,
        None => Signal::parse(text.trim()).map(Some),
    },
};

/// A whole number as Python's optparse parses it, as the original did: 0x and 0b mean what they
/// mean in C, any other leading zero means octal, and blanks around the number are ignored (but a
/// blank before a leading zero hides the zero).
fn optparse_int(text: &str) -> Option<i64> {
    let prefix = text.get(..2).map(str::to_ascii_lowercase);
    let (digits, radix) = match prefix.as_deref() {
        Some("0x") => (&text[2..], 16),
        Some("0b") => (if text.len() == 2 { "0" } else { &text[2..] }, 2),
        Some("0o") => (&text[2..], 8),
        _ if text.starts_with('0') => (text, 8),
        _ => (text.trim_start(), 10),
    };
    let digits = digits.trim_end();
    let signed = digits.starts_with(['+', '-']);
    if signed && radix != 10 {
        None
    } else {
        i64::from_str_radix(digits, radix).ok()
    }
}

fn seconds(number: f64) -> Option<Duration> {
    if number == f64::INFINITY {
        Some(Duration::MAX)
    } else {
        Duration::try_from_secs_f64(number).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(kind: &ValueKind<T>, text: &str) -> Option<T> {
        kind.take("--option", &mut Parser::from_args([text])).ok()
    }

    const JUNK: [&str; 11] = [
        "", " ", "nan", "NaN", "1e300", "-1e300", "1e999", "-1e999", "1,5", "5S", "soon",
    ];

    #[test]
    fn seconds_may_be_fractions_and_infinite() {
        for (text, seconds) in [
            ("0", 0.0),
            ("-0", 0.0),
            ("1.5", 1.5),
            (".5", 0.5),
            ("5.", 5.0),
            (" 7 ", 7.0),
            ("+1", 1.0),
            ("1e3", 1000.0),
            ("1e9", 1e9),
        ] {
            assert_eq!(
                read(&SECONDS, text),
                Some(Duration::from_secs_f64(seconds)),
                "{text}"
            );
            assert_eq!(
                read(&WAIT, text),
                Some(Duration::from_secs_f64(seconds)),
                "{text}"
            );
        }
        for text in ["inf", "INF", "infinity", "+inf"] {
            assert_eq!(read(&SECONDS, text), Some(Duration::MAX), "{text}");
            assert_eq!(read(&WAIT, text), Some(Duration::MAX), "{text}");
        }
        for text in JUNK.iter().chain(&["-1", "-inf", "1.1e9"]) {
            assert_eq!(read(&SECONDS, text), None, "{text}");
        }
    }

    #[test]
    fn duration_may_have_units() {
        for (text, seconds) in [
            ("5s", 5.0),
            ("1m", 60.0),
            ("2h", 7200.0),
            ("1d", 86400.0),
            ("1h30m", 5400.0),
            ("1d2h3m4.5s", 93784.5),
            ("1.5h", 5400.0),
            (".5m", 30.0),
            ("0s", 0.0),
            (" 5m ", 300.0),
        ] {
            let expected = Duration::from_secs_f64(seconds);
            assert_eq!(
                (read(&SECONDS, text), read(&WAIT, text)),
                (Some(expected), Some(expected)),
                "{text}"
            );
            assert_eq!(
                read(&TIMEOUT, text),
                (seconds > 0.0 && seconds < 2e6).then_some(expected),
                "{text}"
            );
            assert_eq!(read(&LOAD, text), None, "{text}");
        }
        for text in [
            "s",
            "5x",
            "5 s",
            "1m1h",
            "1s1s",
            "1h30",
            "5ms",
            "1.2.3s",
            "-5s",
            "1e3s",
            "infs",
            "32000000000s",
            "5s,",
            "5é",
            "5.",
        ] {
            let is_number = text == "5.";
            assert_eq!(read(&SECONDS, text).is_some(), is_number, "{text}");
        }
    }

    /// Every row was checked with optparse of Python 2.7, as an option with `type=int`.
    #[test]
    fn whole_numbers_are_those_of_optparse() {
        for (text, number) in [
            ("9", Some(9)),
            ("011", Some(9)),
            ("0x9", Some(9)),
            ("0X1f", Some(31)),
            ("0b11", Some(3)),
            ("0B1", Some(1)),
            ("0b", Some(0)),
            ("0o17", Some(15)),
            ("0", Some(0)),
            ("00", Some(0)),
            ("011 ", Some(9)),
            (" 011", Some(11)),
            ("+011", Some(11)),
            ("-011", Some(-11)),
            ("-1", Some(-1)),
            (" 5 ", Some(5)),
            ("08", None),
            ("0x", None),
            ("0o", None),
            ("0xg", None),
            ("0b2", None),
            ("-0x9", None),
            ("1.0", None),
            ("1e1", None),
            ("", None),
            (" ", None),
            ("é", None),
        ] {
            assert_eq!(optparse_int(text), number, "{text:?}");
        }
    }

    #[test]
    fn leading_zero_that_changes_the_number_is_warned_of() {
        let take = |text: &str| {
            let mut warnings = Vec::new();
            let value =
                EXIT_CODE.take_int("--exitcode", &mut Parser::from_args([text]), &mut warnings);
            (value.map_err(|fault| fault.to_string()), warnings)
        };
        for (text, code) in [("9", 9), ("0x9", 9), ("07", 7), ("0", 0), ("00", 0)] {
            assert_eq!(take(text), (Ok(code), vec![]), "{text}");
        }
        let sentence = "--exitcode: \"011\" is octal because of its leading zero: taken for 9 (write 9, or 11 if you meant that)";
        assert_eq!(
            take("011"),
            (Ok(9), vec![Warning::Shown(sentence.to_owned())])
        );
        let sentence =
            "--exitcode: \"08\" is not an octal number, which a leading zero means: write 8";
        assert_eq!(take("08"), (Err(sentence.to_owned()), vec![]));
    }

    #[test]
    fn wait_below_zero_means_one_try() {
        for text in ["0", "-1", "-0.5", "-inf"] {
            assert_eq!(read(&WAIT, text), Some(Duration::ZERO), "{text}");
        }
        for text in JUNK {
            assert_eq!(read(&WAIT, text), None, "{text}");
        }
    }

    #[test]
    fn timeout_is_whole_milliseconds_in_31_bits() {
        for (text, millis) in [
            ("0.001", 1),
            ("5", 5_000),
            ("2.5", 2_500),
            ("2147483", 2_147_483_000),
        ] {
            assert_eq!(
                read(&TIMEOUT, text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in JUNK.iter().chain(&["0", "-1", "0.0009", "inf", "2147484"]) {
            assert_eq!(read(&TIMEOUT, text), None, "{text}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert_eq!(
            [
                read(&LOAD, "30"),
                read(&LOAD, "-1"),
                read(&LOAD, "0.5"),
                read(&LOAD, "inf")
            ],
            [30.0, -1.0, 0.5, f64::INFINITY].map(Some)
        );
        for text in JUNK {
            assert_eq!(read(&LOAD, text), None, "{text}");
        }
        for code in 0..=255u8 {
            assert_eq!(read(&EXIT_CODE, &code.to_string()), Some(code));
        }
        for text in JUNK.iter().chain(&["256", "-1", "1.5", "inf", "5s"]) {
            assert_eq!(read(&EXIT_CODE, text), None, "{text}");
        }
        for port in [0, 1, 9889, 65535] {
            assert_eq!(read(&PORT, &port.to_string()), Some(port));
        }
        for text in JUNK.iter().chain(&["65536", "-1", "1.5", "inf", "http"]) {
            assert_eq!(read(&PORT, text), None, "{text}");
        }
        assert_eq!(
            [read(&NAMES, "0"), read(&NAMES, "10000")],
            [Some(0), Some(10_000)]
        );
        for text in JUNK
            .iter()
            .chain(&["10001", "-1", "1.5", "inf", "99999999999999999999"])
        {
            assert_eq!(read(&NAMES, text), None, "{text}");
        }
    }

    #[test]
    fn counts_below_their_range_have_a_meaning() {
        for (text, concurrency, tries) in [
            ("1", 1, Some(1)),
            (" 10 ", 10, Some(10)),
            ("010", 10, Some(10)),
            ("0", 1, Some(0)),
            ("-1", 1, None),
            ("-7", 1, None),
            ("4294967295", u32::MAX, Some(u32::MAX)),
        ] {
            assert_eq!(
                (read(&CONCURRENCY, text), read(&TRIES, text)),
                (Some(concurrency), Some(tries)),
                "{text}"
            );
        }
        for text in JUNK
            .iter()
            .chain(&["1.5", "inf", "4294967296", "99999999999999999999"])
        {
            assert_eq!(
                (read(&CONCURRENCY, text), read(&TRIES, text)),
                (None, None),
                "{text}"
            );
        }
    }

    #[test]
    fn signal_0_means_none() {
        for (text, signal) in [
            ("0", None),
            ("00", None),
            ("0x0", None),
            ("017", Some(Signal::TERM)),
            ("0xf", Some(Signal::TERM)),
            ("15", Some(Signal::TERM)),
            ("KILL", Some(Signal::KILL)),
            ("sigusr1", Some(Signal::USR1)),
        ] {
            assert_eq!(read(&SIGNAL, text), Some(signal), "{text}");
        }
        for text in JUNK.iter().chain(&["65", "-1", "09", "SIGNOT"]) {
            assert_eq!(read(&SIGNAL, text), None, "{text}");
        }
    }

    #[test]
    fn refusal_names_option_expectation_and_value() {
        let fault = SECONDS
            .take("--minlocktime", &mut Parser::from_args(["soon"]))
            .unwrap_err();
        assert_eq!(
            fault.to_string(),
            "--minlocktime: expected seconds from 0 to 1e9, a time like 1h30m, or inf, found \"soon\""
        );
    }
}

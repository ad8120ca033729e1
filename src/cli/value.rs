//! Values of options that several programs have: numbers, durations, signals, hosts. Each kind
//! names what it expects, for the message that refuses other values.

use super::Fault;
use crate::plan::connection::Proxy;
use crate::plan::duration::{number, session_timeout, time};
use crate::plan::hosts::{self, Ensemble};
use crate::plan::{Notify, Warning};
use crate::signal::Signal;
use lexopt::Parser;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
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
                "{option}: \"{}\" begins with a zero, which means octal: its value is {octal} (write {octal}, or {decimal} if you meant that)",
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

/// A value that must be a name in a certificate. Without one, openssl would verify no name.
pub(super) fn certificate_name(option: &'static str, value: OsString) -> Result<String, Fault> {
    let name = text(option, value)?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(invalid(
            option,
            "a host name or an IP address",
            name.as_ref(),
        ));
    }
    Ok(name)
}

/// A value that must be a connection string.
pub(super) fn ensemble(option: &'static str, value: OsString) -> Result<Ensemble, Fault> {
    hosts::parse(&text(option, value)?).map_err(|flaw| Fault::Hosts { option, flaw })
}

/// A value that names a file to write.
pub(super) fn file(option: &'static str, value: &OsStr) -> Result<PathBuf, Fault> {
    let path = PathBuf::from(value);
    let is_folder = value.as_encoded_bytes().ends_with(b"/") || path.file_name().is_none();
    if is_folder {
        Err(invalid(option, "a file", value))
    } else {
        Ok(path)
    }
}

/// The value of `--notify`, if it has one.
pub(super) fn notify(value: Option<OsString>) -> Result<Notify, Fault> {
    let mut notify = Notify::default();
    let Some(value) = value else {
        return Ok(notify);
    };
    for word in value.to_str().unwrap_or_default().split(',') {
        match word {
            "wait" => notify.ready_when_waiting = true,
            "pass" => notify.pass = true,
            _ => {
                let expected = "wait, pass, or both with a comma";
                return Err(invalid("--notify", expected, &value));
            }
        }
    }
    Ok(notify)
}

/// A value that must be a command for connections.
pub(super) fn proxy(option: &'static str, value: &OsStr) -> Result<Proxy, Fault> {
    Proxy::parse(value).map_err(|flaw| Fault::Proxy { option, flaw })
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

/// A period, which has a length and an end.
pub const PERIOD: ValueKind<Duration> = ValueKind {
    expected: "a time above 0, like 90, 10m or 1d",
    read: |text| seconds(time(text)?).filter(|&it| !it.is_zero() && it != Duration::MAX),
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

/// A fencing token.
pub const TOKEN: ValueKind<i64> = ValueKind {
    expected: "a token, as --status shows it",
    read: |text| text.trim().parse().ok(),
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
mod tests;

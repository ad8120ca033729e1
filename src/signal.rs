//! Signals as numbers and names. Linux numbers them alike on all supported machines (x86_64,
//! aarch64), so pure code needs no libc.

use std::fmt;

/// A signal number, 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Signal(pub i32);

/// Declares each signal once: its constant, which is also its name without `SIG`, and its number.
macro_rules! signals {
    ($($name:ident $number:literal)*) => {
        #[allow(missing_docs)]
        impl Signal {
            $(pub const $name: Signal = Signal($number);)*
        }
        const NAMES: &[(&str, i32)] = &[$((stringify!($name), $number)),*];
    };
}

signals! {
    HUP 1 INT 2 QUIT 3 ILL 4 TRAP 5 ABRT 6 BUS 7 FPE 8 KILL 9 USR1 10 SEGV 11 USR2 12 PIPE 13 ALRM 14 TERM 15 STKFLT 16 CHLD 17
    CONT 18 STOP 19 TSTP 20 TTIN 21 TTOU 22 URG 23 XCPU 24 XFSZ 25 VTALRM 26 PROF 27 WINCH 28 IO 29 PWR 30 SYS 31
}

/// The highest number of a real-time signal.
const HIGHEST: i32 = 64;

impl Signal {
    /// Whether this signal asks a program to end.
    pub fn ends(self) -> bool {
        matches!(
            self,
            Signal::TERM | Signal::HUP | Signal::INT | Signal::QUIT
        )
    }

    /// Parses `15`, `TERM`, `SIGTERM` or `term`.
    pub fn parse(text: &str) -> Option<Signal> {
        if let Ok(number) = text.parse::<i32>() {
            return (1..=HIGHEST).contains(&number).then_some(Signal(number));
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|&(_, number)| Signal(number))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// It exited with this code, 0 to 255.
    Exited(u8),
    /// A signal killed it.
    Killed(Signal),
}

impl Status {
    /// The status as `$?` in a shell.
    pub fn code(self) -> u8 {
        match self {
            Status::Exited(code) => code,
            Status::Killed(signal) => 128u8.saturating_add(u8::try_from(signal.0).unwrap_or(127)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_is_parsed_by_number_and_name_in_any_case() {
        for text in ["15", "TERM", "SIGTERM", "sigterm", "Term"] {
            assert_eq!(Signal::parse(text), Some(Signal::TERM), "{text}");
        }
        for text in ["0", "65", "-1", "", "SIG", "TERMINATE", "9e0"] {
            assert_eq!(Signal::parse(text), None, "{text}");
        }
        assert_eq!(Signal::parse("64"), Some(Signal(64)));
    }

    #[test]
    fn signal_is_shown_by_its_name() {
        assert_eq!(Signal::KILL.to_string(), "SIGKILL");
        assert_eq!(Signal(40).to_string(), "signal 40");
    }
}

//! Requests that come to INVALID, whoever remembers the holders.

use super::Call;
use crate::plan::Pool;
use std::fmt;

/// The longest name of a host, in bytes. A domain name has 253 at most.
pub const LONGEST_HOST: usize = 255;

/// Why a request comes to INVALID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// There is no such pool.
    UnknownPool,
    /// The host says no name.
    NoHost,
    /// It says one that is longer than `LONGEST_HOST`.
    LongHost,
    /// It says one with a comma or a control character in it: those stand between names in a
    /// memcached, and between lines in a log.
    UnfitHost,
    /// The pool is not for it.
    Stranger,
    /// The run id is not what one is.
    UnfitRun,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Refusal::UnknownPool => write!(f, "no such pool"),
            Refusal::NoHost => write!(f, "the host has no name"),
            Refusal::LongHost => write!(f, "the host's name is longer than {LONGEST_HOST} bytes"),
            Refusal::UnfitHost => write!(f, "a comma or control character in the host's name"),
            Refusal::Stranger => write!(f, "not one of the pool's servers"),
            Refusal::UnfitRun => write!(
                f,
                "run must be 1 to {LONGEST_RUN} characters of 0-9, A-Z, a-z, '.', '_' and '-'"
            ),
        }
    }
}

/// What is wrong with a host's name, whatever it asks.
pub fn check_host(host: &str) -> Result<(), Refusal> {
    match host {
        "" => Err(Refusal::NoHost),
        _ if host.len() > LONGEST_HOST => Err(Refusal::LongHost),
        _ if host.contains(|c: char| c == ',' || c.is_control()) => Err(Refusal::UnfitHost),
        _ => Ok(()),
    }
}

/// The longest id of a run, in bytes.
pub const LONGEST_RUN: usize = 64;

/// What is wrong with the id of a run: it stands in logs, in a state and in memcached as it is.
pub fn check_run(run: &[u8]) -> Result<(), Refusal> {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    if (1..=LONGEST_RUN).contains(&run.len()) && run.iter().all(fits) {
        Ok(())
    } else {
        Err(Refusal::UnfitRun)
    }
}

/// Whether a pool may be asked this. A host that holds it may keep it and let go, even if it may
/// not take it any more.
pub fn check(pool: &Pool, call: Call, host: &str, holds: bool) -> Result<(), Refusal> {
    check_host(host)?;
    let keeps = holds && call.keeps();
    let admitted = pool
        .servers
        .as_ref()
        .is_none_or(|servers| servers.iter().any(|server| server == host));
    if keeps || admitted {
        Ok(())
    } else {
        Err(Refusal::Stranger)
    }
}

/// The log's line about it. Names are cut to what a good one has at most, since nobody has checked
/// these.
pub fn told(pool: &str, host: &str, refusal: Refusal) -> String {
    let cut = |name: &str| name.chars().take(LONGEST_HOST).collect::<String>();
    format!(
        "invalid request from {:?} for {:?}: {refusal}",
        cut(host),
        cut(pool)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_name_that_stays_whole_in_a_list_and_in_a_line() {
        let (long, longer) = ("h".repeat(LONGEST_HOST), "h".repeat(LONGEST_HOST + 1));
        for (host, verdict) in [
            ("h", Ok(())),
            ("web-1.example.org", Ok(())),
            ("any words <&> \"замок\"", Ok(())),
            (&long, Ok(())),
            (&longer, Err(Refusal::LongHost)),
            ("", Err(Refusal::NoHost)),
            ("a,b", Err(Refusal::UnfitHost)),
            ("a\r\nb", Err(Refusal::UnfitHost)),
            ("a\0", Err(Refusal::UnfitHost)),
            ("a\u{85}", Err(Refusal::UnfitHost)),
        ] {
            assert_eq!(check_host(host), verdict, "{host:?}");
        }
    }

    #[test]
    fn a_stranger_is_asked_away_but_may_let_go() {
        let pool = Pool {
            name: "one".into(),
            expire: None,
            permits: 1,
            servers: Some(vec!["a".into(), "b".into()]),
        };
        let (keeps, takes) = (
            [Call::Renew { token: None }, Call::Release { token: None }],
            [Call::Get, Call::Wait],
        );
        for (host, holds, calls, verdict) in [
            ("a", false, [keeps, takes].concat(), Ok(())),
            ("c", false, [keeps, takes].concat(), Err(Refusal::Stranger)),
            ("c", true, keeps.to_vec(), Ok(())),
            ("c", true, takes.to_vec(), Err(Refusal::Stranger)),
        ] {
            for call in calls {
                assert_eq!(check(&pool, call, host, holds), verdict, "{host} {call:?}");
            }
        }
    }

    #[test]
    fn the_log_shows_what_nobody_has_checked_on_one_line_of_bounded_length() {
        assert_eq!(
            told("p\n", "h", Refusal::UnknownPool),
            r#"invalid request from "h" for "p\n": no such pool"#
        );
        assert!(told("p", &"\u{1}".repeat(8000), Refusal::UnfitHost).len() < 6 * LONGEST_HOST);
    }
}

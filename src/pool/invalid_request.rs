//! Requests that come to INVALID, whoever remembers the holders.

use super::Call;
use crate::plan::Pool;
use std::fmt;

/// The longest name of a host, in bytes. A domain name has 253 at most.
pub const MAX_HOST_LENGTH: usize = 255;

/// Why a request comes to INVALID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InvalidRequest {
    /// There is no such pool.
    UnknownPool,
    /// The host says no name.
    EmptyHostName,
    /// It says one that is longer than `MAX_HOST_LENGTH`.
    LongHostName,
    /// It says one with a comma or a control character in it: those stand between names in a
    /// memcached, and between lines in a log.
    BadHostName,
    /// The pool is not for it.
    HostNotAllowed,
    /// The run id is not what one is.
    BadRunId,
}

impl InvalidRequest {
    /// The reason in two or three words, for the header of a reply.
    pub fn short(self) -> &'static str {
        match self {
            InvalidRequest::UnknownPool => "unknown pool",
            InvalidRequest::HostNotAllowed => "host not allowed",
            InvalidRequest::EmptyHostName
            | InvalidRequest::LongHostName
            | InvalidRequest::BadHostName => "bad host name",
            InvalidRequest::BadRunId => "bad run id",
        }
    }
}

impl fmt::Display for InvalidRequest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            InvalidRequest::UnknownPool => write!(f, "no such pool"),
            InvalidRequest::EmptyHostName => write!(f, "the host has no name"),
            InvalidRequest::LongHostName => {
                write!(f, "the host's name is longer than {MAX_HOST_LENGTH} bytes")
            }
            InvalidRequest::BadHostName => {
                write!(f, "a comma or control character in the host's name")
            }
            InvalidRequest::HostNotAllowed => write!(f, "not one of the pool's servers"),
            InvalidRequest::BadRunId => write!(
                f,
                "run must be 1 to {MAX_RUN_LENGTH} characters of 0-9, A-Z, a-z, '.', '_' and '-'"
            ),
        }
    }
}

/// What is wrong with a host's name, whatever it asks.
pub fn check_host(host: &str) -> Result<(), InvalidRequest> {
    match host {
        "" => Err(InvalidRequest::EmptyHostName),
        _ if host.len() > MAX_HOST_LENGTH => Err(InvalidRequest::LongHostName),
        _ if host.contains(|c: char| c == ',' || c.is_control()) => {
            Err(InvalidRequest::BadHostName)
        }
        _ => Ok(()),
    }
}

/// The longest id of a run, in bytes.
pub const MAX_RUN_LENGTH: usize = 64;

/// What is wrong with the id of a run: it stands in logs, in a state and in memcached as it is.
pub fn check_run(run: &[u8]) -> Result<(), InvalidRequest> {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    if (1..=MAX_RUN_LENGTH).contains(&run.len()) && run.iter().all(fits) {
        Ok(())
    } else {
        Err(InvalidRequest::BadRunId)
    }
}

/// Whether a pool may be asked this. A host that holds it may keep it and let go, even if it may
/// not take it any more.
pub fn check(pool: &Pool, call: Call, host: &str, holds: bool) -> Result<(), InvalidRequest> {
    check_host(host)?;
    let keeps = holds && call.keeps();
    let admitted = pool
        .servers
        .as_ref()
        .is_none_or(|servers| servers.iter().any(|server| server == host));
    if keeps || admitted {
        Ok(())
    } else {
        Err(InvalidRequest::HostNotAllowed)
    }
}

/// The log's line about it. Names are cut to what a good one has at most, since nobody has checked
/// these.
pub fn log_line(pool: &str, host: &str, invalid: InvalidRequest) -> String {
    let cut = |name: &str| name.chars().take(MAX_HOST_LENGTH).collect::<String>();
    format!(
        "invalid request from {:?} for {:?}: {invalid}",
        cut(host),
        cut(pool)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_name_that_stays_whole_in_a_list_and_in_a_line() {
        let (long, longer) = ("h".repeat(MAX_HOST_LENGTH), "h".repeat(MAX_HOST_LENGTH + 1));
        for (host, verdict) in [
            ("h", Ok(())),
            ("web-1.example.org", Ok(())),
            ("any words <&> \"замок\"", Ok(())),
            (&long, Ok(())),
            (&longer, Err(InvalidRequest::LongHostName)),
            ("", Err(InvalidRequest::EmptyHostName)),
            ("a,b", Err(InvalidRequest::BadHostName)),
            ("a\r\nb", Err(InvalidRequest::BadHostName)),
            ("a\0", Err(InvalidRequest::BadHostName)),
            ("a\u{85}", Err(InvalidRequest::BadHostName)),
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
            (
                "c",
                false,
                [keeps, takes].concat(),
                Err(InvalidRequest::HostNotAllowed),
            ),
            ("c", true, keeps.to_vec(), Ok(())),
            (
                "c",
                true,
                takes.to_vec(),
                Err(InvalidRequest::HostNotAllowed),
            ),
        ] {
            for call in calls {
                assert_eq!(check(&pool, call, host, holds), verdict, "{host} {call:?}");
            }
        }
    }

    #[test]
    fn the_log_shows_what_nobody_has_checked_on_one_line_of_bounded_length() {
        assert_eq!(
            log_line("p\n", "h", InvalidRequest::UnknownPool),
            r#"invalid request from "h" for "p\n": no such pool"#
        );
        assert!(
            log_line("p", &"\u{1}".repeat(8000), InvalidRequest::BadHostName).len()
                < 6 * MAX_HOST_LENGTH
        );
    }
}

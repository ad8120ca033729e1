//! Requests that are answered INVALID, whatever the backend.

use super::Call;
use crate::plan::Pool;
use std::fmt;

/// The longest host name, in bytes. A domain name has at most 253.
pub const MAX_HOST_LENGTH: usize = 255;

/// Why a request is answered INVALID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InvalidRequest {
    /// The pool does not exist.
    UnknownPool,
    /// The host's name is empty.
    EmptyHostName,
    /// The host's name is longer than `MAX_HOST_LENGTH`.
    LongHostName,
    /// The host's name contains a comma, which separates names in memcached, or a control
    /// character, which would break a line of the log.
    BadHostName,
    /// The host is not in the pool's `servers`.
    HostNotAllowed,
    /// The run id has invalid characters or a wrong length.
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
            InvalidRequest::EmptyHostName => write!(f, "the host name is empty"),
            InvalidRequest::LongHostName => {
                write!(f, "the host name is longer than {MAX_HOST_LENGTH} bytes")
            }
            InvalidRequest::BadHostName => {
                write!(f, "the host name has a comma or a control character")
            }
            InvalidRequest::HostNotAllowed => {
                write!(f, "the host is not in \"servers\" of the pool")
            }
            InvalidRequest::BadRunId => write!(
                f,
                "run must be 1 to {MAX_RUN_LENGTH} characters of 0-9, A-Z, a-z, '.', '_' and '-'"
            ),
        }
    }
}

/// Checks a host's name, which every request has.
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

/// The longest run id, in bytes.
pub const MAX_RUN_LENGTH: usize = 64;

/// Checks a run id. It is written to logs, states and memcached without escaping.
pub fn check_run(run: &[u8]) -> Result<(), InvalidRequest> {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    if (1..=MAX_RUN_LENGTH).contains(&run.len()) && run.iter().all(fits) {
        Ok(())
    } else {
        Err(InvalidRequest::BadRunId)
    }
}

/// Checks a request for this pool. A holder that is not in `servers` may renew and release, but not
/// acquire.
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

/// The log line about an invalid request. Names are cut to the longest valid length, because they
/// have not been checked.
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
    fn host_names_are_valid_in_a_list_and_in_a_log_line() {
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
    fn host_not_in_servers_may_renew_and_release_but_not_acquire() {
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
    fn log_line_of_unchecked_names_is_one_line_of_bounded_length() {
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

//! Requests that come to INVALID, whoever remembers the holders.

use super::{Call, Request};
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
    /// It says one with a comma or a control character in it: those stand between names in a memcached, and between lines in a log.
    UnfitHost,
    /// The pool is not for it.
    Stranger,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Refusal::UnknownPool => write!(f, "no such pool"),
            Refusal::NoHost => write!(f, "the host has no name"),
            Refusal::LongHost => write!(f, "the host's name is longer than {LONGEST_HOST} bytes"),
            Refusal::UnfitHost => write!(f, "a comma or control character in the host's name"),
            Refusal::Stranger => write!(f, "not one of the pool's servers"),
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

/// Whether a host may hold a pool.
pub fn admits(pool: &Pool, host: &str) -> bool {
    pool.servers.as_ref().is_none_or(|servers| servers.iter().any(|server| server == host))
}

/// Whether a pool may be asked this. A host that holds it may keep it and let go, even if it may not take it any more.
pub fn check(pool: &Pool, request: &Request, holds: bool) -> Result<(), Refusal> {
    check_host(request.host)?;
    let keeps = holds && matches!(request.call, Call::Renew | Call::Release { .. });
    if keeps || admits(pool, request.host) { Ok(()) } else { Err(Refusal::Stranger) }
}

/// The log's line about it. Names are cut to what a good one has at most, since nobody has checked these.
pub fn told(request: &Request, refusal: Refusal) -> String {
    let cut = |name: &str| name.chars().take(LONGEST_HOST).collect::<String>();
    format!("invalid: {:?} of {:?}: {refusal}", cut(request.pool), cut(request.host))
}

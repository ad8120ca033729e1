//! The plan of a lock server: where it listens, the pools it hands out, and where it keeps who
//! holds them.

use super::{ExitCodes, Host};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// One run of a server. Pools can change while it runs, by a new plan; the rest is as it was at its
/// start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// Leads every line on stderr: `distributexd`.
    pub program: &'static str,
    /// File that the rest is from, for messages.
    pub config: PathBuf,
    /// Address to listen on; `None`: all, of both families.
    pub listen: Option<IpAddr>,
    /// TCP port. 0: one that the kernel picks, for tests.
    pub port: u16,
    /// In the order of the config, each name once.
    pub pools: Vec<Pool>,
    /// Who remembers the holders.
    pub backend: Backend,
    /// File that holders are kept in across restarts, if they are; `None` with a memcached.
    pub state: Option<PathBuf>,
    /// What was odd in the config, a sentence each.
    pub warnings: Vec<String>,
    /// What its ends are as exit codes.
    pub exit_codes: ExitCodes,
    /// Tell of each request too.
    pub verbose: bool,
}

impl Server {
    /// For a sentence: `3 pools`.
    pub fn pool_count(&self) -> String {
        match self.pools.len() {
            1 => "1 pool".into(),
            count => format!("{count} pools"),
        }
    }
}

/// A lock that so many hosts may hold at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    /// 1 to 240 bytes without control characters. In memcached without blanks as well: with
    /// `:lockedby` it is a key there.
    pub name: String,
    /// How long a grant lasts; `None`: until it is released.
    pub expire: Option<Duration>,
    /// How many hosts may hold it at once; never 0.
    pub permits: u32,
    /// The only hosts that may have it; `None`: any.
    pub servers: Option<Vec<String>>,
}

/// Who remembers the holders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backend {
    /// The server itself.
    Memory,
    /// A memcached, which other servers may share.
    Memcache(Host),
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Backend::Memory => write!(f, "inmemory"),
            Backend::Memcache(host) => write!(f, "memcache at {host}"),
        }
    }
}

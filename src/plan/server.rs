//! The plan of a lock server: its address, its pools, and where it stores the holders.

use super::access::Access;
use super::notify::Manager;
use super::{Acl, Auth, Connection, ExitCodes, Host};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// One run of a server. A new plan can change the pools and the access while it runs; all other
/// fields keep their values from the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// Starts every line on stderr: `distributexd`.
    pub program: &'static str,
    /// The config file, for messages.
    pub config: PathBuf,
    /// The address to listen on; `None`: all addresses of both families.
    pub listen: Option<IpAddr>,
    /// TCP port. 0: a free port, which the kernel chooses (for tests).
    pub port: u16,
    /// In the order of the config file; names are unique.
    pub pools: Vec<Pool>,
    /// Who may use it.
    pub access: Access,
    /// Where the holders are stored.
    pub backend: Backend,
    /// The file that keeps the holders across restarts, if any; only in memory.
    pub state: Option<PathBuf>,
    /// Problems of the config that do not stop the server, one sentence each.
    pub warnings: Vec<String>,
    /// The exit code for each reason to exit.
    pub exit_codes: ExitCodes,
    /// Log every request.
    pub verbose: bool,
    /// The service manager that has asked for messages, if any.
    pub manager: Option<Manager>,
}

impl Server {
    /// For use in a sentence: `3 pools`.
    pub fn pool_count(&self) -> String {
        counted(self.pools.len(), "pool")
    }
}

/// A number of things, for use in a sentence: `1 pool`, `2 pools`.
pub fn counted(count: usize, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// A lock that a number of hosts may hold at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    /// 1 to 240 bytes without control characters. With memcached it has no blanks either: the key
    /// there is the name and `:lockedby`.
    pub name: String,
    /// How long a grant is valid; `None`: until it is released.
    pub expire: Option<Duration>,
    /// How many hosts may hold the pool at once; never 0.
    pub permits: u32,
    /// The only hosts that may hold the pool; `None`: any host.
    pub servers: Option<Vec<String>>,
}

/// Where the holders are stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backend {
    /// In the memory of the server.
    Memory,
    /// In a memcached, which several servers may share.
    Memcache(Host),
    /// In an ensemble of ZooKeeper, which several servers may share.
    ZooKeeper(PoolEnsemble),
}

/// The ensemble that keeps the holders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolEnsemble {
    /// At least one server.
    pub hosts: Vec<Host>,
    /// How connections to them are made.
    pub connection: Connection,
    /// The session timeout to ask for.
    pub timeout: Duration,
    /// Credentials for the session, if any.
    pub auth: Option<Auth>,
    /// The ACL of new nodes.
    pub acl: Acl,
    /// The node above those of the pools, with the chroot.
    pub path: String,
}

impl PoolEnsemble {
    /// The most bytes of the node of a pool: servers refuse a request over 1 MB (`jute.maxbuffer`),
    /// of which the half is left for what else is in the request.
    pub const MAX_RECORD: usize = 512 * 1024;
}

impl fmt::Display for PoolEnsemble {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let hosts: Vec<_> = self.hosts.iter().map(ToString::to_string).collect();
        write!(f, "{}{}", hosts.join(","), self.path)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Backend::Memory => write!(f, "inmemory"),
            Backend::Memcache(host) => write!(f, "memcache at {host}"),
            Backend::ZooKeeper(ensemble) => write!(f, "zookeeper at {ensemble}"),
        }
    }
}

//! What is known of locks: one schema for all programs, as a table and as JSON. The readers are
//! below: they make no node, no queue entry and no lock.

pub mod http;
pub mod local;
pub mod zookeeper;

mod json;
mod table;

pub use json::json;
pub use table::{duration, origin, table};

/// All that was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// By name.
    pub locks: Vec<Lock>,
    /// Why the report may be old or incomplete, each in one sentence.
    pub warnings: Vec<String>,
}

/// A lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lock {
    /// The name by which it is requested.
    pub name: String,
    /// The node, the file, or the pool of a server.
    pub path: String,
    /// `None`: it has never been requested, or cannot be read.
    pub kind: Option<Kind>,
    /// How many may hold it at once; `None`: not known.
    pub slots: Option<u32>,
    /// Its holders. `None`: it cannot be read whether it is held.
    pub holders: Option<Vec<Holder>>,
    /// Its waiters, in the order in which they are served.
    pub waiters: Vec<Waiter>,
    /// Its last run with `--every`, if there was one.
    pub last_run: Option<LastRun>,
}

/// The kinds of locks, by the client that makes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// zk-flock's: one node.
    Node,
    /// kazoo's `Lock` or `WriteLock`, and lockex's.
    Queue,
    /// kazoo's `ReadLock`.
    Readers,
    /// kazoo's `Semaphore`, and that of lockex.
    Semaphore,
    /// A file of this host.
    File,
    /// The same, held by readers.
    SharedFile,
    /// A pool of a lock server.
    Pool,
}

impl Kind {
    /// The name in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Node => "zk-flock",
            Kind::Queue => "kazoo-lock",
            Kind::Readers => "kazoo-readlock",
            Kind::Semaphore => "kazoo-semaphore",
            Kind::File => "local",
            Kind::SharedFile => "local-shared",
            Kind::Pool => "pool",
        }
    }
}

/// A holder. `None` is for what is not known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Holder {
    /// Its host, or how it calls itself.
    pub host: Option<String>,
    /// Its process on that host.
    pub pid: Option<u32>,
    /// Since when it holds the lock, in ms of real time.
    pub since: Option<i64>,
    /// Its fencing token.
    pub token: Option<i64>,
    /// Its session.
    pub session: Option<String>,
    /// How many ms its lease is still valid.
    pub expires: Option<i64>,
    /// The node by which it holds the lock.
    pub node: Option<String>,
}

/// A waiter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiter {
    /// Its host, or how it calls itself.
    pub host: Option<String>,
    /// Its process on that host.
    pub pid: Option<u32>,
    /// Since when it waits, in ms of real time.
    pub since: Option<i64>,
    /// Its session.
    pub session: Option<String>,
    /// 1 for the first of the queue.
    pub position: usize,
}

/// The last run of a lock with `--every`. `None` is for what is not known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LastRun {
    /// Its host.
    pub host: Option<String>,
    /// Its process on that host.
    pub pid: Option<u32>,
    /// Its fencing token.
    pub token: Option<i64>,
    /// When it started, in ms of real time.
    pub started: Option<i64>,
    /// When it ended; `None`: it runs, or has ended without a record of that.
    pub ended: Option<i64>,
    /// Its exit code.
    pub exit: Option<u8>,
}

impl Lock {
    /// Whether it is held; `None`: not known.
    pub fn is_held(&self) -> Option<bool> {
        self.holders.as_ref().map(|holders| !holders.is_empty())
    }
}

/// A session as operators write it.
pub fn session(id: i64) -> String {
    format!("0x{id:x}")
}

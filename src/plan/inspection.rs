//! The plan of a program that looks at locks and takes none.

use super::{Cluster, ExitCodes, LockServer, Warning};
use std::path::PathBuf;

/// What to show of which locks.
#[derive(Debug)]
pub struct Inspection {
    /// Starts every line on stderr: `zk-flock`.
    pub program: &'static str,
    /// Where the locks are.
    pub locks: Locks,
    /// Whether the operator gave one name: the exit code says whether it is held, or one of the locks
    /// that are made from it.
    pub single: bool,
    /// Print JSON, not a table.
    pub json: bool,
    /// The table has sessions and waiters.
    pub detailed: bool,
    /// The exit code for each reason to exit.
    pub exit_codes: ExitCodes,
    /// Problems of options or config.
    pub warnings: Vec<Warning>,
}

/// The locks to look at.
#[derive(Debug)]
pub enum Locks {
    /// Nodes of an ensemble.
    Nodes {
        /// The ensemble.
        cluster: Cluster,
        /// The node above the locks, an absolute path without the chroot.
        root: String,
        /// Names below that node; `None`: all.
        names: Option<Vec<String>>,
        /// The node is an application's of zk-flock, not a lock path of kazoo.
        app: bool,
        /// Whether the user can give this program credentials.
        takes_auth: bool,
    },
    /// Files of this host.
    Files {
        /// Directory of all applications; `None`: the default directory of this user.
        folder: Option<PathBuf>,
        /// Directory of the lock files, below `folder`.
        app_id: String,
        /// Names of files; `None`: all.
        names: Option<Vec<String>>,
    },
    /// Pools of a lock server.
    Pools {
        /// The server.
        server: LockServer,
        /// The name of the pool; `None`: all.
        pool: Option<String>,
    },
}

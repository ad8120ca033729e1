//! The plan of a program that takes a lock away from its holder.

use super::inspection::Locks;
use super::{ExitCodes, Warning};
use std::time::Duration;

/// Which lock to take away, and how.
#[derive(Debug)]
pub struct Eviction {
    /// Starts every line on stderr: `zk-flock`.
    pub program: &'static str,
    /// The lock, or with `-n` the locks.
    pub locks: Locks,
    /// The name of the lock, for messages.
    pub name: String,
    /// The user that asks, if known.
    pub user: Option<String>,
    /// Take it away only from the holder with this token.
    pub token: Option<i64>,
    /// Delete the node of a holder that does not answer.
    pub force: bool,
    /// How long to wait for the release, counted from the start of the program.
    pub wait: Duration,
    /// The exit code for each reason to exit.
    pub exit_codes: ExitCodes,
    /// Problems of options or config.
    pub warnings: Vec<Warning>,
}

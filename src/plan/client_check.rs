//! The plan of a program that checks its config and its servers.

use super::ExitCodes;
use super::inspection::Locks;
use std::path::PathBuf;

/// What to check.
#[derive(Debug)]
pub struct ClientCheck {
    /// Starts every line on stderr: `zk-flock`.
    pub program: &'static str,
    /// The config that was read, if any.
    pub config: Option<PathBuf>,
    /// What is wrong with it, or with options.
    pub flaws: Vec<String>,
    /// The servers, and the locks there.
    pub locks: Locks,
    /// Print JSON, not lines.
    pub json: bool,
    /// The exit code for each reason to exit.
    pub exit_codes: ExitCodes,
}

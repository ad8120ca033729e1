//! distributex, distributexd, and the memcached that servers share.

// Access tokens: what a client without one cannot do, and how distributex sends its own.
mod access;
// `--break` revokes a slot, and its holder stops its command.
mod breaks;
// distributex against a scripted lock server: requests, exit codes, and what survives a fault.
mod client;
// Hosts that share a pool of distributexd exclude each other, in turn.
mod hosts;
// A command ends before its lease does, and when its lock is revoked.
mod leases;
// Servers that share a memcached write what the original writes, and grant nothing twice.
mod memcache;
// The same with a memcached that is unreachable, frozen, emptied or malformed.
mod memcache_trouble;
// A wait for the slot of an outer run is an error at once.
mod nested;
// distributexd reports to its service manager.
mod notify;
// A browser gets `/status/` as a page, and every other client gets JSON.
mod page;
// The same over HTTP, while servers are killed, stopped and reloaded.
mod promises;
// Each run has an id of its own, and takes up that of a killed one.
mod runs;
// Configs of the original are served as PyYAML reads them.
mod server_config;
// distributexd answers what the original answered, whatever other clients do.
mod server_http;
// Grants hold across reloads, and an operator can revoke them.
mod server_promises;
// A server with `state` remembers its holders when it starts again.
mod server_restart;
// distributexd survives dead hosts, a full disk, a blocked log and a foreign state file.
mod server_trouble;
// Requests that hide another one do not pass the rules of a proxy.
mod smuggling;
// `--status` shows holders and waiters of the pools of a server.
mod status;
// YAML that is accepted means the same to PyYAML.
mod yaml;
// Lock servers that share a ZooKeeper grant nothing twice.
mod zookeeper;

use common::run::Outcome;
use std::process::Command;

/// Asserts that a distributex ended with this exit code, nothing on stdout, and one line on stderr
/// that contains each of `facts`.
#[track_caller]
fn complains(outcome: &Outcome, code: i32, facts: &[&str]) {
    outcome.complains_as("distributex", code, facts);
}

/// The same of one that may have printed on stdout.
#[track_caller]
fn fails(outcome: &Outcome, code: i32, facts: &[&str]) {
    outcome.fails_as("distributex", code, facts);
}

/// What curl prints with these options.
#[track_caller]
fn curl(options: &[&str], url: &str) -> String {
    let curl = Command::new("curl")
        .args(["--silent", "--show-error", "--noproxy", "*"])
        .args(options)
        .arg(url)
        .output()
        .expect("curl is installed, or tests/all does it");
    let stderr = String::from_utf8_lossy(&curl.stderr);
    assert!(curl.status.success(), "{stderr}");
    String::from_utf8(curl.stdout).expect("answers are text")
}

/// The command of `common::probe_job`: it is this executable, with this test.
#[test]
fn probe_job_writes_its_token_and_timestamps() {
    common::probe_job::entry();
}

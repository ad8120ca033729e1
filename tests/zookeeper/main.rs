//! zk-flock and lockex, on ZooKeeper and on one host. All tests share one server, but for those that
//! break it.

// `--break` takes a lock away from its holder.
mod breaks;
// `--check` finds what keeps a run from its lock, and makes nothing.
mod check;
// A command that is empty, malformed or not executable is an error before anything is locked.
mod command;
// Each error in a config file is one line with file, line and key, and nothing is run.
mod config;
// Unix sockets, helper commands and TLS keep the promises.
mod connections;
// `-d` starts a daemon, with the umask and the environment of its caller.
mod daemon;
// The command gets each descriptor that the caller passes on, and no other.
mod descriptors;
// `-n N` takes the first free one of N names.
mod first_free;
// `--every` runs a command once per period, whichever run asks first.
mod every;
// The Python zk-flock and this one exclude and wake each other on one node.
mod interop;
// kazoo and lockex exclude and wake each other, in both modes and versions.
mod kazoo;
// A holder never resumes a session on ClickHouse Keeper: its command ends with its lease.
mod keeper;
// `--local` keeps the promises on one host, without a server.
mod local;
// `--local` keeps them in folders where other users may write.
mod local_attacks;
// lockex: options, exit codes, nodes and signals, and what survives when something is killed.
mod lockex;
// Malformed messages of a server end in one error: no panic, no hang, no command without a lock.
mod lying_server;
// One command under one lock: exit codes, output, environment, fencing token.
mod main_job;
// Names that resolve late, or to another address, are looked up again.
mod moved_servers;
// A run that would wait for a lock of its own caller is an error at once.
mod nested;
// `--metrics` writes the figures of the last run, and never changes how a run ends.
mod metrics;
// `--notify` reports a run to its service manager, and never delays it.
mod notify;
// Each option that takes a number refuses what is none.
mod numbers;
// A full disk, no descriptors, no processes, no stdio, no /proc: one line, and nothing is left.
mod odd_surroundings;
// A run costs so many connections and round trips, and no more.
mod packets;
// What ZooKeeper refuses is an error that names it, and never "busy".
mod refused;
// Each signal, sent or typed, reaches the command as documented.
mod signals;
// `--status` shows holders and waiters of each kind of lock, and makes nothing.
mod status;
// The process tree of a command is gone when zk-flock or its guard is.
mod tree;
// A lock is kept while a process runs that zk-flock may not kill.
mod unkillable;
// An unreachable ZooKeeper is one line, within the timeout, and never "busy".
mod unreachable;
// Waiters acquire in FIFO order, and leave no node behind.
mod waiters;
// The ZooKeeper codec reads and writes the recorded bytes of real clients and servers.
mod wire;

/// The command of `common::probe_job`: it is this executable, with this test.
#[test]
fn probe_job_writes_its_token_and_timestamps() {
    common::probe_job::entry();
}

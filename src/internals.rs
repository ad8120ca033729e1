//! What integration tests, fuzz targets and the benchmark use of the program. It is no interface:
//! it changes with the program. All other modules are private to the crate, so the compiler reports
//! what nothing uses.

/// Command lines and help texts.
pub mod cli {
    pub use crate::cli::{
        Environment, Error, Request, distributex, distributexd, lockex, zk_flock,
    };
}

/// Config files.
pub mod config {
    pub use crate::config::{Config, node, server, yaml};
}

/// HTTP messages.
pub mod http {
    pub use crate::http::{
        LONGEST_HEAD, LONGEST_REQUEST_BODY, Malformed, Reply, Request, Terms, get,
    };
}

/// Plans and exit codes.
pub mod plan {
    pub use crate::plan::access::Access;
    pub use crate::plan::{
        Acl, Auth, Backend, Cluster, Command, Connection, Every, Exit, ExitCodes, ExitReason,
        Heartbeat, Host, Level, LoadLimit, Lock, LockServer, Log, Plan, Pool, PoolEnsemble, Server,
        Sharing, Style,
    };
}

/// Locks, for the simulation.
pub mod lock {
    pub use crate::lock::{Lock, http, zookeeper};
}

/// The log of a run.
pub mod log {
    pub use crate::log::Log;
}

/// The loops of a run and of its guard, and what a simulation puts instead of the kernel.
pub mod run {
    pub use crate::guard::{Event as Command, Guard, GuardEvent};
    pub use crate::run::{
        GuardLoop, Incoming, Job, OneShotLoop, Ready, Report, Run, Sources, System, Turn,
        is_too_late,
    };
}

/// The loop of the lock server, and what a simulation puts instead of the kernel.
pub mod serve {
    pub use crate::pool::Target;
    pub use crate::pool::state::{Clocks, State};
    pub use crate::serve::{
        Accepted, LISTENER, Parts, SIGNALS, STORE, ServerLoop, Stream, System, Turn, backend,
    };
}

/// Evictions, for the simulation.
pub mod eviction {
    pub use crate::eviction::zookeeper::{Eviction, Target};
    pub use crate::eviction::{Newcomer, Outcome};
    pub use crate::lock::Failure;
    pub use crate::oneshot::zookeeper::{Client, Options};
}

/// Deadlines of a lease.
pub mod deadlines {
    pub use crate::deadlines::Deadlines;
}

/// Signals and exit statuses.
pub mod signal {
    pub use crate::signal::{Signal, Status};
}

/// System calls.
pub mod sys {
    pub use crate::sys::epoll::{Event, Interest};
    pub use crate::sys::process::{Pid, Reap};
    pub use crate::sys::signals::Received;
    pub use crate::sys::tree::Process;
    pub use crate::sys::{clock, descriptors};
}

/// The ZooKeeper protocol.
pub mod zookeeper {
    pub use crate::zookeeper::{code, lease, record, request, session, wire};
}

/// Addresses of servers.
pub mod endpoint {
    pub use crate::endpoint::Endpoint;
    pub use crate::transport::Address;
}

/// Points in time.
pub mod moment {
    pub use crate::moment::Moment;
}

/// Words of a command.
pub mod shell {
    pub use crate::shell::words;
}

/// Events and outputs of a connection.
pub mod transport {
    pub use crate::transport::{Event, Output};
}

//! Everything before the first byte to a server: checks the command and the load, starts the
//! daemon, looks up names. Then builds the lock of the plan, with one builder for each service.

mod file;
mod http;
mod zookeeper;

use super::files::Files;
use super::host_lock::HostLock;
use super::run_id::RunId;
use crate::link::Link;
use crate::lock::zookeeper::layout;
use crate::lock::{Failure, Lock};
use crate::log::{Log, print};
use crate::moment::Moment;
use crate::plan::{self, Connection, ExitReason, Plan};
use crate::prepare::{self, HostAddresses, Lookup};
use crate::reason::reason;
use crate::sys::clock::now;
use crate::sys::daemon;
use std::io;
use std::path::Path;

/// What failed if names cannot be looked up at all.
const LOOK_UP: &str = "look up names";

/// Why a run ended before its loop did.
pub(super) enum Stop {
    /// The reason is logged.
    Logged(ExitReason),
    /// A system call failed without which there is no run.
    System {
        what: &'static str,
        error: io::Error,
    },
}

impl Stop {
    pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Stop {
        move |error| Stop::System { what, error }
    }

    pub(super) fn end(self, plan: &Plan) -> ExitReason {
        match self {
            Stop::Logged(end) => end,
            Stop::System { what, error } => {
                print(
                    plan.program,
                    &format_args!("cannot {what}: {}", reason(&error)),
                );
                ExitReason::SystemError
            }
        }
    }
}

/// The lock of a plan: its state machine, and what executes its outputs.
pub(super) struct Parts {
    pub(super) lock: Box<dyn Lock>,
    pub(super) link: Link,
    pub(super) lookup: Lookup,
    pub(super) files: Option<Files>,
    pub(super) run_id: Option<RunId>,
    pub(super) host_lock: Option<HostLock>,
}

impl Parts {
    /// A lock on servers with these names; without names, a local lock.
    fn new(lock: impl Lock + 'static, names: HostAddresses) -> Parts {
        Parts {
            lock: Box::new(lock),
            link: Link::default(),
            lookup: Lookup::new(names),
            files: None,
            run_id: None,
            host_lock: None,
        }
    }

    /// A local lock.
    fn local(lock: impl Lock + 'static) -> Parts {
        Parts::new(lock, HostAddresses::new(&[], &Connection::Direct))
    }
}

/// Checks and prepares what the run needs, and builds the lock of the plan.
pub(super) fn set_up(plan: &Plan, started: Moment, log: &mut Log) -> Result<Parts, Stop> {
    let directory = Path::new(if plan.daemonize { "/" } else { "" });
    prepare::find_command(&plan.command, directory).map_err(|(end, why)| {
        log.error(&why);
        Stop::Logged(end)
    })?;
    prepare::check_load(&plan.load_limit, log).map_err(Stop::Logged)?;
    if plan.daemonize {
        daemon::detach().map_err(Stop::system("run in the background"))?;
    }
    let wait_until = (!plan.wait.is_zero()).then(|| started + plan.wait);
    match &plan.lock {
        plan::Lock::Node {
            cluster,
            app_id,
            names,
        } => {
            let connect_by = (started + plan.wait).max(now() + cluster.timeout);
            let (mut options, addresses) =
                zookeeper::options(plan, cluster, None, connect_by, wait_until, log)?;
            options.record = zookeeper::record(plan, cluster, || {
                layout::record_path(&layout::app_path(&cluster.chroot, app_id), &names[0])
            });
            Ok(zookeeper::node(options, addresses, app_id, names))
        }
        plan::Lock::Queue {
            cluster,
            path,
            permits,
            sharing,
            rounds,
            restarts,
        } => {
            let connect_by = started + zookeeper::connect_limit(plan.wait, cluster.timeout);
            let (mut options, addresses) =
                zookeeper::options(plan, cluster, *rounds, connect_by, wait_until, log)?;
            options.max_restarts = *restarts;
            options.takes_auth = false;
            options.record = zookeeper::record(plan, cluster, || {
                layout::record_of(&format!("{}{path}", cluster.chroot))
            });
            Ok(zookeeper::queue(
                options, addresses, path, *permits, *sharing,
            ))
        }
        plan::Lock::Pool(target) => http::build(plan, target, started, wait_until, log),
        plan::Lock::Local {
            folder,
            app_id,
            names,
            sharing,
        } => Ok(file::local(
            plan,
            folder.as_deref(),
            app_id,
            names,
            *sharing,
            wait_until,
        )),
        plan::Lock::Host(path) => file::host_only(path, log),
    }
}

/// The connection to servers, once its files and its program were checked.
fn checked(connection: &Connection, log: &mut Log) -> Result<Connection, Stop> {
    prepare::tls::checked(connection).map_err(|why| {
        log.error(&why);
        Stop::Logged(ExitReason::ConfigError)
    })
}

fn unreachable(failure: &Failure, log: &mut Log) -> Stop {
    log.error(failure);
    Stop::Logged(ExitReason::Unreachable)
}

//! From the plan to the first byte: gate, command, daemon, names; then the lock of the plan, as a machine, and what it works on.

use super::files::Files;
use super::now;
use crate::link::reason;
use crate::lock::Lock;
use crate::lock::local::{self, Local};
use crate::lock::node::Node;
use crate::lock::queue::Queue;
use crate::lock::semaphore::Semaphore;
use crate::lock::session_lock::{self, Options, SessionLock};
use crate::log::{Log, complain};
use crate::moment::Moment;
use crate::plan::{self, Cluster, End, Plan};
use crate::prepare::{self, Servers};
use crate::sys::{daemon, host, process, random};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// Why a run ended before its loop did.
pub(super) enum Stop {
    /// All is said.
    Said(End),
    /// A system call that must not fail did.
    System { what: &'static str, error: io::Error },
}

impl Stop {
    pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Stop {
        move |error| Stop::System { what, error }
    }

    pub(super) fn end(self, plan: &Plan) -> End {
        match self {
            Stop::Said(end) => end,
            Stop::System { what, error } => {
                complain(plan.program, &format_args!("cannot {what}: {}", reason(&error)));
                End::System
            }
        }
    }
}

/// What a lock of the plan is made of: the machine, and what it works on.
pub(super) struct Parts {
    pub(super) lock: Box<dyn Lock>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) files: Option<Files>,
}

/// All that comes before the first byte: gate, command, daemon, names. Then the lock of the plan, as a machine.
pub(super) fn set_up(plan: &Plan, started: Moment, log: &mut Log) -> Result<Parts, Stop> {
    let directory = Path::new(if plan.daemonize { "/" } else { "" });
    prepare::look_up(&plan.command, directory).map_err(|(end, why)| {
        log.complain(&why);
        Stop::Said(end)
    })?;
    prepare::pass(&plan.gate, log).map_err(Stop::Said)?;
    if plan.daemonize {
        daemon::detach().map_err(Stop::system("run in the background"))?;
    }
    let patience = (!plan.wait.is_zero()).then(|| started + plan.wait);
    match &plan.lock {
        plan::Lock::Node { cluster, app_id, names, .. } => {
            let (options, addresses) = look_up_servers(plan, cluster, started + plan.wait.max(cluster.timeout), patience, log)?;
            let content = host::name() + &uuid(random::bytes());
            let lock = Node::lock(options, app_id, names.clone(), content, now());
            Ok(Parts { lock: Box::new(lock), addresses, files: None })
        }
        plan::Lock::Queue { cluster, path, permits, rounds, restarts } => {
            // It waits for ever by default, but not for a server.
            let connecting = if plan.wait == Duration::MAX { cluster.timeout } else { plan.wait.max(cluster.timeout) };
            let (mut options, addresses) = look_up_servers(plan, cluster, started + connecting, patience, log)?;
            (options.rounds, options.restarts) = (*rounds, *restarts);
            let path = format!("{}{path}", cluster.chroot);
            let mark = uuid(random::bytes()).replace('-', "");
            let content = format!("{}:{}", host::name(), process::own_pid().0);
            let lock: Box<dyn Lock> = match permits {
                1 => Box::new(SessionLock::new(options, Queue::new(path, mark, content, true), now())),
                _ => Box::new(SessionLock::new(options, Semaphore::new(path, *permits, &mark, content), now())),
            };
            Ok(Parts { lock, addresses, files: None })
        }
        plan::Lock::Local { directory, private, names, .. } => {
            let path = |name: &String| (name.clone(), directory.join(name).display().to_string());
            let options = local::Options { files: names.iter().map(path).collect(), patience };
            let files = Files::new(directory.clone(), *private, names);
            Ok(Parts { lock: Box::new(Local::new(options)), addresses: Vec::new(), files: Some(files) })
        }
    }
}

/// The addresses of an ensemble, and what all its locks share.
fn look_up_servers(
    plan: &Plan,
    cluster: &Cluster,
    connect_by: Moment,
    patience: Option<Moment>,
    log: &mut Log,
) -> Result<(Options, Vec<SocketAddr>), Stop> {
    let found = prepare::resolve(&cluster.hosts, connect_by).map_err(Stop::system("look up names"))?;
    let Servers { names: servers, addresses, unresolved } = found;
    if addresses.is_empty() {
        log.complain(&session_lock::unreachable(&unresolved.join("; ")));
        return Err(Stop::Said(End::Unreachable));
    }
    let (cluster, kill_after) = (cluster.clone(), plan.kill_after);
    Ok((Options { servers, unresolved, cluster, patience, connect_by, kill_after, rounds: None, restarts: None }, addresses))
}

/// A random uuid (version 4), as text.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let number = u128::from_be_bytes(bytes);
    let [a, b, c, d] = [96, 80, 64, 48].map(|shift| number >> shift);
    format!("{a:08x}-{:04x}-{:04x}-{:04x}-{:012x}", b & 0xffff, c & 0xffff, d & 0xffff, number & 0xffff_ffff_ffff)
}

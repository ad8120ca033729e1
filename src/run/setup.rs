//! From the plan to the first byte: gate, command, daemon, names; then the lock of the plan, as a
//! machine, and what it works on.

use super::files::Files;
use super::host_lock::HostLock;
use super::lock_folder::LockFolder;
use super::names::Lookup;
use super::run_id::RunId;
use crate::endpoint::Endpoint;
use crate::link::Link;
use crate::lock::file::host_only::Host;
use crate::lock::file::local::{self, Local};
use crate::lock::http::{self, Pool};
use crate::lock::zookeeper::layout::{self, NodeData};
use crate::lock::zookeeper::node::Node;
use crate::lock::zookeeper::queue::Queue;
use crate::lock::zookeeper::semaphore::Semaphore;
use crate::lock::zookeeper::{self, Options, SessionLock};
use crate::lock::{Failure, Lock};
use crate::log::{Log, Topic, print};
use crate::moment::Moment;
use crate::plan::{self, Cluster, ExitReason, Level, Plan, PoolTarget};
use crate::prepare::{self, HostAddresses, HostnameLookup};
use crate::reason::reason;
use crate::sys::clock::now;
use crate::sys::process::Pid;
use crate::sys::{daemon, host, process, random};
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long name servers may take to say what this host is called. Half of what a server has to
/// answer: some time must be left for that.
const OWN_NAME: Duration = Duration::from_secs(5);

/// What cannot be done where names cannot be looked up at all.
const LOOK_UP: &str = "look up names";

/// Why a run ended before its loop did.
pub(super) enum Stop {
    /// All is said.
    Said(ExitReason),
    /// A system call that must not fail did.
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
            Stop::Said(end) => end,
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

/// What a lock of the plan is made of: the machine, and what it works on.
pub(super) struct Parts {
    pub(super) lock: Box<dyn Lock>,
    pub(super) link: Link,
    pub(super) lookup: Lookup,
    pub(super) files: Option<Files>,
    pub(super) run_id: Option<RunId>,
    pub(super) host_lock: Option<HostLock>,
}

impl Parts {
    /// A lock of servers with these names, or one that needs none.
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

    /// A lock of this host.
    fn local(lock: impl Lock + 'static) -> Parts {
        Parts::new(lock, HostAddresses::new(&[]))
    }
}

/// All that comes before the first byte: gate, command, daemon, names. Then the lock of the plan,
/// as a machine.
pub(super) fn set_up(plan: &Plan, started: Moment, log: &mut Log) -> Result<Parts, Stop> {
    let directory = Path::new(if plan.daemonize { "/" } else { "" });
    prepare::find_command(&plan.command, directory).map_err(|(end, why)| {
        log.error(&why);
        Stop::Said(end)
    })?;
    prepare::check_load(&plan.load_limit, log).map_err(Stop::Said)?;
    if plan.daemonize {
        daemon::detach().map_err(Stop::system("run in the background"))?;
    }
    let patience = (!plan.wait.is_zero()).then(|| started + plan.wait);
    match &plan.lock {
        plan::Lock::Node {
            cluster,
            app_id,
            names,
            ..
        } => {
            let connect_by = (started + plan.wait).max(now() + cluster.timeout);
            let (options, found) = look_up_servers(plan, cluster, None, connect_by, patience, log)?;
            let data = NodeData::new(host::name(), random::bytes());
            Ok(Parts::new(
                Node::lock(options, app_id, names.clone(), &data, now()),
                found,
            ))
        }
        plan::Lock::Queue {
            cluster,
            path,
            permits,
            rounds,
            restarts,
        } => {
            // It waits for ever by default, but not for a server.
            let connecting = if plan.wait == Duration::MAX {
                cluster.timeout
            } else {
                plan.wait.max(cluster.timeout)
            };
            let (mut options, found) =
                look_up_servers(plan, cluster, *rounds, started + connecting, patience, log)?;
            (options.restarts, options.takes_auth) = (*restarts, false);
            let path = format!("{}{path}", cluster.chroot);
            let mark = layout::mark(random::bytes());
            let content = layout::contender_data(&host::name(), process::own_pid().0);
            Ok(match permits {
                1 => Parts::new(
                    SessionLock::new(options, Queue::new(path, mark, content, true), now()),
                    found,
                ),
                _ => Parts::new(
                    SessionLock::new(
                        options,
                        Semaphore::new(path, *permits, &mark, content),
                        now(),
                    ),
                    found,
                ),
            })
        }
        plan::Lock::Local {
            folder,
            app_id,
            names,
            ..
        } => {
            let folder = LockFolder::new(folder.as_deref(), app_id);
            let path = |name: &String| (name.clone(), folder.path(name).display().to_string());
            let options = local::Options {
                files: names.iter().map(path).collect(),
                patience,
                outer: plan
                    .outer_locks
                    .iter()
                    .filter_map(|outer| Some((outer.lock.clone(), outer.token?)))
                    .collect(),
            };
            let files = Some(Files::new(folder, names));
            Ok(Parts {
                files,
                ..Parts::local(Local::new(options))
            })
        }
        plan::Lock::Pool(place) => ask_for_place(plan, place, started, patience, log),
        plan::Lock::Host(file) => {
            let (lock, _) = lock_host(file, log)?;
            let host_lock = Some(lock);
            Ok(Parts {
                host_lock,
                ..Parts::local(Host::new(file.display().to_string()))
            })
        }
    }
}

/// The addresses of an ensemble, and what all its locks share. `rounds`: over all servers at the
/// most; a look-up that finds none is one.
fn look_up_servers(
    plan: &Plan,
    cluster: &Cluster,
    rounds: Option<u32>,
    connect_by: Moment,
    patience: Option<Moment>,
    log: &mut Log,
) -> Result<(Options, HostAddresses), Stop> {
    let mut names = HostAddresses::new(&cluster.hosts);
    let (found, done) = prepare::resolve_with_retries(&mut names, rounds, connect_by)
        .map_err(Stop::system(LOOK_UP))?;
    if found.endpoints.is_empty() {
        return Err(unreachable(
            &zookeeper::unreachable(&found.unresolved.join("; ")),
            log,
        ));
    }
    let options = Options {
        servers: found.endpoints,
        unresolved: found.unresolved,
        cluster: cluster.clone(),
        patience,
        connect_by,
        kill_after: plan.kill_after,
        rounds: rounds.map(|rounds| rounds - (done - 1)),
        restarts: None,
        outer: plan
            .outer_locks
            .iter()
            .filter_map(|outer| outer.session)
            .collect(),
        takes_auth: true,
    };
    Ok((options, names))
}

/// The lock server and what we are called there, then the lock of this host.
fn ask_for_place(
    plan: &Plan,
    place: &PoolTarget,
    started: Moment,
    patience: Option<Moment>,
    log: &mut Log,
) -> Result<Parts, Stop> {
    let reach_by = started
        + if place.wait_for_server {
            plan.wait.max(http::OUTAGE)
        } else {
            http::OUTAGE
        };
    let ask_own_name = || {
        place
            .host
            .is_none()
            .then(HostnameLookup::start)
            .transpose()
            .map_err(Stop::system(LOOK_UP))
    };
    let mut own_name = ask_own_name()?;
    let mut names = HostAddresses::new(std::slice::from_ref(&place.server));
    let (found, rounds) =
        prepare::resolve_with_retries(&mut names, None, reach_by).map_err(Stop::system(LOOK_UP))?;
    if found.endpoints.is_empty() {
        return Err(unreachable(
            &Failure::Unreachable(found.unresolved.join("; ")),
            log,
        ));
    }
    let mut named_by = started + OWN_NAME;
    if rounds > 1 {
        // What name servers did not know of the server, they may not have known of us.
        (own_name, named_by) = (ask_own_name()?, now() + OWN_NAME);
    }
    let host = match (&place.host, own_name) {
        (None, Some(asked)) => hear_own_name(asked, named_by, &found.endpoints, log)?,
        (said, _) => said.clone().unwrap_or_default(),
    };
    let (host_lock, run_id) = match &place.host_lock {
        None => (None, RunId::new()),
        Some(file) => {
            let (lock, dead) = lock_host(file, log)?;
            (Some(lock), keep_run_id(file, dead, log))
        }
    };
    tell_run_id(&run_id, log);
    let options = http::Options {
        addresses: found.endpoints,
        server: place.server.clone(),
        pool: place.pool.clone(),
        host,
        run: run_id.id.clone(),
        inherited: run_id.inherited.is_some(),
        patience,
        reach_by: place.wait_for_server.then_some(reach_by),
        alone: place.host_lock.is_some(),
        kill_after: plan.kill_after,
    };
    let run_id = Some(run_id);
    let link = Link::default().watching_the_peer();
    Ok(Parts {
        link,
        run_id,
        host_lock,
        ..Parts::new(Pool::new(options, started, now()), names)
    })
}

fn unreachable(failure: &Failure, log: &mut Log) -> Stop {
    log.error(failure);
    Stop::Said(ExitReason::Unreachable)
}

/// What this host is called to a lock server that nobody has told us a name for.
fn hear_own_name(
    asked: HostnameLookup,
    deadline: Moment,
    servers: &[Endpoint],
    log: &mut Log,
) -> Result<String, Stop> {
    let found = asked.wait(deadline).map_err(Stop::system(LOOK_UP))?;
    let name = found.unwrap_or_else(|| {
        let bare = host::name();
        log.warn(&format_args!("the full name of this host could not be looked up in time, so {bare:?} has to do (--as says another)"));
        bare
    });
    let anybodys = name == "localhost" || name.starts_with("localhost.");
    if anybodys
        && !servers
            .iter()
            .all(|server| server.address.ip().is_loopback())
    {
        log.warn(&format_args!(
            "this host is {name:?} to the server, as others may be: they count as one host, and a server that ignores run ids grants all of them the \
             lock at once; give --as"
        ));
    }
    Ok(name)
}

/// The id of a run that has the lock of this host: a new one, or that of the dead process which has
/// left the lock behind.
fn keep_run_id(lock: &Path, dead: Option<Pid>, log: &mut Log) -> RunId {
    let (run, flaw) = RunId::kept_beside(lock, dead);
    if let Some((path, error)) = flaw {
        let why = reason(&error);
        log.warn(&format_args!(
            "cannot keep the id of this run in {}: {why}: if it is killed, the next run on this host waits until the lease ends; remove that file",
            path.display()
        ));
    }
    run
}

fn tell_run_id(RunId { id, inherited, .. }: &RunId, log: &mut Log) {
    let whose = match inherited {
        None => String::new(),
        Some(Pid(0)) => ", that of a run whose slot the server may still keep".into(),
        Some(pid) => format!(", that of process {pid}, which was killed"),
    };
    log.write(Topic::Run, Level::Info, &format_args!("run id {id}{whose}"));
}

/// Takes the lock of this host, at once or not at all. Also says which dead process has left its
/// file behind, if one has.
fn lock_host(file: &Path, log: &mut Log) -> Result<(HostLock, Option<Pid>), Stop> {
    let (lock, stale) = HostLock::take(file).map_err(|refusal| {
        log.error(&refusal);
        Stop::Said(refusal.end())
    })?;
    if let Some(pid) = stale {
        log.error(&format_args!(
            "Cleaning stale lockfile {} of process {pid}",
            file.display()
        ));
    }
    Ok((lock, stale))
}

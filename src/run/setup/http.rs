//! Builds distributex's lock: the address of the server, the name of this host there, the lock of
//! this host, and the run id.

use super::file::lock_host;
use super::{LOOK_UP, Parts, Stop, checked, unreachable};
use crate::endpoint::Endpoint;
use crate::link::Link;
use crate::lock::Failure;
use crate::lock::http::{OUTAGE_TIMEOUT, Options, PoolLock, lock_name};
use crate::log::{Log, Topic};
use crate::moment::Moment;
use crate::plan::{Level, Plan, PoolTarget};
use crate::prepare::{self, HostAddresses, HostnameLookup};
use crate::reason::reason;
use crate::run::run_id::RunId;
use crate::sys::clock::now;
use crate::sys::host;
use crate::sys::process::Pid;
use std::path::Path;
use std::time::Duration;

/// How long name servers may take to find the full name of this host: half of the time that the
/// lock server has to answer, so that time is left for that.
const OWN_NAME_TIMEOUT: Duration = Duration::from_secs(5);

/// Builds the lock of a slot in a pool. `wait_until`: `None` for one try.
pub(super) fn build(
    plan: &Plan,
    target: &PoolTarget,
    started: Moment,
    wait_until: Option<Moment>,
    log: &mut Log,
) -> Result<Parts, Stop> {
    let outage = if target.wait_for_server {
        plan.wait.max(OUTAGE_TIMEOUT)
    } else {
        OUTAGE_TIMEOUT
    };
    let reach_by = started + outage;
    let connection = checked(&target.server.connection, log)?;
    if let Some(warning) = target.server.token_warning() {
        log.warn(&warning);
    }
    let mut own_name = look_up_own_name(target)?;
    let mut addresses = HostAddresses::new(&target.server.hosts, &connection);
    let (found, rounds) = prepare::resolve_with_retries(&mut addresses, None, reach_by)
        .map_err(Stop::system(LOOK_UP))?;
    if found.endpoints.is_empty() {
        let failure = Failure::Unreachable(found.unresolved.join("; "));
        return Err(unreachable(&failure, log));
    }
    let mut named_by = started + OWN_NAME_TIMEOUT;
    if rounds > 1 {
        // Name servers that did not know the server may not have known this host either.
        (own_name, named_by) = (look_up_own_name(target)?, now() + OWN_NAME_TIMEOUT);
    }
    let host = match (&target.host, own_name) {
        (None, Some(lookup)) => await_own_name(lookup, named_by, &found.endpoints, log)?,
        (given, _) => given.clone().unwrap_or_default(),
    };
    let (host_lock, run_id) = match &target.host_lock {
        None => (None, RunId::new()),
        Some(file) => {
            let (lock, dead) = lock_host(file, log)?;
            (Some(lock), keep_run_id(file, dead, log))
        }
    };
    log_run_id(&run_id, log);
    let options = Options {
        addresses: found.endpoints,
        server: target.server.clone(),
        pool: target.pool.clone(),
        host,
        run_id: run_id.id.clone(),
        inherited: run_id.inherited.is_some(),
        wait_until,
        reach_by: target.wait_for_server.then_some(reach_by),
        only_run: target.host_lock.is_some(),
        outer: outer_tokens(plan, &lock_name(&target.pool, &target.server)),
        kill_after: plan.kill_after,
    };
    let link = Link::default().watching_the_peer();
    let lock = PoolLock::new(options, started, now());
    Ok(Parts {
        link,
        run_id: Some(run_id),
        host_lock,
        ..Parts::new(lock, addresses)
    })
}

/// The tokens with which the runs around this one hold a lock.
fn outer_tokens(plan: &Plan, lock: &str) -> Vec<i64> {
    let holds = plan.outer_locks.iter().filter(|outer| outer.lock == lock);
    holds.filter_map(|outer| outer.token).collect()
}

/// Starts to look up the name of this host, unless the user gave it.
fn look_up_own_name(target: &PoolTarget) -> Result<Option<HostnameLookup>, Stop> {
    let wanted = target.host.is_none();
    let lookup = wanted.then(HostnameLookup::start).transpose();
    lookup.map_err(Stop::system(LOOK_UP))
}

/// The name of this host for the lock server, if the user gave none.
fn await_own_name(
    lookup: HostnameLookup,
    deadline: Moment,
    servers: &[Endpoint],
    log: &mut Log,
) -> Result<String, Stop> {
    let found = lookup.wait(deadline).map_err(Stop::system(LOOK_UP))?;
    let name = found.unwrap_or_else(|| {
        let bare = host::name();
        log.warn(&format_args!("the full name of this host could not be looked up in time: using the short name {bare:?} (override with --as)"));
        bare
    });
    let shared = name == "localhost" || name.starts_with("localhost.");
    if shared && !servers.iter().all(|server| server.address.is_loopback()) {
        log.warn(&format_args!(
            "this host identifies itself to the server as {name:?}, and other hosts may do the same: a server that ignores run ids takes them for one host \
             and grants the lock to all of them; set a unique name with --as"
        ));
    }
    Ok(name)
}

/// The id of a run that has the lock of this host: that of the dead process which left the lock
/// behind, or a new one.
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

fn log_run_id(RunId { id, inherited, .. }: &RunId, log: &mut Log) {
    let whose = match inherited {
        None => String::new(),
        Some(Pid(0)) => {
            ", taken over from an earlier run whose slot the server may still keep".into()
        }
        Some(pid) => format!(", taken over from process {pid}, which was killed"),
    };
    log.write(Topic::Run, Level::Info, &format_args!("run id {id}{whose}"));
}

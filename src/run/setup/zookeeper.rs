//! Builds the locks of ZooKeeper: names of the servers, then the recipe of the plan.

use super::{LOOK_UP, Parts, Stop, checked, unreachable};
use crate::lock::zookeeper::SessionLock;
use crate::lock::zookeeper::layout::{self, NodeData};
use crate::lock::zookeeper::node::Node;
use crate::lock::zookeeper::queue::{Purpose, Queue};
use crate::lock::zookeeper::recipe::{self, Options};
use crate::lock::zookeeper::run_record;
use crate::lock::zookeeper::semaphore::Semaphore;
use crate::log::Log;
use crate::moment::Moment;
use crate::plan::{Cluster, Plan, Sharing};
use crate::prepare::{self, HostAddresses};
use crate::sys::clock::now;
use crate::sys::{host, process, random};
use std::time::Duration;

/// zk-flock's lock: one node of the first free name.
pub(super) fn node(
    options: Options,
    addresses: HostAddresses,
    app_id: &str,
    names: &[String],
) -> Parts {
    let pid = process::own_pid().0.unsigned_abs();
    let data = NodeData::new(host::name(), random::bytes(), pid);
    let lock = Node::lock(options, app_id, names.to_vec(), &data, now());
    Parts::new(lock, addresses)
}

/// lockex's lock: kazoo's queue for one holder or for readers, its semaphore for several holders.
pub(super) fn queue(
    options: Options,
    addresses: HostAddresses,
    path: &str,
    permits: u32,
    sharing: Sharing,
) -> Parts {
    let path = format!("{}{path}", options.cluster.chroot);
    let mark = layout::mark(random::bytes());
    let data = layout::contender_data(&host::name(), process::own_pid().0);
    if permits == 1 {
        let queue = Queue::new(path, mark, data, Purpose::Lock(sharing));
        Parts::new(SessionLock::new(options, queue, now()), addresses)
    } else {
        let semaphore = Semaphore::new(path, permits, &mark, data);
        Parts::new(SessionLock::new(options, semaphore, now()), addresses)
    }
}

/// The record of the last run at this path, if the run depends on it.
pub(super) fn record(
    plan: &Plan,
    cluster: &Cluster,
    path: impl FnOnce() -> String,
) -> Option<run_record::Options> {
    plan.every.map(|every| run_record::Options {
        every,
        path: path(),
        host: host::name(),
        pid: process::own_pid().0.unsigned_abs(),
        acl: cluster.acl,
    })
}

/// How long lockex tries to connect. By default it waits for the lock without limit, but not for a
/// server.
pub(super) fn connect_limit(wait: Duration, timeout: Duration) -> Duration {
    if wait == Duration::MAX {
        timeout
    } else {
        wait.max(timeout)
    }
}

/// Looks up the addresses of the servers, and collects what all locks of ZooKeeper need.
/// `max_rounds`: over all servers, where a look-up that finds no address counts as one.
pub(super) fn options(
    plan: &Plan,
    cluster: &Cluster,
    max_rounds: Option<u32>,
    connect_by: Moment,
    wait_until: Option<Moment>,
    log: &mut Log,
) -> Result<(Options, HostAddresses), Stop> {
    let mut addresses = HostAddresses::new(&cluster.hosts, &checked(&cluster.connection, log)?);
    let (found, done) = prepare::resolve_with_retries(&mut addresses, max_rounds, connect_by)
        .map_err(Stop::system(LOOK_UP))?;
    if found.endpoints.is_empty() {
        let failure = recipe::unreachable(&found.unresolved.join("; "));
        return Err(unreachable(&failure, log));
    }
    let outer_sessions = plan.outer_locks.iter().filter_map(|outer| outer.session);
    let options = Options {
        servers: found.endpoints,
        unresolved: found.unresolved,
        cluster: cluster.clone(),
        wait_until,
        connect_by,
        kill_after: plan.kill_after,
        max_rounds: max_rounds.map(|rounds| rounds - (done - 1)),
        max_restarts: None,
        outer_sessions: outer_sessions.collect(),
        takes_auth: true,
        record: None,
    };
    Ok((options, addresses))
}

//! Opens everything that the server needs, before its loop starts.

use super::listener::Listener;
use super::state_file::{self, StateFile};
use super::store::Store;
use super::system::Linux;
use super::{LISTENER, Parts, SIGNALS, ServerLoop, TIMER};
use crate::endpoint::Endpoint;
use crate::lock::zookeeper::acl;
use crate::log;
use crate::moment::Moment;
use crate::plan::{self, Connection, ExitReason, PoolEnsemble, Server};
use crate::pool::Backend;
use crate::pool::memcached::Memcache;
use crate::pool::memory::Memory;
use crate::pool::state::{BootTime, Clocks, State};
use crate::pool::zookeeper::{self, ZooKeeper};
use crate::prepare::{self, HostAddresses};
use crate::reason::reason;
use crate::signal::Signal;
use crate::sys::clock::{self, now};
use crate::sys::descriptors;
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::signals::Signals;
use crate::sys::timer::Timer;
use std::io;
use std::slice::from_ref;
use std::time::Duration;

/// How long the look-up of names may take at the start: systemd gives up a unit that fails five times
/// within 10 s, and name servers may be reached later than that at boot.
const LOOK_UP: Duration = Duration::from_secs(10);

/// Opens all resources of a server. On failure: the result of the program, and what failed.
pub(super) fn open(plan: &Server) -> Result<(ServerLoop<'_, Linux>, Timer), (ExitReason, String)> {
    let signals = Signals::take_only(&[Signal::TERM, Signal::INT, Signal::HUP])
        .map_err(system("receive signals"))?;
    let timer = Timer::new().map_err(system("create a timer"))?;
    let epoll = Epoll::new().map_err(system("create an epoll"))?;
    // Before clients can connect: at boot it may take a while until the name can be looked up.
    let unreachable = |why| (ExitReason::Unreachable, why);
    let (store, servers) = match &plan.backend {
        plan::Backend::Memory => (None, Vec::new()),
        plan::Backend::Memcache(host) => {
            let mut names = HostAddresses::new(from_ref(host), &Connection::Direct);
            let addresses = find_servers("memcached", &mut names).map_err(unreachable)?;
            (Some(Store::listed(addresses)), Vec::new())
        }
        plan::Backend::ZooKeeper(ensemble) => {
            let connection = checked(plan, ensemble)?;
            let mut names = HostAddresses::new(&ensemble.hosts, &connection);
            let servers = find_servers("ZooKeeper", &mut names).map_err(unreachable)?;
            (Some(Store::chosen(names, now())), servers)
        }
    };
    let descriptors = descriptors::raise_limit().map_err(system("read the limit of open files"))?;
    let listener =
        Listener::open(plan, descriptors).map_err(|why| (ExitReason::SystemError, why))?;
    let opened = plan.state.as_deref().map(StateFile::open).transpose();
    let (state_file, state) = opened
        .map_err(|error| (error.end(), error.to_string()))?
        .unzip();
    watch(&epoll, &listener, &signals, &timer).map_err(system("watch descriptors"))?;
    let parts = Parts {
        backend: backend(
            plan,
            servers,
            state,
            clock::unix_time(),
            state_file::clocks,
            now(),
        ),
        epoll,
        signals,
        listener,
        state_file,
        store,
    };
    Ok((ServerLoop::new(plan, log::print_event, parts), timer))
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> (ExitReason, String) {
    move |error| {
        (
            ExitReason::SystemError,
            format!("cannot {what}: {}", reason(&error)),
        )
    }
}

fn watch(epoll: &Epoll, listener: &Listener, signals: &Signals, timer: &Timer) -> io::Result<()> {
    listener.watch(epoll, LISTENER)?;
    epoll.add(signals.fd(), SIGNALS, Interest::Read)?;
    match timer.fd() {
        Some(fd) => epoll.add(fd, TIMER, Interest::Read),
        None => Ok(()),
    }
}

/// How connections to an ensemble are made, once the files and the program for TLS were checked.
pub(super) fn checked(
    plan: &Server,
    ensemble: &PoolEnsemble,
) -> Result<Connection, (ExitReason, String)> {
    prepare::tls::checked(&ensemble.connection).map_err(|why| {
        let config = plan.config.display();
        (ExitReason::ConfigError, format!("{config}: \"tls\": {why}"))
    })
}

/// The addresses of the servers that keep the holders, at least one.
fn find_servers(store: &str, names: &mut HostAddresses) -> Result<Vec<Endpoint>, String> {
    let found = prepare::resolve_with_retries(names, None, now() + LOOK_UP);
    let (found, _) =
        found.map_err(|error| format!("cannot look up {store}: {}", reason(&error)))?;
    if found.endpoints.is_empty() {
        let why = found.unresolved.join("; ");
        return Err(format!("cannot reach {store}: {why}"));
    }
    Ok(found.endpoints)
}

/// The backend of a server that starts at this time with this saved state. `servers`: those of the
/// ensemble, if that keeps the holders.
pub fn backend(
    plan: &Server,
    servers: Vec<Endpoint>,
    state: Option<State>,
    real_time: Duration,
    clocks: impl FnOnce() -> Clocks,
    now: Moment,
) -> Box<dyn Backend> {
    let pools = plan.pools.clone();
    let seed = i64::try_from(real_time.as_micros()).unwrap_or(i64::MAX);
    match &plan.backend {
        plan::Backend::Memory => Box::new(Memory::new(pools, state, seed, now)),
        plan::Backend::Memcache(host) => Box::new(Memcache::new(
            pools,
            host.to_string(),
            BootTime::of(&clocks()),
            now,
        )),
        plan::Backend::ZooKeeper(ensemble) => {
            let options = zookeeper::Options {
                servers,
                timeout: ensemble.timeout,
                auth: ensemble.auth.clone(),
                acl: acl::of(ensemble.acl),
                path: ensemble.path.clone(),
                boot: BootTime::of(&clocks()),
            };
            Box::new(ZooKeeper::new(pools, options, now))
        }
    }
}

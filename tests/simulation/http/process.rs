//! The processes of distributexd, and their state files.

use super::super::{ConnId, Event as WorldEvent, Link, Packet, SECOND, World, run_as, with};
use super::kernel::{Kernel, Listener, Signals, StateFile, ToMemcached};
use super::scenario::{Backend, Fault, Pool};
use super::zookeeper::PATH;
use super::{Event, Http};
use crate::random::Random;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;
use zk_flock::internals::endpoint::{Address, Endpoint};
use zk_flock::internals::lock::Lock;
use zk_flock::internals::lock::http::{Options, PoolLock};
use zk_flock::internals::moment::Moment;
use zk_flock::internals::plan::{self, Level};
use zk_flock::internals::serve::{self, Clocks, Parts, ServerLoop, State, Turn};
use zk_flock::internals::signal::Signal;
use zk_flock::internals::sys;

/// The ids of the servers' processes, below those of all others.
const FIRST_PID: i32 = 4_900_000;

/// The time of the wall clocks at the beginning, in µs since 1970.
const EPOCH: u64 = 1_763_000_000 * SECOND;

/// How long a save takes: a fast disk, seldom a slow moment.
const SAVE: (u64, u64) = (200, 30_000);
const SLOW_SAVE: (u64, u64) = (30_000, 300_000);

/// A server's process and its host.
#[derive(Debug)]
pub struct Server {
    pub host: usize,
    pub up: bool,
    /// Its host has lost power, so that the kernel sends nothing for it.
    pub is_off: bool,
    /// How often it has ended.
    life: u64,
    stopped: bool,
    scheduled: bool,
    pending: bool,
    pub timer: u64,
    pub signals: VecDeque<Signal>,
    /// How far this turn has come beyond the moment at which it began.
    lag: u64,
    busy_until: u64,
    /// What it has sent after the moment at which its turn began.
    outgoing: VecDeque<(u64, ConnId, Packet)>,
    pub backlog: VecDeque<ConnId>,
    disk: Disk,
    /// How far its wall clock is from real time, in µs.
    wall: i64,
}

/// The state file.
#[derive(Debug, Default)]
struct Disk {
    text: Option<String>,
    /// Saves of the last turn, and when each is complete.
    writes: Vec<(u64, String)>,
    /// How many faults have filled it, and how much slower faults make it, in ms.
    full: u32,
    slow: Vec<u32>,
}

impl Server {
    pub fn new(host: usize) -> Server {
        Server {
            host,
            up: false,
            is_off: false,
            life: 0,
            stopped: false,
            scheduled: false,
            pending: false,
            timer: 0,
            signals: VecDeque::new(),
            lag: 0,
            busy_until: 0,
            outgoing: VecDeque::new(),
            backlog: VecDeque::new(),
            disk: Disk::default(),
            wall: 0,
        }
    }
}

/// The process of a server.
pub fn pid_of(server: usize) -> i32 {
    FIRST_PID + i32::try_from(server).expect("few servers")
}

/// The server whose process this is.
pub fn server_of(pid: i32) -> Option<usize> {
    let index = usize::try_from(pid - FIRST_PID).ok()?;
    (index < 100).then_some(index)
}

/// The server that runs now.
pub fn own_server() -> usize {
    server_of(super::super::own()).expect("a server")
}

impl World {
    fn server(&mut self, server: usize) -> &mut Server {
        &mut self.http().servers[server]
    }

    /// Starts all servers.
    pub(in super::super) fn start_servers(&mut self) {
        for server in 0..self.http.as_ref().map_or(0, |http| http.servers.len()) {
            self.after(0, WorldEvent::Http(Event::Start(server)));
        }
    }

    /// Whether the host of a server is awake.
    pub(in super::super) fn server_is_awake(&self, server: usize) -> bool {
        let server = self.http.as_ref().and_then(|http| http.servers.get(server));
        let host = server.map(|server| server.host);
        host.is_none_or(|host| !self.hosts[host].asleep)
    }

    /// Something has happened that a server waits for.
    pub(in super::super) fn notify_server(&mut self, server: usize) {
        let now = self.now;
        let awake = self.server_is_awake(server);
        let host = self.server(server).host;
        let busy = self.hosts[host].busy > 0;
        let http = self.http.as_mut().expect("lock servers");
        let process = &mut http.servers[server];
        if !process.up || process.scheduled {
            return;
        }
        if process.stopped || !awake {
            process.pending = true;
            return;
        }
        process.scheduled = true;
        let delay = if busy {
            http.random.magnitude(100, 60_000)
        } else {
            http.random.magnitude(5, 200)
        };
        let (at, life) = ((now + delay).max(process.busy_until), process.life);
        self.at(at, WorldEvent::Http(Event::Wake(server, life)));
    }

    /// Whether a server that was scheduled runs now.
    fn server_begins(&mut self, server: usize, life: u64) -> bool {
        let awake = self.server_is_awake(server);
        let process = self.server(server);
        if process.life != life || !process.up {
            return false;
        }
        process.scheduled = false;
        if process.stopped || !awake {
            process.pending = true;
            return false;
        }
        (process.lag, process.busy_until) = (0, 0);
        self.flush(server);
        let disk = &mut self.server(server).disk;
        if let Some((_, text)) = disk.writes.pop() {
            disk.text = Some(text);
            disk.writes.clear();
        }
        true
    }

    /// A server goes to sleep.
    fn server_sleeps(&mut self, server: usize, until: Moment) {
        let host = self.server(server).host;
        let process = self.server(server);
        process.timer += 1;
        let (timer, lag) = (process.timer, std::mem::take(&mut process.lag));
        let begins = self.now + lag;
        self.server(server).busy_until = begins;
        if until != Moment::NEVER {
            let at = self.when(host, until).max(begins);
            self.at(at, WorldEvent::Http(Event::Timer(server, timer)));
        }
        if self.server_has_work(server) {
            self.notify_server(server);
        }
    }

    fn server_has_work(&mut self, server: usize) -> bool {
        let process = self.server(server);
        !process.backlog.is_empty()
            || !process.signals.is_empty()
            || self.has_ready_connections(server)
            || self.memcached_is_ready(server)
    }

    fn memcached_is_ready(&self, server: usize) -> bool {
        let pid = pid_of(server);
        let mut conns = self.conns.values();
        conns.any(|conn| conn.pid == pid && !conn.closed && conn.is_ready())
    }

    fn server_events(&mut self, server: usize) -> Vec<sys::Event> {
        let event = |key| sys::Event { key, ended: false };
        let mut events = Vec::new();
        if !self.server(server).signals.is_empty() {
            events.push(event(serve::SIGNALS));
        }
        if !self.server(server).backlog.is_empty() {
            events.push(event(serve::LISTENER));
        }
        if self.memcached_is_ready(server) {
            events.push(event(serve::STORE));
        }
        events.extend(self.ready_connections(server));
        events
    }

    /// The time of a server's host, for the server that runs now.
    pub(super) fn server_clock(&self, server: usize) -> Moment {
        let process = &self.http.as_ref().expect("lock servers").servers[server];
        self.clock(process.host) + Duration::from_micros(process.lag)
    }

    /// The clocks of a server's host.
    fn server_clocks(&self, server: usize) -> Clocks {
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).expect("small");
        Clocks {
            boot: Some("boot".into()),
            date: milliseconds(self.wall_clock(server)),
            uptime: milliseconds(self.server_clock(server).0),
        }
    }

    fn wall_clock(&self, server: usize) -> Duration {
        let process = &self.http.as_ref().expect("lock servers").servers[server];
        let time = (EPOCH + self.now).checked_add_signed(process.wall);
        Duration::from_micros(time.expect("after 1970"))
    }

    /// What a server sends leaves its host, or does so once its turn has come to that.
    pub(super) fn leaves(&mut self, server: usize, id: ConnId, packet: Packet) {
        let now = self.now;
        let process = self.server(server);
        if process.lag == 0 && process.outgoing.is_empty() {
            return self.transmit(id, false, packet);
        }
        let at = now + process.lag;
        process.outgoing.push_back((at, id, packet));
        self.at(at, WorldEvent::Http(Event::Flush(server)));
    }

    pub(super) fn flush(&mut self, server: usize) {
        let now = self.now;
        if self.server(server).stopped || !self.server_is_awake(server) {
            return; // when it runs again
        }
        while let Some((at, ..)) = self.server(server).outgoing.front() {
            if *at > now {
                return;
            }
            let (_, id, packet) = self.server(server).outgoing.pop_front().expect("a packet");
            self.transmit(id, false, packet);
        }
    }

    /// Saves the state of a server. The file has it when the time of the save is over.
    pub(super) fn save(&mut self, server: usize, state: &State) -> Result<(), String> {
        let clocks = self.server_clocks(server);
        let (now, http) = (self.now, self.http.as_mut().expect("lock servers"));
        let process = &mut http.servers[server];
        let slow = process.disk.slow.iter().max().copied().unwrap_or(0);
        let mut takes = http.random.magnitude(SAVE.0, SAVE.1);
        if http.random.once_in(50) {
            takes = http.random.between(SLOW_SAVE.0, SLOW_SAVE.1);
        }
        process.lag += takes + http.random.below(u64::from(slow) * 1000 + 1);
        let fails = process.disk.full > 0;
        if !fails || http.random.once_in(2) {
            let done = now + process.lag;
            process.disk.writes.push((done, state.text(&clocks)));
        }
        if fails {
            Err("no space left on device".into())
        } else {
            Ok(())
        }
    }

    /// A server's process is killed; its connections are closed by the caller.
    fn server_dies(&mut self, server: usize, is_off: bool) {
        let now = self.now;
        let http = self.http.as_mut().expect("lock servers");
        let process = &mut http.servers[server];
        (process.up, process.scheduled, process.pending) = (false, false, false);
        process.is_off = is_off;
        process.life += 1;
        process.timer += 1;
        (process.lag, process.stopped) = (0, false);
        for (done, text) in std::mem::take(&mut process.disk.writes) {
            if done > now && http.random.once_in(2) {
                break;
            }
            process.disk.text = Some(text);
            if done > now {
                break;
            }
        }
        // What it would have sent later is not sent; what it would have closed is closed.
        let outgoing = std::mem::take(&mut process.outgoing);
        let backlog = std::mem::take(&mut process.backlog);
        process.signals.clear();
        for (at, id, packet) in outgoing {
            let is_data = matches!(packet, Packet::Data(_));
            if !is_off && (at <= now || !is_data) {
                self.transmit(id, false, packet);
            }
        }
        let pid = pid_of(server);
        let conns = self.conns.iter().filter(|(_, conn)| conn.pid == pid);
        let to_memcached: Vec<ConnId> = conns.map(|(&id, _)| id).collect();
        for id in to_memcached {
            self.close_client(id, false);
        }
        for id in backlog {
            self.http().ends.remove(&id);
            if !is_off {
                self.transmit(id, false, Packet::Rst);
            }
        }
    }

    /// What a server that starts finds.
    fn server_starts(&mut self, server: usize) -> (Option<State>, Duration, Clocks, Moment) {
        let clocks = self.server_clocks(server);
        let real_time = self.wall_clock(server);
        let now = self.now;
        let moment = self.server_clock(server);
        let http = self.http.as_mut().expect("lock servers");
        let process = &mut http.servers[server];
        (process.up, process.is_off) = (true, false);
        let state = match http.pool.backend {
            Backend::File => {
                let text = process.disk.text.as_deref();
                let parse = |text: &str| State::parse(text.as_bytes(), Path::new("state"), &clocks);
                Some(text.map_or_else(State::default, |text| {
                    parse(text).expect("a state that was saved")
                }))
            }
            Backend::Memcached | Backend::ZooKeeper { .. } => None,
            Backend::Memory => {
                if process.life > 0 {
                    http.forgot = Some((now, http.newest_token));
                }
                None
            }
        };
        (state, real_time, clocks, moment)
    }
}

/// The loops of the servers.
#[derive(Default)]
pub struct Servers {
    loops: BTreeMap<usize, Box<ServerLoop<'static, Kernel>>>,
    /// The servers that a fault has ended, to be started again at its end.
    ended: BTreeMap<usize, usize>,
    /// How many faults have each server read a config that bars all clients.
    barred: BTreeMap<usize, u32>,
}

impl Servers {
    /// Something happens to a server.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Start(server) => self.start(server),
            Event::Wake(server, life) => {
                if with(|world| world.server_begins(server, life)) {
                    self.wake(server);
                }
            }
            event => with(|world| world.http_event(&event)),
        }
    }

    fn start(&mut self, server: usize) {
        if self.loops.contains_key(&server) {
            return;
        }
        let (state, real_time, clocks, moment) = with(|world| world.server_starts(server));
        let (pool, tracing) = with(|world| (world.http().pool, world.tracing));
        let plan = plan_of(pool, tracing);
        let members = with(World::members);
        let parts = Parts::<Kernel> {
            backend: serve::backend(plan, members, state, real_time, || clocks, moment),
            epoll: (),
            signals: Signals(server),
            listener: Listener(server),
            state_file: plan.state.is_some().then_some(StateFile(server)),
            store: pool.backend.is_shared().then(|| ToMemcached {
                address: Address::Tcp(([10, 0, 0, pool.servers + 1], 11211).into()),
                link: Link::default(),
            }),
        };
        with(|world| world.note(&format!("server {server} starts")));
        let server_loop = run_as(pid_of(server), || ServerLoop::new(plan, print, parts));
        self.loops.insert(server, Box::new(server_loop));
        self.turn(server);
    }

    fn wake(&mut self, server: usize) {
        let Some(server_loop) = self.loops.get_mut(&server) else {
            return;
        };
        let is_barred = self.barred.get(&server).is_some_and(|&faults| faults > 0);
        let events = with(|world| world.server_events(server));
        run_as(pid_of(server), || {
            server_loop.handle_events(events, &mut || {
                let mut plan = with(|world| plan_of(world.http().pool, world.tracing)).clone();
                if is_barred {
                    plan.pools[0].servers = Some(vec!["no-host".into()]);
                }
                Ok(plan)
            });
        });
        self.turn(server);
    }

    fn turn(&mut self, server: usize) {
        let Some(server_loop) = self.loops.get_mut(&server) else {
            return;
        };
        match run_as(pid_of(server), || server_loop.turn()) {
            Turn::Sleep(until) => with(|world| world.server_sleeps(server, until)),
            Turn::End => self.end(server, false),
        }
    }

    /// A server's process ends.
    fn end(&mut self, server: usize, is_off: bool) {
        with(|world| {
            world.note(&format!("server {server} ends"));
            world.server_dies(server, is_off);
        });
        let server_loop = self.loops.remove(&server);
        run_as(pid_of(server), || drop(server_loop));
    }

    /// Begins a fault of servers. Returns how long it lasts, if it does.
    pub fn begin(&mut self, item: usize, fault: Fault) -> Option<u32> {
        match fault {
            Fault::Kill { server, lasts } => {
                let server = usize::from(server);
                if self.loops.contains_key(&server) {
                    self.end(server, false);
                    self.ended.insert(item, server);
                }
                Some(lasts)
            }
            Fault::PowerCut { server, lasts } => {
                let server = usize::from(server);
                with(|world| world.server_fault(item, fault, true));
                if !with(|world| world.server(server).is_off) {
                    self.end(server, true);
                    self.ended.insert(item, server);
                }
                Some(lasts)
            }
            Fault::Term { server, lasts } => {
                let server = usize::from(server);
                if self.loops.contains_key(&server) {
                    with(|world| {
                        world.server(server).signals.push_back(Signal::TERM);
                        world.notify_server(server);
                    });
                    self.ended.insert(item, server);
                }
                Some(lasts)
            }
            Fault::Bar { server, lasts } => {
                *self.barred.entry(server.into()).or_default() += 1;
                hang_up(server.into());
                Some(lasts)
            }
            Fault::Revoke { server } => {
                with(|world| world.revoke(server.into()));
                None
            }
            fault => with(|world| world.server_fault(item, fault, true)),
        }
    }

    /// Ends a fault.
    pub fn over(&mut self, item: usize, fault: Fault) {
        match fault {
            Fault::Kill { .. } | Fault::Term { .. } => {
                let Some(server) = self.ended.remove(&item) else {
                    return;
                };
                if with(|world| world.server(server).is_off) {
                    return; // it starts with its host
                }
                if self.loops.contains_key(&server) {
                    self.end(server, false); // a second signal, or KILL, by the service manager
                }
                self.start(server);
            }
            Fault::PowerCut { .. } => {
                with(|world| world.server_fault(item, fault, false));
                if let Some(server) = self.ended.remove(&item) {
                    self.start(server);
                }
            }
            Fault::Bar { server, .. } => {
                *self.barred.entry(server.into()).or_default() -= 1;
                hang_up(server.into());
            }
            fault => _ = with(|world| world.server_fault(item, fault, false)),
        }
    }
}

/// HUP to a server.
fn hang_up(server: usize) {
    with(|world| {
        if world.server(server).up {
            world.server(server).signals.push_back(Signal::HUP);
            world.notify_server(server);
        }
    });
}

impl World {
    /// Begins or ends a fault that needs no process to be started or ended.
    #[allow(clippy::too_many_lines)] // one row for each kind of fault
    fn server_fault(&mut self, item: usize, fault: Fault, begins: bool) -> Option<u32> {
        let (server, lasts) = fault.of();
        let server = usize::from(server);
        let host = self.server(server).host;
        match fault {
            Fault::Kill { .. } | Fault::Term { .. } | Fault::Bar { .. } | Fault::Revoke { .. } => {}
            Fault::LateReply { host, by } => {
                if begins {
                    self.http().late.insert(host.into(), by);
                }
            }
            Fault::Stop { .. } => {
                let process = self.server(server);
                process.stopped = begins;
                if !begins && std::mem::take(&mut process.pending) {
                    self.notify_server(server);
                }
            }
            Fault::Suspend { .. } => {
                self.hosts[host].asleep = begins;
                let process = self.server(server);
                if !begins && std::mem::take(&mut process.pending) {
                    self.notify_server(server);
                }
                self.unblock();
            }
            Fault::Cut { there, back, .. } => {
                if begins {
                    self.cut_off(item, server, there, back);
                } else {
                    self.cuts.retain(|cut| cut.item != item);
                    self.unblock();
                }
            }
            Fault::PowerCut { .. } => {
                if begins {
                    self.cut_off(item, server, true, true);
                } else {
                    self.forget_sent(server);
                    self.cuts.retain(|cut| cut.item != item);
                    self.unblock();
                }
            }
            Fault::CutStore { there, back, .. } => {
                if begins {
                    self.cut_from_store(item, host, there, back);
                } else {
                    self.cuts.retain(|cut| cut.item != item);
                    self.unblock();
                }
            }
            Fault::Isolate { .. } => {
                if begins {
                    self.cut_off(item, server, true, true);
                    self.cut_from_store(item, host, true, true);
                } else {
                    self.cuts.retain(|cut| cut.item != item);
                    self.unblock();
                }
            }
            Fault::LoseInStore { there, after, .. } => {
                if begins && there {
                    self.hosts[host].lose_there = Some(after);
                } else if begins {
                    self.hosts[host].lose_back = Some(after);
                }
            }
            Fault::StopMemcached { .. } => self.stop_memcached(begins),
            Fault::RestartMemcached if begins => self.memcached_forgets(true),
            Fault::Evict if begins => self.memcached_forgets(false),
            Fault::RestartMemcached | Fault::Evict => {}
            Fault::DiskFull { .. } => {
                let full = &mut self.server(server).disk.full;
                *full = if begins { *full + 1 } else { *full - 1 };
            }
            Fault::SlowDisk { by, .. } => {
                let slow = &mut self.server(server).disk.slow;
                if begins {
                    slow.push(by);
                } else if let Some(at) = slow.iter().position(|&slow| slow == by) {
                    slow.remove(at);
                }
            }
            Fault::Clock { by, .. } => {
                if begins {
                    self.server(server).wall += i64::from(by) * 1000;
                    self.http().clock_was_set = true;
                }
            }
        }
        lasts
    }
}

impl World {
    /// Nothing passes from the hosts to a server, or back.
    fn cut_off(&mut self, item: usize, server: usize, there: bool, back: bool) {
        for host in 0..usize::from(self.scenario.hosts) {
            self.cuts.push(super::super::Cut {
                item,
                host,
                server: Some(server),
                there,
                back,
            });
        }
    }

    /// Nothing passes from a server's host to what keeps its holders, or back. Its clients' links
    /// are those of their hosts.
    fn cut_from_store(&mut self, item: usize, host: usize, there: bool, back: bool) {
        self.cuts.push(super::super::Cut {
            item,
            host,
            server: None,
            there,
            back,
        });
    }

    /// A host that has lost power does not repeat what it had sent.
    fn forget_sent(&mut self, server: usize) {
        let conns = self.conns.values_mut();
        for conn in conns.filter(|conn| conn.server == server) {
            conn.blocked[1].clear();
        }
    }
}

/// Where the log of a server goes.
fn print(_: &str, _: Level, message: &dyn Display) {
    with(|world| {
        if world.tracing {
            let server = own_server();
            world.note(&format!("server {server}: {message}"));
        }
    });
}

thread_local! {
    static PLANS: RefCell<BTreeMap<(Pool, bool), &'static plan::Server>> = const { RefCell::new(BTreeMap::new()) };
}

/// The plan of a server, kept for all servers of such pools.
fn plan_of(pool: Pool, verbose: bool) -> &'static plan::Server {
    PLANS.with_borrow_mut(|plans| {
        *plans.entry((pool, verbose)).or_insert_with(|| {
            Box::leak(Box::new(plan::Server {
                program: "distributexd",
                config: "distributex.yaml".into(),
                listen: None,
                port: 9889,
                pools: vec![plan::Pool {
                    name: "pool".into(),
                    expire: (pool.expire > 0).then(|| Duration::from_secs(pool.expire.into())),
                    permits: pool.slots.into(),
                    servers: None,
                }],
                access: plan::Access::default(),
                backend: match pool.backend {
                    Backend::Memory | Backend::File => plan::Backend::Memory,
                    Backend::Memcached => plan::Backend::Memcache(plan::Host::Tcp {
                        name: "memcached".into(),
                        port: 11211,
                    }),
                    Backend::ZooKeeper { timeout } => {
                        plan::Backend::ZooKeeper(plan::PoolEnsemble {
                            hosts: vec![], // `members` has the addresses
                            connection: plan::Connection::Direct,
                            timeout: Duration::from_millis(timeout.into()),
                            auth: None,
                            acl: plan::Acl::Open,
                            path: PATH.into(),
                        })
                    }
                },
                state: matches!(pool.backend, Backend::File).then(|| "state".into()),
                warnings: vec![],
                exit_codes: plan::ExitCodes {
                    busy: None,
                    busy_default: 1,
                    sysexits: false,
                },
                manager: None,
                verbose,
            }))
        })
    })
}

/// The lock of a run, as `run::setup` builds it.
pub fn lock(
    world: &World,
    pool: Pool,
    pid: i32,
    host: usize,
    wait: u32,
    kill_after: Duration,
    now: Moment,
) -> Box<dyn Lock> {
    let run = world.procs[&pid].run;
    let random = &mut Random::new(world.scenario.seed, u64::try_from(pid).expect("a pid"));
    let mut addresses: Vec<Endpoint> = (0..pool.servers)
        .map(|server| Endpoint {
            name: format!("dx{server}:9889"),
            address: Address::Tcp(([10, 0, 0, server + 1], 9889).into()),
        })
        .collect();
    if random.once_in(2) {
        addresses.reverse();
    }
    let wait_until = match wait {
        0 => None,
        u32::MAX => Some(Moment::NEVER),
        wait => Some(now + Duration::from_millis(wait.into())),
    };
    let options = Options {
        addresses,
        server: plan::LockServer::new(plan::Host::Tcp {
            name: "dx".into(),
            port: 9889,
        }),
        pool: "pool".into(),
        host: if pool.shared_names {
            format!("host{host}")
        } else {
            format!("host{host}-{run}")
        },
        run_id: format!("run{run}"),
        inherited: false,
        wait_until,
        reach_by: None,
        only_run: false,
        outer: vec![],
        kill_after,
    };
    Box::new(PoolLock::new(options, now, now))
}

impl Http {
    /// The host of a server's process.
    pub(in super::super) fn host_of(&self, pid: i32) -> Option<usize> {
        Some(self.servers[server_of(pid)?].host)
    }
}

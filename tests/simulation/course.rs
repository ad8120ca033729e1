//! The course of one scenario: runs the program's loops on the simulated hosts until the cluster is
//! at rest, and checks that it comes to rest.

use crate::random::Random;
use crate::scenario::{Item, Kind, Scenario, Script, Target, What};
use crate::world::http::curl::{self, Curl, Errand};
use crate::world::http::{self, Servers};
use crate::world::{
    self, Cut, Error, Event, Figures, GUARD_END, Link, Signals, Simulated, World, run_as, with,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic;
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;
use zk_flock::internals::endpoint::{Address, Endpoint};
use zk_flock::internals::eviction::{self as oneshot, Client, Eviction};
use zk_flock::internals::lock::Lock;
use zk_flock::internals::lock::zookeeper::SessionLock;
use zk_flock::internals::lock::zookeeper::layout::{self, NodeData};
use zk_flock::internals::lock::zookeeper::node::Node;
use zk_flock::internals::lock::zookeeper::queue::{Purpose, Queue};
use zk_flock::internals::lock::zookeeper::recipe::Options;
use zk_flock::internals::lock::zookeeper::run_record;
use zk_flock::internals::lock::zookeeper::semaphore::Semaphore;
use zk_flock::internals::log::Log;
use zk_flock::internals::moment::Moment;
use zk_flock::internals::plan::{self, Plan, Sharing};
use zk_flock::internals::run::{
    Guard, GuardLoop, OneShotLoop, Report, Run, System, Turn, is_too_late,
};
use zk_flock::internals::signal::{Signal, Status};
use zk_flock::internals::sys::Pid;
use zk_flock::internals::zookeeper::record::Acl;

const SECOND: u64 = 1_000_000;

/// Time that each run may take beside its own, after the last fault: its session may have to expire
/// first, and a waiter looks again.
const PER_RUN: u64 = 3 * SECOND;

/// Time for elections, pauses between attempts to connect, and lost packets that are repeated.
const TO_RECOVER: u64 = 60 * SECOND;

/// How long the servers may take to answer `--break` at least (`run::evict::MIN_LIMIT`).
const LEAST_LIMIT: Duration = Duration::from_secs(1);

/// What came of a scenario.
#[derive(Debug)]
pub struct Outcome {
    pub violation: Option<String>,
    pub trace: Vec<String>,
    pub figures: Figures,
}

/// A process of the program.
enum Actor {
    ZkFlock(Box<Run<'static, Simulated>>),
    Guard(Box<GuardLoop<'static, Simulated>>),
    Operator(Box<OneShotLoop<Client<Eviction>, Simulated>>),
    Curl(Box<Curl>),
}

/// Plays a scenario.
pub fn play(scenario: &Scenario, tracing: bool) -> Outcome {
    play_with(scenario, tracing, None)
}

/// Plays a scenario on hosts with an error, if one is given.
pub fn play_with(scenario: &Scenario, tracing: bool, error: Option<Error>) -> Outcome {
    let mut world = World::new(scenario.clone(), tracing);
    world.error = error;
    world::set(Some(world));
    let mut course = Course {
        servers: Servers::default(),
        actors: BTreeMap::new(),
        items_left: scenario.items.len(),
        quiet_from: None,
    };
    let panicked = quietly(|| course.play());
    course.forget();
    let mut world = world::set(None).expect("the world of this course");
    if let Some(message) = panicked {
        world.violate(format!("panic: {message}"));
    }
    world.figures.microseconds = world.now;
    world.figures.elections = world.ensemble.elections;
    world.figures.expiries = world.ensemble.expiries;
    Outcome {
        violation: world.violation,
        trace: world.trace,
        figures: world.figures,
    }
}

thread_local! {
    /// The message of a panic of this thread, while it plays.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static PLAYS: Cell<bool> = const { Cell::new(false) };
}

/// Does this, and returns the message of its panic, which is not printed.
fn quietly(work: impl FnOnce()) -> Option<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if PLAYS.get() {
                PANIC.set(Some(info.to_string()));
            } else {
                usual(info);
            }
        }));
    });
    PLAYS.set(true);
    let result = panic::catch_unwind(panic::AssertUnwindSafe(work));
    PLAYS.set(false);
    result
        .err()
        .map(|_| PANIC.take().unwrap_or_default().replace('\n', " "))
}

struct Course {
    servers: Servers,
    actors: BTreeMap<i32, Actor>,
    items_left: usize,
    /// From when on nothing happens to the cluster any more.
    quiet_from: Option<u64>,
}

impl Course {
    /// Drops all processes, also one that was interrupted by a panic.
    fn forget(mut self) {
        let actors = std::mem::take(&mut self.actors);
        quietly(|| drop(actors));
    }

    fn play(&mut self) {
        let mut deadline = u64::MAX;
        while let Some(event) = with(World::next) {
            self.handle(event);
            with(World::settle);
            let (now, violated) = with(|world| (world.now, world.violation.is_some()));
            if violated {
                return;
            }
            if self.items_left == 0 && self.quiet_from.is_none() {
                self.quiet_from = Some(now);
                deadline = now + with(|world| bound(&world.scenario));
            }
            if self.quiet_from.is_some() && with(is_at_rest) {
                return with(check_rest);
            }
            if now > deadline {
                return with(not_at_rest);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Item(index) => self.item(index),
            Event::Over(index) => {
                self.items_left -= 1;
                with(|world| over(world, index));
                let what = with(|world| world.scenario.items[index].what);
                if let What::LockServer(fault) = what {
                    self.servers.over(index, fault);
                }
            }
            Event::Wake(pid) => self.wake(pid),
            Event::Timer(pid, number) => with(|world| world.timer(pid, number)),
            Event::Guard(pid) => self.start_guard(pid),
            Event::Operator(index) => self.start_operator(index),
            Event::CommandEnds(run) => with(|world| world.command_ends(run)),
            Event::Dies(pid, status) => with(|world| world.dies(pid, status)),
            Event::Continue(pid) => with(|world| world.stop(pid, false)),
            Event::Syn(conn, pause) => with(|world| world.syn(conn, pause)),
            Event::Connected(conn, result) => with(|world| world.connected(conn, result)),
            Event::Packet(conn, there, packet) => with(|world| world.packet(conn, there, packet)),
            Event::Retransmit(conn, there) => with(|world| world.retransmit(conn, there)),
            Event::Http(event) => self.servers.handle(event),
            Event::Ensemble(event) => with(|world| world.ensemble.event(event, world.now)),
        }
    }

    // Processes of the program.

    fn wake(&mut self, pid: i32) {
        if !with(|world| world.begin(pid)) {
            if with(|world| !world.procs.contains_key(&pid)) {
                self.actors.remove(&pid);
            }
            return;
        }
        let Some(actor) = self.actors.get_mut(&pid) else {
            return; // a guard that has not begun
        };
        match actor {
            Actor::ZkFlock(run) => {
                let ready = with(|world| world.ready(pid));
                run_as(pid, || run.on_wake(ready));
                self.turn(pid);
            }
            Actor::Guard(guard) => {
                run_as(pid, || guard.on_wake(&Signals));
                self.after_guard(pid);
            }
            Actor::Operator(client) => {
                if with(|world| world.ready(pid)).lock.contains(&true) {
                    run_as(pid, || client.read());
                }
                self.operate(pid);
            }
            Actor::Curl(script) => {
                if with(|world| world.ready(pid)).lock.contains(&true) {
                    run_as(pid, || script.read());
                }
                self.script(pid);
            }
        }
    }

    fn script(&mut self, pid: i32) {
        let Some(Actor::Curl(script)) = self.actors.get_mut(&pid) else {
            return;
        };
        if let Some(until) = run_as(pid, || script.turn()) {
            return with(|world| world.sleep(pid, until));
        }
        self.actors.remove(&pid);
        with(|world| world.curl_ends(pid));
    }

    fn start_script(&mut self, host: usize, errand: Errand) {
        let pid = with(|world| world.start_curl(host));
        let servers = with(|world| match world.scenario.kind {
            Kind::Pool(pool) => pool.servers,
            _ => unreachable!("there are lock servers"),
        });
        let name = format!("curl{pid}");
        let script = run_as(pid, || Curl::new(errand, servers, name));
        self.actors.insert(pid, Actor::Curl(Box::new(script)));
        self.script(pid);
    }

    fn operate(&mut self, pid: i32) {
        let Some(Actor::Operator(client)) = self.actors.get_mut(&pid) else {
            return;
        };
        match run_as(pid, || client.turn()) {
            Ok(until) => with(|world| world.sleep(pid, until)),
            Err(result) => {
                self.actors.remove(&pid);
                with(|world| world.broken(pid, &result));
            }
        }
    }

    fn start_operator(&mut self, index: usize) {
        self.items_left -= 1;
        let What::Break {
            host,
            wait,
            force,
            abandoned,
            ..
        } = with(|world| world.scenario.items[index].what)
        else {
            return;
        };
        let pid = with(|world| world.start_operator(index, host.into(), wait, force));
        if abandoned > 0 {
            let killed = Event::Dies(pid, Status::Killed(Signal::KILL));
            with(|world| world.after(u64::from(abandoned) * 1000, killed));
        }
        let now = run_as(pid, Simulated::now);
        let client = with(|world| eviction(world, pid, wait, force, now));
        let client = OneShotLoop::new(client, Link::default());
        self.actors.insert(pid, Actor::Operator(Box::new(client)));
        self.operate(pid);
    }

    fn turn(&mut self, pid: i32) {
        let Some(Actor::ZkFlock(run)) = self.actors.get_mut(&pid) else {
            return;
        };
        match run_as(pid, || run.turn()) {
            Turn::Sleep(until) => with(|world| world.sleep(pid, until)),
            Turn::End(end) => {
                with(|world| {
                    let run = world.procs[&pid].run;
                    world.ended(run, end);
                });
                self.actors.remove(&pid);
            }
        }
    }

    fn after_guard(&mut self, pid: i32) {
        let Some(Actor::Guard(guard)) = self.actors.get(&pid) else {
            return;
        };
        if let Some(until) = guard.wake() {
            return with(|world| world.sleep(pid, until));
        }
        self.actors.remove(&pid);
        with(|world| world.dies(pid, Status::Exited(0)));
    }

    fn start_guard(&mut self, pid: i32) {
        if !with(|world| world.begin(pid)) {
            // It is stopped or its host sleeps: it begins when it can.
            if with(|world| world.procs.contains_key(&pid)) {
                with(|world| world.after(20_000, Event::Guard(pid)));
            }
            return;
        }
        let (parent, lease, death_signal, kill_after) = with(|world| {
            let run = &world.runs[world.procs[&pid].run];
            (run.zk_flock, run.lease, run.death_signal, run.kill_after)
        });
        if run_as(pid, || is_too_late::<Simulated>(lease, &GUARD_END)) {
            return with(|world| world.dies(pid, Status::Exited(0)));
        }
        let command = Pid(with(|world| world.start_command(pid)));
        let guard = Guard::new(death_signal, kill_after, lease);
        let guard = run_as(pid, || {
            let terminal = Some(false);
            Simulated::send_report(&GUARD_END, Report::Started { command, terminal });
            GuardLoop::new("zk-flock", guard, command, &GUARD_END, Pid(parent))
        });
        self.actors.insert(pid, Actor::Guard(Box::new(guard)));
        self.after_guard(pid);
    }

    // The scenario.

    fn item(&mut self, index: usize) {
        let what = with(|world| {
            let (holder, server) = (world.holder(), world.server_of_holder());
            let what = &mut world.scenario.items[index].what;
            what.at_holder(holder, server);
            *what
        });
        if let What::Break { late, .. } = what {
            // The survey that finds the holder is not simulated: it only reads.
            with(|world| {
                if world.choose(index) {
                    world.after(u64::from(late) * 1000, Event::Operator(index));
                } else {
                    self.items_left -= 1;
                }
            });
            return;
        }
        with(|world| {
            if !matches!(what, What::Run { .. }) {
                world.note(&format!("{what:?}"));
                if !matches!(what, What::Curl { .. }) {
                    *world.figures.faults.entry(name(&what)).or_default() += 1;
                }
            }
        });
        if let What::Run {
            host,
            wait,
            hold,
            kill_after,
            script,
        } = what
        {
            self.items_left -= 1;
            return self.start_run(host.into(), wait, hold, kill_after, script);
        }
        if let What::Curl { host, errand } = what {
            self.items_left -= 1;
            return self.start_script(host.into(), errand);
        }
        let lasts = match what {
            What::LockServer(fault) => self.servers.begin(index, fault),
            what => with(|world| begin(world, index, what)),
        };
        match lasts {
            Some(lasts) => with(|world| world.after(u64::from(lasts) * 1000, Event::Over(index))),
            None => self.items_left -= 1,
        }
    }

    fn start_run(&mut self, host: usize, wait: u32, hold: u32, kill_after: u32, script: Script) {
        let kill_after = Duration::from_millis(kill_after.into());
        let every = with(|world| every(world));
        let plan = plan_of(Duration::from_millis(hold.into()), kill_after, every);
        let pid = with(|world| world.start_run(host, wait, script, kill_after));
        let now = run_as(pid, Simulated::now);
        let lock = with(|world| {
            let sharing = if world.scenario.kind.reads(script) {
                Sharing::Shared
            } else {
                Sharing::Exclusive
            };
            lock(world, pid, host, sharing, wait, kill_after, now)
        });
        let log = Log::new(&plan.log, plan.program, plan.verbose).printing_by(world::print);
        let run = run_as(pid, || {
            Run::of_lock(plan, log, lock, Link::default(), Signals)
        });
        self.actors.insert(pid, Actor::ZkFlock(Box::new(run)));
        self.turn(pid);
    }
}

fn name(what: &What) -> &'static str {
    match what {
        What::Run { .. } => "run",
        What::Cut { there, back, .. } | What::CutHost { there, back, .. } if *there != *back => {
            "cut of one direction"
        }
        What::Cut { .. } => "cut to one server",
        What::CutHost { .. } => "cut to all servers",
        What::Partition { .. } => "network in two parts",
        What::CutAfter { .. } => "cut at a packet",
        What::CutAtConnect { .. } => "cut after a connect",
        What::Slow { .. } => "slow network",
        What::Reset { .. } => "reset",
        What::LoseReplies { .. } => "lost replies",
        What::LoseRequests { .. } => "lost requests",
        What::KillServer { .. } => "server killed",
        What::StopServer { .. } => "server stopped",
        What::IsolateLeader { .. } => "leader isolated",
        What::Isolate { .. } => "server isolated",
        What::Lag { .. } => "server lags",
        What::KillAll { .. } => "all servers killed",
        What::Wipe => "servers wiped",
        What::Limit { .. } => "shorter timeout granted",
        What::Delete => "node deleted",
        What::Stop {
            target: Target::Both,
            ..
        } => "zk-flock and guard stopped",
        What::Stop {
            target: Target::Guard,
            ..
        } => "guard stopped",
        What::Stop { .. } => "zk-flock stopped",
        What::Kill {
            target: Target::Both,
            ..
        } => "zk-flock and guard killed",
        What::Kill {
            target: Target::Guard,
            ..
        } => "guard killed",
        What::Kill { .. } => "zk-flock killed",
        What::Suspend { .. } => "host suspended",
        What::Busy { .. } => "host busy",
        What::LockServer(fault) => fault.name(),
        What::Curl { .. } => "curl",
        What::Signal { .. } => "signal to zk-flock",
        What::SignalCommand { .. } => "signal to the command",
        What::Break { force: true, .. } => "break --force",
        What::Break { .. } => "break",
    }
}

/// The processes that a fault on a host hits: those of its oldest run, if there are any.
fn targets(world: &World, host: u8, target: Target) -> Vec<i32> {
    let is_there = |pid: &i32| world.procs.contains_key(pid);
    let runs = world
        .runs
        .iter()
        .filter(|run| run.host == usize::from(host));
    let with_guard = |run: &&crate::world::RunState| run.guard.as_ref().is_some_and(is_there);
    let run = runs
        .clone()
        .find(with_guard)
        .or_else(|| runs.clone().find(|run| is_there(&run.zk_flock)));
    let Some(run) = run else {
        return vec![];
    };
    let (zk_flock, guard) = (Some(run.zk_flock), run.guard);
    let hit = match target {
        Target::ZkFlock => [zk_flock, None],
        Target::Guard => [guard, None],
        Target::Both => [zk_flock, guard],
    };
    hit.into_iter().flatten().filter(is_there).collect()
}

/// Begins a fault. Returns how long it lasts, if it does.
#[allow(clippy::too_many_lines)] // one row for each kind of fault
fn begin(world: &mut World, item: usize, what: What) -> Option<u32> {
    let size = world.ensemble.size();
    let server = |server: u8| usize::from(server) % size;
    match what {
        What::Run { .. } | What::LockServer(_) | What::Break { .. } | What::Curl { .. } => None,
        What::Cut {
            host,
            server: to,
            there,
            back,
            lasts,
        } => {
            let (host, server) = (host.into(), Some(server(to)));
            world.cuts.push(Cut {
                item,
                host,
                server,
                there,
                back,
            });
            Some(lasts)
        }
        What::CutHost {
            host,
            there,
            back,
            lasts,
        } => {
            let (host, server) = (host.into(), None);
            world.cuts.push(Cut {
                item,
                host,
                server,
                there,
                back,
            });
            Some(lasts)
        }
        What::Partition {
            hosts,
            servers,
            lasts,
        } => {
            part(world, item, hosts, servers);
            Some(lasts)
        }
        What::CutAfter {
            host,
            packets,
            lasts,
        } => {
            world.hosts[usize::from(host)].cut_after = Some((packets, item));
            Some(lasts)
        }
        What::CutAtConnect {
            host,
            packets,
            lasts,
        } => {
            world.hosts[usize::from(host)].cut_at_connect = Some((packets, item));
            Some(lasts)
        }
        What::Slow { host, by, lasts } => {
            world.hosts[usize::from(host)].slow.push(by);
            Some(lasts)
        }
        What::Reset { host } => {
            world.reset_host(host.into());
            None
        }
        What::LoseReplies { host, after } => {
            world.hosts[usize::from(host)].lose_back = Some(after);
            None
        }
        What::LoseRequests { host, after } => {
            world.hosts[usize::from(host)].lose_there = Some(after);
            None
        }
        What::KillServer {
            server: victim,
            lasts,
        } => {
            world.ensemble.kill(server(victim), world.now);
            Some(lasts)
        }
        What::StopServer {
            server: victim,
            lasts,
        } => {
            world.ensemble.freeze(server(victim), true, world.now);
            Some(lasts)
        }
        What::IsolateLeader { noticed, lasts } => {
            let leader = world.ensemble.leader()?;
            world.isolated.insert(item, leader);
            world.ensemble.isolate(leader, noticed, world.now);
            Some(lasts)
        }
        What::Isolate {
            server: victim,
            noticed,
            lasts,
        } => {
            world.isolated.insert(item, server(victim));
            world.ensemble.isolate(server(victim), noticed, world.now);
            Some(lasts)
        }
        What::Lag {
            server: late,
            by,
            lasts,
        } => {
            world.ensemble.lag(server(late), u64::from(by) * 1000);
            Some(lasts)
        }
        What::KillAll { lasts } => {
            (0..size).for_each(|server| world.ensemble.kill(server, world.now));
            Some(lasts)
        }
        What::Wipe => {
            world.ensemble.wipe(world.now);
            world.wiped();
            None
        }
        What::Limit {
            server: by,
            longest,
            lasts,
        } => {
            world.ensemble.kill(server(by), world.now);
            world.ensemble.start(server(by), world.now);
            world
                .ensemble
                .limit_timeouts(server(by), u64::from(longest) * 1000);
            Some(lasts)
        }
        What::Delete => {
            let owned = world
                .ensemble
                .state()
                .nodes
                .iter()
                .filter(|(path, node)| node.owner != 0 && !path.contains(".queue"));
            let path = owned.map(|(path, _)| path.clone()).next()?;
            world.deleted(&path);
            world.ensemble.delete(&path, world.now);
            None
        }
        What::Stop {
            host,
            target,
            lasts,
        } => {
            let hit = targets(world, host, target);
            for &pid in &hit {
                let run = world.procs[&pid].run;
                world.runs[run].hurt = true;
                world.stop(pid, true);
            }
            world.stopped.insert(item, hit);
            Some(lasts)
        }
        What::Kill { host, target } => {
            for pid in targets(world, host, target) {
                // A guard that has ended is reaped when zk-flock dies.
                if let Some(run) = world.procs.get(&pid).map(|proc| proc.run) {
                    world.runs[run].hurt = true;
                    world.signal(pid, Signal::KILL, 1);
                }
            }
            None
        }
        What::Suspend { host, lasts } => {
            world.sleep_host(host.into(), true);
            Some(lasts)
        }
        What::Busy { host, lasts } => {
            world.hosts[usize::from(host)].busy += 1;
            Some(lasts)
        }
        What::Signal { host, signal } => {
            for pid in targets(world, host, Target::ZkFlock) {
                let run = world.procs[&pid].run;
                world.runs[run].signalled = true;
                world.signal(pid, Signal(signal), 1);
            }
            None
        }
        What::SignalCommand { host, signal } => {
            let running = world
                .runs
                .iter()
                .position(|run| run.host == usize::from(host) && run.main.is_some());
            if let Some(run) = running {
                world.runs[run].command_signalled = true;
                let main = world.runs[run].main.expect("a command");
                world.signal(main, Signal(signal), 1);
            }
            None
        }
    }
}

/// These servers, as bits.
fn side(servers: u8, size: usize) -> Vec<usize> {
    (0..size)
        .filter(|server| servers >> server & 1 == 1)
        .collect()
}

/// Cuts all links between two parts of the network.
fn part(world: &mut World, item: usize, hosts: u8, servers: u8) {
    let size = world.ensemble.size();
    for host in 0..world.hosts.len() {
        for server in 0..size {
            if (hosts >> host & 1) != (servers >> server & 1) {
                world.cuts.push(Cut {
                    item,
                    host,
                    server: Some(server),
                    there: true,
                    back: true,
                });
            }
        }
    }
    world.ensemble.separate(&side(servers, size));
}

/// Ends a fault.
fn over(world: &mut World, item: usize) {
    let what = world.scenario.items[item].what;
    let size = world.ensemble.size();
    world.note(&format!("over: {what:?}"));
    match what {
        What::Cut { .. }
        | What::CutHost { .. }
        | What::CutAfter { .. }
        | What::CutAtConnect { .. }
        | What::Partition { .. } => {
            if let What::Partition { servers, .. } = what {
                world.ensemble.unite(&side(servers, size));
            }
            if let What::CutAfter { host, .. } | What::CutAtConnect { host, .. } = what {
                let host = &mut world.hosts[usize::from(host)];
                (host.cut_after, host.cut_at_connect) = (None, None);
            }
            world.cuts.retain(|cut| cut.item != item);
            world.unblock();
        }
        What::Slow { host, by, .. } => {
            let slow = &mut world.hosts[usize::from(host)].slow;
            if let Some(at) = slow.iter().position(|&slow| slow == by) {
                slow.remove(at);
            }
        }
        What::KillServer { server, .. } => {
            world.ensemble.start(usize::from(server) % size, world.now);
        }
        What::StopServer { server, .. } => {
            world
                .ensemble
                .freeze(usize::from(server) % size, false, world.now);
        }
        What::IsolateLeader { .. } | What::Isolate { .. } => {
            if let Some(server) = world.isolated.remove(&item) {
                world.ensemble.rejoin(server);
            }
        }
        What::Lag { server, .. } => world.ensemble.lag(usize::from(server) % size, 0),
        What::KillAll { .. } => {
            (0..size).for_each(|server| world.ensemble.start(server, world.now));
        }
        What::Limit { server, .. } => {
            let usual = world.ensemble.usual_limit();
            world
                .ensemble
                .limit_timeouts(usize::from(server) % size, usual);
        }
        What::Stop { .. } => {
            for pid in world.stopped.remove(&item).unwrap_or_default() {
                world.stop(pid, false);
            }
        }
        What::Suspend { host, .. } => world.sleep_host(host.into(), false),
        What::Busy { host, .. } => world.hosts[usize::from(host)].busy -= 1,
        _ => {}
    }
}

/// How long the cluster may take to come to rest: all runs may have to run one after the other.
fn bound(scenario: &Scenario) -> u64 {
    let timeout = u64::from(scenario.timeout.max(2 * scenario.tick)) * 1000;
    let of = |item: &Item| match item.what {
        What::Run {
            hold,
            kill_after,
            script,
            ..
        } => {
            let survives = if script.survives == u32::MAX {
                0
            } else {
                script.survives
            };
            let own = [script.runs.max(hold), kill_after, survives];
            own.iter().map(|&part| u64::from(part) * 1000).sum::<u64>() + PER_RUN
        }
        What::Break { wait, .. } => u64::from(wait) * 1000,
        What::Curl { errand, .. } => curl::longest(errand),
        _ => 0,
    };
    scenario.items.iter().map(of).sum::<u64>() + 4 * timeout + TO_RECOVER
}

fn is_at_rest(world: &mut World) -> bool {
    if world.http.is_some() {
        return world.procs.is_empty() && world.http_is_at_rest();
    }
    world.procs.is_empty()
        && world.ensemble.is_healthy()
        && world.ensemble.state().sessions.is_empty()
}

/// Nothing is left behind.
fn check_rest(world: &mut World) {
    if world.http.is_some() {
        return; // the servers have shown that they are empty
    }
    let state = world.ensemble.state();
    let left = state.nodes.iter().find(|(_, node)| node.owner != 0);
    if let Some((path, _)) = left {
        let what = format!("{path} is left without a session");
        world.violate(what);
    }
    if world.scenario.every.is_some() {
        world.check_ends();
    }
}

fn not_at_rest(world: &mut World) {
    let processes: Vec<_> = world
        .procs
        .iter()
        .map(|(pid, proc)| format!("{:?} {pid} of run {}", proc.role, proc.run))
        .collect();
    if world.http.is_some() {
        return world.violate(format!("the runs do not end: {processes:?} are left"));
    }
    let sessions = world.ensemble.state().sessions.len();
    let healthy = world.ensemble.is_healthy();
    world.violate(format!(
        "the cluster does not come to rest: {processes:?} and {sessions} sessions are left, servers healthy: {healthy}"
    ));
}

/// Minimum hold, time from TERM to KILL, and period of a run.
type Times = (Duration, Duration, Option<(Duration, bool)>);

thread_local! {
    static PLANS: RefCell<BTreeMap<Times, &'static Plan>> = const { RefCell::new(BTreeMap::new()) };
}

/// The plan of a run, kept for all runs with the same times.
fn plan_of(
    minimum_hold: Duration,
    kill_after: Duration,
    every: Option<plan::Every>,
) -> &'static Plan {
    let period = every.map(|every| (every.period, every.retry_failed));
    PLANS.with_borrow_mut(|plans| {
        let plan = plans.entry((minimum_hold, kill_after, period));
        *plan.or_insert_with(|| {
            Box::leak(Box::new(Plan {
                program: "zk-flock",
                lock: plan::Lock::Host(PathBuf::new()), // the lock is built by `lock`
                announce: false,
                wait: Duration::ZERO,
                outer_locks: vec![],
                command: plan::Command {
                    words: vec!["command".into()],
                    shown: "command".into(),
                },
                every,
                minimum_hold,
                kill_after,
                death_signal: Some(Signal::TERM),
                exit_codes: plan::ExitCodes {
                    busy: None,
                    busy_default: 0,
                    sysexits: true,
                },
                log: plan::Log {
                    style: plan::Style::Plain,
                    path: None,
                    level: plan::Level::Info,
                    session_level: plan::Level::Info,
                    warnings: vec![],
                },
                load_limit: plan::LoadLimit::default(),
                daemonize: false,
                notify: None,
                metrics: None,
                verbose: true,
            }))
        })
    })
}

/// The servers, in an order of this process's own.
fn servers(world: &World, random: &mut Random) -> Vec<Endpoint> {
    let mut servers: Vec<Endpoint> = (0..world.ensemble.size())
        .map(|server| Endpoint {
            name: format!("s{server}:2181"),
            address: Address::Tcp(
                ([10, 0, 0, u8::try_from(server + 1).expect("few")], 2181).into(),
            ),
        })
        .collect();
    for last in (1..servers.len()).rev() {
        servers.swap(
            last,
            usize::try_from(random.below(last as u64 + 1)).expect("an index"),
        );
    }
    servers
}

fn cluster(world: &World) -> plan::Cluster {
    plan::Cluster {
        hosts: vec![],
        connection: plan::Connection::Direct,
        chroot: String::new(),
        timeout: Duration::from_millis(world.scenario.timeout.into()),
        auth: None,
        acl: plan::Acl::Open,
        heartbeat: if world.error == Some(Error::TrustsPings) {
            plan::Heartbeat::Ping
        } else {
            plan::Heartbeat::Write
        },
    }
}

fn open_acl() -> Vec<Acl> {
    vec![] // the model has no ACLs
}

/// The `--every` of the runs.
fn every(world: &World) -> Option<plan::Every> {
    let turns = world.scenario.every?;
    let is_short = world.error == Some(Error::ShortPeriod);
    let period = turns.period / if is_short { 2 } else { 1 };
    Some(plan::Every {
        period: Duration::from_millis(period.into()),
        retry_failed: turns.retry_failed,
    })
}

/// The record of a run, as `run::setup` has it.
fn record(world: &World, pid: i32, host: usize) -> Option<run_record::Options> {
    let (parent, name) = match world.scenario.kind {
        Kind::Node(_) => ("/app", "lock"),
        _ => ("/lockex", "id"),
    };
    Some(run_record::Options {
        every: every(world)?,
        path: layout::record_path(parent, name),
        host: format!("host{host}"),
        pid: pid.unsigned_abs(),
        acl: plan::Acl::Open,
    })
}

/// The client of `--break`, as `run::evict` builds it.
fn eviction(world: &mut World, pid: i32, wait: u32, force: bool, now: Moment) -> Client<Eviction> {
    let random = &mut Random::new(world.scenario.seed, u64::try_from(pid).expect("a pid"));
    let (node, token) = world.operators[&pid].target.clone();
    let is_node = matches!(world.scenario.kind, Kind::Node(_));
    let wait = Duration::from_millis(wait.into());
    let target = oneshot::Target {
        node,
        token,
        breaks: layout::breaks_path(if is_node { "/app" } else { "/lockex" }),
        asker: format!("root@operator (pid {pid})"),
        container_acl: open_acl(),
        request_acl: open_acl(),
        timeout: Duration::from_millis(world.scenario.timeout.into()),
        is_unique: !is_node,
        force,
        until: now + wait,
    };
    let options = oneshot::Options {
        servers: servers(world, random),
        unresolved: vec![],
        cluster: cluster(world),
        limit: wait.max(LEAST_LIMIT),
        only_reads: false,
        takes_auth: is_node,
    };
    Client::new(options, Eviction::new(target), now)
}

/// The lock of a run, as `run::setup` builds it.
fn lock(
    world: &mut World,
    pid: i32,
    host: usize,
    sharing: Sharing,
    wait: u32,
    kill_after: Duration,
    now: Moment,
) -> Box<dyn Lock> {
    let timeout = Duration::from_millis(world.scenario.timeout.into());
    if let Kind::Pool(pool) = world.scenario.kind {
        return http::lock(world, pool, pid, host, wait, kill_after, now);
    }
    let wait = if wait == u32::MAX {
        Duration::MAX
    } else {
        Duration::from_millis(wait.into())
    };
    let is_node = matches!(world.scenario.kind, Kind::Node(_));
    let connect_by = if is_node {
        (now + wait).max(now + timeout)
    } else if wait == Duration::MAX {
        now + timeout
    } else {
        now + wait.max(timeout)
    };
    let random = &mut Random::new(world.scenario.seed, u64::try_from(pid).expect("a pid"));
    let servers = servers(world, random);
    let options = Options {
        servers,
        unresolved: vec![],
        cluster: cluster(world),
        wait_until: (!wait.is_zero()).then(|| now + wait),
        connect_by,
        kill_after,
        max_rounds: None,
        max_restarts: None,
        outer_sessions: vec![],
        takes_auth: is_node,
        record: record(world, pid, host),
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random.next().to_le_bytes());
    bytes[8..].copy_from_slice(&random.next().to_le_bytes());
    let host = format!("host{host}");
    let mark = layout::mark(bytes);
    let content = layout::contender_data(&host, pid);
    match world.scenario.kind {
        Kind::Node(slots) => {
            let names = if slots == 1 {
                vec!["lock".to_owned()]
            } else {
                (0..slots).map(|slot| format!("lock_{slot}")).collect()
            };
            let data = NodeData::new(host, bytes, pid.unsigned_abs());
            Box::new(Node::lock(options, "app", names, &data, now))
        }
        Kind::Queue | Kind::Readers => {
            let queue = Queue::new("/lockex/id".into(), mark, content, Purpose::Lock(sharing));
            Box::new(SessionLock::new(options, queue, now))
        }
        Kind::Semaphore(permits) => {
            let semaphore = Semaphore::new("/lockex/id".into(), permits.into(), &mark, content);
            Box::new(SessionLock::new(options, semaphore, now))
        }
        Kind::Pool(_) => unreachable!("built above"),
    }
}

//! Hosts, processes and the network: what the kernel is to the program.
//!
//! # What the model is faithful to
//!
//! *Clocks.* Each host has its own `CLOCK_BOOTTIME`, off by up to 500 ppm (adjtimex(2)). It goes on
//! while the host sleeps. A process that sleeps wakes up late: by 5 µs to 5 ms, on a busy host by up
//! to 60 ms, the worst that `src/deadlines.rs` has measured beside 32 busy loops; a guard that runs
//! ahead by 0.5 ms at most.
//!
//! *Processes.* Children of a dead process go to the nearest subreaper above it, guard or zk-flock
//! (prctl(2), `PR_SET_CHILD_SUBREAPER`), otherwise to init, which reaps them. A dead child is a
//! zombie until its parent reaps it, and its parent gets CHLD. STOP and CONT stop and continue; KILL
//! works on a stopped process. The command gets KILL when the guard dies (`PR_SET_PDEATHSIG`), its
//! children do not. A member of the tree may ignore TERM, may start another process just before it
//! dies of KILL, may survive KILL for a while (state D), or may be another user's. KILL takes 10 µs to
//! 0.8 ms (`src/deadlines.rs`: worst of a tree of eight generations).
//!
//! *The channel* between zk-flock and guard keeps messages and their order; it holds 250 of them.
//! When an end closes, the other one reads what was sent before, and then the end.
//!
//! *The network* is TCP: within a connection bytes keep their order, and what is cut off arrives
//! after the cut, 0.2 to 2 s late (RFC 6298); between connections there is no order. A connection may
//! be reset, and then what is on the way is lost. A peer that has forgotten a connection answers with
//! a reset. A process that dies closes its connections. A SYN into a cut is repeated after 1, 3 and
//! 7 s (tcp_syn_retries). One direction may be cut alone.
//!
//! # What is simpler
//!
//! The clock stands still while a process works between two sleeps. The whole tree of a command is
//! seen by its guard (/proc is mounted), and no terminal takes part, so there is no witness.

#[path = "http/mod.rs"]
pub mod http;

use crate::ensemble::{ConnId, Effect, Ensemble, Event as ServerEvent};
use crate::random::Random;
use crate::scenario::{Kind, Scenario, Script};
use crate::turns::Records;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use zk_flock::internals::deadlines::Deadlines;
use zk_flock::internals::endpoint::Address;
use zk_flock::internals::eviction::{Failure, Newcomer, Outcome};
use zk_flock::internals::lock::zookeeper::layout::Contender;
use zk_flock::internals::moment::Moment;
use zk_flock::internals::plan::ExitReason;
use zk_flock::internals::run::{Command, Incoming, Job, Ready, Report, Sources, System};
use zk_flock::internals::signal::{Signal, Status};
use zk_flock::internals::sys::{Pid, Process, Reap, Received};
use zk_flock::internals::transport;

/// Process ids are above those of Linux (2^22), so that they name no process of this machine.
const FIRST_PID: i32 = 5_000_000;

/// Messages that the channel of a stopped guard holds.
const CHANNEL: usize = 250;

/// One way between a host and a server, in microseconds.
const LATENCY: (u64, u64) = (50, 3_000);

/// How long a documented exception lasts after its cause has ended: a process that may run again
/// needs a moment to act.
const INSTANT: u64 = 1_000_000;

/// A command lives so long at most after its shorter session was read: until the guard is stopped or
/// zk-flock replaces it (`supervisor::KILL_OVERDUE`), and a busy host lets them run.
const SHORTENED: u64 = 250_000;

/// Time that `--break` may take beside its `-w`: to close its session (`oneshot::CLOSE_TIMEOUT`) on a
/// busy host.
const TO_CLOSE: u64 = 1_500_000;

/// The bits of a session's id that count; the others name the server.
const SESSION_NUMBER: i64 = (1 << 56) - 1;

const SECOND: u64 = 1_000_000;

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// Something of the scenario.
    Item(usize),
    /// The end of something of the scenario.
    Over(usize),
    /// A process runs.
    Wake(i32),
    /// A process's timer fires.
    Timer(i32, u64),
    /// A forked guard begins.
    Guard(i32),
    /// An operator asks the holder that this item has chosen.
    Operator(usize),
    /// The command's time is over.
    CommandEnds(usize),
    /// A member of a tree dies.
    Dies(i32, Status),
    Continue(i32),
    Syn(ConnId, u32),
    Connected(ConnId, Result<(), String>),
    Packet(ConnId, bool, Packet),
    Retransmit(ConnId, bool),
    Ensemble(ServerEvent),
    Http(http::Event),
}

/// What a connection carries.
#[derive(Clone, Debug)]
pub enum Packet {
    Data(Vec<u8>),
    Fin,
    Rst,
    /// So many bytes have arrived; only the lock servers' kernel asks.
    Ack(u64),
}

#[derive(Debug)]
struct Queued {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A host.
#[derive(Debug, Default)]
pub struct Host {
    offset: u64,
    ppm: i64,
    pub asleep: bool,
    woke: u64,
    pub busy: u32,
    pub slow: Vec<u32>,
    /// So many more packets arrive.
    pub lose_back: Option<u8>,
    pub lose_there: Option<u8>,
    /// So many more packets arrive before the cut of this item.
    pub cut_after: Option<(u8, usize)>,
    /// The same, from the next first answer on.
    pub cut_at_connect: Option<(u8, usize)>,
}

/// A cut between a host and a server, or all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    pub item: usize,
    pub host: usize,
    pub server: Option<usize>,
    pub there: bool,
    pub back: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    ZkFlock,
    Guard,
    Member,
    /// `--break`.
    Operator,
    /// A script that asks for a pool by curl.
    Curl,
}

#[derive(Debug)]
enum Message {
    Report(Report),
    Command(Command),
}

/// A process.
#[derive(Debug)]
pub struct Proc {
    pub host: usize,
    pub run: usize,
    pub role: Role,
    parent: i32,
    children: BTreeSet<i32>,
    zombie: Option<Status>,
    started: u64,
    pub stopped: bool,
    /// When it last could not run.
    unable: u64,
    scheduled: bool,
    pending: bool,
    timer: u64,
    signals: VecDeque<Received>,
    inbox: VecDeque<Message>,
    peer: Option<i32>,
    peer_closed: bool,
    ahead: bool,
    // Of a member:
    forks: u8,
    survives: u32,
    killed: bool,
    dying: bool,
}

/// A run of zk-flock.
#[derive(Debug)]
pub struct RunState {
    pub host: usize,
    pub wait: u32,
    pub script: Script,
    pub zk_flock: i32,
    pub guard: Option<i32>,
    pub main: Option<i32>,
    pub members: BTreeSet<i32>,
    pub lease: Deadlines,
    pub death_signal: Option<Signal>,
    pub kill_after: Duration,
    pub token: i64,
    pub session: i64,
    pub end: Option<ExitReason>,
    pub signalled: bool,
    pub command_signalled: bool,
    pub hurt: bool,
    stopping: bool,
    background: bool,
}

/// An operator's `--break`.
#[derive(Debug)]
pub struct Operator {
    /// The node and the token of the holder.
    pub target: (String, i64),
    host: usize,
    wait: u64,
    force: bool,
    began: u64,
}

/// How a connection has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Closed,
    Reset,
}

impl End {
    /// The kernel's reason.
    fn reason(self) -> Option<String> {
        (self == End::Reset).then(|| "connection reset by peer".into())
    }
}

/// The state of a client's end.
#[derive(Debug)]
struct Conn {
    pid: i32,
    host: usize,
    server: usize,
    result: Option<Result<(), String>>,
    open: bool,
    closed: bool,
    dead: bool,
    inbox: VecDeque<Vec<u8>>,
    end: Option<End>,
    /// Blocked packets, there and back.
    blocked: [VecDeque<Packet>; 2],
    last: [u64; 2],
    /// The first answer has arrived.
    answered: bool,
    /// When zk-flock has read the connect response.
    read: Option<u64>,
}

/// What was done, for the figures.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub handovers: u64,
    pub runs: u64,
    /// Starts that were recorded (`--every`).
    pub recorded: u64,
    pub events: u64,
    pub microseconds: u64,
    pub elections: u64,
    pub expiries: u64,
    pub faults: BTreeMap<&'static str, u64>,
    pub ends: BTreeMap<String, u64>,
    pub exceptions: BTreeMap<&'static str, u64>,
}

/// An error that the simulation must notice, made outside the program so that it needs no other build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The config makes a ping the heartbeat of a holder.
    TrustsPings,
    /// /proc shows the children of a process, and not theirs.
    HidesTree,
    /// The runs have a shorter `--every` than was promised.
    ShortPeriod,
}

/// All that is not a process of the program.
pub struct World {
    pub error: Option<Error>,
    pub now: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    pub random: Random,
    pub scenario: Scenario,
    pub hosts: Vec<Host>,
    pub procs: BTreeMap<i32, Proc>,
    pub runs: Vec<RunState>,
    conns: BTreeMap<ConnId, Conn>,
    next_conn: ConnId,
    next_pid: i32,
    pub cuts: Vec<Cut>,
    /// The servers that a fault has isolated, and the processes that one has stopped.
    pub isolated: BTreeMap<usize, usize>,
    /// The nodes and tokens that the operators' items have chosen.
    chosen: BTreeMap<usize, (String, i64)>,
    /// What operators do, by their processes.
    pub operators: BTreeMap<i32, Operator>,
    /// The operators' connections.
    operating: BTreeMap<ConnId, i32>,
    pub stopped: BTreeMap<usize, Vec<i32>>,
    pub ensemble: Ensemble,
    /// The lock servers, instead of an ensemble.
    pub http: Option<http::Http>,
    /// The records of the runs (`--every`).
    pub records: Records,
    newest_token: i64,
    /// The same, without readers.
    newest_token_of_a_writer: i64,
    /// The newest session that was lost with all data, and when.
    wiped_sessions: Option<(i64, u64)>,
    /// Tokens whose node another client has deleted, and when.
    deleted: BTreeMap<i64, u64>,
    /// The same, by `--break --force`.
    forced: BTreeMap<i64, u64>,
    /// Which operator has deleted the node with this token.
    deletions: BTreeMap<i64, i32>,
    pub violation: Option<String>,
    pub tracing: bool,
    pub trace: Vec<String>,
    pub figures: Figures,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
    static CURRENT: Cell<i32> = const { Cell::new(0) };
}

/// Works on the world of this thread.
pub fn with<T>(work: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| work(world.as_mut().expect("a world")))
}

/// Replaces the world of this thread.
pub fn set(world: Option<World>) -> Option<World> {
    WORLD.with_borrow_mut(|old| std::mem::replace(old, world))
}

/// Lets a process of the program run.
pub fn run_as<T>(pid: i32, work: impl FnOnce() -> T) -> T {
    CURRENT.set(pid);
    let result = work();
    CURRENT.set(0);
    result
}

fn own() -> i32 {
    CURRENT.get()
}

/// Where the log of the program goes.
#[allow(clippy::needless_pass_by_value)] // as `Log` passes it
pub fn print(line: String) {
    with(|world| world.line(own(), &line));
}

impl World {
    /// A cluster at the beginning of its scenario.
    pub fn new(scenario: Scenario, tracing: bool) -> World {
        let mut random = Random::new(scenario.seed, 2);
        let http = match scenario.kind {
            Kind::Pool(pool) => Some(http::Http::new(pool, scenario.hosts.into(), scenario.seed)),
            _ => None,
        };
        let hosts = usize::from(scenario.hosts) + http.as_ref().map_or(0, http::Http::hosts);
        let hosts = (0..hosts)
            .map(|_| Host {
                offset: random.between(1000 * SECOND, 100_000 * SECOND),
                ppm: i64::try_from(random.below(1001)).expect("small") - 500,
                ..Host::default()
            })
            .collect();
        let ensemble = Ensemble::new(
            scenario.voters.into(),
            scenario.observers.into(),
            u64::from(scenario.tick) * 1000,
            scenario.keeper,
            scenario.every.map_or(0, |turns| turns.clocks),
            Random::new(scenario.seed, 3),
        );
        let mut world = World {
            error: None,
            now: 0,
            queue: BinaryHeap::new(),
            order: 0,
            random,
            hosts,
            procs: BTreeMap::new(),
            runs: Vec::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            next_pid: FIRST_PID,
            cuts: Vec::new(),
            isolated: BTreeMap::new(),
            chosen: BTreeMap::new(),
            operators: BTreeMap::new(),
            operating: BTreeMap::new(),
            stopped: BTreeMap::new(),
            ensemble,
            http,
            records: Records::default(),
            newest_token: 0,
            newest_token_of_a_writer: 0,
            wiped_sessions: None,
            deleted: BTreeMap::new(),
            forced: BTreeMap::new(),
            deletions: BTreeMap::new(),
            violation: None,
            tracing,
            trace: Vec::new(),
            figures: Figures::default(),
            scenario,
        };
        world.ensemble.pool = world.http.as_ref().and_then(http::Http::node);
        for index in 0..world.scenario.items.len() {
            let at = u64::from(world.scenario.items[index].at) * 1000 + 2 * SECOND;
            world.at(at, Event::Item(index));
        }
        world.start_servers();
        world.settle();
        world
    }

    // Events.

    /// Plans an event for a moment.
    pub fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        let order = self.order;
        self.queue.push(Reverse(Queued { at, order, event }));
    }

    /// Plans an event after some time.
    pub fn after(&mut self, time: u64, event: Event) {
        self.at(self.now + time, event);
    }

    /// The next event; its time has come.
    pub fn next(&mut self) -> Option<Event> {
        let Reverse(Queued { at, event, .. }) = self.queue.pop()?;
        self.now = self.now.max(at);
        self.figures.events += 1;
        Some(event)
    }

    /// Does what the ensemble wants.
    pub fn settle(&mut self) {
        while !self.ensemble.out.is_empty() || !self.ensemble.notes.is_empty() {
            for note in std::mem::take(&mut self.ensemble.notes) {
                self.note(&note);
            }
            for effect in std::mem::take(&mut self.ensemble.out) {
                match effect {
                    Effect::Send(conn, bytes) => self.transmit(conn, false, Packet::Data(bytes)),
                    Effect::Close(conn) => self.transmit(conn, false, Packet::Fin),
                    Effect::Reset(conn) => self.transmit(conn, false, Packet::Rst),
                    Effect::At(time, event) => self.after(time, Event::Ensemble(event)),
                }
            }
        }
        while let Some((token, conn)) = self.ensemble.deletions.pop_first() {
            if self.operating.contains_key(&conn) {
                self.forced.entry(token).or_insert(self.now);
                self.deletions.insert(token, self.operating[&conn]);
            }
        }
        for notice in std::mem::take(&mut self.ensemble.notices) {
            self.notice(notice);
        }
        for state in std::mem::take(&mut self.ensemble.pools) {
            self.pool_changed(&state);
        }
        if let Some(fault) = self.ensemble.fault.take() {
            self.violate(fault);
        }
    }

    /// Notes a line of the trace.
    pub fn note(&mut self, text: &str) {
        if self.tracing {
            let time = Duration::from_micros(self.now).as_secs_f64();
            let line = format!("{time:12.6} {text}");
            self.trace.push(line);
        }
    }

    fn line(&mut self, pid: i32, line: &str) {
        if let Some(proc) = self.procs.get(&pid) {
            let (run, host) = (proc.run, proc.host);
            if line.contains(": released ") {
                self.check_release(run);
            }
            self.note(&format!("host {host} run {run}: {line}"));
        }
    }

    /// An invariant does not hold.
    pub fn violate(&mut self, what: String) {
        self.note(&format!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    // Clocks.

    fn clock(&self, host: usize) -> Moment {
        let Host { offset, ppm, .. } = self.hosts[host];
        let drift = i128::from(self.now) * i128::from(ppm) / 1000;
        let nanoseconds = i128::from(offset + self.now) * 1000 + drift;
        Moment(Duration::from_nanos(
            u64::try_from(nanoseconds).expect("a clock after boot"),
        ))
    }

    /// When a host's clock shows this moment.
    fn when(&self, host: usize, moment: Moment) -> u64 {
        let Host { offset, ppm, .. } = self.hosts[host];
        let local = i128::try_from(moment.0.as_nanos()).unwrap_or(i128::MAX / 2000)
            - i128::from(offset) * 1000;
        let at = local * 1000 / i128::from(1_000_000 + ppm) + 1;
        u64::try_from(at).unwrap_or(0)
    }

    // Processes.

    fn spawn(&mut self, host: usize, run: usize, role: Role, parent: i32) -> i32 {
        self.next_pid += 1;
        let pid = self.next_pid;
        let proc = Proc {
            host,
            run,
            role,
            parent,
            children: BTreeSet::new(),
            zombie: None,
            started: self.now,
            stopped: false,
            unable: 0,
            scheduled: false,
            pending: false,
            timer: 0,
            signals: VecDeque::new(),
            inbox: VecDeque::new(),
            peer: None,
            peer_closed: false,
            ahead: false,
            forks: 0,
            survives: 0,
            killed: false,
            dying: false,
        };
        self.procs.insert(pid, proc);
        if let Some(parent) = self.procs.get_mut(&parent) {
            parent.children.insert(pid);
        }
        pid
    }

    /// Starts zk-flock.
    pub fn start_run(
        &mut self,
        host: usize,
        wait: u32,
        script: Script,
        kill_after: Duration,
    ) -> i32 {
        let run = self.runs.len();
        let pid = self.spawn(host, run, Role::ZkFlock, 0);
        self.figures.runs += 1;
        self.runs.push(RunState {
            host,
            wait,
            script,
            zk_flock: pid,
            guard: None,
            main: None,
            members: BTreeSet::new(),
            lease: Deadlines::NEVER,
            death_signal: None,
            kill_after,
            token: 0,
            session: 0,
            end: None,
            signalled: false,
            command_signalled: false,
            hurt: false,
            stopping: false,
            background: false,
        });
        pid
    }

    fn is_alive(&self, pid: i32) -> bool {
        self.procs
            .get(&pid)
            .is_some_and(|proc| proc.zombie.is_none())
    }

    /// How late a process gets the processor.
    fn delay(&mut self, pid: i32) -> u64 {
        let (busy, ahead) = {
            let proc = &self.procs[&pid];
            (self.hosts[proc.host].busy > 0, proc.ahead)
        };
        match (busy, ahead) {
            (_, true) => self.random.magnitude(5, 500),
            (true, false) => self.random.magnitude(100, 60_000),
            (false, false) if self.random.once_in(100) => self.random.between(100, 5_000),
            (false, false) => self.random.magnitude(5, 200),
        }
    }

    /// Something has happened that a process waits for.
    fn notify(&mut self, pid: i32) {
        if let (Some(_), Some(server)) = (&self.http, http::server_of(pid)) {
            return self.notify_server(server);
        }
        let Some(proc) = self.procs.get_mut(&pid) else {
            return;
        };
        if proc.scheduled || proc.zombie.is_some() {
            return;
        }
        if proc.stopped || self.hosts[proc.host].asleep {
            proc.pending = true;
            return;
        }
        proc.scheduled = true;
        let delay = self.delay(pid);
        self.after(delay, Event::Wake(pid));
    }

    /// Whether a process that was scheduled runs now.
    pub fn begin(&mut self, pid: i32) -> bool {
        let Some(proc) = self.procs.get_mut(&pid) else {
            return false;
        };
        proc.scheduled = false;
        if proc.zombie.is_some() {
            return false;
        }
        if proc.stopped || self.hosts[proc.host].asleep {
            proc.pending = true;
            return false;
        }
        true
    }

    /// A process goes to sleep.
    pub fn sleep(&mut self, pid: i32, until: Moment) {
        let Some(proc) = self.procs.get_mut(&pid) else {
            return;
        };
        proc.timer += 1;
        let (timer, host, role) = (proc.timer, proc.host, proc.role);
        if until != Moment::NEVER {
            let at = self.when(host, until).max(self.now);
            self.at(at, Event::Timer(pid, timer));
        }
        let ready = self.ready(pid);
        if ready.signalled || ready.reported || ready.lock.contains(&true) {
            self.notify(pid);
        } else if role == Role::Guard {
            let proc = &self.procs[&pid];
            if !proc.inbox.is_empty() {
                self.notify(pid);
            }
        }
    }

    /// A timer has fired.
    pub fn timer(&mut self, pid: i32, number: u64) {
        if self
            .procs
            .get(&pid)
            .is_some_and(|proc| proc.timer == number)
        {
            self.notify(pid);
        }
    }

    /// What zk-flock finds ready.
    pub fn ready(&self, pid: i32) -> Ready {
        let proc = &self.procs[&pid];
        let conn = self
            .conns
            .values()
            .find(|conn| conn.pid == pid && !conn.closed);
        Ready {
            signalled: !proc.signals.is_empty(),
            reported: proc.role == Role::ZkFlock
                && proc.peer.is_some()
                && (!proc.inbox.is_empty() || proc.peer_closed),
            witnessed: false,
            lock: conn.map(Conn::is_ready).into_iter().collect(),
        }
    }

    /// STOP or CONT.
    pub fn stop(&mut self, pid: i32, stopped: bool) {
        let now = self.now;
        let Some(proc) = self.procs.get_mut(&pid) else {
            return;
        };
        if proc.stopped && !stopped {
            proc.unable = now;
        }
        proc.stopped = stopped;
        if !stopped && std::mem::take(&mut proc.pending) {
            self.notify(pid);
        }
    }

    /// A host falls asleep or wakes up.
    pub fn sleep_host(&mut self, host: usize, asleep: bool) {
        self.hosts[host].asleep = asleep;
        if asleep {
            return;
        }
        self.hosts[host].woke = self.now;
        let pids: Vec<i32> = self
            .procs
            .iter()
            .filter(|(_, proc)| proc.host == host)
            .map(|(&pid, _)| pid)
            .collect();
        for pid in pids {
            let proc = self.procs.get_mut(&pid).expect("a process");
            if std::mem::take(&mut proc.pending) {
                self.notify(pid);
            }
        }
        self.unblock();
        self.check_overlap();
    }

    /// Sends a signal to a process.
    pub fn signal(&mut self, pid: i32, signal: Signal, sender: i32) {
        let Some(proc) = self.procs.get_mut(&pid) else {
            return;
        };
        if proc.zombie.is_some() {
            return;
        }
        match (proc.role, signal) {
            (Role::Member, _) => self.signal_member(pid, signal),
            (_, Signal::KILL) => self.dies(pid, Status::Killed(Signal::KILL)),
            (Role::Guard | Role::Operator | Role::Curl, _) => {}
            (Role::ZkFlock, Signal::CONT) => {}
            (Role::ZkFlock, signal) => {
                proc.signals.push_back(Received {
                    signal,
                    from_terminal: false,
                    sender,
                });
                self.notify(pid);
            }
        }
    }

    fn signal_member(&mut self, pid: i32, signal: Signal) {
        let proc = &self.procs[&pid];
        let (run, forks, survives) = (proc.run, proc.forks, proc.survives);
        let script = self.runs[run].script;
        if survives == u32::MAX {
            return; // another user's
        }
        if signal == Signal::KILL {
            let proc = self.procs.get_mut(&pid).expect("a process");
            if std::mem::replace(&mut proc.killed, true) {
                return;
            }
            if forks > 0 {
                proc.forks -= 1;
                let (host, forks) = (proc.host, proc.forks);
                let child = self.spawn(host, run, Role::Member, pid);
                self.procs.get_mut(&child).expect("a process").forks = forks;
                self.runs[run].members.insert(child);
            }
            let time = u64::from(survives) * 1000 + self.random.magnitude(10, 800);
            self.after(time, Event::Dies(pid, Status::Killed(signal)));
        } else if !script.deaf && signal != Signal::CONT && signal != Signal::TSTP && survives == 0
        {
            let proc = self.procs.get_mut(&pid).expect("a process");
            if !std::mem::replace(&mut proc.dying, true) {
                let time = self.random.magnitude(1_000, 400_000);
                self.after(time, Event::Dies(pid, Status::Killed(signal)));
            }
        }
    }

    /// A process ends.
    pub fn dies(&mut self, pid: i32, status: Status) {
        let Some(proc) = self.procs.get_mut(&pid) else {
            return;
        };
        if proc.zombie.is_some() {
            return;
        }
        let host = proc.host;
        if self.hosts[host].asleep && proc.role == Role::Member {
            return self.after(50_000, Event::Dies(pid, status));
        }
        proc.zombie = Some(status);
        let (role, run, parent, peer) = (proc.role, proc.run, proc.parent, proc.peer.take());
        let children = std::mem::take(&mut proc.children);
        // The channel and the connections.
        if let Some(other) = peer {
            self.close_peer(other);
        }
        let conns: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.pid == pid)
            .map(|(&id, _)| id)
            .collect();
        conns
            .into_iter()
            .for_each(|conn| self.close_client(conn, self.http.is_some()));
        // The children.
        let heir = self.subreaper(parent);
        for child in children {
            self.adopt(child, heir);
        }
        match role {
            Role::Guard => {
                self.note(&format!("host {host} run {run}: the guard ends"));
                let state = &self.runs[run];
                let killed = status == Status::Killed(Signal::KILL);
                if let (Some(main), Some(_), true) = (state.main, state.death_signal, killed) {
                    self.runs[run].stopping = true;
                    self.signal(main, Signal::KILL, 0);
                }
            }
            Role::Member => {
                self.runs[run].members.remove(&pid);
                if self.runs[run].main == Some(pid) {
                    self.note(&format!(
                        "host {host} run {run}: the command ends: {status:?}"
                    ));
                    self.runs[run].main = None;
                    let left = !self.runs[run].members.is_empty();
                    if left && !self.runs[run].stopping {
                        self.runs[run].background = true;
                    }
                }
            }
            Role::ZkFlock | Role::Operator | Role::Curl => {}
        }
        match self.procs.get_mut(&parent) {
            Some(above) if above.role != Role::Member && above.zombie.is_none() => {
                above.signals.push_back(Received {
                    signal: Signal::CHLD,
                    from_terminal: false,
                    sender: pid,
                });
                self.notify(parent);
            }
            _ => drop(self.remove(pid)),
        }
    }

    fn remove(&mut self, pid: i32) -> Option<Proc> {
        let proc = self.procs.remove(&pid)?;
        if let Some(parent) = self.procs.get_mut(&proc.parent) {
            parent.children.remove(&pid);
        }
        Some(proc)
    }

    fn subreaper(&self, mut pid: i32) -> i32 {
        while let Some(proc) = self.procs.get(&pid) {
            if proc.role != Role::Member && proc.zombie.is_none() {
                return pid;
            }
            pid = proc.parent;
        }
        0
    }

    fn adopt(&mut self, child: i32, heir: i32) {
        let Some(proc) = self.procs.get_mut(&child) else {
            return;
        };
        proc.parent = heir;
        let zombie = proc.zombie.is_some();
        match self.procs.get_mut(&heir) {
            Some(heir_proc) => {
                heir_proc.children.insert(child);
                if zombie {
                    heir_proc.signals.push_back(Received {
                        signal: Signal::CHLD,
                        from_terminal: false,
                        sender: child,
                    });
                    self.notify(heir);
                }
            }
            None if zombie => drop(self.procs.remove(&child)),
            None => {}
        }
    }

    fn close_peer(&mut self, other: i32) {
        if let Some(proc) = self.procs.get_mut(&other) {
            proc.peer_closed = true;
            self.notify(other);
        }
    }

    fn descendants(&self, of: i32) -> Vec<Process> {
        let mut found = Vec::new();
        let mut next: VecDeque<i32> = self
            .procs
            .get(&of)
            .into_iter()
            .flat_map(|proc| proc.children.iter().copied())
            .collect();
        while let Some(pid) = next.pop_front() {
            let proc = &self.procs[&pid];
            if self.error != Some(Error::HidesTree) {
                next.extend(&proc.children);
            }
            if proc.zombie.is_none() {
                found.push(Process {
                    pid: Pid(pid),
                    parent: Pid(proc.parent),
                    started: proc.started / 10_000,
                    group: Pid(pid),
                    state: 'S',
                    threads: 1,
                });
            }
        }
        found
    }

    // The command.

    /// The guard starts the command.
    pub fn start_command(&mut self, guard: i32) -> i32 {
        let run = self.procs[&guard].run;
        let host = self.procs[&guard].host;
        let script = self.runs[run].script;
        let main = self.spawn(host, run, Role::Member, guard);
        let mut last = main;
        self.runs[run].members.insert(main);
        for child in 0..script.children {
            let parent = if child % 2 == 0 { main } else { last };
            last = self.spawn(host, run, Role::Member, parent);
            self.runs[run].members.insert(last);
        }
        self.procs.get_mut(&main).expect("a process").forks = script.forks;
        self.procs.get_mut(&last).expect("a process").survives = script.survives;
        self.runs[run].main = Some(main);
        self.after(u64::from(script.runs) * 1000, Event::CommandEnds(run));
        self.note(&format!(
            "host {host} run {run}: the command starts, token {}",
            self.runs[run].token
        ));
        self.check_start(run);
        main
    }

    /// The command's time is over: its processes exit, itself last.
    pub fn command_ends(&mut self, run: usize) {
        if self.hosts[self.runs[run].host].asleep {
            return self.after(100_000, Event::CommandEnds(run));
        }
        let mut members: Vec<i32> = self.runs[run].members.iter().copied().collect();
        let main = self.runs[run].main;
        members.retain(|pid| Some(*pid) != main);
        for pid in members.into_iter().chain(main) {
            if self
                .procs
                .get(&pid)
                .is_some_and(|proc| !proc.killed || proc.survives > 0)
            {
                self.dies(pid, Status::Exited(0));
            }
        }
    }

    // The network.

    fn is_open(&self, host: usize, server: usize, there: bool) -> bool {
        !self.hosts[host].asleep
            && self.server_is_awake(server)
            && !self.cuts.iter().any(|cut| {
                cut.host == host
                    && cut.server.is_none_or(|cut| cut == server)
                    && (there && cut.there || !there && cut.back)
            })
    }

    /// The server of the ensemble that has this number in the network: those of lock servers come
    /// before them. `None`: it is a lock server, or memcached.
    fn member(&self, server: usize) -> Option<usize> {
        match &self.http {
            None => Some(server),
            Some(http) if http.pool.has_ensemble() => server.checked_sub(http.hosts()),
            Some(_) => None,
        }
    }

    fn latency(&mut self, host: usize) -> u64 {
        let slow = self.hosts[host].slow.iter().max().copied();
        let usual = self.random.magnitude(LATENCY.0, LATENCY.1);
        slow.map_or(usual, |slow| {
            usual + self.random.below(u64::from(slow) * 1000 + 1)
        })
    }

    fn connect(&mut self, pid: i32, address: &Address) -> ConnId {
        let Address::Tcp(SocketAddr::V4(address)) = address else {
            panic!("the servers have IPv4 addresses")
        };
        let server = usize::from(address.ip().octets()[3]) - 1;
        self.next_conn += 1;
        let id = self.next_conn;
        let host_of = |http: &http::Http| http.host_of(pid);
        let host = self.http.as_ref().and_then(host_of);
        let host = host.unwrap_or_else(|| self.procs[&pid].host);
        let conn = Conn {
            pid,
            host,
            server,
            result: None,
            open: false,
            closed: false,
            dead: false,
            inbox: VecDeque::new(),
            end: None,
            blocked: [VecDeque::new(), VecDeque::new()],
            last: [0; 2],
            answered: false,
            read: None,
        };
        self.conns.insert(id, conn);
        self.connects(id, pid);
        if self.operators.contains_key(&pid) {
            self.operating.insert(id, pid);
        }
        let latency = self.latency(host);
        self.after(latency, Event::Syn(id, 1));
        id
    }

    /// A SYN arrives, or is lost.
    pub fn syn(&mut self, id: ConnId, pause: u32) {
        let Some(conn) = self.conns.get(&id).filter(|conn| !conn.closed) else {
            self.conns.remove(&id);
            return;
        };
        let (host, server) = (conn.host, conn.server);
        if !self.is_open(host, server, true) || !self.is_open(host, server, false) {
            return self.after(u64::from(pause) * SECOND, Event::Syn(id, pause * 2));
        }
        let latency = self.latency(host);
        let result = match self.member(server) {
            None => self.http_accepts(id),
            Some(member) if self.ensemble.is_up(member) => {
                self.ensemble.accept(id, member);
                Ok(())
            }
            Some(_) => Err("connection refused".to_owned()),
        };
        self.after(latency, Event::Connected(id, result));
    }

    /// The answer to a SYN arrives.
    pub fn connected(&mut self, id: ConnId, result: Result<(), String>) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if conn.closed {
            if self.http.is_some() {
                self.transmit(id, true, Packet::Rst);
            }
            return;
        }
        conn.last[1] = conn.last[1].max(now);
        conn.result = Some(result);
        let pid = conn.pid;
        self.notify(pid);
    }

    /// Sends something there (to the server) or back.
    fn transmit(&mut self, id: ConnId, there: bool, packet: Packet) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let latency = self.latency(conn.host);
        let (now, way) = (self.now, usize::from(!there));
        let conn = self.conns.get_mut(&id).expect("a connection");
        conn.last[way] = conn.last[way].max(now + latency);
        let at = conn.last[way];
        self.at(at, Event::Packet(id, there, packet));
    }

    /// A packet arrives, if nothing is in its way.
    pub fn packet(&mut self, id: ConnId, there: bool, packet: Packet) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let (host, server, way) = (conn.host, conn.server, usize::from(!there));
        if conn.dead {
            return;
        }
        if !there {
            self.count_packet(host);
        }
        let conn = &self.conns[&id];
        if !self.is_open(host, server, there) || !conn.blocked[way].is_empty() {
            return self.conns.get_mut(&id).expect("a connection").blocked[way].push_back(packet);
        }
        let counter = if there {
            &mut self.hosts[host].lose_there
        } else {
            &mut self.hosts[host].lose_back
        };
        match counter {
            Some(0) => {
                *counter = None;
                self.note(&format!(
                    "host {host}: a packet is lost with its connection"
                ));
                return self.reset(id);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        match (self.member(server), there) {
            (None, true) => self.reaches_server(id, packet),
            (None, false) => self.reaches_client(id, packet),
            (Some(_), true) => self.arrives_at_server(id, packet),
            (Some(_), false) => self.arrives_at_client(id, packet),
        }
    }

    /// A packet to a host arrives, which may be the last one before a cut.
    fn count_packet(&mut self, host: usize) {
        match &mut self.hosts[host].cut_after {
            Some((0, item)) => {
                let cut = Cut {
                    item: *item,
                    host,
                    server: None,
                    there: true,
                    back: true,
                };
                self.hosts[host].cut_after = None;
                self.cuts.push(cut);
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
    }

    fn arrives_at_server(&mut self, id: ConnId, packet: Packet) {
        match packet {
            Packet::Data(bytes) if self.ensemble.has(id) => {
                self.ensemble.receive(id, &bytes, self.now);
                self.settle();
            }
            Packet::Data(_) => self.transmit(id, false, Packet::Rst),
            Packet::Ack(_) => {}
            Packet::Fin | Packet::Rst => {
                self.ensemble.gone(id);
                if self.conns.get(&id).is_some_and(|conn| conn.closed) {
                    self.conns.remove(&id);
                }
            }
        }
    }

    fn arrives_at_client(&mut self, id: ConnId, packet: Packet) {
        let conn = self.conns.get_mut(&id).expect("a connection");
        if conn.closed {
            return;
        }
        if let (Packet::Data(_), false) = (&packet, conn.answered) {
            conn.answered = true;
            let host = &mut self.hosts[conn.host];
            if let Some(cut) = host.cut_at_connect.take() {
                host.cut_after = Some(cut);
            }
        }
        match packet {
            Packet::Data(bytes) => conn.inbox.push_back(bytes),
            Packet::Fin => _ = conn.end.get_or_insert(End::Closed),
            Packet::Rst => _ = conn.end.get_or_insert(End::Reset),
            Packet::Ack(_) => {}
        }
        let pid = conn.pid;
        self.notify(pid);
    }

    /// Resets a connection; what is on the way is lost.
    fn reset(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.dead = true;
        conn.end.get_or_insert(End::Reset);
        let (pid, closed) = (conn.pid, conn.closed);
        self.ensemble.gone(id);
        if self.http.is_some() {
            self.http_gone(id, io::ErrorKind::ConnectionReset);
        }
        if closed {
            self.conns.remove(&id);
        } else {
            self.notify(pid);
        }
    }

    /// Resets all connections of a host.
    pub fn reset_host(&mut self, host: usize) {
        let ids: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.host == host && conn.open)
            .map(|(&id, _)| id)
            .collect();
        ids.into_iter().for_each(|id| self.reset(id));
    }

    /// The client's end is closed.
    fn close_client(&mut self, id: ConnId, abort: bool) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.closed = true;
        conn.inbox.clear();
        if conn.dead || conn.result.is_none() {
            if conn.dead {
                self.conns.remove(&id);
            }
            return;
        }
        self.transmit(id, true, if abort { Packet::Rst } else { Packet::Fin });
    }

    /// A cut has ended: what was blocked arrives late.
    pub fn unblock(&mut self) {
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            for (way, there) in [(0, true), (1, false)] {
                let conn = &self.conns[&id];
                if conn.blocked[way].is_empty() || !self.is_open(conn.host, conn.server, there) {
                    continue;
                }
                let late = self.random.magnitude(200_000, 2_000_000);
                self.after(late, Event::Retransmit(id, there));
            }
        }
    }

    /// What was blocked arrives, unless something is in its way again.
    pub fn retransmit(&mut self, id: ConnId, there: bool) {
        let way = usize::from(!there);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let packets = std::mem::take(&mut conn.blocked[way]);
        for packet in packets {
            self.packet(id, there, packet);
        }
    }

    // Invariants.

    /// The documented reason for which this run's command may live beside another's, if there is
    /// one: the list of zk-flock-safety(7).
    fn exception(&self, run: usize) -> Option<&'static str> {
        let state = &self.runs[run];
        let runs = |pid: Option<i32>| {
            pid.and_then(|pid| self.procs.get(&pid))
                .is_some_and(|proc| {
                    proc.zombie.is_none() && !proc.stopped && self.now > proc.unable + INSTANT
                })
        };
        let recently = |at: u64| self.now <= at + INSTANT;
        if let Some(name) = self.http_exception(run) {
            return Some(name);
        }
        let survivors_only = state
            .members
            .iter()
            .all(|pid| self.procs.get(pid).is_none_or(|proc| proc.survives > 0));
        let unread = |&(conn, at): &(ConnId, u64)| {
            let read = self.conns.get(&conn).and_then(|conn| conn.read);
            read.map_or(recently(at + 20 * SECOND), |read| {
                self.now <= read + SHORTENED
            })
        };
        // The holder hears of it at once, or its lease ends.
        let lease = u64::from(self.scenario.timeout.max(2 * self.scenario.tick)) * 1000;
        if self
            .removed(run)
            .is_some_and(|at| recently(at + lease + INSTANT))
        {
            Some("the lock node was deleted, or the servers lost their data")
        } else if self.hosts[state.host].woke > 0 && recently(self.hosts[state.host].woke) {
            Some("the host has just woken up")
        } else if !runs(Some(state.zk_flock)) && !runs(state.guard) {
            Some("neither zk-flock nor its guard can run")
        } else if survivors_only
            && (self.ensemble.expired.contains(&state.session) || self.removed(run).is_some())
        {
            Some("a process cannot be killed, and the lock is gone")
        } else if survivors_only && self.http.is_some() {
            Some("a process cannot be killed, and the lease has ended")
        } else if self
            .ensemble
            .shortened
            .get(&state.session)
            .is_some_and(unread)
        {
            Some("a server has shortened the session, and its answer was not read")
        } else {
            None
        }
    }

    /// Whether a command of this run runs.
    fn is_live(&self, run: usize) -> bool {
        let state = &self.runs[run];
        !state.background && !self.hosts[state.host].asleep && !state.members.is_empty()
    }

    fn check_start(&mut self, run: usize) {
        self.figures.handovers += 1;
        let token = self.runs[run].token;
        let must_grow = self.removed(run).is_none() && self.http_tokens_grow();
        if self.scenario.kind.slots() == 1 && must_grow {
            let reads = self.reads(run);
            // Readers start in any order.
            let newest = if reads {
                self.newest_token_of_a_writer
            } else {
                self.newest_token
            };
            if token <= newest {
                self.violate(format!("token {token} of run {run} is not above {newest}"));
            }
            self.newest_token = self.newest_token.max(token);
            if !reads {
                self.newest_token_of_a_writer = token;
            }
        }
        self.check_recorded(run);
        self.check_overlap();
    }

    fn reads(&self, run: usize) -> bool {
        self.scenario.kind.reads(self.runs[run].script)
    }

    /// Whether so many commands may not run at once. Readers may, without a writer.
    fn is_excess(&self, runs: &[usize], scripts: usize) -> bool {
        runs.len() + scripts > self.scenario.kind.slots()
            && !runs.iter().all(|&run| self.reads(run))
    }

    /// Never more live commands than slots, and never a writer beside a reader.
    fn check_overlap(&mut self) {
        let live: Vec<usize> = (0..self.runs.len())
            .filter(|&run| self.is_live(run))
            .collect();
        let slots = self.scenario.kind.slots();
        let (scripts, unconfirmed) = self.working();
        if !self.is_excess(&live, scripts) {
            return;
        }
        if unconfirmed > 0 {
            let name = "the network has not confirmed that YES has arrived";
            *self.figures.exceptions.entry(name).or_default() += 1;
            if !self.is_excess(&live, scripts - unconfirmed) {
                return;
            }
        }
        let scripts = scripts - unconfirmed;
        let mut counted = Vec::new();
        for &run in &live {
            match self.exception(run) {
                Some(name) => *self.figures.exceptions.entry(name).or_default() += 1,
                None => counted.push(run),
            }
        }
        // The newest command is never the one that lives too long.
        if self.is_excess(&counted, scripts) || counted.len() == live.len() {
            self.violate(format!(
                "{} commands run at once in {slots} slots: runs {counted:?}, {scripts} scripts",
                counted.len() + scripts
            ));
        }
    }

    /// What zk-flock calls released must be free, or a leader is about to free it: to a client that
    /// asks, it calls a session expired whose end is not committed yet (`touchSession`).
    fn check_release(&mut self, run: usize) {
        if self.http.is_some() {
            return; // the next holder's start is checked
        }
        let (token, session) = (self.runs[run].token, self.runs[run].session);
        if self.ensemble.is_closing(session) {
            let name = "released, and the end of the session is to be committed";
            return *self.figures.exceptions.entry(name).or_default() += 1;
        }
        let mut nodes = self.ensemble.state().nodes.values();
        let remains = token != 0 && nodes.any(|it| it.czxid == token && it.owner == session);
        if remains && self.scenario.keeper {
            // zk-flock-safety(7), ClickHouse Keeper
            let name = "released, and Keeper hung up before it had ended the session";
            *self.figures.exceptions.entry(name).or_default() += 1;
        } else if remains {
            self.violate(format!(
                "run {run} says that it has released its lock, which it has not"
            ));
        }
    }

    /// The host whose command has started last, of those that run.
    pub fn holder(&self) -> u8 {
        let holds = |run: &&RunState| run.main.is_some();
        let run = self.runs.iter().rev().find(holds).or(self.runs.last());
        run.map_or(0, |run| u8::try_from(run.host).expect("few hosts"))
    }

    /// The server that this host is connected to.
    pub fn server_of_holder(&self) -> u8 {
        let holds = |run: &&RunState| run.main.is_some();
        let run = self.runs.iter().rev().find(holds).or(self.runs.last());
        let mut pid = run.map_or(0, |run| run.zk_flock);
        let server_of = |pid: i32| {
            let mut conns = self.conns.values();
            conns
                .find(|conn| conn.pid == pid && !conn.closed)
                .map(|conn| conn.server)
        };
        // Of the holder of a pool: the one that its lock server is connected to.
        if self.http.is_some() {
            pid = http::pid_of(server_of(pid).unwrap_or(0));
        }
        let server = server_of(pid).and_then(|server| self.member(server));
        u8::try_from(server.unwrap_or(0)).expect("few servers")
    }

    /// The servers have lost all sessions and nodes; tokens begin again.
    pub fn wiped(&mut self) {
        self.newest_token = 0;
        self.newest_token_of_a_writer = 0;
        self.records.wiped();
        self.wiped_sessions = Some((self.ensemble.newest_session(), self.now));
    }

    /// Another client deletes this node.
    pub fn deleted(&mut self, path: &str) {
        if let Some(node) = self.ensemble.state().nodes.get(path) {
            self.deleted.insert(node.czxid, self.now);
        }
    }

    /// Whether another client has deleted the lock's node with this token.
    pub fn is_deleted(&self, token: i64) -> bool {
        self.deleted.contains_key(&token) || self.forced.contains_key(&token)
    }

    /// When the lock of this run was taken away by another's hand, if it was.
    pub fn removed(&self, run: usize) -> Option<u64> {
        let RunState { token, session, .. } = self.runs[run];
        let wiped = self
            .wiped_sessions
            .filter(|(newest, _)| session & SESSION_NUMBER <= *newest);
        let deleted = self.deleted.get(&token).copied();
        let deleted = deleted.or_else(|| self.forced.get(&token).copied());
        wiped.map(|(_, at)| at).or(deleted)
    }

    // Operators.

    /// The node and token of a holder. Which contender holds a lock of kazoo, the survey finds by its
    /// number; of a semaphore each lease holds.
    fn a_holder(&mut self) -> Option<(String, i64)> {
        let number = |path: &str| path.rsplit_once("__").map(|(_, number)| number.to_owned());
        let is_lock = |path: &str| path.starts_with("/app/lock") || path.starts_with("/lockex/id/");
        let nodes = &self.ensemble.state().nodes;
        let held = nodes
            .iter()
            .filter(|(path, node)| node.owner != 0 && is_lock(path));
        let mut held: Vec<_> = held
            .map(|(path, node)| (path.clone(), node.czxid))
            .collect();
        if self.scenario.kind == Kind::Queue {
            return held.into_iter().min_by_key(|(path, _)| number(path));
        }
        if self.scenario.kind == Kind::Readers {
            held.sort_by_key(|(path, _)| number(path));
            let contenders: Option<Vec<_>> = held
                .iter()
                .map(|(path, _)| Contender::parse(path))
                .collect();
            let mut holding = Contender::holding(&contenders?).into_iter();
            held.retain(|_| holding.next() == Some(true));
        }
        if held.is_empty() {
            return None;
        }
        let index = self.random.below(held.len() as u64);
        Some(held.swap_remove(usize::try_from(index).expect("an index")))
    }

    /// Chooses the holder that this item asks. Returns whether there is one.
    pub fn choose(&mut self, item: usize) -> bool {
        let holder = self.a_holder();
        self.chosen.extend(holder.map(|holder| (item, holder)));
        self.chosen.contains_key(&item)
    }

    /// Starts `--break`.
    pub fn start_operator(&mut self, item: usize, host: usize, wait: u32, force: bool) -> i32 {
        let pid = self.spawn(host, usize::MAX, Role::Operator, 0);
        let target = self.chosen[&item].clone();
        self.note(&format!(
            "host {host} operator {pid}: --break of {target:?}, -w {wait} ms, force: {force}"
        ));
        let name = if force { "break --force" } else { "break" };
        *self.figures.faults.entry(name).or_default() += 1;
        self.operators.insert(
            pid,
            Operator {
                target,
                host,
                wait: u64::from(wait) * 1000,
                force,
                began: self.now,
            },
        );
        pid
    }

    /// Whether an operator has asked the holder with this token.
    fn is_asked(&self, token: i64) -> bool {
        let mut operators = self.operators.values();
        operators.any(|operator| operator.target.1 == token)
    }

    /// `--break` has ended.
    pub fn broken(&mut self, pid: i32, result: &Result<Outcome, Failure>) {
        let host = self.operators[&pid].host;
        self.note(&format!("host {host} operator {pid}: {result:?}"));
        let end = match result {
            Ok(outcome) => format!("break: {outcome:?}"),
            Err(Failure::Unreachable(_)) => "break: Unreachable".into(),
            Err(failure) => format!("break: {failure:?}"),
        };
        let end = end.split(['{', ' ']).take(2).collect::<Vec<_>>().join(" ");
        *self.figures.ends.entry(end).or_default() += 1;
        if let Err(why) = self.check_outcome(pid, result) {
            self.violate(format!("--break ends with {result:?}: {why}"));
        }
        self.dies(pid, Status::Exited(0));
    }

    /// What `--break` says must be true.
    fn check_outcome(&self, pid: i32, result: &Result<Outcome, Failure>) -> Result<(), String> {
        use crate::scenario::What;
        let operator = &self.operators[&pid];
        let token = operator.target.1;
        let hit: Vec<i64> = self
            .deletions
            .iter()
            .filter(|(hit, by)| **by == pid && **hit != token)
            .map(|(&hit, _)| hit)
            .collect();
        let is_force = operator.force;
        let is_harmless = |item: &crate::scenario::Item| {
            matches!(item.what, What::Run { .. } | What::Break { .. })
        };
        let calm = self.scenario.items.iter().all(is_harmless);
        let sleeps = |item: &crate::scenario::Item| matches!(item.what, What::Suspend { .. });
        let awake = !self.scenario.items.iter().any(sleeps);
        let said = match result {
            Ok(Outcome::Deleted(Newcomer::Possible | Newcomer::Hit)) => true,
            Ok(Outcome::DeletionUnknown) | Err(_) => is_force,
            Ok(_) => false,
        };
        if !hit.is_empty() && !said {
            return Err(format!("it has deleted the node of a newcomer, {hit:?}"));
        }
        let lasted = self.now - operator.began;
        let limit = operator.wait.max(SECOND) + TO_CLOSE;
        if awake && lasted > limit {
            return Err(format!("it took {lasted} µs, and the limit is {limit}"));
        }
        // Its clock drifts by up to 500 ppm, and the timer is rounded.
        let waited = lasted + operator.wait / 2000 + SECOND / 100 >= operator.wait;
        // Servers that have lost their data give out the same zxids again.
        let is_new = self.wiped_sessions.is_some();
        let node = self.ensemble.state().nodes.get(&operator.target.0);
        let gone = is_new || node.is_none_or(|node| node.czxid != token);
        let outcome = match result {
            Err(Failure::Unreachable(_)) if !calm => return Ok(()),
            Err(_) => return Err("it is not documented".into()),
            Ok(outcome) => *outcome,
        };
        match outcome {
            Outcome::Evicted { .. } if !gone => Err("the lock is still held".into()),
            Outcome::Evicted { .. } => self.check_evicted(token),
            Outcome::Left | Outcome::Unanswered if !gone => Err("the lock is still held".into()),
            Outcome::Left | Outcome::Unanswered => Ok(()),
            Outcome::Silent if is_force || calm => Err("the holder answers".into()),
            Outcome::Silent => Ok(()),
            Outcome::Deleted(_) | Outcome::DeletionUnknown if !is_force || calm => {
                Err("nothing was to be deleted".into())
            }
            Outcome::Deleted(Newcomer::Hit) if hit.is_empty() => Err("no newcomer was hit".into()),
            Outcome::Deleted(_) => Ok(()),
            Outcome::TooShort { .. } | Outcome::StillHeld { .. } | Outcome::DeletionUnknown
                if waited =>
            {
                Ok(())
            }
            Outcome::Unknown if waited && (!calm || operator.wait < SECOND) => Ok(()),
            _ => Err("it is not documented".into()),
        }
    }

    /// The command of an evicted holder is dead.
    fn check_evicted(&self, token: i64) -> Result<(), String> {
        let lives = |&run: &usize| self.is_live(run) && self.exception(run).is_none();
        let held = (0..self.runs.len()).find(|&run| self.runs[run].token == token);
        match held.filter(lives) {
            Some(run) => Err(format!("the command of run {run} lives")),
            None => Ok(()),
        }
    }

    /// zk-flock has exited.
    pub fn ended(&mut self, run: usize, end: ExitReason) {
        let pid = self.runs[run].zk_flock;
        self.runs[run].end = Some(end);
        self.note(&format!(
            "host {} run {run}: exits: {end:?}",
            self.runs[run].host
        ));
        let name = format!("{end:?}");
        let name = name.split('(').next().unwrap_or_default().to_owned();
        *self.figures.ends.entry(name).or_default() += 1;
        self.check_end(run, end);
        let killable = |pid: &&i32| self.procs.get(pid).is_some_and(|proc| proc.survives == 0);
        let left = self.runs[run].members.iter().filter(killable).count();
        if left > 0 && !self.runs[run].background {
            self.violate(format!(
                "run {run} exits and leaves {left} processes of its command"
            ));
        }
        self.dies(pid, Status::Exited(0));
    }

    /// The reason to exit must be the documented one.
    fn check_end(&mut self, run: usize, end: ExitReason) {
        use crate::scenario::What;
        let state = &self.runs[run];
        let is_queue = !matches!(self.scenario.kind, Kind::Node(_));
        let is_fault = |item: &crate::scenario::Item| !matches!(item.what, What::Run { .. });
        let faults = self.scenario.items.iter().any(is_fault);
        let limited = self
            .scenario
            .items
            .iter()
            .any(|item| matches!(item.what, What::Limit { .. }));
        // A network this slow for so long never confirms a lock: the attempt ends, whatever its limit.
        let timeout = self.scenario.timeout;
        let slowed = self.scenario.items.iter().any(|item| {
            matches!(item.what, What::Slow { by, lasts, .. } if by >= timeout / 20 && lasts >= timeout / 2)
        });
        let right = match end {
            ExitReason::Command(Status::Exited(code)) => code == 0,
            ExitReason::Command(Status::Killed(_)) => {
                state.signalled || state.command_signalled || faults
            }
            ExitReason::Busy => state.wait != u32::MAX,
            ExitReason::AlreadyRun => self.is_taken(run),
            ExitReason::Unreachable => faults && (state.wait != u32::MAX || is_queue || slowed),
            ExitReason::Lost => faults,
            ExitReason::InternalError => state.hurt,
            // Before it had started its command.
            ExitReason::Refused => self.is_revoked(run) && state.token == 0,
            ExitReason::Revoked => self.is_asked(state.token) || self.is_revoked(run),
            ExitReason::Signalled(_) => state.signalled || state.command_signalled,
            ExitReason::IncompatibleLock => limited,
            _ => false,
        };
        if !right {
            self.violate(format!(
                "run {run} exits with {end:?}, which is not documented for it"
            ));
        }
    }
}

impl Conn {
    fn is_ready(&self) -> bool {
        if self.open {
            !self.inbox.is_empty() || self.end.is_some()
        } else {
            self.result.is_some()
        }
    }
}

/// The system of simulated processes.
pub struct Simulated;

/// A connection of zk-flock.
#[derive(Default)]
pub struct Link {
    conn: Option<ConnId>,
}

/// An end of the channel: that of the process that uses it.
pub struct Channel {
    owner: Option<i32>,
}

/// The guard's end, which is closed by its exit.
pub static GUARD_END: Channel = Channel { owner: None };

impl Drop for Channel {
    fn drop(&mut self) {
        let Some(owner) = self.owner.filter(|&owner| owner == own()) else {
            return; // the process has exited, which has closed it
        };
        with(|world| {
            let peer = world
                .procs
                .get_mut(&owner)
                .and_then(|proc| proc.peer.take());
            if let Some(peer) = peer {
                world.close_peer(peer);
            }
        });
    }
}

/// The signals of the process that uses it.
pub struct Signals;

impl System for Simulated {
    type Link = Link;
    type Channel = Channel;
    type Signals = Signals;
    type Timer = ();
    type Witness = ();

    fn now() -> Moment {
        with(|world| {
            let host = world.procs.get(&own()).map_or(0, |proc| proc.host);
            world.clock(host)
        })
    }

    fn own_pid() -> Pid {
        Pid(own())
    }

    fn execute(link: &mut Link, output: transport::Output) -> Option<transport::Event<'static>> {
        with(|world| {
            match output {
                transport::Output::Connect(address) => {
                    if let Some(old) = link.conn.take() {
                        world.close_client(old, false);
                    }
                    link.conn = Some(world.connect(own(), &address));
                }
                transport::Output::Send(bytes) => {
                    if let Some(conn) = link.conn {
                        world.transmit(conn, true, Packet::Data(bytes));
                    }
                }
                transport::Output::ShutdownWrite => {
                    if let Some(conn) = link.conn {
                        world.transmit(conn, true, Packet::Fin);
                    }
                }
                transport::Output::Close | transport::Output::Reset => {
                    let abort = output == transport::Output::Reset;
                    if let Some(conn) = link.conn.take() {
                        world.close_client(conn, abort);
                    }
                }
            }
            None
        })
    }

    fn is_connected(link: &Link) -> bool {
        link.conn.is_some()
    }

    fn read(link: &mut Link, mut report: impl FnMut(transport::Event)) {
        enum Found {
            Nothing,
            Connected,
            Bytes(Vec<u8>),
            End(Option<String>),
        }
        let Some(id) = link.conn else {
            return;
        };
        let found = with(|world| {
            let Some(conn) = world.conns.get_mut(&id) else {
                return Found::Nothing;
            };
            if !conn.open {
                return match conn.result.clone() {
                    None => Found::Nothing,
                    Some(Ok(())) => {
                        conn.open = true;
                        Found::Connected
                    }
                    Some(Err(why)) => {
                        conn.closed = true;
                        Found::End(Some(why))
                    }
                };
            }
            if !conn.inbox.is_empty() {
                conn.read.get_or_insert(world.now);
                return Found::Bytes(conn.inbox.drain(..).flatten().collect());
            }
            match conn.end {
                None => Found::Nothing,
                Some(end) => {
                    world.close_client(id, false);
                    Found::End(end.reason())
                }
            }
        });
        match found {
            Found::Nothing => {}
            Found::Connected => report(transport::Event::Connected),
            Found::Bytes(bytes) => report(transport::Event::Received(&bytes)),
            Found::End(why) => {
                link.conn = None;
                report(transport::Event::Disconnected(why));
            }
        }
    }

    fn sleep(_: &Sources<Simulated>, (): &mut (), _: Moment) -> io::Result<Ready> {
        unreachable!("the simulation sleeps for its processes")
    }

    fn next_signal(_: &Signals) -> Option<Received> {
        with(|world| world.procs.get_mut(&own())?.signals.pop_front())
    }

    fn await_signal(_: &Signals, _: Duration) {}

    fn stop_self(_: Signal) {
        with(|world| {
            world.stop(own(), true);
            world.after(2 * SECOND, Event::Continue(own()));
        });
    }

    fn start_witness(_: &Signals) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn witness_report((): &()) -> Incoming<Report> {
        Incoming::Closed
    }

    fn witness_reaped((): &mut (), _: Pid) {}

    fn start_guard(job: &Job, _: &Signals) -> io::Result<(Pid, Channel)> {
        with(|world| {
            let parent = own();
            let (host, run) = (world.procs[&parent].host, world.procs[&parent].run);
            let guard = world.spawn(host, run, Role::Guard, parent);
            world.procs.get_mut(&guard).expect("a process").peer = Some(parent);
            world.procs.get_mut(&parent).expect("a process").peer = Some(guard);
            let variable = |name: &str| {
                let variables = job.environment.iter().flatten();
                let mut found = variables.filter(|(known, _)| *known == name);
                found
                    .find_map(|(_, value)| value.clone())
                    .unwrap_or_default()
            };
            let state = &mut world.runs[run];
            state.guard = Some(guard);
            (state.lease, state.death_signal) = (job.lease, job.death_signal);
            state.kill_after = job.kill_after;
            state.token = variable("ZK_FLOCK_TOKEN").parse().unwrap_or(0);
            let session = variable("ZK_FLOCK_SESSION");
            state.session = i64::from_str_radix(session.trim_start_matches("0x"), 16).unwrap_or(0);
            let delay = 300 + world.delay(guard) * 2;
            world.after(delay, Event::Guard(guard));
            let channel = Channel {
                owner: Some(parent),
            };
            Ok((Pid(guard), channel))
        })
    }

    fn send_command(_: &Channel, command: Command) {
        with(|world| world.send(Message::Command(command)));
    }

    fn receive_report(_: &Channel) -> Incoming<Report> {
        with(|world| match world.receive() {
            Incoming::Message(Message::Report(report)) => Incoming::Message(report),
            Incoming::Closed => Incoming::Closed,
            _ => Incoming::Nothing,
        })
    }

    fn close_inherited() {}

    fn reap() -> Reap {
        with(|world| {
            let Some(proc) = world.procs.get(&own()) else {
                return Reap::NoChildren;
            };
            let dead = |pid: &&i32| world.procs[pid].zombie.is_some();
            if let Some(&child) = proc.children.iter().find(dead) {
                let status = world.procs[&child].zombie.expect("a zombie");
                world.remove(child);
                return Reap::Ended(Pid(child), status);
            }
            if proc.children.is_empty() {
                Reap::NoChildren
            } else {
                Reap::Running
            }
        })
    }

    fn kill(Pid(pid): Pid, signal: Signal) -> io::Result<()> {
        with(|world| {
            world.stopping(pid, signal);
            world.signal(pid, signal, own());
        });
        Ok(())
    }

    fn kill_group(_: Pid, _: Signal) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn signal_all(processes: &[Process], signal: Signal) {
        for process in processes {
            let _ = Simulated::kill(process.pid, signal);
        }
    }

    fn kill_own() {
        let own = Pid(own());
        Simulated::signal_all(&Simulated::descendants(own), Signal::KILL);
    }

    fn kill_own_children_without_proc() {}

    fn group(pid: Pid) -> Option<Pid> {
        Some(pid)
    }

    fn started(Pid(pid): Pid) -> Option<u64> {
        with(|world| Some(world.procs.get(&pid)?.started / 10_000))
    }

    fn descendants(Pid(of): Pid) -> Vec<Process> {
        with(|world| {
            // Who looks at the tree of a command is about to end it.
            world.descendants(of)
        })
    }

    fn descendants_since(of: Pid, _: Option<u64>) -> Vec<Process> {
        Simulated::descendants(of)
    }

    fn run_ahead() {
        with(|world| {
            if let Some(proc) = world.procs.get_mut(&own()) {
                proc.ahead = true;
            }
        });
    }

    fn sleep_guard(_: &Signals, _: Option<&Channel>, (): &mut (), _: Moment) {
        unreachable!("the simulation sleeps for its processes")
    }

    fn receive_command(_: &Channel) -> Incoming<Command> {
        with(|world| match world.receive() {
            Incoming::Message(Message::Command(command)) => Incoming::Message(command),
            Incoming::Closed => Incoming::Closed,
            _ => Incoming::Nothing,
        })
    }

    fn send_report(_: &Channel, report: Report) {
        with(|world| world.send(Message::Report(report)));
    }

    fn print(program: &str, message: &dyn Display) {
        print(format!("{program}: {message}"));
    }
}

impl World {
    fn send(&mut self, message: Message) {
        let peer = self.procs.get(&own()).and_then(|proc| proc.peer);
        let Some(peer) = peer.filter(|&peer| self.is_alive(peer)) else {
            return;
        };
        if self.tracing {
            self.note(&format!("  {} -> {peer}: {message:?}", own()));
        }
        let proc = self.procs.get_mut(&peer).expect("a process");
        if proc.inbox.len() < CHANNEL {
            proc.inbox.push_back(message);
            self.notify(peer);
        }
    }

    fn receive(&mut self) -> Incoming<Message> {
        let Some(proc) = self.procs.get_mut(&own()) else {
            return Incoming::Closed;
        };
        match proc.inbox.pop_front() {
            Some(message) => Incoming::Message(message),
            None if proc.peer_closed || proc.peer.is_none() => Incoming::Closed,
            None => Incoming::Nothing,
        }
    }

    /// A signal that ends the whole tree, so that what is left of it is not its background.
    fn stopping(&mut self, pid: i32, signal: Signal) {
        let by_guard = self.procs.contains_key(&own());
        if let Some(proc) = self.procs.get(&pid)
            && by_guard
            && proc.role == Role::Member
            && (signal == Signal::KILL || Some(pid) != self.runs[proc.run].main)
        {
            self.runs[proc.run].stopping = true;
        }
    }
}

//! A ZooKeeper ensemble.
//!
//! # What the model is faithful to
//!
//! | behaviour | source |
//! | --- | --- |
//! | A write goes to the leader, is proposed to all followers, is committed when a majority has logged it, and is answered by the server that received it when that has applied it. A failed write is a transaction too. | `ProposalRequestProcessor`, `FinalRequestProcessor` |
//! | A read and a ping are answered from the server's own state, in the order of the requests of their connection: they wait for earlier writes. | `CommitProcessor` |
//! | A follower answers pings as long as it believes in its leader: for `syncLimit` ticks after the last word from it. | `Learner`, `Follower.followLeader`; measured: 9.9 s |
//! | `sync` is answered by the leader when the proposals before it are committed, at once if there are none: also by a leader that is cut off. | `Leader.processSync`; measured |
//! | A leader steps down when a majority has been silent for `syncLimit` ticks. | `Leader.lead` |
//! | The leader pings followers twice a tick; the answer carries the sessions that the follower has heard of since. Only then does the leader touch them. Its own clients and (re)connecting ones it touches at once. | `LearnerHandler`, `LearnerSessionTracker.snapshot`, `Leader.lead` |
//! | A touched session expires at the end of the bucket after `now + timeout`: rounded up to a tick. | `ExpiryQueue.roundToNextInterval` |
//! | The expiry is a transaction; without a majority nothing expires. | `ZooKeeperServer.expire` |
//! | A new leader gives each session its full timeout. It has the newest logged transaction of its majority, so a proposal that one of them has logged may be committed. | `SessionTrackerImpl` is new with the leader; `FastLeaderElection.totalOrderPredicate` |
//! | A server that looks for a leader closes all connections, and each new one at its connect request. | `ZooKeeperServer.shutdown`, `NIOServerCnxn.readConnectRequest` |
//! | A connect request with a newer zxid than the server's is hung up on. | `ZooKeeperServer.processConnectRequest` |
//! | A session is resumed by the leader's word: with a follower after a question to it. A wrong one is answered with session 0 and timeout 0. | `Learner.validateSession`, `finishSessionInit` |
//! | The session belongs to the connection that has resumed it last: requests of others are refused with −118. | `SessionTrackerImpl.checkSession` |
//! | The timeout is granted by the server of the connection; a resumed session is touched with what was granted last. | `ZooKeeperServer.processConnectRequest`, `touchSession` |
//! | A multi is one transaction, or none: each operation sees those before it, and a check, a delete or a change of data with another version than the node's undoes all. | `PrepRequestProcessor.pRequest2Txn` |
//! | A watch fires once, before the answer to the request that fired it, and before any later answer on its connection; it ends with the connection. | `WatchManager.triggerWatch`, `FinalRequestProcessor` |
//! | A follower that its leader's messages reach late serves reads from before them; what it forwards to the leader (a write, `sync`) is answered after all that came before the answer. | `Learner`, one TCP connection |
//! | The time of a transaction is that of its leader's clock, in ms; no server corrects it. ctime and mtime of a node are such times. | `PrepRequestProcessor.pRequest2Txn`, `DataTree` |
//! | Empty containers are deleted once a minute. | `ContainerManager` |
//! | A server that is killed and started again has its log. A wiped ensemble has nothing, and begins at zxid 0. | |
//! | ClickHouse Keeper (`keeper`): a resume makes a new session; closeSession is committed and not answered; ping and sync go through the log; without a leader each session is refused with version 42 and id −1; the connect response has 36 bytes; reads do not refresh the session. The program requests no containers of it. Not modelled: a server that is stopped ends the sessions of its clients (#41215). | ClickHouse#116690, `KeeperTCPHandler.cpp` |
//!
//! # What is simpler
//!
//! Requests of one connection are forwarded to the leader one by one. A server that joins takes over
//! the leader's state at once, as with a short snapshot. The wire between servers is TCP: messages
//! keep their order, and what is cut off arrives after the cut, unless a side has given up.

use crate::random::Random;
use crate::tree::{Change, Happened, Operation, Tree, answer_type, parent};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use zk_flock::internals::zookeeper::code::{Code, operation, xid};
use zk_flock::internals::zookeeper::record::*;
use zk_flock::internals::zookeeper::wire::{Vector, Wire, frame, next_frame};

/// Ticks after which a silent peer is given up (zoo.cfg of the packages).
const SYNC_LIMIT: u64 = 5;

/// Time that a proposal needs to the disk: shortest and longest, in microseconds.
const FSYNC: (u64, u64) = (100, 3_000);

/// One way between two servers.
const PEER_LATENCY: (u64, u64) = (50, 1_500);

/// Time from the loss of a leader until a server votes.
const ELECTION: (u64, u64) = (50_000, 800_000);

/// How late what was held back by a cut arrives: one retransmission.
const LATE: u64 = 200_000;

/// How often empty containers are deleted.
const CONTAINER_SCAN: u64 = 60_000_000;

/// What the servers' clocks show at the beginning, in ms since 1970.
const EPOCH: i64 = 1_700_000_000_000;

/// Number of a server.
pub type ServerId = usize;
/// Number of a connection.
pub type ConnId = u64;

/// A committed or proposed transaction.
#[derive(Debug)]
struct Txn {
    zxid: i64,
    /// By the leader's clock, in ms.
    time: i64,
    changes: Vec<Change>,
    /// Who asked for it, and the answer.
    origin: Option<Origin>,
}

#[derive(Debug)]
struct Origin {
    server: ServerId,
    conn: ConnId,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    Reply { xid: i32, err: Code, body: Vec<u8> },
    Session { id: i64 },
    Closed { xid: i32 },
}

/// A write request.
#[derive(Clone, Debug)]
pub enum Write {
    Open {
        id: i64,
        timeout: u64,
    },
    Close {
        xid: i32,
    },
    Single {
        xid: i32,
        operation: Operation,
    },
    Multi {
        xid: i32,
        operations: Vec<Operation>,
    },
    /// A transaction without a change (ClickHouse Keeper: ping and sync).
    Nothing {
        xid: i32,
        body: Vec<u8>,
    },
}

#[derive(Clone, Debug)]
enum Message {
    Forward {
        conn: ConnId,
        session: i64,
        write: Write,
    },
    Propose(Rc<Txn>),
    Ack(i64),
    Commit(i64),
    Ping,
    Pong(Vec<(i64, u64)>),
    Revalidate {
        conn: ConnId,
        session: i64,
        timeout: u64,
    },
    Revalidated {
        conn: ConnId,
        valid: bool,
    },
    Sync {
        conn: ConnId,
    },
    Synced {
        conn: ConnId,
    },
}

/// What happens inside the ensemble after some time.
#[derive(Clone, Debug)]
pub enum Event {
    Tick(ServerId, u64),
    Expire(ServerId, u64),
    Logged(ServerId, i64, i64),
    Peer(Box<Letter>),
    /// What a cut has held back arrives.
    Release(ServerId, ServerId),
}

/// A message between servers.
#[derive(Clone, Debug)]
pub struct Letter {
    from: ServerId,
    to: ServerId,
    epoch: i64,
    message: Message,
}

/// What the ensemble does.
#[derive(Debug)]
pub enum Effect {
    Send(ConnId, Vec<u8>),
    Close(ConnId),
    Reset(ConnId),
    At(u64, Event),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Looking { votes_at: u64 },
    Leading,
    Following(ServerId),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The connect request is to come.
    Greeting,
    /// It is being answered.
    Opening,
    Open,
}

#[derive(Debug)]
struct Conn {
    server: ServerId,
    phase: Phase,
    session: i64,
    timeout: u64,
    bytes: Vec<u8>,
    queue: VecDeque<Vec<u8>>,
    /// The request at the head waits for its answer.
    busy: bool,
    pending_sync: i32,
    data_watches: BTreeSet<String>,
    child_watches: BTreeSet<String>,
}

#[derive(Debug)]
enum Backlog {
    Event(Event),
    Bytes(ConnId, Vec<u8>),
    Gone(ConnId),
}

#[derive(Debug)]
struct Server {
    up: bool,
    frozen: bool,
    role: Role,
    epoch: i64,
    tree: Tree,
    zxid: i64,
    /// Logged and not known as committed.
    logged: VecDeque<Rc<Txn>>,
    /// Last word of the leader.
    heard: u64,
    /// Sessions heard of since the last answer to the leader's ping.
    touched: BTreeMap<i64, u64>,
    longest_timeout: u64,
    /// Counts lives, so that timers of an earlier one are ignored.
    life: u64,
    ppm: i64,
    /// How late it hears of its peers.
    lags: u64,
    /// By how many ms its clock is ahead.
    ahead: i64,
    backlog: Vec<Backlog>,
    // Of a leader:
    prepared: Tree,
    pending: VecDeque<(Rc<Txn>, BTreeSet<ServerId>)>,
    followers: BTreeMap<ServerId, u64>,
    /// Expiry by the leader's clock.
    tracker: BTreeMap<i64, u64>,
    closing: BTreeSet<i64>,
    owners: BTreeMap<i64, ConnId>,
    syncs: Vec<(i64, ServerId, ConnId)>,
    next_zxid: i64,
    next_scan: u64,
}

/// What a run with `--every` has done.
#[derive(Debug)]
pub enum Notice {
    /// Its session has an ephemeral node: it asks for the lock, or has it.
    Asked {
        conn: ConnId,
        session: i64,
        zxid: i64,
        time: i64,
    },
    /// Its start is recorded.
    Started {
        zxid: i64,
        time: i64,
        record: Vec<u8>,
    },
    /// Its end is recorded.
    Ended { record: Vec<u8> },
}

/// The data of a node, and the names and data of its children.
#[derive(Debug)]
pub struct PoolState {
    pub data: Vec<u8>,
    pub children: Vec<(String, Vec<u8>)>,
}

/// In the path of each record of a run, and of no other node but their container.
const RECORDS: &str = "/.runs/";

/// The servers and their connections.
#[derive(Debug)]
pub struct Ensemble {
    voters: usize,
    tick: u64,
    keeper: bool,
    servers: Vec<Server>,
    conns: BTreeMap<ConnId, Conn>,
    cut: BTreeSet<(ServerId, ServerId)>,
    /// Letters that wait for the end of a cut.
    held: BTreeMap<(ServerId, ServerId), Vec<Letter>>,
    arrival: BTreeMap<(ServerId, ServerId), u64>,
    random: Random,
    next_session: i64,
    /// What it does next.
    pub out: Vec<Effect>,
    /// Elections that were won.
    pub elections: u64,
    /// Sessions that were expired by a leader.
    pub expiries: u64,
    /// What happened, for the trace.
    pub notes: Vec<String>,
    /// Sessions that the servers ended by themselves.
    pub expired: BTreeSet<i64>,
    /// Sessions that a leader has called expired because their end was proposed: it is committed soon,
    /// unless that leader has lost its majority (`SessionTrackerImpl.touchSession`, `isClosing`).
    pub called_expired: BTreeSet<i64>,
    /// Ephemeral nodes that were deleted by name, by their czxid: over which connection.
    pub deletions: BTreeMap<i64, ConnId>,
    /// What runs with `--every` have done. The newest transaction that was looked at for it.
    pub notices: Vec<Notice>,
    noticed: i64,
    /// The node whose states are kept in `pools`.
    pub pool: Option<&'static str>,
    /// That node after each transaction that may have changed it or its children.
    pub pools: Vec<PoolState>,
    /// Sessions that a server resumed for less time than before: by which connection, and when.
    pub shortened: BTreeMap<i64, (ConnId, u64)>,
    /// A promise that is broken inside the servers.
    pub fault: Option<String>,
}

fn framed(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, write);
    out
}

impl Ensemble {
    /// Starts the servers; `observers` of them do not vote. Times in microseconds. `clocks`: the
    /// most, in ms, by which the clock of a server is ahead.
    pub fn new(
        voters: usize,
        observers: usize,
        tick: u64,
        keeper: bool,
        clocks: u32,
        mut random: Random,
    ) -> Ensemble {
        let servers = (0..voters + observers)
            .map(|_| Server {
                up: true,
                frozen: false,
                role: Role::Looking { votes_at: 0 },
                epoch: 0,
                tree: Tree::default(),
                zxid: 0,
                logged: VecDeque::new(),
                heard: 0,
                touched: BTreeMap::new(),
                longest_timeout: 20 * tick,
                life: 0,
                ppm: i64::try_from(random.below(1001)).expect("small") - 500,
                lags: 0,
                ahead: match clocks {
                    0 => 0,
                    most => i64::try_from(random.below(u64::from(most) + 1)).expect("small"),
                },
                backlog: Vec::new(),
                prepared: Tree::default(),
                pending: VecDeque::new(),
                followers: BTreeMap::new(),
                tracker: BTreeMap::new(),
                closing: BTreeSet::new(),
                owners: BTreeMap::new(),
                syncs: Vec::new(),
                next_zxid: 0,
                next_scan: 0,
            })
            .collect();
        let mut ensemble = Ensemble {
            voters,
            tick,
            keeper,
            servers,
            conns: BTreeMap::new(),
            cut: BTreeSet::new(),
            held: BTreeMap::new(),
            arrival: BTreeMap::new(),
            random,
            next_session: 0x100,
            out: Vec::new(),
            elections: 0,
            expiries: 0,
            notes: Vec::new(),
            expired: BTreeSet::new(),
            called_expired: BTreeSet::new(),
            deletions: BTreeMap::new(),
            notices: Vec::new(),
            noticed: 0,
            pool: None,
            pools: Vec::new(),
            shortened: BTreeMap::new(),
            fault: None,
        };
        for server in 0..voters + observers {
            let phase = ensemble.random.below(tick / 2);
            ensemble.out.push(Effect::At(phase, Event::Tick(server, 0)));
        }
        ensemble
    }

    /// Number of servers.
    pub fn size(&self) -> usize {
        self.servers.len()
    }

    /// The state of the server that is ahead of all others.
    pub fn state(&self) -> &Tree {
        let ahead = self.servers.iter().max_by_key(|server| server.zxid);
        &ahead.expect("a server").tree
    }

    /// The leader of the newest epoch.
    pub fn leader(&self) -> Option<ServerId> {
        let leads = |&server: &ServerId| {
            self.servers[server].up && self.servers[server].role == Role::Leading
        };
        (0..self.size())
            .filter(leads)
            .max_by_key(|&server| self.servers[server].epoch)
    }

    /// The number of the newest session.
    pub fn newest_session(&self) -> i64 {
        self.next_session
    }

    /// Whether a leader is ending this session, or has told a client so.
    pub fn is_closing(&self, session: i64) -> bool {
        self.called_expired.contains(&session)
            || self
                .servers
                .iter()
                .any(|server| server.closing.contains(&session))
    }

    /// Whether each server follows or leads.
    pub fn is_healthy(&self) -> bool {
        self.leader().is_some()
            && self.servers.iter().all(|server| {
                server.up && !server.frozen && !matches!(server.role, Role::Looking { .. })
            })
    }

    /// Whether a server takes connections.
    pub fn is_up(&self, server: ServerId) -> bool {
        self.servers[server].up
    }

    // Faults.

    /// The server's process is killed: its connections are reset.
    pub fn kill(&mut self, server: ServerId, now: u64) {
        self.servers[server].up = false;
        self.servers[server].life += 1;
        self.servers[server].backlog.clear();
        self.servers[server].frozen = false;
        self.drop_connections(server, true);
        self.step_down(server, now);
        self.others_notice(server, now);
    }

    /// The server is started again, with its log.
    pub fn start(&mut self, server: ServerId, now: u64) {
        if self.servers[server].up {
            return;
        }
        self.servers[server].up = true;
        self.step_down(server, now);
        let life = self.servers[server].life;
        self.out
            .push(Effect::At(self.tick / 2, Event::Tick(server, life)));
    }

    /// The server's process is stopped, or goes on.
    pub fn freeze(&mut self, server: ServerId, frozen: bool, now: u64) {
        self.servers[server].frozen = frozen && self.servers[server].up;
        if !frozen {
            for item in std::mem::take(&mut self.servers[server].backlog) {
                match item {
                    Backlog::Event(event) => self.event(event, now),
                    Backlog::Bytes(conn, bytes) => self.receive(conn, &bytes, now),
                    Backlog::Gone(conn) => self.gone(conn),
                }
            }
        }
    }

    /// The server cannot reach its peers. `noticed`: they find out at once, as by a reset.
    pub fn isolate(&mut self, server: ServerId, noticed: bool, now: u64) {
        for peer in (0..self.size()).filter(|&peer| peer != server) {
            self.cut.insert((server, peer));
            self.cut.insert((peer, server));
        }
        if noticed {
            self.others_notice(server, now);
        }
    }

    /// The server reaches its peers again.
    pub fn rejoin(&mut self, server: ServerId) {
        self.cut
            .retain(|&(from, to)| from != server && to != server);
        self.release_held();
    }

    /// What this server hears of its peers is late by so much. Their order stays the same.
    pub fn lag(&mut self, server: ServerId, by: u64) {
        self.servers[server].lags = by;
    }

    /// These servers and the others do not reach each other.
    pub fn separate(&mut self, side: &[ServerId]) {
        self.cut.extend(across(side, self.size()));
    }

    /// They reach each other again.
    pub fn unite(&mut self, side: &[ServerId]) {
        for way in across(side, self.size()) {
            self.cut.remove(&way);
        }
        self.release_held();
    }

    fn release_held(&mut self) {
        for &(from, to) in self.held.keys() {
            self.out.push(Effect::At(LATE, Event::Release(from, to)));
        }
    }

    /// All servers lose their data.
    pub fn wipe(&mut self, now: u64) {
        self.noticed = 0;
        for server in 0..self.size() {
            self.drop_connections(server, true);
            let state = &mut self.servers[server];
            (state.tree, state.zxid, state.epoch) = (Tree::default(), 0, 0);
            (state.pending, state.prepared) = (VecDeque::new(), Tree::default());
            self.step_down(server, now);
            let state = &mut self.servers[server];
            state.logged.clear();
            state.life += 1;
            let life = state.life;
            if state.up {
                self.out.push(Effect::At(1, Event::Tick(server, life)));
            }
        }
    }

    /// The longest timeout that the server grants from now on.
    pub fn limit_timeouts(&mut self, server: ServerId, longest: u64) {
        self.servers[server].longest_timeout = longest;
    }

    /// The usual longest timeout.
    pub fn usual_limit(&self) -> u64 {
        20 * self.tick
    }

    /// Another client deletes a node, if there is a leader.
    pub fn delete(&mut self, path: &str, now: u64) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        let Ok(change) = self.servers[leader]
            .prepared
            .prepare(&Operation::delete(path), 0)
        else {
            return false;
        };
        self.propose(leader, change.into_iter().collect(), None, now);
        true
    }

    fn others_notice(&mut self, server: ServerId, now: u64) {
        for peer in 0..self.size() {
            if self.servers[peer].role == Role::Following(server) {
                self.lose_leader(peer, now);
            }
        }
    }

    // The network's side.

    /// A client connects.
    pub fn accept(&mut self, conn: ConnId, server: ServerId) {
        let conn_state = Conn {
            server,
            phase: Phase::Greeting,
            session: 0,
            timeout: 0,
            bytes: Vec::new(),
            queue: VecDeque::new(),
            busy: false,
            pending_sync: 0,
            data_watches: BTreeSet::new(),
            child_watches: BTreeSet::new(),
        };
        self.conns.insert(conn, conn_state);
    }

    /// Whether the server has this connection open.
    pub fn has(&self, conn: ConnId) -> bool {
        self.conns.contains_key(&conn)
    }

    /// The client has closed the connection, or it was reset.
    pub fn gone(&mut self, conn: ConnId) {
        let Some(state) = self.conns.get(&conn) else {
            return;
        };
        let server = &mut self.servers[state.server];
        if server.frozen {
            return server.backlog.push(Backlog::Gone(conn));
        }
        self.conns.remove(&conn);
    }

    /// Bytes of a client arrive.
    pub fn receive(&mut self, conn: ConnId, bytes: &[u8], now: u64) {
        let Some(state) = self.conns.get_mut(&conn) else {
            return;
        };
        let server = &mut self.servers[state.server];
        if server.frozen {
            return server.backlog.push(Backlog::Bytes(conn, bytes.into()));
        }
        state.bytes.extend_from_slice(bytes);
        let all = std::mem::take(&mut state.bytes);
        let mut rest = &all[..];
        while let Some(request) = next_frame(&mut rest).expect("the program's frames are valid") {
            state.queue.push_back(request.to_vec());
        }
        state.bytes = rest.to_vec();
        if state.phase == Phase::Open {
            self.touch(conn, now);
        }
        self.work(conn, now);
    }

    /// The server hears of a session: a leader at once, a follower tells it later.
    fn touch(&mut self, conn: ConnId, now: u64) {
        let Conn {
            server,
            session,
            timeout,
            ..
        } = self.conns[&conn];
        if self.keeper {
            return;
        }
        if self.servers[server].role == Role::Leading {
            self.track(server, session, timeout, now);
        } else {
            self.servers[server].touched.insert(session, timeout);
        }
    }

    fn clock(&self, server: ServerId, now: u64) -> u64 {
        now.saturating_add_signed(
            i64::try_from(i128::from(now) * i128::from(self.servers[server].ppm) / 1_000_000)
                .expect("a small drift"),
        )
    }

    /// What the server's clock shows, in ms since 1970.
    fn time(&self, server: ServerId, now: u64) -> i64 {
        let clock = i64::try_from(self.clock(server, now) / 1000).expect("a short simulation");
        EPOCH + clock + self.servers[server].ahead
    }

    fn track(&mut self, leader: ServerId, session: i64, timeout: u64, now: u64) {
        let at = (self.clock(leader, now) + timeout) / self.tick * self.tick + self.tick;
        let state = &mut self.servers[leader];
        if !state.closing.contains(&session) && state.prepared.sessions.contains_key(&session) {
            state.tracker.insert(session, at);
        }
    }

    /// Works off the requests of a connection, up to one that waits.
    fn work(&mut self, conn: ConnId, now: u64) {
        while let Some(state) = self.conns.get_mut(&conn) {
            if state.busy {
                return;
            }
            let Some(request) = state.queue.pop_front() else {
                return;
            };
            match state.phase {
                Phase::Greeting => self.greet(conn, &request, now),
                Phase::Opening | Phase::Open => self.serve(conn, &request, now),
            }
        }
    }

    fn hang_up(&mut self, conn: ConnId) {
        if self.conns.remove(&conn).is_some() {
            self.out.push(Effect::Close(conn));
        }
    }

    fn greet(&mut self, conn: ConnId, mut request: &[u8], now: u64) {
        let hello = ConnectRequest::read(&mut request, "").expect("a connect request");
        let server = self.conns[&conn].server;
        if matches!(self.servers[server].role, Role::Looking { .. }) {
            if self.keeper {
                self.respond_connect(conn, 42, hello.time_out, -1);
            }
            return self.hang_up(conn);
        }
        if hello.last_zxid_seen > self.servers[server].zxid && !self.keeper {
            return self.hang_up(conn);
        }
        let asked = u64::try_from(hello.time_out).unwrap_or(0) * 1000;
        let granted = asked
            .clamp(2 * self.tick, self.usual_limit())
            .min(self.servers[server].longest_timeout);
        let state = self.conns.get_mut(&conn).expect("a connection");
        (state.phase, state.timeout, state.busy) = (Phase::Opening, granted, true);
        if hello.session_id == 0 || self.keeper {
            self.next_session += 1;
            let id = i64::try_from(server + 1).expect("few") << 56 | self.next_session;
            let write = Write::Open {
                id,
                timeout: granted,
            };
            return self.write(conn, id, write, now);
        }
        state.session = hello.session_id;
        let before = self.servers[server].tree.sessions.get(&hello.session_id);
        if before.is_some_and(|&before| granted < before) {
            self.shortened.insert(hello.session_id, (conn, now));
        }
        if self.servers[server].role == Role::Leading {
            let valid = self.revalidate(server, conn, hello.session_id, granted, now);
            return self.revalidated(conn, valid, now);
        }
        self.tell_leader(
            server,
            Message::Revalidate {
                conn,
                session: hello.session_id,
                timeout: granted,
            },
            now,
        );
    }

    fn revalidate(
        &mut self,
        leader: ServerId,
        conn: ConnId,
        session: i64,
        timeout: u64,
        now: u64,
    ) -> bool {
        let state = &mut self.servers[leader];
        let valid =
            state.prepared.sessions.contains_key(&session) && !state.closing.contains(&session);
        if state.closing.contains(&session) {
            self.called_expired.insert(session);
        }
        let state = &mut self.servers[leader];
        if valid {
            state.owners.insert(session, conn);
            self.track(leader, session, timeout, now);
        }
        valid
    }

    fn revalidated(&mut self, conn: ConnId, valid: bool, now: u64) {
        let Some(state) = self.conns.get(&conn) else {
            return;
        };
        let (timeout, session) = (state.timeout, state.session);
        if !valid {
            self.respond_connect(conn, 0, 0, 0);
            return self.hang_up(conn);
        }
        self.opened(conn, session, timeout, now);
    }

    fn opened(&mut self, conn: ConnId, session: i64, timeout: u64, now: u64) {
        let milliseconds = i32::try_from(timeout / 1000).expect("a timeout");
        self.respond_connect(conn, 0, milliseconds, session);
        let Some(state) = self.conns.get_mut(&conn) else {
            return;
        };
        (state.phase, state.session, state.busy) = (Phase::Open, session, false);
        self.touch(conn, now);
        self.work(conn, now);
    }

    fn respond_connect(&mut self, conn: ConnId, version: i32, time_out: i32, id: i64) {
        let keeper = self.keeper;
        let response = ConnectResponse {
            protocol_version: version,
            time_out,
            session_id: id,
            passwd: vec![7; 16],
        };
        let bytes = framed(|out| {
            response.write(out);
            if !keeper {
                false.write(out);
            }
        });
        self.out.push(Effect::Send(conn, bytes));
    }

    fn serve(&mut self, conn: ConnId, mut request: &[u8], now: u64) {
        let request = &mut request;
        let header = RequestHeader::read(request, "").expect("a header");
        let xid = header.xid;
        let (server, session) = (self.conns[&conn].server, self.conns[&conn].session);
        let write = match header.kind {
            operation::CREATE => Write::Single {
                xid,
                operation: Operation::Create(header.kind, read(request)),
            },
            operation::DELETE => Write::Single {
                xid,
                operation: Operation::Delete(read(request)),
            },
            operation::SET_DATA => Write::Single {
                xid,
                operation: Operation::Set(read(request)),
            },
            operation::MULTI => {
                let operations = std::iter::from_fn(|| next_operation(request)).collect();
                Write::Multi { xid, operations }
            }
            operation::CLOSE_SESSION => Write::Close { xid },
            operation::PING if self.keeper => Write::Nothing { xid, body: vec![] },
            operation::SYNC if self.keeper => Write::Nothing {
                xid,
                body: vec![0; 4], // an empty path
            },
            operation::SYNC => {
                let state = self.conns.get_mut(&conn).expect("a connection");
                (state.busy, state.pending_sync) = (true, xid);
                if self.servers[server].role == Role::Leading {
                    return self.sync(server, server, conn, now);
                }
                return self.tell_leader(server, Message::Sync { conn }, now);
            }
            kind => return self.read(conn, xid, kind, request),
        };
        self.conns.get_mut(&conn).expect("a connection").busy = true;
        self.write(conn, session, write, now);
    }

    /// A request that the server answers by itself.
    fn read(&mut self, conn: ConnId, xid: i32, kind: i32, request: &mut &[u8]) {
        let server = self.conns[&conn].server;
        let tree = &self.servers[server].tree;
        let state = self.conns.get_mut(&conn).expect("a connection");
        let mut body = Vec::new();
        let err = match kind {
            operation::PING => Code::OK,
            operation::EXISTS | operation::GET_DATA | operation::GET_CHILDREN => {
                let PathWatchRequest { path, watch } = read(request);
                let node = tree.nodes.get(&path);
                if watch && (node.is_some() || kind == operation::EXISTS) {
                    let watches = if kind == operation::GET_CHILDREN {
                        &mut state.child_watches
                    } else {
                        &mut state.data_watches
                    };
                    watches.insert(path.clone());
                }
                match (node, kind) {
                    (None, _) => Code::NO_NODE,
                    (Some(node), operation::EXISTS) => {
                        node.stat().write(&mut body);
                        Code::OK
                    }
                    (Some(node), operation::GET_DATA) => {
                        node.data.write(&mut body);
                        node.stat().write(&mut body);
                        Code::OK
                    }
                    (Some(_), _) => {
                        Vector(tree.children(&path)).write(&mut body);
                        Code::OK
                    }
                }
            }
            _ => Code::UNIMPLEMENTED,
        };
        self.reply(conn, xid, err, &body);
    }

    fn reply(&mut self, conn: ConnId, xid: i32, err: Code, body: &[u8]) {
        let Some(state) = self.conns.get(&conn) else {
            return;
        };
        let zxid = self.servers[state.server].zxid;
        let bytes = framed(|out| {
            ReplyHeader {
                xid,
                zxid,
                err: err.0,
            }
            .write(out);
            if err == Code::OK {
                out.extend_from_slice(body);
            }
        });
        self.out.push(Effect::Send(conn, bytes));
    }

    // Writes.

    fn write(&mut self, conn: ConnId, session: i64, write: Write, now: u64) {
        let server = self.conns[&conn].server;
        if self.servers[server].role == Role::Leading {
            return self.prepare(server, server, conn, session, write, now);
        }
        self.tell_leader(
            server,
            Message::Forward {
                conn,
                session,
                write,
            },
            now,
        );
    }

    /// The leader makes a transaction of a request.
    fn prepare(
        &mut self,
        leader: ServerId,
        server: ServerId,
        conn: ConnId,
        session: i64,
        write: Write,
        now: u64,
    ) {
        if self.servers[leader].closing.contains(&session) {
            self.called_expired.insert(session);
        }
        let time = self.time(leader, now);
        let state = &mut self.servers[leader];
        let zxid = state.next_zxid + 1; // of the transaction
        let refused = match write {
            Write::Open { .. } => None,
            _ if !state.tracker.contains_key(&session) || state.closing.contains(&session) => {
                Some(Code::SESSION_EXPIRED)
            }
            _ if state.owners.get(&session) != Some(&conn) => Some(Code::SESSION_MOVED),
            _ => None,
        };
        let (changes, answer) = match (refused, write) {
            (Some(code), write) => (
                vec![],
                Answer::Reply {
                    xid: xid_of(&write),
                    err: code,
                    body: vec![],
                },
            ),
            (None, Write::Open { id, timeout }) => {
                state.owners.insert(id, conn);
                state.closing.remove(&id);
                (
                    vec![Change::OpenSession { id, timeout }],
                    Answer::Session { id },
                )
            }
            (None, Write::Close { xid }) => {
                state.closing.insert(session);
                (
                    vec![Change::CloseSession { id: session }],
                    Answer::Closed { xid },
                )
            }
            (None, Write::Nothing { xid, body }) => (
                vec![],
                Answer::Reply {
                    xid,
                    err: Code::OK,
                    body,
                },
            ),
            (None, Write::Single { xid, operation }) => {
                let mut body = Vec::new();
                let (changes, err) = match state.prepared.prepare(&operation, session) {
                    Ok(change) => {
                        write_path(change.as_ref(), &mut body);
                        if let Some(Change::Set { path, data }) = &change {
                            let node = &state.prepared.nodes[path];
                            node.changed(data, zxid, time).stat().write(&mut body);
                        }
                        (change.into_iter().collect(), Code::OK)
                    }
                    Err(code) => (vec![], code),
                };
                (changes, Answer::Reply { xid, err, body })
            }
            (None, Write::Multi { xid, operations }) => {
                let (changes, body) = multi(&state.prepared, &operations, session, zxid, time);
                if let ([Operation::Create(..), Operation::Delete(entry)], [_, _]) =
                    (&operations[..], &changes[..])
                    && let Some(first) = overtaken(&state.prepared, &entry.path)
                {
                    let entry = &entry.path;
                    self.fault = Some(format!(
                        "{entry} gets the lock before {first}, which waits longer"
                    ));
                }
                (
                    changes,
                    Answer::Reply {
                        xid,
                        err: Code::OK,
                        body,
                    },
                )
            }
        };
        let origin = Origin {
            server,
            conn,
            answer,
        };
        let opened = changes.iter().find_map(|change| match change {
            Change::OpenSession { id, timeout } => Some((*id, *timeout)),
            _ => None,
        });
        self.propose(leader, changes, Some(origin), now);
        if let Some((id, timeout)) = opened {
            self.track(leader, id, timeout, now);
        }
    }

    fn propose(
        &mut self,
        leader: ServerId,
        changes: Vec<Change>,
        origin: Option<Origin>,
        now: u64,
    ) {
        let time = self.time(leader, now);
        let state = &mut self.servers[leader];
        state.next_zxid += 1;
        let zxid = state.next_zxid;
        let mut ignored = Vec::new();
        for change in &changes {
            state.prepared.apply(change, zxid, time, &mut ignored);
        }
        let txn = Rc::new(Txn {
            zxid,
            time,
            changes,
            origin,
        });
        state.pending.push_back((txn.clone(), BTreeSet::new()));
        let epoch = state.epoch;
        let followers: Vec<_> = state.followers.keys().copied().collect();
        let logged = self.random.magnitude(FSYNC.0, FSYNC.1);
        self.out
            .push(Effect::At(logged, Event::Logged(leader, epoch, zxid)));
        for follower in followers {
            if follower < self.voters {
                self.send(leader, follower, Message::Propose(txn.clone()), now);
            }
        }
    }

    fn acked(&mut self, leader: ServerId, by: ServerId, zxid: i64, now: u64) {
        let majority = self.voters / 2 + 1;
        let state = &mut self.servers[leader];
        for (txn, acks) in &mut state.pending {
            if txn.zxid <= zxid {
                acks.insert(by);
            }
        }
        while let Some((txn, acks)) = self.servers[leader].pending.front()
            && acks.len() >= majority
        {
            let txn = txn.clone();
            self.servers[leader].pending.pop_front();
            let followers: Vec<_> = self.servers[leader].followers.keys().copied().collect();
            for follower in followers {
                if follower >= self.voters {
                    self.send(leader, follower, Message::Propose(txn.clone()), now);
                }
                self.send(leader, follower, Message::Commit(txn.zxid), now);
            }
            self.apply(leader, &txn, now);
            self.answer_syncs(leader, txn.zxid, now);
        }
    }

    fn answer_syncs(&mut self, leader: ServerId, zxid: i64, now: u64) {
        let ready = self.servers[leader]
            .syncs
            .extract_if(.., |(wanted, ..)| *wanted <= zxid);
        for (_, server, conn) in ready.collect::<Vec<_>>() {
            self.sync_answered(leader, server, conn, now);
        }
    }

    /// A client of `server` syncs.
    fn sync(&mut self, leader: ServerId, server: ServerId, conn: ConnId, now: u64) {
        match self.servers[leader].pending.back() {
            Some((txn, _)) => {
                let zxid = txn.zxid;
                self.servers[leader].syncs.push((zxid, server, conn));
            }
            None => self.sync_answered(leader, server, conn, now),
        }
    }

    fn sync_answered(&mut self, leader: ServerId, server: ServerId, conn: ConnId, now: u64) {
        if server == leader {
            self.synced(conn, now);
        } else {
            self.send(leader, server, Message::Synced { conn }, now);
        }
    }

    fn synced(&mut self, conn: ConnId, now: u64) {
        if let Some(state) = self.conns.get_mut(&conn) {
            state.busy = false;
            let xid = state.pending_sync;
            let mut body = Vec::new();
            String::new().write(&mut body);
            self.reply(conn, xid, Code::OK, &body);
            self.work(conn, now);
        }
    }

    /// A server applies a committed transaction: watches fire before the answer.
    fn apply(&mut self, server: ServerId, txn: &Txn, now: u64) {
        self.note_deletions(server, txn);
        let is_first = txn.zxid > self.noticed;
        self.notice(txn);
        let state = &mut self.servers[server];
        let mut happened = Vec::new();
        for change in &txn.changes {
            state.tree.apply(change, txn.zxid, txn.time, &mut happened);
        }
        state.zxid = txn.zxid;
        if is_first && !happened.is_empty() {
            let pool = self.pool.and_then(|path| state.tree.pool(path));
            self.pools.extend(pool);
        }
        for event in happened {
            self.fire(server, &event);
        }
        let closed = txn.changes.iter().find_map(|change| match change {
            Change::CloseSession { id } => Some(*id),
            _ => None,
        });
        if let Some(id) = closed {
            if txn.origin.is_none() {
                self.expired.insert(id);
            }
            let state = &mut self.servers[server];
            state.tracker.remove(&id);
            state.closing.remove(&id);
            state.owners.remove(&id);
            state.touched.remove(&id);
            let asked = txn.origin.as_ref().map(|origin| origin.conn);
            let of = |(_, conn): &(&ConnId, &Conn)| conn.server == server && conn.session == id;
            let conns: Vec<ConnId> = self
                .conns
                .iter()
                .filter(of)
                .map(|(&conn, _)| conn)
                .collect();
            conns
                .into_iter()
                .filter(|&conn| Some(conn) != asked)
                .for_each(|conn| self.hang_up(conn));
        }
        if let Some(origin) = &txn.origin
            && origin.server == server
        {
            self.answer(origin, now);
        }
    }

    /// Remembers which connection has deleted which ephemeral node.
    fn note_deletions(&mut self, server: ServerId, txn: &Txn) {
        let Some(origin) = &txn.origin else {
            return;
        };
        for change in &txn.changes {
            if let Change::Delete { path } = change
                && let Some(node) = self.servers[server].tree.nodes.get(path)
                && node.owner != 0
            {
                self.deletions.insert(node.czxid, origin.conn);
            }
        }
    }

    /// Notices what a run with `--every` has done, when the first server applies it.
    fn notice(&mut self, txn: &Txn) {
        if txn.zxid <= self.noticed {
            return;
        }
        self.noticed = txn.zxid;
        let Some(origin) = &txn.origin else {
            return;
        };
        let (conn, zxid, time) = (origin.conn, txn.zxid, txn.time);
        self.notices
            .extend(txn.changes.iter().filter_map(|change| match change {
                Change::Create { path, data, .. } if path.contains(RECORDS) => {
                    Some(Notice::Started {
                        zxid,
                        time,
                        record: data.clone(),
                    })
                }
                Change::Set { path, data } if path.contains(RECORDS) => Some(Notice::Ended {
                    record: data.clone(),
                }),
                &Change::Create {
                    owner: session @ 1..,
                    ..
                } => Some(Notice::Asked {
                    conn,
                    session,
                    zxid,
                    time,
                }),
                _ => None,
            }));
    }

    fn answer(&mut self, origin: &Origin, now: u64) {
        let conn = origin.conn;
        let Some(state) = self.conns.get_mut(&conn) else {
            return;
        };
        state.busy = false;
        match &origin.answer {
            Answer::Reply { xid, err, body } => {
                self.reply(conn, *xid, *err, body);
                if self.keeper {
                    let Conn {
                        session,
                        timeout,
                        server,
                        ..
                    } = self.conns[&conn];
                    if let Some(leader) = self.leader() {
                        let _ = server;
                        self.track(leader, session, timeout, now);
                    }
                }
                self.work(conn, now);
            }
            Answer::Session { id } => {
                let timeout = state.timeout;
                self.opened(conn, *id, timeout, now);
            }
            Answer::Closed { xid } => {
                if !self.keeper {
                    self.reply(conn, *xid, Code::OK, &[]);
                }
                self.hang_up(conn);
            }
        }
    }

    fn fire(&mut self, server: ServerId, event: &Happened) {
        const CHILDREN: i32 = 4;
        let (path, kind) = match event {
            Happened::Created(path) => (path, 1),
            Happened::Deleted(path) => (path, 2),
            Happened::Changed(path) => (path, 3),
        };
        let above = parent(path);
        let mut fired = Vec::new();
        for (&conn, state) in self
            .conns
            .iter_mut()
            .filter(|(_, conn)| conn.server == server)
        {
            let data = state.data_watches.remove(path);
            let children = kind == 2 && state.child_watches.remove(path);
            if data || children {
                fired.push((conn, kind, path.clone()));
            }
            if kind != 3 && state.child_watches.remove(above) {
                fired.push((conn, CHILDREN, above.to_owned()));
            }
        }
        for (conn, kind, path) in fired {
            let bytes = framed(|out| {
                ReplyHeader {
                    xid: xid::WATCH,
                    zxid: -1,
                    err: 0,
                }
                .write(out);
                WatcherEvent {
                    kind,
                    state: 3,
                    path,
                }
                .write(out);
            });
            self.out.push(Effect::Send(conn, bytes));
        }
    }

    // Servers among themselves.

    fn tell_leader(&mut self, server: ServerId, message: Message, now: u64) {
        if let Role::Following(leader) = self.servers[server].role {
            self.send(server, leader, message, now);
        }
    }

    fn send(&mut self, from: ServerId, to: ServerId, message: Message, now: u64) {
        let latency = self.random.magnitude(PEER_LATENCY.0, PEER_LATENCY.1);
        let latency = latency + self.servers[to].lags;
        let arrival = self.arrival.entry((from, to)).or_default();
        *arrival = (*arrival).max(now + latency);
        let letter = Letter {
            from,
            to,
            epoch: self.servers[from].epoch,
            message,
        };
        self.out
            .push(Effect::At(*arrival - now, Event::Peer(Box::new(letter))));
    }

    /// Something inside the ensemble is due.
    pub fn event(&mut self, event: Event, now: u64) {
        let server = match &event {
            Event::Tick(server, _) | Event::Expire(server, _) | Event::Logged(server, ..) => {
                *server
            }
            Event::Peer(letter) => letter.to,
            Event::Release(_, to) => *to,
        };
        if self.servers[server].frozen {
            return self.servers[server].backlog.push(Backlog::Event(event));
        }
        if !self.servers[server].up {
            return;
        }
        match event {
            Event::Tick(server, life) if life == self.servers[server].life => {
                self.on_tick(server, now);
            }
            Event::Expire(server, life) if life == self.servers[server].life => {
                self.on_expire(server, now);
            }
            Event::Tick(..) | Event::Expire(..) => {}
            Event::Logged(server, epoch, zxid) => {
                let leads = self.servers[server].role == Role::Leading;
                if leads && self.servers[server].epoch == epoch {
                    self.acked(server, server, zxid, now);
                }
            }
            Event::Peer(letter) => {
                let way = (letter.from, letter.to);
                if self.cut.contains(&way) || self.held.contains_key(&way) {
                    self.held.entry(way).or_default().push(*letter);
                } else {
                    self.on_letter(*letter, now);
                }
            }
            Event::Release(from, to) => {
                if !self.cut.contains(&(from, to)) {
                    for letter in self.held.remove(&(from, to)).unwrap_or_default() {
                        self.on_letter(letter, now);
                    }
                }
            }
        }
    }

    fn on_letter(&mut self, letter: Letter, now: u64) {
        let Letter {
            from,
            to,
            epoch,
            message,
        } = letter;
        if epoch != self.servers[to].epoch {
            return;
        }
        match self.servers[to].role {
            Role::Leading => self.on_letter_to_leader(from, to, message, now),
            Role::Following(leader) if leader == from => {
                self.servers[to].heard = now;
                self.on_letter_of_leader(from, to, message, now);
            }
            Role::Following(_) | Role::Looking { .. } => {}
        }
    }

    fn on_letter_to_leader(&mut self, from: ServerId, to: ServerId, message: Message, now: u64) {
        if !self.servers[to].followers.contains_key(&from) {
            return;
        }
        self.servers[to].followers.insert(from, now);
        match message {
            Message::Forward {
                conn,
                session,
                write,
            } => self.prepare(to, from, conn, session, write, now),
            Message::Ack(zxid) => self.acked(to, from, zxid, now),
            Message::Pong(touched) => {
                for (session, timeout) in touched {
                    self.track(to, session, timeout, now);
                }
            }
            Message::Revalidate {
                conn,
                session,
                timeout,
            } => {
                let valid = self.revalidate(to, conn, session, timeout, now);
                self.send(to, from, Message::Revalidated { conn, valid }, now);
            }
            Message::Sync { conn } => self.sync(to, from, conn, now),
            _ => {}
        }
    }

    fn on_letter_of_leader(&mut self, from: ServerId, to: ServerId, message: Message, now: u64) {
        match message {
            Message::Propose(txn) => {
                let zxid = txn.zxid;
                if zxid > self.last_logged(to) {
                    self.servers[to].logged.push_back(txn);
                }
                if to < self.voters {
                    // The time to the disk is part of the way back.
                    self.send(to, from, Message::Ack(zxid), now);
                }
            }
            Message::Commit(zxid) => {
                while let Some(txn) = self.servers[to].logged.front()
                    && txn.zxid <= zxid
                {
                    let txn = txn.clone();
                    self.servers[to].logged.pop_front();
                    self.apply(to, &txn, now);
                }
            }
            Message::Ping => {
                let touched = std::mem::take(&mut self.servers[to].touched);
                self.send(to, from, Message::Pong(touched.into_iter().collect()), now);
            }
            Message::Revalidated { conn, valid } => self.revalidated(conn, valid, now),
            Message::Synced { conn } => self.synced(conn, now),
            _ => {}
        }
    }

    fn last_logged(&self, server: ServerId) -> i64 {
        let state = &self.servers[server];
        state.logged.back().map_or(state.zxid, |txn| txn.zxid)
    }

    /// Twice a tick.
    fn on_tick(&mut self, server: ServerId, now: u64) {
        let life = self.servers[server].life;
        self.out
            .push(Effect::At(self.tick / 2, Event::Tick(server, life)));
        let silent = |heard: u64| now.saturating_sub(heard) > SYNC_LIMIT * self.tick;
        match self.servers[server].role {
            Role::Leading => {
                let heard = &self.servers[server].followers;
                let gone: Vec<_> = heard
                    .iter()
                    .filter(|(_, at)| silent(**at))
                    .map(|(&id, _)| id)
                    .collect();
                for follower in gone {
                    self.servers[server].followers.remove(&follower);
                }
                let voters = self.servers[server]
                    .followers
                    .keys()
                    .filter(|&&id| id < self.voters);
                if voters.count() < self.voters / 2 {
                    return self.lose_leader(server, now);
                }
                let followers: Vec<_> = self.servers[server].followers.keys().copied().collect();
                for follower in followers {
                    self.send(server, follower, Message::Ping, now);
                }
                if now >= self.servers[server].next_scan {
                    self.servers[server].next_scan = now + CONTAINER_SCAN;
                    for path in self.servers[server].prepared.empty_containers() {
                        self.propose(server, vec![Change::Delete { path }], None, now);
                    }
                }
            }
            Role::Following(_) if silent(self.servers[server].heard) => {
                self.lose_leader(server, now);
            }
            Role::Following(_) => {}
            Role::Looking { votes_at } if now >= votes_at => self.vote(server, now),
            Role::Looking { .. } => {}
        }
    }

    /// At the end of each bucket of sessions.
    fn on_expire(&mut self, server: ServerId, now: u64) {
        if self.servers[server].role != Role::Leading {
            return;
        }
        let clock = self.clock(server, now);
        let state = &self.servers[server];
        let over = state.tracker.iter().filter(|(_, at)| **at <= clock);
        let over: Vec<i64> = over.map(|(&id, _)| id).collect();
        for id in over {
            let state = &mut self.servers[server];
            state.tracker.remove(&id);
            state.closing.insert(id);
            self.expiries += 1;
            self.notes
                .push(format!("server {server} expires session 0x{id:x}"));
            self.propose(server, vec![Change::CloseSession { id }], None, now);
        }
        self.plan_expiry(server, now);
    }

    fn plan_expiry(&mut self, server: ServerId, now: u64) {
        let clock = self.clock(server, now);
        let wait = self.tick - clock % self.tick;
        let life = self.servers[server].life;
        self.out
            .push(Effect::At(wait + 1, Event::Expire(server, life)));
    }

    /// A server has lost its leader, or its followers: it closes all connections and votes.
    fn lose_leader(&mut self, server: ServerId, now: u64) {
        self.notes
            .push(format!("server {server} looks for a leader"));
        self.drop_connections(server, false);
        self.step_down(server, now);
    }

    fn drop_connections(&mut self, server: ServerId, reset: bool) {
        let of = |(_, conn): &(&ConnId, &Conn)| conn.server == server;
        let conns: Vec<ConnId> = self
            .conns
            .iter()
            .filter(of)
            .map(|(&conn, _)| conn)
            .collect();
        for conn in conns {
            self.conns.remove(&conn);
            self.out.push(if reset {
                Effect::Reset(conn)
            } else {
                Effect::Close(conn)
            });
        }
    }

    fn step_down(&mut self, server: ServerId, now: u64) {
        let votes_at = now + self.random.between(ELECTION.0, ELECTION.1);
        let state = &mut self.servers[server];
        if state.role == Role::Leading {
            state.logged = state.pending.drain(..).map(|(txn, _)| txn).collect();
        }
        state.role = Role::Looking { votes_at };
        state.followers.clear();
        state.tracker.clear();
        state.owners.clear();
        state.closing.clear();
        state.syncs.clear();
        state.touched.clear();
    }

    fn reaches(&self, one: ServerId, other: ServerId) -> bool {
        let state = &self.servers[other];
        state.up
            && !state.frozen
            && !self.cut.contains(&(one, other))
            && !self.cut.contains(&(other, one))
    }

    /// Joins a leader, or elects one among the servers that look for one.
    fn vote(&mut self, server: ServerId, now: u64) {
        let peers = (0..self.size()).filter(|&peer| peer != server && self.reaches(server, peer));
        let peers: Vec<_> = peers.collect();
        // No server follows a leader of an earlier epoch than its own (`Learner.registerWithLeader`).
        let own = self.servers[server].epoch;
        let leads = |peer: &&ServerId| {
            let peer = &self.servers[**peer];
            peer.role == Role::Leading && peer.epoch >= own
        };
        if let Some(&leader) = peers
            .iter()
            .filter(leads)
            .max_by_key(|&&peer| self.servers[peer].epoch)
        {
            return self.join(server, leader, now);
        }
        let looks = |peer: ServerId| matches!(self.servers[peer].role, Role::Looking { votes_at } if now >= votes_at);
        let mut voters: Vec<_> = peers
            .into_iter()
            .filter(|&peer| peer < self.voters && looks(peer))
            .collect();
        if server < self.voters {
            voters.push(server);
        }
        if server >= self.voters || voters.len() <= self.voters / 2 {
            return;
        }
        let leader = *voters
            .iter()
            .max_by_key(|&&peer| (self.last_logged(peer), peer))
            .expect("a voter");
        self.lead(leader, now);
        for voter in voters {
            if voter != leader {
                self.join(voter, leader, now);
            }
        }
    }

    fn lead(&mut self, leader: ServerId, now: u64) {
        self.elections += 1;
        let epoch = self
            .servers
            .iter()
            .map(|server| server.epoch)
            .max()
            .unwrap_or(0)
            + 1;
        self.notes
            .push(format!("server {leader} leads epoch {epoch}"));
        // What it has logged becomes committed.
        for txn in std::mem::take(&mut self.servers[leader].logged) {
            self.apply(leader, &txn, now);
        }
        let state = &mut self.servers[leader];
        state.role = Role::Leading;
        state.epoch = epoch;
        state.next_zxid = epoch << 32;
        state.zxid = state.zxid.max(epoch << 32);
        state.prepared = state.tree.clone();
        state.pending.clear();
        state.next_scan = now + CONTAINER_SCAN;
        let sessions = state.tree.sessions.clone();
        for (session, timeout) in sessions {
            self.track(leader, session, timeout, now);
        }
        self.plan_expiry(leader, now);
    }

    fn join(&mut self, server: ServerId, leader: ServerId, now: u64) {
        let state = &self.servers[leader];
        let (tree, zxid, epoch) = (state.tree.clone(), state.zxid, state.epoch);
        let logged: VecDeque<_> = state.pending.iter().map(|(txn, _)| txn.clone()).collect();
        let newest = logged.back().map(|txn| txn.zxid);
        self.servers[leader].followers.insert(server, now);
        let state = &mut self.servers[server];
        (state.tree, state.zxid, state.epoch) = (tree, zxid, epoch);
        state.logged = logged;
        state.role = Role::Following(leader);
        state.heard = now;
        self.held.remove(&(server, leader));
        self.held.remove(&(leader, server));
        if let Some(zxid) = newest
            && server < self.voters
        {
            self.send(server, leader, Message::Ack(zxid), now);
        }
    }
}

/// Each way between these servers and the others.
fn across(these: &[ServerId], count: usize) -> Vec<(ServerId, ServerId)> {
    let ways = (0..count).flat_map(|one| (0..count).map(move |other| (one, other)));
    ways.filter(|(one, other)| these.contains(one) != these.contains(other))
        .collect()
}

fn read<T: Wire>(request: &mut &[u8]) -> T {
    T::read(request, "").expect("the program's records are valid")
}

fn next_operation(request: &mut &[u8]) -> Option<Operation> {
    let MultiHeader { kind, done, .. } = read(request);
    (!done).then(|| match kind {
        operation::CREATE | operation::CREATE_CONTAINER => Operation::Create(kind, read(request)),
        operation::DELETE => Operation::Delete(read(request)),
        operation::SET_DATA => Operation::Set(read(request)),
        operation::CHECK => Operation::Check(read(request)),
        other => panic!("the model does not know operation {other} in a multi"),
    })
}

fn xid_of(write: &Write) -> i32 {
    match write {
        Write::Close { xid } | Write::Single { xid, .. } | Write::Multi { xid, .. } => *xid,
        Write::Nothing { xid, .. } => *xid,
        Write::Open { .. } => 0,
    }
}

fn write_path(change: Option<&Change>, body: &mut Vec<u8>) {
    if let Some(Change::Create { path, .. }) = change {
        CreateResponse { path: path.clone() }.write(body);
    }
}

/// All operations or none. Returns the changes, and the body of the answer.
fn multi(
    tree: &Tree,
    operations: &[Operation],
    session: i64,
    zxid: i64,
    time: i64,
) -> (Vec<Change>, Vec<u8>) {
    let mut body = Vec::new();
    let header = |kind, err| MultiHeader {
        kind,
        done: false,
        err,
    };
    let mut scratch = None;
    let mut changes = Vec::new();
    let mut stats = Vec::new();
    let mut failed = None;
    for (index, operation) in operations.iter().enumerate() {
        match scratch.as_ref().unwrap_or(tree).prepare(operation, session) {
            Ok(change) => {
                if let Some(change) = &change {
                    let after = scratch.get_or_insert_with(|| tree.clone());
                    after.apply(change, zxid, time, &mut Vec::new());
                    if let Change::Set { path, .. } = change {
                        stats.push(after.nodes[path].stat());
                    }
                }
                changes.push(change);
            }
            Err(code) => {
                failed = Some((index, code));
                break;
            }
        }
    }
    if let Some((at, code)) = failed {
        for index in 0..operations.len() {
            let code = match index.cmp(&at) {
                std::cmp::Ordering::Less => Code::OK,
                std::cmp::Ordering::Equal => code,
                std::cmp::Ordering::Greater => Code(-2),
            };
            header(operation::ERROR, code.0).write(&mut body);
            code.0.write(&mut body);
        }
        changes.clear();
    } else {
        let mut stats = stats.iter();
        for (operation, change) in operations.iter().zip(&changes) {
            header(answer_type(operation), 0).write(&mut body);
            write_path(change.as_ref(), &mut body);
            if let Operation::Set(_) = operation {
                stats.next().expect("a changed node").write(&mut body);
            }
            if let Operation::Create(operation::CREATE_CONTAINER, _) = operation
                && let Some(Change::Create { path, .. }) = change
            {
                scratch.as_ref().expect("a change was made").nodes[path]
                    .stat()
                    .write(&mut body);
            }
        }
    }
    MultiHeader {
        kind: operation::ERROR,
        done: true,
        err: -1,
    }
    .write(&mut body);
    (changes.into_iter().flatten().collect(), body)
}

/// A waiter that is before this one in the queue of a lock: waiters are served in order.
fn overtaken(tree: &Tree, entry: &str) -> Option<String> {
    let number = |name: &str| name.rsplit_once('-')?.1.parse::<i64>().ok();
    let (queue, own) = entry.rsplit_once('/')?;
    let own = number(own)?;
    let earlier = |name: &String| number(name).is_some_and(|number| number < own);
    tree.children(queue).into_iter().find(earlier)
}

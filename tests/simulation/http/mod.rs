//! distributex and distributexd: runs that want a slot in a pool, on the servers that grant it.
//!
//! # What runs here
//!
//! The program's own parts: `Run` with `PoolLock` and its HTTP client on each host; on the servers
//! `ServerLoop` with its connections, HTTP sessions and backends, on [`kernel`], which is to the
//! server what `Simulated` is to a run. Each byte of a request and of a reply passes through the
//! program's own HTTP. With memcached, one or two servers share a model of it ([`memcached`]), each over
//! its own connection; with ZooKeeper up to three share the ensemble of [`crate::ensemble`], whose
//! members come after them in the numbers of the network ([`zookeeper`]).
//!
//! # What the model is faithful to
//!
//! *The kernel of a server's host* ([`tcp`]) accepts connections, acknowledges what arrives and
//! closes what a dead process has left, also while the server is stopped. Bytes are acknowledged
//! when they have reached the client's host (SIOCOUTQ of tcp(7)); a client that has closed answers
//! them with a reset. Sent bytes that stay unacknowledged for `TCP_USER_TIMEOUT`, and silent peers
//! that do not answer three keep-alive probes, end a connection with an error. epoll(7) is
//! level-triggered, except for `Interest::Change`. A host that loses power sends nothing more, and
//! answers with a reset what reaches it once it has started again (RFC 9293, 3.10.7.1).
//!
//! *The server's process* ([`process`]) wakes up late like any other. While it writes its state it
//! does nothing else: what it sends afterwards leaves the host later, and nothing of that leaves it
//! if the process is killed meanwhile.
//!
//! *The state file* is the one before a save or the one after it, never anything in between, if the
//! process is killed or its host loses power during the save (fsync(2), then rename(2)). A save that
//! fails leaves either (`StateFile`).
//! *Clocks*: monotonic as that of any host; the wall clock of a server jumps.
//!
//! # What is simpler
//!
//! A server's send buffer is never full. No server is at the limit of its connections.

pub mod curl;
mod kernel;
mod memcached;
mod process;
pub mod scenario;
mod tcp;
mod zookeeper;

use super::World;
use crate::random::Random;
use memcached::Memcached;
use process::Server;
pub use process::{Servers, lock, pid_of, server_of};
use scenario::Pool;
use std::collections::{BTreeMap, BTreeSet};
use tcp::{End, Watch};
use zookeeper::History;

use super::{ConnId, SECOND};

/// Something that happens to servers or their connections.
#[derive(Debug)]
pub enum Event {
    /// A server's process starts.
    Start(usize),
    /// It runs, if this is still its life.
    Wake(usize, u64),
    /// Its timer fires.
    Timer(usize, u64),
    /// What it has sent leaves the host.
    Flush(usize),
    /// The kernel of the server's host probes a silent client; so many probes were not answered.
    Probe(ConnId, u32),
    /// The kernel of the client's host probes the server.
    ClientProbe(ConnId, u32),
    /// Bytes up to this one must be acknowledged by now.
    AckDue(ConnId, u64),
    /// All runs have ended long ago.
    Inspect,
}

/// The servers and their connections.
pub struct Http {
    pub pool: Pool,
    servers: Vec<Server>,
    memcached: Option<Memcached>,
    ends: BTreeMap<ConnId, End>,
    random: Random,
    /// Requests to wait, in the order in which servers have read them.
    next_place: u64,
    /// Runs that were granted a slot.
    served: BTreeSet<String>,
    /// By how much the next reply to a host is late, in ms.
    late: BTreeMap<usize, u32>,
    /// The newest token that a client was told.
    newest_token: i64,
    /// What the ensemble has had of the pool.
    history: History,
    /// What scripts do that have the pool.
    works: Vec<curl::Work>,
    /// Hosts whose connections have failed before an answer was acknowledged.
    unconfirmed: BTreeSet<String>,
    /// When servers last forgot their holders, and the newest token of then.
    forgot: Option<(u64, i64)>,
    /// The wall clock of a server was set.
    clock_was_set: bool,
    rest: Rest,
    /// How often operators have revoked a holding, and the runs.
    revocations: u64,
    revoked: BTreeSet<String>,
    /// Servers that have shown that they are empty.
    inspected: usize,
}

/// Whether nothing is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rest {
    Busy,
    /// All runs have ended; the servers may have to end connections and leases.
    Waits,
    Done,
}

/// How long servers may keep a connection whose client has ended without a word, beside the lease.
const TO_NOTICE: u64 = 50 * SECOND;

/// The connection by which the simulation itself looks at a server.
const INSPECTION: ConnId = ConnId::MAX;

impl Http {
    /// The servers of a pool. Their hosts come after those of the runs.
    pub fn new(pool: Pool, first_host: usize, seed: u64) -> Http {
        let servers = 0..usize::from(pool.servers);
        let mut random = Random::new(seed, 4);
        let memcached = matches!(pool.backend, scenario::Backend::Memcached)
            .then(|| Memcached::new(random.below(SECOND)));
        Http {
            pool,
            memcached,
            servers: servers
                .map(|server| Server::new(first_host + server))
                .collect(),
            ends: BTreeMap::new(),
            random,
            next_place: 0,
            served: BTreeSet::new(),
            late: BTreeMap::new(),
            newest_token: 0,
            history: History::default(),
            works: Vec::new(),
            unconfirmed: BTreeSet::new(),
            revocations: 0,
            revoked: BTreeSet::new(),
            inspected: 0,
            forgot: None,
            clock_was_set: false,
            rest: Rest::Busy,
        }
    }

    /// How many hosts the servers have.
    pub fn hosts(&self) -> usize {
        self.servers.len()
    }

    fn lease(&self) -> u64 {
        u64::from(self.pool.expire) * SECOND
    }
}

impl World {
    pub(super) fn http(&mut self) -> &mut Http {
        self.http.as_mut().expect("lock servers")
    }

    /// Whether nothing is left of the runs, on servers and network.
    pub fn http_is_at_rest(&mut self) -> bool {
        let Some(http) = &mut self.http else {
            return true;
        };
        if http.rest == Rest::Busy {
            http.rest = Rest::Waits;
            let time = http.lease() + TO_NOTICE;
            self.after(time, super::Event::Http(Event::Inspect));
            return false;
        }
        http.rest == Rest::Done
    }

    /// All runs have ended: no server has a connection, and what `/status/` shows is asked for.
    fn inspect(&mut self) {
        if let Some((id, end)) = self.http().ends.first_key_value() {
            let what = format!("server {} keeps connection {id}", end.server);
            return self.violate(what);
        }
        // No fault that still waits for its packet hits what the inspection makes the servers ask.
        for host in &mut self.hosts {
            (host.lose_there, host.lose_back) = (None, None);
        }
        for server in 0..self.http().servers.len() {
            let mut end = End::new(server, self.now);
            end.inbox
                .extend(b"GET /status/ HTTP/1.1\r\nConnection: close\r\n\r\n");
            end.peer_closed = true;
            let id = INSPECTION - server as u64;
            self.http().ends.insert(id, end);
            self.http().servers[server].backlog.push_back(id);
            self.notify_server(server);
        }
    }

    /// An operator revokes the oldest holding, at this server.
    fn revoke(&mut self, server: usize) {
        let Some((host, run)) = self.http().history.oldest_holder() else {
            return;
        };
        if !self.http().servers[server].up {
            return;
        }
        let mut end = End::new(server, self.now);
        end.inbox.extend(
            format!(
                "POST /revoke/?pool=pool&host={host} HTTP/1.1\r\nHost: dx\r\nContent-Length: 0\r\n\
                 Connection: close\r\n\r\n"
            )
            .bytes(),
        );
        end.peer_closed = true;
        self.http().revocations += 1;
        let id = INSPECTION - 1000 - self.http().revocations;
        self.http().revoked.extend(run);
        self.http().ends.insert(id, end);
        self.http().servers[server].backlog.push_back(id);
        self.notify_server(server);
    }

    /// Whether an operator may have revoked the holding of this run.
    pub(super) fn is_revoked(&self, run: usize) -> bool {
        let name = format!("run{run}");
        let mut revoked = self.http.iter().flat_map(|http| &http.revoked);
        revoked.any(|revoked| *revoked == name)
    }

    /// A server shows its pools to the simulation.
    fn inspected(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if !text.contains("\"holders\":[],\"waiters\":[]") {
            return self.violate(format!("a server keeps holders or waiters: {text}"));
        }
        let http = self.http();
        http.inspected += 1;
        if http.inspected == http.servers.len() {
            http.rest = Rest::Done;
            self.check_pool_is_empty();
        }
    }

    /// Something happens to a server or its connections; processes are not touched.
    fn http_event(&mut self, event: &Event) {
        match *event {
            Event::Start(_) | Event::Wake(..) => unreachable!("events of processes"),
            Event::Timer(server, number) => {
                if self.http().servers[server].timer == number {
                    self.notify_server(server);
                }
            }
            Event::Flush(server) => self.flush(server),
            Event::Probe(id, unanswered) => self.probe(id, unanswered),
            Event::ClientProbe(id, unanswered) => self.client_probe(id, unanswered),
            Event::AckDue(id, bytes) => self.ack_due(id, bytes),
            Event::Inspect => self.inspect(),
        }
    }

    // Invariants.

    /// The documented reasons of distributexd(8) for which a run's command may live beside
    /// another's.
    pub(super) fn http_exception(&self, run: usize) -> Option<&'static str> {
        let http = self.http.as_ref()?;
        let (at, newest) = http.forgot?;
        let token = self.runs[run].token;
        // The holder is told so with its next renewal, or its lease ends.
        (token <= newest && self.now <= at + http.lease() + 3 * SECOND)
            .then_some("a server without state was restarted, or memcached forgot its keys")
    }

    /// Whether tokens must grow: without state they begin with the time, which was not set back.
    pub(super) fn http_tokens_grow(&self) -> bool {
        let forgot = |http: &Http| http.forgot.is_some() && http.clock_was_set;
        !self.http.as_ref().is_some_and(forgot)
    }

    /// A server tells a client that it holds the pool: no earlier waiter is still waiting.
    fn check_order(&mut self, id: ConnId) {
        let http = self.http.as_mut().expect("lock servers");
        let Some(end) = http.ends.get(&id) else {
            return;
        };
        let (server, run) = (end.server, end.run.clone());
        let Some(place) = end.place else { return };
        let is_first = |asked| http.history.is_first(asked);
        let is_first = end.asked.as_ref().is_none_or(is_first);
        if !http.pool.is_fifo() || !http.served.insert(run.clone()) || !is_first {
            return;
        }
        let earlier = http.ends.values().find(|end| {
            end.server == server
                && end.place.is_some_and(|other| other < place)
                && end.run != run
                && !end.peer_closed
                && end.error.is_none()
                && !http.served.contains(&end.run)
                && !http.history.has_held(&end.run)
                && http.history.asked_before(&end.run, &run)
        });
        if let Some(earlier) = earlier {
            let what = format!(
                "server {server} grants run {run} a slot before {}, which came first",
                earlier.run
            );
            self.violate(what);
        }
    }
}

impl Watch {
    /// Whether a connection that is watched for this has something to report.
    fn is_due(self, end: &End) -> bool {
        use zk_flock::internals::sys::Interest;
        match self.interest {
            Interest::Read | Interest::Both => !end.inbox.is_empty() || end.peer_closed,
            Interest::HangUp => end.peer_closed,
            Interest::Write => true,
            Interest::Nothing | Interest::Change => false,
        }
    }
}

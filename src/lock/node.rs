//! zk-flock's lock: one ephemeral node, held by whoever made it. A waiter watches it and makes it when it goes. With several names (`-n`) the
//! first that is free will do. Nodes and data are those of the Python original, so that both respect each other's lock.

use super::{Failure, Holder, Input, Lock, Output, Proof};
use crate::moment::Moment;
use crate::plan::{self, Heartbeat};
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::lease::Deadlines;
use crate::zookeeper::record::{Acl, Id, Stat};
use crate::zookeeper::request::{Answer, Request};
use crate::zookeeper::session::{Change, Fault, News, Session, Step};
use std::collections::VecDeque;
use std::time::Duration;

/// What the original writes into the node of an application.
const APP_NODE_DATA: &[u8] = b"Rootnode";

/// All permissions.
const ALL: i32 = 31;

/// A uuid's text at the end of a lock node's data, after the holder's host name.
const UUID_LENGTH: usize = 36;

/// How long an orphan of our own may outlive its session timeout: the server looks once a tick.
const ORPHAN_SLACK: Duration = Duration::from_secs(1);

/// How long the answer to a release is waited for when nothing of ours can be left behind.
const IDLE_RELEASE: Duration = Duration::from_secs(1);

/// Contentions that another may win and end before we can look, in a row, until we call it busy: only a lying server gets that far.
const RACES: u32 = 1000;

/// Why a lock is lost whose node is gone while its session lives.
const DELETED: &str = "the node was deleted";

/// What to contend for, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// How each server is called.
    pub servers: Vec<String>,
    /// Hosts that have no address, each with its reason.
    pub unresolved: Vec<String>,
    /// The ensemble; its `hosts` are not looked at.
    pub cluster: plan::Cluster,
    /// Namespace.
    pub app_id: String,
    /// Names of lock nodes in it, at least one.
    pub names: Vec<String>,
    /// This process, to whoever reads the node: host name and uuid.
    pub content: String,
    /// Until when to wait for the lock; `None`: one try.
    pub patience: Option<Moment>,
    /// Until when to try to connect.
    pub connect_by: Moment,
    /// TERM to KILL, when nothing presses.
    pub kill_after: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// `names[name]` is contended for. `asked`: the create is on its way. `made`: what came of it; what the node holds comes next.
    Contending { name: usize, asked: bool, made: Option<Result<(), Code>> },
    /// A create was sent and its reply lost: looking whether the node is ours.
    Looking { name: usize },
    /// All names are taken, and watched.
    Waiting,
    /// An orphan of our own has the name, until then at the latest.
    Orphaned { name: usize, until: Moment },
    /// The node is ours; a heartbeat must show that there is time to begin.
    Proving { name: usize, token: i64 },
    /// The lock is ours, and said to be. `suspended`: for the time being nobody can be asked.
    Held { name: usize, since: Moment, suspended: bool },
    /// It was, or never will be: waiting to be told to let go. `held`: a node of ours may be left.
    Settled { held: bool },
    /// Letting go, until then. `held`: a node of ours may be left.
    Releasing { by: Moment, held: bool },
    /// All is said.
    Over,
}

/// The machine.
#[derive(Debug)]
pub struct Node {
    options: Options,
    /// Paths of the lock nodes, in the order of the names.
    paths: Vec<String>,
    session: Session,
    phase: Phase,
    /// Names worth a try, in order.
    free: VecDeque<usize>,
    /// Who was seen to hold a lock, last.
    holder: Holder,
    /// A create may go out before its session is known: only in the very first write, whose orphan is the only one that can be.
    pipeline: bool,
    /// Whether the parents were asked for, and what stood against it first.
    parents: Option<Result<(), (String, Code)>>,
    /// Contentions in a row that another won and ended before we could look.
    races: u32,
    /// What was told last.
    believed: Deadlines,
    outputs: VecDeque<Output>,
}

impl Lock for Node {
    fn handle(&mut self, input: Input, now: Moment) {
        // After a pause of the whole process, what the clock says comes before what any peer says.
        self.look_at_the_clock(now);
        match input {
            Input::Connected => self.opened(now),
            Input::Disconnected(why) => self.session.disconnected(why, now),
            Input::Received(bytes) => self.session.received(bytes, now),
            Input::Release => self.release(now),
            Input::Tick | Input::Granted { .. } | Input::Taken { .. } | Input::Broken(_) => {}
        }
        while let Some(news) = self.session.news() {
            self.hear(news, now);
        }
    }

    fn poll(&mut self, now: Moment) -> Output {
        self.session.tick(now);
        while let Some(news) = self.session.news() {
            self.hear(news, now);
        }
        self.look_at_the_clock(now);
        match self.session.step() {
            Some(Step::Connect(server)) => Output::Connect(server),
            Some(Step::Send(bytes)) => Output::Send(bytes),
            Some(Step::Disconnect) => Output::Disconnect,
            None => self.outputs.pop_front().unwrap_or_else(|| Output::Wait(self.session.wake().min(self.deadline(now)))),
        }
    }
}

impl Node {
    /// Contention begins with the first `poll`.
    pub fn new(options: Options, now: Moment) -> Node {
        let parent = format!("{}/{}", options.cluster.chroot, options.app_id);
        let paths: Vec<String> = options.names.iter().map(|name| format!("{parent}/{name}")).collect();
        let mut node = Node {
            session: Session::new(options.servers.clone(), options.cluster.timeout, options.cluster.auth.clone(), now),
            phase: Phase::Waiting,
            free: (0..paths.len()).collect(),
            holder: Holder { lock: paths[0].clone(), host: None, since: None, session: None },
            paths,
            options,
            pipeline: true,
            parents: None,
            races: 0,
            believed: Deadlines::NEVER,
            outputs: VecDeque::new(),
        };
        node.try_next(now);
        node
    }

    /// A connection is there: what goes out in one write with the connect request.
    fn opened(&mut self, now: Moment) {
        self.session.connected(now);
        let known = self.session.id().is_some();
        match self.phase {
            Phase::Contending { name, .. } if known || self.pipeline => self.contend(name, now),
            Phase::Looking { name } if known => {
                // Reads are local to a server, which may be behind the one that took our create.
                self.session.ask(Request::Sync { path: self.paths[name].clone() }, now);
                self.watch(name, now);
            }
            Phase::Waiting | Phase::Orphaned { .. } if known => (0..self.paths.len()).for_each(|name| self.watch(name, now)),
            Phase::Proving { name, .. } | Phase::Held { name, .. } if known => {
                self.session.ask(Request::Check { path: self.paths[name].clone() }, now);
                self.watch(name, now);
            }
            Phase::Releasing { .. } if known => self.session.ask(Request::Close, now),
            _ => {}
        }
        self.pipeline = false;
    }

    fn hear(&mut self, news: News, now: Moment) {
        match news {
            News::Up { resumed } => self.up(resumed, now),
            News::Reply { request, result } => self.answered(&request, result, now),
            News::Watch { change, path } => self.changed(change, &path, now),
            News::Down(fault) => self.down(&fault, now),
            News::Expired => self.expired(now),
            News::Refused(code) => self.fail(Failure::Refused { what: "authenticate".into(), why: code.to_string() }),
        }
    }

    fn up(&mut self, resumed: bool, now: Moment) {
        let (server, id, timeout) = (self.session.server(), self.session.id().unwrap_or(0), self.session.lease().timeout());
        let word = if resumed { "resumed" } else { "started" };
        self.note(format!("connected to {server}: session 0x{id:x} {word}, timeout {:.1} s", timeout.as_secs_f64()));
        if let Phase::Contending { name, asked: false, .. } = self.phase {
            self.contend(name, now);
        }
    }

    /// Tries the next name that may be free; if there is none, waits for one or says who has the lock.
    fn try_next(&mut self, now: Moment) {
        if let Some(name) = self.free.pop_front() {
            self.outputs.push_back(Output::Trying(self.options.names[name].clone()));
            return self.contend(name, now);
        }
        if self.phase != Phase::Waiting {
            self.phase = Phase::Waiting;
            if self.options.patience.is_some_and(|patience| now < patience) {
                self.outputs.push_back(Output::Waiting(self.holder.clone()));
            }
        }
    }

    /// Makes the node and looks at it, in one write: one answer later a holder knows its token, and a waiter has its watch.
    fn contend(&mut self, name: usize, now: Moment) {
        let asked = self.session.takes_requests();
        self.phase = Phase::Contending { name, asked, made: None };
        if asked {
            let (path, data) = (self.paths[name].clone(), self.options.content.clone().into_bytes());
            self.session.ask(Request::Create { path, data, acl: vec![self.acl()], flags: flag::EPHEMERAL }, now);
            self.watch(name, now);
        }
    }

    fn watch(&mut self, name: usize, now: Moment) {
        self.session.ask(Request::Data { path: self.paths[name].clone(), watch: true }, now);
    }

    /// Makes what the lock node stands under: the chroot's nodes, and the app node as the original makes it. What is there already is fine.
    fn make_parents(&mut self, now: Moment) {
        self.parents = Some(Ok(()));
        let app_node = format!("{}/{}", self.options.cluster.chroot, self.options.app_id);
        let ends: Vec<usize> = app_node.match_indices('/').map(|(end, _)| end).skip(1).chain([app_node.len()]).collect();
        for end in ends {
            let data = if end == app_node.len() { APP_NODE_DATA.to_vec() } else { Vec::new() };
            let path = app_node[..end].to_string();
            self.session.ask(Request::Create { path, data, acl: vec![self.acl()], flags: flag::PERSISTENT }, now);
        }
    }

    fn acl(&self) -> Acl {
        let (scheme, id) = match self.options.cluster.acl {
            plan::Acl::Open => ("world", "anyone"),
            plan::Acl::Creator => ("auth", ""),
        };
        Acl { perms: ALL, id: Id { scheme: scheme.into(), id: id.into() } }
    }

    fn answered(&mut self, request: &Request, result: Result<Answer, Code>, now: Moment) {
        match request {
            Request::Create { path, .. } => self.created(path, result.err()),
            Request::Data { path, .. } | Request::Exists { path, .. } => {
                let Some(name) = self.paths.iter().position(|known| known == path) else { return };
                match result {
                    Ok(Answer::Data(data, stat)) => self.seen(name, &data, &stat, now),
                    Ok(_) => {}
                    Err(Code::NO_NODE) => self.missing(name, now),
                    Err(Code::NO_AUTH) => self.session.ask(Request::Exists { path: path.clone(), watch: true }, now),
                    Err(code) => self.refused("read", name, code),
                }
            }
            Request::Check { .. } => self.checked(result.err(), now),
            Request::Close => self.released(None, now),
            Request::Ping => self.believe(),
            Request::Sync { .. } if cfg!(zk_flock_trusts_sync) => self.believe(), // a build that tests/ensemble.rs must see overlap
            Request::Delete { .. } | Request::Children { .. } | Request::Sync { .. } => {}
        }
    }

    /// A create was answered: that of a parent, or of the lock node. What the node holds is answered next, and decides.
    fn created(&mut self, path: &str, error: Option<Code>) {
        match &mut self.phase {
            Phase::Contending { name, made, .. } if self.paths[*name] == path => *made = Some(error.map_or(Ok(()), Err)),
            _ => {
                if let (Some(parents @ Ok(())), Some(code)) = (&mut self.parents, error.filter(|&code| code != Code::NODE_EXISTS)) {
                    *parents = Err((path.to_string(), code));
                }
            }
        }
    }

    /// The node is there, with this data.
    fn seen(&mut self, name: usize, data: &[u8], stat: &Stat, now: Moment) {
        let ours = Some(stat.ephemeral_owner) == self.session.id();
        match self.phase {
            Phase::Contending { name: wanted, made: Some(made), .. } if wanted == name => match made {
                Ok(()) | Err(Code::NODE_EXISTS) if ours => self.made(name, stat.czxid, now),
                Err(code) if code != Code::NODE_EXISTS => self.refused("create", name, code),
                _ => self.taken(name, data, stat, now),
            },
            Phase::Looking { name: wanted } if wanted == name && ours => self.made(name, stat.czxid, now),
            Phase::Looking { name: wanted } if wanted == name => self.taken(name, data, stat, now),
            Phase::Held { name: held, .. } | Phase::Proving { name: held, .. } if held == name && !ours => {
                self.lose(format!("the node belongs to session 0x{:x} now", stat.ephemeral_owner), now, now);
            }
            Phase::Held { name: held, since, suspended: true } if held == name => {
                self.phase = Phase::Held { name, since, suspended: false };
                self.outputs.push_back(Output::Resumed);
            }
            _ => {}
        }
    }

    /// The node is not there.
    fn missing(&mut self, name: usize, now: Moment) {
        match self.phase {
            Phase::Contending { name: wanted, made: Some(made), .. } if wanted == name => match made {
                Err(Code::NO_NODE) if self.parents.is_none() => {
                    self.make_parents(now);
                    self.contend(name, now);
                }
                Err(Code::NO_NODE) => self.orphaned_name(name),
                Err(Code::NODE_EXISTS) | Ok(()) if self.races < RACES => {
                    self.races += 1;
                    self.contend(name, now);
                }
                Err(Code::NODE_EXISTS) | Ok(()) => self.try_next(now),
                Err(code) => self.refused("create", name, code),
            },
            Phase::Looking { name: wanted } | Phase::Orphaned { name: wanted, .. } if wanted == name => self.contend(name, now),
            Phase::Held { name: held, .. } | Phase::Proving { name: held, .. } if held == name => self.lose(DELETED.into(), now, now),
            Phase::Contending { name: wanted, .. } if wanted == name => {}
            Phase::Waiting | Phase::Contending { .. } => self.freed(name, now),
            _ => {}
        }
    }

    /// Another name may be free.
    fn freed(&mut self, name: usize, now: Moment) {
        if !self.free.contains(&name) {
            self.free.push_back(name);
        }
        if self.phase == Phase::Waiting {
            self.try_next(now);
        }
    }

    /// The parents were made, or could not be, and the node has none all the same.
    fn orphaned_name(&mut self, name: usize) {
        let path = &self.paths[name];
        let failure = match &self.parents {
            Some(Err((parent, code))) => Failure::Refused { what: format!("create {parent}"), why: code.to_string() },
            _ => Failure::Refused {
                what: format!("create {path}"),
                why: "the node above it does not exist: create it, or use a name without \"/\"".into(),
            },
        };
        self.fail(failure);
    }

    /// Somebody has the node: another, or an orphan of our own, left behind by a connection that was cut before it told us its session.
    fn taken(&mut self, name: usize, data: &[u8], stat: &Stat, now: Moment) {
        self.races = 0;
        if data == self.options.content.as_bytes() {
            let until = now + self.session.lease().timeout() + ORPHAN_SLACK;
            self.note(format!(
                "{} is held by session 0x{:x}, which an earlier attempt of this run left behind",
                self.paths[name], stat.ephemeral_owner
            ));
            self.phase = Phase::Orphaned { name, until };
            return;
        }
        self.holder = Holder {
            lock: self.paths[name].clone(),
            host: host(data),
            since: Some(stat.ctime),
            session: Some(stat.ephemeral_owner).filter(|&owner| owner != 0),
        };
        self.try_next(now);
    }

    /// The node is ours.
    fn made(&mut self, name: usize, token: i64, now: Moment) {
        let check = Request::Check { path: self.paths[name].clone() };
        self.session.hold(match self.options.cluster.heartbeat {
            Heartbeat::Write if cfg!(zk_flock_trusts_sync) => Request::Sync { path: self.paths[name].clone() },
            Heartbeat::Write => check.clone(),
            Heartbeat::Ping => Request::Ping,
        });
        self.phase = Phase::Proving { name, token };
        self.believe();
        if !self.begin(now) {
            self.session.ask(check, now);
        }
    }

    /// Says that the lock is ours, if that leaves time to begin.
    fn begin(&mut self, now: Moment) -> bool {
        let Phase::Proving { name, token } = self.phase else { return false };
        if now >= self.believed.term {
            return false;
        }
        self.phase = Phase::Held { name, since: now, suspended: false };
        self.outputs.push_back(Output::Acquired(Proof { lock: self.paths[name].clone(), token, session: self.session.id() }));
        true
    }

    /// A heartbeat was answered.
    fn checked(&mut self, error: Option<Code>, now: Moment) {
        match (error, self.phase) {
            (None, Phase::Proving { .. } | Phase::Held { .. }) => {
                self.believe();
                self.begin(now);
            }
            (Some(Code::NO_NODE), Phase::Proving { .. } | Phase::Held { .. }) => self.lose(DELETED.into(), now, now),
            _ => {} // no proof; without one the lease runs out
        }
    }

    /// Tells how long the lock may be believed in, if that is news.
    fn believe(&mut self) {
        let deadlines = self.session.lease().deadlines(self.options.kill_after);
        if let Phase::Proving { .. } | Phase::Held { .. } = self.phase
            && self.believed != deadlines
        {
            self.believed = deadlines;
            self.outputs.push_back(Output::Believe(deadlines));
        }
    }

    fn changed(&mut self, change: Change, path: &str, now: Moment) {
        let Some(name) = self.paths.iter().position(|known| known == path) else { return };
        match (change, self.phase) {
            (Change::Deleted, Phase::Held { name: held, .. } | Phase::Proving { name: held, .. }) if held == name => {
                self.lose(DELETED.into(), now, now);
            }
            (Change::Deleted, Phase::Orphaned { name: wanted, .. }) if wanted == name => self.contend(name, now),
            (Change::Deleted, Phase::Contending { name: wanted, .. }) if wanted == name => {}
            (Change::Deleted, Phase::Waiting | Phase::Contending { .. }) => self.freed(name, now),
            (Change::Changed | Change::Created, Phase::Waiting | Phase::Orphaned { .. } | Phase::Proving { .. } | Phase::Held { .. }) => {
                self.watch(name, now); // the watch is used up
            }
            _ => {}
        }
    }

    fn down(&mut self, fault: &Fault, now: Moment) {
        self.note(format!("{}: {fault}", self.session.server()));
        match self.phase {
            // Unless a session is known, what was asked for can only be an orphan now.
            Phase::Contending { name, asked: true, .. } if self.session.id().is_some() => self.phase = Phase::Looking { name },
            Phase::Contending { name, .. } => self.phase = Phase::Contending { name, asked: false, made: None },
            Phase::Held { name, since, suspended: false } => {
                self.phase = Phase::Held { name, since, suspended: true };
                self.outputs.push_back(Output::Suspended(format!("{}: {fault}", self.session.server())));
            }
            Phase::Releasing { held: false, .. } => self.released(None, now),
            _ => {}
        }
    }

    /// The session is over, and every node of ours with it.
    fn expired(&mut self, now: Moment) {
        self.note("the session has expired".into());
        match self.phase {
            Phase::Held { .. } => self.lose("the session has expired".into(), now, now),
            Phase::Releasing { .. } => self.released(None, now),
            Phase::Settled { .. } | Phase::Over => self.session.forget(now),
            _ => {
                self.free = (0..self.paths.len()).collect();
                self.try_next(now);
            }
        }
    }

    fn refused(&mut self, verb: &str, name: usize, code: Code) {
        self.fail(Failure::Refused { what: format!("{verb} {}", self.paths[name]), why: code.to_string() });
    }

    /// There will be no lock. What is held is held all the same.
    fn fail(&mut self, failure: Failure) {
        let held = match self.phase {
            Phase::Held { .. } | Phase::Settled { .. } | Phase::Releasing { .. } | Phase::Over => return,
            Phase::Waiting | Phase::Orphaned { .. } => false,
            Phase::Contending { asked, .. } => asked,
            Phase::Looking { .. } | Phase::Proving { .. } => true,
        };
        self.phase = Phase::Settled { held };
        self.outputs.push_back(Output::Failed(failure));
    }

    /// The lock is lost. If it was never said to be ours, it is contended for again.
    fn lose(&mut self, why: String, dead_by: Moment, now: Moment) {
        match self.phase {
            Phase::Held { .. } => {
                self.phase = Phase::Settled { held: true };
                self.outputs.push_back(Output::Lost { why, dead_by });
            }
            Phase::Proving { name, .. } => self.contend(name, now),
            _ => {}
        }
    }

    fn release(&mut self, now: Moment) {
        let held = match self.phase {
            Phase::Releasing { .. } | Phase::Over => return,
            Phase::Waiting | Phase::Orphaned { .. } => false,
            Phase::Contending { asked: held, .. } | Phase::Settled { held } => held,
            Phase::Looking { .. } | Phase::Proving { .. } | Phase::Held { .. } => true,
        };
        let known = self.session.id().is_some();
        let held = held && known;
        let bound = if held { self.session.lease().timeout() } else { IDLE_RELEASE };
        self.phase = Phase::Releasing { by: now + bound, held };
        if known && self.session.takes_requests() {
            self.session.ask(Request::Close, now);
        } else if !held {
            self.released(None, now);
        }
    }

    fn released(&mut self, doubt: Option<String>, now: Moment) {
        if let Phase::Releasing { .. } = self.phase {
            self.session.forget(now);
            self.phase = Phase::Over;
            self.outputs.push_back(Output::Released { doubt });
        }
    }

    /// Everything that time alone brings about.
    fn look_at_the_clock(&mut self, now: Moment) {
        match self.phase {
            Phase::Held { .. } if now >= self.believed.term => {
                let silence = now.since(self.session.lease().proof()).as_secs_f64();
                self.lose(format!("no answer from {} for {silence:.1} s", self.options.servers.join(", ")), self.believed.kill, now);
            }
            Phase::Releasing { by, held } if now >= by => {
                let timeout = self.session.lease().timeout().as_secs_f64();
                let doubt = format!(
                    "no answer from {}: the lock is free when its session has expired, within {timeout:.1} s",
                    self.options.servers.join(", ")
                );
                self.released(held.then_some(doubt), now);
            }
            Phase::Orphaned { name, until } if now >= until => {
                let orphan = format!("{}: a session that an earlier attempt of this run left behind has not expired", self.paths[name]);
                self.fail(Failure::Unreachable { tried: orphan });
            }
            Phase::Waiting if self.options.patience.is_none_or(|patience| now >= patience) && self.session.is_answering(now) => {
                self.phase = Phase::Settled { held: false };
                self.outputs.push_back(Output::Busy(self.holder.clone()));
            }
            Phase::Contending { .. } | Phase::Looking { .. } | Phase::Waiting | Phase::Proving { .. }
                if now >= self.options.connect_by && !self.session.is_answering(now) =>
            {
                let unresolved = self.options.unresolved.iter().map(|host| format!("; {host}"));
                self.fail(Failure::Unreachable { tried: unresolved.fold(self.session.faults(), |all, host| all + &host) });
            }
            _ => {}
        }
    }

    /// When the clock alone brings about something next.
    fn deadline(&self, now: Moment) -> Moment {
        // A limit that is past and has not fired waits for the session's own next move, a heartbeat at the latest.
        let ahead = |limit: Moment| if limit > now { limit } else { Moment::NEVER };
        match self.phase {
            Phase::Held { .. } => self.believed.term,
            Phase::Releasing { by, .. } => by,
            Phase::Orphaned { until, .. } => until,
            Phase::Waiting => ahead(self.options.patience.unwrap_or(Moment::NEVER)).min(ahead(self.options.connect_by)),
            Phase::Contending { .. } | Phase::Looking { .. } | Phase::Proving { .. } => ahead(self.options.connect_by),
            Phase::Settled { .. } | Phase::Over => Moment::NEVER,
        }
    }

    fn note(&mut self, text: String) {
        self.outputs.push_back(Output::Note(text));
    }
}

/// The host name at the front of a lock node's data, if it is laid out as ours or the original's: name and uuid, nothing between.
fn host(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?;
    let (host, uuid) = text.split_at_checked(text.len().checked_sub(UUID_LENGTH)?)?;
    let dashes = uuid.match_indices('-').map(|(index, _)| index).eq([8, 13, 18, 23]);
    (dashes && !host.is_empty() && !host.contains(char::is_control)).then(|| host.to_string())
}

//! Reads the locks below a node of ZooKeeper: what there is, then the data of each node. It can
//! only read: it has no request that changes anything.

use super::{Holder, Kind, LastRun, Lock, Report, Waiter, session};
use crate::lock::Failure;
use crate::lock::period::RunRecord;
use crate::lock::zookeeper::layout::{self, Contender, ContenderKind, NodeData};
use crate::oneshot::zookeeper::{Context, Task};
use crate::zookeeper::code::Code;
use crate::zookeeper::record::Stat;
use crate::zookeeper::request::{Answer, Request};
use queues::{Names, Queues};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

mod queues;

/// How far below the root locks are looked for. A lock name with more slashes than this is not
/// seen unless it is named.
const MAX_DEPTH: usize = 8;

/// The most nodes that are read. Ten thousand locks with ten waiters each are shown; a report of
/// more is of no use, and the servers have other work.
const MAX_NODES: usize = 100_000;

/// The most warnings of nodes that may not be listed; then only their number is told.
const MAX_REFUSALS: usize = 10;

/// The most waiters in a report. Those of a queue for several locks are shown with each of them, so
/// there may be many more than nodes: ten thousand locks with a hundred waiters for any of them.
const MAX_WAITERS: usize = 1_000_000;

/// How much is kept of the data of a node: far more than clients of these locks write. Other
/// clients may write a MiB into each node.
const MAX_DATA: usize = 1024;

/// The most nodes whose list of children is too long. Each ends the connection, and all is read
/// again.
const MAX_LONG_LISTS: usize = 10;

/// What to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The node above the locks.
    pub root: String,
    /// The names of the locks; `None`: all.
    pub names: Option<Vec<String>>,
    /// The node is that of an application of zk-flock: single nodes are locks, and they have queues.
    pub app: bool,
}

/// A node as it was read.
#[derive(Debug)]
struct Node {
    /// `None`: this client may not read it.
    data: Option<Vec<u8>>,
    stat: Stat,
}

/// The task.
#[derive(Debug)]
pub struct Survey {
    target: Target,
    /// Requests that are not sent yet.
    queued: VecDeque<Request>,
    unanswered: usize,
    nodes: BTreeMap<String, Node>,
    children: BTreeMap<String, Vec<String>>,
    /// Nodes that exist, and of which something is not known: they were not read, or not listed. A
    /// lock is unknown if that decides its holder.
    unread: BTreeSet<String>,
    /// How many nodes may not be listed.
    refused: usize,
    /// Nodes whose list of children is too long, each with the reason.
    too_long: BTreeMap<String, String>,
    names: Names,
    queues: Queues,
    /// How many waiters are in the report.
    shown: Cell<usize>,
    requested: usize,
    warnings: Vec<String>,
}

impl Survey {
    /// Reads these locks.
    pub fn new(target: Target) -> Survey {
        Survey {
            names: Names::new(target.names.iter().flatten()),
            target,
            queued: VecDeque::new(),
            unanswered: 0,
            nodes: BTreeMap::new(),
            children: BTreeMap::new(),
            unread: BTreeSet::new(),
            refused: 0,
            too_long: BTreeMap::new(),
            queues: Queues::default(),
            shown: Cell::new(0),
            requested: 0,
            warnings: Vec::new(),
        }
    }

    /// The path of the node above the locks; `root` is empty if that is the top.
    fn root_path(&self) -> String {
        match self.target.root.as_str() {
            "" => "/".into(),
            root => root.into(),
        }
    }

    fn queues_path(&self) -> String {
        layout::queues_path(&self.target.root)
    }

    /// The record of the last run of this lock.
    fn record_path(&self, name: &str) -> String {
        let root = &self.target.root;
        if self.target.app {
            return layout::record_path(root, name);
        }
        layout::record_of(&layout::child(root, name))
    }

    fn ask_data(&mut self, path: String) {
        self.ask(Request::Data { path, watch: false });
    }

    fn ask_children(&mut self, path: String) {
        if let Some(why) = self.too_long.get(&path) {
            self.warnings.push(why.clone());
            self.unread.insert(path);
            return;
        }
        self.ask(Request::Children { path, watch: false });
    }

    fn ask(&mut self, request: Request) {
        self.requested += 1;
        if self.requested <= MAX_NODES {
            return self.queued.push_back(request);
        }
        if self.requested == MAX_NODES + 1 {
            self.warnings.push(format!(
                "only {MAX_NODES} nodes were read, and there are more: give the names of the locks"
            ));
        }
        if let Request::Children { path, .. }
        | Request::Data { path, .. }
        | Request::Exists { path, .. } = request
        {
            self.unread.insert(path);
        }
    }

    /// The servers refuse to list this node.
    fn refuse(&mut self, path: &str, why: &str) {
        self.unread.insert(path.to_owned());
        self.refused += 1;
        if self.refused <= MAX_REFUSALS {
            self.warnings.push(format!("cannot list {path}: {why}"));
        }
    }

    /// Asks for the first nodes. `old`: a server that has lost its quorum, which answers.
    fn begin(&mut self, old: Option<String>) {
        let root = self.root_path();
        if let Some(server) = old {
            self.warnings.push(format!(
                "{server} has lost its quorum: what it shows may be old"
            ));
        } else {
            self.ask(Request::Sync { path: root.clone() });
        }
        match self.target.names.clone() {
            None => self.ask_children(root),
            Some(names) => {
                for name in names {
                    self.ask_data(layout::child(&self.target.root, &name));
                    self.ask_data(self.record_path(&name));
                }
            }
        }
        if self.target.app {
            self.ask_children(self.queues_path());
        }
    }

    /// Takes an answer. `explain`: a code, for the operator.
    fn take(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        explain: impl Fn(Code) -> String,
    ) -> Result<(), Failure> {
        match (request, result) {
            (Request::Children { path, .. }, Ok(Answer::Children(names))) => {
                let is_root = *path == self.root_path();
                let path = if is_root {
                    self.target.root.clone()
                } else {
                    path.clone()
                };
                self.on_children(&path, names);
            }
            (Request::Data { path, .. }, Ok(Answer::Data(data, stat))) => {
                self.on_node(path, Some(data), stat);
            }
            (Request::Exists { path, .. }, Ok(Answer::Data(_, stat))) => {
                self.on_node(path, None, stat);
            }
            (Request::Data { path, .. }, Err(Code::NO_AUTH)) => self.ask(Request::Exists {
                path: path.clone(),
                watch: false,
            }),
            (_, Ok(_) | Err(Code::NO_NODE)) => {}
            (Request::Children { path, .. }, Err(Code::NO_AUTH)) if *path != self.root_path() => {
                self.refuse(path, &explain(Code::NO_AUTH));
            }
            (request, Err(code)) => {
                return Err(Failure::Refused {
                    what: what(request),
                    why: explain(code),
                });
            }
        }
        Ok(())
    }

    fn send_queued(&mut self, context: &mut Context) {
        while context.room() > 0
            && let Some(request) = self.queued.pop_front()
        {
            self.unanswered += 1;
            context.send(request);
        }
    }

    /// The children of a node are known: asks for what matters of them.
    fn on_children(&mut self, path: &str, names: Vec<String>) {
        let queues = self.queues_path();
        if path == queues {
            let wanted = names.iter().filter(|queue| self.is_queue_wanted(queue));
            let paths: Vec<_> = wanted.map(|queue| layout::child(&queues, queue)).collect();
            paths.into_iter().for_each(|path| self.ask_children(path));
            self.queues = Queues::new(&names);
        } else if layout::parent(path) == queues
            || self.is_semaphore_queue(path)
            || layout::is_runs(path)
        {
            names
                .iter()
                .for_each(|name| self.ask_data(layout::child(path, name)));
        } else {
            let readable = names.iter().filter(|name| !layout::is_reserved(name));
            readable.for_each(|name| self.ask_data(layout::child(path, name)));
            let runs = layout::runs_path(path);
            if names.iter().any(|name| layout::child(path, name) == runs) {
                self.ask_children(runs);
            }
            if self.is_semaphore(path, &names) {
                self.ask_children(layout::semaphore_queue_path(path));
            }
        }
        self.children.insert(path.to_owned(), names);
    }

    fn is_queue_wanted(&self, queue: &str) -> bool {
        self.target.names.is_none() || self.names.have(queue)
    }

    fn is_semaphore_queue(&self, path: &str) -> bool {
        path.len() > self.target.root.len() && path.ends_with(&layout::semaphore_queue_path(""))
    }

    /// Whether the node is that of a semaphore: it has a number in it, or leases below it.
    fn is_semaphore(&self, path: &str, names: &[String]) -> bool {
        let data = self.nodes.get(path).and_then(|node| node.data.as_deref());
        let has_contender = names.iter().any(|name| Contender::parse(name).is_some());
        let leases_only = !names.is_empty() && names.iter().all(|name| layout::is_lease(name));
        !has_contender && (data.and_then(layout::permits).is_some() || leases_only)
    }

    /// A node is known: asks for its children if it may be, or lead to, a lock.
    fn on_node(&mut self, path: &str, data: Option<Vec<u8>>, stat: Stat) {
        let name = path.rsplit_once('/').map_or("", |(_, name)| name);
        let depth = path[self.target.root.len()..].matches('/').count();
        let parent = layout::parent(path);
        let is_part = Contender::parse(name).is_some()
            || parent.starts_with(&self.queues_path())
            || layout::is_runs(parent)
            || self.is_semaphore_queue(parent);
        if stat.ephemeral_owner == 0 && !is_part {
            match &self.target.names {
                None if depth <= MAX_DEPTH => self.ask_children(path.to_owned()),
                Some(_) if self.is_named(path) => self.ask_children(path.to_owned()),
                None => {
                    self.unread.insert(path.to_owned());
                }
                Some(_) => {} // below a lock, and of no use
            }
        }
        let data = data.map(start_of);
        self.nodes.insert(path.to_owned(), Node { data, stat });
    }

    fn is_named(&self, path: &str) -> bool {
        layout::child_name(&self.target.root, path).is_some_and(|name| self.names.has(name))
    }

    fn report(&mut self) -> Report {
        if let more @ 1.. = self.refused.saturating_sub(MAX_REFUSALS) {
            self.warnings.push(format!("cannot list {more} more nodes"));
        }
        let mut locks = Vec::new();
        if let Some(names) = &self.target.names {
            locks.extend(names.iter().map(|name| self.named(name)));
        } else {
            self.collect(&self.target.root, "", &mut locks);
            self.add_free(&mut locks);
            locks.sort_by(|one, other| one.name.cmp(&other.name));
        }
        for lock in &mut locks {
            lock.last_run = self.last_run(&lock.name);
        }
        if self.shown.get() == MAX_WAITERS {
            let limit = format!("only the first {MAX_WAITERS} waiters are shown");
            self.warnings.push(limit);
        }
        Report {
            locks,
            warnings: std::mem::take(&mut self.warnings),
        }
    }

    /// The lock of this name, whatever is there.
    fn named(&self, name: &str) -> Lock {
        let path = layout::child(&self.target.root, name);
        let free = Lock {
            kind: self.target.app.then_some(Kind::Node),
            slots: self.target.app.then_some(1),
            ..empty(name, &path)
        };
        match self.nodes.get(&path) {
            None if self.unread.contains(&path) => self.unknown(name, &path),
            None if self.target.app => Lock {
                waiters: self.node_waiters(name, &[]),
                ..free
            },
            None => free,
            Some(node) => self.lock(name, &path, node).unwrap_or_else(|| {
                if self.target.app {
                    self.node_lock(name, &path, node) // no client can make its node beside it
                } else {
                    free
                }
            }),
        }
    }

    /// All locks below a node.
    fn collect(&self, parent: &str, prefix: &str, locks: &mut Vec<Lock>) {
        for child in self.children.get(parent).into_iter().flatten() {
            let path = layout::child(parent, child);
            let name = format!("{prefix}{child}");
            let Some(node) = self.nodes.get(&path) else {
                if self.unread.contains(&path) {
                    locks.push(self.unknown(&name, &path));
                }
                continue; // reserved, or deleted meanwhile
            };
            match self.lock(&name, &path, node) {
                Some(lock) => locks.push(lock),
                None if self.children_of(&path).is_empty() && self.target.app => {}
                None if self.children_of(&path).is_empty() => locks.push(Lock {
                    kind: Some(Kind::Queue),
                    slots: Some(1),
                    ..empty(&name, &path)
                }),
                None => self.collect(&path, &format!("{name}/"), locks),
            }
        }
    }

    /// Locks that only have a queue, or a record of their last run.
    fn add_free(&self, locks: &mut Vec<Lock>) {
        let known: BTreeSet<_> = locks.iter().map(|lock| lock.name.clone()).collect();
        let queued = self.queues.locks().map(str::to_owned);
        let free: BTreeSet<_> = queued.chain(self.recorded()).collect();
        let free = free.iter().filter(|name| !known.contains(*name));
        locks.extend(free.map(|name| self.named(name)));
    }

    /// The names of the locks of zk-flock that have a record. A lock of lockex has a node, too.
    fn recorded(&self) -> impl Iterator<Item = String> {
        let runs = layout::runs_path(&self.target.root);
        let records = self.children_of(&runs).iter();
        let names = records.map(|record| layout::unescaped(record));
        names.filter(|_| self.target.app)
    }

    fn last_run(&self, name: &str) -> Option<LastRun> {
        let node = self.nodes.get(&self.record_path(name))?;
        let record = node.data.as_deref().and_then(RunRecord::parse);
        let started = Some(node.stat.ctime);
        Some(match record {
            None => LastRun {
                started,
                ..LastRun::default()
            },
            Some(record) => LastRun {
                host: Some(record.host),
                pid: Some(record.pid),
                token: Some(record.token),
                started,
                ended: record.exit.map(|_| node.stat.mtime),
                exit: record.exit,
            },
        })
    }

    fn children_of(&self, path: &str) -> &[String] {
        self.children.get(path).map_or(&[], Vec::as_slice)
    }

    /// The lock of this node; `None`: it is no lock, but locks may be below it.
    fn lock(&self, name: &str, path: &str, node: &Node) -> Option<Lock> {
        if node.stat.ephemeral_owner != 0 {
            let is_part = name.rsplit('/').next().and_then(Contender::parse).is_some();
            return (!is_part).then(|| self.node_lock(name, path, node));
        }
        let children = self.children_of(path);
        let has_contender = children
            .iter()
            .any(|child| Contender::parse(child).is_some());
        let is_semaphore = self.is_semaphore(path, children);
        if self.unread.contains(path)
            || (has_contender || is_semaphore) && self.is_any_unread(path, children)
        {
            Some(self.unknown(name, path))
        } else if has_contender {
            Some(self.queue_lock(name, path))
        } else if is_semaphore {
            Some(self.semaphore(name, path, node, children))
        } else {
            None
        }
    }

    fn is_any_unread(&self, path: &str, children: &[String]) -> bool {
        let mut paths = children.iter().map(|child| layout::child(path, child));
        !self.unread.is_empty() && paths.any(|path| self.unread.contains(&path))
    }

    /// A lock of which it is not known whether it is held.
    fn unknown(&self, name: &str, path: &str) -> Lock {
        Lock {
            holders: None,
            waiters: self.node_waiters(name, &[]),
            ..empty(name, path)
        }
    }

    /// A lock of zk-flock.
    fn node_lock(&self, name: &str, path: &str, node: &Node) -> Lock {
        let (host, pid) = node_origin(node);
        let owner = node.stat.ephemeral_owner;
        Lock {
            kind: Some(Kind::Node),
            slots: Some(1),
            waiters: self.node_waiters(name, &[owner]),
            holders: Some(vec![Holder {
                host,
                pid,
                ..holder(path.to_owned(), &node.stat)
            }]),
            ..empty(name, path)
        }
    }

    /// The waiters in all queues for this lock, except those that hold it already.
    fn node_waiters(&self, name: &str, holders: &[i64]) -> Vec<Waiter> {
        let parent = self.queues_path();
        let mut found = Vec::new();
        for queue in self.queues.of(name) {
            let room = MAX_WAITERS - self.shown.get();
            if room == 0 {
                break;
            }
            let queue = layout::child(&parent, queue);
            let mut waiters: Vec<_> = self
                .children_of(&queue)
                .iter()
                .filter_map(|name| layout::Waiter::parse(name))
                .filter(|waiter| waiter.session().is_none_or(|id| !holders.contains(&id)))
                .collect();
            waiters.sort_unstable();
            let nodes = waiters
                .iter()
                .filter_map(|waiter| self.nodes.get(&layout::child(&queue, waiter.name())));
            let before = found.len();
            found.extend(nodes.take(room).enumerate().map(|(ahead, node)| {
                let (host, pid) = node_origin(node);
                waiter(host, pid, ahead, &node.stat)
            }));
            self.shown.set(self.shown.get() + found.len() - before);
        }
        found
    }

    /// The contenders below a node, in the order of kazoo, with what kazoo knows of each.
    fn contenders(&self, path: &str) -> Vec<(Contender<'_>, &Node)> {
        let mut found: Vec<_> = self
            .children_of(path)
            .iter()
            .filter_map(|name| {
                Some((
                    Contender::parse(name)?,
                    self.nodes.get(&layout::child(path, name))?,
                ))
            })
            .collect();
        found.sort_by_key(|(contender, _)| contender.sequence);
        found
    }

    /// A lock of kazoo or lockex: its first contender holds it, and readers together.
    fn queue_lock(&self, name: &str, path: &str) -> Lock {
        let contenders = self.contenders(path);
        let queue: Vec<_> = contenders.iter().map(|(contender, _)| *contender).collect();
        let holding = Contender::holding(&queue);
        let (holders, waiters): (Vec<_>, Vec<_>) = contenders
            .into_iter()
            .zip(holding)
            .partition(|(_, holds)| *holds);
        let [holders, waiters] =
            [holders, waiters].map(|all| all.into_iter().map(|(it, _)| it).collect::<Vec<_>>());
        let reads = holders
            .first()
            .is_some_and(|(contender, _)| contender.kind != ContenderKind::Writer);
        Lock {
            kind: Some(if reads { Kind::Readers } else { Kind::Queue }),
            slots: (!reads).then_some(1),
            holders: Some(
                holders
                    .iter()
                    .map(|(contender, node)| {
                        contender_holder(layout::child(path, contender.name), node)
                    })
                    .collect(),
            ),
            waiters: contender_waiters(&waiters),
            ..empty(name, path)
        }
    }

    /// A semaphore of kazoo: each child is a lease.
    fn semaphore(&self, name: &str, path: &str, node: &Node, children: &[String]) -> Lock {
        let mut leases: Vec<_> = children
            .iter()
            .filter_map(|child| {
                let lease = layout::child(path, child);
                Some((self.nodes.get(&lease)?, lease))
            })
            .collect();
        leases.sort_by_key(|(lease, _)| lease.stat.czxid);
        Lock {
            kind: Some(Kind::Semaphore),
            slots: node.data.as_deref().and_then(layout::permits),
            holders: Some(
                leases
                    .into_iter()
                    .map(|(node, path)| contender_holder(path, node))
                    .collect(),
            ),
            waiters: contender_waiters(&self.contenders(&layout::semaphore_queue_path(path))),
            ..empty(name, path)
        }
    }
}

/// The start of the data of a node, which does not end within a character.
fn start_of(mut data: Vec<u8>) -> Vec<u8> {
    if data.len() > MAX_DATA {
        let is_start = |byte: &u8| byte & 0b1100_0000 != 0b1000_0000;
        let end = data[..=MAX_DATA].iter().rposition(is_start);
        data.truncate(end.unwrap_or_default());
        data.shrink_to_fit();
    }
    data
}

/// A lock without holders and waiters.
fn empty(name: &str, path: &str) -> Lock {
    Lock {
        name: name.into(),
        path: path.into(),
        kind: None,
        slots: None,
        holders: Some(Vec::new()),
        waiters: Vec::new(),
        last_run: None,
    }
}

fn holder(path: String, stat: &Stat) -> Holder {
    Holder {
        node: Some(path),
        host: None,
        pid: None,
        since: Some(stat.ctime),
        token: Some(stat.czxid),
        session: (stat.ephemeral_owner != 0).then(|| session(stat.ephemeral_owner)),
        expires: None,
    }
}

fn waiter(host: Option<String>, pid: Option<u32>, ahead: usize, stat: &Stat) -> Waiter {
    Waiter {
        host,
        pid,
        since: Some(stat.ctime),
        session: Some(session(stat.ephemeral_owner)),
        position: ahead + 1,
    }
}

fn contender_holder(path: String, node: &Node) -> Holder {
    let (host, pid) = origin(node);
    Holder {
        host,
        pid,
        ..holder(path, &node.stat)
    }
}

fn contender_waiters(waiters: &[(Contender<'_>, &Node)]) -> Vec<Waiter> {
    let nodes = waiters.iter().enumerate();
    nodes
        .map(|(ahead, (_, node))| {
            let (host, pid) = origin(node);
            waiter(host, pid, ahead, &node.stat)
        })
        .collect()
}

/// Host and process id in a node of zk-flock.
fn node_origin(node: &Node) -> (Option<String>, Option<u32>) {
    let data = node.data.as_deref();
    match data.and_then(NodeData::parse) {
        Some(data) => (Some(data.host().to_owned()), data.pid()),
        None => (text(data), None),
    }
}

/// Host and process id in a node of kazoo, if it has the form of lockex.
fn origin(node: &Node) -> (Option<String>, Option<u32>) {
    let (host, pid) = text(node.data.as_deref())
        .map(|text| layout::contender_origin(&text))
        .unzip();
    (host, pid.flatten())
}

/// How a client of another kind describes itself.
fn text(data: Option<&[u8]>) -> Option<String> {
    layout::contender_text(data?.to_vec())
}

impl Task for Survey {
    type Report = Report;

    fn start(&mut self, _: bool, context: &mut Context) {
        *self = Survey {
            too_long: std::mem::take(&mut self.too_long),
            ..Survey::new(self.target.clone())
        };
        let session = &context.session;
        let old = session.is_read_only().then(|| session.server().to_owned());
        self.begin(old);
        self.unanswered = 0;
        self.send_queued(context);
    }

    fn on_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        context: &mut Context,
    ) -> Option<Result<Report, Failure>> {
        self.unanswered = self.unanswered.saturating_sub(1);
        let taken = self.take(request, result, |code| context.explain(code));
        if let Err(failure) = taken {
            return Some(Err(failure));
        }
        self.send_queued(context);
        (self.unanswered == 0).then(|| Ok(self.report()))
    }

    fn on_long_list(&mut self, path: &str, why: &str) -> bool {
        let is_expected = path != self.root_path() && self.too_long.len() < MAX_LONG_LISTS;
        is_expected && self.too_long.insert(path.into(), why.into()).is_none()
    }
}

fn what(request: &Request) -> String {
    match request {
        Request::Children { path, .. } => format!("list {path}"),
        Request::Sync { path } => format!("sync {path}"),
        Request::Data { path, .. } | Request::Exists { path, .. } => format!("read {path}"),
        _ => "read the locks".into(),
    }
}

#[cfg(test)]
mod tests;

//! zk-flock's lock: one ephemeral node, and the client that created it is the holder. Waiters
//! queue, and the first of them watches the node and creates it after it was deleted. With several
//! names (`-n`), the first free one is enough. Nodes and data are those of the Python zk-flock, so
//! that both respect each other's lock.

use super::SessionLock;
use super::layout::{self, APP_NODE_DATA, NodeData};
use super::parents::Parents;
use super::queue_entry::QueueEntry;
use super::recipe::{self, AcquiredNode, Options, Outcome, Progress, Recipe, RecipeContext};
use crate::lock::{Event, Failure, Holder, QueuePosition};
use crate::moment::Moment;
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::record::Stat;
use crate::zookeeper::request::{Answer, Operation, Request};
use crate::zookeeper::session::Change;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// Least time by which an orphan of this run may outlive its session timeout: the server checks
/// once a tick, which is 2 s by default.
const ORPHAN_SLACK: Duration = Duration::from_secs(2);

/// The name of an orphan of this run where a lock is named.
const ORPHAN: &str = "left by an earlier attempt of this run";

/// How often in a row another client may acquire and release the lock before this one can read the
/// node, until the lock counts as busy. Only a server that lies gets that far.
const RACES: u32 = 1000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// `names[name]` is being created. `sent`: the create was sent. `created`: its result; the data
    /// of the node is answered next.
    Creating {
        name: usize,
        sent: bool,
        created: Option<Result<(), Code>>,
    },
    /// A create was sent and its reply lost: checking whether the node belongs to this session.
    Checking { name: usize },
    /// All names are held. Waits to be first in the queue, and then for the first name that is
    /// released.
    Waiting,
    /// An orphan of this run holds the name, until then at the latest.
    Orphaned { name: usize, until: Moment },
}

/// The recipe of zk-flock.
#[derive(Debug)]
pub struct Node {
    /// Names of the lock nodes, at least one.
    names: Vec<String>,
    /// Their paths.
    paths: Vec<String>,
    /// Data of the node: host name and uuid.
    content: String,
    parents: Parents,
    /// The container of requests to release the lock.
    breaks: String,
    phase: Phase,
    /// Names that may be free, in order.
    free: VecDeque<usize>,
    /// Names with a watch on this connection.
    watched: BTreeSet<usize>,
    /// The entry in the queue of waiters.
    entry: QueueEntry,
    /// The holder that was seen last.
    holder: Holder,
    /// The session that was last seen to hold each name.
    owners: Vec<i64>,
    /// The last report of the wait: the holder, and the position of this run in the queue.
    reported: Option<(Holder, Option<QueuePosition>)>,
    /// A create may be sent before the session is known: only in the very first write, which leaves
    /// at most one orphan.
    pipeline: bool,
    /// How often in a row another client acquired and released the lock before this one read the
    /// node.
    races: u32,
}

impl Node {
    /// A lock on the first free of these nodes of an application. `data` differs from that of all
    /// other runs.
    pub fn lock(
        options: Options,
        app_id: &str,
        names: Vec<String>,
        data: &NodeData,
        now: Moment,
    ) -> SessionLock<Node> {
        let content = data.to_string();
        let parent = layout::app_path(&options.cluster.chroot, app_id);
        let paths: Vec<String> = names
            .iter()
            .map(|name| layout::child(&parent, name))
            .collect();
        let node = Node {
            entry: QueueEntry::new(&parent, &names, content.clone()),
            names,
            content,
            breaks: layout::breaks_path(&parent),
            parents: Parents::new(parent, APP_NODE_DATA),
            phase: Phase::Waiting,
            free: VecDeque::new(),
            watched: BTreeSet::new(),
            holder: Holder {
                lock: paths[0].clone(),
                host: None,
                since: None,
                session: None,
            },
            reported: None,
            owners: vec![0; paths.len()],
            paths,
            pipeline: true,
            races: 0,
        };
        SessionLock::new(options, node, now)
    }

    /// Tries the next name that may be free. If there is none, waits for one.
    fn try_next(&mut self, context: &mut RecipeContext) {
        if let Some(name) = self.free.pop_front() {
            context.emit(Event::Trying(self.names[name].clone()));
            return self.create_node(name, context);
        }
        if self.phase != Phase::Waiting {
            self.phase = Phase::Waiting;
            self.wait(context);
        }
    }

    /// Requests a queue entry. The first in the queue watches all names.
    fn wait(&mut self, context: &mut RecipeContext) {
        if self.entry.is_wanted() && context.may_wait() {
            self.entry.request(context);
        }
        if self.entry.is_settled() {
            self.position_known(context);
        }
    }

    /// The position in the queue is known. The first watches all names, which other clients may
    /// hold, or which may be free.
    fn position_known(&mut self, context: &mut RecipeContext) {
        if self.entry.is_first() {
            (0..self.paths.len()).for_each(|name| self.watch(name, context));
        }
        if !self.entry.is_first() || self.watched.len() == self.paths.len() {
            self.report_waiting(context);
        }
    }

    /// Reports the wait if something has changed.
    fn report_waiting(&mut self, context: &mut RecipeContext) {
        let reported = Some((self.holder.clone(), self.entry.position()));
        if self.reported != reported {
            context.emit_waiting(&self.holder, self.entry.position());
            self.reported = reported;
        }
    }

    /// Creates the node and reads it in one write: one reply later a holder knows its token, and a
    /// waiter has its watch. A run with a queue entry deletes it in the same transaction. A run
    /// that will request an entry first needs no watch.
    fn create_node(&mut self, name: usize, context: &mut RecipeContext) {
        let sent = context.session.takes_requests();
        self.phase = Phase::Creating {
            name,
            sent,
            created: None,
        };
        if !sent {
            return;
        }
        let (path, data, acl, flags) = (
            self.paths[name].clone(),
            self.content.clone().into_bytes(),
            context.acl(),
            flag::EPHEMERAL,
        );
        context.send(match self.entry.delete_operation() {
            Some(delete) => Request::Multi(vec![
                Operation::Create {
                    path,
                    data,
                    acl,
                    flags,
                },
                delete,
            ]),
            None => Request::Create {
                path,
                data,
                acl,
                flags,
            },
        });
        let watch = self.entry.is_first() || context.options.wait_until.is_none();
        context.send(Request::Data {
            path: self.paths[name].clone(),
            watch,
        });
        context.read_last_run();
    }

    /// A create of a parent or of the lock node was answered. The data of the node is answered
    /// next, and decides.
    fn on_created(&mut self, path: &str, error: Option<Code>) {
        match &mut self.phase {
            Phase::Creating { name, created, .. } if self.paths[*name] == path => {
                *created = Some(error.map_or(Ok(()), Err));
            }
            _ => self.parents.on_reply(path, error),
        }
    }

    /// A queue entry was to be exchanged for the lock node. If the entry is missing, that counts as
    /// if another client had acquired the lock, and the run continues without an entry.
    fn on_exchange(
        &mut self,
        path: &str,
        result: &Result<Answer, Code>,
        context: &mut RecipeContext,
    ) {
        let error = match *result {
            Ok(Answer::Undone { operation: 0, code }) => Some(code),
            Ok(Answer::Undone { code, .. }) | Err(code) => {
                self.entry.not_exchanged(code, context);
                Some(Code::NODE_EXISTS)
            }
            Ok(_) => None,
        };
        self.on_created(path, error);
    }

    fn on_entry_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        context: &mut RecipeContext,
    ) {
        if self.entry.on_reply(request, result, context) && self.phase == Phase::Waiting {
            self.position_known(context);
        }
    }

    /// A read of a lock node was answered.
    fn on_read(
        &mut self,
        name: usize,
        watch: bool,
        result: Result<Answer, Code>,
        context: &mut RecipeContext,
    ) -> Option<Outcome> {
        if watch && result.is_ok() {
            self.watched.insert(name);
        }
        match result {
            Ok(Answer::Data(data, stat)) => return self.on_data(name, &data, &stat, context),
            Ok(_) => {}
            Err(Code::NO_NODE) => return self.missing(name, context),
            Err(Code::NO_AUTH) => context.send(Request::Exists {
                path: self.paths[name].clone(),
                watch: true,
            }),
            Err(code) => return Some(self.refused("read", name, code, context)),
        }
        None
    }

    /// The node exists and has this data.
    fn on_data(
        &mut self,
        name: usize,
        data: &[u8],
        stat: &Stat,
        context: &mut RecipeContext,
    ) -> Option<Outcome> {
        let is_own = context.is_own_session(stat.ephemeral_owner);
        let created = match self.phase {
            Phase::Creating {
                name: wanted,
                created: Some(created),
                ..
            } if wanted == name => created,
            Phase::Checking { name: wanted } if wanted == name => Ok(()),
            Phase::Waiting if self.holder.lock == self.paths[name] => {
                self.holder = self.holder_of(name, data, stat);
                self.report_waiting(context);
                return None;
            }
            _ => return None,
        };
        match created {
            Ok(()) | Err(Code::NODE_EXISTS) if is_own => {
                self.watch(name, context);
                self.entry.exchanged(context);
                context.set_request(stat);
                Some(Outcome::Acquired(AcquiredNode {
                    path: self.paths[name].clone(),
                    token: stat.czxid,
                }))
            }
            Err(code) if !matches!(code, Code::NODE_EXISTS | Code::NO_NODE) => {
                Some(self.refused("create", name, code, context))
            }
            _ => self.taken(name, data, stat, context),
        }
    }

    /// The node does not exist.
    fn missing(&mut self, name: usize, context: &mut RecipeContext) -> Option<Outcome> {
        match self.phase {
            Phase::Creating {
                name: wanted,
                created: Some(created),
                ..
            } if wanted == name => match created {
                Err(Code::NO_NODE) if self.parents.make(context) => self.create_node(name, context),
                Err(Code::NO_NODE) => {
                    return Some(Outcome::Failed(
                        self.parents.failure(&self.paths[name], context),
                    ));
                }
                Err(Code::NODE_EXISTS) | Ok(()) if self.races < RACES => {
                    self.races += 1;
                    self.create_node(name, context);
                }
                Err(Code::NODE_EXISTS) | Ok(()) => self.try_next(context),
                Err(code) => return Some(self.refused("create", name, code, context)),
            },
            Phase::Checking { name: wanted } | Phase::Orphaned { name: wanted, .. }
                if wanted == name =>
            {
                self.create_node(name, context);
            }
            Phase::Creating { name: wanted, .. } if wanted == name => {}
            Phase::Waiting | Phase::Creating { .. } => self.freed(name, context),
            _ => {}
        }
        None
    }

    /// Another name may be free. A waiter that is not first leaves it to the first.
    fn freed(&mut self, name: usize, context: &mut RecipeContext) {
        let waiting = self.phase == Phase::Waiting;
        if waiting && !self.entry.is_first() {
            return;
        }
        if !self.free.contains(&name) {
            self.free.push_back(name);
        }
        if waiting {
            self.try_next(context);
        }
    }

    fn watch(&self, name: usize, context: &mut RecipeContext) {
        if !self.watched.contains(&name) {
            context.watch(&self.paths[name]);
        }
    }

    /// Another client holds the node, or an orphan of this run does, left by a connection that was
    /// cut before it returned its session.
    fn taken(
        &mut self,
        name: usize,
        data: &[u8],
        stat: &Stat,
        context: &mut RecipeContext,
    ) -> Option<Outcome> {
        self.races = 0;
        if data == self.content.as_bytes() {
            let lock = format!("{} ({ORPHAN})", self.paths[name]);
            self.holder = Holder {
                lock,
                host: None,
                ..self.holder_of(name, data, stat)
            };
            let until = context.now + Self::orphan_timeout(context.session.lease().timeout());
            let until = until.max(context.options.wait_until.unwrap_or_default());
            context.emit(Event::Waiting {
                holder: self.holder.clone(),
                position: None,
            }); // reported also without -w
            self.watch(name, context);
            self.phase = Phase::Orphaned { name, until };
            return None;
        }
        self.holder = self.holder_of(name, data, stat);
        self.owners[name] = stat.ephemeral_owner;
        if context.may_wait()
            && self
                .owners
                .iter()
                .all(|&owner| context.is_outer_session(owner))
        {
            return Some(recipe::circular(&self.paths[name], stat.ephemeral_owner));
        }
        self.try_next(context);
        None
    }

    /// How long an orphan is waited for. A tick of the server is at most half the timeout, unless
    /// minSessionTimeout was lowered.
    fn orphan_timeout(timeout: Duration) -> Duration {
        timeout + ORPHAN_SLACK.max(timeout / 2)
    }

    fn holder_of(&self, name: usize, data: &[u8], stat: &Stat) -> Holder {
        let (lock, owner) = (self.paths[name].clone(), stat.ephemeral_owner);
        Holder {
            lock,
            host: NodeData::parse(data).map(|data| data.host().to_owned()),
            since: Some(stat.ctime),
            session: (owner != 0).then_some(owner),
        }
    }

    /// Index of the lock at this path.
    fn named(&self, path: &str) -> Option<usize> {
        self.paths.iter().position(|known| known == path)
    }

    fn refused(&self, verb: &str, name: usize, code: Code, context: &RecipeContext) -> Outcome {
        Outcome::Failed(Failure::Refused {
            what: format!("{verb} {}", self.paths[name]),
            why: context.explain(code),
        })
    }
}

impl Recipe for Node {
    fn on_connecting(&mut self, context: &mut RecipeContext) {
        let known = context.session.id().is_some();
        match self.phase {
            Phase::Creating { name, .. } if known || self.pipeline => {
                self.create_node(name, context);
            }
            Phase::Checking { name } if known => {
                // Reads are local to a server, which may be behind the one that executed the
                // create.
                context.send(Request::Sync {
                    path: self.paths[name].clone(),
                });
                context.watch(&self.paths[name]);
                context.read_last_run();
            }
            Phase::Waiting if known => self.wait(context),
            Phase::Orphaned { name, .. } if known => self.watch(name, context),
            _ => {}
        }
        if known {
            self.entry.on_connecting(context);
        }
        self.pipeline = false;
    }

    fn on_session(&mut self, context: &mut RecipeContext) {
        if let Phase::Creating {
            name, sent: false, ..
        } = self.phase
        {
            self.create_node(name, context);
        }
    }

    fn on_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        context: &mut RecipeContext,
    ) -> Option<Outcome> {
        match request {
            Request::Create { path, .. } => self.on_created(path, result.err()),
            Request::Multi(operations) => match &operations[..] {
                [Operation::Create { path, .. }, Operation::Delete { .. }] => {
                    self.on_exchange(path, &result, context);
                }
                _ => self.on_entry_reply(request, result, context),
            },
            Request::Data { path, watch } | Request::Exists { path, watch } => {
                match self.named(path) {
                    Some(name) => return self.on_read(name, *watch, result, context),
                    None => self.on_entry_reply(request, result, context),
                }
            }
            _ => self.on_entry_reply(request, result, context),
        }
        None
    }

    fn on_watch(&mut self, change: Change, path: &str, context: &mut RecipeContext) {
        let Some(name) = self.named(path) else {
            return self.entry.on_watch(change, path, context);
        };
        self.watched.remove(&name);
        match (change, self.phase) {
            (Change::Deleted, Phase::Orphaned { name: wanted, .. }) if wanted == name => {
                self.create_node(name, context);
            }
            (Change::Deleted, Phase::Creating { name: wanted, .. }) if wanted == name => {}
            (Change::Deleted, Phase::Waiting | Phase::Creating { .. }) => {
                self.freed(name, context);
            }
            (Change::Changed | Change::Created, Phase::Waiting | Phase::Orphaned { .. }) => {
                context.watch(path);
            } // a watch fires once
            _ => {}
        }
    }

    fn on_disconnect(&mut self, known: bool) {
        self.parents.forget();
        self.entry.on_disconnect();
        self.watched.clear();
        match self.phase {
            Phase::Creating {
                name, sent: true, ..
            } if known => self.phase = Phase::Checking { name },
            // If the session is unknown, a create that was sent can only have left an orphan.
            Phase::Creating { name, .. } => {
                self.phase = Phase::Creating {
                    name,
                    sent: false,
                    created: None,
                }
            }
            _ => {}
        }
    }

    fn on_deleted(
        &mut self,
        path: &str,
        result: Result<(), Code>,
        context: &mut RecipeContext,
    ) -> Option<String> {
        self.entry.on_deleted(path, result.is_ok(), context);
        None // a queue with waiters stays, and the server deletes an empty one
    }

    fn on_close(&mut self, context: &mut RecipeContext) {
        self.entry.on_close(context);
    }

    fn restart(&mut self, context: &mut RecipeContext) {
        self.parents.forget();
        self.entry.restart();
        self.watched.clear();
        self.free = (0..self.paths.len()).collect();
        self.try_next(context);
    }

    fn breaks(&self) -> &str {
        &self.breaks
    }

    fn progress(&self, _: Moment) -> Progress {
        let has_entry = self.entry.delete_operation().is_some();
        match self.phase {
            Phase::Creating { sent, .. } => Progress::Pending {
                may_exist: sent || has_entry,
            },
            Phase::Checking { .. } => Progress::Pending { may_exist: true },
            Phase::Orphaned { .. } => Progress::Pending {
                may_exist: has_entry,
            },
            Phase::Waiting if self.entry.is_settled() => Progress::Waiting {
                holder: self.holder.clone(),
                may_exist: has_entry,
            },
            Phase::Waiting => Progress::Pending { may_exist: true },
        }
    }

    fn limit(&self) -> Option<(Moment, Holder)> {
        let Phase::Orphaned { until, .. } = self.phase else {
            return None;
        };
        Some((until, self.holder.clone()))
    }
}

#[cfg(test)]
mod tests;

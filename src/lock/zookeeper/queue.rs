//! kazoo's `Lock`: sequential ephemeral nodes below the node of the lock. The lowest holds the
//! lock, and each contender watches the one before it, so that a release wakes one. The nodes have
//! the layout of kazoo, old and new, so that all exclude each other.
//!
//! A reader (`--shared`) passes the other readers before it and watches the nearest writer, so that
//! the release of a writer wakes all readers behind it at once. A writer waits for all before it.

use super::layout::{self, Contender};
use super::parents::Parents;
use super::recipe::{self, AcquiredNode, Outcome, Progress, Recipe, RecipeContext};
use crate::lock::{Failure, Holder, QueuePosition};
use crate::moment::Moment;
use crate::plan::Sharing;
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::record::Stat;
use crate::zookeeper::request::{Answer, Request};
use crate::zookeeper::session::Change;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// The contender is to be created. `sent`: the create was sent.
    Joining { sent: bool },
    /// A create was sent and its reply lost: checking whether the contender exists. `unsure`: how
    /// many candidates are still to be read.
    Checking { unsure: usize },
    /// The contender exists; its rank is being read.
    Ranking,
    /// This contender is the next before this run for which it waits, and is watched. `seen`: the
    /// holder is known. The position does not count holders.
    Queued {
        ahead: String,
        seen: bool,
        position: QueuePosition,
    },
    /// This run waits for no contender. The node is read once more, for its token and a watch.
    First,
}

/// What the contenders of a queue get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The lock.
    Lock(Sharing),
    /// The right to count the leases of a semaphore.
    SemaphoreEntry,
}

/// The recipe of lockex for one holder, or for readers.
#[derive(Debug)]
pub struct Queue {
    /// The node of the lock, above all contenders.
    path: String,
    /// How the name of this run's contender begins, and no other's: 32 hex digits.
    mark: String,
    /// Data of the contender: `HOST:PID`.
    content: String,
    purpose: Purpose,
    parents: Parents,
    /// The container of requests to release the lock.
    breaks: String,
    phase: Phase,
    /// Name of the contender, once it is known.
    own: Option<String>,
    /// The lowest contender that was seen.
    holder: Holder,
    /// `Waiting` was reported.
    waiting_reported: bool,
    /// A create may be sent before the session is known: only in the very first write.
    pipeline: bool,
}

impl Queue {
    /// A queue below the node at `path`.
    pub fn new(path: String, mark: String, content: String, purpose: Purpose) -> Queue {
        Queue {
            mark,
            content,
            purpose,
            parents: Parents::new(path.clone(), b""),
            breaks: layout::breaks_path(layout::parent(&path)),
            phase: Phase::Joining { sent: false },
            own: None,
            holder: Holder {
                lock: path.clone(),
                host: None,
                since: None,
                session: None,
            },
            path,
            waiting_reported: false,
            pipeline: true,
        }
    }

    /// Path of the contender, if it exists.
    pub(super) fn contender(&self) -> Option<String> {
        self.own.as_ref().map(|own| self.child(own))
    }

    fn sharing(&self) -> Sharing {
        match self.purpose {
            Purpose::Lock(sharing) => sharing,
            Purpose::SemaphoreEntry => Sharing::Exclusive,
        }
    }

    /// Whether this is the queue of a lock, and not that of a semaphore.
    fn is_lock(&self) -> bool {
        matches!(self.purpose, Purpose::Lock(_))
    }

    fn child(&self, name: &str) -> String {
        layout::child(&self.path, name)
    }

    /// Name of the child at this path. `None` if it is no child.
    fn name<'a>(&self, path: &'a str) -> Option<&'a str> {
        layout::child_name(&self.path, path)
    }

    /// Creates the contender and lists all, in one write.
    fn join(&mut self, context: &mut RecipeContext) {
        let sent = context.session.takes_requests();
        self.phase = Phase::Joining { sent };
        self.own = None;
        if sent {
            let path = self.child(&Contender::prefix(&self.mark, self.sharing()));
            let data = self.content.clone().into_bytes();
            context.send(Request::Create {
                path,
                data,
                acl: context.acl(),
                flags: flag::EPHEMERAL | flag::SEQUENCE,
            });
            if self.is_lock() {
                // The node must not be that of a semaphore.
                context.send(Request::Data {
                    path: self.path.clone(),
                    watch: false,
                });
            }
            self.list(context);
        }
    }

    fn list(&self, context: &mut RecipeContext) {
        context.send(Request::Children {
            path: self.path.clone(),
            watch: false,
        });
    }

    fn rank_again(&mut self, context: &mut RecipeContext) {
        self.phase = Phase::Ranking;
        self.list(context);
    }

    fn on_created(
        &mut self,
        result: Result<Answer, Code>,
        context: &mut RecipeContext,
    ) -> Option<Outcome> {
        match result {
            Ok(Answer::Created(path)) => {
                self.own = self.name(&path).map(str::to_string);
                self.phase = Phase::Ranking;
                None
            }
            Err(Code::NO_NODE) if self.parents.make(context) => {
                self.join(context);
                None
            }
            Err(Code::NO_NODE) => Some(Outcome::Failed(self.parents.failure(&self.path, context))),
            Err(code) => Some(Outcome::Failed(Failure::Refused {
                what: format!("create a node below {}", self.path),
                why: context.explain(code),
            })),
            Ok(_) => None,
        }
    }

    fn on_list(&mut self, children: &[String], context: &mut RecipeContext) -> Option<Outcome> {
        match self.phase {
            Phase::Checking { .. } => self.find_own(children, context),
            Phase::Ranking => return self.rank(children, context),
            _ => {}
        }
        None
    }

    /// A child with this run's mark may be the contender whose create was not answered, or an
    /// orphan of an earlier session.
    fn find_own(&mut self, children: &[String], context: &mut RecipeContext) {
        let own_nodes: Vec<&String> = children
            .iter()
            .filter(|name| layout::has_mark(name, &self.mark))
            .collect();
        if own_nodes.is_empty() {
            return self.join(context);
        }
        self.phase = Phase::Checking {
            unsure: own_nodes.len(),
        };
        for name in own_nodes {
            context.send(Request::Data {
                path: self.child(name),
                watch: false,
            });
        }
    }

    fn rank(&mut self, children: &[String], context: &mut RecipeContext) -> Option<Outcome> {
        let Some(own) = self.own.clone().filter(|own| children.contains(own)) else {
            self.join(context); // another client has deleted it
            return None;
        };
        for orphan in children
            .iter()
            .filter(|name| layout::has_mark(name, &self.mark) && **name != own)
        {
            context.send(Request::Delete {
                path: self.child(orphan),
            });
        }
        let contender = Contender::parse(&own)?;
        let sequence = contender.sequence;
        if !contender.is_safe() {
            let why = format!(
                "{}: its sequence numbers are used up ({sequence}): delete this node while no client uses the lock",
                self.path
            );
            return Some(Outcome::Failed(Failure::IncompatibleLock(why)));
        }
        let mut contenders: Vec<_> = children
            .iter()
            .filter_map(|name| Contender::parse(name))
            .collect();
        contenders.sort_unstable_by_key(|it| (it.sequence, it.name));
        let before = contenders.partition_point(|it| it.sequence < sequence);
        let mut blocking = contenders[..before].iter().rev();
        let Some(ahead) = blocking.find(|it| contender.waits_for(**it)) else {
            self.phase = Phase::First;
            context.watch(&self.child(&own));
            context.read_last_run();
            return None;
        };
        if context.wants_request() {
            context.send(Request::Exists {
                path: self.child(&own),
                watch: false,
            });
        }
        let holding = Contender::holding(&contenders);
        self.read_holders(&contenders, &holding, ahead.name, context);
        context.watch(&self.child(ahead.name));
        let holders = |until: usize| holding[..until].iter().filter(|holds| **holds).count();
        self.phase = Phase::Queued {
            ahead: ahead.name.to_owned(),
            seen: false,
            position: QueuePosition {
                position: before - holders(before) + 1,
                waiters: contenders.len() - holders(contenders.len()),
            },
        };
        None
    }

    /// Reads the first contender, which is a holder, unless it is the one to be watched. A run that
    /// was started under a lock reads all holders: this lock may be that one.
    fn read_holders(
        &self,
        contenders: &[Contender],
        holding: &[bool],
        ahead: &str,
        context: &mut RecipeContext,
    ) {
        let count = if context.is_nested() {
            contenders.len()
        } else {
            1
        };
        let holders = contenders.iter().zip(holding).take(count);
        for (holder, _) in holders.filter(|(it, holds)| **holds && it.name != ahead) {
            context.send(Request::Data {
                path: self.child(holder.name),
                watch: false,
            }); // answered before the one that is watched
        }
    }

    /// A child exists.
    fn on_data(
        &mut self,
        name: &str,
        data: &[u8],
        stat: &Stat,
        context: &mut RecipeContext,
    ) -> Option<Outcome> {
        let is_own = context.is_own_session(stat.ephemeral_owner);
        let is_lock = self.is_lock();
        match &mut self.phase {
            Phase::Checking { .. } if is_own => {
                self.own = Some(name.to_string());
                self.rank_again(context);
            }
            Phase::Checking { unsure } => {
                *unsure = unsure.saturating_sub(1);
                let none_left = *unsure == 0;
                context.send(Request::Delete {
                    path: self.child(name),
                });
                if none_left {
                    self.join(context);
                }
            }
            Phase::First if is_own && self.own.as_deref() == Some(name) => {
                context.set_request(stat);
                return Some(Outcome::Acquired(AcquiredNode {
                    path: self.child(name),
                    token: stat.czxid,
                }));
            }
            Phase::Queued { .. } if self.own.as_deref() == Some(name) => {
                context.set_request(stat);
            }
            Phase::Queued { .. }
                if is_lock
                    && context.may_wait()
                    && context.is_outer_session(stat.ephemeral_owner) =>
            {
                return Some(recipe::circular(&self.path, stat.ephemeral_owner));
            }
            Phase::Queued {
                seen: seen @ false,
                position,
                ..
            } => {
                *seen = true;
                let position = *position;
                self.holder = Holder {
                    lock: self.path.clone(),
                    host: layout::contender_text(data.to_vec()),
                    since: Some(stat.ctime),
                    session: Some(stat.ephemeral_owner),
                };
                // In the queue of a semaphore the first contender holds no lease. The semaphore's
                // own recipe reports the holders.
                if is_lock && !std::mem::replace(&mut self.waiting_reported, true) {
                    context.emit_waiting(&self.holder, Some(position));
                }
            }
            _ => {}
        }
        None
    }

    /// A child was deleted.
    fn missing(&mut self, name: &str, context: &mut RecipeContext) {
        match &mut self.phase {
            Phase::Checking { unsure } => {
                *unsure = unsure.saturating_sub(1);
                if *unsure == 0 {
                    self.join(context);
                }
            }
            Phase::Queued { ahead, .. } if ahead == name => self.rank_again(context),
            Phase::First if self.own.as_deref() == Some(name) => self.join(context),
            _ => {}
        }
    }

    /// Checks the data of the lock's node: it has no meaning unless it is the number of a
    /// semaphore.
    fn check_number(&self, data: &[u8]) -> Option<Outcome> {
        let permits = layout::permits(data).filter(|&permits| permits > 1)?;
        let why = format!(
            "{} is a semaphore of {permits}, not a lock of 1: use --concurrent {permits}, or another --lockid",
            self.path
        );
        Some(Outcome::Failed(Failure::IncompatibleLock(why)))
    }
}

impl Recipe for Queue {
    fn on_connecting(&mut self, context: &mut RecipeContext) {
        let known = context.session.id().is_some();
        match self.phase {
            Phase::Joining { .. } if known || self.pipeline => self.join(context),
            Phase::Checking { .. } if known => {
                // Reads are local to a server, which may be behind the one that executed the
                // create.
                context.send(Request::Sync {
                    path: self.path.clone(),
                });
                self.list(context);
            }
            // The contender before this one is known, so all are listed only if that one has left:
            // after an outage all contenders ask at once.
            Phase::Queued {
                ref ahead,
                seen: true,
                ..
            } if known => context.send(Request::Exists {
                path: self.child(ahead),
                watch: true,
            }),
            Phase::Ranking | Phase::Queued { .. } | Phase::First if known => {
                self.rank_again(context);
            }
            _ => {}
        }
        self.pipeline = false;
    }

    fn on_session(&mut self, context: &mut RecipeContext) {
        if let Phase::Joining { sent: false } = self.phase {
            self.join(context);
        }
    }

    fn on_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        context: &mut RecipeContext,
    ) -> Option<Outcome> {
        match (request, result) {
            (Request::Create { flags, .. }, result) if flags & flag::SEQUENCE != 0 => {
                return self.on_created(result, context);
            }
            (Request::Create { path, .. }, result) => self.parents.on_reply(path, result.err()),
            (Request::Children { path, .. }, Ok(Answer::Children(children)))
                if *path == self.path =>
            {
                return self.on_list(&children, context);
            }
            // Data that cannot be read is no number.
            (Request::Data { path, .. }, Err(_)) if *path == self.path => {}
            (Request::Data { path, .. }, Err(Code::NO_AUTH)) if self.name(path).is_some() => {
                context.send(Request::Exists {
                    path: path.clone(),
                    watch: true,
                });
            }
            (
                Request::Data { path, .. }
                | Request::Exists { path, .. }
                | Request::Children { path, .. },
                Err(code),
            ) if code != Code::NO_NODE && (self.name(path).is_some() || *path == self.path) => {
                return Some(Outcome::Failed(Failure::Refused {
                    what: format!("read {path}"),
                    why: context.explain(code),
                }));
            }
            (Request::Children { path, .. }, Err(Code::NO_NODE))
                if *path == self.path && !matches!(self.phase, Phase::Joining { .. }) =>
            {
                self.join(context);
            }
            (Request::Data { path, .. }, Ok(Answer::Data(data, _))) if *path == self.path => {
                return self.check_number(&data);
            }
            (
                Request::Data { path, .. } | Request::Exists { path, .. },
                Ok(Answer::Data(data, stat)),
            ) => {
                let name = self.name(path)?.to_string();
                return self.on_data(&name, &data, &stat, context);
            }
            (Request::Data { path, .. } | Request::Exists { path, .. }, Err(Code::NO_NODE)) => {
                let name = self.name(path)?.to_string();
                self.missing(&name, context);
            }
            _ => {}
        }
        None
    }

    fn on_watch(&mut self, change: Change, path: &str, context: &mut RecipeContext) {
        let Some(name) = self.name(path) else { return };
        match (change, &self.phase) {
            (Change::Deleted, Phase::Queued { ahead, .. }) if ahead == name => {
                self.rank_again(context);
            }
            // A watch fires once.
            (Change::Changed, Phase::Queued { ahead, .. }) if ahead == name => context.watch(path),
            _ => {}
        }
    }

    fn on_disconnect(&mut self, known: bool) {
        self.parents.forget();
        match self.phase {
            Phase::Joining { sent: true } if known => self.phase = Phase::Checking { unsure: 0 },
            // If the session is unknown, a create that was sent can only have left an orphan.
            Phase::Joining { .. } => self.phase = Phase::Joining { sent: false },
            _ => {}
        }
    }

    /// If the session is resumed after all, the contender of before still exists, next to the new one.
    /// `rank` deletes it: the lock has one holder all the same, and this run is the last in the queue.
    fn restart(&mut self, context: &mut RecipeContext) {
        self.parents.forget();
        self.join(context);
    }

    fn breaks(&self) -> &str {
        &self.breaks
    }

    fn progress(&self, _: Moment) -> Progress {
        match self.phase {
            Phase::Joining { sent } => Progress::Pending { may_exist: sent },
            Phase::Queued { seen: true, .. } => Progress::Waiting {
                holder: self.holder.clone(),
                may_exist: true,
            },
            Phase::Checking { .. } | Phase::Ranking | Phase::Queued { .. } | Phase::First => {
                Progress::Pending { may_exist: true }
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! kazoo's `Semaphore`: a limited number of leases, ephemeral nodes below the node of the
//! semaphore, whose data is the limit. A client first holds a lock queue beside the semaphore, so
//! that only one at a time counts leases and waits for a change. It leaves that queue as soon as
//! its lease exists.

use super::layout;
use super::parents::Parents;
use super::queue::{Purpose, Queue};
use super::recipe::{self, AcquiredNode, Outcome, Progress, Recipe, RecipeContext};
use crate::lock::{Failure, Holder};
use crate::moment::Moment;
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::request::{Answer, Operation, Request};
use crate::zookeeper::session::Change;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// In the queue. `asked`: the leases are being listed, and `full` is the result: all are held.
    Entering { asked: bool, full: bool },
    /// This run is first in the queue and counts the leases.
    Counting,
    /// All leases are held; the next change is watched.
    Full,
    /// The lease is being created.
    Creating,
    /// A create was sent and its reply lost: checking whether the lease exists.
    Checking,
}

/// How long a run that tries once assumes that those before it in the queue leave soon: that takes
/// milliseconds, unless one of them is stopped.
const PASSING: Duration = Duration::from_secs(2);

/// Most holders that are named: each is a request, and a longer line is not read.
const NAMED: usize = 5;

/// The first phase.
const ENTERING: Phase = Phase::Entering {
    asked: false,
    full: false,
};

/// The recipe of lockex for several holders.
#[derive(Debug)]
pub struct Semaphore {
    /// The node of the semaphore, above all leases.
    path: String,
    permits: u32,
    /// Path of this run's lease.
    lease: String,
    /// Data of the lease: `HOST:PID`.
    content: String,
    parents: Parents,
    queue: Queue,
    phase: Phase,
    holders: Holders,
    /// Until when those before this run in the queue are assumed to leave soon. A waiter does not
    /// need that.
    passing_until: Moment,
}

/// The holders of the leases, as far as they were read. They are read only if all leases are held,
/// and for one line: by a run that tries once, and by a waiter when its wait begins.
#[derive(Default, Debug)]
struct Holders {
    /// How many leases there are.
    leases: usize,
    /// How the holder of each lease describes itself, by path.
    names: BTreeMap<String, String>,
    /// The session of each lease that was read. If this run was started under fewer locks than
    /// there are leases, they cannot all be those.
    owners: BTreeMap<String, i64>,
    /// How many replies are outstanding.
    unread: usize,
    /// A waiter has reported the holders.
    reported: bool,
}

impl Holders {
    /// All leases are held, by these.
    fn listed(&mut self, leases: Vec<String>, context: &mut RecipeContext) {
        self.leases = leases.len();
        self.names.retain(|lease, _| leases.contains(lease));
        self.owners.retain(|lease, _| leases.contains(lease));
        let most = if context.options.outer_sessions.len() >= leases.len() {
            leases.len().max(NAMED)
        } else {
            NAMED
        };
        if self.unread == 0 && !(self.reported && context.may_wait()) {
            let unknown = leases
                .into_iter()
                .filter(|lease| !self.names.contains_key(lease))
                .take(most);
            for path in unknown {
                self.unread += 1;
                context.send(Request::Data { path, watch: false });
            }
        }
    }

    /// A read of a lease was answered.
    fn read(&mut self, lease: &str, result: Result<Answer, Code>) {
        self.unread = self.unread.saturating_sub(1);
        if let Ok(Answer::Data(_, stat)) = &result {
            self.owners.insert(lease.into(), stat.ephemeral_owner);
        }
        if let Ok(Answer::Data(data, _)) = result
            && let Some(name) = layout::contender_text(data)
        {
            self.names.insert(lease.into(), name);
        }
    }

    /// The session of a lease, if outer runs hold all of them.
    fn all_outer(&self, context: &RecipeContext) -> Option<i64> {
        let all = self.leases > 0
            && self.owners.len() == self.leases
            && self
                .owners
                .values()
                .all(|&owner| context.is_outer_session(owner));
        self.owners.values().next().copied().filter(|_| all)
    }

    /// `a:1, b:2 and 3 others`; `None` if none is known.
    fn shown(&self) -> Option<String> {
        let names: Vec<&str> = self
            .names
            .values()
            .take(NAMED)
            .map(String::as_str)
            .collect();
        let others = match self.leases.saturating_sub(names.len()) {
            0 => String::new(),
            1 => " and 1 other".into(),
            others => format!(" and {others} others"),
        };
        (!names.is_empty()).then(|| names.join(", ") + &others)
    }
}

impl Semaphore {
    /// A semaphore of `permits` below the node at `path`. `mark`: 32 hex digits of this run alone.
    pub fn new(path: String, permits: u32, mark: &str, content: String) -> Semaphore {
        Semaphore {
            permits,
            lease: layout::child(&path, mark),
            parents: Parents::new(path.clone(), &layout::permits_data(permits)),
            queue: Queue::new(
                layout::semaphore_queue_path(&path),
                mark.into(),
                content.clone(),
                Purpose::SemaphoreEntry,
            ),
            content,
            holders: Holders::default(),
            phase: ENTERING,
            path,
            passing_until: Moment::default(),
        }
    }

    /// Counts the leases, watches them, and reads the limit of the semaphore.
    fn count(&mut self, context: &mut RecipeContext) {
        self.phase = Phase::Counting;
        context.send(Request::Data {
            path: self.path.clone(),
            watch: false,
        });
        context.send(Request::Children {
            path: self.path.clone(),
            watch: true,
        });
    }

    fn on_list(&mut self, leases: &[String], context: &mut RecipeContext) {
        let full = leases.len() >= self.permits as usize;
        let paths = || {
            leases
                .iter()
                .map(|name| layout::child(&self.path, name))
                .collect()
        };
        match self.phase {
            Phase::Entering { asked, .. } if full => {
                self.holders.listed(paths(), context);
                self.phase = Phase::Entering { asked, full };
                self.report_full(context);
            }
            Phase::Entering { asked, .. } => {
                self.phase = Phase::Entering { asked, full };
                if let Progress::Waiting { holder, .. } = self.queue.progress(context.now) {
                    context.emit_waiting(&holder, None);
                }
            }
            Phase::Counting if full => {
                self.holders.listed(paths(), context);
                self.phase = Phase::Full;
                self.report_full(context);
            }
            Phase::Counting => self.create_lease(context),
            _ => {}
        }
    }

    /// Creates the lease while the contender exists. Without it, another run may have counted since
    /// the list was read.
    fn create_lease(&mut self, context: &mut RecipeContext) {
        let Some(contender) = self.queue.contender() else {
            return self.restart(context);
        };
        self.phase = Phase::Creating;
        context.send(Request::Multi(vec![
            Operation::Check { path: contender },
            Operation::Create {
                path: self.lease.clone(),
                data: self.content.clone().into_bytes(),
                acl: context.acl(),
                flags: flag::EPHEMERAL,
            },
        ]));
        context.watch(&self.lease);
    }

    /// The creation of the lease has failed. What follows shows the lease, if it exists.
    fn not_created(
        &mut self,
        operation: usize,
        code: Code,
        context: &mut RecipeContext,
    ) -> Option<Outcome> {
        match (operation, code) {
            (0, Code::NO_NODE) if self.phase == Phase::Creating => self.restart(context),
            (_, Code::NODE_EXISTS | Code::NO_NODE) => {}
            _ => {
                return Some(Outcome::Failed(Failure::Refused {
                    what: format!("create {}", self.lease),
                    why: context.explain(code),
                }));
            }
        }
        None
    }

    fn holder(&self) -> Holder {
        let lock = format!("{} (all {} leases taken)", self.path, self.permits);
        Holder {
            lock,
            host: self.holders.shown(),
            since: None,
            session: None,
        }
    }

    /// Reports once that all leases are held and by which holders, when they are known.
    fn report_full(&mut self, context: &mut RecipeContext) {
        let full = matches!(self.phase, Phase::Full | Phase::Entering { full: true, .. });
        if full
            && self.holders.unread == 0
            && context.may_wait()
            && !std::mem::replace(&mut self.holders.reported, true)
        {
            context.emit_waiting(&self.holder(), None);
        }
    }

    /// Whether this is the lease of another client.
    fn is_other_lease(&self, path: &str) -> bool {
        path != self.lease && layout::child_name(&self.path, path).is_some()
    }

    /// The lease exists. If another session created it, it is an orphan of this run.
    fn on_lease(&mut self, owner: i64, token: i64, context: &mut RecipeContext) -> Option<Outcome> {
        if !matches!(self.phase, Phase::Creating | Phase::Checking) {
            return None;
        }
        if !context.is_own_session(owner) {
            context.send(Request::Delete {
                path: self.lease.clone(),
            });
            self.count(context);
            return None;
        }
        self.leave_queue(context);
        Some(Outcome::Acquired(AcquiredNode {
            path: self.lease.clone(),
            token,
        }))
    }

    fn on_queue_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        context: &mut RecipeContext,
    ) -> Option<Outcome> {
        let outcome = self.queue.on_reply(request, result, context);
        match outcome {
            Some(Outcome::Acquired(_)) if self.is_first() => {}
            Some(Outcome::Acquired(_)) => self.count(context),
            Some(Outcome::Failed(_)) => return outcome,
            None if self.phase == ENTERING && self.waits_in_queue(context.now) => {
                self.phase = Phase::Entering {
                    asked: true,
                    full: false,
                };
                self.passing_until = if context.options.wait_until.is_none() {
                    context.now + PASSING
                } else {
                    context.now
                };
                context.send(Request::Children {
                    path: self.path.clone(),
                    watch: false,
                });
            }
            None => {}
        }
        None
    }

    /// Deletes the contender, so that the next client counts.
    fn leave_queue(&self, context: &mut RecipeContext) {
        if let Some(path) = self.queue.contender() {
            context.send(Request::Delete { path });
        }
    }

    /// Whether this run is first in the queue and may count.
    fn is_first(&self) -> bool {
        matches!(self.phase, Phase::Counting | Phase::Full)
    }

    fn waits_in_queue(&self, now: Moment) -> bool {
        matches!(self.queue.progress(now), Progress::Waiting { .. })
    }

    /// The number in the semaphore's node must be that of this run; other data is ignored.
    fn check_number(&self, data: &[u8]) -> Option<Outcome> {
        let permits = layout::permits(data).filter(|&permits| permits != self.permits)?;
        let why = format!(
            "{} is a semaphore of {permits}, not of {}: use --concurrent {permits}, or another --lockid",
            self.path, self.permits
        );
        Some(Outcome::Failed(Failure::IncompatibleLock(why)))
    }
}

impl Recipe for Semaphore {
    fn on_connecting(&mut self, context: &mut RecipeContext) {
        let known = context.session.id().is_some();
        match self.phase {
            Phase::Entering { .. } => {
                if known {
                    // A lease from before the lock was acquired again would count as taken, and
                    // those before this run would wait for it.
                    context.send(Request::Delete {
                        path: self.lease.clone(),
                    });
                }
                self.queue.on_connecting(context);
            }
            Phase::Counting | Phase::Full if known => {
                if let Some(contender) = self.queue.contender() {
                    context.watch(&contender); // this run must still be first in the queue
                }
                self.count(context);
            }
            Phase::Checking if known => {
                context.send(Request::Sync {
                    path: self.lease.clone(),
                });
                context.watch(&self.lease);
            }
            _ => {}
        }
    }

    fn on_session(&mut self, context: &mut RecipeContext) {
        if let Phase::Entering { .. } = self.phase {
            self.queue.on_session(context);
        }
    }

    fn on_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        context: &mut RecipeContext,
    ) -> Option<Outcome> {
        match (request, result) {
            (Request::Children { path, .. }, Ok(Answer::Children(leases)))
                if *path == self.path =>
            {
                self.on_list(&leases, context);
            }
            (Request::Children { path, .. }, Err(Code::NO_NODE)) if *path == self.path => {
                match self.phase {
                    Phase::Counting if self.parents.make(context) => self.count(context),
                    Phase::Counting => {
                        return Some(Outcome::Failed(self.parents.failure(&self.path, context)));
                    }
                    _ => {}
                }
            }
            (Request::Children { path, .. } | Request::Data { path, .. }, Err(code))
                if code != Code::NO_NODE && (*path == self.path || *path == self.lease) =>
            {
                return Some(Outcome::Failed(Failure::Refused {
                    what: format!("read {path}"),
                    why: context.explain(code),
                }));
            }
            (Request::Data { path, .. }, result) if self.is_other_lease(path) => {
                self.holders.read(path, result);
                let full = matches!(self.phase, Phase::Full | Phase::Entering { full: true, .. });
                if let Some(session) = self
                    .holders
                    .all_outer(context)
                    .filter(|_| full && context.may_wait())
                {
                    return Some(recipe::circular(&self.path, session));
                }
                self.report_full(context);
            }
            (Request::Data { path, .. }, Err(Code::NO_NODE))
                if self.is_first() && self.queue.contender().as_ref() == Some(path) =>
            {
                self.restart(context); // another client has deleted the contender
            }
            (Request::Data { path, .. }, Ok(Answer::Data(data, _))) if *path == self.path => {
                return self.check_number(&data);
            }
            (Request::Data { path, .. }, Ok(Answer::Data(_, stat))) if *path == self.lease => {
                return self.on_lease(stat.ephemeral_owner, stat.czxid, context);
            }
            (Request::Data { path, .. }, Err(Code::NO_NODE)) if *path == self.lease => {
                if let Phase::Creating | Phase::Checking = self.phase {
                    self.count(context);
                }
            }
            (Request::Multi(_), Ok(Answer::Undone { operation, code })) => {
                return self.not_created(operation, code, context);
            }
            (Request::Multi(_), Err(code)) => return self.not_created(1, code, context),
            (Request::Multi(_), Ok(_)) => {}
            (Request::Create { path, flags, .. }, result) if flags & flag::SEQUENCE == 0 => {
                self.parents.on_reply(path, result.as_ref().err().copied());
                return self.on_queue_reply(request, result, context);
            }
            (_, result) => return self.on_queue_reply(request, result, context),
        }
        None
    }

    fn on_watch(&mut self, change: Change, path: &str, context: &mut RecipeContext) {
        match self.phase {
            Phase::Full | Phase::Counting if path == self.path => self.count(context),
            Phase::Full | Phase::Counting
                if change == Change::Deleted && self.queue.contender().as_deref() == Some(path) =>
            {
                self.restart(context);
            }
            _ => self.queue.on_watch(change, path, context),
        }
    }

    fn on_disconnect(&mut self, known: bool) {
        self.parents.forget();
        self.holders.unread = 0;
        match self.phase {
            Phase::Creating if known => self.phase = Phase::Checking,
            Phase::Entering { .. } => {
                self.phase = ENTERING;
                self.queue.on_disconnect(known);
            }
            _ => self.queue.on_disconnect(known),
        }
    }

    fn on_resume(&mut self, context: &mut RecipeContext) {
        self.leave_queue(context); // the first reply may be lost
    }

    fn on_deleted(
        &mut self,
        path: &str,
        result: Result<(), Code>,
        _: &mut RecipeContext,
    ) -> Option<String> {
        let code = result.err().filter(|&code| code != Code::NO_NODE)?;
        Some(format!(
            "cannot delete {path}: {code}; other clients wait until it is deleted"
        ))
    }

    fn restart(&mut self, context: &mut RecipeContext) {
        self.parents.forget();
        self.phase = ENTERING;
        self.holders.unread = 0;
        self.queue.restart(context);
    }

    fn wake(&self) -> Moment {
        self.passing_until
    }

    fn breaks(&self) -> &str {
        self.queue.breaks() // that of a node beside the semaphore
    }

    fn progress(&self, now: Moment) -> Progress {
        match self.phase {
            Phase::Entering { full: true, .. } | Phase::Full if self.holders.unread > 0 => {
                Progress::Pending { may_exist: true }
            }
            Phase::Entering { full, .. } => match self.queue.progress(now) {
                Progress::Waiting { may_exist, .. } if full => Progress::Waiting {
                    holder: self.holder(),
                    may_exist,
                },
                // Those before this run may leave soon.
                Progress::Waiting { may_exist, .. } if now < self.passing_until => {
                    Progress::Pending { may_exist }
                }
                stage => stage,
            },
            Phase::Full => Progress::Waiting {
                holder: self.holder(),
                may_exist: true,
            },
            Phase::Counting | Phase::Creating | Phase::Checking => {
                Progress::Pending { may_exist: true }
            }
        }
    }
}

#[cfg(test)]
mod tests;

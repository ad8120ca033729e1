//! kazoo's Semaphore: so many leases, ephemeral nodes below the semaphore's own, whose data is
//! their number. Whoever wants one first holds a lock queue beside it, so that only one at a time
//! counts leases and waits for them to change; that queue is left as soon as the lease is there.

use super::layout;
use super::parents::Parents;
use super::queue::Queue;
use super::recipe::{self, AcquiredNode, Outcome, Progress, Recipe, RecipeContext};
use crate::lock::{Failure, Holder};
use crate::moment::Moment;
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::request::{Answer, Request};
use crate::zookeeper::session::Change;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// In the queue. `asked`: whether all leases are taken was asked, and is told by `full` once it
    /// is answered.
    Entering { asked: bool, full: bool },
    /// The queue is ours, and leases are being counted.
    Counting,
    /// All are taken; the next change of leases is watched for.
    Full,
    /// A lease is being made.
    Taking,
    /// A lease was asked for and the reply lost: looking whether it is there.
    Looking,
}

/// How long whoever tries once takes those before it in the queue to be passing through: for that
/// is milliseconds, unless one of them is stopped.
const PASSING: Duration = Duration::from_secs(2);

/// So many holders are named at most: each is a request, and a line that names more is not read.
const NAMED: usize = 5;

/// Where it begins.
const ENTERING: Phase = Phase::Entering {
    asked: false,
    full: false,
};

/// The recipe.
#[derive(Debug)]
pub struct Semaphore {
    /// The semaphore's node, which leases stand under.
    path: String,
    permits: u32,
    /// The lease that is ours and nobody else's.
    lease: String,
    /// `host:pid`, to whoever reads our lease.
    content: String,
    parents: Parents,
    queue: Queue,
    phase: Phase,
    holders: Holders,
    /// Until when those before us in the queue are taken to be passing through. Who waits anyway
    /// need not ask.
    hurry: Moment,
}

/// Who holds the leases, as far as it was asked. Only where all are taken is it asked at all, and
/// for one line: by a run that tries once, and by a waiter when it begins to wait.
#[derive(Default, Debug)]
struct Holders {
    /// How many leases there are.
    leases: usize,
    /// Paths of leases, and what their holders call themselves.
    names: BTreeMap<String, String>,
    /// Sessions that hold them, as far as they were looked at. Where we run under fewer locks than
    /// there are leases, they cannot all be of those.
    owners: BTreeMap<String, i64>,
    /// So many answers are still to come.
    unread: usize,
    /// A waiter has said who they are.
    told: bool,
}

impl Holders {
    /// All leases are taken, by these.
    fn listed(&mut self, leases: Vec<String>, context: &mut RecipeContext) {
        self.leases = leases.len();
        self.names.retain(|lease, _| leases.contains(lease));
        self.owners.retain(|lease, _| leases.contains(lease));
        let most = if context.options.outer_sessions.len() >= leases.len() {
            leases.len().max(NAMED)
        } else {
            NAMED
        };
        if self.unread == 0 && !(self.told && context.may_wait()) {
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

    /// A lease was looked at, or is not there any more.
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

    /// A session of them, if all are of runs that we were started under.
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
    /// A semaphore of `permits` below the node at `path`. `mark` is 32 hex digits of our own.
    pub fn new(path: String, permits: u32, mark: &str, content: String) -> Semaphore {
        Semaphore {
            permits,
            lease: layout::child(&path, mark),
            parents: Parents::new(path.clone(), &layout::permits_data(permits)),
            queue: Queue::new(
                layout::semaphore_queue_path(&path),
                mark.into(),
                content.clone(),
                false,
            ),
            content,
            holders: Holders::default(),
            phase: ENTERING,
            path,
            hurry: Moment::default(),
        }
    }

    /// Counts leases, watches them, and looks whether the number that they are counted against is
    /// ours.
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

    fn counted(&mut self, leases: &[String], context: &mut RecipeContext) {
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
                self.say_full(context);
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
                self.say_full(context);
            }
            Phase::Counting => {
                self.phase = Phase::Taking;
                let (path, data) = (self.lease.clone(), self.content.clone().into_bytes());
                context.send(Request::Create {
                    path,
                    data,
                    acl: context.acl(),
                    flags: flag::EPHEMERAL,
                });
                context.watch(&self.lease);
            }
            _ => {}
        }
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

    /// Says, once, that all leases are taken and by whom, as soon as that is known.
    fn say_full(&mut self, context: &mut RecipeContext) {
        let full = matches!(self.phase, Phase::Full | Phase::Entering { full: true, .. });
        if full
            && self.holders.unread == 0
            && context.may_wait()
            && !std::mem::replace(&mut self.holders.told, true)
        {
            context.emit_waiting(&self.holder(), None);
        }
    }

    /// Whether this is the lease of another.
    fn is_others(&self, path: &str) -> bool {
        path != self.lease && layout::child_name(&self.path, path).is_some()
    }

    /// Our lease is there. Ours is what our session made; anything else by that name is an orphan
    /// of ours.
    fn seen(&mut self, owner: i64, token: i64, context: &mut RecipeContext) -> Option<Outcome> {
        if !matches!(self.phase, Phase::Taking | Phase::Looking) {
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

    fn ask_queue(
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
                self.hurry = if context.options.wait_until.is_none() {
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

    /// Lets the next one count.
    fn leave_queue(&self, context: &mut RecipeContext) {
        if let Some(path) = self.queue.contender() {
            context.send(Request::Delete { path });
        }
    }

    /// Whether the queue is ours, and it is our turn to count.
    fn is_first(&self) -> bool {
        matches!(self.phase, Phase::Counting | Phase::Full)
    }

    fn waits_in_queue(&self, now: Moment) -> bool {
        matches!(self.queue.progress(now), Progress::Waiting { .. })
    }

    /// The number in the semaphore's node must be ours; anything but a number is nobody's.
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
            Phase::Entering { .. } => self.queue.on_connecting(context),
            Phase::Counting | Phase::Full if known => {
                if let Some(contender) = self.queue.contender() {
                    context.watch(&contender); // the queue must still be ours
                }
                self.count(context);
            }
            Phase::Looking if known => {
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
                self.counted(&leases, context);
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
            (Request::Data { path, .. }, result) if self.is_others(path) => {
                self.holders.read(path, result);
                let full = matches!(self.phase, Phase::Full | Phase::Entering { full: true, .. });
                if let Some(session) = self
                    .holders
                    .all_outer(context)
                    .filter(|_| full && context.may_wait())
                {
                    return Some(recipe::circular(&self.path, session));
                }
                self.say_full(context);
            }
            (Request::Data { path, .. }, Err(Code::NO_NODE))
                if self.is_first() && self.queue.contender().as_ref() == Some(path) =>
            {
                self.restart(context); // somebody has put us out of the queue
            }
            (Request::Data { path, .. }, Ok(Answer::Data(data, _))) if *path == self.path => {
                return self.check_number(&data);
            }
            (Request::Data { path, .. }, Ok(Answer::Data(_, stat))) if *path == self.lease => {
                return self.seen(stat.ephemeral_owner, stat.czxid, context);
            }
            (Request::Data { path, .. }, Err(Code::NO_NODE)) if *path == self.lease => {
                self.count(context);
            }
            (Request::Create { path, .. }, Err(code))
                if *path == self.lease && !matches!(code, Code::NODE_EXISTS | Code::NO_NODE) =>
            {
                return Some(Outcome::Failed(Failure::Refused {
                    what: format!("create {path}"),
                    why: context.explain(code),
                }));
            }
            (Request::Create { path, flags, .. }, result) if flags & flag::SEQUENCE == 0 => {
                self.parents.on_reply(path, result.as_ref().err().copied());
                return self.ask_queue(request, result, context);
            }
            (_, result) => return self.ask_queue(request, result, context),
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
        self.parents.on_disconnect();
        self.holders.unread = 0;
        match self.phase {
            Phase::Taking if known => self.phase = Phase::Looking,
            Phase::Entering { .. } => {
                self.phase = ENTERING;
                self.queue.on_disconnect(known);
            }
            _ => self.queue.on_disconnect(known),
        }
    }

    fn on_resume(&mut self, context: &mut RecipeContext) {
        self.leave_queue(context); // the reply to the first time may be lost
    }

    fn on_deleted(
        &mut self,
        path: &str,
        result: Result<(), Code>,
        _: &mut RecipeContext,
    ) -> Option<String> {
        let code = result.err().filter(|&code| code != Code::NO_NODE)?;
        Some(format!(
            "cannot delete {path}, which others wait for: {code}"
        ))
    }

    fn restart(&mut self, context: &mut RecipeContext) {
        self.phase = ENTERING;
        self.holders.unread = 0;
        self.queue.restart(context);
    }

    fn wake(&self) -> Moment {
        self.hurry
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
                // Those before us may only be passing through.
                Progress::Waiting { may_exist, .. } if now < self.hurry => {
                    Progress::Pending { may_exist }
                }
                stage => stage,
            },
            Phase::Full => Progress::Waiting {
                holder: self.holder(),
                may_exist: true,
            },
            Phase::Counting | Phase::Taking | Phase::Looking => {
                Progress::Pending { may_exist: true }
            }
        }
    }
}

#[cfg(test)]
mod tests;

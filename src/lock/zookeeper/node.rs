//! zk-flock's lock: one ephemeral node, held by whoever made it. Who waits gets in line, and the
//! first there watches the node and makes it when it goes. With several names (`-n`) the first that
//! is free will do. Nodes and data are those of the Python original, so that both respect each
//! other's lock.

use super::SessionLock;
use super::layout::{self, APP_NODE_DATA, NodeData};
use super::parents::Parents;
use super::queue_entry::Place;
use super::recipe::{self, AcquiredNode, Options, Outcome, Progress, Recipe, RecipeContext};
use crate::lock::{Event, Failure, Holder};
use crate::moment::Moment;
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::record::Stat;
use crate::zookeeper::request::{Answer, Operation, Request};
use crate::zookeeper::session::Change;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// How long an orphan of our own may outlive its session timeout, at the least: the server looks
/// once a tick, which is 2 s by default.
const ORPHAN_SLACK: Duration = Duration::from_secs(2);

/// What an orphan of our own is called, wherever a lock is named.
const ORPHAN: &str = "an earlier attempt of this run, which left";

/// Contentions that another may win and end before we can look, in a row, until we call it busy:
/// only a lying server gets that far.
const RACES: u32 = 1000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// `names[name]` is contended for. `asked`: the create is on its way. `made`: what came of it;
    /// what the node holds comes next.
    Contending {
        name: usize,
        asked: bool,
        made: Option<Result<(), Code>>,
    },
    /// A create was sent and its reply lost: looking whether the node is ours.
    Looking { name: usize },
    /// All names are taken: waiting for our turn, and from then on for the first that goes.
    Waiting,
    /// An orphan of our own has the name, until then at the latest.
    Orphaned { name: usize, until: Moment },
}

/// The recipe.
#[derive(Debug)]
pub struct Node {
    /// Names of the lock nodes, at least one.
    names: Vec<String>,
    /// Their paths.
    paths: Vec<String>,
    /// This process, to whoever reads the node: host name and uuid.
    content: String,
    parents: Parents,
    phase: Phase,
    /// Names worth a try, in order.
    free: VecDeque<usize>,
    /// Names whose node has a watch of ours on this connection.
    watched: BTreeSet<usize>,
    /// Among those who wait.
    place: Place,
    /// Who was seen to hold a lock, last.
    holder: Holder,
    /// Sessions that were seen to hold each name, last.
    owners: Vec<i64>,
    /// What was said last of our wait: for whom, and how many are before us.
    told: Option<(Holder, Option<usize>)>,
    /// A create may go out before its session is known: only in the very first write, whose orphan
    /// is the only one that can be.
    pipeline: bool,
    /// Contentions in a row that another won and ended before we could look.
    races: u32,
}

impl Node {
    /// A lock on the first free of these nodes of an application. `data` tells our node from all
    /// others.
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
            place: Place::new(&parent, &names, content.clone()),
            names,
            content,
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
            told: None,
            owners: vec![0; paths.len()],
            paths,
            pipeline: true,
            races: 0,
        };
        SessionLock::new(options, node, now)
    }

    /// Tries the next name that may be free; if there is none, waits for one.
    fn try_next(&mut self, context: &mut RecipeContext) {
        if let Some(name) = self.free.pop_front() {
            context.emit(Event::Trying(self.names[name].clone()));
            return self.contend(name, context);
        }
        if self.phase != Phase::Waiting {
            self.phase = Phase::Waiting;
            self.wait(context);
        }
    }

    /// Gets in line; if it is our turn, watches all names.
    fn wait(&mut self, context: &mut RecipeContext) {
        if self.place.is_wanted() && context.may_wait() {
            self.place.ask(context);
        }
        if self.place.is_settled() {
            self.placed(context);
        }
    }

    /// It is known what has become of our place. If it is our turn, all names are watched, which
    /// may be others' now, or free.
    fn placed(&mut self, context: &mut RecipeContext) {
        if self.place.is_our_turn() {
            (0..self.paths.len()).for_each(|name| self.watch(name, context));
        }
        if !self.place.is_our_turn() || self.watched.len() == self.paths.len() {
            self.say_waiting(context);
        }
    }

    /// Says that we wait, if that is not as it was.
    fn say_waiting(&mut self, context: &mut RecipeContext) {
        let told = Some((self.holder.clone(), self.place.ahead()));
        if self.told != told {
            context.emit_waiting(&self.holder, self.place.ahead());
            self.told = told;
        }
    }

    /// Makes the node and looks at it, in one write: one answer later a holder knows its token, and
    /// a waiter has its watch. Whoever has a place gives it up in the same step; whoever will
    /// ask for one first, need not be woken when the node goes.
    fn contend(&mut self, name: usize, context: &mut RecipeContext) {
        let asked = context.session.takes_requests();
        self.phase = Phase::Contending {
            name,
            asked,
            made: None,
        };
        if !asked {
            return;
        }
        let (path, data, acl, flags) = (
            self.paths[name].clone(),
            self.content.clone().into_bytes(),
            context.acl(),
            flag::EPHEMERAL,
        );
        context.send(match self.place.leaving() {
            Some(leaving) => Request::Multi(vec![
                Operation::Create {
                    path,
                    data,
                    acl,
                    flags,
                },
                leaving,
            ]),
            None => Request::Create {
                path,
                data,
                acl,
                flags,
            },
        });
        let watch = self.place.is_our_turn() || context.options.wait_until.is_none();
        context.send(Request::Data {
            path: self.paths[name].clone(),
            watch,
        });
    }

    /// A create was answered: that of a parent, or of the lock node. What the node holds is
    /// answered next, and decides.
    fn created(&mut self, path: &str, error: Option<Code>) {
        match &mut self.phase {
            Phase::Contending { name, made, .. } if self.paths[*name] == path => {
                *made = Some(error.map_or(Ok(()), Err));
            }
            _ => self.parents.on_reply(path, error),
        }
    }

    /// A place was to be exchanged for the lock node. If it is the place that was not to be had,
    /// that is as if another had won, and we go on without.
    fn exchanged(
        &mut self,
        path: &str,
        result: &Result<Answer, Code>,
        context: &mut RecipeContext,
    ) {
        let error = match *result {
            Ok(Answer::Undone { operation: 0, code }) => Some(code),
            Ok(Answer::Undone { code, .. }) | Err(code) => {
                self.place.refused(code, context);
                Some(Code::NODE_EXISTS)
            }
            Ok(_) => None,
        };
        self.created(path, error);
    }

    fn answered_of_place(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        context: &mut RecipeContext,
    ) {
        if self.place.on_reply(request, result, context) && self.phase == Phase::Waiting {
            self.placed(context);
        }
    }

    /// A lock node was looked at.
    fn looked(
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
            Ok(Answer::Data(data, stat)) => return self.seen(name, &data, &stat, context),
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

    /// The node is there, with this data.
    fn seen(
        &mut self,
        name: usize,
        data: &[u8],
        stat: &Stat,
        context: &mut RecipeContext,
    ) -> Option<Outcome> {
        let ours = context.is_own_session(stat.ephemeral_owner);
        let made = match self.phase {
            Phase::Contending {
                name: wanted,
                made: Some(made),
                ..
            } if wanted == name => made,
            Phase::Looking { name: wanted } if wanted == name => Ok(()),
            Phase::Waiting if self.holder.lock == self.paths[name] => {
                self.holder = self.holder_of(name, data, stat);
                self.say_waiting(context);
                return None;
            }
            _ => return None,
        };
        match made {
            Ok(()) | Err(Code::NODE_EXISTS) if ours => {
                self.watch(name, context);
                self.place.exchanged(context);
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

    /// The node is not there.
    fn missing(&mut self, name: usize, context: &mut RecipeContext) -> Option<Outcome> {
        match self.phase {
            Phase::Contending {
                name: wanted,
                made: Some(made),
                ..
            } if wanted == name => match made {
                Err(Code::NO_NODE) if self.parents.make(context) => self.contend(name, context),
                Err(Code::NO_NODE) => {
                    return Some(Outcome::Failed(
                        self.parents.failure(&self.paths[name], context),
                    ));
                }
                Err(Code::NODE_EXISTS) | Ok(()) if self.races < RACES => {
                    self.races += 1;
                    self.contend(name, context);
                }
                Err(Code::NODE_EXISTS) | Ok(()) => self.try_next(context),
                Err(code) => return Some(self.refused("create", name, code, context)),
            },
            Phase::Looking { name: wanted } | Phase::Orphaned { name: wanted, .. }
                if wanted == name =>
            {
                self.contend(name, context);
            }
            Phase::Contending { name: wanted, .. } if wanted == name => {}
            Phase::Waiting | Phase::Contending { .. } => self.freed(name, context),
            _ => {}
        }
        None
    }

    /// Another name may be free. Whoever waits and is not first leaves it to who is.
    fn freed(&mut self, name: usize, context: &mut RecipeContext) {
        let waiting = self.phase == Phase::Waiting;
        if waiting && !self.place.is_our_turn() {
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

    /// Somebody has the node: another, or an orphan of our own, left behind by a connection that
    /// was cut before it told us its session.
    fn taken(
        &mut self,
        name: usize,
        data: &[u8],
        stat: &Stat,
        context: &mut RecipeContext,
    ) -> Option<Outcome> {
        self.races = 0;
        if data == self.content.as_bytes() {
            let lock = format!("{ORPHAN} {} behind", self.paths[name]);
            self.holder = Holder {
                lock,
                host: None,
                ..self.holder_of(name, data, stat)
            };
            let until = context.now + Self::allowance(context.session.lease().timeout());
            let until = until.max(context.options.wait_until.unwrap_or_default());
            context.emit(Event::Waiting {
                holder: self.holder.clone(),
                ahead: None,
            }); // also without -w
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

    /// How long an orphan is waited for. A tick of the server is half the timeout at most, unless
    /// minSessionTimeout was lowered there.
    fn allowance(timeout: Duration) -> Duration {
        timeout + ORPHAN_SLACK.max(timeout / 2)
    }

    fn holder_of(&self, name: usize, data: &[u8], stat: &Stat) -> Holder {
        let (lock, owner) = (self.paths[name].clone(), stat.ephemeral_owner);
        Holder {
            lock,
            host: NodeData::parse(data).map(NodeData::host),
            since: Some(stat.ctime),
            session: (owner != 0).then_some(owner),
        }
    }

    /// Index of the lock at this path, if it is one of ours.
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
            Phase::Contending { name, .. } if known || self.pipeline => self.contend(name, context),
            Phase::Looking { name } if known => {
                // Reads are local to a server, which may be behind the one that took our create.
                context.send(Request::Sync {
                    path: self.paths[name].clone(),
                });
                context.watch(&self.paths[name]);
            }
            Phase::Waiting if known => self.wait(context),
            Phase::Orphaned { name, .. } if known => self.watch(name, context),
            _ => {}
        }
        if known {
            self.place.on_connecting(context);
        }
        self.pipeline = false;
    }

    fn on_session(&mut self, context: &mut RecipeContext) {
        if let Phase::Contending {
            name, asked: false, ..
        } = self.phase
        {
            self.contend(name, context);
        }
    }

    fn on_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        context: &mut RecipeContext,
    ) -> Option<Outcome> {
        match request {
            Request::Create { path, .. } => self.created(path, result.err()),
            Request::Multi(operations) => match &operations[..] {
                [Operation::Create { path, .. }, Operation::Delete { .. }] => {
                    self.exchanged(path, &result, context);
                }
                _ => self.answered_of_place(request, result, context),
            },
            Request::Data { path, watch } | Request::Exists { path, watch } => {
                match self.named(path) {
                    Some(name) => return self.looked(name, *watch, result, context),
                    None => self.answered_of_place(request, result, context),
                }
            }
            _ => self.answered_of_place(request, result, context),
        }
        None
    }

    fn on_watch(&mut self, change: Change, path: &str, context: &mut RecipeContext) {
        let Some(name) = self.named(path) else {
            return self.place.on_watch(change, path, context);
        };
        self.watched.remove(&name);
        match (change, self.phase) {
            (Change::Deleted, Phase::Orphaned { name: wanted, .. }) if wanted == name => {
                self.contend(name, context);
            }
            (Change::Deleted, Phase::Contending { name: wanted, .. }) if wanted == name => {}
            (Change::Deleted, Phase::Waiting | Phase::Contending { .. }) => {
                self.freed(name, context);
            }
            (Change::Changed | Change::Created, Phase::Waiting | Phase::Orphaned { .. }) => {
                context.watch(path);
            } // the watch is used up
            _ => {}
        }
    }

    fn on_disconnect(&mut self, known: bool) {
        self.parents.on_disconnect();
        self.place.on_disconnect();
        self.watched.clear();
        match self.phase {
            Phase::Contending {
                name, asked: true, ..
            } if known => self.phase = Phase::Looking { name },
            // Unless the session is known, what was asked for can only be an orphan now.
            Phase::Contending { name, .. } => {
                self.phase = Phase::Contending {
                    name,
                    asked: false,
                    made: None,
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
        self.place.swept(path, result.is_ok(), context);
        None // a queue that others stand in is to stay, and one that we may not delete is the server's to sweep
    }

    fn on_close(&mut self, context: &mut RecipeContext) {
        self.place.on_close(context);
    }

    fn restart(&mut self, context: &mut RecipeContext) {
        self.place.restart();
        self.watched.clear();
        self.free = (0..self.paths.len()).collect();
        self.try_next(context);
    }

    fn progress(&self, _: Moment) -> Progress {
        let placed = self.place.leaving().is_some();
        match self.phase {
            Phase::Contending { asked, .. } => Progress::Pending {
                may_exist: asked || placed,
            },
            Phase::Looking { .. } => Progress::Pending { may_exist: true },
            Phase::Orphaned { .. } => Progress::Pending { may_exist: placed },
            Phase::Waiting if self.place.is_settled() => Progress::Waiting {
                holder: self.holder.clone(),
                may_exist: placed,
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

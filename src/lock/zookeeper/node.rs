//! zk-flock's lock: one ephemeral node, held by whoever made it. Who waits gets in line, and the
//! first there watches the node and makes it when it goes. With several names (`-n`) the first that
//! is free will do. Nodes and data are those of the Python original, so that both respect each
//! other's lock.

use super::layout::{self, APP_NODE_DATA, NodeData};
use super::parents::Parents;
use super::queue_entry::Place;
use super::{Claim, Desk, Options, Recipe, SessionLock, Stage, Verdict};
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
    fn try_next(&mut self, desk: &mut Desk) {
        if let Some(name) = self.free.pop_front() {
            desk.say(Event::Trying(self.names[name].clone()));
            return self.contend(name, desk);
        }
        if self.phase != Phase::Waiting {
            self.phase = Phase::Waiting;
            self.wait(desk);
        }
    }

    /// Gets in line; if it is our turn, watches all names.
    fn wait(&mut self, desk: &mut Desk) {
        if self.place.is_wanted() && desk.is_patient() {
            self.place.ask(desk);
        }
        if self.place.is_settled() {
            self.placed(desk);
        }
    }

    /// It is known what has become of our place. If it is our turn, all names are watched, which
    /// may be others' now, or free.
    fn placed(&mut self, desk: &mut Desk) {
        if self.place.is_our_turn() {
            (0..self.paths.len()).for_each(|name| self.watch(name, desk));
        }
        if !self.place.is_our_turn() || self.watched.len() == self.paths.len() {
            self.say_waiting(desk);
        }
    }

    /// Says that we wait, if that is not as it was.
    fn say_waiting(&mut self, desk: &mut Desk) {
        let told = Some((self.holder.clone(), self.place.ahead()));
        if self.told != told {
            desk.say_waiting(&self.holder, self.place.ahead());
            self.told = told;
        }
    }

    /// Makes the node and looks at it, in one write: one answer later a holder knows its token, and
    /// a waiter has its watch. Whoever has a place gives it up in the same step; whoever will
    /// ask for one first, need not be woken when the node goes.
    fn contend(&mut self, name: usize, desk: &mut Desk) {
        let asked = desk.session.takes_requests();
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
            desk.acl(),
            flag::EPHEMERAL,
        );
        desk.ask(match self.place.leaving() {
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
        let watch = self.place.is_our_turn() || desk.options.patience.is_none();
        desk.ask(Request::Data {
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
            _ => self.parents.answered(path, error),
        }
    }

    /// A place was to be exchanged for the lock node. If it is the place that was not to be had,
    /// that is as if another had won, and we go on without.
    fn exchanged(&mut self, path: &str, result: &Result<Answer, Code>, desk: &mut Desk) {
        let error = match *result {
            Ok(Answer::Undone { operation: 0, code }) => Some(code),
            Ok(Answer::Undone { code, .. }) | Err(code) => {
                self.place.refused(code, desk);
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
        desk: &mut Desk,
    ) {
        if self.place.answered(request, result, desk) && self.phase == Phase::Waiting {
            self.placed(desk);
        }
    }

    /// A lock node was looked at.
    fn looked(
        &mut self,
        name: usize,
        watch: bool,
        result: Result<Answer, Code>,
        desk: &mut Desk,
    ) -> Option<Verdict> {
        if watch && result.is_ok() {
            self.watched.insert(name);
        }
        match result {
            Ok(Answer::Data(data, stat)) => return self.seen(name, &data, &stat, desk),
            Ok(_) => {}
            Err(Code::NO_NODE) => return self.missing(name, desk),
            Err(Code::NO_AUTH) => desk.ask(Request::Exists {
                path: self.paths[name].clone(),
                watch: true,
            }),
            Err(code) => return Some(self.refused("read", name, code, desk)),
        }
        None
    }

    /// The node is there, with this data.
    fn seen(&mut self, name: usize, data: &[u8], stat: &Stat, desk: &mut Desk) -> Option<Verdict> {
        let ours = desk.is_us(stat.ephemeral_owner);
        let made = match self.phase {
            Phase::Contending {
                name: wanted,
                made: Some(made),
                ..
            } if wanted == name => made,
            Phase::Looking { name: wanted } if wanted == name => Ok(()),
            Phase::Waiting if self.holder.lock == self.paths[name] => {
                self.holder = self.holder_of(name, data, stat);
                self.say_waiting(desk);
                return None;
            }
            _ => return None,
        };
        match made {
            Ok(()) | Err(Code::NODE_EXISTS) if ours => {
                self.watch(name, desk);
                self.place.exchanged(desk);
                Some(Verdict::Ours(Claim {
                    path: self.paths[name].clone(),
                    token: stat.czxid,
                }))
            }
            Err(code) if !matches!(code, Code::NODE_EXISTS | Code::NO_NODE) => {
                Some(self.refused("create", name, code, desk))
            }
            _ => self.taken(name, data, stat, desk),
        }
    }

    /// The node is not there.
    fn missing(&mut self, name: usize, desk: &mut Desk) -> Option<Verdict> {
        match self.phase {
            Phase::Contending {
                name: wanted,
                made: Some(made),
                ..
            } if wanted == name => match made {
                Err(Code::NO_NODE) if self.parents.make(desk) => self.contend(name, desk),
                Err(Code::NO_NODE) => {
                    return Some(Verdict::Failed(
                        self.parents.failure(&self.paths[name], desk),
                    ));
                }
                Err(Code::NODE_EXISTS) | Ok(()) if self.races < RACES => {
                    self.races += 1;
                    self.contend(name, desk);
                }
                Err(Code::NODE_EXISTS) | Ok(()) => self.try_next(desk),
                Err(code) => return Some(self.refused("create", name, code, desk)),
            },
            Phase::Looking { name: wanted } | Phase::Orphaned { name: wanted, .. }
                if wanted == name =>
            {
                self.contend(name, desk);
            }
            Phase::Contending { name: wanted, .. } if wanted == name => {}
            Phase::Waiting | Phase::Contending { .. } => self.freed(name, desk),
            _ => {}
        }
        None
    }

    /// Another name may be free. Whoever waits and is not first leaves it to who is.
    fn freed(&mut self, name: usize, desk: &mut Desk) {
        let waiting = self.phase == Phase::Waiting;
        if waiting && !self.place.is_our_turn() {
            return;
        }
        if !self.free.contains(&name) {
            self.free.push_back(name);
        }
        if waiting {
            self.try_next(desk);
        }
    }

    fn watch(&self, name: usize, desk: &mut Desk) {
        if !self.watched.contains(&name) {
            desk.watch(&self.paths[name]);
        }
    }

    /// Somebody has the node: another, or an orphan of our own, left behind by a connection that
    /// was cut before it told us its session.
    fn taken(&mut self, name: usize, data: &[u8], stat: &Stat, desk: &mut Desk) -> Option<Verdict> {
        self.races = 0;
        if data == self.content.as_bytes() {
            let lock = format!("{ORPHAN} {} behind", self.paths[name]);
            self.holder = Holder {
                lock,
                host: None,
                ..self.holder_of(name, data, stat)
            };
            let until = desk.now + Self::allowance(desk.session.lease().timeout());
            let until = until.max(desk.options.patience.unwrap_or_default());
            desk.say(Event::Waiting {
                holder: self.holder.clone(),
                ahead: None,
            }); // also without -w
            self.watch(name, desk);
            self.phase = Phase::Orphaned { name, until };
            return None;
        }
        self.holder = self.holder_of(name, data, stat);
        self.owners[name] = stat.ephemeral_owner;
        if desk.is_patient() && self.owners.iter().all(|&owner| desk.is_outer(owner)) {
            return Some(super::circular(&self.paths[name], stat.ephemeral_owner));
        }
        self.try_next(desk);
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

    fn refused(&self, verb: &str, name: usize, code: Code, desk: &Desk) -> Verdict {
        Verdict::Failed(Failure::Refused {
            what: format!("{verb} {}", self.paths[name]),
            why: desk.explain(code),
        })
    }
}

impl Recipe for Node {
    fn opened(&mut self, desk: &mut Desk) {
        let known = desk.session.id().is_some();
        match self.phase {
            Phase::Contending { name, .. } if known || self.pipeline => self.contend(name, desk),
            Phase::Looking { name } if known => {
                // Reads are local to a server, which may be behind the one that took our create.
                desk.ask(Request::Sync {
                    path: self.paths[name].clone(),
                });
                desk.watch(&self.paths[name]);
            }
            Phase::Waiting if known => self.wait(desk),
            Phase::Orphaned { name, .. } if known => self.watch(name, desk),
            _ => {}
        }
        if known {
            self.place.opened(desk);
        }
        self.pipeline = false;
    }

    fn up(&mut self, desk: &mut Desk) {
        if let Phase::Contending {
            name, asked: false, ..
        } = self.phase
        {
            self.contend(name, desk);
        }
    }

    fn answered(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        desk: &mut Desk,
    ) -> Option<Verdict> {
        match request {
            Request::Create { path, .. } => self.created(path, result.err()),
            Request::Multi(operations) => match &operations[..] {
                [Operation::Create { path, .. }, Operation::Delete { .. }] => {
                    self.exchanged(path, &result, desk);
                }
                _ => self.answered_of_place(request, result, desk),
            },
            Request::Data { path, watch } | Request::Exists { path, watch } => {
                match self.named(path) {
                    Some(name) => return self.looked(name, *watch, result, desk),
                    None => self.answered_of_place(request, result, desk),
                }
            }
            _ => self.answered_of_place(request, result, desk),
        }
        None
    }

    fn changed(&mut self, change: Change, path: &str, desk: &mut Desk) {
        let Some(name) = self.named(path) else {
            return self.place.changed(change, path, desk);
        };
        self.watched.remove(&name);
        match (change, self.phase) {
            (Change::Deleted, Phase::Orphaned { name: wanted, .. }) if wanted == name => {
                self.contend(name, desk);
            }
            (Change::Deleted, Phase::Contending { name: wanted, .. }) if wanted == name => {}
            (Change::Deleted, Phase::Waiting | Phase::Contending { .. }) => self.freed(name, desk),
            (Change::Changed | Change::Created, Phase::Waiting | Phase::Orphaned { .. }) => {
                desk.watch(path);
            } // the watch is used up
            _ => {}
        }
    }

    fn down(&mut self, known: bool) {
        self.parents.down();
        self.place.down();
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

    fn put_away(
        &mut self,
        path: &str,
        result: Result<(), Code>,
        desk: &mut Desk,
    ) -> Option<String> {
        self.place.swept(path, result.is_ok(), desk);
        None // a queue that others stand in is to stay, and one that we may not delete is the server's to sweep
    }

    fn leave(&mut self, desk: &mut Desk) {
        self.place.leave(desk);
    }

    fn restart(&mut self, desk: &mut Desk) {
        self.place.restart();
        self.watched.clear();
        self.free = (0..self.paths.len()).collect();
        self.try_next(desk);
    }

    fn stage(&self, _: Moment) -> Stage {
        let placed = self.place.leaving().is_some();
        match self.phase {
            Phase::Contending { asked, .. } => Stage::Asking {
                made: asked || placed,
            },
            Phase::Looking { .. } => Stage::Asking { made: true },
            Phase::Orphaned { .. } => Stage::Asking { made: placed },
            Phase::Waiting if self.place.is_settled() => Stage::Waiting {
                holder: self.holder.clone(),
                made: placed,
            },
            Phase::Waiting => Stage::Asking { made: true },
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

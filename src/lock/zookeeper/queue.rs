//! kazoo's Lock: sequential ephemeral nodes below the lock's own, the lowest of which holds it;
//! each contender watches the one before it, so that a hand-over wakes one. Nodes are laid out as
//! kazoo lays them out, old and new, so that all exclude each other.

use super::layout::{self, Contender};
use super::parents::Parents;
use super::{Claim, Desk, Recipe, Stage, Verdict};
use crate::lock::{Failure, Holder};
use crate::moment::Moment;
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::record::Stat;
use crate::zookeeper::request::{Answer, Request};
use crate::zookeeper::session::Change;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// A contender of ours is to be made. `asked`: the create is on its way.
    Joining { asked: bool },
    /// A create was sent and its reply lost: looking whether a contender of ours is there.
    /// `unsure`: so many that may be ours are looked at.
    Looking { unsure: usize },
    /// Our contender is there; who is before it is being asked.
    Ranking,
    /// This one is before us, and watched. `seen`: it is known who holds the lock.
    Queued { ahead: String, seen: bool },
    /// Nobody is before us; our node is looked at once more, for its token and to watch it.
    First,
}

/// The recipe.
#[derive(Debug)]
pub struct Queue {
    /// The lock's node, which contenders stand under.
    path: String,
    /// Leads the name of our contender and of no other: 32 hex digits.
    mark: String,
    /// `host:pid`, to whoever reads our contender.
    content: String,
    /// Whether the node must not be one of a semaphore.
    exclusive: bool,
    parents: Parents,
    phase: Phase,
    /// Name of our contender, once it is known.
    own: Option<String>,
    /// The lowest contender, as far as it was seen.
    holder: Holder,
    /// That we wait was said.
    told: bool,
    /// A create may go out before its session is known: only in the very first write.
    pipeline: bool,
}

impl Queue {
    /// A queue below the node at `path`.
    pub fn new(path: String, mark: String, content: String, exclusive: bool) -> Queue {
        Queue {
            mark,
            content,
            exclusive,
            parents: Parents::new(path.clone(), b""),
            phase: Phase::Joining { asked: false },
            own: None,
            holder: Holder {
                lock: path.clone(),
                host: None,
                since: None,
                session: None,
            },
            path,
            told: false,
            pipeline: true,
        }
    }

    /// Path of our contender, if there is one.
    pub(super) fn contender(&self) -> Option<String> {
        self.own.as_ref().map(|own| self.child(own))
    }

    fn child(&self, name: &str) -> String {
        layout::child(&self.path, name)
    }

    /// Name of the child at this path, if it is one of ours to know.
    fn name<'a>(&self, path: &'a str) -> Option<&'a str> {
        layout::child_name(&self.path, path)
    }

    /// Makes our contender and asks who else is there, in one write.
    fn join(&mut self, desk: &mut Desk) {
        let asked = desk.session.takes_requests();
        self.phase = Phase::Joining { asked };
        self.own = None;
        if asked {
            let path = self.child(&Contender::prefix(&self.mark));
            let data = self.content.clone().into_bytes();
            desk.ask(Request::Create {
                path,
                data,
                acl: desk.acl(),
                flags: flag::EPHEMERAL | flag::SEQUENCE,
            });
            if self.exclusive {
                desk.ask(Request::Data {
                    path: self.path.clone(),
                    watch: false,
                });
            }
            self.ask_children(desk);
        }
    }

    fn ask_children(&self, desk: &mut Desk) {
        desk.ask(Request::Children {
            path: self.path.clone(),
            watch: false,
        });
    }

    fn rank_anew(&mut self, desk: &mut Desk) {
        self.phase = Phase::Ranking;
        self.ask_children(desk);
    }

    fn created(&mut self, result: Result<Answer, Code>, desk: &mut Desk) -> Option<Verdict> {
        match result {
            Ok(Answer::Created(path)) => {
                self.own = self.name(&path).map(str::to_string);
                self.phase = Phase::Ranking;
                None
            }
            Err(Code::NO_NODE) if self.parents.make(desk) => {
                self.join(desk);
                None
            }
            Err(Code::NO_NODE) => Some(Verdict::Failed(self.parents.failure(&self.path, desk))),
            Err(code) => Some(Verdict::Failed(Failure::Refused {
                what: format!("create a node below {}", self.path),
                why: desk.explain(code),
            })),
            Ok(_) => None,
        }
    }

    fn listed(&mut self, children: &[String], desk: &mut Desk) -> Option<Verdict> {
        match self.phase {
            Phase::Looking { .. } => self.look_for_ours(children, desk),
            Phase::Ranking => return self.rank(children, desk),
            _ => {}
        }
        None
    }

    /// Any child with our mark may be the contender whose making we never heard of, or an orphan of
    /// an earlier session of ours.
    fn look_for_ours(&mut self, children: &[String], desk: &mut Desk) {
        let ours: Vec<&String> = children
            .iter()
            .filter(|name| layout::has_mark(name, &self.mark))
            .collect();
        if ours.is_empty() {
            return self.join(desk);
        }
        self.phase = Phase::Looking { unsure: ours.len() };
        for name in ours {
            desk.ask(Request::Data {
                path: self.child(name),
                watch: false,
            });
        }
    }

    fn rank(&mut self, children: &[String], desk: &mut Desk) -> Option<Verdict> {
        let Some(own) = self.own.clone().filter(|own| children.contains(own)) else {
            self.join(desk); // somebody has deleted it
            return None;
        };
        for orphan in children
            .iter()
            .filter(|name| layout::has_mark(name, &self.mark) && **name != own)
        {
            desk.ask(Request::Delete {
                path: self.child(orphan),
            });
        }
        let contender = Contender::parse(&own)?;
        let sequence = contender.sequence;
        if !contender.is_safe() {
            let why = format!(
                "{}: its sequence numbers are used up ({sequence}): delete this node while nobody uses the lock",
                self.path
            );
            return Some(Verdict::Failed(Failure::IncompatibleLock(why)));
        }
        let mut before: Vec<(&str, &String)> = children
            .iter()
            .filter_map(|name| Some((Contender::parse(name)?.sequence, name)))
            .filter(|&(other, _)| other < sequence)
            .collect();
        before.sort_unstable();
        let (Some((_, first)), Some((_, last))) = (before.first(), before.last()) else {
            self.phase = Phase::First;
            desk.watch(&self.child(&own));
            return None;
        };
        if first != last {
            desk.ask(Request::Data {
                path: self.child(first),
                watch: false,
            }); // answered first: it is the holder
        }
        desk.watch(&self.child(last));
        self.phase = Phase::Queued {
            ahead: (*last).clone(),
            seen: false,
        };
        None
    }

    /// A child is there.
    fn seen(&mut self, name: &str, data: &[u8], stat: &Stat, desk: &mut Desk) -> Option<Verdict> {
        let ours = desk.is_us(stat.ephemeral_owner);
        match &mut self.phase {
            Phase::Looking { .. } if ours => {
                self.own = Some(name.to_string());
                self.rank_anew(desk);
            }
            Phase::Looking { unsure } => {
                *unsure = unsure.saturating_sub(1);
                let none_left = *unsure == 0;
                desk.ask(Request::Delete {
                    path: self.child(name),
                });
                if none_left {
                    self.join(desk);
                }
            }
            Phase::First if ours && self.own.as_deref() == Some(name) => {
                return Some(Verdict::Ours(Claim {
                    path: self.child(name),
                    token: stat.czxid,
                }));
            }
            Phase::Queued {
                seen: seen @ false, ..
            } => {
                *seen = true;
                self.holder = Holder {
                    lock: self.path.clone(),
                    host: layout::contender_text(data.to_vec()),
                    since: Some(stat.ctime),
                    session: Some(stat.ephemeral_owner),
                };
                if self.exclusive && desk.is_patient() && desk.is_outer(stat.ephemeral_owner) {
                    return Some(super::circular(&self.path, stat.ephemeral_owner));
                }
                // Before a semaphore, the first in the queue holds nothing: its own recipe says who
                // does.
                if self.exclusive && !std::mem::replace(&mut self.told, true) {
                    desk.say_waiting(&self.holder, None);
                }
            }
            _ => {}
        }
        None
    }

    /// A child is gone.
    fn missing(&mut self, name: &str, desk: &mut Desk) {
        match &mut self.phase {
            Phase::Looking { unsure } => {
                *unsure = unsure.saturating_sub(1);
                if *unsure == 0 {
                    self.join(desk);
                }
            }
            Phase::Queued { ahead, .. } if ahead == name => self.rank_anew(desk),
            Phase::First if self.own.as_deref() == Some(name) => self.join(desk),
            _ => {}
        }
    }

    /// What the lock's own node holds: nothing that matters, unless it is the number of a
    /// semaphore.
    fn check_number(&self, data: &[u8]) -> Option<Verdict> {
        let permits = layout::permits(data).filter(|&permits| permits > 1)?;
        let why = format!(
            "{} is a semaphore of {permits}, not a lock of 1: use --concurrent {permits}, or another --lockid",
            self.path
        );
        Some(Verdict::Failed(Failure::IncompatibleLock(why)))
    }
}

impl Recipe for Queue {
    fn opened(&mut self, desk: &mut Desk) {
        let known = desk.session.id().is_some();
        match self.phase {
            Phase::Joining { .. } if known || self.pipeline => self.join(desk),
            Phase::Looking { .. } if known => {
                // Reads are local to a server, which may be behind the one that took our create.
                desk.ask(Request::Sync {
                    path: self.path.clone(),
                });
                self.ask_children(desk);
            }
            // Who is before us is known: the whole queue is listed only if that one is gone. After
            // an outage all waiters ask at once.
            Phase::Queued {
                ref ahead,
                seen: true,
            } if known => desk.ask(Request::Exists {
                path: self.child(ahead),
                watch: true,
            }),
            Phase::Ranking | Phase::Queued { .. } | Phase::First if known => self.rank_anew(desk),
            _ => {}
        }
        self.pipeline = false;
    }

    fn up(&mut self, desk: &mut Desk) {
        if let Phase::Joining { asked: false } = self.phase {
            self.join(desk);
        }
    }

    fn answered(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        desk: &mut Desk,
    ) -> Option<Verdict> {
        match (request, result) {
            (Request::Create { flags, .. }, result) if flags & flag::SEQUENCE != 0 => {
                return self.created(result, desk);
            }
            (Request::Create { path, .. }, result) => self.parents.answered(path, result.err()),
            (Request::Children { path, .. }, Ok(Answer::Children(children)))
                if *path == self.path =>
            {
                return self.listed(&children, desk);
            }
            (Request::Data { path, .. }, Err(_)) if *path == self.path => {} /* what cannot be
            * read is no
             * number */
            (Request::Data { path, .. }, Err(Code::NO_AUTH)) if self.name(path).is_some() => {
                desk.ask(Request::Exists {
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
                return Some(Verdict::Failed(Failure::Refused {
                    what: format!("read {path}"),
                    why: desk.explain(code),
                }));
            }
            (Request::Children { path, .. }, Err(Code::NO_NODE))
                if *path == self.path && !matches!(self.phase, Phase::Joining { .. }) =>
            {
                self.join(desk);
            }
            (Request::Data { path, .. }, Ok(Answer::Data(data, _))) if *path == self.path => {
                return self.check_number(&data);
            }
            (
                Request::Data { path, .. } | Request::Exists { path, .. },
                Ok(Answer::Data(data, stat)),
            ) => {
                let name = self.name(path)?.to_string();
                return self.seen(&name, &data, &stat, desk);
            }
            (Request::Data { path, .. } | Request::Exists { path, .. }, Err(Code::NO_NODE)) => {
                let name = self.name(path)?.to_string();
                self.missing(&name, desk);
            }
            _ => {}
        }
        None
    }

    fn changed(&mut self, change: Change, path: &str, desk: &mut Desk) {
        let Some(name) = self.name(path) else { return };
        match (change, &self.phase) {
            (Change::Deleted, Phase::Queued { ahead, .. }) if ahead == name => self.rank_anew(desk),
            (Change::Changed, Phase::Queued { ahead, .. }) if ahead == name => desk.watch(path), /* the watch is used up */
            _ => {}
        }
    }

    fn down(&mut self, known: bool) {
        self.parents.down();
        match self.phase {
            Phase::Joining { asked: true } if known => self.phase = Phase::Looking { unsure: 0 },
            // Unless the session is known, what was asked for can only be an orphan now.
            Phase::Joining { .. } => self.phase = Phase::Joining { asked: false },
            _ => {}
        }
    }

    fn restart(&mut self, desk: &mut Desk) {
        self.join(desk);
    }

    fn stage(&self, _: Moment) -> Stage {
        match self.phase {
            Phase::Joining { asked: made } => Stage::Asking { made },
            Phase::Queued { seen: true, .. } => Stage::Waiting {
                holder: self.holder.clone(),
                made: true,
            },
            Phase::Looking { .. } | Phase::Ranking | Phase::Queued { .. } | Phase::First => {
                Stage::Asking { made: true }
            }
        }
    }
}

#[cfg(test)]
mod tests;

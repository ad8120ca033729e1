//! Asks the holder of a node in ZooKeeper to release its lock, and waits until it has. The request
//! is a node of this client, next to the lock, with the token of the holder as its name. If the
//! holder does not answer, its node may be deleted. Sans-I/O.

use super::{Newcomer, Outcome};
use crate::lock::Failure;
use crate::lock::zookeeper::layout::{self, BreakData};
use crate::moment::Moment;
use crate::oneshot::zookeeper::{Context, Task};
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::record::{Acl, Stat};
use crate::zookeeper::request::{Answer, Operation, Request};
use crate::zookeeper::session::Change;
use std::time::Duration;

/// A holder looks for requests from its first heartbeat on and after each reconnect, a tenth of its
/// session timeout later at most.
const HEARTBEATS_PER_TIMEOUT: u32 = 10;

/// The time for the holder's reply, and for a server that is behind.
const REPLY_TIME: Duration = Duration::from_secs(2);

/// The shortest time that a holder gets to answer. Its session timeout is not known, and by default
/// servers grant at most 40 s.
const MIN_ANSWER_TIMEOUT: Duration = Duration::from_secs(6);

/// How long a holder with this session timeout may take to answer.
fn answer_timeout(session_timeout: Duration) -> Duration {
    MIN_ANSWER_TIMEOUT.max(session_timeout / HEARTBEATS_PER_TIMEOUT + REPLY_TIME)
}

/// How often the request is made again that another client deletes, or whose container the server
/// deletes at that moment.
const TRIES: u32 = 20;

/// The fewest changes below a node after which a child may have been deleted, created again by
/// another client, and deleted by this one.
const CHANGES_OF_A_SWAP: i32 = 3;

/// Which holder to ask, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The node by which it holds the lock.
    pub node: String,
    /// Its token: the transaction that created the node.
    pub token: i64,
    /// The container of the requests.
    pub breaks: String,
    /// The user and process that ask, for the log of the holder.
    pub asker: String,
    /// The ACL of the container.
    pub container_acl: Vec<Acl>,
    /// The ACL of the request: the holder must be able to read it and to write its answer.
    pub request_acl: Vec<Acl>,
    /// The session timeout that this client requests, as a holder with the same config does.
    pub timeout: Duration,
    /// No other client ever makes a node of this name (kazoo's contenders and leases).
    pub is_unique: bool,
    /// Delete the node if the holder does not answer.
    pub force: bool,
    /// Until when to wait.
    pub until: Moment,
}

/// How far the request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// It is being made.
    Asking,
    /// It exists since then.
    Asked { at: Moment },
    /// The holder should have answered. The request is read once more, at a server that is not
    /// behind.
    Checking,
    /// The holder has answered: its time between TERM and KILL.
    Answered { kill_after: Duration },
    /// The holder has not answered, and its node is being deleted.
    Deleting(Deletion),
}

/// What was seen around the deletion of a node that another client may make again.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Deletion {
    /// The token of the node, just before.
    token: Option<i64>,
    /// How often the children of its parent have changed: before, and after.
    changes: [Option<i32>; 2],
    /// Whether this client deleted the node. `None`: the server has answered no delete.
    deleted: Option<bool>,
    /// The reply to a delete may have been lost with a connection.
    is_uncertain: bool,
    /// The connection was lost. The delete is sent again if the node is still that of the target.
    must_resend: bool,
}

/// The task.
#[derive(Debug)]
pub struct Eviction {
    target: Target,
    phase: Phase,
    tries: u32,
    /// A server has refused to create a container.
    refuses_containers: bool,
    /// A server has shown that the request exists, and its data has not been read since.
    is_unread: bool,
    /// How long the holder may take to answer.
    answer_timeout: Duration,
    /// When the lock was acquired and when the request was made, in ms of the leader's clock, and
    /// when the latter was by this host's.
    acquired: i64,
    asked: Option<(i64, Moment)>,
}

impl Eviction {
    /// Asks this holder.
    pub fn new(target: Target) -> Eviction {
        Eviction {
            answer_timeout: answer_timeout(target.timeout),
            target,
            phase: Phase::Asking,
            tries: 0,
            refuses_containers: false,
            is_unread: false,
            acquired: 0,
            asked: None,
        }
    }

    fn request(&self) -> String {
        layout::child(&self.target.breaks, &layout::break_name(self.target.token))
    }

    /// Watches the lock, whose node this client may not be allowed to read.
    fn watch_lock(&self, context: &mut Context) {
        context.send(Request::Exists {
            path: self.target.node.clone(),
            watch: true,
        });
    }

    fn watch_request(&self, context: &mut Context) {
        context.send(Request::Data {
            path: self.request(),
            watch: true,
        });
    }

    /// Makes the request, and its container if that is missing.
    fn ask(&mut self, with_container: bool, context: &mut Context) -> Option<Failure> {
        self.tries += 1;
        self.is_unread = false;
        if self.tries > TRIES {
            return Some(Failure::Refused {
                what: format!("create {}", self.request()),
                why: format!("it was deleted {TRIES} times"),
            });
        }
        let knows_containers = !self.refuses_containers && context.session.takes_containers();
        let container = with_container.then(|| {
            Operation::create_empty(
                knows_containers,
                self.target.breaks.clone(),
                self.target.container_acl.clone(),
            )
        });
        let create = Operation::Create {
            path: self.request(),
            data: self.target.asker.clone().into_bytes(),
            acl: self.target.request_acl.clone(),
            flags: flag::EPHEMERAL,
        };
        context.send(Request::Multi(
            container.into_iter().chain([create]).collect(),
        ));
        self.watch_request(context);
        None
    }

    fn on_asked(
        &mut self,
        operations: usize,
        result: &Result<Answer, Code>,
        context: &mut Context,
    ) -> Option<Failure> {
        let (Ok(Answer::Undone { code, .. }) | Err(code)) = *result else {
            self.is_unread = true; // the data is answered next
            return None;
        };
        match code {
            // The node exists already: the container, or a request of another client.
            Code::NODE_EXISTS if operations > 1 => self.ask(false, context),
            Code::NODE_EXISTS => {
                self.is_unread = true;
                None
            }
            Code::NO_NODE if operations == 1 => self.ask(true, context),
            code if operations > 1 && code.is_unknown_operation() && !self.refuses_containers => {
                self.refuses_containers = true;
                self.ask(true, context)
            }
            code => Some(Failure::Refused {
                what: format!("create {}", self.request()),
                why: context.explain(code),
            }),
        }
    }

    /// The request was read.
    fn on_request(&mut self, data: &[u8], stat: &Stat, context: &mut Context) -> Option<Outcome> {
        self.is_unread = false;
        if context.session.id() == Some(stat.ephemeral_owner) && self.asked.is_none() {
            self.asked = Some((stat.ctime, context.now));
        }
        match (BreakData::parse(data).kill_after, self.phase) {
            (_, Phase::Deleting(_)) => {}
            (Some(kill_after), _) => self.phase = Phase::Answered { kill_after },
            (None, Phase::Asking) => self.phase = Phase::Asked { at: context.now },
            (None, Phase::Checking) if !self.target.force => return Some(Outcome::Silent),
            (None, Phase::Checking) => self.delete(context),
            (None, _) => {}
        }
        None
    }

    /// The request does not exist any more.
    fn on_request_gone(&mut self, context: &mut Context) -> Option<Failure> {
        match self.phase {
            Phase::Deleting(_) => return None,
            Phase::Answered { .. } => {}
            _ => self.phase = Phase::Asking, // the holder has its time again
        }
        self.ask(false, context)
    }

    /// Reads the request at a server that is not behind.
    fn check(&mut self, context: &mut Context) {
        self.phase = Phase::Checking;
        context.send(Request::Sync {
            path: self.target.node.clone(),
        });
        self.watch_request(context);
    }

    /// The node of the lock was read; `None`: it does not exist.
    fn on_lock(&mut self, stat: Option<&Stat>, context: &mut Context) -> Option<Outcome> {
        if let Some(stat) = stat.filter(|stat| stat.czxid == self.target.token) {
            self.acquired = stat.ctime;
            if matches!(self.phase, Phase::Deleting(deletion) if deletion.must_resend) {
                self.delete(context);
            }
            return None;
        }
        let now = context.now;
        Some(match self.phase {
            Phase::Asking => Outcome::Left,
            Phase::Answered { .. } => Outcome::Evicted {
                held: self.held(now),
            },
            Phase::Asked { .. } | Phase::Checking => Outcome::Unanswered,
            Phase::Deleting(deletion)
                if deletion.deleted == Some(true) || deletion.is_uncertain =>
            {
                Outcome::Deleted(self.newcomer(deletion))
            }
            // This read was sent before the delete, which may hit a newcomer. Another one follows it.
            Phase::Deleting(deletion) if deletion.deleted.is_none() => return None,
            Phase::Deleting(_) => Outcome::Unanswered,
        })
    }

    /// For how long the lock was held, by the leader's clock.
    fn held(&self, now: Moment) -> Option<Duration> {
        let (asked, at) = self.asked?;
        let before = u64::try_from(asked - self.acquired).unwrap_or(0);
        Some(Duration::from_millis(before) + now.since(at))
    }

    /// Deletes the node. If another client may make a node of that name, it is read just before and
    /// after, in one write, together with the number of changes next to it.
    fn delete(&mut self, context: &mut Context) {
        let is_uncertain = matches!(self.phase, Phase::Deleting(it) if it.is_uncertain);
        self.phase = Phase::Deleting(Deletion {
            is_uncertain,
            ..Deletion::default()
        });
        let node = || self.target.node.clone();
        let (read, siblings) = (
            Request::Exists {
                path: node(),
                watch: false,
            },
            Request::Exists {
                path: layout::parent(&self.target.node).to_owned(),
                watch: false,
            },
        );
        if !self.target.is_unique {
            context.send(read);
            context.send(siblings.clone());
        }
        context.send(Request::Delete { path: node() });
        if !self.target.is_unique {
            context.send(siblings);
        }
        self.watch_lock(context);
    }

    /// Whether another client than the target has lost its lock.
    fn newcomer(&self, deletion: Deletion) -> Newcomer {
        if self.target.is_unique {
            return Newcomer::NotHit;
        }
        if deletion.deleted != Some(true) {
            return Newcomer::Possible;
        }
        match (deletion.token, deletion.changes) {
            // No token: the node did not exist just before.
            (token, _) if token != Some(self.target.token) => Newcomer::Hit,
            (_, [Some(before), Some(after)]) if after.wrapping_sub(before) < CHANGES_OF_A_SWAP => {
                Newcomer::NotHit
            }
            _ => Newcomer::Possible,
        }
    }

    /// A reply while the node is being deleted.
    fn on_deletion(&mut self, request: &Request, result: &Result<Answer, Code>) {
        let Phase::Deleting(deletion) = &mut self.phase else {
            return;
        };
        match (request, result) {
            (Request::Exists { path, watch: false }, Ok(Answer::Data(_, stat))) => {
                if *path == self.target.node {
                    deletion.token = Some(stat.czxid);
                } else if deletion.changes[0].is_none() {
                    deletion.changes[0] = Some(stat.cversion);
                } else {
                    deletion.changes[1] = Some(stat.cversion);
                }
            }
            (Request::Delete { .. }, result) => {
                let before = deletion.deleted == Some(true);
                deletion.deleted = Some(before || result.is_ok());
            }
            _ => {}
        }
    }
}

impl Task for Eviction {
    type Report = Outcome;

    fn start(&mut self, resumed: bool, context: &mut Context) {
        let granted = answer_timeout(context.session.lease().timeout());
        self.answer_timeout = self.answer_timeout.max(granted);
        // This server may be behind the one that showed the holder.
        context.send(Request::Sync {
            path: self.target.node.clone(),
        });
        if resumed && matches!(self.phase, Phase::Asked { .. } | Phase::Checking) {
            self.watch_request(context); // before the lock: the holder may have done both
        }
        self.watch_lock(context);
        match self.phase {
            Phase::Deleting(deletion) => {
                // Whether the node was deleted by the request whose reply is lost cannot be known.
                self.phase = Phase::Deleting(Deletion {
                    is_uncertain: true,
                    must_resend: deletion.deleted != Some(true),
                    ..deletion
                });
            }
            Phase::Asked { .. } | Phase::Checking if resumed => {}
            Phase::Answered { .. } if resumed => self.watch_request(context),
            Phase::Answered { .. } => {
                self.ask(false, context);
            }
            _ => {
                self.tries = 0;
                self.phase = Phase::Asking;
                self.ask(false, context);
            }
        }
    }

    fn on_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        context: &mut Context,
    ) -> Option<Result<Outcome, Failure>> {
        self.on_deletion(request, &result);
        let failure = match (request, result) {
            (Request::Exists { path, watch: true }, result) if *path == self.target.node => {
                match result {
                    Ok(Answer::Data(_, stat)) => {
                        return self.on_lock(Some(&stat), context).map(Ok);
                    }
                    Err(Code::NO_NODE) => return self.on_lock(None, context).map(Ok),
                    Ok(_) => None,
                    Err(code) => Some(Failure::Refused {
                        what: format!("read {path}"),
                        why: context.explain(code),
                    }),
                }
            }
            (Request::Multi(operations), result) => {
                self.on_asked(operations.len(), &result, context)
            }
            (Request::Data { .. }, Ok(Answer::Data(data, stat))) => {
                return self.on_request(&data, &stat, context).map(Ok);
            }
            // Another client's request was deleted, or this one's by an operator.
            (Request::Data { .. }, Err(Code::NO_NODE)) => {
                // Otherwise the reply to the create, which comes first, has sent another one.
                if self.phase == Phase::Asking && !self.is_unread {
                    return None;
                }
                self.on_request_gone(context)
            }
            // Another client's request, which this one may not read.
            (Request::Data { path, .. }, Err(code)) => Some(Failure::Refused {
                what: format!("read {path}"),
                why: context.explain(code),
            }),
            (Request::Delete { path }, Err(code)) if code != Code::NO_NODE => {
                Some(Failure::Refused {
                    what: format!("delete {path}"),
                    why: context.explain(code),
                })
            }
            _ => None,
        };
        failure.map(Err)
    }

    fn on_watch(&mut self, _: Change, path: &str, context: &mut Context) {
        if path == self.target.node {
            self.watch_lock(context); // a watch fires once
        } else if !matches!(self.phase, Phase::Deleting(_)) {
            self.watch_request(context);
        }
    }

    fn on_tick(&mut self, context: &mut Context) -> Option<Result<Outcome, Failure>> {
        match self.phase {
            Phase::Asked { at } if context.now >= at + self.answer_timeout => {
                // Without a connection, the next one brings the answer, if there is one.
                self.check(context);
                None
            }
            _ if context.now < self.target.until => None,
            Phase::Answered { kill_after } => Some(Ok(Outcome::StillHeld {
                kill_after: Some(kill_after),
            })),
            Phase::Asked { .. } => Some(Ok(Outcome::TooShort {
                answer: self.answer_timeout,
            })),
            Phase::Asking | Phase::Checking => Some(Ok(Outcome::Unknown)),
            Phase::Deleting(_) => Some(Ok(Outcome::DeletionUnknown)),
        }
    }

    fn on_unreachable(&mut self) -> Option<Outcome> {
        match self.phase {
            Phase::Deleting(_) => Some(Outcome::DeletionUnknown),
            _ => None,
        }
    }

    fn wake(&self) -> Moment {
        match self.phase {
            Phase::Asked { at } => self.target.until.min(at + self.answer_timeout),
            _ => self.target.until,
        }
    }
}

#[cfg(test)]
mod tests;

//! Checks one server of ZooKeeper. What a run would make is tried in a multi whose last operation
//! fails: then the server makes nothing of it, and its answer tells which operation was refused.

use super::{Found, Queue};
use crate::lock::Failure;
use crate::lock::zookeeper::layout;
use crate::moment::Moment;
use crate::oneshot::zookeeper::{Context, Task};
use crate::plan::CHECK;
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::record::Acl;
use crate::zookeeper::request::{Answer, Operation, Request};

/// The node above all others, which always exists.
const TOP: &str = "/";

/// What a run would use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The node above the locks.
    pub root: String,
    /// It is that of an application of zk-flock, whose waiters have a queue in container nodes.
    pub app: bool,
    /// The ACL of what a run makes.
    pub acl: Vec<Acl>,
    /// The client has credentials.
    pub authenticates: bool,
}

/// The task.
#[derive(Debug)]
pub struct Probe {
    target: Target,
    sent: Moment,
    found: Found,
    /// The root and the nodes above it that do not exist, from the lowest.
    missing: Vec<String>,
    /// The server knows container nodes, as far as it is known.
    containers: bool,
    /// The last request was sent. A server that does not know it closes the connection.
    asked_last: bool,
    done: bool,
}

impl Probe {
    /// Checks a server for this.
    pub fn new(target: Target) -> Probe {
        let containers = target.app;
        Probe {
            target,
            sent: Moment::default(),
            found: Found::default(),
            missing: Vec::new(),
            containers,
            asked_last: false,
            done: false,
        }
    }

    fn exists(path: &str) -> Request {
        Request::Exists {
            path: if path.is_empty() { TOP } else { path }.into(),
            watch: false,
        }
    }

    /// All that the first run makes, and an operation that fails.
    fn rehearsal(&self) -> Request {
        let acl = &self.target.acl;
        let create = |path: String, flags| Operation::Create {
            path,
            data: Vec::new(),
            acl: acl.clone(),
            flags,
        };
        let tried = layout::child(&self.target.root, CHECK);
        let above = self.missing.iter().rev().cloned();
        let mut operations: Vec<_> = above.map(|path| create(path, flag::PERSISTENT)).collect();
        operations.push(Operation::create_empty(
            self.containers,
            tried.clone(),
            acl.clone(),
        ));
        let lock = layout::child(&tried, "lock");
        operations.push(create(lock, flag::EPHEMERAL | flag::SEQUENCE));
        operations.push(Operation::Check {
            path: layout::child(&tried, "none"),
        });
        Request::Multi(operations)
    }

    /// What became of the rehearsal.
    fn judge(
        &mut self,
        result: &Result<Answer, Code>,
        context: &mut Context,
    ) -> Option<Result<Found, Failure>> {
        let last = self.missing.len() + 2;
        match *result {
            Ok(Answer::Undone { operation, .. }) if operation == last => {
                self.found.queue = self.target.app.then_some(if self.containers {
                    Queue::Containers
                } else {
                    Queue::Persistent
                });
                self.identify(context)
            }
            Err(code) | Ok(Answer::Undone { code, .. })
                if self.containers && code.is_unknown_operation() =>
            {
                self.containers = false;
                context.send(self.rehearsal());
                None
            }
            Ok(Answer::Undone { code, .. }) | Err(code) => Some(Err(Failure::Refused {
                what: format!("create nodes below {}", self.target.root),
                why: context.explain(code),
            })),
            Ok(_) => Some(Ok(self.found.clone())),
        }
    }

    /// Asks as whom the server knows this client, if it has credentials. Servers before 3.7 do not
    /// know the request, so it is the last one. ClickHouse Keeper does not know it either.
    fn identify(&mut self, context: &mut Context) -> Option<Result<Found, Failure>> {
        if self.target.authenticates && context.session.is_keeper() {
            return Some(Ok(self.found.clone()));
        }
        if self.target.authenticates {
            self.asked_last = true;
            context.send(Request::WhoAmI);
            return None;
        }
        self.found.identities = Some(Vec::new());
        Some(Ok(self.found.clone()))
    }
}

impl Task for Probe {
    type Report = Found;

    fn start(&mut self, _: bool, context: &mut Context) {
        if self.asked_last {
            self.done = true;
            return;
        }
        self.missing.clear();
        self.found.timeout = Some(context.session.lease().timeout());
        self.found.is_keeper = context.session.is_keeper();
        self.containers = self.target.app && context.session.takes_containers();
        self.sent = context.now;
        context.send(Probe::exists(&self.target.root));
    }

    fn on_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        context: &mut Context,
    ) -> Option<Result<Found, Failure>> {
        match (request, result) {
            (Request::Exists { path, .. }, result @ (Ok(_) | Err(Code::NO_NODE))) => {
                if self.missing.is_empty() {
                    self.found.latency = context.now.since(self.sent);
                }
                if context.session.is_read_only() {
                    return Some(Err(Failure::Unreachable(
                        "it is read-only: it has lost its quorum".into(),
                    )));
                }
                if result.is_ok() || path == TOP {
                    context.send(self.rehearsal());
                } else {
                    self.missing.push(path.clone());
                    context.send(Probe::exists(layout::parent(path)));
                }
                None
            }
            (Request::Multi(_), result) => self.judge(&result, context),
            (Request::WhoAmI, result) => {
                self.found.identities = match result {
                    Ok(Answer::Identities(all)) => Some(all),
                    _ => None,
                };
                Some(Ok(self.found.clone()))
            }
            (_, Err(code)) => Some(Err(Failure::Refused {
                what: format!("read {}", self.target.root),
                why: context.explain(code),
            })),
            (_, Ok(_)) => None,
        }
    }

    fn on_tick(&mut self, _: &mut Context) -> Option<Result<Found, Failure>> {
        self.done.then(|| Ok(self.found.clone()))
    }

    fn wake(&self) -> Moment {
        if self.done {
            Moment::default()
        } else {
            Moment::NEVER
        }
    }
}

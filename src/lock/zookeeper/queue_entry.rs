//! The entry of this run in the queue of a lock: a sequential ephemeral node in
//! `/APP_ID/.queue/NAME`. Each waiter watches the entry before its own, and only the first acquires
//! the lock.
//!
//! The queue decides only the order; the lock's own node excludes. So a waiter that can have no
//! entry (missing permission) behaves like the first, and two holders stay impossible.
//!
//! The nodes above the entries are containers, which the servers delete if waiters leave them empty.
//! On servers without containers (ZooKeeper before 3.5.3, ClickHouse Keeper) they are persistent
//! nodes. Waiters delete both kinds when they leave, so only a waiter that is killed leaves an empty
//! node, and the next one deletes it.

use super::layout::{self, Waiter};
use super::recipe::RecipeContext;
use crate::lock::{Event, QueuePosition};
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::request::{Answer, Operation, Request};
use crate::zookeeper::session::Change;

/// How often an entry is requested. Four times are enough where many clients create a queue at
/// once. More are needed only while waiters come and go at that moment, or if another client
/// deletes the nodes.
const TRIES: u32 = 20;

/// A server that closes the connection this often without an answer to the create of a container
/// does not know containers. Once may be chance.
const MAX_UNANSWERED_CONTAINERS: u32 = 2;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// There is no entry, and none is requested.
    Absent,
    /// The entry is being created together with this many of the nodes above it, lowest first.
    Requested { above: usize },
    /// An entry of this session may exist; the queue is being listed.
    Listing,
    /// This many waiters are before this one. The last of them has this path and is watched.
    Behind { ahead: usize, next: String },
    /// No waiter is before this one.
    First,
    /// This run does without an entry.
    Unavailable,
}

/// The entry.
#[derive(Debug)]
pub(super) struct QueueEntry {
    /// The nodes above the entry: that of all queues of the application, and the queue of the
    /// lock.
    queues: String,
    queue: String,
    /// Data of the entry: host name and uuid.
    data: String,
    phase: Phase,
    /// Its path, if it is known.
    own: Option<String>,
    /// The queue of the lock is being deleted, in case it is empty.
    deleting_queue: bool,
    /// How many waiters there were when the queue was last listed.
    waiters: usize,
    tries: u32,
    /// A server has refused to create containers.
    refuses_containers: bool,
    /// How many connections in a row ended without an answer to the create of a container.
    unanswered_containers: u32,
}

impl QueueEntry {
    /// An entry in the queue for the first free of these locks below `parent`. A run with other
    /// locks, even with one more, has another queue.
    pub(super) fn new(parent: &str, names: &[String], data: String) -> QueueEntry {
        let queues = layout::queues_path(parent);
        let queue = layout::child(&queues, &layout::queue_name(names));
        QueueEntry {
            queues,
            queue,
            data,
            phase: Phase::Absent,
            own: None,
            deleting_queue: false,
            waiters: 0,
            tries: 0,
            refuses_containers: false,
            unanswered_containers: 0,
        }
    }

    /// Whether an entry must be requested before this run waits.
    pub(super) fn is_wanted(&self) -> bool {
        self.phase == Phase::Absent
    }

    /// Whether this run may acquire a lock that is free.
    pub(super) fn is_first(&self) -> bool {
        matches!(self.phase, Phase::First | Phase::Unavailable)
    }

    /// Whether the position is known, or there is no entry.
    pub(super) fn is_settled(&self) -> bool {
        !matches!(self.phase, Phase::Requested { .. } | Phase::Listing)
    }

    /// The position in the queue, if there is an entry. Both numbers are from one list of the queue.
    pub(super) fn position(&self) -> Option<QueuePosition> {
        let ahead = match self.phase {
            Phase::First => 0,
            Phase::Behind { ahead, .. } => ahead,
            _ => return None,
        };
        Some(QueuePosition {
            position: ahead + 1,
            waiters: self.waiters,
        })
    }

    /// The operation that deletes the entry.
    pub(super) fn delete_operation(&self) -> Option<Operation> {
        self.own.clone().map(|path| Operation::Delete { path })
    }

    /// Requests the entry.
    pub(super) fn request(&mut self, context: &mut RecipeContext) {
        self.request_with(0, context);
    }

    /// Requests the entry and this many of the nodes above it, all or none: the server could delete
    /// an empty container before the entry is in it.
    fn request_with(&mut self, above: usize, context: &mut RecipeContext) {
        self.own = None;
        self.tries += 1;
        if self.tries > TRIES {
            return self.give_up(&format!("gave up after {TRIES} attempts"), context);
        }
        let acl = context.acl();
        let containers = self.takes_containers(context);
        let queues = [&self.queues, &self.queue].into_iter().skip(2 - above);
        let mut operations: Vec<_> = queues
            .map(|path| Operation::create_empty(containers, path.clone(), acl.clone()))
            .collect();
        let (path, data) = (
            layout::child(&self.queue, &Waiter::prefix(session(context))),
            self.data.clone().into_bytes(),
        );
        operations.push(Operation::Create {
            path,
            data,
            acl,
            flags: flag::EPHEMERAL | flag::SEQUENCE,
        });
        context.send(Request::Multi(operations));
        self.phase = Phase::Requested { above };
        self.list_waiters(context);
    }

    /// Whether the server creates container nodes, as far as it is known.
    fn takes_containers(&self, context: &RecipeContext) -> bool {
        !self.refuses_containers
            && self.unanswered_containers < MAX_UNANSWERED_CONTAINERS
            && context.session.takes_containers()
    }

    fn list_waiters(&self, context: &mut RecipeContext) {
        context.send(Request::Children {
            path: self.queue.clone(),
            watch: false,
        });
    }

    fn list_again(&mut self, context: &mut RecipeContext) {
        self.phase = Phase::Listing;
        self.list_waiters(context);
    }

    /// Does without an entry.
    fn give_up(&mut self, why: &str, context: &mut RecipeContext) {
        context.emit(Event::Note(format!(
            "cannot join the queue {}: {why}; waiting without a queue position, so the order of arrival is not kept",
            self.queue
        )));
        self.own = None; // an entry that exists is deleted with the session
        self.phase = Phase::Unavailable;
    }

    /// Handles a reply that may be about the entry. True if its position is known now.
    pub(super) fn on_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        context: &mut RecipeContext,
    ) -> bool {
        match (request, result, &self.phase) {
            (Request::Exists { path, .. }, result, _) if self.own.as_ref() == Some(path) => {
                if let Ok(Answer::Data(_, stat)) = result {
                    context.set_request(&stat);
                }
                return false;
            }
            (
                Request::Multi(_),
                Ok(Answer::Undone {
                    code: Code::NO_NODE,
                    ..
                }),
                Phase::Requested { .. },
            ) => self.request_with(2, context),
            (
                Request::Multi(_),
                Ok(Answer::Undone {
                    code: Code::NODE_EXISTS,
                    ..
                }),
                &Phase::Requested { above: above @ 1.. },
            ) => {
                self.request_with(above - 1, context);
            }
            (
                Request::Multi(_),
                Ok(Answer::Undone { code, .. }) | Err(code),
                &Phase::Requested { above: above @ 1.. },
            ) if code.is_unknown_operation() && !self.refuses_containers => {
                self.refuses_containers = true;
                self.request_with(above, context);
            }
            (
                Request::Multi(_),
                Ok(Answer::Undone { code, .. }) | Err(code),
                Phase::Requested { .. },
            ) => self.give_up(&code.to_string(), context),
            // The list was requested in the same write.
            (Request::Multi(_), Ok(_), Phase::Requested { .. }) => {
                self.phase = Phase::Listing;
                self.unanswered_containers = 0;
            }
            (Request::Children { .. }, Ok(Answer::Children(names)), Phase::Listing) => {
                self.rank(&names, context);
            }
            (Request::Children { .. }, Err(Code::NO_NODE), Phase::Listing) => self.request(context),
            (Request::Exists { path, .. }, Err(Code::NO_NODE), Phase::Behind { next, .. })
                if path == next =>
            {
                self.list_again(context);
            }
            (Request::Children { .. }, Err(code), Phase::Listing)
            | (Request::Exists { .. }, Err(code), Phase::Behind { .. }) => {
                self.give_up(&code.to_string(), context);
            }
            _ => return false,
        }
        self.is_settled()
    }

    fn rank(&mut self, names: &[String], context: &mut RecipeContext) {
        let session = session(context);
        let mut waiters: Vec<_> = names
            .iter()
            .filter_map(|name| Waiter::parse(name))
            .collect();
        waiters.sort_unstable();
        let Some(ahead) = waiters.iter().position(|waiter| waiter.is_of(session)) else {
            return self.request(context);
        };
        self.waiters = waiters.len();
        let path = |position: usize| layout::child(&self.queue, waiters[position].name());
        self.own = Some(path(ahead));
        self.read_request(context);
        self.phase = match ahead.checked_sub(1).map(path) {
            None => Phase::First,
            Some(next) => {
                context.send(Request::Exists {
                    path: next.clone(),
                    watch: true,
                });
                Phase::Behind { ahead, next }
            }
        };
    }

    /// Reads the entry, if it matters when this run asked for the lock.
    fn read_request(&self, context: &mut RecipeContext) {
        if let Some(path) = self.own.clone().filter(|_| context.wants_request()) {
            context.send(Request::Exists { path, watch: false });
        }
    }

    /// Handles a watch that may be about the entry before this one.
    pub(super) fn on_watch(&mut self, change: Change, path: &str, context: &mut RecipeContext) {
        match &self.phase {
            Phase::Behind { next, .. } if next == path && change == Change::Deleted => {
                self.list_again(context);
            }
            Phase::Behind { next, .. } if next == path => context.send(Request::Exists {
                path: path.into(),
                watch: true,
            }), // a watch fires once
            _ => {}
        }
    }

    /// The connection has ended, and with it all watches. The entry lives as long as the session.
    pub(super) fn on_disconnect(&mut self) {
        if let Phase::Requested { above } = self.phase {
            self.unanswered_containers += u32::from(above > 0);
            self.phase = Phase::Listing;
        }
    }

    /// A connect request for the same session is about to be sent.
    pub(super) fn on_connecting(&mut self, context: &mut RecipeContext) {
        self.read_request(context);
        match &self.phase {
            Phase::Listing => {
                context.send(Request::Sync {
                    path: self.queue.clone(),
                }); // this server may be behind the one that executed the create
                self.list_waiters(context);
            }
            // The waiter before this one is known, so the queue is listed only if that one has
            // left: after an outage all waiters ask at once.
            Phase::Behind { next, .. } => context.send(Request::Exists {
                path: next.clone(),
                watch: true,
            }),
            _ => {}
        }
    }

    /// The session has ended, and the entry with it.
    pub(super) fn restart(&mut self) {
        self.own = None;
        self.deleting_queue = false;
        self.tries = 0;
        if self.phase != Phase::Unavailable {
            self.phase = Phase::Absent;
        }
    }

    /// The entry could not be exchanged for a lock node.
    pub(super) fn not_exchanged(&mut self, code: Code, context: &mut RecipeContext) {
        if code == Code::NO_NODE {
            self.phase = Phase::Absent; // another client has deleted it
            self.own = None;
        } else {
            self.give_up(&code.to_string(), context);
        }
    }

    /// The entry was exchanged for a lock node. If no other client waits, the queue must be
    /// deleted.
    pub(super) fn exchanged(&mut self, context: &mut RecipeContext) {
        if self.own.take().is_some() {
            self.phase = Phase::Absent;
            self.deleting_queue = true;
            context.send(Request::Delete {
                path: self.queue.clone(),
            });
        }
    }

    /// A delete was answered. If the queue of the lock was deleted, the container above it may be
    /// empty.
    pub(super) fn on_deleted(&mut self, path: &str, deleted: bool, context: &mut RecipeContext) {
        if path == self.queue {
            self.deleting_queue = false;
            if deleted {
                context.send(Request::Delete {
                    path: self.queues.clone(),
                });
            }
        }
    }

    /// Deletes the entry, and the containers above it if they are empty.
    pub(super) fn on_close(&mut self, context: &mut RecipeContext) {
        match self.own.take() {
            Some(path) => [path, self.queue.clone(), self.queues.clone()]
                .into_iter()
                .for_each(|path| context.send(Request::Delete { path })),
            None if self.deleting_queue => context.send(Request::Delete {
                path: self.queues.clone(),
            }),
            None => {}
        }
    }
}

/// The session that creates the entry.
fn session(context: &RecipeContext) -> i64 {
    context.session.id().unwrap_or(0)
}

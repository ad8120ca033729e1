//! Our place among those who wait for a lock: a sequential ephemeral node in the lock's queue,
//! `/APP_ID/.queue/NAME`. Each watches the one before it, and only the first contends. A queue is
//! for order alone, and the lock's own node excludes: so who can have no place (a server without
//! container nodes, no permission) contends like a first one, and all is safe.

use super::layout::{self, Waiter};
use super::recipe::RecipeContext;
use crate::lock::Event;
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::request::{Answer, Operation, Request};
use crate::zookeeper::session::Change;

/// How often a place is asked for. Four times do where many begin a queue at once; more are needed
/// only while others come and go at that moment, or somebody deletes what we make.
const TRIES: u32 = 20;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// We have none, and have asked for none.
    Absent,
    /// One is being made, with so many of the nodes above it, lowest first.
    Asked { above: usize },
    /// One may be ours; who stands in the queue is being asked.
    Looking,
    /// So many are before us; the last of them is at this path, and watched.
    Behind { ahead: usize, next: String },
    /// Nobody is before us.
    First,
    /// There is none to be had.
    Closed,
}

/// The place.
#[derive(Debug)]
pub(super) struct Place {
    /// The containers above it: that of all queues of the application, and the lock's queue.
    queues: String,
    queue: String,
    /// This process, to whoever reads the node.
    content: String,
    phase: Phase,
    /// Its path, as far as we know it.
    own: Option<String>,
    /// The lock's queue is being deleted, in case it is empty.
    sweeping: bool,
    tries: u32,
}

impl Place {
    /// A place in the queue for the first free of these locks below `parent`. Who wants other
    /// locks, if only one more, has another queue.
    pub(super) fn new(parent: &str, names: &[String], content: String) -> Place {
        let queues = layout::queues_path(parent);
        let queue = layout::child(&queues, &layout::queue_name(names));
        Place {
            queues,
            queue,
            content,
            phase: Phase::Absent,
            own: None,
            sweeping: false,
            tries: 0,
        }
    }

    /// Whether it is to be asked for before we may wait.
    pub(super) fn is_wanted(&self) -> bool {
        self.phase == Phase::Absent
    }

    /// Whether we may contend when a lock is free.
    pub(super) fn is_our_turn(&self) -> bool {
        matches!(self.phase, Phase::First | Phase::Closed)
    }

    /// Whether it is known what has become of it.
    pub(super) fn is_settled(&self) -> bool {
        !matches!(self.phase, Phase::Asked { .. } | Phase::Looking)
    }

    /// How many are before us, if we stand in the queue.
    pub(super) fn ahead(&self) -> Option<usize> {
        match self.phase {
            Phase::First => Some(0),
            Phase::Behind { ahead, .. } => Some(ahead),
            _ => None,
        }
    }

    /// What gives it up.
    pub(super) fn leaving(&self) -> Option<Operation> {
        self.own.clone().map(|path| Operation::Delete { path })
    }

    /// Asks for it.
    pub(super) fn ask(&mut self, context: &mut RecipeContext) {
        self.ask_with(0, context);
    }

    /// Asks for it and for so many of the nodes above it, all or none: a container that is empty
    /// could be swept before our node is in it.
    fn ask_with(&mut self, above: usize, context: &mut RecipeContext) {
        self.own = None;
        self.tries += 1;
        if self.tries > TRIES {
            return self.close(&format!("{TRIES} tries were in vain"), context);
        }
        let acl = context.acl();
        let containers = [&self.queues, &self.queue].into_iter().skip(2 - above);
        let mut operations: Vec<_> = containers
            .map(|path| Operation::CreateContainer {
                path: path.clone(),
                acl: acl.clone(),
            })
            .collect();
        let (path, data) = (
            layout::child(&self.queue, &Waiter::prefix(session(context))),
            self.content.clone().into_bytes(),
        );
        operations.push(Operation::Create {
            path,
            data,
            acl,
            flags: flag::EPHEMERAL | flag::SEQUENCE,
        });
        context.send(Request::Multi(operations));
        self.phase = Phase::Asked { above };
        self.ask_who_is_there(context);
    }

    fn ask_who_is_there(&self, context: &mut RecipeContext) {
        context.send(Request::Children {
            path: self.queue.clone(),
            watch: false,
        });
    }

    fn look(&mut self, context: &mut RecipeContext) {
        self.phase = Phase::Looking;
        self.ask_who_is_there(context);
    }

    /// Does without a place.
    fn close(&mut self, why: &str, context: &mut RecipeContext) {
        context.emit(Event::Note(format!(
            "no place in the queue {}: {why}; waiting without one",
            self.queue
        )));
        self.own = None; // if there is one, it goes with the session
        self.phase = Phase::Closed;
    }

    /// Something was answered that may be about it. True if that tells what has become of it.
    pub(super) fn on_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        context: &mut RecipeContext,
    ) -> bool {
        match (request, result, &self.phase) {
            (
                Request::Multi(_),
                Ok(Answer::Undone {
                    code: Code::NO_NODE,
                    ..
                }),
                Phase::Asked { .. },
            ) => self.ask_with(2, context),
            (
                Request::Multi(_),
                Ok(Answer::Undone {
                    code: Code::NODE_EXISTS,
                    ..
                }),
                &Phase::Asked { above: above @ 1.. },
            ) => {
                self.ask_with(above - 1, context);
            }
            (
                Request::Multi(_),
                Ok(Answer::Undone { code, .. }) | Err(code),
                Phase::Asked { .. },
            ) => self.close(&obstacle(code), context),
            (Request::Multi(_), Ok(_), Phase::Asked { .. }) => self.phase = Phase::Looking, /* who is there was asked in the same write */
            (Request::Children { .. }, Ok(Answer::Children(names)), Phase::Looking) => {
                self.rank(&names, context);
            }
            (Request::Children { .. }, Err(Code::NO_NODE), Phase::Looking) => self.ask(context),
            (Request::Exists { path, .. }, Err(Code::NO_NODE), Phase::Behind { next, .. })
                if path == next =>
            {
                self.look(context);
            }
            (Request::Children { .. }, Err(code), Phase::Looking)
            | (Request::Exists { .. }, Err(code), Phase::Behind { .. }) => {
                self.close(&obstacle(code), context);
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
            return self.ask(context);
        };
        let path = |position: usize| layout::child(&self.queue, waiters[position].name());
        self.own = Some(path(ahead));
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

    /// A watch fired that may be about it.
    pub(super) fn on_watch(&mut self, change: Change, path: &str, context: &mut RecipeContext) {
        match &self.phase {
            Phase::Behind { next, .. } if next == path && change == Change::Deleted => {
                self.look(context);
            }
            Phase::Behind { next, .. } if next == path => context.send(Request::Exists {
                path: path.into(),
                watch: true,
            }), // the watch is used up
            _ => {}
        }
    }

    /// The connection is gone, and with it all watches. A place that was ours is ours as long as
    /// the session.
    pub(super) fn on_disconnect(&mut self) {
        if let Phase::Asked { .. } = self.phase {
            self.phase = Phase::Looking;
        }
    }

    /// A connect request for the same session is about to go out.
    pub(super) fn on_connecting(&mut self, context: &mut RecipeContext) {
        match &self.phase {
            Phase::Looking => {
                context.send(Request::Sync {
                    path: self.queue.clone(),
                }); // this server may be behind the one that took our request
                self.ask_who_is_there(context);
            }
            // Who is before us is known: the whole queue is listed only if that one is gone. After
            // an outage all waiters ask at once.
            Phase::Behind { next, .. } => context.send(Request::Exists {
                path: next.clone(),
                watch: true,
            }),
            _ => {}
        }
    }

    /// The session is over, and it with it.
    pub(super) fn restart(&mut self) {
        self.own = None;
        self.sweeping = false;
        self.tries = 0;
        if self.phase != Phase::Closed {
            self.phase = Phase::Absent;
        }
    }

    /// It could not be exchanged for a lock.
    pub(super) fn refused(&mut self, code: Code, context: &mut RecipeContext) {
        if code == Code::NO_NODE {
            self.phase = Phase::Absent; // somebody has deleted it
            self.own = None;
        } else {
            self.close(&obstacle(code), context);
        }
    }

    /// It was exchanged for a lock. If nobody else waits, the queue must go.
    pub(super) fn exchanged(&mut self, context: &mut RecipeContext) {
        if self.own.take().is_some() {
            self.phase = Phase::Absent;
            self.sweeping = true;
            context.send(Request::Delete {
                path: self.queue.clone(),
            });
        }
    }

    /// Whether something was `deleted` is known. If it was the lock's queue, what is above it may
    /// be empty.
    pub(super) fn swept(&mut self, path: &str, deleted: bool, context: &mut RecipeContext) {
        if path == self.queue {
            self.sweeping = false;
            if deleted {
                context.send(Request::Delete {
                    path: self.queues.clone(),
                });
            }
        }
    }

    /// Gives it up, and what is above it unless others need that.
    pub(super) fn on_close(&mut self, context: &mut RecipeContext) {
        match self.own.take() {
            Some(path) => [path, self.queue.clone(), self.queues.clone()]
                .into_iter()
                .for_each(|path| context.send(Request::Delete { path })),
            None if self.sweeping => context.send(Request::Delete {
                path: self.queues.clone(),
            }),
            None => {}
        }
    }
}

/// The session that makes the entry.
fn session(context: &RecipeContext) -> i64 {
    context.session.id().unwrap_or(0)
}

/// Why there is no place, for whoever may do something about it.
fn obstacle(code: Code) -> String {
    match code {
        Code::MARSHALLING | Code::UNIMPLEMENTED => {
            "the servers have no container nodes, which came with ZooKeeper 3.5.3".into()
        }
        code => code.to_string(),
    }
}

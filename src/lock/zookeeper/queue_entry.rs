//! Our place among those who wait for a lock: a sequential ephemeral node in the lock's queue,
//! `/APP_ID/.queue/NAME`. Each watches the one before it, and only the first contends. A queue is
//! for order alone, and the lock's own node excludes: so who can have no place (a server without
//! container nodes, no permission) contends like a first one, and all is safe.

use super::Desk;
use super::layout::{self, Waiter};
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
    pub(super) fn ask(&mut self, desk: &mut Desk) {
        self.ask_with(0, desk);
    }

    /// Asks for it and for so many of the nodes above it, all or none: a container that is empty
    /// could be swept before our node is in it.
    fn ask_with(&mut self, above: usize, desk: &mut Desk) {
        self.own = None;
        self.tries += 1;
        if self.tries > TRIES {
            return self.close(&format!("{TRIES} tries were in vain"), desk);
        }
        let acl = desk.acl();
        let containers = [&self.queues, &self.queue].into_iter().skip(2 - above);
        let mut operations: Vec<_> = containers
            .map(|path| Operation::CreateContainer {
                path: path.clone(),
                acl: acl.clone(),
            })
            .collect();
        let (path, data) = (
            layout::child(&self.queue, &Waiter::prefix(session(desk))),
            self.content.clone().into_bytes(),
        );
        operations.push(Operation::Create {
            path,
            data,
            acl,
            flags: flag::EPHEMERAL | flag::SEQUENCE,
        });
        desk.ask(Request::Multi(operations));
        self.phase = Phase::Asked { above };
        self.ask_who_is_there(desk);
    }

    fn ask_who_is_there(&self, desk: &mut Desk) {
        desk.ask(Request::Children {
            path: self.queue.clone(),
            watch: false,
        });
    }

    fn look(&mut self, desk: &mut Desk) {
        self.phase = Phase::Looking;
        self.ask_who_is_there(desk);
    }

    /// Does without a place.
    fn close(&mut self, why: &str, desk: &mut Desk) {
        desk.say(Event::Note(format!(
            "no place in the queue {}: {why}; waiting without one",
            self.queue
        )));
        self.own = None; // if there is one, it goes with the session
        self.phase = Phase::Closed;
    }

    /// Something was answered that may be about it. True if that tells what has become of it.
    pub(super) fn answered(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        desk: &mut Desk,
    ) -> bool {
        match (request, result, &self.phase) {
            (
                Request::Multi(_),
                Ok(Answer::Undone {
                    code: Code::NO_NODE,
                    ..
                }),
                Phase::Asked { .. },
            ) => self.ask_with(2, desk),
            (
                Request::Multi(_),
                Ok(Answer::Undone {
                    code: Code::NODE_EXISTS,
                    ..
                }),
                &Phase::Asked { above: above @ 1.. },
            ) => {
                self.ask_with(above - 1, desk);
            }
            (
                Request::Multi(_),
                Ok(Answer::Undone { code, .. }) | Err(code),
                Phase::Asked { .. },
            ) => self.close(&obstacle(code), desk),
            (Request::Multi(_), Ok(_), Phase::Asked { .. }) => self.phase = Phase::Looking, /* who is there was asked in the same write */
            (Request::Children { .. }, Ok(Answer::Children(names)), Phase::Looking) => {
                self.rank(&names, desk);
            }
            (Request::Children { .. }, Err(Code::NO_NODE), Phase::Looking) => self.ask(desk),
            (Request::Exists { path, .. }, Err(Code::NO_NODE), Phase::Behind { next, .. })
                if path == next =>
            {
                self.look(desk);
            }
            (Request::Children { .. }, Err(code), Phase::Looking)
            | (Request::Exists { .. }, Err(code), Phase::Behind { .. }) => {
                self.close(&obstacle(code), desk);
            }
            _ => return false,
        }
        self.is_settled()
    }

    fn rank(&mut self, names: &[String], desk: &mut Desk) {
        let session = session(desk);
        let mut waiters: Vec<_> = names
            .iter()
            .filter_map(|name| Waiter::parse(name))
            .collect();
        waiters.sort_unstable();
        let Some(ahead) = waiters.iter().position(|waiter| waiter.is_of(session)) else {
            return self.ask(desk);
        };
        let path = |position: usize| layout::child(&self.queue, waiters[position].name());
        self.own = Some(path(ahead));
        self.phase = match ahead.checked_sub(1).map(path) {
            None => Phase::First,
            Some(next) => {
                desk.ask(Request::Exists {
                    path: next.clone(),
                    watch: true,
                });
                Phase::Behind { ahead, next }
            }
        };
    }

    /// A watch fired that may be about it.
    pub(super) fn changed(&mut self, change: Change, path: &str, desk: &mut Desk) {
        match &self.phase {
            Phase::Behind { next, .. } if next == path && change == Change::Deleted => {
                self.look(desk);
            }
            Phase::Behind { next, .. } if next == path => desk.ask(Request::Exists {
                path: path.into(),
                watch: true,
            }), // the watch is used up
            _ => {}
        }
    }

    /// The connection is gone, and with it all watches. A place that was ours is ours as long as
    /// the session.
    pub(super) fn down(&mut self) {
        if let Phase::Asked { .. } = self.phase {
            self.phase = Phase::Looking;
        }
    }

    /// A connect request for the same session is about to go out.
    pub(super) fn opened(&mut self, desk: &mut Desk) {
        match &self.phase {
            Phase::Looking => {
                desk.ask(Request::Sync {
                    path: self.queue.clone(),
                }); // this server may be behind the one that took our request
                self.ask_who_is_there(desk);
            }
            // Who is before us is known: the whole queue is listed only if that one is gone. After
            // an outage all waiters ask at once.
            Phase::Behind { next, .. } => desk.ask(Request::Exists {
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
    pub(super) fn refused(&mut self, code: Code, desk: &mut Desk) {
        if code == Code::NO_NODE {
            self.phase = Phase::Absent; // somebody has deleted it
            self.own = None;
        } else {
            self.close(&obstacle(code), desk);
        }
    }

    /// It was exchanged for a lock. If nobody else waits, the queue must go.
    pub(super) fn exchanged(&mut self, desk: &mut Desk) {
        if self.own.take().is_some() {
            self.phase = Phase::Absent;
            self.sweeping = true;
            desk.ask(Request::Delete {
                path: self.queue.clone(),
            });
        }
    }

    /// Whether something was `deleted` is known. If it was the lock's queue, what is above it may
    /// be empty.
    pub(super) fn swept(&mut self, path: &str, deleted: bool, desk: &mut Desk) {
        if path == self.queue {
            self.sweeping = false;
            if deleted {
                desk.ask(Request::Delete {
                    path: self.queues.clone(),
                });
            }
        }
    }

    /// Gives it up, and what is above it unless others need that.
    pub(super) fn leave(&mut self, desk: &mut Desk) {
        match self.own.take() {
            Some(path) => [path, self.queue.clone(), self.queues.clone()]
                .into_iter()
                .for_each(|path| desk.ask(Request::Delete { path })),
            None if self.sweeping => desk.ask(Request::Delete {
                path: self.queues.clone(),
            }),
            None => {}
        }
    }
}

/// The session that makes the entry.
fn session(desk: &Desk) -> i64 {
    desk.session.id().unwrap_or(0)
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

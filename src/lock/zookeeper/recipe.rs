//! The contract between the session of a lock and its recipe. A recipe acquires one kind of lock:
//! it sends requests, hears replies and watches, and ends with an [`Outcome`].

use super::acl;
use super::run_record::{self, Record};
use crate::endpoint::Endpoint;
use crate::lock::{Event, Failure, Holder, Output, QueuePosition};
use crate::moment::Moment;
use crate::plan::Cluster;
use crate::zookeeper::code::Code;
use crate::zookeeper::record::{Acl, Stat};
use crate::zookeeper::request::{Answer, Request};
use crate::zookeeper::session::{Change, Session};
use std::collections::VecDeque;
use std::time::Duration;

/// The servers of a lock, and how long to wait for them and for the lock.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of the servers.
    pub servers: Vec<Endpoint>,
    /// Hosts that have no address, each with its reason.
    pub unresolved: Vec<String>,
    /// The ensemble. Its `hosts` are not used.
    pub cluster: Cluster,
    /// Until when to wait for the lock; `None`: one try.
    pub wait_until: Option<Moment>,
    /// Until when to try to connect, the first time. After that, `wait_until` alone counts.
    pub connect_by: Moment,
    /// Time from TERM to KILL if the lease leaves it.
    pub kill_after: Duration,
    /// Rounds over all servers before the first session; `None`: no limit but the time.
    pub max_rounds: Option<u32>,
    /// How often acquiring starts again after its session has expired; `None`: always.
    pub max_restarts: Option<u32>,
    /// Sessions that hold the locks which this run was started under.
    pub outer_sessions: Vec<i64>,
    /// Whether the user can give this program credentials. If so, errors say how.
    pub takes_auth: bool,
    /// The record of the last run, on which this one depends.
    pub record: Option<run_record::Options>,
}

/// The node that makes this run the holder. The recipe has seen that it belongs to this session,
/// and has set a watch on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcquiredNode {
    /// Its path.
    pub path: String,
    /// Its czxid: the fencing token.
    pub token: i64,
}

/// How far a recipe is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// A request is to be answered, and then the recipe continues.
    Pending {
        /// The server may have a node of this run.
        may_exist: bool,
    },
    /// Nothing to do until the lock is released.
    Waiting {
        /// The holder.
        holder: Holder,
        /// The server may have a node of this run.
        may_exist: bool,
    },
}

/// The end of a recipe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// This run holds the lock by this node.
    Acquired(AcquiredNode),
    /// The lock cannot be acquired.
    Failed(Failure),
}

/// What a recipe works with.
#[derive(Debug)]
pub struct RecipeContext<'a> {
    /// Takes requests.
    pub session: &'a mut Session,
    /// Takes events.
    pub outputs: &'a mut VecDeque<Output>,
    /// The options of the lock.
    pub options: &'a Options,
    /// The record of the last run, on which this one depends.
    pub(super) record: Option<&'a mut Record>,
    /// The time.
    pub now: Moment,
}

impl RecipeContext<'_> {
    /// Reports to the loop what happened.
    pub fn emit(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Reports that another client holds the lock, if this run waits. `position`: that of this run
    /// in the queue, if it is known.
    pub fn emit_waiting(&mut self, holder: &Holder, position: Option<QueuePosition>) {
        if self.may_wait() {
            self.emit(Event::Waiting {
                holder: holder.clone(),
                position,
            });
        }
    }

    /// Sends a request.
    pub fn send(&mut self, request: Request) {
        self.session.ask(request, self.now);
    }

    /// Asks for a node's data, and sets a watch on it.
    pub fn watch(&mut self, path: &str) {
        self.send(Request::Data {
            path: path.into(),
            watch: true,
        });
    }

    /// Reads the record of the last run, if this run depends on it. To be called after the request
    /// whose reply shows that this run holds the lock.
    pub fn read_last_run(&mut self) {
        if let Some(request) = self.record.as_mut().map(|record| record.read()) {
            self.send(request);
        }
    }

    /// Whether the recipe should read the node by which this run asks for the lock.
    pub fn wants_request(&self) -> bool {
        self.record.as_ref().is_some_and(|it| it.wants_request())
    }

    /// This run asked for the lock by a node with this stat. Only the first counts.
    pub fn set_request(&mut self, stat: &Stat) {
        if let Some(record) = &mut self.record {
            record.set_request(stat);
        }
    }

    /// The ACL of new nodes.
    pub fn acl(&self) -> Vec<Acl> {
        acl::of(self.options.cluster.acl)
    }

    /// Whether this run was started under a lock of ZooKeeper.
    pub fn is_nested(&self) -> bool {
        !self.options.outer_sessions.is_empty()
    }

    /// Whether this run was started under a lock of this session, which is released only after
    /// this run has ended.
    pub fn is_outer_session(&self, session: i64) -> bool {
        self.options.outer_sessions.contains(&session)
    }

    /// Whether this is the session of this run.
    pub fn is_own_session(&self, owner: i64) -> bool {
        self.session.id() == Some(owner)
    }

    /// Whether this run waits if another client holds the lock.
    pub fn may_wait(&self) -> bool {
        self.options
            .wait_until
            .is_some_and(|wait_until| self.now < wait_until)
    }

    /// An error of the server, for the user of this program.
    pub fn explain(&self, code: Code) -> String {
        code.explain(self.options.takes_auth)
    }
}

/// The steps to acquire one kind of lock.
pub trait Recipe {
    /// A connect request is about to be sent. The recipe adds requests to the same write; while the
    /// session is unknown, only requests whose node may become an orphan.
    fn on_connecting(&mut self, context: &mut RecipeContext);
    /// A server has accepted the session. The recipe sends what it could not send before.
    fn on_session(&mut self, context: &mut RecipeContext);
    /// A request was answered.
    fn on_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        context: &mut RecipeContext,
    ) -> Option<Outcome>;
    /// A watch fired.
    fn on_watch(&mut self, change: Change, path: &str, context: &mut RecipeContext);
    /// The connection has ended. `known`: the session may continue.
    fn on_disconnect(&mut self, known: bool);
    /// This run holds the lock, and its session continues over a new connection. The last replies
    /// on the old one may be lost, so the recipe deletes again what it has to delete.
    fn on_resume(&mut self, _: &mut RecipeContext) {}
    /// This run holds the lock, and a request to delete was answered. Returns a warning, if that
    /// deserves one.
    fn on_deleted(
        &mut self,
        _path: &str,
        _result: Result<(), Code>,
        _: &mut RecipeContext,
    ) -> Option<String> {
        None
    }
    /// The session is about to be closed, which deletes its nodes. The recipe deletes the others.
    fn on_close(&mut self, _: &mut RecipeContext) {}
    /// The server has no node of this run. The recipe starts again.
    fn restart(&mut self, context: &mut RecipeContext);
    /// How far the recipe is.
    fn progress(&self, now: Moment) -> Progress;
    /// The container of the requests to release such a lock.
    fn breaks(&self) -> &str;
    /// When its progress may change without an event.
    fn wake(&self) -> Moment {
        Moment::NEVER
    }
    /// When the recipe gives up, and which holder it waited for.
    fn limit(&self) -> Option<(Moment, Holder)> {
        None
    }
}

/// No server accepted the session in time. `tried`: each server with its reason.
pub fn unreachable(tried: &str) -> Failure {
    Failure::Unreachable(format!("ZooKeeper: {tried}"))
}

/// This run would wait for a lock that it was started under.
pub(super) fn circular(lock: &str, session: i64) -> Outcome {
    let how = format!("session 0x{session:x}");
    Outcome::Failed(crate::lock::circular(lock, &how))
}

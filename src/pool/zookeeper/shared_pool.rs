//! One pool of the ZooKeeper backend, and what this server knows of it: its waiters and other
//! requests, the record, the entries in the queue. What it does is in [`cycle`](super::cycle) and
//! [`write`](super::write).

use super::super::events::{Events, Log};
use super::super::invalid_request::{self, InvalidRequest};
use super::super::lease;
use super::super::pools::PoolMachine;
use super::super::waiters::{PendingRequest, Waiters};
use super::super::{Answer, Call, Ticket};
use super::Context;
use super::cycle::{Known, Phase};
use super::deliveries::Deliveries;
use super::pending::request_deadline;
use super::queue::Queue;
use super::record::Record;
use super::sightings::{FirstEnds, Sightings};
use super::update::{PoolOperation, UpdateOutcome};
use super::write::{Failure, LostWrite};
use crate::moment::Moment;
use crate::plan::{self, Level};
use crate::zookeeper::code::Code;
use std::rc::Rc;
use std::time::Duration;

/// How much later a server ends a lease that another server renewed last, if none of its own clients
/// waits. So not all servers write at the same moment.
const OTHERS_LEASE_GRACE: Duration = Duration::from_secs(2);

/// One pool and what this server knows of it.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts
pub(super) struct SharedPool {
    pub(super) name: Rc<str>,
    /// Of its node.
    pub(super) path: Rc<str>,
    /// The plan in the config, or the last one if the config does not have the pool any more.
    pub(super) plan: plan::Pool,
    /// When the pool was removed from the config; `None`: it is in the config.
    pub(super) removed: Option<Moment>,
    /// Operations for the next cycle, without those of waiters.
    pub(super) operations: Vec<PoolOperation>,
    pub(super) waiters: Waiters,
    pub(super) queue: Queue,
    pub(super) known: Option<Known>,
    /// The watch of the record is set, and has not fired.
    pub(super) is_current: bool,
    /// Something besides the operations is to be decided.
    pub(super) is_dirty: bool,
    /// The next cycle begins with a read.
    pub(super) is_read_needed: bool,
    /// A report was requested after the last read had begun.
    pub(super) is_report_wanted: bool,
    /// This session has read the record.
    pub(super) is_read_in_session: bool,
    /// The node was deleted and is not there again, of which the log has a line.
    pub(super) is_recreating: bool,
    pub(super) phase: Option<Phase>,
    pub(super) lost_write: Option<LostWrite>,
    /// No cycle begins before.
    pub(super) backoff_until: Moment,
    pub(super) sightings: Sightings,
    pub(super) deliveries: Deliveries,
    /// The newest request that has arrived.
    pub(super) newest: Option<Ticket>,
    /// The newest one that had arrived when the last read of a cycle began.
    pub(super) newest_read: Option<Ticket>,
    /// When the last read of a cycle began, and of the last one that has ended.
    pub(super) read_began: Moment,
    pub(super) read_at: Option<Moment>,
    /// Why cycles fail, if they do.
    pub(super) failure: Option<Failure>,
    pub(super) events: Events,
}

impl PoolMachine for SharedPool {
    type Context<'a> = Context<'a>;

    fn new(plan: plan::Pool) -> SharedPool {
        let name: Rc<str> = plan.name.as_str().into();
        let path: Rc<str> = "".into(); // `locate` follows
        SharedPool {
            name: name.clone(),
            path: path.clone(),
            plan,
            removed: None,
            operations: Vec::new(),
            waiters: Waiters::default(),
            queue: Queue::new(path),
            known: None,
            is_current: false,
            is_dirty: true,
            is_read_needed: true,
            is_report_wanted: false,
            is_read_in_session: false,
            is_recreating: false,
            phase: None,
            lost_write: None,
            backoff_until: Moment::default(),
            sightings: Sightings::default(),
            deliveries: Deliveries::default(),
            newest: None,
            newest_read: None,
            read_began: Moment::default(),
            read_at: None,
            failure: None,
            events: Events::new(name),
        }
    }

    fn reconfigure(&mut self, plan: plan::Pool, context: &mut Context<'_>, _: Moment) {
        self.plan = plan;
        self.removed = None;
        self.is_dirty = true;
        for request in self.waiters.take_all() {
            self.request(request, context);
        }
    }

    /// The holders stay in the node, and can renew and release the pool.
    fn remove_from_config(&mut self, context: &mut Context<'_>, now: Moment) {
        if self.removed.is_none() {
            self.removed = Some(now);
            self.is_dirty = true;
            let note = format!(
                "pool {} was removed from the config: its holders in ZooKeeper keep it, and can renew and release it",
                self.name
            );
            context.note(Level::Warning, note);
        }
        for request in self.waiters.take_all() {
            self.queue.leave(request.ticket);
            self.events.waiter_dropped();
            context.answer(request.ticket, Answer::Invalid(InvalidRequest::UnknownPool));
        }
    }

    fn is_obsolete(&self, now: Moment) -> bool {
        let is_idle = self.phase.is_none()
            && !self.is_dirty
            && self.operations.is_empty()
            && self.waiters.is_empty()
            && self.queue.queued() == 0
            && self.lost_write.is_none()
            && !self.deliveries.has_undelivered();
        let is_held = self
            .record()
            .is_some_and(|record| !record.holders.is_empty());
        self.removed
            .is_some_and(|since| is_idle && (!is_held || since + lease::REMOVED_POOL_GRACE <= now))
    }

    fn cancel(&mut self, ticket: Ticket) -> bool {
        if self.waiters.remove(ticket).is_some() {
            self.queue.leave(ticket);
            return true;
        }
        let is_its = |operation: &PoolOperation| operation.request.ticket == ticket;
        let before = self.all_operations().count();
        self.retain_operations(|operation| !is_its(operation));
        let was_pending = self.all_operations().count() < before;
        // If the running write ends the entry, it is forgotten or deleted after the write.
        if was_pending && !self.is_being_served(ticket) {
            self.queue.leave(ticket);
        }
        was_pending
    }
}

impl SharedPool {
    /// Its node is below this one.
    pub(super) fn locate(&mut self, path: &Rc<str>) {
        if self.path.is_empty() {
            self.path = path.clone();
            self.queue = Queue::new(path.clone());
        }
    }

    /// What is kept of the record follows from it.
    #[cfg(test)]
    pub(super) fn is_consistent(&self) -> bool {
        let known = self.known.as_ref();
        known.is_none_or(|known| known.first_ends == self.sightings.first_ends(&known.record))
    }

    /// Nothing of a client is left here.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.deliveries.is_empty()
            && self.waiters.is_empty()
            && self.operations.is_empty()
            && self.queue.queued() == 0
    }

    /// Whether the session can be closed, which ends all entries: no write is on its way, and no
    /// holding is to be taken back. Without a connection it cannot be closed while it has entries.
    pub(super) fn is_settled(&self, is_up: bool) -> bool {
        !matches!(self.phase, Some(Phase::Writing { .. }))
            && !self.deliveries.has_undelivered()
            && (is_up || !self.queue.is_used())
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn record(&self) -> Option<&Record> {
        self.known.as_ref().map(|known| &known.record)
    }

    /// Takes a request. The next cycle decides it, unless it is invalid.
    pub(super) fn request(&mut self, request: PendingRequest, context: &mut Context) {
        self.newest = self.newest.max(Some(request.ticket));
        if let Call::Renew { token: Some(token) } = request.call {
            self.deliveries.confirmed(&request.host, token);
        }
        // Only the record shows whether the host holds the pool, and so may release it although it
        // may not acquire it.
        match invalid_request::check(&self.plan, request.call, &request.host, true) {
            Ok(()) if self.removed.is_some() && !request.call.keeps() => {
                self.queue.leave(request.ticket);
                self.answer(
                    &request,
                    UpdateOutcome::Invalid(InvalidRequest::UnknownPool),
                    context,
                );
            }
            Err(why) => {
                self.queue.leave(request.ticket); // of a waiter: the config has changed
                self.answer(&request, UpdateOutcome::Invalid(why), context);
            }
            Ok(()) if request.call == Call::Wait => {
                self.queue.add(request.ticket);
                self.waiters.insert(request);
                self.is_dirty = true;
            }
            Ok(()) => self.operations.push(request.into()),
        }
    }

    /// Why cycles fail, if they do.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| &*failure.why)
    }

    /// When something is due without an input.
    pub(super) fn wake(&self, is_up: bool) -> Moment {
        let next = self
            .all_operations()
            .filter_map(request_deadline)
            .min()
            .unwrap_or(Moment::NEVER);
        if is_up && self.phase.is_none() {
            next.min(self.next_cycle())
        } else {
            next
        }
    }

    /// When the next cycle is to begin, if none is running.
    pub(super) fn next_cycle(&self) -> Moment {
        let is_wanted = self.is_dirty
            || self.is_read_needed
            || !self.operations.is_empty()
            || !self.is_current
            || self.deliveries.has_undelivered();
        if is_wanted {
            self.backoff_until
        } else {
            self.next_expiry().max(self.backoff_until)
        }
    }

    /// When this server is to end the first lease.
    pub(super) fn next_expiry(&self) -> Moment {
        let Some(known) = &self.known else {
            return Moment::NEVER;
        };
        let FirstEnds { own, others } = known.first_ends;
        if self.waiters.is_empty() {
            own.min(others + OTHERS_LEASE_GRACE)
        } else {
            own.min(others)
        }
    }

    /// An entry was created, or not.
    pub(super) fn entry_created(
        &mut self,
        asked: &str,
        result: Result<&str, Code>,
        context: &mut Context,
    ) {
        match result {
            Ok(name) => {
                if let Err(ticket) = self.queue.created(name)
                    && self.waiters.remove(ticket).is_some()
                {
                    let why = format!(
                        "the sequence numbers of {} are used up, so no client can wait: delete it once no client holds the pool",
                        self.path
                    );
                    context.answer(ticket, Answer::Unavailable(why));
                }
            }
            Err(code) => {
                self.queue.not_created(asked);
                if code == Code::NO_NODE {
                    (self.is_current, self.is_read_needed) = (false, true);
                } else {
                    let why = format!("cannot create a node below {}: {code}", self.path);
                    self.fail_to_write(why, context);
                }
            }
        }
        self.is_dirty = true;
    }

    /// The entries were listed, or could not be.
    pub(super) fn entries_listed(
        &mut self,
        result: Result<&[String], Code>,
        context: &mut Context,
    ) {
        self.is_dirty = true;
        match result {
            Ok(names) => {
                let foreign = self.queue.list_read(names, context.session_id());
                self.note_foreign(&foreign, context);
            }
            Err(Code::NO_NODE) => {
                self.queue.list_failed();
                self.queue.node_ended();
                (self.is_current, self.is_read_needed) = (false, true);
            }
            Err(code) => {
                self.queue.list_failed();
                self.fail(format!("cannot list {}: {code}", self.path), context);
            }
        }
    }

    /// The data of an entry of another server was read.
    pub(super) fn entry_read(&mut self, name: &str, data: &[u8]) {
        self.queue.entry_read(name, data);
    }

    /// The data of an entry of another server may not be read.
    pub(super) fn entry_unread(&mut self, name: &str) {
        self.queue.entry_unread(name);
        self.is_dirty = true;
    }

    /// This node has the name of an entry, but another program made it.
    pub(super) fn not_an_entry(&mut self, name: &str, context: &mut Context) {
        if self.queue.not_an_entry(name) {
            self.note_foreign(&[name.to_owned()], context);
        }
        self.is_dirty = true;
    }

    /// Other programs made these nodes. They stop no waiter, but the number of the children of the
    /// node shows whether any client waits.
    fn note_foreign(&self, names: &[String], context: &mut Context) {
        let [first, others @ ..] = names else { return };
        let others = match others.len() {
            0 => String::new(),
            count => format!(", nor are {count} others"),
        };
        let note = format!(
            "{}/{first} is not an entry of the queue{others}: delete it, because /get/ answers NO as long as it exists",
            self.path
        );
        context.note(Level::Warning, note);
    }

    /// An entry of another server has ended.
    pub(super) fn entry_ended(&mut self, name: &str) {
        self.queue.ended(name);
        self.is_dirty = true;
    }
}

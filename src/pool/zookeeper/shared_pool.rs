//! One pool of the ZooKeeper backend: its requests, and the cycles in which they are decided. One
//! cycle runs at a time, and serves all requests since the one before:
//!
//! 1. *Read*, unless the record is known: its watch has not fired since it was read. If only the
//!    number of entries in the queue is in question, `exists` is enough. Before a read that is to be
//!    newer than a request comes a check of the node. A check is a write that changes nothing: a
//!    leader that has lost its majority answers `sync`, but no write, and nothing that is sent after
//!    one.
//! 2. *Decide*: see [`update`].
//! 3. *Write*: `setData` with the version that was read, or a check of that version if nothing
//!    changes. All answers follow a write, so what was decided is true after the requests had
//!    arrived. The entries of the waiters that are granted a slot end in the same transaction. After
//!    a change `exists` sets the watch again, in the same packet, and shows whether the record is
//!    still the one that was written.
//!
//! A write whose answer is lost may have been carried out. It cannot be carried out later: a server
//! forwards requests of a session only as long as the session is its own. So the read after the
//! reconnect shows what became of it, and the requests are decided again. Each is the same request
//! again: a run that was granted the pool by the lost write holds it, and is told YES. If its client
//! has hung up meanwhile, the holding is taken back.

use super::super::events::{Events, Log};
use super::super::invalid_request::{self, InvalidRequest};
use super::super::lease::{self, ClientLease};
use super::super::pools::PoolMachine;
use super::super::waiters::{PendingRequest, Waiters};
use super::super::{Answer, Call, Grant, Holder, Remaining, Report, Ticket, Waiter};
use super::deliveries::Deliveries;
use super::queue::{MAX_ENTRIES, Queue, QueuedClient};
use super::record::{Holding, Record};
use super::sightings::Sightings;
use super::update::{self, Outcome, PoolOperation, Terms, Update};
use super::{Context, Effect, REQUEST_TIMEOUT};
use crate::moment::Moment;
use crate::plan::{self, Level, PoolEnsemble};
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::record::Stat;
use crate::zookeeper::request::{self, Operation, Request};
use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

/// From an error to the next cycle.
const BACKOFF: Duration = Duration::from_millis(250);

/// A server that has not been able to read the record for so long lets the waiters of other servers
/// go first: they wait behind its own. As long as they wait for a dead server by default.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// `setData` with this version changes a node of any version, and a check of it proves nothing. Each
/// change adds 1, and after 2^31 - 1 come negative numbers, of which this is the last.
const ANY_VERSION: i32 = -1;

/// How much later than its own server any other one ends a lease for which no client of it waits. So
/// not all servers write at the same moment.
const OTHERS_LEASE_GRACE: Duration = Duration::from_secs(2);

/// A record as it was read or written.
#[derive(Debug)]
struct Known {
    record: Record,
    version: i32,
    /// The transaction that created the node, and the last one that was seen to change it.
    created: i64,
    modified: i64,
    /// How many entries the queue had.
    entries: usize,
    /// The record has more than the node: see [`Record::or_newer`].
    is_completed: bool,
}

#[derive(Debug)]
enum Phase {
    /// The record is being read, or whether it is still the known one. `is_fresh`: what the read
    /// shows is as new as the requests that had arrived when it was sent.
    Reading { is_fresh: bool },
    /// The update is being written.
    Writing {
        update: Box<Update>,
        sent: Moment,
        /// A read was sent with it.
        is_followed: bool,
    },
}

/// A write whose answer was lost: what it would have written, and when it was sent.
#[derive(Debug)]
struct LostWrite {
    record: Record,
    renewed: Vec<Rc<str>>,
    sent: Moment,
}

/// One pool and what this server knows of it.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts
pub(super) struct SharedPool {
    name: Rc<str>,
    /// Of its node.
    path: Rc<str>,
    /// The plan in the config, or the last one if the config does not have the pool any more.
    plan: plan::Pool,
    /// When the pool was removed from the config; `None`: it is in the config.
    removed: Option<Moment>,
    /// Operations for the next cycle, without those of waiters.
    operations: Vec<PoolOperation>,
    waiters: Waiters,
    queue: Queue,
    known: Option<Known>,
    /// The watch of the record is set, and has not fired.
    is_current: bool,
    /// Something besides the operations is to be decided.
    is_dirty: bool,
    /// The next cycle begins with a read.
    is_read_needed: bool,
    /// A report was requested after the last read had begun.
    is_report_wanted: bool,
    /// This session has read the record.
    is_read_in_session: bool,
    /// The node was missing, and is requested.
    is_creating: bool,
    phase: Option<Phase>,
    lost_write: Option<LostWrite>,
    /// No cycle begins before.
    backoff_until: Moment,
    sightings: Sightings,
    deliveries: Deliveries,
    /// The last write has failed, for another reason than a change by another server.
    is_write_failing: bool,
    /// The newest request that has arrived.
    newest: Option<Ticket>,
    /// The newest one that had arrived when the last read of a cycle began.
    newest_read: Option<Ticket>,
    /// When the last read of a cycle began, and of the last one that has ended.
    read_began: Moment,
    read_at: Option<Moment>,
    /// Why cycles fail, if they do.
    failure: Option<String>,
    failing_since: Moment,
    events: Events,
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
            is_creating: false,
            phase: None,
            lost_write: None,
            backoff_until: Moment::default(),
            sightings: Sightings::default(),
            deliveries: Deliveries::default(),
            is_write_failing: false,
            newest: None,
            newest_read: None,
            read_began: Moment::default(),
            read_at: None,
            failure: None,
            failing_since: Moment::default(),
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
            && self.queue.queued() == 0;
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
        // An entry that ends with the write is seen to after the write.
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

    /// Nothing of a client is left here.
    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.deliveries.is_empty()
            && self.waiters.is_empty()
            && self.operations.is_empty()
            && self.queue.queued() == 0
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn record(&self) -> Option<&Record> {
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
                    Outcome::Invalid(InvalidRequest::UnknownPool),
                    context,
                );
            }
            Err(why) => {
                self.queue.leave(request.ticket); // of a waiter: the config has changed
                self.answer(&request, Outcome::Invalid(why), context);
            }
            Ok(()) if request.call == Call::Wait => {
                self.queue.add(request.ticket);
                self.waiters.insert(request);
                self.is_dirty = true;
            }
            Ok(()) => self.operations.push(request.into()),
        }
    }

    /// Reads the record soon.
    pub(super) fn read_for_report(&mut self) {
        (self.is_read_needed, self.is_report_wanted) = (true, true);
        self.queue.read_for_report();
    }

    /// Whether the record was read at `since` or later.
    pub(super) fn is_fresh(&self, since: Moment) -> bool {
        self.read_at.is_some_and(|read_at| read_at >= since)
            && !self.is_report_wanted
            && self.queue.is_report_read()
    }

    /// Why cycles fail, if they do.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// All operations, of the running cycle and for the next one.
    fn all_operations(&self) -> impl Iterator<Item = &PoolOperation> {
        let writing = match &self.phase {
            Some(Phase::Writing { update, .. }) => &update.outcomes[..],
            _ => &[],
        };
        let written = writing.iter().map(|(operation, _)| operation);
        written.chain(&self.operations)
    }

    fn retain_operations(&mut self, stays: impl Fn(&PoolOperation) -> bool) {
        self.operations.retain(&stays);
        if let Some(Phase::Writing { update, .. }) = &mut self.phase {
            update.outcomes.retain(|(operation, _)| stays(operation));
        }
    }

    fn is_being_served(&self, ticket: Ticket) -> bool {
        matches!(&self.phase, Some(Phase::Writing { update, .. }) if update.served.contains(&ticket))
    }

    /// A YES did not arrive. If none about a holding granted here did, it is taken back.
    pub(super) fn undelivered(&mut self, host: &str, token: i64) {
        self.events.undelivered();
        self.undo_reply(host, token);
    }

    /// A YES was not sent after all.
    pub(super) fn undo_reply(&mut self, host: &str, token: i64) {
        self.deliveries.undone(host, token);
    }

    /// Answers requests that have waited for ZooKeeper for too long.
    pub(super) fn expire_requests(&mut self, context: &mut Context) {
        let is_late = |operation: &PoolOperation| {
            request_deadline(operation).is_some_and(|until| until <= context.now)
        };
        let late: Vec<_> = self
            .all_operations()
            .filter(|operation| is_late(operation))
            .map(|operation| operation.request.ticket)
            .collect();
        if late.is_empty() {
            return;
        }
        self.retain_operations(|operation| !is_late(operation));
        let why = match &self.failure {
            Some(why) => why.clone(),
            None => context.outage(),
        };
        for ticket in late {
            context.answer(ticket, Answer::Unavailable(why.clone()));
        }
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
    fn next_cycle(&self) -> Moment {
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
    fn next_expiry(&self) -> Moment {
        let Some(record) = self.record() else {
            return Moment::NEVER;
        };
        let end = |(host, holding): (&Rc<str>, &Holding)| {
            let end = self.sightings.end(host, holding);
            if !self.waiters.is_empty() || self.sightings.own(host, holding).is_some() {
                end
            } else {
                end + OTHERS_LEASE_GRACE
            }
        };
        record
            .holders
            .iter()
            .map(end)
            .min()
            .unwrap_or(Moment::NEVER)
    }

    /// Begins a cycle, if one is due, and sends what the queue needs.
    pub(super) fn begin(&mut self, context: &mut Context) {
        if self.phase.is_none() && self.next_cycle() <= context.now {
            self.is_dirty = false;
            if self.is_current && !self.is_read_needed {
                self.decide(false, context);
            }
        }
        let needs_read = self.is_read_needed || !self.is_current;
        if self.phase.is_none() && needs_read && self.backoff_until <= context.now {
            self.read(context);
        }
        self.queue.step();
        self.flush(context);
    }

    fn flush(&mut self, context: &mut Context) {
        for request in self.queue.take_requests() {
            context.session.ask(request, context.now);
        }
    }

    fn is_full(&self, record: &Record, now: Moment) -> bool {
        let held = record
            .holders
            .iter()
            .filter(|(host, holding)| now < self.sightings.end(host, holding));
        let permits = usize::try_from(self.plan.permits).unwrap_or(usize::MAX);
        self.removed.is_some() || held.count() >= permits
    }

    fn read(&mut self, context: &mut Context) {
        // A read after a watch has fired is as new as the event, which is enough to grant.
        let is_fresh = self.is_read_needed
            || !self.operations.is_empty()
            || self.queue.unqueued().next().is_some()
            || !self.is_read_in_session
            || self.lost_write.is_some();
        if is_fresh {
            let path = self.path.to_string();
            context.session.ask(Request::Check { path }, context.now);
        }
        self.send_read(is_fresh, context);
    }

    /// Requests the record, or if it is known, whether it is still the same.
    fn send_read(&mut self, is_fresh: bool, context: &mut Context) {
        (self.read_began, self.newest_read) = (context.now, self.newest);
        (self.is_read_needed, self.is_report_wanted) = (false, false);
        let (path, watch) = (self.path.to_string(), true);
        let request = if self.is_current {
            Request::Exists { path, watch }
        } else {
            Request::Data { path, watch }
        };
        context.session.ask(request, context.now);
        if self.phase.is_none() {
            self.phase = Some(Phase::Reading { is_fresh });
        }
    }

    /// The metadata of the node was read: its record is the known one, or is read now.
    pub(super) fn stat_read(&mut self, result: Result<Stat, Code>, context: &mut Context) {
        let Some(Phase::Reading { is_fresh }) = self.phase else {
            return;
        };
        if let Ok(stat) = result
            && let Some(known) = &mut self.known
            && (known.version, known.created) == (stat.version, stat.czxid)
        {
            known.modified = stat.mzxid;
            known.entries = entries(&stat);
            self.read_done(is_fresh, context);
        } else {
            let (path, watch) = (self.path.to_string(), true);
            context
                .session
                .ask(Request::Data { path, watch }, context.now);
        }
    }

    /// The record was read.
    pub(super) fn data_read(
        &mut self,
        result: Result<(Vec<u8>, Stat), Code>,
        context: &mut Context,
    ) {
        let Some(Phase::Reading { is_fresh }) = self.phase else {
            return;
        };
        let read = match result {
            Ok((data, stat)) => self.absorb(&data, &stat, context),
            Err(Code::NO_NODE) if !self.is_creating => return self.create(context),
            Err(code) => Err(format!("cannot read {}: {code}", self.path)),
        };
        self.is_creating = false;
        match read {
            Ok(()) => self.read_done(is_fresh, context),
            Err(why) => {
                self.phase = None;
                self.fail(why, context);
            }
        }
    }

    /// The record is known: decides on it.
    fn read_done(&mut self, is_fresh: bool, context: &mut Context) {
        self.phase = None;
        (self.is_current, self.is_read_in_session) = (true, true);
        self.read_at = Some(self.read_began);
        if !self.is_write_failing {
            self.recovered(context);
        }
        if self.backoff_until <= context.now {
            self.decide(is_fresh, context);
        } else {
            self.is_dirty = true; // a write has failed, or a lease was too short: not at once again
        }
    }

    /// Creates the node, which is missing, and reads it again. What this server knows of the holders
    /// goes into it: another program has deleted the node, but clients may rely on their leases.
    fn create(&mut self, context: &mut Context) {
        self.is_creating = true;
        let mut record = Record::new(context.seed());
        if let Some(known) = self.record() {
            record = record.or_newer(known);
            let hosts: Vec<&str> = record.holders.keys().map(|host| &**host).collect();
            let kept = if hosts.is_empty() {
                String::new()
            } else {
                format!(
                    ", with the holders that this server knows: {}",
                    hosts.join(", ")
                )
            };
            let note = format!("{} was deleted: creating it again{kept}", self.path);
            context.note(Level::Error, note);
        }
        let ends = self.path.match_indices('/').map(|(end, _)| end).skip(1);
        for end in ends {
            context.session.ask(
                Request::Create {
                    path: self.path[..end].to_owned(),
                    data: Vec::new(),
                    acl: context.acl.to_vec(),
                    flags: flag::PERSISTENT,
                },
                context.now,
            );
        }
        let create = Request::Create {
            path: self.path.to_string(),
            data: record.text(),
            acl: context.acl.to_vec(),
            flags: flag::PERSISTENT,
        };
        context.session.ask(create, context.now);
        self.phase = None;
        self.is_current = false;
        self.send_read(true, context);
    }

    /// The node was created, or not. The read that follows tells what is there.
    pub(super) fn node_created(&mut self, error: Option<Code>, context: &mut Context) {
        if let Some(code) = error.filter(|code| *code != Code::NODE_EXISTS) {
            self.fail(format!("cannot create {}: {code}", self.path), context);
        }
    }

    /// Takes in what was read. `Err`: it cannot be used.
    fn absorb(&mut self, data: &[u8], stat: &Stat, context: &mut Context) -> Result<(), String> {
        let mut record = Record::parse(data).map_err(|why| {
            format!(
                "{} cannot be used: {why}; with other holders than before, locks could be granted twice: restore it, or delete it once no client holds the pool",
                self.path
            )
        })?;
        // Half of the versions are used up.
        if stat.version < 0 && self.known.as_ref().is_none_or(|known| known.version >= 0) {
            let note = format!(
                "{} was changed 2^31 times, and can be changed as many times again: delete it once no client holds the pool",
                self.path
            );
            context.note(Level::Warning, note);
        }
        let is_new_node = self
            .known
            .as_ref()
            .is_some_and(|known| known.created != stat.czxid);
        if is_new_node {
            self.queue.node_ended();
        }
        let known = self.known.take();
        let mut is_completed = false;
        if let Some(known) = known
            && (is_new_node
                || stat.version.wrapping_sub(known.version) < 0
                || stat.mzxid < known.modified)
        {
            let newer = record.clone().or_newer(&known.record);
            if newer != record {
                let note = format!(
                    "{} is older than this server has seen (restored from a backup?): its holders and tokens are completed by those that this server knows",
                    self.path
                );
                context.note(Level::Error, note);
                record = newer;
                is_completed = true;
                self.is_dirty = true;
            }
        }
        if let Some(lost) = self.lost_write.take() {
            for host in &lost.renewed {
                let written = lost.record.holders.get(host);
                if let (Some(written), Some(found)) = (written, record.holders.get(host))
                    && written == found
                {
                    self.sightings.wrote(host, found, lost.sent);
                }
            }
        }
        self.sightings.observe(&record, context.now);
        self.queue.served(record.served);
        self.queue.unpark(|host| record.holders.contains_key(host));
        let holders = &record.holders;
        // Another server that has renewed a holding may have told its client of it, although its
        // renewal is not the newest any more.
        self.deliveries.retain(|host, token| {
            holders.get(host).is_some_and(|holding| {
                holding.token == token && self.sightings.own(host, holding).is_some()
            })
        });
        self.known = Some(Known {
            record,
            version: stat.version,
            created: stat.czxid,
            modified: stat.mzxid,
            entries: entries(stat),
            is_completed,
        });
        Ok(())
    }

    /// Decides what is to be decided. `is_fresh`: the record has just been read, after a write.
    fn decide(&mut self, is_fresh: bool, context: &mut Context) {
        let Some(known) = &self.known else { return };
        let read = self.newest_read.filter(|_| is_fresh);
        let terms = Terms {
            plan: &self.plan,
            is_removed: self.removed.is_some(),
            sightings: &self.sightings,
            queue: &self.queue,
            undelivered: &self.deliveries.undelivered(),
            entries: known.entries,
            is_completed: known.is_completed,
            read,
            session: context.session_id(),
            date: context.date(),
            now: context.now,
        };
        let operations = std::mem::take(&mut self.operations);
        let mut update = Update::new(known.record.clone(), operations, &mut self.waiters, &terms);
        self.is_read_needed |= !update.deferred.is_empty();
        self.operations = std::mem::take(&mut update.deferred);
        for (ticket, host) in std::mem::take(&mut update.parked) {
            self.queue.park(ticket, &host);
        }
        self.flush(context);
        let has_room = !self.is_full(&update.record, context.now);
        let is_unread =
            |ticket: Ticket| has_room && Some(ticket) > read && self.waiters.get(ticket).is_some();
        self.is_read_needed |= self.queue.unqueued().any(is_unread);
        if update.is_changed || !update.outcomes.is_empty() {
            self.write(update, context);
        }
        self.queue_waiters(has_room, read, context);
    }

    /// Requests entries for waiters that cannot be granted a slot now. With free slots they may need
    /// none, which a read shows that began after they had arrived. `read`: the newest request of
    /// which that is true.
    fn queue_waiters(&mut self, has_room: bool, read: Option<Ticket>, context: &mut Context) {
        let Some(known) = &self.known else { return };
        // Those that this update grants a slot leave with its answers.
        let waiting = self.queue.unqueued();
        let waiting = waiting.filter_map(|ticket| Some((ticket, self.waiters.get(ticket)?.0)));
        let joining = waiting.filter(|(ticket, _)| !has_room || Some(*ticket) <= read);
        let mut joining: Vec<_> = joining.collect();
        if has_room {
            // A host that holds the pool with another run has no use for an entry.
            let holders = &known.record.holders;
            joining.retain(|(ticket, host)| {
                let is_blocked = holders.contains_key(host);
                if is_blocked {
                    self.queue.park(*ticket, host);
                }
                !is_blocked
            });
        }
        let free = MAX_ENTRIES.saturating_sub(known.entries.max(self.queue.queued()));
        let excess = joining.split_off(free.min(joining.len()));
        let (waiters, boot) = (&self.waiters, context.boot);
        let joining = joining.into_iter().filter_map(|(ticket, _)| {
            let (host, run, since) = waiters.get_since(ticket)?;
            let since = super::date(boot, since);
            Some((ticket, QueuedClient { host, run, since }))
        });
        self.queue.join(context.session_id(), context.acl, joining);
        self.flush(context);
        for (ticket, _) in excess {
            self.queue.leave(ticket);
            self.waiters.remove(ticket);
            let why = format!("{MAX_ENTRIES} clients wait for {}: no more can", self.name);
            context.answer(ticket, Answer::Unavailable(why));
        }
    }

    fn write(&mut self, update: Update, context: &mut Context) {
        let Some(known) = &self.known else { return };
        let (path, version) = (self.path.to_string(), known.version);
        if version == ANY_VERSION {
            let why = format!(
                "{path} was changed 2^32 times and cannot be changed any more: delete it once no client holds the pool"
            );
            self.is_write_failing = true;
            self.retry(update, false, context);
            return self.fail(why, context);
        }
        let data = if update.is_changed {
            update.record.text()
        } else {
            Vec::new()
        };
        let most = PoolEnsemble::MAX_RECORD;
        if data.len() > most {
            let why = format!(
                "its holders do not fit into {}, which has {most} bytes at most: lower \"maxlocks\"",
                self.path
            );
            self.is_write_failing = true;
            self.retry(update, false, context);
            return self.fail(why, context);
        }
        let ends: Vec<_> = update
            .served
            .iter()
            .filter_map(|ticket| Some(self.queue.end(*ticket)?.1))
            .collect();
        let request = if !update.is_changed {
            Request::Multi(vec![Operation::CheckVersion { path, version }])
        } else if ends.is_empty() {
            Request::SetData {
                path,
                data,
                version,
            }
        } else {
            let set = Operation::SetData {
                path,
                data,
                version,
            };
            Request::Multi([set].into_iter().chain(ends).collect())
        };
        context.session.ask(request, context.now);
        for host in &update.granted {
            if let Some(holding) = update.record.holders.get(host) {
                self.deliveries.granting(host, holding.token);
            }
        }
        // A check fires no watch, so the record is still known after it.
        let is_followed = update.is_changed || self.is_read_needed;
        self.phase = Some(Phase::Writing {
            update: Box::new(update),
            sent: context.now,
            is_followed,
        });
        if is_followed {
            self.send_read(true, context);
        }
    }

    /// A write was answered.
    pub(super) fn written(
        &mut self,
        result: &Result<request::Answer, Code>,
        context: &mut Context,
    ) {
        let (update, sent) = match self.phase.take() {
            Some(Phase::Writing {
                update,
                sent,
                is_followed,
            }) => {
                self.phase = is_followed.then_some(Phase::Reading { is_fresh: true });
                (*update, sent)
            }
            phase => return self.phase = phase,
        };
        match result {
            Ok(request::Answer::Undone { code, operation }) => {
                if *operation > 0 {
                    self.queue.doubt(); // an entry is gone
                }
                self.not_written(update, *code, context);
            }
            Ok(_) => self.committed(update, sent, context),
            Err(code) => self.not_written(update, *code, context),
        }
    }

    /// The write has failed: its operations are decided again, on what the next read brings.
    fn not_written(&mut self, update: Update, code: Code, context: &mut Context) {
        for host in &update.granted {
            if let Some(holding) = update.record.holders.get(host) {
                self.deliveries.not_granted(holding.token);
            }
        }
        let served = update.served.clone();
        self.retry(update, false, context);
        for ticket in served {
            if self.waiters.get(ticket).is_none() {
                self.queue.leave(ticket);
            }
        }
        if code == Code::BAD_VERSION || code == Code::NO_NODE {
            self.is_current = false;
        } else {
            self.is_write_failing = true;
            self.fail(format!("cannot write {}: {code}", self.path), context);
        }
    }

    fn committed(&mut self, mut update: Update, sent: Moment, context: &mut Context) {
        for host in &update.renewed {
            if let Some(holding) = update.record.holders.get(host) {
                self.sightings.wrote(host, holding, sent);
            }
        }
        for ticket in std::mem::take(&mut update.served) {
            self.queue.granted(ticket);
        }
        if let Some(known) = &mut self.known {
            known.version = known.version.wrapping_add(i32::from(update.is_changed));
            known.is_completed = false;
            known.record = update.record.clone();
        }
        self.queue.served(update.record.served);
        let record = &update.record;
        self.queue.unpark(|host| record.holders.contains_key(host));
        self.deliveries.retain(|host, token| {
            let holding = record.holders.get(host);
            holding.is_some_and(|holding| holding.token == token)
        });
        for (host, token) in std::mem::take(&mut update.expired) {
            let why = "its lease ended";
            self.events.expired(&host, token, why, context);
        }
        for (host, token) in std::mem::take(&mut update.taken_back) {
            self.events.taken_back(&host, token, context);
        }
        self.is_write_failing &= !update.is_changed;
        if !self.is_write_failing {
            self.recovered(context);
        }
        self.settle(update, sent, context);
        self.is_dirty |= self.queue.unqueued().next().is_some();
    }

    fn recovered(&mut self, context: &mut Context) {
        if self.failure.take().is_some() {
            let note = format!("{} can be granted and released again", self.name);
            context.note(Level::Warning, note);
        }
    }

    /// The record is as the update has it: sends its answers. `sent`: when it was written.
    fn settle(&mut self, update: Update, sent: Moment, context: &mut Context) {
        let Update {
            record,
            renewed,
            outcomes,
            ..
        } = update;
        let mut too_short = Vec::new();
        for (PoolOperation { request, .. }, outcome) in outcomes {
            if outcome == Outcome::Yes {
                let since = renewed.contains(&request.host).then_some(sent);
                if !self.reply_yes(&request, &record, since, context) {
                    too_short.push(request);
                    continue;
                }
            }
            self.queue.leave(request.ticket);
            self.answer(&request, outcome, context);
        }
        if !too_short.is_empty() {
            self.backoff_until = context.now + BACKOFF;
            let operations = too_short.into_iter().map(PoolOperation::from).collect();
            self.requeue(operations, context);
        }
    }

    /// Answers YES. False: too little is left of the lease by now.
    fn reply_yes(
        &mut self,
        request: &PendingRequest,
        record: &Record,
        written: Option<Moment>,
        context: &mut Context,
    ) -> bool {
        let Some(holding) = record.holders.get(&request.host) else {
            return false;
        };
        let token = holding.token;
        let written = written.or_else(|| self.sightings.own(&request.host, holding));
        let ends = match (holding.lease, written) {
            (None, _) => Moment::NEVER,
            (lease, Some(written)) => update::ends(lease, written),
            (Some(_), None) => return false,
        };
        let expires = match lease::for_client(ends, context.now) {
            ClientLease::For(left) => Some(left),
            ClientLease::UntilReleased => None,
            ClientLease::TooShort => return false,
        };
        if self.deliveries.told(token) {
            let (run, now) = (request.run.as_ref(), context.now);
            let waited = now.since(request.since);
            self.events
                .granted(&request.host, token, run, waited, context, now);
        } else if let Call::Renew { .. } = request.call {
            self.events.renewed(&request.host, token, context);
        }
        context.effects.push_back(Effect::Yes {
            request: request.clone(),
            pool: self.name.clone(),
            grant: Grant { token, expires },
        });
        true
    }

    fn answer(&mut self, request: &PendingRequest, outcome: Outcome, context: &mut Context) {
        let answer = match outcome {
            Outcome::Yes => return, // see `reply_yes`
            Outcome::No => {
                self.events.refused();
                Answer::No
            }
            Outcome::NoRevoked => {
                self.events.refused();
                Answer::NoRevoked
            }
            Outcome::NoOuter => {
                self.events.refused();
                Answer::NoOuter
            }
            Outcome::NothingReleased => Answer::Ok,
            Outcome::Released { token, since } => {
                let held = Duration::from_millis(context.date().saturating_sub(since));
                self.events
                    .released(&request.host, Some((token, held)), context);
                Answer::Ok
            }
            Outcome::NotReleased(why) => Answer::NotReleased(why),
            Outcome::Revoked => self.revocation(&request.host, context),
            Outcome::NotHeld => Answer::NotHeld,
            Outcome::OtherToken => Answer::OtherToken,
            Outcome::Invalid(why) => {
                self.events.invalid(&request.host, why, context);
                Answer::Invalid(why)
            }
        };
        context.answer(request.ticket, answer);
    }

    fn revocation(&mut self, host: &str, context: &mut Context) -> Answer {
        let Some(holding) = self.record().and_then(|record| record.holders.get(host)) else {
            return Answer::NotHeld;
        };
        let (token, ends) = (holding.token, self.ends(host, holding, context.now));
        self.events.revoked(host, token, context);
        Answer::Revocation {
            token: Some(token),
            ends,
        }
    }

    /// How much is left of a lease until this server ends it.
    fn ends(&self, host: &str, holding: &Holding, now: Moment) -> Remaining {
        match self.sightings.end(host, holding) {
            Moment::NEVER => Remaining::UntilReleased,
            end => Remaining::For(end.since(now)),
        }
    }

    /// The cycle fails.
    fn fail(&mut self, why: String, context: &mut Context) {
        if self.failure.is_none() {
            let note = format!("cannot grant or release {}: {why}", self.name);
            context.note(Level::Error, note);
            self.failing_since = context.now;
        }
        if !self.is_write_failing && self.failing_since + GIVE_UP_AFTER <= context.now {
            self.queue.give_up();
        }
        self.failure = Some(why);
        self.is_dirty = true;
        self.backoff_until = context.now + BACKOFF;
    }

    /// Queues operations for the next cycle, before all others. The config may have changed since
    /// their requests arrived.
    fn requeue(&mut self, operations: Vec<PoolOperation>, context: &mut Context) {
        let later = std::mem::take(&mut self.operations);
        for operation in operations {
            if operation.request.call == Call::Wait {
                self.request(operation.request, context);
            } else {
                self.operations.push(operation);
            }
        }
        self.operations.extend(later);
    }

    /// The operations of an update that was not written, or may not have been.
    fn retry(&mut self, update: Update, is_unsure: bool, context: &mut Context) {
        self.is_dirty = true;
        let operations = update.outcomes.into_iter().map(|(operation, outcome)| {
            let released = match outcome {
                Outcome::Released { token, .. } if is_unsure => Some(token),
                _ => operation.released,
            };
            PoolOperation {
                released,
                ..operation
            }
        });
        self.requeue(operations.collect(), context);
    }

    /// The connection is lost. A write that was sent may have been carried out.
    pub(super) fn disconnected(&mut self, context: &mut Context) {
        (self.is_current, self.is_creating) = (false, false);
        self.queue.disconnected();
        match self.phase.take() {
            Some(Phase::Reading { is_fresh }) => self.is_read_needed |= is_fresh,
            Some(Phase::Writing { update, sent, .. }) => {
                let served: Vec<_> = update.served.iter().copied().collect();
                self.lost_write = Some(LostWrite {
                    record: update.record.clone(),
                    renewed: update.renewed.iter().cloned().collect(),
                    sent,
                });
                self.retry(*update, true, context);
                for ticket in served {
                    if self.waiters.get(ticket).is_none() {
                        self.queue.leave(ticket);
                    }
                }
                self.queue.disconnected(); // nothing of that is to be sent: all names are read
            }
            None => {}
        }
    }

    /// The session has ended, and all entries of this server with it.
    pub(super) fn session_ended(&mut self) {
        self.queue.session_ended();
        self.is_read_in_session = false;
        (self.is_dirty, self.is_read_needed) = (true, true);
    }

    /// What the next server has may be older than what this one has read.
    pub(super) fn read_anew(&mut self) {
        self.is_read_in_session = false;
    }

    /// The watch of the record has fired.
    pub(super) fn changed(&mut self) {
        self.is_current = false;
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
                    self.is_write_failing = true;
                    let why = format!("cannot create a node below {}: {code}", self.path);
                    self.fail(why, context);
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
            Ok(names) => self.queue.list_read(names, context.session_id()),
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

    /// An entry of another server has ended.
    pub(super) fn entry_ended(&mut self, name: &str) {
        self.queue.ended(name);
        self.is_dirty = true;
    }

    /// The waiters of all servers, in the order of their entries. Those of this server that have none
    /// yet are the last.
    fn all_waiters(&self, date: u64, now: Moment) -> Vec<Waiter<'_>> {
        let own = self
            .waiters
            .tickets()
            .zip(self.waiters.report(now, Cow::Borrowed));
        let own = own.map(|(ticket, waiter)| {
            let position = self.queue.position(ticket);
            (position.unwrap_or(i64::MAX), waiter)
        });
        let others = self.queue.others().map(|(position, waiter)| {
            let waited = Duration::from_millis(date.saturating_sub(waiter.since));
            let (host, run) = (Cow::Borrowed(&*waiter.host), waiter.run.as_deref());
            (position, Waiter { host, run, waited })
        });
        let mut all: Vec<_> = own.chain(others).collect();
        all.sort_by_key(|(position, _)| *position);
        all.into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// The pool as last read. `held` is by the clock of the server that granted the holding.
    pub(super) fn report(&self, date: u64, now: Moment) -> Report<'_> {
        let holders = self.record().into_iter().flat_map(|record| &record.holders);
        let holders = holders.map(|(host, holding)| Holder {
            host: Cow::Borrowed(host),
            run: holding.run.as_deref(),
            token: Some(holding.token),
            held: Some(Duration::from_millis(date.saturating_sub(holding.since))),
            ends: self.ends(host, holding, now),
            revoked: holding.revoked,
        });
        let is_old = !self.is_current || self.read_at.is_none();
        Report {
            pool: &self.name,
            permits: if self.removed.is_some() {
                0
            } else {
                self.plan.permits
            },
            expire: self.plan.expire,
            age: self
                .read_at
                .filter(|_| is_old)
                .map(|read_at| now.since(read_at)),
            holders: holders.collect(),
            waiters: self.all_waiters(date, now),
            counters: self.events.counters(),
        }
    }
}

/// How many entries a queue has.
fn entries(stat: &Stat) -> usize {
    usize::try_from(stat.num_children).unwrap_or(0)
}

/// When an operation fails if ZooKeeper does not answer; `None`: never.
fn request_deadline(operation: &PoolOperation) -> Option<Moment> {
    let request = &operation.request;
    (request.call != Call::Wait).then(|| request.since + REQUEST_TIMEOUT)
}

//! The cycles in which the requests for a pool are decided. One cycle runs at a time, and serves all
//! requests since the one before:
//!
//! 1. *Read*, unless the record is known: its watch has not fired since it was read. If only the
//!    number of entries in the queue is in question, `exists` is enough. Before a read that is to be
//!    newer than a request comes a check of the node. A check is a write that changes nothing: a
//!    leader that has lost its majority answers `sync`, but no write, and nothing that is sent after
//!    one.
//! 2. *Decide*: see [`update`](super::update).
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

use super::super::events::Log;
use super::super::{Answer, Ticket};
use super::Context;
use super::queue::MAX_ENTRIES;
use super::queue_entry::QueuedClient;
use super::record::Record;
use super::shared_pool::SharedPool;
use super::sightings::FirstEnds;
use super::update::{Update, UpdateContext};
use crate::moment::Moment;
use crate::plan::Level;
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::record::Stat;
use crate::zookeeper::request::Request;

/// The most entries of a pool that are being created at a time. The answers of a session come in
/// order, so those to the requests for other pools wait for these.
const MAX_JOINING: usize = 200;

/// A record as it was read or written.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) record: Record,
    pub(super) version: i32,
    /// The transaction that created the node, and the last one that was seen to change it.
    pub(super) created: i64,
    pub(super) modified: i64,
    /// How many entries the queue had.
    pub(super) entries: usize,
    /// The record has more than the node: see [`Record::or_newer`].
    pub(super) is_completed: bool,
    /// When the first leases of the record end. All turns of the loop ask for it, so it is kept.
    pub(super) first_ends: FirstEnds,
}

/// What a cycle waits for.
#[derive(Debug)]
pub(super) enum Phase {
    /// The record is being read, or whether it is still the known one. `is_fresh`: what the read
    /// shows is as new as the requests that had arrived when it was sent.
    Reading { is_fresh: bool },
    /// The node is missing, and is requested with all above it. A read follows. `failed`: the node
    /// that could not be created, and why.
    Creating { failed: Option<(String, Code)> },
    /// The update is being written.
    Writing {
        update: Box<Update>,
        sent: Moment,
        /// A read was sent with it.
        is_followed: bool,
    },
}

impl SharedPool {
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
        if self.backoff_until <= context.now {
            self.queue.step();
        }
        self.flush(context);
    }

    pub(super) fn flush(&mut self, context: &mut Context) {
        for request in self.queue.take_requests() {
            context.session.ask(request, context.now);
        }
    }

    pub(super) fn is_full(&self, record: &Record, now: Moment) -> bool {
        let held = record
            .holders
            .iter()
            .filter(|(host, holding)| now < self.sightings.end(host, holding));
        let permits = usize::try_from(self.plan.permits).unwrap_or(usize::MAX);
        self.removed.is_some() || held.count() >= permits
    }

    pub(super) fn read(&mut self, context: &mut Context) {
        // A read after a watch has fired is as new as the event, which is enough to grant.
        let is_fresh = self.is_read_needed
            || !self.operations.is_empty()
            || self.queue.unqueued().next().is_some()
            || !self.is_read_in_session
            || self.lost_write.is_some();
        if is_fresh {
            context.check(&self.path);
        }
        self.send_read(is_fresh, context);
    }

    /// Requests the record, or if it is known, whether it is still the same.
    pub(super) fn send_read(&mut self, is_fresh: bool, context: &mut Context) {
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
        let (is_fresh, creation) = match &mut self.phase {
            Some(Phase::Reading { is_fresh }) => (*is_fresh, None),
            Some(Phase::Creating { failed }) => (true, Some(failed.take())),
            _ => return,
        };
        let read = match (result, creation) {
            (Ok((data, stat)), _) => self.absorb(&data, &stat, context),
            (Err(Code::NO_NODE), None) => return self.create(context),
            (Err(Code::NO_NODE), Some(Some((path, code)))) => {
                Err(format!("cannot create {path}: {code}"))
            }
            (Err(code), _) => Err(format!("cannot read {}: {code}", self.path)),
        };
        match read {
            Ok(()) => self.read_done(is_fresh, context),
            Err(why) => {
                self.phase = None;
                self.fail(why, context);
            }
        }
    }

    /// The record is known: decides on it.
    pub(super) fn read_done(&mut self, is_fresh: bool, context: &mut Context) {
        self.phase = None;
        (self.is_current, self.is_read_in_session) = (true, true);
        self.read_at = Some(self.read_began);
        self.recovered(false, context);
        if self.backoff_until <= context.now {
            self.decide(is_fresh, context);
        } else {
            self.is_dirty = true; // a write has failed, or a lease was too short: not at once again
        }
    }

    /// Creates the node, which is missing, and reads it again. What this server knows of the holders
    /// goes into it: another program has deleted the node, but clients may rely on their leases.
    pub(super) fn create(&mut self, context: &mut Context) {
        let mut record = Record::new(context.boot.micros(context.now));
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
            if !std::mem::replace(&mut self.is_recreating, true) {
                let note = format!("{} was deleted: creating it again{kept}", self.path);
                context.note(Level::Error, note);
            }
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
        self.phase = Some(Phase::Creating { failed: None });
        self.is_current = false;
        self.send_read(true, context);
    }

    /// The node, or one above it, was not created. The read that follows shows what is there.
    pub(super) fn not_created(&mut self, path: &str, code: Code) {
        let below = self.path.strip_prefix(path);
        if below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            && let Some(Phase::Creating { failed }) = &mut self.phase
            && code != Code::NODE_EXISTS
            && (code != Code::NO_NODE || failed.is_none())
        {
            *failed = Some((path.to_owned(), code));
        }
    }

    /// Takes in what was read. `Err`: it cannot be used.
    pub(super) fn absorb(
        &mut self,
        data: &[u8],
        stat: &Stat,
        context: &mut Context,
    ) -> Result<(), String> {
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
        self.is_recreating = false;
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
                    "{} is older than this server has seen (restored from a backup, or has ZooKeeper lost writes?): its holders and tokens are completed by those that this server knows",
                    self.path
                );
                context.note(Level::Error, note);
                record = newer;
                is_completed = true;
                self.is_dirty = true;
            }
        }
        self.look_for_lost_write(&record);
        self.sightings.observe(&record, context.now);
        self.queue.served(record.served);
        self.queue.unpark(|host| record.holders.contains_key(host));
        self.deliveries.retain(&record, context.server);
        self.known = Some(Known {
            first_ends: self.sightings.first_ends(&record),
            record,
            version: stat.version,
            created: stat.czxid,
            modified: stat.mzxid,
            entries: entries(stat),
            is_completed,
        });
        Ok(())
    }

    /// If the write whose answer was lost was carried out, its renewals are those of this server.
    fn look_for_lost_write(&mut self, record: &Record) {
        let Some(lost) = self.lost_write.take() else {
            return;
        };
        for host in &lost.renewed {
            let written = lost.record.holders.get(host);
            if let (Some(written), Some(found)) = (written, record.holders.get(host))
                && written.is_renewal(found)
            {
                self.sightings.wrote(host, found, lost.sent);
            }
        }
    }

    /// Decides all operations and waiters. `is_fresh`: the record has just been read, after a write.
    pub(super) fn decide(&mut self, is_fresh: bool, context: &mut Context) {
        let Some(known) = &self.known else { return };
        let read = self.newest_read.filter(|_| is_fresh);
        let update_context = UpdateContext {
            plan: &self.plan,
            is_removed: self.removed.is_some(),
            sightings: &self.sightings,
            queue: &self.queue,
            undelivered: &self.deliveries.undelivered(),
            entries: known.entries,
            is_completed: known.is_completed,
            read,
            seed: context.seed,
            session: context.session_id(),
            server: context.server,
            date: context.date(),
            now: context.now,
        };
        let operations = std::mem::take(&mut self.operations);
        let mut update = Update::new(
            known.record.clone(),
            operations,
            &mut self.waiters,
            &update_context,
        );
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
    pub(super) fn queue_waiters(
        &mut self,
        has_room: bool,
        read: Option<Ticket>,
        context: &mut Context,
    ) {
        let Some(known) = &self.known else { return };
        // Older waiters may need an entry first: those whose request for one was perhaps lost, which a
        // list of all entries will show, and those that a write grants a slot, which may fail.
        if self.queue.is_unsure() {
            return; // a cycle follows the list
        }
        let is_writing = matches!(self.phase, Some(Phase::Writing { .. }));
        let is_granting = |ticket| self.waiters.get(ticket).is_none();
        if is_writing && self.queue.unqueued().any(is_granting) {
            self.is_dirty = true;
            return;
        }
        // Those that this update grants a slot leave with its answers.
        let waiting = self.queue.unqueued();
        let waiting = waiting.filter_map(|ticket| Some((ticket, self.waiters.get(ticket)?.0)));
        let joining = waiting.filter(|(ticket, _)| !has_room || Some(*ticket) <= read);
        let mut joining: Vec<_> = joining.collect();
        if has_room {
            // A host that holds the pool with another run has no use for an entry, unless the write
            // ends its holding.
            let written = match &self.phase {
                Some(Phase::Writing { update, .. }) => &update.record,
                _ => &known.record,
            };
            let holds = |host: &str| {
                let mut both = [&known.record, written].into_iter();
                both.all(|record| record.holders.contains_key(host))
            };
            joining.retain(|(ticket, host)| {
                let is_blocked = holds(host);
                if is_blocked {
                    self.queue.park(*ticket, host);
                }
                !is_blocked
            });
        }
        let free = MAX_ENTRIES.saturating_sub(known.entries.max(self.queue.queued()));
        let excess = joining.split_off(free.min(joining.len()));
        joining.truncate(MAX_JOINING.saturating_sub(self.queue.joining())); // the others follow
        let (waiters, boot) = (&self.waiters, context.boot);
        let joining = joining.into_iter().filter_map(|(ticket, _)| {
            let (host, run, since) = waiters.get_since(ticket)?;
            let since = boot.date_of(since);
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
}

/// How many entries a queue has.
fn entries(stat: &Stat) -> usize {
    usize::try_from(stat.num_children).unwrap_or(0)
}

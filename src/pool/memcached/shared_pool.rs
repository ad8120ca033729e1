//! One pool of the memcached backend. Its holders are on a list in memcached, which other servers
//! read and write too, and their leases are in a second key. Both are changed by cycles of
//! read-modify-CAS, one at a time; each cycle serves all requests since the one before. A cycle
//! whose write loses against another server is repeated.
//!
//! # Two keys, without a lock over both
//!
//! The original server reads and writes only `POOL:lockedby`, so this list decides who holds the
//! pool. What the list cannot express is in `POOL:leases`, which is written *before* the list: the
//! lease of a host that is not on the list has no effect yet, or no effect any more. A crash
//! between the writes leaves such a lease, but never a holder without one. These rules keep the
//! keys consistent in whatever order servers read, write, crash and are delayed:
//!
//! 1. *One moment.* The list is read before and after the leases, in one command. If the two
//!    versions of the list differ, the read is discarded.
//! 2. *Each write depends on what was read.* Both keys are written by `cas` or `add`, so a list
//!    that was written directly follows the list that was read.
//! 3. *A lease is replaced or dropped only when no server can be about to add its host to the
//!    list.* Each lease names the version of the list that its host was to be added to. If the list
//!    has another version without that host, the host can never be added by that lease. If the list
//!    still has that version, the other server may be slow or dead: then a host of that name is
//!    granted nothing until the list changes. After a while this server changes it by writing it
//!    unchanged (*fencing*).
//! 4. *Lengths, not dates.* A lease contains the longest time that its holder may have been told,
//!    and the list is always written to last at least as long as the longest lease on it. Each
//!    write restarts memcached's clock for the list, so no lease ends before the time that its
//!    holder was told, although clocks differ. The length of a holding only grows; a shorter
//!    `expire` applies to the next holding.
//! 5. *Replies follow writes.* A client is told of a lease only on the strength of this server's
//!    own last write of the list, which was for that length or more.
//! 6. *A write whose reply was lost* may still take effect while the list has the version that the
//!    write depends on. So the next cycle always writes the list before it answers.

use super::super::effects::{Effects, Yes};
use super::super::events::{Events, Log};
use super::super::invalid_request::{self, InvalidRequest};
use super::super::lease::{self, ClientLease};
use super::super::pools::PoolMachine;
use super::super::state::BootTime;
use super::super::waiters::{PendingRequest, Waiters};
use super::super::{Answer, Call, Grant, Holder, Remaining, Report, Ticket};
use super::attempts::{Attempt, Attempts, ClassifiedRead};
use super::cas_cycle::{CycleId, CyclePhase, PendingWrite, Snapshot, WritePhase};
use super::client::MemcachedClient;
use super::expiry::{self, Lifetime};
use super::holder_cache::HolderCache;
use super::leases::{self, Leases};
use super::list_update::{self, ListUpdate, PoolOperation, UpdateContext, UpdateOutcome};
use super::protocol::{Command, Malformed, Reply};
use super::unescaped;
use crate::moment::Moment;
use crate::plan::{self, Level};
use std::rc::Rc;
use std::time::Duration;

/// How long a request other than `Wait` waits for memcached. Including the loop's own time it is
/// answered within a second.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_millis(900);

/// From one poll of a list to the next while hosts wait for a slot, and after an error.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How long another server may take from writing a lease to writing the list until it is fenced
/// off. This is one exchange with memcached; a slower server starts over.
const CONCURRENT_GRACE: Duration = Duration::from_millis(250);

/// From one look at another server's unfinished grant to the next.
const CONCURRENT_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The number of writes whose replies are ignored; cycles are numbered from 1.
const UNTRACKED: u64 = 0;

/// What the methods of a pool need of the backend.
pub(super) struct Context<'a> {
    pub(super) client: &'a mut MemcachedClient,
    pub(super) effects: &'a mut Effects,
    /// The address of memcached, for messages.
    pub(super) address: &'a str,
    pub(super) boot: BootTime,
    /// A report is requested: each cycle reads all that the report shows.
    pub(super) is_watched: bool,
    pub(super) now: Moment,
}

impl Log for Context<'_> {
    fn note(&mut self, level: Level, note: String) {
        self.effects.note(level, note);
    }
}

impl Context<'_> {
    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.effects.answer(ticket, answer);
    }

    /// The time in ms since 1970.
    fn date(&self) -> u64 {
        self.boot.date_of(self.now)
    }
}

/// When memcached will end a list, if known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ListEnd {
    left: Remaining,
    /// When `left` was measured.
    at: Moment,
}

/// A grant of another server that has written the lease, but not the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ConcurrentGrant {
    version: Option<u64>,
    leases_version: Option<u64>,
    /// When this server saw it first.
    since: Moment,
}

/// One pool and what this server knows of it.
#[derive(Debug)]
pub(super) struct SharedPool {
    name: Rc<str>,
    /// The plan in the config, or the last one if the config does not have the pool any more.
    plan: plan::Pool,
    /// When the pool was removed from the config; `None`: it is in the config.
    removed: Option<Moment>,
    /// Operations for the next cycle, without those of waiters.
    operations: Vec<PoolOperation>,
    waiters: Waiters,
    /// The next cycle is due, for a new waiter or for the list itself.
    dirty: bool,
    cycle: Option<(CycleId, CyclePhase)>,
    /// No cycle begins before.
    backoff_until: Moment,
    cycle_began: Moment,
    cache: HolderCache,
    /// When this server last wrote the list, if known, and for how long. memcached keeps it at
    /// least as long from then.
    written: Option<(Moment, Lifetime)>,
    attempts: Attempts,
    /// A write of the list may still take effect although its reply was lost.
    unconfirmed_write: bool,
    concurrent: Option<ConcurrentGrant>,
    /// When the read began that `cache` and `end` are from, if nothing has changed them since.
    read_at: Option<Moment>,
    end: ListEnd,
    /// Why cycles fail, if they do.
    failure: Option<String>,
    events: Events,
}

impl PoolMachine for SharedPool {
    type Context<'a> = Context<'a>;

    fn new(plan: plan::Pool) -> SharedPool {
        let name: Rc<str> = plan.name.as_str().into();
        SharedPool {
            name: name.clone(),
            plan,
            removed: None,
            operations: Vec::new(),
            waiters: Waiters::default(),
            dirty: false,
            cycle: None,
            backoff_until: Moment::default(),
            cycle_began: Moment::default(),
            cache: HolderCache::default(),
            written: None,
            attempts: Attempts::default(),
            unconfirmed_write: false,
            concurrent: None,
            read_at: None,
            end: ListEnd {
                left: Remaining::Unknown,
                at: Moment::default(),
            },
            failure: None,
            events: Events::new(name),
        }
    }

    fn reconfigure(&mut self, plan: plan::Pool, context: &mut Context<'_>, _: Moment) {
        self.plan = plan;
        self.removed = None;
        for request in self.waiters.take_all() {
            self.request(request, context);
        }
    }

    /// The holders stay in memcached, and can renew and release the pool.
    fn remove_from_config(&mut self, context: &mut Context<'_>, now: Moment) {
        if self.removed.is_none() {
            self.removed = Some(now);
            self.poll_list();
            let note = format!(
                "pool {} was removed from the config: its holders in memcached keep it, and can renew and release it",
                self.name
            );
            context.note(Level::Warning, note);
        }
        for request in self.waiters.take_all() {
            self.events.waiter_dropped();
            context.answer(request.ticket, Answer::Invalid(InvalidRequest::UnknownPool));
        }
    }

    fn is_obsolete(&self, now: Moment) -> bool {
        let is_idle = self.cycle.is_none()
            && !self.dirty
            && self.operations.is_empty()
            && self.waiters.is_empty();
        self.removed.is_some_and(|since| {
            is_idle && (self.cache.is_empty() || since + lease::REMOVED_POOL_GRACE <= now)
        })
    }

    fn cancel(&mut self, ticket: Ticket) -> bool {
        let is_its = |operation: &PoolOperation| matches!(operation, PoolOperation::Request(request) if request.ticket == ticket);
        if self.waiters.remove(ticket).is_some() {
            return true;
        }
        let before = self.operations().count();
        self.retain_operations(|operation| !is_its(operation));
        self.operations().count() < before
    }
}

impl SharedPool {
    /// Takes a request. The next cycle decides it, unless it is invalid.
    pub(super) fn request(&mut self, request: PendingRequest, context: &mut Context) {
        if let Call::Renew { token } = request.call {
            self.cache.record_ack(&request.host, token);
        }
        // Only the list shows whether the host holds the pool, and so may release it although it
        // may not acquire it.
        match invalid_request::check(&self.plan, request.call, &request.host, true) {
            Ok(()) if self.removed.is_some() && !request.call.keeps() => {
                self.answer(
                    &request,
                    UpdateOutcome::Invalid(InvalidRequest::UnknownPool),
                    context,
                );
            }
            Err(why) => self.answer(&request, UpdateOutcome::Invalid(why), context),
            Ok(()) if request.call == Call::Wait => {
                self.waiters.insert(request);
                self.dirty = true;
            }
            Ok(()) => self.operations.push(PoolOperation::Request(request)),
        }
    }

    /// Reads both keys soon, even without requests or waiters.
    pub(super) fn poll_list(&mut self) {
        self.dirty = true;
    }

    /// Reads all that a report shows, unless it was read just now.
    pub(super) fn read_for_report(&mut self, now: Moment) {
        if self
            .read_at
            .is_none_or(|read_at| read_at + POLL_INTERVAL < now)
        {
            self.dirty = true;
        }
    }

    /// Whether all that a report shows was read at `since` or later, or just before.
    pub(super) fn is_fresh(&self, since: Moment) -> bool {
        self.read_at
            .is_some_and(|read_at| read_at + POLL_INTERVAL >= since)
    }

    /// Why cycles fail, if they do.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// All operations, of the running cycle and for the next one.
    fn operations(&self) -> impl Iterator<Item = &PoolOperation> {
        let pending = self.cycle.as_ref().and_then(|(_, phase)| phase.pending());
        pending
            .into_iter()
            .flat_map(|pending| &pending.update.outcomes)
            .map(|(operation, _)| operation)
            .chain(&self.operations)
    }

    fn retain_operations(&mut self, stays: impl Fn(&PoolOperation) -> bool) {
        self.operations.retain(&stays);
        if let Some(pending) = self
            .cycle
            .as_mut()
            .and_then(|(_, phase)| phase.pending_mut())
        {
            pending
                .update
                .outcomes
                .retain(|(operation, _)| stays(operation));
        }
    }

    /// A YES did not arrive. If none about a holding granted here did, it is taken back.
    pub(super) fn undelivered(&mut self, host: &str, token: i64) {
        self.events.undelivered();
        self.undo_reply(host, token);
    }

    /// A YES was not sent after all.
    pub(super) fn undo_reply(&mut self, host: &str, token: i64) {
        self.cache.undo_reply(host, token);
        if self.cache.is_undelivered(host, token) {
            self.operations.push(PoolOperation::TakeBack {
                host: host.into(),
                token,
            });
        }
    }

    /// Answers requests that have waited for memcached for too long.
    pub(super) fn expire_requests(&mut self, context: &mut Context) {
        let is_late = |operation: &PoolOperation| {
            request_deadline(operation).is_some_and(|until| until <= context.now)
        };
        let late: Vec<_> = self
            .operations()
            .filter(|operation| is_late(operation))
            .filter_map(PoolOperation::ticket)
            .collect();
        if late.is_empty() {
            return;
        }
        self.retain_operations(|operation| !is_late(operation));
        let why = self
            .failure
            .as_deref()
            .or(context.client.outage())
            .unwrap_or("memcached does not answer");
        for ticket in late {
            let answer = Answer::Unavailable(why.to_owned());
            context.effects.answer(ticket, answer);
        }
    }

    /// When something is due without an input.
    pub(super) fn wake(&self, line_is_up: bool) -> Moment {
        let next = self
            .operations()
            .filter_map(request_deadline)
            .min()
            .unwrap_or(Moment::NEVER);
        if line_is_up && self.cycle.is_none() {
            next.min(self.next_cycle())
        } else {
            next
        }
    }

    /// When the next cycle is to begin, if none is running.
    fn next_cycle(&self) -> Moment {
        if self.dirty || !self.operations.is_empty() {
            self.backoff_until
        } else if self.waiters.is_empty() {
            Moment::NEVER
        } else {
            self.backoff_until.max(self.cycle_began + POLL_INTERVAL)
        }
    }

    /// Begins a cycle, if one is due.
    pub(super) fn begin(&mut self, number: u64, context: &mut Context) {
        if self.cycle.is_none() && self.next_cycle() <= context.now {
            let cycle = CycleId {
                pool: self.name.clone(),
                number,
            };
            (self.dirty, self.cycle_began) = (false, context.now);
            let (list, leases) = (self.list(), self.leases());
            context.client.ask(
                Command::Gets {
                    keys: &[&list, &leases, &list],
                },
                &cycle,
                context.now,
            );
            let is_revoke = |operation: &PoolOperation| matches!(operation, PoolOperation::Request(request) if matches!(request.call, Call::Revoke { .. }));
            let timed = context.is_watched || self.operations.iter().any(is_revoke);
            if timed {
                context
                    .client
                    .ask(Command::TimeLeft { key: &list }, &cycle, context.now);
            }
            self.cycle = Some((cycle, CyclePhase::Reading { timed }));
        }
    }

    /// The key of the list, as the original names it.
    fn list(&self) -> String {
        format!("{}:lockedby", self.name)
    }

    /// The key of the leases: see `leases`.
    fn leases(&self) -> String {
        format!("{}:leases", self.name)
    }

    fn tokens(&self) -> String {
        format!("{}:token", self.name)
    }

    /// Continues the cycle, if it is still the one that sent the command.
    pub(super) fn reply(
        &mut self,
        cycle: &CycleId,
        reply: Reply,
        context: &mut Context,
    ) -> Result<(), Malformed> {
        let Some((_, phase)) = self.cycle.take_if(|(current, _)| current == cycle) else {
            return Ok(());
        };
        match (phase, reply) {
            (CyclePhase::Reading { timed }, Reply::Values(values)) => {
                match Snapshot::of(values, &self.list(), &self.leases())? {
                    Ok(Some(snapshot)) if timed => {
                        self.cycle = Some((cycle.clone(), CyclePhase::Timing(snapshot)));
                    }
                    Ok(Some(snapshot)) => self.both_keys_read(cycle, snapshot, None, context),
                    Ok(None) => self.dirty = true,
                    Err(why) => self.fail(why, context),
                }
            }
            (CyclePhase::Timing(snapshot), Reply::TimeLeft(left)) => {
                let left = left.map_or(Remaining::UntilReleased, |seconds| {
                    Remaining::For(expiry::min_remaining(seconds))
                });
                self.both_keys_read(cycle, snapshot, Some(left), context);
            }
            // An old memcached does not know the command, and a list that does not exist has no
            // end.
            (CyclePhase::Timing(snapshot), Reply::Nothing | Reply::Error(_)) => {
                self.both_keys_read(cycle, snapshot, Some(Remaining::Unknown), context);
            }
            (CyclePhase::Fencing { since, kept }, Reply::Stored) => {
                self.list_written(since, kept);
                self.dirty = true;
            }
            // Another server wrote the list first.
            (CyclePhase::Fencing { .. }, Reply::Exists | Reply::NotStored | Reply::NotFound) => {
                self.dirty = true;
            }
            (CyclePhase::Writing(pending, phase), reply) => {
                return self.write_reply(cycle, pending, phase, reply, context);
            }
            (CyclePhase::Reading { .. } | CyclePhase::Fencing { .. }, Reply::Error(why)) => {
                self.fail(error_reply(&why), context);
            }
            (phase, _) => {
                self.cycle = Some((cycle.clone(), phase));
                return Err(Malformed::Unasked);
            }
        }
        Ok(())
    }

    fn write_reply(
        &mut self,
        cycle: &CycleId,
        pending: Box<PendingWrite>,
        phase: WritePhase,
        reply: Reply,
        context: &mut Context,
    ) -> Result<(), Malformed> {
        match (phase, reply) {
            (WritePhase::AllocatingTokens { .. }, Reply::Number(last)) => {
                self.tokens_allocated(cycle, pending, last, context);
            }
            (WritePhase::AllocatingTokens { seeded: false }, Reply::NotFound) => {
                let seed = context.boot.micros(context.now).to_string();
                context.client.ask(
                    Command::Add {
                        key: &self.tokens(),
                        expires: 0,
                        value: &seed,
                    },
                    cycle,
                    context.now,
                );
                self.cycle = Some((
                    cycle.clone(),
                    CyclePhase::Writing(pending, WritePhase::SeedingTokens),
                ));
            }
            (WritePhase::AllocatingTokens { seeded: true }, Reply::NotFound) => {
                self.retry(pending);
                self.fail(
                    "memcached lost a value that it had just stored (is its memory full?)"
                        .to_owned(),
                    context,
                );
            }
            (WritePhase::SeedingTokens, Reply::Stored | Reply::NotStored) => {
                self.allocate_tokens(cycle, pending, true, context);
            }
            (WritePhase::WritingLeases, Reply::Stored) => self.write_list(cycle, pending, context),
            (WritePhase::WritingList { since, kept }, Reply::Stored) => {
                self.list_written(since, kept);
                self.record_attempts(&pending, Attempt::Done);
                self.settle(pending, context);
            }
            // Another server wrote the key first.
            (WritePhase::WritingLeases, Reply::Exists | Reply::NotStored | Reply::NotFound) => {
                self.retry(pending);
            }
            (
                WritePhase::WritingList { .. },
                Reply::Exists | Reply::NotStored | Reply::NotFound,
            ) => {
                self.record_attempts(&pending, Attempt::Failed);
                self.retry(pending);
            }
            (_, Reply::Error(why)) => {
                self.retry(pending);
                self.fail(error_reply(&why), context);
            }
            (phase, _) => {
                self.cycle = Some((cycle.clone(), CyclePhase::Writing(pending, phase)));
                return Err(Malformed::Unasked);
            }
        }
        Ok(())
    }

    /// Both keys are read.
    fn both_keys_read(
        &mut self,
        cycle: &CycleId,
        snapshot: Snapshot,
        left: Option<Remaining>,
        context: &mut Context,
    ) {
        let found = self.attempts.classify(snapshot);
        self.cache.update(&found.hosts, &found.leases, |token| {
            self.attempts.has(token)
        });
        self.read_at = left.map(|left| {
            self.end = ListEnd {
                left,
                at: context.now,
            };
            self.cycle_began
        });
        // A report was requested during the read.
        self.dirty |= context.is_watched && self.read_at.is_none();
        if self.is_to_be_fenced(&found, context.now) {
            self.fence(cycle, &found, context);
        } else if self.concurrent.is_some() {
            (self.dirty, self.backoff_until) = (true, context.now + CONCURRENT_POLL_INTERVAL);
        } else {
            self.apply(cycle, found, context);
        }
    }

    /// Whether to write the list unchanged before a host is granted anything for which another
    /// write may be under way. If that write is to be awaited first, `concurrent` is set.
    fn is_to_be_fenced(&mut self, found: &ClassifiedRead, now: Moment) -> bool {
        let before = self.concurrent.take();
        if found.open.iter().any(|host| self.is_asked_for(host)) {
            return true;
        }
        // Without a list there is no version that shows which leases are old. Without this write
        // they would accumulate.
        if found.version.is_none() && !found.concurrent.is_empty() {
            return !self.operations.is_empty() || !self.waiters.is_empty();
        }
        if !found.concurrent.iter().any(|host| self.is_asked_for(host)) {
            return false;
        }
        let (version, leases_version) = (found.version, found.leases_version);
        let concurrent = before.filter(|concurrent| {
            (concurrent.version, concurrent.leases_version) == (version, leases_version)
        });
        let concurrent = concurrent.unwrap_or(ConcurrentGrant {
            version,
            leases_version,
            since: now,
        });
        let is_slow = concurrent.since + CONCURRENT_GRACE <= now;
        self.concurrent = Some(concurrent).filter(|_| !is_slow);
        is_slow
    }

    /// Whether a client of this host wants to hold the pool.
    fn is_asked_for(&self, host: &str) -> bool {
        let is_it = |operation: &PoolOperation| matches!(operation, PoolOperation::Request(request) if *request.host == *host && !matches!(request.call, Call::Revoke { .. } | Call::Release { .. }));
        self.operations.iter().any(is_it) || self.waiters.iter().any(|(waiter, ..)| waiter == host)
    }

    fn fence(&mut self, cycle: &CycleId, found: &ClassifiedRead, context: &mut Context) {
        let kept = list_update::kept(&found.hosts, &found.leases, &self.plan);
        self.send_list(cycle, &found.hosts, kept, found.version, context);
        self.cycle = Some((
            cycle.clone(),
            CyclePhase::Fencing {
                since: context.now,
                kept,
            },
        ));
    }

    fn send_list(
        &self,
        cycle: &CycleId,
        hosts: &[Rc<str>],
        kept: Lifetime,
        version: Option<u64>,
        context: &mut Context,
    ) {
        let (key, value, expires) = (
            &self.list(),
            &hosts.join(","),
            kept.exptime(context.boot, context.now),
        );
        context.client.ask(
            Command::write_over(key, version, expires, value),
            cycle,
            context.now,
        );
    }

    /// The list was written: no earlier write can take effect any more.
    fn list_written(&mut self, since: Moment, kept: Lifetime) {
        self.written = Some((since, kept));
        self.unconfirmed_write = false;
        let left = if let Lifetime::Seconds(seconds) = kept {
            Remaining::For(Duration::from_secs(seconds))
        } else {
            Remaining::UntilReleased
        };
        self.end = ListEnd { left, at: since };
    }

    fn apply(&mut self, cycle: &CycleId, mut found: ClassifiedRead, context: &mut Context) {
        let mut operations = std::mem::take(&mut self.operations);
        operations.retain(|operation| !matches!(operation, PoolOperation::TakeBack { host, token } if !self.cache.is_undelivered(host, *token)));
        let terms = UpdateContext {
            plan: &self.plan,
            is_removed: self.removed.is_some(),
            base: found.version,
            date: context.date(),
            granted_here: &|token| self.attempts.has(token),
        };
        let (hosts, leases) = (
            std::mem::take(&mut found.hosts),
            std::mem::take(&mut found.leases),
        );
        let mut update = ListUpdate::new(hosts, leases, operations, &mut self.waiters, &terms);
        self.operations.append(&mut update.deferred);
        self.dirty |= update.needs_another_cycle(&self.waiters);
        let writes_list = update.list_changed || self.is_to_write_first(&update, context.now);
        let pending = Box::new(PendingWrite {
            update,
            found,
            writes_list,
        });
        if !pending.update.unnumbered.is_empty() {
            self.allocate_tokens(cycle, pending, false, context);
        } else if pending.update.leases_changed {
            self.write_leases(cycle, pending, context);
        } else {
            self.write_list(cycle, pending, context);
        }
    }

    /// Whether a reply is not covered by this server's last write of the list.
    fn is_to_write_first(&self, update: &ListUpdate, now: Moment) -> bool {
        let mut confirmed = update.confirmed().peekable();
        self.unconfirmed_write && !update.outcomes.is_empty()
            || confirmed
                .any(|host| self.client_lease(&update.leases, host, now) == ClientLease::TooShort)
    }

    /// What a client can be told of a lease now.
    fn client_lease(&self, leases: &Leases, host: &str, now: Moment) -> ClientLease {
        match (self.written, leases.get(host)) {
            (Some((since, kept)), Some(lease)) if lease.length <= kept => {
                lease::for_client(lease.length.ends(since), now)
            }
            _ => ClientLease::TooShort,
        }
    }

    fn allocate_tokens(
        &mut self,
        cycle: &CycleId,
        pending: Box<PendingWrite>,
        seeded: bool,
        context: &mut Context,
    ) {
        context.client.ask(
            Command::Incr {
                key: &self.tokens(),
                by: count(&pending),
            },
            cycle,
            context.now,
        );
        self.cycle = Some((
            cycle.clone(),
            CyclePhase::Writing(pending, WritePhase::AllocatingTokens { seeded }),
        ));
    }

    fn tokens_allocated(
        &mut self,
        cycle: &CycleId,
        mut pending: Box<PendingWrite>,
        last: u64,
        context: &mut Context,
    ) {
        let [last, count] =
            [last, count(&pending)].map(|number| i64::try_from(number).unwrap_or(i64::MAX));
        let ListUpdate {
            unnumbered, leases, ..
        } = &mut pending.update;
        for (host, token) in unnumbered
            .iter()
            .zip(last.saturating_sub(count).saturating_add(1)..)
        {
            if let Some(lease) = leases.get_mut(host) {
                lease.token = token;
                if !lease.confirmed {
                    self.attempts.insert(token, Attempt::Open);
                }
            }
        }
        self.write_leases(cycle, pending, context);
    }

    fn write_leases(&mut self, cycle: &CycleId, pending: Box<PendingWrite>, context: &mut Context) {
        // Leases of released hosts stay until the list is written: they hold the pool until then.
        let mut leases = pending.found.known.clone();
        leases.extend(pending.update.leases.clone());
        self.send_leases(cycle, &leases, pending.found.leases_version, context);
        self.cycle = Some((
            cycle.clone(),
            CyclePhase::Writing(pending, WritePhase::WritingLeases),
        ));
    }

    /// The leases never expire in memcached, so they outlast any list.
    fn send_leases(
        &self,
        cycle: &CycleId,
        leases: &Leases,
        version: Option<u64>,
        context: &mut Context,
    ) {
        context.client.ask(
            Command::write_over(&self.leases(), version, 0, &leases::text(leases)),
            cycle,
            context.now,
        );
    }

    fn write_list(&mut self, cycle: &CycleId, pending: Box<PendingWrite>, context: &mut Context) {
        if !pending.writes_list {
            return self.settle(pending, context);
        }
        let kept = pending.update.kept(&self.plan);
        self.send_list(
            cycle,
            &pending.update.hosts,
            kept,
            pending.found.version,
            context,
        );
        self.cycle = Some((
            cycle.clone(),
            CyclePhase::Writing(
                pending,
                WritePhase::WritingList {
                    since: context.now,
                    kept,
                },
            ),
        ));
    }

    /// Records whether the hosts of this write came on the list.
    fn record_attempts(&mut self, pending: &PendingWrite, outcome: Attempt) {
        let ListUpdate {
            unnumbered, leases, ..
        } = &pending.update;
        for lease in unnumbered
            .iter()
            .filter_map(|host| leases.get(host))
            .filter(|lease| !lease.confirmed)
        {
            self.attempts.insert(lease.token, outcome);
        }
    }

    /// Both keys are as the update has them: sends its answers.
    fn settle(&mut self, pending: Box<PendingWrite>, context: &mut Context) {
        let now = context.now;
        if let Some(outage) = context.client.recovered(now) {
            context.note(
                Level::Warning,
                format!(
                    "memcached at {} answers again, after {:.1} s",
                    context.address,
                    outage.as_secs_f64()
                ),
            );
        }
        if self.failure.take().is_some() {
            context.note(
                Level::Warning,
                format!("{} can be granted and released again", self.name),
            );
        }
        let ListUpdate {
            hosts,
            leases,
            list_changed,
            leases_changed,
            ..
        } = &pending.update;
        if *list_changed || *leases_changed {
            self.cache
                .update(hosts, leases, |token| self.attempts.has(token));
        }
        self.drop_stale_leases(&pending, context);
        if pending
            .update
            .confirmed()
            .any(|host| self.client_lease(leases, host, now) == ClientLease::TooShort)
        {
            return self.retry(pending); // the write took so long that too little is left
        }
        for (operation, outcome) in &pending.update.outcomes {
            match operation {
                PoolOperation::Request(request) if *outcome == UpdateOutcome::Yes => {
                    self.reply_yes(request, &pending.update, context);
                }
                PoolOperation::Request(request) if *outcome == UpdateOutcome::Revoked => {
                    self.revoked(request, leases, context);
                }
                PoolOperation::Request(request) => self.answer(request, *outcome, context),
                PoolOperation::TakeBack { host, token } => {
                    if *outcome == UpdateOutcome::TakenBack(true) {
                        self.events.taken_back(host, *token, context);
                    }
                }
            }
        }
        let undelivered =
            self.cache
                .undelivered_holders()
                .map(|(host, token)| PoolOperation::TakeBack {
                    host: host.clone(),
                    token,
                });
        self.operations.extend(undelivered.collect::<Vec<_>>());
    }

    /// Drops leases without effect that this cycle has not written, so that no old token matches a
    /// host that the original adds to the list. The reply is ignored: if the write fails, another
    /// cycle repeats it.
    fn drop_stale_leases(&self, pending: &PendingWrite, context: &mut Context) {
        if pending.update.leases_changed {
            return;
        }
        let is_on = |host: &Rc<str>| pending.update.hosts.contains(host);
        let mut leases = pending.found.known.clone();
        if pending.writes_list {
            leases.retain(|host, _| is_on(host));
        }
        if pending.found.stale || leases.len() < pending.found.known.len() {
            let untracked = CycleId {
                pool: self.name.clone(),
                number: UNTRACKED,
            };
            self.send_leases(&untracked, &leases, pending.found.leases_version, context);
        }
    }

    fn reply_yes(&mut self, request: &PendingRequest, update: &ListUpdate, context: &mut Context) {
        let expires = match self.client_lease(&update.leases, &request.host, context.now) {
            ClientLease::For(left) => Some(left),
            ClientLease::UntilReleased => None,
            ClientLease::TooShort => return, // `settle` has retried
        };
        let token = update
            .leases
            .get(&request.host)
            .map_or(0, |lease| lease.token);
        if self.cache.record_reply(&request.host) && update.unnumbered.contains(&request.host) {
            let (run, now) = (request.run.as_ref(), context.now);
            let waited = now.since(request.since);
            self.events
                .granted(&request.host, token, run, waited, context, now);
        }
        context.effects.yes(Yes {
            request: request.clone(),
            pool: self.name.clone(),
            grant: Grant { token, expires },
        });
    }

    fn answer(&mut self, request: &PendingRequest, outcome: UpdateOutcome, context: &mut Context) {
        let answer = match outcome {
            UpdateOutcome::Yes | UpdateOutcome::Revoked | UpdateOutcome::TakenBack(_) => return,
            UpdateOutcome::No => {
                self.events.refused();
                Answer::No
            }
            UpdateOutcome::NoRevoked => {
                self.events.refused();
                Answer::NoRevoked
            }
            UpdateOutcome::NoOuter => {
                self.events.refused();
                Answer::NoOuter
            }
            UpdateOutcome::Ok { held } => {
                if held {
                    self.events.released(&request.host, None, context);
                }
                Answer::Ok
            }
            UpdateOutcome::NotReleased(why) => Answer::NotReleased(why),
            UpdateOutcome::NotHeld => Answer::NotHeld,
            UpdateOutcome::OtherToken => Answer::OtherToken,
            UpdateOutcome::Invalid(why) => {
                self.events.invalid(&request.host, why, context);
                Answer::Invalid(why)
            }
        };
        context.answer(request.ticket, answer);
    }

    fn revoked(&self, request: &PendingRequest, leases: &Leases, context: &mut Context) {
        let Some(lease) = leases.get(&request.host) else {
            return;
        };
        self.events.revoked(&request.host, lease.token, context);
        let ends = match (self.ends(context.now), lease.length) {
            (Remaining::For(left), _) => Remaining::For(left + expiry::TICK), /* the latest end, not the earliest */
            (Remaining::UntilReleased, _) | (Remaining::Unknown, Lifetime::UntilReleased) => {
                Remaining::UntilReleased
            }
            // An old memcached does not report how long it keeps the list.
            (Remaining::Unknown, Lifetime::Seconds(_)) => Remaining::Unknown,
        };
        context.answer(
            request.ticket,
            Answer::Revocation {
                token: Some(lease.token),
                ends,
            },
        );
    }

    /// The cycle fails.
    fn fail(&mut self, why: String, context: &mut Context) {
        if self.failure.is_none() {
            context.note(
                Level::Error,
                format!("cannot grant or release {}: {why}", self.name),
            );
        }
        self.failure = Some(why);
        self.backoff_until = context.now + POLL_INTERVAL;
    }

    /// Queues the operations of a failed write again, before all others.
    fn retry(&mut self, pending: Box<PendingWrite>) {
        self.dirty = true;
        let mut operations = Vec::new();
        let ListUpdate {
            leases,
            unnumbered,
            outcomes,
            ..
        } = pending.update;
        for (mut operation, outcome) in outcomes {
            // The host may hold the pool with another token by then, which was not meant.
            if let (PoolOperation::Request(request), UpdateOutcome::Revoked) =
                (&mut operation, outcome)
                && let Some(lease) = leases.get(&request.host)
                && !unnumbered.contains(&request.host)
            {
                let token = Some(lease.token);
                request.call = Call::Revoke { token };
            }
            match operation {
                PoolOperation::Request(request) if request.call == Call::Wait => {
                    self.waiters.insert(request);
                }
                operation => operations.push(operation),
            }
        }
        operations.append(&mut self.operations);
        self.operations = operations;
    }

    /// The connection is lost. Commands that were sent may have taken effect, or may still do so.
    pub(super) fn disconnected(&mut self) {
        self.read_at = None;
        let Some((_, phase)) = self.cycle.take() else {
            return;
        };
        self.unconfirmed_write |= phase.writes_list();
        if let CyclePhase::Writing(pending, _) = phase {
            self.retry(pending);
        }
    }

    /// When memcached ends the list.
    fn ends(&self, now: Moment) -> Remaining {
        match self.end {
            ListEnd {
                left: Remaining::For(left),
                at,
            } => Remaining::For(left.saturating_sub(now.since(at))),
            ListEnd { left, .. } => left,
        }
    }

    /// The pool as last read. `held` is by the clock of the server that granted the holding.
    pub(super) fn report(&self, boot: BootTime, now: Moment) -> Report<'_> {
        let (ends, date) = (self.ends(now), boot.date_of(now));
        let holders = self
            .cache
            .holders()
            .into_iter()
            .map(|(host, lease)| Holder {
                host: unescaped(host),
                run: lease.and_then(|lease| lease.run.as_deref()),
                token: lease.map(|lease| lease.token),
                held: lease.map(|lease| Duration::from_millis(date.saturating_sub(lease.acquired))),
                ends,
                revoked: lease.is_some_and(|lease| lease.revoked),
            });
        Report {
            pool: &self.name,
            permits: if self.removed.is_some() {
                0
            } else {
                self.plan.permits
            },
            expire: self.plan.expire,
            age: self.read_at.map(|read_at| now.since(read_at)),
            holders: holders.collect(),
            waiters: self.waiters.report(now, unescaped),
            counters: self.events.counters(),
        }
    }
}

/// When an operation fails if memcached does not answer; `None`: never.
fn request_deadline(operation: &PoolOperation) -> Option<Moment> {
    match operation {
        PoolOperation::Request(request) if request.call != Call::Wait => {
            Some(request.since + REQUEST_TIMEOUT)
        }
        _ => None,
    }
}

/// How many tokens the write needs.
fn count(pending: &PendingWrite) -> u64 {
    u64::try_from(pending.update.unnumbered.len()).unwrap_or(u64::MAX)
}

fn error_reply(why: &str) -> String {
    format!("memcached refuses: {why}")
}

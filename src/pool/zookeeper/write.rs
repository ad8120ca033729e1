//! The writes of the cycles of a pool, and what follows from their answers.

use super::super::events::Log;
use super::Context;
use super::cycle::Phase;
use super::record::Record;
use super::shared_pool::SharedPool;
use super::update::Update;
use crate::moment::Moment;
use crate::plan::{Level, PoolEnsemble};
use crate::zookeeper::code::Code;
use crate::zookeeper::request::{self, Operation, Request};
use std::rc::Rc;
use std::time::Duration;

/// From an error to the next cycle.
pub(super) const BACKOFF: Duration = Duration::from_millis(250);

/// After this time without reading the record, a server gives the positions of its waiters up: the
/// waiters of other servers wait behind them. A dead server holds them up as long by default.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// `setData` with this version changes a node of any version, and a check of it proves nothing. Each
/// change adds 1, and after 2^31 - 1 come negative numbers, of which this is the last.
const ANY_VERSION: i32 = -1;

/// Why cycles fail.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) why: String,
    pub(super) since: Moment,
    /// Only a change of the node shows that it is over.
    pub(super) of_write: bool,
}

/// A write whose answer was lost: what it would have written, and when it was sent.
#[derive(Debug)]
pub(super) struct LostWrite {
    pub(super) record: Record,
    pub(super) renewed: Vec<Rc<str>>,
    pub(super) sent: Moment,
}

impl SharedPool {
    pub(super) fn write(&mut self, update: Update, context: &mut Context) {
        let Some(known) = &self.known else { return };
        let (path, version) = (self.path.to_string(), known.version);
        let data = if update.is_changed {
            update.record.text()
        } else {
            Vec::new()
        };
        if let Some(why) = unwritable(&path, version, data.len()) {
            self.retry(update, false, context);
            return self.fail_to_write(why, context);
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
        for (hosts, is_logged) in [(&update.granted, false), (&update.joined, true)] {
            for host in hosts {
                if let Some(holding) = update.record.holders.get(host) {
                    self.deliveries.begin(host, holding.token, is_logged);
                }
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
    pub(super) fn not_written(&mut self, update: Update, code: Code, context: &mut Context) {
        for host in update.granted.iter().chain(&update.joined) {
            if let Some(holding) = update.record.holders.get(host) {
                self.deliveries.not_begun(holding.token);
            }
        }
        self.retry(update, false, context);
        if code == Code::BAD_VERSION || code == Code::NO_NODE {
            self.is_current = false;
        } else {
            self.fail_to_write(format!("cannot write {}: {code}", self.path), context);
        }
    }

    pub(super) fn committed(&mut self, mut update: Update, sent: Moment, context: &mut Context) {
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
            known.first_ends = self.sightings.first_ends(&known.record);
        }
        self.queue.served(update.record.served);
        let record = &update.record;
        self.queue.unpark(|host| record.holders.contains_key(host));
        self.deliveries.retain(record, context.server);
        for (host, holding) in std::mem::take(&mut update.expired) {
            let held = Duration::from_millis(context.date().saturating_sub(holding.since));
            let why = format!("its lease ended after {:.1} s", held.as_secs_f64());
            self.events.expired(&host, holding.token, &why, context);
        }
        for (host, token) in std::mem::take(&mut update.taken_back) {
            self.events.taken_back(&host, token, context);
        }
        self.recovered(update.is_changed, context);
        self.settle(update, sent, context);
        self.is_dirty |= self.queue.unqueued().next().is_some();
    }

    /// A cycle has succeeded. `writes`: it has changed the node.
    pub(super) fn recovered(&mut self, writes: bool, context: &mut Context) {
        if self
            .failure
            .take_if(|failure| writes || !failure.of_write)
            .is_some()
        {
            let note = format!("{} can be granted and released again", self.name);
            context.note(Level::Warning, note);
        }
    }

    /// The cycle fails.
    pub(super) fn fail(&mut self, why: String, context: &mut Context) {
        self.fail_by(why, false, context);
    }

    /// The cycle fails, because nothing can be changed.
    pub(super) fn fail_to_write(&mut self, why: String, context: &mut Context) {
        self.fail_by(why, true, context);
    }

    fn fail_by(&mut self, why: String, of_write: bool, context: &mut Context) {
        if self.failure.is_none() {
            let note = format!("cannot grant or release {}: {why}", self.name);
            context.note(Level::Error, note);
        }
        let before = self.failure.take();
        let failure = Failure {
            why,
            since: before.as_ref().map_or(context.now, |failure| failure.since),
            of_write: of_write || before.is_some_and(|failure| failure.of_write),
        };
        if !of_write && failure.since + GIVE_UP_AFTER <= context.now {
            self.queue.give_up();
        }
        self.failure = Some(failure);
        self.is_dirty = true;
        self.backoff_until = context.now + BACKOFF;
    }

    /// The connection is lost. A write that was sent may have been carried out.
    pub(super) fn disconnected(&mut self, context: &mut Context) {
        self.is_current = false;
        self.queue.disconnected();
        match self.phase.take() {
            Some(Phase::Reading { is_fresh }) => self.is_read_needed |= is_fresh,
            Some(Phase::Creating { .. }) => self.is_read_needed = true,
            Some(Phase::Writing { update, sent, .. }) => {
                self.lost_write = Some(LostWrite {
                    record: update.record.clone(),
                    renewed: update.renewed.iter().cloned().collect(),
                    sent,
                });
                self.retry(*update, true, context);
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
}

/// Why the node cannot be written, if it cannot.
fn unwritable(path: &str, version: i32, length: usize) -> Option<String> {
    let most = PoolEnsemble::MAX_RECORD;
    if version == ANY_VERSION {
        Some(format!(
            "{path} was changed 2^32 times and cannot be changed any more: delete it once no client holds the pool"
        ))
    } else if length > most {
        Some(format!(
            "its holders do not fit into {path}, which has {most} bytes at most: lower \"maxlocks\""
        ))
    } else {
        None
    }
}

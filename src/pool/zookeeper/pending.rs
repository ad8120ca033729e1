//! The requests of a pool that are not answered yet, apart from waiters: those of the write that is on
//! its way, and those for the next cycle.

use super::super::{Answer, Call, Ticket};
use super::cycle::Phase;
use super::shared_pool::SharedPool;
use super::update::{PoolOperation, Update, UpdateOutcome};
use super::{Context, REQUEST_TIMEOUT};
use crate::moment::Moment;

impl SharedPool {
    /// All operations, of the running cycle and for the next one.
    pub(super) fn all_operations(&self) -> impl Iterator<Item = &PoolOperation> {
        let writing = match &self.phase {
            Some(Phase::Writing { update, .. }) => &update.outcomes[..],
            _ => &[],
        };
        let written = writing.iter().map(|(operation, _)| operation);
        written.chain(&self.operations)
    }

    pub(super) fn retain_operations(&mut self, stays: impl Fn(&PoolOperation) -> bool) {
        self.operations.retain(&stays);
        if let Some(Phase::Writing { update, .. }) = &mut self.phase {
            update.outcomes.retain(|(operation, _)| stays(operation));
        }
    }

    pub(super) fn is_being_served(&self, ticket: Ticket) -> bool {
        matches!(&self.phase, Some(Phase::Writing { update, .. }) if update.served.contains(&ticket))
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
            Some(failure) => failure.why.clone(),
            None => context.outage(),
        };
        for ticket in late {
            context.answer(ticket, Answer::Unavailable(why.clone()));
        }
    }

    /// Queues operations for the next cycle, before all others. The config may have changed since
    /// their requests arrived.
    pub(super) fn requeue(&mut self, operations: Vec<PoolOperation>, context: &mut Context) {
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
    pub(super) fn retry(&mut self, update: Update, is_unsure: bool, context: &mut Context) {
        self.is_dirty = true;
        let holders = &update.record.holders;
        let operations = update.outcomes.into_iter().map(|(mut operation, outcome)| {
            // The host may hold the pool with another token by then, which was not meant.
            if let (UpdateOutcome::Revoked, true) = (outcome, is_unsure)
                && let Some(holding) = holders.get(&operation.request.host)
            {
                let token = Some(holding.token);
                operation.request.call = Call::Revoke { token };
            }
            let released = match outcome {
                UpdateOutcome::Released { token, .. } if is_unsure => Some(token),
                _ => operation.released,
            };
            PoolOperation {
                released,
                ..operation
            }
        });
        self.requeue(operations.collect(), context);
        // Waiters that have gone meanwhile.
        for ticket in update.served {
            if self.waiters.get(ticket).is_none() {
                self.queue.leave(ticket);
            }
        }
    }
}

/// When an operation fails if ZooKeeper does not answer; `None`: never.
pub(super) fn request_deadline(operation: &PoolOperation) -> Option<Moment> {
    let request = &operation.request;
    (request.call != Call::Wait).then(|| request.since + REQUEST_TIMEOUT)
}

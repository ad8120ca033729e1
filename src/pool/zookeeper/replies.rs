//! The answers of a pool, once the record is as an update has it.

use super::super::effects::Yes;
use super::super::lease::{self, ClientLease};
use super::super::waiters::PendingRequest;
use super::super::{Answer, Call, Grant};
use super::Context;
use super::record::Record;
use super::shared_pool::SharedPool;
use super::update::{self, PoolOperation, Update, UpdateOutcome};
use super::write::BACKOFF;
use crate::moment::Moment;
use std::time::Duration;

impl SharedPool {
    /// A YES did not arrive. If none about a holding granted here did, it is taken back.
    pub(super) fn undelivered(&mut self, host: &str, token: i64) {
        self.events.undelivered();
        self.undo_reply(host, token);
    }

    /// A YES was not sent after all.
    pub(super) fn undo_reply(&mut self, host: &str, token: i64) {
        self.deliveries.undone(host, token);
    }

    /// The record is as the update has it: sends its answers. `sent`: when it was written.
    pub(super) fn settle(&mut self, update: Update, sent: Moment, context: &mut Context) {
        let Update {
            record,
            renewed,
            outcomes,
            ..
        } = update;
        let mut too_short = Vec::new();
        for (PoolOperation { request, .. }, outcome) in outcomes {
            if outcome == UpdateOutcome::Yes {
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
    pub(super) fn reply_yes(
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
        context.effects.yes(Yes {
            request: request.clone(),
            pool: self.name.clone(),
            grant: Grant { token, expires },
        });
        true
    }

    pub(super) fn answer(
        &mut self,
        request: &PendingRequest,
        outcome: UpdateOutcome,
        context: &mut Context,
    ) {
        let answer = match outcome {
            UpdateOutcome::Yes => return, // see `reply_yes`
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
            UpdateOutcome::NothingReleased => Answer::Ok,
            UpdateOutcome::Released { token, since } => {
                let held = Duration::from_millis(context.date().saturating_sub(since));
                self.events
                    .released(&request.host, Some((token, held)), context);
                Answer::Ok
            }
            UpdateOutcome::NotReleased(why) => Answer::NotReleased(why),
            UpdateOutcome::Revoked => self.revocation(&request.host, context),
            UpdateOutcome::NotHeld => Answer::NotHeld,
            UpdateOutcome::OtherToken => Answer::OtherToken,
            UpdateOutcome::Invalid(why) => {
                self.events.invalid(&request.host, why, context);
                Answer::Invalid(why)
            }
        };
        context.answer(request.ticket, answer);
    }

    pub(super) fn revocation(&mut self, host: &str, context: &mut Context) -> Answer {
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
}

//! The replies about holdings whose clients may not know of them. The record lists the servers that
//! may have told one ([`Holding::told_by`]): the one that granted the holding, and each that has
//! confirmed it, until a request shows the token. A server of which no reply arrived, or that has
//! answered only that it fails, takes itself off the list. The last one takes the holding back.

use super::super::reply_delivery::ReplyDelivery;
use super::record::{Holding, Record};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What the client of one holding may know of it.
#[derive(Debug)]
struct Delivery {
    host: Rc<str>,
    replies: ReplyDelivery,
    /// The log has the grant.
    is_logged: bool,
}

/// The holdings of a pool of which this server may tell a client, and which of them no client can
/// know of by it.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    by_token: BTreeMap<i64, Delivery>,
    /// The tokens of holdings that no client can know of by this server.
    undelivered: BTreeSet<i64>,
}

impl Deliveries {
    /// The write that lists this server is sent. `is_logged`: another server has granted the holding.
    pub(super) fn begin(&mut self, host: &Rc<str>, token: i64, is_logged: bool) {
        let delivery = Delivery {
            host: host.clone(),
            replies: ReplyDelivery::default(),
            is_logged,
        };
        self.by_token.insert(token, delivery);
        self.undelivered.insert(token);
    }

    /// Forgets the holdings that have ended, and those that do not list this server any more.
    pub(super) fn retain(&mut self, record: &Record, server: i64) {
        self.by_token.retain(|token, delivery| {
            let is_it = |it: &Holding| it.token == *token && it.told_by.contains(&server);
            record.holders.get(&delivery.host).is_some_and(is_it)
        });
        let by_token = &self.by_token;
        self.undelivered
            .retain(|token| by_token.contains_key(token));
    }

    /// That write has failed.
    pub(super) fn not_begun(&mut self, token: i64) {
        self.by_token.remove(&token);
        self.undelivered.remove(&token);
    }

    /// A YES is sent. Returns whether it is the first of a holding that was granted here.
    pub(super) fn told(&mut self, token: i64) -> bool {
        self.change(token, |delivery| {
            delivery.replies.told();
            !std::mem::replace(&mut delivery.is_logged, true)
        })
    }

    /// A YES was not sent after all, or did not arrive.
    pub(super) fn undone(&mut self, host: &str, token: i64) {
        self.change(token, |delivery| {
            if *delivery.host == *host {
                delivery.replies.undone();
            }
            false
        });
    }

    /// The host sends this token, so it knows of the holding.
    pub(super) fn confirmed(&mut self, host: &str, token: i64) {
        self.change(token, |delivery| {
            if *delivery.host == *host {
                delivery.replies.confirmed();
            }
            false
        });
    }

    fn change(&mut self, token: i64, change: impl FnOnce(&mut Delivery) -> bool) -> bool {
        let Some(delivery) = self.by_token.get_mut(&token) else {
            return false;
        };
        let changed = change(delivery);
        if delivery.replies.is_undelivered() {
            self.undelivered.insert(token);
        } else {
            self.undelivered.remove(&token);
        }
        changed
    }

    /// The holdings that no client can know of by this server.
    pub(super) fn undelivered(&self) -> Vec<(Rc<str>, i64)> {
        let tokens = self.undelivered.iter();
        tokens
            .filter_map(|token| Some((self.by_token.get(token)?.host.clone(), *token)))
            .collect()
    }

    /// Whether no holding of this server is left.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_token.is_empty()
    }

    /// Whether there are any.
    pub(super) fn has_undelivered(&self) -> bool {
        !self.undelivered.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of a holding of the host `a` that lists this server.
    fn holding(token: i64, server: i64) -> Record {
        let mut record = Record::new(token);
        let holding = Holding {
            token,
            run: None,
            since: 0,
            lease: None,
            renewal: 0,
            by: server,
            told_by: [server].into(),
            revoked: false,
        };
        record.holders.insert("a".into(), holding);
        record
    }

    #[test]
    fn holding_is_undelivered_until_a_yes_is_sent_and_again_if_none_arrives() {
        let mut deliveries = Deliveries::default();
        let undelivered = |deliveries: &Deliveries| {
            let found = deliveries.undelivered().into_iter();
            assert_eq!(
                deliveries.has_undelivered(),
                !deliveries.undelivered().is_empty()
            );
            found.map(|(_, token)| token).collect::<Vec<_>>()
        };
        for token in [1, 2, 3] {
            deliveries.begin(&"a".into(), token, false);
        }
        deliveries.not_begun(3);
        assert_eq!(undelivered(&deliveries), [1, 2]);
        assert_eq!((deliveries.told(1), deliveries.told(1)), (true, false));
        assert_eq!(undelivered(&deliveries), [2]);
        deliveries.undone("a", 1);
        deliveries.undone("b", 1);
        assert_eq!(undelivered(&deliveries), [2]);
        deliveries.undone("a", 1);
        assert_eq!(undelivered(&deliveries), [1, 2]);
        deliveries.confirmed("b", 1);
        assert_eq!(undelivered(&deliveries), [1, 2]);
        deliveries.confirmed("a", 1);
        assert_eq!(undelivered(&deliveries), [2]);
        assert!(!deliveries.told(3), "it was not granted");
        deliveries.retain(&holding(2, 5), 5);
        assert_eq!(undelivered(&deliveries), [2]);
        deliveries.retain(&holding(2, 6), 5);
        assert_eq!(undelivered(&deliveries), [0; 0]);
    }
}

//! The replies about the holdings that this server granted. A holding that no client can know of is
//! taken back.
//!
//! Only the server that granted a holding takes it back, and only while it has written all of its
//! renewals: another server renews a holding when it answers YES.

use super::super::reply_delivery::ReplyDelivery;
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

/// The holdings of a pool that this server has granted, and which of them no client can know of.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    by_token: BTreeMap<i64, Delivery>,
    /// The tokens of holdings that no client can know of.
    undelivered: BTreeSet<i64>,
}

impl Deliveries {
    /// The write that grants this holding is sent.
    pub(super) fn granting(&mut self, host: &Rc<str>, token: i64) {
        let delivery = Delivery {
            host: host.clone(),
            replies: ReplyDelivery::default(),
            is_logged: false,
        };
        self.by_token.insert(token, delivery);
        self.undelivered.insert(token);
    }

    /// Forgets what does not hold the pool any more, and what another server has renewed.
    pub(super) fn retain(&mut self, is_own: impl Fn(&str, i64) -> bool) {
        self.by_token
            .retain(|token, delivery| is_own(&delivery.host, *token));
        let by_token = &self.by_token;
        self.undelivered
            .retain(|token| by_token.contains_key(token));
    }

    /// The write that was to grant this holding has failed.
    pub(super) fn not_granted(&mut self, token: i64) {
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

    /// The holdings that no client can know of.
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
            deliveries.granting(&"a".into(), token);
        }
        deliveries.not_granted(3);
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
        deliveries.retain(|host, token| host == "a" && token == 1);
        assert_eq!(undelivered(&deliveries), [0; 0]);
    }
}

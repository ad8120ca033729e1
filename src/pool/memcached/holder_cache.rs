//! The hosts on the list as it was last read or written, their leases, and what this server alone
//! knows about each: whether it granted the holding, and whether a reply may have reached the host.

use super::super::reply_delivery::ReplyDelivery;
use super::leases::{Lease, Leases};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A host on the list that has a lease.
#[derive(Clone, PartialEq, Eq, Debug)]
struct CachedHolder {
    lease: Lease,
    /// This server put the host on the list.
    granted_here: bool,
    /// The replies that this server gave.
    delivery: ReplyDelivery,
}

impl CachedHolder {
    /// This server put the host on the list, and no reply can have reached the host.
    fn is_undelivered(&self) -> bool {
        self.granted_here && self.delivery.is_undelivered() && !self.lease.confirmed
    }
}

/// The holders of a pool as this server knows them.
#[derive(Debug, Default)]
pub(super) struct HolderCache {
    /// As on the list. The original may have added a host more than once.
    hosts: Vec<Rc<str>>,
    known: BTreeMap<Rc<str>, CachedHolder>,
}

impl HolderCache {
    pub(super) fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// In the order of their names. The original added the hosts that have no lease.
    pub(super) fn holders(&self) -> Vec<(&str, Option<&Lease>)> {
        let mut holders: Vec<_> = self
            .hosts
            .iter()
            .map(|host| (&**host, self.known.get(host).map(|known| &known.lease)))
            .collect();
        holders.sort_unstable_by_key(|(host, _)| *host);
        holders.dedup_by_key(|(host, _)| *host);
        holders
    }

    /// Replaces list and leases. What is known of a holding stays known as long as its token is the
    /// same.
    pub(super) fn update(
        &mut self,
        hosts: &[Rc<str>],
        leases: &Leases,
        granted_here: impl Fn(i64) -> bool,
    ) {
        let before = std::mem::take(&mut self.known);
        let known = |host: &Rc<str>| {
            let lease = leases.get(host)?.clone();
            let same = before
                .get(host)
                .filter(|known| known.lease.token == lease.token);
            let delivery = same.map_or(ReplyDelivery::default(), |known| known.delivery);
            Some((
                host.clone(),
                CachedHolder {
                    granted_here: granted_here(lease.token),
                    lease,
                    delivery,
                },
            ))
        };
        self.known = hosts.iter().filter_map(known).collect();
        self.hosts = hosts.to_vec();
    }

    /// A YES is sent to the host. Returns whether it is the only one.
    pub(super) fn record_reply(&mut self, host: &str) -> bool {
        self.known
            .get_mut(host)
            .is_some_and(|known| known.delivery.told())
    }

    /// A YES did not arrive.
    pub(super) fn undo_reply(&mut self, host: &str, token: i64) {
        if let Some(known) = self
            .known
            .get_mut(host)
            .filter(|known| known.lease.token == token)
        {
            known.delivery.undone();
        }
    }

    /// The host sends the token, so a reply has reached it.
    pub(super) fn record_ack(&mut self, host: &str, token: Option<i64>) {
        if let Some(known) = self
            .known
            .get_mut(host)
            .filter(|known| Some(known.lease.token) == token)
        {
            known.delivery.confirmed();
        }
    }

    /// Whether this server granted this holding and no reply can have reached the host.
    pub(super) fn is_undelivered(&self, host: &str, token: i64) -> bool {
        self.known
            .get(host)
            .is_some_and(|known| known.lease.token == token && known.is_undelivered())
    }

    /// All such holdings, with their tokens.
    pub(super) fn undelivered_holders(&self) -> impl Iterator<Item = (&Rc<str>, i64)> {
        self.known
            .iter()
            .filter(|(_, known)| known.is_undelivered())
            .map(|(host, known)| (host, known.lease.token))
    }
}

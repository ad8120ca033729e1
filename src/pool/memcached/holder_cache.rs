//! The hosts on a list, as it was seen last, and their leases; and what this server knows of them:
//! whether it granted them, and whether they were told.

use super::leases::{Lease, Leases};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A host on the list that has a lease.
#[derive(Clone, PartialEq, Eq, Debug)]
struct CachedHolder {
    lease: Lease,
    /// It was put there by this server.
    granted_here: bool,
    /// Answers YES that were given here, and not in vain.
    answers: u32,
    /// It has shown that it knows its token: one of them has arrived.
    heard: bool,
}

impl CachedHolder {
    /// It was put on the list here, and does not know.
    fn is_undelivered(&self) -> bool {
        self.granted_here && self.answers == 0 && !self.heard && !self.lease.confirmed
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct HolderCache {
    /// As on the list. The original may have put many there.
    hosts: Vec<Rc<str>>,
    known: BTreeMap<Rc<str>, CachedHolder>,
}

impl HolderCache {
    pub(super) fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// By name. A host without a lease was put there by the original.
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

    /// Takes in a list and its leases as they are now.
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
            let (answers, heard) = same.map_or((0, false), |known| (known.answers, known.heard));
            Some((
                host.clone(),
                CachedHolder {
                    granted_here: granted_here(lease.token),
                    lease,
                    answers,
                    heard,
                },
            ))
        };
        self.known = hosts.iter().filter_map(known).collect();
        self.hosts = hosts.to_vec();
    }

    /// The host is told that it is on the list. Whether that is the first it hears of it.
    pub(super) fn record_reply(&mut self, host: &str) -> bool {
        let Some(known) = self.known.get_mut(host) else {
            return false;
        };
        known.answers = known.answers.saturating_add(1);
        known.answers == 1
    }

    /// Telling it was in vain.
    pub(super) fn undo_reply(&mut self, host: &str, token: i64) {
        if let Some(known) = self
            .known
            .get_mut(host)
            .filter(|known| known.lease.token == token)
        {
            known.answers = known.answers.saturating_sub(1);
        }
    }

    /// The host says that it is on the list by this token.
    pub(super) fn record_ack(&mut self, host: &str, token: Option<i64>) {
        if let Some(known) = self
            .known
            .get_mut(host)
            .filter(|known| Some(known.lease.token) == token)
        {
            known.heard = true;
        }
    }

    /// Whether the host was put on the list here by this token, and does not know.
    pub(super) fn is_undelivered(&self, host: &str, token: i64) -> bool {
        self.known
            .get(host)
            .is_some_and(|known| known.lease.token == token && known.is_undelivered())
    }

    /// All of those.
    pub(super) fn undelivered_holders(&self) -> impl Iterator<Item = (&Rc<str>, i64)> {
        self.known
            .iter()
            .filter(|(_, known)| known.is_undelivered())
            .map(|(host, known)| (host, known.lease.token))
    }
}

//! The leases that this server has written for hosts which it then tried to add to the list, and
//! the outcome of each attempt. They decide which of the leases in memcached have an effect.

use super::cas_cycle::Snapshot;
use super::leases::Leases;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The outcome of an attempt to add a host to the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Attempt {
    /// The list is being written, or the reply was lost.
    Open,
    /// The host came on the list.
    Done,
    /// The host did not come on the list.
    Failed,
}

/// By token, as long as memcached has a lease with this token.
#[derive(Debug, Default)]
pub(super) struct Attempts(BTreeMap<i64, Attempt>);

/// Both keys as read, with the leases sorted by their effect.
#[derive(Debug, Default)]
pub(super) struct ClassifiedRead {
    pub(super) hosts: Vec<Rc<str>>,
    pub(super) version: Option<u64>,
    pub(super) leases_version: Option<u64>,
    /// The leases of hosts on the list.
    pub(super) leases: Leases,
    /// All leases that can still have an effect. `stale`: memcached has others, too.
    pub(super) known: Leases,
    pub(super) stale: bool,
    /// Hosts that a write of this server may still add to the list, because its reply was lost.
    pub(super) open: Vec<Rc<str>>,
    /// Hosts that another server may be about to add to the list.
    pub(super) concurrent: Vec<Rc<str>>,
}

impl Attempts {
    /// Whether this server granted the holding with this token.
    pub(super) fn has(&self, token: i64) -> bool {
        self.0.contains_key(&token)
    }

    pub(super) fn insert(&mut self, token: i64, attempt: Attempt) {
        self.0.insert(token, attempt);
    }

    /// Sorts leases by their effect, and forgets attempts whose leases are not in memcached.
    pub(super) fn classify(&mut self, snapshot: Snapshot) -> ClassifiedRead {
        let Snapshot {
            hosts,
            version,
            leases,
            leases_version,
        } = snapshot;
        let tokens: BTreeSet<_> = leases.values().map(|lease| lease.token).collect();
        self.0.retain(|token, _| tokens.contains(token));
        let listed: BTreeSet<_> = hosts
            .iter()
            .filter(|host| leases.contains_key(*host))
            .cloned()
            .collect();
        let mut read = ClassifiedRead::default();
        for (host, lease) in leases {
            let attempt = self.0.get_mut(&lease.token);
            if listed.contains(&host) {
                // If this server failed to add the host, then the original has added it and the
                // lease has no effect, unless another server has confirmed the lease.
                let counts = attempt.as_deref() != Some(&Attempt::Failed) || lease.confirmed;
                if let Some(attempt) = attempt.filter(|attempt| **attempt == Attempt::Open) {
                    *attempt = Attempt::Done;
                }
                if counts {
                    read.leases.insert(host.clone(), lease.clone());
                }
            } else if lease.base != version
                || matches!(attempt, Some(Attempt::Done | Attempt::Failed))
            {
                read.stale = true; // it can never have an effect
                continue;
            } else if attempt.is_some() {
                read.open.push(host.clone());
            } else {
                read.concurrent.push(host.clone());
            }
            read.known.insert(host, lease);
        }
        ClassifiedRead {
            hosts,
            version,
            leases_version,
            ..read
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::expiry::Lifetime;
    use super::super::leases::Lease;
    use super::*;

    #[test]
    fn lease_has_an_effect_only_if_its_host_is_or_may_come_on_the_list() {
        let lease = |token, base| Lease {
            token,
            run: None,
            length: Lifetime::UntilReleased,
            base,
            acquired: 0,
            confirmed: token == 4,
            revoked: false,
        };
        let leases: Leases = [
            ("a", 1, Some(5)), // on the list, which was written again since
            ("b", 2, Some(7)), // on the list: the open attempt has succeeded
            ("c", 3, Some(7)), // this server failed: the original has added it
            ("d", 4, Some(7)), // the same, but another server has confirmed the lease
            ("e", 5, Some(5)), // the list has changed: never added
            ("f", 6, Some(7)), // another server may be about to add it
            ("g", 7, Some(7)), // this server may still add it
            ("h", 8, Some(7)), // added by this server, then removed
            ("i", 9, None),    // written when there was no list
        ]
        .into_iter()
        .map(|(host, token, base)| (host.into(), lease(token, base)))
        .collect();
        let mut attempts = Attempts::default();
        let outcomes = [
            (2, Attempt::Open),
            (3, Attempt::Failed),
            (4, Attempt::Failed),
            (7, Attempt::Open),
            (8, Attempt::Done),
            (99, Attempt::Done),
        ];
        outcomes
            .into_iter()
            .for_each(|(token, attempt)| attempts.insert(token, attempt));
        let hosts = ["a", "b", "c", "d", "x"].map(Rc::from).to_vec();
        let found = attempts.classify(Snapshot {
            hosts,
            version: Some(7),
            leases,
            leases_version: Some(3),
        });
        let names = |leases: &Leases| leases.keys().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&found.leases), ["a", "b", "d"]);
        assert_eq!(names(&found.known), ["a", "b", "c", "d", "f", "g"]);
        assert_eq!(
            (found.open, found.concurrent, found.stale),
            (vec!["g".into()], vec!["f".into()], true)
        );
        assert_eq!(
            attempts.0.keys().copied().collect::<Vec<_>>(),
            [2, 3, 4, 7, 8]
        );
        assert_eq!(attempts.0[&2], Attempt::Done);
    }
}

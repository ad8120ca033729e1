//! The leases that this server has written for hosts which it was about to put on the list, and
//! what became of that; and so, which of the leases that are read count.

use super::cas_cycle::Snapshot;
use super::leases::Leases;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What has become of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Attempt {
    /// The list is being written, or the reply was lost.
    Open,
    /// The host came on the list.
    Done,
    /// It did not.
    Failed,
}

/// By token, as long as it stands in memcached.
#[derive(Debug, Default)]
pub(super) struct Attempts(BTreeMap<i64, Attempt>);

/// What was read, by what it means.
#[derive(Debug, Default)]
pub(super) struct ClassifiedRead {
    pub(super) hosts: Vec<Rc<str>>,
    pub(super) version: Option<u64>,
    pub(super) leases_version: Option<u64>,
    /// The leases of hosts on the list.
    pub(super) leases: Leases,
    /// All leases that may matter still. `stale`: there are others.
    pub(super) known: Leases,
    pub(super) stale: bool,
    /// Hosts that this server may still put on the list, by a write whose reply was lost.
    pub(super) open: Vec<Rc<str>>,
    /// Hosts that another server may be about to put on the list.
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

    /// Takes in what was read.
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
                // Of a host that this server failed to put there, the original has: unless another
                // server took the lease for good.
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
                read.stale = true; // it can have no effect any more
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
    fn a_lease_counts_by_the_list_that_it_stands_beside() {
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
            ("a", 1, Some(5)), // on the list, though that was written since
            ("b", 2, Some(7)), // on the list by this server, as is seen now
            ("c", 3, Some(7)), // this server failed: the original has put it there
            ("d", 4, Some(7)), // so it did, but another server goes by that lease
            ("e", 5, Some(5)), // over
            ("f", 6, Some(7)), // another server may be about to
            ("g", 7, Some(7)), // this server may have
            ("h", 8, Some(7)), // but not here
            ("i", 9, None),    // there was no list yet
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

//! Since when this server has known the newest renewal of each holder. No clock of another host
//! takes part: a server counts a lease on its own clock, from when it first saw the renewal number.
//! It sees the number after it was written, so it ends the lease later than the server that promised
//! it, never earlier.

use super::record::{Holding, Record};
use crate::moment::Moment;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The newest renewal of one holding, and since when this server has known it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sighting {
    token: i64,
    renewal: u64,
    /// The session that wrote it. After a restore from a backup another one may write the same
    /// renewal again.
    by: i64,
    /// When this server first saw it, or sent it.
    since: Moment,
    /// This server wrote it.
    own: bool,
}

/// When the first leases of a record end, by the clock of this server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FirstEnds {
    /// Of those that this server wrote.
    pub(super) own: Moment,
    /// Of those that other servers wrote.
    pub(super) others: Moment,
}

/// The newest renewals of all holders of a pool, as this server has seen them.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    by_host: BTreeMap<Rc<str>, Sighting>,
}

impl Sightings {
    /// The record was read.
    pub(super) fn observe(&mut self, record: &Record, now: Moment) {
        self.by_host
            .retain(|host, _| record.holders.contains_key(host));
        for (host, holding) in &record.holders {
            if self.get(host, holding).is_none() {
                self.insert(host, holding, now, false);
            }
        }
    }

    /// This server has written this renewal. `sent`: when it sent the request.
    pub(super) fn wrote(&mut self, host: &Rc<str>, holding: &Holding, sent: Moment) {
        self.insert(host, holding, sent, true);
    }

    fn insert(&mut self, host: &Rc<str>, holding: &Holding, since: Moment, own: bool) {
        let &Holding {
            token, renewal, by, ..
        } = holding;
        let sighting = Sighting {
            token,
            renewal,
            by,
            since,
            own,
        };
        self.by_host.insert(host.clone(), sighting);
    }

    fn get(&self, host: &str, holding: &Holding) -> Option<&Sighting> {
        self.by_host.get(host).filter(|seen| {
            (seen.token, seen.renewal, seen.by) == (holding.token, holding.renewal, holding.by)
        })
    }

    /// When the lease ends, by the clock of this server. `NEVER` as well if it has not seen it.
    pub(super) fn end(&self, host: &str, holding: &Holding) -> Moment {
        match (self.get(host, holding), holding.lease) {
            (Some(seen), Some(lease)) => seen.since + lease,
            _ => Moment::NEVER,
        }
    }

    /// When the first leases end.
    pub(super) fn first_ends(&self, record: &Record) -> FirstEnds {
        let mut first = FirstEnds {
            own: Moment::NEVER,
            others: Moment::NEVER,
        };
        for (host, holding) in &record.holders {
            let end = self.end(host, holding);
            if self.own(host, holding).is_some() {
                first.own = first.own.min(end);
            } else {
                first.others = first.others.min(end);
            }
        }
        first
    }

    /// When this server sent the newest renewal, if it wrote it. Only then may it promise anything
    /// of the lease: other servers saw the renewal later.
    pub(super) fn own(&self, host: &str, holding: &Holding) -> Option<Moment> {
        self.get(host, holding)
            .filter(|seen| seen.own)
            .map(|seen| seen.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn record(renewal: u64) -> Record {
        let mut record = Record::new(1);
        let holding = Holding {
            token: 1,
            run: None,
            since: 0,
            lease: Some(Duration::from_mins(1)),
            renewal,
            by: 1,
            told_by: BTreeSet::new(),
            revoked: false,
        };
        record.holders.insert("a".into(), holding);
        record
    }

    #[test]
    fn lease_is_counted_from_the_first_sight_of_its_newest_renewal() {
        let at = |seconds| Moment(Duration::from_secs(seconds));
        let mut sightings = Sightings::default();
        let end = |sightings: &Sightings, record: &Record| sightings.end("a", &record.holders["a"]);
        assert_eq!(end(&sightings, &record(0)), Moment::NEVER);
        sightings.observe(&record(0), at(5));
        sightings.observe(&record(0), at(40));
        assert_eq!(end(&sightings, &record(0)), at(65));
        assert_eq!(end(&sightings, &record(1)), Moment::NEVER);
        sightings.observe(&record(1), at(50));
        assert_eq!(end(&sightings, &record(1)), at(110));
        assert_eq!(sightings.own("a", &record(1).holders["a"]), None);
        sightings.wrote(&"a".into(), &record(2).holders["a"], at(60));
        sightings.observe(&record(2), at(61));
        assert_eq!(end(&sightings, &record(2)), at(120));
        assert_eq!(sightings.own("a", &record(2).holders["a"]), Some(at(60)));
        let mut other = record(2);
        other
            .holders
            .values_mut()
            .for_each(|holding| holding.by = 2);
        sightings.observe(&other, at(70));
        assert_eq!(end(&sightings, &other), at(130));
        sightings.observe(&Record::new(1), at(71));
        assert_eq!(end(&sightings, &record(2)), Moment::NEVER);
    }
}

//! A round of changing a pool: read both keys, work out what is to become of them, take tokens,
//! write the leases, then the list, each if it is still as it was read.

use super::attempts::ClassifiedRead;
use super::expiry::Lifetime;
use super::leases::{self, Leases};
use super::list_update::ListUpdate;
use super::protocol::{Malformed, Value};
use crate::moment::Moment;
use std::rc::Rc;

/// Which round of which pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CycleId {
    pub(super) pool: Rc<str>,
    /// They begin with 1.
    pub(super) number: u64,
}

/// How far one is.
#[derive(Debug)]
pub(super) enum CyclePhase {
    /// Both keys are read, and how long the list is kept if `timed`.
    Reading { timed: bool },
    /// They were; that is still to be heard.
    Timing(Snapshot),
    /// The list is written as it is, so that a write of it that may still be under way cannot
    /// succeed.
    Fencing { since: Moment, kept: Lifetime },
    /// It is known what is to become of them.
    Writing(Box<PendingWrite>, WritePhase),
}

/// Both keys at one moment, and their versions; `None`: there is no such key.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) hosts: Vec<Rc<str>>,
    pub(super) version: Option<u64>,
    pub(super) leases: Leases,
    pub(super) leases_version: Option<u64>,
}

/// What is to be written, in place of what was found.
#[derive(Debug)]
pub(super) struct PendingWrite {
    pub(super) update: ListUpdate,
    /// Without the list and its leases, which the update has.
    pub(super) found: ClassifiedRead,
    /// The list is to be written.
    pub(super) writes_list: bool,
}

/// How far a pending is.
#[derive(Clone, Copy, Debug)]
pub(super) enum WritePhase {
    /// Tokens are taken, for the second time if `seeded`.
    AllocatingTokens { seeded: bool },
    /// There were none. They begin with real time, so that they grow on should memcached have
    /// forgotten them.
    SeedingTokens,
    /// The leases are written.
    WritingLeases,
    /// The list is written, which was begun at `since`, to be kept so long.
    WritingList { since: Moment, kept: Lifetime },
}

impl CyclePhase {
    pub(super) fn pending(&self) -> Option<&PendingWrite> {
        if let CyclePhase::Writing(pending, _) = self {
            Some(pending)
        } else {
            None
        }
    }

    pub(super) fn pending_mut(&mut self) -> Option<&mut PendingWrite> {
        if let CyclePhase::Writing(pending, _) = self {
            Some(pending)
        } else {
            None
        }
    }

    /// A write of the list is under way.
    pub(super) fn writes_list(&self) -> bool {
        matches!(
            self,
            CyclePhase::Fencing { .. } | CyclePhase::Writing(_, WritePhase::WritingList { .. })
        )
    }
}

impl Snapshot {
    /// Of the values of both keys, that of the list read twice: `Ok(None)` if they are not from one
    /// moment, `Err` if they are not understood.
    pub(super) fn of(
        values: Vec<Value>,
        list: &str,
        leases: &str,
    ) -> Result<Result<Option<Snapshot>, String>, Malformed> {
        let (mut lists, mut second) = (Vec::new(), None);
        for value in values {
            match &value.key {
                key if *key == list => lists.push(value),
                key if *key == leases => second = Some(value),
                _ => return Err(Malformed::Unasked),
            }
        }
        let first = match &lists[..] {
            [] => None,
            [before, after] if before.version == after.version => lists.pop(),
            _ => return Ok(Ok(None)),
        };
        let [version, leases_version] =
            [&first, &second].map(|value| value.as_ref().map(|value| value.version));
        let hosts = first.map_or(Some(Vec::new()), |value| hosts(&value.value));
        let known = second.map_or(Some(Leases::new()), |value| leases::parse(&value.value));
        Ok(match (hosts, known) {
            (None, _) => Err(format!("in memcached, {list} is no list of hosts")),
            (Some(hosts), Some(leases)) => Ok(Some(Snapshot {
                hosts,
                version,
                leases,
                leases_version,
            })),
            // Where no host is on the list there is nothing that they could say.
            (Some(hosts), None) if hosts.is_empty() => Ok(Some(Snapshot {
                hosts,
                version,
                leases: Leases::new(),
                leases_version,
            })),
            (Some(_), None) => Err(format!(
                "in memcached, {leases} is not understood: another version of this program wrote it, or something else; if no client holds the \
                 pool, delete {leases} and {list}"
            )),
        })
    }
}

/// A list as it stands in memcached. Nothing between commas is nobody.
fn hosts(value: &[u8]) -> Option<Vec<Rc<str>>> {
    let value = str::from_utf8(value).ok()?;
    Some(
        value
            .split(',')
            .filter(|host| !host.is_empty())
            .map(Rc::from)
            .collect(),
    )
}

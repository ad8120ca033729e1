//! The phases of one read-modify-CAS cycle: read both keys, compute the update, allocate tokens,
//! write the leases, then the list. Each write succeeds only if its key is as it was read.

use super::attempts::ClassifiedRead;
use super::expiry::Lifetime;
use super::leases::{self, Leases};
use super::list_update::ListUpdate;
use super::protocol::{Malformed, Value};
use crate::moment::Moment;
use std::rc::Rc;

/// Identifies one cycle of one pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CycleId {
    pub(super) pool: Rc<str>,
    /// Counted from 1.
    pub(super) number: u64,
}

/// The phase of a cycle.
#[derive(Debug)]
pub(super) enum CyclePhase {
    /// Both keys are being read, and with `timed` how long memcached keeps the list.
    Reading { timed: bool },
    /// Both keys are read; how long memcached keeps the list is not known yet.
    Timing(Snapshot),
    /// The list is being written unchanged, so that an unfinished write of it by another server, or
    /// by this one, fails.
    Fencing { since: Moment, kept: Lifetime },
    /// The update is computed and being written.
    Writing(Box<PendingWrite>, WritePhase),
}

/// Both keys at one moment, and their versions; `None`: the key does not exist.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) hosts: Vec<Rc<str>>,
    pub(super) version: Option<u64>,
    pub(super) leases: Leases,
    pub(super) leases_version: Option<u64>,
}

/// An update on its way to memcached, and the read that it is based on.
#[derive(Debug)]
pub(super) struct PendingWrite {
    pub(super) update: ListUpdate,
    /// Without the list and its leases: they are in `update`.
    pub(super) found: ClassifiedRead,
    /// Whether the list is written too.
    pub(super) writes_list: bool,
}

/// How far a write is.
#[derive(Clone, Copy, Debug)]
pub(super) enum WritePhase {
    /// Tokens are being allocated; `seeded`: for the second time.
    AllocatingTokens { seeded: bool },
    /// The token key did not exist and is being created. Tokens begin with real time, so that they
    /// grow even if memcached forgets them.
    SeedingTokens,
    /// The leases are being written.
    WritingLeases,
    /// The list is being written since `since`, to be kept for this time.
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

    /// Whether a write of the list is under way.
    pub(super) fn writes_list(&self) -> bool {
        matches!(
            self,
            CyclePhase::Fencing { .. } | CyclePhase::Writing(_, WritePhase::WritingList { .. })
        )
    }
}

impl Snapshot {
    /// From the values of both keys, that of the list twice. `Ok(None)`: they are not from one
    /// moment. `Err`: a value cannot be parsed.
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
        let hosts = first.map_or(Some(Vec::new()), |value| hosts(&value.bytes));
        let known = second.map_or(Some(Leases::new()), |value| leases::parse(&value.bytes));
        Ok(match (hosts, known) {
            (None, _) => Err(format!(
                "in memcached, {list} is not a list of hosts: if no client holds the pool, delete it"
            )),
            (Some(hosts), Some(leases)) => Ok(Some(Snapshot {
                hosts,
                version,
                leases,
                leases_version,
            })),
            // Without hosts on the list, leases have no effect, so they need not be understood.
            (Some(hosts), None) if hosts.is_empty() => Ok(Some(Snapshot {
                hosts,
                version,
                leases: Leases::new(),
                leases_version,
            })),
            (Some(_), None) => Err(format!(
                "in memcached, {leases} is not understood: another version of distributexd, or another program, wrote it; if no client holds the \
                 pool, delete {leases} and {list}"
            )),
        })
    }
}

/// Parses the list. Empty names are skipped.
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

//! A round of changing a list: read it, work out what is to become of it, take tokens, and write it if it is still as it was read.

use super::proposal::Proposal;
use crate::moment::Moment;
use std::rc::Rc;

/// Which round of which pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Round {
    pub(super) pool: Rc<str>,
    pub(super) number: u64,
}

/// How far one is.
#[derive(Debug)]
pub(super) enum Step {
    /// The list is read.
    Reading,
    /// It is known what is to become of it.
    Drafted(Draft, Stage),
}

/// What is to be written, in place of this version of the list.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) proposal: Proposal,
    pub(super) version: Option<u64>,
}

/// How far a draft is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// Tokens are taken, for the second time if `seeded`.
    Numbering { seeded: bool },
    /// There were none. They begin with real time, so that they grow on should memcached have forgotten them.
    Seeding,
    /// The list is written, which was begun at `since`. `last_token` is the last before those that were taken.
    Writing { last_token: i64, since: Moment },
}

impl Step {
    pub(super) fn draft(&self) -> Option<&Draft> {
        if let Step::Drafted(draft, _) = self { Some(draft) } else { None }
    }

    pub(super) fn draft_mut(&mut self) -> Option<&mut Draft> {
        if let Step::Drafted(draft, _) = self { Some(draft) } else { None }
    }
}

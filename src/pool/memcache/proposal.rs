//! What is to become of the list of a pool's holders, and of those who asked, if the list is still as it was read.

use super::super::refusal::{self, Refusal};
use super::super::waiters::{Asked, Waiters};
use super::super::{Call, Ticket};
use crate::plan;
use std::rc::Rc;

/// Something that is to be done with the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Errand {
    /// A host asked.
    Asked(Asked),
    /// A host was put on the list here, but could not be told.
    TakeBack { host: Rc<str>, token: i64 },
}

impl Errand {
    /// Whose answer depends on it.
    pub(super) fn ticket(&self) -> Option<Ticket> {
        match self {
            Errand::Asked(asked) => Some(asked.ticket),
            Errand::TakeBack { .. } => None,
        }
    }
}

/// What is to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Yes,
    No,
    /// And whether it held the pool.
    Ok {
        held: bool,
    },
    Invalid(Refusal),
    /// Nobody asked.
    Nothing,
}

/// A change of the list, and what it answers.
#[derive(Debug)]
pub(super) struct Proposal {
    /// The list.
    pub(super) hosts: Vec<Rc<str>>,
    /// Whether it is to be written, for what is on it or for its expiry.
    pub(super) changed: bool,
    /// Who is new on it, in the order of their tokens.
    pub(super) fresh: Vec<Rc<str>>,
    /// What comes of each errand.
    pub(super) verdicts: Vec<(Errand, Verdict)>,
}

impl Proposal {
    /// From the list as it is, by what is asked and by who waits. `newest` is the token of a host's last holding that is known here.
    ///
    /// Those who let go are the first: nobody who is told YES here can have meant to let go of that.
    pub(super) fn new(
        hosts: Vec<Rc<str>>,
        plan: &plan::Pool,
        errands: Vec<Errand>,
        waiters: &mut Waiters,
        newest: impl Fn(&str) -> Option<i64>,
    ) -> Proposal {
        let mut proposal = Proposal { hosts, changed: false, fresh: Vec::new(), verdicts: Vec::new() };
        let mut takers = Vec::new();
        for errand in errands {
            match errand {
                Errand::Asked(asked) => match asked.call {
                    Call::Release { token } => proposal.release(asked, token, plan, &newest),
                    _ => takers.push(asked),
                },
                Errand::TakeBack { ref host, .. } => {
                    proposal.remove(host);
                    proposal.verdicts.push((errand, Verdict::Nothing));
                }
            }
        }
        for host in proposal.hosts.clone() {
            proposal.confirm(waiters.take_holder(&host, None));
        }
        proposal.admit(plan, waiters);
        for asked in takers {
            proposal.take(asked, plan, waiters);
            proposal.admit(plan, waiters);
        }
        proposal
    }

    /// Not if it is an older holding that is meant.
    fn release(&mut self, asked: Asked, token: Option<i64>, plan: &plan::Pool, newest: impl Fn(&str) -> Option<i64>) {
        let holds = self.hosts.contains(&asked.host);
        let is_older = |newest| token.is_some_and(|token| token < newest);
        if let Err(refusal) = refusal::check(plan, asked.call, &asked.host, holds) {
            return self.settle(asked, Verdict::Invalid(refusal));
        }
        let held = holds && !newest(&asked.host).is_some_and(is_older);
        if held {
            self.remove(&asked.host);
        }
        self.settle(asked, Verdict::Ok { held });
    }

    fn take(&mut self, asked: Asked, plan: &plan::Pool, waiters: &mut Waiters) {
        let holds = self.hosts.contains(&asked.host);
        match (asked.call, refusal::check(plan, asked.call, &asked.host, holds)) {
            (_, Err(refusal)) => self.settle(asked, Verdict::Invalid(refusal)),
            (call, Ok(())) if holds => {
                self.changed |= matches!(call, Call::Renew { .. });
                self.settle(asked, Verdict::Yes);
            }
            (Call::Wait, Ok(())) => waiters.insert(asked),
            _ if self.has_room(plan) => self.add(vec![asked]),
            _ => self.settle(asked, Verdict::No),
        }
    }

    /// Who is to be told YES.
    pub(super) fn confirmed(&self) -> impl Iterator<Item = &Rc<str>> {
        self.verdicts.iter().filter_map(|(errand, verdict)| match (errand, verdict) {
            (Errand::Asked(asked), Verdict::Yes) => Some(&asked.host),
            _ => None,
        })
    }

    fn has_room(&self, plan: &plan::Pool) -> bool {
        self.hosts.len() < usize::try_from(plan.permits).unwrap_or(usize::MAX)
    }

    fn admit(&mut self, plan: &plan::Pool, waiters: &mut Waiters) {
        while self.has_room(plan) && !waiters.is_empty() {
            self.add(waiters.take_next());
        }
    }

    /// The host of these requests comes on the list.
    fn add(&mut self, asked: Vec<Asked>) {
        if let Some(first) = asked.first() {
            self.changed = true;
            self.hosts.push(first.host.clone());
            self.fresh.push(first.host.clone());
        }
        self.confirm(asked);
    }

    /// The host of these requests is on the list.
    fn confirm(&mut self, asked: Vec<Asked>) {
        asked.into_iter().for_each(|asked| self.settle(asked, Verdict::Yes));
    }

    fn remove(&mut self, host: &str) {
        self.changed = true;
        self.hosts.retain(|other| **other != *host);
    }

    fn settle(&mut self, asked: Asked, verdict: Verdict) {
        self.verdicts.push((Errand::Asked(asked), verdict));
    }
}

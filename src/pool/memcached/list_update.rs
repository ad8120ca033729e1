//! What is to become of a pool's list and leases, and of the requests, if both keys are still as
//! they were read.

use super::super::invalid_request::{self, Refusal};
use super::super::waiters::{Asked, Waiters};
use super::super::{Call, Ticket};
use super::expiry::Kept;
use super::leases::{Lease, Leases};
use crate::plan;
use std::collections::BTreeSet;
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
    /// NO, to the holder itself.
    NoRevoked,
    /// And whether it held the pool.
    Ok {
        held: bool,
    },
    /// Its holding is revoked.
    Revoked,
    /// It has none that could be.
    NotHeld,
    Invalid(Refusal),
    /// No request caused it; and whether a holding was taken back.
    TakenBack(bool),
}

/// What a proposal is made by, besides what was read.
pub(super) struct Terms<'a> {
    pub(super) plan: &'a plan::Pool,
    /// The config does not have the pool any more: nothing is granted in it, but its holders keep
    /// it.
    pub(super) is_missing: bool,
    /// The version of the list that was read.
    pub(super) base: Option<u64>,
    /// In ms since 1970.
    pub(super) date: u64,
    /// Whether the holding with this token was granted by this server.
    pub(super) is_ours: &'a dyn Fn(i64) -> bool,
}

impl Terms<'_> {
    /// Whether the pool may be asked this. To a client that holds nothing of it, a pool that the
    /// config does not have is one that does not exist.
    fn check(&self, asked: &Asked, holds: bool) -> Result<(), Refusal> {
        if !self.is_missing {
            invalid_request::check(self.plan, asked.call, &asked.host, holds)
        } else if holds && asked.call.keeps() {
            Ok(())
        } else {
            invalid_request::check_host(&asked.host).and(Err(Refusal::UnknownPool))
        }
    }
}

/// Whose slot a request finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// Its own.
    Holder { revoked: bool },
    /// That of another run of its host. It gets none beside that.
    OtherRun,
    /// None of its host.
    Outside,
}

/// A change of both keys, and what it answers.
#[derive(Debug, Default)]
pub(super) struct Proposal {
    /// The list.
    pub(super) hosts: Vec<Rc<str>>,
    /// Of the hosts that were on it or are to be. A token is 0 until it is taken.
    pub(super) leases: Leases,
    /// Whether the list is to be written, for what is on it or for its expiry.
    pub(super) list_changed: bool,
    /// Whether the leases are. Then the list is written after them.
    pub(super) leases_changed: bool,
    /// Whose leases need tokens, in their order.
    pub(super) fresh: Vec<Rc<str>>,
    /// What comes of each errand.
    pub(super) verdicts: Vec<(Errand, Verdict)>,
    /// Those that come too early: their hosts are taken off the list by this proposal, and a lease
    /// is replaced only once its host is off.
    pub(super) later: Vec<Errand>,
    removed: BTreeSet<Rc<str>>,
    blocked: Vec<Rc<str>>,
}

impl Proposal {
    /// From the list as it is and the leases of its hosts, by what is asked and by who waits.
    ///
    /// Those who let go are the first: nobody who is told YES here can have meant to let go of
    /// that.
    pub(super) fn new(
        hosts: Vec<Rc<str>>,
        leases: Leases,
        errands: Vec<Errand>,
        waiters: &mut Waiters,
        terms: &Terms,
    ) -> Proposal {
        let mut proposal = Proposal {
            hosts,
            leases,
            ..Proposal::default()
        };
        let mut takers = Vec::new();
        for errand in errands {
            match errand {
                Errand::Asked(asked) => match asked.call {
                    Call::Release { token } => proposal.release(asked, token, terms),
                    Call::Revoke => proposal.revoke(asked, terms),
                    Call::Get | Call::Wait | Call::Renew { .. } => takers.push(asked),
                },
                Errand::TakeBack { ref host, token } => {
                    let held = proposal.hosts.contains(host)
                        && proposal
                            .leases
                            .get(host)
                            .is_some_and(|lease| lease.token == token);
                    if held {
                        proposal.remove(host);
                    }
                    proposal.verdicts.push((errand, Verdict::TakenBack(held)));
                }
            }
        }
        if !waiters.is_empty() {
            proposal.meet_holders(waiters, terms);
        }
        proposal.admit(waiters, terms);
        for asked in takers {
            proposal.take(asked, waiters, terms);
            proposal.admit(waiters, terms);
        }
        proposal
            .blocked
            .drain(..)
            .for_each(|host| waiters.unblock(&host));
        proposal
    }

    /// Whether a waiter of a host that is taken off the list would have to be granted it at once.
    pub(super) fn is_to_go_on(&self, waiters: &Waiters) -> bool {
        !self.later.is_empty()
            || !self.removed.is_empty()
                && waiters.iter().any(|(host, ..)| self.removed.contains(host))
    }

    fn standing(&self, asked: &Asked) -> Standing {
        if !self.hosts.contains(&asked.host) {
            return Standing::Outside;
        }
        match self.leases.get(&asked.host) {
            Some(Lease { run: Some(run), .. }) if asked.run.as_ref() != Some(run) => {
                Standing::OtherRun
            }
            lease => Standing::Holder {
                revoked: lease.is_some_and(|lease| lease.revoked),
            },
        }
    }

    /// Only the holding that is meant: by token, of the run if one is given, or else whichever the
    /// host has.
    fn release(&mut self, asked: Asked, token: Option<i64>, terms: &Terms) {
        let holds = self.hosts.contains(&asked.host);
        if let Err(refusal) = terms.check(&asked, holds) {
            return self.settle(asked, Verdict::Invalid(refusal));
        }
        let lease = self.leases.get(&asked.host);
        let is_meant = match (token, &asked.run) {
            (Some(token), run) => {
                let is_its =
                    |lease: &Lease| run.is_none() || lease.run.is_none() || lease.run == *run;
                lease.is_some_and(|lease| lease.token == token && is_its(lease))
            }
            (None, Some(run)) => lease.is_some_and(|lease| lease.run.as_ref() == Some(run)),
            (None, None) => true,
        };
        let held = holds && is_meant;
        if held {
            self.remove(&asked.host);
        }
        self.settle(asked, Verdict::Ok { held });
    }

    fn revoke(&mut self, asked: Asked, terms: &Terms) {
        let holds = self.hosts.contains(&asked.host);
        if let Err(refusal) = terms.check(&asked, holds) {
            return self.settle(asked, Verdict::Invalid(refusal));
        }
        if !holds {
            return self.settle(asked, Verdict::NotHeld);
        }
        if !self.leases.contains_key(&asked.host) {
            self.adopt(&asked.host, terms);
        }
        if let Some(lease) = self.leases.get_mut(&asked.host) {
            self.leases_changed |= !lease.revoked;
            lease.revoked = true;
        }
        self.settle(asked, Verdict::Revoked);
    }

    fn take(&mut self, asked: Asked, waiters: &mut Waiters, terms: &Terms) {
        let standing = self.standing(&asked);
        match (
            asked.call,
            standing,
            terms.check(&asked, matches!(standing, Standing::Holder { .. })),
        ) {
            (_, _, Err(refusal)) => self.settle(asked, Verdict::Invalid(refusal)),
            (_, Standing::Holder { revoked: true }, _) => self.settle(asked, Verdict::NoRevoked),
            (call, Standing::Holder { revoked: false }, _) => {
                self.list_changed |= matches!(call, Call::Renew { .. });
                self.confirm(vec![asked], terms);
            }
            (Call::Wait, ..) => waiters.insert(asked),
            (_, Standing::Outside, _) if self.removed.contains(&asked.host) => {
                self.later.push(Errand::Asked(asked));
            }
            (_, Standing::Outside, _) if self.has_room(terms) => {
                self.add(vec![asked], waiters, terms);
            }
            _ => self.settle(asked, Verdict::No),
        }
    }

    /// Who is to be told YES.
    pub(super) fn confirmed(&self) -> impl Iterator<Item = &Rc<str>> {
        self.verdicts
            .iter()
            .filter_map(|(errand, verdict)| match (errand, verdict) {
                (Errand::Asked(asked), Verdict::Yes) => Some(&asked.host),
                _ => None,
            })
    }

    /// How long the list is to be kept: as long as its longest lease. The original's hosts count on
    /// what the config says.
    pub(super) fn kept(&self, terms_of: &plan::Pool) -> Kept {
        kept(&self.hosts, &self.leases, terms_of)
    }

    fn has_room(&self, terms: &Terms) -> bool {
        !terms.is_missing
            && self.hosts.len() < usize::try_from(terms.plan.permits).unwrap_or(usize::MAX)
    }

    /// Waiters whose host or run holds the pool need not wait; those of other runs of a holder can
    /// only wait.
    fn meet_holders(&mut self, waiters: &mut Waiters, terms: &Terms) {
        for host in self.hosts.clone() {
            let lease = self.leases.get(&host);
            let is_revoked = lease.is_some_and(|lease| lease.revoked);
            let asked = waiters.take_holder(&host, lease.and_then(|lease| lease.run.as_ref()));
            if is_revoked {
                asked
                    .into_iter()
                    .for_each(|asked| self.settle(asked, Verdict::NoRevoked));
            } else if !asked.is_empty() {
                self.confirm(asked, terms);
            }
            self.block(&host, waiters);
        }
        for host in self.removed.clone() {
            self.block(&host, waiters);
        }
    }

    fn block(&mut self, host: &Rc<str>, waiters: &mut Waiters) {
        waiters.block(host);
        self.blocked.push(host.clone());
    }

    fn admit(&mut self, waiters: &mut Waiters, terms: &Terms) {
        while self.has_room(terms) && waiters.has_next() {
            let next = waiters.take_next();
            self.add(next, waiters, terms);
        }
    }

    /// The host of these requests comes on the list, for the run of the first.
    fn add(&mut self, asked: Vec<Asked>, waiters: &mut Waiters, terms: &Terms) {
        let Some(Asked { host, run, .. }) = asked.first().cloned() else {
            return;
        };
        self.list_changed = true;
        self.hosts.push(host.clone());
        self.insert(&host, run, false, terms);
        self.block(&host, waiters);
        asked
            .into_iter()
            .for_each(|asked| self.settle(asked, Verdict::Yes));
    }

    /// A host that the original has put on the list gets a token, and no lost answer takes that
    /// holding back.
    fn adopt(&mut self, host: &Rc<str>, terms: &Terms) {
        self.insert(host, None, true, terms);
    }

    fn insert(&mut self, host: &Rc<str>, run: Option<Rc<str>>, confirmed: bool, terms: &Terms) {
        let (length, base, acquired) = (Kept::of(terms.plan.expire), terms.base, terms.date);
        self.leases.insert(
            host.clone(),
            Lease {
                token: 0,
                run,
                length,
                base,
                acquired,
                confirmed,
                revoked: false,
            },
        );
        self.leases_changed = true;
        self.fresh.push(host.clone());
    }

    /// The host of these requests is on the list.
    fn confirm(&mut self, asked: Vec<Asked>, terms: &Terms) {
        if let Some(Asked { host, .. }) = asked.first() {
            self.vouch(&host.clone(), terms);
        }
        asked
            .into_iter()
            .for_each(|asked| self.settle(asked, Verdict::Yes));
    }

    /// Has the lease say all that a confirmation tells: at least what the config now says, and that
    /// it is not this server's to take back.
    fn vouch(&mut self, host: &Rc<str>, terms: &Terms) {
        let length = Kept::of(terms.plan.expire);
        let Some(lease) = self.leases.get_mut(host) else {
            self.list_changed = true;
            return self.adopt(host, terms);
        };
        if lease.token == 0 {
            return; // it is new
        }
        let is_news = !lease.confirmed && !(terms.is_ours)(lease.token);
        if lease.length < length || is_news {
            lease.length = lease.length.max(length);
            lease.confirmed |= is_news;
            (self.leases_changed, self.list_changed) = (true, true);
        }
    }

    fn remove(&mut self, host: &Rc<str>) {
        self.list_changed = true;
        self.hosts.retain(|other| other != host);
        self.removed.insert(host.clone());
    }

    fn settle(&mut self, asked: Asked, verdict: Verdict) {
        self.verdicts.push((Errand::Asked(asked), verdict));
    }
}

/// As [`Proposal::kept`], of any list.
pub(super) fn kept(hosts: &[Rc<str>], leases: &Leases, plan: &plan::Pool) -> Kept {
    let lengths = hosts
        .iter()
        .filter_map(|host| leases.get(host))
        .map(|lease| lease.length);
    lengths.fold(Kept::of(plan.expire), Kept::max)
}

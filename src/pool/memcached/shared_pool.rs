//! One pool, whose holders stand on a list in memcached that other servers read and write too, and
//! their leases beside it. Both are changed in rounds, one at a time; each does all that was asked
//! since the one before. A round that another server was faster than is begun again.
//!
//! # Two keys, without a lock over both
//!
//! The original reads and writes `POOL:lockedby` alone, so that list decides who holds the pool.
//! What it cannot say stands in `POOL:leases`, which is written *before* the list: a lease of a
//! host that is not on the list is nothing yet, or nothing any more. A crash between the writes
//! leaves such a lease, no holder without one. What makes this safe whatever the order in which
//! servers read, write, crash and are late:
//!
//! 1. *One moment.* The list is read before and after the leases, in one command. If its version
//!    differs, nothing was read.
//! 2. *Each write counts on what was read.* Both are written by `cas` or `add`. So a list that was
//!    written is the one that follows what was read.
//! 3. *A lease is replaced or dropped only when no server can be about to put its host on the
//!    list.* Each lease names the version of the list that its host was to be added to. If the list
//!    has another version by now, and not that host, that can never happen any more. If it still
//!    has that version, the server may be slow, or dead: then a host of that name is granted
//!    nothing until the list has changed, which this server sees to after a while by writing it as
//!    it is (*fencing*).
//! 4. *Lengths, not dates.* A lease says the longest time that its holder may have been told, and
//!    the list is always written for the longest of all its hosts' leases, or more. As each write
//!    restarts memcached's clock for the list, no lease ends before it was told to, though no two
//!    clocks agree. Lengths of a holding only grow; a shorter `expire` is for the next holding.
//! 5. *What is told was written.* A client is told of a lease only by the server's own last write
//!    of the list, which was for that length or more.
//! 6. *A write whose reply was lost* may still take effect, as long as the list has the version
//!    that it counted on. So the next round writes the list in any case before it says anything.

use super::super::invalid_request::{self, Refusal};
use super::super::lease::{self, Told};
use super::super::state::Boot;
use super::super::waiters::{Asked, Waiters};
use super::super::{
    Answer, Call, Counts, Grant, Holder, Output, Remaining, Report, Ticket, Waiter,
};
use super::attempts::{Attempt, Attempts, Findings};
use super::cas_cycle::{Draft, Round, Snapshot, Stage, Step};
use super::expiry::{self, Kept};
use super::holder_cache::Roll;
use super::leases::{self, Leases};
use super::line::Line;
use super::list_update::{self, Errand, Proposal, Terms, Verdict};
use super::protocol::{Command, Malformed, Reply};
use crate::moment::Moment;
use crate::plan::{self, Level};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// How long a request waits for memcached, other than to hold the pool: with what a loop takes, it
/// is answered within a second.
pub(super) const PATIENCE: Duration = Duration::from_millis(900);

/// From one look at a list on which somebody waits for room to the next, and after an error.
const LOOK: Duration = Duration::from_millis(250);

/// How long another server may take from writing a lease to writing the list, until it is fenced
/// off. That is one exchange with memcached; one that is slower begins again.
const WRITING: Duration = Duration::from_millis(250);

/// From one look at what another server is about to write to the next.
const GLANCE: Duration = Duration::from_millis(10);

/// Of writes that nobody awaits the outcome of; rounds begin with 1.
const NO_ROUND: u64 = 0;

/// What is decided, until the loop takes it.
#[derive(Debug)]
pub(super) enum Said {
    Output(Output),
    /// An answer YES, which is taken back if nobody is there any more.
    Yes {
        asked: Asked,
        pool: Rc<str>,
        grant: Grant,
    },
}

/// What a slate works with.
pub(super) struct Tools<'a> {
    pub(super) line: &'a mut Line,
    pub(super) said: &'a mut VecDeque<Said>,
    /// Where memcached is, for messages.
    pub(super) address: &'a str,
    pub(super) boot: Boot,
    /// A report is to be made: each round reads all that it shows.
    pub(super) is_watched: bool,
    pub(super) now: Moment,
}

impl Tools<'_> {
    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.said
            .push_back(Said::Output(Output::Answer(ticket, answer)));
    }

    fn note(&mut self, level: Level, note: String) {
        self.said.push_back(Said::Output(Output::Note(level, note)));
    }

    /// In ms since 1970.
    fn date(&self) -> u64 {
        date(self.boot, self.now)
    }
}

fn date(boot: Boot, now: Moment) -> u64 {
    u64::try_from(boot.micros(now) / 1000).unwrap_or(0)
}

/// When memcached will end a list, as far as that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct End {
    left: Remaining,
    /// When that was so.
    at: Moment,
}

/// A lease that another server has written for a host, and the list not yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rival {
    version: Option<u64>,
    leases_version: Option<u64>,
    /// When it was seen first.
    since: Moment,
}

/// What is known of a pool.
#[derive(Debug)]
pub(super) struct Slate {
    name: Rc<str>,
    /// As the config has it, or had it last.
    plan: plan::Pool,
    /// Since when the config does not have it.
    missing: Option<Moment>,
    /// What is to be done, but for those who wait.
    errands: Vec<Errand>,
    waiters: Waiters,
    /// Whether the list is to be read soon: for who waits and was not there when it was, or for
    /// its own sake.
    is_news: bool,
    round: Option<(Round, Step)>,
    /// No round begins before.
    rest_until: Moment,
    looked: Moment,
    roll: Roll,
    /// When the list was written here last, as far as that is known, and for how long. It is kept
    /// so long from then, or from later.
    written: Option<(Moment, Kept)>,
    attempts: Attempts,
    /// A write of the list may still take effect though its reply was lost.
    ghost: bool,
    rival: Option<Rival>,
    /// When the read began that `roll` and `end` are from, if nothing has changed them since.
    seen: Option<Moment>,
    end: End,
    /// Why rounds fail, if they do.
    trouble: Option<String>,
    counts: Counts,
}

impl Slate {
    pub(super) fn new(plan: plan::Pool) -> Slate {
        Slate {
            name: plan.name.as_str().into(),
            plan,
            missing: None,
            errands: Vec::new(),
            waiters: Waiters::default(),
            is_news: false,
            round: None,
            rest_until: Moment::default(),
            looked: Moment::default(),
            roll: Roll::default(),
            written: None,
            attempts: Attempts::default(),
            ghost: false,
            rival: None,
            seen: None,
            end: End {
                left: Remaining::Unknown,
                at: Moment::default(),
            },
            trouble: None,
            counts: Counts::default(),
        }
    }

    /// A host asks.
    pub(super) fn ask(&mut self, asked: Asked, tools: &mut Tools) {
        if let Call::Renew { token } = asked.call {
            self.roll.hear(&asked.host, token);
        }
        // Whether it holds the pool, and so may let go of it though it may not have it, the list
        // will tell.
        match invalid_request::check(&self.plan, asked.call, &asked.host, true) {
            Ok(()) if self.missing.is_some() && !asked.call.keeps() => {
                self.answer(&asked, Verdict::Invalid(Refusal::UnknownPool), tools);
            }
            Err(refusal) => self.answer(&asked, Verdict::Invalid(refusal), tools),
            Ok(()) if asked.call == Call::Wait => {
                self.waiters.insert(asked);
                self.is_news = true;
            }
            Ok(()) => self.errands.push(Errand::Asked(asked)),
        }
    }

    /// Reads the keys, whoever asks or waits.
    pub(super) fn look(&mut self) {
        self.is_news = true;
    }

    /// Reads all that a report shows, unless it was read just now.
    pub(super) fn survey(&mut self, now: Moment) {
        if self.seen.is_none_or(|seen| seen + LOOK < now) {
            self.is_news = true;
        }
    }

    /// Whether all that a report shows was read at this moment or later, or just before.
    pub(super) fn is_seen(&self, since: Moment) -> bool {
        self.seen.is_some_and(|seen| seen + LOOK >= since)
    }

    /// Why nothing can be read or written, if so.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whoever asked this has hung up. Whether it asked here.
    pub(super) fn forget(&mut self, ticket: Ticket) -> bool {
        let is_it =
            |errand: &Errand| matches!(errand, Errand::Asked(asked) if asked.ticket == ticket);
        if self.waiters.remove(ticket).is_some() {
            return true;
        }
        let before = self.errands().count();
        self.retain_errands(|errand| !is_it(errand));
        self.errands().count() < before
    }

    /// All that is to be done, in the round that is under way and after it.
    fn errands(&self) -> impl Iterator<Item = &Errand> {
        let draft = self.round.as_ref().and_then(|(_, step)| step.draft());
        draft
            .into_iter()
            .flat_map(|draft| &draft.proposal.verdicts)
            .map(|(errand, _)| errand)
            .chain(&self.errands)
    }

    fn retain_errands(&mut self, stays: impl Fn(&Errand) -> bool) {
        self.errands.retain(&stays);
        if let Some(draft) = self.round.as_mut().and_then(|(_, step)| step.draft_mut()) {
            draft.proposal.verdicts.retain(|(errand, _)| stays(errand));
        }
    }

    /// A YES did not arrive. If it was the last of what was granted here, it is taken back.
    pub(super) fn undelivered(&mut self, host: &str, token: i64) {
        self.counts.undelivered += 1;
        self.untell(host, token);
    }

    /// A YES was not given after all.
    pub(super) fn untell(&mut self, host: &str, token: i64) {
        self.roll.untell(host, token);
        if self.roll.is_untold(host, token) {
            self.errands.push(Errand::TakeBack {
                host: host.into(),
                token,
            });
        }
    }

    /// Tells those who have asked for too long that it is in vain.
    pub(super) fn lose_patience(&mut self, tools: &mut Tools) {
        let is_late = |errand: &Errand| patience(errand).is_some_and(|until| until <= tools.now);
        let late: Vec<_> = self
            .errands()
            .filter(|errand| is_late(errand))
            .filter_map(Errand::ticket)
            .collect();
        if late.is_empty() {
            return;
        }
        self.retain_errands(|errand| !is_late(errand));
        let why = self
            .trouble
            .as_deref()
            .or(tools.line.outage())
            .unwrap_or("memcached does not answer");
        let answers = late
            .into_iter()
            .map(|ticket| Output::Answer(ticket, Answer::Unavailable(why.to_owned())));
        tools.said.extend(answers.map(Said::Output));
    }

    /// When it has something to do by itself.
    pub(super) fn wake(&self, line_is_up: bool) -> Moment {
        let next = self
            .errands()
            .filter_map(patience)
            .min()
            .unwrap_or(Moment::NEVER);
        if line_is_up && self.round.is_none() {
            next.min(self.next_round())
        } else {
            next
        }
    }

    /// When the next round is to begin, if none is under way.
    fn next_round(&self) -> Moment {
        if self.is_news || !self.errands.is_empty() {
            self.rest_until
        } else if self.waiters.is_empty() {
            Moment::NEVER
        } else {
            self.rest_until.max(self.looked + LOOK)
        }
    }

    /// Begins a round, if one is due.
    pub(super) fn begin(&mut self, number: u64, tools: &mut Tools) {
        if self.round.is_none() && self.next_round() <= tools.now {
            let round = Round {
                pool: self.name.clone(),
                number,
            };
            (self.is_news, self.looked) = (false, tools.now);
            let (list, leases) = (self.list(), self.leases());
            tools.line.ask(
                Command::Gets {
                    keys: &[&list, &leases, &list],
                },
                &round,
                tools.now,
            );
            let is_revoke = |errand: &Errand| matches!(errand, Errand::Asked(asked) if asked.call == Call::Revoke);
            let timed = tools.is_watched || self.errands.iter().any(is_revoke);
            if timed {
                tools
                    .line
                    .ask(Command::TimeLeft { key: &list }, &round, tools.now);
            }
            self.round = Some((round, Step::Reading { timed }));
        }
    }

    /// As the original has it.
    fn list(&self) -> String {
        format!("{}:lockedby", self.name)
    }

    /// See `leases`.
    fn leases(&self) -> String {
        format!("{}:leases", self.name)
    }

    fn tokens(&self) -> String {
        format!("{}:token", self.name)
    }

    /// The round goes on, if it is still the one that asked.
    pub(super) fn reply(
        &mut self,
        round: &Round,
        reply: Reply,
        tools: &mut Tools,
    ) -> Result<(), Malformed> {
        let Some((_, step)) = self.round.take_if(|(current, _)| current == round) else {
            return Ok(());
        };
        match (step, reply) {
            (Step::Reading { timed }, Reply::Values(values)) => {
                match Snapshot::of(values, &self.list(), &self.leases())? {
                    Ok(Some(snapshot)) if timed => {
                        self.round = Some((round.clone(), Step::Timing(snapshot)));
                    }
                    Ok(Some(snapshot)) => self.read(round, snapshot, None, tools),
                    Ok(None) => self.is_news = true,
                    Err(why) => self.fail(why, tools),
                }
            }
            (Step::Timing(snapshot), Reply::TimeLeft(left)) => {
                let left = left.map_or(Remaining::UntilReleased, |seconds| {
                    Remaining::For(expiry::left(seconds))
                });
                self.read(round, snapshot, Some(left), tools);
            }
            // An old memcached cannot tell, and a list that is not there has no end.
            (Step::Timing(snapshot), Reply::Nothing | Reply::Error(_)) => {
                self.read(round, snapshot, Some(Remaining::Unknown), tools);
            }
            (Step::Fencing { since, kept }, Reply::Stored) => {
                self.list_written(since, kept);
                self.is_news = true;
            }
            // Another server was faster.
            (Step::Fencing { .. }, Reply::Exists | Reply::NotStored | Reply::NotFound) => {
                self.is_news = true;
            }
            (Step::Drafted(draft, stage), reply) => {
                return self.drafted(round, draft, stage, reply, tools);
            }
            (Step::Reading { .. } | Step::Fencing { .. }, Reply::Error(why)) => {
                self.fail(refused(&why), tools);
            }
            (step, _) => {
                self.round = Some((round.clone(), step));
                return Err(Malformed::Unasked);
            }
        }
        Ok(())
    }

    fn drafted(
        &mut self,
        round: &Round,
        draft: Box<Draft>,
        stage: Stage,
        reply: Reply,
        tools: &mut Tools,
    ) -> Result<(), Malformed> {
        match (stage, reply) {
            (Stage::Numbering { .. }, Reply::Number(last)) => {
                self.numbered(round, draft, last, tools);
            }
            (Stage::Numbering { seeded: false }, Reply::NotFound) => {
                let seed = tools.boot.micros(tools.now).to_string();
                tools.line.ask(
                    Command::Add {
                        key: &self.tokens(),
                        expires: 0,
                        value: &seed,
                    },
                    round,
                    tools.now,
                );
                self.round = Some((round.clone(), Step::Drafted(draft, Stage::Seeding)));
            }
            (Stage::Numbering { seeded: true }, Reply::NotFound) => {
                self.ask_again(draft);
                self.fail(
                    "memcached forgets what it has just stored".to_owned(),
                    tools,
                );
            }
            (Stage::Seeding, Reply::Stored | Reply::NotStored) => {
                self.number(round, draft, true, tools);
            }
            (Stage::Leasing, Reply::Stored) => self.write_list(round, draft, tools),
            (Stage::Writing { since, kept }, Reply::Stored) => {
                self.list_written(since, kept);
                self.try_over(&draft, Attempt::Done);
                self.settle(draft, tools);
            }
            // Another server was faster.
            (Stage::Leasing, Reply::Exists | Reply::NotStored | Reply::NotFound) => {
                self.ask_again(draft);
            }
            (Stage::Writing { .. }, Reply::Exists | Reply::NotStored | Reply::NotFound) => {
                self.try_over(&draft, Attempt::Failed);
                self.ask_again(draft);
            }
            (_, Reply::Error(why)) => {
                self.ask_again(draft);
                self.fail(refused(&why), tools);
            }
            (stage, _) => {
                self.round = Some((round.clone(), Step::Drafted(draft, stage)));
                return Err(Malformed::Unasked);
            }
        }
        Ok(())
    }

    /// Both keys are read.
    fn read(
        &mut self,
        round: &Round,
        snapshot: Snapshot,
        left: Option<Remaining>,
        tools: &mut Tools,
    ) {
        let found = self.attempts.sort(snapshot);
        self.roll.update(&found.hosts, &found.leases, |token| {
            self.attempts.has(token)
        });
        self.seen = left.map(|left| {
            self.end = End {
                left,
                at: tools.now,
            };
            self.looked
        });
        self.is_news |= tools.is_watched && self.seen.is_none(); // it was asked for while this was read
        if self.is_to_be_fenced(&found, tools.now) {
            self.fence(round, &found, tools);
        } else if self.rival.is_some() {
            (self.is_news, self.rest_until) = (true, tools.now + GLANCE);
        } else {
            self.propose(round, found, tools);
        }
    }

    /// Whether the list is to be written as it is, before a host is granted anything for which it
    /// may just be written. If that is to be waited for, `rival` is set.
    fn is_to_be_fenced(&mut self, found: &Findings, now: Moment) -> bool {
        let before = self.rival.take();
        if found.open.iter().any(|host| self.is_asked_for(host)) {
            return true;
        }
        // Without a list there is no version to tell old leases by. (Without this they would become
        // more and more.)
        if found.version.is_none() && !found.rivals.is_empty() {
            return !self.errands.is_empty() || !self.waiters.is_empty();
        }
        if !found.rivals.iter().any(|host| self.is_asked_for(host)) {
            return false;
        }
        let (version, leases_version) = (found.version, found.leases_version);
        let rival = before
            .filter(|rival| (rival.version, rival.leases_version) == (version, leases_version));
        let rival = rival.unwrap_or(Rival {
            version,
            leases_version,
            since: now,
        });
        let is_slow = rival.since + WRITING <= now;
        self.rival = Some(rival).filter(|_| !is_slow);
        is_slow
    }

    /// Whether a client of this host wants to hold the pool.
    fn is_asked_for(&self, host: &str) -> bool {
        let is_it = |errand: &Errand| matches!(errand, Errand::Asked(asked) if *asked.host == *host && asked.call != Call::Revoke && !matches!(asked.call, Call::Release { .. }));
        self.errands.iter().any(is_it) || self.waiters.iter().any(|(waiter, ..)| waiter == host)
    }

    fn fence(&mut self, round: &Round, found: &Findings, tools: &mut Tools) {
        let kept = list_update::kept(&found.hosts, &found.leases, &self.plan);
        self.ask_to_write_list(round, &found.hosts, kept, found.version, tools);
        self.round = Some((
            round.clone(),
            Step::Fencing {
                since: tools.now,
                kept,
            },
        ));
    }

    fn ask_to_write_list(
        &self,
        round: &Round,
        hosts: &[Rc<str>],
        kept: Kept,
        version: Option<u64>,
        tools: &mut Tools,
    ) {
        let (key, value, expires) = (
            &self.list(),
            &hosts.join(","),
            kept.exptime(tools.boot, tools.now),
        );
        tools.line.ask(
            Command::write_over(key, version, expires, value),
            round,
            tools.now,
        );
    }

    /// Whatever was under way before cannot take effect any more.
    fn list_written(&mut self, since: Moment, kept: Kept) {
        self.written = Some((since, kept));
        self.ghost = false;
        let left = if let Kept::Seconds(seconds) = kept {
            Remaining::For(Duration::from_secs(seconds))
        } else {
            Remaining::UntilReleased
        };
        self.end = End { left, at: since };
    }

    fn propose(&mut self, round: &Round, mut found: Findings, tools: &mut Tools) {
        let mut errands = std::mem::take(&mut self.errands);
        errands.retain(|errand| !matches!(errand, Errand::TakeBack { host, token } if !self.roll.is_untold(host, *token)));
        let terms = Terms {
            plan: &self.plan,
            is_missing: self.missing.is_some(),
            base: found.version,
            date: tools.date(),
            is_ours: &|token| self.attempts.has(token),
        };
        let (hosts, leases) = (
            std::mem::take(&mut found.hosts),
            std::mem::take(&mut found.leases),
        );
        let mut proposal = Proposal::new(hosts, leases, errands, &mut self.waiters, &terms);
        self.errands.append(&mut proposal.later);
        self.is_news |= proposal.is_to_go_on(&self.waiters);
        let writes_list = proposal.list_changed || self.is_to_write_first(&proposal, tools.now);
        let draft = Box::new(Draft {
            proposal,
            found,
            writes_list,
        });
        if !draft.proposal.fresh.is_empty() {
            self.number(round, draft, false, tools);
        } else if draft.proposal.leases_changed {
            self.write_leases(round, draft, tools);
        } else {
            self.write_list(round, draft, tools);
        }
    }

    /// Whether what is to be told is not covered by what this server has written.
    fn is_to_write_first(&self, proposal: &Proposal, now: Moment) -> bool {
        let mut confirmed = proposal.confirmed().peekable();
        self.ghost && !proposal.verdicts.is_empty()
            || confirmed.any(|host| self.told(&proposal.leases, host, now) == Told::Nothing)
    }

    /// What can be told of a lease now.
    fn told(&self, leases: &Leases, host: &str, now: Moment) -> Told {
        match (self.written, leases.get(host)) {
            (Some((since, kept)), Some(lease)) if lease.length <= kept => {
                lease::told(lease.length.ends(since), now)
            }
            _ => Told::Nothing,
        }
    }

    fn number(&mut self, round: &Round, draft: Box<Draft>, seeded: bool, tools: &mut Tools) {
        tools.line.ask(
            Command::Incr {
                key: &self.tokens(),
                by: count(&draft),
            },
            round,
            tools.now,
        );
        self.round = Some((
            round.clone(),
            Step::Drafted(draft, Stage::Numbering { seeded }),
        ));
    }

    fn numbered(&mut self, round: &Round, mut draft: Box<Draft>, last: u64, tools: &mut Tools) {
        let [last, count] =
            [last, count(&draft)].map(|number| i64::try_from(number).unwrap_or(i64::MAX));
        let Proposal { fresh, leases, .. } = &mut draft.proposal;
        for (host, token) in fresh
            .iter()
            .zip(last.saturating_sub(count).saturating_add(1)..)
        {
            if let Some(lease) = leases.get_mut(host) {
                lease.token = token;
                if !lease.confirmed {
                    self.attempts.insert(token, Attempt::Open);
                }
            }
        }
        self.write_leases(round, draft, tools);
    }

    fn write_leases(&mut self, round: &Round, draft: Box<Draft>, tools: &mut Tools) {
        // Those of hosts that are let go stay until the list is written: until then they hold the
        // pool.
        let mut leases = draft.found.known.clone();
        leases.extend(draft.proposal.leases.clone());
        self.ask_to_write_leases(round, &leases, draft.found.leases_version, tools);
        self.round = Some((round.clone(), Step::Drafted(draft, Stage::Leasing)));
    }

    /// They are kept without end, so longer than any list.
    fn ask_to_write_leases(
        &self,
        round: &Round,
        leases: &Leases,
        version: Option<u64>,
        tools: &mut Tools,
    ) {
        tools.line.ask(
            Command::write_over(&self.leases(), version, 0, &leases::text(leases)),
            round,
            tools.now,
        );
    }

    fn write_list(&mut self, round: &Round, draft: Box<Draft>, tools: &mut Tools) {
        if !draft.writes_list {
            return self.settle(draft, tools);
        }
        let kept = draft.proposal.kept(&self.plan);
        self.ask_to_write_list(
            round,
            &draft.proposal.hosts,
            kept,
            draft.found.version,
            tools,
        );
        self.round = Some((
            round.clone(),
            Step::Drafted(
                draft,
                Stage::Writing {
                    since: tools.now,
                    kept,
                },
            ),
        ));
    }

    /// What has become of the hosts that were to be put on the list.
    fn try_over(&mut self, draft: &Draft, outcome: Attempt) {
        let Proposal { fresh, leases, .. } = &draft.proposal;
        for lease in fresh
            .iter()
            .filter_map(|host| leases.get(host))
            .filter(|lease| !lease.confirmed)
        {
            self.attempts.insert(lease.token, outcome);
        }
    }

    /// Both keys are as was proposed.
    fn settle(&mut self, draft: Box<Draft>, tools: &mut Tools) {
        let now = tools.now;
        if let Some(outage) = tools.line.recovered(now) {
            tools.note(
                Level::Warning,
                format!(
                    "memcached at {} answers again, after {:.1} s",
                    tools.address,
                    outage.as_secs_f64()
                ),
            );
        }
        if self.trouble.take().is_some() {
            tools.note(Level::Warning, format!("{} goes on", self.name));
        }
        let Proposal {
            hosts,
            leases,
            list_changed,
            leases_changed,
            ..
        } = &draft.proposal;
        if *list_changed || *leases_changed {
            self.roll
                .update(hosts, leases, |token| self.attempts.has(token));
        }
        self.sweep(&draft, tools);
        if draft
            .proposal
            .confirmed()
            .any(|host| self.told(leases, host, now) == Told::Nothing)
        {
            return self.ask_again(draft); // the reply took so long that memcached may have forgotten
        }
        for (errand, verdict) in &draft.proposal.verdicts {
            match errand {
                Errand::Asked(asked) if *verdict == Verdict::Yes => {
                    self.tell(asked, &draft.proposal, tools);
                }
                Errand::Asked(asked) if *verdict == Verdict::Revoked => {
                    self.revoked(asked, leases, tools);
                }
                Errand::Asked(asked) => self.answer(asked, *verdict, tools),
                Errand::TakeBack { host, token } => {
                    if *verdict == Verdict::TakenBack(true) {
                        let told = format!(
                            "took {} back from {host} (token {token}): the answer could not be delivered",
                            self.name
                        );
                        tools.note(Level::Warning, told);
                    }
                }
            }
        }
        let untold = self.roll.untold().map(|(host, token)| Errand::TakeBack {
            host: host.clone(),
            token,
        });
        self.errands.extend(untold.collect::<Vec<_>>());
    }

    /// Drops leases that are over, if this round has not written them: so that no old token fits a
    /// host that the original puts on the list. Nobody waits for that, and if it comes to
    /// nothing another round does it.
    fn sweep(&self, draft: &Draft, tools: &mut Tools) {
        if draft.proposal.leases_changed {
            return;
        }
        let is_on = |host: &Rc<str>| draft.proposal.hosts.contains(host);
        let mut leases = draft.found.known.clone();
        if draft.writes_list {
            leases.retain(|host, _| is_on(host));
        }
        if draft.found.stale || leases.len() < draft.found.known.len() {
            let nobody = Round {
                pool: self.name.clone(),
                number: NO_ROUND,
            };
            self.ask_to_write_leases(&nobody, &leases, draft.found.leases_version, tools);
        }
    }

    fn tell(&mut self, asked: &Asked, proposal: &Proposal, tools: &mut Tools) {
        let expires = match self.told(&proposal.leases, &asked.host, tools.now) {
            Told::For(left) => Some(left),
            Told::UntilReleased => None,
            Told::Nothing => return, // seen to before
        };
        let token = proposal
            .leases
            .get(&asked.host)
            .map_or(0, |lease| lease.token);
        if self.roll.tell(&asked.host) && proposal.fresh.contains(&asked.host) {
            self.counts.granted += 1;
            let waited = tools.now.since(asked.since).as_secs_f64();
            let run = asked
                .run
                .as_ref()
                .map_or(String::new(), |run| format!(", run {run}"));
            tools.note(
                Level::Info,
                format!(
                    "granted {} to {} (token {token}{run}, waited {waited:.1} s)",
                    self.name, asked.host
                ),
            );
        }
        tools.said.push_back(Said::Yes {
            asked: asked.clone(),
            pool: self.name.clone(),
            grant: Grant { token, expires },
        });
    }

    fn answer(&mut self, asked: &Asked, verdict: Verdict, tools: &mut Tools) {
        let answer = match verdict {
            Verdict::Yes | Verdict::Revoked | Verdict::TakenBack(_) => return,
            Verdict::No => {
                self.counts.refused += 1;
                Answer::No
            }
            Verdict::NoRevoked => {
                self.counts.refused += 1;
                Answer::NoRevoked
            }
            Verdict::Ok { held } => {
                if held {
                    self.counts.released += 1;
                    tools.note(
                        Level::Info,
                        format!("released {} for {}", self.name, asked.host),
                    );
                }
                Answer::Ok
            }
            Verdict::NotHeld => Answer::NotHeld,
            Verdict::Invalid(refusal) => {
                self.counts.invalid += 1;
                tools.note(
                    Level::Info,
                    invalid_request::told(&self.name, &asked.host, refusal),
                );
                Answer::Invalid(refusal)
            }
        };
        tools.answer(asked.ticket, answer);
    }

    fn revoked(&self, asked: &Asked, leases: &Leases, tools: &mut Tools) {
        let Some(lease) = leases.get(&asked.host) else {
            return;
        };
        let (token, host) = (lease.token, &asked.host);
        tools.note(
            Level::Warning,
            format!("revoked {} for {host} (token {token})", self.name),
        );
        let ends = match (self.ends(tools.now), lease.length) {
            (Remaining::For(left), _) => Remaining::For(left + expiry::TICK), /* the latest end, not the earliest */
            (Remaining::UntilReleased, _) | (Remaining::Unknown, Kept::UntilReleased) => {
                Remaining::UntilReleased
            }
            // An old memcached does not tell.
            (Remaining::Unknown, Kept::Seconds(_)) => Remaining::Unknown,
        };
        tools.answer(
            asked.ticket,
            Answer::Revocation {
                token: Some(token),
                ends,
            },
        );
    }

    /// The round comes to nothing.
    fn fail(&mut self, why: String, tools: &mut Tools) {
        if self.trouble.is_none() {
            tools.note(
                Level::Error,
                format!("nobody gets {} and nobody lets go of it: {why}", self.name),
            );
        }
        self.trouble = Some(why);
        self.rest_until = tools.now + LOOK;
    }

    /// What came to nothing is to be done still, and first.
    fn ask_again(&mut self, draft: Box<Draft>) {
        self.is_news = true;
        let mut errands = Vec::new();
        for (errand, _) in draft.proposal.verdicts {
            match errand {
                Errand::Asked(asked) if asked.call == Call::Wait => self.waiters.insert(asked),
                errand => errands.push(errand),
            }
        }
        errands.append(&mut self.errands);
        self.errands = errands;
    }

    /// The line is lost. Whether what was sent had its effect will be seen, or has it still.
    pub(super) fn line_lost(&mut self) {
        self.seen = None;
        let Some((_, step)) = self.round.take() else {
            return;
        };
        self.ghost |= step.writes_list();
        if let Step::Drafted(draft, _) = step {
            self.ask_again(draft);
        }
    }

    /// Takes in a new plan for it.
    pub(super) fn reconfigure(&mut self, plan: plan::Pool, tools: &mut Tools) {
        self.plan = plan;
        self.missing = None;
        for asked in self.waiters.take_all() {
            self.ask(asked, tools);
        }
    }

    /// The config does not have it any more. What stands in memcached stays, and its holders can
    /// renew and release it.
    pub(super) fn abandon(&mut self, tools: &mut Tools) {
        if self.missing.is_none() {
            self.missing = Some(tools.now);
            self.look();
            let told = format!(
                "{} is not in the config any more: its holders in memcached keep it, and can renew and release it",
                self.name
            );
            tools.note(Level::Warning, told);
        }
        for asked in self.waiters.take_all() {
            tools.answer(asked.ticket, Answer::Invalid(Refusal::UnknownPool));
        }
    }

    /// Whether nothing of a pool that the config does not have matters any more.
    pub(super) fn is_over(&self, now: Moment) -> bool {
        let is_idle = self.round.is_none() && !self.is_news && self.errands.is_empty();
        self.missing.is_some_and(|since| {
            is_idle && (self.roll.is_empty() || since + lease::ABANDONED <= now)
        })
    }

    /// When memcached ends the list.
    fn ends(&self, now: Moment) -> Remaining {
        match self.end {
            End {
                left: Remaining::For(left),
                at,
            } => Remaining::For(left.saturating_sub(now.since(at))),
            End { left, .. } => left,
        }
    }

    /// As it was seen last. How long a holder has held is by the clock of the server that granted
    /// it.
    pub(super) fn report(&self, boot: Boot, now: Moment) -> Report<'_> {
        let (ends, date) = (self.ends(now), date(boot, now));
        let holders = self.roll.holders().into_iter().map(|(host, lease)| Holder {
            host,
            run: lease.and_then(|lease| lease.run.as_deref()),
            token: lease.map(|lease| lease.token),
            held: lease.map(|lease| Duration::from_millis(date.saturating_sub(lease.acquired))),
            ends,
            revoked: lease.is_some_and(|lease| lease.revoked),
        });
        Report {
            pool: &self.name,
            permits: if self.missing.is_some() {
                0
            } else {
                self.plan.permits
            },
            expire: self.plan.expire,
            age: self.seen.map(|seen| now.since(seen)),
            holders: holders.collect(),
            waiters: self
                .waiters
                .iter()
                .map(|(host, run, since)| Waiter {
                    host,
                    run,
                    waited: now.since(since),
                })
                .collect(),
            counts: self.counts,
        }
    }
}

/// Until when an errand can wait, if not for ever.
fn patience(errand: &Errand) -> Option<Moment> {
    match errand {
        Errand::Asked(asked) if asked.call != Call::Wait => Some(asked.since + PATIENCE),
        _ => None,
    }
}

/// How many tokens it needs.
fn count(draft: &Draft) -> u64 {
    u64::try_from(draft.proposal.fresh.len()).unwrap_or(u64::MAX)
}

fn refused(why: &str) -> String {
    format!("memcached refuses: {why}")
}

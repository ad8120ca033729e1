//! One pool whose holders stand on a list in memcached, which other servers read and write too. It is changed in rounds: read the list, work out
//! what is to become of it, take tokens, and write it if it is still as it was read; else all over again. All that was asked in the meantime
//! is done in one round.

use super::super::refusal;
use super::super::state::Boot;
use super::super::waiters::{Asked, Waiters};
use super::super::{Answer, Call, Counts, Grant, Holder, Output, Report, Ticket, Waiter};
use super::line::{Line, Round};
use super::proposal::{Errand, Proposal, Verdict};
use super::protocol::{Command, Malformed, Reply};
use crate::moment::Moment;
use crate::plan::{self, Level};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// How long a request waits for memcached, other than to hold the pool: with what a loop takes, it is answered within a second.
const PATIENCE: Duration = Duration::from_millis(900);

/// From one look at a list on which somebody waits for room to the next, and after an error.
const LOOK: Duration = Duration::from_millis(250);

/// The most seconds that memcached takes for a time from now; more is a date to it.
const LONGEST_EXPIRY: u64 = 30 * 24 * 60 * 60;

/// How much sooner than it was told memcached may forget: its clock ticks once a second. (So of one second nothing is sure.)
const TICK: Duration = Duration::from_secs(1);

/// What a slate works with.
pub(super) struct Tools<'a> {
    pub(super) line: &'a mut Line,
    pub(super) out: &'a mut VecDeque<Output>,
    pub(super) boot: Boot,
    pub(super) now: Moment,
}

impl Tools<'_> {
    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.out.push_back(Output::Answer(ticket, answer));
    }

    fn note(&mut self, level: Level, note: String) {
        self.out.push_back(Output::Note(level, note));
    }
}

/// A host on the list, as it is known here.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Since when.
    since: Moment,
    /// What it was told here when it came on the list, if it came so.
    token: Option<i64>,
    /// Answers YES that were given here.
    answers: u32,
}

/// How far a round is.
#[derive(Debug)]
enum Step {
    Reading,
    /// A token is asked for: for the second time if `seeded`.
    Numbering {
        draft: Draft,
        seeded: bool,
    },
    /// There are no tokens yet: begun is with real time, so that they grow on should memcached have forgotten them.
    Seeding {
        draft: Draft,
    },
    Writing {
        draft: Draft,
        /// The last token before those that this round gives out.
        last_token: i64,
        since: Moment,
    },
}

/// What is to be written, in place of this version of the list.
#[derive(Debug)]
struct Draft {
    proposal: Proposal,
    version: Option<u64>,
}

/// What is known of a pool.
#[derive(Debug)]
pub(super) struct Slate {
    name: Rc<str>,
    plan: plan::Pool,
    /// What is to be done, but for those who wait.
    errands: Vec<Errand>,
    waiters: Waiters,
    /// Whether somebody waits who was not there when the list was read.
    is_news: bool,
    round: Option<(Round, Step)>,
    /// No round begins before.
    rest_until: Moment,
    looked: Moment,
    holders: BTreeMap<Rc<str>, Known>,
    /// When the list was written here last, as far as that is known: its expiry counts from then or from later.
    written: Option<Moment>,
    /// Why rounds fail, if they do.
    trouble: Option<String>,
    counts: Counts,
}

impl Slate {
    pub(super) fn new(plan: plan::Pool) -> Slate {
        Slate {
            name: plan.name.as_str().into(),
            plan,
            errands: Vec::new(),
            waiters: Waiters::default(),
            is_news: false,
            round: None,
            rest_until: Moment::default(),
            looked: Moment::default(),
            holders: BTreeMap::new(),
            written: None,
            trouble: None,
            counts: Counts::default(),
        }
    }

    /// A host asks.
    pub(super) fn ask(&mut self, asked: Asked, tools: &mut Tools) {
        // Whether it holds the pool, and so may let go of it though it may not have it, the list will tell.
        match refusal::check(&self.plan, asked.call, &asked.host, true) {
            Err(refusal) => self.answer(&asked, Verdict::Invalid(refusal), tools),
            Ok(()) if asked.call == Call::Wait => {
                self.waiters.insert(asked);
                self.is_news = true;
            }
            Ok(()) => self.errands.push(Errand::Asked(asked)),
        }
    }

    /// Whoever asked this has hung up. Whether it asked here.
    pub(super) fn forget(&mut self, ticket: Ticket) -> bool {
        let is_other = |errand: &Errand| !matches!(errand, Errand::Asked(asked) if asked.ticket == ticket);
        if self.waiters.remove(ticket).is_some() {
            return true;
        }
        if let Some(index) = self.errands.iter().position(|errand| !is_other(errand)) {
            self.errands.remove(index);
            return true;
        }
        let Some(draft) = self.draft() else { return false };
        let before = draft.proposal.verdicts.len();
        draft.proposal.verdicts.retain(|(errand, _)| is_other(errand));
        draft.proposal.verdicts.len() < before
    }

    fn draft(&mut self) -> Option<&mut Draft> {
        match &mut self.round {
            None | Some((_, Step::Reading)) => None,
            Some((_, Step::Numbering { draft, .. } | Step::Seeding { draft } | Step::Writing { draft, .. })) => Some(draft),
        }
    }

    /// A YES did not arrive. If it was the last of what was granted here, it is taken back.
    pub(super) fn undelivered(&mut self, host: &str, token: i64) {
        self.counts.undelivered += 1;
        if let Some((host, known)) = self.holders.get_key_value(host).filter(|(_, known)| known.token == Some(token)) {
            let (host, known) = (host.clone(), Known { answers: known.answers.saturating_sub(1), ..*known });
            self.holders.insert(host.clone(), known);
            if self.is_unheard(&host, token) {
                self.errands.push(Errand::TakeBack { host, token });
            }
        }
    }

    /// Whether the host has this from here and nobody was told, as far as is known.
    fn is_unheard(&self, host: &str, token: i64) -> bool {
        self.holders.get(host).is_some_and(|known| known.token == Some(token) && known.answers == 0)
    }

    /// Tells those who have asked for too long that it is in vain.
    pub(super) fn lose_patience(&mut self, tools: &mut Tools) {
        let late = |errand: &Errand| match errand {
            Errand::Asked(asked) if asked.call != Call::Wait && asked.since + PATIENCE <= tools.now => Some(asked.ticket),
            _ => None,
        };
        let mut tickets: Vec<_> = self.errands.iter().filter_map(late).collect();
        self.errands.retain(|errand| late(errand).is_none());
        if let Some(draft) = self.draft() {
            tickets.extend(draft.proposal.verdicts.iter().filter_map(|(errand, _)| late(errand)));
            draft.proposal.verdicts.retain(|(errand, _)| late(errand).is_none());
        }
        let why = self.trouble.as_deref().or(tools.line.outage()).unwrap_or("memcached does not answer");
        let answers = tickets.into_iter().map(|ticket| Output::Answer(ticket, Answer::Unavailable(why.to_owned())));
        tools.out.extend(answers);
    }

    /// When it has something to do by itself.
    pub(super) fn wake(&self, line_is_up: bool) -> Moment {
        let in_round = match &self.round {
            None | Some((_, Step::Reading)) => &[][..],
            Some((_, Step::Numbering { draft, .. } | Step::Seeding { draft } | Step::Writing { draft, .. })) => {
                &draft.proposal.verdicts[..]
            }
        };
        let errands = self.errands.iter().chain(in_round.iter().map(|(errand, _)| errand));
        let patience = errands.filter_map(|errand| match errand {
            Errand::Asked(asked) if asked.call != Call::Wait => Some(asked.since + PATIENCE),
            _ => None,
        });
        let next = patience.min().unwrap_or(Moment::NEVER);
        if line_is_up && self.round.is_none() { next.min(self.next_round()) } else { next }
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
            let round = Round { pool: self.name.clone(), number };
            (self.is_news, self.looked) = (false, tools.now);
            tools.line.ask(Command::Gets { key: &self.list() }, &round, tools.now);
            self.round = Some((round, Step::Reading));
        }
    }

    /// As the original has it.
    fn list(&self) -> String {
        format!("{}:lockedby", self.name)
    }

    fn tokens(&self) -> String {
        format!("{}:token", self.name)
    }

    /// The round goes on, if it is still the one that asked.
    pub(super) fn reply(&mut self, round: &Round, reply: Reply, tools: &mut Tools) -> Result<(), Malformed> {
        let Some((_, step)) = self.round.take_if(|(current, _)| current == round) else { return Ok(()) };
        match (step, reply) {
            (Step::Reading, Reply::Nothing) => self.propose(round, Vec::new(), None, tools),
            (Step::Reading, Reply::Value { value, version }) => match hosts(&value) {
                Some(hosts) => self.propose(round, hosts, Some(version), tools),
                None => self.fail(None, format!("in memcached, {} is no list of hosts", self.list()), tools),
            },
            (Step::Numbering { draft, .. }, Reply::Number(number)) => match i64::try_from(number) {
                Ok(number) => {
                    let count = i64::try_from(draft.proposal.fresh.len()).unwrap_or(i64::MAX);
                    self.write(round, draft, number.saturating_sub(count), tools);
                }
                Err(_) => self.fail(Some(draft), format!("in memcached, {} is too large", self.tokens()), tools),
            },
            (Step::Numbering { draft, seeded: false }, Reply::NotFound) => {
                let seed = tools.boot.micros(tools.now).to_string();
                tools.line.ask(Command::Add { key: &self.tokens(), expires: 0, value: &seed }, round, tools.now);
                self.round = Some((round.clone(), Step::Seeding { draft }));
            }
            (Step::Numbering { draft, seeded: true }, Reply::NotFound) => {
                self.fail(Some(draft), "memcached forgets what it has just stored".to_owned(), tools);
            }
            (Step::Seeding { draft }, Reply::Stored | Reply::NotStored) => self.number(round, draft, true, tools),
            (Step::Writing { draft, last_token, since }, Reply::Stored) => {
                self.written = Some(since);
                if self.left(tools.now) == Some(Duration::ZERO) {
                    self.ask_again(draft); // the reply took so long that memcached may have forgotten
                } else {
                    self.settle(&draft.proposal, last_token, tools);
                }
            }
            // Another server was faster.
            (Step::Writing { draft, .. }, Reply::Exists | Reply::NotStored | Reply::NotFound) => self.ask_again(draft),
            (Step::Reading, Reply::Error(why)) => self.fail(None, refused(&why), tools),
            (Step::Numbering { draft, .. } | Step::Seeding { draft } | Step::Writing { draft, .. }, Reply::Error(why)) => {
                self.fail(Some(draft), refused(&why), tools);
            }
            (step, _) => {
                self.round = Some((round.clone(), step));
                return Err(Malformed::Unasked);
            }
        }
        Ok(())
    }

    fn propose(&mut self, round: &Round, hosts: Vec<Rc<str>>, version: Option<u64>, tools: &mut Tools) {
        let newest = |host: &str| self.holders.get(host).and_then(|known| known.token);
        let mut errands = std::mem::take(&mut self.errands);
        errands.retain(|errand| !matches!(errand, Errand::TakeBack { host, token } if !self.is_unheard(host, *token)));
        let mut proposal = Proposal::new(hosts, &self.plan, errands, &mut self.waiters, newest);
        let is_new = |host: &Rc<str>| newest(host).is_none() || proposal.fresh.contains(host);
        let (any, any_new) = (proposal.confirmed().next().is_some(), proposal.confirmed().any(is_new));
        // Whoever is told that it holds the pool is told for how long.
        proposal.changed |= any && self.left(tools.now) == Some(Duration::ZERO);
        let draft = Draft { proposal, version };
        if any_new {
            self.number(round, draft, false, tools);
        } else {
            self.write(round, draft, 0, tools);
        }
    }

    fn number(&mut self, round: &Round, draft: Draft, seeded: bool, tools: &mut Tools) {
        let by = u64::try_from(draft.proposal.fresh.len()).unwrap_or(u64::MAX);
        tools.line.ask(Command::Incr { key: &self.tokens(), by }, round, tools.now);
        self.round = Some((round.clone(), Step::Numbering { draft, seeded }));
    }

    fn write(&mut self, round: &Round, draft: Draft, last_token: i64, tools: &mut Tools) {
        if !draft.proposal.changed {
            return self.settle(&draft.proposal, last_token, tools);
        }
        let (key, value, expires) = (&self.list(), &draft.proposal.hosts.join(","), self.expires(tools));
        let command = match draft.version {
            Some(version) => Command::Cas { key, expires, version, value },
            None => Command::Add { key, expires, value },
        };
        tools.line.ask(command, round, tools.now);
        self.round = Some((round.clone(), Step::Writing { draft, last_token, since: tools.now }));
    }

    /// As memcached takes it.
    fn expires(&self, tools: &Tools) -> u64 {
        match self.expiry() {
            None => 0,
            Some(expiry) if expiry.as_secs() <= LONGEST_EXPIRY => expiry.as_secs(),
            Some(expiry) => tools.boot.micros(tools.now + expiry).unsigned_abs() / 1_000_000,
        }
    }

    /// In whole seconds.
    fn expiry(&self) -> Option<Duration> {
        self.plan.expire.map(|expire| Duration::from_secs(expire.as_secs() + u64::from(expire.subsec_nanos() > 0)))
    }

    /// How long the list lasts at least; `None`: without end.
    fn left(&self, now: Moment) -> Option<Duration> {
        let expiry = self.expiry()?.saturating_sub(TICK).max(TICK);
        Some(self.written.map_or(Duration::ZERO, |written| (written + expiry).since(now)))
    }

    /// The list is as was proposed.
    fn settle(&mut self, proposal: &Proposal, last_token: i64, tools: &mut Tools) {
        if self.trouble.take().is_some() {
            tools.note(Level::Warning, format!("{} goes on", self.name));
        }
        let now = tools.now;
        let mut before = std::mem::take(&mut self.holders);
        let mut known = |host: &Rc<str>| before.remove(host).unwrap_or(Known { since: now, token: None, answers: 0 });
        self.holders = proposal.hosts.iter().map(|host| (host.clone(), known(host))).collect();
        for (host, token) in proposal.fresh.iter().zip(last_token.saturating_add(1)..) {
            self.holders.insert(host.clone(), Known { since: now, token: Some(token), answers: 0 });
        }
        for (errand, verdict) in &proposal.verdicts {
            match errand {
                Errand::Asked(asked) if *verdict == Verdict::Yes => self.tell(asked, last_token, proposal, tools),
                Errand::Asked(asked) => self.answer(asked, *verdict, tools),
                Errand::TakeBack { host, token } => {
                    let told = format!("took {} back from {host} (token {token}): the answer could not be delivered", self.name);
                    tools.note(Level::Warning, told);
                }
            }
        }
        for host in &proposal.fresh {
            if let Some(token) = self.holders.get(host).and_then(|known| known.token).filter(|token| self.is_unheard(host, *token)) {
                self.errands.push(Errand::TakeBack { host: host.clone(), token });
            }
        }
    }

    fn tell(&mut self, asked: &Asked, last_token: i64, proposal: &Proposal, tools: &mut Tools) {
        let left = self.left(tools.now);
        let Some(known) = self.holders.get_mut(&asked.host) else { return };
        known.answers = known.answers.saturating_add(1);
        let token = known.token.unwrap_or(last_token);
        if known.answers == 1 && proposal.fresh.contains(&asked.host) {
            self.counts.granted += 1;
            let waited = tools.now.since(asked.since).as_secs_f64();
            tools.note(Level::Info, format!("granted {} to {} (token {token}, waited {waited:.1} s)", self.name, asked.host));
        }
        tools.answer(asked.ticket, Answer::Yes(Grant { token, expires: left }));
    }

    fn answer(&mut self, asked: &Asked, verdict: Verdict, tools: &mut Tools) {
        let answer = match verdict {
            Verdict::Yes | Verdict::Nothing => return,
            Verdict::No => {
                self.counts.refused += 1;
                Answer::No
            }
            Verdict::Ok { held } => {
                if held {
                    self.counts.released += 1;
                    tools.note(Level::Info, format!("released {} for {}", self.name, asked.host));
                }
                Answer::Ok
            }
            Verdict::Invalid(refusal) => {
                self.counts.invalid += 1;
                tools.note(Level::Info, refusal::told(&self.name, &asked.host, refusal));
                Answer::Invalid
            }
        };
        tools.answer(asked.ticket, answer);
    }

    /// The round comes to nothing.
    fn fail(&mut self, draft: Option<Draft>, why: String, tools: &mut Tools) {
        draft.into_iter().for_each(|draft| self.ask_again(draft));
        if self.trouble.is_none() {
            tools.note(Level::Error, format!("nobody gets {} and nobody lets go of it: {why}", self.name));
        }
        self.trouble = Some(why);
        self.rest_until = tools.now + LOOK;
    }

    /// What came to nothing is to be done still, and first.
    fn ask_again(&mut self, draft: Draft) {
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

    /// The line is lost. Whether what was sent had its effect will be seen.
    pub(super) fn line_lost(&mut self) {
        if let Some((_, Step::Numbering { draft, .. } | Step::Seeding { draft } | Step::Writing { draft, .. })) = self.round.take() {
            self.ask_again(draft);
        }
    }

    /// Takes in a new plan for it.
    pub(super) fn reconfigure(&mut self, plan: plan::Pool, tools: &mut Tools) {
        self.plan = plan;
        for asked in self.waiters.take_all() {
            self.ask(asked, tools);
        }
    }

    /// There is no such pool any more. What stands in memcached stays.
    pub(super) fn close(mut self, tools: &mut Tools) {
        self.line_lost();
        let errands = std::mem::take(&mut self.errands).into_iter().filter_map(|errand| match errand {
            Errand::Asked(asked) => Some(asked),
            Errand::TakeBack { .. } => None,
        });
        for asked in errands.chain(self.waiters.take_all()) {
            tools.answer(asked.ticket, Answer::Invalid);
        }
    }

    /// For whoever watches the server: as it was seen last.
    pub(super) fn report(&self, now: Moment) -> Report<'_> {
        let expires = self.left(now);
        let holders = self.holders.iter().map(|(host, known)| Holder { host, token: known.token, held: now.since(known.since), expires });
        Report {
            pool: &self.name,
            permits: self.plan.permits,
            expire: self.plan.expire,
            holders: holders.collect(),
            waiters: self.waiters.iter().map(|(host, since)| Waiter { host, waited: now.since(since) }).collect(),
            counts: self.counts,
        }
    }
}

fn refused(why: &str) -> String {
    format!("memcached refuses: {why}")
}

/// A list as it stands in memcached. Nothing between commas is nobody.
fn hosts(value: &[u8]) -> Option<Vec<Rc<str>>> {
    let value = str::from_utf8(value).ok()?;
    Some(value.split(',').filter(|host| !host.is_empty()).map(Rc::from).collect())
}

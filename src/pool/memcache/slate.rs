//! One pool whose holders stand on a list in memcached, which other servers read and write too. It is changed in rounds, one at a time; each does
//! all that was asked since the one before. A round that another server was faster than is begun again.

use super::super::refusal::{self, Refusal};
use super::super::state::Boot;
use super::super::waiters::{Asked, Waiters};
use super::super::{Answer, Call, Counts, Grant, Holder, Output, Remaining, Report, Ticket, Waiter};
use super::expiry;
use super::line::Line;
use super::proposal::{Errand, Proposal, Verdict};
use super::protocol::{Command, Malformed, Reply};
use super::roll::Roll;
use super::round::{Draft, Round, Stage, Step};
use crate::moment::Moment;
use crate::plan::{self, Level};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// How long a request waits for memcached, other than to hold the pool: with what a loop takes, it is answered within a second.
const PATIENCE: Duration = Duration::from_millis(900);

/// From one look at a list on which somebody waits for room to the next, and after an error.
const LOOK: Duration = Duration::from_millis(250);

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
    pub(super) now: Moment,
}

impl Tools<'_> {
    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.said.push_back(Said::Output(Output::Answer(ticket, answer)));
    }

    fn note(&mut self, level: Level, note: String) {
        self.said.push_back(Said::Output(Output::Note(level, note)));
    }
}

/// What is known of a pool.
#[derive(Debug)]
pub(super) struct Slate {
    name: Rc<str>,
    plan: plan::Pool,
    /// What is to be done, but for those who wait.
    errands: Vec<Errand>,
    waiters: Waiters,
    /// Whether the list is to be read soon: for who waits and was not there when it was, or for its own sake.
    is_news: bool,
    round: Option<(Round, Step)>,
    /// No round begins before.
    rest_until: Moment,
    looked: Moment,
    roll: Roll,
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
            roll: Roll::default(),
            written: None,
            trouble: None,
            counts: Counts::default(),
        }
    }

    /// A host asks.
    pub(super) fn ask(&mut self, asked: Asked, tools: &mut Tools) {
        if let Call::Renew { token } = asked.call {
            self.roll.hear(&asked.host, token);
        }
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

    /// Reads the list, whoever asks or waits.
    pub(super) fn look(&mut self) {
        self.is_news = true;
    }

    /// Whoever asked this has hung up. Whether it asked here.
    pub(super) fn forget(&mut self, ticket: Ticket) -> bool {
        let is_it = |errand: &Errand| matches!(errand, Errand::Asked(asked) if asked.ticket == ticket);
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
        draft.into_iter().flat_map(|draft| &draft.proposal.verdicts).map(|(errand, _)| errand).chain(&self.errands)
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
            self.errands.push(Errand::TakeBack { host: host.into(), token });
        }
    }

    /// Tells those who have asked for too long that it is in vain.
    pub(super) fn lose_patience(&mut self, tools: &mut Tools) {
        let is_late = |errand: &Errand| patience(errand).is_some_and(|until| until <= tools.now);
        let late: Vec<_> = self.errands().filter(|errand| is_late(errand)).filter_map(Errand::ticket).collect();
        if late.is_empty() {
            return;
        }
        self.retain_errands(|errand| !is_late(errand));
        let why = self.trouble.as_deref().or(tools.line.outage()).unwrap_or("memcached does not answer");
        let answers = late.into_iter().map(|ticket| Output::Answer(ticket, Answer::Unavailable(why.to_owned())));
        tools.said.extend(answers.map(Said::Output));
    }

    /// When it has something to do by itself.
    pub(super) fn wake(&self, line_is_up: bool) -> Moment {
        let next = self.errands().filter_map(patience).min().unwrap_or(Moment::NEVER);
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
                None => self.fail(format!("in memcached, {} is no list of hosts", self.list()), tools),
            },
            (Step::Drafted(draft, Stage::Numbering { .. }), Reply::Number(last)) => {
                let [last, count] = [last, count(&draft)].map(|number| i64::try_from(number).unwrap_or(i64::MAX));
                self.write(round, draft, last.saturating_sub(count), tools);
            }
            (Step::Drafted(draft, Stage::Numbering { seeded: false }), Reply::NotFound) => {
                let seed = tools.boot.micros(tools.now).to_string();
                tools.line.ask(Command::Add { key: &self.tokens(), expires: 0, value: &seed }, round, tools.now);
                self.round = Some((round.clone(), Step::Drafted(draft, Stage::Seeding)));
            }
            (Step::Drafted(draft, Stage::Numbering { seeded: true }), Reply::NotFound) => {
                self.ask_again(draft);
                self.fail("memcached forgets what it has just stored".to_owned(), tools);
            }
            (Step::Drafted(draft, Stage::Seeding), Reply::Stored | Reply::NotStored) => self.number(round, draft, true, tools),
            (Step::Drafted(draft, Stage::Writing { last_token, since }), Reply::Stored) => {
                self.written = Some(since);
                if self.left(tools.now) == Some(Duration::ZERO) {
                    self.ask_again(draft); // the reply took so long that memcached may have forgotten
                } else {
                    self.settle(&draft.proposal, last_token, tools);
                }
            }
            // Another server was faster.
            (Step::Drafted(draft, Stage::Writing { .. }), Reply::Exists | Reply::NotStored | Reply::NotFound) => self.ask_again(draft),
            (Step::Reading, Reply::Error(why)) => self.fail(refused(&why), tools),
            (Step::Drafted(draft, _), Reply::Error(why)) => {
                self.ask_again(draft);
                self.fail(refused(&why), tools);
            }
            (step, _) => {
                self.round = Some((round.clone(), step));
                return Err(Malformed::Unasked);
            }
        }
        Ok(())
    }

    fn propose(&mut self, round: &Round, hosts: Vec<Rc<str>>, version: Option<u64>, tools: &mut Tools) {
        let newest = |host: &str| self.roll.token(host);
        let mut errands = std::mem::take(&mut self.errands);
        errands.retain(|errand| !matches!(errand, Errand::TakeBack { host, token } if !self.roll.is_untold(host, *token)));
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
        tools.line.ask(Command::Incr { key: &self.tokens(), by: count(&draft) }, round, tools.now);
        self.round = Some((round.clone(), Step::Drafted(draft, Stage::Numbering { seeded })));
    }

    fn write(&mut self, round: &Round, draft: Draft, last_token: i64, tools: &mut Tools) {
        if !draft.proposal.changed {
            return self.settle(&draft.proposal, last_token, tools);
        }
        let (key, value, expires) = (&self.list(), &draft.proposal.hosts.join(","), expiry::told(self.plan.expire, tools.boot, tools.now));
        let command = match draft.version {
            Some(version) => Command::Cas { key, expires, version, value },
            None => Command::Add { key, expires, value },
        };
        tools.line.ask(command, round, tools.now);
        self.round = Some((round.clone(), Step::Drafted(draft, Stage::Writing { last_token, since: tools.now })));
    }

    /// The list is as was proposed.
    fn settle(&mut self, proposal: &Proposal, last_token: i64, tools: &mut Tools) {
        let now = tools.now;
        if let Some(outage) = tools.line.recovered(now) {
            tools.note(Level::Warning, format!("memcached at {} answers again, after {:.1} s", tools.address, outage.as_secs_f64()));
        }
        if self.trouble.take().is_some() {
            tools.note(Level::Warning, format!("{} goes on", self.name));
        }
        self.roll.update(proposal, last_token, now);
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
            if let Some(token) = self.roll.token(host).filter(|token| self.roll.is_untold(host, *token)) {
                self.errands.push(Errand::TakeBack { host: host.clone(), token });
            }
        }
    }

    /// How long the list lasts at least; `None`: without end.
    fn left(&self, now: Moment) -> Option<Duration> {
        expiry::left(self.plan.expire, self.written, now)
    }

    fn tell(&mut self, asked: &Asked, last_token: i64, proposal: &Proposal, tools: &mut Tools) {
        let token = self.roll.token(&asked.host).unwrap_or(last_token);
        if self.roll.tell(&asked.host) && proposal.fresh.contains(&asked.host) {
            self.counts.granted += 1;
            let waited = tools.now.since(asked.since).as_secs_f64();
            tools.note(Level::Info, format!("granted {} to {} (token {token}, waited {waited:.1} s)", self.name, asked.host));
        }
        let grant = Grant { token, expires: self.left(tools.now) };
        tools.said.push_back(Said::Yes { asked: asked.clone(), pool: self.name.clone(), grant });
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
                Answer::Invalid(refusal)
            }
        };
        tools.answer(asked.ticket, answer);
    }

    /// The round comes to nothing.
    fn fail(&mut self, why: String, tools: &mut Tools) {
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
        if let Some((_, Step::Drafted(draft, _))) = self.round.take() {
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
            tools.answer(asked.ticket, Answer::Invalid(Refusal::UnknownPool));
        }
    }

    /// For whoever watches the server: as it was seen last.
    pub(super) fn report(&self, now: Moment) -> Report<'_> {
        let ends = self.left(now).map_or(Remaining::UntilReleased, Remaining::For);
        let holders = self.roll.iter().map(|(host, known)| {
            let held = Some(now.since(known.since));
            Holder { host, run: None, token: known.token, held, ends, revoked: false }
        });
        Report {
            pool: &self.name,
            permits: self.plan.permits,
            expire: self.plan.expire,
            age: None,
            holders: holders.collect(),
            waiters: self.waiters.iter().map(|(host, run, since)| Waiter { host, run, waited: now.since(since) }).collect(),
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

/// A list as it stands in memcached. Nothing between commas is nobody.
fn hosts(value: &[u8]) -> Option<Vec<Rc<str>>> {
    let value = str::from_utf8(value).ok()?;
    Some(value.split(',').filter(|host| !host.is_empty()).map(Rc::from).collect())
}

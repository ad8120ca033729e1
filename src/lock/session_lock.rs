//! A lock that a ZooKeeper session holds, whatever the recipe: connects, proves, suspends, resumes, loses and releases. How to come by the lock is
//! the recipe's business; from then on it is a node of ours, which must be there, be ours, and be proved so in time.

use super::{Failure, Holder, Input, Lock, Output, Proof, acl};
use crate::deadlines::{self, Deadlines};
use crate::moment::Moment;
use crate::plan::{self, Cluster, Heartbeat};
use crate::zookeeper::code::Code;
use crate::zookeeper::record::Acl;
use crate::zookeeper::request::{Answer, Request};
use crate::zookeeper::session::{Change, Fault, News, Session, Step};
use std::collections::VecDeque;
use std::time::Duration;

/// Why a lock is lost whose node is gone while its session lives.
const DELETED: &str = "the node was deleted";

/// How long the answer to a release is waited for when no command ran under what may be left behind: the session's own end will do for that.
const IDLE_RELEASE: Duration = Duration::from_secs(1);

/// Where to look for the lock, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// How each server is called.
    pub servers: Vec<String>,
    /// Hosts that have no address, each with its reason.
    pub unresolved: Vec<String>,
    /// The ensemble; its `hosts` are not looked at.
    pub cluster: Cluster,
    /// Until when to wait for the lock; `None`: one try.
    pub patience: Option<Moment>,
    /// Until when to try to connect, the first time. From then on, patience alone counts.
    pub connect_by: Moment,
    /// TERM to KILL, when nothing presses.
    pub kill_after: Duration,
    /// Rounds over all servers before the first session; `None`: as many as there is time for.
    pub rounds: Option<u32>,
    /// How often contention is begun again when its session has expired; `None`: always.
    pub restarts: Option<u32>,
}

/// No server took our session in time: each that was tried, with its reason.
pub fn unreachable(tried: &str) -> Failure {
    Failure::Unreachable(format!("ZooKeeper: {tried}"))
}

/// The node that makes a lock ours. Whoever claims it has seen that its owner is our session, and has set a watch on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Its path.
    pub path: String,
    /// Its czxid: the fencing token.
    pub token: i64,
}

/// How far a recipe is, for whoever has to decide whether to go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Something is asked and will be answered. `made`: a node of ours may be there.
    Asking {
        /// A request that makes one was sent.
        made: bool,
    },
    /// Nothing to do until somebody lets go.
    Waiting {
        /// Who has the lock.
        holder: Holder,
        /// A node of ours is there.
        made: bool,
    },
}

/// What a recipe has come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The lock is ours.
    Ours(Claim),
    /// There will be no lock.
    Failed(Failure),
}

/// What a recipe works with.
#[derive(Debug)]
pub struct Desk<'a> {
    /// To ask of.
    pub session: &'a mut Session,
    /// To say something.
    pub outputs: &'a mut VecDeque<Output>,
    /// What all recipes share.
    pub options: &'a Options,
    /// The time.
    pub now: Moment,
}

impl Desk<'_> {
    /// Asks for a node's data, and sets a watch on it.
    pub fn watch(&mut self, path: &str) {
        self.ask(Request::Data { path: path.into(), watch: true });
    }

    /// Asks for something.
    pub fn ask(&mut self, request: Request) {
        self.session.ask(request, self.now);
    }

    /// The ACL of what we make.
    pub fn acl(&self) -> Vec<Acl> {
        acl::of(self.options.cluster.acl)
    }

    /// Whether this session is the one that we have.
    pub fn is_us(&self, owner: i64) -> bool {
        self.session.id() == Some(owner)
    }

    /// Whether the lock is to be waited for if somebody has it.
    pub fn is_patient(&self) -> bool {
        self.options.patience.is_some_and(|patience| self.now < patience)
    }

    /// Says that somebody has the lock, to whoever waits for it; `ahead`: how many others wait and are served before us, if that is known.
    pub fn say_waiting(&mut self, holder: &Holder, ahead: Option<usize>) {
        if self.is_patient() {
            self.outputs.push_back(Output::Waiting { holder: holder.clone(), ahead });
        }
    }
}

/// The way to a lock. It hears what happens until the lock is ours, and again from the start if it was not, after all.
pub trait Recipe {
    /// A connect request is about to go out: what goes with it in the same write. Unless the session is known, only what may become an orphan.
    fn opened(&mut self, desk: &mut Desk);
    /// A server has our session: what has still to be asked.
    fn up(&mut self, desk: &mut Desk);
    /// A request was answered.
    fn answered(&mut self, request: &Request, result: Result<Answer, Code>, desk: &mut Desk) -> Option<Verdict>;
    /// A watch fired.
    fn changed(&mut self, change: Change, path: &str, desk: &mut Desk);
    /// The connection is gone; `known`: the session may go on.
    fn down(&mut self, known: bool);
    /// The lock is ours, and so was a connection whose last replies may be lost: what has still to be put away.
    fn resumed(&mut self, _: &mut Desk) {}
    /// The lock is ours, and something that was to be put away was: or why not. The warning that is worth, if any.
    fn put_away(&mut self, _path: &str, _result: Result<(), Code>, _: &mut Desk) -> Option<String> {
        None
    }
    /// The session is about to be ended, and all that it has made with it: what else has to be put away.
    fn leave(&mut self, _: &mut Desk) {}
    /// Nothing of ours is left: begins again.
    fn restart(&mut self, desk: &mut Desk);
    /// How far it is.
    fn stage(&self, now: Moment) -> Stage;
    /// When its stage may change by itself.
    fn wake(&self) -> Moment {
        Moment::NEVER
    }
    /// When it gives up by itself, and why.
    fn limit(&self) -> Option<(Moment, Failure)> {
        None
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// The recipe is at work.
    Contending,
    /// The node is ours; a heartbeat must show that there is time to begin.
    Proving(Claim),
    /// The lock is ours, and said to be. `suspended`: for the time being nobody can be asked.
    Held { claim: Claim, suspended: bool },
    /// It was, or never will be: waiting to be told to let go. `held`: a node of ours may be left that somebody counts on to go.
    Settled { held: bool },
    /// Letting go, until then. `held`: a node of ours may be left.
    Releasing { by: Moment, held: bool },
    /// All is said.
    Over,
}

/// The machine.
#[derive(Debug)]
pub struct SessionLock<R> {
    options: Options,
    recipe: R,
    session: Session,
    phase: Phase,
    /// What was told last.
    believed: Deadlines,
    /// When the clock was looked at last: a holder does so at every heartbeat, unless it is stopped.
    looked: Moment,
    outputs: VecDeque<Output>,
}

impl<R: Recipe> Lock for SessionLock<R> {
    fn handle(&mut self, input: Input, now: Moment) {
        // After a pause of the whole process, what the clock says comes before what any peer says.
        self.look_at_the_clock(now);
        match input {
            Input::Connected => self.opened(now),
            Input::Disconnected(why) => self.session.disconnected(why, now),
            Input::Received(bytes) => self.session.received(bytes, now),
            Input::Release => self.release(now),
            Input::Tick | Input::Granted { .. } | Input::Taken { .. } | Input::Broken(_) => {}
        }
        self.listen(now);
    }

    fn poll(&mut self, now: Moment) -> Output {
        self.session.tick(now);
        self.listen(now);
        self.look_at_the_clock(now);
        match self.session.step() {
            Some(Step::Connect(server)) => Output::Connect(server),
            Some(Step::Send(bytes)) => Output::Send(bytes),
            Some(Step::Disconnect) => Output::Disconnect,
            None => self.outputs.pop_front().unwrap_or_else(|| Output::Wait(self.session.wake().min(self.deadline(now)))),
        }
    }
}

impl<R: Recipe> SessionLock<R> {
    /// Contention begins with the first `poll`.
    pub fn new(options: Options, recipe: R, now: Moment) -> SessionLock<R> {
        let session = Session::new(options.servers.clone(), options.cluster.timeout, options.cluster.auth.clone(), now);
        let mut lock = SessionLock {
            session,
            options,
            recipe,
            phase: Phase::Contending,
            believed: Deadlines::NEVER,
            looked: now,
            outputs: VecDeque::new(),
        };
        lock.with_recipe(now, Recipe::restart);
        lock
    }

    fn with_recipe<T>(&mut self, now: Moment, work: impl FnOnce(&mut R, &mut Desk) -> T) -> T {
        work(&mut self.recipe, &mut Desk { session: &mut self.session, outputs: &mut self.outputs, options: &self.options, now })
    }

    fn listen(&mut self, now: Moment) {
        while let Some(news) = self.session.news() {
            self.hear(news, now);
        }
    }

    /// A connection is there: what goes out in one write with the connect request.
    fn opened(&mut self, now: Moment) {
        self.session.connected(now);
        let known = self.session.id().is_some();
        match &self.phase {
            Phase::Contending => self.with_recipe(now, Recipe::opened),
            Phase::Proving(claim) | Phase::Held { claim, .. } if known => {
                let path = claim.path.clone();
                self.session.ask(Request::Check { path: path.clone() }, now);
                self.session.ask(Request::Data { path, watch: true }, now);
                self.with_recipe(now, Recipe::resumed);
            }
            Phase::Releasing { .. } if known => self.leave(now),
            _ => {}
        }
    }

    /// Ends the session.
    fn leave(&mut self, now: Moment) {
        self.with_recipe(now, Recipe::leave);
        self.session.ask(Request::Close, now);
    }

    fn hear(&mut self, news: News, now: Moment) {
        match news {
            News::Up { resumed } => self.up(resumed, now),
            News::Reply { request: Request::Close, .. } => self.released(None, now),
            News::Reply { request, result } => self.answered(&request, result, now),
            News::Watch { change, path } => self.changed(change, &path, now),
            News::Down(fault) => self.down(&fault, now),
            News::Expired => self.expired(now),
            News::Refused(code) => self.fail(Failure::Refused { what: "authenticate".into(), why: code.to_string() }, now),
        }
    }

    fn up(&mut self, resumed: bool, now: Moment) {
        let (server, id, timeout) = (self.session.server(), self.session.id().unwrap_or(0), self.session.lease().timeout());
        // These bound the way to the first session; who waits rides out an outage for as long as it waits.
        self.options.rounds = None;
        self.options.connect_by = self.options.connect_by.max(self.options.patience.unwrap_or_default());
        let word = if resumed { "resumed" } else { "started" };
        self.note(format!("connected to {server}: session 0x{id:x} {word}, timeout {:.1} s", timeout.as_secs_f64()));
        if timeout < deadlines::SHORTEST {
            let granted = format!("the server grants a session timeout of {:.1} s, too short to keep a lock safely", timeout.as_secs_f64());
            return self.fail(
                Failure::Unfit(format!("{granted}: ask for more by --timeout or the config, or raise maxSessionTimeout on the server")),
                now,
            );
        }
        match self.phase {
            Phase::Contending => self.with_recipe(now, Recipe::up),
            Phase::Held { .. } => self.proved(now), // with a shorter timeout, if that is what is granted now
            _ => {}
        }
    }

    fn answered(&mut self, request: &Request, result: Result<Answer, Code>, now: Moment) {
        if let (Request::Acl { path }, Ok(Answer::Acl(acl))) = (request, &result) {
            return self.outputs.extend(acl::warning(path, acl).map(Output::Warn));
        }
        let claim = match &self.phase {
            Phase::Contending => {
                let verdict = self.with_recipe(now, |recipe, desk| recipe.answered(request, result, desk));
                return self.judge(verdict, now);
            }
            Phase::Proving(claim) | Phase::Held { claim, .. } => claim,
            Phase::Settled { .. } | Phase::Releasing { .. } | Phase::Over => return,
        };
        match (request, result) {
            (Request::Ping | Request::Sync { .. }, Ok(_)) => self.proved(now),
            (Request::Check { path }, Ok(_)) if *path == claim.path => self.proved(now),
            (Request::Delete { path }, result) => {
                let warning = self.with_recipe(now, |recipe, desk| recipe.put_away(path, result.map(drop), desk));
                self.outputs.extend(warning.map(Output::Warn));
            }
            (Request::Data { path, .. }, Ok(Answer::Data(_, stat))) if *path == claim.path => self.seen(stat.ephemeral_owner, now),
            (Request::Check { path } | Request::Data { path, .. }, Err(Code::NO_NODE)) if *path == claim.path => {
                self.lose(DELETED.into(), now, now);
            }
            _ => {} // no proof; without one the lease runs out
        }
    }

    fn judge(&mut self, verdict: Option<Verdict>, now: Moment) {
        match verdict {
            Some(Verdict::Ours(claim)) => self.claim(claim, now),
            Some(Verdict::Failed(failure)) => self.fail(failure, now),
            None => {}
        }
    }

    /// The node is ours.
    fn claim(&mut self, claim: Claim, now: Moment) {
        let check = Request::Check { path: claim.path.clone() };
        self.session.hold(match self.options.cluster.heartbeat {
            Heartbeat::Write if cfg!(zk_flock_trusts_sync) => Request::Sync { path: claim.path.clone() }, // tests/ensemble.rs must see it overlap
            Heartbeat::Write => check.clone(),
            Heartbeat::Ping => Request::Ping,
        });
        self.phase = Phase::Proving(claim);
        self.proved(now);
        if let Phase::Proving(_) = self.phase {
            self.session.ask(check, now);
        }
    }

    /// Tells how long the lock may be believed in, if that is news; and that it is ours, if it was not said and leaves time to begin.
    fn proved(&mut self, now: Moment) {
        let deadlines = self.session.lease().deadlines(self.options.kill_after);
        if self.believed != deadlines {
            self.believed = deadlines;
            self.outputs.push_back(Output::Believe(deadlines));
        }
        if let Phase::Proving(claim) = &self.phase
            && now < deadlines.term
        {
            let proof = Proof { lock: claim.path.clone(), token: Some(claim.token), session: self.session.id() };
            self.outputs.push_back(Output::Acquired(proof));
            let parent = claim.path.rsplit_once('/').map_or("", |(parent, _)| parent);
            if self.options.cluster.acl == plan::Acl::Creator && !parent.is_empty() {
                self.session.ask(Request::Acl { path: parent.into() }, now);
            }
            self.phase = Phase::Held { claim: claim.clone(), suspended: false };
        }
    }

    /// The node is there, and belongs to this session.
    fn seen(&mut self, owner: i64, now: Moment) {
        if self.session.id() != Some(owner) {
            self.lose(format!("the node belongs to session 0x{owner:x} now"), now, now);
        } else if let Phase::Held { suspended: suspended @ true, .. } = &mut self.phase {
            *suspended = false;
            self.outputs.push_back(Output::Resumed);
        }
    }

    fn changed(&mut self, change: Change, path: &str, now: Moment) {
        match &self.phase {
            Phase::Contending => self.with_recipe(now, |recipe, desk| recipe.changed(change, path, desk)),
            Phase::Proving(claim) | Phase::Held { claim, .. } if claim.path == path => match change {
                Change::Deleted => self.lose(DELETED.into(), now, now),
                Change::Changed | Change::Created => self.session.ask(Request::Data { path: path.into(), watch: true }, now), // the watch is used up
            },
            _ => {}
        }
    }

    fn down(&mut self, fault: &Fault, now: Moment) {
        let fault = format!("{}: {fault}", self.session.server());
        self.note(fault.clone());
        match &mut self.phase {
            Phase::Contending => self.recipe.down(self.session.id().is_some()),
            Phase::Held { suspended: suspended @ false, .. } => {
                *suspended = true;
                self.outputs.push_back(Output::Suspended(fault));
            }
            Phase::Releasing { held: false, .. } => self.released(None, now),
            _ => {}
        }
    }

    /// The session is over, and every node of ours with it.
    fn expired(&mut self, now: Moment) {
        self.note("the session has expired".into());
        match self.phase {
            Phase::Held { .. } => {
                self.lose("the session has expired".into(), now, now);
                if let Phase::Settled { .. } = self.phase {
                    self.session.forget(now);
                }
            }
            Phase::Releasing { .. } => self.released(None, now),
            Phase::Settled { .. } | Phase::Over => self.session.forget(now),
            Phase::Contending | Phase::Proving(_) if self.options.restarts == Some(0) => {
                let tried = format!("{}: the session has expired, too often", self.session.server());
                self.fail(unreachable(&tried), now);
            }
            Phase::Contending | Phase::Proving(_) => {
                self.options.restarts = self.options.restarts.map(|left| left - 1);
                self.phase = Phase::Contending;
                self.with_recipe(now, Recipe::restart);
            }
        }
    }

    /// There will be no lock. What is held is held all the same.
    fn fail(&mut self, failure: Failure, now: Moment) {
        let held = match self.phase {
            Phase::Contending => self.may_have_made(now),
            Phase::Proving(_) => true,
            Phase::Held { .. } | Phase::Settled { .. } | Phase::Releasing { .. } | Phase::Over => return,
        };
        self.phase = Phase::Settled { held };
        self.outputs.push_back(Output::Failed(failure));
    }

    fn may_have_made(&self, now: Moment) -> bool {
        match self.recipe.stage(now) {
            Stage::Asking { made } | Stage::Waiting { made, .. } => made,
        }
    }

    /// The lock is lost. If it was never said to be ours, it is contended for again.
    fn lose(&mut self, why: String, dead_by: Moment, now: Moment) {
        match self.phase {
            Phase::Held { .. } if !self.outputs.iter().any(|output| matches!(output, Output::Acquired(_))) => {
                self.phase = Phase::Settled { held: false };
                self.outputs.push_back(Output::Lost { why, dead_by });
            }
            Phase::Held { .. } | Phase::Proving(_) => {
                self.outputs.retain(|output| !matches!(output, Output::Acquired(_)));
                self.phase = Phase::Contending;
                self.with_recipe(now, Recipe::restart);
            }
            _ => {}
        }
    }

    fn release(&mut self, now: Moment) {
        let timeout = self.session.lease().timeout();
        let (held, bound) = match self.phase {
            Phase::Releasing { .. } | Phase::Over => return,
            Phase::Contending => (self.may_have_made(now), IDLE_RELEASE),
            Phase::Settled { held } => (held, IDLE_RELEASE),
            Phase::Proving(_) | Phase::Held { .. } => (true, timeout),
        };
        let known = self.session.id().is_some();
        let held = held && known;
        self.phase = Phase::Releasing { by: now + bound, held };
        if known && self.session.takes_requests() {
            self.leave(now);
        } else if !held {
            self.released(None, now);
        }
    }

    fn released(&mut self, doubt: Option<String>, now: Moment) {
        if let Phase::Releasing { .. } = self.phase {
            self.session.forget(now);
            self.phase = Phase::Over;
            self.outputs.push_back(Output::Released { doubt });
        }
    }

    /// Everything that time alone brings about.
    fn look_at_the_clock(&mut self, now: Moment) {
        match self.phase {
            Phase::Held { .. } if now >= self.believed.term => {
                let (blind, silence) = (now.since(self.looked), now.since(self.session.lease().proof()));
                let why = if blind > self.session.lease().timeout() / 5 {
                    format!("this process was stopped for {:.1} s", blind.as_secs_f64())
                } else {
                    format!("no answer from {} for {:.1} s", self.options.servers.join(", "), silence.as_secs_f64())
                };
                self.lose(why, self.believed.kill, now);
            }
            Phase::Releasing { by, held } if now >= by => {
                let (servers, timeout) = (self.options.servers.join(", "), self.session.lease().timeout().as_secs_f64());
                let doubt = format!("no answer from {servers}: the lock is free when its session has expired, within {timeout:.1} s");
                self.released(held.then_some(doubt), now);
            }
            Phase::Contending | Phase::Proving(_) => self.look_at_our_patience(now),
            _ => {}
        }
        self.looked = now;
    }

    /// Whether there is reason to wait for the lock any longer.
    fn look_at_our_patience(&mut self, now: Moment) {
        if let (Phase::Contending, Some((_, failure))) = (&self.phase, self.recipe.limit().filter(|(limit, _)| now >= *limit)) {
            return self.fail(failure, now);
        }
        let answering = self.session.is_answering(now);
        // What ends by its own limit needs a server for that, and not a quick one.
        let reached = answering || self.session.is_up() && self.recipe.limit().is_some();
        match self.recipe.stage(now) {
            Stage::Waiting { holder, made }
                if answering && self.phase == Phase::Contending && self.options.patience.is_none_or(|patience| now >= patience) =>
            {
                self.phase = Phase::Settled { held: made };
                self.outputs.push_back(Output::Busy(holder));
            }
            _ if !reached
                && (now >= self.options.connect_by
                    || self.session.rounds_in_vain().zip(self.options.rounds).is_some_and(|(done, most)| done >= most)) =>
            {
                let tried = [self.session.faults(now)].iter().chain(&self.options.unresolved).cloned().collect::<Vec<_>>().join("; ");
                self.fail(unreachable(&tried), now);
            }
            _ => {}
        }
    }

    /// When the clock alone brings about something next.
    fn deadline(&self, now: Moment) -> Moment {
        // A limit that is past and has not fired waits for the session's own next move, a heartbeat at the latest.
        let ahead = |limit: Moment| if limit > now { limit } else { Moment::NEVER };
        match self.phase {
            Phase::Held { .. } => self.believed.term,
            Phase::Releasing { by, .. } => by,
            Phase::Contending | Phase::Proving(_) => {
                let own = self.recipe.limit().map_or(Moment::NEVER, |(limit, _)| limit);
                own.min(ahead(self.recipe.wake()))
                    .min(ahead(self.options.connect_by))
                    .min(ahead(self.options.patience.unwrap_or(Moment::NEVER)))
            }
            Phase::Settled { .. } | Phase::Over => Moment::NEVER,
        }
    }

    fn note(&mut self, text: String) {
        self.outputs.push_back(Output::Note(text));
    }
}

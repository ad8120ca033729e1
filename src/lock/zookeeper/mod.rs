//! A lock that a ZooKeeper session holds, whatever the recipe: connects, proves, suspends, resumes,
//! loses and releases. How to come by the lock is the recipe's business; from then on it is a node
//! of ours, which must be there, be ours, and be proved so in time.

mod acl;
#[cfg(test)]
mod fake;
pub mod layout;
pub mod node;
mod parents;
pub mod queue;
mod queue_entry;
pub mod semaphore;

use super::lookups::Lookups;
use super::repeats::Repeats;
use super::{Event, Failure, Holder, Input, Lock, Output, Proof};
use crate::deadlines::{self, Deadlines};
use crate::endpoint::{Endpoint, Found};
use crate::moment::Moment;
use crate::plan::{self, Cluster, Heartbeat};
use crate::transport;
use crate::zookeeper::code::Code;
use crate::zookeeper::record::Acl;
use crate::zookeeper::request::{Answer, Request};
use crate::zookeeper::session::{Change, Fault, News, Session};
use std::collections::VecDeque;
use std::time::Duration;

/// Why a lock is lost whose node is gone while its session lives.
const DELETED: &str = "the node was deleted";

/// Why a session is over that the server says is.
const EXPIRED: &str = "the session has expired";

/// How long the answer to a release is waited for when no command ran under what may be left
/// behind: the session's own end will do for that.
const IDLE_RELEASE: Duration = Duration::from_secs(1);

/// Where to look for the lock, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the servers are.
    pub servers: Vec<Endpoint>,
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
    /// Sessions that hold locks under which we run.
    pub outer: Vec<i64>,
    /// Whether the user can give the program something to authenticate with.
    pub takes_auth: bool,
}

/// No server took our session in time: each that was tried, with its reason.
pub fn unreachable(tried: &str) -> Failure {
    Failure::Unreachable(format!("ZooKeeper: {tried}"))
}

/// We would wait for ourselves.
fn circular(lock: &str, session: i64) -> Verdict {
    Verdict::Failed(super::circular(lock, &format!("session 0x{session:x}")))
}

/// The node that makes a lock ours. Whoever claims it has seen that its owner is our session, and
/// has set a watch on it.
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
    /// Tells the loop what happened.
    pub fn say(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Asks for a node's data, and sets a watch on it.
    pub fn watch(&mut self, path: &str) {
        self.ask(Request::Data {
            path: path.into(),
            watch: true,
        });
    }

    /// Asks for something.
    pub fn ask(&mut self, request: Request) {
        self.session.ask(request, self.now);
    }

    /// The ACL of what we make.
    pub fn acl(&self) -> Vec<Acl> {
        acl::of(self.options.cluster.acl)
    }

    /// Whether a lock of this session is let go only after we have ended: we run under it.
    pub fn is_outer(&self, session: i64) -> bool {
        self.options.outer.contains(&session)
    }

    /// What an error of the server says to the user of this program.
    pub fn explain(&self, code: Code) -> String {
        code.explain(self.options.takes_auth)
    }

    /// Whether this session is the one that we have.
    pub fn is_us(&self, owner: i64) -> bool {
        self.session.id() == Some(owner)
    }

    /// Whether the lock is to be waited for if somebody has it.
    pub fn is_patient(&self) -> bool {
        self.options
            .patience
            .is_some_and(|patience| self.now < patience)
    }

    /// Says that somebody has the lock, to whoever waits for it; `ahead`: how many others wait and
    /// are served before us, if that is known.
    pub fn say_waiting(&mut self, holder: &Holder, ahead: Option<usize>) {
        if self.is_patient() {
            self.say(Event::Waiting {
                holder: holder.clone(),
                ahead,
            });
        }
    }
}

/// The way to a lock. It hears what happens until the lock is ours, and again from the start if it
/// was not, after all.
pub trait Recipe {
    /// A connect request is about to go out: what goes with it in the same write. Unless the
    /// session is known, only what may become an orphan.
    fn opened(&mut self, desk: &mut Desk);
    /// A server has our session: what has still to be asked.
    fn up(&mut self, desk: &mut Desk);
    /// A request was answered.
    fn answered(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        desk: &mut Desk,
    ) -> Option<Verdict>;
    /// A watch fired.
    fn changed(&mut self, change: Change, path: &str, desk: &mut Desk);
    /// The connection is gone; `known`: the session may go on.
    fn down(&mut self, known: bool);
    /// The lock is ours, and so was a connection whose last replies may be lost: what has still to
    /// be put away.
    fn resumed(&mut self, _: &mut Desk) {}
    /// The lock is ours, and something that was to be put away was: or why not. The warning that is
    /// worth, if any.
    fn put_away(&mut self, _path: &str, _result: Result<(), Code>, _: &mut Desk) -> Option<String> {
        None
    }
    /// The session is about to be ended, and all that it has made with it: what else has to be put
    /// away.
    fn leave(&mut self, _: &mut Desk) {}
    /// Nothing of ours is left: begins again.
    fn restart(&mut self, desk: &mut Desk);
    /// How far it is.
    fn stage(&self, now: Moment) -> Stage;
    /// When its stage may change by itself.
    fn wake(&self) -> Moment {
        Moment::NEVER
    }
    /// When it gives up by itself, and for whom.
    fn limit(&self) -> Option<(Moment, Holder)> {
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
    /// The lock is held to the end of the lease, and no longer: no server resumes the session, for
    /// this reason.
    Cut { why: String },
    /// It was not proved in time. The session is kept until we are told to let go, for a process of
    /// the command may be impossible to kill. `proved`: a server has resumed the session since
    /// then, and the node belongs to it.
    Kept { claim: Claim, proved: bool },
    /// It was, or never will be: waiting to be told to let go. `held`: a node of ours may be left
    /// that somebody counts on to go.
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
    /// When the clock was looked at last: a holder does so at every heartbeat, unless it is
    /// stopped.
    looked: Moment,
    /// Since when no server has our session; `None`: one has.
    unreached: Option<Moment>,
    lookups: Lookups,
    repeats: Repeats,
    /// Why the session is asked for as one that has seen nothing, if it is.
    disowned: Option<String>,
    outputs: VecDeque<Output>,
}

impl<R: Recipe> Lock for SessionLock<R> {
    fn handle(&mut self, input: Input, now: Moment) {
        // After a pause of the whole process, what the clock says comes before what any peer says.
        self.look_at_the_clock(now);
        match input {
            Input::Transport(event) => self.on_transport(event, now),
            Input::Release => self.release(now),
            Input::LookUp(found) => self.relist(found, now),
            Input::Tick | Input::File(_) => {}
        }
        self.listen(now);
    }

    fn poll(&mut self, now: Moment) -> Output {
        self.session.tick(now);
        self.listen(now);
        self.look_at_the_clock(now);
        self.look_up(now);
        if let Some(output) = self.session.step() {
            return Output::Transport(output);
        }
        self.outputs.pop_front().unwrap_or_else(|| {
            Output::Wait(
                self.session
                    .wake()
                    .min(self.deadline(now))
                    .min(self.next_look_up()),
            )
        })
    }
}

impl<R: Recipe> SessionLock<R> {
    /// Contention begins with the first `poll`.
    pub fn new(options: Options, recipe: R, now: Moment) -> SessionLock<R> {
        let mut session = Session::new(
            options.servers.clone(),
            options.cluster.timeout,
            options.cluster.auth.clone(),
            now,
        );
        session.count_rounds(options.rounds.is_some());
        let mut lock = SessionLock {
            session,
            options,
            recipe,
            phase: Phase::Contending,
            believed: Deadlines::NEVER,
            looked: now,
            unreached: Some(now),
            lookups: Lookups::new(now),
            repeats: Repeats::default(),
            disowned: None,
            outputs: VecDeque::new(),
        };
        lock.with_recipe(now, Recipe::restart);
        lock
    }

    fn with_recipe<T>(&mut self, now: Moment, work: impl FnOnce(&mut R, &mut Desk) -> T) -> T {
        work(
            &mut self.recipe,
            &mut Desk {
                session: &mut self.session,
                outputs: &mut self.outputs,
                options: &self.options,
                now,
            },
        )
    }

    fn listen(&mut self, now: Moment) {
        while let Some(news) = self.session.news() {
            self.hear(news, now);
        }
    }

    fn on_transport(&mut self, event: transport::Event, now: Moment) {
        match event {
            transport::Event::Connected => self.opened(now),
            transport::Event::Disconnected(why) => self.session.disconnected(why, now),
            transport::Event::Received(bytes) => self.session.received(bytes, now),
        }
    }

    /// A connection is there: what goes out in one write with the connect request.
    fn opened(&mut self, now: Moment) {
        self.session.connected(now);
        let known = self.session.id().is_some();
        match &self.phase {
            Phase::Contending => self.with_recipe(now, Recipe::opened),
            Phase::Proving(claim) | Phase::Held { claim, .. } | Phase::Kept { claim, .. }
                if known =>
            {
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

    /// Has the names of the servers looked up when that is due.
    fn look_up(&mut self, now: Moment) {
        if now >= self.next_look_up() {
            self.lookups.begin();
            self.outputs.push_back(Output::LookUp);
        }
    }

    fn next_look_up(&self) -> Moment {
        let heartbeat = match self.phase {
            Phase::Contending | Phase::Proving(_) | Phase::Kept { .. } => None,
            Phase::Held { .. } | Phase::Releasing { .. } => {
                Some(self.session.lease().timeout() / 10)
            }
            Phase::Cut { .. } | Phase::Settled { .. } | Phase::Over => return Moment::NEVER,
        };
        self.lookups.due(self.unreached, heartbeat)
    }

    fn relist(&mut self, found: Found, now: Moment) {
        self.lookups.done(now);
        self.options.unresolved = found.unresolved;
        if self.session.relist(found.endpoints, now) {
            self.note(format!(
                "names were looked up again: the servers are {} now",
                self.session.servers()
            ));
        }
    }

    fn hear(&mut self, news: News, now: Moment) {
        match news {
            News::Up { .. } => {
                self.unreached = None;
                self.lookups.reached();
            }
            News::Down(_) | News::Expired | News::Replaced { .. } => {
                self.unreached.get_or_insert(now);
            }
            News::Reply { .. } | News::Watch { .. } | News::Disowned { .. } | News::Refused(_) => {}
        }
        match news {
            News::Up { resumed } => self.up(resumed, now),
            News::Reply {
                request: Request::Close,
                ..
            } => self.released(None, now),
            News::Reply { request, result } => self.answered(&request, result, now),
            News::Watch { change, path } => self.changed(change, &path, now),
            News::Down(fault) => self.down(&fault, now),
            News::Expired => self.expired(now),
            News::Replaced { by } => self.replaced(by, now),
            News::Disowned { silence } => self.disowned(silence),
            News::Refused(code) => self.refused(code, now),
        }
    }

    /// Servers hang up on the session for so long that it must be over.
    fn disowned(&mut self, silence: Duration) {
        let (id, silence) = (self.session.id().unwrap_or(0), silence.as_secs_f64());
        let why = format!(
            "no server has resumed session 0x{id:x} for {silence:.1} s (servers restored from an older backup or wiped, or too many connections from this host?)"
        );
        self.note(format!("{why}: asking for it as if it had seen nothing"));
        self.disowned = Some(why);
    }

    /// The server wants to know who we are, or does not believe it, and ends the connection: it
    /// takes nothing from us.
    fn refused(&mut self, code: Code, now: Moment) {
        let why = code.explain(self.options.takes_auth);
        match self.phase {
            Phase::Releasing { held, .. } => {
                let doubt = (held && self.believed != Deadlines::NEVER)
                    .then(|| self.free_when_expired(&why));
                self.released(doubt, now);
            }
            _ => self.fail(
                Failure::Refused {
                    what: "authenticate".into(),
                    why,
                },
                now,
            ),
        }
    }

    fn up(&mut self, resumed: bool, now: Moment) {
        self.disowned = None;
        self.note_repeats();
        let (server, id, timeout) = (
            self.session.server(),
            self.session.id().unwrap_or(0),
            self.session.lease().timeout(),
        );
        // These bound the way to the first session; who waits rides out an outage for as long as it
        // waits.
        self.options.rounds = None;
        self.options.connect_by = self
            .options
            .connect_by
            .max(self.options.patience.unwrap_or_default());
        let word = if resumed { "resumed" } else { "started" };
        self.note(format!(
            "connected to {server}: session 0x{id:x} {word}, timeout {:.1} s",
            timeout.as_secs_f64()
        ));
        self.session.count_rounds(false);
        if timeout < deadlines::SHORTEST
            && matches!(self.phase, Phase::Contending | Phase::Proving(_))
        {
            let granted = format!(
                "the server grants a session timeout of {:.1} s, too short to keep a lock safely",
                timeout.as_secs_f64()
            );
            return self.fail(
                Failure::IncompatibleLock(format!("{granted}: ask for more by --timeout or the config, or raise maxSessionTimeout on the server")),
                now,
            );
        }
        match self.phase {
            Phase::Contending => self.with_recipe(now, Recipe::up),
            Phase::Held { .. } => self.proved(now), /* with a shorter timeout, if that is what
            * is granted now, however short */
            _ => {}
        }
    }

    fn answered(&mut self, request: &Request, result: Result<Answer, Code>, now: Moment) {
        if let (Request::Acl { path }, Ok(Answer::Acl(acl))) = (request, &result) {
            return self
                .outputs
                .extend(acl::warning(path, acl).map(|text| Output::Event(Event::Warn(text))));
        }
        let claim = match &self.phase {
            Phase::Contending => {
                let verdict =
                    self.with_recipe(now, |recipe, desk| recipe.answered(request, result, desk));
                return self.judge(verdict, now);
            }
            Phase::Proving(claim) | Phase::Held { claim, .. } | Phase::Kept { claim, .. } => claim,
            Phase::Cut { .. } | Phase::Settled { .. } | Phase::Releasing { .. } | Phase::Over => {
                return;
            }
        };
        match (request, result) {
            (Request::Ping | Request::Sync { .. }, Ok(_)) => self.proved(now),
            (Request::Check { path }, Ok(_)) if *path == claim.path => self.proved(now),
            (Request::Delete { path }, result) => {
                let warning = self.with_recipe(now, |recipe, desk| {
                    recipe.put_away(path, result.map(drop), desk)
                });
                self.outputs
                    .extend(warning.map(|text| Output::Event(Event::Warn(text))));
            }
            (Request::Data { path, .. }, Ok(Answer::Data(_, stat))) if *path == claim.path => {
                self.seen(stat.ephemeral_owner, now);
            }
            (Request::Check { path } | Request::Data { path, .. }, Err(Code::NO_NODE))
                if *path == claim.path =>
            {
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
        let check = Request::Check {
            path: claim.path.clone(),
        };
        self.session.hold(match self.options.cluster.heartbeat {
            Heartbeat::Write if cfg!(zk_flock_trusts_sync) => Request::Sync {
                path: claim.path.clone(),
            }, // tests/alone/ensemble.rs must see it overlap
            Heartbeat::Write => check.clone(),
            Heartbeat::Ping => Request::Ping,
        });
        self.phase = Phase::Proving(claim);
        self.proved(now);
        if let Phase::Proving(_) = self.phase {
            self.session.ask(check, now);
        }
    }

    /// Tells how long the lock may be believed in, if that is news; and that it is ours, if it was
    /// not said and leaves time to begin.
    fn proved(&mut self, now: Moment) {
        if let Phase::Kept { .. } = self.phase {
            return; // the command is to die, and nothing gives it more time
        }
        let deadlines = self.session.lease().deadlines(self.options.kill_after);
        if self.believed != deadlines {
            self.believed = deadlines;
            self.say(Event::LeaseUntil(deadlines));
        }
        if let Phase::Proving(claim) = &self.phase
            && now < deadlines.term
        {
            let claim = claim.clone();
            let proof = Proof {
                lock: claim.path.clone(),
                token: Some(claim.token),
                session: self.session.id(),
            };
            self.say(Event::Acquired(proof));
            let parent = layout::parent(&claim.path);
            if self.options.cluster.acl == plan::Acl::Creator && !parent.is_empty() {
                self.session.ask(
                    Request::Acl {
                        path: parent.into(),
                    },
                    now,
                );
            }
            self.phase = Phase::Held {
                claim,
                suspended: false,
            };
        }
    }

    /// The node is there, and belongs to this session.
    fn seen(&mut self, owner: i64, now: Moment) {
        if self.session.id() != Some(owner) {
            return self.lose(
                format!("the node belongs to session 0x{owner:x} now"),
                now,
                now,
            );
        }
        match &mut self.phase {
            Phase::Held {
                suspended: suspended @ true,
                ..
            } => {
                *suspended = false;
                self.say(Event::Resumed);
            }
            Phase::Kept {
                claim,
                proved: proved @ false,
            } => {
                *proved = true;
                let path = claim.path.clone();
                self.note(format!("{path} still belongs to this session, which is kept until the command has exited"));
            }
            _ => {}
        }
    }

    fn changed(&mut self, change: Change, path: &str, now: Moment) {
        match &self.phase {
            Phase::Contending => {
                self.with_recipe(now, |recipe, desk| recipe.changed(change, path, desk));
            }
            Phase::Proving(claim) | Phase::Held { claim, .. } | Phase::Kept { claim, .. }
                if claim.path == path =>
            {
                match change {
                    Change::Deleted => self.lose(DELETED.into(), now, now),
                    Change::Changed | Change::Created => self.session.ask(
                        Request::Data {
                            path: path.into(),
                            watch: true,
                        },
                        now,
                    ), // the watch is used up
                }
            }
            _ => {}
        }
    }

    fn down(&mut self, fault: &Fault, now: Moment) {
        let told = format!("{}: {fault}", self.session.server());
        for line in self.repeats.failed(&told, now) {
            self.note(line);
        }
        match &mut self.phase {
            Phase::Contending => self.recipe.down(self.session.id().is_some()),
            Phase::Held {
                suspended: suspended @ false,
                ..
            } => {
                *suspended = true;
                self.say(Event::Suspended(told));
            }
            Phase::Kept { proved, .. } => *proved = false,
            Phase::Releasing { held: false, .. } => self.released(None, now),
            _ => {}
        }
        if let Fault::LongList { .. } = fault {
            self.fail(
                Failure::IncompatibleLock(format!(
                    "{fault}: use another lock, or let fewer processes wait for this one"
                )),
                now,
            );
        }
    }

    /// The session is over, and every node of ours with it.
    fn expired(&mut self, now: Moment) {
        let disowned = self.disowned.take();
        self.note(EXPIRED.into());
        match self.phase {
            Phase::Held { .. } | Phase::Kept { .. } => {
                self.lose(EXPIRED.into(), now, now);
                if let Phase::Settled { .. } = self.phase {
                    self.session.forget(now);
                }
            }
            Phase::Releasing { .. } => self.released(None, now),
            Phase::Cut { .. } | Phase::Settled { .. } | Phase::Over => self.session.forget(now),
            Phase::Contending | Phase::Proving(_) => {
                self.begin_again(disowned.as_deref().unwrap_or(EXPIRED), now);
            }
        }
    }

    /// A server made another session instead of resuming this one, which cannot be resumed any
    /// more. The lock's node stays until this session has expired by itself: a holder has what
    /// is left of its lease, and nothing can prove more.
    fn replaced(&mut self, by: i64, now: Moment) {
        let why = format!(
            "{} made session 0x{by:x} instead of resuming the session",
            self.session.server()
        );
        self.note(why.clone());
        match self.phase {
            Phase::Held { .. } if self.is_said() => {
                self.session.forget(now);
                self.say(Event::Suspended(why.clone()));
                self.phase = Phase::Cut { why };
            }
            Phase::Kept { .. } => {
                self.lose(why, now, now);
                self.session.forget(now);
            }
            Phase::Releasing { held, .. } => {
                let doubt = self.free_when_expired(&why);
                self.released(held.then_some(doubt), now);
            }
            Phase::Cut { .. } | Phase::Settled { .. } | Phase::Over => self.session.forget(now),
            Phase::Contending | Phase::Proving(_) => self.begin_again(&why, now),
            Phase::Held { .. } => self.contend_again(now),
        }
    }

    /// The session is over before the lock was said to be acquired: contends again, with a new one.
    fn begin_again(&mut self, why: &str, now: Moment) {
        if self.options.restarts == Some(0) {
            let tried = format!("{}: {why}, too often", self.session.server());
            return self.fail(unreachable(&tried), now);
        }
        self.options.restarts = self.options.restarts.map(|left| left - 1);
        self.contend_again(now);
    }

    fn contend_again(&mut self, now: Moment) {
        self.outputs
            .retain(|output| !matches!(output, Output::Event(Event::Acquired(_))));
        self.phase = Phase::Contending;
        self.with_recipe(now, Recipe::restart);
    }

    /// Whether the lock was said to be acquired, and not only about to be.
    fn is_said(&self) -> bool {
        !self
            .outputs
            .iter()
            .any(|output| matches!(output, Output::Event(Event::Acquired(_))))
    }

    /// Why the lock may not be free although it was released.
    fn free_when_expired(&self, why: &str) -> String {
        format!(
            "{why}: the lock is free when the session has expired, within {:.1} s",
            self.session.lease().timeout().as_secs_f64()
        )
    }

    /// There will be no lock. What is held is held all the same, and what is over is over: there it
    /// is a line in the log.
    fn fail(&mut self, failure: Failure, now: Moment) {
        let held = match self.phase {
            Phase::Contending => self.may_have_made(now),
            Phase::Proving(_) => true,
            Phase::Held { .. }
            | Phase::Cut { .. }
            | Phase::Kept { .. }
            | Phase::Settled { .. }
            | Phase::Releasing { .. }
            | Phase::Over => {
                return self.note(failure.to_string());
            }
        };
        self.phase = Phase::Settled { held };
        self.note_repeats();
        self.say(Event::Failed(failure));
    }

    fn may_have_made(&self, now: Moment) -> bool {
        match self.recipe.stage(now) {
            Stage::Asking { made } | Stage::Waiting { made, .. } => made,
        }
    }

    /// The lock is lost, and another host can have it. If it was never said to be acquired, it is
    /// contended for again.
    fn lose(&mut self, why: String, kill_deadline: Moment, now: Moment) {
        let said = match self.phase {
            Phase::Held { .. } if self.is_said() => Output::Event(Event::Lost {
                why,
                kill_deadline,
                gone: true,
            }),
            Phase::Cut { .. } => Output::Event(Event::Lost {
                why,
                kill_deadline,
                gone: true,
            }),
            Phase::Kept { .. } => Output::Event(Event::Gone(why)),
            Phase::Held { .. } | Phase::Proving(_) => return self.contend_again(now),
            _ => return,
        };
        self.phase = Phase::Settled { held: false };
        self.outputs.push_back(said);
    }

    /// The lease is over. The session may live, so it is kept for as long as the command does.
    fn run_out(&mut self, why: String, now: Moment) {
        match &self.phase {
            Phase::Held { claim, .. } if self.is_said() => {
                self.phase = Phase::Kept {
                    claim: claim.clone(),
                    proved: false,
                };
                self.say(Event::Lost {
                    why,
                    kill_deadline: self.believed.kill,
                    gone: false,
                });
            }
            _ => self.lose(why, self.believed.kill, now),
        }
    }

    fn release(&mut self, now: Moment) {
        self.note_repeats();
        let timeout = self.session.lease().timeout();
        let (held, bound) = match self.phase {
            Phase::Releasing { .. } | Phase::Over => return,
            Phase::Contending => (self.may_have_made(now), IDLE_RELEASE),
            Phase::Settled { held } => (held, IDLE_RELEASE),
            Phase::Kept { proved: false, .. } => (false, IDLE_RELEASE),
            Phase::Kept { proved: true, .. } | Phase::Proving(_) | Phase::Held { .. } => {
                (true, timeout)
            }
            Phase::Cut { ref why } => {
                let doubt = self.free_when_expired(why);
                self.phase = Phase::Releasing {
                    by: now,
                    held: true,
                };
                return self.released(Some(doubt), now);
            }
        };
        let known = self.session.id().is_some();
        let held = held && known;
        self.phase = Phase::Releasing {
            by: now + bound,
            held,
        };
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
            self.say(Event::Released { doubt });
        }
    }

    /// Everything that time alone brings about.
    fn look_at_the_clock(&mut self, now: Moment) {
        match self.phase {
            Phase::Held { .. } if now >= self.believed.term => {
                let (blind, silence) = (
                    now.since(self.looked),
                    now.since(self.session.lease().proof()),
                );
                let why = if blind > self.session.lease().timeout() / 5 {
                    format!("this process was stopped for {:.1} s", blind.as_secs_f64())
                } else {
                    format!(
                        "no answer from {} for {:.1} s",
                        self.session.servers(),
                        silence.as_secs_f64()
                    )
                };
                self.run_out(why, now);
            }
            Phase::Cut { ref why } if now >= self.believed.term => {
                self.lose(why.clone(), self.believed.kill, now);
            }
            Phase::Releasing { by, held } if now >= by => {
                let doubt =
                    self.free_when_expired(&format!("no answer from {}", self.session.servers()));
                self.released(held.then_some(doubt), now);
            }
            Phase::Contending | Phase::Proving(_) => self.look_at_our_patience(now),
            _ => {}
        }
        self.looked = now;
    }

    /// Whether there is reason to wait for the lock any longer.
    fn look_at_our_patience(&mut self, now: Moment) {
        if let (Phase::Contending, Some((_, holder))) = (
            &self.phase,
            self.recipe.limit().filter(|(limit, _)| now >= *limit),
        ) {
            let held = self.may_have_made(now);
            return self.busy(holder, held);
        }
        let answering = self.session.is_answering(now);
        // What ends by its own limit needs a server for that, and not a quick one.
        let reached = answering || self.session.is_up() && self.recipe.limit().is_some();
        match self.recipe.stage(now) {
            Stage::Waiting { holder, made }
                if answering
                    && self.phase == Phase::Contending
                    && self.options.patience.is_none_or(|patience| now >= patience) =>
            {
                self.busy(holder, made);
            }
            _ if !reached
                && (now >= self.options.connect_by
                    || self
                        .session
                        .failed_rounds()
                        .zip(self.options.rounds)
                        .is_some_and(|(done, most)| done >= most)) =>
            {
                let tried = [self.session.faults(now)]
                    .iter()
                    .chain(&self.options.unresolved)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join("; ");
                self.fail(unreachable(&tried), now);
            }
            _ => {}
        }
    }

    /// Another has the lock, to the end of our patience. `held`: a node of ours may be left.
    fn busy(&mut self, holder: Holder, held: bool) {
        self.phase = Phase::Settled { held };
        self.say(Event::Busy(holder));
    }

    /// When the clock alone brings about something next.
    fn deadline(&self, now: Moment) -> Moment {
        // A limit that is past and has not fired waits for the session's own next move, a heartbeat
        // at the latest.
        let ahead = |limit: Moment| if limit > now { limit } else { Moment::NEVER };
        match self.phase {
            Phase::Held { .. } | Phase::Cut { .. } => self.believed.term,
            Phase::Releasing { by, .. } => by,
            Phase::Contending | Phase::Proving(_) => {
                let own = self
                    .recipe
                    .limit()
                    .map_or(Moment::NEVER, |(limit, _)| limit);
                own.min(ahead(self.recipe.wake()))
                    .min(ahead(self.options.connect_by))
                    .min(ahead(self.options.patience.unwrap_or(Moment::NEVER)))
            }
            Phase::Kept { .. } | Phase::Settled { .. } | Phase::Over => Moment::NEVER,
        }
    }

    fn say(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn note(&mut self, text: String) {
        self.say(Event::Note(text));
    }

    /// No attempt will fail for the same reason any more.
    fn note_repeats(&mut self) {
        for line in self.repeats.end() {
            self.note(line);
        }
    }
}

#[cfg(test)]
mod tests;

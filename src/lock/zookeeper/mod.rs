//! A lock that a ZooKeeper session holds. The recipe acquires it; everything after that is here:
//! confirm, suspend, resume, lose and release. A held lock is a node that must exist, belong to
//! this session, and be confirmed in time. Sans-I/O.

pub mod acl;
mod break_watch;
#[cfg(test)]
mod fake;
pub mod layout;
pub mod node;
mod parents;
pub mod queue;
mod queue_entry;
pub mod recipe;
pub mod run_record;
pub mod semaphore;

#[cfg(test)]
pub(crate) use self::fake::Fake;

use self::break_watch::{BreakWatch, Reaction};
use self::recipe::{AcquiredNode, Options, Outcome, Progress, Recipe, RecipeContext, unreachable};
use self::run_record::{Decision, Record};
use super::lookups::Lookups;
use super::repeats::Repeats;
use super::{Event, Failure, Holder, Input, Lock, Output, Proof};
use crate::deadlines::{self, Deadlines};
use crate::endpoint::Found;
use crate::moment::Moment;
use crate::plan::{self, Heartbeat};
use crate::transport;
use crate::zookeeper::code::Code;
use crate::zookeeper::request::{Answer, Request};
use crate::zookeeper::session::{Change, Fault, Session, SessionEvent};
use std::collections::VecDeque;
use std::time::Duration;

/// Why a lock is lost if its node is deleted while its session lives.
const DELETED: &str = "the node was deleted";

/// Why a session has ended if the server says so.
const EXPIRED: &str = "the session has expired";

/// Time for the reply to a release if no command ran under the node that may be left: the end of
/// the session is enough for it.
const IDLE_RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// A command is started only if this part of the timeout is left of the lease until TERM: two
/// heartbeats. A waiter of a queue has made its last write when it joined; if it acquires the lock
/// shortly before that proof is too old, its first heartbeat would come too late.
const MIN_LEASE_PER_TIMEOUT: u32 = 5;

/// The same after a proof that was requested since the lock was acquired: one heartbeat, because the
/// next proof comes one heartbeat later. A slow server never leaves more.
const MIN_FRESH_LEASE_PER_TIMEOUT: u32 = 10;

/// If proofs that were requested this part of the timeout after the lock was acquired still leave too
/// little, and there was no pause since, no proof ever will.
const CONFIRMING_PER_TIMEOUT: u32 = 2;

/// So many timeouts after the lock was acquired the attempt fails even if pauses go on: other clients
/// wait for the lock.
const LONGEST_CONFIRMING: u32 = 4;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// The recipe acquires the lock.
    Acquiring,
    /// The node belongs to this run, `since` then. A heartbeat must show that the lease leaves time to
    /// begin.
    Confirming { node: AcquiredNode, since: Moment },
    /// This run holds the lock. `suspended`: no server confirms it at the moment.
    Held { node: AcquiredNode, suspended: bool },
    /// The lease ended without a confirmation. The session is kept until the release, because a
    /// process of the command may be impossible to kill. `proved`: a server has resumed the session
    /// since then, and the node belongs to it.
    LostKept { node: AcquiredNode, proved: bool },
    /// The lock is lost or was never acquired. Waits for `Release`. `held`: a node may be left that
    /// another client waits for.
    Ended { held: bool },
    /// The release is under way, until `by`. `held`: a node may be left, and the reply is awaited.
    /// `doubtful`: without a reply, the lock may be held until the session has expired.
    Releasing {
        by: Moment,
        held: bool,
        doubtful: bool,
    },
    /// Nothing more to do.
    Done,
}

/// The lock, acquired by the recipe `R`.
#[derive(Debug)]
pub struct SessionLock<R> {
    options: Options,
    recipe: R,
    session: Session,
    /// Hosts that had no address at the last look-up, each with its reason.
    unresolved: Vec<String>,
    /// Until when to try to connect.
    connect_by: Moment,
    /// Rounds over all servers before the first session; `None`: no limit but the time.
    max_rounds: Option<u32>,
    /// How often acquiring may start again; `None`: always.
    restarts_left: Option<u32>,
    phase: Phase,
    /// The record of the last run, if this run depends on it (`--every`).
    record: Option<Record>,
    /// Looks for requests to release the lock, once it is held.
    break_watch: Option<BreakWatch>,
    /// The deadlines that were reported last.
    lease_reported: Deadlines,
    /// When time was last noticed: a holder notices it at every heartbeat, unless its process is
    /// stopped.
    last_tick: Moment,
    /// Since when no server has the session; `None`: one has.
    unreached_since: Option<Moment>,
    lookups: Lookups,
    repeats: Repeats,
    /// Why the client asks for the session as one that has seen nothing, if it does.
    not_resumed: Option<String>,
    outputs: VecDeque<Output>,
}

impl<R: Recipe> Lock for SessionLock<R> {
    fn handle(&mut self, input: Input, now: Moment) {
        // After a pause of the whole process, deadlines come before any reply.
        self.on_tick(now);
        match input {
            Input::Transport(event) => self.on_transport(event, now),
            Input::Ended(code) => self.command_ended(code, now),
            Input::Release => self.release(now),
            Input::LookUp(found) => self.on_look_up(found, now),
            Input::Tick | Input::File(_) => {}
        }
        self.drain_session(now);
    }

    fn poll(&mut self, now: Moment) -> Output {
        self.session.tick(now);
        self.drain_session(now);
        self.on_tick(now);
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
    /// The first `poll` starts to acquire.
    pub fn new(options: Options, recipe: R, now: Moment) -> SessionLock<R> {
        let mut session = Session::new(
            options.servers.clone(),
            options.cluster.timeout,
            options.cluster.auth.clone(),
            now,
        );
        session.count_rounds(options.max_rounds.is_some());
        let mut lock = SessionLock {
            session,
            unresolved: options.unresolved.clone(),
            connect_by: options.connect_by,
            max_rounds: options.max_rounds,
            restarts_left: options.max_restarts,
            record: options.record.clone().map(Record::new),
            options,
            recipe,
            phase: Phase::Acquiring,
            break_watch: None,
            lease_reported: Deadlines::NEVER,
            last_tick: now,
            unreached_since: Some(now),
            lookups: Lookups::new(now),
            repeats: Repeats::default(),
            not_resumed: None,
            outputs: VecDeque::new(),
        };
        lock.with_recipe(now, Recipe::restart);
        lock
    }

    fn with_recipe<T>(
        &mut self,
        now: Moment,
        work: impl FnOnce(&mut R, &mut RecipeContext) -> T,
    ) -> T {
        work(
            &mut self.recipe,
            &mut RecipeContext {
                session: &mut self.session,
                outputs: &mut self.outputs,
                options: &self.options,
                record: self.record.as_mut(),
                now,
            },
        )
    }

    fn drain_session(&mut self, now: Moment) {
        while let Some(event) = self.session.next_event() {
            self.on_session_event(event, now);
        }
    }

    fn on_transport(&mut self, event: transport::Event, now: Moment) {
        match event {
            transport::Event::Connected => self.on_connecting(now),
            transport::Event::Disconnected(why) => self.session.disconnected(why, now),
            transport::Event::Received(bytes) => self.session.received(bytes, now),
        }
    }

    /// Sends requests in one write with the connect request.
    fn on_connecting(&mut self, now: Moment) {
        self.session.connected(now);
        let known = self.session.id().is_some();
        match &self.phase {
            Phase::Acquiring => self.with_recipe(now, Recipe::on_connecting),
            Phase::Confirming { node, .. }
            | Phase::Held { node, .. }
            | Phase::LostKept { node, .. }
                if known =>
            {
                let path = node.path.clone();
                self.session.ask(Request::Check { path: path.clone() }, now);
                self.session.ask(Request::Data { path, watch: true }, now);
                self.ask_record(now);
                self.watch_for_breaks(now);
                self.with_recipe(now, Recipe::on_resume);
            }
            Phase::Releasing { .. } if known => self.on_close(now),
            _ => {}
        }
    }

    /// Decides by the record of the last run whether the command may start, unless that is decided.
    fn ask_record(&mut self, now: Moment) {
        if let Phase::Confirming { .. } = self.phase {
            let request = self.record.as_mut().and_then(Record::decide);
            request.into_iter().for_each(|it| self.session.ask(it, now));
        }
    }

    /// Writes how the run has ended, if that is known and not written.
    fn record_end(&mut self, now: Moment) {
        let request = self.record.as_mut().and_then(Record::write_end);
        request.into_iter().for_each(|it| self.session.ask(it, now));
    }

    /// The command has ended while the lock was held. While no server confirms the lock, an operator
    /// may have deleted its node, and the record may be that of the next holder.
    fn command_ended(&mut self, code: u8, now: Moment) {
        if let (&Phase::Held { suspended, .. }, Some(record)) = (&self.phase, &mut self.record) {
            record.set_end(code);
            if !suspended {
                self.record_end(now);
            }
        }
    }

    /// Handles the reply to a request for the record of the last run. `Err`: it is the reply to
    /// another request.
    fn on_record_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        now: Moment,
    ) -> Result<(), Result<Answer, Code>> {
        let Some(record) = self.record.as_mut().filter(|it| it.is_own(request)) else {
            return Err(result);
        };
        let held = match &self.phase {
            Phase::Confirming { node, .. } => Some(node),
            _ => None,
        };
        let takes_auth = self.options.takes_auth;
        let decision = record.on_reply(request, result, held, |code| code.explain(takes_auth));
        match decision {
            Decision::Nothing => {}
            Decision::Send(requests) => {
                requests
                    .into_iter()
                    .for_each(|it| self.session.ask(it, now));
            }
            Decision::Warn(text) => self.emit(Event::Warn(text)),
            Decision::WarnAndSend(text, request) => {
                self.emit(Event::Warn(text));
                self.session.ask(request, now);
            }
            Decision::Started => self.proved(now),
            Decision::Close(request) => {
                request.into_iter().for_each(|it| self.session.ask(it, now));
                self.on_close(now);
            }
            Decision::AlreadyRun(last) => {
                self.phase = Phase::Ended { held: true };
                self.emit(Event::AlreadyRun(last));
            }
            Decision::Failed(failure) => self.fail(failure, now),
        }
        Ok(())
    }

    /// Watches for requests to release the lock: with the first heartbeat, and after that in the
    /// first write on each new connection.
    fn watch_for_breaks(&mut self, now: Moment) {
        match &self.break_watch {
            Some(requests) if requests.is_set() => self.session.ask(requests.watch(), now),
            Some(requests) => self.session.ask_with_next_beat(requests.watch()),
            None => {}
        }
    }

    /// Handles the reply to a request of the watch for breaks. `Err`: it is the reply to another
    /// request.
    fn on_break_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        now: Moment,
    ) -> Result<(), Result<Answer, Code>> {
        let (Request::Exists { path, .. }
        | Request::Data { path, .. }
        | Request::SetData { path, .. }) = request
        else {
            return Err(result);
        };
        if layout::parent(path) != self.recipe.breaks() {
            return Err(result);
        }
        let current = self.break_watch.as_mut().filter(|it| it.is_at(path));
        let Some(requests) = current else {
            return Ok(()); // to an earlier holder, which was this process too
        };
        let Reaction { send, revoked } = requests.on_reply(request, result);
        if let Some(request) = send {
            self.session.ask(request, now);
        }
        if let (Phase::Held { .. }, Some(why)) = (&self.phase, revoked) {
            self.emit(Event::Revoked { why });
        }
        Ok(())
    }

    /// Closes the session. If the end of the run is not recorded, the record is read first.
    fn on_close(&mut self, now: Moment) {
        if let Some(requests) = self.record.as_mut().and_then(Record::check_end) {
            return requests
                .into_iter()
                .for_each(|it| self.session.ask(it, now));
        }
        self.with_recipe(now, Recipe::on_close);
        self.session.ask(Request::Close, now);
    }

    /// Requests a look-up of the servers' names when that is due.
    fn look_up(&mut self, now: Moment) {
        if now >= self.next_look_up() {
            self.lookups.begin();
            self.outputs.push_back(Output::LookUp);
        }
    }

    fn next_look_up(&self) -> Moment {
        let heartbeat = match self.phase {
            Phase::Acquiring | Phase::Confirming { .. } | Phase::LostKept { .. } => None,
            Phase::Held { .. } | Phase::Releasing { .. } => {
                Some(self.session.lease().timeout() / 10)
            }
            Phase::Ended { .. } | Phase::Done => return Moment::NEVER,
        };
        self.lookups.due(self.unreached_since, heartbeat)
    }

    fn on_look_up(&mut self, found: Found, now: Moment) {
        self.lookups.done(now);
        self.unresolved = found.unresolved;
        if self.session.relist(found.endpoints, now) {
            self.note(format!(
                "looked up the names of the servers again: their addresses are now {}",
                self.session.servers()
            ));
        }
    }

    fn on_session_event(&mut self, event: SessionEvent, now: Moment) {
        match event {
            SessionEvent::Up { .. } => {
                self.unreached_since = None;
                self.lookups.reached();
            }
            SessionEvent::Down(_) | SessionEvent::Expired | SessionEvent::Replaced { .. } => {
                self.unreached_since.get_or_insert(now);
            }
            SessionEvent::Reply { .. }
            | SessionEvent::Watch { .. }
            | SessionEvent::ClosedSilently
            | SessionEvent::Disowned { .. }
            | SessionEvent::Refused(_) => {}
        }
        match event {
            SessionEvent::Up { resumed } => self.on_session(resumed, now),
            SessionEvent::Reply {
                request: Request::Close,
                ..
            } => self.released(None, now),
            SessionEvent::ClosedSilently => self.finish(Event::ReleasedSilently, now),
            SessionEvent::Reply { request, result } => self.on_reply(&request, result, now),
            SessionEvent::Watch { change, path } => self.on_watch(change, &path, now),
            SessionEvent::Down(fault) => self.on_disconnect(&fault, now),
            SessionEvent::Expired => self.expired(now),
            SessionEvent::Replaced { by } => self.replaced(by, now),
            SessionEvent::Disowned { silence } => self.not_resumed(silence),
            SessionEvent::Refused(code) => self.refused(code, now),
        }
    }

    /// Servers have closed connections with this session for so long that it must be over.
    fn not_resumed(&mut self, silence: Duration) {
        let (id, silence) = (self.session.id().unwrap_or(0), silence.as_secs_f64());
        let why = format!(
            "no server has resumed session 0x{id:x} for {silence:.1} s (servers restored from an older backup or wiped, or too many connections from this host?)"
        );
        self.note(format!(
            "{why}: asking for the session as a client that has seen nothing yet"
        ));
        self.not_resumed = Some(why);
    }

    /// The server demands authentication, or rejects it, and closes the connection: it accepts no
    /// request.
    fn refused(&mut self, code: Code, now: Moment) {
        let why = code.explain(self.options.takes_auth);
        match self.phase {
            Phase::Releasing { doubtful, .. } => {
                let doubt = (doubtful && self.lease_reported != Deadlines::NEVER)
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

    fn on_session(&mut self, resumed: bool, now: Moment) {
        self.not_resumed = None;
        self.note_repeats();
        let (server, id, timeout) = (
            self.session.server(),
            self.session.id().unwrap_or(0),
            self.session.lease().timeout(),
        );
        // These limit the time to the first session. After that, a waiter survives an outage for as
        // long as it waits.
        self.max_rounds = None;
        self.connect_by = self
            .connect_by
            .max(self.options.wait_until.unwrap_or_default());
        let word = if resumed { "resumed" } else { "started" };
        self.note(format!(
            "connected to {server}: session 0x{id:x} {word}, timeout {:.1} s",
            timeout.as_secs_f64()
        ));
        self.session.count_rounds(false);
        if timeout < deadlines::SHORTEST
            && matches!(self.phase, Phase::Acquiring | Phase::Confirming { .. })
        {
            let granted = format!(
                "the server grants a session timeout of {:.1} s, too short to keep a lock safely",
                timeout.as_secs_f64()
            );
            return self.fail(
                Failure::IncompatibleLock(format!("{granted}: request more with --timeout or in the config, or raise maxSessionTimeout on the server")),
                now,
            );
        }
        match self.phase {
            Phase::Acquiring => self.with_recipe(now, Recipe::on_session),
            // The granted timeout may be shorter now, however short.
            Phase::Held { .. } => self.proved(now),
            _ => {}
        }
    }

    fn on_reply(&mut self, request: &Request, result: Result<Answer, Code>, now: Moment) {
        if let (Request::Acl { path }, Ok(Answer::Acl(acl))) = (request, &result) {
            return self
                .outputs
                .extend(acl::warning(path, acl).map(|text| Output::Event(Event::Warn(text))));
        }
        let result = match self.on_record_reply(request, result, now) {
            Ok(()) => return,
            Err(result) => result,
        };
        let result = match self.on_break_reply(request, result, now) {
            Ok(()) => return,
            Err(result) => result,
        };
        let node = match &self.phase {
            Phase::Acquiring => {
                let outcome = self.with_recipe(now, |recipe, context| {
                    recipe.on_reply(request, result, context)
                });
                return self.conclude(outcome, now);
            }
            Phase::Confirming { node, .. }
            | Phase::Held { node, .. }
            | Phase::LostKept { node, .. } => node,
            Phase::Ended { .. } | Phase::Releasing { .. } | Phase::Done => return,
        };
        match (request, result) {
            (Request::Ping | Request::Sync { .. }, Ok(_)) => self.proved(now),
            (Request::Check { path }, Ok(_)) if *path == node.path => self.proved(now),
            (Request::Delete { path }, result) => {
                let warning = self.with_recipe(now, |recipe, context| {
                    recipe.on_deleted(path, result.map(drop), context)
                });
                self.outputs
                    .extend(warning.map(|text| Output::Event(Event::Warn(text))));
            }
            (Request::Data { path, .. }, Ok(Answer::Data(_, stat))) if *path == node.path => {
                self.owner_checked(stat.ephemeral_owner, now);
            }
            (Request::Check { path } | Request::Data { path, .. }, Err(Code::NO_NODE))
                if *path == node.path =>
            {
                self.lose(DELETED.into(), now, now);
            }
            _ => {} // no confirmation; without one the lease ends
        }
    }

    fn conclude(&mut self, outcome: Option<Outcome>, now: Moment) {
        match outcome {
            Some(Outcome::Acquired(node)) => self.node_acquired(node, now),
            Some(Outcome::Failed(failure)) => self.fail(failure, now),
            None => {}
        }
    }

    /// The recipe has acquired the node.
    fn node_acquired(&mut self, node: AcquiredNode, now: Moment) {
        let check = Request::Check {
            path: node.path.clone(),
        };
        self.session.hold(match self.options.cluster.heartbeat {
            Heartbeat::Write if cfg!(zk_flock_trusts_sync) => Request::Sync {
                path: node.path.clone(),
            }, // tests/alone/ensemble.rs must find two holders
            Heartbeat::Write => check.clone(),
            Heartbeat::Ping => Request::Ping,
        });
        self.phase = Phase::Confirming { node, since: now };
        self.proved(now);
        if let Phase::Confirming { .. } = self.phase {
            if self.record.is_some() {
                self.ask_record(now); // writing it confirms the lock as well
            } else {
                self.session.ask(check, now);
            }
        }
    }

    /// Reports the deadlines if they have changed. Reports that the lock is acquired, if that was
    /// not reported and the lease leaves time to begin.
    fn proved(&mut self, now: Moment) {
        if let Phase::LostKept { .. } = self.phase {
            return; // the command is being killed, and nothing gives it more time
        }
        let deadlines = self.session.lease().deadlines(self.options.kill_after);
        if self.lease_reported != deadlines {
            self.lease_reported = deadlines;
            self.emit(Event::LeaseUntil(deadlines));
        }
        let Phase::Confirming { node, since } = &self.phase else {
            return;
        };
        let (timeout, proof) = (self.session.lease().timeout(), self.session.lease().proof());
        let per_timeout = if proof >= *since {
            MIN_FRESH_LEASE_PER_TIMEOUT
        } else {
            MIN_LEASE_PER_TIMEOUT
        };
        if now + timeout / per_timeout < deadlines.term {
            if self.record.as_ref().is_none_or(Record::is_started) {
                let node = node.clone();
                self.begin(node, now);
            }
        } else if proof
            >= (*since).max(self.session.lease().steady_since()) + timeout / CONFIRMING_PER_TIMEOUT
            || proof >= *since + timeout * LONGEST_CONFIRMING
        {
            self.fail(
                unreachable(&format!(
                    "{}: takes {:.1} s to confirm the lock, too long for a session timeout of {:.1} s: use a longer one",
                    self.session.server(),
                    now.since(proof).as_secs_f64(),
                    timeout.as_secs_f64()
                )),
                now,
            );
        }
    }

    /// The lease leaves time for the command to begin.
    fn begin(&mut self, node: AcquiredNode, now: Moment) {
        let proof = Proof {
            lock: node.path.clone(),
            token: Some(node.token),
            session: self.session.id(),
        };
        self.emit(Event::Acquired(proof));
        let parent = layout::parent(&node.path);
        if self.options.cluster.acl == plan::Acl::Creator && !parent.is_empty() {
            self.session.ask(
                Request::Acl {
                    path: parent.into(),
                },
                now,
            );
        }
        let breaks = self.recipe.breaks();
        let watch = BreakWatch::new(breaks, node.token, self.options.kill_after);
        self.break_watch = Some(watch);
        self.watch_for_breaks(now);
        self.phase = Phase::Held {
            node,
            suspended: false,
        };
    }

    /// The node exists. Checks that it belongs to this session.
    fn owner_checked(&mut self, owner: i64, now: Moment) {
        if self.session.id() != Some(owner) {
            return self.lose(
                format!("the node now belongs to session 0x{owner:x}"),
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
                self.emit(Event::Resumed);
                self.record_end(now);
            }
            Phase::LostKept {
                node,
                proved: proved @ false,
            } => {
                *proved = true;
                let path = node.path.clone();
                self.note(format!("{path} still belongs to this session, which is kept until the command has exited"));
            }
            _ => {}
        }
    }

    fn on_watch(&mut self, change: Change, path: &str, now: Moment) {
        match &self.phase {
            Phase::Acquiring => {
                self.with_recipe(now, |recipe, context| {
                    recipe.on_watch(change, path, context);
                });
            }
            Phase::Confirming { node, .. }
            | Phase::Held { node, .. }
            | Phase::LostKept { node, .. }
                if node.path == path =>
            {
                match change {
                    Change::Deleted => self.lose(DELETED.into(), now, now),
                    Change::Changed | Change::Created => self.session.ask(
                        Request::Data {
                            path: path.into(),
                            watch: true,
                        },
                        now,
                    ), // a watch fires once
                }
            }
            Phase::Held { .. } | Phase::LostKept { .. } => {
                if let Some(requests) = self.break_watch.as_ref().filter(|it| it.is_at(path)) {
                    self.session.ask(requests.watch(), now); // it fires once, too
                }
            }
            _ => {}
        }
    }

    fn on_disconnect(&mut self, fault: &Fault, now: Moment) {
        let failure = format!("{}: {fault}", self.session.server());
        for line in self.repeats.failed(&failure, now) {
            self.note(line);
        }
        if let Some(record) = &mut self.record {
            record.on_disconnect();
        }
        match &mut self.phase {
            Phase::Acquiring => self.recipe.on_disconnect(self.session.id().is_some()),
            Phase::Held { .. } | Phase::LostKept { .. } if self.session.is_keeper() => {
                let why = format!("{failure}; ClickHouse Keeper does not resume the session");
                self.connection_lost(why, now);
            }
            Phase::Held {
                suspended: suspended @ false,
                ..
            } => {
                *suspended = true;
                self.emit(Event::Suspended(failure));
            }
            Phase::LostKept { proved, .. } => *proved = false,
            &mut Phase::Releasing {
                held: false,
                doubtful,
                ..
            } => {
                let doubt = self.free_when_expired(&failure);
                self.released(doubtful.then_some(doubt), now);
            }
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

    /// The session has expired, and its nodes are deleted.
    fn expired(&mut self, now: Moment) {
        let not_resumed = self.not_resumed.take();
        self.note(EXPIRED.into());
        match self.phase {
            Phase::Held { .. } | Phase::LostKept { .. } => {
                self.lose(EXPIRED.into(), now, now);
                if let Phase::Ended { .. } = self.phase {
                    self.session.forget(now);
                }
            }
            Phase::Releasing { .. } => self.released(None, now),
            Phase::Ended { .. } | Phase::Done => self.session.forget(now),
            Phase::Acquiring | Phase::Confirming { .. } => {
                self.restart_or_fail(not_resumed.as_deref().unwrap_or(EXPIRED), now);
            }
        }
    }

    /// A server made another session instead of resuming this one, which can never be resumed now.
    /// It counts as expired: see [`SessionLock::connection_lost`].
    fn replaced(&mut self, by: i64, now: Moment) {
        let why = format!(
            "{} made session 0x{by:x} instead of resuming the session",
            self.session.server()
        );
        self.note(why.clone());
        match self.phase {
            Phase::Held { .. } | Phase::LostKept { .. } => self.connection_lost(why, now),
            Phase::Releasing { doubtful, .. } => {
                let doubt = self.free_when_expired(&why);
                self.released(doubtful.then_some(doubt), now);
            }
            Phase::Ended { .. } | Phase::Done => self.session.forget(now),
            Phase::Acquiring | Phase::Confirming { .. } => self.restart_or_fail(&why, now),
        }
    }

    /// The session of a held lock cannot be resumed. It may have ended already, whatever the lease
    /// says: a ClickHouse Keeper that is stopped ends the sessions of its clients before it closes
    /// their connections (ClickHouse#41215).
    fn connection_lost(&mut self, why: String, now: Moment) {
        self.lose(why, now, now);
        if let Phase::Ended { .. } = self.phase {
            self.session.forget(now);
        }
    }

    /// The session has ended before the lock was reported as acquired. Acquires it again with a new
    /// session, if a restart is left.
    fn restart_or_fail(&mut self, why: &str, now: Moment) {
        if self.restarts_left == Some(0) {
            let tried = format!(
                "{}: {why}, more often than --lockretry allows",
                self.session.server()
            );
            return self.fail(unreachable(&tried), now);
        }
        self.restarts_left = self.restarts_left.map(|left| left - 1);
        self.reacquire(now);
    }

    fn reacquire(&mut self, now: Moment) {
        self.outputs
            .retain(|output| !matches!(output, Output::Event(Event::Acquired(_))));
        self.break_watch = None;
        if let Some(record) = &mut self.record {
            record.restart();
        }
        self.session.stop_holding();
        self.phase = Phase::Acquiring;
        self.with_recipe(now, Recipe::restart);
    }

    /// Whether `Acquired` was polled, and is not only queued.
    fn acquired_is_reported(&self) -> bool {
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

    /// The lock cannot be acquired. If it is held or was lost already, the failure is only logged.
    fn fail(&mut self, failure: Failure, now: Moment) {
        let held = match self.phase {
            Phase::Acquiring => self.node_may_exist(now),
            Phase::Confirming { .. } => true,
            Phase::Held { .. }
            | Phase::LostKept { .. }
            | Phase::Ended { .. }
            | Phase::Releasing { .. }
            | Phase::Done => {
                return self.note(failure.to_string());
            }
        };
        self.phase = Phase::Ended { held };
        self.note_repeats();
        self.emit(Event::Failed(failure));
    }

    fn node_may_exist(&self, now: Moment) -> bool {
        match self.recipe.progress(now) {
            Progress::Pending { may_exist } | Progress::Waiting { may_exist, .. } => may_exist,
        }
    }

    /// The lock is lost, and another host can acquire it. If it was never reported as acquired, it
    /// is acquired again.
    fn lose(&mut self, why: String, kill_deadline: Moment, now: Moment) {
        let said = match self.phase {
            Phase::Held { .. } if self.acquired_is_reported() => Output::Event(Event::Lost {
                why,
                kill_deadline,
                gone: true,
            }),
            Phase::LostKept { .. } => Output::Event(Event::Gone(why)),
            Phase::Held { .. } | Phase::Confirming { .. } => return self.reacquire(now),
            _ => return,
        };
        self.phase = Phase::Ended { held: false };
        self.outputs.push_back(said);
    }

    /// The lease has ended. The session may live, so it is kept for as long as the command runs.
    fn lease_ended(&mut self, why: String, now: Moment) {
        match &self.phase {
            Phase::Held { node, .. } if self.acquired_is_reported() => {
                self.phase = Phase::LostKept {
                    node: node.clone(),
                    proved: false,
                };
                self.emit(Event::Lost {
                    why,
                    kill_deadline: self.lease_reported.kill,
                    gone: false,
                });
            }
            _ => self.lose(why, self.lease_reported.kill, now),
        }
    }

    fn release(&mut self, now: Moment) {
        self.note_repeats();
        let timeout = self.session.lease().timeout();
        let (held, bound) = match self.phase {
            Phase::Releasing { .. } | Phase::Done => return,
            Phase::Acquiring => (self.node_may_exist(now), IDLE_RELEASE_TIMEOUT),
            Phase::Ended { held } => (held, IDLE_RELEASE_TIMEOUT),
            Phase::LostKept { proved: false, .. } => (false, IDLE_RELEASE_TIMEOUT),
            Phase::LostKept { proved: true, .. }
            | Phase::Confirming { .. }
            | Phase::Held { .. } => (true, timeout),
        };
        let known = self.session.id().is_some();
        let held = held && known;
        let doubtful = held || matches!(self.phase, Phase::LostKept { .. });
        self.phase = Phase::Releasing {
            by: now + bound,
            held,
            doubtful,
        };
        if known && self.session.takes_requests() {
            self.on_close(now);
        } else if !held {
            let doubt = self.free_when_expired("no server has resumed the session");
            self.released(doubtful.then_some(doubt), now);
        }
    }

    fn released(&mut self, doubt: Option<String>, now: Moment) {
        self.finish(Event::Released { doubt }, now);
    }

    /// The release has ended in this way.
    fn finish(&mut self, released: Event, now: Moment) {
        if let Phase::Releasing { .. } = self.phase {
            self.session.forget(now);
            self.phase = Phase::Done;
            let warning = self.record.as_ref().and_then(Record::open_end);
            warning
                .into_iter()
                .for_each(|text| self.emit(Event::Warn(text)));
            self.emit(released);
        }
    }

    /// Does what is due at this time.
    fn on_tick(&mut self, now: Moment) {
        match self.phase {
            Phase::Held { .. } if now >= self.lease_reported.term => {
                let (blind, silence) = (
                    now.since(self.last_tick),
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
                self.lease_ended(why, now);
            }
            Phase::Releasing { by, doubtful, .. } if now >= by => {
                let doubt =
                    self.free_when_expired(&format!("no answer from {}", self.session.servers()));
                self.released(doubtful.then_some(doubt), now);
            }
            // Servers that have lost the session never confirm the lock: it is acquired again, in
            // another session if they do not resume this one.
            Phase::Confirming { .. }
                if now >= self.lease_reported.term && !self.session.is_up() =>
            {
                self.reacquire(now);
            }
            Phase::Acquiring | Phase::Confirming { .. } => self.check_wait_deadline(now),
            _ => {}
        }
        self.last_tick = now;
    }

    /// Ends the wait if it is over, or if no server is reached in time.
    fn check_wait_deadline(&mut self, now: Moment) {
        if let (Phase::Acquiring, Some((_, holder))) = (
            &self.phase,
            self.recipe.limit().filter(|(limit, _)| now >= *limit),
        ) {
            let held = self.node_may_exist(now);
            return self.busy(holder, held);
        }
        let answering = self.session.is_answering(now);
        // A recipe with a limit needs a server until then, and not a quick one.
        let reached = answering || self.session.is_up() && self.recipe.limit().is_some();
        match self.recipe.progress(now) {
            Progress::Waiting { holder, may_exist }
                if answering
                    && self.phase == Phase::Acquiring
                    && self
                        .options
                        .wait_until
                        .is_none_or(|wait_until| now >= wait_until) =>
            {
                self.busy(holder, may_exist);
            }
            _ if !reached
                && (now >= self.connect_by
                    || self
                        .session
                        .failed_rounds()
                        .zip(self.max_rounds)
                        .is_some_and(|(done, most)| done >= most)) =>
            {
                let tried = [self.session.faults(now)]
                    .iter()
                    .chain(&self.unresolved)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join("; ");
                self.fail(unreachable(&tried), now);
            }
            _ => {}
        }
    }

    /// The wait has ended, and another client holds the lock. `held`: a node of this run may be
    /// left.
    fn busy(&mut self, holder: Holder, held: bool) {
        self.phase = Phase::Ended { held };
        self.emit(Event::Busy(holder));
    }

    /// When something is due without an event.
    fn deadline(&self, now: Moment) -> Moment {
        // A limit that has passed without effect waits for the next action of the session, a
        // heartbeat at the latest.
        let ahead = |limit: Moment| if limit > now { limit } else { Moment::NEVER };
        let wait = || {
            let own = self.recipe.limit();
            own.map_or(Moment::NEVER, |(limit, _)| limit)
                .min(ahead(self.recipe.wake()))
                .min(ahead(self.connect_by))
                .min(ahead(self.options.wait_until.unwrap_or(Moment::NEVER)))
        };
        match self.phase {
            Phase::Held { .. } => self.lease_reported.term,
            Phase::Releasing { by, .. } => by,
            Phase::Acquiring => wait(),
            Phase::Confirming { .. } => wait().min(ahead(self.lease_reported.term)),
            Phase::LostKept { .. } | Phase::Ended { .. } | Phase::Done => Moment::NEVER,
        }
    }

    fn emit(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn note(&mut self, text: String) {
        self.emit(Event::Note(text));
    }

    /// Logs how often the last reasons were repeated.
    fn note_repeats(&mut self) {
        for line in self.repeats.end() {
            self.note(line);
        }
    }
}

#[cfg(test)]
mod tests;

//! The loop of a run. It joins lock, supervisor, guard and signals: what the pure machines say is
//! done here, and what happens is told them. It decides nothing, and sleeps in one place, the poll
//! at its end.

mod files;
mod guard;
mod guard_channel;
mod host_lock;
mod journal;
mod lock_folder;
mod names;
mod run_id;
mod setup;
mod witness;

use crate::deadlines::Deadlines;
use crate::delivery::{COUNTED, Deliveries, Reach, Sent};
use crate::guard::{Event as Order, GuardEvent};
use crate::link::Link;
use crate::lock::{self, Failure, FileOrder, Input, Lock, Output, Proof};
use crate::log::{Log, Topic};
use crate::moment::Moment;
use crate::plan::{Exit, ExitReason, Level, OuterLock, Plan, outer};
use crate::signal::Signal;
use crate::supervisor::{Action, Event, Loss, Origin, Supervisor};
use crate::sys::clock::now;
use crate::sys::poll::{self, Watched};
use crate::sys::process::{self, Pid, Reap};
use crate::sys::signals::{self, Signals};
use crate::sys::timer::Timer;
use crate::sys::tree::{self, Process};
use crate::sys::{descriptors, scheduling};
use crate::transport;
use files::Files;
use guard::Environment;
use guard_channel::{Incoming, Report};
use host_lock::HostLock;
use names::Lookup;
use run_id::RunId;
use setup::{Parts, Stop};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use witness::Witness;

/// How long a guard may take from its last word to its end.
const FAREWELL: Duration = Duration::from_millis(100);

/// Runs a plan to its end. `started` is when the program began: waiting counts from there.
pub fn run(plan: &Plan, started: Moment) -> Exit {
    signals::survive_file_limit();
    let mut log = Log::new(&plan.log, plan.program, plan.verbose);
    let end = setup::set_up(plan, started, &mut log)
        .and_then(|parts| Ok(Run::new(plan, log, parts)?.drive()));
    plan.exit_codes
        .exit(end.unwrap_or_else(|stop| stop.end(plan)))
}

/// The guard, as long as it is there.
struct Guarding {
    guard: Pid,
    /// Our end of the line to it; `None` when it was closed.
    line: Option<OwnedFd>,
    /// Whether the guard has been reaped: then what it left behind is ours.
    buried: bool,
    /// If we had children before it: when it started, in the kernel's ticks. Whoever of our
    /// children is older is none of the tree's.
    born: Option<u64>,
    command: Option<Pid>,
    /// Whether the command has been reaped: then its id may be another's.
    ended: bool,
}

/// One run, on its way.
struct Run<'a> {
    plan: &'a Plan,
    log: Log,
    began: Moment,
    lock: Box<dyn Lock>,
    link: Link,
    lookup: Lookup,
    files: Option<Files>,
    /// Above `host_lock`, so that it is dropped while that is held.
    kept_id: Option<RunId>,
    host_lock: Option<HostLock>,
    supervisor: Supervisor,
    signals: Signals,
    timer: Timer,
    proof: Option<Proof>,
    lease: Deadlines,
    guarding: Option<Guarding>,
    deliveries: Deliveries,
    witness: Option<Witness>,
    /// Guard and tree are being killed by ourselves.
    killing: bool,
    /// Why the lock was lost or revoked, and why it was gone after that.
    lost: Option<String>,
    gone: Option<String>,
    /// All that could be done to release the lock was done.
    released: bool,
    marks: journal::Marks,
    end: Option<ExitReason>,
}

impl<'a> Run<'a> {
    fn new(
        plan: &'a Plan,
        log: Log,
        Parts {
            lock,
            link,
            lookup,
            files,
            run_id,
            host_lock,
        }: Parts,
    ) -> Result<Run<'a>, Stop> {
        Ok(Run {
            plan,
            log,
            began: now(),
            lock,
            link,
            lookup,
            files,
            kept_id: run_id,
            host_lock,
            supervisor: Supervisor::new(plan.minimum_hold, plan.kill_after),
            signals: Signals::take().map_err(Stop::system("listen to signals"))?,
            timer: Timer::new().map_err(Stop::system("make a timer"))?,
            proof: None,
            lease: Deadlines::NEVER,
            guarding: None,
            deliveries: Deliveries::default(),
            witness: None,
            killing: false,
            lost: None,
            gone: None,
            released: false,
            marks: journal::Marks::default(),
            end: None,
        })
    }

    fn drive(mut self) -> ExitReason {
        loop {
            let wake = self
                .drain()
                .min(self.supervisor.wake())
                .min(self.deliveries.wake())
                .min(self.lookup.until());
            if let Some(end) = self.end {
                self.see_off_the_guard();
                self.see_off_helpers();
                return end;
            }
            self.sleep(wake);
        }
    }

    /// Waits, but not for long, for a guard that has said its last word to be gone: whoever looks
    /// when we are must find nothing of us.
    fn see_off_the_guard(&mut self) {
        if let Some(Guarding {
            buried: false,
            ended: true,
            ..
        }) = self.guarding
        {
            let _ = poll::wait(
                &mut [Watched::new(self.signals.fd(), false)],
                Some(FAREWELL),
            );
            self.reap();
        }
    }

    /// The same for helpers that are still looking up names: they are killed.
    fn see_off_helpers(&mut self) {
        if !self.lookup.has_helpers() {
            return;
        }
        let by = now() + FAREWELL;
        self.lookup.cancel();
        while self.lookup.has_helpers() && now() < by {
            if let Reap::Ended(..) = self.reap() {
                continue;
            }
            let _ = poll::wait(
                &mut [Watched::new(self.signals.fd(), false)],
                Some(by.since(now())),
            );
            while self.signals.next().is_some() {}
        }
    }

    /// Buries one child that has ended.
    fn reap(&mut self) -> Reap {
        let reaped = process::reap();
        if let Reap::Ended(pid, _) = reaped {
            self.lookup.reaped(pid);
        }
        reaped
    }

    /// Does all that the lock wants done now. Returns the moment until which it wants nothing.
    fn drain(&mut self) -> Moment {
        loop {
            let output = self.lock.poll(now());
            if let Some(until) = self.apply_output(output) {
                return until;
            }
        }
    }

    /// Does one thing that the lock wants done. `Wait` is returned.
    fn apply_output(&mut self, output: Output) -> Option<Moment> {
        match output {
            Output::Wait(until) => return Some(until),
            // Even after the end of the run: a lock may send its last request then.
            Output::Transport(transport::Output::Send(bytes)) => self.link.send(&bytes),
            _ if self.end.is_some() => {}
            Output::Transport(output) => {
                let failed = self.link.execute(output).map(Input::Transport);
                self.tell_lock(failed);
            }
            Output::File(FileOrder::Lock { file, wait }) => {
                let files = self.files.as_mut();
                let event = files.and_then(|files| files.contend(file, wait));
                self.tell_lock(event.map(Input::File));
            }
            Output::LookUp => self.look_up(),
            Output::Event(event) => self.on_lock_event(event),
        }
        None
    }

    /// Sleeps until `wake` or until something happens, and tells the machines.
    fn sleep(&mut self, wake: Moment) {
        self.timer.set((wake != Moment::NEVER).then_some(wake));
        let line = self
            .guarding
            .as_ref()
            .and_then(|guarding| guarding.line.as_ref());
        let sources = [
            Some(Watched::new(self.signals.fd(), false)),
            self.timer.fd().map(|fd| Watched::new(fd, false)),
            line.map(|line| Watched::new(line.as_fd(), false)),
            self.witness
                .as_ref()
                .map(|witness| Watched::new(witness.line(), false)),
            self.link.watched(),
        ];
        let places = sources.each_ref().map(Option::is_some);
        let mut watched: Vec<Watched> = sources
            .into_iter()
            .flatten()
            .chain(self.lookup.watched())
            .collect();
        if let Err(error) = poll::wait(&mut watched, self.timer.poll_limit(now())) {
            self.log.write(
                Topic::Run,
                Level::Error,
                &format_args!("cannot poll: {error}"),
            );
        }
        let mut ready = watched.iter().map(Watched::ready);
        let [signalled, timed, reported, witnessed, linked] =
            places.map(|watched| watched && ready.next().unwrap_or(false));
        let answered: Vec<bool> = ready.collect();
        drop(watched);
        if timed {
            self.timer.clear();
        }
        // What the clock says of the lock comes first: we may have been stopped for long.
        self.lock.handle(Input::Tick, now());
        // Before the guard: an interrupt that ended the command as well was there first, and makes
        // a difference to how we end.
        if signalled || reported {
            self.hear_signals();
        }
        if witnessed {
            self.hear_witness();
        }
        if reported {
            self.listen();
        }
        // After the guard, which has done its part meanwhile if it was only we who were stopped.
        self.step(Event::Tick);
        while let Some((sent, reach)) = self.deliveries.next(now()) {
            self.signalled(sent, Origin::Sent(reach));
        }
        if linked {
            let lock = &mut self.lock;
            self.link
                .ready(|event| lock.handle(Input::Transport(event), now()));
        }
        if self.lookup.is_under_way() {
            let found = self.lookup.result(answered.into_iter(), now());
            self.tell_lock(found.map(Input::LookUp));
        }
    }

    /// Logs what the lock reports, keeps the facts, and passes it on to guard and supervisor.
    fn on_lock_event(&mut self, event: lock::Event) {
        self.log_event(&event);
        let decision = supervisor_event(&event);
        match event {
            lock::Event::Acquired(proof) => self.proof = Some(proof),
            lock::Event::LeaseUntil(lease) => {
                self.lease = lease;
                self.order(Order::LeaseUntil(lease));
            }
            lock::Event::Lost { why, .. } | lock::Event::Revoked { why } => self.lost = Some(why),
            lock::Event::Gone(why) => self.gone = Some(why),
            lock::Event::Released { .. } => self.released = true,
            lock::Event::Trying(_)
            | lock::Event::Waiting { .. }
            | lock::Event::Suspended(_)
            | lock::Event::Resumed
            | lock::Event::Note(_)
            | lock::Event::Warn(_)
            | lock::Event::Busy(_)
            | lock::Event::Failed(_) => {}
        }
        if let Some(event) = decision {
            self.step(event);
        }
    }

    /// Sends helpers for the names; but not while all children that we have are to die.
    fn look_up(&mut self) {
        let begun = if self.killing {
            Ok(false)
        } else {
            self.lookup.begin(now()).map(|()| true)
        };
        if let Err(error) = &begun {
            self.log.write(
                Topic::Session,
                Level::Warning,
                &format_args!("cannot look up names: {}", crate::reason::reason(error)),
            );
        }
        if !begun.unwrap_or(false) {
            self.lock.handle(Input::LookUp(self.lookup.known()), now());
        }
    }

    fn tell_lock(&mut self, input: Option<Input>) {
        if let Some(input) = input {
            self.lock.handle(input, now());
        }
    }

    fn step(&mut self, event: Event) {
        if let Some(action) = self.supervisor.step(event, now()) {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Start => self.start(),
            Action::Forward(signal) => self.order(Order::Forward(signal)),
            Action::Stop(order) => self.order(Order::Stop(order)),
            Action::KillAll => self.kill_all(),
            Action::KillAndReport => {
                self.tell_stuck();
                self.kill_all();
            }
            Action::Suspend { forward } => {
                if forward {
                    self.order(Order::Forward(Signal::TSTP));
                }
                let _ = signals::stop_self(Signal::TSTP);
            }
            Action::Release => {
                if let Some(files) = &mut self.files {
                    files.keep_only(None);
                }
                // Before the request goes out: it may arrive when we are dead, and is not to
                // release the slot of a run that goes on with our id.
                if let Some(id) = &mut self.kept_id {
                    id.retire();
                }
                self.lock.handle(Input::Release, now());
            }
            Action::Exit(end) => {
                self.tell_end(end);
                if end == ExitReason::Lost && !self.survivors().is_empty() {
                    self.host_lock.take().into_iter().for_each(HostLock::leave);
                } else if self.released && self.lock.unsettled() {
                    self.kept_id.take().into_iter().for_each(RunId::pass_on);
                }
                self.end = Some(end);
            }
        }
    }

    fn start(&mut self) {
        let alone = matches!(self.reap(), Reap::NoChildren);
        let job = guard::Job {
            program: self.plan.program,
            command: &self.plan.command,
            environment: self
                .proof
                .as_ref()
                .map(|proof| environment(proof, &self.plan.outer_locks)),
            death_signal: self.plan.death_signal,
            kill_after: self.plan.kill_after,
            lease: self.lease,
            keep: self
                .files
                .as_ref()
                .and_then(Files::held)
                .or(self.host_lock.as_ref().map(HostLock::held)),
        };
        match guard::start(&job, &self.signals) {
            Ok((guard, line)) => {
                let born = if alone {
                    None
                } else {
                    tree::find(guard).map(|guard| guard.started)
                };
                self.guarding = Some(Guarding {
                    guard,
                    line: Some(line),
                    buried: false,
                    born,
                    command: None,
                    ended: false,
                });
            }
            Err(error) => {
                self.log.error(&format_args!(
                    "cannot start the guard: {}",
                    crate::reason::reason(&error)
                ));
                self.step(Event::CannotStart(ExitReason::SystemError));
            }
        }
    }

    fn order(&self, order: Order) {
        if let Some(Guarding {
            line: Some(line), ..
        }) = &self.guarding
        {
            guard_channel::send_command(line, order);
        }
    }

    /// Hears the guard out.
    fn listen(&mut self) {
        while self.hear_report() {}
    }

    /// Takes in the guard's next report, if there is one.
    fn hear_report(&mut self) -> bool {
        let Some(Guarding {
            line: Some(line), ..
        }) = &self.guarding
        else {
            return false;
        };
        match guard_channel::receive_report(line) {
            Incoming::Message(report) => self.reported(report),
            Incoming::Nothing => return false,
            Incoming::Closed => {
                self.forget_line();
                self.step(Event::GuardGone);
            }
        }
        true
    }

    fn reported(&mut self, report: Report) {
        if let Some(guarding) = &mut self.guarding {
            match report {
                Report::Started { command, .. } => {
                    guarding.command = Some(command);
                    descriptors::close_inherited();
                }
                Report::Guard(GuardEvent::Ended(_)) => guarding.ended = true,
                _ => {}
            }
        }
        if let Report::Guard(GuardEvent::Ended(_)) = report {
            self.pass_on_what_was_held();
        }
        self.tell_report(report);
        match report {
            Report::Started { terminal, .. } => {
                if terminal != Some(false) {
                    self.witness = Witness::start(&self.signals).ok(); // without one, all is passed on
                }
                self.step(Event::Started);
            }
            Report::Witnessed(sent) => self.deliveries.witnessed(sent, Reach::Everywhere, now()),
            Report::CannotStart(errno) => {
                self.step(Event::CannotStart(journal::cannot_start(errno)));
            }
            Report::Guard(GuardEvent::Ended(status)) => self.step(Event::Ended(status)),
            Report::Guard(GuardEvent::StopAcknowledged) => self.step(Event::StopAcknowledged),
            Report::Guard(GuardEvent::LeaseExpired) => self.step(Event::Lost(Loss {
                kill_deadline: self.lease.kill,
                gone: false,
            })),
            Report::Guard(GuardEvent::TreeGone) => self.step(Event::TreeGone),
            Report::Guard(GuardEvent::Stuck) => self.step(Event::Stuck),
        }
    }

    fn forget_line(&mut self) {
        if let Some(guarding) = &mut self.guarding {
            guarding.line = None;
        }
    }

    fn hear_signals(&mut self) {
        while let Some(received) = self.signals.next() {
            if self.command_starts() {
                self.hear_report(); // a command that is there may have got the signal as well
            }
            let sent = received.sent();
            // A hangup of the terminal may have come to the leader of its session alone: there the
            // witness is asked, too.
            let typed = received.from_terminal && sent.signal != Signal::HUP;
            if sent.signal == Signal::CHLD {
                self.bury();
            } else if typed {
                self.signalled(sent, Origin::Typed);
            } else if !self.deliveries.is_repeat(sent, now()) {
                if self.command_runs() && COUNTED.contains(&sent.signal) {
                    self.deliveries.hold(sent, now());
                } else {
                    self.signalled(sent, Origin::Sent(Reach::Here));
                }
            }
        }
    }

    fn hear_witness(&mut self) {
        while let Some(witness) = &self.witness {
            match witness.next() {
                Incoming::Message(Report::Witnessed(sent)) => {
                    self.deliveries.witnessed(sent, Reach::Group, now());
                }
                Incoming::Message(_) | Incoming::Nothing => return,
                Incoming::Closed => self.witness = None,
            }
        }
    }

    fn signalled(&mut self, sent: Sent, origin: Origin) {
        self.tell_signal(sent, origin);
        self.step(Event::Signalled(sent.signal, origin));
    }

    fn command_starts(&self) -> bool {
        matches!(
            self.guarding,
            Some(Guarding {
                line: Some(_),
                command: None,
                ..
            })
        )
    }

    fn command_runs(&self) -> bool {
        matches!(
            self.guarding,
            Some(Guarding {
                line: Some(_),
                command: Some(_),
                ended: false,
                ..
            })
        )
    }

    /// The command has ended, and what was held back may be why.
    fn pass_on_what_was_held(&mut self) {
        self.witness = None;
        while let Some((sent, reach)) = self.deliveries.take() {
            self.signalled(sent, Origin::Sent(reach));
        }
    }

    /// Buries children: the guard, helpers, and what is left of the tree when the guard has died.
    fn bury(&mut self) {
        loop {
            match self.reap() {
                Reap::Ended(pid, _) => {
                    let event = self.files.as_mut().and_then(|files| files.ended(pid));
                    self.tell_lock(event.map(Input::File));
                    self.witness
                        .iter_mut()
                        .for_each(|witness| witness.reaped(pid));
                    if let Some(guarding) = &mut self.guarding {
                        guarding.buried |= guarding.guard == pid;
                        guarding.ended |= guarding.command == Some(pid);
                    }
                }
                Reap::Running => break,
                Reap::NoChildren if self.killing => {
                    self.killing = false;
                    return self.step(Event::TreeGone);
                }
                Reap::NoChildren => return,
            }
        }
        if self.killing && self.only_others_are_left() {
            self.killing = false;
            self.step(Event::TreeGone);
        }
    }

    /// The guard is gone, or does not do its duty: it dies, and its tree with it, in one pass. What
    /// a dead guard leaves behind is ours.
    fn kill_all(&mut self) {
        if self.lookup.is_under_way() {
            self.lookup.cancel();
            self.lock.handle(Input::LookUp(self.lookup.known()), now());
        }
        let tree = self.survivors();
        self.witness = None;
        let Some(guarding) = &mut self.guarding else {
            return self.step(Event::TreeGone);
        };
        guarding.line = None;
        self.killing = true;
        let _ = scheduling::run_ahead(); // or goes on as it is, where that is not allowed
        if !guarding.buried {
            let _ = process::kill(guarding.guard, Signal::KILL);
        }
        tree::signal_all(&tree, Signal::KILL);
        if guarding.born.is_none() {
            tree::kill_own_children_without_proc();
        }
        self.bury();
    }

    /// What is left of the tree: below the guard, or below us once it is dead.
    fn survivors(&self) -> Vec<Process> {
        match &self.guarding {
            Some(Guarding {
                born, buried: true, ..
            }) => {
                let mut left = tree::descendants_since(process::own_pid(), *born);
                left.retain(|process| !self.lookup.is_helper(process.pid));
                left
            }
            Some(Guarding { guard, .. }) => tree::descendants(*guard),
            None => Vec::new(),
        }
    }

    /// Whether all children that we have left were ours before the guard was. Where there were
    /// none, the last one is waited for: /proc may hide some.
    fn only_others_are_left(&self) -> bool {
        matches!(
            self.guarding,
            Some(Guarding {
                buried: true,
                born: Some(_),
                ..
            })
        ) && self.survivors().is_empty()
    }
}

/// What the supervisor must decide on when a lock reports this. `None`: nothing.
fn supervisor_event(event: &lock::Event) -> Option<Event> {
    match event {
        lock::Event::Acquired(_) => Some(Event::Acquired),
        lock::Event::Lost {
            kill_deadline,
            gone,
            ..
        } => Some(Event::Lost(Loss {
            kill_deadline: *kill_deadline,
            gone: *gone,
        })),
        lock::Event::Gone(_) => Some(Event::Gone),
        lock::Event::Revoked { .. } => Some(Event::Revoked),
        lock::Event::Busy(_) => Some(Event::NoLock(ExitReason::Busy)),
        lock::Event::Failed(failure) => Some(Event::NoLock(match failure {
            Failure::Unreachable(_) => ExitReason::Unreachable,
            Failure::Refused { .. } | Failure::Denied(_) => ExitReason::Refused,
            Failure::IncompatibleLock(_) => ExitReason::IncompatibleLock,
            Failure::System(_) => ExitReason::SystemError,
        })),
        lock::Event::Released { .. } => Some(Event::Released),
        lock::Event::Trying(_)
        | lock::Event::Waiting { .. }
        | lock::Event::LeaseUntil(_)
        | lock::Event::Suspended(_)
        | lock::Event::Resumed
        | lock::Event::Note(_)
        | lock::Event::Warn(_) => None,
    }
}

/// What a command learns of its lock: nothing, where that has none, of one that we may be run under
/// ourselves.
fn environment(proof: &Proof, outer: &[OuterLock]) -> Environment {
    [
        ("ZK_FLOCK_HELD", Some("1".into())),
        ("ZK_FLOCK_LOCK", Some(proof.lock.clone())),
        ("ZK_FLOCK_TOKEN", proof.token.map(|token| token.to_string())),
        (
            "ZK_FLOCK_SESSION",
            proof.session.map(|session| format!("0x{session:x}")),
        ),
        (outer::VARIABLE, outer::list(outer)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_for_no_lock_has_its_own_end() {
        let holder = lock::Holder {
            lock: "/app/lock".into(),
            host: None,
            since: None,
            session: None,
        };
        let refused = Failure::Refused {
            what: "make /app/lock".into(),
            why: "no auth".into(),
        };
        for (event, end) in [
            (lock::Event::Busy(holder), ExitReason::Busy),
            (
                lock::Event::Failed(Failure::Unreachable("h1:2181".into())),
                ExitReason::Unreachable,
            ),
            (lock::Event::Failed(refused), ExitReason::Refused),
            (
                lock::Event::Failed(Failure::Denied("INVALID".into())),
                ExitReason::Refused,
            ),
            (
                lock::Event::Failed(Failure::IncompatibleLock("a directory".into())),
                ExitReason::IncompatibleLock,
            ),
            (
                lock::Event::Failed(Failure::System("disk full".into())),
                ExitReason::SystemError,
            ),
        ] {
            assert_eq!(
                supervisor_event(&event),
                Some(Event::NoLock(end)),
                "{event:?}"
            );
        }
    }

    #[test]
    fn a_lost_lock_passes_its_kill_deadline_on() {
        let kill_deadline = Moment(Duration::from_secs(7));
        for gone in [false, true] {
            let lost = lock::Event::Lost {
                why: "the session has expired".into(),
                kill_deadline,
                gone,
            };
            assert_eq!(
                supervisor_event(&lost),
                Some(Event::Lost(Loss {
                    kill_deadline,
                    gone
                }))
            );
        }
    }

    #[test]
    fn reports_for_the_log_and_the_guard_are_no_business_of_the_supervisor() {
        for event in [
            lock::Event::Trying("a".into()),
            lock::Event::LeaseUntil(Deadlines::NEVER),
            lock::Event::Suspended("no answer".into()),
            lock::Event::Resumed,
            lock::Event::Note("connected".into()),
            lock::Event::Warn("acl".into()),
        ] {
            assert_eq!(supervisor_event(&event), None, "{event:?}");
        }
    }
}

//! The loop of a run. It connects the state machines (lock, supervisor) with the guard and the
//! signals: it carries out their actions, and passes events on. It makes no decisions, and waits in
//! one call, the poll in `sleep`.
//!
//! Each thing has an owner: [`driver`] the lock with its connection and files, [`guard_handle`] the
//! guard and the command's tree, [`signal_intake`] the signals, [`journal`] the facts and their log.

mod check;
mod driver;
mod evict;
mod files;
mod guard;
mod guard_channel;
mod guard_handle;
mod host_lock;
mod inspect;
mod journal;
mod local_survey;
mod lock_folder;
mod metrics_file;
mod notifier;
mod oneshot;
mod run_id;
mod setup;
mod signal_intake;
mod system;
mod witness;

pub use check::check_client;
pub use evict::evict;
pub use guard::{GuardLoop, Job, is_too_late};
pub use guard_channel::{Incoming, Report};
pub use inspect::show_status;
pub use oneshot::OneShotLoop;
pub use system::{Ready, Sources, System};

use crate::delivery::Sent;
use crate::guard::{Event as Command, GuardEvent};
use crate::lock::{self, Lock};
use crate::log::Log;
use crate::moment::Moment;
use crate::notify::run::Fact;
use crate::plan::{Connection, Exit, ExitReason, Plan};
use crate::prepare::{HostAddresses, Lookup};
use crate::signal::Signal;
use crate::supervisor::{Action, Event, Origin, Supervisor};
use crate::sys::process::Reap;
use crate::sys::signals::{self, Signals};
use crate::sys::timer::Timer;
use crate::sys::tree::Process;
use driver::{Driver, Progress};
use guard_handle::{GuardHandle, NoGuard};
use host_lock::HostLock;
use journal::Journal;
use notifier::Notifier;
use run_id::RunId;
use setup::{Parts, Stop};
use signal_intake::SignalIntake;
use std::time::Duration;
use system::Linux;

/// How long the guard may take from its last report to its exit, and helpers to theirs.
const GUARD_EXIT_TIMEOUT: Duration = Duration::from_millis(100);

/// Runs a plan to its end. `started` is when the program began: the wait for the lock counts from
/// there.
pub fn run(plan: &Plan, started: Moment) -> Exit {
    signals::survive_file_limit();
    let mut log = Log::new(&plan.log, plan.program, plan.verbose);
    let ready = setup::set_up(plan, started, &mut log).and_then(Resources::open);
    let journal = Journal::new(plan, log, Linux::now);
    let (end, mut journal) = match ready {
        Ok(Resources {
            parts,
            signals,
            timer,
        }) => Run::new(plan, journal, parts, signals).drive(timer),
        Err(stop) => (stop.end(plan), journal),
    };
    let exit = plan.exit_codes.exit(end);
    if let Some(path) = &plan.metrics {
        let figures = journal.figures(exit.code());
        if let Err(why) = metrics_file::record(path, plan, end, figures) {
            journal.cannot_record(&why);
        }
    }
    exit
}

/// What a run needs from the kernel, and its lock.
struct Resources {
    parts: Parts,
    signals: Signals,
    timer: Timer,
}

impl Resources {
    fn open(parts: Parts) -> Result<Resources, Stop> {
        let signals = Signals::take().map_err(Stop::system("receive signals"))?;
        let timer = Timer::new().map_err(Stop::system("create a timer"))?;
        Ok(Resources {
            parts,
            signals,
            timer,
        })
    }
}

/// What a run does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It sleeps until this moment or until something happens.
    Sleep(Moment),
    /// It ends.
    End(ExitReason),
}

/// One run.
pub struct Run<'a, S: System> {
    plan: &'a Plan,
    driver: Driver<S>,
    /// Before `host_lock`, so that it is dropped while that is held.
    stored_id: Option<RunId>,
    host_lock: Option<HostLock>,
    supervisor: Supervisor,
    intake: SignalIntake<S>,
    guard: GuardHandle<S>,
    journal: Journal<'a>,
    /// The lock knows how the run ends.
    end_recorded: bool,
    notifier: Option<Notifier>,
    end: Option<ExitReason>,
}

impl<'a> Run<'a, Linux> {
    fn new(plan: &'a Plan, journal: Journal<'a>, parts: Parts, signals: Signals) -> Self {
        let driver = Driver::new(parts.lock, parts.link, parts.files, parts.lookup);
        let mut run = Run::assemble(plan, journal, driver, signals);
        (run.stored_id, run.host_lock) = (parts.run_id, parts.host_lock);
        run
    }
}

impl<'a, S: System> Run<'a, S> {
    /// A run of a lock that has neither files nor names of servers.
    pub fn of_lock(
        plan: &'a Plan,
        log: Log,
        lock: Box<dyn Lock>,
        link: S::Link,
        signals: S::Signals,
    ) -> Run<'a, S> {
        let driver = Driver::new(
            lock,
            link,
            None,
            Lookup::new(HostAddresses::new(&[], &Connection::Direct)),
        );
        Run::assemble(plan, Journal::new(plan, log, S::now), driver, signals)
    }

    fn assemble(
        plan: &'a Plan,
        journal: Journal<'a>,
        driver: Driver<S>,
        signals: S::Signals,
    ) -> Run<'a, S> {
        Run {
            plan,
            driver,
            stored_id: None,
            host_lock: None,
            supervisor: Supervisor::new(plan.minimum_hold, plan.kill_after),
            intake: SignalIntake::new(signals),
            guard: GuardHandle::new(),
            journal,
            end_recorded: false,
            notifier: plan
                .notify
                .as_ref()
                .and_then(|notify| Notifier::new(notify, S::now())),
            end: None,
        }
    }

    /// Runs to the end. Returns the reason for it, and the facts of the run.
    fn drive(mut self, mut timer: S::Timer) -> (ExitReason, Journal<'a>) {
        loop {
            match self.turn() {
                Turn::Sleep(until) => {
                    let ready = self.sleep(&mut timer, until);
                    self.on_wake(ready);
                }
                Turn::End(end) => {
                    self.await_guard_exit();
                    self.await_helper_exit();
                    return (end, self.journal);
                }
            }
        }
    }

    /// Does everything that is to be done before the next sleep.
    pub fn turn(&mut self) -> Turn {
        let wake = self.drain().min(self.notify());
        let machines = self.supervisor.wake().min(self.intake.wake());
        self.end.map_or(Turn::Sleep(wake.min(machines)), Turn::End)
    }

    /// Carries out everything that the lock wants now. Returns until when it wants nothing more.
    fn drain(&mut self) -> Moment {
        loop {
            match self.driver.pump(!self.guard.is_killing()) {
                Progress::Event(event) => self.on_lock_event(event),
                Progress::CannotLookUp(error) => self.journal.cannot_look_up(&error),
                Progress::Wait(until) => return until,
            }
        }
    }

    /// Sends what is due to the service manager. Returns when more is due.
    fn notify(&mut self) -> Moment {
        let Some(notifier) = &mut self.notifier else {
            return Moment::NEVER;
        };
        if let Some(error) = notifier.send(S::now()) {
            self.journal.cannot_notify(&error);
        }
        notifier.wake()
    }

    fn report_fact(&mut self, fact: Fact) {
        if let Some(notifier) = &mut self.notifier {
            notifier.hear(fact, S::now());
        }
    }

    fn sleep(&mut self, timer: &mut S::Timer, until: Moment) -> Ready {
        let sources = Sources {
            signals: self.intake.signals(),
            channel: self.guard.channel(),
            witness: self.intake.witness(),
            link: self.driver.link(),
            lookup: self.driver.lookup(),
        };
        S::sleep(&sources, timer, until).unwrap_or_else(|error| {
            self.journal.cannot_poll(&error);
            Ready::default()
        })
    }

    /// Passes on the events that have ended the sleep.
    pub fn on_wake(&mut self, ready: Ready) {
        // The clock comes first, and for the lock: this process may have been stopped for long.
        self.driver.tick();
        // Signals come before the guard's reports: an interrupt that also ended the command was
        // there first, and changes the reason to exit.
        if ready.signalled || ready.reported {
            self.receive_signals();
        }
        if ready.witnessed {
            self.intake.read_witness();
        }
        if ready.reported {
            while self.receive_report() {}
        }
        // The supervisor's clock comes after the guard's reports: if only this process was stopped,
        // the guard has done its part in the meantime.
        self.step(Event::Tick);
        while let Some((sent, origin)) = self.intake.next_due() {
            self.on_signal(sent, origin);
        }
        self.driver.ready(ready.lock.into_iter());
    }

    fn on_lock_event(&mut self, event: lock::Event) {
        let decision = driver::supervisor_event(&event);
        let lease = match event {
            lock::Event::LeaseUntil(lease) => Some(lease),
            _ => None,
        };
        if let Some(notifier) = &mut self.notifier {
            notifier.lock_event(&event, S::now());
        }
        self.journal.lock_event(event);
        if let Some(lease) = lease {
            self.guard.send(Command::LeaseUntil(lease));
        }
        if let Some(event) = decision {
            self.step(event);
        }
    }

    /// Receives and handles the guard's next report. False: there is none.
    fn receive_report(&mut self) -> bool {
        match self.guard.receive() {
            Incoming::Message(report) => self.on_report(report),
            Incoming::Nothing => return false,
            Incoming::Closed => self.step(Event::GuardGone),
        }
        true
    }

    fn on_report(&mut self, report: Report) {
        if let Report::Guard(GuardEvent::Ended(_)) = report {
            // A signal that is held back may be the reason.
            self.intake.stop_witness();
            while let Some((sent, origin)) = self.intake.next_held() {
                self.on_signal(sent, origin);
            }
        }
        let survivors = || survivors(&self.guard, &self.driver);
        self.journal.guard_report(report, survivors);
        match report {
            Report::Started { terminal, .. } if terminal != Some(false) => {
                self.intake.start_witness();
            }
            Report::Witnessed(sent) => self.intake.guard_received(sent),
            _ => {}
        }
        if let Some(fact) = notifier::guard_fact(report) {
            self.report_fact(fact);
        }
        let kill_deadline = self.journal.lease().kill;
        if let Some(event) = guard_handle::supervisor_event(report, kill_deadline) {
            self.step(event);
        }
    }

    fn receive_signals(&mut self) {
        while let Some(received) = self.intake.receive() {
            if self.guard.is_starting() {
                self.receive_report(); // a command that runs may have received the signal as well
            }
            if received.signal == Signal::CHLD {
                self.reap_children();
            } else if let Some((sent, origin)) =
                self.intake.admit(received, self.guard.command_runs())
            {
                self.on_signal(sent, origin);
            }
        }
    }

    fn on_signal(&mut self, sent: Sent, origin: Origin) {
        self.journal.signal(sent, origin);
        self.report_fact(Fact::Signalled(sent.signal));
        self.step(Event::Signalled(sent.signal, origin));
    }

    fn step(&mut self, event: Event) {
        let action = self.supervisor.step(event, S::now());
        if self.plan.every.is_some() {
            self.record_end();
        }
        if let Some(action) = action {
            self.perform(action);
        }
    }

    /// Tells the lock how the run ends as soon as that is known, and before the release.
    fn record_end(&mut self) {
        let end = self.supervisor.end_of_command();
        // A lost lock leaves no end: the run has not ended well.
        let Some(end) = end.filter(|&end| end != ExitReason::Lost && !self.end_recorded) else {
            return;
        };
        self.end_recorded = true;
        let exit = self.plan.exit_codes.exit(end);
        self.driver.command_ended(exit.code());
    }

    fn perform(&mut self, action: Action) {
        if let Some(fact) = notifier::action_fact(action) {
            self.report_fact(fact);
        }
        match action {
            Action::Start => self.start(),
            Action::Forward(signal) => self.guard.send(Command::Forward(signal)),
            Action::Stop(order) => self.guard.send(Command::Stop(order)),
            Action::KillAll => self.kill_all(),
            Action::KillAndReport => {
                self.journal.stuck(|| survivors(&self.guard, &self.driver));
                self.kill_all();
            }
            Action::Suspend { forward } => {
                if forward {
                    self.guard.send(Command::Forward(Signal::TSTP));
                }
                S::stop_self(Signal::TSTP);
            }
            Action::Release => {
                self.driver.release();
                // The request is sent later. It may arrive after this process has died, and must
                // not release the slot of a run that continues with the same id.
                if let Some(id) = &mut self.stored_id {
                    id.retire();
                }
            }
            Action::Exit(end) => self.exit(end),
        }
    }

    fn start(&mut self) {
        let has_children = !matches!(self.reap(), Reap::NoChildren);
        let notify = self.plan.notify.as_ref();
        let environment = |proof| guard::environment(proof, &self.plan.outer_locks, notify);
        let host_lock = self.host_lock.as_ref();
        let job = guard::Job {
            program: self.plan.program,
            command: &self.plan.command,
            environment: self.journal.proof().map(environment),
            death_signal: self.plan.death_signal,
            kill_after: self.plan.kill_after,
            lease: self.journal.lease(),
            keep: self.driver.held_file().or(host_lock.map(HostLock::held)),
        };
        match self.guard.start(&job, self.intake.signals(), has_children) {
            Ok(guard) => self.journal.guard_started(guard),
            Err(error) => {
                self.journal.cannot_start_guard(&error);
                self.step(Event::CannotStart(ExitReason::SystemError));
            }
        }
    }

    /// Kills guard and tree. A lookup is cancelled first, because its helpers are children too.
    fn kill_all(&mut self) {
        self.driver.cancel_lookup();
        let survivors = survivors(&self.guard, &self.driver);
        self.intake.stop_witness();
        match self.guard.kill_all(&survivors) {
            Ok(()) => self.reap_children(),
            Err(NoGuard) => self.step(Event::TreeGone),
        }
    }

    /// Reaps all children that have ended: the guard, helpers, and the tree after the guard's death.
    fn reap_children(&mut self) {
        let has_children = loop {
            match self.reap() {
                Reap::Ended(pid, _) => {
                    self.driver.child_ended(pid);
                    self.intake.child_ended(pid);
                    self.guard.child_ended(pid);
                }
                Reap::Running => break true,
                Reap::NoChildren => break false,
            }
        };
        let is_helper = |pid| self.driver.is_helper(pid);
        if let Some(event) = self.guard.kill_completed(has_children, is_helper) {
            self.step(event);
        }
    }

    /// Reaps one child.
    fn reap(&mut self) -> Reap {
        let reaped = S::reap();
        if let Reap::Ended(pid, _) = reaped {
            if self.driver.carries_the_connection(pid) {
                self.spare_orphans();
            }
            self.driver.helper_reaped(pid);
        }
        reaped
    }

    /// A helper of the connection has ended. While the guard lives, the command's orphans are its
    /// children, so that those of this process are what the helper has left behind.
    fn spare_orphans(&mut self) {
        if let Some(guard) = self.guard.living() {
            let own = S::own_pid();
            let children = S::descendants(own).into_iter();
            let others = children.filter(|it| it.parent == own && it.pid != guard);
            // The guard lived while the first list was made only if it still lives.
            if S::descendants(own).iter().any(|it| it.pid == guard) {
                self.driver.leave(others.map(|process| process.pid));
            }
        }
    }

    fn exit(&mut self, end: ExitReason) {
        let survivors = || survivors(&self.guard, &self.driver);
        self.journal.end(end, survivors);
        if end == ExitReason::Lost && !survivors().is_empty() {
            let host_lock = self.host_lock.take().into_iter();
            host_lock.for_each(HostLock::hand_over_to_guard);
        } else if self.journal.is_released() && self.driver.is_unsettled() {
            self.stored_id.take().into_iter().for_each(RunId::pass_on);
        }
        self.driver.finish();
        self.end = Some(end);
    }

    /// Waits for the exit of a guard that has sent its last report: when this process has exited, no
    /// process of the run is left.
    fn await_guard_exit(&mut self) {
        if self.guard.is_exiting() {
            self.await_child_signal(GUARD_EXIT_TIMEOUT);
            self.reap();
        }
    }

    /// Ends the helpers, and waits for their exit.
    fn await_helper_exit(&mut self) {
        if !self.driver.has_helpers() {
            return;
        }
        self.driver.end_helpers(S::now() + GUARD_EXIT_TIMEOUT);
        self.reap_helpers();
        if self.driver.has_helpers() {
            self.driver.kill_helpers();
            self.reap_helpers();
        }
    }

    fn reap_helpers(&mut self) {
        let deadline = S::now() + GUARD_EXIT_TIMEOUT;
        while self.driver.has_helpers() && S::now() < deadline {
            if let Reap::Ended(..) = self.reap() {
                continue;
            }
            self.await_child_signal(deadline.since(S::now()));
            while self.intake.receive().is_some() {}
        }
    }

    fn await_child_signal(&self, limit: Duration) {
        S::await_signal(self.intake.signals(), limit);
    }
}

/// The tree's processes that are left.
fn survivors<S: System>(guard: &GuardHandle<S>, driver: &Driver<S>) -> Vec<Process> {
    guard.survivors(|pid| driver.is_helper(pid))
}

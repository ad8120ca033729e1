//! The loop of a run. It connects the state machines (lock, supervisor) with the guard and the
//! signals: it carries out their actions, and passes events on. It makes no decisions, and waits in
//! one call, the poll in `sleep`.
//!
//! Each thing has an owner: [`driver`] the lock with its connection and files, [`guard_handle`] the
//! guard and the command's tree, [`signal_intake`] the signals, [`journal`] the facts and their log.

mod driver;
mod files;
mod guard;
mod guard_channel;
mod guard_handle;
mod host_lock;
mod journal;
mod lock_folder;
mod names;
mod run_id;
mod setup;
mod signal_intake;
mod witness;

use crate::delivery::Sent;
use crate::guard::{Event as Command, GuardEvent};
use crate::lock;
use crate::log::Log;
use crate::moment::Moment;
use crate::plan::{Exit, ExitReason, Plan};
use crate::signal::Signal;
use crate::supervisor::{Action, Event, Origin, Supervisor};
use crate::sys::clock::now;
use crate::sys::poll::{self, Watched};
use crate::sys::process::{self, Reap};
use crate::sys::signals::{self, Signals};
use crate::sys::timer::Timer;
use crate::sys::tree::Process;
use driver::{Driver, Progress};
use guard_channel::{Incoming, Report};
use guard_handle::{GuardHandle, NoGuard};
use host_lock::HostLock;
use journal::Journal;
use run_id::RunId;
use setup::{Parts, Stop};
use signal_intake::SignalIntake;
use std::time::Duration;

/// How long the guard may take from its last report to its exit, and killed lookup helpers to
/// theirs.
const GUARD_EXIT_TIMEOUT: Duration = Duration::from_millis(100);

/// Runs a plan to its end. `started` is when the program began: the wait for the lock counts from
/// there.
pub fn run(plan: &Plan, started: Moment) -> Exit {
    signals::survive_file_limit();
    let mut log = Log::new(&plan.log, plan.program, plan.verbose);
    let end = setup::set_up(plan, started, &mut log)
        .and_then(|parts| Ok(Run::new(plan, log, parts)?.drive()));
    plan.exit_codes
        .exit(end.unwrap_or_else(|stop| stop.end(plan)))
}

/// One run.
struct Run<'a> {
    plan: &'a Plan,
    driver: Driver,
    /// Before `host_lock`, so that it is dropped while that is held.
    stored_id: Option<RunId>,
    host_lock: Option<HostLock>,
    supervisor: Supervisor,
    intake: SignalIntake,
    timer: Timer,
    guard: GuardHandle,
    journal: Journal<'a>,
    end: Option<ExitReason>,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, log: Log, parts: Parts) -> Result<Run<'a>, Stop> {
        let journal = Journal::new(plan, log);
        let signals = Signals::take().map_err(Stop::system("listen to signals"))?;
        Ok(Run {
            plan,
            driver: Driver::new(parts.lock, parts.link, parts.files, parts.lookup),
            stored_id: parts.run_id,
            host_lock: parts.host_lock,
            supervisor: Supervisor::new(plan.minimum_hold, plan.kill_after),
            intake: SignalIntake::new(signals),
            timer: Timer::new().map_err(Stop::system("make a timer"))?,
            guard: GuardHandle::new(),
            journal,
            end: None,
        })
    }

    fn drive(mut self) -> ExitReason {
        loop {
            let wake = self.drain();
            if let Some(end) = self.end {
                self.await_guard_exit();
                self.await_helper_exit();
                return end;
            }
            let machines = self.supervisor.wake().min(self.intake.wake());
            self.sleep(wake.min(machines));
        }
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

    /// Sleeps until `wake` or until an event happens, and passes the events on.
    fn sleep(&mut self, wake: Moment) {
        self.timer.set((wake != Moment::NEVER).then_some(wake));
        let sources = [
            Some(self.intake.signals().fd()),
            self.timer.fd(),
            self.guard.channel(),
            self.intake.witness_channel(),
        ];
        let present = sources.map(|fd| fd.is_some());
        let mut watched: Vec<Watched> = sources
            .into_iter()
            .flatten()
            .map(|fd| Watched::new(fd, false))
            .chain(self.driver.watched())
            .collect();
        if let Err(error) = poll::wait(&mut watched, self.timer.poll_limit(now())) {
            self.journal.cannot_poll(&error);
        }
        let mut ready = watched.iter().map(Watched::ready);
        let [signalled, timed, reported, witnessed] =
            present.map(|present| present && ready.next().unwrap_or(false));
        let driver_ready: Vec<bool> = ready.collect();
        drop(watched);
        if timed {
            self.timer.clear();
        }
        // The clock comes first, and for the lock: this process may have been stopped for long.
        self.driver.tick();
        // Signals come before the guard's reports: an interrupt that also ended the command was
        // there first, and changes the reason to exit.
        if signalled || reported {
            self.receive_signals();
        }
        if witnessed {
            self.intake.read_witness();
        }
        if reported {
            while self.receive_report() {}
        }
        // The supervisor's clock comes after the guard's reports: if only this process was stopped,
        // the guard has done its part in the meantime.
        self.step(Event::Tick);
        while let Some((sent, origin)) = self.intake.next_due() {
            self.on_signal(sent, origin);
        }
        self.driver.ready(driver_ready.into_iter());
    }

    fn on_lock_event(&mut self, event: lock::Event) {
        let decision = driver::supervisor_event(&event);
        let lease = match event {
            lock::Event::LeaseUntil(lease) => Some(lease),
            _ => None,
        };
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
        self.step(Event::Signalled(sent.signal, origin));
    }

    fn step(&mut self, event: Event) {
        if let Some(action) = self.supervisor.step(event, now()) {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
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
                let _ = signals::stop_self(Signal::TSTP);
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
        let environment = |proof| guard::environment(proof, &self.plan.outer_locks);
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
        let reaped = process::reap();
        if let Reap::Ended(pid, _) = reaped {
            self.driver.helper_reaped(pid);
        }
        reaped
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

    /// Kills the lookup helpers, and waits for their exit.
    fn await_helper_exit(&mut self) {
        if !self.driver.has_helpers() {
            return;
        }
        let deadline = now() + GUARD_EXIT_TIMEOUT;
        self.driver.kill_helpers();
        while self.driver.has_helpers() && now() < deadline {
            if let Reap::Ended(..) = self.reap() {
                continue;
            }
            self.await_child_signal(deadline.since(now()));
            while self.intake.receive().is_some() {}
        }
    }

    fn await_child_signal(&self, limit: Duration) {
        let signals = Watched::new(self.intake.signals().fd(), false);
        let _ = poll::wait(&mut [signals], Some(limit));
    }
}

/// The tree's processes that are left.
fn survivors(guard: &GuardHandle, driver: &Driver) -> Vec<Process> {
    guard.survivors(|pid| driver.is_helper(pid))
}

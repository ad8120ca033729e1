//! The journal of a run: keeps the facts of the run, and writes them to log, terminal and stderr.
//! All sentences about a run are worded here, except the errors of the command line. Sentences of
//! the originals stay word for word, because sites search for them; facts are appended.

use super::guard_channel::Report;
use crate::deadlines::Deadlines;
use crate::delivery::Sent;
use crate::guard::GuardEvent;
use crate::lock::{Event, Holder, Proof};
use crate::log::{Log, Topic, print};
use crate::moment::Moment;
use crate::plan::{ExitReason, Level, Lock, Plan};
use crate::reason::reason;
use crate::signal::Status;
use crate::supervisor::Origin;
use crate::sys::clock::{self, now};
use crate::sys::process::Pid;
use crate::sys::tree::{self, Process};
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// The facts of a run and their log.
pub(super) struct Journal<'a> {
    plan: &'a Plan,
    log: Log,
    times: Timestamps,
    /// The lock that is or was held.
    proof: Option<Proof>,
    lease: Deadlines,
    /// Why the lock was lost or revoked, and why it was gone after that.
    lost: Option<String>,
    gone_why: Option<String>,
    /// Another host can acquire the lock.
    gone: bool,
    /// A survivor of KILL was reported.
    stuck: bool,
    /// The lock has finished its release, as far as it could.
    released: bool,
    guard: Option<Pid>,
    command: Option<Pid>,
}

/// When the intervals that the log prints began.
struct Timestamps {
    began: Moment,
    acquired: Option<Moment>,
    lost: Option<Moment>,
    suspended: Moment,
    started: Moment,
}

impl<'a> Journal<'a> {
    pub(super) fn new(plan: &'a Plan, log: Log) -> Journal<'a> {
        Journal {
            plan,
            log,
            times: Timestamps {
                began: now(),
                acquired: None,
                lost: None,
                suspended: Moment::default(),
                started: Moment::default(),
            },
            proof: None,
            lease: Deadlines::NEVER,
            lost: None,
            gone_why: None,
            gone: false,
            stuck: false,
            released: false,
            guard: None,
            command: None,
        }
    }

    /// The lock that is or was held.
    pub(super) fn proof(&self) -> Option<&Proof> {
        self.proof.as_ref()
    }

    /// The deadlines of the lease, as last reported.
    pub(super) fn lease(&self) -> Deadlines {
        self.lease
    }

    /// Whether the lock has finished its release, as far as it could.
    pub(super) fn is_released(&self) -> bool {
        self.released
    }

    fn write(&mut self, level: Level, message: &dyn Display) {
        self.log.write(Topic::Run, level, message);
    }

    fn lock_name(&self) -> String {
        self.proof
            .as_ref()
            .map_or_else(|| "the lock".into(), |proof| proof.lock.clone())
    }

    fn job(&self) -> i32 {
        self.command.map_or(0, |Pid(command)| command)
    }

    /// How many seconds the lock was held.
    fn held(&self) -> f64 {
        self.times.acquired.map_or(0.0, |acquired| {
            self.times
                .lost
                .unwrap_or_else(now)
                .since(acquired)
                .as_secs_f64()
        })
    }

    /// Logs an event of the lock, and keeps its facts.
    pub(super) fn lock_event(&mut self, event: Event) {
        self.log_lock_event(&event);
        match event {
            Event::Acquired(proof) => self.proof = Some(proof),
            Event::LeaseUntil(lease) => self.lease = lease,
            Event::Lost { why, .. } | Event::Revoked { why } => self.lost = Some(why),
            Event::Gone(why) => self.gone_why = Some(why),
            Event::Released { .. } => self.released = true,
            Event::Trying(_)
            | Event::Waiting { .. }
            | Event::Suspended(_)
            | Event::Resumed
            | Event::Note(_)
            | Event::Warn(_)
            | Event::Busy(_)
            | Event::Failed(_) => {}
        }
    }

    fn log_lock_event(&mut self, event: &Event) {
        match event {
            Event::Trying(name) => {
                if self.plan.announce {
                    let _ = writeln!(io::stdout(), "{name}");
                }
            }
            Event::Warn(text) => self.log.warn(text),
            Event::Note(text) => self.log.write(Topic::Session, Level::Info, text),
            Event::Waiting { holder, ahead } => {
                let waiting = format!("waiting for {}{}", shown(holder), turn(*ahead));
                self.write(Level::Info, &waiting);
                if !self.plan.verbose && io::stderr().is_terminal() {
                    print(self.plan.program, &waiting);
                }
            }
            Event::Busy(holder) => {
                self.write(Level::Info, &format_args!("Lock: fail ({})", shown(holder)));
            }
            Event::Acquired(proof) => {
                self.times.acquired = Some(now());
                let waited = seconds_since(self.times.began);
                let token = proof
                    .token
                    .map_or_else(String::new, |token| format!(", token {token}"));
                self.write(
                    Level::Info,
                    &format_args!("Lock: success ({}{token}, after {waited:.3} s)", proof.lock),
                );
            }
            Event::Suspended(why) => {
                self.times.suspended = now();
                let left = self.lease.term.since(now()).as_secs_f64();
                let name = self.lock_name();
                self.write(
                    Level::Warning,
                    &format_args!("suspended {name}: {why}; ours for {left:.1} s more"),
                );
            }
            Event::Resumed => {
                let (name, away) = (self.lock_name(), seconds_since(self.times.suspended));
                self.write(
                    Level::Warning,
                    &format_args!("resumed {name} after {away:.1} s"),
                );
            }
            Event::Lost { why, gone, .. } => {
                (self.times.lost, self.gone) = (Some(now()), *gone);
                self.write(Level::Error, &format_args!("Lock lost: {why}"));
            }
            Event::Gone(why) => {
                self.gone = true;
                let name = self.lock_name();
                self.write(Level::Error, &format_args!("cannot keep {name}: {why}"));
            }
            Event::Revoked { why } => {
                self.write(Level::Warning, &format_args!("Lock revoked: {why}"));
            }
            Event::Failed(failure) => self.log.error(failure),
            Event::Released { doubt: Some(doubt) } => {
                let name = self.lock_name();
                let message = format_args!("cannot release {name}: {doubt}");
                // Without a lock, the reason was printed on stderr already.
                if self.proof.is_some() {
                    self.log.error(&message);
                } else {
                    self.write(Level::Warning, &message);
                }
            }
            Event::Released { doubt: None }
                if self.proof.is_some() && (self.times.lost.is_none() || self.was_kept()) =>
            {
                let (name, held) = (
                    self.lock_name(),
                    self.times.acquired.map_or(0.0, seconds_since),
                );
                self.write(
                    Level::Info,
                    &format_args!("released {name} after {held:.1} s"),
                );
            }
            Event::LeaseUntil(_) | Event::Released { doubt: None } => {}
        }
    }

    /// The guard was started.
    pub(super) fn guard_started(&mut self, guard: Pid) {
        self.guard = Some(guard);
    }

    /// Logs a report of the guard. `survivors` lists the processes of the tree that are left.
    pub(super) fn guard_report(
        &mut self,
        report: Report,
        survivors: impl FnOnce() -> Vec<Process>,
    ) {
        let command = &self.plan.command.shown;
        let job = self.job();
        match report {
            Report::Started {
                command: Pid(pid),
                terminal,
            } => {
                self.times.started = now();
                self.command = Some(Pid(pid));
                self.write(
                    Level::Info,
                    &format_args!("Start subprocess: {command} (PID: {pid})"),
                );
                if terminal.is_none() {
                    self.write(
                        Level::Warning,
                        &"/proc is not mounted: a signal reaches only the command and its process group; KILL reaches all of its processes",
                    );
                }
            }
            Report::CannotStart(errno) => {
                let why = reason(&io::Error::from_raw_os_error(errno));
                self.log.error(&format_args!(
                    "cannot run {}: {why}",
                    self.plan.command.words[0].display()
                ));
            }
            Report::Guard(GuardEvent::Ended(status)) => {
                let ran = seconds_since(self.times.started);
                let (code, how) = match status {
                    Status::Exited(code) => (i32::from(code), String::new()),
                    Status::Killed(signal) => (-signal.0, format!(", killed by {signal}")),
                };
                self.write(
                    Level::Info,
                    &format_args!(
                        "Child exited with code: {code} (PID: {job}){how} after {ran:.1} s"
                    ),
                );
            }
            Report::Guard(GuardEvent::Stuck) => self.stuck(survivors),
            Report::Guard(GuardEvent::TreeGone) => {
                self.write(Level::Info, &"nothing of the job is left");
            }
            Report::Guard(GuardEvent::StopAcknowledged | GuardEvent::LeaseExpired)
            | Report::Witnessed(_) => {}
        }
    }

    /// Reports the processes that survive KILL.
    pub(super) fn stuck(&mut self, survivors: impl FnOnce() -> Vec<Process>) {
        if self.gone {
            return; // no lock is left to keep, and the run ends with a line about the survivors
        }
        let (stuck, name) = (names(&survivors()), self.lock_name());
        let kept = if self.times.lost.is_none() {
            format!("still holding {name} until it exits")
        } else {
            let unless = if let Lock::Pool(_) = self.plan.lock {
                "its lease ends"
            } else {
                "the session expires"
            };
            format!("keeping {name} until it exits, unless {unless} first")
        };
        self.log.error(&format_args!("cannot kill {stuck}: {kept}"));
        self.stuck = true;
    }

    /// Whether a lost lock was kept until an unkillable process exited.
    fn was_kept(&self) -> bool {
        self.times.lost.is_some() && self.stuck && !self.gone
    }

    /// Logs a signal that this process received.
    pub(super) fn signal(&mut self, Sent { signal, sender }: Sent, origin: Origin) {
        let by = if origin == Origin::Typed {
            "terminal".into()
        } else {
            format!("process {sender}")
        };
        let word = if signal.ends() { "Stop work by" } else { "Got" };
        self.write(Level::Info, &format_args!("{word} {signal} (from {by})"));
    }

    /// Prints the one line on stderr of a run that did not end with its command's exit code.
    pub(super) fn end(&mut self, end: ExitReason, survivors: impl FnOnce() -> Vec<Process>) {
        let (name, held, job) = (self.lock_name(), self.held(), self.job());
        match end {
            ExitReason::Lost => {
                let why = self
                    .lost
                    .take()
                    .unwrap_or_else(|| "this process was stopped".into());
                let left = names(&survivors());
                let gone = self
                    .gone_why
                    .as_ref()
                    .map_or_else(String::new, |gone| format!("; then {gone}"));
                let fate = match left.is_empty() {
                    true if self.was_kept() => format!(
                        "job (pid {job}) could not be killed; {name} was kept until it exited"
                    ),
                    true => format!("job (pid {job}) killed"),
                    false => format!("STILL RUNNING, cannot be killed: {left}"),
                };
                self.log.error(&format_args!(
                    "lost {name} after {held:.0} s: {why}{gone}; {fate}"
                ));
            }
            ExitReason::Revoked => {
                let why = self.lost.take().unwrap_or_default();
                self.log.error(&format_args!(
                    "revoked {name} after {held:.0} s: {why}; command (pid {job}) stopped"
                ));
            }
            ExitReason::InternalError => {
                let guard = self.guard.map_or(0, |Pid(guard)| guard);
                self.log.error(&format_args!(
                    "the guard of {name} (pid {guard}) was killed or stopped; job (pid {job}) killed, lock released"
                ));
            }
            _ => {}
        }
    }

    pub(super) fn cannot_poll(&mut self, error: &io::Error) {
        self.write(Level::Error, &format_args!("cannot poll: {error}"));
    }

    pub(super) fn cannot_start_guard(&mut self, error: &io::Error) {
        self.log
            .error(&format_args!("cannot start the guard: {}", reason(error)));
    }

    pub(super) fn cannot_look_up(&mut self, error: &io::Error) {
        self.log.write(
            Topic::Session,
            Level::Warning,
            &format_args!("cannot look up names: {}", reason(error)),
        );
    }
}

fn names(survivors: &[Process]) -> String {
    let names: Vec<String> = survivors
        .iter()
        .map(|left| format!("{} (pid {})", tree::name(left.pid), left.pid.0))
        .collect();
    names.join(", ")
}

fn seconds_since(moment: Moment) -> f64 {
    now().since(moment).as_secs_f64()
}

/// `/app/NAME, held by HOST since 09:12:03 (session 0x…)`, without the parts that are unknown.
fn shown(holder: &Holder) -> String {
    let host = holder
        .host
        .as_ref()
        .map_or_else(String::new, |host| format!(", held by {host}"));
    let since = holder.since.map_or_else(String::new, |ms| {
        format!(" since {}", time(ms.div_euclid(1000)))
    });
    let session = holder
        .session
        .map_or_else(String::new, |session| format!(" (session 0x{session:x})"));
    let held = if host.is_empty() && !since.is_empty() {
        ", held"
    } else {
        ""
    };
    format!("{}{host}{held}{since}{session}", holder.lock)
}

/// `; 3 ahead of us`, `; next in line`, or nothing if that is unknown.
fn turn(ahead: Option<usize>) -> String {
    match ahead {
        None => String::new(),
        Some(0) => "; next in line".into(),
        Some(ahead) => format!("; {ahead} ahead of us"),
    }
}

/// A time of day, with the date unless it is today.
fn time(unix_seconds: i64) -> String {
    let today = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.as_secs().cast_signed());
    let [then, today] = [unix_seconds, today].map(clock::local_time);
    let clock = format!("{:02}:{:02}:{:02}", then.hour, then.minute, then.second);
    if (then.year, then.month, then.day) == (today.year, today.month, today.day) {
        clock
    } else {
        format!("{:04}-{:02}-{:02} {clock}", then.year, then.month, then.day)
    }
}

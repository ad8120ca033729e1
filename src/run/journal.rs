//! The story of a run, as log, terminal and stderr hear it: every sentence that is not an error of
//! the command line is worded here. Those that the original had stay word for word, since sites
//! look for them; facts follow.

use super::guard_channel::Report;
use super::{Guarding, Run};
use crate::delivery::Sent;
use crate::guard::GuardEvent;
use crate::lock::{Event, Holder};
use crate::log::{Topic, print};
use crate::moment::Moment;
use crate::plan::{ExitReason, Level, Lock};
use crate::reason::reason;
use crate::signal::Status;
use crate::supervisor::Origin;
use crate::sys::clock::now;
use crate::sys::process::Pid;
use crate::sys::{self, clock, tree};
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// When things began whose length the story tells.
#[derive(Default)]
pub(super) struct Marks {
    acquired: Option<Moment>,
    lost: Option<Moment>,
    /// Another host can have the lock since.
    gone: bool,
    /// Something of the command's tree was named that could not be killed.
    stuck: bool,
    started: Moment,
    suspended: Moment,
}

/// What a start that failed comes to: ENOENT is 127; a shortage of the system is not the command's
/// fault; all else 126.
pub(super) fn cannot_start(errno: i32) -> ExitReason {
    match io::Error::from_raw_os_error(errno) {
        error if error.kind() == io::ErrorKind::NotFound => ExitReason::NotFound,
        error if sys::is_shortage(&error) => ExitReason::SystemError,
        _ => ExitReason::NotRunnable,
    }
}

impl Run<'_> {
    fn say(&mut self, level: Level, message: &dyn Display) {
        self.log.write(Topic::Run, level, message);
    }

    fn lock_name(&self) -> String {
        self.proof
            .as_ref()
            .map_or_else(|| "the lock".into(), |proof| proof.lock.clone())
    }

    fn job(&self) -> i32 {
        self.guarding
            .as_ref()
            .and_then(|guarding| guarding.command)
            .map_or(0, |Pid(command)| command)
    }

    /// How many seconds the lock was ours.
    fn held(&self) -> f64 {
        self.marks.acquired.map_or(0.0, |acquired| {
            self.marks
                .lost
                .unwrap_or_else(now)
                .since(acquired)
                .as_secs_f64()
        })
    }

    pub(super) fn log_event(&mut self, event: &Event) {
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
                self.say(Level::Info, &waiting);
                if !self.plan.verbose && io::stderr().is_terminal() {
                    print(self.plan.program, &waiting);
                }
            }
            Event::Busy(holder) => {
                self.say(Level::Info, &format_args!("Lock: fail ({})", shown(holder)));
            }
            Event::Acquired(proof) => {
                self.marks.acquired = Some(now());
                let waited = seconds_since(self.began);
                let token = proof
                    .token
                    .map_or_else(String::new, |token| format!(", token {token}"));
                self.say(
                    Level::Info,
                    &format_args!("Lock: success ({}{token}, after {waited:.3} s)", proof.lock),
                );
            }
            Event::Suspended(why) => {
                self.marks.suspended = now();
                let left = self.lease.term.since(now()).as_secs_f64();
                let name = self.lock_name();
                self.say(
                    Level::Warning,
                    &format_args!("suspended {name}: {why}; ours for {left:.1} s more"),
                );
            }
            Event::Resumed => {
                let (name, away) = (self.lock_name(), seconds_since(self.marks.suspended));
                self.say(
                    Level::Warning,
                    &format_args!("resumed {name} after {away:.1} s"),
                );
            }
            Event::Lost { why, gone, .. } => {
                (self.marks.lost, self.marks.gone) = (Some(now()), *gone);
                self.say(Level::Error, &format_args!("Lock lost: {why}"));
            }
            Event::Gone(why) => {
                self.marks.gone = true;
                let name = self.lock_name();
                self.say(Level::Error, &format_args!("cannot keep {name}: {why}"));
            }
            Event::Revoked { why } => {
                self.say(Level::Warning, &format_args!("Lock revoked: {why}"));
            }
            Event::Failed(failure) => self.log.error(failure),
            Event::Released { doubt: Some(doubt) } => {
                let name = self.lock_name();
                let told = format_args!("cannot release {name}: {doubt}");
                // If there was no lock, why has been said on stderr already.
                if self.proof.is_some() {
                    self.log.error(&told);
                } else {
                    self.say(Level::Warning, &told);
                }
            }
            Event::Released { doubt: None }
                if self.proof.is_some() && (self.marks.lost.is_none() || self.was_kept()) =>
            {
                let (name, held) = (
                    self.lock_name(),
                    self.marks.acquired.map_or(0.0, seconds_since),
                );
                self.say(
                    Level::Info,
                    &format_args!("released {name} after {held:.1} s"),
                );
            }
            Event::LeaseUntil(_) | Event::Released { doubt: None } => {}
        }
    }

    pub(super) fn tell_report(&mut self, report: Report) {
        let command = &self.plan.command.shown;
        let job = self.job();
        match report {
            Report::Started {
                command: Pid(pid),
                terminal,
            } => {
                self.marks.started = now();
                self.say(
                    Level::Info,
                    &format_args!("Start subprocess: {command} (PID: {pid})"),
                );
                if terminal.is_none() {
                    self.say(
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
                let ran = seconds_since(self.marks.started);
                let (code, how) = match status {
                    Status::Exited(code) => (i32::from(code), String::new()),
                    Status::Killed(signal) => (-signal.0, format!(", killed by {signal}")),
                };
                self.say(
                    Level::Info,
                    &format_args!(
                        "Child exited with code: {code} (PID: {job}){how} after {ran:.1} s"
                    ),
                );
            }
            Report::Guard(GuardEvent::Stuck) => self.tell_stuck(),
            Report::Guard(GuardEvent::TreeGone) => {
                self.say(Level::Info, &"nothing of the job is left");
            }
            Report::Guard(GuardEvent::StopAcknowledged | GuardEvent::LeaseExpired)
            | Report::Witnessed(_) => {}
        }
    }

    /// Names what was killed and does not die.
    pub(super) fn tell_stuck(&mut self) {
        if self.marks.gone {
            return; // there is nothing to keep, and the run ends with a line about it
        }
        let (stuck, name) = (self.names_of_survivors(), self.lock_name());
        let kept = if self.marks.lost.is_none() {
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
        self.marks.stuck = true;
    }

    /// Whether a lock that was lost was kept for a process that could not be killed, to its end.
    fn was_kept(&self) -> bool {
        self.marks.lost.is_some() && self.marks.stuck && !self.marks.gone
    }

    fn names_of_survivors(&self) -> String {
        let names: Vec<String> = self
            .survivors()
            .iter()
            .map(|left| format!("{} (pid {})", tree::name(left.pid), left.pid.0))
            .collect();
        names.join(", ")
    }

    pub(super) fn tell_signal(&mut self, Sent { signal, sender }: Sent, origin: Origin) {
        let by = if origin == Origin::Typed {
            "terminal".into()
        } else {
            format!("process {sender}")
        };
        let word = if signal.ends() { "Stop work by" } else { "Got" };
        self.say(Level::Info, &format_args!("{word} {signal} (from {by})"));
    }

    /// The one line on stderr of a run that did not end by its command's code.
    pub(super) fn tell_end(&mut self, end: ExitReason) {
        let (name, held, job) = (self.lock_name(), self.held(), self.job());
        match end {
            ExitReason::Lost => {
                let why = self
                    .lost
                    .take()
                    .unwrap_or_else(|| "this process was stopped".into());
                let left = self.names_of_survivors();
                let gone = self
                    .gone
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
                let guard = self.guarding.as_ref().map_or(
                    0,
                    |Guarding {
                         guard: Pid(guard), ..
                     }| *guard,
                );
                self.log.error(&format_args!(
                    "the guard of {name} (pid {guard}) was killed or stopped; job (pid {job}) killed, lock released"
                ));
            }
            _ => {}
        }
    }
}

fn seconds_since(moment: Moment) -> f64 {
    now().since(moment).as_secs_f64()
}

/// `/app/NAME, held by HOST since 09:12:03 (session 0x…)`, as far as it is known.
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

/// `; 3 ahead of us`, `; next in line`, as far as it is known.
fn turn(ahead: Option<usize>) -> String {
    match ahead {
        None => String::new(),
        Some(0) => "; next in line".into(),
        Some(ahead) => format!("; {ahead} ahead of us"),
    }
}

/// A time of day, with its date unless that is today's.
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

//! The journal of a run: keeps the facts of the run, and writes them to log, terminal and stderr.
//! All sentences about a run are worded here, except the errors of the command line. Sentences of
//! the originals stay word for word, because sites search for them; facts follow as `key=value`, in
//! this order: lock, token, holder, since, session, signal, sender, waited, ran, held, reason.

use super::guard_channel::Report;
use crate::deadlines::Deadlines;
use crate::delivery::Sent;
use crate::fact::fact;
use crate::guard::GuardEvent;
use crate::lock::period::EarlierRun;
use crate::lock::{Event, Holder, Proof, QueuePosition};
use crate::log::{Log, Topic, print};
use crate::moment::Moment;
use crate::plan::{ExitReason, Level, Lock, Plan};
use crate::reason::reason;
use crate::signal::Status;
use crate::supervisor::Origin;
use crate::sys::clock::{self, LocalTime};
use crate::sys::process::Pid;
use crate::sys::tree::{self, Process};
use crate::textfile::Figures;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// The facts of a run and their log.
pub(super) struct Journal<'a> {
    plan: &'a Plan,
    log: Log,
    /// Reads the clock.
    now: fn() -> Moment,
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
    released: Option<Release>,
    guard: Option<Pid>,
    command: Option<Pid>,
}

/// How the lock's release has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Release {
    /// The lock service has nothing left of this run.
    Certain,
    /// The lock may still be held.
    Doubtful,
}

/// When the intervals that the log prints began.
struct Timestamps {
    began: Moment,
    acquired: Option<Moment>,
    lost: Option<Moment>,
    suspended: Moment,
    started: Moment,
    /// The end of the command.
    ended: Option<Moment>,
}

impl<'a> Journal<'a> {
    /// `now` reads the clock.
    pub(super) fn new(plan: &'a Plan, log: Log, now: fn() -> Moment) -> Journal<'a> {
        Journal {
            plan,
            log,
            now,
            times: Timestamps {
                began: now(),
                acquired: None,
                lost: None,
                suspended: Moment::default(),
                started: Moment::default(),
                ended: None,
            },
            proof: None,
            lease: Deadlines::NEVER,
            lost: None,
            gone_why: None,
            gone: false,
            stuck: false,
            released: None,
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
        self.released.is_some()
    }

    fn write(&mut self, level: Level, message: &dyn Display) {
        self.log.write(Topic::Run, level, message);
    }

    fn seconds_since(&self, moment: Moment) -> f64 {
        (self.now)().since(moment).as_secs_f64()
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
                .unwrap_or_else(self.now)
                .since(acquired)
                .as_secs_f64()
        })
    }

    /// The facts of a lost or revoked lock: ` lock=/app/NAME held=62.0s reason="…"`.
    fn end_facts(&self, why: &str) -> String {
        let (lock, reason) = (fact("lock", self.lock_name()), fact("reason", why));
        format!("{lock} held={:.1}s{reason}", self.held())
    }

    /// Logs an event of the lock, and keeps its facts.
    pub(super) fn lock_event(&mut self, event: Event) {
        self.log_lock_event(&event);
        match event {
            Event::Acquired(proof) => self.proof = Some(proof),
            Event::LeaseUntil(lease) => self.lease = lease,
            Event::Lost { why, .. } | Event::Revoked { why } => self.lost = Some(why),
            Event::Gone(why) => self.gone_why = Some(why),
            Event::Released { doubt } => {
                self.released = Some(match doubt {
                    None => Release::Certain,
                    Some(_) => Release::Doubtful,
                });
            }
            Event::ReleasedSilently => self.released = Some(Release::Certain),
            Event::Trying(_)
            | Event::Waiting { .. }
            | Event::Suspended(_)
            | Event::Resumed
            | Event::Note(_)
            | Event::Warn(_)
            | Event::Busy(_)
            | Event::AlreadyRun(_)
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
            Event::Waiting { holder, position } => {
                let waiting = waiting(holder, *position);
                self.write(Level::Info, &waiting);
                if !self.plan.verbose && io::stderr().is_terminal() {
                    print(self.plan.program, &waiting);
                }
            }
            Event::Busy(holder) => {
                self.write(
                    Level::Info,
                    &format_args!("Lock: fail{}", holder_facts(holder)),
                );
            }
            Event::AlreadyRun(last) => self.write(Level::Info, &already_run(last)),
            Event::Acquired(proof) => {
                self.times.acquired = Some((self.now)());
                let waited = self.seconds_since(self.times.began);
                let lock = fact("lock", &proof.lock);
                let token = proof
                    .token
                    .map_or_else(String::new, |token| fact("token", token));
                self.write(
                    Level::Info,
                    &format_args!("Lock: success{lock}{token} waited={waited:.3}s"),
                );
            }
            Event::Suspended(why) => {
                self.times.suspended = (self.now)();
                let left = self.lease.term.since((self.now)()).as_secs_f64();
                let name = self.lock_name();
                self.write(
                    Level::Warning,
                    &format_args!("suspended {name}: {why}; the command is stopped in {left:.1} s unless a server confirms the lock"),
                );
            }
            Event::Resumed => {
                let (name, away) = (self.lock_name(), self.seconds_since(self.times.suspended));
                self.write(
                    Level::Warning,
                    &format_args!("resumed {name} after {away:.1} s"),
                );
            }
            Event::Lost { why, gone, .. } => {
                (self.times.lost, self.gone) = (Some((self.now)()), *gone);
                let facts = self.end_facts(why);
                self.write(Level::Error, &format_args!("Lock lost{facts}"));
            }
            Event::Gone(why) => {
                self.gone = true;
                let name = self.lock_name();
                self.write(Level::Error, &format_args!("cannot keep {name}: {why}"));
            }
            Event::Revoked { why } => {
                let facts = self.end_facts(why);
                self.write(Level::Error, &format_args!("Lock revoked{facts}"));
            }
            Event::Failed(failure) => self.log.error(failure),
            Event::Released { doubt: Some(doubt) } => {
                let name = self.lock_name();
                let message = format_args!("cannot release {name}: {doubt}");
                // Without a lock, the reason was printed on stderr already, and a lost lock has a line
                // of its own.
                if self.proof.is_some() && (self.times.lost.is_none() || self.was_kept()) {
                    self.log.error(&message);
                } else if self.times.lost.is_some() {
                    self.write(Level::Info, &message); // lockex prints warnings on stderr, too
                } else {
                    self.write(Level::Warning, &message);
                }
            }
            Event::Released { doubt: None } | Event::ReleasedSilently
                if self.proof.is_some() && (self.times.lost.is_none() || self.was_kept()) =>
            {
                let (name, held) = (
                    self.lock_name(),
                    self.times
                        .acquired
                        .map_or(0.0, |acquired| self.seconds_since(acquired)),
                );
                let how = match event {
                    Event::ReleasedSilently => " (the server hung up, as ClickHouse Keeper does)",
                    _ => "",
                };
                self.write(
                    Level::Info,
                    &format_args!("released {name} after {held:.1} s{how}"),
                );
            }
            Event::LeaseUntil(_) | Event::Released { doubt: None } | Event::ReleasedSilently => {}
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
                self.times.started = (self.now)();
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
                self.times.ended = Some((self.now)());
                let ran = self.seconds_since(self.times.started);
                let (code, how) = match status {
                    Status::Exited(code) => (i32::from(code), String::new()),
                    Status::Killed(signal) => (-signal.0, fact("signal", signal)),
                };
                self.write(
                    Level::Info,
                    &format_args!("Child exited with code: {code} (PID: {job}){how} ran={ran:.1}s"),
                );
            }
            Report::Guard(GuardEvent::Stuck) => self.stuck(survivors),
            Report::Guard(GuardEvent::TreeGone) => {
                self.write(Level::Info, &"all processes of the command have exited");
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
        self.times.lost.is_some()
            && self.stuck
            && !self.gone
            && self.released != Some(Release::Doubtful)
    }

    /// Logs a signal that this process received.
    pub(super) fn signal(&mut self, Sent { signal, sender }: Sent, origin: Origin) {
        let by = if origin == Origin::Typed {
            fact("sender", "terminal")
        } else {
            fact("sender", sender)
        };
        let word = if signal.ends() {
            "Stop work by"
        } else {
            "Received"
        };
        self.write(Level::Info, &format_args!("{word} {signal}{by}"));
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
                        "command (pid {job}) could not be killed; {name} was kept until it exited"
                    ),
                    true => format!("command (pid {job}) killed"),
                    false => format!(
                        "STILL RUNNING, cannot be killed: {left}; another host can acquire the lock"
                    ),
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
                    "the guard of {name} (pid {guard}) was killed or stopped; command (pid {job}) killed, lock released"
                ));
            }
            _ => {}
        }
    }

    pub(super) fn cannot_poll(&mut self, error: &io::Error) {
        self.write(
            Level::Error,
            &format_args!("cannot wait for events: {}", reason(error)),
        );
    }

    pub(super) fn cannot_start_guard(&mut self, error: &io::Error) {
        self.log
            .error(&format_args!("cannot start the guard: {}", reason(error)));
    }

    /// The figures of the run for `--metrics`, if it has started its command. Times of the day are
    /// computed from how long ago things happened.
    pub(super) fn figures(&self, exit_code: u8) -> Option<Figures> {
        self.command?;
        let (now, started) = ((self.now)(), self.times.started);
        let ended = self.times.ended.unwrap_or(now);
        let unix_now = clock::unix_ms();
        let unix = |moment| {
            let past = i64::try_from(now.since(moment).as_millis()).unwrap_or(i64::MAX);
            unix_now.saturating_sub(past)
        };
        Some(Figures {
            start: unix(started),
            end: unix(ended),
            duration: ended.since(started),
            wait: self.times.acquired?.since(self.times.began),
            exit_code,
            token: self.proof.as_ref()?.token,
        })
    }

    /// The file of `--metrics` could not be written.
    pub(super) fn cannot_record(&mut self, why: &str) {
        self.log.error(&why);
    }

    pub(super) fn cannot_notify(&mut self, error: &io::Error) {
        self.log.warn(&format_args!(
            "cannot send to the service manager at $NOTIFY_SOCKET: {}; the run continues",
            reason(error)
        ));
    }

    pub(super) fn cannot_look_up(&mut self, error: &io::Error) {
        self.log.write(
            Topic::Session,
            Level::Warning,
            &format_args!("cannot look up names: {}", reason(error)),
        );
    }
}

/// `waiting for /app/NAME, held by HOST since …; queue position 2 of 3`
pub(super) fn waiting(holder: &Holder, position: Option<QueuePosition>) -> String {
    format!("waiting for {}{}", shown(holder), queued(position))
}

fn names(survivors: &[Process]) -> String {
    let names: Vec<String> = survivors
        .iter()
        .map(|left| format!("{} (pid {})", tree::name(left.pid), left.pid.0))
        .collect();
    names.join(", ")
}

/// `/app/NAME, held by HOST since 2026-11-21T09:12:03+00:00 (session 0x…)`, without the parts that
/// are unknown.
fn shown(holder: &Holder) -> String {
    let host = holder
        .host
        .as_ref()
        .map_or_else(String::new, |host| format!(", held by {host}"));
    let since = holder
        .since
        .map_or_else(String::new, |ms| format!(" since {}", time(ms)));
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

/// ` lock=/app/NAME holder=HOST since=2026-11-21T09:12:03+00:00 session=0x…`, without the parts that
/// are unknown.
fn holder_facts(holder: &Holder) -> String {
    let Holder {
        lock,
        host,
        since,
        session,
    } = holder;
    let facts = [
        Some(fact("lock", lock)),
        host.as_ref().map(|host| fact("holder", host)),
        since.map(|ms| fact("since", time(ms))),
        session.map(|session| fact("session", format_args!("0x{session:x}"))),
    ];
    facts.into_iter().flatten().collect()
}

/// `already run at 2026-11-21T09:12:03+00:00 by HOST lock=/app/NAME`, without a host that is
/// unknown.
fn already_run(last: &EarlierRun) -> String {
    let host = last.host.as_ref();
    let by = host.map_or_else(String::new, |host| format!(" by {host}"));
    let (at, lock) = (time(last.started), fact("lock", &last.lock));
    format!("already run at {at}{by}{lock}")
}

/// `; queue position 2 of 3`, or nothing if that is unknown.
fn queued(position: Option<QueuePosition>) -> String {
    position.map_or_else(String::new, |QueuePosition { position, waiters }| {
        format!("; queue position {position} of {waiters}")
    })
}

/// A time in ms since 1970, as ISO 8601 in the host's time zone.
fn time(unix_ms: i64) -> LocalTime {
    clock::local_time(unix_ms.div_euclid(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_is_shown_without_the_parts_that_are_unknown() {
        let unknown = Holder {
            lock: "/app/x".into(),
            host: None,
            since: None,
            session: None,
        };
        let known = Holder {
            host: Some("web3".into()),
            since: Some(1_700_000_000_999),
            session: Some(0x66),
            ..unknown.clone()
        };
        let since = clock::local_time(1_700_000_000);
        assert_eq!(shown(&unknown), "/app/x");
        assert_eq!(holder_facts(&unknown), " lock=/app/x");
        assert_eq!(
            shown(&known),
            format!("/app/x, held by web3 since {since} (session 0x66)")
        );
        assert_eq!(
            holder_facts(&known),
            format!(" lock=/app/x holder=web3 since={since} session=0x66")
        );
    }

    #[test]
    fn queue_position_counts_from_one_and_has_the_total() {
        let position = QueuePosition {
            position: 2,
            waiters: 3,
        };
        assert_eq!(queued(Some(position)), "; queue position 2 of 3");
        assert_eq!(queued(None), "");
    }
}

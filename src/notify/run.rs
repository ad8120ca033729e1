//! What a run reports to its service manager: a function of its events.

use super::Notice;
use crate::deadlines::Deadlines;
use crate::moment::Moment;
use crate::signal::{Signal, Status};
use std::fmt::Write;

/// An event of a run that changes what is reported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fact {
    /// Another holds the lock, and the run waits: the sentence about it.
    Waiting(String),
    /// The run holds the lock of this name.
    Acquired {
        /// What is locked.
        lock: String,
        /// The fencing token.
        token: Option<i64>,
    },
    /// The lock was proved until then.
    LeaseUntil(Deadlines),
    /// The lock cannot be proved at the moment: why.
    Suspended(String),
    /// It was proved again.
    Resumed,
    /// The lock is lost: why.
    Lost(String),
    /// An operator has revoked the lock: why.
    Revoked(String),
    /// The command runs.
    Started,
    /// The command has ended.
    Ended(Status),
    /// The run received this signal.
    Signalled(Signal),
    /// The command is being stopped.
    StopOrdered,
    /// The command has ended or was never started, and the lock is being released.
    Releasing,
}

/// How far a run has come, as its service manager sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Phase {
    /// The command was not started.
    Waiting,
    /// The command runs.
    Running,
    /// It has ended, the minimum hold has not.
    Holding,
    /// The command was told to end.
    Stopping,
    /// The lock is being released.
    Releasing,
}

/// The reports of a run.
#[derive(Debug)]
pub struct Reports {
    ready_when_waiting: bool,
    ready: bool,
    phase: Phase,
    /// `/app/report, token 2975`
    lock: String,
    lease: Deadlines,
    /// The signal that was received last, if it stops the run.
    signal: Option<Signal>,
}

impl Reports {
    /// A run that reports its readiness when it waits, or when its command has started.
    pub fn new(ready_when_waiting: bool) -> Reports {
        Reports {
            ready_when_waiting,
            ready: false,
            phase: Phase::Waiting,
            lock: String::new(),
            lease: Deadlines::NEVER,
            signal: None,
        }
    }

    /// What is to be reported after an event.
    pub fn hear(&mut self, fact: Fact, now: Moment) -> Notice {
        match fact {
            Fact::Waiting(sentence) => self.report(sentence, self.ready_when_waiting),
            Fact::Acquired { lock, token } => {
                self.lock = lock;
                if let Some(token) = token {
                    let _ = write!(self.lock, ", token {token}");
                }
                self.holding(false)
            }
            Fact::LeaseUntil(lease) => {
                self.lease = lease;
                Notice::default()
            }
            Fact::Started => {
                self.enter(Phase::Running);
                self.holding(true)
            }
            Fact::Suspended(why) if self.phase < Phase::Stopping => {
                let left = self.lease.term.since(now).as_secs_f64();
                let text = format!("suspended, lease valid for {left:.1} s: {why}");
                self.report(text, false)
            }
            Fact::Resumed if self.phase < Phase::Stopping => self.holding(false),
            Fact::Lost(why) => self.stop(format!("lost {}: {why}", self.lock)),
            Fact::Revoked(why) => self.stop(format!("revoked {}: {why}", self.lock)),
            Fact::Signalled(signal) => {
                self.signal = signal.ends().then_some(signal).or(self.signal);
                Notice::default()
            }
            Fact::StopOrdered if self.phase < Phase::Stopping => {
                let why = self
                    .signal
                    .map_or_else(String::new, |signal| format!("received {signal}: "));
                self.stop(format!("{why}stopping the command"))
            }
            Fact::Ended(status) if self.phase < Phase::Stopping => {
                self.enter(Phase::Holding);
                let how = match status {
                    Status::Exited(code) => format!("exited with code {code}"),
                    Status::Killed(signal) => format!("was killed by {signal}"),
                };
                let lock = &self.lock;
                let text = format!("the command {how}; holding {lock} until the minimum hold ends");
                self.report(text, false)
            }
            Fact::Releasing => {
                let text = if self.lock.is_empty() {
                    "ending without the lock".into()
                } else {
                    format!("releasing {}", self.lock)
                };
                self.enter(Phase::Releasing);
                stopping(text)
            }
            Fact::Suspended(_) | Fact::Resumed | Fact::StopOrdered | Fact::Ended(_) => {
                Notice::default()
            } // late news
        }
    }

    /// Whether the run does what it is there for. While a command runs, that needs a valid lease.
    pub fn is_alive(&self, now: Moment) -> bool {
        let runs = matches!(self.phase, Phase::Running | Phase::Stopping);
        !runs || now < self.lease.term
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = self.phase.max(phase);
    }

    fn holding(&mut self, ready: bool) -> Notice {
        self.report(format!("holding {}", self.lock), ready)
    }

    fn stop(&mut self, text: String) -> Notice {
        self.enter(Phase::Stopping);
        stopping(text)
    }

    /// A change of the state; readiness is reported once.
    fn report(&mut self, text: String, ready: bool) -> Notice {
        let first = ready && !self.ready;
        self.ready |= ready;
        Notice {
            ready: first,
            ..Notice::status(text)
        }
    }
}

fn stopping(text: String) -> Notice {
    Notice {
        stopping: true,
        ..Notice::status(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_millis(milliseconds))
    }

    fn acquired() -> Fact {
        Fact::Acquired {
            lock: "/app/report".into(),
            token: Some(2975),
        }
    }

    fn lease(until: u64) -> Fact {
        Fact::LeaseUntil(Deadlines {
            term: at(until),
            kill: at(until + 1000),
        })
    }

    /// The reports after each of these facts, as `ready`, `stopping` and the status.
    fn reports(ready_when_waiting: bool, facts: impl IntoIterator<Item = Fact>) -> Vec<String> {
        let mut reports = Reports::new(ready_when_waiting);
        let notices = facts.into_iter().map(|fact| reports.hear(fact, at(0)));
        let shown = notices.map(|notice| {
            let words = [("ready ", notice.ready), ("stopping ", notice.stopping)];
            let words = words.map(|(word, is)| if is { word } else { "" }).concat();
            words + &notice.status.unwrap_or_default()
        });
        shown.filter(|line| !line.is_empty()).collect()
    }

    const WAITING: &str = "waiting for /app/report, held by web3; queue position 2 of 2";
    const HOLDING: &str = "holding /app/report, token 2975";

    #[test]
    fn each_event_has_its_report() {
        use Fact::*;
        let sentence = || Waiting(WAITING.into());
        let over = "the command exited with code 0; holding /app/report, token 2975 until the minimum hold ends";
        let releasing = "stopping releasing /app/report, token 2975";
        for (facts, expected) in [
            (
                vec![sentence(), acquired(), lease(9000), Started],
                vec![WAITING, HOLDING, "ready holding /app/report, token 2975"],
            ),
            (
                vec![acquired(), Started, Ended(Status::Exited(0)), Releasing],
                vec![
                    HOLDING,
                    "ready holding /app/report, token 2975",
                    over,
                    releasing,
                ],
            ),
            (
                vec![
                    acquired(),
                    lease(6100),
                    Started,
                    Suspended("no answer".into()),
                    Resumed,
                ],
                vec![
                    HOLDING,
                    "ready holding /app/report, token 2975",
                    "suspended, lease valid for 6.1 s: no answer",
                    HOLDING,
                ],
            ),
            (
                vec![
                    acquired(),
                    Started,
                    Lost("expired".into()),
                    StopOrdered,
                    Resumed,
                    Releasing,
                ],
                vec![
                    HOLDING,
                    "ready holding /app/report, token 2975",
                    "stopping lost /app/report, token 2975: expired",
                    releasing,
                ],
            ),
            (
                vec![acquired(), Started, Revoked("by web1".into()), StopOrdered],
                vec![
                    HOLDING,
                    "ready holding /app/report, token 2975",
                    "stopping revoked /app/report, token 2975: by web1",
                ],
            ),
            (
                vec![
                    acquired(),
                    Started,
                    Signalled(Signal::TERM),
                    StopOrdered,
                    Suspended("no answer".into()),
                    Ended(Status::Killed(Signal::TERM)),
                    Releasing,
                ],
                vec![
                    HOLDING,
                    "ready holding /app/report, token 2975",
                    "stopping received SIGTERM: stopping the command",
                    releasing,
                ],
            ),
            (
                vec![sentence(), Signalled(Signal::TERM), Releasing],
                vec![WAITING, "stopping ending without the lock"],
            ),
            (
                vec![Signalled(Signal::USR1), Signalled(Signal::CONT)],
                vec![],
            ),
        ] {
            assert_eq!(reports(false, facts.clone()), expected, "{facts:?}");
        }
    }

    #[test]
    fn readiness_is_reported_once_when_waiting_if_so_asked() {
        use Fact::*;
        let sentence = || Waiting("waiting".into());
        assert_eq!(
            reports(true, [sentence(), sentence(), acquired(), Started]),
            ["ready waiting", "waiting", HOLDING, HOLDING]
        );
        assert_eq!(
            reports(true, [acquired(), Started]),
            [HOLDING, "ready holding /app/report, token 2975"],
            "the lock was free"
        );
    }

    #[test]
    fn run_is_alive_while_it_waits_holds_or_has_a_lease_for_its_command() {
        use Fact::*;
        let mut reports = Reports::new(false);
        let after = |reports: &mut Reports, fact, time| {
            reports.hear(fact, at(time));
            reports.is_alive(at(time))
        };
        assert!(after(&mut reports, Waiting("waiting".into()), 99_000));
        assert!(after(&mut reports, acquired(), 100_000));
        assert!(after(&mut reports, lease(109_000), 100_000));
        assert!(after(&mut reports, Started, 108_999));
        assert!(!after(&mut reports, Resumed, 109_000), "the lease is over");
        assert!(after(&mut reports, lease(119_000), 109_000));
        assert!(after(&mut reports, Ended(Status::Exited(0)), 130_000));
        assert!(!after(&mut reports, StopOrdered, 130_000));
        assert!(after(&mut reports, Releasing, 130_000));
    }
}

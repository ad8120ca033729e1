//! Whether a run with `--every` is due. A lock service keeps one record of the last run of each
//! lock; a run that holds the lock compares the start in it with the moment at which it asked for
//! the lock itself. Pure: both moments are from the clock of the service, and no host's clock
//! takes part where the hosts share a service.

use crate::plan::Every;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Longest record that is parsed. A host name has up to 253 characters, and the numbers up to 20.
const MAX_RECORD: usize = 1024;

/// How the start in a record relates to the moment at which a run asked for the lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Comparison {
    /// The start came after that moment, by the order of the service, which no clock can change.
    pub started_after: bool,
    /// By how many ms it came before that moment, by the clock of the service. Below zero without
    /// `started_after`: the clock was set back in between.
    pub started_ms_before: i64,
    /// The run ended otherwise than with exit code 0, or has recorded no end although the lock that
    /// it held is free.
    pub failed: bool,
}

/// Whether a run is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is.
    Due,
    /// It is, as far as can be known: the clock was set back by so many ms at least, further than a
    /// record may be ahead.
    DueAfterClockChange(i64),
    /// Another run has taken its turn.
    Taken,
}

/// Decides whether a run is due, which `last` compares with the last one.
///
/// A start takes the turn of every run that asked for the lock before it, and of those that ask
/// less than half a period later. With runs that ask at the same time of each period, give or take
/// less than half of it, each period has one run.
pub fn judge(every: Every, last: Comparison) -> Verdict {
    let before = last.started_ms_before;
    let twice = u128::from(before.unsigned_abs()) * 2;
    if last.failed && every.retry_failed {
        Verdict::Due
    } else if last.started_after || twice < every.period.as_millis() {
        Verdict::Taken
    } else if before < 0 {
        Verdict::DueAfterClockChange(before.saturating_neg())
    } else {
        Verdict::Due
    }
}

/// The warning of a run that is due after a change of a clock, by so many ms at least.
pub fn clock_was_set_back(whose: &str, back: i64, lock: &str) -> String {
    let seconds = Duration::from_millis(back.unsigned_abs()).as_secs_f64();
    format!(
        "the clock of {whose} was set back by at least {seconds:.1} s since the last run of {lock}, so --every cannot tell whether this run is due: running the command"
    )
}

/// What a run writes about itself: at its start, and once more at its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunRecord {
    /// Its host.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// Its fencing token.
    pub token: i64,
    /// Its exit code; `None`: it has not ended, or could not record its end.
    pub exit: Option<u8>,
}

impl RunRecord {
    /// As JSON, so that operators can read it.
    pub fn fields(&self) -> Map<String, Value> {
        let fields = json!({ "host": self.host, "pid": self.pid, "token": self.token });
        let mut fields = fields.as_object().cloned().unwrap_or_default();
        if let Some(code) = self.exit {
            fields.insert("exit".into(), code.into());
        }
        fields
    }

    /// The text of these fields.
    pub fn text(&self) -> String {
        Value::Object(self.fields()).to_string()
    }

    /// `None`: another program wrote this.
    pub fn parse(text: &[u8]) -> Option<RunRecord> {
        if text.len() > MAX_RECORD {
            return None;
        }
        RunRecord::of(&serde_json::from_slice(text).ok()?)
    }

    /// The record that has these fields, and perhaps others.
    pub fn of(fields: &Value) -> Option<RunRecord> {
        let exit = match fields.get("exit") {
            None => None,
            Some(code) => Some(u8::try_from(code.as_u64()?).ok()?),
        };
        Some(RunRecord {
            host: fields.get("host")?.as_str()?.to_owned(),
            pid: u32::try_from(fields.get("pid")?.as_u64()?).ok()?,
            token: fields.get("token")?.as_i64()?,
            exit,
        })
    }

    /// Whether the run did not end well. Call this only while holding the lock: the run is over.
    pub fn has_failed(&self) -> bool {
        self.exit != Some(0)
    }
}

/// The run that has taken the turn, for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EarlierRun {
    /// The lock.
    pub lock: String,
    /// When it started, in ms of real time.
    pub started: i64,
    /// Its host, if the record says.
    pub host: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::*;
    use proptest::prelude::*;

    const MINUTE: i64 = 60_000;

    fn every(minutes: u64, retry_failed: bool) -> Every {
        Every {
            period: Duration::from_mins(minutes),
            retry_failed,
        }
    }

    fn compared(started_after: bool, started_ms_before: i64) -> Comparison {
        Comparison {
            started_after,
            started_ms_before,
            failed: false,
        }
    }

    #[test]
    fn a_start_takes_the_turns_of_half_a_period_and_of_all_that_asked_before() {
        for (started_after, before, verdict, why) in [
            (false, 10 * MINUTE, Due, "the run of the turn before"),
            (false, 5 * MINUTE, Due, "half a period ago"),
            (false, 5 * MINUTE - 1, Taken, "less than half a period ago"),
            (false, 8_000, Taken, "by a host whose clock is 8 s ahead"),
            (false, 0, Taken, "in the same millisecond"),
            (true, 0, Taken, "in the same millisecond, and it was second"),
            (true, -7 * MINUTE, Taken, "while this run waited"),
            (true, -70 * MINUTE, Taken, "while this run waited for long"),
            (
                true,
                10 * MINUTE,
                Taken,
                "after it, by a clock that was set back",
            ),
            (false, -5 * MINUTE + 1, Taken, "a clock set back a little"),
            (
                false,
                -5 * MINUTE,
                DueAfterClockChange(5 * MINUTE),
                "a clock set back by half a period",
            ),
            (
                false,
                -600 * MINUTE,
                DueAfterClockChange(600 * MINUTE),
                "a record from the future",
            ),
            (false, i64::MAX, Due, "a record from the year 0"),
            (
                false,
                i64::MIN,
                DueAfterClockChange(i64::MAX),
                "a record from the end of time",
            ),
        ] {
            let found = judge(every(10, false), compared(started_after, before));
            assert_eq!(found, verdict, "{why}");
        }
    }

    #[test]
    fn the_period_of_this_run_counts_and_not_that_of_the_last() {
        let last = compared(false, 10 * MINUTE);
        assert_eq!(judge(every(10, false), last), Due);
        assert_eq!(judge(every(60, false), last), Taken);
        assert_eq!(judge(every(1, false), last), Due);
    }

    #[test]
    fn a_run_that_failed_counts_unless_it_is_to_be_repeated() {
        for (exit, failed) in [
            (Some(0), false),
            (Some(1), true),
            (Some(137), true),
            (None, true),
        ] {
            let record = RunRecord { exit, ..record() };
            assert_eq!(record.has_failed(), failed, "{exit:?}");
        }
        for (failed, retry_failed, verdict) in [
            (false, false, Taken),
            (false, true, Taken),
            (true, false, Taken),
            (true, true, Due),
        ] {
            for started_after in [false, true] {
                let last = Comparison {
                    failed,
                    ..compared(started_after, 1)
                };
                assert_eq!(judge(every(10, retry_failed), last), verdict);
            }
        }
    }

    fn record() -> RunRecord {
        RunRecord {
            host: "web\"1".into(),
            pid: 4711,
            token: 33,
            exit: None,
        }
    }

    #[test]
    fn a_record_is_read_back_and_other_text_is_none() {
        for exit in [None, Some(0), Some(255)] {
            let written = RunRecord { exit, ..record() };
            assert_eq!(RunRecord::parse(written.text().as_bytes()), Some(written));
        }
        for garbage in [
            "",
            "Rootnode",
            "{}",
            "[1]",
            "\u{0}",
            "{\"host\":\"a\",\"pid\":1}",
            "{\"host\":\"a\",\"pid\":-1,\"token\":1}",
            "{\"host\":\"a\",\"pid\":1,\"token\":1,\"exit\":256}",
            "{\"host\":\"a\",\"pid\":1,\"token\":1,\"exit\":null}",
            "{\"host\":7,\"pid\":1,\"token\":1}",
        ] {
            assert_eq!(RunRecord::parse(garbage.as_bytes()), None, "{garbage}");
        }
        let long = format!(
            "{{\"host\":\"{}\",\"pid\":1,\"token\":1}}",
            "a".repeat(2000)
        );
        assert_eq!(RunRecord::parse(long.as_bytes()), None);
    }

    /// Cron on some hosts: turns one period apart, and on each host an offset of its clock and of its
    /// start. The first to ask takes the lock; the job may be longer than the period.
    fn runs(period: i64, offsets: &[i64], job: i64, wait: bool, turns: i64) -> Vec<i64> {
        let mut asked: Vec<(i64, i64)> = (0..turns)
            .flat_map(|turn| {
                offsets
                    .iter()
                    .map(move |offset| (turn * period + offset, turn))
            })
            .collect();
        asked.sort_unstable();
        let (mut ran, mut free, mut last) = (vec![0; turns.try_into().unwrap()], i64::MIN, None);
        for (at, turn) in asked {
            if at < free && !wait {
                continue; // busy
            }
            let acquired = at.max(free);
            let due = last.is_none_or(|start: i64| {
                let last = compared(start > at, at - start);
                let every = Every {
                    period: Duration::from_millis(period.unsigned_abs()),
                    retry_failed: false,
                };
                judge(every, last) == Due
            });
            if due {
                (last, free) = (Some(acquired), acquired + job);
                ran[usize::try_from(turn).unwrap()] += 1;
            } else {
                free = acquired;
            }
        }
        ran
    }

    #[test]
    fn a_slow_run_takes_the_turns_of_those_that_waited_for_it() {
        // Judged by the acquisition in place of the request, these were 24 runs.
        let ran = runs(10 * MINUTE, &[0, 1, 2, 3], 7 * MINUTE, true, 6);
        assert_eq!(ran, [1; 6]);
    }

    proptest! {
        #[test]
        fn each_turn_has_one_run(
            offsets in prop::collection::vec(0_i64..30_000, 1..6),
            job in 1_i64..30_000,
            wait in any::<bool>(),
        ) {
            // Offsets below half a period, and a job that ends before the next turn.
            prop_assert_eq!(runs(MINUTE, &offsets, job, wait, 20), vec![1; 20]);
        }

        #[test]
        fn no_turn_has_two_runs_however_long_the_job_is(
            offsets in prop::collection::vec(0_i64..30_000, 1..6),
            job in 1_i64..600_000,
            wait in any::<bool>(),
        ) {
            let ran = runs(MINUTE, &offsets, job, wait, 20);
            prop_assert!(ran.iter().all(|&runs| runs <= 1), "{:?}", ran);
        }

        #[test]
        fn any_numbers_have_a_verdict(after in any::<bool>(), before in any::<i64>(), period in any::<u64>()) {
            let every = Every { period: Duration::from_millis(period), retry_failed: false };
            judge(every, compared(after, before));
        }
    }
}

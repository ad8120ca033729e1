//! The record of the last run of a lock of one host (`--every`), which stands in the lock's file.
//! Within one boot of the host, moments are compared by the clock that runs from the boot on, which
//! cannot be set; otherwise by the wall clock.

use crate::lock::period::{Comparison, RunRecord};
use crate::moment::Moment;
use crate::plan::Every;
use serde_json::{Map, Value};
use std::time::Duration;

/// What a run needs to decide by the record, and to write its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorder {
    /// The period.
    pub every: Every,
    /// The name of this host.
    pub host: String,
    /// The id of this process.
    pub pid: u32,
    /// The id of this boot of the host; `None`: unknown.
    pub boot: Option<String>,
    /// When this run asked for the lock.
    pub asked: Moment,
    /// The same by the wall clock, in ms of real time.
    pub asked_at: i64,
}

/// The record in a lock file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileRecord {
    /// Who ran, and how it ended.
    pub run: RunRecord,
    /// The boot in which it started.
    boot: Option<String>,
    /// When it started, in ms since that boot.
    since_boot: i64,
    /// When it started, in ms of real time.
    pub started: i64,
    /// When it ended, in ms of real time.
    pub ended: Option<i64>,
}

impl Recorder {
    /// The record of a run that starts now.
    pub fn start(&self, token: i64, now: Moment) -> FileRecord {
        FileRecord {
            run: RunRecord {
                host: self.host.clone(),
                pid: self.pid,
                token,
                exit: None,
            },
            boot: self.boot.clone(),
            since_boot: milliseconds(now.0),
            started: self.wall(now),
            ended: None,
        }
    }

    /// The same after its end.
    pub fn end(&self, started: &FileRecord, exit: u8, now: Moment) -> FileRecord {
        let run = RunRecord {
            exit: Some(exit),
            ..started.run.clone()
        };
        FileRecord {
            run,
            ended: Some(self.wall(now)),
            ..started.clone()
        }
    }

    /// How the start in a record relates to the moment at which this run asked. A record that is
    /// later than now is of a clock that was set back since, or of another program.
    pub fn compare(&self, last: &FileRecord, now: Moment) -> Comparison {
        let boots = self.boot.as_ref().zip(last.boot.as_ref());
        let (asked, started, now) = if boots.is_some_and(|(own, other)| own == other) {
            let [asked, now] = [self.asked, now].map(|moment| milliseconds(moment.0));
            (asked, last.since_boot, now)
        } else {
            (self.asked_at, last.started, self.wall(now))
        };
        let may_be_one_boot = boots.is_none_or(|(own, other)| own == other);
        Comparison {
            started_after: may_be_one_boot && asked < started && started <= now,
            started_ms_before: asked.saturating_sub(started),
            failed: last.run.has_failed(),
        }
    }

    /// This moment by the wall clock, as it was when this run asked.
    fn wall(&self, now: Moment) -> i64 {
        let since = now.since(self.asked);
        self.asked_at.saturating_add(milliseconds(since))
    }
}

impl FileRecord {
    /// As one line of JSON.
    pub fn text(&self) -> String {
        let mut fields = self.run.fields();
        let mut put = |name: &str, value: Value| drop(fields.insert(name.into(), value));
        if let Some(boot) = &self.boot {
            put("boot", boot.as_str().into());
        }
        put("since_boot", self.since_boot.into());
        put("started", self.started.into());
        if let Some(ended) = self.ended {
            put("ended", ended.into());
        }
        Value::Object(fields).to_string()
    }

    /// `None`: no run has written this.
    pub fn parse(text: &[u8]) -> Option<FileRecord> {
        let fields: Map<String, Value> = serde_json::from_slice(text).ok()?;
        let number = |name: &str| fields.get(name)?.as_i64();
        let boot = fields.get("boot").and_then(Value::as_str);
        Some(FileRecord {
            boot: boot.map(str::to_owned),
            since_boot: number("since_boot")?,
            started: number("started")?,
            ended: number("ended"),
            run: RunRecord::of(&Value::Object(fields))?,
        })
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_millis(milliseconds))
    }

    fn recorder(boot: Option<&str>, asked: u64, asked_at: i64) -> Recorder {
        Recorder {
            every: Every {
                period: Duration::from_mins(10),
                retry_failed: false,
            },
            host: "web\n1".into(),
            pid: 7,
            boot: boot.map(Into::into),
            asked: at(asked),
            asked_at,
        }
    }

    #[test]
    fn a_record_is_one_line_and_read_back() {
        let recorder = recorder(Some("b1"), 1_000, 1_700_000_000_000);
        let started = recorder.start(33, at(1_500));
        let ended = recorder.end(&started, 3, at(61_500));
        assert_eq!(started.started, 1_700_000_000_500);
        assert_eq!(ended.ended, Some(1_700_000_060_500));
        for record in [started, ended] {
            let text = record.text();
            assert!(!text.contains('\n'), "{text}");
            assert_eq!(FileRecord::parse(text.as_bytes()), Some(record));
        }
        for garbage in ["", "{", "{}", "[]", "{\"since_boot\":1,\"started\":2}"] {
            assert_eq!(FileRecord::parse(garbage.as_bytes()), None, "{garbage}");
        }
    }

    #[test]
    fn within_a_boot_the_wall_clock_takes_no_part() {
        let last = recorder(Some("b1"), 0, 0).start(1, at(5_000));
        for (boot, asked, asked_at, after, before) in [
            (Some("b1"), 6_000, -1_000_000, false, 1_000),
            (Some("b1"), 6_000, 1_000_000, false, 1_000),
            (Some("b1"), 5_000, 0, false, 0),
            (Some("b1"), 4_999, 0, true, -1),
            (Some("b2"), 100, 8_000, false, 3_000),
            (Some("b2"), 100, 4_000, false, -1_000), // the wall clock was set back
            (None, 100, 8_000, false, 3_000),
            (None, 100, 4_000, true, -1_000), // perhaps it waited while the other ran
        ] {
            let found = recorder(boot, asked, asked_at).compare(&last, at(7_000));
            let found = (found.started_after, found.started_ms_before);
            assert_eq!(found, (after, before), "{boot:?} {asked} {asked_at}");
        }
        let unknown = recorder(None, 0, 0).start(1, at(5_000));
        let found = recorder(None, 1, 9_000).compare(&unknown, at(7_000));
        assert_eq!(
            found.started_ms_before, 4_000,
            "two boots without ids are not one"
        );
    }

    #[test]
    fn a_record_from_the_future_did_not_start_while_this_run_waited() {
        for boot in [Some("b1"), None] {
            for (started, after) in [(5_000, true), (9_000, true), (9_001, false)] {
                let last = recorder(boot, 0, 0).start(1, at(started));
                let found = recorder(boot, 1_000, 1_000).compare(&last, at(9_000));
                assert_eq!(found.started_after, after, "{boot:?} {started}");
            }
        }
    }
}

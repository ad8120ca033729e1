//! The report as one JSON document, the same for all programs. Values that are not known are null.

use super::{Holder, LastRun, Lock, Report, Waiter};
use crate::printable::escaped;
use serde_json::{Value, json};

/// The document. `now`: ms of real time. `time` formats such a time as RFC 3339.
pub fn json(report: &Report, now: i64, time: fn(i64) -> String) -> String {
    let clock = Clock { now, time };
    let locks: Vec<_> = report.locks.iter().map(|lock| clock.lock(lock)).collect();
    escaped(json!({ "locks": locks }).to_string()) + "\n"
}

struct Clock {
    now: i64,
    time: fn(i64) -> String,
}

impl Clock {
    fn lock(&self, lock: &Lock) -> Value {
        let holders = lock.holders.as_ref();
        json!({
            "name": lock.name,
            "path": lock.path,
            "kind": lock.kind.map(super::Kind::name),
            "slots": lock.slots,
            "holders": holders.map(|all| all.iter().map(|it| self.holder(it)).collect::<Vec<_>>()),
            "waiters": lock.waiters.iter().map(|it| self.waiter(it)).collect::<Vec<_>>(),
            "last_run": lock.last_run.as_ref().map(|it| self.last_run(it)),
        })
    }

    fn last_run(&self, run: &LastRun) -> Value {
        let ran = run.started.zip(run.ended);
        json!({
            "host": run.host,
            "pid": run.pid,
            "token": run.token,
            "started": run.started.map(self.time),
            "age_s": run.started.map(|started| self.seconds_since(started)),
            "ended": run.ended.map(self.time),
            "ran_s": ran.map(|(started, ended)| seconds(ended.saturating_sub(started).max(0))),
            "exit_code": run.exit,
        })
    }

    fn holder(&self, holder: &Holder) -> Value {
        json!({
            "host": holder.host,
            "pid": holder.pid,
            "since": holder.since.map(self.time),
            "held_s": holder.since.map(|since| self.seconds_since(since)),
            "token": holder.token,
            "session": holder.session,
            "expires_s": holder.expires.map(seconds),
        })
    }

    fn waiter(&self, waiter: &Waiter) -> Value {
        json!({
            "host": waiter.host,
            "pid": waiter.pid,
            "since": waiter.since.map(self.time),
            "waiting_s": waiter.since.map(|since| self.seconds_since(since)),
            "position": waiter.position,
        })
    }

    /// Clocks differ: what began in the future has just begun.
    fn seconds_since(&self, since: i64) -> f64 {
        seconds(self.now.saturating_sub(since).max(0))
    }
}

/// Whole milliseconds, as seconds.
#[allow(clippy::cast_precision_loss, reason = "2^53 ms are 285,000 years")]
fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    #[test]
    fn the_document_has_the_schema_of_the_manual() {
        let report = Report {
            locks: vec![Lock {
                name: "report".into(),
                path: "/ops/report".into(),
                kind: Some(Kind::Node),
                slots: Some(1),
                holders: Some(vec![Holder {
                    host: Some("web\"3".into()),
                    pid: Some(4711),
                    since: Some(1_500),
                    token: Some(2975),
                    session: Some("0x10".into()),
                    ..Holder::default()
                }]),
                waiters: vec![Waiter {
                    host: Some("web4".into()),
                    pid: None,
                    since: Some(9_000),
                    session: Some("0x11".into()),
                    position: 1,
                }],
                last_run: Some(LastRun {
                    host: Some("web5".into()),
                    pid: Some(7),
                    token: Some(33),
                    started: Some(1_000),
                    ended: Some(3_500),
                    exit: Some(1),
                }),
            }],
            warnings: vec![],
        };
        let text = json(&report, 4_000, |ms| format!("T{ms}"));
        let found: Value = serde_json::from_str(&text).unwrap();
        let expected = json!({ "locks": [{
            "name": "report", "path": "/ops/report", "kind": "zk-flock", "slots": 1,
            "holders": [{
                "host": "web\"3", "pid": 4711, "since": "T1500", "held_s": 2.5, "token": 2975,
                "session": "0x10", "expires_s": null,
            }],
            "waiters": [
                { "host": "web4", "pid": null, "since": "T9000", "waiting_s": 0.0, "position": 1 },
            ],
            "last_run": {
                "host": "web5", "pid": 7, "token": 33, "started": "T1000", "age_s": 3.0,
                "ended": "T3500", "ran_s": 2.5, "exit_code": 1,
            },
        }] });
        assert_eq!(found, expected);
        assert!(text.ends_with("}\n") && text.lines().count() == 1);
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_printed_as_it_is() {
        let name = "\u{1}\u{7f}\u{9b}2J\u{202e}\u{2028}é\"";
        let lock = Lock {
            name: name.into(),
            path: String::new(),
            kind: None,
            slots: None,
            holders: None,
            waiters: vec![],
            last_run: None,
        };
        let report = Report {
            locks: vec![lock],
            warnings: vec![],
        };
        let text = json(&report, 0, |_| String::new());
        assert!(
            text.contains(r#""\u0001\u007f\u009b2J\u202e\u2028é\"""#),
            "{text}"
        );
        let found: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found["locks"][0]["name"], name);
    }

    #[test]
    fn holders_that_cannot_be_read_are_null_and_none_is_an_empty_list() {
        let lock = |holders| Lock {
            name: "a".into(),
            path: "/run/a".into(),
            kind: None,
            slots: None,
            holders,
            waiters: vec![],
            last_run: None,
        };
        let report = Report {
            locks: vec![lock(None), lock(Some(vec![]))],
            warnings: vec![],
        };
        let found: Value = serde_json::from_str(&json(&report, 0, |_| String::new())).unwrap();
        assert_eq!(found["locks"][0]["holders"], Value::Null);
        assert_eq!(found["locks"][1]["holders"], json!([]));
        assert_eq!(found["locks"][1]["last_run"], Value::Null);
    }
}

//! The pools as `/status/` shows them: JSON, times in seconds. Written without a tree of values,
//! because there may be thousands of waiters.

use super::{Holder, Remaining, Report, Waiter};
use crate::printable::escaped;
use serde_json::Value;
use std::time::Duration;

/// The version of the document. A new member needs no other one; a member of another name or meaning
/// does.
const VERSION: u8 = 1;

/// The text of `/status/`.
pub fn text(pools: &[Report]) -> String {
    let pools = list(pools, pool);
    format!("{{\"version\":{VERSION},\"pools\":[{pools}]}}\n")
}

fn pool(report: &Report) -> String {
    let Report {
        pool,
        permits,
        expire,
        age,
        holders,
        waiters,
        ..
    } = report;
    let (name, expire, holders, waiters) = (
        quoted(pool),
        seconds(*expire),
        list(holders, holder),
        list(waiters, waiter),
    );
    let age = age.map_or(String::new(), |age| {
        format!(",\"age\":{}", seconds(Some(age)))
    });
    format!(
        "\n{{\"name\":{name},\"maxlocks\":{permits},\"expire\":{expire}{age},\"holders\":[{holders}],\"waiters\":[{waiters}]}}"
    )
}

/// Unknown values are `null`, except for the end of a lease: there `null` means until released, so
/// an unknown end is left out.
fn holder(
    Holder {
        host,
        run,
        token,
        held,
        ends,
        revoked,
    }: &Holder,
) -> String {
    let (host, run, token) = (
        quoted(host),
        run_field(*run),
        token.map_or("null".into(), |token| token.to_string()),
    );
    let expires = match *ends {
        Remaining::For(left) => format!(",\"expires\":{}", seconds(Some(left))),
        Remaining::UntilReleased => ",\"expires\":null".into(),
        Remaining::Unknown => String::new(),
    };
    format!(
        "\n{{\"host\":{host}{run},\"token\":{token},\"held\":{}{expires},\"revoked\":{revoked}}}",
        seconds(*held)
    )
}

fn waiter(Waiter { host, run, waited }: &Waiter) -> String {
    format!(
        "\n{{\"host\":{}{},\"waiting\":{}}}",
        quoted(host),
        run_field(*run),
        seconds(Some(*waited))
    )
}

fn run_field(run: Option<&str>) -> String {
    run.map_or(String::new(), |run| format!(",\"run\":{}", quoted(run)))
}

fn list<T>(items: &[T], text: fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(",")
}

fn quoted(text: &str) -> String {
    escaped(Value::from(text).to_string())
}

/// `null`: without end.
fn seconds(time: Option<Duration>) -> String {
    time.map_or("null".into(), |time| format!("{:.3}", time.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::super::PoolCounters;
    use super::*;
    use crate::printable::is_unprintable;
    use serde_json::json;

    #[test]
    fn status_is_valid_json_for_any_names() {
        let holders = vec![
            Holder {
                host: "h".into(),
                run: Some("1.a"),
                token: Some(7),
                held: Some(Duration::from_millis(1500)),
                ends: Remaining::For(Duration::from_millis(58_500)),
                revoked: true,
            },
            Holder {
                host: "a \"quoted\\ замок\u{202e}".into(),
                run: None,
                token: None,
                held: None,
                ends: Remaining::UntilReleased,
                revoked: false,
            },
            Holder {
                host: "u".into(),
                run: None,
                token: None,
                held: None,
                ends: Remaining::Unknown,
                revoked: false,
            },
        ];
        let waiters = vec![Waiter {
            host: "w".into(),
            run: Some("r"),
            waited: Duration::from_micros(1_000_400),
        }];
        let age = Some(Duration::from_millis(250));
        let busy = Report {
            pool: "a",
            permits: 2,
            expire: Some(Duration::from_mins(1)),
            age,
            holders,
            waiters,
            counters: PoolCounters::default(),
        };
        let idle = Report {
            pool: "b",
            permits: 1,
            expire: None,
            age: None,
            holders: vec![],
            waiters: vec![],
            counters: PoolCounters::default(),
        };
        let expected = json!({ "version": 1, "pools": [
            {
                "name": "a", "maxlocks": 2, "expire": 60.0, "age": 0.25,
                "holders": [
                    { "host": "h", "run": "1.a", "token": 7, "held": 1.5, "expires": 58.5, "revoked": true },
                    { "host": "a \"quoted\\ замок\u{202e}", "token": null, "held": null, "expires": null, "revoked": false },
                    { "host": "u", "token": null, "held": null, "revoked": false },
                ],
                "waiters": [{ "host": "w", "run": "r", "waiting": 1.0 }],
            },
            { "name": "b", "maxlocks": 1, "expire": null, "holders": [], "waiters": [] },
        ] });
        let document = text(&[busy, idle]);
        assert_eq!(serde_json::from_str::<Value>(&document).unwrap(), expected);
        let mut lines = document.lines();
        assert!(
            !lines.any(|line| line.contains(is_unprintable)),
            "{document}"
        );
        assert_eq!(text(&[]), "{\"version\":1,\"pools\":[]}\n");
    }
}

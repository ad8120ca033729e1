//! What the pools are like as `/status/` shows it: JSON, times in seconds. Written straight into the text, since thousands may wait.

use super::{Holder, Report, Waiter};
use serde_json::Value;
use std::time::Duration;

/// The text.
pub fn text(pools: &[Report]) -> String {
    format!("{{\"pools\":[{}]}}\n", list(pools, pool))
}

fn pool(report: &Report) -> String {
    let Report { pool, permits, expire, holders, waiters, .. } = report;
    let (name, expire, holders, waiters) = (quoted(pool), seconds(*expire), list(holders, holder), list(waiters, waiter));
    format!("\n{{\"name\":{name},\"maxlocks\":{permits},\"expire\":{expire},\"holders\":[{holders}],\"waiters\":[{waiters}]}}")
}

fn holder(&Holder { host, token, held, expires }: &Holder) -> String {
    let (host, token) = (quoted(host), token.map_or("null".into(), |token| token.to_string()));
    let (held, expires) = (seconds(Some(held)), seconds(expires));
    format!("\n{{\"host\":{host},\"token\":{token},\"held\":{held},\"expires\":{expires}}}")
}

fn waiter(&Waiter { host, waited }: &Waiter) -> String {
    format!("\n{{\"host\":{},\"waiting\":{}}}", quoted(host), seconds(Some(waited)))
}

fn list<T>(items: &[T], text: fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(",")
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// `null`: without end.
fn seconds(time: Option<Duration>) -> String {
    time.map_or("null".into(), |time| format!("{:.3}", time.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::super::Counts;
    use super::*;
    use serde_json::json;

    #[test]
    fn the_status_is_json_whatever_the_names_are() {
        let holders = vec![
            Holder { host: "h", token: Some(7), held: Duration::from_millis(1500), expires: Some(Duration::from_millis(58_500)) },
            Holder { host: "a \"quoted\\ замок", token: None, held: Duration::ZERO, expires: None },
        ];
        let waiters = vec![Waiter { host: "w", waited: Duration::from_micros(1_000_400) }];
        let busy = Report { pool: "a", permits: 2, expire: Some(Duration::from_mins(1)), holders, waiters, counts: Counts::default() };
        let idle = Report { pool: "b", permits: 1, expire: None, holders: vec![], waiters: vec![], counts: Counts::default() };
        let expected = json!({ "pools": [
            {
                "name": "a", "maxlocks": 2, "expire": 60.0,
                "holders": [
                    { "host": "h", "token": 7, "held": 1.5, "expires": 58.5 },
                    { "host": "a \"quoted\\ замок", "token": null, "held": 0.0, "expires": null },
                ],
                "waiters": [{ "host": "w", "waiting": 1.0 }],
            },
            { "name": "b", "maxlocks": 1, "expire": null, "holders": [], "waiters": [] },
        ] });
        assert_eq!(serde_json::from_str::<Value>(&text(&[busy, idle])).unwrap(), expected);
        assert_eq!(text(&[]), "{\"pools\":[]}\n");
    }
}

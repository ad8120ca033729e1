//! The pools and the server as Prometheus reads them: its text format, version 0.0.4.

use self::Kind::{Counter, Gauge};
use self::Value::{Count, Time};
use super::Report;
use crate::moment::Moment;
use std::fmt::{self, Write};
use std::time::Duration;

/// The content type of this text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The type of a metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It only grows, from the server's start.
    Counter,
    /// It can grow and shrink.
    Gauge,
}

/// The value of a metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    /// A number of things.
    Count(u64),
    /// A length of time, shown in seconds.
    Time(Duration),
}

/// A metric of the whole server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// In Prometheus' form: `distributexd_…`, ending in its unit or in `_total`.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// One sentence for operators.
    pub help: &'static str,
    /// Its present value.
    pub value: Value,
}

/// A metric that each pool has: its name after `distributexd_`, type, help, and its value in a
/// report.
type PoolMetric = (
    &'static str,
    Kind,
    &'static str,
    fn(&Report, Times) -> Option<Value>,
);

/// The same moment on two clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// The clock of this program.
    pub now: Moment,
    /// The time since 1970.
    pub unix: Duration,
}

const POOL_METRICS: [PoolMetric; 12] = [
    (
        "permits",
        Gauge,
        "Number of hosts that may hold the pool at the same time.",
        |pool, _| Some(Count(pool.permits.into())),
    ),
    (
        "holders",
        Gauge,
        "Number of hosts that hold the pool.",
        |pool, _| Some(count(pool.holders.len())),
    ),
    (
        "waiters",
        Gauge,
        "Number of requests that wait for the pool.",
        |pool, _| Some(count(pool.waiters.len())),
    ),
    (
        "oldest_waiter_seconds",
        Gauge,
        "Seconds that the first waiter has waited; 0 without waiters.",
        |pool, _| Some(oldest(pool)),
    ),
    (
        "oldest_holder_seconds",
        Gauge,
        "Seconds for which the longest holder has held the pool; 0 without holders.",
        |pool, _| {
            let held = pool.holders.iter().filter_map(|holder| holder.held).max();
            Some(Time(held.unwrap_or_default()))
        },
    ),
    (
        "last_grant_timestamp_seconds",
        Gauge,
        "When the pool was last granted; missing if that was before the server started.",
        |pool, times| {
            let granted = pool.counters.last_granted?;
            Some(Time(times.unix.saturating_sub(times.now.since(granted))))
        },
    ),
    ("grants_total", Counter, "Locks granted.", |pool, _| {
        Some(Count(pool.counters.granted))
    }),
    (
        "releases_total",
        Counter,
        "Locks released by their holder.",
        |pool, _| Some(Count(pool.counters.released)),
    ),
    (
        "expiries_total",
        Counter,
        "Locks whose lease ended before they were released or renewed.",
        |pool, _| Some(Count(pool.counters.expired)),
    ),
    (
        "refusals_total",
        Counter,
        "Requests answered NO.",
        |pool, _| Some(Count(pool.counters.refused)),
    ),
    (
        "invalid_total",
        Counter,
        "Requests for the pool answered INVALID.",
        |pool, _| Some(Count(pool.counters.invalid)),
    ),
    (
        "undelivered_total",
        Counter,
        "Grants that could not be delivered.",
        |pool, _| Some(Count(pool.counters.undelivered)),
    ),
];

fn oldest(pool: &Report) -> Value {
    let first = pool.waiters.first();
    Time(first.map_or(Duration::ZERO, |waiter| waiter.waited))
}

fn count(items: usize) -> Value {
    Count(u64::try_from(items).unwrap_or(u64::MAX))
}

/// The version, as a label.
const BUILD_INFO: &str = concat!(
    "# HELP distributexd_build_info 1, with the version of the server as a label.\n",
    "# TYPE distributexd_build_info gauge\n",
    "distributexd_build_info{version=\"",
    env!("CARGO_PKG_VERSION"),
    "\"} 1\n"
);

/// The text of `/metrics`; without pools if they are unknown.
pub fn text(server: &[Metric], pools: Option<&[Report]>, times: Times) -> String {
    let mut text = String::new();
    text += BUILD_INFO;
    for Metric {
        name,
        kind,
        help,
        value,
    } in server
    {
        let _ = writeln!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        );
    }
    for (name, kind, help, value) in POOL_METRICS.into_iter().filter(|_| pools.is_some()) {
        let _ = writeln!(
            text,
            "# HELP distributexd_{name} {help}\n# TYPE distributexd_{name} {kind}"
        );
        for report in pools.unwrap_or_default() {
            if let Some(value) = value(report, times) {
                let pool = Label(report.pool);
                let _ = writeln!(text, "distributexd_{name}{{pool=\"{pool}\"}} {value}");
            }
        }
    }
    text
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Counter => "counter",
            Gauge => "gauge",
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Count(count) => write!(f, "{count}"),
            Time(time) => write!(f, "{}", time.as_secs_f64()),
        }
    }
}

/// A label value, in which three characters are escaped.
struct Label<'a>(&'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' | '"' => write!(f, "\\{c}"),
            '\n' => f.write_str("\\n"),
            _ => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Holder, PoolCounters, Remaining, Waiter};
    use super::*;

    #[test]
    fn each_metric_has_help_type_and_one_line_a_pool() {
        let holders = vec![Holder {
            host: "h",
            run: None,
            token: Some(1),
            held: Some(Duration::from_secs(8)),
            ends: Remaining::UntilReleased,
            revoked: false,
        }];
        let waiters = [3500, 2]
            .map(|waited| Waiter {
                host: "w",
                run: None,
                waited: Duration::from_millis(waited),
            })
            .to_vec();
        let counters = PoolCounters {
            granted: 1,
            released: 2,
            expired: 3,
            refused: 4,
            invalid: 5,
            undelivered: 6,
            last_granted: Some(Moment(Duration::from_secs(90))),
        };
        let busy = Report {
            pool: "a",
            permits: 1,
            expire: None,
            age: None,
            holders,
            waiters,
            counters,
        };
        let idle = Report {
            pool: r#"q"\"#,
            permits: 3,
            expire: None,
            age: None,
            holders: vec![],
            waiters: vec![],
            counters: PoolCounters::default(),
        };
        let uptime = Value::Time(Duration::from_millis(1250));
        let server = Metric {
            name: "process_uptime_seconds",
            kind: Kind::Gauge,
            help: "Since the start.",
            value: uptime,
        };
        let times = Times {
            now: Moment(Duration::from_secs(100)),
            unix: Duration::from_secs(1_700_000_010),
        };
        assert_eq!(
            text(&[server], None, times).matches("# TYPE ").count(),
            2,
            "nothing is known of pools"
        );
        let text = text(&[server], Some(&[busy, idle]), times);
        assert!(text.starts_with("# HELP distributexd_build_info "));
        assert!(text.contains(
            "# HELP process_uptime_seconds Since the start.\n# TYPE process_uptime_seconds gauge\nprocess_uptime_seconds 1.25\n"
        ));
        assert!(text.contains(
            "\n# HELP distributexd_permits Number of hosts that may hold the pool at the same time.\n# TYPE distributexd_permits gauge\n\
             distributexd_permits{pool=\"a\"} 1\ndistributexd_permits{pool=\"q\\\"\\\\\"} 3\n# HELP "
        ));
        let of_a: Vec<_> = text
            .lines()
            .filter(|line| line.contains("{pool=\"a\"}"))
            .map(|line| line.split(' ').next_back().unwrap())
            .collect();
        let grant = "1700000000";
        assert_eq!(
            of_a,
            [
                "1", "1", "2", "3.5", "8", grant, "1", "2", "3", "4", "5", "6"
            ]
        );
        let counters = text
            .lines()
            .filter(|line| line.starts_with("# TYPE") && line.ends_with("_total counter"))
            .count();
        assert!(
            !text.contains("last_grant_timestamp_seconds{pool=\"q"),
            "{text}"
        );
        assert_eq!((counters, text.matches("# TYPE ").count()), (6, 14));
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(Label("a\\b\"c\nd").to_string(), r#"a\\b\"c\nd"#);
    }
}

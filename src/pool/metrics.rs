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
    fn(&Report, WallClock) -> Option<Value>,
);

/// How far the wall clock may be from what this program takes it for.
const MAX_CLOCK_ERROR: Duration = Duration::from_secs(1);

/// The time of day of moments. It follows the wall clock in steps, so that a moment has the same
/// time of day in all scrapes, unless the clock is set.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct WallClock {
    /// The time since 1970 when the clock of this program began.
    origin: Duration,
}

impl WallClock {
    /// Compares the clocks: `unix` is the time since 1970.
    pub fn compare(&mut self, now: Moment, unix: Duration) {
        let origin = unix.saturating_sub(now.0);
        if origin.abs_diff(self.origin) > MAX_CLOCK_ERROR {
            self.origin = origin;
        }
    }

    fn unix(self, moment: Moment) -> Duration {
        self.origin + moment.0
    }
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
        "Seconds for which the longest holder has held the pool; 0 without holders, missing if unknown.",
        |pool, _| longest(pool),
    ),
    (
        "last_grant_timestamp_seconds",
        Gauge,
        "When the pool was last granted; missing if that was before the server started.",
        |pool, clock| Some(Time(clock.unix(pool.counters.last_granted?))),
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

/// `None` if there are holders, but none whose time is known: a Python server does not store it.
fn longest(pool: &Report) -> Option<Value> {
    let known = pool.holders.iter().filter_map(|holder| holder.held).max();
    match known {
        None if !pool.holders.is_empty() => None,
        held => Some(Time(held.unwrap_or_default())),
    }
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
pub fn text(server: &[Metric], pools: Option<&[Report]>, clock: WallClock) -> String {
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
            if let Some(value) = value(report, clock) {
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
            host: "h".into(),
            run: None,
            token: Some(1),
            held: Some(Duration::from_secs(8)),
            ends: Remaining::UntilReleased,
            revoked: false,
        }];
        let waiters = [3500, 2]
            .map(|waited| Waiter {
                host: "w".into(),
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
        let mut clock = WallClock::default();
        let now = Moment(Duration::from_secs(100));
        clock.compare(now, Duration::from_secs(1_700_000_010));
        assert_eq!(
            text(&[server], None, clock).matches("# TYPE ").count(),
            2,
            "nothing is known of pools"
        );
        let text = text(&[server], Some(&[busy, idle]), clock);
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
    fn time_of_a_grant_is_the_same_in_all_scrapes_unless_the_clock_is_set() {
        let at = |ms| Moment(Duration::from_millis(ms));
        let mut clock = WallClock::default();
        clock.compare(at(5000), Duration::from_secs(1_700_000_005));
        let granted = Duration::from_secs(1_700_000_001);
        for late in [0, 1, 999] {
            clock.compare(at(9000), Duration::from_millis(1_700_000_009_000 + late));
            assert_eq!(clock.unix(at(1000)), granted);
        }
        clock.compare(at(9000), Duration::from_secs(1_700_003_609));
        assert_eq!(clock.unix(at(1000)), granted + Duration::from_hours(1));
    }

    #[test]
    fn holder_that_holds_for_an_unknown_time_is_not_said_to_hold_for_0_seconds() {
        let holder = |held| Holder {
            host: "h".into(),
            run: None,
            token: None,
            held,
            ends: Remaining::Unknown,
            revoked: false,
        };
        let second = Some(Duration::from_secs(1));
        for (holders, expected) in [
            (vec![], Some(Duration::ZERO)),
            (vec![holder(None)], None),
            (vec![holder(None), holder(second)], second),
        ] {
            let pool = Report {
                pool: "a",
                permits: 2,
                expire: None,
                age: None,
                holders,
                waiters: vec![],
                counters: PoolCounters::default(),
            };
            assert_eq!(longest(&pool), expected.map(Time));
        }
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(Label("a\\b\"c\nd").to_string(), r#"a\\b\"c\nd"#);
    }
}

//! How often what happened to the server as a whole, for whoever watches it.

use crate::moment::Moment;
use crate::pool::metrics::Kind::{self, Counter, Gauge};
use crate::pool::metrics::{Metric, Value};

/// Since it began.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub(super) struct Counts {
    pub(super) began: Moment,
    pub(super) connections: u64,
    pub(super) turned_away: u64,
    pub(super) requests: u64,
    pub(super) saves: u64,
    pub(super) failed_saves: u64,
}

impl Counts {
    pub(super) fn new(now: Moment) -> Counts {
        Counts {
            began: now,
            connections: 0,
            turned_away: 0,
            requests: 0,
            saves: 0,
            failed_saves: 0,
        }
    }

    /// As metrics, when so many connections are open and the backend knows its pools, or does not.
    pub(super) fn metrics(&self, open: usize, backend_is_up: bool, now: Moment) -> [Metric; 8] {
        let count = |name, kind: Kind, help, count| Metric {
            name,
            kind,
            help,
            value: Value::Count(count),
        };
        let uptime = Value::Time(now.since(self.began));
        [
            Metric {
                name: "distributexd_uptime_seconds",
                kind: Gauge,
                help: "How long the server has run.",
                value: uptime,
            },
            count(
                "distributexd_backend_up",
                Gauge,
                "1 if it is known who holds the pools, otherwise 0.",
                backend_is_up.into(),
            ),
            count(
                "distributexd_connections",
                Gauge,
                "Connections that are open.",
                u64::try_from(open).unwrap_or(u64::MAX),
            ),
            count(
                "distributexd_connections_total",
                Counter,
                "Connections that came in.",
                self.connections,
            ),
            count(
                "distributexd_turned_away_total",
                Counter,
                "Connections for which there was no room.",
                self.turned_away,
            ),
            count(
                "distributexd_requests_total",
                Counter,
                "Requests that were understood as HTTP.",
                self.requests,
            ),
            count(
                "distributexd_saves_total",
                Counter,
                "States that were saved.",
                self.saves,
            ),
            count(
                "distributexd_failed_saves_total",
                Counter,
                "States that could not be saved.",
                self.failed_saves,
            ),
        ]
    }
}

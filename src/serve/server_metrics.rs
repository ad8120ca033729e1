//! Counters of the server as a whole, for `/metrics`.

use crate::moment::Moment;
use crate::pool::metrics::Kind::{self, Counter, Gauge};
use crate::pool::metrics::Metric;
use crate::pool::metrics::Value::{self, Count, Time};

/// The counters since the server started.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub(super) struct ServerMetrics {
    pub(super) started: Moment,
    pub(super) connections: u64,
    pub(super) rejected: u64,
    pub(super) requests: u64,
    pub(super) saves: u64,
    pub(super) failed_saves: u64,
    pub(super) denied: u64,
}

impl ServerMetrics {
    pub(super) fn new(now: Moment) -> ServerMetrics {
        ServerMetrics {
            started: now,
            connections: 0,
            rejected: 0,
            requests: 0,
            saves: 0,
            failed_saves: 0,
            denied: 0,
        }
    }

    /// The metrics, while `open` connections are open. `backend_is_up`: the backend knows the
    /// holders of its pools.
    pub(super) fn metrics(&self, open: usize, backend_is_up: bool, now: Moment) -> Vec<Metric> {
        let uptime = now.since(self.started);
        let open = u64::try_from(open).unwrap_or(u64::MAX);
        vec![
            metric(
                "distributexd_uptime_seconds",
                Gauge,
                "Seconds since the server started.",
                Time(uptime),
            ),
            metric(
                "distributexd_backend_up",
                Gauge,
                "1 if the backend knows the holders of the pools, otherwise 0.",
                Count(backend_is_up.into()),
            ),
            metric(
                "distributexd_connections",
                Gauge,
                "Number of open connections.",
                Count(open),
            ),
            metric(
                "distributexd_connections_total",
                Counter,
                "Connections accepted.",
                Count(self.connections),
            ),
            metric(
                "distributexd_turned_away_total",
                Counter,
                "Connections rejected or closed because the connection limit was reached.",
                Count(self.rejected),
            ),
            metric(
                "distributexd_requests_total",
                Counter,
                "Valid HTTP requests.",
                Count(self.requests),
            ),
            metric(
                "distributexd_saves_total",
                Counter,
                "Writes of the state that succeeded.",
                Count(self.saves),
            ),
            metric(
                "distributexd_failed_saves_total",
                Counter,
                "Writes of the state that failed.",
                Count(self.failed_saves),
            ),
            metric(
                "distributexd_denied_total",
                Counter,
                "Requests that the config does not allow to their clients.",
                Count(self.denied),
            ),
        ]
    }
}

fn metric(name: &'static str, kind: Kind, help: &'static str, value: Value) -> Metric {
    Metric {
        name,
        kind,
        help,
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prometheus sees an increase only from a first value.
    #[test]
    fn counter_of_denied_requests_is_there_before_the_first() {
        let metrics = ServerMetrics::new(Moment::default()).metrics(1, true, Moment::default());
        let mut values = metrics.iter().map(|metric| (metric.name, metric.value));
        assert!(values.any(|it| it == ("distributexd_denied_total", Count(0))));
    }
}

//! What happens in a pool: each event is counted and logged in one call. Shared by all backends, so
//! that the log and the metrics say the same of each.

use super::PoolCounters;
use super::invalid_request::{self, InvalidRequest};
use super::waiters::Run;
use crate::fact::fact;
use crate::moment::Moment;
use crate::plan::Level;
use std::rc::Rc;
use std::time::Duration;

/// Where a backend queues lines for the log.
pub(super) trait Log {
    /// Queues one.
    fn note(&mut self, level: Level, note: String);
}

/// The events of one pool.
#[derive(Debug)]
pub(super) struct Events {
    pool: Rc<str>,
    counters: PoolCounters,
}

impl Events {
    pub(super) fn new(pool: Rc<str>) -> Events {
        Events {
            pool,
            counters: PoolCounters::default(),
        }
    }

    pub(super) fn counters(&self) -> PoolCounters {
        self.counters
    }

    /// A host was told of a new holding. `run` is logged if it is given.
    pub(super) fn granted(
        &mut self,
        host: &str,
        token: i64,
        run: Option<&Run>,
        waited: Duration,
        log: &mut impl Log,
        now: Moment,
    ) {
        self.counters.granted += 1;
        self.counters.last_granted = Some(now);
        let holding = self.holding(host, token);
        let run = run.map_or(String::new(), |run| fact("run", run));
        let waited = waited.as_secs_f64();
        log.note(
            Level::Info,
            format!("granted{holding}{run} waited={waited:.1}s"),
        );
    }

    /// A holder's lease was extended.
    pub(super) fn renewed(&self, host: &str, token: i64, log: &mut impl Log) {
        log.note(
            Level::Debug,
            format!("renewed{}", self.holding(host, token)),
        );
    }

    /// A host released its holding. `holding` is its token and how long it was held, if the backend
    /// knows.
    pub(super) fn released(
        &mut self,
        host: &str,
        holding: Option<(i64, Duration)>,
        log: &mut impl Log,
    ) {
        self.counters.released += 1;
        let facts = match holding {
            Some((token, held)) => {
                let held = held.as_secs_f64();
                format!("{} held={held:.1}s", self.holding(host, token))
            }
            None => self.pool_and_host(host),
        };
        log.note(Level::Info, format!("released{facts}"));
    }

    /// A holding ended without a release.
    pub(super) fn expired(&mut self, host: &str, token: i64, why: &str, log: &mut impl Log) {
        self.counters.expired += 1;
        let (holding, why) = (self.holding(host, token), fact("reason", why));
        log.note(Level::Warning, format!("expired{holding}{why}"));
    }

    /// A holding is not confirmed any more.
    pub(super) fn revoked(&self, host: &str, token: i64, log: &mut impl Log) {
        log.note(
            Level::Warning,
            format!("revoked{}", self.holding(host, token)),
        );
    }

    /// A host was told NO.
    pub(super) fn refused(&mut self) {
        self.counters.refused += 1;
    }

    /// A host made a request that it may not make.
    pub(super) fn invalid(&mut self, host: &str, why: InvalidRequest, log: &mut impl Log) {
        self.counters.invalid += 1;
        log.note(
            Level::Info,
            invalid_request::log_line(&self.pool, host, why),
        );
    }

    /// The pool was removed from the config while a host waited. The removal itself is logged.
    pub(super) fn waiter_dropped(&mut self) {
        self.counters.invalid += 1;
    }

    /// A YES did not reach its host.
    pub(super) fn undelivered(&mut self) {
        self.counters.undelivered += 1;
    }

    /// None of the YES about a holding reached its host, so the slot is free again.
    pub(super) fn taken_back(&self, host: &str, token: i64, log: &mut impl Log) {
        let holding = self.holding(host, token);
        let why = fact("reason", "the answer could not be delivered");
        log.note(Level::Warning, format!("taken back{holding}{why}"));
    }

    /// ` pool=POOL host=HOST token=N`, with which each line about a holding begins. After them come
    /// run, waited, held and reason, in this order.
    fn holding(&self, host: &str, token: i64) -> String {
        self.pool_and_host(host) + &fact("token", token)
    }

    fn pool_and_host(&self, host: &str) -> String {
        fact("pool", &self.pool) + &fact("host", host)
    }
}

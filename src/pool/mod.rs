//! The contract between the pools of a lock server and its loop. A backend knows the holders and
//! waiters of each pool, and the times of each. It is a sans-I/O state machine: it takes inputs
//! with the time of each, and returns outputs. The loop calls `poll` until it returns `Wait`, then
//! sleeps until that moment or the next event. It hands in all events that are there before it
//! polls, so that one save covers all of them.

pub mod access;
mod effects;
mod events;
pub mod invalid_request;
pub mod lease;
pub mod memcached;
pub mod memory;
pub mod metrics;
pub mod page;
mod pools;
mod reply_delivery;
pub mod state;
pub mod status;
mod waiters;
pub mod zookeeper;

use crate::endpoint::Endpoint;
use crate::moment::Moment;
use crate::plan::{self, Level};
use crate::transport;
use invalid_request::InvalidRequest;
use state::State;
use std::borrow::Cow;
use std::time::Duration;

/// Identifies a request that is not answered yet. The loop numbers requests in the order in which
/// they arrive, so the ticket is also a queue position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(pub u64);

/// What a host, or an operator for a host, requests of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// Acquire the pool if a slot is free now.
    Get,
    /// Acquire the pool as soon as a slot is free.
    Wait,
    /// Extend the lease of the holding to the full expiry from now. If the host does not hold the
    /// pool, acquire it, but only with a token: the server may have forgotten that holding.
    Renew {
        /// The token of the holding that the host knows of.
        token: Option<i64>,
    },
    /// Release the holding.
    Release {
        /// Release only the holding with this token; `None`: any holding of the run, or of the
        /// host if no run is given.
        token: Option<i64>,
    },
    /// Do not confirm the host's holding again, whichever run it belongs to. Answered by
    /// `Revocation`, `NotHeld`, `OtherToken`, `Invalid` or `Unavailable`.
    Revoke {
        /// Revoke only the holding with this token; `None`: any holding of the host.
        token: Option<i64>,
    },
}

impl Call {
    /// Whether a holder may make this call even if it may not acquire the pool.
    pub fn keeps(self) -> bool {
        matches!(
            self,
            Call::Renew { .. } | Call::Release { .. } | Call::Revoke { .. }
        )
    }
}

/// A request to a pool. Names are as the peer wrote them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Request<'a> {
    pub ticket: Ticket,
    pub call: Call,
    pub pool: &'a str,
    pub host: &'a str,
    /// The run of the host that makes the request; checked by [`invalid_request::check_run`].
    /// `None`: the client has no run id (the Python client, curl). `Revoke` has none.
    pub run: Option<&'a str>,
    /// The tokens of the holdings under which the client was started. Only `Wait` has any.
    pub outer: &'a [i64],
}

/// The answer to a request. Each request gets one, unless it is cancelled before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The host holds the pool.
    Yes(Grant),
    /// The host does not hold the pool.
    No,
    /// NO to the holder itself: its holding is revoked and is not confirmed again.
    NoRevoked,
    /// NO to a client that was started under the holdings that it waits for. They are released
    /// only after the client has ended, so the wait would not end.
    NoOuter,
    /// The host does not hold the pool any more.
    Ok,
    /// OK to a release, which has named a holding that the host does not have.
    NotReleased(NotReleased),
    /// The holding is revoked, and that is saved.
    Revocation {
        /// The token of the revoked holding, if it is known.
        token: Option<i64>,
        /// When the holding ends if its holder never releases it.
        ends: Remaining,
    },
    /// Nothing is revoked: the host does not hold the pool.
    NotHeld,
    /// Nothing is revoked: the holding of the host does not have the token of the request.
    OtherToken,
    /// The request is not valid for any pool, or not for this pool and host.
    Invalid(InvalidRequest),
    /// The holders cannot be read or saved: the reason.
    Unavailable(String),
}

/// Why a release with a token or a run id has released nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotReleased {
    /// The host does not hold the pool.
    NotHeld,
    /// The holding of the host has another token.
    WrongToken,
    /// The holding of the host belongs to another run, or to the host itself.
    OtherRun,
}

impl NotReleased {
    /// Why a release with this token, or with a run id only, does not fit the holding of its host,
    /// given the token of that.
    fn of(token: Option<i64>, held: Option<i64>) -> NotReleased {
        match held {
            None => NotReleased::NotHeld,
            Some(_) if token.is_none() || token == held => NotReleased::OtherRun,
            Some(_) => NotReleased::WrongToken,
        }
    }

    /// The reason in two words, for the header of a reply.
    pub fn short(self) -> &'static str {
        match self {
            NotReleased::NotHeld => "not held",
            NotReleased::WrongToken => "wrong token",
            NotReleased::OtherRun => "other run",
        }
    }
}

/// A holding, as it is reported to its host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Larger than every earlier token of the pool: a fencing token.
    pub token: i64,
    /// The lease that the host may rely on from now: shorter than the lease that the server keeps,
    /// and at least [`lease::MIN_CLIENT_LEASE`]; see [`lease::for_client`]. `None`: until it is
    /// released.
    pub expires: Option<Duration>,
}

/// How much of a holding is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remaining {
    /// This long, unless it is renewed or released.
    For(Duration),
    /// It lasts until it is released.
    UntilReleased,
    /// This server does not know.
    Unknown,
}

/// An event for the pools.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input<'a> {
    /// A client makes a request.
    Request(Request<'a>),
    /// A client requests the status or metrics of all pools. Answered soon, by `Output::Report`
    /// when `report` is up to date, or by `Answer::Unavailable`.
    ReportRequested(Ticket),
    /// The client of this request has hung up. An answer that was decided before may still be
    /// returned, but never a YES.
    Cancelled(Ticket),
    /// A YES could not be delivered.
    Undelivered {
        /// The pool that was granted.
        pool: &'a str,
        /// The host that it was granted to.
        host: &'a str,
        /// The token in the answer.
        token: i64,
    },
    /// The state is saved.
    Saved,
    /// The state is not saved, or may not be: the reason.
    NotSaved(String),
    /// An event of the connection to the server that keeps the holders.
    Transport(transport::Event<'a>),
    /// Time has passed.
    Tick,
}

/// Where a backend connects to. `None`: to the server of the config, at whichever of its addresses
/// answers.
pub type Target = Option<transport::Address>;

/// An order to the loop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Answer this request.
    Answer(Ticket, Answer),
    /// Answer this `ReportRequested` with `report`, before the next input.
    Report(Ticket),
    /// Replace the saved state by this one, completely or not at all, then hand in `Saved` or
    /// `NotSaved`.
    Save(State),
    /// An order for the connection to the server that keeps the holders.
    Transport(transport::Output<Target>),
    /// Write a line to the log.
    Note(Level, String),
    /// Do nothing before this moment, unless an event happens.
    Wait(Moment),
}

/// A backend: it keeps the holders of all pools.
///
/// # Promises
///
/// distributexd(8), PROMISES, states them for users. Each backend keeps them, and the same model
/// checks each backend (`tests/distributex/promises.rs`). A client *was told* something when `poll`
/// returned its answer. The promises outlast a reload, a restart (`inmemory`: with `state`), and any
/// other server of this program on the same memcached or ensemble, whatever its config:
///
/// 1. *Exclusion.* A holding counts against `maxlocks` of its pool until the lease that its client
///    was told ends, or until it is released. No other holding is granted beyond that number.
/// 2. *Leases.* A lease ends no earlier than its client was told. The server keeps it longer than
///    that ([`lease::for_client`]). A lease that is too short for a client is not granted
///    ([`lease::MIN_CLIENT_LEASE`]).
/// 3. *Until released* stays until released, whatever `expire` becomes. If `expire` becomes 0, the
///    next YES says so.
/// 4. *Runs.* A holding that was acquired with a run id belongs to that run of that host, otherwise
///    to the host. At most one run of a host holds a pool. Requests of other runs, or without a run
///    id, are then those of another client: they get NO or wait, even if a slot is free.
/// 5. *Tokens.* Each holding has a larger token than every earlier holding of its pool. A release
///    with a token or a run id does not end any other holding.
/// 6. *Revoked* holdings are not confirmed again: requests of their holders get `NoRevoked`. They
///    end when they are released or when their lease ends.
/// 7. *Pools removed* from the config keep their holders until their leases end. Holdings that last
///    until they are released are kept for [`lease::REMOVED_POOL_GRACE`] (in ZooKeeper: without
///    limit), or until the pool is in the config again. Nothing else is granted in them.
pub trait Backend {
    /// Takes an event.
    fn handle(&mut self, input: Input, now: Moment);

    /// The next order. After `Wait` there is no other until the next input.
    fn poll(&mut self, now: Moment) -> Output;

    /// Replaces the pools by those of a config that was read again.
    fn reconfigure(&mut self, pools: Vec<plan::Pool>, now: Moment);

    /// Replaces the addresses of its servers, whose names were looked up again.
    fn relist(&mut self, _servers: Vec<Endpoint>, _now: Moment) {}

    /// The name in the config of the pool that a request means by this name, if that is another.
    fn config_name(&self, _asked: &str) -> Option<String> {
        None
    }

    /// Whether a server that stops may end, once no client is connected: a write that is on its way
    /// could grant a holding that no client knows of, and such holdings are to be taken back. After
    /// `close`: whether that is done.
    fn is_settled(&self) -> bool {
        true
    }

    /// The server ends: no request follows. What it has begun ends with it.
    fn close(&mut self, _now: Moment) {}

    /// Why it can grant no lock at the moment; `None`: as far as it knows, it can.
    fn failure(&self) -> Option<String>;

    /// The pools, by name. What a backend does not know is `Unknown` or `None`; what may be out of
    /// date has an age.
    fn report(&self, now: Moment) -> Vec<Report<'_>>;
}

/// The state of a pool at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report<'a> {
    /// The name of the pool.
    pub pool: &'a str,
    /// How many hosts may hold it at once; 0 if it is not in the config any more, but still held.
    pub permits: u32,
    /// How long a grant lasts; `None`: until it is released.
    pub expire: Option<Duration>,
    /// How old the information about the holders is; `None`: it is current.
    pub age: Option<Duration>,
    /// By name.
    pub holders: Vec<Holder<'a>>,
    /// In FIFO order.
    pub waiters: Vec<Waiter<'a>>,
    /// Events since the server started.
    pub counters: PoolCounters,
}

/// A holder of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder<'a> {
    /// Its name, as requests have it.
    pub host: Cow<'a, str>,
    /// The run that holds the pool; `None`: the host itself.
    pub run: Option<&'a str>,
    /// The token of the holding, if known.
    pub token: Option<i64>,
    /// For how long it has held the pool, if known.
    pub held: Option<Duration>,
    /// What is left of the lease that the server keeps.
    pub ends: Remaining,
    /// The holding is not confirmed again.
    pub revoked: bool,
}

/// A waiter for a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiter<'a> {
    /// Its name, as requests have it.
    pub host: Cow<'a, str>,
    /// The run that waits, if the client gave one.
    pub run: Option<&'a str>,
    /// For how long it has waited.
    pub waited: Duration,
}

/// Counts events in a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolCounters {
    /// Holdings that a host was told of for the first time.
    pub granted: u64,
    /// Holdings released by their hosts.
    pub released: u64,
    /// Holdings that ended by expiry.
    pub expired: u64,
    /// Requests answered NO.
    pub refused: u64,
    /// Requests answered INVALID.
    pub invalid: u64,
    /// Answers YES that could not be delivered.
    pub undelivered: u64,
    /// When the last holding was granted.
    pub last_granted: Option<Moment>,
}

#[cfg(test)]
mod tests;

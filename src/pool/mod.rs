//! The contract between the pools of a lock server and its loop. A backend knows who holds, who
//! waits, since when and until when. It is pure: it hears what happened and when, and says what to
//! do. The loop drains `poll` until it says `Wait`, then sleeps until that moment or
//! until something happens; it hands in all that happened at one time before it drains, so that one
//! save does for all of it.

mod events;
pub mod invalid_request;
pub mod lease;
pub mod memcached;
pub mod memory;
pub mod metrics;
mod pools;
mod reply_delivery;
pub mod state;
pub mod status;
mod waiters;

use crate::moment::Moment;
use crate::plan::{self, Level};
use crate::transport;
use invalid_request::InvalidRequest;
use state::State;
use std::time::Duration;

/// A request that awaits its answer. The loop numbers requests as they come, each number once: a
/// ticket is a place in a queue, too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(pub u64);

/// What a host, or an operator for a host, asks of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// To hold it, if that is possible now.
    Get,
    /// To hold it, as soon as that is possible.
    Wait,
    /// To hold it for its whole expiry from now.
    Renew {
        /// The holding that the host knows of.
        token: Option<i64>,
    },
    /// To hold it no longer.
    Release {
        /// Only if this is the holding; `None`: any holding of the run, or of the host if no run
        /// is given.
        token: Option<i64>,
    },
    /// The host's holding is not to be confirmed again, whichever run it belongs to. Answered by
    /// `Revocation`, `NotHeld`, `Invalid` or `Unavailable`.
    Revoke,
}

impl Call {
    /// Whether it asks only about what is held already.
    pub fn keeps(self) -> bool {
        matches!(
            self,
            Call::Renew { .. } | Call::Release { .. } | Call::Revoke
        )
    }
}

/// A host asks something of a pool. Names are as the peer wrote them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Request<'a> {
    pub ticket: Ticket,
    pub call: Call,
    pub pool: &'a str,
    pub host: &'a str,
    /// Which run of the host asks; checked already, see [`invalid_request::check_run`]. `None`: the client
    /// has no run id, as the Python client and curl. `Revoke` has none.
    pub run: Option<&'a str>,
}

/// The answer to a request. Each request gets one, unless it is gone before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The host holds the pool.
    Yes(Grant),
    /// It does not.
    No,
    /// NO, to the holder itself: its holding is revoked and is not confirmed again.
    NoRevoked,
    /// It does not any more.
    Ok,
    /// The holding is revoked, and saved as such.
    Revocation {
        /// Of the holding that is revoked, if it is known.
        token: Option<i64>,
        /// When it ends if its holder never releases it.
        ends: Remaining,
    },
    /// Nothing is revoked: the host does not hold the pool.
    NotHeld,
    /// No pool can be asked this, or not by this host.
    Invalid(InvalidRequest),
    /// It cannot be known or kept who holds the pool: why.
    Unavailable(String),
}

/// A holding, as its host is told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Grows with every holding: fences off writes of an earlier holder.
    pub token: i64,
    /// How much of its lease the host is told is left from now: less than the server keeps, and
    /// never less than [`lease::MIN_CLIENT_LEASE`]; see [`lease::for_client`]. `None`: it lasts until it is
    /// released.
    pub expires: Option<Duration>,
}

/// How much of a holding is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remaining {
    /// So much, unless it is renewed or released.
    For(Duration),
    /// It lasts until it is released.
    UntilReleased,
    /// This server does not know.
    Unknown,
}

/// What happens to the pools.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input<'a> {
    /// A host asks.
    Request(Request<'a>),
    /// Someone wants to see all pools. Answered by `Output::Report` when `report` has what is so
    /// now, or by `Answer::Unavailable` when that cannot be known; soon either way.
    ReportRequested(Ticket),
    /// Whoever asked this has hung up. An answer that was decided before comes all the same, but it
    /// is no YES.
    Cancelled(Ticket),
    /// A YES could not be delivered.
    Undelivered {
        /// Of what.
        pool: &'a str,
        /// To whom.
        host: &'a str,
        /// The one it had.
        token: i64,
    },
    /// The state that was to be saved is.
    Saved,
    /// It is not, or that is not sure: why.
    NotSaved(String),
    /// Something happened to the connection to the server that remembers the holders.
    Transport(transport::Event<'a>),
    /// Time has passed.
    Tick,
}

/// What a backend wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Answer this request.
    Answer(Ticket, Answer),
    /// Answer this `ReportRequested` with `report`, before anything else is handed in.
    Report(Ticket),
    /// Save this in place of what was saved before, whole or not at all, then say `Saved` or
    /// `NotSaved`.
    Save(State),
    /// Do this with the connection to the server that remembers the holders.
    Transport(transport::Output<()>),
    /// Something that is worth a line in the log.
    Note(Level, String),
    /// Nothing to do before this moment, unless something happens.
    Wait(Moment),
}

/// Who remembers the holders.
///
/// # Promises
///
/// distributexd(8), PROMISES, states them for users; each backend keeps them, and one model checks
/// each (`promises.rs`). A client was *told* something when its answer was handed out by `poll`.
/// Neither a reload, nor a restart (`inmemory`: with `state`), nor another server of this
/// program on the same memcached, whatever its config, breaks what was told:
///
/// 1. *Exclusion.* A holding whose lease was told and has not ended, and that was not released, is
///    counted against `maxlocks` of its pool. No other holding is granted beyond that number.
/// 2. *Leases.* A lease ends no earlier than told. The server keeps it longer than it tells
///    ([`lease::for_client`]); what is too short to be used is not told ([`lease::MIN_CLIENT_LEASE`]).
/// 3. *Until released* stays until released, whatever `expire` becomes. Where `expire` becomes 0,
///    the next answer YES says so.
/// 4. *Runs.* A holding that was acquired with a run id belongs to that run of that host, one
///    without to the host. At most one run of a host holds a pool. A request of another run, or
///    without a run id, is then one of another: NO, or it waits, even if the pool has room.
/// 5. *Tokens.* Each holding has a token that is larger than that of every earlier holding of its
///    pool. A release with a token, or a run id, ends no holding of another.
/// 6. *Revoked* holdings are not confirmed again: their holder's requests get `NoRevoked`. They end
///    as they would: when they are released, or when their lease ends.
/// 7. *Pools that disappear* from the config keep their holders until their leases end, and those
///    that are held until released for [`lease::REMOVED_POOL_GRACE`] or until the pool is back. Nothing else
///    is granted in them.
pub trait Backend {
    /// Takes in what happened.
    fn handle(&mut self, input: Input, now: Moment);

    /// What to do next. After `Wait` there is nothing more until the next input.
    fn poll(&mut self, now: Moment) -> Output;

    /// The config has been read again, and these are its pools, from now on.
    fn reconfigure(&mut self, pools: Vec<plan::Pool>, now: Moment);

    /// What the pools are like, by name. What a backend may not know any more it says as `Unknown`
    /// or `None`, or gives an age.
    fn report(&self, now: Moment) -> Vec<Report<'_>>;
}

/// What a pool is like at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report<'a> {
    /// Its name.
    pub pool: &'a str,
    /// How many may hold it at once; 0 if it is not in the config any more, but still held.
    pub permits: u32,
    /// How long a grant lasts, if not until it is released.
    pub expire: Option<Duration>,
    /// How old what is said of the holders is; `None`: it is so now.
    pub age: Option<Duration>,
    /// By name.
    pub holders: Vec<Holder<'a>>,
    /// The next first.
    pub waiters: Vec<Waiter<'a>>,
    /// What happened in it since the server began.
    pub counters: PoolCounters,
}

/// Who holds a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder<'a> {
    /// Its name.
    pub host: &'a str,
    /// Which of its runs; `None`: the host itself.
    pub run: Option<&'a str>,
    /// That of its holding, if it is known.
    pub token: Option<i64>,
    /// For how long it has, if that is known.
    pub held: Option<Duration>,
    /// What the server keeps of it.
    pub ends: Remaining,
    /// It is not confirmed again.
    pub revoked: bool,
}

/// Who waits for a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiter<'a> {
    /// Its name.
    pub host: &'a str,
    /// Which of its runs, if it has said so.
    pub run: Option<&'a str>,
    /// For how long it has.
    pub waited: Duration,
}

/// How often what happened in a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolCounters {
    /// A host was told that it holds what it did not hold before.
    pub granted: u64,
    /// A host let go.
    pub released: u64,
    /// A holding outlasted its expiry.
    pub expired: u64,
    /// A host was told NO.
    pub refused: u64,
    /// A host asked what it may not.
    pub invalid: u64,
    /// A YES could not be delivered.
    pub undelivered: u64,
}

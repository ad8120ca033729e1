//! The contract between the pools of a lock server and its loop. A backend knows who holds, who waits, since when and until when. It is pure:
//! it hears what happened and when, and says what to do. The loop drains `poll` until it says `Wait`, then sleeps until that moment or
//! until something happens; it hands in all that happened at one time before it drains, so that one save does for all of it.

mod desk;
mod holders;
mod ledger;
pub mod memcache;
pub mod memory;
pub mod metrics;
pub mod refusal;
pub mod state;
pub mod status;
mod waiters;

use crate::moment::Moment;
use crate::plan::{self, Level};
use state::State;
use std::time::Duration;

/// A request that awaits its answer. The loop numbers requests as they come, each number once: a ticket is a place in a queue, too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(pub u64);

/// What a host asks of a pool.
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
        /// Only if this is the holding; `None`: whichever it is.
        token: Option<i64>,
    },
}

/// A host asks something of a pool. Names are as the peer wrote them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Request<'a> {
    pub ticket: Ticket,
    pub call: Call,
    pub pool: &'a str,
    pub host: &'a str,
}

/// What a request comes to. Each gets one answer, unless it is gone before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The host holds the pool.
    Yes(Grant),
    /// It does not.
    No,
    /// It does not any more.
    Ok,
    /// No pool can be asked this, or not by this host.
    Invalid,
    /// It cannot be known or kept who holds the pool: why.
    Unavailable(String),
}

/// A holding, as its host is told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Grows with every holding: fences off writes of an earlier holder.
    pub token: i64,
    /// What is left of it from now; `None`: it lasts until it is released.
    pub expires: Option<Duration>,
}

/// What happens to the pools.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input<'a> {
    /// A host asks.
    Asked(Request<'a>),
    /// Whoever asked this has hung up. An answer that was decided before comes all the same, but it is no YES.
    Gone(Ticket),
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
    /// The connection that was asked for is there.
    Connected,
    /// It is not, or not any more: why, if the network said so; `None` if the peer closed it.
    Disconnected(Option<String>),
    /// Bytes came over it.
    Received(&'a [u8]),
    /// Time has passed.
    Tick,
}

/// What a backend wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Answer this request.
    Answer(Ticket, Answer),
    /// Save this in place of what was saved before, whole or not at all, then say `Saved` or `NotSaved`.
    Save(State),
    /// Connect to where holders are remembered, in place of any other connection.
    Connect,
    /// Send these bytes there.
    Send(Vec<u8>),
    /// Close that connection.
    Disconnect,
    /// Something that is worth a line in the log.
    Note(Level, String),
    /// Nothing to do before this moment, unless something happens.
    Wait(Moment),
}

/// Who remembers the holders.
pub trait Backend {
    /// Takes in what happened.
    fn handle(&mut self, input: Input, now: Moment);

    /// What to do next. After `Wait` there is nothing more until the next input.
    fn poll(&mut self, now: Moment) -> Output;

    /// The config has been read again, and these are its pools, from now on.
    fn reconfigure(&mut self, pools: Vec<plan::Pool>, now: Moment);

    /// What the pools are like, by name.
    fn report(&self, now: Moment) -> Vec<Report<'_>>;
}

/// What a pool is like at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report<'a> {
    /// Its name.
    pub pool: &'a str,
    /// How many may hold it at once.
    pub permits: u32,
    /// How long a grant lasts, if not until it is released.
    pub expire: Option<Duration>,
    /// By name.
    pub holders: Vec<Holder<'a>>,
    /// The next first.
    pub waiters: Vec<Waiter<'a>>,
    /// What happened in it since the server began.
    pub counts: Counts,
}

/// Who holds a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder<'a> {
    /// Its name.
    pub host: &'a str,
    /// That of its holding, if it is known.
    pub token: Option<i64>,
    /// For how long it has.
    pub held: Duration,
    /// What is left of it; `None`: it lasts until it is released.
    pub expires: Option<Duration>,
}

/// Who waits for a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiter<'a> {
    /// Its name.
    pub host: &'a str,
    /// For how long it has.
    pub waited: Duration,
}

/// How often what happened in a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
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

//! The contract between a lock and the loop. A lock is pure: it hears what happened and when, and
//! says what to do. The loop drains `poll` until it says `Wait`, then sleeps until that moment or
//! until something happens.
//!
//! A lock that says `Lost` with `gone: false` must go on: reconnect, keep the session or the lease
//! alive, and prove the lock where it can, until it is told `Release`. A process of the command may
//! be impossible to kill, and no other host may acquire the lock beside it as long as that can be
//! prevented. Such a lock never says that it is acquired or believed again; it says `Gone` once
//! another host can have the lock. A lock that cannot be kept says `gone: true` with `Lost`.

mod acl;
#[cfg(test)]
mod fake;
mod holding;
pub mod host;
pub mod local;
mod lookups;
pub mod node;
mod parents;
mod place;
pub mod pool;
pub mod queue;
pub mod semaphore;
pub mod session_lock;

use crate::deadlines::Deadlines;
use crate::endpoint::Found;
use crate::moment::Moment;
use std::fmt;
use std::net::SocketAddr;

/// What happens to a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input<'a> {
    /// The connection that was asked for is there.
    Connected,
    /// It is not, or not any more: why, if the network said so; `None` if the peer closed it.
    Disconnected(Option<String>),
    /// Bytes came over it.
    Received(&'a [u8]),
    /// A local lock file is ours.
    Granted {
        /// Its index.
        file: usize,
        /// The fencing token that this holding got.
        token: i64,
    },
    /// A local lock file is somebody else's.
    Taken {
        /// Its index.
        file: usize,
        /// The fencing token in it: that of its holder, unless that has only just locked it.
        token: Option<i64>,
    },
    /// A local lock file cannot be locked at all.
    Broken(String),
    /// What the look-up of names that was asked for has found.
    Found(Found),
    /// Time has passed.
    Tick,
    /// The command is over, or will not be: let go, whatever is held or under way.
    Release,
}

/// What a lock wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Connect to this address, in place of any other connection.
    Connect(SocketAddr),
    /// Send these bytes.
    Send(Vec<u8>),
    /// Say that nothing more will be sent, and go on listening.
    Finish,
    /// Close the connection, after what was sent.
    Disconnect,
    /// Break the connection off: what was sent and has not arrived is not to arrive.
    Abandon,
    /// Lock the local file with this index: now, or as soon as it is free.
    Contend {
        /// Its index.
        file: usize,
        /// Do not come back before it is ours.
        wait: bool,
    },
    /// Look up the names of the servers again, and go on meanwhile. Where there are no names,
    /// nothing comes of it.
    LookUp,
    /// The lock of this name is tried now.
    Trying(String),
    /// Somebody else has the lock, and we wait.
    Waiting {
        /// Who has it.
        holder: Holder,
        /// How many others wait and are served before us, if that is known.
        ahead: Option<usize>,
    },
    /// The lock is ours.
    Acquired(Proof),
    /// The lock is proved ours anew: without further proof, the command must go then.
    Believe(Deadlines),
    /// Nobody can be asked whether the lock is still ours; it is, until the deadlines that were
    /// believed.
    Suspended(String),
    /// It was ours all along.
    Resumed,
    /// Something that is worth a line in the log about connection and session.
    Note(String),
    /// The lock does not protect as it was asked to; somebody should see to that.
    Warn(String),
    /// The lock is no longer ours, or cannot be proved ours any more; the command must be dead by
    /// `dead_by`.
    Lost {
        /// What became of it.
        why: String,
        /// When somebody else can have the lock, at the earliest.
        dead_by: Moment,
        /// Another host can have it from then on. If false, the lock is still kept as far as
        /// possible, until it is told to let go or says `Gone`.
        gone: bool,
    },
    /// A lock that was lost and kept can be another host's from now on. Why.
    Gone(String),
    /// An operator asks the holder to stop and to release the lock, which is ours until then.
    Revoked {
        /// By what, and where.
        why: String,
    },
    /// Somebody else has the lock, to the end of our patience.
    Busy(Holder),
    /// There will be no lock.
    Failed(Failure),
    /// Nothing of ours is left with the lock service, as far as it can be reached.
    Released {
        /// Why the service may still think otherwise.
        doubt: Option<String>,
    },
    /// Nothing to do before this moment, unless something happens.
    Wait(Moment),
}

/// What is known of whoever holds the lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// What is locked: a node's path, or a file.
    pub lock: String,
    /// Its host, if it says.
    pub host: Option<String>,
    /// Since when, in ms of real time.
    pub since: Option<i64>,
    /// Its session.
    pub session: Option<i64>,
}

/// What shows that the lock is ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proof {
    /// What is locked: a node's path, or a file.
    pub lock: String,
    /// Grows with every lock handed out: fences off writes of an earlier holder. `None` if whoever
    /// hands it out counts nothing.
    pub token: Option<i64>,
    /// The session that holds it.
    pub session: Option<i64>,
}

/// Why there will be no lock.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Failure {
    /// Nobody answered in time: who was asked, each with a reason.
    Unreachable(String),
    /// The service says no.
    Refused { what: String, why: String },
    /// The lock server says this, and not yes.
    Denied(String),
    /// What the lock's place holds does not fit it.
    Unfit(String),
    /// A file of a local lock cannot be used.
    System(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failure::Unreachable(whom) => write!(f, "cannot reach {whom}"),
            Failure::Denied(said) => write!(f, "Error obtaining lock, server said {said}"), /* as the original has it */
            Failure::Refused { what, why } => write!(f, "cannot {what}: {why}"),
            Failure::Unfit(why) | Failure::System(why) => f.write_str(why),
        }
    }
}

/// The lock is waited for by a run whose own ancestor holds it, as `how` shows.
fn circular(lock: &str, how: &str) -> Failure {
    let held = format!(
        "{lock} is held by a run that this one was started under ({how}), so the wait cannot end"
    );
    Failure::Unfit(format!("{held}: remove the inner run, or use another lock"))
}

/// A lock of some kind.
pub trait Lock {
    /// Takes in what happened.
    fn handle(&mut self, input: Input, now: Moment);

    /// What to do next. After `Wait` there is nothing more until the next input.
    fn poll(&mut self, now: Moment) -> Output;

    /// Whether the lock service may have something for this run's id that the next run on this host
    /// can take over by it.
    fn unsettled(&self) -> bool {
        false
    }
}

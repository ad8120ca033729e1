//! The contract between a lock and the loop of a run. A lock is a sans-I/O state machine: it takes
//! in what happened and when ([`Input`]), and gives out what to do ([`Output`]). The loop drains
//! `poll` until it returns `Wait`, then sleeps until that moment or until something happens.
//!
//! A lock that reports `Lost` with `gone: false` goes on: it reconnects, keeps the session or the
//! lease alive, and proves the lock where it can, until `Release`. A process of the command may be
//! impossible to kill, and no other host may acquire the lock beside it as long as that can be
//! prevented. Such a lock never reports `Acquired` or `LeaseUntil` again; it reports `Gone` once
//! another host can acquire the lock. A lock that cannot be kept reports `Lost` with `gone: true`.

pub mod file;
pub mod http;
pub mod lookups;
pub mod period;
mod repeats;
pub mod zookeeper;

use self::period::EarlierRun;
use crate::deadlines::Deadlines;
use crate::endpoint::Found;
use crate::moment::Moment;
use crate::plan::ExitReason;
use crate::transport;
use std::fmt;

/// What happens to a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input<'a> {
    /// Something happened to its connection.
    Transport(transport::Event<'a>),
    /// A [`FileOrder`] has a result.
    File(FileEvent),
    /// The result of the look-up of names that was asked for.
    LookUp(Found),
    /// The command has ended or can start no more, and its run will exit with this code, unless the
    /// lock is lost first.
    /// Only a lock with a record of its last run ([`period`]) needs it. `Release` follows.
    Ended(u8),
    /// The command has exited, or never starts: release what is held or requested.
    Release,
    /// Time has passed.
    Tick,
}

/// The result of an order to lock a local file. `file` is its index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileEvent {
    /// This run has locked the file.
    Locked {
        /// Which file.
        file: usize,
        /// The fencing token of this run, written into the file.
        token: i64,
    },
    /// Another process holds the file.
    Busy {
        /// Which file.
        file: usize,
        /// The fencing token in the file: the holder's, unless the holder has only just locked it.
        token: Option<i64>,
    },
    /// This run has locked the file, but another reader has the lock under which readers take their
    /// tokens. The result follows when it is free.
    Delayed {
        /// Which file.
        file: usize,
    },
    /// The record of the last run in the file that is locked, if there is one.
    Record(Option<Vec<u8>>),
    /// The record is written.
    Written,
    /// A file cannot be locked, or its record cannot be read or written: why.
    Failed(String),
}

/// What a lock wants done, and what it reports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Do this with the connection.
    Transport(transport::Output),
    /// Do this with a local file.
    File(FileOrder),
    /// Look up the names of the servers again, and answer with `Input::LookUp`. The lock goes on
    /// meanwhile. Without names there is no answer.
    LookUp,
    /// This happened.
    Event(Event),
    /// Nothing to do before this moment, unless something happens.
    Wait(Moment),
}

/// An order about a local file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileOrder {
    /// Lock the file, and answer with a [`FileEvent`].
    Lock {
        /// Its index.
        file: usize,
        /// Answer only when the file is locked, however long that takes. If false, answer at once.
        wait: bool,
    },
    /// Read the record of the last run in the file that is locked.
    ReadRecord {
        /// Its index.
        file: usize,
    },
    /// Write this record into it.
    WriteRecord {
        /// Its index.
        file: usize,
        /// One line, without its end.
        record: String,
    },
}

/// What a lock reports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The lock of this name is being tried.
    Trying(String),
    /// Another holds the lock, and this run waits.
    Waiting {
        /// Its holder.
        holder: Holder,
        /// The position of this run in the queue of waiters, if that is known.
        position: Option<QueuePosition>,
    },
    /// This run holds the lock.
    Acquired(Proof),
    /// The lock was proved again. Without further proof, the command is stopped at these
    /// deadlines.
    LeaseUntil(Deadlines),
    /// The lock cannot be proved at the moment: why. It is held until the deadlines of the last
    /// `LeaseUntil`.
    Suspended(String),
    /// The lock was proved again after `Suspended`; it was held all the time.
    Resumed,
    /// For the log: something about connection and session.
    Note(String),
    /// The lock does not protect as asked, and an operator should fix that.
    Warn(String),
    /// The lock is lost, or cannot be proved any more; the command must be dead by
    /// `kill_deadline`.
    Lost {
        /// Why.
        why: String,
        /// From when on another host may acquire the lock, at the earliest.
        kill_deadline: Moment,
        /// From then on another host can acquire it. If false, the lock is still kept as far as
        /// possible, until `Release` or `Gone`.
        gone: bool,
    },
    /// From now on another host can acquire a lock that was lost and kept: why.
    Gone(String),
    /// An operator asks the holder to stop and to release the lock, which is held until then.
    Revoked {
        /// By what, and where.
        why: String,
    },
    /// Another still holds the lock at the end of the wait.
    Busy(Holder),
    /// The lock was free, but another run has run the command in this period (`--every`).
    AlreadyRun(EarlierRun),
    /// The lock cannot be acquired.
    Failed(Failure),
    /// The lock service has nothing left of this run, as far as it can be reached.
    Released {
        /// Why the service may still have something.
        doubt: Option<String>,
    },
    /// The same, and the server has hung up instead of confirming it, as ClickHouse Keeper does.
    ReleasedSilently,
}

/// A position in a queue of waiters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueuePosition {
    /// The position, from 1.
    pub position: usize,
    /// How many waiters there were when the position was read.
    pub waiters: usize,
}

/// What is known of the holder of a lock.
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

/// What proves that this run holds the lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proof {
    /// What is locked: a node's path, or a file.
    pub lock: String,
    /// The fencing token: it grows with every holder, so that storage can refuse writes of an
    /// earlier one. `None` if the lock service has none.
    pub token: Option<i64>,
    /// The session that holds it.
    pub session: Option<i64>,
}

/// Why the lock cannot be acquired.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Failure {
    /// No server answered in time: each server that was asked, with a reason.
    Unreachable(String),
    /// The service refuses.
    Refused { what: String, why: String },
    /// The lock server answered this instead of YES.
    Denied(String),
    /// What the service has at the lock's path is not a lock of this kind, or cannot be used as one.
    IncompatibleLock(String),
    /// A system call failed: a file of a local lock, a wait for events, or stdout cannot be used.
    System(String),
    /// The config or the options name a file that cannot be used.
    Config(String),
}

impl Failure {
    /// The reason to exit.
    pub fn exit_reason(&self) -> ExitReason {
        match self {
            Failure::Unreachable(_) => ExitReason::Unreachable,
            Failure::Refused { .. } | Failure::Denied(_) => ExitReason::Refused,
            Failure::IncompatibleLock(_) => ExitReason::IncompatibleLock,
            Failure::System(_) => ExitReason::SystemError,
            Failure::Config(_) => ExitReason::ConfigError,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failure::Unreachable(whom) => write!(f, "cannot reach {whom}"),
            Failure::Denied(said) => write!(f, "Error obtaining lock, server said {said}"), /* as the original has it */
            Failure::Refused { what, why } => write!(f, "cannot {what}: {why}"),
            Failure::IncompatibleLock(why) | Failure::System(why) | Failure::Config(why) => {
                f.write_str(why)
            }
        }
    }
}

/// The run would wait for a lock that its own ancestor holds, as `how` shows.
fn circular(lock: &str, how: &str) -> Failure {
    let held = format!(
        "{lock} is held by a run that this one was started under ({how}), so the wait cannot end"
    );
    Failure::IncompatibleLock(format!(
        "{held}: remove the inner run, use another lock, or start a background process that may \
         wait without ZK_FLOCK_LOCK and ZK_FLOCK_OUTER in its environment"
    ))
}

/// A lock of some kind.
pub trait Lock {
    /// Takes in what happened.
    fn handle(&mut self, input: Input, now: Moment);

    /// What to do next. After `Wait` there is nothing to do until the next input.
    fn poll(&mut self, now: Moment) -> Output;

    /// Whether the lock service may have something for this run's id that the next run on this host
    /// can take over by it.
    fn unsettled(&self) -> bool {
        false
    }
}

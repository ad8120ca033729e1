//! What the unit tests of the state machines share: a [`Driver`] that runs a machine against a
//! [`Peer`] in memory, on a clock that it sets, and checks the rules that hold for every machine.

mod driver;
mod lock;
mod oneshot;
mod pool;
pub(crate) mod script;

pub(crate) use driver::{Connection, Delivery, Driver, Machine, Peer, Reply, Step};
pub(crate) use oneshot::Once;
pub(crate) use pool::NoPeer;

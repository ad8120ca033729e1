//! What the tests of this library share, the unit tests, the integration tests and the fuzz
//! targets: a [`Driver`] that runs a sans-I/O state machine against a [`Peer`] in memory, on a
//! clock that it sets, and checks the rules that hold for every machine.
//!
//! No program calls this module, so the linker leaves it out. It panics where a test would.

mod driver;
mod lock;
mod pool;
mod session;

pub use driver::{Connection, Delivery, Driver, Machine, Peer, Reply, Step};
pub use lock::LockRules;
pub use pool::{NoPeer, PoolRules};

//! ZooKeeper's client protocol, without I/O. `Session` knows nothing of locks; `lock` builds on it.

pub mod code;
pub mod lease;
pub mod record;
pub mod request;
pub mod session;
pub mod wire;

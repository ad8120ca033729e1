//! ZooKeeper's protocol, by hand and without I/O. `Session` knows nothing of locks; `lock` builds on it.

pub mod code;
pub mod record;
pub mod wire;

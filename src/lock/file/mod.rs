//! Locks of one host, which are files.

pub mod host_only;
pub mod local;
pub mod record;

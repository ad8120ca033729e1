//! Locks of one host: files.

pub mod host_only;
pub mod local;

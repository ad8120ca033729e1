//! The nodes of the queue: their names, and their data.

use super::super::Ticket;
use super::super::invalid_request;
use super::super::waiters::Run;
use serde_json::{Value, json};
use std::rc::Rc;

/// Sequence numbers are 32 bits wide, and the server counts on with negative ones. A queue that has
/// come this near to the end takes no more waiters.
pub(super) const MAX_SEQUENCE: i64 = (1 << 31) - (1 << 20);

/// The digits of a sequence number.
const DIGITS: usize = 10;

/// The client that waits at an entry, for reports: the data of the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct QueuedClient {
    pub(super) host: Rc<str>,
    pub(super) run: Option<Run>,
    /// In ms since 1970, by the clock of its server.
    pub(super) since: u64,
}

impl QueuedClient {
    pub(super) fn text(&self) -> Vec<u8> {
        let mut value = json!({ "host": &*self.host, "since": self.since });
        if let Some(run) = &self.run {
            value["run"] = (**run).into();
        }
        value.to_string().into_bytes()
    }

    pub(super) fn parse(text: &[u8]) -> Option<QueuedClient> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let host = value["host"].as_str()?;
        invalid_request::check_host(host).ok()?;
        let run = value.get("run").and_then(Value::as_str);
        let run = run.filter(|run| invalid_request::check_run(run.as_bytes()).is_ok());
        Some(QueuedClient {
            host: host.into(),
            run: run.map(Run::from),
            since: value["since"].as_u64()?,
        })
    }
}

/// How the names of the entries of a session begin.
pub(super) fn prefix(session: i64) -> String {
    format!("{session:x}.")
}

/// The session of an entry with this name, the ticket, and the sequence number. `None`: another
/// program made the node.
pub(super) fn parse(name: &str) -> Option<(i64, Ticket, i64)> {
    let (front, sequence) = name.split_at_checked(name.rfind('-')? + 1)?;
    let is_number = sequence.len() >= DIGITS && sequence.bytes().all(|byte| byte.is_ascii_digit());
    // The counter is negative after 2^31 entries: `SESSION.TICKET--2147483648`.
    let sequence = if is_number {
        sequence.parse().ok()?
    } else {
        return None;
    };
    let (front, sequence) = match front.strip_suffix("--") {
        Some(front) => (front, MAX_SEQUENCE + sequence),
        None => (&front[..front.len() - 1], sequence),
    };
    let (session, ticket) = front.split_once('.')?;
    let session = u64::from_str_radix(session, 16).ok()?.cast_signed();
    Some((session, Ticket(ticket.parse().ok()?), sequence))
}

/// Whether a node of this name and owner is an entry: it ends with the session that its name has.
pub(super) fn is_entry(name: &str, owner: i64) -> bool {
    parse(name).is_some_and(|(session, ..)| session == owner)
}

//! All connections, by key and by deadline. What is done to one takes time that grows with the
//! logarithm of their number.

use super::connection::Connection;
use crate::moment::Moment;
use crate::pool::Ticket;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// See above.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    connections: HashMap<u64, Connection>,
    deadlines: BTreeSet<(Moment, u64)>,
    /// Who has asked.
    tickets: BTreeMap<Ticket, u64>,
    /// Bytes of replies that the kernel has not taken yet.
    unsent: usize,
    /// Bytes of requests that could not be taken in yet.
    held: usize,
}

impl Crowd {
    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    pub(super) fn keys(&self) -> Vec<u64> {
        self.connections.keys().copied().collect()
    }

    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Whose request this is.
    pub(super) fn asker(&self, ticket: Ticket) -> Option<u64> {
        self.tickets.get(&ticket).copied()
    }

    pub(super) fn insert(&mut self, key: u64, connection: Connection) {
        if connection.deadline() != Moment::NEVER {
            self.deadlines.insert((connection.deadline(), key));
        }
        if let Some(ticket) = connection.ticket() {
            self.tickets.insert(ticket, key);
        }
        self.unsent += connection.unsent();
        self.held += connection.held();
        self.connections.insert(key, connection);
    }

    /// Takes one out, to be put back or not.
    pub(super) fn take(&mut self, key: u64) -> Option<Connection> {
        let connection = self.connections.remove(&key)?;
        self.deadlines.remove(&(connection.deadline(), key));
        if let Some(ticket) = connection.ticket() {
            self.tickets.remove(&ticket);
        }
        self.unsent -= connection.unsent();
        self.held -= connection.held();
        Some(connection)
    }

    /// One that stays where it is: for what changes nothing that is counted or sorted here.
    pub(super) fn find(&mut self, key: u64) -> Option<&mut Connection> {
        self.connections.get_mut(&key)
    }

    /// When the first deadline is.
    pub(super) fn wake(&self) -> Moment {
        self.deadlines
            .first()
            .map_or(Moment::NEVER, |(deadline, _)| *deadline)
    }

    /// One whose deadline has come.
    pub(super) fn late(&self, now: Moment) -> Option<u64> {
        self.deadlines
            .first()
            .filter(|(deadline, _)| *deadline <= now)
            .map(|(_, key)| *key)
    }
}

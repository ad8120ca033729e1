//! All open connections, by key, by deadline and by ticket. Each operation takes time that grows
//! with the logarithm of their number.

use super::connection::Connection;
use super::system::Stream;
use crate::moment::Moment;
use crate::pool::Ticket;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The open connections. A connection is taken out of the table before it is changed, and put back
/// afterwards, so that the indexes and sums below are always right.
#[derive(Debug)]
pub(super) struct ConnectionTable<S> {
    connections: HashMap<u64, Connection<S>>,
    deadlines: BTreeSet<(Moment, u64)>,
    /// The connection that waits for the answer to each ticket.
    tickets: BTreeMap<Ticket, u64>,
    /// Connections that can be closed to make room, in the order in which they were accepted.
    expendable: BTreeSet<u64>,
    /// Bytes of replies that the kernel has not taken yet, of all connections.
    unsent: usize,
    /// Bytes of incomplete and unprocessed requests, of all connections.
    buffered: usize,
}

impl<S: Stream> ConnectionTable<S> {
    pub(super) fn new() -> ConnectionTable<S> {
        ConnectionTable {
            connections: HashMap::new(),
            deadlines: BTreeSet::new(),
            tickets: BTreeMap::new(),
            expendable: BTreeSet::new(),
            unsent: 0,
            buffered: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// In the order in which the connections were accepted.
    pub(super) fn keys(&self) -> Vec<u64> {
        let mut keys: Vec<u64> = self.connections.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    pub(super) fn buffered(&self) -> usize {
        self.buffered
    }

    /// The connection that waits for the answer to this ticket.
    pub(super) fn connection_of(&self, ticket: Ticket) -> Option<u64> {
        self.tickets.get(&ticket).copied()
    }

    pub(super) fn insert(&mut self, key: u64, connection: Connection<S>) {
        if connection.deadline() != Moment::NEVER {
            self.deadlines.insert((connection.deadline(), key));
        }
        if let Some(ticket) = connection.ticket() {
            self.tickets.insert(ticket, key);
        }
        if connection.is_expendable() {
            self.expendable.insert(key);
        }
        self.unsent += connection.unsent();
        self.buffered += connection.buffered();
        self.connections.insert(key, connection);
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<Connection<S>> {
        let connection = self.connections.remove(&key)?;
        self.deadlines.remove(&(connection.deadline(), key));
        if let Some(ticket) = connection.ticket() {
            self.tickets.remove(&ticket);
        }
        self.expendable.remove(&key);
        self.unsent -= connection.unsent();
        self.buffered -= connection.buffered();
        Some(connection)
    }

    /// The oldest connection that can be closed to make room for another one.
    pub(super) fn oldest_expendable(&self) -> Option<u64> {
        self.expendable.first().copied()
    }

    pub(super) fn get(&self, key: u64) -> Option<&Connection<S>> {
        self.connections.get(&key)
    }

    /// A connection that stays in the table: only for changes to what the table neither counts nor
    /// sorts by.
    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut Connection<S>> {
        self.connections.get_mut(&key)
    }

    /// The earliest deadline.
    pub(super) fn next_deadline(&self) -> Moment {
        self.deadlines
            .first()
            .map_or(Moment::NEVER, |(deadline, _)| *deadline)
    }

    /// A connection whose deadline has passed.
    pub(super) fn next_expired(&self, now: Moment) -> Option<u64> {
        self.deadlines
            .first()
            .filter(|(deadline, _)| *deadline <= now)
            .map(|(_, key)| *key)
    }
}

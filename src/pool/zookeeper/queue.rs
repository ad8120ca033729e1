//! The entries of waiters in the queue of a pool, over all servers. Each is an ephemeral sequential
//! node below the node of the pool, named `SESSION.TICKET-SEQUENCE`: it ends with the session of its
//! server, and its sequence number is its position.
//!
//! Only the server of the first entry grants. A server learns that its entry is the first like this:
//!
//! * It reads the names of all entries once, after its own was created, so that all lower ones are
//!   known. Names that it has read stay valid: a lower entry can only end. It reads them again only
//!   when its first entry is newer than the list, so on average it reads a few names for each
//!   waiter, however long the queue is.
//! * The node of the pool has the highest sequence number that was granted. All entries up to that
//!   one have ended.
//! * It watches the nearest entry of another server before its own first entry: one watch for each
//!   pool, however many of its clients wait. If that entry ends without a grant, because its client
//!   has hung up or its server is dead, the next one is watched.
//!
//! A request whose answer was lost may have created an entry or ended one. After the reconnect all
//! names are read: what no client waits for is ended, and what is missing is created.

use super::super::Ticket;
use super::queue_entry::{MAX_SEQUENCE, QueuedClient, parse, prefix};
use super::record::NONE_SERVED;
use crate::zookeeper::code::flag;
use crate::zookeeper::record::Acl;
use crate::zookeeper::request::{Operation, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The most waiters of a pool. A list of that many names, of up to 52 bytes each, is below the limit
/// of a message (4 MiB).
pub(super) const MAX_ENTRIES: usize = 50_000;

/// The entry of a waiter of this server.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Entry {
    /// It is being created.
    Requested,
    /// Its creation was not answered: the list of all names will show whether it exists.
    Unconfirmed,
    /// It exists.
    Held { sequence: i64, name: String },
}

/// The queue of a pool, as this server knows it.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts
pub(super) struct Queue {
    /// Of the node of the pool.
    path: Rc<str>,
    entries: BTreeMap<Ticket, Entry>,
    /// The entries that exist, in order.
    in_order: BTreeMap<i64, Ticket>,
    /// Waiters without an entry.
    unqueued: BTreeSet<Ticket>,
    /// Waiters that have no use for an entry while their host holds the pool, and the host.
    parked: BTreeMap<Ticket, Rc<str>>,
    /// Entries of other servers that may be before one of this server.
    ahead: BTreeMap<i64, String>,
    /// All lower entries are in `ahead`, unless they have ended.
    listed: i64,
    /// All entries up to this one have ended.
    served: i64,
    /// A list is requested.
    is_listing: bool,
    /// This session has requested an entry here.
    is_used: bool,
    /// Entries of this session may exist that this server does not know of.
    is_unsure: bool,
    /// The list that is requested may be older than that.
    is_list_old: bool,
    /// The clients that wait at other servers, by sequence number, as of the last report; `None`: the
    /// entry is being read.
    others: BTreeMap<i64, Option<QueuedClient>>,
    /// The names are to be read for a report.
    is_report_wanted: bool,
    /// Nodes that other programs made here, of which the log has a line.
    foreign: BTreeSet<String>,
    /// The entry in `ahead` that is watched, or about to be.
    watched: Option<i64>,
    /// Requests to send.
    requests: Vec<Request>,
}

impl Queue {
    pub(super) fn new(path: Rc<str>) -> Queue {
        Queue {
            path,
            entries: BTreeMap::new(),
            in_order: BTreeMap::new(),
            unqueued: BTreeSet::new(),
            parked: BTreeMap::new(),
            ahead: BTreeMap::new(),
            listed: -1,
            served: NONE_SERVED,
            is_listing: false,
            is_used: false,
            is_unsure: false,
            is_list_old: false,
            others: BTreeMap::new(),
            is_report_wanted: false,
            foreign: BTreeSet::new(),
            watched: None,
            requests: Vec::new(),
        }
    }

    /// A client waits.
    pub(super) fn add(&mut self, ticket: Ticket) {
        self.parked.remove(&ticket);
        if !self.entries.contains_key(&ticket) {
            self.unqueued.insert(ticket);
        }
    }

    /// Waiters without an entry, in the order of their requests.
    pub(super) fn unqueued(&self) -> impl Iterator<Item = Ticket> {
        self.unqueued.iter().copied()
    }

    /// Whether this session may have entries here.
    pub(super) fn is_used(&self) -> bool {
        self.is_used
    }

    /// How many waiters of this server have an entry, or will have one.
    pub(super) fn queued(&self) -> usize {
        self.entries.len()
    }

    /// How many entries are requested that no read has counted yet.
    pub(super) fn joining(&self) -> usize {
        self.entries.len().saturating_sub(self.in_order.len())
    }

    /// Whether entries of this session may exist that this server does not know of. A list will
    /// show them.
    pub(super) fn is_unsure(&self) -> bool {
        self.is_unsure
    }

    /// Requests an entry for each of these waiters.
    pub(super) fn join(
        &mut self,
        session: i64,
        acl: &[Acl],
        waiters: impl Iterator<Item = (Ticket, QueuedClient)>,
    ) {
        for (ticket, client) in waiters {
            self.unqueued.remove(&ticket);
            self.is_used = true;
            self.entries.insert(ticket, Entry::Requested);
            self.requests.push(Request::Create {
                path: format!("{}/{}{}-", self.path, prefix(session), ticket.0),
                data: client.text(),
                acl: acl.to_vec(),
                flags: flag::EPHEMERAL | flag::SEQUENCE,
            });
        }
    }

    /// The client does not wait any more: its entry ends.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.unqueued.remove(&ticket);
        self.parked.remove(&ticket);
        if let Some(name) = self.forget(ticket) {
            self.delete(&name);
        }
    }

    /// The waiter gives its entry up while this host holds the pool.
    pub(super) fn park(&mut self, ticket: Ticket, host: &Rc<str>) {
        self.leave(ticket);
        self.parked.insert(ticket, host.clone());
    }

    /// Waiters of hosts that do not hold the pool any more want an entry again.
    pub(super) fn unpark(&mut self, holds: impl Fn(&str) -> bool) {
        let parked = std::mem::take(&mut self.parked);
        for (ticket, host) in parked {
            if holds(&host) {
                self.parked.insert(ticket, host);
            } else {
                self.unqueued.insert(ticket);
            }
        }
    }

    /// All waiters leave the queue, until they can join it again.
    pub(super) fn give_up(&mut self) {
        let waiting: Vec<_> = self.entries.keys().copied().collect();
        for ticket in waiting {
            self.leave(ticket);
            self.unqueued.insert(ticket);
        }
    }

    /// The entry has ended with the write of a grant.
    pub(super) fn granted(&mut self, ticket: Ticket) {
        self.forget(ticket);
        self.unqueued.remove(&ticket);
    }

    /// Forgets an entry; returns the name of its node, if it is known to exist.
    fn forget(&mut self, ticket: Ticket) -> Option<String> {
        match self.entries.remove(&ticket)? {
            Entry::Held { sequence, name } => {
                self.in_order.remove(&sequence);
                Some(name)
            }
            // If it exists, the reply or the list will show it, and it is deleted then.
            Entry::Requested | Entry::Unconfirmed => None,
        }
    }

    fn delete(&mut self, name: &str) {
        let path = format!("{}/{name}", self.path);
        self.requests.push(Request::Delete { path });
    }

    /// The operation that ends an entry together with the write of a grant, and its sequence number.
    pub(super) fn end(&self, ticket: Ticket) -> Option<(i64, Operation)> {
        match self.entries.get(&ticket)? {
            Entry::Held { sequence, name } => Some((
                *sequence,
                Operation::Delete {
                    path: format!("{}/{name}", self.path),
                },
            )),
            Entry::Requested | Entry::Unconfirmed => None,
        }
    }

    /// The waiter of this server whose turn it is, apart from these; `None`: it is the turn of
    /// another server, or not known yet.
    pub(super) fn next(&self, except: &BTreeSet<Ticket>) -> Option<Ticket> {
        let (&sequence, &ticket) = self
            .in_order
            .iter()
            .find(|(_, ticket)| !except.contains(ticket))?;
        let is_first = sequence <= self.listed
            && !self.is_unsure
            && self.ahead.range(..sequence).next().is_none();
        is_first.then_some(ticket)
    }

    /// Reads the waiters of other servers.
    pub(super) fn read_for_report(&mut self) {
        self.is_report_wanted = true;
    }

    /// Whether they are read.
    pub(super) fn is_report_read(&self) -> bool {
        !self.is_report_wanted && self.others.values().all(Option::is_some)
    }

    /// The waiters of other servers, by sequence number, as they were last read.
    pub(super) fn others(&self) -> impl Iterator<Item = (i64, &QueuedClient)> {
        self.others
            .iter()
            .filter_map(|(sequence, client)| Some((*sequence, client.as_ref()?)))
    }

    /// The position of a waiter of this server, if it has one.
    pub(super) fn position(&self, ticket: Ticket) -> Option<i64> {
        Some(self.end(ticket)?.0)
    }

    /// The data of an entry was read.
    pub(super) fn entry_read(&mut self, name: &str, data: &[u8]) {
        if let Some((_, _, sequence)) = parse(name)
            && let Some(client) = self.others.get_mut(&sequence)
        {
            match QueuedClient::parse(data) {
                Some(read) => *client = Some(read),
                None => drop(self.others.remove(&sequence)),
            }
        }
    }

    /// All entries up to this one have ended.
    pub(super) fn served(&mut self, sequence: i64) {
        self.served = sequence;
        self.ahead = self.ahead.split_off(&(sequence.saturating_add(1)));
        self.others = self.others.split_off(&(sequence.saturating_add(1)));
        self.watched = self.watched.filter(|watched| *watched > sequence);
    }

    /// Requests what is needed to know whose turn it is.
    pub(super) fn step(&mut self) {
        if self.is_listing {
            return;
        }
        let first = self.in_order.keys().next().copied();
        if self.is_unsure {
            // The answers to earlier requests of this session may be newer than this server's state.
            // Not `sync`, which a leader answers that has lost its majority.
            let path = self.path.to_string();
            self.requests.push(Request::Check { path });
            self.list();
        } else if self.is_report_wanted {
            self.list();
        } else if let Some(first) = first {
            if first > self.listed {
                self.list();
            } else if let Some((&sequence, name)) = self.ahead.range(..first).next_back()
                && self.watched != Some(sequence)
            {
                self.watched = Some(sequence);
                // Not `exists`: that would leave a watch even if the node has ended.
                self.requests.push(Request::Data {
                    path: format!("{}/{name}", self.path),
                    watch: true,
                });
            }
        }
    }

    fn list(&mut self) {
        self.is_listing = true;
        self.requests.push(Request::Children {
            path: self.path.to_string(),
            watch: false,
        });
    }

    /// Requests that are to be sent, in this order.
    pub(super) fn take_requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.requests)
    }

    /// An entry was created. `Err`: its sequence number is too high, so this client cannot wait.
    pub(super) fn created(&mut self, name: &str) -> Result<(), Ticket> {
        let Some((_, ticket, sequence)) = parse(name) else {
            return Ok(());
        };
        match self.entries.get_mut(&ticket) {
            // The ticket has left and joined again. It has one position.
            Some(Entry::Held { name: held, .. }) => {
                if held != name {
                    self.delete(name);
                }
            }
            Some(entry) if sequence <= MAX_SEQUENCE => {
                let name = name.to_owned();
                *entry = Entry::Held { sequence, name };
                self.in_order.insert(sequence, ticket);
            }
            entry => {
                let is_wanted = entry.is_some();
                self.delete(name);
                if is_wanted {
                    self.entries.remove(&ticket);
                    return Err(ticket);
                }
            }
        }
        Ok(())
    }

    /// The entry was not created.
    pub(super) fn not_created(&mut self, name: &str) {
        let ticket = name
            .strip_suffix('-')
            .and_then(|name| name.split_once('.')?.1.parse().ok())
            .map(Ticket);
        if let Some(ticket) = ticket
            && self.entries.remove(&ticket).is_some()
        {
            self.unqueued.insert(ticket);
        }
    }

    /// The names of all nodes. Returns those that other programs made, and that are new.
    pub(super) fn list_read(&mut self, names: &[String], session: i64) -> Vec<String> {
        self.is_listing = false;
        let is_old = std::mem::take(&mut self.is_list_old);
        let for_report = std::mem::take(&mut self.is_report_wanted);
        (self.ahead, self.watched) = (BTreeMap::new(), None);
        let known = std::mem::take(&mut self.others);
        let (mut seen, mut foreign) = (BTreeSet::new(), BTreeSet::new());
        for name in names {
            let is_foreign = self.foreign.contains(name);
            let Some((owner, ticket, sequence)) = parse(name).filter(|_| !is_foreign) else {
                foreign.insert(name.clone());
                continue;
            };
            if owner == session {
                self.listed = self.listed.max(sequence);
                seen.insert(ticket);
                self.own_listed(ticket, sequence, name);
            } else if sequence > self.served {
                self.ahead.insert(sequence, name.clone());
                self.other_listed(sequence, name, known.get(&sequence), for_report);
            } else if for_report {
                // It ends, if it is an entry.
                let path = format!("{}/{name}", self.path);
                self.requests.push(Request::Exists { path, watch: false });
            }
        }
        let found = foreign.difference(&self.foreign).cloned().collect();
        self.foreign = foreign;
        let missing: Vec<_> = self
            .entries
            .iter()
            .filter(|(ticket, entry)| match entry {
                Entry::Requested => false, // it was requested after the list
                Entry::Unconfirmed => self.is_unsure,
                Entry::Held { .. } => !seen.contains(ticket),
            })
            .map(|(ticket, _)| *ticket)
            .collect();
        self.is_unsure &= is_old;
        for ticket in missing {
            self.forget(ticket);
            self.unqueued.insert(ticket);
        }
        found
    }

    /// Another program made this node, although it has the name of an entry. Returns whether that is
    /// new.
    pub(super) fn not_an_entry(&mut self, name: &str) -> bool {
        self.ended(name);
        self.foreign.insert(name.to_owned())
    }

    fn other_listed(
        &mut self,
        sequence: i64,
        name: &str,
        known: Option<&Option<QueuedClient>>,
        for_report: bool,
    ) {
        match known {
            Some(client) => drop(self.others.insert(sequence, client.clone())),
            None if for_report => {
                self.others.insert(sequence, None);
                self.requests.push(Request::Data {
                    path: format!("{}/{name}", self.path),
                    watch: false,
                });
            }
            None => {}
        }
    }

    fn own_listed(&mut self, ticket: Ticket, sequence: i64, name: &str) {
        match self.entries.get_mut(&ticket) {
            Some(entry @ Entry::Unconfirmed) => {
                let name = name.to_owned();
                *entry = Entry::Held { sequence, name };
                self.in_order.insert(sequence, ticket);
            }
            Some(Entry::Requested) => {}
            Some(Entry::Held { name: held, .. }) if held == name => {}
            Some(Entry::Held { .. }) | None => self.delete(name),
        }
    }

    /// The list could not be read.
    pub(super) fn list_failed(&mut self) {
        (self.is_listing, self.is_list_old) = (false, false);
    }

    /// An entry of another server has ended.
    pub(super) fn ended(&mut self, name: &str) {
        if let Some((_, _, sequence)) = parse(name) {
            self.ahead.remove(&sequence);
            self.others.remove(&sequence);
            self.watched = self.watched.filter(|watched| *watched != sequence);
        }
    }

    /// The data of an entry of another server may not be read. That it ends may still be seen.
    pub(super) fn entry_unread(&mut self, name: &str) {
        if let Some((_, _, sequence)) = parse(name) {
            self.others.remove(&sequence);
            if self.watched == Some(sequence) {
                let path = format!("{}/{name}", self.path);
                self.requests.push(Request::Exists { path, watch: true });
            }
        }
    }

    /// The connection is lost. Watches end with it, and answers do not come any more.
    pub(super) fn disconnected(&mut self) {
        self.requests.clear();
        (self.is_listing, self.is_list_old, self.watched) = (false, false, None);
        self.is_unsure = self.is_used;
        self.is_report_wanted |= !self.is_report_read();
        self.others.retain(|_, client| client.is_some());
        for entry in self.entries.values_mut() {
            if *entry == Entry::Requested {
                *entry = Entry::Unconfirmed;
            }
        }
    }

    /// Entries may have ended without this server: all names are read. The connection is up, so the
    /// answers to earlier requests come.
    pub(super) fn doubt(&mut self) {
        (self.is_unsure, self.is_list_old) = (self.is_used, self.is_listing);
    }

    /// All entries have ended with the node of the pool. Requests for others may be on their way.
    pub(super) fn node_ended(&mut self) {
        let waiting = std::mem::take(&mut self.entries).into_keys();
        self.unqueued.extend(waiting);
        self.in_order.clear();
        self.ahead.clear();
        self.others.clear();
        (self.listed, self.served, self.watched) = (-1, NONE_SERVED, None);
    }

    /// All entries of this server have ended with its session.
    pub(super) fn session_ended(&mut self) {
        self.node_ended();
        (self.is_used, self.is_unsure) = (false, false);
    }
}

#[cfg(test)]
mod tests;

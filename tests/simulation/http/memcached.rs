//! memcached, as far as the servers use it.
//!
//! # What the model is faithful to
//!
//! `gets`, `mg KEY t`, `cas`, `add` and `incr` of its doc/protocol.txt. Commands are carried out in
//! the order in which they arrive, one at a time, whether or not a reply gets through. Its clock has
//! whole seconds: an item that is stored for N seconds ends N-1 to N seconds later. A restart forgets
//! all items and numbers them from the beginning again; memcached may also drop an item at any time.
//! A stopped memcached accepts connections and answers later.

use super::super::{ConnId, Packet, SECOND, World};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

#[derive(Debug)]
struct Item {
    value: String,
    version: u64,
    /// In seconds of its clock; 0: never.
    expires: u64,
}

/// The process, and its items.
#[derive(Debug, Default)]
pub struct Memcached {
    /// When its clock ticks, within a second.
    phase: u64,
    items: BTreeMap<String, Item>,
    versions: u64,
    stopped: u32,
    /// What is not carried out yet, of each connection.
    unread: BTreeMap<ConnId, String>,
    /// Connections in the order in which they have sent something since it was stopped.
    waiting: BTreeSet<ConnId>,
}

impl Memcached {
    pub fn new(phase: u64) -> Memcached {
        Memcached {
            phase,
            ..Memcached::default()
        }
    }

    fn clock(&self, now: u64) -> u64 {
        (now + self.phase) / SECOND + 1
    }

    /// Carries out the complete commands.
    fn execute(&mut self, id: ConnId, now: u64) -> String {
        let clock = self.clock(now);
        self.items
            .retain(|_, item| item.expires == 0 || item.expires > clock);
        let mut text = self.unread.remove(&id).unwrap_or_default();
        let mut replies = String::new();
        while let Some(end) = text.find("\r\n") {
            let words: Vec<&str> = text[..end].split(' ').collect();
            let mut length = end + 2;
            let mut value = String::new();
            if let "cas" | "add" = words[0] {
                let size: usize = words[4].parse().expect("a size");
                if text.len() < length + size + 2 {
                    break;
                }
                value.push_str(&text[length..length + size]);
                length += size + 2;
            }
            self.command(&words, value, clock, &mut replies);
            text.drain(..length);
        }
        if !text.is_empty() {
            self.unread.insert(id, text);
        }
        replies
    }

    fn command(&mut self, words: &[&str], value: String, clock: u64, replies: &mut String) {
        let key = words[1];
        let item = self.items.get(key);
        let reply = match (words[0], item) {
            ("gets", _) => {
                for key in &words[1..] {
                    if let Some(Item { value, version, .. }) = self.items.get(*key) {
                        let length = value.len();
                        let _ = write!(replies, "VALUE {key} 0 {length} {version}\r\n{value}\r\n");
                    }
                }
                "END".into()
            }
            ("mg", None) => "EN".into(),
            ("mg", Some(Item { expires: 0, .. })) => "HD t-1".into(),
            ("mg", Some(item)) => format!("HD t{}", item.expires - clock),
            ("add", Some(_)) => "NOT_STORED".into(),
            ("cas" | "incr", None) => "NOT_FOUND".into(),
            ("cas", Some(item)) if item.version.to_string() != words[5] => "EXISTS".into(),
            ("incr", Some(item)) => {
                let by: u64 = words[2].parse().expect("a number");
                let sum = item.value.parse::<u64>().expect("a number") + by;
                let expires = item.expires;
                self.put(key, sum.to_string(), expires);
                sum.to_string()
            }
            _ => {
                let seconds: u64 = words[3].parse().expect("a number");
                let expires = if seconds == 0 { 0 } else { clock + seconds };
                self.put(key, value, expires);
                "STORED".into()
            }
        };
        let _ = write!(replies, "{reply}\r\n");
    }

    fn put(&mut self, key: &str, value: String, expires: u64) {
        self.versions += 1;
        let version = self.versions;
        let item = Item {
            value,
            version,
            expires,
        };
        self.items.insert(key.into(), item);
    }
}

impl World {
    fn memcached(&mut self) -> &mut Memcached {
        self.http().memcached.as_mut().expect("a memcached")
    }

    /// Whether this is the number of memcached, after those of the servers.
    pub(super) fn is_memcached(&self, server: usize) -> bool {
        let servers = self.http.as_ref().map(|http| http.servers.len());
        servers.is_some_and(|servers| server >= servers)
    }

    /// A packet arrives at memcached.
    pub(super) fn reaches_memcached(&mut self, id: ConnId, packet: Packet) {
        match packet {
            Packet::Data(bytes) => {
                let text = String::from_utf8(bytes).expect("commands are text");
                self.memcached()
                    .unread
                    .entry(id)
                    .or_default()
                    .push_str(&text);
                self.memcached().waiting.insert(id);
                if self.memcached().stopped == 0 {
                    self.memcached_runs();
                }
            }
            Packet::Fin | Packet::Rst => {
                self.memcached().unread.remove(&id);
                if self.conns.get(&id).is_some_and(|conn| conn.closed) {
                    self.conns.remove(&id);
                }
            }
            Packet::Ack(_) => {}
        }
    }

    fn memcached_runs(&mut self) {
        let now = self.now;
        for id in std::mem::take(&mut self.memcached().waiting) {
            let replies = self.memcached().execute(id, now);
            if !replies.is_empty() {
                self.transmit(id, false, Packet::Data(replies.into_bytes()));
            }
        }
    }

    pub(super) fn stop_memcached(&mut self, stopped: bool) {
        let memcached = self.memcached();
        memcached.stopped = if stopped {
            memcached.stopped + 1
        } else {
            memcached.stopped - 1
        };
        if memcached.stopped == 0 {
            self.memcached_runs();
        }
    }

    /// It forgets all items, or drops some. A restart ends its connections.
    pub(super) fn memcached_forgets(&mut self, restart: bool) {
        let now = self.now;
        let http = self.http();
        http.forgot = Some((now, http.newest_token));
        let with_token = http.random.once_in(2);
        let memcached = self.memcached();
        if !restart {
            let dropped = |key: &str| with_token || !key.ends_with(":token");
            return memcached.items.retain(|key, _| !dropped(key));
        }
        memcached.items.clear();
        memcached.versions = 0;
        memcached.unread.clear();
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            if self.is_memcached(self.conns[&id].server) {
                self.reset(id);
            }
        }
    }
}

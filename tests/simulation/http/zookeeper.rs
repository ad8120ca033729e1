//! Pools that an ensemble keeps, as the simulation sees them from outside.
//!
//! The servers are the program's own, with its own sessions. What they write is looked at when the
//! first server of the ensemble applies it, which is the moment from which it is true whatever
//! happens. So each answer can be compared with what was true at some moment between the arrival of
//! its request and the answer itself:
//!
//! * YES: the run held the pool, with this token.
//! * NO to a renewal: it did not, or its holding was revoked.
//! * NO to `/get/`: no slot was free, or a client waited.
//! * OK to a release: it did not hold the pool.
//!
//! And each change with the one before it: tokens grow, there are never more holders than slots, no
//! entry of the queue is passed over, and each entry names its client.

use super::super::World;
use super::tcp::End;
use crate::ensemble::PoolState;
use crate::random::Random;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use zk_flock::internals::endpoint::{Address, Endpoint};

/// The node above those of the pools, and that of the pool.
pub const PATH: &str = "/distributex";
pub const NODE: &str = "/distributex/pool";

/// What the ensemble has had of the pool, and since when.
#[derive(Debug, Default)]
pub struct History {
    states: Vec<(u64, Pool)>,
    /// When each entry was created.
    entered: BTreeMap<String, u64>,
    /// When each run first asked for the pool.
    asked: BTreeMap<String, u64>,
    /// The tokens that were granted, and the runs that have had the pool.
    granted: BTreeSet<i64>,
    runs: BTreeSet<String>,
}

/// The pool at one moment.
#[derive(Clone, Debug, Default)]
struct Pool {
    newest_token: i64,
    /// All entries of the queue up to this one have ended.
    served: i64,
    holders: Vec<Holder>,
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Holder {
    host: String,
    run: Option<String>,
    token: i64,
    revoked: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    name: String,
    sequence: i64,
    /// The client that waits: its host and run.
    client: Option<(String, Option<String>)>,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    at: u64,
    call: String,
    host: String,
    run: Option<String>,
    token: Option<i64>,
}

impl Asked {
    /// The host that asks.
    pub fn host(&self) -> String {
        self.host.clone()
    }

    /// Of the bytes of a request that were read now.
    pub fn read(bytes: &[u8], at: u64) -> Option<Asked> {
        let text = String::from_utf8_lossy(bytes);
        let target = text.strip_prefix("GET /")?.split(' ').next()?.to_owned();
        let (call, parameters) = target.split_once("/?")?;
        let parameter = |name: &str| {
            let mut all = parameters.split('&').filter_map(|it| it.split_once('='));
            all.find(|(known, _)| *known == name)
                .map(|(_, value)| value.to_owned())
        };
        Some(Asked {
            at,
            call: call.to_owned(),
            host: parameter("host")?,
            run: parameter("run"),
            token: parameter("token").and_then(|token| token.parse().ok()),
        })
    }
}

impl Pool {
    fn of(state: &PoolState) -> Pool {
        let record: Value = serde_json::from_slice(&state.data).expect("a record");
        let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
        let holders = record["holders"].as_array().into_iter().flatten();
        let holders = holders.map(|holder| Holder {
            host: text(&holder["host"]).expect("a host"),
            run: text(&holder["run"]),
            token: holder["token"].as_i64().expect("a token"),
            revoked: holder["revoked"] == true,
        });
        let entries = state.children.iter().map(|(name, data)| {
            let data: Value = serde_json::from_slice(data).unwrap_or_default();
            let sequence = name.rsplit('-').next().and_then(|it| it.parse().ok());
            Entry {
                name: name.clone(),
                sequence: sequence.expect("a sequence number"),
                client: text(&data["host"])
                    .filter(|host| !host.is_empty())
                    .map(|host| (host, text(&data["run"]))),
            }
        });
        Pool {
            newest_token: record["last_token"].as_i64().expect("a token"),
            served: record["served"].as_i64().expect("a number"),
            holders: holders.collect(),
            entries: entries.collect(),
        }
    }

    /// The holding of a host that a request means.
    fn meant(&self, asked: &Asked) -> Option<&Holder> {
        let is_meant = |holder: &&Holder| {
            let is_run = holder.run.is_none() || holder.run == asked.run;
            let by_token = asked.token.is_none_or(|token| token == holder.token);
            let by_run = asked.call != "release" || holder.run == asked.run;
            let by_run = by_run || asked.run.is_none() || asked.token.is_some();
            holder.host == asked.host && by_token && by_run && (is_run || asked.run.is_none())
        };
        self.holders.iter().find(is_meant)
    }
}

impl super::Http {
    /// The node that is looked at, if there is an ensemble.
    pub fn node(&self) -> Option<&'static str> {
        self.pool.has_ensemble().then_some(NODE)
    }
}

impl World {
    /// The addresses of the ensemble, in the order in which a server tries them.
    pub(super) fn members(&mut self) -> Vec<Endpoint> {
        let lock_servers = self.http().hosts();
        let count = self.ensemble.size();
        let mut members: Vec<Endpoint> = (0..count)
            .map(|member| {
                let last = u8::try_from(lock_servers + member + 1).expect("few servers");
                Endpoint {
                    name: format!("s{member}:2181"),
                    address: Address::Tcp(([10, 0, 0, last], 2181).into()),
                }
            })
            .collect();
        shuffle(&mut members, &mut self.http().random);
        members
    }

    /// The pool has changed.
    pub(in super::super) fn pool_changed(&mut self, state: &PoolState) {
        let now = self.now;
        let pool = Pool::of(state);
        let slots = usize::from(self.http().pool.slots);
        if self.tracing {
            let holders = pool.holders.iter();
            let holders: Vec<_> = holders
                .map(|it| format!("{} {}", it.host, it.token))
                .collect();
            let entries: Vec<_> = pool.entries.iter().map(|it| &it.name).collect();
            self.note(&format!(
                "the pool: {holders:?}, entries {entries:?}, served {}",
                pool.served
            ));
        }
        let fault = self.http().history.fault(&pool, slots);
        if let Some(fault) = fault {
            self.violate(fault);
        }
        self.http().history.add(pool, now);
    }

    /// A request was read.
    pub(super) fn request_read(&mut self, asked: &Asked) {
        if let (Some(run), "get" | "wait") = (&asked.run, &*asked.call) {
            let first = &mut self.http().history.asked;
            first.entry(run.clone()).or_insert(asked.at);
        }
    }

    /// A server answers a request.
    pub(super) fn check_answer(&mut self, end: &End, bytes: &[u8]) {
        let Some(asked) = end.asked.clone() else {
            return;
        };
        let http = self.http();
        let mut ends = http.ends.values();
        let others_wait = ends.any(|it| it.server == end.server && it.place.is_some());
        let is_refused_rightly = others_wait && asked.call == "get";
        let slots = usize::from(http.pool.slots);
        if let Some(why) = http.history.refutes(&asked, bytes, slots)
            && !is_refused_rightly
        {
            let text = String::from_utf8_lossy(bytes);
            let word = text
                .rsplit("\r\n\r\n")
                .next()
                .unwrap_or_default()
                .to_owned();
            let server = end.server;
            self.violate(format!(
                "server {server} answers {word} to {} of {} ({:?}): {why}",
                asked.call, asked.host, asked.token
            ));
        }
    }

    /// All runs have ended.
    pub(super) fn check_pool_is_empty(&mut self) {
        let Some((_, pool)) = self.http().history.states.last() else {
            return;
        };
        if !pool.entries.is_empty() || !pool.holders.is_empty() {
            let what = format!("the pool is not empty at the end: {pool:?}");
            self.violate(what);
        }
    }
}

impl History {
    /// Whether a run has had the pool. It hears of it after those that were granted it later, if its
    /// server does; or never, if its lease ends in an outage.
    pub fn has_held(&self, run: &str) -> bool {
        self.runs.contains(run)
    }

    /// Whether the run asks for the first time by this request. Otherwise an earlier one, at another
    /// server, may have been granted the pool.
    pub fn is_first(&self, asked: &Asked) -> bool {
        let first = asked.run.as_ref().and_then(|run| self.asked.get(run));
        first == Some(&asked.at)
    }

    /// Whether one run first asked before the other, at whichever servers. True without an ensemble.
    pub fn asked_before(&self, one: &str, other: &str) -> bool {
        let asked = |run| self.asked.get(run);
        asked(one)
            .zip(asked(other))
            .is_none_or(|(one, other)| one < other)
    }

    /// The host with the lowest token, and its run.
    pub fn oldest_holder(&self) -> Option<(String, Option<String>)> {
        let (_, pool) = self.states.last()?;
        let oldest = pool.holders.iter().min_by_key(|it| it.token)?;
        Some((oldest.host.clone(), oldest.run.clone()))
    }

    fn add(&mut self, pool: Pool, now: u64) {
        for entry in &pool.entries {
            self.entered.entry(entry.name.clone()).or_insert(now);
        }
        self.granted.extend(pool.holders.iter().map(|it| it.token));
        let runs = pool.holders.iter().filter_map(|it| it.run.clone());
        self.runs.extend(runs);
        self.states.push((now, pool));
    }

    /// What is wrong with a change.
    fn fault(&self, pool: &Pool, slots: usize) -> Option<String> {
        let before = self.states.last().map_or(0, |(_, pool)| pool.newest_token);
        if pool.newest_token < before {
            return Some(format!(
                "tokens go back from {before} to {}",
                pool.newest_token
            ));
        }
        if pool.holders.len() > slots {
            return Some(format!("{slots} slots have holders {:?}", pool.holders));
        }
        if let Some(entry) = pool.entries.iter().find(|it| it.sequence <= pool.served) {
            return Some(format!("entry {} is passed over", entry.name));
        }
        if let Some(entry) = pool.entries.iter().find(|it| it.client.is_none()) {
            return Some(format!("entry {} does not name its client", entry.name));
        }
        let newcomers = pool
            .holders
            .iter()
            .filter(|it| !self.granted.contains(&it.token));
        newcomers.into_iter().find_map(|newcomer| {
            let token = newcomer.token;
            if token <= before {
                return Some(format!("token {token} is granted after {before}"));
            }
            let asked = *self.asked.get(newcomer.run.as_ref()?)?;
            let earlier = pool.entries.iter().find(|entry| {
                let at = self.entered.get(&entry.name);
                at.is_some_and(|&at| at < asked)
            })?;
            Some(format!(
                "{} gets the pool before {:?}, which waited when it asked",
                newcomer.host, earlier.client
            ))
        })
    }

    /// Why an answer cannot be true; `None`: it was true at some moment since its request arrived.
    fn refutes(&self, asked: &Asked, bytes: &[u8], slots: usize) -> Option<String> {
        let since = self.states.partition_point(|(at, _)| *at <= asked.at);
        let nothing = Pool::default();
        let first = since
            .checked_sub(1)
            .map_or(&nothing, |index| &self.states[index].1);
        let mut states = std::iter::once(first).chain(self.states[since..].iter().map(|it| &it.1));
        let text = String::from_utf8_lossy(bytes);
        let (head, word) = text.split_once("\r\n\r\n")?;
        let field = |name: &str| Some(head.split(name).nth(1)?.lines().next()?.trim().to_owned());
        match (&*asked.call, word) {
            ("get" | "wait" | "renew", "YES") => {
                let token: i64 = field("X-Lock-Token:")?.parse().ok()?;
                let is_held = states.any(|pool| {
                    let mut holders = pool.holders.iter();
                    holders.any(|it| it.host == asked.host && it.token == token)
                });
                (!is_held).then(|| format!("it has not held {token} since it asked"))
            }
            (_, "NO") if field("X-Lock-Revoked:").is_some() => {
                let revoked = states.any(|pool| pool.meant(asked).is_some_and(|it| it.revoked));
                (!revoked).then(|| "it was not revoked".into())
            }
            ("renew", "NO") => {
                let lost = states.any(|pool| pool.meant(asked).is_none_or(|it| it.revoked));
                (!lost).then(|| "it has held the pool since it asked".into())
            }
            ("get", "NO") => {
                let is_full = |pool: &Pool| pool.holders.len() >= slots;
                let is_held = |pool: &Pool| pool.holders.iter().any(|it| it.host == asked.host);
                let refused =
                    states.any(|pool| is_full(pool) || is_held(pool) || !pool.entries.is_empty());
                (!refused).then(|| "slots were free, and no client waited".into())
            }
            ("release", "OK") => {
                let free = states.any(|pool| pool.meant(asked).is_none());
                (!free).then(|| "it has held the pool since it asked".into())
            }
            _ => None,
        }
    }
}

/// Puts these into another order.
fn shuffle<T>(these: &mut [T], random: &mut Random) {
    for last in (1..these.len()).rev() {
        let other = usize::try_from(random.below(last as u64 + 1)).expect("an index");
        these.swap(last, other);
    }
}

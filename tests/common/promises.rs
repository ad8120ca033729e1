//! The one model of what a lock server promises (distributexd(8), PROMISES): it is given the
//! requests and replies of all clients, of any backend, and reports each broken promise. It does
//! not know the servers, so reloads, restarts and several servers change nothing.
//!
//! Times are of one monotonic clock. Uncertainty counts for the server: a lease begins at the
//! earliest moment at which it can have been granted, and a holding ends when its release is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The least that a lease may be told (`pool::lease::MIN_CLIENT_LEASE`), rounded down to milliseconds as
/// headers are.
const LEAST: Duration = Duration::from_millis(299);

/// A lease that lasts until it is released.
const UNTIL_RELEASED: Duration = Duration::MAX;

/// How long a reply may be in flight. Older facts are forgotten.
const LONGEST_ANSWER: Duration = Duration::from_secs(20);

/// How many tokens are remembered, to check that later ones are greater.
const MOST_HEARD: usize = 20_000;

/// A client: a host, and the id of its run if it has one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Client {
    /// The host's name.
    pub host: String,
    /// The id of the run.
    pub run: Option<String>,
}

/// When a request was sent and when its reply was received.
pub type Span = (Duration, Duration);

/// What the server has promised so far, and the promises that it broke.
#[derive(Default, Debug)]
pub struct Promises {
    pools: BTreeMap<String, Pool>,
    /// One sentence for each broken promise.
    pub violations: Vec<String>,
}

#[derive(Default, Debug)]
struct Pool {
    maxlocks: u32,
    /// The largest number of holders ever.
    most: u32,
    /// By token.
    holdings: BTreeMap<i64, Holding>,
    /// Hosts with a revoked holding.
    revoked: BTreeSet<String>,
    /// When a token was first received, and the greatest until then.
    heard: Vec<(Duration, i64)>,
}

#[derive(Debug)]
struct Holding {
    host: String,
    run: Option<String>,
    until: Duration,
    /// When it was last confirmed to the client.
    told: Duration,
    released: bool,
    /// When its revocation was requested, and when that was confirmed.
    revoked: Option<Duration>,
    confirmed: Option<Duration>,
}

impl Holding {
    fn lasts(&self, at: Duration) -> bool {
        !self.released && self.until > at
    }

    fn belongs_to(&self, client: &Client) -> bool {
        self.host == client.host && (self.run.is_none() || self.run == client.run)
    }
}

impl Promises {
    /// Sets the pool's number of slots, while its earlier holders may stay.
    pub fn maxlocks_may_be(&mut self, pool: &str, maxlocks: u32) {
        let pool = self.pools.entry(pool.into()).or_default();
        pool.maxlocks = pool.maxlocks.max(maxlocks);
        pool.most = pool.most.max(maxlocks);
    }

    /// Grants no more than this many from now on; 0 if the pool is not in the config.
    pub fn maxlocks_is(&mut self, pool: &str, maxlocks: u32) {
        self.maxlocks_may_be(pool, maxlocks);
        self.pools.entry(pool.into()).or_default().maxlocks = maxlocks;
    }

    /// A client was told that it holds the pool.
    pub fn yes(
        &mut self,
        pool: &str,
        client: &Client,
        token: i64,
        expires: Option<Duration>,
        (sent, heard): Span,
    ) {
        let known = self.pools.entry(pool.into()).or_default();
        let mut broken = Vec::new();
        if expires.is_some_and(|expires| expires < LEAST) {
            broken.push(format!("is told a lease of {expires:?}"));
        }
        for (other, holding) in known
            .holdings
            .iter()
            .filter(|(other, holding)| **other != token && holding.lasts(heard))
        {
            if holding.host == client.host {
                broken.push(format!(
                    "is told token {token}, but {:?} of its host holds by token {other}",
                    holding.run
                ));
            }
        }
        match known.holdings.get(&token) {
            Some(holding) if !holding.belongs_to(client) => {
                broken.push(format!(
                    "is told token {token} of {}/{:?}",
                    holding.host, holding.run
                ));
            }
            Some(holding) if holding.confirmed.is_some_and(|confirmed| confirmed <= sent) => {
                broken.push(format!(
                    "is told that it holds by token {token}, which is revoked"
                ));
            }
            Some(holding) if holding.until == UNTIL_RELEASED && expires.is_some() => {
                broken.push(format!(
                    "was told that it holds until released, and now that it does for {expires:?}"
                ));
            }
            Some(_) => {}
            None => {
                let others = known
                    .holdings
                    .values()
                    .filter(|holding| holding.lasts(heard))
                    .count();
                if others >= usize::try_from(known.maxlocks).expect("maxlocks are few") {
                    broken.push(format!(
                        "is let in by token {token} beside {others}, of {}: {:?}",
                        known.maxlocks,
                        known.lasting(heard)
                    ));
                }
                let earlier = known.heard.partition_point(|(when, _)| *when < sent);
                // Of several holders an earlier one may be told later, if its first answer was
                // lost.
                if earlier > 0 && known.heard[earlier - 1].1 >= token && known.most < 2 {
                    broken.push(format!(
                        "is told token {token}, and {} was given before",
                        known.heard[earlier - 1].1
                    ));
                }
            }
        }
        known.learn(
            client,
            token,
            sent.saturating_add(expires.unwrap_or(UNTIL_RELEASED)),
            heard,
        );
        self.report(pool, client, heard, broken);
    }

    /// A client that wanted to hold or renew was told NO; with the header that says so, because its
    /// holding is revoked.
    pub fn no(&mut self, pool: &str, client: &Client, revoked: bool, (sent, heard): Span) {
        let known = self.pools.entry(pool.into()).or_default();
        let mut broken = Vec::new();
        // It may have been granted after this was asked, on another connection: then NO was right.
        let its = |holding: &&Holding| holding.belongs_to(client) && holding.lasts(heard);
        for holding in known.holdings.values().filter(its) {
            let is_revoked = holding.revoked.is_some_and(|revoked| revoked <= heard);
            let was_known = known.heard.iter().any(|(when, token)| {
                *when < sent
                    && known
                        .holdings
                        .get(token)
                        .is_some_and(|its| std::ptr::eq(its, holding))
            });
            if !is_revoked && was_known {
                broken.push(format!("is told NO, but holds until {:?}", holding.until));
            }
        }
        // It may hold without knowing, if a YES was lost.
        if revoked && !known.revoked.contains(&client.host) {
            broken.push("is told that its holding is revoked, and nothing of its host was".into());
        }
        self.report(pool, client, heard, broken);
    }

    /// A client sends a release: from now on it does not count on what that means.
    pub fn releases(&mut self, pool: &str, client: &Client, token: Option<i64>) {
        for (its, holding) in &mut self.pools.entry(pool.into()).or_default().holdings {
            holding.released |= match (token, &client.run) {
                (Some(token), None) => token == *its && holding.host == client.host,
                (Some(token), Some(_)) => token == *its && holding.belongs_to(client),
                (None, Some(_)) => holding.host == client.host && holding.run == client.run,
                (None, None) => holding.host == client.host,
            };
        }
    }

    /// An operator sends a revocation.
    pub fn revokes(&mut self, pool: &str, host: &str, sent: Duration) {
        let known = self.pools.entry(pool.into()).or_default();
        known.revoked.insert(host.into());
        for holding in known
            .holdings
            .values_mut()
            .filter(|holding| holding.host == host)
        {
            holding.revoked = holding.revoked.or(Some(sent));
        }
    }

    /// And is told that it holds.
    pub fn is_revoked(&mut self, pool: &str, token: i64, heard: Duration) {
        if let Some(holding) = self
            .pools
            .entry(pool.into())
            .or_default()
            .holdings
            .get_mut(&token)
        {
            holding.confirmed = holding.confirmed.or(Some(heard));
        }
    }

    /// The token by which a client holds the pool, as far as it knows.
    pub fn token(&self, pool: &str, client: &Client, at: Duration) -> Option<i64> {
        let mut holdings = self.pools.get(pool)?.holdings.iter();
        holdings
            .find(|(_, holding)| holding.belongs_to(client) && holding.lasts(at))
            .map(|(token, _)| *token)
    }

    /// How many hold the pool, as far as they know.
    pub fn holders(&self, pool: &str, at: Duration) -> usize {
        self.pools.get(pool).map_or(0, |pool| {
            pool.holdings
                .values()
                .filter(|holding| holding.lasts(at))
                .count()
        })
    }

    fn report(&mut self, pool: &str, client: &Client, at: Duration, broken: Vec<String>) {
        let Client { host, run } = client;
        self.violations.extend(broken.into_iter().map(|what| {
            format!(
                "at {at:?} in {pool}, {host}/{} {what}",
                run.as_deref().unwrap_or("-")
            )
        }));
    }
}

impl Pool {
    fn learn(&mut self, client: &Client, token: i64, until: Duration, heard: Duration) {
        let is_known = self.holdings.contains_key(&token);
        if !is_known {
            let greatest = self
                .heard
                .last()
                .map_or(token, |(_, greatest)| token.max(*greatest));
            self.heard.push((heard, greatest));
        }
        let Client { host, run } = client.clone();
        let fresh = Holding {
            host,
            run,
            until,
            told: heard,
            released: false,
            revoked: None,
            confirmed: None,
        };
        let holding = self.holdings.entry(token).or_insert(fresh);
        (holding.until, holding.told) = (holding.until.max(until), heard);
        // No answer is on its way for so long.
        let over = heard.saturating_sub(LONGEST_ANSWER);
        self.holdings
            .retain(|_, holding| holding.lasts(heard) || holding.told >= over);
        let old = self.heard.len().saturating_sub(MOST_HEARD);
        self.heard.drain(..old);
    }

    fn lasting(&self, at: Duration) -> Vec<(i64, &Holding)> {
        self.holdings
            .iter()
            .filter(|(_, holding)| holding.lasts(at))
            .map(|(token, holding)| (*token, holding))
            .collect()
    }
}

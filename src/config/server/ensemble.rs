//! The keys of `backend: zookeeper`.

use super::super::node::{Entry, Value};
use super::{Fault, OnLine, mapping, on_line, text, wrong};
use crate::plan::{Acl, Auth, Pool, PoolEnsemble, duration, hosts, names};
use std::time::Duration;

/// The session timeout without `timeout`. If a server dies, the waiters of other servers wait so
/// long behind its own.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

const DEFAULT_HOST: &str = "localhost:2181";
const DEFAULT_PATH: &str = "/distributex";

/// The most bytes of one holder in the node of a pool: a host of 255 bytes of which each may need an escape, a run
/// of 64, and the other values.
const MAX_HOLDER: usize = 2 * 255 + 64 + 176;

/// The entries, before it is known which backend is used.
#[derive(Debug, Default)]
pub(super) struct EnsembleConfig<'a> {
    entries: Vec<&'a Entry>,
}

impl<'a> EnsembleConfig<'a> {
    pub(super) fn add(&mut self, entry: &'a Entry) {
        self.entries.push(entry);
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().copied()
    }

    /// The ensemble, and warnings.
    pub(super) fn take(&self) -> Result<(PoolEnsemble, Vec<String>), OnLine> {
        let (mut servers, mut path) = (DEFAULT_HOST.to_owned(), DEFAULT_PATH.to_owned());
        let (mut timeout, mut auth, mut acl) = (DEFAULT_TIMEOUT, None, None);
        let mut lines = (0, 0);
        for entry in &self.entries {
            match entry.key.as_str() {
                "host" => (servers, lines.0) = (host(entry)?, entry.line),
                "path" => {
                    text(entry, "the path of a node")?.clone_into(&mut path);
                    lines.1 = entry.line;
                }
                "timeout" => timeout = session_timeout(entry)?,
                "auth" => auth = Some(credentials(entry)?),
                _ => acl = Some(choice(entry)?),
            }
        }
        let fault = |line, key, why| (line, Fault::ZooKeeper { key, why });
        let found =
            hosts::parse(&servers).map_err(|flaw| fault(lines.0, "host", flaw.to_string()))?;
        let path = path.trim_end_matches('/');
        let is_path = path
            .strip_prefix('/')
            .is_some_and(|path| path.split('/').all(|name| names::check_node(name).is_ok()));
        if !is_path {
            let why = "expected the path of a node, like /distributex".to_owned();
            return Err(fault(lines.1, "path", why));
        }
        let default = if auth.is_some() {
            Acl::Creator
        } else {
            Acl::Open
        };
        let acl = acl.unwrap_or(default);
        if acl == Acl::Creator && auth.is_none() {
            let why = "\"creator\" needs \"auth\"".to_owned();
            let line = self.entries.iter().find(|entry| entry.key == "acl");
            return Err(fault(line.map_or(0, |entry| entry.line), "acl", why));
        }
        let warnings = (acl == Acl::Open).then(|| {
            let why =
                "\"acl\": open: each client of ZooKeeper can change the holders (set \"auth\")";
            on_line(self.entries.first().map_or(1, |entry| entry.line), why)
        });
        let ensemble = PoolEnsemble {
            hosts: found.hosts,
            timeout,
            auth,
            acl,
            path: format!("{}{path}", found.chroot),
        };
        Ok((ensemble, warnings.into_iter().collect()))
    }
}

/// Refuses a pool whose holders would not fit into one node.
pub(super) fn check_pools(pools: &[Pool], lines: &[usize]) -> Result<(), OnLine> {
    let most = u32::try_from(PoolEnsemble::MAX_RECORD / MAX_HOLDER).unwrap_or(u32::MAX);
    let mut pools = pools.iter().zip(lines);
    match pools.find(|(pool, _)| pool.permits > most) {
        None => Ok(()),
        Some((pool, line)) => {
            let pool = pool.name.clone();
            Err((*line, Fault::TooManyHolders { pool, most }))
        }
    }
}

/// Servers, as text with commas between them or as a list.
fn host(entry: &Entry) -> Result<String, OnLine> {
    const EXPECTED: &str = "servers as HOST:PORT: a list, or text with commas between them";
    match &entry.value.value {
        Value::List(items) => {
            let names = items.iter().map(|item| match &item.value {
                Value::Text(name) => Some(name.as_str()),
                _ => None,
            });
            let names = names.collect::<Option<Vec<_>>>();
            Ok(names.ok_or_else(|| wrong(entry, EXPECTED))?.join(","))
        }
        _ => Ok(text(entry, EXPECTED)?.to_owned()),
    }
}

fn session_timeout(entry: &Entry) -> Result<Duration, OnLine> {
    let seconds = match &entry.value.value {
        Value::Number(number) => number.as_f64(),
        Value::Text(text) => duration::time(text),
        _ => None,
    };
    seconds
        .and_then(duration::session_timeout)
        .ok_or_else(|| wrong(entry, "the session timeout in seconds"))
}

fn credentials(entry: &Entry) -> Result<Auth, OnLine> {
    let (mut scheme, mut data) = (None, None);
    for entry in mapping(&entry.value, "\"scheme\" and \"data\"")? {
        match entry.key.as_str() {
            "scheme" => scheme = Some(text(entry, "a scheme, like digest")?.to_owned()),
            "data" => data = Some(text(entry, "credentials, like user:password")?.to_owned()),
            _ => return Err(wrong(entry, "only \"scheme\" and \"data\" in \"auth\"")),
        }
    }
    let missing = |key| {
        (
            entry.line,
            Fault::ZooKeeper {
                key: "auth",
                why: format!("{key:?} is missing"),
            },
        )
    };
    Ok(Auth {
        scheme: scheme.ok_or_else(|| missing("scheme"))?,
        data: data.ok_or_else(|| missing("data"))?,
    })
}

fn choice(entry: &Entry) -> Result<Acl, OnLine> {
    const EXPECTED: &str = "\"open\" or \"creator\"";
    match text(entry, EXPECTED)? {
        "open" => Ok(Acl::Open),
        "creator" => Ok(Acl::Creator),
        _ => Err(wrong(entry, EXPECTED)),
    }
}

//! The keys of `backend: zookeeper`.

use super::super::node::{Entry, Value};
use super::{Fault, OnLine, mapping, on_line, text, wrong};
use crate::plan::connection::{Proxy, Tls};
use crate::plan::{Acl, Auth, Connection, Host, Pool, PoolEnsemble, duration, hosts, names};
use std::time::Duration;

/// The session timeout without `timeout`. If a server dies, the waiters of other servers wait behind
/// its own for this time.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

const DEFAULT_HOST: &str = "localhost:2181";
const DEFAULT_PATH: &str = "/distributex";

/// The most bytes of one holder in the node of a pool: a host of 255 bytes, each of which may need an
/// escape, a run of 64, the ids of four servers, and the other values.
const MAX_HOLDER: usize = 2 * 255 + 64 + 90 + 176;

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
        let mut connection = None;
        for entry in &self.entries {
            match entry.key.as_str() {
                "host" => servers = host(entry)?,
                "path" => text(entry, "the path of a node")?.clone_into(&mut path),
                "timeout" => timeout = session_timeout(entry)?,
                "auth" => auth = Some(credentials(entry)?),
                "proxy" | "tls" => {
                    if let Some((key, _)) = connection {
                        let why = format!("cannot be used with {key:?}");
                        return Err(unusable(entry, why));
                    }
                    connection = Some((entry.key.as_str(), self::connection(entry)?));
                }
                _ => acl = Some(choice(entry)?),
            }
        }
        let fault = |key, why| (self.line(key), Fault::ZooKeeper { key, why });
        let found = hosts::parse(&servers).map_err(|flaw| fault("host", flaw.to_string()))?;
        let path = path.trim_end_matches('/');
        let is_path = path
            .strip_prefix('/')
            .is_some_and(|path| path.split('/').all(|name| names::check_node(name).is_ok()));
        if !is_path {
            let why = "expected the path of a node, like /distributex".to_owned();
            return Err(fault("path", why));
        }
        let connection = self.checked_connection(connection, &found.hosts)?;
        let is_known = auth.is_some() || connection.shows_certificate();
        let acl = acl.unwrap_or(if is_known { Acl::Creator } else { Acl::Open });
        if acl == Acl::Creator && !is_known {
            let why = "\"creator\" needs \"auth\", or \"tls\" with \"cert\"".to_owned();
            return Err(fault("acl", why));
        }
        let warnings = (acl == Acl::Open).then(|| {
            let why =
                "\"acl\": open: each client of ZooKeeper can change the holders (set \"auth\", or \"tls\" with \"cert\")";
            on_line(self.entries.first().map_or(1, |entry| entry.line), why)
        });
        let ensemble = PoolEnsemble {
            hosts: found.hosts,
            connection,
            timeout,
            auth,
            acl,
            path: format!("{}{path}", found.chroot),
        };
        Ok((ensemble, warnings.into_iter().collect()))
    }

    /// The connection. A unix socket needs no command that connects.
    fn checked_connection(
        &self,
        connection: Option<(&str, Connection)>,
        hosts: &[Host],
    ) -> Result<Connection, OnLine> {
        let Some((key, connection)) = connection else {
            return Ok(Connection::Direct);
        };
        let is_socket = |host: &&Host| matches!(host, Host::Unix(_));
        match (hosts.iter().find(is_socket), self.entry(key)) {
            (Some(host), Some(entry)) => {
                Err(unusable(entry, format!("cannot be used with {host}")))
            }
            _ => Ok(connection),
        }
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().copied().find(|entry| entry.key == key)
    }

    /// The line of a key; 0 if it is missing.
    fn line(&self, key: &str) -> usize {
        self.entry(key).map_or(0, |entry| entry.line)
    }
}

/// The key of this entry has a value that cannot be used.
fn unusable(entry: &Entry, why: String) -> OnLine {
    let key = match entry.key.as_str() {
        "proxy" => "proxy",
        _ => "tls",
    };
    (entry.line, Fault::ZooKeeper { key, why })
}

/// The command of `proxy`, or the files of `tls`.
fn connection(entry: &Entry) -> Result<Connection, OnLine> {
    if entry.key == "proxy" {
        let command = text(entry, "a command, as text")?;
        let proxy = Proxy::parse(command.as_ref());
        return proxy
            .map(Connection::Proxy)
            .map_err(|flaw| unusable(entry, flaw.to_string()));
    }
    let mut tls = Tls::default();
    for part in mapping(
        &entry.value,
        "the files of \"tls\", as in \"ca: /etc/ssl/zk.pem\"",
    )? {
        let value = || Ok(text(part, "text")?.to_owned());
        match part.key.as_str() {
            "ca" => tls.ca = Some(value()?.into()),
            "cert" => tls.cert = Some(value()?.into()),
            "key" => tls.key = Some(value()?.into()),
            "name" => tls.name = Some(value()?),
            other => {
                let why = format!("{other:?} is not known: expected ca, cert, key or name");
                return Err((part.line, Fault::ZooKeeper { key: "tls", why }));
            }
        }
    }
    if tls.key.is_some() && tls.cert.is_none() {
        return Err(unusable(entry, "\"key\" needs \"cert\"".to_owned()));
    }
    Ok(Connection::Tls(tls))
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

//! The config of the lock server: YAML or JSON, parsed from text to [`Config`]. Keys and defaults
//! are those of the original, with a few more. A fault is an error with file and line: a pool that
//! is configured by mistake may let two hosts run at once.

mod access;
mod ensemble;

use super::node::{Entry, Node, Value};
use super::{json, yaml};
use crate::edit_distance;
use crate::in_file::InFile;
use crate::plan::access::NetworkFlaw;
use crate::plan::{Backend, Host, Pool, duration};
use ensemble::EnsembleConfig;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use access::AccessConfig;

/// The values of a config, with the defaults of missing keys.
#[derive(PartialEq, Eq, Debug)]
pub struct Config {
    /// Where the holders are stored.
    pub backend: Backend,
    /// In the order of the file.
    pub pools: Vec<Pool>,
    /// Who may use them.
    pub access: AccessConfig,
    /// `None`: all addresses.
    pub listen: Option<IpAddr>,
    /// `None`: the port of the original.
    pub port: Option<u16>,
    /// The path as it is in the file.
    pub state: Option<PathBuf>,
    /// Problems that do not stop the server, one sentence each.
    pub warnings: Vec<String>,
    /// Unknown keys, one sentence each. Most are typing errors, so `--check` refuses them.
    pub unknown: Vec<String>,
}

/// What is wrong with a config, and where.
pub type Error = InFile<Fault>;

/// A fault and its line.
type OnLine = (usize, Fault);

/// What is wrong with a config.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Fault {
    /// The text is not in the part of YAML that [`yaml`] reads.
    Yaml(yaml::Flaw),
    /// The text is not JSON.
    Json(serde_json::Error),
    /// An object in JSON has a key twice.
    DuplicateKey { key: String, first: usize },
    /// A mapping is required, but this is another value.
    NoMapping { what: &'static str, found: String },
    /// The key is unknown here, and probably one that restricts access.
    Unrestricted { key: String, meant: &'static str },
    /// There are access tokens, and none of them may use this pool.
    NoTokens { pool: String },
    /// A text is not a network.
    Network { found: String, flaw: NetworkFlaw },
    /// The servers or the path of ZooKeeper cannot be used.
    ZooKeeper { key: &'static str, why: String },
    /// The holders of a pool would not fit into a node.
    TooManyHolders { pool: String, most: u32 },
    /// A pool lacks a key.
    Missing { key: &'static str },
    /// A pool in a mapping by name has the name of a key of pools.
    NoDash { key: String },
    /// A pool in a mapping by name has a key for its name, too.
    NamedTwice,
    /// A value has the wrong type.
    Wrong {
        key: String,
        expected: &'static str,
        found: String,
    },
    /// A value has the right type, but cannot be used.
    Invalid {
        key: String,
        found: String,
        flaw: NameFlaw,
    },
}

/// Why a name is refused.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum NameFlaw {
    Empty,
    TooLong,
    Character(char),
    /// The pool on this line has the same name.
    Taken {
        line: usize,
    },
    /// The text is not the name of a host.
    NotHost,
}

/// How long a grant is valid without `expire`, as in the original.
const DEFAULT_EXPIRE: Duration = Duration::from_mins(30);

/// The memcached without `memcachehost` and `memcacheport`.
const DEFAULT_MEMCACHE: (&str, u16) = ("localhost", 11211);

/// The seconds for which a pool can be held, apart from 0: at least 1 second, of which a
/// client is told half, which is enough to renew it; at most 31 years.
const EXPIRE_RANGE: std::ops::RangeInclusive<f64> = 1.0..=1e9;

/// `distributex` refuses a lease below this many seconds, of which the server tells it about half:
/// it could not renew in time.
const SHORTEST_USABLE: Duration = Duration::from_secs(2);

/// The most bytes in the name of a pool: `NAME:lockedby` is a memcached key, and such a key has 250
/// bytes at most.
const MAX_NAME: usize = 240;

/// The most warnings that are kept, so that a file that is not a config does not fill the log.
const MAX_WARNINGS: usize = 20;

const TEXT: &str = "text";

const VALUES: &str = "the values of a pool, as in \"expire: 300\"";

const POOLS: &str = "a list of pools, or a mapping of their names to their values";

const KEYS: [&str; 17] = [
    "access_tokens",
    "public_status",
    "networks",
    "backend",
    "memcachehost",
    "memcacheport",
    "host",
    "proxy",
    "tls",
    "timeout",
    "auth",
    "acl",
    "path",
    "pools",
    "listen",
    "port",
    "state",
];
const POOL_KEYS: [&str; 7] = [
    "name",
    "expire",
    "maxlocks",
    "servers",
    "access_tokens",
    "networks",
    "require_fencing_token",
];

/// An unknown key that is nearly one of these, or is one of them at another place, is an error: the
/// server would be open to clients that the operator meant to keep out.
const RESTRICTING_KEYS: [&str; 3] = ["access_tokens", "networks", "require_fencing_token"];

/// Keys with this prefix are ignored. They can hold anchors.
const IGNORED_PREFIX: &str = "x-";

/// The byte order mark, which some editors put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

impl Default for Config {
    fn default() -> Config {
        Config {
            backend: Backend::Memory,
            pools: Vec::new(),
            access: AccessConfig::default(),
            listen: None,
            port: None,
            state: None,
            warnings: Vec::new(),
            unknown: Vec::new(),
        }
    }
}

impl Config {
    /// Parses the text of the file at `path`; the path is only for messages.
    pub fn parse(text: &[u8], path: &Path) -> Result<Config, Error> {
        let error = |(line, fault)| InFile::new(path, Some(line), fault);
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        let tree = match str::from_utf8(text) {
            Ok(text) if text.trim_start().starts_with('{') => json::parse(text)
                .or_else(|fault| yaml::parse(text.as_bytes()).map_err(|_| json_fault(fault))),
            _ => yaml::parse(text).map_err(|yaml::Error { line, flaw }| (line, Fault::Yaml(flaw))),
        };
        let mut config = Config::default();
        tree.and_then(|tree| config.take(&tree)).map_err(error)?;
        if config.pools.is_empty() {
            config
                .warnings
                .push(": no pools are defined: every request will be answered INVALID".into());
        }
        let more = config.warnings.len().saturating_sub(MAX_WARNINGS);
        config.warnings.truncate(MAX_WARNINGS);
        config
            .warnings
            .extend((more > 0).then(|| format!(": {more} more warnings are not shown")));
        let sentences = config.warnings.iter_mut().chain(&mut config.unknown);
        sentences.for_each(|sentence| *sentence = format!("{}{sentence}", path.display()));
        Ok(config)
    }

    fn take(&mut self, tree: &Node) -> Result<(), OnLine> {
        let (mut kind, mut host, mut port) =
            (BackendKind::Memory, DEFAULT_MEMCACHE.0, DEFAULT_MEMCACHE.1);
        let mut ensemble = EnsembleConfig::default();
        let mut line_of_state = 0;
        let mut lines_of_pools = Vec::new();
        for entry in mapping(tree, "keys and values")? {
            match entry.key.as_str() {
                "backend" => kind = backend(entry)?,
                "memcachehost" => host = memcached_host(entry)?,
                "memcacheport" => port = number(entry, "a port, 1 to 65535")?,
                "host" | "proxy" | "tls" | "timeout" | "auth" | "acl" | "path" => {
                    ensemble.add(entry);
                }
                "pools" => (self.pools, lines_of_pools) = self.pools(entry)?,
                "listen" => {
                    self.listen = Some(
                        text(entry, ADDRESS)?
                            .parse()
                            .map_err(|_| wrong(entry, ADDRESS))?,
                    );
                }
                "port" => self.port = Some(number(entry, "a port, 1 to 65535")?),
                "state" => {
                    self.state = Some(text(entry, "a file")?.into());
                    line_of_state = entry.line;
                }
                "access_tokens" => self.access.tokens = access::token_files(entry)?,
                "public_status" => self.access.public_status = access::boolean(entry)?,
                "networks" => self.access.networks = Some(access::networks(entry)?),
                key if key.starts_with(IGNORED_PREFIX) => {}
                _ => self.unknown(entry, &KEYS)?,
            }
        }
        self.access.check_pools(&self.pools, &lines_of_pools)?;
        match kind {
            BackendKind::ZooKeeper => {
                ensemble::check_pools(&self.pools, &lines_of_pools)?;
                let (ensemble, warnings) = ensemble.take()?;
                self.backend = Backend::ZooKeeper(ensemble);
                self.warnings.extend(warnings);
            }
            BackendKind::Memory | BackendKind::Memcached => {
                for entry in ensemble.entries() {
                    let sentence =
                        format!("{:?}: not used without \"backend: zookeeper\"", entry.key);
                    self.warnings.push(on_line(entry.line, &sentence));
                }
            }
        }
        if kind == BackendKind::Memcached {
            let mut pools = self.pools.iter().zip(lines_of_pools);
            if let Some((pool, line)) = pools.find(|(pool, _)| pool.name.contains(' ')) {
                return Err(invalid(line, &pool.name, NameFlaw::Character(' ')));
            }
            self.backend = Backend::Memcache(Host::Tcp {
                name: host.to_owned(),
                port,
            });
        }
        let keeper = match kind {
            BackendKind::Memory => return Ok(()),
            BackendKind::Memcached => "memcached",
            BackendKind::ZooKeeper => "ZooKeeper",
        };
        if self.state.take().is_some() {
            let sentence = format!("\"state\": not used, because {keeper} keeps the holders");
            self.warnings.push(on_line(line_of_state, &sentence));
        }
        Ok(())
    }

    /// The pools, and the lines of their names. They are a list, or a mapping by name.
    fn pools(&mut self, entry: &Entry) -> Result<(Vec<Pool>, Vec<usize>), OnLine> {
        let (mut pools, mut lines) = (Vec::new(), Vec::new());
        match &entry.value.value {
            Value::List(items) => {
                let mut lines_of_names = HashMap::new();
                for item in items {
                    let (pool, line) = self.pool(item)?;
                    if let Some(first) = lines_of_names.insert(pool.name.clone(), line) {
                        return Err(invalid(line, &pool.name, NameFlaw::Taken { line: first }));
                    }
                    pools.push(pool);
                    lines.push(line);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    pools.push(self.pool_by_name(entry)?);
                    lines.push(entry.line);
                }
            }
            _ => return Err(wrong(entry, POOLS)),
        }
        Ok((pools, lines))
    }

    /// A pool whose name is the key of its values, if it has any. A name that is a key of pools is
    /// refused: more likely, the dash of a list is missing.
    fn pool_by_name(&mut self, entry: &Entry) -> Result<Pool, OnLine> {
        let name = check_name(entry.line, &entry.key)?;
        if POOL_KEYS.contains(&name.as_str()) {
            return Err((entry.line, Fault::NoDash { key: name }));
        }
        let (pool, named) = match &entry.value.value {
            Value::Null => (default_pool(name), None),
            _ => self.pool_values(mapping(&entry.value, VALUES)?, default_pool(name))?,
        };
        match named {
            Some(line) => Err((line, Fault::NamedTwice)),
            None => Ok(pool),
        }
    }

    /// A pool in a list, and the line of its name.
    fn pool(&mut self, item: &Node) -> Result<(Pool, usize), OnLine> {
        let entries = mapping(item, "a pool with its \"name\"")?;
        let (pool, named) = self.pool_values(entries, default_pool(String::new()))?;
        let line = named.ok_or((item.line, Fault::Missing { key: "name" }))?;
        Ok((pool, line))
    }

    /// A pool with these values, and the line of its name if that is among them.
    fn pool_values(
        &mut self,
        entries: &[Entry],
        mut pool: Pool,
    ) -> Result<(Pool, Option<usize>), OnLine> {
        let mut named = None;
        let mut access = access::OfPool::default();
        for entry in entries {
            match entry.key.as_str() {
                "name" => {
                    pool.name = name(entry)?;
                    named = Some(entry.line);
                }
                "expire" => {
                    if entry.value.value == Value::Null {
                        self.warnings.push(on_line(
                            entry.line,
                            "\"expire\": empty, using 0: leases do not end",
                        ));
                    }
                    pool.expire = expire(entry)?;
                    if pool.expire.is_some_and(|expire| expire < SHORTEST_USABLE) {
                        self.warnings.push(on_line(
                            entry.line,
                            "\"expire\": distributex refuses a lease this short: use 2 or more",
                        ));
                    }
                }
                "maxlocks" => pool.permits = number(entry, "the number of holders, 1 or more")?,
                "servers" => {
                    pool.servers = servers(entry)?;
                    if pool.servers.is_none() {
                        self.warnings.push(on_line(
                            entry.line,
                            "\"servers\": empty, so that any host may request the pool",
                        ));
                    }
                }
                "access_tokens" => access.tokens = access::token_files(entry)?,
                "networks" => access.rules.networks = Some(access::networks(entry)?),
                "require_fencing_token" => {
                    access.rules.requires_fencing_token = access::boolean(entry)?;
                }
                _ => self.unknown(entry, &POOL_KEYS)?,
            }
        }
        self.access.add(&pool.name, access);
        Ok((pool, named))
    }

    fn unknown(&mut self, entry: &Entry, known: &[&'static str]) -> Result<(), OnLine> {
        let key = super::node::shown(&entry.key);
        if let Some(meant) = edit_distance::closest(&entry.key, &RESTRICTING_KEYS) {
            return Err((entry.line, Fault::Unrestricted { key, meant }));
        }
        let meant = if self.unknown.len() < MAX_WARNINGS {
            edit_distance::closest(&entry.key, known)
        } else {
            None
        };
        let hint = meant
            .map(|meant| format!(" (did you mean {meant:?}?)"))
            .unwrap_or_default();
        let sentence = on_line(entry.line, &format!("{key}: unknown key{hint}"));
        self.unknown.push(sentence.clone());
        self.warnings.push(sentence);
        Ok(())
    }
}

/// A pool with this name and otherwise default values.
fn default_pool(name: String) -> Pool {
    Pool {
        name,
        expire: Some(DEFAULT_EXPIRE),
        permits: 1,
        servers: None,
    }
}

/// A sentence about a line, to which the path of the file is prepended: `:3: SENTENCE`.
fn on_line(line: usize, sentence: &str) -> String {
    format!(":{line}: {sentence}")
}

const ADDRESS: &str = "an IP address";

fn mapping<'a>(node: &'a Node, what: &'static str) -> Result<&'a [Entry], OnLine> {
    match &node.value {
        Value::Map(entries) => Ok(entries),
        other => {
            let found = other.shown();
            Err((node.line, Fault::NoMapping { what, found }))
        }
    }
}

fn text<'a>(entry: &'a Entry, expected: &'static str) -> Result<&'a str, OnLine> {
    match &entry.value.value {
        Value::Text(text) if !text.is_empty() => Ok(text),
        _ => Err(wrong(entry, expected)),
    }
}

/// A whole number above zero.
fn number<T: TryFrom<u64>>(entry: &Entry, expected: &'static str) -> Result<T, OnLine> {
    let Value::Number(number) = &entry.value.value else {
        return Err(wrong(entry, expected));
    };
    number
        .as_u64()
        .filter(|&number| number > 0)
        .and_then(|number| number.try_into().ok())
        .ok_or_else(|| wrong(entry, expected))
}

/// The value of `backend`: what keeps the holders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BackendKind {
    Memory,
    Memcached,
    ZooKeeper,
}

fn backend(entry: &Entry) -> Result<BackendKind, OnLine> {
    const EXPECTED: &str = "inmemory, memcached or zookeeper";
    match text(entry, EXPECTED)? {
        "inmemory" => Ok(BackendKind::Memory),
        "memcache" | "memcached" => Ok(BackendKind::Memcached),
        "zookeeper" => Ok(BackendKind::ZooKeeper),
        _ => Err(wrong(entry, EXPECTED)),
    }
}

/// The name of a pool. A whole number is a name, too: clients ask for it by its digits. Blanks are
/// allowed, except with memcached.
fn name(entry: &Entry) -> Result<String, OnLine> {
    let name = match &entry.value.value {
        Value::Text(name) => name.clone(),
        Value::Number(number) if !number.is_f64() => number.to_string(),
        _ => return Err(wrong(entry, TEXT)),
    };
    check_name(entry.line, &name)
}

/// Refuses what cannot be the name of a pool.
fn check_name(line: usize, name: &str) -> Result<String, OnLine> {
    let forbidden = |character: &char| {
        *character != ' ' && (character.is_whitespace() || character.is_control())
    };
    let flaw = match name.chars().find(forbidden) {
        _ if name.is_empty() => NameFlaw::Empty,
        _ if name.len() > MAX_NAME => NameFlaw::TooLong,
        Some(character) => NameFlaw::Character(character),
        None => return Ok(name.to_owned()),
    };
    Err(invalid(line, name, flaw))
}

/// Name or address of the memcached. The port has a key of its own.
fn memcached_host(entry: &Entry) -> Result<&str, OnLine> {
    const EXPECTED: &str = "a host name or an address (its port is \"memcacheport\")";
    let host = text(entry, EXPECTED)?;
    let has_port = host.contains(':') && host.parse::<Ipv6Addr>().is_err();
    let forbidden = |character: char| character.is_whitespace() || "[]/,".contains(character);
    if has_port || host.contains(forbidden) {
        Err(wrong(entry, EXPECTED))
    } else {
        Ok(host)
    }
}

/// How long a grant is valid. Zero or an empty value means until it is released, as in the
/// original. Text may be a number, or a duration like 1h30m.
fn expire(entry: &Entry) -> Result<Option<Duration>, OnLine> {
    let seconds = match &entry.value.value {
        Value::Number(number) => number.as_f64(),
        Value::Text(text) => duration::time(text),
        Value::Null => Some(0.0),
        _ => None,
    };
    match seconds {
        Some(0.0) => Ok(None),
        Some(seconds) if EXPIRE_RANGE.contains(&seconds) => {
            Ok(Some(Duration::from_secs_f64(seconds)))
        }
        _ => Err(wrong(
            entry,
            "seconds from 1 to 1e9 (a client cannot renew in time for less), a time like 1h30m, or 0 for until released",
        )),
    }
}

/// Hosts in a text, separated by commas, or in a list. An empty text allows every host; a list has
/// at least one name.
fn servers(entry: &Entry) -> Result<Option<Vec<String>>, OnLine> {
    let expected = || {
        wrong(
            entry,
            "names of hosts: a list, or text with commas between them",
        )
    };
    let names: Vec<&str> = match &entry.value.value {
        Value::Text(names) => names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .collect(),
        Value::List(items) if !items.is_empty() => {
            let text = |item: &'_ Node| {
                if let Value::Text(name) = &item.value {
                    Some(name.trim().to_owned())
                } else {
                    None
                }
            };
            let names = items
                .iter()
                .map(text)
                .collect::<Option<Vec<_>>>()
                .ok_or_else(expected)?;
            return names
                .iter()
                .try_for_each(|name| check_host(entry, name))
                .map(|()| Some(names));
        }
        _ => return Err(expected()),
    };
    names.iter().try_for_each(|name| check_host(entry, name))?;
    Ok((!names.is_empty()).then(|| names.into_iter().map(str::to_owned).collect()))
}

/// Refuses text that is not the name of a host: it would match no host, and lock out the hosts that
/// were meant.
fn check_host(entry: &Entry, name: &str) -> Result<(), OnLine> {
    if is_host(name) {
        return Ok(());
    }
    let fault = Fault::Invalid {
        key: entry.key.clone(),
        found: super::node::shown(name),
        flaw: NameFlaw::NotHost,
    };
    Err((entry.line, fault))
}

/// Whether a host can have this name: no pattern, no network, no range, and nothing with a port.
fn is_host(name: &str) -> bool {
    const SPECIAL: &str = "[](){}<>*?^$|+~!=#;/\\,\"'`";
    let forbidden = |character: char| {
        character.is_whitespace() || character.is_control() || SPECIAL.contains(character)
    };
    if name.is_empty() || name.contains(forbidden) {
        return false;
    }
    if name.contains(':') {
        let address = name.split_once('%').map_or(name, |(address, _)| address);
        return address.parse::<Ipv6Addr>().is_ok();
    }
    // 10.0.0, 10.0.0.x, 10.0.0.1-9
    let numeric = |character: char| character.is_ascii_digit() || "xX.-".contains(character);
    if name.contains('.') && name.chars().all(numeric) {
        return name.parse::<Ipv4Addr>().is_ok();
    }
    // .example.com, 10.0.0., web1..web9, @webservers, -web1
    !name.split('.').any(str::is_empty) && !name.starts_with(['@', '-'])
}

fn wrong(entry: &Entry, expected: &'static str) -> OnLine {
    let fault = Fault::Wrong {
        key: entry.key.clone(),
        expected,
        found: entry.value.value.shown(),
    };
    (entry.line, fault)
}

fn invalid(line: usize, name: &str, flaw: NameFlaw) -> OnLine {
    let fault = Fault::Invalid {
        key: "name".into(),
        found: super::node::shown(name),
        flaw,
    };
    (line, fault)
}

fn json_fault(error: json::Error) -> OnLine {
    match error {
        json::Error::Syntax(error) => (error.line(), Fault::Json(error)),
        json::Error::Duplicate { key, line, first } => (line, Fault::DuplicateKey { key, first }),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Fault::Yaml(flaw) => flaw.fmt(f),
            Fault::Json(error) => write!(f, "not JSON: {error}"),
            Fault::DuplicateKey { key, first } => {
                write!(f, "duplicate key {key:?}, see line {first}")
            }
            Fault::NoMapping { what, found } => write!(f, "expected {what}, found {found}"),
            Fault::Unrestricted { key, meant } => {
                if *key == format!("{meant:?}") {
                    write!(
                        f,
                        "{key}: unknown key here: write it in the pools, or remove it"
                    )
                } else {
                    write!(f, "{key}: unknown key: write {meant:?}, or remove it")
                }
            }
            Fault::NoTokens { pool } => write!(
                f,
                "no access token may use pool {pool:?}: give it \"access_tokens\", or give the server some for all pools"
            ),
            Fault::Network { found, flaw } => {
                let why = match flaw {
                    NetworkFlaw::NotNetwork => "expected ADDRESS/BITS, like 10.0.0.0/8 or fd00::/8",
                    NetworkFlaw::BitsOfHost => {
                        "the address has more bits than the network: write the network's first address"
                    }
                };
                write!(f, "\"networks\": {found}: {why}")
            }
            Fault::ZooKeeper { key, why } => write!(f, "{key:?}: {why}"),
            Fault::TooManyHolders { pool, most } => write!(
                f,
                "\"maxlocks\" of pool {pool:?} is above {most}: one node of ZooKeeper keeps the holders, and no more fit"
            ),
            Fault::Missing { key } => write!(f, "this pool has no {key:?}"),
            Fault::NoDash { key } => write!(
                f,
                "{key:?} cannot be the name of a pool here: begin each pool with \"- name: NAME\""
            ),
            Fault::NamedTwice => write!(
                f,
                "\"name\": the name of this pool is the key above its values: remove this line"
            ),
            Fault::Wrong {
                key,
                expected,
                found,
            } => write!(f, "{key:?}: expected {expected}, found {found}"),
            Fault::Invalid { key, found, flaw } => write!(f, "{key:?}: {found}: {flaw}"),
        }
    }
}

impl fmt::Display for NameFlaw {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            NameFlaw::Empty => write!(f, "it is empty"),
            NameFlaw::TooLong => write!(
                f,
                "longer than {MAX_NAME} bytes, the limit of a key in memcached"
            ),
            NameFlaw::Character(character) => {
                write!(f, "{character:?} cannot be in a key in memcached")
            }
            NameFlaw::NotHost => write!(
                f,
                "not the name of a host (patterns and networks are not supported; separate names with commas)"
            ),
            NameFlaw::Taken { line } => write!(f, "duplicate name, see line {line}"),
        }
    }
}

#[cfg(test)]
mod tests;

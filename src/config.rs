//! The config file of zk-flock: JSON with `//` comments, parsed from text to [`Config`]. A config
//! that crashed the original is an error; a problem that the original ignored is a warning, and has
//! the same effect as there.

pub mod json;
pub mod node;
pub mod server;
mod text;
pub mod yaml;

use crate::edit_distance;
use crate::in_file::InFile;
use crate::plan::connection::{Proxy, Tls};
use crate::plan::hosts::{self, Ensemble};
use crate::plan::{Acl, Auth, Connection, Heartbeat, Host, Level, Warning, duration, names};
use serde_json::{Map, Value};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The values of a config; `None` for a missing key. The options decide which keys are required.
#[derive(Debug)]
pub struct Config {
    /// The servers.
    pub host: Option<Ensemble>,
    /// How connections to them are made.
    pub connection: Connection,
    /// Session timeout.
    pub timeout: Option<Duration>,
    /// Namespace of the locks.
    pub app_id: Option<String>,
    /// Whether to sleep before the run.
    pub sleep: Option<bool>,
    /// The load average at which the command does not run; zero or less: no limit.
    pub maxla: Option<f64>,
    /// The log file; `None`: no log.
    pub log_path: Option<PathBuf>,
    /// Lowest level of lines about the run.
    pub level: Level,
    /// Lowest level of lines about connection and session.
    pub zklevel: Level,
    /// Credentials for the session.
    pub auth: Option<Auth>,
    /// The ACL of nodes that a run creates.
    pub acl: Acl,
    /// The request that proves that the lock is still held.
    pub heartbeat: Heartbeat,
    /// Problems that do not stop the run.
    pub warnings: Vec<Warning>,
    /// Why `maxla` does not limit the load as it seems to: printed on stderr, unless an option sets
    /// the limit.
    pub load_warning: Option<String>,
    /// Unknown keys with their lines: one of them may be meant for a missing key.
    unknown: Vec<(String, usize)>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            host: None,
            connection: Connection::Direct,
            timeout: None,
            app_id: None,
            sleep: None,
            maxla: None,
            log_path: None,
            level: Level::Info,
            zklevel: Level::Warning,
            auth: None,
            acl: Acl::Open,
            heartbeat: Heartbeat::Write,
            warnings: Vec::new(),
            load_warning: None,
            unknown: Vec::new(),
        }
    }
}

/// What is wrong with a config, and where.
pub type Error = InFile<Fault>;

/// What is wrong with a config.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Fault {
    /// The text is not UTF-8.
    NotText,
    /// The text is not JSON.
    Syntax(serde_json::Error),
    /// The text is JSON, but not an object.
    NoObject { found: String },
    /// A required key is missing; `instead` is an unknown key that may be meant for it, with its
    /// line.
    Missing {
        key: &'static str,
        expected: &'static str,
        instead: Option<(String, usize)>,
    },
    /// A value has the wrong type.
    Wrong {
        key: String,
        expected: &'static str,
        found: String,
    },
    /// A value has the right type, but cannot be used.
    Invalid { key: &'static str, why: String },
}

const HOSTS: &str = "a list of \"name:port\"";
const TIMEOUT: &str = "seconds from 0.001 to 2147483, or a time like \"30s\"";
const TEXT: &str = "a string";
const SLEEP: [(&str, bool); 2] = [("ON", true), ("OFF", false)];
const ACL: [(&str, Acl); 2] = [("open", Acl::Open), ("creator", Acl::Creator)];
const HEARTBEAT: [(&str, Heartbeat); 2] = [("write", Heartbeat::Write), ("ping", Heartbeat::Ping)];

const KEYS: [&str; 11] = [
    "host",
    "proxy",
    "tls",
    "timeout",
    "app_id",
    "sleep",
    "maxla",
    "logger",
    "auth",
    "acl",
    "heartbeat",
];
const LOGGER_KEYS: [&str; 3] = ["path", "level", "zklevel"];
const AUTH_KEYS: [&str; 2] = ["scheme", "data"];
const TLS_KEYS: [&str; 4] = ["ca", "cert", "key", "name"];

const LEVEL: &str = "ERROR, WARN, INFO or DEBUG";

impl Config {
    /// Parses the text of the file at `path`; the path is only for messages.
    pub fn parse(text: &[u8], path: &Path) -> Result<Config, Error> {
        let error = |line, fault| InFile::new(path, Some(line), fault);
        let text = str::from_utf8(text)
            .map_err(|fault| error(line_at(text, fault.valid_up_to()), Fault::NotText))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let source = Source {
            path,
            json: &text::as_json(text),
        };
        match serde_json::from_str(source.json)
            .map_err(|fault| error(fault.line(), Fault::Syntax(fault)))?
        {
            Value::Object(keys) => Config::default().with(&keys, &source),
            other => {
                let found = shown(&other);
                Err(error(1, Fault::NoObject { found }))
            }
        }
    }

    fn with(mut self, keys: &Map<String, Value>, source: &Source) -> Result<Config, Error> {
        for (key, value) in keys {
            match key.as_str() {
                "host" => self.host = Some(source.host(value)?),
                "proxy" => self.connection = Connection::Proxy(source.proxy(value)?),
                "tls" if keys.contains_key("proxy") => {
                    let why = "cannot be used with \"proxy\"".to_owned();
                    return Err(source.invalid("tls", why));
                }
                "tls" => self.connection = Connection::Tls(self.tls(value, source)?),
                "timeout" => self.timeout = Some(source.timeout(value)?),
                "app_id" => self.app_id = Some(self.name(value, source)?),
                "sleep" => {
                    self.sleep = Some(source.choice("sleep", value, SLEEP, "\"ON\" or \"OFF\"")?);
                }
                "maxla" => self.maxla = self.load(value, source),
                "logger" => self.logger(value, source)?,
                "auth" => self.auth = self.auth(value, source)?,
                "acl" => self.acl = source.choice("acl", value, ACL, "\"open\" or \"creator\"")?,
                "heartbeat" => {
                    self.heartbeat =
                        source.choice("heartbeat", value, HEARTBEAT, "\"write\" or \"ping\"")?;
                }
                _ => {
                    self.warn(source.unknown(&[key], &KEYS));
                    self.unknown
                        .push((key.clone(), text::line_of(source.json, &[key])));
                }
            }
        }
        let certified = self.connection.shows_certificate();
        if self.acl == Acl::Creator && self.auth.is_none() && !certified {
            let why = "\"creator\" requires the key \"auth\", or \"tls\" with \"cert\"".to_owned();
            return Err(source.invalid("acl", why));
        }
        self.check_sockets(source)?;
        Ok(self)
    }

    /// A unix socket needs no command that connects.
    fn check_sockets(&self, source: &Source) -> Result<(), Error> {
        let key = match self.connection {
            Connection::Direct => return Ok(()),
            Connection::Proxy(_) => "proxy",
            Connection::Tls(_) => "tls",
        };
        let mut hosts = self.host.iter().flat_map(|ensemble| &ensemble.hosts);
        match hosts.find(|host| matches!(host, Host::Unix(_))) {
            None => Ok(()),
            Some(host) => Err(source.invalid(key, format!("cannot be used with {host}"))),
        }
    }

    fn tls(&mut self, value: &Value, source: &Source) -> Result<Tls, Error> {
        let keys = value
            .as_object()
            .ok_or_else(|| source.wrong(&["tls"], "an object", shown(value)))?;
        let mut tls = Tls::default();
        for (key, value) in keys {
            let text = || {
                let text = value.as_str().filter(|text| !text.is_empty());
                text.ok_or_else(|| source.wrong(&["tls", key], TEXT, shown(value)))
            };
            match key.as_str() {
                "ca" => tls.ca = Some(text()?.into()),
                "cert" => tls.cert = Some(text()?.into()),
                "key" => tls.key = Some(text()?.into()),
                "name" => tls.name = Some(text()?.into()),
                _ => self.warn(source.unknown(&["tls", key], &TLS_KEYS)),
            }
        }
        if tls.key.is_some() && tls.cert.is_none() {
            return Err(source.invalid("tls", "\"key\" requires \"cert\"".to_owned()));
        }
        Ok(tls)
    }

    fn warn(&mut self, sentence: String) {
        self.warnings.push(Warning::Logged(sentence));
    }

    /// The namespace. A value that is not a string becomes the name that Python prints for it,
    /// because that is the node that the original uses.
    fn name(&mut self, value: &Value, source: &Source) -> Result<String, Error> {
        let printed = match value {
            Value::String(name) => return source.checked_app_id(name),
            Value::Null => Some("None".to_owned()),
            Value::Bool(value) => Some(if *value { "True" } else { "False" }.to_owned()),
            Value::Number(number) => Some(number.to_string())
                .filter(|text| text.len() <= SAME_IN_PYTHON && !text.contains('e')),
            _ => None,
        };
        let name = printed.ok_or_else(|| source.wrong(&["app_id"], TEXT, shown(value)))?;
        self.warn(source.odd(
            &["app_id"],
            &format!("expected a string, found {}: using {name:?}", shown(value)),
        ));
        source.checked_app_id(&name)
    }

    /// A load that is not a number has no effect, as in the original; but true and false are
    /// numbers in Python.
    fn load(&mut self, value: &Value, source: &Source) -> Option<f64> {
        if let Value::Number(number) = value {
            return number.as_f64();
        }
        let load = value.as_bool().map(|limit| if limit { 1.0 } else { 0.0 });
        let effect = if load == Some(1.0) {
            "using 1"
        } else {
            "no limit, the command runs at any load"
        };
        self.load_warning = Some(source.odd(
            &["maxla"],
            &format!("expected a number, found {}: {effect}", shown(value)),
        ));
        load
    }

    fn logger(&mut self, value: &Value, source: &Source) -> Result<(), Error> {
        for (key, value) in value
            .as_object()
            .ok_or_else(|| source.wrong(&["logger"], "an object", shown(value)))?
        {
            match key.as_str() {
                "path" => {
                    let path = value
                        .as_str()
                        .ok_or_else(|| source.wrong(&["logger", "path"], TEXT, shown(value)))?;
                    self.log_path = (path != "/dev/null").then(|| path.into());
                }
                "level" => self.level = self.level(value, &["logger", "level"], source),
                "zklevel" => self.zklevel = self.level(value, &["logger", "zklevel"], source),
                _ => self.warn(source.unknown(&["logger", key], &LOGGER_KEYS)),
            }
        }
        Ok(())
    }

    /// A level that is not a string becomes WARN, the highest level at which the warning about it
    /// is logged. The original ran without a log then.
    fn level(&mut self, value: &Value, key: &[&str], source: &Source) -> Level {
        let Some(name) = value.as_str() else {
            self.warn(source.odd(
                key,
                &format!("expected {LEVEL}, found {}: using WARN", shown(value)),
            ));
            return Level::Warning;
        };
        match name.to_ascii_uppercase().as_str() {
            "DEBUG" => Level::Debug,
            "INFO" => Level::Info,
            "WARN" | "WARNING" => Level::Warning,
            "CRITICAL" | "FATAL" => Level::Critical,
            _ => Level::Error,
        }
    }

    /// The messages never show the value, which may be a password.
    fn auth(&mut self, value: &Value, source: &Source) -> Result<Option<Auth>, Error> {
        let keys = match value {
            Value::Object(keys) => keys,
            Value::Null => {
                self.warn(source.odd(
                    &["auth"],
                    "expected an object, found null: connecting without authentication",
                ));
                return Ok(None);
            }
            other => return Err(source.wrong(&["auth"], "an object", kind(other).to_owned())),
        };
        let text = |key, name| match keys.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(source.wrong(&["auth", key], TEXT, kind(other).to_owned())),
            None => {
                let instead = None;
                Err(missing(source.path, name, TEXT, instead))
            }
        };
        let auth = Auth {
            scheme: text("scheme", "auth.scheme")?,
            data: text("data", "auth.data")?,
        };
        for key in keys.keys().filter(|key| !AUTH_KEYS.contains(&key.as_str())) {
            self.warn(source.unknown(&["auth", key], &AUTH_KEYS));
        }
        Ok(Some(auth))
    }

    /// The error that a required key is missing from this config, which was read from `path`. It
    /// names an unknown key that is similar, or that is the only unknown one.
    pub fn missing(&self, key: Required, path: &Path) -> Error {
        let (key, expected) = match key {
            Required::Host => ("host", HOSTS),
            Required::Timeout => ("timeout", TIMEOUT),
            Required::AppId => ("app_id", TEXT),
        };
        let alike = self
            .unknown
            .iter()
            .find(|(unknown, _)| edit_distance::closest(unknown, &[key]).is_some());
        let instead = alike
            .or(if let [only] = &self.unknown[..] {
                Some(only)
            } else {
                None
            })
            .cloned();
        missing(path, key, expected, instead)
    }
}

/// A key that is required unless an option replaces it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Required {
    Host,
    Timeout,
    AppId,
}

/// The text that keys and values are from, for messages with line numbers.
struct Source<'a> {
    path: &'a Path,
    json: &'a str,
}

impl Source<'_> {
    /// A connection string, as a whole or as the list of its parts. The original joins a list in
    /// the same way, so the chroot is in the last part.
    fn host(&self, value: &Value) -> Result<Ensemble, Error> {
        let part = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            other => Err(self.wrong(&["host"], HOSTS, shown(other))),
        };
        let text = match value {
            Value::Array(parts) => parts
                .iter()
                .map(part)
                .collect::<Result<Vec<_>, _>>()?
                .join(","),
            other => part(other)?,
        };
        hosts::parse(&text).map_err(|flaw| self.invalid("host", flaw.to_string()))
    }

    fn proxy(&self, value: &Value) -> Result<Proxy, Error> {
        let text = value
            .as_str()
            .ok_or_else(|| self.wrong(&["proxy"], "a command, as a string", shown(value)))?;
        Proxy::parse(text.as_ref()).map_err(|flaw| self.invalid("proxy", flaw.to_string()))
    }

    fn timeout(&self, value: &Value) -> Result<Duration, Error> {
        let seconds = value
            .as_str()
            .map_or_else(|| value.as_f64(), duration::time);
        seconds
            .and_then(duration::session_timeout)
            .ok_or_else(|| self.wrong(&["timeout"], TIMEOUT, shown(value)))
    }

    fn checked_app_id(&self, name: &str) -> Result<String, Error> {
        names::check_node(name)
            .map_err(|flaw| self.invalid("app_id", format!("{name:?}: {flaw}")))?;
        Ok(name.to_owned())
    }

    fn choice<T: Copy>(
        &self,
        key: &str,
        value: &Value,
        choices: [(&str, T); 2],
        expected: &'static str,
    ) -> Result<T, Error> {
        let chosen = choices
            .iter()
            .find(|(name, _)| value.as_str() == Some(name));
        chosen
            .map(|&(_, choice)| choice)
            .ok_or_else(|| self.wrong(&[key], expected, shown(value)))
    }

    fn wrong(&self, key: &[&str], expected: &'static str, found: String) -> Error {
        let fault = Fault::Wrong {
            key: key.join("."),
            expected,
            found,
        };
        InFile::new(self.path, Some(text::line_of(self.json, key)), fault)
    }

    fn invalid(&self, key: &'static str, why: String) -> Error {
        let line = text::line_of(self.json, &[key]);
        InFile::new(self.path, Some(line), Fault::Invalid { key, why })
    }

    fn unknown(&self, key: &[&str], known: &[&str]) -> String {
        let meant = edit_distance::closest(key.last().unwrap_or(&""), known);
        self.odd(
            key,
            &meant.map_or_else(
                || "unknown key".to_owned(),
                |meant| format!("unknown key (did you mean {meant:?}?)"),
            ),
        )
    }

    fn odd(&self, key: &[&str], what: &str) -> String {
        format!(
            "{}:{}: {:?}: {what}",
            self.path.display(),
            text::line_of(self.json, key),
            key.join(".")
        )
    }
}

/// The file lacks a key, so the fault is on no line.
fn missing(
    path: &Path,
    key: &'static str,
    expected: &'static str,
    instead: Option<(String, usize)>,
) -> Error {
    let fault = Fault::Missing {
        key,
        expected,
        instead,
    };
    InFile::new(path, None, fault)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Fault::NotText => write!(f, "not UTF-8"),
            Fault::Syntax(error) => write!(f, "not JSON: {error}"),
            Fault::NoObject { found } => write!(f, "expected an object, found {found}"),
            Fault::Missing {
                key,
                expected,
                instead,
            } => {
                write!(f, "missing key {key:?}, expected {expected}")?;
                instead.as_ref().map_or(Ok(()), |(found, line)| {
                    write!(f, "; found the unknown key {found:?} on line {line}")
                })
            }
            Fault::Wrong {
                key,
                expected,
                found,
            } => write!(f, "{key:?}: expected {expected}, found {found}"),
            Fault::Invalid { key, why } => write!(f, "{key:?}: {why}"),
        }
    }
}

/// Every Python prints numbers of up to this many characters alike (2 rounds to 12 digits).
const SAME_IN_PYTHON: usize = 12;

/// The most characters of a value that a message repeats.
const MAX_SHOWN: usize = 40;

/// A value for a message: as it is in the file, if it is short.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
        Value::String(text) if text.chars().count() > MAX_SHOWN => {
            format!("{:?}…", text.chars().take(MAX_SHOWN).collect::<String>())
        }
        other => other.to_string(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => TEXT,
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The line of the byte at an offset, counted from 1.
fn line_at(text: &[u8], offset: usize) -> usize {
    1 + text
        .iter()
        .take(offset)
        .filter(|&&byte| byte == b'\n')
        .count()
}

#[cfg(test)]
mod tests;

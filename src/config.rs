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
use crate::plan::hosts::{self, Ensemble};
use crate::plan::{Acl, Auth, Heartbeat, Level, Warning, duration, names};
use serde_json::{Map, Value};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The values of a config; `None` for a missing key. The options decide which keys are required.
#[derive(Debug)]
pub struct Config {
    /// The servers.
    pub host: Option<Ensemble>,
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

const KEYS: [&str; 9] = [
    "host",
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
        if self.acl == Acl::Creator && self.auth.is_none() {
            return Err(source.invalid("acl", "\"creator\" needs an \"auth\" too".to_owned()));
        }
        Ok(self)
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
            &format!(
                "expected a string, found {}: taken for {name:?}",
                shown(value)
            ),
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
            "taken for 1"
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
                &format!("expected {LEVEL}, found {}: taken for WARN", shown(value)),
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
                    "expected an object, found null: not authenticated",
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The sample in the original's README, with its comments.
    const SAMPLE: &str = r#"{
    "host": ["hostname1:2181","hostname2:2181","hostname3:2181"],
    "timeout": 5,
    "app_id": "my_application_namespace",
    "sleep": "ON",    //ON or OFF - Default OFF
    "maxla": 30,      // If >=0 -> max loadaverage for work. Default -1
    "logger": {
            "path": "/tmp/zkflock.log",
            "level": "INFO",
            "zklevel": "ERROR"
    },
    "auth": {
        "scheme": "digest",
        "data": "user:password"
    }
}
"#;

    #[test]
    fn shipped_example_has_no_warnings() {
        let config = parse(include_str!("../packaging/distributed-flock.json")).unwrap();
        assert_eq!((config.warnings, config.load_warning), (vec![], None));
        assert_eq!(config.app_id.as_deref(), Some("my_app"));
    }

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text.as_bytes(), Path::new("f")).map_err(|error| error.to_string())
    }

    #[test]
    fn documented_sample_is_valid() {
        let config = parse(SAMPLE).unwrap();
        let hosts: Vec<_> = config
            .host
            .unwrap()
            .hosts
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            hosts,
            ["hostname1:2181", "hostname2:2181", "hostname3:2181"]
        );
        assert_eq!(config.timeout, Some(Duration::from_secs(5)));
        assert_eq!(config.app_id.as_deref(), Some("my_application_namespace"));
        assert_eq!((config.sleep, config.maxla), (Some(true), Some(30.0)));
        assert_eq!(
            config.log_path.as_deref(),
            Some(Path::new("/tmp/zkflock.log"))
        );
        assert_eq!((config.level, config.zklevel), (Level::Info, Level::Error));
        assert_eq!(
            config.auth,
            Some(Auth {
                scheme: "digest".into(),
                data: "user:password".into()
            })
        );
        assert_eq!(
            (config.acl, config.heartbeat),
            (Acl::Open, Heartbeat::Write)
        );
        assert_eq!(config.warnings, []);
    }

    #[test]
    fn empty_object_is_the_default() {
        let config = parse("{}").unwrap();
        assert!(config.host.is_none() && config.timeout.is_none() && config.app_id.is_none());
        assert_eq!(
            (config.sleep, config.maxla, config.log_path, config.auth),
            (None, None, None, None)
        );
        assert_eq!(
            (config.level, config.zklevel),
            (Level::Info, Level::Warning)
        );
    }

    #[test]
    fn hosts_are_a_list_or_one_string() {
        for (value, expected, path) in [
            (r#""h1,h2:2182/a""#, "h1:2181 h2:2182", "/a"),
            (r#"["h1", "h2:2182/a"]"#, "h1:2181 h2:2182", "/a"),
            (r#"["h1,h2", "[::1]"]"#, "h1:2181 h2:2181 [::1]:2181", ""),
            (r#"["zk1:2181,"]"#, "zk1:2181", ""),
            (r#"["", "h1", ""]"#, "h1:2181", ""),
        ] {
            let Ensemble { hosts, chroot } = parse(&format!("{{\"host\": {value}}}"))
                .unwrap()
                .host
                .unwrap();
            let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
            assert_eq!(
                (hosts.join(" ").as_str(), chroot.as_str()),
                (expected, path),
                "{value}"
            );
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table of inputs")]
    fn errors_name_file_line_key_and_value() {
        for (text, sentence) in [
            (
                "",
                "f:1: not JSON: EOF while parsing a value at line 1 column 0",
            ),
            (
                "{\n\"timeout\": 5\n\"host\": 1}",
                "f:3: not JSON: expected `,` or `}` at line 3 column 1",
            ),
            (
                "{\"maxla\": nan}",
                "f:1: not JSON: expected ident at line 1 column 12",
            ),
            ("[]", "f:1: expected an object, found a list"),
            (
                "{\n\"host\": 5}",
                "f:2: \"host\": expected a list of \"name:port\", found 5",
            ),
            (
                "{\n\n\"host\": [\"h\", null]}",
                "f:3: \"host\": expected a list of \"name:port\", found null",
            ),
            (
                "{\"host\": []}",
                "f:1: \"host\": the list of servers is empty: expected HOST:PORT,...",
            ),
            (
                "{\"host\": [\"h:0\"]}",
                "f:1: \"host\": \"h:0\" is not HOST:PORT: the port \"0\" is not a number from 1 to 65535",
            ),
            (
                "{ // c\n\"timeout\": \"soon\"}",
                "f:2: \"timeout\": expected seconds from 0.001 to 2147483, or a time like \"30s\", found \"soon\"",
            ),
            (
                "{\"timeout\": true}",
                "f:1: \"timeout\": expected seconds from 0.001 to 2147483, or a time like \"30s\", found true",
            ),
            (
                "{\"timeout\": 0}",
                "f:1: \"timeout\": expected seconds from 0.001 to 2147483, or a time like \"30s\", found 0",
            ),
            (
                "{\"timeout\": -5}",
                "f:1: \"timeout\": expected seconds from 0.001 to 2147483, or a time like \"30s\", found -5",
            ),
            (
                "{\"timeout\": 1e300}",
                "f:1: \"timeout\": expected seconds from 0.001 to 2147483, or a time like \"30s\", found 1e+300",
            ),
            (
                "{\"app_id\": [5]}",
                "f:1: \"app_id\": expected a string, found a list",
            ),
            (
                "{\"app_id\": 1e300}",
                "f:1: \"app_id\": expected a string, found 1e+300",
            ),
            (
                "{\"timeout\": NaN}",
                "f:1: \"timeout\": expected seconds from 0.001 to 2147483, or a time like \"30s\", found \"NaN\"",
            ),
            ("{\"app_id\": \"\"}", "f:1: \"app_id\": \"\": it is empty"),
            (
                "{\"app_id\": \"/a\"}",
                "f:1: \"app_id\": \"/a\": must not begin or end with \"/\"",
            ),
            (
                "{\"sleep\": \"on\"}",
                "f:1: \"sleep\": expected \"ON\" or \"OFF\", found \"on\"",
            ),
            (
                "{\"sleep\": true}",
                "f:1: \"sleep\": expected \"ON\" or \"OFF\", found true",
            ),
            (
                "{\"logger\": null}",
                "f:1: \"logger\": expected an object, found null",
            ),
            (
                "{\"logger\": {\n\"path\": 5}}",
                "f:2: \"logger.path\": expected a string, found 5",
            ),
            (
                "{\"auth\": \"digest:u:secret\"}",
                "f:1: \"auth\": expected an object, found a string",
            ),
            (
                "{\"auth\": {\"scheme\": \"digest\",\n\"data\": 123}}",
                "f:2: \"auth.data\": expected a string, found a number",
            ),
            (
                "{\"auth\": {\"scheme\": \"digest\"}}",
                "f: missing key \"auth.data\", expected a string",
            ),
            (
                "{\"acl\": \"private\"}",
                "f:1: \"acl\": expected \"open\" or \"creator\", found \"private\"",
            ),
            (
                "{\"acl\": \"creator\"}",
                "f:1: \"acl\": \"creator\" needs an \"auth\" too",
            ),
            (
                "{\"heartbeat\": false}",
                "f:1: \"heartbeat\": expected \"write\" or \"ping\", found false",
            ),
        ] {
            assert_eq!(parse(text).map(drop), Err(sentence.to_owned()), "{text}");
        }
        let error = Config::parse(b"{\n\n\"\xff\": 1}", Path::new("f")).unwrap_err();
        assert_eq!(error.to_string(), "f:3: not UTF-8");
    }

    #[test]
    fn odd_values_are_warned_of_and_have_the_effect_of_the_original() {
        for (text, warning) in [
            (
                "{\"maxla\": 1.5,\n\"max_la\": 2}",
                "f:2: \"max_la\": unknown key (did you mean \"maxla\"?)",
            ),
            ("{\n\"colour\": 2}", "f:2: \"colour\": unknown key"),
            (
                "{\"logger\": {\n\"file\": 1}}",
                "f:2: \"logger.file\": unknown key",
            ),
            (
                "{\"auth\": null}",
                "f:1: \"auth\": expected an object, found null: not authenticated",
            ),
            (
                "{\"auth\": {\"scheme\": \"\", \"data\": \"\",\n\"user\": 1}}",
                "f:2: \"auth.user\": unknown key",
            ),
        ] {
            assert_eq!(
                parse(text).unwrap().warnings,
                [Warning::Logged(warning.to_owned())],
                "{text}"
            );
        }
    }

    #[test]
    fn load_that_does_not_limit_is_warned_of() {
        for (text, maxla, warning) in [
            (
                "{\n\"maxla\": \"30\"}",
                None,
                "f:2: \"maxla\": expected a number, found \"30\": no limit, the command runs at any load",
            ),
            (
                "{\"maxla\": null}",
                None,
                "f:1: \"maxla\": expected a number, found null: no limit, the command runs at any load",
            ),
            (
                "{\"maxla\": [1]}",
                None,
                "f:1: \"maxla\": expected a number, found a list: no limit, the command runs at any load",
            ),
            (
                "{\"maxla\": NaN}",
                None,
                "f:1: \"maxla\": expected a number, found \"NaN\": no limit, the command runs at any load",
            ),
            (
                "{\"maxla\": -Infinity}",
                None,
                "f:1: \"maxla\": expected a number, found \"-Infinity\": no limit, the command runs at any load",
            ),
            (
                "{\"maxla\": true}",
                Some(1.0),
                "f:1: \"maxla\": expected a number, found true: taken for 1",
            ),
            (
                "{\"maxla\": false}",
                Some(0.0),
                "f:1: \"maxla\": expected a number, found false: no limit, the command runs at any load",
            ),
        ] {
            let config = parse(text).unwrap();
            assert_eq!(
                (
                    config.maxla,
                    config.load_warning.as_deref(),
                    config.warnings
                ),
                (maxla, Some(warning), vec![]),
                "{text}"
            );
        }
        assert_eq!(parse("{\"maxla\": 30}").unwrap().load_warning, None);
    }

    #[test]
    fn app_id_that_is_not_a_string_becomes_what_python_prints() {
        for (value, name) in [
            ("5", "5"),
            ("-1", "-1"),
            ("1.5", "1.5"),
            ("5.0", "5.0"),
            ("true", "True"),
            ("false", "False"),
            ("null", "None"),
        ] {
            let config = parse(&format!("{{\"app_id\": {value}}}")).unwrap();
            let warning =
                format!("f:1: \"app_id\": expected a string, found {value}: taken for {name:?}");
            assert_eq!(
                (config.app_id.as_deref(), config.warnings),
                (Some(name), vec![Warning::Logged(warning)])
            );
        }
    }

    #[test]
    fn timeout_may_have_units() {
        for (value, seconds) in [
            ("\"30s\"", 30.0),
            ("\"1m30s\"", 90.0),
            ("\"5\"", 5.0),
            ("2.5", 2.5),
        ] {
            assert_eq!(
                parse(&format!("{{\"timeout\": {value}}}")).unwrap().timeout,
                Some(Duration::from_secs_f64(seconds)),
                "{value}"
            );
        }
    }

    #[test]
    fn byte_order_mark_is_ignored() {
        assert_eq!(
            parse("\u{feff}{\"app_id\": \"a\"}")
                .unwrap()
                .app_id
                .as_deref(),
            Some("a")
        );
    }

    #[test]
    fn unknown_key_is_named_with_the_missing_key() {
        let missing = |text: &str, key| {
            parse(text)
                .unwrap()
                .missing(key, Path::new("f"))
                .to_string()
        };
        let host = "f: missing key \"host\", expected a list of \"name:port\"";
        assert_eq!(missing("{}", Required::Host), host);
        assert_eq!(
            missing("{\n\"hosts\": [],\n\"x\": 1}", Required::Host),
            format!("{host}; found the unknown key \"hosts\" on line 2")
        );
        assert_eq!(
            missing("{\n\"servers\": []}", Required::Host),
            format!("{host}; found the unknown key \"servers\" on line 2")
        );
        assert_eq!(missing("{\"x\": 1, \"y\": 2}", Required::Host), host);
        assert!(
            missing("{\"appid\": \"a\"}", Required::AppId)
                .ends_with("found the unknown key \"appid\" on line 1")
        );
    }

    #[test]
    fn level_names_are_those_of_python() {
        for (value, level, warnings) in [
            ("\"DEBUG\"", Level::Debug, 0),
            ("\"debug\"", Level::Debug, 0),
            ("\"Info\"", Level::Info, 0),
            ("\"WARN\"", Level::Warning, 0),
            ("\"warning\"", Level::Warning, 0),
            ("\"ERROR\"", Level::Error, 0),
            ("\"CRITICAL\"", Level::Critical, 0),
            ("\"FATAL\"", Level::Critical, 0),
            ("\"LOUD\"", Level::Error, 0),
            ("\"\"", Level::Error, 0),
            ("20", Level::Warning, 1),
            ("null", Level::Warning, 1),
        ] {
            for key in ["level", "zklevel"] {
                let config = parse(&format!("{{\"logger\": {{\"{key}\": {value}}}}}")).unwrap();
                let found = if key == "level" {
                    config.level
                } else {
                    config.zklevel
                };
                assert_eq!(
                    (found, config.warnings.len()),
                    (level, warnings),
                    "{key} {value}"
                );
            }
        }
    }

    #[test]
    fn log_to_dev_null_means_no_log() {
        assert_eq!(
            parse(r#"{"logger": {"path": "/dev/null"}}"#)
                .unwrap()
                .log_path,
            None
        );
        assert_eq!(
            parse(r#"{"logger": {"path": "log"}}"#).unwrap().log_path,
            Some("log".into())
        );
    }

    #[test]
    fn keys_that_the_original_lacks_are_read() {
        let config = parse(r#"{"acl": "creator", "heartbeat": "ping", "auth": {"scheme": "digest", "data": "u:p"}}"#).unwrap();
        assert_eq!(
            (config.acl, config.heartbeat),
            (Acl::Creator, Heartbeat::Ping)
        );
    }

    #[test]
    fn long_value_is_shortened() {
        let sentence = parse(&format!("{{\"sleep\": \"{}\"}}", "é".repeat(100_000))).unwrap_err();
        assert_eq!(
            sentence,
            format!(
                "f:1: \"sleep\": expected \"ON\" or \"OFF\", found \"{}\"…",
                "é".repeat(40)
            )
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(text in any::<Vec<u8>>()) {
            let _ = Config::parse(&text, Path::new("f"));
        }

        #[test]
        fn no_change_of_the_sample_makes_it_panic(at in 0..SAMPLE.len(), length in 0..40usize, with in "[\\[\\]{}\",:/0-9a-e\\\\\n]{0,8}") {
            let end = SAMPLE.len().min(at + length);
            let text = [&SAMPLE[..at], &with, &SAMPLE[end..]].concat();
            let _ = parse(&text);
        }
    }
}

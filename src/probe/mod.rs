//! `--check`: what is known of a server that a program would use. Nothing is locked and nothing is
//! made.

pub mod srvr;
pub mod zookeeper;

use crate::printable::{escaped, printable};
use serde_json::{Value, json};
use std::time::Duration;

/// All that was checked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// The config file and what is wrong with it; `None`: no config is used.
    pub config: Option<(String, Vec<String>)>,
    /// The servers, each with what was found, or why it cannot be used.
    pub servers: Vec<(String, Result<Found, Flaw>)>,
}

/// What was found of a server that can be used.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// The time that a request took.
    pub latency: Duration,
    /// It answers as ClickHouse Keeper does.
    pub is_keeper: bool,
    /// `ZooKeeper 3.8.0`, `ClickHouse Keeper 24.3`, `distributexd`; `None`: not reported.
    pub version: Option<String>,
    /// `leader`, `follower`, `standalone`, `observer`; `None`: not reported.
    pub role: Option<String>,
    /// The session timeout that it grants.
    pub timeout: Option<Duration>,
    /// The identities of this client: `digest:user`; empty: anyone. `None`: not reported.
    pub identities: Option<Vec<String>>,
    /// What a queue of waiters is made of; `None`: not a matter of this server.
    pub queue: Option<Queue>,
    /// The slots of a pool: held, and all.
    pub slots: Option<(usize, u32)>,
}

/// The nodes above the entries of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    /// Containers, which the server deletes when they are empty.
    Containers,
    /// Persistent nodes, which the last waiter deletes.
    Persistent,
}

/// Why a server cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flaw {
    /// The reason, for the exit code.
    pub kind: FlawKind,
    /// What is wrong, and what to do.
    pub text: String,
}

/// The reasons, the worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FlawKind {
    /// The config is wrong.
    Config,
    /// The server refuses what a run would do.
    Refused,
    /// It cannot be reached, or it cannot serve.
    Unreachable,
}

impl Report {
    /// The worst flaw; `None`: all is well.
    pub fn worst(&self) -> Option<FlawKind> {
        let config = self.config.iter().filter(|(_, flaws)| !flaws.is_empty());
        let servers = self
            .servers
            .iter()
            .filter_map(|(_, found)| found.as_ref().err());
        config
            .map(|_| FlawKind::Config)
            .chain(servers.map(|flaw| flaw.kind))
            .min()
    }

    /// A line for the config, and one for each server.
    pub fn text(&self) -> String {
        let config = self.config.iter().flat_map(|(path, flaws)| {
            let fine = flaws.is_empty().then(|| format!("{path}: OK"));
            let flawed = flaws
                .iter()
                .map(move |flaw| format!("{path}: FAILED: {flaw}"));
            fine.into_iter().chain(flawed)
        });
        let servers = self.servers.iter().map(|(server, found)| match found {
            Ok(found) => format!("{server}: OK: {}", found.text()),
            Err(flaw) => format!("{server}: FAILED: {}", flaw.text),
        });
        config
            .chain(servers)
            .map(|line| printable(&line) + "\n")
            .collect()
    }

    /// One JSON document. What is not known is null.
    pub fn json(&self) -> String {
        let config = self
            .config
            .as_ref()
            .map(|(path, flaws)| json!({ "path": path, "ok": flaws.is_empty(), "errors": flaws }));
        let servers: Vec<_> = self.servers.iter().map(server_json).collect();
        let document = json!({
            "ok": self.worst().is_none(),
            "config": config,
            "servers": servers,
        });
        escaped(document.to_string()) + "\n"
    }
}

fn server_json((server, found): &(String, Result<Found, Flaw>)) -> Value {
    let (known, error) = match found {
        Ok(known) => (known.clone(), None),
        Err(flaw) => (Found::default(), Some(&flaw.text)),
    };
    let ok = error.is_none();
    json!({
        "server": server,
        "ok": ok,
        "error": error,
        "latency_ms": ok.then(|| milliseconds(known.latency)),
        "version": known.version(),
        "role": known.role,
        "timeout_s": known.timeout.map(|time| time.as_secs_f64()),
        "identities": known.identities,
        "queue": known.queue.map(|_| true),
        "slots": known.slots.map(|(_, slots)| slots),
        "held": known.slots.map(|(held, _)| held),
    })
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

impl Found {
    /// The version, or the product if that is all that is known.
    fn version(&self) -> Option<String> {
        let product = self.is_keeper.then(|| KEEPER.to_owned());
        self.version.clone().or(product)
    }

    fn text(&self) -> String {
        let mut facts = Vec::new();
        facts.push(self.version().unwrap_or("version unknown".into()));
        facts.extend(self.role.clone());
        facts.push(format!("latency {:.1} ms", milliseconds(self.latency)));
        let timeout = self.timeout;
        facts.extend(timeout.map(|time| format!("timeout {:.1} s", time.as_secs_f64())));
        facts.extend(self.identities.as_ref().map(|all| match &all[..] {
            [] => "not authenticated".into(),
            all => format!("authenticated as {}", all.join(" and ")),
        }));
        facts.extend(self.queue.map(|queue| match queue {
            Queue::Containers => "FIFO queue".into(),
            Queue::Persistent => "FIFO queue in persistent nodes".into(),
        }));
        facts.extend(
            self.slots
                .map(|(held, slots)| format!("{held}/{slots} slots held")),
        );
        facts.join(", ")
    }
}

/// Version and role in the answer to the four-letter word `srvr`. `None`: the server answers
/// something else, or nothing, because the word is not in its `4lw.commands.whitelist`.
pub fn banner(answer: &str) -> Option<(String, Option<String>)> {
    let field = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name));
    let (product, version) = match field("Zookeeper version: ") {
        Some(version) => ("ZooKeeper", version),
        None => (KEEPER, field("ClickHouse Keeper version: ")?),
    };
    // 3.8.0-5a02a05eddb59aee6ac762f7ea82e92a68eb9c0f, built on …; Keeper: v24.3.1.2672-…
    let version = version.trim_start_matches('v');
    let number = version.split(['-', ',', ' ']).next().unwrap_or(version);
    let role = field("Mode: ").map(|role| word(role.trim()));
    Some((format!("{product} {}", word(number)), role))
}

/// The product's name.
const KEEPER: &str = "ClickHouse Keeper";

/// The longest version or role that is shown.
const LONGEST_WORD: usize = 40;

fn word(text: &str) -> String {
    text.chars().take(LONGEST_WORD).collect()
}

#[cfg(test)]
mod tests {
    use super::FlawKind::{Config, Refused, Unreachable};
    use super::*;
    use crate::printable::is_unprintable;

    fn good() -> Found {
        Found {
            latency: Duration::from_micros(1234),
            is_keeper: false,
            version: Some("ZooKeeper 3.8.0".into()),
            role: Some("follower".into()),
            timeout: Some(Duration::from_secs(15)),
            identities: Some(vec!["digest:ops".into()]),
            queue: Some(Queue::Containers),
            slots: None,
        }
    }

    fn flaw(kind: FlawKind) -> Result<Found, Flaw> {
        let text = "connection refused".into();
        Err(Flaw { kind, text })
    }

    #[test]
    fn each_line_says_ok_or_what_is_wrong() {
        let report = Report {
            config: Some(("/etc/c".into(), vec![])),
            servers: vec![
                ("zk1:2181".into(), Ok(good())),
                ("zk2:2181".into(), Ok(Found::default())),
                ("zk3:2181".into(), flaw(FlawKind::Unreachable)),
            ],
        };
        assert_eq!(
            report.text(),
            "\
/etc/c: OK
zk1:2181: OK: ZooKeeper 3.8.0, follower, latency 1.2 ms, timeout 15.0 s, authenticated as digest:ops, FIFO queue
zk2:2181: OK: version unknown, latency 0.0 ms
zk3:2181: FAILED: connection refused
"
        );
        let found: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(found["ok"], false);
        assert_eq!(found["servers"][0]["latency_ms"], 1.234);
        assert_eq!(found["servers"][0]["identities"], json!(["digest:ops"]));
        assert_eq!(found["servers"][2]["error"], "connection refused");
        assert_eq!(found["servers"][2]["latency_ms"], Value::Null);
    }

    #[test]
    fn what_a_server_says_cannot_control_the_terminal() {
        let found = Found {
            role: Some("a\u{1b}[31m\u{202e}".into()),
            identities: Some(vec!["digest:\u{9b}".into()]),
            ..good()
        };
        let report = Report {
            config: None,
            servers: vec![("zk1:2181".into(), Ok(found.clone()))],
        };
        let unprintable = |text: String| text.trim_end().contains(is_unprintable);
        assert!(!unprintable(report.text()) && !unprintable(report.json()));
        let read: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(read["servers"][0]["role"], found.role.unwrap());
    }

    #[test]
    fn the_worst_flaw_decides_the_exit_code() {
        let report = |flaws: &[FlawKind], config: Vec<String>| Report {
            config: Some(("c".into(), config)),
            servers: flaws.iter().map(|&kind| ("s".into(), flaw(kind))).collect(),
        };
        assert_eq!(report(&[], vec![]).worst(), None);
        assert_eq!(report(&[Unreachable], vec![]).worst(), Some(Unreachable));
        assert_eq!(
            report(&[Unreachable, Refused], vec![]).worst(),
            Some(Refused)
        );
        let unknown = vec!["unknown key".into()];
        assert_eq!(report(&[Refused], unknown).worst(), Some(Config));
    }

    #[test]
    fn version_and_role_are_read_from_the_four_letter_word() {
        let zookeeper = "Zookeeper version: 3.8.0-5a02, built on 2022\nLatency\nMode: follower\n";
        let keeper = "ClickHouse Keeper version: v24.3.1.26-abc\nMode: standalone\n";
        let banner = |text| banner(text).unwrap();
        assert_eq!(
            banner(zookeeper),
            ("ZooKeeper 3.8.0".into(), Some("follower".into()))
        );
        assert_eq!(
            banner(keeper),
            (
                "ClickHouse Keeper 24.3.1.26".into(),
                Some("standalone".into())
            )
        );
        let silent = "srvr is not executed because it is not in the whitelist.\n";
        assert_eq!(super::banner(silent), None);
    }
}

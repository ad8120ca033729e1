//! The file of `--metrics`: what is known of the last runs of the locks of a host, in the format that
//! the textfile collector of Prometheus' node_exporter reads. A run changes the lines of its own lock
//! and keeps those of others.

use std::fmt::Write;
use std::time::Duration;

/// What a run adds.
#[derive(Clone, Debug)]
pub struct Record {
    /// The label `lock`.
    pub lock: String,
    /// The label `host`.
    pub host: String,
    /// How the run ended.
    pub outcome: &'static str,
    /// When the run ended, in ms since 1970.
    pub now: i64,
    /// The figures of its command; `None`: it did not start it.
    pub figures: Option<Figures>,
}

/// Figures of a run that started its command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Figures {
    /// When the command started, in ms since 1970.
    pub start: i64,
    /// When it ended.
    pub end: i64,
    /// How long it ran.
    pub duration: Duration,
    /// How long the run had waited for the lock.
    pub wait: Duration,
    /// The exit code of the run.
    pub exit_code: u8,
    /// The fencing token.
    pub token: Option<i64>,
}

/// The file has a line that no run has written: the number of the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Foreign(pub usize);

/// All names begin like this.
const PREFIX: &str = "zk_flock_";

/// The outcome of the last run.
const OUTCOME: &str = "zk_flock_last_outcome";
/// How many runs had an outcome.
const RUNS: &str = "zk_flock_runs_total";

/// Name, type and meaning of each metric, in the order of the file.
const METRICS: [(&str, &str, &str); 9] = [
    (
        "zk_flock_last_attempt_timestamp_seconds",
        "gauge",
        "When the last run ended, whether or not it started its command.",
    ),
    (
        OUTCOME,
        "gauge",
        "1, with the outcome of the last run as a label.",
    ),
    (RUNS, "counter", "Runs by outcome."),
    (
        "zk_flock_last_start_timestamp_seconds",
        "gauge",
        "When the last command started.",
    ),
    (
        "zk_flock_last_end_timestamp_seconds",
        "gauge",
        "When the last command ended.",
    ),
    (
        "zk_flock_last_duration_seconds",
        "gauge",
        "How long the last command ran.",
    ),
    (
        "zk_flock_last_exit_code",
        "gauge",
        "Exit code of the last run that started its command; 128+N if signal N killed it.",
    ),
    (
        "zk_flock_last_wait_seconds",
        "gauge",
        "How long that run had waited for the lock.",
    ),
    ("zk_flock_last_token", "gauge", "Fencing token of that run."),
];

/// One line: its metric, its labels without the braces, and its value.
type Sample = (&'static str, String, String);

/// The new content of a file.
pub fn updated(old: &str, record: &Record) -> Result<String, Foreign> {
    let mut samples = samples(old)?;
    let labels = format!(
        "lock=\"{}\",host=\"{}\"",
        escaped(&record.lock),
        escaped(&record.host)
    );
    let with_outcome = format!("{labels},outcome=\"{}\"", record.outcome);
    let count = samples
        .iter()
        .find(|(name, its, _)| *name == RUNS && *its == with_outcome)
        .and_then(|(.., count)| count.parse::<u64>().ok())
        .unwrap_or(0);
    let is_own = |its: &str| its == labels || its.starts_with(&format!("{labels},"));
    samples.retain(|(name, its, _)| match *name {
        RUNS => *its != with_outcome,
        _ if !is_own(its) => true,
        OUTCOME | "zk_flock_last_attempt_timestamp_seconds" => false,
        _ => record.figures.is_none(),
    });
    let mut add = |name, labels: &str, value| samples.push((name, labels.to_owned(), value));
    add(RUNS, &with_outcome, count.saturating_add(1).to_string());
    add(OUTCOME, &with_outcome, "1".into());
    let now = seconds(record.now);
    add("zk_flock_last_attempt_timestamp_seconds", &labels, now);
    if let Some(figures) = record.figures {
        for (name, value) in values(&figures) {
            add(name, &labels, value);
        }
    }
    Ok(text(samples))
}

fn values(figures: &Figures) -> impl Iterator<Item = (&'static str, String)> {
    let Figures {
        start,
        end,
        duration,
        wait,
        exit_code,
        token,
    } = *figures;
    let short = |time: Duration| format!("{:.3}", time.as_secs_f64());
    [
        Some(("zk_flock_last_start_timestamp_seconds", seconds(start))),
        Some(("zk_flock_last_end_timestamp_seconds", seconds(end))),
        Some(("zk_flock_last_duration_seconds", short(duration))),
        Some(("zk_flock_last_exit_code", exit_code.to_string())),
        Some(("zk_flock_last_wait_seconds", short(wait))),
        token.map(|token| ("zk_flock_last_token", token.to_string())),
    ]
    .into_iter()
    .flatten()
}

/// The samples of a file, without those of metrics that only another version has.
fn samples(text: &str) -> Result<Vec<Sample>, Foreign> {
    let mut samples = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty()
            || line.starts_with("# HELP zk_flock_")
            || line.starts_with("# TYPE zk_flock_")
        {
            continue;
        }
        let (name, labels, value) = sample(line).ok_or(Foreign(number))?;
        let known = METRICS.iter().find(|(known, ..)| *known == name);
        samples.extend(known.map(|(known, ..)| (*known, labels.into(), value.into())));
    }
    Ok(samples)
}

/// Name, labels and value of a line of a run.
fn sample(line: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = line.split_once('{')?;
    let (labels, value) = rest.rsplit_once("} ")?;
    let is_number = value.parse::<f64>().is_ok();
    let is_own = name.starts_with(PREFIX) && labels.starts_with("lock=\"") && labels.ends_with('"');
    (is_own && is_number).then_some((name, labels, value))
}

fn text(mut samples: Vec<Sample>) -> String {
    samples.sort();
    let mut text = String::new();
    for (name, kind, help) in METRICS {
        let mut own = samples.iter().filter(|(its, ..)| *its == name).peekable();
        if own.peek().is_some() {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        }
        for (_, labels, value) in own {
            let _ = writeln!(text, "{name}{{{labels}}} {value}");
        }
    }
    text
}

/// A time in ms since 1970, in seconds.
fn seconds(milliseconds: i64) -> String {
    let milliseconds = milliseconds.max(0); // a clock that was never set
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

/// The value of a label, without its quotes.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(lock: &str) -> Record {
        Record {
            lock: lock.into(),
            host: "web3".into(),
            outcome: "ran",
            now: 1_700_000_009_500,
            figures: Some(Figures {
                start: 1_700_000_001_000,
                end: 1_700_000_009_007,
                duration: Duration::from_millis(8007),
                wait: Duration::from_millis(16),
                exit_code: 3,
                token: Some(2975),
            }),
        }
    }

    fn busy() -> Record {
        Record {
            outcome: "busy",
            now: 1_700_000_100_000,
            figures: None,
            ..ran("/app/report")
        }
    }

    /// The lines that are no comments.
    fn lines(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn run_writes_its_figures_with_help_and_type() {
        let text = updated("", &ran("/app/report")).unwrap();
        let labels = r#"{lock="/app/report",host="web3"}"#;
        assert_eq!(
            lines(&text),
            [
                format!("zk_flock_last_attempt_timestamp_seconds{labels} 1700000009.500"),
                r#"zk_flock_last_outcome{lock="/app/report",host="web3",outcome="ran"} 1"#.into(),
                r#"zk_flock_runs_total{lock="/app/report",host="web3",outcome="ran"} 1"#.into(),
                format!("zk_flock_last_start_timestamp_seconds{labels} 1700000001.000"),
                format!("zk_flock_last_end_timestamp_seconds{labels} 1700000009.007"),
                format!("zk_flock_last_duration_seconds{labels} 8.007"),
                format!("zk_flock_last_exit_code{labels} 3"),
                format!("zk_flock_last_wait_seconds{labels} 0.016"),
                format!("zk_flock_last_token{labels} 2975"),
            ]
        );
        for (name, kind, help) in METRICS {
            let head = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{");
            assert!(text.contains(&head), "{head}");
        }
    }

    #[test]
    fn run_without_a_command_keeps_the_figures_of_the_last_one() {
        let first = updated("", &ran("/app/report")).unwrap();
        let second = updated(&first, &busy()).unwrap();
        let third = updated(&second, &busy()).unwrap();
        assert_eq!(lines(&third)[4..], lines(&first)[3..], "the figures");
        assert_eq!(
            lines(&third)[..4],
            [
                r#"zk_flock_last_attempt_timestamp_seconds{lock="/app/report",host="web3"} 1700000100.000"#,
                r#"zk_flock_last_outcome{lock="/app/report",host="web3",outcome="busy"} 1"#,
                r#"zk_flock_runs_total{lock="/app/report",host="web3",outcome="busy"} 2"#,
                r#"zk_flock_runs_total{lock="/app/report",host="web3",outcome="ran"} 1"#,
            ]
        );
    }

    #[test]
    fn figures_of_the_last_command_are_replaced_all_together() {
        let mut without_token = ran("/app/report");
        without_token.figures.as_mut().unwrap().token = None;
        let first = updated("", &ran("/app/report")).unwrap();
        let second = updated(&first, &without_token).unwrap();
        assert!(!second.contains("zk_flock_last_token"), "{second}");
        assert_eq!(lines(&second).len(), lines(&first).len() - 1);
    }

    #[test]
    fn lines_of_other_locks_and_hosts_are_kept() {
        let others = [
            "/app/report2",
            "/app/repor",
            "/app/report\",host=\"web3\",x=\"\n\\",
        ];
        let other_host = Record {
            host: "web4".into(),
            ..ran("/app/report")
        };
        let mut text = updated("", &other_host).unwrap();
        for lock in others {
            text = updated(&text, &ran(lock)).unwrap();
        }
        let with_own = updated(&text, &ran("/app/report")).unwrap();
        let kept = lines(&text)
            .into_iter()
            .all(|line| lines(&with_own).contains(&line));
        assert!(kept, "{with_own}");
        assert_eq!(lines(&with_own).len(), 5 * 9);
        assert_eq!(samples(&with_own).unwrap().len(), 5 * 9);
    }

    #[test]
    fn file_of_another_program_is_not_replaced() {
        for (text, line) in [
            ("root:x:0:0:root:/root:/bin/sh\n", 1),
            (
                "# HELP zk_flock_x y\nnode_boot_time_seconds{a=\"b\"} 5\n",
                2,
            ),
            ("zk_flock_last_token 7\n", 1),
            ("zk_flock_last_token{lock=\"a\",host=\"b\"} many\n", 1),
            ("# HELP other x\n", 1),
        ] {
            assert_eq!(updated(text, &busy()), Err(Foreign(line)), "{text}");
        }
    }

    #[test]
    fn metric_of_a_newer_version_is_dropped() {
        let newer = "zk_flock_last_lease_seconds{lock=\"/app/report\",host=\"web3\"} 5\n";
        assert_eq!(updated(newer, &busy()), updated("", &busy()));
    }
}

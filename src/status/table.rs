//! The report as a table for operators: one row for each lock, and one for each further holder. In
//! detail, the sessions and the waiters follow.

use super::{Holder, Kind, LastRun, Lock, Report, Waiter};
use crate::printable::printable;
use std::fmt::Write;
use std::time::Duration;

const HEAD: [&str; 6] = ["LOCK", "HOLDER", "SINCE", "HELD", "TOKEN", "WAITING"];

/// Between two columns.
const GAP: &str = "  ";

/// The most characters that are shown of a name or a host: more than any that is meant to be read.
/// Other clients choose them, and one long cell would make every row as long.
const LONGEST_CELL: usize = 200;

/// Stands for the rest.
const CUT: &str = "...";

/// The table. `now`: ms of real time. `time` formats such a time as RFC 3339. `detailed`: with
/// kinds, sessions and waiters.
pub fn table(report: &Report, now: i64, time: fn(i64) -> String, detailed: bool) -> String {
    let mut lines = vec![Line::Row(HEAD.map(Into::into))];
    for lock in &report.locks {
        rows(lock, now, time, &mut lines);
        if detailed {
            details(lock, now, time, &mut lines);
        }
    }
    print(&lines)
}

enum Line {
    Row([String; HEAD.len()]),
    Text(String),
}

fn rows(lock: &Lock, now: i64, time: fn(i64) -> String, lines: &mut Vec<Line>) {
    let waiting = match lock.waiters.len() {
        0 => String::new(),
        waiters => waiters.to_string(),
    };
    let single = lock.slots.is_none_or(|slots| slots == 1);
    match lock.holders.as_deref() {
        None => lines.push(row(&lock.name, "unknown", None, now, time, waiting)),
        Some([]) if single => lines.push(row(&lock.name, "free", None, now, time, waiting)),
        Some([holder]) if single => {
            let origin = origin_of(holder.host.as_deref(), holder.pid);
            lines.push(row(&lock.name, &origin, Some(holder), now, time, waiting));
        }
        Some(holders) => {
            let count = match lock.slots {
                Some(slots) => format!("{}/{slots}", holders.len()),
                None => format!("{} holders", holders.len()),
            };
            lines.push(row(&lock.name, &count, None, now, time, waiting));
            for holder in holders {
                let origin = origin_of(holder.host.as_deref(), holder.pid);
                lines.push(row("", &origin, Some(holder), now, time, String::new()));
            }
        }
    }
}

fn row(
    name: &str,
    who: &str,
    holder: Option<&Holder>,
    now: i64,
    time: fn(i64) -> String,
    waiting: String,
) -> Line {
    let since = holder.and_then(|holder| holder.since);
    let token = holder.and_then(|holder| holder.token);
    Line::Row([
        cell(name),
        who.to_owned(),
        since.map(time).unwrap_or_default(),
        since.map(|since| age(now, since)).unwrap_or_default(),
        token.map(|token| token.to_string()).unwrap_or_default(),
        waiting,
    ])
}

/// Kind, sessions and leases of the holders, then the waiters and the last run.
fn details(lock: &Lock, now: i64, time: fn(i64) -> String, lines: &mut Vec<Line>) {
    if let Some(kind) = lock.kind {
        lines.push(Line::Text(format!("{}{}", description(kind), path(lock))));
    }
    for holder in lock.holders.iter().flatten() {
        let mut text = format!("held by {}", origin_of(holder.host.as_deref(), holder.pid));
        if let Some(session) = &holder.session {
            let _ = write!(text, ", session {session}");
        }
        if let Some(expires) = holder.expires {
            let _ = write!(text, ", lease valid for {}", age(expires, 0));
        }
        lines.push(Line::Text(text));
    }
    for waiter in &lock.waiters {
        lines.push(Line::Text(waiting(waiter, now)));
    }
    if let Some(run) = &lock.last_run {
        let mut holders = lock.holders.iter().flatten();
        let is_running = run.token.is_some() && holders.any(|it| it.token == run.token);
        lines.push(Line::Text(last_run(run, is_running, now, time)));
    }
}

/// `last run by web3:4711 at TIME, 4h 2m ago: exit code 0 after 12s`
fn last_run(run: &LastRun, is_running: bool, now: i64, time: fn(i64) -> String) -> String {
    let mut text = format!("last run by {}", origin_of(run.host.as_deref(), run.pid));
    if let Some(started) = run.started {
        let _ = write!(text, " at {}, {} ago", time(started), age(now, started));
    }
    match (run.exit, run.started.zip(run.ended)) {
        (Some(code), Some((started, ended))) => {
            let _ = write!(text, ": exit code {code} after {}", age(ended, started));
        }
        (Some(code), None) => {
            let _ = write!(text, ": exit code {code}");
        }
        (None, _) if is_running => text.push_str(": still running"),
        (None, _) => text.push_str(": no end is recorded"),
    }
    text
}

fn waiting(waiter: &Waiter, now: i64) -> String {
    let mut text = format!(
        "waiter {}: {}",
        waiter.position,
        origin_of(waiter.host.as_deref(), waiter.pid)
    );
    if let Some(since) = waiter.since {
        let _ = write!(text, ", waiting for {}", age(now, since));
    }
    if let Some(session) = &waiter.session {
        let _ = write!(text, ", session {session}");
    }
    text
}

fn description(kind: Kind) -> &'static str {
    match kind {
        Kind::Node => "a lock of zk-flock",
        Kind::Queue => "a lock of lockex or kazoo (Lock or WriteLock)",
        Kind::Readers => "held by readers: lockex --shared, or kazoo (ReadLock)",
        Kind::Semaphore => "a semaphore of lockex or kazoo",
        Kind::File => "a lock of this host",
        Kind::SharedFile => "a lock of this host, held by readers",
        Kind::Pool => "a pool of a lock server",
    }
}

fn path(lock: &Lock) -> String {
    format!(": {}", lock.path)
}

/// A holder, by host and process.
pub fn origin(holder: &Holder) -> String {
    origin_of(holder.host.as_deref(), holder.pid)
}

fn origin_of(host: Option<&str>, pid: Option<u32>) -> String {
    match (host.map(cell), pid) {
        (Some(host), Some(pid)) => format!("{host}:{pid}"),
        (Some(host), None) => host,
        (None, Some(pid)) => format!("?:{pid}"),
        (None, None) => "?".to_owned(),
    }
}

/// The time between two moments, given in ms, in its two largest units. Clocks differ: what began
/// in the future has just begun.
fn age(now: i64, since: i64) -> String {
    let milliseconds = now.saturating_sub(since).max(0).unsigned_abs();
    duration(Duration::from_millis(milliseconds))
}

/// A time in its two largest units.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// A text of another client, not longer than a cell may be.
fn cell(text: &str) -> String {
    match text.char_indices().nth(LONGEST_CELL) {
        None => printable(text),
        Some((end, _)) => printable(&text[..end]) + CUT,
    }
}

fn print(lines: &[Line]) -> String {
    let mut widths = [0; HEAD.len()];
    for line in lines {
        if let Line::Row(cells) = line {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = cell.chars().count().max(*width);
            }
        }
    }
    let mut text = String::new();
    for line in lines {
        let line = match line {
            Line::Row(cells) => cells
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect::<Vec<_>>()
                .join(GAP),
            Line::Text(detail) => format!("{GAP}{}", printable(detail)),
        };
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(ms: i64) -> String {
        format!("2026-11-30T03:12:{:02}+01:00", ms / 1000)
    }

    fn held(host: &str, pid: Option<u32>, since: i64, token: i64) -> Holder {
        Holder {
            host: Some(host.into()),
            pid,
            since: Some(since),
            token: Some(token),
            session: Some("0x10".into()),
            ..Holder::default()
        }
    }

    fn lock(name: &str, kind: Kind, slots: Option<u32>, holders: Vec<Holder>) -> Lock {
        Lock {
            name: name.into(),
            path: format!("/ops/{name}"),
            kind: Some(kind),
            slots,
            holders: Some(holders),
            waiters: vec![],
            last_run: None,
        }
    }

    #[test]
    fn each_lock_has_a_row_and_a_semaphore_one_for_each_holder() {
        let waiter = |position| Waiter {
            host: Some("web4".into()),
            pid: Some(812),
            since: Some(1_000),
            session: Some("0x11".into()),
            position,
        };
        let locks = vec![
            Lock {
                waiters: vec![waiter(1), waiter(2)],
                ..lock(
                    "report",
                    Kind::Node,
                    Some(1),
                    vec![held("web3", Some(4711), 28_000, 2975)],
                )
            },
            lock("import", Kind::Node, Some(1), vec![]),
            lock(
                "gpu",
                Kind::Semaphore,
                Some(3),
                vec![held("a", None, 0, 7), held("b", Some(1), 1, 8)],
            ),
            Lock {
                holders: None,
                ..lock("x\u{1b}[2J", Kind::File, None, vec![])
            },
        ];
        let mut report = Report {
            locks,
            warnings: vec![],
        };
        let now = 28_000 + (4 * 60 + 2) * 60_000;
        assert_eq!(
            table(&report, now, time, false),
            "\
LOCK    HOLDER     SINCE                      HELD    TOKEN  WAITING
report  web3:4711  2026-11-30T03:12:28+01:00  4h 2m   2975   2
import  free
gpu     2/3
        a          2026-11-30T03:12:00+01:00  4h 2m   7
        b:1        2026-11-30T03:12:00+01:00  4h 2m   8
x?[2J   unknown
"
            .replace("4h 2m   ", "4h 2m  ")
            .replace("HELD    ", "HELD   ")
        );
        report.locks.truncate(1);
        assert_eq!(
            table(&report, now, time, true)
                .lines()
                .skip(2)
                .collect::<Vec<_>>(),
            [
                "  a lock of zk-flock: /ops/report",
                "  held by web3:4711, session 0x10",
                "  waiter 1: web4:812, waiting for 4h 2m, session 0x11",
                "  waiter 2: web4:812, waiting for 4h 2m, session 0x11",
            ]
        );
    }

    #[test]
    fn the_last_run_is_shown_in_detail() {
        let run = LastRun {
            host: Some("web5".into()),
            pid: Some(7),
            token: Some(33),
            started: Some(1_000),
            ended: Some(13_500),
            exit: Some(1),
        };
        let shown_with = |holders: Vec<Holder>, run: LastRun| {
            let lock = lock("report", Kind::Node, Some(1), holders);
            let locks = vec![Lock {
                last_run: Some(run),
                ..lock
            }];
            let report = Report {
                locks,
                warnings: vec![],
            };
            let text = table(&report, 61_000, time, true);
            text.lines().last().unwrap().to_owned()
        };
        let shown = |run| shown_with(vec![], run);
        let start = "  last run by web5:7 at 2026-11-30T03:12:01+01:00, 1m 0s ago: ";
        let ended = format!("{start}exit code 1 after 12s");
        assert_eq!(shown(run.clone()), ended);
        let open = LastRun {
            exit: None,
            ended: None,
            ..run
        };
        assert_eq!(shown(open.clone()), format!("{start}no end is recorded"));
        for (token, expected) in [(33, "still running"), (34, "no end is recorded")] {
            let holder = held("web5", Some(7), 1_000, token);
            let found = shown_with(vec![holder], open.clone());
            assert_eq!(found, format!("{start}{expected}"));
        }
        let garbage = LastRun {
            started: Some(1_000),
            ..LastRun::default()
        };
        let start = start.replace("web5:7", "?");
        assert_eq!(shown(garbage), format!("{start}no end is recorded"));
    }

    #[test]
    fn a_cell_of_any_length_is_cut() {
        let long = "é".repeat(70_000);
        let held = held(&long, Some(4711), 0, 7);
        let report = Report {
            locks: vec![lock(&long, Kind::Queue, Some(1), vec![held])],
            warnings: vec![],
        };
        let start = "é".repeat(200);
        let shown = table(&report, 0, time, false);
        let row = shown.lines().nth(1).unwrap();
        assert!(
            row.starts_with(&format!("{start}...  {start}...:4711  2026")),
            "{row}"
        );
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown() {
        for character in
            "\u{9b}\u{200e}\u{200f}\u{202a}\u{202e}\u{2028}\u{2029}\u{2066}\u{2069}".chars()
        {
            let name = format!("a{character}b");
            let lock = lock(&name, Kind::Node, Some(1), vec![held(&name, None, 0, 7)]);
            let report = Report {
                locks: vec![lock],
                warnings: vec![],
            };
            let shown = table(&report, 0, time, true);
            assert!(!shown.contains(character), "{shown:?}");
            assert!(shown.contains("\na?b   a?b "), "{shown:?}");
        }
    }

    #[test]
    fn an_age_has_two_units() {
        for (seconds, text) in [
            (-5, "0s"),
            (59, "59s"),
            (60, "1m 0s"),
            (3_599, "59m 59s"),
            (86_399, "23h 59m"),
            (200_000, "2d 7h"),
        ] {
            assert_eq!(age(seconds * 1000, 0), text);
        }
    }
}

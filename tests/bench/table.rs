//! A table as RESULTS.md has it.

use std::fmt::{self, Display};
use std::time::Duration;

/// Rows under a head; the first column is text, the others figures.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(head: &[&str]) -> Table {
        let head: Vec<String> = head.iter().map(ToString::to_string).collect();
        let rule = (0..head.len())
            .map(|column| if column == 0 { "---" } else { "---:" }.to_owned())
            .collect();
        Table {
            rows: vec![head, rule],
        }
    }

    /// One more row.
    pub fn row(&mut self, name: &str, figures: &[String]) {
        self.rows.push([&[name.to_owned()], figures].concat());
    }

    /// A row for a program that is not installed: how to install it.
    pub fn missing(&mut self, name: &str, remedy: &str) {
        self.row(name, &[format!("missing: `{remedy}`")]);
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.rows
            .iter()
            .try_for_each(|row| writeln!(f, "| {} |", row.join(" | ")))
    }
}

/// In ms, with three digits that count.
pub fn ms(time: Duration) -> String {
    format!("{} ms", three(time.as_secs_f64() * 1e3))
}

/// How many times the other it is.
pub fn ratio(time: Duration, other: Duration) -> String {
    format!("{} ×", three(time.as_secs_f64() / other.as_secs_f64()))
}

/// KiB as MB, as the original's figures are.
pub fn mb(kib: u64) -> String {
    format!("{:.2} MB", kib as f64 * 1024.0 / 1e6)
}

/// A number with three digits that count, or all before its point.
pub fn three(number: f64) -> String {
    let digits = match number.abs() {
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{number:.digits$}")
}

//! Attempts that fail repeatedly for the same reason. The first is logged; the number and the
//! duration of the others are logged when the reason changes or the attempts end. Pure.

use crate::moment::Moment;

/// The last reason of one server.
#[derive(Debug)]
struct Repeat {
    text: String,
    /// How often it was repeated after it was logged.
    times: u32,
    since: Moment,
    last: Moment,
}

/// The last reason of each server.
#[derive(Debug, Default)]
pub(super) struct Repeats(Vec<Repeat>);

impl Repeats {
    /// The lines to log for a failed attempt: `SERVER: REASON`.
    pub(super) fn failed(&mut self, text: &str, now: Moment) -> Vec<String> {
        let found = self
            .0
            .iter()
            .position(|known| server(&known.text) == server(text));
        let mut lines = Vec::new();
        if let Some(index) = found {
            if self.0[index].text == text {
                let known = &mut self.0[index];
                (known.times, known.last) = (known.times + 1, now);
                return lines;
            }
            lines.extend(self.0.remove(index).line());
        }
        lines.push(text.to_owned());
        self.0.push(Repeat {
            text: text.to_owned(),
            times: 0,
            since: now,
            last: now,
        });
        lines
    }

    /// The lines to log when a server has answered, or when the attempts end.
    pub(super) fn end(&mut self) -> Vec<String> {
        let known = std::mem::take(&mut self.0);
        known.iter().filter_map(Repeat::line).collect()
    }
}

impl Repeat {
    fn line(&self) -> Option<String> {
        let (times, length) = (self.times, self.last.since(self.since).as_secs_f64());
        let word = if times == 1 { "time" } else { "times" };
        (times > 0).then(|| format!("{}: {times} more {word} in {length:.1} s", self.text))
    }
}

/// The server of a line.
fn server(text: &str) -> &str {
    text.split_once(": ").map_or(text, |(server, _)| server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_reason_is_logged_once_for_each_server_and_counted_when_it_ends() {
        let mut repeats = Repeats::default();
        let mut log = Vec::new();
        for (seconds, text) in [
            (1, "a:1: refused"),
            (1, "b:1: refused"),
            (2, "a:1: refused"),
            (2, "b:1: refused"),
            (4, "a:1: refused"),
            (5, "a:1: reset"),
        ] {
            log.extend(repeats.failed(text, Moment(Duration::from_secs(seconds))));
        }
        log.extend(repeats.end());
        let expected = [
            "a:1: refused",
            "b:1: refused",
            "a:1: refused: 2 more times in 3.0 s",
            "a:1: reset",
            "b:1: refused: 1 more time in 1.0 s",
        ];
        assert_eq!(log, expected);
        assert_eq!(repeats.end(), [""; 0]);
    }
}

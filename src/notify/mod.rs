//! Messages to a service manager, as sd_notify(3) describes them: which are due, and their text.
//! What a run reports is decided in [`run`], and what a lock server reports in [`server`].

pub mod run;
pub mod server;

use crate::moment::Moment;
use crate::printable::printable;
use std::fmt::Write;
use std::time::Duration;

/// When a message that the service manager did not take is sent again.
const RETRY: Duration = Duration::from_secs(1);

/// The most bytes of a status. It may name each lock of `-n` and the text of a holder. systemd
/// ignores a message of more than 4096 bytes, with all that is in it.
const MAX_STATUS: usize = 1000;

/// Content of one message. A newer one is added to those that were not sent yet.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Notice {
    /// The service has started.
    pub ready: bool,
    /// The service reads its config again, since this time of `CLOCK_MONOTONIC`.
    pub reloading: Option<Duration>,
    /// The service is about to end.
    pub stopping: bool,
    /// For the person who asks for the state.
    pub status: Option<String>,
}

impl Notice {
    /// A change of the state, and nothing else.
    pub fn status(text: String) -> Notice {
        Notice {
            status: Some(text),
            ..Notice::default()
        }
    }

    fn is_empty(&self) -> bool {
        *self == Notice::default()
    }

    fn add(&mut self, newer: Notice) {
        self.ready |= newer.ready;
        self.reloading = newer.reloading.or(self.reloading);
        self.stopping |= newer.stopping;
        self.status = newer.status.or(self.status.take());
    }

    /// The message: one assignment a line.
    fn text(&self, watchdog: bool) -> String {
        let mut text = String::new();
        if let Some(since) = self.reloading {
            let since = since.as_micros();
            let _ = write!(text, "RELOADING=1\nMONOTONIC_USEC={since}\n");
        }
        for (assignment, present) in [
            ("READY=1\n", self.ready),
            ("STOPPING=1\n", self.stopping),
            ("WATCHDOG=1\n", watchdog),
        ] {
            text += if present { assignment } else { "" };
        }
        if let Some(status) = &self.status {
            let status = shortened(&printable(status)); // a newline would begin a new assignment
            let _ = writeln!(text, "STATUS={status}");
        }
        text
    }
}

/// The text, or its beginning and an ellipsis if it is too long for a status.
fn shortened(status: &str) -> String {
    if status.len() <= MAX_STATUS {
        return status.into();
    }
    let mut length = 0;
    let fits = |c: &char| {
        length += c.len_utf8();
        length < MAX_STATUS - "...".len()
    };
    status
        .chars()
        .take_while(fits)
        .chain("...".chars())
        .collect()
}

/// The messages that are due.
#[derive(Debug)]
pub struct Outbox {
    owed: Notice,
    /// A failed message is sent again then.
    retry_at: Moment,
    /// Half the time that the service manager waits for a sign of life.
    interval: Option<Duration>,
    next_sign: Moment,
    /// The last message has a sign of life.
    signed: bool,
}

impl Outbox {
    /// For a service manager that kills a process that is silent for `watchdog`.
    pub fn new(watchdog: Option<Duration>, now: Moment) -> Outbox {
        let interval = watchdog.map(|watchdog| watchdog / 2);
        Outbox {
            owed: Notice::default(),
            retry_at: Moment::default(),
            interval,
            next_sign: interval.map_or(Moment::NEVER, |interval| now + interval),
            signed: false,
        }
    }

    /// Adds to the next message.
    pub fn add(&mut self, notice: Notice) {
        self.owed.add(notice);
    }

    /// The message that is due, if any. `alive`: the process does what it is there for.
    pub fn due(&mut self, alive: bool, now: Moment) -> Option<String> {
        let mut sign = false;
        if let Some(interval) = self.interval
            && now >= self.next_sign
        {
            self.next_sign = now + interval;
            sign = alive;
        }
        let owes = !self.owed.is_empty() && now >= self.retry_at;
        self.signed = sign;
        (owes || sign).then(|| self.owed.text(sign))
    }

    /// The last message was sent.
    pub fn sent(&mut self) {
        self.owed = Notice::default();
        self.retry_at = Moment::default();
    }

    /// The last message could not be sent. A sign of life in it is sent again as well: the next one
    /// would be due when the service manager kills the process.
    pub fn failed(&mut self, now: Moment) {
        self.retry_at = now + RETRY;
        if self.signed {
            self.next_sign = self.next_sign.min(self.retry_at);
        }
    }

    /// When the next message is due.
    pub fn wake(&self) -> Moment {
        if self.owed.is_empty() {
            self.next_sign
        } else {
            self.next_sign.min(self.retry_at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn ready() -> Notice {
        Notice {
            ready: true,
            ..Notice::status("holding".into())
        }
    }

    #[test]
    fn nothing_is_due_without_news() {
        let mut outbox = Outbox::new(None, at(0));
        assert_eq!(
            (outbox.due(true, at(9)), outbox.wake()),
            (None, Moment::NEVER)
        );
        outbox.add(ready());
        let message = "READY=1\nSTATUS=holding\n".to_owned();
        assert_eq!(outbox.due(true, at(9)), Some(message));
        outbox.sent();
        assert_eq!(
            (outbox.due(true, at(9)), outbox.wake()),
            (None, Moment::NEVER)
        );
    }

    #[test]
    fn message_that_was_not_taken_is_sent_again_with_what_is_new() {
        let mut outbox = Outbox::new(None, at(0));
        outbox.add(ready());
        assert!(outbox.due(true, at(1)).is_some());
        outbox.failed(at(1));
        outbox.add(Notice {
            stopping: true,
            ..Notice::status("releasing".into())
        });
        assert_eq!((outbox.due(true, at(1)), outbox.wake()), (None, at(2)));
        let message = "READY=1\nSTOPPING=1\nSTATUS=releasing\n".to_owned();
        assert_eq!(outbox.due(true, at(2)), Some(message));
    }

    #[test]
    fn sign_of_life_comes_twice_in_the_time_of_the_watchdog_while_the_process_is_alive() {
        let mut outbox = Outbox::new(Some(Duration::from_secs(10)), at(100));
        assert_eq!((outbox.due(true, at(104)), outbox.wake()), (None, at(105)));
        let sign = Some("WATCHDOG=1\n".to_owned());
        assert_eq!(
            (outbox.due(true, at(106)), outbox.wake()),
            (sign.clone(), at(111))
        );
        assert_eq!((outbox.due(false, at(111)), outbox.wake()), (None, at(116)));
        assert_eq!((outbox.due(true, at(116)), outbox.wake()), (sign, at(121)));
    }

    #[test]
    fn sign_of_life_that_was_not_taken_is_sent_again() {
        let mut outbox = Outbox::new(Some(Duration::from_secs(30)), at(0));
        let sign = Some("WATCHDOG=1\n".to_owned());
        assert_eq!(outbox.due(true, at(15)), sign);
        outbox.failed(at(15));
        assert_eq!((outbox.due(true, at(15)), outbox.wake()), (None, at(16)));
        assert_eq!((outbox.due(true, at(16)), outbox.wake()), (sign, at(31)));
        outbox.sent();
        outbox.add(ready());
        assert!(outbox.due(true, at(17)).is_some());
        outbox.failed(at(17));
        assert!(outbox.due(true, at(18)).is_some());
        outbox.sent();
        assert_eq!(outbox.wake(), at(31), "that message had no sign of life");
    }

    #[test]
    fn status_is_shortened_so_that_systemd_takes_the_message() {
        let mut outbox = Outbox::new(None, at(0));
        outbox.add(Notice {
            status: Some("waiting for ü, ".repeat(1000)),
            ..ready()
        });
        let message = outbox.due(true, at(0)).unwrap();
        let end = message.strip_prefix("READY=1\nSTATUS=waiting for ü, waiting");
        assert!(end.is_some_and(|end| end.ends_with("...\n")), "{message}");
        assert!((900..1020).contains(&message.len()), "{}", message.len());
        let longest = "x".repeat(MAX_STATUS);
        assert_eq!(shortened(&longest), longest);
    }

    #[test]
    fn reload_has_the_time_of_its_begin() {
        let reloading = Notice {
            reloading: Some(Duration::from_millis(1500)),
            ..Notice::default()
        };
        let text = "RELOADING=1\nMONOTONIC_USEC=1500000\n";
        assert_eq!(reloading.text(false), text);
    }

    #[test]
    fn text_of_others_cannot_make_an_assignment() {
        let status = Notice::status("held by web3\nMAINPID=1".into());
        assert_eq!(status.text(false), "STATUS=held by web3?MAINPID=1\n");
    }
}

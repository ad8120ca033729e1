//! Decides which received signals have also reached the command, so that it gets each of them once.
//! Pure.
//!
//! A process can be signalled alone, with its process group (timeout(1), supervisord's stopasgroup,
//! `kill -- -PGID`) or with its control group (systemd's default `KillMode`). Neither the signal
//! nor the kernel shows which. So other processes report which signals they got: the guard, in a
//! session of its own, is signalled only with the control group; if the command shares zk-flock's
//! process group, a *witness* in that group is signalled with either. A sender signals them one
//! after the other, so a signal is held back for a moment until they have reported.
//!
//! timeout(1) signals its child and then the group: the same order, sent twice.

use crate::moment::Moment;
use crate::signal::Signal;
use std::collections::VecDeque;
use std::time::Duration;

/// How long a signal waits for a witness's report, and how long the same signal from the same
/// sender counts as the same order. timeout(1) takes up to 2 ms between the two, systemd a few µs
/// for each process of a control group; the rest is for a busy machine, where a witness was seen to
/// be scheduled after 60 ms.
const WINDOW: Duration = Duration::from_millis(100);

/// Maximum number of signals remembered of one window; further signals are passed on at once.
const MOST: usize = 64;

/// Signals that request one action each. They are held back until it is known which processes they
/// have reached.
pub const COUNTED: [Signal; 6] = [
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
];

/// Which processes a signal has reached, besides this one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reach {
    /// No process of the command.
    Here,
    /// Those in this process group.
    Group,
    /// All of them.
    Everywhere,
}

/// A signal and its sender; 0 is the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// The signal.
    pub signal: Signal,
    /// The sender's process id, as far as it is visible.
    pub sender: i32,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    sent: Sent,
    reach: Reach,
    at: Moment,
}

/// The signals of the last window.
#[derive(Debug, Default)]
pub struct Deliveries {
    held: VecDeque<Seen>,
    /// Received signals, held back or not.
    received: VecDeque<Seen>,
    witnessed: VecDeque<Seen>,
}

impl Deliveries {
    /// Whether this is an order to end that was received already. Otherwise it is remembered.
    pub fn is_repeat(&mut self, sent: Sent, now: Moment) -> bool {
        forget(&mut self.received, now);
        let repeat = sent.signal.ends() && self.received.iter().any(|seen| seen.sent == sent);
        if !repeat {
            remember(
                &mut self.received,
                Seen {
                    sent,
                    reach: Reach::Here,
                    at: now,
                },
            );
        }
        repeat
    }

    /// Holds a signal back until it is known which processes it has reached.
    pub fn hold(&mut self, sent: Sent, now: Moment) {
        forget(&mut self.witnessed, now);
        let words = self
            .witnessed
            .iter()
            .filter(|seen| seen.sent == sent)
            .map(|seen| seen.reach);
        let reach = words.max().unwrap_or(Reach::Here);
        self.held.push_back(Seen {
            sent,
            reach,
            at: now,
        });
    }

    /// A witness has received this signal, and so have all processes of `reach`.
    pub fn witnessed(&mut self, sent: Sent, reach: Reach, now: Moment) {
        forget(&mut self.witnessed, now);
        remember(
            &mut self.witnessed,
            Seen {
                sent,
                reach,
                at: now,
            },
        );
        for seen in self.held.iter_mut().filter(|seen| seen.sent == sent) {
            seen.reach = seen.reach.max(reach);
        }
    }

    /// The next signal that is no longer held back.
    pub fn next(&mut self, now: Moment) -> Option<(Sent, Reach)> {
        let ready = now >= self.wake() || self.held.len() > MOST;
        ready.then(|| self.take()).flatten()
    }

    /// The next signal, held back or not: the command has ended.
    pub fn take(&mut self) -> Option<(Sent, Reach)> {
        self.held.pop_front().map(|seen| (seen.sent, seen.reach))
    }

    /// When `next` returns a signal.
    pub fn wake(&self) -> Moment {
        match self.held.front() {
            None => Moment::NEVER,
            Some(Seen {
                reach: Reach::Everywhere,
                at,
                ..
            }) => *at,
            Some(Seen { at, .. }) => *at + WINDOW,
        }
    }
}

fn forget(seen: &mut VecDeque<Seen>, now: Moment) {
    while seen
        .front()
        .is_some_and(|oldest| now.since(oldest.at) >= WINDOW)
    {
        seen.pop_front();
    }
}

fn remember(list: &mut VecDeque<Seen>, seen: Seen) {
    if list.len() == MOST {
        list.pop_front();
    }
    list.push_back(seen);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Sent = Sent {
        signal: Signal::TERM,
        sender: 7,
    };

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_millis(milliseconds))
    }

    /// For a signal received at 0 and witnessed like this: when it is passed on, and with what
    /// reach.
    fn passed(words: &[(u64, Sent, Reach)]) -> (u64, Reach) {
        let mut deliveries = Deliveries::default();
        let mut words = words.to_vec();
        words.sort_by_key(|word| word.0);
        deliveries.hold(TERM, at(0));
        for millisecond in 0.. {
            for &(_, sent, reach) in words.iter().filter(|word| word.0 == millisecond) {
                deliveries.witnessed(sent, reach, at(millisecond));
            }
            if let Some((sent, reach)) = deliveries.next(at(millisecond)) {
                assert_eq!((sent, deliveries.next(at(millisecond))), (TERM, None));
                return (millisecond, reach);
            }
        }
        unreachable!()
    }

    #[test]
    fn signal_to_this_process_only_is_passed_on_after_the_window() {
        assert_eq!(passed(&[]), (100, Reach::Here));
    }

    #[test]
    fn signal_to_the_process_group_has_reached_its_members() {
        assert_eq!(passed(&[(2, TERM, Reach::Group)]), (100, Reach::Group));
    }

    #[test]
    fn signal_to_the_control_group_has_reached_all() {
        assert_eq!(
            passed(&[(2, TERM, Reach::Everywhere)]),
            (2, Reach::Everywhere)
        );
        assert_eq!(
            passed(&[(2, TERM, Reach::Group), (3, TERM, Reach::Everywhere)]),
            (3, Reach::Everywhere)
        );
        assert_eq!(
            passed(&[(2, TERM, Reach::Everywhere), (3, TERM, Reach::Group)]),
            (2, Reach::Everywhere)
        );
    }

    #[test]
    fn report_of_another_signal_or_sender_is_ignored() {
        let others = [
            Sent { sender: 8, ..TERM },
            Sent {
                signal: Signal::INT,
                ..TERM
            },
        ];
        for other in others {
            assert_eq!(passed(&[(2, other, Reach::Everywhere)]), (100, Reach::Here));
        }
    }

    #[test]
    fn witness_may_report_before_the_signal_is_received() {
        let mut deliveries = Deliveries::default();
        deliveries.witnessed(TERM, Reach::Everywhere, at(0));
        deliveries.hold(TERM, at(60));
        assert_eq!(deliveries.next(at(60)), Some((TERM, Reach::Everywhere)));
        deliveries.hold(TERM, at(200));
        assert_eq!(deliveries.next(at(200)), None, "that was another order");
        assert_eq!(deliveries.wake(), at(300));
    }

    #[test]
    fn same_order_sent_twice_counts_once() {
        let mut deliveries = Deliveries::default();
        let mut heard = |sent, millisecond| !deliveries.is_repeat(sent, at(millisecond));
        assert!(heard(TERM, 0));
        assert!(!heard(TERM, 2) && !heard(TERM, 99));
        assert!(
            heard(Sent { sender: 8, ..TERM }, 3)
                && heard(
                    Sent {
                        signal: Signal::INT,
                        ..TERM
                    },
                    3
                )
        );
        assert!(heard(TERM, 100), "an operator who insists");
        let usr1 = Sent {
            signal: Signal::USR1,
            sender: 7,
        };
        assert!(
            heard(usr1, 200) && heard(usr1, 201),
            "each of these may mean something"
        );
    }

    #[test]
    fn remembered_signals_are_bounded() {
        let mut deliveries = Deliveries::default();
        for sender in 0..1000 {
            let sent = Sent { sender, ..TERM };
            deliveries.is_repeat(sent, at(0));
            deliveries.witnessed(sent, Reach::Group, at(0));
            deliveries.hold(sent, at(0));
            deliveries.next(at(0));
        }
        assert!(
            deliveries.held.len() <= MOST
                && deliveries.received.len() <= MOST
                && deliveries.witnessed.len() <= MOST
        );
    }

    #[test]
    fn end_of_the_command_ends_the_wait() {
        let mut deliveries = Deliveries::default();
        deliveries.hold(TERM, at(0));
        assert_eq!(deliveries.take(), Some((TERM, Reach::Here)));
        assert_eq!(
            (deliveries.take(), deliveries.wake()),
            (None, Moment::NEVER)
        );
    }
}

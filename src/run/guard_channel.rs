//! The line between zk-flock and its guard: orders one way, reports the other, each one message of
//! fixed length on a socket pair that keeps messages whole. The two processes are one program, so
//! nothing here is for strangers.

use crate::deadlines::Deadlines;
use crate::delivery::{Reach, Sent};
use crate::guard::{Event, News};
use crate::moment::Moment;
use crate::signal::{Signal, Status};
use crate::sys::process::Pid;
use crate::sys::socket;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// What the guard reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Report {
    /// The command runs, under this id. `terminal`: its session has one, as far as /proc tells.
    Started {
        command: Pid,
        terminal: Option<bool>,
    },
    /// It could not be executed: errno.
    CannotStart(i32),
    /// News of the tree.
    News(News),
    /// This signal has come to the guard, or to the witness.
    Witnessed(Sent),
}

/// A tag and two numbers.
type Message = [i64; 3];
const LENGTH: usize = size_of::<Message>();

fn nanoseconds(moment: Moment) -> i64 {
    i64::try_from(moment.0.as_nanos()).unwrap_or(i64::MAX)
}

fn moment(nanoseconds: i64) -> Moment {
    if nanoseconds == i64::MAX {
        Moment::NEVER
    } else {
        Moment(Duration::from_nanos(nanoseconds.unsigned_abs()))
    }
}

fn encode_order(order: Event) -> Option<Message> {
    Some(match order {
        Event::Believe(lease) => [1, nanoseconds(lease.term), nanoseconds(lease.kill)],
        Event::Forward(signal) => [2, signal.0.into(), 0],
        Event::Stop {
            signal,
            reach,
            dead_by,
        } => [stop_tag(reach), signal.0.into(), nanoseconds(dead_by)],
        Event::Orphaned | Event::Ended(_) | Event::Empty | Event::Tick => return None, /* what the guard sees for itself */
    })
}

fn stop_tag(reach: Reach) -> i64 {
    match reach {
        Reach::Here => 3,
        Reach::Group => 4,
        Reach::Everywhere => 5,
    }
}

fn decode_order([tag, a, b]: Message) -> Option<Event> {
    let signal = || i32::try_from(a).ok().map(Signal);
    match tag {
        1 => Some(Event::Believe(Deadlines {
            term: moment(a),
            kill: moment(b),
        })),
        2 => Some(Event::Forward(signal()?)),
        _ => {
            let reach = [Reach::Here, Reach::Group, Reach::Everywhere]
                .into_iter()
                .find(|&reach| stop_tag(reach) == tag)?;
            Some(Event::Stop {
                signal: signal()?,
                reach,
                dead_by: moment(b),
            })
        }
    }
}

fn encode_report(report: Report) -> Message {
    match report {
        Report::Started { command, terminal } => {
            [1, command.0.into(), terminal.map_or(-1, i64::from)]
        }
        Report::CannotStart(errno) => [2, errno.into(), 0],
        Report::News(News::Ended(Status::Exited(code))) => [3, code.into(), 0],
        Report::News(News::Ended(Status::Killed(signal))) => [4, signal.0.into(), 0],
        Report::News(News::Obeyed) => [5, 0, 0],
        Report::News(News::LeaseOver) => [6, 0, 0],
        Report::News(News::TreeGone) => [7, 0, 0],
        Report::News(News::Stuck) => [8, 0, 0],
        Report::Witnessed(Sent { signal, sender }) => [9, signal.0.into(), sender.into()],
    }
}

fn decode_report([tag, a, b]: Message) -> Option<Report> {
    let number = i32::try_from(a).ok()?;
    Some(match tag {
        1 => Report::Started {
            command: Pid(number),
            terminal: (b >= 0).then_some(b > 0),
        },
        2 => Report::CannotStart(number),
        3 => Report::News(News::Ended(Status::Exited(u8::try_from(a).ok()?))),
        4 => Report::News(News::Ended(Status::Killed(Signal(number)))),
        5 => Report::News(News::Obeyed),
        6 => Report::News(News::LeaseOver),
        7 => Report::News(News::TreeGone),
        8 => Report::News(News::Stuck),
        9 => Report::Witnessed(Sent {
            signal: Signal(number),
            sender: i32::try_from(b).ok()?,
        }),
        _ => return None,
    })
}

fn send(line: impl AsFd, message: Message) -> io::Result<()> {
    let mut bytes = [0; LENGTH];
    for (place, number) in bytes.chunks_exact_mut(size_of::<i64>()).zip(message) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    socket::send(line, &bytes)
}

/// `Ok(None)`: the other end is closed.
fn receive(line: impl AsFd) -> io::Result<Option<Message>> {
    let mut bytes = [0; LENGTH];
    let length = socket::receive(line, &mut bytes)?;
    let mut message = [0; 3];
    for (number, place) in message.iter_mut().zip(bytes.chunks_exact(size_of::<i64>())) {
        *number = i64::from_ne_bytes(place.try_into().expect("chunks of eight bytes"));
    }
    Ok((length == LENGTH).then_some(message))
}

/// What came over a line.
pub(super) enum Heard<T> {
    /// A message.
    Message(T),
    /// Nothing more for now.
    Nothing,
    /// The other end is gone.
    Closed,
}

fn hear<T>(line: &impl AsFd, decode: impl Fn(Message) -> Option<T>) -> Heard<T> {
    match receive(line) {
        Ok(Some(message)) => decode(message).map_or(Heard::Nothing, Heard::Message),
        Ok(None) => Heard::Closed,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Heard::Nothing,
        // Said first, once, when the other end was closed over something that we had sent: its own
        // last words come next.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => hear(line, decode),
        Err(_) => Heard::Closed,
    }
}

/// Gives the guard an order. A guard that cannot take it, because it is gone or stopped with a full
/// line, is found out by its silence.
pub(super) fn order(line: impl AsFd, order: Event) {
    if let Some(message) = encode_order(order) {
        let _ = send(line, message);
    }
}

/// Tells zk-flock. If it is gone, the closed line says so.
pub(super) fn report(line: impl AsFd, report: Report) {
    let _ = send(line, encode_report(report));
}

/// The next order, for the guard.
pub(super) fn next_order(line: impl AsFd) -> Heard<Event> {
    hear(&line, decode_order)
}

/// The next report, for zk-flock.
pub(super) fn next_report(line: impl AsFd) -> Heard<Report> {
    hear(&line, decode_report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_reports_arrive_as_they_were_sent() {
        let (ours, theirs) = socket::pair().unwrap();
        let deadlines = Deadlines {
            term: Moment(Duration::from_millis(1500)),
            kill: Moment::NEVER,
        };
        let stop = |reach| Event::Stop {
            signal: Signal::TERM,
            reach,
            dead_by: Moment::NEVER,
        };
        let stops = [
            stop(Reach::Here),
            stop(Reach::Group),
            stop(Reach::Everywhere),
        ];
        for sent in [Event::Believe(deadlines), Event::Forward(Signal::USR1)]
            .into_iter()
            .chain(stops)
        {
            order(&ours, sent);
            assert!(matches!(next_order(&theirs), Heard::Message(heard) if heard == sent));
        }
        for sent in [
            Report::Started {
                command: Pid(77),
                terminal: Some(false),
            },
            Report::Started {
                command: Pid(78),
                terminal: Some(true),
            },
            Report::Started {
                command: Pid(79),
                terminal: None,
            },
            Report::Witnessed(Sent {
                signal: Signal::HUP,
                sender: 0,
            }),
            Report::CannotStart(8),
            Report::News(News::Ended(Status::Exited(255))),
            Report::News(News::Ended(Status::Killed(Signal::KILL))),
            Report::News(News::Obeyed),
            Report::News(News::LeaseOver),
            Report::News(News::TreeGone),
            Report::News(News::Stuck),
        ] {
            report(&theirs, sent);
            assert!(matches!(next_report(&ours), Heard::Message(heard) if heard == sent));
        }
        assert!(matches!(next_report(&ours), Heard::Nothing));
        report(&theirs, Report::News(News::Ended(Status::Exited(0))));
        order(&ours, Event::Forward(Signal::WINCH)); // and is never heard
        drop(theirs);
        assert!(
            matches!(
                next_report(&ours),
                Heard::Message(Report::News(News::Ended(_)))
            ),
            "its last words count"
        );
        assert!(matches!(next_report(&ours), Heard::Closed));
    }
}

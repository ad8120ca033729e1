//! The channel between zk-flock and its guard: commands to the guard, reports from it, each one
//! message of fixed length on a socket pair that preserves message boundaries. The witness reports
//! on such a channel too. All ends are processes of the same program, so the format is private.

use crate::deadlines::Deadlines;
use crate::delivery::{Reach, Sent};
use crate::guard::{Event, GuardEvent, StopOrder};
use crate::moment::Moment;
use crate::signal::{Signal, Status};
use crate::sys::process::Pid;
use crate::sys::socket;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// What the guard reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// The command runs.
    Started {
        /// Its process id.
        command: Pid,
        /// Whether its session has a terminal; `None` if /proc does not show that.
        terminal: Option<bool>,
    },
    /// The command could not be executed: errno.
    CannotStart(i32),
    /// An event of the guard's state machine.
    Guard(GuardEvent),
    /// The guard, or the witness, has received this signal.
    Witnessed(Sent),
}

/// A tag and two numbers.
type Message = [i64; 3];
const LENGTH: usize = size_of::<Message>();

/// What was received on a channel.
pub enum Incoming<T> {
    /// A message.
    Message(T),
    /// No message is there now.
    Nothing,
    /// The other end is closed.
    Closed,
}

/// Sends a command to the guard. A guard that cannot receive it, because it has exited or is
/// stopped with a full channel, is detected by its missing acknowledgement.
pub(super) fn send_command(channel: impl AsFd, command: Event) {
    if let Some(message) = encode_command(command) {
        let _ = send(channel, message);
    }
}

/// Sends a report to zk-flock. If zk-flock is dead, the channel is closed, which the guard sees.
pub(super) fn send_report(channel: impl AsFd, report: Report) {
    let _ = send(channel, encode_report(report));
}

/// Receives the next command, in the guard.
pub(super) fn receive_command(channel: impl AsFd) -> Incoming<Event> {
    receive(&channel, decode_command)
}

/// Receives the next report, in zk-flock.
pub(super) fn receive_report(channel: impl AsFd) -> Incoming<Report> {
    receive(&channel, decode_report)
}

fn receive<T>(channel: &impl AsFd, decode: impl Fn(Message) -> Option<T>) -> Incoming<T> {
    match receive_message(channel) {
        Ok(Some(message)) => decode(message).map_or(Incoming::Nothing, Incoming::Message),
        Ok(None) => Incoming::Closed,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Incoming::Nothing,
        // The kernel returns this once, if the other end was closed before it had read everything.
        // The messages that it had sent before follow.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => receive(channel, decode),
        Err(_) => Incoming::Closed,
    }
}

fn send(channel: impl AsFd, message: Message) -> io::Result<()> {
    let mut bytes = [0; LENGTH];
    for (place, number) in bytes.chunks_exact_mut(size_of::<i64>()).zip(message) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    socket::send(channel, &bytes)
}

/// `Ok(None)`: the other end is closed.
fn receive_message(channel: impl AsFd) -> io::Result<Option<Message>> {
    let mut bytes = [0; LENGTH];
    let length = socket::receive(channel, &mut bytes)?;
    let mut message = [0; 3];
    for (number, place) in message.iter_mut().zip(bytes.chunks_exact(size_of::<i64>())) {
        *number = i64::from_ne_bytes(place.try_into().expect("chunks of eight bytes"));
    }
    Ok((length == LENGTH).then_some(message))
}

fn encode_command(command: Event) -> Option<Message> {
    Some(match command {
        Event::LeaseUntil(lease) => [1, nanoseconds(lease.term), nanoseconds(lease.kill)],
        Event::Forward(signal) => [2, signal.0.into(), 0],
        Event::Stop(order) => [
            stop_tag(order.reach),
            order.signal.0.into(),
            nanoseconds(order.kill_deadline),
        ],
        // The guard sees these without zk-flock.
        Event::Orphaned | Event::Ended(_) | Event::NoChildren | Event::Tick => return None,
    })
}

fn decode_command([tag, a, b]: Message) -> Option<Event> {
    let signal = || i32::try_from(a).ok().map(Signal);
    match tag {
        1 => Some(Event::LeaseUntil(Deadlines {
            term: moment(a),
            kill: moment(b),
        })),
        2 => Some(Event::Forward(signal()?)),
        _ => {
            let reach = [Reach::Here, Reach::Group, Reach::Everywhere]
                .into_iter()
                .find(|&reach| stop_tag(reach) == tag)?;
            Some(Event::Stop(StopOrder {
                signal: signal()?,
                reach,
                kill_deadline: moment(b),
            }))
        }
    }
}

fn stop_tag(reach: Reach) -> i64 {
    match reach {
        Reach::Here => 3,
        Reach::Group => 4,
        Reach::Everywhere => 5,
    }
}

fn encode_report(report: Report) -> Message {
    use GuardEvent::{Ended, LeaseExpired, StopAcknowledged, Stuck, TreeGone};
    match report {
        Report::Started { command, terminal } => {
            [1, command.0.into(), terminal.map_or(-1, i64::from)]
        }
        Report::CannotStart(errno) => [2, errno.into(), 0],
        Report::Guard(Ended(Status::Exited(code))) => [3, code.into(), 0],
        Report::Guard(Ended(Status::Killed(signal))) => [4, signal.0.into(), 0],
        Report::Guard(StopAcknowledged) => [5, 0, 0],
        Report::Guard(LeaseExpired) => [6, 0, 0],
        Report::Guard(TreeGone) => [7, 0, 0],
        Report::Guard(Stuck) => [8, 0, 0],
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
        3 => Report::Guard(GuardEvent::Ended(Status::Exited(u8::try_from(a).ok()?))),
        4 => Report::Guard(GuardEvent::Ended(Status::Killed(Signal(number)))),
        5 => Report::Guard(GuardEvent::StopAcknowledged),
        6 => Report::Guard(GuardEvent::LeaseExpired),
        7 => Report::Guard(GuardEvent::TreeGone),
        8 => Report::Guard(GuardEvent::Stuck),
        9 => Report::Witnessed(Sent {
            signal: Signal(number),
            sender: i32::try_from(b).ok()?,
        }),
        _ => return None,
    })
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_reports_arrive_unchanged() {
        let (supervisor, guard) = socket::pair().unwrap();
        let deadlines = Deadlines {
            term: Moment(Duration::from_millis(1500)),
            kill: Moment::NEVER,
        };
        let stop = |reach| {
            Event::Stop(StopOrder {
                signal: Signal::TERM,
                reach,
                kill_deadline: Moment::NEVER,
            })
        };
        let stops = [
            stop(Reach::Here),
            stop(Reach::Group),
            stop(Reach::Everywhere),
        ];
        for sent in [Event::LeaseUntil(deadlines), Event::Forward(Signal::USR1)]
            .into_iter()
            .chain(stops)
        {
            send_command(&supervisor, sent);
            assert!(
                matches!(receive_command(&guard), Incoming::Message(received) if received == sent)
            );
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
            Report::Guard(GuardEvent::Ended(Status::Exited(255))),
            Report::Guard(GuardEvent::Ended(Status::Killed(Signal::KILL))),
            Report::Guard(GuardEvent::StopAcknowledged),
            Report::Guard(GuardEvent::LeaseExpired),
            Report::Guard(GuardEvent::TreeGone),
            Report::Guard(GuardEvent::Stuck),
        ] {
            send_report(&guard, sent);
            assert!(
                matches!(receive_report(&supervisor), Incoming::Message(received) if received == sent)
            );
        }
        assert!(matches!(receive_report(&supervisor), Incoming::Nothing));
        send_report(&guard, Report::Guard(GuardEvent::Ended(Status::Exited(0))));
        send_command(&supervisor, Event::Forward(Signal::WINCH)); // the guard never reads it
        drop(guard);
        assert!(
            matches!(
                receive_report(&supervisor),
                Incoming::Message(Report::Guard(GuardEvent::Ended(_)))
            ),
            "reports sent before the close are received"
        );
        assert!(matches!(receive_report(&supervisor), Incoming::Closed));
    }
}

//! Asks a ZooKeeper for its version and role, with the four-letter word `srvr`. Sans-I/O.

use crate::moment::Moment;
use crate::oneshot::{OneShot, Step};
use crate::transport::{Address, Event, Output};
use std::collections::VecDeque;
use std::time::Duration;

/// The longest answer that is read. It has 300 bytes.
const LONGEST_ANSWER: usize = 4 << 10;

/// The question, on a connection of its own.
#[derive(Debug)]
pub struct Srvr {
    outputs: VecDeque<Output>,
    answer: Vec<u8>,
    by: Moment,
    ended: bool,
}

impl Srvr {
    /// Asks the server at this address, which may take this long to answer.
    pub fn new(server: Address, limit: Duration, now: Moment) -> Srvr {
        Srvr {
            outputs: [Output::Connect(server)].into(),
            answer: Vec::new(),
            by: now + limit,
            ended: false,
        }
    }
}

impl OneShot for Srvr {
    type Report = String;

    fn on_transport(&mut self, event: Event, _: Moment) {
        match event {
            Event::Connected => self.outputs.push_back(Output::Send(b"srvr".to_vec())),
            Event::Received(bytes) => self.answer.extend_from_slice(bytes),
            Event::Disconnected(_) => self.ended = true,
        }
        self.ended |= self.answer.len() >= LONGEST_ANSWER;
    }

    fn poll(&mut self, now: Moment) -> Step<String> {
        if let Some(output) = self.outputs.pop_front() {
            Step::Transport(output)
        } else if self.ended || now >= self.by {
            Step::End(Ok(String::from_utf8_lossy(&self.answer).into_owned()))
        } else {
            Step::Wait(self.by)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_what_arrives_until_the_connection_ends() {
        let now = Moment(Duration::ZERO);
        let address = Address::Tcp(([127, 0, 0, 1], 2181).into());
        let mut client = Srvr::new(address.clone(), Duration::from_secs(5), now);
        let next = |client: &mut Srvr| match client.poll(now) {
            Step::Transport(output) => Some(output),
            Step::Wait(_) => None,
            Step::End(result) => panic!("{result:?}"),
        };
        assert_eq!(next(&mut client), Some(Output::Connect(address)));
        assert_eq!(next(&mut client), None);
        client.on_transport(Event::Connected, now);
        assert_eq!(next(&mut client), Some(Output::Send(b"srvr".to_vec())));
        client.on_transport(Event::Received(b"Mode: "), now);
        client.on_transport(Event::Received(b"leader"), now);
        assert_eq!(next(&mut client), None);
        client.on_transport(Event::Disconnected(None), now);
        let Step::End(Ok(answer)) = client.poll(now) else {
            panic!("not ended")
        };
        assert_eq!(answer, "Mode: leader");
    }

    #[test]
    fn silent_server_is_left_at_the_limit() {
        let now = Moment(Duration::ZERO);
        let address = Address::Tcp(([127, 0, 0, 1], 2181).into());
        let mut client = Srvr::new(address, Duration::from_secs(5), now);
        assert!(matches!(client.poll(now), Step::Transport(_)));
        assert!(matches!(client.poll(now), Step::Wait(until) if until == client.by));
        assert!(matches!(client.poll(client.by), Step::End(Ok(answer)) if answer.is_empty()));
    }
}

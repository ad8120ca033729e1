//! One connection's talk in HTTP, without I/O: requests in, one at a time, and replies out, in order. While one is being answered the next is
//! not read, so that whoever asks faster than he listens waits in his own host's memory and not in ours.

use crate::http::{LONGEST_HEAD, LONGEST_REQUEST_BODY, Reply, Request, Terms};
use std::time::Duration;

/// From the first byte of a request to its last; and from a connection's begin to its first byte.
pub(super) const REQUEST: Duration = Duration::from_secs(10);

/// From a reply to the next request.
pub(super) const IDLE: Duration = Duration::from_mins(1);

/// From when a reply can be sent to when some more of it can: as long as it may go unacknowledged.
pub(super) const REPLY: Duration = Duration::from_secs(10);

/// From the end of what we send to the peer's: longer than `REPLY`, so that it is known by then what has arrived.
pub(super) const FAREWELL: Duration = Duration::from_secs(15);

/// The most that is held of what a peer sent: a request, and the empty lines that are skipped before it.
const MOST_HELD: usize = LONGEST_HEAD + LONGEST_REQUEST_BODY + 64;

/// The most that is read, and thrown away, of what a peer sends after its last answer. Closing on unread bytes would be a reset, which takes
/// the answer with it.
const MOST_DISCARDED: usize = 64 << 10;

/// See above.
#[derive(Debug)]
pub(super) struct Dialogue {
    phase: Phase,
    input: Vec<u8>,
    output: Vec<u8>,
    /// How much of `output` was sent.
    sent: usize,
    /// How much was sent altogether.
    sent_before: u64,
    /// Whether the peer has said that it will send no more.
    ended: bool,
    /// Whether the next reply is the last one.
    winding_up: bool,
    requests: u64,
    discarded: usize,
}

/// What is to happen next, once all replies so far are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// A request.
    Listening,
    /// The reply to the one that was taken.
    Answering(Terms),
    /// Nothing.
    Over,
}

/// What a connection is waiting for. Its limit counts from when it began to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The first byte of the first request.
    Fresh,
    /// The rest of a request, the one after so many.
    Request(u64),
    /// The next request, the one after so many.
    Idle(u64),
    /// Our answer.
    Answer,
    /// Room for the rest of a reply, of which so much was sent.
    Reply(u64),
    /// The peer's end.
    Farewell,
}

impl Stage {
    /// How long it may last.
    pub(super) fn limit(self) -> Duration {
        match self {
            Stage::Fresh | Stage::Request(_) => REQUEST,
            Stage::Idle(_) => IDLE,
            Stage::Answer => Duration::MAX,
            Stage::Reply(_) => REPLY,
            Stage::Farewell => FAREWELL,
        }
    }
}

impl Dialogue {
    pub(super) fn new() -> Dialogue {
        Dialogue {
            phase: Phase::Listening,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            sent_before: 0,
            ended: false,
            winding_up: false,
            requests: 0,
            discarded: 0,
        }
    }

    /// How many bytes it can take in now.
    pub(super) fn room(&self) -> usize {
        match self.phase {
            _ if self.ended => 0,
            Phase::Listening => MOST_HELD - self.input.len(),
            Phase::Answering(_) => 0,
            Phase::Over => MOST_DISCARDED - self.discarded,
        }
    }

    /// The peer has sent this, no more than there is room for.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        match self.phase {
            Phase::Over => self.discarded += bytes.len(),
            _ => self.input.extend_from_slice(bytes),
        }
    }

    /// The peer will send no more.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Whether it has said so.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// The next request, if it is there and all before it were answered. What is none is answered here.
    pub(super) fn next(&mut self) -> Option<Request> {
        if self.phase != Phase::Listening || !self.unsent().is_empty() {
            return None;
        }
        match Request::read(&self.input) {
            Ok(Some((request, length))) => {
                self.input.drain(..length);
                self.requests += 1;
                self.phase = Phase::Answering(request.terms());
                self.spare();
                Some(request)
            }
            Ok(None) => {
                if self.ended {
                    self.phase = Phase::Over;
                }
                None
            }
            Err(malformed) => {
                self.part(&Reply::refusing(&malformed));
                None
            }
        }
    }

    /// Answers the request that was taken last.
    pub(super) fn reply(&mut self, reply: &Reply) {
        let Phase::Answering(terms) = self.phase else { return };
        let terms = Terms { keep_alive: terms.keep_alive && !self.winding_up, ..terms };
        self.say(reply, terms);
        self.phase = if terms.keep_alive && reply.keep_alive { Phase::Listening } else { Phase::Over };
    }

    /// The next reply is the last one; if nothing is asked, the last one was.
    pub(super) fn wind_up(&mut self) {
        self.winding_up = true;
        if self.phase == Phase::Listening && self.input.is_empty() {
            self.phase = Phase::Over;
        }
    }

    /// Says something that nobody asked for, and nothing after that.
    pub(super) fn part(&mut self, reply: &Reply) {
        self.say(reply, Terms::UNREADABLE);
        self.phase = Phase::Over;
        self.input = Vec::new();
    }

    fn say(&mut self, reply: &Reply, terms: Terms) {
        reply.write(terms, &mut self.output);
    }

    /// What is to be sent.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// So much more of it was.
    pub(super) fn sent(&mut self, length: usize) {
        self.sent += length;
        if self.sent == self.output.len() {
            self.sent_before += self.sent as u64;
            self.sent = 0;
            self.output = Vec::new();
        }
    }

    /// How many bytes of replies were sent altogether.
    pub(super) fn total_sent(&self) -> u64 {
        self.sent_before + self.sent as u64
    }

    /// How many bytes of replies there were altogether, with those to be sent.
    pub(super) fn total(&self) -> u64 {
        self.sent_before + self.output.len() as u64
    }

    /// Whether the last reply was sent.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over && self.unsent().is_empty()
    }

    /// What it waits for.
    pub(super) fn stage(&self) -> Stage {
        match self.phase {
            _ if !self.unsent().is_empty() => Stage::Reply(self.total_sent()),
            Phase::Answering(_) => Stage::Answer,
            Phase::Over => Stage::Farewell,
            Phase::Listening if !self.input.is_empty() => Stage::Request(self.requests),
            Phase::Listening if self.requests == 0 => Stage::Fresh,
            Phase::Listening => Stage::Idle(self.requests),
        }
    }

    /// Thousands may wait for long: what they do not use is given back.
    fn spare(&mut self) {
        if self.input.is_empty() {
            self.input = Vec::new();
        }
    }
}

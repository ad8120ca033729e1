//! One connection's talk in HTTP, without I/O: requests in, one at a time, and replies out, in
//! order. While one is being answered the next is not read, so that whoever asks faster than they
//! listen waits in their own host's memory and not in ours.

use crate::http::{LONGEST_REQUEST, Reply, Request, Terms, date};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// From the first byte of a request to its last; and from a connection's begin to its first byte.
pub(super) const REQUEST: Duration = Duration::from_secs(10);

/// From a reply to the next request.
pub(super) const IDLE: Duration = Duration::from_mins(1);

/// From when a reply can be sent to when some more of it can: as long as it may go unacknowledged.
pub(super) const REPLY: Duration = Duration::from_secs(10);

/// From the end of what we send to the peer's: longer than `REPLY`, so that it is known by then
/// what has arrived.
pub(super) const FAREWELL: Duration = Duration::from_secs(15);

/// The most that is read, and thrown away, of what a peer sends after its last answer. Closing on
/// unread bytes would be a reset, which takes the answer with it.
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
            Phase::Listening => LONGEST_REQUEST - self.input.len(),
            Phase::Answering(_) => 0,
            Phase::Over => MOST_DISCARDED - self.discarded,
        }
    }

    /// How much is held of what the peer sent.
    pub(super) fn held(&self) -> usize {
        self.input.len()
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

    /// The next request, if it is there and all before it were answered. What is none is answered
    /// here.
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
        let Phase::Answering(terms) = self.phase else {
            return;
        };
        let terms = Terms {
            keep_alive: terms.keep_alive && !self.winding_up,
            ..terms
        };
        self.say(reply, terms);
        self.phase = if terms.keep_alive && reply.keep_alive {
            Phase::Listening
        } else {
            Phase::Over
        };
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
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs());
        reply.write(terms, &date(now), &mut self.output);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{LONGEST_HEAD, LONGEST_REQUEST_BODY};

    fn request(path: &str) -> String {
        format!("GET /{path} HTTP/1.1\r\n\r\n")
    }

    fn answer(word: &str) -> Reply {
        Reply::new(200, "text/html", word)
    }

    /// One that has received this.
    fn hearing(text: &str) -> Dialogue {
        let mut dialogue = Dialogue::new();
        dialogue.receive(text.as_bytes());
        dialogue
    }

    /// The path of the next request.
    fn next(dialogue: &mut Dialogue) -> Option<String> {
        dialogue.next().map(|request| request.path)
    }

    /// Sends all that is to be sent; returns the statuses and whether the last of them is said to
    /// be the last.
    fn say(dialogue: &mut Dialogue) -> (Vec<u16>, bool) {
        let mut rest = dialogue.unsent();
        let (mut statuses, mut last) = (Vec::new(), false);
        while let Ok(Some((reply, length))) = Reply::read(rest, true) {
            statuses.push(reply.status);
            last = !reply.keep_alive;
            rest = &rest[length..];
        }
        dialogue.sent(dialogue.unsent().len());
        (statuses, last)
    }

    #[test]
    fn a_request_is_taken_when_the_answer_before_it_is_sent() {
        let mut dialogue = hearing(&(request("a") + &request("b")));
        assert_eq!(
            (next(&mut dialogue).as_deref(), next(&mut dialogue)),
            (Some("/a"), None)
        );
        dialogue.reply(&answer("NO"));
        assert_eq!(next(&mut dialogue), None);
        assert_eq!(say(&mut dialogue), (vec![200], false));
        assert_eq!(next(&mut dialogue).as_deref(), Some("/b"));
    }

    #[test]
    fn while_a_request_is_answered_nothing_is_read() {
        let mut dialogue = hearing(&request("a"));
        assert_eq!(dialogue.room(), LONGEST_REQUEST - request("a").len());
        next(&mut dialogue);
        assert_eq!((dialogue.room(), dialogue.input.capacity()), (0, 0));
        dialogue.reply(&answer("NO"));
        assert_eq!(dialogue.room(), LONGEST_REQUEST);
    }

    #[test]
    fn it_is_over_when_either_side_says_so() {
        let close = "GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
        for (text, end, wind_up) in [
            (close, false, false),
            ("GET / HTTP/1.0\r\n\r\n", false, false),
            ("GET / HTTP/1.1\r\n\r\n", true, false),
            ("GET / HTTP/1.1\r\n\r\n", false, true),
        ] {
            let mut dialogue = hearing(&(text.to_owned() + if end { "" } else { close }));
            if end {
                dialogue.end();
            }
            next(&mut dialogue);
            if wind_up {
                dialogue.wind_up();
            }
            dialogue.reply(&answer("NO"));
            assert!(!dialogue.is_over(), "{text:?}");
            assert_eq!(say(&mut dialogue), (vec![200], !end), "{text:?}");
            assert_eq!(next(&mut dialogue), None, "{text:?}");
            assert!(dialogue.is_over(), "{text:?}");
        }
    }

    #[test]
    fn who_has_ended_is_answered_all_that_is_whole() {
        let mut dialogue = hearing(&(request("a") + &request("b") + "GET /c"));
        dialogue.end();
        for path in ["/a", "/b"] {
            assert_eq!(next(&mut dialogue).as_deref(), Some(path));
            dialogue.reply(&answer("NO"));
            say(&mut dialogue);
        }
        assert_eq!((next(&mut dialogue), dialogue.is_over()), (None, true));
    }

    #[test]
    fn what_is_no_request_is_refused_once_and_what_follows_is_thrown_away() {
        let mut dialogue = hearing(&(request("a") + "garbage\r\n" + &request("b")));
        next(&mut dialogue);
        dialogue.reply(&answer("NO"));
        say(&mut dialogue);
        assert_eq!(next(&mut dialogue), None);
        assert_eq!(say(&mut dialogue), (vec![400], true));
        assert!(dialogue.is_over());
        while dialogue.room() > 0 {
            dialogue.receive(&vec![b'x'; dialogue.room().min(1000)]);
        }
        assert_eq!(
            (
                dialogue.discarded,
                dialogue.input.capacity(),
                next(&mut dialogue)
            ),
            (MOST_DISCARDED, 0, None)
        );
    }

    #[test]
    fn there_is_room_for_the_longest_request_and_not_for_ever() {
        let body = format!("Content-Length: {LONGEST_REQUEST_BODY}\r\n\r\n");
        let line = "\r\nPOST / HTTP/1.1\r\nA: ";
        let head = format!(
            "{line}{}\r\n{body}",
            "x".repeat(LONGEST_HEAD - line.len() - 2 - body.len())
        );
        let mut dialogue = hearing(&(head + &"x".repeat(LONGEST_REQUEST_BODY)));
        assert_eq!(dialogue.room(), 0);
        assert!(next(&mut dialogue).is_some());
        for garbage in ["x", "x\r\n", "GET / HTTP/1.1\r\nA: x\r\n", "\r\n"] {
            let mut dialogue = Dialogue::new();
            while dialogue.room() > 0 && dialogue.phase == Phase::Listening {
                dialogue.receive(&garbage.as_bytes()[..garbage.len().min(dialogue.room())]);
                next(&mut dialogue);
            }
            assert_eq!(dialogue.phase, Phase::Over, "{garbage:?}");
        }
    }

    #[test]
    fn each_wait_has_its_limit_and_a_new_one_begins_with_each_request() {
        let mut dialogue = Dialogue::new();
        let mut stages = vec![dialogue.stage()];
        let mut hear = |dialogue: &mut Dialogue, text: &str| {
            dialogue.receive(text.as_bytes());
            next(dialogue);
            stages.push(dialogue.stage());
        };
        hear(&mut dialogue, "GET / HT");
        hear(&mut dialogue, "TP/1.1\r\n\r\nGET ");
        dialogue.reply(&answer("NO"));
        dialogue.sent(5);
        hear(&mut dialogue, "");
        say(&mut dialogue);
        hear(&mut dialogue, "/ HTTP/1.1\r\n");
        hear(&mut dialogue, "\r\n");
        dialogue.reply(&answer("NO"));
        say(&mut dialogue);
        hear(&mut dialogue, "");
        dialogue.wind_up();
        hear(&mut dialogue, "");
        let expected = [
            (Stage::Fresh, 10),
            (Stage::Request(0), 10),
            (Stage::Answer, u64::MAX),
            (Stage::Reply(5), 10),
            (Stage::Request(1), 10),
            (Stage::Answer, u64::MAX),
            (Stage::Idle(2), 60),
            (Stage::Farewell, 15),
        ];
        assert_eq!(
            stages
                .into_iter()
                .map(|stage| (stage, stage.limit().as_secs()))
                .collect::<Vec<_>>(),
            expected
        );
    }

    #[test]
    fn what_was_sent_is_counted() {
        let mut dialogue = hearing(&request("a").repeat(2));
        let mut total = 0;
        for _ in 0..2 {
            next(&mut dialogue);
            dialogue.reply(&answer("NO"));
            total += dialogue.unsent().len() as u64;
            assert_eq!(dialogue.total(), total);
            dialogue.sent(7);
            assert_eq!(
                (dialogue.total(), dialogue.total_sent()),
                (total, total - dialogue.unsent().len() as u64)
            );
            say(&mut dialogue);
            assert_eq!((dialogue.total(), dialogue.total_sent()), (total, total));
        }
    }
}

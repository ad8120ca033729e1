//! A connection: its socket, its talk, and what it was told that it may not have heard. A YES
//! counts as heard when the peer's kernel has acknowledged it.

use super::api::{self, Asked, Page};
use super::http_session::{Dialogue, REPLY, Stage};
use crate::http::{Reply, Request};
use crate::moment::Moment;
use crate::pool::{Answer, Call, Ticket};
use crate::sys::epoll::Interest;
use crate::sys::tcp;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::time::Duration;

/// A peer that waits is asked whether it is there after so many seconds of silence, another number
/// for each, none later than `door` has it. Thousands come at once, when their cron says so; if
/// they were asked at once, too, the kernel's queues would lose what is too much for
/// them (loopback's has 1,000 places), each time, until those at the end are taken for dead.
const SILENCES: RangeInclusive<u64> = 5..=15;

/// The most answers YES that are remembered until they are acknowledged. Who asks for more at once
/// has heard the first, as far as we know: a holding that is kept too long is better than one that
/// is given twice.
const MOST_TOLD: usize = 1000;

/// See above.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    dialogue: Dialogue,
    /// What it has asked and awaits the answer to.
    awaited: Option<(Ticket, Awaited)>,
    told: Vec<Told>,
    /// Whether we have said that we will send no more.
    shut: bool,
    /// What it waits for, and until when.
    stage: Stage,
    deadline: Moment,
    interest: Interest,
}

/// What a connection has asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Awaited {
    /// Something of a pool.
    Pool(Asked),
    /// To see all pools.
    Page(Page),
}

/// A YES, and where in all that was sent it ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Told {
    end: u64,
    pub(super) asked: Asked,
    pub(super) token: i64,
}

impl Connection {
    /// One that was just accepted.
    pub(super) fn new(stream: TcpStream, now: Moment) -> Connection {
        let dialogue = Dialogue::new();
        let stage = dialogue.stage();
        let (deadline, interest) = (now + stage.limit(), Interest::Read);
        Connection {
            stream,
            dialogue,
            awaited: None,
            told: Vec::new(),
            shut: false,
            stage,
            deadline,
            interest,
        }
    }

    /// Its socket has news: takes in what there is, into `scratch` first. `Err`: that was the end.
    pub(super) fn ready(&mut self, over: bool, scratch: &mut [u8]) -> io::Result<()> {
        match self.interest {
            _ if over => self.over(),
            Interest::Read => self.read(scratch),
            Interest::HangUp => {
                self.dialogue.end();
                Ok(())
            }
            Interest::Write | Interest::Both | Interest::Nothing | Interest::Change => Ok(()),
        }
    }

    /// Both directions have ended, or it is broken.
    fn over(&mut self) -> io::Result<()> {
        match self.stream.take_error()? {
            Some(error) => Err(error),
            // What we sent last may still be on its way.
            None if self.shut => {
                self.dialogue.end();
                Ok(())
            }
            None => Err(ErrorKind::ConnectionReset.into()),
        }
    }

    fn read(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        let room = self.dialogue.room().min(scratch.len());
        if room == 0 {
            return Ok(());
        }
        match self.stream.read(&mut scratch[..room]) {
            Ok(0) => self.dialogue.end(),
            Ok(length) => self.dialogue.receive(&scratch[..length]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The next request, if it is there and all before it were answered, and the answers taken by
    /// the kernel.
    pub(super) fn next(&mut self) -> io::Result<Option<Request>> {
        self.flush()?;
        let request = self.dialogue.next();
        self.flush()?; // what was no request has been answered
        Ok(request)
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.dialogue.unsent().is_empty() {
            match self.stream.write(self.dialogue.unsent()) {
                Ok(length) => self.dialogue.sent(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.dialogue.is_over() && !self.shut {
            self.stream.shutdown(Shutdown::Write)?;
            self.shut = true;
        }
        Ok(())
    }

    /// Its request was passed on, and it awaits the answer.
    pub(super) fn await_answer(&mut self, ticket: Ticket, awaited: Awaited) {
        self.awaited = Some((ticket, awaited));
        if self.is_waiting() {
            let silence = SILENCES.start() + ticket.0 % (SILENCES.end() - SILENCES.start() + 1);
            let _ = tcp::probe_after(&self.stream, Duration::from_secs(silence));
        }
    }

    /// The ticket of what it has asked.
    pub(super) fn ticket(&self) -> Option<Ticket> {
        self.awaited.as_ref().map(|(ticket, _)| *ticket)
    }

    /// What it has asked, which is to be answered now.
    pub(super) fn take_awaited(&mut self) -> Option<Awaited> {
        self.awaited.take().map(|(_, awaited)| awaited)
    }

    /// Answers what it has asked of a pool.
    pub(super) fn answer(&mut self, asked: &Asked, answer: &Answer) {
        self.reply(&api::reply(asked, answer));
        if let Answer::Yes(grant) = answer {
            self.forget_what_was_heard();
            if self.told.len() == MOST_TOLD {
                self.told.remove(0);
            }
            self.told.push(Told {
                end: self.dialogue.total(),
                asked: asked.clone(),
                token: grant.token,
            });
            // From here on it matters whether the peer is there, and soon.
            let _ = tcp::set_unacknowledged_limit(&self.stream, REPLY);
        }
    }

    /// Answers the request that was taken last.
    pub(super) fn reply(&mut self, reply: &Reply) {
        self.dialogue.reply(reply);
    }

    /// Says something that nobody asked for, and nothing after that.
    pub(super) fn part(&mut self, reply: &Reply) {
        self.dialogue.part(reply);
    }

    fn forget_what_was_heard(&mut self) {
        if !self.told.is_empty() {
            let heard = self.heard();
            self.told.retain(|told| told.end > heard);
        }
    }

    /// How much of all that there was to send the peer has acknowledged.
    fn heard(&self) -> u64 {
        let unheard = tcp::unacknowledged(&self.stream).unwrap_or(0);
        (self.dialogue.total_sent() + u64::from(self.shut)).saturating_sub(unheard)
    }

    /// What it was told and has not heard, if this is the end.
    pub(super) fn unheard(mut self) -> Vec<Told> {
        self.forget_what_was_heard();
        self.told
    }

    /// Whether all is said and heard, or the peer says more and more to somebody who does not
    /// listen any more.
    pub(super) fn is_done(&self) -> bool {
        self.dialogue.is_over()
            && if self.dialogue.is_ended() {
                self.heard() >= self.dialogue.total_sent()
            } else {
                self.dialogue.room() == 0
            }
    }

    /// Whether it has hung up while it waits: then it wants no answer. Of one that wants an answer
    /// at once it is not known.
    pub(super) fn has_hung_up(&self) -> bool {
        self.is_waiting() && self.dialogue.is_ended()
    }

    /// Whether it waits for a pool.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(&self.awaited, Some((_, Awaited::Pool(asked))) if asked.call == Call::Wait)
    }

    /// Whether there is nothing to answer, and all answers were heard.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(self.stage, Stage::Fresh | Stage::Idle(_))
            && self.heard() >= self.dialogue.total_sent()
    }

    /// The next answer is the last one.
    pub(super) fn wind_up(&mut self) {
        self.dialogue.wind_up();
    }

    /// Says that what it has asked will not be answered.
    pub(super) fn dismiss(&mut self, reply: &Reply) {
        self.awaited = None;
        self.reply(reply);
    }

    /// What it waits for.
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Until when it may.
    pub(super) fn deadline(&self) -> Moment {
        self.deadline
    }

    /// How many bytes it is to be sent.
    pub(super) fn unsent(&self) -> usize {
        self.dialogue.unsent().len()
    }

    /// Whether a request has begun that is not whole yet.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self.dialogue.stage(), Stage::Request(_))
    }

    /// How many bytes of requests are held that it has sent.
    pub(super) fn held(&self) -> usize {
        self.dialogue.held()
    }

    /// Brings what it waits for up to date.
    pub(super) fn restage(&mut self, now: Moment) {
        let stage = self.dialogue.stage();
        if stage != self.stage {
            (self.stage, self.deadline) = (stage, now + stage.limit());
        }
    }

    /// What to wake up for, if that is something else than before.
    pub(super) fn new_interest(&mut self) -> Option<Interest> {
        let wanted = self.wanted();
        (std::mem::replace(&mut self.interest, wanted) != wanted).then_some(wanted)
    }

    fn wanted(&self) -> Interest {
        match (self.dialogue.unsent().is_empty(), self.dialogue.is_ended()) {
            (false, _) => Interest::Write,
            (true, true) if self.shut => Interest::Change,
            (true, true) => Interest::Nothing,
            (true, false) if self.is_waiting() => Interest::HangUp,
            (true, false) if self.dialogue.room() > 0 => Interest::Read,
            (true, false) => Interest::Nothing,
        }
    }

    /// Where it is from.
    pub(super) fn peer(&self) -> String {
        self.stream
            .peer_addr()
            .as_ref()
            .map_or_else(|_| "somebody".into(), SocketAddr::to_string)
    }
}

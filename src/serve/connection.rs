//! One connection: its socket, its HTTP session, and the grants that its peer may not have
//! received. A grant is received when the peer's kernel has acknowledged its last byte.

use super::access_log::AccessRecord;
use super::api::{self, Page, PoolRequest};
use super::http_session::{HttpSession, SEND_TIMEOUT, WaitingFor};
use super::system::Stream;
use crate::http::{Reply, Request};
use crate::moment::Moment;
use crate::plan::access::Credentials;
use crate::pool::access::Scope;
use crate::pool::{Answer, Call, Ticket};
use crate::sys::epoll::Interest;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

/// After how many seconds of silence the kernel probes a waiter's host: a different number for
/// each waiter, none above the listener's keep-alive time. Cron starts thousands of waiters in the
/// same second. If all were probed in the same second too, the kernel's queues (1,000 packets on
/// loopback) would drop the same probes each time, and those waiters would be taken for dead.
const KEEPALIVE_AFTER_SECS: RangeInclusive<u64> = 5..=15;

/// The most grants that are remembered until they are acknowledged. When there are more, the
/// oldest is taken as received: a lock that is held for too long is better than one that is
/// granted twice.
const MAX_UNACKED: usize = 1000;

/// A connection of a client.
#[derive(Debug)]
pub(super) struct Connection<S> {
    pub(super) stream: S,
    session: HttpSession,
    /// The call that the client has made and that is not answered yet.
    pending: Option<(Ticket, PendingCall)>,
    unacked: Vec<UnackedGrant>,
    /// What is to be logged of the request that is not answered yet, if requests are logged.
    record: Option<Box<AccessRecord>>,
    /// Whether it is never closed to make room for another one.
    is_kept: bool,
    /// Whether the server has closed its direction.
    write_closed: bool,
    waiting_for: WaitingFor,
    deadline: Moment,
    interest: Interest,
}

/// A call that waits for the backend's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum PendingCall {
    /// A request to a pool, and what its client has proved its rights with: they may be taken away
    /// while it waits.
    Pool(PoolRequest, Credentials),
    /// A revocation by the form of a page, whose answer is a page.
    Form(PoolRequest),
    /// A page about these pools.
    Page(Page, Scope),
}

/// A grant that the peer may not have received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct UnackedGrant {
    /// Where the reply ends, counted in bytes sent since the start of the connection.
    end: u64,
    pub(super) request: PoolRequest,
    pub(super) token: i64,
}

impl<S: Stream> Connection<S> {
    /// A connection that was just accepted.
    pub(super) fn new(stream: S, now: Moment) -> Connection<S> {
        let session = HttpSession::new();
        let waiting_for = session.waiting_for();
        Connection {
            stream,
            session,
            pending: None,
            unacked: Vec::new(),
            record: None,
            is_kept: false,
            write_closed: false,
            waiting_for,
            deadline: now + waiting_for.timeout(),
            interest: Interest::Read,
        }
    }

    /// The epoll has reported its socket: receives what has arrived, through `scratch`. `hang_up`:
    /// both directions are closed. `Err`: the connection has ended.
    pub(super) fn on_ready(&mut self, hang_up: bool, scratch: &mut [u8]) -> io::Result<()> {
        match self.interest {
            _ if hang_up => self.on_hang_up(),
            Interest::Read => self.read(scratch),
            Interest::HangUp => {
                self.session.on_peer_close();
                Ok(())
            }
            Interest::Write | Interest::Both | Interest::Nothing | Interest::Change => Ok(()),
        }
    }

    fn on_hang_up(&mut self) -> io::Result<()> {
        match self.stream.take_error()? {
            Some(error) => Err(error),
            // The last reply may not be acknowledged yet.
            None if self.write_closed => {
                self.session.on_peer_close();
                Ok(())
            }
            None => Err(ErrorKind::ConnectionReset.into()),
        }
    }

    fn read(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        let capacity = self.session.receive_capacity().min(scratch.len());
        if capacity == 0 {
            return Ok(());
        }
        match self.stream.read(&mut scratch[..capacity]) {
            Ok(0) => self.session.on_peer_close(),
            Ok(length) => self.session.receive(&scratch[..length]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The next request, if it is complete, all earlier ones are answered, and the kernel has taken
    /// the replies.
    pub(super) fn next_request(&mut self) -> io::Result<Option<Request>> {
        self.flush()?;
        let request = self.session.next_request();
        self.flush()?; // the reply to a malformed request
        Ok(request)
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.session.unsent().is_empty() {
            match self.stream.write(self.session.unsent()) {
                Ok(length) => self.session.mark_sent(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.session.is_done() && !self.write_closed {
            self.stream.shutdown_write()?;
            self.write_closed = true;
        }
        Ok(())
    }

    /// Its request was passed to the backend, which answers with this ticket.
    pub(super) fn await_answer(&mut self, ticket: Ticket, call: PendingCall) {
        self.pending = Some((ticket, call));
        if self.is_waiter() {
            let (first, last) = (KEEPALIVE_AFTER_SECS.start(), KEEPALIVE_AFTER_SECS.end());
            let silence = first + ticket.0 % (last - first + 1);
            let _ = self.stream.probe_after(Duration::from_secs(silence));
        }
    }

    /// The ticket of the pending call.
    pub(super) fn ticket(&self) -> Option<Ticket> {
        self.pending.as_ref().map(|(ticket, _)| *ticket)
    }

    /// The request that is processed now is to be logged with its reply.
    pub(super) fn set_record(&mut self, record: AccessRecord) {
        self.record = Some(Box::new(record));
    }

    pub(super) fn take_record(&mut self) -> Option<Box<AccessRecord>> {
        self.record.take()
    }

    /// From now on it is not closed to make room for another one.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Whether it can be closed to make room for another one.
    pub(super) fn is_expendable(&self) -> bool {
        !self.is_kept
    }

    /// The request of a client that waits for a lock, with its credentials.
    pub(super) fn waiter(&self) -> Option<(&PoolRequest, &Credentials)> {
        match &self.pending {
            Some((_, PendingCall::Pool(request, credentials))) if request.call == Call::Wait => {
                Some((request, credentials))
            }
            _ => None,
        }
    }

    /// Takes the pending call, which is to be answered now.
    pub(super) fn take_pending(&mut self) -> Option<PendingCall> {
        self.pending.take().map(|(_, call)| call)
    }

    /// Takes the pending request to a pool, which is to be answered without the backend.
    pub(super) fn take_request(&mut self) -> Option<PoolRequest> {
        match self.take_pending()? {
            PendingCall::Pool(request, _) => Some(request),
            PendingCall::Form(_) | PendingCall::Page(..) => None,
        }
    }

    /// Replies to a pool request with the backend's answer. Returns the reply.
    pub(super) fn answer(&mut self, request: &PoolRequest, answer: &Answer) -> Reply {
        let reply = api::answer_reply(request, answer);
        self.reply(&reply);
        if let Answer::Yes(grant) = answer {
            self.drop_acked();
            if self.unacked.len() == MAX_UNACKED {
                self.unacked.remove(0);
            }
            self.unacked.push(UnackedGrant {
                end: self.session.total_queued(),
                request: request.clone(),
                token: grant.token,
            });
            // From here on the server must learn soon that a peer is unreachable.
            let _ = self.stream.set_unacknowledged_limit(SEND_TIMEOUT);
        }
        reply
    }

    /// Replies to the last request.
    pub(super) fn reply(&mut self, reply: &Reply) {
        self.session.reply(reply);
    }

    /// Sends a reply without a complete request, as the last reply.
    pub(super) fn reply_and_close(&mut self, reply: &Reply) {
        self.session.reply_and_close(reply);
    }

    fn drop_acked(&mut self) {
        if !self.unacked.is_empty() {
            let acked = self.acked_bytes();
            self.unacked.retain(|grant| grant.end > acked);
        }
    }

    /// How many bytes the peer has acknowledged. The server's close counts as one, as in TCP.
    fn acked_bytes(&self) -> u64 {
        let unacked = self.stream.unacknowledged().unwrap_or(0);
        (self.session.total_sent() + u64::from(self.write_closed)).saturating_sub(unacked)
    }

    /// The grants that the peer has not received, when the connection ends.
    pub(super) fn unacked_grants(mut self) -> Vec<UnackedGrant> {
        self.drop_acked();
        self.unacked
    }

    /// Whether the connection can be closed: all replies are acknowledged, or the peer keeps
    /// sending after the last reply.
    pub(super) fn is_done(&self) -> bool {
        self.session.is_done()
            && if self.session.peer_has_closed() {
                self.all_acked()
            } else {
                self.session.receive_capacity() == 0
            }
    }

    fn all_acked(&self) -> bool {
        self.acked_bytes() >= self.session.total_sent()
    }

    /// Whether it is a waiter whose client has closed the connection and so wants no answer. For
    /// other calls a closed direction does not mean this.
    pub(super) fn is_disconnected_waiter(&self) -> bool {
        self.is_waiter() && self.session.peer_has_closed()
    }

    /// Whether it waits for a lock.
    pub(super) fn is_waiter(&self) -> bool {
        self.waiter().is_some()
    }

    /// Whether no request has begun and all replies are acknowledged.
    pub(super) fn is_idle(&self) -> bool {
        matches!(
            self.waiting_for,
            WaitingFor::FirstRequest | WaitingFor::NextRequest(_)
        ) && self.all_acked()
    }

    /// The next reply is the last one.
    pub(super) fn begin_shutdown(&mut self) {
        self.session.begin_shutdown();
    }

    pub(super) fn waiting_for(&self) -> WaitingFor {
        self.waiting_for
    }

    /// How long it may wait for that.
    pub(super) fn deadline(&self) -> Moment {
        self.deadline
    }

    /// How many bytes of replies the kernel has not taken.
    pub(super) fn unsent(&self) -> usize {
        self.session.unsent().len()
    }

    /// Whether a request has begun and is not complete.
    pub(super) fn has_partial_request(&self) -> bool {
        matches!(self.session.waiting_for(), WaitingFor::RestOfRequest(_))
    }

    /// How many bytes of requests are in memory.
    pub(super) fn buffered(&self) -> usize {
        self.session.buffered()
    }

    /// Starts a new deadline, if the connection now waits for something else.
    pub(super) fn refresh_deadline(&mut self, now: Moment) {
        let waiting_for = self.session.waiting_for();
        if waiting_for != self.waiting_for {
            self.waiting_for = waiting_for;
            self.deadline = now + waiting_for.timeout();
        }
    }

    /// The events that the epoll is to report, if they differ from those it was last given.
    pub(super) fn interest_change(&mut self) -> Option<Interest> {
        let needed = self.needed_interest();
        (std::mem::replace(&mut self.interest, needed) != needed).then_some(needed)
    }

    fn needed_interest(&self) -> Interest {
        let all_sent = self.session.unsent().is_empty();
        match (all_sent, self.session.peer_has_closed()) {
            (false, _) => Interest::Write,
            (true, true) if self.write_closed => Interest::Change,
            (true, true) => Interest::Nothing,
            (true, false) if self.is_waiter() => Interest::HangUp,
            (true, false) if self.session.receive_capacity() > 0 => Interest::Read,
            (true, false) => Interest::Nothing,
        }
    }

    /// The client's address, if the kernel knows it.
    pub(super) fn peer_ip(&self) -> Option<IpAddr> {
        let address = self.stream.peer_address().ok()?;
        Some(address.ip().to_canonical())
    }

    /// The client's address, for the log.
    pub(super) fn peer(&self) -> String {
        self.stream
            .peer_address()
            .as_ref()
            .map_or_else(|_| "unknown address".into(), SocketAddr::to_string)
    }
}

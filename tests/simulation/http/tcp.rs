//! The connections of clients as the kernel of the server's host has them.

use super::super::{Conn, ConnId, Event as WorldEvent, Packet, SECOND, World};
use super::zookeeper::Asked;
use super::{Event, INSPECTION};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::time::Duration;
use zk_flock::internals::sys::{self, Interest};

/// Keep-alive of listener and client (`KEEPALIVE_IDLE`, `PROBE_AFTER`; intervals and number too).
const IDLE: u64 = 15 * SECOND;
const INTERVAL: u64 = 5 * SECOND;
const PROBES: u32 = 3;

/// The server's end of a connection.
#[derive(Debug)]
pub struct End {
    pub server: usize,
    pub inbox: VecDeque<u8>,
    /// The client has closed its direction.
    pub peer_closed: bool,
    pub error: Option<ErrorKind>,
    /// The error was taken, and there is none any more.
    error_taken: bool,
    /// The server has closed its direction.
    write_closed: bool,
    /// Bytes sent, delivered and acknowledged; a close counts as one.
    sent: u64,
    delivered: u64,
    acked: u64,
    limit: Option<Duration>,
    /// When the client was last heard of, and how long it may be silent.
    heard: u64,
    idle: u64,
    watch: Option<Watch>,
    /// The place of the client's request to wait, and its run.
    pub place: Option<u64>,
    pub run: String,
    /// The newest request, if an ensemble keeps the holders.
    pub asked: Option<Asked>,
    is_answered: bool,
}

/// What the epoll reports of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    key: u64,
    pub interest: Interest,
    /// Something has changed since it was last reported.
    changed: bool,
}

impl End {
    pub fn new(server: usize, now: u64) -> End {
        End {
            server,
            inbox: VecDeque::new(),
            peer_closed: false,
            error: None,
            error_taken: false,
            write_closed: false,
            sent: 0,
            delivered: 0,
            acked: 0,
            limit: None,
            heard: now,
            idle: IDLE,
            watch: None,
            place: None,
            run: String::new(),
            asked: None,
            is_answered: false,
        }
    }

    fn has_ended(&self) -> bool {
        self.error.is_some() || self.error_taken || (self.peer_closed && self.write_closed)
    }
}

impl World {
    fn end(&mut self, id: ConnId) -> Option<&mut End> {
        self.http().ends.get_mut(&id)
    }

    // What the network does.

    /// A SYN arrives at a server's host.
    pub(in super::super) fn http_accepts(&mut self, id: ConnId) -> Result<(), String> {
        let (server, now) = (self.conns[&id].server, self.now);
        if self.is_memcached(server) {
            return Ok(());
        }
        if !self.http().servers[server].up {
            return Err("connection refused".into());
        }
        self.http().ends.insert(id, End::new(server, now));
        self.http().servers[server].backlog.push_back(id);
        self.after(IDLE, WorldEvent::Http(Event::ClientProbe(id, 0)));
        self.notify_server(server);
        Ok(())
    }

    /// A packet arrives at a server's host.
    pub(in super::super) fn reaches_server(&mut self, id: ConnId, packet: Packet) {
        let now = self.now;
        if self
            .conns
            .get(&id)
            .is_some_and(|conn| self.is_memcached(conn.server))
        {
            return self.reaches_memcached(id, packet);
        }
        let Some(end) = self.http().ends.get_mut(&id) else {
            if let Packet::Data(_) = packet {
                return self.transmit(id, false, Packet::Rst);
            }
            if self.conns.get(&id).is_some_and(|conn| conn.closed) {
                self.conns.remove(&id);
            }
            return;
        };
        end.heard = now;
        match packet {
            Packet::Data(bytes) => end.inbox.extend(bytes),
            Packet::Fin => end.peer_closed = true,
            Packet::Rst => return self.http_gone(id, ErrorKind::ConnectionReset),
            Packet::Ack(bytes) => end.acked = end.acked.max(bytes),
        }
        if let Some(watch) = &mut end.watch {
            watch.changed = true;
        }
        let server = end.server;
        self.notify_server(server);
    }

    /// A packet arrives at a client's host.
    pub(in super::super) fn reaches_client(&mut self, id: ConnId, packet: Packet) {
        // What reaches a closed socket is not acknowledged.
        let is_open = self.conns.get(&id).is_some_and(|conn| !conn.closed);
        let delivered = match (&packet, self.http().ends.get_mut(&id)) {
            (Packet::Data(bytes), Some(end)) if is_open => {
                end.delivered += bytes.len() as u64;
                end.delivered
            }
            (Packet::Fin, Some(end)) => {
                end.delivered += 1;
                end.delivered
            }
            _ => 0,
        };
        let conn = self.conns.get_mut(&id).expect("a connection");
        if conn.closed {
            return match packet {
                Packet::Data(_) => self.transmit(id, true, Packet::Rst),
                Packet::Fin => self.transmit(id, true, Packet::Ack(delivered)),
                Packet::Rst | Packet::Ack(_) => {}
            };
        }
        match packet {
            Packet::Data(bytes) => conn.inbox.push_back(bytes),
            Packet::Fin => _ = conn.end.get_or_insert(super::super::End::Closed),
            Packet::Rst => _ = conn.end.get_or_insert(super::super::End::Reset),
            Packet::Ack(_) => {}
        }
        let pid = conn.pid;
        if delivered > 0 {
            self.transmit(id, true, Packet::Ack(delivered));
        }
        self.notify(pid);
    }

    /// The server's end of a connection fails.
    pub(in super::super) fn http_gone(&mut self, id: ConnId, error: ErrorKind) {
        let Some(end) = self.end(id) else { return };
        end.error = Some(error);
        if let Some(watch) = &mut end.watch {
            watch.changed = true;
        }
        let server = end.server;
        let is_unconfirmed = end.sent > end.acked;
        if let Some(host) = end
            .asked
            .as_ref()
            .filter(|_| is_unconfirmed)
            .map(Asked::host)
        {
            self.http().unconfirmed.insert(host);
        }
        self.notify_server(server);
    }

    /// Whether both hosts of a connection reach each other.
    fn is_reachable(&self, conn: &Conn) -> bool {
        self.is_open(conn.host, conn.server, true) && self.is_open(conn.host, conn.server, false)
    }

    /// The kernel of the server's host looks whether a silent client is still there.
    pub(super) fn probe(&mut self, id: ConnId, unanswered: u32) {
        let now = self.now;
        let Some(end) = self.http.as_ref().and_then(|http| http.ends.get(&id)) else {
            return;
        };
        let due = end.heard + end.idle;
        if unanswered == 0 && now < due || end.sent > end.acked {
            let at = due.max(now + end.idle);
            return self.at(at, WorldEvent::Http(Event::Probe(id, 0)));
        }
        let is_there = self.conns.get(&id).map(|conn| self.is_reachable(conn));
        let idle = end.idle;
        match is_there {
            None => self.http_gone(id, ErrorKind::ConnectionReset),
            Some(true) => {
                self.end(id).expect("an end").heard = now;
                self.after(idle, WorldEvent::Http(Event::Probe(id, 0)));
            }
            Some(false) if unanswered == PROBES => self.http_gone(id, ErrorKind::TimedOut),
            Some(false) => self.after(INTERVAL, WorldEvent::Http(Event::Probe(id, unanswered + 1))),
        }
    }

    /// The kernel of the client's host looks whether the server is still there.
    pub(super) fn client_probe(&mut self, id: ConnId, unanswered: u32) {
        let Some(conn) = self.conns.get(&id).filter(|conn| !conn.closed) else {
            return;
        };
        let (pid, is_there) = (conn.pid, self.is_reachable(conn));
        let is_known = self.http().ends.contains_key(&id);
        if is_there && is_known {
            return self.after(IDLE, WorldEvent::Http(Event::ClientProbe(id, 0)));
        }
        if !is_there && unanswered < PROBES {
            let next = Event::ClientProbe(id, unanswered + 1);
            return self.after(INTERVAL, WorldEvent::Http(next));
        }
        let conn = self.conns.get_mut(&id).expect("a connection");
        conn.end.get_or_insert(super::super::End::Reset);
        self.notify(pid);
    }

    /// `TCP_USER_TIMEOUT`.
    pub(super) fn ack_due(&mut self, id: ConnId, bytes: u64) {
        if self.end(id).is_some_and(|end| end.acked < bytes) {
            // What a cut holds back is not sent again.
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.blocked[1].clear();
            }
            self.http_gone(id, ErrorKind::TimedOut);
        }
    }

    // What the server does.

    pub(super) fn take_backlog(&mut self, server: usize) -> Vec<ConnId> {
        let accepted: Vec<ConnId> = self.http().servers[server].backlog.drain(..).collect();
        for &id in &accepted {
            self.after(IDLE, WorldEvent::Http(Event::Probe(id, 0)));
        }
        accepted
    }

    /// What the epoll of a server reports.
    pub(super) fn ready_connections(&mut self, server: usize) -> Vec<sys::Event> {
        let ends = self.http().ends.values_mut();
        let mut ready = Vec::new();
        for end in ends.filter(|end| end.server == server) {
            let Some(watch) = end.watch else { continue };
            let ended = end.has_ended() && (watch.interest != Interest::Change || watch.changed);
            if ended || watch.is_due(end) {
                let key = watch.key;
                ready.push(sys::Event { key, ended });
            }
            end.watch.as_mut().expect("a watch").changed = false;
        }
        ready.sort_by_key(|event| event.key);
        ready
    }

    /// Whether it would report something now.
    pub(super) fn has_ready_connections(&self, server: usize) -> bool {
        let http = self.http.as_ref().expect("lock servers");
        let mut ends = http.ends.values().filter(|end| end.server == server);
        ends.any(|end| {
            end.watch.is_some_and(|watch| {
                end.has_ended() && (watch.interest != Interest::Change || watch.changed)
                    || watch.is_due(end)
            })
        })
    }

    pub(super) fn watch(&mut self, id: ConnId, key: u64, interest: Interest) {
        if let Some(end) = self.end(id) {
            let changed = true;
            end.watch = Some(Watch {
                key,
                interest,
                changed,
            });
        }
    }

    pub(super) fn read_from_client(&mut self, id: ConnId, into: &mut [u8]) -> io::Result<usize> {
        let place = self.http().next_place;
        let Some(end) = self.end(id) else {
            return Err(ErrorKind::NotConnected.into());
        };
        if end.inbox.is_empty() {
            return match end.error.take() {
                Some(error) => {
                    end.error_taken = true;
                    Err(error.into())
                }
                None if end.peer_closed => Ok(0),
                None => Err(ErrorKind::WouldBlock.into()),
            };
        }
        let length = end.inbox.len().min(into.len());
        for (byte, slot) in end.inbox.drain(..length).zip(into.iter_mut()) {
            *slot = byte;
        }
        if into.starts_with(b"GET /wait/") {
            let text = String::from_utf8_lossy(&into[..length]);
            let run = text.split("run=").nth(1).unwrap_or_default();
            let is_id = |letter: &char| letter.is_ascii_alphanumeric();
            (end.place, end.run) = (Some(place), run.chars().take_while(is_id).collect());
            self.http().next_place += 1;
        }
        if self.http().pool.has_ensemble()
            && let Some(asked) = Asked::read(&into[..length], self.now)
        {
            self.request_read(&asked);
            let end = self.end(id).expect("an end");
            (end.asked, end.is_answered) = (Some(asked), false);
        }
        Ok(length)
    }

    pub(super) fn send_to_client(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize> {
        if id > INSPECTION - 100 {
            self.inspected(bytes);
        }
        if let Some(mut end) = self.http().ends.remove(&id) {
            if !std::mem::replace(&mut end.is_answered, true) {
                self.check_answer(&end, bytes);
            }
            self.http().ends.insert(id, end);
        }
        if bytes.ends_with(b"\r\n\r\nYES") {
            self.check_order(id);
            let text = String::from_utf8_lossy(bytes);
            let token = text.split("X-Lock-Token: ").nth(1);
            let token: Option<i64> = token.and_then(|rest| rest.lines().next()?.parse().ok());
            let newest = &mut self.http().newest_token;
            *newest = token.unwrap_or(0).max(*newest);
        }
        let Some(end) = self.end(id) else {
            return Err(ErrorKind::NotConnected.into());
        };
        if let Some(error) = end.error.take() {
            end.error_taken = true;
            return Err(error.into());
        }
        end.place = None;
        end.sent += bytes.len() as u64;
        let (server, sent, limit) = (end.server, end.sent, end.limit);
        self.delay_late_reply(id);
        if let Some(limit) = limit {
            self.plan_ack(id, sent, limit);
        }
        self.leaves(server, id, Packet::Data(bytes.to_vec()));
        Ok(bytes.len())
    }

    /// What is sent to this client from now on is late, if a fault wants that.
    fn delay_late_reply(&mut self, id: ConnId) {
        let now = self.now;
        let Some(host) = self.conns.get(&id).map(|conn| conn.host) else {
            return;
        };
        if let Some(by) = self.http().late.remove(&host) {
            let last = &mut self.conns.get_mut(&id).expect("a connection").last[1];
            *last = (*last).max(now + u64::from(by) * 1000);
        }
    }

    fn plan_ack(&mut self, id: ConnId, sent: u64, limit: Duration) {
        let limit = u64::try_from(limit.as_micros()).expect("a limit");
        self.after(limit, WorldEvent::Http(Event::AckDue(id, sent)));
    }

    pub(super) fn close_write(&mut self, id: ConnId) -> io::Result<()> {
        let Some(end) = self.end(id) else {
            return Err(ErrorKind::NotConnected.into());
        };
        if !std::mem::replace(&mut end.write_closed, true) {
            end.sent += 1;
            let server = end.server;
            self.leaves(server, id, Packet::Fin);
        }
        Ok(())
    }

    pub(super) fn take_stream_error(&mut self, id: ConnId) -> Option<io::Error> {
        let end = self.end(id)?;
        let error = end.error.take()?;
        end.error_taken = true;
        Some(error.into())
    }

    pub(super) fn unacknowledged(&mut self, id: ConnId) -> u64 {
        self.end(id).map_or(0, |end| end.sent - end.acked)
    }

    /// Sets the limit for what is sent, also for what was just sent.
    pub(super) fn limit_unacknowledged(&mut self, id: ConnId, limit: Duration) {
        let Some(end) = self.end(id) else { return };
        end.limit = Some(limit);
        if end.sent > end.acked {
            let sent = end.sent;
            self.plan_ack(id, sent, limit);
        }
    }

    pub(super) fn probe_after(&mut self, id: ConnId, idle: Duration) {
        let now = self.now;
        let Some(end) = self.end(id) else { return };
        end.idle = u64::try_from(idle.as_micros()).expect("a time");
        let at = (end.heard + end.idle).max(now);
        self.at(at, WorldEvent::Http(Event::Probe(id, 0)));
    }

    /// The server closes a connection, also by its death.
    pub(super) fn close_end(&mut self, id: ConnId) {
        let Some(http) = self.http.as_mut() else {
            return; // the course is over
        };
        let Some(end) = http.ends.remove(&id) else {
            return;
        };
        let client_has_closed = self.conns.get(&id).is_some_and(|conn| conn.closed);
        if client_has_closed && (end.peer_closed || end.error.is_some() || end.error_taken) {
            self.conns.remove(&id);
        } else if end.error.is_none() && !end.error_taken && !self.http().servers[end.server].is_off
        {
            if !end.inbox.is_empty() {
                self.leaves(end.server, id, Packet::Rst);
            } else if !end.write_closed {
                self.leaves(end.server, id, Packet::Fin);
            }
        }
    }
}

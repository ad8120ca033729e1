//! A slot in a pool of a lock server that speaks HTTP, for distributex. Acquires the slot, renews
//! its lease if the server grants one, and releases it. Sans-I/O.
//!
//! Each run has an id, and distributexd gives the slot to the run: another run of the same host
//! waits. For the Python server, and for an older distributexd, slots belong to hosts: a host that
//! asks twice has one slot, and the first run that releases it releases it for both.
//!
//! The Python server says `YES` and nothing else. Its slot is held until it is released, or until
//! it expires on the server, which does not report that.
//!
//! A lease that cannot be read, has already ended or is too short to be kept is not accepted
//! (`BadLease`): at the start the lock is refused, later the reply confirms nothing. Only a reply
//! with a lease of its own, or without any, makes the held lease longer. Without one it means
//! "until released", as the Python server has it. After a server has granted a lease, that is
//! accepted only together with a token, which distributexd always sends: a YES with neither is from
//! another program that answers in its name. The server is still asked as before, so that it can
//! take the lock back.

mod refusal;
mod reply;
mod residue;

pub use self::refusal::access_refusal;
use self::reply::{BadLease, Lease, ServerReply, Slot, is_held_by_outer_runs, shown_reply};
use self::residue::{Residue, release_uncertainty};
use super::lookups::Lookups;
use super::repeats::Repeats;
use super::{Event, Failure, Holder, Input, Lock, Output, Proof, circular};
use crate::deadlines::Deadlines;
use crate::endpoint::{Endpoint, Found};
use crate::http::client::{HttpClient, HttpEvent};
use crate::http::{Reply, authorize, get};
use crate::moment::Moment;
use crate::plan::LockServer;
use crate::transport;
use std::collections::VecDeque;
use std::time::Duration;

/// How long to wait for an unreachable server, unless the user gave a time.
pub const OUTAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a reply that does not wait for another client. It is enough for a server with thousands
/// of clients.
const REPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// The least time for the reply to a renewal, however little is left of the lease: a sixth of the
/// shortest lease that can be kept.
const MIN_REPLY_TIMEOUT: Duration = Duration::from_millis(166);

/// The request that is answered once a slot is free.
const WAIT: &str = "/wait/";

/// A free slot is granted within this time (the Python server takes up to 0.2 s). A run that waits
/// longer reports that it waits.
const WAITING_REPORT_DELAY: Duration = Duration::from_millis(500);

/// Pause before the next request for a slot that was granted and taken away, or replaced. A server
/// that does so each time cannot make this program spin.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How old a request to wait must be before it is cancelled. The Python server begins to wait up to
/// 0.2 s after the request. If the client has gone by then, it waits without end, and gives the
/// slot to a host that does not know of it.
const CANCEL_DELAY: Duration = Duration::from_millis(250);

/// Time for the server to answer a cancelled request: it may have granted the slot.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

/// A tick that is this late means that the process was stopped.
const STOPPED_AFTER: Duration = Duration::from_secs(1);

/// Time for a release. The second is for a slot that probably does not exist, or that was lost
/// already.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// What to acquire from which server, and how long to wait.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of the server.
    pub addresses: Vec<Endpoint>,
    /// The server as the user gave it.
    pub server: LockServer,
    /// Name of the pool.
    pub pool: String,
    /// Name of this host, which holds the slot.
    pub host: String,
    /// The id of this run.
    pub run_id: String,
    /// The id belongs to a dead run, which may still have a slot.
    pub inherited: bool,
    /// Until when to wait for a slot; `None`: one try.
    pub wait_until: Option<Moment>,
    /// Until when to wait for an unreachable server; `None`: [`OUTAGE_TIMEOUT`] for each outage.
    pub reach_by: Option<Moment>,
    /// No other run of this host has a slot in the pool or requests one.
    pub only_run: bool,
    /// The tokens of the slots in this pool under which this run was started, nearest first.
    pub outer: Vec<i64>,
    /// Time from TERM to KILL if the lease leaves it.
    pub kill_after: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// A slot is requested. `residue`: what the server may have by now.
    Requesting { residue: Residue },
    /// The server has granted a slot. It may not know that the reply arrived, and little may be
    /// left of the lease, so the slot is renewed first. `replaced`: the server has granted it in
    /// place of another slot that was to be renewed.
    Confirming { slot: Slot, replaced: bool },
    /// This run holds the slot. `suspended`: no server confirms it at the moment.
    Held {
        slot: Slot,
        renew: Moment,
        suspended: bool,
    },
    /// The lease was not renewed in time. The server may keep the slot, and is still asked to: a
    /// process of the command may be impossible to kill, and no other run should get the slot
    /// beside it. `confirmed`: the server has confirmed the slot since then.
    LostKept {
        slot: Slot,
        confirmed: bool,
        renew: Moment,
    },
    /// The lock is lost or was never acquired. Waits for `Release`.
    Ended(Residue),
    /// A request that may be granted at any moment is cancelled at `finish`.
    Cancelling { finish: Moment, by: Moment },
    /// What the server may have is being released.
    Releasing { by: Moment, residue: Residue },
    /// Nothing more to do.
    Done,
}

/// The lock.
#[derive(Debug)]
pub struct PoolLock {
    options: Options,
    client: HttpClient,
    phase: Phase,
    lease_reported: Deadlines,
    /// Pause between polls of a server that has granted a lease and does not any more. `None`: it
    /// never granted one.
    poll_interval: Option<Duration>,
    lookups: Lookups,
    repeats: Repeats,
    /// `Waiting` was reported.
    waiting_reported: bool,
    /// The last reply to a renewal, if it confirmed nothing.
    unconfirmed: Option<String>,
    /// An operator has revoked the lock. It is held until it is released, and not renewed.
    revoked: bool,
    /// The server may have a slot for this run, or will.
    unsettled: bool,
    outputs: VecDeque<Output>,
}

impl Lock for PoolLock {
    fn handle(&mut self, input: Input, now: Moment) {
        // After a pause of the whole process, deadlines come before any reply.
        self.on_tick(now);
        match input {
            Input::Transport(event) => self.client.on_transport(event, now),
            Input::Release => self.release(now),
            Input::LookUp(found) => self.on_look_up(found, now),
            Input::Tick | Input::File(_) | Input::Ended(_) => {}
        }
        self.drain_client(now);
    }

    fn poll(&mut self, now: Moment) -> Output {
        self.on_tick(now);
        self.client.tick(now);
        self.drain_client(now);
        self.look_up(now);
        if let Some(output) = self.client.output() {
            if let transport::Output::Send(_) = output {
                self.request_sent();
            }
            return Output::Transport(output);
        }
        self.outputs
            .pop_front()
            .unwrap_or_else(|| Output::Wait(self.wake()))
    }

    fn unsettled(&self) -> bool {
        self.unsettled
    }
}

impl PoolLock {
    /// The first `poll` starts to request a slot. `began`: when the program started.
    pub fn new(options: Options, began: Moment, now: Moment) -> PoolLock {
        let mut pool = PoolLock {
            client: HttpClient::new(options.addresses.clone(), began),
            unsettled: options.inherited,
            options,
            phase: Phase::Done,
            lease_reported: Deadlines::NEVER,
            poll_interval: None,
            lookups: Lookups::new(now),
            repeats: Repeats::default(),
            waiting_reported: false,
            unconfirmed: None,
            revoked: false,
            outputs: VecDeque::new(),
        };
        pool.request_slot(Residue::Nothing, now);
        pool
    }

    /// Requests a slot from the start.
    fn request_slot(&mut self, residue: Residue, due: Moment) {
        self.phase = Phase::Requesting { residue };
        match self.options.wait_until {
            Some(_) => self
                .client
                .ask(self.request(WAIT, None), Duration::MAX, due),
            None => self
                .client
                .ask(self.request("/get/", None), REPLY_TIMEOUT, due),
        }
    }

    fn confirm(&mut self, slot: Slot, replaced: bool, due: Moment) {
        self.phase = Phase::Confirming { slot, replaced };
        self.renew(slot, due);
    }

    /// Renews the slot. A short lease leaves less time for a reply that is lost.
    fn renew(&mut self, slot: Slot, due: Moment) {
        let patience = slot.lease.map_or(REPLY_TIMEOUT, |lease| {
            REPLY_TIMEOUT.min(lease.length / 6).max(MIN_REPLY_TIMEOUT)
        });
        self.client
            .ask(self.request("/renew/", slot.token), patience, due);
    }

    /// From now on the server may have a slot for this run.
    fn request_sent(&mut self) {
        if let Phase::Requesting { residue } = &mut self.phase {
            *residue = Residue::Perhaps;
        }
        self.unsettled = true;
    }

    fn request(&self, path: &str, token: Option<i64>) -> Vec<u8> {
        let token = token.map(|token| token.to_string());
        let outer = if path == WAIT {
            self.outer_tokens()
        } else {
            String::new()
        };
        let mut parameters = vec![
            ("pool", self.options.pool.as_str()),
            ("host", &self.options.host),
            ("run", &self.options.run_id),
        ];
        parameters.extend(token.iter().map(|token| ("token", token.as_str())));
        if !outer.is_empty() {
            parameters.push(("outer", outer.as_str()));
        }
        let server = &self.options.server;
        let request = get(&server.path(path), &parameters, &server.header(), false);
        authorize(request, server.access_token.as_ref())
    }

    fn outer_tokens(&self) -> String {
        let tokens: Vec<_> = self.options.outer.iter().map(i64::to_string).collect();
        tokens.join(",")
    }

    fn drain_client(&mut self, now: Moment) {
        while let Some(event) = self.client.event() {
            match event {
                HttpEvent::Answered { reply, sent } => {
                    self.note_repeats();
                    self.on_reply(&reply, sent, now);
                }
                HttpEvent::Failed { server, fault } => {
                    self.on_failure(&format!("{server}: {fault}"), now);
                }
            }
        }
    }

    /// Requests a look-up of the server's name when that is due.
    fn look_up(&mut self, now: Moment) {
        if self.client.unreached().is_none() {
            self.lookups.reached();
        }
        if now >= self.next_look_up() {
            self.lookups.begin();
            self.outputs.push_back(Output::LookUp);
        }
    }

    fn next_look_up(&self) -> Moment {
        let heartbeat = match self.phase {
            Phase::Held { slot, .. } | Phase::Confirming { slot, .. } => {
                slot.lease.map(|lease| lease.length / 10)
            }
            Phase::Releasing { .. } => Some(Duration::ZERO), // it lasts a few seconds
            Phase::Requesting { .. } | Phase::LostKept { .. } => None,
            Phase::Ended(_) | Phase::Cancelling { .. } | Phase::Done => return Moment::NEVER,
        };
        self.lookups.due(self.client.unreached(), heartbeat)
    }

    fn on_look_up(&mut self, found: Found, now: Moment) {
        self.lookups.done(now);
        if self.client.relist(found.endpoints, now) {
            self.emit(Event::Note(format!(
                "{}: its name now has other addresses",
                self.options.server
            )));
        }
    }

    fn on_reply(&mut self, reply: &Reply, sent: Moment, now: Moment) {
        use ServerReply::*;
        let answer = ServerReply::of(reply, sent);
        if matches!(
            (self.phase, &answer),
            (_, No) | (Phase::Releasing { .. }, Ok)
        ) {
            self.unsettled = false;
        }
        match (self.phase, answer) {
            (Phase::Requesting { .. }, Yes(slot)) => self.on_granted(slot, now),
            (Phase::Requesting { .. }, BadLease(bad)) => self.refuse(&bad),
            // This run has just started, so the slot is that of the dead run before it: it is
            // released.
            (Phase::Requesting { .. }, Revoked) => self.settle(
                Residue::Perhaps,
                Event::Failed(Failure::Denied(self.denial(reply))),
            ),
            (Phase::Requesting { .. }, No) if is_held_by_outer_runs(reply) => {
                let how = format!("token {}", self.outer_tokens());
                let failure = circular(&self.name(), &how);
                self.settle(Residue::Nothing, Event::Failed(failure));
            }
            (Phase::Requesting { .. }, No) if self.options.wait_until.is_none() => {
                self.settle(Residue::Nothing, Event::Busy(self.holder()));
            }
            (Phase::Requesting { .. }, _) => {
                self.settle(Residue::Nothing, Event::Failed(self.failure(reply)));
            }

            (
                Phase::Confirming {
                    slot: old,
                    replaced,
                },
                Yes(slot),
            ) => self.on_confirmed(old, replaced, slot, now),
            (Phase::Confirming { .. }, BadLease(bad)) => self.refuse(&bad),
            // The slot was granted for a moment.
            (Phase::Confirming { .. }, No) => {
                self.request_slot(Residue::Nothing, now + RETRY_PAUSE);
            }
            (Phase::Confirming { slot: held, .. }, _) => {
                self.settle(Residue::Slot(held), Event::Failed(self.failure(reply)));
            }

            (
                Phase::Held {
                    slot: old,
                    suspended,
                    ..
                },
                Yes(slot),
            ) => self.on_renewed(old, suspended, slot, now),
            (Phase::Held { .. }, BadLease(bad)) => {
                self.suspend(format!("{} {bad}", self.options.server), true, now);
            }
            (Phase::Held { .. }, Revoked) => self.revoke(),
            (Phase::Held { .. }, No) => {
                self.lose(
                    Residue::Nothing,
                    format!("{} no longer has this run as holder", self.options.server),
                    now,
                    now,
                );
            }
            // Neither a confirmation nor a denial: the peer does not know the request.
            (Phase::Held { .. }, _) => self.suspend(
                format!("{} said {}", self.options.server, shown_reply(reply)),
                true,
                now,
            ),

            (Phase::LostKept { .. }, Yes(slot)) => self.keep(slot, true, now),
            (Phase::LostKept { .. }, No | Revoked) => {
                let why = format!("{} said {}", self.options.server, shown_reply(reply));
                self.settle(Residue::Nothing, Event::Gone(why));
            }
            (
                Phase::LostKept {
                    slot, confirmed, ..
                },
                _,
            ) => self.keep(slot, confirmed, now),

            // Too late to use.
            (Phase::Ended(_), Yes(slot)) => self.phase = Phase::Ended(Residue::Slot(slot)),
            (Phase::Ended(_), BadLease(bad)) => {
                self.phase = Phase::Ended(Residue::BadLease(bad.token));
            }
            (Phase::Ended(_), _) => self.phase = Phase::Ended(Residue::Nothing),
            (Phase::Cancelling { .. }, Yes(slot)) => self.release_slot(Residue::Slot(slot), now),
            (Phase::Cancelling { .. }, BadLease(bad)) => {
                self.release_slot(Residue::BadLease(bad.token), now);
            }
            (Phase::Cancelling { .. }, _) => self.released(None),
            (Phase::Releasing { .. }, Ok) => self.released(None),
            (Phase::Releasing { residue, .. }, _) => {
                let why = format!("{} said {}", self.options.server, shown_reply(reply));
                self.released(release_uncertainty(residue, &self.options, &why, now));
            }
            (Phase::Done, _) => {}
        }
    }

    /// An attempt to reach the server has failed. Others follow.
    fn on_failure(&mut self, why: &str, now: Moment) {
        match self.phase {
            Phase::Held { .. } => self.suspend(why.to_owned(), false, now),
            Phase::Ended(_) => self.client.stop(),
            Phase::Cancelling { .. } => self.release_slot(Residue::Perhaps, now),
            _ => {}
        }
        let lines = self.repeats.failed(why, now);
        for line in lines {
            self.emit(Event::Note(line));
        }
    }

    /// The server has granted a slot. With the Python server that is all. distributexd takes the
    /// slot back if it cannot be sure that the reply arrived, and its lease counts from the
    /// request, which may be long ago. So the slot is renewed at once, which also confirms the
    /// reply.
    fn on_granted(&mut self, slot: Slot, now: Moment) {
        match slot {
            Slot {
                token: None,
                lease: None,
            } => self.acquire(slot, now),
            _ => self.confirm(slot, false, now),
        }
    }

    /// The slot was confirmed. If the reply names another slot, that is confirmed in turn.
    fn on_confirmed(&mut self, old: Slot, replaced: bool, slot: Slot, now: Moment) {
        if let Some(bad) = BadLease::too_short(slot) {
            return self.refuse(&bad);
        }
        match slot.lease {
            Some(lease) if now >= lease.deadlines(self.options.kill_after).term => {
                self.confirm(slot, replaced, now);
            }
            _ if slot.token != old.token && !replaced => {
                self.confirm(slot, true, now + RETRY_PAUSE);
            }
            _ => self.acquire(slot, now),
        }
    }

    /// The server may have a slot for this run, but its lease leaves no time for a command: it is
    /// released.
    fn refuse(&mut self, bad: &BadLease) {
        let (name, server, advice) = (self.name(), &self.options.server, bad.advice());
        let why = format!("cannot acquire {name}: {server} {bad}: {advice}");
        self.settle(
            Residue::BadLease(bad.token),
            Event::Failed(Failure::IncompatibleLock(why)),
        );
    }

    fn acquire(&mut self, slot: Slot, now: Moment) {
        self.hold(slot, false, now);
        self.emit(Event::Acquired(Proof {
            lock: self.name(),
            token: slot.token,
            session: None,
        }));
    }

    /// The server has renewed the slot. A lease that is too short to be kept never extends the held
    /// one, but shortens it if it ends sooner.
    fn on_renewed(&mut self, old: Slot, suspended: bool, new: Slot, now: Moment) {
        if let Some(bad) = BadLease::too_short(new) {
            if lease_end(new) < lease_end(old) {
                self.hold(new, suspended, now);
            }
            return self.suspend(format!("{} {bad}", self.options.server), true, now);
        }
        if old.lease.is_some()
            && new
                == (Slot {
                    token: None,
                    lease: None,
                })
        {
            let why = format!(
                "{} said YES without the token and the lease that it said before",
                self.options.server
            );
            return self.suspend(why, true, now);
        }
        self.hold(new, false, now);
        if suspended {
            self.emit(Event::Resumed);
        }
        if let (Some(before), Some(after)) = (old.token, new.token)
            && before != after
        {
            let name = self.name();
            self.emit(Event::Warn(format!(
                "{name} was lost and granted again, with token {after} instead of {before}: the server has lost its holders, and another host may have held the lock in the \
                 meantime; set \"state\" on the server to prevent this"
            )));
        }
    }

    /// An operator has revoked the lock: it is not renewed any more, and released when the command
    /// has exited. It is held until its lease ends.
    fn revoke(&mut self) {
        self.revoked = true;
        let why = format!("an operator revoked it at {}", self.options.server);
        self.emit(Event::Revoked { why });
    }

    /// Holds a slot until its lease ends.
    fn hold(&mut self, slot: Slot, suspended: bool, now: Moment) {
        let deadlines = slot.lease.map_or(Deadlines::NEVER, |lease| {
            lease.deadlines(self.options.kill_after)
        });
        if self.lease_reported != deadlines {
            self.lease_reported = deadlines;
            self.emit(Event::LeaseUntil(deadlines));
        }
        if let Some(lease) = slot.lease {
            self.poll_interval = Some(lease.length / 3);
        }
        let renew = slot
            .lease
            .map_or_else(|| self.next_poll(now), Lease::renewal);
        self.phase = Phase::Held {
            slot,
            renew,
            suspended,
        };
    }

    /// When to poll a slot without a lease: never, if the server has never granted a lease.
    fn next_poll(&self, now: Moment) -> Moment {
        self.poll_interval
            .map_or(Moment::NEVER, |pause| now + pause)
    }

    /// The server does not confirm the lock at the moment. `answered`: it gave a reply, so it is
    /// asked again after a pause.
    fn suspend(&mut self, why: String, answered: bool, now: Moment) {
        let next_poll = self.next_poll(now);
        self.unconfirmed = answered.then(|| why.clone());
        if let Phase::Held {
            slot,
            renew,
            suspended,
        } = &mut self.phase
        {
            if answered {
                *renew = slot
                    .lease
                    .map_or(next_poll, |lease| now + lease.length / 10);
            }
            if slot.lease.is_some() && !std::mem::replace(suspended, true) {
                self.emit(Event::Suspended(why));
            }
        }
    }

    /// The lock is lost, and the slot is kept for as long as the server confirms it.
    fn keep(&mut self, slot: Slot, confirmed: bool, now: Moment) {
        let next = slot
            .lease
            .map_or_else(|| self.next_poll(now), Lease::renewal);
        let renew = if next > now { next } else { now + RETRY_PAUSE };
        self.phase = Phase::LostKept {
            slot,
            confirmed,
            renew,
        };
    }

    fn settle(&mut self, residue: Residue, event: Event) {
        self.phase = Phase::Ended(residue);
        self.emit(event);
    }

    /// The lock is lost. If `Acquired` was not polled yet, a slot is requested again.
    fn lose(&mut self, residue: Residue, why: String, kill_deadline: Moment, now: Moment) {
        let queued = self.outputs.len();
        self.outputs
            .retain(|output| !matches!(output, Output::Event(Event::Acquired(_))));
        if self.outputs.len() < queued {
            return self.request_slot(Residue::Perhaps, now + RETRY_PAUSE);
        }
        self.client.stop();
        match residue {
            Residue::Lost(slot) if !self.revoked => {
                self.phase = Phase::LostKept {
                    slot,
                    confirmed: false,
                    renew: now,
                };
                self.emit(Event::Lost {
                    why,
                    kill_deadline,
                    gone: false,
                });
            }
            _ => self.settle(
                residue,
                Event::Lost {
                    why,
                    kill_deadline,
                    gone: true,
                },
            ),
        }
    }

    fn release(&mut self, now: Moment) {
        self.note_repeats();
        match (self.phase, self.client.asked()) {
            (Phase::Requesting { .. } | Phase::Ended(_), Some(since)) => {
                let finish = now.max(since + CANCEL_DELAY);
                self.phase = Phase::Cancelling {
                    finish,
                    by: finish + CANCEL_TIMEOUT,
                };
            }
            (Phase::Requesting { residue } | Phase::Ended(residue), None) => {
                self.release_slot(residue, now);
            }
            (Phase::Confirming { slot, .. } | Phase::Held { slot, .. }, _) => {
                self.release_slot(Residue::Slot(slot), now);
            }
            (
                Phase::LostKept {
                    slot,
                    confirmed: true,
                    ..
                },
                _,
            ) => self.release_slot(Residue::Slot(slot), now),
            (Phase::LostKept { slot, .. }, _) => self.release_slot(Residue::Lost(slot), now),
            (Phase::Cancelling { .. } | Phase::Releasing { .. } | Phase::Done, _) => {}
        }
    }

    fn release_slot(&mut self, residue: Residue, now: Moment) {
        let (token, bound) = match residue {
            Residue::Nothing => return self.released(None),
            // The server might release the slot of another run on this host.
            Residue::Perhaps if !self.options.only_run => return self.released(None),
            Residue::Perhaps => (None, IDLE_RELEASE_TIMEOUT),
            Residue::Lost(slot) => (slot.token, IDLE_RELEASE_TIMEOUT),
            Residue::Slot(Slot { token, .. }) | Residue::BadLease(token) => {
                (token, RELEASE_TIMEOUT)
            }
        };
        self.phase = Phase::Releasing {
            by: now + bound,
            residue,
        };
        self.client
            .ask(self.request("/release/", token), REPLY_TIMEOUT, now);
    }

    fn released(&mut self, doubt: Option<String>) {
        self.client.stop();
        self.phase = Phase::Done;
        self.emit(Event::Released { doubt });
    }

    /// Does what is due at this time.
    fn on_tick(&mut self, now: Moment) {
        match self.phase {
            Phase::Requesting { residue } => match self.long_poll_since() {
                Some(since) => self.check_wait_deadline(residue, since, now),
                None if now >= self.limit() => self.give_up(residue, now),
                None => {}
            },
            Phase::Confirming { slot, .. } if now >= self.limit() => {
                self.give_up(Residue::Slot(slot), now);
            }
            Phase::Held { slot, .. } if now >= self.lease_reported.term => {
                self.lose(
                    Residue::Lost(slot),
                    self.why_not_renewed(slot, now),
                    self.lease_reported.kill,
                    now,
                );
            }
            Phase::Held {
                slot,
                renew,
                suspended,
            } if now >= renew => {
                self.phase = Phase::Held {
                    slot,
                    renew: Moment::NEVER,
                    suspended,
                };
                self.renew(slot, now);
            }
            Phase::LostKept {
                slot,
                confirmed,
                renew,
            } if now >= renew => {
                self.phase = Phase::LostKept {
                    slot,
                    confirmed,
                    renew: Moment::NEVER,
                };
                self.renew(slot, now);
            }
            Phase::Cancelling { by, .. } if now >= by => self.release_slot(Residue::Perhaps, now),
            Phase::Cancelling { finish, by } if now >= finish => {
                self.phase = Phase::Cancelling {
                    finish: Moment::NEVER,
                    by,
                };
                self.client.shutdown_write();
            }
            Phase::Releasing { by, residue } if now >= by => {
                let why = self.client.faults(now);
                self.released(release_uncertainty(residue, &self.options, &why, now));
            }
            _ => {}
        }
    }

    /// Since when the server lets this run wait for the lock.
    fn long_poll_since(&self) -> Option<Moment> {
        self.options
            .wait_until
            .and_then(|_| self.client.kept_waiting())
    }

    fn check_wait_deadline(&mut self, residue: Residue, since: Moment, now: Moment) {
        if now >= self.wait_deadline(since) {
            self.settle(residue, Event::Busy(self.holder()));
        } else if !self.waiting_reported && now >= since + WAITING_REPORT_DELAY {
            self.waiting_reported = true;
            self.emit(Event::Waiting {
                holder: self.holder(),
                position: None,
            });
        }
    }

    /// When the wait ends, but not before a server has the request: until then the server is
    /// unreachable, and the lock may be free.
    fn wait_deadline(&self, waiting_since: Moment) -> Moment {
        self.options
            .wait_until
            .unwrap_or(Moment::NEVER)
            .max(waiting_since)
    }

    /// Until when to wait for an unreachable server.
    fn limit(&self) -> Moment {
        self.options
            .reach_by
            .or_else(|| {
                self.client
                    .unreachable_since()
                    .map(|since| since + OUTAGE_TIMEOUT)
            })
            .unwrap_or(Moment::NEVER)
    }

    /// Logs how often the last reasons were repeated.
    fn note_repeats(&mut self) {
        let lines = self.repeats.end();
        for line in lines {
            self.emit(Event::Note(line));
        }
    }

    fn give_up(&mut self, residue: Residue, now: Moment) {
        self.note_repeats();
        let failure = Failure::Unreachable(self.client.faults(now));
        self.client.stop();
        self.settle(residue, Event::Failed(failure));
    }

    fn why_not_renewed(&self, slot: Slot, now: Moment) -> String {
        let (length, silence) = slot.lease.map_or_else(Default::default, |lease| {
            (lease.length, now.since(lease.sent))
        });
        if self.revoked {
            return format!(
                "an operator revoked it at {}, and its lease ended before the command exited",
                self.options.server
            );
        }
        let late = now.since(self.wake());
        // A lease that was too short may have ended before the reply arrived.
        if late > STOPPED_AFTER.min(length / 5) && BadLease::too_short(slot).is_none() {
            return format!("this process was stopped for {:.1} s", late.as_secs_f64());
        }
        let why = self
            .unconfirmed
            .clone()
            .unwrap_or_else(|| self.client.faults(now));
        format!("not renewed for {:.1} s: {why}", silence.as_secs_f64())
    }

    fn emit(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// When to poll next.
    fn wake(&self) -> Moment {
        self.client
            .wake()
            .min(self.deadline())
            .min(self.next_look_up())
    }

    /// When something is due without an event.
    fn deadline(&self) -> Moment {
        match self.phase {
            Phase::Requesting { .. } => self.long_poll_since().map_or_else(
                || self.limit(),
                |since| {
                    self.wait_deadline(since).min(if self.waiting_reported {
                        Moment::NEVER
                    } else {
                        since + WAITING_REPORT_DELAY
                    })
                },
            ),
            Phase::Confirming { .. } => self.limit(),
            Phase::Held { renew, .. } => renew.min(self.lease_reported.term),
            Phase::LostKept { renew, .. } => renew,
            Phase::Cancelling { finish, by } => finish.min(by),
            Phase::Releasing { by, .. } => by,
            Phase::Ended(_) | Phase::Done => Moment::NEVER,
        }
    }

    /// What is locked, for messages: `POOL@HOST:PORT`.
    fn name(&self) -> String {
        lock_name(&self.options.pool, &self.options.server)
    }

    /// The holder is unknown: servers do not name it to waiters.
    fn holder(&self) -> Holder {
        Holder {
            lock: self.name(),
            host: None,
            since: None,
            session: None,
        }
    }

    /// Why the server grants nothing.
    fn failure(&self, reply: &Reply) -> Failure {
        match access_refusal(reply, &self.options.server) {
            Some(why) => Failure::Refused {
                what: format!("acquire {}", self.name()),
                why,
            },
            None => Failure::Denied(self.denial(reply)),
        }
    }

    fn denial(&self, reply: &Reply) -> String {
        let Options { pool, host, .. } = &self.options;
        match ServerReply::of(reply, Moment::NEVER) {
            ServerReply::Invalid => match reply.header("X-Lock-Error") {
                Some("unknown pool") => {
                    format!("INVALID: unknown pool {pool:?} (add it to \"pools\" in its config)")
                }
                Some("host not allowed") => format!(
                    "INVALID: the host {host:?} may not use the pool {pool:?} (add it to \"servers\" of the pool)"
                ),
                Some(why) => format!("INVALID: {}", reply::shown(why)),
                None => format!(
                    "INVALID (check that it has a pool {pool:?} and that the host {host:?} may use it)"
                ),
            },
            ServerReply::Revoked => {
                "NO: an operator has revoked the lock of this run (start the run again to request a new one)"
                    .into()
            }
            _ => shown_reply(reply),
        }
    }
}

/// What a command finds in `ZK_FLOCK_LOCK`.
pub fn lock_name(pool: &str, server: &LockServer) -> String {
    format!("{pool}@{server}")
}

/// When a lease ends.
fn lease_end(slot: Slot) -> Moment {
    slot.lease.map_or(Moment::NEVER, Lease::until)
}

#[cfg(test)]
mod tests;

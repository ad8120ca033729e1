//! distributex: a slot in a pool of a lock server that speaks HTTP. Acquires it, holds it, renews
//! its lease where the server grants one, releases it.
//!
//! Each run has an id, which our own server gives the slot to: another run of the same host waits.
//! To the original, and to a server of ours that is older, slots belong to hosts: a host that asks
//! twice has one, and the first run to release it releases it for both.
//!
//! The original server says `YES` and no more. Its slot is ours until we release it, or until it
//! expires there, which it does not tell.
//!
//! A lease that cannot be read, has already ended or is too short to be kept is no lease
//! (`BadLease`): at the start it is a refusal, later it confirms nothing. No reply makes a lease
//! longer but one that says so by a lease of its own, or by none: that is the original's way to say
//! "until released". A server that has granted a lease is believed so only if its token comes
//! along, which ours always sends: a YES with neither is that of something else that answers in its
//! name. It goes on being asked as before, so that it can take the lock back.

mod reply;

use self::reply::{BadLease, Lease, Place, ServerReply, said};
use super::lookups::Lookups;
use super::repeats::Repeats;
use super::{Event, Failure, Holder, Input, Lock, Output, Proof};
use crate::deadlines::Deadlines;
use crate::endpoint::{Endpoint, Found};
use crate::http::client::{HttpClient, HttpEvent};
use crate::http::{Reply, get};
use crate::moment::Moment;
use crate::plan::Host;
use crate::transport;
use std::collections::VecDeque;
use std::time::Duration;

/// How long a server that is away is waited for, by whoever did not say.
pub const OUTAGE: Duration = Duration::from_secs(10);

/// How long an answer may take that nobody has to be waited for: enough for a server with thousands
/// of clients.
const ANSWER: Duration = Duration::from_secs(3);

/// The least time for the answer to a renewal, however little is left of the lease: a sixth of the
/// shortest that can be kept.
const QUICK_ANSWER: Duration = Duration::from_millis(166);

/// A free place is granted sooner: whoever waits longer is told so. The original server takes up to
/// 0.2 s.
const PROMPT: Duration = Duration::from_millis(500);

/// Pause before asking again about a place that was given and taken away, or given anew: a server
/// that does so each time cannot make us spin.
const AGAIN: Duration = Duration::from_millis(100);

/// How long a request to wait is left alone before it is taken back. The original server begins to
/// wait up to 0.2 s after it was asked to; if by then nobody is there any more, it waits for ever,
/// and takes the place for a host that knows nothing of it.
const SETTLING: Duration = Duration::from_millis(250);

/// How long a server may take to say whether it had granted what we take back.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Who looks at the clock so late was stopped.
const MUCH_TOO_LATE: Duration = Duration::from_secs(1);

/// How long giving back a place may take, and how long if it is likely that there is none, or that
/// it is nobody's loss.
const RELEASE: Duration = Duration::from_secs(10);
const IDLE_RELEASE: Duration = Duration::from_secs(1);

/// What to ask for, whom, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's addresses.
    pub addresses: Vec<Endpoint>,
    /// The server as it was given.
    pub server: Host,
    /// The pool.
    pub pool: String,
    /// Whose place it will be: this host's name.
    pub host: String,
    /// The id of this run.
    pub run: String,
    /// The id is that of a dead run, which the server may still have a slot for.
    pub inherited: bool,
    /// Until when to wait for a place; `None`: one try.
    pub wait_until: Option<Moment>,
    /// Until when to wait for a server that is away; `None`: [`OUTAGE`] each time.
    pub reach_by: Option<Moment>,
    /// No other run of this host has a place in the pool, or asks for one.
    pub alone: bool,
    /// TERM to KILL, when nothing presses.
    pub kill_after: Duration,
}

/// What of ours the server may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    Nothing,
    /// A place, perhaps: a request for one may have arrived, and its answer been lost.
    Perhaps,
    /// This place.
    Place(Place),
    /// The same, which was lost already.
    Lost(Place),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// A place is asked for. `left`: what that may have brought so far.
    Asking { left: Left },
    /// There is one, but the server may not know that we know, and little may be left of its time:
    /// it is renewed first. `anew`: it came in place of another that was to be renewed.
    Proving { place: Place, anew: bool },
    /// It is ours, and said to be. `suspended`: for the time being nobody can be asked.
    Held {
        place: Place,
        renew: Moment,
        suspended: bool,
    },
    /// Its lease was not renewed in time. The server may keep it all the same, and goes on being
    /// asked: a process of the command may be impossible to kill, and no other run is to have
    /// the slot beside it. `confirmed`: it has said so since.
    Keeping {
        place: Place,
        confirmed: bool,
        renew: Moment,
    },
    /// It was, or never will be: waiting to be told to let go.
    Settled(Left),
    /// A request that may be granted at any moment is being taken back, from `finish` on.
    Leaving { finish: Moment, by: Moment },
    /// What is left is given back, until then.
    Releasing { by: Moment, left: Left },
    /// All is said.
    Over,
}

/// The machine.
#[derive(Debug)]
pub struct Pool {
    options: Options,
    client: HttpClient,
    phase: Phase,
    believed: Deadlines,
    /// How long after an answer a server that has granted a lease is asked again, if it grants
    /// none any more.
    rhythm: Option<Duration>,
    lookups: Lookups,
    repeats: Repeats,
    /// That we wait has been said.
    told: bool,
    /// What the server said last when it was asked to renew the lock, if that confirmed nothing.
    unconfirmed: Option<String>,
    /// An operator has revoked the lock. It is held until it is released, and not renewed.
    revoked: bool,
    /// The server may have a slot for this run, or is going to.
    unsettled: bool,
    outputs: VecDeque<Output>,
}

impl Lock for Pool {
    fn handle(&mut self, input: Input, now: Moment) {
        // After a pause of the whole process, what the clock says comes before what any peer says.
        self.look_at_the_clock(now);
        match input {
            Input::Transport(event) => self.client.on_transport(event, now),
            Input::Release => self.release(now),
            Input::LookUp(found) => self.relist(found, now),
            Input::Tick | Input::File(_) => {}
        }
        self.listen(now);
    }

    fn poll(&mut self, now: Moment) -> Output {
        self.look_at_the_clock(now);
        self.client.tick(now);
        self.listen(now);
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

impl Pool {
    /// Asking begins with the first `poll`; the program did at `began`.
    pub fn new(options: Options, began: Moment, now: Moment) -> Pool {
        let mut pool = Pool {
            client: HttpClient::new(options.addresses.clone(), began),
            unsettled: options.inherited,
            options,
            phase: Phase::Over,
            believed: Deadlines::NEVER,
            rhythm: None,
            lookups: Lookups::new(now),
            repeats: Repeats::default(),
            told: false,
            unconfirmed: None,
            revoked: false,
            outputs: VecDeque::new(),
        };
        pool.contend(Left::Nothing, now);
        pool
    }

    /// Asks for a place, from the start.
    fn contend(&mut self, left: Left, due: Moment) {
        self.phase = Phase::Asking { left };
        match self.options.wait_until {
            Some(_) => self
                .client
                .ask(self.request("/wait/", None), Duration::MAX, due),
            None => self.client.ask(self.request("/get/", None), ANSWER, due),
        }
    }

    fn prove(&mut self, place: Place, anew: bool, due: Moment) {
        self.phase = Phase::Proving { place, anew };
        self.renew(place, due);
    }

    /// Short leases leave less time for an answer that is lost.
    fn renew(&mut self, place: Place, due: Moment) {
        let patience = place.lease.map_or(ANSWER, |lease| {
            ANSWER.min(lease.length / 6).max(QUICK_ANSWER)
        });
        self.client
            .ask(self.request("/renew/", place.token), patience, due);
    }

    /// From now on the server may have something for this run.
    fn request_sent(&mut self) {
        if let Phase::Asking { left } = &mut self.phase {
            *left = Left::Perhaps;
        }
        self.unsettled = true;
    }

    fn request(&self, path: &str, token: Option<i64>) -> Vec<u8> {
        let token = token.map(|token| token.to_string());
        let mut parameters = vec![
            ("pool", self.options.pool.as_str()),
            ("host", &self.options.host),
            ("run", &self.options.run),
        ];
        parameters.extend(token.iter().map(|token| ("token", token.as_str())));
        get(path, &parameters, &self.options.server.to_string(), false)
    }

    fn listen(&mut self, now: Moment) {
        while let Some(news) = self.client.event() {
            match news {
                HttpEvent::Answered { reply, sent } => {
                    self.note_repeats();
                    self.answered(&reply, sent, now);
                }
                HttpEvent::Failed { server, fault } => {
                    self.failed(&format!("{server}: {fault}"), now);
                }
            }
        }
    }

    /// Has the server's name looked up when that is due.
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
            Phase::Held { place, .. } | Phase::Proving { place, .. } => {
                place.lease.map(|lease| lease.length / 10)
            }
            Phase::Releasing { .. } => Some(Duration::ZERO), // it lasts a few seconds
            Phase::Asking { .. } | Phase::Keeping { .. } => None,
            Phase::Settled(_) | Phase::Leaving { .. } | Phase::Over => return Moment::NEVER,
        };
        self.lookups.due(self.client.unreached(), heartbeat)
    }

    fn relist(&mut self, found: Found, now: Moment) {
        self.lookups.done(now);
        if self.client.relist(found.endpoints, now) {
            self.say(Event::Note(format!(
                "{}: its name has other addresses now",
                self.options.server
            )));
        }
    }

    fn answered(&mut self, reply: &Reply, sent: Moment, now: Moment) {
        use ServerReply::*;
        let answer = ServerReply::of(reply, sent);
        if matches!(
            (self.phase, &answer),
            (_, No) | (Phase::Releasing { .. }, Ok)
        ) {
            self.unsettled = false;
        }
        match (self.phase, answer) {
            (Phase::Asking { .. }, Yes(place)) => self.granted(place, now),
            (Phase::Asking { .. }, BadLease(bad)) => self.refuse(&bad),
            // This run has just begun, so the slot is that of the dead run that it follows: it is
            // released.
            (Phase::Asking { .. }, Revoked) => self.settle(
                Left::Perhaps,
                Event::Failed(Failure::Denied(self.denial(reply))),
            ),
            (Phase::Asking { .. }, No) if self.options.wait_until.is_none() => {
                self.settle(Left::Nothing, Event::Busy(self.holder()));
            }
            (Phase::Asking { .. }, _) => self.settle(
                Left::Nothing,
                Event::Failed(Failure::Denied(self.denial(reply))),
            ),

            (Phase::Proving { place: old, anew }, Yes(place)) => self.proved(old, anew, place, now),
            (Phase::Proving { .. }, BadLease(bad)) => self.refuse(&bad),
            (Phase::Proving { .. }, No) => self.contend(Left::Nothing, now + AGAIN), /* it was, for a moment */
            (Phase::Proving { place: held, .. }, _) => self.settle(
                Left::Place(held),
                Event::Failed(Failure::Denied(self.denial(reply))),
            ),

            (
                Phase::Held {
                    place: old,
                    suspended,
                    ..
                },
                Yes(place),
            ) => self.renewed(old, suspended, place, now),
            (Phase::Held { .. }, BadLease(bad)) => {
                self.suspend(format!("{} {bad}", self.options.server), true, now);
            }
            (Phase::Held { .. }, Revoked) => self.revoke(),
            (Phase::Held { .. }, No) => {
                self.lose(
                    Left::Nothing,
                    format!("{} says that it is not ours any more", self.options.server),
                    now,
                    now,
                );
            }
            // No proof and no denial: whoever answers does not know what it was asked.
            (Phase::Held { .. }, _) => self.suspend(
                format!("{} said {}", self.options.server, said(reply)),
                true,
                now,
            ),

            (Phase::Keeping { .. }, Yes(place)) => self.keep(place, true, now),
            (Phase::Keeping { .. }, No | Revoked) => {
                let why = format!("{} said {}", self.options.server, said(reply));
                self.settle(Left::Nothing, Event::Gone(why));
            }
            (
                Phase::Keeping {
                    place, confirmed, ..
                },
                _,
            ) => self.keep(place, confirmed, now),

            (Phase::Settled(_), Yes(place)) => self.phase = Phase::Settled(Left::Place(place)), /* too late */
            (Phase::Settled(_), BadLease(bad)) => {
                self.phase = Phase::Settled(Left::Place(bad.place()));
            }
            (Phase::Settled(_), _) => self.phase = Phase::Settled(Left::Nothing),
            (Phase::Leaving { .. }, Yes(place)) => self.give_back(Left::Place(place), now),
            (Phase::Leaving { .. }, BadLease(bad)) => self.give_back(Left::Place(bad.place()), now),
            (Phase::Leaving { .. }, _) => self.released(None),
            (Phase::Releasing { .. }, Ok) => self.released(None),
            (Phase::Releasing { left, .. }, _) => {
                self.released(doubt(
                    left,
                    &format!("{} said {}", self.options.server, said(reply)),
                    now,
                ));
            }
            (Phase::Over, _) => {}
        }
    }

    /// An attempt to reach the server has failed; there will be others.
    fn failed(&mut self, why: &str, now: Moment) {
        match self.phase {
            Phase::Held { .. } => self.suspend(why.to_owned(), false, now),
            Phase::Settled(_) => self.client.stop(),
            Phase::Leaving { .. } => self.give_back(Left::Perhaps, now),
            _ => {}
        }
        let lines = self.repeats.failed(why, now);
        for line in lines {
            self.say(Event::Note(line));
        }
    }

    /// The server says that a place is ours. The original leaves it at that. Ours takes it back if
    /// it cannot be sure that we have heard, and what it lends counts from when we asked, which
    /// may be long ago: so it is asked to say so once more, which also tells it that we have heard.
    fn granted(&mut self, place: Place, now: Moment) {
        match place {
            Place {
                token: None,
                lease: None,
            } => self.acquire(place, now),
            _ => self.prove(place, false, now),
        }
    }

    /// It has said so once more. If it speaks of another slot, that has to be confirmed in turn.
    fn proved(&mut self, old: Place, anew: bool, place: Place, now: Moment) {
        if let Some(bad) = BadLease::too_short(place) {
            return self.refuse(&bad);
        }
        match place.lease {
            Some(lease) if now >= lease.deadlines(self.options.kill_after).term => {
                self.prove(place, anew, now);
            }
            _ if place.token != old.token && !anew => self.prove(place, true, now + AGAIN),
            _ => self.acquire(place, now),
        }
    }

    /// The slot may be ours, but there is no time in which a command could run: it is released.
    fn refuse(&mut self, bad: &BadLease) {
        let (name, server, advice) = (self.name(), &self.options.server, bad.advice());
        let why = format!("cannot acquire {name}: {server} {bad}: {advice}");
        self.settle(
            Left::Place(bad.place()),
            Event::Failed(Failure::IncompatibleLock(why)),
        );
    }

    fn acquire(&mut self, place: Place, now: Moment) {
        self.hold(place, false, now);
        self.say(Event::Acquired(Proof {
            lock: self.name(),
            token: place.token,
            session: None,
        }));
    }

    /// The server says again that the slot is ours. A lease that is too short to be kept makes what
    /// is left no longer, but shorter if it ends sooner.
    fn renewed(&mut self, old: Place, suspended: bool, new: Place, now: Moment) {
        if let Some(bad) = BadLease::too_short(new) {
            if ends(new) < ends(old) {
                self.hold(new, suspended, now);
            }
            return self.suspend(format!("{} {bad}", self.options.server), true, now);
        }
        if old.lease.is_some()
            && new
                == (Place {
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
            self.say(Event::Resumed);
        }
        if let (Some(before), Some(after)) = (old.token, new.token)
            && before != after
        {
            let name = self.name();
            self.say(Event::Warn(format!(
                "{name} was taken from us and given back, token {after} in place of {before}: the server has forgotten its holders, and another may have \
                 held it meanwhile"
            )));
        }
    }

    /// An operator has revoked the lock: it is not renewed any more, and released when the command
    /// has ended. Until its lease ends it is ours.
    fn revoke(&mut self) {
        self.revoked = true;
        let why = format!("an operator revoked it at {}", self.options.server);
        self.say(Event::Revoked { why });
    }

    /// Relies on a slot until its lease ends.
    fn hold(&mut self, place: Place, suspended: bool, now: Moment) {
        let deadlines = place.lease.map_or(Deadlines::NEVER, |lease| {
            lease.deadlines(self.options.kill_after)
        });
        if self.believed != deadlines {
            self.believed = deadlines;
            self.say(Event::LeaseUntil(deadlines));
        }
        if let Some(lease) = place.lease {
            self.rhythm = Some(lease.length / 3);
        }
        let renew = place
            .lease
            .map_or_else(|| self.next_question(now), Lease::renewal);
        self.phase = Phase::Held {
            place,
            renew,
            suspended,
        };
    }

    /// When to ask again about a slot that is ours until it is released: never, if the server has
    /// never granted a lease.
    fn next_question(&self, now: Moment) -> Moment {
        self.rhythm.map_or(Moment::NEVER, |pause| now + pause)
    }

    /// The server does not confirm the lock at the moment. `answered`: so it has to be asked again,
    /// in a while.
    fn suspend(&mut self, why: String, answered: bool, now: Moment) {
        let next_question = self.next_question(now);
        self.unconfirmed = answered.then(|| why.clone());
        if let Phase::Held {
            place,
            renew,
            suspended,
        } = &mut self.phase
        {
            if answered {
                *renew = place
                    .lease
                    .map_or(next_question, |lease| now + lease.length / 10);
            }
            if place.lease.is_some() && !std::mem::replace(suspended, true) {
                self.say(Event::Suspended(why));
            }
        }
    }

    /// The lock is lost, and the slot kept for as long as the server says so.
    fn keep(&mut self, place: Place, confirmed: bool, now: Moment) {
        let next = place
            .lease
            .map_or_else(|| self.next_question(now), Lease::renewal);
        let renew = if next > now { next } else { now + AGAIN };
        self.phase = Phase::Keeping {
            place,
            confirmed,
            renew,
        };
    }

    fn settle(&mut self, left: Left, event: Event) {
        self.phase = Phase::Settled(left);
        self.say(event);
    }

    /// The lock is lost. If it was never said to be ours, it is asked for again.
    fn lose(&mut self, left: Left, why: String, kill_deadline: Moment, now: Moment) {
        let queued = self.outputs.len();
        self.outputs
            .retain(|output| !matches!(output, Output::Event(Event::Acquired(_))));
        if self.outputs.len() < queued {
            return self.contend(Left::Perhaps, now + AGAIN);
        }
        self.client.stop();
        match left {
            Left::Lost(place) if !self.revoked => {
                self.phase = Phase::Keeping {
                    place,
                    confirmed: false,
                    renew: now,
                };
                self.say(Event::Lost {
                    why,
                    kill_deadline,
                    gone: false,
                });
            }
            _ => self.settle(
                left,
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
            (Phase::Asking { .. } | Phase::Settled(_), Some(since)) => {
                let finish = now.max(since + SETTLING);
                self.phase = Phase::Leaving {
                    finish,
                    by: finish + LAST_WORD,
                };
            }
            (Phase::Asking { left } | Phase::Settled(left), None) => self.give_back(left, now),
            (Phase::Proving { place, .. } | Phase::Held { place, .. }, _) => {
                self.give_back(Left::Place(place), now);
            }
            (
                Phase::Keeping {
                    place,
                    confirmed: true,
                    ..
                },
                _,
            ) => self.give_back(Left::Place(place), now),
            (Phase::Keeping { place, .. }, _) => self.give_back(Left::Lost(place), now),
            (Phase::Leaving { .. } | Phase::Releasing { .. } | Phase::Over, _) => {}
        }
    }

    fn give_back(&mut self, left: Left, now: Moment) {
        let (token, bound) = match left {
            Left::Nothing => return self.released(None),
            // That of another run on this host might be given back instead.
            Left::Perhaps if !self.options.alone => return self.released(None),
            Left::Perhaps => (None, IDLE_RELEASE),
            Left::Lost(place) => (place.token, IDLE_RELEASE),
            Left::Place(place) => (place.token, RELEASE),
        };
        self.phase = Phase::Releasing {
            by: now + bound,
            left,
        };
        self.client
            .ask(self.request("/release/", token), ANSWER, now);
    }

    fn released(&mut self, doubt: Option<String>) {
        self.client.stop();
        self.phase = Phase::Over;
        self.say(Event::Released { doubt });
    }

    /// Everything that time alone brings about.
    fn look_at_the_clock(&mut self, now: Moment) {
        match self.phase {
            Phase::Asking { left } => match self.kept_waiting() {
                Some(since) => self.look_at_our_patience(left, since, now),
                None if now >= self.limit() => self.give_up(left, now),
                None => {}
            },
            Phase::Proving { place, .. } if now >= self.limit() => {
                self.give_up(Left::Place(place), now);
            }
            Phase::Held { place, .. } if now >= self.believed.term => {
                self.lose(
                    Left::Lost(place),
                    self.why_not_renewed(place, now),
                    self.believed.kill,
                    now,
                );
            }
            Phase::Held {
                place,
                renew,
                suspended,
            } if now >= renew => {
                self.phase = Phase::Held {
                    place,
                    renew: Moment::NEVER,
                    suspended,
                };
                self.renew(place, now);
            }
            Phase::Keeping {
                place,
                confirmed,
                renew,
            } if now >= renew => {
                self.phase = Phase::Keeping {
                    place,
                    confirmed,
                    renew: Moment::NEVER,
                };
                self.renew(place, now);
            }
            Phase::Leaving { by, .. } if now >= by => self.give_back(Left::Perhaps, now),
            Phase::Leaving { finish, by } if now >= finish => {
                self.phase = Phase::Leaving {
                    finish: Moment::NEVER,
                    by,
                };
                self.client.shutdown_write();
            }
            Phase::Releasing { by, left } if now >= by => {
                self.released(doubt(left, &self.client.faults(now), now));
            }
            _ => {}
        }
    }

    /// From when on we wait for the lock, if a server has been asked for it and may take its time
    /// to answer.
    fn kept_waiting(&self) -> Option<Moment> {
        self.options
            .wait_until
            .and_then(|_| self.client.kept_waiting())
    }

    fn look_at_our_patience(&mut self, left: Left, since: Moment, now: Moment) {
        if now >= self.patience_ends(since) {
            self.settle(left, Event::Busy(self.holder()));
        } else if !self.told && now >= since + PROMPT {
            self.told = true;
            self.say(Event::Waiting {
                holder: self.holder(),
                ahead: None,
            });
        }
    }

    /// Not before it is the lock that we wait for: else it is the server that is away, and not the
    /// lock that is taken.
    fn patience_ends(&self, waiting_since: Moment) -> Moment {
        self.options
            .wait_until
            .unwrap_or(Moment::NEVER)
            .max(waiting_since)
    }

    /// Until when a server that is away is waited for.
    fn limit(&self) -> Moment {
        self.options
            .reach_by
            .or_else(|| self.client.unreachable_since().map(|since| since + OUTAGE))
            .unwrap_or(Moment::NEVER)
    }

    /// No attempt will fail for the same reason any more.
    fn note_repeats(&mut self) {
        let lines = self.repeats.end();
        for line in lines {
            self.say(Event::Note(line));
        }
    }

    fn give_up(&mut self, left: Left, now: Moment) {
        self.note_repeats();
        let failure = Failure::Unreachable(self.client.faults(now));
        self.client.stop();
        self.settle(left, Event::Failed(failure));
    }

    fn why_not_renewed(&self, place: Place, now: Moment) -> String {
        let (length, silence) = place.lease.map_or_else(Default::default, |lease| {
            (lease.length, now.since(lease.sent))
        });
        if self.revoked {
            return format!(
                "an operator revoked it at {}, and its lease ended before the command did",
                self.options.server
            );
        }
        let late = now.since(self.wake());
        // The deadline of a lease that was too short may have passed before it was told.
        if late > MUCH_TOO_LATE.min(length / 5) && BadLease::too_short(place).is_none() {
            return format!("this process was stopped for {:.1} s", late.as_secs_f64());
        }
        let why = self
            .unconfirmed
            .clone()
            .unwrap_or_else(|| self.client.faults(now));
        format!("not renewed for {:.1} s: {why}", silence.as_secs_f64())
    }

    fn say(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// When to look at the clock next.
    fn wake(&self) -> Moment {
        self.client
            .wake()
            .min(self.deadline())
            .min(self.next_look_up())
    }

    /// When the clock alone brings about something next.
    fn deadline(&self) -> Moment {
        match self.phase {
            Phase::Asking { .. } => self.kept_waiting().map_or_else(
                || self.limit(),
                |since| {
                    self.patience_ends(since).min(if self.told {
                        Moment::NEVER
                    } else {
                        since + PROMPT
                    })
                },
            ),
            Phase::Proving { .. } => self.limit(),
            Phase::Held { renew, .. } => renew.min(self.believed.term),
            Phase::Keeping { renew, .. } => renew,
            Phase::Leaving { finish, by } => finish.min(by),
            Phase::Releasing { by, .. } => by,
            Phase::Settled(_) | Phase::Over => Moment::NEVER,
        }
    }

    /// What is locked, for people: `POOL@HOST:PORT`.
    fn name(&self) -> String {
        format!("{}@{}", self.options.pool, self.options.server)
    }

    /// Servers say nothing of holders to those who wait.
    fn holder(&self) -> Holder {
        Holder {
            lock: self.name(),
            host: None,
            since: None,
            session: None,
        }
    }

    fn denial(&self, reply: &Reply) -> String {
        let Options { pool, host, .. } = &self.options;
        match ServerReply::of(reply, Moment::NEVER) {
            ServerReply::Invalid => {
                format!("INVALID (does it have a pool {pool:?}, and may {host:?} use it?)")
            }
            ServerReply::Revoked => {
                "NO: an operator has revoked the lock of this run (the next run asks for a new one)"
                    .into()
            }
            _ => said(reply),
        }
    }
}

/// When a lease ends.
fn ends(place: Place) -> Moment {
    place.lease.map_or(Moment::NEVER, Lease::until)
}

/// What others may still wait for, and why.
fn doubt(left: Left, why: &str, now: Moment) -> Option<String> {
    let Left::Place(place) = left else {
        return None;
    };
    let within = place.lease.map_or_else(String::new, |lease| {
        format!(", within {:.0} s", lease.free_by().since(now).as_secs_f64())
    });
    Some(format!(
        "{why}: the lock is free when it has expired there{within}"
    ))
}

#[cfg(test)]
mod tests;

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
    pub patience: Option<Moment>,
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
        match self.options.patience {
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
            (Phase::Asking { .. }, No) if self.options.patience.is_none() => {
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
            .patience
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
            .patience
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
mod tests {
    use super::*;
    use crate::http::{Request, Terms};
    use proptest::prelude::*;
    use std::net::SocketAddr;

    const SECOND: Duration = Duration::from_secs(1);
    const KILL_AFTER: Duration = Duration::from_secs(5);
    const LOCK: &str = "p@dx:9889";

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_secs(1000) + Duration::from_millis(milliseconds))
    }

    /// What a server does with one connection.
    #[derive(Clone, Copy, Debug)]
    enum Does {
        /// Nobody listens.
        Refuses,
        /// Packets to it get no answer.
        IsOff,
        /// Answers so many ms after the request, as the original does.
        Says(u64, &'static str),
        /// As our own does: place number N, lent for so many ms.
        Lends(u64, i64, u64),
        /// As our own does, in these words: slot number N, and the value of `X-Lock-Expires`.
        Tells(u64, i64, &'static str),
        /// As our own does where a lock is held until it is released.
        Gives(u64, i64),
        /// NO, because an operator has revoked the lock.
        Revokes(u64),
        /// Takes the request, and ends the connection so many ms later.
        HangsUp(u64),
        /// The same, not in the way of TCP.
        Resets(u64),
        /// Says nothing, and hangs up when the other side has finished.
        Waits,
        /// Says nothing, and ends nothing.
        Freezes,
    }
    use Does::*;

    /// A lock and a server with a script: a line for each connection, the last one for all that
    /// follow.
    struct Play {
        lock: Pool,
        script: Vec<Does>,
        now: Moment,
        /// The connection that is there, what becomes of it, and when.
        open: Option<(Does, Moment)>,
        connections: usize,
        run: String,
        /// What was asked: `wait`, `release 7`.
        asked: Vec<String>,
        said: Vec<Output>,
        /// When names were to be looked up.
        lookups: Vec<Moment>,
    }

    impl Play {
        fn new(options: Options, script: &[Does]) -> Play {
            let run = options.run.clone();
            let lock = Pool::new(options, at(0), at(0));
            Play {
                lock,
                script: script.to_vec(),
                now: at(0),
                open: None,
                connections: 0,
                run,
                asked: vec![],
                said: vec![],
                lookups: vec![],
            }
        }

        /// Lets time go on to that moment, and all that happens until then happen.
        fn to(&mut self, moment: Moment) -> &mut Play {
            loop {
                let wake = self.drain();
                let next = wake.min(self.open.map_or(Moment::NEVER, |(_, due)| due));
                if next > moment {
                    self.now = moment;
                    return self;
                }
                self.now = self.now.max(next);
                self.lock.handle(Input::Tick, self.now);
                if let Some((does, _)) = self.open.filter(|(_, due)| *due <= self.now) {
                    self.open = None;
                    self.happen(does);
                }
            }
        }

        fn release(&mut self) -> &mut Play {
            self.lock.handle(Input::Release, self.now);
            self.drain();
            self
        }

        fn drain(&mut self) -> Moment {
            for _ in 0..1000 {
                match self.lock.poll(self.now) {
                    Output::Wait(until) => return until,
                    Output::Transport(transport::Output::Connect(address)) => self.connect(address),
                    Output::Transport(transport::Output::Send(bytes)) => self.hear(&bytes),
                    Output::Transport(transport::Output::ShutdownWrite) => {
                        if let Some((Waits, due)) = &mut self.open {
                            *due = self.now + Duration::from_millis(1);
                        }
                    }
                    Output::Transport(transport::Output::Close | transport::Output::Reset) => {
                        self.open = None;
                    }
                    Output::LookUp => self.lookups.push(self.now),
                    Output::Event(Event::Note(_)) => {}
                    output => self.said.push(output),
                }
            }
            panic!("does not come to rest: {:?}", self.lock);
        }

        fn connect(&mut self, _: SocketAddr) {
            let does = self.script[self.connections.min(self.script.len() - 1)];
            self.connections += 1;
            self.open = None;
            match does {
                Refuses => self.lock.handle(
                    Input::Transport(transport::Event::Disconnected(Some(
                        "connection refused".into(),
                    ))),
                    self.now,
                ),
                IsOff => {}
                _ => {
                    self.open = Some((does, Moment::NEVER));
                    self.lock
                        .handle(Input::Transport(transport::Event::Connected), self.now);
                }
            }
        }

        fn hear(&mut self, bytes: &[u8]) {
            let (request, length) = Request::read(bytes).unwrap().unwrap();
            let parameter = |name| {
                request
                    .parameter(name)
                    .map(|value| String::from_utf8(value).unwrap())
            };
            assert_eq!(
                (
                    length,
                    parameter("pool").as_deref(),
                    parameter("host").as_deref()
                ),
                (bytes.len(), Some("p"), Some("web1"))
            );
            assert_eq!(
                parameter("run").as_deref(),
                Some(self.run.as_str()),
                "of every request"
            );
            let token = parameter("token").map_or_else(String::new, |token| format!(" {token}"));
            self.asked
                .push(request.path.trim_matches('/').to_owned() + &token);
            let (does, due) = self.open.as_mut().expect("there is a connection");
            if let Says(ms, _)
            | Lends(ms, ..)
            | Tells(ms, ..)
            | Gives(ms, _)
            | Revokes(ms)
            | HangsUp(ms)
            | Resets(ms) = *does
            {
                *due = self.now + Duration::from_millis(ms);
            }
        }

        fn happen(&mut self, does: Does) {
            let mut bytes = Vec::new();
            let yes = |token| Reply::new(200, "text/html", "YES").with("X-Lock-Token", token);
            match does {
                Says(_, word) => {
                    Reply::new(200, "text/html", word).write(Terms::UNREADABLE, "", &mut bytes);
                }
                Lends(_, token, ms) => {
                    yes(token)
                        .with("X-Lock-Expires", Duration::from_millis(ms).as_secs_f64())
                        .write(Terms::UNREADABLE, "", &mut bytes);
                }
                Tells(_, token, expires) => yes(token).with("X-Lock-Expires", expires).write(
                    Terms::UNREADABLE,
                    "",
                    &mut bytes,
                ),
                Gives(_, token) => yes(token).write(Terms::UNREADABLE, "", &mut bytes),
                Revokes(_) => {
                    Reply::new(200, "text/html", "NO")
                        .with("X-Lock-Revoked", 1)
                        .write(Terms::UNREADABLE, "", &mut bytes);
                }
                Resets(_) => self.lock.handle(
                    Input::Transport(transport::Event::Disconnected(Some(
                        "connection reset by peer".into(),
                    ))),
                    self.now,
                ),
                _ => self.lock.handle(
                    Input::Transport(transport::Event::Disconnected(None)),
                    self.now,
                ),
            }
            if !bytes.is_empty() {
                self.lock.handle(
                    Input::Transport(transport::Event::Received(&bytes)),
                    self.now,
                );
                self.lock.handle(
                    Input::Transport(transport::Event::Disconnected(None)),
                    self.now,
                );
            }
        }

        #[track_caller]
        fn said(&mut self, expected: &[Output]) -> &mut Play {
            assert_eq!(
                std::mem::take(&mut self.said),
                expected,
                "at {:?}",
                self.now.since(at(0))
            );
            self
        }

        #[track_caller]
        fn asked(&mut self, expected: &[&str]) -> &mut Play {
            assert_eq!(std::mem::take(&mut self.asked), expected);
            self
        }
    }

    fn options() -> Options {
        Options {
            addresses: vec!["dx:9889".into()],
            server: Host {
                name: "dx".into(),
                port: 9889,
            },
            pool: "p".into(),
            host: "web1".into(),
            run: "5f".repeat(16),
            inherited: false,
            patience: Some(Moment::NEVER),
            reach_by: None,
            alone: true,
            kill_after: KILL_AFTER,
        }
    }

    /// With `-w`.
    fn patient(wait: u64) -> Options {
        let reach_by = Some(at(wait).max(at(0) + OUTAGE));
        Options {
            patience: Some(at(wait)).filter(|_| wait > 0),
            reach_by,
            ..options()
        }
    }

    fn acquired(token: Option<i64>) -> Output {
        Output::Event(Event::Acquired(Proof {
            lock: LOCK.into(),
            token,
            session: None,
        }))
    }

    fn believe(until: Moment) -> Output {
        Output::Event(Event::LeaseUntil(Deadlines {
            term: until.before(Duration::from_millis(1200)),
            kill: until.before(Duration::from_millis(200)),
        }))
    }

    fn holder() -> Holder {
        Holder {
            lock: LOCK.into(),
            host: None,
            since: None,
            session: None,
        }
    }

    fn waiting() -> Output {
        Output::Event(Event::Waiting {
            holder: holder(),
            ahead: None,
        })
    }

    fn unreachable(why: &str) -> Output {
        Output::Event(Event::Failed(Failure::Unreachable(why.into())))
    }

    const RELEASED: Output = Output::Event(Event::Released { doubt: None });

    const DAY: u64 = 86_400_000;

    #[test]
    fn what_the_original_server_gives_is_ours_until_it_is_given_back() {
        let mut play = Play::new(options(), &[Says(180, "YES"), Says(1, "OK")]);
        play.to(at(DAY)).said(&[acquired(None)]).asked(&["wait"]);
        play.release()
            .to(at(DAY + 1))
            .said(&[RELEASED])
            .asked(&["release"]);
        assert_eq!(play.drain(), Moment::NEVER);
    }

    #[test]
    fn what_is_lent_is_renewed_at_once_and_at_each_third_and_given_back_by_its_number() {
        let mut play = Play::new(
            options(),
            &[
                Lends(0, 7, 30_000),
                Lends(0, 7, 30_000),
                Lends(5, 7, 30_000),
                Lends(5, 7, 30_000),
                Says(1, "OK"),
            ],
        );
        play.to(at(9_999))
            .said(&[believe(at(30_000)), acquired(Some(7))])
            .asked(&["wait", "renew 7"]);
        play.to(at(19_999))
            .said(&[believe(at(40_000))])
            .asked(&["renew 7"]);
        play.to(at(25_000))
            .said(&[believe(at(50_000))])
            .asked(&["renew 7"]);
        play.release()
            .to(at(25_001))
            .said(&[RELEASED])
            .asked(&["release 7"]);
    }

    #[test]
    fn one_try_is_one_answer() {
        let busy = Output::Event(Event::Busy(holder()));
        let denied = |said: &str| Output::Event(Event::Failed(Failure::Denied(said.into())));
        for (word, outcome) in [
            ("NO", busy),
            (
                "INVALID",
                denied("INVALID (does it have a pool \"p\", and may \"web1\" use it?)"),
            ),
            ("maybe", denied("maybe")),
            ("", denied("nothing")),
        ] {
            let mut play = Play::new(patient(0), &[Says(1, word)]);
            play.to(at(100))
                .said(&[outcome])
                .asked(&["get"])
                .release()
                .said(&[RELEASED])
                .asked(&[]);
            assert_eq!(play.connections, 1, "nothing is left to be given back");
        }
        let mut play = Play::new(patient(0), &[Says(1, "YES"), Says(1, "OK")]);
        play.to(at(100))
            .said(&[acquired(None)])
            .release()
            .to(at(200))
            .said(&[RELEASED])
            .asked(&["get", "release"]);
    }

    #[test]
    fn who_waits_hears_anything_but_yes_as_an_end() {
        let mut play = Play::new(options(), &[Says(1, "NO")]);
        play.to(at(100))
            .said(&[Output::Event(Event::Failed(Failure::Denied("NO".into())))]);
    }

    #[test]
    fn who_is_kept_waiting_is_told_so_once() {
        let mut play = Play::new(options(), &[HangsUp(5000), Waits]);
        play.to(at(499))
            .said(&[])
            .to(at(500))
            .said(&[waiting()])
            .to(at(DAY))
            .said(&[])
            .asked(&["wait", "wait"]);
    }

    #[test]
    fn what_our_own_server_gives_is_ours_when_it_knows_that_we_have_heard() {
        for came in [1, 3_600_000] {
            let mut play = Play::new(
                patient(DAY),
                &[Lends(came, 7, 30_000), Lends(5, 7, 30_000), Waits],
            );
            play.to(at(came + 4))
                .said
                .retain(|output| *output != waiting());
            play.said(&[]).asked(&["wait", "renew 7"]);
            play.to(at(came + 5))
                .said(&[believe(at(came + 30_000)), acquired(Some(7))])
                .asked(&[]);
        }
    }

    /// The answer that brings another number is itself one that the server may think we have not
    /// heard. Servers that share a memcached count each for itself, so another number may come
    /// each time.
    #[test]
    fn another_number_is_to_be_proved_like_the_first_but_once() {
        for then in [8, 9] {
            let mut play = Play::new(
                options(),
                &[
                    Lends(0, 7, 30_000),
                    Lends(0, 8, 30_000),
                    Lends(5, then, 30_000),
                    Waits,
                ],
            );
            play.to(at(105))
                .said(&[believe(at(30_100)), acquired(Some(then))])
                .asked(&["wait", "renew 7", "renew 8"]);
        }
    }

    #[test]
    fn what_our_own_server_takes_back_before_it_knows_was_never_ours() {
        let mut play = Play::new(
            options(),
            &[Lends(1, 7, 30_000), Refuses, Says(1, "NO"), Waits],
        );
        play.to(at(DAY))
            .said(&[waiting()])
            .asked(&["wait", "renew 7", "wait"]);
    }

    #[test]
    fn what_is_not_ours_any_more_when_it_is_to_be_proved_is_asked_for_again() {
        let mut play = Play::new(
            options(),
            &[
                Lends(20_000, 7, 30_000),
                Says(1, "NO"),
                Lends(5, 9, 30_000),
                Lends(5, 9, 30_000),
                Says(1, "OK"),
            ],
        );
        play.to(at(20_111))
            .said(&[waiting(), believe(at(50_106)), acquired(Some(9))])
            .asked(&["wait", "renew 7", "wait", "renew 9"]);
        play.release().to(at(20_120)).asked(&["release 9"]);
    }

    fn refused(why: &str, advice: &str) -> Output {
        Output::Event(Event::Failed(Failure::IncompatibleLock(format!(
            "cannot acquire {LOCK}: dx:9889 said \"X-Lock-Expires: {why}: {advice}"
        ))))
    }

    const RAISE: &str = "raise \"expire\" of the pool on the server, to 2 seconds or more";

    #[test]
    fn a_lease_that_is_too_short_is_refused_and_given_back() {
        let mut play = Play::new(
            options(),
            &[Lends(0, 7, 900), Lends(0, 7, 900), Says(1, "OK")],
        );
        let why = "0.9\", which is too short a lease to hold the lock safely";
        play.to(at(100))
            .said(&[refused(why, RAISE)])
            .asked(&["wait", "renew 7"]);
        play.release()
            .to(at(200))
            .said(&[RELEASED])
            .asked(&["release 7"]);
    }

    /// What was told when the slot was granted may be the last of another grant: what counts is
    /// what the server says when it is asked again.
    #[test]
    fn a_lease_that_has_nearly_ended_is_renewed_first() {
        let mut play = Play::new(options(), &[Lends(0, 7, 300), Lends(0, 7, 30_000), Waits]);
        play.to(at(100))
            .said(&[believe(at(30_000)), acquired(Some(7))])
            .asked(&["wait", "renew 7"]);

        let mut play = Play::new(
            options(),
            &[Tells(0, 7, "1e-9"), Lends(100, 7, 30_000), Waits],
        );
        play.to(at(200))
            .said(&[believe(at(30_000)), acquired(Some(7))])
            .asked(&["wait", "renew 7"]);
    }

    /// Every row was a lock that never ended.
    const NO_LEASES: [(&str, &str, &str); 7] = [
        ("0", "which is a lease that has already ended", RAISE),
        ("-5", "which is a lease that has already ended", RAISE),
        ("nan", "which is not a number of seconds", CHECK),
        ("inf", "which is not a number of seconds", CHECK),
        ("1e300", "which is not a number of seconds", CHECK),
        ("30s", "which is not a number of seconds", CHECK),
        ("", "which is not a number of seconds", CHECK),
    ];
    const CHECK: &str = "check the lock server and any proxy in front of it";

    #[test]
    fn a_lease_that_is_none_is_a_refusal_and_is_given_back() {
        for (expires, why, advice) in NO_LEASES {
            for first in [0, 1] {
                let script = [
                    &[Lends(0, 7, 30_000)][..first],
                    &[Tells(1, 7, expires), Says(1, "OK")],
                ]
                .concat();
                for (options, asks) in [(options(), "wait"), (patient(0), "get")] {
                    let mut play = Play::new(options, &script);
                    play.to(at(DAY))
                        .said(&[refused(&format!("{expires}\", {why}"), advice)])
                        .asked(&[asks, "renew 7"][..=first]);
                    play.release()
                        .to(at(DAY + 10))
                        .said(&[RELEASED])
                        .asked(&["release 7"]);
                }
            }
        }
    }

    #[test]
    fn a_renewal_without_a_lease_that_can_be_kept_leaves_the_old_one_as_it_was() {
        for (expires, why, _) in NO_LEASES {
            let mut play = Play::new(
                options(),
                &[
                    Lends(0, 7, 30_000),
                    Lends(0, 7, 30_000),
                    Tells(5, 7, expires),
                ],
            );
            play.to(at(28_799)).said(&[
                believe(at(30_000)),
                acquired(Some(7)),
                Output::Event(Event::Suspended(format!(
                    "dx:9889 said \"X-Lock-Expires: {expires}\", {why}"
                ))),
            ]);
            assert!(play.asked.len() > 3, "it is asked again: {:?}", play.asked);
            let why = format!(
                "not renewed for 28.8 s: dx:9889 said \"X-Lock-Expires: {expires}\", {why}"
            );
            play.to(at(28_800)).said(&[Output::Event(Event::Lost {
                why,
                kill_deadline: at(29_800),
                gone: false,
            })]);

            let mut play = Play::new(
                options(),
                &[
                    Lends(0, 7, 30_000),
                    Lends(0, 7, 30_000),
                    Tells(5, 7, expires),
                    Lends(5, 7, 30_000),
                    Waits,
                ],
            );
            play.to(at(10_005)).said.clear();
            play.to(at(22_000))
                .said(&[believe(at(43_005)), Output::Event(Event::Resumed)]);
        }
    }

    /// It is what the server says, and it ends sooner; but it is not kept up by others of its kind.
    #[test]
    fn a_renewal_that_is_too_short_can_only_shorten_what_is_left() {
        let mut play = Play::new(
            options(),
            &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Lends(5, 7, 800)],
        );
        play.to(at(9_999))
            .said(&[believe(at(30_000)), acquired(Some(7))]);
        let short = Lease {
            length: Duration::from_millis(800),
            sent: at(10_000),
        }
        .deadlines(KILL_AFTER);
        let why = "dx:9889 said \"X-Lock-Expires: 0.8\", which is too short a lease to hold the lock safely";
        play.to(at(10_400)).said(&[
            Output::Event(Event::LeaseUntil(short)),
            Output::Event(Event::Suspended(why.into())),
        ]);
        play.to(short.term);
        assert!(
            matches!(play.said[..], [Output::Event(Event::Lost { kill_deadline, .. })] if kill_deadline == short.kill),
            "{:?}",
            play.said
        );

        let mut play = Play::new(
            options(),
            &[
                Lends(0, 7, 30_000),
                Lends(0, 7, 30_000),
                Tells(500, 7, "0.1"),
            ],
        );
        play.to(at(9_999)).said.clear();
        play.to(at(10_500));
        let [.., Output::Event(Event::Lost { why, .. })] = &play.said[..] else {
            panic!("{:?}", play.said)
        };
        assert!(why.contains("too short a lease"), "{why}");

        let mut play = Play::new(
            options(),
            &[
                Lends(0, 7, 1_500),
                Lends(0, 7, 1_500),
                IsOff,
                IsOff,
                IsOff,
                Lends(5, 7, 900),
            ],
        );
        let first = Lease {
            length: Duration::from_millis(1_500),
            sent: at(0),
        }
        .deadlines(KILL_AFTER);
        play.to(first.term)
            .said
            .retain(|output| !matches!(output, Output::Event(Event::Suspended(_))));
        assert!(
            matches!(&play.said[..], [Output::Event(Event::LeaseUntil(_)), Output::Event(Event::Acquired(_)), Output::Event(Event::Lost { kill_deadline, .. })] if *kill_deadline == first.kill)
        );
    }

    #[test]
    fn an_outage_is_ridden_out_as_long_as_the_lease_lasts() {
        let mut play = Play::new(
            options(),
            &[
                Lends(0, 7, 30_000),
                Lends(0, 7, 30_000),
                Refuses,
                HangsUp(5),
                Freezes,
                IsOff,
                Lends(5, 7, 30_000),
            ],
        );
        play.to(at(9_999))
            .said(&[believe(at(30_000)), acquired(Some(7))]);
        play.to(at(15_000)).said(&[Output::Event(Event::Suspended(
            "dx:9889: connection refused".into(),
        ))]);
        play.to(at(27_000))
            .said(&[believe(at(47_505)), Output::Event(Event::Resumed)])
            .asked(&["wait", "renew 7", "renew 7", "renew 7", "renew 7"]);
    }

    #[test]
    fn a_short_lease_does_not_wait_long_for_an_answer() {
        let mut play = Play::new(
            options(),
            &[
                Lends(0, 7, 3_000),
                Lends(0, 7, 3_000),
                Freezes,
                IsOff,
                Lends(5, 7, 3_000),
            ],
        );
        let until = |ms| {
            Output::Event(Event::LeaseUntil(
                Lease {
                    length: 3 * SECOND,
                    sent: at(ms),
                }
                .deadlines(KILL_AFTER),
            ))
        };
        play.to(at(999)).said(&[until(0), acquired(Some(7))]);
        play.to(at(2_500)).said(&[
            Output::Event(Event::Suspended("dx:9889: no answer for 0.5 s".into())),
            until(2_300),
            Output::Event(Event::Resumed),
        ]);
    }

    #[test]
    fn a_lease_that_runs_out_is_lost_in_time_and_not_given_back_for_long() {
        let mut play = Play::new(
            options(),
            &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Refuses],
        );
        play.to(at(28_799)).said(&[
            believe(at(30_000)),
            acquired(Some(7)),
            Output::Event(Event::Suspended("dx:9889: connection refused".into())),
        ]);
        let why = "not renewed for 28.8 s: dx:9889: connection refused";
        play.to(at(28_800)).said(&[Output::Event(Event::Lost {
            why: why.into(),
            kill_deadline: at(29_800),
            gone: false,
        })]);
        // The command dies before the lease ends, as a rule.
        play.to(at(29_500)).said(&[]);
        play.release()
            .to(at(30_499))
            .said(&[])
            .to(at(30_500))
            .said(&[RELEASED]);
    }

    /// Something of the command cannot be killed: no other run is to have the slot as long as the
    /// server keeps it.
    #[test]
    fn a_lock_that_is_lost_is_renewed_until_it_is_released_or_the_server_says_no() {
        let lost = |play: &mut Play| {
            play.to(at(28_800));
            assert!(
                matches!(play.said[..], [.., Output::Event(Event::Lost { kill_deadline, gone: false, .. })] if kill_deadline == at(29_800)),
                "{:?}",
                play.said
            );
            play.said.clear();
            play.asked.clear();
        };
        // The server is back in time: the slot is held, though no command may run under it, and is
        // released by its token.
        let script = [
            &[Lends(0, 7, 30_000); 2][..],
            &[Refuses; 24],
            &[Lends(5, 7, 30_000), Lends(5, 7, 30_000), Says(1, "OK")],
        ]
        .concat();
        let mut play = Play::new(options(), &script);
        lost(&mut play);
        play.to(at(50_000)).said(&[]).asked(&["renew 7", "renew 7"]);
        play.release()
            .to(at(50_001))
            .said(&[RELEASED])
            .asked(&["release 7"]);
        // Another run has it.
        for no in [Says(5, "NO"), Revokes(5)] {
            let script = [
                &[Lends(0, 7, 30_000); 2][..],
                &[Refuses; 24],
                &[Says(5, "INVALID"), Tells(5, 7, "nan"), no],
            ]
            .concat();
            let mut play = Play::new(options(), &script);
            lost(&mut play);
            play.to(at(60_000))
                .said(&[Output::Event(Event::Gone("dx:9889 said NO".into()))])
                .asked(&["renew 7", "renew 7", "renew 7"]);
            play.release().said(&[RELEASED]).asked(&[]);
        }
    }

    #[test]
    fn names_are_looked_up_again_while_the_server_is_unreachable() {
        // A waiter: after 1 s, again 1 s after the answer, then after 2 s.
        let mut play = Play::new(patient(600_000), &[Refuses]);
        play.to(at(1_500));
        assert_eq!(play.lookups, [at(1_000)]);
        for (answered, next) in [
            (1_500, 2_500),
            (2_500, 4_500),
            (4_500, 8_500),
            (8_500, 13_500),
        ] {
            play.lock
                .handle(Input::LookUp(Found::default()), at(answered));
            play.to(at(next));
            assert_eq!(play.lookups.last(), Some(&at(next)));
        }
        // A holder, more often.
        let mut play = Play::new(
            options(),
            &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Refuses],
        );
        play.to(at(10_500));
        assert_eq!(play.lookups, []);
        play.to(at(11_000));
        assert_eq!(play.lookups, [at(11_000)]);
        for second in 11..15 {
            play.lock
                .handle(Input::LookUp(Found::default()), at(second * 1_000));
            play.to(at((second + 1) * 1_000));
        }
        assert_eq!(play.lookups.len(), 5, "{:?}", play.lookups);
        // One that is kept waiting: never.
        let mut play = Play::new(patient(600_000), &[Waits]);
        play.to(at(500_000));
        assert_eq!(play.lookups, []);
    }

    #[test]
    fn who_was_stopped_for_too_long_says_so() {
        let mut play = Play::new(
            options(),
            &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Waits],
        );
        play.to(at(9_000))
            .said(&[believe(at(30_000)), acquired(Some(7))]);
        play.now = at(60_000);
        play.lock.handle(Input::Tick, play.now);
        play.drain();
        play.said(&[Output::Event(Event::Lost {
            why: "this process was stopped for 50.0 s".into(),
            kill_deadline: at(29_800),
            gone: false,
        })]);
    }

    #[test]
    fn who_was_stopped_while_awake_says_so_too() {
        let mut play = Play::new(
            options(),
            &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Waits],
        );
        play.to(at(9_000))
            .said(&[believe(at(30_000)), acquired(Some(7))]);
        play.lock.handle(Input::Tick, at(9_000));
        play.lock.handle(Input::Tick, at(60_000));
        play.drain();
        play.said(&[Output::Event(Event::Lost {
            why: "this process was stopped for 50.0 s".into(),
            kill_deadline: at(29_800),
            gone: false,
        })]);
    }

    #[test]
    fn a_place_that_the_server_has_taken_away_is_lost_at_once() {
        let mut play = Play::new(
            options(),
            &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Says(5, "NO")],
        );
        play.to(at(9_999))
            .said(&[believe(at(30_000)), acquired(Some(7))]);
        let why = "dx:9889 says that it is not ours any more";
        play.to(at(10_005)).said(&[Output::Event(Event::Lost {
            why: why.into(),
            kill_deadline: at(10_005),
            gone: true,
        })]);
        play.release()
            .said(&[RELEASED])
            .asked(&["wait", "renew 7", "renew 7"]);
    }

    #[test]
    fn another_number_is_a_server_that_has_forgotten_us_and_a_warning() {
        let mut play = Play::new(
            options(),
            &[
                Lends(0, 7, 30_000),
                Lends(0, 7, 30_000),
                Lends(5, 8, 30_000),
                Says(1, "OK"),
            ],
        );
        play.to(at(10_005));
        assert!(
            matches!(&play.said[..], [.., Output::Event(Event::Warn(text))] if text.contains("token 8 in place of 7")),
            "{:?}",
            play.said
        );
        play.release()
            .to(at(10_010))
            .asked(&["wait", "renew 7", "renew 7", "release 8"]);
    }

    #[test]
    fn an_answer_that_is_none_proves_nothing_and_denies_nothing() {
        let mut play = Play::new(
            options(),
            &[
                Lends(0, 7, 30_000),
                Lends(0, 7, 30_000),
                Says(5, "INVALID"),
                Says(5, "<html>"),
                Lends(5, 7, 30_000),
                Waits,
            ],
        );
        play.to(at(9_999))
            .said(&[believe(at(30_000)), acquired(Some(7))]);
        play.to(at(15_000)).said(&[Output::Event(Event::Suspended(
            "dx:9889 said INVALID".into(),
        ))]);
        play.to(at(17_000))
            .said(&[believe(at(46_010)), Output::Event(Event::Resumed)]);
    }

    /// The server has another config now. It may get another one, or an operator may revoke the
    /// lock.
    #[test]
    fn a_lock_that_has_no_lease_any_more_is_ours_until_released_and_still_asked_about() {
        let script = [
            Lends(0, 7, 30_000),
            Lends(0, 7, 30_000),
            Gives(5, 7),
            Gives(5, 7),
            Says(5, "INVALID"),
            Freezes,
            Refuses,
            Revokes(5),
            Says(1, "OK"),
        ];
        let mut play = Play::new(options(), &script);
        play.to(at(19_999)).said(&[
            believe(at(30_000)),
            acquired(Some(7)),
            Output::Event(Event::LeaseUntil(Deadlines::NEVER)),
        ]);
        play.to(at(60_000)).said(&[Output::Event(Event::Revoked {
            why: "an operator revoked it at dx:9889".into(),
        })]);
        assert_eq!(std::mem::take(&mut play.asked)[1..], ["renew 7"; 6]);
        play.release()
            .to(at(DAY + 1))
            .said(&[RELEASED])
            .asked(&["release 7"]);
    }

    #[test]
    fn a_lock_that_gets_a_lease_again_is_held_by_that_lease() {
        let mut play = Play::new(
            options(),
            &[
                Lends(0, 7, 30_000),
                Lends(0, 7, 30_000),
                Gives(5, 7),
                Lends(5, 7, 15_000),
                Waits,
            ],
        );
        play.to(at(10_005)).said(&[
            believe(at(30_000)),
            acquired(Some(7)),
            Output::Event(Event::LeaseUntil(Deadlines::NEVER)),
        ]);
        play.to(at(20_100)).said(&[believe(at(35_005))]);
    }

    /// The original says no more than YES, but it does not know how to renew: whatever says so has
    /// granted us nothing.
    #[test]
    fn a_yes_without_the_token_and_lease_that_came_before_confirms_nothing() {
        let mut play = Play::new(
            options(),
            &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Says(5, "YES")],
        );
        let why = "dx:9889 said YES without the token and the lease that it said before";
        play.to(at(28_799)).said(&[
            believe(at(30_000)),
            acquired(Some(7)),
            Output::Event(Event::Suspended(why.into())),
        ]);
        play.to(at(28_800));
        assert!(
            matches!(play.said[..], [Output::Event(Event::Lost { kill_deadline, .. })] if kill_deadline == at(29_800)),
            "{:?}",
            play.said
        );
    }

    fn revoked() -> Output {
        Output::Event(Event::Revoked {
            why: "an operator revoked it at dx:9889".into(),
        })
    }

    #[test]
    fn a_lock_that_was_revoked_is_ours_until_it_is_released_and_not_renewed() {
        let mut play = Play::new(
            options(),
            &[
                Lends(0, 7, 30_000),
                Lends(0, 7, 30_000),
                Revokes(5),
                Says(1, "OK"),
            ],
        );
        play.to(at(25_000))
            .said(&[believe(at(30_000)), acquired(Some(7)), revoked()])
            .asked(&["wait", "renew 7", "renew 7"]);
        assert!(play.lock.unsettled());
        play.release()
            .to(at(25_001))
            .said(&[RELEASED])
            .asked(&["release 7"]);
        assert!(!play.lock.unsettled());
    }

    #[test]
    fn a_lock_that_was_revoked_is_lost_when_its_lease_ends() {
        let mut play = Play::new(
            options(),
            &[
                Lends(0, 7, 30_000),
                Lends(0, 7, 30_000),
                Revokes(5),
                Says(1, "OK"),
            ],
        );
        play.to(at(28_799))
            .said(&[believe(at(30_000)), acquired(Some(7)), revoked()]);
        let why =
            "an operator revoked it at dx:9889, and its lease ended before the command did".into();
        play.to(at(28_800)).said(&[Output::Event(Event::Lost {
            why,
            kill_deadline: at(29_800),
            gone: true,
        })]);
        play.release().to(at(28_801)).said(&[RELEASED]).asked(&[
            "wait",
            "renew 7",
            "renew 7",
            "release 7",
        ]);
    }

    #[test]
    fn a_revoked_lock_of_the_run_before_is_a_refusal_and_is_released() {
        let denied = || {
            let why = "NO: an operator has revoked the lock of this run (the next run asks for a new one)";
            Output::Event(Event::Failed(Failure::Denied(why.into())))
        };
        let inherited = |options| Options {
            inherited: true,
            ..options
        };
        for (options, asks) in [(options(), "wait"), (patient(0), "get")] {
            let mut play = Play::new(inherited(options), &[Revokes(1), Says(1, "OK")]);
            play.to(at(DAY)).said(&[denied()]).asked(&[asks]);
            assert!(play.lock.unsettled());
            play.release()
                .to(at(DAY + 1))
                .said(&[RELEASED])
                .asked(&["release"]);
            assert!(!play.lock.unsettled());
        }
        let mut play = Play::new(options(), &[Lends(0, 7, 30_000), Revokes(1), Says(1, "OK")]);
        play.to(at(DAY))
            .said(&[denied()])
            .asked(&["wait", "renew 7"]);
        play.release()
            .to(at(DAY + 1))
            .said(&[RELEASED])
            .asked(&["release 7"]);
    }

    /// The next run on this host goes on with the id of one that the server may have a slot for.
    #[test]
    fn a_run_is_settled_when_the_server_has_said_that_it_has_no_slot() {
        for (inherited, script, settled) in [
            (false, &[Refuses][..], true),
            (true, &[Refuses], false),
            (true, &[Says(1, "NO")], true),
            (true, &[Says(1, "INVALID")], false),
            (false, &[HangsUp(1), Refuses], false),
            (
                false,
                &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Says(1, "OK")],
                true,
            ),
            (
                false,
                &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Says(1, "INVALID")],
                false,
            ),
            (
                false,
                &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Refuses],
                false,
            ),
            (
                false,
                &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Says(1, "NO")],
                true,
            ),
        ] {
            let mut play = Play::new(
                Options {
                    inherited,
                    ..patient(0)
                },
                script,
            );
            let begun = if script.len() == 3 && !matches!(script[2], Says(_, "NO")) {
                at(5_000)
            } else {
                at(15_000)
            };
            play.to(begun).release().to(at(60_000));
            assert_eq!(!play.lock.unsettled(), settled, "{inherited} {script:?}");
        }
    }

    #[test]
    fn a_server_that_is_away_is_waited_for_and_then_named() {
        for (script, why) in [
            (Refuses, "dx:9889: connection refused"),
            (IsOff, "dx:9889: no answer for 3.0 s"),
            (
                HangsUp(1),
                "dx:9889: closed the connection (not an HTTP server, or it expects TLS?)",
            ),
            (Resets(1), "dx:9889: connection reset by peer"),
        ] {
            for (options, limit) in [
                (options(), 10_000),
                (patient(0), 10_000),
                (patient(1000), 10_000),
                (patient(60_000), 60_000),
            ] {
                let mut play = Play::new(options, &[script]);
                play.to(at(limit - 1))
                    .said(&[])
                    .to(at(limit))
                    .said(&[unreachable(why)]);
                play.release().to(at(limit + 1000)).said(&[RELEASED]);
            }
        }
        let mut play = Play::new(patient(0), &[Freezes]);
        play.to(at(10_000))
            .said(&[unreachable("dx:9889: no answer for 3.0 s")]);
    }

    #[test]
    fn a_server_that_goes_away_while_we_wait_has_as_long_to_come_back() {
        let mut play = Play::new(options(), &[HangsUp(60_000), Refuses]);
        play.to(at(69_999))
            .said(&[waiting()])
            .to(at(70_000))
            .said(&[unreachable("dx:9889: connection refused")]);

        let mut play = Play::new(
            options(),
            &[
                HangsUp(60_000),
                Refuses,
                Refuses,
                HangsUp(60_000),
                Refuses,
                Says(5, "YES"),
                Waits,
            ],
        );
        play.to(at(DAY)).said(&[waiting(), acquired(None)]);

        let mut play = Play::new(patient(DAY), &[HangsUp(60_000), Refuses]);
        play.to(at(DAY - 1))
            .said(&[waiting()])
            .to(at(DAY))
            .said(&[unreachable("dx:9889: connection refused")]);
    }

    #[test]
    fn patience_ends_in_busy_where_a_server_keeps_us_waiting() {
        let mut play = Play::new(patient(60_000), &[Waits, Says(1, "OK")]);
        play.to(at(59_999))
            .said(&[waiting()])
            .to(at(60_000))
            .said(&[Output::Event(Event::Busy(holder()))]);
        play.release()
            .to(at(60_010))
            .said(&[RELEASED])
            .asked(&["wait", "release"]);
    }

    /// A wait that is given up: by when all must be said, and what is asked after the wait.
    #[test]
    fn a_wait_that_is_given_up_leaves_nothing_behind() {
        for (script, given_up, over, asked) in [
            (&[Waits, Says(1, "OK")][..], 5_000, 5_002, &["release"][..]),
            (&[Waits, Says(1, "OK")], 100, 252, &["release"]), /* the original would wait for
                                                                * ever for who left so soon */
            (&[Says(200, "YES"), Says(1, "OK")], 100, 201, &["release"]),
            (
                &[Lends(5_100, 7, 30_000), Says(1, "OK")],
                5_000,
                5_101,
                &["release 7"],
            ), // it was under way
            (&[Says(5_100, "NO")], 5_000, 5_100, &[]),
            (&[Resets(5_100), Says(1, "OK")], 5_000, 5_101, &["release"]),
            (&[Freezes, Says(1, "OK")], 5_000, 6_001, &["release"]),
            (&[Freezes, Refuses], 5_000, 7_000, &[]),
            (&[Freezes], 5_000, 7_000, &["release"]),
            (&[HangsUp(4_000), Refuses], 5_000, 6_000, &[]), // something may have come of it
            (&[Refuses], 5_000, 5_000, &[]),
            (&[IsOff], 1_000, 1_000, &[]),
        ] {
            let mut play = Play::new(options(), script);
            play.to(at(given_up)).asked.clear();
            play.said.retain(|output| *output != waiting());
            play.release().to(at(over - 1));
            if over > given_up {
                play.said(&[]);
            }
            play.to(at(over)).said(&[RELEASED]).asked(asked);
            assert_eq!(play.to(at(DAY)).drain(), Moment::NEVER, "{script:?}");
        }
    }

    #[test]
    fn who_is_not_alone_on_this_host_gives_back_nothing_that_may_be_anothers() {
        let shared = || Options {
            alone: false,
            ..options()
        };
        let mut play = Play::new(shared(), &[Waits]);
        play.to(at(5_000)).release().to(at(DAY)).asked(&["wait"]);
        let mut play = Play::new(shared(), &[Lends(5_100, 7, 30_000), Says(1, "OK")]);
        play.to(at(5_000))
            .release()
            .to(at(DAY))
            .asked(&["wait", "release 7"]);
    }

    #[test]
    fn giving_back_is_tried_for_a_while_and_then_there_is_a_doubt() {
        let mut play = Play::new(
            options(),
            &[Says(1, "YES"), Refuses, HangsUp(1), IsOff, Says(1, "OK")],
        );
        play.to(at(1_000))
            .said(&[acquired(None)])
            .release()
            .to(at(10_999))
            .said(&[RELEASED])
            .asked(&["wait", "release", "release"]);

        let doubt = |text: &str| {
            Output::Event(Event::Released {
                doubt: Some(text.into()),
            })
        };
        let mut play = Play::new(options(), &[Says(1, "YES"), Refuses]);
        play.to(at(1_000))
            .said(&[acquired(None)])
            .release()
            .to(at(10_999))
            .said(&[]);
        play.to(at(11_000)).said(&[doubt(
            "dx:9889: connection refused: the lock is free when it has expired there",
        )]);
        let mut play = Play::new(
            options(),
            &[
                Lends(0, 7, 200_000),
                Lends(0, 7, 200_000),
                Says(1, "INVALID"),
            ],
        );
        play.to(at(1_000))
            .said(&[believe(at(200_000)), acquired(Some(7))])
            .release();
        play.to(at(1_001)).said(&[doubt(
            "dx:9889 said INVALID: the lock is free when it has expired there, within 210 s",
        )]);
    }

    #[test]
    fn a_place_that_is_being_renewed_is_given_back_at_once() {
        let mut play = Play::new(
            options(),
            &[Lends(20_000, 7, 30_000), Freezes, Says(1, "OK")],
        );
        play.to(at(20_500))
            .said(&[waiting()])
            .release()
            .to(at(20_501))
            .said(&[RELEASED])
            .asked(&["wait", "renew 7", "release 7"]);

        let mut play = Play::new(
            options(),
            &[
                Lends(0, 7, 30_000),
                Lends(0, 7, 30_000),
                Freezes,
                Says(1, "OK"),
            ],
        );
        play.to(at(10_500))
            .said(&[believe(at(30_000)), acquired(Some(7))])
            .release()
            .to(at(10_501))
            .said(&[RELEASED]);
    }

    #[test]
    fn a_place_is_not_begun_with_after_its_time() {
        let mut lock = Pool::new(options(), at(0), at(0));
        let mut bytes = Vec::new();
        Reply::new(200, "", "YES").with("X-Lock-Expires", 30).write(
            Terms::UNREADABLE,
            "",
            &mut bytes,
        );
        for _ in ["wait", "renew"] {
            assert_eq!(
                lock.poll(at(0)),
                Output::Transport(transport::Output::Connect(
                    Endpoint::from("dx:9889").address
                ))
            );
            lock.handle(Input::Transport(transport::Event::Connected), at(0));
            assert!(matches!(
                lock.poll(at(0)),
                Output::Transport(transport::Output::Send(_))
            ));
            lock.handle(Input::Transport(transport::Event::Received(&bytes)), at(0));
            assert_eq!(
                lock.poll(at(0)),
                Output::Transport(transport::Output::Close)
            );
        }
        assert_eq!(lock.poll(at(5)), believe(at(30_000)));
        // Stopped before it was told that it has the lock.
        assert_eq!(
            [lock.poll(at(29_000)), lock.poll(at(29_100))],
            [
                Output::Wait(at(29_100)),
                Output::Transport(transport::Output::Connect(
                    Endpoint::from("dx:9889").address
                ))
            ]
        );
    }

    fn anything() -> impl Strategy<Value = Does> {
        let ms = 0..40_000u64;
        prop_oneof![
            Just(Refuses),
            Just(IsOff),
            Just(Waits),
            Just(Freezes),
            (
                ms.clone(),
                prop::sample::select(vec!["YES", "NO", "OK", "INVALID", "?"])
            )
                .prop_map(|(ms, word)| Says(ms, word)),
            (ms.clone(), 1..3i64, 500..60_000u64)
                .prop_map(|(ms, token, length)| Lends(ms, token, length)),
            (
                ms.clone(),
                1..3i64,
                prop::sample::select(vec!["0", "-1", "nan", "inf", "30s", "", "1e300", "0.3"])
            )
                .prop_map(|(ms, token, expires)| Tells(ms, token, expires)),
            (ms.clone(), 1..3i64).prop_map(|(ms, token)| Gives(ms, token)),
            ms.clone().prop_map(Revokes),
            ms.clone().prop_map(HangsUp),
            ms.prop_map(Resets),
        ]
    }

    proptest! {
        /// Whatever a server does: the lock is ours only with time to begin, it is lost or let go in time, and every release comes to its end.
        #[test]
        fn whatever_happens_belief_is_in_time_and_a_release_ends(
            script in prop::collection::vec(anything(), 1..12),
            wait in prop_oneof![Just(None), (0..100_000u64).prop_map(Some)],
            released in 0..200_000u64,
        ) {
            let mut play = Play::new(wait.map_or_else(options, patient), &script);
            let (mut held, mut until) = (false, Deadlines::NEVER);
            for step in 0..=released / 50 {
                play.to(at((step * 50).min(released)));
                for output in std::mem::take(&mut play.said) {
                    match output {
                        Output::Event(Event::Acquired(_)) => {
                            prop_assert!(!held && play.now < until.term + Duration::from_millis(50));
                            held = true;
                        }
                        Output::Event(Event::LeaseUntil(deadlines)) => until = deadlines,
                        Output::Event(Event::Lost { kill_deadline, .. }) => {
                            prop_assert!(held && kill_deadline <= until.kill.max(play.now));
                            held = false;
                        }
                        Output::Event(Event::Released { .. }) => prop_assert!(false, "before it was asked for"),
                        _ => {}
                    }
                }
                prop_assert!(!held || play.now < until.term);
            }
            play.release().to(at(released) + RELEASE + SETTLING + LAST_WORD + SECOND);
            let over = play.said.iter().filter(|output| matches!(output, Output::Event(Event::Released { .. }))).count();
            prop_assert_eq!((over, play.drain()), (1, Moment::NEVER));
        }
    }
}

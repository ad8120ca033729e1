//! distributex: a place in a pool of a lock server that speaks HTTP. Ask for it, hold it, prove it in time where the server lends it for a time and
//! says so, give it back. Places belong to hosts: a host that asks twice has one, and the first to give it back gives back both.
//!
//! The original server says `YES` and no more. What it has given is ours until it is given back, or until it expires there, which it does not tell.

use super::place::{Lease, Place, Word, said};
use super::{Failure, Holder, Input, Lock, Output, Proof};
use crate::deadlines::{self, Deadlines};
use crate::http::call::{Caller, News, Step};
use crate::http::{Reply, get};
use crate::moment::Moment;
use crate::plan::Host;
use std::collections::VecDeque;
use std::time::Duration;

/// How long a server that is away is waited for, by whoever did not say.
pub const OUTAGE: Duration = Duration::from_secs(10);

/// How long an answer may take that nobody has to be waited for: enough for a server with thousands of clients.
const ANSWER: Duration = Duration::from_secs(3);

/// A free place is granted sooner: whoever waits longer is told so. The original server takes up to 0.2 s.
const PROMPT: Duration = Duration::from_millis(500);

/// How long a request to wait is left alone before it is taken back. The original server begins to wait up to 0.2 s after it was asked to; if by then
/// nobody is there any more, it waits for ever, and takes the place for a host that knows nothing of it.
const SETTLING: Duration = Duration::from_millis(250);

/// How long a server may take to say whether it had granted what we take back.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Who looks at the clock so late was stopped.
const MUCH_TOO_LATE: Duration = Duration::from_secs(1);

/// How long giving back a place may take, and how long if it is likely that there is none, or that it is nobody's loss.
const RELEASE: Duration = Duration::from_secs(10);
const IDLE_RELEASE: Duration = Duration::from_secs(1);

/// What to ask for, whom, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// How each address of the server is called.
    pub addresses: Vec<String>,
    /// The server as it was given.
    pub server: Host,
    /// The pool.
    pub pool: String,
    /// Whose place it will be: this host's name.
    pub host: String,
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
    /// There is one, but too little may be left of its time to begin: it is renewed first.
    Proving(Place),
    /// It is ours, and said to be. `suspended`: for the time being nobody can be asked.
    Held { place: Place, renew: Moment, suspended: bool },
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
    caller: Caller,
    phase: Phase,
    believed: Deadlines,
    /// When the clock was to be looked at next.
    wake: Moment,
    /// That we wait has been said.
    told: bool,
    outputs: VecDeque<Output>,
}

impl Lock for Pool {
    fn handle(&mut self, input: Input, now: Moment) {
        // After a pause of the whole process, what the clock says comes before what any peer says.
        self.look_at_the_clock(now);
        match input {
            Input::Connected => self.caller.connected(now),
            Input::Disconnected(why) => self.caller.disconnected(why, now),
            Input::Received(bytes) => self.caller.received(bytes, now),
            Input::Release => self.release(now),
            Input::Tick | Input::Granted { .. } | Input::Taken { .. } | Input::Broken(_) => {}
        }
        self.listen(now);
    }

    fn poll(&mut self, now: Moment) -> Output {
        self.look_at_the_clock(now);
        self.caller.tick(now);
        self.listen(now);
        match self.caller.step() {
            Some(Step::Connect(address)) => return Output::Connect(address),
            Some(Step::Send(bytes)) => {
                if let Phase::Asking { left } = &mut self.phase {
                    *left = Left::Perhaps;
                }
                return Output::Send(bytes);
            }
            Some(Step::Finish) => return Output::Finish,
            Some(Step::Disconnect) => return Output::Disconnect,
            None => {}
        }
        self.outputs.pop_front().unwrap_or_else(|| {
            self.wake = self.caller.wake().min(self.deadline());
            Output::Wait(self.wake)
        })
    }
}

impl Pool {
    /// Asking begins with the first `poll`; the program did at `began`.
    pub fn new(options: Options, began: Moment, now: Moment) -> Pool {
        let mut pool = Pool {
            caller: Caller::new(options.addresses.clone(), began),
            options,
            phase: Phase::Over,
            believed: Deadlines::NEVER,
            wake: Moment::NEVER,
            told: false,
            outputs: VecDeque::new(),
        };
        pool.contend(Left::Nothing, now);
        pool
    }

    /// Asks for a place, from the start.
    fn contend(&mut self, left: Left, now: Moment) {
        self.phase = Phase::Asking { left };
        match self.options.patience {
            Some(_) => self.caller.ask(self.request("/wait/", None), Duration::MAX, now),
            None => self.caller.ask(self.request("/get/", None), ANSWER, now),
        }
    }

    fn prove(&mut self, place: Place, now: Moment) {
        self.phase = Phase::Proving(place);
        self.renew(now);
    }

    fn renew(&mut self, now: Moment) {
        self.caller.ask(self.request("/renew/", None), ANSWER, now);
    }

    fn request(&self, path: &str, token: Option<i64>) -> Vec<u8> {
        let token = token.map(|token| token.to_string());
        let mut parameters = vec![("pool", self.options.pool.as_str()), ("host", &self.options.host)];
        parameters.extend(token.iter().map(|token| ("token", token.as_str())));
        get(path, &parameters, &self.options.server.to_string(), false)
    }

    fn listen(&mut self, now: Moment) {
        while let Some(news) = self.caller.news() {
            match news {
                News::Answered { reply, sent } => self.answered(&reply, sent, now),
                News::Failed { address, fault } => self.failed(format!("{}: {fault}", self.options.addresses[address]), now),
            }
        }
    }

    fn answered(&mut self, reply: &Reply, sent: Moment, now: Moment) {
        let (word, place) = (Word::of(reply), Place::of(reply, sent));
        match (self.phase, word) {
            (Phase::Asking { .. }, Word::Yes) => self.granted(place, now),
            (Phase::Asking { .. }, Word::No) if self.options.patience.is_none() => self.settle(Left::Nothing, Output::Busy(self.holder())),
            (Phase::Asking { .. }, _) => self.settle(Left::Nothing, Output::Failed(Failure::Denied(self.denial(reply)))),

            (Phase::Proving(_), Word::Yes) => self.proved(place, now),
            (Phase::Proving(_), Word::No) => self.contend(Left::Nothing, now), // it was, for a moment
            (Phase::Proving(held), _) => self.settle(Left::Place(held), Output::Failed(Failure::Denied(self.denial(reply)))),

            (Phase::Held { place: old, suspended, .. }, Word::Yes) => self.renewed(old, suspended, place),
            (Phase::Held { .. }, Word::No) => {
                self.lose(Left::Nothing, format!("{} says that it is not ours any more", self.options.server), now, now);
            }
            // No proof and no denial: whoever answers does not know what it was asked.
            (Phase::Held { .. }, _) => self.suspend(format!("{} said {}", self.options.server, said(reply)), true, now),

            (Phase::Settled(_), Word::Yes) => self.phase = Phase::Settled(Left::Place(place)), // too late
            (Phase::Settled(_), _) => self.phase = Phase::Settled(Left::Nothing),
            (Phase::Leaving { .. }, Word::Yes) => self.give_back(Left::Place(place), now),
            (Phase::Leaving { .. }, _) => self.released(None),
            (Phase::Releasing { .. }, Word::Ok) => self.released(None),
            (Phase::Releasing { left, .. }, _) => {
                self.released(doubt(left, &format!("{} said {}", self.options.server, said(reply)), now));
            }
            (Phase::Over, _) => {}
        }
    }

    /// An attempt to reach the server has failed; there will be others.
    fn failed(&mut self, why: String, now: Moment) {
        match self.phase {
            Phase::Held { .. } => self.suspend(why.clone(), false, now),
            Phase::Settled(_) => self.caller.stop(),
            Phase::Leaving { .. } => self.give_back(Left::Perhaps, now),
            _ => {}
        }
        self.outputs.push_back(Output::Note(why));
    }

    /// The server says that a place is ours. It may have said so long after it was asked, so only what is left of a lease counted from there is
    /// certain.
    fn granted(&mut self, place: Place, now: Moment) {
        match place.lease {
            Some(lease) if lease.length < deadlines::SHORTEST || lease.is_old(now) => self.prove(place, now),
            _ => self.acquire(place),
        }
    }

    /// It has said so once more, this time at once.
    fn proved(&mut self, place: Place, now: Moment) {
        match place.lease {
            Some(lease) if lease.length < deadlines::SHORTEST => {
                let expires = lease.length.as_secs_f64();
                let why =
                    format!("{} is lent for {expires:.1} s, too short to keep it safely: raise \"expire\" on the server", self.name());
                self.settle(Left::Place(place), Output::Failed(Failure::Unfit(why)));
            }
            Some(lease) if now >= lease.deadlines(self.options.kill_after).term => self.prove(place, now),
            _ => self.acquire(place),
        }
    }

    fn acquire(&mut self, place: Place) {
        self.hold(place);
        self.outputs.push_back(Output::Acquired(Proof { lock: self.name(), token: place.token, session: None }));
    }

    fn renewed(&mut self, old: Place, suspended: bool, new: Place) {
        self.hold(new);
        if suspended {
            self.outputs.push_back(Output::Resumed);
        }
        if let (Some(before), Some(after)) = (old.token, new.token)
            && before != after
        {
            let name = self.name();
            self.outputs.push_back(Output::Warn(format!(
                "{name} was taken from us and given back, token {after} in place of {before}: the server has forgotten its holders, and another may have \
                 held it meanwhile"
            )));
        }
    }

    /// Believes in a place for as long as it is lent.
    fn hold(&mut self, place: Place) {
        let deadlines = place.lease.map_or(Deadlines::NEVER, |lease| lease.deadlines(self.options.kill_after));
        if self.believed != deadlines {
            self.believed = deadlines;
            self.outputs.push_back(Output::Believe(deadlines));
        }
        self.phase = Phase::Held { place, renew: place.lease.map_or(Moment::NEVER, Lease::renewal), suspended: false };
    }

    /// Nobody confirms the lock at the moment. `answered`: so somebody has to be asked again, in a while.
    fn suspend(&mut self, why: String, answered: bool, now: Moment) {
        if let Phase::Held { place: Place { lease: Some(lease), .. }, renew, suspended } = &mut self.phase {
            if answered {
                *renew = now + lease.length / 10;
            }
            if !std::mem::replace(suspended, true) {
                self.outputs.push_back(Output::Suspended(why));
            }
        }
    }

    fn settle(&mut self, left: Left, output: Output) {
        self.phase = Phase::Settled(left);
        self.outputs.push_back(output);
    }

    /// The lock is lost. If it was never said to be ours, it is asked for again.
    fn lose(&mut self, left: Left, why: String, dead_by: Moment, now: Moment) {
        let queued = self.outputs.len();
        self.outputs.retain(|output| !matches!(output, Output::Acquired(_)));
        if self.outputs.len() < queued {
            return self.contend(Left::Perhaps, now);
        }
        self.caller.stop();
        self.settle(left, Output::Lost { why, dead_by });
    }

    fn release(&mut self, now: Moment) {
        match (self.phase, self.caller.asked()) {
            (Phase::Asking { .. } | Phase::Settled(_), Some(since)) => {
                let finish = now.max(since + SETTLING);
                self.phase = Phase::Leaving { finish, by: finish + LAST_WORD };
            }
            (Phase::Asking { left } | Phase::Settled(left), None) => self.give_back(left, now),
            (Phase::Proving(place) | Phase::Held { place, .. }, _) => self.give_back(Left::Place(place), now),
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
        self.phase = Phase::Releasing { by: now + bound, left };
        self.caller.ask(self.request("/release/", token), ANSWER, now);
    }

    fn released(&mut self, doubt: Option<String>) {
        self.caller.stop();
        self.phase = Phase::Over;
        self.outputs.push_back(Output::Released { doubt });
    }

    /// Everything that time alone brings about.
    fn look_at_the_clock(&mut self, now: Moment) {
        let late = now.since(std::mem::replace(&mut self.wake, Moment::NEVER));
        match self.phase {
            Phase::Asking { left } if self.is_kept_waiting() => self.look_at_our_patience(left, now),
            Phase::Asking { left } if now >= self.limit() => self.give_up(left, now),
            Phase::Proving(place) if now >= self.limit() => self.give_up(Left::Place(place), now),
            Phase::Held { place, .. } if now >= self.believed.term => {
                self.lose(Left::Lost(place), self.why_not_renewed(place, late, now), self.believed.kill, now);
            }
            Phase::Held { place, renew, suspended } if now >= renew => {
                self.phase = Phase::Held { place, renew: Moment::NEVER, suspended };
                self.renew(now);
            }
            Phase::Leaving { by, .. } if now >= by => self.give_back(Left::Perhaps, now),
            Phase::Leaving { finish, by } if now >= finish => {
                self.phase = Phase::Leaving { finish: Moment::NEVER, by };
                self.caller.finish();
            }
            Phase::Releasing { by, left } if now >= by => self.released(doubt(left, &self.caller.faults(now), now)),
            _ => {}
        }
    }

    /// Whether a server has our request and need not answer it yet.
    fn is_kept_waiting(&self) -> bool {
        self.options.patience.is_some() && self.caller.asked().is_some()
    }

    fn look_at_our_patience(&mut self, left: Left, now: Moment) {
        if self.options.patience.is_some_and(|patience| now >= patience) {
            self.settle(left, Output::Busy(self.holder()));
        } else if !self.told && self.caller.asked().is_some_and(|since| now >= since + PROMPT) {
            self.told = true;
            self.outputs.push_back(Output::Waiting(self.holder()));
        }
    }

    /// Until when a server that is away is waited for.
    fn limit(&self) -> Moment {
        self.options.reach_by.or_else(|| self.caller.away().map(|since| since + OUTAGE)).unwrap_or(Moment::NEVER)
    }

    fn give_up(&mut self, left: Left, now: Moment) {
        let failure = Failure::Unreachable(self.caller.faults(now));
        self.caller.stop();
        self.settle(left, Output::Failed(failure));
    }

    fn why_not_renewed(&self, place: Place, late: Duration, now: Moment) -> String {
        let (length, silence) = place.lease.map_or_else(Default::default, |lease| (lease.length, now.since(lease.sent)));
        if late > MUCH_TOO_LATE.min(length / 5) {
            return format!("this process was stopped for {:.1} s", late.as_secs_f64());
        }
        format!("not renewed for {:.1} s: {}", silence.as_secs_f64(), self.caller.faults(now))
    }

    /// When the clock alone brings about something next.
    fn deadline(&self) -> Moment {
        match self.phase {
            Phase::Asking { .. } if self.is_kept_waiting() => {
                let telling = self.caller.asked().filter(|_| !self.told).map_or(Moment::NEVER, |since| since + PROMPT);
                telling.min(self.options.patience.unwrap_or(Moment::NEVER))
            }
            Phase::Asking { .. } | Phase::Proving(_) => self.limit(),
            Phase::Held { renew, .. } => renew.min(self.believed.term),
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
        Holder { lock: self.name(), host: None, since: None, session: None }
    }

    fn denial(&self, reply: &Reply) -> String {
        let Options { pool, host, .. } = &self.options;
        match Word::of(reply) {
            Word::Invalid => format!("INVALID (has it a pool {pool:?}, and may {host:?} use it?)"),
            _ => said(reply),
        }
    }
}

/// What others may still wait for, and why.
fn doubt(left: Left, why: &str, now: Moment) -> Option<String> {
    let Left::Place(place) = left else { return None };
    let within = place.lease.map_or_else(String::new, |lease| format!(", within {:.0} s", lease.until().since(now).as_secs_f64()));
    Some(format!("{why}: the lock is free when it has expired there{within}"))
}

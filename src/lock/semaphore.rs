//! kazoo's Semaphore: so many leases, ephemeral nodes below the semaphore's own, whose data is their number. Whoever wants one first holds a lock
//! queue beside it, so that only one at a time counts leases and waits for them to change; that queue is left as soon as the lease is there.

use super::parents::Parents;
use super::queue::{Queue, number};
use super::session_lock::{Claim, Desk, Recipe, Stage, Verdict};
use super::{Failure, Holder};
use crate::moment::Moment;
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::request::{Answer, Request};
use crate::zookeeper::session::Change;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// In the queue. `asked`: whether all leases are taken was asked, and is told by `full` once it is answered.
    Entering { asked: bool, full: bool },
    /// The queue is ours, and leases are being counted.
    Counting,
    /// All are taken; the next change of leases is watched for.
    Full,
    /// A lease is being made.
    Taking,
    /// A lease was asked for and the reply lost: looking whether it is there.
    Looking,
}

/// How long whoever tries once takes those before it in the queue to be passing through: for that is milliseconds, unless one of them is stopped.
const PASSING: Duration = Duration::from_secs(2);

/// Where it begins.
const ENTERING: Phase = Phase::Entering { asked: false, full: false };

/// The recipe.
#[derive(Debug)]
pub struct Semaphore {
    /// The semaphore's node, which leases stand under.
    path: String,
    permits: u32,
    /// The lease that is ours and nobody else's.
    lease: String,
    /// `host:pid`, to whoever reads our lease.
    content: String,
    parents: Parents,
    queue: Queue,
    phase: Phase,
    /// Until when those before us in the queue are taken to be passing through. Who waits anyway need not ask.
    hurry: Moment,
}

impl Semaphore {
    /// A semaphore of `permits` below the node at `path`. `mark` is 32 hex digits of our own.
    pub fn new(path: String, permits: u32, mark: &str, content: String) -> Semaphore {
        Semaphore {
            permits,
            lease: format!("{path}/{mark}"),
            parents: Parents::new(path.clone(), permits.to_string().as_bytes()),
            queue: Queue::new(format!("{path}-__lock__"), mark.into(), content.clone(), false),
            content,
            phase: ENTERING,
            path,
            hurry: Moment::default(),
        }
    }

    /// Counts leases, watches them, and looks whether the number that they are counted against is ours.
    fn count(&mut self, desk: &mut Desk) {
        self.phase = Phase::Counting;
        desk.ask(Request::Data { path: self.path.clone(), watch: false });
        desk.ask(Request::Children { path: self.path.clone(), watch: true });
    }

    fn counted(&mut self, leases: usize, desk: &mut Desk) {
        let full = leases >= self.permits as usize;
        match self.phase {
            Phase::Entering { asked, .. } => self.phase = Phase::Entering { asked, full },
            Phase::Counting if full => {
                self.phase = Phase::Full;
                desk.say_waiting(&self.holder(), None);
            }
            Phase::Counting => {
                self.phase = Phase::Taking;
                let (path, data) = (self.lease.clone(), self.content.clone().into_bytes());
                desk.ask(Request::Create { path, data, acl: desk.acl(), flags: flag::EPHEMERAL });
                desk.watch(&self.lease);
            }
            _ => {}
        }
    }

    fn holder(&self) -> Holder {
        Holder { lock: format!("{} (all {} leases taken)", self.path, self.permits), host: None, since: None, session: None }
    }

    /// Our lease is there. Ours is what our session made; anything else by that name is an orphan of ours.
    fn seen(&mut self, owner: i64, token: i64, desk: &mut Desk) -> Option<Verdict> {
        if !matches!(self.phase, Phase::Taking | Phase::Looking) {
            return None;
        }
        if !desk.is_us(owner) {
            desk.ask(Request::Delete { path: self.lease.clone() });
            self.count(desk);
            return None;
        }
        self.leave_queue(desk);
        Some(Verdict::Ours(Claim { path: self.lease.clone(), token }))
    }

    fn ask_queue(&mut self, request: &Request, result: Result<Answer, Code>, desk: &mut Desk) -> Option<Verdict> {
        let verdict = self.queue.answered(request, result, desk);
        match verdict {
            Some(Verdict::Ours(_)) if self.is_first() => {}
            Some(Verdict::Ours(_)) => self.count(desk),
            Some(Verdict::Failed(_)) => return verdict,
            None if self.phase == ENTERING && self.waits_in_queue(desk.now) => {
                self.phase = Phase::Entering { asked: true, full: false };
                self.hurry = if desk.options.patience.is_none() { desk.now + PASSING } else { desk.now };
                desk.ask(Request::Children { path: self.path.clone(), watch: false });
            }
            None => {}
        }
        None
    }

    /// Lets the next one count.
    fn leave_queue(&self, desk: &mut Desk) {
        if let Some(path) = self.queue.contender() {
            desk.ask(Request::Delete { path });
        }
    }

    /// Whether the queue is ours, and it is our turn to count.
    fn is_first(&self) -> bool {
        matches!(self.phase, Phase::Counting | Phase::Full)
    }

    fn waits_in_queue(&self, now: Moment) -> bool {
        matches!(self.queue.stage(now), Stage::Waiting { .. })
    }

    /// The number in the semaphore's node must be ours; anything but a number is nobody's.
    fn check_number(&self, data: &[u8]) -> Option<Verdict> {
        let permits = number(data).filter(|&permits| permits != self.permits)?;
        let why =
            format!("{} is a semaphore of {permits}, not of {}: use --concurrent {permits}, or another --lockid", self.path, self.permits);
        Some(Verdict::Failed(Failure::Unfit(why)))
    }
}

impl Recipe for Semaphore {
    fn opened(&mut self, desk: &mut Desk) {
        let known = desk.session.id().is_some();
        match self.phase {
            Phase::Entering { .. } => self.queue.opened(desk),
            Phase::Counting | Phase::Full if known => {
                if let Some(contender) = self.queue.contender() {
                    desk.watch(&contender); // the queue must still be ours
                }
                self.count(desk);
            }
            Phase::Looking if known => {
                desk.ask(Request::Sync { path: self.lease.clone() });
                desk.watch(&self.lease);
            }
            _ => {}
        }
    }

    fn up(&mut self, desk: &mut Desk) {
        if let Phase::Entering { .. } = self.phase {
            self.queue.up(desk);
        }
    }

    fn answered(&mut self, request: &Request, result: Result<Answer, Code>, desk: &mut Desk) -> Option<Verdict> {
        match (request, result) {
            (Request::Children { path, .. }, Ok(Answer::Children(leases))) if *path == self.path => self.counted(leases.len(), desk),
            (Request::Children { path, .. }, Err(Code::NO_NODE)) if *path == self.path => match self.phase {
                Phase::Counting if self.parents.make(desk) => self.count(desk),
                Phase::Counting => return Some(Verdict::Failed(self.parents.failure(&self.path))),
                _ => {}
            },
            (Request::Children { path, .. } | Request::Data { path, .. }, Err(code))
                if code != Code::NO_NODE && (*path == self.path || *path == self.lease) =>
            {
                return Some(Verdict::Failed(Failure::Refused { what: format!("read {path}"), why: code.to_string() }));
            }
            (Request::Data { path, .. }, Err(Code::NO_NODE)) if self.is_first() && self.queue.contender().as_ref() == Some(path) => {
                self.restart(desk); // somebody has put us out of the queue
            }
            (Request::Data { path, .. }, Ok(Answer::Data(data, _))) if *path == self.path => return self.check_number(&data),
            (Request::Data { path, .. }, Ok(Answer::Data(_, stat))) if *path == self.lease => {
                return self.seen(stat.ephemeral_owner, stat.czxid, desk);
            }
            (Request::Data { path, .. }, Err(Code::NO_NODE)) if *path == self.lease => self.count(desk),
            (Request::Create { path, .. }, Err(code)) if *path == self.lease && !matches!(code, Code::NODE_EXISTS | Code::NO_NODE) => {
                return Some(Verdict::Failed(Failure::Refused { what: format!("create {path}"), why: code.to_string() }));
            }
            (Request::Create { path, flags, .. }, result) if flags & flag::SEQUENCE == 0 => {
                self.parents.answered(path, result.as_ref().err().copied());
                return self.ask_queue(request, result, desk);
            }
            (_, result) => return self.ask_queue(request, result, desk),
        }
        None
    }

    fn changed(&mut self, change: Change, path: &str, desk: &mut Desk) {
        match self.phase {
            Phase::Full | Phase::Counting if path == self.path => self.count(desk),
            Phase::Full | Phase::Counting if change == Change::Deleted && self.queue.contender().as_deref() == Some(path) => {
                self.restart(desk);
            }
            _ => self.queue.changed(change, path, desk),
        }
    }

    fn down(&mut self, known: bool) {
        self.parents.down();
        match self.phase {
            Phase::Taking if known => self.phase = Phase::Looking,
            Phase::Entering { .. } => {
                self.phase = ENTERING;
                self.queue.down(known);
            }
            _ => self.queue.down(known),
        }
    }

    fn resumed(&mut self, desk: &mut Desk) {
        self.leave_queue(desk); // the reply to the first time may be lost
    }

    fn put_away(&mut self, path: &str, result: Result<(), Code>, _: &mut Desk) -> Option<String> {
        let code = result.err().filter(|&code| code != Code::NO_NODE)?;
        Some(format!("cannot delete {path}, which others wait for: {code}"))
    }

    fn restart(&mut self, desk: &mut Desk) {
        self.phase = ENTERING;
        self.queue.restart(desk);
    }

    fn wake(&self) -> Moment {
        self.hurry
    }

    fn stage(&self, now: Moment) -> Stage {
        match self.phase {
            Phase::Entering { full, .. } => match self.queue.stage(now) {
                // Those before us may only be passing through.
                Stage::Waiting { made, .. } if !full && now < self.hurry => Stage::Asking { made },
                stage => stage,
            },
            Phase::Full => Stage::Waiting { holder: self.holder(), made: true },
            Phase::Counting | Phase::Taking | Phase::Looking => Stage::Asking { made: true },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Output;
    use super::super::fake::{Client, Fake};
    use super::super::session_lock::{Options, SessionLock};
    use super::*;
    use crate::plan::{self, Cluster, Heartbeat};

    const TIMEOUT: Duration = Duration::from_secs(5);
    const PATH: &str = "/lockex/id";
    const QUEUE: &str = "/lockex/id-__lock__";

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_secs(100) + Duration::from_millis(milliseconds))
    }

    fn contender(number: u32, permits: u32, wait: Duration) -> Client<SessionLock<Semaphore>> {
        let (acl, heartbeat) = (plan::Acl::Open, Heartbeat::Write);
        let connect_by = at(0) + wait.max(TIMEOUT);
        let options = Options {
            servers: vec!["h1:2181".into()],
            unresolved: vec![],
            cluster: Cluster { hosts: vec![], chroot: String::new(), timeout: TIMEOUT, auth: None, acl, heartbeat },
            patience: (!wait.is_zero()).then(|| at(0) + wait),
            connect_by,
            kill_after: Duration::from_secs(5),
            rounds: None,
            restarts: Some(1),
        };
        let semaphore = Semaphore::new(PATH.into(), permits, &format!("{number:032x}"), format!("host:{number}"));
        Client::new(SessionLock::new(options, semaphore, at(0)))
    }

    fn acquired(client: &Client<SessionLock<Semaphore>>) -> bool {
        client.said.iter().any(|output| matches!(output, Output::Acquired(_)))
    }

    #[test]
    fn so_many_and_no_more_hold_it_and_each_release_lets_one_in() {
        let mut fake = Fake::default();
        let mut all: Vec<_> = (0..5).map(|number| contender(number, 3, TIMEOUT)).collect();
        for released in 0..=5 {
            for _ in 0..3 {
                all.iter_mut().for_each(|client| client.talk(&mut fake, at(released)));
            }
            let holding = all.iter().filter(|client| acquired(client)).count();
            assert_eq!(holding, (3 + usize::try_from(released).unwrap()).min(5));
            assert!(fake.children(PATH).len() <= 3);
            if let Some(client) = all.get_mut(usize::try_from(released).unwrap()) {
                client.release(&mut fake, at(released));
            }
        }
        assert_eq!((fake.children(PATH).len(), fake.children(QUEUE).len()), (0, 0));
        assert_eq!(fake.nodes[PATH].data, b"3");
    }

    #[test]
    fn the_queue_is_left_as_soon_as_the_lease_is_there() {
        let (mut fake, mut client) = (Fake::default(), contender(1, 2, Duration::ZERO));
        client.talk(&mut fake, at(0));
        assert!(acquired(&client), "{:?}", client.said);
        assert_eq!((fake.children(PATH), fake.children(QUEUE).len()), (vec![format!("{:032x}", 1)], 0));
    }

    #[test]
    fn whoever_tries_once_is_busy_only_if_all_leases_are_taken() {
        let mut fake = Fake::default();
        let mut all: Vec<_> = (0..4).map(|number| contender(number, 2, Duration::ZERO)).collect();
        for _ in 0..4 {
            all.iter_mut().for_each(|client| client.talk(&mut fake, at(0)));
        }
        let busy = all.iter().filter(|client| client.said.iter().any(|output| matches!(output, Output::Busy(_)))).count();
        assert_eq!((all.iter().filter(|client| acquired(client)).count(), busy), (2, 2));
        all.iter_mut().for_each(|client| client.release(&mut fake, at(1)));
        assert_eq!((fake.children(PATH).len(), fake.children(QUEUE).len()), (0, 0));
    }

    #[test]
    fn another_number_in_the_node_is_refused_and_anything_else_ignored() {
        for (data, fits) in [(&b"3"[..], false), (b"2", true), (b"", true), (b"some text", true)] {
            let mut fake = Fake::with_parent("/lockex");
            fake.put(PATH, data, 0);
            let mut client = contender(1, 2, Duration::ZERO);
            client.talk(&mut fake, at(0));
            assert_eq!(acquired(&client), fits, "{data:?}: {:?}", client.said);
        }
    }

    /// The connection is cut after every possible number of requests, and of replies: the lease is ours in the end, and the queue is free.
    #[test]
    fn wherever_the_connection_is_cut_the_queue_is_free_in_the_end() {
        for cut in 0..20 {
            for requests in [true, false] {
                let mut fake = Fake::with_parent("/lockex");
                let mut client = contender(1, 2, Duration::from_mins(1));
                *(if requests { &mut client.requests_left } else { &mut client.replies_left }) = Some(cut);
                let mut now = at(0);
                for _ in 0..300 {
                    fake.expire(now);
                    client.talk(&mut fake, now);
                    now = client.wait().min(now + Duration::from_millis(100)).max(now + Duration::from_millis(1));
                }
                assert!(acquired(&client), "cut after {cut}, requests {requests}: {:?}", client.said);
                let left = (fake.children(PATH).len(), fake.children(QUEUE).len());
                assert_eq!(left, (1, 0), "cut after {cut}, requests {requests}: {:?}", fake.nodes.keys());
            }
        }
    }
}

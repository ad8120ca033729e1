//! kazoo's Semaphore: so many leases, ephemeral nodes below the semaphore's own, whose data is
//! their number. Whoever wants one first holds a lock queue beside it, so that only one at a time
//! counts leases and waits for them to change; that queue is left as soon as the lease is there.

use super::parents::Parents;
use super::queue::{Queue, number};
use super::{Claim, Desk, Recipe, Stage, Verdict};
use crate::lock::{Failure, Holder};
use crate::moment::Moment;
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::request::{Answer, Request};
use crate::zookeeper::session::Change;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// In the queue. `asked`: whether all leases are taken was asked, and is told by `full` once it
    /// is answered.
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

/// How long whoever tries once takes those before it in the queue to be passing through: for that
/// is milliseconds, unless one of them is stopped.
const PASSING: Duration = Duration::from_secs(2);

/// So many holders are named at most: each is a request, and a line that names more is not read.
const NAMED: usize = 5;

/// Where it begins.
const ENTERING: Phase = Phase::Entering {
    asked: false,
    full: false,
};

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
    holders: Holders,
    /// Until when those before us in the queue are taken to be passing through. Who waits anyway
    /// need not ask.
    hurry: Moment,
}

/// Who holds the leases, as far as it was asked. Only where all are taken is it asked at all, and
/// for one line: by a run that tries once, and by a waiter when it begins to wait.
#[derive(Default, Debug)]
struct Holders {
    /// How many leases there are.
    leases: usize,
    /// Paths of leases, and what their holders call themselves.
    names: BTreeMap<String, String>,
    /// Sessions that hold them, as far as they were looked at. Where we run under fewer locks than
    /// there are leases, they cannot all be of those.
    owners: BTreeMap<String, i64>,
    /// So many answers are still to come.
    unread: usize,
    /// A waiter has said who they are.
    told: bool,
}

impl Holders {
    /// All leases are taken, by these.
    fn listed(&mut self, leases: Vec<String>, desk: &mut Desk) {
        self.leases = leases.len();
        self.names.retain(|lease, _| leases.contains(lease));
        self.owners.retain(|lease, _| leases.contains(lease));
        let most = if desk.options.outer.len() >= leases.len() {
            leases.len().max(NAMED)
        } else {
            NAMED
        };
        if self.unread == 0 && !(self.told && desk.is_patient()) {
            let unknown = leases
                .into_iter()
                .filter(|lease| !self.names.contains_key(lease))
                .take(most);
            for path in unknown {
                self.unread += 1;
                desk.ask(Request::Data { path, watch: false });
            }
        }
    }

    /// A lease was looked at, or is not there any more.
    fn read(&mut self, lease: &str, result: Result<Answer, Code>) {
        self.unread = self.unread.saturating_sub(1);
        if let Ok(Answer::Data(_, stat)) = &result {
            self.owners.insert(lease.into(), stat.ephemeral_owner);
        }
        if let Ok(Answer::Data(data, _)) = result
            && let Some(name) = String::from_utf8(data).ok().filter(|name| !name.is_empty())
        {
            self.names.insert(lease.into(), name);
        }
    }

    /// A session of them, if all are of runs that we were started under.
    fn all_outer(&self, desk: &Desk) -> Option<i64> {
        let all = self.leases > 0
            && self.owners.len() == self.leases
            && self.owners.values().all(|&owner| desk.is_outer(owner));
        self.owners.values().next().copied().filter(|_| all)
    }

    /// `a:1, b:2 and 3 others`; `None` if none is known.
    fn shown(&self) -> Option<String> {
        let names: Vec<&str> = self
            .names
            .values()
            .take(NAMED)
            .map(String::as_str)
            .collect();
        let others = match self.leases.saturating_sub(names.len()) {
            0 => String::new(),
            1 => " and 1 other".into(),
            others => format!(" and {others} others"),
        };
        (!names.is_empty()).then(|| names.join(", ") + &others)
    }
}

impl Semaphore {
    /// A semaphore of `permits` below the node at `path`. `mark` is 32 hex digits of our own.
    pub fn new(path: String, permits: u32, mark: &str, content: String) -> Semaphore {
        Semaphore {
            permits,
            lease: format!("{path}/{mark}"),
            parents: Parents::new(path.clone(), permits.to_string().as_bytes()),
            queue: Queue::new(
                format!("{path}-__lock__"),
                mark.into(),
                content.clone(),
                false,
            ),
            content,
            holders: Holders::default(),
            phase: ENTERING,
            path,
            hurry: Moment::default(),
        }
    }

    /// Counts leases, watches them, and looks whether the number that they are counted against is
    /// ours.
    fn count(&mut self, desk: &mut Desk) {
        self.phase = Phase::Counting;
        desk.ask(Request::Data {
            path: self.path.clone(),
            watch: false,
        });
        desk.ask(Request::Children {
            path: self.path.clone(),
            watch: true,
        });
    }

    fn counted(&mut self, leases: &[String], desk: &mut Desk) {
        let full = leases.len() >= self.permits as usize;
        let paths = || {
            leases
                .iter()
                .map(|name| format!("{}/{name}", self.path))
                .collect()
        };
        match self.phase {
            Phase::Entering { asked, .. } if full => {
                self.holders.listed(paths(), desk);
                self.phase = Phase::Entering { asked, full };
                self.say_full(desk);
            }
            Phase::Entering { asked, .. } => {
                self.phase = Phase::Entering { asked, full };
                if let Stage::Waiting { holder, .. } = self.queue.stage(desk.now) {
                    desk.say_waiting(&holder, None);
                }
            }
            Phase::Counting if full => {
                self.holders.listed(paths(), desk);
                self.phase = Phase::Full;
                self.say_full(desk);
            }
            Phase::Counting => {
                self.phase = Phase::Taking;
                let (path, data) = (self.lease.clone(), self.content.clone().into_bytes());
                desk.ask(Request::Create {
                    path,
                    data,
                    acl: desk.acl(),
                    flags: flag::EPHEMERAL,
                });
                desk.watch(&self.lease);
            }
            _ => {}
        }
    }

    fn holder(&self) -> Holder {
        let lock = format!("{} (all {} leases taken)", self.path, self.permits);
        Holder {
            lock,
            host: self.holders.shown(),
            since: None,
            session: None,
        }
    }

    /// Says, once, that all leases are taken and by whom, as soon as that is known.
    fn say_full(&mut self, desk: &mut Desk) {
        let full = matches!(self.phase, Phase::Full | Phase::Entering { full: true, .. });
        if full
            && self.holders.unread == 0
            && desk.is_patient()
            && !std::mem::replace(&mut self.holders.told, true)
        {
            desk.say_waiting(&self.holder(), None);
        }
    }

    /// Whether this is the lease of another.
    fn is_others(&self, path: &str) -> bool {
        path != self.lease
            && path
                .strip_prefix(&self.path)
                .is_some_and(|rest| rest.starts_with('/'))
    }

    /// Our lease is there. Ours is what our session made; anything else by that name is an orphan
    /// of ours.
    fn seen(&mut self, owner: i64, token: i64, desk: &mut Desk) -> Option<Verdict> {
        if !matches!(self.phase, Phase::Taking | Phase::Looking) {
            return None;
        }
        if !desk.is_us(owner) {
            desk.ask(Request::Delete {
                path: self.lease.clone(),
            });
            self.count(desk);
            return None;
        }
        self.leave_queue(desk);
        Some(Verdict::Ours(Claim {
            path: self.lease.clone(),
            token,
        }))
    }

    fn ask_queue(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        desk: &mut Desk,
    ) -> Option<Verdict> {
        let verdict = self.queue.answered(request, result, desk);
        match verdict {
            Some(Verdict::Ours(_)) if self.is_first() => {}
            Some(Verdict::Ours(_)) => self.count(desk),
            Some(Verdict::Failed(_)) => return verdict,
            None if self.phase == ENTERING && self.waits_in_queue(desk.now) => {
                self.phase = Phase::Entering {
                    asked: true,
                    full: false,
                };
                self.hurry = if desk.options.patience.is_none() {
                    desk.now + PASSING
                } else {
                    desk.now
                };
                desk.ask(Request::Children {
                    path: self.path.clone(),
                    watch: false,
                });
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
        let why = format!(
            "{} is a semaphore of {permits}, not of {}: use --concurrent {permits}, or another --lockid",
            self.path, self.permits
        );
        Some(Verdict::Failed(Failure::IncompatibleLock(why)))
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
                desk.ask(Request::Sync {
                    path: self.lease.clone(),
                });
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

    fn answered(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        desk: &mut Desk,
    ) -> Option<Verdict> {
        match (request, result) {
            (Request::Children { path, .. }, Ok(Answer::Children(leases)))
                if *path == self.path =>
            {
                self.counted(&leases, desk);
            }
            (Request::Children { path, .. }, Err(Code::NO_NODE)) if *path == self.path => {
                match self.phase {
                    Phase::Counting if self.parents.make(desk) => self.count(desk),
                    Phase::Counting => {
                        return Some(Verdict::Failed(self.parents.failure(&self.path, desk)));
                    }
                    _ => {}
                }
            }
            (Request::Children { path, .. } | Request::Data { path, .. }, Err(code))
                if code != Code::NO_NODE && (*path == self.path || *path == self.lease) =>
            {
                return Some(Verdict::Failed(Failure::Refused {
                    what: format!("read {path}"),
                    why: desk.explain(code),
                }));
            }
            (Request::Data { path, .. }, result) if self.is_others(path) => {
                self.holders.read(path, result);
                let full = matches!(self.phase, Phase::Full | Phase::Entering { full: true, .. });
                if let Some(session) = self
                    .holders
                    .all_outer(desk)
                    .filter(|_| full && desk.is_patient())
                {
                    return Some(super::circular(&self.path, session));
                }
                self.say_full(desk);
            }
            (Request::Data { path, .. }, Err(Code::NO_NODE))
                if self.is_first() && self.queue.contender().as_ref() == Some(path) =>
            {
                self.restart(desk); // somebody has put us out of the queue
            }
            (Request::Data { path, .. }, Ok(Answer::Data(data, _))) if *path == self.path => {
                return self.check_number(&data);
            }
            (Request::Data { path, .. }, Ok(Answer::Data(_, stat))) if *path == self.lease => {
                return self.seen(stat.ephemeral_owner, stat.czxid, desk);
            }
            (Request::Data { path, .. }, Err(Code::NO_NODE)) if *path == self.lease => {
                self.count(desk);
            }
            (Request::Create { path, .. }, Err(code))
                if *path == self.lease && !matches!(code, Code::NODE_EXISTS | Code::NO_NODE) =>
            {
                return Some(Verdict::Failed(Failure::Refused {
                    what: format!("create {path}"),
                    why: desk.explain(code),
                }));
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
            Phase::Full | Phase::Counting
                if change == Change::Deleted && self.queue.contender().as_deref() == Some(path) =>
            {
                self.restart(desk);
            }
            _ => self.queue.changed(change, path, desk),
        }
    }

    fn down(&mut self, known: bool) {
        self.parents.down();
        self.holders.unread = 0;
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
        Some(format!(
            "cannot delete {path}, which others wait for: {code}"
        ))
    }

    fn restart(&mut self, desk: &mut Desk) {
        self.phase = ENTERING;
        self.holders.unread = 0;
        self.queue.restart(desk);
    }

    fn wake(&self) -> Moment {
        self.hurry
    }

    fn stage(&self, now: Moment) -> Stage {
        match self.phase {
            Phase::Entering { full: true, .. } | Phase::Full if self.holders.unread > 0 => {
                Stage::Asking { made: true }
            }
            Phase::Entering { full, .. } => match self.queue.stage(now) {
                Stage::Waiting { made, .. } if full => Stage::Waiting {
                    holder: self.holder(),
                    made,
                },
                // Those before us may only be passing through.
                Stage::Waiting { made, .. } if now < self.hurry => Stage::Asking { made },
                stage => stage,
            },
            Phase::Full => Stage::Waiting {
                holder: self.holder(),
                made: true,
            },
            Phase::Counting | Phase::Taking | Phase::Looking => Stage::Asking { made: true },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Client, Fake};
    use super::super::{Options, SessionLock};
    use super::*;
    use crate::lock::{Event, Output};
    use crate::plan::{self, Cluster, Heartbeat};

    const TIMEOUT: Duration = Duration::from_secs(5);
    const PATH: &str = "/lockex/id";
    const QUEUE: &str = "/lockex/id-__lock__";

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_secs(100) + Duration::from_millis(milliseconds))
    }

    fn options(wait: Duration) -> Options {
        let (acl, heartbeat) = (plan::Acl::Open, Heartbeat::Write);
        let connect_by = at(0) + wait.max(TIMEOUT);
        Options {
            servers: vec!["h1:2181".into()],
            unresolved: vec![],
            cluster: Cluster {
                hosts: vec![],
                chroot: String::new(),
                timeout: TIMEOUT,
                auth: None,
                acl,
                heartbeat,
            },
            patience: (!wait.is_zero()).then(|| at(0) + wait),
            connect_by,
            kill_after: Duration::from_secs(5),
            rounds: None,
            restarts: Some(1),
            takes_auth: true,
            outer: vec![],
        }
    }

    fn contender(number: u32, permits: u32, wait: Duration) -> Client<SessionLock<Semaphore>> {
        let options = options(wait);
        let semaphore = Semaphore::new(
            PATH.into(),
            permits,
            &format!("{number:032x}"),
            format!("host:{number}"),
        );
        Client::new(SessionLock::new(options, semaphore, at(0)))
    }

    fn acquired(client: &Client<SessionLock<Semaphore>>) -> bool {
        client
            .said
            .iter()
            .any(|output| matches!(output, Output::Event(Event::Acquired(_))))
    }

    #[test]
    fn so_many_and_no_more_hold_it_and_each_release_lets_one_in() {
        let mut fake = Fake::default();
        let mut all: Vec<_> = (0..5).map(|number| contender(number, 3, TIMEOUT)).collect();
        for released in 0..=5 {
            for _ in 0..3 {
                all.iter_mut()
                    .for_each(|client| client.talk(&mut fake, at(released)));
            }
            let holding = all.iter().filter(|client| acquired(client)).count();
            assert_eq!(holding, (3 + usize::try_from(released).unwrap()).min(5));
            assert!(fake.children(PATH).len() <= 3);
            if let Some(client) = all.get_mut(usize::try_from(released).unwrap()) {
                client.release(&mut fake, at(released));
            }
        }
        assert_eq!(
            (fake.children(PATH).len(), fake.children(QUEUE).len()),
            (0, 0)
        );
        assert_eq!(fake.nodes[PATH].data, b"3");
    }

    #[test]
    fn a_wait_is_circular_only_if_all_leases_are_of_runs_around_this_one() {
        for (known, circular) in [(0, false), (1, false), (2, true)] {
            let mut fake = Fake::default();
            let mut holders: Vec<_> = (0..2).map(|number| contender(number, 2, TIMEOUT)).collect();
            for _ in 0..2 {
                holders
                    .iter_mut()
                    .for_each(|client| client.talk(&mut fake, at(0)));
            }
            let owners = fake
                .nodes
                .iter()
                .filter(|(path, entry)| path.starts_with(PATH) && entry.owner != 0)
                .map(|(_, entry)| entry.owner);
            let mut inner = contender(9, 2, TIMEOUT);
            inner.lock = {
                let options = Options {
                    outer: owners.take(known).collect(),
                    ..options(TIMEOUT)
                };
                SessionLock::new(
                    options,
                    Semaphore::new(PATH.into(), 2, &format!("{:032x}", 9), "host:9".into()),
                    at(0),
                )
            };
            inner.talk(&mut fake, at(0));
            let failed = |output: &Output| matches!(output, Output::Event(Event::Failed(Failure::IncompatibleLock(why))) if why.contains("cannot end"));
            assert_eq!(
                inner.said.iter().any(failed),
                circular,
                "{known}: {:?}",
                inner.said
            );
        }
    }

    #[test]
    fn the_queue_is_left_as_soon_as_the_lease_is_there() {
        let (mut fake, mut client) = (Fake::default(), contender(1, 2, Duration::ZERO));
        client.talk(&mut fake, at(0));
        assert!(acquired(&client), "{:?}", client.said);
        assert_eq!(
            (fake.children(PATH), fake.children(QUEUE).len()),
            (vec![format!("{:032x}", 1)], 0)
        );
    }

    #[test]
    fn whoever_tries_once_is_busy_only_if_all_leases_are_taken() {
        let mut fake = Fake::default();
        let mut all: Vec<_> = (0..4)
            .map(|number| contender(number, 2, Duration::ZERO))
            .collect();
        for _ in 0..4 {
            all.iter_mut()
                .for_each(|client| client.talk(&mut fake, at(0)));
        }
        let busy = all
            .iter()
            .filter(|client| {
                client
                    .said
                    .iter()
                    .any(|output| matches!(output, Output::Event(Event::Busy(_))))
            })
            .count();
        assert_eq!(
            (all.iter().filter(|client| acquired(client)).count(), busy),
            (2, 2)
        );
        all.iter_mut()
            .for_each(|client| client.release(&mut fake, at(1)));
        assert_eq!(
            (fake.children(PATH).len(), fake.children(QUEUE).len()),
            (0, 0)
        );
    }

    #[test]
    fn another_number_in_the_node_is_refused_and_anything_else_ignored() {
        for (data, fits) in [
            (&b"3"[..], false),
            (b"2", true),
            (b"", true),
            (b"some text", true),
        ] {
            let mut fake = Fake::with_parent("/lockex");
            fake.put(PATH, data, 0);
            let mut client = contender(1, 2, Duration::ZERO);
            client.talk(&mut fake, at(0));
            assert_eq!(acquired(&client), fits, "{data:?}: {:?}", client.said);
        }
    }

    fn told(client: &Client<SessionLock<Semaphore>>) -> Option<&Holder> {
        client.said.iter().rev().find_map(|output| match output {
            Output::Event(Event::Busy(holder) | Event::Waiting { holder, .. }) => Some(holder),
            _ => None,
        })
    }

    #[test]
    fn a_run_that_finds_all_leases_taken_names_their_holders_and_not_the_first_waiter() {
        for wait in [Duration::ZERO, TIMEOUT * 10] {
            let mut fake = Fake::default();
            let mut holders: Vec<_> = (0..2)
                .map(|number| contender(number, 2, Duration::ZERO))
                .collect();
            holders
                .iter_mut()
                .for_each(|client| client.talk(&mut fake, at(0)));
            let mut first = contender(2, 2, TIMEOUT * 10);
            first.talk(&mut fake, at(0));
            let mut second = contender(3, 2, wait);
            second.talk(&mut fake, at(0));
            for client in [&first, &second] {
                let holder = told(client).unwrap_or_else(|| panic!("{:?}", client.said));
                assert_eq!(
                    holder.host.as_deref(),
                    Some("host:0, host:1"),
                    "{:?}",
                    client.said
                );
                assert_eq!(holder.lock, format!("{PATH} (all 2 leases taken)"));
            }
            assert!(
                first
                    .said
                    .iter()
                    .chain(&second.said)
                    .filter(|output| matches!(output, Output::Event(Event::Waiting { .. })))
                    .count()
                    <= 2
            );
        }
    }

    #[test]
    fn of_many_holders_a_few_are_named_and_the_others_counted() {
        let mut fake = Fake::default();
        let mut holders: Vec<_> = (0..8)
            .map(|number| contender(number, 8, Duration::ZERO))
            .collect();
        holders
            .iter_mut()
            .for_each(|client| client.talk(&mut fake, at(0)));
        let mut client = contender(9, 8, Duration::ZERO);
        client.talk(&mut fake, at(0));
        let host = told(&client).and_then(|holder| holder.host.clone());
        assert_eq!(
            host.as_deref(),
            Some("host:0, host:1, host:2, host:3, host:4 and 3 others")
        );
    }

    #[test]
    fn a_waiter_reads_once_who_holds_and_never_names_a_holder_that_has_left() {
        let mut fake = Fake::default();
        let mut all: Vec<_> = (0..4)
            .map(|number| contender(number, 2, Duration::ZERO))
            .collect();
        all[..2]
            .iter_mut()
            .for_each(|client| client.talk(&mut fake, at(0)));
        let mut waiter = contender(9, 2, TIMEOUT);
        waiter.talk(&mut fake, at(0));
        fake.put(&format!("{PATH}/stranger"), b"host:77", 77);
        let before = fake.requests;
        all[1].release(&mut fake, at(1)); // still two, one of them unknown
        let own = fake.requests - before;
        waiter.talk(&mut fake, at(1));
        assert!(
            fake.requests - before - own <= 8,
            "it lists, and does not read each lease again: {}",
            fake.requests - before - own
        );
        let mut now = at(2);
        while told(&waiter).is_none_or(|_| {
            !waiter
                .said
                .iter()
                .any(|output| matches!(output, Output::Event(Event::Busy(_))))
        }) && now < at(20_000)
        {
            now = now + Duration::from_millis(100);
            waiter.talk(&mut fake, now);
        }
        assert_eq!(
            told(&waiter)
                .and_then(|holder| holder.host.clone())
                .as_deref(),
            Some("host:0 and 1 other"),
            "{:?}",
            waiter.said
        );
    }

    #[test]
    fn a_lock_with_a_place_that_is_free_costs_nothing_to_name_holders() {
        let (mut fake, mut client) = (Fake::default(), contender(1, 2, Duration::ZERO));
        fake.put("/lockex", b"", 0);
        fake.put(PATH, b"2", 0);
        fake.put(QUEUE, b"", 0);
        fake.put(&format!("{PATH}/stranger"), b"host:77", 77);
        client.talk(&mut fake, at(0));
        assert!(acquired(&client));
        assert_eq!(
            fake.requests, 8,
            "join and list; look at our contender; number and list; lease and look; leave the queue"
        );
    }

    /// The connection is cut after every possible number of requests, and of replies: the lease is
    /// ours in the end, and the queue is free.
    #[test]
    fn wherever_the_connection_is_cut_the_queue_is_free_in_the_end() {
        for cut in 0..20 {
            for requests in [true, false] {
                let mut fake = Fake::with_parent("/lockex");
                let mut client = contender(1, 2, Duration::from_mins(1));
                *(if requests {
                    &mut client.requests_left
                } else {
                    &mut client.replies_left
                }) = Some(cut);
                let mut now = at(0);
                for _ in 0..300 {
                    fake.expire(now);
                    client.talk(&mut fake, now);
                    now = client
                        .wait()
                        .min(now + Duration::from_millis(100))
                        .max(now + Duration::from_millis(1));
                }
                assert!(
                    acquired(&client),
                    "cut after {cut}, requests {requests}: {:?}",
                    client.said
                );
                let left = (fake.children(PATH).len(), fake.children(QUEUE).len());
                assert_eq!(
                    left,
                    (1, 0),
                    "cut after {cut}, requests {requests}: {:?}",
                    fake.nodes.keys()
                );
            }
        }
    }
}

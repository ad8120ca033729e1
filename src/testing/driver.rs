//! The loop of the programs, without their effects. It checks, at each step of each machine:
//!
//! * The machine comes to rest within [`MAX_STEPS`] outputs.
//! * `Wait` is honest: before its moment, time alone brings no output; at its moment, time brings an
//!   output or a later `Wait`.
//! * It sends only on an established connection that it has not shut down.
//! * Its reports follow the contract of its kind ([`Machine::check`]).

use crate::moment::Moment;
use crate::transport;
use std::fmt::Debug;
use std::time::Duration;

/// The most outputs at one moment after one input. The longest exchanges of the tests need some tens.
const MAX_STEPS: usize = 1000;

/// The machines count in milliseconds: so long before the moment of a `Wait` nothing may happen.
const TICK: Duration = Duration::from_millis(1);

/// A sans-I/O state machine, as the driver sees it.
pub(crate) trait Machine {
    /// Where it connects to.
    type To;
    /// What it gives out besides orders for its connection.
    type Report: Debug;
    /// What the reports so far allow next.
    type Rules: Default + Debug;

    /// Something happened to the connection.
    fn take_event(&mut self, event: transport::Event, now: Moment);

    /// Time has passed.
    fn take_time(&mut self, now: Moment);

    /// What it gives out next.
    fn give(&mut self, now: Moment) -> Step<Self::To, Self::Report>;

    /// Panics if the contract does not allow this report after the earlier ones.
    fn check(rules: &mut Self::Rules, report: &Self::Report);
}

/// An output of a machine.
#[derive(Debug)]
pub(crate) enum Step<To, Report> {
    /// An order for the connection.
    Transport(transport::Output<To>),
    /// Anything else.
    Report(Report),
    /// Nothing to do before this moment.
    Wait(Moment),
}

/// The number by which a peer knows a connection.
pub(crate) type Connection = usize;

/// What becomes of an attempt to connect.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The peer accepts.
    Accepted(Connection),
    /// The attempt fails at once, with this reason.
    Refused(String),
    /// No packet comes back.
    Silence,
}

/// What arrives from a peer.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// Bytes of one message, or of a part of it.
    Bytes(Vec<u8>),
    /// The end of the connection: the network's reason; `None` if the peer closed it.
    End(Option<String>),
}

/// What a machine is connected to: one server or several, in memory. Several drivers may share it.
pub(crate) trait Peer<To> {
    /// A machine connects.
    fn connect(&mut self, to: To, now: Moment) -> Reply;

    /// The length of the first message in the bytes that a machine sends.
    fn message(&self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    /// A message arrives.
    fn receive(&mut self, connection: Connection, message: &[u8], now: Moment);

    /// The machine sends nothing more.
    fn shut_down(&mut self, _: Connection, _: Moment) {}

    /// The connection is over, for whatever reason.
    fn close(&mut self, connection: Connection);

    /// What arrives at the machine next, if anything has by now.
    fn deliver(&mut self, connection: Connection, now: Moment) -> Option<Delivery>;

    /// When the next delivery is due if the machine sends nothing more.
    fn due(&self, _: Connection) -> Moment {
        Moment::NEVER
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Link {
    Closed,
    Connecting,
    Open(Connection),
    /// The machine has shut down its side.
    Finished(Connection),
}

/// Runs one machine.
#[derive(Debug)]
pub(crate) struct Driver<M: Machine> {
    /// The machine. Give it inputs by [`Driver::input`], which knows that it may act on them.
    pub(crate) machine: M,
    /// This many messages reach the peer; then the connection is cut, once.
    pub(crate) requests_left: Option<usize>,
    /// This many deliveries reach the machine; then the connection is cut, once.
    pub(crate) replies_left: Option<usize>,
    now: Moment,
    /// What the machine has promised by its last `Wait`.
    wait: Moment,
    link: Link,
    rules: M::Rules,
    steps: usize,
    /// The machine knows this moment, and nothing has happened since.
    ticked: bool,
}

impl<M: Machine> Driver<M> {
    /// A machine that has no connection yet.
    pub(crate) fn new(machine: M, now: Moment) -> Driver<M> {
        Driver {
            machine,
            requests_left: None,
            replies_left: None,
            now,
            wait: now,
            link: Link::Closed,
            rules: M::Rules::default(),
            steps: 0,
            ticked: false,
        }
    }

    /// The time on the machine's clock.
    pub(crate) fn now(&self) -> Moment {
        self.now
    }

    /// The moment of the machine's last `Wait`.
    pub(crate) fn wait(&self) -> Moment {
        self.wait
    }

    /// The connection, if it is established.
    pub(crate) fn connection(&self) -> Option<Connection> {
        match self.link {
            Link::Open(connection) | Link::Finished(connection) => Some(connection),
            Link::Closed | Link::Connecting => None,
        }
    }

    /// Gives the machine an input of its own kind. Nothing that was due before has happened.
    #[track_caller]
    pub(crate) fn input<T>(&mut self, now: Moment, input: impl FnOnce(&mut M) -> T) -> T {
        self.set_clock(now);
        self.steps = 0;
        self.wait = now;
        self.ticked = false;
        input(&mut self.machine)
    }

    #[track_caller]
    fn set_clock(&mut self, now: Moment) {
        assert!(
            now >= self.now,
            "time runs backwards: {:?}, {now:?}",
            self.now
        );
        if now > self.now {
            self.steps = 0;
            self.ticked = false;
        }
        self.now = now;
    }

    /// Sets the clock, whatever was due before: the process was stopped until now.
    #[track_caller]
    pub(crate) fn jump(&mut self, now: Moment) {
        self.set_clock(now);
        self.take_time();
        if now < self.wait {
            self.expect_rest();
        }
    }

    /// Lets the machine and the peer talk until the machine reports something, or neither has more
    /// to say at this moment.
    #[track_caller]
    pub(crate) fn next_report(&mut self, peer: &mut impl Peer<M::To>) -> Option<M::Report> {
        loop {
            self.steps += 1;
            assert!(
                self.steps <= MAX_STEPS,
                "the machine does not come to rest at {:?}",
                self.now
            );
            match self.machine.give(self.now) {
                Step::Transport(output) => self.execute(output, peer),
                Step::Report(report) => {
                    M::check(&mut self.rules, &report);
                    return Some(report);
                }
                // The loops of the programs do so, too.
                Step::Wait(until) if until <= self.now && !self.ticked => self.take_time(),
                Step::Wait(until) => {
                    self.rest(until);
                    if !self.deliver(peer) {
                        return None;
                    }
                }
            }
        }
    }

    /// Lets time go on to that moment, and all happen that is due until then; returns at the first
    /// report.
    #[track_caller]
    pub(crate) fn advance(&mut self, peer: &mut impl Peer<M::To>, to: Moment) -> Option<M::Report> {
        loop {
            if let Some(report) = self.next_report(peer) {
                return Some(report);
            }
            let due = self.connection().map_or(Moment::NEVER, |it| peer.due(it));
            let next = self.wait.min(due);
            if next > to {
                self.set_clock(self.now.max(to));
                return None;
            }
            if self.wait.before(TICK) > self.now && self.wait <= due {
                self.jump(self.wait.before(TICK));
            }
            self.jump(next.max(self.now));
            self.deliver(peer); // before the machine acts, as in the loop of a program
        }
    }

    /// The network cuts the connection. Nothing that was due before has happened.
    #[track_caller]
    pub(crate) fn cut(&mut self, now: Moment, peer: &mut impl Peer<M::To>) {
        self.set_clock(now);
        self.end(None, peer);
    }

    fn take_time(&mut self) {
        self.ticked = true;
        self.machine.take_time(self.now);
    }

    fn take_event(&mut self, event: transport::Event) {
        self.ticked = false;
        self.machine.take_event(event, self.now);
    }

    /// The machine has nothing to do, as it said.
    #[track_caller]
    fn expect_rest(&mut self) {
        match self.machine.give(self.now) {
            Step::Wait(until) => self.rest(until),
            Step::Transport(output) => self.lied(&early(&output)),
            Step::Report(report) => self.lied(&format!("{report:?}")),
        }
    }

    #[track_caller]
    fn lied(&self, output: &str) -> ! {
        panic!(
            "after Wait({:?}) the machine does this at {:?} already: {output}",
            self.wait.0, self.now.0
        )
    }

    #[track_caller]
    fn rest(&mut self, until: Moment) {
        assert!(
            until > self.now,
            "at {:?} the machine waits for {:?}, so it would spin",
            self.now.0,
            until.0
        );
        self.wait = until;
    }

    #[track_caller]
    fn execute(&mut self, output: transport::Output<M::To>, peer: &mut impl Peer<M::To>) {
        match (output, self.link) {
            (transport::Output::Connect(to), _) => {
                self.close(peer);
                self.connect(to, peer);
            }
            (transport::Output::Send(bytes), Link::Open(_)) => self.send(&bytes, peer),
            (transport::Output::Send(bytes), link) => panic!(
                "the machine sends {} bytes at {:?} on a connection that is {link:?}",
                bytes.len(),
                self.now.0
            ),
            (transport::Output::ShutdownWrite, Link::Open(connection)) => {
                self.link = Link::Finished(connection);
                peer.shut_down(connection, self.now);
            }
            (transport::Output::ShutdownWrite, _) => {}
            (transport::Output::Close | transport::Output::Reset, _) => self.close(peer),
        }
    }

    fn connect(&mut self, to: M::To, peer: &mut impl Peer<M::To>) {
        match peer.connect(to, self.now) {
            Reply::Accepted(connection) => {
                self.link = Link::Open(connection);
                self.take_event(transport::Event::Connected);
            }
            Reply::Refused(why) => self.take_event(transport::Event::Disconnected(Some(why))),
            Reply::Silence => self.link = Link::Connecting,
        }
    }

    fn send(&mut self, mut bytes: &[u8], peer: &mut impl Peer<M::To>) {
        while let (Some(connection), false) = (self.connection(), bytes.is_empty()) {
            if is_spent(&mut self.requests_left) {
                return self.end(None, peer);
            }
            let (message, rest) = bytes.split_at(peer.message(bytes));
            peer.receive(connection, message, self.now);
            bytes = rest;
        }
    }

    /// Hands over what has arrived; false if that is nothing.
    fn deliver(&mut self, peer: &mut impl Peer<M::To>) -> bool {
        let mut any = false;
        while let Some(connection) = self.connection()
            && let Some(delivery) = peer.deliver(connection, self.now)
        {
            any = true;
            match delivery {
                _ if is_spent(&mut self.replies_left) => self.end(None, peer),
                Delivery::Bytes(bytes) => self.take_event(transport::Event::Received(&bytes)),
                Delivery::End(why) => self.end(why, peer),
            }
        }
        any
    }

    fn end(&mut self, why: Option<String>, peer: &mut impl Peer<M::To>) {
        self.close(peer);
        self.wait = self.now;
        self.take_event(transport::Event::Disconnected(why));
    }

    fn close(&mut self, peer: &mut impl Peer<M::To>) {
        if let Some(connection) = self.connection() {
            peer.close(connection);
        }
        self.link = Link::Closed;
    }
}

/// The output, without the address, of which nothing is known.
fn early<To>(output: &transport::Output<To>) -> String {
    match output {
        transport::Output::Connect(_) => "Connect".into(),
        transport::Output::Send(bytes) => format!("Send {} bytes", bytes.len()),
        transport::Output::ShutdownWrite => "ShutdownWrite".into(),
        transport::Output::Close => "Close".into(),
        transport::Output::Reset => "Reset".into(),
    }
}

/// Counts down; true once, when nothing is left.
fn is_spent(left: &mut Option<usize>) -> bool {
    match *left {
        Some(0) => {
            *left = None;
            return true;
        }
        Some(more) => *left = Some(more - 1),
        None => {}
    }
    false
}

//! What the loops of a run and of its guard need from the system: the only seam between them and
//! the kernel. [`Linux`] is the program's. The simulation in `tests/simulation` has another one, so
//! that it runs the same loops, in the same order, on simulated hosts.

use super::guard::{self, Job};
use super::guard_channel::{self, Incoming, Report};
use super::witness::Witness;
use crate::guard::Event as Command;
use crate::link::Link;
use crate::log::print;
use crate::moment::Moment;
use crate::prepare::Lookup;
use crate::signal::Signal;
use crate::sys::clock;
use crate::sys::poll::{self, Watched};
use crate::sys::process::{self, Pid, Reap};
use crate::sys::signals::{self, Received, Signals};
use crate::sys::timer::Timer;
use crate::sys::tree::{self, Process};
use crate::sys::{descriptors, scheduling};
use crate::transport;
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// The system, as the process sees it that calls.
pub trait System: Sized {
    /// The connection of a lock.
    type Link;
    /// One end of the channel between zk-flock and its guard.
    type Channel;
    /// The signals that a process reads.
    type Signals;
    /// Wakes a loop at a moment.
    type Timer;
    /// The witness; dropping it kills it.
    type Witness;

    /// Reads the clock.
    fn now() -> Moment;
    /// The id of this process.
    fn own_pid() -> Pid;

    /// Does this with the connection. The event is a connection that failed at once.
    fn execute(
        link: &mut Self::Link,
        output: transport::Output,
    ) -> Option<transport::Event<'static>>;
    /// Whether there is a connection.
    fn is_connected(link: &Self::Link) -> bool;
    /// The connection is ready: reports what happened to it.
    fn read(link: &mut Self::Link, report: impl FnMut(transport::Event));
    /// Whether a child is a helper command of the connection.
    fn is_helper(_link: &Self::Link, _child: Pid) -> bool {
        false
    }
    /// Whether a helper command of the connection was not reaped.
    fn has_helpers(_link: &Self::Link) -> bool {
        false
    }
    /// A child was reaped, which may be a helper command: reports what happened to the connection.
    fn helper_reaped(_link: &mut Self::Link, _child: Pid, _report: impl FnMut(transport::Event)) {}
    /// Ends a connection that a helper command carries, by this moment.
    fn part(_link: &mut Self::Link, _by: Moment) {}
    /// Kills the helper commands, which are reaped later.
    fn kill_helpers(_link: &mut Self::Link) {}

    /// Sleeps until a source is ready or that moment has come.
    fn sleep(sources: &Sources<Self>, timer: &mut Self::Timer, until: Moment) -> io::Result<Ready>;
    /// The next signal.
    fn next_signal(signals: &Self::Signals) -> Option<Received>;
    /// Sleeps until a signal arrives, for this long at most.
    fn await_signal(signals: &Self::Signals, limit: Duration);
    /// Stops this process until it is continued.
    fn stop_self(signal: Signal);

    /// Starts a witness.
    fn start_witness(signals: &Self::Signals) -> io::Result<Self::Witness>;
    /// The next report of the witness.
    fn witness_report(witness: &Self::Witness) -> Incoming<Report>;
    /// A child was reaped, which may be the witness.
    fn witness_reaped(witness: &mut Self::Witness, child: Pid);

    /// Starts the guard. Returns its id and this process's end of the channel.
    fn start_guard(job: &Job, signals: &Self::Signals) -> io::Result<(Pid, Self::Channel)>;
    /// Sends a command to the guard.
    fn send_command(channel: &Self::Channel, command: Command);
    /// The next report of the guard.
    fn receive_report(channel: &Self::Channel) -> Incoming<Report>;
    /// Closes the descriptors that the command has inherited.
    fn close_inherited();

    /// Reaps one child.
    fn reap() -> Reap;
    /// Sends a signal to a process.
    fn kill(pid: Pid, signal: Signal) -> io::Result<()>;
    /// Sends a signal to a process group.
    fn kill_group(leader: Pid, signal: Signal) -> io::Result<()>;
    /// Sends a signal to each of these.
    fn signal_all(processes: &[Process], signal: Signal);
    /// Sends KILL to all descendants of this process.
    fn kill_own();
    /// Sends KILL to the children of this process, if /proc cannot show them.
    fn kill_own_children_without_proc();
    /// The group of a process.
    fn group(pid: Pid) -> Option<Pid>;
    /// When a process was started, in the kernel's ticks.
    fn started(pid: Pid) -> Option<u64>;
    /// All descendants of a process.
    fn descendants(of: Pid) -> Vec<Process>;
    /// The same, without children older than that.
    fn descendants_since(of: Pid, since: Option<u64>) -> Vec<Process>;
    /// Asks to run ahead of ordinary processes.
    fn run_ahead();

    /// The guard sleeps until a source is ready or that moment has come.
    fn sleep_guard(
        signals: &Self::Signals,
        channel: Option<&Self::Channel>,
        timer: &mut Self::Timer,
        until: Moment,
    );
    /// The next command of zk-flock.
    fn receive_command(channel: &Self::Channel) -> Incoming<Command>;
    /// Reports to zk-flock.
    fn send_report(channel: &Self::Channel, report: Report);
    /// Prints a line on stderr.
    fn print(program: &str, message: &dyn Display);
}

/// What wakes the loop of a run.
pub struct Sources<'a, S: System> {
    /// Signals.
    pub signals: &'a S::Signals,
    /// The guard's reports.
    pub channel: Option<&'a S::Channel>,
    /// The witness's reports.
    pub witness: Option<&'a S::Witness>,
    /// The connection of the lock.
    pub link: &'a S::Link,
    /// The look-up of names.
    pub(super) lookup: &'a Lookup,
}

/// Which sources are ready.
#[derive(Debug, Default)]
pub struct Ready {
    /// Signals.
    pub signalled: bool,
    /// The guard's reports.
    pub reported: bool,
    /// The witness's reports.
    pub witnessed: bool,
    /// The connection, if there is one, and each helper of the look-up.
    pub lock: Vec<bool>,
}

/// The kernel.
pub(super) struct Linux;

impl System for Linux {
    type Link = Link;
    type Channel = OwnedFd;
    type Signals = Signals;
    type Timer = Timer;
    type Witness = Witness;

    fn now() -> Moment {
        clock::now()
    }

    fn own_pid() -> Pid {
        process::own_pid()
    }

    fn execute(link: &mut Link, output: transport::Output) -> Option<transport::Event<'static>> {
        link.execute(output)
    }

    fn is_connected(link: &Link) -> bool {
        link.is_connected()
    }

    fn read(link: &mut Link, report: impl FnMut(transport::Event)) {
        link.ready(report);
    }

    fn is_helper(link: &Link, child: Pid) -> bool {
        link.is_helper(child)
    }

    fn has_helpers(link: &Link) -> bool {
        link.has_helpers()
    }

    fn helper_reaped(link: &mut Link, child: Pid, report: impl FnMut(transport::Event)) {
        link.reaped(child, report);
    }

    fn part(link: &mut Link, by: Moment) {
        link.part(by);
    }

    fn kill_helpers(link: &mut Link) {
        link.kill_helpers();
    }

    fn sleep(sources: &Sources<Linux>, timer: &mut Timer, until: Moment) -> io::Result<Ready> {
        // Most deadlines of a short run only move on. A timer that fires too early costs a long run
        // less than setting it each time costs a short one.
        timer.set_by((until != Moment::NEVER).then_some(until));
        let fds = [
            Some(sources.signals.fd()),
            timer.fd(),
            sources.channel.map(AsFd::as_fd),
            sources.witness.map(Witness::channel),
        ];
        let present = fds.map(|fd| fd.is_some());
        let of_link = sources.link.watched().count();
        let mut watched: Vec<Watched> = fds
            .into_iter()
            .flatten()
            .map(|fd| Watched::new(fd, false))
            .chain(sources.link.watched())
            .chain(sources.lookup.watched())
            .collect();
        poll::wait(&mut watched, timer.poll_limit(clock::now()))?;
        let mut ready = watched.iter().map(Watched::ready);
        let [signalled, expired, reported, witnessed] =
            present.map(|present| present && ready.next().unwrap_or(false));
        let linked = ready
            .by_ref()
            .take(of_link)
            .fold(false, |any, one| any | one);
        let is_connected = sources.link.is_connected();
        let lock = is_connected.then_some(linked).into_iter().chain(ready);
        let lock = lock.collect();
        drop(watched);
        if expired {
            timer.clear();
        }
        Ok(Ready {
            signalled,
            reported,
            witnessed,
            lock,
        })
    }

    fn next_signal(signals: &Signals) -> Option<Received> {
        signals.next()
    }

    fn await_signal(signals: &Signals, limit: Duration) {
        let _ = poll::wait(&mut [Watched::new(signals.fd(), false)], Some(limit));
    }

    fn stop_self(signal: Signal) {
        let _ = signals::stop_self(signal);
    }

    fn start_witness(signals: &Signals) -> io::Result<Witness> {
        Witness::start(signals)
    }

    fn witness_report(witness: &Witness) -> Incoming<Report> {
        witness.receive()
    }

    fn witness_reaped(witness: &mut Witness, child: Pid) {
        witness.reaped(child);
    }

    fn start_guard(job: &Job, signals: &Signals) -> io::Result<(Pid, OwnedFd)> {
        guard::start(job, signals)
    }

    fn send_command(channel: &OwnedFd, command: Command) {
        guard_channel::send_command(channel, command);
    }

    fn receive_report(channel: &OwnedFd) -> Incoming<Report> {
        guard_channel::receive_report(channel)
    }

    fn close_inherited() {
        descriptors::close_inherited();
    }

    fn reap() -> Reap {
        process::reap()
    }

    fn kill(pid: Pid, signal: Signal) -> io::Result<()> {
        process::kill(pid, signal)
    }

    fn kill_group(leader: Pid, signal: Signal) -> io::Result<()> {
        process::kill_group(leader, signal)
    }

    fn signal_all(processes: &[Process], signal: Signal) {
        tree::signal_all(processes, signal);
    }

    fn kill_own() {
        tree::kill_own();
    }

    fn kill_own_children_without_proc() {
        tree::kill_own_children_without_proc();
    }

    fn group(pid: Pid) -> Option<Pid> {
        process::group(pid)
    }

    fn started(pid: Pid) -> Option<u64> {
        tree::find(pid).map(|process| process.started)
    }

    fn descendants(of: Pid) -> Vec<Process> {
        tree::descendants(of)
    }

    fn descendants_since(of: Pid, since: Option<u64>) -> Vec<Process> {
        tree::descendants_since(of, since)
    }

    fn run_ahead() {
        let _ = scheduling::run_ahead(); // without the right to, it goes on at normal priority
    }

    fn sleep_guard(signals: &Signals, channel: Option<&OwnedFd>, timer: &mut Timer, until: Moment) {
        let now = clock::now();
        timer.set((until != Moment::NEVER).then_some(until));
        let channel = channel.map(AsFd::as_fd);
        let mut watched: Vec<Watched> = [Some(signals.fd()), timer.fd(), channel]
            .into_iter()
            .flatten()
            .map(|fd| Watched::new(fd, false))
            .collect();
        let _ = poll::wait(&mut watched, timer.poll_limit(now));
        timer.clear();
    }

    fn receive_command(channel: &OwnedFd) -> Incoming<Command> {
        guard_channel::receive_command(channel)
    }

    fn send_report(channel: &OwnedFd, report: Report) {
        guard_channel::send_report(channel, report);
    }

    fn print(program: &str, message: &dyn Display) {
        print(program, message);
    }
}

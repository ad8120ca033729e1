//! The guard's own process: starts the command, owns its tree, and does what the pure `guard` says.
//! Forked from zk-flock just before the start; from then on the two share nothing but the line
//! between them.

use super::guard_channel::{self, Incoming, Report};
use crate::deadlines::Deadlines;
use crate::delivery::Reach;
use crate::guard::{Action, Event, Guard, GuardEvent};
use crate::log::print;
use crate::moment::Moment;
use crate::plan::Command;
use crate::signal::{Signal, Status};
use crate::sys::clock::now;
use crate::sys::poll::{self, Watched};
use crate::sys::process::{self, Fork, Pid, Reap};
use crate::sys::signals::Signals;
use crate::sys::spawn::spawn;
use crate::sys::timer::Timer;
use crate::sys::tree::Process;
use crate::sys::{file, scheduling, socket, tree};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// What the guard's process is called in `ps`: not our name, nor the command's, which scripts look
/// for.
const NAME: &str = "lock-guard";

/// Variables that a command finds set so, or not set at all.
pub(super) type Environment = [(&'static str, Option<String>); 5];

/// What to start, and how to guard it.
pub(super) struct Job<'a> {
    /// Leads the one line that a guard may have to write itself.
    pub(super) program: &'static str,
    pub(super) command: &'a Command,
    pub(super) environment: Option<Environment>,
    pub(super) death_signal: Option<Signal>,
    pub(super) kill_after: Duration,
    pub(super) lease: Deadlines,
    /// An open lock file that must stay open while anything of the tree lives.
    pub(super) keep: Option<BorrowedFd<'a>>,
}

/// Forks the guard. Returns its id, and our end of the line to it.
pub(super) fn start(job: &Job, signals: &Signals) -> io::Result<(Pid, OwnedFd)> {
    process::become_subreaper()?; // inherits the tree if the guard dies
    let (ours, theirs) = socket::pair()?;
    match process::fork()? {
        Fork::Parent(guard) => Ok((guard, ours)),
        Fork::Child => {
            drop(ours);
            if let Err(error) = keep_watch(job, &theirs, signals) {
                guard_channel::send_report(
                    &theirs,
                    Report::CannotStart(error.raw_os_error().unwrap_or(0)),
                );
            }
            process::exit_now(0)
        }
    }
}

/// Starts the command and stays until nothing is left to do. An error is one of starting.
fn keep_watch(job: &Job, line: &OwnedFd, signals: &Signals) -> io::Result<()> {
    process::become_subreaper()?;
    let heard = signals.guard()?;
    let timer = Timer::new()?;
    // Without a terminal the command leads a process group of its own, so that a signal to ours
    // reaches it only through us, once. With one it stays in ours, for job control and Ctrl-C;
    // there a witness says what has come to the group.
    let own = process::own_pid();
    let terminal = process::rename(NAME, own);
    if now() >= job.lease.term {
        // We, or the whole host, were stopped on the way here.
        guard_channel::send_report(line, Report::Guard(GuardEvent::LeaseExpired));
        guard_channel::send_report(line, Report::Guard(GuardEvent::TreeGone));
        return Ok(());
    }
    // If guard and zk-flock die together, nobody is left to be gentle.
    let death_signal = job.death_signal.map(|_| Signal::KILL);
    let variables = job
        .environment
        .as_ref()
        .map_or(&[][..], |variables| variables);
    let command = spawn(
        &job.command.words,
        variables,
        signals.inherited(),
        death_signal,
        own,
        terminal == Some(false),
    )?;
    // Only now, so that the command was born into the group that it belongs to; and at once,
    // because a signal to a control group cannot be told from one to the group before. A
    // session, and not a group alone: in a group, we would be what keeps the command's from
    // being an orphaned one, and its end would send all of that group a HUP if any of it is
    // stopped (setpgid(2), _exit(2)).
    let _ = process::own_session();
    // What came until now may have come to the group that we were in, and says nothing of a control
    // group.
    let mut ended = false;
    while let Some(received) = heard.next() {
        ended |= received.signal == Signal::CHLD;
    }
    guard_channel::send_report(line, Report::Started { command, terminal });
    // Only now, because the command inherits what zk-flock did; and at once, because a pipe must
    // end when the command closes it.
    let kept = [job.keep, Some(line.as_fd()), Some(heard.fd()), timer.fd()];
    file::close_all_except(&kept.into_iter().flatten().collect::<Vec<_>>());
    let guard = Guard::new(job.death_signal, job.kill_after, job.lease);
    let mut watch = Watch {
        program: job.program,
        guard,
        command: Some(command),
        line,
        zk_flock: process::parent_pid(),
        alone: false,
        told: Vec::new(),
        killing: false,
        left: false,
    };
    if ended {
        watch.reap();
    }
    watch.keep(&heard, timer);
    Ok(())
}

/// The guard at work.
struct Watch<'a> {
    program: &'static str,
    guard: Guard,
    /// Until it is reaped; its id may be another's then.
    command: Option<Pid>,
    line: &'a OwnedFd,
    zk_flock: Pid,
    /// zk-flock is dead.
    alone: bool,
    /// The tree as it was when it was last told to end.
    told: Vec<Process>,
    /// What is left of the tree is to die.
    killing: bool,
    left: bool,
}

impl Watch<'_> {
    fn keep(mut self, signals: &Signals, mut timer: Timer) {
        while !self.left {
            let now = now();
            let wake = self.guard.wake();
            timer.set((wake != Moment::NEVER).then_some(wake));
            let line = (!self.alone).then(|| self.line.as_fd());
            let mut watched: Vec<Watched> = [Some(signals.fd()), timer.fd(), line]
                .into_iter()
                .flatten()
                .map(|fd| Watched::new(fd, false))
                .collect();
            let _ = poll::wait(&mut watched, timer.poll_limit(now));
            timer.clear();
            self.listen(); // before the clock: if it was only we who were stopped, the lease was proved meanwhile
            self.step(Event::Tick);
            self.hear_signals(signals);
            self.reap();
        }
    }

    fn step(&mut self, event: Event) {
        for action in self.guard.step(event, now()) {
            match action {
                Action::ToCommand(signal) => {
                    drop(self.command.map(|command| process::kill(command, signal)));
                }
                Action::ToTree(signal, reach) => self.signal_tree(signal, reach),
                Action::Kill => self.kill(),
                Action::RunAhead => drop(scheduling::run_ahead()), /* or goes on as it is, where */
                // that is not allowed
                Action::Report(event) => {
                    guard_channel::send_report(self.line, Report::Guard(event));
                }
                Action::Exit => self.left = true,
            }
        }
    }

    fn listen(&mut self) {
        while !self.alone && !self.left {
            match guard_channel::receive_command(self.line) {
                Incoming::Message(order) => self.step(order),
                Incoming::Nothing => return,
                Incoming::Closed => {
                    self.alone = true;
                    self.step(Event::Orphaned);
                    if !self.left && !self.killing {
                        self.complain();
                    }
                }
            }
        }
    }

    /// What is sent to us and is not for us was sent to a whole control group.
    fn hear_signals(&self, signals: &Signals) {
        while let Some(received) = signals.next() {
            if received.signal != Signal::CHLD && !self.alone {
                guard_channel::send_report(self.line, Report::Witnessed(received.sent()));
            }
        }
    }

    /// Reaps what has ended.
    fn reap(&mut self) {
        while !self.left {
            match process::reap() {
                Reap::Ended(pid, status) => self.ended(pid, status),
                Reap::Running => return,
                Reap::NoChildren => return self.step(Event::NoChildren),
            }
        }
    }

    fn ended(&mut self, pid: Pid, status: Status) {
        if self.command == Some(pid) {
            self.command = None;
            self.step(Event::Ended(status));
        }
    }

    /// The command first, so that a shell does not go on with its next line because the one before
    /// was killed; and only who is there now: what a command starts in order to clean up is let
    /// finish.
    fn signal_tree(&mut self, signal: Signal, reach: Reach) {
        self.told = tree::descendants(process::own_pid());
        match reach {
            Reach::Here => self.send(signal, None),
            Reach::Group => self.send(signal, process::group(self.zk_flock)),
            Reach::Everywhere => {}
        }
        if signal == Signal::TERM {
            self.send(Signal::CONT, None); // so that what is stopped can end
        }
    }

    /// To each process of the tree but those in the group that `reached` names, which have the
    /// signal already. The command is signalled by its id even if /proc does not show it: it may be
    /// hidden (hidepid), and its id is its own until the guard reaps it.
    fn send(&self, signal: Signal, reached: Option<Pid>) {
        let is_due = |group| reached.is_none_or(|reached| group != Some(reached));
        if let Some(command) = self.command
            && is_due(process::group(command))
        {
            // If /proc shows no process at all, the group that the command leads, if it leads one,
            // stands for the tree.
            let group = self
                .told
                .is_empty()
                .then(|| process::kill_group(command, signal));
            if !matches!(group, Some(Ok(()))) {
                let _ = process::kill(command, signal);
            }
        }
        let rest = self
            .told
            .iter()
            .filter(|process| Some(process.pid) != self.command);
        let due: Vec<Process> = rest
            .filter(|process| is_due(Some(process.group)))
            .copied()
            .collect();
        tree::signal_all(&due, signal);
    }

    /// The command first, then what was told to end and has not, then all of the tree: to look for
    /// it takes long on a host of many processes where the kernel does not list children (60 µs
    /// for each of them, without root's rights on a busy machine).
    fn kill(&mut self) {
        self.killing = true;
        if let Some(command) = self.command {
            let _ = process::kill(command, Signal::KILL);
        }
        tree::signal_all(&std::mem::take(&mut self.told), Signal::KILL);
        tree::kill_own();
    }

    /// zk-flock died without a word; so this is the word.
    fn complain(&self) {
        let Pid(dead) = self.zk_flock;
        let job = self.command.map_or(0, |Pid(command)| command);
        print(
            self.program,
            &format_args!("process {dead} was killed; ending its job (pid {job})"),
        );
    }
}

//! The guard's process: starts the command, owns its process tree, and carries out the actions of
//! the state machine `guard`. zk-flock forks it just before the start of the command; from then on
//! the two processes share only the channel between them.

use super::guard_channel::{self, Incoming, Report};
use super::system::{Linux, System};
use crate::deadlines::Deadlines;
use crate::delivery::Reach;
use crate::guard::{Action, Event, Guard, GuardEvent};
use crate::lock::Proof;
use crate::moment::Moment;
use crate::plan::{Command, Notify, OuterLock, notify, outer};
use crate::signal::{Signal, Status};
use crate::sys::process::{self, Fork, Pid, Reap};
use crate::sys::signals::Signals;
use crate::sys::spawn::spawn;
use crate::sys::timer::Timer;
use crate::sys::tree::Process;
use crate::sys::{file, socket};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The guard's process name in `ps`. Not the name of zk-flock or of the command, because scripts
/// search for those.
const NAME: &str = "lock-guard";

/// The variable that names the lock.
const LOCK: &str = "ZK_FLOCK_LOCK";

/// Environment variables that the command gets with these values, or without which it starts.
pub(super) type Environment = Vec<(&'static str, Option<String>)>;

/// The variables that tell a command about its lock. `None`: the variable is removed, since this
/// process may run under another lock. With `--notify`, the command does not get the variables of
/// the service manager, unless it is meant to: its messages would be taken for those of the run.
pub(super) fn environment(
    proof: &Proof,
    outer: &[OuterLock],
    notify: Option<&Notify>,
) -> Environment {
    let removed: &[&str] = match notify {
        Some(Notify { pass: false, .. }) => &notify::VARIABLES,
        _ => &[],
    };
    let lock = [
        ("ZK_FLOCK_HELD", Some("1".into())),
        (LOCK, Some(proof.lock.clone())),
        ("ZK_FLOCK_TOKEN", proof.token.map(|token| token.to_string())),
        (
            "ZK_FLOCK_SESSION",
            proof.session.map(|session| format!("0x{session:x}")),
        ),
        (outer::VARIABLE, outer::list(outer)),
    ];
    lock.into_iter()
        .chain(removed.iter().map(|&name| (name, None)))
        .collect()
}

/// The lock for `ps`: the last element of its path. Those before it may name zk-flock.
fn lock_name<'a>(job: &'a Job) -> &'a str {
    let variables = job.environment.iter().flatten();
    let lock = variables
        .filter(|(name, _)| *name == LOCK)
        .find_map(|(_, value)| value.as_deref());
    let name = lock.and_then(|lock| lock.rsplit('/').next());
    name.unwrap_or_default()
}

/// The command to start, and how to guard it.
pub struct Job<'a> {
    /// Starts the one line that the guard may print itself.
    pub program: &'static str,
    pub(super) command: &'a Command,
    /// The variables that tell the command about its lock.
    pub environment: Option<Environment>,
    /// Sent to the command if zk-flock dies.
    pub death_signal: Option<Signal>,
    /// Time between that signal and KILL.
    pub kill_after: Duration,
    /// Until when the lock is held.
    pub lease: Deadlines,
    /// An open lock file that must stay open while a process of the tree lives.
    pub keep: Option<BorrowedFd<'a>>,
}

/// Forks the guard. Returns its id, and this process's end of the channel to it.
pub(super) fn start(job: &Job, signals: &Signals) -> io::Result<(Pid, OwnedFd)> {
    process::become_subreaper()?; // this process inherits the tree if the guard dies
    let (channel, guard_end) = socket::pair()?;
    match process::fork()? {
        Fork::Parent(guard) => Ok((guard, channel)),
        Fork::Child => {
            drop(channel);
            if let Err(error) = guard_main(job, &guard_end, signals) {
                guard_channel::send_report(
                    &guard_end,
                    Report::CannotStart(error.raw_os_error().unwrap_or(0)),
                );
            }
            process::exit_now(0)
        }
    }
}

/// Starts the command, and guards it until nothing is left to do. An error means that the command
/// was not started.
fn guard_main(job: &Job, channel: &OwnedFd, signals: &Signals) -> io::Result<()> {
    process::become_subreaper()?;
    let guard_signals = signals.guard()?;
    let timer = Timer::new()?;
    // Without a terminal, the command leads its own process group, so that a signal to zk-flock's
    // group reaches the command only once, forwarded by zk-flock. With a terminal, the command stays
    // in zk-flock's group, for job control and Ctrl-C; there a witness reports which signals the
    // group has received.
    let own = process::own_pid();
    let terminal = process::rename_for(NAME, lock_name(job), own);
    if is_too_late::<Linux>(job.lease, channel) {
        return Ok(());
    }
    // If guard and zk-flock die together, no process is left to send TERM first.
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
    // After the start, so that the command was born into its process group. At once, because
    // before it a signal to the control group looks like one to the process group. A session, and
    // not only a group: a guard in a group of the same session would keep the command's group from
    // being orphaned, and the guard's exit would send HUP to that group if one of its processes is
    // stopped (setpgid(2), _exit(2)).
    let _ = process::own_session();
    // Signals received before this point may have been sent to the process group, so they prove
    // nothing about a control group.
    let mut ended = false;
    while let Some(received) = guard_signals.next() {
        ended |= received.signal == Signal::CHLD;
    }
    guard_channel::send_report(channel, Report::Started { command, terminal });
    // After the start, because the command inherits the descriptors that zk-flock inherited. At
    // once, because a reader of a pipe waits until the guard has closed it too.
    let kept = [
        job.keep,
        Some(channel.as_fd()),
        Some(guard_signals.fd()),
        timer.fd(),
    ];
    file::close_all_except(&kept.into_iter().flatten().collect::<Vec<_>>());
    let parent = process::parent_pid();
    let guard = Guard::new(job.death_signal, job.kill_after, job.lease);
    let mut guard_loop = GuardLoop::<Linux>::new(job.program, guard, command, channel, parent);
    if ended {
        guard_loop.reap();
    }
    guard_loop.run(&guard_signals, timer);
    Ok(())
}

/// Whether the lease has expired before the command is started, because zk-flock or the whole host
/// was stopped. If so, reports that the command does not run.
pub fn is_too_late<S: System>(lease: Deadlines, channel: &S::Channel) -> bool {
    let late = S::now() >= lease.term;
    if late {
        S::send_report(channel, Report::Guard(GuardEvent::LeaseExpired));
        S::send_report(channel, Report::Guard(GuardEvent::TreeGone));
    }
    late
}

/// The guard's poll loop.
pub struct GuardLoop<'a, S: System> {
    program: &'static str,
    guard: Guard,
    /// `None` after it was reaped: another process may have its id then.
    command: Option<Pid>,
    channel: &'a S::Channel,
    zk_flock: Pid,
    /// zk-flock is dead.
    orphaned: bool,
    /// The processes of the tree when it was last signalled.
    signalled: Vec<Process>,
    /// The rest of the tree is being killed.
    killing: bool,
    exiting: bool,
    system: PhantomData<S>,
}

impl<'a, S: System> GuardLoop<'a, S> {
    /// Guards a command that was just started by this process, the child of `zk_flock`.
    pub fn new(
        program: &'static str,
        guard: Guard,
        command: Pid,
        channel: &'a S::Channel,
        zk_flock: Pid,
    ) -> GuardLoop<'a, S> {
        GuardLoop {
            program,
            guard,
            command: Some(command),
            channel,
            zk_flock,
            orphaned: false,
            signalled: Vec::new(),
            killing: false,
            exiting: false,
            system: PhantomData,
        }
    }

    fn run(mut self, signals: &S::Signals, mut timer: S::Timer) {
        while !self.exiting {
            let channel = (!self.orphaned).then_some(self.channel);
            S::sleep_guard(signals, channel, &mut timer, self.guard.wake());
            self.on_wake(signals);
        }
    }

    /// Until when the guard sleeps if nothing happens; `None` if it exits.
    pub fn wake(&self) -> Option<Moment> {
        (!self.exiting).then(|| self.guard.wake())
    }

    /// Handles what has happened during the sleep.
    pub fn on_wake(&mut self, signals: &S::Signals) {
        // Before the clock: if only the guard was stopped, the lease was renewed in the meantime.
        self.receive_commands();
        self.step(Event::Tick);
        self.receive_signals(signals);
        self.reap();
    }

    fn step(&mut self, event: Event) {
        for action in self.guard.step(event, S::now()) {
            match action {
                Action::ToCommand(signal) => {
                    drop(self.command.map(|command| S::kill(command, signal)));
                }
                Action::ToTree(signal, reach) => self.signal_tree(signal, reach),
                Action::Kill => self.kill(),
                Action::RunAhead => S::run_ahead(),
                Action::Report(event) => {
                    S::send_report(self.channel, Report::Guard(event));
                }
                Action::Exit => self.exiting = true,
            }
        }
    }

    fn receive_commands(&mut self) {
        while !self.orphaned && !self.exiting {
            match S::receive_command(self.channel) {
                Incoming::Message(command) => self.step(command),
                Incoming::Nothing => return,
                Incoming::Closed => {
                    self.orphaned = true;
                    self.step(Event::Orphaned);
                    if !self.exiting && !self.killing {
                        self.print_death();
                    }
                }
            }
        }
    }

    /// Reports received signals. No process signals the guard orphaned, so they were sent to the whole
    /// control group.
    fn receive_signals(&self, signals: &S::Signals) {
        while let Some(received) = S::next_signal(signals) {
            if received.signal != Signal::CHLD && !self.orphaned {
                S::send_report(self.channel, Report::Witnessed(received.sent()));
            }
        }
    }

    /// Reaps the children that have ended.
    pub fn reap(&mut self) {
        while !self.exiting {
            match S::reap() {
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

    /// Signals the tree. The command comes first, so that a shell does not continue with its next
    /// line because the process of the line before was killed. Only processes that exist now are
    /// signalled, so that a process that the command starts for its cleanup can finish.
    fn signal_tree(&mut self, signal: Signal, reach: Reach) {
        self.signalled = S::descendants(S::own_pid());
        match reach {
            Reach::Here => self.send(signal, None),
            Reach::Group => self.send(signal, S::group(self.zk_flock)),
            Reach::Everywhere => {}
        }
        if signal == Signal::TERM {
            self.send(Signal::CONT, None); // a stopped process must run to handle TERM
        }
    }

    /// Sends a signal to each process of the tree, except for those in the process group `reached`,
    /// which have received it already. The command is signalled by its id even if /proc does not
    /// show it: /proc may hide it (hidepid), and no other process gets its id before the guard has
    /// reaped it.
    fn send(&self, signal: Signal, reached: Option<Pid>) {
        let is_due = |group| reached.is_none_or(|reached| group != Some(reached));
        if let Some(command) = self.command
            && is_due(S::group(command))
        {
            // If /proc shows no process at all, the command's process group, if it leads one, is
            // signalled instead of the tree.
            let group = self
                .signalled
                .is_empty()
                .then(|| S::kill_group(command, signal));
            if !matches!(group, Some(Ok(()))) {
                let _ = S::kill(command, signal);
            }
        }
        let rest = self
            .signalled
            .iter()
            .filter(|process| Some(process.pid) != self.command);
        let due: Vec<Process> = rest
            .filter(|process| is_due(Some(process.group)))
            .copied()
            .collect();
        S::signal_all(&due, signal);
    }

    /// Kills the command first, then the processes that were signalled before, then all of the
    /// tree. The search for the tree takes long on a host with many processes where the kernel does
    /// not list children (60 µs for each process, as an ordinary user on a busy machine).
    fn kill(&mut self) {
        self.killing = true;
        if let Some(command) = self.command {
            let _ = S::kill(command, Signal::KILL);
        }
        S::signal_all(&std::mem::take(&mut self.signalled), Signal::KILL);
        S::kill_own();
    }

    /// Prints that zk-flock was killed, which cannot print it itself.
    fn print_death(&self) {
        let Pid(dead) = self.zk_flock;
        let command = self.command.map_or(0, |Pid(command)| command);
        S::print(
            self.program,
            &format_args!("process {dead} was killed; stopping its command (pid {command})"),
        );
    }
}

//! Signals read from a signalfd, with their sender. They are blocked. Signals that were ignored on
//! entry stay ignored.

use super::disposition::{self, Disposition};
use super::inherited::Inherited;
use super::mask::Mask;
use super::{check, entry, listen_pid, opened, process};
use crate::delivery::{COUNTED, Sent};
use crate::signal::{Signal, Status};
use std::ffi::c_ulong;
use std::fs::File;
use std::io::{self, Read};
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd};

/// The signals that a supervisor of a command reads, besides SIGCHLD: those that it forwards, and
/// those that stop it.
const READ_BY_SUPERVISOR: [Signal; 9] = [
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::QUIT,
    Signal::TSTP,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
    Signal::CONT,
];

/// Further signals that must not end or stop a background process of another's terminal.
const FROM_TERMINAL_AND_PIPES: [Signal; 3] = [Signal::TTIN, Signal::TTOU, Signal::PIPE];

/// The signals of this process, read one by one.
#[derive(Debug)]
pub struct Signals {
    file: File,
    inherited: Inherited,
}

/// One received signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// The signal.
    pub signal: Signal,
    /// Whether the kernel sent it, e.g. for a key typed at the terminal.
    pub from_terminal: bool,
    /// The sending process; 0 if the kernel sent it, or if the sender is not visible.
    pub sender: i32,
}

impl Received {
    /// The signal and its sender.
    pub fn sent(&self) -> Sent {
        Sent {
            signal: self.signal,
            sender: self.sender,
        }
    }
}

impl Signals {
    /// Blocks all of `READ_BY_SUPERVISOR` that is not ignored, and SIGCHLD in any case. Called once, before the
    /// first fork.
    pub fn take() -> io::Result<Signals> {
        Signals::take_only(&READ_BY_SUPERVISOR)
    }

    /// The same with these signals only, for a program without a command.
    pub fn take_only(signals: &[Signal]) -> io::Result<Signals> {
        let heard = signals
            .iter()
            .copied()
            .filter(|&signal| disposition::of(signal) == Disposition::Default);
        let mask = Mask::of(heard.chain([Signal::CHLD]));
        let child = disposition::of(Signal::CHLD);
        disposition::set(Signal::CHLD, Disposition::Default)?;
        let (pipe, file_size, sockets) = (
            entry::pipe(),
            entry::file_size(),
            listen_pid::names_this_process(),
        );
        let inherited = Inherited {
            mask: mask.block()?,
            child,
            pipe,
            file_size,
            sockets,
        };
        Ok(Signals {
            file: readable(&mask)?,
            inherited,
        })
    }

    /// For the guard, after fork: reads SIGCHLD, and signals as a witness does. A command still
    /// inherits the state on entry.
    pub fn guard(&self) -> io::Result<Signals> {
        self.witness_and(&[Signal::CHLD])
    }

    /// For a process that only reports the signals it gets, after fork: every signal that can be
    /// blocked is blocked.
    pub fn witness(&self) -> io::Result<Signals> {
        self.witness_and(&[])
    }

    fn witness_and(&self, others: &[Signal]) -> io::Result<Signals> {
        Mask::of(
            READ_BY_SUPERVISOR
                .into_iter()
                .chain(FROM_TERMINAL_AND_PIPES),
        )
        .block()?;
        Ok(Signals {
            file: readable(&Mask::of(COUNTED.iter().chain(others).copied()))?,
            inherited: self.inherited,
        })
    }

    /// The descriptor to watch for reading.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The next received signal, if any.
    pub fn next(&self) -> Option<Received> {
        type Record = libc::signalfd_siginfo;
        let mut record = [0; size_of::<Record>()];
        (&self.file).read_exact(&mut record).ok()?;
        let field = |at: usize| {
            i32::from_ne_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
        };
        Some(Received {
            signal: Signal(field(offset_of!(Record, ssi_signo))),
            from_terminal: field(offset_of!(Record, ssi_code)) == libc::SI_KERNEL,
            sender: field(offset_of!(Record, ssi_pid)),
        })
    }

    /// The state for a command.
    pub fn inherited(&self) -> Inherited {
        self.inherited
    }
}

/// Opens a signalfd for these signals.
fn readable(mask: &Mask) -> io::Result<File> {
    // SAFETY: signalfd(2) reads the one set; −1 asks for a new descriptor.
    opened(unsafe { libc::signalfd(-1, mask.as_raw(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) })
        .map(File::from)
}

/// Turns exceeding RLIMIT_FSIZE into an error of write(2); by default its signal kills the process.
pub fn survive_file_limit() {
    // It cannot fail: this signal can be ignored.
    let _ = disposition::set(Signal::XFSZ, Disposition::Ignored);
}

/// Stops this process by `signal`, a stop signal, as if it had never been blocked. Returns after
/// SIGCONT.
pub fn stop_self(signal: Signal) -> io::Result<()> {
    let found = deliver(signal)?;
    found.restore()?;
    Ok(())
}

/// Ends this process by `signal`, so that its parent sees the signal; without a core dump, which
/// would be of the wrong program. Exits with a code if the signal does not end a process.
pub fn die_of(signal: Signal) -> ! {
    // SAFETY: prctl(2) with PR_SET_DUMPABLE takes one number and touches no memory. Unlike
    // RLIMIT_CORE it also applies to a core_pattern that pipes.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0 as c_ulong) };
    // If any of this fails, the exit code remains.
    let _ = disposition::set(signal, Disposition::Default);
    let _ = deliver(signal);
    process::exit_now(Status::Killed(signal).code())
}

/// Sends this process a signal and unblocks it; returns the mask before.
fn deliver(signal: Signal) -> io::Result<Mask> {
    // SAFETY: raise(3) touches no memory; no handler is installed.
    check(unsafe { libc::raise(signal.0) })?;
    Mask::of([signal]).unblock()
}

#[cfg(test)]
mod tests {
    use super::super::process::{Fork, Pid, fork, kill, own_pid, wait};
    use super::super::testing::{check_in_child, in_child};
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn signal_is_read_with_its_sender() {
        check_in_child(|| {
            let signals = Signals::take().unwrap();
            for signal in READ_BY_SUPERVISOR {
                kill(own_pid(), signal).unwrap();
                assert_eq!(
                    signals.next(),
                    Some(Received {
                        signal,
                        from_terminal: false,
                        sender: own_pid().0
                    })
                );
            }
            assert_eq!(signals.next(), None);
        });
    }

    #[test]
    fn ignored_signals_stay_ignored_except_sigchld() {
        check_in_child(|| {
            for signal in [Signal::HUP, Signal::CHLD] {
                disposition::set(signal, Disposition::Ignored).unwrap();
            }
            let signals = Signals::take().unwrap();
            assert_eq!(signals.inherited().child, Disposition::Ignored);
            for signal in [Signal::HUP, Signal::CHLD] {
                kill(own_pid(), signal).unwrap();
            }
            assert_eq!(
                signals.next().map(|received| received.signal),
                Some(Signal::CHLD)
            );
            assert_eq!(signals.next(), None);
        });
    }

    #[test]
    fn guard_and_witness_read_their_signals_and_survive() {
        type Other = fn(&Signals) -> io::Result<Signals>;
        for (other, expected) in [
            (Signals::guard as Other, &[Signal::CHLD][..]),
            (Signals::witness as Other, &[]),
        ] {
            check_in_child(|| {
                let signals = other(&Signals::take().unwrap()).unwrap();
                for signal in READ_BY_SUPERVISOR
                    .into_iter()
                    .chain(FROM_TERMINAL_AND_PIPES)
                    .chain([Signal::CHLD])
                {
                    kill(own_pid(), signal).unwrap();
                }
                let heard: HashSet<Signal> = std::iter::from_fn(|| signals.next())
                    .map(|received| received.signal)
                    .collect();
                assert_eq!(heard, COUNTED.iter().chain(expected).copied().collect());
            });
        }
    }

    #[test]
    fn parent_sees_death_by_signal() {
        // Their default action is to stop the process or to do nothing; 32 to 34 belong to the C
        // library.
        let stop = [Signal::STOP, Signal::TSTP, Signal::TTIN, Signal::TTOU];
        let harmless = [Signal::CHLD, Signal::CONT, Signal::URG, Signal::WINCH];
        for signal in (1..=31)
            .chain(35..=64)
            .map(Signal)
            .filter(|signal| !stop.contains(signal))
        {
            let status = in_child(|| {
                let _ = disposition::set(signal, Disposition::Ignored);
                Mask::of([signal]).block().unwrap();
                die_of(signal)
            });
            let expected = if harmless.contains(&signal) {
                Status::Exited(Status::Killed(signal).code())
            } else {
                Status::Killed(signal)
            };
            assert_eq!(status, expected, "{signal}");
        }
    }

    #[test]
    fn parent_sees_a_stop_and_can_continue_it() {
        check_in_child(|| {
            // In a group whose parent is in another group of the same session; otherwise TSTP has
            // no effect. SAFETY: setsid(2) touches no memory.
            check(unsafe { libc::setsid() }).unwrap();
            let Fork::Parent(child) = fork().unwrap() else {
                // A group, not a session: the kernel does not let TSTP stop an orphaned group.
                // SAFETY: setpgid(2) touches no memory.
                check(unsafe { libc::setpgid(0, 0) }).unwrap();
                let signals = Signals::take().unwrap();
                stop_self(Signal::TSTP).unwrap();
                let continued = signals.next().map(|received| received.signal);
                kill(own_pid(), Signal::TSTP).unwrap();
                let blocked_again = signals.next().map(|received| received.signal);
                process::exit_now(u8::from(
                    [continued, blocked_again] != [Some(Signal::CONT), Some(Signal::TSTP)],
                ))
            };
            assert_eq!(stopped(child), Signal::TSTP);
            kill(child, Signal::CONT).unwrap();
            assert_eq!(
                wait(child).unwrap(),
                Status::Exited(0),
                "it goes on, and hears of signals as before"
            );
        });
    }

    /// Waits until a child is stopped; returns the stop signal.
    fn stopped(child: Pid) -> Signal {
        let mut status = 0;
        // SAFETY: waitpid(2) writes one int.
        check(unsafe { libc::waitpid(child.0, &raw mut status, libc::WUNTRACED) }).unwrap();
        assert!(libc::WIFSTOPPED(status), "{status:#x}");
        Signal(libc::WSTOPSIG(status))
    }
}

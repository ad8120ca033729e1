//! Signals as news to read: blocked, and taken from a signalfd together with who sent them. What
//! was ignored on entry stays ignored.

use super::disposition::{self, Disposition};
use super::inherited::Inherited;
use super::mask::Mask;
use super::{check, entry, listen_pid, opened, process};
use crate::delivery::{COUNTED, Sent};
use crate::plan::Status;
use crate::signal::Signal;
use std::ffi::c_ulong;
use std::fs::File;
use std::io::{self, Read};
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd};

/// What a program that supervises a command wants to hear of besides its end: what it forwards, and
/// what stops it.
const HEARD: [Signal; 9] = [
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

/// What else must not end or stop a process that has the terminal of others.
const FROM_TERMINAL_AND_PIPES: [Signal; 3] = [Signal::TTIN, Signal::TTOU, Signal::PIPE];

/// The signals of this process, to be read one by one.
#[derive(Debug)]
pub struct Signals {
    file: File,
    inherited: Inherited,
}

/// One signal, and where it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Which.
    pub signal: Signal,
    /// Whether the kernel sent it, as for a key typed at the terminal.
    pub from_terminal: bool,
    /// Process that sent it; 0 if none did, or none that this process can see.
    pub sender: i32,
}

impl Received {
    /// What was sent by whom.
    pub fn sent(&self) -> Sent {
        Sent {
            signal: self.signal,
            sender: self.sender,
        }
    }
}

impl Signals {
    /// Blocks all that is to be heard and is not ignored, and SIGCHLD in any case. Once, before the
    /// first fork.
    pub fn take() -> io::Result<Signals> {
        Signals::hear(&HEARD)
    }

    /// The same with these signals only: for a program without a command.
    pub fn hear(signals: &[Signal]) -> io::Result<Signals> {
        let heard = signals
            .iter()
            .copied()
            .filter(|&signal| disposition::of(signal) == Disposition::Default);
        let mask = Mask::of(heard.chain([Signal::CHLD]));
        let child = disposition::of(Signal::CHLD);
        disposition::set(Signal::CHLD, Disposition::Default)?;
        let (pipe, file_size, sockets) =
            (entry::pipe(), entry::file_size(), listen_pid::names_us());
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

    /// For the guard, after fork: the ends of children are heard, and signals as by a witness. The
    /// command is still handed what was found on entry.
    pub fn guard(&self) -> io::Result<Signals> {
        self.witness_and(&[Signal::CHLD])
    }

    /// For a process that only says what it was sent, after fork: nothing that can be blocked
    /// disturbs it.
    pub fn witness(&self) -> io::Result<Signals> {
        self.witness_and(&[])
    }

    fn witness_and(&self, others: &[Signal]) -> io::Result<Signals> {
        Mask::of(HEARD.into_iter().chain(FROM_TERMINAL_AND_PIPES)).block()?;
        Ok(Signals {
            file: readable(&Mask::of(COUNTED.iter().chain(others).copied()))?,
            inherited: self.inherited,
        })
    }

    /// To be watched for reading.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The next signal that has come, if any.
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

    /// What a command is to be handed.
    pub fn inherited(&self) -> Inherited {
        self.inherited
    }
}

/// A signalfd of these signals.
fn readable(mask: &Mask) -> io::Result<File> {
    // SAFETY: signalfd(2) reads the one set; −1 asks for a new descriptor.
    opened(unsafe { libc::signalfd(-1, mask.as_raw(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) })
        .map(File::from)
}

/// From now on a file that must not grow (RLIMIT_FSIZE) is an error of the write and not our death.
pub fn survive_file_limit() {
    // It cannot fail: the signal is one that can be ignored.
    let _ = disposition::set(Signal::XFSZ, Disposition::Ignored);
}

/// Lets `signal`, one that stops, stop this process as if it had never been blocked; returns when
/// somebody has continued it.
pub fn stop_self(signal: Signal) -> io::Result<()> {
    let found = deliver(signal)?;
    found.restore()?;
    Ok(())
}

/// Ends this process by `signal`, so that its parent sees how; without a core dump, which would be
/// of the wrong program. By exit code where the signal does not end a process.
pub fn die_of(signal: Signal) -> ! {
    // SAFETY: prctl(2) with PR_SET_DUMPABLE takes one number and touches no memory. Unlike
    // RLIMIT_CORE it also binds a core_pattern that pipes.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0 as c_ulong) };
    // Whatever fails of this, the exit code is left.
    let _ = disposition::set(signal, Disposition::Default);
    let _ = deliver(signal);
    process::leave(Status::Killed(signal).code())
}

/// Sends this process a signal and lets it through; returns the mask before.
fn deliver(signal: Signal) -> io::Result<Mask> {
    // SAFETY: raise(3) touches no memory; no handler of ours can run.
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
    fn a_signal_is_read_with_its_sender() {
        check_in_child(|| {
            let signals = Signals::take().unwrap();
            for signal in HEARD {
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
    fn what_was_ignored_stays_ignored_save_the_end_of_a_child() {
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
    fn guard_and_witness_hear_what_they_were_sent_and_survive_it() {
        type Other = fn(&Signals) -> io::Result<Signals>;
        for (other, expected) in [
            (Signals::guard as Other, &[Signal::CHLD][..]),
            (Signals::witness as Other, &[]),
        ] {
            check_in_child(|| {
                let signals = other(&Signals::take().unwrap()).unwrap();
                for signal in HEARD
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
    fn death_by_a_signal_is_seen_as_such() {
        // Their own effect is to stop or to do nothing; 32 to 34 belong to the C library.
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
    fn a_stop_is_seen_as_such_and_can_be_continued() {
        check_in_child(|| {
            // A group whose parent is in another group of its session: else TSTP has no effect.
            // SAFETY: setsid(2) touches no memory.
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
                process::leave(u8::from(
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

    /// Waits until a child is stopped; returns by what.
    fn stopped(child: Pid) -> Signal {
        let mut status = 0;
        // SAFETY: waitpid(2) writes one int.
        check(unsafe { libc::waitpid(child.0, &raw mut status, libc::WUNTRACED) }).unwrap();
        assert!(libc::WIFSTOPPED(status), "{status:#x}");
        Signal(libc::WSTOPSIG(status))
    }
}

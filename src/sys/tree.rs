//! The process tree, read from /proc. A process is known by id and start time: ids are used again.

use super::process::{self, Pid};
use super::{file, pidfd};
use crate::signal::Signal;
use std::{fs, io};

/// A process, as /proc shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Its parent's id.
    pub parent: Pid,
    /// When it started, in clock ticks since boot.
    pub started: u64,
    /// Its process group.
    pub group: Pid,
    /// R, S, D, T, Z …: proc(5).
    pub state: char,
    /// How many threads it has. A zombie of more than one has lost only its first.
    pub threads: u32,
}

/// Longest line of /proc/PID/stat: 52 numbers and a name.
pub(super) const LONGEST_STAT: usize = 2048;

/// Longest name of a process, a newline included; threads of the kernel have such, programs 15 bytes.
const LONGEST_NAME: usize = 65;

/// Whether /proc is there and is that of our own process namespace.
pub fn has_proc() -> bool {
    fs::read_link("/proc/self").is_ok_and(|own| own.as_os_str() == process::own_pid().to_string().as_str())
}

/// All processes that can be seen.
pub fn all() -> io::Result<Vec<Process>> {
    let ids = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(ids.filter_map(|id| look_up(Pid(id))).collect())
}

/// Children, children's children and so on that are alive, parents before children. None without /proc.
pub fn descendants(of: Pid) -> Vec<Process> {
    let mut found = family(of, &all().unwrap_or_default());
    found.retain(Process::is_alive);
    found
}

/// Children that are alive. None without /proc.
pub fn children(of: Pid) -> Vec<Process> {
    all().unwrap_or_default().into_iter().filter(|process| process.parent == of && process.is_alive()).collect()
}

/// This process, dead or alive, until it is reaped. `None` without /proc.
pub fn find(pid: Pid) -> Option<Process> {
    look_up(pid)
}

/// Sends a signal to this very process, never to another that has got its id since: ESRCH then.
pub fn signal(process: &Process, signal: Signal) -> io::Result<()> {
    match pidfd::open(process.pid) {
        // The descriptor stands for whoever has the id now; once it is open, that cannot change any more.
        Ok(fd) => process.is_still_itself().and_then(|()| pidfd::signal(&fd, signal)),
        Err(error) if super::is_missing(&error) => process.is_still_itself().and_then(|()| process::kill(process.pid, signal)),
        Err(error) => Err(error),
    }
}

/// What the process calls itself, for a log line; `?` if it has gone.
pub fn name(pid: Pid) -> String {
    let mut buffer = [0; LONGEST_NAME];
    let name = file::read_start(format!("/proc/{pid}/comm"), &mut buffer);
    name.map_or_else(|_| "?".into(), |name| String::from_utf8_lossy(name.trim_ascii_end()).into_owned())
}

impl Process {
    fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X') || self.threads > 1
    }

    fn is_still_itself(&self) -> io::Result<()> {
        match look_up(self.pid) {
            Some(now) if now.started == self.started => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    }
}

fn look_up(pid: Pid) -> Option<Process> {
    parse(file::read_start(format!("/proc/{pid}/stat"), &mut [0; LONGEST_STAT]).ok()?)
}

/// One /proc/PID/stat. The name, in parentheses, may hold anything, parentheses too.
fn parse(stat: &[u8]) -> Option<Process> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let pid = stat.split(|&byte| byte == b' ').next()?;
    // Counted from 3, "state", as proc(5) does.
    let fields: Vec<&str> = str::from_utf8(&stat[name_end + 1..]).ok()?.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Process {
        pid: Pid(str::from_utf8(pid).ok()?.parse().ok()?),
        state: field(3)?.chars().next()?,
        parent: Pid(field(4)?.parse().ok()?),
        group: Pid(field(5)?.parse().ok()?),
        threads: field(20)?.parse().ok()?,
        started: field(22)?.parse().ok()?,
    })
}

/// The descendants of a process among `all`, generation by generation. It is not its own, even if ids that were used again during the look
/// make a circle of parents: so this ends.
fn family(of: Pid, all: &[Process]) -> Vec<Process> {
    let mut found: Vec<Process> = Vec::new();
    let mut generation = vec![of];
    while !generation.is_empty() {
        let next: Vec<Process> = all.iter().filter(|process| process.pid != of && generation.contains(&process.parent)).copied().collect();
        generation = next.iter().map(|process| process.pid).collect();
        found.extend(next);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::process::{Fork, fork, leave, own_pid, reap, wait};
    use super::super::testing::{check_in_child, refuse};
    use super::super::{poll, socket};
    use super::*;
    use crate::plan::Status;
    use std::os::fd::AsFd;

    fn process(pid: i32, parent: i32, state: char) -> Process {
        Process { pid: Pid(pid), parent: Pid(parent), started: 5, group: Pid(1), state, threads: 1 }
    }

    fn stat(name: &str) -> String {
        format!("12 ({name}) S 3 4 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 777 1 2 3")
    }

    #[test]
    fn a_stat_line_is_read_whatever_the_name_is() {
        for name in ["sh", "a b", "x) R 1 1 (", "", ")", "tab\there"] {
            let expected = Process { pid: Pid(12), parent: Pid(3), started: 777, group: Pid(4), state: 'S', threads: 9 };
            assert_eq!(parse(stat(name).as_bytes()), Some(expected), "{name}");
        }
        assert!(
            parse(&stat("?").into_bytes().into_iter().map(|byte| if byte == b'?' { 0xff } else { byte }).collect::<Vec<_>>()).is_some()
        );
    }

    #[test]
    fn a_stat_line_cut_short_is_none_and_no_panic() {
        let stat = stat("sh");
        for length in 0..stat.find("777").unwrap() {
            assert_eq!(parse(&stat.as_bytes()[..length]), None, "{}", &stat[..length]);
        }
    }

    #[test]
    fn descendants_come_after_their_parents_and_across_zombies() {
        let all = [process(9, 4, 'S'), process(4, 2, 'Z'), process(2, 1, 'S'), process(3, 7, 'S'), process(5, 2, 'S')];
        let ids: Vec<i32> = family(Pid(1), &all).iter().map(|process| process.pid.0).collect();
        assert_eq!(ids, [2, 4, 5, 9]);
    }

    #[test]
    fn a_circle_of_used_again_ids_is_walked_once() {
        let all = [process(1, 3, 'S'), process(2, 1, 'S'), process(3, 2, 'S')];
        assert_eq!(family(Pid(1), &all).len(), 2);
    }

    #[test]
    fn a_zombie_of_several_threads_lives() {
        assert!(!process(2, 1, 'Z').is_alive());
        assert!(Process { threads: 2, ..process(2, 1, 'Z') }.is_alive());
    }

    #[test]
    fn our_own_proc_is_there_and_shows_us() {
        assert!(has_proc());
        check_in_child(|| assert!(has_proc()));
        assert!(all().unwrap().iter().any(|process| process.pid == own_pid()));
        assert_eq!(name(Pid(i32::MAX)), "?");
        assert_eq!(name(own_pid()) + "\n", fs::read_to_string(format!("/proc/{}/comm", own_pid())).unwrap());
    }

    /// A child and a grandchild of this process, which wait for a signal.
    fn two_generations() -> [Process; 2] {
        let (ours, theirs) = socket::pair().unwrap();
        if let Fork::Child = fork().unwrap() {
            let _grandchild = fork().unwrap();
            socket::send(&theirs, b"here").unwrap();
            // SAFETY: pause(2) touches no memory.
            unsafe { libc::pause() };
            leave(1);
        }
        for _ in 0..2 {
            poll::wait(&mut [poll::Watched::new(ours.as_fd(), false)], None).unwrap();
            socket::receive(&ours, &mut [0; 8]).unwrap();
        }
        descendants(own_pid()).try_into().unwrap()
    }

    #[test]
    fn a_tree_is_seen_and_signalled_process_by_process() {
        for refused in [&[][..], &[(libc::SYS_pidfd_open, libc::ENOSYS)], &[(libc::SYS_pidfd_open, libc::EPERM)]] {
            check_in_child(|| {
                refuse(refused);
                process::become_subreaper().unwrap();
                let [first, second] = two_generations();
                assert_eq!((first.parent, second.parent), (own_pid(), first.pid));
                assert_eq!(children(own_pid()).iter().map(|child| child.pid).collect::<Vec<_>>(), [first.pid]);

                let somebody_else = Process { started: first.started + 1, ..first };
                assert_eq!(signal(&somebody_else, Signal::KILL).unwrap_err().raw_os_error(), Some(libc::ESRCH));
                assert_eq!(reap(), process::Reap::Running);

                for process in [first, second] {
                    signal(&process, Signal::KILL).unwrap();
                    assert_eq!(wait(process.pid).unwrap(), Status::Killed(Signal::KILL));
                    assert_eq!(signal(&process, Signal::KILL).unwrap_err().raw_os_error(), Some(libc::ESRCH));
                }
                assert_eq!(descendants(own_pid()), []);
            });
        }
    }
}

//! The process tree, read from /proc. A process is identified by id and start time, because ids are
//! reused.

use super::process::{self, Pid};
use super::{file, pidfd};
use crate::signal::Signal;
use std::collections::{HashSet, VecDeque};
use std::{fs, io};

/// A process, as /proc shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Its parent's id.
    pub parent: Pid,
    /// Start time, in clock ticks since boot.
    pub started: u64,
    /// Its process group.
    pub group: Pid,
    /// R, S, D, T, Z …: proc(5).
    pub state: char,
    /// Number of threads. A zombie with more than one has lost only its main thread.
    pub threads: u32,
}

/// Maximum length of /proc/PID/stat: 52 numbers and a name.
pub(super) const LONGEST_STAT: usize = 2048;

/// Maximum length of a process name, including a newline; kernel threads reach it, programs have 15
/// bytes.
const LONGEST_NAME: usize = 65;

/// Whether /proc exists and belongs to this process namespace.
pub fn has_proc() -> bool {
    fs::read_link("/proc/self")
        .is_ok_and(|own| own.as_os_str() == process::own_pid().to_string().as_str())
}

/// All visible processes.
pub fn all() -> io::Result<Vec<Process>> {
    let ids =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(ids.filter_map(|id| look_up(Pid(id))).collect())
}

/// All living descendants, parents before children. Empty without /proc.
///
/// Costs a few reads for each of them if the kernel lists the children of a process
/// (`CONFIG_PROC_CHILDREN`), otherwise a few for each process of the host. The kernel's lists may
/// miss a process that is born, or whose elder sibling dies, during the scan; the next scan finds
/// it.
pub fn descendants(of: Pid) -> Vec<Process> {
    let mut found = walk(of).unwrap_or_else(|| family(of, &all().unwrap_or_default()));
    found.retain(Process::is_alive);
    found
}

/// The same, limited to children that were started at `since`, in the kernel's ticks, or later.
pub fn descendants_since(of: Pid, since: Option<u64>) -> Vec<Process> {
    let mut found = descendants(of);
    let mut kept = HashSet::new(); // parents come before their children
    found.retain(|process| {
        let keep = if process.parent == of {
            since.is_none_or(|since| process.started >= since)
        } else {
            kept.contains(&process.parent)
        };
        keep && kept.insert(process.pid)
    });
    found
}

/// Finds this process, dead or alive, until it is reaped. `None` without /proc.
pub fn find(pid: Pid) -> Option<Process> {
    look_up(pid)
}

/// Sends KILL to all descendants of this process in one pass. Without /proc it kills the children;
/// as they die, a subreaper inherits their children, so repeated passes kill one generation each.
pub fn kill_own() {
    signal_all(&descendants(process::own_pid()), Signal::KILL);
    kill_own_children_without_proc();
}

/// Sends KILL to the children of this process if /proc cannot show them.
pub fn kill_own_children_without_proc() {
    if !has_proc() {
        // Their ids cannot be reused before they are reaped.
        process::children_by_number()
            .into_iter()
            .for_each(|child| drop(process::kill(child, Signal::KILL)));
    }
}

/// Sends a signal to each process, in order. Errors are ignored: a process may have ended, or may
/// not be signalled.
pub fn signal_all(processes: &[Process], with: Signal) {
    for process in processes {
        let _ = signal(process, with);
    }
}

/// Sends a signal to exactly this process. ESRCH if another process has its id now.
pub fn signal(process: &Process, signal: Signal) -> io::Result<()> {
    match pidfd::open(process.pid) {
        // The descriptor refers to the process that has the id now; once it is open, that cannot
        // change.
        Ok(fd) => process
            .is_still_itself()
            .and_then(|()| pidfd::signal(&fd, signal)),
        Err(error) if super::is_missing(&error) => process
            .is_still_itself()
            .and_then(|()| process::kill(process.pid, signal)),
        Err(error) => Err(error),
    }
}

/// The name of a process, for a log line; `?` if it has ended.
pub fn name(pid: Pid) -> String {
    let mut buffer = [0; LONGEST_NAME];
    let name = file::read_start(format!("/proc/{pid}/comm"), &mut buffer);
    name.map_or_else(
        |_| "?".into(),
        |name| String::from_utf8_lossy(name.trim_ascii_end()).into_owned(),
    )
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

/// Parses one /proc/PID/stat. The name, in parentheses, may contain any byte, including
/// parentheses.
fn parse(stat: &[u8]) -> Option<Process> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let pid = stat.split(|&byte| byte == b' ').next()?;
    // Counted from 3, "state", as proc(5) does.
    let fields: Vec<&str> = str::from_utf8(&stat[name_end + 1..])
        .ok()?
        .split_ascii_whitespace()
        .collect();
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

/// The descendants of a process, generation by generation, from the kernel's lists of children.
/// `None` if the kernel has no such lists.
fn walk(of: Pid) -> Option<Vec<Process>> {
    let mut found = Vec::new();
    let mut seen = HashSet::from([of]);
    let mut parents = VecDeque::from([look_up(of)?]);
    while let Some(parent) = parents.pop_front() {
        // Only the lists of the root process must exist: another may have ended by now.
        let ids = match child_ids(&parent) {
            None if parent.pid == of => return None,
            ids => ids.unwrap_or_default(),
        };
        // The id may have been reused, and an orphan's parent is the subreaper.
        let is_descendant = |child: &Process| child.parent == parent.pid || child.parent == of;
        for child in ids
            .into_iter()
            .filter(|&id| seen.insert(id))
            .filter_map(look_up)
            .filter(is_descendant)
        {
            found.push(child);
            parents.push_back(child);
        }
    }
    Some(found)
}

/// The children of a process, from each thread's list: the children that it forked, and those of
/// threads that have ended.
fn child_ids(parent: &Process) -> Option<Vec<Pid>> {
    let Pid(pid) = parent.pid;
    let list = |thread: &str| fs::read_to_string(format!("/proc/{pid}/task/{thread}/children"));
    let lists = if parent.threads == 1 {
        list(&pid.to_string()).ok()?
    } else {
        let threads = fs::read_dir(format!("/proc/{pid}/task"))
            .ok()?
            .filter_map(|thread| thread.ok()?.file_name().into_string().ok());
        let lists: Vec<String> = threads.filter_map(|thread| list(&thread).ok()).collect();
        lists.first()?;
        lists.concat()
    };
    Some(
        lists
            .split_ascii_whitespace()
            .filter_map(|id| id.parse().ok().map(Pid))
            .collect(),
    )
}

/// The descendants of a process among `all`, generation by generation. The process itself is
/// excluded, even if ids that were reused during the scan form a circle of parents; so the loop
/// ends.
fn family(of: Pid, all: &[Process]) -> Vec<Process> {
    let mut found: Vec<Process> = Vec::new();
    let mut generation = vec![of];
    while !generation.is_empty() {
        let next: Vec<Process> = all
            .iter()
            .filter(|process| process.pid != of && generation.contains(&process.parent))
            .copied()
            .collect();
        generation = next.iter().map(|process| process.pid).collect();
        found.extend(next);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::process::{Fork, exit_now, fork, own_pid, reap, wait};
    use super::super::testing::{check_in_child, refuse};
    use super::super::{poll, socket};
    use super::*;
    use crate::signal::Status;
    use std::os::fd::AsFd;

    fn process(pid: i32, parent: i32, state: char) -> Process {
        Process {
            pid: Pid(pid),
            parent: Pid(parent),
            started: 5,
            group: Pid(1),
            state,
            threads: 1,
        }
    }

    fn stat(name: &str) -> String {
        format!("12 ({name}) S 3 4 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 777 1 2 3")
    }

    #[test]
    fn stat_line_is_parsed_with_any_name() {
        for name in ["sh", "a b", "x) R 1 1 (", "", ")", "tab\there"] {
            let expected = Process {
                pid: Pid(12),
                parent: Pid(3),
                started: 777,
                group: Pid(4),
                state: 'S',
                threads: 9,
            };
            assert_eq!(parse(stat(name).as_bytes()), Some(expected), "{name}");
        }
        assert!(
            parse(
                &stat("?")
                    .into_bytes()
                    .into_iter()
                    .map(|byte| if byte == b'?' { 0xff } else { byte })
                    .collect::<Vec<_>>()
            )
            .is_some()
        );
    }

    #[test]
    fn truncated_stat_line_is_none() {
        let stat = stat("sh");
        for length in 0..stat.find("777").unwrap() {
            assert_eq!(
                parse(&stat.as_bytes()[..length]),
                None,
                "{}",
                &stat[..length]
            );
        }
    }

    #[test]
    fn descendants_come_after_their_parents_and_across_zombies() {
        let all = [
            process(9, 4, 'S'),
            process(4, 2, 'Z'),
            process(2, 1, 'S'),
            process(3, 7, 'S'),
            process(5, 2, 'S'),
        ];
        let ids: Vec<i32> = family(Pid(1), &all)
            .iter()
            .map(|process| process.pid.0)
            .collect();
        assert_eq!(ids, [2, 4, 5, 9]);
    }

    #[test]
    fn circle_of_reused_ids_is_walked_once() {
        let all = [process(1, 3, 'S'), process(2, 1, 'S'), process(3, 2, 'S')];
        assert_eq!(family(Pid(1), &all).len(), 2);
    }

    #[test]
    fn zombie_with_several_threads_is_alive() {
        assert!(!process(2, 1, 'Z').is_alive());
        assert!(
            Process {
                threads: 2,
                ..process(2, 1, 'Z')
            }
            .is_alive()
        );
    }

    #[test]
    fn own_process_is_found_in_proc() {
        assert!(has_proc());
        check_in_child(|| assert!(has_proc()));
        assert!(
            all()
                .unwrap()
                .iter()
                .any(|process| process.pid == own_pid())
        );
        assert_eq!(name(Pid(i32::MAX)), "?");
        assert_eq!(
            name(own_pid()) + "\n",
            fs::read_to_string(format!("/proc/{}/comm", own_pid())).unwrap()
        );
    }

    /// Forks a child, a child of that one and so on, which wait for a signal.
    fn generations<const N: usize>() -> [Process; N] {
        let (local, remote) = socket::pair().unwrap();
        if let Fork::Child = fork().unwrap() {
            for _ in 1..N {
                if let Fork::Parent(_) = fork().unwrap() {
                    break;
                }
            }
            // SAFETY: alarm(2) touches no memory. It ends the process if the test fails.
            unsafe { libc::alarm(20) };
            socket::send(&remote, b"here").unwrap();
            // SAFETY: pause(2) touches no memory.
            unsafe { libc::pause() };
            exit_now(1);
        }
        for _ in 0..N {
            poll::wait(&mut [poll::Watched::new(local.as_fd(), false)], None).unwrap();
            socket::receive(&local, &mut [0; 8]).unwrap();
        }
        descendants(own_pid()).try_into().unwrap()
    }

    #[test]
    fn one_pass_kills_every_generation() {
        check_in_child(|| {
            process::become_subreaper().unwrap();
            generations::<8>();
            kill_own();
            for _ in 0..8 {
                assert_eq!(wait(Pid(-1)).unwrap(), Status::Killed(Signal::KILL)); // hangs if one were left
            }
            assert_eq!(reap(), process::Reap::NoChildren);
        });
    }

    #[test]
    fn lists_of_children_match_a_scan_of_all_processes() {
        check_in_child(|| {
            process::become_subreaper().unwrap();
            let ids = |tree: &[Process]| {
                tree.iter()
                    .map(|process| (process.pid, process.parent))
                    .collect::<Vec<_>>()
            };
            let tree = generations::<5>();
            assert_eq!(ids(&walk(own_pid()).unwrap()), ids(&tree));
            assert_eq!(ids(&family(own_pid(), &all().unwrap())), ids(&tree));
            assert_eq!(ids(&walk(tree[1].pid).unwrap()), ids(&tree[2..]));
            // Orphans are listed below the subreaper.
            signal(&tree[1], Signal::KILL).unwrap();
            while look_up(tree[2].pid).unwrap().parent != own_pid() {}
            let left: Vec<Pid> = descendants(own_pid())
                .iter()
                .map(|process| process.pid)
                .collect();
            assert_eq!(left, [tree[0].pid, tree[2].pid, tree[3].pid, tree[4].pid]);
            kill_own();
        });
    }

    #[test]
    #[allow(
        clippy::disallowed_methods,
        clippy::zombie_processes,
        reason = "the children are another thread's, and the process that forked us ends"
    )]
    fn the_children_of_every_thread_are_listed() {
        check_in_child(|| {
            let child = std::thread::spawn(|| {
                let child = std::process::Command::new("sleep")
                    .arg("1000")
                    .spawn()
                    .unwrap();
                Pid(child.id().cast_signed())
            });
            let child = child.join().unwrap();
            let (local, remote) = socket::pair().unwrap();
            let threaded = std::thread::spawn(move || {
                let child = Pid(std::process::Command::new("sleep")
                    .arg("1000")
                    .spawn()
                    .unwrap()
                    .id()
                    .cast_signed());
                socket::send(&remote, b"here").unwrap();
                poll::wait(&mut [poll::Watched::new(remote.as_fd(), false)], None).unwrap();
                child
            });
            poll::wait(&mut [poll::Watched::new(local.as_fd(), false)], None).unwrap();
            let mut listed: Vec<Pid> = walk(own_pid())
                .unwrap()
                .iter()
                .map(|process| process.pid)
                .collect();
            socket::send(&local, b"go").unwrap();
            let mut born = [child, threaded.join().unwrap()];
            kill_own();
            listed.sort();
            born.sort();
            assert_eq!(listed, born);
        });
    }

    #[test]
    fn tree_is_listed_and_signalled_process_by_process() {
        for refused in [
            &[][..],
            &[(libc::SYS_pidfd_open, libc::ENOSYS)],
            &[(libc::SYS_pidfd_open, libc::EPERM)],
        ] {
            check_in_child(|| {
                refuse(refused);
                process::become_subreaper().unwrap();
                let [first, second] = generations();
                assert_eq!((first.parent, second.parent), (own_pid(), first.pid));
                assert_eq!(descendants_since(own_pid(), Some(first.started)).len(), 2);
                assert_eq!(
                    descendants_since(own_pid(), Some(first.started + 1)),
                    [],
                    "a child that was there before, and what is below it"
                );

                let other_process = Process {
                    started: first.started + 1,
                    ..first
                };
                assert_eq!(
                    signal(&other_process, Signal::KILL)
                        .unwrap_err()
                        .raw_os_error(),
                    Some(libc::ESRCH)
                );
                assert_eq!(reap(), process::Reap::Running);

                for process in [first, second] {
                    signal(&process, Signal::KILL).unwrap();
                    assert_eq!(wait(process.pid).unwrap(), Status::Killed(Signal::KILL));
                    assert_eq!(
                        signal(&process, Signal::KILL).unwrap_err().raw_os_error(),
                        Some(libc::ESRCH)
                    );
                }
                assert_eq!(descendants(own_pid()), []);
            });
        }
    }
}

//! The process tree, read from /proc. A process is known by id and start time: ids are used again.

use super::pidfd;
use super::process::{self, Pid};
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

/// Whether /proc is there and is that of our own process namespace.
pub fn has_proc() -> bool {
    fs::read("/proc/self/stat").ok().and_then(|stat| parse(&stat)).is_some_and(|own| own.pid == process::own_pid())
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
    fs::read(format!("/proc/{pid}/comm")).map_or_else(|_| "?".into(), |name| String::from_utf8_lossy(name.trim_ascii_end()).into_owned())
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
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
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

/// The descendants of a process among `all`, generation by generation.
fn family(of: Pid, all: &[Process]) -> Vec<Process> {
    let mut found: Vec<Process> = Vec::new();
    let mut generation = vec![of];
    while !generation.is_empty() {
        let next: Vec<Process> = all.iter().filter(|process| generation.contains(&process.parent)).copied().collect();
        generation = next.iter().map(|process| process.pid).collect();
        found.extend(next);
    }
    found
}

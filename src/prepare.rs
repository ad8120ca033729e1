//! Once, before the loop: may the run begin at all (load, command), detach, and what addresses do names have. Whatever waits here is ended by
//! any signal in the plain way: there is nothing to let go of yet.

use crate::link::reason;
use crate::log::{Log, Topic};
use crate::moment::Moment;
use crate::plan::{Command, End, Gate, Host, Level};
use crate::signal::Signal;
use crate::sys::poll::{self, Watched};
use crate::sys::process::{self, Fork, Pid};
use crate::sys::timer::Timer;
use crate::sys::{clock, file, random};
use std::ffi::OsString;
use std::io::{self, PipeReader, Read, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;
use std::{env, fs};

/// Addresses taken of one name. More than a name of one server has; a round over all of them must end.
const ADDRESSES: usize = 16;

/// Where exec looks when there is no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/bin:/usr/bin";

/// What a helper may say: so many addresses, each a line.
const LONGEST_ANSWER: u64 = 4096;

/// Whether the load allows the run; sleeps first if the plan says so.
pub fn pass(gate: &Gate, log: &mut Log) -> Result<(), End> {
    if gate.max_load.is_none() && !gate.sleep {
        return Ok(());
    }
    let Some(load) = clock::load_average() else {
        log.say(Topic::Run, Level::Warning, &"the load average is not known: /proc/loadavg cannot be read");
        return Ok(());
    };
    if let Some(limit) = gate.max_load.filter(|&limit| load >= limit) {
        log.say(Topic::Run, Level::Info, &format_args!("la is more then limit. Max la {limit:.6}, current la {load:.6}"));
        return Err(End::Loaded);
    }
    if gate.sleep {
        sleep(Duration::try_from_secs_f64(load).unwrap_or_default());
    }
    Ok(())
}

/// Does nothing for so long. A signal ends it, and us.
fn sleep(time: Duration) {
    let until = Moment(clock::since_boot()) + time;
    let Ok(mut timer) = Timer::new() else { return };
    loop {
        let now = clock::since_boot();
        if now >= until.0 {
            return;
        }
        timer.set(Some(until.0));
        let mut watched: Vec<Watched> = timer.fd().map(|fd| Watched::new(fd, false)).into_iter().collect();
        let _ = poll::wait(&mut watched, timer.poll_limit(now));
    }
}

/// Finds the command as exec will, before any lock is taken for nothing. `directory` is where it will start.
pub fn look_up(command: &Command, directory: &Path) -> Result<(), (End, String)> {
    let program = Path::new(&command.words[0]);
    let named = program.as_os_str().as_bytes().contains(&b'/');
    let path = if named { OsString::new() } else { env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()) };
    let mut found = None;
    for place in env::split_paths(&path).map(|folder| directory.join(folder).join(program)) {
        match fs::metadata(&place) {
            Ok(metadata) if metadata.is_file() && file::executable(&place) => return Ok(()),
            Ok(metadata) if named || metadata.is_file() => drop(found.get_or_insert((place, metadata.is_dir()))),
            _ => {}
        }
    }
    let Some((place, is_folder)) = found else {
        let nowhere = if named { "no such file" } else { "not found on PATH" };
        return Err((End::NotFound, format!("cannot run {}: {nowhere}", program.display())));
    };
    let why = if is_folder { "it is a directory" } else { "permission denied (is it executable?)" };
    Err((End::NotRunnable, format!("cannot run {}: {why}", place.display())))
}

/// How long names are waited for at the most, once there is an address to go on with.
const STRAGGLERS: Duration = Duration::from_secs(5);

/// Servers with their addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Servers {
    /// As they are called in messages: host, port and, where a name has several, address.
    pub names: Vec<String>,
    /// Of the same length.
    pub addresses: Vec<SocketAddr>,
    /// Hosts that have no address, each with its reason.
    pub unresolved: Vec<String>,
}

/// Looks up all hosts at once, until `deadline`; a name server that is silent about one leaves time to try the others. In an order of its
/// own each time, so that a fleet spreads over an ensemble.
pub fn resolve(hosts: &[Host], deadline: Moment) -> io::Result<Servers> {
    let now = Moment(clock::since_boot());
    let share = deadline.since(now) / u32::try_from(hosts.len()).unwrap_or(u32::MAX);
    let mut found: Vec<Found> = Vec::new();
    let mut helpers = Vec::new();
    for host in hosts {
        match host.name.parse::<IpAddr>() {
            Ok(address) => found.push((host, Ok(vec![SocketAddr::new(address, host.port)]))),
            Err(_) => helpers.push(Helper::send(host)?),
        }
    }
    let known = !found.is_empty();
    found.extend(Helper::gather(helpers, known, now + share.min(STRAGGLERS), deadline)?);
    let mut servers = Vec::new();
    let mut unresolved = Vec::new();
    for (host, addresses) in found {
        match addresses {
            Ok(addresses) if addresses.len() == 1 => servers.push((host.to_string(), addresses[0])),
            Ok(addresses) => servers.extend(addresses.iter().map(|address| (format!("{host} ({})", address.ip()), *address))),
            Err(why) => unresolved.push(format!("{host}: {why}")),
        }
    }
    shuffle(&mut servers);
    let (names, addresses) = servers.into_iter().unzip();
    Ok(Servers { names, addresses, unresolved })
}

/// Fisher and Yates; the slight bias of a remainder does not matter for spreading load.
fn shuffle<T>(items: &mut [T]) {
    if items.len() < 2 {
        return;
    }
    for last in (1..items.len()).rev() {
        let other = usize::from_ne_bytes(random::bytes()) % (last + 1);
        items.swap(last, other);
    }
}

/// A host and its addresses, or why it has none.
type Found<'a> = (&'a Host, Result<Vec<SocketAddr>, String>);

/// A process that looks up one name: getaddrinfo cannot be interrupted, a process can.
struct Helper<'a> {
    host: &'a Host,
    process: Pid,
    answer: PipeReader,
    text: Vec<u8>,
    done: bool,
}

impl<'a> Helper<'a> {
    fn send(host: &'a Host) -> io::Result<Helper<'a>> {
        let (answer, mut theirs) = io::pipe()?;
        let parent = process::own_pid();
        match process::fork()? {
            Fork::Parent(process) => Ok(Helper { host, process, answer, text: Vec::new(), done: false }),
            Fork::Child => {
                let _ = process::die_with_parent(Some(Signal::KILL), parent);
                let _ = match (host.name.as_str(), host.port).to_socket_addrs() {
                    Ok(mut addresses) => addresses.by_ref().take(ADDRESSES).try_for_each(|address| writeln!(theirs, "{address}")),
                    Err(error) => write!(theirs, "!{}", reason(&error)),
                };
                process::leave(0)
            }
        }
    }

    /// What all helpers have found by the deadline; by `soon`, if by then an address is known.
    fn gather(mut helpers: Vec<Helper<'a>>, known: bool, soon: Moment, deadline: Moment) -> io::Result<Vec<Found<'a>>> {
        let mut timer = Timer::new()?;
        while helpers.iter().any(|helper| !helper.done) {
            let until = if known || helpers.iter().any(Helper::has_address) { soon } else { deadline };
            if clock::since_boot() >= until.0 {
                break;
            }
            timer.set(Some(until.0));
            let open: Vec<usize> = (0..helpers.len()).filter(|&index| !helpers[index].done).collect();
            let mut watched: Vec<Watched> = open.iter().map(|&index| Watched::new(helpers[index].answer.as_fd(), false)).collect();
            watched.extend(timer.fd().map(|fd| Watched::new(fd, false)));
            poll::wait(&mut watched, timer.poll_limit(clock::since_boot()))?;
            let ready: Vec<bool> = watched.iter().map(Watched::ready).collect();
            for (&index, _) in open.iter().zip(ready).filter(|(_, ready)| *ready) {
                helpers[index].read();
            }
        }
        Ok(helpers.into_iter().map(Helper::found).collect())
    }

    fn read(&mut self) {
        let mut bytes = [0; 512];
        match self.answer.read(&mut bytes) {
            Ok(length) if length > 0 && self.text.len() as u64 <= LONGEST_ANSWER => self.text.extend_from_slice(&bytes[..length]),
            _ => self.done = true,
        }
    }

    fn has_address(&self) -> bool {
        self.done && !self.text.is_empty() && !self.text.starts_with(b"!")
    }

    fn found(self) -> Found<'a> {
        if !self.done {
            let _ = process::kill(self.process, Signal::KILL);
        }
        let _ = process::wait(self.process); // it ends by itself once it is done
        let text = String::from_utf8_lossy(&self.text);
        let mut addresses: Vec<SocketAddr> = text.lines().filter_map(|line| line.parse().ok()).collect();
        addresses.dedup();
        let answer = match text.strip_prefix('!') {
            _ if !self.done => Err("its name was not looked up in time (is the name server answering?)".into()),
            Some(why) => Err(format!("its name cannot be looked up: {why}")),
            None if addresses.is_empty() => Err("its name has no address".into()),
            None => Ok(addresses),
        };
        (self.host, answer)
    }
}

//! Name lookups: the addresses of servers, and the full name of this host. getaddrinfo cannot be
//! interrupted, so each lookup runs in a child process, which can be killed.

use crate::endpoint::{Endpoint, Found};
use crate::moment::Moment;
use crate::plan::{Connection, Host};
use crate::reason::reason;
use crate::signal::Signal;
use crate::sys::clock::now;
use crate::sys::poll::{self, Watched};
use crate::sys::process::{self, Fork, Pid};
use crate::sys::timer::Timer;
use crate::sys::{descriptors, host, random};
use crate::transport::Address;
use std::io::{self, PipeReader, Read, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// The most addresses that are used of one name. No server has more, and a round over all of them
/// must end.
const MAX_ADDRESSES: usize = 16;

/// The longest answer of a lookup process: that many addresses, one a line, or a name.
const MAX_ANSWER: u64 = 4096;

/// How long to wait for the other names once one address is known.
const RESOLVE_GRACE: Duration = Duration::from_secs(5);

/// Pauses between lookups of names without an address: the first one and the longest one; each is
/// twice as long as the one before. A name that a deployment is about to create is found within the
/// longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause if the number of lookups is limited: kazoo's pauses between rounds grow, too.
const MAX_PAUSE_OF_LIMITED_ROUNDS: Duration = Duration::from_secs(4);

/// The same during a run, which soon looks up the missing names again.
const RESOLVE_GRACE_DURING_RUN: Duration = Duration::from_secs(1);

/// How long a lookup may take during a run: a resolver waits 10 s for a silent name server.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(12);

/// The name of a lookup process in `ps`: neither this program's nor the command's, which scripts
/// search for.
const PROCESS_NAME: &str = "name-lookup";

/// Hosts with the addresses that were found.
#[derive(Clone, Debug)]
pub struct HostAddresses {
    hosts: Vec<Host>,
    /// The addresses of each host, or why it has none.
    found: Vec<Result<Vec<Address>, String>>,
}

impl HostAddresses {
    /// Hosts that were not looked up yet. An IP address or a unix socket needs no lookup, and a
    /// command that makes the connections does its own.
    pub fn new(hosts: &[Host], connection: &Connection) -> HostAddresses {
        let found = hosts.iter().map(|host| match connection.command(host) {
            Some(words) => Ok(vec![Address::Command(words.into())]),
            None => match address(host) {
                Some(address) => Ok(vec![address]),
                None => Err("its name was not looked up".into()),
            },
        });
        HostAddresses {
            found: found.collect(),
            hosts: hosts.to_vec(),
        }
    }

    /// The positions of hosts that are names, and not those of a command.
    fn names(&self) -> Vec<usize> {
        let by_command = |index: usize| {
            let found = self.found[index].as_ref();
            found.is_ok_and(|found| found.iter().any(Address::is_command))
        };
        (0..self.hosts.len())
            .filter(|&index| !by_command(index) && address(&self.hosts[index]).is_none())
            .collect()
    }

    /// Stores the result of a lookup. A failed lookup does not remove known addresses: the name
    /// server may be unreachable together with the servers.
    fn learn(&mut self, host: usize, found: Result<Vec<Address>, String>) {
        if found.is_ok() || self.found[host].is_err() {
            self.found[host] = found;
        }
    }

    /// All addresses, in random order, so that many clients spread over an ensemble; and the hosts
    /// that have none.
    pub fn result(&self) -> Found {
        let mut result = Found::default();
        for (host, found) in self.hosts.iter().zip(&self.found) {
            match found {
                Ok(addresses) => {
                    let name = |address: &Address| match address {
                        Address::Tcp(address) if addresses.len() > 1 => {
                            format!("{host} ({})", address.ip())
                        }
                        _ => host.to_string(),
                    };
                    result
                        .endpoints
                        .extend(addresses.iter().map(|address| Endpoint {
                            name: name(address),
                            address: address.clone(),
                        }));
                }
                Err(why) => result.unresolved.push(format!("{host}: {why}")),
            }
        }
        shuffle(&mut result.endpoints);
        result
    }
}

/// The address of a host that needs no lookup.
fn address(host: &Host) -> Option<Address> {
    match host {
        Host::Tcp { name, port } => {
            let address = name.parse::<IpAddr>().ok()?;
            Some(Address::Tcp(SocketAddr::new(address, *port)))
        }
        Host::Unix(path) => Some(Address::Unix(path.as_path().into())),
    }
}

/// A lookup of all names during a run, whose poll loop waits for the answers.
pub struct BackgroundLookup {
    helpers: Vec<(usize, Helper)>,
    began: Moment,
}

impl BackgroundLookup {
    /// Starts a process for each name. `None`: there are no names. The processes are children of
    /// this process, which has to reap them.
    pub fn begin(names: &HostAddresses, now: Moment) -> io::Result<Option<BackgroundLookup>> {
        let mut search = BackgroundLookup {
            helpers: Vec::new(),
            began: now,
        };
        for index in names.names() {
            let host = &names.hosts[index];
            let helper = Helper::fork(|own_end| {
                process::rename(PROCESS_NAME, process::own_pid());
                // What else is open is the run's: its connection, its lock file, and the line to
                // the guard, which must end when the run does.
                descriptors::close_all_except(&[own_end]);
                // Out of reach of the command's terminal, and of signals to its process group.
                let _ = process::own_session();
                look_up_addresses(host)
            });
            match helper {
                Ok(helper) => search.helpers.push((index, helper)),
                Err(error) => {
                    search.helpers.iter().for_each(|(_, helper)| helper.kill());
                    return Err(error);
                }
            }
        }
        Ok((!search.helpers.is_empty()).then_some(search))
    }

    /// The process ids of the lookups.
    pub fn processes(&self) -> impl Iterator<Item = Pid> {
        self.helpers.iter().map(|(_, helper)| helper.process)
    }

    /// The pipes of missing answers, for the poll loop.
    pub fn watched(&self) -> impl Iterator<Item = Watched<'_>> {
        self.open()
            .map(|index| Watched::new(self.helpers[index].1.answer.as_fd(), false))
    }

    /// Reads answers; `ready` has one value for each pipe that was watched.
    pub fn read(&mut self, ready: impl Iterator<Item = bool>) {
        let open: Vec<usize> = self.open().collect();
        for (index, _) in open.into_iter().zip(ready).filter(|(_, ready)| *ready) {
            self.helpers[index].1.read();
        }
    }

    fn open(&self) -> impl Iterator<Item = usize> {
        (0..self.helpers.len()).filter(|&index| !self.helpers[index].1.done)
    }

    /// When the lookup ends, with or without all answers.
    pub fn until(&self) -> Moment {
        if self.open().next().is_none() {
            return self.began;
        }
        let some = self.helpers.iter().any(|(_, helper)| helper.has_address());
        self.began
            + if some {
                RESOLVE_GRACE_DURING_RUN
            } else {
                LOOKUP_TIMEOUT
            }
    }

    /// Stores the results.
    pub fn tell(&self, names: &mut HostAddresses) {
        for (host, helper) in &self.helpers {
            names.learn(*host, addresses(helper.answer_if_done()));
        }
    }
}

/// Looks up all hosts at once, until `deadline`. A name server that does not answer for one of them
/// leaves time to try the others.
fn resolve(names: &mut HostAddresses, deadline: Moment) -> io::Result<Found> {
    let now = now();
    let share = deadline.since(now) / u32::try_from(names.hosts.len()).unwrap_or(u32::MAX);
    let asked = names.names();
    let mut helpers = Vec::new();
    for &index in &asked {
        let host = &names.hosts[index];
        helpers.push(Helper::fork(|_| look_up_addresses(host))?);
    }
    let (known, soon) = (
        asked.len() < names.hosts.len(),
        now + share.min(RESOLVE_GRACE),
    );
    read_answers(&mut helpers, |helpers| {
        if known || helpers.iter().any(Helper::has_address) {
            soon
        } else {
            deadline
        }
    })?;
    for (host, helper) in asked.into_iter().zip(helpers) {
        names.learn(host, addresses(helper.finish()));
    }
    Ok(names.result())
}

/// Looks up all hosts repeatedly until one has an address, until `deadline`, or `rounds` times at
/// most: a server may get its name later than its clients start. Returns the number of rounds, too.
pub fn resolve_with_retries(
    names: &mut HostAddresses,
    rounds: Option<u32>,
    deadline: Moment,
) -> io::Result<(Found, u32)> {
    let longest = if rounds.is_none() {
        MAX_PAUSE
    } else {
        MAX_PAUSE_OF_LIMITED_ROUNDS
    };
    let mut pause = FIRST_PAUSE;
    for round in 1.. {
        let found = resolve(names, deadline)?;
        let now = now();
        if !found.endpoints.is_empty()
            || now >= deadline
            || rounds.is_some_and(|most| round >= most)
        {
            return Ok((found, round));
        }
        sleep_until((now + pause).min(deadline))?;
        pause = (pause * 2).min(longest);
    }
    unreachable!("rounds do not end")
}

fn sleep_until(moment: Moment) -> io::Result<()> {
    let mut timer = Timer::new()?;
    timer.set(Some(moment));
    while now() < moment {
        let mut watched: Vec<Watched> = timer
            .fd()
            .map(|fd| Watched::new(fd, false))
            .into_iter()
            .collect();
        poll::wait(&mut watched, timer.poll_limit(now()))?;
    }
    Ok(())
}

/// The addresses of a host, one a line, or `!` and why it has none.
fn look_up_addresses(host: &Host) -> String {
    let Host::Tcp { name, port } = host else {
        return String::new();
    };
    match (name.as_str(), *port).to_socket_addrs() {
        Ok(addresses) => addresses
            .take(MAX_ADDRESSES)
            .map(|address| format!("{address}\n"))
            .collect(),
        Err(error) => format!("!{}", reason(&error)),
    }
}

/// Parses the answer of a lookup, if it has one.
fn addresses(answer: Option<impl AsRef<[u8]>>) -> Result<Vec<Address>, String> {
    let answer =
        answer.ok_or("its name was not looked up in time (is the name server answering?)")?;
    let text = String::from_utf8_lossy(answer.as_ref());
    let parsed = text.lines().filter_map(|line| line.parse().ok());
    let mut addresses: Vec<Address> = parsed.map(Address::Tcp).collect();
    addresses.dedup();
    match text.strip_prefix('!') {
        Some(why) => Err(format!("its name cannot be looked up: {why}")),
        None if addresses.is_empty() => Err("its name has no address".into()),
        None => Ok(addresses),
    }
}

/// Fisher-Yates shuffle. The slight bias of the remainder does not matter for spreading load.
fn shuffle<T>(items: &mut [T]) {
    if items.len() < 2 {
        return;
    }
    for last in (1..items.len()).rev() {
        let other = usize::from_ne_bytes(random::bytes()) % (last + 1);
        items.swap(last, other);
    }
}

/// A running lookup of this host's full name.
pub struct HostnameLookup(Helper);

impl HostnameLookup {
    /// Starts the lookup; the caller can do other work meanwhile.
    pub fn start() -> io::Result<HostnameLookup> {
        let bare = host::name();
        Helper::fork(|_| host::full_name(&bare).unwrap_or(bare)).map(HostnameLookup)
    }

    /// The full name. `None` if the lookup did not answer by the deadline, or died.
    pub fn wait(self, deadline: Moment) -> io::Result<Option<String>> {
        let mut helpers = [self.0];
        read_answers(&mut helpers, |_| deadline)?;
        let [helper] = helpers;
        let answer = helper.finish().filter(|name| !name.is_empty());
        Ok(answer.map(|name| String::from_utf8_lossy(&name).into_owned()))
    }
}

/// A process that looks up one name.
struct Helper {
    process: Pid,
    answer: PipeReader,
    text: Vec<u8>,
    done: bool,
}

impl Helper {
    /// Forks a process that writes the answer in one piece, so that the reader wakes up once.
    fn fork(look_up: impl FnOnce(BorrowedFd) -> String) -> io::Result<Helper> {
        let (answer, mut writer) = io::pipe()?;
        let parent = process::own_pid();
        match process::fork()? {
            Fork::Parent(process) => Ok(Helper {
                process,
                answer,
                text: Vec::new(),
                done: false,
            }),
            Fork::Child => {
                descriptors::close_inherited();
                let _ = process::die_with_parent(Some(Signal::KILL), parent);
                let found = look_up(writer.as_fd());
                let _ = writer.write_all(found.as_bytes());
                process::exit_now(0)
            }
        }
    }

    fn read(&mut self) {
        let mut bytes = [0; 512];
        match self.answer.read(&mut bytes) {
            Ok(length) if length > 0 && self.text.len() as u64 <= MAX_ANSWER => {
                self.text.extend_from_slice(&bytes[..length]);
            }
            _ => self.done = true,
        }
    }

    fn has_address(&self) -> bool {
        self.done && !self.text.is_empty() && !self.text.starts_with(b"!")
    }

    fn kill(&self) {
        let _ = process::kill(self.process, Signal::KILL);
    }

    /// The answer, if the lookup has ended.
    fn answer_if_done(&self) -> Option<&[u8]> {
        self.done.then_some(&self.text[..])
    }

    /// Ends the process. Returns the answer, if the lookup had ended before.
    fn finish(self) -> Option<Vec<u8>> {
        if !self.done {
            self.kill();
        }
        let _ = process::wait(self.process); // it ends by itself once it is done
        self.done.then_some(self.text)
    }
}

/// Reads answers until all lookups have ended, or until a moment that depends on their progress.
fn read_answers(helpers: &mut [Helper], until: impl Fn(&[Helper]) -> Moment) -> io::Result<()> {
    if helpers.is_empty() {
        return Ok(());
    }
    let mut timer = Timer::new()?;
    while helpers.iter().any(|helper| !helper.done) {
        let until = until(helpers);
        if now() >= until {
            break;
        }
        timer.set(Some(until));
        let open: Vec<usize> = (0..helpers.len())
            .filter(|&index| !helpers[index].done)
            .collect();
        let mut watched: Vec<Watched> = open
            .iter()
            .map(|&index| Watched::new(helpers[index].answer.as_fd(), false))
            .collect();
        watched.extend(timer.fd().map(|fd| Watched::new(fd, false)));
        poll::wait(&mut watched, timer.poll_limit(now()))?;
        let ready: Vec<bool> = watched.iter().map(Watched::ready).collect();
        for (&index, _) in open.iter().zip(ready).filter(|(_, ready)| *ready) {
            helpers[index].read();
        }
    }
    Ok(())
}

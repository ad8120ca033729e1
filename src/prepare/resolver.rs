//! What name servers say: the addresses of servers, and the full name of this host. The resolver
//! cannot be interrupted, so it runs in processes that can: helpers, one for each name.

use crate::endpoint::{Endpoint, Found};
use crate::moment::Moment;
use crate::plan::Host;
use crate::reason::reason;
use crate::signal::Signal;
use crate::sys::clock::now;
use crate::sys::poll::{self, Watched};
use crate::sys::process::{self, Fork, Pid};
use crate::sys::timer::Timer;
use crate::sys::{descriptors, host, random};
use std::io::{self, PipeReader, Read, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Addresses taken of one name. More than a name of one server has; a round over all of them must
/// end.
const MAX_ADDRESSES: usize = 16;

/// What a helper may say: so many addresses, each a line, or a name.
const MAX_ANSWER: u64 = 4096;

/// How long names are waited for at the most, once there is an address to go on with.
const RESOLVE_GRACE: Duration = Duration::from_secs(5);

/// Pauses between look-ups of names that have no address yet, the first and the longest; each is
/// twice the one before. A name that a deployment is about to make is found within the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The longest where the number of look-ups is limited: kazoo's rounds are longer and longer, too.
const MAX_PAUSE_OF_LIMITED_ROUNDS: Duration = Duration::from_secs(4);

/// The same while a run goes on: what is missing then is looked up again soon.
const RESOLVE_GRACE_DURING_RUN: Duration = Duration::from_secs(1);

/// How long a look-up may take while a run goes on: a resolver asks a name server that is silent
/// for 10 s.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(12);

/// What a helper of a run is called in `ps`: not our name, nor the command's, which scripts look
/// for.
const PROCESS_NAME: &str = "name-lookup";

/// Hosts, and what was found of each.
#[derive(Clone, Debug)]
pub struct HostAddresses {
    hosts: Vec<Host>,
    /// Its addresses, or why it has none.
    found: Vec<Result<Vec<SocketAddr>, String>>,
}

impl HostAddresses {
    /// Nothing was looked up yet. An address needs no look-up.
    pub fn new(hosts: &[Host]) -> HostAddresses {
        let found = hosts.iter().map(|host| match host.name.parse::<IpAddr>() {
            Ok(address) => Ok(vec![SocketAddr::new(address, host.port)]),
            Err(_) => Err("its name was not looked up".into()),
        });
        HostAddresses {
            found: found.collect(),
            hosts: hosts.to_vec(),
        }
    }

    /// The positions of what is a name.
    fn names(&self) -> Vec<usize> {
        (0..self.hosts.len())
            .filter(|&index| self.hosts[index].name.parse::<IpAddr>().is_err())
            .collect()
    }

    /// Takes down what a look-up has found. A name that has addresses keeps them if it cannot be
    /// looked up any more: a name server may be unreachable together with the servers.
    fn learn(&mut self, host: usize, found: Result<Vec<SocketAddr>, String>) {
        if found.is_ok() || self.found[host].is_err() {
            self.found[host] = found;
        }
    }

    /// All addresses, in another order each time, so that a fleet spreads over an ensemble; and the
    /// hosts that have none.
    pub fn result(&self) -> Found {
        let mut result = Found::default();
        for (host, found) in self.hosts.iter().zip(&self.found) {
            match found {
                Ok(addresses) => {
                    let name = |address: &SocketAddr| match addresses.len() {
                        1 => host.to_string(),
                        _ => format!("{host} ({})", address.ip()),
                    };
                    result
                        .endpoints
                        .extend(addresses.iter().map(|&address| Endpoint {
                            name: name(&address),
                            address,
                        }));
                }
                Err(why) => result.unresolved.push(format!("{host}: {why}")),
            }
        }
        shuffle(&mut result.endpoints);
        result
    }
}

/// A look-up of all names of some hosts beside a run, which sleeps in a poll of its own.
pub struct BackgroundLookup {
    helpers: Vec<(usize, Helper)>,
    began: Moment,
}

impl BackgroundLookup {
    /// Sends a helper for each name. `None`: there are none. The helpers are children of this
    /// process, which has to reap them.
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

    /// Processes of helpers.
    pub fn processes(&self) -> impl Iterator<Item = Pid> {
        self.helpers.iter().map(|(_, helper)| helper.process)
    }

    /// What to wake up for: the answers that have not come yet.
    pub fn watched(&self) -> impl Iterator<Item = Watched<'_>> {
        self.open()
            .map(|index| Watched::new(self.helpers[index].1.answer.as_fd(), false))
    }

    /// Reads the answers that are ready, given for each that was watched.
    pub fn read(&mut self, ready: impl Iterator<Item = bool>) {
        let open: Vec<usize> = self.open().collect();
        for (index, _) in open.into_iter().zip(ready).filter(|(_, ready)| *ready) {
            self.helpers[index].1.read();
        }
    }

    fn open(&self) -> impl Iterator<Item = usize> {
        (0..self.helpers.len()).filter(|&index| !self.helpers[index].1.done)
    }

    /// When it is over, with or without all answers.
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

    /// Takes down what was found.
    pub fn tell(&self, names: &mut HostAddresses) {
        for (host, helper) in &self.helpers {
            names.learn(*host, addresses(helper.answer_if_done()));
        }
    }
}

/// Looks up all hosts at once, until `deadline`; a name server that is silent about one leaves time
/// to try the others.
pub fn resolve(names: &mut HostAddresses, deadline: Moment) -> io::Result<Found> {
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

/// The same, again and again until there is an address, or until it is too late: a name that is not
/// known yet is a server that is not there yet. `rounds`: how often at the most. Returns how often
/// it was.
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

/// Writes down the addresses of a host, each on a line, or why it has none.
fn look_up_addresses(host: &Host) -> String {
    match (host.name.as_str(), host.port).to_socket_addrs() {
        Ok(addresses) => addresses
            .take(MAX_ADDRESSES)
            .map(|address| format!("{address}\n"))
            .collect(),
        Err(error) => format!("!{}", reason(&error)),
    }
}

/// Reads what was written down, if it was.
fn addresses(answer: Option<impl AsRef<[u8]>>) -> Result<Vec<SocketAddr>, String> {
    let answer =
        answer.ok_or("its name was not looked up in time (is the name server answering?)")?;
    let text = String::from_utf8_lossy(answer.as_ref());
    let mut addresses: Vec<SocketAddr> =
        text.lines().filter_map(|line| line.parse().ok()).collect();
    addresses.dedup();
    match text.strip_prefix('!') {
        Some(why) => Err(format!("its name cannot be looked up: {why}")),
        None if addresses.is_empty() => Err("its name has no address".into()),
        None => Ok(addresses),
    }
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

/// What this host is called, in full; being looked up.
pub struct HostnameLookup(Helper);

impl HostnameLookup {
    /// Asks, and lets other things be done meanwhile.
    pub fn start() -> io::Result<HostnameLookup> {
        let bare = host::name();
        Helper::fork(|_| host::full_name(&bare).unwrap_or(bare)).map(HostnameLookup)
    }

    /// What was answered. `None` if nothing was by the deadline, or whoever was asked has died of
    /// it.
    pub fn wait(self, deadline: Moment) -> io::Result<Option<String>> {
        let mut helpers = [self.0];
        read_answers(&mut helpers, |_| deadline)?;
        let [helper] = helpers;
        let answer = helper.finish().filter(|name| !name.is_empty());
        Ok(answer.map(|name| String::from_utf8_lossy(&name).into_owned()))
    }
}

/// A process that looks up one thing.
struct Helper {
    process: Pid,
    answer: PipeReader,
    text: Vec<u8>,
    done: bool,
}

impl Helper {
    /// Sends one to look something up, and to write down what it has found: at once, so that we are
    /// woken once.
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

    /// What it has found, if it is done.
    fn answer_if_done(&self) -> Option<&[u8]> {
        self.done.then_some(&self.text[..])
    }

    /// Ends it. What it has found, if it was done.
    fn finish(self) -> Option<Vec<u8>> {
        if !self.done {
            self.kill();
        }
        let _ = process::wait(self.process); // it ends by itself once it is done
        self.done.then_some(self.text)
    }
}

/// Hears helpers out, until all are done, or until the moment that depends on how far they are.
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

//! What name servers say: the addresses of servers, and the full name of this host. The resolver cannot be interrupted, so it runs in processes that
//! can.

use crate::link::reason;
use crate::moment::Moment;
use crate::plan::Host;
use crate::signal::Signal;
use crate::sys::poll::{self, Watched};
use crate::sys::process::{self, Fork, Pid};
use crate::sys::timer::Timer;
use crate::sys::{clock, descriptors, host, random};
use std::io::{self, PipeReader, Read, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::Duration;

/// Addresses taken of one name. More than a name of one server has; a round over all of them must end.
const ADDRESSES: usize = 16;

/// What a helper may say: so many addresses, each a line, or a name.
const LONGEST_ANSWER: u64 = 4096;

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
    let (mut servers, mut unresolved) = (Vec::new(), Vec::new());
    let (mut asked, mut helpers) = (Vec::new(), Vec::new());
    for host in hosts {
        if let Ok(address) = host.name.parse::<IpAddr>() {
            servers.push((host.to_string(), SocketAddr::new(address, host.port)));
        } else {
            asked.push(host);
            helpers.push(Helper::send(|| look_up(host))?);
        }
    }
    let (known, soon) = (!servers.is_empty(), now + share.min(STRAGGLERS));
    gather(&mut helpers, |helpers| if known || helpers.iter().any(Helper::has_address) { soon } else { deadline })?;
    for (host, addresses) in asked.into_iter().zip(helpers.into_iter().map(|helper| addresses(helper.finish()))) {
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

/// Writes down the addresses of a host, each on a line, or why it has none.
fn look_up(host: &Host) -> String {
    match (host.name.as_str(), host.port).to_socket_addrs() {
        Ok(addresses) => addresses.take(ADDRESSES).map(|address| format!("{address}\n")).collect(),
        Err(error) => format!("!{}", reason(&error)),
    }
}

/// Reads what was written down, if it was.
fn addresses(answer: Option<Vec<u8>>) -> Result<Vec<SocketAddr>, String> {
    let answer = answer.ok_or("its name was not looked up in time (is the name server answering?)")?;
    let text = String::from_utf8_lossy(&answer);
    let mut addresses: Vec<SocketAddr> = text.lines().filter_map(|line| line.parse().ok()).collect();
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
pub struct OwnName(Helper);

impl OwnName {
    /// Asks, and lets other things be done meanwhile.
    pub fn ask() -> io::Result<OwnName> {
        let bare = host::name();
        Helper::send(|| host::full_name(&bare).unwrap_or(bare)).map(OwnName)
    }

    /// What was answered. `None` if nothing was by the deadline, or whoever was asked has died of it.
    pub fn wait(self, deadline: Moment) -> io::Result<Option<String>> {
        let mut helpers = [self.0];
        gather(&mut helpers, |_| deadline)?;
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
    /// Sends one to look something up, and to write down what it has found: at once, so that we are woken once.
    fn send(look_up: impl FnOnce() -> String) -> io::Result<Helper> {
        let (answer, mut theirs) = io::pipe()?;
        let parent = process::own_pid();
        match process::fork()? {
            Fork::Parent(process) => Ok(Helper { process, answer, text: Vec::new(), done: false }),
            Fork::Child => {
                descriptors::close_inherited();
                let _ = process::die_with_parent(Some(Signal::KILL), parent);
                let _ = theirs.write_all(look_up().as_bytes());
                process::leave(0)
            }
        }
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

    /// Ends it. What it has found, if it was done.
    fn finish(self) -> Option<Vec<u8>> {
        if !self.done {
            let _ = process::kill(self.process, Signal::KILL);
        }
        let _ = process::wait(self.process); // it ends by itself once it is done
        self.done.then_some(self.text)
    }
}

/// Hears helpers out, until all are done, or until the moment that depends on how far they are.
fn gather(helpers: &mut [Helper], until: impl Fn(&[Helper]) -> Moment) -> io::Result<()> {
    if helpers.is_empty() {
        return Ok(());
    }
    let mut timer = Timer::new()?;
    while helpers.iter().any(|helper| !helper.done) {
        let until = until(helpers);
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
    Ok(())
}

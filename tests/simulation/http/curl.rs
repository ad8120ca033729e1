//! Scripts that ask for the pool by curl.
//!
//! # What they are faithful to
//!
//! Such a script asks one server after another, each once. It gives up if none of them says YES, but an
//! error, NO, or nothing within curl's `-m`; then it does not release. (The program's own client
//! does.) After YES it works until it has finished, or until the lease ends that it was promised,
//! counted from when it sent the request. It does not renew. At the end it releases what it holds, at
//! one server after another until one says OK.
//!
//! The kernel of its host works as that of any other client. Like a shell that waits for curl it has
//! no other source of events.

use super::super::{Link, Role, SECOND, Simulated, World, own, with};
use std::time::Duration;
use zk_flock::internals::endpoint::Address;
use zk_flock::internals::moment::Moment;
use zk_flock::internals::run::System as _;
use zk_flock::internals::signal::Status;
use zk_flock::internals::transport::{Event, Output};

/// How long it waits for the reply to a release, and between two attempts.
const RELEASE_LIMIT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(500);

/// What a script does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errand {
    /// The server that it asks.
    pub server: u8,
    /// `/wait/`; otherwise `/get/`.
    pub waits: bool,
    /// curl's `-m`, in ms; 0: none.
    pub limit: u32,
    /// How many servers it asks at most, and how long it works, in ms.
    pub attempts: u8,
    pub works: u32,
}

/// A script that works, as the world sees it.
#[derive(Debug)]
pub struct Work {
    pub host: usize,
    name: String,
    /// When its lease ends.
    until: u64,
    over: bool,
}

#[derive(Debug)]
enum Phase {
    Asking {
        until: Moment,
    },
    Working {
        until: Moment,
        token: String,
    },
    Releasing {
        until: Moment,
        token: String,
    },
    /// Between two attempts to release.
    Pausing {
        until: Moment,
        token: String,
    },
}

/// The script.
pub struct Curl {
    errand: Errand,
    attempts: u8,
    name: String,
    servers: u8,
    link: Link,
    request: Vec<u8>,
    sent: Moment,
    phase: Phase,
}

impl Curl {
    pub fn new(errand: Errand, servers: u8, name: String) -> Curl {
        let mut curl = Curl {
            errand,
            attempts: 0,
            name,
            servers,
            link: Link::default(),
            request: Vec::new(),
            sent: Moment::NEVER,
            phase: Phase::Asking {
                until: Moment::NEVER,
            },
        };
        curl.attempt();
        curl
    }

    /// Asks the next server for the pool.
    fn attempt(&mut self) {
        self.attempts += 1;
        let until = match self.errand.limit {
            0 => Moment::NEVER,
            limit => Simulated::now() + Duration::from_millis(limit.into()),
        };
        self.phase = Phase::Asking { until };
        let call = if self.errand.waits { "wait" } else { "get" };
        self.ask(&format!("/{call}/?pool=pool&host={0}&run={0}", self.name));
    }

    fn ask(&mut self, target: &str) {
        let head = format!("GET {target} HTTP/1.1\r\nHost: dx\r\nConnection: close\r\n\r\n");
        self.request = head.into_bytes();
        let last = self.errand.server % self.servers + 1;
        self.errand.server = self.errand.server.wrapping_add(1);
        let address = Address::Tcp(([10, 0, 0, last], 9889).into());
        Simulated::execute(&mut self.link, Output::Connect(address));
    }

    /// Its connection is ready.
    pub fn read(&mut self) {
        let mut reply = None;
        let (mut connected, mut ended) = (false, false);
        Simulated::read(&mut self.link, |event| match event {
            Event::Connected => connected = true,
            Event::Received(bytes) => reply = Some(String::from_utf8_lossy(bytes).into_owned()),
            Event::Disconnected(_) => ended = true,
        });
        if connected {
            self.sent = Simulated::now();
            let request = std::mem::take(&mut self.request);
            Simulated::execute(&mut self.link, Output::Send(request));
        } else if let Some(reply) = reply {
            Simulated::execute(&mut self.link, Output::Close);
            self.on_reply(&reply);
        } else if ended {
            self.on_reply("");
        }
    }

    fn on_reply(&mut self, reply: &str) {
        let now = Simulated::now();
        let field = |name: &str| Some(reply.split(name).nth(1)?.lines().next()?.trim().to_owned());
        match &self.phase {
            Phase::Asking { .. } if reply.ends_with("\r\n\r\nYES") => {
                let token = field("X-Lock-Token:").expect("a token");
                let lease: Option<f64> = field("X-Lock-Expires:").and_then(|it| it.parse().ok());
                let end = lease.map_or(Moment::NEVER, |lease| {
                    self.sent + Duration::from_secs_f64(lease)
                });
                let works = now + Duration::from_millis(self.errand.works.into());
                with(|world| world.works(&self.name, &token, end));
                let until = works.min(end);
                self.phase = Phase::Working { until, token };
            }
            // It asks another server, or ends.
            Phase::Asking { .. } => self.phase = Phase::Asking { until: now },
            Phase::Releasing { token, .. } if reply.ends_with("\r\n\r\nOK") => {
                let (until, token) = (now, token.clone());
                self.phase = Phase::Working { until, token };
            }
            Phase::Releasing { token, .. } => {
                let (until, token) = (now + PAUSE, token.clone());
                self.phase = Phase::Pausing { until, token };
            }
            Phase::Working { .. } | Phase::Pausing { .. } => {}
        }
    }

    /// Does what is due. Returns when more is; `None`: it ends.
    pub fn turn(&mut self) -> Option<Moment> {
        let now = Simulated::now();
        let released = with(|world| world.has_ended_work(&self.name));
        match &self.phase {
            Phase::Asking { until } if *until > now => Some(*until),
            Phase::Asking { .. } => {
                // What has arrived by now is read before the limit is looked at.
                Simulated::execute(&mut self.link, Output::Close);
                if self.attempts >= self.errand.attempts {
                    return None;
                }
                self.attempt();
                self.turn()
            }
            Phase::Working { until, .. } if *until > now => Some(*until),
            Phase::Working { .. } if released => None,
            Phase::Working { token, .. } | Phase::Pausing { token, .. }
                if self.due().is_some_and(|due| due <= now) =>
            {
                with(|world| world.ends_work(&self.name));
                let (until, token) = (now + RELEASE_LIMIT, token.clone());
                self.ask(&format!(
                    "/release/?pool=pool&host={0}&run={0}&token={token}",
                    self.name
                ));
                self.phase = Phase::Releasing { until, token };
                Some(until)
            }
            Phase::Releasing { until, token } if *until <= now => {
                let (until, token) = (now + PAUSE, token.clone());
                Simulated::execute(&mut self.link, Output::Close);
                self.phase = Phase::Pausing { until, token };
                Some(until)
            }
            Phase::Working { until, .. }
            | Phase::Releasing { until, .. }
            | Phase::Pausing { until, .. } => Some(*until),
        }
    }

    fn due(&self) -> Option<Moment> {
        match &self.phase {
            Phase::Working { until, .. } | Phase::Pausing { until, .. } => Some(*until),
            Phase::Asking { .. } | Phase::Releasing { .. } => None,
        }
    }
}

impl World {
    /// Starts a script. Returns its process.
    pub fn start_curl(&mut self, host: usize) -> i32 {
        self.spawn(host, usize::MAX, Role::Curl, 0)
    }

    /// A script has ended.
    pub fn curl_ends(&mut self, pid: i32) {
        self.dies(pid, Status::Exited(0));
    }

    /// A script begins to work.
    fn works(&mut self, name: &str, token: &str, end: Moment) {
        let host = self.procs[&own()].host;
        self.note(&format!("host {host} {name}: works, token {token}"));
        let until = if end == Moment::NEVER {
            u64::MAX
        } else {
            self.when(host, end)
        };
        let name = name.to_owned();
        self.figures.handovers += 1;
        self.http().works.push(Work {
            host,
            name,
            until,
            over: false,
        });
        self.check_overlap();
    }

    /// A script has finished, and releases the pool.
    fn ends_work(&mut self, name: &str) {
        let mut works = self.http().works.iter_mut();
        if let Some(work) = works.find(|work| work.name == name)
            && !std::mem::replace(&mut work.over, true)
        {
            self.note(&format!("{name}: has finished"));
        }
    }

    fn has_ended_work(&mut self, name: &str) -> bool {
        let mut works = self.http().works.iter();
        works.any(|work| work.name == name && work.over)
    }

    /// How many scripts work now, and how many of them have a YES of which the network has not
    /// confirmed to the server that it arrived: the server takes the pool back, see distributexd(8).
    pub(in super::super) fn working(&self) -> (usize, usize) {
        let Some(http) = &self.http else {
            return (0, 0);
        };
        let live = http
            .works
            .iter()
            .filter(|work| !work.over && self.now < work.until && !self.hosts[work.host].asleep);
        let unconfirmed = live
            .clone()
            .filter(|work| http.unconfirmed.contains(&work.name));
        (live.count(), unconfirmed.count())
    }
}

/// How long a script may take beside its waiting: to give up, to work, and for a release or two.
pub fn longest(errand: Errand) -> u64 {
    let asks = u64::from(errand.limit) * u64::from(errand.attempts);
    (asks + u64::from(errand.works)) * 1000 + 5 * SECOND
}

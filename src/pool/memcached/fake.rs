//! A memcached in memory for the tests of this backend. Like the real one it may expire an item up
//! to a second early.

use super::super::Target;
use super::super::state::{BootTime, State};
use super::Memcache;
use crate::moment::Moment;
use crate::plan;
use crate::testing::script::{Script, Scripted};
use crate::testing::{Connection, Delivery, Peer, Reply};
use std::collections::BTreeMap;
use std::time::Duration;

/// When the host of the scripts booted: the tokens begin here, in microseconds.
pub(super) const BOOT: BootTime = BootTime(1_763_000_000_000);

struct Item {
    value: String,
    version: u64,
    expires: Moment,
}

pub(super) struct Fake {
    boot: BootTime,
    items: BTreeMap<String, Item>,
    versions: u64,
    /// All commands that it received, without values.
    pub(super) heard: Vec<String>,
    /// The error that it replies instead of storing anything.
    pub(super) refuses: Option<&'static str>,
    /// It is older than 1.6 and does not know `mg`.
    pub(super) is_old: bool,
}

impl Fake {
    pub(super) fn new(boot: BootTime) -> Fake {
        Fake {
            boot,
            items: BTreeMap::new(),
            versions: 0,
            heard: Vec::new(),
            refuses: None,
            is_old: false,
        }
    }

    pub(super) fn put(&mut self, key: &str, value: &str, expires: Moment) {
        self.versions += 1;
        self.items.insert(
            key.into(),
            Item {
                value: value.into(),
                version: self.versions,
                expires,
            },
        );
    }

    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.items.get(key).map(|item| item.value.as_str())
    }

    pub(super) fn version(&self, key: &str) -> Option<String> {
        self.items.get(key).map(|item| item.version.to_string())
    }

    /// As after a restart.
    pub(super) fn forget(&mut self) {
        self.items.clear();
    }

    /// Executes complete commands and returns the replies.
    pub(super) fn execute(&mut self, text: &str, now: Moment) -> String {
        self.items.retain(|_, item| now < item.expires);
        let mut lines = text.split_terminator("\r\n");
        let mut replies = String::new();
        while let Some(command) = lines.next() {
            let words: Vec<_> = command.split(' ').collect();
            let value = if let "cas" | "add" | "set" = words[0] {
                lines.next().expect("a value")
            } else {
                ""
            };
            self.heard.push(command.into());
            replies += &self.reply(&words, value, now);
            replies += "\r\n";
        }
        replies
    }

    fn reply(&mut self, words: &[&str], value: &str, now: Moment) -> String {
        match words[0] {
            "gets" => {
                return words[1..]
                    .iter()
                    .map(|key| self.stored(key))
                    .collect::<String>()
                    + "END";
            }
            "mg" => return self.time_left(words[1], now),
            _ => {}
        }
        let (key, item) = (words[1], self.items.get(words[1]));
        match (words[0], item, self.refuses) {
            (_, _, Some(refusal)) => refusal.into(),
            ("add", Some(_), _) => "NOT_STORED".into(),
            ("cas" | "incr", None, _) => "NOT_FOUND".into(),
            ("cas", Some(item), _) if item.version.to_string() != words[5] => "EXISTS".into(),
            ("incr", Some(item), _) => {
                let number = item.value.parse::<u64>().expect("a number")
                    + words[2].parse::<u64>().expect("a number");
                let expires = item.expires;
                self.put(key, &number.to_string(), expires);
                number.to_string()
            }
            _ => {
                let expires = self.expiry(words[3].parse().expect("a number"), now);
                self.put(key, value, expires);
                "STORED".into()
            }
        }
    }

    /// The part of a reply to `gets` about one key.
    pub(super) fn stored(&self, key: &str) -> String {
        let said = |Item { value, version, .. }: &Item| {
            format!("VALUE {key} 0 {} {version}\r\n{value}\r\n", value.len())
        };
        self.items.get(key).map_or(String::new(), said)
    }

    fn time_left(&self, key: &str, now: Moment) -> String {
        match self.items.get(key) {
            _ if self.is_old => "ERROR".into(),
            None => "EN".into(),
            Some(item) if item.expires == Moment::NEVER => "HD t-1".into(),
            Some(item) => format!("HD t{}", item.expires.0.as_secs() - now.0.as_secs()),
        }
    }

    /// Its clock has whole seconds. A number above 30 days is a date.
    fn expiry(&self, seconds: u64, now: Moment) -> Moment {
        match seconds {
            0 => Moment::NEVER,
            1..=2_592_000 => Moment(Duration::from_secs(now.0.as_secs() + seconds)),
            date => Moment(Duration::from_millis(
                date * 1000 - self.boot.0.unsigned_abs(),
            )),
        }
    }
}

/// The memcached of a script, and the network between it and the servers.
pub(crate) struct Memcached {
    pub(super) fake: Fake,
    /// It accepts connections.
    is_reachable: bool,
    /// It reads no command, unless the script says so.
    pub(super) is_frozen: bool,
    /// The commands that it has not read yet.
    pub(super) unread: BTreeMap<Connection, String>,
    /// Its replies that have not arrived yet.
    replies: BTreeMap<Connection, String>,
    connections: usize,
}

impl Memcached {
    /// Reads and executes what has arrived on a connection.
    pub(super) fn execute(&mut self, connection: Connection, now: Moment) {
        let commands = self.unread.remove(&connection).unwrap_or_default();
        let replies = self.fake.execute(&commands, now);
        *self.replies.entry(connection).or_default() += &replies;
    }

    pub(super) fn list(&self) -> Option<&str> {
        self.fake.value("one:lockedby")
    }
}

impl Peer<Target> for Memcached {
    fn connect(&mut self, _: Target, _: Moment) -> Reply {
        if !self.is_reachable {
            return Reply::Refused("refused".into());
        }
        self.connections += 1;
        Reply::Accepted(self.connections)
    }

    fn receive(&mut self, connection: Connection, commands: &[u8], _: Moment) {
        *self.unread.entry(connection).or_default() += str::from_utf8(commands).unwrap();
    }

    fn close(&mut self, connection: Connection) {
        self.unread.remove(&connection);
        self.replies.remove(&connection);
    }

    fn deliver(&mut self, connection: Connection, now: Moment) -> Option<Delivery> {
        if !self.is_frozen {
            self.execute(connection, now);
        }
        let replies = self.replies.remove(&connection)?;
        (!replies.is_empty()).then(|| Delivery::Bytes(replies.into_bytes()))
    }
}

impl Scripted for Memcache {
    type Peer = Memcached;
    const SERVERS: usize = 2;
    const IN_ORDER: bool = false;

    fn peer() -> Memcached {
        let mut fake = Fake::new(BOOT);
        let token = Memcache::first_token().to_string();
        fake.put("one:token", &token, Moment::NEVER);
        Memcached {
            fake,
            is_reachable: true,
            is_frozen: false,
            unread: BTreeMap::new(),
            replies: BTreeMap::new(),
            connections: 0,
        }
    }

    fn start(pools: Vec<plan::Pool>, _: Option<State>, now: Moment) -> Memcache {
        Memcache::new(pools, "h:11211".into(), BOOT, now)
    }

    fn first_token() -> i64 {
        BOOT.micros(Moment::default())
    }

    fn happen(script: &mut Script<Memcache>, server: usize, event: &[&str]) {
        let peer = &mut script.peer;
        match event {
            ["reachable"] => peer.is_reachable = true,
            ["unreachable"] => {
                peer.is_reachable = false;
                for server in &mut script.servers {
                    server.cut(script.now, peer);
                }
            }
            // The connection breaks after that many replies.
            ["cut", "after", count, "replies"] => {
                script.servers[server].replies_left = count.parse().ok();
            }
            ["frozen"] => peer.is_frozen = true,
            ["thawed"] => peer.is_frozen = false,
            ["step"] => {
                if let Some(connection) = script.servers[server].connection() {
                    peer.execute(connection, script.now);
                }
            }
            ["holds", list] => peer.fake.put("one:lockedby", list, Moment::NEVER),
            ["leases", leases] => peer.fake.put("one:leases", leases, Moment::NEVER),
            ["expire", seconds] => script.expire(server, seconds.parse().unwrap()),
            _ => panic!("{event:?}"),
        }
    }
}

//! Servers on a ZooKeeper in memory, for scripts.

use super::super::Target;
use super::super::state::{BootTime, State};
use super::{Options, ZooKeeper};
use crate::lock::zookeeper::Fake;
use crate::moment::Moment;
use crate::plan;
use crate::testing::script::{Script, Scripted};
use crate::testing::{Connection, Delivery, Peer, Reply};
use crate::transport::Address;
use crate::zookeeper::record::{Acl, Id};
use std::time::Duration;

pub(super) const BOOT: BootTime = BootTime(1_763_000_000_000);

/// The node of the pool of scripts.
pub(super) const POOL: &str = "/distributex/one";

/// The ZooKeeper, as servers reach it.
#[derive(Default)]
pub(crate) struct Ensemble {
    pub(super) fake: Fake,
    /// It accepts connections and answers nothing.
    pub(super) is_frozen: bool,
}

impl Ensemble {
    /// The data of the pool's node.
    pub(super) fn record(&self) -> String {
        let node = self.fake.nodes.get(POOL);
        String::from_utf8(node.expect("the node of the pool").data.clone()).unwrap()
    }

    /// The entries in the queue.
    pub(super) fn entries(&self) -> Vec<String> {
        self.fake.children(POOL)
    }
}

impl Peer<Target> for Ensemble {
    fn connect(&mut self, to: Target, now: Moment) -> Reply {
        self.fake.connect(to.expect("an address"), now)
    }

    fn message(&self, bytes: &[u8]) -> usize {
        Peer::<Address>::message(&self.fake, bytes)
    }

    fn receive(&mut self, connection: Connection, message: &[u8], now: Moment) {
        Peer::<Address>::receive(&mut self.fake, connection, message, now);
    }

    fn close(&mut self, connection: Connection) {
        Peer::<Address>::close(&mut self.fake, connection);
    }

    fn deliver(&mut self, connection: Connection, now: Moment) -> Option<Delivery> {
        if self.is_frozen {
            return None;
        }
        Peer::<Address>::deliver(&mut self.fake, connection, now)
    }
}

/// A server that has just started.
pub(super) fn server(pools: Vec<plan::Pool>, now: Moment) -> ZooKeeper {
    let anyone = Id {
        scheme: "world".into(),
        id: "anyone".into(),
    };
    let options = Options {
        servers: vec!["h1:2181".into()],
        timeout: Duration::from_secs(10),
        auth: None,
        acl: vec![Acl {
            perms: 31,
            id: anyone,
        }],
        path: "/distributex".into(),
        boot: BOOT,
    };
    ZooKeeper::new(pools, options, now)
}

impl Scripted for ZooKeeper {
    type Peer = Ensemble;
    const SERVERS: usize = 3;
    const IN_ORDER: bool = false;

    fn peer() -> Ensemble {
        Ensemble::default()
    }

    fn start(pools: Vec<plan::Pool>, _: Option<State>, now: Moment) -> ZooKeeper {
        server(pools, now)
    }

    fn first_token() -> i64 {
        BOOT.micros(Moment::default())
    }

    fn happen(script: &mut Script<ZooKeeper>, server: usize, event: &[&str]) {
        let peer = &mut script.peer;
        let session = script.servers[server].machine.session.id();
        match event {
            ["reachable"] => peer.fake.down = false,
            ["unreachable"] => {
                peer.fake.down = true;
                for server in &mut script.servers {
                    server.cut(script.now, peer);
                }
            }
            ["frozen"] => peer.is_frozen = true,
            ["thawed"] => peer.is_frozen = false,
            // How long each answer takes.
            ["delay", time] => peer.fake.delay = Duration::from_millis(time.parse().unwrap()),
            ["cut"] => script.servers[server].cut(script.now, peer),
            // The connection breaks after that many requests, or after that many answers.
            ["cut", "after", count, "requests"] => {
                script.servers[server].requests_left = count.parse().ok();
            }
            ["cut", "after", count, "answers"] => {
                script.servers[server].replies_left = count.parse().ok();
            }
            // The member that the server is connected to does not get changes any more; it is a
            // leader that has lost its majority.
            ["behind"] => peer.fake.fall_behind(session.expect("a session"), false),
            ["cut", "off"] => peer.fake.fall_behind(session.expect("a session"), true),
            ["healed"] => peer.fake.heal(),
            ["expired"] => {
                let sessions = peer.fake.sessions_by_age();
                script.servers[server].cut(script.now, peer);
                peer.fake.end(sessions[server]);
            }
            ["expire", seconds] => script.expire(server, seconds.parse().unwrap()),
            ["delete"] => peer.fake.delete(POOL),
            ["written", text] => {
                let node = peer.fake.nodes.get_mut(POOL).expect("the node of the pool");
                node.data = text.as_bytes().to_vec();
            }
            _ => panic!("{event:?}"),
        }
    }
}

//! A ZooKeeper server in memory, for tests of locks. It keeps sessions, nodes and watches, and its
//! connections can be cut after any message. It shares the codec of the client, so it tests
//! behaviour and not encoding.

use super::recipe::Options;
use crate::lock::{Event, Input, Lock, Output};
use crate::moment::Moment;
use crate::plan::{self, Cluster, Heartbeat};
use crate::testing::{Delivery, Driver, Peer, Reply};
use crate::transport::Address;
use crate::zookeeper::code::{Code, flag, operation, xid};
use crate::zookeeper::record::*;
use crate::zookeeper::wire::{Vector, Wire, frame, next_frame};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// So many milliseconds after the start of a test. The clock does not begin at 0.
pub(super) fn at(milliseconds: u64) -> Moment {
    Moment(Duration::from_secs(100) + Duration::from_millis(milliseconds))
}

/// The options of a run that begins at the start of a test and waits so long; zero: one try.
pub(super) fn options(timeout: Duration, wait: Duration) -> Options {
    Options {
        servers: vec!["h1:2181".into()],
        unresolved: vec![],
        cluster: Cluster {
            hosts: vec![],
            connection: crate::plan::Connection::Direct,
            chroot: String::new(),
            timeout,
            auth: None,
            acl: plan::Acl::Open,
            heartbeat: Heartbeat::Write,
        },
        wait_until: (!wait.is_zero()).then(|| at(0) + wait),
        connect_by: at(0) + wait.max(timeout),
        kill_after: Duration::from_secs(5),
        max_rounds: None,
        max_restarts: Some(1),
        takes_auth: true,
        outer_sessions: vec![],
        record: None,
    }
}

/// A node, with what matters to locks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) data: Vec<u8>,
    pub(crate) owner: i64,
    pub(crate) czxid: i64,
    /// When it was created, in ms of the server's clock.
    pub(crate) ctime: i64,
    pub(crate) version: i32,
}

#[derive(Default)]
struct Connection {
    session: Option<i64>,
    watches: BTreeSet<String>,
    child_watches: BTreeSet<String>,
    /// Frames that are not delivered yet, each with the time of its arrival.
    outgoing: VecDeque<(Moment, Vec<u8>)>,
    /// The client has received something.
    has_delivered: bool,
    /// Requests that came with the connect request, with ClickHouse Keeper.
    unread: Vec<Vec<u8>>,
    /// The server has closed the connection; outgoing frames arrive first.
    closed: bool,
    /// The member of the ensemble that it leads to does not have all changes.
    copy: Option<OldCopy>,
}

/// What a member of an ensemble has that does not have all changes. Watches fire when it gets them.
struct OldCopy {
    nodes: BTreeMap<String, Entry>,
    zxid: i64,
    /// A leader without a majority: it answers reads and `sync`, until it has received a write.
    /// Any other member has all changes before it answers `sync` or a write.
    is_cut_off: bool,
    /// A cut-off leader has received a write.
    is_stuck: bool,
}

/// The server.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools)] // independent facts
pub(crate) struct Fake {
    pub(crate) nodes: BTreeMap<String, Entry>,
    sessions: BTreeMap<i64, (Duration, Moment)>,
    connections: BTreeMap<usize, Connection>,
    zxid: i64,
    opened: usize,
    /// The next sequence number, of every parent.
    pub(crate) sequence: i64,
    /// While set, the server accepts no connection.
    pub(crate) down: bool,
    /// The server accepts connections only at this address; `None`: at any.
    pub(crate) address: Option<Address>,
    /// A session that creates the wanted node and its parents just after the client's create has
    /// failed because a parent is missing.
    pub(crate) rival: Option<i64>,
    /// The server is older than 3.5.3: it has no container nodes.
    pub(crate) old: bool,
    /// A session that ends just after a queue was listed.
    pub(crate) leaver: Option<i64>,
    /// The server lists no children below this path, as one that is behind.
    pub(crate) hidden: Option<String>,
    /// No node may be created below this path.
    pub(crate) closed: Option<String>,
    /// No data may be changed.
    pub(crate) is_write_protected: bool,
    /// The data of this node may not be read.
    pub(crate) secret: Option<String>,
    /// A node that is deleted just after a multi has failed because a node exists.
    pub(crate) fleeting: Option<String>,
    /// The server goes down, once, when a request of this kind arrives, which is not executed.
    pub(crate) loses: Option<i32>,
    /// The session timeout that the server grants from now on, whatever the client requests.
    pub(crate) grants: Option<Duration>,
    /// The server resumes no session and makes a new one instead.
    pub(crate) replaces: bool,
    /// The server is ClickHouse Keeper: see `tests/common/keeper.rs` for what it does otherwise.
    pub(crate) keeper: bool,
    /// The server closes the connection of a client that requests a container.
    pub(crate) drops_containers: bool,
    /// The server demands authentication of each client and closes the connection.
    pub(crate) demands_auth: bool,
    /// The server answers connect requests as ClickHouse Keeper does without a leader.
    pub(crate) refuses: bool,
    /// How many requests listed the children of a node.
    pub(crate) lists: usize,
    /// Requests that the server received.
    pub(crate) requests: usize,
    /// The operation is a rehearsal: it changes nothing and fires no watch.
    rehearses: bool,
    /// By how many ms the server's clock, which stamps nodes, differs from that of the test.
    pub(crate) clock_offset: i64,
    /// How long a frame is on its way to the client.
    pub(crate) delay: Duration,
    clock: Moment,
}

impl Connection {
    /// A watch fires.
    fn notify(&mut self, due: Moment, kind: i32, path: &str) {
        let event = framed(|out| {
            ReplyHeader {
                xid: xid::WATCH,
                zxid: -1,
                err: 0,
            }
            .write(out);
            WatcherEvent {
                kind,
                state: 3,
                path: path.into(),
            }
            .write(out);
        });
        self.outgoing.push_back((due, event));
    }
}

impl Fake {
    /// A server with the node of the application.
    pub(crate) fn with_parent(path: &str) -> Fake {
        let mut fake = Fake::default();
        fake.nodes.insert(
            path.into(),
            Entry {
                data: Vec::new(),
                owner: 0,
                czxid: 0,
                ctime: 0,
                version: 0,
            },
        );
        fake
    }

    /// Ends sessions that were silent for their timeout.
    pub(crate) fn expire(&mut self, now: Moment) {
        self.clock = now;
        let over: Vec<i64> = self
            .sessions
            .iter()
            .filter(|(_, (timeout, heard))| now >= *heard + *timeout)
            .map(|(&id, _)| id)
            .collect();
        for id in over {
            self.end(id);
        }
    }

    /// Deletes all data, as a server whose disk was replaced.
    pub(crate) fn wipe(&mut self) {
        self.nodes.retain(|path, _| !path[1..].contains('/'));
        self.nodes.values_mut().for_each(|entry| entry.owner = 0);
        self.sessions.clear();
        self.zxid = 0;
    }

    /// The number of live sessions.
    pub(crate) fn living(&self) -> usize {
        self.sessions.len()
    }

    /// The live sessions, in the order in which they began.
    pub(crate) fn sessions_by_age(&self) -> Vec<i64> {
        self.sessions.keys().copied().collect()
    }

    /// Ends a session, and its nodes.
    pub(crate) fn end(&mut self, session: i64) {
        self.sessions.remove(&session);
        let paths: Vec<String> = self
            .nodes
            .iter()
            .filter(|(_, entry)| entry.owner == session)
            .map(|(path, _)| path.clone())
            .collect();
        for path in &paths {
            self.delete(path);
        }
    }

    /// The member that this session is connected to gets no further changes for now.
    pub(crate) fn fall_behind(&mut self, session: i64, is_cut_off: bool) {
        let connections = self.connections.values_mut();
        let its = connections.filter(|connection| connection.session == Some(session));
        for connection in its.filter(|connection| connection.copy.is_none()) {
            connection.copy = Some(OldCopy {
                nodes: self.nodes.clone(),
                zxid: self.zxid,
                is_cut_off,
                is_stuck: false,
            });
        }
    }

    /// All members have all changes. A leader that was cut off closes its connections.
    pub(crate) fn heal(&mut self) {
        for number in self.connections.keys().copied().collect::<Vec<_>>() {
            self.catch_up(number);
        }
    }

    fn catch_up(&mut self, number: usize) {
        let connection = self.connections.get_mut(&number).unwrap();
        let Some(copy) = connection.copy.take() else {
            return;
        };
        connection.closed |= copy.is_cut_off;
        let change = |path: &String| match (copy.nodes.get(path), self.nodes.get(path)) {
            (Some(_), None) => Some((2, path.clone())),
            (None, Some(_)) => Some((1, path.clone())),
            (old, new) => (old != new).then(|| (3, path.clone())),
        };
        let changes: Vec<_> = connection.watches.iter().filter_map(change).collect();
        for (kind, path) in changes {
            connection.watches.remove(&path);
            connection.notify(self.clock + self.delay, kind, &path);
        }
    }

    /// Whether a member that does not have all changes can answer this request now. It has them then
    /// if the request needs them.
    fn can_answer(&mut self, number: usize, kind: i32) -> bool {
        use operation::{CLOSE_SESSION, CREATE, DELETE, MULTI, SET_DATA, SYNC};
        let commits = [CREATE, DELETE, SET_DATA, MULTI, CLOSE_SESSION].contains(&kind);
        let connection = self.connections.get_mut(&number).unwrap();
        match &mut connection.copy {
            Some(copy) if copy.is_cut_off => {
                copy.is_stuck |= commits;
                return !copy.is_stuck;
            }
            Some(_) if commits || kind == SYNC => self.catch_up(number),
            _ => {}
        }
        true
    }

    fn time(&self) -> i64 {
        i64::try_from(self.clock.0.as_millis()).unwrap() + self.clock_offset
    }

    pub(crate) fn delete(&mut self, path: &str) {
        self.nodes.remove(path);
        self.zxid += 1;
        self.fire(2, path);
        self.fire(4, path.rsplit_once('/').unwrap().0);
    }

    /// Creates a node and returns its path.
    fn create(&mut self, create: CreateRequest, session: i64) -> Result<String, Code> {
        let CreateRequest {
            mut path,
            data,
            flags,
            ..
        } = create;
        if flags & flag::SEQUENCE != 0 {
            path = format!("{path}{:010}", self.sequence);
            self.sequence += 1;
        }
        let parent = path.rsplit_once('/').unwrap().0;
        if !parent.is_empty() && !self.nodes.contains_key(parent) {
            if let Some(rival) = self.rival.take() {
                self.put(parent, b"", 0);
                self.put(&path, b"", rival);
            }
            return Err(Code::NO_NODE);
        }
        if self
            .closed
            .as_ref()
            .is_some_and(|closed| parent.starts_with(closed))
        {
            return Err(Code::NO_AUTH);
        }
        if self.nodes.contains_key(&path) {
            return Err(Code::NODE_EXISTS);
        }
        self.put(
            &path,
            &data,
            if flags & flag::EPHEMERAL != 0 {
                session
            } else {
                0
            },
        );
        Ok(path)
    }

    fn delete_empty(&mut self, path: &str) -> Result<(), Code> {
        if !self.nodes.contains_key(path) {
            return Err(Code::NO_NODE);
        }
        if !self.children(path).is_empty() {
            return Err(Code::NOT_EMPTY);
        }
        self.delete(path);
        Ok(())
    }

    fn perform(&mut self, operation: &Operation, session: i64) -> Result<(), Code> {
        match operation {
            Operation::Create(_, create) => self.create(create.clone(), session).map(drop),
            Operation::Delete(path) => self.delete_empty(path),
            Operation::SetData(set) => self.set_data(set.clone()).map(drop),
            Operation::Check(path, version) => match self.nodes.get(path) {
                None => Err(Code::NO_NODE),
                Some(entry) if *version != -1 && entry.version != *version => {
                    Err(Code::BAD_VERSION)
                }
                Some(_) => Ok(()),
            },
        }
    }

    fn set_data(&mut self, set: SetDataRequest) -> Result<Stat, Code> {
        let SetDataRequest {
            path,
            data,
            version,
        } = set;
        let entry = self.nodes.get_mut(&path).ok_or(Code::NO_NODE)?;
        if self.is_write_protected {
            return Err(Code::NO_AUTH);
        }
        if version != -1 && entry.version != version {
            return Err(Code::BAD_VERSION);
        }
        entry.data = data;
        entry.version = entry.version.wrapping_add(1);
        self.fire(3, &path);
        Ok(self.stat(&path))
    }

    /// Executes all operations or none: a rehearsal finds the one that fails.
    fn multi(
        &mut self,
        number: usize,
        session: i64,
        request: &mut &[u8],
        body: &mut Vec<u8>,
    ) -> Code {
        let operations: Vec<_> = std::iter::from_fn(|| Operation::read(request)).collect();
        let container = |operation: &Operation| {
            matches!(operation, Operation::Create(operation::CREATE_CONTAINER, _))
        };
        let has_containers = operations.iter().any(container);
        if self.drops_containers && has_containers {
            self.connections.get_mut(&number).unwrap().closed = true;
            return Code::OK;
        }
        assert!(!(self.keeper && has_containers), "Keeper hangs up");
        if self.old && has_containers {
            return Code::MARSHALLING;
        }
        let before = (self.nodes.clone(), self.zxid, self.sequence);
        self.rehearses = true;
        let failed = operations
            .iter()
            .enumerate()
            .find_map(|(index, operation)| Some((index, self.perform(operation, session).err()?)));
        self.rehearses = false;
        (self.nodes, self.zxid, self.sequence) = before;
        for (index, operation) in operations.iter().enumerate() {
            let Some((at, code)) = failed else {
                self.perform(operation, session)
                    .expect("the rehearsal went well");
                self.write_result(operation, body);
                continue;
            };
            let code = match index.cmp(&at) {
                Ordering::Less => Code::OK,
                Ordering::Equal => code,
                Ordering::Greater => Code(-2), // a runtime inconsistency
            };
            MultiHeader {
                kind: operation::ERROR,
                done: false,
                err: code.0,
            }
            .write(body);
            code.0.write(body);
        }
        MultiHeader {
            kind: operation::ERROR,
            done: true,
            err: -1,
        }
        .write(body);
        if let Some((_, Code::NODE_EXISTS)) = failed
            && let Some(path) = self.fleeting.take()
        {
            self.delete(&path);
        }
        Code::OK
    }

    fn write_result(&self, operation: &Operation, body: &mut Vec<u8>) {
        let mut header = |kind| {
            MultiHeader {
                kind,
                done: false,
                err: 0,
            }
            .write(body);
        };
        match operation {
            Operation::Create(operation::CREATE_CONTAINER, CreateRequest { path, .. }) => {
                header(operation::CREATE_2);
                CreateResponse { path: path.clone() }.write(body);
                self.stat(path).write(body);
            }
            Operation::Create(_, CreateRequest { path, .. }) => {
                header(operation::CREATE);
                CreateResponse { path: path.clone() }.write(body);
            }
            Operation::SetData(SetDataRequest { path, .. }) => {
                header(operation::SET_DATA);
                self.stat(path).write(body);
            }
            Operation::Delete(_) => header(operation::DELETE),
            Operation::Check(..) => header(operation::CHECK),
        }
    }

    /// Fires the watches of this node, or of its children (kind 4).
    fn fire(&mut self, kind: i32, path: &str) {
        if self.rehearses {
            return;
        }
        let due = self.clock + self.delay;
        for connection in self.connections.values_mut() {
            let watches = if kind == 4 {
                &mut connection.child_watches
            } else {
                &mut connection.watches
            };
            if connection.copy.is_none() && watches.remove(path) {
                connection.notify(due, kind, path);
            }
        }
    }

    /// Creates a node of another client.
    pub(crate) fn put(&mut self, path: &str, data: &[u8], owner: i64) {
        self.zxid += 1;
        self.nodes.insert(
            path.into(),
            Entry {
                data: data.to_vec(),
                owner,
                czxid: self.zxid,
                ctime: self.time(),
                version: 0,
            },
        );
        self.fire(1, path);
        self.fire(4, path.rsplit_once('/').unwrap().0);
    }

    /// The metadata of a node.
    fn stat(&self, path: &str) -> Stat {
        let Entry {
            owner,
            czxid,
            ctime,
            version,
            ..
        } = self.nodes[path];
        Stat {
            czxid,
            mzxid: czxid,
            ctime,
            mtime: ctime,
            version,
            cversion: 0,
            aversion: 0,
            ephemeral_owner: owner,
            data_length: 0,
            num_children: i32::try_from(self.children(path).len()).unwrap(),
            pzxid: czxid,
        }
    }

    /// How many messages are to be delivered to all clients.
    pub(crate) fn undelivered(&self) -> usize {
        self.connections
            .values()
            .map(|connection| connection.outgoing.len())
            .sum()
    }

    /// The names of a node's children.
    pub(crate) fn children(&self, parent: &str) -> Vec<String> {
        let child = |path: &String| Some(path.strip_prefix(parent)?.strip_prefix('/')?.to_string());
        self.nodes
            .keys()
            .filter_map(child)
            .filter(|name| !name.contains('/'))
            .collect()
    }

    /// A message arrives. Keeper reads those that came with the connect request when more arrive.
    fn receive_from(&mut self, number: usize, request: &[u8], now: Moment) {
        let connection = self.connections.get_mut(&number).unwrap();
        if self.keeper && connection.session.is_some() && !connection.has_delivered {
            return connection.unread.push(request.to_vec());
        }
        for earlier in std::mem::take(&mut connection.unread) {
            self.take(number, &earlier, now);
        }
        self.take(number, request, now);
    }

    fn take(&mut self, number: usize, mut request: &[u8], now: Moment) {
        let due = now + self.delay;
        if self.connections[&number].closed {
            return;
        }
        let Some(session) = self.connections[&number].session else {
            return self.greet(number, request, now);
        };
        if let Some((_, heard)) = self.sessions.get_mut(&session) {
            *heard = now;
        }
        let request = &mut request;
        self.requests += 1;
        let header = RequestHeader::read(request, "").unwrap();
        if self.loses.take_if(|kind| *kind == header.kind).is_some() {
            self.connections.get_mut(&number).unwrap().closed = true;
            self.down = true;
            return;
        }
        if self.demands_auth {
            let connection = self.connections.get_mut(&number).unwrap();
            connection.closed = true;
            let reply = ReplyHeader {
                xid: header.xid,
                zxid: 0,
                err: Code::AUTH_DEMANDED.0,
            };
            return connection
                .outgoing
                .push_back((due, framed(|out| reply.write(out))));
        }
        if !self.can_answer(number, header.kind) {
            return;
        }
        let mut body = Vec::new();
        // The copy takes the place of the nodes while the request is answered.
        let mut copy = self.connections.get_mut(&number).unwrap().copy.take();
        if let Some(copy) = &mut copy {
            std::mem::swap(&mut self.nodes, &mut copy.nodes);
        }
        let knows = self.sessions.contains_key(&session);
        let err = if knows || copy.as_ref().is_some_and(|copy| copy.is_cut_off) {
            self.answer(number, session, header.kind, request, &mut body)
        } else {
            Code::SESSION_EXPIRED
        };
        let zxid = copy.as_ref().map_or(self.zxid, |copy| copy.zxid);
        if let Some(copy) = &mut copy {
            std::mem::swap(&mut self.nodes, &mut copy.nodes);
        }
        self.connections.get_mut(&number).unwrap().copy = copy;
        let connection = self.connections.get_mut(&number).unwrap();
        connection.closed |= self.keeper && header.kind == operation::CLOSE_SESSION;
        if connection.closed {
            return; // without a reply
        }
        let reply = ReplyHeader {
            xid: header.xid,
            zxid,
            err: err.0,
        };
        self.connections
            .get_mut(&number)
            .unwrap()
            .outgoing
            .push_back((
                due,
                framed(|out| {
                    reply.write(out);
                    out.extend_from_slice(&body);
                }),
            ));
    }

    fn greet(&mut self, number: usize, mut request: &[u8], now: Moment) {
        let due = now + self.delay;
        let mut hello = ConnectRequest::read(&mut request, "").unwrap();
        if self.refuses {
            let response = ConnectResponse {
                protocol_version: 42,
                time_out: hello.time_out,
                session_id: -1,
                passwd: vec![0; 16],
            };
            let connection = self.connections.get_mut(&number).unwrap();
            connection.session = Some(-1);
            return connection
                .outgoing
                .push_back((due, framed(|out| response.write(out))));
        }
        if hello.last_zxid_seen > self.zxid && !self.keeper {
            self.connections.get_mut(&number).unwrap().closed = true;
            return;
        }
        if self.replaces || self.keeper {
            hello.session_id = 0;
        }
        if let Some(granted) = self.grants {
            hello.time_out = i32::try_from(granted.as_millis()).unwrap();
        }
        let known = self.sessions.contains_key(&hello.session_id);
        let session = if hello.session_id == 0 {
            0x1000 + i64::try_from(number).unwrap()
        } else {
            hello.session_id
        };
        let time_out = if hello.session_id == 0 || known {
            hello.time_out
        } else {
            0
        };
        if time_out > 0 {
            self.sessions.insert(
                session,
                (Duration::from_millis(time_out.unsigned_abs().into()), now),
            );
        }
        let connection = self.connections.get_mut(&number).unwrap();
        connection.session = Some(session);
        let response = ConnectResponse {
            protocol_version: 0,
            time_out,
            session_id: session,
            passwd: vec![7; 16],
        };
        connection.outgoing.push_back((
            due,
            framed(|out| {
                response.write(out);
                if !self.keeper {
                    false.write(out);
                }
            }),
        ));
    }

    fn answer(
        &mut self,
        number: usize,
        session: i64,
        kind: i32,
        request: &mut &[u8],
        body: &mut Vec<u8>,
    ) -> Code {
        match kind {
            operation::CREATE => {
                let create: CreateRequest = Wire::read(request, "").unwrap();
                match self.create(create, session) {
                    Ok(path) => CreateResponse { path }.write(body),
                    Err(code) => return code,
                }
            }
            operation::EXISTS => {
                let PathWatchRequest { path, watch } = Wire::read(request, "").unwrap();
                if watch {
                    self.connections
                        .get_mut(&number)
                        .unwrap()
                        .watches
                        .insert(path.clone());
                }
                if !self.nodes.contains_key(&path) {
                    return Code::NO_NODE;
                }
                self.stat(&path).write(body);
            }
            operation::GET_DATA => {
                let PathWatchRequest { path, watch } = Wire::read(request, "").unwrap();
                let Some(entry) = self.nodes.get(&path) else {
                    return Code::NO_NODE;
                };
                if self.secret.as_ref() == Some(&path) {
                    return Code::NO_AUTH;
                }
                GetDataResponse {
                    data: entry.data.clone(),
                    stat: self.stat(&path),
                }
                .write(body);
                if watch {
                    self.connections
                        .get_mut(&number)
                        .unwrap()
                        .watches
                        .insert(path);
                }
            }
            operation::SET_DATA => match self.set_data(Wire::read(request, "").unwrap()) {
                Ok(stat) => stat.write(body),
                Err(code) => return code,
            },
            operation::GET_CHILDREN => {
                self.lists += 1;
                let PathWatchRequest { path, watch } = Wire::read(request, "").unwrap();
                if !self.nodes.contains_key(&path) {
                    return Code::NO_NODE;
                }
                let hidden = self.hidden.as_ref() == Some(&path);
                GetChildrenResponse {
                    children: Vector(if hidden {
                        Vec::new()
                    } else {
                        self.children(&path)
                    }),
                }
                .write(body);
                if let Some(session) = self.leaver.take() {
                    self.end(session);
                }
                if watch {
                    self.connections
                        .get_mut(&number)
                        .unwrap()
                        .child_watches
                        .insert(path);
                }
            }
            operation::DELETE => {
                let DeleteRequest { path, .. } = Wire::read(request, "").unwrap();
                return self.delete_empty(&path).err().unwrap_or(Code::OK);
            }
            operation::MULTI => return self.multi(number, session, request, body),
            operation::CLOSE_SESSION => self.end(session),
            operation::SYNC | operation::PING => {}
            other => panic!("the fake does not know operation {other}"),
        }
        Code::OK
    }
}

/// Executes one operation of a multi.
enum Operation {
    Create(i32, CreateRequest),
    Delete(String),
    SetData(SetDataRequest),
    Check(String, i32),
}

impl Operation {
    /// The next operation of a multi; `None` after the last.
    fn read(request: &mut &[u8]) -> Option<Operation> {
        let MultiHeader { kind, done, .. } = MultiHeader::read(request, "").unwrap();
        (!done).then(|| match kind {
            operation::CREATE | operation::CREATE_CONTAINER => {
                Operation::Create(kind, Wire::read(request, "").unwrap())
            }
            operation::DELETE => Operation::Delete(DeleteRequest::read(request, "").unwrap().path),
            operation::SET_DATA => Operation::SetData(Wire::read(request, "").unwrap()),
            operation::CHECK => {
                let CheckVersionRequest { path, version } = Wire::read(request, "").unwrap();
                Operation::Check(path, version)
            }
            other => panic!("the fake does not know operation {other}"),
        })
    }
}

fn framed(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, write);
    out
}

impl Peer<Address> for Fake {
    fn connect(&mut self, to: Address, _: Moment) -> Reply {
        if self.down || self.address.as_ref().is_some_and(|address| *address != to) {
            return Reply::Refused("connection refused".into());
        }
        self.opened += 1;
        self.connections.insert(self.opened, Connection::default());
        Reply::Accepted(self.opened)
    }

    fn message(&self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        next_frame(&mut rest).unwrap().expect("a whole frame");
        bytes.len() - rest.len()
    }

    fn receive(&mut self, connection: usize, mut message: &[u8], now: Moment) {
        let request = next_frame(&mut message).unwrap().unwrap();
        self.clock = now;
        self.receive_from(connection, request, now);
    }

    fn close(&mut self, connection: usize) {
        self.connections.remove(&connection);
    }

    fn deliver(&mut self, connection: usize, now: Moment) -> Option<Delivery> {
        let connection = self.connections.get_mut(&connection)?;
        if connection.outgoing.is_empty() {
            return connection.closed.then_some(Delivery::End(None));
        }
        let arrived = connection.outgoing.pop_front_if(|(due, _)| *due <= now);
        connection.has_delivered |= arrived.is_some();
        arrived.map(|(_, frame)| Delivery::Bytes(frame))
    }

    fn due(&self, connection: usize) -> Moment {
        let first = self
            .connections
            .get(&connection)
            .and_then(|it| it.outgoing.front());
        first.map_or(Moment::NEVER, |(due, _)| *due)
    }
}

/// A lock that is connected to the fake server, and its outputs other than bytes.
pub(crate) struct Client<L: Lock> {
    pub(crate) driver: Driver<L>,
    pub(crate) said: Vec<Output>,
    /// The command of the lock exits as soon as it has started.
    pub(crate) brief: bool,
    /// When the lock requested look-ups of names.
    pub(crate) lookups: Vec<Moment>,
}

impl<L: Lock> Client<L> {
    pub(crate) fn new(lock: L) -> Client<L> {
        Client {
            driver: Driver::new(lock, Moment::default()),
            said: Vec::new(),
            brief: false,
            lookups: Vec::new(),
        }
    }

    /// Runs the lock and the server until both are idle at this moment.
    #[track_caller]
    pub(crate) fn talk(&mut self, fake: &mut Fake, now: Moment) {
        self.driver.jump(now);
        while let Some(output) = self.driver.next_report(fake) {
            if output == Output::LookUp {
                self.lookups.push(now);
                continue;
            }
            if self.brief && matches!(output, Output::Event(Event::Acquired(_))) {
                self.input(Input::Release, now);
            }
            self.said.push(output);
        }
    }

    /// Gives the lock an input; it acts on it at the next `talk`.
    pub(crate) fn input(&mut self, input: Input, now: Moment) {
        self.driver.input(now, |lock| lock.handle(input, now));
    }

    /// When the lock is to be polled next.
    pub(crate) fn wait(&self) -> Moment {
        self.driver.wait()
    }

    pub(crate) fn release(&mut self, fake: &mut Fake, now: Moment) {
        self.input(Input::Release, now);
        self.talk(fake, now);
    }

    pub(crate) fn cut(&mut self, fake: &mut Fake, now: Moment) {
        self.driver.cut(now, fake);
    }
}

//! A stand-in for ClickHouse Keeper, which speaks ZooKeeper's protocol. It keeps nodes, sessions and
//! watches in memory. It is faithful to the sources in what matters here; no Keeper was at hand.
//!
//! | Keeper | source in ClickHouse, `src/` |
//! | --- | --- |
//! | A session is never resumed; a new one is made instead. | `KeeperTCPHandler::receiveHandshake`; #116690 |
//! | The answer to a connect request has 36 bytes, without `readOnly`. | `KeeperTCPHandler::sendHandshake` |
//! | Requests in one write with the connect request are read when more bytes arrive: they are in the buffer, and `poll` waits for the socket or for a response. | `SocketInterruptablePollWrapper::poll`, 2021 to 2025 |
//! | A close is committed, and then the connection ends without a reply. | `KeeperTCPHandler::runImpl` |
//! | An unknown request, also in a multi, ends the connection: createContainer is one before #108908, and later unless it is switched on. | `KeeperTCPHandler::receiveRequest` |
//! | A create with the container flag is refused. | `Common/ZooKeeper/ZooKeeperCommon.cpp` |
//! | The least session timeout is 10 s. | `Common/ZooKeeper/ZooKeeperConstants.h` |
//! | A server that is stopped ends the sessions of its clients, tells them nothing, and hangs up at their next request. | `KeeperDispatcher::shutdown`, `putRequest`; #41215 |
//! | `srvr` is answered as by ZooKeeper, with another product. | `Coordination/FourLetterCommand.cpp` |
//!
//! Simpler: one server, without a log; no ACL, quota or feature flags.

use super::client::{frame, framed, next_frame};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;
use zk_flock::internals::sys::clock;
use zk_flock::internals::zookeeper::code::{Code, flag, operation, xid};
use zk_flock::internals::zookeeper::record::{
    CheckVersionRequest, ConnectRequest, ConnectResponse, CreateRequest, CreateResponse,
    DeleteRequest, GetChildrenResponse, MultiHeader, PathWatchRequest, ReplyHeader, RequestHeader,
    Stat, SyncRequest, WatcherEvent,
};
use zk_flock::internals::zookeeper::wire::{Vector, Wire};

/// The answer to `srvr`.
const BANNER: &[u8] =
    b"ClickHouse Keeper version: v24.8.4.13-abc\nLatency min/avg/max: 0/0/0\nMode: standalone\n";

/// The least session timeout that it grants.
const LEAST_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it expires sessions.
const TICK: Duration = Duration::from_millis(50);

#[derive(Clone)]
struct Node {
    data: Vec<u8>,
    owner: i64,
    czxid: i64,
}

struct Session {
    timeout: Duration,
    heard: Duration,
}

struct Connection {
    stream: TcpStream,
    watches: BTreeSet<String>,
}

/// An operation of a multi.
enum Operation {
    Create(CreateRequest),
    Delete(String),
    Check(String),
}

impl Operation {
    /// `None`: one of them is unknown, and Keeper hangs up.
    fn read_all(request: &mut &[u8]) -> Option<Vec<Operation>> {
        let mut all = Vec::new();
        loop {
            let header = MultiHeader::read(request, "multi").ok()?;
            if header.done {
                return Some(all);
            }
            all.push(match header.kind {
                operation::CREATE => Operation::Create(Wire::read(request, "create").ok()?),
                operation::DELETE => {
                    Operation::Delete(DeleteRequest::read(request, "delete").ok()?.path)
                }
                operation::CHECK => {
                    Operation::Check(CheckVersionRequest::read(request, "check").ok()?.path)
                }
                _ => return None,
            });
        }
    }

    fn kind(&self) -> i32 {
        match self {
            Operation::Create(_) => operation::CREATE,
            Operation::Delete(_) => operation::DELETE,
            Operation::Check(_) => operation::CHECK,
        }
    }
}

/// What happened to a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It was made.
    Made {
        /// The session that its client asked for; 0 for a new one.
        asked: i64,
    },
    /// Its client ended it.
    Closed,
    /// Its time was over.
    Expired,
    /// The server was stopped.
    Stopped,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, Node>,
    sessions: BTreeMap<i64, Session>,
    connections: BTreeMap<i64, Connection>,
    fates: Vec<(i64, Fate, Duration)>,
    zxid: i64,
    /// The next sequence number below each node.
    sequences: BTreeMap<String, i64>,
}

/// A server, until the test process ends.
pub struct Keeper {
    /// Where it listens.
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl Keeper {
    /// Starts it on loopback.
    pub fn start() -> Keeper {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let (served, expiring) = (state.clone(), state.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = served.clone();
                thread::spawn(move || serve(stream, &state));
            }
        });
        thread::spawn(move || {
            loop {
                thread::sleep(TICK);
                lock(&expiring).expire();
            }
        });
        Keeper { address, state }
    }

    /// Closes all connections.
    pub fn cut(&self) {
        for connection in lock(&self.state).connections.values() {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }

    /// Ends all sessions as a server that is stopped does. Their clients are told nothing.
    pub fn stop(&self) {
        let mut state = lock(&self.state);
        state.connections.clear(); // no reply and no event reaches them
        for session in state.sessions.keys().copied().collect::<Vec<_>>() {
            state.end(session, Fate::Stopped);
        }
    }

    /// What happened to its sessions so far, and when since boot, in order.
    pub fn fates(&self) -> Vec<(i64, Fate, Duration)> {
        lock(&self.state).fates.clone()
    }

    /// The paths of all nodes.
    pub fn nodes(&self) -> Vec<String> {
        lock(&self.state).nodes.keys().cloned().collect()
    }

    /// The session that owns a node, if it exists.
    pub fn owner(&self, path: &str) -> Option<i64> {
        lock(&self.state).nodes.get(path).map(|node| node.owner)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("nobody panics with the lock")
}

/// Serves one connection, until either side ends it.
fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    stream
        .set_nodelay(true)
        .expect("a connected socket takes options");
    let (mut received, mut session) = (Vec::new(), None);
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).unwrap_or(0);
        received.extend_from_slice(&chunk[..count]);
        let Some(session) = session else {
            if received == *b"srvr" {
                let _ = stream.write_all(BANNER);
                return drop(stream.shutdown(Shutdown::Both));
            }
            session = next_frame(&mut received).map(|hello| lock(state).greet(&hello, &stream));
            if count == 0 && session.is_none() {
                return;
            }
            continue; // the rest is read when more arrives
        };
        while let Some(message) = next_frame(&mut received) {
            if lock(state).take(session, &message).is_none() {
                return drop(stream.shutdown(Shutdown::Both));
            }
        }
        if count == 0 {
            return;
        }
    }
}

impl State {
    /// Always a new session, without a readOnly byte after it.
    fn greet(&mut self, mut message: &[u8], stream: &TcpStream) -> i64 {
        let hello = ConnectRequest::read(&mut message, "connect").expect("a client of ours");
        let granted =
            Duration::from_millis(hello.time_out.unsigned_abs().into()).max(LEAST_TIMEOUT);
        let session = 101 + i64::try_from(self.fates.len()).expect("few sessions");
        self.sessions.insert(
            session,
            Session {
                timeout: granted,
                heard: clock::since_boot(),
            },
        );
        self.note(
            session,
            Fate::Made {
                asked: hello.session_id,
            },
        );
        let time_out = i32::try_from(granted.as_millis()).expect("tests use short timeouts");
        let response = ConnectResponse {
            protocol_version: 0,
            time_out,
            session_id: session,
            passwd: vec![0; 16],
        };
        let mut stream = stream.try_clone().expect("a socket can be cloned");
        let _ = stream.write_all(&frame(&response));
        self.connections.insert(
            session,
            Connection {
                stream,
                watches: BTreeSet::new(),
            },
        );
        session
    }

    /// Answers a request. `None` hangs up.
    fn take(&mut self, session: i64, mut message: &[u8]) -> Option<()> {
        let request = &mut message;
        self.sessions.get_mut(&session)?.heard = clock::since_boot();
        let header = RequestHeader::read(request, "request").ok()?;
        let mut body = Vec::new();
        if header.kind == operation::CLOSE_SESSION {
            self.end(session, Fate::Closed);
            return None; // without a reply
        }
        let code = self.answer(session, header.kind, request, &mut body)?;
        let mut reply = Vec::new();
        ReplyHeader {
            xid: header.xid,
            zxid: self.zxid,
            err: code.0,
        }
        .write(&mut reply);
        reply.extend(body);
        self.send(session, &reply);
        Some(())
    }

    fn answer(
        &mut self,
        session: i64,
        kind: i32,
        request: &mut &[u8],
        body: &mut Vec<u8>,
    ) -> Option<Code> {
        match kind {
            operation::CREATE => {
                match self.create(CreateRequest::read(request, "create").ok()?, session) {
                    Ok(path) => CreateResponse { path }.write(body),
                    Err(code) => return Some(code),
                }
            }
            operation::DELETE => {
                let DeleteRequest { path, .. } = Wire::read(request, "delete").ok()?;
                return Some(self.delete(&path).err().unwrap_or(Code::OK));
            }
            operation::EXISTS | operation::GET_DATA => {
                let PathWatchRequest { path, watch } = Wire::read(request, "getData").ok()?;
                if watch {
                    self.connections
                        .get_mut(&session)?
                        .watches
                        .insert(path.clone());
                }
                let Some(node) = self.nodes.get(&path) else {
                    return Some(Code::NO_NODE);
                };
                if kind == operation::GET_DATA {
                    node.data.write(body);
                }
                stat(node).write(body);
            }
            operation::GET_CHILDREN => {
                let PathWatchRequest { path, .. } = Wire::read(request, "getChildren").ok()?;
                if !self.nodes.contains_key(&path) {
                    return Some(Code::NO_NODE);
                }
                GetChildrenResponse {
                    children: Vector(self.children(&path)),
                }
                .write(body);
            }
            operation::MULTI => self.multi(session, request, body)?,
            operation::SYNC => SyncRequest::read(request, "sync").ok()?.write(body),
            operation::PING | operation::AUTH => {}
            _ => return None, // as it does after an unknown operation
        }
        Some(Code::OK)
    }

    /// Executes all operations or none.
    fn multi(&mut self, session: i64, request: &mut &[u8], body: &mut Vec<u8>) -> Option<()> {
        let operations = Operation::read_all(request)?;
        let before = (self.nodes.clone(), self.sequences.clone(), self.zxid);
        let mut results = Vec::new();
        for operation in &operations {
            let result = self.perform(operation, session);
            let failed = result.is_err();
            results.push(result);
            if failed {
                break;
            }
        }
        let code = results.last().and_then(|last| last.as_ref().err().copied());
        if code.is_some() {
            (self.nodes, self.sequences, self.zxid) = before;
        }
        for (index, operation) in operations.iter().enumerate() {
            let err = code.map(|code| match (index + 1).cmp(&results.len()) {
                Ordering::Less => Code::OK,
                Ordering::Equal => code,
                Ordering::Greater => Code(-2), // a runtime inconsistency
            });
            let kind = err.map_or(operation.kind(), |_| operation::ERROR);
            let header = MultiHeader {
                kind,
                done: false,
                err: err.unwrap_or(Code::OK).0,
            };
            header.write(body);
            match (err, operation, &results.get(index)) {
                (Some(err), ..) => err.0.write(body),
                (None, Operation::Create(_), Some(Ok(path))) => {
                    CreateResponse { path: path.clone() }.write(body);
                }
                (None, Operation::Delete(path), _) => self.fire(path),
                _ => {}
            }
        }
        MultiHeader {
            kind: operation::ERROR,
            done: true,
            err: -1,
        }
        .write(body);
        Some(())
    }

    /// Executes an operation, and returns the path of its node. No watch fires.
    fn perform(&mut self, operation: &Operation, session: i64) -> Result<String, Code> {
        match operation {
            Operation::Create(create) => self.create(create.clone(), session),
            Operation::Delete(path) => self.remove(path).map(|()| path.clone()),
            Operation::Check(path) if self.nodes.contains_key(path) => Ok(path.clone()),
            Operation::Check(_) => Err(Code::NO_NODE),
        }
    }

    fn create(&mut self, create: CreateRequest, session: i64) -> Result<String, Code> {
        let CreateRequest {
            mut path,
            data,
            flags,
            ..
        } = create;
        assert_eq!(flags & flag::CONTAINER, 0, "Keeper refuses it");
        let parent = path
            .rsplit_once('/')
            .expect("a path is absolute")
            .0
            .to_owned();
        if flags & flag::SEQUENCE != 0 && self.nodes.contains_key(&parent) {
            let next = self.sequences.entry(parent.clone()).or_default();
            path = format!("{path}{next:010}");
            *next += 1;
        }
        if !parent.is_empty() && !self.nodes.contains_key(&parent) {
            return Err(Code::NO_NODE);
        }
        if self.nodes.contains_key(&path) {
            return Err(Code::NODE_EXISTS);
        }
        self.zxid += 1;
        let owner = if flags & flag::EPHEMERAL != 0 {
            session
        } else {
            0
        };
        self.nodes.insert(
            path.clone(),
            Node {
                data,
                owner,
                czxid: self.zxid,
            },
        );
        Ok(path)
    }

    fn delete(&mut self, path: &str) -> Result<(), Code> {
        self.remove(path)?;
        self.fire(path);
        Ok(())
    }

    fn remove(&mut self, path: &str) -> Result<(), Code> {
        if !self.nodes.contains_key(path) {
            return Err(Code::NO_NODE);
        }
        if !self.children(path).is_empty() {
            return Err(Code::NOT_EMPTY);
        }
        self.nodes.remove(path);
        self.sequences.remove(path);
        self.zxid += 1;
        Ok(())
    }

    /// A node was deleted: fires its watches.
    fn fire(&mut self, path: &str) {
        let watching: Vec<i64> = self
            .connections
            .iter_mut()
            .filter_map(|(&session, connection)| connection.watches.remove(path).then_some(session))
            .collect();
        for session in watching {
            let mut event = Vec::new();
            ReplyHeader {
                xid: xid::WATCH,
                zxid: -1,
                err: 0,
            }
            .write(&mut event);
            WatcherEvent {
                kind: 2,
                state: 3,
                path: path.into(),
            }
            .write(&mut event);
            self.send(session, &event);
        }
    }

    fn children(&self, parent: &str) -> Vec<String> {
        let child = |path: &String| Some(path.strip_prefix(parent)?.strip_prefix('/')?.to_owned());
        self.nodes
            .keys()
            .filter_map(child)
            .filter(|name| !name.contains('/'))
            .collect()
    }

    fn expire(&mut self) {
        let now = clock::since_boot();
        let over: Vec<i64> = self
            .sessions
            .iter()
            .filter(|(_, session)| now >= session.heard + session.timeout)
            .map(|(&session, _)| session)
            .collect();
        over.into_iter()
            .for_each(|session| self.end(session, Fate::Expired));
    }

    fn end(&mut self, session: i64, fate: Fate) {
        self.sessions.remove(&session);
        self.note(session, fate);
        let owned: Vec<String> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.owner == session)
            .map(|(path, _)| path.clone())
            .collect();
        for path in owned {
            let _ = self.delete(&path);
        }
        self.connections.remove(&session);
    }

    fn note(&mut self, session: i64, fate: Fate) {
        self.fates.push((session, fate, clock::since_boot()));
    }

    fn send(&mut self, session: i64, message: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&session) {
            let _ = connection.stream.write_all(&framed(message));
        }
    }
}

fn stat(node: &Node) -> Stat {
    let &Node {
        owner,
        czxid,
        ref data,
    } = node;
    Stat {
        czxid,
        mzxid: czxid,
        ctime: 0,
        mtime: 0,
        version: 0,
        cversion: 0,
        aversion: 0,
        ephemeral_owner: owner,
        data_length: i32::try_from(data.len()).expect("tests store little"),
        num_children: 0,
        pzxid: czxid,
    }
}

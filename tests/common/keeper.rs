//! A stand-in for ClickHouse Keeper, which speaks ZooKeeper's protocol and differs in what matters
//! here: it resumes no session and makes a new one instead, it ends a session without an answer,
//! and it grants no timeout below 10 s. It keeps nodes, sessions and watches in memory.

use super::client::{frame, framed, next_frame};
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

/// The least session timeout that it grants.
const LEAST_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it expires sessions.
const TICK: Duration = Duration::from_millis(50);

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
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, Node>,
    sessions: BTreeMap<i64, Session>,
    connections: BTreeMap<i64, Connection>,
    fates: Vec<(i64, Fate, Duration)>,
    zxid: i64,
    /// The next sequence number, common to all parents.
    sequence: i64,
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
        let state = Arc::new(Mutex::new(State {
            sequence: 1,
            ..State::default()
        }));
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

    /// What happened to its sessions so far, and when since boot, in order.
    pub fn fates(&self) -> Vec<(i64, Fate, Duration)> {
        lock(&self.state).fates.clone()
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
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        received.extend_from_slice(&chunk[..count]);
        while let Some(message) = next_frame(&mut received) {
            let mut state = lock(state);
            let goes_on = match session {
                None => {
                    session = Some(state.greet(&message, &stream));
                    true
                }
                Some(session) => state.take(session, &message).is_some(),
            };
            if !goes_on {
                return drop(stream.shutdown(Shutdown::Both));
            }
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

    /// Executes the operations one by one up to the first that fails. This is enough for the
    /// program, whose first operation decides.
    fn multi(&mut self, session: i64, request: &mut &[u8], body: &mut Vec<u8>) -> Option<()> {
        let mut failed = None;
        loop {
            let header = MultiHeader::read(request, "multi").ok()?;
            if header.done {
                break;
            }
            let result = match header.kind {
                operation::CREATE | operation::CREATE_CONTAINER => {
                    let create = CreateRequest::read(request, "create").ok()?;
                    if failed.is_some() {
                        Ok(String::new())
                    } else {
                        self.create(create, session)
                    }
                }
                operation::DELETE => {
                    let DeleteRequest { path, .. } = Wire::read(request, "delete").ok()?;
                    if failed.is_some() {
                        Ok(path)
                    } else {
                        self.delete(&path).map(|()| path)
                    }
                }
                operation::CHECK => {
                    let CheckVersionRequest { path, .. } = Wire::read(request, "check").ok()?;
                    if self.nodes.contains_key(&path) {
                        Ok(path)
                    } else {
                        Err(Code::NO_NODE)
                    }
                }
                _ => return None,
            };
            let code = match (failed, &result) {
                (Some(()), _) => Some(Code(-2)),
                (None, Err(code)) => Some(*code),
                (None, Ok(_)) => None,
            };
            if let Some(code) = code {
                failed = Some(());
                MultiHeader {
                    kind: operation::ERROR,
                    done: false,
                    err: code.0,
                }
                .write(body);
                code.0.write(body);
                continue;
            }
            let kind = if header.kind == operation::CREATE_CONTAINER {
                operation::CREATE_2
            } else {
                header.kind
            };
            MultiHeader {
                kind,
                done: false,
                err: 0,
            }
            .write(body);
            if let (operation::CREATE | operation::CREATE_2, Ok(path)) = (kind, &result) {
                CreateResponse { path: path.clone() }.write(body);
            }
            if let (operation::CREATE_2, Ok(path)) = (kind, &result) {
                stat(&self.nodes[path]).write(body);
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
        let parent = path.rsplit_once('/').expect("a path is absolute").0;
        if !parent.is_empty() && !self.nodes.contains_key(parent) {
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
        if !self.nodes.contains_key(path) {
            return Err(Code::NO_NODE);
        }
        if !self.children(path).is_empty() {
            return Err(Code::NOT_EMPTY);
        }
        self.nodes.remove(path);
        self.zxid += 1;
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
        Ok(())
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

//! A blocking ZooKeeper client with which a test reads and changes nodes, on the library's records.
//! It panics on each error.
//!
//! It pings only while it waits. With a short timeout its session expires when a test leaves it
//! alone.

use super::zookeeper::ZooKeeper;
use super::{SECOND, SOON, wait_for};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime};
use zk_flock::internals::zookeeper::code::{Code, flag, operation, xid};
use zk_flock::internals::zookeeper::record::{
    Acl, AuthPacket, ConnectRequest, ConnectResponse, CreateRequest, DeleteRequest,
    GetChildrenResponse, GetDataResponse, Id, PathWatchRequest, ReplyHeader, RequestHeader, Stat,
    WatcherEvent,
};
use zk_flock::internals::zookeeper::wire::{Vector, Wire};

/// Operations that the program does not use: `getACL`, `getChildren`.
const GET_ACL: i32 = 6;
const GET_CHILDREN: i32 = 8;

/// A session.
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    events: VecDeque<Event>,
    next_xid: i32,
    /// As negotiated.
    pub timeout: Duration,
    /// Owner of the ephemeral nodes that this client makes.
    pub session: i64,
}

/// An event of a watch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// What happened to the node.
    pub kind: Kind,
    /// The node's path.
    pub path: String,
    /// When the client received it, in wall-clock time, as servers write it into nodes.
    pub seen: SystemTime,
}

/// `Watcher.Event.EventType`.
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Created,
    Deleted,
    Changed,
    Children,
}

impl Client {
    /// Opens a session with this timeout, or the nearest that the server allows.
    pub fn connect(server: &ZooKeeper, timeout: Duration) -> Client {
        Client::connect_to(&server.address(), timeout)
    }

    /// The same through the server or proxy at `address`.
    pub fn connect_to(address: &str, timeout: Duration) -> Client {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream
            .set_nodelay(true)
            .expect("a connected socket takes options");
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a connected socket takes options");
        let mut client = Client {
            stream,
            received: Vec::new(),
            events: VecDeque::new(),
            next_xid: 1,
            timeout,
            session: 0,
        };
        client.send(&frame(&new_session(timeout)));
        let answer = client
            .receive(Instant::now() + SOON)
            .expect("the server answers");
        let response: ConnectResponse = read(&mut answer.as_slice());
        client.timeout =
            Duration::from_millis(u64::try_from(response.time_out).expect("a timeout is positive"));
        client.session = response.session_id;
        client
    }

    /// Creates an ephemeral node.
    pub fn create_ephemeral(&mut self, path: &str, data: &[u8]) -> Result<(), Code> {
        self.create(path, data, flag::EPHEMERAL)
    }

    /// Creates a persistent node unless it exists.
    pub fn create_if_missing(&mut self, path: &str, data: &[u8]) {
        let created = self.create(path, data, flag::PERSISTENT);
        assert!(
            matches!(created, Ok(()) | Err(Code::NODE_EXISTS)),
            "{created:?}"
        );
    }

    /// Creates a persistent node with this ACL.
    pub fn create_with_acl(&mut self, path: &str, acl: &[Acl]) -> Result<(), Code> {
        let request = CreateRequest {
            path: path.into(),
            data: Vec::new(),
            acl: Vector(acl.to_vec()),
            flags: flag::PERSISTENT,
        };
        self.ask(operation::CREATE, &request).map(drop)
    }

    fn create(&mut self, path: &str, data: &[u8], flags: i32) -> Result<(), Code> {
        let acl = Vector(vec![may(31, "world", "anyone")]);
        self.ask(
            operation::CREATE,
            &CreateRequest {
                path: path.into(),
                data: data.into(),
                acl,
                flags,
            },
        )
        .map(drop)
    }

    /// Authenticates the session.
    pub fn authenticate(&mut self, scheme: &str, data: &str) {
        let mut message = Vec::new();
        RequestHeader {
            xid: xid::AUTH,
            kind: operation::AUTH,
        }
        .write(&mut message);
        AuthPacket {
            kind: 0,
            scheme: scheme.into(),
            auth: data.into(),
        }
        .write(&mut message);
        self.send(&framed(&message));
        let reply = self
            .receive(Instant::now() + SOON)
            .expect("the server answers");
        let header: ReplyHeader = read(&mut reply.as_slice());
        assert_eq!((header.xid, header.err), (xid::AUTH, 0));
    }

    /// Deletes a node in any version.
    pub fn delete(&mut self, path: &str) -> Result<(), Code> {
        self.ask(
            operation::DELETE,
            &DeleteRequest {
                path: path.into(),
                version: -1,
            },
        )
        .map(drop)
    }

    /// The stat of a node, if it exists; sets a watch for its creation, deletion or change.
    pub fn watch(&mut self, path: &str) -> Option<Stat> {
        self.exists(path, true)
    }

    /// The stat of a node, if it exists.
    pub fn stat(&mut self, path: &str) -> Option<Stat> {
        self.exists(path, false)
    }

    fn exists(&mut self, path: &str, watch: bool) -> Option<Stat> {
        match self.ask(
            operation::EXISTS,
            &PathWatchRequest {
                path: path.into(),
                watch,
            },
        ) {
            Ok(body) => Some(read(&mut body.as_slice())),
            Err(Code::NO_NODE) => None,
            Err(code) => panic!("exists {path}: {code}"),
        }
    }

    /// Data of a node, if it exists.
    pub fn data(&mut self, path: &str) -> Option<Vec<u8>> {
        let body = self
            .ask(
                operation::GET_DATA,
                &PathWatchRequest {
                    path: path.into(),
                    watch: false,
                },
            )
            .ok()?;
        Some(read::<GetDataResponse>(&mut body.as_slice()).data)
    }

    /// Names of the nodes below a node, sorted.
    pub fn children(&mut self, path: &str) -> Vec<String> {
        let request = PathWatchRequest {
            path: path.into(),
            watch: false,
        };
        let body = self.ask(GET_CHILDREN, &request).expect("the node exists");
        let mut children = read::<GetChildrenResponse>(&mut body.as_slice()).children.0;
        children.sort_unstable();
        children
    }

    /// Waits until a node has `count` children, and returns them in the order of their sequence
    /// numbers. The node may not exist yet.
    #[track_caller]
    pub fn wait_for_children(&mut self, path: &str, count: usize) -> Vec<String> {
        let mut children = wait_for(&format!("{count} nodes below {path}"), || {
            let children = self
                .stat(path)
                .map_or_else(Vec::new, |_| self.children(path));
            (children.len() == count).then_some(children)
        });
        children.sort_by(|one, other| one.rsplit('_').next().cmp(&other.rsplit('_').next()));
        children
    }

    /// The ACL of a node.
    pub fn acl(&mut self, path: &str) -> Vec<Acl> {
        let body = self
            .ask(GET_ACL, &path.to_owned())
            .expect("the node exists");
        read::<Vector<Acl>>(&mut body.as_slice()).0
    }

    /// Waits until a node exists, and returns its stat.
    #[track_caller]
    pub fn wait_for_node(&mut self, path: &str) -> Stat {
        loop {
            if let Some(stat) = self.watch(path) {
                return stat;
            }
            self.wait_for_event(path);
        }
    }

    /// Waits until a node does not exist.
    #[track_caller]
    pub fn wait_until_gone(&mut self, path: &str) {
        while self.watch(path).is_some() {
            self.wait_for_event(path);
        }
    }

    /// The next event of a watch on this node: one already received, or the next to arrive.
    #[track_caller]
    pub fn wait_for_event(&mut self, path: &str) -> Event {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(position) = self.events.iter().position(|event| event.path == path) {
                return self.events.remove(position).expect("it was just found");
            }
            assert!(Instant::now() < deadline, "no event of {path}");
            let ping = RequestHeader {
                xid: xid::PING,
                kind: operation::PING,
            };
            self.send(&frame(&ping));
            if let Some(message) =
                self.receive(deadline.min(Instant::now() + self.timeout.min(SECOND) / 3))
            {
                self.take_note(&message);
            }
        }
    }

    /// Ends the session and its ephemeral nodes.
    pub fn close(mut self) {
        let _ = self.request(operation::CLOSE_SESSION, &[]);
    }

    fn ask(&mut self, kind: i32, record: &impl Wire) -> Result<Vec<u8>, Code> {
        let mut body = Vec::new();
        record.write(&mut body);
        self.request(kind, &body)
    }

    /// Sends a request and waits for its reply.
    fn request(&mut self, kind: i32, body: &[u8]) -> Result<Vec<u8>, Code> {
        let xid = self.next_xid;
        self.next_xid += 1;
        let mut message = Vec::new();
        RequestHeader { xid, kind }.write(&mut message);
        message.extend_from_slice(body);
        self.send(&framed(&message));
        loop {
            let reply = self
                .receive(Instant::now() + SOON)
                .expect("the server answers");
            if let Some((header, body)) = self
                .take_note(&reply)
                .filter(|(header, _)| header.xid == xid)
            {
                return if header.err == 0 {
                    Ok(body)
                } else {
                    Err(Code(header.err))
                };
            }
        }
    }

    /// Keeps the message if it is an event; returns it otherwise.
    fn take_note(&mut self, mut message: &[u8]) -> Option<(ReplyHeader, Vec<u8>)> {
        let header: ReplyHeader = read(&mut message);
        if header.xid != xid::WATCH {
            return Some((header, message.to_vec()));
        }
        let WatcherEvent { kind, path, .. } = read(&mut message);
        let kind = [Kind::Created, Kind::Deleted, Kind::Changed, Kind::Children]
            [usize::try_from(kind - 1).expect("a watch of a node")];
        self.events.push_back(Event {
            kind,
            path,
            seen: SystemTime::now(),
        });
        None
    }

    fn send(&mut self, frame: &[u8]) {
        self.stream.write_all(frame).expect("the server reads");
    }

    /// The next message, without its length. `None` at the deadline.
    fn receive(&mut self, deadline: Instant) -> Option<Vec<u8>> {
        loop {
            if let Some(message) = next_frame(&mut self.received) {
                return Some(message);
            }
            if Instant::now() >= deadline {
                return None;
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => panic!("the server has hung up"),
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => panic!("the server is away: {error}"),
            }
        }
    }
}

/// An entry of an ACL: READ 1, WRITE 2, CREATE 4, DELETE 8, ADMIN 16, and its identity.
pub fn may(perms: i32, scheme: &str, id: &str) -> Acl {
    Acl {
        perms,
        id: Id {
            scheme: scheme.into(),
            id: id.into(),
        },
    }
}

/// Takes a whole message from the front of the received bytes, if there is one.
pub fn next_frame(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = i32::from_be_bytes(received.get(..4)?.try_into().expect("four bytes"));
    let end = 4 + usize::try_from(length).expect("a length is positive");
    let message = received.get(4..end)?.to_vec();
    received.drain(..end);
    Some(message)
}

/// Asks for a session of this timeout.
pub fn new_session(wanted: Duration) -> ConnectRequest {
    let time_out = i32::try_from(wanted.as_millis()).expect("tests use short timeouts");
    ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: 0,
        time_out,
        session_id: 0,
        passwd: vec![0; 16],
        read_only: false,
    }
}

/// A record as a message with its length.
pub fn frame(record: &impl Wire) -> Vec<u8> {
    let mut message = Vec::new();
    record.write(&mut message);
    framed(&message)
}

/// Prefixes a message with its length.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("tests send little");
    [&length.to_be_bytes(), message].concat()
}

fn read<T: Wire>(from: &mut &[u8]) -> T {
    T::read(from, "reply").expect("a real server speaks the protocol")
}

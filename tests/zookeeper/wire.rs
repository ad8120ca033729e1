//! The codec on bytes that real clients and servers have exchanged (`captures/`), at every cut,
//! within limits, there and back.

use common::capture::{self, hex, messages, unhex};
use common::client::{Client, frame, framed, new_session, next_frame};
use common::proxy::{From, Proxy};
use common::zookeeper::ZooKeeper;
use common::{SECOND, wait_until};
use proptest::prelude::*;
use std::fmt::{Debug, Write as _};
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use zk_flock::internals::zookeeper::code::{Code, flag, operation, xid};
use zk_flock::internals::zookeeper::record::*;
use zk_flock::internals::zookeeper::request::{Answer, Operation, Request, answer};
use zk_flock::internals::zookeeper::wire::{Malformed, Vector, Wire};

/// One record after another, as most messages are: a header and a body.
#[derive(Clone, PartialEq, Debug)]
struct Then<A, B>(A, B);

impl<A: Wire, B: Wire> Wire for Then<A, B> {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
        self.1.write(out);
    }
    fn read(from: &mut &[u8], field: &'static str) -> Result<Self, Malformed> {
        Ok(Then(A::read(from, field)?, B::read(from, field)?))
    }
}

macro_rules! then {
    ($only:expr) => { $only };
    ($first:expr, $($rest:expr),+) => { Then($first, then!($($rest),+)) };
}

fn request(xid: i32, kind: i32) -> RequestHeader {
    RequestHeader { xid, kind }
}

fn reply(xid: i32, zxid: i64, err: Code) -> ReplyHeader {
    ReplyHeader {
        xid,
        zxid,
        err: err.0,
    }
}

fn path_watch(watch: bool) -> PathWatchRequest {
    PathWatchRequest {
        path: LOCK.into(),
        watch,
    }
}

fn create(path: &str, data: &[u8], flags: i32) -> CreateRequest {
    let acl = Vector(vec![Acl {
        perms: 31,
        id: Id {
            scheme: "world".into(),
            id: "anyone".into(),
        },
    }]);
    CreateRequest {
        path: path.into(),
        data: data.into(),
        acl,
        flags,
    }
}

fn digest() -> AuthPacket {
    AuthPacket {
        kind: 0,
        scheme: "digest".into(),
        auth: b"user:secret".to_vec(),
    }
}

/// Kept in the captures, so the same ever since.
const LOCK: &str = "/app/lock";
const DATA: &[u8] = b"host.example6b1b36cb-0000-4000-8000-000000000001";
const PASSWORD_LENGTH: usize = 16;

/// getChildren2(12), which Java's shell sends for `ls`.
const GET_CHILDREN_2: i32 = 12;

/// A multi of one check of the lock node: a holder's heartbeat.
fn heartbeat(xid: i32) -> impl Wire + PartialEq + Debug {
    let check = MultiHeader {
        kind: operation::CHECK,
        done: false,
        err: -1,
    };
    then!(
        request(xid, operation::MULTI),
        check,
        CheckVersionRequest {
            path: LOCK.into(),
            version: -1
        },
        MULTI_END
    )
}

const MULTI_END: MultiHeader = MultiHeader {
    kind: -1,
    done: true,
    err: -1,
};

fn encode(record: &impl Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.write(&mut bytes);
    bytes
}

/// Asserts that a message is this record: read, written, and cut short at every byte.
#[track_caller]
fn is<T: Wire + PartialEq + Debug>(message: &[u8], record: &T) {
    let mut rest = message;
    assert_eq!(T::read(&mut rest, "message").as_ref(), Ok(record));
    assert!(rest.is_empty(), "{} bytes are left over", rest.len());
    assert_eq!(hex(&encode(record)), hex(message));
    for cut in 0..message.len() {
        let error = T::read(&mut &message[..cut], "message");
        assert!(
            matches!(error, Err(Malformed::Short(_) | Malformed::Length(..))),
            "cut at {cut}: {error:?}"
        );
    }
}

/// Asserts that the messages of one side of a capture are these records, in order.
macro_rules! are {
    ($capture:literal, $side:expr, $($record:expr),+ $(,)?) => {
        let messages = messages($capture, $side);
        let mut messages = messages.iter();
        $(is(messages.next().expect("a message for each record"), &$record);)+
        assert_eq!(messages.next(), None, "a record for each message");
    };
}

// Captures ------------------------------------------------------------------------------------------------------------------------------

/// Sessions of the recording.
const HOLDER: i64 = 0x0100_0018_317c_0002;
const WAITER: i64 = 0x0100_0018_317c_0003;
const JAVA: i64 = 0x0100_0018_317c_0005;

/// A new session, and the byte `readOnly` after it.
fn session(session_id: i64, password: &str) -> impl Wire + PartialEq + Debug {
    then!(
        ConnectResponse {
            protocol_version: 0,
            time_out: 15_000,
            session_id,
            passwd: unhex(password)
        },
        false
    )
}

/// What `Stat` says of an ephemeral node that nobody has touched.
fn fresh(czxid: i64, ctime: i64, owner: i64, data: &[u8]) -> Stat {
    let data_length = i32::try_from(data.len()).expect("short");
    Stat {
        czxid,
        mzxid: czxid,
        ctime,
        mtime: ctime,
        version: 0,
        cversion: 0,
        aversion: 0,
        ephemeral_owner: owner,
        data_length,
        num_children: 0,
        pzxid: czxid,
    }
}

fn locked(zxid: i64) -> impl Wire + PartialEq + Debug {
    let stat = fresh(6, 0x01a1_fdeb_14f3, HOLDER, DATA);
    then!(
        reply(2, zxid, Code::OK),
        GetDataResponse {
            data: DATA.into(),
            stat
        }
    )
}

fn deleted() -> impl Wire + PartialEq + Debug {
    then!(
        reply(xid::WATCH, -1, Code::OK),
        WatcherEvent {
            kind: 2,
            state: 3,
            path: LOCK.into()
        }
    )
}

#[test]
fn requests_of_a_holder_are_the_recorded_bytes() {
    are!(
        "holder",
        From::Client,
        new_session(15 * SECOND),
        then!(request(xid::AUTH, operation::AUTH), digest()),
        then!(
            request(1, operation::CREATE),
            create(LOCK, DATA, flag::EPHEMERAL)
        ),
        then!(request(2, operation::GET_DATA), path_watch(true)),
        heartbeat(3),
        request(xid::PING, operation::PING),
        then!(
            request(4, operation::SYNC),
            SyncRequest { path: LOCK.into() }
        ),
        then!(
            request(5, operation::DELETE),
            DeleteRequest {
                path: LOCK.into(),
                version: -1
            }
        ),
        heartbeat(6),
        request(7, operation::CLOSE_SESSION),
    );
}

#[test]
fn replies_to_a_holder_are_decoded_completely() {
    let held = MultiHeader {
        kind: operation::CHECK,
        done: false,
        err: 0,
    };
    let gone = MultiHeader {
        kind: operation::ERROR,
        done: false,
        err: Code::NO_NODE.0,
    };
    are!(
        "holder",
        From::Server,
        session(HOLDER, "201314831bcd87daaac238aff5153858"),
        reply(xid::AUTH, 0, Code::OK),
        then!(reply(1, 6, Code::OK), CreateResponse { path: LOCK.into() }),
        locked(6),
        then!(reply(3, 9, Code::OK), held, MULTI_END),
        reply(xid::PING, 9, Code::OK),
        then!(reply(4, 9, Code::OK), SyncRequest { path: LOCK.into() }),
        deleted(),
        reply(5, 10, Code::OK),
        then!(reply(6, 11, Code::OK), gone, Code::NO_NODE.0, MULTI_END),
        reply(7, 12, Code::OK),
    );
}

#[test]
fn replies_to_a_waiter_name_the_holder_and_its_deletion() {
    are!(
        "waiter",
        From::Server,
        session(WAITER, "33340e83bb18671f9f05a0dac99e4c25"),
        reply(xid::AUTH, 0, Code::OK),
        reply(1, 8, Code::NODE_EXISTS),
        locked(8),
        deleted(),
    );
}

#[test]
fn a_create_without_a_parent_fails_with_no_node() {
    are!(
        "parent-missing",
        From::Server,
        session(0x0100_0018_317c_0000, "465508835b644664944807069c2761f2"),
        reply(xid::AUTH, 0, Code::OK),
        reply(1, 2, Code::NO_NODE),
        reply(2, 2, Code::NO_NODE),
    );
}

#[test]
fn an_unknown_auth_scheme_is_auth_failed() {
    let session = session(0x0100_0018_317c_0004, "92d9f082db92c3776954a4b3eb4ab326");
    are!(
        "auth-refused",
        From::Server,
        session,
        reply(xid::AUTH, 0, Code::AUTH_FAILED)
    );
}

#[test]
fn an_expired_session_is_answered_with_zeros() {
    let passwd = vec![0; PASSWORD_LENGTH];
    let gone = then!(
        ConnectResponse {
            protocol_version: 0,
            time_out: 0,
            session_id: 0,
            passwd
        },
        false
    );
    are!("expired", From::Server, gone);
}

#[test]
fn a_connect_response_of_a_server_before_3_4_ends_before_read_only() {
    let message = messages("expired", From::Server).remove(0);
    let mut old = &message[..message.len() - 1];
    assert_eq!(
        ConnectResponse::read(&mut old, "message").map(|response| response.session_id),
        Ok(0)
    );
    assert!(old.is_empty());
}

/// What a waiter asks for in one step, as often as the recording has it, and what was answered.
fn multis() -> [(Request, Result<Answer, Code>); 5] {
    let acl = || {
        vec![Acl {
            perms: 31,
            id: Id {
                scheme: "world".into(),
                id: "anyone".into(),
            },
        }]
    };
    let container = |path: &str| Operation::CreateContainer {
        path: path.into(),
        acl: acl(),
    };
    let create = |path: &str, flags| Operation::Create {
        path: path.into(),
        data: DATA.into(),
        acl: acl(),
        flags,
    };
    let place = || {
        create(
            "/app/.queue/lock/0100001831d20000-",
            flag::EPHEMERAL | flag::SEQUENCE,
        )
    };
    let begin = || {
        Request::Multi(vec![
            container("/app/.queue"),
            container("/app/.queue/lock"),
            place(),
        ])
    };
    let take = |lock, place: &str| {
        Request::Multi(vec![
            create(lock, flag::EPHEMERAL),
            Operation::Delete { path: place.into() },
        ])
    };
    let undone = |operation, code| Ok(Answer::Undone { operation, code });
    [
        (begin(), Ok(Answer::Done)),
        (begin(), undone(0, Code::NODE_EXISTS)),
        (
            take("/app/other", "/app/.queue/lock/none"),
            undone(1, Code::NO_NODE),
        ),
        (
            take(LOCK, "/app/.queue/lock/0100001831d20000-0000000000"),
            Ok(Answer::Done),
        ),
        (
            Request::Check {
                path: "/app/other".into(),
            },
            Err(Code::NO_NODE),
        ),
    ]
}

/// A multi of an operation that no server knows, as createContainer is to one of before 3.5.3.
fn unknown_operation() -> impl Wire {
    then!(
        request(6, operation::MULTI),
        MultiHeader {
            kind: 99,
            done: false,
            err: -1
        },
        create("/app/x", b"", 0),
        MULTI_END
    )
}

#[test]
fn the_multi_of_a_waiter_is_the_recorded_bytes_and_its_replies_are_decoded() {
    let [asked, replies] = [From::Client, From::Server].map(|side| messages("multis", side));
    for (number, (request, answered)) in multis().into_iter().enumerate() {
        let xid = i32::try_from(number + 1).unwrap();
        let mut bytes = Vec::new();
        request.write(xid, &mut bytes);
        assert_eq!(hex(&bytes), hex(&asked[number + 1]), "{request:?}");
        let mut body = &replies[number + 1][..];
        assert_eq!(
            ReplyHeader::read(&mut body, "reply").map(|header| (header.xid, header.err)),
            Ok((xid, 0)),
            "{request:?}"
        );
        assert_eq!(answer(&request, body), Ok(answered), "{request:?}");
        for cut in 0..body.len() - encode(&MULTI_END).len() {
            assert!(
                answer(&request, &body[..cut]).is_err(),
                "{request:?} cut at {cut}"
            );
        }
    }
    let mut refused = &replies[6][..];
    assert_eq!(
        ReplyHeader::read(&mut refused, "reply").map(|header| header.err),
        Ok(Code::MARSHALLING.0)
    );
    is(&replies[7], &reply(7, 10, Code::OK)); // and the session goes on until it is closed
}

#[test]
fn a_multi_that_a_server_never_received_was_not_executed() {
    let (begin, _) = multis().into_iter().next().unwrap();
    assert_eq!(
        answer(&begin, &encode(&MULTI_END)),
        Ok(Err(Code::MARSHALLING))
    );
}

#[test]
fn requests_of_the_java_client_encode_to_the_same_bytes() {
    are!(
        "java-client",
        From::Client,
        new_session(15 * SECOND),
        then!(request(xid::AUTH, operation::AUTH), digest()),
        then!(request(xid::AUTH, operation::AUTH), digest()),
        then!(
            request(1, operation::CREATE),
            create(LOCK, b"data", flag::EPHEMERAL)
        ),
        then!(request(2, operation::GET_DATA), path_watch(true)),
        then!(
            request(3, GET_CHILDREN_2),
            PathWatchRequest {
                path: "/app".into(),
                watch: false
            }
        ),
        then!(
            request(4, operation::SYNC),
            SyncRequest { path: LOCK.into() }
        ),
        then!(
            request(5, operation::DELETE),
            DeleteRequest {
                path: LOCK.into(),
                version: -1
            }
        ),
        request(6, operation::CLOSE_SESSION),
    );
}

#[test]
fn replies_to_the_java_client_decode_the_same_way() {
    let app = Stat {
        cversion: 3,
        ephemeral_owner: 0,
        num_children: 1,
        pzxid: 15,
        ..fresh(4, 0x01a1_fdeb_14ee, 0, b"Rootnode")
    };
    are!(
        "java-client",
        From::Server,
        session(JAVA, "a5faea827bdea2bc5e970bdfbed3c7f3"),
        reply(xid::AUTH, 0, Code::OK),
        reply(xid::AUTH, 0, Code::OK),
        then!(reply(1, 15, Code::OK), CreateResponse { path: LOCK.into() }),
        then!(
            reply(2, 15, Code::OK),
            GetDataResponse {
                data: b"data".into(),
                stat: fresh(15, 0x01a1_fdeb_1564, JAVA, b"data")
            }
        ),
        then!(
            reply(3, 15, Code::OK),
            GetChildrenResponse {
                children: Vector(vec!["lock".into()])
            },
            app
        ),
        then!(reply(4, 15, Code::OK), SyncRequest { path: LOCK.into() }),
        deleted(),
        reply(5, 16, Code::OK),
        reply(6, 17, Code::OK),
    );
}

// Limits --------------------------------------------------------------------------------------------------------------------------------

#[test]
fn an_impossible_length_is_refused_before_memory_is_reserved() {
    for claimed in [i32::MAX, i32::MIN, -5, -2, 9, 1 << 20] {
        let bytes = [&claimed.to_be_bytes()[..], &[0; 8]].concat();
        let refused = Malformed::Length("field", claimed);
        assert_eq!(
            Vec::<u8>::read(&mut bytes.as_slice(), "field"),
            Err(refused),
            "{claimed}"
        );
        assert_eq!(
            String::read(&mut bytes.as_slice(), "field"),
            Err(refused),
            "{claimed}"
        );
        assert_eq!(
            Vector::<String>::read(&mut bytes.as_slice(), "field"),
            Err(refused),
            "{claimed}"
        );
    }
    let three = [3_i32.to_be_bytes(), [0; 4], [0; 4]].concat();
    assert_eq!(
        Vector::<String>::read(&mut three.as_slice(), "field"),
        Err(Malformed::Length("field", 3)),
        "each takes four bytes at least"
    );
}

#[test]
fn absent_and_null_values_are_empty() {
    for length in [0, -1] {
        let bytes = i32::to_be_bytes(length);
        assert_eq!(
            Vec::<u8>::read(&mut &bytes[..], "field"),
            Ok(Vec::new()),
            "{length}"
        );
        assert_eq!(
            String::read(&mut &bytes[..], "field"),
            Ok(String::new()),
            "{length}"
        );
        assert_eq!(
            Vector::<Acl>::read(&mut &bytes[..], "field"),
            Ok(Vector(Vec::new())),
            "{length}"
        );
    }
}

#[test]
fn a_string_that_is_not_utf8_is_an_error_with_its_field() {
    let bytes = [&2_i32.to_be_bytes()[..], &[0xc3, 0x28]].concat();
    assert_eq!(
        CreateResponse::read(&mut bytes.as_slice(), "message"),
        Err(Malformed::Text("CreateResponse.path"))
    );
}

#[test]
fn a_truncated_record_is_an_error_with_its_field() {
    for (length, field) in [
        (0, "ReplyHeader.xid"),
        (4, "ReplyHeader.zxid"),
        (12, "ReplyHeader.err"),
        (15, "ReplyHeader.err"),
    ] {
        assert_eq!(
            ReplyHeader::read(&mut &[0; 16][..length], "message"),
            Err(Malformed::Short(field))
        );
    }
}

// There and back
// ------------------------------------------------------------------------------------------------------------------------

/// Any value of a field.
trait Field: Sized + Debug + 'static {
    fn any() -> BoxedStrategy<Self>;
}

macro_rules! fields {
    ($($kind:ty: $strategy:expr;)*) => {$(
        impl Field for $kind {
            fn any() -> BoxedStrategy<Self> {
                $strategy.boxed()
            }
        }
    )*};
}

fields! {
    i32: any::<i32>();
    i64: any::<i64>();
    bool: any::<bool>();
    Vec<u8>: any::<Vec<u8>>();
    String: prop::collection::vec(any::<char>(), 0..40).prop_map(String::from_iter);
}

impl<T: Field> Field for Vector<T> {
    fn any() -> BoxedStrategy<Self> {
        prop::collection::vec(T::any(), 0..8)
            .prop_map(Vector)
            .boxed()
    }
}

/// For each record: any value comes back whole, with what follows it untouched, and arbitrary bytes
/// are read or refused.
macro_rules! records {
    ($($test:ident $record:ident { $($field:ident),+ })*) => {
        $(
            impl Field for $record {
                fn any() -> BoxedStrategy<Self> {
                    $(let $field = Field::any();)+
                    ($($field,)+).prop_map(|($($field,)+)| $record { $($field),+ }).boxed()
                }
            }
        )*
        proptest! {
            #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
            $(
                #[test]
                fn $test(record in $record::any(), follower: i64, noise: Vec<u8>) {
                    let bytes = encode(&Then(record.clone(), follower));
                    let mut rest = bytes.as_slice();
                    prop_assert_eq!($record::read(&mut rest, "message"), Ok(record));
                    prop_assert_eq!(rest, follower.to_be_bytes());
                    let _ = $record::read(&mut noise.as_slice(), "message");
                }
            )*
        }
    };
}

records! {
    connect_request_comes_back ConnectRequest { protocol_version, last_zxid_seen, time_out, session_id, passwd, read_only }
    connect_response_comes_back ConnectResponse { protocol_version, time_out, session_id, passwd }
    request_header_comes_back RequestHeader { xid, kind }
    reply_header_comes_back ReplyHeader { xid, zxid, err }
    auth_packet_comes_back AuthPacket { kind, scheme, auth }
    watcher_event_comes_back WatcherEvent { kind, state, path }
    id_comes_back Id { scheme, id }
    acl_comes_back Acl { perms, id }
    create_request_comes_back CreateRequest { path, data, acl, flags }
    create_response_comes_back CreateResponse { path }
    delete_request_comes_back DeleteRequest { path, version }
    path_watch_request_comes_back PathWatchRequest { path, watch }
    get_data_response_comes_back GetDataResponse { data, stat }
    get_children_response_comes_back GetChildrenResponse { children }
    sync_request_comes_back SyncRequest { path }
    check_version_request_comes_back CheckVersionRequest { path, version }
    multi_header_comes_back MultiHeader { kind, done, err }
    stat_comes_back Stat {
        czxid, mzxid, ctime, mtime, version, cversion, aversion, ephemeral_owner, data_length, num_children, pzxid
    }
}

// Recording ------------------------------------------------------------------------------------------------------------------------------

/// A connection whose every write and every message received becomes a line of a capture.
struct Recorder {
    stream: TcpStream,
    received: Vec<u8>,
    lines: String,
}

impl Recorder {
    fn connect(server: &ZooKeeper) -> Recorder {
        let stream = TcpStream::connect(server.address()).expect("the server accepts");
        Recorder {
            stream,
            received: Vec::new(),
            lines: String::new(),
        }
    }

    /// Sends messages in one write.
    fn say(&mut self, frames: &[Vec<u8>]) {
        let bytes = frames.concat();
        self.stream.write_all(&bytes).expect("the server reads");
        self.note('>', &bytes);
    }

    /// Waits for so many messages.
    fn hear(&mut self, count: usize) {
        for _ in 0..count {
            let message = loop {
                if let Some(message) = next_frame(&mut self.received) {
                    break message;
                }
                let mut chunk = [0; 4096];
                let count = self.stream.read(&mut chunk).expect("the server answers");
                assert_ne!(count, 0, "the server has hung up");
                self.received.extend_from_slice(&chunk[..count]);
            };
            self.note('<', &framed(&message));
        }
    }

    fn note(&mut self, sign: char, bytes: &[u8]) {
        writeln!(self.lines, "{sign} {}", hex(bytes)).expect("a string takes text");
    }

    fn save(self, capture: &str) {
        capture::save(capture, &self.lines);
    }
}

/// connect + auth + create + getData(watch), as zk-flock sends them.
fn first_write(data: &[u8]) -> [Vec<u8>; 4] {
    [
        frame(&new_session(15 * SECOND)),
        frame(&then!(request(xid::AUTH, operation::AUTH), digest())),
        frame(&then!(
            request(1, operation::CREATE),
            create(LOCK, data, flag::EPHEMERAL)
        )),
        frame(&then!(request(2, operation::GET_DATA), path_watch(true))),
    ]
}

#[test]
#[ignore = "writes tests/captures anew; the values in the tests below are those of the recording that is kept"]
fn record_captures() {
    let server = ZooKeeper::start();

    let mut first = Recorder::connect(&server);
    first.say(&first_write(DATA));
    first.hear(4);
    first.save("parent-missing");
    Client::connect(&server, 15 * SECOND).create_if_missing("/app", b"Rootnode");

    let mut holder = Recorder::connect(&server);
    holder.say(&first_write(DATA));
    holder.hear(4);
    let mut waiter = Recorder::connect(&server);
    waiter.say(&first_write(
        b"other.example6b1b36cb-0000-4000-8000-000000000002",
    ));
    waiter.hear(4);
    holder.say(&[frame(&heartbeat(3))]);
    holder.hear(1);
    holder.say(&[
        frame(&request(xid::PING, operation::PING)),
        frame(&then!(request(4, operation::SYNC), LOCK.to_owned())),
    ]);
    holder.hear(2);
    holder.say(&[frame(&then!(
        request(5, operation::DELETE),
        DeleteRequest {
            path: LOCK.into(),
            version: -1
        }
    ))]);
    holder.hear(2);
    holder.say(&[frame(&heartbeat(6))]);
    holder.hear(1);
    holder.say(&[frame(&request(7, operation::CLOSE_SESSION))]);
    holder.hear(1);
    holder.save("holder");
    waiter.hear(1);
    waiter.save("waiter");

    let mut refused = Recorder::connect(&server);
    let packet = AuthPacket {
        scheme: "nosuch".into(),
        ..digest()
    };
    refused.say(&[
        frame(&new_session(15 * SECOND)),
        frame(&then!(request(xid::AUTH, operation::AUTH), packet)),
    ]);
    refused.hear(2);
    refused.save("auth-refused");

    let mut expired = Recorder::connect(&server);
    expired.say(&[frame(&ConnectRequest {
        session_id: 0x0123_4567_89ab_cdef,
        passwd: vec![7; PASSWORD_LENGTH],
        ..new_session(15 * SECOND)
    })]);
    expired.hear(1);
    expired.save("expired");

    record_java_client(&server);
}

#[test]
#[ignore = "writes one of tests/captures anew; the values in the tests above are those of the recording that is kept"]
fn record_multis() {
    let server = ZooKeeper::start();
    Client::connect(&server, 15 * SECOND).create_if_missing("/app", b"Rootnode");
    let mut waiter = Recorder::connect(&server);
    waiter.say(&[frame(&new_session(15 * SECOND))]);
    waiter.hear(1);
    for (number, (request, _)) in multis().into_iter().enumerate() {
        let mut message = Vec::new();
        request.write(i32::try_from(number + 1).unwrap(), &mut message);
        waiter.say(&[framed(&message)]);
        waiter.hear(1);
    }
    for last in [
        frame(&unknown_operation()),
        frame(&request(7, operation::CLOSE_SESSION)),
    ] {
        waiter.say(&[last]);
        waiter.hear(1);
    }
    waiter.save("multis");
}

/// What ZooKeeper's own client sends for some commands of its shell.
fn record_java_client(server: &ZooKeeper) {
    let proxy = Proxy::start(server.address());
    let main = [
        "-cp",
        "/usr/share/java/zookeeper.jar",
        "org.apache.zookeeper.ZooKeeperMain",
        "-timeout",
        "15000",
        "-server",
        &proxy.address,
    ];
    let mut java = Command::new("java")
        .args(main)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("java");
    let mut shell = java.stdin.take().expect("stdin is a pipe");
    for command in [
        "addauth digest user:secret",
        "create -e /app/lock data",
        "get -w /app/lock",
        "ls /app",
        "sync /app/lock",
        "delete /app/lock",
        "quit",
    ] {
        let seen = proxy.chunks().len();
        writeln!(shell, "{command}").expect("the shell reads");
        wait_until(command, || {
            proxy.chunks().len() > seen + 1 || command == "quit"
        });
    }
    java.wait().expect("it is our child");
    let mut lines = String::new();
    for (from, bytes) in proxy.chunks() {
        writeln!(
            lines,
            "{} {}",
            if from == From::Client { '>' } else { '<' },
            hex(&bytes)
        )
        .expect("a string takes text");
    }
    capture::save("java-client", &lines);
}

//! The records that this program exchanges with ZooKeeper, each declared once, with the fields in
//! the order and with the names of `zookeeper.jute`.

use super::wire::{Malformed, Vector, Wire};

/// Declares a record: the struct, and its encoding field by field.
macro_rules! record {
    ($($(#[$doc:meta])* $record:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        #[allow(missing_docs)]
        pub struct $record { $($(#[$field_doc])* pub $field: $kind,)* }

        impl Wire for $record {
            fn write(&self, out: &mut Vec<u8>) {
                $(self.$field.write(out);)*
            }
            fn read(from: &mut &[u8], _: &'static str) -> Result<Self, Malformed> {
                $(let $field = Wire::read(from, concat!(stringify!($record), ".", stringify!($field)))?;)*
                Ok($record { $($field,)* })
            }
        }
    )*};
}

record! {
    /// The first message on a connection, without a header. `sessionId` 0 requests a new session.
    /// The trailing `readOnly` byte was added in 3.4; older servers ignore it.
    ConnectRequest { protocol_version: i32, last_zxid_seen: i64, time_out: i32, session_id: i64, passwd: Vec<u8>, read_only: bool, }
    /// The answer to ConnectRequest. `timeOut` is the negotiated session timeout in ms; it or
    /// `sessionId` is 0 if the requested session has expired. Servers from 3.4 on append a
    /// `readOnly` byte; it is read separately, so that both lengths are accepted.
    ConnectResponse { protocol_version: i32, time_out: i32, session_id: i64, passwd: Vec<u8>, }
    /// Precedes every request. `type` is an operation of `code.rs`.
    RequestHeader { xid: i32, kind: i32, }
    /// Precedes every reply. `xid` −1 marks a watch event, −2 a ping, −4 an answer to auth
    /// (ClientCnxn.java).
    ReplyHeader { xid: i32, zxid: i64, err: i32, }
    /// Credentials of the client. `type` is always 0.
    AuthPacket { kind: i32, scheme: String, auth: Vec<u8>, }
    /// A fired watch: the event, the state of the session, the node.
    WatcherEvent { kind: i32, state: i32, path: String, }
    /// The user of an ACL entry.
    Id { scheme: String, id: String, }
    /// One entry of an ACL; `perms` is a set of bits, 31 for all of them.
    Acl { perms: i32, id: Id, }
    /// create(1) and createContainer(19). `flags`: 1 ephemeral, 2 sequence, 4 container.
    CreateRequest { path: String, data: Vec<u8>, acl: Vector<Acl>, flags: i32, }
    /// The path of the created node, with its sequence number if one was requested.
    CreateResponse { path: String, }
    /// delete(2). Version −1 matches any version.
    DeleteRequest { path: String, version: i32, }
    /// exists(3), getData(4), getChildren(8) have the same encoding.
    PathWatchRequest { path: String, watch: bool, }
    /// The answer to getData.
    GetDataResponse { data: Vec<u8>, stat: Stat, }
    /// setData(5).
    SetDataRequest { path: String, data: Vec<u8>, version: i32, }
    /// The answer to setData.
    SetDataResponse { stat: Stat, }
    /// getACL(6).
    GetAclRequest { path: String, }
    /// The answer to getACL.
    GetAclResponse { acl: Vector<Acl>, stat: Stat, }
    /// The answer to getChildren: names without the parent's path, in no particular order.
    GetChildrenResponse { children: Vector<String>, }
    /// The answer to whoAmI, with a ClientInfo for each scheme.
    WhoAmIResponse { clients: Vector<Id>, }
    /// sync(9) and its answer.
    SyncRequest { path: String, }
    /// check(13), only inside a multi.
    CheckVersionRequest { path: String, version: i32, }
    /// Precedes each operation of a multi(14) and each of its results; the last one has `done` set.
    MultiHeader { kind: i32, done: bool, err: i32, }
    /// ZooKeeper's metadata of a node. `czxid` is the transaction that created it; times in ms of
    /// the leader's wall clock; `ephemeralOwner` is the session whose end deletes it, 0 if none.
    Stat { czxid: i64, mzxid: i64, ctime: i64, mtime: i64, version: i32, cversion: i32, aversion: i32, ephemeral_owner: i64, data_length: i32, num_children: i32, pzxid: i64, }
}

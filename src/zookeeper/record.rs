//! The records that this program exchanges with ZooKeeper, each declared once, fields in the order
//! and with the names of `zookeeper.jute`.

use super::wire::{Malformed, Vector, Wire};

/// Declares a record: the struct, and its place on the wire field by field.
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
    /// The first thing on a connection, without a header. `sessionId` 0 asks for a new session. The trailing `readOnly` byte came with 3.4;
    /// older servers ignore it.
    ConnectRequest { protocol_version: i32, last_zxid_seen: i64, time_out: i32, session_id: i64, passwd: Vec<u8>, read_only: bool, }
    /// Answers it. `timeOut` is the negotiated session timeout in ms; it or `sessionId` is 0 when the session that was asked for is gone.
    /// A trailing `readOnly` byte follows from servers of 3.4 on; it is read apart, so that both lengths are accepted.
    ConnectResponse { protocol_version: i32, time_out: i32, session_id: i64, passwd: Vec<u8>, }
    /// Leads every request. `type` is an operation of `code.rs`.
    RequestHeader { xid: i32, kind: i32, }
    /// Leads every reply. `xid` −1 marks a watch event, −2 a ping, −4 an answer to auth (ClientCnxn.java).
    ReplyHeader { xid: i32, zxid: i64, err: i32, }
    /// Proves who we are. `type` is always 0.
    AuthPacket { kind: i32, scheme: String, auth: Vec<u8>, }
    /// A watch fired: what happened, the state of the session, to which node.
    WatcherEvent { kind: i32, state: i32, path: String, }
    /// Whom an ACL entry is about.
    Id { scheme: String, id: String, }
    /// One entry of an ACL; `perms` is a set of bits, 31 all of them.
    Acl { perms: i32, id: Id, }
    /// create(1) and createContainer(19). `flags`: 1 ephemeral, 2 sequence, 4 container.
    CreateRequest { path: String, data: Vec<u8>, acl: Vector<Acl>, flags: i32, }
    /// The path that was made, with its sequence number if one was asked for.
    CreateResponse { path: String, }
    /// delete(2). Version −1 deletes whatever is there.
    DeleteRequest { path: String, version: i32, }
    /// exists(3), getData(4), getChildren(8): they are alike on the wire.
    PathWatchRequest { path: String, watch: bool, }
    /// getData's answer.
    GetDataResponse { data: Vec<u8>, stat: Stat, }
    /// getACL(6).
    GetAclRequest { path: String, }
    /// Its answer.
    GetAclResponse { acl: Vector<Acl>, stat: Stat, }
    /// getChildren's answer: names without the parent's path, in no order.
    GetChildrenResponse { children: Vector<String>, }
    /// sync(9) and its answer.
    SyncRequest { path: String, }
    /// check(13), only inside a multi.
    CheckVersionRequest { path: String, version: i32, }
    /// Before each operation of a multi(14) and each of its results, and once at the end with `done`.
    MultiHeader { kind: i32, done: bool, err: i32, }
    /// What ZooKeeper knows of a node. `czxid` is the transaction that made it; times in ms of the leader's wall clock; `ephemeralOwner` is
    /// the session that it dies with, 0 if none.
    Stat { czxid: i64, mzxid: i64, ctime: i64, mtime: i64, version: i32, cversion: i32, aversion: i32, ephemeral_owner: i64, data_length: i32, num_children: i32, pzxid: i64, }
}

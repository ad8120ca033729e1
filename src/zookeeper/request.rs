//! What can be asked of ZooKeeper and what it answers: each request as bytes, and the body of its reply.

use super::code::{Code, operation};
use super::record::{
    Acl, CheckVersionRequest, CreateRequest, CreateResponse, DeleteRequest, GetAclRequest, GetAclResponse, GetChildrenResponse,
    GetDataResponse, MultiHeader, PathWatchRequest, RequestHeader, Stat, SyncRequest,
};
use super::wire::{Malformed, Vector, Wire};

/// What can be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Request {
    /// create(1)
    Create { path: String, data: Vec<u8>, acl: Vec<Acl>, flags: i32 },
    /// delete(2), whatever its version
    Delete { path: String },
    /// exists(3): like getData, without the data and without need of permission
    Exists { path: String, watch: bool },
    /// getData(4)
    Data { path: String, watch: bool },
    /// getACL(6)
    Acl { path: String },
    /// getChildren(8)
    Children { path: String, watch: bool },
    /// sync(9)
    Sync { path: String },
    /// multi(14) of one check(13): the quorum write that changes nothing
    Check { path: String },
    /// ping(11)
    Ping,
    /// closeSession(−11)
    Close,
}

/// What was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The path of the node that was made.
    Created(String),
    /// Facts of a node, and its data if that was asked for.
    Data(Vec<u8>, Stat),
    /// Who may do what with a node.
    Acl(Vec<Acl>),
    /// Names of a node's children, in no order.
    Children(Vec<String>),
    /// It was done, and there is nothing to say about it.
    Done,
}

impl Request {
    /// Appends header and record.
    pub fn write(&self, xid: i32, out: &mut Vec<u8>) {
        let header = |kind| RequestHeader { xid, kind };
        match self {
            Request::Create { path, data, acl, flags } => {
                header(operation::CREATE).write(out);
                CreateRequest { path: path.clone(), data: data.clone(), acl: Vector(acl.clone()), flags: *flags }.write(out);
            }
            Request::Delete { path } => {
                header(operation::DELETE).write(out);
                DeleteRequest { path: path.clone(), version: -1 }.write(out);
            }
            Request::Exists { path, watch } => {
                header(operation::EXISTS).write(out);
                PathWatchRequest { path: path.clone(), watch: *watch }.write(out);
            }
            Request::Data { path, watch } => {
                header(operation::GET_DATA).write(out);
                PathWatchRequest { path: path.clone(), watch: *watch }.write(out);
            }
            Request::Acl { path } => {
                header(operation::GET_ACL).write(out);
                GetAclRequest { path: path.clone() }.write(out);
            }
            Request::Children { path, watch } => {
                header(operation::GET_CHILDREN).write(out);
                PathWatchRequest { path: path.clone(), watch: *watch }.write(out);
            }
            Request::Sync { path } => {
                header(operation::SYNC).write(out);
                SyncRequest { path: path.clone() }.write(out);
            }
            Request::Check { path } => {
                header(operation::MULTI).write(out);
                MultiHeader { kind: operation::CHECK, done: false, err: -1 }.write(out);
                CheckVersionRequest { path: path.clone(), version: -1 }.write(out);
                MultiHeader { kind: operation::ERROR, done: true, err: -1 }.write(out);
            }
            Request::Ping => header(operation::PING).write(out),
            Request::Close => header(operation::CLOSE_SESSION).write(out),
        }
    }
}

/// Reads the body of a reply whose header says that all went well.
pub fn answer(request: &Request, mut body: &[u8]) -> Result<Result<Answer, Code>, Malformed> {
    let body = &mut body;
    Ok(Ok(match request {
        Request::Create { .. } => Answer::Created(CreateResponse::read(body, "create reply")?.path),
        Request::Exists { .. } => Answer::Data(Vec::new(), Wire::read(body, "exists reply")?),
        Request::Data { .. } => {
            let GetDataResponse { data, stat } = Wire::read(body, "getData reply")?;
            Answer::Data(data, stat)
        }
        Request::Acl { .. } => Answer::Acl(GetAclResponse::read(body, "getACL reply")?.acl.0),
        Request::Children { .. } => Answer::Children(GetChildrenResponse::read(body, "getChildren reply")?.children.0),
        Request::Check { .. } => return checked(body),
        Request::Delete { .. } | Request::Sync { .. } | Request::Ping | Request::Close => Answer::Done,
    }))
}

/// The result of a multi of one check: the header says 0 even when it failed, the truth is in the body.
fn checked(body: &mut &[u8]) -> Result<Result<Answer, Code>, Malformed> {
    let result = MultiHeader::read(body, "check reply")?;
    if result.kind != operation::ERROR {
        return Ok(Ok(Answer::Done));
    }
    Ok(Err(Code(i32::read(body, "check reply")?)))
}

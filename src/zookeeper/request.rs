//! Requests to ZooKeeper and their answers: the encoding of each request, and the decoding of its
//! reply's body.

use super::code::{Code, flag, operation};
use super::record::{
    Acl, CheckVersionRequest, CreateRequest, CreateResponse, DeleteRequest, GetAclRequest,
    GetAclResponse, GetChildrenResponse, GetDataResponse, Id, MultiHeader, PathWatchRequest,
    RequestHeader, SetDataRequest, SetDataResponse, Stat, SyncRequest, WhoAmIResponse,
};
use super::wire::{Malformed, Vector, Wire};

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Request {
    /// create(1)
    Create {
        path: String,
        data: Vec<u8>,
        acl: Vec<Acl>,
        flags: i32,
    },
    /// delete(2), any version
    Delete { path: String },
    /// exists(3): like getData, but without the data and without need of permission
    Exists { path: String, watch: bool },
    /// getData(4)
    Data { path: String, watch: bool },
    /// setData(5), if the node has this version
    SetData {
        path: String,
        data: Vec<u8>,
        version: i32,
    },
    /// getACL(6)
    Acl { path: String },
    /// getChildren(8)
    Children { path: String, watch: bool },
    /// sync(9)
    Sync { path: String },
    /// multi(14) of one check(13): a quorum write that changes nothing
    Check { path: String },
    /// multi(14): all of these operations in this order, or none
    Multi(Vec<Operation>),
    /// ping(11)
    Ping,
    /// whoAmI(107): servers before 3.7 end the session
    WhoAmI,
    /// closeSession(−11)
    Close,
}

/// An operation of a multi.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Operation {
    /// create(1)
    Create {
        path: String,
        data: Vec<u8>,
        acl: Vec<Acl>,
        flags: i32,
    },
    /// createContainer(19): a node that the servers delete some time after its last child. Servers
    /// before 3.5.3 answer −5 to the whole multi
    CreateContainer { path: String, acl: Vec<Acl> },
    /// delete(2), any version
    Delete { path: String },
    /// setData(5), if the node has this version
    SetData {
        path: String,
        data: Vec<u8>,
        version: i32,
    },
    /// check(13): the node exists
    Check { path: String },
    /// check(13): the node has this version
    CheckVersion { path: String, version: i32 },
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The path of the created node.
    Created(String),
    /// Metadata of a node, and its data if requested.
    Data(Vec<u8>, Stat),
    /// The ACL of a node.
    Acl(Vec<Acl>),
    /// Names of a node's children, in no particular order.
    Children(Vec<String>),
    /// As whom the server knows this client, without its address: `digest:user`.
    Identities(Vec<String>),
    /// Success, without a result.
    Done,
    /// A multi failed, and none of its operations was done.
    Undone {
        /// Index of the operation that failed.
        operation: usize,
        /// Its error.
        code: Code,
    },
}

impl Request {
    /// Appends header and record.
    pub fn write(&self, xid: i32, out: &mut Vec<u8>) {
        let header = |kind| RequestHeader { xid, kind };
        match self {
            Request::Create {
                path,
                data,
                acl,
                flags,
            } => {
                header(operation::CREATE).write(out);
                CreateRequest {
                    path: path.clone(),
                    data: data.clone(),
                    acl: Vector(acl.clone()),
                    flags: *flags,
                }
                .write(out);
            }
            Request::Delete { path } => {
                header(operation::DELETE).write(out);
                DeleteRequest {
                    path: path.clone(),
                    version: -1,
                }
                .write(out);
            }
            Request::Exists { path, watch } => {
                header(operation::EXISTS).write(out);
                PathWatchRequest {
                    path: path.clone(),
                    watch: *watch,
                }
                .write(out);
            }
            Request::Data { path, watch } => {
                header(operation::GET_DATA).write(out);
                PathWatchRequest {
                    path: path.clone(),
                    watch: *watch,
                }
                .write(out);
            }
            Request::SetData {
                path,
                data,
                version,
            } => {
                header(operation::SET_DATA).write(out);
                SetDataRequest {
                    path: path.clone(),
                    data: data.clone(),
                    version: *version,
                }
                .write(out);
            }
            Request::Acl { path } => {
                header(operation::GET_ACL).write(out);
                GetAclRequest { path: path.clone() }.write(out);
            }
            Request::Children { path, watch } => {
                header(operation::GET_CHILDREN).write(out);
                PathWatchRequest {
                    path: path.clone(),
                    watch: *watch,
                }
                .write(out);
            }
            Request::Sync { path } => {
                header(operation::SYNC).write(out);
                SyncRequest { path: path.clone() }.write(out);
            }
            Request::Check { path } => {
                header(operation::MULTI).write(out);
                write_all(&[Operation::Check { path: path.clone() }], out);
            }
            Request::Multi(operations) => {
                header(operation::MULTI).write(out);
                write_all(operations, out);
            }
            Request::Ping => header(operation::PING).write(out),
            Request::WhoAmI => header(operation::WHO_AM_I).write(out),
            Request::Close => header(operation::CLOSE_SESSION).write(out),
        }
    }
}

impl Operation {
    /// Creates an empty node: a container, or a persistent node where the server knows none.
    pub fn create_empty(container: bool, path: String, acl: Vec<Acl>) -> Operation {
        if container {
            return Operation::CreateContainer { path, acl };
        }
        Operation::Create {
            path,
            data: Vec::new(),
            acl,
            flags: flag::PERSISTENT,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let header = |kind| MultiHeader {
            kind,
            done: false,
            err: -1,
        };
        match self {
            Operation::Create {
                path,
                data,
                acl,
                flags,
            } => {
                header(operation::CREATE).write(out);
                CreateRequest {
                    path: path.clone(),
                    data: data.clone(),
                    acl: Vector(acl.clone()),
                    flags: *flags,
                }
                .write(out);
            }
            Operation::CreateContainer { path, acl } => {
                header(operation::CREATE_CONTAINER).write(out);
                CreateRequest {
                    path: path.clone(),
                    data: Vec::new(),
                    acl: Vector(acl.clone()),
                    flags: flag::CONTAINER,
                }
                .write(out);
            }
            Operation::Delete { path } => {
                header(operation::DELETE).write(out);
                DeleteRequest {
                    path: path.clone(),
                    version: -1,
                }
                .write(out);
            }
            Operation::SetData {
                path,
                data,
                version,
            } => {
                header(operation::SET_DATA).write(out);
                SetDataRequest {
                    path: path.clone(),
                    data: data.clone(),
                    version: *version,
                }
                .write(out);
            }
            Operation::Check { path } => write_check(path, -1, out),
            Operation::CheckVersion { path, version } => write_check(path, *version, out),
        }
    }
}

fn write_check(path: &str, version: i32, out: &mut Vec<u8>) {
    MultiHeader {
        kind: operation::CHECK,
        done: false,
        err: -1,
    }
    .write(out);
    CheckVersionRequest {
        path: path.to_owned(),
        version,
    }
    .write(out);
}

/// Appends the body of a multi.
fn write_all(operations: &[Operation], out: &mut Vec<u8>) {
    operations.iter().for_each(|operation| operation.write(out));
    MultiHeader {
        kind: operation::ERROR,
        done: true,
        err: -1,
    }
    .write(out);
}

/// Decodes the body of a reply whose header reports success.
pub fn answer(request: &Request, mut body: &[u8]) -> Result<Result<Answer, Code>, Malformed> {
    let body = &mut body;
    Ok(Ok(match request {
        Request::Create { .. } => Answer::Created(CreateResponse::read(body, "create reply")?.path),
        Request::Exists { .. } => Answer::Data(Vec::new(), Wire::read(body, "exists reply")?),
        Request::Data { .. } => {
            let GetDataResponse { data, stat } = Wire::read(body, "getData reply")?;
            Answer::Data(data, stat)
        }
        Request::SetData { .. } => Answer::Data(
            Vec::new(),
            SetDataResponse::read(body, "setData reply")?.stat,
        ),
        Request::Acl { .. } => Answer::Acl(GetAclResponse::read(body, "getACL reply")?.acl.0),
        Request::Children { .. } => Answer::Children(
            GetChildrenResponse::read(body, "getChildren reply")?
                .children
                .0,
        ),
        Request::Check { .. } => {
            return Ok(match results(1, body)? {
                Ok(Answer::Undone { code, .. }) => Err(code),
                result => result,
            });
        }
        Request::WhoAmI => {
            let clients = WhoAmIResponse::read(body, "whoAmI reply")?.clients.0;
            let known = clients.into_iter().filter(|client| client.scheme != "ip");
            Answer::Identities(
                known
                    .map(|Id { scheme, id }| format!("{scheme}:{id}"))
                    .collect(),
            )
        }
        Request::Multi(operations) => return results(operations.len(), body),
        Request::Delete { .. } | Request::Sync { .. } | Request::Ping | Request::Close => {
            Answer::Done
        }
    }))
}

/// Decodes the results of a multi, one for each operation: the header of the reply reports success
/// even if the multi failed. A list that ends early comes from a server that did not know all
/// operations which its newer leader knew: none of them was done.
fn results(operations: usize, body: &mut &[u8]) -> Result<Result<Answer, Code>, Malformed> {
    let mut answer = Answer::Done;
    for operation in 0..operations {
        let header = MultiHeader::read(body, "multi reply")?;
        match header.kind {
            operation::ERROR if header.done => return Ok(Err(Code::MARSHALLING)),
            operation::ERROR => {
                // Operations before the failed one report OK, those after it an inconsistency.
                let code = Code(i32::read(body, "multi reply")?);
                if answer == Answer::Done && code != Code::OK {
                    answer = Answer::Undone { operation, code };
                }
            }
            operation::CREATE => drop(CreateResponse::read(body, "multi reply")?),
            // ZooKeeper answers a createContainer as a create2; another server may repeat its type.
            operation::CREATE_2 | operation::CREATE_CONTAINER => drop((
                CreateResponse::read(body, "multi reply")?,
                Stat::read(body, "multi reply")?,
            )),
            operation::SET_DATA => _ = Stat::read(body, "multi reply")?,
            _ => {} // a delete or a check has no result
        }
    }
    Ok(Ok(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_of_a_container_may_repeat_the_type_of_the_operation() {
        for kind in [operation::CREATE_2, operation::CREATE_CONTAINER] {
            let mut body = Vec::new();
            let header = |kind, done| MultiHeader { kind, done, err: 0 };
            header(kind, false).write(&mut body);
            let path = "/app/.queue".to_owned();
            CreateResponse { path: path.clone() }.write(&mut body);
            body.extend([0; STAT_LENGTH]);
            header(operation::DELETE, false).write(&mut body);
            header(operation::ERROR, true).write(&mut body);
            let container = Operation::create_empty(true, path.clone(), vec![]);
            let multi = Request::Multi(vec![container, Operation::Delete { path }]);
            assert_eq!(answer(&multi, &body), Ok(Ok(Answer::Done)), "{kind}");
        }
    }

    #[test]
    fn result_of_a_change_of_data_is_the_metadata_of_its_node() {
        let mut body = Vec::new();
        let header = |kind, done| MultiHeader { kind, done, err: 0 };
        header(operation::SET_DATA, false).write(&mut body);
        body.extend([0; STAT_LENGTH]);
        header(operation::CHECK, false).write(&mut body);
        header(operation::ERROR, true).write(&mut body);
        let (path, data) = ("/app/pool".to_owned(), b"x".to_vec());
        let multi = Request::Multi(vec![
            Operation::SetData {
                path: path.clone(),
                data,
                version: 7,
            },
            Operation::CheckVersion { path, version: 8 },
        ]);
        assert_eq!(answer(&multi, &body), Ok(Ok(Answer::Done)));
        assert!(answer(&multi, &body[..STAT_LENGTH]).is_err());

        // The version is sent: its four bytes are the last before the header that ends the multi.
        let mut sent = Vec::new();
        multi.write(1, &mut sent);
        assert_eq!(sent[sent.len() - 9 - 4..][..4], 8i32.to_be_bytes());
    }

    /// Five numbers of 64 bits, and six of 32.
    const STAT_LENGTH: usize = 5 * 8 + 6 * 4;
}

//! Gives each answer of ZooKeeper to the method of the pool that handles it.

use super::shared_pool::SharedPool;
use super::{Context, queue_entry};
use crate::zookeeper::code::Code;
use crate::zookeeper::request::{Answer, Operation, Request};

/// The path of the node that a request is about; of a multi, that of the node of a pool.
pub(super) fn addressee(request: &Request) -> Option<&str> {
    match request {
        Request::Data { path, .. }
        | Request::Exists { path, .. }
        | Request::SetData { path, .. }
        | Request::Create { path, .. }
        | Request::Children { path, .. } => Some(path),
        Request::Multi(operations) => match operations.first()? {
            Operation::SetData { path, .. } | Operation::CheckVersion { path, .. } => Some(path),
            _ => None,
        },
        _ => None,
    }
}

/// Gives an answer to the pool that has sent the request. `entry`: the name of the entry that it is
/// about; `None`: the node of the pool.
pub(super) fn deliver(
    pool: &mut SharedPool,
    entry: Option<&str>,
    request: &Request,
    result: Result<Answer, Code>,
    context: &mut Context,
) {
    match (request, entry, result) {
        (Request::Data { .. }, None, result) => {
            let read = result.and_then(|answer| match answer {
                Answer::Data(data, stat) => Ok((data, stat)),
                _ => Err(Code::MARSHALLING),
            });
            pool.data_read(read, context);
        }
        (_, Some(entry), Ok(Answer::Data(_, stat)))
            if !queue_entry::is_entry(entry, stat.ephemeral_owner) =>
        {
            pool.not_an_entry(entry, context);
        }
        (Request::Data { .. }, Some(entry), Ok(Answer::Data(data, _))) => {
            pool.entry_read(entry, &data);
        }
        (Request::Exists { .. }, None, result) => {
            let read = result.and_then(|answer| match answer {
                Answer::Data(_, stat) => Ok(stat),
                _ => Err(Code::MARSHALLING),
            });
            pool.stat_read(read, context);
        }
        (Request::Data { .. } | Request::Exists { .. }, Some(entry), Err(Code::NO_NODE)) => {
            pool.entry_ended(entry);
        }
        (Request::Data { .. }, Some(entry), _) => pool.entry_unread(entry),
        (Request::Create { path, .. }, None, Err(code)) => pool.not_created(path, code),
        (Request::Create { .. }, Some(entry), Ok(Answer::Created(path))) => {
            let name = path.rsplit('/').next().unwrap_or_default();
            pool.entry_created(entry, Ok(name), context);
        }
        (Request::Create { .. }, Some(entry), result) => {
            let code = result.err().unwrap_or(Code::MARSHALLING);
            pool.entry_created(entry, Err(code), context);
        }
        (Request::Children { .. }, _, Ok(Answer::Children(names))) => {
            pool.entries_listed(Ok(&names), context);
        }
        (Request::Children { .. }, _, result) => {
            let code = result.err().unwrap_or(Code::MARSHALLING);
            pool.entries_listed(Err(code), context);
        }
        (Request::SetData { .. } | Request::Multi(_), _, result) => {
            pool.written(&result, context);
        }
        _ => {}
    }
}

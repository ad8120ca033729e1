//! The nodes above a lock node. They are created only after a create has failed because they are
//! missing.

use super::recipe::RecipeContext;
use crate::lock::Failure;
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::request::Request;

/// The nodes above a lock.
#[derive(Debug)]
pub(super) struct Parents {
    /// Path of the lowest.
    path: String,
    /// Data of the lowest.
    data: Vec<u8>,
    /// `None`: not requested. Otherwise the first error, if any.
    made: Option<Result<(), (String, Code)>>,
}

impl Parents {
    /// Parents down to `path`, whose data is `data`; those above it are empty.
    pub(super) fn new(path: String, data: &[u8]) -> Parents {
        Parents {
            path,
            data: data.to_vec(),
            made: None,
        }
    }

    /// Requests all of them, once; false if that was done already. Existing nodes are no error.
    pub(super) fn make(&mut self, context: &mut RecipeContext) -> bool {
        if self.made.is_some() {
            return false;
        }
        self.made = Some(Ok(()));
        for end in self
            .path
            .match_indices('/')
            .map(|(end, _)| end)
            .skip(1)
            .chain([self.path.len()])
        {
            let data = if end == self.path.len() {
                self.data.clone()
            } else {
                Vec::new()
            };
            context.send(Request::Create {
                path: self.path[..end].into(),
                data,
                acl: context.acl(),
                flags: flag::PERSISTENT,
            });
        }
        true
    }

    /// Whether the nodes exist is unknown, because the connection has ended or the lock is acquired
    /// again: they may be requested again.
    pub(super) fn forget(&mut self) {
        self.made = None;
    }

    /// A create of one of them was answered.
    pub(super) fn on_reply(&mut self, path: &str, error: Option<Code>) {
        if let (Some(made @ Ok(())), Some(code)) = (
            &mut self.made,
            error.filter(|&code| code != Code::NODE_EXISTS),
        ) {
            *made = Err((path.into(), code));
        }
    }

    /// Why `path` still has no parent.
    pub(super) fn failure(&self, path: &str, context: &RecipeContext) -> Failure {
        let (what, why) = match &self.made {
            Some(Err((parent, code))) => (parent.as_str(), context.explain(*code)),
            _ => (
                path,
                "the node above it does not exist: create it, or use a name without \"/\"".into(),
            ),
        };
        Failure::Refused {
            what: format!("create {what}"),
            why,
        }
    }
}

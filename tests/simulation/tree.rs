//! The data of one server: nodes, sessions, and what a transaction does to them.
//!
//! Faithful to `PrepRequestProcessor` and `DataTree`: a sequential node gets the number of changes
//! of the children of its parent, creations and deletions (`parentRecord.stat.getCversion()`); the
//! end of a session deletes its ephemeral nodes; a multi is done as a whole or not at all, and then
//! its results are OK before the one that failed and a runtime inconsistency after it. An expected
//! version is compared with that of the data as the operations before it in the same multi leave it
//! (`PrepRequestProcessor.checkAndIncVersion`); −1 is any version; only a change of the data has a
//! new version, and only it changes mzxid and mtime. The Stat in the answer to a change of data is
//! the one after it (`FinalRequestProcessor`). ACLs and quotas are left out.

use crate::ensemble::PoolState;
use std::collections::BTreeMap;
use zk_flock::internals::zookeeper::code::{Code, flag, operation};
use zk_flock::internals::zookeeper::record::{
    CheckVersionRequest, CreateRequest, DeleteRequest, SetDataRequest, Stat,
};

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    pub data: Vec<u8>,
    pub owner: i64,
    pub czxid: i64,
    pub mzxid: i64,
    /// When it was created and changed, in ms of the leader's clock.
    pub ctime: i64,
    pub mtime: i64,
    pub children: usize,
    /// Changes of the children.
    pub cversion: i32,
    /// Changes of the data.
    pub version: i32,
    pub container: bool,
}

/// A change of the data.
#[derive(Clone, Debug)]
pub enum Change {
    Create {
        path: String,
        data: Vec<u8>,
        owner: i64,
        container: bool,
    },
    Delete {
        path: String,
    },
    Set {
        path: String,
        data: Vec<u8>,
    },
    OpenSession {
        id: i64,
        timeout: u64,
    },
    CloseSession {
        id: i64,
    },
}

/// What happened to a node, for watches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Happened {
    Created(String),
    Deleted(String),
    Changed(String),
}

/// The data.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    pub nodes: BTreeMap<String, Node>,
    /// Sessions and their timeouts in microseconds.
    pub sessions: BTreeMap<i64, u64>,
}

/// The parent's path; empty for a node below the root.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// One operation of a write request.
#[derive(Clone, Debug)]
pub enum Operation {
    /// With its type, because the answer of a container's creation has another one.
    Create(i32, CreateRequest),
    Delete(DeleteRequest),
    Set(SetDataRequest),
    Check(CheckVersionRequest),
}

impl Operation {
    /// Deletes a node, whatever its version.
    pub fn delete(path: &str) -> Operation {
        Operation::Delete(DeleteRequest {
            path: path.into(),
            version: -1,
        })
    }
}

impl Tree {
    /// What an operation changes, or why it fails.
    pub fn prepare(&self, operation: &Operation, session: i64) -> Result<Option<Change>, Code> {
        match operation {
            Operation::Create(_, create) => self.prepare_create(create, session).map(Some),
            Operation::Delete(DeleteRequest { path, version }) => {
                if self.with_version(path, *version)?.children > 0 {
                    return Err(Code::NOT_EMPTY);
                }
                Ok(Some(Change::Delete { path: path.clone() }))
            }
            Operation::Set(set) => {
                self.with_version(&set.path, set.version)?;
                Ok(Some(Change::Set {
                    path: set.path.clone(),
                    data: set.data.clone(),
                }))
            }
            Operation::Check(check) => self.with_version(&check.path, check.version).map(|_| None),
        }
    }

    /// The node, if it has this version.
    fn with_version(&self, path: &str, version: i32) -> Result<&Node, Code> {
        let node = self.nodes.get(path).ok_or(Code::NO_NODE)?;
        if version != -1 && version != node.version {
            return Err(Code::BAD_VERSION);
        }
        Ok(node)
    }

    fn prepare_create(&self, create: &CreateRequest, session: i64) -> Result<Change, Code> {
        let above = parent(&create.path);
        let siblings = match self.nodes.get(above) {
            Some(node) => node.cversion,
            None if above.is_empty() => 0,
            None => return Err(Code::NO_NODE),
        };
        let mut path = create.path.clone();
        if create.flags & flag::SEQUENCE != 0 {
            path = format!("{path}{siblings:010}");
        }
        if self.nodes.contains_key(&path) {
            return Err(Code::NODE_EXISTS);
        }
        let ephemeral = create.flags & flag::EPHEMERAL != 0;
        Ok(Change::Create {
            path,
            data: create.data.clone(),
            owner: if ephemeral { session } else { 0 },
            container: create.flags & flag::CONTAINER != 0,
        })
    }

    /// Applies a change that was made at this time. Adds what happened to nodes.
    pub fn apply(&mut self, change: &Change, zxid: i64, time: i64, happened: &mut Vec<Happened>) {
        match change {
            Change::Create {
                path,
                data,
                owner,
                container,
            } => {
                let node = Node {
                    data: data.clone(),
                    owner: *owner,
                    czxid: zxid,
                    mzxid: zxid,
                    ctime: time,
                    mtime: time,
                    children: 0,
                    cversion: 0,
                    version: 0,
                    container: *container,
                };
                self.nodes.insert(path.clone(), node);
                self.child_changed(path, 1);
                happened.push(Happened::Created(path.clone()));
            }
            Change::Delete { path } => self.delete(path, happened),
            Change::Set { path, data } => {
                if let Some(node) = self.nodes.get_mut(path) {
                    node.change(data, zxid, time);
                    happened.push(Happened::Changed(path.clone()));
                }
            }
            Change::OpenSession { id, timeout } => drop(self.sessions.insert(*id, *timeout)),
            Change::CloseSession { id } => {
                self.sessions.remove(id);
                let owned = self.nodes.iter().filter(|(_, node)| node.owner == *id);
                let paths: Vec<String> = owned.map(|(path, _)| path.clone()).collect();
                paths.iter().for_each(|path| self.delete(path, happened));
            }
        }
    }

    fn delete(&mut self, path: &str, happened: &mut Vec<Happened>) {
        if self.nodes.remove(path).is_some() {
            self.child_changed(path, -1);
            happened.push(Happened::Deleted(path.into()));
        }
    }

    fn child_changed(&mut self, path: &str, by: isize) {
        if let Some(node) = self.nodes.get_mut(parent(path)) {
            node.children = node.children.saturating_add_signed(by);
            node.cversion += 1;
        }
    }

    /// Names of a node's children.
    pub fn children(&self, of: &str) -> Vec<String> {
        let prefix = format!("{of}/");
        let below = self.nodes.range(prefix.clone()..);
        below
            .map_while(|(path, _)| path.strip_prefix(&prefix))
            .filter(|name| !name.contains('/'))
            .map(Into::into)
            .collect()
    }

    /// A node with its children.
    pub fn pool(&self, path: &str) -> Option<PoolState> {
        let data = self.nodes.get(path)?.data.clone();
        let children = self.children(path).into_iter();
        let children = children.map(|name| {
            let data = self.nodes[&format!("{path}/{name}")].data.clone();
            (name, data)
        });
        Some(PoolState {
            data,
            children: children.collect(),
        })
    }

    /// Containers that have had a child and have none.
    pub fn empty_containers(&self) -> Vec<String> {
        let empty = |node: &Node| node.container && node.children == 0 && node.cversion > 0;
        let found = self.nodes.iter().filter(|(_, node)| empty(node));
        found.map(|(path, _)| path.clone()).collect()
    }
}

impl Node {
    /// The data changes.
    fn change(&mut self, data: &[u8], zxid: i64, time: i64) {
        self.data = data.to_vec();
        self.version += 1;
        (self.mzxid, self.mtime) = (zxid, time);
    }

    /// The node as it is when its data has changed.
    pub fn changed(&self, data: &[u8], zxid: i64, time: i64) -> Node {
        let mut node = self.clone();
        node.change(data, zxid, time);
        node
    }

    /// The record of a reply.
    pub fn stat(&self) -> Stat {
        Stat {
            czxid: self.czxid,
            mzxid: self.mzxid,
            ctime: self.ctime,
            mtime: self.mtime,
            version: self.version,
            cversion: self.cversion,
            aversion: 0,
            ephemeral_owner: self.owner,
            data_length: i32::try_from(self.data.len()).expect("short data"),
            num_children: i32::try_from(self.children).expect("few children"),
            pzxid: self.czxid,
        }
    }
}

/// The type of an operation in the answer to a multi.
pub fn answer_type(operation: &Operation) -> i32 {
    match operation {
        Operation::Create(operation::CREATE_CONTAINER, _) => operation::CREATE_2,
        Operation::Create(..) => operation::CREATE,
        Operation::Delete(_) => operation::DELETE,
        Operation::Set(_) => operation::SET_DATA,
        Operation::Check(_) => operation::CHECK,
    }
}

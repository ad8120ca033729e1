//! The record of the last run of a lock (`--every`): one persistent node below the lock's
//! neighbour `.runs`. The holder reads it, decides whether its run is due, and replaces it in one
//! transaction, so that czxid and ctime of the node are the start of the run. The run's exit code
//! is written into it before the release, so its mtime is the end.
//!
//! The read is part of the write that acquires the lock, so only the transaction costs a round trip
//! before the command starts.

use super::acl;
use super::layout;
use super::recipe::AcquiredNode;
use crate::lock::Failure;
use crate::lock::period::{Comparison, EarlierRun, RunRecord, Verdict, clock_was_set_back, judge};
use crate::plan::{Acl, Every};
use crate::zookeeper::code::{Code, flag};
use crate::zookeeper::record::Stat;
use crate::zookeeper::request::{Answer, Operation, Request};

/// How often a start is written. Twice are enough where the container is missing. More are needed
/// only if another client makes or deletes the nodes at that moment.
const TRIES: u32 = 10;

/// The version of a node that no client has changed since it was created.
const NEW: i32 = 0;

/// What a record needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The period.
    pub every: Every,
    /// Path of the record.
    pub path: String,
    /// The name of this host, for the record.
    pub host: String,
    /// The id of this process.
    pub pid: u32,
    /// ACL of the record and of its container.
    pub acl: Acl,
}

/// When a run asked for the lock, by a node that it made for that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Asked {
    czxid: i64,
    ctime: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing has been decided under the lock that is held or to be acquired.
    Undecided,
    /// The start is being written.
    Writing,
    /// The start of this run is recorded.
    Started,
}

/// How far the record of the end is, on this connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// The run goes on, or its end is recorded.
    Nothing,
    /// The run exits with this code, which is to be recorded.
    Known(u8),
    /// The record is being read once more: another run may have replaced it.
    Checking(u8),
    /// The end was sent.
    Sent(u8),
}

/// What the record means for the lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// None, or another event follows.
    Nothing,
    /// None yet: send these, in one write.
    Send(Vec<Request>),
    /// Warn the operator.
    Warn(String),
    /// Warn the operator, and send this.
    WarnAndSend(String, Request),
    /// The start is recorded, and the command may start.
    Started,
    /// Send this, if there is anything, and close the session.
    Close(Option<Request>),
    /// Another run has taken the turn of this one.
    AlreadyRun(EarlierRun),
    /// The record can be neither read nor written.
    Failed(Failure),
}

/// The record of one lock.
#[derive(Debug)]
pub(super) struct Record {
    options: Options,
    /// When this run asked for the lock. A later session does not change that.
    asked: Option<Asked>,
    phase: Phase,
    /// How many reads are unanswered on this connection.
    reads: u32,
    /// The tokens under which this run has sent its start, the last one at the end. Each of these
    /// starts may be recorded.
    sent_under: Vec<i64>,
    tries: u32,
    end: End,
}

impl Record {
    pub(super) fn new(options: Options) -> Record {
        Record {
            options,
            asked: None,
            phase: Phase::Undecided,
            reads: 0,
            sent_under: Vec::new(),
            tries: 0,
            end: End::Nothing,
        }
    }

    /// Whether it is not known yet when this run asked for the lock.
    pub(super) fn wants_request(&self) -> bool {
        self.asked.is_none()
    }

    /// This run asked for the lock by a node with this stat.
    pub(super) fn set_request(&mut self, stat: &Stat) {
        self.asked.get_or_insert(Asked {
            czxid: stat.czxid,
            ctime: stat.ctime,
        });
    }

    /// The request to read the record. The caller sends it.
    pub(super) fn read(&mut self) -> Request {
        self.reads += 1;
        Request::Data {
            path: self.options.path.clone(),
            watch: false,
        }
    }

    /// Whether the command may start.
    pub(super) fn is_started(&self) -> bool {
        self.phase == Phase::Started
    }

    /// The lock is held: what to send for a decision, unless that is under way.
    pub(super) fn decide(&mut self) -> Option<Request> {
        (self.phase == Phase::Undecided && self.reads == 0).then(|| self.read())
    }

    /// The connection has ended. Whether a start was recorded is not known.
    pub(super) fn on_disconnect(&mut self) {
        self.reads = 0;
        if self.phase == Phase::Writing {
            self.phase = Phase::Undecided;
        }
        if let End::Checking(code) | End::Sent(code) = self.end {
            self.end = End::Known(code);
        }
    }

    /// The lock was lost before the command started, or the session has expired, and the lock is
    /// acquired again. A read that is not answered yet may never be.
    pub(super) fn restart(&mut self) {
        self.phase = Phase::Undecided;
        self.reads = 0;
        self.tries = 0;
    }

    /// Whether this is a request of this machine: a read, a start, or an end.
    pub(super) fn is_own(&self, request: &Request) -> bool {
        let record = &self.options.path;
        match request {
            Request::Data { path, .. } | Request::SetData { path, .. } => path == record,
            Request::Create { path, .. } => *path == self.container(),
            Request::Multi(operations) => {
                matches!(operations.last(), Some(Operation::Create { path, .. }) if path == record)
            }
            _ => false,
        }
    }

    /// One of its requests was answered. `held`: the lock's node, if the lock is held and the
    /// command has not started.
    pub(super) fn on_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        held: Option<&AcquiredNode>,
        explain: impl Fn(Code) -> String,
    ) -> Decision {
        match request {
            Request::Data { .. } => {
                self.reads = self.reads.saturating_sub(1);
                match (held, self.end) {
                    (Some(node), _) if self.reads == 0 && self.phase == Phase::Undecided => {
                        self.on_read(result, node, explain)
                    }
                    (None, End::Checking(code)) => {
                        self.end = End::Known(code);
                        self.on_end_checked(result)
                    }
                    _ => Decision::Nothing, // it was read by an attempt that has failed
                }
            }
            Request::Multi(operations) if held.is_some() && self.phase == Phase::Writing => {
                self.on_written(operations, &result, explain)
            }
            Request::SetData { .. } => self.on_end_written(result.err(), explain),
            Request::Create { path, .. } => match result {
                Err(code) if held.is_some() && code != Code::NODE_EXISTS => {
                    Decision::Failed(Failure::Refused {
                        what: format!("create {path}"),
                        why: explain(code),
                    })
                }
                _ => Decision::Nothing,
            },
            _ => Decision::Nothing,
        }
    }

    fn on_read(
        &mut self,
        result: Result<Answer, Code>,
        node: &AcquiredNode,
        explain: impl Fn(Code) -> String,
    ) -> Decision {
        match result {
            Ok(Answer::Data(data, stat)) => self.on_record(&data, &stat, node),
            Err(Code::NO_NODE) => Decision::Send(vec![self.start(node, false)]),
            Ok(_) => Decision::Nothing,
            Err(code) => self.failed("read", &explain(code)),
        }
    }

    /// There is a record.
    fn on_record(&mut self, data: &[u8], stat: &Stat, node: &AcquiredNode) -> Decision {
        let record = RunRecord::parse(data);
        let written_under = record.as_ref().map(|record| record.token);
        if written_under == Some(node.token) {
            self.phase = Phase::Started; // only the reply was lost
            return Decision::Started;
        }
        if written_under.is_some_and(|token| self.sent_under.contains(&token)) {
            // Under a lock that was lost before the command started.
            return Decision::Send(vec![self.start(node, true)]);
        }
        let Some(asked) = self.asked else {
            return Decision::Nothing; // the recipe has seen the lock's node
        };
        let last = Comparison {
            started_after: stat.czxid > asked.czxid,
            started_ms_before: asked.ctime.saturating_sub(stat.ctime),
            failed: record.as_ref().is_some_and(RunRecord::has_failed),
        };
        match judge(self.options.every, last) {
            Verdict::Due => Decision::Send(vec![self.start(node, true)]),
            Verdict::DueAfterClockChange(back) => Decision::WarnAndSend(
                clock_was_set_back("the ZooKeeper servers", back, &node.path),
                self.start(node, true),
            ),
            Verdict::Taken => Decision::AlreadyRun(EarlierRun {
                lock: node.path.clone(),
                started: stat.ctime,
                host: record.map(|record| record.host),
            }),
        }
    }

    /// Writes the start: replaces the record while the lock's node exists.
    fn start(&mut self, node: &AcquiredNode, exists: bool) -> Request {
        self.phase = Phase::Writing;
        if self.sent_under.last() != Some(&node.token) {
            self.sent_under.push(node.token);
        }
        let path = self.options.path.clone();
        let mut operations = vec![Operation::Check {
            path: node.path.clone(),
        }];
        if exists {
            operations.push(Operation::Delete { path: path.clone() });
        }
        operations.push(Operation::Create {
            path,
            data: self.content(node.token, None),
            acl: acl::of(self.options.acl),
            flags: flag::PERSISTENT,
        });
        Request::Multi(operations)
    }

    /// The transaction with the start was answered.
    fn on_written(
        &mut self,
        operations: &[Operation],
        result: &Result<Answer, Code>,
        explain: impl Fn(Code) -> String,
    ) -> Decision {
        let (failed, code) = match *result {
            Ok(Answer::Undone { operation, code }) => (operations.get(operation), code),
            Err(code) => (None, code),
            Ok(_) => {
                self.phase = Phase::Started;
                return Decision::Started;
            }
        };
        self.tries += 1;
        match (failed, code) {
            (Some(Operation::Check { .. }), Code::NO_NODE) => Decision::Nothing, // its watch fires
            (Some(Operation::Create { .. }), Code::NO_NODE) if self.tries < TRIES => {
                Decision::Send(vec![
                    Request::Create {
                        path: self.container().to_owned(),
                        data: Vec::new(),
                        acl: acl::of(self.options.acl),
                        flags: flag::PERSISTENT,
                    },
                    Request::Multi(operations.to_vec()),
                ])
            }
            (Some(_), Code::NO_NODE | Code::NODE_EXISTS) if self.tries < TRIES => {
                self.phase = Phase::Undecided;
                Decision::Send(vec![self.read()]) // another client deleted or created it
            }
            (_, code) => self.failed("write", &explain(code)),
        }
    }

    /// The run has ended, and exits with this code.
    pub(super) fn set_end(&mut self, exit: u8) {
        self.end = End::Known(exit);
    }

    /// The request that records the end, if it is known and not sent. Call this only while the lock
    /// is known to be held: the record of another run is new, too.
    pub(super) fn write_end(&mut self) -> Option<Request> {
        let (End::Known(exit), Some(token)) = (self.end, self.token()) else {
            return None;
        };
        self.end = End::Sent(exit);
        Some(Request::SetData {
            path: self.options.path.clone(),
            data: self.content(token, Some(exit)),
            version: NEW,
        })
    }

    /// The requests that show whether the record is still that of this run, if the end is known and
    /// not sent. [`Decision::Close`] follows.
    pub(super) fn check_end(&mut self) -> Option<[Request; 2]> {
        let (End::Known(exit), Some(_)) = (self.end, self.token()) else {
            return None;
        };
        self.end = End::Checking(exit);
        let sync = Request::Sync {
            path: self.options.path.clone(),
        }; // this server may be behind the one that another run has written to
        Some([sync, self.read()])
    }

    /// The warning of a run that ends now, if its end is known and no server has confirmed that it is
    /// recorded.
    pub(super) fn open_end(&self) -> Option<String> {
        (self.end != End::Nothing).then(|| {
            let why = "no server has confirmed it (--retry-failed repeats such a run)";
            self.cannot_record_end(why)
        })
    }

    fn on_end_checked(&mut self, result: Result<Answer, Code>) -> Decision {
        let found = match result {
            Ok(Answer::Data(data, _)) => RunRecord::parse(&data),
            _ => None,
        };
        let is_own = found.is_some_and(|record| Some(record.token) == self.token());
        let request = if is_own { self.write_end() } else { None };
        if request.is_none() {
            self.end = End::Nothing;
        }
        Decision::Close(request)
    }

    fn on_end_written(
        &mut self,
        error: Option<Code>,
        explain: impl Fn(Code) -> String,
    ) -> Decision {
        self.end = End::Nothing;
        match error {
            // It was written before, and the reply was lost; or another client has deleted it.
            None | Some(Code::BAD_VERSION | Code::NO_NODE) => Decision::Nothing,
            Some(code) => Decision::Warn(self.cannot_record_end(&explain(code))),
        }
    }

    fn cannot_record_end(&self, why: &str) -> String {
        let path = &self.options.path;
        format!("cannot record the end of this run in {path}: {why}")
    }

    /// The token under which the start is recorded.
    fn token(&self) -> Option<i64> {
        self.sent_under
            .last()
            .copied()
            .filter(|_| self.is_started())
    }

    fn content(&self, token: i64, exit: Option<u8>) -> Vec<u8> {
        let record = RunRecord {
            host: self.options.host.clone(),
            pid: self.options.pid,
            token,
            exit,
        };
        record.text().into_bytes()
    }

    /// The node above the record.
    fn container(&self) -> &str {
        layout::parent(&self.options.path)
    }

    fn failed(&self, verb: &str, why: &str) -> Decision {
        Decision::Failed(Failure::Refused {
            what: format!("{verb} {}", self.options.path),
            why: why.into(),
        })
    }
}

#[cfg(test)]
mod tests;

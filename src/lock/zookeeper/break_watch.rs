//! The holder's side of `--break`: watches for a request to release its lock, and answers it. The
//! request is a node with the token of this holder as its name, so it never reaches another one.
//!
//! The first watch is set with the first heartbeat, so that a short run does not pay for it.

use super::layout::{self, BreakData};
use crate::zookeeper::code::Code;
use crate::zookeeper::request::{Answer, Request};
use std::time::Duration;

/// Looks for requests to one holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BreakWatch {
    /// The node of a request.
    path: String,
    /// What the holder answers: its time between TERM and KILL.
    kill_after: Duration,
    /// A server has set the watch once.
    is_set: bool,
    /// A request was reported.
    is_reported: bool,
}

/// What to do about a reply.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Reaction {
    /// Send this.
    pub(super) send: Option<Request>,
    /// Report that the lock is revoked, for this reason.
    pub(super) revoked: Option<String>,
}

impl BreakWatch {
    /// For the holder with this token, of a lock whose requests are in `breaks`.
    pub(super) fn new(breaks: &str, token: i64, kill_after: Duration) -> BreakWatch {
        BreakWatch {
            path: layout::child(breaks, &layout::break_name(token)),
            kill_after,
            is_set: false,
            is_reported: false,
        }
    }

    /// Sets the watch. A node that does not exist can be watched too.
    pub(super) fn watch(&self) -> Request {
        Request::Exists {
            path: self.path.clone(),
            watch: true,
        }
    }

    /// Whether the watch was set, and must be set again on each new connection.
    pub(super) fn is_set(&self) -> bool {
        self.is_set
    }

    /// Whether this is the node of a request.
    pub(super) fn is_at(&self, path: &str) -> bool {
        self.path == path
    }

    /// A request of this watch was answered.
    pub(super) fn on_reply(&mut self, request: &Request, result: Result<Answer, Code>) -> Reaction {
        match (request, result) {
            (Request::Exists { .. }, result) => {
                self.is_set = true;
                let send = result.is_ok().then(|| Request::Data {
                    path: self.path.clone(),
                    watch: false,
                });
                Reaction {
                    send,
                    revoked: None,
                }
            }
            (Request::Data { .. }, Ok(Answer::Data(data, stat))) => {
                self.on_request(BreakData::parse(&data), stat.version)
            }
            // The servers allowed the request, and this client may not see who made it.
            (Request::Data { .. }, Err(Code::NO_AUTH)) => Reaction {
                send: None,
                revoked: self.report("another client"),
            },
            _ => Reaction::default(),
        }
    }

    fn on_request(&mut self, mut data: BreakData, version: i32) -> Reaction {
        let revoked = self.report(match data.asker.as_str() {
            "" => "another client",
            asker => asker,
        });
        // It was answered already: by this holder, or by the client that made it.
        let send = data.kill_after.is_none().then(|| {
            data.kill_after = Some(self.kill_after);
            Request::SetData {
                path: self.path.clone(),
                data: data.to_string().into_bytes(),
                version,
            }
        });
        Reaction { send, revoked }
    }

    /// The reason of the revocation, the first time.
    fn report(&mut self, asker: &str) -> Option<String> {
        let first = !std::mem::replace(&mut self.is_reported, true);
        first.then(|| format!("{asker} asked for it by --break"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_that_another_client_has_answered_is_reported_and_not_written() {
        let mut watch = BreakWatch::new("/app/.break", 7, Duration::from_secs(5));
        let reaction = watch.on_request(BreakData::parse(b"root@adm1\nkill-after 9"), 1);
        assert_eq!(reaction.send, None);
        let reason = reaction.revoked.expect("it is reported");
        assert!(reason.starts_with("root@adm1 "), "{reason}");
    }
}

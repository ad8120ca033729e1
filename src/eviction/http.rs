//! Revokes a lock at a lock server. Sans-I/O.

use crate::endpoint::Endpoint;
use crate::http::client::{HttpClient, HttpEvent};
use crate::http::{Reply, post};
use crate::lock::Failure;
use crate::moment::Moment;
use crate::oneshot::{OneShot, Step};
use crate::transport;
use std::time::Duration;

/// How long the server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The most characters of an answer that are shown.
const MAX_SHOWN: usize = 100;

/// What the server has done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Revoked {
    /// The holder is told at its next renewal. Its token, if the server has told it.
    Yes {
        /// It may differ from the one that was seen before: then the lock had changed hands.
        token: Option<i64>,
    },
    /// The host holds nothing there.
    NotHeld,
}

/// The client.
#[derive(Debug)]
pub struct Revocation {
    server: String,
    client: HttpClient,
    by: Moment,
}

impl Revocation {
    /// The first `poll` starts to connect. `limit`: how long the server may take at most.
    pub fn new(
        servers: Vec<Endpoint>,
        server: &str,
        pool: &str,
        host: &str,
        limit: Duration,
        now: Moment,
    ) -> Revocation {
        let limit = limit.min(ANSWER_TIMEOUT);
        let mut client = HttpClient::new(servers, now);
        let request = post("/revoke/", &[("pool", pool), ("host", host)], server);
        client.ask(request, limit, now);
        Revocation {
            server: server.to_owned(),
            client,
            by: now + limit,
        }
    }

    fn report(&self, reply: &Reply) -> Result<Revoked, Failure> {
        let body = String::from_utf8_lossy(&reply.body);
        let token = reply.header("X-Lock-Token");
        match reply.status {
            200 if body.starts_with("revoked ") => Ok(Revoked::Yes {
                token: token.and_then(|token| token.parse().ok()),
            }),
            404 if body.contains("does not hold") => Ok(Revoked::NotHeld),
            status => {
                let shown = body.trim().chars().filter(|c| !c.is_control());
                let shown: String = shown.take(MAX_SHOWN).collect();
                Err(Failure::Refused {
                    what: format!("revoke at {}", self.server),
                    why: format!(
                        "it answered {status} {shown:?} (only distributexd of this project can \
                         revoke, and a proxy may forbid it)"
                    ),
                })
            }
        }
    }
}

impl OneShot for Revocation {
    type Report = Revoked;

    fn on_transport(&mut self, event: transport::Event, now: Moment) {
        self.client.on_transport(event, now);
    }

    fn poll(&mut self, now: Moment) -> Step<Revoked> {
        self.client.tick(now);
        while let Some(event) = self.client.event() {
            if let HttpEvent::Answered { reply, .. } = event {
                return Step::End(self.report(&reply));
            }
        }
        if let Some(output) = self.client.output() {
            return Step::Transport(output);
        }
        if now >= self.by {
            return Step::End(Err(Failure::Unreachable(self.client.faults(now))));
        }
        Step::Wait(self.client.wake().min(self.by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(reply: &Reply) -> Result<Revoked, Failure> {
        let servers = vec!["dx:9889".into()];
        Revocation::new(
            servers,
            "dx:9889",
            "backup",
            "db1",
            ANSWER_TIMEOUT,
            Moment::default(),
        )
        .report(reply)
    }

    #[test]
    fn answers_of_the_server_are_told_apart() {
        let text = "revoked backup for db1: it is held until released\n";
        let reply = Reply::new(200, "text/plain", text);
        assert_eq!(report(&reply), Ok(Revoked::Yes { token: None }));
        let reply = reply.with("X-Lock-Token", 7);
        assert_eq!(report(&reply), Ok(Revoked::Yes { token: Some(7) }));
        let text = "cannot revoke: db1 does not hold backup\n";
        let reply = Reply::new(404, "text/plain", text);
        assert_eq!(report(&reply), Ok(Revoked::NotHeld));
        for (status, text) in [
            (404, "cannot revoke: no such pool\n"),
            (200, "INVALID"),
            (405, "expected GET"),
            (403, "<html>\x1b[31mForbidden"),
        ] {
            let refused = report(&Reply::new(status, "text/html", text));
            let Err(Failure::Refused { why, .. }) = refused else {
                panic!("{refused:?}");
            };
            assert!(
                why.starts_with(&format!("it answered {status} \"")),
                "{why}"
            );
            assert!(!why.contains('\x1b'), "{why}");
        }
    }
}

//! Revokes a lock at a lock server. Sans-I/O.

use crate::http::{Reply, authorize, post};
use crate::lock::Failure;
use crate::lock::http::access_refusal;
use crate::oneshot::http::Question;
use crate::plan::LockServer;

/// The most characters of an answer that are shown.
const MAX_SHOWN: usize = 100;

/// What the server has done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Revoked {
    /// The holder learns of it at its next renewal. Its token, if the server has told it.
    Yes {
        /// It may differ from the one that was seen before: then the lock had changed hands.
        token: Option<i64>,
    },
    /// The host holds nothing there.
    NotHeld,
}

/// The request to revoke the lock of a host.
#[derive(Debug)]
pub struct Revocation {
    /// The server.
    pub server: LockServer,
    /// The pool.
    pub pool: String,
    /// The holder.
    pub host: String,
}

impl Question for Revocation {
    type Report = Revoked;

    fn request(&self) -> Vec<u8> {
        let parameters = [("pool", self.pool.as_str()), ("host", &self.host)];
        let request = post(
            &self.server.path("/revoke/"),
            &parameters,
            &self.server.header(),
        );
        authorize(request, self.server.access_token.as_ref())
    }

    fn report(&self, reply: &Reply) -> Result<Revoked, Failure> {
        // A 403 without a reason is that of another program.
        let refusal = access_refusal(reply, &self.server)
            .filter(|_| reply.status == 401 || reply.header("X-Lock-Error").is_some());
        if let Some(why) = refusal {
            let what = format!("revoke at {}", self.server);
            return Err(Failure::Refused { what, why });
        }
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
                    why: format!("it answered {status} {shown:?} ({})", advice(status)),
                })
            }
        }
    }
}

/// What the operator can do about this status. A server that cannot save the revocation may
/// have made it, and so may one that has not answered its proxy.
fn advice(status: u16) -> &'static str {
    match status {
        502..=504 => "the lock may be revoked: look at it with --status",
        _ => "only distributexd of this project can revoke, and a proxy may forbid it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(reply: &Reply) -> Result<Revoked, Failure> {
        Revocation {
            server: LockServer::of_tests(),
            pool: "backup".into(),
            host: "db1".into(),
        }
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
        for (status, text, may_be_revoked) in [
            (404, "cannot revoke: no such pool\n", false),
            (200, "INVALID", false),
            (405, "expected GET", false),
            (501, "Unsupported method", false),
            (403, "<html>\x1b[31mForbidden", false),
            (502, "Bad Gateway", true),
            (503, "cannot write the state file: disk full", true),
            (504, "Gateway Timeout", true),
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
            let advice = "the lock may be revoked: look at it with --status";
            assert_eq!(why.contains(advice), may_be_revoked, "{why}");
            let python = "only distributexd of this project can revoke";
            assert_eq!(why.contains(python), !may_be_revoked, "{why}");
        }
    }
}

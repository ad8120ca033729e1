//! Revokes a lock at a lock server. Sans-I/O.

use crate::http::{Reply, authorize, post};
use crate::lock::Failure;
use crate::lock::http::access_refusal;
use crate::oneshot::http::Question;
use crate::plan::LockServer;
use crate::printable::beginning;

/// The most characters of an answer that are shown.
const MAX_SHOWN: usize = 100;

/// What the server has done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Revoked {
    /// The holder learns of it at its next renewal.
    Yes,
    /// The host does not hold this lock: it holds nothing, or has acquired a later lock.
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
    /// The fencing token of its lock, if that is known: a later lock of the host is not revoked.
    pub token: Option<i64>,
}

impl Question for Revocation {
    type Report = Revoked;

    fn request(&self) -> Vec<u8> {
        let token = self.token.map(|token| token.to_string());
        let mut parameters = vec![("pool", self.pool.as_str()), ("host", &self.host)];
        parameters.extend(token.as_deref().map(|token| ("token", token)));
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
        let is_not_held = ["does not hold", "with another fencing token"]
            .iter()
            .any(|words| body.contains(words));
        match reply.status {
            200 if body.starts_with("revoked ") => Ok(Revoked::Yes),
            404 if is_not_held => Ok(Revoked::NotHeld),
            status => {
                let shown = beginning(body.trim(), MAX_SHOWN);
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

    fn revocation(token: Option<i64>) -> Revocation {
        Revocation {
            server: LockServer::of_tests(),
            pool: "backup".into(),
            host: "db1".into(),
            token,
        }
    }

    fn report(reply: &Reply) -> Result<Revoked, Failure> {
        revocation(Some(7)).report(reply)
    }

    #[test]
    fn known_fencing_token_is_sent() {
        for (token, parameters) in [
            (Some(7), "pool=backup&host=db1&token=7"),
            (None, "pool=backup&host=db1"),
        ] {
            let request = String::from_utf8(revocation(token).request()).unwrap();
            let line = format!("POST /revoke/?{parameters} HTTP/1.1\r\n");
            assert!(request.starts_with(&line), "{request}");
        }
    }

    #[test]
    fn answer_of_the_server_cannot_control_the_terminal() {
        let text = "\n\x1b[31ma\u{202e}b\n".to_owned() + &"c".repeat(200);
        let Err(Failure::Refused { why, .. }) = report(&Reply::new(500, "text/html", text)) else {
            panic!("it is refused");
        };
        let shown = format!("it answered 500 \"?[31ma?b?{}…\" (", "c".repeat(91));
        assert!(why.starts_with(&shown), "{why}");
    }

    #[test]
    fn answers_of_the_server_are_told_apart() {
        let text = "revoked backup for db1: it is held until released\n";
        let reply = Reply::new(200, "text/plain", text);
        assert_eq!(report(&reply), Ok(Revoked::Yes));
        for text in [
            "cannot revoke: db1 does not hold backup\n",
            "cannot revoke: db1 holds backup with another fencing token (look at its holders again)\n",
        ] {
            let reply = Reply::new(404, "text/plain", text);
            assert_eq!(report(&reply), Ok(Revoked::NotHeld), "{text}");
        }
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
            let advice = "the lock may be revoked: look at it with --status";
            assert_eq!(why.contains(advice), may_be_revoked, "{why}");
            let python = "only distributexd of this project can revoke";
            assert_eq!(why.contains(python), !may_be_revoked, "{why}");
        }
    }
}

//! Replies 401 and 403: the lock server, or a proxy before it, refuses access.

use super::reply::shown;
use crate::http::Reply;
use crate::plan::LockServer;

/// Why access is refused, and what to do. `None`: it is not.
pub fn access_refusal(reply: &Reply, server: &LockServer) -> Option<String> {
    let advice = match (reply.status, &server.access_token) {
        (401, None) => "use --access-token-file FILE",
        (401, Some(_)) => "check the file of --access-token-file",
        (403, _) => "the config of the server, or of a proxy before it, does not allow this",
        _ => return None,
    };
    let reason = shown(&reply.reason);
    let why = reply
        .header("X-Lock-Error")
        .map_or(String::new(), |why| format!(" ({})", shown(why)));
    let status = reply.status;
    Some(format!(
        "the server answered {status} {reason}{why}: {advice}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::access::AccessToken;

    #[test]
    fn refusal_names_reason_and_remedy() {
        let open = LockServer::of_tests();
        let with_token = LockServer {
            access_token: Some(AccessToken::sent(b"secret")),
            ..LockServer::of_tests()
        };
        let reply = |status, why: &str| {
            let reply = Reply::new(status, "text/plain", "");
            if why.is_empty() {
                reply
            } else {
                reply.with("X-Lock-Error", why)
            }
        };
        for (server, status, why, sentence) in [
            (
                &open,
                401,
                "access token missing",
                "the server answered 401 Unauthorized (access token missing): use \
                 --access-token-file FILE",
            ),
            (
                &open,
                401,
                "",
                "the server answered 401 Unauthorized: use --access-token-file FILE",
            ),
            (
                &with_token,
                401,
                "access token not valid",
                "the server answered 401 Unauthorized (access token not valid): check the file of \
                 --access-token-file",
            ),
            (
                &with_token,
                403,
                "a\u{1b}b",
                "the server answered 403 Forbidden (a?b): the config of the server, or of a proxy \
                 before it, does not allow this",
            ),
        ] {
            assert_eq!(
                access_refusal(&reply(status, why), server).as_deref(),
                Some(sentence)
            );
        }
        for status in [200, 404, 407, 500] {
            assert_eq!(access_refusal(&reply(status, "x"), &open), None);
        }
    }
}

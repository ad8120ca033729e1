//! What the server may have of a run that ends, and what an operator can do about it.

use super::Options;
use super::reply::{Lease, Slot};
use crate::http::query;
use crate::moment::Moment;
use crate::shell::quote;

/// What the server may have of this run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Residue {
    Nothing,
    /// Perhaps a slot: a request may have arrived, and its reply been lost.
    Perhaps,
    /// This slot.
    Slot(Slot),
    /// A slot with this token, whose lease cannot be read or kept.
    BadLease(Option<i64>),
    /// This slot, which was lost already.
    Lost(Slot),
}

/// Why the lock may not be free yet after the release, until when, and without a limit, how to end
/// that. `why`: how the release has failed.
pub(super) fn release_uncertainty(
    residue: Residue,
    options: &Options,
    why: &str,
    now: Moment,
) -> Option<String> {
    let until = match residue {
        Residue::Nothing | Residue::Perhaps | Residue::Lost(_) => return None,
        Residue::BadLease(_) => "the lock is free when its lease on the server has ended".into(),
        Residue::Slot(Slot {
            lease: Some(lease), ..
        }) => within(lease, now),
        Residue::Slot(Slot { token, lease: None }) => until_released(token, options),
    };
    Some(format!("{why}: {until}"))
}

fn within(lease: Lease, now: Moment) -> String {
    let left = lease.free_by().since(now).as_secs_f64();
    format!("the lock is free when its lease on the server has ended, within {left:.0} s")
}

/// Of a slot without a lease. distributexd always sends a token. The Python server sends none, and
/// does not report whether its slots expire.
fn until_released(token: Option<i64>, options: &Options) -> String {
    let kept = match token {
        Some(_) => "the pool has no \"expire\", so the server keeps the lock",
        None => "the server has named no lease, and may keep the lock",
    };
    // The next run continues with the id of this one. It must not lose the lock to the command.
    let until = if options.only_run {
        "the next run on this host releases it; if none follows"
    } else {
        "it is released"
    };
    format!("{kept} until {until}: {}", release_command(token, options))
}

/// The command that releases the slot.
fn release_command(token: Option<i64>, options: &Options) -> String {
    let Options {
        server, pool, host, ..
    } = options;
    let token = token.map(|token| token.to_string());
    let mut parameters = vec![("pool", pool.as_str()), ("host", host)];
    parameters.extend(token.iter().map(|token| ("token", token.as_str())));
    let mut pairs = Vec::new();
    query(parameters, &mut pairs);
    let url = server.url("/release/") + &String::from_utf8_lossy(&pairs);
    let socket = server.socket().map_or_else(String::new, |path| {
        format!("--unix-socket {} ", quote(path.as_ref()))
    });
    format!("curl {socket}{}", quote(url.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::connection::Tls;
    use crate::plan::{Connection, Host, LockServer};
    use std::time::Duration;

    fn uncertainty(server: LockServer, only_run: bool, host: &str, token: Option<i64>) -> String {
        let options = Options {
            addresses: vec![],
            server,
            pool: "p".into(),
            host: host.into(),
            run_id: "x".into(),
            inherited: false,
            wait_until: None,
            reach_by: None,
            only_run,
            outer: vec![],
            kill_after: Duration::ZERO,
        };
        let residue = Residue::Slot(Slot { token, lease: None });
        release_uncertainty(residue, &options, "refused", Moment::default()).unwrap()
    }

    #[test]
    fn slot_without_a_lease_is_kept_until_a_run_or_an_operator_releases_it() {
        let server = LockServer::of_tests;
        assert_eq!(
            uncertainty(server(), true, "web1", Some(7)),
            "refused: the pool has no \"expire\", so the server keeps the lock until the next run \
             on this host releases it; if none follows: \
             curl 'http://dx:9889/release/?pool=p&host=web1&token=7'"
        );
        assert_eq!(
            uncertainty(server(), true, "web1", None),
            "refused: the server has named no lease, and may keep the lock until the next run on \
             this host releases it; if none follows: \
             curl 'http://dx:9889/release/?pool=p&host=web1'"
        );
        assert_eq!(
            uncertainty(server(), false, "web1", Some(7)),
            "refused: the pool has no \"expire\", so the server keeps the lock until it is \
             released: curl 'http://dx:9889/release/?pool=p&host=web1&token=7'"
        );
    }

    #[test]
    fn command_that_releases_a_slot_reaches_the_server_of_the_run() {
        let command = |server| {
            let text = uncertainty(server, false, "wéb", Some(7));
            text.split_once("released: ").unwrap().1.to_owned()
        };
        let socket = LockServer::new(Host::Unix("/run/d x.sock".into()));
        assert_eq!(
            command(socket),
            "curl --unix-socket '/run/d x.sock' \
             'http://localhost/release/?pool=p&host=w%C3%A9b&token=7'"
        );
        let host = |name: &str, port| Host::Tcp {
            name: name.into(),
            port,
        };
        let secure = LockServer {
            hosts: vec![host("dx", 443)],
            connection: Connection::Tls(Tls::default()),
            prefix: "/locks".into(),
            access_token: None,
        };
        assert_eq!(
            command(secure),
            "curl 'https://dx/locks/release/?pool=p&host=w%C3%A9b&token=7'"
        );
        let pair = LockServer {
            hosts: vec![host("::1", 9889), host("dx2", 9889)],
            ..LockServer::of_tests()
        };
        assert_eq!(
            command(pair),
            "curl 'http://[::1]:9889/release/?pool=p&host=w%C3%A9b&token=7'"
        );
    }
}

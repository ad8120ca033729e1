//! The server's log lines about itself: start, reload, requests. The pools write their own.

use super::listener::Listener;
use crate::plan::access::{Access, Network};
use crate::plan::{Backend, Level, Server};
use crate::printable::printable;
use crate::reason::reason;
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Writes to stderr, one line an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerLog<'a> {
    pub(super) program: &'a str,
    /// Prints a line.
    pub(super) print: fn(&str, Level, &dyn Display),
    /// Also logs each request.
    pub(super) verbose: bool,
}

impl ServerLog<'_> {
    /// Names in the message are as clients chose them: they must not control a terminal.
    pub(super) fn log(self, level: Level, message: &dyn Display) {
        if level > Level::Debug || self.verbose {
            (self.print)(self.program, level, &printable(&message.to_string()));
        }
    }

    /// Logs the error of a system call.
    pub(super) fn log_failure(self, what: &str, error: &io::Error) {
        self.log(
            Level::Error,
            &format_args!("cannot {what}: {}", reason(error)),
        );
    }

    pub(super) fn log_start(self, plan: &Server, listener: &Listener) {
        self.log_warnings(plan);
        let address = listener
            .address()
            .map_or_else(|error| reason(&error), |address| address.to_string());
        self.warn_if_open(&plan.access, plan.listen, &address);
        let kept = match (&plan.backend, &plan.state) {
            (Backend::Memcache(host), _) => format!("memcached at {host}"),
            (Backend::ZooKeeper(ensemble), _) => format!("ZooKeeper at {ensemble}"),
            (Backend::Memory, Some(path)) => path.display().to_string(),
            (Backend::Memory, None) => "memory".into(),
        };
        let (pools, most) = (plan.pool_count(), listener.max_connections());
        self.log(
            Level::Info,
            &format_args!(
                "listening on {address}: {pools}, holders kept in {kept}, \
                 {most} connections at most"
            ),
        );
    }

    /// Logs a reload of the config, and each changed key that takes effect only after a restart.
    pub(super) fn log_reload(self, before: &Server, plan: &Server) {
        self.log_warnings(plan);
        let config = plan.config.display();
        let keys = [
            ("listen", plan.listen != before.listen),
            ("backend", plan.backend != before.backend),
            ("state", plan.state != before.state),
        ];
        for (key, _) in keys.iter().filter(|(_, changed)| *changed) {
            self.log(
                Level::Warning,
                &format_args!("{config}: {key:?} has changed: restart the server to apply it"),
            );
        }
        let pools = plan.pool_count();
        let tokens = match plan.access.grants.len() {
            0 => String::new(),
            1 => ", 1 access token".into(),
            tokens => format!(", {tokens} access tokens"),
        };
        self.log(
            Level::Info,
            &format_args!("reloaded {config}: {pools}{tokens}"),
        );
        // It still listens where it did when it started.
        let all = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        let address = SocketAddr::new(before.listen.unwrap_or(all), before.port);
        self.warn_if_open(&plan.access, before.listen, &address);
    }

    /// Warns if clients of other hosts need no access token. `address`: what `listen` has become.
    fn warn_if_open(self, access: &Access, listen: Option<IpAddr>, address: &dyn Display) {
        let is_local = |address: IpAddr| address.to_canonical().is_loopback();
        if access.needs_tokens() || listen.is_some_and(is_local) {
            return;
        }
        let clients = match &access.networks {
            None => format!(
                "clients need no access token, and other hosts can reach {address}: each of them"
            ),
            Some(networks) if networks.iter().all(Network::is_loopback) => return,
            Some(_) => {
                "clients of \"networks\" need no access token: each host in these networks".into()
            }
        };
        self.log(
            Level::Warning,
            &format_args!(
                "{clients} can take and release every lock (set \"access_tokens\", or \
                 \"listen: 127.0.0.1\")"
            ),
        );
    }

    fn log_warnings(self, plan: &Server) {
        for warning in &plan.warnings {
            self.log(Level::Warning, warning);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ExitCodes;
    use crate::plan::access::AccessToken;
    use std::cell::RefCell;

    thread_local! {
        static PRINTED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    const OF_NETWORKS: &str = "clients of \"networks\" need no access token: each host in these \
        networks can take and release every lock (set \"access_tokens\", or \"listen: 127.0.0.1\")";

    #[test]
    fn reload_without_access_tokens_warns_like_a_start() {
        let log = ServerLog {
            program: "distributexd",
            print: |_, _, message| PRINTED.with_borrow_mut(|lines| lines.push(message.to_string())),
            verbose: false,
        };
        let plan = |listen: Option<&str>| Server {
            program: "distributexd",
            config: "c".into(),
            listen: listen.map(|address| address.parse().unwrap()),
            port: 9889,
            pools: vec![],
            access: Access::default(),
            backend: Backend::Memory,
            state: None,
            warnings: vec![],
            exit_codes: ExitCodes {
                busy: None,
                busy_default: 1,
                sysexits: false,
            },
            verbose: false,
            manager: None,
        };
        let warning = "clients need no access token, and other hosts can reach ";
        for (listen, address) in [
            (None, "[::]:9889: "),
            (Some("10.0.0.1"), "10.0.0.1:9889: "),
            (Some("127.0.0.1"), ""),
            (Some("::1"), ""),
        ] {
            log.log_reload(&plan(listen), &plan(listen));
            let printed = PRINTED.take().concat();
            assert_eq!(printed.contains(warning), !address.is_empty(), "{printed}");
            assert!(printed.contains(address), "{printed}");
        }
        for (networks, warning) in [
            ("127.0.0.0/8", ""),
            ("127.0.0.0/8 ::1", ""),
            ("0.0.0.0/1", OF_NETWORKS),
            ("::1 10.0.0.0/8", OF_NETWORKS),
        ] {
            let mut restricted = plan(None);
            let networks = networks.split(' ').map(|network| network.parse().unwrap());
            restricted.access.networks = Some(networks.collect());
            log.log_reload(&plan(None), &restricted);
            assert_eq!(PRINTED.take().get(1).map_or("", String::as_str), warning);
        }
        let mut guarded = plan(None);
        guarded
            .access
            .grant(vec![AccessToken::sent(b"x")], None, false);
        log.log_reload(&plan(None), &guarded);
        assert_eq!(PRINTED.take(), ["reloaded c: 0 pools, 1 access token"]);
        guarded
            .access
            .grant(vec![AccessToken::sent(b"y")], Some("p"), true);
        log.log_reload(&plan(None), &guarded);
        assert_eq!(PRINTED.take(), ["reloaded c: 0 pools, 2 access tokens"]);
    }

    #[test]
    fn name_that_would_control_a_terminal_is_logged_with_question_marks() {
        let log = ServerLog {
            program: "distributexd",
            print: |_, _, message| PRINTED.with_borrow_mut(|lines| lines.push(message.to_string())),
            verbose: true,
        };
        log.log(Level::Debug, &"get p for a\u{202e}b\nc\u{1b}[31m: INVALID");
        log.log(Level::Info, &"granted pool=замок");
        let printed = PRINTED.take();
        assert_eq!(
            printed,
            ["get p for a?b?c?[31m: INVALID", "granted pool=замок"]
        );
    }
}

//! `--check` of the clients: asks each server, one after the other, without a lock.

use super::{inspect, oneshot};
use crate::endpoint::Endpoint;
use crate::lock::Failure;
use crate::lock::zookeeper::acl;
use crate::log;
use crate::oneshot::http;
use crate::oneshot::zookeeper::{Client, Options};
use crate::plan::inspection::Locks;
use crate::plan::{ClientCheck, Cluster, Connection, Exit, ExitReason, Host, LockServer};
use crate::probe::srvr::Srvr;
use crate::probe::zookeeper::{Probe, Target};
use crate::probe::{self, Flaw, FlawKind, Found, Report};
use crate::signal::Status;
use crate::status::http::PoolSurvey;
use crate::sys::clock::{self, now};
use crate::transport::Address;
use std::time::Duration;

/// How long one server may take for the check. A healthy one needs milliseconds.
const LIMIT: Duration = Duration::from_secs(5);

/// Checks what the plan names, and prints a line for each.
pub fn check_client(plan: &ClientCheck) -> Exit {
    let config = plan.config.as_ref().map(|path| path.display().to_string());
    let config = match (config, &plan.flaws[..]) {
        (None, []) => None,
        (path, flaws) => Some((path.unwrap_or("options".into()), flaws.to_vec())),
    };
    inspect::print_token_warning(plan.program, &plan.locks);
    let servers = match &plan.locks {
        Locks::Nodes {
            cluster,
            root,
            app,
            takes_auth,
            ..
        } => ensemble(cluster, root, *app, *takes_auth),
        Locks::Pools { server, pool } => lock_server(server, pool.as_deref()),
        Locks::Files { .. } => Vec::new(),
    };
    let report = Report { config, servers };
    let text = if plan.json {
        report.json()
    } else {
        report.text()
    };
    let end = match (inspect::print(&text), report.worst()) {
        (Err(failure), _) => {
            log::print(plan.program, &failure);
            failure.exit_reason()
        }
        (Ok(()), None) => ExitReason::Command(Status::Exited(0)),
        (Ok(()), Some(FlawKind::Config)) => ExitReason::ConfigError,
        (Ok(()), Some(FlawKind::Refused)) => ExitReason::Refused,
        (Ok(()), Some(FlawKind::Unreachable)) => ExitReason::Unreachable,
    };
    plan.exit_codes.exit(end)
}

type Checked = Vec<(String, Result<Found, Flaw>)>;

fn unreachable(text: String) -> Flaw {
    Flaw {
        kind: FlawKind::Unreachable,
        text,
    }
}

/// Hosts without an address, each with its reason: `zk9:2181: name not known`.
fn without_address(unresolved: Vec<String>) -> Checked {
    let split = |text: String| match text.split_once(": ") {
        Some((host, why)) => (host.to_owned(), Err(unreachable(why.to_owned()))),
        None => (text.clone(), Err(unreachable(text))),
    };
    unresolved.into_iter().map(split).collect()
}

/// The addresses of these hosts, and the flaws of those that have none. The error is the flaw of
/// each host if none can be connected to.
fn look_up(
    hosts: &[Host],
    connection: &Connection,
    limit: Duration,
) -> Result<(Vec<Endpoint>, Checked), Checked> {
    let connection = inspect::checked(connection).map_err(|failure| {
        let name = |host: &Host| (host.to_string(), Err(flaw(failure.clone(), "")));
        hosts.iter().map(name).collect::<Checked>()
    })?;
    inspect::look_up(hosts, &connection, limit)
        .map(|(servers, unresolved)| (servers, without_address(unresolved)))
        .map_err(without_address)
}

fn ensemble(cluster: &Cluster, root: &str, app: bool, takes_auth: bool) -> Checked {
    let (mut servers, mut without_address) =
        match look_up(&cluster.hosts, &cluster.connection, cluster.timeout) {
            Ok(found) => found,
            Err(flaws) => return flaws,
        };
    servers.sort_by(|one, other| one.name.cmp(&other.name));
    let target = Target {
        root: format!("{}{root}", cluster.chroot),
        app,
        acl: acl::of(cluster.acl),
        authenticates: cluster.auth.is_some() || cluster.connection.shows_certificate(),
    };
    let check = |server: Endpoint| {
        let options = Options {
            servers: vec![server.clone()],
            unresolved: Vec::new(),
            cluster: cluster.clone(),
            limit: LIMIT,
            only_reads: true,
            takes_auth,
        };
        let mut client = Client::new(options, Probe::new(target.clone()), now());
        let found = oneshot::drive(&mut client).map(|found| with_banner(found, server.address));
        (
            server.name.clone(),
            found.map_err(|it| flaw(it, &server.name)),
        )
    };
    let mut checked: Checked = servers.into_iter().map(check).collect();
    checked.append(&mut without_address);
    checked
}

/// What is wrong, without the name of the server, which stands before it.
fn flaw(failure: Failure, server: &str) -> Flaw {
    match failure {
        Failure::Refused { .. } => Flaw {
            kind: FlawKind::Refused,
            text: failure.to_string(),
        },
        Failure::Config(text) => Flaw {
            kind: FlawKind::Config,
            text,
        },
        Failure::Unreachable(text) => {
            let text = text.strip_prefix("ZooKeeper: ").unwrap_or(&text);
            let text = text.strip_prefix(&format!("{server}: ")).unwrap_or(text);
            unreachable(text.to_owned())
        }
        Failure::IncompatibleLock(text) => Flaw {
            kind: FlawKind::Refused,
            text: text
                .strip_prefix(&format!("{server} "))
                .unwrap_or(&text)
                .to_owned(),
        },
        failure => unreachable(failure.to_string()),
    }
}

/// Adds version and role, if the server tells them.
fn with_banner(found: Found, server: Address) -> Found {
    let mut client = Srvr::new(server, LIMIT, now());
    let banner = oneshot::drive(&mut client)
        .ok()
        .and_then(|text| probe::banner(&text));
    match banner {
        Some((version, role)) => Found {
            version: Some(version),
            role,
            ..found
        },
        None => found,
    }
}

fn lock_server(server: &LockServer, pool: Option<&str>) -> Checked {
    let name = server.to_string();
    let servers = match look_up(&server.hosts, &server.connection, LIMIT) {
        Ok((servers, _)) => servers,
        Err(flaws) => return flaws,
    };
    let survey = PoolSurvey {
        server: server.clone(),
        pool: pool.map(Into::into),
        now: clock::unix_ms(),
    };
    let began = now();
    let mut client = http::Client::new(survey, servers, LIMIT, began);
    let found = oneshot::drive(&mut client).map(|report| Found {
        latency: now().since(began),
        version: Some("distributexd".into()),
        slots: pool.and_then(|_| report.locks.first()).and_then(|lock| {
            let held = lock.holders.as_ref().map_or(0, Vec::len);
            Some((held, lock.slots?))
        }),
        ..Found::default()
    });
    vec![(name.clone(), found.map_err(|failure| flaw(failure, &name)))]
}

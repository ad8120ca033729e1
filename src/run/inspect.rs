//! `--status`: reads locks, and prints what is known of them. It takes no lock and starts no
//! process but those that look up names.

use super::lock_folder::LockFolder;
use super::{local_survey, oneshot};
use crate::endpoint::Endpoint;
use crate::lock::Failure;
use crate::lock::zookeeper::recipe;
use crate::log;
use crate::oneshot::http;
use crate::oneshot::zookeeper::{Client, Options};
use crate::plan::inspection::{Inspection, Locks};
use crate::plan::{Cluster, Connection, Exit, ExitReason, Host, LockServer, Warning};
use crate::prepare::{self, HostAddresses};
use crate::reason::reason;
use crate::signal::Status;
use crate::status::http::PoolSurvey;
use crate::status::zookeeper::{Survey, Target};
use crate::status::{self, Report};
use crate::sys::clock::{self, now};
use std::io::{self, Write};
use std::time::Duration;

/// Shows the locks of the plan.
pub fn show_status(inspection: &Inspection) -> Exit {
    print_warnings(inspection.program, &inspection.warnings);
    print_token_warning(inspection.program, &inspection.locks);
    let end =
        read(&inspection.locks, true, Duration::MAX).and_then(|report| show(inspection, &report));
    inspection.exit_codes.exit(end.unwrap_or_else(|failure| {
        log::print(inspection.program, &failure);
        failure.exit_reason()
    }))
}

/// Prints the problems of options and config.
pub(super) fn print_warnings(program: &str, warnings: &[Warning]) {
    for warning in warnings {
        if let Warning::Shown(text) = warning {
            log::print(program, &format_args!("WARNING: {text}"));
        }
    }
}

/// Prints that an access token is sent as plain text.
pub(super) fn print_token_warning(program: &str, locks: &Locks) {
    if let Locks::Pools { server, .. } = locks
        && let Some(warning) = server.token_warning()
    {
        log::print(program, &format_args!("WARNING: {warning}"));
    }
}

/// What is known of these locks. `stale`: what a server without a quorum knows is good enough.
/// `limit`: how long the servers may take at most.
pub(super) fn read(locks: &Locks, stale: bool, limit: Duration) -> Result<Report, Failure> {
    match locks {
        Locks::Nodes {
            cluster,
            root,
            names,
            app,
            takes_auth,
        } => {
            let target = Target {
                root: format!("{}{root}", cluster.chroot),
                names: names.clone(),
                app: *app,
            };
            let options = options(cluster, stale, *takes_auth, limit)?;
            oneshot::drive(&mut Client::new(options, Survey::new(target), now()))
        }
        Locks::Files {
            folder,
            app_id,
            names,
        } => {
            let folder = LockFolder::new(folder.as_deref(), app_id);
            local_survey::read(&folder, names.as_deref())
        }
        Locks::Pools { server, pool } => {
            let servers = servers(server, limit)?;
            let survey = PoolSurvey {
                server: server.clone(),
                pool: pool.clone(),
                now: clock::unix_ms(),
            };
            oneshot::drive(&mut http::Client::new(survey, servers, limit, now()))
        }
    }
}

/// The connection to servers, once its files and its program were checked.
pub(super) fn checked(connection: &Connection) -> Result<Connection, Failure> {
    prepare::tls::checked(connection).map_err(Failure::Config)
}

/// The addresses of a lock server.
pub(super) fn servers(server: &LockServer, limit: Duration) -> Result<Vec<Endpoint>, Failure> {
    let connection = checked(&server.connection)?;
    let limit = http::ANSWER_TIMEOUT.min(limit);
    let found = look_up(&server.hosts, &connection, limit);
    let (servers, _) = found.map_err(|why| Failure::Unreachable(why.join("; ")))?;
    Ok(servers)
}

/// Looks up the servers of an ensemble. They may take as long as the session timeout to answer, but
/// not longer than `limit`.
pub(super) fn options(
    cluster: &Cluster,
    only_reads: bool,
    takes_auth: bool,
    limit: Duration,
) -> Result<Options, Failure> {
    let limit = limit.min(cluster.timeout);
    let connection = checked(&cluster.connection)?;
    let (servers, unresolved) = look_up(&cluster.hosts, &connection, limit)
        .map_err(|why| recipe::unreachable(&why.join("; ")))?;
    Ok(Options {
        servers,
        unresolved,
        cluster: cluster.clone(),
        limit,
        only_reads,
        takes_auth,
    })
}

/// The addresses of these hosts, and the hosts that have none, each with its reason. The error is
/// these reasons if there is no address. The connection is [`checked`].
pub(super) fn look_up(
    hosts: &[Host],
    connection: &Connection,
    limit: Duration,
) -> Result<(Vec<Endpoint>, Vec<String>), Vec<String>> {
    let mut addresses = HostAddresses::new(hosts, connection);
    match prepare::resolve_with_retries(&mut addresses, Some(1), now() + limit) {
        Ok((found, _)) if found.endpoints.is_empty() => Err(found.unresolved),
        Ok((found, _)) => Ok((found.endpoints, found.unresolved)),
        Err(error) => Err(vec![format!("cannot look up names: {}", reason(&error))]),
    }
}

fn show(inspection: &Inspection, report: &Report) -> Result<ExitReason, Failure> {
    for warning in &report.warnings {
        log::print(inspection.program, &format_args!("WARNING: {warning}"));
    }
    let wall = clock::unix_ms();
    let text = if inspection.json {
        status::json(report, wall, clock::rfc3339)
    } else {
        status::table(report, wall, clock::rfc3339, inspection.detailed)
    };
    print(&text)?;
    Ok(end(report, inspection.single))
}

/// Prints a text on stdout.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::System(format!("cannot write to stdout: {}", reason(&error))))
}

/// What the exit code says. `single`: the operator gave one name.
fn end(report: &Report, single: bool) -> ExitReason {
    let mut held = report.locks.iter().map(status::Lock::is_held);
    if held.clone().any(|held| held.is_none()) {
        ExitReason::SystemError
    } else if single && held.all(|held| held == Some(false)) {
        ExitReason::Free
    } else {
        ExitReason::Command(Status::Exited(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_of_several_locks_is_free_if_all_are() {
        let lock = |holders: Option<usize>| status::Lock {
            name: String::new(),
            path: String::new(),
            kind: None,
            slots: None,
            holders: holders.map(|holders| vec![status::Holder::default(); holders]),
            waiters: vec![],
            last_run: None,
        };
        let end = |locks: &[Option<usize>], single| {
            let locks = locks.iter().copied().map(lock).collect();
            end(
                &Report {
                    locks,
                    warnings: vec![],
                },
                single,
            )
        };
        assert_eq!(end(&[Some(0); 3], true), ExitReason::Free);
        assert_eq!(
            end(&[Some(0); 3], false),
            ExitReason::Command(Status::Exited(0))
        );
        assert_eq!(
            end(&[Some(0), Some(1)], true),
            ExitReason::Command(Status::Exited(0))
        );
        assert_eq!(end(&[Some(1), None], true), ExitReason::SystemError);
    }
}

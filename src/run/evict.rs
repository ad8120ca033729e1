//! `--break`: finds the holder of a lock, asks it to release the lock, and prints what became of it.

use super::{inspect, oneshot};
use crate::eviction::http::{Revocation, Revoked};
use crate::eviction::zookeeper::{Eviction as Asker, Target};
use crate::eviction::{self, Candidate, Outcome, Refusal};
use crate::lock::Failure;
use crate::lock::zookeeper::{acl, layout};
use crate::log;
use crate::moment::Moment;
use crate::oneshot::zookeeper::Client;
use crate::plan::inspection::Locks;
use crate::plan::{Cluster, Eviction, Exit, ExitReason, Host};
use crate::reason::reason;
use crate::signal::{Signal, Status};
use crate::status::zookeeper::Survey;
use crate::status::{self, Kind, Lock};
use crate::sys::clock::{self, now};
use crate::sys::process::{self, Pid};
use crate::sys::{file, host, poll, tree};
use std::io::{self, Write};
use std::time::Duration;

/// How often the holder of a file is looked at: no event tells another process that flock(2) is
/// undone, or that a process has no children left.
const FILE_INTERVAL: Duration = Duration::from_millis(100);

/// How often TERM is repeated to a holder whose command is gone. One that comes before the holder
/// knows of that end counts for the command, and does not end the minimum hold.
const TERM_INTERVAL: Duration = Duration::from_secs(1);

/// How often a lock server is asked whether a revoked lock was released: it has no call that waits
/// for that.
const POOL_INTERVAL: Duration = Duration::from_secs(1);

/// How long the servers may take to answer, even if the wait ends before that: a shorter time would
/// find even a server of this host absent.
const MIN_LIMIT: Duration = Duration::from_secs(1);

/// Takes the lock of the plan away from its holder. `started` is when the program began.
pub fn evict(plan: &Eviction, started: Moment) -> Exit {
    inspect::print_warnings(plan.program, &plan.warnings);
    let end = find_and_ask(plan, started + plan.wait);
    plan.exit_codes.exit(end.unwrap_or_else(|failure| {
        log::print(plan.program, &failure);
        inspect::failure_reason(&failure)
    }))
}

fn find_and_ask(plan: &Eviction, until: Moment) -> Result<ExitReason, Failure> {
    let locks = locks(plan, until)?;
    let candidate = match eviction::choose(&locks, plan.token) {
        Ok(candidate) => candidate,
        Err(refusal) => return Ok(refuse(plan, &refusal)),
    };
    let outcome = match &plan.locks {
        Locks::Nodes {
            cluster,
            root,
            app,
            takes_auth,
            ..
        } => {
            let root = format!("{}{root}", cluster.chroot);
            let parent = if *app {
                &root
            } else {
                layout::parent(&candidate.path)
            };
            let breaks = layout::breaks_path(parent);
            ask_session(plan, cluster, breaks, *takes_auth, &candidate, until)?
        }
        Locks::Files { .. } => stop_process(plan, &candidate, until)?,
        Locks::Pools { server, pool } => {
            let pool = pool.as_deref().unwrap_or_default();
            revoke(plan, server, pool, &candidate, until)?
        }
    };
    Ok(match outcome {
        Some(outcome) => tell(plan, &candidate, outcome),
        None => refuse(plan, &Refusal::Unknown),
    })
}

/// How long the servers may take to answer at most.
fn limit(until: Moment) -> Duration {
    until.since(now()).max(MIN_LIMIT)
}

/// What is known of the lock now.
fn locks(plan: &Eviction, until: Moment) -> Result<Vec<Lock>, Failure> {
    Ok(match &plan.locks {
        Locks::Nodes {
            cluster,
            root,
            names,
            app,
            takes_auth,
        } => {
            let target = status::zookeeper::Target {
                root: format!("{}{root}", cluster.chroot),
                names: names.clone(),
                app: *app,
            };
            let options = inspect::options(cluster, false, *takes_auth, limit(until))?;
            oneshot::drive(&mut Client::new(options, Survey::new(target), now()))?.locks
        }
        locks => inspect::read(locks, limit(until))?.locks,
    })
}

/// Asks the holder of a node. `None`: its node is not known.
fn ask_session(
    plan: &Eviction,
    cluster: &Cluster,
    breaks: String,
    takes_auth: bool,
    candidate: &Candidate,
    until: Moment,
) -> Result<Option<Outcome>, Failure> {
    let (Some(node), Some(token)) = (&candidate.holder.node, candidate.holder.token) else {
        return Ok(None);
    };
    let target = Target {
        node: node.clone(),
        token,
        breaks,
        asker: asker(plan),
        container_acl: acl::of(cluster.acl),
        request_acl: acl::of_request(cluster.acl),
        timeout: cluster.timeout,
        is_unique: candidate.kind != Some(Kind::Node),
        force: plan.force,
        until,
    };
    let options = inspect::options(cluster, false, takes_auth, limit(until))?;
    let outcome = oneshot::drive(&mut Client::new(options, Asker::new(target), now()))?;
    Ok(Some(match outcome {
        // The request was that of another client, which asked first.
        Outcome::Evicted { held: None } => Outcome::Evicted {
            held: held(candidate),
        },
        outcome => outcome,
    }))
}

/// Who asks, for the log of the holder.
fn asker(plan: &Eviction) -> String {
    let user = plan.user.clone();
    let user = user.unwrap_or_else(|| format!("uid {}", file::effective_uid()));
    let user = user.replace(char::is_control, "?"); // the holder answers on a line of its own
    format!("{user}@{} (pid {})", host::name(), process::own_pid())
}

/// Sends TERM to the holder of a file of this host, and again to end the minimum hold, once its
/// command is gone. `None`: the process is not known.
fn stop_process(
    plan: &Eviction,
    candidate: &Candidate,
    until: Moment,
) -> Result<Option<Outcome>, Failure> {
    let pid = candidate.holder.pid.and_then(|pid| i32::try_from(pid).ok());
    let Some(process) = pid.and_then(|pid| tree::find(Pid(pid))) else {
        return Ok(None);
    };
    let holds = || -> Result<bool, Failure> {
        let locks = locks(plan, until)?;
        let mut holders = locks.iter().flat_map(|lock| lock.holders.iter().flatten());
        // A process acquires the lock once. Its token may be known in one look and not in the next:
        // that depends on a comparison of two clocks.
        Ok(holders.any(|holder| holder.pid == candidate.holder.pid))
    };
    let signal = || match tree::signal(&process, Signal::TERM) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(Failure::Refused {
            what: format!("send TERM to process {}", process.pid),
            why: reason(&error),
        }),
        _ => Ok(()),
    };
    if !holds()? {
        return Ok(Some(Outcome::Left));
    }
    signal()?;
    let mut repeat = Moment::default();
    while holds()? {
        if now() >= until {
            return Ok(Some(Outcome::StillHeld { kill_after: None }));
        }
        if now() >= repeat && tree::descendants(process.pid).is_empty() {
            repeat = now() + TERM_INTERVAL;
            signal()?;
        }
        pause(FILE_INTERVAL, until)?;
    }
    Ok(Some(Outcome::Evicted {
        held: held(candidate),
    }))
}

/// Revokes the lock of a host at a lock server. `None`: the host is not known.
fn revoke(
    plan: &Eviction,
    server: &Host,
    pool: &str,
    candidate: &Candidate,
    until: Moment,
) -> Result<Option<Outcome>, Failure> {
    let Some(host) = &candidate.holder.host else {
        return Ok(None);
    };
    let (name, servers) = (server.to_string(), inspect::servers(server, limit(until))?);
    let mut revocation = Revocation::new(servers, &name, pool, host, limit(until), now());
    let token = match oneshot::drive(&mut revocation)? {
        Revoked::NotHeld => return Ok(Some(Outcome::Left)),
        Revoked::Yes { token } => token,
    };
    let known = candidate.holder.token;
    if let (Some(token), Some(known)) = (token, known)
        && token != known
    {
        return Ok(Some(Outcome::OtherRevoked { token }));
    }
    loop {
        let locks = locks(plan, until)?;
        let mut holders = locks.iter().flat_map(|lock| lock.holders.iter().flatten());
        let Some(holder) =
            holders.find(|holder| holder.host.as_ref() == Some(host) && holder.token == known)
        else {
            let held = held(candidate);
            return Ok(Some(Outcome::Evicted { held }));
        };
        if now() >= until {
            let expires = holder.expires.and_then(|ms| u64::try_from(ms).ok());
            return Ok(Some(Outcome::StillRevoked {
                expires: expires.map(Duration::from_millis),
            }));
        }
        pause(POOL_INTERVAL, until)?;
    }
}

/// For how long a holder has held the lock, by the clock of this host.
fn held(candidate: &Candidate) -> Option<Duration> {
    let ms = clock::unix_ms().saturating_sub(candidate.holder.since?);
    Some(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}

/// Sleeps for an interval, but not beyond `until`.
fn pause(interval: Duration, until: Moment) -> Result<(), Failure> {
    let limit = interval.min(until.since(now()));
    poll::wait(&mut [], Some(limit))
        .map_err(|error| Failure::System(format!("cannot wait: {}", reason(&error))))
}

fn refuse(plan: &Eviction, refusal: &Refusal) -> ExitReason {
    log::print(plan.program, &eviction::refusal_line(&plan.name, refusal));
    match refusal {
        Refusal::Free => ExitReason::Free,
        Refusal::Unknown => ExitReason::SystemError,
        Refusal::Several(_) | Refusal::OtherHolder { .. } => ExitReason::StillHeld,
    }
}

fn tell(plan: &Eviction, candidate: &Candidate, outcome: Outcome) -> ExitReason {
    match eviction::outcome_line(candidate, outcome, plan.wait, plan.force) {
        Ok(line) => {
            let _ = writeln!(io::stdout(), "{line}");
            ExitReason::Command(Status::Exited(0))
        }
        Err(line) => {
            log::print(plan.program, &line);
            ExitReason::StillHeld
        }
    }
}

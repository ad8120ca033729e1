//! `--break`: finds the holder of a lock, asks it to release the lock, and prints what became of it.

use super::{inspect, local_survey, oneshot};
use crate::eviction::http::{Revocation, Revoked};
use crate::eviction::zookeeper::{Eviction as Asker, Target};
use crate::eviction::{self, Candidate, Outcome, Refusal};
use crate::lock::Failure;
use crate::lock::zookeeper::{acl, layout};
use crate::log;
use crate::moment::Moment;
use crate::oneshot::http;
use crate::oneshot::zookeeper::Client;
use crate::plan::inspection::Locks;
use crate::plan::{Cluster, Eviction, Exit, ExitReason, LockServer};
use crate::printable::printable;
use crate::reason::reason;
use crate::signal::{Signal, Status};
use crate::status::{Holder, Kind, Lock};
use crate::sys::clock::{self, now};
use crate::sys::process;
use crate::sys::tree::{self, Process};
use crate::sys::{file, host, poll};
use std::path::Path;
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
    inspect::print_token_warning(plan.program, &plan.locks);
    let end = find_and_ask(plan, started + plan.wait);
    plan.exit_codes.exit(end.unwrap_or_else(|failure| {
        log::print(plan.program, &failure);
        failure.exit_reason()
    }))
}

fn find_and_ask(plan: &Eviction, until: Moment) -> Result<ExitReason, Failure> {
    let locks = locks(plan, until)?;
    let candidate = match eviction::choose(&locks, plan.token) {
        Ok(candidate) => candidate,
        Err(Refusal::Unknown) => return refuse_unknown(plan),
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
    match outcome {
        Some(outcome) => tell(plan, &candidate, outcome),
        None => refuse_unknown(plan),
    }
}

/// How long the servers may take to answer at most.
fn limit(until: Moment) -> Duration {
    until.since(now()).max(MIN_LIMIT)
}

/// What is known of the lock now.
fn locks(plan: &Eviction, until: Moment) -> Result<Vec<Lock>, Failure> {
    Ok(inspect::read(&plan.locks, false, limit(until))?.locks)
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

/// The user and process that ask, for the log of the holder.
fn asker(plan: &Eviction) -> String {
    let user = plan.user.clone();
    let user = user.unwrap_or_else(|| format!("uid {}", file::effective_uid()));
    let user = printable(&user); // the holder answers on a line of its own
    format!("{user}@{} (pid {})", host::name(), process::own_pid())
}

/// Sends TERM to the holder of a file of this host, and again to end the minimum hold, once its
/// command is gone. `None`: no process can be seen to be the holder, and so none gets a signal.
fn stop_process(
    plan: &Eviction,
    candidate: &Candidate,
    until: Moment,
) -> Result<Option<Outcome>, Failure> {
    let path = Path::new(&candidate.path);
    let seen = local_survey::seen_holding(path)?.processes;
    let is_holder = |process: &&Process| candidate.holder.pid == Some(process.pid.0.unsigned_abs());
    let Some(process) = seen.iter().find(is_holder) else {
        let is_released = holds_on(plan, candidate, until)? == Hold::Released;
        return Ok(is_released.then_some(Outcome::Left));
    };
    let signal = || match tree::signal(process, Signal::TERM) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(Failure::Refused {
            what: format!("send TERM to process {}", process.pid),
            why: reason(&error),
        }),
        _ => Ok(()),
    };
    // Another program may take a second TERM for more than the first.
    let repeats = local_survey::is_zk_flock(process.pid);
    match holds_on(plan, candidate, until)? {
        Hold::Released => return Ok(Some(Outcome::Left)),
        Hold::Unknown => return Ok(None),
        Hold::By(pid) if pid == candidate.holder.pid => signal()?,
        Hold::By(pid) => return Ok(Some(Outcome::HeldByAnother { pid })),
    }
    let mut repeat = Moment::default();
    loop {
        let pid = match holds_on(plan, candidate, until)? {
            Hold::By(pid) => pid,
            Hold::Unknown => return Ok(None),
            Hold::Released => {
                let held = held(candidate);
                return Ok(Some(Outcome::Evicted { held }));
            }
        };
        if now() >= until {
            return Ok(Some(if pid == candidate.holder.pid {
                Outcome::StillHeld { kill_after: None }
            } else {
                Outcome::HeldByAnother { pid }
            }));
        }
        let due = repeats && pid == candidate.holder.pid && now() >= repeat;
        if due && tree::descendants(process.pid).is_empty() {
            repeat = now() + TERM_INTERVAL;
            signal()?;
        }
        pause(FILE_INTERVAL, until)?;
    }
}

/// Whether a file is still locked by the holder that was asked to release it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hold {
    /// It is free, or another holder has acquired it.
    Released,
    /// By this process: the holder, or one that may have its descriptor.
    By(Option<u32>),
    /// That cannot be read.
    Unknown,
}

fn holds_on(plan: &Eviction, candidate: &Candidate, until: Moment) -> Result<Hold, Failure> {
    let locks = locks(plan, until)?;
    let is_file = |lock: &&Lock| lock.path == candidate.path;
    let lock = locks
        .iter()
        .find(is_file)
        .ok_or_else(|| Failure::System(format!("cannot find {} any more", candidate.path)))?;
    if let Some(holders) = &lock.holders {
        let reads = lock.kind == Some(Kind::SharedFile);
        return Ok(hold(holders, &candidate.holder, reads));
    }
    // In a container it is never known that no process outside it holds the file. The holder and
    // its children are inside.
    let seen = local_survey::seen_holding(Path::new(&candidate.path))?;
    Ok(if seen.is_complete && seen.processes.is_empty() {
        Hold::Released
    } else {
        Hold::Unknown
    })
}

/// A process acquires the lock once. Its children may inherit it, and only another known token
/// proves that another process has acquired the lock. `reads`: readers hold it, each for itself.
fn hold(holders: &[Holder], asked: &Holder, reads: bool) -> Hold {
    let may_be_asked = |it: &Holder| it.token.is_none() || it.token == asked.token;
    let holds_on = |holder: &&Holder| holder.pid == asked.pid || !reads && may_be_asked(holder);
    holders
        .iter()
        .find(holds_on)
        .map_or(Hold::Released, |holder| Hold::By(holder.pid))
}

/// Revokes the lock of a host at a lock server. `None`: the host is not known.
fn revoke(
    plan: &Eviction,
    server: &LockServer,
    pool: &str,
    candidate: &Candidate,
    until: Moment,
) -> Result<Option<Outcome>, Failure> {
    let Some(host) = &candidate.holder.host else {
        return Ok(None);
    };
    let servers = inspect::servers(server, limit(until))?;
    let revocation = Revocation {
        server: server.clone(),
        pool: pool.to_owned(),
        host: host.clone(),
        token: candidate.holder.token,
    };
    let mut client = http::Client::new(revocation, servers, limit(until), now());
    if oneshot::drive(&mut client)? == Revoked::NotHeld {
        return Ok(Some(Outcome::Left));
    }
    loop {
        let locks = locks(plan, until)?;
        let mut holders = locks.iter().flat_map(|lock| lock.holders.iter().flatten());
        let Some(holder) = holders.find(|holder| {
            holder.host.as_ref() == Some(host) && holder.token == candidate.holder.token
        }) else {
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

/// It is not known whether a lock is held, or by which process.
fn refuse_unknown(plan: &Eviction) -> Result<ExitReason, Failure> {
    if let Locks::Files { .. } = plan.locks {
        for warning in inspect::read(&plan.locks, false, MIN_LIMIT)?.warnings {
            log::print(plan.program, &format_args!("WARNING: {warning}"));
        }
    }
    Ok(refuse(plan, &Refusal::Unknown))
}

fn refuse(plan: &Eviction, refusal: &Refusal) -> ExitReason {
    log::print(plan.program, &eviction::refusal_line(&plan.name, refusal));
    match refusal {
        Refusal::Free => ExitReason::Free,
        Refusal::Unknown => ExitReason::SystemError,
        Refusal::Several(_) | Refusal::OtherHolder { .. } => ExitReason::StillHeld,
    }
}

fn tell(plan: &Eviction, candidate: &Candidate, outcome: Outcome) -> Result<ExitReason, Failure> {
    match eviction::outcome_line(candidate, outcome, plan.wait, plan.force) {
        Ok(line) => {
            inspect::print(&format!("{line}\n"))?;
            Ok(ExitReason::Command(Status::Exited(0)))
        }
        Err(line) => {
            log::print(plan.program, &line);
            Ok(ExitReason::StillHeld)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_released_only_if_free_or_held_with_another_known_token() {
        let holder = |pid, token| Holder {
            pid: Some(pid),
            token,
            ..Holder::default()
        };
        let asked = holder(7, Some(5));
        for (holders, expected) in [
            (vec![], Hold::Released),
            (vec![holder(8, Some(6))], Hold::Released),
            (vec![holder(7, Some(5))], Hold::By(Some(7))),
            (vec![holder(7, None)], Hold::By(Some(7))),
            (vec![holder(8, None)], Hold::By(Some(8))),
            (vec![holder(8, Some(5))], Hold::By(Some(8))),
        ] {
            assert_eq!(hold(&holders, &asked, false), expected, "{holders:?}");
        }
        let of_flock = holder(7, None);
        assert_eq!(
            hold(&[holder(8, None)], &of_flock, false),
            Hold::By(Some(8))
        );
        assert_eq!(hold(&[holder(8, None)], &of_flock, true), Hold::Released);
        assert_eq!(
            hold(&[holder(8, Some(6))], &of_flock, false),
            Hold::Released
        );
    }
}

//! `--break`: finds the holder of a lock, asks it to release the lock, and prints what became of it.

use super::{inspect, oneshot};
use crate::eviction::zookeeper::{Eviction as Asker, Target};
use crate::eviction::{self, Candidate, Outcome, Refusal};
use crate::lock::Failure;
use crate::lock::zookeeper::{acl, layout};
use crate::log;
use crate::moment::Moment;
use crate::oneshot::zookeeper::Client;
use crate::plan::inspection::Locks;
use crate::plan::{Cluster, Eviction, Exit, ExitReason};
use crate::signal::Status;
use crate::status::zookeeper::Survey;
use crate::status::{self, Kind};
use crate::sys::clock::now;
use crate::sys::{file, host, process};
use std::io::{self, Write};

/// Takes the lock of the plan away from its holder. `started` is when the program began.
pub fn evict(plan: &Eviction, started: Moment) -> Exit {
    inspect::print_warnings(plan.program, &plan.warnings);
    let until = started + plan.wait;
    let end = match &plan.locks {
        Locks::Nodes {
            cluster,
            root,
            names,
            app,
            takes_auth,
        } => {
            let root = format!("{}{root}", cluster.chroot);
            let target = status::zookeeper::Target {
                root: root.clone(),
                names: names.clone(),
                app: *app,
            };
            from_node(plan, cluster, target, *takes_auth, until)
        }
        Locks::Files { .. } | Locks::Pools { .. } => {
            Err(Failure::System("--break is for locks in ZooKeeper".into()))
        }
    };
    plan.exit_codes.exit(end.unwrap_or_else(|failure| {
        log::print(plan.program, &failure);
        inspect::failure_reason(&failure)
    }))
}

/// A lock in ZooKeeper.
fn from_node(
    plan: &Eviction,
    cluster: &Cluster,
    target: status::zookeeper::Target,
    takes_auth: bool,
    until: Moment,
) -> Result<ExitReason, Failure> {
    let options = inspect::options(cluster, false, takes_auth)?;
    let (root, app) = (target.root.clone(), target.app);
    let mut survey = Client::new(options.clone(), Survey::new(target), now());
    let found = oneshot::drive(&mut survey)?;
    let candidate = match eviction::choose(&found.locks, plan.token) {
        Ok(candidate) => candidate,
        Err(refusal) => return Ok(refuse(plan, &refusal)),
    };
    let (Some(node), Some(token)) = (&candidate.holder.node, candidate.holder.token) else {
        return Ok(refuse(plan, &Refusal::Unknown));
    };
    let parent = if app {
        root.as_str()
    } else {
        layout::parent(&candidate.path)
    };
    let target = Target {
        node: node.clone(),
        token,
        breaks: layout::breaks_path(parent),
        asker: asker(plan),
        acl: acl::of(cluster.acl),
        is_unique: candidate.kind != Some(Kind::Node),
        force: plan.force,
        until,
    };
    let outcome = oneshot::drive(&mut Client::new(options, Asker::new(target), now()))?;
    Ok(tell(plan, &candidate, outcome))
}

/// Who asks, for the log of the holder.
fn asker(plan: &Eviction) -> String {
    let user = plan.user.clone();
    let user = user.unwrap_or_else(|| format!("uid {}", file::effective_uid()));
    format!("{user}@{} (pid {})", host::name(), process::own_pid())
}

fn refuse(plan: &Eviction, refusal: &Refusal) -> ExitReason {
    log::print(plan.program, &eviction::refusal_line(&plan.name, refusal));
    match refusal {
        Refusal::Free => ExitReason::Free,
        Refusal::Unknown => ExitReason::Refused,
        Refusal::Several(_) | Refusal::OtherHolder { .. } => ExitReason::StillHeld,
    }
}

fn tell(plan: &Eviction, candidate: &Candidate, outcome: Outcome) -> ExitReason {
    match eviction::outcome_line(candidate, outcome, plan.wait) {
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

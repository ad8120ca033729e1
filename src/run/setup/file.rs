//! Builds the locks of one host.

use super::{Parts, Stop};
use crate::lock::file::host_only::HostOnlyLock;
use crate::lock::file::local::{LocalLock, Options};
use crate::lock::file::record::Recorder;
use crate::log::Log;
use crate::moment::Moment;
use crate::plan::{Every, Plan, Sharing};
use crate::run::files::Files;
use crate::run::host_lock::HostLock;
use crate::run::lock_folder::LockFolder;
use crate::sys::process::{self, Pid};
use crate::sys::{clock, host};
use std::path::Path;

/// `--local`: flock(2) on the first free of these files.
pub(super) fn local(
    plan: &Plan,
    folder: Option<&Path>,
    app_id: &str,
    names: &[String],
    sharing: Sharing,
    wait_until: Option<Moment>,
) -> Parts {
    let folder = LockFolder::new(folder, app_id);
    let path = |name: &String| (name.clone(), folder.path(name).display().to_string());
    let outer = plan.outer_locks.iter();
    let options = Options {
        files: names.iter().map(path).collect(),
        wait_until,
        outer: outer
            .filter_map(|outer| Some((outer.lock.clone(), outer.token?)))
            .collect(),
        recorder: plan.every.map(recorder),
    };
    let files = Some(Files::new(folder, names, sharing));
    Parts {
        files,
        ..Parts::local(LocalLock::new(options))
    }
}

/// What a run with `--every` needs. It asks for the lock now.
fn recorder(every: Every) -> Recorder {
    Recorder {
        every,
        host: host::name(),
        pid: process::own_pid().0.unsigned_abs(),
        boot: clock::boot_id(),
        asked: clock::now(),
        asked_at: clock::unix_ms(),
    }
}

/// The lock of this host alone, which is acquired before the loop begins.
pub(super) fn host_only(path: &Path, log: &mut Log) -> Result<Parts, Stop> {
    let (lock, _) = lock_host(path, log)?;
    let host_lock = Some(lock);
    Ok(Parts {
        host_lock,
        ..Parts::local(HostOnlyLock::new(path.display().to_string()))
    })
}

/// Acquires the lock of this host without waiting. Also returns the dead process that left the file
/// behind, if one did.
pub(super) fn lock_host(file: &Path, log: &mut Log) -> Result<(HostLock, Option<Pid>), Stop> {
    let (lock, stale) = HostLock::take(file).map_err(|refusal| {
        log.error(&refusal);
        Stop::Logged(refusal.end())
    })?;
    if let Some(pid) = stale {
        log.error(&format_args!(
            "Cleaning stale lockfile {} of process {pid}",
            file.display()
        ));
    }
    Ok((lock, stale))
}

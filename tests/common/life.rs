//! A job that shows that it lives: it writes its fencing token, then the time, every 10 ms, and so does a child of it in a group of its own.
//! It ignores TERM. It is the test executable itself, told by its environment; nothing else starts fast enough and is always there.

#![allow(unsafe_code, reason = "signal(2)")]

use super::run::Job;
use super::sandbox::Sandbox;
use super::wait_until;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use zk_flock::sys::clock;

/// Time between two signs of life.
pub const PULSE: Duration = Duration::from_millis(10);

/// What tells the executable to be a job: the folder to write into.
const FOLDER: &str = "LIFE_FOLDER";

/// How many signs the job gives before it ends.
const SIGNS: &str = "LIFE_SIGNS";

/// Set for the child.
const CHILD: &str = "LIFE_CHILD";

/// The test that is the job. Every file that uses this module has it.
const ENTRY: &str = "a_job_shows_that_it_lives";

/// One holding of a lock, as its job and its job's child have written it. Times are since boot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Life {
    /// The lock's path.
    pub lock: String,
    /// The fencing token.
    pub token: i64,
    /// The first sign of either.
    pub first: Duration,
    /// When both are known to be dead, as far as their signs tell: a pulse after the last, unless it was said to be the last.
    pub dead: Duration,
}

/// A run of zk-flock whose words end with the lock's name: the job gives so many signs into `folder`, and ends.
pub fn job<'a>(zk_flock: Job<'a>, folder: &Path, signs: u32) -> Job<'a> {
    let executable = std::env::current_exe().expect("/proc is mounted");
    let executable = executable.to_str().expect("paths of tests are text");
    let folder = folder.to_str().expect("paths of tests are text");
    zk_flock.words(&["--", executable, "--exact", ENTRY, "--nocapture"]).env(FOLDER, folder).env(SIGNS, &signs.to_string())
}

/// The body of [`ENTRY`]: the job, if this process was told to be one; else a proof that a job does what this file says.
pub fn entry() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        be_job(Path::new(&folder));
    }
    let sandbox = Sandbox::new();
    let folder = sandbox.path("lives");
    fs::create_dir(&folder).expect("the sandbox takes folders");
    let run = job(sandbox.local(&["-l", "0", "lock"]), &folder, 50).start();
    wait_until("signs of job and child", || files(&folder).len() == 2);
    let began = clock::since_boot();
    assert_eq!(run.wait().end, Ok(0));
    let [life] = &lives(&folder)[..] else { panic!("not one life: {:?}", lives(&folder)) };
    let last = began + PULSE * 49;
    assert!(life.first <= began && life.dead < last + PULSE * 20 && life.dead > life.first + PULSE * 45, "{life:?} {began:?}");
}

/// Lives as long as it is told to.
fn be_job(folder: &Path) -> ! {
    // SAFETY: signal(2) takes two integers; to ignore a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("no {name}"));
    let path = folder.join(format!("{}-{}", std::process::id(), clock::since_boot().as_nanos()));
    let mut file = File::create(path).expect("the folder takes files");
    writeln!(file, "{} {}", variable("ZK_FLOCK_LOCK"), variable("ZK_FLOCK_TOKEN")).expect("the disk is not full");
    let child = std::env::var_os(CHILD).is_none().then(|| {
        let own = std::env::current_exe().expect("/proc is mounted");
        Command::new(own).args(std::env::args_os().skip(1)).env(CHILD, "1").process_group(0).spawn().expect("it can be started")
    });
    let (began, signs) = (Instant::now(), variable(SIGNS).parse::<u32>().expect("signs are a number"));
    for sign in 1..=signs {
        writeln!(file, "{}", clock::since_boot().as_nanos()).expect("the disk is not full");
        std::thread::sleep((PULSE * sign).saturating_sub(began.elapsed()));
    }
    child.map(|mut child| child.wait());
    writeln!(file, "{} end", clock::since_boot().as_nanos()).expect("the disk is not full");
    std::process::exit(0)
}

/// All lives in a folder, by their beginning.
pub fn lives(folder: &Path) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    for life in files(folder).iter().filter_map(|file| read(file)) {
        match lives.iter_mut().find(|known| (&known.lock, known.token) == (&life.lock, life.token)) {
            Some(known) => {
                known.first = known.first.min(life.first);
                known.dead = known.dead.max(life.dead);
            }
            None => lives.push(life),
        }
    }
    lives.sort_unstable_by_key(|life| life.first);
    lives
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    entries.map(|entry| entry.expect("it can be read").path()).collect()
}

/// What one process has written. `None` before its first sign. A line that was cut short by its death does not count.
fn read(file: &Path) -> Option<Life> {
    let text = fs::read_to_string(file).expect("signs are text");
    let (whole, _) = text.rsplit_once('\n')?;
    let (head, signs) = whole.split_once('\n')?;
    let (lock, token) = head.split_once(' ')?;
    let time = |line: &str| Duration::from_nanos(line.split(' ').next().and_then(|time| time.parse().ok()).expect("a sign is a time"));
    let last = signs.lines().last()?;
    let dead = time(last) + if last.ends_with("end") { Duration::ZERO } else { PULSE };
    Some(Life { lock: lock.to_owned(), token: token.parse().expect("a token is a number"), first: time(signs.lines().next()?), dead })
}

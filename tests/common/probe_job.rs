//! A command that records when it runs: it and a child in its own process group write the fencing
//! token, then the time every 10 ms. Both ignore TERM. The command is the test executable itself,
//! told by environment variables: nothing else starts as fast and is always installed.

#![allow(unsafe_code, reason = "signal(2)")]

use super::run::Job;
use super::sandbox::Sandbox;
use super::{report, wait_for, wait_until};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use zk_flock::internals::sys::clock;

/// Time between two timestamps.
pub const PULSE: Duration = Duration::from_millis(10);

/// Timestamps of a command that does not end by itself.
pub const FOREVER: u32 = 1_000_000;

/// Timestamps of a command that runs for half a second.
pub const SHORT: u32 = 50;

/// Tells the executable to be the command: the folder to write into.
const FOLDER: &str = "PROBE_FOLDER";

/// How many timestamps the command writes before it exits.
const TIMESTAMPS: &str = "PROBE_TIMESTAMPS";

/// Set for the child of the command.
const CHILD: &str = "PROBE_CHILD";

/// The test that is the command. Each crate that uses this module has it in its main.rs.
const ENTRY: &str = "probe_job_writes_its_token_and_timestamps";

/// One holding of a lock, as the command and its child recorded it. Times are since boot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holding {
    /// The lock's path.
    pub lock: String,
    /// The fencing token.
    pub token: i64,
    /// The first timestamp of either process.
    pub first: Duration,
    /// The last timestamp of either process.
    pub last: Duration,
    /// When both are known to be dead, as far as their timestamps tell: a pulse after the last,
    /// unless it was said to be the last.
    pub dead: Duration,
    /// Whether nothing of any other holding of this lock was there when this one began. The kernel
    /// says so, to the microsecond: job and child share a flock(2), which goes with the last
    /// of them.
    pub alone: bool,
}

/// Starts probe jobs in a sandbox, and reads what they recorded.
pub struct Probe {
    folder: PathBuf,
}

impl Probe {
    /// Records into a folder of this sandbox.
    pub fn of(sandbox: &Sandbox) -> Probe {
        let folder = sandbox.path("holdings");
        fs::create_dir_all(&folder).expect("the sandbox takes folders");
        Probe { folder }
    }

    /// A run of zk-flock whose words end with the lock's name: its command writes so many
    /// timestamps and exits.
    pub fn job<'a>(&self, zk_flock: Job<'a>, timestamps: u32) -> Job<'a> {
        self.configure(
            zk_flock.words(&["--", &executable(), "--exact", ENTRY, "--nocapture"]),
            timestamps,
        )
    }

    /// The same of a program that takes its command as a line for the shell.
    pub fn line<'a>(&self, program: Job<'a>, timestamps: u32) -> Job<'a> {
        self.configure(
            program.words(&[&format!(
                "exec '{}' --exact {ENTRY} --nocapture",
                executable()
            )]),
            timestamps,
        )
    }

    fn configure<'a>(&self, job: Job<'a>, timestamps: u32) -> Job<'a> {
        job.env(
            FOLDER,
            self.folder.to_str().expect("paths of tests are text"),
        )
        .env(TIMESTAMPS, &timestamps.to_string())
    }

    /// All holdings so far, in order of their first timestamp.
    pub fn all(&self) -> Vec<Holding> {
        let mut holdings: Vec<Holding> = Vec::new();
        for holding in self.files().iter().filter_map(|file| read(file)) {
            match holdings
                .iter_mut()
                .find(|known| (&known.lock, known.token) == (&holding.lock, holding.token))
            {
                Some(known) => {
                    known.first = known.first.min(holding.first);
                    known.last = known.last.max(holding.last);
                    known.dead = known.dead.max(holding.dead);
                    known.alone &= holding.alone;
                }
                None => holdings.push(holding),
            }
        }
        holdings.sort_unstable_by_key(|holding| holding.first);
        holdings
    }

    /// All holdings, as soon as there are `count`.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Holding> {
        wait_for(&format!("{count} holdings"), || {
            Some(self.all()).filter(|holdings| holdings.len() >= count)
        })
    }

    /// Which locks were taken since: their paths, with `-` for `/`.
    pub fn taken_since(&self, moment: Duration) -> Vec<String> {
        let taken = self.files().into_iter().filter_map(|file| {
            let name = file.file_name()?.to_str()?;
            let [lock, began, _] = name.split('.').collect::<Vec<_>>()[..] else {
                return None;
            };
            (began.parse::<u128>().ok()? > moment.as_nanos()).then(|| lock.to_owned())
        });
        taken.collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).expect("the folder is there");
        entries
            .map(|entry| entry.expect("it can be read").path())
            .collect()
    }
}

/// This executable.
fn executable() -> String {
    std::env::current_exe()
        .expect("/proc is mounted")
        .into_os_string()
        .into_string()
        .expect("paths of tests are text")
}

/// By how many seconds the first of two was dead before the second began; negative if both ran.
/// Zero if that was within a pulse of the last timestamp, and the kernel says that it was dead.
pub fn lead(holdings: &[Holding]) -> f64 {
    let lead = holdings[1].first.as_secs_f64() - holdings[0].dead.as_secs_f64();
    if holdings[1].alone {
        lead.max(0.0)
    } else {
        lead.min(holdings[1].first.as_secs_f64() - holdings[0].last.as_secs_f64())
    }
}

/// Reports by how many seconds holders were dead before the lock was somebody else's. Asserts that
/// all were.
#[track_caller]
pub fn assert_no_overlap(fault: &str, mut leads: Vec<f64>) {
    leads.sort_unstable_by(f64::total_cmp);
    let (least, median) = (leads[0], leads[leads.len() / 2]);
    report(
        &format!("{fault}: tree dead before the next grant by"),
        format!(
            "{least:.2} s at least, median {median:.2} s of {}",
            leads.len()
        ),
    );
    assert!(least >= 0.0, "both jobs ran: {leads:?}");
}

/// The body of [`ENTRY`]: the job, if this process was told to be one; else a proof that a job does
/// what this file says.
pub fn entry() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        be_job(Path::new(&folder));
    }
    let sandbox = Sandbox::new();
    let probe = Probe::of(&sandbox);
    let run = probe
        .job(sandbox.local(&["-l", "0", "lock"]), SHORT)
        .start();
    let lines = |file: &PathBuf| {
        fs::read_to_string(file)
            .expect("timestamps are text")
            .lines()
            .count()
    };
    wait_until("timestamps of command and child", || {
        let files = probe.files();
        files.len() == 2 && files.iter().all(|file| lines(file) > 1) // the first is the token
    });
    let began = clock::since_boot();
    assert_eq!(run.wait().end, Ok(0));
    let [holding] = &probe.all()[..] else {
        panic!("not one holding: {:?}", probe.all())
    };
    let length = holding.dead.saturating_sub(holding.first);
    assert!(
        holding.first <= began && holding.dead <= clock::since_boot(),
        "{holding:?}, seen at {began:?}"
    );
    assert!(length >= PULSE * (SHORT - 1), "{length:?}");
    assert!(
        probe
            .files()
            .iter()
            .all(|file| lines(file) > SHORT as usize),
        "too few timestamps"
    );
}

/// Runs until it has written its timestamps.
fn be_job(folder: &Path) -> ! {
    // SAFETY: signal(2) takes two integers; to ignore a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("no {name}"));
    let is_child = std::env::var_os(CHILD).is_some();
    let lock = variable("ZK_FLOCK_LOCK");
    let witness = (!is_child).then(|| {
        File::create(folder.with_extension(lock.replace('/', "-"))).expect("the folder takes files")
    });
    let alone = witness
        .as_ref()
        .is_none_or(|witness| witness.try_lock().is_ok());
    let path = folder.join(format!(
        "{}.{}.{}",
        lock.replace('/', "-"),
        clock::since_boot().as_nanos(),
        std::process::id()
    ));
    let mut file = File::create(path).expect("the folder takes files");
    writeln!(file, "{lock} {} {alone}", variable("ZK_FLOCK_TOKEN")).expect("the disk is not full");
    let child = witness.map(|witness| {
        let own = std::env::current_exe().expect("/proc is mounted");
        let mut command = Command::new(own);
        command
            .args(std::env::args_os().skip(1))
            .env(CHILD, "1")
            .process_group(0)
            .stdin(witness); // shares what is locked
        command.spawn().expect("it can be started")
    });
    let (began, timestamps) = (
        Instant::now(),
        variable(TIMESTAMPS)
            .parse::<u32>()
            .expect("timestamps are a number"),
    );
    for timestamp in 1..=timestamps {
        writeln!(file, "{}", clock::since_boot().as_nanos()).expect("the disk is not full");
        std::thread::sleep((PULSE * timestamp).saturating_sub(began.elapsed()));
    }
    child.map(|mut child| child.wait());
    writeln!(file, "{} end", clock::since_boot().as_nanos()).expect("the disk is not full");
    std::process::exit(0)
}

/// What one process has written. `None` before its first timestamp. A line that was cut short by
/// its death does not count.
fn read(file: &Path) -> Option<Holding> {
    let text = fs::read_to_string(file).expect("timestamps are text");
    let (whole, _) = text.rsplit_once('\n')?;
    let (head, timestamps) = whole.split_once('\n')?;
    let [lock, token, alone] = head.split(' ').collect::<Vec<_>>()[..] else {
        panic!("not a head: {head:?}")
    };
    let time = |line: &str| {
        Duration::from_nanos(
            line.split(' ')
                .next()
                .and_then(|time| time.parse().ok())
                .expect("a timestamp is a time"),
        )
    };
    let end = timestamps.lines().last()?;
    let last = time(end);
    Some(Holding {
        lock: lock.to_owned(),
        token: token.parse().expect("a token is a number"),
        first: time(timestamps.lines().next()?),
        last,
        dead: last
            + if end.ends_with("end") {
                Duration::ZERO
            } else {
                PULSE
            },
        alone: alone == "true",
    })
}

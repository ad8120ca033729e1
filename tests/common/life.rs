//! A job that shows that it lives: it writes its fencing token, then the time, every 10 ms, and so
//! does a child of it in a group of its own. It ignores TERM. It is the test executable itself,
//! told by its environment; nothing else starts fast enough and is always there.

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
use zk_flock::sys::clock;

/// Time between two signs of life.
pub const PULSE: Duration = Duration::from_millis(10);

/// Signs of a job that does not end by itself.
pub const FOREVER: u32 = 1_000_000;

/// Signs of a job of half a second.
pub const SHORT: u32 = 50;

/// What tells the executable to be a job: the folder to write into.
const FOLDER: &str = "LIFE_FOLDER";

/// How many signs the job gives before it ends.
const SIGNS: &str = "LIFE_SIGNS";

/// Set for the child.
const CHILD: &str = "LIFE_CHILD";

/// The test that is the job. Each crate that uses this module has it in its main.rs.
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
    /// The last sign of either.
    pub last: Duration,
    /// When both are known to be dead, as far as their signs tell: a pulse after the last, unless
    /// it was said to be the last.
    pub dead: Duration,
    /// Whether nothing of any other life of this lock was there when this one began. The kernel
    /// says so, to the microsecond: job and child share a flock(2), which goes with the last
    /// of them.
    pub alone: bool,
}

/// The lives of a sandbox's jobs.
pub struct Lives {
    folder: PathBuf,
}

impl Lives {
    /// Those of this sandbox.
    pub fn of(sandbox: &Sandbox) -> Lives {
        let folder = sandbox.path("lives");
        fs::create_dir_all(&folder).expect("the sandbox takes folders");
        Lives { folder }
    }

    /// A run of zk-flock whose words end with the lock's name: its job gives so many signs, and
    /// ends.
    pub fn job<'a>(&self, zk_flock: Job<'a>, signs: u32) -> Job<'a> {
        self.live(
            zk_flock.words(&["--", &executable(), "--exact", ENTRY, "--nocapture"]),
            signs,
        )
    }

    /// The same of a program that takes its command as a line for the shell.
    pub fn line<'a>(&self, program: Job<'a>, signs: u32) -> Job<'a> {
        self.live(
            program.words(&[&format!(
                "exec '{}' --exact {ENTRY} --nocapture",
                executable()
            )]),
            signs,
        )
    }

    fn live<'a>(&self, job: Job<'a>, signs: u32) -> Job<'a> {
        job.env(
            FOLDER,
            self.folder.to_str().expect("paths of tests are text"),
        )
        .env(SIGNS, &signs.to_string())
    }

    /// All so far, by their beginning.
    pub fn all(&self) -> Vec<Life> {
        let mut lives: Vec<Life> = Vec::new();
        for life in self.files().iter().filter_map(|file| read(file)) {
            match lives
                .iter_mut()
                .find(|known| (&known.lock, known.token) == (&life.lock, life.token))
            {
                Some(known) => {
                    known.first = known.first.min(life.first);
                    known.last = known.last.max(life.last);
                    known.dead = known.dead.max(life.dead);
                    known.alone &= life.alone;
                }
                None => lives.push(life),
            }
        }
        lives.sort_unstable_by_key(|life| life.first);
        lives
    }

    /// All, as soon as they are so many.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Life> {
        wait_for(&format!("{count} lives"), || {
            Some(self.all()).filter(|lives| lives.len() >= count)
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
/// Zero if that was within a pulse of the last sign, and the kernel says that it was dead.
pub fn lead(lives: &[Life]) -> f64 {
    let lead = lives[1].first.as_secs_f64() - lives[0].dead.as_secs_f64();
    if lives[1].alone {
        lead.max(0.0)
    } else {
        lead.min(lives[1].first.as_secs_f64() - lives[0].last.as_secs_f64())
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
    let lives = Lives::of(&sandbox);
    let run = lives
        .job(sandbox.local(&["-l", "0", "lock"]), SHORT)
        .start();
    wait_until("signs of job and child", || lives.files().len() == 2);
    let began = clock::since_boot();
    assert_eq!(run.wait().end, Ok(0));
    let [life] = &lives.all()[..] else {
        panic!("not one life: {:?}", lives.all())
    };
    let length = life.dead.saturating_sub(life.first);
    assert!(
        life.first <= began && life.dead <= clock::since_boot(),
        "{life:?}, seen at {began:?}"
    );
    assert!(length >= PULSE * (SHORT - 1), "{length:?}");
    let signs = |file: &PathBuf| {
        fs::read_to_string(file)
            .expect("signs are text")
            .lines()
            .count()
    };
    assert!(
        lives
            .files()
            .iter()
            .all(|file| signs(file) > SHORT as usize),
        "too few signs"
    );
}

/// Lives as long as it is told to.
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
    let (began, signs) = (
        Instant::now(),
        variable(SIGNS).parse::<u32>().expect("signs are a number"),
    );
    for sign in 1..=signs {
        writeln!(file, "{}", clock::since_boot().as_nanos()).expect("the disk is not full");
        std::thread::sleep((PULSE * sign).saturating_sub(began.elapsed()));
    }
    child.map(|mut child| child.wait());
    writeln!(file, "{} end", clock::since_boot().as_nanos()).expect("the disk is not full");
    std::process::exit(0)
}

/// What one process has written. `None` before its first sign. A line that was cut short by its
/// death does not count.
fn read(file: &Path) -> Option<Life> {
    let text = fs::read_to_string(file).expect("signs are text");
    let (whole, _) = text.rsplit_once('\n')?;
    let (head, signs) = whole.split_once('\n')?;
    let [lock, token, alone] = head.split(' ').collect::<Vec<_>>()[..] else {
        panic!("not a head: {head:?}")
    };
    let time = |line: &str| {
        Duration::from_nanos(
            line.split(' ')
                .next()
                .and_then(|time| time.parse().ok())
                .expect("a sign is a time"),
        )
    };
    let end = signs.lines().last()?;
    let last = time(end);
    Some(Life {
        lock: lock.to_owned(),
        token: token.parse().expect("a token is a number"),
        first: time(signs.lines().next()?),
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

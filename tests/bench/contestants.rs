//! Who is measured, each with the server that it needs: they run the same command under a lock of
//! the same name.

use crate::distributexd::Distributexd;
use crate::etcd::Etcd;
use crate::service::installed;
use crate::{contention, hand_over, idle_cost, one_run};
use common::kazoo::Kazoo;
use common::sandbox::{Sandbox, executable};
use common::zookeeper::ZooKeeper;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Session timeout in seconds.
const TIMEOUT: u32 = 15;

/// This project's programs as they ship: static, from one build.
pub struct Programs {
    /// All our names.
    pub zk_flock: PathBuf,
    /// See `programs/`.
    pub floor: PathBuf,
    /// See `programs/`.
    pub stopwatch: PathBuf,
}

impl Programs {
    /// Builds them. With `UNDER_TEST` set, that is zk-flock.
    pub fn build() -> Programs {
        let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
        let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = temporary
            .parent()
            .expect("cargo's folder for temporary files is in its target folder");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build
            .args([
                "build",
                "--quiet",
                "--locked",
                "--release",
                "--target",
                &target,
                "--target-dir",
            ])
            .arg(folder);
        build.args([
            "--bin",
            "zk-flock",
            "--example",
            "floor",
            "--example",
            "stopwatch",
        ]);
        assert!(
            build.status().expect("cargo can be started").success(),
            "the programs do not build"
        );
        let release = folder.join(target).join("release");
        let [floor, stopwatch] =
            ["floor", "stopwatch"].map(|name| release.join("examples").join(name));
        let zk_flock = if std::env::var_os("UNDER_TEST").is_some() {
            executable()
        } else {
            release.join("zk-flock")
        };
        Programs {
            zk_flock,
            floor,
            stopwatch,
        }
    }
}

/// Words of a run: of whom, at the server of this address, for the lock of this name, to run this
/// command.
type Words<'a> = Box<dyn Fn(&str, &str, &[&str]) -> Vec<String> + 'a>;

/// A program that runs a command under a lock.
pub struct Contender<'a> {
    /// As the table shows it.
    pub name: &'static str,
    /// What it talks to.
    pub server: Server<'a>,
    /// How many of it this machine is asked to bear at once.
    pub most: usize,
    words: Words<'a>,
}

/// What is locked, as pools of our lock server.
const POOLS: [&str; 4] = [
    one_run::LOCK,
    hand_over::LOCK,
    contention::LOCK,
    idle_cost::LOCK,
];

/// For a program that uses little memory.
const MANY: usize = 1000;

/// For a program that uses tens of megabytes.
const FEW: usize = 100;

/// What a contender talks to.
pub enum Server<'a> {
    /// A ZooKeeper.
    ZooKeeper(&'a ZooKeeper),
    /// An etcd.
    Etcd(&'a Etcd),
    /// Our lock server.
    Distributexd(&'a Distributexd),
    /// The kernel: each lock is a file in this folder.
    Kernel(PathBuf),
}

impl Contender<'_> {
    /// Words of a run.
    pub fn words(&self, lock: &str, command: &[&str]) -> Vec<String> {
        (self.words)(&self.server.address().unwrap_or_default(), lock, command)
    }

    /// The same through whatever is at `address`.
    pub fn words_at(&self, address: &str, lock: &str, command: &[&str]) -> Vec<String> {
        (self.words)(address, lock, command)
    }
}

impl Server<'_> {
    /// Where it listens.
    pub fn address(&self) -> Option<String> {
        match self {
            Server::ZooKeeper(server) => Some(server.address()),
            Server::Etcd(server) => Some(server.address.clone()),
            Server::Distributexd(server) => Some(server.address()),
            Server::Kernel(_) => None,
        }
    }

    /// Its process.
    pub fn pid(&self) -> Option<i32> {
        match self {
            Server::ZooKeeper(server) => Some(server.pid()),
            Server::Etcd(server) => Some(server.pid()),
            Server::Distributexd(server) => Some(server.pid()),
            Server::Kernel(_) => None,
        }
    }

    /// A number that is larger by one for each who waits for this lock, in any way of waiting that
    /// is not asking again and again.
    pub fn waiting(&self, lock: &str) -> usize {
        match self {
            Server::ZooKeeper(server) => server.watches(),
            Server::Etcd(server) => server.watchers(),
            Server::Distributexd(server) => server.waiting(),
            Server::Kernel(folder) => blocked(&folder.join(lock)),
        }
    }
}

/// The number of processes that wait in flock(2) for a file: `/proc/locks` lists them below the
/// holder, with an arrow.
fn blocked(file: &Path) -> usize {
    let Ok(metadata) = fs::metadata(file) else {
        return 0;
    };
    let inode = format!(":{} ", metadata.ino());
    let locks = fs::read_to_string("/proc/locks").expect("/proc is mounted");
    locks
        .lines()
        .filter(|line| line.contains(" -> ") && line.contains(&inode))
        .count()
}

/// The servers, and what it takes to use them.
pub struct Contestants {
    /// Our own.
    pub programs: Programs,
    /// For zk-flock, lockex, kazoo and the floor.
    pub zookeeper: ZooKeeper,
    etcd: Result<Etcd, &'static str>,
    distributexd: Distributexd,
    /// Where everything happens; the last to go.
    pub sandbox: Sandbox,
}

impl Contestants {
    /// Builds what is to be built and starts the servers.
    pub fn new() -> Contestants {
        let (sandbox, programs, zookeeper) =
            (Sandbox::new(), Programs::build(), ZooKeeper::start());
        sandbox.client(&zookeeper).close();
        let etcd = Etcd::start(&sandbox);
        let distributexd = Distributexd::start(&sandbox, &programs, &POOLS, "").expect("it serves");
        Contestants {
            programs,
            zookeeper,
            etcd,
            distributexd,
            sandbox,
        }
    }

    /// All programs that run a command under a lock: this project's first.
    pub fn contenders(&self) -> Vec<Result<Contender<'_>, Missing>> {
        let ours = [
            self.zk_flock(),
            self.lockex(),
            self.distributex(),
            self.local(),
        ];
        ours.map(Ok)
            .into_iter()
            .chain([self.flock(), self.kazoo(), self.etcdctl()])
            .collect()
    }

    /// The least that it can cost.
    pub fn floor(&self) -> Contender<'_> {
        let words: Words = Box::new(|address, lock, command| {
            owned(
                &[
                    text(&self.programs.floor),
                    address,
                    &self.sandbox.node(lock),
                ],
                command,
            )
        });
        Contender {
            name: "floor",
            server: self.server(),
            most: MANY,
            words,
        }
    }

    /// zk-flock with a config, waiting as long as it takes.
    pub fn zk_flock(&self) -> Contender<'_> {
        let words: Words = Box::new(|address, lock, command| {
            let config = self.config(address);
            owned(
                &[
                    text(&self.programs.zk_flock),
                    "-c",
                    text(&config),
                    "-l",
                    "0",
                    "-w",
                    "inf",
                    lock,
                    "--",
                ],
                command,
            )
        });
        Contender {
            name: "zk-flock",
            server: self.server(),
            most: MANY,
            words,
        }
    }

    /// lockex without a shell between.
    pub fn lockex(&self) -> Contender<'_> {
        let words: Words = Box::new(|address, lock, command| {
            let program = [text(&self.programs.zk_flock), "--program=lockex"];
            owned(
                &[
                    &program[..],
                    &["-z", address, "-i", lock, "--no-shell", "--"],
                ]
                .concat(),
                command,
            )
        });
        Contender {
            name: "lockex",
            server: self.server(),
            most: MANY,
            words,
        }
    }

    /// distributex, each run as another host.
    fn distributex(&self) -> Contender<'_> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let words: Words = Box::new(|address, lock, command| {
            let (host, port) = address.split_once(':').expect("an address has a port");
            let (program, name) = (
                text(&self.programs.zk_flock),
                format!("host{}", NUMBER.fetch_add(1, Ordering::Relaxed)),
            );
            let words = [
                program,
                "--program=distributex",
                "-H",
                host,
                "-p",
                port,
                "-r",
                lock,
                "--no-local-lock",
                "--as",
                &name,
            ];
            owned(&words, &[&command.join(" ")])
        });
        Contender {
            name: "distributex",
            server: Server::Distributexd(&self.distributexd),
            most: MANY,
            words,
        }
    }

    fn local(&self) -> Contender<'_> {
        let words: Words = Box::new(|_, lock, command| {
            let folder = format!("--local={}", text(&self.sandbox.path("local")));
            owned(
                &[
                    text(&self.programs.zk_flock),
                    &folder,
                    "--app-id",
                    "bench",
                    "-l",
                    "0",
                    "-w",
                    "inf",
                    lock,
                    "--",
                ],
                command,
            )
        });
        Contender {
            name: "zk-flock --local",
            server: Server::Kernel(self.sandbox.path("local/bench")),
            most: MANY,
            words,
        }
    }

    fn flock(&self) -> Result<Contender<'_>, Missing> {
        let words: Words =
            Box::new(|_, lock, command| owned(&["flock", text(&self.sandbox.path(lock))], command));
        let flock = Contender {
            name: "flock(1)",
            server: Server::Kernel(self.sandbox.folder.clone()),
            most: MANY,
            words,
        };
        if installed("flock") {
            Ok(flock)
        } else {
            Err(Missing {
                name: flock.name,
                remedy: "apt-get install util-linux",
            })
        }
    }

    /// A script around kazoo's Lock.
    pub fn kazoo(&self) -> Result<Contender<'_>, Missing> {
        let missing = Missing {
            name: "kazoo",
            remedy: "apt-get install python3-venv; and PyPI",
        };
        let kazoo = catch_unwind(Kazoo::newest).map_err(|_| missing)?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/kazoo_lock.py");
        let words: Words = Box::new(move |address, lock, command| {
            owned(
                &[
                    text(&kazoo.python),
                    script,
                    address,
                    &format!("/kazoo/{lock}"),
                    "Lock",
                    "run",
                    &command.join(" "),
                ],
                &[],
            )
        });
        Ok(Contender {
            name: "kazoo",
            server: self.server(),
            most: FEW,
            words,
        })
    }

    fn etcdctl(&self) -> Result<Contender<'_>, Missing> {
        let etcd = self.etcd.as_ref().map_err(|remedy| Missing {
            name: "etcdctl lock",
            remedy,
        })?;
        let words: Words = Box::new(|address, lock, command| {
            owned(
                &["etcdctl", "--endpoints", address, "lock", lock, "--"],
                command,
            )
        });
        Ok(Contender {
            name: "etcdctl lock",
            server: Server::Etcd(etcd),
            most: FEW,
            words,
        })
    }

    fn server(&self) -> Server<'_> {
        Server::ZooKeeper(&self.zookeeper)
    }

    /// A config as hosts have it.
    fn config(&self, address: &str) -> PathBuf {
        let path = self
            .sandbox
            .path(&format!("{}.json", address.replace(':', "-")));
        if !path.exists() {
            let text = format!(
                r#"{{"host": ["{address}"], "timeout": {TIMEOUT}, "app_id": "{}"}}"#,
                self.sandbox.id
            );
            fs::write(&path, text).expect("the config can be written");
        }
        path
    }
}

/// A contender that is not installed.
pub struct Missing {
    /// Its name.
    pub name: &'static str,
    /// What brings it.
    pub remedy: &'static str,
}

fn owned(words: &[&str], command: &[&str]) -> Vec<String> {
    words
        .iter()
        .chain(command)
        .map(ToString::to_string)
        .collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

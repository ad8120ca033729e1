//! A folder for one test, and a mark on the processes that it starts. The folder is removed with
//! the test, and a process that the test leaves behind fails it.

use super::client::Client;
use super::run::Job;
use super::zookeeper::ZooKeeper;
use super::{SOON, process, profile, scratch};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use zk_flock::internals::sys::descriptors::close_inherited;

/// The variable that marks a process as one of a sandbox.
const MARK: &str = "SANDBOX";

/// Session timeout of the runs in a sandbox, in seconds: a stall of a busy machine loses no lock.
const TIMEOUT: u32 = 15;

/// A test's own folder, lock namespace and processes.
pub struct Sandbox {
    /// Names folder, mark and lock namespace.
    pub id: String,
    /// The folder.
    pub folder: PathBuf,
}

impl Sandbox {
    /// Makes the folder.
    pub fn new() -> Sandbox {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        static ALONE: Once = Once::new();
        // Commands of the tests list their descriptors, so whatever cargo or a CI left open must
        // not be among them.
        ALONE.call_once(close_inherited);
        let id = format!(
            "sandbox-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let folder = scratch().join(&id);
        fs::create_dir(&folder).expect("the sandbox can be made");
        Sandbox { id, folder }
    }

    /// The program with these words, and without a server.
    pub fn program<'a>(&'a self, words: &[&str]) -> Job<'a> {
        Job::new(self, &executable()).words(words)
    }

    /// zk-flock on a server, its config in the sandbox; `words` follow the option that names it.
    pub fn flock<'a>(&'a self, server: &ZooKeeper, words: &[&str]) -> Job<'a> {
        self.flock_at(&server.address(), TIMEOUT, words)
    }

    /// zk-flock on the server at `address`, with a session timeout in seconds.
    pub fn flock_at<'a>(&'a self, address: &str, timeout: u32, words: &[&str]) -> Job<'a> {
        self.program(&[
            "--confpath",
            self.config(address, timeout)
                .to_str()
                .expect("paths of tests are text"),
        ])
        .words(words)
    }

    /// lockex on a server, its locks below a node of the sandbox's; their ids are among the
    /// `words`, or made of them.
    pub fn lockex<'a>(&'a self, server: &ZooKeeper, words: &[&str]) -> Job<'a> {
        self.lockex_at(&server.address(), TIMEOUT, words)
    }

    /// lockex on the server at `address`, with a session timeout in seconds.
    pub fn lockex_at<'a>(&'a self, address: &str, timeout: u32, words: &[&str]) -> Job<'a> {
        self.program(&[
            "--program=lockex",
            "-z",
            address,
            "-p",
            &self.id,
            "-T",
            &timeout.to_string(),
        ])
        .words(words)
    }

    /// distributex on a lock server of this host, in a pool of the sandbox's.
    pub fn distributex<'a>(&'a self, port: u16, words: &[&str]) -> Job<'a> {
        self.program(&[
            "--program=distributex",
            "-H",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-r",
            &self.id,
        ])
        .words(words)
    }

    /// The lock of this host for that pool.
    pub fn host_lock(&self) -> PathBuf {
        format!("/tmp/dx-{}.lock", self.id).into()
    }

    /// The file with the id of the run that holds it.
    pub fn run_file(&self) -> PathBuf {
        self.host_lock().with_extension("run")
    }

    /// zk-flock with its locks in the sandbox, without any server.
    pub fn local<'a>(&'a self, words: &[&str]) -> Job<'a> {
        let option = format!("--local={}", self.path("locks").display());
        self.program(&[&option, "--app-id", &self.id]).words(words)
    }

    /// A config file for a server, which logs everything into [`Sandbox::log`]. `flock` gives it to
    /// the program.
    pub fn config(&self, address: &str, timeout: u32) -> PathBuf {
        let path = self.path(&format!(
            "config-{timeout}-{}.json",
            address.replace(':', "-")
        ));
        let log = self.path("log");
        let text = format!(
            r#"{{"host": ["{address}"], "timeout": {timeout}, "app_id": "{}", "logger": {{"path": "{}", "level": "DEBUG", "zklevel": "DEBUG"}}}}"#,
            self.id,
            log.display()
        );
        if !path.exists() {
            let unfinished = self.path(&format!("config-{:?}", std::thread::current().id()));
            fs::write(&unfinished, text).expect("the config can be written");
            fs::rename(unfinished, &path).expect("the config can be renamed");
        }
        path
    }

    /// Path of the lock node of `flock` with this name, or of the parent of the contenders of
    /// `lockex` with this id.
    pub fn node(&self, name: &str) -> String {
        format!("/{}/{name}", self.id)
    }

    /// A client of the server that has created the parent node of the locks, as a first run does.
    pub fn client(&self, server: &ZooKeeper) -> Client {
        let mut client = Client::connect(server, Duration::from_mins(1));
        client.create_if_missing(&format!("/{}", self.id), b"Rootnode");
        client
    }

    /// The log.
    pub fn log(&self) -> String {
        self.read("log")
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file in the folder that other users can neither read nor change.
    pub fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// The text of a file in the folder; empty if there is none.
    pub fn read(&self, name: &str) -> String {
        fs::read(self.path(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The live processes of this sandbox and their descendants, whatever their parent is.
    pub fn processes(&self) -> Vec<i32> {
        process::all()
            .filter(|&pid| self.owns(pid) && process::alive(pid))
            .collect()
    }

    /// Those of them with this command line.
    pub fn running(&self, words: &str) -> Vec<i32> {
        self.processes()
            .into_iter()
            .filter(|&pid| process::words(pid) == words)
            .collect()
    }

    /// The variable that marks a process as one of this sandbox.
    pub fn mark(&self) -> (&'static str, &str) {
        (MARK, &self.id)
    }

    /// By environment, or by directory: a process may overwrite the memory where the kernel reads
    /// its environment.
    fn owns(&self, pid: i32) -> bool {
        let mark = format!("{MARK}={}", self.id);
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|&byte| byte == 0)
            .any(|variable| variable == mark.as_bytes())
            || fs::read_link(format!("/proc/{pid}/cwd"))
                .is_ok_and(|directory| directory == self.folder)
    }

    /// Waits for processes that are about to exit. Kills the others and returns what they were.
    fn leftovers(&self) -> Vec<String> {
        let deadline = Instant::now()
            + if std::thread::panicking() {
                Duration::ZERO
            } else {
                SOON
            };
        while !self.processes().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut found = Vec::new();
        for pid in self.processes() {
            found.push(format!(
                "{pid} {} ({})",
                process::words(pid),
                process::name(pid)
            ));
            process::kill(pid, libc::SIGKILL);
        }
        found
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let leftovers = self.leftovers();
        if std::thread::panicking() {
            eprintln!("log of the failed test:\n{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_file(self.host_lock());
        let _ = fs::remove_file(self.run_file());
        assert!(
            leftovers.is_empty() || std::thread::panicking(),
            "processes left behind: {leftovers:#?}"
        );
    }
}

/// The program under test: `UNDER_TEST` if it is set, as `tests/all` does, else what cargo has
/// built beside the tests.
pub fn executable() -> PathBuf {
    let path =
        std::env::var_os("UNDER_TEST").map_or_else(|| profile().join("zk-flock"), PathBuf::from);
    assert!(
        path.is_file(),
        "there is no program to test at {}",
        path.display()
    );
    path
}

//! A run of a program from its words to its end: exit code, stdout and stderr together, under a
//! deadline that kills.

use super::sandbox::Sandbox;
use super::{process, wait_for, wait_until};
use std::fs::{self, File};
use std::marker::PhantomData;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A run that takes longer hangs, and fails the test.
const DEADLINE: Duration = Duration::from_secs(90);

/// A program that was not started yet, with its arguments and environment.
pub struct Job<'a> {
    sandbox: &'a Sandbox,
    command: Command,
}

/// How a run ended. Made by [`exited`] and [`killed`] for comparison.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The exit code, or the number of the signal that it died of.
    pub end: Result<i32, i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// A command that says `ready`, then names the signals it gets, and ends with 5 when its stdin
/// does. `signals` are words like `USR1`, or `TERM=3/0.5`: exits with 3 half a second after TERM.
pub fn listener(signals: &str) -> String {
    format!(
        "python3 {}/listener.py {signals}",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// An end with this exit code and without output.
pub fn exited(code: i32) -> Outcome {
    Outcome {
        end: Ok(code),
        stdout: String::new(),
        stderr: String::new(),
    }
}

/// An end by this signal and without output.
pub fn killed(signal: i32) -> Outcome {
    Outcome {
        end: Err(signal),
        stdout: String::new(),
        stderr: String::new(),
    }
}

impl Outcome {
    /// The same end, with this on stdout.
    #[must_use]
    pub fn printing(self, stdout: &str) -> Outcome {
        Outcome {
            stdout: stdout.to_owned(),
            ..self
        }
    }

    /// Asserts exit code `code`, nothing on stdout, and one line on stderr that begins with the
    /// program's name and contains each of `facts`.
    #[track_caller]
    pub fn complains(&self, code: i32, facts: &[&str]) {
        self.complains_as("zk-flock", code, facts);
    }

    /// The same of a program of another name.
    #[track_caller]
    pub fn complains_as(&self, program: &str, code: i32, facts: &[&str]) {
        assert_eq!(self.stdout, "", "stderr: {}", self.stderr);
        self.fails_as(program, code, facts);
    }

    /// The same of a program that may have printed on stdout.
    #[track_caller]
    pub fn fails_as(&self, program: &str, code: i32, facts: &[&str]) {
        assert_eq!(self.end, Ok(code), "stderr: {}", self.stderr);
        self.complaint_of(program, facts);
    }

    /// Asserts one line on stderr that begins with the program's name and contains each of `facts`.
    #[track_caller]
    pub fn complaint(&self, facts: &[&str]) {
        self.complaint_of("zk-flock", facts);
    }

    /// The same of a program of another name.
    #[track_caller]
    pub fn complaint_of(&self, program: &str, facts: &[&str]) {
        let line = self.stderr.strip_suffix('\n').unwrap_or(&self.stderr);
        let names_us = line
            .strip_prefix(program)
            .is_some_and(|rest| rest.starts_with(": "));
        assert!(
            names_us && !line.contains('\n'),
            "not one line after the program's name: {:?}",
            self.stderr
        );
        for fact in facts {
            assert!(line.contains(fact), "no {fact:?} in {line:?}");
        }
    }
}

impl<'a> Job<'a> {
    /// `program`, to be run in the sandbox's folder.
    pub fn new(sandbox: &'a Sandbox, program: &Path) -> Job<'a> {
        let mut command = Command::new(program);
        let (key, value) = sandbox.mark();
        command
            .current_dir(&sandbox.folder)
            .env(key, value)
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        Job { sandbox, command }
    }

    /// Adds arguments.
    #[must_use]
    pub fn words(mut self, words: &[&str]) -> Job<'a> {
        self.command.args(words);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Job<'a> {
        self.command.env(key, value);
        self
    }

    /// Gives it a stdin that ends when the test lets go: the command `cat` runs exactly that long.
    #[must_use]
    pub fn leashed(mut self) -> Job<'a> {
        self.command.stdin(Stdio::piped());
        self
    }

    /// The program and its words, as a shell would read them back.
    pub fn line(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        words
            .map(|word| {
                format!(
                    "'{}'",
                    word.to_str()
                        .expect("tests use text")
                        .replace('\'', r"'\''")
                )
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(self) -> Outcome {
        self.start().wait()
    }

    /// Starts it.
    #[track_caller]
    pub fn start(mut self) -> Running<'a> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let [stdout, stderr] =
            ["stdout", "stderr"].map(|stream| self.sandbox.path(&format!("{stream}-{number}")));
        let open = |path: &Path| File::create(path).expect("a file in the sandbox can be made");
        let child = self
            .command
            .stdout(open(&stdout))
            .stderr(open(&stderr))
            .spawn()
            .expect("the program can be started");
        Running {
            sandbox: PhantomData,
            child,
            stdout,
            stderr,
            started: Instant::now(),
        }
    }
}

/// A program that was started.
pub struct Running<'a> {
    sandbox: PhantomData<&'a Sandbox>,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    /// When it was started.
    pub started: Instant,
}

impl Running<'_> {
    /// Its process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid is positive and below 2^22")
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: i32) {
        assert!(
            process::kill(self.pid(), signal),
            "the program has not been waited for"
        );
    }

    /// Its stdout so far.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// Its stderr so far.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Waits until it has written `part`.
    #[track_caller]
    pub fn wait_for_output(&self, part: &str) {
        wait_until(&format!("{part:?} on stdout"), || {
            self.stdout().contains(part)
        });
    }

    /// Waits for the guard of its command.
    #[track_caller]
    pub fn guard(&self) -> i32 {
        let guard = || {
            process::children(self.pid())
                .into_iter()
                .find(|&pid| process::name(pid) == "lock-guard")
        };
        wait_for("a guard", guard)
    }

    /// Waits for the process of its command; the guard's child before `exec` does not count.
    #[track_caller]
    pub fn job(&self) -> i32 {
        let guard = self.guard();
        let is_job = |pid: &i32| {
            process::alive(*pid)
                && !process::words(*pid).is_empty()
                && process::words(*pid) != process::words(guard)
        };
        wait_for("a command", || {
            process::children(guard).into_iter().find(is_job)
        })
    }

    /// Ends the stdin of a leashed run.
    pub fn let_go(&mut self) {
        self.child.stdin = None;
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    /// Waits for its end. A leash is kept: [`Running::let_go`] comes first.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        let leash = self.child.stdin.take();
        let status = self.end();
        drop(leash);
        Outcome {
            end: status
                .code()
                .ok_or_else(|| status.signal().expect("it exited or was killed")),
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
        }
    }

    /// Lets go, then waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        self.let_go();
        self.wait()
    }

    #[track_caller]
    fn end(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            match self.child.try_wait().expect("it is our child") {
                Some(status) => return status,
                None if began.elapsed() < DEADLINE => std::thread::sleep(Duration::from_millis(1)),
                None => panic!(
                    "still running after {} s; stdout: {:?} stderr: {:?}",
                    DEADLINE.as_secs(),
                    self.stdout(),
                    self.stderr()
                ),
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

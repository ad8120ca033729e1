//! A real memcached, Debian's, on a free loopback port, and the words that a client of any other
//! kind would say to it. It is one of the sandbox's processes.

use super::run::{Job, Running};
use super::sandbox::Sandbox;
use super::{free_port, process, wait_until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

const PROGRAM: &str = "/usr/bin/memcached";

/// A memcached, or the place of one. Dropping it kills it.
pub struct Memcached<'a> {
    /// Its port on 127.0.0.1.
    pub port: u16,
    sandbox: &'a Sandbox,
    running: Option<Running<'a>>,
}

impl<'a> Memcached<'a> {
    /// One that serves.
    pub fn start(sandbox: &'a Sandbox) -> Memcached<'a> {
        let mut memcached = Memcached::absent(sandbox);
        memcached.start_again();
        memcached
    }

    /// A port on which [`Memcached::start_again`] will have one serve.
    pub fn absent(sandbox: &'a Sandbox) -> Memcached<'a> {
        assert!(
            Path::new(PROGRAM).exists(),
            "{PROGRAM} is missing: apt-get install memcached, or let tests/all do it"
        );
        Memcached {
            port: free_port(),
            sandbox,
            running: None,
        }
    }

    /// Starts it on its port. It knows nothing.
    pub fn start_again(&mut self) {
        let words = [
            "-l",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-U",
            "0",
            "-u",
            "root",
        ];
        let mut running = Job::new(self.sandbox, Path::new(PROGRAM))
            .words(&words)
            .start();
        wait_until("memcached to serve", || {
            assert!(
                !running.has_ended(),
                "memcached has ended: {}",
                running.stderr()
            );
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
        self.running = Some(running);
    }

    /// Kills it. Nobody answers on its port until [`Memcached::start_again`].
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Stops it in its tracks: connections stay, nothing is answered.
    pub fn freeze(&self) {
        assert!(process::kill(self.pid(), libc::SIGSTOP));
        wait_until("memcached to be stopped", || {
            process::state(self.pid()) == Some('T')
        });
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        assert!(process::kill(self.pid(), libc::SIGCONT));
    }

    fn pid(&self) -> i32 {
        self.running.as_ref().expect("memcached runs").pid()
    }

    /// As clients are told it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The lines of a server's config that name it.
    pub fn config(&self) -> String {
        config_at(&self.address())
    }

    /// What it answers to commands of its text protocol.
    #[track_caller]
    pub fn ask(&self, commands: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("memcached listens");
        stream
            .write_all(format!("{commands}\r\nquit\r\n").as_bytes())
            .expect("it reads");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .expect("it answers in text");
        answer
    }

    /// What stands under a key, if anything does.
    #[track_caller]
    pub fn value(&self, key: &str) -> Option<String> {
        let answer = self.ask(&format!("get {key}"));
        let (_, value) = answer.strip_suffix("\r\nEND\r\n")?.split_once("\r\n")?;
        Some(value.to_owned())
    }

    /// How long it will still stand there; `None`: without end.
    #[track_caller]
    pub fn expires(&self, key: &str) -> Option<Duration> {
        let answer = self.ask(&format!("mg {key} t"));
        let left = answer
            .trim_end()
            .strip_prefix("HD t")
            .expect("the key is there");
        (left != "-1").then(|| Duration::from_secs(left.parse().expect("seconds")))
    }

    /// Writes something under a key, as the original does it: whatever stood there.
    #[track_caller]
    pub fn set(&self, key: &str, value: &str) {
        assert_eq!(
            self.ask(&format!("set {key} 0 0 {}\r\n{value}", value.len())),
            "STORED\r\n"
        );
    }

    /// One of its figures: `cmd_get`, how many keys it was asked for.
    #[track_caller]
    pub fn figure(&self, name: &str) -> u64 {
        let answer = self.ask("stats");
        let line = answer
            .lines()
            .find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
        line.and_then(|figure| figure.parse().ok())
            .unwrap_or_else(|| panic!("{name} in {answer}"))
    }
}

/// The lines of a server's config that name whoever is at this address as its memcached.
pub fn config_at(address: &str) -> String {
    let (host, port) = address.rsplit_once(':').expect("an address has a port");
    format!("backend: memcache\nmemcachehost: {host}\nmemcacheport: {port}\n")
}

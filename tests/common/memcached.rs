//! A real memcached, Debian's, on a free loopback port, and commands of its text protocol. It is
//! one of the sandbox's processes.

use super::run::{Job, Running};
use super::sandbox::Sandbox;
use super::{free_port, process, wait_until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

const PROGRAM: &str = "/usr/bin/memcached";

/// A memcached, or a port reserved for one. Dropping it kills it.
pub struct Memcached<'a> {
    /// Its port on 127.0.0.1.
    pub port: u16,
    sandbox: &'a Sandbox,
    running: Option<Running<'a>>,
}

impl<'a> Memcached<'a> {
    /// Starts one.
    pub fn start(sandbox: &'a Sandbox) -> Memcached<'a> {
        let mut memcached = Memcached::absent(sandbox);
        memcached.start_again();
        memcached
    }

    /// Reserves a port, on which [`Memcached::start_again`] starts one.
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

    /// Starts it on its port, empty.
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

    /// Kills it. Its port refuses connections until [`Memcached::start_again`].
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Stops it with SIGSTOP: connections stay open, no request is answered.
    pub fn freeze(&self) {
        assert!(process::kill(self.pid(), libc::SIGSTOP));
        wait_until("memcached to be stopped", || {
            process::state(self.pid()) == Some('T')
        });
    }

    /// Continues it.
    pub fn thaw(&self) {
        assert!(process::kill(self.pid(), libc::SIGCONT));
    }

    fn pid(&self) -> i32 {
        self.running.as_ref().expect("memcached runs").pid()
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The lines of a server's config that name it.
    pub fn config(&self) -> String {
        config_at(&self.address())
    }

    /// Sends commands of its text protocol and returns the reply.
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

    /// The value of a key, if it exists.
    #[track_caller]
    pub fn value(&self, key: &str) -> Option<String> {
        let answer = self.ask(&format!("get {key}"));
        let (_, value) = answer.strip_suffix("\r\nEND\r\n")?.split_once("\r\n")?;
        Some(value.to_owned())
    }

    /// The time until the key expires; `None` if it never does.
    #[track_caller]
    pub fn expires(&self, key: &str) -> Option<Duration> {
        let answer = self.ask(&format!("mg {key} t"));
        let left = answer
            .trim_end()
            .strip_prefix("HD t")
            .expect("the key is there");
        (left != "-1").then(|| Duration::from_secs(left.parse().expect("seconds")))
    }

    /// Sets a key unconditionally, as the original does.
    #[track_caller]
    pub fn set(&self, key: &str, value: &str) {
        assert_eq!(
            self.ask(&format!("set {key} 0 0 {}\r\n{value}", value.len())),
            "STORED\r\n"
        );
    }

    /// One of its statistics, e.g. `cmd_get`, the number of keys read.
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

/// The lines of a server's config that name this address as its memcached.
pub fn config_at(address: &str) -> String {
    let (host, port) = address.rsplit_once(':').expect("an address has a port");
    format!("backend: memcache\nmemcachehost: {host}\nmemcacheport: {port}\n")
}

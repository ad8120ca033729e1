//! This project's distributexd on a free loopback port, and connections on which a test sends any
//! bytes. It is one of the sandbox's processes.

use super::run::{Job, Outcome, Running};
use super::sandbox::{Sandbox, executable};
use super::{SOON, free_port, network_fault, process, wait_until};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use zk_flock::internals::http::{Reply, get};

/// A server. Dropping it kills it.
pub struct Distributexd<'a> {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    sandbox: &'a Sandbox,
    config: PathBuf,
    /// Its limit of descriptors, if not that of the test.
    descriptors: Option<u32>,
    running: Option<Running<'a>>,
}

impl<'a> Distributexd<'a> {
    /// Starts one with this config, and adds the address to listen on.
    pub fn start(sandbox: &'a Sandbox, config: &str) -> Distributexd<'a> {
        Distributexd::new(sandbox, config, None).started()
    }

    /// The same with a limit of descriptors.
    pub fn start_with_descriptors(
        sandbox: &'a Sandbox,
        config: &str,
        most: u32,
    ) -> Distributexd<'a> {
        Distributexd::new(sandbox, config, Some(most)).started()
    }

    fn new(sandbox: &'a Sandbox, config: &str, descriptors: Option<u32>) -> Distributexd<'a> {
        let port = free_port();
        let server = Distributexd {
            port,
            sandbox,
            config: sandbox.path(&format!("distributex-{port}.yaml")),
            descriptors,
            running: None,
        };
        server.configure(config);
        server
    }

    /// Replaces the config file. The server reads it on SIGHUP or at its next start.
    pub fn configure(&self, config: &str) {
        fs::write(&self.config, format!("listen: 127.0.0.1\n{config}"))
            .expect("the config can be written");
    }

    fn started(mut self) -> Distributexd<'a> {
        self.start_again();
        self
    }

    /// Starts it again on the same port, with the state that it wrote.
    pub fn start_again(&mut self) {
        let config = self.config.to_str().expect("paths of tests are text");
        let words = [
            "--program=distributexd",
            "-v",
            "-c",
            config,
            "-p",
            &self.port.to_string(),
        ];
        let program = match self.descriptors {
            None => self.sandbox.program(&words),
            Some(most) => {
                let limited = format!(r#"ulimit -n {most}; exec "$0" "$@""#);
                let program = executable();
                let shell = [
                    "-c",
                    &limited,
                    program.to_str().expect("paths of tests are text"),
                ];
                Job::new(self.sandbox, Path::new("/bin/sh"))
                    .words(&shell)
                    .words(&words)
            }
        };
        let mut running = program.start();
        wait_until("distributexd to answer", || {
            assert!(
                !running.has_ended(),
                "distributexd has ended: {}",
                running.stderr()
            );
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
        self.running = Some(running);
        assert_eq!(self.ask("/"), "INVALID");
    }

    /// Its host and port, as options of distributex.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.running().pid()
    }

    /// Its log so far.
    pub fn stderr(&self) -> String {
        self.running().stderr()
    }

    /// Its peak resident memory, in kB.
    pub fn memory(&self) -> usize {
        let most = process::status(self.pid(), "VmHWM").expect("the server runs");
        most.strip_suffix(" kB")
            .and_then(|number| number.trim().parse().ok())
            .expect("a number of kB")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        self.running().signal(signal);
    }

    fn running(&self) -> &Running<'a> {
        self.running.as_ref().expect("the server runs")
    }

    /// Sends TERM and waits until it has exited. [`Distributexd::start_again`] may follow.
    pub fn stop(&mut self) -> Outcome {
        self.signal(libc::SIGTERM);
        self.running.take().expect("the server runs").wait()
    }

    /// Kills it as a power cut would. [`Distributexd::start_again`] may follow.
    pub fn kill(&mut self) {
        let pid = self.pid();
        self.running = None;
        assert!(!process::alive(pid));
    }

    /// Opens a connection.
    pub fn connect(&self) -> Connection {
        Connection::to(self.port).expect("the server listens")
    }

    /// The body of the reply to a GET of this path and query, on a connection of its own.
    #[track_caller]
    pub fn ask(&self, target: &str) -> String {
        let mut connection = self.connect();
        connection.say(&format!(
            "GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n"
        ));
        let answer = connection.hear();
        connection.hears_the_end();
        answer
    }

    /// Asks `get`, `wait`, `release` or `renew` for a host and waits for the answer.
    #[track_caller]
    pub fn call(&self, call: &str, host: &str, pool: &str) -> String {
        self.calls(call, host, pool).hear()
    }

    /// Sends the request; the test reads the reply from the connection.
    pub fn calls(&self, call: &str, host: &str, pool: &str) -> Connection {
        let mut connection = self.connect();
        connection.say_bytes(&get(
            &format!("/{call}/"),
            &[("host", host), ("pool", pool)],
            &self.address(),
            true,
        ));
        connection
    }
}

/// A client's side of a connection.
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    /// Connects to a port of 127.0.0.1, if a server listens on it.
    pub fn to(port: u16) -> Option<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream
            .set_read_timeout(Some(SOON))
            .expect("a timeout can be set");
        stream
            .set_nodelay(true)
            .expect("pieces can be sent as they are");
        Some(Connection {
            stream,
            received: Vec::new(),
        })
    }

    /// Sends text. The server may have hung up already: then no reply follows.
    pub fn say(&mut self, text: &str) {
        self.say_bytes(text.as_bytes());
    }

    /// Sends bytes.
    pub fn say_bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Shuts down the sending side.
    pub fn end(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Simulates that the client's host loses power; see [`network_fault::power_off`].
    pub fn power_off(&self) {
        network_fault::power_off(&self.stream);
    }

    /// Closes it with a reset.
    pub fn reset(self) {
        network_fault::reset(self.stream);
    }

    /// The next reply, which answers a GET.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        let mut closed = false;
        loop {
            match Reply::read(&self.received, closed) {
                Ok(Some((reply, length))) => {
                    self.received.drain(..length);
                    return reply;
                }
                Ok(None) => closed = !self.receive(),
                Err(wrong) => panic!("{wrong}: {:?}", self.received.escape_ascii().to_string()),
            }
        }
    }

    /// The body of the next reply, if its status is 200.
    #[track_caller]
    pub fn hear(&mut self) -> String {
        let reply = self.reply();
        assert_eq!(reply.status, 200, "{reply:?}");
        String::from_utf8(reply.body).expect("answers are text")
    }

    /// Whether the server has sent nothing that was not read yet.
    pub fn is_silent(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("it can be set");
        let next = self.stream.peek(&mut [0; 1]);
        self.stream.set_nonblocking(false).expect("it can be set");
        self.received.is_empty() && next.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// All that the server sends until it hangs up.
    #[track_caller]
    pub fn rest(&mut self) -> String {
        while self.receive() {}
        String::from_utf8(std::mem::take(&mut self.received)).expect("replies are text")
    }

    /// Asserts that the server hangs up and sends nothing more.
    #[track_caller]
    pub fn hears_the_end(&mut self) {
        assert_eq!(self.rest(), "");
    }

    /// Reads more; false at the end of the connection.
    #[track_caller]
    fn receive(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(count) => {
                self.received.extend_from_slice(&bytes[..count]);
                count > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!(
                "nothing was heard after {:?}: {error}",
                self.received.escape_ascii().to_string()
            ),
        }
    }
}

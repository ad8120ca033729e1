//! Servers that are not what they should be: each connection gets the same script, and nothing of
//! it is a real server's.

#![allow(unsafe_code, reason = "listen(2) with a backlog of its own")]

use super::client::{frame, framed};
use super::run::Job;
use super::sandbox::Sandbox;
use super::wait_until;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use zk_flock::sys::clock;
use zk_flock::zookeeper::record::ConnectResponse;

/// One thing that a liar does with a connection. After the last it hangs up.
#[derive(Clone, Debug)]
pub enum Act {
    /// Waits until something was said to it.
    Hear,
    /// Sends this.
    Say(Vec<u8>),
    /// Sends this byte by byte, with so long between two.
    Dribble(Vec<u8>, Duration),
    /// Says nothing more, until the other side hangs up.
    Keep,
}

/// A server on loopback that follows a script, until the test process ends.
pub struct ScriptedServer {
    /// Where it listens.
    pub address: String,
    accepted: Arc<Mutex<Vec<Duration>>>,
}

impl ScriptedServer {
    /// One that does this with everybody.
    pub fn start(script: Vec<Act>) -> ScriptedServer {
        ScriptedServer::start_in_turn(vec![script])
    }

    /// One that does the first with the first who comes, and so on; the last with all who come
    /// later.
    pub fn start_in_turn(scripts: Vec<Vec<Act>>) -> ScriptedServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let accepted = Arc::new(Mutex::new(Vec::new()));
        let times = accepted.clone();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                times
                    .lock()
                    .expect("nobody panics with the lock")
                    .push(clock::since_boot());
                let script = scripts[number.min(scripts.len() - 1)].clone();
                thread::spawn(move || perform(&script, &stream));
            }
        });
        ScriptedServer { address, accepted }
    }

    /// One that accepts and says nothing.
    pub fn silent() -> ScriptedServer {
        ScriptedServer::start(vec![Act::Keep])
    }

    /// How often somebody has connected.
    pub fn connections(&self) -> usize {
        self.accepted().len()
    }

    /// When, each time, since boot.
    pub fn accepted(&self) -> Vec<Duration> {
        self.accepted
            .lock()
            .expect("nobody panics with the lock")
            .clone()
    }
}

/// An address where nobody listens.
pub fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port is free")
        .to_string()
}

/// An address like that of a host that is switched off: packets to it get no answer. Its queue of
/// connections is full and never emptied.
pub struct SwitchedOff {
    /// Where nobody answers.
    pub address: String,
    _queue: (TcpListener, Vec<TcpStream>),
}

impl SwitchedOff {
    /// Fills a queue of the shortest length there is.
    pub fn new() -> SwitchedOff {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        // SAFETY: listen takes two integers and touches no memory.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let address = listener.local_addr().expect("it is bound");
        let mut queue = Vec::new();
        wait_until("a full queue", || {
            match TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
                Ok(stream) => {
                    queue.push(stream);
                    false
                }
                Err(_) => true,
            }
        });
        SwitchedOff {
            address: address.to_string(),
            _queue: (listener, queue),
        }
    }
}

/// A name server that takes questions and answers none, at an address where no other is.
pub struct DeadNameServer(UdpSocket);

impl DeadNameServer {
    /// Where it is.
    pub const ADDRESS: &str = "127.0.53.53";

    /// Only root may.
    pub fn start() -> DeadNameServer {
        DeadNameServer(
            UdpSocket::bind((DeadNameServer::ADDRESS, 53))
                .expect("root may bind port 53; run the tests as root"),
        )
    }

    /// The same program where this is the only name server: in a mount namespace with another
    /// resolv.conf.
    pub fn asked_by<'a>(sandbox: &'a Sandbox, job: &Job) -> Job<'a> {
        let resolv = sandbox.path("resolv.conf");
        fs::write(&resolv, format!("nameserver {}\n", DeadNameServer::ADDRESS))
            .expect("a file in the sandbox can be made");
        let script = format!(
            "mount --bind '{}' /etc/resolv.conf && exec {}",
            resolv.display(),
            job.line()
        );
        Job::new(sandbox, Path::new("unshare")).words(&["--mount", "sh", "-c", &script])
    }

    /// Whether somebody has asked.
    pub fn was_asked(&self) -> bool {
        self.0
            .set_nonblocking(true)
            .expect("a socket takes options");
        self.0.recv(&mut [0; 512]).is_ok()
    }
}

/// What a real server says first: a new session, of this number and timeout.
pub fn hello(session_id: i64, timeout: Duration) -> Vec<u8> {
    let negotiated = i32::try_from(timeout.as_millis()).expect("tests use short timeouts");
    frame(&ConnectResponse {
        protocol_version: 0,
        time_out: negotiated,
        session_id,
        passwd: vec![7; 16],
    })
}

/// A message of such bytes.
pub fn message(parts: &[&[u8]]) -> Vec<u8> {
    framed(&parts.concat())
}

/// Goes through a script. Whoever is lied to may hang up at any time.
fn perform(script: &[Act], mut stream: &TcpStream) {
    let mut bytes = [0; 4096];
    for act in script {
        let done = match act {
            Act::Hear => stream.read(&mut bytes).map(drop),
            Act::Say(text) => stream.write_all(text),
            Act::Dribble(text, pause) => text.iter().try_for_each(|byte| {
                thread::sleep(*pause);
                stream.write_all(&[*byte])
            }),
            Act::Keep => std::iter::repeat_with(|| stream.read(&mut bytes))
                .find(|read| !matches!(read, Ok(1..)))
                .map_or(Ok(()), |read| read.map(drop)),
        };
        if done.is_err() {
            return;
        }
    }
}

//! Servers that follow a script on each connection, whatever the client sends; a server that is
//! switched off, and a name server that never answers.

#![allow(unsafe_code, reason = "listen(2) with a backlog of its own")]

use super::client::framed;
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
use zk_flock::internals::sys::clock;
use zk_flock::internals::zookeeper::record::ConnectResponse;
use zk_flock::internals::zookeeper::wire::Wire;

/// One step of a script. After the last the server hangs up.
#[derive(Clone, Debug)]
pub enum Act {
    /// Waits until it has received something.
    Hear,
    /// Sends these bytes.
    Say(Vec<u8>),
    /// Sends these bytes one by one, with a pause after each.
    Dribble(Vec<u8>, Duration),
    /// Sends nothing more, and waits until the client hangs up.
    Keep,
}

/// A server on loopback that follows a script, until the test process ends.
pub struct ScriptedServer {
    /// Where it listens.
    pub address: String,
    accepted: Arc<Mutex<Vec<Duration>>>,
}

impl ScriptedServer {
    /// Starts one that follows this script on each connection.
    pub fn start(script: Vec<Act>) -> ScriptedServer {
        ScriptedServer::start_in_turn(vec![script])
    }

    /// Starts one that follows the first script on the first connection, and so on; the last on
    /// all later ones.
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

    /// Starts one that accepts and sends nothing.
    pub fn silent() -> ScriptedServer {
        ScriptedServer::start(vec![Act::Keep])
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.accepted().len()
    }

    /// When it accepted each connection, since boot.
    pub fn accepted(&self) -> Vec<Duration> {
        self.accepted
            .lock()
            .expect("nobody panics with the lock")
            .clone()
    }
}

/// An address on which no server listens.
pub fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port is free")
        .to_string()
}

/// An address like that of a host that is switched off: packets to it get no answer. Its queue of
/// connections is full and never emptied.
pub struct SwitchedOff {
    /// Its address.
    pub address: String,
    _queue: (TcpListener, Vec<TcpStream>),
}

impl SwitchedOff {
    /// Fills a queue of the shortest length that the kernel allows.
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

/// A name server that receives queries and answers none, at an address of its own.
pub struct DeadNameServer(UdpSocket);

impl DeadNameServer {
    /// Its address.
    pub const ADDRESS: &str = "127.0.53.53";

    /// Binds port 53, which needs root.
    pub fn start() -> DeadNameServer {
        DeadNameServer(
            UdpSocket::bind((DeadNameServer::ADDRESS, 53))
                .expect("root may bind port 53; run the tests as root"),
        )
    }

    /// The same job with this as its only name server: in a mount namespace with another
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

    /// Whether it has received a query.
    pub fn was_asked(&self) -> bool {
        self.0
            .set_nonblocking(true)
            .expect("a socket takes options");
        self.0.recv(&mut [0; 512]).is_ok()
    }
}

/// The first message of a real server: a new session with this id and timeout, and `readOnly`.
pub fn hello(session_id: i64, timeout: Duration) -> Vec<u8> {
    let negotiated = i32::try_from(timeout.as_millis()).expect("tests use short timeouts");
    let response = ConnectResponse {
        protocol_version: 0,
        time_out: negotiated,
        session_id,
        passwd: vec![7; 16],
    };
    let mut bytes = Vec::new();
    response.write(&mut bytes);
    false.write(&mut bytes);
    framed(&bytes)
}

/// A message with these bytes.
pub fn message(parts: &[&[u8]]) -> Vec<u8> {
    framed(&parts.concat())
}

/// Follows a script. The client may hang up at any time.
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

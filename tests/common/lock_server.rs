//! A lock server over HTTP whose answer to each request a test decides. Its replies are recorded
//! from the original, or are those of this project's distributexd.

use super::capture;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;
use zk_flock::internals::http::Request;
use zk_flock::internals::sys::clock;

/// The answer to a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// These bytes, then the end of the connection.
    Say(Vec<u8>),
    /// Nothing, until [`LockServer::ask_again`] or until the client hangs up.
    Wait,
    /// Nothing, even when the client hangs up.
    Freeze,
    /// The end of the connection.
    HangUp,
}

/// The chunked reply of the original with this word, byte for byte.
pub fn original(word: &str) -> Answer {
    let body = format!("\r\n\r\n{:x}\r\n{word}\r\n0\r\n\r\n", word.len());
    let (_, reply) = capture::distributex()
        .find(|(_, reply)| reply.ends_with(&body))
        .expect("it was recorded");
    Answer::Say(reply.into_bytes())
}

/// A reply with a length.
pub fn plain(word: &str) -> Answer {
    reply(&format!("Content-Length: {}\r\n", word.len()), word)
}

/// A reply that ends with its connection.
pub fn to_end(word: &str) -> Answer {
    reply("", word)
}

/// A grant with this token and lease.
pub fn lent(token: i64, length: Duration) -> Answer {
    reply(
        &format!(
            "X-Lock-Token: {token}\r\nX-Lock-Expires: {}\r\nContent-Length: 3\r\n",
            length.as_secs_f64()
        ),
        "YES",
    )
}

/// The same with the text of the lease header.
pub fn lent_as(token: i64, expires: &str) -> Answer {
    reply(
        &format!("X-Lock-Token: {token}\r\nX-Lock-Expires: {expires}\r\nContent-Length: 3\r\n"),
        "YES",
    )
}

/// NO to a holder whose lock an operator revoked.
pub fn revoked() -> Answer {
    reply("X-Lock-Revoked: 1\r\nContent-Length: 2\r\n", "NO")
}

fn reply(fields: &str, word: &str) -> Answer {
    Answer::Say(
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{fields}Connection: close\r\n\r\n{word}"
        )
        .into_bytes(),
    )
}

/// A request that was received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// `wait`, or `release 7` with a token; `gone` when a client hung up while it waited.
    pub what: String,
    /// Its `host`.
    pub host: String,
    /// Its `run`, empty if it has none.
    pub run: String,
    /// When it was received, since boot.
    pub at: Duration,
}

type Rule = Box<dyn FnMut(&str) -> Answer + Send>;

struct State {
    rule: Rule,
    asked: Vec<Asked>,
    open: Vec<TcpStream>,
    /// Grows when waiting requests are to be decided again.
    round: usize,
    stopped: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A server. Dropping it stops it.
pub struct LockServer {
    /// Port on 127.0.0.1.
    pub port: u16,
    shared: Arc<Shared>,
}

impl LockServer {
    /// Starts one with this rule, which maps the request (see [`Asked`]) to an answer.
    pub fn start(rule: impl FnMut(&str) -> Answer + Send + 'static) -> LockServer {
        LockServer::start_at(0, rule)
    }

    /// The same on this port.
    pub fn start_at(port: u16, rule: impl FnMut(&str) -> Answer + Send + 'static) -> LockServer {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let state = State {
            rule: Box::new(rule),
            asked: Vec::new(),
            open: Vec::new(),
            round: 0,
            stopped: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut state = accepting.state();
                if state.stopped {
                    return;
                }
                state
                    .open
                    .push(stream.try_clone().expect("a socket can be cloned"));
                let shared = accepting.clone();
                thread::spawn(move || drop(serve(&stream, &shared)));
            }
        });
        LockServer { port, shared }
    }

    /// Replaces the rule.
    pub fn set(&self, rule: impl FnMut(&str) -> Answer + Send + 'static) {
        self.shared.state().rule = Box::new(rule);
    }

    /// Applies the rule again to all waiting requests.
    pub fn ask_again(&self) {
        self.shared.state().round += 1;
        self.shared.changed.notify_all();
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.state().asked.clone()
    }

    /// The same as text.
    pub fn words(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.what).collect()
    }

    /// When the last request of this kind was received.
    pub fn last(&self, what: &str) -> Option<Duration> {
        self.asked()
            .iter()
            .rev()
            .find(|asked| asked.what == what)
            .map(|asked| asked.at)
    }

    /// Closes listener and connections, as a crash does. Returns the port.
    pub fn kill(self) -> u16 {
        self.port
    }
}

impl Drop for LockServer {
    fn drop(&mut self) {
        let open = {
            let mut state = self.shared.state();
            state.stopped = true;
            std::mem::take(&mut state.open)
        };
        self.shared.changed.notify_all();
        for stream in open {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = TcpStream::connect(("127.0.0.1", self.port)); // wakes accept, so that the listener closes
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with the lock")
    }

    fn note(&self, what: &str, host: &str, run: &str) {
        let at = clock::since_boot();
        self.state().asked.push(Asked {
            what: what.to_owned(),
            host: host.to_owned(),
            run: run.to_owned(),
            at,
        });
    }
}

/// One connection, one request.
fn serve(mut stream: &TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    let request = loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&piece[..count]);
        if let Some((request, _)) = Request::read(&bytes).expect("what we send is HTTP") {
            break request;
        }
    };
    let parameter = |name| {
        request
            .parameter(name)
            .map(|value| String::from_utf8(value).expect("tests use text"))
    };
    let token = parameter("token").map_or_else(String::new, |token| format!(" {token}"));
    let what = request.path.trim_matches('/').to_owned() + &token;
    let [host, run] = ["host", "run"].map(|name| parameter(name).unwrap_or_default());
    shared.note(&what, &host, &run);
    let round = shared.state().round;
    let mut answer = (shared.state().rule)(&what);
    let waits = Arc::new(AtomicBool::new(true));
    if let Answer::Wait = answer {
        watch(stream, &host, &run, &waits, shared);
        let mut state = shared.state();
        let mut seen = round;
        while let Answer::Wait = answer {
            let next = shared
                .changed
                .wait_while(state, |state| state.round == seen && !state.stopped)
                .expect("nobody panics with the lock");
            if next.stopped {
                return Ok(());
            }
            state = next;
            seen = state.round;
            answer = (state.rule)(&what);
        }
    }
    waits.store(false, Ordering::SeqCst);
    match answer {
        Answer::Say(bytes) => stream.write_all(&bytes)?,
        Answer::Freeze => {
            std::mem::forget(stream.try_clone()?);
            return Ok(());
        }
        Answer::Wait | Answer::HangUp => {}
    }
    stream.shutdown(Shutdown::Both)
}

/// Hangs up, as the original does, when the client hangs up while it waits.
fn watch(stream: &TcpStream, host: &str, run: &str, waits: &Arc<AtomicBool>, shared: &Arc<Shared>) {
    let (waits, shared) = (waits.clone(), shared.clone());
    let (mut stream, host, run) = (
        stream.try_clone().expect("a socket can be cloned"),
        host.to_owned(),
        run.to_owned(),
    );
    thread::spawn(move || {
        if let Ok(0) = stream.read(&mut [0; 64])
            && waits.load(Ordering::SeqCst)
            && !shared.state().stopped
        {
            shared.note("gone", &host, &run);
            let _ = stream.shutdown(Shutdown::Both);
        }
    });
}

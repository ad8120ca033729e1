//! A TCP proxy that records what each side sent in which order, and passes, holds, drops, delays
//! or cuts it, each direction by itself.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// How long a server may take to accept.
const PATIENCE: Duration = Duration::from_secs(5);

/// The sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// What the proxy does with data of one side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passage {
    /// Passes it.
    Pass,
    /// Keeps it until another passage is set.
    Hold,
    /// Drops it without an error for the sender.
    Drop,
    /// Passes it after this time.
    Delay(Duration),
    /// Closes the connection in both directions after this many more bytes, drops the rest, and
    /// passes all later connections.
    Cut(usize),
}

/// The record and the settings of a proxy.
struct State {
    connections: usize,
    cuts: usize,
    chunks: Vec<(From, Vec<u8>)>,
    passages: [Passage; 2],
    away: bool,
    open: Vec<TcpStream>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A proxy for one server, until the test process ends.
pub struct Proxy {
    /// Where it listens.
    pub address: String,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Starts one in front of `server`.
    pub fn start(server: String) -> Proxy {
        Proxy::start_at("127.0.0.1:0", server)
    }

    /// The same on this address.
    pub fn start_at(address: &str, server: String) -> Proxy {
        let listener = TcpListener::bind(address).expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let state = State {
            connections: 0,
            cuts: 0,
            chunks: Vec::new(),
            passages: [Passage::Pass; 2],
            away: false,
            open: Vec::new(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let connections = shared.clone();
        thread::spawn(move || {
            let server: SocketAddr = server.parse().expect("servers of tests are numbers");
            for client in listener.incoming().map_while(Result::ok) {
                if !connections.take_note_of(&client) {
                    continue;
                }
                let shared = connections.clone();
                thread::spawn(move || {
                    if let Ok(server) = TcpStream::connect_timeout(&server, PATIENCE) {
                        pass_on(From::Client, &client, &server, &shared);
                        pass_on(From::Server, &server, &client, &shared);
                    }
                });
            }
        });
        Proxy { address, shared }
    }

    /// Sets the passage for what `from` sends.
    pub fn set(&self, from: From, passage: Passage) {
        self.shared.state().passages[from as usize] = passage;
        self.shared.changed.notify_all();
    }

    /// The same for both directions.
    pub fn set_both(&self, passage: Passage) {
        self.set(From::Client, passage);
        self.set(From::Server, passage);
    }

    /// Closes all connections, and each new one at once; or stops that.
    pub fn set_away(&self, away: bool) {
        let mut state = self.shared.state();
        state.away = away;
        for client in state.open.drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }

    /// How many of them it has cut.
    pub fn cuts(&self) -> usize {
        self.shared.state().cuts
    }

    /// The senders in turn: neighbours in this list differ.
    pub fn turns(&self) -> Vec<From> {
        let mut turns: Vec<From> = self.chunks().into_iter().map(|(from, _)| from).collect();
        turns.dedup();
        turns
    }

    /// What was sent, as it was read: a write may come in several pieces.
    pub fn chunks(&self) -> Vec<(From, Vec<u8>)> {
        self.shared.state().chunks.clone()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with the lock")
    }

    /// Records a connection. False if it is to be closed at once.
    fn take_note_of(&self, client: &TcpStream) -> bool {
        let mut state = self.state();
        state.connections += 1;
        if !state.away {
            state.open.retain(|known| known.peer_addr().is_ok());
            state
                .open
                .push(client.try_clone().expect("a socket can be cloned"));
        }
        !state.away
    }

    /// Records a piece and waits until it may pass. Returns how many of its bytes pass, and whether
    /// the connection stays open.
    fn admit(&self, from: From, piece: &[u8]) -> (usize, bool) {
        let mut state = self.state();
        state.chunks.push((from, piece.to_vec()));
        let mut state = self
            .changed
            .wait_while(state, |state| {
                state.passages[from as usize] == Passage::Hold
            })
            .expect("nobody panics with the lock");
        match state.passages[from as usize] {
            Passage::Pass | Passage::Hold => (piece.len(), true),
            Passage::Drop => (0, true),
            Passage::Delay(time) => {
                drop(state);
                thread::sleep(time);
                (piece.len(), true)
            }
            Passage::Cut(after) if piece.len() < after => {
                state.passages[from as usize] = Passage::Cut(after - piece.len());
                (piece.len(), true)
            }
            Passage::Cut(after) => {
                state.passages = [Passage::Pass; 2];
                state.cuts += 1;
                self.changed.notify_all();
                (after, false)
            }
        }
    }
}

/// Copies one direction of a connection until it ends, and records each piece before it passes.
fn pass_on(from: From, source: &TcpStream, sink: &TcpStream, shared: &Arc<Shared>) {
    let [mut source, mut sink] =
        [source, sink].map(|stream| stream.try_clone().expect("a socket can be cloned"));
    let shared = shared.clone();
    sink.set_nodelay(true)
        .expect("a connected socket takes options");
    thread::spawn(move || {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = source.read(&mut chunk) {
            let (admitted, goes_on) = shared.admit(from, &chunk[..count]);
            if sink.write_all(&chunk[..admitted]).is_err() {
                break;
            }
            if !goes_on {
                let _ = source.shutdown(Shutdown::Both);
                return drop(sink.shutdown(Shutdown::Both));
            }
        }
        let _ = sink.shutdown(Shutdown::Write);
    });
}

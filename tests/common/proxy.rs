//! A TCP proxy that notes who sent what in which order.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Who sent something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// Who has connected.
    Client,
    /// The server behind.
    Server,
}

/// What a proxy has seen.
#[derive(Default)]
struct Seen {
    connections: usize,
    chunks: Vec<(From, Vec<u8>)>,
}

/// Passes every connection on to one server, until the test process ends.
pub struct Proxy {
    /// Where it listens.
    pub address: String,
    seen: Arc<Mutex<Seen>>,
}

impl Proxy {
    /// One in front of `server`.
    pub fn start(server: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let notes = seen.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                notes.lock().expect("nobody panics with the lock").connections += 1;
                let Ok(server) = TcpStream::connect(&server) else { continue };
                pass_on(From::Client, &client, &server, &notes);
                pass_on(From::Server, &server, &client, &notes);
            }
        });
        Proxy { address, seen }
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.seen.lock().expect("nobody panics with the lock").connections
    }

    /// Who has spoken in turn: neighbours in this list differ.
    pub fn turns(&self) -> Vec<From> {
        let mut turns: Vec<From> = self.chunks().into_iter().map(|(from, _)| from).collect();
        turns.dedup();
        turns
    }

    /// What was sent, as it was read: a write may come in several pieces.
    pub fn chunks(&self) -> Vec<(From, Vec<u8>)> {
        self.seen.lock().expect("nobody panics with the lock").chunks.clone()
    }
}

/// Copies one direction of a connection until it ends, noting each piece before it goes on.
fn pass_on(from: From, source: &TcpStream, sink: &TcpStream, seen: &Arc<Mutex<Seen>>) {
    let [mut source, mut sink] = [source, sink].map(|stream| stream.try_clone().expect("a socket can be cloned"));
    let seen = seen.clone();
    sink.set_nodelay(true).expect("a connected socket takes options");
    thread::spawn(move || {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = source.read(&mut chunk) {
            seen.lock().expect("nobody panics with the lock").chunks.push((from, chunk[..count].to_vec()));
            if sink.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        let _ = sink.shutdown(Shutdown::Write);
    });
}

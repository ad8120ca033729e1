//! Hand-over at the lock server with many waiters for one pool, each on a connection of its own:
//! from the release that one sends to the YES that the next one reads.

#![allow(unsafe_code, reason = "setrlimit(2)")]

use crate::Effort;
use crate::contestants::Contestants;
use crate::distributexd::Distributexd;
use crate::stopwatch::{cpu, median, peak_memory};
use crate::table::{Table, mb, ms};
use common::{SOON, wait_until};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

/// What they wait for.
const POOL: &str = "speed";

/// Descriptors of the benchmark and of the server, beside one for each waiter.
const OTHERS: usize = 200;

/// Loopback addresses that the connections go to: each has some 28,000 ports for them.
const ADDRESSES: usize = 4;

/// Measures each number of waiters.
pub fn measure(contestants: &Contestants, effort: &Effort) -> Table {
    let mut table = Table::new(&[
        "waiters at distributexd",
        "hand-over",
        "largest",
        "server's CPU, each",
        "server's memory",
    ]);
    let most = may_open(effort.waiters.iter().max().expect("there are some") + OTHERS) - OTHERS;
    for &size in effort.waiters {
        let size = size.min(most);
        let server = Distributexd::start(&contestants.sandbox, &contestants.programs, &[POOL], "")
            .expect("it serves");
        let before = crowd(&server, size);
        let spent = cpu(server.pid());
        let times = hand_around(before);
        let each = cpu(server.pid())
            .saturating_sub(spent)
            .div_f64(times.len() as f64);
        let largest = *times.iter().max().expect("there was one");
        table.row(
            &size.to_string(),
            &[
                ms(median(times)),
                ms(largest),
                ms(each),
                mb(peak_memory(server.pid())),
            ],
        );
    }
    table
}

/// Connections of one host that holds, and of so many that wait, in order.
fn crowd(server: &Distributexd, size: usize) -> Vec<TcpStream> {
    let mut holder = connect(server, 0);
    ask(&mut holder, "get", 0);
    hear(&mut holder, "YES");
    let mut all = vec![holder];
    for number in 1..=size {
        let mut waiter = connect(server, number);
        ask(&mut waiter, "wait", number);
        all.push(waiter);
    }
    wait_until("all to wait", || server.waiting() == size);
    all
}

/// Each gives it back and the next one gets it: how long that took each time.
fn hand_around(mut all: Vec<TcpStream>) -> Vec<Duration> {
    let mut times = Vec::new();
    for number in 0..all.len() - 1 {
        let [giver, taker] = all
            .get_disjoint_mut([number, number + 1])
            .expect("they are two");
        let began = Instant::now();
        ask(giver, "release", number);
        hear(taker, "YES");
        times.push(began.elapsed());
        hear(giver, "OK");
    }
    times
}

fn connect(server: &Distributexd, number: usize) -> TcpStream {
    let last = u8::try_from(1 + number % ADDRESSES).expect("there are few");
    let stream = TcpStream::connect((Ipv4Addr::new(127, 0, 0, last), server.port))
        .expect("the server listens");
    stream
        .set_nodelay(true)
        .expect("a connected socket takes options");
    stream
        .set_read_timeout(Some(SOON))
        .expect("a connected socket takes options");
    stream
}

fn ask(stream: &mut TcpStream, call: &str, number: usize) {
    let request = format!("GET /{call}/?pool={POOL}&host=host{number} HTTP/1.1\r\nHost: a\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .expect("the server reads");
}

/// Reads one reply, which has this body.
fn hear(stream: &mut TcpStream, body: &str) {
    let (mut received, mut buffer) = (Vec::new(), [0; 1024]);
    while !received.ends_with(body.as_bytes()) {
        let count = stream.read(&mut buffer).expect("it is their turn");
        assert!(count > 0, "{}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&buffer[..count]);
    }
}

/// Asks for so many descriptors, for us and for what we start; how many we may have, which only
/// root may raise for good.
fn may_open(count: usize) -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: count as libc::rlim_t,
        rlim_max: count as libc::rlim_t,
    };
    // SAFETY: setrlimit(2) reads the one rlimit.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    // SAFETY: getrlimit(2) fills the one rlimit.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

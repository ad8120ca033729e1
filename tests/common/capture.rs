//! Bytes that a real client and a real server have exchanged, in `tests/captures`: a line for each
//! write to the server (`>`) and each piece from it (`<`): hexadecimal, or plain where it is text.

use super::client::next_frame;
use super::proxy::From;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use zk_flock::internals::http::Reply;

/// The first line of each capture of ZooKeeper.
const HEAD: &str = "# ZooKeeper 3.8.0 of Debian 12, recorded by `cargo test --test zookeeper wire -- --ignored`. > to the server, a line a write; < from it.\n";

/// The pieces that one side of a capture sent.
pub fn pieces(capture: &str, side: From) -> Vec<Vec<u8>> {
    let sign = if side == From::Client { "> " } else { "< " };
    let text = fs::read_to_string(path(capture)).expect("the capture is there");
    text.lines()
        .filter_map(|line| line.strip_prefix(sign))
        .map(unhex)
        .collect()
}

/// The messages that one side of a capture sent, without their lengths.
pub fn messages(capture: &str, side: From) -> Vec<Vec<u8>> {
    let mut bytes = pieces(capture, side).concat();
    let messages = std::iter::from_fn(|| next_frame(&mut bytes)).collect();
    assert!(bytes.is_empty(), "{capture} ends inside a message");
    messages
}

/// Requests of curl, of a person at telnet and of the original's client to the original
/// `distributexd`, and its replies, one connection after another.
pub fn distributexd() -> impl Iterator<Item = (String, String)> {
    connections(include_str!("../captures/distributexd"))
}

/// The same for requests of this project's distributex.
pub fn distributex() -> impl Iterator<Item = (String, String)> {
    connections(include_str!("../captures/distributex"))
}

fn connections(text: &'static str) -> impl Iterator<Item = (String, String)> {
    let connections = text.split("\n\n").skip(1);
    let text = |line: &str| line.replace("\\r", "\r").replace("\\n", "\n"); // no other backslash in captures
    connections.map(move |connection| {
        let said = |sign: &str| {
            connection
                .lines()
                .filter_map(|line| line.strip_prefix(sign))
                .map(text)
                .collect()
        };
        (said("> "), said("< "))
    })
}

/// All replies in what a server sent before it hung up.
pub fn replies(said: &str) -> Vec<Reply> {
    let mut rest = said.as_bytes();
    let mut replies = Vec::new();
    while !rest.is_empty() {
        let (reply, length) = Reply::read(rest, true)
            .unwrap_or_else(|wrong| panic!("{wrong}: {said:?}"))
            .expect("there is no more");
        replies.push(reply);
        rest = &rest[length..];
    }
    replies
}

/// Writes a capture of these lines.
pub fn save(capture: &str, lines: &str) {
    fs::write(path(capture), HEAD.to_owned() + lines).expect("captures can be written");
}

/// Two digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes text");
        text
    })
}

/// The bytes that [`hex`] wrote.
pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("captures are hexadecimal"))
        .collect()
}

fn path(capture: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../captures")).join(capture)
}

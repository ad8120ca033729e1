//! HTTP on what real clients and the original lock server have said to each other
//! (`captures/distributexd`), at every cut, there and back, and on messages that no peer should
//! send.

use super::head::Version;
use super::{
    LONGEST_HEAD, LONGEST_REPLY_BODY, LONGEST_REQUEST, LONGEST_REQUEST_BODY, Malformed, Method,
    Reply, Request, Terms, get,
};
use common::capture;
use proptest::prelude::*;
use std::fmt::Debug;

/// What was said on the connection that the original answered with 400.
const GARBAGE: &str = "foo\r\n\r\n";

/// What well-behaved clients have said, connection by connection.
fn asked() -> Vec<String> {
    capture::distributexd()
        .map(|(asked, _)| asked)
        .filter(|asked| asked != GARBAGE)
        .collect()
}

/// What a reader finds.
type Found<T> = Result<Option<(T, usize)>, Malformed>;

/// All requests that this is, one after another.
fn requests(text: &str) -> Vec<Request> {
    let mut rest = text.as_bytes();
    let mut requests = Vec::new();
    while !rest.is_empty() {
        let (request, length) = Request::read(rest)
            .expect("it is well-formed")
            .expect("it is whole");
        requests.push(request);
        rest = &rest[length..];
    }
    requests
}

/// All replies in what a server sent before it hung up.
fn replies(text: &str) -> Vec<Reply> {
    let mut rest = text.as_bytes();
    let mut replies = Vec::new();
    while !rest.is_empty() {
        let (reply, length) = Reply::read(rest, true)
            .expect("it is well-formed")
            .expect("it is whole");
        replies.push(reply);
        rest = &rest[length..];
    }
    replies
}

#[test]
fn what_clients_have_asked_is_read() {
    let asked: Vec<_> = asked().iter().flat_map(|text| requests(text)).collect();
    let lines: Vec<_> = asked.iter().map(line).collect();
    let five = [
        "Get /get/ me pool1",
        "Get /get/ them pool1",
        "Get /release/ me pool1",
        "Get /get/ them pool1",
        "Get /release/ them pool1",
    ];
    assert_eq!(lines[..5], five);
    assert_eq!(lines[7..9], ["Get /get/ me -", "Get / - -"]);
    assert_eq!(
        lines[lines.len() - 7..],
        [
            "Get /g/e/t me guarded",
            "Get /release/ me guarded",
            "Get /get/ other guarded",
            "Get /get/ a nowhere",
            "Get /release/ me pool1",
            "Get /wait/ h.example pool1",
            "Get /release/ h.example pool1",
        ]
    );
    let methods: Vec<_> = asked
        .iter()
        .map(|request| request.method)
        .filter(|method| *method != Method::Get)
        .collect();
    assert_eq!(methods, [Method::Head, Method::Post, Method::Other]);
    let ended = asked.iter().filter(|request| !request.keep_alive);
    let ended: Vec<_> = ended
        .map(|request| (request.version, request.parameter("host").unwrap()))
        .collect();
    let [old, new] = [Version::Http10, Version::Http11];
    let expected = [
        (old, "me"),
        (new, "other"),
        (new, "me"),
        (new, "h.example"),
        (new, "h.example"),
    ];
    assert_eq!(
        ended,
        expected.map(|(version, host)| (version, host.as_bytes().to_vec()))
    );
}

/// A request in words: `-` is a parameter that it does not have.
fn line(request: &Request) -> String {
    let [host, pool] = ["host", "pool"].map(|name| {
        request
            .parameter(name)
            .map_or("-".into(), |value| String::from_utf8(value).unwrap())
    });
    format!("{:?} {} {host} {pool}", request.method, request.path)
}

#[test]
fn what_the_original_server_has_answered_is_read() {
    let to_head = |asked: &str| asked.starts_with("HEAD"); // no reply can be read without knowing that
    let answered: Vec<_> = capture::distributexd()
        .filter(|(asked, _)| !to_head(asked))
        .flat_map(|(_, answered)| replies(&answered))
        .collect();
    let bodies: Vec<_> = answered
        .iter()
        .map(|reply| String::from_utf8_lossy(&reply.body))
        .collect();
    assert_eq!(
        bodies[..10],
        [
            "YES", "NO", "OK", "YES", "OK", "YES", "OK", "INVALID", "INVALID", "YES"
        ]
    );
    assert_eq!(
        bodies[bodies.len() - 8..],
        ["YES", "OK", "INVALID", "INVALID", "OK", "", "YES", "OK"]
    );
    let refused: Vec<_> = answered
        .iter()
        .filter(|reply| reply.status != 200)
        .collect();
    assert_eq!(
        refused.iter().map(|reply| reply.status).collect::<Vec<_>>(),
        [405, 501, 400]
    );
    assert_eq!(
        (refused[0].reason.as_str(), refused[0].header("allow")),
        ("Method Not Allowed", Some("HEAD, GET"))
    );
    assert_eq!(refused[0].body.len(), 237);
    assert_eq!(
        answered.iter().filter(|reply| reply.keep_alive).count(),
        answered.len() - 6
    );
}

#[test]
fn our_client_asks_what_the_original_asked() {
    let originals = asked()
        .into_iter()
        .filter(|text| text.contains("Python-urllib"))
        .flat_map(|text| requests(&text));
    let words = [("pool", "pool1"), ("host", "h.example")];
    let ours = ["/wait/", "/release/"]
        .map(|path| String::from_utf8(get(path, &words, "localhost:9889", false)).unwrap());
    assert_eq!(ours.concat().matches("Host: localhost:9889\r\n").count(), 2);
    let ours: Vec<_> = ours.iter().flat_map(|text| requests(text)).collect();
    let own_agent = |mut request: Request| {
        request.agent.clone_from(&ours[0].agent);
        request
    };
    assert!(ours[0].agent.starts_with("distributex/"));
    assert_eq!(ours, originals.map(own_agent).collect::<Vec<_>>());
}

/// Messages of every shape that is whole.
fn whole() -> Vec<String> {
    let long = "x".repeat(LONGEST_HEAD - 100);
    let shapes = [
        "\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\na=b".to_owned(),
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\na=b\r\n0\r\nSum: 1\r\n\r\n"
            .to_owned(),
        format!(
            "POST / HTTP/1.1\r\nContent-Length: {LONGEST_REQUEST_BODY}\r\n\r\n{}",
            "\n".repeat(LONGEST_REQUEST_BODY)
        ),
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nYES".to_owned(),
        "HTTP/1.1 204\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nA: {long}\r\nContent-Length: 3\r\n\r\nYES"),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
            "1\r\n\n\r\n".repeat(1000)
        ),
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {LONGEST_REPLY_BODY}\r\n\r\n{}",
            "\r".repeat(LONGEST_REPLY_BODY)
        ),
    ];
    shapes
        .into_iter()
        .chain(asked())
        .chain(capture::distributexd().map(|(_, answered)| answered))
        .collect()
}

#[test]
fn every_prefix_of_a_message_means_not_yet() {
    for text in whole() {
        let bytes = text.as_bytes();
        if text.starts_with("HTTP/") {
            let (_, length) = Reply::read(bytes, true)
                .expect("it is well-formed")
                .expect("it is whole");
            let waits_for_the_end = Reply::read(bytes, false) == Ok(None);
            let cuts = 0..length + usize::from(waits_for_the_end);
            cuts.for_each(|cut| {
                assert_eq!(
                    Reply::read(&bytes[..cut], false),
                    Ok(None),
                    "{:?}",
                    &text[..cut]
                );
            });
        } else {
            let (_, length) = Request::read(bytes)
                .expect("it is well-formed")
                .expect("it is whole");
            (0..length).for_each(|cut| {
                assert_eq!(Request::read(&bytes[..cut]), Ok(None), "{:?}", &text[..cut]);
            });
        }
    }
}

#[test]
fn of_as_many_bytes_as_the_longest_request_it_is_known_what_they_are() {
    let post = |framing: &str, filler: &str| {
        let start = format!("\r\n\r\n\r\n\r\nPOST / HTTP/1.1\r\n{framing}\r\nA: ");
        start.clone()
            + &"x".repeat(LONGEST_HEAD - start.len() - 4)
            + "\r\n\r\n"
            + &filler.repeat(LONGEST_REQUEST_BODY)
    };
    let counted = post(&format!("Content-Length: {LONGEST_REQUEST_BODY}"), "x");
    let chunked = post("Transfer-Encoding: chunked", "1\r\n\n\r\n");
    let read = |text: &str, length: usize| {
        Request::read(&text.as_bytes()[..length]).map(|found| found.map(|(_, length)| length))
    };
    for (text, known) in [
        (counted, Ok(Some(LONGEST_REQUEST))),
        (chunked, Err(Malformed::LongBody(LONGEST_REQUEST_BODY))),
        ("x".repeat(LONGEST_REQUEST), Err(Malformed::LongHead)),
    ] {
        assert_eq!(read(&text, LONGEST_REQUEST), known);
    }
}

/// What was said of some bytes is said of them whatever follows.
fn stands<T: PartialEq + Debug>(bytes: &[u8], cut: usize, read: impl Fn(&[u8]) -> Found<T>) {
    let (early, late) = (read(&bytes[..cut]), read(bytes));
    assert!(
        early == Ok(None) || early == late,
        "{early:?} of {cut} bytes, then {late:?}"
    );
    if let Ok(Some((_, length))) = &late {
        assert!((1..=bytes.len()).contains(length));
        assert_eq!(
            early.is_ok_and(|found| found.is_some()),
            cut >= *length,
            "{late:?} is there from its last byte on"
        );
    }
}

fn both_stand(bytes: &[u8], cut: usize) {
    stands(bytes, cut, Request::read);
    stands(bytes, cut, |bytes| Reply::read(bytes, false));
    let open = Reply::read(bytes, false);
    let closed = Reply::read(bytes, true);
    assert!(
        closed != Ok(None) && (open == Ok(None) || open == closed),
        "{open:?}, then {closed:?}"
    );
}

/// Pieces of the grammar, in any order.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(&[
        "GET ",
        "POST / HTTP/1.1\r\n",
        "/?a=b&c",
        " HTTP/1.0\r\n",
        " HTTP/1.1\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100\r\n\r\n",
        "Content-Length: ",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "3",
        "0\r\n\r\n",
        ";x",
        "\r\n",
        "\r",
        "\n",
        "YES",
        ": ",
        " ",
        "\t",
        "%",
        "\0",
        "é",
    ]);
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat().into_bytes())
}

/// A message with some bytes in place of others.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let damage = (
        any::<prop::sample::Index>(),
        0..4_usize,
        prop::collection::vec(any::<u8>(), 0..4),
    );
    (prop::sample::select(whole()), damage).prop_map(|(text, (at, removed, added))| {
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + removed);
        bytes.splice(at..end, added);
        bytes
    })
}

proptest! {
    #[test]
    fn what_was_said_of_bytes_stands_whatever_follows(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), pieces(), damaged()],
        cut in any::<prop::sample::Index>(),
    ) {
        both_stand(&bytes, cut.index(bytes.len() + 1));
    }

    #[test]
    fn requests_are_read_as_they_were_written(
        path in "(/\\PC{0,9}){1,3}",
        words in prop::collection::vec(("\\PC{0,9}", any::<String>()), 0..4),
        host in any::<String>(),
        keep_alive: bool,
    ) {
        let written = get(&path, &words.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>(), &host, keep_alive);
        let (request, length) = Request::read(&written).expect("it is well-formed").expect("it is whole");
        let bytes = |(name, value): (String, String)| (name.into_bytes(), value.into_bytes());
        prop_assert_eq!(request.parameters().collect::<Vec<_>>(), words.into_iter().map(bytes).collect::<Vec<_>>());
        let read = (length, request.method, request.path, request.version, request.keep_alive);
        prop_assert_eq!(read, (written.len(), Method::Get, path, Version::Http11, keep_alive));
    }

    #[test]
    fn replies_are_read_as_they_were_written(
        status in prop::sample::select(&[200_u16, 400, 405, 408, 413, 431, 501, 503, 505]),
        token: u64,
        body in prop::collection::vec(any::<u8>(), 0..300),
        old: bool,
        keep_alive: bool,
    ) {
        let version = if old { Version::Http10 } else { Version::Http11 };
        let reply = Reply::new(status, "text/plain; charset=utf-8", body.clone()).with("X-Lock-Token", token);
        let mut written = Vec::new();
        reply.write(Terms { version, head_only: false, keep_alive }, "Sun, 06 Nov 1994 08:49:37 GMT", &mut written);
        let (read, length) = Reply::read(&written, false).expect("it is well-formed").expect("it is whole");
        let token = token.to_string();
        prop_assert_eq!((read.header("x-lock-token"), read.header("content-type")), (Some(token.as_str()), Some("text/plain; charset=utf-8")));
        let expected = (written.len(), status, reply.reason, body, keep_alive);
        prop_assert_eq!((length, read.status, read.reason, read.body, read.keep_alive), expected);
    }
}

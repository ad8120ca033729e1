//! Any bytes are a message, the beginning of one, or neither, on both sides; what was said of them
//! stands whatever follows. A request that was read is written as bytes that read the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fmt::Debug;
use zk_flock::internals::http::{Malformed, Reply, Request, Terms, get};

fuzz_target!(|input: &[u8]| {
    let Some((&[high, low], bytes)) = input.split_first_chunk() else {
        return;
    };
    let cut = usize::from(u16::from_be_bytes([high, low])) % (bytes.len() + 1);
    let early = bytes.get(..cut).unwrap_or_default();
    if let Some(request) = stands(Request::read(early), Request::read(bytes), cut, bytes.len()) {
        again(&request);
    }
    stands(
        Reply::read(early, false),
        Reply::read(bytes, false),
        cut,
        bytes.len(),
    );
    if let Some(reply) = stands(
        Reply::read(bytes, false),
        Reply::read(bytes, true),
        bytes.len(),
        bytes.len(),
    ) {
        let _ = (reply.header("x-lock-token"), reply.keep_alive);
    }
    assert_ne!(Reply::read(bytes, true), Ok(None));
});

type Found<T> = Result<Option<(T, usize)>, Malformed>;

/// What was said of the first `cut` bytes holds of all of them; a message is there from its last
/// byte on.
fn stands<T: PartialEq + Debug>(
    early: Found<T>,
    late: Found<T>,
    cut: usize,
    all: usize,
) -> Option<T> {
    assert!(
        early == Ok(None) || early == late,
        "{early:?} of {cut} bytes, then {late:?}"
    );
    if let Err(wrong) = &late {
        let mut refusal = Vec::new();
        Reply::refusing(wrong).write(Terms::UNREADABLE, "", &mut refusal);
        assert!(
            matches!(Reply::read(&refusal, false), Ok(Some((reply, length))) if length == refusal.len() && reply.status == wrong.status())
        );
    }
    let (message, length) = late.ok().flatten()?;
    assert!((1..=all).contains(&length));
    Some(message)
}

/// As far as it is text, and has a path from the root, the client could have asked it.
fn again(request: &Request) {
    let text = |bytes| String::from_utf8(bytes).ok();
    let Some(pairs) = request
        .parameters()
        .map(|(name, value)| Some((text(name)?, text(value)?)))
        .collect::<Option<Vec<_>>>()
    else {
        return;
    };
    if request.path.starts_with('/') {
        let words: Vec<_> = pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let written = get(&request.path, &words, "host:9889", request.keep_alive);
        let (read, length) = Request::read(&written)
            .expect("it is well-formed")
            .expect("it is whole");
        assert_eq!(
            (&read.path, read.keep_alive, length),
            (&request.path, request.keep_alive, written.len())
        );
        assert!(read.parameters().eq(request.parameters()), "{request:?}");
    }
}

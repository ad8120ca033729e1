//! Any bytes are a record or an error; a record that was read is written as bytes that read the
//! same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fmt::Debug;
use zk_flock::internals::zookeeper::record::*;
use zk_flock::internals::zookeeper::wire::{Wire, next_frame};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some(_)) = next_frame(&mut rest) {}
    let Some((&kind, body)) = bytes.split_first() else {
        return;
    };
    match kind % 12 {
        0 => again::<ConnectRequest>(body),
        1 => again::<ConnectResponse>(body),
        2 => again::<ReplyHeader>(body),
        3 => again::<AuthPacket>(body),
        4 => again::<WatcherEvent>(body),
        5 => again::<CreateRequest>(body),
        6 => again::<CreateResponse>(body),
        7 => again::<GetDataResponse>(body),
        8 => again::<GetChildrenResponse>(body),
        9 => again::<GetAclResponse>(body),
        10 => again::<MultiHeader>(body),
        _ => again::<PathWatchRequest>(body),
    }
});

fn again<T: Wire + PartialEq + Debug>(mut bytes: &[u8]) {
    let Ok(record) = T::read(&mut bytes, "record") else {
        return;
    };
    let mut written = Vec::new();
    record.write(&mut written);
    let mut read = written.as_slice();
    assert_eq!(T::read(&mut read, "record").as_ref(), Ok(&record));
    assert!(read.is_empty(), "{record:?}");
}

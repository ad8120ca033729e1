//! Any bytes, read as any record: never a panic, and what is read is written as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zk_flock::zookeeper::record::*;
use zk_flock::zookeeper::wire::{Wire, next_frame};

fn round_trip<R: Wire + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let mut rest = bytes;
    if let Ok(record) = R::read(&mut rest, "fuzz") {
        let mut written = Vec::new();
        record.write(&mut written);
        assert_eq!(R::read(&mut &written[..], "fuzz").as_ref(), Ok(&record));
    }
}

fuzz_target!(|bytes: &[u8]| {
    round_trip::<ConnectRequest>(bytes);
    round_trip::<ConnectResponse>(bytes);
    round_trip::<RequestHeader>(bytes);
    round_trip::<ReplyHeader>(bytes);
    round_trip::<AuthPacket>(bytes);
    round_trip::<WatcherEvent>(bytes);
    round_trip::<CreateRequest>(bytes);
    round_trip::<CreateResponse>(bytes);
    round_trip::<DeleteRequest>(bytes);
    round_trip::<PathWatchRequest>(bytes);
    round_trip::<GetDataResponse>(bytes);
    round_trip::<GetAclResponse>(bytes);
    round_trip::<GetChildrenResponse>(bytes);
    round_trip::<MultiHeader>(bytes);
    round_trip::<Stat>(bytes);
    let mut rest = bytes;
    while let Ok(Some(frame)) = next_frame(&mut rest) {
        assert!(!frame.is_empty());
    }
});

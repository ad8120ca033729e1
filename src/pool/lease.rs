//! How much of a lease a client may rely on. The server keeps the lease longer: in between, a
//! holder that cannot renew has time to end its command, even on a loaded machine, before another
//! client can acquire the lock.

use crate::moment::Moment;
use std::time::Duration;

/// The margin between both leases is this fraction of the lease (1/20, 5 %), so that clocks may
/// drift more during a longer lease.
const MARGIN_DIVISOR: u32 = 20;

/// The margin is at least this: killing a command with many processes takes a while on a loaded
/// machine.
const MIN_MARGIN: Duration = Duration::from_secs(1);

/// The margin is at most this fraction of the lease (1/2), so that a short lease is still useful.
const MAX_MARGIN_DIVISOR: u32 = 2;

/// The shortest lease that a client is told. It could not renew a shorter one before it has to kill
/// its command, 0.2 s before the end.
pub const MIN_CLIENT_LEASE: Duration = Duration::from_millis(300);

/// How long a pool that was removed from the config keeps a holding that lasts until it is
/// released: long enough for an operator to read the log and restore the pool, and for a nightly
/// run to end.
pub const REMOVED_POOL_GRACE: Duration = Duration::from_hours(24);

/// The lease that a client may rely on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientLease {
    /// It lasts until it is released.
    UntilReleased,
    /// It lasts this long.
    For(Duration),
    /// Too little is left of it to be useful.
    TooShort,
}

/// What a client can be told now of a lease that the server keeps until `expires`.
pub fn for_client(expires: Moment, now: Moment) -> ClientLease {
    if expires == Moment::NEVER {
        return ClientLease::UntilReleased;
    }
    let left = expires.since(now);
    match left.saturating_sub(
        (left / MARGIN_DIVISOR)
            .max(MIN_MARGIN)
            .min(left / MAX_MARGIN_DIVISOR),
    ) {
        told if told < MIN_CLIENT_LEASE => ClientLease::TooShort,
        told => ClientLease::For(told),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_lease_is_shorter_by_5_percent_at_least_1_s_at_most_half() {
        let ms = Duration::from_millis;
        for (left, expected) in [
            (3_600_000, ClientLease::For(ms(3_420_000))),
            (60_000, ClientLease::For(ms(57_000))),
            (20_000, ClientLease::For(ms(19_000))),
            (10_000, ClientLease::For(ms(9_000))),
            (3_000, ClientLease::For(ms(2_000))),
            (2_000, ClientLease::For(ms(1_000))),
            (1_000, ClientLease::For(ms(500))),
            (600, ClientLease::For(ms(300))),
            (599, ClientLease::TooShort),
            (0, ClientLease::TooShort),
        ] {
            assert_eq!(
                for_client(Moment(ms(7 + left)), Moment(ms(7))),
                expected,
                "{left} ms"
            );
        }
        assert_eq!(
            for_client(Moment::NEVER, Moment(ms(7))),
            ClientLease::UntilReleased
        );
        assert_eq!(
            for_client(Moment(ms(7)), Moment(ms(9))),
            ClientLease::TooShort,
            "it is over"
        );
        let shortest_expire = Moment(ms(1000)); // a config with a shorter one is refused
        assert!(
            matches!(for_client(shortest_expire, Moment::default()), ClientLease::For(told) if told >= MIN_CLIENT_LEASE)
        );
    }
}

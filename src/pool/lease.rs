//! How much of a lease a holder is told. The server keeps more than that: between the two a holder
//! that cannot renew any more has time to end its command, also on a loaded machine, before the
//! lock can be given to the next.

use crate::moment::Moment;
use std::time::Duration;

/// A client is told less than is kept by one of so many parts (5 %), so that clocks may drift and a
/// long lease leaves more time.
const MARGIN_DIVISOR: u32 = 20;

/// But by this at least: a killed command of many processes takes a while to end on a loaded
/// machine.
const MIN_MARGIN: Duration = Duration::from_secs(1);

/// But by no more than one of so many parts (half): a short lease must be of some use.
const MAX_MARGIN_DIVISOR: u32 = 2;

/// The shortest `expire` that makes sense: half of it is told, which is enough to renew it.
pub const MIN_EXPIRE: Duration = Duration::from_secs(1);

/// The least that is told. A client that is told less cannot renew before it has to kill its
/// command: it does that 0.2 s before the end.
pub const MIN_CLIENT_LEASE: Duration = Duration::from_millis(300);

/// How long a pool that is not in the config any more keeps a holding that lasts until it is
/// released: long enough for an operator to see the log and put the pool back, and for a night's
/// run to end.
pub const REMOVED_POOL_GRACE: Duration = Duration::from_hours(24);

/// What can be told of a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientLease {
    /// That it lasts until it is released.
    UntilReleased,
    /// That so much is left of it.
    For(Duration),
    /// TooShort: too little is left of it to be used.
    TooShort,
}

/// What can be told now of a lease that the server keeps until `expires`.
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
    fn less_is_told_than_is_kept_by_5_percent_at_least_1_s_but_never_by_more_than_half() {
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
        assert!(
            matches!(for_client(Moment(MIN_EXPIRE), Moment::default()), ClientLease::For(told) if told >= MIN_CLIENT_LEASE)
        );
    }
}

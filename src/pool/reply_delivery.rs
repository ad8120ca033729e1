//! Whether any YES about a holding may have reached its host. A holding none of whose replies
//! arrived belongs to a client that does not know of it, and is taken back. Shared by all backends.

/// The replies YES about one holding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct ReplyDelivery {
    /// Replies that were given, or will be once the holding is saved, without those that are known
    /// not to have arrived.
    outstanding: u32,
    /// The host has shown that it knows the token, so one of the replies has arrived.
    confirmed: bool,
}

impl ReplyDelivery {
    /// Of a holding that an earlier server told its host of.
    pub(super) fn restored() -> ReplyDelivery {
        ReplyDelivery {
            outstanding: 1,
            confirmed: false,
        }
    }

    /// A reply is given. Returns whether it is the only one.
    pub(super) fn told(&mut self) -> bool {
        self.outstanding = self.outstanding.saturating_add(1);
        self.outstanding == 1
    }

    /// A reply was not given after all, or did not arrive.
    pub(super) fn undone(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// The host knows of the holding: lost replies do not matter any more.
    pub(super) fn confirmed(&mut self) {
        self.confirmed = true;
    }

    /// Whether no reply can have reached the host.
    pub(super) fn is_undelivered(self) -> bool {
        self.outstanding == 0 && !self.confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holding_is_undelivered_once_each_reply_is_undone_unless_its_host_confirmed_it() {
        let mut delivery = ReplyDelivery::default();
        assert!(delivery.is_undelivered());
        assert_eq!((delivery.told(), delivery.told()), (true, false));
        delivery.undone();
        assert!(!delivery.is_undelivered());
        delivery.undone();
        assert!(delivery.is_undelivered());
        delivery.confirmed();
        assert!(!delivery.is_undelivered());

        let mut restored = ReplyDelivery::restored();
        assert!(!restored.is_undelivered());
        restored.undone();
        assert!(restored.is_undelivered());
    }
}

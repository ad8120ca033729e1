//! The lock of this host alone. The program acquires it before the
//! loop begins, so it is held from the first moment and never lost.

use crate::lock::{Event, Input, Lock, Output, Proof};
use crate::moment::Moment;
use std::collections::VecDeque;

/// The lock.
#[derive(Debug)]
pub struct HostOnlyLock {
    outputs: VecDeque<Output>,
}

impl HostOnlyLock {
    /// The lock in this file, which is held.
    pub fn new(file: String) -> HostOnlyLock {
        HostOnlyLock {
            outputs: [Output::Event(Event::Acquired(Proof {
                lock: file,
                token: None,
                session: None,
            }))]
            .into(),
        }
    }
}

impl Lock for HostOnlyLock {
    fn handle(&mut self, input: Input, _: Moment) {
        if input == Input::Release {
            self.outputs
                .push_back(Output::Event(Event::Released { doubt: None }));
        }
    }

    fn poll(&mut self, _: Moment) -> Output {
        self.outputs
            .pop_front()
            .unwrap_or(Output::Wait(Moment::NEVER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Driver, NoPeer};

    #[test]
    fn lock_is_held_from_the_start_until_released() {
        let now = Moment::default();
        let mut lock = Driver::new(HostOnlyLock::new("/tmp/dx-a.lock".into()), now);
        let acquired = Event::Acquired(Proof {
            lock: "/tmp/dx-a.lock".into(),
            token: None,
            session: None,
        });
        assert_eq!(lock.next_report(&mut NoPeer), Some(Output::Event(acquired)));
        lock.jump(now);
        assert_eq!(lock.next_report(&mut NoPeer), None);
        assert_eq!(lock.wait(), Moment::NEVER);
        lock.input(now, |it| it.handle(Input::Release, now));
        assert_eq!(
            lock.next_report(&mut NoPeer),
            Some(Output::Event(Event::Released { doubt: None }))
        );
        assert_eq!(lock.next_report(&mut NoPeer), None);
    }
}

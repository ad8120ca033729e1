//! Backends of the lock server, as the driver sees them.

use super::{Connection, Delivery, Machine, Peer, Reply, Step};
use crate::moment::Moment;
use crate::pool::memcached::Memcache;
use crate::pool::memory::Memory;
use crate::pool::zookeeper::ZooKeeper;
use crate::pool::{Backend, Input, Output, Target, Ticket};
use crate::transport;
use std::collections::BTreeSet;

/// The requests that are answered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PoolRules(BTreeSet<Ticket>);

/// Each backend is named here: a trait cannot be implemented for all locks and for all backends.
macro_rules! backend {
    ($backend:ty) => {
        impl Machine for $backend {
            type To = Target;
            type Report = Output;
            type Rules = PoolRules;

            fn take_event(&mut self, event: transport::Event, now: Moment) {
                self.handle(Input::Transport(event), now);
            }

            fn take_time(&mut self, now: Moment) {
                self.handle(Input::Tick, now);
            }

            fn give(&mut self, now: Moment) -> Step<Target, Output> {
                match self.poll(now) {
                    Output::Transport(output) => Step::Transport(output),
                    Output::Wait(until) => Step::Wait(until),
                    output => Step::Report(output),
                }
            }

            /// Each request has at most one answer.
            fn check(PoolRules(answered): &mut PoolRules, report: &Output) {
                if let Output::Answer(ticket, _) | Output::Report(ticket) = report {
                    assert!(
                        answered.insert(*ticket),
                        "{ticket:?} is answered twice: {report:?}"
                    );
                }
            }
        }
    };
}

backend!(Memory);
backend!(Memcache);
backend!(ZooKeeper);

/// The peer of a machine that has no connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoPeer;

impl<To> Peer<To> for NoPeer {
    fn connect(&mut self, _: To, _: Moment) -> Reply {
        panic!("the machine connects, and has no peer")
    }

    fn receive(&mut self, _: Connection, _: &[u8], _: Moment) {}

    fn close(&mut self, _: Connection) {}

    fn deliver(&mut self, _: Connection, _: Moment) -> Option<Delivery> {
        None
    }
}

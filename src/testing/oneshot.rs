//! One-shot clients, as the driver sees them.

use super::{Machine, Step};
use crate::lock::Failure;
use crate::moment::Moment;
use crate::oneshot::{self, OneShot};
use crate::transport;
use crate::transport::Address;
use std::fmt::Debug;

/// A client until it reports. After that it is gone.
#[derive(Debug)]
pub(crate) struct Once<C>(Option<C>);

impl<C> Once<C> {
    pub(crate) fn new(client: C) -> Once<C> {
        Once(Some(client))
    }
}

impl<C: OneShot<Report: Debug>> Machine for Once<C> {
    type To = Address;
    type Report = Result<C::Report, Failure>;
    type Rules = ();

    fn take_event(&mut self, event: transport::Event, now: Moment) {
        if let Some(client) = &mut self.0 {
            client.on_transport(event, now);
        }
    }

    fn take_time(&mut self, _: Moment) {}

    fn give(&mut self, now: Moment) -> Step<Address, Self::Report> {
        match self.0.as_mut().map(|client| client.poll(now)) {
            None => Step::Wait(Moment::NEVER),
            Some(oneshot::Step::Transport(output)) => Step::Transport(output),
            Some(oneshot::Step::Wait(until)) => Step::Wait(until),
            Some(oneshot::Step::End(report)) => {
                self.0 = None;
                Step::Report(report)
            }
        }
    }

    fn check((): &mut (), _: &Self::Report) {}
}

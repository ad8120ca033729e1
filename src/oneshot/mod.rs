//! The contract of a one-shot client: it asks a service something, and ends with a report. There is
//! no lock, no guard and no command. Sans-I/O, as the locks are; `run::oneshot` is its loop.

pub mod http;
pub mod zookeeper;

use crate::lock::Failure;
use crate::moment::Moment;
use crate::transport;

/// What a one-shot client wants done.
#[derive(Debug)]
pub enum Step<R> {
    /// Do this with the connection.
    Transport(transport::Output),
    /// Nothing to do before this moment, unless something happens.
    Wait(Moment),
    /// The report, or why there is none. The connection may be dropped.
    End(Result<R, Failure>),
}

/// A one-shot client.
pub trait OneShot {
    /// What it ends with.
    type Report;

    /// Something happened to the connection.
    fn on_transport(&mut self, event: transport::Event, now: Moment);

    /// What to do next. After `Wait` there is nothing to do until the next event. After `End` it is
    /// not called again.
    fn poll(&mut self, now: Moment) -> Step<Self::Report>;
}

impl<C: OneShot> OneShot for &mut C {
    type Report = C::Report;

    fn on_transport(&mut self, event: transport::Event, now: Moment) {
        C::on_transport(self, event, now);
    }

    fn poll(&mut self, now: Moment) -> Step<Self::Report> {
        C::poll(self, now)
    }
}

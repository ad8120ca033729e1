//! The loop of a one-shot client: its connection, and the clock. A signal simply ends the program:
//! the server ends the session.

use super::system::{Linux, System};
use crate::link::Link;
use crate::lock::Failure;
use crate::moment::Moment;
use crate::oneshot::{OneShot, Step};
use crate::reason::reason;
use crate::sys::clock::now;
use crate::sys::poll::{self, Watched};
use crate::sys::process::Reap;

/// A client and its connection. It does not sleep by itself, so that a simulation can drive it.
pub struct OneShotLoop<C, S: System> {
    client: C,
    link: S::Link,
}

impl<C: OneShot, S: System> OneShotLoop<C, S> {
    /// A client without a connection.
    pub fn new(client: C, link: S::Link) -> OneShotLoop<C, S> {
        OneShotLoop { client, link }
    }

    /// Does what there is to do. Returns until when to sleep, unless the connection is ready before
    /// that; or what the client ends with.
    pub fn turn(&mut self) -> Result<Moment, Result<C::Report, Failure>> {
        loop {
            match self.client.poll(S::now()) {
                Step::Transport(output) => {
                    if let Some(failed) = S::execute(&mut self.link, output) {
                        self.client.on_transport(failed, S::now());
                    }
                }
                Step::Wait(until) => return Ok(until),
                Step::End(result) => return Err(result),
            }
        }
    }

    /// The connection is ready.
    pub fn read(&mut self) {
        let client = &mut self.client;
        S::read(&mut self.link, |event| client.on_transport(event, S::now()));
    }

    /// Reaps helper commands of the connection that have ended: a client that connects again and
    /// again must not leave a zombie each time. It has no other children.
    fn reap_helpers(&mut self) {
        while S::has_helpers(&self.link)
            && let Reap::Ended(child, _) = S::reap()
        {
            let client = &mut self.client;
            S::helper_reaped(&mut self.link, child, |event| {
                client.on_transport(event, S::now());
            });
        }
    }
}

/// Runs the client to its end.
pub(super) fn drive<C: OneShot>(client: &mut C) -> Result<C::Report, Failure> {
    let mut client = OneShotLoop::<_, Linux>::new(client, Link::default());
    loop {
        match client.turn() {
            Ok(until) => {
                if sleep(&client.link, until)? {
                    client.read();
                }
                client.reap_helpers();
            }
            Err(result) => return result,
        }
    }
}

/// Sleeps until then, or until the connection is ready, which it returns.
fn sleep(link: &Link, until: Moment) -> Result<bool, Failure> {
    let limit = (until != Moment::NEVER).then(|| until.since(now()));
    let mut watched: Vec<Watched> = link.watched().collect();
    poll::wait(&mut watched, limit)
        .map_err(|error| Failure::System(format!("cannot wait for events: {}", reason(&error))))?;
    Ok(watched.iter().any(Watched::ready))
}

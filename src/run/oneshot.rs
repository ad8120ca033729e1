//! The loop of a one-shot client: its connection, and the clock. A signal simply ends the program:
//! the server ends the session.

use crate::link::Link;
use crate::lock::Failure;
use crate::moment::Moment;
use crate::oneshot::{OneShot, Step};
use crate::reason::reason;
use crate::sys::clock::now;
use crate::sys::poll::{self, Watched};

/// Runs the client to its end.
pub(super) fn drive<C: OneShot>(client: &mut C) -> Result<C::Report, Failure> {
    let mut link = Link::default();
    loop {
        match client.poll(now()) {
            Step::Transport(output) => {
                if let Some(failed) = link.execute(output) {
                    client.on_transport(failed, now());
                }
            }
            Step::Wait(until) => {
                if sleep(&link, until)? {
                    link.ready(|event| client.on_transport(event, now()));
                }
            }
            Step::End(result) => return result,
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

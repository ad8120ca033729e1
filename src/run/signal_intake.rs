//! The signals that this process receives, and which processes of the command have received them
//! too. A counted signal is held back until guard and witness have reported; see `delivery`.

use super::guard_channel::{Incoming, Report};
use super::witness::Witness;
use crate::delivery::{COUNTED, Deliveries, Reach, Sent};
use crate::moment::Moment;
use crate::signal::Signal;
use crate::supervisor::Origin;
use crate::sys::clock::now;
use crate::sys::process::Pid;
use crate::sys::signals::{Received, Signals};
use std::os::fd::BorrowedFd;

/// Receives signals, with the help of a witness.
pub(super) struct SignalIntake {
    signals: Signals,
    deliveries: Deliveries,
    witness: Option<Witness>,
}

impl SignalIntake {
    pub(super) fn new(signals: Signals) -> SignalIntake {
        SignalIntake {
            signals,
            deliveries: Deliveries::default(),
            witness: None,
        }
    }

    pub(super) fn signals(&self) -> &Signals {
        &self.signals
    }

    /// The witness's channel, while there is a witness.
    pub(super) fn witness_channel(&self) -> Option<BorrowedFd<'_>> {
        self.witness.as_ref().map(Witness::channel)
    }

    /// Receives the next signal.
    pub(super) fn receive(&self) -> Option<Received> {
        self.signals.next()
    }

    /// Decides about a received signal: whether the supervisor handles it now, and its origin. A
    /// counted signal is held back while the command runs. An order that was received twice counts
    /// once.
    pub(super) fn admit(
        &mut self,
        received: Received,
        command_runs: bool,
    ) -> Option<(Sent, Origin)> {
        let sent = received.sent();
        // The terminal may send a hangup to the session leader only, so the witness decides whether
        // the process group has received it.
        if received.from_terminal && sent.signal != Signal::HUP {
            return Some((sent, Origin::Typed));
        }
        if self.deliveries.is_repeat(sent, now()) {
            return None;
        }
        if command_runs && COUNTED.contains(&sent.signal) {
            self.deliveries.hold(sent, now());
            return None;
        }
        Some((sent, Origin::Sent(Reach::Here)))
    }

    /// The next signal that is no longer held back.
    pub(super) fn next_due(&mut self) -> Option<(Sent, Origin)> {
        let (sent, reach) = self.deliveries.next(now())?;
        Some((sent, Origin::Sent(reach)))
    }

    /// The next signal, held back or not: the command has ended.
    pub(super) fn next_held(&mut self) -> Option<(Sent, Origin)> {
        let (sent, reach) = self.deliveries.take()?;
        Some((sent, Origin::Sent(reach)))
    }

    /// When `next_due` returns a signal.
    pub(super) fn wake(&self) -> Moment {
        self.deliveries.wake()
    }

    /// The guard has received this signal, so it was sent to the whole control group.
    pub(super) fn guard_received(&mut self, sent: Sent) {
        self.deliveries.witnessed(sent, Reach::Everywhere, now());
    }

    /// Starts a witness. Without one, each signal is forwarded.
    pub(super) fn start_witness(&mut self) {
        self.witness = Witness::start(&self.signals).ok();
    }

    /// Kills the witness.
    pub(super) fn stop_witness(&mut self) {
        self.witness = None;
    }

    /// Reads the witness's reports.
    pub(super) fn read_witness(&mut self) {
        while let Some(witness) = &self.witness {
            match witness.receive() {
                Incoming::Message(Report::Witnessed(sent)) => {
                    self.deliveries.witnessed(sent, Reach::Group, now());
                }
                Incoming::Message(_) | Incoming::Nothing => return,
                Incoming::Closed => self.witness = None,
            }
        }
    }

    /// A child was reaped: if it was the witness, its id may belong to another process now.
    pub(super) fn child_ended(&mut self, child: Pid) {
        if let Some(witness) = &mut self.witness {
            witness.reaped(child);
        }
    }
}

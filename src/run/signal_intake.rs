//! The signals that this process receives, and which processes of the command have received them
//! too. A counted signal is held back until guard and witness have reported; see `delivery`.

use super::guard_channel::{Incoming, Report};
use super::system::System;
use crate::delivery::{COUNTED, Deliveries, Reach, Sent};
use crate::moment::Moment;
use crate::signal::Signal;
use crate::supervisor::Origin;
use crate::sys::process::Pid;
use crate::sys::signals::Received;

/// Receives signals, with the help of a witness.
pub(super) struct SignalIntake<S: System> {
    signals: S::Signals,
    deliveries: Deliveries,
    witness: Option<S::Witness>,
}

impl<S: System> SignalIntake<S> {
    pub(super) fn new(signals: S::Signals) -> SignalIntake<S> {
        SignalIntake {
            signals,
            deliveries: Deliveries::default(),
            witness: None,
        }
    }

    pub(super) fn signals(&self) -> &S::Signals {
        &self.signals
    }

    /// The witness, while there is one.
    pub(super) fn witness(&self) -> Option<&S::Witness> {
        self.witness.as_ref()
    }

    /// Receives the next signal.
    pub(super) fn receive(&self) -> Option<Received> {
        S::next_signal(&self.signals)
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
        if self.deliveries.is_repeat(sent, S::now()) {
            return None;
        }
        if command_runs && COUNTED.contains(&sent.signal) {
            self.deliveries.hold(sent, S::now());
            return None;
        }
        Some((sent, Origin::Sent(Reach::Here)))
    }

    /// The next signal that is no longer held back.
    pub(super) fn next_due(&mut self) -> Option<(Sent, Origin)> {
        let (sent, reach) = self.deliveries.next(S::now())?;
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
        self.deliveries.witnessed(sent, Reach::Everywhere, S::now());
    }

    /// Starts a witness. Without one, each signal is forwarded.
    pub(super) fn start_witness(&mut self) {
        self.witness = S::start_witness(&self.signals).ok();
    }

    /// Kills the witness.
    pub(super) fn stop_witness(&mut self) {
        self.witness = None;
    }

    /// Reads the witness's reports.
    pub(super) fn read_witness(&mut self) {
        while let Some(witness) = &self.witness {
            match S::witness_report(witness) {
                Incoming::Message(Report::Witnessed(sent)) => {
                    self.deliveries.witnessed(sent, Reach::Group, S::now());
                }
                Incoming::Message(_) | Incoming::Nothing => return,
                Incoming::Closed => self.witness = None,
            }
        }
    }

    /// A child was reaped: if it was the witness, its id may belong to another process now.
    pub(super) fn child_ended(&mut self, child: Pid) {
        if let Some(witness) = &mut self.witness {
            S::witness_reaped(witness, child);
        }
    }
}

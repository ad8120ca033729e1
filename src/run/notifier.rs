//! Reports the events of a run to the service manager: which event is which fact, and the effect.

use super::guard_channel::Report;
use super::journal;
use crate::guard::GuardEvent;
use crate::lock::Event;
use crate::moment::Moment;
use crate::notify::run::{Fact, Reports};
use crate::plan::Notify;
use crate::service_manager::ServiceManager;
use crate::supervisor::Action;
use std::io;

/// The reports of a run, and the service manager that gets them.
pub(super) struct Notifier {
    reports: Reports,
    manager: ServiceManager,
}

impl Notifier {
    /// `None`: no service manager wants reports.
    pub(super) fn new(plan: &Notify, now: Moment) -> Option<Notifier> {
        Some(Notifier {
            reports: Reports::new(plan.ready_when_waiting),
            manager: ServiceManager::new(plan.manager.as_ref()?, now),
        })
    }

    /// Takes in a fact.
    pub(super) fn hear(&mut self, fact: Fact, now: Moment) {
        self.manager.add(self.reports.hear(fact, now));
    }

    /// Takes in an event of the lock.
    pub(super) fn lock_event(&mut self, event: &Event, now: Moment) {
        if let Some(fact) = lock_fact(event) {
            self.hear(fact, now);
        }
    }

    /// Sends what is due. Returns why the service manager cannot be reached, once.
    pub(super) fn send(&mut self, now: Moment) -> Option<io::Error> {
        let alive = self.reports.is_alive(now);
        self.manager.send(alive, now)
    }

    /// When the next message is due.
    pub(super) fn wake(&self) -> Moment {
        self.manager.wake()
    }
}

fn lock_fact(event: &Event) -> Option<Fact> {
    Some(match event {
        Event::Waiting { holder, position } => Fact::Waiting(journal::waiting(holder, *position)),
        Event::Acquired(proof) => Fact::Acquired {
            lock: proof.lock.clone(),
            token: proof.token,
        },
        Event::LeaseUntil(lease) => Fact::LeaseUntil(*lease),
        Event::Suspended(why) => Fact::Suspended(why.clone()),
        Event::Resumed => Fact::Resumed,
        Event::Lost { why, .. } => Fact::Lost(why.clone()),
        Event::Revoked { why } => Fact::Revoked(why.clone()),
        Event::Trying(_)
        | Event::Gone(_)
        | Event::Note(_)
        | Event::Warn(_)
        | Event::Busy(_)
        | Event::AlreadyRun(_)
        | Event::Failed(_)
        | Event::Released { .. }
        | Event::ReleasedSilently => return None,
    })
}

/// The fact in a report of the guard.
pub(super) fn guard_fact(report: Report) -> Option<Fact> {
    match report {
        Report::Started { .. } => Some(Fact::Started),
        Report::Guard(GuardEvent::Ended(status)) => Some(Fact::Ended(status)),
        _ => None,
    }
}

/// The fact in a decision of the supervisor.
pub(super) fn action_fact(action: Action) -> Option<Fact> {
    match action {
        Action::Stop(_) | Action::KillAll | Action::KillAndReport => Some(Fact::StopOrdered),
        Action::Release => Some(Fact::Releasing),
        Action::Start | Action::Forward(_) | Action::Suspend { .. } | Action::Exit(_) => None,
    }
}

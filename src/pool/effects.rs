//! What a backend whose store is another program has decided, until the loop takes it.

use super::events::Log;
use super::waiters::PendingRequest;
use super::{Answer, Grant, Output, Ticket};
use crate::plan::Level;
use std::collections::VecDeque;
use std::rc::Rc;

#[derive(Debug)]
enum Effect {
    Output(Output),
    Yes(Yes),
}

/// A YES that the loop has not taken.
#[derive(Debug)]
pub(super) struct Yes {
    pub(super) request: PendingRequest,
    pub(super) pool: Rc<str>,
    pub(super) grant: Grant,
}

/// In the order in which they were decided.
#[derive(Debug, Default)]
pub(super) struct Effects(VecDeque<Effect>);

impl Effects {
    pub(super) fn output(&mut self, output: Output) {
        self.0.push_back(Effect::Output(output));
    }

    pub(super) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.output(Output::Answer(ticket, answer));
    }

    pub(super) fn yes(&mut self, yes: Yes) {
        self.0.push_back(Effect::Yes(yes));
    }

    /// Takes the oldest one.
    pub(super) fn next(&mut self) -> Option<Output> {
        Some(match self.0.pop_front()? {
            Effect::Output(output) => output,
            Effect::Yes(Yes { request, grant, .. }) => {
                Output::Answer(request.ticket, Answer::Yes(grant))
            }
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The client has hung up: removes its YES. The caller undoes it.
    pub(super) fn cancel(&mut self, ticket: Ticket) -> Option<Yes> {
        let is_its =
            |effect: &Effect| matches!(effect, Effect::Yes(yes) if yes.request.ticket == ticket);
        let index = self.0.iter().position(is_its)?;
        match self.0.remove(index)? {
            Effect::Yes(yes) => Some(yes),
            Effect::Output(_) => None,
        }
    }
}

impl Log for Effects {
    fn note(&mut self, level: Level, note: String) {
        self.output(Output::Note(level, note));
    }
}

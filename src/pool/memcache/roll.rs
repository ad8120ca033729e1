//! The hosts on a list, as it was seen last, and what is known of them here: who came on it here, by which token, and whether it was told.

use super::proposal::Proposal;
use crate::moment::Moment;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A host on the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Known {
    /// Since when it is seen there.
    pub(super) since: Moment,
    /// Its token, if it came on the list here.
    pub(super) token: Option<i64>,
    /// Answers YES that were given here, and not in vain.
    answers: u32,
    /// It has shown that it knows its token: one of them has arrived.
    heard: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Roll(BTreeMap<Rc<str>, Known>);

impl Roll {
    /// By name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Known)> {
        self.0.iter().map(|(host, known)| (&**host, *known))
    }

    pub(super) fn token(&self, host: &str) -> Option<i64> {
        self.0.get(host)?.token
    }

    /// Takes in a list as it is now. Who is new on it has the tokens after `last_token`.
    pub(super) fn update(&mut self, proposal: &Proposal, last_token: i64, now: Moment) {
        let mut before = std::mem::take(&mut self.0);
        let mut known = |host: &Rc<str>| before.remove(host).unwrap_or(Known { since: now, token: None, answers: 0, heard: false });
        self.0 = proposal.hosts.iter().map(|host| (host.clone(), known(host))).collect();
        for (host, token) in proposal.fresh.iter().zip(last_token.saturating_add(1)..) {
            self.0.insert(host.clone(), Known { since: now, token: Some(token), answers: 0, heard: false });
        }
    }

    /// The host is told that it is on the list. Whether that is the first it hears of it.
    pub(super) fn tell(&mut self, host: &str) -> bool {
        let Some(known) = self.0.get_mut(host) else { return false };
        known.answers = known.answers.saturating_add(1);
        known.answers == 1
    }

    /// Telling it was in vain.
    pub(super) fn untell(&mut self, host: &str, token: i64) {
        if let Some(known) = self.0.get_mut(host).filter(|known| known.token == Some(token)) {
            known.answers = known.answers.saturating_sub(1);
        }
    }

    /// The host says that it is on the list by this token.
    pub(super) fn hear(&mut self, host: &str, token: Option<i64>) {
        if let Some(known) = self.0.get_mut(host).filter(|known| known.token.is_some() && known.token == token) {
            known.heard = true;
        }
    }

    /// Whether the host came on the list here by this token, and does not know.
    pub(super) fn is_untold(&self, host: &str, token: i64) -> bool {
        self.0.get(host).is_some_and(|known| known.token == Some(token) && known.answers == 0 && !known.heard)
    }
}

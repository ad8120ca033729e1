//! `--break`: takes a lock away from its holder. The holder is asked, and releases the lock when its
//! command is dead. Here is which holder is asked, and how the outcome is told; the machines that
//! ask are below.

pub mod http;
pub mod zookeeper;

use crate::printable::printable;
use crate::status::{self, Holder, Kind};
use std::fmt::{self, Display};
use std::time::Duration;

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The holder released the lock before it was asked.
    Left,
    /// The holder has released the lock. For how long it had held it, if that is known.
    Evicted {
        /// By the clock of the servers.
        held: Option<Duration>,
    },
    /// The holder does not hold the lock any more, and has not answered.
    Unanswered,
    /// The holder does not answer. It keeps the lock.
    Silent,
    /// The wait ended before a holder must have answered. It may still obey.
    TooShort {
        /// How long an answer may take.
        answer: Duration,
    },
    /// The holder has answered, and still holds the lock at the end of the wait.
    StillHeld {
        /// Its time between TERM and KILL, if it has told it.
        kill_after: Option<Duration>,
    },
    /// The holder of a file was asked, and another process holds the file at the end of the wait. It
    /// may have inherited the lock.
    HeldByAnother {
        /// The process, if it can be seen.
        pid: Option<u32>,
    },
    /// The server has revoked the lock, and the holder still holds it at the end of the wait.
    StillRevoked {
        /// When its lease ends, if that is known.
        expires: Option<Duration>,
    },
    /// No server has answered at the end of the wait. The holder may have been asked.
    Unknown,
    /// No server has answered at the end of the wait. The node may have been deleted.
    DeletionUnknown,
    /// The holder did not answer, and its node was deleted.
    Deleted(Newcomer),
}

/// Whether the deletion of a node has hit another client than the one that did not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Newcomer {
    /// It has not.
    NotHit,
    /// It may have: other nodes next to it have changed at that moment.
    Possible,
    /// It has.
    Hit,
}

/// A holder that can be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The node, file or pool.
    pub path: String,
    /// The kind of the lock.
    pub kind: Option<Kind>,
    /// What is known of it.
    pub holder: Holder,
}

/// Why no holder is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Nothing holds the lock.
    Free,
    /// Whether it is held cannot be read.
    Unknown,
    /// Several hold it, and the operator has not chosen one.
    Several(Vec<Candidate>),
    /// No holder has the token that the operator gave.
    OtherHolder {
        /// The token.
        token: i64,
        /// The holders of the lock.
        holders: Vec<Candidate>,
    },
}

/// The holder to ask: the only one, or the one with this token.
pub fn choose(locks: &[status::Lock], token: Option<i64>) -> Result<Candidate, Refusal> {
    let mut candidates = Vec::new();
    for lock in locks {
        for holder in lock.holders.as_ref().ok_or(Refusal::Unknown)? {
            candidates.push(Candidate {
                path: lock.path.clone(),
                kind: lock.kind,
                holder: holder.clone(),
            });
        }
    }
    if candidates.is_empty() {
        return Err(Refusal::Free);
    }
    let Some(token) = token else {
        return match candidates.len() {
            1 => Ok(candidates.remove(0)),
            _ => Err(Refusal::Several(candidates)),
        };
    };
    let position = candidates
        .iter()
        .position(|candidate| candidate.holder.token == Some(token));
    match position {
        Some(position) => Ok(candidates.swap_remove(position)),
        None => Err(Refusal::OtherHolder {
            token,
            holders: candidates,
        }),
    }
}

impl Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&status::origin(&self.holder))?;
        match self.holder.token {
            Some(token) => write!(f, " (token {token})"),
            None => Ok(()),
        }
    }
}

fn list(candidates: &[Candidate]) -> String {
    let shown = candidates.iter().map(ToString::to_string);
    shown.collect::<Vec<_>>().join(", ")
}

/// Says of a lock why no holder is asked.
pub fn refusal_line(lock: &str, refusal: &Refusal) -> String {
    match refusal {
        Refusal::Free => format!("{lock} is free"),
        Refusal::Unknown => format!(
            "cannot find the holder of {lock}: check its ACL, or with --local run this as root on its host"
        ),
        Refusal::Several(holders) | Refusal::OtherHolder { holders, .. }
            if holders.iter().all(|it| it.kind == Some(Kind::SharedFile)) =>
        {
            format!(
                "the tokens of the readers that hold {lock} are not known: send TERM to one of these processes: {}",
                list(holders)
            )
        }
        Refusal::Several(holders) => format!(
            "{lock} has {} holders, choose one by --token: {}",
            holders.len(),
            list(holders)
        ),
        Refusal::OtherHolder { token, holders } => format!(
            "token {token} does not hold {lock} any more: it is held by {}",
            list(holders)
        ),
    }
}

/// Says what became of a holder. `waited`: the whole time of `-w`. `force`: whether the
/// operator has given `--force`. `Err`: it still holds the lock, as far as is known.
pub fn outcome_line(
    target: &Candidate,
    outcome: Outcome,
    waited: Duration,
    force: bool,
) -> Result<String, String> {
    let path = &printable(&target.path);
    // kazoo's Lock creates its node when it begins to wait.
    let held = |held: Option<Duration>| match (held.map(status::duration), target.kind) {
        (None, _) => String::new(),
        (Some(held), Some(Kind::Queue | Kind::Readers)) => {
            format!(", which it had requested {held} before")
        }
        (Some(held), _) => format!(", which it had held for {held}"),
    };
    let waited = status::duration(waited);
    match outcome {
        Outcome::Left => Ok(format!("{target} had released {path} before it was asked")),
        Outcome::Evicted { held: time } => {
            Ok(format!("evicted {target} from {path}{}", held(time)))
        }
        Outcome::Unanswered => Ok(format!(
            "{target} released {path} without an answer; its command may run on"
        )),
        Outcome::Deleted(newcomer) => Ok(format!(
            "deleted the node of {target}, which did not answer, from {path}; its command may run \
             on{}",
            match newcomer {
                Newcomer::NotHit => "",
                Newcomer::Possible =>
                    "; other locks changed at that moment or the connection was lost, and perhaps the node of the next holder \
                     was deleted, which then loses the lock",
                Newcomer::Hit =>
                    "; it had just released the lock, and the node of the next holder was deleted, \
                     which loses the lock",
            }
        )),
        Outcome::Silent => Err(format!(
            "{target} does not answer and keeps {path}: it is dead or cut off (then the lock is free \
             when its session has expired), stopped, a Python or kazoo client, or an older version; \
             stop it on its host, or delete its node with --force (its command may then run beside \
             that of the next holder)"
        )),
        Outcome::TooShort { answer } => Err(format!(
            "{target} was asked to release {path}, has not answered within {waited}, and may still \
             stop; an answer may take {}: use a longer -w",
            status::duration(answer)
        )),
        Outcome::Unknown => Err(format!(
            "no server of ZooKeeper answers, and after {waited} {path} may still be held: {target} \
             may have been asked, and may still stop"
        )),
        Outcome::DeletionUnknown => Err(format!(
            "no server of ZooKeeper answers, and after {waited} {path} may still be held: {target} \
             did not answer, and its node may have been deleted"
        )),
        Outcome::StillHeld { kill_after } => Err(format!(
            "{target} was asked and still holds {path} after {waited}{}{}",
            match kill_after {
                None => String::new(),
                Some(Duration::MAX) => ": it sends its command no KILL (-k inf)".into(),
                Some(time) => format!(
                    ": it gives its command {} between TERM and KILL",
                    status::duration(time)
                ),
            },
            if force {
                "; --force deletes only the node of a holder that does not answer"
            } else {
                ""
            }
        )),
        Outcome::HeldByAnother { pid } => Err(match pid {
            Some(pid) => format!(
                "{target} was asked, and after {waited} {path} is held by process {pid}, which may \
                 have inherited the lock: stop that process"
            ),
            None => format!(
                "{target} was asked, and after {waited} {path} is held by a process that cannot be \
                 seen: look for it as root"
            ),
        }),
        Outcome::StillRevoked { expires } => Err(format!(
            "revoked {path} for {target}, which still holds it after {waited}: {}",
            match expires {
                Some(left) => format!(
                    "it learns of this at its next renewal, and its lease ends in {}",
                    status::duration(left)
                ),
                None =>
                    "a holder without a lease does not learn of it, so stop it on its host, or if it is \
                     dead, request /release/ for it (EXAMPLES of distributexd(8)); any other does at \
                     its next renewal"
                        .into(),
            }
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(tokens: &[i64]) -> status::Lock {
        let holder = |&token| Holder {
            host: Some("web".into()),
            pid: Some(7),
            token: Some(token),
            ..Holder::default()
        };
        status::Lock {
            name: "report".into(),
            path: "/ops/report".into(),
            kind: Some(Kind::Node),
            slots: Some(1),
            holders: Some(tokens.iter().map(holder).collect()),
            waiters: vec![],
            last_run: None,
        }
    }

    fn token_of(chosen: &Result<Candidate, Refusal>) -> Option<i64> {
        chosen.as_ref().ok()?.holder.token
    }

    #[test]
    fn only_holder_is_chosen_and_several_need_a_token() {
        assert_eq!(choose(&[lock(&[])], None), Err(Refusal::Free));
        assert_eq!(choose(&[lock(&[])], Some(1)), Err(Refusal::Free));
        assert_eq!(token_of(&choose(&[lock(&[5])], None)), Some(5));
        assert_eq!(token_of(&choose(&[lock(&[5])], Some(5))), Some(5));
        for two in [vec![lock(&[5, 6])], vec![lock(&[5]), lock(&[6])]] {
            assert!(matches!(choose(&two, None), Err(Refusal::Several(all)) if all.len() == 2));
            assert_eq!(token_of(&choose(&two, Some(6))), Some(6));
        }
        let unknown = status::Lock {
            holders: None,
            ..lock(&[])
        };
        assert_eq!(choose(&[unknown], None), Err(Refusal::Unknown));
    }

    #[test]
    fn refusals_name_the_holders() {
        let line =
            |chosen: Result<Candidate, Refusal>| refusal_line("report", &chosen.unwrap_err());
        assert_eq!(
            line(choose(&[lock(&[5, 6])], None)),
            "report has 2 holders, choose one by --token: web:7 (token 5), web:7 (token 6)"
        );
        assert_eq!(
            line(choose(&[lock(&[6])], Some(5))),
            "token 5 does not hold report any more: it is held by web:7 (token 6)"
        );
        for token in [None, Some(5)] {
            let mut readers = lock(&[5, 6]);
            readers.kind = Some(Kind::SharedFile);
            let holders = readers.holders.iter_mut().flatten();
            holders.for_each(|holder| holder.token = None);
            assert_eq!(
                line(choose(&[readers], token)),
                "the tokens of the readers that hold report are not known: send TERM to one of these processes: web:7, web:7"
            );
        }
    }

    #[test]
    fn names_of_a_server_cannot_control_the_terminal() {
        let mut odd = lock(&[5]);
        odd.path = "a\u{1b}[31m\u{202e}@dx:9889".into();
        odd.holders.as_mut().unwrap()[0].host = Some("w\u{9b}eb\n".into());
        let target = choose(&[odd], None).unwrap();
        assert_eq!(
            outcome_line(&target, Outcome::Left, Duration::ZERO, false),
            Ok("w?eb?:7 (token 5) had released a?[31m?@dx:9889 before it was asked".into())
        );
    }

    #[test]
    fn only_a_lock_that_is_still_held_is_a_failure() {
        let target = choose(&[lock(&[5])], None).unwrap();
        let line = |outcome| outcome_line(&target, outcome, Duration::from_secs(30), false);
        assert_eq!(
            line(Outcome::Evicted {
                held: Some(Duration::from_secs(3700))
            }),
            Ok("evicted web:7 (token 5) from /ops/report, which it had held for 1h 1m".into())
        );
        assert_eq!(
            line(Outcome::Unanswered),
            Ok(
                "web:7 (token 5) released /ops/report without an answer; its command may run on"
                    .into()
            )
        );
        for held in [
            Outcome::Silent,
            Outcome::TooShort {
                answer: Duration::from_secs(6),
            },
            Outcome::Unknown,
            Outcome::DeletionUnknown,
            Outcome::StillHeld {
                kill_after: Some(Duration::MAX),
            },
            Outcome::HeldByAnother { pid: Some(8) },
            Outcome::HeldByAnother { pid: None },
            Outcome::StillRevoked { expires: None },
        ] {
            assert!(line(held).is_err(), "{held:?}");
        }
        for newcomer in [Newcomer::NotHit, Newcomer::Possible, Newcomer::Hit] {
            assert!(line(Outcome::Deleted(newcomer)).is_ok());
        }
    }

    #[test]
    fn force_has_no_effect_on_a_holder_that_has_answered() {
        let target = choose(&[lock(&[5])], None).unwrap();
        let held = Outcome::StillHeld {
            kill_after: Some(Duration::from_secs(5)),
        };
        let line = |force| outcome_line(&target, held, Duration::from_secs(30), force).unwrap_err();
        assert!(
            line(true).contains("--force deletes only"),
            "{}",
            line(true)
        );
        assert!(!line(false).contains("--force"), "{}", line(false));
    }
}

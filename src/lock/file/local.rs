//! `--local`: a lock of one host, by flock(2) on a file. The loop locks the files and reports the
//! results; this machine decides which file to lock when. There is no service that could end the
//! lock, so it needs no proof and cannot be lost. It ends with the descriptor, which the guard
//! keeps. Sans-I/O.

use crate::lock::{
    Event, Failure, FileEvent, FileOrder, Holder, Input, Lock, Output, Proof, circular,
};
use crate::moment::Moment;
use std::collections::VecDeque;

/// Which files to lock, and how long to wait.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name and full path of each file, at least one, in order of preference.
    pub files: Vec<(String, String)>,
    /// Until when to wait; `None`: one try.
    pub wait_until: Option<Moment>,
    /// Path and token of each local lock that this run was started under.
    pub outer: Vec<(String, i64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The file with this index is being tried.
    Trying(usize),
    /// All files are locked by others. The first that becomes free is enough.
    Waiting,
    /// The lock is acquired or cannot be. Waits for `Release`.
    Settled,
}

/// The lock.
#[derive(Debug)]
pub struct LocalLock {
    options: Options,
    phase: Phase,
    /// For each file: the holder is a run that this one was started under.
    outer: Vec<bool>,
    outputs: VecDeque<Output>,
}

impl LocalLock {
    /// The first `poll` starts to try the files.
    pub fn new(options: Options) -> LocalLock {
        let mut local = LocalLock {
            outer: vec![false; options.files.len()],
            options,
            phase: Phase::Waiting,
            outputs: VecDeque::new(),
        };
        local.try_file(0);
        local
    }

    fn try_file(&mut self, file: usize) {
        self.phase = Phase::Trying(file);
        self.emit(Event::Trying(self.options.files[file].0.clone()));
        self.outputs
            .push_back(Output::File(FileOrder::Lock { file, wait: false }));
    }

    fn holder(&self) -> Holder {
        let lock = self
            .options
            .files
            .iter()
            .map(|(_, path)| path.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        Holder {
            lock,
            host: None,
            since: None,
            session: None,
        }
    }

    fn emit(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn settle(&mut self, event: Event) {
        self.phase = Phase::Settled;
        self.emit(event);
    }
}

impl Lock for LocalLock {
    fn handle(&mut self, input: Input, now: Moment) {
        if let (
            Input::File(FileEvent::Busy {
                file,
                token: Some(token),
            }),
            Phase::Trying(_),
        ) = (&input, self.phase)
        {
            self.outer[*file] = self
                .options
                .outer
                .contains(&(self.options.files[*file].1.clone(), *token));
        }
        match (input, self.phase) {
            (Input::File(FileEvent::Locked { file, token }), Phase::Trying(_) | Phase::Waiting) => {
                let (name, lock) = self.options.files[file].clone();
                if self.phase == Phase::Waiting {
                    self.emit(Event::Trying(name)); // the last name that is reported is the one held
                }
                self.settle(Event::Acquired(Proof {
                    lock,
                    token: Some(token),
                    session: None,
                }));
            }
            (Input::File(FileEvent::Busy { file, .. }), Phase::Trying(tried))
                if file == tried && file + 1 < self.options.files.len() =>
            {
                self.try_file(file + 1);
            }
            (Input::File(FileEvent::Busy { .. }), Phase::Trying(_))
                if self.options.wait_until.is_some() && self.outer.iter().all(|&outer| outer) =>
            {
                self.settle(Event::Failed(circular(
                    &self.holder().lock,
                    "the token in the file is that of its ZK_FLOCK_TOKEN",
                )));
            }
            (Input::File(FileEvent::Busy { .. }), Phase::Trying(_))
                if self
                    .options
                    .wait_until
                    .is_some_and(|wait_until| now < wait_until) =>
            {
                self.phase = Phase::Waiting;
                self.emit(Event::Waiting {
                    holder: self.holder(),
                    position: None,
                });
                self.outputs.extend(
                    (0..self.options.files.len())
                        .map(|file| Output::File(FileOrder::Lock { file, wait: true })),
                );
            }
            (Input::File(FileEvent::Busy { .. }), Phase::Trying(_)) => {
                self.settle(Event::Busy(self.holder()));
            }
            (Input::File(FileEvent::Failed(why)), Phase::Trying(_) | Phase::Waiting) => {
                self.settle(Event::Failed(Failure::System(why)));
            }
            (Input::Release, _) => self.settle(Event::Released { doubt: None }),
            _ => {}
        }
    }

    fn poll(&mut self, now: Moment) -> Output {
        let wait_until = self.options.wait_until.unwrap_or(Moment::NEVER);
        if self.phase == Phase::Waiting && now >= wait_until {
            self.settle(Event::Busy(self.holder()));
        }
        let wake = if self.phase == Phase::Waiting {
            wait_until
        } else {
            Moment::NEVER
        };
        self.outputs.pop_front().unwrap_or(Output::Wait(wake))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Driver, NoPeer};
    use std::time::Duration;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    /// A lock that tries these files, and was started under local locks with these tokens.
    fn nested(
        names: &[&str],
        wait_until: Option<Moment>,
        outer: &[(&str, i64)],
    ) -> Driver<LocalLock> {
        let path = |name: &str| format!("/d/{name}");
        let lock = LocalLock::new(Options {
            files: names
                .iter()
                .map(|name| (name.to_string(), path(name)))
                .collect(),
            wait_until,
            outer: outer
                .iter()
                .map(|(name, token)| (path(name), *token))
                .collect(),
        });
        Driver::new(lock, at(0))
    }

    fn local(names: &[&str], wait_until: Option<Moment>) -> Driver<LocalLock> {
        nested(names, wait_until, &[])
    }

    /// All that it does after this event.
    #[track_caller]
    fn after(lock: &mut Driver<LocalLock>, event: FileEvent) -> Vec<Output> {
        let now = lock.now();
        lock.input(now, |it| it.handle(Input::File(event), now));
        rest(lock)
    }

    #[track_caller]
    fn rest(lock: &mut Driver<LocalLock>) -> Vec<Output> {
        std::iter::from_fn(|| lock.next_report(&mut NoPeer)).collect()
    }

    fn busy(file: usize, token: Option<i64>) -> FileEvent {
        FileEvent::Busy { file, token }
    }

    fn order(file: usize, wait: bool) -> Output {
        Output::File(FileOrder::Lock { file, wait })
    }

    #[test]
    fn wait_is_circular_only_if_outer_runs_hold_all_files() {
        for (tokens, patience, circular) in [
            ([Some(5), Some(6)], Some(at(9)), true),
            ([Some(5), Some(7)], Some(at(9)), false),
            ([None, Some(6)], Some(at(9)), false),
            ([Some(5), Some(6)], None, false),
        ] {
            let mut lock = nested(&["a", "b"], patience, &[("a", 5), ("b", 6)]);
            rest(&mut lock);
            let mut said = Vec::new();
            for (file, token) in tokens.into_iter().enumerate() {
                said = after(&mut lock, busy(file, token));
            }
            let failed = |output: &Output| matches!(output, Output::Event(Event::Failed(Failure::IncompatibleLock(why))) if why.contains("cannot end"));
            assert_eq!(said.iter().any(failed), circular, "{tokens:?}");
        }
    }

    #[test]
    fn free_file_is_acquired_at_once() {
        let mut lock = local(&["a"], None);
        assert_eq!(
            rest(&mut lock),
            [Output::Event(Event::Trying("a".into())), order(0, false)]
        );
        let acquired = Event::Acquired(Proof {
            lock: "/d/a".into(),
            token: Some(7),
            session: None,
        });
        assert_eq!(
            after(&mut lock, FileEvent::Locked { file: 0, token: 7 }),
            [Output::Event(acquired)]
        );
        assert_eq!(lock.advance(&mut NoPeer, at(9)), None);
        lock.input(at(9), |it| it.handle(Input::Release, at(9)));
        assert_eq!(
            rest(&mut lock),
            [Output::Event(Event::Released { doubt: None })]
        );
    }

    #[test]
    fn locked_file_is_busy_for_one_try() {
        let mut lock = local(&["a"], None);
        rest(&mut lock);
        assert!(matches!(
            after(&mut lock, busy(0, None))[..],
            [Output::Event(Event::Busy(_))]
        ));
    }

    #[test]
    fn first_free_file_is_acquired() {
        let mut lock = local(&["a", "b"], None);
        rest(&mut lock);
        assert_eq!(
            after(&mut lock, busy(0, None)),
            [Output::Event(Event::Trying("b".into())), order(1, false)]
        );
        assert!(
            matches!(&after(&mut lock, FileEvent::Locked { file: 1, token: 1 })[..], [Output::Event(Event::Acquired(proof))] if proof.lock == "/d/b")
        );
    }

    #[test]
    fn waiter_waits_for_all_files_until_its_deadline() {
        let mut lock = local(&["a", "b"], Some(at(5)));
        rest(&mut lock);
        after(&mut lock, busy(0, None));
        let said = after(&mut lock, busy(1, None));
        assert!(matches!(said[0], Output::Event(Event::Waiting { .. })));
        assert_eq!(said[1..], [order(0, true), order(1, true)]);
        assert_eq!(lock.wait(), at(5));
        let busy = lock.advance(&mut NoPeer, at(9));
        assert!(matches!(busy, Some(Output::Event(Event::Busy(_)))));
        assert_eq!(lock.now(), at(5));
        assert_eq!(
            after(&mut lock, FileEvent::Locked { file: 0, token: 1 }),
            [],
            "too late is too late"
        );
        assert_eq!(lock.wait(), Moment::NEVER);
    }
}

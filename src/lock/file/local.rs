//! `--local`: a lock of one host, by flock(2) on a file. The loop locks the files and reports the
//! results; this machine decides which file to lock when. There is no service that could end the
//! lock, so it needs no proof and cannot be lost. It ends with the descriptor, which the guard
//! keeps. Sans-I/O.

use super::record::{FileRecord, Recorder};
use crate::lock::period::{EarlierRun, Verdict, clock_was_set_back, judge};
use crate::lock::{
    Event, Failure, FileEvent, FileOrder, Holder, Input, Lock, Output, Proof, circular,
};
use crate::moment::Moment;
use std::collections::VecDeque;
use std::time::Duration;

/// How long a reader waits at least for others to take their tokens: each needs two system calls. One
/// that was stopped in the middle must not keep a run for ever that does not wait.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Which files to lock, and how long to wait.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name and full path of each file, at least one, in order of preference.
    pub files: Vec<(String, String)>,
    /// Until when to wait; `None`: one try.
    pub wait_until: Option<Moment>,
    /// Path and token of each local lock that this run was started under.
    pub outer: Vec<(String, i64)>,
    /// What a run with `--every` needs.
    pub recorder: Option<Recorder>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The file with this index is being tried.
    Trying(usize),
    /// All files are locked by others. The first that becomes free is enough.
    Waiting,
    /// The file is locked, and another reader takes its token.
    Delayed { file: usize, until: Moment },
    /// The file is locked, and the record of the last run in it is being read.
    Deciding { file: usize, token: i64 },
    /// The start of this run is being recorded.
    Starting { file: usize, token: i64 },
    /// The lock is acquired or cannot be. Waits for `Release`.
    Settled,
}

/// The lock.
#[derive(Debug)]
pub struct LocalLock {
    options: Options,
    phase: Phase,
    /// The file and the record of this run, once its start is recorded.
    started: Option<(usize, FileRecord)>,
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
            started: None,
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

    fn order(&mut self, order: FileOrder) {
        self.outputs.push_back(Output::File(order));
    }

    fn acquired(&mut self, file: usize, token: i64) {
        self.settle(Event::Acquired(Proof {
            lock: self.options.files[file].1.clone(),
            token: Some(token),
            session: None,
        }));
    }

    /// Decides by the record of the last run whether this run is due.
    fn decide(&mut self, file: usize, token: i64, found: Option<&[u8]>, now: Moment) {
        let Some(recorder) = &self.options.recorder else {
            return;
        };
        let lock = &self.options.files[file].1;
        // A record that cannot be read has no time, and so takes no turn.
        let last = found.and_then(FileRecord::parse);
        let verdict = last.as_ref().map_or(Verdict::Due, |last| {
            judge(recorder.every, recorder.compare(last, now))
        });
        if let (Verdict::Taken, Some(last)) = (verdict, &last) {
            let last = EarlierRun {
                lock: lock.clone(),
                started: last.started,
                host: Some(last.run.host.clone()),
            };
            return self.settle(Event::AlreadyRun(last));
        }
        let record = recorder.start(token, now);
        let warning = match verdict {
            Verdict::DueAfterClockChange(back) => Some(clock_was_set_back("this host", back, lock)),
            _ => None,
        };
        self.phase = Phase::Starting { file, token };
        self.order(FileOrder::WriteRecord {
            file,
            record: record.text(),
        });
        self.started = Some((file, record));
        warning
            .into_iter()
            .for_each(|text| self.emit(Event::Warn(text)));
    }

    /// The command has ended while the lock was held.
    fn record_end(&mut self, exit: u8, now: Moment) {
        let (Some(recorder), Some((file, started))) = (&self.options.recorder, &self.started)
        else {
            return;
        };
        let (file, record) = (*file, recorder.end(started, exit, now).text());
        self.order(FileOrder::WriteRecord { file, record });
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
            (
                Input::File(FileEvent::Locked { file, token }),
                Phase::Trying(_) | Phase::Waiting | Phase::Delayed { .. },
            ) => {
                if self.phase == Phase::Waiting {
                    let name = self.options.files[file].0.clone();
                    self.emit(Event::Trying(name)); // the last name that is reported is the one held
                }
                if self.options.recorder.is_none() {
                    return self.acquired(file, token);
                }
                self.phase = Phase::Deciding { file, token };
                self.order(FileOrder::ReadRecord { file });
            }
            (Input::File(FileEvent::Delayed { file }), Phase::Trying(_) | Phase::Waiting) => {
                let until = self.options.wait_until.unwrap_or(now);
                self.phase = Phase::Delayed {
                    file,
                    until: until.max(now + TOKEN_TIMEOUT),
                };
            }
            (Input::File(FileEvent::Record(found)), Phase::Deciding { file, token }) => {
                self.decide(file, token, found.as_deref(), now);
            }
            (Input::File(FileEvent::Written), Phase::Starting { file, token }) => {
                self.acquired(file, token);
            }
            (Input::Ended(exit), Phase::Settled) => self.record_end(exit, now),
            (Input::File(FileEvent::Failed(why)), Phase::Settled) if self.started.is_some() => {
                self.emit(Event::Warn(why));
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
            // Its helper was killed, or the file was replaced.
            (Input::File(FileEvent::Busy { file, .. }), Phase::Waiting) => {
                self.order(FileOrder::Lock { file, wait: true });
            }
            (Input::File(FileEvent::Busy { file, .. }), Phase::Delayed { .. }) => {
                self.try_file(file);
            }
            (Input::File(FileEvent::Failed(why)), _) if self.phase != Phase::Settled => {
                self.started = None;
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
        if let Phase::Delayed { file, until } = self.phase
            && now >= until
        {
            let path = &self.options.files[file].1;
            self.settle(Event::Failed(Failure::System(format!(
                "another process has the record lock of {path}, under which readers take their tokens: \
                 resume or end it; a file system that makes one lock of flock(2) and fcntl(2), e.g. NFS, \
                 has no readers"
            ))));
        }
        let wake = match self.phase {
            Phase::Waiting => wait_until,
            Phase::Delayed { until, .. } => until,
            _ => Moment::NEVER,
        };
        self.outputs.pop_front().unwrap_or(Output::Wait(wake))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Every;
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
            recorder: None,
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
    fn reader_that_waits_for_a_token_ends_in_time() {
        for (patience, until) in [(None, 5), (Some(at(3)), 5), (Some(at(60)), 60)] {
            let delayed = FileEvent::Delayed { file: 0 };
            let mut lock = local(&["a"], patience);
            rest(&mut lock);
            assert_eq!(after(&mut lock, delayed.clone()), []);
            assert_eq!(lock.wait(), at(until));
            // Another reader was quicker again: the time goes on.
            assert_eq!(lock.advance(&mut NoPeer, at(4)), None);
            assert_eq!(after(&mut lock, delayed), []);
            assert_eq!(lock.wait(), at(until));
            let said = lock.advance(&mut NoPeer, at(until));
            let failed = |output: &Output| matches!(output, Output::Event(Event::Failed(Failure::System(why))) if why.contains("record lock of /d/a"));
            assert!(said.as_ref().is_some_and(failed), "{said:?}");
        }
    }

    #[test]
    fn file_that_is_replaced_while_a_run_waits_is_tried_and_awaited_again() {
        let mut lock = local(&["a"], None);
        rest(&mut lock);
        after(&mut lock, FileEvent::Delayed { file: 0 });
        let said = after(&mut lock, busy(0, None));
        assert!(said.contains(&order(0, false)), "{said:?}");
        let mut lock = local(&["a"], Some(at(9)));
        rest(&mut lock);
        after(&mut lock, busy(0, None));
        assert_eq!(after(&mut lock, busy(0, None)), [order(0, true)]);
    }

    #[test]
    fn reader_acquires_the_lock_when_it_has_its_token() {
        let mut lock = local(&["a"], None);
        rest(&mut lock);
        after(&mut lock, FileEvent::Delayed { file: 0 });
        let said = after(&mut lock, FileEvent::Locked { file: 0, token: 7 });
        let acquired = |output: &Output| matches!(output, Output::Event(Event::Acquired(proof)) if proof.token == Some(7));
        assert!(said.iter().any(acquired), "{said:?}");
    }

    /// A run with `--every 10m` that asks at 0 s, 1,000 s after 1970.
    fn recording() -> (Driver<LocalLock>, Recorder) {
        let recorder = Recorder {
            every: Every {
                period: Duration::from_mins(10),
                retry_failed: false,
            },
            host: "web1".into(),
            pid: 7,
            boot: Some("b1".into()),
            asked: at(0),
            asked_at: 1_000_000,
        };
        let lock = LocalLock::new(Options {
            files: vec![("a".into(), "/d/a".into())],
            wait_until: None,
            outer: vec![],
            recorder: Some(recorder.clone()),
        });
        let mut lock = Driver::new(lock, at(0));
        rest(&mut lock);
        let read = Output::File(FileOrder::ReadRecord { file: 0 });
        assert_eq!(
            after(&mut lock, FileEvent::Locked { file: 0, token: 7 }),
            [read]
        );
        (lock, recorder)
    }

    fn write(record: &FileRecord) -> Output {
        let record = record.text();
        Output::File(FileOrder::WriteRecord { file: 0, record })
    }

    #[test]
    fn a_run_that_is_due_records_its_start_before_it_starts_and_its_end_before_the_release() {
        let long_ago = Recorder {
            asked_at: 0,
            boot: None,
            ..recording().1
        };
        let long_ago = long_ago.start(1, at(0)).text().into_bytes();
        for found in [None, Some(long_ago), Some(b"{garbage".to_vec())] {
            let (mut lock, recorder) = recording();
            let start = recorder.start(7, at(0));
            assert_eq!(after(&mut lock, FileEvent::Record(found)), [write(&start)]);
            let said = after(&mut lock, FileEvent::Written);
            assert!(
                matches!(&said[..], [Output::Event(Event::Acquired(proof))] if proof.token == Some(7)),
                "{said:?}"
            );
            lock.input(at(3), |it| it.handle(Input::Ended(5), at(3)));
            assert_eq!(rest(&mut lock), [write(&recorder.end(&start, 5, at(3)))]);
            assert_eq!(after(&mut lock, FileEvent::Written), []);
            let full = FileEvent::Failed("disk full".into());
            let warning = Output::Event(Event::Warn("disk full".into()));
            assert_eq!(after(&mut lock, full), [warning]);
        }
    }

    #[test]
    fn a_run_whose_turn_was_taken_does_not_start() {
        let (mut lock, recorder) = recording();
        let last = recorder.start(6, at(0)).text().into_bytes();
        let said = after(&mut lock, FileEvent::Record(Some(last)));
        let last = EarlierRun {
            lock: "/d/a".into(),
            started: 1_000_000,
            host: Some("web1".into()),
        };
        assert_eq!(said, [Output::Event(Event::AlreadyRun(last))]);
    }

    #[test]
    fn a_record_from_the_future_does_not_block_all_later_runs() {
        let (mut lock, recorder) = recording();
        let last = recorder.start(6, at(1_000_000)).text().into_bytes();
        let said = after(&mut lock, FileEvent::Record(Some(last)));
        let Output::Event(Event::Warn(text)) = &said[1] else {
            panic!("{said:?}")
        };
        assert!(text.contains("the clock of this host"), "{text}");
        assert_eq!(said[0], write(&recorder.start(7, at(0))));
    }

    #[test]
    fn a_record_that_cannot_be_written_ends_the_run_before_its_command() {
        let (mut lock, _) = recording();
        after(&mut lock, FileEvent::Record(None));
        let said = after(&mut lock, FileEvent::Failed("disk full".into()));
        let failure = Failure::System("disk full".into());
        assert_eq!(said, [Output::Event(Event::Failed(failure))]);
        lock.input(at(1), |it| it.handle(Input::Ended(1), at(1)));
        assert_eq!(rest(&mut lock), [], "nothing has started");
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

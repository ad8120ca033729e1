use super::Action::*;
use super::Event::*;
use super::*;

const HOLD: Duration = Duration::from_secs(5);
const KILL_AFTER: Duration = Duration::from_secs(4);

fn at(seconds: u64) -> Moment {
    Moment(Duration::from_secs(seconds))
}

fn typed(signal: Signal) -> Event {
    Signalled(signal, Origin::Typed)
}

/// The lock is lost at the end of its lease, and kept.
fn lost(second: u64) -> Event {
    Lost(Loss {
        kill_deadline: at(second),
        gone: false,
    })
}

/// The lock is lost, and another host can acquire it from then on.
fn taken(second: u64) -> Event {
    Lost(Loss {
        kill_deadline: at(second),
        gone: true,
    })
}

fn sent(signal: Signal) -> Event {
    Signalled(signal, Origin::Sent(Reach::Here))
}

fn stop(signal: Signal, kill_deadline: Moment) -> Action {
    Stop(StopOrder {
        signal,
        reach: Reach::Here,
        kill_deadline,
    })
}

/// Plays a script. Each line: the second, the event, and the expected action.
fn play(script: &[(u64, Event, Option<Action>)]) {
    let mut run = Supervisor::new(HOLD, KILL_AFTER);
    for (line, &(second, event, action)) in script.iter().enumerate() {
        // The loop wakes it for the rounds of a kill in between.
        while event == Tick && matches!(run.phase, Phase::Killing(_)) && run.wake() < at(second) {
            assert_eq!(run.step(Tick, run.wake()), Some(KillAll), "line {line}");
        }
        assert_eq!(
            run.step(event, at(second)),
            action,
            "line {line}: {event:?} at {second} s in {:?}",
            run.phase
        );
    }
}

const KILLED: Status = Status::Killed(Signal::TERM);
const FINE: Status = Status::Exited(0);

#[test]
fn successful_run_exits_with_the_commands_code() {
    let end = ExitReason::Command(Status::Exited(3));
    play(&[
        (0, Acquired, Some(Start)),
        (0, Started, None),
        (9, Ended(Status::Exited(3)), Some(Release)),
        (9, Released, Some(Exit(end))),
    ]);
}

#[test]
fn lock_is_held_for_the_minimum_time() {
    let end = ExitReason::Command(FINE);
    play(&[
        (0, Acquired, Some(Start)),
        (0, Started, None),
        (1, Ended(FINE), None),
        (4, Tick, None),
        (5, Tick, Some(Release)),
        (5, Released, Some(Exit(end))),
    ]);
}

#[test]
fn signal_ends_the_minimum_hold_and_keeps_the_exit_code() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let end = ExitReason::Command(FINE);
        play(&[
            (0, Acquired, Some(Start)),
            (1, Ended(FINE), None),
            (2, sent(signal), Some(Release)),
            (2, Released, Some(Exit(end))),
        ]);
    }
}

#[test]
fn lock_lost_during_the_minimum_hold_keeps_the_exit_code() {
    let end = ExitReason::Command(FINE);
    play(&[
        (0, Acquired, Some(Start)),
        (1, Ended(FINE), None),
        (2, lost(2), Some(Release)),
        (2, Released, Some(Exit(end))),
    ]);
}

#[test]
fn command_is_not_started_without_the_lock() {
    for end in [
        ExitReason::Busy,
        ExitReason::Unreachable,
        ExitReason::Refused,
    ] {
        play(&[
            (0, NoLock(end), Some(Release)),
            (0, Acquired, None),
            (0, Released, Some(Exit(end))),
        ]);
    }
}

#[test]
fn signal_ends_the_wait_and_the_command_is_not_started() {
    for signal in [
        Signal::TERM,
        Signal::INT,
        Signal::HUP,
        Signal::QUIT,
        Signal::USR1,
        Signal::USR2,
    ] {
        let end = ExitReason::Signalled(signal);
        play(&[
            (0, sent(signal), Some(Release)),
            (0, Acquired, None),
            (0, Released, Some(Exit(end))),
        ]);
    }
}

#[test]
fn term_stops_the_tree_before_the_lock_is_released() {
    let stop = stop(Signal::TERM, at(2) + KILL_AFTER);
    let end = ExitReason::Command(KILLED);
    play(&[
        (0, Acquired, Some(Start)),
        (0, Started, None),
        (2, sent(Signal::TERM), Some(stop)),
        (2, StopAcknowledged, None),
        (3, Ended(KILLED), None),
        (4, Tick, None),
        (4, sent(Signal::TERM), Some(Forward(Signal::TERM))),
        (6, TreeGone, Some(Release)),
        (6, Released, Some(Exit(end))),
    ]);
}

#[test]
fn revoked_lock_stops_the_command_and_ends_the_minimum_hold() {
    for status in [KILLED, FINE] {
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (2, Revoked, Some(stop(Signal::TERM, at(2) + KILL_AFTER))),
            (2, StopAcknowledged, None),
            (3, Ended(status), None),
            (3, Revoked, None),
            (4, TreeGone, Some(Release)),
            (4, Released, Some(Exit(ExitReason::Revoked))),
        ]);
    }
}

#[test]
fn revoked_lock_whose_lease_ends_first_is_lost() {
    play(&[
        (0, Acquired, Some(Start)),
        (0, Started, None),
        (2, Revoked, Some(stop(Signal::TERM, at(2) + KILL_AFTER))),
        (2, StopAcknowledged, None),
        (3, lost(4), Some(stop(Signal::TERM, at(4)))),
        (4, TreeGone, Some(Release)),
        (4, Released, Some(Exit(ExitReason::Lost))),
    ]);
}

#[test]
fn revoke_after_the_end_of_the_command_keeps_its_exit_code() {
    let end = ExitReason::Command(FINE);
    play(&[
        (0, Acquired, Some(Start)),
        (1, Ended(FINE), None),
        (2, Revoked, Some(Release)),
        (2, Revoked, None),
        (2, Released, Some(Exit(end))),
    ]);
    let stop = stop(Signal::TERM, at(1) + KILL_AFTER);
    let end = ExitReason::Command(KILLED);
    play(&[
        (0, Acquired, Some(Start)),
        (1, sent(Signal::TERM), Some(stop)),
        (1, StopAcknowledged, None),
        (2, Revoked, None),
        (2, Ended(KILLED), None),
        (2, TreeGone, Some(Release)), // without the revoke, the minimum hold would last until 5 s
        (2, Released, Some(Exit(end))),
    ]);
}

#[test]
fn lost_lock_stops_the_command_by_the_kill_deadline() {
    let stop = stop(Signal::TERM, at(9));
    play(&[
        (0, Acquired, Some(Start)),
        (0, Started, None),
        (7, lost(9), Some(stop)),
        (8, sent(Signal::TERM), Some(Forward(Signal::TERM))),
        (8, Ended(KILLED), None),
        (8, TreeGone, Some(Release)),
        (8, Released, Some(Exit(ExitReason::Lost))),
    ]);
}

#[test]
fn lock_lost_after_its_kill_deadline_kills_at_once() {
    play(&[
        (0, Acquired, Some(Start)),
        (7, lost(7), Some(stop(Signal::KILL, at(7)))),
    ]);
}

#[test]
fn lock_lost_during_a_stop_shortens_the_stop() {
    play(&[
        (0, Acquired, Some(Start)),
        (2, sent(Signal::TERM), Some(stop(Signal::TERM, at(6)))),
        (3, lost(4), Some(stop(Signal::TERM, at(4)))),
        (4, TreeGone, Some(Release)),
        (4, Released, Some(Exit(ExitReason::Lost))),
    ]);
}

#[test]
fn lock_that_is_gone_kills_the_command_at_once() {
    play(&[
        (0, Acquired, Some(Start)),
        (0, Started, None),
        (1, Gone, Some(stop(Signal::KILL, at(1)))),
        (1, TreeGone, Some(Release)),
        (1, Released, Some(Exit(ExitReason::Lost))),
    ]);
}

#[test]
fn loss_that_comes_with_the_kill_deadline_repeats_no_order() {
    play(&[
        (0, Acquired, Some(Start)),
        (1, lost(5), Some(stop(Signal::TERM, at(5)))),
        (5, taken(4), None),
        (5, TreeGone, Some(Release)),
    ]);
}

#[test]
fn typed_signal_is_not_forwarded_to_a_running_command() {
    let end = ExitReason::Signalled(Signal::INT);
    play(&[
        (0, Acquired, Some(Start)),
        (0, Started, None),
        (6, typed(Signal::INT), None),
        (6, Ended(Status::Killed(Signal::INT)), Some(Release)),
        (6, Released, Some(Exit(end))),
    ]);
    play(&[
        (0, Acquired, Some(Start)),
        (0, typed(Signal::INT), Some(Forward(Signal::INT))),
    ]); // the command may not have been there yet
    play(&[
        (0, Acquired, Some(Start)),
        (0, Started, None),
        (1, typed(Signal::TSTP), Some(Suspend { forward: false })),
    ]);
    play(&[
        (0, Acquired, Some(Start)),
        (0, Started, None),
        (1, sent(Signal::TSTP), Some(Suspend { forward: true })),
    ]);
}

#[test]
fn command_that_survives_an_interrupt_keeps_its_exit_code() {
    let end = ExitReason::Command(Status::Exited(9));
    play(&[
        (0, Acquired, Some(Start)),
        (0, Started, None),
        (6, typed(Signal::INT), None),
        (7, Ended(Status::Exited(9)), Some(Release)),
        (7, Released, Some(Exit(end))),
    ]);
}

#[test]
fn other_signals_are_forwarded() {
    for signal in [Signal::USR1, Signal::USR2, Signal::WINCH, Signal::CONT] {
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (1, sent(signal), Some(Forward(signal))),
        ]);
    }
}

#[test]
fn signal_that_ends_no_process_does_not_end_the_wait_the_hold_or_the_release() {
    let end = ExitReason::Command(FINE);
    for signal in [Signal::WINCH, Signal::CONT] {
        play(&[
            (0, sent(signal), None),
            (0, Acquired, Some(Start)),
            (1, Ended(FINE), None),
            (2, sent(signal), None),
            (5, Tick, Some(Release)),
            (5, sent(signal), None),
            (6, sent(Signal::TERM), Some(Exit(end))),
        ]);
    }
}

#[test]
fn this_process_is_suspended_until_it_releases_the_lock() {
    let alone = Some(Suspend { forward: false });
    play(&[
        (0, sent(Signal::TSTP), alone),
        (0, Acquired, Some(Start)),
        (1, Ended(FINE), None),
        (2, sent(Signal::TSTP), alone),
        (5, Tick, Some(Release)),
        (5, sent(Signal::TSTP), None),
    ]);
    play(&[
        (0, Acquired, Some(Start)),
        (1, sent(Signal::TERM), Some(stop(Signal::TERM, at(5)))),
        (1, typed(Signal::TSTP), alone),
        (1, sent(Signal::TSTP), Some(Suspend { forward: true })),
        (2, Tick, None),
        (4, Tick, Some(KillAll)),
        (4, sent(Signal::TSTP), None),
    ]);
}

/// Also if the report meets the stop of an operator. A lost lock is not taken for one that is held.
#[test]
fn command_that_cannot_start_ends_the_run() {
    let end = ExitReason::NotRunnable;
    let order = Some(stop(Signal::TERM, at(5)));
    play(&[
        (0, Acquired, Some(Start)),
        (1, CannotStart(end), Some(Release)),
        (1, Released, Some(Exit(end))),
    ]);
    play(&[
        (0, Acquired, Some(Start)),
        (1, sent(Signal::TERM), order),
        (1, CannotStart(end), Some(Release)),
        (1, Released, Some(Exit(end))),
    ]);
    play(&[
        (0, Acquired, Some(Start)),
        (1, lost(5), order),
        (1, CannotStart(end), None),
        (1, TreeGone, Some(Release)),
        (1, Released, Some(Exit(ExitReason::Lost))),
    ]);
    play(&[
        (0, Acquired, Some(Start)),
        (1, sent(Signal::TERM), order),
        (1, Ended(KILLED), None),
        (1, CannotStart(end), None), // a command that has ended has started
    ]);
}

#[test]
fn run_sleeps_until_its_next_deadline() {
    let course = |script: &[(u64, Event)]| {
        let mut run = Supervisor::new(HOLD, KILL_AFTER);
        for &(second, event) in script {
            run.step(event, at(second));
        }
        (run.wake(), run.end_of_command())
    };
    let ended = Some(ExitReason::Command(FINE));
    let killing = KillRounds::begin(at(2)).wake();
    for (script, wake, end) in [
        (&[(1, Acquired)][..], Moment::NEVER, None),
        (&[(1, Acquired), (2, sent(Signal::TERM))], at(3), None),
        (&[(1, Acquired), (2, GuardGone)], killing, None),
        (&[(1, Acquired), (2, Ended(FINE))], at(6), ended),
        (&[(1, Acquired), (7, Ended(FINE))], Moment::NEVER, ended),
    ] {
        assert_eq!(course(script), (wake, end), "{script:?}");
    }
}

#[test]
fn tree_is_killed_when_the_guard_exits() {
    play(&[
        (0, Acquired, Some(Start)),
        (0, Started, None),
        (1, GuardGone, Some(KillAll)),
        (1, TreeGone, Some(Release)),
        (1, Released, Some(Exit(ExitReason::InternalError))),
    ]);
}

#[test]
fn guard_that_does_not_react_is_killed_with_its_tree() {
    play(&[
        (0, Acquired, Some(Start)),
        (1, sent(Signal::TERM), Some(stop(Signal::TERM, at(5)))),
        (2, Tick, None),
        (4, Tick, Some(KillAll)),
        (4, TreeGone, Some(Release)),
        (4, Released, Some(Exit(ExitReason::InternalError))),
    ]);
    play(&[
        (0, Acquired, Some(Start)),
        (1, lost(2), Some(stop(Signal::TERM, at(2)))),
        (1, StopAcknowledged, None),
        (2, Tick, None),
        (3, Tick, Some(KillAll)),
        (3, TreeGone, Some(Release)),
        (3, Released, Some(Exit(ExitReason::Lost))),
    ]);
}

#[test]
fn unkillable_process_keeps_the_lock_after_a_stop() {
    play(&[
        (0, Acquired, Some(Start)),
        (1, sent(Signal::TERM), Some(stop(Signal::TERM, at(5)))),
        (1, StopAcknowledged, None),
        (6, Stuck, None),
        (66, Stuck, None),
        (70, Ended(KILLED), None),
        (70, TreeGone, Some(Release)),
        (70, Released, Some(Exit(ExitReason::Command(KILLED)))),
    ]);
}

#[test]
fn unkillable_process_does_not_keep_a_lock_that_is_gone() {
    play(&[
        (0, Acquired, Some(Start)),
        (1, taken(1), Some(stop(Signal::KILL, at(1)))),
        (2, Stuck, Some(Release)),
        (2, Released, Some(Exit(ExitReason::Lost))),
    ]);
    play(&[
        (0, Acquired, Some(Start)),
        (1, taken(1), Some(stop(Signal::KILL, at(1)))),
        (2, Tick, Some(KillAll)),
        (3, Tick, Some(Release)),
        (3, Released, Some(Exit(ExitReason::Lost))),
    ]);
}

#[test]
fn lost_lock_is_kept_until_the_tree_is_gone() {
    let kept: &[(u64, Event, Option<Action>)] = &[
        (0, Acquired, Some(Start)),
        (1, lost(2), Some(stop(Signal::TERM, at(2)))),
        (1, StopAcknowledged, None),
        (3, Tick, Some(KillAll)),
        (4, Tick, Some(KillAndReport)),
        (4, Tick, None),
        (64, Tick, Some(KillAndReport)),
    ];
    play(
        &[
            kept,
            &[
                (70, TreeGone, Some(Release)),
                (70, Released, Some(Exit(ExitReason::Lost))),
            ],
        ]
        .concat(),
    );
    play(
        &[
            kept,
            &[
                (70, Gone, Some(Release)),
                (70, Released, Some(Exit(ExitReason::Lost))),
            ],
        ]
        .concat(),
    );
    play(&[kept, &[(70, taken(70), Some(Release))]].concat());
    play(
        &[
            &kept[..3],
            &[(3, Stuck, None), (3, TreeGone, Some(Release))],
        ]
        .concat(),
    );
}

#[test]
fn lock_gone_during_the_kill_is_released_with_the_first_report() {
    play(&[
        (0, Acquired, Some(Start)),
        (1, lost(1), Some(stop(Signal::KILL, at(1)))),
        (2, Tick, Some(KillAll)),
        (2, Gone, None),
        (3, Tick, Some(Release)),
    ]);
    play(&[
        (0, Acquired, Some(Start)),
        (1, lost(1), Some(stop(Signal::KILL, at(1)))),
        (1, Gone, None),
        (1, TreeGone, Some(Release)),
    ]);
}

#[test]
fn lock_gone_before_the_kill_deadline_kills_at_once() {
    play(&[
        (0, Acquired, Some(Start)),
        (1, lost(5), Some(stop(Signal::TERM, at(5)))),
        (2, Gone, Some(stop(Signal::KILL, at(2)))),
        (3, Tick, Some(KillAll)),
        (4, Tick, Some(Release)),
    ]);
}

#[test]
fn loss_reported_by_guard_and_lock_counts_once() {
    play(&[
        (0, Acquired, Some(Start)),
        (1, lost(5), Some(stop(Signal::TERM, at(5)))),
        (1, taken(5), None),
        (6, Tick, Some(KillAll)),
        (7, Tick, Some(Release)),
    ]);
}

#[test]
fn guard_that_is_silent_after_the_acknowledgement_is_killed_with_its_tree() {
    play(&[
        (0, Acquired, Some(Start)),
        (1, sent(Signal::TERM), Some(stop(Signal::TERM, at(5)))),
        (1, StopAcknowledged, None),
        (6, Tick, None),
        (7, Tick, None),
        (9, Tick, Some(KillAll)),
        (9, TreeGone, Some(Release)),
        (9, Released, Some(Exit(ExitReason::InternalError))),
    ]);
    play(&[
        (0, Acquired, Some(Start)),
        (1, sent(Signal::TERM), Some(stop(Signal::TERM, at(5)))),
        (1, StopAcknowledged, None),
        (6, Ended(KILLED), None),
        (6, Stuck, None),
        (66, Tick, None), // the guard reports survivors once a minute
        (67, Tick, None),
        (69, Tick, Some(KillAll)),
        (69, TreeGone, Some(Release)),
        (69, Released, Some(Exit(ExitReason::Command(KILLED)))),
    ]);
}

/// The simulation found it: a host slept over the kill deadline of a stop, and zk-flock woke up first.
#[test]
fn guard_that_slept_with_its_host_has_time_after_it_has_woken_up() {
    let stopped = [
        (0, Acquired, Some(Start)),
        (1, sent(Signal::TERM), Some(stop(Signal::TERM, at(5)))),
        (1, StopAcknowledged, None),
        (60, Tick, None),
    ];
    let ends = [
        (60, Ended(KILLED), None),
        (60, TreeGone, Some(Release)),
        (60, Released, Some(Exit(ExitReason::Command(KILLED)))),
    ];
    let silent = [(61, Tick, None), (62, Tick, Some(KillAll))];
    play(&[&stopped[..], &ends].concat());
    play(&[&stopped[..], &silent].concat());
    play(&[
        (0, Acquired, Some(Start)),
        (1, lost(5), Some(stop(Signal::TERM, at(5)))),
        (60, Tick, Some(KillAll)), // a lost lock leaves no time
    ]);
}

/// The simulation found it: a host slept over the kill deadline and was awake again when the guard was
/// overdue, so no timer of this process was late.
#[test]
fn guard_that_slept_before_it_was_overdue_is_not_called_killed() {
    let slept = [
        (0, Acquired, Some(Start)),
        (1, sent(Signal::TERM), Some(stop(Signal::TERM, at(5)))),
        (1, StopAcknowledged, None), // the host sleeps from here until it is 6 s
        (7, Tick, None),
    ];
    let reports = [(7, Stuck, None), (67, Stuck, None), (68, Tick, None)];
    let ends = [
        (68, Ended(KILLED), None),
        (68, TreeGone, Some(Release)),
        (68, Released, Some(Exit(ExitReason::Command(KILLED)))),
    ];
    play(&[&slept[..], &reports, &ends].concat());
    let silent = [(8, Tick, None), (9, Tick, Some(KillAll))];
    play(&[&slept[..], &silent].concat());
}

/// Host and command are stopped for long, and the guard acknowledges and reports late each time.
#[test]
fn each_report_of_the_guard_ends_the_doubt() {
    let order = stop(Signal::TERM, at(5));
    play(&[
        (0, Acquired, Some(Start)),
        (1, sent(Signal::TERM), Some(order)),
        (8, Tick, None),
        (8, StopAcknowledged, None),
        (8, Tick, None), // the kill deadline has passed long ago
        (9, Ended(KILLED), None),
        (10, Tick, None),
        (11, Stuck, None),
        (72, Tick, None),
        (73, Stuck, None),
        (134, Tick, None),
        (136, Tick, Some(KillAll)),
    ]);
}

/// Its lease presses, and grows by no doubt.
#[test]
fn lock_lost_while_the_guard_is_doubted_leaves_no_more_time() {
    let doubted = [
        (0, Acquired, Some(Start)),
        (1, sent(Signal::TERM), Some(stop(Signal::TERM, at(5)))),
        (2, Tick, None),
    ];
    let kill = stop(Signal::KILL, at(3));
    for loss in [lost(3), taken(3), Gone] {
        let killed = [(3, loss, Some(kill)), (4, Tick, Some(KillAll))];
        play(&[&doubted[..], &killed].concat());
    }
}

#[test]
fn stop_without_a_kill_deadline_has_no_limit() {
    let mut run = Supervisor::new(HOLD, Duration::MAX);
    for (event, action) in [
        (Acquired, Some(Start)),
        (sent(Signal::TERM), Some(stop(Signal::TERM, Moment::NEVER))),
        (StopAcknowledged, None),
    ] {
        assert_eq!(run.step(event, at(1)), action);
    }
    assert_eq!(run.wake(), Moment::NEVER);
}

#[test]
fn tree_is_killed_when_the_guard_exits_during_a_stop() {
    play(&[
        (0, Acquired, Some(Start)),
        (6, sent(Signal::TERM), Some(stop(Signal::TERM, at(10)))),
        (6, StopAcknowledged, None),
        (6, Ended(KILLED), None),
        (7, GuardGone, Some(KillAll)),
        (7, TreeGone, Some(Release)),
        (7, Released, Some(Exit(ExitReason::Command(KILLED)))),
    ]);
}

#[test]
fn unkillable_process_without_a_guard_is_reported_and_keeps_the_lock() {
    play(&[
        (0, Acquired, Some(Start)),
        (1, GuardGone, Some(KillAll)),
        (2, Tick, Some(KillAndReport)),
        (2, Tick, None),
        (62, Tick, Some(KillAndReport)),
    ]);
    play(&[
        (0, Acquired, Some(Start)),
        (1, GuardGone, Some(KillAll)),
        (1, taken(1), None),
        (2, Tick, Some(Release)),
        (2, Released, Some(Exit(ExitReason::Lost))),
    ]);
}

#[test]
fn command_that_ended_before_the_order_keeps_its_exit_code() {
    play(&[
        (0, Acquired, Some(Start)),
        (6, sent(Signal::TERM), Some(stop(Signal::TERM, at(10)))),
        (6, Ended(FINE), None),
        (6, GuardGone, Some(Release)), // it exited before it received the order
        (6, Released, Some(Exit(ExitReason::Command(FINE)))),
    ]);
    play(&[
        (0, Acquired, Some(Start)),
        (6, Revoked, Some(stop(Signal::TERM, at(10)))),
        (6, Ended(FINE), None),
        (6, GuardGone, Some(Release)),
        (6, Released, Some(Exit(ExitReason::Command(FINE)))),
    ]);
}

/// For all orders of events: the command is started once, and only with the lock; the lock is not
/// released while a process of the tree may live; the run exits once, at the end.
#[test]
fn no_order_of_events_releases_the_lock_while_the_command_lives() {
    let events = [
        Acquired,
        NoLock(ExitReason::Busy),
        lost(0),
        lost(3),
        taken(3),
        Gone,
        Revoked,
        Released,
        Started,
        CannotStart(ExitReason::NotRunnable),
        Ended(FINE),
        StopAcknowledged,
        TreeGone,
        Stuck,
        GuardGone,
        sent(Signal::TERM),
        typed(Signal::INT),
        Tick,
    ];
    let mut orders = 0u32;
    let mut open = vec![(
        Supervisor::new(Duration::ZERO, Duration::ZERO),
        Model::default(),
        0,
    )];
    while let Some((run, model, depth)) = open.pop() {
        for event in events {
            let mut run = Supervisor { ..run };
            let now = at(depth); // one second between events, so each deadline passes in some order
            let model = model.after(event, run.step(event, now));
            orders += 1;
            if depth < 5 && model.exits == 0 {
                open.push((run, model, depth + 1));
            }
        }
    }
    assert!(orders > 100_000, "{orders}");
}

/// The facts of a run, as an observer sees them.
#[derive(Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools)] // independent facts
struct Model {
    acquired: bool,
    starts: u32,
    /// The command may be alive.
    alive: bool,
    /// The tree was ordered to end, and must be gone before the lock is released.
    stopping: bool,
    /// The guard has received the order.
    acknowledged: bool,
    /// Another host can acquire the lock, so an unkillable process does not delay the release.
    gone: bool,
    exits: u32,
}

impl Model {
    fn after(mut self, event: Event, action: Option<Action>) -> Model {
        match event {
            Acquired => self.acquired = true,
            Lost(Loss { gone: true, .. }) | Gone => self.gone = true,
            Ended(_) => self.alive = false,
            CannotStart(_) | TreeGone => (self.alive, self.stopping) = (false, false),
            StopAcknowledged => self.acknowledged = true,
            // It exited before it received the order.
            GuardGone if !self.alive && !self.acknowledged => self.stopping = false,
            _ => {}
        }
        match action {
            Some(Start) => {
                assert!(self.acquired && self.starts == 0, "{event:?}");
                (self.starts, self.alive) = (1, true);
            }
            Some(Stop(_) | KillAll | KillAndReport) => {
                assert!(self.starts == 1, "{event:?}");
                (self.stopping, self.acknowledged) = (true, false);
            }
            Some(Release) => {
                assert!(
                    !self.alive && !self.stopping
                        || matches!(event, Tick | Stuck | Gone | Lost(_)) && self.gone,
                    "{event:?}"
                );
            }
            Some(Exit(_)) => {
                assert!(!self.alive && !self.stopping || self.gone, "{event:?}");
                self.exits += 1;
            }
            Some(Forward(_) | Suspend { .. }) | None => {}
        }
        self
    }
}

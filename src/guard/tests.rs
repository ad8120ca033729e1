use super::Action::*;
use super::*;

const TERM: Signal = Signal::TERM;
const FINE: Status = Status::Exited(0);

fn at(seconds: u64) -> Moment {
    Moment(Duration::from_secs(seconds))
}

fn lease(term: u64, kill: u64) -> Deadlines {
    Deadlines {
        term: at(term),
        kill: at(kill),
    }
}

fn stop(signal: Signal, reach: Reach, kill_deadline: Moment) -> Event {
    Event::Stop(StopOrder {
        signal,
        reach,
        kill_deadline,
    })
}

/// Plays a script on a guard whose death signal is TERM, which kills 4 s after it, and whose
/// lease at first ends at 10 s and 12 s.
fn play(script: &[(u64, Event, &[Action])]) {
    play_with(Some(TERM), script);
}

fn play_with(death_signal: Option<Signal>, script: &[(u64, Event, &[Action])]) {
    let mut guard = Guard::new(death_signal, Duration::from_secs(4), lease(10, 12));
    for (line, &(second, event, actions)) in script.iter().enumerate() {
        // The loop wakes it for the rounds of a kill in between.
        while event == Event::Tick
            && matches!(guard.phase, Phase::Killing(_))
            && guard.wake() < at(second)
        {
            assert_eq!(guard.step(Event::Tick, guard.wake()), [Kill], "line {line}");
        }
        assert_eq!(
            guard.step(event, at(second)),
            actions,
            "line {line}: {event:?} at {second} s"
        );
    }
}

#[test]
fn guard_exits_with_the_command_and_spares_background_processes() {
    play(&[(
        1,
        Event::Ended(FINE),
        &[Report(GuardEvent::Ended(FINE)), Exit],
    )]);
}

#[test]
fn stop_order_is_acknowledged_and_ends_in_kill() {
    let stop = stop(TERM, Reach::Here, at(5));
    play(&[
        (
            1,
            stop,
            &[
                Report(GuardEvent::StopAcknowledged),
                RunAhead,
                ToTree(TERM, Reach::Here),
            ],
        ),
        (4, Event::Tick, &[]),
        (5, Event::Tick, &[Kill]),
        (5, Event::NoChildren, &[Report(GuardEvent::TreeGone), Exit]),
    ]);
}

#[test]
fn stop_ends_when_the_whole_tree_is_gone() {
    let stop = stop(TERM, Reach::Here, at(5));
    play(&[
        (
            1,
            stop,
            &[
                Report(GuardEvent::StopAcknowledged),
                RunAhead,
                ToTree(TERM, Reach::Here),
            ],
        ),
        (2, Event::Ended(FINE), &[Report(GuardEvent::Ended(FINE))]),
        (3, Event::NoChildren, &[Report(GuardEvent::TreeGone), Exit]),
    ]);
}

#[test]
fn stop_order_with_kill_kills_at_once() {
    play(&[(
        1,
        stop(Signal::KILL, Reach::Here, at(1)),
        &[Report(GuardEvent::StopAcknowledged), RunAhead, Kill],
    )]);
}

#[test]
fn stop_that_has_reached_the_tree_only_sets_a_deadline() {
    let stop = stop(TERM, Reach::Everywhere, at(5));
    play(&[
        (
            1,
            stop,
            &[
                Report(GuardEvent::StopAcknowledged),
                RunAhead,
                ToTree(TERM, Reach::Everywhere),
            ],
        ),
        (5, Event::Tick, &[Kill]),
    ]);
}

#[test]
fn second_stop_does_not_extend_the_deadline_or_repeat_the_signal() {
    let stop = |second| stop(TERM, Reach::Here, at(second));
    play(&[
        (
            1,
            stop(5),
            &[
                Report(GuardEvent::StopAcknowledged),
                RunAhead,
                ToTree(TERM, Reach::Here),
            ],
        ),
        (2, stop(9), &[Report(GuardEvent::StopAcknowledged)]),
        (5, Event::Tick, &[Kill]),
    ]);
}

/// The guard and zk-flock both act when a lease is not renewed.
#[test]
fn lost_lock_after_an_expired_lease_does_not_signal_the_tree_again() {
    play(&[
        (
            10,
            Event::Tick,
            &[
                Report(GuardEvent::LeaseExpired),
                RunAhead,
                ToTree(TERM, Reach::Here),
            ],
        ),
        (
            10,
            stop(TERM, Reach::Here, at(11)),
            &[Report(GuardEvent::StopAcknowledged)],
        ),
        (
            10,
            stop(Signal::INT, Reach::Here, at(11)),
            &[
                Report(GuardEvent::StopAcknowledged),
                ToTree(Signal::INT, Reach::Here),
            ],
        ),
        (11, Event::Tick, &[Kill]),
    ]);
}

#[test]
fn lease_that_is_not_renewed_ends_the_tree_in_time() {
    play(&[
        (9, Event::Tick, &[]),
        (
            10,
            Event::Tick,
            &[
                Report(GuardEvent::LeaseExpired),
                RunAhead,
                ToTree(TERM, Reach::Here),
            ],
        ),
        (11, Event::Tick, &[]),
        (12, Event::Tick, &[Kill]),
    ]);
    play(&[
        (9, Event::LeaseUntil(lease(15, 17)), &[]),
        (14, Event::Tick, &[]),
        (
            15,
            Event::Tick,
            &[
                Report(GuardEvent::LeaseExpired),
                RunAhead,
                ToTree(TERM, Reach::Here),
            ],
        ),
    ]);
}

#[test]
fn expired_lease_kills_at_once() {
    play(&[(
        13,
        Event::Tick,
        &[Report(GuardEvent::LeaseExpired), RunAhead, Kill],
    )]);
}

#[test]
fn guard_runs_ahead_only_when_a_lease_is_about_to_end() {
    let mut guard = Guard::new(Some(TERM), Duration::from_secs(4), lease(10, 12));
    assert_eq!(guard.wake(), at(10).before(AHEAD_BY));
    assert_eq!(guard.step(Event::LeaseUntil(lease(20, 22)), at(9)), []);
    assert_eq!(guard.step(Event::Tick, at(10)), [], "renewed in time");
    assert_eq!(guard.step(Event::Tick, at(20).before(AHEAD_BY)), [RunAhead]);
    assert_eq!(guard.wake(), at(20), "asked for once");
    assert_eq!(
        guard.step(Event::Tick, at(20)),
        [Report(GuardEvent::LeaseExpired), ToTree(TERM, Reach::Here)]
    );
}

#[test]
fn kill_deadline_is_never_after_the_lease() {
    let stop = stop(TERM, Reach::Here, at(99));
    play(&[
        (
            9,
            stop,
            &[
                Report(GuardEvent::StopAcknowledged),
                RunAhead,
                ToTree(TERM, Reach::Here),
            ],
        ),
        (12, Event::Tick, &[Kill]),
    ]);
    play(&[
        (9, Event::Orphaned, &[RunAhead, ToTree(TERM, Reach::Here)]),
        (12, Event::Tick, &[Kill]),
    ]);
}

#[test]
fn tree_gets_the_death_signal_and_then_kill_when_zk_flock_dies() {
    play(&[
        (1, Event::Orphaned, &[RunAhead, ToTree(TERM, Reach::Here)]),
        (5, Event::Tick, &[Kill]),
    ]);
    play_with(
        Some(Signal::USR1),
        &[
            (
                1,
                Event::Orphaned,
                &[RunAhead, ToTree(Signal::USR1, Reach::Here)],
            ),
            (5, Event::Tick, &[Kill]),
        ],
    );
    play_with(
        Some(Signal::KILL),
        &[(1, Event::Orphaned, &[RunAhead, Kill])],
    );
}

#[test]
fn tree_without_a_death_signal_lives_on() {
    play_with(None, &[(1, Event::Orphaned, &[Exit])]);
}

#[test]
fn surviving_process_is_reported_every_minute() {
    let stop = stop(Signal::KILL, Reach::Here, at(0));
    let named: &[Action] = &[Report(GuardEvent::Stuck), Kill];
    play(&[
        (
            1,
            stop,
            &[Report(GuardEvent::StopAcknowledged), RunAhead, Kill],
        ),
        (2, Event::Tick, named),
        (2, Event::Tick, &[]),
        (62, Event::Tick, named),
    ]);
}

#[test]
fn signal_is_forwarded_to_the_command_only() {
    play(&[
        (1, Event::Forward(Signal::USR1), &[ToCommand(Signal::USR1)]),
        (1, Event::Forward(Signal::TSTP), &[ToCommand(Signal::TSTP)]),
    ]);
}

/// KILL for the command cannot be caught, so it would leave the rest of the tree without its parent.
#[test]
fn forwarded_kill_kills_the_whole_tree() {
    let kill = Event::Forward(Signal::KILL);
    play(&[(1, kill, &[RunAhead, Kill]), (1, kill, &[])]);
    let orphaned = (
        1,
        Event::Orphaned,
        &[RunAhead, ToTree(TERM, Reach::Here)][..],
    );
    play(&[orphaned, (2, kill, &[Kill]), (2, kill, &[])]);
}

#[test]
fn guard_sleeps_until_the_next_deadline() {
    let stopped = |kill_deadline| {
        let mut guard = Guard::new(Some(TERM), Duration::from_secs(4), lease(10, 12));
        guard.step(stop(TERM, Reach::Here, at(kill_deadline)), at(1));
        guard
    };
    assert_eq!(stopped(99).wake(), at(12), "the lease ends first");
    let mut guard = stopped(5);
    assert_eq!(guard.wake(), at(5));
    guard.step(Event::Tick, at(5));
    assert_eq!(guard.wake(), KillRounds::begin(at(5)).wake());
}

/// For all orders of events: when the lease has expired, the tree was killed or the guard has exited.
#[test]
fn no_order_of_events_outlives_the_lease() {
    let events = [
        Event::Forward(TERM),
        stop(TERM, Reach::Here, at(99)),
        stop(Signal::KILL, Reach::Here, at(0)),
        Event::Orphaned,
        Event::Ended(FINE),
        Event::Tick,
    ];
    for order in 0..events.len().pow(5) {
        let mut guard = Guard::new(Some(TERM), Duration::MAX, lease(10, 12));
        let chosen = (0..5).map(|place| events[order / events.len().pow(place) % events.len()]);
        let mut done: Vec<Action> = chosen
            .enumerate()
            .flat_map(|(second, event)| guard.step(event, at(second as u64 * 2 + 1)))
            .collect();
        done.extend(
            [10, 12]
                .into_iter()
                .flat_map(|second| guard.step(Event::Tick, at(second))),
        );
        assert!(
            done.contains(&Kill) || done.contains(&Exit),
            "order {order}: {done:?}"
        );
    }
}

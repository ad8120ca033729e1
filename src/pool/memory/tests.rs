use super::super::state::{AcquiredAt, SavedHolding};
use super::super::{Call, Grant, Remaining};
use super::*;
use crate::testing::script::{self, Scripted, milliseconds, only, pool, seconds};
use crate::testing::{Driver, NoPeer};
use std::time::Duration;

type Script = script::Script<Memory>;

impl Scripted for Memory {
    type Peer = NoPeer;
    const SERVERS: usize = 1;
    const IN_ORDER: bool = true;

    fn peer() -> NoPeer {
        NoPeer
    }

    fn start(pools: Vec<plan::Pool>, file: Option<State>, now: Moment) -> Memory {
        Memory::new(pools, file, 0, now)
    }

    /// Without a file, and with one.
    fn setups(pool: plan::Pool) -> Vec<Script> {
        let file = Some(State::default());
        vec![Script::new(pool.clone()), Script::with(pool, file)]
    }

    fn unavailable(_: &str) -> String {
        "503".into()
    }

    fn happen(script: &mut Script, server: usize, event: &[&str]) {
        let input = match event {
            ["saved"] => Input::Saved,
            ["not", "saved"] => Input::NotSaved("disk full".into()),
            _ => panic!("{event:?}"),
        };
        script.input(server, input);
    }
}

/// With a file that has been written once.
fn durable(pool: plan::Pool) -> Script {
    let mut script = Script::with(pool, Some(State::default()));
    script.play(&[(0, "tick", "save"), (0, "saved", "")]);
    script
}

#[test]
fn each_holding_expires_on_its_own() {
    let mut script = Script::new(pool(2, 60));
    script.play(&[
        (0, "get a", "a YES 1 57 s"),
        (20, "get b", "b YES 2 57 s"),
        (30, "get a", "a YES 1 28 s"),
        (40, "wait c", ""),
        (59, "tick", ""),
        (60, "tick", "c YES 3 57 s"),
        (61, "get a", "a NO"),
        (80, "get a", "a YES 4 57 s"),
    ]);
    assert_eq!(
        script.servers[0].machine.poll(seconds(80)),
        Output::Wait(seconds(120))
    );
}

#[test]
fn renewal_extends_from_now_and_acquires_only_a_free_slot() {
    Script::new(pool(1, 60)).play(&[
        (0, "get a", "a YES 1 57 s"),
        (20, "renew a", "a YES 1 57 s"),
        (60, "get b", "b NO"),
        (79, "tick", ""),
        (80, "renew b 1", "b YES 2 57 s"),
        (81, "renew a 1", "a NO"),
        (82, "wait c", ""),
        (140, "tick", "c YES 3 57 s"),
        (141, "renew b 2", "b NO"),
        (200, "renew c", "c NO"),
        (200, "renew c 3", "c YES 4 57 s"),
    ]);
}

#[test]
fn renewal_that_gains_less_than_1_percent_is_not_saved() {
    durable(pool(1, 200)).play(&[
        (0, "get a", "save a=1"),
        (0, "saved", "a YES 1 190 s"),
        (2, "renew a", "a YES 1 188 s"),
        (3, "renew a", "save a=1"),
        (3, "saved", "a YES 1 190 s"),
    ]);
    durable(pool(1, 0)).play(&[
        (0, "get a", "save a=1"),
        (0, "saved", "a YES 1"),
        (2, "renew a", "a YES 1"),
    ]);
}

#[test]
fn answer_is_sent_once_its_state_is_saved() {
    durable(pool(1, 60)).play(&[
        (0, "get a", "save a=1"),
        (1, "get b", "b NO"),
        (1, "get a2", ""),
        (2, "saved", "a YES 1 55 s, a2 YES 1 55 s"),
        (3, "get a", "a YES 1 54 s"),
        (3, "wait b", ""),
        (4, "renew a", "save a=1"),
        (5, "get a2", ""),
        (6, "saved", "a YES 1 55 s, a2 YES 1 55 s"),
        (7, "release a", "save b=2"),
        (8, "get a2", "a2 NO"),
        (9, "saved", "b YES 2 55 s, a OK"),
        (67, "tick", "save"),
        (68, "get c", ""),
        (69, "saved", "save c=3"),
        (70, "saved", "c YES 3 55 s"),
    ]);
}

#[test]
fn renewal_is_reported_once_it_is_saved() {
    durable(pool(1, 60)).play(&[
        (0, "get a", "save a=1"),
        (10, "renew a2", ""),
        (20, "saved", "a YES 1 38 s, save a=1"),
        (30, "get a", ""),
        (31, "not saved", "a2 503, a YES 1 27 s"),
        (60, "get b", "b 503, save"),
    ]);
}

#[test]
fn failed_save_undoes_grants_and_nothing_is_granted_until_a_save_succeeds() {
    let mut script = durable(pool(2, 60));
    script.play(&[
        (0, "get a", "save a=1"),
        (0, "saved", "a YES 1 57 s"),
        (1, "get b", "save a=1 b=2"),
        (1, "wait c", ""),
        (1, "wait d", ""),
        (1, "renew a", ""),
        (2, "wait b2", ""),
        (2, "not saved", "b 503, a 503"),
        (2, "get e", "e 503"),
        (2, "get a", "a YES 1 55 s"),
        (2, "renew a", "a 503"),
        (3, "tick", "save a=1"),
        (3, "gone b2", ""),
        (4, "not saved", ""),
        (4, "release a", "a OK"),
        (4, "gone c", ""),
        (4, "gone d", ""),
        (4, "get e", "e 503"),
        (4, "wait f", ""),
        (5, "tick", "save"),
        (5, "saved", "save f=3"),
        (5, "get a", ""),
        (6, "saved", "f YES 3 56 s, save a=4 f=3"),
        (6, "saved", "a YES 4 56 s"),
    ]);
    let told: Vec<_> = script
        .notes
        .iter()
        .filter(|note| note.contains("state file"))
        .collect();
    let why = "cannot write the state file: disk full; no lock is granted or renewed until it is written, which is tried every second";
    assert_eq!(
        told,
        [why, "the state file can be written again, after 3.0 s"]
    );
}

#[test]
fn failed_save_keeps_the_order_of_waiters() {
    durable(pool(2, 60)).play(&[
        (0, "wait a", "save a=1"),
        (0, "wait b", ""),
        (0, "wait a2", ""),
        (0, "wait c", ""),
        (0, "not saved", ""),
        (0, "wait d", ""),
        (1, "tick", "save"),
        (1, "saved", "save a=3 b=4"),
        (1, "saved", "a YES 3 57 s, a2 YES 3 57 s, b YES 4 57 s"),
        (2, "release a", "save b=4 c=5"),
        (2, "release b", ""),
        (2, "saved", "c YES 5 57 s, a OK, save c=5 d=6"),
        (2, "saved", "d YES 6 57 s, b OK"),
    ]);
}

#[test]
fn holding_that_no_reply_has_reported_is_not_released() {
    durable(pool(1, 60)).play(&[
        (0, "wait a", "save a=1"),
        (0, "release a2", ""),
        (0, "saved", "a YES 1 57 s, a2 OK"),
    ]);
}

#[test]
fn slot_of_a_client_that_hangs_up_before_the_save_goes_to_the_next_waiter() {
    durable(pool(1, 60)).play(&[
        (0, "wait a", "save a=1"),
        (0, "wait b", ""),
        (0, "wait a2", ""),
        (0, "gone a", ""),
        (0, "gone a2", ""),
        (0, "saved", "save b=2"),
        (0, "saved", "b YES 2 57 s"),
    ]);
}

#[test]
fn holding_that_expires_before_its_save_is_not_reported() {
    durable(pool(1, 10)).play(&[
        (0, "get a", "save a=1"),
        (0, "wait b", ""),
        (0, "renew a2", ""),
        (10, "saved", "a 503, a2 NO, save b=2"),
        (19, "saved", "b YES 2 0 s"),
    ]);
    durable(pool(1, 10)).play(&[
        (0, "wait a", "save a=1"),
        (0, "wait b", ""),
        (10, "wait c", ""),
        (10, "saved", "save a=2"),
        (11, "saved", "a YES 2 8 s"),
    ]);
}

#[test]
fn holders_survive_a_restart_and_tokens_keep_growing() {
    let held = |pool: &str, host: &str, token, expires| SavedHolding {
        pool: pool.into(),
        host: host.into(),
        token,
        since: AcquiredAt::from(seconds(0)),
        expires,
        run: None,
        lease: (expires != Moment::NEVER).then_some(Duration::from_mins(1)),
        revoked: false,
    };
    let state = |holders| {
        Some(State {
            last_token: 7,
            holders,
        })
    };
    let mut script = Script::with(
        pool(2, 60),
        state(vec![
            held("one", "a", 6, seconds(50)),
            held("two", "b", 7, seconds(50)),
        ]),
    );
    script.play(&[
        (0, "get a", "save a=6 b=7"),
        (0, "saved", "a YES 6 47 s"),
        (1, "get c", "save a=6 c=8 b=7"),
        (1, "saved", "c YES 8 57 s"),
        (2, "get d", "d NO"),
        (50, "get d", "save c=8 d=9 b=7"),
    ]);
    let kept = "pool two was removed from the config: b keeps it (token 7) until it is released or the lease ends, in 50.0 s";
    assert_eq!(script.notes[0], kept);

    let all = vec![
        held("one", "a", 1, seconds(0)),
        held("one", "b", 2, Moment::NEVER),
        held("one", "c", 3, seconds(30)),
    ];
    let mut script = Script::with(pool(1, 60), state(all.clone()));
    script.play(&[
        (0, "tick", "save b=2 c=3"),
        (0, "saved", ""),
        (30, "get a", "a NO, save b=2"),
        (3600, "get a", "a NO"),
    ]);
    let mut script = Script::with(pool(1, 0), state(all));
    script.play(&[
        (0, "tick", "save b=2 c=3"),
        (0, "saved", ""),
        (3600, "get b", "save b=2"),
        (3600, "saved", "b YES 2"),
    ]);
}

#[test]
fn tokens_grow_even_if_the_file_is_lost() {
    let state = State {
        last_token: 5,
        holders: Vec::new(),
    };
    for (file, seed, token) in [
        (None, 100, 101),
        (Some(State::default()), 100, 101),
        (Some(state.clone()), 3, 6),
        (Some(state), 9, 10),
    ] {
        let mut script = Script::with(pool(1, 0), file.clone());
        let memory = Memory::new(vec![pool(1, 0)], file.clone(), seed, seconds(0));
        script.servers[0] = Driver::new(memory, seconds(0));
        script.happen("get a");
        let expected = if file.is_some() {
            format!("save a={token}")
        } else {
            format!("a YES {token}")
        };
        assert_eq!(script.drain(), expected);
    }
}

#[test]
fn new_config_applies_at_once_and_ends_no_holding() {
    let mut script = Script::new(pool(1, 60));
    let change = Script::reconfigure;
    script.play(&[
        (0, "get a", "a YES 1 57 s"),
        (0, "wait b", ""),
        (0, "wait c", ""),
        (0, "wait d", ""),
    ]);
    assert_eq!(change(&mut script, 10, vec![pool(2, 30)]), "b YES 2 28 s");
    script.play(&[
        (10, "get a", "a YES 1 47 s"),
        (11, "renew a", "a YES 1 46 s"),
        (31, "renew a", "a YES 1 28 s"),
    ]);
    assert_eq!(
        change(&mut script, 32, vec![only(&["a", "d"])]),
        "c INVALID"
    );
    script.play(&[
        (33, "get b", "b INVALID"),
        (34, "renew b", "b YES 2 57 s"),
        (35, "release a", "a OK"),
    ]);
    assert_eq!(change(&mut script, 36, vec![pool(1, 0)]), "");
    script.play(&[
        (37, "get b", "b YES 2"),
        (38, "renew b", "b YES 2"),
        (200, "get b", "b YES 2"),
    ]);
    assert_eq!(change(&mut script, 200, vec![pool(1, 60)]), "");
    script.play(&[
        (200, "get b", "b YES 2"),
        (260, "renew b", "b YES 2"),
        (900, "get c", "c NO"),
        (900, "release b", "d YES 3 57 s, b OK"),
    ]);
}

#[test]
fn deferred_reply_of_a_removed_pool_is_invalid() {
    for saved in ["saved", "not saved"] {
        let mut script = durable(pool(1, 60));
        script.play(&[(0, "wait a", "save a=1"), (0, "wait b", "")]);
        script.configure(0, Vec::new(), seconds(0));
        script.play(&[(0, "tick", "b INVALID")]);
        script.happen(saved);
        assert!(script.drain().starts_with("a INVALID"));
    }
}

#[test]
fn each_holding_is_logged() {
    let mut script = Script::new(pool(1, 60));
    script.play(&[
        (0, "get a", "a YES 1 57 s"),
        (1, "wait b", ""),
        (1, "wait c", ""),
        (2, "renew a", "a YES 1 57 s"),
    ]);
    script.play(&[
        (3, "release a", "b YES 2 57 s, a OK"),
        (63, "tick", "c YES 3 57 s"),
        (64, "lost c 3", ""),
    ]);
    assert_eq!(
        script.notes,
        [
            "granted pool=one host=a token=1 waited=0.0s",
            "renewed pool=one host=a token=1",
            "released pool=one host=a token=1 held=3.0s",
            "granted pool=one host=b token=2 waited=2.0s",
            "expired pool=one host=b token=2 reason=\"its lease ended after 60.0 s\"",
            "granted pool=one host=c token=3 waited=62.0s",
            "taken back pool=one host=c token=3 reason=\"the answer could not be delivered\"",
        ]
    );
}

#[test]
fn report_shows_holders_waiters_and_counters() {
    let mut script = Script::new(pool(2, 60));
    script.play(&[
        (0, "get b", "b YES 1 57 s"),
        (1, "get a", "a YES 2 57 s"),
        (2, "wait d", ""),
        (3, "wait c", ""),
        (3, "get e", "e NO"),
    ]);
    let report = &script.servers[0].machine.report(seconds(4))[0];
    let holders: Vec<_> = report
        .holders
        .iter()
        .map(|holder| (&*holder.host, holder.token, holder.held, holder.ends))
        .collect();
    let seconds = Duration::from_secs;
    assert_eq!(
        holders,
        [
            ("a", Some(2), Some(seconds(3)), Remaining::For(seconds(57))),
            ("b", Some(1), Some(seconds(4)), Remaining::For(seconds(56)))
        ]
    );
    let waiters: Vec<_> = report
        .waiters
        .iter()
        .map(|waiter| (&*waiter.host, waiter.waited))
        .collect();
    assert_eq!(waiters, [("d", seconds(2)), ("c", seconds(1))]);
    assert_eq!(
        (report.pool, report.permits, report.expire),
        ("one", 2, Some(seconds(60)))
    );
    assert_eq!((report.counters.granted, report.counters.refused), (2, 1));
}

#[test]
fn one_run_of_a_host_holds_and_its_other_runs_wait_in_fifo_order() {
    Script::new(pool(1, 0)).play(&[
        (0, "get a/x", "a/x YES 1"),
        (1, "get a/x2", "a/x2 YES 1"),
        (1, "get a/y", "a/y NO"),
        (1, "get a", "a NO"),
        (1, "renew a/y", "a/y NO"),
        (2, "wait a/y", ""),
        (2, "wait a", ""),
        (2, "wait a/x3", "a/x3 YES 1"),
        (2, "wait a/y2", ""),
        (3, "wait b", ""),
        (4, "release a/x", "a/y YES 2, a/y2 YES 2, a/x OK"),
        (5, "release a/y", "a YES 3, a/y OK"),
        (6, "get a/z", "a/z YES 3"),
        (7, "release a 3", "b YES 4, a OK"),
    ]);
}

#[test]
fn second_run_of_a_holder_waits_despite_a_free_slot_and_is_overtaken() {
    Script::new(pool(2, 0)).play(&[
        (0, "get a/x", "a/x YES 1"),
        (0, "get a/y", "a/y NO"),
        (1, "wait a/y", ""),
        (1, "wait a/z", ""),
        (2, "wait b/x", "b/x YES 2"),
        (3, "wait c", ""),
        (4, "release a/x 1", "a/y YES 3, a/x OK"),
        (5, "release a/y 3", "a/z YES 4, a/y OK"),
        (6, "release b/x", "c YES 5, b/x OK"),
    ]);
}

#[test]
fn holding_belongs_to_its_run_after_a_restart() {
    let mut script = durable(pool(1, 60));
    script.play(&[(0, "get a/x", "save a=1"), (0, "saved", "a/x YES 1 57 s")]);
    script.restart(0, vec![pool(1, 60)]);
    script.play(&[
        (1, "tick", "save a=1"),
        (1, "saved", ""),
        (1, "get a/y", "a/y NO"),
        (1, "get a", "a NO"),
        (2, "get a/x", "a/x YES 1 55 s"),
    ]);
}

#[test]
fn revocation_is_logged_once() {
    let mut script = Script::new(pool(1, 0));
    script.play(&[
        (0, "get a/x", "a/x YES 1"),
        (1, "revoke a", "a revoked 1 until released"),
        (3, "revoke a", "a revoked 1 until released"),
    ]);
    let revoked = |note: &&String| *note == "revoked pool=one host=a token=1";
    assert_eq!(script.notes.iter().filter(revoked).count(), 1);
}

#[test]
fn revoked_holding_ends_with_the_last_reported_lease() {
    let mut script = durable(pool(1, 60));
    script.play(&[
        (0, "get a", "save a=1"),
        (0, "saved", "a YES 1 57 s"),
        (20, "renew a", "save a=1"),
        (21, "revoke a", ""),
        (21, "saved", "a NO revoked, save a=1"),
        (22, "saved", "a revoked 1 for 38 s"),
        (30, "renew a", "a NO revoked"),
    ]);
    assert!(script.servers[0].machine.report(seconds(30))[0].holders[0].revoked);
    script.restart(0, vec![pool(1, 60)]);
    script.play(&[
        (31, "tick", "save a=1"),
        (31, "saved", ""),
        (31, "get a/x", "a/x NO revoked"),
        (32, "revoke a", "a revoked 1 for 28 s"),
        (59, "get b", "b NO"),
        (60, "get a", "save a=2"),
        (60, "saved", "a YES 2 57 s"),
    ]);
}

#[test]
fn revocation_that_is_not_saved_is_not_confirmed() {
    durable(pool(1, 60)).play(&[
        (0, "get a", "save a=1"),
        (0, "saved", "a YES 1 57 s"),
        (1, "revoke a", "save a=1"),
        (1, "not saved", "a 503"),
        (1, "revoke a", "a 503"),
        (2, "tick", "save a=1"),
        (2, "saved", ""),
        (2, "revoke a", "a revoked 1 for 58 s"),
    ]);
}

#[test]
fn confirmation_extends_a_lease_that_is_too_short_for_a_client() {
    Script::new(pool(1, 1)).play(&[
        (0, "get a", "a YES 1 0 s"),
        (0, "wait b", ""),
        (1, "get a", "a NO, b YES 2 0 s"),
    ]);
    let mut script = Script::new(pool(1, 10));
    script.play(&[(0, "get a", "a YES 1 9 s"), (9, "get a", "a YES 1 0 s")]);
    for (now, expected) in [(9_400, 300), (9_401, 9_000)] {
        let request = Request {
            ticket: Ticket(7),
            call: Call::Get,
            pool: "one",
            host: "a",
            run: None,
            outer: &[],
        };
        script.servers[0].input(milliseconds(now), |memory| {
            memory.handle(Input::Request(request), milliseconds(now));
        });
        let grant = Grant {
            token: 1,
            expires: Some(Duration::from_millis(expected)),
        };
        assert_eq!(
            script.servers[0].machine.poll(milliseconds(now)),
            Output::Answer(Ticket(7), Answer::Yes(grant)),
            "at {now} ms"
        );
    }
}

#[test]
fn save_as_slow_as_the_lease_is_logged_and_each_request_is_answered() {
    let mut script = durable(pool(1, 2));
    script.play(&[
        (0, "get a", "save a=1"),
        (0, "wait b", ""),
        (2, "saved", "a 503, save b=2"),
        (4, "saved", "save b=3"),
    ]);
    script.play(&[
        (4, "saved", "b YES 3 1 s"),
        (5, "renew b 3", "save b=3"),
        (7, "saved", "save b=4"),
        (9, "saved", "b 503, save"),
    ]);
    let why = "writing the state file took longer than the lease allows (expire 2 s): raise \"expire\", or use a faster disk";
    let told: Vec<_> = script
        .notes
        .iter()
        .filter(|note| note.starts_with("cannot confirm"))
        .collect();
    assert_eq!(
        told[..2],
        [1, 2]
            .map(|n| format!(
                "cannot confirm one for {} (token {n}): {why}",
                ["a", "b"][n - 1]
            ))
            .each_ref()
    );
}

#[test]
fn holding_until_released_stays_so_whatever_expire_becomes() {
    let mut script = durable(pool(1, 0));
    script.play(&[
        (0, "get a", "save a=1"),
        (0, "saved", "a YES 1"),
        (0, "get b", "b NO"),
    ]);
    assert_eq!(script.reconfigure(1, vec![pool(1, 2)]), "");
    script.play(&[
        (100, "get b", "b NO"),
        (100, "renew a", "a YES 1"),
        (200, "get b", "b NO"),
    ]);
    script.restart(0, vec![pool(1, 2)]);
    script.play(&[
        (201, "get b", "b NO, save a=1"),
        (300, "saved", ""),
        (300, "get b", "b NO"),
        (300, "get a", "a YES 1"),
    ]);
    script.play(&[
        (301, "release a", "save"),
        (301, "get a", ""),
        (301, "saved", "a OK, save a=2"),
        (301, "saved", "a YES 2 1 s"),
    ]);
}

#[test]
fn next_answer_says_until_released_after_expire_becomes_0() {
    for (asked, expected) in [
        ("get a", "save a=1"),
        ("renew a", "save a=1"),
        ("wait a", "save a=1"),
    ] {
        let mut script = durable(pool(1, 60));
        script.play(&[(0, "get a", "save a=1"), (0, "saved", "a YES 1 57 s")]);
        assert_eq!(script.reconfigure(1, vec![pool(1, 0)]), "");
        script.play(&[
            (2, asked, expected),
            (2, "saved", "a YES 1"),
            (99, "get b", "b NO"),
        ]);
    }
    let mut script = Script::new(pool(1, 60));
    script.play(&[(0, "get a", "a YES 1 57 s")]);
    assert_eq!(script.reconfigure(1, vec![pool(1, 0)]), "");
    script.play(&[(60, "get b", "b YES 2")]);
}

#[test]
fn removed_pool_keeps_holders_until_their_leases_end() {
    let mut script = durable(pool(2, 60));
    script.play(&[
        (0, "get a", "save a=1"),
        (0, "saved", "a YES 1 57 s"),
        (0, "get b", "save a=1 b=2"),
        (0, "saved", "b YES 2 57 s"),
    ]);
    script.play(&[
        (0, "release b", "save a=1"),
        (0, "saved", "b OK"),
        (0, "get b", "save a=1 b=3"),
    ]);
    assert_eq!(script.reconfigure(1, Vec::new()), "");
    assert_eq!(script.notes.last().unwrap(), KEPT);
    script.play(&[
        (1, "saved", "b INVALID, save a=1"),
        (1, "saved", ""),
        (1, "get c", "c INVALID"),
        (1, "get a", "a INVALID"),
        (1, "wait c", "c INVALID"),
        (1, "revoke c", "c INVALID"),
        (40, "renew a", "save a=1"),
        (40, "saved", "a YES 1 57 s"),
    ]);
    assert_eq!(script.reconfigure(41, Vec::new()), "");
    assert_eq!(script.reconfigure(50, vec![pool(1, 60)]), "");
    script.play(&[(61, "get c", "c NO"), (62, "get a", "a YES 1 36 s")]);
    assert_eq!(script.reconfigure(63, Vec::new()), "");
    script.restart(0, Vec::new());
    script.play(&[
        (64, "tick", "save a=1"),
        (64, "saved", ""),
        (70, "renew a", "save a=1"),
        (70, "saved", "a YES 1 57 s"),
    ]);
    script.play(&[
        (71, "release a", "save"),
        (71, "saved", "a OK"),
        (71, "renew a", "a INVALID"),
    ]);
    assert!(script.servers[0].machine.report(seconds(71)).is_empty());
}

const KEPT: &str = "pool one was removed from the config: a keeps it (token 1) until it is released or the lease ends, in 59.0 s";

#[test]
fn removed_pool_keeps_holdings_until_released_for_a_day() {
    const DAY: u64 = 86_400;
    let mut script = durable(pool(1, 0));
    script.play(&[(0, "get a", "save a=1"), (0, "saved", "a YES 1")]);
    assert_eq!(script.reconfigure(10, Vec::new()), "");
    let kept = "pool one was removed from the config: a keeps it (token 1) until it is released, for at most 24.0 h more";
    assert_eq!(script.notes.last().unwrap(), kept);
    assert_eq!(
        script.servers[0].machine.poll(seconds(10)),
        Output::Wait(seconds(10 + DAY))
    );
    script.play(&[
        (DAY, "tick", ""),
        (DAY, "renew a", "a YES 1"),
        (DAY + 10, "tick", ""),
        (2 * DAY - 1, "tick", ""),
    ]);
    let report = &script.servers[0].machine.report(seconds(DAY))[0];
    assert_eq!(
        (report.pool, report.permits, report.holders.len()),
        ("one", 0, 1)
    );
    script.play(&[(2 * DAY, "tick", "save"), (2 * DAY, "saved", "")]);
    assert_eq!(
        script.notes.last().unwrap(),
        "expired pool=one host=a token=1 reason=\"the pool was removed from the config 24.0 h ago\""
    );
    assert!(
        script.servers[0]
            .machine
            .report(seconds(2 * DAY))
            .is_empty()
    );
}

#[test]
fn report_needs_no_preparation() {
    let mut memory = Memory::new(vec![pool(1, 60)], None, 0, seconds(0));
    memory.handle(Input::ReportRequested(Ticket(7)), seconds(1));
    assert_eq!(memory.poll(seconds(1)), Output::Report(Ticket(7)));
}

#[test]
fn waiter_under_the_only_holder_keeps_waiting_for_a_free_slot_until_saves_succeed() {
    durable(pool(2, 60)).play(&[
        (0, "get a", "save a=1"),
        (0, "saved", "a YES 1 57 s"),
        (1, "get b", "save a=1 b=2"),
        (1, "not saved", "b 503"),
        (1, "wait c under 1", ""),
    ]);
}

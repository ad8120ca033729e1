//! What holds for each backend: the same scripts run on all.

use super::Call;
use super::memcached::Memcache;
use super::memory::Memory;
use super::zookeeper::ZooKeeper;
use crate::testing::script::{Scripted, on, only, pool, seconds};

/// Runs each of these scripts on each backend. One that is not named here is never used, so the
/// compiler reports it.
macro_rules! on_each_backend {
    ($($script:ident)*) => {
        mod memory {
            $(#[test] fn $script() { super::$script::<super::Memory>(); })*
        }
        mod memcached {
            $(#[test] fn $script() { super::$script::<super::Memcache>(); })*
        }
        mod zookeeper {
            $(#[test] fn $script() { super::$script::<super::ZooKeeper>(); })*
        }
    };
}

on_each_backend! {
    a_wait_is_refused_if_only_outer_runs_hold_what_it_waits_for
    a_wait_is_refused_once_only_outer_runs_hold_what_it_waits_for
    waiters_acquire_in_fifo_order
    as_many_hosts_hold_as_the_pool_has_permits
    holding_without_run_id_is_shared_by_all_clients_of_its_host
    client_that_hangs_up_leaves_the_queue_and_no_other_does
    release_with_an_old_token_releases_nothing
    undelivered_holding_is_taken_back_unless_another_reply_reached_its_host
    renewal_with_the_token_confirms_delivery_so_a_lost_reply_takes_nothing_back
    renewal_acquires_a_free_slot_with_a_token_only
    invalid_requests_are_answered_invalid
    holding_of_a_host_is_shared_by_all_its_runs
    release_ends_no_holding_of_another_run_or_token
    revoked_holding_is_not_confirmed_and_lasts_until_it_is_released
    revocation_with_a_token_revokes_no_other_holding
    reducing_permits_below_the_holders_ends_no_holding
    removed_pool_keeps_holders_which_can_still_release
}

fn a_wait_is_refused_if_only_outer_runs_hold_what_it_waits_for<B: Scripted>() {
    on::<B>(pool(1, 0)).play(&[
        (0, "get a/x", "a/x YES 1"),
        (1, "wait a/y under 1", "a/y NO outer"),
        (1, "wait b under 1", "b NO outer"),
        (1, "wait c under 2", ""),
        (2, "release a/x", "c YES 2, a/x OK"),
        (3, "wait b2 under 1", ""),
    ]);
    on::<B>(pool(2, 0)).play(&[
        (0, "get a/x", "a/x YES 1"),
        (1, "wait a/y under 1", "a/y NO outer"),
        (1, "wait b under 1", "b YES 2"),
        (2, "wait c under 1", ""),
        (2, "wait d under 1 2", "d NO outer"),
    ]);
}

fn a_wait_is_refused_once_only_outer_runs_hold_what_it_waits_for<B: Scripted>() {
    on::<B>(pool(2, 0)).each(|script| {
        script.play(&[
            (0, "get a/x", "a/x YES 1"),
            (0, "get b", "b YES 2"),
            (1, "wait c under 1", ""),
        ]);
        assert_eq!(script.reconfigure(2, vec![pool(1, 0)]), "");
        script.play(&[(3, "release b", "c NO outer, b OK")]);
    });
}

fn waiters_acquire_in_fifo_order<B: Scripted>() {
    on::<B>(pool(1, 0)).play(&[
        (0, "get a", "a YES 1"),
        (1, "get a", "a YES 1"),
        (1, "get b", "b NO"),
        (2, "wait b", ""),
        (3, "wait c", ""),
        (4, "get d", "d NO"),
        (5, "release b", "b OK"),
        (6, "release a", "b YES 2, a OK"),
        (7, "release a", "a OK"),
        (8, "release b", "c YES 3, b OK"),
        (9, "release c", "c OK"),
        (10, "get d", "d YES 4"),
    ]);
}

fn as_many_hosts_hold_as_the_pool_has_permits<B: Scripted>() {
    on::<B>(pool(3, 0)).play(&[
        (0, "get a", "a YES 1"),
        (0, "get b", "b YES 2"),
        (0, "get c", "c YES 3"),
        (0, "get d", "d NO"),
        (0, "get e", "e NO"),
        (1, "wait e", ""),
        (2, "release b", "e YES 4, b OK"),
        (3, "get b", "b NO"),
    ]);
}

fn holding_without_run_id_is_shared_by_all_clients_of_its_host<B: Scripted>() {
    on::<B>(pool(1, 0)).play(&[
        (0, "get a", "a YES 1"),
        (1, "wait b", ""),
        (2, "wait c", ""),
        (3, "wait b2", ""),
        (4, "wait a2", "a2 YES 1"),
        (5, "release a", "b YES 2, b2 YES 2, a OK"),
        (6, "release b2", "c YES 3, b2 OK"),
    ]);
}

fn client_that_hangs_up_leaves_the_queue_and_no_other_does<B: Scripted>() {
    on::<B>(pool(1, 0)).play(&[
        (0, "get a", "a YES 1"),
        (1, "wait b", ""),
        (2, "wait c", ""),
        (3, "wait b2", ""),
        (4, "gone b", ""),
        (5, "gone b", ""),
        (6, "release a", "c YES 2, a OK"),
        (7, "release c", "b2 YES 3, c OK"),
    ]);
}

fn release_with_an_old_token_releases_nothing<B: Scripted>() {
    on::<B>(pool(1, 60)).play(&[
        (0, "get a", "a YES 1 57 s"),
        (61, "get a", "a YES 2 57 s"),
        (62, "release a 1", "a OK wrong token"),
        (63, "get b", "b NO"),
        (63, "release b 2", "b OK not held"),
        (63, "release b", "b OK"),
        (64, "release a 2", "a OK"),
        (65, "get b", "b YES 3 57 s"),
    ]);
}

fn undelivered_holding_is_taken_back_unless_another_reply_reached_its_host<B: Scripted>() {
    on::<B>(pool(1, 0)).each(|script| {
        script.play(&[
            (0, "get a", "a YES 1"),
            (1, "wait b", ""),
            (2, "wait c", ""),
            (2, "wait c2", ""),
            (3, "lost b 1", ""),
            (4, "lost a 1", "b YES 2"),
            (5, "get b2", "b2 YES 2"),
            (6, "lost b 2", ""),
            (7, "lost b 1", ""),
            (8, "release b", "c YES 3, c2 YES 3, b OK"),
            (9, "lost c 3", ""),
            (9, "lost c 3", ""),
            (10, "get d", "d YES 4"),
        ]);
        assert_eq!(
            script.servers[0].machine.report(seconds(10))[0]
                .counters
                .undelivered,
            6
        );
    });
}

fn renewal_with_the_token_confirms_delivery_so_a_lost_reply_takes_nothing_back<B: Scripted>() {
    on::<B>(pool(1, 60)).play(&[
        (0, "wait a", "a YES 1 57 s"),
        (0, "wait b", ""),
        (1, "renew a 1", "a YES 1 57 s"),
        (2, "lost a 1", ""),
        (3, "lost a 1", ""),
        (62, "tick", "b YES 2 57 s"),
    ]);
    // A renewal without the token, or with another one, confirms nothing.
    for renewal in ["renew a", "renew a 7"] {
        on::<B>(pool(1, 60)).play(&[
            (0, "get a", "a YES 1 57 s"),
            (0, renewal, "a YES 1 57 s"),
            (1, "wait b", ""),
            (2, "lost a 1", ""),
            (2, "lost a 1", "b YES 2 57 s"),
        ]);
    }
}

fn renewal_acquires_a_free_slot_with_a_token_only<B: Scripted>() {
    on::<B>(pool(1, 60)).play(&[
        (0, "renew a", "a NO"),
        (0, "renew a 7", "a YES 1 57 s"),
        (1, "renew b 7", "b NO"),
        (2, "release a 1", "a OK"),
        (3, "renew a", "a NO"),
        (4, "renew a 1", "a YES 2 57 s"),
        (5, "release a 1", "a OK wrong token"),
        (6, "wait b", ""),
        (65, "tick", "b YES 3 57 s"),
        (66, "renew a 2", "a NO"),
    ]);
}

fn invalid_requests_are_answered_invalid<B: Scripted>() {
    on::<B>(only(&["a", "b"])).each(|script| {
        script.play(&[
            (0, "get a", "a YES 1 57 s"),
            (0, "get c", "c INVALID"),
            (0, "wait c", "c INVALID"),
            (0, "release c", "c INVALID"),
        ]);
        script.ask(0, "two", "a", Call::Get, &[]);
        assert_eq!(script.drain(), "a INVALID");
        assert_eq!(
            script.notes[1..3],
            [r#"invalid request from "c" for "one": the host is not in "servers" of the pool"#; 2]
        );
        assert_eq!(
            script.notes[4],
            r#"invalid request from "a" for "two": no such pool"#
        );
    });
}

fn holding_of_a_host_is_shared_by_all_its_runs<B: Scripted>() {
    on::<B>(pool(1, 0)).play(&[
        (0, "get b", "b YES 1"),
        (0, "wait a/x", ""),
        (0, "wait a", ""),
        (0, "wait a/y", ""),
        (1, "release b", "a/x YES 2, b OK"),
        (2, "release a/x 2", "a YES 3, a/y YES 3, a/x OK"),
        (3, "get a/z", "a/z YES 3"),
        (4, "release a/z 3", "a/z OK"),
        (5, "get b", "b YES 4"),
    ]);
}

fn release_ends_no_holding_of_another_run_or_token<B: Scripted>() {
    for (release, answer) in [
        ("release a/x 1", "a/x OK"),
        ("release a/x", "a/x OK"),
        ("release a 1", "a OK"),
        ("release a", "a OK"),
        ("release a/y", "a/y OK other run"),
        ("release a/y 1", "a/y OK other run"),
        ("release a/x 2", "a/x OK wrong token"),
        ("release a 2", "a OK wrong token"),
        ("release b 1", "b OK not held"),
    ] {
        let is_released = answer.ends_with("OK");
        on::<B>(pool(1, 0)).each(|script| {
            script.play(&[(0, "get a/x", "a/x YES 1"), (0, release, answer)]);
            script.play(&[(1, "get c", if is_released { "c YES 2" } else { "c NO" })]);
        });
    }
    // What belongs to the host, as each holding of an earlier version does, is released by any
    // of its runs that knows the token.
    for (release, answer) in [
        ("release a/x 1", "a/x OK"),
        ("release a/x", "a/x OK other run"),
        ("release a/x 2", "a/x OK wrong token"),
    ] {
        let is_released = answer.ends_with("OK");
        on::<B>(pool(1, 0)).each(|script| {
            script.play(&[(0, "get a", "a YES 1"), (0, release, answer)]);
            script.play(&[(1, "get c", if is_released { "c YES 2" } else { "c NO" })]);
        });
    }
}

fn revoked_holding_is_not_confirmed_and_lasts_until_it_is_released<B: Scripted>() {
    on::<B>(pool(1, 0)).play(&[
        (0, "revoke a", "a not held"),
        (0, "get a/x", "a/x YES 1"),
        (0, "wait b", ""),
        (1, "revoke a", "a revoked 1 until released"),
        (2, "get a/x", "a/x NO revoked"),
        (2, "wait a/x", "a/x NO revoked"),
        (2, "renew a/x 1", "a/x NO revoked"),
        (2, "get a/y", "a/y NO"),
        (2, "wait a", ""),
        (2, "get b2", "b2 NO"),
        (3, "revoke a", "a revoked 1 until released"),
        (4, "release a/x 1", "b YES 2, a/x OK"),
        (5, "release b", "a YES 3, b OK"),
        (6, "get a/x", "a/x YES 3"),
    ]);
}

fn revocation_with_a_token_revokes_no_other_holding<B: Scripted>() {
    on::<B>(pool(1, 0)).play(&[
        (0, "revoke a 1", "a not held"),
        (0, "get a/x", "a/x YES 1"),
        (1, "release a/x 1", "a/x OK"),
        (2, "get a/y", "a/y YES 2"),
        (3, "revoke a 1", "a other token"),
        (4, "renew a/y 2", "a/y YES 2"),
        (5, "revoke a 2", "a revoked 2 until released"),
        (6, "renew a/y 2", "a/y NO revoked"),
        (7, "revoke a 1", "a other token"),
        (8, "revoke a 2", "a revoked 2 until released"),
    ]);
}

fn reducing_permits_below_the_holders_ends_no_holding<B: Scripted>() {
    on::<B>(pool(2, 60)).each(|script| {
        script.play(&[
            (0, "get a", "a YES 1 57 s"),
            (0, "get b", "b YES 2 57 s"),
            (0, "wait c", ""),
        ]);
        assert_eq!(script.reconfigure(1, vec![pool(1, 60)]), "");
        script.play(&[
            (2, "renew a", "a YES 1 57 s"),
            (2, "release b", "b OK"),
            (4, "get a", "a YES 1 55 s"),
            (5, "release a", "c YES 3 57 s, a OK"),
        ]);
    });
}

fn removed_pool_keeps_holders_which_can_still_release<B: Scripted>() {
    on::<B>(pool(2, 0)).each(|script| {
        script.play(&[
            (0, "get a", "a YES 1"),
            (0, "get b/r", "b/r YES 2"),
            (0, "wait c", ""),
        ]);
        assert_eq!(script.reconfigure(1, Vec::new()), "c INVALID");
        script.play(&[
            (2, "get a", "a INVALID"),
            (3, "renew a", "a YES 1"),
            (4, "renew d", "d INVALID"),
            (5, "release d", "d INVALID"),
            (7, "release a 1", "a OK"),
            (8, "revoke b", "b revoked 2 until released"),
            (10, "release b/r 2", "b/r OK"),
            (11, "tick", ""),
            (12, "release b/r 2", "b/r INVALID"),
        ]);
        assert!(script.servers[0].machine.report(script.now).is_empty());
    });
}

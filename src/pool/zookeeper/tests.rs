use super::fake::POOL;
use super::*;
use crate::testing::script::{self, pool, seconds};

type Script = script::Script<ZooKeeper>;

/// Servers that have read the pool.
fn servers(pool: plan::Pool) -> Script {
    let mut script = Script::new(pool);
    assert_eq!(script.drain(), "");
    script
}

#[test]
fn waiters_of_all_servers_are_granted_in_one_order_at_once() {
    let mut script = servers(pool(1, 0));
    script.play_ms(&[
        (0, "1 get z", "z YES 1"),
        (1, "2 wait a", ""),
        (2, "3 wait b", ""),
        (3, "1 wait c", ""),
        (4, "3 wait d", ""),
        (5, "2 wait e", ""),
        (6, "1 get f", "f NO"),
        (7, "1 release z", "z OK, a YES 2"),
        (8, "2 release a", "a OK, b YES 3"),
        (9, "1 release b", "b OK, c YES 4"),
        (10, "3 gone d", ""),
        (11, "3 release c", "c OK, e YES 5"),
        (12, "3 release e", "e OK"),
        (13, "3 get f", "f YES 6"),
    ]);
    assert_eq!(script.peer.entries(), [""; 0]);
}

#[test]
fn each_free_slot_goes_to_the_next_waiter_whichever_servers_they_are_at() {
    let mut script = servers(pool(3, 0));
    script.play_ms(&[
        (0, "1 wait a", "a YES 1"),
        (0, "2 wait b", "b YES 2"),
        (0, "3 wait c", "c YES 3"),
        (1, "2 wait d", ""),
        (2, "3 wait e", ""),
        (3, "3 wait f", ""),
        (4, "1 release a", "a OK, d YES 4"),
        (5, "2 release c", "c OK, e YES 5"),
        (6, "3 release b", "b OK, f YES 6"),
    ]);
    assert_eq!(script.peer.entries(), [""; 0]);
}

#[test]
fn names_of_entries_are_read_once_however_many_waiters_are_served() {
    let mut script = servers(pool(1, 0));
    script.play_ms(&[(0, "1 get w", "w YES 1")]);
    for number in 0..90 {
        script.happen(&format!("{} wait h{number}x", number % 3 + 1));
        assert_eq!(script.drain(), "");
    }
    script.play_ms(&[(1, "1 release w", "w OK, h0x YES 2")]);
    let lists = script.peer.fake.lists;
    let requests = script.peer.fake.requests;
    for number in 0..89 {
        let (event, next) = (format!("1 release h{number}x"), number + 1);
        script.now = Moment(Duration::from_millis(2 + number));
        script.happen(&event);
        let said = script.drain();
        let told = format!("h{next}x YES {}", next + 2);
        assert!(said.contains(&told), "{said}");
    }
    // Each server lists what was added after its first list, for which it waited alone.
    assert!(
        script.peer.fake.lists - lists <= 6,
        "{}",
        script.peer.fake.lists - lists
    );
    let each = (script.peer.fake.requests - requests) / 89;
    assert!(each <= 16, "{each} requests for each hand-over");
}

#[test]
fn entry_of_a_dead_server_is_kept_until_its_session_ends() {
    let mut script = servers(pool(1, 0));
    let sessions = script.peer.fake.sessions_by_age();
    script.play_ms(&[
        (0, "1 get z", "z YES 1"),
        (1, "2 wait a", ""),
        (2, "3 wait b", ""),
        (3, "2 killed", ""),
        (4, "1 release z", "z OK"),
        (5, "1 get c", "c NO"),
    ]);
    script.peer.fake.end(sessions[1]);
    script.play_ms(&[(6, "1 tick", "b YES 2"), (7, "3 release b", "b OK")]);
    script.play_ms(&[(8, "1 get c", "c YES 3")]);
}

#[test]
fn waiter_whose_host_holds_the_pool_blocks_no_other() {
    let mut script = servers(pool(2, 0));
    script.play_ms(&[
        (0, "1 get a/x", "a/x YES 1"),
        (0, "1 get z", "z YES 2"),
        (1, "2 wait a/y", ""),
        (2, "3 wait b", ""),
        (3, "1 release z", "z OK, b YES 3"),
        (4, "3 release b", "b OK"),
        (5, "3 get c", "c YES 4"),
        (6, "3 wait d", ""),
        (7, "1 release a/x 1", "a/x OK, d YES 5"),
        (8, "1 release c", "c OK, a/y YES 6"),
    ]);
    assert_eq!(script.peer.entries(), [""; 0]);
}

#[test]
fn client_without_a_run_shares_its_holding_with_all_runs_whose_requests_are_older() {
    // The wait of a/y is the older one, but it has given its position up.
    let mut script = servers(pool(2, 0));
    script.play_ms(&[
        (0, "1 get a/x", "a/x YES 1"),
        (0, "1 get z", "z YES 2"),
        (1, "1 wait a/y", ""),
        (2, "2 wait b", ""),
        (3, "1 release z", "z OK, b YES 3"),
        (4, "2 get c", "c NO"),
        (5, "1 wait a", ""),
        (6, "1 release a/x 1", "a/x OK, a/y YES 4, a YES 4"),
    ]);
    let record = script.peer.record();
    assert!(!record.contains("\"run\""), "{record}");
}

#[test]
fn lease_is_ended_as_soon_as_it_was_promised_and_no_sooner() {
    servers(pool(1, 60)).play(&[
        (0, "1 get a", "a YES 1 57 s"),
        (10, "2 wait b", ""),
        (20, "3 renew a 1", "a YES 1 57 s"),
        (60, "1 tick", ""),
        (79, "1 tick", ""),
        (80, "1 tick", "b YES 2 57 s"),
        (81, "3 renew a 1", "a NO"),
    ]);
    // A server that has seen nothing before counts the whole lease.
    let mut script = servers(pool(1, 60));
    script.play(&[(0, "1 get a", "a YES 1 57 s")]);
    for server in ["1 killed", "2 killed", "3 killed"] {
        script.play(&[(30, server, "")]);
    }
    script.play(&[
        (31, "2 wait b", ""),
        (89, "1 tick", ""),
        (90, "1 tick", "b YES 30000001 57 s"),
    ]);
}

#[test]
fn shorter_expire_shortens_no_lease_and_longer_one_begins_with_the_next_yes() {
    let mut script = servers(pool(1, 60));
    script.play(&[
        (0, "1 get a", "a YES 1 57 s"),
        (1, "2 expire 10", ""),
        (2, "2 get a", "a YES 1 57 s"),
        (3, "2 wait b", ""),
        (61, "1 tick", ""),
        (62, "1 tick", "b YES 2 9 s"),
        (63, "2 expire 0", ""),
        (64, "2 get b", "b YES 2"),
        (65, "2 wait c", ""),
        (999, "1 tick", ""),
        (1000, "1 release b", "b OK, c YES 3"),
    ]);
}

#[test]
fn yes_that_changes_nothing_is_a_check_which_no_other_server_notices() {
    let mut script = servers(pool(1, 60));
    script.play(&[(0, "1 get a", "a YES 1 57 s")]);
    let version = script.peer.fake.nodes[POOL].version;
    script.play(&[(1, "1 get a", "a YES 1 56 s")]);
    script.play_ms(&[(1001, "1 renew a 1", "a YES 1 57 s")]);
    assert_eq!(script.peer.fake.nodes[POOL].version, version + 1);
    script.play_ms(&[(1002, "1 renew a 1", "a YES 1 56 s")]);
    assert_eq!(script.peer.fake.nodes[POOL].version, version + 1);
}

#[test]
fn holder_without_a_lease_may_use_any_server_at_the_cost_of_one_write() {
    let mut script = servers(pool(1, 0));
    script.play(&[(0, "1 get a", "a YES 1")]);
    let version = script.peer.fake.nodes[POOL].version;
    for second in 1..10 {
        for server in 1..4 {
            let event = format!("{server} renew a 1");
            script.play(&[(second, &event, "a YES 1")]);
        }
    }
    assert_eq!(script.peer.fake.nodes[POOL].version, version + 1);
    // The first server does not take it back although none of its answers arrived.
    script.play(&[(10, "1 get b", "b NO"), (10, "1 lost a 1", "")]);
    script.play(&[(11, "2 renew a 1", "a YES 1"), (11, "3 get b", "b NO")]);
}

#[test]
fn answers_that_change_nothing_cost_one_check() {
    let mut script = servers(pool(1, 60));
    script.play(&[(0, "1 get a", "a YES 1 57 s")]);
    for (event, answer) in [
        ("2 get b", "b NO"),
        ("2 release b", "b OK"),
        ("1 get a", "a YES 1 57 s"),
        ("3 renew b 7", "b NO"),
    ] {
        let requests = script.peer.fake.requests;
        script.play(&[(0, event, answer)]);
        assert_eq!(script.peer.fake.requests - requests, 1, "{event}");
    }
    // A change is read by the other servers.
    script.play(&[(1, "1 tick", "")]);
    let requests = script.peer.fake.requests;
    script.play(&[(1, "1 renew a 1", "a YES 1 57 s")]);
    assert_eq!(script.peer.fake.requests - requests, 2 + 2);
}

#[test]
fn without_the_ensemble_requests_fail_within_a_second_and_waiters_wait() {
    let refused = "503 cannot reach ZooKeeper: h1:2181: connection refused";
    let mut script = servers(pool(1, 60));
    script.play_ms(&[
        (0, "1 get a", "a YES 1 57 s"),
        (1, "1 wait b", ""),
        (2, "unreachable", ""),
        (3, "1 renew a 1", ""),
        (3, "1 release a 1", ""),
        (3, "2 get a", ""),
        (902, "1 tick", ""),
    ]);
    script.play_ms(&[(
        903,
        "1 tick",
        &format!("a {refused}, a {refused}, a {refused}"),
    )]);
    script.play_ms(&[(2500, "reachable", ""), (3100, "1 tick", "")]);
    assert!(
        script
            .notes
            .iter()
            .any(|note| note.contains("requests fail until it answers"))
    );
    assert!(
        script
            .notes
            .iter()
            .any(|note| note.contains("ZooKeeper at h1:2181 answers again"))
    );
    script.play_ms(&[(3200, "1 release a 1", "a OK, b YES 2 57 s")]);
}

#[test]
fn waiters_join_the_queue_again_when_the_session_has_ended() {
    let mut script = servers(pool(1, 0));
    script.play_ms(&[
        (0, "1 get z", "z YES 1"),
        (1, "1 wait a", ""),
        (2, "2 wait b", ""),
        (3, "1 expired", ""),
        (1000, "1 tick", ""),
        (1001, "2 release z", "z OK, b YES 2"),
        (1002, "2 release b", "b OK, a YES 3"),
    ]);
    assert_eq!(script.peer.entries(), [""; 0]);
}

/// The simulation found it: the younger waiter joined before it was known that the entry of the older
/// one had not been created.
#[test]
fn waiters_of_one_server_keep_their_order_through_an_outage() {
    with_each_cut(|script, cut| {
        script.play_ms(&[(0, "2 get z", "z YES 1 57 s")]);
        for event in [cut, "1 wait a", "1 unreachable", "1 wait b", "1 reachable"] {
            script.happen(event);
        }
        assert_eq!(script.drain(), "", "{cut}");
        script.play_ms(&[
            (2000, "1 tick", ""),
            (3000, "2 release z", "z OK, a YES 2 57 s"),
            (3001, "1 release a", "a OK, b YES 3 57 s"),
        ]);
    });
}

/// The simulation found it: another server takes the slot that the older waiter was to have, after
/// the younger one has joined the queue.
#[test]
fn waiters_of_one_server_keep_their_order_if_a_grant_fails() {
    let mut script = servers(pool(2, 0));
    script.play_ms(&[
        (0, "2 get z", "z YES 1"),
        (1, "delay 100", ""),
        (2, "2 get c", ""),
        (50, "1 wait a", ""),
        (51, "1 wait b", ""),
    ]);
    assert_eq!(each_millisecond(&mut script, 52..1000), ["c YES 2"]);
    script.play_ms(&[
        (1000, "delay 0", ""),
        (1001, "2 release c", "c OK, a YES 3"),
        (1002, "1 release a", "a OK, b YES 4"),
    ]);
}

/// The simulation found it: the older waiter was parked because its host held the pool, although the
/// write that was on its way ended that holding.
#[test]
fn waiters_of_one_server_keep_their_order_if_a_holding_of_the_first_ends() {
    let mut script = servers(pool(2, 0));
    script.play_ms(&[
        (0, "2 get z", "z YES 1"),
        (0, "1 get a/x", "a/x YES 2"),
        (1, "3 wait c", ""),
    ]);
    for event in ["1 cut", "1 wait a/y", "1 wait b"] {
        script.happen(event);
    }
    script.play_ms(&[
        (2, "1 release a/x 2", ""),
        (800, "1 tick", "a/x OK, c YES 3"),
        (801, "3 release c", "c OK, a/y YES 4"),
        (802, "1 release a/y 4", "a/y OK, b YES 5"),
    ]);
}

/// The simulation found it: the entry of the waiter had ended with the grant.
#[test]
fn waiter_keeps_its_turn_if_its_lease_ends_before_the_lost_answer_is_looked_up() {
    let mut lost = 0;
    for count in 0..8 {
        let mut script = servers(pool(1, 60));
        script.play_ms(&[
            (0, "2 get z", "z YES 1 57 s"),
            (1, "1 wait a", ""),
            (2, "3 wait b", ""),
            (3, &format!("1 cut after {count} answers"), ""),
        ]);
        script.happen("2 release z");
        if script.drain().contains("a YES") {
            continue;
        }
        lost += u32::from(script.peer.record().contains("\"host\":\"a\""));
        script.play_ms(&[(4, "unreachable", "")]);
        let mut said = String::new();
        for (time, event) in [(70, "reachable"), (71, "1 tick")] {
            script.now = seconds(time);
            script.happen(event);
            said += &script.drain();
        }
        assert!(said.starts_with("a YES 2 "), "{count}: {said}");
        script.play(&[(72, "1 release a", "a OK, b YES 3 57 s")]);
    }
    assert!(lost > 0);
}

/// What is said from this millisecond on.
fn each_millisecond(script: &mut Script, times: std::ops::Range<u64>) -> Vec<String> {
    let mut said = Vec::new();
    for time in times {
        script.now = Moment(Duration::from_millis(time));
        said.push(script.drain());
    }
    said.retain(|said| !said.is_empty());
    said
}

#[test]
fn many_waiters_join_in_parts() {
    let mut script = servers(pool(1, 0));
    script.play_ms(&[(0, "2 get z", "z YES 1"), (1, "delay 100", "")]);
    for number in 0..500 {
        script.happen(&format!("1 wait h{number}x"));
    }
    let mut most = 0;
    for time in 2..1500 {
        let before = script.peer.entries().len();
        assert!(each_millisecond(&mut script, time..time + 1).is_empty());
        most = most.max(script.peer.entries().len() - before);
    }
    assert_eq!(script.peer.entries().len(), 500);
    assert!(most <= 200, "{most} at a time");
}

#[test]
fn list_that_fails_is_tried_again_four_times_a_second() {
    let mut script = servers(pool(1, 0));
    script.peer.fake.closed = Some("/".into());
    script.play_ms(&[(1, "delete", ""), (1, "1 report", "")]);
    let requests = script.peer.fake.requests;
    each_millisecond(&mut script, 2..1000);
    let sent = script.peer.fake.requests - requests;
    assert!((6..80).contains(&sent), "{sent}");
}

/// The clock of a suspended virtual machine may stand, so the age of a renewal is not known.
#[test]
fn first_answer_of_a_new_session_renews_the_lease() {
    let mut script = servers(pool(1, 60));
    script.play(&[
        (0, "1 get a", "a YES 1 57 s"),
        (1, "1 get a", "a YES 1 56 s"),
        (2, "1 expired", ""),
        (3, "1 tick", ""),
        (4, "1 get a", "a YES 1 57 s"),
    ]);
}

/// The connection breaks at each point of an exchange, before a request arrives or after it was
/// carried out.
fn with_each_cut(run: impl Fn(&mut Script, &str)) {
    for what in ["requests", "answers"] {
        for count in 0..12 {
            let cut = format!("1 cut after {count} {what}");
            run(&mut servers(pool(1, 60)), &cut);
        }
    }
}

#[test]
fn write_whose_answer_is_lost_is_looked_up() {
    with_each_cut(|script, cut| {
        script.play_ms(&[(0, "2 get z", "z YES 1 57 s"), (1, "2 release z", "z OK")]);
        script.happen(cut);
        script.happen("1 get a");
        let mut said = script.drain();
        script.now = Moment(Duration::from_millis(200));
        script.happen("1 tick");
        said += &script.drain();
        assert!(
            said == "a YES 2 57 s" || said == "a YES 2 56 s",
            "{cut}: {said}"
        );
        script.happen(cut);
        script.happen("1 release a 2");
        let mut said = script.drain();
        script.now = Moment(Duration::from_millis(800));
        script.happen("1 tick");
        said += &script.drain();
        assert_eq!(said, "a OK", "{cut}");
        script.play_ms(&[(900, "2 get b", "b YES 3 57 s")]);
    });
}

#[test]
fn revocation_whose_answer_is_lost_hits_no_later_holding_of_the_host() {
    let mut lost = 0;
    for count in 0..8 {
        let mut script = servers(pool(1, 0));
        script.play_ms(&[(0, "2 get a/x", "a/x YES 1")]);
        script.happen(&format!("1 cut after {count} answers"));
        script.happen("1 revoke a");
        if !script.drain().is_empty() || !script.peer.record().contains("revoked") {
            continue;
        }
        lost += 1;
        script.play_ms(&[
            (1, "2 release a/x 1", "a/x OK"),
            (2, "2 get a/y", "a/y YES 2"),
        ]);
        script.now = Moment(Duration::from_millis(500));
        script.happen("1 tick");
        script.drain();
        script.play_ms(&[(501, "2 renew a/y 2", "a/y YES 2")]);
    }
    assert!(lost > 0);
}

#[test]
fn grant_that_no_client_was_told_of_is_taken_back() {
    with_each_cut(|script, cut| {
        script.happen(cut);
        for client in ["1 get a", "1 wait b", "1 wait c"] {
            script.happen(client);
        }
        let said = script.drain();
        let told = |client: &str| said.contains(&format!("{client} YES"));
        for client in ["a", "b", "c"].into_iter().filter(|client| !told(client)) {
            script.happen(&format!("1 gone {client}"));
        }
        for client in ["a", "b", "c"].into_iter().filter(|client| told(client)) {
            script.happen(&format!("1 release {client}"));
        }
        script.drain();
        script.now = Moment(Duration::from_millis(800));
        script.happen("1 tick");
        script.drain();
        script.now = Moment(Duration::from_millis(900));
        script.happen("2 wait d");
        let said = script.drain();
        assert!(said.starts_with("d YES "), "{cut}: {said}");
        assert_eq!(script.peer.entries(), [""; 0], "{cut}");
    });
}

#[test]
fn holding_that_another_server_has_told_of_is_not_taken_back() {
    let mut lost = 0;
    for count in 0..12 {
        let mut script = servers(pool(1, 0));
        script.play_ms(&[(0, "2 get z", "z YES 1"), (1, "1 wait a/x", "")]);
        script.happen(&format!("1 cut after {count} answers"));
        script.happen("2 release z");
        let is_told = script.drain().contains("a/x YES 2");
        if is_told || !script.peer.record().contains("\"host\":\"a\"") {
            continue;
        }
        lost += 1;
        // The client gives the first server up and asks another one. The first one is connected
        // again and answers, but its answer does not arrive.
        script.play_ms(&[
            (2, "2 wait a/x2", "a/x2 YES 2"),
            (500, "1 tick", "a/x YES 2"),
            (501, "1 lost a 2", ""),
            (502, "3 wait b", ""),
            (503, "2 release a/x2 2", "a/x2 OK, b YES 3"),
        ]);
    }
    assert!(lost > 0);
}

#[test]
fn holding_that_two_servers_have_written_and_none_has_told_of_is_taken_back() {
    let mut both = 0;
    for (first, second) in (0..100).map(|number| (number / 10, number % 10)) {
        let mut script = servers(pool(1, 0));
        let mut said = String::new();
        for (time, event) in [
            (0, format!("1 cut after {first} answers")),
            (0, "1 get a".into()),
            (1, format!("2 cut after {second} answers")),
            (1, "2 get a".into()),
            (901, "1 tick".into()),
            (902, "2 tick".into()),
        ] {
            script.now = Moment(Duration::from_millis(time));
            script.happen(&event);
            said += &script.drain();
            let listed = r#""told_by":["0000000000001001","#;
            both += usize::from(time == 1 && script.peer.record().contains(listed));
        }
        if !said.contains("YES") {
            script.now = Moment(Duration::from_millis(1200));
            script.happen("1 tick");
            script.happen("2 tick");
            script.drain();
            script.happen("3 get b");
            assert!(script.drain().starts_with("b YES"), "{first} {second}");
        }
    }
    assert!(both > 0);
}

#[test]
fn grant_whose_client_was_told_503_meanwhile_is_taken_back() {
    let mut script = servers(pool(1, 0));
    script.play_ms(&[
        (0, "delay 600", ""),
        (0, "1 get a", ""),
        (600, "1 tick", ""),
        (
            900,
            "1 tick",
            "a 503 cannot reach ZooKeeper: h1:2181: no answer for 0.3 s",
        ),
        (1200, "delay 0", ""),
        (1201, "1 tick", ""),
        (1202, "2 get b", "b YES 2"),
    ]);
}

#[test]
fn leader_without_a_majority_answers_nothing_of_what_it_has() {
    for event in [
        "1 renew a/x",
        "1 release a",
        "1 release a/x",
        "1 release a 2",
        "1 revoke a",
        "1 get b",
    ] {
        let mut script = servers(pool(1, 0));
        script.play_ms(&[
            (0, "2 wait z", "z YES 1"),
            (1, "2 release z 1", "z OK"),
            (2, "1 cut off", ""),
            (3, "2 get a/x", "a/x YES 2"),
            // By the old leader the pool is free.
            (4, event, ""),
        ]);
        script.now = Moment(Duration::from_millis(904));
        script.happen("1 tick");
        let said = script.drain();
        assert!(said.contains(" 503 "), "{event}: {said}");
        script.play_ms(&[(905, "healed", "")]);
        script.now = Moment(Duration::from_millis(1500));
        script.happen("1 tick");
        assert_eq!(script.drain(), "");
        script.play_ms(&[
            (1501, "1 get b", "b NO"),
            (1502, "1 renew a/x 2", "a/x YES 2"),
        ]);
    }
}

#[test]
fn member_that_is_behind_is_asked_for_all_changes_first() {
    let mut script = servers(pool(1, 0));
    script.play_ms(&[
        (0, "1 behind", ""),
        (1, "2 get a", "a YES 1"),
        (2, "1 renew a 1", "a YES 1"),
        (3, "1 behind", ""),
        (4, "2 release a 1", "a OK"),
        (5, "3 get b", "b YES 2"),
        (6, "1 renew a 1", "a NO"),
        (7, "1 behind", ""),
        (8, "2 release b", "b OK"),
        (9, "3 get c", "c YES 3"),
        (10, "1 release c", "c OK"),
        (11, "1 get d", "d YES 4"),
        (12, "1 behind", ""),
        (13, "3 wait e", ""),
        (14, "1 wait f", ""),
        (15, "1 release d", "d OK, e YES 5"),
        (16, "3 release e", "e OK, f YES 6"),
    ]);
}

#[test]
fn waiter_whose_host_may_not_hold_the_pool_any_more_leaves_no_entry() {
    let mut script = servers(pool(1, 0));
    script.play_ms(&[
        (0, "3 get z", "z YES 1"),
        (1, "1 wait a", ""),
        (2, "2 wait b", ""),
    ]);
    let config = plan::Pool {
        servers: Some(vec!["z".into(), "b".into()]),
        ..pool(1, 0)
    };
    script.configure(0, vec![config], Moment(Duration::from_millis(3)));
    assert_eq!(script.drain(), "a INVALID");
    script.play_ms(&[
        (4, "3 release z", "z OK, b YES 2"),
        (5, "2 release b", "b OK"),
        (6, "3 get c", "c YES 3"),
    ]);
    assert_eq!(script.peer.entries(), [""; 0]);
}

#[test]
fn waiter_that_is_granted_at_once_makes_no_entry() {
    let mut script = servers(pool(3, 0));
    let sequence = script.peer.fake.sequence;
    script.play_ms(&[
        (0, "1 wait a", "a YES 1"),
        (1, "2 wait b", "b YES 2"),
        (2, "3 wait c", "c YES 3"),
    ]);
    assert_eq!(script.peer.fake.sequence, sequence);
}

#[test]
fn waiter_is_not_overtaken_by_one_that_comes_while_a_read_is_on_its_way() {
    let mut script = servers(pool(1, 0));
    script.play_ms(&[
        (0, "1 get b", "b YES 1"),
        (1, "delay 100", ""),
        (1, "1 release b", ""),
        (2, "2 wait v", ""),
        (3, "1 wait w", ""),
    ]);
    assert_eq!(each_millisecond(&mut script, 4..1000), ["b OK", "v YES 2"]);
}

#[test]
fn write_that_is_refused_is_tried_again_four_times_a_second() {
    let mut script = servers(pool(1, 0));
    script.peer.fake.is_write_protected = true;
    script.play_ms(&[(0, "1 wait a", "")]);
    let requests = script.peer.fake.requests;
    assert!(each_millisecond(&mut script, 1..1000).is_empty());
    let sent = script.peer.fake.requests - requests;
    assert!((6..20).contains(&sent), "{sent}");
    script.peer.fake.is_write_protected = false;
    script.play_ms(&[(1300, "1 tick", "a YES 1")]);
}

#[test]
fn any_number_of_waiters_shares_a_holding() {
    let mut script = servers(pool(1, 0));
    script.play_ms(&[(0, "2 get z", "z YES 1")]);
    for number in 0..600 {
        script.happen(&format!("1 wait a{number}"));
    }
    assert_eq!(script.drain(), "");
    assert_eq!(script.peer.entries().len(), 600);
    script.happen("2 release z");
    assert_eq!(script.drain().matches(" YES 2").count(), 600);
    assert_eq!(script.peer.entries(), [""; 0]);
}

#[test]
fn waiter_gets_503_once_the_sequence_numbers_are_used_up() {
    let mut script = servers(pool(1, 0));
    script.peer.fake.sequence = 1 << 31;
    let why = "the sequence numbers of /distributex/one are used up, so no client can wait: delete it once no client holds the pool";
    script.play_ms(&[
        (0, "1 get z", "z YES 1"),
        (1, "1 wait a", &format!("a 503 {why}")),
        (2, "1 release z", "z OK"),
        (3, "1 get b", "b YES 2"),
    ]);
}

#[test]
fn version_of_a_node_may_wrap_around_but_is_never_minus_one_in_a_write() {
    let mut script = servers(pool(1, 0));
    let set = |script: &mut Script, version| {
        script.peer.fake.nodes.get_mut(POOL).unwrap().version = version;
    };
    set(&mut script, i32::MAX - 1);
    script.happen("1 cut");
    script.happen("2 cut");
    script.play_ms(&[
        (500, "1 get a", "a YES 1"),
        (501, "1 release a", "a OK"),
        (502, "2 get b", "b YES 2"),
        (503, "2 release b", "b OK"),
    ]);
    let notes = |script: &Script, what: &str| {
        let notes = script.notes.iter();
        notes.filter(|note| note.contains(what)).count()
    };
    assert_eq!(notes(&script, "restored from a backup"), 0);
    assert_eq!(notes(&script, "was changed 2^31 times"), 2);
    set(&mut script, -2);
    script.happen("1 cut");
    script.play_ms(&[(1000, "1 get a", "a YES 3"), (1001, "1 release a", "")]);
    script.now = Moment(Duration::from_millis(1901));
    script.happen("1 tick");
    let said = script.drain();
    assert!(
        said.starts_with("a 503 /distributex/one was changed 2^32 times"),
        "{said}"
    );
}

#[test]
fn entry_whose_data_may_not_be_read_is_waited_for_all_the_same() {
    let mut script = servers(pool(1, 0));
    script.play_ms(&[(0, "1 get z", "z YES 1"), (1, "2 wait a", "")]);
    let entry = script.peer.entries().pop().unwrap();
    script.peer.fake.secret = Some(format!("{POOL}/{entry}"));
    script.play_ms(&[
        (2, "3 wait b", ""),
        (3, "1 release z", "z OK, a YES 2"),
        (4, "2 release a", "a OK, b YES 3"),
        (5, "2 wait c", ""),
    ]);
    let entry = script.peer.entries().pop().unwrap();
    script.peer.fake.secret = Some(format!("{POOL}/{entry}"));
    script.play_ms(&[
        (6, "1 wait d", ""),
        (7, "1 report", "[b 3 0 s, until released]"),
        (8, "2 gone c", ""),
        (9, "3 release b", "b OK, d YES 4"),
    ]);
}

#[test]
fn server_that_cannot_read_the_pool_lets_the_waiters_of_others_go_first() {
    let mut script = servers(pool(1, 0));
    script.play_ms(&[
        (0, "2 get z", "z YES 1"),
        (1, "1 wait a", ""),
        (2, "2 wait b", ""),
    ]);
    // The first server is older than the others, or has other credentials.
    script.peer.fake.secret = Some(POOL.into());
    script.play_ms(&[(3, "1 cut", "")]);
    for time in 0..44 {
        script.now = Moment(Duration::from_millis(500 + 250 * time));
        assert_eq!(script.said_by(0), []);
    }
    script.peer.fake.secret = None;
    script.play(&[(12, "2 release z", "z OK, b YES 2")]);
    script.play(&[(13, "2 release b", "b OK, a YES 3")]);
    assert_eq!(script.peer.entries(), [""; 0]);
}

#[test]
fn run_that_asks_again_gets_the_holding_of_a_lost_answer() {
    let mut script = servers(pool(1, 60));
    // The write is carried out, and its answer is lost with the server.
    script.happen("1 cut after 5 answers");
    script.happen("1 get a/x");
    script.drain();
    if script.peer.record().contains("\"run\":\"x\"") {
        script.play(&[(1, "1 killed", ""), (1, "2 get a/x", "a/x YES 1 57 s")]);
    }
}

#[test]
fn node_that_was_deleted_is_created_again_with_its_holders() {
    let mut script = servers(pool(1, 60));
    script.play(&[
        (0, "1 get a", "a YES 1 57 s"),
        (1, "delete", ""),
        (2, "2 get b", "b NO"),
    ]);
    assert!(
        script.notes.iter().any(|note| note.contains(
            "was deleted: creating it again, with the holders that this server knows: a"
        )),
        "{:?}",
        script.notes
    );
    script.play(&[
        (3, "3 release a 1", "a OK"),
        (4, "2 get b", "b YES 1000001 57 s"),
    ]);
}

/// The pool may have been kept by another backend meanwhile, or the node restored from a backup.
#[test]
fn tokens_are_above_the_start_of_the_server_also_in_a_node_that_exists() {
    let mut script = servers(pool(1, 0));
    script.play(&[(0, "1 get a", "a YES 1"), (0, "1 release a", "a OK")]);
    for server in ["1 killed", "2 killed", "3 killed"] {
        script.play(&[(5, server, "")]);
    }
    script.play(&[
        (9, "1 get b", "b YES 5000001"),
        (9, "1 release b", "b OK"),
        (9, "2 get c", "c YES 5000002"),
    ]);
}

#[test]
fn node_that_cannot_be_created_again_is_logged_once_and_when_it_can() {
    let mut script = servers(pool(1, 0));
    script.play_ms(&[(0, "1 get a", "a YES 1")]);
    script.peer.fake.closed = Some("/".into());
    script.play_ms(&[(1, "delete", "")]);
    assert!(each_millisecond(&mut script, 2..3000).is_empty());
    script.play_ms(&[(3000, "2 get b", "")]);
    let why = "cannot create /distributex/one: no permission: check the ACL of the node and \"auth\" in the config (-102)";
    let said = each_millisecond(&mut script, 3001..4000);
    assert_eq!(said, [format!("b 503 {why}")]);
    let notes = |script: &Script, what: &str| {
        let notes = script.notes.iter();
        notes.filter(|note| note.contains(what)).count()
    };
    assert_eq!(notes(&script, "was deleted: creating it again"), 3);
    assert_eq!(
        notes(&script, &format!("cannot grant or release one: {why}")),
        3
    );
    script.peer.fake.closed = None;
    assert!(each_millisecond(&mut script, 4000..4500).is_empty());
    assert_eq!(notes(&script, "one can be granted and released again"), 3);
    script.play_ms(&[(4500, "2 get b", "b NO")]);
    assert_eq!(notes(&script, "was deleted"), 3);
    script.play_ms(&[(4501, "delete", ""), (4502, "2 get b", "b NO")]);
    assert!(notes(&script, "was deleted") > 3);
    // The reason is the highest node that cannot be created.
    script.peer.fake.closed = Some(String::new());
    script.peer.fake.nodes.remove("/distributex");
    script.play_ms(&[(5000, "delete", ""), (5000, "2 get b", "")]);
    let said = each_millisecond(&mut script, 5001..6000);
    let why = "cannot create /distributex: no permission: check the ACL of the node and \"auth\" in the config (-102)";
    assert_eq!(said, [format!("b 503 {why}")]);
}

#[test]
fn node_of_another_program_blocks_no_waiter_and_is_logged_once() {
    for (name, owner) in [
        ("readme", 0),
        ("backup-0000000000", 0),
        ("backup-0000000000", 0x99),
        ("1.backup-0000000000", 0x99),
        ("1.7-0000000000", 0),
        ("1.7-0000000000", 0x99),
    ] {
        for secret in [false, true] {
            let mut script = servers(pool(1, 0));
            let path = format!("{POOL}/{name}");
            script.peer.fake.put(&path, b"?", owner);
            script.peer.fake.secret = secret.then(|| path.clone());
            script.peer.fake.sequence = 3;
            script.play_ms(&[
                (0, "1 wait a", "a YES 1"),
                (1, "1 wait b", ""),
                (2, "2 wait c", ""),
                (3, "1 wait d", ""),
                (4, "1 release a", "a OK, b YES 2"),
                (5, "1 release b", "b OK, c YES 3"),
                (6, "1 release c", "c OK, d YES 4"),
                (7, "1 release d", "d OK"),
                (8, "1 report", "[]"),
                (8, "2 report", "[]"),
            ]);
            let report = script.servers[0].machine.report(script.now);
            assert_eq!(report[0].waiters, []);
            let noted = format!(
                "{path} is not an entry of the queue: delete it, because /get/ answers NO as long as it exists"
            );
            let all = script.notes.iter().filter(|note| **note == noted);
            assert_eq!(all.count(), 2, "{name} {owner}: {:?}", script.notes);
            script.play_ms(&[(9, "1 get e", "e NO")]);
            script.peer.fake.delete(&path);
            script.play_ms(&[(10, "1 get e", "e YES 5"), (11, "1 release e", "e OK")]);
            assert_eq!(script.peer.entries(), [""; 0]);
        }
    }
}

#[test]
fn record_that_is_not_understood_grants_nothing() {
    let mut script = servers(pool(1, 60));
    script.play(&[(0, "1 get a", "a YES 1 57 s"), (1, "written {}", "")]);
    for server in 0..3 {
        script.play(&[(1, &format!("{} cut", server + 1), "")]);
    }
    script.now = seconds(2);
    script.happen("1 get b");
    assert_eq!(script.drain(), "");
    script.now = seconds(3);
    script.happen("1 tick");
    let said = script.drain();
    assert!(
        said.starts_with("b 503 /distributex/one cannot be used: \"version\": expected an integer"),
        "{said}"
    );
}

#[test]
fn report_is_the_same_at_each_server() {
    let mut script = servers(pool(2, 60));
    script.play(&[
        (0, "1 get a/x", "a/x YES 1 57 s"),
        (5, "2 get b", "b YES 2 57 s"),
        (5, "3 revoke b", "b revoked 2 for 60 s"),
    ]);
    for server in ["1 report", "2 report", "3 report"] {
        let seen = "[a/x 1 10 s, for 50 s; b 2 5 s, for 55 s, revoked]";
        script.play(&[(10, server, seen)]);
    }
}

/// The pool is removed from the config, and the connection breaks twice: before the grant is
/// answered, and before the read that shows it.
#[test]
fn removed_pool_is_not_forgotten_while_a_write_is_to_be_looked_up() {
    let other = || plan::Pool {
        name: "other".into(),
        ..pool(1, 0)
    };
    for first in 0..4 {
        for second in 0..8 {
            for what in ["requests", "answers"] {
                let mut script = servers(pool(1, 0));
                script.happen(&format!("1 cut after {first} {what}"));
                script.happen("1 get a");
                let mut said = script.drain();
                let (moment, config) = (script.now, vec![other()]);
                script.configure(0, config, moment);
                script.happen("1 gone a");
                script.happen(&format!("1 cut after {second} answers"));
                for time in (1..3000).step_by(10) {
                    script.now = Moment(Duration::from_millis(time));
                    said += &script.drain();
                }
                let record = script.peer.record();
                let is_told = said.contains("a YES");
                assert_eq!(
                    record.contains("\"host\":\"a\""),
                    is_told,
                    "{first} {what}, {second}: {said}, {record}"
                );
            }
        }
    }
}

#[test]
fn one_check_precedes_all_reads_of_a_report() {
    let mut script = servers(pool(1, 60));
    let named = |number| plan::Pool {
        name: format!("p{number}"),
        ..pool(1, 60)
    };
    script.configure(0, (0..20).map(named).collect(), script.now);
    assert_eq!(script.drain(), "");
    script.play(&[(1, "1 tick", "")]);
    let requests = script.peer.fake.requests;
    script.play(&[(1, "1 report", "[]")]);
    // For each pool: is the record current, and which clients wait?
    assert_eq!(script.peer.fake.requests - requests, 1 + 20 * 2);
    // A leader that has lost its majority answers no read after the check.
    script.play(&[(3, "1 cut off", ""), (3, "1 report", "")]);
    script.now = Moment(Duration::from_millis(3900));
    script.happen("1 tick");
    let said = script.drain();
    assert!(said.starts_with("report 503 "), "{said}");
}

#[test]
fn report_has_the_waiters_of_all_servers_in_their_order() {
    let mut script = servers(pool(1, 0));
    script.play(&[
        (0, "1 get z", "z YES 1"),
        (1, "2 wait a/x", ""),
        (2, "3 wait b", ""),
        (3, "1 wait c", ""),
        (4, "2 wait d", ""),
    ]);
    for (number, server) in ["1 report", "2 report", "3 report", "1 report"]
        .iter()
        .enumerate()
    {
        script.now = seconds(10);
        script.happen(server);
        assert_eq!(script.drain(), "[z 1 10 s, until released]");
        let report = script.servers[number % 3].machine.report(script.now);
        let waiters = report[0].waiters.iter();
        let shown: Vec<_> = waiters
            .map(|it| (&*it.host, it.run, it.waited.as_secs()))
            .collect();
        let expected = [
            ("a", Some("x"), 9),
            ("b", None, 8),
            ("c", None, 7),
            ("d", None, 6),
        ];
        assert_eq!(shown, expected, "{server}");
    }
}

#[test]
fn any_name_of_a_pool_is_the_name_of_a_node() {
    for (pool, node) in [
        ("backup-1.a_b~c", "/d/backup-1.a_b~c"),
        ("a/b c", "/d/a%2Fb%20c"),
        ("..", "/d/%2E%2E"),
        (".", "/d/%2E"),
        ("50%", "/d/50%25"),
        ("é", "/d/%C3%A9"),
    ] {
        assert_eq!(node_path("/d", pool), node);
    }
}

/// Stops a server as the loop does once no client is connected. Returns whether it has ended.
fn stop(script: &mut Script, server: usize) -> bool {
    let now = script.now;
    if script.servers[server].machine.is_settled() {
        script.servers[server].input(now, |it| it.close(now));
    }
    assert_eq!(script.drain(), "");
    let machine = &script.servers[server].machine;
    machine.is_closing && machine.is_settled()
}

/// At each moment of an exchange the client of this event hangs up and its server stops. The next
/// client of another server is served at once.
fn with_each_stop(event: &str, client: &str, pool_is_held: bool) {
    for moment in 1..100 {
        let mut script = servers(pool(1, 0));
        if pool_is_held {
            script.play_ms(&[(0, "2 get z", "z YES 1")]);
        }
        script.play_ms(&[(0, "delay 20", ""), (0, event, "")]);
        let mut said = String::new();
        for time in 1..=moment {
            script.now = Moment(Duration::from_millis(time));
            said += &script.drain();
        }
        if !said.is_empty() {
            return assert!(moment > 20, "{said}");
        }
        script.happen(&format!("1 gone {client}"));
        let mut time = moment;
        script.drain();
        while !stop(&mut script, 0) {
            time += 1;
            assert!(time < moment + 400, "it does not end: {moment}");
            script.now = Moment(Duration::from_millis(time));
        }
        assert_eq!(script.peer.fake.sessions_by_age().len(), 2, "{moment}");
        script.play_ms(&[(600, "delay 0", "")]);
        if pool_is_held {
            script.play_ms(&[(601, "2 release z", "z OK")]);
        }
        script.happen("3 wait b");
        let said = script.drain();
        assert!(said.starts_with("b YES "), "{moment}: {said}");
        assert_eq!(script.peer.entries(), [""; 0], "{moment}");
    }
}

#[test]
fn server_that_stops_leaves_no_grant_that_no_client_knows_of() {
    with_each_stop("1 get a", "a", false);
    with_each_stop("1 wait a", "a", false);
}

#[test]
fn server_that_stops_leaves_no_entry_in_the_queue() {
    with_each_stop("1 wait a", "a", true);
}

#[test]
fn server_that_stops_takes_back_a_grant_also_while_a_cycle_runs() {
    let mut script = servers(pool(2, 0));
    script.play_ms(&[(0, "1 get a", "a YES 1"), (0, "delay 20", "")]);
    script.play_ms(&[
        (1, "1 get c", ""),
        (1, "1 lost a 1", ""),
        (1, "1 gone c", ""),
    ]);
    assert!(!script.servers[0].machine.is_settled());
    for time in 2..400 {
        script.now = Moment(Duration::from_millis(time));
        stop(&mut script, 0);
    }
    assert!(stop(&mut script, 0));
    let record = script.peer.record();
    assert!(!record.contains("\"host\""), "{record}");
}

#[test]
fn server_that_stops_during_an_outage_waits_only_for_what_it_has_begun() {
    let mut script = servers(pool(1, 0));
    script.play_ms(&[
        (0, "2 get z", "z YES 1"),
        (1, "1 wait a", ""),
        (2, "unreachable", ""),
        (3, "1 gone a", ""),
    ]);
    assert!(!stop(&mut script, 0), "its entry is in the queue");
    assert!(stop(&mut script, 2), "it has begun nothing");
    script.play_ms(&[(1000, "reachable", ""), (1600, "1 tick", "")]);
    for time in 1601..1610 {
        script.now = Moment(Duration::from_millis(time));
        stop(&mut script, 0);
    }
    assert!(stop(&mut script, 0));
    assert_eq!(script.peer.entries(), [""; 0]);
    // The connection is lost before the close is answered.
    script.happen("2 cut after 0 answers");
    for time in 1610..3000 {
        script.now = Moment(Duration::from_millis(time));
        stop(&mut script, 1);
    }
    assert!(stop(&mut script, 1));
}

#[test]
fn refused_session_is_logged_once_however_often_it_connects() {
    let mut script = servers(pool(1, 0));
    let lines = |script: &Script| {
        let of_session = ["cannot use ZooKeeper", "cannot reach", "answers again"];
        let notes = script.notes.iter();
        let found = notes.filter(|note| of_session.iter().any(|what| note.contains(what)));
        found.cloned().collect::<Vec<_>>()
    };
    script.peer.fake.demands_auth = true;
    script.happen("1 cut");
    for time in (0..10_000).step_by(50) {
        script.now = Moment(Duration::from_millis(time));
        script.said_by(0);
    }
    let noted = lines(&script);
    assert_eq!(noted.len(), 1, "{noted:?}");
    assert!(noted[0].starts_with("cannot use ZooKeeper: "), "{noted:?}");
    // A request is told why, whichever state the connection has.
    script.happen("1 get a");
    script.now = Moment(Duration::from_millis(10_900));
    let (_, said) = script.said_by(0).remove(0);
    assert!(said.starts_with("a 503 cannot use ZooKeeper: "), "{said}");
    script.peer.fake.demands_auth = false;
    script.play_ms(&[(12_000, "1 get a", "a YES 1")]);
    let noted = lines(&script);
    assert!(noted[1].contains(" answers again, after 12."), "{noted:?}");
}

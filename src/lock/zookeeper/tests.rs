use super::fake::{Client, Fake, at, options};
use super::layout::NodeData;
use super::node::Node;
use super::*;
use crate::endpoint::Endpoint;
use crate::zookeeper::code::operation;

const TIMEOUT: Duration = Duration::from_secs(10);
const LOCK: &str = "/app/lock";

fn client(wait: Duration) -> Client<SessionLock<Node>> {
    let content = format!("here{:08}-89ab-cdef-0123-456789abcdef", wait.as_secs());
    Client::new(Node::lock(
        options(TIMEOUT, wait),
        "app",
        vec!["lock".into()],
        &NodeData::parse(content.as_bytes()).unwrap(),
        at(0),
    ))
}

/// Runs client and server from one moment to another.
fn play(client: &mut Client<SessionLock<Node>>, fake: &mut Fake, from: Moment, to: Moment) {
    let mut now = from;
    while now < to {
        fake.expire(now);
        client.talk(fake, now);
        now = client
            .wait()
            .min(now + Duration::from_millis(100))
            .max(now + Duration::from_millis(1));
    }
}

/// A holder that was connected for 4 s; its outputs until then are dropped.
fn holder() -> (Fake, Client<SessionLock<Node>>) {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::ZERO));
    play(&mut client, &mut fake, at(0), at(4000));
    assert!(
        client
            .said
            .iter()
            .any(|output| matches!(output, Output::Event(Event::Acquired(_)))),
        "{:?}",
        client.said
    );
    client.said.clear();
    (fake, client)
}

/// The same, after it has lost its lock in an outage that continues.
fn loser() -> (Fake, Client<SessionLock<Node>>) {
    let (mut fake, mut client) = holder();
    fake.down = true;
    client.cut(&mut fake, at(4000));
    play(&mut client, &mut fake, at(4000), at(12_000));
    assert!(
        client
            .said
            .iter()
            .any(|output| matches!(output, Output::Event(Event::Lost { gone: false, .. }))),
        "{:?}",
        client.said
    );
    (fake, client)
}

fn gone(client: &Client<SessionLock<Node>>) -> Option<&str> {
    client.said.iter().find_map(|output| {
        if let Output::Event(Event::Gone(why)) = output {
            Some(why.as_str())
        } else {
            None
        }
    })
}

fn lost(client: &Client<SessionLock<Node>>) -> Option<(Moment, bool)> {
    client.said.iter().find_map(|output| {
        if let Output::Event(Event::Lost {
            kill_deadline,
            gone,
            ..
        }) = output
        {
            Some((*kill_deadline, *gone))
        } else {
            None
        }
    })
}

/// The result of a look-up.
fn found(name: &str) -> Input<'static> {
    Input::LookUp(Found {
        endpoints: vec![name.into()],
        unresolved: vec![],
    })
}

#[test]
fn holder_looks_up_names_every_second_of_an_outage_and_resumes() {
    let (mut fake, mut client) = holder();
    fake.address = Some(Endpoint::from("moved:2181").address);
    client.cut(&mut fake, at(4000));
    for (asked, name) in [(5000, "h1:2181"), (6001, "h1:2181"), (7002, "moved:2181")] {
        play(&mut client, &mut fake, at(asked - 1000), at(asked + 1));
        assert_eq!(client.lookups.pop(), Some(at(asked)));
        client.input(found(name), at(asked + 1));
    }
    client.talk(&mut fake, at(7003));
    assert!(
        client.said.contains(&Output::Event(Event::Resumed)),
        "{:?}",
        client.said
    );
    play(&mut client, &mut fake, at(7003), at(60_000));
    assert_eq!(
        (lost(&client), client.lookups),
        (None, vec![]),
        "none is needed while a server has the session"
    );
}

#[test]
fn waiter_looks_up_names_again_and_reaches_the_new_address() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::from_secs(1000)));
    fake.address = Some(Endpoint::from("moved:2181").address);
    play(&mut client, &mut fake, at(0), at(500_000));
    assert_eq!(client.lookups, [at(1000)], "the first has not come back");
    client.input(found("h1:2181"), at(500_000));
    play(&mut client, &mut fake, at(500_000), at(502_050));
    assert_eq!(client.lookups, [at(1000), at(501_000)]);
    client.input(found("moved:2181"), at(502_050));
    client.talk(&mut fake, at(502_050));
    assert!(fake.nodes.contains_key(LOCK));
}

#[test]
fn message_names_hosts_without_an_address_at_the_last_look_up() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::from_secs(5)));
    fake.down = true;
    play(&mut client, &mut fake, at(0), at(1100));
    let unresolved = vec!["h2:2181: its name has no address".into()];
    client.input(
        Input::LookUp(Found {
            endpoints: vec!["h1:2181".into()],
            unresolved,
        }),
        at(1100),
    );
    play(&mut client, &mut fake, at(1100), at(20_000));
    let why = "ZooKeeper: h1:2181: connection refused; h2:2181: its name has no address";
    assert!(
        client
            .said
            .contains(&Output::Event(Event::Failed(Failure::Unreachable(
                why.into()
            )))),
        "{:?}",
        client.said
    );
}

#[test]
fn lost_lock_of_a_resumed_session_is_kept_until_release() {
    let (mut fake, mut client) = loser();
    client.said.clear();
    fake.down = false;
    play(&mut client, &mut fake, at(12_000), at(200_000));
    assert!(fake.nodes.contains_key(LOCK));
    let silent = |output: &Output| matches!(output, Output::Event(Event::Note(_)));
    assert!(
        client.said.iter().all(silent),
        "neither acquired nor believed nor gone: {:?}",
        client.said
    );
    client.release(&mut fake, at(200_000));
    assert_eq!(
        client.said.last(),
        Some(&Output::Event(Event::Released { doubt: None }))
    );
    assert!(!fake.nodes.contains_key(LOCK));
}

#[test]
fn lost_lock_is_not_given_up_while_no_server_answers() {
    let (mut fake, mut client) = loser();
    client.said.clear();
    play(&mut client, &mut fake, at(12_000), at(600_000));
    assert_eq!(gone(&client), None);
    assert!(
        client.wait() <= at(600_000) + Duration::from_millis(500),
        "it goes on trying"
    );
    client.release(&mut fake, at(600_000));
    // A command that is dead is not waited for. But the lock is not called free: no server has
    // confirmed that since the loss (found by tests/simulation).
    let Some(Output::Event(Event::Released { doubt: Some(doubt) })) = client.said.last() else {
        panic!("{:?}", client.said)
    };
    assert!(
        doubt.starts_with("no server has resumed the session: the lock is free when"),
        "{doubt}"
    );
}

#[test]
fn lost_lock_is_gone_when_the_server_says_so() {
    type Happens = fn(&mut Fake);
    let ways: [(Happens, &str); 3] = [
        (|fake| fake.end(fake.nodes[LOCK].owner), EXPIRED),
        (|fake| fake.delete(LOCK), DELETED),
        (
            |fake| fake.put(LOCK, b"", 77),
            "the node now belongs to session 0x4d",
        ),
    ];
    for (happens, why) in ways {
        let (mut fake, mut client) = loser();
        fake.down = false;
        happens(&mut fake);
        play(&mut client, &mut fake, at(12_000), at(13_000));
        assert_eq!(gone(&client), Some(why), "{:?}", client.said);
    }
    for happens in [ways[0].0, ways[1].0] {
        let (mut fake, mut client) = loser();
        fake.down = false;
        play(&mut client, &mut fake, at(12_000), at(20_000));
        assert_eq!(gone(&client), None);
        happens(&mut fake);
        play(&mut client, &mut fake, at(20_000), at(22_000));
        assert!(gone(&client).is_some(), "{:?}", client.said);
    }
}

#[test]
fn lock_lost_because_the_process_was_stopped_is_kept_too() {
    let (mut fake, mut client) = holder();
    client.talk(&mut fake, at(11_000));
    assert!(
        matches!(lost(&client), Some((_, false))),
        "{:?}",
        client.said
    );
    play(&mut client, &mut fake, at(11_000), at(60_000));
    assert_eq!((gone(&client), fake.nodes.contains_key(LOCK)), (None, true));
}

#[test]
fn resumed_session_is_confirmed_for_its_new_timeout_however_short() {
    for granted in [200, 900, 1500] {
        let (mut fake, mut client) = holder();
        client.cut(&mut fake, at(4060));
        fake.grants = Some(Duration::from_millis(granted));
        client.talk(&mut fake, at(4060));
        fake.down = true;
        client.cut(&mut fake, at(4061));
        play(&mut client, &mut fake, at(4061), at(4060 + granted));
        let Some((kill_deadline, false)) = lost(&client) else {
            panic!("{granted}: {:?}", client.said)
        };
        assert!(
            kill_deadline < at(4060 + granted),
            "{granted}: {kill_deadline:?}"
        );
    }
}

#[test]
fn short_session_that_is_confirmed_in_time_continues() {
    let (mut fake, mut client) = holder();
    client.cut(&mut fake, at(4060));
    fake.grants = Some(Duration::from_millis(900));
    play(&mut client, &mut fake, at(4060), at(30_000));
    assert_eq!(lost(&client), None, "{:?}", client.said);
}

#[test]
fn holder_whose_session_is_replaced_loses_its_lock_at_once() {
    let (mut fake, mut client) = holder();
    fake.replaces = true;
    client.cut(&mut fake, at(4000));
    client.talk(&mut fake, at(4000));
    assert_eq!(lost(&client), Some((at(4000), true)), "{:?}", client.said);
    assert_eq!(fake.living(), 1, "the new session was closed");
    client.release(&mut fake, at(14_000));
    assert_eq!(
        client.said.last(),
        Some(&Output::Event(Event::Released { doubt: None }))
    );
}

/// A client of ClickHouse Keeper, and what a holder has reported after 4 s is dropped.
fn keeper_holder() -> (Fake, Client<SessionLock<Node>>) {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::ZERO));
    fake.keeper = true;
    play(&mut client, &mut fake, at(0), at(4000));
    client.said.clear();
    (fake, client)
}

#[test]
fn keeper_is_woken_to_read_what_came_with_the_connect_request() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::ZERO));
    fake.keeper = true;
    client.talk(&mut fake, at(0));
    let acquired = |output: &Output| matches!(output, Output::Event(Event::Acquired(_)));
    assert!(client.said.iter().any(acquired), "{:?}", client.said);
    assert_eq!(fake.requests, 3, "create, getData, ping");
}

#[test]
fn lock_is_released_when_keeper_hangs_up_instead_of_a_reply() {
    let (mut fake, mut client) = keeper_holder();
    client.release(&mut fake, at(4000));
    assert_eq!(
        client.said,
        [Output::Event(Event::ReleasedSilently)],
        "without another connection"
    );
    assert_eq!((fake.nodes.contains_key(LOCK), fake.living()), (false, 0));
}

#[test]
fn end_of_the_connection_to_zookeeper_is_no_release() {
    let (mut fake, mut client) = holder();
    fake.loses = Some(operation::CLOSE_SESSION);
    client.input(Input::Release, at(4000));
    play(&mut client, &mut fake, at(4000), at(15_000));
    assert!(
        matches!(
            client.said.last(),
            Some(Output::Event(Event::Released { doubt: Some(_) }))
        ),
        "{:?}",
        client.said
    );
}

#[test]
fn no_heartbeat_follows_the_close_of_the_session() {
    let (mut fake, mut client) = keeper_holder();
    fake.delay = Duration::from_secs(5);
    client.input(Input::Release, at(4000));
    let before = fake.requests;
    play(&mut client, &mut fake, at(4000), at(8000));
    assert_eq!(fake.requests, before + 1, "the close");
}

#[test]
fn holder_loses_its_lock_with_its_connection_to_keeper() {
    let (mut fake, mut client) = keeper_holder();
    fake.down = true;
    client.cut(&mut fake, at(4000));
    client.talk(&mut fake, at(4000));
    assert_eq!(lost(&client), Some((at(4000), true)), "{:?}", client.said);
    let Some(Output::Event(Event::Lost { why, .. })) = client.said.last() else {
        panic!("{:?}", client.said)
    };
    assert!(why.contains("Keeper does not resume"), "{why}");
}

#[test]
fn holder_does_not_leave_a_silent_keeper_within_its_lease() {
    let (mut fake, mut client) = keeper_holder();
    fake.delay = Duration::from_secs(4);
    play(&mut client, &mut fake, at(4000), at(8000));
    fake.delay = Duration::ZERO;
    play(&mut client, &mut fake, at(8000), at(30_000));
    assert_eq!(lost(&client), None, "{:?}", client.said);
    assert_eq!(fake.living(), 1);
}

#[test]
fn release_with_a_replaced_session_ends_in_doubt_and_deletes_nothing() {
    let (mut fake, mut client) = holder();
    fake.replaces = true;
    client.cut(&mut fake, at(4000));
    client.release(&mut fake, at(4000));
    play(&mut client, &mut fake, at(4000), at(4100));
    assert!(
        matches!(
            client.said.last(),
            Some(Output::Event(Event::Released { doubt: Some(_) }))
        ),
        "{:?}",
        client.said
    );
    assert_eq!((fake.nodes.contains_key(LOCK), fake.living()), (true, 1));
}

#[test]
fn lost_lock_whose_session_is_replaced_is_gone() {
    let (mut fake, mut client) = loser();
    (fake.down, fake.replaces) = (false, true);
    play(&mut client, &mut fake, at(12_000), at(13_000));
    assert!(
        gone(&client).is_some_and(|why| why.contains("instead of resuming")),
        "{:?}",
        client.said
    );
}

#[test]
fn waiter_with_a_replaced_session_starts_again() {
    let (mut fake, mut waiter) = (Fake::with_parent("/app"), client(TIMEOUT * 10));
    fake.put(LOCK, b"there76543210-89ab-cdef-0123-456789abcdef", 77);
    play(&mut waiter, &mut fake, at(0), at(2000));
    fake.replaces = true;
    waiter.cut(&mut fake, at(2000));
    play(&mut waiter, &mut fake, at(2000), at(15_000)); // by then its old entry is deleted
    assert_eq!(fake.living(), 1, "its own");
    fake.delete(LOCK);
    play(&mut waiter, &mut fake, at(15_000), at(16_000));
    assert!(
        waiter
            .said
            .iter()
            .any(|output| matches!(output, Output::Event(Event::Acquired(_)))),
        "{:?}",
        waiter.said
    );
}

#[test]
fn lock_whose_session_is_replaced_before_acquired_is_reported_is_acquired_again() {
    for replies in 1..3 {
        let (mut fake, mut client) = (Fake::with_parent("/app"), client(TIMEOUT * 10));
        client.driver.replies_left = Some(replies);
        fake.replaces = true;
        play(&mut client, &mut fake, at(0), at(30_000));
        let acquired = client
            .said
            .iter()
            .filter(|output| matches!(output, Output::Event(Event::Acquired(_))))
            .count();
        assert_eq!(
            (acquired, fake.nodes[LOCK].data.starts_with(b"here")),
            (1, true),
            "{replies}: {:?}",
            client.said
        );
    }
}

/// What was logged of a session that no server resumes.
fn disowned(client: &Client<SessionLock<Node>>) -> Option<&str> {
    client.said.iter().find_map(|output| match output {
        Output::Event(Event::Note(text)) if text.contains("no server has resumed") => {
            Some(text.as_str())
        }
        _ => None,
    })
}

#[test]
fn waiter_starts_again_when_the_servers_lost_its_session() {
    let (mut fake, mut waiter) = (Fake::with_parent("/app"), client(TIMEOUT * 10));
    fake.put(LOCK, b"there76543210-89ab-cdef-0123-456789abcdef", 77);
    play(&mut waiter, &mut fake, at(0), at(2000));
    fake.wipe();
    waiter.cut(&mut fake, at(2000));
    play(&mut waiter, &mut fake, at(2000), at(12_000));
    assert_eq!(disowned(&waiter), None, "its session may live until then");
    play(&mut waiter, &mut fake, at(12_000), at(13_000));
    let why = disowned(&waiter).expect("that is said");
    for reason in ["older backup", "wiped", "too many connections"] {
        assert!(why.contains(reason), "{why}");
    }
    assert!(
        waiter
            .said
            .iter()
            .any(|output| matches!(output, Output::Event(Event::Acquired(_)))),
        "{:?}",
        waiter.said
    );
}

#[test]
fn failure_names_the_lost_session_if_no_restart_is_left() {
    let mut options = options(TIMEOUT, TIMEOUT * 10);
    options.max_restarts = Some(0);
    let (mut fake, mut waiter) = (
        Fake::with_parent("/app"),
        Client::new(Node::lock(
            options,
            "app",
            vec!["lock".into()],
            &NodeData::new("x".into(), [0; 16], 7),
            at(0),
        )),
    );
    fake.put(LOCK, b"there76543210-89ab-cdef-0123-456789abcdef", 77);
    play(&mut waiter, &mut fake, at(0), at(2000));
    fake.wipe();
    waiter.cut(&mut fake, at(2000));
    play(&mut waiter, &mut fake, at(2000), at(13_000));
    let failed = |output: &Output| matches!(output, Output::Event(Event::Failed(Failure::Unreachable(why))) if why.contains("older backup"));
    assert!(waiter.said.iter().any(failed), "{:?}", waiter.said);
}

#[test]
fn waiter_keeps_session_and_position_in_an_outage() {
    let (mut fake, mut waiter) = (Fake::with_parent("/app"), client(TIMEOUT * 10));
    fake.put(LOCK, b"there76543210-89ab-cdef-0123-456789abcdef", 77);
    play(&mut waiter, &mut fake, at(0), at(2000));
    let sessions = fake.living();
    fake.down = true;
    waiter.cut(&mut fake, at(2000));
    let mut now = at(2000);
    while now < at(60_000) {
        waiter.talk(&mut fake, now); // the servers do not expire sessions while they are down
        now = waiter.wait().max(now + Duration::from_millis(1));
    }
    fake.down = false;
    waiter.talk(&mut fake, now);
    assert_eq!(
        (disowned(&waiter), fake.living()),
        (None, sessions),
        "{:?}",
        waiter.said
    );
}

#[test]
fn server_that_demands_auth_is_a_refusal_at_once() {
    for (takes_auth, advice) in [
        (true, "add \"auth\" to the config"),
        (false, "this program cannot authenticate"),
    ] {
        for wait in [Duration::ZERO, TIMEOUT * 10] {
            let options = Options {
                takes_auth,
                ..options(TIMEOUT, wait)
            };
            let (mut fake, node) = (
                Fake::with_parent("/app"),
                Node::lock(
                    options,
                    "app",
                    vec!["lock".into()],
                    &NodeData::new("x".into(), [0; 16], 7),
                    at(0),
                ),
            );
            let mut client = Client::new(node);
            fake.demands_auth = true;
            client.talk(&mut fake, at(0));
            let refused = |output: &Output| matches!(output, Output::Event(Event::Failed(Failure::Refused { why, .. })) if why.contains(advice));
            assert!(client.said.iter().any(refused), "{:?}", client.said);
            client.release(&mut fake, at(0));
            play(&mut client, &mut fake, at(0), at(500));
            assert_eq!(
                client.said.last(),
                Some(&Output::Event(Event::Released { doubt: None }))
            );
        }
    }
}

#[test]
fn server_without_a_leader_is_left_for_the_next() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::ZERO));
    fake.refuses = true;
    play(&mut client, &mut fake, at(0), at(3000));
    fake.refuses = false;
    play(&mut client, &mut fake, at(3000), at(4000));
    let refused = |output: &Output| matches!(output, Output::Event(Event::Note(why)) if why.contains("refuses all sessions") && why.contains(" more times in "));
    assert!(client.said.iter().any(refused), "{:?}", client.said);
    assert!(
        client
            .said
            .iter()
            .any(|output| matches!(output, Output::Event(Event::Acquired(_)))),
        "{:?}",
        client.said
    );
}

/// The request to release the lock of the holder with this token.
fn break_path(token: i64) -> String {
    format!("/app/.break/{token}")
}

fn token(fake: &Fake) -> i64 {
    fake.nodes[LOCK].czxid
}

fn revocations(client: &Client<SessionLock<Node>>) -> Vec<&str> {
    let why = |output| match output {
        &Output::Event(Event::Revoked { ref why }) => Some(why.as_str()),
        _ => None,
    };
    client.said.iter().filter_map(why).collect()
}

#[test]
fn request_to_release_is_answered_and_reported_once() {
    let (mut fake, mut client) = holder();
    let request = break_path(token(&fake));
    for asker in ["root@adm1 (pid 7)", "root@adm2 (pid 8)"] {
        fake.put(&request, asker.as_bytes(), 0x7777);
        play(&mut client, &mut fake, at(4000), at(4010));
        let answered = format!("{asker}\nkill-after 5");
        assert_eq!(
            String::from_utf8_lossy(&fake.nodes[&request].data),
            answered
        );
        fake.delete(&request);
    }
    assert_eq!(
        revocations(&client),
        ["root@adm1 (pid 7) asked for it by --break"]
    );
    play(&mut client, &mut fake, at(4010), at(60_000));
    assert!(fake.nodes.contains_key(LOCK), "held until it is released");
}

#[test]
fn request_to_another_holder_is_ignored() {
    let (mut fake, mut client) = holder();
    let earlier = break_path(token(&fake) - 1);
    fake.put(&earlier, b"root@adm1", 0x7777);
    play(&mut client, &mut fake, at(4000), at(60_000));
    assert_eq!(revocations(&client), [""; 0]);
    assert_eq!(fake.nodes[&earlier].data, b"root@adm1");
}

#[test]
fn request_that_was_made_while_no_server_was_reached_is_seen_after_it() {
    let (mut fake, mut client) = holder();
    client.cut(&mut fake, at(4000));
    fake.put(&break_path(token(&fake)), b"", 0x7777);
    play(&mut client, &mut fake, at(4000), at(4010));
    assert_eq!(
        revocations(&client),
        ["another client asked for it by --break"]
    );
}

#[test]
fn request_is_looked_for_with_the_first_heartbeat_and_not_before() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::ZERO));
    client.talk(&mut fake, at(0));
    let request = break_path(token(&fake));
    fake.put(&request, b"root@adm1", 0x7777);
    let asked = fake.requests;
    play(&mut client, &mut fake, at(0), at(999));
    assert_eq!((fake.requests, revocations(&client).len()), (asked, 0));
    play(&mut client, &mut fake, at(999), at(1002));
    assert_eq!(revocations(&client).len(), 1);
}

#[test]
fn holder_of_a_lost_lock_answers_and_is_not_revoked() {
    let (mut fake, mut client) = loser();
    fake.down = false;
    let request = break_path(token(&fake));
    fake.put(&request, b"root@adm1", 0x7777);
    play(&mut client, &mut fake, at(12_000), at(14_000));
    assert!(fake.nodes[&request].data.ends_with(b"kill-after 5"));
    assert_eq!(revocations(&client), [""; 0]);
}

/// How an attempt to acquire a lock from a slow server ends: whether the command may start, or with
/// a failure, and whether the lock is kept for a minute after that.
fn attempt_at_slow_server<R: Recipe>(
    lock: SessionLock<R>,
    fake: &mut Fake,
    delay: Duration,
) -> (Result<(), Failure>, bool) {
    let mut client = Client::new(lock);
    let freed = at(20_000);
    let mut began = None;
    let mut now = at(0);
    fake.delay = delay;
    while now < at(300_000) && began.is_none_or(|began| now < began + Duration::from_mins(1)) {
        fake.expire(now);
        if now == freed {
            fake.end(77);
        }
        client.talk(fake, now);
        for output in client.said.drain(..) {
            match output {
                Output::Event(Event::Acquired(_)) => began = Some(now),
                Output::Event(Event::Failed(failure)) => return (Err(failure), false),
                Output::Event(Event::Lost { .. }) => return (Ok(()), false),
                _ => {}
            }
        }
        now = now + Duration::from_millis(10);
    }
    assert!(
        began.is_some(),
        "the lock is held for minutes, and the command does not start"
    );
    (Ok(()), true)
}

#[test]
fn slow_server_confirms_the_lock_or_ends_the_attempt() {
    // With these delays a proof never leaves two heartbeats of lease until TERM.
    for (timeout, delay, holds) in [
        (1000, 120, true),
        (1000, 140, true),
        (1000, 190, false),
        (2000, 310, true),
        (2000, 390, true),
        (4000, 790, true),
        (10_000, 1950, true),
    ] {
        let timeout = Duration::from_millis(timeout);
        let options = options(timeout, Duration::from_mins(1));
        let content = b"here00000060-89ab-cdef-0123-456789abcdef";
        let node = Node::lock(
            options,
            "app",
            vec!["lock".into()],
            &NodeData::parse(content).unwrap(),
            at(0),
        );
        let mut fake = Fake::with_parent("/app");
        fake.grants = Some(timeout);
        fake.put(LOCK, b"there0000000-89ab-cdef-0123-456789abcdef", 77);
        let delay = Duration::from_millis(delay);
        let (began, kept) = attempt_at_slow_server(node, &mut fake, delay);
        assert_eq!(kept, holds, "{timeout:?} {delay:?} {began:?}");
        if let Err(failure) = began {
            assert!(
                failure.to_string().contains("to confirm the lock"),
                "{failure}"
            );
        }
    }
}

/// The simulation found it: a waiter was stopped before the lock became free, and again before its
/// first heartbeat as a holder.
#[test]
fn pause_of_the_process_while_a_lock_is_confirmed_does_not_end_the_attempt() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::from_mins(1)));
    fake.put(LOCK, b"there0000000-89ab-cdef-0123-456789abcdef", 77);
    play(&mut client, &mut fake, at(0), at(11_500));
    fake.end(77);
    play(&mut client, &mut fake, at(20_000), at(20_050));
    client.said.clear();
    play(&mut client, &mut fake, at(29_050), at(40_000));
    let is_acquired = |output: &Output| matches!(output, Output::Event(Event::Acquired(_)));
    assert!(client.said.iter().any(is_acquired), "{:?}", client.said);
}

/// The simulation found it: servers were wiped before the first heartbeat of a holder, and its run
/// waited for ever.
#[test]
fn lock_that_wiped_servers_cannot_confirm_is_acquired_again() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::from_mins(10)));
    fake.put(LOCK, b"there0000000-89ab-cdef-0123-456789abcdef", 77);
    play(&mut client, &mut fake, at(0), at(11_500));
    fake.end(77);
    play(&mut client, &mut fake, at(20_000), at(20_050));
    let is_acquired = |output: &Output| matches!(output, Output::Event(Event::Acquired(_)));
    assert!(!client.said.iter().any(is_acquired), "{:?}", client.said);
    fake.wipe();
    client.cut(&mut fake, at(20_050));
    play(&mut client, &mut fake, at(20_050), at(40_000));
    assert!(client.said.iter().any(is_acquired), "{:?}", client.said);
}

#[test]
fn lost_lock_is_not_called_released_by_a_server_that_ends_the_session_otherwise() {
    for ends in [
        |fake: &mut Fake| fake.replaces = true,
        |fake: &mut Fake| fake.demands_auth = true,
    ] {
        let (mut fake, mut client) = loser();
        (fake.down, fake.delay) = (false, Duration::from_millis(50));
        ends(&mut fake);
        let mut now = at(12_000);
        while fake.undelivered() == 0 {
            client.talk(&mut fake, now);
            now = now + Duration::from_millis(10);
        }
        client.input(Input::Release, now);
        play(&mut client, &mut fake, now, at(20_000));
        let Some(Output::Event(Event::Released { doubt })) = client.said.last() else {
            panic!("{:?}", client.said)
        };
        assert!(doubt.is_some(), "{:?}", client.said);
    }
}

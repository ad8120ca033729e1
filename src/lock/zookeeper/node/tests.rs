use super::super::fake::{self, Client, Fake, at};
use super::*;
use crate::endpoint::Endpoint;
use crate::lock::{Input, Lock, Output};
use crate::transport;

type Node = SessionLock<super::Node>;

const TIMEOUT: Duration = Duration::from_secs(5);
const OURS: &str = "here01234567-89ab-cdef-0123-456789abcdef";
const THEIRS: &[u8] = b"there76543210-89ab-cdef-0123-456789abcdef";
const LOCK: &str = "/app/lock";

fn options(wait: Duration) -> Options {
    Options {
        max_restarts: None,
        ..fake::options(TIMEOUT, wait)
    }
}

fn lock(options: Options, names: &[&str]) -> Node {
    super::Node::lock(
        options,
        "app",
        names.iter().map(|&name| name.into()).collect(),
        &NodeData::parse(OURS.as_bytes()).unwrap(),
        at(0),
    )
}

fn client(wait: Duration) -> Client<Node> {
    Client::new(lock(options(wait), &["lock"]))
}

fn acquired(client: &Client<Node>) -> usize {
    client
        .said
        .iter()
        .filter(|output| matches!(output, Output::Event(Event::Acquired(_))))
        .count()
}

/// Advances time from one due event to the next until the lock has an output that `wanted` accepts.
fn until(
    client: &mut Client<Node>,
    fake: &mut Fake,
    mut now: Moment,
    wanted: impl Fn(&Output) -> bool,
) -> Moment {
    for _ in 0..2000 {
        fake.expire(now);
        client.talk(fake, now);
        if client.said.iter().any(&wanted) {
            return now;
        }
        now = client
            .wait()
            .min(now + Duration::from_millis(100))
            .max(now + Duration::from_millis(1));
    }
    panic!("never said; but {:?}", client.said);
}

#[test]
fn free_lock_is_acquired_and_released_with_the_session() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::ZERO));
    client.talk(&mut fake, at(0));
    assert_eq!(acquired(&client), 1, "{:?}", client.said);
    let entry = &fake.nodes[LOCK];
    assert_eq!(entry.data, OURS.as_bytes());
    let token = entry.czxid;
    assert!(
            client.said.iter().any(|output| matches!(output, Output::Event(Event::Acquired(proof)) if proof.token == Some(token) && proof.lock == LOCK))
        );
    client.release(&mut fake, at(10));
    assert!(!fake.nodes.contains_key(LOCK));
    assert_eq!(
        client.said.last(),
        Some(&Output::Event(Event::Released { doubt: None }))
    );
}

#[test]
fn first_write_carries_connect_create_and_read() {
    let mut node = lock(options(Duration::ZERO), &["lock"]);
    assert_eq!(
        node.poll(at(0)),
        Output::Transport(transport::Output::Connect(
            Endpoint::from("h1:2181").address
        ))
    );
    node.handle(Input::Transport(transport::Event::Connected), at(0));
    let Output::Transport(transport::Output::Send(bytes)) = node.poll(at(0)) else {
        panic!("nothing was sent")
    };
    let mut rest = &bytes[..];
    let mut frames = 0;
    while let Some(_frame) = crate::zookeeper::wire::next_frame(&mut rest).unwrap() {
        frames += 1;
    }
    assert_eq!((frames, rest.len()), (3, 0), "connect, create, getData");
}

#[test]
fn missing_parents_are_created() {
    let mut fake = Fake::default();
    let mut options = options(Duration::ZERO);
    options.cluster.chroot = "/a/b".into();
    let mut client = Client::new(lock(options, &["lock"]));
    client.talk(&mut fake, at(0));
    assert_eq!(acquired(&client), 1, "{:?}", client.said);
    assert_eq!(
        fake.nodes.keys().collect::<Vec<_>>(),
        ["/a", "/a/b", "/a/b/app", "/a/b/app/lock"]
    );
    assert_eq!(fake.nodes["/a/b/app"].data, b"Rootnode");
}

#[test]
fn parents_created_by_another_client_are_no_error() {
    let (mut fake, mut client) = (Fake::default(), client(TIMEOUT));
    fake.rival = Some(77);
    client.talk(&mut fake, at(0));
    assert!(
        matches!(
            client.said.last(),
            Some(Output::Event(Event::Waiting { .. }))
        ),
        "{:?}",
        client.said
    );
}

#[test]
fn name_below_a_missing_node_is_an_error_and_not_busy() {
    let mut fake = Fake::with_parent("/app");
    let mut client = Client::new(lock(options(Duration::ZERO), &["a/b"]));
    client.talk(&mut fake, at(0));
    assert!(
        matches!(
            client.said.last(),
            Some(Output::Event(Event::Failed(Failure::Refused { .. })))
        ),
        "{:?}",
        client.said
    );
}

#[test]
fn held_lock_is_busy_at_once_and_names_the_holder() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::ZERO));
    fake.put(LOCK, THEIRS, 77);
    client.talk(&mut fake, at(0));
    let Some(Output::Event(Event::Busy(holder))) = client.said.last() else {
        panic!("{:?}", client.said)
    };
    assert_eq!(
        (holder.host.as_deref(), holder.session),
        (Some("there"), Some(77))
    );
}

#[test]
fn wait_is_circular_only_if_outer_runs_hold_all_names() {
    for (outer, wait, circular) in [
        (&[77, 78][..], TIMEOUT, true),
        (&[78, 5, 77], TIMEOUT, true),
        (&[77], TIMEOUT, false),
        (&[], TIMEOUT, false),
        (&[77, 78], Duration::ZERO, false),
    ] {
        let mut fake = Fake::with_parent("/app");
        fake.put("/app/a", THEIRS, 77);
        fake.put("/app/b", THEIRS, 78);
        let mut client = Client::new(lock(
            Options {
                outer_sessions: outer.to_vec(),
                ..options(wait)
            },
            &["a", "b"],
        ));
        client.talk(&mut fake, at(0));
        let failed = |output: &Output| matches!(output, Output::Event(Event::Failed(Failure::IncompatibleLock(why))) if why.contains("cannot end"));
        assert_eq!(
            client.said.iter().any(failed),
            circular,
            "{outer:?}: {:?}",
            client.said
        );
    }
}

/// A run whose first reply was lost, and the node that holds its name since then.
fn orphaned(wait: Duration) -> (Fake, Client<Node>) {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(wait));
    client.driver.replies_left = Some(0);
    client.talk(&mut fake, at(0));
    client.talk(&mut fake, at(100));
    let waits = |output: &Output| matches!(output, Output::Event(Event::Waiting { holder, .. }) if holder.lock.contains(ORPHAN));
    assert!(client.said.iter().any(waits), "{:?}", client.said);
    (fake, client)
}

#[test]
fn orphan_is_waited_for_as_long_as_server_and_user_allow() {
    for (wait, end) in [
        (Duration::ZERO, TIMEOUT + TIMEOUT / 2),
        (Duration::from_mins(1), Duration::from_mins(1)),
    ] {
        let (mut fake, mut client) = orphaned(wait);
        let owner = fake.nodes[LOCK].owner;
        let mut now = at(100);
        while now < at(0) + end {
            assert!(
                !client.said.iter().any(|output| matches!(
                    output,
                    Output::Event(Event::Busy(_) | Event::Failed(_))
                )),
                "{now:?} {:?}",
                client.said
            );
            now = client
                .wait()
                .min(now + Duration::from_millis(100))
                .max(now + Duration::from_millis(1));
            client.talk(&mut fake, now);
        }
        client.talk(&mut fake, at(200) + end); // the server never ends it
        let busy = |output: &Output| matches!(output, Output::Event(Event::Busy(holder)) if holder.session == Some(owner));
        assert!(client.said.iter().any(busy), "{:?}", client.said);
    }
}

#[test]
fn lock_is_acquired_one_server_tick_after_an_orphan_times_out() {
    let (mut fake, mut client) = orphaned(Duration::ZERO);
    let (owner, end) = (
        fake.nodes[LOCK].owner,
        at(0) + TIMEOUT + Duration::from_secs(2),
    );
    let mut now = at(100);
    while now < end {
        now = client
            .wait()
            .min(now + Duration::from_millis(100))
            .max(now + Duration::from_millis(1));
        client.talk(&mut fake, now);
    }
    fake.end(owner);
    client.talk(&mut fake, now);
    assert_eq!(acquired(&client), 1, "{:?}", client.said);
}

#[test]
fn after_an_outage_a_waiter_checks_its_predecessor_and_lists_only_if_it_left() {
    let mut fake = Fake::with_parent("/app");
    fake.put(LOCK, THEIRS, 77);
    let mut waiters = waiters(&mut fake, 5);
    let before = fake.lists;
    for waiter in &mut waiters {
        waiter.cut(&mut fake, at(100));
        waiter.talk(&mut fake, at(200));
    }
    assert_eq!(fake.lists, before, "none had to list");
    waiters[4].cut(&mut fake, at(300));
    waiters[3].release(&mut fake, at(300)); // while its successor is disconnected
    waiters[4].talk(&mut fake, at(400));
    assert_eq!((fake.lists, ahead(&waiters[4])), (before + 1, Some(3)));
    fake.delete(LOCK);
    for turn in [0, 1, 2, 4] {
        waiters
            .iter_mut()
            .for_each(|waiter| waiter.talk(&mut fake, at(500)));
        assert_eq!(
            acquired(&waiters[turn]),
            1,
            "turn {turn}: {:?}",
            waiters[turn].said
        );
        waiters[turn].release(&mut fake, at(500));
    }
}

#[test]
fn waiter_acquires_the_lock_when_its_node_is_deleted() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(TIMEOUT));
    fake.put(LOCK, THEIRS, 77);
    client.talk(&mut fake, at(0));
    assert!(
        matches!(
            client.said.last(),
            Some(Output::Event(Event::Waiting { .. }))
        ),
        "{:?}",
        client.said
    );
    fake.delete(LOCK);
    client.talk(&mut fake, at(1000));
    assert_eq!(acquired(&client), 1, "{:?}", client.said);
}

/// Waiters for this lock, each with a session of its own, one after another.
fn waiters(fake: &mut Fake, count: usize) -> Vec<Client<Node>> {
    let mut waiters: Vec<_> = (0..count).map(|_| client(TIMEOUT)).collect();
    waiters
        .iter_mut()
        .for_each(|waiter| waiter.talk(fake, at(0)));
    waiters
}

/// The position in the queue, as last reported.
fn position(client: &Client<Node>) -> Option<QueuePosition> {
    client.said.iter().rev().find_map(|output| {
        if let Output::Event(Event::Waiting { position, .. }) = output {
            Some(*position)
        } else {
            None
        }
    })?
}

/// How many waiters were before this one when its position was last reported.
fn ahead(client: &Client<Node>) -> Option<usize> {
    position(client).map(|QueuePosition { position, .. }| position - 1)
}

#[test]
fn queue_position_has_the_number_of_waiters_in_the_same_list() {
    let mut fake = Fake::with_parent("/app");
    fake.put(LOCK, THEIRS, 77);
    let mut waiters = waiters(&mut fake, 3);
    let at_start = [(1, 1), (2, 2), (3, 3)]
        .map(|(position, waiters)| Some(QueuePosition { position, waiters }));
    assert_eq!(waiters.iter().map(position).collect::<Vec<_>>(), at_start);
    waiters.remove(1).release(&mut fake, at(1));
    waiters[1].talk(&mut fake, at(1));
    let after_one_left = QueuePosition {
        position: 2,
        waiters: 2,
    };
    assert_eq!(position(&waiters[1]), Some(after_one_left));
}

#[test]
fn waiters_are_served_in_order_and_a_release_wakes_one() {
    let mut fake = Fake::with_parent("/app");
    fake.put(LOCK, THEIRS, 77);
    let mut waiters = waiters(&mut fake, 5);
    assert_eq!(
        waiters.iter().map(ahead).collect::<Vec<_>>(),
        (0..5).map(Some).collect::<Vec<_>>()
    );
    fake.delete(LOCK);
    for turn in 0..waiters.len() {
        assert!(
            fake.undelivered() <= 1,
            "turn {turn}: {} woken",
            fake.undelivered()
        );
        let before = fake.requests;
        waiters
            .iter_mut()
            .for_each(|waiter| waiter.talk(&mut fake, at(10)));
        assert!(
            fake.requests - before <= 8,
            "{} requests",
            fake.requests - before
        );
        let holding: Vec<bool> = waiters.iter().map(|waiter| acquired(waiter) == 1).collect();
        assert!(
            holding[turn] && !holding[turn + 1..].contains(&true),
            "turn {turn}: {holding:?}"
        );
        waiters[turn].release(&mut fake, at(10));
    }
    assert_eq!(fake.nodes.keys().collect::<Vec<_>>(), ["/app"]);
}

#[test]
fn early_release_of_the_last_waiter_leaves_no_queue() {
    let mut fake = Fake::with_parent("/app");
    fake.put(LOCK, THEIRS, 77);
    let mut waiters = waiters(&mut fake, 2);
    waiters.iter_mut().for_each(|waiter| waiter.brief = true);
    fake.delete(LOCK);
    waiters
        .iter_mut()
        .for_each(|waiter| waiter.talk(&mut fake, at(10)));
    assert_eq!(fake.nodes.keys().collect::<Vec<_>>(), ["/app"]);
}

#[test]
fn one_try_touches_no_queue() {
    let mut fake = Fake::with_parent("/app");
    fake.put(LOCK, THEIRS, 77);
    let mut client = client(Duration::ZERO);
    client.talk(&mut fake, at(0));
    assert_eq!(fake.requests, 2, "create and getData");
    assert_eq!(fake.nodes.keys().collect::<Vec<_>>(), ["/app", LOCK]);
}

#[test]
fn waiters_of_servers_without_containers_queue_in_persistent_nodes_and_delete_them() {
    type Lacks = fn(&mut Fake);
    let servers: [Lacks; 3] = [
        |fake| fake.old = true,
        |fake| fake.keeper = true,
        |fake| fake.drops_containers = true,
    ];
    for lacks in servers {
        let mut fake = Fake::with_parent("/app");
        lacks(&mut fake);
        fake.put(LOCK, THEIRS, 77);
        let mut waiters = waiters(&mut fake, 3);
        for tenth in 1..10 {
            for waiter in &mut waiters {
                waiter.talk(&mut fake, at(tenth * 100));
            }
        }
        assert_eq!(
            waiters.iter().map(ahead).collect::<Vec<_>>(),
            [Some(0), Some(1), Some(2)]
        );
        fake.delete(LOCK);
        for turn in 0..3 {
            for waiter in &mut waiters {
                waiter.talk(&mut fake, at(3000));
            }
            assert_eq!(acquired(&waiters[turn]), 1, "{:?}", waiters[turn].said);
            let later = waiters[turn + 1..].iter();
            assert_eq!(later.map(acquired).sum::<usize>(), 0, "one after another");
            waiters[turn].release(&mut fake, at(3000));
        }
        assert_eq!(fake.nodes.keys().collect::<Vec<_>>(), ["/app"]);
    }
}

#[test]
fn waiter_without_a_queue_watches_the_lock_and_logs_why_once() {
    {
        let mut fake = Fake::with_parent("/app");
        fake.closed = Some("/app/.queue".into());
        fake.put("/app/.queue", b"", 0);
        fake.put(LOCK, THEIRS, 77);
        let mut waiters = waiters(&mut fake, 3);
        for waiter in &waiters {
            let notes = waiter
                    .said
                    .iter()
                    .filter(|output| matches!(output, Output::Event(Event::Note(note)) if note.contains("permission")))
                    .count();
            assert!(
                notes == 1
                    && matches!(
                        waiter.said.last(),
                        Some(Output::Event(Event::Waiting { position: None, .. }))
                    ),
                "{:?}",
                waiter.said
            );
        }
        for turn in 0..3 {
            fake.delete(LOCK);
            waiters
                .iter_mut()
                .for_each(|waiter| waiter.talk(&mut fake, at(10)));
            assert_eq!(waiters.iter().map(acquired).sum::<usize>(), turn + 1);
        }
        let session = fake.nodes[LOCK].owner;
        fake.end(session);
        assert_eq!(fake.children("/app/.queue"), [""; 0]);
    }
}

#[test]
fn leaving_waiter_wakes_its_successor_which_does_not_acquire() {
    let mut fake = Fake::with_parent("/app");
    fake.put(LOCK, THEIRS, 77);
    let mut waiters = waiters(&mut fake, 3);
    waiters[1].release(&mut fake, at(1));
    assert_eq!(fake.undelivered(), 1);
    waiters[2].talk(&mut fake, at(1));
    assert_eq!((acquired(&waiters[2]), ahead(&waiters[2])), (0, Some(1)));
    waiters[0].release(&mut fake, at(2));
    waiters[2].talk(&mut fake, at(2));
    assert_eq!((acquired(&waiters[2]), ahead(&waiters[2])), (0, Some(0)));
    waiters[2].release(&mut fake, at(3));
    assert_eq!(
        fake.nodes.keys().collect::<Vec<_>>(),
        ["/app", LOCK],
        "the last to leave takes the queue away"
    );
}

#[test]
fn first_waiter_stays_first_when_another_client_wins_the_lock() {
    let mut fake = Fake::with_parent("/app");
    fake.put(LOCK, THEIRS, 77);
    let mut waiters = waiters(&mut fake, 2);
    for stranger in 78..90 {
        fake.delete(LOCK);
        fake.put(LOCK, THEIRS, stranger);
        waiters
            .iter_mut()
            .for_each(|waiter| waiter.talk(&mut fake, at(1)));
        assert_eq!(ahead(&waiters[0]), Some(0), "{:?}", waiters[0].said);
    }
    fake.delete(LOCK);
    waiters
        .iter_mut()
        .for_each(|waiter| waiter.talk(&mut fake, at(2)));
    assert_eq!(waiters.iter().map(acquired).collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn deleted_queue_entry_is_created_again_at_the_end() {
    let mut fake = Fake::with_parent("/app");
    fake.put(LOCK, THEIRS, 77);
    let mut waiters = waiters(&mut fake, 3);
    let second = fake.children("/app/.queue/lock").remove(1);
    fake.delete(&format!("/app/.queue/lock/{second}"));
    waiters
        .iter_mut()
        .for_each(|waiter| waiter.talk(&mut fake, at(1)));
    fake.delete(LOCK);
    waiters
        .iter_mut()
        .for_each(|waiter| waiter.talk(&mut fake, at(2)));
    assert_eq!(waiters.iter().map(acquired).collect::<Vec<_>>(), [1, 0, 0]);
    assert_eq!(
        waiters[1..].iter().map(ahead).collect::<Vec<_>>(),
        [Some(1), Some(0)]
    );
}

#[test]
fn waiter_with_a_deleted_entry_acquires_a_free_lock() {
    let mut fake = Fake::with_parent("/app");
    fake.put(LOCK, THEIRS, 77);
    let mut waiters = waiters(&mut fake, 1);
    let place = fake.children("/app/.queue/lock").remove(0);
    fake.delete(&format!("/app/.queue/lock/{place}"));
    fake.delete(LOCK);
    waiters[0].talk(&mut fake, at(1));
    assert_eq!(acquired(&waiters[0]), 1, "{:?}", waiters[0].said);
}

#[test]
fn waiter_that_is_not_first_ignores_a_release() {
    let mut fake = Fake::with_parent("/app");
    fake.put(LOCK, THEIRS, 77);
    let mut first = waiters(&mut fake, 1).remove(0);
    let mut second = client(TIMEOUT);
    second.driver.replies_left = Some(1); // so the reply to its create is lost, and it reads the node with a watch
    second.talk(&mut fake, at(0));
    second.talk(&mut fake, at(100));
    assert_eq!(ahead(&second), Some(1), "{:?}", second.said);
    fake.delete(LOCK);
    second.talk(&mut fake, at(101));
    first.talk(&mut fake, at(101));
    assert_eq!([&first, &second].map(acquired), [1, 0]);
}

#[test]
fn predecessor_deleted_during_ranking_is_not_waited_for() {
    let mut fake = Fake::with_parent("/app");
    fake.put(LOCK, THEIRS, 77);
    let first = waiters(&mut fake, 1).remove(0);
    let place = fake.children("/app/.queue/lock").remove(0);
    fake.leaver = Some(fake.nodes[&format!("/app/.queue/lock/{place}")].owner);
    let second = waiters(&mut fake, 1).remove(0);
    assert_eq!([&first, &second].map(ahead), [Some(0), Some(0)]);
}

#[test]
fn waiter_does_without_an_entry_that_the_server_never_lists() {
    let mut fake = Fake::with_parent("/app");
    fake.put(LOCK, THEIRS, 77);
    fake.hidden = Some("/app/.queue/lock".into());
    let mut waiters = waiters(&mut fake, 2);
    assert_eq!(waiters.iter().map(ahead).collect::<Vec<_>>(), [None, None]);
    for turn in 1..=2 {
        fake.delete(LOCK);
        waiters
            .iter_mut()
            .for_each(|waiter| waiter.talk(&mut fake, at(1)));
        assert_eq!(waiters.iter().map(acquired).sum::<usize>(), turn);
    }
}

#[test]
fn first_waiter_for_several_names_acquires_any() {
    let mut fake = Fake::with_parent("/app");
    fake.put("/app/l_0", THEIRS, 77);
    fake.put("/app/l_1", THEIRS, 78);
    let mut waiters: Vec<_> = (0..2)
        .map(|_| Client::new(lock(options(TIMEOUT), &["l_0", "l_1"])))
        .collect();
    waiters
        .iter_mut()
        .for_each(|waiter| waiter.talk(&mut fake, at(0)));
    assert_eq!(fake.children("/app/.queue/l_0%..l_1").len(), 2);
    fake.delete("/app/l_1");
    waiters
        .iter_mut()
        .for_each(|waiter| waiter.talk(&mut fake, at(1)));
    assert_eq!(waiters.iter().map(acquired).collect::<Vec<_>>(), [1, 0]);
    fake.delete("/app/l_0");
    waiters
        .iter_mut()
        .for_each(|waiter| waiter.talk(&mut fake, at(2)));
    assert_eq!(waiters.iter().map(acquired).collect::<Vec<_>>(), [1, 1]);
    waiters
        .iter_mut()
        .for_each(|waiter| waiter.release(&mut fake, at(3)));
    assert_eq!(fake.nodes.keys().collect::<Vec<_>>(), ["/app"]);
}

#[test]
fn several_names_have_a_queue_of_their_own() {
    for name in ["l_0..l_1", "l_0%..l_1", "l_0%25..l_1"] {
        let mut fake = Fake::with_parent("/app");
        for taken in ["l_0", "l_1", name] {
            fake.put(&format!("/app/{taken}"), THEIRS, 77);
        }
        let mut several = Client::new(lock(options(TIMEOUT), &["l_0", "l_1"]));
        let mut single = Client::new(lock(options(TIMEOUT), &[name]));
        several.talk(&mut fake, at(0));
        single.talk(&mut fake, at(0));
        assert_eq!(
            [ahead(&several), ahead(&single)],
            [Some(0), Some(0)],
            "{name}: {:?}",
            fake.children("/app/.queue")
        );
        several.release(&mut fake, at(1));
        single.release(&mut fake, at(1));
        assert!(
            !fake.nodes.contains_key("/app/.queue"),
            "{name}: {:?}",
            fake.nodes.keys()
        );
    }
}

#[test]
fn waiter_with_an_expired_session_queues_again() {
    let mut fake = Fake::with_parent("/app");
    fake.put(LOCK, THEIRS, 77);
    let mut waiters = waiters(&mut fake, 2);
    let first = format!("/app/.queue/lock/{}", fake.children("/app/.queue/lock")[0]);
    fake.end(fake.nodes[&first].owner);
    waiters[0].cut(&mut fake, at(1));
    waiters
        .iter_mut()
        .rev()
        .for_each(|waiter| waiter.talk(&mut fake, at(900)));
    assert_eq!(
        waiters.iter().map(ahead).collect::<Vec<_>>(),
        [Some(1), Some(0)]
    );
}

/// The connection of the first of two waiters is cut after every possible number of requests and of
/// replies: both acquire the lock in the end, never at the same time, and no node is left.
#[test]
fn waiter_cut_at_any_byte_blocks_no_other_waiter() {
    for cut in 0..24 {
        for requests in [true, false] {
            let what = format!("cut after {cut}, requests {requests}");
            let mut fake = Fake::with_parent("/app");
            fake.put(LOCK, THEIRS, 77);
            let mut waiters: Vec<_> = (0..2).map(|_| client(Duration::from_mins(1))).collect();
            *(if requests {
                &mut waiters[0].driver.requests_left
            } else {
                &mut waiters[0].driver.replies_left
            }) = Some(cut);
            let mut turns = 0;
            for step in 0..400 {
                let now = at(step * 50);
                fake.expire(now);
                waiters
                    .iter_mut()
                    .for_each(|waiter| waiter.talk(&mut fake, now));
                if step == 40 {
                    fake.delete(LOCK);
                }
                let holding = waiters.iter().filter(|waiter| holds(waiter)).count();
                assert!(holding <= 1, "{what}");
                if let Some(holder) = waiters.iter_mut().find(|waiter| holds(waiter)) {
                    turns += 1;
                    holder.release(&mut fake, now);
                }
            }
            assert_eq!(
                turns,
                2,
                "{what}: {:?}",
                waiters
                    .iter()
                    .map(|waiter| &waiter.said)
                    .collect::<Vec<_>>()
            );
            assert_eq!(fake.nodes.keys().collect::<Vec<_>>(), ["/app"], "{what}");
        }
    }
}

fn holds(client: &Client<Node>) -> bool {
    acquired(client) == 1
        && !client
            .said
            .iter()
            .any(|output| matches!(output, Output::Event(Event::Released { .. })))
}

#[test]
fn waiter_at_its_deadline_is_busy_and_leaves_no_node() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(TIMEOUT));
    fake.put(LOCK, THEIRS, 77);
    let end = until(&mut client, &mut fake, at(0), |output| {
        matches!(output, Output::Event(Event::Busy(_)))
    });
    assert!((at(5000)..at(5600)).contains(&end), "{end:?}");
    client.release(&mut fake, end);
    assert_eq!(
        client.said.last(),
        Some(&Output::Event(Event::Released { doubt: None }))
    );
}

#[test]
fn first_free_name_is_acquired() {
    let mut fake = Fake::with_parent("/app");
    fake.put("/app/l_0", THEIRS, 77);
    let mut client = Client::new(lock(options(Duration::ZERO), &["l_0", "l_1"]));
    client.talk(&mut fake, at(0));
    let tried: Vec<_> = client
        .said
        .iter()
        .filter_map(|output| {
            if let Output::Event(Event::Trying(name)) = output {
                Some(name.as_str())
            } else {
                None
            }
        })
        .collect();
    assert_eq!(tried, ["l_0", "l_1"]);
    assert_eq!(fake.nodes["/app/l_1"].data, OURS.as_bytes());
}

#[test]
fn with_all_names_held_the_first_released_is_acquired() {
    for gone in ["/app/l_0", "/app/l_1"] {
        let mut fake = Fake::with_parent("/app");
        fake.put("/app/l_0", THEIRS, 77);
        fake.put("/app/l_1", THEIRS, 78);
        let mut client = Client::new(lock(options(TIMEOUT), &["l_0", "l_1"]));
        client.talk(&mut fake, at(0));
        fake.delete(gone);
        client.talk(&mut fake, at(500));
        assert_eq!(fake.nodes[gone].data, OURS.as_bytes(), "{:?}", client.said);
    }
}

#[test]
fn no_server_is_unreachable_and_never_busy() {
    for wait in [
        Duration::ZERO,
        Duration::from_secs(1),
        Duration::from_secs(8),
    ] {
        let (mut fake, mut client) = (Fake::default(), client(wait));
        fake.down = true;
        let end = until(&mut client, &mut fake, at(0), |output| {
            matches!(output, Output::Event(Event::Failed(_) | Event::Busy(_)))
        });
        assert!(
            matches!(
                client.said.last(),
                Some(Output::Event(Event::Failed(Failure::Unreachable(_))))
            ),
            "{:?}",
            client.said
        );
        let limit = at(0) + wait.max(TIMEOUT);
        assert!(
            (limit..limit + Duration::from_millis(600)).contains(&end),
            "{end:?} for {wait:?}"
        );
    }
}

#[test]
fn holder_whose_node_is_deleted_or_replaced_loses_the_lock() {
    for wait in [Duration::ZERO, TIMEOUT] {
        let (mut fake, mut client) = (Fake::with_parent("/app"), client(wait));
        client.talk(&mut fake, at(0));
        fake.delete(LOCK);
        client.talk(&mut fake, at(200));
        assert!(
            client.said.contains(&Output::Event(Event::Lost {
                why: "the node was deleted".into(),
                kill_deadline: at(200),
                gone: true
            })),
            "{:?}",
            client.said
        );
    }
}

#[test]
fn holder_learns_of_its_expired_session_at_reconnect() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::ZERO));
    client.talk(&mut fake, at(0));
    let session = fake.nodes[LOCK].owner;
    client.cut(&mut fake, at(100));
    fake.end(session);
    fake.put(LOCK, THEIRS, 77);
    client.talk(&mut fake, at(200));
    assert!(
            client.said.iter().any(
                |output| matches!(output, Output::Event(Event::Lost { kill_deadline, .. }) if *kill_deadline == at(200))
            ),
            "{:?}",
            client.said
        );
}

#[test]
fn outage_shorter_than_the_lease_is_survived() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::ZERO));
    let mut now = until(&mut client, &mut fake, at(0), |output| {
        matches!(output, Output::Event(Event::Acquired(_)))
    });
    for _ in 0..40 {
        now = now + Duration::from_millis(100);
        client.talk(&mut fake, now);
    }
    fake.down = true;
    client.cut(&mut fake, now);
    for _ in 0..18 {
        client.talk(&mut fake, now);
        now = now + Duration::from_millis(100);
    }
    fake.down = false;
    until(&mut client, &mut fake, now, |output| {
        *output == Output::Event(Event::Resumed)
    });
    assert!(
        !client
            .said
            .iter()
            .any(|output| matches!(output, Output::Event(Event::Lost { .. }))),
        "{:?}",
        client.said
    );
}

#[test]
fn holder_without_answers_loses_the_lock_in_time() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::ZERO));
    client.talk(&mut fake, at(0));
    fake.down = true;
    client.cut(&mut fake, at(0));
    let lost = until(&mut client, &mut fake, at(0), |output| {
        matches!(output, Output::Event(Event::Lost { .. }))
    });
    let Some(Output::Event(Event::Lost { kill_deadline, .. })) = client
        .said
        .iter()
        .find(|output| matches!(output, Output::Event(Event::Lost { .. })))
    else {
        unreachable!()
    };
    assert!(
        lost < *kill_deadline && *kill_deadline <= at(0) + TIMEOUT,
        "{lost:?} {kill_deadline:?}"
    );
}

#[test]
fn after_a_pause_deadlines_come_before_replies() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::ZERO));
    client.talk(&mut fake, at(0));
    client.talk(&mut fake, at(500)); // a heartbeat is answered: confirmed until 5.0 s
    client.input(Input::Transport(transport::Event::Received(&[])), at(6000));
    client.talk(&mut fake, at(6000));
    assert!(
        client
            .said
            .iter()
            .any(|output| matches!(output, Output::Event(Event::Lost { .. }))),
        "{:?}",
        client.said
    );
}

/// The connection is cut after every possible number of requests and of replies: the lock is
/// acquired in the end, once, and never reported as busy.
#[test]
fn run_cut_at_any_byte_does_not_block_itself() {
    for wait in [Duration::ZERO, Duration::from_mins(1)] {
        for cut in 0..12 {
            for requests in [true, false] {
                let mut fake = if cut % 2 == 0 {
                    Fake::with_parent("/app")
                } else {
                    Fake::default()
                };
                let mut client = client(wait);
                *(if requests {
                    &mut client.driver.requests_left
                } else {
                    &mut client.driver.replies_left
                }) = Some(cut);
                let said = |output: &Output| {
                    matches!(
                        output,
                        Output::Event(Event::Acquired(_) | Event::Busy(_) | Event::Failed(_))
                    )
                };
                let now = until(&mut client, &mut fake, at(0), said);
                assert_eq!(
                    acquired(&client),
                    1,
                    "cut after {cut}, requests {requests}: {:?}",
                    client.said
                );
                assert!(now < at(0) + TIMEOUT + ORPHAN_SLACK);
                assert_eq!(fake.nodes[LOCK].data, OURS.as_bytes());
                client.release(&mut fake, now);
                until(&mut client, &mut fake, now, |output| {
                    matches!(output, Output::Event(Event::Released { .. }))
                });
                assert!(
                    !fake.nodes.contains_key(LOCK),
                    "cut after {cut}, requests {requests}"
                );
            }
        }
    }
}

#[test]
fn cut_release_is_retried_on_another_connection() {
    for replies in 0..2 {
        let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::ZERO));
        client.talk(&mut fake, at(0));
        client.driver.replies_left = Some(replies);
        client.driver.requests_left = (replies == 0).then_some(0);
        client.release(&mut fake, at(100));
        until(&mut client, &mut fake, at(100), |output| {
            matches!(output, Output::Event(Event::Released { doubt: None }))
        });
        assert!(!fake.nodes.contains_key(LOCK));
    }
}

#[test]
fn unanswered_release_ends_in_doubt_after_the_session_timeout() {
    let (mut fake, mut client) = (Fake::with_parent("/app"), client(Duration::ZERO));
    client.talk(&mut fake, at(0));
    fake.down = true;
    client.cut(&mut fake, at(0));
    client.release(&mut fake, at(0));
    let end = until(&mut client, &mut fake, at(0), |output| {
        matches!(output, Output::Event(Event::Released { doubt: Some(_) }))
    });
    assert!((at(5000)..at(5600)).contains(&end), "{end:?}");
}

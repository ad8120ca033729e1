use super::super::SessionLock;
use super::super::fake::{Client, Fake, at, options};
use super::super::recipe::Options;
use super::*;
use crate::lock::{Event, Holder, Input, Output};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
const PATH: &str = "/lockex/id";

fn mark(number: u32) -> String {
    format!("{number:032x}")
}

fn contender(number: u32, wait: Duration) -> Client<SessionLock<Queue>> {
    started_under(&[], Sharing::Exclusive, number, wait)
}

fn reader(number: u32, wait: Duration) -> Client<SessionLock<Queue>> {
    started_under(&[], Sharing::Shared, number, wait)
}

/// A contender that was started under locks of these sessions.
fn started_under(
    outer: &[i64],
    sharing: Sharing,
    number: u32,
    wait: Duration,
) -> Client<SessionLock<Queue>> {
    let purpose = Purpose::Lock(sharing);
    let queue = Queue::new(PATH.into(), mark(number), format!("host:{number}"), purpose);
    let options = Options {
        outer_sessions: outer.to_vec(),
        ..options(TIMEOUT, wait)
    };
    Client::new(SessionLock::new(options, queue, at(0)))
}

fn acquired(client: &Client<SessionLock<Queue>>) -> bool {
    client
        .said
        .iter()
        .any(|output| matches!(output, Output::Event(Event::Acquired(_))))
}

fn settled(client: &mut Client<SessionLock<Queue>>, fake: &mut Fake) -> Moment {
    let mut now = at(0);
    for _ in 0..2000 {
        fake.expire(now);
        client.talk(fake, now);
        if client.said.iter().any(|output| {
            matches!(
                output,
                Output::Event(Event::Acquired(_) | Event::Busy(_) | Event::Failed(_))
            )
        }) {
            return now;
        }
        now = client
            .wait()
            .min(now + Duration::from_millis(100))
            .max(now + Duration::from_millis(1));
    }
    panic!("never settled: {:?}", client.said);
}

#[test]
fn empty_queue_is_acquired_with_nodes_in_kazoos_layout() {
    let (mut fake, mut client) = (Fake::default(), contender(1, Duration::ZERO));
    client.talk(&mut fake, at(0));
    assert!(acquired(&client), "{:?}", client.said);
    let own = format!("{}__lock__0000000001", mark(1)); // the try that found no parent used the first number
    assert_eq!(fake.children(PATH), std::slice::from_ref(&own));
    assert_eq!(fake.nodes[&format!("{PATH}/{own}")].data, b"host:1");
    client.release(&mut fake, at(1));
    assert_eq!(fake.children(PATH), [""; 0]);
}

#[test]
fn contenders_are_served_in_order_and_a_release_wakes_one() {
    let mut fake = Fake::default();
    let mut queue: Vec<_> = (0..5).map(|number| contender(number, TIMEOUT)).collect();
    for client in &mut queue {
        client.talk(&mut fake, at(0));
    }
    for turn in 0..queue.len() {
        let holding: Vec<bool> = queue.iter().map(acquired).collect();
        assert!(
            holding[turn] && !holding[turn + 1..].contains(&true),
            "turn {turn}: {holding:?}"
        );
        queue[turn].release(&mut fake, at(10));
        assert!(
            fake.undelivered() <= 1,
            "one release, {} woken",
            fake.undelivered()
        );
        for client in &mut queue {
            client.talk(&mut fake, at(10));
        }
    }
    assert_eq!(fake.children(PATH), [""; 0]);
}

#[test]
fn after_an_outage_a_contender_checks_its_predecessor_and_lists_only_if_it_left() {
    let mut fake = Fake::default();
    let mut queue: Vec<_> = (0..5).map(|number| contender(number, TIMEOUT)).collect();
    queue
        .iter_mut()
        .for_each(|client| client.talk(&mut fake, at(0)));
    let (before, told) = (fake.lists, queue[3].said.len());
    for client in &mut queue {
        client.cut(&mut fake, at(100));
        client.talk(&mut fake, at(200));
    }
    assert_eq!(fake.lists, before, "none had to list");
    assert!(
        !queue[3].said[told..]
            .iter()
            .any(|output| matches!(output, Output::Event(Event::Waiting { .. }))),
        "nothing has changed"
    );
    queue[4].cut(&mut fake, at(300));
    queue[3].release(&mut fake, at(300)); // while its successor is disconnected
    queue[4].talk(&mut fake, at(400));
    assert_eq!(fake.lists, before + 1);
    for turn in 0..3 {
        assert!(!acquired(&queue[turn + 1]) && !acquired(&queue[4]));
        queue[turn].release(&mut fake, at(500));
        queue
            .iter_mut()
            .for_each(|client| client.talk(&mut fake, at(500)));
    }
    assert!(
        acquired(&queue[4]),
        "its watch was set again: {:?}",
        queue[4].said
    );
}

#[test]
fn wait_for_an_outer_run_is_an_error_at_once() {
    for (wait, circular) in [(TIMEOUT, true), (Duration::ZERO, false)] {
        let (mut fake, mut first, mut second) = (
            Fake::default(),
            contender(1, TIMEOUT),
            contender(2, TIMEOUT),
        );
        first.talk(&mut fake, at(0));
        second.talk(&mut fake, at(0));
        let held = fake
            .nodes
            .iter()
            .find(|(path, _)| path.contains(&mark(1)))
            .map(|(_, entry)| entry.owner)
            .unwrap();
        let options = Options {
            outer_sessions: vec![5, held],
            ..options(TIMEOUT, wait)
        };
        let queue = Queue::new(
            PATH.into(),
            mark(3),
            "host:3".into(),
            Purpose::Lock(Sharing::Exclusive),
        );
        let mut inner = Client::new(SessionLock::new(options, queue, at(0)));
        inner.talk(&mut fake, at(0));
        let failed = |output: &Output| matches!(output, Output::Event(Event::Failed(Failure::IncompatibleLock(why))) if why.contains("cannot end"));
        assert_eq!(inner.said.iter().any(failed), circular, "{:?}", inner.said);
        inner.release(&mut fake, at(0));
        assert_eq!(fake.children(PATH).len(), 2);
    }
}

/// Contenders in this order, `r` for a reader and `w` for a writer, each with its number.
fn mixed(kinds: &str, fake: &mut Fake) -> Vec<Client<SessionLock<Queue>>> {
    let kinds = kinds.chars().zip(0..);
    kinds
        .map(|(kind, number)| {
            let mut client = match kind {
                'r' => reader(number, TIMEOUT),
                _ => contender(number, TIMEOUT),
            };
            client.talk(fake, at(0));
            client
        })
        .collect()
}

/// Which of them hold the lock: `h`; `-` has left.
fn holders(queue: &[Client<SessionLock<Queue>>], left: &[usize]) -> String {
    let shown = queue.iter().enumerate().map(|(index, client)| {
        match (left.contains(&index), acquired(client)) {
            (true, _) => '-',
            (false, true) => 'h',
            (false, false) => '.',
        }
    });
    shown.collect()
}

/// The first number is that of the contender that leaves; then who holds the lock, and how many
/// contenders the release has woken.
#[test]
fn readers_hold_together_and_a_release_wakes_only_those_that_it_may_concern() {
    let mut fake = Fake::default();
    let mut queue = mixed("rrwrrw", &mut fake);
    let mut left = Vec::new();
    assert_eq!(holders(&queue, &left), "hh....");
    for (leaves, holding, woken) in [
        (0, "-h....", 0), // the writer watches the nearest reader
        (1, "--h...", 1),
        (2, "---hh.", 2), // both readers watch the writer
        (4, "---h-.", 1), // the last writer has watched this one, and watches the other now
        (3, "-----h", 1),
        (5, "------", 0),
    ] {
        queue[leaves].release(&mut fake, at(10));
        assert_eq!(fake.undelivered(), woken, "{leaves} left");
        for client in &mut queue {
            client.talk(&mut fake, at(10));
        }
        left.push(leaves);
        assert_eq!(holders(&queue, &left), holding, "{leaves} left");
    }
    assert_eq!(fake.children(PATH), [""; 0]);
}

#[test]
fn a_writer_that_gives_up_lets_the_readers_behind_it_join_the_others() {
    let mut fake = Fake::default();
    let mut queue = mixed("rwr", &mut fake);
    assert_eq!(holders(&queue, &[]), "h..");
    queue[1].release(&mut fake, at(1));
    queue[2].talk(&mut fake, at(1));
    assert_eq!(holders(&queue, &[1]), "h-h");
}

#[test]
fn readers_behind_several_writers_wait_for_all_of_them() {
    let mut fake = Fake::default();
    let mut queue = mixed("wwr", &mut fake);
    queue[1].release(&mut fake, at(1)); // the one that the reader watches
    queue[2].talk(&mut fake, at(1));
    assert_eq!(holders(&queue, &[1]), "h-.");
    queue[0].release(&mut fake, at(2));
    queue[2].talk(&mut fake, at(2));
    assert_eq!(holders(&queue, &[0, 1]), "--h");
}

#[test]
fn a_position_does_not_count_the_readers_that_hold_the_lock() {
    let mut fake = Fake::default();
    let queue = mixed("rrwr", &mut fake);
    let positions: Vec<_> = queue.iter().map(waiting_at).collect();
    let at = |position, waiters| Some(QueuePosition { position, waiters });
    assert_eq!(positions, [None, None, at(1, 1), at(2, 2)]);
}

/// The position that it reported.
fn waiting_at(client: &Client<SessionLock<Queue>>) -> Option<QueuePosition> {
    client.said.iter().find_map(|output| match output {
        Output::Event(Event::Waiting { position, .. }) => *position,
        _ => None,
    })
}

#[test]
fn wait_for_an_outer_reader_is_an_error_at_once_although_others_came_before_it() {
    for (sharing, queued, circular) in [
        (Sharing::Exclusive, "rrr", true),
        (Sharing::Shared, "rrr", false),
        (Sharing::Shared, "rrrw", true), // behind a writer that waits for the outer run
    ] {
        let mut fake = Fake::default();
        let _others = mixed(queued, &mut fake);
        let outer = fake.nodes.iter();
        let mut outer = outer.filter(|(path, _)| path.contains(&mark(1)));
        let session = outer.next().map(|(_, entry)| entry.owner).unwrap();
        let mut inner = started_under(&[session], sharing, 9, TIMEOUT);
        inner.talk(&mut fake, at(0));
        let failed = |output: &Output| matches!(output, Output::Event(Event::Failed(Failure::IncompatibleLock(why))) if why.contains("cannot end"));
        assert_eq!(inner.said.iter().any(failed), circular, "{:?}", inner.said);
        assert_eq!(acquired(&inner), !circular);
    }
}

#[test]
fn reader_of_kazoo_holds_the_lock_with_later_readers_and_waits_for_earlier_ones() {
    let mut fake = Fake::default();
    let mut first = mixed("w", &mut fake);
    let kazoo = format!("{PATH}/{}__rlock__{:010}", mark(8), fake.sequence + 1);
    fake.put(&kazoo, b"kazoo", 77);
    fake.sequence += 1;
    let mut later = [reader(3, TIMEOUT), contender(4, TIMEOUT)];
    later.iter_mut().for_each(|it| it.talk(&mut fake, at(0)));
    first[0].release(&mut fake, at(1));
    later.iter_mut().for_each(|it| it.talk(&mut fake, at(1)));
    assert_eq!(holders(&later, &[]), "h.");
    later[0].release(&mut fake, at(2));
    fake.delete(&kazoo);
    later.iter_mut().for_each(|it| it.talk(&mut fake, at(2)));
    assert_eq!(holders(&later, &[0]), "-h");
}

#[test]
fn leaving_contender_wakes_its_successor_which_does_not_acquire() {
    let mut fake = Fake::default();
    let mut queue: Vec<_> = (0..3).map(|number| contender(number, TIMEOUT)).collect();
    queue
        .iter_mut()
        .for_each(|client| client.talk(&mut fake, at(0)));
    queue[1].release(&mut fake, at(1));
    queue[2].talk(&mut fake, at(1));
    assert!(!acquired(&queue[2]), "{:?}", queue[2].said);
    queue[0].release(&mut fake, at(2));
    queue[2].talk(&mut fake, at(2));
    assert!(acquired(&queue[2]), "{:?}", queue[2].said);
}

#[test]
fn waiter_names_the_holder_and_its_own_position_behind_it() {
    let mut fake = Fake::default();
    let mut queue: Vec<_> = (0..3).map(|number| contender(number, TIMEOUT)).collect();
    queue
        .iter_mut()
        .for_each(|client| client.talk(&mut fake, at(0)));
    let said = queue[2].said.iter().find_map(|output| {
        if let Output::Event(Event::Waiting {
            holder: Holder { host, .. },
            position,
        }) = output
        {
            Some((host.as_deref(), *position))
        } else {
            None
        }
    });
    let second = QueuePosition {
        position: 2,
        waiters: 2,
    };
    assert_eq!(said, Some((Some("host:0"), Some(second))));
}

#[test]
fn one_try_that_is_not_first_is_busy_and_leaves_the_queue() {
    let (mut fake, mut first, mut second) = (
        Fake::default(),
        contender(1, Duration::ZERO),
        contender(2, Duration::ZERO),
    );
    first.talk(&mut fake, at(0));
    second.talk(&mut fake, at(0));
    assert!(
        matches!(second.said.last(), Some(Output::Event(Event::Busy(holder))) if holder.host.as_deref() == Some("host:1")),
        "{:?}",
        second.said
    );
    second.release(&mut fake, at(0));
    assert_eq!(fake.children(PATH).len(), 1);
}

#[test]
fn earlier_readers_of_kazoo_are_waited_for_and_other_children_are_not() {
    for (name, blocks) in [
        ("0123__rlock__0000000000", true),
        ("0123__lock__-2147483648", true),
        ("0123__lock__1", false),
        ("odd", false),
    ] {
        let mut fake = Fake::with_parent("/lockex");
        fake.put(PATH, b"", 0);
        fake.put(&format!("{PATH}/{name}"), b"kazoo", 77);
        fake.sequence = 5;
        let mut client = contender(1, TIMEOUT);
        client.talk(&mut fake, at(0));
        assert_eq!(acquired(&client), !blocks, "{name}: {:?}", client.said);
    }
}

#[test]
fn sequence_numbers_about_to_wrap_are_refused_with_advice() {
    for number in [layout::LAST_SAFE + 1, -5] {
        let mut fake = Fake::with_parent("/lockex");
        fake.put(PATH, b"", 0);
        fake.sequence = number;
        let mut client = contender(1, TIMEOUT);
        client.talk(&mut fake, at(0));
        assert!(
            matches!(client.said.last(), Some(Output::Event(Event::Failed(Failure::IncompatibleLock(why)))) if why.contains("delete")),
            "{number}: {:?}",
            client.said
        );
    }
}

#[test]
fn node_of_a_semaphore_is_refused() {
    let mut fake = Fake::with_parent("/lockex");
    fake.put(PATH, b"3", 0);
    let mut client = contender(1, TIMEOUT);
    client.talk(&mut fake, at(0));
    assert!(
        matches!(
            client.said.last(),
            Some(Output::Event(Event::Failed(Failure::IncompatibleLock(_))))
        ),
        "{:?}",
        client.said
    );
}

#[test]
fn contender_deleted_by_hand_joins_again() {
    let (mut fake, mut first, mut second) = (
        Fake::default(),
        contender(1, TIMEOUT),
        contender(2, TIMEOUT),
    );
    first.talk(&mut fake, at(0));
    second.talk(&mut fake, at(0));
    let ours = fake
        .children(PATH)
        .into_iter()
        .find(|name| name.starts_with(&mark(2)))
        .unwrap();
    fake.delete(&format!("{PATH}/{ours}"));
    first.release(&mut fake, at(1));
    second.talk(&mut fake, at(1));
    assert!(acquired(&second), "{:?}", second.said);
}

#[test]
fn contender_with_an_expired_session_queues_again_up_to_its_limit() {
    for restarts in 0..3 {
        let mut fake = Fake::default();
        let mut first = contender(1, TIMEOUT);
        first.talk(&mut fake, at(0));
        let options = Options {
            max_rounds: Some(1),
            max_restarts: Some(restarts),
            ..options(TIMEOUT, TIMEOUT * 10)
        };
        let queue = Queue::new(
            PATH.into(),
            mark(2),
            "host:2".into(),
            Purpose::Lock(Sharing::Exclusive),
        );
        let mut waiter = Client::new(SessionLock::new(options, queue, at(0)));
        waiter.talk(&mut fake, at(0));
        for expired in 0..=restarts {
            let waits = |fake: &Fake| {
                fake.children(PATH)
                    .into_iter()
                    .find(|name| name.starts_with(&mark(2)))
            };
            let own = waits(&fake).unwrap_or_else(|| panic!("{restarts}: {:?}", waiter.said));
            fake.end(fake.nodes[&format!("{PATH}/{own}")].owner);
            let now = u64::from(expired) * 1000;
            waiter.cut(&mut fake, at(now));
            waiter.talk(&mut fake, at(now + 900));
            let failed = waiter
                .said
                .iter()
                .any(|output| matches!(output, Output::Event(Event::Failed(_))));
            assert_eq!(
                (failed, waits(&fake).is_none()),
                (expired == restarts, expired == restarts),
                "{restarts}: {:?}",
                waiter.said
            );
        }
    }
}

#[test]
fn waiter_survives_an_outage_and_only_the_first_connect_is_bounded() {
    for (known, gives_up) in [(true, false), (false, true)] {
        let (mut fake, mut first) = (Fake::default(), contender(1, TIMEOUT));
        first.talk(&mut fake, at(0));
        let options = Options {
            max_rounds: Some(1),
            connect_by: at(5000),
            ..options(TIMEOUT, TIMEOUT * 10)
        };
        let queue = Queue::new(
            PATH.into(),
            mark(2),
            "host:2".into(),
            Purpose::Lock(Sharing::Exclusive),
        );
        let mut waiter = Client::new(SessionLock::new(options, queue, at(0)));
        if known {
            waiter.talk(&mut fake, at(0));
            waiter.cut(&mut fake, at(1));
        }
        fake.down = true;
        for time in 1..40 {
            waiter.talk(&mut fake, at(time * 500));
        }
        assert_eq!(
            waiter
                .said
                .iter()
                .any(|output| matches!(output, Output::Event(Event::Failed(_)))),
            gives_up,
            "{:?}",
            waiter.said
        );
    }
}

/// The connection is cut after every possible number of requests and of replies: the lock is
/// acquired in the end, and the run has no second contender.
#[test]
fn contender_cut_at_any_byte_does_not_block_itself() {
    for wait in [Duration::ZERO, Duration::from_mins(1)] {
        for cut in 0..20 {
            for requests in [true, false] {
                let (mut fake, mut client) = (Fake::with_parent("/lockex"), contender(1, wait));
                if cut % 2 == 0 {
                    fake.put(PATH, b"", 0);
                }
                *(if requests {
                    &mut client.driver.requests_left
                } else {
                    &mut client.driver.replies_left
                }) = Some(cut);
                let now = settled(&mut client, &mut fake);
                assert!(
                    acquired(&client),
                    "cut after {cut}, requests {requests}, wait {wait:?}: {:?}",
                    client.said
                );
                client.talk(&mut fake, now);
                assert_eq!(
                    fake.children(PATH).len(),
                    1,
                    "cut after {cut}, requests {requests}"
                );
                client.input(Input::Release, now);
                client.talk(&mut fake, now + TIMEOUT);
                fake.expire(now + TIMEOUT * 2);
                assert_eq!(fake.children(PATH), [""; 0]);
            }
        }
    }
}

#[test]
fn lock_acquired_with_an_old_proof_is_confirmed_before_the_command_starts() {
    // A waiter that joined nearly a timeout ago has 20 ms until TERM, and its next heartbeat is due
    // in 220 ms. Found by tests/simulation: such a command was stopped at once, without any fault.
    let mut fake = Fake::default();
    let mut holder = contender(1, TIMEOUT * 10);
    let mut waiter = contender(2, TIMEOUT * 10);
    for now in (0..4_280).step_by(10).map(at) {
        holder.talk(&mut fake, now);
        waiter.talk(&mut fake, now);
    }
    assert!(acquired(&holder) && !acquired(&waiter));
    holder.release(&mut fake, at(4_280));
    for now in (4_280..20_000).step_by(10).map(at) {
        fake.expire(now);
        waiter.talk(&mut fake, now);
    }
    assert!(acquired(&waiter));
    let lost = |output: &Output| matches!(output, Output::Event(Event::Lost { .. }));
    assert!(!waiter.said.iter().any(lost), "{:?}", waiter.said);
}

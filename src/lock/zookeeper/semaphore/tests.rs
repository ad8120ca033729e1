use super::super::SessionLock;
use super::super::fake::{Client, Fake, at, options};
use super::super::recipe::Options;
use super::*;
use crate::lock::{Event, Output};

const TIMEOUT: Duration = Duration::from_secs(5);
const PATH: &str = "/lockex/id";
const QUEUE: &str = "/lockex/id-__lock__";

fn contender(number: u32, permits: u32, wait: Duration) -> Client<SessionLock<Semaphore>> {
    let options = options(TIMEOUT, wait);
    let semaphore = Semaphore::new(
        PATH.into(),
        permits,
        &format!("{number:032x}"),
        format!("host:{number}"),
    );
    Client::new(SessionLock::new(options, semaphore, at(0)))
}

fn acquired(client: &Client<SessionLock<Semaphore>>) -> bool {
    client
        .said
        .iter()
        .any(|output| matches!(output, Output::Event(Event::Acquired(_))))
}

#[test]
fn no_more_than_the_permits_hold_and_a_release_admits_one() {
    let mut fake = Fake::default();
    let mut all: Vec<_> = (0..5).map(|number| contender(number, 3, TIMEOUT)).collect();
    for released in 0..=5 {
        for _ in 0..3 {
            all.iter_mut()
                .for_each(|client| client.talk(&mut fake, at(released)));
        }
        let holding = all.iter().filter(|client| acquired(client)).count();
        assert_eq!(holding, (3 + usize::try_from(released).unwrap()).min(5));
        assert!(fake.children(PATH).len() <= 3);
        if let Some(client) = all.get_mut(usize::try_from(released).unwrap()) {
            client.release(&mut fake, at(released));
        }
    }
    assert_eq!(
        (fake.children(PATH).len(), fake.children(QUEUE).len()),
        (0, 0)
    );
    assert_eq!(fake.nodes[PATH].data, b"3");
}

/// Its servers were away before the first heartbeat of the holder, and then resumed its session.
#[test]
fn lease_of_a_resumed_session_does_not_keep_its_run_waiting() {
    let play = |client: &mut Client<_>, fake: &mut Fake, from: u64, to: u64| {
        for ms in (from..to).step_by(20) {
            client.talk(fake, at(ms));
        }
    };
    let mut fake = Fake::default();
    let mut client = contender(1, 1, Duration::from_mins(10));
    client.talk(&mut fake, at(0));
    assert!(acquired(&client));
    client.release(&mut fake, at(0));
    let stranger = format!("{PATH}/stranger");
    fake.put(&stranger, b"host:77", 77);
    let mut client = contender(2, 1, Duration::from_mins(10));
    play(&mut client, &mut fake, 0, 500);
    fake.delete(&stranger); // while this run is stopped
    play(&mut client, &mut fake, 4_000, 4_050);
    assert_eq!(fake.children(PATH).len(), 1, "its lease");
    assert!(!acquired(&client), "it is not confirmed");
    client.cut(&mut fake, at(4_050));
    play(&mut client, &mut fake, 20_000, 40_000);
    assert!(acquired(&client), "{:?}", client.said);
}

#[test]
fn wait_is_circular_only_if_outer_runs_hold_all_leases() {
    for (known, circular) in [(0, false), (1, false), (2, true)] {
        let mut fake = Fake::default();
        let mut holders: Vec<_> = (0..2).map(|number| contender(number, 2, TIMEOUT)).collect();
        for _ in 0..2 {
            holders
                .iter_mut()
                .for_each(|client| client.talk(&mut fake, at(0)));
        }
        let owners = fake
            .nodes
            .iter()
            .filter(|(path, entry)| path.starts_with(PATH) && entry.owner != 0)
            .map(|(_, entry)| entry.owner);
        let mut inner = contender(9, 2, TIMEOUT);
        inner.driver.machine = {
            let options = Options {
                outer_sessions: owners.take(known).collect(),
                ..options(TIMEOUT, TIMEOUT)
            };
            SessionLock::new(
                options,
                Semaphore::new(PATH.into(), 2, &format!("{:032x}", 9), "host:9".into()),
                at(0),
            )
        };
        inner.talk(&mut fake, at(0));
        let failed = |output: &Output| matches!(output, Output::Event(Event::Failed(Failure::IncompatibleLock(why))) if why.contains("cannot end"));
        assert_eq!(
            inner.said.iter().any(failed),
            circular,
            "{known}: {:?}",
            inner.said
        );
    }
}

#[test]
fn queue_is_left_as_soon_as_the_lease_exists() {
    let (mut fake, mut client) = (Fake::default(), contender(1, 2, Duration::ZERO));
    client.talk(&mut fake, at(0));
    assert!(acquired(&client), "{:?}", client.said);
    assert_eq!(
        (fake.children(PATH), fake.children(QUEUE).len()),
        (vec![format!("{:032x}", 1)], 0)
    );
}

#[test]
fn one_try_is_busy_only_if_all_leases_are_taken() {
    let mut fake = Fake::default();
    let mut all: Vec<_> = (0..4)
        .map(|number| contender(number, 2, Duration::ZERO))
        .collect();
    for _ in 0..4 {
        all.iter_mut()
            .for_each(|client| client.talk(&mut fake, at(0)));
    }
    let busy = all
        .iter()
        .filter(|client| {
            client
                .said
                .iter()
                .any(|output| matches!(output, Output::Event(Event::Busy(_))))
        })
        .count();
    assert_eq!(
        (all.iter().filter(|client| acquired(client)).count(), busy),
        (2, 2)
    );
    all.iter_mut()
        .for_each(|client| client.release(&mut fake, at(1)));
    assert_eq!(
        (fake.children(PATH).len(), fake.children(QUEUE).len()),
        (0, 0)
    );
}

#[test]
fn other_number_of_permits_is_refused_and_other_data_ignored() {
    for (data, fits) in [
        (&b"3"[..], false),
        (b"2", true),
        (b"", true),
        (b"some text", true),
    ] {
        let mut fake = Fake::with_parent("/lockex");
        fake.put(PATH, data, 0);
        let mut client = contender(1, 2, Duration::ZERO);
        client.talk(&mut fake, at(0));
        assert_eq!(acquired(&client), fits, "{data:?}: {:?}", client.said);
    }
}

fn told(client: &Client<SessionLock<Semaphore>>) -> Option<&Holder> {
    client.said.iter().rev().find_map(|output| match output {
        Output::Event(Event::Busy(holder) | Event::Waiting { holder, .. }) => Some(holder),
        _ => None,
    })
}

#[test]
fn full_semaphore_names_its_holders_and_not_the_first_waiter() {
    for wait in [Duration::ZERO, TIMEOUT * 10] {
        let mut fake = Fake::default();
        let mut holders: Vec<_> = (0..2)
            .map(|number| contender(number, 2, Duration::ZERO))
            .collect();
        holders
            .iter_mut()
            .for_each(|client| client.talk(&mut fake, at(0)));
        let mut first = contender(2, 2, TIMEOUT * 10);
        first.talk(&mut fake, at(0));
        let mut second = contender(3, 2, wait);
        second.talk(&mut fake, at(0));
        for client in [&first, &second] {
            let holder = told(client).unwrap_or_else(|| panic!("{:?}", client.said));
            assert_eq!(
                holder.host.as_deref(),
                Some("host:0, host:1"),
                "{:?}",
                client.said
            );
            assert_eq!(holder.lock, format!("{PATH} (all 2 leases taken)"));
        }
        assert!(
            first
                .said
                .iter()
                .chain(&second.said)
                .filter(|output| matches!(output, Output::Event(Event::Waiting { .. })))
                .count()
                <= 2
        );
    }
}

#[test]
fn of_many_holders_a_few_are_named_and_the_others_counted() {
    let mut fake = Fake::default();
    let mut holders: Vec<_> = (0..8)
        .map(|number| contender(number, 8, Duration::ZERO))
        .collect();
    holders
        .iter_mut()
        .for_each(|client| client.talk(&mut fake, at(0)));
    let mut client = contender(9, 8, Duration::ZERO);
    client.talk(&mut fake, at(0));
    let host = told(&client).and_then(|holder| holder.host.clone());
    assert_eq!(
        host.as_deref(),
        Some("host:0, host:1, host:2, host:3, host:4 and 3 others")
    );
}

#[test]
fn waiter_reads_holders_once_and_names_no_former_holder() {
    let mut fake = Fake::default();
    let mut all: Vec<_> = (0..4)
        .map(|number| contender(number, 2, Duration::ZERO))
        .collect();
    all[..2]
        .iter_mut()
        .for_each(|client| client.talk(&mut fake, at(0)));
    let mut waiter = contender(9, 2, TIMEOUT);
    waiter.talk(&mut fake, at(0));
    fake.put(&format!("{PATH}/stranger"), b"host:77", 77);
    let before = fake.requests;
    all[1].release(&mut fake, at(1)); // still two, one of them unknown
    let own = fake.requests - before;
    waiter.talk(&mut fake, at(1));
    assert!(
        fake.requests - before - own <= 8,
        "it lists, and does not read each lease again: {}",
        fake.requests - before - own
    );
    let mut now = at(2);
    while told(&waiter).is_none_or(|_| {
        !waiter
            .said
            .iter()
            .any(|output| matches!(output, Output::Event(Event::Busy(_))))
    }) && now < at(20_000)
    {
        now = now + Duration::from_millis(100);
        waiter.talk(&mut fake, now);
    }
    assert_eq!(
        told(&waiter)
            .and_then(|holder| holder.host.clone())
            .as_deref(),
        Some("host:0 and 1 other"),
        "{:?}",
        waiter.said
    );
}

#[test]
fn free_semaphore_sends_no_request_to_name_holders() {
    let (mut fake, mut client) = (Fake::default(), contender(1, 2, Duration::ZERO));
    fake.put("/lockex", b"", 0);
    fake.put(PATH, b"2", 0);
    fake.put(QUEUE, b"", 0);
    fake.put(&format!("{PATH}/stranger"), b"host:77", 77);
    client.talk(&mut fake, at(0));
    assert!(acquired(&client));
    assert_eq!(
        fake.requests, 8,
        "join and list; look at our contender; number and list; lease and look; leave the queue"
    );
}

/// The connection is cut after every possible number of requests and of replies: the lease is
/// acquired in the end, and the queue is free.
#[test]
fn contender_cut_at_any_byte_leaves_the_queue_free() {
    for cut in 0..20 {
        for requests in [true, false] {
            let mut fake = Fake::with_parent("/lockex");
            let mut client = contender(1, 2, Duration::from_mins(1));
            *(if requests {
                &mut client.driver.requests_left
            } else {
                &mut client.driver.replies_left
            }) = Some(cut);
            let mut now = at(0);
            for _ in 0..300 {
                fake.expire(now);
                client.talk(&mut fake, now);
                now = client
                    .wait()
                    .min(now + Duration::from_millis(100))
                    .max(now + Duration::from_millis(1));
            }
            assert!(
                acquired(&client),
                "cut after {cut}, requests {requests}: {:?}",
                client.said
            );
            let left = (fake.children(PATH).len(), fake.children(QUEUE).len());
            assert_eq!(
                left,
                (1, 0),
                "cut after {cut}, requests {requests}: {:?}",
                fake.nodes.keys()
            );
        }
    }
}

/// An operator deleted the contender of the first waiter while its list of the leases was on its way,
/// so the next run took the lease that was free by that list. The simulation found it (seed
/// 850128270).
#[test]
fn list_that_is_older_than_the_loss_of_the_contender_admits_no_run() {
    let lease = |name: &str| format!("{PATH}/{name}");
    let mut fake = Fake::with_parent("/lockex");
    fake.put(PATH, b"1", 0);
    fake.put(&lease("first"), b"host:77", 77);
    let mut waiter = contender(1, 1, TIMEOUT);
    waiter.talk(&mut fake, at(0));
    fake.delete(&lease("first"));
    fake.delay = Duration::from_millis(100);
    waiter.talk(&mut fake, at(1)); // lists the leases
    let own = fake.children(QUEUE).remove(0);
    fake.delete(&format!("{QUEUE}/{own}"));
    fake.put(&lease("next"), b"host:78", 78);
    fake.delay = Duration::ZERO;
    for ms in (2..1_000).step_by(10) {
        waiter.talk(&mut fake, at(ms));
        assert_eq!(
            fake.children(PATH),
            ["next"],
            "at {ms} ms: {:?}",
            waiter.said
        );
    }
    assert_eq!(fake.children(QUEUE).len(), 1, "it has joined again");
    fake.delete(&lease("next"));
    waiter.talk(&mut fake, at(1_000));
    assert!(acquired(&waiter), "{:?}", waiter.said);
}

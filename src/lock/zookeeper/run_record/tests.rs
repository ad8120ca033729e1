use super::super::SessionLock;
use super::super::fake::{self, Client, Fake, at};
use super::super::layout::NodeData;
use super::super::node::Node;
use super::super::queue::{Purpose, Queue};
use super::super::recipe;
use super::*;
use crate::lock::{Event, Input, Lock, Output};
use crate::moment::Moment;
use crate::plan::Sharing;
use proptest::prelude::*;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
const PERIOD: Duration = Duration::from_mins(1);
const LOCK: &str = "/app/lock";
const RECORD: &str = "/app/.runs/lock";

fn options(host: &str, wait: Duration, retry_failed: bool) -> recipe::Options {
    recipe::Options {
        max_restarts: None,
        record: Some(Options {
            every: Every {
                period: PERIOD,
                retry_failed,
            },
            path: RECORD.into(),
            host: host.into(),
            pid: 7,
            acl: Acl::Open,
        }),
        ..fake::options(TIMEOUT, wait)
    }
}

/// A run of zk-flock that begins at this moment.
fn run_with(host: &str, options: recipe::Options, now: Moment) -> Client<SessionLock<Node>> {
    let data = NodeData::new(host.into(), [host.as_bytes()[0]; 16], 7);
    let names = vec!["lock".into()];
    let mut client = Client::new(Node::lock(options, "app", names, &data, now));
    client.driver.jump(now);
    client
}

fn run(host: &str, now: Moment) -> Client<SessionLock<Node>> {
    let mut options = options(host, Duration::ZERO, false);
    options.connect_by = now + TIMEOUT;
    run_with(host, options, now)
}

fn waiter(host: &str, now: Moment) -> Client<SessionLock<Node>> {
    let mut options = options(host, Duration::from_hours(1), false);
    options.wait_until = Some(now + Duration::from_hours(1));
    run_with(host, options, now)
}

/// What became of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Fate {
    Runs,
    AlreadyRun { by: Option<String> },
    Busy,
    Failed(String),
    Waits,
}

fn fate<L: Lock>(client: &Client<L>) -> Fate {
    let mut fates = client.said.iter().filter_map(|output| match output {
        Output::Event(Event::Acquired(_)) => Some(Fate::Runs),
        Output::Event(Event::AlreadyRun(last)) => Some(Fate::AlreadyRun {
            by: last.host.clone(),
        }),
        Output::Event(Event::Busy(_)) => Some(Fate::Busy),
        Output::Event(Event::Failed(why)) => Some(Fate::Failed(why.to_string())),
        _ => None,
    });
    fates.next_back().unwrap_or(Fate::Waits)
}

fn taken_by(host: &str) -> Fate {
    Fate::AlreadyRun {
        by: Some(host.into()),
    }
}

fn warnings<L: Lock>(client: &Client<L>) -> Vec<&str> {
    let texts = client.said.iter().filter_map(|output| match output {
        Output::Event(Event::Warn(text)) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

/// The record in the server.
fn recorded(fake: &Fake) -> RunRecord {
    RunRecord::parse(&fake.nodes[RECORD].data).unwrap()
}

/// One run from its start to its end, with this exit code of its command if it runs.
fn complete(fake: &mut Fake, host: &str, now: Moment, exit: u8) -> Fate {
    let mut client = run(host, now);
    client.talk(fake, now);
    let end = fate(&client);
    if end == Fate::Runs {
        client.input(Input::Ended(exit), now);
    }
    client.release(fake, now);
    end
}

/// A server on which the run of the host "first" has just ended with this code.
fn after_a_run(exit: u8) -> Fake {
    let mut fake = Fake::with_parent("/app");
    assert_eq!(complete(&mut fake, "first", at(0), exit), Fate::Runs);
    fake
}

#[test]
fn first_run_makes_the_record_and_writes_its_end_into_it() {
    let mut fake = Fake::with_parent("/app");
    let mut client = run("web1", at(0));
    client.talk(&mut fake, at(0));
    assert_eq!(fate(&client), Fate::Runs, "{:?}", client.said);
    let token = fake.nodes[LOCK].czxid;
    let started = RunRecord {
        host: "web1".into(),
        pid: 7,
        token,
        exit: None,
    };
    assert_eq!(recorded(&fake), started);
    let node = fake.nodes[RECORD].clone();
    assert!(node.czxid > token && node.owner == 0);
    client.input(Input::Ended(3), at(500));
    client.release(&mut fake, at(500));
    let ended = RunRecord {
        exit: Some(3),
        ..started
    };
    assert_eq!(recorded(&fake), ended);
    assert_eq!(fake.nodes[RECORD].czxid, node.czxid, "the start stays");
    assert!(!fake.nodes.contains_key(LOCK));
}

#[test]
fn one_round_trip_more_than_a_plain_run_where_the_container_exists() {
    let mut fake = after_a_run(0);
    let requests = fake.requests;
    let mut client = run("web2", at(60_000));
    let mut writes = 0;
    // Each reply takes 10 ms, so each round trip takes another look.
    fake.delay = Duration::from_millis(10);
    let mut now = at(60_000);
    while fate(&client) == Fate::Waits {
        client.talk(&mut fake, now);
        now = now + Duration::from_millis(10);
        writes += 1;
    }
    assert_eq!(
        writes, 3,
        "connect + create + reads; transaction; its reply"
    );
    // Create, the lock's node, the record, the transaction.
    assert_eq!(fake.requests - requests, 4);
}

#[test]
fn a_run_is_due_from_half_a_period_after_the_last_start() {
    for (after, expected) in [
        (0, taken_by("first")),
        (8_000, taken_by("first")),
        (29_999, taken_by("first")),
        (30_000, Fate::Runs),
        (60_000, Fate::Runs),
    ] {
        let mut fake = after_a_run(0);
        let before = fake.nodes[RECORD].clone();
        assert_eq!(
            complete(&mut fake, "next", at(after), 0),
            expected,
            "{after}"
        );
        let changed = fake.nodes[RECORD] != before;
        assert_eq!(
            changed,
            expected == Fate::Runs,
            "only a run changes the record"
        );
        assert!(!fake.nodes.contains_key(LOCK), "the lock is free again");
    }
}

#[test]
fn a_run_that_holds_the_lock_makes_others_busy() {
    let mut fake = Fake::with_parent("/app");
    let mut holder = run("web1", at(0));
    holder.talk(&mut fake, at(0));
    assert_eq!(complete(&mut fake, "web2", at(100), 0), Fate::Busy);
}

#[test]
fn a_slow_run_takes_the_turn_of_the_waiters() {
    let mut fake = Fake::with_parent("/app");
    let mut holder = run("web1", at(0));
    holder.talk(&mut fake, at(0));
    // It asks 1 s later, and acquires the lock 50 s later.
    let mut waiting = waiter("web2", at(1_000));
    waiting.talk(&mut fake, at(1_000));
    assert_eq!(fate(&waiting), Fate::Waits);
    for second in 1..=50 {
        let now = at(1_000 + second * 1_000);
        for client in [&mut holder, &mut waiting] {
            client.talk(&mut fake, now);
        }
    }
    holder.input(Input::Ended(0), at(51_000));
    holder.release(&mut fake, at(51_000));
    waiting.talk(&mut fake, at(51_000));
    assert_eq!(fate(&waiting), taken_by("web1"), "{:?}", waiting.said);
}

#[test]
fn a_waiter_runs_if_the_last_run_started_in_the_turn_before() {
    let mut fake = Fake::with_parent("/app");
    let mut holder = run("web1", at(0));
    holder.talk(&mut fake, at(0));
    for second in 1..=60 {
        holder.talk(&mut fake, at(second * 1_000));
    }
    let mut waiting = waiter("web2", at(60_000));
    waiting.talk(&mut fake, at(60_000));
    holder.release(&mut fake, at(61_000));
    waiting.talk(&mut fake, at(61_000));
    assert_eq!(fate(&waiting), Fate::Runs);
}

#[test]
fn a_waiter_whose_session_has_expired_asked_when_it_asked_first() {
    let mut fake = Fake::with_parent("/app");
    let mut holder = run("web1", at(0));
    holder.talk(&mut fake, at(0));
    let mut waiting = waiter("web2", at(1_000));
    waiting.talk(&mut fake, at(1_000));
    for second in 1..=40 {
        let now = at(1_000 + second * 1_000);
        holder.talk(&mut fake, now);
        if second == 20 {
            let sessions: Vec<_> = fake.nodes.values().map(|node| node.owner).collect();
            let own = fake.nodes[LOCK].owner;
            let other = sessions.into_iter().find(|&it| it != own && it != 0);
            fake.end(other.unwrap());
            waiting.cut(&mut fake, now);
        }
        waiting.talk(&mut fake, now);
    }
    holder.release(&mut fake, at(42_000));
    waiting.talk(&mut fake, at(42_000));
    // The second session asked 21 s after the start, the first 1 s after it. With a start that is
    // 40 s old, both count; the zxid of the first request is what is compared.
    assert_eq!(fate(&waiting), taken_by("web1"), "{:?}", waiting.said);
}

#[test]
fn a_read_that_an_expired_session_leaves_unanswered_is_not_awaited() {
    let mut fake = Fake::with_parent("/app");
    let mut holder = run("web1", at(0));
    holder.talk(&mut fake, at(0));
    let mut waiting = waiter("web2", at(1_000));
    waiting.talk(&mut fake, at(1_000));
    let own = fake.nodes[LOCK].owner;
    let owners: Vec<_> = fake.nodes.values().map(|node| node.owner).collect();
    let other = owners.into_iter().find(|&it| it != own && it != 0);
    fake.end(other.unwrap());
    holder.release(&mut fake, at(2_000)); // so it creates the node, and reads, and is told
    for step in 0..100 {
        waiting.talk(&mut fake, at(2_000 + step * 50));
    }
    assert_eq!(fate(&waiting), taken_by("web1"), "{:?}", waiting.said);
}

#[test]
fn a_clock_that_was_set_back_by_half_a_period_costs_one_warning() {
    for (back, expected) in [(29_999, taken_by("first")), (30_000, Fate::Runs)] {
        let mut fake = after_a_run(0);
        fake.clock_offset = -back;
        let mut client = run("next", at(0));
        client.talk(&mut fake, at(0));
        assert_eq!(fate(&client), expected, "{back}");
        let warned = warnings(&client);
        assert_eq!(
            warned.len(),
            usize::from(expected == Fate::Runs),
            "{warned:?}"
        );
        assert!(
            warned.iter().all(|text| text.contains("30.0 s")),
            "{warned:?}"
        );
    }
}

#[test]
fn garbage_counts_as_a_run_that_started_when_it_was_written() {
    for retry_failed in [false, true] {
        for (after, fate_then) in [(1_000, Fate::AlreadyRun { by: None }), (40_000, Fate::Runs)] {
            let mut fake = after_a_run(0);
            fake.nodes.get_mut(RECORD).unwrap().data = b"\xff{".to_vec();
            let mut options = options("next", Duration::ZERO, retry_failed);
            options.connect_by = at(after) + TIMEOUT;
            let mut client = run_with("next", options, at(after));
            client.talk(&mut fake, at(after));
            assert_eq!(fate(&client), fate_then, "{after}");
        }
    }
}

#[test]
fn a_failed_run_is_repeated_only_if_that_is_asked_for() {
    let killed = || {
        let mut fake = Fake::with_parent("/app");
        let mut client = run("first", at(0));
        client.talk(&mut fake, at(0));
        let session = fake.nodes[LOCK].owner;
        fake.end(session);
        fake
    };
    for (mut fake, expected, name) in [
        (after_a_run(0), taken_by("first"), "exit code 0"),
        (after_a_run(1), Fate::Runs, "exit code 1"),
        (after_a_run(137), Fate::Runs, "a signal"),
        (killed(), Fate::Runs, "killed with its lock"),
    ] {
        let options = options("next", Duration::ZERO, true);
        let mut client = run_with("next", options, at(1_000));
        client.talk(&mut fake, at(1_000));
        assert_eq!(fate(&client), expected, "{name}");
    }
    let mut fake = after_a_run(1);
    assert_eq!(complete(&mut fake, "next", at(1_000), 0), taken_by("first"));
    assert_eq!(
        complete(&mut killed(), "next", at(1_000), 0),
        taken_by("first")
    );
}

#[test]
fn a_cut_after_any_message_starts_the_command_once_and_leaves_one_record() {
    for container in [false, true] {
        for (requests, replies) in (0..12).flat_map(|n| [(Some(n), None), (None, Some(n))]) {
            let mut fake = Fake::with_parent("/app");
            if container {
                fake.put("/app/.runs", b"", 0);
                fake.put(RECORD, b"old", 0);
            }
            // The old record, if there is one, is from long ago.
            let mut options = options("web1", Duration::from_hours(1), false);
            options.wait_until = Some(at(3_700_000));
            let mut client = run_with("web1", options, at(60_000));
            client.driver.requests_left = requests;
            client.driver.replies_left = replies;
            let mut now = at(60_000);
            while fate(&client) == Fate::Waits && now < at(90_000) {
                fake.expire(now);
                client.talk(&mut fake, now);
                now = now + Duration::from_millis(50);
            }
            let cut = format!("{container} {requests:?} {replies:?}: {:?}", client.said);
            assert_eq!(fate(&client), Fate::Runs, "{cut}");
            assert_eq!(recorded(&fake).token, fake.nodes[LOCK].czxid, "{cut}");
            client.input(Input::Ended(0), now);
            client.input(Input::Release, now);
            for step in 0..40 {
                client.talk(&mut fake, now + Duration::from_millis(50) * step);
            }
            assert_eq!(recorded(&fake).exit, Some(0), "{cut}");
        }
    }
}

#[test]
fn an_end_that_was_cut_off_is_written_before_the_release() {
    for (requests, replies) in [(Some(0), None), (Some(1), None), (None, Some(0))] {
        let mut fake = Fake::with_parent("/app");
        let mut client = run("web1", at(0));
        client.talk(&mut fake, at(0));
        client.driver.requests_left = requests;
        client.driver.replies_left = replies;
        client.input(Input::Ended(0), at(100));
        client.input(Input::Release, at(100));
        for step in 0..40 {
            client.talk(&mut fake, at(100 + step * 50));
        }
        assert_eq!(recorded(&fake).exit, Some(0), "{requests:?} {replies:?}");
        assert!(!fake.nodes.contains_key(LOCK));
    }
}

#[test]
fn an_end_that_no_server_confirms_is_a_warning() {
    for expires in [false, true] {
        let mut fake = Fake::with_parent("/app");
        let mut client = run("web1", at(0));
        client.talk(&mut fake, at(0));
        client.cut(&mut fake, at(100));
        client.input(Input::Ended(0), at(100));
        client.input(Input::Release, at(100));
        fake.down = !expires;
        fake.end(fake.nodes[LOCK].owner);
        for step in 0..150 {
            client.talk(&mut fake, at(100 + step * 50));
        }
        let last = client.said.last();
        let released = matches!(last, Some(Output::Event(Event::Released { .. })));
        assert!(released, "{last:?}");
        let start = "cannot record the end of this run in /app/.runs/lock: ";
        let warned = warnings(&client);
        assert!(
            matches!(warned[..], [text] if text.starts_with(start)),
            "{warned:?}"
        );
    }
}

#[test]
fn an_end_during_an_outage_is_written_when_the_session_is_resumed() {
    let mut fake = Fake::with_parent("/app");
    let mut client = run("web1", at(0));
    client.talk(&mut fake, at(0));
    client.cut(&mut fake, at(1_000));
    client.input(Input::Ended(1), at(1_000)); // and the minimum hold has not ended
    for step in 0..10 {
        client.talk(&mut fake, at(1_000 + step * 50));
    }
    assert_eq!(recorded(&fake).exit, Some(1));
}

#[test]
fn a_lock_that_is_lost_before_the_command_starts_leaves_no_turn_taken_for_this_run() {
    let mut fake = after_a_run(0);
    fake.delay = Duration::from_millis(10);
    let mut client = waiter("web2", at(60_000));
    client.talk(&mut fake, at(60_000));
    client.talk(&mut fake, at(60_010)); // the lock is acquired, and the start is on its way
    assert_eq!(fate(&client), Fate::Waits);
    assert_eq!(recorded(&fake).host, "web2", "it has arrived");
    fake.delete(LOCK);
    for step in 1..50 {
        client.talk(&mut fake, at(60_010 + step * 10));
    }
    assert_eq!(fate(&client), Fate::Runs, "{:?}", client.said);
    assert_eq!(recorded(&fake).token, fake.nodes[LOCK].czxid);
}

#[test]
fn a_start_under_a_lock_that_was_lost_takes_no_turn_after_a_second_loss() {
    let mut fake = after_a_run(0);
    fake.delay = Duration::from_millis(10);
    let mut client = waiter("web2", at(60_000));
    client.talk(&mut fake, at(60_000));
    client.talk(&mut fake, at(60_010));
    let first = recorded(&fake).token;
    assert_eq!(recorded(&fake).host, "web2", "the first start has arrived");
    fake.delete(LOCK);
    let mut losses = 1;
    for step in 1..100 {
        client.talk(&mut fake, at(60_010 + step * 10));
        // The second start arrives after its lock was lost.
        if losses == 1 && fake.nodes.contains_key(LOCK) {
            fake.delete(LOCK);
            losses = 2;
            assert_eq!(recorded(&fake).token, first);
        }
    }
    assert_eq!(losses, 2);
    assert_eq!(fate(&client), Fate::Runs, "{:?}", client.said);
    assert_eq!(recorded(&fake).token, fake.nodes[LOCK].czxid);
}

#[test]
fn an_end_is_never_written_into_the_record_of_the_next_holder() {
    for (is_released, reconnects) in [(false, 150), (true, 150), (true, 300)] {
        let mut fake = Fake::with_parent("/app");
        let mut first = run("first", at(0));
        first.talk(&mut fake, at(0));
        assert_eq!(fate(&first), Fate::Runs);
        first.cut(&mut fake, at(100));
        first.input(Input::Ended(0), at(100));
        if is_released {
            first.input(Input::Release, at(100));
        }
        fake.delete(LOCK); // as `--break --force` does
        let mut next = run_with("next", options("next", Duration::ZERO, true), at(120));
        next.talk(&mut fake, at(120));
        assert_eq!(
            fate(&next),
            Fate::Runs,
            "the end of the first run is unknown"
        );
        for step in 0..20 {
            first.talk(&mut fake, at(reconnects + step * 50));
        }
        assert_eq!(recorded(&fake).host, "next", "{:?}", first.said);
        next.input(Input::Ended(5), at(2_000));
        next.release(&mut fake, at(2_000));
        assert_eq!(recorded(&fake).exit, Some(5));
    }
}

#[test]
fn a_record_that_is_refused_ends_the_run_before_its_command() {
    let mut fake = after_a_run(0);
    fake.secret = Some(RECORD.into());
    let end = complete(&mut fake, "next", at(60_000), 0);
    assert!(
        matches!(&end, Fate::Failed(why) if why.starts_with("cannot read /app/.runs/lock: ")),
        "{end:?}"
    );
    let mut fake = Fake::with_parent("/app");
    fake.put("/app/.runs", b"", 0);
    fake.closed = Some("/app/.runs".into());
    let end = complete(&mut fake, "next", at(0), 0);
    assert!(
        matches!(&end, Fate::Failed(why) if why.starts_with("cannot write /app/.runs/lock: ")),
        "{end:?}"
    );
    assert!(!fake.nodes.contains_key(LOCK));
}

/// A run of lockex that begins at this moment.
fn contender(host: &str, now: Moment) -> Client<SessionLock<Queue>> {
    let mut options = options(host, Duration::from_hours(1), false);
    options.record.as_mut().unwrap().path = "/lockex/.runs/id".into();
    let mark = host[..1].repeat(32);
    let queue = Queue::new(
        "/lockex/id".into(),
        mark,
        "h:1".into(),
        Purpose::Lock(Sharing::Exclusive),
    );
    let mut client = Client::new(SessionLock::new(options, queue, now));
    client.driver.jump(now);
    client
}

/// A run that waits while the holder runs for 50 s, and is cut off once meanwhile.
fn waits_for_a_slow_run<L: Lock>(
    mut holder: Client<L>,
    new_waiter: impl Fn() -> Client<L>,
    (requests, replies): (Option<usize>, Option<usize>),
) -> Fate {
    let mut fake = Fake::with_parent("/app");
    holder.talk(&mut fake, at(0));
    assert_eq!(fate(&holder), Fate::Runs);
    let mut waiting = new_waiter();
    waiting.driver.requests_left = requests;
    waiting.driver.replies_left = replies;
    let talk = |client: &mut Client<L>, fake: &mut Fake, step: u64| {
        let now = at(1_000 + step * 100);
        fake.expire(now);
        client.talk(fake, now);
    };
    for step in 0..490 {
        talk(&mut holder, &mut fake, step);
        talk(&mut waiting, &mut fake, step);
    }
    holder.input(Input::Ended(0), at(50_000));
    holder.release(&mut fake, at(50_000));
    for step in 490..600 {
        talk(&mut waiting, &mut fake, step);
    }
    fate(&waiting)
}

#[test]
fn a_waiter_that_is_cut_off_at_any_message_finds_its_turn_taken() {
    for cut in (0..14).flat_map(|n| [(Some(n), None), (None, Some(n))]) {
        let of_node = waits_for_a_slow_run(run("web1", at(0)), || waiter("web2", at(1_000)), cut);
        assert_eq!(of_node, taken_by("web1"), "{cut:?}");
        let holder = contender("a", at(0));
        let of_queue = waits_for_a_slow_run(holder, || contender("b", at(1_000)), cut);
        assert_eq!(of_queue, taken_by("a"), "{cut:?}");
    }
}

#[test]
fn a_queue_of_lockex_decides_by_its_contender() {
    let mut fake = Fake::default();
    let mut first = contender("a", at(0));
    first.talk(&mut fake, at(0));
    assert_eq!(fate(&first), Fate::Runs, "{:?}", first.said);
    let mut second = contender("b", at(1_000));
    second.talk(&mut fake, at(1_000));
    for second_of in 2..50 {
        for client in [&mut first, &mut second] {
            client.talk(&mut fake, at(second_of * 1_000));
        }
    }
    assert_eq!(fate(&second), Fate::Waits);
    first.input(Input::Ended(0), at(50_000));
    first.release(&mut fake, at(50_000));
    second.talk(&mut fake, at(50_000));
    assert_eq!(fate(&second), taken_by("a"), "{:?}", second.said);
    let ids = fake.children("/lockex");
    assert_eq!(ids, [".runs", "id"], "nothing below the lock's own node");
}

/// A process that cron starts, and what happens to it. Times are in ms.
#[derive(Clone, Debug)]
struct Process {
    turn: u64,
    /// How late its clock is.
    offset: u64,
    /// How long its command runs.
    takes: u64,
    waits: bool,
    /// After so many requests, or replies, the connection is cut.
    cut: (Option<usize>, Option<usize>),
    /// So long after its start its session ends.
    expires: Option<u64>,
}

prop_compose! {
    fn process()(
        turn in 0_u64..5,
        offset in 0_u64..15_000,
        takes in 0_u64..150_000,
        waits in any::<bool>(),
        requests in prop::option::of(0_usize..20),
        replies in prop::option::of(0_usize..20),
        expires in prop::option::of(0_u64..20_000),
    ) -> Process {
        Process { turn, offset, takes, waits, cut: (requests, replies), expires }
    }
}

/// How many commands were started by the processes of each turn.
fn runs_by_turn(processes: &[Process]) -> Vec<usize> {
    const STEP: usize = 250;
    let slot = |moment: u64| moment / STEP as u64;
    let start = |process: &Process| process.turn * 60_000 + process.offset;
    let mut fake = Fake::with_parent("/app");
    let mut clients: Vec<Option<Client<SessionLock<Node>>>> =
        processes.iter().map(|_| None).collect();
    let mut ends = vec![None; processes.len()];
    let mut runs = vec![0; 5];
    for now in (0..420_000).step_by(STEP) {
        fake.expire(at(now));
        for (index, process) in processes.iter().enumerate() {
            if now < start(process) {
                continue;
            }
            let client = clients[index].get_or_insert_with(|| {
                let host = format!("{index}");
                let make = if process.waits { waiter } else { run };
                let mut client = make(&host, at(now));
                (client.driver.requests_left, client.driver.replies_left) = process.cut;
                client
            });
            if process
                .expires
                .is_some_and(|after| slot(start(process) + after) == slot(now))
                && let Some(session) = client.driver.machine.session.id()
            {
                fake.end(session);
            }
            let heard = client.said.len();
            client.talk(&mut fake, at(now));
            let is_over = client.said[heard..].iter().any(|output| {
                let Output::Event(event) = output else {
                    return false;
                };
                if let Event::Acquired(_) = event {
                    runs[usize::try_from(process.turn).unwrap()] += 1;
                    ends[index] = Some(now + process.takes);
                }
                matches!(
                    event,
                    Event::Lost { .. } | Event::Busy(_) | Event::AlreadyRun(_) | Event::Failed(_)
                )
            });
            if ends[index].is_some_and(|end| now >= end) || is_over {
                if !is_over {
                    client.input(Input::Ended(0), at(now));
                }
                ends[index] = Some(u64::MAX);
                client.input(Input::Release, at(now));
            }
        }
    }
    runs
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn no_turn_has_two_runs_whatever_is_cut_off(processes in prop::collection::vec(process(), 1..8)) {
        let runs = runs_by_turn(&processes);
        prop_assert!(runs.iter().all(|&runs| runs <= 1), "{runs:?}");
    }
}

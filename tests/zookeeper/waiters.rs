//! Who waits for a zk-flock stands in a queue beside the lock: served in turn, woken when next,
//! whatever becomes of the others; and nothing is left when nobody waits. Where there can be no
//! queue, all watch the lock.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::client::may;
use common::run::{Job, Running, exited, killed};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use common::{SECOND, report, wait_until};
use std::path::Path;
use std::time::{Duration, Instant};

/// Long enough that no heartbeat falls into a count.
const TIMEOUT: u32 = 60;

/// For tests that wait for a session to end.
const SHORT: u32 = 2;

/// Within this, nothing shows that somebody has waited.
const GONE: Duration = SECOND;

fn queue(sandbox: &Sandbox) -> String {
    sandbox.node(".queue/lock")
}

/// Holds the lock until it is let go.
#[track_caller]
fn holder<'a>(server: &ZooKeeper, sandbox: &'a Sandbox) -> Running<'a> {
    let holder = sandbox
        .flock_at(&server.address(), TIMEOUT, &["-l", "0", "lock", "cat"])
        .leashed()
        .start();
    holder.job();
    holder
}

/// Waits for the lock, then writes its number into `runs`.
fn waiter<'a>(server: &ZooKeeper, sandbox: &'a Sandbox, timeout: u32, number: usize) -> Job<'a> {
    let command = format!("sh -c 'echo {number} >>runs'");
    sandbox.flock_at(
        &server.address(),
        timeout,
        &["-l", "0", "-w", "80", "-x", "17", "lock", &command],
    )
}

/// So many of them, one behind the other.
fn waiters<'a>(
    server: &ZooKeeper,
    sandbox: &'a Sandbox,
    timeout: u32,
    count: usize,
) -> Vec<Running<'a>> {
    let mut client = sandbox.client(server);
    let start = |number| {
        let waiter = waiter(server, sandbox, timeout, number).start();
        client.wait_for_children(&queue(sandbox), number + 1);
        waiter
    };
    (0..count).map(start).collect()
}

fn all_run(waiters: Vec<Running>) {
    waiters
        .into_iter()
        .for_each(|waiter| assert_eq!(waiter.wait(), exited(0)));
}

/// The numbers that have run, in their order.
fn runs(sandbox: &Sandbox) -> Vec<usize> {
    sandbox
        .read("runs")
        .lines()
        .map(|line| line.parse().expect("it is a number"))
        .collect()
}

/// Asserts that there is nothing below the application any more, at once.
#[track_caller]
fn assert_nothing_left(server: &ZooKeeper, sandbox: &Sandbox) {
    let (ended, mut client) = (Instant::now(), sandbox.client(server));
    wait_until("nothing to be left", || {
        client.children(&format!("/{}", sandbox.id)).is_empty()
    });
    assert!(ended.elapsed() < GONE, "{:?}", ended.elapsed());
}

#[test]
fn a_waiter_acquires_after_the_server_lost_its_data() {
    let (mut server, sandbox) = (ZooKeeper::start(), Sandbox::new());
    let address = server.address();
    let holders = [
        sandbox
            .flock_at(&address, SHORT, &["-l", "0", "lock", "sleep 1000"])
            .start(),
        sandbox
            .lockex_at(&address, SHORT, &["-i", "queue", "sleep 1000"])
            .start(),
    ];
    holders.iter().for_each(|holder| assert!(holder.job() > 0));
    let waiters = [
        sandbox
            .flock_at(
                &address,
                SHORT,
                &["-l", "0", "-w", "inf", "-v", "lock", "echo mine"],
            )
            .start(),
        sandbox
            .lockex_at(&address, SHORT, &["-i", "queue", "-v", "echo mine"])
            .start(),
    ];
    waiters
        .iter()
        .for_each(|waiter| wait_until("it waits", || waiter.stderr().contains("waiting for")));
    server.restart_wiped();
    let began = Instant::now();
    for waiter in waiters {
        wait_until("it runs", || waiter.stdout() == "mine\n");
        assert!(
            began.elapsed() < SHORT * SECOND + 5 * SECOND,
            "{:?}",
            began.elapsed()
        );
        assert!(
            waiter
                .stderr()
                .contains("restored from an older backup or wiped"),
            "{}",
            waiter.stderr()
        );
        assert_eq!(waiter.finish().end, Ok(0));
    }
}

#[test]
fn waiters_acquire_in_fifo_order_and_leave_no_node() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let holder = holder(server, &sandbox);
    let waiters = waiters(server, &sandbox, TIMEOUT, 10);
    assert_eq!(holder.finish(), exited(0));
    all_run(waiters);
    assert_eq!(runs(&sandbox), (0..10).collect::<Vec<_>>());
    assert_nothing_left(server, &sandbox);
}

#[test]
fn a_waiter_logs_its_queue_position_and_when_it_is_next() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let holder = holder(server, &sandbox);
    let waiters = waiters(server, &sandbox, TIMEOUT, 2);
    let last = waiter(server, &sandbox, TIMEOUT, 2).words(&["-v"]).start();
    wait_until("its place", || {
        last.stderr().contains("; queue position 3 of 3\n")
    });
    for (waiter, place) in waiters
        .into_iter()
        .rev()
        .zip(["; queue position 2 of 2\n", "; queue position 1 of 1\n"])
    {
        waiter.signal(libc::SIGTERM);
        wait_until("its new place", || last.stderr().ends_with(place));
        assert_eq!(waiter.wait(), killed(libc::SIGTERM));
    }
    assert_eq!(holder.finish(), exited(0));
    assert_eq!(last.wait().end, Ok(0));
    assert_nothing_left(server, &sandbox);
}

/// What may become of the first in line while the lock is held, and whether its place goes with it
/// at once.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    TimesOut,
    IsTerminated,
    IsKilled,
    IsStopped,
}

#[test]
fn a_first_waiter_that_dies_stops_leaves_or_times_out_blocks_no_other() {
    for fate in [
        Fate::TimesOut,
        Fate::IsTerminated,
        Fate::IsKilled,
        Fate::IsStopped,
    ] {
        let server = ZooKeeper::shared();
        let sandbox = Sandbox::new();
        let holder = holder(server, &sandbox);
        let wait = if fate == Fate::TimesOut { "1" } else { "80" };
        let first = waiter(server, &sandbox, SHORT, 0)
            .words(&["-w", wait])
            .start();
        sandbox
            .client(server)
            .wait_for_children(&queue(&sandbox), 1);
        let second = waiter(server, &sandbox, TIMEOUT, 1).start();
        wait_until("the second in line", || {
            sandbox.log().contains("; queue position 2 of 2")
        });
        match fate {
            Fate::TimesOut => {}
            Fate::IsTerminated => first.signal(libc::SIGTERM),
            Fate::IsKilled => first.signal(libc::SIGKILL),
            Fate::IsStopped => first.signal(libc::SIGSTOP),
        }
        if fate == Fate::IsStopped {
            assert_eq!(holder.finish(), exited(0));
            assert_eq!(second.wait(), exited(0), "{fate:?}");
            first.signal(libc::SIGCONT);
            assert_eq!(first.wait(), exited(0), "it gets in line again");
            assert_eq!(runs(&sandbox), [1, 0]);
        } else {
            let ended = first.wait().end;
            assert_eq!(ended.is_ok(), fate == Fate::TimesOut, "{fate:?}: {ended:?}");
            assert_eq!(holder.finish(), exited(0));
            assert_eq!(second.wait(), exited(0), "{fate:?}");
            assert_eq!(runs(&sandbox), [1], "{fate:?}");
        }
        assert_nothing_left(server, &sandbox);
    }
}

#[test]
fn an_abandoned_queue_is_deleted_while_the_lock_is_held() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let holder = holder(server, &sandbox);
    let waiters: Vec<_> = (0..5)
        .map(|number| {
            waiter(server, &sandbox, TIMEOUT, number)
                .words(&["-w", "0.5"])
                .start()
        })
        .collect();
    waiters
        .into_iter()
        .for_each(|waiter| assert_eq!(waiter.wait(), exited(17)));
    assert_eq!(
        sandbox.client(server).children(&format!("/{}", sandbox.id)),
        ["lock"]
    );
    assert_eq!(holder.finish(), exited(0));
}

#[test]
fn a_name_with_a_slash_and_several_names_have_queues_too() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    client.create_if_missing(&sandbox.node("a"), b"");
    for (words, locks, queue) in [
        (&["a/lock", "true"][..], &["a/lock"][..], "a%2Flock"),
        (
            &["-n", "2", "lock", "true"],
            &["lock_0", "lock_1"],
            "lock_0%..lock_1",
        ),
    ] {
        locks.iter().for_each(|lock| {
            client
                .create_ephemeral(&sandbox.node(lock), b"host")
                .unwrap();
        });
        let waiter = sandbox
            .flock(server, &["-l", "0", "-w", "80"])
            .words(words)
            .start();
        client.wait_for_children(&sandbox.node(&format!(".queue/{queue}")), 1);
        locks
            .iter()
            .rev()
            .for_each(|lock| client.delete(&sandbox.node(lock)).unwrap());
        assert_eq!(waiter.wait().end, Ok(0), "{words:?}");
        assert_eq!(
            client.children(&format!("/{}", sandbox.id)),
            ["a"],
            "{words:?}"
        );
    }
}

#[test]
fn without_permission_to_create_enter_or_leave_a_queue_all_acquire() {
    const READ: i32 = 1;
    const READ_AND_CREATE: i32 = 5;
    const ALL: i32 = 31;
    let server = ZooKeeper::shared();
    for queues in [
        &[(".queue", READ)][..],
        &[(".queue", ALL), (".queue/lock", READ)],
        &[(".queue", ALL), (".queue/lock", READ_AND_CREATE)],
    ] {
        let sandbox = Sandbox::new();
        let mut client = sandbox.client(server);
        for &(node, perms) in queues {
            client
                .create_with_acl(&sandbox.node(node), &[may(perms, "world", "anyone")])
                .unwrap();
        }
        let holder = holder(server, &sandbox);
        let waiters: Vec<_> = (0..5)
            .map(|number| waiter(server, &sandbox, TIMEOUT, number).start())
            .collect();
        wait_until("all to wait", || {
            sandbox.log().matches("waiting for").count() == 5
        });
        assert_eq!(holder.finish(), exited(0));
        all_run(waiters);
        assert_eq!(runs(&sandbox).len(), 5, "{queues:?}");
        assert!(
            sandbox.log().contains("cannot join the queue"),
            "{queues:?}"
        );
    }
}

#[test]
fn a_server_that_sweeps_all_the_time_costs_nobody_the_turn_and_sweeps_what_a_killed_waiter_leaves()
{
    let (server, sandbox) = (
        ZooKeeper::start_with("-Dznode.container.checkIntervalMs=1"),
        Sandbox::new(),
    );
    let runs = (0..4).map(|number| {
        let (server, sandbox) = (&server, &sandbox);
        move || {
            (0..15).for_each(|_| {
                assert_eq!(waiter(server, sandbox, TIMEOUT, number).run(), exited(0));
            });
        }
    });
    std::thread::scope(|scope| runs.for_each(|run| drop(scope.spawn(run))));
    let holder = holder(&server, &sandbox);
    let waiter = waiter(&server, &sandbox, SHORT, 9).start();
    sandbox
        .client(&server)
        .wait_for_children(&queue(&sandbox), 1);
    waiter.signal(libc::SIGKILL);
    waiter.wait();
    let mut client = sandbox.client(&server);
    wait_until("the queue to be swept", || {
        client.stat(&sandbox.node(".queue")).is_none()
    });
    assert_eq!(holder.finish(), exited(0));
}

/// A holding: from when to when, in seconds, and whose.
type Holding = (f64, f64, String);

/// What the Python original does, ten times, beside as many of ours that wait.
#[test]
fn beside_scripts_of_the_original_runs_never_overlap() {
    const EACH: usize = 10;
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let holder = holder(server, &sandbox);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/python_holder.py");
    let python = |_| {
        let words = [
            script,
            &server.port.to_string(),
            &sandbox.id,
            "lock",
            "80",
            "0.01",
        ];
        Job::new(&sandbox, Path::new("python3"))
            .words(&words)
            .start()
    };
    let ours = |_| {
        let command = "sh -c 'begin=$(date +%s.%N); sleep 0.01; echo $begin $(date +%s.%N)'";
        sandbox
            .flock_at(
                &server.address(),
                TIMEOUT,
                &["-l", "0", "-w", "80", "lock", command],
            )
            .start()
    };
    let (pythons, ours): (Vec<_>, Vec<_>) = (0..EACH)
        .map(|number| (python(number), ours(number)))
        .unzip();
    pythons
        .iter()
        .for_each(|python| python.wait_for_output("busy"));
    sandbox
        .client(server)
        .wait_for_children(&queue(&sandbox), EACH);
    let began = Instant::now();
    assert_eq!(holder.finish(), exited(0));
    let mut holdings: Vec<Holding> = Vec::new();
    for (kind, runs) in [("ours", ours), ("Python's", pythons)] {
        for run in runs {
            let outcome = run.wait();
            assert_eq!(outcome.end, Ok(0), "{kind}: {outcome:?}");
            let times = |line: &str| {
                line.split(' ')
                    .filter_map(|word| word.parse().ok())
                    .collect::<Vec<f64>>()
            };
            let held: Vec<_> = outcome
                .stdout
                .lines()
                .filter(|line| !line.starts_with("busy") && !line.starts_with("deleted"))
                .collect();
            let times = times(&held.join(" "));
            assert_eq!(times.len(), 2, "{kind}: {outcome:?}");
            holdings.push((times[0], times[1], kind.into()));
        }
    }
    holdings.sort_by(|one, other| one.0.total_cmp(&other.0));
    assert!(
        holdings.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "two at once: {holdings:#?}"
    );
    let last = holdings
        .iter()
        .rposition(|(_, _, whose)| whose == "Python's")
        .map_or(0, |place| place + 1);
    let time = began.elapsed().as_secs_f64();
    report(
        "ten waiters beside ten of the original",
        format!("all ran in {time:.2} s, the last of the original as number {last} of 20"),
    );
    assert_nothing_left(server, &sandbox);
}

/// What a crowd on one lock comes to, whose holder is let go when all of it waits.
struct Crowd {
    /// Until all have run.
    time: Duration,
    /// For each hand-over, in both directions.
    packets: f64,
    /// Share of hand-overs that went to whoever waited longest.
    in_order: f64,
}

fn crowd(server: &ZooKeeper, size: usize) -> Crowd {
    let sandbox = Sandbox::new();
    let holder = holder(server, &sandbox);
    let start = |number| {
        let waiter = waiter(server, &sandbox, TIMEOUT * 2, number).start();
        wait_until("it to watch something", || server.watches() == number + 2); // and the holder its node
        waiter
    };
    let waiters: Vec<_> = (0..size).map(start).collect();
    let (before, began) = (server.packets(), Instant::now());
    assert_eq!(holder.finish(), exited(0));
    all_run(waiters);
    let time = began.elapsed();
    let packets = server.packets() - before;
    let mut waiting: Vec<usize> = (0..size).collect();
    let mut in_order = 0;
    for run in runs(&sandbox) {
        in_order += usize::from(waiting[0] == run);
        waiting.retain(|waiter| *waiter != run);
    }
    let [packets, in_order, size] = [packets, in_order, size]
        .map(|count| f64::from(u32::try_from(count).expect("it is a test")));
    Crowd {
        time,
        packets: packets / size,
        in_order: in_order / size,
    }
}

/// `CROWDS=10,100,500` by hand: the crowds are this large.
#[test]
fn a_hand_over_costs_the_same_with_any_number_of_waiters_and_is_fifo() {
    /// The holder's node goes: an event for it and for its heir. The heir makes its own and looks
    /// at it; the one behind hears of that, looks who is first, and at the lock; the heir puts
    /// the queue away if it can, and ends its session in the end.
    const PACKETS: f64 = 2.0 + 4.0 + 1.0 + 4.0 + 2.0 + 2.0;
    let server = ZooKeeper::start(); // of its own: nobody else's packets
    // The first and the last hand-over cost more: fewer than ten waiters do not average that out.
    let sizes = std::env::var("CROWDS").unwrap_or_else(|_| "10,40".into());
    let sizes = sizes
        .split(',')
        .map(|size| size.parse().expect("CROWDS are numbers"));
    for size in sizes {
        let Crowd {
            time,
            packets,
            in_order,
        } = crowd(&server, size);
        let (time, share) = (time.as_secs_f64(), in_order * 100.0);
        report(
            &format!("{size} wait for a zk-flock"),
            format!(
                "{time:.2} s in all, {packets:.1} packets for each hand-over, {share:.0} % of them in order"
            ),
        );
        assert!(
            (packets - PACKETS).abs() <= PACKETS * 0.2,
            "{size}: {packets}"
        );
        assert!(in_order >= 1.0, "{size}: {in_order}");
    }
}

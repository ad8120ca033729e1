//! Real kazoo and we on one lock, in both modes and both directions: the newest kazoo, and 2.2.1,
//! which the original lockex asks for.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::client::Client;
use common::kazoo::Kazoo;
use common::run::{Job, Running, exited};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use common::{SECOND, wait_until};
use std::time::Instant;

/// Who contends: us, and each kazoo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Lockex,
    Newest,
    Pinned,
}

use Kind::{Lockex, Newest, Pinned};

const KAZOOS: [Kind; 2] = [Newest, Pinned];

/// A lock that so many may hold.
struct Arena {
    sandbox: Sandbox,
    permits: usize,
    /// Of everybody's session, in seconds.
    timeout: u32,
}

impl Arena {
    /// Both versions of kazoo are installed first: that can take longer than the session of a
    /// client that is opened before.
    fn new(permits: usize) -> Arena {
        Kazoo::newest();
        Kazoo::pinned();
        Arena {
            sandbox: Sandbox::new(),
            permits,
            timeout: 15,
        }
    }

    /// The lock's node.
    fn node(&self) -> String {
        self.sandbox.node("lock")
    }

    /// The node that whoever waits has a contender below.
    fn queue(&self) -> String {
        if self.permits == 1 {
            self.node()
        } else {
            format!("{}-__lock__", self.node())
        }
    }

    fn client(&self) -> Client {
        self.sandbox.client(ZooKeeper::shared())
    }

    /// Somebody about to run a command of the shell under the lock.
    fn job(&self, kind: Kind, command: &str) -> Job<'_> {
        match kind {
            Lockex => self.lockex(&["--", command]),
            _ => self.kazoo(kind, &["run", command]),
        }
    }

    fn lockex(&self, words: &[&str]) -> Job<'_> {
        let permits = self.permits.to_string();
        self.sandbox
            .lockex_at(
                &ZooKeeper::shared().address(),
                self.timeout,
                &["-i", "lock", "-c", &permits],
            )
            .words(words)
    }

    /// A kazoo about to do something with the lock.
    fn kazoo(&self, kind: Kind, verb: &[&str]) -> Job<'_> {
        let kazoo = if kind == Newest {
            Kazoo::newest()
        } else {
            Kazoo::pinned()
        };
        let recipe = if self.permits == 1 {
            "Lock".into()
        } else {
            self.permits.to_string()
        };
        kazoo
            .lock(
                &self.sandbox,
                ZooKeeper::shared(),
                &self.node(),
                &recipe,
                verb,
            )
            .env("TIMEOUT", &self.timeout.to_string())
    }

    /// The same as one that holds the lock now, until it is let go.
    #[track_caller]
    fn holder(&self, kind: Kind) -> Running<'_> {
        let holder = self.job(kind, "echo held; cat").leashed().start();
        holder.wait_for_output("held");
        holder
    }

    /// Kazoo's word for whoever is there.
    fn seen_by(&self, kind: Kind) -> Vec<String> {
        let outcome = self.kazoo(kind, &["who"]).run();
        assert_eq!(outcome.end, Ok(0), "{}", outcome.stderr);
        outcome.stdout.lines().map(str::to_owned).collect()
    }

    /// Asserts that nobody is left, whoever it was.
    #[track_caller]
    fn assert_empty(&self) {
        let mut client = self.client();
        client.wait_for_children(&self.node(), 0);
        client.wait_for_children(&self.queue(), 0);
    }
}

/// Each holds until it is let go, so that it is known who must be next.
#[track_caller]
fn assert_served_in_turn(permits: usize) {
    let arena = Arena::new(permits);
    let mut client = arena.client();
    let kinds = [
        Lockex, Newest, Pinned, Pinned, Lockex, Lockex, Newest, Newest, Lockex, Pinned, Newest,
    ];
    let running = |number: usize| arena.sandbox.read("runs").lines().count() > number;
    let mut crowd = Vec::new();
    for (number, kind) in kinds.into_iter().enumerate() {
        crowd.push(
            arena
                .job(kind, &format!("echo {number} >>runs; cat"))
                .leashed()
                .start(),
        );
        if number < permits {
            wait_until("the next to hold", || running(number));
        } else {
            client.wait_for_children(
                &arena.queue(),
                number + 1 - permits + usize::from(permits == 1),
            ); // the holder stands there too
        }
    }
    for (number, run) in crowd.into_iter().enumerate() {
        if number + permits < kinds.len() {
            assert!(!running(number + permits), "more than {permits}");
        }
        assert_eq!(run.finish().end, Ok(0));
        if number + permits < kinds.len() {
            wait_until("the next to hold", || running(number + permits));
        }
    }
    let expected: Vec<String> = (0..kinds.len()).map(|number| number.to_string()).collect();
    assert_eq!(
        arena.sandbox.read("runs").lines().collect::<Vec<_>>(),
        expected
    );
    arena.assert_empty();
}

/// All at once, and each as fast as it can.
#[track_caller]
fn assert_never_too_many(permits: usize) {
    let arena = Arena::new(permits);
    let command = "echo + >>runs; sleep 0.1; echo - >>runs";
    let crowd: Vec<_> = [Lockex, Newest, Pinned]
        .repeat(4)
        .into_iter()
        .map(|kind| arena.job(kind, command).start())
        .collect();
    let number = crowd.len();
    for run in crowd {
        assert_eq!(run.wait(), exited(0));
    }
    let runs = arena.sandbox.read("runs");
    let held = runs.lines().scan(0_usize, |now, line| {
        *now = if line == "+" { *now + 1 } else { *now - 1 };
        Some(*now)
    });
    assert_eq!(
        (runs.lines().count(), held.max()),
        (2 * number, Some(permits)),
        "{runs}"
    );
    arena.assert_empty();
}

#[test]
fn lockex_and_kazoo_acquire_a_lock_in_fifo_order() {
    assert_served_in_turn(1);
}

#[test]
fn lockex_and_kazoo_acquire_a_semaphore_in_fifo_order() {
    assert_served_in_turn(3);
}

#[test]
fn lockex_and_kazoo_never_hold_a_lock_together() {
    assert_never_too_many(1);
}

#[test]
fn lockex_and_kazoo_never_hold_more_leases_than_a_semaphore_has() {
    assert_never_too_many(3);
}

#[test]
fn kazoo_shows_contenders_of_lockex_by_host_and_pid() {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .expect("Linux")
        .trim_end()
        .to_owned();
    for permits in [1, 3] {
        let arena = Arena::new(permits);
        let held = [arena.holder(Lockex)];
        let waiter = (permits == 1).then(|| arena.job(Lockex, "true").start());
        if permits == 1 {
            arena.client().wait_for_children(&arena.queue(), 2);
        }
        let expected: Vec<String> = held
            .iter()
            .chain(&waiter)
            .map(|run| format!("{host}:{}", run.pid()))
            .collect();
        for kazoo in KAZOOS {
            assert_eq!(arena.seen_by(kazoo), expected, "{kazoo:?}, {permits}");
        }
        held.into_iter()
            .for_each(|run| assert_eq!(run.finish().end, Ok(0)));
        waiter
            .into_iter()
            .for_each(|run| assert_eq!(run.wait().end, Ok(0)));
    }
}

#[test]
fn a_non_blocking_attempt_fails_while_the_other_program_holds() {
    for kazoo in KAZOOS {
        for permits in [1, 2] {
            let arena = Arena::new(permits);
            let ours: Vec<_> = (0..permits).map(|_| arena.holder(Lockex)).collect();
            let tried = arena.kazoo(kazoo, &["try"]).run();
            assert_eq!(
                (tried.end, tried.stdout.as_str()),
                (Ok(0), "False\n"),
                "{kazoo:?}, {permits}: {}",
                tried.stderr
            );
            ours.into_iter()
                .for_each(|run| assert_eq!(run.finish().end, Ok(0)));
            let theirs: Vec<_> = (0..permits).map(|_| arena.holder(kazoo)).collect();
            assert_eq!(
                arena.lockex(&["--no-blocking", "touch ran"]).run(),
                exited(0),
                "{kazoo:?}, {permits}"
            );
            assert_eq!(
                arena.lockex(&["-t", "0.3", "touch ran"]).run(),
                exited(1),
                "{kazoo:?}, {permits}"
            );
            assert!(!arena.sandbox.path("ran").exists());
            theirs
                .into_iter()
                .for_each(|run| assert_eq!(run.finish().end, Ok(0)));
            arena.assert_empty();
        }
    }
}

#[test]
fn lockex_and_kazoo_readers_and_writers_exclude_each_other() {
    let arena = Arena::new(1);
    let mut client = arena.client();
    let kazoo = |recipe: &str| {
        let verb = ["run", &format!("echo {recipe} >>runs; cat")];
        Kazoo::newest()
            .lock(
                &arena.sandbox,
                ZooKeeper::shared(),
                &arena.node(),
                recipe,
                &verb,
            )
            .leashed()
            .start()
    };
    let ours = || arena.job(Lockex, "echo ours >>runs; cat").leashed().start();
    for theirs in ["ReadLock", "WriteLock"] {
        let runs = || arena.sandbox.read("runs");
        let mut queue = Vec::new();
        for number in 0..3 {
            queue.push(if number == 1 { kazoo(theirs) } else { ours() });
            client.wait_for_children(&arena.node(), number + 1);
        }
        for (turn, run) in queue.into_iter().enumerate() {
            wait_until("the next to hold", || runs().lines().count() > turn);
            assert_eq!(runs().lines().count(), turn + 1, "{theirs}: {}", runs());
            assert_eq!(run.finish().end, Ok(0));
        }
        assert_eq!(runs(), format!("ours\n{theirs}\nours\n"));
        std::fs::remove_file(arena.sandbox.path("runs")).expect("it was read");
    }
}

#[test]
fn lockex_waits_for_all_kazoo_readers() {
    let arena = Arena::new(1);
    let mut client = arena.client();
    let reader = || {
        Kazoo::newest().lock(
            &arena.sandbox,
            ZooKeeper::shared(),
            &arena.node(),
            "ReadLock",
            &["run", "echo held; cat"],
        )
    };
    let readers = [reader().leashed().start(), reader().leashed().start()];
    readers.iter().for_each(|run| run.wait_for_output("held"));
    let mut ours = arena.job(Lockex, "true").start();
    client.wait_for_children(&arena.node(), 3);
    let [first, last] = readers;
    assert_eq!(first.finish().end, Ok(0));
    client.wait_for_children(&arena.node(), 2);
    assert!(!ours.has_ended());
    assert_eq!(last.finish().end, Ok(0));
    assert_eq!(ours.wait(), exited(0));
}

/// What a client of the queue below is: a reader of lockex, or a client that its letter names.
fn contender(arena: &Arena, kind: char, number: usize) -> Running<'_> {
    let command = format!("echo {number} >>runs; cat");
    let recipe = |kazoo: &Kazoo, recipe: &str| {
        kazoo.lock(
            &arena.sandbox,
            ZooKeeper::shared(),
            &arena.node(),
            recipe,
            &["run", &command],
        )
    };
    let job = match kind {
        'r' => arena.lockex(&["--shared", "--", &command]),
        'w' => arena.lockex(&["--", &command]),
        'o' => recipe(Kazoo::pinned(), "Lock"), // the original lockex
        'L' => recipe(Kazoo::newest(), "Lock"),
        'W' => recipe(Kazoo::newest(), "WriteLock"),
        _ => recipe(Kazoo::newest(), "ReadLock"),
    };
    job.leashed().start()
}

/// Clients of these kinds queue in this order. Then the clients of each group hold the lock together,
/// and no other client does.
#[track_caller]
fn assert_groups(kinds: &str, groups: &[&[usize]]) {
    let arena = Arena::new(1);
    let mut client = arena.client();
    let mut runs = Vec::new();
    for (number, kind) in kinds.chars().enumerate() {
        runs.push(Some(contender(&arena, kind, number)));
        client.wait_for_children(&arena.node(), number + 1);
    }
    let mut started = 0;
    for group in groups {
        started += group.len();
        let lines = || arena.sandbox.read("runs").lines().count();
        wait_until("the group to hold", || lines() >= started);
        let text = arena.sandbox.read("runs");
        let mut found: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
        let mut last = found.split_off(started - group.len());
        last.sort_unstable();
        assert_eq!(last, *group, "{kinds}: {text}");
        for number in *group {
            let run = runs[*number].take().expect("each is in one group");
            assert_eq!(lines(), started, "{kinds}: no other client holds the lock");
            assert_eq!(run.finish().end, Ok(0), "{kinds}: {number}");
        }
    }
    arena.assert_empty();
}

#[test]
fn readers_of_lockex_hold_together_and_every_client_of_kazoo_waits_for_them() {
    // A reader of kazoo waits for earlier readers of lockex. A reader of lockex does not wait for
    // earlier readers of kazoo.
    assert_groups("rroRrW", &[&[0, 1], &[2], &[3, 4], &[5]]);
}

#[test]
fn a_semaphore_of_another_number_is_refused_on_either_side() {
    let (three, two) = (Arena::new(3), Arena::new(2));
    let ours = |arena: &Arena| {
        arena
            .sandbox
            .lockex(ZooKeeper::shared(), &["-i", "lock", "-c", "2", "touch ran"])
            .run()
    };
    for kazoo in KAZOOS {
        assert_eq!(three.kazoo(kazoo, &["run", "true"]).run().end, Ok(0));
        let outcome = ours(&three);
        assert_eq!(outcome.end, Ok(1));
        outcome.complaint_of("lockex", &[&three.node(), "semaphore of 3, not of 2"]);
        assert!(!three.sandbox.path("ran").exists());
    }
    assert_eq!(ours(&two), exited(0));
    let outcome = Kazoo::newest()
        .lock(
            &two.sandbox,
            ZooKeeper::shared(),
            &two.node(),
            "3",
            &["run", "true"],
        )
        .run();
    assert!(
        outcome.end != Ok(0)
            && outcome
                .stderr
                .contains("Inconsistent max leases: 2, expected: 3"),
        "{outcome:?}"
    );
}

#[test]
fn after_a_kill_the_other_program_acquires_when_the_session_expires() {
    for (dies, next) in [
        (Newest, Lockex),
        (Pinned, Lockex),
        (Lockex, Newest),
        (Lockex, Pinned),
    ] {
        for permits in [1, 2] {
            let arena = Arena {
                timeout: 6,
                ..Arena::new(permits)
            };
            let mut crowd: Vec<_> = (0..permits).map(|_| arena.holder(dies)).collect();
            let heir = arena.job(next, "true").start();
            arena
                .client()
                .wait_for_children(&arena.queue(), if permits == 1 { 2 } else { 1 });
            let (victim, killed) = (crowd.swap_remove(0), Instant::now());
            victim.signal(libc::SIGKILL);
            assert_eq!(heir.wait().end, Ok(0), "{dies:?} then {next:?}, {permits}");
            assert!(
                killed.elapsed() > 3 * SECOND,
                "its session of 6 s lives on, and kazoo says something in it every 2 s"
            );
            crowd
                .into_iter()
                .for_each(|run| assert_eq!(run.finish().end, Ok(0)));
        }
    }
}

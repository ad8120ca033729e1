//! One server that is away, hangs or is gone; processes that are stopped or killed; connections
//! that break at every byte. A job lives on while its lock is safe, its tree is dead before the
//! lock can be anybody else's, and nobody stands in their own way. `TRIES=1000` tries each so
//! often.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::client::frame;
use common::probe_job::{self, FOREVER, Probe, SHORT};
use common::proxy::{From, Passage, Proxy};
use common::run::{Job, Running, exited};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use common::{SECOND, let_last, process, report, summary, tries, wait_until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};
use zk_flock::internals::sys::clock;
use zk_flock::internals::zookeeper::code::operation;
use zk_flock::internals::zookeeper::record::{ConnectRequest, ConnectResponse, RequestHeader};
use zk_flock::internals::zookeeper::wire::Wire;

/// A session timeout, in seconds.
const TIMEOUT: u32 = 5;

/// What a job under it must live through: 0.45 T less the way to a server.
const SURVIVED: Duration = Duration::from_millis(1800);

/// A session timeout of what is to end, in seconds.
const SHORT_TIMEOUT: u32 = 3;

#[test]
fn a_job_lives_on_while_its_server_is_away_for_1_8_seconds() {
    let _alone = crate::alone();
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let proxy = Proxy::start(server.address());
    let run = sandbox
        .flock_at(&proxy.address, TIMEOUT, &["-l", "0", "lock", "cat"])
        .leashed()
        .start();
    run.job();
    for away in 1..=tries(2) {
        proxy.set_away(true);
        let_last(SURVIVED);
        proxy.set_away(false);
        wait_until("the lock to be resumed", || {
            sandbox.log().matches("resumed /").count() == away
        });
        assert_eq!(sandbox.log().matches("suspended /").count(), away);
        let_last(SECOND); // until belief is in step again
    }
    assert_eq!(run.finish(), exited(0));
    assert_eq!(
        sandbox.log().matches(" started, timeout").count(),
        1,
        "one session"
    );
}

#[test]
fn a_job_lives_on_while_its_server_hangs_for_1_8_seconds() {
    let _alone = crate::alone();
    let (server, sandbox) = (ZooKeeper::start(), Sandbox::new());
    let mut run = sandbox
        .flock_at(&server.address(), TIMEOUT, &["-l", "0", "lock", "cat"])
        .leashed()
        .start();
    run.job();
    for _ in 0..tries(2) {
        server.freeze();
        let_last(SURVIVED);
        server.thaw();
        let_last(SECOND); // until belief is in step again
        assert!(!run.has_ended());
    }
    assert_eq!(run.finish(), exited(0));
    assert_eq!(
        sandbox.log().matches(" started, timeout").count(),
        1,
        "one session"
    );
}

#[test]
fn when_its_server_is_gone_the_tree_is_dead_before_the_session_could_be() {
    let _alone = crate::alone();
    let (mut server, sandbox) = (ZooKeeper::start(), Sandbox::new());
    let probe = Probe::of(&sandbox);
    let run = probe
        .job(
            sandbox.flock(
                &server,
                &["--timeout", "3", "--sysexits", "-l", "0", "lock"],
            ),
            FOREVER,
        )
        .start();
    probe.wait_for(1);
    let last_proof = clock::since_boot(); // or before
    server.kill();
    assert_lost(run, 79, "no answer from");
    let survived = probe.all()[0].dead.saturating_sub(last_proof);
    assert!(survived < SECOND * SHORT_TIMEOUT, "{survived:?}");
}

#[test]
fn a_job_whose_lock_is_deleted_is_killed_at_once() {
    let _alone = crate::alone();
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let probe = Probe::of(&sandbox);
    let run = probe
        .job(sandbox.flock(server, &["-l", "600", "lock"]), FOREVER)
        .start();
    probe.wait_for(1);
    let deleted = clock::since_boot();
    sandbox
        .client(server)
        .delete(&sandbox.node("lock"))
        .expect("it is there");
    assert_lost(run, 1, "the node was deleted");
    let survived = probe.all()[0].dead.saturating_sub(deleted);
    assert!(survived < SECOND, "{survived:?}");
    report("lock deleted: tree dead after", format!("{survived:.1?}"));
}

#[test]
fn a_job_whose_session_is_ended_is_killed_at_once() {
    let _alone = crate::alone();
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let (probe, proxy) = (Probe::of(&sandbox), Proxy::start(server.address()));
    let run = probe
        .job(
            sandbox.flock_at(&proxy.address, TIMEOUT, &["-l", "600", "lock"]),
            FOREVER,
        )
        .start();
    probe.wait_for(1);
    let ended = clock::since_boot();
    end_session_of(&proxy, &server.address());
    assert_lost(run, 1, "");
    let survived = probe.all()[0].dead.saturating_sub(ended);
    assert!(survived < SECOND, "{survived:?}");
    report(
        "session ended by hand: tree dead after",
        format!("{survived:.1?}"),
    );
}

#[test]
fn while_zk_flock_is_stopped_its_tree_is_dead_before_the_lock_is_anybody_elses() {
    let _alone = crate::alone();
    usurped("zk-flock stopped", |run| run.signal(libc::SIGSTOP));
}

#[test]
fn a_job_is_not_begun_when_the_lease_is_over_before_its_guard_is_there() {
    let _alone = crate::alone();
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let zk_flock = sandbox
        .flock_at(
            &server.address(),
            SHORT_TIMEOUT,
            &["-l", "0", "lock", "true"],
        )
        .line();
    let slow = format!(
        "strace -o /dev/null -e inject=clone,clone3,fork,vfork:delay_enter=4000000:when=1 {zk_flock}"
    );
    assert_lost(
        Job::new(&sandbox, Path::new("sh"))
            .words(&["-c", &slow])
            .start(),
        1,
        "",
    );
    assert!(
        !sandbox.log().contains("Start subprocess"),
        "{}",
        sandbox.log()
    );
}

#[test]
fn when_zk_flock_is_killed_its_tree_is_dead_before_the_lock_is_anybody_elses() {
    let _alone = crate::alone();
    usurped("zk-flock killed", |run| run.signal(libc::SIGKILL));
}

#[test]
fn when_the_guard_is_killed_the_tree_is_dead_before_the_lock_is_anybody_elses() {
    let _alone = crate::alone();
    usurped("guard killed", |run| {
        assert!(process::kill(run.guard(), libc::SIGKILL));
    });
}

#[test]
fn a_stopped_guard_keeps_the_lock_and_is_done_for_when_the_lock_is_lost() {
    let _alone = crate::alone();
    let (mut server, sandbox) = (ZooKeeper::start(), Sandbox::new());
    let probe = Probe::of(&sandbox);
    let run = probe
        .job(
            sandbox.flock_at(&server.address(), SHORT_TIMEOUT, &["-l", "0", "lock"]),
            FOREVER,
        )
        .start();
    probe.wait_for(1);
    assert!(process::kill(run.guard(), libc::SIGSTOP));
    let_last(3 * SECOND * SHORT_TIMEOUT);
    let last_proof = clock::since_boot(); // or before
    assert!(probe.all()[0].dead + SECOND > last_proof, "the job lives");
    server.kill();
    assert_lost(run, 1, "no answer from");
    let survived = probe.all()[0].dead.saturating_sub(last_proof);
    assert!(survived < SECOND * SHORT_TIMEOUT, "{survived:?}");
}

#[test]
fn nothing_guards_the_lease_while_both_are_stopped_but_the_tree_dies_when_either_goes_on() {
    let _alone = crate::alone();
    for continued in [
        |run: &Running, _: i32| run.signal(libc::SIGCONT),
        |_: &Running, guard| assert!(process::kill(guard, libc::SIGCONT)),
    ] {
        let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
        let probe = Probe::of(&sandbox);
        let run = probe
            .job(
                sandbox.flock_at(&server.address(), SHORT_TIMEOUT, &["-l", "0", "lock"]),
                FOREVER,
            )
            .start();
        probe.wait_for(1);
        let guard = run.guard();
        run.signal(libc::SIGSTOP);
        assert!(process::kill(guard, libc::SIGSTOP));
        sandbox
            .client(server)
            .wait_until_gone(&sandbox.node("lock"));
        let_last(SECOND);
        let woken = clock::since_boot();
        assert!(
            probe.all()[0].dead + SECOND > woken,
            "the job lives on: this is the documented gap"
        );
        continued(&run, guard);
        let deadline = woken + SECOND;
        wait_until("the tree to be dead", || clock::since_boot() > deadline);
        assert!(probe.all()[0].dead < deadline, "the tree lives on");
        process::kill(guard, libc::SIGCONT);
        run.signal(libc::SIGCONT);
        assert_lost(run, 1, "");
    }
}

#[test]
fn a_connection_that_breaks_anywhere_never_makes_a_run_busy_with_itself() {
    let _alone = crate::alone();
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let proxy = Proxy::start(server.address());
    let mut times = Vec::new();
    for number in 0..tries(40) {
        let side = if number % 2 == 0 {
            From::Server
        } else {
            From::Client
        };
        proxy.set(side, Passage::Cut(number * 7 % LONGEST_TALK));
        times.push(passes(
            &sandbox,
            &proxy.address,
            &["-x", "75", &format!("cut-{number}")],
        ));
        proxy.set_both(Passage::Pass);
    }
    assert_orphans_are_gone(server, &sandbox);
    report(
        &format!(
            "{} cuts, {} in time to matter, timeout {TRIED_TIMEOUT} s: a run took",
            times.len(),
            proxy.cuts()
        ),
        summary(times),
    );
}

#[test]
fn a_first_write_that_is_given_up_and_arrives_late_never_makes_a_run_busy_with_itself() {
    let _alone = crate::alone();
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut times = Vec::new();
    for number in 0..tries(6) {
        let proxy = Proxy::start(server.address());
        let held_back = if number % 2 == 0 {
            From::Server
        } else {
            From::Client
        };
        proxy.set(held_back, Passage::Hold);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                wait_until("a second connection", || proxy.connections() > 1);
                proxy.set(held_back, Passage::Pass);
            });
            times.push(passes(
                &sandbox,
                &proxy.address,
                &["-w", "10", &format!("held-{number}")],
            ));
        });
    }
    assert_orphans_are_gone(server, &sandbox);
    report(
        &format!(
            "{} first writes given up, timeout {TRIED_TIMEOUT} s: a run took",
            times.len()
        ),
        summary(times),
    );
}

/// A session timeout that is often waited for, in seconds.
const TRIED_TIMEOUT: u32 = 2;

/// More bytes than either side says in a short run.
const LONGEST_TALK: usize = 420;

/// Runs a job on whatever is at `address`, under a session of [`TRIED_TIMEOUT`]. Asserts that it
/// ran, and never took itself for another; says how long that took, which is as long as anything of
/// ours stood in the way.
#[track_caller]
fn passes(sandbox: &Sandbox, address: &str, words: &[&str]) -> Duration {
    let began = Instant::now();
    let outcome = sandbox
        .flock_at(address, TRIED_TIMEOUT, &["-l", "0"])
        .words(words)
        .words(&["echo ran"])
        .run();
    assert_eq!(
        outcome,
        exited(0).printing("ran\n"),
        "{words:?}: {}",
        sandbox.log()
    );
    let log = sandbox.log();
    let waits_for_itself = |line: &str| {
        line.contains("waiting for /") && !line.contains("(left by an earlier attempt of this run)")
    };
    assert!(!log.lines().any(waits_for_itself), "{log}");
    began.elapsed()
}

/// Nothing that a run has left behind outlives its session.
#[track_caller]
fn assert_orphans_are_gone(server: &ZooKeeper, sandbox: &Sandbox) {
    let_last(SECOND * (TRIED_TIMEOUT + 1));
    assert_eq!(
        sandbox.client(server).children(&format!("/{}", sandbox.id)),
        [""; 0]
    );
}

/// Something happens to a holder, and a waiter gets the lock. Asserts that the tree of the holder
/// was dead by then.
#[track_caller]
fn usurped(fault: &str, happens: impl Fn(&Running)) {
    let leads = (0..tries(1)).map(|_| {
        let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
        let probe = Probe::of(&sandbox);
        let holder = probe
            .job(
                sandbox.flock_at(&server.address(), SHORT_TIMEOUT, &["-l", "0", "lock"]),
                FOREVER,
            )
            .start();
        probe.wait_for(1);
        let waiter = probe
            .job(
                sandbox.flock(server, &["-l", "0", "-w", "60", "lock"]),
                SHORT,
            )
            .start();
        wait_until("the waiter to wait", || {
            sandbox.log().contains("waiting for")
        });
        happens(&holder);
        assert_eq!(waiter.wait().end, Ok(0));
        process::kill(holder.pid(), libc::SIGCONT);
        holder.wait();
        probe_job::lead(&probe.wait_for(2))
    });
    probe_job::assert_no_overlap(
        &format!("{fault}, timeout {SHORT_TIMEOUT} s"),
        leads.collect(),
    );
}

/// Waits for the end of a run whose lock was taken from it.
#[track_caller]
fn assert_lost(run: Running, code: i32, why: &str) {
    let outcome = run.wait();
    assert_eq!(outcome.end, Ok(code), "{}", outcome.stderr);
    outcome.complaint(&["lost /", why, "killed"]);
}

/// Ends a session through its own server: what it calls itself was said over the proxy.
fn end_session_of(proxy: &Proxy, server: &str) {
    let (_, greeting) = proxy
        .chunks()
        .into_iter()
        .find(|(from, _)| *from == From::Server)
        .expect("the server has answered");
    let session = ConnectResponse::read(&mut &greeting[4..], "greeting")
        .expect("a real server speaks the protocol");
    let connect = ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: 0,
        time_out: session.time_out,
        session_id: session.session_id,
        passwd: session.passwd,
        read_only: false,
    };
    let mut stream = TcpStream::connect(server).expect("the server accepts");
    let close = RequestHeader {
        xid: 1,
        kind: operation::CLOSE_SESSION,
    };
    stream
        .write_all(&[frame(&connect), frame(&close)].concat())
        .expect("the server reads");
    stream
        .read_to_end(&mut Vec::new())
        .expect("the server hangs up");
}

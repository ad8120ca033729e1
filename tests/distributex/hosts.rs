//! Hosts that share a pool of our own server, by their names all on this one: each has its turn,
//! and no two have it at once, whatever is killed, stopped or restarted.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::distributexd::Distributexd;
use common::probe_job::{self, FOREVER, Probe};
use common::run::{Job, Outcome, Running, exited};
use common::sandbox::Sandbox;
use common::{SECOND, let_last, process, report, summary, wait_for, wait_until};
use std::time::Instant;

/// A pool of this name that lends its places for so many seconds; one place, or as many as `more`
/// says.
fn pool(sandbox: &Sandbox, expire: u32, more: &str) -> String {
    format!(
        "pools:\n  - name: {}\n    expire: {expire}\n{more}",
        sandbox.id
    )
}

/// The same, of a server that remembers.
fn kept_pool(sandbox: &Sandbox, expire: u32) -> String {
    format!(
        "state: {}\n{}",
        sandbox.path("state").display(),
        pool(sandbox, expire, "")
    )
}

/// distributex of a host of this name.
fn host<'a>(sandbox: &'a Sandbox, server: &Distributexd, name: &str, words: &[&str]) -> Job<'a> {
    sandbox
        .distributex(server.port, &["--no-local-lock", "--as", name])
        .words(words)
}

/// One that runs until it is let go.
#[track_caller]
fn holder<'a>(sandbox: &'a Sandbox, server: &Distributexd, name: &str) -> Running<'a> {
    let holder = host(sandbox, server, name, &["-v", "echo ready; cat"])
        .leashed()
        .start();
    holder.wait_for_output("ready");
    holder
}

/// One that waits, as far as the server knows.
#[track_caller]
fn waiter<'a>(
    sandbox: &'a Sandbox,
    server: &Distributexd,
    name: &str,
    words: &[&str],
) -> Running<'a> {
    let waiter = host(sandbox, server, name, words).start();
    wait_until("it to wait", || waits(server, name));
    waiter
}

fn waits(server: &Distributexd, name: &str) -> bool {
    let status = server.ask("/status/");
    status
        .split_once("\"waiters\"")
        .is_some_and(|(_, waiters)| waiters.contains(&format!("\"{name}\"")))
}

#[track_caller]
fn runs(running: Running, stdout: &str) {
    let outcome = running.wait();
    assert_eq!(
        Outcome {
            stderr: String::new(),
            ..outcome.clone()
        },
        exited(0).printing(stdout),
        "{}",
        outcome.stderr
    );
}

#[test]
fn hosts_have_their_turns_in_the_order_in_which_they_came() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, &pool(&sandbox, 300, ""));
    let first = holder(&sandbox, &server, "web0");
    let names: Vec<String> = (1..=10).map(|number| format!("web{number}")).collect();
    let line =
        |name: &String| format!("echo start {name} >>runs; sleep 0.02; echo end {name} >>runs");
    let waiters: Vec<_> = names
        .iter()
        .map(|name| waiter(&sandbox, &server, name, &[&line(name)]))
        .collect();
    runs_on(first, "ready\n");
    waiters.into_iter().for_each(|waiter| runs(waiter, ""));
    assert_eq!(
        sandbox.read("runs"),
        names
            .iter()
            .map(|name| format!("start {name}\nend {name}\n"))
            .collect::<String>()
    );
}

/// Lets it go.
#[track_caller]
fn runs_on(mut running: Running, stdout: &str) {
    running.let_go();
    runs(running, stdout);
}

#[test]
fn a_pool_of_three_places_has_three_hosts_at_once() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, &pool(&sandbox, 300, "    maxlocks: 3\n"));
    let mut holders: Vec<_> = ["a", "b", "c"]
        .map(|name| holder(&sandbox, &server, name))
        .into();
    assert_eq!(
        host(&sandbox, &server, "d", &["-w0", "-x17", "touch ran"]).run(),
        exited(17)
    );
    let waiters =
        ["d", "e"].map(|name| waiter(&sandbox, &server, name, &[&format!("echo {name}")]));
    runs_on(holders.remove(1), "ready\n");
    for (waiter, line) in waiters.into_iter().zip(["d\n", "e\n"]) {
        runs(waiter, line);
    }
    holders
        .into_iter()
        .for_each(|holder| runs_on(holder, "ready\n"));
}

/// As a unit of systemd does it, or a power cut.
#[test]
fn a_server_that_is_restarted_with_its_state_takes_nothing_from_a_job_and_gives_nothing_to_the_next()
 {
    let sandbox = Sandbox::new();
    let mut server = Distributexd::start(&sandbox, &kept_pool(&sandbox, 6));
    let holder = holder(&sandbox, &server, "web1");
    let mut next = host(&sandbox, &server, "web2", &["echo mine"]).start();
    wait_until("the next to wait", || waits(&server, "web2"));
    server.kill();
    wait_until("the holder to notice", || {
        holder.stderr().contains("suspended ")
    });
    server.start_again();
    wait_until("the lock to be its own again", || {
        holder.stderr().contains("resumed ") && waits(&server, "web2")
    });
    assert!(!next.has_ended() && next.stdout().is_empty());
    let outcome = holder.finish();
    assert_eq!((outcome.end, outcome.stdout.as_str()), (Ok(0), "ready\n"));
    assert!(
        !outcome.stderr.contains("WARNING") && outcome.stderr.contains("released "),
        "{}",
        outcome.stderr
    );
    runs(next, "mine\n");
}

#[test]
fn a_server_that_forgets_gives_a_place_back_if_nobody_waits_and_warns() {
    let sandbox = Sandbox::new();
    let mut server = Distributexd::start(&sandbox, &pool(&sandbox, 3, ""));
    let holder = holder(&sandbox, &server, "web1");
    server.kill();
    server.start_again();
    wait_until("a warning", || holder.stderr().contains("WARNING: "));
    let outcome = holder.finish();
    assert_eq!((outcome.end, outcome.stdout.as_str()), (Ok(0), "ready\n"));
    assert!(
        outcome.stderr.contains(" instead of ") && outcome.stderr.contains("released "),
        "{}",
        outcome.stderr
    );
}

/// Whatever becomes of a holder or the server: the holder's job is dead before that of the next
/// begins.
#[track_caller]
fn the_next_starts_after_the_last_is_dead(what: &str, harm: impl Fn(&Distributexd, &Running)) {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, &kept_pool(&sandbox, 3));
    let probe = Probe::of(&sandbox);
    let first = probe
        .line(host(&sandbox, &server, "web1", &["-k", "0.3"]), FOREVER)
        .start();
    probe.wait_for(1);
    let second = probe
        .line(host(&sandbox, &server, "web2", &["-k", "0.3"]), FOREVER)
        .start();
    wait_until("the next to wait", || waits(&server, "web2"));
    harm(&server, &first);
    let holdings = probe.wait_for(2);
    first.signal(libc::SIGCONT);
    assert_ne!(first.wait().end, Ok(0));
    second.signal(libc::SIGKILL);
    second.wait();
    wait_until("all jobs to be gone", || {
        sandbox.processes() == [server.pid()]
    });
    probe_job::assert_no_overlap(what, vec![probe_job::lead(&holdings)]);
}

#[test]
fn the_next_host_starts_when_nothing_of_the_last_one_lives() {
    the_next_starts_after_the_last_is_dead("distributex killed", |_, first| {
        first.signal(libc::SIGKILL);
    });
    the_next_starts_after_the_last_is_dead("distributex stopped", |_, first| {
        first.signal(libc::SIGSTOP);
    });
    the_next_starts_after_the_last_is_dead("distributex told to end", |_, first| {
        first.signal(libc::SIGTERM);
    });
    the_next_starts_after_the_last_is_dead(
        "lock server stopped for longer than a lease",
        |server, first| {
            server.signal(libc::SIGSTOP);
            wait_until("the tree to be gone", || {
                process::children(first.pid()).is_empty()
            });
            let_last(SECOND);
            server.signal(libc::SIGCONT);
        },
    );
}

#[test]
fn whoever_gives_up_loses_its_place_to_the_next() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, &pool(&sandbox, 300, ""));
    let first = holder(&sandbox, &server, "a");
    let second = waiter(&sandbox, &server, "b", &["touch ran"]);
    let third = waiter(&sandbox, &server, "c", &["echo mine"]);
    second.signal(libc::SIGTERM);
    assert_eq!(second.wait().end, Err(libc::SIGTERM));
    wait_until("its place to be gone", || !waits(&server, "b"));
    runs_on(first, "ready\n");
    runs(third, "mine\n");
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_pool_may_be_for_some_hosts_only() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(
        &sandbox,
        &pool(&sandbox, 300, "    servers: acme1, acme2\n"),
    );
    assert_eq!(
        host(&sandbox, &server, "acme2", &["echo mine"]).run(),
        exited(0).printing("mine\n")
    );
    let stranger = host(&sandbox, &server, "acme3", &["touch ran"]).run();
    assert_eq!(stranger.end, Ok(1));
    stranger.complaint_of(
        "distributex",
        &["server said INVALID", &sandbox.id, "acme3"],
    );
    assert!(!sandbox.path("ran").exists());
}

/// With the lock of the host, which all of a crontab's runs share, and a command that goes on for
/// longer than the time between two runs.
#[test]
fn of_two_runs_on_one_host_the_second_leaves_it_at_that() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, &pool(&sandbox, 300, ""));
    let cron = |words: &[&str]| sandbox.distributex(server.port, words);
    let first = cron(&["echo ready; cat"]).leashed().start();
    first.wait_for_output("ready");
    let second = cron(&["touch ran"]).run();
    assert_eq!(second.end, Ok(1));
    second.complaint_of("distributex", &["Another instance"]);
    runs_on(first, "ready\n");
    assert_eq!(cron(&["echo mine"]).run(), exited(0).printing("mine\n"));
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_server_without_room_is_asked_again_until_it_has_some() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start_with_descriptors(&sandbox, &pool(&sandbox, 300, ""), 128);
    let mut crowd = Vec::new();
    wait_for("a full server", || {
        let mut connection = server.connect();
        connection.say("GET /status/ HTTP/1.1\r\n\r\n");
        let full = connection.reply().status == 503;
        crowd.push(connection);
        full.then_some(())
    });
    let run = host(&sandbox, &server, "web1", &["-v", "echo mine"]).start();
    wait_until("it to be told so", || {
        run.stderr().contains("503 Service Unavailable")
    });
    drop(crowd);
    runs(run, "mine\n");
}

#[test]
fn a_run_and_a_hand_over_take_milliseconds() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, &pool(&sandbox, 300, ""));
    let mut times = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        assert_eq!(host(&sandbox, &server, "web1", &["true"]).run(), exited(0));
        times.push(started.elapsed());
    }
    report("distributex, a run of true", summary(times));
    let mut times = Vec::new();
    for _ in 0..10 {
        let first = holder(&sandbox, &server, "web1");
        let next = waiter(&sandbox, &server, "web2", &["echo mine"]);
        let let_go = Instant::now();
        runs_on(first, "ready\n");
        next.wait_for_output("mine");
        times.push(let_go.elapsed());
        runs(next, "mine\n");
    }
    report(
        "distributex, from the end of one job to the first word of the next",
        summary(times),
    );
}

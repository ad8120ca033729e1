//! Servers whose names change: a name that stands for another address while a run waits or holds,
//! and one that does not resolve yet when it starts. Each run has an `/etc/hosts` of its own, in a
//! mount namespace; the servers are behind proxies on loopback addresses.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::distributexd::{Connection, Distributexd};
use common::memcached::Memcached;
use common::proxy::Proxy;
use common::run::{Job, Running, exited};
use common::sandbox::Sandbox;
use common::scripted_server::DeadNameServer;
use common::zookeeper::ZooKeeper;
use common::{SECOND, let_last, process, report, wait_for, wait_until};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// The name of a server. No name server is asked for it: .invalid resolves nowhere.
const NAME: &str = "server.invalid";

/// Where it is first, and where it goes.
const OLD: &str = "127.0.77.1";
const NEW: &str = "127.0.77.2";

/// How much later than a newcomer a waiter may run, and how much later than its name appears a run
/// may start. The rest is for a busy machine.
const LATE: Duration = Duration::from_secs(10);
const AT_ONCE: Duration = Duration::from_secs(2);
const BUSY: Duration = Duration::from_secs(3);

/// Sets what the runs of a sandbox find the name to be; `None`: nothing.
fn point(sandbox: &Sandbox, address: Option<&str>) {
    let line = address.map_or_else(String::new, |address| format!("{address} {NAME}\n"));
    // In place, for this very file is mounted.
    fs::write(
        sandbox.path("hosts"),
        format!("127.0.0.1 localhost\n{line}"),
    )
    .expect("the hosts can be written");
}

/// The same program with the hosts of its sandbox, and no name server.
fn named<'a>(sandbox: &'a Sandbox, job: &Job) -> Job<'a> {
    let (hosts, resolv) = (sandbox.path("hosts"), sandbox.path("resolv.conf"));
    if !hosts.exists() {
        point(sandbox, None);
    }
    fs::write(
        &resolv,
        "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    )
    .expect("the resolver's config can be written");
    let mount = |file: &Path, at: &str| format!("mount --bind '{}' {at}", file.display());
    let script = format!(
        "{} && {} && exec {}",
        mount(&hosts, "/etc/hosts"),
        mount(&resolv, "/etc/resolv.conf"),
        job.line()
    );
    Job::new(sandbox, Path::new("unshare")).words(&["--mount", "sh", "-c", &script])
}

/// Starts a server's proxy at an address, on the port of the old one if there was one.
fn proxy_at(address: &str, port: u16, server: String) -> Proxy {
    Proxy::start_at(&format!("{address}:{port}"), server)
}

/// A server under a name, at the old address.
struct Moving {
    old: Option<Proxy>,
    server: String,
    port: u16,
}

impl Moving {
    fn new(server: String) -> Moving {
        let port = common::free_port();
        Moving {
            old: Some(proxy_at(OLD, port, server.clone())),
            server,
            port,
        }
    }

    fn address(&self) -> String {
        format!("{NAME}:{}", self.port)
    }

    /// It is at the old address no more.
    fn leave(&mut self) {
        self.old.take().expect("it was there").set_away(true);
    }

    /// It is at the new address, and nobody has been told.
    fn arrive(&self) -> Proxy {
        proxy_at(NEW, self.port, self.server.clone())
    }
}

/// Asserts that a run comes to its end within a time of `since`.
#[track_caller]
fn runs_within(limit: Duration, since: Instant, what: &str, run: Running) {
    assert_eq!(run.wait().end, Ok(0), "{what}");
    let took = since.elapsed();
    report(
        &format!("{what} after"),
        format!("{:.1} s", took.as_secs_f64()),
    );
    assert!(took < limit + BUSY, "{what}: {took:?}");
}

#[test]
fn waiters_reach_a_server_that_has_moved() {
    let (server, sandbox) = (ZooKeeper::start(), Sandbox::new());
    let mut moving = Moving::new(server.address());
    point(&sandbox, Some(OLD));
    let mut holders = [
        sandbox
            .flock(&server, &["-l", "0", "lock", "cat"])
            .leashed()
            .start(),
        sandbox
            .lockex(&server, &["--lockid", "other", "cat"])
            .leashed()
            .start(),
    ];
    for holder in &holders {
        holder.job();
    }
    let flock = named(
        &sandbox,
        &sandbox.flock_at(
            &moving.address(),
            15,
            &["-l", "0", "-w", "inf", "lock", "echo mine"],
        ),
    )
    .start();
    let lockex = named(
        &sandbox,
        &sandbox.lockex_at(&moving.address(), 15, &["--lockid", "other", "echo mine"]),
    )
    .start();
    let mut client = sandbox.client(&server);
    client.wait_for_children(&sandbox.node(".queue/lock"), 1);
    client.wait_for_children(&sandbox.node("other"), 2);
    moving.leave();
    let_last(SECOND * 7); // so that pauses are at their longest
    let _new = moving.arrive();
    point(&sandbox, Some(NEW));
    let moved = Instant::now();
    holders.iter_mut().for_each(Running::let_go);
    runs_within(
        LATE,
        moved,
        "zk-flock -w inf runs when its server has moved",
        flock,
    );
    runs_within(LATE, moved, "lockex runs when its server has moved", lockex);
    holders
        .into_iter()
        .for_each(|holder| assert_eq!(holder.wait(), exited(0)));
}

#[test]
fn a_waiter_and_a_holder_of_distributex_follow_a_server_that_has_moved() {
    let sandbox = Sandbox::new();
    let config = format!(
        "pools:\n- name: {0}\n  expire: 0\n- name: held-{0}\n  expire: 6\n",
        sandbox.id
    );
    let server = Distributexd::start(&sandbox, &config);
    let mut moving = Moving::new(server.address());
    point(&sandbox, Some(OLD));
    let port = moving.port.to_string();
    let pool = |pool: &str, words: &[&str]| {
        let options = [
            "--program=distributex",
            "-H",
            NAME,
            "-p",
            &port,
            "-r",
            pool,
            "--as",
            "web1",
        ];
        named(&sandbox, &sandbox.program(&[&options, words].concat()))
    };
    server.call("get", "other", &sandbox.id);
    let held = format!("held-{}", sandbox.id);
    let mut holder = pool(&held, &["cat"]).leashed().start();
    wait_for("the command", || sandbox.running("cat").first().copied());
    let waiter = pool(&sandbox.id, &["-w", "60", "echo mine"]).start();
    wait_until("it waits", || {
        server.ask("/status/").contains("\"waiting\":")
    });
    moving.leave();
    let_last(SECOND * 2);
    let _new = moving.arrive();
    point(&sandbox, Some(NEW));
    server.call("release", "other", &sandbox.id);
    runs_within(
        LATE,
        Instant::now(),
        "distributex -w runs when its server has moved",
        waiter,
    );
    let_last(SECOND * 6); // longer than the lease
    holder.let_go();
    assert_eq!(holder.wait(), exited(0));
}

#[test]
fn lock_server_reaches_an_ensemble_that_has_moved() {
    let (zookeeper, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut moving = Moving::new(zookeeper.address());
    point(&sandbox, Some(OLD));
    let (address, path) = (moving.address(), format!("/moved-{}", sandbox.id));
    let config = sandbox.path("distributex.yaml");
    let text = format!(
        "listen: 127.0.0.1\nbackend: zookeeper\nhost: {address}\npath: {path}\npools:\n- name: one\n"
    );
    fs::write(&config, text).expect("the config can be written");
    let port = common::free_port();
    let words = [
        "--program=distributexd",
        "-c",
        config.to_str().expect("paths of tests are text"),
        "-p",
        &port.to_string(),
    ];
    let server = named(&sandbox, &sandbox.program(&words)).start();
    let status = || {
        let mut connection = Connection::to(port)?;
        connection.say("GET /get/?host=a&pool=one HTTP/1.1\r\n\r\n");
        Some(connection.reply().status)
    };
    wait_until("a YES", || status() == Some(200));
    moving.leave();
    wait_until("an outage", || status() == Some(503));
    let _new = moving.arrive();
    point(&sandbox, Some(NEW));
    let moved = Instant::now();
    wait_until("a YES from the new address", || status() == Some(200));
    assert!(moved.elapsed() < LATE, "{:?}", moved.elapsed());
    wait_until("no child is left", || {
        process::children(server.pid()).is_empty()
    });
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().end, Ok(0));
}

#[test]
fn a_holder_keeps_its_lock_when_its_server_has_moved_and_no_helper_stays() {
    let (server, sandbox) = (ZooKeeper::start(), Sandbox::new());
    let mut moving = Moving::new(server.address());
    point(&sandbox, Some(OLD));
    let mut holder = named(
        &sandbox,
        &sandbox.flock_at(&moving.address(), 15, &["-l", "0", "lock", "cat"]),
    )
    .leashed()
    .start();
    wait_for("the command", || sandbox.running("cat").first().copied());
    moving.leave();
    let_last(SECOND * 4);
    let _new = moving.arrive();
    point(&sandbox, Some(NEW));
    wait_until("it is resumed", || sandbox.log().contains("resumed /"));
    let_last(SECOND);
    let names: Vec<String> = sandbox.processes().into_iter().map(process::name).collect();
    assert!(!names.iter().any(|name| name == "name-lookup"), "{names:?}");
    holder.let_go();
    assert_eq!(holder.wait(), exited(0));
    assert!(!sandbox.log().contains("Lock lost"), "{}", sandbox.log());
}

/// A holder whose server has gone, and whose name server is silent: the helper that looks up its
/// names hangs. Its command and that helper.
fn holder_with_a_hanging_helper<'a>(
    sandbox: &'a Sandbox,
    names: &DeadNameServer,
    moving: &mut Moving,
) -> (Running<'a>, i32, i32) {
    point(sandbox, Some(OLD));
    let job = named(
        sandbox,
        &sandbox.flock_at(
            &moving.address(),
            15,
            &["-l", "0", "--sysexits", "lock", "cat"],
        ),
    );
    fs::write(
        sandbox.path("resolv.conf"),
        format!("nameserver {}\n", DeadNameServer::ADDRESS),
    )
    .expect("it can be written");
    let holder = job.leashed().start();
    let command = wait_for("the command", || sandbox.running("cat").first().copied());
    point(sandbox, None);
    moving.leave();
    let helper = wait_for("a helper", || {
        sandbox
            .processes()
            .into_iter()
            .find(|&pid| process::name(pid) == "name-lookup")
    });
    wait_until("it asks", || names.was_asked());
    (holder, command, helper)
}

/// What a process has open, by descriptor.
fn open_files(pid: i32) -> Vec<(u32, String)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let file = |entry: fs::DirEntry| {
        Some((
            entry.file_name().to_str()?.parse().ok()?,
            fs::read_link(entry.path()).ok()?.display().to_string(),
        ))
    };
    entries.filter_map(file).collect()
}

#[test]
fn a_helper_that_hangs_is_not_in_the_commands_tree_and_ends_with_zk_flock() {
    let (server, sandbox, names) = (ZooKeeper::start(), Sandbox::new(), DeadNameServer::start());
    let mut moving = Moving::new(server.address());
    let (mut holder, command, helper) = holder_with_a_hanging_helper(&sandbox, &names, &mut moving);
    assert_ne!(process::group(helper), process::group(command));
    let own: Vec<String> = open_files(helper)
        .into_iter()
        .filter(|(fd, _)| *fd > 2)
        .map(|(_, file)| file)
        .collect();
    assert!(
        (1..=2).contains(&own.len()),
        "{own:?}: its answer and its question"
    );
    assert!(
        !open_files(command)
            .iter()
            .any(|(_, file)| own.contains(file)),
        "{own:?}"
    );
    holder.let_go();
    let outcome = holder.wait();
    assert!(!process::alive(helper), "{outcome:?}");

    // The guard dies, and we kill its tree: the helper is none of it, and is not waited for.
    let (server, sandbox) = (ZooKeeper::start(), Sandbox::new());
    let mut moving = Moving::new(server.address());
    let (holder, command, helper) = holder_with_a_hanging_helper(&sandbox, &names, &mut moving);
    let guard = process::parent(command).expect("the command has a parent");
    let killed = Instant::now();
    assert!(process::kill(guard, libc::SIGKILL));
    wait_until("the command is killed", || !process::alive(command));
    wait_until("so is the helper", || !process::alive(helper));
    assert!(killed.elapsed() < BUSY, "{:?}", killed.elapsed());
    let _new = moving.arrive(); // for the release
    point(&sandbox, Some(NEW));
    holder
        .wait()
        .complains(70, &["the guard of /", "was killed or stopped"]);
}

#[test]
fn a_name_that_does_not_resolve_yet_is_looked_up_again() {
    let (server, sandbox) = (ZooKeeper::start(), Sandbox::new());
    let moving = Moving::new(server.address());
    let config = format!("pools:\n- name: {0}\n", sandbox.id);
    let locks = Distributexd::start(&sandbox, &config);
    let lock_server = Moving::new(locks.address());
    let port = lock_server.port.to_string();
    let distributex = [
        "--program=distributex",
        "-H",
        NAME,
        "-p",
        &port,
        "-r",
        &sandbox.id,
        "--as",
        "web1",
        "echo mine",
    ];
    let runs = [
        (
            "zk-flock",
            named(
                &sandbox,
                &sandbox.flock_at(&moving.address(), 15, &["-l", "0", "one", "echo mine"]),
            ),
        ),
        (
            "zk-flock -w",
            named(
                &sandbox,
                &sandbox.flock_at(
                    &moving.address(),
                    5,
                    &["-l", "0", "-w", "60", "two", "echo mine"],
                ),
            ),
        ),
        (
            "lockex -R",
            named(
                &sandbox,
                &sandbox.lockex_at(&moving.address(), 15, &["-R", "10", "echo mine"]),
            ),
        ),
        (
            "lockex -R-1",
            named(
                &sandbox,
                &sandbox.lockex_at(
                    &moving.address(),
                    15,
                    &["-R-1", "--lockid", "x", "echo mine"],
                ),
            ),
        ),
        (
            "distributex",
            named(&sandbox, &sandbox.program(&distributex)),
        ),
    ];
    let runs = runs.map(|(what, job)| (what, job.start()));
    let_last(SECOND * 3);
    point(&sandbox, Some(OLD));
    let appeared = Instant::now();
    for (what, run) in runs {
        runs_within(
            AT_ONCE,
            appeared,
            &format!("{what} runs when its server has a name"),
            run,
        );
    }
}

#[test]
fn a_name_that_never_resolves_is_an_error_with_its_reason_in_time() {
    let sandbox = Sandbox::new();
    for (what, job) in [
        (
            "zk-flock",
            sandbox.flock_at(
                "a.invalid:2181,b.invalid:2181",
                2,
                &["-l", "0", "lock", "true"],
            ),
        ),
        (
            "-w",
            sandbox.flock_at(
                "a.invalid:2181,b.invalid:2181",
                1,
                &["-l", "0", "-w", "2", "lock", "true"],
            ),
        ),
        (
            "lockex",
            sandbox.lockex_at("a.invalid:2181,b.invalid:2181", 2, &["-R-1", "true"]),
        ),
    ] {
        let started = Instant::now();
        let outcome = named(&sandbox, &job).run();
        let took = started.elapsed();
        assert_eq!(outcome.end, Ok(1), "{what}");
        assert!(
            outcome.stderr.contains("a.invalid:2181: its name")
                && outcome.stderr.contains("b.invalid:2181: its name"),
            "{outcome:?}"
        );
        assert!(
            took >= SECOND * 2 && took < SECOND * 2 + BUSY,
            "{what}: {took:?}"
        );
    }
}

#[test]
fn a_lock_server_waits_for_the_name_of_its_memcached_as_at_boot() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let moving = Moving::new(memcached.address());
    let (path, port) = (sandbox.path("distributex.yaml"), common::free_port());
    let config = format!(
        "listen: 127.0.0.1\nbackend: memcache\nmemcachehost: {NAME}\nmemcacheport: {}\npools:\n- name: p\n",
        moving.port
    );
    fs::write(&path, config).expect("the config can be written");
    let words = [
        "--program=distributexd",
        "-v",
        "-c",
        path.to_str().expect("paths of tests are text"),
        "-p",
        &port.to_string(),
    ];
    let server = named(&sandbox, &sandbox.program(&words)).start();
    let_last(SECOND * 2);
    point(&sandbox, Some(OLD));
    let mut connection = wait_for("the server to listen", || Connection::to(port));
    connection.say("GET /get/?pool=p&host=h HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(connection.hear(), "YES");
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().end, Ok(0));
}

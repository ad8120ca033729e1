//! `distributex` and its server: what is said and asked, byte for byte where the original recorded
//! it; and what becomes of job and place when either side is stopped, killed, cut off or restarted.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use super::{complains, fails};
use common::capture;
use common::lock_server::{Answer, LockServer, lent, original, plain, to_end};
use common::probe_job::{FOREVER, Probe};
use common::run::{Job, Outcome, Running, exited, killed, listener};
use common::sandbox::Sandbox;
use common::scripted_server::{DeadNameServer, ScriptedServer, SwitchedOff, nobody};
use common::{SECOND, let_last, process, report, wait_until};
use std::fs;
use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use zk_flock::internals::http;
use zk_flock::internals::sys::clock;

/// For how long places are lent here whose end a test waits for.
const SHORT: Duration = Duration::from_secs(3);

/// As the original answers who finds everything free.
fn free(what: &str) -> Answer {
    original(if what.starts_with("release") {
        "OK"
    } else {
        "YES"
    })
}

/// As our own does; number and length of what it lends are these.
fn lends(token: i64, length: Duration) -> impl FnMut(&str) -> Answer {
    move |what| {
        if what.starts_with("release") {
            plain("OK")
        } else {
            lent(token, length)
        }
    }
}

/// As both do who have nothing free.
fn taken(what: &str) -> Answer {
    match what {
        "wait" => Answer::Wait,
        "get" => original("NO"),
        _ => original("OK"),
    }
}

/// A run that is kept waiting.
#[track_caller]
fn waiter<'a>(sandbox: &'a Sandbox, server: &LockServer, words: &[&str]) -> Running<'a> {
    let asked = |words: Vec<String>| words.iter().filter(|what| *what == "wait").count();
    let before = asked(server.words());
    let waiter = sandbox.distributex(server.port, words).start();
    wait_until("somebody to wait", || asked(server.words()) > before);
    waiter
}

#[test]
fn what_is_asked_is_what_the_original_server_was_asked_when_it_was_recorded() {
    let recorded: Vec<_> = capture::distributex()
        .map(|(asked, _)| asked.into_bytes())
        .collect();
    let asked = [
        ("/wait/", &[("pool", "p20"), ("host", "web1")][..]),
        ("/get/", &[("pool", "p20"), ("host", "web2")]),
        ("/renew/", &[("pool", "p20"), ("host", "web1")]),
        ("/get/", &[("pool", "none"), ("host", "web1")]),
        (
            "/release/",
            &[("pool", "p20"), ("host", "web1"), ("token", "7")],
        ),
        ("/release/", &[("pool", "p20"), ("host", "web1")]),
    ];
    // The recorded client did not give its name.
    let name = format!("User-Agent: distributex/{}\r\n", env!("CARGO_PKG_VERSION"));
    let without_name = |request: Vec<u8>| {
        let request = String::from_utf8(request).unwrap();
        assert_eq!(request.matches(&name).count(), 1, "{request}");
        request.replace(&name, "").into_bytes()
    };
    assert_eq!(
        asked
            .map(|(path, parameters)| without_name(http::get(
                path,
                parameters,
                "127.0.0.1:29889",
                false
            )))
            .to_vec(),
        recorded
    );
}

#[test]
fn the_command_runs_when_the_server_says_yes_and_its_end_is_ours() {
    let sandbox = Sandbox::new();
    for (framing, say) in [
        ("chunked", original as fn(&str) -> Answer),
        ("with a length", plain),
        ("to its end", to_end),
    ] {
        let server =
            LockServer::start(move |what| say(if what == "release" { "OK" } else { "YES" }));
        for (words, code, stdout) in [
            (&["echo one   two"][..], 0, "one two\n"),
            (&["exit 17"], 17, ""),
            (&["-w", "0", "kill -9 $$"], 137, ""),
            (&["-w9", "kill $$"], 143, ""),
        ] {
            assert_eq!(
                sandbox.distributex(server.port, words).run(),
                exited(code).printing(stdout),
                "{framing}: {words:?}"
            );
        }
        assert_eq!(
            server.words(),
            [
                "wait", "release", "wait", "release", "get", "release", "wait", "release"
            ],
            "{framing}"
        );
        assert!(!sandbox.host_lock().exists());
    }
}

#[test]
fn anything_but_yes_is_an_error_that_says_so() {
    let sandbox = Sandbox::new();
    for (say, facts) in [
        (
            original("INVALID"),
            &[
                "Error obtaining lock, server said INVALID",
                &sandbox.id,
                "web1",
            ][..],
        ),
        (original("NO"), &["Error obtaining lock, server said NO"]),
        (plain(""), &["Error obtaining lock, server said nothing"]),
        (
            plain("<html>\r\n\x1b[31mHello"),
            &["Error obtaining lock, server said <html>???[31mHello"],
        ),
        (
            Answer::Say(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into()),
            &["Error obtaining lock, server said 404 Not Found"],
        ),
    ] {
        for (option, code) in [("--as=web1", 1), ("--sysexits", 77)] {
            let answer = say.clone();
            let server = LockServer::start(move |_| answer.clone());
            let outcome = sandbox
                .distributex(server.port, &["--as=web1", option, "-x17", "touch ran"])
                .run();
            complains(&outcome, code, facts);
            assert_eq!(server.words(), ["wait"]);
        }
    }
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn one_try_that_finds_it_taken_is_silent() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(taken));
    for (options, code) in [
        (&["-w0"][..], 1),
        (&["-w", "-1"], 1),
        (&["-w0", "-x", "0"], 0),
        (&["-w0", "--sysexits"], 75),
    ] {
        assert_eq!(
            sandbox
                .distributex(server.port, &[options, &["touch ran"]].concat())
                .run(),
            exited(code),
            "{options:?}"
        );
    }
    assert_eq!(server.words(), ["get"; 4]);
}

#[test]
fn a_wait_that_runs_out_is_silent_and_takes_its_request_back() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(taken));
    let started = Instant::now();
    assert_eq!(
        sandbox
            .distributex(server.port, &["-w", "0.7", "-x17", "touch ran"])
            .run(),
        exited(17)
    );
    assert!(started.elapsed() >= Duration::from_millis(700));
    assert_eq!(server.words(), ["wait", "gone", "release"]);
}

#[test]
fn who_waits_says_so_in_its_story() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(taken));
    let waiter = sandbox
        .distributex(server.port, &["-v", "echo mine"])
        .start();
    let lock = format!("{}@127.0.0.1:{}", sandbox.id, server.port);
    wait_until("it to say that it waits", || {
        waiter
            .stderr()
            .contains(&format!("distributex: waiting for {lock}\n"))
    });
    server.set(lends(7, SHORT));
    server.ask_again();
    let outcome = waiter.wait();
    assert_eq!((outcome.end, outcome.stdout.as_str()), (Ok(0), "mine\n"));
    for part in [
        format!("Lock: success lock={lock} token=7 waited="),
        format!("released {lock} after "),
    ] {
        assert!(
            outcome.stderr.contains(&part),
            "no {part:?} in {}",
            outcome.stderr
        );
    }
    assert_eq!(server.words(), ["wait", "renew 7", "release 7"]);
}

#[test]
fn the_command_knows_its_lock_and_a_number_only_if_there_is_one() {
    const COMMAND: &str =
        "echo $ZK_FLOCK_HELD $ZK_FLOCK_LOCK ${ZK_FLOCK_TOKEN-none} ${ZK_FLOCK_SESSION-none}";
    let (sandbox, server) = (Sandbox::new(), LockServer::start(free));
    let lock = format!("{}@127.0.0.1:{}", sandbox.id, server.port);
    // What comes from a lock around this one is none of ours.
    let run = |words: &[&str]| {
        sandbox
            .distributex(server.port, words)
            .env("ZK_FLOCK_TOKEN", "5")
            .env("ZK_FLOCK_SESSION", "0x5")
            .run()
    };
    assert_eq!(
        run(&[COMMAND]),
        exited(0).printing(&format!("1 {lock} none none\n"))
    );
    server.set(lends(7, SHORT));
    assert_eq!(
        run(&[COMMAND]),
        exited(0).printing(&format!("1 {lock} 7 none\n"))
    );
    let host = sandbox
        .program(&["--program=distributex", "-l", "-r", &sandbox.id, COMMAND])
        .env("ZK_FLOCK_TOKEN", "5")
        .run();
    assert_eq!(
        host,
        exited(0).printing(&format!("1 {} none none\n", sandbox.host_lock().display()))
    );
}

#[test]
fn this_host_is_called_what_the_original_calls_it_or_what_it_is_told() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(free));
    let python = Command::new("python3")
        .args([
            "-c",
            "import socket; print(socket.gethostbyaddr(socket.gethostname())[0])",
        ])
        .output()
        .unwrap();
    assert!(python.status.success(), "{python:?}");
    for (words, host) in [
        (
            &["true"][..],
            String::from_utf8(python.stdout).unwrap().trim_end(),
        ),
        (&["--as", "wéb 1&x", "true"], "wéb 1&x"),
    ] {
        assert_eq!(sandbox.distributex(server.port, words).run(), exited(0));
        assert!(
            server
                .asked()
                .iter()
                .rev()
                .take(2)
                .all(|asked| asked.host == host),
            "{:?}",
            server.asked()
        );
    }
}

#[test]
fn a_name_that_is_not_looked_up_in_time_is_the_bare_one_and_a_warning() {
    let (names, sandbox, server) = (
        DeadNameServer::start(),
        Sandbox::new(),
        LockServer::start(free),
    );
    let line =
        DeadNameServer::asked_by(&sandbox, &sandbox.distributex(server.port, &["echo mine"]))
            .line();
    let run = Job::new(&sandbox, Path::new("unshare"))
        .words(&[
            "--uts",
            "sh",
            "-c",
            &format!("hostname nowhere-known; exec {line}"),
        ])
        .run();
    assert_eq!(
        (run.end, run.stdout.as_str()),
        (Ok(0), "mine\n"),
        "{}",
        run.stderr
    );
    run.complaint_of(
        "distributex",
        &["WARNING: ", "full name", "nowhere-known", "--as"],
    );
    assert!(
        names.was_asked()
            && server
                .asked()
                .iter()
                .all(|asked| asked.host == "nowhere-known"),
        "{:?}",
        server.asked()
    );
}

#[test]
fn a_host_that_no_name_service_knows_goes_by_its_bare_name() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(free));
    let line = sandbox.distributex(server.port, &["true"]).line();
    let script = format!("echo no_such_host >/proc/sys/kernel/hostname && exec {line}");
    assert_eq!(
        Job::new(&sandbox, Path::new("unshare"))
            .words(&["--uts", "sh", "-c", &script])
            .run(),
        exited(0)
    );
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| asked.host == "no_such_host"),
        "{:?}",
        server.asked()
    );
}

#[test]
fn on_one_host_there_is_one_run_and_a_second_one_says_whose() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(free));
    let mut first = sandbox
        .distributex(server.port, &["echo ready; cat"])
        .leashed()
        .start();
    first.wait_for_output("ready");
    assert_eq!(
        fs::read_to_string(sandbox.host_lock()).unwrap(),
        first.pid().to_string(),
        "as the original writes it"
    );
    let pid = format!("(pid {})", first.pid());
    for (options, code) in [
        (&[][..], 1),
        (&["-l"], 1),
        (&["-w", "9"], 1),
        (&["-x17"], 17),
        (&["--sysexits"], 75),
    ] {
        let second = sandbox
            .distributex(server.port, &[options, &["touch ran"]].concat())
            .run();
        complains(
            &second,
            code,
            &[
                "Another instance of distributex is running for this pool",
                &pid,
            ],
        );
    }
    let other = sandbox
        .distributex(server.port, &["--no-local-lock", "echo too"])
        .run();
    assert_eq!(other, exited(0).printing("too\n"));
    first.let_go();
    assert_eq!(first.wait(), exited(0).printing("ready\n"));
    assert_eq!(
        sandbox.distributex(server.port, &["echo mine"]).run(),
        exited(0).printing("mine\n")
    );
    assert!(!sandbox.path("ran").exists() && !sandbox.host_lock().exists());
}

#[test]
fn the_lock_of_this_host_needs_no_server() {
    let sandbox = Sandbox::new();
    let local = |words: &[&str]| {
        sandbox
            .program(&["--program=distributex", "-l", "-r", &sandbox.id])
            .words(words)
    };
    let first = local(&["echo ready; cat"]).leashed().start();
    first.wait_for_output("ready");
    complains(&local(&["touch ran"]).run(), 1, &["Another instance"]);
    assert_eq!(first.finish(), exited(0).printing("ready\n"));
    assert_eq!(local(&["exit 3"]).run(), exited(3));
    assert!(!sandbox.host_lock().exists());
}

/// Two at once is what the file is there to prevent; each of many that start together has it, or
/// names another.
#[test]
fn of_many_that_start_at_once_one_runs_at_a_time() {
    let sandbox = Sandbox::new();
    let job = "echo start >>runs; sleep 0.02; echo end >>runs";
    let runs: Vec<_> = (0..30)
        .map(|_| {
            sandbox
                .program(&["--program=distributex", "-l", "-r", &sandbox.id, job])
                .start()
        })
        .collect();
    let ran = runs
        .into_iter()
        .map(Running::wait)
        .filter(|outcome| outcome.end == Ok(0))
        .count();
    let runs = sandbox.read("runs");
    assert!(ran >= 1 && runs.lines().count() == 2 * ran, "{ran}: {runs}");
    assert_eq!(runs, "start\nend\n".repeat(ran), "two at once");
}

#[test]
fn a_lock_file_counts_for_what_is_in_it() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(free));
    let file = sandbox.host_lock();
    let run = || sandbox.distributex(server.port, &["echo mine"]).run();
    let mine = exited(0).printing("mine\n");
    let mut dead = Command::new("true").spawn().unwrap();
    let dead_pid = dead.id();
    dead.wait().unwrap();
    let zombie = sandbox.program(&[]).start(); // not waited for until the end of the test
    wait_until("a zombie", || process::state(zombie.pid()) == Some('Z'));

    let other = Job::new(&sandbox, Path::new("cat")).leashed().start();
    wait_until("another program", || process::words(other.pid()) == "cat");

    for stale in [
        format!("{dead_pid}"),
        format!("{}\n", zombie.pid()),
        other.pid().to_string(),
    ] {
        fs::write(&file, &stale).unwrap();
        let outcome = run();
        assert_eq!(
            (outcome.end, outcome.stdout.as_str()),
            (Ok(0), "mine\n"),
            "{}",
            outcome.stderr
        );
        outcome.complaint_of(
            "distributex",
            &[
                "Cleaning stale lockfile",
                file.to_str().unwrap(),
                stale.trim(),
            ],
        );
        assert!(!file.exists());
    }
    fs::write(&file, "").unwrap();
    assert_eq!(run(), mine, "whoever made it never came to writing");
    for broken in ["pid", "0", "-1", "99999999999999999999", "12 13", "\u{ff}"] {
        fs::write(&file, broken).unwrap();
        complains(
            &run(),
            1,
            &[
                "Broken lock file",
                file.to_str().unwrap(),
                "Please remove it",
            ],
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), broken);
    }
    fs::remove_file(&file).unwrap();
    fs::write(sandbox.path("elsewhere"), "").unwrap();
    symlink(sandbox.path("elsewhere"), &file).unwrap();
    complains(&run(), 1, &["cannot lock", "symbolic link"]);
    assert_eq!(sandbox.read("elsewhere"), "");
    fs::remove_file(&file).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(&file)
            .status()
            .unwrap()
            .success()
    );
    complains(&run(), 1, &["Broken lock file"]);
    other.finish();
}

/// The original writes its pid and locks nothing.
#[test]
fn an_original_that_runs_here_keeps_us_out() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(free));
    let original = Command::new("sh")
        .args(["-c", "read line; true", "/usr/bin/distributex"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    fs::write(sandbox.host_lock(), original.id().to_string()).unwrap();
    let outcome = sandbox.distributex(server.port, &["touch ran"]).run();
    complains(
        &outcome,
        1,
        &[
            "Another instance",
            &format!("(pid {})", original.id()),
            "or remove",
            sandbox.host_lock().to_str().unwrap(),
        ],
    );
    assert_eq!(server.words(), [""; 0]);
    assert_eq!(
        fs::read_to_string(sandbox.host_lock()).unwrap(),
        original.id().to_string()
    );
    assert_eq!(original.wait_with_output().unwrap().status.code(), Some(0));
}

#[test]
fn a_server_that_is_away_is_named_after_ten_seconds() {
    let (silent, off, port) = (ScriptedServer::silent(), SwitchedOff::new(), nobody());
    let hangs_up = ScriptedServer::start(vec![]);
    let sandboxes: Vec<Sandbox> = (0..5).map(|_| Sandbox::new()).collect();
    let started = Instant::now();
    let runs: Vec<_> = [
        (&port, "connection refused"),
        (&off.address, "no answer for"),
        (&hangs_up.address, ""),
    ]
    .into_iter()
    .zip(&sandboxes)
    .map(|((address, why), sandbox)| {
        let port = address.rsplit(':').next().unwrap();
        (
            sandbox
                .distributex(port.parse().unwrap(), &["-x17", "touch ran"])
                .start(),
            address,
            why,
        )
    })
    .collect();
    let silent_port = silent.address.rsplit(':').next().unwrap().parse().unwrap();
    let one_try = sandboxes[3]
        .distributex(silent_port, &["-w0", "--sysexits", "-x17", "touch ran"])
        .start();
    let no_name = [
        "--program=distributex",
        "-H",
        "no-such-host.invalid",
        "-r",
        &sandboxes[4].id,
        "touch ran",
    ];
    complains(
        &sandboxes[4].program(&no_name).run(),
        1,
        &["cannot reach no-such-host.invalid:9889", "its name"],
    );
    for (run, address, why) in runs {
        complains(&run.wait(), 1, &["cannot reach", address, why]);
        assert!(started.elapsed() >= 10 * SECOND, "{why}");
    }
    let outcome = one_try.wait();
    complains(&outcome, 69, &["cannot reach", &silent.address]);
    let (_, silence) = outcome.stderr.split_once("no answer for ").unwrap();
    let silence: f64 = silence.split(' ').next().unwrap().parse().unwrap();
    assert!((3.0..10.0).contains(&silence), "{silence}");
    assert!(started.elapsed() < 20 * SECOND, "{:?}", started.elapsed());
    assert!(
        hangs_up.connections() < 20,
        "{} connections in 10 s",
        hangs_up.connections()
    );
    assert!(
        sandboxes
            .iter()
            .all(|sandbox| !sandbox.path("ran").exists() && !sandbox.host_lock().exists())
    );
}

#[test]
fn a_wait_goes_on_through_a_restart_of_the_server() {
    for options in [&[][..], &["-w", "60"], &["-w", "inf"]] {
        let (sandbox, server) = (Sandbox::new(), LockServer::start(taken));
        let waiter = waiter(&sandbox, &server, &[options, &["echo mine"]].concat());
        let_last(Duration::from_millis(1500)); // it has been kept waiting for long enough to know that there is a server
        let port = server.kill();
        let_last(SECOND);
        let server = LockServer::start_at(port, free);
        assert_eq!(waiter.wait(), exited(0).printing("mine\n"));
        assert_eq!(server.words(), ["wait", "release"]);
    }
}

#[test]
fn a_server_that_stays_away_ends_the_wait() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(taken));
    let waiter = waiter(&sandbox, &server, &["-x17", "touch ran"]);
    let_last(Duration::from_millis(1500));
    let port = server.kill();
    let gone = Instant::now();
    complains(
        &waiter.wait(),
        1,
        &[
            "cannot reach",
            &format!("127.0.0.1:{port}"),
            "connection refused",
        ],
    );
    assert!(gone.elapsed() >= 10 * SECOND && !sandbox.path("ran").exists());
}

/// Else a release could arrive when the next run of this host has the place.
#[test]
fn what_is_given_up_does_not_arrive_later() {
    let (sandbox, silent) = (Sandbox::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let run = sandbox
        .distributex(silent.local_addr().unwrap().port(), &["true"])
        .start();
    let (mut waiting, _) = silent.accept().unwrap();
    waiting.read_exact(&mut [0; 10]).unwrap();
    run.signal(libc::SIGTERM);
    let (mut releasing, _) = silent.accept().unwrap();
    let mut asked = Vec::new();
    let end = releasing
        .read_to_end(&mut asked)
        .map_err(|error| error.kind());
    assert!(
        asked.starts_with(b"GET /release/"),
        "{}",
        asked.escape_ascii()
    );
    assert_eq!(
        (run.wait().end, end),
        (Err(libc::SIGTERM), Err(ErrorKind::ConnectionReset))
    );
}

#[test]
fn a_signal_ends_a_wait_at_once_and_leaves_nothing_behind() {
    for signal in [
        libc::SIGTERM,
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGUSR1,
    ] {
        let (sandbox, server) = (Sandbox::new(), LockServer::start(taken));
        let waiter = waiter(&sandbox, &server, &["ulimit -c 0; touch ran"]);
        waiter.signal(signal);
        let outcome = waiter.wait();
        assert_eq!(
            Outcome {
                stderr: String::new(),
                ..outcome
            },
            killed(signal)
        );
        assert_eq!(server.words(), ["wait", "gone", "release"]);
        assert!(!sandbox.path("ran").exists() && !sandbox.host_lock().exists());
    }
}

#[test]
fn a_grant_that_comes_too_late_is_given_back_and_no_other() {
    let (sandbox, server) = (
        Sandbox::new(),
        LockServer::start(|what| {
            if what == "wait" {
                Answer::Freeze
            } else {
                plain("OK")
            }
        }),
    );
    let waiting = waiter(&sandbox, &server, &["touch ran"]);
    waiting.signal(libc::SIGTERM);
    assert_eq!(waiting.wait().end, Err(libc::SIGTERM));
    assert_eq!(
        server.words(),
        ["wait", "release"],
        "nobody knows what is lent to us: all of it is given back"
    );

    // It is stopped while the server grants and the signal comes, so it sees both at once.
    let server = LockServer::start(taken);
    let waiting = waiter(&sandbox, &server, &["touch ran"]);
    waiting.signal(libc::SIGSTOP);
    wait_until("it to be stopped", || {
        process::state(waiting.pid()) == Some('T')
    });
    server.set(lends(7, SHORT));
    server.ask_again();
    waiting.signal(libc::SIGTERM);
    waiting.signal(libc::SIGCONT);
    assert_eq!(waiting.wait().end, Err(libc::SIGTERM));
    assert_eq!(server.words(), ["wait", "release 7"]);
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_signal_stops_the_command_and_only_then_is_its_place_given_back() {
    for (signal, name) in [
        (libc::SIGTERM, "TERM"),
        (libc::SIGHUP, "HUP"),
        (libc::SIGINT, "INT"),
        (libc::SIGQUIT, "QUIT"),
    ] {
        let (sandbox, server) = (Sandbox::new(), LockServer::start(free));
        let run = sandbox
            .distributex(
                server.port,
                &[&format!("exec {}", listener(&format!("{name}=3/0.3")))],
            )
            .leashed()
            .start();
        run.wait_for_output("ready");
        let told = clock::since_boot();
        run.signal(signal);
        assert_eq!(run.wait(), exited(3).printing(&format!("ready\n{name}\n")));
        let released = server.last("release").expect("it was given back");
        assert!(
            released.saturating_sub(told) >= Duration::from_millis(300),
            "{name}: while the command ran on"
        );
        assert_eq!(server.words(), ["wait", "release"]);
    }
}

/// Else the next run of this host would be told that it has the place which this one gives back.
#[test]
fn the_lock_of_this_host_is_held_until_the_place_is_given_back() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(free));
    server.set(|what| {
        if what == "release" {
            Answer::Wait
        } else {
            free(what)
        }
    });
    let run = sandbox.distributex(server.port, &["true"]).start();
    wait_until("a release", || server.last("release").is_some());
    complains(
        &sandbox.distributex(server.port, &["touch ran"]).run(),
        1,
        &["Another instance"],
    );
    server.set(free);
    server.ask_again();
    assert_eq!(run.wait(), exited(0));
    assert!(!sandbox.host_lock().exists());
}

#[test]
fn a_command_that_is_deaf_is_killed_with_its_tree_before_its_place_is_given_back() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(free));
    let deaf = "trap '' TERM; setsid sleep 1000 & echo ready; sleep 1000; echo next";
    let run = sandbox
        .distributex(server.port, &["-k", "0.5", deaf])
        .start();
    wait_until("two sleeps", || sandbox.running("sleep 1000").len() == 2);
    server.set(|_| Answer::Wait);
    run.signal(libc::SIGTERM);
    wait_until("a release", || server.last("release").is_some());
    assert_eq!(sandbox.running("sleep 1000"), process::NONE);
    server.set(free);
    server.ask_again();
    assert_eq!(run.wait(), exited(137).printing("ready\n"));
}

#[test]
fn a_place_that_cannot_be_given_back_is_tried_for_ten_seconds_and_the_commands_end_stands() {
    let (sandbox, server) = (
        Sandbox::new(),
        LockServer::start(lends(7, Duration::from_mins(5))),
    );
    let run = sandbox
        .distributex(server.port, &["echo ready; cat; exit 3"])
        .leashed()
        .start();
    run.wait_for_output("ready");
    let lock = format!("{}@127.0.0.1:{}", sandbox.id, server.port);
    server.kill();
    let gone = Instant::now();
    let outcome = run.finish();
    assert_eq!((outcome.end, outcome.stdout.as_str()), (Ok(3), "ready\n"));
    outcome.complaint_of(
        "distributex",
        &[
            "cannot release",
            &lock,
            "connection refused",
            "when its lease on the server has ended, within 30",
        ],
    );
    assert!(gone.elapsed() >= 10 * SECOND);
}

#[test]
fn a_job_lives_on_while_its_server_is_away_for_less_than_its_lease() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(lends(7, 2 * SHORT)));
    let run = sandbox
        .distributex(server.port, &["-v", "cat"])
        .leashed()
        .start();
    run.job();
    wait_until("a renewal", || server.words().len() > 2);
    let port = server.kill();
    wait_until("the lock to be suspended", || {
        run.stderr().contains("suspended ")
    });
    let server = LockServer::start_at(port, lends(7, 2 * SHORT));
    wait_until("the lock to be resumed", || {
        run.stderr().contains("resumed ")
    });
    assert_eq!(run.finish().end, Ok(0));
    assert_eq!(server.words().last().map(String::as_str), Some("release 7"));
}

/// Starts a job on a server that lends for [`SHORT`], and then does something to either of them.
/// The job must be dead before what was lent is over, by the server's clock.
#[track_caller]
fn dies_in_time(what: &str, facts: &[&str], harm: impl FnOnce(&LockServer, &Running)) {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(lends(7, SHORT)));
    let probe = Probe::of(&sandbox);
    let run = probe
        .line(sandbox.distributex(server.port, &["--sysexits"]), FOREVER)
        .start();
    probe.wait_for(1);
    wait_until("a renewal", || server.words().len() > 2);
    let harmed = clock::since_boot();
    harm(&server, &run);
    wait_until("the tree to be dead", || {
        sandbox.processes().iter().all(|&pid| pid == run.pid())
    });
    let proofs = server
        .asked()
        .into_iter()
        .filter(|asked| ["wait", "renew 7"].contains(&asked.what.as_str()) && asked.at < harmed);
    let end = proofs.map(|asked| asked.at).max().expect("it was lent") + SHORT;
    run.signal(libc::SIGCONT);
    let outcome = run.wait();
    assert_eq!(outcome.end, Ok(79), "{}", outcome.stderr);
    outcome.complaint_of(
        "distributex",
        &[
            &[&format!("lost {}@127.0.0.1", sandbox.id), "killed"],
            facts,
        ]
        .concat(),
    );
    let holding = probe.all()[0].clone();
    report(
        &format!("{what}: tree dead before its lease was over by"),
        format!("{:.2} s", end.as_secs_f64() - holding.dead.as_secs_f64()),
    );
    assert!(
        holding.dead <= end,
        "{what}: dead at {:?}, lent until {end:?}",
        holding.dead
    );
}

#[test]
fn a_job_is_dead_before_its_place_is_anothers() {
    dies_in_time(
        "lock server frozen",
        &["not renewed for", "no answer for"],
        |server, _| server.set(|_| Answer::Freeze),
    );
    dies_in_time(
        "lock server hangs up",
        &["not renewed for", "closed the connection"],
        |server, _| server.set(|_| Answer::HangUp),
    );
    dies_in_time(
        "lock server replaced by the original",
        &["not renewed for", "said INVALID"],
        |server, _| {
            server.set(|_| original("INVALID"));
        },
    );
    dies_in_time(
        "distributex stopped",
        &["this process was stopped"],
        |_, run| run.signal(libc::SIGSTOP),
    );
}

#[test]
fn a_job_whose_place_was_taken_away_is_killed_at_once() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(lends(7, SHORT)));
    let probe = Probe::of(&sandbox);
    let run = probe
        .line(sandbox.distributex(server.port, &[]), FOREVER)
        .start();
    probe.wait_for(1);
    server.set(|what| plain(if what == "renew 7" { "NO" } else { "OK" }));
    complains_of_loss(&run.wait(), "no longer has this run as holder");
    let told = server.last("renew 7").unwrap();
    let survived = probe.all()[0].dead.saturating_sub(told);
    assert!(survived < SECOND, "{survived:?}");
}

#[track_caller]
fn complains_of_loss(outcome: &Outcome, why: &str) {
    fails(outcome, 1, &["lost ", why]);
}

#[test]
fn a_place_with_another_number_is_still_ours_and_a_warning() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(lends(7, SHORT)));
    let run = sandbox
        .distributex(server.port, &["echo ready; cat"])
        .leashed()
        .start();
    run.wait_for_output("ready");
    server.set(lends(8, SHORT));
    wait_until("a warning", || !run.stderr().is_empty());
    let outcome = run.finish();
    assert_eq!((outcome.end, outcome.stdout.as_str()), (Ok(0), "ready\n"));
    outcome.complaint_of("distributex", &["WARNING: ", "token 8 instead of 7"]);
    assert_eq!(server.words().last().map(String::as_str), Some("release 8"));
}

#[test]
fn what_our_own_server_takes_back_unheard_is_waited_for_again_before_the_command_starts() {
    let taken_back = |what: &str| {
        if what == "renew 7" {
            plain("NO")
        } else {
            lends(7, SHORT)(what)
        }
    };
    let (sandbox, server) = (Sandbox::new(), LockServer::start(taken_back));
    let waiter = sandbox.distributex(server.port, &["echo mine"]).start();
    wait_until("it to be asked for again", || server.words().len() > 2);
    server.set(lends(8, SHORT));
    assert_eq!(waiter.wait(), exited(0).printing("mine\n"));
    let words = server.words();
    assert_eq!(
        (&words[..3], &words[words.len() - 2..]),
        (
            &["wait", "renew 7", "wait"].map(String::from)[..],
            &["renew 8", "release 8"].map(String::from)[..]
        )
    );
}

#[test]
fn when_distributex_is_killed_the_tree_goes_and_until_then_nobody_else_runs_on_this_host() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(free));
    let deaf = "trap '' TERM; setsid sleep 1000 & echo ready; sleep 1000";
    let run = sandbox.distributex(server.port, &["-k", "1", deaf]).start();
    wait_until("two sleeps", || sandbox.running("sleep 1000").len() == 2);
    let pid = run.pid().to_string();
    run.signal(libc::SIGKILL);
    let outcome = run.wait();
    assert_eq!(outcome.end, Err(libc::SIGKILL));
    let second = sandbox.distributex(server.port, &["echo mine"]).run();
    complains(&second, 1, &["Another instance", &pid]);
    wait_until("the tree to be gone", || {
        sandbox.processes() == process::NONE
    });
    let third = sandbox.distributex(server.port, &["echo mine"]).run();
    assert_eq!((third.end, third.stdout.as_str()), (Ok(0), "mine\n"));
    third.complaint_of("distributex", &["Cleaning stale lockfile", &pid]);
}

#[test]
fn when_the_guard_is_killed_the_tree_goes_and_the_place_is_given_back() {
    let (sandbox, server) = (Sandbox::new(), LockServer::start(free));
    let run = sandbox
        .distributex(
            server.port,
            &["trap '' TERM; setsid sleep 1000 & sleep 1000"],
        )
        .start();
    wait_until("two sleeps", || sandbox.running("sleep 1000").len() == 2);
    process::kill(run.guard(), libc::SIGKILL);
    let outcome = run.wait();
    assert_eq!(sandbox.processes(), process::NONE);
    complains(&outcome, 1, &["guard"]);
    assert_eq!(server.words(), ["wait", "release"]);
    assert!(!sandbox.host_lock().exists());
}

#[test]
fn what_is_wrong_is_said_in_one_line_and_without_a_command_how_it_is_used() {
    let sandbox = Sandbox::new();
    let usage = "distributex: the command is missing\nUsage: distributex [options] -H HOST -r POOL COMMAND\n       distributex [options] -l -r POOL COMMAND\n       distributex [options] -H HOST --status|--check [-r POOL]\n       distributex [options] -H HOST --break -r POOL\n";
    for (words, code, stderr) in [
        (
            &["-H", "dx", "true"][..],
            2,
            "distributex: -r POOL is required\n",
        ),
        (
            &["-r", "p", "true"],
            2,
            "distributex: -H HOST is required (or use -l for a lock on this host only)\n",
        ),
        (
            &["-H", "dx", "-r", "p", "echo", "a"],
            2,
            "distributex: expected one quoted COMMAND, found 2 words; use: distributex -H dx -r p 'echo a'\n",
        ),
        (
            &["-H", "dx", "-r", "p", "--sysexits", "-p", "x", "true"],
            64,
            "distributex: -p: expected a port, 1 to 65535, found \"x\"\n",
        ),
        (&["-H", "dx", "-r", "p"], 1, usage),
    ] {
        let outcome = sandbox
            .program(&[&["--program=distributex"], words].concat())
            .run();
        assert_eq!(
            (
                outcome.end,
                outcome.stdout.as_str(),
                outcome.stderr.as_str()
            ),
            (Ok(code), "", stderr),
            "{words:?}"
        );
    }
}

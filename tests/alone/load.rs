//! `-m` and `-s`, under a load that is made up: a file in the place of /proc/loadavg, in a mount
//! namespace (which needs root).

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program asks sys::clock"
)]

use common::pty::Terminal;
use common::run::{Job, exited, killed};
use common::sandbox::Sandbox;
use common::scripted_server::ScriptedServer;
use common::zookeeper::ZooKeeper;
use common::{SECOND, wait_until};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The same program where the load of the last minute is this.
fn under_load<'a>(sandbox: &'a Sandbox, load: &str, job: &Job) -> Job<'a> {
    let file = sandbox.path("loadavg");
    fs::write(&file, format!("{load} 0.00 0.00 1/100 4711\n"))
        .expect("a file in the sandbox can be made");
    let script = format!(
        "mount --bind '{}' /proc/loadavg && exec {}",
        file.display(),
        job.line()
    );
    Job::new(sandbox, Path::new("unshare")).words(&["--mount", "sh", "-c", &script])
}

/// zk-flock with these keys in its config.
fn flock<'a>(sandbox: &'a Sandbox, address: &str, keys: &str, words: &[&str]) -> Job<'a> {
    let (path, log) = (sandbox.path("config.json"), sandbox.path("log"));
    let logger = format!(r#""logger": {{"path": "{}"}}"#, log.display());
    fs::write(
        &path,
        format!(
            r#"{{"host": "{address}", "timeout": 15, "app_id": "{}", {logger}{keys}}}"#,
            sandbox.id
        ),
    )
    .unwrap();
    sandbox
        .program(&["-c", path.to_str().unwrap(), "-l", "0"])
        .words(words)
}

#[test]
fn at_the_limit_or_above_nothing_is_run_and_nobody_is_asked() {
    let _alone = crate::alone();
    let (sandbox, server) = (Sandbox::new(), ScriptedServer::silent());
    let touch = &["lock", "touch ran"][..];
    for (keys, options, code) in [
        ("", &["-m", "30"][..], 1),
        ("", &["-m", "29.5", "-x", "17"], 1),
        ("", &["-m", "1", "--sysexits"], 75),
        (r#", "maxla": 30"#, &[], 1),
        (r#", "maxla": 99"#, &["-m", "1"], 1),
        (r#", "sleep": "ON""#, &["-m", "1"], 1),
    ] {
        let job = flock(&sandbox, &server.address, keys, &[options, touch].concat());
        assert_eq!(
            under_load(&sandbox, "30.00", &job).run(),
            exited(code),
            "{keys} {options:?}: silent but for the log"
        );
        assert!(
            sandbox.log().contains("current la 30.0"),
            "{}",
            sandbox.log()
        );
        fs::remove_file(sandbox.path("log")).unwrap();
    }
    assert_eq!(server.connections(), 0);
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn at_a_terminal_it_is_said_that_a_run_sleeps_or_does_not_start() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    let mut terminal = Terminal::open(&sandbox);
    for (options, said, code) in [
        (
            "-m2",
            "zk-flock: command not run: the load average is 2.50, the limit is 2 (--maxla)",
            "code=1",
        ),
        (
            "-s",
            "zk-flock: sleeping 2.50 s, as many seconds as the load average (--sleep)",
            "code=0",
        ),
    ] {
        let job = sandbox.local(&[options, "lock", "true"]);
        terminal.enter(&format!(
            "{}; echo code=$?",
            under_load(&sandbox, "2.50", &job).line()
        ));
        terminal.wait_for(said);
        terminal.wait_for(code);
    }
}

#[test]
fn below_the_limit_or_without_one_it_runs() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    let server = ZooKeeper::shared().address();
    for (keys, options) in [
        ("", &["-m", "30.01"][..]),
        ("", &["-m", "0"]),
        ("", &["-m", "-1"]),
        (r#", "maxla": 1"#, &["-m", "0"]),
        (r#", "maxla": -1"#, &[]),
        (r#", "maxla": "1""#, &[]),
    ] {
        let job = flock(
            &sandbox,
            &server,
            keys,
            &[options, &["lock", "echo mine"]].concat(),
        );
        let outcome = under_load(&sandbox, "30.00", &job).run();
        assert_eq!(
            (outcome.end, outcome.stdout.as_str()),
            (Ok(0), "mine\n"),
            "{keys} {options:?}"
        );
        assert_eq!(
            outcome.stderr.contains("no limit"),
            keys.contains("\"1\""),
            "{}",
            outcome.stderr
        );
    }
}

#[test]
fn sleep_takes_as_many_seconds_as_the_load_and_none_of_the_time_to_connect() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    let server = ZooKeeper::shared().address();
    for (keys, options, sleeps) in [
        ("", &["-s"][..], true),
        (r#", "sleep": "ON""#, &[], true),
        (r#", "sleep": "OFF""#, &["-s"], true),
        (r#", "sleep": "OFF""#, &[], false),
    ] {
        let job = flock(
            &sandbox,
            &server,
            keys,
            &[options, &["--timeout", "2", "lock", "echo mine"]].concat(),
        );
        let load = if sleeps { "2.25" } else { "3600" };
        let run = under_load(&sandbox, load, &job).start();
        let started = run.started;
        assert_eq!(run.wait(), exited(0).printing("mine\n"));
        assert!(
            !sleeps || started.elapsed() >= Duration::from_millis(2250),
            "{keys} {options:?}: {:?}",
            started.elapsed()
        );
    }
}

#[test]
fn a_signal_ends_the_sleep() {
    let _alone = crate::alone();
    let (sandbox, server) = (Sandbox::new(), ScriptedServer::silent());
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let run = under_load(
            &sandbox,
            "3600",
            &flock(&sandbox, &server.address, "", &["-s", "lock", "touch ran"]),
        )
        .start();
        wait_until("zk-flock to run", || {
            common::process::words(run.pid()).contains("touch ran")
                && !common::process::words(run.pid()).contains("mount")
        });
        run.signal(signal);
        let started = std::time::Instant::now();
        assert_eq!(run.wait(), killed(signal));
        assert!(started.elapsed() < 30 * SECOND);
    }
    assert_eq!(server.connections(), 0);
    assert!(!sandbox.path("ran").exists());
}

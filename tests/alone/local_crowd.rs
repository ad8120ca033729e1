//! `--local` under a crowd, and in folders that cannot be trusted.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time; the program may not"
)]

use common::run::{Job, exited};
use common::sandbox::Sandbox;
use common::{IN_TURN, SECOND, assert_in_turn, process, report, summary, wait_for, wait_until};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

#[test]
fn fifty_waiters_cost_no_processor_and_then_all_run_one_after_another() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    let mut holder = sandbox.local(&["-l", "0", "lock", "cat"]).leashed().start();
    holder.job();
    let waiters: Vec<_> = (0..50)
        .map(|_| {
            sandbox
                .local(&["-l", "0", "-w", "60", "-x", "17", "lock", IN_TURN])
                .start()
        })
        .collect();
    let helpers = || {
        sandbox
            .processes()
            .into_iter()
            .filter(|&pid| process::name(pid) == "lock-waiter")
            .collect::<Vec<_>>()
    };
    wait_until("fifty helpers", || helpers().len() == 50);
    std::thread::sleep(2 * SECOND); // in which anybody who polls would show
    let spent: Vec<Duration> = waiters
        .iter()
        .map(common::run::Running::pid)
        .chain(helpers())
        .filter_map(process::cpu)
        .collect();
    assert_eq!(spent.len(), 100);
    assert!(
        spent
            .iter()
            .all(|spent| *spent < Duration::from_millis(200)),
        "{spent:?}"
    );
    report(
        "processor time of a local waiter in its first 2 s",
        summary(spent),
    );
    holder.let_go();
    assert_eq!(holder.wait(), exited(0));
    for waiter in waiters {
        assert_eq!(waiter.wait(), exited(0));
    }
    assert_in_turn(&sandbox.read("runs"), 50);
}

#[test]
fn a_killed_holder_whose_command_is_deaf_keeps_the_lock_until_the_command_is_gone() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    let deaf =
        "sh -c 'trap \"\" TERM; echo ready; while :; do echo alive >>signs; sleep 0.01; done'";
    let holder = sandbox.local(&["-k", "1", "lock", deaf]).start();
    holder.wait_for_output("ready");
    let waiters: Vec<_> = (0..5)
        .map(|_| {
            sandbox
                .local(&["-l", "0", "-w", "60", "lock", "sh -c 'echo next >>signs'"])
                .start()
        })
        .collect();
    wait_until("the waiters", || {
        sandbox
            .processes()
            .iter()
            .filter(|&&pid| process::name(pid) == "lock-waiter")
            .count()
            == 5
    });
    holder.signal(libc::SIGKILL);
    for waiter in waiters {
        assert_eq!(waiter.wait(), exited(0));
    }
    let signs = sandbox.read("signs");
    let last_alive = signs.rfind("alive").expect("the command ran");
    assert_eq!(
        signs[last_alive..].matches("next").count(),
        5,
        "nobody was there before the command was gone: {signs}"
    );
    assert!(!signs[..last_alive].contains("next"));
    assert_eq!(holder.wait().end, Err(libc::SIGKILL));
}

#[test]
fn a_link_in_the_place_of_a_lock_file_is_refused_and_its_target_left_alone() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("locks").join(&sandbox.id)).unwrap();
    fs::write(sandbox.path("precious"), "text").unwrap();
    for target in ["precious", "not-there"] {
        let link = sandbox.path("locks").join(&sandbox.id).join("lock");
        symlink(sandbox.path(target), &link).unwrap();
        for options in [&[][..], &["-w", "1"], &["-n", "0"]] {
            let words = [options, &["-x", "17", "lock", "touch ran"]].concat();
            sandbox
                .local(&words)
                .run()
                .complains(1, &[link.to_str().unwrap(), "symbolic link"]);
        }
        fs::remove_file(&link).unwrap();
    }
    assert_eq!(
        (
            sandbox.read("precious").as_str(),
            sandbox.path("not-there").exists(),
            sandbox.path("ran").exists()
        ),
        ("text", false, false)
    );
}

#[test]
fn what_is_no_file_in_the_place_of_a_lock_file_is_refused() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("locks").join(&sandbox.id).join("lock")).unwrap();
    sandbox
        .local(&["lock", "touch ran"])
        .run()
        .complains(1, &["lock", "directory"]);
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn the_token_grows_from_what_the_file_holds() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    let token = |found: Option<&str>| {
        let file = sandbox.path("locks").join(&sandbox.id).join("lock");
        if let Some(found) = found {
            fs::write(&file, found).unwrap();
        }
        let run = sandbox
            .local(&["-l", "0", "lock", "sh -c 'echo $ZK_FLOCK_TOKEN'"])
            .run();
        assert_eq!(run.end, Ok(0), "{found:?}: {run:?}");
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            run.stdout,
            "the file holds it"
        );
        run.stdout.trim().parse::<i64>().unwrap()
    };
    let first = token(None);
    assert!(
        first > 1_700_000_000_000_000_000,
        "nanoseconds of real time"
    );
    assert_eq!(
        token(Some("9000000000000000000\n")),
        9_000_000_000_000_000_001
    );
    assert_eq!(token(None), 9_000_000_000_000_000_002);
    let emptied = token(Some(""));
    assert!(
        emptied > first && emptied < 9_000_000_000_000_000_000,
        "{emptied}"
    );
}

/// Asserts that root, with this done in /run/lock before, gets such an outcome from the default
/// folder.
fn in_default_folder(sandbox: &Sandbox, before: &str) -> common::run::Outcome {
    let line = sandbox
        .program(&[
            "--local",
            "--app-id",
            &sandbox.id,
            "-l",
            "0",
            "lock",
            "stat -c %a:%u /run/lock/zk-flock-0",
        ])
        .line();
    let script = format!(
        "mkdir -p /run/lock && mount -t tmpfs none /run/lock && cd /run/lock && {{ {before}; }} && exec {line}"
    );
    Job::new(sandbox, Path::new("unshare"))
        .words(&["--mount", "sh", "-c", &script])
        .run()
}

#[test]
fn the_default_folder_is_ours_alone_or_refused() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    for before in [":", "umask 0", "umask 777", "mkdir -m 700 zk-flock-0"] {
        assert_eq!(
            in_default_folder(&sandbox, before),
            exited(0).printing("700:0\n"),
            "{before}"
        );
    }
    for before in [
        "mkdir -m 755 zk-flock-0",
        "mkdir -m 777 zk-flock-0",
        "mkdir -m 1777 zk-flock-0",
        "mkdir -m 700 zk-flock-0 && chown 54321 zk-flock-0",
        "mkdir -m 700 other && ln -s other zk-flock-0",
        "touch zk-flock-0",
    ] {
        in_default_folder(&sandbox, before).complains(1, &["/run/lock/zk-flock-0", "--local=DIR"]);
    }
}

#[test]
fn a_waiter_whose_helper_is_killed_waits_on() {
    let _alone = crate::alone();
    let sandbox = Sandbox::new();
    let mut holder = sandbox.local(&["-l", "0", "lock", "cat"]).leashed().start();
    holder.job();
    let waiter = sandbox
        .local(&["-l", "0", "-w", "60", "lock", "echo mine"])
        .start();
    let helper = wait_for("its helper", || {
        process::children(waiter.pid()).first().copied()
    });
    process::kill(helper, libc::SIGKILL);
    holder.let_go();
    assert_eq!(holder.wait(), exited(0));
    assert_eq!(
        waiter.wait(),
        exited(0).printing("mine\n"),
        "a helper that was killed is sent again"
    );
}

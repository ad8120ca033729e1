//! `--local`: the same promises on one host, by flock(2) on a file and without any server.

use common::run::{Job, Running, exited};
use common::sandbox::Sandbox;
use common::{IN_TURN, assert_in_turn, process, wait_until};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Path in the sandbox of the file that stands for the lock.
fn file(sandbox: &Sandbox) -> String {
    format!("locks/{}/lock", sandbox.id)
}

/// Waits until so many processes sleep in flock(2) on the file.
#[track_caller]
fn wait_for_waiters(sandbox: &Sandbox, count: usize) {
    let inode = fs::metadata(sandbox.path(&file(sandbox)))
        .expect("the lock file is there")
        .ino();
    let waits = |line: &&str| line.contains("-> FLOCK") && line.contains(&format!(":{inode} "));
    wait_until("waiters", || {
        fs::read_to_string("/proc/locks")
            .expect("/proc is mounted")
            .lines()
            .filter(waits)
            .count()
            == count
    });
}

#[test]
fn zk_flock_exits_with_the_code_of_the_command() {
    let sandbox = Sandbox::new();
    for code in [0, 1, 17, 123, 255] {
        assert_eq!(
            sandbox
                .local(&["-l", "0", "lock", &format!("sh -c 'exit {code}'")])
                .run(),
            exited(code)
        );
    }
    assert_eq!(
        sandbox
            .local(&["-l", "0", "lock", "sh -c 'kill -9 $$'"])
            .run(),
        exited(137)
    );
}

#[test]
fn no_config_and_no_application_are_needed() {
    let sandbox = Sandbox::new();
    let option = format!("--local={}", sandbox.path("locks").display());
    let missing = sandbox.path("no-config");
    let words = [
        &option,
        "--confpath",
        missing.to_str().unwrap(),
        "-l",
        "0",
        "lock",
        "echo mine",
    ];
    let named = sandbox.program(&words).run();
    assert_eq!(
        named.end,
        Ok(1),
        "a config file that was asked for must be there: {named:?}"
    );
    assert_eq!(
        sandbox
            .program(&[&option, "-l", "0", "lock", "echo mine"])
            .run(),
        exited(0).printing("mine\n")
    );
}

#[test]
fn the_lock_file_stays_and_is_free() {
    let sandbox = Sandbox::new();
    for _ in 0..2 {
        assert_eq!(sandbox.local(&["-l", "0", "lock", "true"]).run(), exited(0));
        assert!(sandbox.path(&file(&sandbox)).is_file());
    }
}

#[test]
fn a_busy_lock_is_silent_and_exits_0_or_with_the_chosen_code() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.local(&["-l", "0", "lock", "cat"]).leashed().start();
    holder.job();
    for (options, code) in [
        (&[][..], 0),
        (&["-x", "17"], 17),
        (&["--sysexits"], 75),
        (&["-w", "0.3", "-x", "17"], 17),
    ] {
        assert_eq!(
            sandbox
                .local(&[options, &["lock", "touch ran"]].concat())
                .run(),
            exited(code),
            "{options:?}"
        );
    }
    assert!(!sandbox.path("ran").exists());
    assert_eq!(
        sandbox.local(&["-l", "0", "other", "echo mine"]).run(),
        exited(0).printing("mine\n"),
        "another name is another lock"
    );
    holder.let_go();
    assert_eq!(holder.wait(), exited(0));
}

#[test]
fn readers_hold_a_file_together_and_a_writer_holds_it_alone() {
    let sandbox = Sandbox::new();
    let reads = |words: &[&str]| sandbox.local(&[&["--shared", "-l", "0"], words].concat());
    let token = ["lock", "--", "sh", "-c", "echo $ZK_FLOCK_TOKEN; cat"];
    let first = reads(&token).leashed().start();
    first.job();
    let mut writer = sandbox
        .local(&["-l", "0", "-w", "60", "lock", "echo alone"])
        .start();
    wait_for_waiters(&sandbox, 1);
    let second = reads(&token).leashed().start();
    second.job();
    for (options, code) in [(&["-x", "17"][..], 17), (&["-w", "0.2", "-x", "18"], 18)] {
        let words = [options, &["lock", "touch ran"]].concat();
        assert_eq!(sandbox.local(&words).run(), exited(code), "{options:?}");
    }
    let status = sandbox.local(&["--status", "--json"]).run().stdout;
    let holds = |run: &Running| status.contains(&format!("\"pid\":{}", run.pid()));
    assert!(holds(&first) && holds(&second), "{status}");
    assert!(status.contains("local-shared"), "{status}");
    assert!(!writer.has_ended());
    let [first, last] = [first, second].map(|mut run| {
        run.let_go();
        run.wait()
    });
    let tokens = [first, last].map(|run| run.stdout.trim().parse::<i64>().expect("a token"));
    assert!(tokens[0] < tokens[1], "{tokens:?}");
    assert_eq!(writer.wait(), exited(0).printing("alone\n"));
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_waiter_acquires_when_the_holder_releases() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.local(&["-l", "0", "lock", "cat"]).leashed().start();
    holder.job();
    let mut waiter = sandbox
        .local(&["-l", "0", "-w", "60", "lock", "echo mine"])
        .start();
    wait_for_waiters(&sandbox, 1);
    assert!(!waiter.has_ended());
    holder.let_go();
    assert_eq!(holder.wait(), exited(0));
    assert_eq!(waiter.wait(), exited(0).printing("mine\n"));
}

#[test]
fn a_signal_ends_the_wait() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.local(&["-l", "0", "lock", "cat"]).leashed().start();
    holder.job();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let waiter = sandbox.local(&["-w", "inf", "lock", "touch ran"]).start();
        wait_for_waiters(&sandbox, 1);
        waiter.signal(signal);
        let outcome = waiter.wait();
        assert_eq!((outcome.end, outcome.stdout.as_str()), (Err(signal), ""));
        wait_for_waiters(&sandbox, 0);
    }
    assert!(!sandbox.path("ran").exists());
    holder.let_go();
    assert_eq!(holder.wait(), exited(0));
}

#[test]
fn thirty_runs_at_once_never_overlap() {
    let sandbox = Sandbox::new();
    let runs: Vec<_> = (0..30)
        .map(|_| {
            sandbox
                .local(&["-l", "0", "-w", "60", "-x", "17", "lock", IN_TURN])
                .start()
        })
        .collect();
    for run in runs {
        assert_eq!(run.wait(), exited(0));
    }
    assert_in_turn(&sandbox.read("runs"), 30);
}

/// On one processor the guard of the last run often has not had its turn yet when the next run
/// asks.
#[test]
fn a_run_never_finds_the_lock_of_the_previous_run_held() {
    let sandbox = Sandbox::new();
    let processor = process::status(process::own(), "Cpus_allowed_list").unwrap();
    let processor = processor.split(['-', ',']).next().unwrap();
    let line = sandbox
        .local(&["-l", "0", "-x", "17", "lock", "true"])
        .line();
    let script = format!("for i in $(seq 300); do {line} || echo $?; done");
    let runs = Job::new(&sandbox, Path::new("taskset"))
        .words(&["-c", processor, "sh", "-c", &script])
        .run();
    assert_eq!(
        runs,
        exited(0),
        "17: the lock outlived the run that held it"
    );
}

#[test]
fn the_fencing_token_grows() {
    let sandbox = Sandbox::new();
    let mut last = 0;
    for _ in 0..20 {
        let run = sandbox
            .local(&["-l", "0", "lock", "sh -c 'echo $ZK_FLOCK_TOKEN'"])
            .run();
        let token: u64 = run
            .stdout
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("{run:?}"));
        assert_eq!(run, exited(0).printing(&format!("{token}\n")));
        assert!(token > last, "{token} after {last}");
        last = token;
    }
}

#[test]
fn the_command_gets_lock_and_token_in_its_environment() {
    let sandbox = Sandbox::new();
    let job = sandbox.local(&[
        "-l",
        "0",
        "lock",
        "sh -c 'echo $ZK_FLOCK_HELD $ZK_FLOCK_LOCK ${ZK_FLOCK_SESSION-none}'",
    ]);
    let run = job.env("ZK_FLOCK_SESSION", "0x1").run(); // of a lock around this one
    assert_eq!(
        run,
        exited(0).printing(&format!(
            "1 {} none\n",
            sandbox.path(&file(&sandbox)).display()
        ))
    );
}

#[test]
fn after_a_killed_holder_the_lock_is_free_when_the_tree_is_dead() {
    let sandbox = Sandbox::new();
    let deaf = "sh -c 'trap \"\" TERM; setsid sleep 1000 & echo ready; sleep 1000'";
    let holder = sandbox.local(&["-k", "0.5", "lock", deaf]).start();
    holder.wait_for_output("ready");
    wait_until("two sleeps", || sandbox.running("sleep 1000").len() == 2);
    let waiter = sandbox
        .local(&["-l", "0", "-w", "60", "lock", "sh -c 'echo ready; cat'"])
        .leashed()
        .start();
    wait_for_waiters(&sandbox, 1);
    holder.signal(libc::SIGKILL);
    waiter.wait_for_output("ready");
    assert_eq!(sandbox.running("sleep 1000"), process::NONE);
    assert_eq!(waiter.finish(), exited(0).printing("ready\n"));
    holder.wait().complaint(&["killed"]);
}

#[test]
fn after_a_killed_guard_the_tree_is_killed_and_the_lock_free() {
    let sandbox = Sandbox::new();
    let holder = sandbox
        .local(&["lock", "sh -c 'setsid sleep 1000 & echo ready; sleep 1000'"])
        .start();
    holder.wait_for_output("ready");
    process::kill(holder.guard(), libc::SIGKILL);
    let outcome = holder.wait();
    assert_eq!(sandbox.processes(), process::NONE);
    assert_eq!((outcome.end, outcome.stdout.as_str()), (Ok(1), "ready\n"));
    outcome.complaint(&["guard"]);
    assert_eq!(
        sandbox
            .local(&["-l", "0", "lock", "echo mine"])
            .run()
            .stdout,
        "mine\n"
    );
}

#[test]
fn a_daemon_of_the_command_does_not_keep_the_lock() {
    let sandbox = Sandbox::new();
    assert_eq!(
        sandbox
            .local(&["-l", "0", "lock", "sh -c 'setsid sleep 1000 & exit 0'"])
            .run(),
        exited(0)
    );
    assert_eq!(
        sandbox.local(&["-l", "0", "lock", "echo mine"]).run(),
        exited(0).printing("mine\n")
    );
    wait_until("the daemon", || sandbox.running("sleep 1000").len() == 1);
    process::kill(sandbox.running("sleep 1000")[0], libc::SIGKILL);
}

#[test]
fn users_with_write_access_to_the_folder_may_use_its_locks() {
    for (mode, expected) in [(0o1777, 0o1666), (0o755, 0o1644), (0o700, 0o1600)] {
        let sandbox = Sandbox::new();
        let folder = sandbox.path("locks");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(sandbox.local(&["-l", "0", "lock", "true"]).run(), exited(0));
        let lock = sandbox.path(&file(&sandbox));
        let modes =
            [lock.parent().unwrap(), &lock].map(|path| fs::metadata(path).unwrap().mode() & 0o7777);
        assert_eq!(modes, [mode, expected], "below a folder of mode {mode:o}");
    }
}

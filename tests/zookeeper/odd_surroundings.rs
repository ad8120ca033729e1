//! Surroundings that nobody wants and everybody has one day: no room, no descriptors, no processes,
//! no stdio, no /proc. The run works, or ends with one line that says why; it never hangs, and
//! leaves no node and no process behind.

use common::run::{Job, Outcome, exited};
use common::sandbox::Sandbox;
use common::wait_until;
use common::zookeeper::ZooKeeper;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// A shell that ends as the program of this script does.
fn shell<'a>(sandbox: &'a Sandbox, script: &str) -> Job<'a> {
    Job::new(sandbox, Path::new("bash")).words(&["-c", script])
}

/// zk-flock with a config that logs to this path.
fn logging<'a>(sandbox: &'a Sandbox, log: &str, words: &[&str]) -> Job<'a> {
    let path = sandbox.path("config.json");
    let server = ZooKeeper::shared().address();
    let config = format!(
        r#"{{"host": "{server}", "timeout": 15, "app_id": "{}", "logger": {{"path": "{log}"}}}}"#,
        sandbox.id
    );
    fs::write(&path, config).expect("the config can be written");
    sandbox
        .program(&["-c", path.to_str().unwrap(), "-l", "0"])
        .words(words)
}

/// Asserts that the job ran, and that one line on stderr says that the log cannot be written, and
/// why.
#[track_caller]
fn warns_of_the_log(outcome: &Outcome, facts: &[&str]) {
    assert_eq!(
        (outcome.end, outcome.stdout.as_str()),
        (Ok(0), "mine\n"),
        "{outcome:?}"
    );
    outcome.complaint(&[&["cannot write log"], facts].concat());
}

#[test]
fn a_log_that_cannot_be_opened_is_one_warning() {
    let sandbox = Sandbox::new();
    for (log, why) in [
        (
            sandbox.path("missing/log").display().to_string(),
            "no such file",
        ),
        (sandbox.folder.display().to_string(), "is a directory"),
        ("/dev/full".to_owned(), "no space left"),
        ("/proc/version".to_owned(), ""),
    ] {
        warns_of_the_log(
            &logging(&sandbox, &log, &["lock", "echo mine"]).run(),
            &[&log, why],
        );
    }
}

#[test]
fn a_log_fifo_that_is_not_read_blocks_nothing() {
    let sandbox = Sandbox::new();
    let log = sandbox.path("fifo").display().to_string();
    let line = logging(&sandbox, &log, &["lock", "echo mine"]).line();
    warns_of_the_log(
        &shell(&sandbox, &format!("mkfifo fifo && exec {line}")).run(),
        &[&log],
    );
    let full = format!(
        "exec 9<>fifo; dd if=/dev/zero of=fifo oflag=nonblock bs=4096 2>/dev/null; exec {line}"
    );
    warns_of_the_log(&shell(&sandbox, &full).run(), &[&log]);
}

#[test]
fn a_rotated_log_continues_in_the_new_file() {
    let sandbox = Sandbox::new();
    let log = sandbox.path("log");
    let mut run = logging(&sandbox, log.to_str().unwrap(), &["lock", "cat"])
        .leashed()
        .start();
    wait_until("the first lines", || {
        sandbox.log().contains("Start subprocess")
    });
    fs::rename(&log, sandbox.path("log.1")).unwrap();
    run.let_go();
    assert_eq!(run.wait(), exited(0));
    assert!(
        sandbox.log().contains("Child exited with code: 0")
            && !sandbox.log().contains("Start subprocess")
    );
    assert!(!sandbox.read("log.1").contains("Child exited"));
}

#[test]
fn a_log_at_the_limit_of_its_size_is_one_warning() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("log"), vec![b'x'; 8192]).unwrap();
    let line = logging(
        &sandbox,
        sandbox.path("log").to_str().unwrap(),
        &["lock", "echo mine"],
    )
    .line();
    let outcome = shell(&sandbox, &format!("ulimit -f 8; exec {line}")).run();
    warns_of_the_log(&outcome, &["file too large"]);
}

#[test]
fn the_command_dies_of_its_file_size_limit() {
    let sandbox = Sandbox::new();
    let line = sandbox
        .flock(
            ZooKeeper::shared(),
            &["-l", "0", "lock", "head -c 100000 /dev/zero"],
        )
        .line();
    let outcome = shell(&sandbox, &format!("ulimit -c 0; ulimit -f 8; exec {line}")).run();
    assert_eq!(outcome.end, Ok(128 + libc::SIGXFSZ), "{}", outcome.stderr);
}

#[test]
fn without_stdin_stdout_or_stderr_the_command_runs_and_has_none_of_them_either() {
    let sandbox = Sandbox::new();
    let probe =
        "sh -c 'for fd in 0 1 2; do test -e /proc/$$/fd/$fd && echo $fd >>open; done; exit 7'";
    for closed in 1..8 {
        let redirections: Vec<_> = (0..3)
            .filter(|fd| closed & 1 << fd != 0)
            .map(|fd| format!("{fd}>&-"))
            .collect();
        for job in [
            sandbox.flock(ZooKeeper::shared(), &["-l", "0", "-v", "lock", probe]),
            sandbox.local(&["-l", "0", "lock", probe]),
        ] {
            let outcome = shell(
                &sandbox,
                &format!("exec {} {}", job.line(), redirections.join(" ")),
            )
            .run();
            assert_eq!(
                (outcome.end, outcome.stdout.as_str()),
                (Ok(7), ""),
                "{redirections:?}"
            );
            let open: Vec<String> = (0..3)
                .filter(|fd| closed & 1 << fd == 0)
                .map(|fd| fd.to_string())
                .collect();
            assert_eq!(
                sandbox.read("open").lines().collect::<Vec<_>>(),
                open,
                "{redirections:?}"
            );
            let _ = fs::remove_file(sandbox.path("open"));
        }
    }
}

#[test]
fn a_full_stderr_pipe_blocks_nothing() {
    let sandbox = Sandbox::new();
    let full =
        "mkfifo fifo; exec 9<>fifo; dd if=/dev/zero of=fifo oflag=nonblock bs=4096 2>/dev/null";
    let line = sandbox
        .flock(ZooKeeper::shared(), &["-v", "-l", "0", "lock", "echo mine"])
        .line();
    assert_eq!(
        shell(&sandbox, &format!("{full}; exec {line} 2>&9")).run(),
        exited(0).printing("mine\n")
    );
    let wrong = sandbox.program(&["--bogus"]).line();
    assert_eq!(
        shell(&sandbox, &format!("exec 9<>fifo; exec {wrong} 2>&9")).run(),
        exited(2)
    );
}

#[test]
fn a_closed_stderr_or_stdout_pipe_stops_nothing() {
    let sandbox = Sandbox::new();
    let line = sandbox
        .flock(
            ZooKeeper::shared(),
            &["-v", "-n", "2", "-l", "0", "lock", "sh -c 'exit 7'"],
        )
        .line();
    let script = format!("exec 8> >(:); wait $!; {line} >&8 2>&8; exit $?");
    assert_eq!(shell(&sandbox, &script).run(), exited(7));
}

/// Runs under one limit after another; asserts that each run either works or says in one line why
/// not, and that nothing is left of it.
#[track_caller]
fn works_or_says_why(
    sandbox: &Sandbox,
    job: &Job,
    limits: impl Iterator<Item = String>,
) -> Vec<bool> {
    let mut client = sandbox.client(ZooKeeper::shared());
    let run = |limit: String| {
        let outcome = shell(sandbox, &format!("{limit} || exit 99; exec {}", job.line())).run();
        if outcome.end != Ok(0) {
            outcome.complains(1, &[]);
        }
        assert!(client.stat(&sandbox.node("lock")).is_none(), "{limit}");
        wait_until("nothing to be left", || sandbox.processes().is_empty());
        outcome == exited(0).printing("mine\n")
    };
    limits.map(run).collect()
}

#[test]
fn nine_descriptors_are_enough_and_fewer_are_an_error() {
    let sandbox = Sandbox::new();
    let server = ZooKeeper::shared().address();
    let node = sandbox.program(&[
        "--hosts",
        &server,
        "--app-id",
        &sandbox.id,
        "-l",
        "0",
        "lock",
        "echo mine",
    ]);
    for job in [node, sandbox.local(&["-l", "0", "lock", "echo mine"])] {
        let worked = works_or_says_why(
            &sandbox,
            &job,
            (4..20).map(|limit| format!("ulimit -n {limit}")),
        );
        let least = 4 + worked.iter().position(|worked| *worked).unwrap();
        assert!(
            worked.iter().skip(least - 4).all(|worked| *worked),
            "{worked:?}"
        );
        common::report("fewest descriptors that a run needs", least);
    }
}

#[test]
fn a_process_limit_is_an_error() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("x"), "").unwrap();
    // A user other than root, whom no limit binds, but with root's power over files. No other test
    // has a process of this user: the limit counts them.
    let user = "setpriv --reuid=54322 --clear-groups --inh-caps=-all,+dac_override --ambient-caps=-all,+dac_override --bounding-set=-all,+dac_override";
    let server = ZooKeeper::shared().address();
    let node = sandbox.program(&[
        "--hosts",
        &server,
        "--app-id",
        &sandbox.id,
        "-l",
        "0",
        "lock",
        "echo mine",
    ]);
    for job in [node, sandbox.local(&["-l", "0", "lock", "echo mine"])] {
        let outcome = shell(
            &sandbox,
            &format!("ulimit -u 0; exec {user} {}", job.line()),
        )
        .run();
        outcome.complains(1, &["cannot start", "temporarily unavailable"]);
        let outcome = shell(&sandbox, &format!("exec {user} {}", job.line())).run();
        assert_eq!(
            outcome,
            exited(0).printing("mine\n"),
            "that user could have"
        );
    }
    assert!(
        sandbox
            .client(ZooKeeper::shared())
            .stat(&sandbox.node("lock"))
            .is_none()
    );
}

#[test]
fn a_full_disk_is_an_error_of_a_local_lock() {
    let sandbox = Sandbox::new();
    let job = |options: &[&str]| {
        sandbox
            .local(&[&["-l", "0", "-x", "17"], options, &["lock", "echo mine"]].concat())
            .line()
    };
    let full = "mkdir -p locks && mount -t tmpfs -o size=16k none locks && { dd if=/dev/zero of=locks/fill bs=1k 2>/dev/null; :; }";
    for (options, code) in [(&[][..], 1), (&["-w", "5"], 1), (&["--sysexits"], 71)] {
        let script = format!("{full}; exec {}", job(options));
        let outcome = Job::new(&sandbox, Path::new("unshare"))
            .words(&["--mount", "bash", "-c", &script])
            .run();
        outcome.complains(code, &["lock", "no space left"]);
    }
    // What may not grow at all: stdout and stderr are files too, so they go through a pipe.
    let outcome = shell(
        &sandbox,
        &format!(
            "(ulimit -f 0; exec {}) 2>&1 | cat; exit ${{PIPESTATUS[0]}}",
            job(&[])
        ),
    )
    .run();
    assert_eq!(outcome.end, Ok(1));
    assert!(outcome.stdout.contains("file too large"), "{outcome:?}");
}

#[test]
fn in_an_empty_root_without_proc_and_dev_a_local_lock_works() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("root")).unwrap();
    fs::copy(common::sandbox::executable(), sandbox.path("root/zk-flock")).unwrap();
    let run = |words: &str| shell(&sandbox, &format!("exec chroot root /zk-flock {words}")).run();
    // The only program in there is itself.
    let version = sandbox.program(&["--version"]).run().stdout;
    for words in [
        "--local=/locks -l 0 lock '/zk-flock --version'",
        "--local -l 0 lock '/zk-flock --version'",
    ] {
        let outcome = run(words);
        assert_eq!(
            (outcome.end, outcome.stdout.as_str()),
            (Ok(0), version.as_str()),
            "{outcome:?}"
        );
        assert!(outcome.stderr.lines().count() <= 1, "{}", outcome.stderr);
    }
    assert_eq!(
        run("--local=/locks -l 0 lock '/zk-flock --bogus'").end,
        Ok(2)
    );
    run("--local=/locks lock /no/such/file").complains(127, &["/no/such/file"]);
    let server = ZooKeeper::shared().address();
    let words = format!(
        "--hosts {server} --app-id {} -l 0 lock '/zk-flock --version'",
        sandbox.id
    );
    assert_eq!(run(&words).stdout, version);
    assert_eq!(
        run(&format!("-d {words}")).end,
        Ok(1),
        "without /dev/null there are no daemons"
    );
}

#[test]
fn without_proc_term_still_ends_the_command() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("root")).unwrap();
    fs::copy(common::sandbox::executable(), sandbox.path("root/zk-flock")).unwrap();
    // A holder in there whose command waits for a lock that is held outside: two locks, one in the
    // other.
    let inner = "/zk-flock --local=/locks -w inf -l 0 inner /zk-flock";
    let mut outside = sandbox
        .program(&[
            &format!("--local={}", sandbox.path("root/locks").display()),
            "-l",
            "0",
            "inner",
            "cat",
        ])
        .leashed()
        .start();
    outside.job();
    let line = format!("exec chroot root /zk-flock --local=/locks -l 0 outer '{inner}'");
    let run = shell(&sandbox, &line).start();
    wait_until("the command to wait", || {
        sandbox
            .processes()
            .iter()
            .any(|&pid| common::process::words(pid) == inner)
    });
    run.signal(libc::SIGTERM);
    let outcome = run.wait();
    assert_eq!(outcome.end, Ok(128 + libc::SIGTERM), "{outcome:?}");
    assert!(
        !sandbox
            .processes()
            .iter()
            .any(|&pid| common::process::words(pid) == inner)
    );
    outside.let_go();
    assert_eq!(outside.wait(), exited(0));
}

/// A program that its user may not read is hidden by hidepid, and a child of it that has become the
/// guard's is not: so the guard sees a tree, and not the command.
#[test]
fn a_command_that_proc_hides_gets_the_signals_that_are_forwarded() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("locks")).unwrap();
    let unreadable = "cp \"$(command -v sleep)\" hidden && chmod 0711 hidden && chmod 0777 locks";
    assert_eq!(shell(&sandbox, unreadable).run(), exited(0));
    let user =
        "setpriv --reuid=54321 --regid=54321 --clear-groups --bounding-set=-all --inh-caps=-all";
    let hiding = "mount -t proc -o hidepid=invisible proc /proc";
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let words = "-v -k 5 -l 0 lock -- sh -c '(sleep 1000 &); exec ./hidden 1001'";
        let line = format!(
            "{hiding} && exec {user} {} --local=locks {words}",
            common::sandbox::executable().display()
        );
        let run = Job::new(&sandbox, Path::new("unshare"))
            .words(&["--mount", "bash", "-c", &line])
            .start();
        let is_there = |words| !sandbox.running(words).is_empty();
        wait_until("the tree", || {
            is_there("sleep 1000") && is_there("./hidden 1001")
        });
        run.signal(signal);
        let outcome = run.wait();
        let ended = format!("Child exited with code: -{signal} ");
        assert!(outcome.stderr.contains(&ended), "{outcome:?}");
        wait_until("nothing to be left", || sandbox.processes().is_empty());
    }
}

/// S12: neither the guard nor /proc could name the children of a command that was killed, and they
/// lived on without the lock.
#[test]
fn without_proc_the_tree_is_killed_when_zk_flock_is() {
    let sandbox = Sandbox::new();
    for options in ["-k 0.2", "-p KILL"] {
        let tree =
            "-- sh -c \"trap '' TERM; sleep 1000 & setsid sh -c 'sleep 1000 & wait' & wait\"";
        let words = [
            "--local=locks",
            "-w",
            "inf",
            "-l",
            "0",
            options,
            "lock",
            tree,
        ]
        .join(" ");
        let hidden = format!(
            "mount -t tmpfs none /proc && exec {} {words}",
            common::sandbox::executable().display()
        );
        let run = Job::new(&sandbox, Path::new("unshare"))
            .words(&["--mount", "bash", "-c", &hidden])
            .start();
        wait_until("the tree", || sandbox.running("sleep 1000").len() == 2);
        run.signal(libc::SIGKILL);
        wait_until("nothing to be left", || sandbox.processes().is_empty());
        run.wait();
    }
}

#[test]
fn a_deleted_working_directory_stops_nothing() {
    let sandbox = Sandbox::new();
    let line = sandbox
        .flock(ZooKeeper::shared(), &["-l", "0", "lock", "/bin/echo mine"])
        .line();
    assert_eq!(
        shell(
            &sandbox,
            &format!("mkdir gone && cd gone && rmdir ../gone && exec {line}")
        )
        .run(),
        exited(0).printing("mine\n")
    );
    symlink("nowhere", sandbox.path("dangling")).unwrap();
    let option = format!("--local={}/dangling", sandbox.folder.display());
    sandbox
        .program(&[&option, "lock", "touch ran"])
        .run()
        .complains(1, &["dangling"]);
}

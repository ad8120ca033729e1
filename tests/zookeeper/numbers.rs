//! Every option that takes a number, given what is none or none that makes sense: exit 2 and one
//! line that names the option, at once.

use common::run::exited;
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;

/// What no option takes.
const JUNK: [&str; 12] = [
    "", " ", "nan", "NaN", "-nan", "1e300", "-1e300", "1e999", "1,5", "5ms", "0x1.8", "٣",
];

/// Each option with a number that it takes, and what else it does not take.
const OPTIONS: [(&str, &str, &[&str]); 8] = [
    ("--wait", "0", &["1.1e9", "0x10", "5S", "5s1m"]),
    (
        "--exitcode",
        "17",
        &[
            "256",
            "-1",
            "1.5",
            "inf",
            "99999999999999999999",
            "5s",
            "0x100",
        ],
    ),
    (
        "-n",
        "2",
        &[
            "10001",
            "-1",
            "1.5",
            "inf",
            "99999999999999999999",
            "5s",
            "0x2711",
        ],
    ),
    (
        "--minlocktime",
        "0.1",
        &["-1", "-inf", "1.1e9", "0x10", "-5s"],
    ),
    (
        "--kill-after",
        "0.5",
        &["-1", "-inf", "1.1e9", "0x10", "-5s"],
    ),
    ("--maxla", "1e6", &["1.1e9", "0x10", "5s"]),
    (
        "--pdeathsig",
        "15",
        &[
            "-1",
            "65",
            "1.5",
            "inf",
            "99999999999999999999",
            "5s",
            "0x41",
        ],
    ),
    (
        "--timeout",
        "15",
        &["0", "-1", "inf", "2147484", "0x10", "30d"],
    ),
];

#[test]
fn a_malformed_number_is_a_usage_error_that_names_the_option() {
    let sandbox = Sandbox::new();
    let usual = [
        "--hosts",
        "127.0.0.1:1",
        "--app-id",
        "app",
        "lock",
        "touch ran",
    ];
    for (option, _, also) in OPTIONS {
        for junk in JUNK.iter().chain(also) {
            for (sysexits, code) in [(&[][..], 2), (&["--sysexits"], 64)] {
                let outcome = sandbox
                    .program(&[sysexits, &[option, junk], &usual].concat())
                    .run();
                outcome.complains(code, &[option, "expected", &format!("found {junk:?}")]);
            }
        }
        sandbox
            .program(&[&usual[..], &[option]].concat())
            .run()
            .complains(2, &["missing argument", option]);
    }
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_valid_number_is_accepted_in_each_notation() {
    let sandbox = Sandbox::new();
    let server = ZooKeeper::shared().address();
    let usual = ["--hosts", &server, "--app-id", &sandbox.id, "-l", "0"];
    for (option, number, _) in OPTIONS {
        let joined = if option.starts_with("--") {
            format!("{option}={number}")
        } else {
            format!("{option}{number}")
        };
        for typed in [&[option, number][..], &[joined.as_str()]] {
            let outcome = sandbox
                .program(&[&usual, typed, &["lock", "true"]].concat())
                .run();
            assert_eq!(outcome.end, Ok(0), "{typed:?}: {outcome:?}");
            assert_eq!(outcome.stderr, "", "{typed:?}");
        }
    }
}

#[test]
fn a_time_may_have_units() {
    let sandbox = Sandbox::new();
    let words = [
        "-w",
        "1h30m",
        "-k",
        "1d",
        "-l",
        "0s",
        "--timeout",
        "15s",
        "lock",
        "echo done",
    ];
    assert_eq!(
        sandbox.flock(ZooKeeper::shared(), &words).run(),
        exited(0).printing("done\n")
    );
    let words = [
        "-t", "1m", "-k", "1h", "-T", "15s", "-w", "1.5h", "echo", "done",
    ];
    assert_eq!(
        sandbox.lockex(ZooKeeper::shared(), &words).run(),
        exited(0).printing("done\n")
    );
}

#[test]
fn a_whole_number_with_a_leading_zero_is_octal_and_a_warning() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox
        .flock(
            ZooKeeper::shared(),
            &["-l", "0", "lock", "sh -c 'echo held; exec cat'"],
        )
        .leashed()
        .start();
    holder.wait_for_output("held");
    let busy = |code: &str| {
        sandbox
            .flock(ZooKeeper::shared(), &["-x", code, "lock", "true"])
            .run()
    };
    busy("011").complains(9, &["WARNING: --exitcode: \"011\" begins with a zero, which means octal: its value is 9 (write 9, or 11"]);
    assert_eq!(busy("0x9"), exited(9));
    assert_eq!(busy("9"), exited(9));
    busy("08").complains(
        2,
        &["--exitcode: \"08\" begins with a zero, which means octal, but is not an octal number: write 8"],
    );
    holder.let_go();
    assert_eq!(holder.wait().end, Ok(0));
}

#[test]
fn an_infinite_time_never_ends_and_a_huge_one_does_not_panic() {
    let sandbox = Sandbox::new();
    for time in ["inf", "1e9"] {
        let words = ["-w", time, "-k", time, "-l", "0", "lock", "true"];
        assert_eq!(
            sandbox.flock(ZooKeeper::shared(), &words).run(),
            exited(0),
            "{time}"
        );
        std::fs::remove_file(sandbox.path("log")).unwrap();
        let held = sandbox
            .flock(ZooKeeper::shared(), &["-l", time, "held", "echo done"])
            .start();
        held.wait_for_output("done");
        common::wait_until("the end of the command", || {
            sandbox.log().contains("Child exited with code: 0")
        });
        held.signal(libc::SIGTERM);
        assert_eq!(held.wait(), exited(0).printing("done\n"));
        std::fs::remove_file(sandbox.path("log")).unwrap();
    }
}

//! The options that mean the same to the three clients: one table for all.

use super::options::testing::{environment, line};
use super::{Program, Request, distributex, lockex, zk_flock};
use crate::plan::{Every, Plan};
use crate::signal::Signal;
use std::time::Duration;

/// The words that each program needs beside its command `true`.
const CLIENTS: [(&Program, &str); 3] = [
    (&zk_flock::PROGRAM, "--hosts|h|--app-id|app|NAME|"),
    (&lockex::PROGRAM, ""),
    (&distributex::PROGRAM, "-Hdx|-ra|"),
];

fn plan(program: &Program, words: &str) -> Result<Plan, String> {
    match (program.request)(line(words), &environment()) {
        Ok(Request::Run(plan)) => Ok(plan),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn each_common_option_has_its_effect_in_every_position_and_form() {
    type Effect = fn(&Plan) -> bool;
    let rows: &[(&[&str], Effect)] = &[
        (&["-w1.5", "-w|1.5", "--wait=1.5", "--wait|1.5"], |plan| {
            plan.wait == Duration::from_millis(1500)
        }),
        (&["-w0", "-w-1", "-w|-1", "--wait=-1"], |plan| {
            plan.wait.is_zero()
        }),
        (&["-winf", "-w|inf", "--wait=inf"], |plan| {
            plan.wait == Duration::MAX
        }),
        (&["-x17", "-x|17", "--exitcode=17"], |plan| {
            plan.exit_codes.busy == Some(17)
        }),
        (&["-k1", "--kill-after=1", "--kill-after|1"], |plan| {
            plan.kill_after == Duration::from_secs(1)
        }),
        (&["-kinf"], |plan| plan.kill_after == Duration::MAX),
        (
            &["--pdeathsig=9", "--pdeathsig|KILL", "--pdeathsig=sigkill"],
            |plan| plan.death_signal == Some(Signal::KILL),
        ),
        (&["--pdeathsig=0", "--pdeathsig|0"], |plan| {
            plan.death_signal.is_none()
        }),
        (&["--sysexits"], |plan| plan.exit_codes.sysexits),
        (&["-v", "--verbose"], |plan| plan.verbose),
    ];
    for (program, needed) in CLIENTS {
        for (ways, effect) in rows {
            for way in *ways {
                for words in [
                    format!("{way}|{needed}true"),
                    format!("{needed}true|{way}"),
                    format!("{way}|{needed}--|true"),
                ] {
                    let plan = plan(program, &words);
                    let plan = plan.unwrap_or_else(|sentence| panic!("{words}: {sentence}"));
                    assert!(effect(&plan), "{words}: {plan:?}");
                    assert_eq!(plan.command.shown, "true", "{words}");
                }
            }
        }
    }
}

#[test]
fn the_clients_of_zookeeper_run_once_per_period() {
    for (program, needed) in &CLIENTS[..2] {
        let every = |words: &str| plan(program, &format!("{words}|{needed}true"));
        assert_eq!(every("-v").unwrap().every, None);
        for (words, seconds, retry_failed) in [
            ("--every=90", 90, false),
            ("--every|1h30m|--retry-failed", 5400, true),
            ("--retry-failed|--every|1d", 86_400, true),
        ] {
            let expected = Every {
                period: Duration::from_secs(seconds),
                retry_failed,
            };
            assert_eq!(every(words).unwrap().every, Some(expected), "{words}");
        }
        for period in ["0", "0s", "-1", "inf", "5x", "10M", "", "soon", "1m1h"] {
            let sentence = every(&format!("--every|{period}")).unwrap_err();
            let expected = "--every: expected a time above 0, like 90, 10m or 1d, found";
            assert!(sentence.starts_with(expected), "{period}: {sentence}");
        }
        let alone = every("--retry-failed").unwrap_err();
        assert_eq!(alone, "--retry-failed can only be used with --every");
        for mode in ["--status", "--break", "--check"] {
            let sentence = every(&format!("--every|1m|{mode}")).unwrap_err();
            assert_eq!(sentence, format!("--every cannot be used with {mode}"));
        }
    }
    let (zk_flock, needed) = CLIENTS[0];
    let several = plan(zk_flock, &format!("-n2|--every=1m|{needed}true")).unwrap_err();
    assert_eq!(
        several,
        "--every cannot be used with -n: a run of one name does not see the last run of another"
    );
    let semaphore = plan(&lockex::PROGRAM, "-c2|--every=1m|true").unwrap_err();
    assert_eq!(
        semaphore,
        "--every cannot be used with --concurrent above 1: holders at the same time do not see each other's runs"
    );
    assert!(plan(&lockex::PROGRAM, "-c1|--every=1m|true").is_ok());
    let (distributex, needed) = CLIENTS[2];
    let unknown = plan(distributex, &format!("--every=1m|{needed}true")).unwrap_err();
    assert_eq!(unknown, "invalid option '--every'");
}

#[test]
fn shared_locks_are_refused_where_they_make_no_sense() {
    for (words, sentence) in [
        (
            "--shared|--every=1m|true",
            "--every cannot be used with --shared: holders at the same time do not see each other's runs",
        ),
        (
            "--shared|-c2|true",
            "--shared cannot be used with --concurrent above 1: a semaphore has no exclusive holders",
        ),
        ("--shared|--status", "--shared cannot be used with --status"),
        (
            "--shared|--break|-ix",
            "--shared cannot be used with --break",
        ),
        ("--shared|--check", "--shared cannot be used with --check"),
    ] {
        assert_eq!(plan(&lockex::PROGRAM, words).unwrap_err(), sentence);
    }
    for (words, sentence) in [
        (
            "--shared|a|true",
            "--shared cannot be used with a lock on ZooKeeper: its only node is that of one holder (use --local, or lockex --shared)",
        ),
        (
            "--local|--shared|--every=1m|a|true",
            "--every cannot be used with --shared: holders at the same time do not see each other's runs",
        ),
        (
            "--local|--shared|-n2|a|true",
            "--shared cannot be used with -n: a run without --shared would hold another of the locks beside the readers of one",
        ),
        (
            "--local|--shared|--status",
            "--shared cannot be used with --status",
        ),
    ] {
        assert_eq!(plan(&zk_flock::PROGRAM, words).unwrap_err(), sentence);
    }
    let (distributex, needed) = CLIENTS[2];
    let unknown = plan(distributex, &format!("--shared|{needed}true")).unwrap_err();
    assert_eq!(unknown, "invalid option '--shared'");
}

#[test]
fn invalid_common_options_are_refused_with_the_reason() {
    for (words, sentence) in [
        ("--bogus", "invalid option '--bogus'"),
        ("-Q", "invalid option '-Q'"),
        ("-w", "missing argument for option '-w'"),
        ("--wait", "missing argument for option '--wait'"),
        (
            "-w|",
            "--wait: expected seconds up to 1e9, a time like 1h30m, or inf, found \"\"",
        ),
        (
            "--wait=",
            "--wait: expected seconds up to 1e9, a time like 1h30m, or inf, found \"\"",
        ),
        (
            "-w1e300",
            "--wait: expected seconds up to 1e9, a time like 1h30m, or inf, found \"1e300\"",
        ),
        (
            "-wnan",
            "--wait: expected seconds up to 1e9, a time like 1h30m, or inf, found \"nan\"",
        ),
        (
            "-k|--|-1",
            "--kill-after: expected seconds from 0 to 1e9, a time like 1h30m, or inf, found \"--\"",
        ),
        (
            "-x-1",
            "--exitcode: expected an exit code, 0 to 255, found \"-1\"",
        ),
        (
            "-x256",
            "--exitcode: expected an exit code, 0 to 255, found \"256\"",
        ),
        (
            "--pdeathsig=NONE",
            "--pdeathsig: expected a signal by number or name, or 0 for none, found \"NONE\"",
        ),
    ] {
        for (program, needed) in CLIENTS {
            let code = |words: &str| {
                let error = (program.request)(line(words), &environment()).unwrap_err();
                let shown = error.to_string();
                let without_advice = shown.split("; to pass options").next().unwrap();
                assert_eq!(
                    (without_advice, error.wants_usage()),
                    (sentence, false),
                    "{words}"
                );
                error.exit_code()
            };
            assert_eq!(code(&format!("{needed}true|{words}")), 2, "{words}");
            let sysexit = code(&format!("--sysexits|{needed}true|{words}"));
            assert_eq!(sysexit, 64, "{words}");
        }
    }
}

#[test]
fn help_and_version_work_despite_other_faults() {
    for (program, needed) in CLIENTS {
        for words in ["--help", "-h", "--bogus|--help", "-w|soon|-h", "-x|300|-vh"] {
            for words in [words.to_owned(), format!("{needed}true|{words}")] {
                let request = (program.request)(line(&words), &environment());
                assert!(matches!(request, Ok(Request::Help)), "{words}");
            }
        }
        for words in ["--version", "-V", "--bogus|-V", "-x|300|-V|-h"] {
            for words in [words.to_owned(), format!("{needed}true|{words}")] {
                let request = (program.request)(line(&words), &environment());
                assert!(matches!(request, Ok(Request::Version)), "{words}");
            }
        }
    }
}

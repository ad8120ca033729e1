//! The options that mean the same to the three clients: one table for all.

use super::options::testing::{environment, line};
use super::{Program, Request, distributex, lockex, zk_flock};
use crate::plan::Plan;
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

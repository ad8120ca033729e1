use super::super::Request;
use super::super::options::testing::{assert_documented, environment, line, typed};
use super::*;
use crate::plan::{Connection, ExitCodes, Host, Level, LoadLimit, Sharing};
use crate::signal::Signal;
use std::os::unix::ffi::OsStringExt;

fn plan_in(words: Vec<OsString>, environment: &Environment) -> Result<Plan, String> {
    match (PROGRAM.request)(words, environment) {
        Ok(Request::Run(plan)) => Ok(plan),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

fn plan(words: &str) -> Result<Plan, String> {
    plan_in(line(words), &environment())
}

/// The lock's node, permits, rounds and restarts.
fn queue(plan: &Plan) -> (&str, u32, Option<u32>, Option<u32>) {
    let Lock::Queue {
        path,
        permits,
        rounds,
        restarts,
        ..
    } = &plan.lock
    else {
        panic!("{:?}", plan.lock)
    };
    (path, *permits, *rounds, *restarts)
}

fn cluster(plan: &Plan) -> &Cluster {
    let Lock::Queue { cluster, .. } = &plan.lock else {
        panic!("{:?}", plan.lock)
    };
    cluster
}

#[test]
fn defaults_are_those_of_the_original() {
    let plan = plan("/usr/local/bin/redis-server|/etc/redis.conf").unwrap();
    assert_eq!(
        queue(&plan),
        ("/lockex/5118636598003648905", 1, Some(1), Some(1))
    );
    let local = Host::Tcp {
        name: "localhost".into(),
        port: 2181,
    };
    let timeout = Duration::from_secs(30);
    let expected = Cluster {
        hosts: vec![local],
        connection: Connection::Direct,
        chroot: String::new(),
        timeout,
        auth: None,
        acl: Acl::Open,
        heartbeat: Heartbeat::Write,
    };
    assert_eq!(cluster(&plan), &expected);
    let shown = "/usr/local/bin/redis-server /etc/redis.conf";
    assert_eq!(
        plan.command,
        Command {
            words: vec!["/bin/sh".into(), "-c".into(), shown.into()],
            shown: shown.into()
        }
    );
    assert_eq!(
        (plan.wait, plan.minimum_hold, plan.kill_after),
        (Duration::MAX, Duration::ZERO, Duration::from_secs(5))
    );
    assert_eq!(plan.death_signal, Some(Signal::TERM));
    assert_eq!(
        plan.exit_codes,
        ExitCodes {
            busy: None,
            busy_default: 1,
            sysexits: false
        }
    );
    assert_eq!(
        plan.load_limit,
        LoadLimit {
            max_load: None,
            sleep: false
        }
    );
    let log = Log {
        style: Style::Glog,
        path: None,
        level: Level::Info,
        session_level: Level::Info,
        warnings: Vec::new(),
    };
    assert_eq!(plan.log, log);
    assert!(!plan.daemonize && !plan.verbose);
    assert_eq!(plan.program, "lockex");
}

#[test]
fn each_option_has_its_effect_in_every_position_and_form() {
    type Effect = fn(&Plan) -> bool;
    let rows: &[(&[&str], Effect)] = &[
        (&["--blocking", "--no-blocking|--blocking"], |plan| {
            plan.wait == Duration::MAX && plan.exit_codes.busy_default == 1
        }),
        (
            &[
                "--no-blocking",
                "--no-b",
                "--blocking|--no-blocking",
                "-t5|--no-blocking",
            ],
            |plan| plan.wait.is_zero() && plan.exit_codes.busy_default == 0,
        ),
        (
            &["-c3", "-c|3", "--concurrent=3", "--concurrent|3", "-c2|-c3"],
            |plan| queue(plan).1 == 3,
        ),
        (&["-c0", "-c|-3", "--concurrent=-1"], |plan| {
            queue(plan).1 == 1
        }),
        (
            &["-iID", "-i|ID", "--lockid=ID", "--lockid|ID", "-ix|-iID"],
            |plan| queue(plan).0 == "/lockex/ID",
        ),
        (&["-pP", "-p|P", "--lockpath=P", "--lockpath|P"], |plan| {
            queue(plan).0 == "/P/2314047222236391260"
        }),
        (&["-r3", "-r|3", "--lockretry=3", "--lockretry|3"], |plan| {
            queue(plan).3 == Some(3)
        }),
        (&["-r0"], |plan| queue(plan).3 == Some(0)),
        (&["-r-1", "-r|-1", "--lockretry=-2"], |plan| {
            queue(plan).3.is_none()
        }),
        (&["-R3", "-R|3", "--retry=3", "--retry|3"], |plan| {
            queue(plan).2 == Some(3)
        }),
        (&["-R0", "-R1"], |plan| queue(plan).2 == Some(1)),
        (&["-R-1", "-R|-1", "--retry|-1"], |plan| {
            queue(plan).2.is_none()
        }),
        (
            &[
                "-t1.5",
                "-t|1.5",
                "--locktimeout=1.5",
                "-w1.5",
                "-w|1.5",
                "--wait=1.5",
                "-t9|-w1.5",
                "-w9|-t1.5",
            ],
            |plan| plan.wait == Duration::from_millis(1500) && plan.exit_codes.busy_default == 1,
        ),
        (&["-t0", "-t|-1", "--wait=-1"], |plan| {
            plan.wait.is_zero() && plan.exit_codes.busy_default == 1
        }),
        (&["-tinf", "-w|inf"], |plan| plan.wait == Duration::MAX),
        (&["-T5", "-T|5", "--timeout=5", "--timeout|5"], |plan| {
            cluster(plan).timeout == Duration::from_secs(5)
        }),
        (
            &["-zh:1/c", "-z|h:1/c", "--zkhosts=h:1/c", "--zkhosts|h:1/c"],
            |plan| {
                cluster(plan).hosts
                    == [Host::Tcp {
                        name: "h".into(),
                        port: 1,
                    }]
                    && cluster(plan).chroot == "/c"
            },
        ),
        (&["--shared", "--shared|-c1"], |plan| {
            matches!(
                plan.lock,
                Lock::Queue {
                    sharing: Sharing::Shared,
                    ..
                }
            )
        }),
        (&["--no-shell"], |plan| plan.command.words == ["true"]),
    ];
    for (ways, effect) in rows {
        for way in *ways {
            for line in [
                format!("{way}|true"),
                format!("true|{way}"),
                format!("{way}|--|true"),
            ] {
                let plan = plan(&line).unwrap_or_else(|sentence| panic!("{line}: {sentence}"));
                assert!(effect(&plan), "{line}");
                assert_eq!(plan.command.shown, "true", "{line}");
            }
        }
    }
}

#[test]
fn every_long_option_is_in_the_help_and_is_taken() {
    assert_documented::<Options>(HELP);
}

#[test]
fn invalid_options_are_refused_with_the_reason() {
    for (words, sentence) in [
        ("ls|-l", "invalid option '-l'"),
        ("-i", "missing argument for option '-i'"),
        (
            "--blocking=1",
            "unexpected argument for option '--blocking': \"1\"",
        ),
        (
            "--lock=x",
            "option '--lock' is ambiguous: it could be --lockid or --lockpath or --lockretry or --locktimeout",
        ),
        (
            "-c2.5",
            "--concurrent: expected a whole number up to 4294967295, found \"2.5\"",
        ),
        (
            "-r|",
            "--lockretry: expected a whole number up to 4294967295, or -1 for no limit, found \"\"",
        ),
        (
            "-R1_0",
            "--retry: expected a whole number up to 4294967295, or -1 for no limit, found \"1_0\"",
        ),
        (
            "-tnan",
            "--locktimeout: expected seconds up to 1e9, a time like 1h30m, or inf, found \"nan\"",
        ),
        (
            "-T0",
            "--timeout: expected seconds from 0.001 to 2147483, or a time like 30s, found \"0\"",
        ),
        (
            "-z|",
            "--zkhosts: the list of servers is empty: expected HOST:PORT,...",
        ),
        (
            "-zh:x",
            "--zkhosts: \"h:x\" is not HOST:PORT: the port \"x\" is not a number from 1 to 65535",
        ),
        ("-i|", "lock id \"\": it is empty"),
        ("-i|//", "lock id \"\": it is empty"),
        (
            "-i|a/../b",
            "lock id \"a/../b\": \".\" and \"..\" are not allowed as path components",
        ),
        (
            "-i|a\n",
            "lock id \"a\\n\": character U+000A is not allowed",
        ),
        (
            "-p|a/./b",
            "lock path \"a/./b/2314047222236391260\": \".\" and \"..\" are not allowed as path components",
        ),
        (
            "-p|🔒",
            "lock path \"🔒/2314047222236391260\": character U+1F512 is not allowed",
        ),
    ] {
        let error = (PROGRAM.request)(line(&format!("true|{words}")), &environment()).unwrap_err();
        let shown = error.to_string();
        let without_advice = shown.split("; to pass options").next().unwrap();
        assert_eq!(
            (without_advice, error.exit_code(), error.wants_usage()),
            (sentence, 2, false),
            "{words}"
        );
        let error = (PROGRAM.request)(line(&format!("--sysexits|true|{words}")), &environment())
            .unwrap_err();
        assert_eq!(error.exit_code(), 64, "{words}");
    }
}

#[test]
fn missing_command_exits_1_with_the_usage() {
    for words in ["", "--", "-t1", "-t1|--"] {
        let error = (PROGRAM.request)(line(words), &environment()).unwrap_err();
        assert_eq!(
            (
                error.to_string().as_str(),
                error.exit_code(),
                error.wants_usage()
            ),
            ("the command is missing", 1, true),
            "{words}"
        );
    }
    assert_eq!(
        (PROGRAM.request)(line("--sysexits"), &environment())
            .unwrap_err()
            .exit_code(),
        64
    );
}

#[test]
fn words_become_one_line_for_the_shell_and_the_id() {
    for (words, shown, id) in [
        ("true", "true", "2314047222236391260"),
        ("sleep|30", "sleep 30", "694498826982121690"),
        ("-t|1|--|sleep|30", "sleep 30", "694498826982121690"),
        ("sleep|-t|1|30", "sleep 30", "694498826982121690"),
        ("sleep 30", "sleep 30", "694498826982121690"),
        (" \u{3000}|sleep 30| \t", "sleep 30", "694498826982121690"),
        ("--|ls|-l", "ls -l", "8690638983126320497"),
        ("a|--|b|--|c", "a b -- c", "5719762410113068428"),
        ("-|true", "- true", "2439508136329029777"),
        ("замок", "замок", "1683034666803293414"),
        ("🔒", "🔒", "16419121147411"),
        ("--|", "", "0"),
    ] {
        let words = if words == "--|" {
            vec![OsString::new()]
        } else {
            line(words)
        };
        let plan = plan_in(words, &environment()).unwrap();
        assert_eq!(
            plan.command,
            Command {
                words: vec!["/bin/sh".into(), "-c".into(), shown.into()],
                shown: shown.into()
            }
        );
        assert_eq!(queue(&plan).0, format!("/lockex/{id}"), "{shown}");
    }
}

#[test]
fn no_shell_runs_the_words_as_argv_under_the_same_id() {
    for (words, argv) in [
        ("--no-shell|sleep|30", "sleep|30"),
        ("--no-shell|--|sleep|30 ", "sleep|30 "),
    ] {
        let plan = plan(words).unwrap();
        assert_eq!(
            (plan.command.words.clone(), plan.command.shown.as_str()),
            (line(argv), "sleep 30"),
            "{words}"
        );
        assert_eq!(queue(&plan).0, "/lockex/694498826982121690", "{words}");
    }
}

#[test]
fn command_may_be_any_bytes_but_names_must_be_utf8() {
    let bytes = || OsString::from_vec(b"\xff".to_vec());
    let plan = plan_in(vec![bytes()], &environment()).unwrap();
    assert_eq!(plan.command.words, ["/bin/sh".into(), "-c".into(), bytes()]);
    assert_eq!(queue(&plan).0, "/lockex/32640097918");
    for (option, sentence) in [
        ("-i", "--lockid: expected UTF-8, found \"\u{fffd}\""),
        ("-p", "--lockpath: expected UTF-8, found \"\u{fffd}\""),
        ("-z", "--zkhosts: expected UTF-8, found \"\u{fffd}\""),
    ] {
        assert_eq!(
            plan_in(vec![option.into(), bytes(), "true".into()], &environment()).map(drop),
            Err(sentence.to_owned())
        );
    }
}

#[test]
fn superfluous_slashes_are_ignored() {
    for (words, path) in [
        ("-i|a/b", "/lockex/a/b"),
        ("-i|/a/", "/lockex/a"),
        ("-i|a b", "/lockex/a b"),
        ("-p|a/b|-i|c", "/a/b/c"),
        ("-p|/a//b/|-i|c", "/a/b/c"),
        ("-p||-i|c", "/c"),
        ("-p|/|-i|c", "/c"),
    ] {
        assert_eq!(
            queue(&plan(&format!("{words}|true")).unwrap()).0,
            path,
            "{words}"
        );
    }
}

#[test]
fn option_overrides_the_servers_of_the_environment() {
    let found = |zkhosts: &str| Environment {
        zkhosts: Some(zkhosts.into()),
        ..environment()
    };
    for (words, environment, hosts) in [
        ("true", found("e1:1,e2/c"), "e1:1 e2:2181/c"),
        ("-zh1,h2:2|true", found("e"), "h1:2181 h2:2"),
        ("-zh|true", found(""), "h:2181"),
    ] {
        let plan = plan_in(line(words), &environment).unwrap();
        let Cluster {
            hosts: shown,
            chroot,
            ..
        } = cluster(&plan);
        assert_eq!(
            shown
                .iter()
                .map(Host::to_string)
                .collect::<Vec<_>>()
                .join(" ")
                + chroot,
            hosts,
            "{words}"
        );
    }
    assert_eq!(
        plan_in(line("true"), &found("")).map(drop),
        Err("ZKHOSTS: the list of servers is empty: expected HOST:PORT,...".into())
    );
}

#[test]
fn help_works_despite_faults_of_the_original() {
    for (words, is_help) in [("-c|x|-vh", true), ("--lock|-V", false)] {
        match (PROGRAM.request)(line(words), &environment()) {
            Ok(Request::Help) => assert!(is_help, "{words}"),
            Ok(Request::Version) => assert!(!is_help, "{words}"),
            other => panic!("{words}: {other:?}"),
        }
    }
    assert_eq!(
        plan("--|ls|-h").unwrap().command.shown,
        "ls -h",
        "after -- it is the command's"
    );
}

#[test]
fn break_needs_an_id_or_a_command() {
    for (words, name) in [
        ("--break|-i|ID", "ID"),
        ("--break|--token|7|--force|true", "2314047222236391260"),
    ] {
        let options: Options = typed(&line(words)).unwrap();
        let request = options::Options::request(options, &environment());
        let Ok(Request::Break(eviction)) = request else {
            panic!("{words}: {request:?}");
        };
        let Locks::Nodes { root, names, .. } = &eviction.locks else {
            panic!("{eviction:?}");
        };
        assert_eq!((root.as_str(), eviction.name.as_str()), ("/lockex", name));
        assert_eq!(names.as_deref(), Some(&[name.to_owned()][..]));
    }
    let options: Options = typed(&line("--break")).unwrap();
    let refused = options::Options::request(options, &environment()).unwrap_err();
    let expected = "--break: expected --lockid ID, or the COMMAND of the lock";
    assert_eq!(refused.to_string(), expected);
}

use super::super::Request;
use super::super::options::testing::{assert_documented, environment, line, typed};
use super::*;
use crate::plan::{Acl, Auth, ExitCodes, Heartbeat, Host, Level, Sharing, Style};
use crate::signal::Signal;
use std::os::unix::ffi::OsStringExt;
use std::{env, fs, process};

/// The plan of a command line with this text as config; no file is read.
fn plan_in(words: &str, config: &str, environment: &Environment) -> Result<Plan, String> {
    let planned = typed(&line(words)).and_then(|options: Options| {
        let mut options = options;
        let (name, command) = options.words()?;
        options.check_conflicts()?;
        options.take_environment(environment)?;
        let config = Config::parse(config.as_bytes(), Path::new("f"))?;
        options.merge(config, Path::new("f"), &name, command, environment)
    });
    planned.map_err(|fault| fault.to_string())
}

fn plan(words: &str, config: &str) -> Result<Plan, String> {
    plan_in(words, config, &environment())
}

/// A plan that needs no config.
fn alone(words: &str) -> Result<Plan, String> {
    plan(&format!("--hosts|h|--app-id|app|{words}"), "{}")
}

const WHOLE_CONFIG: &str = r#"{"host": ["h1:2181", "h2:2182/a"], "timeout": 2.5, "app_id": "app"}"#;

#[test]
fn defaults_are_those_of_the_original() {
    let plan = plan("NAME|sleep '1 s'", WHOLE_CONFIG).unwrap();
    let Lock::Node {
        cluster,
        app_id,
        names,
    } = plan.lock
    else {
        panic!("{:?}", plan.lock)
    };
    let hosts = [("h1", 2181), ("h2", 2182)].map(|(name, port)| Host::Tcp {
        name: name.into(),
        port,
    });
    assert_eq!(
        (cluster.hosts, cluster.chroot.as_str()),
        (hosts.to_vec(), "/a")
    );
    assert_eq!(cluster.timeout, Duration::from_millis(2500));
    assert_eq!(
        (cluster.auth, cluster.acl, cluster.heartbeat),
        (None, Acl::Open, Heartbeat::Write)
    );
    assert_eq!(
        (app_id.as_str(), names, plan.announce),
        ("app", vec!["NAME".to_owned()], false)
    );
    assert_eq!(
        plan.command,
        Command {
            words: vec!["sleep".into(), "1 s".into()],
            shown: "sleep '1 s'".into()
        }
    );
    assert_eq!(
        (plan.wait, plan.minimum_hold, plan.kill_after),
        (
            Duration::ZERO,
            Duration::from_secs(5),
            Duration::from_secs(5)
        )
    );
    assert_eq!(plan.death_signal, Some(Signal::TERM));
    assert_eq!(
        plan.exit_codes,
        ExitCodes {
            busy: None,
            busy_default: 0,
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
    assert_eq!(
        plan.log,
        Log {
            style: Style::Plain,
            path: None,
            level: Level::Info,
            session_level: Level::Warning,
            warnings: Vec::new()
        }
    );
    assert!(!plan.daemonize && !plan.verbose);
    assert_eq!(plan.program, "zk-flock");
}

#[test]
fn each_option_has_its_effect_in_every_form() {
    type Effect = fn(&Plan) -> bool;
    let rows: &[(&[&str], Effect)] = &[
        (&["-d", "--daemonize", "--daemon", "--d"], |plan| {
            plan.daemonize
        }),
        (
            &["-m1.5", "-m|1.5", "--maxla=1.5", "--maxla|1.5", "--ma=1.5"],
            |plan| plan.load_limit.max_load == Some(1.5),
        ),
        (&["-m0", "-m-1", "--maxla|-1"], |plan| {
            plan.load_limit.max_load.is_none()
        }),
        (&["-s", "--sleep", "--sl", "--s"], |plan| {
            plan.load_limit.sleep
        }),
        (&["-w|5.0", "--w|5"], |plan| {
            plan.wait == Duration::from_secs(5)
        }),
        (&["--e|17"], |plan| plan.exit_codes.busy == Some(17)),
        (&["-l.5", "--minlocktime|0.5", "--mi=.5"], |plan| {
            plan.minimum_hold == Duration::from_millis(500)
        }),
        (&["-p9", "-pKILL", "--pdeathsig=sigkill", "--p|9"], |plan| {
            plan.death_signal == Some(Signal::KILL)
        }),
        (&["-p0", "--pdeathsig|0"], |plan| {
            plan.death_signal.is_none()
        }),
        (&["--k|1"], |plan| plan.kill_after == Duration::from_secs(1)),
        (&["--sy"], |plan| plan.exit_codes.sysexits),
        (&["--verb"], |plan| plan.verbose),
        (&["-dsv", "-vsd", "-dsvw9"], |plan| {
            plan.daemonize && plan.load_limit.sleep && plan.verbose
        }),
    ];
    for (ways, effect) in rows {
        for way in *ways {
            for line in [
                format!("{way}|NAME|true"),
                format!("NAME|{way}|true"),
                format!("NAME|true|{way}"),
            ] {
                assert!(effect(&alone(&line).unwrap()), "{line}");
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
        (
            "--m=1",
            "option '--m' is ambiguous: it could be --maxla or --minlocktime",
        ),
        (
            "--ver",
            "option '--ver' is ambiguous: it could be --verbose or --version",
        ),
        (
            "-l-1",
            "--minlocktime: expected seconds from 0 to 1e9, a time like 1h30m, or inf, found \"-1\"",
        ),
        (
            "-n1000000",
            "-n: expected a number of names, 0 to 10000, found \"1000000\"",
        ),
        (
            "-pNONE",
            "--pdeathsig: expected a signal by number or name, or 0 for none, found \"NONE\"",
        ),
        (
            "-mhigh",
            "--maxla: expected a load average up to 1e9, found \"high\"",
        ),
        (
            "--timeout=inf",
            "--timeout: expected seconds from 0.001 to 2147483, or a time like 30s, found \"inf\"",
        ),
        (
            "--hosts=h:x",
            "--hosts: \"h:x\" is not HOST:PORT: the port \"x\" is not a number from 1 to 65535",
        ),
        ("--local=", "--local: expected a folder, found \"\""),
        (
            "--daemonize=yes",
            "unexpected argument for option '--daemonize': \"yes\"",
        ),
        ("--local", "--hosts cannot be used with --local"),
        ("--app-id=", "app id \"\": it is empty"),
    ] {
        assert_eq!(
            alone(&format!("NAME|true|{words}")).map(drop),
            Err(sentence.to_owned()),
            "{words}"
        );
    }
}

#[test]
fn one_word_is_split_and_words_after_dashes_are_kept() {
    for (words, argv, shown) in [
        ("NAME|a 'b c'", "a|b c", "a 'b c'"),
        ("NAME|--|a 'b c'", "a|b c", "a 'b c'"),
        ("--|NAME|a 'b c'", "a|b c", "a 'b c'"),
        ("NAME|a 'b c'|--", "a|b c", "a 'b c'"),
        ("NAME|--|a|'b c'", "a|'b c'", "a 'b c'"),
        ("--|NAME|a|-w", "a|-w", "a -w"),
        ("NAME|--|a|--|--help", "a|--|--help", "a -- --help"),
        ("NAME|''", "", "''"),
        ("NAME|-", "-", "-"),
    ] {
        let plan = alone(words).unwrap_or_else(|sentence| panic!("{words}: {sentence}"));
        let expected = if argv.is_empty() {
            vec![OsString::new()]
        } else {
            line(argv)
        };
        assert_eq!(
            plan.command,
            Command {
                words: expected,
                shown: shown.into()
            },
            "{words}"
        );
    }
}

#[test]
fn wrong_number_of_words_or_empty_command_exits_1_with_the_usage() {
    for (words, sentence) in [
        ("", "lock name and command are missing"),
        ("NAME", "the command is missing"),
        ("NAME|--", "the command is missing"),
        (
            "NAME|a|b",
            "expected LOCKNAME and one quoted COMMAND, or LOCKNAME -- PROGRAM ARG..., found 3 words; use: zk-flock NAME -- a b",
        ),
        (
            "NAME|a|--|b",
            "expected LOCKNAME and one quoted COMMAND, or LOCKNAME -- PROGRAM ARG..., found 3 words; use: zk-flock NAME -- a b",
        ),
        ("NAME|", "the command is empty"),
        ("NAME|  ", "the command is empty"),
    ] {
        let error = (PROGRAM.request)(line(words), &environment()).unwrap_err();
        assert_eq!(
            (
                error.to_string().as_str(),
                error.exit_code(),
                error.wants_usage()
            ),
            (sentence, 1, true),
            "{words}"
        );
    }
    for (words, sentence) in [
        ("NAME|a 'b", "cannot split the command: no closing '"),
        (
            "NAME|a\\",
            "cannot split the command: nothing follows the last backslash",
        ),
    ] {
        let error = (PROGRAM.request)(line(words), &environment()).unwrap_err();
        assert_eq!(
            (
                error.to_string().as_str(),
                error.exit_code(),
                error.wants_usage()
            ),
            (sentence, 2, false),
            "{words}"
        );
    }
}

#[test]
fn names_must_be_utf8_but_not_the_command() {
    let bytes = OsString::from_vec(b"\xff".to_vec());
    let words = |words: [OsString; 4]| {
        typed::<Options>(&words)
            .unwrap()
            .words()
            .map_err(|fault| fault.to_string())
    };
    let (_, command) = words(["NAME".into(), "--".into(), "true".into(), bytes.clone()]).unwrap();
    assert_eq!(command.words, ["true".into(), bytes.clone()]);
    assert_eq!(
        words([bytes, "--".into(), "true".into(), "x".into()]).unwrap_err(),
        "lock name \"\u{fffd}\": it is not UTF-8"
    );
}

#[test]
fn help_works_despite_faults_of_the_original() {
    for words in [
        "--h",
        "--bogus|--he",
        "-c|/nowhere|a|b|c|--help",
        "--m|-dh",
        "--daemonize=1|-h",
    ] {
        assert!(
            matches!(
                (PROGRAM.request)(line(words), &environment()),
                Ok(Request::Help)
            ),
            "{words}"
        );
    }
    assert!(
        (PROGRAM.request)(line("NAME|--|-h"), &environment()).is_err(),
        "after -- it is the command's"
    );
}

#[test]
fn sysexits_has_its_effect_in_every_position() {
    for (words, plain, sysexit) in [
        ("--bogus", 2, 64),
        ("NAME|a 'b", 2, 64),
        ("", 1, 64),
        ("NAME|a|b", 1, 64),
        ("-c|/nowhere|NAME|true", 1, 78),
    ] {
        let code = |words: &str| {
            (PROGRAM.request)(line(words), &environment())
                .unwrap_err()
                .exit_code()
        };
        assert_eq!(code(words), plain, "{words}");
        assert_eq!(
            [
                code(&format!("--sysexits|{words}")),
                code(&format!("{words}|--sysexits"))
            ],
            [sysexit; 2],
            "{words}"
        );
    }
}

#[test]
fn options_override_the_config() {
    let config = r#"{"host": "h", "timeout": 5, "app_id": "app", "sleep": "OFF", "maxla": 30}"#;
    assert_eq!(
        plan("NAME|a", config).unwrap().load_limit,
        LoadLimit {
            max_load: Some(30.0),
            sleep: false
        }
    );
    assert_eq!(
        plan("-s|-m2|NAME|a", config).unwrap().load_limit,
        LoadLimit {
            max_load: Some(2.0),
            sleep: true
        }
    );
    assert_eq!(
        plan("-m0|NAME|a", config).unwrap().load_limit,
        LoadLimit {
            max_load: None,
            sleep: false
        }
    );
    let plan = plan("--hosts=x:1/c|--app-id=y/z|--timeout=9|NAME|a", config).unwrap();
    let Lock::Node {
        cluster, app_id, ..
    } = plan.lock
    else {
        panic!("{:?}", plan.lock)
    };
    assert_eq!(
        (
            cluster.hosts[0].to_string().as_str(),
            cluster.chroot.as_str()
        ),
        ("x:1", "/c")
    );
    assert_eq!(
        (cluster.timeout, app_id.as_str()),
        (Duration::from_secs(9), "y/z")
    );
}

#[test]
fn every_key_of_the_config_reaches_the_plan() {
    let config = r#"{"host": "h", "timeout": 5, "app_id": "app", "sleep": "ON", "maxla": -1, "acl": "creator", "heartbeat": "ping",
            "auth": {"scheme": "digest", "data": "u:p"}, "logger": {"path": "log", "level": "ERROR", "zklevel": "DEBUG"}, "odd": 1}"#;
    let plan = plan("NAME|a", config).unwrap();
    let Lock::Node { cluster, .. } = plan.lock else {
        panic!("{:?}", plan.lock)
    };
    assert_eq!(
        (cluster.acl, cluster.heartbeat),
        (Acl::Creator, Heartbeat::Ping)
    );
    assert_eq!(
        cluster.auth,
        Some(Auth {
            scheme: "digest".into(),
            data: "u:p".into()
        })
    );
    assert_eq!(
        plan.load_limit,
        LoadLimit {
            max_load: None,
            sleep: true
        }
    );
    let Log {
        path,
        level,
        session_level,
        warnings,
        ..
    } = plan.log;
    assert_eq!(
        (path, level, session_level),
        (Some("/here/log".into()), Level::Error, Level::Debug)
    );
    assert_eq!(
        warnings,
        [Warning::Logged("f:2: \"odd\": unknown key".into())]
    );
}

#[test]
fn missing_keys_are_named_if_no_option_replaces_them() {
    for (words, config, sentence) in [
        (
            "",
            r#"{"timeout": 5, "app_id": "a"}"#,
            "f: missing key \"host\", expected a list of \"name:port\"",
        ),
        (
            "",
            r#"{"host": "h", "app_id": "a"}"#,
            "f: missing key \"timeout\", expected seconds from 0.001 to 2147483, or a time like \"30s\"",
        ),
        (
            "",
            r#"{"host": "h", "timeout": 5}"#,
            "f: missing key \"app_id\", expected a string",
        ),
        (
            "--hosts=h|",
            r#"{"timeout": 5}"#,
            "f: missing key \"app_id\", expected a string",
        ),
        (
            "--app-id=a|",
            r#"{"host": "h"}"#,
            "f: missing key \"timeout\", expected seconds from 0.001 to 2147483, or a time like \"30s\"",
        ),
    ] {
        assert_eq!(
            plan(&format!("{words}NAME|true"), config).map(drop),
            Err(sentence.to_owned()),
            "{words} {config}"
        );
    }
    let Lock::Node { cluster, .. } = alone("NAME|true").unwrap().lock else {
        panic!("not a node")
    };
    assert_eq!(cluster.timeout, Duration::from_secs(15));
}

#[test]
fn environment_overrides_the_config_and_options_override_both() {
    let environment = Environment {
        hosts: Some("e1:1,e2/c".into()),
        app_id: Some("from-environment".into()),
        timeout: Some("1m".into()),
        ..environment()
    };
    let node = |words: &str, config: &str, environment: &Environment| {
        let Lock::Node {
            cluster, app_id, ..
        } = plan_in(words, config, environment).unwrap().lock
        else {
            panic!("not a node")
        };
        (
            cluster.hosts[0].to_string(),
            app_id,
            cluster.timeout.as_secs(),
        )
    };
    let found = |host: &str, app_id: &str, timeout| (host.to_owned(), app_id.to_owned(), timeout);
    let config = r#"{"host": "c", "timeout": 5, "app_id": "from-config"}"#;
    assert_eq!(
        node("NAME|true", config, &environment),
        found("e1:1", "from-environment", 60)
    );
    assert_eq!(
        node("NAME|true", "{}", &environment),
        found("e1:1", "from-environment", 60)
    );
    assert_eq!(
        node(
            "--hosts=o|--app-id=from-option|--timeout=7|NAME|true",
            config,
            &environment
        ),
        found("o:2181", "from-option", 7)
    );
    let empty = Environment {
        hosts: Some("".into()),
        app_id: Some("".into()),
        timeout: Some("".into()),
        ..environment.clone()
    };
    assert_eq!(
        node("NAME|true", config, &empty),
        found("c:2181", "from-config", 5)
    );
    let two = Environment {
        timeout: None,
        ..environment.clone()
    };
    assert_eq!(
        node("NAME|true", "{}", &two),
        found("e1:1", "from-environment", 15),
        "no config is needed"
    );
    let local = plan_in("--local=/dir|NAME|true", "{}", &environment)
        .unwrap()
        .lock;
    assert!(
        matches!(&local, Lock::Local { app_id, .. } if app_id == "from-environment"),
        "{local:?}"
    );
    for (environment, sentence) in [
        (
            Environment {
                hosts: Some("h:x".into()),
                ..environment.clone()
            },
            "ZK_FLOCK_HOSTS: \"h:x\" is not HOST:PORT: the port \"x\" is not a number from 1 to 65535",
        ),
        (
            Environment {
                timeout: Some("soon".into()),
                ..environment.clone()
            },
            "ZK_FLOCK_TIMEOUT: expected seconds from 0.001 to 2147483, or a time like 30s, found \"soon\"",
        ),
        (
            Environment {
                app_id: Some("/a".into()),
                ..environment.clone()
            },
            "app id \"/a\": must not begin or end with \"/\"",
        ),
    ] {
        assert_eq!(
            plan_in("NAME|true", config, &environment).map(drop),
            Err(sentence.to_owned())
        );
    }
}

#[test]
fn environment_may_name_the_config() {
    let named = |path: &str| Environment {
        config: Some(path.into()),
        ..environment()
    };
    let error = |words: &str, environment: &Environment| {
        (PROGRAM.request)(line(words), environment)
            .unwrap_err()
            .to_string()
    };
    let cannot = |path: &str| format!("cannot read {path}: no such file or directory");
    assert_eq!(error("NAME|true", &named("/nowhere")), cannot("/nowhere"));
    assert_eq!(
        error("--hosts=h|--app-id=a|NAME|true", &named("/nowhere")),
        cannot("/nowhere"),
        "what is named must be there"
    );
    assert_eq!(
        error("-c|/nowhere-else|NAME|true", &named("/nowhere")),
        cannot("/nowhere-else")
    );
}

#[test]
fn missing_default_config_is_reported_with_the_options_that_replace_it() {
    let config = |confpath: Option<&str>| Options {
        confpath: confpath.map(Into::into),
        ..Options::default()
    };
    let error = |mut options: Options| {
        options
            .config(Path::new("/nowhere"))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error(config(None)),
        "cannot read /nowhere: no such file or directory; use --hosts and --app-id, or another config with -c FILE \
             (a sample is /usr/share/doc/zk-flock/examples/distributed-flock.json)"
    );
    assert_eq!(
        error(config(Some("/nowhere"))),
        "cannot read /nowhere: no such file or directory"
    );
}

#[test]
fn surprising_input_is_warned_of_on_stderr() {
    let shown = |plan: Plan| {
        plan.log
            .warnings
            .into_iter()
            .filter_map(|warning| match warning {
                Warning::Shown(text) => Some(text),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(
        shown(alone("NAME|echo hi && echo ho").unwrap()),
        [
            "the command runs without a shell and gets \"&&\" as an argument; to use a shell, end the line with: NAME -- sh -c 'echo hi && echo ho'"
        ]
    );
    assert_eq!(
        shown(alone("NAME|--|echo $HOME").unwrap()).len(),
        1,
        "one word is split wherever it stands"
    );
    for words in [
        "NAME|--|echo|$HOME",
        "NAME|sh -c 'a && b'",
        "NAME|echo '$HOME'",
        "NAME|true",
    ] {
        assert_eq!(shown(alone(words).unwrap()), [""; 0], "{words}");
    }
    assert_eq!(shown(alone("-x|011|NAME|true").unwrap()).len(), 1);
    assert_eq!(shown(alone("-n|010|-p|015|NAME|true").unwrap()).len(), 2);
    let config =
        r#"{"host": ["h1/locks", "h2/locks"], "timeout": 5, "app_id": "a", "maxla": "30"}"#;
    let [chroot, load] = &shown(plan("NAME|true", config).unwrap())[..] else {
        panic!()
    };
    assert!(
        chroot.starts_with("\"host\": the chroot is \"/locks,h2/locks\", ")
            && load.contains("no limit"),
        "{chroot} {load}"
    );
    let warnings = shown(plan("-m5|--hosts=h1/a,h2/a|NAME|true", config).unwrap());
    let [chroot] = &warnings[..] else {
        panic!("{warnings:?}")
    };
    assert!(chroot.starts_with("--hosts: "), "an option limits the load");
}

#[test]
fn numbers_are_those_of_optparse() {
    for (words, code) in [
        ("-x011", 9),
        ("-x|0x9", 9),
        ("--exitcode=0b11", 3),
        ("-x|9", 9),
    ] {
        assert_eq!(
            alone(&format!("{words}|NAME|true"))
                .unwrap()
                .exit_codes
                .busy,
            Some(code),
            "{words}"
        );
    }
    let Lock::Node { names, .. } = alone("-n|0x2|NAME|true").unwrap().lock else {
        panic!("not a node")
    };
    assert_eq!(names.len(), 2);
    assert_eq!(
        alone("-p|011|NAME|true").unwrap().death_signal,
        Some(Signal::KILL)
    );
}

#[test]
fn option_n_makes_numbered_names() {
    let plan = alone("-n3|NAME|true").unwrap();
    let Lock::Node { names, .. } = plan.lock else {
        panic!("not a node")
    };
    assert_eq!(
        (names, plan.announce),
        (
            ["NAME_0", "NAME_1", "NAME_2"].map(String::from).to_vec(),
            true
        )
    );
    let plan = alone("-n0|NAME|true").unwrap();
    let Lock::Node { names, .. } = plan.lock else {
        panic!("not a node")
    };
    assert_eq!((names, plan.announce), (vec!["NAME".to_owned()], false));
}

#[test]
fn local_lock_is_a_file() {
    for (words, config, folder, app) in [
        ("--local", "{}", None, "default"),
        ("--local|--app-id=app", r#"{"app_id": "ours"}"#, None, "app"),
        (
            "--local=/dir",
            r#"{"app_id": "ours"}"#,
            Some("/dir"),
            "ours",
        ),
        ("--loc=dir", "{}", Some("/here/dir"), "default"),
    ] {
        let plan = plan(&format!("{words}|NAME|true"), config).unwrap();
        let Lock::Local {
            folder: found,
            app_id,
            names,
            sharing: Sharing::Exclusive,
        } = plan.lock
        else {
            panic!("{words}")
        };
        let expected = (
            folder.map(PathBuf::from),
            app,
            vec!["NAME".to_owned()],
            false,
        );
        assert_eq!(
            (found, app_id.as_str(), names, plan.announce),
            expected,
            "{words} {config}"
        );
    }
}

#[test]
fn invalid_names_are_refused_with_the_reason() {
    for (words, sentence) in [
        ("--hosts=h|--app-id=a||true", "lock name \"\": it is empty"),
        (
            "--hosts=h|--app-id=a|-n2||true",
            "lock name \"\": it is empty",
        ),
        (
            "--hosts=h|--app-id=a|..|true",
            "lock name \"..\": \".\" and \"..\" are not allowed as path components",
        ),
        (
            "--hosts=h|--app-id=a|a//b|true",
            "lock name \"a//b\": must not contain \"//\"",
        ),
        (
            "--hosts=h|--app-id=a|a\u{1}|true",
            "lock name \"a\\u{1}\": character U+0001 is not allowed",
        ),
        (
            "--hosts=h|--app-id=a/|a|true",
            "app id \"a/\": must not begin or end with \"/\"",
        ),
        (
            "--local|a/b|true",
            "lock name \"a/b\": must not contain \"/\" with --local",
        ),
        (
            "--local|.|true",
            "lock name \".\": \".\" and \"..\" are not allowed as path components",
        ),
        (
            "--local|--app-id=a/b|a|true",
            "app id \"a/b\": must not contain \"/\" with --local",
        ),
    ] {
        assert_eq!(
            plan(words, "{}").map(drop),
            Err(sentence.to_owned()),
            "{words}"
        );
    }
    assert!(
        alone("a/b c|true").is_ok(),
        "the server decides about parents"
    );
}

#[test]
fn config_is_read_from_its_path_up_to_the_limit() {
    let path = env::temp_dir().join(format!("zk-flock-config-{}", process::id()));
    let read = |words: &str| {
        (PROGRAM.request)(
            line(&format!("-c|{}|{words}", path.display())),
            &environment(),
        )
        .map_err(|error| error.to_string())
    };
    let shown = path.display();
    fs::write(&path, WHOLE_CONFIG).unwrap();
    assert!(matches!(read("NAME|true"), Ok(Request::Run(_))));
    fs::write(&path, "{\n\"host\": 5}").unwrap();
    for words in [
        "NAME|true",
        "--local|NAME|true",
        "--hosts=h|--app-id=a|NAME|true",
    ] {
        assert_eq!(
            read(words).unwrap_err(),
            format!("{shown}:2: \"host\": expected a list of \"name:port\", found 5"),
            "{words}"
        );
    }
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    assert_eq!(
        read("NAME|true").unwrap_err(),
        format!("cannot read {shown}: a config must not be larger than 1 MiB")
    );
    fs::remove_file(&path).unwrap();
    for words in ["NAME|true", "--local|NAME|true"] {
        assert_eq!(
            read(words).unwrap_err(),
            format!("cannot read {shown}: no such file or directory"),
            "{words}"
        );
    }
}

fn request(words: &str) -> Result<Request, String> {
    let options: Options = typed(&line(&format!("--hosts|h|--app-id|app|{words}")))
        .map_err(|fault| fault.to_string())?;
    let checked = options.common.check_mode();
    checked
        .and_then(|()| options::Options::request(options, &environment()))
        .map_err(|fault| fault.to_string())
}

#[test]
fn break_names_one_lock_and_waits_30_seconds_unless_told() {
    for (words, wait, token, force) in [
        ("--break|NAME", 30, None, false),
        ("NAME|--break|--token|7", 30, Some(7), false),
        ("--break|--force|-w|90|NAME", 90, None, true),
    ] {
        let Ok(Request::Break(eviction)) = request(words) else {
            panic!("{words}");
        };
        let Locks::Nodes { root, names, .. } = &eviction.locks else {
            panic!("{:?}", eviction.locks);
        };
        assert_eq!((root.as_str(), eviction.name.as_str()), ("/app", "NAME"));
        assert_eq!(names.as_deref(), Some(&["NAME".to_owned()][..]));
        let facts = (eviction.wait, eviction.token, eviction.force);
        assert_eq!(facts, (Duration::from_secs(wait), token, force), "{words}");
    }
}

#[test]
fn break_refuses_what_it_has_no_use_for() {
    for (words, fault) in [
        ("--break", "--break: expected one lock name, found 0 words"),
        (
            "--break|a|b",
            "--break: expected one lock name, found 2 words",
        ),
        ("--break|.break", "the name \".break\" is reserved"),
        ("--break|--status|a", "--status cannot be used with --break"),
        (
            "--token|7|NAME|true",
            "--token can only be used with --break",
        ),
        (
            "--json|NAME|true",
            "--json can only be used with --status or --check",
        ),
        (
            "--json|--break|a",
            "--json can only be used with --status or --check",
        ),
        (
            "--force|--status|NAME",
            "--force can only be used with --break",
        ),
        ("--break|--token|x|a", "--token: expected a token"),
    ] {
        let refused = request(words).map(drop).unwrap_err();
        assert!(refused.contains(fault), "{words}: {refused}");
    }
}

use super::super::Request;
use super::super::options::testing::{assert_documented, environment, line, typed};
use super::*;
use crate::plan::{ExitCodes, Level, LoadLimit, Log, Style};
use crate::signal::Signal;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

fn plan_of(words: Vec<OsString>) -> Result<Plan, String> {
    match (PROGRAM.request)(words, &environment()) {
        Ok(Request::Run(plan)) => Ok(plan),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

fn plan(words: &str) -> Result<Plan, String> {
    plan_of(line(words))
}

/// Server, pool, own name, whether to wait for the server, and the lock file of this host.
fn pool(plan: &Plan) -> (String, &str, Option<&str>, bool, Option<&str>) {
    let Lock::Pool(PoolTarget {
        server,
        pool,
        host,
        wait_for_server,
        host_lock,
    }) = &plan.lock
    else {
        panic!("{:?}", plan.lock)
    };
    (
        server.to_string(),
        pool,
        host.as_deref(),
        *wait_for_server,
        host_lock.as_ref().map(|path| path.to_str().unwrap()),
    )
}

#[test]
fn server_pool_and_command_are_enough() {
    let plan = plan("-H|dx|-r|pool1|/usr/bin/puppet agent --onetime").unwrap();
    assert_eq!(
        pool(&plan),
        (
            "dx:9889".into(),
            "pool1",
            None,
            false,
            Some("/tmp/dx-pool1.lock")
        )
    );
    let shown = "/usr/bin/puppet agent --onetime";
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
        style: Style::Plain,
        path: None,
        level: Level::Info,
        session_level: Level::Info,
        warnings: Vec::new(),
    };
    assert_eq!(plan.log, log);
    assert!(!plan.daemonize && !plan.verbose);
    assert_eq!(plan.program, "distributex");
}

#[test]
fn each_option_has_its_effect_in_every_position_and_form() {
    type Effect = fn(&Plan) -> bool;
    let rows: &[(&[&str], Effect)] = &[
        (&["-Hother", "-H|other"], |plan| {
            pool(plan).0 == "other:9889"
        }),
        (&["-H10.0.0.1", "-p9889|-H10.0.0.1"], |plan| {
            pool(plan).0 == "10.0.0.1:9889"
        }),
        (&["-H::1", "-H[::1]"], |plan| pool(plan).0 == "[::1]:9889"),
        (&["-Hfe80::1%eth0"], |plan| {
            pool(plan).0 == "[fe80::1%eth0]:9889"
        }),
        (&["-rb", "-r|b"], |plan| {
            (pool(plan).1, pool(plan).4) == ("b", Some("/tmp/dx-b.lock"))
        }),
        (&["-r..", "-r|.."], |plan| {
            pool(plan).4 == Some("/tmp/dx-...lock")
        }),
        (&["-p80", "-p|80", "-p| 080"], |plan| {
            pool(plan).0 == "dx:80"
        }),
        (&["-l"], |plan| pool(plan).4 == Some("/tmp/dx-a.lock")),
        (
            &["--no-local-lock", "--no-l", "--no-local-lock|-ra/b|-ra"],
            |plan| pool(plan).4.is_none(),
        ),
        (&["--as=web1", "--as|web1", "--a|web1"], |plan| {
            pool(plan).2 == Some("web1")
        }),
        (&["-w1.5", "-w|1.5", "--wait=1.5"], |plan| {
            plan.wait == Duration::from_millis(1500) && pool(plan).3
        }),
        (&["-w0", "-w|-1"], |plan| {
            plan.wait.is_zero() && pool(plan).3
        }),
        (&["-winf"], |plan| {
            plan.wait == Duration::MAX && pool(plan).3
        }),
    ];
    for (ways, effect) in rows {
        for way in *ways {
            for line in [
                format!("-Hdx|-ra|{way}|true"),
                format!("true|-Hdx|-ra|{way}"),
                format!("-Hdx|-ra|{way}|--|true"),
            ] {
                let plan = plan(&line).unwrap_or_else(|sentence| panic!("{line}: {sentence}"));
                assert!(effect(&plan), "{line}: {plan:?}");
                assert_eq!(plan.command.shown, "true", "{line}");
            }
        }
    }
}

#[test]
fn host_lock_is_enough_without_a_server() {
    for words in ["-l|-r|a|true", "-lra|true"] {
        let plan = plan(words).unwrap();
        assert!(
            matches!(&plan.lock, Lock::Host(file) if file.to_str() == Some("/tmp/dx-a.lock")),
            "{:?}",
            plan.lock
        );
    }
}

#[test]
fn pool_name_with_slash_works_only_without_lock_file() {
    assert_eq!(
        pool(&plan("-Hdx|-ra/b|--no-local-lock|true").unwrap()).1,
        "a/b"
    );
}

#[test]
fn every_long_option_is_in_the_help_and_is_taken() {
    assert_documented::<Options>(HELP);
}

#[test]
fn invalid_options_are_refused_with_the_reason() {
    for (words, sentence) in [
        ("-H", "missing argument for option '-H'"),
        (
            "-H|",
            "-H: expected a name or address, without a port (that is -p), found \"\"",
        ),
        (
            "-Hdx:80",
            "-H: expected a name or address, without a port (that is -p), found \"dx:80\"",
        ),
        (
            "-Hhttp://dx/",
            "-H: expected a name or address, without a port (that is -p), found \"http://dx/\"",
        ),
        ("-p0", "-p: expected a port, 1 to 65535, found \"0\""),
        (
            "-p65536",
            "-p: expected a port, 1 to 65535, found \"65536\"",
        ),
        ("-phttp", "-p: expected a port, 1 to 65535, found \"http\""),
        ("-r|", "-r: expected the name of a pool, found \"\""),
        (
            "-r|a/b",
            "-r: expected a pool name without \"/\" (or use --no-local-lock), found \"a/b\"",
        ),
        ("--as=", "--as: expected the name of a host, found \"\""),
        (
            "--as=a,b",
            "--as: expected the name of a host, found \"a,b\"",
        ),
        (
            "--as=a\n",
            "--as: expected the name of a host, found \"a\\n\"",
        ),
        (
            "-l|--no-local-lock",
            "--no-local-lock cannot be used with -l",
        ),
        (
            "more",
            "expected one quoted COMMAND, found 2 words; use: distributex -Hdx -ra 'true more'",
        ),
    ] {
        let error =
            (PROGRAM.request)(line(&format!("-Hdx|-ra|true|{words}")), &environment()).unwrap_err();
        let shown = error.to_string();
        let without_advice = shown.split("; to pass options").next().unwrap();
        assert_eq!(
            (without_advice, error.exit_code(), error.wants_usage()),
            (sentence, 2, false),
            "{words}"
        );
        let error = (PROGRAM.request)(
            line(&format!("--sysexits|-Hdx|-ra|true|{words}")),
            &environment(),
        )
        .unwrap_err();
        assert_eq!(error.exit_code(), 64, "{words}");
    }
}

#[test]
fn missing_options_and_commands_are_named() {
    const NO_SERVER: &str = "-H HOST is required (or use -l for a lock on this host only)";
    for (words, sentence, code, usage) in [
        ("-Hdx|true", "-r POOL is required", 2, false),
        ("", "-r POOL is required", 2, false),
        ("-ra|true", NO_SERVER, 2, false),
        ("-ra|--no-local-lock|true", NO_SERVER, 2, false),
        ("-Hdx|-ra", "the command is missing", 1, true),
        ("-Hdx|-ra|--", "the command is missing", 1, true),
        ("-Hdx|-ra||", "the command is empty", 1, true),
    ] {
        let words = if words.ends_with("||") {
            vec!["-Hdx".into(), "-ra".into(), "".into()]
        } else {
            line(words)
        };
        let error = (PROGRAM.request)(words.clone(), &environment()).unwrap_err();
        assert_eq!(
            (
                error.to_string().as_str(),
                error.exit_code(),
                error.wants_usage()
            ),
            (sentence, code, usage),
            "{words:?}"
        );
    }
}

#[test]
fn command_may_be_any_bytes_but_names_must_be_utf8() {
    let bytes = || OsString::from_vec(b"\xff".to_vec());
    let plan = plan_of(vec!["-Hdx".into(), "-ra".into(), bytes()]).unwrap();
    assert_eq!(plan.command.words, ["/bin/sh".into(), "-c".into(), bytes()]);
    for (option, sentence) in [
        ("-H", "-H: expected UTF-8, found \"\u{fffd}\""),
        ("-r", "-r: expected UTF-8, found \"\u{fffd}\""),
        ("--as", "--as: expected UTF-8, found \"\u{fffd}\""),
    ] {
        assert_eq!(
            plan_of(vec![option.into(), bytes(), "true".into()]).map(drop),
            Err(sentence.to_owned())
        );
    }
}

#[test]
fn break_needs_a_pool_and_a_server() {
    let options: Options = typed(&line("-H|dx|-r|P|--break|--token|7")).unwrap();
    let request = options::Options::request(options, &environment());
    let Ok(Request::Break(eviction)) = request else {
        panic!("{request:?}");
    };
    assert_eq!((eviction.name.as_str(), eviction.token), ("P", Some(7)));
    for (words, missing) in [("-H|dx|--break", "-r POOL"), ("-r|P|--break", "-H")] {
        let options: Options = typed(&line(words)).unwrap();
        let refused = options::Options::request(options, &environment()).unwrap_err();
        assert!(refused.to_string().contains(missing), "{refused}");
    }
}

#[test]
fn servers_that_share_their_pools_are_a_list() {
    let found = plan("-H|a,[::1],10.0.0.1|-p|90|-r|pool1|true").unwrap();
    let Lock::Pool(target) = &found.lock else {
        panic!("{:?}", found.lock)
    };
    assert_eq!(target.server.to_string(), "a:90,[::1]:90,10.0.0.1:90");
    assert_eq!(target.server.header(), "a:90");
    for list in ["a,", ",a", "a,,b", "a,b c", "a,unix:/s", "https://a,b"] {
        let refused = plan(&format!("-H|{list}|-r|pool1|true")).unwrap_err();
        assert!(refused.starts_with("-H: expected "), "{refused}");
    }
}

#[test]
fn https_has_its_port_and_a_prefix() {
    for (words, server, header) in [
        ("-H|https://dx", "https://dx", "dx"),
        ("-H|https://dx/", "https://dx", "dx"),
        (
            "-H|https://dx:8443/locks/",
            "https://dx:8443/locks",
            "dx:8443",
        ),
        (
            "-H|https://dx/a/b|-p|8443",
            "https://dx:8443/a/b",
            "dx:8443",
        ),
        ("-H|https://[::1]/a", "https://[::1]/a", "[::1]"),
    ] {
        let plan = plan(&format!("{words}|-r|pool1|true")).unwrap();
        let Lock::Pool(target) = &plan.lock else {
            panic!("{:?}", plan.lock)
        };
        assert_eq!(target.server.to_string(), server);
        assert_eq!(target.server.header(), header);
        assert!(target.server.path("/wait/").ends_with("/wait/"));
    }
    for (words, sentence) in [
        (
            "-H|https://dx:1|-p|2",
            "-p cannot be used with a port in -H",
        ),
        (
            "-H|dx|--tls-ca|/ca",
            "--tls-ca can only be used with -H https://HOST",
        ),
        (
            "-H|https://dx|--proxy|nc %h %p",
            "--proxy cannot be used with -H https://HOST",
        ),
        (
            "-H|https://dx|--tls-name|",
            "--tls-name: expected a host name or an IP address, found \"\"",
        ),
        (
            "-H|https://dx/a b",
            "-H: expected https://HOST[:PORT][/PREFIX], found \"https://dx/a b\"",
        ),
    ] {
        let fault = plan(&format!("{words}|-r|pool1|true")).unwrap_err();
        assert_eq!(fault, sentence, "{words}");
    }
}

#[test]
fn token_is_read_from_the_file_of_the_option_or_of_the_environment() {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = std::env::temp_dir();
    let file = |name: &str, text: &str| {
        let path = folder.join(format!("distributex-{name}-{}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600);
        std::io::Write::write_all(&mut file.open(&path).unwrap(), text.as_bytes()).unwrap();
        path
    };
    let one = file("one", "# x\n0123456789-one-abc\n0123456789-older\n");
    let other = file("other", "0123456789-other-abc");
    let token = |words: &str, variable: Option<&OsString>| {
        let environment = Environment {
            access_token_file: variable.cloned(),
            ..environment()
        };
        let words = line(&format!("-H|dx|-r|p|{words}true"));
        match (PROGRAM.request)(words, &environment) {
            Ok(Request::Run(Plan {
                lock: Lock::Pool(PoolTarget { server, .. }),
                ..
            })) => Ok(server
                .access_token
                .map(|token| String::from_utf8_lossy(token.secret()).into_owned())),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(format!("{} {error}", error.exit_code())),
        }
    };
    let option = format!("--access-token-file|{}|", one.display());
    let other_name = other.clone().into_os_string();
    for (words, variable, secret) in [
        ("", None, None),
        ("", Some(&OsString::new()), None),
        ("", Some(&other_name), Some("0123456789-other-abc")),
        (&option, None, Some("0123456789-one-abc")),
        (&option, Some(&other_name), Some("0123456789-one-abc")),
    ] {
        assert_eq!(
            token(words, variable),
            Ok(secret.map(str::to_owned)),
            "{words}"
        );
    }
    let nowhere = "1 cannot read /nowhere: no such file or directory".to_owned();
    assert_eq!(token("--access-token-file=/nowhere|", None), Err(nowhere));
    for path in [one, other] {
        std::fs::remove_file(path).unwrap();
    }
}

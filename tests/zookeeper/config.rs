//! The config file, good and bad, seen from outside: what is wrong is one line with file, line and
//! key, and nothing is run.

use common::run::{Job, Outcome, exited};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// As the original's README has it, but for a password.
const SAMPLE: &str = include_str!("../data/published-sample.json");

/// Where the sample logs to.
const SAMPLE_LOG: &str = "/tmp/zkflock.log";

/// zk-flock with this text as its config.
fn flock<'a>(sandbox: &'a Sandbox, config: &str, words: &[&str]) -> Job<'a> {
    let path = sandbox.path("config.json");
    fs::write(&path, config).expect("the config can be written");
    sandbox
        .program(&[
            "-c",
            path.to_str().expect("paths of tests are text"),
            "-l",
            "0",
            "-x",
            "17",
        ])
        .words(words)
}

/// The same with the three keys that must be there, and these.
fn flock_with<'a>(sandbox: &'a Sandbox, keys: &str, words: &[&str]) -> Job<'a> {
    let (host, app) = (ZooKeeper::shared().address(), &sandbox.id);
    flock(
        sandbox,
        &format!("{{\"host\": [\"{host}\"], \"timeout\": 15, \"app_id\": \"{app}\",\n{keys}\n}}"),
        words,
    )
}

/// Runs with a config that is wrong; asserts exit codes, that one line says where and what, and
/// that nothing ran.
#[track_caller]
fn is_wrong(config: &str, facts: &[&str]) {
    let sandbox = Sandbox::new();
    for (options, code) in [(&[][..], 1), (&["--sysexits"], 78), (&["-d"], 1)] {
        let outcome = flock(
            &sandbox,
            config,
            &[options, &["lock", "touch ran"]].concat(),
        )
        .run();
        outcome.complains(
            code,
            &[&[sandbox.path("config.json").to_str().unwrap()], facts].concat(),
        );
    }
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn malformed_json_is_an_error_with_its_line() {
    for (text, line) in [
        ("", "json:1: "),
        ("{", "json:1: "),
        ("{\n\"host\": [\"h\",]}", "json:2: "),
        ("{\"host\": \"h\"\n\n\"x\"", "json:3: "),
    ] {
        is_wrong(text, &[line, "not JSON"]);
    }
    is_wrong("[]", &["json:1: ", "expected an object, found a list"]);
}

#[test]
fn a_missing_key_is_an_error_with_the_expected_type() {
    is_wrong(
        r#"{"timeout": 5, "app_id": "a"}"#,
        &["missing key \"host\"", "list of \"name:port\""],
    );
    is_wrong(
        r#"{"host": ["h"], "app_id": "a"}"#,
        &["missing key \"timeout\"", "seconds"],
    );
    is_wrong(
        r#"{"host": ["h"], "timeout": 5}"#,
        &["missing key \"app_id\"", "a string"],
    );
    is_wrong(
        "{\"timeout\": 5, \"app_id\": \"a\",\n\"hosts\": [\"h\"]}",
        &["missing key \"host\"", "unknown key \"hosts\" on line 2"],
    );
}

#[test]
fn a_wrong_type_is_an_error_with_line_key_and_expected_type() {
    let required = "{\"host\": [\"h:1\"], \"timeout\": 5, \"app_id\": \"a\",\n";
    for (text, facts) in [
        (
            "{\n\"host\": 5}",
            ["json:2: \"host\"", "list of \"name:port\", found 5"],
        ),
        (
            "{\n\n\"host\": [\"h:port\"]}",
            [
                "json:3: \"host\"",
                "\"h:port\" is not HOST:PORT: the port \"port\" is not a number from 1 to 65535",
            ],
        ),
        (
            "{\n\"timeout\": \"soon\"}",
            [
                "json:2: \"timeout\"",
                "expected seconds from 0.001 to 2147483, or a time like \"30s\", found \"soon\"",
            ],
        ),
        ("{\n\"timeout\": -1}", ["json:2: \"timeout\"", "found -1"]),
        (
            "{\n\"timeout\": 1e300}",
            ["json:2: \"timeout\"", "found 1e+300"],
        ),
        (
            "{\n\"app_id\": [7]}",
            ["json:2: \"app_id\"", "expected a string, found a list"],
        ),
        (
            "{\n\"app_id\": \"/ops\"}",
            ["json:2: \"app_id\"", "must not begin or end with \"/\""],
        ),
        (
            "{\n\"host\": [\"http://h:1\"]}",
            ["json:2: \"host\"", "remove \"http://\""],
        ),
        ("{\n\"app_id\": \"a//b\"}", ["json:2: \"app_id\"", "a//b"]),
        (
            &format!("{required}\"sleep\": true}}"),
            ["json:2: \"sleep\"", "\"ON\" or \"OFF\""],
        ),
        (
            &format!("{required}\"logger\": \"log\"}}"),
            ["json:2: \"logger\"", "expected an object"],
        ),
        (
            &format!("{required}\"logger\": {{\n\"path\": 5}}}}"),
            ["json:3: \"logger.path\"", "expected a string"],
        ),
        (
            &format!("{required}\"auth\": 5}}"),
            ["json:2: \"auth\"", "expected an object"],
        ),
        (
            &format!("{required}\"auth\": {{\"scheme\": \"digest\"}}}}"),
            ["missing key \"auth.data\"", "a string"],
        ),
        (
            &format!("{required}\"acl\": \"creator\"}}"),
            ["json:2: \"acl\"", "requires the key \"auth\""],
        ),
        (
            &format!("{required}\"acl\": \"closed\"}}"),
            ["json:2: \"acl\"", "\"open\" or \"creator\""],
        ),
        (
            &format!("{required}\"heartbeat\": \"none\"}}"),
            ["json:2: \"heartbeat\"", "\"write\" or \"ping\""],
        ),
    ] {
        is_wrong(text, &facts);
    }
}

#[test]
fn a_password_is_never_shown() {
    let sandbox = Sandbox::new();
    for auth in [
        r#""secret""#,
        r#"{"scheme": "digest", "data": ["secret"]}"#,
        r#"{"scheme": 5, "data": "secret"}"#,
        r#"["secret"]"#,
    ] {
        let outcome = flock_with(&sandbox, &format!(r#""auth": {auth}"#), &["lock", "true"]).run();
        assert_eq!(outcome.end, Ok(1));
        assert!(!outcome.stderr.contains("secret"), "{}", outcome.stderr);
    }
}

/// Runs with `-c` and this file; the outcome.
fn with_file(sandbox: &Sandbox, path: &Path) -> Outcome {
    sandbox
        .program(&["-c", path.to_str().unwrap(), "lock", "touch ran"])
        .run()
}

#[test]
fn an_unreadable_or_malformed_file_is_an_error_with_its_path() {
    let sandbox = Sandbox::new();
    let (missing, large) = (sandbox.path("missing"), sandbox.path("large"));
    File::create(&large)
        .and_then(|file| file.set_len(1 << 30))
        .unwrap();
    for (path, why) in [
        (&missing, "no such file"),
        (&sandbox.folder, "is a directory"),
        (&large, "larger than 1 MiB"),
        (&"/dev/zero".into(), "larger than 1 MiB"),
        (&"/dev/null".into(), "not JSON"),
        (&sandbox.path("missing/config"), "no such file"),
    ] {
        with_file(&sandbox, path).complains(1, &[path.to_str().unwrap(), why]);
    }
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_file_without_read_permission_is_an_error_with_its_path() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("config.json");
    fs::write(&path, "{}").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
    let job = sandbox.program(&["-c", path.to_str().unwrap(), "lock", "touch ran"]);
    // Without root's power over files.
    let script = format!(
        "exec setpriv --bounding-set=-all --inh-caps=-all {}",
        job.line()
    );
    Job::new(&sandbox, Path::new("sh"))
        .words(&["-c", &script])
        .run()
        .complains(1, &[path.to_str().unwrap(), "permission denied"]);
}

#[test]
fn the_published_sample_is_used_as_it_stands_but_for_the_host() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let hosts = r#"["hostname1:2181","hostname2:2181","hostname3:2181"]"#;
    assert!(
        SAMPLE.contains(hosts) && SAMPLE.contains("//ON or OFF") && SAMPLE.contains(SAMPLE_LOG)
    );
    let there_before = Path::new(SAMPLE_LOG).exists();
    let config = SAMPLE.replace(hosts, &format!(r#"["{}"]"#, server.address()));
    let run = flock(&sandbox, &config, &["-m", "0", &sandbox.id, "echo mine"]).start();
    let pid = run.pid();
    assert_eq!(run.wait(), exited(0).printing("mine\n"));
    let log = fs::read_to_string(SAMPLE_LOG).unwrap();
    if !there_before {
        fs::remove_file(SAMPLE_LOG).unwrap();
    }
    let ours: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(&format!(" {pid} ")))
        .collect();
    for sentence in [
        "Lock: success",
        "Start subprocess: echo mine (PID: ",
        "Child exited with code: 0 (PID: ",
    ] {
        assert!(
            ours.iter().any(|line| line.contains(sentence)),
            "no {sentence:?} in {ours:?}"
        );
    }
    assert!(!log.contains("WARNING"), "nothing in it is odd");
}

#[test]
fn an_optional_key_of_a_wrong_type_is_a_warning_and_the_command_runs() {
    let sandbox = Sandbox::new();
    let log = sandbox.path("log");
    for (keys, warning) in [
        (
            "\"max_la\": 0.0001",
            "\"max_la\": unknown key (did you mean \"maxla\"?)",
        ),
        ("\"colour\": \"red\"", "\"colour\": unknown key"),
        ("\"auth\": null", "\"auth\": expected an object, found null"),
    ] {
        let keys = format!("{keys}, \"logger\": {{\"path\": \"{}\"}}", log.display());
        assert_eq!(
            flock_with(&sandbox, &keys, &["lock", "echo mine"]).run(),
            exited(0).printing("mine\n"),
            "{keys}"
        );
        let text = fs::read_to_string(&log).unwrap();
        assert!(
            text.contains("WARNING") && text.contains(warning) && text.contains("config.json:2: "),
            "{text}"
        );
        fs::remove_file(&log).unwrap();
    }
}

#[test]
fn a_load_limit_without_effect_is_a_warning_unless_an_option_sets_one() {
    let sandbox = Sandbox::new();
    let outcome = flock_with(&sandbox, "\"maxla\": \"0.0001\"", &["lock", "echo mine"]).run();
    assert_eq!((outcome.end, outcome.stdout.as_str()), (Ok(0), "mine\n"));
    outcome.complaint(&[
        "WARNING",
        "config.json:2: \"maxla\": expected a number, found \"0.0001\": no limit",
    ]);
    let limited = flock_with(
        &sandbox,
        "\"maxla\": \"0.0001\"",
        &["-m", "1e6", "lock", "echo mine"],
    )
    .run();
    assert_eq!(limited, exited(0).printing("mine\n"));
}

#[test]
fn configs_of_the_original_are_accepted() {
    let (sandbox, host) = (Sandbox::new(), ZooKeeper::shared().address());
    for config in [
        format!(
            r#"{{"host": ["{host},"], "timeout": 15, "app_id": "{}"}}"#,
            sandbox.id
        ),
        format!(
            r#"{{"host": ["", "{host}"], "timeout": "15s", "app_id": "{}"}}"#,
            sandbox.id
        ),
        format!(
            "\u{feff}{{\"host\": \"{host}\", \"timeout\": 15, \"app_id\": \"{}\"}}",
            sandbox.id
        ),
    ] {
        assert_eq!(
            flock(&sandbox, &config, &["lock", "echo mine"]).run(),
            exited(0).printing("mine\n"),
            "{config}"
        );
    }
    let number = sandbox.id.bytes().fold(0u64, |number, byte| {
        number * 31 % 999_999_937 + u64::from(byte)
    });
    let config = format!(r#"{{"host": "{host}", "timeout": 15, "app_id": {number}}}"#);
    let outcome = flock(&sandbox, &config, &["lock", "printenv ZK_FLOCK_LOCK"]).run();
    assert_eq!(outcome, exited(0).printing(&format!("/{number}/lock\n")));
}

#[test]
fn servers_in_the_chroot_are_a_warning() {
    let (sandbox, host) = (Sandbox::new(), ZooKeeper::shared().address());
    let list = format!("{host}/{0},{host}/{0}", sandbox.id);
    let outcome = sandbox
        .program(&[
            "--hosts",
            &list,
            "--app-id",
            "app",
            "-l",
            "0",
            "lock",
            "printenv ZK_FLOCK_LOCK",
        ])
        .run();
    outcome.complaint(&[
        "WARNING: --hosts: the chroot is ",
        "Write the chroot once, at the end",
    ]);
    assert_eq!(
        (outcome.end, outcome.stdout.contains(',')),
        (Ok(0), true),
        "the node stays what it was"
    );
}

#[test]
fn environment_variables_set_options() {
    let (sandbox, host) = (Sandbox::new(), ZooKeeper::shared().address());
    let print = ["-l", "0", "lock", "printenv ZK_FLOCK_LOCK"];
    let named = |job: Job<'_>| {
        job.env("ZK_FLOCK_HOSTS", &host)
            .env("ZK_FLOCK_APP_ID", &sandbox.id)
            .env("ZK_FLOCK_TIMEOUT", "15s")
            .run()
    };
    assert_eq!(
        named(sandbox.program(&print)),
        exited(0).printing(&format!("/{}/lock\n", sandbox.id))
    );
    let config = r#"{"host": "127.0.0.1:1", "timeout": 1, "app_id": "other"}"#;
    assert_eq!(
        named(flock(&sandbox, config, &print[2..])),
        exited(0).printing(&format!("/{}/lock\n", sandbox.id)),
        "above the config"
    );
    let below = named(
        sandbox
            .program(&["--app-id", &format!("{}/x", sandbox.id)])
            .words(&print),
    );
    assert_eq!(
        below,
        exited(0).printing(&format!("/{}/x/lock\n", sandbox.id)),
        "below options"
    );
    let wrong = sandbox
        .program(&print)
        .env("ZK_FLOCK_TIMEOUT", "soon")
        .run();
    wrong.complains(2, &["ZK_FLOCK_TIMEOUT: expected seconds", "found \"soon\""]);
    let missing = sandbox
        .program(&print)
        .env("ZK_FLOCK_CONFIG", "/nowhere/config")
        .run();
    missing.complains(1, &["cannot read /nowhere/config: no such file"]);
    let path = sandbox.config(&host, 15);
    assert_eq!(
        sandbox
            .program(&print)
            .env("ZK_FLOCK_CONFIG", path.to_str().unwrap())
            .run()
            .end,
        Ok(0)
    );
}

#[test]
fn each_log_level_passes_its_lines() {
    let sandbox = Sandbox::new();
    let log = sandbox.path("log");
    let sentences = ["Lock: success", "connected to"];
    for (level, zklevel, expected) in [
        ("INFO", "WARN", [true, false]),
        ("info", "info", [true, true]),
        ("ERROR", "DEBUG", [false, true]),
        ("CRITICAL", "FATAL", [false, false]),
        ("verbose", "ERROR", [false, false]),
    ] {
        let keys = format!(
            r#""logger": {{"path": "{}", "level": "{level}", "zklevel": "{zklevel}"}}"#,
            log.display()
        );
        assert_eq!(
            flock_with(&sandbox, &keys, &["lock", "true"]).run(),
            exited(0)
        );
        let text = fs::read_to_string(&log).unwrap_or_default();
        assert_eq!(
            sentences.map(|sentence| text.contains(sentence)),
            expected,
            "{level} {zklevel}: {text}"
        );
        let _ = fs::remove_file(&log);
    }
}

#[test]
fn a_relative_log_path_is_below_the_callers_directory_also_for_a_daemon() {
    let sandbox = Sandbox::new();
    for options in [&[][..], &["-d"]] {
        let words = [options, &["lock", "true"]].concat();
        assert_eq!(
            flock_with(&sandbox, r#""logger": {"path": "here.log"}"#, &words).run(),
            exited(0)
        );
        common::wait_until("the end of the story", || {
            sandbox.read("here.log").contains("released")
        });
        fs::remove_file(sandbox.path("here.log")).unwrap();
    }
}

#[test]
fn a_heartbeat_of_pings_and_a_host_as_one_string_work() {
    let sandbox = Sandbox::new();
    let hosts = format!("{0}, {0}", ZooKeeper::shared().address());
    let config = format!(
        r#"{{"host": "{hosts}", "timeout": 2.5, "app_id": "{}", "heartbeat": "ping"}}"#,
        sandbox.id
    );
    assert_eq!(
        flock(&sandbox, &config, &["lock", "sleep 1"]).run(),
        exited(0)
    );
}

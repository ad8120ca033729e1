use super::*;
use proptest::prelude::*;

/// The sample in the original's README, with its comments.
const SAMPLE: &str = r#"{
    "host": ["hostname1:2181","hostname2:2181","hostname3:2181"],
    "timeout": 5,
    "app_id": "my_application_namespace",
    "sleep": "ON",    //ON or OFF - Default OFF
    "maxla": 30,      // If >=0 -> max loadaverage for work. Default -1
    "logger": {
            "path": "/tmp/zkflock.log",
            "level": "INFO",
            "zklevel": "ERROR"
    },
    "auth": {
        "scheme": "digest",
        "data": "user:password"
    }
}
"#;

#[test]
fn shipped_example_has_no_warnings() {
    let config = parse(include_str!("../../packaging/distributed-flock.json")).unwrap();
    assert_eq!((config.warnings, config.load_warning), (vec![], None));
    assert_eq!(config.app_id.as_deref(), Some("my_app"));
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text.as_bytes(), Path::new("f")).map_err(|error| error.to_string())
}

#[test]
fn documented_sample_is_valid() {
    let config = parse(SAMPLE).unwrap();
    let hosts: Vec<_> = config
        .host
        .unwrap()
        .hosts
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        hosts,
        ["hostname1:2181", "hostname2:2181", "hostname3:2181"]
    );
    assert_eq!(config.timeout, Some(Duration::from_secs(5)));
    assert_eq!(config.app_id.as_deref(), Some("my_application_namespace"));
    assert_eq!((config.sleep, config.maxla), (Some(true), Some(30.0)));
    assert_eq!(
        config.log_path.as_deref(),
        Some(Path::new("/tmp/zkflock.log"))
    );
    assert_eq!((config.level, config.zklevel), (Level::Info, Level::Error));
    assert_eq!(
        config.auth,
        Some(Auth {
            scheme: "digest".into(),
            data: "user:password".into()
        })
    );
    assert_eq!(
        (config.acl, config.heartbeat),
        (Acl::Open, Heartbeat::Write)
    );
    assert_eq!(config.warnings, []);
}

#[test]
fn empty_object_is_the_default() {
    let config = parse("{}").unwrap();
    assert!(config.host.is_none() && config.timeout.is_none() && config.app_id.is_none());
    assert_eq!(
        (config.sleep, config.maxla, config.log_path, config.auth),
        (None, None, None, None)
    );
    assert_eq!(
        (config.level, config.zklevel),
        (Level::Info, Level::Warning)
    );
}

#[test]
fn hosts_are_a_list_or_one_string() {
    for (value, expected, path) in [
        (r#""h1,h2:2182/a""#, "h1:2181 h2:2182", "/a"),
        (r#"["h1", "h2:2182/a"]"#, "h1:2181 h2:2182", "/a"),
        (r#"["h1,h2", "[::1]"]"#, "h1:2181 h2:2181 [::1]:2181", ""),
        (r#"["zk1:2181,"]"#, "zk1:2181", ""),
        (r#"["", "h1", ""]"#, "h1:2181", ""),
    ] {
        let Ensemble { hosts, chroot } = parse(&format!("{{\"host\": {value}}}"))
            .unwrap()
            .host
            .unwrap();
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        assert_eq!(
            (hosts.join(" ").as_str(), chroot.as_str()),
            (expected, path),
            "{value}"
        );
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of inputs")]
fn errors_name_file_line_key_and_value() {
    for (text, sentence) in [
        (
            "",
            "f:1: not JSON: EOF while parsing a value at line 1 column 0",
        ),
        (
            "{\n\"timeout\": 5\n\"host\": 1}",
            "f:3: not JSON: expected `,` or `}` at line 3 column 1",
        ),
        (
            "{\"maxla\": nan}",
            "f:1: not JSON: expected ident at line 1 column 12",
        ),
        ("[]", "f:1: expected an object, found a list"),
        (
            "{\n\"host\": 5}",
            "f:2: \"host\": expected a list of \"name:port\", found 5",
        ),
        (
            "{\n\n\"host\": [\"h\", null]}",
            "f:3: \"host\": expected a list of \"name:port\", found null",
        ),
        (
            "{\"host\": []}",
            "f:1: \"host\": the list of servers is empty: expected HOST:PORT,...",
        ),
        (
            "{\"host\": [\"h:0\"]}",
            "f:1: \"host\": \"h:0\" is not HOST:PORT: the port \"0\" is not a number from 1 to 65535",
        ),
        (
            "{ // c\n\"timeout\": \"soon\"}",
            "f:2: \"timeout\": expected seconds from 0.001 to 2147483, or a time like \"30s\", found \"soon\"",
        ),
        (
            "{\"timeout\": true}",
            "f:1: \"timeout\": expected seconds from 0.001 to 2147483, or a time like \"30s\", found true",
        ),
        (
            "{\"timeout\": 0}",
            "f:1: \"timeout\": expected seconds from 0.001 to 2147483, or a time like \"30s\", found 0",
        ),
        (
            "{\"timeout\": -5}",
            "f:1: \"timeout\": expected seconds from 0.001 to 2147483, or a time like \"30s\", found -5",
        ),
        (
            "{\"timeout\": 1e300}",
            "f:1: \"timeout\": expected seconds from 0.001 to 2147483, or a time like \"30s\", found 1e+300",
        ),
        (
            "{\"app_id\": [5]}",
            "f:1: \"app_id\": expected a string, found a list",
        ),
        (
            "{\"app_id\": 1e300}",
            "f:1: \"app_id\": expected a string, found 1e+300",
        ),
        (
            "{\"timeout\": NaN}",
            "f:1: \"timeout\": expected seconds from 0.001 to 2147483, or a time like \"30s\", found \"NaN\"",
        ),
        ("{\"app_id\": \"\"}", "f:1: \"app_id\": \"\": it is empty"),
        (
            "{\"app_id\": \"/a\"}",
            "f:1: \"app_id\": \"/a\": must not begin or end with \"/\"",
        ),
        (
            "{\"sleep\": \"on\"}",
            "f:1: \"sleep\": expected \"ON\" or \"OFF\", found \"on\"",
        ),
        (
            "{\"sleep\": true}",
            "f:1: \"sleep\": expected \"ON\" or \"OFF\", found true",
        ),
        (
            "{\"logger\": null}",
            "f:1: \"logger\": expected an object, found null",
        ),
        (
            "{\"logger\": {\n\"path\": 5}}",
            "f:2: \"logger.path\": expected a string, found 5",
        ),
        (
            "{\"auth\": \"digest:u:secret\"}",
            "f:1: \"auth\": expected an object, found a string",
        ),
        (
            "{\"auth\": {\"scheme\": \"digest\",\n\"data\": 123}}",
            "f:2: \"auth.data\": expected a string, found a number",
        ),
        (
            "{\"auth\": {\"scheme\": \"digest\"}}",
            "f: missing key \"auth.data\", expected a string",
        ),
        (
            "{\"acl\": \"private\"}",
            "f:1: \"acl\": expected \"open\" or \"creator\", found \"private\"",
        ),
        (
            "{\"acl\": \"creator\"}",
            "f:1: \"acl\": \"creator\" requires the key \"auth\", or \"tls\" with \"cert\"",
        ),
        (
            "{\"heartbeat\": false}",
            "f:1: \"heartbeat\": expected \"write\" or \"ping\", found false",
        ),
    ] {
        assert_eq!(parse(text).map(drop), Err(sentence.to_owned()), "{text}");
    }
    let error = Config::parse(b"{\n\n\"\xff\": 1}", Path::new("f")).unwrap_err();
    assert_eq!(error.to_string(), "f:3: not UTF-8");
}

#[test]
fn odd_values_are_warned_of_and_have_the_effect_of_the_original() {
    for (text, warning) in [
        (
            "{\"maxla\": 1.5,\n\"max_la\": 2}",
            "f:2: \"max_la\": unknown key (did you mean \"maxla\"?)",
        ),
        ("{\n\"colour\": 2}", "f:2: \"colour\": unknown key"),
        (
            "{\"logger\": {\n\"file\": 1}}",
            "f:2: \"logger.file\": unknown key",
        ),
        (
            "{\"auth\": null}",
            "f:1: \"auth\": expected an object, found null: connecting without authentication",
        ),
        (
            "{\"auth\": {\"scheme\": \"\", \"data\": \"\",\n\"user\": 1}}",
            "f:2: \"auth.user\": unknown key",
        ),
    ] {
        assert_eq!(
            parse(text).unwrap().warnings,
            [Warning::Logged(warning.to_owned())],
            "{text}"
        );
    }
}

#[test]
fn load_that_does_not_limit_is_warned_of() {
    for (text, maxla, warning) in [
        (
            "{\n\"maxla\": \"30\"}",
            None,
            "f:2: \"maxla\": expected a number, found \"30\": no limit, the command runs at any load",
        ),
        (
            "{\"maxla\": null}",
            None,
            "f:1: \"maxla\": expected a number, found null: no limit, the command runs at any load",
        ),
        (
            "{\"maxla\": [1]}",
            None,
            "f:1: \"maxla\": expected a number, found a list: no limit, the command runs at any load",
        ),
        (
            "{\"maxla\": NaN}",
            None,
            "f:1: \"maxla\": expected a number, found \"NaN\": no limit, the command runs at any load",
        ),
        (
            "{\"maxla\": -Infinity}",
            None,
            "f:1: \"maxla\": expected a number, found \"-Infinity\": no limit, the command runs at any load",
        ),
        (
            "{\"maxla\": true}",
            Some(1.0),
            "f:1: \"maxla\": expected a number, found true: using 1",
        ),
        (
            "{\"maxla\": false}",
            Some(0.0),
            "f:1: \"maxla\": expected a number, found false: no limit, the command runs at any load",
        ),
    ] {
        let config = parse(text).unwrap();
        assert_eq!(
            (
                config.maxla,
                config.load_warning.as_deref(),
                config.warnings
            ),
            (maxla, Some(warning), vec![]),
            "{text}"
        );
    }
    assert_eq!(parse("{\"maxla\": 30}").unwrap().load_warning, None);
}

#[test]
fn app_id_that_is_not_a_string_becomes_what_python_prints() {
    for (value, name) in [
        ("5", "5"),
        ("-1", "-1"),
        ("1.5", "1.5"),
        ("5.0", "5.0"),
        ("true", "True"),
        ("false", "False"),
        ("null", "None"),
    ] {
        let config = parse(&format!("{{\"app_id\": {value}}}")).unwrap();
        let warning = format!("f:1: \"app_id\": expected a string, found {value}: using {name:?}");
        assert_eq!(
            (config.app_id.as_deref(), config.warnings),
            (Some(name), vec![Warning::Logged(warning)])
        );
    }
}

#[test]
fn timeout_may_have_units() {
    for (value, seconds) in [
        ("\"30s\"", 30.0),
        ("\"1m30s\"", 90.0),
        ("\"5\"", 5.0),
        ("2.5", 2.5),
    ] {
        assert_eq!(
            parse(&format!("{{\"timeout\": {value}}}")).unwrap().timeout,
            Some(Duration::from_secs_f64(seconds)),
            "{value}"
        );
    }
}

#[test]
fn byte_order_mark_is_ignored() {
    assert_eq!(
        parse("\u{feff}{\"app_id\": \"a\"}")
            .unwrap()
            .app_id
            .as_deref(),
        Some("a")
    );
}

#[test]
fn unknown_key_is_named_with_the_missing_key() {
    let missing = |text: &str, key| {
        parse(text)
            .unwrap()
            .missing(key, Path::new("f"))
            .to_string()
    };
    let host = "f: missing key \"host\", expected a list of \"name:port\"";
    assert_eq!(missing("{}", Required::Host), host);
    assert_eq!(
        missing("{\n\"hosts\": [],\n\"x\": 1}", Required::Host),
        format!("{host}; found the unknown key \"hosts\" on line 2")
    );
    assert_eq!(
        missing("{\n\"servers\": []}", Required::Host),
        format!("{host}; found the unknown key \"servers\" on line 2")
    );
    assert_eq!(missing("{\"x\": 1, \"y\": 2}", Required::Host), host);
    assert!(
        missing("{\"appid\": \"a\"}", Required::AppId)
            .ends_with("found the unknown key \"appid\" on line 1")
    );
}

#[test]
fn level_names_are_those_of_python() {
    for (value, level, warnings) in [
        ("\"DEBUG\"", Level::Debug, 0),
        ("\"debug\"", Level::Debug, 0),
        ("\"Info\"", Level::Info, 0),
        ("\"WARN\"", Level::Warning, 0),
        ("\"warning\"", Level::Warning, 0),
        ("\"ERROR\"", Level::Error, 0),
        ("\"CRITICAL\"", Level::Critical, 0),
        ("\"FATAL\"", Level::Critical, 0),
        ("\"LOUD\"", Level::Error, 0),
        ("\"\"", Level::Error, 0),
        ("20", Level::Warning, 1),
        ("null", Level::Warning, 1),
    ] {
        for key in ["level", "zklevel"] {
            let config = parse(&format!("{{\"logger\": {{\"{key}\": {value}}}}}")).unwrap();
            let found = if key == "level" {
                config.level
            } else {
                config.zklevel
            };
            assert_eq!(
                (found, config.warnings.len()),
                (level, warnings),
                "{key} {value}"
            );
        }
    }
}

#[test]
fn log_to_dev_null_means_no_log() {
    assert_eq!(
        parse(r#"{"logger": {"path": "/dev/null"}}"#)
            .unwrap()
            .log_path,
        None
    );
    assert_eq!(
        parse(r#"{"logger": {"path": "log"}}"#).unwrap().log_path,
        Some("log".into())
    );
}

#[test]
fn keys_that_the_original_lacks_are_read() {
    let config = parse(
        r#"{"acl": "creator", "heartbeat": "ping", "auth": {"scheme": "digest", "data": "u:p"}}"#,
    )
    .unwrap();
    assert_eq!(
        (config.acl, config.heartbeat),
        (Acl::Creator, Heartbeat::Ping)
    );
}

#[test]
fn long_value_is_shortened() {
    let sentence = parse(&format!("{{\"sleep\": \"{}\"}}", "é".repeat(100_000))).unwrap_err();
    assert_eq!(
        sentence,
        format!(
            "f:1: \"sleep\": expected \"ON\" or \"OFF\", found \"{}\"…",
            "é".repeat(40)
        )
    );
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_panic(text in any::<Vec<u8>>()) {
        let _ = Config::parse(&text, Path::new("f"));
    }

    #[test]
    fn no_change_of_the_sample_makes_it_panic(at in 0..SAMPLE.len(), length in 0..40usize, with in "[\\[\\]{}\",:/0-9a-e\\\\\n]{0,8}") {
        let end = SAMPLE.len().min(at + length);
        let text = [&SAMPLE[..at], &with, &SAMPLE[end..]].concat();
        let _ = parse(&text);
    }
}

#[test]
fn connections_of_the_config_are_checked_with_their_line() {
    for (text, sentence) in [
        (
            r#"{"proxy": "nc %x"}"#,
            r#"f:1: "proxy": "%x" is not known: expected %h (the host), %p (the port) or %% (a percent sign)"#,
        ),
        (
            r#"{"proxy": "nc %h %p", "tls": {}}"#,
            r#"f:1: "tls": cannot be used with "proxy""#,
        ),
        (
            r#"{"host": "unix:/zk", "proxy": "nc %h %p"}"#,
            r#"f:1: "proxy": cannot be used with unix:/zk"#,
        ),
        (
            r#"{"host": "h1,unix:/zk", "tls": {}}"#,
            r#"f:1: "tls": cannot be used with unix:/zk"#,
        ),
        (
            r#"{"tls": {"key": "/key"}}"#,
            r#"f:1: "tls": "key" requires "cert""#,
        ),
        (
            r#"{"tls": {"ca": 1}}"#,
            r#"f:1: "tls.ca": expected a string, found 1"#,
        ),
    ] {
        let fault = Config::parse(text.as_bytes(), Path::new("f")).unwrap_err();
        assert_eq!(fault.to_string(), sentence, "{text}");
    }
    let creator = r#"{"tls": {"cert": "/me"}, "acl": "creator"}"#;
    let config = Config::parse(creator.as_bytes(), Path::new("f")).unwrap();
    assert!(matches!(config.connection, Connection::Tls(_)));
}

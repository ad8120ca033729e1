use super::*;
use crate::plan::connection::Tls;
use crate::plan::{Acl, Auth, Connection, PoolEnsemble};
use proptest::prelude::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text.as_bytes(), Path::new("f")).map_err(|error| error.to_string())
}

fn pool(name: &str, expire: u64, permits: u32, servers: &[&str]) -> Pool {
    let servers =
        (!servers.is_empty()).then(|| servers.iter().map(|&server| server.to_owned()).collect());
    Pool {
        name: name.into(),
        expire: (expire > 0).then(|| Duration::from_secs(expire)),
        permits,
        servers,
    }
}

#[test]
fn published_example_is_valid() {
    let config = parse(include_str!(
        "../../../tests/data/yaml/accepted/published-readme.yaml"
    ))
    .unwrap();
    let memcache = Backend::Memcache(Host::Tcp {
        name: "localhost".into(),
        port: 11211,
    });
    let pools = vec![
        pool("pool1", 300, 1, &[]),
        pool("pool2", 300, 5, &["acme1", "acme2"]),
    ];
    assert_eq!(
        config,
        Config {
            backend: memcache,
            pools,
            ..Config::default()
        }
    );
}

/// The ensemble of a config, and the warnings.
fn ensemble(text: &str) -> Result<(PoolEnsemble, Vec<String>), String> {
    let config = parse(text)?;
    match config.backend {
        Backend::ZooKeeper(ensemble) => Ok((ensemble, config.warnings)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn ensemble_keeps_the_holders() {
    let host = |name: &str, port| Host::Tcp {
        name: name.into(),
        port,
    };
    let open = "f:1: \"acl\": open: each client of ZooKeeper can change the holders (set \"auth\", or \"tls\" with \"cert\")";
    let plain = PoolEnsemble {
        hosts: vec![host("localhost", 2181)],
        connection: Connection::Direct,
        timeout: Duration::from_secs(10),
        auth: None,
        acl: Acl::Open,
        path: "/distributex".into(),
    };
    let pools = "pools:\n- name: a b\n  maxlocks: 624\n";
    let (found, warnings) = ensemble(&format!("backend: zookeeper\n{pools}")).unwrap();
    assert_eq!((found, warnings.len()), (plain.clone(), 1), "{warnings:?}");
    assert!(warnings[0] == open, "{warnings:?}");
    let text = format!(
        "path: /locks/dx/\nhost:\n- zk1:2182\n- zk2/app\ntimeout: 1m\nauth:\n  scheme: digest\n  \
         data: u:p\nstate: s\nbackend: zookeeper\n{pools}"
    );
    let (found, warnings) = ensemble(&text).unwrap();
    let all = PoolEnsemble {
        hosts: vec![host("zk1", 2182), host("zk2", 2181)],
        connection: Connection::Direct,
        timeout: Duration::from_mins(1),
        auth: Some(Auth {
            scheme: "digest".into(),
            data: "u:p".into(),
        }),
        acl: Acl::Creator,
        path: "/app/locks/dx".into(),
    };
    assert_eq!(found, all);
    assert!(warnings[0].ends_with("\"state\": not used, because ZooKeeper keeps the holders"));
    for (keys, sentence) in [
        ("host: a b", "\"host\": "),
        (
            "timeout: 0",
            "\"timeout\": expected the session timeout in seconds, found 0",
        ),
        (
            "acl: creator",
            "\"acl\": \"creator\" needs \"auth\", or \"tls\" with \"cert\"",
        ),
        (
            "acl: all",
            "\"acl\": expected \"open\" or \"creator\", found \"all\"",
        ),
        (
            "path: locks",
            "\"path\": expected the path of a node, like /distributex",
        ),
        (
            "path: /",
            "\"path\": expected the path of a node, like /distributex",
        ),
        ("auth: {scheme: digest}", "\"auth\": \"data\" is missing"),
        (
            "auth: {scheme: a, data: b, user: c}",
            "only \"scheme\" and \"data\" in \"auth\"",
        ),
        (
            "pools: [{name: p, maxlocks: 700}]",
            "\"maxlocks\" of pool \"p\" is above 624: one node of ZooKeeper keeps the holders, and no more fit",
        ),
    ] {
        let error = ensemble(&format!("backend: zookeeper\n{keys}\n")).unwrap_err();
        assert!(error.contains(sentence), "{keys}: {error}");
    }
    let config = parse("host: zk1\npools:\n- name: a\n").unwrap();
    assert!(config.warnings[0].ends_with("\"host\": not used without \"backend: zookeeper\""));
}

#[test]
fn ensemble_is_connected_to_by_tls_or_a_command() {
    let (tls, warnings) = ensemble(
        "backend: zookeeper\ntls: {ca: c, cert: me, key: k, name: zk}\npools: [{name: p}]",
    )
    .unwrap();
    assert_eq!((tls.acl, warnings), (Acl::Creator, vec![]));
    let files = Tls {
        ca: Some("c".into()),
        cert: Some("me".into()),
        key: Some("k".into()),
        name: Some("zk".into()),
        ..Tls::default()
    };
    assert_eq!(tls.connection, Connection::Tls(files));
    let (proxy, _) = ensemble("backend: zookeeper\nproxy: nc %h %p\n").unwrap();
    assert!(matches!(proxy.connection, Connection::Proxy(_)));
    for (keys, sentence) in [
        ("acl: creator\ntls: {ca: c}", "f:2: \"acl\": "),
        (
            "tls: {ca: c}\nproxy: nc %h %p",
            "f:3: \"proxy\": cannot be used with \"tls\"",
        ),
        ("proxy: nc %n", "\"proxy\": \"%n\" is not known"),
        (
            "proxy: nc\nhost: unix:/s",
            "f:2: \"proxy\": cannot be used with unix:/s",
        ),
        ("tls: {key: k}", "\"tls\": \"key\" needs \"cert\""),
        ("tls: {ca: 1}", "\"ca\": expected text, found 1"),
        (
            "tls: {cafile: c}",
            "\"tls\": \"cafile\" is not known: expected ca, cert, key or name",
        ),
        ("tls: all", "expected the files of \"tls\""),
    ] {
        let error = ensemble(&format!("backend: zookeeper\n{keys}\n")).unwrap_err();
        assert!(error.contains(sentence), "{keys}: {error}");
    }
}

#[test]
fn every_key_has_its_effect() {
    let text = "backend: inmemory\nlisten: ::1\nstate: s\nmemcachehost: h\nmemcacheport: 1\n\
                    pools:\n- name: a\n- name: b\n  expire: 0\n  servers: ' , '\n- name: c:/d,é\n  expire: 1.5\n  servers: ab ,, c\n";
    let config = parse(text).unwrap();
    assert_eq!(
        (&config.backend, config.listen),
        (&Backend::Memory, Some("::1".parse().unwrap()))
    );
    assert_eq!(
        (config.state.as_deref(), config.warnings.len()),
        (Some(Path::new("s")), 2),
        "of the empty servers and the short lease"
    );
    let last = Pool {
        expire: Some(Duration::from_millis(1500)),
        ..pool("c:/d,é", 0, 1, &["ab", "c"])
    };
    assert_eq!(
        config.pools,
        [pool("a", 1800, 1, &[]), pool("b", 0, 1, &[]), last]
    );
    let config =
            parse("{\"backend\": \"memcache\", \"memcachehost\": \"h\", \"memcacheport\": 1,\n\"pools\": [{\"name\": \"a\"}]}").unwrap();
    assert_eq!(
        config.backend,
        Backend::Memcache(Host::Tcp {
            name: "h".into(),
            port: 1
        })
    );
    assert_eq!(config.pools, [pool("a", 1800, 1, &[])]);
}

#[test]
fn state_with_memcached_is_ignored_with_a_warning() {
    for text in [
        "backend: memcache\nstate: s\npools:\n- name: a\n",
        "pools:\n- name: a\n\nstate: s\nbackend: memcache\n",
    ] {
        let config = parse(text).unwrap();
        let line = text.lines().position(|line| line == "state: s").unwrap() + 1;
        assert_eq!(config.state, None);
        assert_eq!(
            config.warnings,
            [format!(
                "f:{line}: \"state\": not used, because memcached keeps the holders"
            )]
        );
    }
}

#[test]
fn pool_values_may_have_several_types() {
    for (text, expected) in [
        ("- name: 12\n  expire: '60'", pool("12", 60, 1, &[])),
        ("- name: b c\n  expire: 5m", pool("b c", 300, 1, &[])),
        (
            "- {name: a, expire: 1h30m, maxlocks: 3}",
            pool("a", 5400, 3, &[]),
        ),
        (
            "- name: a\n  servers: [web1, 10.0.0.1]",
            pool("a", 1800, 1, &["web1", "10.0.0.1"]),
        ),
        (
            "- name: a\n  servers:\n  - web1\n  - web2",
            pool("a", 1800, 1, &["web1", "web2"]),
        ),
        (
            "- name: a\n  servers: web1 , web2",
            pool("a", 1800, 1, &["web1", "web2"]),
        ),
    ] {
        let config = parse(&format!("pools:\n{text}\n...\n")).unwrap();
        assert_eq!(
            (config.pools, config.warnings),
            (vec![expected], vec![]),
            "{text}"
        );
    }
    let merged = parse("x-common: &d\n  expire: 60\npools:\n- <<: *d\n  name: a\n").unwrap();
    assert_eq!(
        (merged.pools, merged.unknown),
        (vec![pool("a", 60, 1, &[])], vec![])
    );
    let port = |text| parse(text).unwrap().port;
    assert_eq!(
        [
            port("port: 80\npools: []"),
            port("{pools: [], port: 80}"),
            port("\u{feff}{\"port\": 80}")
        ],
        [Some(80); 3]
    );
}

#[test]
fn pools_are_a_list_or_a_mapping_by_name() {
    let pools = vec![
        pool("backup", 300, 1, &["db1", "db2"]),
        pool("report", 1800, 3, &[]),
        pool("12", 1800, 1, &[]),
    ];
    for text in [
        "- name: backup\n  expire: 5m\n  servers: [\n    db1, # the first\n    db2,\n  ]\n- {name: report,\n   maxlocks: 3}\n- name: '12'\n",
        "  backup:\n    expire: 300\n    servers:\n    - db1\n    - db2\n  report: {maxlocks: 3}\n  '12':\n",
    ] {
        let config = parse(&format!("pools:\n{text}")).unwrap();
        assert_eq!((config.pools, config.warnings), (pools.clone(), vec![]));
    }
    let unknown = parse("pools:\n  a:\n    maxlock: 2\n").unwrap().unknown;
    assert_eq!(
        unknown,
        ["f:3: \"maxlock\": unknown key (did you mean \"maxlocks\"?)"]
    );
    for (text, sentence) in [
        (
            "  name: a\n  expire: 300",
            "f:2: \"name\" cannot be the name of a pool here: begin each pool with \"- name: NAME\"",
        ),
        (
            "  name:\n  expire:",
            "f:2: \"name\" cannot be the name of a pool here: begin each pool with \"- name: NAME\"",
        ),
        (
            "  a:\n    name: b",
            "f:3: \"name\": the name of this pool is the key above its values: remove this line",
        ),
        (
            "  a: 300",
            "f:2: expected the values of a pool, as in \"expire: 300\", found 300",
        ),
        (
            "  a: b",
            "f:2: expected the values of a pool, as in \"expire: 300\", found \"b\"",
        ),
        ("  a:\n  a:", "f:3: duplicate key \"a\", see line 2"),
        ("  '':", "f:2: \"name\": \"\": it is empty"),
    ] {
        assert_eq!(
            parse(&format!("pools:\n{text}")).map(drop),
            Err(sentence.to_owned()),
            "{text:?}"
        );
    }
}

#[test]
fn memcached_has_two_names_and_no_port_in_its_host() {
    let backend = |text| parse(text).map(|config| config.backend);
    assert_eq!(
        backend("backend: memcached\npools: []"),
        backend("backend: memcache\npools: []")
    );
    for host in ["db1", "10.0.0.1", "'::1'", "db1.example.com"] {
        let config = parse(&format!("memcachehost: {host}\npools: []"));
        assert!(config.is_ok(), "{config:?}");
    }
    for host in [
        "10.0.0.1:11211",
        "db1:11211",
        "db1 db2",
        "tcp://db1",
        "'[::1]'",
    ] {
        let sentence = parse(&format!("memcachehost: {host}\npools: []")).unwrap_err();
        assert!(
            sentence.starts_with("f:1: \"memcachehost\": expected a host name or an address"),
            "{sentence}"
        );
    }
}

#[test]
fn names_and_addresses_of_hosts_are_accepted_in_servers() {
    for name in [
        "web1",
        "web_1",
        "WEB-1.example.com",
        "10.0.0.1",
        "::1",
        "fe80::1%eth0",
        "3com",
        "замок",
        "r&d",
        "x",
    ] {
        let config = parse(&format!("pools:\n- name: a\n  servers: ['{name}']"));
        assert_eq!(
            config.unwrap().pools[0].servers.as_deref(),
            Some(&[name.to_owned()][..])
        );
    }
}

#[test]
fn empty_servers_are_warned_of() {
    for text in ["''", "' , '"] {
        let config = parse(&format!("pools:\n- name: a\n  servers: {text}")).unwrap();
        assert_eq!(
            (config.pools, config.warnings),
            (
                vec![pool("a", 1800, 1, &[])],
                vec!["f:3: \"servers\": empty, so that any host may request the pool".to_owned()]
            )
        );
    }
}

#[test]
fn text_that_is_not_a_host_name_is_refused_in_servers() {
    for name in [
        "[web1",
        "web2]",
        "web*",
        "10.0.0.0/8",
        "web1 web2",
        "(a)",
        "\"'a'\"",
        "web?",
        "^web1$",
        "web1|web2",
        "web.+",
        "!web1",
        "~web",
        "web1;web2",
        "web1..web9",
        ".example.com",
        "10.0.0.",
        "10.0.0",
        "10.0.0.x",
        "10.0.0.1-9",
        "10.0.0.1-10.0.0.9",
        "300.0.0.1",
        "@web",
        "-web1",
        "web1:9889",
        "fe80::/10",
        "web{1..3}",
        "<web>",
    ] {
        let sentence = parse(&format!(
            "pools:\n- name: a\n  servers: '{}, b'",
            name.replace('\'', "''")
        ))
        .unwrap_err();
        assert!(
            sentence.starts_with("f:3: \"servers\": ")
                && sentence.contains(": not the name of a host"),
            "{sentence}"
        );
    }
    assert!(
        parse("pools:\n- name: a\n  servers: [web*]")
            .unwrap_err()
            .contains("\"web*\": not the name of a host")
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of inputs")]
fn errors_name_file_line_and_key() {
    for (text, sentence) in [
        ("", "f:1: expected keys and values, found nothing"),
        ("- a", "f:1: expected keys and values, found a list"),
        (
            "a: 1\nb: |",
            "f:2: expected text, found '|', which begins a text on several lines: write it on one line, in quotes",
        ),
        (
            "port: 0",
            "f:1: \"port\": expected a port, 1 to 65535, found 0",
        ),
        (
            "port: http",
            "f:1: \"port\": expected a port, 1 to 65535, found \"http\"",
        ),
        (
            "{\n\"a\": }",
            "f:2: not JSON: expected value at line 2 column 6",
        ),
        (
            "{\"a\": 1,\n\"a\": 2}",
            "f:2: duplicate key \"a\", see line 1",
        ),
        (
            "backend: redis",
            "f:1: \"backend\": expected inmemory, memcached or zookeeper, found \"redis\"",
        ),
        (
            "backend:",
            "f:1: \"backend\": expected inmemory, memcached or zookeeper, found nothing",
        ),
        (
            "memcachehost: ''",
            "f:1: \"memcachehost\": expected a host name or an address (its port is \"memcacheport\"), found \"\"",
        ),
        (
            "memcacheport: 65536",
            "f:1: \"memcacheport\": expected a port, 1 to 65535, found 65536",
        ),
        (
            "memcacheport: 0",
            "f:1: \"memcacheport\": expected a port, 1 to 65535, found 0",
        ),
        (
            "listen: localhost",
            "f:1: \"listen\": expected an IP address, found \"localhost\"",
        ),
        ("state: ''", "f:1: \"state\": expected a file, found \"\""),
        (
            "pools:",
            "f:1: \"pools\": expected a list of pools, or a mapping of their names to their values, found nothing",
        ),
        (
            "pools:\n- a",
            "f:2: expected a pool with its \"name\", found \"a\"",
        ),
        (
            "pools:\n- name: a\n-\n  expire: 1",
            "f:4: this pool has no \"name\"",
        ),
        (
            "pools:\n- name: 1.5",
            "f:2: \"name\": expected text, found 1.5",
        ),
        ("pools:\n- name: ''", "f:2: \"name\": \"\": it is empty"),
        (
            "pools:\n- name: a b\nbackend: memcache",
            "f:2: \"name\": \"a b\": ' ' cannot be in a key in memcached",
        ),
        (
            "backend: memcache\npools:\n- name: a\n- {name: a b}",
            "f:4: \"name\": \"a b\": ' ' cannot be in a key in memcached",
        ),
        (
            "pools:\n- name: \"a\\n\"",
            "f:2: \"name\": \"a\\n\": '\\n' cannot be in a key in memcached",
        ),
        (
            "pools:\n- name: a\n- expire: 1\n  name: a",
            "f:4: \"name\": \"a\": duplicate name, see line 2",
        ),
        (
            "pools:\n- name: a\n  expire: soon",
            "f:3: \"expire\": expected seconds from 1 to 1e9 (a client cannot renew in time for less), a time like 1h30m, or 0 for until released, found \"soon\"",
        ),
        (
            "pools:\n- name: a\n  expire: -1",
            "f:3: \"expire\": expected seconds from 1 to 1e9 (a client cannot renew in time for less), a time like 1h30m, or 0 for until released, found -1",
        ),
        (
            "pools:\n- name: a\n  expire: 0.999",
            "f:3: \"expire\": expected seconds from 1 to 1e9 (a client cannot renew in time for less), a time like 1h30m, or 0 for until released, found 0.999",
        ),
        (
            "pools:\n- name: a\n  expire: []",
            "f:3: \"expire\": expected seconds from 1 to 1e9 (a client cannot renew in time for less), a time like 1h30m, or 0 for until released, found a list",
        ),
        (
            "pools:\n- name: a\n  maxlocks: 0",
            "f:3: \"maxlocks\": expected the number of holders, 1 or more, found 0",
        ),
        (
            "pools:\n- name: a\n  maxlocks: 1.5",
            "f:3: \"maxlocks\": expected the number of holders, 1 or more, found 1.5",
        ),
        (
            "pools:\n- name: a\n  servers: []",
            "f:3: \"servers\": expected names of hosts: a list, or text with commas between them, found a list",
        ),
        (
            "pools:\n- name: a\n  servers: [b, 1]",
            "f:3: \"servers\": expected names of hosts: a list, or text with commas between them, found a list",
        ),
        (
            "pools:\n- name: a\n  servers:",
            "f:3: \"servers\": expected names of hosts: a list, or text with commas between them, found nothing",
        ),
    ] {
        assert_eq!(parse(text).map(drop), Err(sentence.to_owned()), "{text:?}");
    }
    let long = "x".repeat(MAX_NAME + 1);
    assert!(
        parse(&format!("pools:\n- name: {long}"))
            .unwrap_err()
            .ends_with("longer than 240 bytes, the limit of a key in memcached")
    );
}

#[test]
fn misspelled_restriction_is_an_error_after_any_number_of_unknown_keys() {
    let odd: String = (0..2 * MAX_WARNINGS)
        .map(|key| format!("k{key}:\n"))
        .collect();
    let error = parse(&format!("pools:\n- name: a\n{odd}network: 10.0.0.0/8")).unwrap_err();
    assert!(error.contains("write \"networks\""), "{error}");
}

#[test]
fn odd_values_are_warned_of() {
    let config = parse("pools:\n- name: a\n  maxlock: 2\nodd: 1").unwrap();
    let sentences = [
        "f:3: \"maxlock\": unknown key (did you mean \"maxlocks\"?)",
        "f:4: \"odd\": unknown key",
    ];
    assert_eq!(config.unknown, sentences);
    assert_eq!(config.warnings, sentences);
    let empty = parse("pools:\n- name: a\n  expire:").unwrap();
    assert_eq!((empty.pools[0].expire, empty.unknown), (None, vec![]));
    assert_eq!(
        empty.warnings,
        ["f:3: \"expire\": empty, using 0: leases do not end"]
    );
    let short = parse("pools:\n- name: a\n  expire: 1.9\n- name: b\n  expire: 2").unwrap();
    assert_eq!(
        short.warnings,
        ["f:3: \"expire\": distributex refuses a lease this short: use 2 or more"]
    );
    assert_eq!(
        parse("state: s").unwrap().warnings,
        ["f: no pools are defined: every request will be answered INVALID"]
    );
    let many: String = (0..100_000).map(|key| format!("k{key}:\n")).collect();
    assert_eq!(parse(&many).unwrap().warnings.len(), MAX_WARNINGS + 1);
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_panic(text in any::<Vec<u8>>()) {
        let _ = Config::parse(&text, Path::new("f"));
    }
}

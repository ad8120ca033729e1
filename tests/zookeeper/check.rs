//! `--check` says of config and of each server whether a run could use it, and makes nothing.

use common::keeper::Keeper;
use common::run::{Outcome, exited};
use common::sandbox::Sandbox;
use common::scripted_server::Act::{Hear, Say};
use common::scripted_server::ScriptedServer;
use common::zookeeper::ZooKeeper;
use common::{free_port, report};
use serde_json::{Value, json};
use std::fs;

/// Checks with these words besides the servers and the namespace of the sandbox.
fn check(sandbox: &Sandbox, servers: &str, words: &[&str]) -> Outcome {
    let given = [
        "--hosts",
        servers,
        "--app-id",
        &sandbox.id,
        "--timeout",
        "4",
    ];
    let rest = ["--sysexits", "--check"];
    sandbox.program(&[&given[..], &rest, words].concat()).run()
}

fn document(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

#[test]
fn a_good_server_is_described_and_nothing_is_made_there() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let found = check(&sandbox, &server.address(), &["--json"]);
    assert_eq!((found.end, found.stderr.as_str()), (Ok(0), ""), "{found:?}");
    let document = document(&found);
    let found = &document["servers"][0];
    let version = found["version"].as_str().unwrap();
    assert!(version.starts_with("ZooKeeper 3."), "{version}");
    assert_eq!(found["role"], "standalone");
    assert_eq!(
        (&found["queue"], &found["timeout_s"]),
        (&true.into(), &json!(4.0))
    );
    assert_eq!(
        (&document["ok"], &found["identities"]),
        (&true.into(), &json!([]))
    );
    let text = check(&sandbox, &server.address(), &[]).stdout;
    let start = format!("{}: OK: {version}, standalone, latency ", server.address());
    assert!(
        text.starts_with(&start) && text.ends_with(", not authenticated, FIFO queue\n"),
        "{text}"
    );
    report("a line of --check", text.trim_end());

    let lockex = [
        "--program=lockex",
        "-z",
        &server.address(),
        "-p",
        &sandbox.id,
        "--check",
    ];
    assert_eq!(sandbox.program(&lockex).run().end, Ok(0));
    let mut client = sandbox.client(server);
    let app = format!("/{}", sandbox.id);
    assert_eq!(client.children(&app), Vec::<String>::new());
    assert_eq!(
        check(&sandbox, &server.address(), &[]).end,
        Ok(0),
        "with the node above"
    );
    assert_eq!(client.children(&app), Vec::<String>::new());
}

#[test]
fn servers_that_are_down_or_not_zookeeper_are_named_each_with_its_reason() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let closed = format!("127.0.0.1:{}", free_port());
    let found = check(&sandbox, &format!("{},{closed}", server.address()), &[]);
    assert_eq!(found.end, Ok(69), "{found:?}");
    let failed = format!("{closed}: FAILED: connection refused\n");
    assert!(found.stdout.contains(&failed), "{found:?}");
    assert!(found.stdout.contains(": OK: ZooKeeper "), "{found:?}");

    let alert = b"\x15\x03\x03\x00\x02\x02\x50".to_vec();
    let tls = ScriptedServer::start(vec![Hear, Say(alert)]);
    let found = check(&sandbox, &tls.address, &[]);
    assert_eq!(found.end, Ok(69), "{found:?}");
    assert!(found.stdout.contains(": FAILED: expects TLS"), "{found:?}");

    let keeper = Keeper::start();
    let found = check(&sandbox, &keeper.address, &["--json"]);
    assert_eq!(found.end, Ok(0), "{found:?}");
    let document = document(&found);
    let found = &document["servers"][0];
    assert_eq!(
        (&found["ok"], &found["queue"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(found["version"], "ClickHouse Keeper 24.8.4.13");
    let text = check(&sandbox, &keeper.address, &[]).stdout;
    assert!(
        text.ends_with(", FIFO queue in persistent nodes\n"),
        "{text}"
    );
}

#[test]
fn a_wrong_password_is_found_by_what_it_may_not_do() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let config = |password: &str, more: &str| {
        let path = sandbox.path("config");
        let auth = format!("{{\"scheme\": \"digest\", \"data\": \"ops:{password}\"}}");
        let text = format!(
            "{{\"host\": [\"{}\"], \"app_id\": \"{}\", \"timeout\": 4, \"acl\": \"creator\", \"auth\": {auth}{more}}}",
            server.address(),
            sandbox.id
        );
        fs::write(&path, text).expect("a config can be written");
        path.display().to_string()
    };
    let run = |config: &str, words: &[&str]| {
        sandbox
            .program(&[&["-c", config, "--sysexits"], words].concat())
            .run()
    };
    let good = config("right", "");
    assert_eq!(run(&good, &["-l", "0", "lock", "true"]), exited(0));
    let found = run(&good, &["--check"]);
    assert_eq!(found.end, Ok(0), "{found:?}");
    assert!(
        found.stdout.starts_with(&format!("{good}: OK\n")),
        "{found:?}"
    );
    assert!(
        found.stdout.contains(", authenticated as digest:ops, "),
        "{found:?}"
    );

    let wrong = config("wrong", "");
    let found = run(&wrong, &["--check"]);
    assert_eq!(found.end, Ok(77), "{found:?}");
    let failed = format!(
        ": FAILED: cannot create nodes below /{}: no permission",
        sandbox.id
    );
    assert!(found.stdout.contains(&failed), "{found:?}");

    let unknown = config("right", ", \"tiemout\": 3");
    let found = run(&unknown, &["--check"]);
    assert_eq!(found.end, Ok(78), "{found:?}");
    assert!(
        found.stdout.contains("\"tiemout\": unknown key"),
        "{found:?}"
    );
    assert!(found.stdout.contains(": OK: ZooKeeper "), "{found:?}");
}

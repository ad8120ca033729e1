//! `--status` of distributex: the slots of a server, without requesting one.

use common::distributexd::Distributexd;
use common::lock_server::{LockServer, plain};
use common::run::exited;
use common::sandbox::Sandbox;
use common::wait_until;
use serde_json::{Value, json};

/// Shows a pool of a server, or all of them.
fn status(sandbox: &Sandbox, port: u16, words: &[&str]) -> Value {
    let given = ["--program=distributex", "-H", "127.0.0.1", "--status"];
    let port = ["-p", &port.to_string(), "--json"].map(str::to_owned);
    let port = port.each_ref().map(String::as_str);
    let outcome = sandbox.program(&[&given[..], &port, words].concat()).run();
    assert_eq!(outcome.stderr, "", "{outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

#[test]
fn holders_and_waiters_of_a_pool_are_shown() {
    let sandbox = Sandbox::new();
    let config = format!(
        "pools:\n- name: {}\n  maxlocks: 2\n- name: idle\n",
        sandbox.id
    );
    let server = Distributexd::start(&sandbox, &config);
    let words = |host: &'static str| ["--no-local-lock", "--as", host, "echo ready; cat"];
    let mut runs = ["a", "b"].map(|host| {
        let run = sandbox.distributex(server.port, &words(host)).leashed();
        run.start()
    });
    runs.iter_mut().for_each(|run| run.wait_for_output("ready"));
    let mut waiter = sandbox
        .distributex(server.port, &words("c"))
        .leashed()
        .start();
    let pool = || status(&sandbox, server.port, &["-r", &sandbox.id])["locks"][0].clone();
    wait_until("the third waits", || {
        pool()["waiters"]
            .as_array()
            .is_some_and(|all| all.len() == 1)
    });
    let found = pool();
    assert_eq!(
        found["path"],
        format!("{}@127.0.0.1:{}", sandbox.id, server.port).as_str()
    );
    assert_eq!(
        (&found["kind"], &found["slots"]),
        (&"pool".into(), &2.into())
    );
    let hosts = |key: &str| {
        let all = found[key].as_array().unwrap().iter();
        all.map(|it| it["host"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        (hosts("holders"), hosts("waiters")),
        (vec!["a".into(), "b".into()], vec!["c".into()])
    );
    for holder in found["holders"].as_array().unwrap() {
        assert!(
            holder["token"].is_i64() && holder["expires_s"].is_f64(),
            "{holder}"
        );
        assert!(
            holder["held_s"].as_f64().is_some_and(|held| held < 60.0),
            "{holder}"
        );
    }
    let all = status(&sandbox, server.port, &[]);
    assert_eq!(all["locks"][0]["name"], "idle");
    assert_eq!(all["locks"][0]["holders"], json!([]));

    let named = |pool: &str| {
        let words = ["--program=distributex", "-H", "127.0.0.1", "-p"];
        let rest = [&server.port.to_string(), "--status", "-r", pool].map(str::to_owned);
        let rest = rest.each_ref().map(String::as_str);
        sandbox.program(&[&words[..], &rest].concat()).run()
    };
    assert_eq!(named(&sandbox.id).end, Ok(0));
    assert_eq!(named("idle").end, Ok(3));
    named("missing").complaint_of("distributex", &["find pool \"missing\""]);
    for run in &mut runs {
        run.let_go();
    }
    for run in runs {
        assert_eq!(run.wait(), exited(0).printing("ready\n"));
    }
    waiter.let_go();
    assert_eq!(waiter.wait(), exited(0).printing("ready\n"));
}

#[test]
fn a_server_without_status_is_one_error() {
    let sandbox = Sandbox::new();
    let server = LockServer::start(|_| plain("INVALID"));
    let port = server.port.to_string();
    let words = [
        "--program=distributex",
        "-H",
        "127.0.0.1",
        "-p",
        &port,
        "--status",
    ];
    let outcome = sandbox.program(&words).run();
    assert_eq!(outcome.end, Ok(1));
    outcome.complaint_of("distributex", &["does not show its locks", "\"INVALID\""]);
    assert_eq!(server.words(), ["status"]);
}

#[test]
fn a_pool_that_the_server_has_not_is_refused_by_check() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, "pools:\n- name: one\n");
    let port = server.port.to_string();
    let check = |pool: &str| {
        let to_server = ["--program=distributex", "-H", "127.0.0.1", "-p", &port];
        let rest = ["--check", "--sysexits", "-r", pool];
        sandbox.program(&[&to_server[..], &rest].concat()).run()
    };
    assert_eq!(check("one").end, Ok(0));
    let missing = check("two");
    assert_eq!(missing.end, Ok(77), "{missing:?}");
    let line = format!("127.0.0.1:{port}: FAILED: cannot find pool \"two\" at ");
    assert!(missing.stdout.starts_with(&line), "{missing:?}");
}

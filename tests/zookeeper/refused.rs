//! What ZooKeeper refuses is a clear error and never "busy"; what it allows works: names, parents
//! that are missing, ACLs and who we are.

use common::client::{Client, may};
use common::run::{Job, exited};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use common::{SECOND, wait_until};
use std::fs;
use zk_flock::internals::zookeeper::code::Code;

/// Who the runs here are, and how a server writes that down: `echo -n user:secret | openssl sha1
/// -binary | base64`.
const AUTH: &str = r#""auth": {"scheme": "digest", "data": "user:secret"}"#;
const USER: &str = "user:5w9W4eL3797Y4Wq8AcKUPPk8ha4=";

/// zk-flock with a config that has these keys too.
fn flock<'a>(sandbox: &'a Sandbox, keys: &str, words: &[&str]) -> Job<'a> {
    let path = sandbox.path("config.json");
    let (host, app, log) = (
        ZooKeeper::shared().address(),
        &sandbox.id,
        sandbox.path("log"),
    );
    let logger = format!(
        r#"{{"path": "{}", "level": "DEBUG", "zklevel": "DEBUG"}}"#,
        log.display()
    );
    fs::write(
        &path,
        format!(
            r#"{{"host": "{host}", "timeout": 15, "app_id": "{app}", "logger": {logger}, {keys}}}"#
        ),
    )
    .unwrap();
    sandbox
        .program(&["-c", path.to_str().unwrap(), "-x", "17", "-l", "0"])
        .words(words)
}

/// Asserts that a run is refused, with the exit codes of that, and runs nothing.
#[track_caller]
fn is_refused(sandbox: &Sandbox, keys: &str, facts: &[&str]) {
    for (options, code) in [(&[][..], 1), (&["--sysexits"], 77), (&["-w", "1"], 1)] {
        flock(sandbox, keys, &[options, &["lock", "touch ran"]].concat())
            .run()
            .complains(code, facts);
    }
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn an_auth_scheme_that_the_server_does_not_know_is_refused() {
    let sandbox = Sandbox::new();
    is_refused(
        &sandbox,
        r#""auth": {"scheme": "bogus", "data": "user:secret"}"#,
        &["authenticate", "auth scheme", "-115"],
    );
}

#[test]
fn a_server_that_demands_auth_refuses_at_once_and_the_advice_fits_the_program() {
    let server = ZooKeeper::start_with(
        "-Dzookeeper.enforce.auth.enabled=true -Dzookeeper.enforce.auth.schemes=digest",
    );
    let sandbox = Sandbox::new();
    for wait in [&[][..], &["-w", "inf"]] {
        let words = [&["--sysexits", "-l", "0"], wait, &["lock", "touch ran"]].concat();
        let run = sandbox.flock_at(&server.address(), 15, &words).run();
        run.complains(77, &["authenticate", "-124", "add \"auth\" to the config"]);
    }
    let run = sandbox
        .lockex_at(&server.address(), 15, &["--sysexits", "touch ran"])
        .run();
    assert_eq!(run.end, Ok(77), "{run:?}");
    run.complaint_of(
        "lockex",
        &["authenticate", "-124", "this program cannot authenticate"],
    );
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_wrong_password_is_refused_by_the_acl() {
    let sandbox = Sandbox::new();
    assert_eq!(
        flock(
            &sandbox,
            &format!(r#"{AUTH}, "acl": "creator""#),
            &["lock", "true"]
        )
        .run(),
        exited(0)
    );
    let wrong = r#""auth": {"scheme": "digest", "data": "user:wrong"}"#;
    is_refused(
        &sandbox,
        wrong,
        &[&sandbox.node("lock"), "no permission", "-102"],
    );
}

#[test]
fn an_app_node_without_permissions_is_an_error() {
    let sandbox = Sandbox::new();
    Client::connect(ZooKeeper::shared(), 15 * SECOND)
        .create_with_acl(&format!("/{}", sandbox.id), &[may(1, "world", "anyone")])
        .unwrap();
    is_refused(
        &sandbox,
        AUTH,
        &[&sandbox.node("lock"), "no permission", "-102"],
    );
}

#[test]
fn an_unreadable_lock_node_is_busy() {
    let sandbox = Sandbox::new();
    let mut client = sandbox.client(ZooKeeper::shared());
    client
        .create_with_acl(&sandbox.node("lock"), &[may(8, "ip", "192.0.2.1")])
        .unwrap();
    for words in [
        &["lock", "touch ran"][..],
        &["-w", "0.3", "lock", "touch ran"],
    ] {
        assert_eq!(flock(&sandbox, AUTH, words).run(), exited(17));
    }
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn missing_parents_of_an_application_are_created() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let hosts = format!("{}/{}/deep/root", server.address(), sandbox.id);
    let run = sandbox
        .program(&[
            "--hosts",
            &hosts,
            "--app-id",
            "team/app",
            "-l",
            "0",
            "lock",
            "echo mine",
        ])
        .run();
    assert_eq!(run, exited(0).printing("mine\n"));
    let mut client = Client::connect(server, 15 * SECOND);
    assert_eq!(
        client.data(&format!("/{}/deep/root/team/app", sandbox.id)),
        Some(b"Rootnode".to_vec())
    );
    assert_eq!(
        client.children(&format!("/{}/deep/root/team/app", sandbox.id)),
        [""; 0]
    );
}

#[test]
fn every_name_that_zookeeper_allows_is_a_lock() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    let long = "n".repeat(1000);
    for name in [
        "a b",
        " ",
        "замок",
        "...",
        ".hidden",
        "a..",
        "'\"\\",
        "$(x)",
        "%s",
        "-",
        "日本",
        &long,
    ] {
        let mut holder = flock(&sandbox, AUTH, &["--", name, "cat"])
            .leashed()
            .start();
        client.wait_for_node(&sandbox.node(name));
        assert_eq!(
            flock(&sandbox, AUTH, &["--", name, "touch ran"]).run(),
            exited(17),
            "{name:?} is held"
        );
        holder.let_go();
        assert_eq!(holder.wait(), exited(0), "{name:?}");
        assert_eq!(client.stat(&sandbox.node(name)), None);
    }
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_name_with_a_slash_is_a_lock_where_the_node_above_it_is_there() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    let missing = flock(&sandbox, AUTH, &["group/lock", "touch ran"]).run();
    missing.complains(1, &[&sandbox.node("group/lock"), "does not exist"]);
    client.create_if_missing(&sandbox.node("group"), b"");
    assert_eq!(
        flock(&sandbox, AUTH, &["group/lock", "echo mine"]).run(),
        exited(0).printing("mine\n")
    );
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_name_that_zookeeper_does_not_allow_is_named() {
    let sandbox = Sandbox::new();
    for name in [
        "", ".", "..", "a/../b", "a/./b", "/a", "a/", "a//b", "a\nb", "a\u{7f}b", "\u{e000}", "🔒",
        ".queue", ".queue/a",
    ] {
        flock(&sandbox, AUTH, &["--", name, "touch ran"])
            .run()
            .complains(2, &["lock name"]);
    }
    assert!(!sandbox.path("ran").exists());
}

/// The config of whoever wants its locks to itself.
fn creator() -> String {
    format!(r#"{AUTH}, "acl": "creator""#)
}

#[test]
fn with_acl_creator_no_other_client_may_change_the_lock() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut stranger = Client::connect(server, 15 * SECOND);
    let app = format!("/{}", sandbox.id);
    for round in ["made by this run", "made by an earlier run"] {
        let mut run = flock(&sandbox, &creator(), &["lock", "cat"])
            .leashed()
            .start();
        run.job();
        assert_eq!(
            stranger.delete(&sandbox.node("lock")),
            Err(Code::NO_AUTH),
            "{round}"
        );
        assert_eq!(
            stranger.create_ephemeral(&format!("{app}/other"), b""),
            Err(Code::NO_AUTH),
            "{round}"
        );
        let mut friend = Client::connect(server, 15 * SECOND);
        friend.authenticate("digest", "user:secret");
        for node in [&app, &sandbox.node("lock")] {
            assert_eq!(friend.acl(node), [may(31, "digest", USER)], "{round}");
        }
        run.let_go();
        assert_eq!(run.wait(), exited(0), "{round}: not a word");
    }
}

#[test]
fn with_acl_creator_a_holder_with_other_credentials_answers_a_break() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    sandbox.client(server);
    let command = "sh -c 'echo up; while :; do sleep 0.05; done'";
    let holder = sandbox.flock(server, &["lock", command]).start();
    holder.wait_for_output("up");
    let broken = flock(&sandbox, &creator(), &["--break", "lock"]).run();
    assert_eq!(broken.end, Ok(0), "{broken:?}");
    assert!(broken.stdout.starts_with("evicted "), "{broken:?}");
    holder
        .wait()
        .complaint(&["revoked", "asked for it by --break"]);
}

#[test]
fn with_acl_creator_an_app_node_that_is_open_to_all_is_one_warning() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let app = format!("/{}", sandbox.id);
    let mut stranger = sandbox.client(server);
    let mut run = flock(&sandbox, &creator(), &["lock", "cat"])
        .leashed()
        .start();
    run.job();
    wait_until("the warning in the log", || {
        sandbox.log().contains(" WARNING ")
    });
    assert_eq!(
        stranger.create_ephemeral(&format!("{app}/other"), b""),
        Ok(()),
        "which is why"
    );
    run.let_go();
    let outcome = run.wait();
    assert_eq!(outcome.end, Ok(0));
    outcome.complaint(&["WARNING", &app, &format!("setAcl {app} auth::cdrwa")]);
    assert_eq!(sandbox.log().matches(" WARNING ").count(), 1);
}

#[test]
fn with_acl_creator_an_app_node_that_others_may_only_read_is_fine() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let acl = [may(31, "digest", USER), may(1, "world", "anyone")];
    Client::connect(server, 15 * SECOND)
        .create_with_acl(&format!("/{}", sandbox.id), &acl)
        .unwrap();
    assert_eq!(
        flock(&sandbox, &creator(), &["lock", "true"]).run(),
        exited(0)
    );
}

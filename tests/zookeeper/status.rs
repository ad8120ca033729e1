//! `--status`: who holds a lock, and who waits for it, without touching it.

use common::run::exited;
use common::sandbox::Sandbox;
use common::wait_until;
use common::zookeeper::ZooKeeper;
use serde_json::Value;

/// The JSON document of a `--status` with these words.
fn status(sandbox: &Sandbox, server: &ZooKeeper, words: &[&str]) -> Value {
    let outcome = sandbox
        .flock(server, &[&["--status", "--json"], words].concat())
        .run();
    assert_eq!(outcome.stderr, "");
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

#[test]
fn holder_and_waiter_are_shown_with_host_and_process() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut holder = sandbox
        .flock(server, &["-l", "0", "lock", "sh -c 'echo ready; cat'"])
        .leashed()
        .start();
    holder.wait_for_output("ready");
    let waiter = sandbox
        .flock(server, &["-l", "0", "-w", "60", "lock", "true"])
        .start();
    let waiters = || status(&sandbox, server, &["lock"])["locks"][0]["waiters"].clone();
    wait_until("the waiter is in the queue", || {
        waiters().as_array().is_some_and(|all| all.len() == 1)
    });
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux");
    let host = host.trim_end();
    let found = status(&sandbox, server, &[]);
    let lock = &found["locks"][0];
    assert_eq!(lock["path"], sandbox.node("lock").as_str());
    assert_eq!(
        (&lock["name"], &lock["kind"]),
        (&"lock".into(), &"zk-flock".into())
    );
    assert_eq!(lock["holders"][0]["host"], host);
    assert_eq!(lock["holders"][0]["pid"], holder.pid());
    assert_eq!(lock["waiters"][0]["pid"], waiter.pid());
    assert_eq!(lock["waiters"][0]["position"], 1);
    assert!(
        lock["holders"][0]["held_s"]
            .as_f64()
            .is_some_and(|held| held < 60.0)
    );

    let table = sandbox.flock(server, &["--status", "lock"]).run();
    let origin = format!("{host}:{}", holder.pid());
    assert!(table.stdout.contains(&origin), "{table:?}");
    assert!(
        table
            .stdout
            .contains(&format!("waiter 1: {host}:{}", waiter.pid()))
    );
    holder.let_go();
    assert_eq!(holder.wait(), exited(0).printing("ready\n"));
    assert_eq!(waiter.wait(), exited(0));
}

#[test]
fn a_named_lock_that_is_free_is_exit_code_3_and_nothing_is_made() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let free = sandbox.flock(server, &["--status", "lock"]).run();
    assert_eq!((free.end, free.stderr.as_str()), (Ok(3), ""), "{free:?}");
    assert!(free.stdout.contains("\nlock  free\n"), "{free:?}");
    assert_eq!(
        sandbox.flock(server, &["--status", "a", "b"]).run().end,
        Ok(0)
    );
    assert_eq!(sandbox.flock(server, &["--status"]).run().end, Ok(0));
    let mut client = sandbox.client(server);
    assert_eq!(
        client.children(sandbox.node("").trim_end_matches('/')),
        Vec::<String>::new()
    );
}

#[test]
fn a_lock_of_the_python_program_has_its_host_and_no_process() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let data = b"web3.example01234567-89ab-4cde-8f01-234567890123";
    let mut client = sandbox.client(server);
    client
        .create_ephemeral(&sandbox.node("lock"), data)
        .unwrap();
    let found = status(&sandbox, server, &["lock"]);
    let holder = &found["locks"][0]["holders"][0];
    assert_eq!(
        (&holder["host"], &holder["pid"]),
        (&"web3.example".into(), &Value::Null)
    );
}

//! `--status`: shows holders and waiters, and changes nothing.

use common::kazoo::Kazoo;
use common::process;
use common::proxy::{From, Proxy};
use common::run::{Job, exited};
use common::sandbox::Sandbox;
use common::wait_until;
use common::zookeeper::ZooKeeper;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// How many runs try the lock while another process looks at it.
const RUNS: usize = 100;

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
    let numbered = sandbox.flock(server, &["--status", "-n", "3", "a"]);
    assert_eq!(numbered.run().end, Ok(3));
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

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/python_holder.py");
    let mut python = Job::new(&sandbox, Path::new("python3"))
        .words(&[script, &server.port.to_string(), &sandbox.id, "other", "0"])
        .leashed()
        .start();
    let stat = client.wait_for_node(&sandbox.node("other"));
    let found = status(&sandbox, server, &["other"]);
    let holder = &found["locks"][0]["holders"][0];
    assert_eq!(holder["token"], stat.czxid);
    assert_eq!(
        holder["session"],
        format!("0x{:x}", stat.ephemeral_owner).as_str()
    );
    python.let_go();
    assert_eq!(python.wait().end, Ok(0));
}

/// The process ids of the holders of a lock, sorted.
fn pids(lock: &Value) -> Vec<i64> {
    let holders = lock["holders"].as_array().expect("it is known");
    let mut pids: Vec<_> = holders
        .iter()
        .map(|holder| holder["pid"].as_i64().expect("a process id"))
        .collect();
    pids.sort_unstable();
    pids
}

#[test]
fn all_modes_of_lockex_and_kazoo_are_shown_as_what_they_are() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let path = format!("/{}", sandbox.id);
    let lockex = |words: &[&str]| {
        let given = ["--program=lockex", "-z", &server.address(), "-p", &path].map(str::to_owned);
        let given: Vec<_> = given.iter().map(String::as_str).collect();
        sandbox.program(&[&given[..], words].concat())
    };
    let job = "echo ready; cat";
    let run = |words: &[&str]| lockex(&[words, &["--", job]].concat()).leashed().start();
    let mut one = run(&["-i", "one"]);
    let mut gpu = [
        run(&["-i", "gpu", "-c", "2"]),
        run(&["-i", "gpu", "-c", "2"]),
    ];
    one.wait_for_output("ready");
    gpu.iter_mut().for_each(|run| run.wait_for_output("ready"));
    let waiter = lockex(&["-i", "gpu", "-c", "2", "--", "true"]).start();
    let data = format!("{path}/data");
    let kazoo = |recipe, path: &str| {
        let kazoo = Kazoo::newest().lock(&sandbox, server, path, recipe, &["run", job]);
        kazoo.leashed().start()
    };
    let mut others = [
        kazoo("ReadLock", &data),
        kazoo("ReadLock", &data),
        kazoo("WriteLock", &format!("{path}/file")),
        kazoo("3", &format!("{path}/pool")),
    ];
    others
        .iter_mut()
        .for_each(|run| run.wait_for_output("ready"));
    let look = |words: &[&str]| {
        let outcome = lockex(&[&["--status", "--json"], words].concat()).run();
        assert_eq!(outcome.stderr, "");
        serde_json::from_str::<Value>(&outcome.stdout).unwrap()
    };
    wait_until("the third waits for the semaphore", || {
        look(&["-i", "gpu"])["locks"][0]["waiters"]
            .as_array()
            .unwrap()
            .len()
            == 1
    });
    let found = look(&[]);
    let names: Vec<_> = found["locks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|lock| {
            let holders = lock["holders"].as_array().unwrap().len();
            (
                lock["name"].as_str().unwrap(),
                lock["kind"].as_str().unwrap(),
                holders,
            )
        })
        .collect();
    assert_eq!(
        names,
        [
            ("data", "kazoo-readlock", 2),
            ("file", "kazoo-lock", 1),
            ("gpu", "kazoo-semaphore", 2),
            ("one", "kazoo-lock", 1),
            ("pool", "kazoo-semaphore", 1),
        ]
    );
    for (lock, run) in [(1, &others[2]), (4, &others[3])] {
        let holder = &found["locks"][lock]["holders"][0];
        assert_eq!(
            (&holder["host"], &holder["pid"]),
            (&"kazoo".into(), &run.pid().into())
        );
    }
    let gpu_lock = &found["locks"][2];
    assert_eq!(gpu_lock["slots"], 2);
    let mut expected = [i64::from(gpu[0].pid()), i64::from(gpu[1].pid())];
    expected.sort_unstable();
    assert_eq!(pids(gpu_lock), expected);
    assert_eq!(gpu_lock["waiters"][0]["pid"], waiter.pid());
    assert_eq!(found["locks"][3]["holders"][0]["pid"], one.pid());
    let table = lockex(&["--status"]).run().stdout;
    assert!(table.contains("gpu   2/2"), "{table}");
    for mut other in others {
        other.let_go();
        assert_eq!(other.wait(), exited(0).printing("ready\n"));
    }
    one.let_go();
    assert_eq!(one.wait(), exited(0).printing("ready\n"));
    for mut run in gpu {
        run.let_go();
        assert_eq!(run.wait(), exited(0).printing("ready\n"));
    }
    assert_eq!(waiter.wait(), exited(0));
    assert_eq!(lockex(&["--status", "-i", "one"]).run().end, Ok(3));
}

#[test]
fn local_locks_are_shown_by_the_kernel_and_no_file_is_made() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("locks");
    let local = format!("--local={}", folder.display());
    let run = |words: &[&str]| sandbox.program(&[&[local.as_str(), "-l", "0"], words].concat());
    let json = |words: &[&str]| {
        let outcome = sandbox
            .program(&[&[local.as_str(), "--status", "--json"], words].concat())
            .run();
        assert_eq!(outcome.stderr, "");
        serde_json::from_str::<Value>(&outcome.stdout).unwrap()
    };
    assert_eq!(
        json(&["lock"])["locks"][0]["holders"],
        serde_json::json!([])
    );
    assert!(!folder.exists());
    let mut first = run(&["lock", "sh -c 'echo ready; cat'"]).leashed().start();
    first.wait_for_output("ready");
    let mut second = run(&["-w", "60", "lock", "sh -c 'echo ready; cat'"])
        .leashed()
        .start();
    wait_until("the second waits", || {
        json(&["lock"])["locks"][0]["waiters"]
            .as_array()
            .unwrap()
            .len()
            == 1
    });
    let found = json(&[]);
    let lock = &found["locks"][0];
    assert_eq!(
        (&lock["name"], &lock["kind"]),
        (&"lock".into(), &"local".into())
    );
    assert_eq!(lock["holders"][0]["pid"], first.pid());
    assert_eq!(lock["waiters"][0]["pid"], second.pid());
    assert!(
        lock["holders"][0]["token"]
            .as_i64()
            .is_some_and(|token| token > 0)
    );
    first.let_go();
    assert_eq!(first.wait(), exited(0).printing("ready\n"));
    second.wait_for_output("ready");
    assert_eq!(
        json(&["lock"])["locks"][0]["holders"][0]["pid"],
        second.pid(),
        "the helper that locked the file has ended"
    );
    second.let_go();
    assert_eq!(second.wait(), exited(0).printing("ready\n"));
    let released = sandbox.program(&[&local, "--status", "lock"]).run();
    assert_eq!(
        (released.end, released.stdout.contains("free")),
        if process::shows_all_locks() {
            (Ok(3), true)
        } else {
            (Ok(1), false) // another container may hold it
        }
    );
}

#[test]
fn a_local_lock_that_is_no_file_is_unknown_and_hides_no_other_lock() {
    let sandbox = Sandbox::new();
    let status = |words: &[&str]| sandbox.local(&[&["--status"], words].concat()).run();
    assert_eq!(sandbox.local(&["-l", "0", "file", "true"]).run(), exited(0));
    let folder = sandbox.path(&format!("locks/{}", sandbox.id));
    fs::create_dir(folder.join("folder")).unwrap();
    let outcome = status(&["folder"]);
    assert_eq!(outcome.end, Ok(1), "{outcome:?}");
    assert!(outcome.stdout.contains("unknown"), "{outcome:?}");
    outcome.complaint(&["not a regular file"]);
    let both = status(&["file", "folder"]);
    assert_eq!(both.end, Ok(1), "{both:?}");
    let (shown, end) = if process::shows_all_locks() {
        ("free", Ok(3))
    } else {
        ("unknown", Ok(1))
    };
    let line = both.stdout.lines().find(|line| line.starts_with("file "));
    assert!(line.is_some_and(|line| line.contains(shown)), "{both:?}");
    assert_eq!(status(&["file"]).end, end);
}

/// Runs a script as process 1 of a namespace with its own /proc.
fn in_container<'a>(sandbox: &'a Sandbox, script: &str) -> Job<'a> {
    Job::new(sandbox, Path::new("unshare")).words(&[
        "--pid",
        "--fork",
        "--mount-proc",
        "sh",
        "-c",
        script,
    ])
}

#[test]
fn in_a_container_a_local_lock_is_held_or_unknown_but_not_free() {
    let sandbox = Sandbox::new();
    let status = sandbox.local(&["--status", "lock"]).line();
    let holder = sandbox
        .local(&["-l", "0", "lock", "sh -c 'echo ready; cat'"])
        .leashed()
        .start();
    holder.wait_for_output("ready");
    let outside = in_container(&sandbox, &status).run();
    assert_eq!(outside.end, Ok(1), "{outside:?}");
    assert!(outside.stdout.contains("unknown"), "{outside:?}");
    outside.complaint(&["container"]);
    holder.finish();
    // The process that called flock(2) has ended.
    let file = sandbox.path(&format!("locks/{}/lock", sandbox.id));
    let inside = format!("exec 9>>{}; flock 9; {status}", file.display());
    let inside = in_container(&sandbox, &inside).run();
    assert_eq!(
        (inside.end, inside.stderr.as_str()),
        (Ok(0), ""),
        "{inside:?}"
    );
}

#[test]
fn looking_never_makes_a_run_find_the_lock_busy() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                let outcome = sandbox.flock(server, &["--status", "lock"]).run();
                assert!(matches!(outcome.end, Ok(0 | 3)), "{outcome:?}");
                looks += 1;
            }
            looks
        });
        for _ in 0..RUNS {
            let run = sandbox.flock(server, &["-l", "0", "-w", "0", "-x", "9", "lock", "true"]);
            assert_eq!(run.run(), exited(0));
        }
        done.store(true, Ordering::Relaxed);
        assert!(looking.join().unwrap() > 0);
    });
}

#[test]
fn a_status_with_50_waiters_is_a_few_round_trips() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    client
        .create_ephemeral(&sandbox.node("lock"), b"host")
        .unwrap();
    let waiter = || {
        sandbox
            .flock(server, &["-l", "0", "-w", "300", "lock", "true"])
            .start()
    };
    let waiters: Vec<_> = (0..50).map(|_| waiter()).collect();
    let proxy = Proxy::start(server.address());
    wait_until("all wait", || {
        client.children(&sandbox.node(".queue/lock")).len() == waiters.len()
    });
    let look = sandbox.flock_at(&proxy.address, 60, &["--status", "--json", "lock"]);
    let found: Value = serde_json::from_str(&look.run().stdout).unwrap();
    assert_eq!(found["locks"][0]["waiters"].as_array().unwrap().len(), 50);
    // Connect; sync, lock and queues; the queue; its entries; close.
    assert_eq!(proxy.turns(), [From::Client, From::Server].repeat(5));
    assert_eq!(proxy.connections(), 1);
    client.delete(&sandbox.node("lock")).unwrap();
    for waiter in waiters {
        assert_eq!(waiter.wait(), exited(0));
    }
}

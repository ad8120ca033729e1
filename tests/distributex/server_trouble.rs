//! distributexd in trouble: hosts that lose power, a full disk, a log pipe that is not read, the
//! state file of another server.

use common::distributexd::{Connection, Distributexd};
use common::run::{Job, Outcome};
use common::sandbox::{Sandbox, executable};
use common::{free_port, wait_for, wait_until};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;

const POOL: &str = "pools:\n- name: pool\n";

/// Makes this host hold the pool.
fn holder(server: &Distributexd, host: &str) {
    assert_eq!(server.call("get", host, "pool"), "YES");
}

/// Makes this host wait for the pool.
fn waiter(server: &Distributexd, host: &str) -> Connection {
    let connection = server.calls("wait", host, "pool");
    wait_until(&format!("{host} to wait"), || is_queued(server, host));
    connection
}

fn is_queued(server: &Distributexd, host: &str) -> bool {
    server
        .ask("/status/")
        .contains(&format!("{{\"host\":\"{host}\",\"waiting\""))
}

#[test]
fn grant_that_a_dead_host_never_received_goes_to_the_next_waiter() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, POOL);
    holder(&server, "first");
    let dark = waiter(&server, "dark");
    let mut next = waiter(&server, "next");
    dark.power_off();
    assert_eq!(server.call("release", "first", "pool"), "OK");
    assert_eq!(next.hear(), "YES");
    assert!(
        server.stderr().contains("taken back pool=pool host=dark "),
        "{}",
        server.stderr()
    );
}

#[test]
fn waiter_whose_host_dies_leaves_the_queue() {
    // The kernel probes the second waiter after 6 s of silence, and three probes fail.
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, POOL);
    holder(&server, "first");
    let dark = waiter(&server, "dark");
    dark.power_off();
    wait_until("it to lose its place", || !is_queued(&server, "dark"));
}

#[test]
fn received_grant_survives_the_end_of_its_connection() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, POOL);
    let mut heard = server.calls("get", "heard", "pool");
    assert_eq!(heard.hear(), "YES");
    heard.reset();
    wait_until("the connection to be gone", || {
        server
            .ask("/metrics")
            .contains("\ndistributexd_connections 1\n")
    });
    assert_eq!(server.call("get", "other", "pool"), "NO");
}

#[test]
fn waiter_that_resets_its_connection_leaves_the_queue() {
    let sandbox = Sandbox::new();
    let server = Distributexd::start(&sandbox, POOL);
    holder(&server, "first");
    waiter(&server, "lost").reset();
    wait_until("the place to be free", || !is_queued(&server, "lost"));
}

#[test]
fn nothing_is_granted_until_the_state_can_be_saved() {
    let sandbox = Sandbox::new();
    let state = sandbox.path("state");
    let server = Distributexd::start(
        &sandbox,
        &format!("state: {}\n{POOL}- name: other\n", state.display()),
    );
    holder(&server, "first");
    let before = fs::read(&state).unwrap();
    let in_the_way = sandbox.path("state.new");
    fs::create_dir_all(in_the_way.join("something")).unwrap();
    let health = || {
        let mut connection = server.connect();
        connection.say("GET /health HTTP/1.1\r\n\r\n");
        connection.reply().status
    };
    assert_eq!(health(), 200);
    for target in [
        "/get/?host=first&pool=other",
        "/renew/?host=first&pool=other&token=1",
        "/health",
    ] {
        let mut connection = server.connect();
        connection.say(&format!("GET {target} HTTP/1.1\r\n\r\n"));
        let reply = connection.reply();
        let why = String::from_utf8(reply.body).unwrap();
        assert!(
            reply.status == 503 && why.contains(&format!("{}: is a directory", state.display())),
            "{target}: {} {why}",
            reply.status
        );
    }
    assert_eq!(server.call("get", "first", "pool"), "YES", "that is saved");
    let mut next = waiter(&server, "next");
    assert_eq!(server.call("release", "first", "pool"), "OK");
    wait_until("another attempt", || {
        server
            .ask("/metrics")
            .contains("\ndistributexd_failed_saves_total 3\n")
    });
    assert!(next.is_silent(), "an unsaved grant is not sent");
    assert_eq!(fs::read(&state).unwrap(), before);
    fs::remove_dir_all(&in_the_way).unwrap();
    assert_eq!(next.hear(), "YES");
    assert_eq!(health(), 200);
    assert!(fs::read_to_string(&state).unwrap().contains("\"next\""));
    let said = server.stderr();
    for line in [
        " ERROR cannot write the state file: ",
        " WARNING the state file can be written again, after ",
    ] {
        assert_eq!(said.matches(line).count(), 1, "{said}");
    }
}

#[test]
fn unread_log_pipe_does_not_block_the_server() {
    let sandbox = Sandbox::new();
    let (pipe, port) = (sandbox.path("log"), free_port().to_string());
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let mut unread = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pipe)
        .unwrap();
    unread.write_all(&vec![b'x'; 60_000]).unwrap();
    let config = sandbox.path("config.yaml");
    fs::write(&config, POOL).unwrap();
    let words = ["-c", config.to_str().unwrap(), "-p", &port, "-v"];
    let script = format!(
        "exec \"$0\" --program=distributexd \"$@\" 2>{}",
        pipe.display()
    );
    let program = executable();
    let server = Job::new(&sandbox, Path::new("/bin/sh"))
        .words(&["-c", &script, program.to_str().unwrap()])
        .words(&words)
        .start();
    let mut connection = wait_for("it to listen", || Connection::to(port.parse().unwrap()));
    for _ in 0..500 {
        for (call, answer) in [("get", "YES"), ("release", "OK")] {
            connection.say(&format!("GET /{call}/?host=me&pool=pool HTTP/1.1\r\n\r\n"));
            assert_eq!(connection.hear(), answer);
        }
    }
    drop(server);
}

/// The outcome of a start with this config and these options.
fn start(sandbox: &Sandbox, config: &str, words: &[&str]) -> Outcome {
    let path = sandbox.path("config.yaml");
    fs::write(&path, config).unwrap();
    sandbox
        .program(&["--program=distributexd", "-c", path.to_str().unwrap()])
        .words(words)
        .run()
}

/// Asserts that the server does not start and prints one line with these facts. `sysexit` is the
/// exit code with `--sysexits`.
#[track_caller]
fn assert_refused(sandbox: &Sandbox, config: &str, words: &[&str], sysexit: i32, facts: &[&str]) {
    for (more, code) in [(&[][..], 1), (&["--sysexits"], sysexit)] {
        let outcome = start(sandbox, config, &[words, more].concat());
        assert_eq!(
            (outcome.end, outcome.stdout.as_str()),
            (Ok(code), ""),
            "{}",
            outcome.stderr
        );
        outcome.complaint_of("distributexd", facts);
    }
}

#[test]
fn unusable_port_address_or_state_file_is_an_error_at_start() {
    let sandbox = Sandbox::new();
    let state = format!("state: {}\n", sandbox.path("state").display());
    let server = Distributexd::start(&sandbox, &(state.clone() + POOL));
    assert_refused(
        &sandbox,
        &(state + POOL),
        &["-p", "0"],
        75,
        &["another server keeps its state in", "/state"],
    );
    let port = server.port.to_string();
    let facts = ["cannot listen on 127.0.0.1 port", &port, "in use"];
    assert_refused(
        &sandbox,
        &format!("listen: 127.0.0.1\n{POOL}"),
        &["-p", &port],
        71,
        &facts,
    );
    assert_refused(
        &sandbox,
        &format!("listen: 192.0.2.1\n{POOL}"),
        &["-p", "0"],
        71,
        &["192.0.2.1", "address"],
    );
    let taken = TcpListener::bind("[::]:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    assert_refused(
        &sandbox,
        POOL,
        &["-p", &port],
        71,
        &["cannot listen on port", &port, "in use"],
    );
}

#[test]
fn servers_that_share_a_memcached_run_without_state_files() {
    let sandbox = Sandbox::new();
    let config = format!(
        "backend: memcache\nmemcacheport: {}\nstate: {}\n{POOL}",
        free_port(),
        sandbox.path("state").display()
    );
    let servers = [(); 2].map(|()| Distributexd::start(&sandbox, &config));
    for server in servers {
        assert!(
            server
                .stderr()
                .contains("holders kept in memcached at localhost:"),
            "{}",
            server.stderr()
        );
    }
    assert!(!sandbox.path("state.lock").exists());
}

#[test]
fn invalid_state_file_is_refused_and_left_unchanged() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("state");
    let config = format!("state: {}\n{POOL}", path.display());
    for text in [
        "",
        "{\"version\": 1, \"last_to",
        "{\"version\": 2}",
        "garbage",
    ] {
        fs::write(&path, text).unwrap();
        assert_refused(
            &sandbox,
            &config,
            &["-p", "0"],
            65,
            &["/state: ", "locks could be granted twice", "move it away"],
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    assert_refused(
        &sandbox,
        "state: nowhere/state\n",
        &["-p", "0"],
        71,
        &["nowhere/state.lock", "no such file"],
    );
}

#[test]
fn config_check_starts_no_server() {
    let sandbox = Sandbox::new();
    let right = start(
        &sandbox,
        "backend: memcache\npools:\n- name: a\n- name: b\n",
        &["--check"],
    );
    assert_eq!(
        (right.end, right.stdout.as_str()),
        (
            Ok(0),
            format!(
                "{}: OK: 2 pools, backend memcache at localhost:11211\n",
                sandbox.path("config.yaml").display()
            )
            .as_str()
        )
    );
    assert_eq!(right.stderr, "");
    let unknown = ":3: \"maxlock\": unknown key (did you mean \"maxlocks\"?)";
    assert_refused(
        &sandbox,
        "pools:\n- name: a\n  maxlock: 2\n",
        &["--check"],
        78,
        &["config.yaml", unknown],
    );
    for (config, fact) in [
        (
            "pools: [a]\n",
            ":1: expected a pool with its \"name\", found \"a\"",
        ),
        ("pools:\n- name: a\n  expire: soon\n", ":3: \"expire\": "),
    ] {
        assert_refused(&sandbox, config, &["--check"], 78, &["config.yaml", fact]);
        assert_refused(&sandbox, config, &["-p", "0"], 78, &["config.yaml", fact]);
    }
    let state = |path: &str| format!("state: {}\n{POOL}", sandbox.path(path).display());
    let missing = ["config.yaml: \"state\": cannot write in ", "no such file"];
    assert_refused(&sandbox, &state("missing/s"), &["--check"], 71, &missing);
    let tls = format!(
        "backend: zookeeper\nacl: creator\nauth: {{scheme: digest, data: 'u:p'}}\ntls: {{ca: /none.pem}}\n{POOL}"
    );
    let unreadable = [
        "config.yaml: \"tls\": cannot connect by TLS",
        "/none.pem: no such file",
    ];
    assert_refused(&sandbox, &tls, &["--check"], 78, &unreadable);
    assert_refused(&sandbox, &tls, &["-p", "0"], 78, &unreadable);
    let elsewhere = format!("listen: 203.0.113.7\n{POOL}"); // of no host: RFC 5737
    let refused = ["cannot listen on 203.0.113.7 port 9889: "];
    assert_refused(&sandbox, &elsewhere, &["--check"], 71, &refused);
    let good = start(&sandbox, &state("state"), &["--check"]);
    assert_eq!((good.end, good.stderr.as_str()), (Ok(0), ""));
    assert!(!sandbox.path("state").exists() && !sandbox.path("state.lock").exists());
    let nothing = sandbox
        .program(&["--program=distributexd", "--check"])
        .run();
    nothing.complaint_of(
        "distributexd",
        &["no config file found (tried distributex.yaml, /etc/distributex.yaml)"],
    );
    fs::write(sandbox.path("distributex.yaml"), POOL).unwrap();
    assert_eq!(
        sandbox
            .program(&["--program=distributexd", "--check"])
            .run()
            .stdout,
        "distributex.yaml: OK: 1 pool, backend inmemory\n"
    );
    File::create(sandbox.path("long.yaml"))
        .unwrap()
        .set_len(2 << 20)
        .unwrap();
    let long = sandbox
        .program(&["--program=distributexd", "-c", "long.yaml"])
        .run();
    long.complaint_of("distributexd", &["long.yaml", "larger than 1 MiB"]);
}

//! Restarts of distributexd: with `state`, holders keep their locks however the server ended, and
//! tokens keep increasing.

use common::capture;
use common::distributexd::Distributexd;
use common::run::Outcome;
use common::sandbox::Sandbox;
use common::{tries, wait_until};
use zk_flock::internals::http::Reply;

/// A server that keeps its state in the sandbox.
fn server<'a>(sandbox: &'a Sandbox, pools: &str) -> Distributexd<'a> {
    Distributexd::start(sandbox, &config(sandbox, pools))
}

fn config(sandbox: &Sandbox, pools: &str) -> String {
    format!(
        "state: {}\npools:\n{pools}",
        sandbox.path("state").display()
    )
}

const POOL: &str = "    - name: pool1\n";

/// The token of a grant.
#[track_caller]
fn token(reply: &Reply) -> i64 {
    assert_eq!(reply.body, b"YES");
    reply
        .header("X-Lock-Token")
        .expect("a YES has a token")
        .parse()
        .expect("tokens are numbers")
}

#[test]
fn holder_keeps_its_lock_and_token_after_the_server_is_killed() {
    let sandbox = Sandbox::new();
    let mut server = server(&sandbox, POOL);
    let mine = token(&server.calls("get", "me", "pool1").reply());
    server.kill();
    server.start_again();
    assert_eq!(server.call("get", "them", "pool1"), "NO");
    assert_eq!(token(&server.calls("get", "me", "pool1").reply()), mine);
    assert_eq!(server.call("release", "me", "pool1"), "OK");
    server.kill();
    server.start_again();
    assert!(token(&server.calls("get", "them", "pool1").reply()) > mine);
}

#[test]
fn restart_without_state_frees_all_locks_and_tokens_still_increase() {
    let sandbox = Sandbox::new();
    let mut server = Distributexd::start(&sandbox, &format!("pools:\n{POOL}"));
    let mine = token(&server.calls("get", "me", "pool1").reply());
    server.kill();
    server.start_again();
    assert!(token(&server.calls("get", "them", "pool1").reply()) > mine);
}

#[test]
fn shutdown_fails_waiters_and_keeps_holders() {
    let sandbox = Sandbox::new();
    let mut server = server(&sandbox, POOL);
    assert_eq!(server.call("get", "me", "pool1"), "YES");
    let mut waiting = server.calls("wait", "them", "pool1");
    wait_until("them to wait", || {
        server.ask("/status/").contains("\"them\"")
    });
    let Outcome { end, stdout, .. } = server.stop();
    assert_eq!((end, stdout.as_str()), (Ok(0), ""));
    let reply = waiting.reply();
    assert_eq!((reply.status, reply.keep_alive), (503, false));
    waiting.hears_the_end();
    server.start_again();
    assert_eq!(
        ["them", "me"].map(|host| server.call("get", host, "pool1")),
        ["NO", "YES"]
    );
}

#[test]
fn hup_reloads_the_pools_and_an_invalid_config_changes_nothing() {
    let sandbox = Sandbox::new();
    let server = server(&sandbox, POOL);
    assert_eq!(server.call("get", "me", "pool1"), "YES");
    server.configure(&config(&sandbox, &format!("{POOL}    - name: pool2\n")));
    server.signal(libc::SIGHUP);
    wait_until("a second pool", || {
        server.call("get", "me", "pool2") == "YES"
    });
    server.configure("pools: [\n");
    server.signal(libc::SIGHUP);
    wait_until("a complaint", || {
        let kept = "; the server keeps its pools, access tokens and networks";
        server.stderr().contains(kept)
    });
    assert_eq!(
        ["pool1", "pool2"].map(|pool| server.call("get", "them", pool)),
        ["NO", "NO"]
    );
}

/// So many pools that a kill falls between requests for two of them.
const POOLS: usize = 30;

#[test]
fn kill_at_any_moment_loses_no_received_grant_and_repeats_no_token() {
    let sandbox = Sandbox::new();
    let pools: Vec<_> = (0..POOLS).map(|number| format!("pool{number}")).collect();
    let mut server = server(
        &sandbox,
        &pools
            .iter()
            .map(|pool| format!("    - name: {pool}\n"))
            .collect::<String>(),
    );
    let mut newest = [0; POOLS];
    for round in 0..tries(20) {
        let mut connection = server.connect();
        let requests = pools
            .iter()
            .map(|pool| format!("GET /get/?host=me&pool={pool} HTTP/1.1\r\n\r\n"));
        connection.say(&requests.collect::<String>());
        let mut heard: Vec<_> = (0..round * 7 % POOLS).map(|_| connection.reply()).collect();
        server.kill();
        heard.extend(capture::replies(&connection.rest()));
        server.start_again();
        for ((pool, newest), reply) in pools.iter().zip(&mut newest).zip(&heard) {
            assert!(
                token(reply) > *newest,
                "{pool}: token {newest} was given before"
            );
            assert_eq!(server.call("get", "them", pool), "NO");
            *newest = token(&server.calls("get", "me", pool).reply());
            assert_eq!(*newest, token(reply), "{pool}");
        }
        for pool in &pools {
            assert_eq!(server.call("release", "me", pool), "OK");
        }
    }
}

//! `--break`: a slot is revoked at the server, and its holder stops its command.

use super::{complains, fails};
use common::distributexd::Distributexd;
use common::lock_server::{Answer, LockServer, plain};
use common::sandbox::Sandbox;
use std::net::TcpListener;

/// A command that says when it is up, and ends at TERM.
const ENDS_AT_TERM: &str =
    "exec 2>/dev/null; trap 'echo trapped; exit 3' TERM; echo up; while :; do sleep 0.05; done";

fn server<'a>(sandbox: &'a Sandbox, options: &str) -> Distributexd<'a> {
    let pools = format!("pools:\n- name: {}\n{options}", sandbox.id);
    Distributexd::start(sandbox, &pools)
}

#[test]
fn a_holder_is_evicted_and_stops_its_command() {
    let sandbox = Sandbox::new();
    let server = server(&sandbox, "  expire: 3\n");
    let holder = sandbox
        .distributex(server.port, &["--as", "db1", ENDS_AT_TERM])
        .start();
    holder.wait_for_output("up");
    let broken = sandbox.distributex(server.port, &["--break"]).run();
    let path = format!("{}@127.0.0.1:{}", sandbox.id, server.port);
    assert_eq!((broken.end, broken.stderr.as_str()), (Ok(0), ""));
    let line = broken.stdout.as_str();
    assert!(line.starts_with("evicted db1 (token "), "{line}");
    assert!(
        line.contains(&format!(" from {path}, which it had held for ")),
        "{line}"
    );
    let end = holder.wait();
    assert_eq!(end.stdout, "up\ntrapped\n");
    fails(&end, 1, &["revoked", "an operator revoked it"]);
    complains(
        &sandbox.distributex(server.port, &["--break"]).run(),
        3,
        &["is free"],
    );
}

#[test]
fn a_slot_that_is_still_held_at_the_end_of_the_wait_stays_revoked() {
    let sandbox = Sandbox::new();
    let server = server(&sandbox, "  expire: 600\n");
    assert_eq!(server.call("get", "db1", &sandbox.id), "YES");
    let words = ["--sysexits", "--break", "-w", "0.1"];
    let broken = sandbox.distributex(server.port, &words).run();
    complains(&broken, 75, &["revoked", "for db1", "its lease ends in 9m"]);
    assert!(server.ask("/status/").contains("\"revoked\":true"));
}

#[test]
fn several_holders_are_listed_and_one_is_chosen_by_its_token() {
    let sandbox = Sandbox::new();
    let server = server(&sandbox, "  maxlocks: 2\n  expire: 600\n");
    for host in ["db1", "db2"] {
        assert_eq!(server.call("get", host, &sandbox.id), "YES");
    }
    let listed = sandbox.distributex(server.port, &["--break"]).run();
    complains(&listed, 1, &["has 2 holders", "db1 (token ", "db2 (token "]);
    let token = listed.stderr.split("db2 (token ").nth(1).expect("db2");
    let token = token.split(')').next().expect("a number");
    let words = ["--break", "-w", "0.1", "--token", token];
    let broken = sandbox.distributex(server.port, &words).run();
    complains(&broken, 1, &["for db2", "still holds it"]);
    assert_eq!(
        server.ask("/status/").matches("\"revoked\":true").count(),
        1
    );
    let later = sandbox
        .distributex(server.port, &["--break", "--token", "1"])
        .run();
    complains(&later, 1, &["token 1 does not hold", "any more"]);
}

#[test]
fn a_slot_that_the_host_has_acquired_since_is_not_revoked() {
    let sandbox = Sandbox::new();
    let state = format!(
        r#"{{"pools":[{{"name":"{}","holders":[{{"host":"db1","token":7}}]}}]}}"#,
        sandbox.id
    );
    let server = LockServer::start(move |asked| match asked {
        "status" => plain(&state),
        _ => Answer::Say(
            b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n\
              cannot revoke: db1 holds it with another fencing token (look at its holders again)\n"
                .to_vec(),
        ),
    });
    let broken = sandbox.distributex(server.port, &["--break"]).run();
    assert_eq!((broken.end, broken.stderr.as_str()), (Ok(0), ""));
    let line = broken.stdout.as_str();
    assert!(line.starts_with("db1 (token 7) had released "), "{line}");
    assert_eq!(server.words().last().map(String::as_str), Some("revoke 7"));
}

#[test]
fn a_server_that_cannot_revoke_is_an_error() {
    let sandbox = Sandbox::new();
    let server = LockServer::start(|_| plain("INVALID"));
    let broken = sandbox.distributex(server.port, &["--break"]).run();
    complains(&broken, 1, &["is it a distributexd of this program?"]);
}

#[test]
fn the_time_of_w_bounds_the_connecting() {
    let (sandbox, silent) = (Sandbox::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = silent.local_addr().unwrap().port();
    let words = ["--break", "-w", "2"];
    complains(
        &sandbox.distributex(port, &words).run(),
        1,
        &["cannot reach", "no answer for 2."],
    );
}

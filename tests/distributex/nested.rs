//! A run that is started under a slot and waits for that slot would wait for itself: an error at
//! once, with each backend, and only then.

use common::distributexd::Distributexd;
use common::memcached::Memcached;
use common::run::{Outcome, exited};
use common::sandbox::{Sandbox, executable};

/// Runs `echo ran` under a run of the host `inner` under a run of the host `outer`.
fn nest(sandbox: &Sandbox, server: &Distributexd, outer: &str, inner: &str) -> Outcome {
    let options = |host: &str| format!("--no-local-lock --sysexits --as {host}");
    let command = format!(
        "exec {} --program=distributex -H 127.0.0.1 -p {} -r {} {} 'echo ran'",
        executable().display(),
        server.port,
        sandbox.id,
        options(inner)
    );
    let options = options(outer);
    let words: Vec<_> = options.split(' ').chain([command.as_str()]).collect();
    sandbox.distributex(server.port, &words).run()
}

#[test]
fn a_wait_for_slots_that_only_outer_runs_hold_is_an_error() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    let pool = format!("pools:\n- name: {}\n", sandbox.id);
    for backend in [String::new(), memcached.config()] {
        let one = Distributexd::start(&sandbox, &(backend.clone() + &pool));
        for hosts in [["a", "a"], ["a", "b"]] {
            let outcome = nest(&sandbox, &one, hosts[0], hosts[1]);
            assert_eq!(outcome.end, Ok(65), "{outcome:?}");
            outcome.complaint_of(
                "distributex",
                &[
                    &format!("{}@127.0.0.1:{}", sandbox.id, one.port),
                    "is held by a run that this one was started under (token ",
                    "the wait cannot end",
                ],
            );
        }
        drop(one);
        let two = Distributexd::start(&sandbox, &(backend + &pool + "  maxlocks: 2\n"));
        assert_eq!(
            nest(&sandbox, &two, "a", "b"),
            exited(0).printing("ran\n"),
            "another slot is free"
        );
        assert_eq!(nest(&sandbox, &two, "a", "a").end, Ok(65), "one of a host");
    }
}

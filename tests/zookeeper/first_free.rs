//! `-n N`: the first free one of several names. Never more than N at once, and with `-w`
//! everybody's turn comes.

use common::run::{Job, exited};
use common::sandbox::Sandbox;
use common::wait_until;
use common::zookeeper::ZooKeeper;

/// Makes a run of these words.
type Flock<'a> = Box<dyn Fn(&[&str]) -> Job<'a> + 'a>;

/// zk-flock on a server, and on this host alone.
fn kinds(sandbox: &Sandbox) -> [Flock<'_>; 2] {
    [
        Box::new(|words| sandbox.flock(ZooKeeper::shared(), words)),
        Box::new(|words| sandbox.local(words)),
    ]
}

#[test]
fn twenty_for_five_names_all_run_and_never_more_than_five_at_once() {
    let sandbox = Sandbox::new();
    for flock in kinds(&sandbox) {
        // The first five run until all of them have started.
        let command = "sh -c 'echo + >>runs; until test $(grep -c + runs) -ge 5; do sleep 0.05; done; sleep 0.2; echo - >>runs; echo held $ZK_FLOCK_LOCK'";
        let runs: Vec<_> = (0..20)
            .map(|_| {
                flock(&[
                    "-n", "5", "-w", "60", "-l", "0", "-x", "17", "lock", command,
                ])
                .start()
            })
            .collect();
        for run in runs {
            let outcome = run.wait();
            assert_eq!((outcome.end, outcome.stderr.as_str()), (Ok(0), ""));
            let lines: Vec<&str> = outcome.stdout.lines().collect();
            let (held, tried) = lines.split_last().unwrap();
            assert!(
                held.starts_with("held ") && held.ends_with(&format!("/{}", tried.last().unwrap())),
                "{lines:?}"
            );
            assert_eq!(tried[0], "lock_0");
            assert!(
                tried
                    .iter()
                    .all(|name| (0..5).any(|number| *name == format!("lock_{number}"))),
                "{tried:?}"
            );
        }
        let log = sandbox.read("runs");
        let mut at_once = 0;
        let most = log.lines().map(|line| {
            at_once += if line == "+" { 1 } else { -1 };
            at_once
        });
        assert_eq!((most.max(), at_once, log.lines().count()), (Some(5), 0, 40));
        std::fs::remove_file(sandbox.path("runs")).unwrap();
    }
}

#[test]
fn each_name_is_printed_as_it_is_tried_and_the_first_that_is_free_is_held() {
    let sandbox = Sandbox::new();
    for flock in kinds(&sandbox) {
        let mut holders = Vec::new();
        for number in 0..3 {
            let tried = ["lock_0\n", "lock_1\n", "lock_2\n"][..=number].concat();
            let run = flock(&[
                "-n",
                "3",
                "-l",
                "0",
                "lock",
                "sh -c 'basename $ZK_FLOCK_LOCK >&2; cat'",
            ])
            .leashed()
            .start();
            run.wait_for_output(&format!("lock_{number}\n"));
            run.job();
            holders.push((run, tried, format!("lock_{number}\n")));
        }
        assert_eq!(
            flock(&["-n", "3", "-x", "17", "lock", "touch ran"]).run(),
            exited(17).printing("lock_0\nlock_1\nlock_2\n")
        );
        let (middle, tried, held) = holders.remove(1);
        let outcome = middle.finish();
        assert_eq!(
            (outcome.end, outcome.stdout, outcome.stderr),
            (Ok(0), tried, held)
        );
        let again = flock(&["-n", "3", "-l", "0", "lock", "echo mine"]).run();
        assert_eq!(again, exited(0).printing("lock_0\nlock_1\nmine\n"));
        for (holder, tried, held) in holders {
            let outcome = holder.finish();
            assert_eq!(
                (outcome.end, outcome.stdout, outcome.stderr),
                (Ok(0), tried, held)
            );
        }
        assert!(!sandbox.path("ran").exists());
    }
}

#[test]
fn a_waiter_acquires_the_first_name_that_becomes_free() {
    let (server, sandbox) = (ZooKeeper::shared(), Sandbox::new());
    let mut client = sandbox.client(server);
    for number in 0..3 {
        client
            .create_ephemeral(&sandbox.node(&format!("lock_{number}")), b"host")
            .unwrap();
    }
    let run = sandbox
        .flock(
            server,
            &["-n", "3", "-w", "60", "-l", "0", "lock", "echo mine"],
        )
        .start();
    wait_until("it to wait", || sandbox.log().contains("waiting for"));
    client.delete(&sandbox.node("lock_2")).unwrap();
    assert_eq!(
        run.wait(),
        exited(0).printing("lock_0\nlock_1\nlock_2\nlock_2\nmine\n")
    );
}

#[test]
fn with_one_name_no_name_is_printed() {
    let sandbox = Sandbox::new();
    for flock in kinds(&sandbox) {
        assert_eq!(
            flock(&["-n", "0", "-l", "0", "lock", "true"]).run(),
            exited(0)
        );
    }
}

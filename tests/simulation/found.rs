//! Scenarios that once showed a violation, shrunk. The fault of the program that each one found has
//! a unit test beside the code as well, if a few events show it.

use crate::course::play;
use crate::scenario::What::*;
use crate::scenario::{HOLDER, Item, Kind, Scenario, Script, Target};
use crate::turns::Turns;
use crate::world::http::curl::Errand;
use crate::world::http::scenario::{Backend, Fault, Pool};

fn play_without_violation(scenario: &Scenario) {
    let outcome = play(scenario, true);
    let trace = outcome.trace.join("\n");
    assert_eq!(outcome.violation, None, "{trace}");
}

const BRIEF: Script = Script {
    runs: 40,
    children: 0,
    deaf: false,
    forks: 0,
    survives: 0,
};

fn run(host: u8, wait: u32, script: Script) -> crate::scenario::What {
    Run {
        host,
        wait,
        hold: 0,
        kill_after: 5000,
        script,
    }
}

/// A process that could not be killed exits while no server is reached. zk-flock printed that the
/// lock was kept until then, and that it is released; the node was there for another second.
#[test]
fn lock_that_no_server_confirms_is_not_called_released() {
    let stubborn = Script {
        runs: 2145,
        survives: 11_084,
        ..BRIEF
    };
    let at = |at, what| Item { at, what };
    play_without_violation(&Scenario {
        seed: 184,
        kind: Kind::Node(1),
        keeper: false,
        voters: 3,
        observers: 0,
        hosts: 2,
        tick: 500,
        timeout: 1200,
        every: None,
        items: vec![
            at(1902, run(1, 0, stubborn)),
            at(2045, run(1, u32::MAX, BRIEF)),
            at(2060, run(1, u32::MAX, BRIEF)),
            at(
                2375,
                Kill {
                    host: HOLDER,
                    target: Target::Guard,
                },
            ),
            at(
                3029,
                KillServer {
                    server: 2,
                    lasts: 51,
                },
            ),
        ],
    });
}

/// Without any fault: a waiter of lockex acquired the lock shortly before the proof of its join was
/// too old, started its command, and stopped it before its first heartbeat was due.
#[test]
fn waiter_with_an_old_proof_keeps_its_lock() {
    let lasts = |runs| Script { runs, ..BRIEF };
    let at = |at, what| Item { at, what };
    play_without_violation(&Scenario {
        seed: 7_024_644_129_945_224_060,
        kind: Kind::Queue,
        keeper: false,
        voters: 1,
        observers: 0,
        hosts: 3,
        tick: 2000,
        timeout: 4000,
        every: None,
        items: vec![
            at(0, run(0, u32::MAX, lasts(8348))),
            at(6933, run(2, u32::MAX, lasts(5566))),
            at(8643, run(2, 5837, lasts(1792))),
            at(12_276, run(1, u32::MAX, lasts(3784))),
        ],
    });
}

/// A host slept over the kill deadline of an operator's stop. zk-flock, which woke up first, said that
/// its guard was killed or stopped, and exited with 70.
#[test]
fn guard_that_slept_with_its_host_is_not_called_killed() {
    let deaf = Script {
        runs: 8163,
        deaf: true,
        ..BRIEF
    };
    let (host, kill_after) = (1, 1000);
    let start = Run {
        host,
        wait: u32::MAX,
        hold: 0,
        kill_after,
        script: deaf,
    };
    let at = |at, what| Item { at, what };
    play_without_violation(&Scenario {
        seed: 2307,
        kind: Kind::Node(2),
        keeper: false,
        voters: 1,
        observers: 0,
        hosts: 6,
        tick: 500,
        timeout: 8324,
        every: None,
        items: vec![
            at(0, start),
            at(4539, Signal { host, signal: 15 }),
            at(5385, Suspend { host, lasts: 4190 }),
        ],
    });
}

/// A host slept shortly before the kill deadline of a command that cannot be killed, and a second
/// longer. zk-flock said that its guard was killed or stopped, before the guard could report the
/// survivor, and exited with 70.
#[test]
fn guard_that_slept_before_its_report_was_due_is_not_called_killed() {
    let unkillable = Script {
        runs: 15_208,
        survives: u32::MAX,
        ..BRIEF
    };
    let revoke = Break {
        host: 2,
        wait: 5000,
        force: false,
        late: 258,
        abandoned: 0,
    };
    let (host, lasts) = (HOLDER, 1813);
    let at = |at, what| Item { at, what };
    play_without_violation(&Scenario {
        seed: 340_013_294,
        kind: Kind::Queue,
        keeper: false,
        voters: 1,
        observers: 0,
        hosts: 3,
        tick: 1000,
        timeout: 6818,
        every: None,
        items: vec![
            at(0, run(0, u32::MAX, unkillable)),
            at(2843, revoke),
            at(7379, Suspend { host, lasts }),
        ],
    });
}

/// A waiter was frozen with its host until the lock was free, and again before its first heartbeat as
/// a holder. It gave up, though it had no limit: "takes 0.0 s to confirm the lock, too long".
#[test]
fn waiter_on_a_host_that_sleeps_twice_does_not_give_up() {
    let at = |at, what| Item { at, what };
    let sleeps = |lasts| Suspend {
        host: HOLDER,
        lasts,
    };
    let lasts = |runs| Script { runs, ..BRIEF };
    play_without_violation(&Scenario {
        seed: 205_667,
        kind: Kind::Node(1),
        keeper: false,
        voters: 1,
        observers: 0,
        hosts: 4,
        tick: 250,
        timeout: 1350,
        every: None,
        items: vec![
            at(0, run(3, 0, lasts(1427))),
            at(253, run(3, u32::MAX, lasts(11))),
            at(542, sleeps(719)),
            at(1535, sleeps(1322)),
        ],
    });
}

/// `--break --force` had read the lock's node again when the holder's session expired, and sent its
/// delete before the answer came. That answer ended it, with "has released it": the delete hit the next
/// holder.
#[test]
fn break_that_is_deleting_waits_for_the_answer() {
    let at = |at, what| Item { at, what };
    let lasts = |runs| Script { runs, ..BRIEF };
    let isolated = |lasts| IsolateLeader {
        noticed: false,
        lasts,
    };
    play_without_violation(&Scenario {
        seed: 15_139,
        kind: Kind::Node(3),
        keeper: false,
        voters: 3,
        observers: 0,
        hosts: 4,
        tick: 2000,
        timeout: 4310,
        every: None,
        items: vec![
            at(
                0,
                Run {
                    host: 3,
                    wait: 23_494,
                    hold: 0,
                    kill_after: 300,
                    script: Script {
                        survives: 3812,
                        ..lasts(9380)
                    },
                },
            ),
            at(440, isolated(8208)),
            at(
                9034,
                Break {
                    host: 1,
                    wait: 10_000,
                    force: true,
                    late: 19,
                    abandoned: 0,
                },
            ),
            at(12_723, isolated(2830)),
            at(
                15_632,
                Run {
                    host: 3,
                    wait: 0,
                    hold: 0,
                    kill_after: 1000,
                    script: lasts(7538),
                },
            ),
        ],
    });
}

/// The nodes above a lock were made once per connection, also by a run whose session was replaced:
/// servers that lost their data again then ended the run.
#[test]
fn nodes_above_a_lock_are_made_again_after_servers_were_wiped() {
    let at = |at, what| Item { at, what };
    let waits = |host, runs| Run {
        host,
        wait: u32::MAX,
        hold: 0,
        kill_after: 300,
        script: Script { runs, ..BRIEF },
    };
    play_without_violation(&Scenario {
        seed: 36_790,
        kind: Kind::Queue,
        keeper: true,
        voters: 3,
        observers: 0,
        hosts: 4,
        tick: 2000,
        timeout: 4000,
        every: Some(Turns {
            period: 8692,
            retry_failed: false,
            clocks: 0,
        }),
        items: vec![
            at(0, waits(3, 9769)),
            at(936, Wipe),
            at(1306, waits(2, 6179)),
            at(1306, LoseRequests { host: 2, after: 0 }),
            at(
                1565,
                Slow {
                    host: 255,
                    by: 165,
                    lasts: 3658,
                },
            ),
            at(2621, Wipe),
        ],
    });
}

/// An error of the model: a packet that was to be lost was that of its own last look at the servers.
#[test]
fn fault_that_met_no_packet_does_not_hit_the_inspection() {
    let lost = Fault::LoseInStore {
        server: 0,
        there: false,
        after: 0,
    };
    play_without_violation(&Scenario {
        seed: 600_000_201,
        kind: Kind::Pool(Pool {
            slots: 3,
            expire: 20,
            backend: Backend::Memcached,
            servers: 2,
            shared_names: false,
        }),
        keeper: false,
        voters: 0,
        observers: 0,
        hosts: 2,
        tick: 100,
        timeout: 20_000,
        every: None,
        items: vec![Item {
            at: 0,
            what: LockServer(lost),
        }],
    });
}

/// Two servers and a pool that an ensemble of three keeps, with scripts that ask.
fn shared_pool(seed: u64, tick: u32, timeout: u32, hosts: u8, items: Vec<Item>) -> Scenario {
    Scenario {
        seed,
        kind: Kind::Pool(Pool {
            slots: 1,
            expire: 4,
            backend: Backend::ZooKeeper { timeout },
            servers: 2,
            shared_names: false,
        }),
        keeper: false,
        voters: 3,
        observers: 0,
        hosts,
        tick,
        timeout: 4000,
        every: None,
        items,
    }
}

fn script(at: u32, host: u8, server: u8, waits: bool, limit: u32, works: u32) -> Item {
    let errand = Errand {
        server,
        waits,
        limit,
        attempts: 3,
        works,
    };
    Item {
        at,
        what: Curl { host, errand },
    }
}

/// The answer to the request for a waiter's entry was lost with the connection. A waiter that came
/// during the outage had an entry before the list of all entries showed that the older one had none.
#[test]
fn waiter_of_an_outage_queues_behind_those_before_it() {
    let long = Script {
        runs: 8448,
        ..BRIEF
    };
    let isolated = IsolateLeader {
        noticed: true,
        lasts: 2102,
    };
    let items = vec![
        Item {
            at: 0,
            what: run(1, u32::MAX, long),
        },
        Item {
            at: 3473,
            what: isolated,
        },
        script(3972, 0, 0, true, 5000, 9),
        script(5271, 0, 0, true, 0, 5),
    ];
    play_without_violation(&shared_pool(11, 500, 8000, 2, items));
}

/// A write that was to grant the oldest waiter a slot failed, because another server had granted it.
/// The next waiter had asked for its entry in the same packet.
#[test]
fn waiter_whose_grant_fails_queues_before_those_behind_it() {
    let lag = |server, by| Item {
        at: 249,
        what: Lag {
            server,
            by,
            lasts: 4865,
        },
    };
    let items = vec![
        lag(2, 798),
        lag(1, 567),
        script(426, 2, 2, false, 0, 20),
        script(2164, 0, 1, true, 0, 46),
        script(2377, 4, 1, true, 5000, 288),
        script(4116, 1, 0, true, 5000, 338),
    ];
    play_without_violation(&shared_pool(66, 100, 1600, 6, items));
}

/// A host slept while a tree that forks was killed. Its guard, woken up after the second that the
/// kill may take, reported the last process as unkillable before the process had time to die, and
/// zk-flock exited.
#[test]
fn tree_is_killed_although_its_host_slept_meanwhile() {
    let forking = Script {
        runs: 19_058,
        children: 5,
        forks: 3,
        ..BRIEF
    };
    let at = |at, what| Item { at, what };
    let sleep = Suspend {
        host: 1,
        lasts: 3000,
    };
    play_without_violation(&Scenario {
        seed: 6,
        kind: Kind::Queue,
        keeper: false,
        voters: 1,
        observers: 0,
        hosts: 2,
        tick: 1000,
        timeout: 4000,
        every: None,
        items: vec![
            at(1000, run(1, u32::MAX, forking)),
            at(2000, Delete),
            at(2002, sleep),
        ],
    });
}

/// Two servers whose member of the ensemble was slow wrote the holding of a script, and both answered
/// 503. Each left it to the other to take the holding back, and it stayed for ever.
#[test]
fn holding_that_two_servers_failed_to_tell_of_is_taken_back() {
    let at = |at, what| Item { at, what };
    let asks = |waits, limit| Curl {
        host: 0,
        errand: Errand {
            server: 2,
            waits,
            limit,
            attempts: 2,
            works: 140,
        },
    };
    let lag = Lag {
        server: 4,
        by: 735,
        lasts: 2807,
    };
    play_without_violation(&Scenario {
        seed: 820_002_950,
        kind: Kind::Pool(Pool {
            slots: 1,
            expire: 0,
            backend: Backend::ZooKeeper { timeout: 8000 },
            servers: 2,
            shared_names: false,
        }),
        keeper: false,
        voters: 5,
        observers: 0,
        hosts: 2,
        tick: 500,
        timeout: 5000,
        every: None,
        items: vec![
            at(0, lag),
            at(203, asks(false, 0)),
            at(384, asks(true, 1639)),
        ],
    });
}

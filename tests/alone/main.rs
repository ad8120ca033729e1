//! Tests that measure, fill or break so much that nothing may run beside them. Cargo runs one
//! crate after another, and [`alone`] one test of this crate after another.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, path::Path};

// Real ensembles of three: a command survives what it should, else is dead before the next.
mod ensemble;
// `-m` and `-s` wait for a load that the test sets.
mod load;
// `--local` serves a crowd in turn, and refuses folders that cannot be trusted.
mod local_crowd;
// The promises hold on kernels that lack newer system calls.
mod old_kernel;
// One server that is unreachable, frozen or gone, and connections that break at every byte.
mod outage;
// distributexd serves 20,000 waiters in turn, and costs nothing while they wait.
mod server_crowd;
// Many contenders, a seeded nemesis and a checker: no two holders, ever.
mod torture;

/// The command of `common::probe_job`: it is this executable, with this test.
#[test]
fn probe_job_writes_its_token_and_timestamps() {
    common::probe_job::entry();
}

/// Waits until no other test of this crate runs. `RUST_TEST_THREADS=1` does the same, but a plain
/// `cargo test` does not set it for one crate.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner) // a test that failed has had its turn
}

#[test]
fn each_test_of_this_crate_first_waits_until_it_is_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/alone");
    let mut tests = 0;
    for file in fs::read_dir(folder)
        .expect("it is here")
        .map(Result::unwrap)
    {
        if file.file_name() == "main.rs" {
            continue;
        }
        let text = fs::read_to_string(file.path()).expect("source is text");
        for test in text.split("#[test]\n").skip(1) {
            let (head, body) = test.split_once(" {\n").expect("a test has a body");
            assert!(
                body.trim_start()
                    .starts_with("let _alone = crate::alone();"),
                "{head} in {}",
                file.path().display()
            );
            tests += 1;
        }
    }
    assert!(tests > 40, "{tests} tests were found");
}

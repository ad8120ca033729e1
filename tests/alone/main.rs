//! Tests that measure, fill or break so much that nothing may run beside them: each takes a turn.

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

/// The command of `common::life`: it is this executable, with this test.
#[test]
fn a_job_shows_that_it_lives() {
    common::life::entry();
}

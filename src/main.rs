//! The executable `zk-flock`, which is `lockex`, `distributex` and `distributexd` by other names.

use std::process::ExitCode;

fn main() -> ExitCode {
    zk_flock::main()
}

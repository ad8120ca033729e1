//! The executable `zk-flock`; as `lockex`, `distributex` and `distributexd` it is another program.

use std::process::ExitCode;

fn main() -> ExitCode {
    zk_flock::main()
}

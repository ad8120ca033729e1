//! Packages of PyPI, each in its own virtual environment, which later runs reuse.

use super::scratch;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// One environment is made at a time.
static MAKING: Mutex<()> = Mutex::new(());

/// A Python that can import the package.
pub fn with(package: &str) -> PathBuf {
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = scratch().join(package);
    let (python, done) = (folder.join("bin/python"), folder.join("done"));
    if !done.exists() {
        call(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&folder),
        );
        call(Command::new(&python).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            package,
        ]));
        fs::write(done, "").expect("the environment is ours");
    }
    python
}

fn call(command: &mut Command) {
    let output = command.output().expect("it can be started");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

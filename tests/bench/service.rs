//! A server of another project, started for the measurements and killed when this process ends,
//! however that ends.

use common::process;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Runs the words in its folder, prints the pid, and kills it at the end of stdin.
const KEEPER: &str = r#"
trap '' INT QUIT HUP TERM
"$@" </dev/null >>server.log 2>&1 &
echo $!
read -r word
kill -9 $! 2>/dev/null
"#;

/// A running server.
pub struct Service {
    keeper: Child,
    /// Its process.
    pub pid: i32,
}

impl Service {
    /// Starts one, and does not wait until it serves.
    pub fn start(words: &[&str], folder: &Path) -> Service {
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args(words)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh can be started");
        let mut pid = String::new();
        BufReader::new(keeper.stdout.take().expect("stdout is a pipe"))
            .read_line(&mut pid)
            .expect("the keeper prints a line");
        Service {
            keeper,
            pid: pid.trim().parse().expect("and it is a pid"),
        }
    }

    /// Whether it has not ended.
    pub fn runs(&self) -> bool {
        process::alive(self.pid)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.keeper.stdin = None;
        let _ = self.keeper.wait();
    }
}

/// Whether there is a program of this name to start.
pub fn installed(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v -- \"$1\"", "sh", program])
        .stdout(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

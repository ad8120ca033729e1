//! `--metrics` writes the figures of the last run, and never changes how a run ends.

use common::run::exited;
use common::sandbox::Sandbox;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// The value of a metric, whose line has this label as well.
fn value(sandbox: &Sandbox, metric: &str, label: &str) -> String {
    let text = sandbox.read("runs.prom");
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("zk_flock_{metric}{{")) && line.contains(label));
    let line = line.unwrap_or_else(|| panic!("{metric} with {label} in {text}"));
    line.rsplit(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn a_busy_run_keeps_the_figures_of_the_last_command() {
    let sandbox = Sandbox::new();
    let words = |command| {
        [
            "-l",
            "0",
            "-x",
            "9",
            "--metrics",
            "runs.prom",
            "lock",
            command,
        ]
    };
    assert_eq!(sandbox.local(&words("sh -c 'exit 3'")).run(), exited(3));
    let lock = format!("lock=\"{}/lock\"", sandbox.id);
    let figures = [
        "last_exit_code",
        "last_start_timestamp_seconds",
        "last_token",
    ];
    let first = figures.map(|metric| value(&sandbox, metric, &lock));
    assert_eq!(first[0], "3");
    let mode = fs::metadata(sandbox.path("runs.prom"))
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o644);

    let mut holder = sandbox.local(&["-l", "0", "lock", "cat"]).leashed().start();
    holder.job();
    assert_eq!(sandbox.local(&words("true")).run(), exited(9));
    holder.let_go();
    assert_eq!(holder.wait(), exited(0));
    assert_eq!(figures.map(|metric| value(&sandbox, metric, &lock)), first);
    assert_eq!(value(&sandbox, "last_outcome", "outcome=\"busy\""), "1");

    assert_eq!(
        sandbox.local(&words("sh -c 'kill -9 $$'")).run(),
        exited(137)
    );
    assert_eq!(value(&sandbox, "last_exit_code", &lock), "137");
    assert_eq!(value(&sandbox, "runs_total", "outcome=\"ran\""), "2");
    assert_eq!(value(&sandbox, "runs_total", "outcome=\"busy\""), "1");
}

#[test]
fn a_file_that_cannot_be_written_is_one_line_and_leaves_the_exit_code() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("passwd"), "root:x:0:0\n").expect("the sandbox can be written");
    for (file, why) in [
        ("missing/runs.prom", "no such file or directory"),
        ("passwd", "line 1 is not of such a file"),
    ] {
        let words = ["-l", "0", "--metrics", file, "lock", "sh -c 'exit 3'"];
        sandbox
            .local(&words)
            .run()
            .complains(3, &["metrics file", file, why]);
    }
    assert_eq!(sandbox.read("passwd"), "root:x:0:0\n");
    let refused = sandbox.local(&["--metrics", "runs/", "lock", "true"]).run();
    refused.complains(2, &["--metrics: expected a file"]);
}

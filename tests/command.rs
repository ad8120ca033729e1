//! A command that is none: empty, unbalanced in its quotes, not there, not executable, a folder. All of it is known before anything is locked.

mod common;

use common::run::exited;
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn no_command_is_exit_1_with_the_usage() {
    let sandbox = Sandbox::new();
    for (words, why) in [
        (&[][..], "lock name and command are missing"),
        (&["lock"], "the command is missing"),
        (&["lock", "--"], "the command is missing"),
        (&["lock", ""], "the command is empty"),
        (&["lock", " \t "], "the command is empty"),
        (&["lock", "echo", "one"], "found 3 words"),
    ] {
        for (options, code) in [(&[][..], 1), (&["--sysexits"], 64)] {
            let outcome = sandbox.flock(ZooKeeper::shared(), &[options, words].concat()).run();
            assert_eq!((outcome.end, outcome.stdout.as_str()), (Ok(code), ""), "{words:?}");
            let (first, usage) = outcome.stderr.split_once('\n').expect("two lines");
            assert!(first.starts_with("zk-flock: ") && first.contains(why), "{first}");
            assert!(usage.starts_with("Usage: zk-flock [options] LOCKNAME COMMAND"), "{usage}");
        }
    }
}

#[test]
fn a_command_that_cannot_be_split_is_a_usage_error() {
    let sandbox = Sandbox::new();
    for (command, why) in [("echo 'one", "no closing '"), ("echo \"one", "no closing \""), ("echo one\\", "last backslash")] {
        sandbox.flock(ZooKeeper::shared(), &["lock", command]).run().complains(2, &["cannot split the command", why]);
        sandbox.flock(ZooKeeper::shared(), &["--sysexits", "lock", "--", command]).run().complains(64, &[why]);
    }
}

#[test]
fn a_command_is_split_as_a_shell_splits_words_and_no_further() {
    let sandbox = Sandbox::new();
    let command = r#"printf '<%s>' one "two  three" four\ five '' "it's" '$HOME *' "a\"b""#;
    let run = sandbox.flock(ZooKeeper::shared(), &["-l", "0", "lock", command]).run();
    assert_eq!(run, exited(0).printing(r#"<one><two  three><four five><><it's><$HOME *><a"b>"#));
}

#[test]
fn what_cannot_be_run_is_127_or_126_and_the_lock_is_never_taken() {
    let sandbox = Sandbox::new();
    let mut client = sandbox.client(ZooKeeper::shared());
    for (name, mode, content) in [("data", 0o644, "x"), ("garbage", 0o755, "\0\0garbage"), ("lost", 0o755, "#!/no/such/interpreter\n")] {
        fs::write(sandbox.path(name), content).unwrap();
        fs::set_permissions(sandbox.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    client.watch(&sandbox.node("lock"));
    for (command, code) in
        [("no-such-command", 127), ("./missing", 127), ("''", 127), ("./data/below", 127), ("./data", 126), ("/", 126), (".", 127)]
    {
        for options in [&[][..], &["--sysexits", "-x", "17"]] {
            let outcome = sandbox.flock(ZooKeeper::shared(), &[options, &["lock", command]].concat()).run();
            outcome.complains(code, &["cannot run"]);
        }
    }
    for (command, code) in [("no-such-command", 127), ("/", 126)] {
        sandbox.flock(ZooKeeper::shared(), &["-d", "lock", command]).run().complains(code, &["cannot run"]);
    }
    assert!(!sandbox.log().contains("connected"), "{}", sandbox.log());
    for (command, code) in [("./garbage", 126), ("./lost", 127)] {
        let outcome = sandbox.flock(ZooKeeper::shared(), &["-l", "0", "lock", command]).run();
        outcome.complains(code, &["cannot run", command]);
        assert!(client.stat(&sandbox.node("lock")).is_none(), "what only exec can know leaves no lock behind");
    }
}

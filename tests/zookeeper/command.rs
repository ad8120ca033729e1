//! A command that is none: empty, unbalanced in its quotes, not there, not executable, a folder.
//! All of it is known before anything is locked.

use common::pty::Terminal;
use common::run::exited;
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_missing_command_exits_1_with_the_usage() {
    let sandbox = Sandbox::new();
    for (words, why) in [
        (&[][..], "lock name and command are missing"),
        (&["lock"], "the command is missing"),
        (&["lock", "--"], "the command is missing"),
        (&["lock", ""], "the command is empty"),
        (&["lock", " \t "], "the command is empty"),
        (&["lock", "echo", "one"], "found 3 words; use: zk-flock "),
        (
            &["lock", "tail", "-n", "5", "/etc/hostname"],
            " lock -- tail -n 5 /etc/hostname",
        ),
    ] {
        for (options, code) in [(&[][..], 1), (&["--sysexits"], 64)] {
            let outcome = sandbox
                .flock(ZooKeeper::shared(), &[options, words].concat())
                .run();
            assert_eq!(
                (outcome.end, outcome.stdout.as_str()),
                (Ok(code), ""),
                "{words:?}"
            );
            let (first, usage) = outcome.stderr.split_once('\n').expect("two lines");
            assert!(
                first.starts_with("zk-flock: ") && first.contains(why),
                "{first}"
            );
            assert!(
                usage.starts_with("Usage: zk-flock [options] LOCKNAME COMMAND"),
                "{usage}"
            );
        }
    }
}

#[test]
fn a_command_that_cannot_be_split_is_a_usage_error() {
    let sandbox = Sandbox::new();
    for (command, why) in [
        ("echo 'one", "no closing '"),
        ("echo \"one", "no closing \""),
        ("echo one\\", "last backslash"),
    ] {
        sandbox
            .flock(ZooKeeper::shared(), &["lock", command])
            .run()
            .complains(2, &["cannot split the command", why]);
        sandbox
            .flock(ZooKeeper::shared(), &["--sysexits", "lock", "--", command])
            .run()
            .complains(64, &[why]);
    }
}

#[test]
fn a_command_is_split_as_a_shell_splits_words_and_no_further() {
    let sandbox = Sandbox::new();
    let command = r#"printf '<%s>' one "two  three" four\ five '' "it's" '$HOME *' "a\"b""#;
    let run = sandbox
        .flock(ZooKeeper::shared(), &["-l", "0", "lock", command])
        .run();
    assert_eq!(
        run,
        exited(0).printing(r#"<one><two  three><four five><><it's><$HOME *><a"b>"#)
    );
}

#[test]
fn shell_syntax_without_a_shell_is_a_warning_and_passed_unchanged() {
    let sandbox = Sandbox::new();
    for (command, printed, word) in [
        ("echo hi && echo ho", "hi && echo ho\n", "&&"),
        ("echo $HOME", "$HOME\n", "$HOME"),
        ("echo a > b", "a > b\n", ">"),
    ] {
        let outcome = sandbox
            .flock(ZooKeeper::shared(), &["-l", "0", "lock", command])
            .run();
        assert_eq!(
            (outcome.end, outcome.stdout.as_str()),
            (Ok(0), printed),
            "{command}"
        );
        let line = format!("end the line with: lock -- sh -c '{command}'");
        outcome.complaint(&[
            "WARNING: the command runs without a shell",
            &format!("gets \"{word}\" as an argument"),
            &line,
        ]);
    }
    for words in [
        &["lock", "echo '$HOME' \"&&\""][..],
        &["lock", "--", "echo", "$HOME", "&&"],
    ] {
        let outcome = sandbox
            .flock(ZooKeeper::shared(), &["-l", "0"])
            .words(words)
            .run();
        assert_eq!(outcome, exited(0).printing("$HOME &&\n"), "{words:?}");
    }
    let builtin = sandbox
        .flock(ZooKeeper::shared(), &["lock", "shopt -s extglob"])
        .run();
    builtin.complains(
        127,
        &[
            "cannot run shopt: not found on PATH",
            "runs without a shell",
            "-- sh -c 'shopt -s extglob'",
        ],
    );
}

#[test]
fn an_error_in_options_after_the_command_shows_the_corrected_line() {
    let sandbox = Sandbox::new();
    for (words, code, facts) in [
        (
            &["lock", "ls", "-la"][..],
            2,
            ["--minlocktime: expected seconds", " lock -- ls -la"],
        ),
        (
            &["lock", "grep", "--color", "a b"],
            2,
            ["invalid option '--color'", " lock -- grep --color 'a b'"],
        ),
        (
            &["--wiat", "5", "lock", "true"],
            2,
            ["invalid option '--wiat'", "(did you mean --wait?)"],
        ),
        (
            &["--config=x", "lock", "true"],
            2,
            ["invalid option '--config'", "(did you mean --confpath?)"],
        ),
    ] {
        sandbox
            .flock(ZooKeeper::shared(), words)
            .run()
            .complains(code, &facts);
    }
    let distributex = sandbox
        .program(&["--program=distributex", "-H", "h", "-r", "p", "ls", "-la"])
        .run();
    distributex.complaint_of(
        "distributex",
        &["invalid option '-a'", "use: distributex -H h -r p 'ls -la'"],
    );
}

#[test]
fn an_option_after_a_command_of_one_word_is_a_hint_at_a_terminal_and_only_there() {
    let sandbox = Sandbox::new();
    let words = ["--local=.", "-l", "0", "lock", "true", "-x", "5"];
    assert_eq!(sandbox.program(&words).run(), exited(0));
    let mut terminal = Terminal::open(&sandbox);
    let line = sandbox.program(&words).line();
    terminal.enter(&format!("{line}; echo code=$?"));
    terminal.wait_for("code=0");
    let hint = "zk-flock: hint: -x stands after the command, but is an option of zk-flock; to pass it to true, use: \
                zk-flock --local=. -l 0 lock -- true -x 5";
    assert!(
        terminal.screen().replace("\r\n", "").contains(hint),
        "{}",
        terminal.screen()
    );
    terminal.enter(&format!("{line} 2>/dev/null; echo code=$(($? + 1))"));
    terminal.wait_for("code=1");
    assert_eq!(terminal.screen().matches("zk-flock: hint:").count(), 1);
}

#[test]
fn a_command_that_cannot_run_exits_127_or_126_and_the_lock_is_never_taken() {
    let sandbox = Sandbox::new();
    let mut client = sandbox.client(ZooKeeper::shared());
    for (name, mode, content) in [
        ("data", 0o644, "x"),
        ("garbage", 0o755, "\0\0garbage"),
        ("lost", 0o755, "#!/no/such/interpreter\n"),
    ] {
        fs::write(sandbox.path(name), content).unwrap();
        fs::set_permissions(sandbox.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    client.watch(&sandbox.node("lock"));
    for (command, code) in [
        ("no-such-command", 127),
        ("./missing", 127),
        ("''", 127),
        ("./data/below", 127),
        ("./data", 126),
        ("/", 126),
        (".", 127),
    ] {
        for options in [&[][..], &["--sysexits", "-x", "17"]] {
            let outcome = sandbox
                .flock(ZooKeeper::shared(), &[options, &["lock", command]].concat())
                .run();
            outcome.complains(code, &["cannot run"]);
        }
    }
    for (command, code) in [("no-such-command", 127), ("/", 126)] {
        sandbox
            .flock(ZooKeeper::shared(), &["-d", "lock", command])
            .run()
            .complains(code, &["cannot run"]);
    }
    assert!(!sandbox.log().contains("connected"), "{}", sandbox.log());
    for (command, code) in [("./garbage", 126), ("./lost", 127)] {
        let outcome = sandbox
            .flock(ZooKeeper::shared(), &["-l", "0", "lock", command])
            .run();
        outcome.complains(code, &["cannot run", command]);
        assert!(
            client.stat(&sandbox.node("lock")).is_none(),
            "what only exec can know leaves no lock behind"
        );
    }
}

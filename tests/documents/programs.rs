//! One file, several programs: the name it is called by picks one, or the first word does.

use common::run::{Job, exited};
use common::sandbox::{Sandbox, executable};
use std::os::unix::fs::symlink;

/// Every name, and how its help begins.
const PROGRAMS: [(&str, &str); 4] = [
    ("zk-flock", "Usage: zk-flock "),
    ("lockex", "Usage: lockex "),
    ("distributex", "Usage: distributex "),
    ("distributexd", "Usage: distributexd "),
];

#[test]
fn the_name_of_a_link_picks_the_program_and_any_other_name_is_zk_flock() {
    let sandbox = Sandbox::new();
    for (link, name) in PROGRAMS
        .map(|(name, _)| (name, name))
        .into_iter()
        .chain([("my-lock", "zk-flock"), ("lockex2", "zk-flock")])
    {
        let link = sandbox.path(link);
        symlink(executable(), &link).expect("a link can be made");
        let outcome = Job::new(&sandbox, &link).words(&["--version"]).run();
        let version = format!("{name} {}", env!("CARGO_PKG_VERSION"));
        let commit = outcome
            .stdout
            .strip_prefix(&version)
            .unwrap_or_else(|| panic!("{outcome:?}"))
            .to_owned();
        assert!(
            commit == "\n" || commit.starts_with(" (") && commit.ends_with(")\n"),
            "{outcome:?}"
        );
        assert_eq!(outcome, exited(0).printing(&format!("{version}{commit}")));
    }
}

#[test]
fn the_first_word_picks_the_program_whatever_the_link_is_called() {
    let sandbox = Sandbox::new();
    let link = sandbox.path("lockex");
    symlink(executable(), &link).expect("a link can be made");
    for program in [executable(), link] {
        for (name, usage) in PROGRAMS {
            let help = Job::new(&sandbox, &program)
                .words(&[&format!("--program={name}"), "--help"])
                .run();
            assert_eq!((help.end, help.stderr.as_str()), (Ok(0), ""));
            assert!(help.stdout.starts_with(usage), "{}", help.stdout);
        }
    }
    sandbox
        .program(&["--program=flock", "--help"])
        .run()
        .complains(2, &["--program: expected zk-flock or lockex or distributex or distributexd, found \"flock\""]);
}

#[test]
fn lockex_says_what_is_wrong_in_one_line_and_without_a_command_how_it_is_used() {
    let sandbox = Sandbox::new();
    let lockex = |words: &[&str]| {
        sandbox
            .program(&[&["--program=lockex"], words].concat())
            .env("ZKHOSTS", ":1")
    };
    for (words, code, stderr) in [
        (
            &["ls", "-l"][..],
            2,
            "lockex: invalid option '-l'; to pass options to the command, use: lockex -- ls -l\n",
        ),
        (
            &["-i", "", "true"],
            2,
            "lockex: lock id \"\": it is empty\n",
        ),
        (
            &["true"],
            2,
            "lockex: ZKHOSTS: \":1\" is not HOST:PORT: the host is missing\n",
        ),
        (
            &["--sysexits", "true"],
            64,
            "lockex: ZKHOSTS: \":1\" is not HOST:PORT: the host is missing\n",
        ),
        (
            &["-z", "h:x", "true"],
            2,
            "lockex: --zkhosts: \"h:x\" is not HOST:PORT: the port \"x\" is not a number from 1 to 65535\n",
        ),
        (
            &["-t", "1"],
            1,
            "lockex: the command is missing\nUsage: lockex [options] [--] COMMAND [ARG...]\n       lockex [options] --status [COMMAND...] | --break [COMMAND...] | --check\n",
        ),
        (
            &["--no-shell", "-z", "h", "--", "./missing", "word"],
            127,
            "lockex: cannot run ./missing: no such file\n",
        ),
    ] {
        let outcome = lockex(words).run();
        assert_eq!(
            (
                outcome.end,
                outcome.stdout.as_str(),
                outcome.stderr.as_str()
            ),
            (Ok(code), "", stderr),
            "{words:?}"
        );
    }
}

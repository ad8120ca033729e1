//! Completion in bash: what is offered is what the program's own help has. packaging/check looks at
//! the other shells.

use common::run::Job;
use common::sandbox::{Sandbox, executable};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use zk_flock::internals::cli::{distributex, distributexd, lockex, zk_flock as flock};

const COMPLETION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/completions/bash");

/// Every name, and its help.
const PROGRAMS: [(&str, &str); 4] = [
    (flock::PROGRAM.name, flock::PROGRAM.help),
    (lockex::PROGRAM.name, lockex::PROGRAM.help),
    (distributex::PROGRAM.name, distributex::PROGRAM.help),
    (distributexd::PROGRAM.name, distributexd::PROGRAM.help),
];

/// Completes the last of its words as bash would, and prints what there is to choose from;
/// `compopt` works while somebody types.
const COMPLETE: &str = r#"
source "$0"
compopt() { :; }
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_zk_flock "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// What is offered at the end of a line, whose words are as bash cuts them: `=` is one of its own.
/// Links of the programs are in the sandbox.
fn offered(sandbox: &Sandbox, words: &[&str]) -> BTreeSet<String> {
    let path = format!("{}:/usr/bin:/bin", sandbox.folder.display());
    let outcome = Job::new(sandbox, Path::new("bash"))
        .words(&["-c", COMPLETE, COMPLETION])
        .words(words)
        .env("PATH", &path)
        .run();
    assert_eq!(
        (outcome.end, outcome.stderr.as_str()),
        (Ok(0), ""),
        "{words:?}"
    );
    outcome
        .stdout
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A sandbox with all names of the program in it.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    for (name, _) in PROGRAMS {
        symlink(executable(), sandbox.path(name)).expect("a link can be made");
    }
    sandbox
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[test]
fn all_options_of_the_helps_are_offered_and_no_others() {
    let sandbox = sandbox();
    for (name, help) in PROGRAMS {
        let options = help
            .lines()
            .map(str::trim_start)
            .filter(|line| line.starts_with('-'));
        let names = options.flat_map(|line| {
            line.split("  ")
                .next()
                .unwrap_or(line)
                .split([' ', ',', '=', '['])
        });
        let expected: BTreeSet<_> = names
            .filter(|word| word.starts_with('-'))
            .map(str::to_owned)
            .collect();
        assert!(expected.len() > 10, "{expected:?}");
        assert_eq!(offered(&sandbox, &[name, "-"]), expected);
    }
    assert_eq!(
        offered(&sandbox, &["zk-flock", "-x", "1", "--conf"]),
        set(&["--confpath"])
    );
}

#[test]
fn values_are_offered_by_their_kind() {
    let sandbox = sandbox();
    fs::write(sandbox.path("config.json"), "").expect("the sandbox can be written");
    fs::create_dir(sandbox.path("config.d")).expect("the sandbox can be written");
    for (words, expected) in [
        (&["-c", "conf"][..], &["config.json", "config.d"][..]),
        (&["--confpath", "=", "config.j"], &["config.json"]),
        (&["--local", "=", "conf"], &["config.d"]),
        (&["-p", "TER"], &["SIGTERM"]),
        (&["--pdeathsig", "SIGTER"], &["SIGTERM"]),
        (&["-w", ""], &[]),
    ] {
        assert_eq!(
            offered(&sandbox, &[&["zk-flock"], words].concat()),
            set(expected),
            "{words:?}"
        );
    }
}

#[test]
fn commands_are_offered_where_they_stand() {
    let sandbox = sandbox();
    assert_eq!(offered(&sandbox, &["distributexd", "zk-fl"]), set(&[]));
    for words in [
        &["zk-flock", "NAME", "zk-fl"][..],
        &["zk-flock", "NAME", "--", "zk-fl"],
        &["lockex", "-c", "3", "--", "zk-fl"],
    ] {
        assert_eq!(offered(&sandbox, words), set(&["zk-flock"]), "{words:?}");
    }
}

//! Imports point down, and the pure layers do no I/O.
//!
//! [`LAYERS`] lists the modules of the library from the lowest to the highest. A module imports
//! only modules that stand before it, so the modules form no circle. A module of a pure layer calls
//! no system call, opens no socket or file, reads no clock and writes no log: it is a function of
//! its inputs and of `now`, and a test can drive it.

use std::fs;
use std::path::{Path, PathBuf};

struct Layer {
    name: &'static str,
    pure: bool,
    /// From the lowest to the highest.
    modules: &'static [&'static str],
}

const LAYERS: &[Layer] = &[
    Layer {
        name: "vocabulary",
        pure: true,
        modules: &[
            "moment",
            "signal",
            "transport",
            "deadlines",
            "delivery",
            "endpoint",
            "kill_rounds",
            "edit_distance",
            "printable",
            "shell",
            "in_file",
            "reason",
            "fact",
        ],
    },
    Layer {
        name: "plan",
        pure: true,
        modules: &["plan", "config", "cli"],
    },
    Layer {
        name: "protocols",
        pure: true,
        modules: &["zookeeper", "http"],
    },
    Layer {
        name: "state machines",
        pure: true,
        modules: &[
            "lock",
            "guard",
            "supervisor",
            "pool",
            "oneshot",
            "status",
            "probe",
            "eviction",
            "notify",
            "textfile",
        ],
    },
    Layer {
        name: "system calls",
        pure: false,
        modules: &["sys"],
    },
    Layer {
        name: "effects",
        pure: false,
        modules: &[
            "log",
            "link",
            "service_manager",
            "prepare",
            "run",
            "serve",
            "program",
        ],
    },
];

/// What a pure module must not name, and the modules that are excepted, each with its reason.
const EFFECTS: &[(&str, &[&str])] = &[
    ("libc", &[]),
    ("unsafe", &[]),
    ("std::fs", &["cli"]), // an options parser that reads the config file that the options name
    ("std::env", &[]),
    ("std::process", &[]),
    ("std::thread", &[]),
    ("TcpStream", &[]),
    ("TcpListener", &[]),
    ("UdpSocket", &[]),
    ("std::os::fd", &[]),
    ("UnixStream", &[]),
    ("UnixDatagram", &[]),
    ("ToSocketAddrs", &[]),
    ("Instant", &[]),
    ("SystemTime", &[]),
    ("println!", &[]),
    ("eprintln!", &[]),
    ("dbg!", &[]),
];

#[test]
fn imports_point_down_and_pure_layers_do_no_io() {
    let faults: Vec<_> = sources()
        .iter()
        .flat_map(|(module, path, text)| {
            let path = path.display();
            faults(module, text).map(move |fault| format!("{path}: {fault}"))
        })
        .collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_module_of_the_library_has_a_layer() {
    let library = fs::read_to_string(source_folder().join("lib.rs")).unwrap();
    let mut declared: Vec<_> = library
        .lines()
        .filter_map(|line| line.strip_suffix(';')?.rsplit_once("mod ")?.1.into())
        .filter(|module: &&str| !TEST_MODULES.contains(module))
        .collect();
    let mut listed: Vec<_> = LAYERS
        .iter()
        .flat_map(|layer| layer.modules)
        .copied()
        .collect();
    declared.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, declared);
}

#[test]
fn a_violation_is_found() {
    for (module, text, fault) in [
        ("zookeeper", "use crate::lock::Lock;", "imports lock"),
        (
            "supervisor",
            "use crate::{moment::Moment, run};",
            "imports run",
        ),
        (
            "lock",
            "fn f() { crate::sys::clock::now(); }",
            "imports sys",
        ),
        ("pool", "use std::time::Instant;", "names Instant"),
        (
            "guard",
            "fn f() { unsafe { libc::getpid() } }",
            "names libc",
        ),
        ("signal", "use crate::plan::Plan;", "imports plan"),
    ] {
        let found: Vec<_> = faults(module, text).collect();
        assert!(found[0].contains(fault), "{module}: {found:?}");
    }
    let fine = "use crate::moment::Moment; // crate::run\n#[cfg(test)]\nmod tests {\n    use crate::sys;\n}\n";
    assert_eq!(faults("lock", fine).count(), 0);
}

/// The modules of `lib.rs` that only tests use, above all layers.
const TEST_MODULES: &[&str] = &["internals", "testing"];

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Each source file that is built into the program: its module, its path and its text.
fn sources() -> Vec<(String, PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![source_folder()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !is_test(&path) {
                let within = path.strip_prefix(source_folder()).unwrap();
                let module = within.iter().next().unwrap().to_str().unwrap();
                let module = module.trim_end_matches(".rs").to_owned();
                if !["lib", "main"].contains(&&*module) && !TEST_MODULES.contains(&&*module) {
                    let text = fs::read_to_string(&path).unwrap();
                    found.push((module, path, text));
                }
            }
        }
    }
    assert!(found.len() > 100, "only {} files", found.len());
    found
}

/// Whether the file is declared under `#[cfg(test)]` by the file above it.
fn is_test(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_str().unwrap();
    let folder = path.parent().unwrap();
    [folder.join("mod.rs"), folder.with_extension("rs")]
        .iter()
        .filter_map(|parent| fs::read_to_string(parent).ok())
        .any(|parent| parent.contains(&format!("#[cfg(test)]\nmod {name};")))
}

/// What is wrong with the text of a file of `module`.
fn faults<'a>(module: &'a str, text: &str) -> impl Iterator<Item = String> + use<'a> {
    let text = program_text(text);
    let layer = LAYERS.iter().find(|layer| layer.modules.contains(&module));
    let layer = layer.unwrap_or_else(|| panic!("{module} has no layer"));
    let below: Vec<_> = LAYERS
        .iter()
        .flat_map(|layer| layer.modules)
        .take_while(|other| **other != module)
        .collect();
    let effect = |name: &str| {
        let sys = ["sys", "log", "link"].contains(&name);
        layer.pure && sys
    };
    let up: Vec<_> = imports(&text)
        .into_iter()
        .filter(|name| *name != module)
        .filter(|name| !below.contains(&&&**name) || effect(name))
        .map(|name| format!("{module} ({}) imports {name}", layer.name))
        .collect();
    let effects: Vec<_> = EFFECTS
        .iter()
        .filter(|(effect, except)| layer.pure && !except.contains(&module) && has(&text, effect))
        .map(|(effect, _)| format!("{module} ({}) names {effect}", layer.name))
        .collect();
    up.into_iter().chain(effects)
}

/// The text without comments and without test modules.
fn program_text(text: &str) -> String {
    let mut program = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let opens = |line: &&str| line.starts_with("mod ") && line.ends_with('{');
        if line == "#[cfg(test)]" && lines.next_if(opens).is_some() {
            lines.by_ref().find(|line| *line == "}");
            continue;
        }
        let code = match line.find("//") {
            Some(0) => "",
            Some(at) if line.as_bytes()[at - 1] != b':' => &line[..at],
            _ => line,
        };
        program.push_str(code);
        program.push('\n');
    }
    program
}

/// The modules of the library that the text names after `crate::`, one by one or in braces.
fn imports(text: &str) -> Vec<String> {
    let identifier = |text: &str| -> String {
        let is_part = |letter: &char| letter.is_alphanumeric() || *letter == '_';
        text.trim_start().chars().take_while(is_part).collect()
    };
    let mut found = Vec::new();
    for (_, rest) in text
        .match_indices("crate::")
        .map(|(at, path)| text.split_at(at + path.len()))
    {
        let Some(group) = rest.strip_prefix('{') else {
            found.push(identifier(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (at, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' | ',' if depth == 0 => {
                    found.push(identifier(&group[start..at]));
                    start = at + 1;
                    if letter == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    let is_module = |name: &String| name.starts_with(char::is_lowercase) && *name != "main";
    found.retain(is_module);
    found
}

/// Whether the text has the word, not as part of a longer one.
fn has(text: &str, word: &str) -> bool {
    let part = |letter: Option<char>| letter.is_some_and(|l| l.is_alphanumeric() || l == '_');
    text.match_indices(word).any(|(at, _)| {
        !part(text[..at].chars().next_back()) && !part(text[at + word.len()..].chars().next())
    })
}

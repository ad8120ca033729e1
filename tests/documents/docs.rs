//! Help, parser, manual pages, README and crate doc say the same: option by option, code by code,
//! key by key, file by file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use zk_flock::internals::cli::{
    Environment, Error, Request, distributex, distributexd, lockex, zk_flock as flock,
};
use zk_flock::internals::config::{Config, server};
use zk_flock::internals::plan::{Backend, Exit, ExitReason, Host};
use zk_flock::internals::shell::words;

const README: &str = include_str!("../../README.md");
const CONFIG_MANUAL: &str = include_str!("../../man/distributed-flock.json.5");
/// The parser of the options that all programs share.
const COMMON: &str = include_str!("../../src/cli/options.rs");
const CONFIG: &str = include_str!("../../src/config.rs");
const SERVER_MANUAL: &str = include_str!("../../man/distributexd.8");
const COOKBOOK: &str = include_str!("../../man/zk-flock-cookbook.7");
const MIGRATION: &str = include_str!("../../man/zk-flock-migration.7");
const SAFETY: &str = include_str!("../../man/zk-flock-safety.7");
const SERVER_CONFIG: &str = include_str!("../../src/config/server.rs");

/// A program, and all that is said of its words.
struct Program {
    name: &'static str,
    help: &'static str,
    /// Source of the parser of its own options.
    parser: &'static str,
    manual: &'static str,
    request: fn(Vec<OsString>, &Environment) -> Result<Request, Error>,
    /// Words that make any others independent of the machine.
    given: &'static [&'static str],
    /// Words whose runs have exit codes of their own.
    runs: &'static [&'static str],
    /// Ends that its runs cannot have.
    never: &'static [ExitReason],
    /// Words that are wrong, and words that only the row of their exit code has.
    misuses: &'static [(&'static str, &'static str)],
}

const ZK_FLOCK: Program = Program {
    name: flock::PROGRAM.name,
    help: flock::PROGRAM.help,
    parser: include_str!("../../src/cli/zk_flock.rs"),
    manual: include_str!("../../man/zk-flock.1"),
    request: flock::PROGRAM.request,
    given: &[
        "-c",
        concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/data/published-sample.json"
        ),
    ],
    runs: &["NAME true"],
    never: &[],
    misuses: &[
        ("NAME", "lock name is missing"),
        ("--bogus", "an option is wrong"),
        ("a/../b true", "the lock name is invalid"),
        ("-c /nowhere NAME true", "the config is missing"),
    ],
};

const LOCKEX: Program = Program {
    name: lockex::PROGRAM.name,
    help: lockex::PROGRAM.help,
    parser: include_str!("../../src/cli/lockex.rs"),
    manual: include_str!("../../man/lockex.1"),
    request: lockex::PROGRAM.request,
    given: &[],
    runs: &["true", "--no-blocking true"],
    never: &[ExitReason::LoadTooHigh, ExitReason::ConfigError],
    misuses: &[
        ("", "the command is missing"),
        ("--bogus", "an option is wrong"),
        ("-i a/../b true", "cannot have this id"),
    ],
};

const DISTRIBUTEX: Program = Program {
    name: distributex::PROGRAM.name,
    help: distributex::PROGRAM.help,
    parser: include_str!("../../src/cli/distributex.rs"),
    manual: include_str!("../../man/distributex.1"),
    request: distributex::PROGRAM.request,
    given: &["-H", "dx", "-r", "pool"],
    runs: &["true", "-w 0 true"],
    never: &[
        ExitReason::AlreadyRun,
        ExitReason::LoadTooHigh,
        ExitReason::ConfigError,
    ],
    misuses: &[
        ("", "the command is missing"),
        ("--bogus", "an option is wrong"),
        ("true true", "too many words"),
    ],
};

const PROGRAMS: [Program; 3] = [ZK_FLOCK, LOCKEX, DISTRIBUTEX];

impl Program {
    /// What a line asks for.
    fn ask(&self, line: &str) -> Result<Request, Error> {
        let words = words::split(line.as_ref()).expect("quotes are closed");
        let words = self.given.iter().map(OsString::from).chain(words).collect();
        (self.request)(
            words,
            &Environment {
                current_dir: "/".into(),
                ..Environment::default()
            },
        )
    }
}

/// An option as a document has it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Described {
    /// `-c` and `--confpath`.
    names: Vec<String>,
    /// What its value is called, in capitals.
    value: Option<String>,
    /// Whether the value may be missing.
    optional: bool,
}

/// The options that a help has.
fn described(help: &str) -> Vec<Described> {
    let options = help
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'));
    options
        .map(|line| {
            let option = line.split("  ").next().unwrap_or(line);
            let words = option
                .split([' ', ',', '=', '[', ']'])
                .filter(|word| !word.is_empty())
                .map(str::to_owned);
            let (names, values): (Vec<_>, Vec<_>) = words.partition(|word| word.starts_with('-'));
            Described {
                names,
                value: values.into_iter().next(),
                optional: option.contains("[="),
            }
        })
        .collect()
}

/// The options that have a row of their own in a manual page.
fn rows(manual: &str) -> Vec<Described> {
    let rows = section(manual, "DESCRIPTION")
        .into_iter()
        .filter(|line| line.starts_with(".It Fl "));
    rows.map(|row| Described {
        names: flags(row).collect(),
        value: after(row, "Ar").map(str::to_uppercase).next(),
        optional: row.contains(" Op "),
    })
    .collect()
}

/// The options that a parser's arms take.
fn parser(source: &str) -> Vec<Described> {
    let between = |line: &str, open: &str, close: &str| {
        line.split_once(open)?
            .1
            .split_once(close)
            .map(|(name, _)| name.to_owned())
    };
    let mut lines = source.lines();
    let arms = std::iter::from_fn(|| {
        let mut arm = lines.find(|line| line.contains("=>"))?.to_owned();
        if arm.ends_with('{') {
            let indent = arm.len() - arm.trim_start().len();
            let close = format!("{:indent$}}}", "");
            lines
                .by_ref()
                .take_while(|line| *line != close)
                .for_each(|line| arm.push_str(line));
        }
        Some(arm)
    });
    let arms = arms.map(|line| {
        let line = line.as_str();
        let short = between(line, "Short('", "')").map(|letter| format!("-{letter}"));
        let long = between(line, "Long(\"", "\")").map(|name| format!("--{name}"));
        Described {
            names: short.into_iter().chain(long).collect(),
            value: line.contains("parser").then(|| "VALUE".to_owned()),
            optional: line.contains("optional_value"),
        }
    });
    arms.filter(|option| !option.names.is_empty()).collect()
}

/// The lines of a section of a manual page.
fn section<'a>(page: &'a str, title: &str) -> Vec<&'a str> {
    let lines = page
        .lines()
        .skip_while(|line| *line != format!(".Sh {title}"))
        .skip(1);
    lines.take_while(|line| !line.starts_with(".Sh ")).collect()
}

/// The words that a macro stands before.
fn after<'a>(line: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let words = line.strip_prefix('.').unwrap_or_default().split(' ');
    words
        .clone()
        .zip(words.skip(1))
        .filter(move |(before, _)| *before == name)
        .map(|(_, word)| word)
}

/// The options that a line names; `Fl dsv` is three of them, `Fl -` none.
fn flags(line: &str) -> impl Iterator<Item = String> {
    after(line, "Fl")
        .filter(|flag| *flag != "-")
        .flat_map(|flag| match flag.strip_prefix('-') {
            Some(long) => vec![format!("--{long}")],
            None => flag.chars().map(|letter| format!("-{letter}")).collect(),
        })
}

/// Every option of a program but `--program`, which is main's.
fn own(program: &Program) -> impl Iterator<Item = Described> {
    described(program.help)
        .into_iter()
        .filter(|option| option.names != ["--program"])
}

#[test]
fn the_parsers_take_the_options_of_the_helps_in_their_order() {
    for program in PROGRAMS {
        let expected = own(&program).map(|option| Described {
            value: option.value.map(|_| "VALUE".into()),
            ..option
        });
        let here = parser(program.parser);
        let taken: BTreeSet<_> = here.iter().flat_map(|option| &option.names).collect();
        let there: Vec<_> = parser(COMMON)
            .into_iter()
            .filter(|option| option.names.iter().all(|name| !taken.contains(name)))
            .collect();
        let expected: (Vec<_>, Vec<_>) = expected.partition(|option| here.contains(option));
        assert_eq!((here, there), expected, "{}", program.name);
    }
}

#[test]
fn the_manuals_have_the_options_of_the_helps_in_their_order() {
    for program in PROGRAMS {
        assert_eq!(
            rows(program.manual),
            described(program.help),
            "{}",
            program.name
        );
    }
}

#[test]
fn the_manuals_name_no_other_options() {
    let manuals = [
        (ZK_FLOCK.manual, ZK_FLOCK),
        (CONFIG_MANUAL, ZK_FLOCK),
        (LOCKEX.manual, LOCKEX),
        (DISTRIBUTEX.manual, DISTRIBUTEX),
    ];
    for (manual, program) in manuals {
        let known: BTreeSet<_> = described(program.help)
            .into_iter()
            .flat_map(|option| option.names)
            .collect();
        let named: BTreeSet<_> = manual.lines().flat_map(flags).collect();
        assert_eq!(
            named.difference(&known).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "{}",
            program.name
        );
    }
}

#[test]
fn the_guides_name_options_that_a_program_has() {
    let known: BTreeSet<_> = [
        ZK_FLOCK.help,
        LOCKEX.help,
        DISTRIBUTEX.help,
        distributexd::PROGRAM.help,
    ]
    .into_iter()
    .flat_map(described)
    .flat_map(|option| option.names)
    .chain(["-M".into(), "--collector".into()]) // of memcached and node_exporter
    .collect();
    for guide in [COOKBOOK, MIGRATION, SAFETY] {
        let named: BTreeSet<_> = guide.lines().flat_map(flags).collect();
        assert_eq!(
            named.difference(&known).collect::<Vec<_>>(),
            Vec::<&String>::new()
        );
    }
}

#[test]
fn the_manuals_refer_to_pages_that_are_there() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let pages: BTreeSet<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    for page in &pages {
        let text = fs::read_to_string(folder.join(page)).unwrap();
        for (_, reference) in text.lines().filter_map(|line| line.split_once("Xr ")) {
            let mut words = reference.split(' ');
            let (name, section) = (words.next().unwrap(), words.next().unwrap());
            let others = [
                "curl",
                "flock",
                "make",
                "nohup",
                "ps",
                "sd_listen_fds",
                "ssh",
                "ssh_config",
                "sd_notify",
                "systemd-tmpfiles",
                "systemd.socket",
                "timeout",
            ];
            assert!(
                others.contains(&name) || pages.contains(&format!("{name}.{section}")),
                "{page}: {reference}"
            );
        }
    }
}

#[test]
fn the_synopses_name_all_options() {
    for program in PROGRAMS {
        let synopsis: Vec<_> = section(program.manual, "SYNOPSIS")
            .into_iter()
            .flat_map(flags)
            .collect();
        for option in own(&program) {
            assert!(
                synopsis.contains(&option.names[0]),
                "{}: {option:?}",
                program.name
            );
        }
    }
}

#[test]
fn the_readme_is_short_and_its_first_command_shows_the_lock() {
    assert!(README.len() <= 8 * 1024, "{}", README.len());
    assert!(README.contains("\n    cargo run --release -- --local -l 0 -v demo "));
}

/// Code, code with `--sysexits`, meaning.
type Row = [String; 3];

fn cells<'a>(cells: impl Iterator<Item = &'a str>) -> Row {
    cells
        .map(|cell| cell.trim().to_owned())
        .collect::<Vec<_>>()
        .try_into()
        .expect("three cells")
}

/// Of a meaning, what stands on its first line.
fn manual_codes(manual: &str) -> Vec<Row> {
    let rows = section(manual, "EXIT STATUS")
        .into_iter()
        .filter_map(|line| line.strip_prefix(".It "));
    rows.map(|row| cells(row.split(" Ta "))).collect()
}

/// Every end that has one code.
const ENDS: [ExitReason; 15] = [
    ExitReason::AlreadyRun,
    ExitReason::Free,
    ExitReason::StillHeld,
    ExitReason::Busy,
    ExitReason::LoadTooHigh,
    ExitReason::Unreachable,
    ExitReason::IncompatibleLock,
    ExitReason::Refused,
    ExitReason::Lost,
    ExitReason::Revoked,
    ExitReason::InternalError,
    ExitReason::SystemError,
    ExitReason::ConfigError,
    ExitReason::NotRunnable,
    ExitReason::NotFound,
];

/// Words that only the row of this end has.
fn meaning(end: ExitReason) -> &'static str {
    match end {
        ExitReason::AlreadyRun => "has already run the command",
        ExitReason::Free => "the named lock is free",
        ExitReason::StillHeld => "could not be taken away",
        ExitReason::Busy => "the lock is busy",
        ExitReason::LoadTooHigh => "the load is too high",
        ExitReason::Unreachable => "in time",
        ExitReason::Refused => "refuse",
        ExitReason::Lost => "the lock was lost",
        ExitReason::Revoked => "the lock was revoked",
        ExitReason::InternalError => "the guard was killed",
        ExitReason::SystemError => "a system call failed",
        ExitReason::ConfigError => "the config is missing or wrong",
        ExitReason::NotRunnable => "cannot be run",
        ExitReason::NotFound => "was not found",
        ExitReason::IncompatibleLock => "that is too short",
        ExitReason::Command(_) | ExitReason::Signalled(_) => unreachable!("these have many codes"),
    }
}

/// A meaning, and its codes without and with `--sysexits`.
type Code = (&'static str, [String; 2]);

impl Program {
    fn codes(&self) -> BTreeSet<Code> {
        let both = ["", "--sysexits "];
        let mut codes = BTreeSet::new();
        for run in self.runs {
            for &end in ENDS.iter().filter(|end| !self.never.contains(end)) {
                codes.insert((
                    meaning(end),
                    both.map(|option| self.end(&format!("{option}{run}"), end).to_string()),
                ));
            }
        }
        for (line, meaning) in self.misuses {
            codes.insert((
                *meaning,
                both.map(|option| self.misuse(&format!("{option}{line}")).to_string()),
            ));
        }
        codes
    }

    fn end(&self, line: &str, end: ExitReason) -> u8 {
        let Ok(Request::Run(plan)) = self.ask(line) else {
            panic!("{}: {line}", self.name)
        };
        match plan.exit_codes.exit(end) {
            Exit::Code(code) => code,
            Exit::DieOf(signal) => panic!("{end:?} dies of {signal}"),
        }
    }

    fn misuse(&self, line: &str) -> u8 {
        self.ask(line).expect_err(line).exit_code()
    }
}

#[test]
fn the_exit_codes_are_those_of_the_plan_and_of_misuse() {
    for (document, rows, program) in [
        ("man/zk-flock.1", manual_codes(ZK_FLOCK.manual), ZK_FLOCK),
        ("man/lockex.1", manual_codes(LOCKEX.manual), LOCKEX),
        (
            "man/distributex.1",
            manual_codes(DISTRIBUTEX.manual),
            DISTRIBUTEX,
        ),
    ] {
        let expected = program.codes();
        let meanings: BTreeSet<_> = expected.iter().map(|(meaning, _)| *meaning).collect();
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for [plain, sysexits, text] in rows {
            let meant: Vec<_> = meanings
                .iter()
                .filter(|meaning| text.contains(*meaning))
                .collect();
            if meant.is_empty() {
                others.push(plain.clone());
            }
            found.extend(
                meant
                    .into_iter()
                    .map(|&meaning| (meaning, [plain.clone(), sysexits.clone()])),
            );
        }
        found.sort();
        assert_eq!(
            found,
            expected.into_iter().collect::<Vec<_>>(),
            "{document}"
        );
        assert_eq!(others, ["0 to 255", "128+n"], "{document}");
    }
}

#[test]
fn the_manual_has_the_keys_of_the_config() {
    let arms = CONFIG
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix('"')?.split_once("\" =>"));
    let keys: BTreeSet<_> = arms
        .map(|(key, _)| key)
        .filter(|key| !key.contains(char::is_uppercase))
        .collect();
    let described: BTreeSet<_> = CONFIG_MANUAL
        .lines()
        .filter_map(|line| line.strip_prefix(".It Cm "))
        .collect();
    assert_eq!(described, keys);
}

/// The JSON objects shown in a document, which stand so far from its left edge.
fn configs(document: &str, indent: &str) -> Vec<String> {
    let [begin, end] = ["{", "}"].map(|bracket| format!("\n{indent}{bracket}\n"));
    let texts = document
        .split(&begin)
        .skip(1)
        .map(|rest| rest.split(&end).next().unwrap_or(rest));
    texts.map(|text| format!("{{\n{text}\n}}")).collect()
}

#[test]
fn the_configs_shown_are_understood_whole() {
    let example = include_str!("../../packaging/distributed-flock.json");
    let shown = [
        configs(README, "    "),
        configs(CONFIG_MANUAL, ""),
        vec![example.to_owned()],
    ]
    .concat();
    assert_eq!(shown.len(), 4);
    for text in shown {
        let config = Config::parse(text.as_bytes(), Path::new("shown"))
            .unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(
            config.host.is_some() && config.timeout.is_some() && config.app_id.is_some(),
            "{text}"
        );
        assert_eq!((config.warnings, config.load_warning), (vec![], None));
    }
}

/// The words after the program's name wherever a document shows a command, on a line of its own,
/// after a prompt, or in a unit or script.
fn shown(document: &str, name: &str) -> Vec<String> {
    let starts =
        ["", "$ ", "ExecStart=/usr/bin/", "# Run as: "].map(|before| format!("{before}{name} "));
    let lines = document.lines().map(str::trim_start);
    lines
        .filter_map(|line| {
            starts
                .iter()
                .find_map(|start| line.strip_prefix(start.as_str()))
        })
        .map(str::to_owned)
        .collect()
}

/// distributexd runs no command, so it is none of the programs above.
#[test]
fn parser_and_manual_have_the_options_of_the_help_of_the_server() {
    let described = described(distributexd::PROGRAM.help);
    let mut expected: Vec<_> = described
        .iter()
        .filter(|option| option.names != ["--program"])
        .cloned()
        .collect();
    expected.iter_mut().for_each(|option| option.value = None);
    let mut taken = parser(include_str!("../../src/cli/distributexd.rs"));
    taken.iter_mut().for_each(|option| option.value = None); // it is taken in more than one way
    assert_eq!(taken, expected);
    assert_eq!(rows(SERVER_MANUAL), described);
    let synopsis: BTreeSet<_> = section(SERVER_MANUAL, "SYNOPSIS")
        .into_iter()
        .flat_map(flags)
        .collect();
    assert!(
        expected
            .iter()
            .all(|option| synopsis.contains(&option.names[0])),
        "{synopsis:?}"
    );
}

#[test]
fn the_exit_codes_of_the_server_are_those_of_its_plan_and_of_misuse() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/distributex.yaml");
    let ask = |words: &[&str]| {
        (distributexd::PROGRAM.request)(
            words.iter().map(OsString::from).collect(),
            &Environment::default(),
        )
    };
    let codes = |options: &[&str]| {
        let Ok(Request::Serve(server)) = ask(&[options, &["-c", config]].concat()) else {
            panic!("{options:?}")
        };
        let ends = [
            ExitReason::Busy,
            ExitReason::IncompatibleLock,
            ExitReason::Unreachable,
            ExitReason::SystemError,
        ]
        .map(|end| server.exit_codes.exit(end));
        let misuses = [&["-c", "/nowhere"][..], &["--bogus"]]
            .map(|words| Exit::Code(ask(&[options, words].concat()).unwrap_err().exit_code()));
        [ends.to_vec(), misuses.to_vec()].concat()
    };
    let meanings = [
        "another server",
        "the state file is not",
        "the name of memcached",
        "a system call failed",
        "the config is missing or wrong",
        "an option is wrong",
    ];
    let rows = manual_codes(SERVER_MANUAL);
    for (meaning, (plain, sysexits)) in meanings
        .iter()
        .zip(codes(&[]).into_iter().zip(codes(&["--sysexits"])))
    {
        let [left, right, _] = rows
            .iter()
            .find(|row| row[2].starts_with(meaning))
            .unwrap_or_else(|| panic!("no {meaning}"));
        assert_eq!(
            [left, right].map(|code| Exit::Code(code.parse().unwrap())),
            [plain, sysexits],
            "{meaning}"
        );
    }
    assert_eq!(rows.len(), meanings.len() + 1, "and 0");
}

#[test]
fn the_manual_has_the_keys_of_the_config_of_the_server() {
    let arms = SERVER_CONFIG
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix('"')?.split_once("\" => "));
    let keys: BTreeSet<_> = arms
        .filter(|(_, arm)| !arm.starts_with("Ok("))
        .flat_map(|(keys, _)| keys.split("\" | \""))
        .collect();
    let described: BTreeSet<_> = SERVER_MANUAL
        .lines()
        .filter_map(|line| line.strip_prefix(".It Cm "))
        .collect();
    assert_eq!(described, keys);
}

#[test]
fn the_configs_of_the_server_that_are_shown_are_understood_whole() {
    let manual = SERVER_MANUAL
        .split("A config:\n.Bd -literal -offset indent\n")
        .nth(1)
        .and_then(|rest| rest.split(".Ed").next())
        .unwrap();
    let packaged = include_str!("../../packaging/distributex.yaml");
    let other = packaged.replace(
        "backend: inmemory\nstate: /var/lib/distributexd/state.json\n",
        "",
    );
    // What else has a "#" is prose.
    let common = ["listen", "port", "servers"];
    let with = |own: &[&str]| {
        let keys = own.iter().chain(&common);
        keys.fold(other.clone(), |text, key| {
            text.replace(&format!("#{key}"), key)
        })
    };
    let other = with(&["backend: memcached", "memcachehost", "memcacheport"]);
    let shared = with(&["backend: zookeeper", "host", "auth", "tls"]);
    let shared = server::Config::parse(shared.as_bytes(), Path::new("shown"));
    let shared = shared.unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(shared.backend, Backend::ZooKeeper(_)));
    assert_eq!(shared.warnings, Vec::<String>::new());
    let memcache = Backend::Memcache(Host::Tcp {
        name: "localhost".into(),
        port: 11211,
    });
    for (text, backend) in [
        (manual, Backend::Memory),
        (packaged, Backend::Memory),
        (&other, memcache),
    ] {
        let config = server::Config::parse(text.as_bytes(), Path::new("shown"))
            .unwrap_or_else(|error| panic!("{error}: {text}"));
        let state =
            (backend == Backend::Memory).then_some(Path::new("/var/lib/distributexd/state.json"));
        assert_eq!((config.backend, config.state.as_deref()), (backend, state));
        assert_eq!(config.warnings, Vec::<String>::new());
    }
}

#[test]
fn the_examples_of_units_are_those_of_the_cookbook() {
    for unit in [
        include_str!("../../packaging/cold-standby.service"),
        include_str!("../../packaging/report.service"),
        include_str!("../../packaging/report.timer"),
    ] {
        assert!(COOKBOOK.contains(&format!("\n{unit}.Ed\n")), "{unit}");
    }
}

#[test]
fn the_commands_shown_can_be_run() {
    let (before, rest) = README
        .split_once("## How it stays safe")
        .expect("a section");
    let after = rest.split("## Compared with").nth(1).expect("the next one");
    let readme = format!("{before}{after}"); // without the diagram, which begins with a name
    let readme = readme.replace("cargo run --release -- ", "zk-flock ");
    let fencing = SAFETY.split(".Sh FENCING").nth(1).expect("a section");
    for (program, count) in [(ZK_FLOCK, 13), (LOCKEX, 10), (DISTRIBUTEX, 6)] {
        let lines = [
            shown(&readme, program.name),
            shown(program.manual, program.name),
            shown(fencing, program.name),
        ]
        .concat();
        assert_eq!(lines.len(), count, "{lines:?}");
        for line in lines {
            let asked = program.ask(&line);
            let fits = match &asked {
                Ok(Request::Run(_)) => ["--status", "--break", "--check"]
                    .iter()
                    .all(|mode| !line.contains(mode)),
                Ok(Request::CheckClient(_)) => line.contains("--check"),
                Ok(Request::Break(_)) => line.contains("--break"),
                Ok(Request::Status(_)) => line.contains("--status"),
                _ => false,
            };
            assert!(fits, "{line}: {asked:?}");
        }
    }
}

/// The path of every module below a folder of the library.
fn modules(folder: &Path, path: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap().path();
        let name = entry.file_stem().unwrap().to_str().unwrap();
        if !["lib", "main", "mod", "tests"].contains(&name) {
            let module = format!("{path}{name}");
            if entry.is_dir() {
                found.extend(modules(&entry, &format!("{module}::")));
            }
            found.insert(module);
        }
    }
    found
}

#[test]
fn the_map_in_lib_has_a_row_for_each_module() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let library = fs::read_to_string(source.join("lib.rs")).unwrap();
    let rows: Vec<_> = library
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `")?.split_once('`'))
        .map(|(module, _)| module.to_owned())
        .collect();
    let named: BTreeSet<_> = rows.iter().cloned().collect();
    assert_eq!(rows.len(), named.len(), "a module has two rows");
    assert_eq!(named, modules(&source, ""));
}

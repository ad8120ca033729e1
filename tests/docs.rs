//! Help, parser, manual pages, README and crate doc say the same: option by option, code by code, key by key, file by file.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use zk_flock::cli::zk_flock::{HELP, request};
use zk_flock::cli::{Environment, Error, Request, words};
use zk_flock::config::Config;
use zk_flock::plan::{End, Exit, ExitCodes};

const README: &str = include_str!("../README.md");
const MANUAL: &str = include_str!("../man/zk-flock.1");
const CONFIG_MANUAL: &str = include_str!("../man/distributed-flock.json.5");
const PARSER: &str = include_str!("../src/cli/zk_flock.rs");
const CONFIG: &str = include_str!("../src/config.rs");

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

fn help() -> Vec<Described> {
    let options = HELP.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    options
        .map(|line| {
            let option = line.split("  ").next().unwrap_or(line);
            let words = option.split([' ', ',', '=', '[', ']']).filter(|word| !word.is_empty()).map(str::to_owned);
            let (names, values): (Vec<_>, Vec<_>) = words.partition(|word| word.starts_with('-'));
            Described { names, value: values.into_iter().next(), optional: option.contains("[=") }
        })
        .collect()
}

/// The options that have a row of their own in the manual.
fn manual() -> Vec<Described> {
    let rows = section(MANUAL, "DESCRIPTION").into_iter().filter(|line| line.starts_with(".It Fl "));
    rows.map(|row| Described {
        names: flags(row).collect(),
        value: after(row, "Ar").map(str::to_uppercase).next(),
        optional: row.contains(" Op "),
    })
    .collect()
}

/// The options that the parser's arms take.
fn parser() -> Vec<Described> {
    let between = |line: &str, open: &str, close: &str| line.split_once(open)?.1.split_once(close).map(|(name, _)| name.to_owned());
    let arms = PARSER.lines().filter(|line| line.contains("=>")).map(|line| {
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
    let lines = page.lines().skip_while(|line| *line != format!(".Sh {title}")).skip(1);
    lines.take_while(|line| !line.starts_with(".Sh ")).collect()
}

/// The words that a macro stands before.
fn after<'a>(line: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let words = line.strip_prefix('.').unwrap_or_default().split(' ');
    words.clone().zip(words.skip(1)).filter(move |(before, _)| *before == name).map(|(_, word)| word)
}

/// The options that a line names; `Fl dsv` is three of them, `Fl -` none.
fn flags(line: &str) -> impl Iterator<Item = String> {
    after(line, "Fl").filter(|flag| *flag != "-").flat_map(|flag| match flag.strip_prefix('-') {
        Some(long) => vec![format!("--{long}")],
        None => flag.chars().map(|letter| format!("-{letter}")).collect(),
    })
}

#[test]
fn the_parser_takes_the_options_of_the_help_in_its_order() {
    let expected = help().into_iter().filter(|option| option.names != ["--program"]); // main's
    let expected: Vec<_> = expected.map(|option| Described { value: option.value.map(|_| "VALUE".into()), ..option }).collect();
    assert_eq!(parser(), expected);
}

#[test]
fn the_manual_has_the_options_of_the_help_in_its_order() {
    assert_eq!(manual(), help());
}

#[test]
fn the_manual_names_no_other_options_and_its_synopsis_all() {
    let help = help();
    let known: BTreeSet<_> = help.iter().flat_map(|option| option.names.clone()).collect();
    let named: BTreeSet<_> = [MANUAL, CONFIG_MANUAL].into_iter().flat_map(str::lines).flat_map(flags).collect();
    assert_eq!(named.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
    let synopsis: Vec<_> = section(MANUAL, "SYNOPSIS").into_iter().flat_map(flags).collect();
    for option in help.iter().filter(|option| option.names != ["--program"]) {
        assert!(synopsis.contains(&option.names[0]), "{option:?} is not in the SYNOPSIS");
    }
}

#[test]
fn the_readme_has_the_help() {
    assert!(README.contains(&format!("```text\n{HELP}```\n")), "the README's options are not those of --help");
}

/// Code, code with `--sysexits`, meaning.
type Row = [String; 3];

fn cells<'a>(cells: impl Iterator<Item = &'a str>) -> Row {
    cells.map(|cell| cell.trim().to_owned()).collect::<Vec<_>>().try_into().expect("three cells")
}

fn readme_codes() -> Vec<Row> {
    let section = README.lines().skip_while(|line| *line != "## Exit codes").skip(1).take_while(|line| !line.starts_with('#'));
    let rows = section.filter(|line| line.starts_with('|')).skip(2);
    rows.map(|line| cells(line.trim_matches('|').splitn(3, '|'))).collect()
}

/// Of a meaning, what stands on its first line.
fn manual_codes() -> Vec<Row> {
    let rows = section(MANUAL, "EXIT STATUS").into_iter().filter_map(|line| line.strip_prefix(".It "));
    rows.map(|row| cells(row.split(" Ta "))).collect()
}

/// Every end that has one code.
const ENDS: [End; 11] = [
    End::Busy,
    End::Loaded,
    End::Unreachable,
    End::Unfit,
    End::Refused,
    End::Lost,
    End::Internal,
    End::System,
    End::Config,
    End::NotRunnable,
    End::NotFound,
];

/// Words that only the row of this end has.
fn meaning(end: End) -> &'static str {
    match end {
        End::Busy => "the lock is busy",
        End::Loaded => "the load is too high",
        End::Unreachable => "no server answered in time",
        End::Refused => "the servers refuse",
        End::Lost => "the lock was lost",
        End::Internal => "the guard was killed",
        End::System => "a system call failed",
        End::Config => "the config is missing or wrong",
        End::NotRunnable => "cannot be run",
        End::NotFound => "was not found",
        End::Unfit => "that is too short",
        End::Command(_) | End::Signalled(_) => unreachable!("these have many codes"),
    }
}

fn code(end: End, sysexits: bool) -> u8 {
    match (ExitCodes { busy: None, busy_default: 0, sysexits }).exit(end) {
        Exit::Code(code) => code,
        Exit::DieOf(signal) => panic!("{end:?} dies of {signal}"),
    }
}

fn ask(words: &str) -> Result<Request, Error> {
    let words = words::split(words.as_ref()).expect("quotes are closed");
    request(words, &Environment { current_dir: "/".into(), ..Environment::default() })
}

#[test]
fn the_exit_codes_are_those_of_the_plan_and_of_misuse() {
    let mut expected: Vec<_> = ENDS.iter().map(|&end| ([code(end, false), code(end, true)], meaning(end))).collect();
    for (words, meaning) in
        [("NAME", "lock name is missing"), ("--bogus", "an option is wrong"), ("-c /nowhere NAME true", meaning(End::Config))]
    {
        let codes = ["", "--sysexits "].map(|option| ask(&format!("{option}{words}")).expect_err(words).exit_code());
        expected.push((codes, meaning));
    }
    for (document, rows) in [("README.md", readme_codes()), ("man/zk-flock.1", manual_codes())] {
        for (codes, meaning) in &expected {
            let found: Vec<_> = rows.iter().filter(|row| row[2].contains(meaning)).map(|row| [row[0].clone(), row[1].clone()]).collect();
            assert_eq!(found, [codes.map(|code| code.to_string())], "{document}: {meaning}");
        }
        let others = rows.iter().filter(|row| !expected.iter().any(|(_, meaning)| row[2].contains(meaning)));
        assert_eq!(others.map(|row| row[0].as_str()).collect::<Vec<_>>(), ["0 to 255", "128+n"], "{document}");
    }
}

#[test]
fn readme_and_manual_have_the_same_exit_codes() {
    let (readme, manual) = (readme_codes(), manual_codes());
    assert_eq!(readme.len(), manual.len());
    for (readme, manual) in readme.iter().zip(&manual) {
        assert_eq!(readme[..2], manual[..2]);
        assert!(readme[2].starts_with(&manual[2]), "{readme:?} is not {manual:?}");
    }
}

#[test]
fn the_manual_has_the_keys_of_the_config() {
    let arms = CONFIG.lines().filter_map(|line| line.trim_start().strip_prefix('"')?.split_once("\" =>"));
    let keys: BTreeSet<_> = arms.map(|(key, _)| key).filter(|key| !key.contains(char::is_uppercase)).collect();
    let described: BTreeSet<_> = CONFIG_MANUAL.lines().filter_map(|line| line.strip_prefix(".It Cm ")).collect();
    assert_eq!(described, keys);
}

/// The JSON objects shown in a document, which stand so far from its left edge.
fn configs(document: &str, indent: &str) -> Vec<String> {
    let [begin, end] = ["{", "}"].map(|bracket| format!("\n{indent}{bracket}\n"));
    let texts = document.split(&begin).skip(1).map(|rest| rest.split(&end).next().unwrap_or(rest));
    texts.map(|text| format!("{{\n{text}\n}}")).collect()
}

#[test]
fn the_configs_shown_are_understood_whole() {
    let shown = [configs(README, "    "), configs(CONFIG_MANUAL, "")].concat();
    assert_eq!(shown.len(), 3);
    for text in shown {
        let config = Config::parse(text.as_bytes(), Path::new("shown")).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(config.host.is_some() && config.timeout.is_some() && config.app_id.is_some(), "{text}");
        assert_eq!(config.warnings, Vec::<String>::new());
    }
}

#[test]
fn the_commands_shown_can_be_run() {
    let config = Path::new(env!("CARGO_TARGET_TMPDIR")).join("documented.json");
    fs::write(&config, &configs(README, "    ")[0]).unwrap();
    let of = |document: &'static str, start| document.lines().filter_map(move |line| line.trim_start().strip_prefix(start));
    let shown: Vec<_> = of(README, "cargo run --release -- ")
        .chain(of(MANUAL, "zk-flock "))
        .chain(of(MANUAL, "ExecStart=/usr/bin/zk-flock "))
        .chain(of(MANUAL, "# Run as: zk-flock "))
        .collect();
    assert_eq!(shown.len(), 6);
    for words in shown {
        let run = ask(&format!("-c {} {words}", config.display()));
        assert!(matches!(run, Ok(Request::Run(_))), "{words}: {run:?}");
    }
}

/// The name of every module below a folder.
fn modules(folder: &Path) -> Vec<String> {
    let paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let below = paths.iter().filter(|path| path.is_dir()).flat_map(|folder| modules(folder));
    let here = paths.iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    here.filter(|name| !["lib", "main", "mod"].contains(&name.as_str())).chain(below).collect()
}

#[test]
fn the_map_of_the_crate_names_every_module_and_nothing_else() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let library = fs::read_to_string(source.join("lib.rs")).unwrap();
    let map: String =
        library.lines().skip_while(|line| !line.starts_with("//! # Rooms")).take_while(|line| line.starts_with("//!")).collect();
    let named: BTreeSet<_> = map.split('`').skip(1).step_by(2).filter(|name| !name.contains(' ')).map(str::to_owned).collect();
    assert_eq!(named, modules(&source).into_iter().collect());
}

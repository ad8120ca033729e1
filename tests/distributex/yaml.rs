//! What is accepted of YAML means the same to PyYAML, which the original server reads its config
//! with.

use common::python;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use zk_flock::internals::config::node::{Node, Value};
use zk_flock::internals::config::server::Config;
use zk_flock::internals::config::yaml;

/// Files of a folder of `tests/data/yaml`, by name.
fn corpus(folder: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/yaml")).join(folder);
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read(entry.path()).unwrap(),
            )
        })
        .collect()
}

/// A tree as `tests/common/told_by_pyyaml.py` tells it.
fn told(node: &Node) -> Json {
    match &node.value {
        Value::Null => json!(["null"]),
        Value::Bool(value) => json!(["bool", value]),
        Value::Number(number) if number.is_f64() => {
            json!(["float", number.as_f64().unwrap().to_bits()])
        }
        Value::Number(number) => json!(["int", number]),
        Value::Text(text) => json!(["str", text]),
        Value::List(items) => json!(["list", items.iter().map(told).collect::<Vec<_>>()]),
        Value::Map(entries) => {
            json!([
                "dict",
                entries
                    .iter()
                    .map(|entry| json!([["str", entry.key], told(&entry.value)]))
                    .collect::<Vec<_>>()
            ])
        }
    }
}

/// What PyYAML makes of each document.
fn told_by_pyyaml(documents: &[&[u8]]) -> Vec<Json> {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/common/told_by_pyyaml.py"
    );
    let mut python = Command::new(python::with("PyYAML"))
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let hexadecimal = |document: &&[u8]| {
        document
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    serde_json::to_writer(
        python.stdin.take().unwrap(),
        &documents.iter().map(hexadecimal).collect::<Vec<_>>(),
    )
    .unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Asserts that PyYAML means the same by those of the documents that are accepted; returns how many
/// these are.
#[track_caller]
fn assert_same(documents: &[&[u8]]) -> usize {
    let accepted: Vec<_> = documents
        .iter()
        .filter_map(|document| Some((*document, yaml::parse(document).ok()?)))
        .collect();
    let theirs = told_by_pyyaml(
        &accepted
            .iter()
            .map(|(document, _)| *document)
            .collect::<Vec<_>>(),
    );
    assert_eq!(theirs.len(), accepted.len());
    for ((document, tree), theirs) in accepted.iter().zip(theirs) {
        assert_eq!(
            told(tree),
            theirs,
            "{:?}",
            String::from_utf8_lossy(document)
        );
    }
    accepted.len()
}

#[test]
fn the_corpus_is_accepted_or_refused_as_it_says() {
    for (name, text) in corpus("accepted") {
        assert!(
            yaml::parse(&text).is_ok(),
            "{name}: {:?}",
            yaml::parse(&text)
        );
    }
    for (name, text) in corpus("refused") {
        assert!(
            yaml::parse(&text).is_err(),
            "{name}: {:?}",
            yaml::parse(&text)
        );
    }
}

#[test]
fn the_corpus_means_the_same_to_pyyaml() {
    let corpus = corpus("accepted");
    assert_eq!(
        assert_same(&corpus.values().map(Vec::as_slice).collect::<Vec<_>>()),
        corpus.len()
    );
}

/// Configs as people write them: `read` by server and PyYAML alike, or refused with a hint.
#[test]
fn configs_as_people_write_them_are_read_or_refused_with_a_hint() {
    let all = include_str!("../data/yaml/written.txt");
    let mut read = Vec::new();
    for section in all.split("==== ").skip(1) {
        let (title, text) = section.split_once('\n').unwrap();
        let config = Config::parse(text.as_bytes(), Path::new("f"));
        match title.split_once(": ").unwrap() {
            ("read", _) => {
                let config = config.unwrap_or_else(|error| panic!("{title}: {error}"));
                assert_eq!(config.unknown, [""; 0], "{title}");
                read.push(text.as_bytes());
            }
            (_, hint) => {
                let error = config.expect_err(title).to_string();
                assert!(error.contains(hint), "{title}: {error}");
            }
        }
    }
    assert_eq!(assert_same(&read), read.len());
}

#[test]
fn the_corpus_changed_in_one_place_means_the_same_to_pyyaml() {
    const PUT: [&str; 31] = [
        "", " ", "\n", ":", ": ", "-", "- ", "\n- ", "#", " #", "'", "\"", "\\", "\t", "\n ", "1",
        "a", "&", "é", "?", ",", "\r\n", "[", "]", "{", "}", "*", "&a ", "*d", "<<", "...",
    ];
    let mut documents = Vec::new();
    for text in corpus("accepted")
        .values()
        .chain(corpus("refused").values())
        .filter(|text| text.len() < 400)
    {
        for at in 0..text.len() {
            for put in PUT {
                documents.push([&text[..at], put.as_bytes(), &text[at + 1..]].concat());
                documents.push([&text[..at], put.as_bytes(), &text[at..]].concat());
            }
        }
    }
    // One in seven, another each time a place was changed: all of them take a minute.
    let some: Vec<_> = documents.iter().step_by(7).map(Vec::as_slice).collect();
    let accepted = assert_same(&some);
    assert!(accepted > some.len() / 10, "{accepted} of {}", some.len());
}

/// Text of one line that may be a scalar, a key or nothing sensible.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[-+.]?[0-9]{1,3}",
        "[-+.0-9_:eExXoOTtZ ]{1,7}",
        "[0-9a-fx._:-]{1,6}",
        "(yes|No|ON|oFF|true|NULL|null|~|=|<<|\\.inf|-\\.NaN|n|y)",
        "[ab #:'\"\\\\?&*!|>%@`,\\[\\]{}é\u{a0}-]{1,6}",
        "'[a':# ]{0,4}'",
        "\"[a:# x4u0\\\\\"n]{0,6}\"",
        "[ab]",
        "[\\[{]([ab\",:'{}\\[\\]# ?1-]|a: |, |\"b\"){0,7}[\\]}]",
        "\\[([ab]|-?[0-9.]{1,3}|'[ab,]*'|yes|a b)( ?, ?([ab]|\\[c\\]|\\{c: d\\})){0,3},?\\]",
        "\\{ ?([ab]|\"a\") ?: ?[bc1](, [cd]: (\\[x\\]|y)){0,2} ?\\}",
        "&[xy]( [ab1])?",
        "\\*[xy]",
    ]
}

/// A few lines of keys, items and pieces, indented somehow.
fn document() -> impl Strategy<Value = String> {
    let start = prop::collection::vec(
        prop_oneof![
            "- ", "-", "[a-d]: ", "[a-d]:", "[a-d] : ", "'a': ", "<<: ", "&x ", ""
        ],
        0..3,
    );
    let line = (
        0..5usize,
        start,
        prop_oneof![piece(), Just(String::new())],
        prop_oneof![Just(""), Just(" "), Just(" # c"), Just("#c")],
    );
    let lines = prop::collection::vec(line, 1..6);
    lines.prop_map(|lines| {
        let lines = lines.into_iter().map(|(indent, start, piece, end)| {
            format!("{}{}{piece}{end}", " ".repeat(indent), start.concat())
        });
        lines.collect::<Vec<_>>().join("\n")
    })
}

#[test]
fn small_documents_mean_the_same_to_pyyaml() {
    const DOCUMENTS: usize = 20_000;
    let mut runner = TestRunner::deterministic();
    let documents: Vec<_> = (0..DOCUMENTS)
        .map(|_| document().new_tree(&mut runner).unwrap().current())
        .collect();
    let accepted = assert_same(&documents.iter().map(String::as_bytes).collect::<Vec<_>>());
    assert!(accepted > DOCUMENTS / 20, "{accepted} of {DOCUMENTS}");
}

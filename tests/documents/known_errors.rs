//! The patches of the simulation's known errors apply to the code as it is, one after another, as
//! `tests/simulation/known_errors/run` applies them. A search for them takes minutes, so nothing else
//! notices that a change of the code has left one behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A hunk: what stands in the file, and what replaces it.
fn texts(hunk: &str) -> (String, String) {
    let of = |other: char| {
        let lines = hunk.lines().skip(1).filter(|line| !line.starts_with(other));
        lines.fold(String::new(), |text, line| {
            text + line.get(1..).unwrap_or_default() + "\n"
        })
    };
    (of('+'), of('-'))
}

#[test]
fn patches_of_the_known_errors_apply_to_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("tests/simulation/known_errors");
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut patches: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    patches.retain(|path| path.extension().is_some_and(|it| it == "patch"));
    patches.sort();
    assert!(!patches.is_empty());
    let mut files = BTreeMap::new();
    for path in patches {
        let patch = fs::read_to_string(&path).unwrap();
        for part in patch.split("\n+++ b/").skip(1) {
            let (file, rest) = part.split_once('\n').expect("hunks follow");
            // A file that is missing is made by the patch.
            let code = files
                .entry(file.to_owned())
                .or_insert_with(|| fs::read_to_string(root.join(file)).unwrap_or_default());
            let hunks = rest.split("\ndiff --git").next().unwrap_or_default();
            for hunk in format!("\n{hunks}").split("\n@@ ").skip(1) {
                let (old, new) = texts(hunk);
                assert!(code.contains(&old), "{}: {file}:\n{old}", path.display());
                *code = code.replacen(&old, &new, 1);
            }
        }
    }
}

//! What the documents promise exists.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

#[test]
fn every_test_that_the_requirement_list_names_exists_and_every_number_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = fs::read_to_string(root.join("docs/requirements.md")).unwrap();
    let mut tests = HashSet::new();
    for folder in ["src", "tests"] {
        collect(&root.join(folder), &mut tests);
    }
    let rows: Vec<&str> = list.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| number")).collect();
    let numbers: HashSet<&str> = rows.iter().filter_map(|row| row.split('|').nth(1).map(str::trim)).collect();
    let expected = [("A", 36), ("S", 33), ("C", 21)];
    for (letter, count) in expected {
        for number in 1..=count {
            assert!(numbers.contains(format!("{letter}{number}").as_str()), "{letter}{number} is not listed");
        }
    }
    let mut named = 0;
    for row in rows {
        let proof = row.split('|').nth(3).unwrap();
        // A test's name is a sentence: several words joined by underscores.
        for name in proof.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() > 2) {
            assert!(tests.contains(name), "no test is called {name}: {row}");
            named += 1;
        }
    }
    assert!(named > 50, "the list names {named} tests only: is it read at all?");
}

fn collect(folder: &Path, tests: &mut HashSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("node_modules") && !path.ends_with(".venv") {
            collect(&path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            for line in fs::read_to_string(&path).unwrap().lines() {
                if let Some(rest) = line.trim_start().trim_start_matches("async ").strip_prefix("fn ") {
                    tests.insert(rest.split(['(', '<']).next().unwrap().to_owned());
                }
            }
        }
    }
}

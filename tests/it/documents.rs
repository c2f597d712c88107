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

#[test]
fn the_reference_of_profiles_holds_the_examples_and_names_every_key() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let reference = fs::read_to_string(root.join("docs/profiles.md")).unwrap();
    let mut keys = HashSet::new();
    let mut examples = 0;
    for folder in ["schema/profiles", "examples/profiles"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            if folder == "examples/profiles" {
                assert!(reference.contains(&format!("```json\n{text}```")), "not as in {folder}: {text}");
                examples += 1;
            }
            keys_of(&serde_json::from_str(&text).unwrap(), &mut keys);
        }
    }
    assert!(examples == 3 && keys.len() > 30, "{examples} {keys:?}");
    for key in keys {
        let named = [format!("`{key}`"), format!(".{key}`"), format!("].{key}"), format!("\"{key}\"")];
        assert!(named.iter().any(|name| reference.contains(name)), "{key} is not explained");
    }
}

fn keys_of(value: &serde_json::Value, keys: &mut HashSet<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        keys.insert(key.clone());
        keys_of(value, keys);
    }
    for item in value.as_array().into_iter().flatten() {
        keys_of(item, keys);
    }
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

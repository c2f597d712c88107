//! The files of `schema/` that are written from the code.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tidings::{app, graphql};

/// `UPDATE_CONTRACTS=1 cargo test --test it contracts` writes them anew, as `tidings schema --out schema` does.
#[test]
fn the_contract_files_are_those_of_the_code() {
    for (name, text) in app::contracts() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema").join(name);
        if std::env::var_os("UPDATE_CONTRACTS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(written == text, "schema/{name} is not what the code says: {}", first_difference(&written, &text));
    }
}

fn first_difference(written: &str, code: &str) -> String {
    let differs = |(_, (a, b)): &(usize, (&str, &str))| a != b;
    written
        .lines()
        .zip(code.lines())
        .enumerate()
        .find(differs)
        .map_or("one is longer".into(), |(line, (a, b))| format!("line {}: '{a}' there, '{b}' here", line + 1))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_field_argument_and_value_is_described() {
    let api = super::Api::start().await;
    let query = "{ __schema { types { kind name description
        fields { name description args { name description } }
        inputFields { name description } enumValues { name description } } } }";
    let data = api.data(query, Value::Null).await;
    let mut missing = vec![];
    for of in data["__schema"]["types"].as_array().unwrap() {
        let name = of["name"].as_str().unwrap();
        if name.starts_with("__") || ["Boolean", "Float", "ID", "Int", "String"].contains(&name) {
            continue;
        }
        look(of, name, &mut missing);
    }
    assert_eq!(missing, Vec::<String>::new());
}

fn look(of: &Value, path: &str, missing: &mut Vec<String>) {
    if of["description"].as_str().is_none_or(str::is_empty) {
        missing.push(path.to_owned());
    }
    for part in ["fields", "args", "inputFields", "enumValues"] {
        for inner in of[part].as_array().into_iter().flatten() {
            look(inner, &format!("{path}.{}", inner["name"].as_str().unwrap()), missing);
        }
    }
}

/// The resolvers of the sources: what stands in the blocks behind `#[Object]` and `#[ComplexObject]`.
fn resolvers(source: &str) -> Vec<&str> {
    let blocks = source.split("\n#[Object").skip(1).chain(source.split("\n#[ComplexObject").skip(1));
    blocks.map(|block| block.split("\n}\n").next().unwrap()).collect()
}

/// A field that fails and is not null by itself takes its parent with it, and with that a secret that is shown once.
#[test]
fn every_field_that_may_fail_fails_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/graphql");
    let mutations = fs::read_dir(folder.join("mutation")).unwrap();
    let mut fields = 0;
    for file in fs::read_dir(&folder).unwrap().chain(mutations) {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        for block in resolvers(&source) {
            fields += block.matches("-> Option<Result<").count();
            assert!(!block.contains("-> Result<"), "{}: {block}", path.display());
        }
        assert!(!source.contains("guard ="), "{}", path.display());
    }
    assert!(fields > 70, "{fields}");
}

#[test]
fn every_root_field_may_be_null() {
    let sdl = graphql::sdl();
    for root in ["type Query {", "type Mutation {"] {
        let fields = sdl.split(root).nth(1).unwrap().split("\n}").next().unwrap();
        let fields: Vec<_> = fields.lines().filter(|line| !line.trim_start().starts_with('"')).collect();
        assert!(fields.len() > 10, "{root}");
        // A field's type ends its first line, or the line that closes its arguments.
        for field in fields.iter().filter(|line| !line.starts_with("    ") && !line.ends_with('(')) {
            assert!(!field.ends_with('!'), "{field}");
        }
    }
}

//! A profile as an operator writes it: from a JSON text to a profile that is fit for use, or to everything wrong with it.

use serde_json::Value;
use serde_path_to_error::{Path, Segment};
use sha2::{Digest, Sha256};

use super::Profile;
use super::check::check;
use super::registry::DEFAULT_TEXT;
use crate::domain::json;

/// The largest text, in bytes.
const MAX_BYTES: usize = 64 * 1024;
/// Problems of one text that are told. A text with more of them is no profile at all.
const MAX_PROBLEMS: usize = 50;

/// A profile that is fit for use, and a mark of the text that it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// The profile.
    pub profile: Profile,
    /// SHA-256 over the text's meaning, in hex: white space and the order of keys do not count.
    pub digest: String,
}

/// Something that is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}{}{reason}", if key.is_empty() { "" } else { ": " })]
pub struct Problem {
    /// Where: `signatures[0].prefix`; empty for the text as a whole.
    pub key: String,
    /// What is wrong, and what is allowed.
    pub reason: String,
}

impl Problem {
    pub(super) fn of(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), reason: reason.into() }
    }
}

impl Definition {
    /// Reads a text.
    ///
    /// # Errors
    /// Everything that is wrong with it, as far as it can be told at once.
    pub fn parse(text: &[u8]) -> Result<Self, Vec<Problem>> {
        if text.len() > MAX_BYTES {
            return Err(vec![Problem::of("", format!("it has {} bytes; at most {MAX_BYTES} are allowed", text.len()))]);
        }
        let canonical = json::canonicalise(text).map_err(|error| vec![Problem::of("", in_full(&error))])?;
        let mut problems: Vec<Problem> = canonical.instabilities().iter().map(unstable).collect();
        let value: Value = serde_json::from_str(canonical.text()).expect("canonical JSON is JSON");
        let digest = hex::encode(Sha256::digest(sorted(&value).to_string()));
        let Some(profile) = read(value, &mut problems) else { return Err(problems) };
        let told: Vec<String> = problems.iter().map(|problem| problem.key.clone()).collect();
        // What could not be read was replaced, and what is said of the replacement says nothing.
        let new = |problem: &Problem| !told.iter().any(|key| is_part(&problem.key, key) || is_part(key, &problem.key));
        problems.extend(check(&profile).into_iter().filter(new));
        if problems.is_empty() { Ok(Self { profile, digest }) } else { Err(problems) }
    }
}

fn in_full(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

fn unstable(found: &json::Instability) -> Problem {
    let step = |text: &str| text.parse().map_or_else(|_| Step::Key(text.to_owned()), Step::Index);
    let key = key(&found.pointer.split('/').skip(1).map(step).collect::<Vec<_>>());
    Problem::of(
        key,
        match found.cause {
            json::Cause::DuplicateKey => "the key stands there twice",
            json::Cause::Number => "the number has more digits than JavaScript keeps",
        },
    )
}

fn is_part(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The value with the keys of its objects in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            fields.sort_by(|(one, _), (other, _)| one.cmp(other));
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Reads a profile. A part that cannot be read is told, replaced by that of a profile that can, and the reading begins
/// anew: so one reading finds all such parts, and the types alone say what a profile is.
fn read(mut value: Value, problems: &mut Vec<Problem>) -> Option<Profile> {
    if !value.is_object() {
        problems.push(Problem::of("", "it is no JSON object"));
        return None;
    }
    let pattern: Value = serde_json::from_str(DEFAULT_TEXT).expect("a test reads every built-in profile");
    let known = problems.len();
    for _ in 0..MAX_PROBLEMS {
        let error = match serde_path_to_error::deserialize::<_, Profile>(&value) {
            Ok(profile) => return Some(profile),
            Err(error) => error,
        };
        let mut path = steps(error.path());
        let text = error.inner().to_string();
        let (reason, is_known) = if let Some(name) = missing_field(&text) {
            path.push(Step::Key(name.to_owned()));
            ("it is missing".to_owned(), true)
        } else if let Some((name, known)) = unknown_field(&text) {
            if path.last() != Some(&Step::Key(name.to_owned())) {
                path.push(Step::Key(name.to_owned()));
            }
            (format!("there is no such key: {known}"), false)
        } else {
            (text, true)
        };
        let problem = Problem::of(key(&path), reason);
        if problems[known..].contains(&problem) {
            // Mending did not help: the rest of what is wrong is told at the next try.
            value = pattern.clone();
            continue;
        }
        if !problems[..known].iter().any(|before| before.key == problem.key) {
            problems.push(problem);
        }
        match is_known {
            true => mend(&mut value, &path, &pattern),
            false => remove(&mut value, &path),
        }
    }
    None
}

fn missing_field(text: &str) -> Option<&str> {
    text.strip_prefix("missing field `")?.strip_suffix('`')
}

/// The name of the field, and what serde says of the others.
fn unknown_field(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("unknown field `")?.split_once("`, ")
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

fn steps(path: &Path) -> Vec<Step> {
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } | Segment::Enum { variant: key } => Some(Step::Key(key.clone())),
        Segment::Unknown => None,
    };
    path.iter().filter_map(step).collect()
}

fn key(path: &[Step]) -> String {
    let mut key = String::new();
    for step in path {
        match step {
            Step::Key(name) if key.is_empty() => key.push_str(name),
            Step::Key(name) => key.extend([".", name]),
            Step::Index(index) => key.push_str(&format!("[{index}]")),
        }
    }
    key
}

/// Replaces the smallest part around the path that the pattern has too. What the pattern does without goes.
fn mend(value: &mut Value, path: &[Step], pattern: &Value) {
    let end = (0..=path.len()).rev().find(|end| part_of(pattern, &path[..*end]).is_some()).unwrap_or(0);
    let (Some(good), Some(bad)) = (part_of(pattern, &path[..end]), part_of_mut(value, &path[..end])) else {
        // The part itself is missing.
        return insert(value, path, pattern);
    };
    match (bad, good) {
        (Value::Object(bad), Value::Object(good))
            if end < path.len() && bad.keys().any(|key| good.contains_key(key)) =>
        {
            remove(value, &path[..=end]);
        }
        (bad, good) => *bad = good.clone(),
    }
}

/// Gives an object the field that it lacks.
fn insert(value: &mut Value, path: &[Step], pattern: &Value) {
    let Some((Step::Key(name), parents)) = path.split_last() else { return };
    if let (Some(Value::Object(fields)), Some(good)) = (part_of_mut(value, parents), part_of(pattern, path)) {
        fields.insert(name.clone(), good.clone());
    }
}

/// Takes a field away.
fn remove(value: &mut Value, path: &[Step]) {
    let Some((Step::Key(name), parents)) = path.split_last() else { return };
    if let Some(Value::Object(fields)) = part_of_mut(value, parents) {
        fields.shift_remove(name);
    }
}

/// The part at that path; of a list always the first one.
fn part_of<'a>(pattern: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(pattern, |part, step| match step {
        Step::Key(name) => part.get(name),
        Step::Index(_) => part.get(0),
    })
}

fn part_of_mut<'a>(value: &'a mut Value, path: &[Step]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |part, step| match step {
        Step::Key(name) => part.get_mut(name),
        Step::Index(index) => part.get_mut(*index),
    })
}

#[cfg(test)]
#[path = "definition_tests.rs"]
mod tests;

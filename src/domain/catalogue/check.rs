//! What a tenant's own event type must look like.
//!
//! Schemas come from tenants, so the work that one can cause is bounded before it is compiled: nothing outside the
//! schema is ever fetched, patterns run in linear time, and the schema with its references followed has a bounded
//! number of parts. The last refuses recursive schemas too; a validator can be made to walk one exponentially often.

use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

use super::{Definition, Stage};
use crate::domain::filter::EventType;
use crate::domain::json;
use crate::error_code::ErrorCode;

/// The longest description, in characters.
pub const MAX_DESCRIPTION_CHARS: usize = 200;
/// The longest name of a category, in characters.
pub const MAX_CATEGORY_CHARS: usize = 64;
/// The longest version, in characters.
pub const MAX_VERSION_CHARS: usize = 32;
/// The largest schema, in bytes of compact JSON.
pub const MAX_SCHEMA_BYTES: usize = 64 * 1024;
/// The largest example, in bytes of compact JSON.
pub const MAX_EXAMPLE_BYTES: usize = 64 * 1024;

/// The most values in a schema, counting what a reference points to wherever it is referred to.
const MAX_SCHEMA_PARTS: usize = 4_000;
/// What is wrong with an example that no message could have as its data.
const NOT_AN_OBJECT: &str = "must be a JSON object, as the data of every message is";
/// The most values in an example.
const MAX_EXAMPLE_PARTS: usize = 1_000;
/// Up to this many pairs of a schema's and an example's values, a refusal says where the example fails. Finding that
/// out costs a thousand times more than the answer whether it does.
const MAX_EXPLAINED_PAIRS: usize = 100_000;
/// The largest compiled pattern of a schema, in bytes.
const MAX_PATTERN_BYTES: usize = 100 * 1024;

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The part of a definition that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// The event type's name.
    Name,
    /// The description.
    Description,
    /// The category.
    Category,
    /// The version.
    Version,
    /// Why it is deprecated.
    DeprecationReason,
    /// The schema.
    Schema,
    /// The example.
    Example,
}

/// The definition cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", field.as_str())]
pub struct InvalidDefinition {
    /// The first field that is wrong.
    pub field: Field,
    /// What is wrong with it.
    pub reason: String,
}

impl Field {
    /// The field's name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Description => "description",
            Self::Category => "category",
            Self::Version => "version",
            Self::DeprecationReason => "deprecationReason",
            Self::Schema => "schema",
            Self::Example => "example",
        }
    }

    fn invalid(self, reason: impl ToString) -> InvalidDefinition {
        InvalidDefinition { field: self, reason: reason.to_string() }
    }
}

impl InvalidDefinition {
    /// Clients match on it.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::InvalidInput
    }
}

/// What a tenant says of an event type of its own.
#[derive(Clone, Debug)]
pub struct Draft<'a> {
    /// The event type.
    pub name: &'a str,
    /// When it happens.
    pub description: &'a str,
    /// The group that it is listed under.
    pub category: &'a str,
    /// What its data looks like, in a word that changes with the schema.
    pub version: &'a str,
    /// Why it will not be published for ever; `None`: it will be.
    pub deprecation_reason: Option<&'a str>,
    /// JSON Schema 2020-12 of its data.
    pub schema: Value,
    /// Data that conforms to the schema.
    pub example: Value,
}

impl Draft<'_> {
    /// The name, if that and everything else but schema and example keeps the rules: for a change of these words alone.
    ///
    /// # Errors
    /// As [`Definition::check`].
    pub fn check_words(&self) -> Result<EventType, InvalidDefinition> {
        let name = EventType::parse(self.name).map_err(|error| Field::Name.invalid(error))?;
        if name.is_reserved() {
            return Err(Field::Name.invalid("names that begin with 'webhook.' are reserved"));
        }
        check_text(Field::Description, self.description, 0..=MAX_DESCRIPTION_CHARS)?;
        check_text(Field::Category, self.category, 1..=MAX_CATEGORY_CHARS)?;
        check_version(self.version)?;
        if let Some(reason) = self.deprecation_reason {
            check_text(Field::DeprecationReason, reason, 1..=MAX_DESCRIPTION_CHARS)?;
        }
        Ok(name)
    }
}

impl Definition {
    /// A tenant's own event type, published from now on.
    ///
    /// The schema is JSON Schema 2020-12 and may refer to itself only as `#/…`, never in a circle; its patterns know no
    /// look-around and no back-references.
    ///
    /// # Errors
    /// Names the first field that breaks a rule, and the rule.
    pub fn check(draft: Draft<'_>) -> Result<Self, InvalidDefinition> {
        let name = draft.check_words()?;
        let Draft { name: _, description, category, version, deprecation_reason, schema, example } = draft;
        check_size(Field::Schema, &schema, MAX_SCHEMA_BYTES)?;
        check_size(Field::Example, &example, MAX_EXAMPLE_BYTES)?;
        let schema_parts = count_schema_parts(&schema)?;
        let example_parts = count_parts(&example);
        if example_parts > MAX_EXAMPLE_PARTS {
            return Err(Field::Example.invalid(format!("has more than {MAX_EXAMPLE_PARTS} values")));
        }
        let validator = compile(&schema)?;
        if !validator.is_valid(&example) {
            let explained = schema_parts * example_parts <= MAX_EXPLAINED_PAIRS;
            let error = explained.then(|| validator.validate(&example).err()).flatten();
            let place = error.map_or(String::new(), |error| format!(": {}", located(&error)));
            return Err(Field::Example.invalid(format!("does not conform to the schema{place}")));
        }
        if !example.is_object() {
            return Err(Field::Example.invalid(NOT_AN_OBJECT));
        }
        let stage = if deprecation_reason.is_some() { Stage::Deprecated } else { Stage::Available };
        let (category, description, version) = (category.to_owned(), description.to_owned(), version.to_owned());
        let deprecation_reason = deprecation_reason.map(str::to_owned);
        Ok(Self { name, category, stage, description, version, schema, example, deprecation_reason })
    }
}

fn check_version(version: &str) -> Result<(), InvalidDefinition> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match version.len() {
        1..=MAX_VERSION_CHARS if version.bytes().all(fits) => Ok(()),
        _ => Err(Field::Version.invalid(format!("must be 1 to {MAX_VERSION_CHARS} letters, digits, '.', '_' and '-'"))),
    }
}

fn check_text(field: Field, text: &str, chars: std::ops::RangeInclusive<usize>) -> Result<(), InvalidDefinition> {
    if !chars.contains(&text.chars().count()) {
        return Err(field.invalid(format!("must have {} to {} characters", chars.start(), chars.end())));
    }
    if text.contains(char::is_control) { Err(field.invalid("must not contain control characters")) } else { Ok(()) }
}

fn check_size(field: Field, value: &Value, most: usize) -> Result<(), InvalidDefinition> {
    let text = value.to_string();
    if text.len() > most {
        return Err(field.invalid(format!("is {} bytes long, the limit is {most}", text.len())));
    }
    json::canonicalise(text.as_bytes()).map(drop).map_err(|error| field.invalid(error))
}

fn compile(schema: &Value) -> Result<Validator, InvalidDefinition> {
    jsonschema::draft202012::options()
        .offline()
        .with_pattern_options(PatternOptions::regex().size_limit(MAX_PATTERN_BYTES))
        .build(schema)
        .map_err(|error| Field::Schema.invalid(format!("is no JSON Schema: {}", located(&error))))
}

/// What is wrong and where, without the value itself, which may be as long as the whole text.
fn located(error: &ValidationError<'_>) -> String {
    match error.instance_path().as_str() {
        "" => error.masked().to_string(),
        path => format!("{} at {path}", error.masked()),
    }
}

fn count_parts(value: &Value) -> usize {
    let mut waiting = vec![value];
    let mut parts = 0;
    while let Some(value) = waiting.pop() {
        parts += 1;
        push_children(&mut waiting, value);
    }
    parts
}

/// Counts the values of a schema with its references followed, and refuses what the count cannot follow. What stands
/// under the root's `$defs` counts wherever it is referred to, and there only.
fn count_schema_parts(schema: &Value) -> Result<usize, InvalidDefinition> {
    let refused = |reason: &str| Err(Field::Schema.invalid(reason));
    if schema.get("$schema").is_some_and(|dialect| dialect != DIALECT) {
        return refused("must be JSON Schema 2020-12");
    }
    let mut waiting = vec![schema];
    let mut parts = 0;
    while let Some(value) = waiting.pop() {
        parts += 1;
        if parts > MAX_SCHEMA_PARTS {
            return Err(Field::Schema.invalid(format!(
                "is recursive, or has more than {MAX_SCHEMA_PARTS} values with its references followed"
            )));
        }
        if let Value::Object(root) = value
            && std::ptr::eq(value, schema)
        {
            waiting.extend(root.iter().filter(|(key, _)| *key != "$defs").map(|(_, child)| child));
        } else {
            push_children(&mut waiting, value);
        }
        if value.get("$id").is_some_and(Value::is_string) && !std::ptr::eq(value, schema) {
            return refused("must not contain '$id' but at its root");
        }
        if ["$dynamicRef", "$recursiveRef"].iter().any(|key| value.get(key).is_some_and(Value::is_string)) {
            return refused("must not contain dynamic references");
        }
        if let Some(Value::String(reference)) = value.get("$ref") {
            match reference.strip_prefix('#').and_then(|pointer| schema.pointer(pointer)) {
                Some(target) => waiting.push(target),
                None => return refused("refers to something that is not a '#/…' within it"),
            }
        }
    }
    Ok(parts)
}

fn push_children<'a>(waiting: &mut Vec<&'a Value>, value: &'a Value) {
    match value {
        Value::Array(items) => waiting.extend(items),
        Value::Object(members) => waiting.extend(members.values()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn register(schema: Value, example: Value) -> Result<Definition, String> {
        Definition::check(Draft { schema, example, ..draft() }).map_err(|error| error.to_string())
    }

    fn draft() -> Draft<'static> {
        Draft {
            name: "invoice.paid",
            description: "An invoice was paid.",
            category: "billing",
            version: "1",
            deprecation_reason: None,
            schema: json!({}),
            example: json!({}),
        }
    }

    /// Said of an example that conforms to its schema, and is no object.
    const CONFORMS: &str = "example: must be a JSON object, as the data of every message is";

    fn refusal(schema: Value, example: Value) -> String {
        register(schema, example).unwrap_err()
    }

    #[test]
    fn a_tenants_event_type_is_available_once_it_is_checked() {
        // A8, A22
        let schema = json!({"$schema": DIALECT, "type": "object", "required": ["amount"], "properties": {"amount": {"$ref": "#/$defs/money"}},
            "$defs": {"money": {"type": "number", "minimum": 0}}});
        let definition = register(schema.clone(), json!({"amount": 12.5})).unwrap();
        assert_eq!((definition.name.as_str(), definition.stage), ("invoice.paid", Stage::Available));
        assert_eq!(definition.schema.to_string(), schema.to_string());
        assert!(register(json!(true), json!({})).is_ok());
    }

    #[test]
    fn an_error_names_the_field() {
        let check = |name: &str, description: &str, category: &str| {
            Definition::check(Draft { name, description, category, ..draft() }).unwrap_err()
        };
        assert_eq!(check("webhook.test", "", "c").to_string(), "name: names that begin with 'webhook.' are reserved");
        assert_eq!(
            check("a.*", "", "c").to_string(),
            "name: event type 'a.*' is invalid: only filters may contain '*'"
        );
        assert_eq!(check("a", &"ü".repeat(201), "c").to_string(), "description: must have 0 to 200 characters");
        assert!(Definition::check(Draft { description: &"ü".repeat(200), ..draft() }).is_ok());
        assert_eq!(check("a", "", "").to_string(), "category: must have 1 to 64 characters");
        assert_eq!(check("a", "", "b\nc").field, Field::Category);
        assert_eq!(check("a", "", "").code(), ErrorCode::InvalidInput);
    }

    #[test]
    fn a_version_is_a_word_and_a_deprecation_has_a_reason() {
        let (long, all) = ("1".repeat(33), "a-Z_0.9");
        for version in ["", "1 2", "é", &long] {
            let refused = Definition::check(Draft { version, ..draft() }).unwrap_err();
            assert_eq!(refused.to_string(), "version: must be 1 to 32 letters, digits, '.', '_' and '-'");
        }
        assert_eq!(Definition::check(Draft { version: all, ..draft() }).unwrap().version, all);
        let deprecated = |reason| Definition::check(Draft { deprecation_reason: Some(reason), ..draft() });
        assert_eq!(deprecated("").unwrap_err().field, Field::DeprecationReason);
        assert_eq!(deprecated("use invoice.settled").unwrap().stage, Stage::Deprecated);
    }

    #[test]
    fn the_schema_must_be_one() {
        assert!(refusal(json!(3), json!({})).starts_with("schema: is no JSON Schema: value is not of types"));
        let negative = json!({"properties": {"a": {"minLength": -1}}});
        assert_eq!(
            refusal(negative, json!({})),
            "schema: is no JSON Schema: value is less than the minimum of 0 at /properties/a/minLength"
        );
        assert_eq!(
            refusal(json!({"$schema": "http://json-schema.org/draft-07/schema#"}), json!({})),
            "schema: must be JSON Schema 2020-12"
        );
        assert!(refusal(json!({"pattern": "(?=a)b"}), json!("b")).starts_with("schema: is no JSON Schema"));
        assert!(refusal(json!({"description": "a".repeat(MAX_SCHEMA_BYTES)}), json!({})).starts_with("schema: is 655"));
    }

    #[test]
    fn the_example_must_conform_and_the_error_says_where_it_does_not() {
        let schema = json!({"type": "object", "properties": {"users": {"items": {"type": "string"}}}});
        assert_eq!(
            refusal(schema, json!({"users": ["a", 1]})),
            r#"example: does not conform to the schema: value is not of type "string" at /users/1"#
        );
        let vast = json!({"items": {"anyOf": vec![json!({"type": "string"}); 1_900]}});
        assert_eq!(refusal(vast, json!(vec![0; 900])), "example: does not conform to the schema");
        assert!(refusal(json!({}), json!("a".repeat(MAX_EXAMPLE_BYTES))).starts_with("example: is 655"));
        assert_eq!(refusal(json!({}), json!(vec![0; MAX_EXAMPLE_PARTS])), "example: has more than 1000 values");
        for other in [json!([]), json!("text"), json!(null)] {
            assert_eq!(refusal(json!({}), other), CONFORMS);
        }
    }

    #[test]
    fn nothing_outside_the_schema_is_referred_to() {
        let outside = [
            "https://example.com/x",
            "file:///etc/passwd",
            "other#/a",
            "#anchor",
            "#/$defs/missing",
            "//example.com",
            "",
        ];
        for reference in outside {
            let said = refusal(json!({"items": {"$ref": reference}, "$anchor": "anchor"}), json!({}));
            assert_eq!(said, "schema: refers to something that is not a '#/…' within it", "{reference}");
        }
        assert_eq!(
            refusal(json!({"items": {"$dynamicRef": "#a"}}), json!({})),
            "schema: must not contain dynamic references"
        );
        assert_eq!(
            refusal(json!({"items": {"$id": "https://example.com/y"}}), json!({})),
            "schema: must not contain '$id' but at its root"
        );
    }

    #[test]
    fn a_schema_that_would_be_walked_for_ever_or_nearly_is_refused() {
        let doubled = |depth: usize, keyword: &str| {
            let defs: serde_json::Map<_, _> = (0..depth)
                .map(|level| {
                    let next = json!({"$ref": format!("#/$defs/{}", level + 1)});
                    (level.to_string(), json!({keyword: [next.clone(), next]}))
                })
                .chain([(depth.to_string(), json!({"type": "string"}))])
                .collect();
            json!({"$ref": "#/$defs/0", "$defs": defs})
        };
        for recursive in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}),
            json!({"properties": {"a": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}}),
            doubled(60, "anyOf"),
            doubled(60, "allOf"),
        ] {
            assert!(refusal(recursive, json!(1)).starts_with("schema: is recursive, or has more than 4000 values"));
        }
        assert_eq!(refusal(doubled(5, "anyOf"), json!("text")), CONFORMS);
        assert!(refusal(doubled(5, "anyOf"), json!(1)).starts_with("example: does not conform to the schema"));
    }

    #[test]
    fn a_long_chain_of_references_and_deep_nesting_do_not_exhaust_the_stack() {
        let last = 1_900;
        let chain: serde_json::Map<_, _> = (0..last)
            .map(|level| (level.to_string(), json!({"$ref": format!("#/$defs/{}", level + 1)})))
            .chain([(last.to_string(), json!({"type": "string"}))])
            .collect();
        let chained = json!({"$ref": "#/$defs/0", "$defs": chain});
        assert_eq!(refusal(chained.clone(), json!("text")), CONFORMS);
        assert_ne!(refusal(chained, json!(1)), CONFORMS);
        let deep = (0..json::MAX_DEPTH - 1).fold(json!({"type": "string"}), |inner, _| json!({"not": inner}));
        assert_ne!(refusal(deep.clone(), json!("text")), CONFORMS);
        assert_eq!(refusal(deep, json!(1)), CONFORMS);
        let deeper = (0..json::MAX_DEPTH).fold(json!({}), |inner, _| json!({"not": inner}));
        assert_eq!(refusal(deeper, json!(1)), "schema: nested deeper than 100 levels");
    }
}

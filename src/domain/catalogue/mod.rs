//! The catalogue of event types: what can be published, what its data looks like, and a sample of it.
//!
//! The catalogue is data (A8). What the two documents name stands in `schema/catalogue/`, a file for each document and
//! one for ourselves, built into the program; tenants register more, under the rules of [`Definition::check`].
//!
//! - A definition describes the `data` of a message, never the envelope, which is a profile's matter.
//! - A schema says what a publisher promises. It never stands in the way of a delivery.
//! - Where a document names an event type but not its shape (`enterprise.*`, A22; all of AxisSynapse, S9), the
//!   description says so: schema and example are then ours.

mod check;

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::filter::EventType;

pub use check::{
    Draft, Field, InvalidDefinition, MAX_CATEGORY_CHARS, MAX_DESCRIPTION_CHARS, MAX_EXAMPLE_BYTES, MAX_SCHEMA_BYTES,
    MAX_VERSION_CHARS,
};

/// The version of an event type whose registrant gives none.
pub const FIRST_VERSION: &str = "1";

/// One event type, as the catalogue describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// The event type.
    pub name: EventType,
    /// The group that it is listed under, such as `team`.
    pub category: String,
    /// Where it stands in its life.
    pub stage: Stage,
    /// When it happens, in one sentence.
    pub description: String,
    /// What `data` looks like, in a word that changes with the schema.
    pub version: String,
    /// JSON Schema 2020-12 of `data`.
    pub schema: Value,
    /// A `data` that conforms to the schema; what a test delivery of this type carries (A17).
    pub example: Value,
    /// Why it will not be published for ever, if it is [`Stage::Deprecated`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecation_reason: Option<String>,
}

/// Where an event type stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It is published.
    Available,
    /// It is announced; nobody publishes it yet.
    Planned,
    /// It is still published, and will not be for ever.
    Deprecated,
}

/// The event types that every tenant has, in the order of the documents.
pub fn builtin() -> &'static [Definition] {
    static BUILTIN: LazyLock<Vec<Definition>> = LazyLock::new(|| {
        let files = [
            include_str!("../../../schema/catalogue/axie.json"),
            include_str!("../../../schema/catalogue/axissynapse.json"),
            include_str!("../../../schema/catalogue/tidings.json"),
        ];
        let definitions =
            |file| serde_json::from_str::<Vec<Definition>>(file).expect("the tests read every built-in file");
        files.into_iter().flat_map(definitions).collect()
    });
    &BUILTIN
}

/// The built-in definition of an event type.
pub fn find(name: &EventType) -> Option<&'static Definition> {
    builtin().iter().find(|definition| definition.name == *name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;
    use crate::domain::filter::{Filter, narrow_star_hint};
    use crate::domain::json::canonicalise;

    fn named(text: &str) -> &'static Definition {
        find(&EventType::parse(text).unwrap()).unwrap_or_else(|| panic!("{text} is in the catalogue"))
    }

    fn picked_by(filter: &str) -> Vec<&'static str> {
        let filter = Filter::parse(filter).unwrap();
        builtin()
            .iter()
            .map(|definition| &definition.name)
            .filter(|name| filter.matches(name))
            .map(EventType::as_str)
            .collect()
    }

    #[test]
    fn every_built_in_definition_passes_the_check_that_tenants_pass() {
        for definition in builtin() {
            let Definition { name, category, description, version, deprecation_reason, schema, example, .. } =
                definition;
            // The one name that tenants are refused is checked under another.
            let passes = if name.is_reserved() { "any.other" } else { name.as_str() };
            let checked = Definition::check(Draft {
                name: passes,
                description,
                category,
                version,
                deprecation_reason: deprecation_reason.as_deref(),
                schema: schema.clone(),
                example: example.clone(),
            });
            let expected = Definition { name: EventType::parse(passes).unwrap(), ..definition.clone() };
            assert_eq!(checked.map_err(|error| error.to_string()), Ok(expected), "{name}");
        }
    }

    #[test]
    fn every_example_is_left_alone_by_javascript() {
        // A25
        for Definition { name, example, .. } in builtin() {
            let text = example.to_string();
            let canonical = canonicalise(text.as_bytes()).unwrap();
            assert_eq!((canonical.text(), canonical.is_stable()), (text.as_str(), true), "{name}");
        }
    }

    #[test]
    fn no_event_type_is_defined_twice() {
        let names: HashSet<_> = builtin().iter().map(|definition| &definition.name).collect();
        assert_eq!(names.len(), builtin().len());
        assert_eq!(find(&EventType::parse("user.renamed").unwrap()), None);
    }

    #[test]
    fn the_axie_catalogue_is_the_documents_with_its_own_samples() {
        // A7, A16, A20, A21, A22
        let sample = |name| named(name).example.to_string();
        assert_eq!(
            sample("user.created"),
            r#"{"userId":"user_xyz789","email":"john@company.com","name":"John Smith","role":"user","invitedBy":"sarah@company.com","invitedByEmail":"sarah@company.com"}"#
        );
        assert_eq!(
            sample("user.updated"),
            r#"{"userId":"user_xyz789","email":"john@company.com","name":"John Smith","role":"user","updatedFields":["name","role"]}"#
        );
        assert_eq!(
            sample("user.deleted"),
            r#"{"userId":"user_xyz789","email":"john@company.com","deletedBy":"sarah@company.com"}"#
        );
        assert_eq!(
            sample("role.changed"),
            r#"{"userId":"user_xyz789","email":"john@company.com","oldRole":"user","newRole":"admin","changedBy":"sarah@company.com"}"#
        );
        assert_eq!(sample("webhook.test"), r#"{"message":"This is a test webhook"}"#);
        for name in ["enterprise.created", "enterprise.updated", "settings.updated"] {
            assert_eq!(
                (named(name).category.as_str(), &named(name).schema["properties"]),
                ("enterprise", &Value::Null)
            );
        }
    }

    #[test]
    fn the_documents_filters_pick_what_they_are_said_to_pick() {
        // S9, S10, S11
        assert_eq!(picked_by("platform.saml.provider.enabled"), ["platform.saml.provider.enabled"]);
        assert_eq!(picked_by("platform.saml.*"), [""; 0]);
        assert_eq!(picked_by("platform.saml.**").len(), 3);
        assert_eq!(picked_by("platform.**").len(), 3);
        assert_eq!(picked_by("account.mfa.*").len(), 4);
        assert_eq!(picked_by("account.security_alert.**").len(), 3);
        assert_eq!(picked_by("**").len(), builtin().len());
        let hint = |filter| {
            let names = builtin().iter().map(|definition| &definition.name);
            narrow_star_hint(&Filter::parse(filter).unwrap(), names).map(|hint| hint.to_string())
        };
        assert_eq!(hint("platform.saml.*").as_deref(), Some("platform.saml.**"));
        assert_eq!(hint("account.mfa.*"), None);
        assert_eq!(hint("user.*"), None);
    }

    #[test]
    fn a_definition_is_stored_and_read_back_with_its_keys_in_order() {
        let definition = named("user.created");
        let stored = serde_json::to_string(definition).unwrap();
        assert!(stored.starts_with(r#"{"name":"user.created","category":"team","stage":"available","description":"#));
        let read: Definition = serde_json::from_str(&stored).unwrap();
        assert_eq!(read.schema.to_string(), definition.schema.to_string());
        assert_eq!(serde_json::to_value(Stage::Planned).unwrap(), json!("planned"));
    }
}

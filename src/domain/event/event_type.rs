//! What a tenant announces that it will publish.

use serde::{Deserialize, Serialize};

use super::Change;
use crate::domain::catalogue::FIRST_VERSION;
use crate::domain::filter::EventType;

/// A tenant announced an event type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventTypeRegistered {
    /// The name.
    pub name: EventType,
    /// What it belongs to.
    pub category: String,
    /// What it tells, for people.
    pub description: String,
    /// What its data looks like, in a word that changes with the schema; absent: [`FIRST_VERSION`].
    #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
    pub version: String,
    /// JSON Schema of the data.
    pub schema: serde_json::Value,
    /// Data that conforms to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<serde_json::Value>,
}

/// A tenant changed the definition of an event type of its own; what is absent stayed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventTypeUpdated {
    /// Of which one.
    pub name: EventType,
    /// What it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<Change<String>>,
    /// What it tells, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Change<String>>,
    /// The version of its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Change<String>>,
    /// The new JSON Schema of the data; the one before stands in an earlier event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Value>,
    /// New data that conforms to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<serde_json::Value>,
    /// Why it will not be published for ever; after it none: it will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecation_reason: Option<Change<Option<String>>>,
}

fn first_version() -> String {
    FIRST_VERSION.to_owned()
}

fn is_first_version(version: &str) -> bool {
    version == FIRST_VERSION
}

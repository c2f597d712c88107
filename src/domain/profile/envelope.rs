//! What stands in a body.

use serde::Deserialize;

/// One field of the body.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Its key.
    pub name: String,
    /// What stands in it.
    pub value: FieldValue,
}

/// What may stand in a field of the body: nothing that changes from attempt to attempt.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldValue {
    /// The message's id.
    MessageId,
    /// The event type.
    Type,
    /// When the event happened, in whole seconds.
    OccurredAtSeconds,
    /// When the event happened, in milliseconds.
    OccurredAtMs,
    /// The tenant's public id.
    Tenant,
    /// The publisher's data.
    Data,
    /// A fixed text.
    Text(String),
}

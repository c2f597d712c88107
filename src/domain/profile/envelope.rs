//! What stands in a body.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::domain::json;

/// The body around a message's data. Always a JSON object, since data is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// None: the body is the data. Written as `"data"`.
    Data,
    /// These fields, in order. Written as their list.
    Fields(Vec<Field>),
}

/// One field of an object in the body.
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
    /// When the event happened, as text in RFC 3339 with whole seconds.
    OccurredAtSeconds,
    /// The same with milliseconds.
    OccurredAtMs,
    /// When the event happened, as the number of seconds since 1970.
    OccurredAtUnix,
    /// The same in milliseconds.
    OccurredAtUnixMs,
    /// The tenant's public id.
    Tenant,
    /// The publisher's data.
    Data,
    /// A fixed text.
    Text(String),
    /// Any fixed value.
    Json(Literal),
    /// An object of these fields, in order.
    Object(Vec<Field>),
}

/// A fixed JSON value, in the form that JavaScript leaves alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Literal(String);

impl Literal {
    /// The value as JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Envelope {
    /// Keys of the body, in order; none if it is the data itself.
    pub fn names(&self) -> Vec<&str> {
        self.fields().iter().map(|field| field.name.as_str()).collect()
    }

    /// The name of the field at the top that holds this.
    pub fn name_of(&self, value: &FieldValue) -> Option<&str> {
        self.fields().iter().find(|field| field.value == *value).map(|field| field.name.as_str())
    }

    fn fields(&self) -> &[Field] {
        match self {
            Self::Data => &[],
            Self::Fields(fields) => fields,
        }
    }
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrList;

        impl<'de> Visitor<'de> for TextOrList {
            type Value = Envelope;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of fields, or \"data\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Envelope, E> {
                match text {
                    "data" => Ok(Envelope::Data),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, fields: A) -> Result<Envelope, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(fields)).map(Envelope::Fields)
            }
        }

        deserializer.deserialize_any(TextOrList)
    }
}

impl<'de> Deserialize<'de> for Literal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let canonical = json::canonicalise(value.to_string().as_bytes()).map_err(D::Error::custom)?;
        if !canonical.is_stable() {
            return Err(D::Error::custom("JavaScript would write the value otherwise: a number has too many digits"));
        }
        Ok(Self(canonical.into_text()))
    }
}

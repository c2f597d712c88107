//! Between domain events and the log's bytes.
//!
//! Each event has a type name and a schema version, and both are for ever: `schema/events/<type>.v<n>.json` holds a
//! sample of every one, and a test reads them all. An unknown type or version is an error, never skipped: a state
//! folded without it would be wrong.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::event::{DeliveryEvent, Event, MessageEvent, SubscriptionEvent, TenantEvent};
use crate::event_store::{Position, Recorded};

/// An event that this program cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer program, or not by this one.
    #[error("the event at {position} has the unknown type '{kind}' version {schema}")]
    UnknownType {
        /// Where.
        position: Position,
        /// Its type.
        kind: String,
        /// Its schema version.
        schema: u16,
    },
    /// The payload does not fit its type.
    #[error("the event '{kind}' at {position} is damaged: {reason}")]
    Damaged {
        /// Where.
        position: Position,
        /// Its type.
        kind: String,
        /// What does not fit.
        reason: String,
    },
}

/// What the log stores of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The type's name.
    pub kind: &'static str,
    /// The schema's version.
    pub schema: u16,
    /// JSON text.
    pub data: String,
}

macro_rules! registry {
    ($($stream:ident :: $of:ident { $($variant:ident = $kind:literal, $schema:literal;)* })*) => {
        /// Every type name with its newest schema version.
        pub const TYPES: &[(&str, u16)] = &[$($(($kind, $schema),)*)*];

        /// Writes an event in its newest version.
        pub fn encode(event: &Event) -> Encoded {
            match event {
                $($(Event::$stream($of::$variant(payload)) => {
                    Encoded { kind: $kind, schema: $schema, data: write(payload) }
                })*)*
            }
        }

        fn decode_parts(kind: &str, schema: u16, data: &str) -> Option<Result<Event, serde_json::Error>> {
            match (kind, schema) {
                $($(($kind, $schema) => Some(read(data).map(|payload| Event::$stream($of::$variant(payload)))),)*)*
                _ => None,
            }
        }
    };
}

registry! {
    Tenant::TenantEvent {
        Created = "tenant.created", 1;
        EventTypeRegistered = "event_type.registered", 1;
        ApiKeyIssued = "api_key.issued", 1;
        ApiKeyRevoked = "api_key.revoked", 1;
    }
    Message::MessageEvent {
        Published = "message.published", 1;
    }
    Subscription::SubscriptionEvent {
        Created = "subscription.created", 1;
        Updated = "subscription.updated", 1;
        Enabled = "subscription.enabled", 1;
        Disabled = "subscription.disabled", 1;
        SecretRotated = "subscription.secret_rotated", 1;
        TestSent = "subscription.test_sent", 1;
        RedeliveryRequested = "subscription.redelivery_requested", 1;
        Deleted = "subscription.deleted", 1;
    }
    Delivery::DeliveryEvent {
        Scheduled = "delivery.scheduled", 1;
        AttemptFailed = "delivery.attempt_failed", 1;
        Succeeded = "delivery.succeeded", 1;
        Exhausted = "delivery.exhausted", 1;
    }
}

/// Reads a recorded event.
pub fn decode(recorded: &Recorded) -> Result<Event, DecodeError> {
    let Recorded { position, kind, schema, data, .. } = recorded;
    match decode_parts(kind, *schema, data) {
        Some(Ok(event)) => Ok(event),
        Some(Err(error)) => {
            Err(DecodeError::Damaged { position: *position, kind: kind.to_string(), reason: error.to_string() })
        }
        None => Err(DecodeError::UnknownType { position: *position, kind: kind.to_string(), schema: *schema }),
    }
}

fn write<T: Serialize>(payload: &T) -> String {
    serde_json::to_string(payload).expect("event payloads have string keys and finite numbers")
}

fn read<T: DeserializeOwned>(data: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(data)
}

//! Between domain events and the log's bytes.
//!
//! Each event has a type name and a schema version, and both are for ever: `schema/events/<type>.v<n>.json` holds a
//! sample of every one, and a test reads them all. `docs/events.md` says how to add one.
//!
//! - An unknown type or version is an error, never skipped: a state folded without it would be wrong.
//! - An older version is read into a struct of its own and taken to the newest by `From`, one step for each version.
//!   Nobody else ever sees it: the log stays as it was written, and everything is written in the newest version.
//! - An unknown field is passed over. It is how a newer program tells more without a new version, so a field may only
//!   tell what a program that does not know it can do without; whatever changes what is to be done is a new version,
//!   which an older program refuses.

mod old;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::event::{DeliveryEvent, Event, MessageEvent, SubscriptionEvent, TenantEvent};
use crate::event_store::{Position, Recorded, StreamName};

/// An event that this program cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer program, or not by this one.
    #[error("the event at {position} has the unknown type '{kind}' version {schema}")]
    UnknownType {
        /// Where.
        position: Position,
        /// In which stream.
        stream: StreamName,
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
        /// In which stream.
        stream: StreamName,
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

/// Each line names a variant, its type, the newest version, and then each older version with the struct that it is read
/// into and those it goes through: `Weighed = "parcel.weighed", 3, 1: old::WeighedV1 => old::WeighedV2, 2: old::WeighedV2;`.
macro_rules! registry {
    ($visible:vis types: $($stream:ident :: $of:ident {
        $($variant:ident = $kind:literal, $newest:literal $(, $old:literal: $first:ty $(=> $next:ty)*)*;)*
    })*) => {
        /// Every type name with its newest schema version.
        $visible const TYPES: &[(&str, u16)] = &[$($(($kind, $newest),)*)*];

        /// Every type name with each schema version that can be read.
        $visible const VERSIONS: &[(&str, u16)] = &[$($(($kind, $newest), $(($kind, $old),)*)*)*];

        /// Writes an event in its newest version.
        $visible fn encode(event: &Event) -> Encoded {
            match event {
                $($(Event::$stream($of::$variant(payload)) => {
                    Encoded { kind: $kind, schema: $newest, data: write(payload) }
                })*)*
            }
        }

        fn decode_parts(kind: &str, schema: u16, data: &str) -> Option<Result<Event, serde_json::Error>> {
            match (kind, schema) {
                $($(
                    ($kind, $newest) => Some(read(data).map(|payload| Event::$stream($of::$variant(payload)))),
                    $(($kind, $old) => Some(
                        read::<$first>(data)
                            $(.map(<$next>::from))*
                            .map(|payload| Event::$stream($of::$variant(payload.into()))),
                    ),)*
                )*)*
                _ => None,
            }
        }
    };
}

registry! {
    pub types:
    Tenant::TenantEvent {
        Created = "tenant.created", 1;
        EventTypeRegistered = "event_type.registered", 1;
        EventTypeUpdated = "event_type.updated", 1;
        ApiKeyIssued = "api_key.issued", 1;
        ApiKeyRevoked = "api_key.revoked", 1;
        SettingsChanged = "tenant.settings_changed", 1;
        UserAdded = "user.added", 1;
        UserCredentialsReset = "user.credentials_reset", 1;
        UserDisabled = "user.disabled", 1;
        UserAuthenticationFailed = "user.authentication_failed", 1;
        ConfigChanged = "system.config_changed", 1;
        ErasureStarted = "erasure.started", 1;
        ErasureAdvanced = "erasure.advanced", 1;
        ErasureCompleted = "erasure.completed", 1;
        KekRotated = "system.kek_rotated", 1;
    }
    Message::MessageEvent {
        Published = "message.published", 1;
        PayloadErased = "message.payload_erased", 1;
        PeriodOpened = "messages.period_opened", 1;
    }
    Subscription::SubscriptionEvent {
        Created = "subscription.created", 1;
        Updated = "subscription.updated", 1;
        Enabled = "subscription.enabled", 1;
        Disabled = "subscription.disabled", 1;
        SecretRotated = "subscription.secret_rotated", 1;
        TestSent = "subscription.test_sent", 1;
        RedeliveryRequested = "subscription.redelivery_requested", 1;
        RescheduleRequested = "subscription.reschedule_requested", 1;
        CancellationRequested = "subscription.cancellation_requested", 1;
        HoldChanged = "subscription.hold_changed", 1;
        CircuitTripped = "subscription.circuit_tripped", 1;
        CircuitReenabled = "subscription.circuit_reenabled", 1;
        CircuitProbing = "subscription.circuit_probing", 1;
        CircuitClosed = "subscription.circuit_closed", 1;
        MatchesLost = "subscription.matches_lost", 1;
        EgressBlocked = "subscription.egress_blocked", 1;
        JobStarted = "subscription.job_started", 1;
        JobEnded = "subscription.job_ended", 1;
        Deleted = "subscription.deleted", 1;
        Restored = "subscription.restored", 1;
        SecretsDestroyed = "subscription.secrets_destroyed", 1;
    }
    Delivery::DeliveryEvent {
        Scheduled = "delivery.scheduled", 1;
        AttemptFailed = "delivery.attempt_failed", 2, 1: old::AttemptFailedV1;
        Succeeded = "delivery.succeeded", 1;
        Exhausted = "delivery.exhausted", 1;
        Expired = "delivery.expired", 1;
        Rescheduled = "delivery.rescheduled", 1;
        Cancelled = "delivery.cancelled", 1;
        Backfilled = "delivery.backfilled", 1;
        JobAdvanced = "delivery.job_advanced", 1;
        PeriodOpened = "deliveries.period_opened", 1;
        Carried = "deliveries.carried", 1;
    }
}

/// Whether events of this type can be read in any version.
pub fn knows(kind: &str) -> bool {
    TYPES.iter().any(|(known, _)| *known == kind)
}

/// Reads a recorded event.
pub fn decode(recorded: &Recorded) -> Result<Event, DecodeError> {
    let Recorded { position, stream, kind, schema, data, .. } = recorded;
    let (position, stream, kind) = (*position, || stream.clone(), || kind.to_string());
    match decode_parts(&recorded.kind, *schema, data) {
        Some(Ok(event)) => Ok(event),
        Some(Err(error)) => {
            Err(DecodeError::Damaged { position, stream: stream(), kind: kind(), reason: error.to_string() })
        }
        None => Err(DecodeError::UnknownType { position, stream: stream(), kind: kind(), schema: *schema }),
    }
}

fn write<T: Serialize>(payload: &T) -> String {
    serde_json::to_string(payload).expect("event payloads have string keys and finite numbers")
}

fn read<T: DeserializeOwned>(data: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(data)
}

/// Types of the tests' own, which have more versions than any of the log's.
#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq)]
    enum Event {
        Parcel(ParcelEvent),
    }

    #[derive(Debug, PartialEq)]
    enum ParcelEvent {
        Weighed(Weighed),
        Lost(Lost),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Weighed {
        parcel: String,
        mass_mg: u64,
        scale: Scale,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Scale {
        Unknown,
        Certified,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Lost {
        parcel: String,
    }

    mod old {
        use serde::Deserialize;

        use super::{Scale, Weighed};

        #[derive(Deserialize)]
        pub(super) struct WeighedV1 {
            parcel: String,
            kilograms: u64,
        }

        #[derive(Deserialize)]
        pub(super) struct WeighedV2 {
            parcel: String,
            grams: u64,
        }

        impl From<WeighedV1> for WeighedV2 {
            fn from(WeighedV1 { parcel, kilograms }: WeighedV1) -> Self {
                Self { parcel, grams: kilograms * 1_000 }
            }
        }

        impl From<WeighedV2> for Weighed {
            fn from(WeighedV2 { parcel, grams }: WeighedV2) -> Self {
                Self { parcel, mass_mg: grams * 1_000, scale: Scale::Unknown }
            }
        }
    }

    registry! {
        types:
        Parcel::ParcelEvent {
            Weighed = "parcel.weighed", 3, 1: old::WeighedV1 => old::WeighedV2, 2: old::WeighedV2;
            Lost = "parcel.lost", 1;
        }
    }

    fn weighed(mass_mg: u64, scale: Scale) -> Event {
        Event::Parcel(ParcelEvent::Weighed(Weighed { parcel: "p".into(), mass_mg, scale }))
    }

    #[test]
    fn every_version_is_read_as_the_newest() {
        for (schema, data, expected) in [
            (1, r#"{"parcel":"p","kilograms":2}"#, weighed(2_000_000, Scale::Unknown)),
            (2, r#"{"parcel":"p","grams":2001}"#, weighed(2_001_000, Scale::Unknown)),
            (3, r#"{"parcel":"p","mass_mg":7,"scale":"certified"}"#, weighed(7, Scale::Certified)),
        ] {
            assert_eq!(decode_parts("parcel.weighed", schema, data).unwrap().unwrap(), expected);
        }
    }

    #[test]
    fn everything_is_written_in_the_newest_version() {
        let read = decode_parts("parcel.weighed", 1, r#"{"parcel":"p","kilograms":2}"#).unwrap().unwrap();
        let data = r#"{"parcel":"p","mass_mg":2000000,"scale":"unknown"}"#.to_owned();
        assert_eq!(encode(&read), Encoded { kind: "parcel.weighed", schema: 3, data });
    }

    #[test]
    fn a_version_is_read_as_itself_alone() {
        assert!(decode_parts("parcel.weighed", 2, r#"{"parcel":"p","kilograms":2}"#).unwrap().is_err());
        assert!(decode_parts("parcel.weighed", 4, r#"{"parcel":"p"}"#).is_none());
        assert!(decode_parts("parcel.lost", 2, r#"{"parcel":"p"}"#).is_none());
    }

    #[test]
    fn every_version_that_can_be_read_is_listed() {
        assert_eq!(TYPES, [("parcel.weighed", 3), ("parcel.lost", 1)]);
        let listed = [("parcel.weighed", 3), ("parcel.weighed", 1), ("parcel.weighed", 2), ("parcel.lost", 1)];
        assert_eq!(VERSIONS, listed);
        let lost = Event::Parcel(ParcelEvent::Lost(Lost { parcel: "p".into() }));
        assert_eq!(encode(&lost).schema, 1);
    }
}

//! Identifiers as types: a prefix that names the kind, and a ULID that sorts by the time of its making.
//!
//! The same text stands in the API, in the log and in what receivers see. None contains a dot, which separates
//! the parts of a Standard Webhooks signature.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

use super::time::Timestamp;

/// The text is not an identifier of the kind that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an id of the form {prefix}…")]
pub struct InvalidId {
    text: String,
    prefix: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// What every id of this kind begins with.
            pub const PREFIX: &'static str = $prefix;

            /// An id made of a time in milliseconds (48 bits) and 80 random bits.
            pub const fn from_parts(at_ms: u64, random: u128) -> Self {
                Self(Ulid::from_parts(at_ms, random))
            }

            /// When it was made.
            pub fn made_at(self) -> Timestamp {
                Timestamp::from_ms(i64::try_from(self.0.timestamp_ms()).unwrap_or(i64::MAX))
            }

            /// The 26 characters behind the prefix.
            pub fn suffix(self) -> String {
                self.0.to_string()
            }

            /// The 128 bits, for hashing to shards and regions.
            pub const fn to_bits(self) -> u128 {
                self.0.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix($prefix)
                    .and_then(|rest| Ulid::from_string(rest).ok().filter(|ulid| ulid.to_string() == rest))
                    .map(Self)
                    .ok_or_else(|| InvalidId { text: text.chars().take(64).collect(), prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// An account that owns messages and subscriptions and sees nobody else's.
    TenantId = "ten_";
    /// A subscription; the API calls it a webhook, as its receivers do.
    SubscriptionId = "wh_";
    /// A published message; receivers deduplicate on it (S15).
    MessageId = "evt_";
    /// One message owed to one subscription.
    DeliveryId = "dlv_";
    /// Many deliveries made at somebody's wish.
    JobId = "job_";
    /// Message data erased at somebody's wish.
    ErasureId = "era_";
    /// An API key; the id is public, the secret behind it is not.
    ApiKeyId = "key_";
    /// A person who logs in with a password and one-time codes.
    UserId = "usr_";
    /// One request to the API, for logs and audit rows.
    RequestId = "req_";
    /// A sealed signing secret; events refer to secrets by this id alone.
    SecretId = "sec_";
    /// One recorded event, so that a repeated append is known as the same.
    EventId = "evn_";
}

impl TenantId {
    /// Of the installation itself: what concerns all tenants, and so none, is kept under an id that no tenant has, since
    /// ids hold the time at which they were made.
    pub const INSTALLATION: Self = Self::from_parts(0, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_back_from_its_text() {
        let id = MessageId::from_parts(1_763_894_415_000, 42);
        assert_eq!(id.to_string().parse::<MessageId>().unwrap(), id);
        assert_eq!(serde_json::from_str::<MessageId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        assert!(!id.to_string().contains('.'));
    }

    #[test]
    fn ids_sort_by_the_time_of_their_making() {
        assert!(DeliveryId::from_parts(1, u128::MAX).to_string() < DeliveryId::from_parts(2, 0).to_string());
    }

    #[test]
    fn another_kinds_id_and_noise_are_refused_by_name() {
        let tenant = TenantId::from_parts(1, 1).to_string();
        assert_eq!(
            tenant.parse::<MessageId>().unwrap_err().to_string(),
            format!("'{tenant}' is not an id of the form evt_…")
        );
        for noise in
            ["", "evt_", "evt_!", "evt_01ARZ3NDEKTSV4RRFFQ69G5FAVX", "evt_01arz3ndektsv4rrffq69g5fav", "evt_８１"]
        {
            assert!(noise.parse::<MessageId>().is_err(), "{noise}");
        }
    }
}

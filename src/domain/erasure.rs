//! Erasing message data: what may be asked for, and which messages are meant.
//!
//! Data goes for good, and what remains says that it was there: the event of the publication, with its salted digest. An
//! erasure begins, looks through what was published before it if it has to, and is complete when the data has left the
//! database's files as well.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::{ErasureAdvanced, ErasureCompleted, ErasureScope, ErasureStarted, PayloadErased, TenantEvent};
use super::id::{ErasureId, MessageId};
use crate::error_code::ErrorCode;

/// The most messages whose erasure one event records.
pub const MAX_MESSAGES_PER_EVENT: usize = 250;
/// The most messages that one request names.
pub const MAX_MESSAGES: usize = 100;
/// The most characters of a reason.
pub const MAX_REASON_CHARS: usize = 500;
/// The most erasures of a tenant that look for messages at one time.
pub const MAX_UNDER_WAY: usize = 16;
/// The most erasures of named messages that wait at one time until their data has left the database's files.
pub const MAX_WAITING: usize = 1_000;
/// The most characters of a pointer into the data.
pub const MAX_POINTER_CHARS: usize = 1_024;
/// The most bytes of the value that is looked for, as JSON text.
pub const MAX_VALUE_BYTES: usize = 4 * 1_024;
/// The most event types that one request names.
pub const MAX_EVENT_TYPES: usize = 100;

/// Why data is not erased.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The caller has no such message: it never was, is another's, or older than messages are kept.
    #[error("there is no message {0}")]
    NoSuchMessage(String),
    /// Nothing is named, or too much.
    #[error("1 to {MAX_MESSAGES} messages can be named at once")]
    Count,
    /// The reason is too long.
    #[error("a reason has {MAX_REASON_CHARS} characters at most")]
    ReasonTooLong,
    /// The pointer is none, or too long.
    #[error("the pointer is no JSON pointer (RFC 6901) of 1 to {MAX_POINTER_CHARS} characters")]
    Pointer,
    /// What the pointer is to point at cannot be compared, or is too long.
    #[error("the value must be a text, a number or a boolean of at most {MAX_VALUE_BYTES} bytes")]
    Value,
    /// Too many event types.
    #[error("at most {MAX_EVENT_TYPES} event types can be named")]
    EventTypes,
    /// No more erasures for now.
    #[error("a tenant has {MAX_UNDER_WAY} erasures under way at most, and {MAX_WAITING} of named messages")]
    TooMany,
    /// It is not under way.
    #[error("no erasure {0} is under way")]
    NotUnderWay(ErasureId),
}

impl Refusal {
    /// The code that clients match on.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoSuchMessage(_) | Self::NotUnderWay(_) => ErrorCode::NotFound,
            Self::Count | Self::EventTypes | Self::TooMany => ErrorCode::LimitExceeded,
            Self::ReasonTooLong | Self::Pointer | Self::Value => ErrorCode::InvalidInput,
        }
    }

    /// Which field of the input is to blame.
    pub fn field(&self) -> &'static str {
        match self {
            Self::NoSuchMessage(_) | Self::Count => "messageIds",
            Self::ReasonTooLong => "reason",
            Self::Pointer => "pointer",
            Self::Value => "equals",
            Self::EventTypes => "types",
            Self::TooMany | Self::NotUnderWay(_) => "tenantId",
        }
    }
}

/// Checks the words of whoever wants data gone.
pub fn check_reason(reason: Option<&str>) -> Result<(), Refusal> {
    match reason {
        Some(reason) if reason.chars().count() > MAX_REASON_CHARS => Err(Refusal::ReasonTooLong),
        Some(_) | None => Ok(()),
    }
}

/// Whose messages are meant: those whose data has this value at this place.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// RFC 6901, as `/user/id`.
    pointer: String,
    /// A text, a number or a boolean.
    equals: Value,
}

impl Selector {
    /// A selector that can be looked for.
    pub fn new(pointer: String, equals: Value) -> Result<Self, Refusal> {
        let escapes = pointer.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
        if !pointer.starts_with('/') || pointer.chars().count() > MAX_POINTER_CHARS || !escapes {
            return Err(Refusal::Pointer);
        }
        match &equals {
            Value::Null | Value::Array(_) | Value::Object(_) => Err(Refusal::Value),
            value if value.to_string().len() > MAX_VALUE_BYTES => Err(Refusal::Value),
            Value::String(_) | Value::Number(_) | Value::Bool(_) => Ok(Self { pointer, equals }),
        }
    }

    /// Whether it picks a message with this data. Numbers are equal by value: 1 is 1.0.
    pub fn picks(&self, data: &str) -> bool {
        let Ok(data) = serde_json::from_str::<Value>(data) else { return false };
        match (data.pointer(&self.pointer), &self.equals) {
            (Some(Value::Number(found)), Value::Number(wanted)) => {
                found == wanted || matches!((found.as_f64(), wanted.as_f64()), (Some(one), Some(other)) if one == other)
            }
            (Some(found), wanted) => found == wanted,
            (None, _) => false,
        }
    }
}

impl std::fmt::Debug for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Selector(***)")
    }
}

/// An erasure that is under way.
#[derive(Clone, Debug, PartialEq)]
pub struct UnderWay {
    /// How it began.
    pub started: ErasureStarted,
    /// Up to which number of the shard's log it has looked.
    pub through: u64,
    /// Of how many messages it has erased the data.
    pub messages: u64,
    /// How large that was, in bytes.
    pub size_bytes: u64,
}

/// A tenant's erasures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Erasures {
    /// Those that are under way, in the order of their beginning.
    pub under_way: BTreeMap<ErasureId, UnderWay>,
    /// By which the tenant is being erased, or was.
    pub of_tenant: Option<ErasureId>,
}

impl Erasures {
    /// Begins one. No events: the tenant is erased already.
    pub fn start(&self, started: ErasureStarted) -> Result<Vec<TenantEvent>, Refusal> {
        check_reason(started.reason.as_deref())?;
        let of_tenant = matches!(started.scope, ErasureScope::Tenant {});
        if of_tenant && self.of_tenant.is_some() {
            return Ok(vec![]);
        }
        // An operator is not to be held up by what a tenant asked for.
        let names = |scope: &ErasureScope| matches!(scope, ErasureScope::Messages { .. });
        let (kind, most) = match names(&started.scope) {
            true => (true, MAX_WAITING),
            false => (false, MAX_UNDER_WAY),
        };
        let same = self.under_way.values().filter(|one| names(&one.started.scope) == kind);
        if !of_tenant && same.count() >= most {
            return Err(Refusal::TooMany);
        }
        Ok(vec![TenantEvent::ErasureStarted(started)])
    }

    /// Remembers how far one has come.
    pub fn advance(&self, advanced: ErasureAdvanced) -> Result<Vec<TenantEvent>, Refusal> {
        self.find(advanced.erasure)?;
        Ok(vec![TenantEvent::ErasureAdvanced(advanced)])
    }

    /// Ends one, whose data has left the database's files.
    pub fn complete(
        &self,
        erasure: ErasureId,
        webhooks: u64,
        secrets: u64,
        freed: bool,
    ) -> Result<Vec<TenantEvent>, Refusal> {
        let UnderWay { messages, size_bytes, .. } = *self.find(erasure)?;
        let completed = ErasureCompleted { erasure, messages, size_bytes, webhooks, secrets, freed };
        Ok(vec![TenantEvent::ErasureCompleted(completed)])
    }

    /// What is recorded of the data that goes with an event of an erasure, before that is remembered.
    pub fn payload_erased(&self, event: &TenantEvent, targets: &[Target]) -> Option<PayloadErased> {
        let (erasure, reason) = match event {
            TenantEvent::ErasureStarted(started) => (started.erasure, started.reason.clone()),
            TenantEvent::ErasureAdvanced(ErasureAdvanced { erasure, .. }) => {
                (*erasure, self.under_way.get(erasure)?.started.reason.clone())
            }
            TenantEvent::Created(_)
            | TenantEvent::EventTypeRegistered(_)
            | TenantEvent::EventTypeUpdated(_)
            | TenantEvent::ApiKeyIssued(_)
            | TenantEvent::ApiKeyRevoked(_)
            | TenantEvent::SettingsChanged(_)
            | TenantEvent::UserAdded(_)
            | TenantEvent::UserCredentialsReset(_)
            | TenantEvent::UserDisabled(_)
            | TenantEvent::UserAuthenticationFailed(_)
            | TenantEvent::ConfigChanged(_)
            | TenantEvent::KekRotated(_)
            | TenantEvent::ErasureCompleted(_) => return None,
        };
        let messages: Vec<_> = targets.iter().map(|target| target.message).collect();
        (!messages.is_empty()).then_some(PayloadErased { messages, erasure, reason })
    }

    fn find(&self, erasure: ErasureId) -> Result<&UnderWay, Refusal> {
        self.under_way.get(&erasure).ok_or(Refusal::NotUnderWay(erasure))
    }

    /// Remembers that one began.
    pub fn started(&mut self, started: &ErasureStarted) {
        let (messages, size_bytes) = match &started.scope {
            ErasureScope::Messages { messages, size_bytes } => (messages.len() as u64, *size_bytes),
            ErasureScope::Subject { .. } => (0, 0),
            ErasureScope::Tenant {} => {
                self.of_tenant = Some(started.erasure);
                (0, 0)
            }
        };
        let under_way = UnderWay { started: started.clone(), through: 0, messages, size_bytes };
        self.under_way.insert(started.erasure, under_way);
    }

    /// Remembers how far one came.
    pub fn advanced(&mut self, advanced: &ErasureAdvanced) {
        if let Some(under_way) = self.under_way.get_mut(&advanced.erasure) {
            under_way.through = advanced.through;
            under_way.messages += advanced.messages;
            under_way.size_bytes += advanced.size_bytes;
        }
    }

    /// Remembers that one ended.
    pub fn completed(&mut self, completed: &ErasureCompleted) {
        self.under_way.remove(&completed.erasure);
    }
}

/// A message whose data is there, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its id.
    pub message: MessageId,
    /// Its number in the shard's log.
    pub seq: u64,
    /// How large its data is, in bytes.
    pub size_bytes: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::id::SecretId;

    const ONE: ErasureId = ErasureId::from_parts(1, 1);

    fn started(erasure: ErasureId, scope: ErasureScope) -> ErasureStarted {
        ErasureStarted { erasure, scope, reason: None }
    }

    fn subject() -> ErasureScope {
        ErasureScope::Subject { selector: SecretId::from_parts(1, 1), event_types: vec![], from: None, to: None }
    }

    #[test]
    fn a_subject_is_found_by_what_stands_at_a_place() {
        let selector = |pointer: &str, equals| Selector::new(pointer.into(), equals).unwrap();
        let data = r#"{"user":{"id":7,"mail":"a@b.c","a/b":true},"list":[{"x":"y"}]}"#;
        for (pointer, equals, picked) in [
            ("/user/mail", json!("a@b.c"), true),
            ("/user/mail", json!("A@b.c"), false),
            ("/user/id", json!(7), true),
            ("/user/id", json!(7.0), true),
            ("/user/id", json!("7"), false),
            ("/user/a~1b", json!(true), true),
            ("/list/0/x", json!("y"), true),
            ("/list/1/x", json!("y"), false),
            ("/nobody", json!("a@b.c"), false),
        ] {
            assert_eq!(selector(pointer, equals).picks(data), picked, "{pointer}");
        }
        assert!(!selector("/a", json!(1)).picks("no JSON"));
    }

    #[test]
    fn what_cannot_be_looked_for_is_refused() {
        for pointer in ["", "user", "/a~2", "/a~", &format!("/{}", "x".repeat(MAX_POINTER_CHARS))] {
            assert_eq!(Selector::new(pointer.into(), json!(1)), Err(Refusal::Pointer), "{pointer}");
        }
        for value in [json!(null), json!([1]), json!({}), json!("x".repeat(MAX_VALUE_BYTES))] {
            assert_eq!(Selector::new("/a".into(), value), Err(Refusal::Value));
        }
        let secret = Selector::new("/a".into(), json!("somebody")).unwrap();
        assert!(!format!("{secret:?}").contains("somebody"));
    }

    #[test]
    fn an_erasure_advances_until_it_is_complete() {
        let mut erasures = Erasures::default();
        erasures.started(&started(ONE, subject()));
        for through in [10, 20] {
            let advanced = ErasureAdvanced { erasure: ONE, through, messages: 2, size_bytes: 30 };
            assert_eq!(erasures.advance(advanced.clone()), Ok(vec![TenantEvent::ErasureAdvanced(advanced.clone())]));
            erasures.advanced(&advanced);
        }
        let completed =
            ErasureCompleted { erasure: ONE, messages: 4, size_bytes: 60, webhooks: 0, secrets: 1, freed: true };
        assert_eq!(erasures.complete(ONE, 0, 1, true), Ok(vec![TenantEvent::ErasureCompleted(completed.clone())]));
        erasures.completed(&completed);
        assert_eq!(erasures.complete(ONE, 0, 0, false), Err(Refusal::NotUnderWay(ONE)));
        assert_eq!(erasures, Erasures::default());
    }

    #[test]
    fn a_tenant_is_erased_once_and_whatever_else_is_under_way() {
        let mut erasures = Erasures::default();
        for random in 0..MAX_UNDER_WAY {
            let id = ErasureId::from_parts(2, random as u128);
            assert!(erasures.start(started(id, subject())).is_ok());
            erasures.started(&started(id, subject()));
        }
        assert_eq!(erasures.start(started(ONE, subject())), Err(Refusal::TooMany));
        // Named messages are erased all the same: such an erasure waits for the database alone.
        let named = ErasureScope::Messages { messages: vec![], size_bytes: 0 };
        assert_eq!(erasures.start(started(ONE, named)).unwrap().len(), 1);
        assert_eq!(erasures.start(started(ONE, ErasureScope::Tenant {})).unwrap().len(), 1);
        erasures.started(&started(ONE, ErasureScope::Tenant {}));
        assert_eq!(erasures.start(started(ErasureId::from_parts(3, 3), ErasureScope::Tenant {})), Ok(vec![]));
    }
}

//! What the audit log calls the things that happen (S29).

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal;)*) => {
        /// What happened. A code never changes its meaning and is never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code as auditors see it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// What the code means, for people.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+).trim_ascii(),)*
                }
            }

            /// The code that is written so.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str() == text)
            }
        }
    };
}

codes! {
    /// A tenant was created.
    TenantCreated = "TENANT_CREATED";
    /// A tenant announced an event type.
    EventTypeRegistered = "TENANT_EVENT_TYPE_REGISTERED";
    /// A tenant changed the definition of an event type of its own, or deprecated it.
    EventTypeUpdated = "TENANT_EVENT_TYPE_UPDATED";
    /// An API key was made.
    ApiKeyCreated = "TENANT_API_KEY_CREATED";
    /// An API key was withdrawn.
    ApiKeyRevoked = "TENANT_API_KEY_REVOKED";
    /// A tenant's settings changed.
    TenantSettingsChanged = "TENANT_SETTINGS_CHANGED";
    /// Somebody may log in from now on.
    UserAdded = "TENANT_USER_ADDED";
    /// Somebody got a new password and new one-time codes.
    UserCredentialsReset = "TENANT_USER_CREDENTIALS_RESET";
    /// Somebody may not log in any more.
    UserDisabled = "TENANT_USER_DISABLED";
    /// Somebody gave a wrong password or one-time code for a user.
    LoginFailed = "TENANT_LOGIN_FAILED";
    /// Somebody gave a wrong one-time code within a user's session.
    StepUpFailed = "TENANT_STEP_UP_FAILED";
    /// Somebody erased message data, or had it looked for to be erased.
    PayloadErased = "TENANT_PAYLOAD_ERASED";
    /// The data of an erasure has left the database's files as well.
    ErasureCompleted = "TENANT_ERASURE_COMPLETED";
    /// A webhook was created.
    WebhookCreated = "TENANT_WEBHOOK_CREATED";
    /// A webhook's URL, description or filters changed.
    WebhookUpdated = "TENANT_WEBHOOK_UPDATED";
    /// A webhook was deleted, and with it every delivery that had not ended.
    WebhookDeleted = "TENANT_WEBHOOK_DELETED";
    /// A deleted webhook was brought back, disabled.
    WebhookRestored = "TENANT_WEBHOOK_RESTORED";
    /// The signing secrets of a deleted webhook were destroyed: it cannot be brought back any more.
    WebhookSecretsDestroyed = "TENANT_WEBHOOK_SECRETS_DESTROYED";
    /// A webhook began, or began again, to send.
    WebhookEnabled = "TENANT_WEBHOOK_ENABLED";
    /// The operator's rules kept an attempt of a webhook from being made; told at most once an hour.
    WebhookEgressBlocked = "TENANT_WEBHOOK_EGRESS_BLOCKED";
    /// The program was started with another configuration than before.
    SystemConfigChanged = "SYSTEM_CONFIG_CHANGED";
    /// Another key of the operator's seals, and what was sealed under others is sealed anew.
    SystemKekRotated = "SYSTEM_KEK_ROTATED";
    /// A webhook was told to stop sending.
    WebhookDisabled = "TENANT_WEBHOOK_DISABLED";
    /// A webhook got a new signing secret.
    WebhookSecretRotated = "TENANT_WEBHOOK_SECRET_ROTATED";
    /// A test delivery was sent.
    WebhookTestSent = "TENANT_WEBHOOK_TEST_SENT";
    /// Somebody asked for a delivery again.
    WebhookRedelivered = "TENANT_WEBHOOK_REDELIVERED";
    /// Somebody moved a delivery's next attempt to another time.
    DeliveryRescheduled = "TENANT_DELIVERY_RESCHEDULED";
    /// Somebody called a delivery off.
    DeliveryCancelled = "TENANT_DELIVERY_CANCELLED";
    /// Somebody started a job of a webhook: many deliveries are made. They have no rows of their own.
    WebhookJobStarted = "TENANT_WEBHOOK_JOB_STARTED";
    /// A webhook's job has come to its end, or somebody ended it.
    WebhookJobEnded = "TENANT_WEBHOOK_JOB_ENDED";
    /// A webhook pauses until a moment, or pauses no more.
    WebhookHoldChanged = "TENANT_WEBHOOK_HOLD_CHANGED";
    /// A webhook's circuit breaker tripped: nothing is sent to it any more.
    WebhookCircuitTripped = "TENANT_WEBHOOK_CIRCUIT_TRIPPED";
    /// Somebody let a webhook try again whose circuit breaker had tripped.
    WebhookCircuitReenabled = "TENANT_WEBHOOK_CIRCUIT_REENABLED";
    /// A webhook whose circuit breaker had tripped tries again by itself.
    WebhookCircuitProbing = "TENANT_WEBHOOK_CIRCUIT_PROBING";
    /// Messages that waited for a webhook's circuit breaker were older than messages are kept, and are gone.
    WebhookMatchesLost = "TENANT_WEBHOOK_MATCHES_LOST";
    /// A webhook's endpoint is well again: everything is sent as before.
    WebhookCircuitClosed = "TENANT_WEBHOOK_CIRCUIT_CLOSED";
}

/// The URL without what stands behind its question mark, where receivers put tokens.
pub fn masked_url(url: &str) -> String {
    match url.split_once('?') {
        Some((before, _)) => format!("{before}?***"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back_from_its_text() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(*code));
        }
        assert_eq!(Code::parse("TENANT_WEBHOOK"), None);
    }
}

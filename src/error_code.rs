//! The stable codes by which clients tell refusals and failures apart, each with its HTTP status.
//!
//! `schema/errors.md` is written from this table.

macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $status:literal;)*) => {
        /// Clients match on it; a code never changes its meaning and is never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $name,)*
        }

        impl ErrorCode {
            /// Every code, in the order of `schema/errors.md`.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code as clients see it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The HTTP status when the code answers a whole request.
            pub const fn http_status(self) -> u16 {
                match self {
                    $(Self::$name => $status,)*
                }
            }

            /// What the code means, for `schema/errors.md`.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+),)*
                }
            }
        }
    };
}

error_codes! {
    /// The endpoint's URL is not an absolute HTTPS URL that we may post to, or its host does not resolve.
    WebhookInvalidUrl = "WEBHOOK_INVALID_URL", 422;
    /// An event filter is not made of dot-separated names, `*` and `**`, or the profile does not allow it.
    WebhookFilterInvalid = "WEBHOOK_FILTER_INVALID", 422;
    /// The endpoint did not answer a test delivery within the test timeout.
    WebhookTestTimeout = "WEBHOOK_TEST_TIMEOUT", 422;
    /// The endpoint answered a test delivery with a status that is no success.
    WebhookBadResponseCode = "WEBHOOK_BAD_RESPONSE_CODE", 422;
    /// The endpoint could not be reached for a test delivery.
    WebhookTestFailed = "WEBHOOK_TEST_FAILED", 422;
    /// A supplied secret is too short, too long, or not made of visible ASCII characters.
    WebhookSecretInvalid = "WEBHOOK_SECRET_INVALID", 422;
    /// A custom header has a reserved or impossible name or an impossible value, or there are too many.
    WebhookHeaderInvalid = "WEBHOOK_HEADER_INVALID", 422;
    /// What is given for notices is no e-mail address, stands there twice, or there are too many.
    NotificationEmailInvalid = "NOTIFICATION_EMAIL_INVALID", 422;
    /// The event type is neither in the catalogue nor registered by the tenant.
    EventTypeUnknown = "EVENT_TYPE_UNKNOWN", 422;
    /// The event type is registered already, with another definition.
    EventTypeExists = "EVENT_TYPE_EXISTS", 409;
    /// The message is larger than the limit.
    MessageTooLarge = "MESSAGE_TOO_LARGE", 413;
    /// The idempotency key was used before, with another message.
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED", 409;
    /// There is no such thing, or it belongs to somebody else.
    NotFound = "NOT_FOUND", 404;
    /// The tenant was erased: nothing is accepted or made for it any more.
    TenantErased = "TENANT_ERASED", 410;
    /// The thing was changed since the version that the caller expects.
    VersionConflict = "VERSION_CONFLICT", 409;
    /// A limit on the number of things is reached.
    LimitExceeded = "LIMIT_EXCEEDED", 422;
    /// The webhook's circuit breaker has tripped: nothing is sent until it is enabled again.
    WebhookCircuitOpen = "WEBHOOK_CIRCUIT_OPEN", 409;
    /// The deleted webhook is gone for good: its profile lets none be restored, or it is too late.
    WebhookNotRestorable = "WEBHOOK_NOT_RESTORABLE", 409;
    /// The webhook's profile wants a test of its present URL that succeeded, before it is enabled.
    WebhookTestRequired = "WEBHOOK_TEST_REQUIRED", 409;
    /// The delivery cannot be sent again as things stand.
    NotRedeliverable = "NOT_REDELIVERABLE", 409;
    /// The delivery has ended, or an attempt of it is under way.
    DeliveryNotWaiting = "DELIVERY_NOT_WAITING", 409;
    /// An argument does not have the form or range that its description gives.
    InvalidInput = "INVALID_INPUT", 422;
    /// A paging cursor is damaged or belongs to another list.
    InvalidCursor = "INVALID_CURSOR", 400;
    /// What follows the cursor of a live stream is kept no more: read the list, then watch without `after`.
    CursorExpired = "CURSOR_EXPIRED", 410;
    /// No valid credential was sent.
    Unauthenticated = "UNAUTHENTICATED", 401;
    /// The credential does not carry the scope that the operation needs.
    Forbidden = "FORBIDDEN", 403;
    /// The operation asks for a person who has just proved themself again; `extensions` and `WWW-Authenticate` say how.
    StepUpRequired = "STEP_UP_REQUIRED", 401;
    /// The further proof of who calls was not accepted.
    StepUpRejected = "STEP_UP_REJECTED", 403;
    /// The request is not well formed.
    BadRequest = "BAD_REQUEST", 400;
    /// The GraphQL document does not parse.
    GraphqlParseFailed = "GRAPHQL_PARSE_FAILED", 400;
    /// The GraphQL document does not fit the schema.
    GraphqlValidationFailed = "GRAPHQL_VALIDATION_FAILED", 400;
    /// The GraphQL document expands to more selections than are allowed.
    QueryTooComplex = "QUERY_TOO_COMPLEX", 400;
    /// The request body is larger than the limit.
    QueryTooLarge = "QUERY_TOO_LARGE", 413;
    /// Too many live streams are open, of this key or in all; try again after the time in `Retry-After`.
    TooManyStreams = "TOO_MANY_STREAMS", 429;
    /// The caller's budget is spent; try again after the time in `Retry-After`. Nothing was done.
    Throttled = "THROTTLED", 429;
    /// Too many logins failed, for this name from this network or from this network in all; try again after the time in `Retry-After`. Nothing was looked at.
    RateLimited = "RATE_LIMITED", 429;
    /// A queue is full; try again after the time in `Retry-After`.
    Overloaded = "OVERLOADED", 503;
    /// The disk of the log is full: nothing is accepted, everything can be read; try again after the time in `Retry-After`.
    StorageFull = "STORAGE_FULL", 503;
    /// The database of the log, or that of the key store, cannot be reached: nothing is accepted, lists can be read; try again after the time in `Retry-After`.
    StorageUnavailable = "STORAGE_UNAVAILABLE", 503;
    /// Something failed on our side; the request id finds it in the logs.
    Internal = "INTERNAL", 500;
}

impl ErrorCode {
    /// When it is worth to ask again, in seconds; `None` where asking again changes nothing.
    pub const fn retry_after_s(self) -> Option<u32> {
        match self {
            Self::Overloaded => Some(1),
            // A person has to make room first.
            Self::StorageFull => Some(30),
            // As long as a database takes to restart, or to give way to its standby.
            Self::StorageUnavailable => Some(5),
            // Others end.
            Self::TooManyStreams => Some(5),
            // Usually said more closely where the budget is known.
            Self::Throttled => Some(1),
            // Said more closely where the tries are known.
            Self::RateLimited => Some(30),
            Self::WebhookInvalidUrl
            | Self::WebhookFilterInvalid
            | Self::WebhookTestTimeout
            | Self::WebhookBadResponseCode
            | Self::WebhookTestFailed
            | Self::WebhookSecretInvalid
            | Self::WebhookHeaderInvalid
            | Self::NotificationEmailInvalid
            | Self::EventTypeUnknown
            | Self::EventTypeExists
            | Self::MessageTooLarge
            | Self::IdempotencyKeyReused
            | Self::NotFound
            | Self::TenantErased
            | Self::VersionConflict
            | Self::LimitExceeded
            | Self::WebhookCircuitOpen
            | Self::WebhookNotRestorable
            | Self::WebhookTestRequired
            | Self::NotRedeliverable
            | Self::DeliveryNotWaiting
            | Self::InvalidInput
            | Self::InvalidCursor
            | Self::CursorExpired
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::StepUpRequired
            | Self::StepUpRejected
            | Self::BadRequest
            | Self::GraphqlParseFailed
            | Self::GraphqlValidationFailed
            | Self::QueryTooComplex
            | Self::QueryTooLarge
            | Self::Internal => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_stands_for_one_thing() {
        let texts: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), ErrorCode::ALL.len());
        assert!(ErrorCode::ALL.iter().all(|code| (400..600).contains(&code.http_status())));
    }

    #[test]
    fn whoever_is_turned_away_for_now_is_told_when_to_come_back() {
        for code in ErrorCode::ALL {
            let for_now = matches!(code.http_status(), 429 | 503);
            assert_eq!(for_now, code.retry_after_s().is_some(), "{}", code.as_str());
        }
    }
}

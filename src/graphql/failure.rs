//! How a resolver fails: with what the caller can put right, or with an error.

use std::error::Error as StdError;

use async_graphql::{Enum, Error, ErrorExtensions, Result, SimpleObject};

use super::caller::MissingScope;
use crate::actors::EngineError;
use crate::domain::header::{InvalidHeader, InvalidHeaders, Place};
use crate::domain::notice::{InvalidRecipient, InvalidRecipients};
use crate::domain::retry_policy::{InvalidPolicy, PolicyProblem};
use crate::domain::subscription::Untested;
use crate::domain::{subscription, tenant};
use crate::error_code::ErrorCode;
use crate::event_store::ReadError;

/// Where the code stands in an error's extensions.
pub(super) const CODE: &str = "code";
/// Where in an error's extensions it is said when to ask again.
pub(super) const RETRY_AFTER_SECONDS: &str = "retryAfterSeconds";

/// A field that may be null and may fail, failing alone.
pub(super) async fn nullable<T>(found: impl Future<Output = Result<Option<T>>>) -> Option<Result<T>> {
    found.await.transpose()
}

/// Why a mutation was not carried out.
pub(super) enum Failure {
    /// The caller can put it right.
    Refused(Vec<UserError>),
    /// The caller cannot, or not in this request.
    Failed(Error),
}

/// A payload that can say why nothing was done.
pub(super) trait Payload: Sized {
    /// Nothing was done, for these reasons.
    fn refused(errors: Vec<UserError>) -> Self;
}

/// What a mutation's root field answers.
pub(super) async fn payload<T: Payload>(done: impl Future<Output = Result<T, Failure>>) -> Option<Result<T>> {
    Some(match done.await {
        Ok(payload) => Ok(payload),
        Err(Failure::Refused(errors)) => Ok(T::refused(errors)),
        Err(Failure::Failed(error)) => Err(error),
    })
}

/// Something that the caller can put right.
#[derive(Clone, Debug, SimpleObject)]
pub(super) struct UserError {
    /// What is wrong, for programs.
    code: UserErrorCode,
    /// What is wrong, for people. One sentence, which may change.
    message: String,
    /// Where in the arguments: `["input", "url"]`. Empty if no one argument is to blame.
    path: Vec<String>,
    /// Which rule it breaks, for programs, where a code has several: those of `WEBHOOK_INVALID_URL` are in `docs/egress.md`.
    reason: Option<&'static str>,
}

impl UserError {
    pub(super) fn new(code: UserErrorCode, message: impl ToString, path: &[&str]) -> Self {
        Self {
            code,
            message: message.to_string(),
            path: path.iter().map(|part| (*part).to_owned()).collect(),
            reason: None,
        }
    }

    /// The same, with the rule that was broken.
    fn because(self, reason: Option<&'static str>) -> Self {
        Self { reason, ..self }
    }

    /// The same, about the argument that was given in place of another.
    pub(super) fn renamed(mut self, from: &str, to: &str) -> Self {
        for part in self.path.iter_mut().filter(|part| *part == from) {
            *part = to.to_owned();
        }
        self
    }

    /// The same, of an input that stands inside another.
    pub(super) fn inside(mut self, index: usize) -> Self {
        let at = usize::from(self.path.first().is_some_and(|first| first == "input"));
        self.path.splice(..at, ["input".to_owned(), "messages".to_owned(), index.to_string()]);
        self
    }
}

impl From<UserError> for Failure {
    fn from(error: UserError) -> Self {
        Self::Refused(vec![error])
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<MissingScope> for Failure {
    fn from(missing: MissingScope) -> Self {
        Self::Failed(missing.into())
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        if let EngineError::Headers(InvalidHeaders(problems)) = &error {
            return Self::Refused(problems.iter().map(of_header).collect());
        }
        if let EngineError::Subscription(subscription::Refusal::RetryPolicy(InvalidPolicy(problems))) = &error {
            return Self::Refused(problems.iter().map(of_policy).collect());
        }
        if let EngineError::Recipients(InvalidRecipients(problems)) = &error {
            return Self::Refused(problems.iter().map(of_recipient).collect());
        }
        match UserErrorCode::of(error.code()) {
            Some(code) => UserError::new(code, &error, &place(&error)).because(error.reason()).into(),
            None if error.code() == ErrorCode::Overloaded => {
                // A line for each message of each request would be work of its own; the depths of the queues are measured.
                tracing::debug!("a request was turned away: {error}");
                Self::Failed(fault(ErrorCode::Overloaded, "too much is under way; try again"))
            }
            // The log has said so itself, once: a line for each request would fill the next disk.
            None if error.code() == ErrorCode::StorageFull => {
                Self::Failed(fault(ErrorCode::StorageFull, "the disk is full; nothing can be accepted for now"))
            }
            None if error.code() == ErrorCode::StorageUnavailable => Self::Failed(unavailable(&error)),
            None => Self::Failed(internal(&error)),
        }
    }
}

/// What is wrong with a custom header, and in which.
fn of_header(problem: &InvalidHeader) -> UserError {
    let at = |index: usize, part| {
        UserError::new(UserErrorCode::WebhookHeaderInvalid, problem, &["input", "headers", &index.to_string(), part])
    };
    match problem.place {
        Place::All => UserError::new(UserErrorCode::WebhookHeaderInvalid, problem, &["input", "headers"]),
        Place::Name(index) => at(index, "name"),
        Place::Value(index) => at(index, "value"),
    }
}

/// What is wrong with a retry policy, and where in it.
fn of_policy(problem: &PolicyProblem) -> UserError {
    let index;
    let place: &[&str] = match problem {
        PolicyProblem::Attempts => &["maxAttempts"],
        PolicyProblem::TooManyDelays(_) | PolicyProblem::NoDelay => &["delaysSeconds"],
        PolicyProblem::Delay(at) => {
            index = at.to_string();
            &["delaysSeconds", &index]
        }
        PolicyProblem::Timeout => &["timeoutSeconds"],
    };
    UserError::new(UserErrorCode::InvalidInput, problem, &[&["input", "retryPolicy"], place].concat())
}

/// What is wrong with an address for notices, and with which.
fn of_recipient(problem: &InvalidRecipient) -> UserError {
    let index = problem.index.map(|index| index.to_string());
    let path: Vec<&str> = ["input", "notificationEmails"].into_iter().chain(index.as_deref()).collect();
    UserError::new(UserErrorCode::NotificationEmailInvalid, problem, &path)
}

/// An error with its code, and with the time after which it may have passed.
pub(super) fn fault(code: ErrorCode, message: impl Into<String>) -> Error {
    Error::new(message).extend_with(|_, extensions| {
        extensions.set(CODE, code.as_str());
        if let Some(seconds) = code.retry_after_s() {
            extensions.set(RETRY_AFTER_SECONDS, seconds);
        }
    })
}

/// The log's database is gone for now.
fn unavailable(error: &(dyn StdError + 'static)) -> Error {
    tracing::warn!("a request was turned away: {error}");
    fault(ErrorCode::StorageUnavailable, "the log cannot be reached for now; try again")
}

/// A fault of ours: told in the log, masked in the answer, to which the request id is added later.
pub(super) fn internal(error: &(dyn StdError + 'static)) -> Error {
    if let Some(ReadError::Unavailable(_)) = error.downcast_ref() {
        return unavailable(error);
    }
    let chain: Vec<_> = std::iter::successors(Some(error), source).map(ToString::to_string).collect();
    tracing::error!("a resolver failed: {}", chain.join(": "));
    fault(ErrorCode::Internal, "something failed on our side")
}

fn source<'a>(error: &&'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    (*error).source()
}

macro_rules! user_error_codes {
    ($($(#[$doc:meta])* $name:ident)* ; $($other:ident)*) => {
        /// What the caller can put right. A code never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
        pub(super) enum UserErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl UserErrorCode {
            /// The code as user error; `None` for those that end a request or a field.
            pub(super) const fn of(code: ErrorCode) -> Option<Self> {
                match code {
                    $(ErrorCode::$name => Some(Self::$name),)*
                    $(ErrorCode::$other => None,)*
                }
            }
        }
    };
}

user_error_codes! {
    /// The endpoint's URL is not an absolute HTTPS URL that we may post to, or its host does not resolve.
    WebhookInvalidUrl
    /// An event filter is not made of dot-separated names, `*` and `**`, or the profile does not allow it.
    WebhookFilterInvalid
    /// The endpoint did not answer a test delivery within the test timeout.
    WebhookTestTimeout
    /// The endpoint answered a test delivery with a status that is no success.
    WebhookBadResponseCode
    /// The endpoint could not be reached for a test delivery.
    WebhookTestFailed
    /// A supplied secret is too short, too long, or not made of visible ASCII characters.
    WebhookSecretInvalid
    /// A custom header has a reserved or impossible name or an impossible value, or there are too many.
    WebhookHeaderInvalid
    /// What is given for notices is no e-mail address, stands there twice, or there are too many.
    NotificationEmailInvalid
    /// The event type is neither in the catalogue nor registered by the tenant.
    EventTypeUnknown
    /// The event type is registered already, with another definition.
    EventTypeExists
    /// The message is larger than the limit.
    MessageTooLarge
    /// The idempotency key was used before, with another message.
    IdempotencyKeyReused
    /// There is no such thing, or it belongs to somebody else.
    NotFound
    /// The tenant was erased: nothing is accepted or made for it any more.
    TenantErased
    /// The thing was changed since the version that the caller expects.
    VersionConflict
    /// A limit on the number of things is reached.
    LimitExceeded
    /// The webhook's circuit breaker has tripped: nothing is sent until it is enabled again.
    WebhookCircuitOpen
    /// The deleted webhook is gone for good: its profile lets none be restored, or it is too late.
    WebhookNotRestorable
    /// The webhook's profile wants a test of its present URL that succeeded, before it is enabled.
    WebhookTestRequired
    /// The delivery cannot be sent again as things stand.
    NotRedeliverable
    /// The delivery has ended, or an attempt of it is under way.
    DeliveryNotWaiting
    /// The further proof of who calls was not accepted.
    StepUpRejected
    /// An argument does not have the form or range that its description gives.
    InvalidInput
    ;
    InvalidCursor CursorExpired Unauthenticated Forbidden StepUpRequired BadRequest GraphqlParseFailed
    GraphqlValidationFailed QueryTooComplex QueryTooLarge TooManyStreams Throttled RateLimited Overloaded StorageFull StorageUnavailable
    Internal
}

/// Which argument a refusal is about.
fn place(error: &EngineError) -> Vec<&'static str> {
    let path: &[&str] = match error {
        EngineError::Url(_) => &["input", "url"],
        EngineError::Headers(_) => &["input", "headers"],
        EngineError::Recipients(_) => &["input", "notificationEmails"],
        EngineError::Secret(_) | EngineError::SecretNotSupplied(_) => &["input", "secret"],
        EngineError::Subscription(refusal) => match refusal {
            subscription::Refusal::Filters(_) => &["input", "eventFilters"],
            subscription::Refusal::Profile(_) => &["input", "profile"],
            subscription::Refusal::DescriptionTooLong(_) => &["input", "description"],
            subscription::Refusal::RateLimitOutOfRange => &["input", "rateLimitPerSecond"],
            subscription::Refusal::RetryPolicy(_) => &["input", "retryPolicy"],
            subscription::Refusal::OverlapTooLong { .. } => &["input", "overlapSeconds"],
            subscription::Refusal::RevisionConflict { .. } => &["input", "expectedVersion"],
            subscription::Refusal::JobRateOutOfRange { .. } => &["input", "ratePerSecond"],
            subscription::Refusal::OnlyFailed(_) => &["input", "statuses"],
            subscription::Refusal::NoSuchJob(_) => &["input", "jobId"],
            subscription::Refusal::TooLate(_) => &["input", "at"],
            subscription::Refusal::StillOpen(_)
            | subscription::Refusal::Succeeded(..)
            | subscription::Refusal::Ended(_)
            | subscription::Refusal::UnderWay(_) => &["input", "deliveryId"],
            subscription::Refusal::TestRequired { untested: Untested::Creation, .. } => &["input", "enabled"],
            subscription::Refusal::TestRequired { untested: Untested::UrlChange, .. } => &["input", "url"],
            subscription::Refusal::TestRequired { untested: Untested::Enabling, .. }
            | subscription::Refusal::NotRestorable(_) => &["input", "webhookId"],
            subscription::Refusal::NotFound
            | subscription::Refusal::Exists
            | subscription::Refusal::Disabled
            | subscription::Refusal::CircuitOpen
            | subscription::Refusal::MatchMissing { .. }
            | subscription::Refusal::JobRunning(_)
            | subscription::Refusal::NoRoom(_)
            | subscription::Refusal::JobMoved { .. }
            | subscription::Refusal::JobWaits
            | subscription::Refusal::NotPending(_) => &[],
        },
        EngineError::Tenant(refusal) => match refusal {
            tenant::Refusal::SlugTaken(_) | tenant::Refusal::InvalidSlug(_) => &["input", "slug"],
            tenant::Refusal::InvalidName
            | tenant::Refusal::EventTypeExists(_)
            | tenant::Refusal::NoSuchEventType(_)
            | tenant::Refusal::EventTypeChanged(_) => &["input", "name"],
            tenant::Refusal::VersionNeeded(_) => &["input", "version"],
            tenant::Refusal::Profile(_) => &["input", "profile"],
            tenant::Refusal::NoScopes => &["input", "scopes"],
            tenant::Refusal::NoSuchApiKey => &["input", "apiKeyId"],
            tenant::Refusal::NoSuchUser | tenant::Refusal::InvalidUserName(_) | tenant::Refusal::UserExists(_) => {
                &["input", "username"]
            }
            tenant::Refusal::Erasure(refusal) => return vec!["input", refusal.field()],
            tenant::Refusal::NotFound
            | tenant::Refusal::Erased
            | tenant::Refusal::Exists(_)
            | tenant::Refusal::TooManyEventTypes
            | tenant::Refusal::TooManyApiKeys
            | tenant::Refusal::TooManyUsers => &[],
        },
        EngineError::Erasure(refusal) => return vec!["input", refusal.field()],
        EngineError::Message(refusal) => return vec!["input", refusal.field()],
        EngineError::Overloaded
        | EngineError::Unknown(_)
        | EngineError::Load(_)
        | EngineError::Append(_)
        | EngineError::Vault(_) => &[],
    };
    path.to_vec()
}

#[cfg(test)]
mod tests {
    use async_graphql::resolver_utils::EnumType;

    use super::*;

    #[test]
    fn a_user_error_has_the_name_and_meaning_of_its_code() {
        for code in ErrorCode::ALL {
            if let Some(user) = UserErrorCode::of(*code) {
                let name = UserErrorCode::items().iter().find(|item| item.value == user).unwrap().name;
                assert_eq!(name, code.as_str());
                let schema = super::super::sdl();
                assert!(schema.contains(code.meaning().trim()), "{name}");
            }
        }
    }

    #[test]
    fn a_refusal_in_a_list_says_in_which_item() {
        let error = UserError::new(UserErrorCode::InvalidInput, "no", &["input", "type"]).inside(3);
        assert_eq!(error.path, ["input", "messages", "3", "type"]);
        let error = UserError::new(UserErrorCode::InvalidInput, "no", &[]).inside(0);
        assert_eq!(error.path, ["input", "messages", "0"]);
    }
}

//! Mutations of deliveries: tests, and deliveries made again.

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};

use super::webhook::addressed;
use super::{payloads, readable};
use crate::actors::TestReport;
use crate::domain::filter::EventType;
use crate::domain::id::DeliveryId;
use crate::domain::outcome::FailureCode;
use crate::domain::scope::Scope;
use crate::domain::subscription::{Command, Redeliver};
use crate::domain::{json, message};
use crate::error_code::ErrorCode;
use crate::graphql::caller::{authorise, caller};
use crate::graphql::delivery::{AttemptOutcome, Delivery};
use crate::graphql::exchange::{self, HttpHeader, HttpResponse};
use crate::graphql::failure::{Failure, UserError, UserErrorCode, internal, payload};
use crate::graphql::scalar::{Json, int};
use crate::graphql::state;
use crate::projections::TenantScope;
use crate::projections::rows::DeliveryStatus;

/// What to send as a test.
#[derive(InputObject)]
struct TestWebhookDeliveryInput {
    /// To which webhook; it may be disabled.
    webhook_id: ID,
    /// The event type that the test pretends to tell of.
    #[graphql(default = "webhook.test")]
    event_type: String,
    /// The data, a JSON object; absent: the event type's example.
    data: Option<Json>,
}

/// What came of `testWebhookDelivery`.
#[derive(Default, SimpleObject)]
struct TestWebhookDeliveryPayload {
    /// How it went; there also beside user errors that say how the endpoint failed.
    result: Option<TestDeliveryResult>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was sent, or what the endpoint did wrong; empty if the endpoint passed.
    user_errors: Vec<UserError>,
}

/// How a test delivery went.
#[derive(SimpleObject)]
struct TestDeliveryResult {
    /// Whether the profile counts the answer as success.
    verified: bool,
    /// How it ended.
    outcome: AttemptOutcome,
    /// HTTP status of the answer; null if there was none.
    status_code: Option<i32>,
    /// From its beginning to the end of the answer or the failure, in milliseconds.
    latency_ms: i32,
    /// The beginning of the answer's body, at most 1 KiB, control characters escaped; null if there was no answer.
    body_preview: Option<String>,
    /// Whether the answer's body was longer than the preview.
    body_truncated: bool,
    /// What went wrong, in a sentence; null if there was an answer.
    error: Option<String>,
    /// What was sent, for whoever looks for why a signature is not accepted.
    request: TestDeliveryRequest,
    /// What the endpoint answered; null if there was no answer.
    response: Option<HttpResponse>,
}

/// What a test delivery sent, byte for byte.
#[derive(SimpleObject)]
struct TestDeliveryRequest {
    /// Where to; null if nothing could be sent.
    url: Option<String>,
    /// The headers, in the order in which they were sent; empty if nothing could be sent.
    headers: Vec<HttpHeader>,
    /// The body, whose bytes are what was signed.
    body: String,
    /// How long the body was, in bytes.
    body_bytes: i32,
}

/// Which delivery to make again.
#[derive(InputObject)]
struct RedeliverDeliveryInput {
    /// A delivery that has ended.
    delivery_id: ID,
    /// Whether the new delivery may wait if the webhook's circuit breaker has tripped; otherwise it is then refused with
    /// `WEBHOOK_CIRCUIT_OPEN`.
    #[graphql(default)]
    queue: bool,
}

/// What came of `redeliverDelivery`.
#[derive(Default, SimpleObject)]
struct RedeliverDeliveryPayload {
    /// The new delivery.
    delivery: Option<Delivery>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

payloads!(TestWebhookDeliveryPayload, RedeliverDeliveryPayload);

#[derive(Default)]
pub(super) struct DeliveryMutation;

#[Object]
impl DeliveryMutation {
    /// Sends a test, signed like any delivery, and waits for its end. Changes nothing but the audit log. Needs the
    /// scope `WEBHOOKS_WRITE`.
    async fn test_webhook_delivery(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which webhook, and what to send.")] input: TestWebhookDeliveryInput,
    ) -> Option<Result<TestWebhookDeliveryPayload>> {
        payload(test(ctx, input)).await
    }

    /// Makes an ended delivery again, as a new delivery of the same message to the same webhook. Needs the scope
    /// `DELIVERIES_REDELIVER`.
    async fn redeliver_delivery(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which delivery.")] input: RedeliverDeliveryInput,
    ) -> Option<Result<RedeliverDeliveryPayload>> {
        payload(redeliver(ctx, input)).await
    }
}

async fn test(ctx: &Context<'_>, input: TestWebhookDeliveryInput) -> Result<TestWebhookDeliveryPayload, Failure> {
    let (scope, id) = addressed(ctx, Scope::WebhooksWrite, &input.webhook_id)?;
    let invalid_type = |code, message: String| UserError::new(code, message, &["input", "eventType"]);
    let event_type = EventType::parse(&input.event_type)
        .map_err(|error| invalid_type(UserErrorCode::InvalidInput, error.to_string()))?;
    let engine = &state(ctx).engine;
    let tenant = engine.load_tenant(scope.0).await?;
    if !tenant.knows(&event_type) {
        let message = format!("the event type '{event_type}' is neither in the catalogue nor registered");
        return Err(invalid_type(UserErrorCode::EventTypeUnknown, message).into());
    }
    let data = match input.data {
        Some(Json(text)) => canonical(&text)?,
        None => engine.sample(scope.0, &event_type).await?.map_or_else(|| "{}".to_owned(), |sample| sample.to_string()),
    };
    let report = engine.test_subscription(scope.0, id, event_type, data, caller(ctx).meta()).await?;
    readable(ctx, report.position).await;
    Ok(TestWebhookDeliveryPayload {
        position: report.position.map(|position| position.to_string()),
        user_errors: complaint(&report).into_iter().collect(),
        result: Some(TestDeliveryResult::from(report)),
    })
}

/// The data of a test, which must be fit to be a message's.
fn canonical(text: &str) -> Result<String, Failure> {
    let invalid = |refusal: message::Refusal| {
        let code = UserErrorCode::of(refusal.code()).unwrap_or(UserErrorCode::InvalidInput);
        Failure::from(UserError::new(code, refusal, &["input", "data"]))
    };
    let canonical = json::canonicalise(text.as_bytes())
        .map_err(|error| invalid(message::Refusal::InvalidData(error.to_string())))?
        .into_text();
    match canonical.len() {
        _ if !canonical.starts_with('{') => Err(invalid(message::Refusal::NotAnObject)),
        size if size > message::MAX_DATA_BYTES => Err(invalid(message::Refusal::TooLarge(size))),
        _ => Ok(canonical),
    }
}

/// What the endpoint did wrong (S28).
fn complaint(report: &TestReport) -> Option<UserError> {
    let (code, message) = match &report.exchange.result {
        Ok(_) if report.verified => return None,
        Ok(response) => {
            (ErrorCode::WebhookBadResponseCode, format!("the endpoint answered with status {}", response.status))
        }
        Err(failure) => (test_code(failure.code), failure.detail.clone()),
    };
    UserErrorCode::of(code).map(|code| UserError::new(code, message, &[]))
}

fn test_code(code: FailureCode) -> ErrorCode {
    match code {
        FailureCode::Timeout | FailureCode::TlsTimeout => ErrorCode::WebhookTestTimeout,
        FailureCode::Status => ErrorCode::WebhookBadResponseCode,
        FailureCode::Dns
        | FailureCode::Connect
        | FailureCode::TlsExpired
        | FailureCode::TlsNotYetValid
        | FailureCode::TlsWrongName
        | FailureCode::TlsUntrusted
        | FailureCode::TlsVersion
        | FailureCode::TlsReset
        | FailureCode::Tls
        | FailureCode::Blocked
        | FailureCode::Headers
        | FailureCode::Body
        | FailureCode::Aborted => ErrorCode::WebhookTestFailed,
    }
}

impl From<TestReport> for TestDeliveryResult {
    fn from(TestReport { verified, url, headers, body, exchange, .. }: TestReport) -> Self {
        let (response, failure) = match exchange.result {
            Ok(response) => (Some(response), None),
            Err(failure) => (None, Some(failure)),
        };
        let outcome = match &failure {
            Some(failure) => failure.code.into(),
            None if verified => AttemptOutcome::Succeeded,
            None => AttemptOutcome::BadStatus,
        };
        Self {
            verified,
            outcome,
            status_code: response.as_ref().map(|response| i32::from(response.status)),
            latency_ms: int(exchange.latency_ms),
            body_preview: response.as_ref().map(|response| response.preview.clone()),
            body_truncated: response.as_ref().is_some_and(|response| response.truncated),
            error: failure.map(|failure| failure.detail),
            request: TestDeliveryRequest {
                url,
                headers: exchange::shown(headers),
                body_bytes: int(body.len() as u64),
                body: String::from_utf8_lossy(&body).into_owned(),
            },
            response: response.as_ref().map(HttpResponse::from),
        }
    }
}

async fn redeliver(ctx: &Context<'_>, input: RedeliverDeliveryInput) -> Result<RedeliverDeliveryPayload, Failure> {
    let tenant = authorise(ctx, Scope::DeliveriesRedeliver)?.tenant;
    let refused = |code, message: &str| Failure::from(UserError::new(code, message, &["input", "deliveryId"]));
    let missing = || refused(UserErrorCode::NotFound, "there is no such delivery");
    let id = input.delivery_id.parse::<DeliveryId>().map_err(|_| missing())?;
    let read_models = &state(ctx).read_models;
    let read = read_models.delivery(TenantScope(tenant), id).await.map_err(|error| internal(&error))?;
    let original = read.ok_or_else(missing)?;
    let failed = match original.status {
        DeliveryStatus::Pending => {
            return Err(refused(
                UserErrorCode::NotRedeliverable,
                "the delivery has not ended: rescheduleDelivery makes its next attempt now",
            ));
        }
        DeliveryStatus::Failed => true,
        DeliveryStatus::Succeeded | DeliveryStatus::Cancelled => false,
    };
    let delivery = state(ctx).clock.delivery_id();
    let request = Redeliver {
        original: id,
        original_failed: failed,
        delivery,
        message: original.message,
        message_seq: original.message_seq,
        sequence: original.sequence,
        queue: input.queue,
        room: true,
    };
    let command = Command::Redeliver(request);
    let done = state(ctx).engine.subscription(tenant, original.subscription, command, caller(ctx).meta()).await?;
    readable(ctx, done.position).await;
    let row = read_models.delivery(TenantScope(tenant), delivery).await.map_err(|error| internal(&error))?;
    Ok(RedeliverDeliveryPayload {
        delivery: row.map(Delivery),
        position: done.position.map(|position| position.to_string()),
        user_errors: vec![],
    })
}

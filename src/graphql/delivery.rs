//! Deliveries and their attempts.

use async_graphql::{Context, Enum, ID, InputObject, Object, Result};

use super::caller::{authorise, own_tenant};
use super::event_type;
use super::exchange::{HttpRequest, HttpResponse, REQUEST_COST};
use super::failure::{internal, nullable};
use super::loader::load;
use super::message::Message;
use super::page::{Connection, List, PageArgs, cost};
use super::range::{DateTimeRange, IntRange};
use super::scalar::{DateTime, Long, int};
use super::state;
use super::webhook::Webhook;
use crate::domain::event;
use crate::domain::id::{DeliveryId, MessageId, SubscriptionId};
use crate::domain::outcome::{self, FailureCode};
use crate::domain::scope::Scope;
use crate::projections::rows::{self, AttemptRow, DeliveryRow};
use crate::projections::{self, TenantScope};

/// What an attempt's id begins with; the delivery's suffix and the attempt's number follow.
pub(super) const ATTEMPT_PREFIX: &str = "att_";

/// How a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "rows::DeliveryStatus")]
pub(super) enum DeliveryStatus {
    /// Waiting for its first or next attempt.
    Pending,
    /// An attempt succeeded.
    Succeeded,
    /// The last attempt failed.
    Failed,
    /// Somebody called it off, its webhook was deleted, or it was not to be sent any more when the webhook's circuit breaker was enabled again.
    Cancelled,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum AttemptOutcome {
    /// The endpoint answered with a status that the profile counts as success.
    Succeeded,
    /// The endpoint answered with another status.
    BadStatus,
    /// The whole answer was not there within the time limit.
    Timeout,
    /// The host name did not resolve.
    DnsFailed,
    /// No connection could be made, or it broke before the answer began.
    ConnectFailed,
    /// The certificate has expired.
    TlsExpired,
    /// The certificate is not yet valid.
    TlsNotYetValid,
    /// The certificate is for another name.
    TlsWrongName,
    /// Nobody who is trusted has issued the certificate; one that signs itself among them.
    TlsUntrusted,
    /// The endpoint speaks neither TLS 1.2 nor 1.3.
    TlsVersion,
    /// The TLS handshake did not end in time.
    TlsTimeout,
    /// The connection was closed or reset during the TLS handshake.
    TlsReset,
    /// The TLS handshake failed in another way.
    TlsFailed,
    /// The operator's rules forbid the address.
    AddressBlocked,
    /// The answer's header lines are too many or too long.
    HeadersTooLarge,
    /// The answer is no HTTP, or began and broke off.
    BodyFailed,
    /// Our own process gave up: it was shut down, or failed.
    Aborted,
}

impl From<FailureCode> for AttemptOutcome {
    fn from(code: FailureCode) -> Self {
        match code {
            FailureCode::Status => Self::BadStatus,
            FailureCode::Timeout => Self::Timeout,
            FailureCode::Dns => Self::DnsFailed,
            FailureCode::Connect => Self::ConnectFailed,
            FailureCode::TlsExpired => Self::TlsExpired,
            FailureCode::TlsNotYetValid => Self::TlsNotYetValid,
            FailureCode::TlsWrongName => Self::TlsWrongName,
            FailureCode::TlsUntrusted => Self::TlsUntrusted,
            FailureCode::TlsVersion => Self::TlsVersion,
            FailureCode::TlsTimeout => Self::TlsTimeout,
            FailureCode::TlsReset => Self::TlsReset,
            FailureCode::Tls => Self::TlsFailed,
            FailureCode::Blocked => Self::AddressBlocked,
            FailureCode::Headers => Self::HeadersTooLarge,
            FailureCode::Body => Self::BodyFailed,
            FailureCode::Aborted => Self::Aborted,
        }
    }
}

/// What a failed attempt says about the endpoint, as the profile judges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "outcome::FailureClass")]
pub(super) enum AttemptFailureClass {
    /// It does not cope for the moment: tried again, and not counted by the circuit breaker.
    Soft,
    /// It is broken or away: tried again, and counted by the circuit breaker.
    Hard,
    /// It wants nothing any more: the webhook was disabled.
    Gone,
    /// Nothing: our own process or its rules kept the attempt from being made.
    Local,
}

/// Why a delivery could not be attempted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "event::ExpiryReason")]
pub(super) enum DeliveryExpiry {
    /// The message is older than messages are kept.
    MessageDropped,
    /// The message is known, but its data was erased.
    DataErased,
}

/// Picks deliveries; all conditions must hold.
#[derive(Clone, Debug, Default, InputObject)]
pub(super) struct DeliveryFilter {
    /// To this webhook.
    pub(super) webhook_id: Option<ID>,
    /// Of this message.
    pub(super) message_id: Option<ID>,
    /// In one of these states; empty or absent: in any.
    pub(super) statuses: Option<Vec<DeliveryStatus>>,
    /// Of event types that one of these picks, written as a webhook's `eventFilters`, at most 50; absent: of any, empty:
    /// of none. A page may end early: see `PageInfo`.
    pub(super) event_filters: Option<Vec<String>>,
    /// Whose last answer had an HTTP status in this range. A page may end early: see `PageInfo`.
    pub(super) status_codes: Option<IntRange>,
    /// Scheduled in this time.
    pub(super) created_at: Option<DateTimeRange>,
}

/// Picks deliveries of one webhook or message; all conditions must hold.
#[derive(Clone, Debug, Default, InputObject)]
pub(super) struct DeliveryStatusFilter {
    /// In one of these states; empty or absent: in any.
    statuses: Option<Vec<DeliveryStatus>>,
    /// Of event types that one of these picks, written as a webhook's `eventFilters`, at most 50; absent: of any, empty:
    /// of none. A page may end early: see `PageInfo`.
    event_filters: Option<Vec<String>>,
    /// Whose last answer had an HTTP status in this range. A page may end early: see `PageInfo`.
    status_codes: Option<IntRange>,
    /// Scheduled in this time.
    created_at: Option<DateTimeRange>,
}

impl From<DeliveryStatusFilter> for DeliveryFilter {
    fn from(filter: DeliveryStatusFilter) -> Self {
        let DeliveryStatusFilter { statuses, event_filters, status_codes, created_at } = filter;
        Self { statuses, event_filters, status_codes, created_at, ..Self::default() }
    }
}

impl DeliveryFilter {
    /// In words that never change, for cursors.
    pub(super) fn conditions(&self) -> [(&'static str, Option<String>); 6] {
        [
            ("webhook", self.webhook_id.as_ref().map(|id| id.0.clone())),
            ("message", self.message_id.as_ref().map(|id| id.0.clone())),
            ("statuses", Some(self.statuses()).filter(|all| !all.is_empty()).map(|all| format!("{all:?}"))),
            ("events", self.event_filters.as_ref().map(|all| all.join(" "))),
            ("codes", self.status_codes.as_ref().map(IntRange::text)),
            ("created", self.created_at.as_ref().map(DateTimeRange::text)),
        ]
    }

    fn statuses(&self) -> Vec<rows::DeliveryStatus> {
        let named = self.statuses.iter().flatten().map(|status| rows::DeliveryStatus::from(*status));
        let mut statuses: Vec<_> = named.collect();
        statuses.sort_by_key(|status| *status as u8);
        statuses.dedup();
        statuses
    }

    /// As the read models take it; `None` if an id is none of ours, and finds nothing.
    pub(super) async fn rows(
        &self,
        ctx: &Context<'_>,
        scope: TenantScope,
    ) -> Result<Option<projections::DeliveryFilter>> {
        let event_types = match &self.event_filters {
            Some(globs) => Some(event_type::picked_by(ctx, scope.0, &event_type::parse(globs)?).await?),
            None => None,
        };
        let recorded = match &self.created_at {
            Some(range) => Some(range.places(ctx, scope).await?),
            None => None,
        };
        let status_codes = self.status_codes.as_ref().map(IntRange::statuses).transpose()?;
        let subscription = self.webhook_id.as_ref().map(|id| id.parse::<SubscriptionId>()).transpose();
        let message = self.message_id.as_ref().map(|id| id.parse::<MessageId>()).transpose();
        let (Ok(subscription), Ok(message)) = (subscription, message) else { return Ok(None) };
        let statuses = self.statuses();
        Ok(Some(projections::DeliveryFilter { subscription, message, statuses, event_types, status_codes, recorded }))
    }
}

pub(super) struct Delivery(pub(super) DeliveryRow);

/// One message owed to one webhook, with everything that came of it.
#[Object]
impl Delivery {
    /// `dlv_…`
    pub(super) async fn id(&self) -> ID {
        self.0.id.into()
    }

    /// The webhook; null once it is deleted. Needs the scope `WEBHOOKS_READ`.
    async fn webhook(&self, ctx: &Context<'_>) -> Option<Result<Webhook>> {
        nullable(async {
            authorise(ctx, Scope::WebhooksRead)?;
            Ok(load(ctx, (self.0.tenant, self.0.subscription)).await?.map(Webhook))
        })
        .await
    }

    /// Id of the webhook; stays when it is deleted.
    async fn webhook_id(&self) -> ID {
        self.0.subscription.into()
    }

    /// The message.
    async fn message(&self, ctx: &Context<'_>) -> Option<Result<Message>> {
        nullable(async { Ok(load(ctx, (self.0.tenant, self.0.message)).await?.map(Message)) }).await
    }

    /// The message's event type.
    async fn event_type(&self) -> &str {
        self.0.event_type.as_str()
    }

    /// How it stands.
    async fn status(&self) -> DeliveryStatus {
        self.0.status.into()
    }

    /// Attempts made so far.
    async fn attempt_count(&self) -> u32 {
        self.0.attempts
    }

    /// When it was scheduled.
    async fn created_at(&self) -> DateTime {
        self.0.created_at.into()
    }

    /// When it ended; null while it is pending.
    async fn completed_at(&self) -> Option<DateTime> {
        self.0.completed_at.map(DateTime)
    }

    /// When its next attempt is due; null if there is none.
    async fn next_attempt_at(&self) -> Option<DateTime> {
        self.0.next_attempt_at.map(DateTime)
    }

    /// HTTP status of the last answer; null if there was none.
    async fn last_status_code(&self) -> Option<i32> {
        self.0.last_status.map(i32::from)
    }

    /// How long the last attempt took, in milliseconds; null before the first.
    async fn last_latency_ms(&self) -> Option<i32> {
        self.0.last_latency_ms.map(int)
    }

    /// The message's place among all messages that the webhook has matched, from 1, without gaps; the receiver gets it as
    /// the header `webhook-sequence`. A repetition has that of the first delivery. Null for
    /// backfilled messages, which were never matched, and for deliveries of old versions.
    async fn sequence(&self) -> Option<Long> {
        self.0.sequence.map(Long)
    }

    /// Why no further attempt could be made, if it failed before the end of its schedule; null otherwise.
    async fn expiry(&self) -> Option<DeliveryExpiry> {
        self.0.expiry.map(DeliveryExpiry::from)
    }

    /// The delivery that this one repeats; null if it repeats none.
    async fn redelivery_of(&self, ctx: &Context<'_>) -> Option<Result<Delivery>> {
        nullable(async {
            let Some(original) = self.0.redelivery_of else { return Ok(None) };
            Ok(load(ctx, (self.0.tenant, original)).await?.map(Delivery))
        })
        .await
    }

    /// Its attempts, the first one first.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn attempts(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<DeliveryAttempt>>> {
        nullable(async {
            let list = List::new(Some(self.0.tenant), "attempts", &[("delivery", Some(self.0.id.to_string()))]);
            let page = PageArgs { first, after, last, before }.of(&list)?;
            let slice = state(ctx).read_models.attempts(TenantScope(self.0.tenant), self.0.id, &page).await;
            Ok(Some(Connection::new(&list, &page, slice.map_err(|error| internal(&error))?, DeliveryAttempt)))
        })
        .await
    }
}

pub(super) struct DeliveryAttempt(pub(super) AttemptRow);

/// One HTTP try to make a delivery.
#[Object]
impl DeliveryAttempt {
    /// `att_…`
    pub(super) async fn id(&self) -> ID {
        ID(format!("{ATTEMPT_PREFIX}{}_{}", self.0.delivery.suffix(), self.0.number))
    }

    /// Its place among the delivery's attempts, from 1.
    async fn number(&self) -> u32 {
        self.0.number
    }

    /// When it began.
    async fn started_at(&self) -> DateTime {
        self.0.started_at.into()
    }

    /// From its beginning to the end of the answer or the failure, in milliseconds.
    async fn latency_ms(&self) -> i32 {
        int(self.0.latency_ms)
    }

    /// How it ended.
    async fn outcome(&self) -> AttemptOutcome {
        self.0.failure.map_or(AttemptOutcome::Succeeded, AttemptOutcome::from)
    }

    /// What the failure says about the endpoint; null for success, and for attempts of old versions.
    async fn failure_class(&self) -> Option<AttemptFailureClass> {
        self.0.class.map(AttemptFailureClass::from)
    }

    /// For how long the endpoint asked to be left alone (`Retry-After`), in seconds; null if it did not.
    async fn retry_after_seconds(&self) -> Option<i32> {
        self.0.response.as_ref().and_then(|response| response.retry_after_s).map(int)
    }

    /// HTTP status of the answer; null if there was none.
    async fn status_code(&self) -> Option<i32> {
        self.0.response.as_ref().map(|response| i32::from(response.status))
    }

    /// What went wrong, in a sentence; null for success.
    async fn error(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// The beginning of the answer's body, at most 1 KiB, control characters escaped; null if there was no answer.
    async fn response_preview(&self) -> Option<&str> {
        self.0.response.as_ref().map(|response| response.preview.as_str())
    }

    /// Whether the answer's body was longer than the preview.
    async fn response_truncated(&self) -> bool {
        self.0.response.as_ref().is_some_and(|response| response.truncated)
    }

    /// What it sent, or would have sent where no connection came about; null if that is not known any more. Needs the scopes
    /// `DELIVERIES_READ` and `WEBHOOKS_READ`. Fails with `LIMIT_EXCEEDED` if more than 100000 events would have to be read for
    /// one request.
    #[graphql(complexity = "REQUEST_COST + child_complexity")]
    async fn request(&self, ctx: &Context<'_>) -> Option<Result<HttpRequest>> {
        nullable(HttpRequest::of(ctx, &self.0)).await
    }

    /// What the endpoint answered; null if there was no answer.
    async fn response(&self) -> Option<HttpResponse> {
        self.0.response.as_ref().map(HttpResponse::from)
    }

    /// The webhook's version that it was sent under.
    async fn webhook_version(&self) -> i32 {
        int(self.0.revision)
    }
}

impl Delivery {
    /// The caller's delivery of that id.
    pub(super) async fn find(ctx: &Context<'_>, id: &str) -> Result<Option<Self>> {
        let scope = own_tenant(ctx, Scope::DeliveriesRead)?;
        let Ok(id) = id.parse::<DeliveryId>() else { return Ok(None) };
        let row = state(ctx).read_models.delivery(scope, id).await;
        Ok(row.map_err(|error| internal(&error))?.map(Self))
    }
}

impl DeliveryAttempt {
    /// The newest attempt of a delivery, whose tenant the caller has checked.
    pub(super) async fn newest(ctx: &Context<'_>, of: &Delivery) -> Result<Option<Self>> {
        let Delivery(row) = of;
        if row.attempts == 0 {
            return Ok(None);
        }
        let found = state(ctx).read_models.attempt(TenantScope(row.tenant), row.id, row.attempts).await;
        Ok(found.map_err(|error| internal(&error))?.map(Self))
    }

    /// The caller's attempt of that id.
    pub(super) async fn find(ctx: &Context<'_>, id: &str) -> Result<Option<Self>> {
        let scope = own_tenant(ctx, Scope::DeliveriesRead)?;
        let Some((delivery, number)) = parse_attempt(id) else { return Ok(None) };
        let row = state(ctx).read_models.attempt(scope, delivery, number).await;
        Ok(row.map_err(|error| internal(&error))?.map(Self))
    }
}

fn parse_attempt(id: &str) -> Option<(DeliveryId, u32)> {
    let (suffix, number) = id.strip_prefix(ATTEMPT_PREFIX)?.split_once('_')?;
    let delivery = format!("{}{suffix}", DeliveryId::PREFIX).parse().ok()?;
    let parsed: u32 = number.parse().ok()?;
    (parsed.to_string() == number).then_some((delivery, parsed))
}

/// The deliveries that are asked for. The caller has checked the scope. An id that is none of ours finds nothing.
pub(super) async fn list(
    ctx: &Context<'_>,
    scope: TenantScope,
    filter: DeliveryFilter,
    page: PageArgs,
) -> Result<Connection<Delivery>> {
    let list = List::new(Some(scope.0), "deliveries", &filter.conditions());
    let page = page.of(&list)?;
    let Some(filter) = filter.rows(ctx, scope).await? else {
        return Ok(Connection::new(&list, &page, projections::Slice::empty(), Delivery));
    };
    let slice = state(ctx).read_models.deliveries(scope, &filter, &page).await.map_err(|error| internal(&error))?;
    Ok(Connection::new(&list, &page, slice, Delivery))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempts_id_names_its_delivery_and_number() {
        let delivery = DeliveryId::from_parts(1_763_894_415_000, 42);
        let id = format!("att_{}_3", delivery.suffix());
        assert_eq!(parse_attempt(&id), Some((delivery, 3)));
        for noise in
            ["", "att_", "att_x_1", &format!("att_{}_03", delivery.suffix()), &format!("att_{}", delivery.suffix())]
        {
            assert_eq!(parse_attempt(noise), None, "{noise}");
        }
    }
}

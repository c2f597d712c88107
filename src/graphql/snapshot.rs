//! Webhooks as they were: time travel.
//!
//! A snapshot is a value without an id, so that no client's cache takes it for the webhook as it is now. It comes from the
//! log itself ([`history`] says why), also for a webhook that was deleted.

use std::sync::Arc;

use async_graphql::{Context, Enum, Error, ID, Object, OneofObject, Result, SimpleObject};

use super::audit::{Actor, AuditEntry};
use super::caller::authorise;
use super::circuit::CircuitState;
use super::failure::{fault, internal, nullable};
use super::header::{self, WebhookHeader};
use super::page::{Connection, List, PageArgs};
use super::retry_policy::RetryPolicy;
use super::scalar::{DateTime, Json, int};
use super::state;
use super::webhook::WebhookSecret;
use crate::domain::id::SubscriptionId;
use crate::domain::scope::Scope;
use crate::domain::subscription::{Field, FieldChange};
use crate::error_code::ErrorCode;
use crate::event_store::Position;
use crate::execute::history::{self, AsOf, Budget, Cut, HistoryError, Range, RecordedVersion};
use crate::projections::{Key, Slice, TenantScope};

/// What a count of open deliveries costs: it may read many events.
pub(super) const FOLD_COST: usize = 100;

/// Which moment is meant.
#[derive(Clone, Debug, OneofObject)]
pub(super) enum WebhookSnapshotAsOf {
    /// Right behind this place in the log, as mutations return it.
    Position(String),
    /// Behind the last change that was recorded at or before this time. A time to come is answered as things stand now.
    Time(DateTime),
    /// When this version began: `version` of a webhook or of a snapshot.
    Version(i32),
}

/// A setting of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "Field")]
pub(super) enum WebhookField {
    /// The delivery profile.
    Profile,
    /// Where it sends.
    Url,
    /// What it is for.
    Description,
    /// What it sends.
    #[graphql(name = "EVENT_FILTERS")]
    Filters,
    /// Whether it sends.
    Enabled,
    /// The current signing secret.
    Secret,
    /// Attempts a second at most.
    RateLimit,
    /// Whether each delivery waits for the end of the one before.
    Ordered,
    /// Until when it paused.
    Hold,
    /// Headers that it sends beside those of its profile.
    Headers,
    /// Its own retry policy.
    RetryPolicy,
    /// Who is told by e-mail what happens to it.
    #[graphql(name = "NOTIFICATION_EMAILS")]
    Recipients,
}

/// A setting that changed.
#[derive(SimpleObject)]
pub(super) struct WebhookChange {
    /// Which setting.
    field: WebhookField,
    /// Its value before; null when the webhook was created.
    from: Json,
    /// Its value after. Of a secret only version and fingerprint: `{"version": 2, "fingerprint": "…"}`; of headers only
    /// names and a fingerprint: `{"names": ["X-Key"], "fingerprint": "…"}`; of addresses for notices only how many they
    /// are, and a fingerprint: `{"count": 1, "fingerprint": "…"}`; of a retry policy what is its own:
    /// `{"max_attempts": 3, "delays_s": [5, 60], "timeout_s": 10, "success": "only_200"}`.
    to: Json,
}

impl From<&FieldChange> for WebhookChange {
    fn from(change: &FieldChange) -> Self {
        Self { field: change.field.into(), from: (&change.from).into(), to: (&change.to).into() }
    }
}

pub(super) struct WebhookSnapshot {
    recorded: RecordedVersion,
    cut: Cut,
}

/// A version of a webhook's settings, and how the webhook stood at one moment of it. A value: it never changes and has
/// no id of its own.
#[Object]
impl WebhookSnapshot {
    /// Id of the webhook.
    async fn webhook_id(&self) -> ID {
        self.recorded.version.settings.id.into()
    }

    /// The moment that it shows: the time that was asked for, or that of the webhook's last event up to the place in the log;
    /// of a version, and in a list of versions, when it began.
    async fn as_of(&self) -> DateTime {
        self.recorded.as_of.into()
    }

    /// From 1, without gaps; grows with every change. A deletion is a version, and so is a restoration.
    async fn version(&self) -> i32 {
        int(self.recorded.version.number)
    }

    /// Whether the webhook was deleted; its settings are those of its end.
    async fn deleted(&self) -> bool {
        self.recorded.version.deleted
    }

    /// Whether the webhook came back from its deletion with this version.
    async fn restored(&self) -> bool {
        self.recorded.version.restored
    }

    /// Where it sent.
    async fn url(&self) -> &str {
        &self.recorded.version.settings.url
    }

    /// What it was for.
    async fn description(&self) -> Option<&str> {
        self.recorded.version.settings.description.as_deref()
    }

    /// Which messages it sent.
    async fn event_filters(&self) -> Vec<&str> {
        self.recorded.version.settings.filters.iter().map(|filter| filter.as_str()).collect()
    }

    /// Whether it sent.
    async fn enabled(&self) -> bool {
        self.recorded.version.settings.enabled
    }

    /// How far its circuit breaker let it send at the moment that was asked for; in a list of versions, when this one
    /// began. `CLOSED` once it was deleted.
    async fn circuit_state(&self) -> CircuitState {
        self.recorded.circuit.into()
    }

    /// How many attempts it made in a second at most; null: without a limit of its own.
    async fn rate_limit_per_second(&self) -> Option<i32> {
        self.recorded.version.settings.rate_limit_per_s.map(|per_s| int(per_s.into()))
    }

    /// Whether each delivery waited for the end of the one before.
    async fn ordered(&self) -> bool {
        self.recorded.version.settings.ordered
    }

    /// Headers that it sent beside those of its profile, without their values.
    async fn headers(&self) -> Vec<WebhookHeader> {
        header::shown(self.recorded.version.settings.headers.as_deref())
    }

    /// By which rules it judged its attempts and made them again; null if its profile is not known any more.
    async fn retry_policy(&self) -> Option<RetryPolicy> {
        let settings = &self.recorded.version.settings;
        RetryPolicy::of(&settings.profile, settings.retry_policy.as_deref()).ok()
    }

    /// How many addresses were told by e-mail what happened to it. The addresses themselves are kept as long as they are in
    /// use.
    async fn notification_email_count(&self) -> i32 {
        self.recorded.version.settings.recipients.as_ref().map_or(0, |sealed| int(sealed.count.into()))
    }

    /// Nothing was sent before this; null: it did not pause.
    async fn hold_until(&self) -> Option<DateTime> {
        self.recorded.version.settings.hold_until.map(DateTime)
    }

    /// Name of its delivery profile.
    async fn profile(&self) -> &str {
        &self.recorded.version.settings.profile
    }

    /// Its signing secrets, the current one first, without their text.
    async fn secrets(&self) -> Vec<WebhookSecret> {
        self.recorded.version.secrets.iter().map(WebhookSecret::from).collect()
    }

    /// Since when this version holds.
    async fn since(&self) -> DateTime {
        self.recorded.version.since.into()
    }

    /// Until when it held; null if it still does.
    async fn until(&self) -> Option<DateTime> {
        self.recorded.until.map(DateTime)
    }

    /// Place in the log of the event that made this version.
    async fn position(&self) -> String {
        self.recorded.position.to_string()
    }

    /// What changed with this version; empty at the deletion.
    async fn changes(&self) -> Vec<WebhookChange> {
        self.recorded.version.changes.iter().map(Into::into).collect()
    }

    /// What the audit log says of the event that made this version. Needs the scope `AUDIT_READ`.
    #[graphql(complexity = "2 + child_complexity")]
    async fn change(&self, ctx: &Context<'_>) -> Option<Result<AuditEntry>> {
        nullable(async {
            authorise(ctx, Scope::AuditRead)?;
            AuditEntry::read(ctx, TenantScope(self.recorded.version.settings.tenant), self.recorded.position).await
        })
        .await
    }

    /// Who made this version.
    async fn actor(&self) -> Actor {
        (&self.recorded.meta.actor).into()
    }

    /// In which request; null if in none.
    async fn request_id(&self) -> Option<String> {
        self.recorded.meta.request.map(|request| request.to_string())
    }

    /// Deliveries that had not ended at the moment that was asked for; in a list of versions, when this one began. Null
    /// if what would tell is older than the log keeps deliveries. Fails with `LIMIT_EXCEEDED` if more than 100000
    /// events would have to be read for one request.
    #[graphql(complexity = "FOLD_COST")]
    async fn open_deliveries(&self, ctx: &Context<'_>) -> Option<Result<i32>> {
        nullable(async {
            let open =
                history::open_deliveries(state(ctx).log.reader(), &self.recorded.version, self.cut, budget(ctx)).await;
            Ok(open.map_err(failed)?.map(|count| int(count as u64)))
        })
        .await
    }
}

impl WebhookSnapshot {
    /// The tenant's webhook as of that moment. The caller has checked the scope.
    pub(super) async fn find(
        ctx: &Context<'_>,
        scope: TenantScope,
        id: &str,
        as_of: WebhookSnapshotAsOf,
    ) -> Result<Option<Self>> {
        let as_of = moment(as_of)?;
        let Ok(id) = id.parse::<SubscriptionId>() else { return Ok(None) };
        let found =
            history::snapshot(state(ctx).log.reader(), scope.0, id, as_of, budget(ctx)).await.map_err(failed)?;
        Ok(found.map(|(recorded, cut)| Self { recorded, cut }))
    }
}

/// Versions of the tenant's webhook, the newest first; `None` if there is and was no such webhook. The caller has checked
/// the scope.
pub(super) async fn list(
    ctx: &Context<'_>,
    scope: TenantScope,
    id: SubscriptionId,
    page: PageArgs,
) -> Result<Option<Connection<WebhookSnapshot>>> {
    let list = List::new(Some(scope.0), "webhookHistory", &[("webhook", Some(id.to_string()))]);
    let page = page.of(&list)?;
    let number = |key: &Option<Key>| key.as_ref().map(|key| key.0.unsigned_abs());
    let range =
        Range { after: number(&page.after), before: number(&page.before), limit: page.limit, from_end: page.from_end };
    let found = history::versions(state(ctx).log.reader(), scope.0, id, range, budget(ctx)).await.map_err(failed)?;
    let key = |recorded: &RecordedVersion| Key(recorded.version.number.cast_signed(), String::new());
    Ok(found.map(|(versions, has_more)| {
        let rows = versions.into_iter().map(|recorded| (key(&recorded), recorded)).collect();
        Connection::new(&list, &page, Slice::new(rows, has_more), |recorded| WebhookSnapshot {
            cut: Cut::at(recorded.position),
            recorded,
        })
    }))
}

fn moment(as_of: WebhookSnapshotAsOf) -> Result<AsOf> {
    let invalid = |message: String| fault(ErrorCode::InvalidInput, message);
    match as_of {
        WebhookSnapshotAsOf::Position(text) => {
            text.parse::<Position>().map(AsOf::Position).map_err(|error| invalid(error.to_string()))
        }
        WebhookSnapshotAsOf::Time(time) => Ok(AsOf::Time(time.0)),
        WebhookSnapshotAsOf::Version(version) => match u64::try_from(version) {
            Ok(version @ 1..) => Ok(AsOf::Version(version)),
            Ok(0) | Err(_) => Err(invalid(format!("there is no version {version}; the first is 1"))),
        },
    }
}

/// What the request may still read of the log.
pub(super) fn budget<'a>(ctx: &Context<'a>) -> &'a Budget {
    ctx.data_unchecked::<Arc<Budget>>()
}

/// The past cannot be told.
pub(super) fn failed(error: HistoryError) -> Error {
    match &error {
        HistoryError::Load(cause) => internal(cause),
        HistoryError::TooManyEvents
        | HistoryError::OtherShard { .. }
        | HistoryError::Ahead { .. }
        | HistoryError::NoSuchVersion { .. }
        | HistoryError::Dropped { .. }
        | HistoryError::UnknownStream(_) => fault(error.code(), error.to_string()),
    }
}

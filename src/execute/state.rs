//! The state of any stream as of any moment, as JSON that a person can read: for `tidings state`.
//!
//! Never shows a secret, the hash of an API key, or the query of a URL, where receivers put tokens. Has no bound on what
//! it reads: it answers the operator, at the command line.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::history::{AsOf, Budget, HistoryError, Pages, RecordedVersion, check, find, owed};
use super::{messages_stream, subscription_of, tenant_of};
use crate::codec;
use crate::domain::audit::masked_url;
use crate::domain::event::{ApiKeyIssued, Event, MessageEvent, TenantEvent};
use crate::domain::header::SealedHeaders;
use crate::domain::id::{ApiKeyId, SubscriptionId, TenantId};
use crate::domain::notice::SealedRecipients;
use crate::domain::subscription::{KnownSecret, Open, Settings, Subscription, Version};
use crate::domain::tenant::Tenant;
use crate::domain::time::Timestamp;
use crate::event_store::{EventReader, Position, Recorded};

/// Open deliveries are listed up to this many, the next due first; they are all counted.
const LISTED_DELIVERIES: usize = 100;

/// The state of the stream as of that moment, or now. `None` if it had no event then.
///
/// `subscription-…` and `deliveries-…` answer alike, with settings and open deliveries, since both are one subscription;
/// a version counts the events of the stream that is named.
///
/// # Errors
/// [`HistoryError`], of which every kind but `TooManyEvents` can happen.
pub async fn state_as_of(
    reader: &dyn EventReader,
    stream: &str,
    as_of: Option<AsOf>,
) -> Result<Option<Value>, HistoryError> {
    let unknown = || HistoryError::UnknownStream(stream.chars().take(64).collect());
    let (category, _) = stream.split_once('-').ok_or_else(unknown)?;
    let as_of = match as_of {
        Some(AsOf::Version(version)) => Some(AsOf::Position(position_of(reader, stream, version).await?)),
        Some(AsOf::Position(_) | AsOf::Time(_)) | None => as_of,
    };
    let budget = Budget::of(usize::MAX);
    match category {
        "subscription" | "deliveries" => {
            subscription_state(reader, subscription_of(stream).ok_or_else(unknown)?, as_of, &budget).await
        }
        "tenant" => tenant_state(reader, stream, tenant_of(stream).ok_or_else(unknown)?, as_of, &budget).await,
        "messages" => messages_state(reader, tenant_of(stream).ok_or_else(unknown)?, as_of, &budget).await,
        _ => Err(unknown()),
    }
}

/// Where the stream's event of that version stands.
async fn position_of(reader: &dyn EventReader, stream: &str, version: u64) -> Result<Position, HistoryError> {
    let found = reader.read_stream(stream, version.max(1), 1).await?;
    match found.first() {
        Some(recorded) if recorded.version == version => Ok(recorded.position),
        Some(recorded) if version > 0 => {
            Err(HistoryError::Dropped { stream: stream.to_owned(), oldest: recorded.position })
        }
        Some(_) | None => Err(HistoryError::NoSuchVersion { version, newest: reader.stream_version(stream).await? }),
    }
}

async fn subscription_state(
    reader: &dyn EventReader,
    id: SubscriptionId,
    as_of: Option<AsOf>,
    budget: &Budget,
) -> Result<Option<Value>, HistoryError> {
    let as_of = as_of.unwrap_or(AsOf::Time(Timestamp::from_ms(i64::MAX)));
    let Some((found, cut)) = find(reader, None, id, as_of, budget).await? else { return Ok(None) };
    let RecordedVersion { version, position, until, .. } = &found;
    let state = owed(reader, version, cut, budget).await?;
    Ok(Some(json!({
        "subscription": id,
        "tenant": version.settings.tenant,
        "deleted": version.deleted,
        "version": version.number,
        "since": version.since.to_rfc3339_ms(),
        "until": until.map(Timestamp::to_rfc3339_ms),
        "position": position.to_string(),
        "settings": settings(version),
        // Null: retention has dropped the events that would tell.
        "open_deliveries": state.as_ref().map(open_deliveries),
    })))
}

fn settings(version: &Version) -> Value {
    let Settings {
        id: _,
        tenant: _,
        profile,
        url,
        description,
        filters,
        enabled,
        secrets: _,
        revision,
        rate_limit_per_s,
        ordered,
        hold_until,
        headers,
        retry_policy,
        recipients,
    } = &version.settings;
    json!({
        "profile": profile,
        "url": masked_url(url),
        "description": description,
        "filters": filters,
        "enabled": enabled,
        "rate_limit_per_s": rate_limit_per_s,
        "ordered": ordered,
        "hold_until": hold_until.map(Timestamp::to_rfc3339_ms),
        "headers": headers.as_deref().map(SealedHeaders::told),
        "retry_policy": retry_policy,
        "recipients": recipients.as_deref().map(SealedRecipients::told),
        "revision": revision,
        "secrets": version.secrets.iter().map(secret).collect::<Vec<_>>(),
    })
}

fn secret(known: &KnownSecret) -> Value {
    json!({
        "version": known.version,
        "fingerprint": known.fingerprint,
        "public_key": known.public_key,
        "created_at": known.created_at.to_rfc3339_ms(),
        "retires_at": known.retires_at.map(Timestamp::to_rfc3339_ms),
    })
}

fn open_deliveries(state: &Subscription) -> Value {
    let delivery = |(id, open): (_, &Open)| {
        json!({
            "delivery": id,
            "message": open.message,
            "scheduled_at": open.scheduled_at.to_rfc3339_ms(),
            "due_at": open.due_at.to_rfc3339_ms(),
            "failures": open.failures,
        })
    };
    let next: Vec<_> = state.open().take(LISTED_DELIVERIES).map(delivery).collect();
    json!({ "count": state.open_count(), "next": next })
}

async fn tenant_state(
    reader: &dyn EventReader,
    stream: &str,
    id: TenantId,
    as_of: Option<AsOf>,
    budget: &Budget,
) -> Result<Option<Value>, HistoryError> {
    let (mut tenant, mut keys, mut last) = (Tenant::default(), BTreeMap::new(), None);
    // Events that were recorded later than asked for: they count if one of an earlier time follows.
    let mut waiting = vec![];
    let mut pages = Pages::of(reader, stream.to_owned(), budget);
    while let Some(page) = pages.next().await? {
        for recorded in page {
            if last.is_none() && waiting.is_empty() {
                check_shard(reader, as_of, &recorded).await?;
            }
            let within = within(as_of, &recorded);
            waiting.push(recorded);
            if within {
                for recorded in waiting.drain(..) {
                    fold_tenant(&mut tenant, &mut keys, &recorded)?;
                    last = Some(recorded);
                }
            }
        }
    }
    let (Some(last), Some(created)) = (last, tenant.created) else { return Ok(None) };
    let users = tenant.users.iter().map(
        |(user, known)| json!({ "user": user, "name": known.name, "scopes": known.scopes, "disabled": known.disabled }),
    );
    let users = users.collect::<Vec<_>>();
    let event_types = tenant.event_types.into_iter().map(|(name, own)| {
        json!({
            "name": name,
            "category": own.category,
            "description": own.description,
            "version": own.version,
            "deprecation_reason": own.deprecation_reason,
        })
    });
    Ok(Some(json!({
        "tenant": id,
        "name": created.name,
        "slug": created.slug,
        "profile": created.profile,
        "version": last.version,
        "position": last.position.to_string(),
        "event_types": event_types.collect::<Vec<_>>(),
        "unattended_keys": tenant.unattended_keys,
        "erased": tenant.erasures.of_tenant,
        "erasures_under_way": tenant.erasures.under_way.into_keys().collect::<Vec<_>>(),
        "users": users,
        "api_keys": keys.into_values().collect::<Vec<_>>(),
    })))
}

fn fold_tenant(
    tenant: &mut Tenant,
    keys: &mut BTreeMap<ApiKeyId, Value>,
    recorded: &Recorded,
) -> Result<(), HistoryError> {
    let Event::Tenant(event) = codec::decode(recorded)? else { return Ok(()) };
    tenant.evolve(&event);
    match &event {
        TenantEvent::ApiKeyIssued(issued) => {
            keys.insert(issued.key, api_key(issued, recorded.at));
        }
        TenantEvent::ApiKeyRevoked(revoked) => {
            keys.remove(&revoked.key);
        }
        TenantEvent::Created(_)
        | TenantEvent::EventTypeRegistered(_)
        | TenantEvent::EventTypeUpdated(_)
        | TenantEvent::SettingsChanged(_)
        | TenantEvent::UserAdded(_)
        | TenantEvent::UserCredentialsReset(_)
        | TenantEvent::UserDisabled(_)
        | TenantEvent::UserAuthenticationFailed(_)
        | TenantEvent::ConfigChanged(_)
        | TenantEvent::ErasureStarted(_)
        | TenantEvent::ErasureAdvanced(_)
        | TenantEvent::ErasureCompleted(_)
        | TenantEvent::KekRotated(_) => {}
    }
    Ok(())
}

fn api_key(issued: &ApiKeyIssued, at: Timestamp) -> Value {
    // Named one by one, so that nothing comes in here unseen.
    let ApiKeyIssued { key, name, hash: _, scopes, expires_at } = issued;
    json!({
        "key": key,
        "name": name,
        "scopes": scopes,
        "created_at": at.to_rfc3339_ms(),
        "expires_at": expires_at.map(Timestamp::to_rfc3339_ms),
    })
}

async fn messages_state(
    reader: &dyn EventReader,
    tenant: TenantId,
    as_of: Option<AsOf>,
    budget: &Budget,
) -> Result<Option<Value>, HistoryError> {
    let stream = messages_stream(tenant);
    let (mut seen, mut counted, mut last, mut oldest) = (0_u64, 0, None, None);
    let mut pages = Pages::of(reader, stream.clone(), budget);
    'pages: while let Some(page) = pages.next().await? {
        for recorded in page {
            if oldest.is_none() {
                check_shard(reader, as_of, &recorded).await?;
                oldest = Some((recorded.position, recorded.version));
            }
            // Positions grow, as times need not.
            if matches!(as_of, Some(AsOf::Position(position)) if recorded.position > position) {
                break 'pages;
            }
            let Event::Message(MessageEvent::Published(published)) = codec::decode(&recorded)? else { continue };
            seen += 1;
            if within(as_of, &recorded) {
                (counted, last) = (seen, Some((recorded, published)));
            }
        }
    }
    let Some((recorded, published)) = last else {
        return match oldest {
            Some((oldest, version)) if version > 1 => Err(HistoryError::Dropped { stream, oldest }),
            Some(_) | None => Ok(None),
        };
    };
    let mut state = Map::new();
    state.insert("tenant".into(), json!(tenant));
    // Of those that retention has left.
    state.insert("count".into(), json!(counted));
    state.insert("from_version".into(), json!(oldest.map(|(_, version)| version)));
    state.insert("version".into(), json!(recorded.version));
    state.insert("position".into(), json!(recorded.position.to_string()));
    let last = json!({
        "message": published.message,
        "type": published.event_type,
        "at": recorded.at.to_rfc3339_ms(),
        "occurred_at": published.occurred_at.to_rfc3339_ms(),
        "size_bytes": published.size_bytes,
    });
    state.insert("last".into(), last);
    Ok(Some(Value::Object(state)))
}

fn within(as_of: Option<AsOf>, recorded: &Recorded) -> bool {
    match as_of {
        None => true,
        Some(AsOf::Position(position)) => recorded.position <= position,
        Some(AsOf::Time(time)) => recorded.at <= time,
        Some(AsOf::Version(version)) => recorded.version <= version,
    }
}

/// Whether the position, if one is asked for, can be meant in the shard of this event.
async fn check_shard(reader: &dyn EventReader, as_of: Option<AsOf>, recorded: &Recorded) -> Result<(), HistoryError> {
    match as_of {
        Some(AsOf::Position(position)) => check(reader, position, recorded.position.shard).await,
        Some(AsOf::Time(_) | AsOf::Version(_)) | None => Ok(()),
    }
}

//! Rows that many items of one answer ask for, read together. One loader a request, so that nothing crosses tenants.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use async_graphql::dataloader::{DataLoader, HashMapCache, Loader};
use async_graphql::runtime::{TokioSpawner, TokioTimer};
use async_graphql::{Context, Result};

use super::event_type::{self, EventType};
use super::failure::internal;
use super::{SchemaContext, snapshot};
use crate::domain::id::{ApiKeyId, DeliveryId, MessageId, SubscriptionId, TenantId};
use crate::domain::subscription::Settings;
use crate::domain::time::Timestamp;
use crate::event_store::Log;
use crate::execute::history::{self, AsOf, Budget, HistoryError};
use crate::projections::rows::{ApiKeyRow, DeliveryRow, MessageRow, TenantRow, WebhookRow};
use crate::projections::{DeliveryCounts, QueryError, ReadModels, Tally, TenantScope};

/// Reads rows by id and tenant, and versions of webhooks from the log.
pub(super) struct Rows(ReadModels, Past);

/// What is read of the log for one request.
struct Past {
    log: Log,
    budget: Arc<Budget>,
}

pub(super) type Rowloader = DataLoader<Rows, HashMapCache>;

/// A loader for one request, which may read so much of the log.
pub(super) fn loader(context: &SchemaContext, budget: &Arc<Budget>) -> Rowloader {
    let past = Past { log: context.log.clone(), budget: Arc::clone(budget) };
    let rows = Rows(context.read_models.clone(), past);
    DataLoader::with_cache(rows, TokioSpawner::current(), TokioTimer::default(), HashMapCache::default())
}

/// The row of that key, read together with others that are asked for at the same time.
pub(super) async fn load<K>(ctx: &Context<'_>, key: K) -> Result<Option<<Rows as Loader<K>>::Value>>
where
    K: Send + Sync + Hash + Eq + Clone + 'static,
    Rows: Loader<K, Error = Arc<QueryError>>,
{
    ctx.data_unchecked::<Rowloader>().load_one(key).await.map_err(|error| internal(&*error))
}

/// The rows of those keys that there are, by key.
pub(super) async fn load_all<K>(
    ctx: &Context<'_>,
    keys: impl Iterator<Item = K>,
) -> Result<HashMap<K, <Rows as Loader<K>>::Value>>
where
    K: Send + Sync + Hash + Eq + Clone + 'static,
    Rows: Loader<K, Error = Arc<QueryError>>,
{
    ctx.data_unchecked::<Rowloader>().load_many(keys).await.map_err(|error| internal(&*error))
}

macro_rules! rows_by_id {
    ($($id:ident -> $row:ident by $query:ident;)*) => {$(
        impl Loader<(TenantId, $id)> for Rows {
            type Value = $row;
            type Error = Arc<QueryError>;

            async fn load(
                &self,
                keys: &[(TenantId, $id)],
            ) -> Result<HashMap<(TenantId, $id), $row>, Arc<QueryError>> {
                let tenants: HashSet<_> = keys.iter().map(|(tenant, _)| *tenant).collect();
                let mut found = HashMap::with_capacity(keys.len());
                for tenant in tenants {
                    let ids: Vec<_> = keys.iter().filter(|key| key.0 == tenant).map(|key| key.1).collect();
                    let rows = self.0.$query(TenantScope(tenant), &ids).await.map_err(Arc::new)?;
                    found.extend(rows.into_iter().map(|row| ((tenant, row.id), row)));
                }
                Ok(found)
            }
        }
    )*};
}

rows_by_id! {
    SubscriptionId -> WebhookRow by webhooks_by_ids;
    MessageId -> MessageRow by messages_by_ids;
    DeliveryId -> DeliveryRow by deliveries_by_ids;
}

/// A tenant; an API key, whosever it is.
macro_rules! rows_by_one_id {
    ($($id:ident -> $row:ident by $query:ident;)*) => {$(
        impl Loader<$id> for Rows {
            type Value = $row;
            type Error = Arc<QueryError>;

            async fn load(&self, keys: &[$id]) -> Result<HashMap<$id, $row>, Arc<QueryError>> {
                let mut found = HashMap::with_capacity(keys.len());
                for key in keys {
                    if let Some(row) = self.0.$query(*key).await.map_err(Arc::new)? {
                        found.insert(*key, row);
                    }
                }
                Ok(found)
            }
        }
    )*};
}

rows_by_one_id! {
    TenantId -> TenantRow by tenant;
    ApiKeyId -> ApiKeyRow by api_key;
}

/// How the deliveries of a webhook stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct CountsOf(pub(super) SubscriptionId);

impl Loader<CountsOf> for Rows {
    type Value = DeliveryCounts;
    type Error = Arc<QueryError>;

    async fn load(&self, keys: &[CountsOf]) -> Result<HashMap<CountsOf, DeliveryCounts>, Arc<QueryError>> {
        let ids: Vec<_> = keys.iter().map(|key| key.0).collect();
        let found = self.0.delivery_counts_of(&ids).await.map_err(Arc::new)?;
        Ok(found.into_iter().map(|(id, counts)| (CountsOf(id), counts)).collect())
    }
}

/// What became of a webhook's newest attempts, as of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RecentOf {
    id: SubscriptionId,
    /// In whole minutes, so that all that are asked for in one answer are read together.
    minute: u64,
}

impl RecentOf {
    pub(super) fn at(id: SubscriptionId, now: Timestamp) -> Self {
        Self { id, minute: now.ms_since(Timestamp::from_ms(0)) / 60_000 }
    }
}

impl Loader<RecentOf> for Rows {
    type Value = Tally;
    type Error = Arc<QueryError>;

    async fn load(&self, keys: &[RecentOf]) -> Result<HashMap<RecentOf, Tally>, Arc<QueryError>> {
        let minutes: HashSet<_> = keys.iter().map(|key| key.minute).collect();
        let mut found = HashMap::with_capacity(keys.len());
        for minute in minutes {
            let ids: Vec<_> = keys.iter().filter(|key| key.minute == minute).map(|key| key.id).collect();
            let now = Timestamp::from_ms(0).plus_ms(minute * 60_000);
            let tallies = self.0.recent(&ids, now).await.map_err(Arc::new)?;
            found.extend(tallies.into_iter().map(|(id, tally)| (RecentOf { id, minute }, tally)));
        }
        Ok(found)
    }
}

/// A version of a webhook's settings, also of one that was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct VersionOf {
    pub(super) tenant: TenantId,
    pub(super) subscription: SubscriptionId,
    pub(super) version: u64,
}

impl Loader<VersionOf> for Rows {
    type Value = Arc<Settings>;
    type Error = HistoryError;

    async fn load(&self, keys: &[VersionOf]) -> Result<HashMap<VersionOf, Arc<Settings>>, HistoryError> {
        let Past { log, budget } = &self.1;
        let mut found = HashMap::with_capacity(keys.len());
        for key in keys {
            let as_of = AsOf::Version(key.version);
            let snapshot = history::snapshot(log.reader(), key.tenant, key.subscription, as_of, budget).await?;
            found.extend(snapshot.map(|(then, _)| (*key, Arc::new(then.version.settings))));
        }
        Ok(found)
    }
}

/// How the webhook was set in that version; `None`: the tenant has and had no such webhook.
pub(super) async fn settings_of(ctx: &Context<'_>, key: VersionOf) -> Result<Option<Arc<Settings>>> {
    ctx.data_unchecked::<Rowloader>().load_one(key).await.map_err(snapshot::failed)
}

/// A tenant's catalogue: what every tenant has, and its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct CatalogueOf(pub(super) TenantId);

impl Loader<CatalogueOf> for Rows {
    type Value = Arc<Vec<EventType>>;
    type Error = Arc<QueryError>;

    async fn load(&self, keys: &[CatalogueOf]) -> Result<HashMap<CatalogueOf, Self::Value>, Arc<QueryError>> {
        let mut found = HashMap::with_capacity(keys.len());
        for key in keys {
            let own = self.0.event_types(TenantScope(key.0)).await.map_err(Arc::new)?;
            found.insert(*key, Arc::new(event_type::catalogue(own)));
        }
        Ok(found)
    }
}

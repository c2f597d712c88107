//! Writes histories into a log, the way the program does: every event is decided by the domain.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidings::clock::{Clock, SeededClock};
use tidings::domain::event::{
    ApiKeyIssued, ApiKeyRevoked, Change, Event, EventTypeRegistered, EventTypeUpdated, MessageEvent, MessagePublished,
    SubscriptionCreated, TenantCreated, TenantEvent, TestSent,
};
use tidings::domain::filter::{EventType, Filter};
use tidings::domain::id::{ApiKeyId, DeliveryId, MessageId, SubscriptionId, TenantId};
use tidings::domain::outcome::{Exchange, Failure, FailureCode, Response};
use tidings::domain::scope::Scope;
use tidings::domain::subscription::{self, Command, Finished, Match, Matches, Redeliver, Restore, Update};
use tidings::domain::time::Timestamp;
use tidings::event_store::{
    Append, Bucket, Config, EventStore, Lifetime, Log, MemoryStore, NewEvent, Position, StreamWrite,
};
use tidings::execute::{self, Actor, ActorKind, Loaded, Meta};

use crate::support::watched_store::WatchedStore;

/// A log, and the states of everything in it.
pub(super) struct History {
    pub(super) log: Log,
    pub(super) store: Arc<WatchedStore>,
    pub(super) clock: Arc<dyn Clock>,
    versions: BTreeMap<String, u64>,
    /// In which bucket messages and deliveries are recorded.
    bucket: Bucket,
    /// The buckets in which the streams that are kept for a while began their periods.
    periods: BTreeMap<String, Bucket>,
    pub(super) tenants: Vec<TenantId>,
    pub(super) keys: Vec<(TenantId, ApiKeyId)>,
    pub(super) messages: Vec<(TenantId, MessageId, u64)>,
    pub(super) subscriptions: BTreeMap<SubscriptionId, (TenantId, Loaded)>,
    /// Deliveries that ended, with their message and whether they failed.
    ended: Vec<(SubscriptionId, DeliveryId, MessageId, u64, bool)>,
}

pub(super) fn meta() -> Meta {
    let actor = Actor { kind: ActorKind::ApiKey, id: "key_of_ada".into() };
    Meta { ip: Some("192.0.2.7".into()), ..Meta::by(actor) }
}

impl History {
    pub(super) async fn new(seed: u64) -> Self {
        Self::over(1, seed).await
    }

    /// In a log of so many shards, over which the tenants are spread.
    pub(super) async fn over(shards: u16, seed: u64) -> Self {
        // So short a tail that readers which lag a little are served from the store.
        let config = Config { tail_events: 64, ..Config::default() };
        let store = Arc::new(WatchedStore::over(MemoryStore::new(shards)));
        Self {
            log: Log::start(Arc::clone(&store) as Arc<dyn EventStore>, config).await.unwrap(),
            store,
            clock: Arc::new(SeededClock::new(Timestamp::from_ms(1_763_894_415_000), seed)),
            versions: BTreeMap::new(),
            bucket: Bucket(1),
            periods: BTreeMap::new(),
            tenants: vec![],
            keys: vec![],
            messages: vec![],
            subscriptions: BTreeMap::new(),
            ended: vec![],
        }
    }

    /// The head of the first shard, in a log that has no other.
    pub(super) fn head(&self) -> Position {
        Position { shard: 0, seq: self.log.head(0) }
    }

    /// The heads of all shards.
    pub(super) fn heads(&self) -> impl Iterator<Item = Position> {
        (0..self.log.shards()).map(|shard| Position { shard, seq: self.log.head(shard) })
    }

    pub(super) fn shard(&self, tenant: TenantId) -> u16 {
        execute::shard_of(tenant, self.log.shards())
    }

    fn new_event(&self, event: &Event) -> NewEvent {
        execute::new_event(event, self.clock.now(), Some(&meta()), None, &*self.clock)
    }

    /// Appends events to a stream in the first shard, at its own version; answers with the last one's number.
    pub(super) async fn append(&mut self, stream: String, events: Vec<NewEvent>) -> u64 {
        self.append_in(0, stream, events).await
    }

    /// How long what is recorded in the stream now is kept.
    fn lifetime(&mut self, stream: &str) -> Lifetime {
        if !stream.starts_with("messages-") && !stream.starts_with("deliveries-") {
            return Lifetime::Kept;
        }
        match self.periods.insert(stream.to_owned(), self.bucket) {
            Some(bucket) if bucket == self.bucket => Lifetime::Bucket(bucket),
            Some(_) | None => Lifetime::Period(self.bucket),
        }
    }

    /// Messages and deliveries are recorded in the next bucket from now on.
    pub(super) fn next_bucket(&mut self) {
        self.bucket.0 += 1;
    }

    /// Drops every bucket but the present one. Subscriptions that recorded no delivery in it are heard of no more.
    pub(super) async fn drop_old_buckets(&mut self) {
        for tenant in self.tenants.clone() {
            self.publish(tenant, "order.created").await;
        }
        let old: Vec<String> = self
            .periods
            .iter()
            .filter(|(_, period)| **period < self.bucket)
            .map(|(stream, _)| stream.clone())
            .collect();
        for stream in old {
            self.periods.remove(&stream);
            if let Some(id) = execute::subscription_of(&stream)
                && let Some((tenant, _)) = self.subscriptions.remove(&id)
            {
                self.ended.retain(|(ended, ..)| *ended != id);
                let append = Append { ended: vec![stream], ..Append::default() };
                self.log.append(self.shard(tenant), append).await.unwrap();
            }
        }
        for bucket in 1..self.bucket.0 {
            while self.log.drop_bucket(Bucket(bucket), 10).await.unwrap().more {}
        }
    }

    pub(super) async fn append_in(&mut self, shard: u16, stream: String, events: Vec<NewEvent>) -> u64 {
        let lifetime = self.lifetime(&stream);
        let version = self.versions.entry(stream.clone()).or_default();
        let first_version = *version + 1;
        *version += events.len() as u64;
        let append =
            Append { writes: vec![StreamWrite { stream, first_version, lifetime, events }], ..Append::default() };
        self.log.append(shard, append).await.unwrap().last.seq
    }

    pub(super) async fn tenant_event(&mut self, tenant: TenantId, event: TenantEvent) -> u64 {
        let event = self.new_event(&Event::Tenant(event));
        self.append_in(self.shard(tenant), execute::tenant_stream(tenant), vec![event]).await
    }

    pub(super) async fn tenant(&mut self) -> TenantId {
        let tenant = self.clock.tenant_id();
        let slug = format!("ent_{}", self.tenants.len());
        let created = TenantCreated { tenant, name: "Axie".into(), slug, profile: "standard-v1".into() };
        self.tenant_event(tenant, TenantEvent::Created(created)).await;
        self.tenants.push(tenant);
        tenant
    }

    pub(super) async fn event_type(&mut self, tenant: TenantId, name: &str) {
        let registered = EventTypeRegistered {
            name: EventType::parse(name).unwrap(),
            category: "orders".into(),
            description: "An order was made".into(),
            version: "1".into(),
            schema: serde_json::json!({ "type": "object" }),
            example: Some(serde_json::json!({ "order": 1 })),
        };
        self.tenant_event(tenant, TenantEvent::EventTypeRegistered(registered)).await;
    }

    async fn update_event_type(&mut self, tenant: TenantId, name: &str, pick: u64) {
        let reason = pick.is_multiple_of(2).then(|| format!("reason {pick}"));
        let updated = EventTypeUpdated {
            name: EventType::parse(name).unwrap(),
            category: None,
            description: Some(Change { from: "An order was made".into(), to: format!("An order, {pick}") }),
            version: Some(Change { from: "1".into(), to: format!("{pick}") }),
            schema: pick.is_multiple_of(3).then(|| serde_json::json!({ "maxProperties": pick % 1_000 })),
            example: None,
            deprecation_reason: (!pick.is_multiple_of(5)).then_some(Change { from: None, to: reason }),
        };
        self.tenant_event(tenant, TenantEvent::EventTypeUpdated(updated)).await;
    }

    pub(super) async fn api_key(&mut self, tenant: TenantId) -> ApiKeyId {
        let key = self.clock.api_key_id();
        let issued = ApiKeyIssued {
            key,
            name: "ci".into(),
            hash: "5e884898da28047151d0e56f8dc62927".into(),
            scopes: vec![Scope::MessagesPublish, Scope::WebhooksRead],
            expires_at: None,
        };
        self.tenant_event(tenant, TenantEvent::ApiKeyIssued(issued)).await;
        self.keys.push((tenant, key));
        key
    }

    pub(super) async fn revoke(&mut self, tenant: TenantId, key: ApiKeyId) {
        self.tenant_event(tenant, TenantEvent::ApiKeyRevoked(ApiKeyRevoked { key })).await;
    }

    pub(super) async fn publish(&mut self, tenant: TenantId, event_type: &str) -> (MessageId, u64) {
        let message = self.clock.message_id();
        let published = MessagePublished {
            message,
            tenant,
            tenant_slug: "ent_0".into(),
            event_type: EventType::parse(event_type).unwrap(),
            occurred_at: self.clock.now(),
            size_bytes: 17,
            digest: "00".into(),
            unstable: false,
            idempotency_key: Some("order-1".into()),
        };
        let event = self.new_event(&Event::Message(MessageEvent::Published(published)));
        let seq = self.append_in(self.shard(tenant), execute::messages_stream(tenant), vec![event]).await;
        self.messages.push((tenant, message, seq));
        (message, seq)
    }

    pub(super) async fn subscription(&mut self, tenant: TenantId) -> SubscriptionId {
        let subscription = self.clock.subscription_id();
        self.subscriptions.insert(subscription, (tenant, Loaded::default()));
        let created = SubscriptionCreated {
            subscription,
            tenant,
            profile: "standard-v1".into(),
            url: "https://shop.example/hook?token=hunter2".into(),
            description: Some("The shop".into()),
            filters: vec![Filter::parse("order.**").unwrap()],
            enabled: true,
            secret: self.clock.secret_id(),
            fingerprint: "f1".into(),
            public_key: None,
            rate_limit_per_s: None,
            ordered: false,
            headers: None,
            retry_policy: None,
            recipients: None,
        };
        self.command(subscription, Command::Create(created)).await;
        subscription
    }

    /// Lets the domain decide, and appends what it says.
    pub(super) async fn command(&mut self, id: SubscriptionId, command: Command) -> Option<Vec<Event>> {
        let now = self.clock.now();
        let shard = self.shard(self.subscriptions[&id].0);
        let (_, loaded) = self.subscriptions.get_mut(&id).unwrap();
        let events = subscription::decide(&loaded.state, command).ok()?;
        let (mut life, mut deliveries) = (vec![], vec![]);
        for event in &events {
            loaded.evolve(event, now);
            let of_deliveries = matches!(event, Event::Delivery(_));
            let new = execute::new_event(event, now, (!of_deliveries).then(meta).as_ref(), None, &*self.clock);
            if of_deliveries { deliveries.push(new) } else { life.push(new) }
        }
        let mut writes = loaded.writes(id, Lifetime::Kept, life, deliveries);
        for write in &mut writes {
            write.lifetime = self.lifetime(&write.stream);
        }
        if !writes.is_empty() {
            self.log.append(shard, Append { writes, ..Append::default() }).await.unwrap();
        }
        Some(events)
    }

    pub(super) async fn schedule(&mut self, id: SubscriptionId, message: MessageId, message_seq: u64) -> DeliveryId {
        let delivery = self.clock.delivery_id();
        let found = vec![Match { delivery, message, message_seq }];
        self.command(id, Command::Match(Matches { after: None, found })).await;
        delivery
    }

    /// One attempt at everything that is due, now or later.
    pub(super) async fn attempt_all(&mut self, id: SubscriptionId, status: Option<u16>) {
        let state = &self.subscriptions[&id].1.state;
        let due: Vec<_> = state.due(Timestamp::from_ms(i64::MAX)).map(|(id, open)| (id, *open)).collect();
        for (delivery, open) in due {
            let result = match status {
                Some(status) => Ok(Response { status, preview: "thanks".into(), ..Response::default() }),
                None => Err(Failure { code: FailureCode::Connect, detail: "no connection".into() }),
            };
            let finished = Finished {
                delivery,
                number: open.attempts() + 1,
                revision: 1,
                started_at: self.clock.now(),
                ended_at: self.clock.now(),
                exchange: Exchange { latency_ms: 12, result },
                random: self.clock.random_u64(),
            };
            self.command(id, Command::FinishAttempt(finished)).await;
            let failed = status != Some(200);
            let still_open = self.subscriptions[&id].1.state.due(Timestamp::from_ms(i64::MAX)).any(|o| o.0 == delivery);
            if !still_open {
                self.ended.push((id, delivery, open.message, open.message_seq, failed));
            }
        }
    }

    pub(super) async fn redeliver_something(&mut self, pick: u64) -> Option<DeliveryId> {
        let index = (pick as usize).checked_rem(self.ended.len())?;
        let (id, original, message, message_seq, original_failed) = self.ended[index];
        let delivery = self.clock.delivery_id();
        let redeliver = Redeliver {
            original,
            original_failed,
            delivery,
            message,
            message_seq,
            sequence: None,
            queue: false,
            room: true,
        };
        self.command(id, Command::Redeliver(redeliver)).await.map(|_| delivery)
    }

    /// Something that can happen to these tenants and subscriptions.
    pub(super) async fn anything(&mut self) {
        let (dice, pick) = (self.clock.random_u64() % 100, self.clock.random_u64());
        let tenant = self.tenants.get(pick as usize % self.tenants.len().max(1)).copied();
        let ids: Vec<SubscriptionId> = self.subscriptions.keys().copied().collect();
        let id = ids.get(pick as usize % ids.len().max(1)).copied();
        let Some(tenant) = tenant.filter(|_| dice != 0) else {
            self.tenant().await;
            return;
        };
        match (dice, id) {
            (1, _) => self.event_type(tenant, &format!("order.kind_{}", pick % 3)).await,
            (2, _) => drop(self.api_key(tenant).await),
            (3, _) => {
                if let Some((tenant, key)) = self.keys.pop() {
                    self.revoke(tenant, key).await;
                }
            }
            (4, _) => self.update_event_type(tenant, &format!("order.kind_{}", pick % 3), pick).await,
            (5..=7, _) | (_, None) => drop(self.subscription(tenant).await),
            (8..=40, _) => self.publish_to_all(tenant).await,
            (41..=70, Some(id)) => self.attempt_all(id, Some(200)).await,
            (71..=84, Some(id)) => self.attempt_all(id, [None, Some(500), Some(410)][pick as usize % 3]).await,
            (85..=88, _) => drop(self.redeliver_something(pick).await),
            (_, Some(id)) => drop(self.command(id, self.change(dice, pick)).await),
        }
    }

    /// Some subscriptions of the tenant owe what was published to it.
    async fn publish_to_all(&mut self, tenant: TenantId) {
        let (message, seq) = self.publish(tenant, "order.created").await;
        let own = self.subscriptions.iter().filter(|(_, (owner, _))| *owner == tenant);
        for id in own.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.schedule(id, message, seq).await;
        }
    }

    fn change(&self, dice: u64, pick: u64) -> Command {
        let filters = Some(vec![Filter::parse("**").unwrap()]);
        match dice {
            89 => Command::Restore(Restore { matched_through: 0, too_late: false, at: self.clock.now() }),
            90 => Command::Enable,
            91 | 92 => Command::Disable { reason: Some("too loud".into()) },
            93 => {
                Command::Update(Update { url: Some(format!("https://{pick}.example/")), filters, ..Update::default() })
            }
            94 => Command::Update(Update { description: Some(None), ..Update::default() }),
            95 | 96 => Command::RotateSecret {
                public_key: None,
                secret: self.clock.secret_id(),
                fingerprint: format!("f{pick}"),
                overlap_s: Some(pick % 2 * 60),
                at: self.clock.now(),
            },
            97 => Command::RecordTest(TestSent {
                event_type: EventType::webhook_test(),
                verified: false,
                status: None,
                failure: Some(FailureCode::Tls),
                latency_ms: 3,
                revision: None,
            }),
            98 if pick.is_multiple_of(4) => Command::Forget { at: Timestamp::from_ms(i64::MAX) },
            _ => Command::Delete { expected_revision: None },
        }
    }
}

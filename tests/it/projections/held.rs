//! Events that cannot be read: their streams are left out, everything else goes on.

use std::sync::Arc;

use tidings::event_store::{Config, EventReader, EventStore, Log, NewEvent, Position, Recorded};
use tidings::execute;
use tidings::projections::{DeliveryFilter, Name, Page, ReadModels, TenantScope};

use super::history::History;
use super::{Folder, PATIENCE, caught_up, dump, following, rebuilt};
use crate::support::watched_store::Tear;

/// A log that remembers nothing of what was appended: all is read from the store.
async fn read_anew(history: &mut History) {
    let store = Arc::clone(&history.store) as Arc<dyn EventStore>;
    history.log = Log::start(store, Config { tail_events: 1, ..Config::default() }).await.unwrap();
}

async fn all_events(history: &History) -> Vec<Recorded> {
    let mut events = Vec::new();
    for head in history.heads() {
        events.extend(history.store.read_log(Position { seq: 0, ..head }, usize::MAX >> 1).await.unwrap());
    }
    events
}

async fn nothing_is_held(models: &ReadModels) {
    while !models.held(1).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn streams_that_cannot_be_read_are_caught_up_with_once_they_can_whatever_is_damaged() {
    for (seed, shards) in (71..).zip([1, 1, 1, 3, 3, 16]) {
        println!("seed {seed}, {shards} shards");
        let (folder, mut history) = (Folder::new(), History::over(shards, seed).await);
        for _ in 0..400 {
            history.anything().await;
        }
        let whole = rebuilt(&history.log).await;
        let events = all_events(&history).await;
        for tear in [Tear::Row, Tear::Payload, Tear::Kind, Tear::Row, Tear::Payload, Tear::Kind] {
            let event = &events[history.clock.random_u64() as usize % events.len()];
            println!("{tear:?} of '{}' at {}", event.kind, event.position);
            history.store.tear(event.position, tear);
        }
        read_anew(&mut history).await;
        let (models, followers) = following(&folder, &history).await;
        caught_up(&models, &history).await;
        assert_eq!(models.stopped(), []);
        assert!(!models.held(100).await.unwrap().is_empty());
        followers.stop().await;
        drop(models);
        let damaged = dump(&folder.path()).await;
        assert_ne!(damaged, whole, "seed {seed}");
        assert_eq!(damaged, rebuilt(&history.log).await, "seed {seed}");
        let verified = ReadModels::verify(&folder.path(), history.log.reader(), |_, _| {}).await.unwrap();
        assert!(verified.difference.is_none() && !verified.held.is_empty(), "{verified:?}");

        // A restart knows what it leaves out, also of what is recorded now.
        let (models, followers) = following(&folder, &history).await;
        for _ in 0..100 {
            history.anything().await;
        }
        caught_up(&models, &history).await;
        followers.stop().await;
        drop(models);
        assert_eq!(dump(&folder.path()).await, rebuilt(&history.log).await, "seed {seed}");

        history.store.mend();
        // What a server has not come to yet is no difference.
        let verified = ReadModels::verify(&folder.path(), history.log.reader(), |_, _| {}).await.unwrap();
        assert!(verified.difference.is_none() && verified.held.is_empty(), "{verified:?}");
        let (models, followers) = following(&folder, &history).await;
        caught_up(&models, &history).await;
        nothing_is_held(&models).await;
        followers.stop().await;
        assert_eq!(dump(&folder.path()).await, rebuilt(&history.log).await, "seed {seed}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_everybody_else_goes_on() {
    let (folder, mut history) = (Folder::new(), History::new(81).await);
    let tenants = [history.tenant().await, history.tenant().await];
    let (damaged, beside) = (history.subscription(tenants[0]).await, history.subscription(tenants[0]).await);
    let other = history.subscription(tenants[1]).await;
    let mut scheduled = Vec::new();
    for (tenant, id) in [(tenants[0], damaged), (tenants[0], beside), (tenants[1], other)] {
        let (message, seq) = history.publish(tenant, "order.created").await;
        scheduled.push((tenant, id, history.schedule(id, message, seq).await));
    }
    let events = all_events(&history).await;
    let first = |stream: String| events.iter().find(|event| event.stream == stream).unwrap().position;
    let at = first(execute::deliveries_stream(damaged));
    history.store.tear(at, Tear::Kind);
    read_anew(&mut history).await;
    let (models, followers) = following(&folder, &history).await;
    for (_, id, _) in &scheduled {
        history.attempt_all(*id, Some(200)).await;
    }
    caught_up(&models, &history).await;
    let held = models.held(10).await.unwrap();
    let [held] = &held[..] else { panic!("{held:?}") };
    assert_eq!((held.projection, held.event.position), (Name::Deliveries, at));
    assert_eq!(held.event.stream, execute::deliveries_stream(damaged));
    assert!(held.event.reason.contains("_of_a_newer_program"), "{}", held.event.reason);
    assert_eq!(models.held_counts().await.unwrap(), [((Name::Deliveries, 0), 1)].into());
    let shown = async |models: &ReadModels, index: usize| {
        let (tenant, _, delivery) = scheduled[index];
        models.delivery(TenantScope(tenant), delivery).await.unwrap().map(|row| row.attempts)
    };
    assert_eq!([shown(&models, 0).await, shown(&models, 1).await, shown(&models, 2).await], [None, Some(1), Some(1)]);
    followers.stop().await;
    drop(models);
    history.store.mend();
    let (models, _followers) = following(&folder, &history).await;
    caught_up(&models, &history).await;
    nothing_is_held(&models).await;
    assert_eq!(shown(&models, 0).await, Some(1));
}

#[tokio::test]
async fn a_delivery_of_a_message_that_cannot_be_read_waits_for_it() {
    let (folder, mut history) = (Folder::new(), History::new(82).await);
    let tenant = history.tenant().await;
    let subscription = history.subscription(tenant).await;
    let (message, seq) = history.publish(tenant, "order.created").await;
    history.schedule(subscription, message, seq).await;
    history.attempt_all(subscription, Some(200)).await;
    history.store.tear(Position { shard: 0, seq }, Tear::Payload);
    read_anew(&mut history).await;
    let (models, followers) = following(&folder, &history).await;
    caught_up(&models, &history).await;
    let held = models.held(10).await.unwrap();
    let held: Vec<_> = held.iter().map(|held| (held.projection, held.event.stream.as_str())).collect();
    let (messages, deliveries) = (execute::messages_stream(tenant), execute::deliveries_stream(subscription));
    let expected = [(Name::Deliveries, &*deliveries), (Name::Deliveries, &*messages), (Name::Messages, &*messages)];
    assert_eq!(held, expected);
    followers.stop().await;
    drop(models);
    history.store.mend();
    let (models, followers) = following(&folder, &history).await;
    caught_up(&models, &history).await;
    nothing_is_held(&models).await;
    let page = Page::first(10);
    let rows = models.deliveries(TenantScope(tenant), &DeliveryFilter::default(), &page).await.unwrap().rows;
    assert_eq!(rows.len(), 1);
    followers.stop().await;
    assert_eq!(dump(&folder.path()).await, rebuilt(&history.log).await);
}

#[tokio::test]
async fn an_event_of_a_type_that_nobody_knows_is_not_passed_over() {
    let (folder, mut history) = (Folder::new(), History::new(12).await);
    let (models, _followers) = following(&folder, &history).await;
    let strange = NewEvent {
        id: history.clock.event_id(),
        kind: "webring.joined".into(),
        schema: 1,
        at: history.clock.now(),
        data: "{}".into(),
        meta: None,
        content: None,
    };
    history.append("webring-1".into(), vec![strange]).await;
    assert!(models.wait_for(history.head(), PATIENCE).await);
    let held = models.held(10).await.unwrap();
    let held: Vec<_> = held.iter().map(|held| (held.projection, held.event.stream.as_str())).collect();
    assert_eq!(held, [(Name::Audit, "webring-1")]);
}

//! What the log dropped has no rows, however they came to be.

use tidings::projections::{DeliveryFilter, Key, MessageFilter, Name, Page, ReadModels, TenantScope, WatchError};

use super::history::History;
use super::{Folder, caught_up, dump, following, rebuilt};

/// Read models that have forgotten up to the floors.
async fn forgotten(folder: &Folder, history: &History) -> Vec<String> {
    let wanted = rebuilt(&history.log).await;
    while dump(&folder.path()).await != wanted {
        tokio::task::yield_now().await;
    }
    wanted
}

#[tokio::test]
async fn rows_of_dropped_events_go_and_what_stays_is_a_rebuild() {
    for (seed, shards) in [(41, 1), (42, 1), (43, 3)] {
        println!("seed {seed}");
        let (folder, mut history) = (Folder::new(), History::over(shards, seed).await);
        let (models, followers) = following(&folder, &history).await;
        for _ in 0..4 {
            for _ in 0..120 {
                history.anything().await;
            }
            caught_up(&models, &history).await;
            history.next_bucket();
            for _ in 0..60 {
                history.anything().await;
            }
            history.drop_old_buckets().await;
            // Deliveries of dropped messages go on, and are repeated.
            for _ in 0..30 {
                history.anything().await;
            }
            caught_up(&models, &history).await;
            assert!(history.heads().any(|head| history.log.floor(head.shard) > 0));
            let rows = forgotten(&folder, &history).await;
            assert!(rows.iter().any(|row| row.starts_with("delivery: ")), "nothing is left to compare");
            let found = ReadModels::verify(&folder.path(), history.log.reader(), |_, _| {}).await.unwrap();
            assert_eq!(found.difference, None);
        }
        followers.stop().await;
    }
}

#[tokio::test]
async fn what_is_asked_for_after_its_time_is_not_there() {
    let (folder, mut history) = (Folder::new(), History::new(44).await);
    let (models, followers) = following(&folder, &history).await;
    let tenant = history.tenant().await;
    let subscription = history.subscription(tenant).await;
    let (message, seq) = history.publish(tenant, "order.created").await;
    let delivery = history.schedule(subscription, message, seq).await;
    history.attempt_all(subscription, Some(500)).await;
    history.next_bucket();
    let (late, late_seq) = history.publish(tenant, "order.created").await;
    let kept = history.schedule(subscription, late, late_seq).await;
    history.drop_old_buckets().await;
    // Recorded after the drop, of a delivery whose message is gone.
    history.attempt_all(subscription, Some(200)).await;
    caught_up(&models, &history).await;
    let scope = TenantScope(tenant);
    let all = Page::first(100);
    while models.delivery(scope, delivery).await.unwrap().is_some()
        || models.message(scope, message).await.unwrap().is_some()
    {
        tokio::task::yield_now().await;
    }
    let deliveries = models.deliveries(scope, &DeliveryFilter::default(), &all).await.unwrap().rows;
    assert_eq!(deliveries.iter().map(|(_, row)| row.id).collect::<Vec<_>>(), [kept]);
    assert_eq!(models.messages(scope, &MessageFilter::default(), &all).await.unwrap().rows.len(), 2);
    assert_eq!(models.attempts(scope, delivery, &all).await.unwrap().rows, []);
    assert!(models.webhook(scope, subscription).await.unwrap().unwrap().last_delivery_at.is_some());
    assert_eq!(models.stopped(), []);
    followers.stop().await;
}

#[tokio::test]
async fn who_watches_from_before_the_floor_is_told_that_something_is_gone() {
    let (folder, mut history) = (Folder::new(), History::new(46).await);
    let (models, followers) = following(&folder, &history).await;
    let tenant = history.tenant().await;
    let subscription = history.subscription(tenant).await;
    caught_up(&models, &history).await;
    let (scope, all) = (TenantScope(tenant), DeliveryFilter::default());
    let mut watch = models.watch_deliveries(scope, all.clone(), None).unwrap();
    let (message, seq) = history.publish(tenant, "order.created").await;
    let delivery = history.schedule(subscription, message, seq).await;
    let told = watch.next().await.unwrap();
    assert_eq!(told.iter().map(|(_, row)| row.id).collect::<Vec<_>>(), [delivery]);
    let key = told[0].0.clone();
    history.attempt_all(subscription, Some(500)).await;
    history.next_bucket();
    let (late, late_seq) = history.publish(tenant, "order.created").await;
    history.schedule(subscription, late, late_seq).await;
    caught_up(&models, &history).await;
    assert!(models.watch_deliveries(scope, all.clone(), Some(&key)).is_ok());
    history.drop_old_buckets().await;
    assert!(matches!(watch.next().await, Err(WatchError::Dropped)));
    assert!(matches!(models.watch_deliveries(scope, all.clone(), Some(&key)), Err(WatchError::Dropped)));
    let ahead = Key(key.0 + 1_000, String::new());
    assert!(matches!(models.watch_deliveries(scope, all, Some(&ahead)), Err(WatchError::Foreign)));
    followers.stop().await;
}

#[tokio::test]
async fn checkpoints_at_dropped_events_are_still_of_this_log() {
    let (folder, mut history) = (Folder::new(), History::new(45).await);
    for _ in 0..200 {
        history.anything().await;
    }
    let (models, followers) = following(&folder, &history).await;
    caught_up(&models, &history).await;
    followers.stop().await;
    drop(models);
    history.next_bucket();
    history.drop_old_buckets().await;
    let (models, followers) = following(&folder, &history).await;
    caught_up(&models, &history).await;
    forgotten(&folder, &history).await;
    for name in Name::ALL {
        assert_eq!(models.applied_by(name, 0), history.head().seq);
    }
    followers.stop().await;
}

//! States that are stored, so that they need not be folded again.

use std::sync::Arc;

use tidings::actors::Config;
use tidings::domain::event::DeliveryEvent;
use tidings::event_store::{Append, EventReader, Snapshot};
use tidings::execute::{fold_subscription, load_subscription};

use crate::support::simulation::{Answer, World, life};

fn often() -> Config {
    Config { snapshot_every_events: 10, idle_after_ms: 60_000, ..Config::default() }
}

#[test]
fn a_busy_subscription_stores_its_state_with_its_events() {
    life(async || {
        let world = World::with(often()).await;
        let id = world.subscribe().await;
        for _ in 0..30 {
            world.publish().await;
        }
        world.succeeded(id, 30).await;
        let stored = world.store.snapshot(world.shard(), &id.to_string()).await.unwrap().unwrap();
        let head = world.store.head(world.shard()).await.unwrap();
        assert!(stored.position.seq + 20 > head, "at {} of {head}", stored.position.seq);
        assert_eq!(stored.snapshot.key, id.to_string());
    });
}

#[test]
fn one_that_leaves_memory_stores_its_state_and_comes_back_without_reading_what_was_before() {
    life(async || {
        let world = World::with(Config { idle_after_ms: 1_000, ..Config::default() }).await;
        let id = world.subscribe().await;
        for _ in 0..20 {
            world.publish().await;
        }
        world.succeeded(id, 20).await;
        assert_eq!(world.store.snapshot(world.shard(), &id.to_string()).await.unwrap(), None);
        world.let_pass(10_000).await;
        let snapshot = world.store.snapshot(world.shard(), &id.to_string()).await.unwrap().unwrap().snapshot;
        let folded = fold_subscription(world.log.reader(), id).await.unwrap();
        assert_eq!(folded.snapshot(id), Some(snapshot.clone()));
        let loaded = load_subscription(&world.log, id).await.unwrap();
        assert_eq!((loaded.unsaved_events, loaded.state.clone()), (0, folded.state));
        // Little has happened since: it is not stored again.
        world.publish().await;
        world.succeeded(id, 21).await;
        world.let_pass(10_000).await;
        let later = world.store.snapshot(world.shard(), &id.to_string()).await.unwrap().unwrap().snapshot;
        assert_eq!(later, snapshot);
        assert_eq!(load_subscription(&world.log, id).await.unwrap().unsaved_events, 2);
    });
}

#[test]
fn snapshots_are_thrown_away_between_restarts_and_nothing_is_lost_or_sent_twice() {
    let run = |forget: bool| {
        let (mut left, (id, mut owed)) = life(async || {
            let world = World::with(often()).await;
            let id = world.subscribe().await;
            world.endpoint.answers([Answer::Status(500); 3]);
            let mut owed = vec![];
            for _ in 0..12 {
                owed.push(world.publish().await.message.to_string());
            }
            world.let_pass(1_000).await;
            (Arc::clone(&world.store), (id, owed))
        });
        let mut sent = vec![];
        for round in 1..=8 {
            left = life(async || {
                let world = World::again(&left, round * 10_000).await;
                if forget {
                    // One of another form is as good as none.
                    let (key, data) = (id.to_string(), "{".to_owned());
                    let snapshots = vec![Snapshot { key, fingerprint: "another".to_owned(), data }];
                    let replaced = Append { snapshots, ..Append::default() };
                    world.log.append(world.shard(), replaced).await.unwrap();
                }
                world.endpoint.answers([Answer::Status(500), Answer::Late(200, 5)]);
                for _ in 0..12 {
                    owed.push(world.publish().await.message.to_string());
                }
                world.let_pass(9_000).await;
                sent.push(world.endpoint.times());
                Arc::clone(&world.store)
            });
        }
        life(async || {
            let world = World::again(&left, 1_000_000).await;
            world.let_pass(120_000).await;
            let mut delivered = world.messages_delivered(id).await;
            delivered.sort();
            owed.sort();
            assert_eq!(delivered, owed);
            sent
        })
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn a_state_that_was_stored_with_events_that_failed_is_not_believed() {
    life(async || {
        let world = World::with(often()).await;
        let id = world.subscribe().await;
        world.store.take_for_a_commit(5);
        world.store.shake(4, 7);
        for n in 0..200 {
            let key = n.to_string();
            while world.try_publish("{}", Some(&key)).await.is_err() {
                world.let_pass(20).await;
            }
        }
        world.let_pass(1_000).await;
        world.store.fill(false);
        world.let_pass(600_000).await;
        let ended = |events: &[DeliveryEvent]| {
            events.iter().filter(|event| matches!(event, DeliveryEvent::Succeeded(_))).count() == 200
        };
        world.recorded(id, ended).await;
        let [loaded, folded] = [
            load_subscription(&world.log, id).await.unwrap(),
            fold_subscription(world.log.reader(), id).await.unwrap(),
        ];
        assert_eq!(loaded.snapshot(id), folded.snapshot(id));
    });
}

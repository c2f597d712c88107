//! Publishing twice under one key.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use tidings::error_code::ErrorCode;

use crate::support::simulation::{World, life};

const DATA: &str = r#"{"userId":"user_1"}"#;
const OTHER_DATA: &str = r#"{"userId":"user_2"}"#;

#[tokio::test(start_paused = true)]
async fn the_same_message_under_the_same_key_is_the_first_one_again() {
    let world = World::new().await;
    let subscription = world.subscribe().await;
    let first = world.try_publish(DATA, Some("order-1")).await.unwrap();
    let second = world.try_publish(" {\"userId\" : \"user_1\"}", Some("order-1")).await.unwrap();
    assert_eq!((first.duplicate, second.duplicate), (false, true));
    assert_eq!(first.message, second.message);
    world.succeeded(subscription, 1).await;
    world.let_pass(60_000).await;
    assert_eq!(world.endpoint.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_message_under_the_same_key_is_refused() {
    let world = World::new().await;
    world.try_publish(DATA, Some("order-1")).await.unwrap();
    let refusal = world.try_publish(OTHER_DATA, Some("order-1")).await.unwrap_err();
    assert_eq!(refusal.code(), ErrorCode::IdempotencyKeyReused);
    assert!(world.try_publish(OTHER_DATA, Some("order-2")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn of_many_at_one_moment_one_is_accepted() {
    let world = World::new().await;
    let subscription = world.subscribe().await;
    let answers = join_all((0..50).map(|_| world.try_publish(DATA, Some("order-1")))).await;
    let published: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(published.iter().map(|published| published.message).collect::<HashSet<_>>().len(), 1);
    assert_eq!(published.iter().filter(|published| !published.duplicate).count(), 1);
    world.succeeded(subscription, 1).await;
    world.let_pass(60_000).await;
    assert_eq!(world.endpoint.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn of_different_ones_at_one_moment_one_wins_and_the_others_are_refused() {
    let world = World::new().await;
    let data: Vec<_> = (0..20).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
    let answers = join_all(data.iter().map(|data| world.try_publish(data, Some("order-1")))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    let refusals = answers.into_iter().filter_map(Result::err);
    assert!(refusals.into_iter().all(|refusal| refusal.code() == ErrorCode::IdempotencyKeyReused));
}

#[test]
fn a_key_is_remembered_through_a_crash() {
    let (left, first) = life(async || {
        let world = World::new().await;
        let first = world.try_publish(DATA, Some("order-1")).await.unwrap();
        (Arc::clone(&world.store), first)
    });
    life(async || {
        let world = World::again(&left, 1_000).await;
        let second = world.try_publish(DATA, Some("order-1")).await.unwrap();
        assert_eq!((second.message, second.duplicate), (first.message, true));
        assert!(world.try_publish(OTHER_DATA, Some("order-1")).await.is_err());
    });
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_message_could_not_be_written_is_free_again() {
    let world = World::new().await;
    world.store.fail_next_commit();
    let failed = join_all((0..3).map(|_| world.try_publish(DATA, Some("order-1")))).await;
    assert!(failed.into_iter().all(|answer| answer.is_err_and(|error| error.code() == ErrorCode::StorageUnavailable)));
    assert!(!world.try_publish(OTHER_DATA, Some("order-1")).await.unwrap().duplicate);
}

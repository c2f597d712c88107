//! What of the key store goes by itself, and what stays.

use tidings::actors::Config;
use tidings::domain::id::TenantId;
use tidings::execute::Meta;
use tidings::execute::vault::Binding;
use tidings::key_store::KeyStore;

use crate::support::simulation::World;

const HOUR: u64 = 3_600_000;

/// One region: days go by in these tests, and regions look at the clock every second of them.
async fn world() -> World {
    World::under("standard-v1", Config { regions: 1, ..Config::default() }).await
}

async fn names(world: &World, prefix: &str) -> Vec<String> {
    let rows = world.store.memory.keys().rows(prefix, "", 99).await.unwrap();
    rows.into_iter().map(|row| row.name).collect()
}

#[tokio::test(start_paused = true)]
async fn secrets_that_nobody_refers_to_go_and_all_others_stay() {
    // S18
    let world = world().await;
    let (rotated, deleted) = (world.subscribe().await, world.subscribe().await);
    world.engine.delete_subscription(world.tenant, deleted, None, Meta::system()).await.unwrap();
    world.engine.rotate_secret(world.tenant, rotated, None, Some(3_600), Meta::system()).await.unwrap();
    let orphan = |subscription| Binding::signing_secret(world.tenant, subscription, world.clock.secret_id());
    // A crash left one of a webhook, one of a webhook that never was, and one that is none of ours.
    let left = [orphan(rotated), orphan(world.clock.subscription_id())];
    let keys = world.store.memory.keys();
    for binding in &left {
        keys.add(binding.name(), b"sealed").await.unwrap();
    }
    keys.add("another/program/keeps/this", b"sealed").await.unwrap();
    world.let_pass(HOUR / 2).await;
    assert_eq!(
        names(&world, "signing-secret/").await.len(),
        5,
        "too young to be told from one that is just being used"
    );
    world.let_pass(2 * HOUR).await;
    // The log goes on: it is not one of an earlier time.
    world.publish().await;
    world.let_pass(23 * HOUR).await;
    let there = names(&world, "signing-secret/").await;
    assert!(!there.contains(&left[0].name().to_owned()), "its webhook does not refer to it");
    assert!(there.contains(&left[1].name().to_owned()), "its webhook may stand in another log");
    world.let_pass(24 * HOUR).await;
    let now = world.engine.settings(world.tenant, rotated).await.unwrap().secrets[0].id;
    let mut expected = vec![Binding::signing_secret(world.tenant, rotated, now).name().to_owned()];
    let kept = names(&world, &format!("signing-secret/{}/{deleted}/", world.tenant)).await;
    assert_eq!(kept.len(), 1, "a webhook that can be restored has its secret");
    expected.extend(kept);
    expected.sort_unstable();
    assert_eq!(names(&world, "signing-secret/").await, expected);
    assert_eq!(names(&world, "another/").await.len(), 1);
    world.publish().await;
    world.succeeded(rotated, 2).await;
}

#[tokio::test(start_paused = true)]
async fn keys_of_months_whose_data_is_gone_go_and_those_of_a_month_before_stay() {
    let world = world().await;
    let keys = world.store.memory.keys();
    // It is November.
    let other = TenantId::from_parts(9, 9);
    for month in ["2025-08", "2025-09", "2025-10", "2025-11"] {
        keys.add(&format!("data-key/{other}/messages/{month}"), b"sealed").await.unwrap();
    }
    world.publish().await;
    world.let_pass(HOUR).await;
    let months: Vec<_> = names(&world, &format!("data-key/{other}/"))
        .await
        .iter()
        .map(|name| name[name.len() - 2..].to_owned())
        .collect();
    assert_eq!(months, ["10", "11"]);
}

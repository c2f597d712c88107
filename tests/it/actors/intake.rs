//! Publishing while the log is slow or fails.

use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::join_all;
use tidings::domain::event::EventTypeRegistered;
use tidings::domain::filter::EventType;
use tidings::domain::tenant;
use tidings::execute::Meta;

use crate::support::simulation::World;

#[tokio::test(start_paused = true)]
async fn one_failed_commit_fails_only_what_was_under_way_with_it() {
    let world = World::new().await;
    world.store.take_for_a_commit(5);
    let failed = Mutex::new(vec![]);
    let publisher = async |n: u64| {
        world.let_pass(n).await;
        for _ in 0..200 {
            if world.try_publish("{}", None).await.is_err() {
                failed.lock().unwrap().push(world.now_ms());
            }
            world.let_pass(n % 3).await;
        }
    };
    let break_once = async {
        world.let_pass(100).await;
        world.store.fail_next_commit();
    };
    tokio::join!(join_all((0..20).map(publisher)), break_once);
    let failed = failed.into_inner().unwrap();
    assert!(!failed.is_empty());
    // The failing commit and those on their way behind it.
    assert!(failed.iter().all(|at_ms| *at_ms <= 130), "{failed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_was_made_already_is_confirmed_only_when_it_is_on_disk() {
    let world = World::new().await;
    world.store.hang_after(0, false);
    let register = || {
        let registered = EventTypeRegistered {
            name: EventType::parse("order.paid").unwrap(),
            category: "order".into(),
            description: String::new(),
            version: "1".into(),
            schema: serde_json::json!({ "type": "object" }),
            example: None,
        };
        let made = world.engine.tenant(world.tenant, tenant::Command::RegisterEventType(registered), Meta::system());
        tokio::time::timeout(Duration::from_secs(60), made)
    };
    let (first, second) = tokio::join!(register(), register());
    assert!(first.is_err() && second.is_err(), "answered before the commit");
}

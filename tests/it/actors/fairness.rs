//! Who gets the permits: tenants beside tenants, hosts beside hosts, and limits that hold.

use tidings::actors::{Config, NewSubscription, Sealable};
use tidings::domain::subscription::Update;
use tidings::execute::Meta;

use crate::support::simulation::{Answer, START, URL, World, new_subscription};

/// Hosts of their own, for the dispatcher: another port is another host.
fn url(number: u64) -> String {
    format!("https://127.0.0.1:{}/hook", 10_000 + number)
}

#[tokio::test(start_paused = true)]
async fn a_tenant_with_much_to_send_does_not_delay_another() {
    let world = World::with(Config { max_attempts: 8, max_attempts_per_tenant: 6, ..Config::default() }).await;
    for number in 0..20 {
        world.endpoint.always(&url(number), Answer::Late(200, 500));
        world.subscribe_as(new_subscription(&url(number), &["user.created"])).await;
    }
    for _ in 0..50 {
        world.publish().await;
    }
    world.let_pass(2_000).await;
    let quick = world.beside(2).await;
    quick.subscribe(URL).await;
    for _ in 0..20 {
        world.let_pass(1_000).await;
        quick.publish().await;
    }
    world.let_pass(1).await;
    let times = world.endpoint.times_at(URL);
    let late = times.iter().enumerate().map(|(n, at)| at - (3_000 + 1_000 * n as u64));
    assert_eq!(late.collect::<Vec<_>>(), [0; 20]);
    // The other one has not stopped meanwhile: six at a time, half a second each.
    let busy = world.endpoint.calls().len() - 20;
    assert!(busy >= 6 * 2 * 20, "{busy}");
    world.let_pass(600_000).await;
    assert_eq!(world.endpoint.calls().len(), 20 + 1_000);
}

#[tokio::test(start_paused = true)]
async fn two_tenants_that_always_have_something_to_send_get_equal_shares() {
    let config = Config { max_attempts: 4, max_attempts_per_tenant: 4, max_unproven_percent: 100, ..Config::default() };
    let world = World::with(config).await;
    // The one has a single subscription, the other ten.
    world.endpoint.always(&url(0), Answer::Late(200, 100));
    world.subscribe_as(new_subscription(&url(0), &["user.created"])).await;
    let other = world.beside(2).await;
    for number in 1..=10 {
        world.endpoint.always(&url(number), Answer::Late(200, 100));
        other.subscribe(&url(number)).await;
    }
    for _ in 0..200 {
        world.publish().await;
        other.publish().await;
    }
    world.let_pass(5_000).await;
    let one = world.endpoint.times_at(&url(0)).len();
    let all = world.endpoint.calls().len();
    assert!(all >= 190, "{all}");
    assert!(one.abs_diff(all - one) <= 2 * 4, "{one} of {all}");
}

#[tokio::test(start_paused = true)]
async fn hosts_that_hang_leave_the_healthy_ones_their_permits() {
    let world = World::with(Config { max_attempts: 16, ..Config::default() }).await;
    world.subscribe_as(new_subscription(URL, &["user.created"])).await;
    world.publish().await;
    world.let_pass(1_000).await;
    // Forty hosts that swallow every attempt for 30 seconds, of the same tenant.
    for number in 0..40 {
        world.endpoint.always(&url(number), Answer::Silence(30_000));
        world.subscribe_as(new_subscription(&url(number), &["user.created"])).await;
    }
    for _ in 0..120 {
        world.publish().await;
        world.let_pass(1_000).await;
    }
    let times = world.endpoint.times_at(URL);
    let late = times[1..].iter().enumerate().map(|(n, at)| at - (1_000 + 1_000 * n as u64));
    assert_eq!(late.collect::<Vec<_>>(), [0; 120]);
    // Those that hang are tried as well, within their part.
    let tried = (0..40).filter(|number| !world.endpoint.times_at(&url(*number)).is_empty()).count();
    assert!(tried >= 16, "{tried}");
}

#[tokio::test(start_paused = true)]
async fn a_host_gets_no_more_at_a_time_than_its_share_and_others_go_on() {
    let world = World::with(Config { max_attempts_per_host: 2, ..Config::default() }).await;
    // Two subscriptions of the same host, and one of another.
    for path in ["one", "two"] {
        let url = format!("https://127.0.0.1:9999/{path}");
        world.endpoint.always(&url, Answer::Late(200, 1_000));
        world.subscribe_as(new_subscription(&url, &["user.created"])).await;
    }
    world.subscribe_as(new_subscription(URL, &["user.created"])).await;
    for _ in 0..5 {
        world.publish().await;
    }
    world.let_pass(60_000).await;
    assert_eq!(world.endpoint.times_at(URL), [0; 5]);
    let mut crowded =
        ["one", "two"].map(|path| world.endpoint.times_at(&format!("https://127.0.0.1:9999/{path}"))).concat();
    crowded.sort_unstable();
    assert_eq!(crowded.len(), 10);
    // Answers that take a second are slow: from the second round on they have a quarter of the two places, but one.
    assert!(crowded.windows(3).all(|three| three[2] - three[0] >= 1_000), "{crowded:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_holds_drops_nothing_and_is_changed_at_once() {
    let world = World::new().await;
    let limited = NewSubscription { rate_limit_per_s: Some(4), ..new_subscription(URL, &["user.created"]) };
    let subscription = world.subscribe_as(limited).await;
    for _ in 0..60 {
        world.publish().await;
    }
    world.let_pass(1_900).await;
    assert_eq!(world.endpoint.times(), [0, 250, 500, 750, 1_000, 1_250, 1_500, 1_750]);
    let change = |per_s| Update { rate_limit_per_s: Some(per_s), ..Update::default() };
    world
        .engine
        .update_subscription(world.tenant, subscription, change(Some(20)), Sealable::default(), Meta::system())
        .await
        .unwrap();
    world.let_pass(1_000).await;
    let times = world.endpoint.times();
    assert_eq!(times[8..12], [1_950, 2_000, 2_050, 2_100]);
    assert!((27..=29).contains(&times.len()), "{}", times.len());
    world
        .engine
        .update_subscription(world.tenant, subscription, change(None), Sealable::default(), Meta::system())
        .await
        .unwrap();
    world.succeeded(subscription, 60).await;
    assert_eq!((world.now_ms(), world.endpoint.calls().len()), (2_900, 60));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_rate_does_not_keep_the_system_from_stopping() {
    let world = World::new().await;
    let limited = NewSubscription { rate_limit_per_s: Some(1), ..new_subscription(URL, &["user.created"]) };
    world.subscribe_as(limited).await;
    world.endpoint.answers([Answer::Late(200, 5_000)]);
    for _ in 0..3 {
        world.publish().await;
    }
    world.endpoint.called(1).await;
    let clock = std::sync::Arc::clone(&world.clock);
    world.running.stop().await;
    assert_eq!(clock.now(), START.plus_ms(5_000));
    assert_eq!(world.endpoint.times(), [0]);
}

#[tokio::test(start_paused = true)]
async fn retries_count_against_the_rate_limit_too() {
    let world = World::new().await;
    let limited = NewSubscription { rate_limit_per_s: Some(1), ..new_subscription(URL, &["user.created"]) };
    let subscription = world.subscribe_as(limited).await;
    world.endpoint.answers([Answer::Status(500), Answer::Status(500), Answer::Status(500)]);
    for _ in 0..4 {
        world.publish().await;
    }
    world.succeeded(subscription, 4).await;
    let times = world.endpoint.times();
    assert_eq!(times.len(), 7);
    assert!(times.windows(2).all(|two| two[1] - two[0] >= 1_000), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn the_rate_of_a_host_holds_for_all_its_subscriptions_together() {
    let world = World::with(Config { host_rate_per_s: 10, ..Config::default() }).await;
    world.subscribe().await;
    world.subscribe().await;
    world.subscribe_as(new_subscription(&url(1), &["user.created"])).await;
    for _ in 0..10 {
        world.publish().await;
    }
    world.let_pass(60_000).await;
    let times = world.endpoint.times_at(URL);
    assert_eq!(times, (0..20).map(|n| n * 100).collect::<Vec<u64>>());
    assert_eq!(world.endpoint.times_at(&url(1)), (0..10).map(|n| n * 100).collect::<Vec<u64>>());
    assert_eq!(world.clock.now(), START.plus_ms(60_000));
}

#[tokio::test(start_paused = true)]
async fn the_permit_of_an_attempt_that_panics_comes_back() {
    let world = World::with(Config { max_attempts: 1, ..Config::default() }).await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Panic, Answer::Panic]);
    world.publish().await;
    world.succeeded(subscription, 1).await;
    assert_eq!(world.endpoint.calls().len(), 3);
}

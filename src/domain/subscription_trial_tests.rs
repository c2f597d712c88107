//! What a profile's switches mean to a subscription: tests before it is enabled, and what a last `*` takes.

use super::*;
use crate::domain::event::TestSent;
use crate::domain::profile::Definition;
use crate::domain::profile::{self};

/// The name of a profile with that switch on.
fn profile_with(name: &str, switch: impl FnOnce(&mut serde_json::Value)) -> String {
    let text = include_str!("../../examples/profiles/github-style-v1.json");
    let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
    value["name"] = name.into();
    value["enabled_default"] = false.into();
    switch(&mut value);
    profile::add(Definition::parse(value.to_string().as_bytes()).unwrap().profile).unwrap();
    name.to_owned()
}

fn tested() -> String {
    profile_with("trial-v1", |value| value["require_test"] = true.into())
}

fn created_under(profile: String, enabled: bool) -> SubscriptionCreated {
    SubscriptionCreated { profile, enabled, ..subscription().0 }
}

fn test_sent(revision: Option<u64>, verified: bool) -> TestSent {
    let status = Some(if verified { 200 } else { 500 });
    TestSent { event_type: EventType::webhook_test(), verified, status, failure: None, latency_ms: 5, revision }
}

/// A disabled subscription that wants tests, and what has happened to it since.
fn begun(past: impl IntoIterator<Item = SubscriptionEvent>) -> Given {
    let begun = SubscriptionEvent::Created(created_under(tested(), false));
    given([begun].into_iter().chain(past).map(Event::Subscription))
}

fn sent(revision: u64) -> SubscriptionEvent {
    SubscriptionEvent::TestSent(test_sent(Some(revision), true))
}

fn moved() -> SubscriptionEvent {
    let url = Change { from: "https://example.com/first".into(), to: "https://example.com/second".into() };
    SubscriptionEvent::Updated(SubscriptionUpdated { url: Some(url), ..SubscriptionUpdated::default() })
}

fn move_on() -> Command {
    Command::Update(Update { url: Some("https://example.com/second".into()), ..Update::default() })
}

fn refusal(untested: Untested) -> Refusal {
    Refusal::TestRequired { profile: tested(), untested }
}

#[test]
fn where_a_test_is_required_nothing_is_enabled_before_its_url_has_stood_one() {
    // C12
    let code = ErrorCode::WebhookTestRequired;
    let enabled = || Event::Subscription(SubscriptionEvent::Enabled(SubscriptionEnabled {}));
    given([]).when(Command::Create(created_under(tested(), true))).refused(refusal(Untested::Creation), code);
    begun([]).when(Command::Enable).refused(refusal(Untested::Enabling), code);
    let failed = SubscriptionEvent::TestSent(test_sent(Some(1), false));
    begun([failed]).when(Command::Enable).refused(refusal(Untested::Enabling), code);
    begun([sent(1)]).when(Command::Enable).then([enabled()]);
    // Whoever stood one goes on without another, also after it was disabled.
    let disabled = SubscriptionEvent::Disabled(SubscriptionDisabled { reason: None, cause: None });
    begun([sent(1), SubscriptionEvent::Enabled(SubscriptionEnabled {}), disabled])
        .when(Command::Enable)
        .then([enabled()]);
    // Events from before it was recorded under which revision a test was sent prove nothing.
    begun([SubscriptionEvent::TestSent(test_sent(None, true))])
        .when(Command::Enable)
        .refused(refusal(Untested::Enabling), code);
}

#[test]
fn another_url_stands_a_test_of_its_own() {
    // C12
    let code = ErrorCode::WebhookTestRequired;
    begun([sent(1), moved()]).when(Command::Enable).refused(refusal(Untested::Enabling), code);
    // The test was sent to the URL before, and ended when it was another already.
    begun([moved(), sent(1)]).when(Command::Enable).refused(refusal(Untested::Enabling), code);
    begun([sent(1), moved(), sent(2)])
        .when(Command::Enable)
        .then([Event::Subscription(SubscriptionEvent::Enabled(SubscriptionEnabled {}))]);
    let enabled = || begun([sent(1), SubscriptionEvent::Enabled(SubscriptionEnabled {})]);
    enabled().when(move_on()).refused(refusal(Untested::UrlChange), code);
    let same = Update { url: Some("https://example.com/first".into()), ..Update::default() };
    enabled().when(Command::Update(same)).then([]);
    begun([sent(1)]).when(move_on()).then([Event::Subscription(moved())]);
}

#[test]
fn where_no_test_is_required_none_is_asked_for() {
    given([disabled_one()])
        .when(Command::Enable)
        .then([Event::Subscription(SubscriptionEvent::Enabled(SubscriptionEnabled {}))]);
}

fn disabled_one() -> Event {
    Event::Subscription(SubscriptionEvent::Created(created_under("axie-v1".into(), false)))
}

#[test]
fn where_a_last_star_takes_the_rest_the_filter_is_recorded_as_that() {
    // S11
    let rest = || profile_with("rest-v1", |value| value["filters"]["trailing_star"] = "rest".into());
    let with = |texts: &[&str]| SubscriptionCreated { filters: filters(texts), ..created_under(rest(), true) };
    let made = |texts: &[&str]| Event::Subscription(SubscriptionEvent::Created(with(texts)));
    let state = given([])
        .when(Command::Create(with(&["platform.saml.*", "*.created"])))
        .then([made(&["platform.saml.*.**", "*.created"])]);
    let picked = |name: &str| {
        crate::domain::filter::matches_any(&state.settings().unwrap().filters, &EventType::parse(name).unwrap())
    };
    assert!(picked("platform.saml.enabled") && picked("platform.saml.provider.enabled"));
    assert!(!picked("platform.saml") && picked("user.created") && !picked("a.user.created"));
    let set = |texts: &[&str]| Command::Update(Update { filters: Some(filters(texts)), ..Update::default() });
    given([made(&["user.*.**"])]).when(set(&["user.*"])).then([]);
    let change = Change { from: filters(&["user.*.**"]), to: filters(&["role.*.**"]) };
    let changed = SubscriptionUpdated { filters: Some(change), ..SubscriptionUpdated::default() };
    given([made(&["user.*.**"])]).when(set(&["role.*"])).then([updated(changed)]);
    // Under all others it stays what it is.
    for profile in profile::built_in().iter().filter(|profile| profile.filters.globs) {
        let strict = SubscriptionCreated { profile: profile.name.clone(), ..with(&["platform.saml.*"]) };
        given([]).when(Command::Create(strict.clone())).then([Event::Subscription(SubscriptionEvent::Created(strict))]);
    }
}

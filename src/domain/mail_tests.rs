//! What is told of, in which words, and that nobody else has a say in them.

use super::*;
use crate::domain::event::{
    CircuitProbing, DisableCause, EgressBlocked, SubscriptionCreated, SubscriptionDisabled, SubscriptionEnabled,
};
use crate::domain::id::{DeliveryId, SecretId, SubscriptionId, TenantId};
use crate::domain::profile;

const AT: Timestamp = Timestamp::from_ms(1_763_894_415_000);

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn created(url: &str) -> SubscriptionCreated {
    SubscriptionCreated {
        subscription: SubscriptionId::from_parts(1, 1),
        tenant: TenantId::from_parts(1, 2),
        profile: "axie-v1".into(),
        url: url.into(),
        description: Some("A description\r\nBcc: victim@example.com".into()),
        filters: vec![],
        enabled: true,
        secret: SecretId::from_parts(1, 3),
        fingerprint: "aa".into(),
        public_key: None,
        rate_limit_per_s: None,
        ordered: false,
        headers: None,
        retry_policy: None,
        recipients: None,
    }
}

fn told(event: SubscriptionEvent) -> Option<Occurrence> {
    Notice::of(EventId::from_parts(1, 9), AT, &Event::Subscription(event)).map(|notice| notice.occurrence)
}

fn mail(url: &str) -> String {
    let created = created(url);
    let webhook = Settings::created(&created);
    let happened = Event::Subscription(SubscriptionEvent::Created(created));
    let notice = Notice::of(EventId::from_parts(1, 9), AT, &happened).unwrap();
    notice.mail(&webhook, &address("tidings@example.org"), &address("ops@example.com"))
}

fn tripped(cause: TripCause, probe_at: Option<Timestamp>) -> SubscriptionEvent {
    SubscriptionEvent::CircuitTripped(CircuitTripped {
        cause,
        failures: 10,
        delivery: DeliveryId::from_parts(1, 1),
        code: FailureCode::Connect,
        detail: "Secret\r\n.\r\n".into(),
        matched_through: 1,
        probe_at,
        failed_probes: 0,
    })
}

#[test]
fn a_mail_says_what_happened_to_which_webhook() {
    // A12
    let mail = mail("https://example.com:8443/hooks/axie");
    let event = EventId::from_parts(1, 9);
    let expected = [
        "From: <tidings@example.org>",
        "To: <ops@example.com>",
        "Subject: A webhook to example.com:8443 was created",
        "Date: Sun, 23 Nov 2025 10:40:15 +0000",
        &format!("Message-ID: <{event}@example.org>"),
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
        "Content-Transfer-Encoding: 7bit",
        "",
        "A webhook was created.",
        "",
        "When:      2025-11-23T10:40:15Z",
        &format!("Webhook:   {}", SubscriptionId::from_parts(1, 1)),
        "Endpoint:  https://example.com:8443",
        "Profile:   axie-v1",
        &format!("Tenant:    {}", TenantId::from_parts(1, 2)),
        "",
        "You are told since the webhook has your address for notices. Whoever manages",
        "it can take the address off.",
        "",
    ];
    assert_eq!(mail.split("\r\n").collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_said_of_a_url_holds_no_secrets() {
    for url in [
        "https://example.com/services/hunter2",
        "https://example.com/hook?token=hunter2",
        "https://user:hunter2@example.com/hook",
        "https://hunter2@example.com/hook#hunter2",
        "https://a:b@hunter2@example.com/hook?x=1",
    ] {
        let mail = mail(url);
        assert!(mail.contains("Endpoint:  https://example.com\r\n") && !mail.contains("hunter2"), "{mail}");
    }
}

#[test]
fn no_url_adds_a_header_or_a_line_and_none_makes_a_line_too_long() {
    let usual = mail("https://example.com/");
    let long = format!("https://{}.example.com/", "a".repeat(5_000));
    for url in [
        "https://example.com/\r\nBcc: victim@example.com\r\n\r\nbuy",
        "https://evil\r\nBcc: victim@example.com/",
        "https://evil\nx/\n.\n",
        "https://evil\r.\r/",
        "https://\u{2028}\u{85}evil\0/\u{7f}",
        "no url\r\nat all",
        &long,
    ] {
        let mail = mail(url);
        assert_eq!(mail.matches("\r\n").count(), usual.matches("\r\n").count(), "{mail}");
        assert_eq!(mail.matches(['\r', '\n']).count(), 2 * usual.matches("\r\n").count());
        assert!(mail.is_ascii() && mail.lines().all(|line| line.len() <= 300 && line != "."), "{mail}");
    }
    assert!(!mail("https://example.com/").contains("victim"), "descriptions are not told");
}

#[test]
fn owners_are_told_what_they_did_not_do_themselves_and_of_the_creation() {
    // C19
    let disabled = |cause| SubscriptionEvent::Disabled(SubscriptionDisabled { reason: None, cause });
    let blocked = EgressBlocked { delivery: DeliveryId::from_parts(1, 1), detail: "10.0.0.1".into() };
    for (event, expected) in [
        (SubscriptionEvent::Created(created("https://example.com/")), Some(Occurrence::Created)),
        (disabled(Some(DisableCause::EndpointGone)), Some(Occurrence::Disabled)),
        (disabled(None), None),
        (SubscriptionEvent::EgressBlocked(blocked), Some(Occurrence::EgressBlocked)),
        (SubscriptionEvent::Enabled(SubscriptionEnabled {}), None),
        (SubscriptionEvent::CircuitProbing(CircuitProbing { lost_through: None }), None),
        // The beginning of an outage and the end of all probes, and nothing between.
        (tripped(TripCause::HardFailures, Some(AT)), Some(Occurrence::CircuitTripped)),
        (tripped(TripCause::SoftFailures, None), Some(Occurrence::CircuitTripped)),
        (tripped(TripCause::ProbeFailed, Some(AT)), None),
        (tripped(TripCause::RecoveryFailed, Some(AT)), None),
        (tripped(TripCause::ProbeFailed, None), Some(Occurrence::CircuitTripped)),
    ] {
        assert_eq!(told(event.clone()), expected, "{event:?}");
    }
    let exhausted = DeliveryExhausted { delivery: DeliveryId::from_parts(1, 1), attempts: 5 };
    let notice = Notice::of(EventId::from_parts(1, 9), AT, &Event::Delivery(DeliveryEvent::Exhausted(exhausted)));
    assert_eq!(notice.map(|notice| notice.occurrence), Some(Occurrence::DeliveryFailed));
}

#[test]
fn what_an_endpoint_says_is_not_told() {
    let webhook = Settings::created(&created("https://example.com/"));
    let happened = Event::Subscription(tripped(TripCause::HardFailures, Some(AT)));
    let notice = Notice::of(EventId::from_parts(1, 9), AT, &happened).unwrap();
    let mail = notice.mail(&webhook, &address("tidings@example.org"), &address("ops@example.com"));
    assert!(mail.contains("no connection could be made") && !mail.contains("Secret"), "{mail}");
}

#[test]
fn each_profile_says_what_is_told() {
    // A12, C19
    let notify = |name: &str| profile::find(name).unwrap().notify.clone();
    assert!(notify("axie-v1").contains(&Occurrence::Created));
    assert!(!notify("axissynapse-v1").contains(&Occurrence::Created));
    assert!(notify("axissynapse-v1").contains(&Occurrence::CircuitTripped));
    let text = include_str!("../../examples/profiles/github-style-v1.json");
    let silent = profile::Definition::parse(text.as_bytes()).unwrap();
    assert_eq!(silent.profile.notify, []);
    let twice = text.trim_end().trim_end_matches('}').to_owned() + ", \"notify\": [\"created\", \"created\"] }";
    assert_eq!(profile::Definition::parse(twice.as_bytes()).unwrap_err()[0].key, "notify");
}

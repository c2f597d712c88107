//! The rules of a subscription, as given–when–then. What a test does not name has its default: profile `axie-v1`,
//! enabled, `user.created`, everything at [`START`].

#[path = "subscription_attempt_tests.rs"]
mod attempts;
#[path = "subscription_deletion_tests.rs"]
mod deletion;
#[path = "subscription_header_tests.rs"]
mod header;
#[path = "subscription_health_tests.rs"]
mod health;
#[path = "subscription_job_tests.rs"]
mod jobs;
#[path = "subscription_matching_tests.rs"]
mod matching;
#[path = "subscription_order_tests.rs"]
mod order;
#[path = "subscription_policy_tests.rs"]
mod policy;
#[path = "subscription_property_tests.rs"]
pub(crate) mod properties;
#[path = "subscription_timers_tests.rs"]
mod timers;
#[path = "subscription_trial_tests.rs"]
mod trial;

use super::*;
use crate::domain::event::{
    AttemptFailed, DeliveryExhausted, ExpiryReason, HoldChanged, SubscriptionDeleted, TestSent,
};
use crate::domain::filter::EventType;
use crate::domain::filter::Filter;
use crate::domain::id::MessageId;
use crate::domain::id::SubscriptionId;
use crate::domain::outcome::{Exchange, Failure, FailureClass, FailureCode, Response};
use crate::domain::profile::{FiltersRefused, UnknownProfile};
use crate::error_code::ErrorCode;

const START: Timestamp = Timestamp::from_ms(1_763_894_415_000);
const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600_000;

const ID: SubscriptionId = SubscriptionId::from_parts(1, 1);
const TENANT: TenantId = TenantId::from_parts(1, 2);
const SECRET: SecretId = SecretId::from_parts(1, 3);
const NEW_SECRET: SecretId = SecretId::from_parts(1, 4);
const D1: DeliveryId = DeliveryId::from_parts(1, 1);
const D2: DeliveryId = DeliveryId::from_parts(1, 2);
const D3: DeliveryId = DeliveryId::from_parts(1, 3);

fn given(past: impl IntoIterator<Item = Event>) -> Given {
    let mut given = Given { state: Subscription::default(), versions: [0, 0] };
    given.evolve(past);
    given
}

struct Given {
    state: Subscription,
    /// Of the two streams.
    versions: [u64; 2],
}

impl Given {
    fn evolve(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            let version = &mut self.versions[usize::from(matches!(event, Event::Delivery(_)))];
            *version += 1;
            evolve(&mut self.state, &event, START, *version);
        }
    }

    fn when(mut self, command: Command) -> Then {
        let decision = decide(&self.state, command);
        self.evolve(decision.clone().unwrap_or_default());
        Then { decision, state: self.state }
    }
}

struct Then {
    decision: Result<Vec<Event>, Refusal>,
    state: Subscription,
}

impl Then {
    #[track_caller]
    fn then<const N: usize>(self, expected: [Event; N]) -> Subscription {
        assert_eq!(self.decision.map(unnumbered), Ok(expected.to_vec()));
        self.state
    }

    #[track_caller]
    fn refused(self, refusal: Refusal, code: ErrorCode) {
        assert_eq!(refusal.code(), code);
        assert_eq!(self.decision, Err(refusal));
    }
}

/// Without the places of messages, which have tests of their own.
fn unnumbered(mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        if let Event::Delivery(DeliveryEvent::Scheduled(scheduled)) = event {
            scheduled.sequence = None;
        }
    }
    events
}

/// A subscription on its way into being.
fn subscription() -> Creation {
    Creation(SubscriptionCreated {
        subscription: ID,
        tenant: TENANT,
        profile: "axie-v1".into(),
        url: "https://example.com/first".into(),
        description: None,
        filters: filters(&["user.created"]),
        enabled: true,
        secret: SECRET,
        fingerprint: "aa".into(),
        public_key: None,
        rate_limit_per_s: None,
        ordered: false,
        headers: None,
        retry_policy: None,
        recipients: None,
    })
}

struct Creation(SubscriptionCreated);

impl Creation {
    fn under(self, profile: &str) -> Self {
        Self(SubscriptionCreated { profile: profile.into(), ..self.0 })
    }

    fn to(self, patterns: &[&str]) -> Self {
        Self(SubscriptionCreated { filters: filters(patterns), ..self.0 })
    }

    fn about(self, description: &str) -> Self {
        Self(SubscriptionCreated { description: Some(description.into()), ..self.0 })
    }

    fn limited_to(self, per_s: u32) -> Self {
        Self(SubscriptionCreated { rate_limit_per_s: Some(per_s), ..self.0 })
    }

    fn ordered(self) -> Self {
        Self(SubscriptionCreated { ordered: true, ..self.0 })
    }

    fn disabled(self) -> Self {
        Self(SubscriptionCreated { enabled: false, ..self.0 })
    }

    fn created(self) -> Event {
        Event::Subscription(SubscriptionEvent::Created(self.0))
    }

    fn create(self) -> Command {
        Command::Create(self.0)
    }
}

fn filters(patterns: &[&str]) -> Vec<Filter> {
    patterns.iter().map(|pattern| Filter::parse(pattern).unwrap()).collect()
}

fn created() -> Event {
    subscription().created()
}

fn disabled() -> Event {
    Event::Subscription(SubscriptionEvent::Disabled(SubscriptionDisabled { reason: None, cause: None }))
}

fn enabled() -> Event {
    Event::Subscription(SubscriptionEvent::Enabled(SubscriptionEnabled {}))
}

fn deleted(cancelled: u64) -> Event {
    Event::Subscription(SubscriptionEvent::Deleted(SubscriptionDeleted { cancelled, ..SubscriptionDeleted::default() }))
}

fn updated(updated: SubscriptionUpdated) -> Event {
    Event::Subscription(SubscriptionEvent::Updated(updated))
}

fn rotated(version: u32, previous_retires_at: Option<Timestamp>) -> Event {
    let rotated =
        SecretRotated { secret: NEW_SECRET, version, fingerprint: "bb".into(), public_key: None, previous_retires_at };
    Event::Subscription(SubscriptionEvent::SecretRotated(rotated))
}

/// The message that stands at this number of the log.
fn message(seq: u64) -> MessageId {
    MessageId::from_parts(1, seq.into())
}

fn scheduled(delivery: DeliveryId, message_seq: u64) -> Event {
    Event::Delivery(DeliveryEvent::Scheduled(DeliveryScheduled {
        delivery,
        message: message(message_seq),
        message_seq,
        revision: 1,
        sequence: None,
        redelivery_of: None,
    }))
}

fn failed(delivery: DeliveryId, number: u32, due_at: Option<Timestamp>) -> Event {
    Event::Delivery(DeliveryEvent::AttemptFailed(AttemptFailed {
        delivery,
        number,
        started_at: START,
        latency_ms: 70,
        code: FailureCode::Status,
        detail: "the endpoint answered with status 500".into(),
        response: Some(response(500)),
        revision: 1,
        class: FailureClass::Hard,
        failures: number,
        due_at,
        hold_until: None,
    }))
}

fn succeeded(delivery: DeliveryId, number: u32, status: u16) -> Event {
    Event::Delivery(DeliveryEvent::Succeeded(DeliverySucceeded {
        delivery,
        number,
        started_at: START,
        latency_ms: 70,
        response: response(status),
        revision: 1,
    }))
}

fn exhausted(delivery: DeliveryId, attempts: u32) -> Event {
    Event::Delivery(DeliveryEvent::Exhausted(DeliveryExhausted { delivery, attempts }))
}

fn response(status: u16) -> Response {
    Response { status, ..Response::default() }
}

/// Attempt `number` ends with this answer.
fn answered(delivery: DeliveryId, number: u32, status: u16) -> Command {
    finished(delivery, number, Ok(response(status)))
}

fn finished(delivery: DeliveryId, number: u32, result: Result<Response, Failure>) -> Command {
    Command::FinishAttempt(Finished {
        delivery,
        number,
        revision: 1,
        started_at: START,
        ended_at: START.plus_ms(70),
        exchange: Exchange { latency_ms: 70, result },
        random: 12_345,
    })
}

fn matched(found: &[(DeliveryId, u64)]) -> Command {
    matched_after(None, found)
}

fn matched_after(after: Option<u64>, found: &[(DeliveryId, u64)]) -> Command {
    let one = |&(delivery, message_seq)| Match { delivery, message: message(message_seq), message_seq };
    Command::Match(Matches { after, found: found.iter().map(one).collect() })
}

fn rotate(overlap_s: Option<u64>) -> Command {
    Command::RotateSecret { secret: NEW_SECRET, fingerprint: "bb".into(), public_key: None, overlap_s, at: START }
}

fn again(original: DeliveryId, original_failed: bool) -> Command {
    Command::Redeliver(Redeliver {
        original,
        original_failed,
        delivery: D3,
        message: message(7),
        message_seq: 7,
        sequence: None,
        queue: false,
        room: true,
    })
}

fn due(state: &Subscription, now: Timestamp) -> Vec<DeliveryId> {
    state.due(now).map(|(delivery, _)| delivery).collect()
}

mod creation {
    use super::*;

    #[test]
    fn a_subscription_comes_into_being_as_it_was_asked_for() {
        // A11, A13
        let state = given([]).when(subscription().create()).then([created()]);
        let settings = state.settings().unwrap();
        assert_eq!(settings.revision, 1);
        assert_eq!(settings.signing_secrets(START), [SECRET]);
        assert!(state.may_send());
    }

    #[test]
    fn one_that_is_created_disabled_sends_nothing() {
        // A11, S3, S7
        let state = given([]).when(subscription().disabled().create()).then([subscription().disabled().created()]);
        assert!(!state.may_send());
    }

    #[test]
    fn axie_wants_one_exact_type_at_least() {
        // A6, C13
        given([])
            .when(subscription().to(&[]).create())
            .refused(FiltersRefused::Empty("axie-v1".into()).into(), ErrorCode::WebhookFilterInvalid);
        let glob = FiltersRefused::Glob { profile: "axie-v1".into(), filter: "user.*".into() };
        given([])
            .when(subscription().to(&["role.changed", "user.*"]).create())
            .refused(glob.into(), ErrorCode::WebhookFilterInvalid);
    }

    #[test]
    fn axissynapse_takes_globs_and_no_filter_at_all() {
        // S5, S10
        for patterns in [&["platform.saml.**", "account.mfa.*"][..], &[]] {
            let new = || subscription().under("axissynapse-v1").to(patterns);
            given([]).when(new().create()).then([new().created()]);
        }
    }

    #[test]
    fn a_description_has_200_characters_at_most() {
        // S6
        let fits = || subscription().about(&"ä".repeat(200));
        given([]).when(fits().create()).then([fits().created()]);
        given([])
            .when(subscription().about(&"ä".repeat(201)).create())
            .refused(Refusal::DescriptionTooLong(201), ErrorCode::InvalidInput);
    }

    #[test]
    fn a_rate_limit_is_one_to_ten_thousand_a_second() {
        for fits in [1, 10_000] {
            let new = || subscription().limited_to(fits);
            let state = given([]).when(new().create()).then([new().created()]);
            assert_eq!(state.settings().unwrap().rate_limit_per_s, Some(fits));
        }
        for out_of_range in [0, 10_001] {
            let refusal = || Refusal::RateLimitOutOfRange;
            given([])
                .when(subscription().limited_to(out_of_range).create())
                .refused(refusal(), ErrorCode::InvalidInput);
            let update = Update { rate_limit_per_s: Some(Some(out_of_range)), ..Update::default() };
            given([created()]).when(Command::Update(update)).refused(refusal(), ErrorCode::InvalidInput);
        }
    }

    #[test]
    fn an_unknown_profile_is_refused() {
        given([])
            .when(subscription().under("axie-v9").create())
            .refused(UnknownProfile("axie-v9".into()).into(), ErrorCode::InvalidInput);
    }

    #[test]
    fn an_id_is_used_once_even_after_deletion() {
        given([created()]).when(subscription().create()).refused(Refusal::Exists, ErrorCode::VersionConflict);
        given([created(), deleted(0)])
            .when(subscription().create())
            .refused(Refusal::Exists, ErrorCode::VersionConflict);
    }
}

mod change {
    use super::*;

    fn to_url(url: &str) -> Command {
        Command::Update(Update { url: Some(url.into()), ..Update::default() })
    }

    #[test]
    fn url_description_filters_rate_limit_and_order_can_be_changed_together() {
        // A13
        let update = Update {
            expected_revision: Some(1),
            url: Some("https://example.com/second".into()),
            description: Some(Some("alerts".into())),
            filters: Some(filters(&["role.changed"])),
            rate_limit_per_s: Some(Some(5)),
            ordered: Some(true),
            headers: Some(Some(header::headers("aa"))),
            retry_policy: Some(Some(policy::once())),
            recipients: Some(Some(header::recipients("bb"))),
        };
        let event = SubscriptionUpdated {
            url: Some(Change { from: "https://example.com/first".into(), to: "https://example.com/second".into() }),
            description: Some(Change { from: None, to: Some("alerts".into()) }),
            filters: Some(Change { from: filters(&["user.created"]), to: filters(&["role.changed"]) }),
            rate_limit_per_s: Some(Change { from: None, to: Some(5) }),
            ordered: Some(Change { from: false, to: true }),
            headers: Some(Change { from: None, to: Some(header::headers("aa")) }),
            retry_policy: Some(Change { from: None, to: Some(policy::once()) }),
            recipients: Some(Change { from: None, to: Some(header::recipients("bb")) }),
        };
        let state = given([created()]).when(Command::Update(update)).then([updated(event)]);
        let settings = state.settings().unwrap();
        assert_eq!(settings.url, "https://example.com/second");
        assert_eq!(settings.description.as_deref(), Some("alerts"));
        assert_eq!(settings.filters, filters(&["role.changed"]));
        assert_eq!(settings.rate_limit_per_s, Some(5));
        assert!(settings.ordered);
        assert_eq!(settings.headers.as_deref(), Some(&header::headers("aa")));
        assert_eq!(settings.recipients.as_deref(), Some(&header::recipients("bb")));
        assert_eq!(settings.revision, 2);
    }

    #[test]
    fn only_what_changed_is_recorded() {
        let update =
            Update { url: Some("https://example.com/first".into()), description: Some(None), ..Update::default() };
        given([subscription().about("alerts").created()]).when(Command::Update(update)).then([updated(
            SubscriptionUpdated {
                description: Some(Change { from: Some("alerts".into()), to: None }),
                ..SubscriptionUpdated::default()
            },
        )]);
    }

    #[test]
    fn a_change_to_what_is_so_already_is_no_event() {
        let same = Update {
            expected_revision: Some(1),
            url: Some("https://example.com/first".into()),
            description: Some(None),
            filters: Some(filters(&["user.created"])),
            rate_limit_per_s: Some(None),
            ordered: Some(false),
            headers: Some(None),
            retry_policy: Some(None),
            recipients: Some(None),
        };
        let state = given([created()]).when(Command::Update(same)).then([]);
        assert_eq!(state.settings().unwrap().revision, 1);
        given([created()]).when(Command::Update(Update::default())).then([]);
    }

    #[test]
    fn a_caller_who_saw_older_settings_is_told() {
        let stale = Update { expected_revision: Some(1), description: Some(None), ..Update::default() };
        let conflict = || Refusal::RevisionConflict { expected: 1, actual: 2 };
        given([created(), disabled()]).when(Command::Update(stale)).refused(conflict(), ErrorCode::VersionConflict);
        given([created(), disabled()])
            .when(Command::Delete { expected_revision: Some(1) })
            .refused(conflict(), ErrorCode::VersionConflict);
    }

    #[test]
    fn new_settings_pass_the_checks_of_creation() {
        // A6, S6
        let none = Update { filters: Some(vec![]), ..Update::default() };
        given([created()])
            .when(Command::Update(none))
            .refused(FiltersRefused::Empty("axie-v1".into()).into(), ErrorCode::WebhookFilterInvalid);
        let long = Update { description: Some(Some("x".repeat(201))), ..Update::default() };
        given([created()])
            .when(Command::Update(long))
            .refused(Refusal::DescriptionTooLong(201), ErrorCode::InvalidInput);
    }

    #[test]
    fn each_of_them_is_a_new_revision_and_a_test_is_none() {
        let test = TestSent {
            event_type: EventType::parse("webhook.test").unwrap(),
            verified: true,
            status: Some(200),
            failure: None,
            latency_ms: 5,
            revision: None,
        };
        let past = [created(), disabled(), enabled(), rotated(2, None)];
        let state = given(past)
            .when(Command::RecordTest(test.clone()))
            .then([Event::Subscription(SubscriptionEvent::TestSent(test))]);
        assert_eq!(state.settings().unwrap().revision, 4);
    }

    #[test]
    fn nothing_can_be_asked_of_one_that_is_not_there() {
        let commands = || {
            [
                to_url("https://example.com/second"),
                Command::Enable,
                Command::Disable { reason: None },
                rotate(None),
                again(D1, true),
                answered(D1, 1, 200),
                Command::Delete { expected_revision: None },
            ]
        };
        for command in commands() {
            given([]).when(command).refused(Refusal::NotFound, ErrorCode::NotFound);
        }
        for command in commands() {
            given([created(), deleted(0)]).when(command).refused(Refusal::NotFound, ErrorCode::NotFound);
        }
    }
}

mod rotation {
    use super::*;

    #[test]
    fn under_axie_the_old_secret_stops_at_once() {
        // A14, C11
        let state = given([created()]).when(rotate(None)).then([rotated(2, None)]);
        assert_eq!(state.settings().unwrap().signing_secrets(START), [NEW_SECRET]);
    }

    #[test]
    fn axie_and_axissynapse_allow_no_overlap() {
        // A14, S18, C11
        for profile in ["axie-v1", "axissynapse-v1"] {
            given([subscription().under(profile).created()])
                .when(rotate(Some(1)))
                .refused(Refusal::OverlapTooLong { profile: profile.into(), max_s: 0 }, ErrorCode::InvalidInput);
        }
    }

    #[test]
    fn under_standard_webhooks_the_old_secret_signs_on_for_a_day_unless_told_otherwise() {
        // C11
        let standard = || subscription().under("standard-v1").created();
        let retires_at = START.plus_ms(24 * HOUR);
        let state = given([standard()]).when(rotate(None)).then([rotated(2, Some(retires_at))]);
        let settings = state.settings().unwrap();
        assert_eq!(settings.signing_secrets(START), [NEW_SECRET, SECRET]);
        assert_eq!(settings.signing_secrets(retires_at), [NEW_SECRET]);
        given([standard()]).when(rotate(Some(60))).then([rotated(2, Some(START.plus_ms(60 * SECOND)))]);
        given([standard()]).when(rotate(Some(0))).then([rotated(2, None)]);
        given([standard()])
            .when(rotate(Some(u64::MAX)))
            .refused(Refusal::OverlapTooLong { profile: "standard-v1".into(), max_s: 86_400 }, ErrorCode::InvalidInput);
    }

    #[test]
    fn a_rotation_without_overlap_ends_earlier_overlaps_too() {
        let past = [subscription().under("standard-v1").created(), rotated(2, Some(START.plus_ms(HOUR)))];
        let state = given(past).when(rotate(Some(0))).then([rotated(3, None)]);
        assert_eq!(state.settings().unwrap().signing_secrets(START), [NEW_SECRET]);
        assert_eq!(state.settings().unwrap().next_secret_version(), 4);
    }
}

mod life {
    use super::*;

    #[test]
    fn what_is_owed_is_held_while_disabled_and_due_again_once_enabled() {
        // A13
        let past = || [created(), scheduled(D1, 7), failed(D1, 1, Some(START.plus_ms(2 * SECOND)))];
        let state = given(past()).when(Command::Disable { reason: None }).then([disabled()]);
        assert_eq!(due(&state, START.plus_ms(HOUR)), []);
        assert_eq!((state.next_due(), state.open_count()), (None, 1));
        let past = past().into_iter().chain([disabled()]);
        let state = given(past).when(Command::Enable).then([enabled()]);
        assert_eq!(due(&state, START.plus_ms(HOUR)), [D1]);
        assert_eq!(state.next_due(), Some(START.plus_ms(2 * SECOND)));
    }

    #[test]
    fn enabling_or_disabling_twice_is_no_event() {
        given([created()]).when(Command::Enable).then([]);
        given([created(), disabled()]).when(Command::Disable { reason: Some("again".into()) }).then([]);
    }

    #[test]
    fn the_reason_for_disabling_is_kept() {
        let reason = Some("maintenance".to_owned());
        given([created()])
            .when(Command::Disable { reason: reason.clone() })
            .then([Event::Subscription(SubscriptionEvent::Disabled(SubscriptionDisabled { reason, cause: None }))]);
    }

    #[test]
    fn deleting_ends_everything_that_is_owed() {
        // A15
        let past = || [created(), scheduled(D1, 7), scheduled(D2, 8), failed(D2, 1, Some(START.plus_ms(2 * SECOND)))];
        let state = given(past()).when(Command::Delete { expected_revision: Some(1) }).then([deleted(2)]);
        assert_eq!((due(&state, START.plus_ms(HOUR)), state.next_due(), state.open_count()), (vec![], None, 0));
        assert_eq!(state.life.tenant(), Some(TENANT));
        let past = || past().into_iter().chain([deleted(2)]);
        given(past()).when(answered(D1, 1, 200)).refused(Refusal::NotFound, ErrorCode::NotFound);
        given(past()).when(matched(&[(D3, 9)])).then([]);
    }
}

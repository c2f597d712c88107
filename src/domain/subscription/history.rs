//! The versions of a subscription's settings, in the order in which they held.
//!
//! Folded from the subscription's own stream, which is kept for ever: every version stays exact for ever, after a
//! deletion too. What makes a version is said in one place, [`Settings::evolve`]; what it changed is the difference of
//! two states, so that it cannot disagree with them.

use serde_json::{Value, json};

use super::Settings;
use crate::domain::event::SubscriptionEvent;
use crate::domain::header::SealedHeaders;
use crate::domain::notice::SealedRecipients;
use crate::domain::time::Timestamp;

/// The settings as one event left them.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// From 1, without gaps: the revision of the settings. A deletion has the number behind the last revision.
    pub number: u64,
    /// How the subscription was set; of a deleted one, how it was set at its end.
    pub settings: Settings,
    /// What is known of its signing secrets, the current one first.
    pub secrets: Vec<KnownSecret>,
    /// Whether this version is the subscription's deletion.
    pub deleted: bool,
    /// Whether with this version it came back from its deletion; it owes nothing until the next one.
    pub restored: bool,
    /// What differs from the version before; nothing at a deletion.
    pub changes: Vec<FieldChange>,
    /// Since when it holds.
    pub since: Timestamp,
}

/// What may be known of a signing secret: never the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownSecret {
    /// From 1.
    pub version: u32,
    /// Its keyed fingerprint.
    pub fingerprint: String,
    /// Its public key, if it is a private one.
    pub public_key: Option<String>,
    /// Since when it signs.
    pub created_at: Timestamp,
    /// Until when it signs beside its successor; `None` for the current one.
    pub retires_at: Option<Timestamp>,
}

/// A part of the settings that changed.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldChange {
    /// Which part.
    pub field: Field,
    /// Before; null at the creation.
    pub from: Value,
    /// After. Of a secret only its version and fingerprint, of custom headers only their names and fingerprint, of
    /// addresses for notices only how many they are and their fingerprint.
    pub to: Value,
}

/// The parts of the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The delivery profile.
    Profile,
    /// Where to send.
    Url,
    /// What it is for.
    Description,
    /// What to send.
    Filters,
    /// Whether it sends.
    Enabled,
    /// The current signing secret.
    Secret,
    /// Attempts a second at most.
    RateLimit,
    /// Whether each delivery waits for the end of the one before.
    Ordered,
    /// Until when it pauses.
    Hold,
    /// The custom headers.
    Headers,
    /// Its own rules of trying again.
    RetryPolicy,
    /// Who is told what happens to it.
    Recipients,
}

/// The newest version, on the way through the stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    newest: Option<Version>,
}

impl History {
    /// The newest version; `None` before the creation.
    pub fn newest(&self) -> Option<&Version> {
        self.newest.as_ref()
    }

    /// Remembers what happened, and says whether it made a version.
    pub fn evolve(&mut self, event: &SubscriptionEvent, at: Timestamp) -> bool {
        let made = match (event, &self.newest) {
            (SubscriptionEvent::Created(created), _) => {
                let settings = Settings::created(created);
                let secrets = vec![KnownSecret::new(1, &created.fingerprint, created.public_key.as_ref(), at)];
                let changes = changes(None, (&settings, &secrets));
                let number = settings.revision;
                Some(Version { number, settings, secrets, deleted: false, restored: false, changes, since: at })
            }
            (_, None) => None,
            (SubscriptionEvent::Restored(_), Some(last)) if last.deleted => {
                last.next(event, at).map(|version| Version { restored: true, ..version })
            }
            // Nothing else happens before a creation or after a deletion.
            (_, Some(last)) if last.deleted => None,
            (SubscriptionEvent::Deleted(_), Some(last)) => {
                let number = last.number + 1;
                Some(Version { number, deleted: true, restored: false, changes: vec![], since: at, ..last.clone() })
            }
            (_, Some(last)) => last.next(event, at),
        };
        let is_new = made.is_some();
        self.newest = made.or_else(|| self.newest.take());
        is_new
    }
}

impl Version {
    /// The version that the event makes; `None` if it makes none.
    fn next(&self, event: &SubscriptionEvent, at: Timestamp) -> Option<Self> {
        let mut settings = self.settings.clone();
        settings.evolve(event);
        if settings.revision == self.settings.revision {
            return None;
        }
        let rotated = match event {
            SubscriptionEvent::SecretRotated(rotated) => {
                Some(KnownSecret::new(rotated.version, &rotated.fingerprint, rotated.public_key.as_ref(), at))
            }
            SubscriptionEvent::Created(_)
            | SubscriptionEvent::Updated(_)
            | SubscriptionEvent::Enabled(_)
            | SubscriptionEvent::Disabled(_)
            | SubscriptionEvent::TestSent(_)
            | SubscriptionEvent::EgressBlocked(_)
            | SubscriptionEvent::RedeliveryRequested(_)
            | SubscriptionEvent::RescheduleRequested(_)
            | SubscriptionEvent::CancellationRequested(_)
            | SubscriptionEvent::JobStarted(_)
            | SubscriptionEvent::JobEnded(_)
            | SubscriptionEvent::HoldChanged(_)
            | SubscriptionEvent::CircuitTripped(_)
            | SubscriptionEvent::CircuitReenabled(_)
            | SubscriptionEvent::CircuitProbing(_)
            | SubscriptionEvent::MatchesLost(_)
            | SubscriptionEvent::CircuitClosed(_)
            | SubscriptionEvent::Deleted(_)
            | SubscriptionEvent::Restored(_)
            | SubscriptionEvent::SecretsDestroyed(_) => None,
        };
        let known: Vec<_> = rotated.into_iter().chain(self.secrets.iter().cloned()).collect();
        let secrets = settings.secrets.iter().filter_map(|secret| {
            let found = known.iter().find(|known| known.version == secret.version)?;
            Some(KnownSecret { retires_at: secret.retires_at, ..found.clone() })
        });
        let secrets: Vec<_> = secrets.collect();
        let changes = changes(Some((&self.settings, &self.secrets)), (&settings, &secrets));
        let number = settings.revision;
        Some(Self { number, settings, secrets, deleted: false, restored: false, changes, since: at })
    }
}

impl KnownSecret {
    fn new(version: u32, fingerprint: &str, public_key: Option<&String>, created_at: Timestamp) -> Self {
        let (fingerprint, public_key) = (fingerprint.to_owned(), public_key.cloned());
        Self { version, fingerprint, public_key, created_at, retires_at: None }
    }
}

type State<'a> = (&'a Settings, &'a [KnownSecret]);

fn changes(before: Option<State<'_>>, after: State<'_>) -> Vec<FieldChange> {
    let before = before.map(fields);
    let changed = |(index, (field, to)): (usize, (Field, Value))| {
        let from = before.as_ref().map_or(Value::Null, |before| before[index].1.clone());
        (from != to).then_some(FieldChange { field, from, to })
    };
    fields(after).into_iter().enumerate().filter_map(changed).collect()
}

fn fields((settings, secrets): State<'_>) -> [(Field, Value); 12] {
    // Named one by one: a new setting does not compile until it has its place here.
    let Settings {
        id: _,
        tenant: _,
        profile,
        url,
        description,
        filters,
        enabled,
        secrets: _,
        revision: _,
        rate_limit_per_s,
        ordered,
        hold_until,
        headers,
        retry_policy,
        recipients,
    } = settings;
    let (headers, recipients) = (headers.as_deref(), recipients.as_deref());
    let current = secrets
        .first()
        .map_or(Value::Null, |secret| json!({ "version": secret.version, "fingerprint": secret.fingerprint }));
    [
        (Field::Profile, json!(profile)),
        (Field::Url, json!(url)),
        (Field::Description, json!(description)),
        (Field::Filters, json!(filters)),
        (Field::Enabled, json!(enabled)),
        (Field::Secret, current),
        (Field::RateLimit, json!(rate_limit_per_s)),
        (Field::Ordered, json!(ordered)),
        (Field::Hold, json!(hold_until.map(Timestamp::to_rfc3339_ms))),
        (Field::Headers, json!(headers.map(SealedHeaders::told))),
        (Field::RetryPolicy, json!(retry_policy)),
        (Field::Recipients, json!(recipients.map(SealedRecipients::told))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{
        Change, SecretRotated, SubscriptionCreated, SubscriptionDeleted, SubscriptionDisabled, SubscriptionEnabled,
        SubscriptionRestored, SubscriptionUpdated, TestSent,
    };
    use crate::domain::filter::{EventType, Filter};
    use crate::domain::id::{SecretId, SubscriptionId, TenantId};

    const START: Timestamp = Timestamp::from_ms(1_763_894_415_000);

    fn created() -> SubscriptionEvent {
        SubscriptionEvent::Created(SubscriptionCreated {
            subscription: SubscriptionId::from_parts(1, 1),
            tenant: TenantId::from_parts(1, 2),
            profile: "axie-v1".into(),
            url: "https://example.com/first".into(),
            description: None,
            filters: vec![Filter::parse("user.created").unwrap()],
            enabled: true,
            secret: SecretId::from_parts(1, 3),
            fingerprint: "aa".into(),
            public_key: None,
            rate_limit_per_s: None,
            ordered: false,
            headers: None,
            retry_policy: None,
            recipients: None,
        })
    }

    fn moved(to: &str) -> SubscriptionEvent {
        let url = Change { from: "https://example.com/first".into(), to: to.into() };
        SubscriptionEvent::Updated(SubscriptionUpdated { url: Some(url), ..SubscriptionUpdated::default() })
    }

    fn rotated(version: u32, fingerprint: &str, previous_retires_at: Option<Timestamp>) -> SubscriptionEvent {
        let secret = SecretId::from_parts(2, version.into());
        SubscriptionEvent::SecretRotated(SecretRotated {
            secret,
            version,
            fingerprint: fingerprint.into(),
            public_key: None,
            previous_retires_at,
        })
    }

    fn tested() -> SubscriptionEvent {
        SubscriptionEvent::TestSent(TestSent {
            event_type: EventType::parse("webhook.test").unwrap(),
            verified: true,
            status: Some(200),
            failure: None,
            latency_ms: 7,
            revision: None,
        })
    }

    /// Every version that the events make, a second apart.
    fn versions(events: impl IntoIterator<Item = SubscriptionEvent>) -> Vec<Version> {
        let mut history = History::default();
        let mut versions = vec![];
        for (second, event) in events.into_iter().enumerate() {
            if history.evolve(&event, START.plus_ms(second as u64 * 1_000)) {
                versions.push(history.newest().unwrap().clone());
            }
        }
        versions
    }

    #[test]
    fn every_change_makes_a_version_that_says_what_it_changed() {
        let disabled = SubscriptionEvent::Disabled(SubscriptionDisabled { reason: None, cause: None });
        let enabled = SubscriptionEvent::Enabled(SubscriptionEnabled {});
        let made = versions([created(), moved("https://example.com/second"), disabled, tested(), enabled]);
        let numbers: Vec<_> = made.iter().map(|version| version.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        let (field, to) = (Field::Url, json!("https://example.com/second"));
        assert_eq!(made[1].changes, [FieldChange { field, from: json!("https://example.com/first"), to }]);
        assert_eq!(made[2].changes, [FieldChange { field: Field::Enabled, from: json!(true), to: json!(false) }]);
        assert_eq!(made[3].since, START.plus_ms(4_000));
        assert_eq!(made[3].settings.url, "https://example.com/second");
    }

    #[test]
    fn the_creation_changes_everything_that_is_set_from_nothing() {
        let made = versions([created()]);
        let fields: Vec<_> = made[0].changes.iter().map(|change| change.field).collect();
        let set = [Field::Profile, Field::Url, Field::Filters, Field::Enabled, Field::Secret, Field::Ordered];
        assert_eq!(fields, set);
        assert!(made[0].changes.iter().all(|change| change.from == Value::Null));
    }

    #[test]
    fn of_a_secret_only_version_and_fingerprint_are_told() {
        // A10
        let made = versions([created(), rotated(2, "bb", Some(START.plus_ms(9_000))), rotated(3, "cc", None)]);
        let change = &made[1].changes[0];
        assert_eq!((change.field, made[1].changes.len()), (Field::Secret, 1));
        assert_eq!(change.from, json!({ "version": 1, "fingerprint": "aa" }));
        assert_eq!(change.to, json!({ "version": 2, "fingerprint": "bb" }));
        let overlapping: Vec<_> = made[1].secrets.iter().map(|secret| (secret.version, secret.retires_at)).collect();
        assert_eq!(overlapping, [(2, None), (1, Some(START.plus_ms(9_000)))]);
        assert_eq!(made[1].secrets[1].created_at, START);
        // Without an overlap all older secrets are gone.
        assert_eq!(made[2].secrets, [KnownSecret::new(3, "cc", None, START.plus_ms(2_000))]);
    }

    #[test]
    fn a_deletion_is_the_last_version_and_keeps_the_settings() {
        let deleted =
            SubscriptionEvent::Deleted(SubscriptionDeleted { cancelled: 3, ..SubscriptionDeleted::default() });
        let made = versions([created(), deleted.clone(), tested(), deleted]);
        assert_eq!(made.len(), 2);
        assert_eq!((made[1].number, made[1].deleted), (2, true));
        assert_eq!((&made[1].settings, made[1].changes.len()), (&made[0].settings, 0));
    }

    #[test]
    fn a_restored_one_has_a_version_of_its_own_behind_the_deletions() {
        let deleted = SubscriptionEvent::Deleted(SubscriptionDeleted::default());
        let restored = SubscriptionEvent::Restored(SubscriptionRestored { matched_through: 7 });
        let made = versions([created(), deleted, restored, moved("https://example.com/second")]);
        let told: Vec<_> = made.iter().map(|made| (made.number, made.deleted, made.restored)).collect();
        assert_eq!(told, [(1, false, false), (2, true, false), (3, false, true), (4, false, false)]);
        assert_eq!(made[2].settings.revision, 3);
        assert_eq!(made[2].changes, [FieldChange { field: Field::Enabled, from: json!(true), to: json!(false) }]);
        assert_eq!(made[2].secrets, made[0].secrets);
    }

    #[test]
    fn nothing_has_a_version_before_the_creation() {
        assert_eq!(versions([tested(), moved("https://example.com/second")]), []);
    }

    #[test]
    fn a_versions_number_and_settings_are_those_that_the_subscription_has() {
        use crate::domain::event::Event;
        use crate::domain::subscription::{Subscription, evolve};
        let events = [created(), moved("https://example.com/2"), tested(), rotated(2, "bb", None)];
        let (mut state, mut history) = (Subscription::default(), History::default());
        for (version, event) in (1..).zip(events) {
            history.evolve(&event, START);
            evolve(&mut state, &Event::Subscription(event), START, version);
            let newest = history.newest().unwrap();
            assert_eq!((newest.number, &newest.settings), (newest.settings.revision, state.settings().unwrap()));
        }
    }
}

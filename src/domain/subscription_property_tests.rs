//! What holds in every history, whatever is asked in whatever order.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::domain::circuit::Phase;
use crate::domain::event::{DeliveriesCarried, DeliveriesPeriodOpened, ReenableMode};
use crate::domain::id::JobId;
use crate::domain::job::{Ended, JobStarted, Selection, Source};
use crate::domain::subscription::Step as JobStep;

/// A step as chance draws it; what it names is found in the state when its turn comes.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Create { profile: usize, enabled: bool, patterns: Vec<usize>, description_chars: Option<usize> },
    Update { stale: bool, url: Option<bool>, patterns: Option<Vec<usize>>, description_chars: Option<usize> },
    Order(bool),
    Enable,
    Disable,
    Rotate { overlap_s: Option<u64> },
    Test,
    Match { gap: Option<bool>, steps: Vec<u64> },
    Finish { which: usize, number_off: i32, status: Option<u16>, random: u64 },
    Fail { times: usize, status: u16, random: u64 },
    Reenable { skip: Option<u64>, gone: u64 },
    Probe { gone: u64 },
    StartJob { rate_per_s: u32, queue: bool },
    CancelJob,
    AdvanceJob { stale: bool, found: Vec<usize>, last: bool },
    Redeliver { which: usize, failed: bool, queue: bool },
    Reschedule { which: usize, in_ms: u64 },
    Cancel { which: usize },
    Expire { which: usize },
    OpenPeriod { gone: u64 },
    Delete,
    Restore,
    Outlive,
    Wait { ms: u64 },
}

const PROFILES: [&str; 4] = ["axie-v1", "axissynapse-v1", "standard-v1", "unheard-of-v1"];
const PATTERNS: [&str; 4] = ["user.created", "role.changed", "user.*", "**"];

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let patterns = || prop::collection::vec(0..PATTERNS.len(), 0..3);
    let chars = || prop::option::of(prop_oneof![0..20_usize, 195..205_usize]);
    prop_oneof![
        2 => (0..PROFILES.len(), any::<bool>(), patterns(), chars()).prop_map(
            |(profile, enabled, patterns, description_chars)| Step::Create { profile, enabled, patterns, description_chars }
        ),
        2 => (prop::bool::weighted(0.2), prop::option::of(any::<bool>()), prop::option::of(patterns()), chars()).prop_map(
            |(stale, url, patterns, description_chars)| Step::Update { stale, url, patterns, description_chars }
        ),
        1 => any::<bool>().prop_map(Step::Order),
        3 => Just(Step::Enable),
        1 => Just(Step::Disable),
        1 => prop::option::of(prop_oneof![Just(0), 1..90_000_u64, any::<u64>()]).prop_map(|overlap_s| Step::Rotate { overlap_s }),
        1 => Just(Step::Test),
        5 => (prop::option::weighted(0.3, any::<bool>()), prop::collection::vec(0..4_u64, 0..4)).prop_map(
            |(gap, steps)| Step::Match { gap, steps }
        ),
        8 => (
            any::<usize>(),
            prop_oneof![6 => Just(0), 1 => -2..3],
            prop::option::weighted(0.8, prop_oneof![Just(200), 100..600_u16]),
            any::<u64>(),
        ).prop_map(|(which, number_off, status, random)| Step::Finish { which, number_off, status, random }),
        3 => (1..16_usize, prop_oneof![5 => Just(500), 1 => Just(503), 1 => Just(200)], any::<u64>()).prop_map(
            |(times, status, random)| Step::Fail { times, status, random }
        ),
        2 => (prop::option::of(0..30_u64), 0..20_u64).prop_map(|(skip, gone)| Step::Reenable { skip, gone }),
        2 => (0..20_u64).prop_map(|gone| Step::Probe { gone }),
        2 => (any::<usize>(), any::<bool>(), any::<bool>()).prop_map(
            |(which, failed, queue)| Step::Redeliver { which, failed, queue }
        ),
        2 => (0..600_u32, any::<bool>()).prop_map(|(rate_per_s, queue)| Step::StartJob { rate_per_s, queue }),
        1 => prop::bool::weighted(0.5).prop_map(|cancel| if cancel { Step::CancelJob } else { Step::Enable }),
        3 => (prop::bool::weighted(0.1), prop::collection::vec(any::<usize>(), 0..4), prop::bool::weighted(0.2)).prop_map(
            |(stale, found, last)| Step::AdvanceJob { stale, found, last }
        ),
        1 => any::<usize>().prop_map(|which| Step::Expire { which }),
        2 => (any::<usize>(), 0..4_000_000_u64).prop_map(|(which, in_ms)| Step::Reschedule { which, in_ms }),
        1 => any::<usize>().prop_map(|which| Step::Cancel { which }),
        2 => prop_oneof![Just(0), 0..20_u64].prop_map(|gone| Step::OpenPeriod { gone }),
        1 => prop::bool::weighted(0.4).prop_map(|delete| if delete { Step::Delete } else { Step::Enable }),
        3 => Just(Step::Restore),
        1 => prop::bool::weighted(0.2).prop_map(|outlive| if outlive { Step::Outlive } else { Step::Restore }),
        4 => (0..40_000_u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// A subscription with its past.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) state: Subscription,
    pub(crate) events: Vec<(Event, Timestamp, u64)>,
    versions: [u64; 2],
    now_ms: u64,
    deliveries: u128,
    known: Vec<DeliveryId>,
}

impl History {
    pub(crate) fn now(&self) -> Timestamp {
        START.plus_ms(self.now_ms)
    }

    fn new_delivery(&mut self) -> DeliveryId {
        self.deliveries += 1;
        let id = DeliveryId::from_parts(self.now_ms, self.deliveries);
        self.known.push(id);
        id
    }

    fn one_of(&self, which: usize) -> DeliveryId {
        self.known.get(which % (self.known.len() + 1)).copied().unwrap_or(D1)
    }

    fn job(&self) -> JobId {
        self.state.job.as_ref().map_or(JobId::from_parts(0, 0), |job| job.started.job)
    }

    fn command(&mut self, step: Step) -> Option<Command> {
        let revision = self.state.settings().map_or(1, |settings| settings.revision);
        let text = |chars: Option<usize>| chars.map(|chars| "ä".repeat(chars));
        let filters = |patterns: Vec<usize>| {
            patterns.into_iter().map(|pattern| Filter::parse(PATTERNS[pattern]).unwrap()).collect()
        };
        Some(match step {
            Step::Wait { ms } => {
                self.now_ms += ms;
                return None;
            }
            Step::Create { profile, enabled, patterns, description_chars } => Command::Create(SubscriptionCreated {
                profile: PROFILES[profile].into(),
                enabled,
                filters: filters(patterns),
                description: text(description_chars),
                ..subscription().0
            }),
            Step::Update { stale, url, patterns, description_chars } => Command::Update(Update {
                expected_revision: Some(revision + u64::from(stale)),
                url: url.map(|other| format!("https://example.com/{other}")),
                description: description_chars.map(|chars| text(Some(chars))),
                filters: patterns.map(filters),
                rate_limit_per_s: None,
                ordered: None,
                headers: None,
                retry_policy: None,
                recipients: None,
            }),
            Step::Order(ordered) => Command::Update(Update { ordered: Some(ordered), ..Update::default() }),
            Step::Enable => Command::Enable,
            Step::Disable => Command::Disable { reason: None },
            Step::Rotate { overlap_s } => Command::RotateSecret {
                secret: SecretId::from_parts(self.now_ms, u128::from(revision)),
                fingerprint: "bb".into(),
                public_key: None,
                overlap_s,
                at: self.now(),
            },
            Step::Test => Command::RecordTest(TestSent {
                event_type: EventType::parse("webhook.test").unwrap(),
                verified: true,
                status: Some(200),
                failure: None,
                latency_ms: 1,
                revision: Some(self.state.kept_settings().map_or(1, |settings| settings.revision)),
            }),
            Step::Match { gap, steps } => {
                let seen = self.state.deliveries.matched_through;
                // Begins a little before what was seen, so that some were seen already.
                let mut seq = seen.saturating_sub(2);
                let mut found = Vec::new();
                for step in steps {
                    seq += step + 1;
                    found.push((self.new_delivery(), seq));
                }
                matched_after(gap.map(|gap| seen + u64::from(gap)), &found)
            }
            Step::Finish { which, number_off, status, random } => {
                let delivery = self.one_of(which);
                let attempts = self.state.deliveries.open.get(&delivery).map_or(0, |open| open.attempts());
                let failure = || Failure { code: FailureCode::Connect, detail: "the connection was refused".into() };
                Command::FinishAttempt(Finished {
                    delivery,
                    number: (attempts + 1).saturating_add_signed(number_off),
                    revision,
                    started_at: self.now(),
                    ended_at: self.now(),
                    exchange: Exchange { latency_ms: 0, result: status.map(response).ok_or_else(failure) },
                    random,
                })
            }
            Step::Fail { .. } => return None,
            Step::Reenable { skip, gone } => Command::Reenable {
                mode: if skip.is_some() { ReenableMode::SkipBefore } else { ReenableMode::Drain },
                skip_through: skip,
                gone_through: gone,
            },
            Step::Probe { gone } => Command::Probe { gone_through: gone, at: self.now() },
            Step::Redeliver { which, failed, queue } => {
                let original = self.one_of(which);
                let delivery = self.new_delivery();
                let (message, message_seq) = (message(1), 1);
                Command::Redeliver(Redeliver {
                    original,
                    original_failed: failed,
                    delivery,
                    message,
                    message_seq,
                    sequence: None,
                    queue,
                    room: true,
                })
            }
            Step::StartJob { rate_per_s, queue } => {
                let source = Source::Redelivery(vec![Ended::Failed]);
                let selection = Selection { source, after: 0, through: 1_000_000, filters: vec![] };
                let job = JobId::from_parts(self.now_ms, self.events.len() as u128);
                let started = JobStarted { job, selection, rate_per_s, total: None };
                Command::StartJob(StartJob { started, queue, max_rate_per_s: 500 })
            }
            Step::CancelJob => Command::CancelJob(self.job()),
            Step::AdvanceJob { stale, found, last } => {
                let cursor = self.state.job.as_ref().map_or(0, |job| job.progress.cursor);
                let candidate = |which| {
                    let original = (which % 5 > 0).then(|| self.one_of(which));
                    let delivery = self.new_delivery();
                    Candidate { original, delivery, message: message(1), message_seq: 1, sequence: None }
                };
                let found = found.into_iter().map(candidate).collect();
                let from = cursor + u64::from(stale);
                let (job, at) = (self.job(), self.now());
                Command::AdvanceJob(JobStep { job, from, to: from + 1, found, passed_over: 1, last, at })
            }
            Step::Expire { which } => {
                Command::Expire { delivery: self.one_of(which), reason: ExpiryReason::DataErased }
            }
            Step::Reschedule { which, in_ms } => Command::Reschedule(Reschedule {
                delivery: self.one_of(which),
                due_at: self.now().plus_ms(in_ms),
                reason: None,
                under_way: false,
                at: self.now(),
            }),
            Step::Cancel { which } => Command::Cancel { delivery: self.one_of(which), reason: None },
            Step::OpenPeriod { gone } => Command::OpenPeriod { gone_through: gone },
            Step::Delete => Command::Delete { expected_revision: None },
            Step::Restore => {
                Command::Restore(Restore { matched_through: self.head(), too_late: false, at: self.now() })
            }
            // What a deleted one is woken for.
            Step::Outlive => {
                let Life::Deleted(_) = self.state.life else { return None };
                self.now_ms = self.now_ms.max(self.state.next_due()?.ms_since(START));
                Command::Forget { at: self.now() }
            }
        })
    }

    /// Behind every message that was ever matched.
    fn head(&self) -> u64 {
        let matched = self.events.iter().filter_map(|(event, ..)| match event {
            Event::Delivery(DeliveryEvent::Scheduled(scheduled)) => Some(scheduled.message_seq),
            Event::Delivery(_) | Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) => None,
        });
        matched.max().unwrap_or(0) + 1
    }

    pub(crate) fn take(&mut self, step: Step) {
        if let Step::Fail { times, .. } = step {
            for _ in 0..times {
                let Some(one) = self.one_failure(&step) else { return };
                self.take(one);
            }
        }
        let Some(command) = self.command(step) else { return };
        let Ok(events) = decide(&self.state, command) else { return };
        let at = self.now();
        for event in events {
            let version = &mut self.versions[usize::from(matches!(event, Event::Delivery(_)))];
            *version += 1;
            let version = *version;
            evolve(&mut self.state, &event, at, version);
            self.events.push((event, at, version));
        }
    }

    /// One of several failures: the delivery that is due first is attempted at its time, and answered so.
    pub(crate) fn one_failure(&mut self, step: &Step) -> Option<Step> {
        let Step::Fail { status, random, .. } = *step else { return None };
        let (due_at, delivery) = self.state.deliveries.agenda.first().copied()?;
        self.now_ms = self.now_ms.max(due_at.ms_since(START)) + 1;
        let which = self.known.iter().position(|known| *known == delivery).unwrap_or(0);
        Some(Step::Finish { which, number_off: 0, status: Some(status), random })
    }

    /// Lets time go by until something is due.
    pub(crate) fn wait_until_due(&mut self) {
        let due_at = self.state.next_due().map_or(START, |due_at| due_at.max(START));
        self.now_ms = self.now_ms.max(due_at.ms_since(START));
    }

    /// The next attempt of a delivery ends with this answer.
    pub(crate) fn answer(&mut self, delivery: DeliveryId, status: u16, random: u64) {
        if let Some(which) = self.known.iter().position(|known| *known == delivery) {
            self.take(Step::Finish { which, number_off: 0, status: Some(status), random });
        }
    }

    /// The state as a fold from the `nth` period on; from the beginning if there is no such period.
    fn folded_from_period(&self, nth: usize) -> Subscription {
        let opens =
            |(event, ..): &(Event, Timestamp, u64)| matches!(event, Event::Delivery(DeliveryEvent::PeriodOpened(_)));
        let opened = self.events.iter().filter(|event| opens(event)).nth(nth).map_or(1, |(_, _, version)| *version);
        let mut state = Subscription::default();
        for (event, at, version) in &self.events {
            let before = matches!(event, Event::Delivery(_)) && *version < opened;
            if !before {
                evolve(&mut state, event, *at, *version);
            }
        }
        state
    }

    fn periods(&self) -> usize {
        let opened =
            self.events.iter().filter(|(event, ..)| matches!(event, Event::Delivery(DeliveryEvent::PeriodOpened(_))));
        opened.count()
    }

    pub(crate) fn check(&self) {
        let Deliveries { open, agenda, line, .. } = &self.state.deliveries;
        let listed: BTreeSet<_> = open.iter().map(|(delivery, open)| (open.due_at, *delivery)).collect();
        assert!(listed.iter().eq(agenda.iter()), "the agenda lists every open delivery once, at its time");
        let listed: BTreeSet<_> = open.iter().map(|(delivery, open)| (open.message_seq, *delivery)).collect();
        assert!(listed.iter().eq(line.iter()), "the line lists every open delivery once, at its message");
        let far = Timestamp::from_ms(i64::MAX);
        let due: Vec<_> = self.state.due(far).map(|(_, open)| open.due_at).collect();
        assert!(due.is_sorted(), "what is due comes in the order of its times");
        for after in [START, self.now()] {
            assert!(self.state.next_due_after(after).is_none_or(|next| next > after), "it lies after that moment");
        }
        if self.state.is_ordered() {
            let turn: Vec<_> = self.state.due(far).map(|(delivery, open)| (open.message_seq, delivery)).collect();
            assert_eq!(turn.first(), line.first().filter(|_| self.state.may_send()), "the head alone has its turn");
        }
        let circuit = &self.state.circuit;
        let enabled = self.state.settings().is_ok_and(|settings| settings.enabled);
        if self.state.may_send() && circuit.is_probing() {
            assert_eq!(due.len(), self.state.open_count().min(1), "a probe is one delivery");
            assert!(self.state.next_due() <= due.first().copied().max(circuit.hold_until).max(self.state.job_due()));
        } else if self.state.may_send() {
            let at_once = if self.state.is_ordered() { 1 } else { usize::MAX };
            assert_eq!(due.len(), self.state.open_count().min(at_once), "everything owed is due at last");
            let first = due.first().copied();
            assert_eq!(
                self.state.next_due(),
                first
                    .map(|first| circuit.hold_until.map_or(first, |until| until.max(first)))
                    .into_iter()
                    .chain(self.state.job_due())
                    .min()
            );
        } else if enabled {
            assert_eq!(due.len(), 0, "nothing is sent while the circuit is open");
            assert_eq!(self.state.next_due(), circuit.probe_at());
        } else if let Life::Deleted(deleted) = &self.state.life {
            assert_eq!((due.len(), self.state.open_count()), (0, 0), "one that is deleted owes nothing");
            let at = deleted.destroy_at();
            assert_eq!((self.state.next_due(), self.state.next_due_after(START)), (at, at));
            assert_eq!(at.is_some(), deleted.settings.is_some(), "settings are kept for a window alone");
        } else {
            assert_eq!((due.len(), self.state.next_due(), self.state.next_due_after(START)), (0, None, None));
        }
        if let Phase::Closed(run) = &circuit.phase {
            let hard = self.state.settings().ok().and_then(|settings| settings.profile().ok()?.breaker);
            let trips = hard.is_some_and(|breaker| {
                run.failures >= breaker.failures && run.deliveries.len() >= breaker.deliveries as usize
            });
            assert!(!trips, "a run that is long enough has tripped the circuit");
        }
        let sequences: Vec<_> = self
            .events
            .iter()
            .filter_map(|(event, ..)| match event {
                Event::Delivery(DeliveryEvent::Scheduled(scheduled)) if scheduled.redelivery_of.is_none() => {
                    scheduled.sequence
                }
                Event::Delivery(_) | Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) => None,
            })
            .collect();
        assert!(sequences.iter().copied().eq(1..=sequences.len() as u64), "matches are numbered without gaps");
    }
}

proptest! {
    #[test]
    fn every_history_keeps_the_invariants_and_replays_to_the_same_state(steps in prop::collection::vec(step(), 1..120)) {
        let mut history = History::default();
        // Most histories are about a living subscription.
        history.take(Step::Create { profile: steps.len() % 3, enabled: true, patterns: vec![0], description_chars: None });
        let mut matched_through = 0;
        for step in steps {
            history.take(step);
            history.check();
            let deleted = matches!(history.state.life, Life::Deleted(_));
            prop_assert!(history.state.deliveries.matched_through >= matched_through || deleted);
            matched_through = history.state.deliveries.matched_through;
        }
        // From the beginning, and from the first event of any period.
        for nth in 0..=history.periods() {
            prop_assert_eq!(&history.folded_from_period(nth), &history.state);
        }
        let text = serde_json::to_string(&history.state).unwrap();
        let read: Subscription = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&serde_json::to_string(&read).unwrap(), &text);
        prop_assert_eq!(read, history.state);
    }

    #[test]
    fn a_period_carries_all_that_is_owed_and_ends_what_is_gone(
        owed in prop::collection::vec(1..3_u64, 0..600), gone_part in 0..120_u64
    ) {
        let mut history = History::default();
        history.take(Step::Create { profile: 0, enabled: true, patterns: vec![0], description_chars: None });
        history.take(Step::Match { gap: None, steps: owed });
        let gone_through = history.state.deliveries.matched_through * gone_part / 100;
        let open_before = history.state.deliveries.open.clone();
        let lost = open_before.values().filter(|open| open.message_seq <= gone_through).count();
        let events_before = history.events.len();
        history.take(Step::OpenPeriod { gone: gone_through });
        history.check();
        prop_assert_eq!(history.state.open_count(), open_before.len() - lost);
        for (delivery, open) in &history.state.deliveries.open {
            prop_assert_eq!(Open { version: 0, ..**open }, Open { version: 0, ..*open_before[delivery] });
        }
        let mut expired = 0;
        for (event, ..) in &history.events[events_before..] {
            match event {
                Event::Delivery(DeliveryEvent::PeriodOpened(DeliveriesPeriodOpened { carried, .. }))
                | Event::Delivery(DeliveryEvent::Carried(DeliveriesCarried { carried })) => {
                    prop_assert!(carried.len() <= 256);
                }
                Event::Delivery(DeliveryEvent::Expired(_)) => expired += 1,
                Event::Delivery(_) | Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) => {
                    prop_assert!(false, "{:?}", event);
                }
            }
        }
        prop_assert_eq!(expired, lost);
    }

    #[test]
    fn a_message_is_scheduled_once_unless_somebody_asks_for_it_again(
        batches in prop::collection::vec((prop::bool::ANY, prop::collection::vec(1..30_u64, 0..6)), 1..20)
    ) {
        let mut history = History::default();
        history.take(Step::Create { profile: 0, enabled: true, patterns: vec![0], description_chars: None });
        for (gap, mut seqs) in batches {
            seqs.sort_unstable();
            seqs.dedup();
            let found: Vec<_> = seqs.into_iter().map(|seq| (history.new_delivery(), seq)).collect();
            let after = gap.then_some(history.state.deliveries.matched_through);
            for event in decide(&history.state, matched_after(after, &found)).unwrap_or_default() {
                evolve(&mut history.state, &event, START, 1);
                history.events.push((event, START, 1));
            }
        }
        let scheduled = history.events.iter().filter_map(|(event, ..)| match event {
            Event::Delivery(DeliveryEvent::Scheduled(scheduled)) => Some(scheduled.message_seq),
            Event::Delivery(_) | Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) => None,
        });
        let seqs: Vec<_> = scheduled.collect();
        prop_assert!(seqs.is_sorted_by(|one, next| one < next), "{:?}", seqs);
    }

    #[test]
    fn no_schedule_makes_more_attempts_than_its_profile_says(random in any::<u64>(), profile in 0..3_usize) {
        let profile = profile::find(PROFILES[profile]).unwrap();
        let mut history = History::default();
        history.take(Step::Create { profile: 0, enabled: true, patterns: vec![0], description_chars: None });
        if let Life::Live(settings) = &mut history.state.life {
            settings.profile.clone_from(&profile.name);
        }
        history.take(Step::Match { gap: None, steps: vec![0] });
        let mut attempts = 0;
        while let Some(due_at) = history.state.next_due() {
            history.now_ms = due_at.ms_since(START);
            history.take(Step::Finish { which: 0, number_off: 0, status: Some(500), random });
            attempts += 1;
            prop_assert!(attempts <= profile.max_attempts());
        }
        prop_assert!(attempts > 1);
    }
}

//! Any history of appends, repetitions and take-overs leaves a store as it leaves a plain list.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use tidings::event_store::{Append, AppendError, Appended, Claim, NewEvent, Recorded, Wakeup};

use super::{Database, Memory, Postgres, Sqlite, at, event, ms, recorded, whole_log, write};

const STREAMS: [&str; 4] = ["subscription-1", "subscription-2", "deliveries-1", "messages-1"];

/// What the log must hold, found by searching it.
#[derive(Default)]
struct Model {
    events: Vec<(Recorded, Option<Bytes>)>,
    claims: BTreeMap<String, String>,
    wakeups: BTreeMap<String, i64>,
}

impl Model {
    fn head(&self) -> u64 {
        self.events.len() as u64
    }

    fn version(&self, stream: &str) -> u64 {
        self.events.iter().filter(|(event, _)| event.stream == stream).count() as u64
    }

    fn append(&mut self, append: &Append) -> Result<u64, AppendError> {
        let wanted = recorded(append, self.head() + 1);
        let stale = append.writes.iter().find(|write| write.first_version != self.version(&write.stream) + 1);
        if let Some(write) = stale {
            let places: Option<Vec<u64>> = wanted
                .iter()
                .map(|wanted| {
                    let same = |it: &&(Recorded, Option<Bytes>)| {
                        (&it.0.stream, it.0.version, it.0.id) == (&wanted.stream, wanted.version, wanted.id)
                    };
                    self.events.iter().find(same).map(|(event, _)| event.position.seq)
                })
                .collect();
            let conflict = AppendError::Conflict { stream: write.stream.clone(), expected: write.first_version };
            return places.and_then(|places| places.last().copied()).ok_or(conflict);
        }
        if let Some(claim) = append.claims.iter().find(|claim| self.claims.contains_key(&claim.key)) {
            let same = append.claims.iter().all(|claim| self.claims.get(&claim.key) == Some(&claim.value));
            let repeated = wanted.is_empty() && same;
            return if repeated { Ok(self.head()) } else { Err(AppendError::ClaimTaken { key: claim.key.clone() }) };
        }
        let contents = append.writes.iter().flat_map(|write| &write.events).map(|event| event.content.clone());
        self.events.extend(wanted.into_iter().zip(contents));
        self.claims.extend(append.claims.iter().map(|claim| (claim.key.clone(), claim.value.clone())));
        for (key, due_at) in &append.wakeups {
            match due_at {
                Some(due_at) => self.wakeups.insert(key.clone(), due_at.as_ms()),
                None => self.wakeups.remove(key),
            };
        }
        Ok(self.head())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Request>),
    TakeOver,
}

#[derive(Clone, Debug)]
enum Request {
    New {
        /// Stream, distance from the right version, events with or without content.
        writes: Vec<(usize, i64, Vec<bool>)>,
        claims: Vec<(u8, u8)>,
        wakeups: Vec<(u8, Option<i64>)>,
    },
    /// An earlier append again, or all of it but its first event and one event more.
    Again { earlier: prop::sample::Index, cut: bool, longer: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let distance = prop_oneof![8 => Just(0_i64), 1 => -2..=2_i64];
    let writes = prop::collection::vec((0..STREAMS.len(), distance, prop::collection::vec(any::<bool>(), 1..6)), 0..3);
    let claims = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec((0..6_u8, 0..2_u8), 1..3)];
    let wakeups = prop::collection::vec((0..5_u8, prop::option::of(0..20_i64)), 0..3);
    let new = (writes, claims, wakeups).prop_map(|(mut writes, mut claims, wakeups)| {
        writes.sort_by_key(|(stream, _, _)| *stream);
        writes.dedup_by_key(|(stream, _, _)| *stream);
        claims.sort_unstable();
        claims.dedup_by_key(|(key, _)| *key);
        Request::New { writes, claims, wakeups }
    });
    let again = (any::<prop::sample::Index>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2))
        .prop_map(|(earlier, cut, longer)| Request::Again { earlier, cut, longer });
    let request = prop_oneof![4 => new, 1 => again];
    let step = prop_oneof![
        9 => prop::collection::vec(request, 1..8).prop_map(Step::Append),
        1 => Just(Step::TakeOver),
    ];
    prop::collection::vec(step, 1..20)
}

/// The append that the request means where the model stands.
fn build(request: &Request, model: &Model, earlier: &[Append]) -> Append {
    match request {
        Request::New { writes, claims, wakeups } => {
            let events = |contents: &[bool]| -> Vec<NewEvent> {
                let content = |some: bool| some.then(|| Bytes::from_static(b"content"));
                contents.iter().map(|some| NewEvent { content: content(*some), ..event() }).collect()
            };
            let writes = writes.iter().map(|(stream, distance, contents)| {
                let version = (model.version(STREAMS[*stream]) + 1).saturating_add_signed(*distance);
                write(STREAMS[*stream], version, events(contents))
            });
            let claims = claims.iter().map(|(key, value)| Claim {
                key: key.to_string(),
                value: value.to_string(),
                bucket: None,
            });
            let wakeups = wakeups.iter().map(|(key, due_at)| (key.to_string(), due_at.map(ms)));
            Append {
                writes: writes.collect(),
                claims: claims.collect(),
                wakeups: wakeups.collect(),
                ..Append::default()
            }
        }
        Request::Again { earlier: index, cut, longer } => {
            let Some(mut append) = (!earlier.is_empty()).then(|| index.get(earlier).clone()) else {
                return Append::default();
            };
            if let Some(write) = append.writes.first_mut() {
                if *cut && write.events.len() > 1 {
                    write.events.remove(0);
                    write.first_version += 1;
                }
                write.events.extend(longer.then(event));
            }
            append
        }
    }
}

async fn run<D: Database>(steps: Vec<Step>) {
    let database = D::fresh().await;
    let mut store = database.store();
    let mut model = Model::default();
    let mut earlier = Vec::new();
    for step in steps {
        match step {
            Step::TakeOver => store = database.reopened().await,
            Step::Append(requests) => {
                let mut batch = Vec::new();
                let mut expected = Vec::new();
                for request in requests {
                    let append = build(&request, &model, &earlier);
                    expected.push(model.append(&append).map(|seq| Appended { last: at(seq) }));
                    earlier.push(append.clone());
                    batch.push(append);
                }
                assert_eq!(store.append(0, batch).await, expected);
            }
        }
    }
    let events: Vec<Recorded> = model.events.iter().map(|(event, _)| event.clone()).collect();
    assert_eq!(whole_log(&*store).await, events);
    assert_eq!(store.head(0).await, Ok(model.head()));
    for (event, content) in &model.events {
        assert_eq!(store.content(event.position).await.as_ref(), Ok(content));
    }
    for stream in STREAMS {
        let of_stream: Vec<Recorded> = events.iter().filter(|event| event.stream == stream).cloned().collect();
        assert_eq!(store.read_stream(stream, 1, usize::MAX).await.unwrap(), of_stream);
    }
    let up_to = model.head() / 2;
    let category = |event: &&Recorded| event.stream.starts_with("subscription-") && event.position.seq <= up_to;
    let mut subscriptions: Vec<Recorded> = events.iter().filter(category).cloned().collect();
    subscriptions.sort_by(|one, other| (&one.stream, one.version).cmp(&(&other.stream, other.version)));
    assert_eq!(store.read_category("subscription", at(up_to), None, usize::MAX).await.unwrap(), subscriptions);
    let keys: Vec<String> = (0..6).map(|key: u8| key.to_string()).collect();
    assert_eq!(store.claims(0, &keys).await.unwrap(), model.claims.into_iter().collect::<HashMap<_, _>>());
    let mut wakeups: Vec<Wakeup> =
        model.wakeups.into_iter().map(|(key, due_at)| Wakeup { key, due_at: ms(due_at) }).collect();
    wakeups.sort_by(|one, other| (one.due_at, &one.key).cmp(&(other.due_at, &other.key)));
    assert_eq!(store.wakeups(0, None, usize::MAX).await.unwrap(), wakeups);
}

/// Set `SEED` to the printed number to see a failure again.
fn agrees_with_the_model<D: Database>(cases: u32) {
    let seed = std::env::var("SEED").map_or_else(|_| RandomState::new().hash_one(()), |seed| seed.parse().unwrap());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runner.run(&steps(), |steps| {
        runtime.block_on(run::<D>(steps));
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, steps)) => panic!("SEED={seed}: {reason}\n{steps:#?}"),
        Err(TestError::Abort(reason)) => panic!("SEED={seed}: {reason}"),
    }
}

#[test]
fn memory_agrees_with_the_model() {
    agrees_with_the_model::<Memory>(300);
}

#[test]
fn sqlite_agrees_with_the_model() {
    agrees_with_the_model::<Sqlite>(40);
}

#[test]
fn postgres_agrees_with_the_model() {
    agrees_with_the_model::<Postgres>(25);
}

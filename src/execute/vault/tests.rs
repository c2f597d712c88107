use super::*;
use crate::clock::SeededClock;
use crate::domain::id::{SecretId, SubscriptionId, TenantId};
use crate::domain::time::Timestamp;
use crate::event_store::{Config, Log, MemoryStore};
use crate::key_store::MemoryKeys;

/// 2025-11-23.
const START: Timestamp = Timestamp::from_ms(1_763_894_415_000);
const MONTH_MS: u64 = 31 * 24 * 3_600_000;

fn clock(seed: u64) -> SeededClock {
    SeededClock::new(START, seed)
}

fn key(byte: u8) -> KeyBytes {
    KeyBytes::new([byte; 32])
}

fn tenant(n: u64) -> TenantId {
    TenantId::from_parts(n, 1)
}

fn binding(n: u64) -> Binding {
    Binding::signing_secret(tenant(1), SubscriptionId::from_parts(2, 2), SecretId::from_parts(n, 3))
}

async fn vault(store: &Arc<MemoryKeys>, current: u8, old: &[u8]) -> Result<Vault, VaultError> {
    let keys = OperatorKeys::new(key(current), old.iter().copied().map(key));
    Vault::open(Arc::clone(store) as _, keys, &clock(u64::from(current))).await
}

#[tokio::test]
async fn a_secret_is_sealed_opened_and_destroyed() {
    let store = Arc::new(MemoryKeys::default());
    let secret = Secret::generate(&[9; 32]);
    let first = vault(&store, 1, &[]).await.unwrap();
    first.store(&binding(1), &secret, &clock(2)).await.unwrap();
    let row = store.get(binding(1).name()).await.unwrap().unwrap();
    assert!(!row.windows(6).any(|bytes| bytes == b"whsec_"));
    let again = vault(&store, 1, &[]).await.unwrap();
    assert_eq!(again.secret(&binding(1)).await.unwrap().expose(), secret.expose());
    assert_eq!(again.store(&binding(1), &secret, &clock(2)).await, Err(VaultError::Taken(binding(1).to_string())));
    again.destroy(&binding(1)).await.unwrap();
    assert_eq!(again.secret(&binding(1)).await.err(), Some(VaultError::Missing(binding(1).to_string())));
}

#[tokio::test]
async fn a_row_in_the_place_of_another_does_not_open() {
    let store = Arc::new(MemoryKeys::default());
    let first = vault(&store, 1, &[]).await.unwrap();
    first.store(&binding(1), &Secret::generate(&[1; 32]), &clock(2)).await.unwrap();
    first.store(&binding(2), &Secret::generate(&[2; 32]), &clock(3)).await.unwrap();
    let moved = store.get(binding(1).name()).await.unwrap().unwrap();
    let there = store.get(binding(2).name()).await.unwrap().unwrap();
    assert!(store.replace(binding(2).name(), &there, &moved).await.unwrap());
    let again = vault(&store, 1, &[]).await.unwrap();
    assert!(again.secret(&binding(1)).await.is_ok());
    assert_eq!(again.secret(&binding(2)).await.err(), Some(VaultError::Damaged(binding(2).to_string())));
}

#[tokio::test]
async fn a_key_that_is_missing_is_named() {
    let store = Arc::new(MemoryKeys::default());
    vault(&store, 1, &[]).await.unwrap();
    let (sealed_by, other) = (SealingKey::new(key(1)).id(), SealingKey::new(key(2)).id());
    let refused = vault(&store, 2, &[]).await.err().unwrap();
    assert_eq!(refused, VaultError::UnknownKey { id: sealed_by, rows: 1, configured: vec![other] });
    assert!(refused.to_string().contains(&sealed_by.to_string()), "{refused}");
    assert!(vault(&store, 2, &[1]).await.is_ok());
}

#[tokio::test]
async fn what_is_derived_stays_when_the_operators_key_changes() {
    let store = Arc::new(MemoryKeys::default());
    let secret = Secret::generate(&[9; 32]);
    let before = vault(&store, 1, &[]).await.unwrap();
    let after = vault(&store, 2, &[1]).await.unwrap();
    assert_eq!(before.fingerprint(&secret), after.fingerprint(&secret));
    assert_eq!(before.api_key_pepper(), after.api_key_pepper());
    assert_ne!(after.derived_key("one"), after.derived_key("another"));
}

#[tokio::test]
async fn a_store_without_its_pepper_is_refused() {
    let store = Arc::new(MemoryKeys::default());
    let first = vault(&store, 1, &[]).await.unwrap();
    first.store(&binding(1), &Secret::generate(&[1; 32]), &clock(2)).await.unwrap();
    store.destroy(&[Binding::pepper().name().to_owned()]).await.unwrap();
    assert!(matches!(vault(&store, 1, &[]).await.err(), Some(VaultError::Missing(_))));
}

#[tokio::test]
async fn each_tenant_has_a_data_key_for_each_month() {
    let store = Arc::new(MemoryKeys::default());
    let first = vault(&store, 1, &[]).await.unwrap();
    let now = first.data_key(tenant(1), START, &clock(2)).await.unwrap();
    let same = first.data_key(tenant(1), START.plus_ms(1), &clock(3)).await.unwrap();
    let later = first.data_key(tenant(1), START.plus_ms(MONTH_MS), &clock(4)).await.unwrap();
    let others = first.data_key(tenant(2), START, &clock(5)).await.unwrap();
    assert_eq!(now.id(), same.id());
    assert!(now.id() != later.id() && now.id() != others.id());

    let of = Binding::message_data(tenant(1), crate::domain::id::MessageId::from_parts(1, 1));
    let sealed = now.seal(&of, b"{}", &clock(6));
    let again = vault(&store, 1, &[]).await.unwrap();
    let found = again.data_key_of(tenant(1), &sealed).await.unwrap();
    assert_eq!(**found.open(&of, &sealed).unwrap(), *b"{}");
    assert!(matches!(again.data_key_of(tenant(2), &sealed).await, Err(VaultError::Missing(_))));
}

#[tokio::test]
async fn two_who_make_a_data_key_at_once_end_with_one() {
    let store = Arc::new(MemoryKeys::default());
    let (one, other) = (vault(&store, 1, &[]).await.unwrap(), vault(&store, 1, &[]).await.unwrap());
    let clocks = (clock(2), clock(3));
    let (first, second) =
        tokio::join!(one.data_key(tenant(1), START, &clocks.0), other.data_key(tenant(1), START, &clocks.1));
    assert_eq!(first.unwrap().id(), second.unwrap().id());
    assert_eq!(store.rows("data-key/", "", 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn data_keys_go_by_tenant_and_by_month() {
    let store = Arc::new(MemoryKeys::default());
    let vault = vault(&store, 1, &[]).await.unwrap();
    let message = crate::domain::id::MessageId::from_parts(1, 1);
    let mut sealed = vec![];
    let one_clock = clock(2);
    for (owner, at) in [(1, START), (1, START.plus_ms(MONTH_MS)), (2, START), (2, START.plus_ms(MONTH_MS))] {
        let key = vault.data_key(tenant(owner), at, &one_clock).await.unwrap();
        sealed.push((tenant(owner), key.seal(&Binding::message_data(tenant(owner), message), b"{}", &clock(9))));
    }
    let open = async |n: usize| vault.data_key_of(sealed[n].0, &sealed[n].1).await.is_ok();
    // Nothing before this month, nor in it.
    assert_eq!(vault.destroy_data_keys_before(START).await.unwrap(), 0);
    assert_eq!(vault.destroy_data_keys(tenant(1)).await.unwrap(), 2);
    assert_eq!([open(0).await, open(1).await, open(2).await, open(3).await], [false, false, true, true]);
    assert_eq!(vault.destroy_data_keys_before(START.plus_ms(MONTH_MS)).await.unwrap(), 1);
    assert_eq!([open(2).await, open(3).await], [false, true]);
}

#[tokio::test]
async fn a_data_key_in_memory_is_not_read_again() {
    let store = Arc::new(MemoryKeys::default());
    let vault = vault(&store, 1, &[]).await.unwrap();
    let key = vault.data_key(tenant(1), START, &clock(2)).await.unwrap();
    // Behind its back: whoever asked the store would find nothing.
    let rows = store.rows("data-key/", "", 9).await.unwrap();
    store.destroy(&[rows[0].name.clone()]).await.unwrap();
    assert_eq!(vault.data_key(tenant(1), START, &clock(3)).await.unwrap().id(), key.id());
}

#[tokio::test]
async fn rows_are_sealed_anew_by_pieces_and_nothing_is_lost_between_two() {
    let store = Arc::new(MemoryKeys::default());
    let before = vault(&store, 1, &[]).await.unwrap();
    for n in 0..5 {
        before.store(&binding(n), &Secret::generate(&[n as u8; 32]), &clock(n)).await.unwrap();
    }
    let keys = OperatorKeys::new(key(2), [key(1)]);
    let first = keys.rewrap(&*store, "", 3, &clock(9)).await.unwrap();
    assert_eq!((first.sealed, first.damaged.len()), (3, 0));
    // As after a crash: whoever begins again has rows of both keys, and needs both.
    assert!(matches!(vault(&store, 2, &[]).await.err(), Some(VaultError::UnknownKey { rows: 3, .. })));
    let again = vault(&store, 2, &[1]).await.unwrap();
    for n in 0..5 {
        assert_eq!(again.secret(&binding(n)).await.unwrap().expose(), Secret::generate(&[n as u8; 32]).expose());
    }
    let rest = again.rewrap("", &clock(10)).await.unwrap();
    assert_eq!(rest.sealed, 3);
    assert_eq!(again.rewrap("", &clock(11)).await.unwrap().sealed, 0);
    let alone = vault(&store, 2, &[]).await.unwrap();
    assert_eq!(alone.census().await.unwrap(), Census { keys: vec![(keys.current(), 6)], damaged: 0 });
    assert_eq!(alone.fingerprint(&Secret::generate(&[1; 32])), before.fingerprint(&Secret::generate(&[1; 32])));
}

#[tokio::test]
async fn a_damaged_row_is_named_and_stays_alone() {
    let store = Arc::new(MemoryKeys::default());
    let first = vault(&store, 1, &[]).await.unwrap();
    for n in 0..3 {
        first.store(&binding(n), &Secret::generate(&[n as u8; 32]), &clock(n)).await.unwrap();
    }
    let whole = store.get(binding(1).name()).await.unwrap().unwrap();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(store.replace(binding(1).name(), &whole, &damaged).await.unwrap());
    let keys = OperatorKeys::new(key(2), [key(1)]);
    let named = vec![binding(1).name().to_owned()];
    assert_eq!(keys.verify(&*store).await.unwrap(), Verified { rows: 4, damaged: named.clone() });
    let piece = keys.rewrap(&*store, "", 9, &clock(9)).await.unwrap();
    assert_eq!((piece.sealed, piece.damaged), (3, named));
    assert_eq!(store.get(binding(1).name()).await.unwrap(), Some(damaged));
}

#[tokio::test]
async fn a_damaged_data_key_costs_its_month_alone() {
    let store = Arc::new(MemoryKeys::default());
    let first = vault(&store, 1, &[]).await.unwrap();
    let one_clock = clock(2);
    let message = Binding::message_data(tenant(1), crate::domain::id::MessageId::from_parts(1, 1));
    let mut sealed = vec![];
    for at in [START, START.plus_ms(MONTH_MS)] {
        sealed.push(first.data_key(tenant(1), at, &one_clock).await.unwrap().seal(&message, b"{}", &clock(9)));
    }
    let row = store.rows("data-key/", "", 9).await.unwrap().remove(0);
    let mut damaged = row.value.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(store.replace(&row.name, &row.value, &damaged).await.unwrap());
    let again = vault(&store, 1, &[]).await.unwrap();
    let lost = VaultError::Damaged(row.name.clone());
    for _ in 0..2 {
        assert!(again.data_key(tenant(1), START.plus_ms(MONTH_MS), &one_clock).await.is_ok());
        assert!(again.data_key_of(tenant(1), &sealed[1]).await.is_ok());
        assert_eq!(again.data_key(tenant(1), START, &one_clock).await.err(), Some(lost.clone()));
        assert_eq!(again.data_key_of(tenant(1), &sealed[0]).await.err(), Some(lost.clone()));
    }
    assert_eq!(store.rows("data-key/", "", 9).await.unwrap().len(), 2, "no other takes the place of the damaged one");
}

#[tokio::test]
async fn a_log_and_a_key_store_are_bound_to_each_other() {
    let log = async || Log::start(Arc::new(MemoryStore::new(1)), Config::default()).await.unwrap();
    let refused = async |vault: &Vault, log: &Log| match vault.bind(log, &clock(8)).await {
        Err(BindError::Vault(error)) => error,
        other => panic!("{other:?}"),
    };
    let store = Arc::new(MemoryKeys::default());
    let (first, own) = (vault(&store, 1, &[]).await.unwrap(), log().await);
    first.bind(&own, &clock(2)).await.unwrap();
    first.bind(&own, &clock(3)).await.unwrap();
    first.must_fit(own.reader()).await.unwrap();
    let id = store.rows("installation/", "", 9).await.unwrap().remove(0);
    // Another log, which is new: also of one that has no secrets yet.
    let again = vault(&store, 1, &[]).await.unwrap();
    assert!(matches!(refused(&again, &log().await).await, VaultError::Foreign { log, .. } if log == "none"));
    // Another that has a key store of its own, and the other way round.
    let (elsewhere, others) = (vault(&Arc::new(MemoryKeys::default()), 2, &[]).await.unwrap(), log().await);
    elsewhere.bind(&others, &clock(4)).await.unwrap();
    assert!(matches!(refused(&again, &others).await, VaultError::Foreign { .. }));
    let unbound = vault(&Arc::new(MemoryKeys::default()), 3, &[]).await.unwrap();
    assert!(matches!(refused(&unbound, &own).await, VaultError::Foreign { .. }));
    // A crash between the two is made good.
    store.destroy(std::slice::from_ref(&id.name)).await.unwrap();
    let after = vault(&store, 1, &[]).await.unwrap();
    after.bind(&own, &clock(5)).await.unwrap();
    assert_eq!(after.must_fit(own.reader()).await.ok(), Some(()));
    // One of before there were ids: with secrets, it is no new log's.
    store.destroy(&[id.name]).await.unwrap();
    let older = vault(&store, 1, &[]).await.unwrap();
    older.store(&binding(1), &Secret::generate(&[1; 32]), &clock(6)).await.unwrap();
    assert_eq!(refused(&older, &log().await).await, VaultError::Used { rows: 1 });
    assert!(older.bind(&own, &clock(7)).await.is_ok());
}

#[tokio::test]
async fn what_nobody_misses_hinders_no_start_without_its_key() {
    use crate::domain::id::UserId;

    let store = Arc::new(MemoryKeys::default());
    let first = vault(&store, 1, &[]).await.unwrap();
    let second = vault(&store, 2, &[1]).await.unwrap();
    let all = |piece: Piece| (piece.sealed, piece.damaged);
    let (session, lost) = ([1, 2].map(|n| Binding::session(tenant(1), UserId::from_parts(1, 1), &[n; 32]))).into();
    first.keep_session(&session, b"{}", &clock(3)).await.unwrap();
    // They are sealed anew like everything else.
    assert_eq!(all(second.rewrap("", &clock(4)).await.unwrap()), (2, vec![]));
    // Behind that, somebody who still had the old key alone sealed more.
    let used = Binding::used_code(tenant(1), UserId::from_parts(1, 1), SecretId::from_parts(1, 1));
    first.keep_session(&lost, b"{}", &clock(5)).await.unwrap();
    assert_eq!(first.use_code(&used, 7, &clock(5)).await, Ok(true));
    let third = vault(&store, 2, &[]).await.unwrap();
    let (kept, unknown) = third.sessions().await.unwrap();
    assert_eq!((kept.len(), kept[0].0.clone(), unknown), (1, session, vec![lost.clone()]));
    assert_eq!(all(third.rewrap("", &clock(6)).await.unwrap()), (0, vec![]));
    assert_eq!(third.sessions().await.unwrap().1, []);
    assert_eq!(store.get(used.name()).await, Ok(None));
    assert_eq!(third.census().await.unwrap().beside(third.current_key()).1, 0);
    // Everything else is missed, and counted without those.
    first.keep_session(&lost, b"{}", &clock(7)).await.unwrap();
    first.store(&binding(1), &Secret::generate(&[9; 32]), &clock(7)).await.unwrap();
    let refused = vault(&store, 2, &[]).await.err().unwrap();
    assert!(matches!(refused, VaultError::UnknownKey { rows: 1, .. }), "{refused}");
}

#[tokio::test]
async fn a_code_counts_once_and_none_before_it_any_more() {
    use crate::domain::id::UserId;

    let store = Arc::new(MemoryKeys::default());
    let (one, other) = (vault(&store, 1, &[]).await.unwrap(), vault(&store, 1, &[]).await.unwrap());
    let of = |n| Binding::used_code(tenant(1), UserId::from_parts(1, 1), SecretId::from_parts(n, 1));
    for (step, counts) in [(7, true), (7, false), (6, false), (8, true)] {
        assert_eq!(one.use_code(&of(1), step, &clock(2)).await, Ok(counts), "{step}");
        assert_eq!(other.use_code(&of(1), step, &clock(3)).await, Ok(false), "{step}");
    }
    assert_eq!(other.use_code(&of(2), 7, &clock(3)).await, Ok(true));
    // What is no step keeps nobody out.
    let before = store.get(of(1).name()).await.unwrap().unwrap();
    assert!(store.replace(of(1).name(), &before, b"damaged").await.unwrap());
    assert_eq!(one.use_code(&of(1), 8, &clock(4)).await, Ok(true));
}

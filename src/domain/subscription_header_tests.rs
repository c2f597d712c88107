//! What is sealed among the settings: custom headers, and addresses for notices.

use super::*;

/// Custom headers that the fingerprint tells from others.
pub(super) fn headers(fingerprint: &str) -> SealedHeaders {
    let secret = SecretId::from_parts(5, fingerprint.len() as u128 + u128::from(fingerprint.as_bytes()[0]));
    SealedHeaders { secret, names: vec!["X-Key".into()], fingerprint: fingerprint.into() }
}

#[test]
fn the_same_headers_sealed_once_more_are_no_change_and_others_take_their_place() {
    // S8
    let set = |to: Option<SealedHeaders>| Command::Update(Update { headers: Some(to), ..Update::default() });
    let changed = |from: Option<SealedHeaders>, to: Option<SealedHeaders>| {
        updated(SubscriptionUpdated { headers: Some(Change { from, to }), ..SubscriptionUpdated::default() })
    };
    let (one, other) = (headers("aa"), headers("bb"));
    let again = SealedHeaders { secret: SecretId::from_parts(9, 9), ..one.clone() };
    let with_one = || given([created(), changed(None, Some(one.clone()))]);
    with_one().when(set(Some(again))).then([]);
    let state = with_one().when(set(Some(other.clone()))).then([changed(Some(one.clone()), Some(other.clone()))]);
    assert!(state.keeps_headers(other.secret) && !state.keeps_headers(one.secret));
    let state = with_one().when(set(None)).then([changed(Some(one.clone()), None)]);
    assert_eq!(state.settings().unwrap().headers, None);
}

/// Addresses that the fingerprint tells from others.
pub(super) fn recipients(fingerprint: &str) -> SealedRecipients {
    let secret = SecretId::from_parts(6, fingerprint.len() as u128 + u128::from(fingerprint.as_bytes()[0]));
    SealedRecipients { secret, count: 1, fingerprint: fingerprint.into() }
}

#[test]
fn the_same_addresses_sealed_once_more_are_no_change_and_others_take_their_place() {
    // A12
    let set = |to: Option<SealedRecipients>| Command::Update(Update { recipients: Some(to), ..Update::default() });
    let changed = |from: Option<SealedRecipients>, to: Option<SealedRecipients>| {
        updated(SubscriptionUpdated { recipients: Some(Change { from, to }), ..SubscriptionUpdated::default() })
    };
    let (one, other) = (recipients("aa"), recipients("bb"));
    let again = SealedRecipients { secret: SecretId::from_parts(9, 9), ..one.clone() };
    let with_one = || given([created(), changed(None, Some(one.clone()))]);
    with_one().when(set(Some(again))).then([]);
    with_one().when(Command::Update(Update::default())).then([]);
    let state = with_one().when(set(Some(other.clone()))).then([changed(Some(one.clone()), Some(other.clone()))]);
    assert!(state.keeps_recipients(other.secret) && !state.keeps_recipients(one.secret));
    let state = with_one().when(set(None)).then([changed(Some(one.clone()), None)]);
    assert_eq!(state.settings().unwrap().recipients, None);
}

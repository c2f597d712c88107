//! Custom headers among the settings.

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

//! Whether somebody has proved themself lately enough (RFC 9470).

use super::{Config, Credential, Principal};
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;

/// What is to be said of an act that asks for a fresh proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be done.
    Satisfied,
    /// A person can prove themself again, in this way.
    Challenge(Challenge),
    /// A machine cannot.
    Forbidden,
}

/// How a person is to prove themself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Authentication context classes of which one is needed; empty: any.
    pub acr_values: Vec<String>,
    /// How old the proof may be, in seconds.
    pub max_age_s: u64,
    /// Where: `totp` here by the mutation `stepUp`, `oidc` at the identity provider.
    pub method: &'static str,
}

/// Judges a caller; `unattended_keys` is their tenant's setting.
pub fn judge(principal: &Principal, unattended_keys: bool, config: &Config, now: Timestamp) -> Verdict {
    let (acr_values, method) = match &principal.credential {
        Credential::ApiKey(_) => {
            let operator = config.operator_keys_step_up && principal.scopes.contains(&Scope::TenantsAdmin);
            return if operator || unattended_keys { Verdict::Satisfied } else { Verdict::Forbidden };
        }
        Credential::Session { .. } => (&[][..], "totp"),
        Credential::Token { acr_values, .. } => (acr_values.as_slice(), "oidc"),
    };
    let known = principal.acr.as_ref().is_some_and(|acr| acr_values.contains(acr));
    let fresh = valid_until(principal, config).is_some_and(|until| now < until);
    if fresh && (acr_values.is_empty() || known) {
        return Verdict::Satisfied;
    }
    Verdict::Challenge(Challenge { acr_values: acr_values.to_vec(), max_age_s: config.step_up_max_age_s, method })
}

/// Whether the caller may hand on the right to rotate secrets: only a person, or the operator's own key.
pub fn may_grant_rotation(principal: &Principal, config: &Config, now: Timestamp) -> Verdict {
    judge(principal, false, config, now)
}

/// Until when the last proof counts; `None` if nothing is known of any.
pub fn valid_until(principal: &Principal, config: &Config) -> Option<Timestamp> {
    Some(principal.authenticated_at?.plus_ms(config.step_up_max_age_s.saturating_mul(1_000)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{ApiKeyId, TenantId};

    fn principal(credential: Credential, scopes: &[Scope], proved_s: Option<i64>, acr: Option<&str>) -> Principal {
        Principal {
            credential,
            name: "x".into(),
            tenant: TenantId::from_parts(1, 1),
            scopes: scopes.to_vec(),
            authenticated_at: proved_s.map(|at| Timestamp::from_ms(at * 1_000)),
            acr: acr.map(str::to_owned),
            expires_at: None,
        }
    }

    #[test]
    fn a_key_acts_alone_only_where_the_tenant_or_the_operator_says_so() {
        let now = Timestamp::from_ms(0);
        let key = |scopes: &[Scope]| principal(Credential::ApiKey(ApiKeyId::from_parts(1, 1)), scopes, None, None);
        let (plain, operator) = (key(&[Scope::SecretsRotate]), key(&[Scope::TenantsAdmin]));
        let trusting = Config::default();
        let strict = Config { operator_keys_step_up: false, ..Config::default() };
        assert_eq!(judge(&plain, false, &trusting, now), Verdict::Forbidden);
        assert_eq!(judge(&plain, true, &trusting, now), Verdict::Satisfied);
        assert_eq!(may_grant_rotation(&plain, &trusting, now), Verdict::Forbidden);
        assert_eq!(judge(&operator, false, &trusting, now), Verdict::Satisfied);
        assert_eq!(judge(&operator, false, &strict, now), Verdict::Forbidden);
    }

    #[test]
    fn a_token_needs_a_fresh_proof_of_the_right_kind() {
        let token = Credential::Token { subject: "i#s".into(), acr_values: vec!["mfa".into()] };
        let now = Timestamp::from_ms(1_000_000);
        for (proved_s, acr, satisfied) in [
            (Some(701), Some("mfa"), true),
            (Some(700), Some("mfa"), false),
            (Some(990), Some("pwd"), false),
            (Some(990), None, false),
            (None, Some("mfa"), false),
        ] {
            let verdict = judge(&principal(token.clone(), &[], proved_s, acr), true, &Config::default(), now);
            assert_eq!(verdict == Verdict::Satisfied, satisfied, "{proved_s:?} {acr:?}");
            if let Verdict::Challenge(challenge) = verdict {
                let expected = Challenge { acr_values: vec!["mfa".into()], max_age_s: 300, method: "oidc" };
                assert_eq!(challenge, expected);
            }
        }
    }
}

//! Access tokens of identity providers: a real issuer on loopback, over TLS, with real keys.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use tidings::authentication::{Algorithm, Issuer};

use super::*;
use crate::support::receiver::{Receiver, Script};

const ISSUER: &str = "https://id.example/realm";
pub(super) const NOW_S: i64 = 1_763_894_415;

/// The issuer's keys.
pub(super) struct Signers {
    rsa: RsaKeyPair,
    point: EcdsaKeyPair,
    edwards: Ed25519KeyPair,
}

impl Signers {
    pub(super) fn new() -> Self {
        let random = SystemRandom::new();
        let pem: String = include_str!("issuer.rsa.pem").lines().filter(|line| !line.starts_with('-')).collect();
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let point = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let edwards = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            rsa: RsaKeyPair::from_pkcs8(&STANDARD.decode(pem).unwrap()).unwrap(),
            point: EcdsaKeyPair::from_pkcs8(algorithm, point.as_ref(), &random).unwrap(),
            edwards: Ed25519KeyPair::from_pkcs8(edwards.as_ref()).unwrap(),
        }
    }

    fn sign(&self, algorithm: &str, text: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match algorithm {
            "RS256" => {
                let mut signed = vec![0; self.rsa.public().modulus_len()];
                self.rsa.sign(&signature::RSA_PKCS1_SHA256, &random, text, &mut signed).unwrap();
                signed
            }
            "ES256" => self.point.sign(&random, text).unwrap().as_ref().to_vec(),
            "EdDSA" => self.edwards.sign(text).as_ref().to_vec(),
            other => panic!("no key for {other}"),
        }
    }

    fn modulus(&self) -> Vec<u8> {
        ring::rsa::PublicKeyComponents::<Vec<u8>>::from(self.rsa.public()).n
    }

    pub(super) fn key_set(&self) -> Value {
        let rsa = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(self.rsa.public());
        let point = &self.point.public_key().as_ref()[1..];
        json!({ "keys": [
            { "kty": "RSA", "kid": "RS256", "use": "sig", "n": encoded(&rsa.n), "e": encoded(&rsa.e) },
            { "kty": "EC", "kid": "ES256", "crv": "P-256", "x": encoded(&point[..32]), "y": encoded(&point[32..]) },
            { "kty": "OKP", "kid": "EdDSA", "crv": "Ed25519", "x": encoded(self.edwards.public_key().as_ref()) },
            { "kty": "future", "kid": "unheard of" },
        ] })
    }

    pub(super) fn token(&self, header: &Value, claims: &Value) -> String {
        let text = format!("{}.{}", encoded(header.to_string().as_bytes()), encoded(claims.to_string().as_bytes()));
        let signed = self.sign(header["alg"].as_str().unwrap(), text.as_bytes());
        format!("{text}.{}", encoded(&signed))
    }
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn header(algorithm: &str) -> Value {
    json!({ "alg": algorithm, "kid": algorithm, "typ": "at+jwt" })
}

/// The JSON with one field changed; null takes it away.
pub(super) fn but(mut whole: Value, field: &str, value: Value) -> Value {
    if value.is_null() {
        whole.as_object_mut().unwrap().remove(field);
    } else {
        whole[field] = value;
    }
    whole
}

pub(super) struct Provider {
    pub(super) api: Api,
    pub(super) receiver: Receiver,
    pub(super) signers: Signers,
    /// What its tokens have as `iss`.
    pub(super) issuer: String,
}

impl Provider {
    pub(super) async fn start() -> Self {
        let (receiver, signers) = (Receiver::start().await, Signers::new());
        receiver.on("/keys", Script::answer(200, signers.key_set().to_string()));
        let issuer = json!({
            "issuer": ISSUER, "audience": "tidings", "jwks_url": receiver.url("/keys"), "acr_values": ["mfa"],
            "roles": { "owner": ["WEBHOOKS_READ", "SECRETS_ROTATE"] },
        });
        let clock = Arc::new(SeededClock::new(Timestamp::from_ms(NOW_S * 1_000), 1));
        Self::of(receiver, signers, issuer, clock).await
    }

    /// One that is configured so.
    pub(super) async fn of(receiver: Receiver, signers: Signers, issuer: Value, clock: Arc<dyn Clock>) -> Self {
        let issuer: Issuer = serde_json::from_value(issuer).unwrap();
        assert_eq!(issuer.algorithms, [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]);
        let name = issuer.issuer.clone();
        let auth = authentication::Config { oidc: vec![issuer], ..authentication::Config::default() };
        auth.check().unwrap();
        let egress = outbound::Config {
            allow_cidrs: vec!["127.0.0.0/8".parse().unwrap()],
            extra_ca: vec![receiver.ca_file()],
            ..outbound::Config::default()
        };
        drop(rustls::crypto::ring::default_provider().install_default());
        let fetch = Arc::new(HttpClient::new(&egress).unwrap());
        let api = Api::with(Arc::new(MemoryStore::new(1)), clock, auth, fetch, http::LiveConfig::default()).await;
        Self { api, receiver, signers, issuer: name }
    }

    pub(super) fn claims(&self) -> Value {
        json!({ "iss": self.issuer, "aud": ["other", "tidings"], "sub": "ada", "exp": NOW_S + 3_600, "nbf": NOW_S - 10,
            "iat": NOW_S - 10, "tenant": self.api.tenant, "scope": "WEBHOOKS_READ openid owner" })
    }

    pub(super) async fn status(&self, token: &str) -> u16 {
        self.api
            .post(token, json!({ "query": "{ viewer { name } }" }).to_string())
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_each_kind_of_key_is_taken_and_its_keys_are_fetched_once() {
    let provider = Provider::start().await;
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let token = provider.signers.token(&header(algorithm), &provider.claims());
        let query = "{ viewer { name scopes apiKeyId actor { kind id } expiresAt } }";
        let answer = provider.api.answer(&token, query, &json!({})).await;
        let expected = json!({ "name": "ada", "scopes": ["WEBHOOKS_READ", "SECRETS_ROTATE"], "apiKeyId": null,
            "actor": { "kind": "USER", "id": format!("{ISSUER}#ada") }, "expiresAt": "2025-11-23T11:40:45.000Z" });
        assert_eq!(answer["data"]["viewer"], expected, "{algorithm}: {answer}");
    }
    assert_eq!(provider.receiver.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_wrong_in_anything_is_refused() {
    let provider = Provider::start().await;
    let signers = &provider.signers;
    let claims = || provider.claims();
    assert_eq!(provider.status(&signers.token(&header("RS256"), &claims())).await, 200);
    for (field, value) in [
        ("iss", json!("https://id.example/realm/")),
        ("iss", Value::Null),
        ("aud", json!("other")),
        ("aud", Value::Null),
        ("exp", json!(NOW_S - 31)),
        ("exp", json!("never")),
        ("exp", Value::Null),
        ("nbf", json!(NOW_S + 600)),
        ("iat", json!(NOW_S + 600)),
        ("auth_time", json!(NOW_S + 600)),
        ("sub", json!("")),
        ("tenant", json!("ten_01KAR4SKMR8JE11RP4D1JYK1T6")),
        ("tenant", json!("acme")),
        ("tenant", Value::Null),
    ] {
        let token = signers.token(&header("RS256"), &but(claims(), field, value.clone()));
        assert_eq!(provider.status(&token).await, 401, "{field}: {value}");
    }
    for (field, value) in
        [("typ", json!("JWT")), ("typ", Value::Null), ("kid", json!("ES256")), ("crit", json!(["b64"]))]
    {
        let token = signers.token(&but(header("RS256"), field, value.clone()), &claims());
        assert_eq!(provider.status(&token).await, 401, "{field}: {value}");
    }
    let token = signers.token(&header("ES256"), &claims());
    let (signed, _) = token.rsplit_once('.').unwrap();
    for damaged in [format!("{signed}."), format!("{signed}.{}", encoded(&[7; 64])), token.replace("eyJ", "eyK")] {
        assert_eq!(provider.status(&damaged).await, 401, "{damaged}");
    }
    assert_eq!(provider.receiver.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_algorithm_is_the_keys_not_the_tokens() {
    let provider = Provider::start().await;
    let payload = encoded(provider.claims().to_string().as_bytes());
    // The public key is no secret: whoever has it could sign by it, were it taken for one.
    let set = provider.signers.key_set();
    let public = [set["keys"][0]["n"].as_str().unwrap().as_bytes().to_vec(), provider.signers.modulus()];
    for algorithm in ["HS256", "hs256", "none", "None", ""] {
        for kid in ["RS256", "ES256"] {
            let header = json!({ "alg": algorithm, "kid": kid, "typ": "at+jwt" });
            let text = format!("{}.{payload}", encoded(header.to_string().as_bytes()));
            for key in &public {
                let tag = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key), text.as_bytes());
                assert_eq!(provider.status(&format!("{text}.{}", encoded(tag.as_ref()))).await, 401, "{algorithm}");
            }
            assert_eq!(provider.status(&format!("{text}.")).await, 401, "{algorithm}");
        }
    }
    // One key's algorithm under another's name.
    for (algorithm, kid) in [("EdDSA", "ES256"), ("ES256", "RS256"), ("RS256", "EdDSA")] {
        let header = json!({ "alg": algorithm, "kid": kid, "typ": "at+jwt" });
        let token = provider.signers.token(&header, &provider.claims());
        assert_eq!(provider.status(&token).await, 401, "{algorithm} {kid}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_unknown_keys_is_one_question_to_the_issuer() {
    let provider = Provider::start().await;
    let unknown = |number: usize| {
        let header = json!({ "alg": "EdDSA", "kid": format!("unknown-{number}"), "typ": "at+jwt" });
        provider.signers.token(&header, &provider.claims())
    };
    let tokens: Vec<_> = (0..50).map(unknown).collect();
    let answers = futures_util::future::join_all(tokens.iter().map(|token| provider.status(token))).await;
    assert!(answers.iter().all(|status| *status == 401), "{answers:?}");
    assert_eq!(provider.receiver.requests().len(), 1);
    assert_eq!(provider.status(&provider.signers.token(&header("EdDSA"), &provider.claims())).await, 200);
    assert_eq!(provider.receiver.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_sees_its_own_tenant_alone() {
    let provider = Provider::start().await;
    let api = &provider.api;
    let create = "mutation($url: String!) { createWebhook(input: { url: $url }) { webhook { id } } }";
    let id = api.data(create, json!({ "url": URL })).await["createWebhook"]["webhook"]["id"].clone();
    let other = api.clock.tenant_id();
    api.tenant(other, "other").await;
    let query = "query($id: ID!) { webhook(id: $id) { id } node(id: $id) { id } }";
    let own = provider.signers.token(&header("ES256"), &provider.claims());
    assert_eq!(api.answer(&own, query, &json!({ "id": id })).await["data"]["webhook"]["id"], id);
    let foreign = provider.signers.token(&header("ES256"), &but(provider.claims(), "tenant", json!(other)));
    let seen = api.answer(&foreign, query, &json!({ "id": id })).await;
    assert_eq!(seen, json!({ "data": { "webhook": null, "node": null } }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_rotates_after_a_fresh_proof_of_the_right_kind() {
    // S18, C11
    let provider = Provider::start().await;
    let query = "mutation { rotateWebhookSecret(input: { webhookId: \"wh_1\" }) { userErrors { code } } }";
    let fresh = but(but(provider.claims(), "auth_time", json!(NOW_S - 10)), "acr", json!("mfa"));
    let token = provider.signers.token(&header("EdDSA"), &fresh);
    let answer = provider.api.answer(&token, query, &json!({})).await;
    assert_eq!(answer["data"]["rotateWebhookSecret"]["userErrors"], json!([{ "code": "NOT_FOUND" }]), "{answer}");
    for (field, value) in [("auth_time", json!(NOW_S - 301)), ("auth_time", Value::Null), ("acr", json!("pwd"))] {
        let token = provider.signers.token(&header("EdDSA"), &but(fresh.clone(), field, value));
        let request = provider.api.post(&token, json!({ "query": query }).to_string());
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{field}");
        let challenge = "Bearer error=\"insufficient_user_authentication\", max_age=\"300\", acr_values=\"mfa\"";
        assert_eq!(answer.headers()["www-authenticate"], challenge);
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let expected = json!({ "code": "STEP_UP_REQUIRED", "error": "insufficient_user_authentication",
            "acrValues": ["mfa"], "maxAge": 300, "methods": ["oidc"] });
        assert_eq!(answer["errors"][0]["extensions"], expected, "{field}");
        assert_eq!(answer["data"], json!({ "rotateWebhookSecret": null }));
    }
}

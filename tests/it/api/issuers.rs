//! How the keys of identity providers are found and fetched, whoever asks, goes away or answers wrongly.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::sessions::Steered;
use super::tokens::{NOW_S, Provider, Signers, but, header};
use super::*;
use crate::support::receiver::{Receiver, Script};

const WELL_KNOWN: &str = "/realm/.well-known/openid-configuration";

/// An issuer that says of itself what `metadata` makes of its address, and how often it was asked for what.
async fn discovered(metadata: impl Fn(&Receiver) -> Value, clock: Arc<Steered>) -> Provider {
    let (receiver, signers) = (Receiver::start().await, Signers::new());
    receiver.on("/keys", Script::answer(200, signers.key_set().to_string()));
    receiver.on(WELL_KNOWN, Script::answer(200, metadata(&receiver).to_string()));
    let issuer = json!({ "issuer": receiver.url("/realm"), "audience": "tidings" });
    Provider::of(receiver, signers, issuer, clock).await
}

fn metadata(receiver: &Receiver) -> Value {
    json!({ "issuer": receiver.url("/realm"), "jwks_uri": receiver.url("/keys"), "token_endpoint": "https://x/" })
}

impl Provider {
    fn good(&self) -> String {
        self.good_at(0)
    }

    /// A token that was made so many seconds after the beginning.
    fn good_at(&self, seconds: i64) -> String {
        let claims = but(self.claims(), "exp", json!(NOW_S + seconds + 600));
        self.signers.token(&header("EdDSA"), &claims)
    }

    fn asked_for(&self) -> Vec<String> {
        self.receiver.requests().into_iter().map(|request| request.target).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_says_itself_where_its_keys_are() {
    let clock = Steered::new();
    let provider = discovered(metadata, Arc::clone(&clock)).await;
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let token = provider.signers.token(&header(algorithm), &provider.claims());
        assert_eq!(provider.status(&token).await, 200, "{algorithm}");
    }
    assert_eq!(provider.asked_for(), [WELL_KNOWN, "/keys"]);
    // Its keys move, and the old place has none any more.
    provider.receiver.on("/keys", Script::status(404));
    provider.receiver.on("/moved", Script::answer(200, provider.signers.key_set().to_string()));
    let moved = json!({ "issuer": provider.issuer, "jwks_uri": provider.receiver.url("/moved") });
    provider.receiver.on(WELL_KNOWN, Script::answer(200, moved.to_string()));
    clock.pass(61);
    assert_eq!(provider.status(&provider.good_at(61 * 60)).await, 200);
    assert_eq!(provider.asked_for()[2..], [WELL_KNOWN, "/moved"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_not_the_issuers_own_is_not_believed() {
    let foreign = |receiver: &Receiver| json!({ "issuer": receiver.url("/other"), "jwks_uri": receiver.url("/keys") });
    let slash = |receiver: &Receiver| json!({ "issuer": receiver.url("/realm/"), "jwks_uri": receiver.url("/keys") });
    let nobody = |receiver: &Receiver| json!({ "jwks_uri": receiver.url("/keys") });
    let plain = |receiver: &Receiver| json!({ "issuer": receiver.url("/realm"), "jwks_uri": receiver.url("/keys").replace("https", "http") });
    // The gate of the outbound client holds for what a document names, too.
    let inside = |receiver: &Receiver| json!({ "issuer": receiver.url("/realm"), "jwks_uri": "https://10.0.0.1/keys" });
    for wrong in [&foreign as &dyn Fn(&Receiver) -> Value, &slash, &nobody, &plain, &inside] {
        let provider = discovered(wrong, Steered::new()).await;
        assert_eq!(provider.status(&provider.good()).await, 401);
        assert_eq!(provider.asked_for(), [WELL_KNOWN]);
    }
}

/// Answers a question when the test lets it.
struct Held {
    begun: Semaphore,
    let_go: Semaphore,
    answers: Mutex<VecDeque<Result<Bytes, String>>>,
}

impl Held {
    /// Fetches that began since it was asked last.
    async fn begins(&self) {
        self.begun.acquire().await.unwrap().forget();
    }
}

#[async_trait]
impl Fetch for Held {
    async fn get(&self, _: &str, _: usize) -> Result<Bytes, String> {
        self.begun.add_permits(1);
        self.let_go.acquire().await.unwrap().forget();
        self.answers.lock().unwrap().pop_front().expect("no more questions than answers")
    }
}

/// An API with an issuer whose answers these are, one for each question.
async fn held(answers: Vec<Result<Bytes, String>>) -> (Api, Arc<Held>, Arc<Steered>) {
    let (fetch, clock) = (
        Arc::new(Held { begun: Semaphore::new(0), let_go: Semaphore::new(0), answers: Mutex::new(answers.into()) }),
        Steered::new(),
    );
    let issuer =
        json!({ "issuer": "https://id.example", "audience": "tidings", "jwks_url": "https://id.example/keys" });
    let auth = authentication::Config {
        oidc: vec![serde_json::from_value(issuer).unwrap()],
        ..authentication::Config::default()
    };
    drop(rustls::crypto::ring::default_provider().install_default());
    let live = http::LiveConfig::default();
    let api =
        Api::with(Arc::new(MemoryStore::new(1)), Arc::clone(&clock) as _, auth, Arc::clone(&fetch) as _, live).await;
    (api, fetch, clock)
}

fn token(api: &Api, signers: &Signers) -> String {
    let now_s = api.clock.now().as_seconds();
    let claims = json!({ "iss": "https://id.example", "aud": "tidings", "sub": "ada", "exp": now_s + 3_600,
        "tenant": api.tenant, "scope": "WEBHOOKS_READ" });
    signers.token(&header("EdDSA"), &claims)
}

/// Asks whose token it is, until somebody calls that off.
fn ask(api: &Api, token: &str) -> tokio::task::JoinHandle<bool> {
    let (keys, token) = (Arc::clone(&api.keys), token.to_owned());
    tokio::spawn(async move { keys.authenticate(&token).await.is_ok() })
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_takes_no_keys_from_those_who_stay_or_come_later() {
    let signers = Signers::new();
    let (api, fetch, _) = held(vec![Ok(signers.key_set().to_string().into())]).await;
    let token = token(&api, &signers);
    let first = ask(&api, &token);
    fetch.begins().await;
    let second = ask(&api, &token);
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    fetch.let_go.add_permits(1);
    assert!(second.await.unwrap());
    assert!(ask(&api, &token).await.unwrap());
    assert_eq!(fetch.begun.available_permits(), 0, "one question was enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_any_more_is_there_for_the_next() {
    let signers = Signers::new();
    let (api, fetch, clock) =
        held(vec![Err("the issuer is down".into()), Ok(signers.key_set().to_string().into())]).await;
    let token = token(&api, &signers);
    // All have gone when the issuer says that it is down: who comes soon is refused at once, and nobody waits for a lock.
    let gone = [ask(&api, &token), ask(&api, &token), ask(&api, &token)];
    fetch.begins().await;
    for task in gone {
        task.abort();
        assert!(task.await.is_err());
    }
    fetch.let_go.add_permits(1);
    assert!(!ask(&api, &token).await.unwrap());
    // Half a minute later it is asked again, by one who goes away as well.
    clock.pass(1);
    let gone = ask(&api, &token);
    fetch.begins().await;
    gone.abort();
    assert!(gone.await.is_err());
    fetch.let_go.add_permits(1);
    let over_http = async || {
        let body = json!({ "query": "{ viewer { name } }" }).to_string();
        api.post(&token, body).send().await.unwrap().status().as_u16()
    };
    assert_eq!(over_http().await, 200);
    assert_eq!(fetch.begun.available_permits(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_never_answers_is_given_up_and_asked_again() {
    let clock = Steered::new();
    let provider = discovered(metadata, Arc::clone(&clock)).await;
    provider
        .receiver
        .on_each(WELL_KNOWN, [Script::hang(), Script::answer(200, metadata(&provider.receiver).to_string())]);
    let token = provider.good();
    assert_eq!(provider.status(&token).await, 401);
    assert_eq!(provider.status(&token).await, 401);
    assert_eq!(provider.asked_for(), [WELL_KNOWN]);
    clock.pass(1);
    assert_eq!(provider.status(&token).await, 200);
    assert_eq!(provider.asked_for(), [WELL_KNOWN, WELL_KNOWN, "/keys"]);
}

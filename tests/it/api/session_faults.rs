//! Sessions, users and one-time codes where something fails, or another process takes over.

use tidings::authentication::SessionToken;

use super::sessions::{CREATE_USER, OTHER_PASSWORD, RESET_USER, STEP_UP, Steered, VIEWER, codes_of, refusal};
use super::*;
use crate::support::failing_keys::FailingKeys;

/// Over a key store that fails when it is told to.
async fn failing() -> (Api, Arc<FailingKeys>, Arc<Steered>) {
    drop(rustls::crypto::ring::default_provider().install_default());
    let (clock, keys) = (Steered::new(), Arc::new(FailingKeys::default()));
    let settings = Settings { key_store: Some(Arc::clone(&keys) as _), ..Settings::default() };
    let api = Api::build(Arc::new(MemoryStore::new(1)), Arc::clone(&clock) as _, settings).await;
    (api, keys, clock)
}

/// What a process that takes over from `api` knows sessions and codes by.
async fn successor(api: &Api, keys: &Arc<FailingKeys>) -> KeyRing {
    let vault = Vault::open(Arc::clone(keys) as _, operator_keys(), &*api.clock).await.unwrap();
    let ring = KeyRing::new(authentication::Ports {
        config: authentication::Config::default(),
        read_models: api.read_models.clone(),
        engine: api.engine.clone(),
        vault: Arc::new(vault),
        fetch: Arc::new(HttpClient::new(&outbound::Config::default()).unwrap()),
        clock: Arc::clone(&api.clock),
    });
    ring.recall_sessions().await.unwrap();
    ring
}

fn token(cookie: &str) -> SessionToken {
    SessionToken::presented(cookie.split_once('=').unwrap().1)
}

impl Api {
    fn logout(&self, cookie: &str) -> reqwest::RequestBuilder {
        self.client.delete(self.url("/session")).header("cookie", cookie).header("origin", self.origin())
    }

    async fn status_of(&self, cookie: &str) -> u16 {
        self.with_cookie(cookie, VIEWER, &json!({})).send().await.unwrap().status().as_u16()
    }
}

fn attempt(password: &str, totp: String) -> authentication::Attempt {
    authentication::Attempt {
        username: "ada".into(),
        password: Secret::stored(password.to_owned()),
        totp,
        request: tidings::domain::id::RequestId::from_parts(1, 1),
        ip: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_during_a_takeover_holds_at_both_nodes_and_after_them() {
    let (api, keys, clock) = failing().await;
    let codes = api.user(api.tenant, "ada", &[Scope::WebhooksRead]).await;
    let begun_before = api.cookie("ada", &api.code(&codes)).await;
    let next = successor(&api, &keys).await;
    let principal = next.session(&token(&begun_before)).await.unwrap();

    assert_eq!(api.logout(&begun_before).send().await.unwrap().status(), 204);
    assert!(next.session(&token(&begun_before)).await.is_err(), "the new node has it still");
    next.ended(&principal).await;

    // Begun at the old node when the new one had read what is kept, and ended at the new one.
    clock.pass(1);
    let begun_behind = api.cookie("ada", &api.code(&codes)).await;
    next.logout(&token(&begun_behind)).await.unwrap();
    assert_eq!(api.status_of(&begun_behind).await, 401);
    let last = successor(&api, &keys).await;
    for cookie in [&begun_before, &begun_behind] {
        assert!(last.session(&token(cookie)).await.is_err(), "it came back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_that_failed_says_so_and_can_be_tried_again() {
    let (api, keys, _) = failing().await;
    let codes = api.user(api.tenant, "ada", &[Scope::WebhooksRead]).await;
    let cookie = api.cookie("ada", &api.code(&codes)).await;
    keys.destroys.fail();
    let answer = api.logout(&cookie).send().await.unwrap();
    assert_eq!(refusal(answer).await, (503, json!("STORAGE_UNAVAILABLE"), Some(5)));
    // Neither here nor behind a restart it is ended.
    assert_eq!(api.status_of(&cookie).await, 200);
    assert!(successor(&api, &keys).await.session(&token(&cookie)).await.is_ok());
    keys.destroys.work();
    assert_eq!(api.logout(&cookie).send().await.unwrap().status(), 204);
    assert_eq!(api.status_of(&cookie).await, 401);
    assert!(successor(&api, &keys).await.session(&token(&cookie)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_store_that_is_away_is_told_and_nobody_is_let_in_meanwhile() {
    let (api, keys, clock) = failing().await;
    let codes = api.user(api.tenant, "ada", &[Scope::WebhooksRead]).await;
    let cookie = api.cookie("ada", &api.code(&codes)).await;
    clock.pass(1);
    keys.reads.fail();
    // Somebody may have logged out elsewhere, and the code may have been used.
    assert_eq!(api.status_of(&cookie).await, 503);
    let login = api.login("ada", PASSWORD, &api.code(&codes)).await;
    assert_eq!(refusal(login).await, (503, json!("STORAGE_UNAVAILABLE"), Some(5)));
    assert_eq!(api.data("{ viewer { name } }", json!({})).await["viewer"]["name"], "test", "keys of the API work");
    keys.reads.work();
    assert_eq!(api.status_of(&cookie).await, 200);
    api.cookie("ada", &api.code(&codes)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_while_credentials_are_replaced_is_refused_and_does_not_fail() {
    let (mut api, _, _) = failing().await;
    let codes = api.user(api.tenant, "ada", &[Scope::WebhooksRead]).await;
    let cookie = api.cookie("ada", &api.code(&codes)).await;
    let principal = api.keys.session(&token(&cookie)).await.unwrap();
    let user = api.read_models.user("ada").await.unwrap().unwrap();
    api.hold_read_models().await;
    let password = Secret::stored(OTHER_PASSWORD.to_owned());
    let enrolled = api.keys.reset_user(&user, password, Meta::system()).await.unwrap();
    let new = codes_of(&json!(enrolled.authenticator.expose()));
    for (password, codes) in [(PASSWORD, &codes), (OTHER_PASSWORD, &new)] {
        assert_eq!(api.login("ada", password, &api.code(codes)).await.status(), 401);
    }
    let request = tidings::domain::id::RequestId::from_parts(1, 1);
    let proof = api.keys.step_up(&principal, &api.code(&codes), request, None).await;
    assert_eq!(proof, Err(authentication::LoginRefused::Wrong));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_comes_to_nothing_leaves_what_there_was() {
    let (api, keys, clock) = failing().await;
    let codes = api.user(api.tenant, "ada", &[Scope::WebhooksRead]).await;
    let reset = json!({ "input": { "username": "ada", "password": OTHER_PASSWORD } });
    keys.adds.fail();
    let refused = api.answer(&api.key, RESET_USER, &reset).await;
    assert_eq!(refused["errors"][0]["extensions"]["code"], json!("STORAGE_UNAVAILABLE"), "{refused}");
    keys.adds.work();
    api.cookie("ada", &api.code(&codes)).await;
    // What cannot be destroyed behind it does not hinder the new ones.
    keys.destroys.fail();
    let made = api.data(RESET_USER, reset).await["resetUserCredentials"].take();
    clock.pass(1);
    let code = api.code(&codes_of(&made["authenticatorUri"]));
    assert_eq!(api.login("ada", PASSWORD, &code).await.status(), 401);
    assert_eq!(api.login("ada", OTHER_PASSWORD, &code).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_was_refused_midway_leaves_the_name_free() {
    let (api, keys, _) = failing().await;
    let other = api.clock.tenant_id();
    api.tenant(other, "other").await;
    let input = |tenant: TenantId, password: &str| {
        let scopes = ["WEBHOOKS_READ"];
        let tenant = tenant.to_string();
        json!({ "input": { "username": "ben", "password": password, "scopes": scopes, "tenantId": tenant } })
    };
    let refused = api.data(CREATE_USER, input(api.tenant, "too short")).await["createUser"].take();
    assert_eq!(refused["userErrors"][0]["code"], json!("INVALID_INPUT"), "{refused}");
    keys.adds.fail();
    let refused = api.answer(&api.key, CREATE_USER, &input(api.tenant, PASSWORD)).await;
    assert_eq!(refused["errors"][0]["extensions"]["code"], json!("STORAGE_UNAVAILABLE"), "{refused}");
    keys.adds.work();
    let made = api.data(CREATE_USER, input(other, PASSWORD)).await["createUser"].take();
    assert_eq!((&made["userErrors"], &made["user"]["name"]), (&json!([]), &json!("ben")));
    // And whoever is refused for a name that is taken leaves nothing sealed behind.
    let rows = async || keys.rows("password/", "", 100).await.unwrap().len();
    let before = rows().await;
    let taken = api.data(CREATE_USER, input(api.tenant, PASSWORD)).await["createUser"].take();
    assert_eq!(taken["userErrors"], json!([{ "code": "VERSION_CONFLICT", "path": ["input", "username"] }]));
    assert_eq!(rows().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_counts_once_across_restarts_and_at_all_nodes() {
    let (api, keys, clock) = failing().await;
    let codes = api.user(api.tenant, "ada", &[Scope::WebhooksRead]).await;
    let used = api.code(&codes);
    let cookie = api.cookie("ada", &used).await;
    let restarted = successor(&api, &keys).await;
    let again = restarted.login(attempt(PASSWORD, used.clone())).await;
    assert_eq!(again.err(), Some(authentication::LoginRefused::Wrong));
    clock.pass(1);
    let proof = api.code(&codes);
    restarted.login(attempt(PASSWORD, proof.clone())).await.unwrap();
    // Used at the one, it is used at the other, for a further proof as well.
    let refused = api.by_cookie(&cookie, STEP_UP, json!({ "totp": proof })).await;
    assert_eq!(refused["data"]["stepUp"]["userErrors"], json!([{ "code": "STEP_UP_REJECTED" }]));
    // Other codes begin anew.
    let reset = json!({ "input": { "username": "ada", "password": OTHER_PASSWORD } });
    let made = api.data(RESET_USER, reset).await["resetUserCredentials"].take();
    let code = api.code(&codes_of(&made["authenticatorUri"]));
    assert_eq!(api.login("ada", OTHER_PASSWORD, &code).await.status(), 200);
}

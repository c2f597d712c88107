//! People who log in with a password and one-time codes, and what asks for a fresh proof.

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;

/// Time stands still until a test moves it.
pub(super) struct Steered {
    now_ms: AtomicI64,
    random: SeededClock,
}

impl Clock for Steered {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.now_ms.load(Ordering::Relaxed))
    }

    fn fill(&self, buffer: &mut [u8]) {
        self.random.fill(buffer);
    }
}

impl Steered {
    pub(super) fn new() -> Arc<Self> {
        let start = Timestamp::from_ms(1_763_894_415_000);
        Arc::new(Self { now_ms: AtomicI64::new(start.as_ms()), random: SeededClock::new(start, 1) })
    }

    pub(super) fn pass(&self, minutes: i64) {
        self.now_ms.fetch_add(minutes * 60_000, Ordering::Relaxed);
    }
}

async fn steered() -> (Api, Arc<Steered>) {
    let clock = Steered::new();
    drop(rustls::crypto::ring::default_provider().install_default());
    let nowhere = Arc::new(HttpClient::new(&outbound::Config::default()).unwrap());
    let config = authentication::Config::default();
    (
        Api::with(Arc::new(MemoryStore::new(1)), Arc::clone(&clock) as _, config, nowhere, http::LiveConfig::default())
            .await,
        clock,
    )
}

impl Api {
    pub(super) fn code(&self, codes: &Secret) -> String {
        totp::code_at(codes, self.clock.now().as_seconds() as u64).unwrap()
    }

    pub(super) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) async fn login(&self, username: &str, password: &str, totp: &str) -> reqwest::Response {
        let body = json!({ "username": username, "password": password, "totp": totp }).to_string();
        let request = self.client.post(self.url("/session")).header("content-type", "application/json");
        request.body(body).send().await.unwrap()
    }

    /// The cookie of a login that must succeed.
    pub(super) async fn cookie(&self, username: &str, totp: &str) -> String {
        let answer = self.login(username, PASSWORD, totp).await;
        assert_eq!(answer.status(), 200);
        let cookie = answer.headers()["set-cookie"].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }

    /// A POST of a page of our own.
    pub(super) fn with_cookie(&self, cookie: &str, query: &str, variables: &Value) -> reqwest::RequestBuilder {
        let body = json!({ "query": query, "variables": variables }).to_string();
        self.anonymous(body).header("cookie", cookie).header("origin", self.origin())
    }

    pub(super) async fn by_cookie(&self, cookie: &str, query: &str, variables: Value) -> Value {
        let answer = self.with_cookie(cookie, query, &variables).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }
}

pub(super) const VIEWER: &str =
    "{ viewer { name apiKeyId scopes actor { kind } authenticatedAt stepUpValidUntil expiresAt tenant { slug } } }";
const ROTATE: &str =
    "mutation($id: ID!) { rotateWebhookSecret(input: { webhookId: $id }) { secret userErrors { code } } }";
pub(super) const STEP_UP: &str =
    "mutation($totp: String!) { stepUp(input: { totp: $totp }) { validUntil userErrors { code } } }";

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_and_out() {
    let (api, _) = steered().await;
    let codes = api.user(api.tenant, "ada", &[Scope::WebhooksRead]).await;
    let answer = api.login("ada", PASSWORD, &api.code(&codes)).await;
    assert_eq!(answer.status(), 200);
    let set = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(set.starts_with("__Host-tidings="), "{set}");
    for flag in ["Path=/", "Secure", "HttpOnly", "SameSite=Lax", "Max-Age=43200"] {
        assert!(set.split("; ").any(|part| part == flag), "{flag}: {set}");
    }
    let cookie = set.split(';').next().unwrap();
    let viewer = &api.by_cookie(cookie, VIEWER, json!({})).await["data"]["viewer"];
    let expected = json!({ "name": "ada", "apiKeyId": null, "scopes": ["WEBHOOKS_READ"], "actor": { "kind": "USER" },
        "authenticatedAt": "2025-11-23T10:40:15.000Z", "stepUpValidUntil": "2025-11-23T10:45:15.000Z",
        "expiresAt": "2025-11-23T22:40:15.000Z", "tenant": { "slug": "acme" } });
    assert_eq!(*viewer, expected);
    let logout = api.client.delete(api.url("/session")).header("cookie", cookie).header("origin", api.origin());
    let ended = logout.send().await.unwrap();
    assert_eq!(ended.status(), 204);
    assert!(ended.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(api.with_cookie(cookie, VIEWER, &json!({})).send().await.unwrap().status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_page_cannot_use_a_session() {
    let (api, _) = steered().await;
    let codes = api.user(api.tenant, "ada", &[Scope::WebhooksRead]).await;
    let cookie = api.cookie("ada", &api.code(&codes)).await;
    let body = json!({ "query": VIEWER }).to_string();
    for origin in [None, Some("https://evil.example"), Some("null")] {
        let mut post = api.anonymous(body.clone()).header("cookie", &cookie);
        let mut delete = api.client.delete(api.url("/session")).header("cookie", &cookie);
        if let Some(origin) = origin {
            (post, delete) = (post.header("origin", origin), delete.header("origin", origin));
        }
        for request in [post, delete] {
            assert_eq!(request.send().await.unwrap().status(), 403, "{origin:?}");
        }
    }
    // A query by GET changes nothing, and a foreign page cannot read its answer.
    let query = api.client.get(api.url("/graphql?query=%7Bviewer%7Bname%7D%7D")).header("cookie", &cookie);
    assert_eq!(query.send().await.unwrap().status(), 200);
    let upgrade = api.client.get(api.url("/graphql?query=%7Bviewer%7Bname%7D%7D")).header("cookie", &cookie);
    let upgrade = upgrade.header("upgrade", "websocket").header("sec-websocket-protocol", "graphql-transport-ws");
    assert_eq!(upgrade.send().await.unwrap().status(), 403);
    let form = api.client.post(api.url("/session")).header("origin", "https://evil.example");
    assert_eq!(form.header("content-type", "application/json").body("{}").send().await.unwrap().status(), 403);
    let form = api.client.post(api.url("/session")).header("content-type", "text/plain");
    assert_eq!(form.body("{}").send().await.unwrap().status(), 415);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_the_answer_is_the_same() {
    let (api, clock) = steered().await;
    let codes = api.user(api.tenant, "ada", &[Scope::WebhooksRead]).await;
    let gone = api.user(api.tenant, "bob", &[Scope::WebhooksRead]).await;
    let disable = "mutation { disableUser(input: { username: \"bob\" }) { disabledUserId userErrors { code } } }";
    assert!(api.data(disable, json!({})).await["disableUser"]["disabledUserId"].is_string());
    let used = api.code(&codes);
    api.cookie("ada", &used).await;
    clock.pass(1);
    let code = api.code(&codes);
    let mut answers = vec![];
    for (name, password, code) in [
        ("ada", "wrong horse battery staple", code.as_str()),
        ("ada", PASSWORD, "000000"),
        ("ada", PASSWORD, used.as_str()),
        ("eve", PASSWORD, code.as_str()),
        ("Ada", PASSWORD, code.as_str()),
        ("bob", PASSWORD, api.code(&gone).as_str()),
    ] {
        let answer = api.login(name, password, code).await;
        assert_eq!(answer.status(), 401, "{name}");
        assert!(!answer.headers().contains_key("set-cookie"));
        answers.push(answer.text().await.unwrap());
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let query = "{ auditLog(filter: { codes: [TENANT_LOGIN_FAILED] }) { nodes { targetId ipAddress requestId } } }";
    let failures = loop {
        let failures = api.data(query, json!({})).await["auditLog"]["nodes"].take();
        if failures.as_array().unwrap().len() == 4 {
            break failures;
        }
        tokio::task::yield_now().await;
    };
    assert!(failures[0]["requestId"].is_string() && failures[0]["ipAddress"] == "127.0.0.1", "{failures}");
}

/// Somebody at another address of this machine.
fn from_elsewhere(last: u8) -> reqwest::Client {
    let address = std::net::Ipv4Addr::new(127, 0, 0, last);
    reqwest::Client::builder().no_proxy().local_address(Some(address.into())).build().unwrap()
}

/// Status, code and `Retry-After` of a login that is refused.
pub(super) async fn refusal(answer: reqwest::Response) -> (u16, Value, Option<u64>) {
    assert!(!answer.headers().contains_key("set-cookie"));
    let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
    let status = answer.status().as_u16();
    let mut body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    (status, body["error"]["code"].take(), retry_after)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_waits_longer_each_time_and_the_user_gets_in_from_elsewhere() {
    let (api, clock) = steered().await;
    let codes = api.user(api.tenant, "ada", &[Scope::WebhooksRead]).await;
    let right = || api.code(&codes);
    // A name that nobody has is answered the same.
    for name in ["ada", "eve"] {
        for _ in 0..5 {
            assert_eq!(api.login(name, "wrong horse battery staple", "000000").await.status(), 401);
        }
    }
    let throttled = |seconds: u64| (429, json!("RATE_LIMITED"), Some(seconds));
    assert_eq!(refusal(api.login("eve", PASSWORD, &right()).await).await, throttled(30));
    assert_eq!(refusal(api.login("ada", PASSWORD, &right()).await).await, throttled(30));
    let owner = Api { client: from_elsewhere(2), ..api };
    let api = &owner;
    api.cookie("ada", &api.code(&codes)).await;
    // Whoever guesses is none the better for that.
    let guesser = from_elsewhere(1);
    let guess = async |password: &str, code: &str| {
        let body = json!({ "username": "ada", "password": password, "totp": code }).to_string();
        let request = guesser.post(api.url("/session")).header("content-type", "application/json");
        refusal(request.body(body).send().await.unwrap()).await
    };
    assert_eq!(guess(PASSWORD, "000000").await, throttled(30));
    clock.pass(1);
    assert_eq!(guess("wrong horse battery staple", "000000").await, (401, json!("UNAUTHENTICATED"), None));
    assert_eq!(guess(PASSWORD, &api.code(&codes)).await, throttled(60));
    clock.pass(15);
    api.cookie("ada", &api.code(&codes)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_behind_the_right_password_are_counted_wherever_they_come_from() {
    let (mut api, clock) = steered().await;
    let codes = api.user(api.tenant, "ada", &[Scope::WebhooksRead]).await;
    let mut answers = vec![];
    for last in 11..16 {
        api.client = from_elsewhere(last);
        answers.push(refusal(api.login("ada", PASSWORD, "000000").await).await);
    }
    api.client = from_elsewhere(16);
    // Even the right one, in the same words: whether the password was right is not told.
    answers.push(refusal(api.login("ada", PASSWORD, &api.code(&codes)).await).await);
    assert!(answers.iter().all(|answer| *answer == (401, json!("UNAUTHENTICATED"), None)), "{answers:?}");
    clock.pass(1);
    api.cookie("ada", &api.code(&codes)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_so_many_tries_for_all_names_together() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let clock = Steered::new();
    let auth = authentication::Config { login_tries_per_address: 3, ..authentication::Config::default() };
    let settings = Settings { auth, ..Settings::default() };
    let mut api = Api::build(Arc::new(MemoryStore::new(1)), Arc::clone(&clock) as _, settings).await;
    let codes = api.user(api.tenant, "ada", &[Scope::WebhooksRead]).await;
    for name in ["a", "b", "not a name"] {
        assert_eq!(api.login(name, PASSWORD, "000000").await.status(), 401);
        clock.pass(1);
    }
    let refused = refusal(api.login("ada", PASSWORD, &api.code(&codes)).await).await;
    assert_eq!(refused, (429, json!("RATE_LIMITED"), Some(12 * 60)));
    let home = std::mem::replace(&mut api.client, from_elsewhere(2));
    api.cookie("ada", &api.code(&codes)).await;
    clock.pass(12);
    api.client = home;
    api.cookie("ada", &api.code(&codes)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_user_and_whoever_waits_for_that_is_told() {
    let (api, clock) = steered().await;
    let codes = api.user(api.tenant, "ada", &[Scope::WebhooksRead]).await;
    let cookie = api.cookie("ada", &api.code(&codes)).await;
    let token = authentication::SessionToken::presented(cookie.split_once('=').unwrap().1);
    let principal = api.keys.session(&token).await.unwrap();
    let waiting = {
        let (keys, principal) = (Arc::clone(&api.keys), Arc::clone(&principal));
        tokio::spawn(async move { keys.ended(&principal).await })
    };
    let disable = "mutation { disableUser(input: { username: \"ada\" }) { userErrors { code } } }";
    api.data(disable, json!({})).await;
    waiting.await.unwrap();
    assert_eq!(api.with_cookie(&cookie, VIEWER, &json!({})).send().await.unwrap().status(), 401);

    let key = api.key(api.tenant, &[Scope::WebhooksRead]).await;
    let principal = api.keys.authenticate(&key).await.unwrap();
    let waiting = {
        let keys = Arc::clone(&api.keys);
        tokio::spawn(async move { keys.ended(&principal).await })
    };
    let id = api.answer(&key, "{ viewer { apiKeyId } }", &json!({})).await["data"]["viewer"]["apiKeyId"].clone();
    let revoke = "mutation($id: ID!) { revokeApiKey(input: { apiKeyId: $id }) { userErrors { code } } }";
    api.data(revoke, json!({ "id": id })).await;
    waiting.await.unwrap();
    clock.pass(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_use_of_a_key_is_remembered_to_the_hour() {
    let (api, clock) = steered().await;
    let query = "{ apiKeys(first: 1) { nodes { lastUsedAt } } }";
    let used = async |at: &str| {
        while api.data(query, json!({})).await["apiKeys"]["nodes"][0]["lastUsedAt"] != at {
            tokio::task::yield_now().await;
        }
    };
    used("2025-11-23T10:40:15.000Z").await;
    clock.pass(59);
    used("2025-11-23T10:40:15.000Z").await;
    clock.pass(1);
    used("2025-11-23T11:40:15.000Z").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_proves_itself_again_before_it_rotates() {
    // S18, C11
    let (api, clock) = steered().await;
    let scopes = [Scope::WebhooksRead, Scope::WebhooksWrite, Scope::SecretsRotate, Scope::KeysAdmin, Scope::AuditRead];
    let codes = api.user(api.tenant, "ada", &scopes).await;
    let cookie = api.cookie("ada", &api.code(&codes)).await;
    let create = "mutation($url: String!) { createWebhook(input: { url: $url }) { webhook { id } } }";
    let made = api.by_cookie(&cookie, create, json!({ "url": URL })).await;
    let id = json!({ "id": made["data"]["createWebhook"]["webhook"]["id"] });
    assert!(api.by_cookie(&cookie, ROTATE, id.clone()).await["data"]["rotateWebhookSecret"]["secret"].is_string());
    clock.pass(5);
    let key = "mutation { createApiKey(input: { name: \"x\", scopes: [WEBHOOKS_READ] }) { token } }";
    for query in [ROTATE, key] {
        let answer = api.with_cookie(&cookie, query, &id).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let challenge = "Bearer error=\"insufficient_user_authentication\", max_age=\"300\"";
        assert_eq!(answer.headers()["www-authenticate"], challenge);
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let expected = json!({ "code": "STEP_UP_REQUIRED", "error": "insufficient_user_authentication",
            "acrValues": [], "maxAge": 300, "methods": ["totp"] });
        assert_eq!(answer["errors"][0]["extensions"], expected);
        assert!(answer["data"].as_object().unwrap().values().all(Value::is_null), "{answer}");
    }
    let refused = api.by_cookie(&cookie, STEP_UP, json!({ "totp": "000000" })).await;
    assert_eq!(refused["data"]["stepUp"]["userErrors"], json!([{ "code": "STEP_UP_REJECTED" }]));
    let proved = api.by_cookie(&cookie, STEP_UP, json!({ "totp": api.code(&codes) })).await;
    assert_eq!(proved["data"]["stepUp"]["validUntil"], json!("2025-11-23T10:50:15.000Z"));
    let again = api.by_cookie(&cookie, STEP_UP, json!({ "totp": api.code(&codes) })).await;
    assert_eq!(again["data"]["stepUp"]["userErrors"], json!([{ "code": "STEP_UP_REJECTED" }]));
    assert!(api.by_cookie(&cookie, ROTATE, id).await["data"]["rotateWebhookSecret"]["secret"].is_string());
    let query = "{ auditLog(first: 1, filter: { codes: [TENANT_WEBHOOK_SECRET_ROTATED] }) { nodes { acr authenticatedAt actor { kind } } } }";
    let rows = api.data(query, json!({})).await["auditLog"]["nodes"].take();
    let expected =
        json!([{ "acr": "pwd+otp", "authenticatedAt": "2025-11-23T10:45:15.000Z", "actor": { "kind": "USER" } }]);
    assert_eq!(rows, expected);
    let failed = "{ auditLog(filter: { codes: [TENANT_STEP_UP_FAILED] }) { nodes { id } } }";
    while api.data(failed, json!({})).await["auditLog"]["nodes"].as_array().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_acts_unattended_only_where_somebody_allowed_it() {
    // S18, C11
    let (api, _) = steered().await;
    let other = api.clock.tenant_id();
    api.tenant(other, "other").await;
    let key = api.key(other, &[Scope::SecretsRotate, Scope::KeysAdmin, Scope::WebhooksRead]).await;
    let rotate = "mutation { m: rotateWebhookSecret(input: { webhookId: \"wh_1\" }) { userErrors { code } } }";
    let create =
        "mutation { m: createApiKey(input: { name: \"x\", scopes: [WEBHOOKS_READ] }) { userErrors { code } } }";
    let allow = "mutation($t: ID) { m: updateTenant(input: { tenantId: $t, unattendedKeys: true }) { tenant { unattendedKeys } } }";
    for query in [rotate, create, allow] {
        let refused = api.answer(&key, query, &json!({})).await;
        assert_eq!(refused["errors"][0]["extensions"]["code"], json!("FORBIDDEN"), "{query}: {refused}");
    }
    // The operator's own key stands in for a person.
    let allowed = api.data(allow, json!({ "t": other })).await;
    assert_eq!(allowed["m"]["tenant"]["unattendedKeys"], json!(true));
    for query in [rotate, create] {
        let answer = api.answer(&key, query, &json!({})).await;
        assert!(answer.get("errors").is_none(), "{query}: {answer}");
    }
    let hand_on = "mutation { m: createApiKey(input: { name: \"x\", scopes: [SECRETS_ROTATE] }) { token } }";
    let refused = api.answer(&key, hand_on, &json!({})).await;
    assert_eq!(refused["errors"][0]["extensions"]["code"], json!("FORBIDDEN"), "{refused}");
    let granted =
        "mutation { m: createApiKey(input: { name: \"x\", scopes: [SECRETS_ROTATE] }) { apiKey { expiresAt } } }";
    let granted = api.data(granted, json!({})).await;
    assert_eq!(granted["m"]["apiKey"]["expiresAt"], json!("2026-02-21T10:40:15.000Z"));
    let late = "mutation { m: createApiKey(input: { name: \"x\", scopes: [KEYS_ADMIN], expiresAt: \"2026-02-21T10:40:16Z\" }) { userErrors { code path } } }";
    let expected = json!([{ "code": "INVALID_INPUT", "path": ["input", "expiresAt"] }]);
    assert_eq!(api.data(late, json!({})).await["m"]["userErrors"], expected);
}

pub(super) const CREATE_USER: &str = "mutation($input: CreateUserInput!) { createUser(input: $input) {
    user { id name scopes createdAt disabledAt } authenticatorUri position userErrors { code path } } }";
pub(super) const RESET_USER: &str =
    "mutation($input: ResetUserCredentialsInput!) { resetUserCredentials(input: $input) {
    user { name disabledAt } authenticatorUri position userErrors { code path } } }";
pub(super) const OTHER_PASSWORD: &str = "another horse, another staple";

pub(super) fn codes_of(uri: &Value) -> Secret {
    let secret = uri.as_str().unwrap().split_once("secret=").unwrap().1.split('&').next().unwrap();
    Secret::stored(secret.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_has_just_proved_themself_adds_users_and_resets_them() {
    let (api, clock) = steered().await;
    let scopes = [Scope::KeysAdmin, Scope::WebhooksRead];
    let codes = api.user(api.tenant, "ada", &scopes).await;
    let cookie = api.cookie("ada", &api.code(&codes)).await;
    let input = json!({ "username": "ben", "password": PASSWORD, "scopes": ["WEBHOOKS_READ"] });
    let made = api.by_cookie(&cookie, CREATE_USER, json!({ "input": input })).await["data"]["createUser"].take();
    let expected = json!({ "id": made["user"]["id"], "name": "ben", "scopes": ["WEBHOOKS_READ"],
        "createdAt": "2025-11-23T10:40:15.000Z", "disabledAt": null });
    assert_eq!((&made["user"], &made["userErrors"]), (&expected, &json!([])), "{made}");
    assert!(!made.to_string().contains(PASSWORD));
    let cookie_of_ben = api.cookie("ben", &api.code(&codes_of(&made["authenticatorUri"]))).await;
    let list = "query($ids: [ID!]!) { users { nodes { name } } nodes(ids: $ids) { ... on User { name } } }";
    let listed = api.by_cookie(&cookie, list, json!({ "ids": [made["user"]["id"]] })).await["data"].take();
    assert_eq!(listed["users"]["nodes"], json!([{ "name": "ben" }, { "name": "ada" }]));
    assert_eq!(listed["nodes"], json!([{ "name": "ben" }]));
    // A name is given once, and nobody hands on more than they have.
    let again = api.by_cookie(&cookie, CREATE_USER, json!({ "input": input })).await["data"]["createUser"].take();
    assert_eq!(again["userErrors"], json!([{ "code": "VERSION_CONFLICT", "path": ["input", "username"] }]));
    let more = json!({ "username": "cyd", "password": PASSWORD, "scopes": ["AUDIT_READ"] });
    let refused = api.by_cookie(&cookie, CREATE_USER, json!({ "input": more })).await;
    assert_eq!(refused["errors"][0]["extensions"]["code"], json!("FORBIDDEN"));
    for (field, wrong) in [("password", "too short"), ("username", "Not A Name")] {
        let mut input = json!({ "username": "cyd", "password": PASSWORD, "scopes": ["WEBHOOKS_READ"] });
        input[field] = json!(wrong);
        let refused = api.by_cookie(&cookie, CREATE_USER, json!({ "input": input })).await;
        let expected = json!([{ "code": "INVALID_INPUT", "path": ["input", field] }]);
        assert_eq!(refused["data"]["createUser"]["userErrors"], expected, "{refused}");
    }
    // New credentials end what the old ones began.
    let disable = "mutation { disableUser(input: { username: \"ben\" }) { disabledUserId } }";
    api.by_cookie(&cookie, disable, json!({})).await;
    let reset = json!({ "input": { "username": "ben", "password": OTHER_PASSWORD } });
    let made = api.by_cookie(&cookie, RESET_USER, reset.clone()).await["data"]["resetUserCredentials"].take();
    assert_eq!(made["user"], json!({ "name": "ben", "disabledAt": null }), "{made}");
    assert_eq!(api.with_cookie(&cookie_of_ben, VIEWER, &json!({})).send().await.unwrap().status(), 401);
    let codes = codes_of(&made["authenticatorUri"]);
    assert_eq!(api.login("ben", PASSWORD, &api.code(&codes)).await.status(), 401);
    // At once, although the old secret's code of the same time was used.
    assert_eq!(api.login("ben", OTHER_PASSWORD, &api.code(&codes)).await.status(), 200);
    // A proof of long ago is none.
    clock.pass(6);
    for (call, input) in [
        (CREATE_USER, json!({ "input": { "username": "cyd", "password": PASSWORD, "scopes": ["WEBHOOKS_READ"] } })),
        (RESET_USER, reset),
    ] {
        let refused = api.by_cookie(&cookie, call, input).await;
        assert_eq!(refused["errors"][0]["extensions"]["code"], json!("STEP_UP_REQUIRED"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_adds_no_users_and_nobody_takes_over_who_may_do_more() {
    let (api, _) = steered().await;
    api.user(api.tenant, "ada", &[Scope::KeysAdmin, Scope::AuditRead]).await;
    // Although keys act unattended in this tenant.
    let key = api.key(api.tenant, &[Scope::KeysAdmin]).await;
    let input = json!({ "username": "ben", "password": PASSWORD, "scopes": ["KEYS_ADMIN"] });
    let reset = json!({ "username": "ada", "password": OTHER_PASSWORD });
    for (call, input) in [(CREATE_USER, &input), (RESET_USER, &reset)] {
        let refused = api.answer(&key, call, &json!({ "input": input })).await;
        assert_eq!(refused["errors"][0]["extensions"]["code"], json!("FORBIDDEN"), "{refused}");
    }
    let codes = api.user(api.tenant, "cyd", &[Scope::KeysAdmin]).await;
    let cookie = api.cookie("cyd", &api.code(&codes)).await;
    let refused = api.by_cookie(&cookie, RESET_USER, json!({ "input": reset })).await;
    assert_eq!(refused["errors"][0]["extensions"]["code"], json!("FORBIDDEN"), "{refused}");
    // An operator's key may, for any tenant.
    let other = api.clock.tenant_id();
    api.tenant(other, "other").await;
    // What the tenant refuses takes no name from the others.
    let nothing = json!({ "username": "ben", "password": PASSWORD, "scopes": [] });
    let refused = api.data(CREATE_USER, json!({ "input": nothing })).await["createUser"].take();
    assert_eq!(refused["userErrors"][0]["code"], json!("INVALID_INPUT"), "{refused}");
    let mut abroad = input.clone();
    abroad["tenantId"] = json!(other.to_string());
    let made = api.data(CREATE_USER, json!({ "input": abroad })).await["createUser"].take();
    assert_eq!((&made["userErrors"], &made["user"]["name"]), (&json!([]), &json!("ben")));
    let listed = api.data("{ users { nodes { name } } }", json!({})).await;
    assert_eq!(listed["users"]["nodes"], json!([{ "name": "cyd" }, { "name": "ada" }]));
    let taken = api.data(CREATE_USER, json!({ "input": input })).await["createUser"]["userErrors"].take();
    assert_eq!(taken, json!([{ "code": "VERSION_CONFLICT", "path": ["input", "username"] }]));
}

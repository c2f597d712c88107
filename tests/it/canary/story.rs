//! What happens before anybody looks: every feature, with secrets that are known.

use std::process::Command;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use super::{Area, DATA, Find, KEYS, SENT, Secret, URL_QUERY, database_files, files};
use crate::api::live::Events;
use crate::operations;
use crate::support::receiver::{Receiver, Script};
use crate::support::server::{Kind, Server};
use crate::users::{code, shown, user};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id url headers { name maskedValue } secrets { version fingerprint } } secret
    userErrors { code message path } } }";
const UPDATE: &str = "mutation($input: UpdateWebhookInput!) { updateWebhook(input: $input) {
    webhook { id headers { name maskedValue } } userErrors { code message path } } }";
const ROTATE: &str = "mutation($input: RotateWebhookSecretInput!) { rotateWebhookSecret(input: $input) {
    secret previousSecretValidUntil userErrors { code message } } }";
const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) {
    message { id } userErrors { code message } } }";
const TEST: &str = "mutation($id: ID!) { testWebhookDelivery(input: { webhookId: $id }) {
    result { verified bodyPreview error request { headers { name value } body } } userErrors { code message } } }";
const CREATE_KEY: &str = "mutation($input: CreateApiKeyInput!) { createApiKey(input: $input) {
    token apiKey { id } userErrors { code message } } }";
const LIVE: &str = "subscription { deliveryUpdates { cursor delivery { id status message { id } attempts { nodes {
    responsePreview error } } } } }";
const SETTLED: &str = "query($id: ID!) { deliveries(filter: { webhookId: $id }, first: 50) { nodes {
    status attemptCount attempts { nodes { outcome error responsePreview request { headers { name value } }
        response { headers { name value } bodyPreview } } } } } }";

/// Values of custom headers.
const HEADER: &str = "canary header value \"one\"";
const NEW_HEADER: &str = "canary-header-value-two";
/// Signing secrets of their owners.
const OWN: &str = "canary own signing secret/+ with \"32\"";
const NEW_OWN: &str = "canary second own signing secret with 32";
/// What a publisher sends.
const BODY: &str = "canary message data: the hidden balance";
/// In the query of a URL.
const TOKEN: &str = "canaryurltoken0123456789";

/// What Prometheus shows at `/metrics`.
pub(super) const METRICS_TOKEN: &str = "canary-token-of-the-metrics";

pub(super) struct Story {
    receiver: Receiver,
    server: Server,
    kind: Kind,
    secrets: Vec<Secret>,
    finds: Vec<Find>,
    /// Ids of webhooks, by what they are.
    webhooks: Vec<(&'static str, Value)>,
}

impl Story {
    pub(super) fn new(receiver: Receiver, server: Server, kind: Kind) -> Self {
        let secrets = vec![
            Secret::shown_once("an own signing secret", OWN),
            Secret::shown_once("a second own signing secret", NEW_OWN),
            Secret::never("a header", HEADER),
            Secret::never("a changed header", NEW_HEADER),
            Secret::allowed_in("the data of messages", BODY, DATA),
            Secret::allowed_in("the query of a URL", TOKEN, URL_QUERY).known_in(&[Area::Database, Area::ReadModels]),
            Secret::never("the token of the metrics", METRICS_TOKEN),
            Secret::never("the bootstrap key", server.key.clone()),
        ];
        let key = std::fs::read_to_string(server.folder().join("log.db.key")).unwrap();
        let key = Secret::allowed_in("the operator's key", key.trim(), KEYS).known_in(KEYS);
        let secrets = secrets.into_iter().chain([key]).collect();
        server.listen_closely();
        Self { receiver, server, kind, secrets, finds: vec![], webhooks: vec![] }
    }

    fn webhook(&self, name: &str) -> &Value {
        &self.webhooks.iter().find(|(known, _)| *known == name).unwrap().1
    }

    /// Somebody who logs in, with one-time codes, rightly and wrongly.
    pub(super) async fn people(&mut self) {
        assert_eq!(self.server.terminate(), Some(0));
        let added = user(&self.server, &["add", "grace"]);
        let (password, uri) = (shown(&added, "password (shown once): "), shown(&added, "authenticator (shown once): "));
        let seed = uri.split_once("secret=").unwrap().1.split('&').next().unwrap().to_owned();
        self.finds.push(Find::new(Area::Log, "what `tidings user` says on standard error", added.stderr));
        self.server.restart();
        let wrong = "canary wrong password of a person";
        assert_eq!(self.log_in(wrong, &code(&uri)).await.0, 401);
        let (status, cookie) = self.log_in(&password, &code(&uri)).await;
        assert_eq!(status, 200);
        let session = cookie.unwrap();
        let request = self.server.client().post(self.server.url("/graphql")).header("cookie", &session);
        let request = request.header("origin", self.server.url("")).header("content-type", "application/json");
        let body = json!({ "query": "mutation($totp: String!) { stepUp(input: { totp: $totp }) { userErrors { code } } }",
            "variables": { "totp": code(&uri) } });
        self.hear("a step-up", request.body(body.to_string())).await;
        self.secrets.push(Secret::never("a password", password));
        self.secrets.push(Secret::never("a seed of one-time codes", seed));
        self.secrets.push(Secret::never("a wrong password", wrong));
        let (_, session) = session.split_once('=').unwrap();
        self.secrets.push(Secret::shown_once("the cookie of a session", session));
    }

    async fn log_in(&mut self, password: &str, totp: &str) -> (u16, Option<String>) {
        let body = json!({ "username": "grace", "password": password, "totp": totp }).to_string();
        let request = self.server.client().post(self.server.url("/session")).header("content-type", "application/json");
        let answer = request.body(body).send().await.unwrap();
        let status = answer.status().as_u16();
        let cookie = answer.headers().get("set-cookie").map(|cookie| cookie.to_str().unwrap().to_owned());
        let text = format!("{cookie:?} {}", answer.text().await.unwrap());
        self.finds.push(Find::new(Area::Answer, "a login", text));
        (status, cookie.map(|cookie| cookie.split(';').next().unwrap().to_owned()))
    }

    /// Sends a request, and keeps what comes back.
    async fn hear(&mut self, name: &str, request: reqwest::RequestBuilder) -> u16 {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let head = format!("{:?}", answer.headers());
        let body = answer.bytes().await.unwrap();
        self.finds.push(Find::new(Area::Answer, name, [head.as_bytes(), &body].concat()));
        status
    }

    async fn create(&mut self, name: &'static str, path: &str, more: Value) -> Value {
        let mut input = json!({ "url": self.receiver.url(path), "eventFilters": ["user.created"], "enabled": true });
        more.as_object().unwrap().iter().for_each(|(key, value)| input[key] = value.clone());
        let mut created = self.server.data(CREATE, json!({ "input": input })).await["createWebhook"].take();
        assert_eq!(created["userErrors"], json!([]), "{name}");
        self.webhooks.push((name, created["webhook"]["id"].take()));
        created["secret"].take()
    }

    /// Webhooks with secrets of each kind, at endpoints of each kind.
    pub(super) async fn webhooks(&mut self) {
        self.receiver.on("/echoes", Script::answer(200, json!({ "sent": HEADER }).to_string()));
        self.receiver.on("/fails", Script::answer(500, format!("no: {HEADER}")));
        let headers = json!([{ "name": "X-Api-Key", "value": HEADER }]);
        let secret = self.create("own", "/takes", json!({ "profile": "axie-v1", "secret": OWN })).await;
        assert_eq!(secret, json!(OWN));
        for (name, path, profile) in [
            ("echoes", "/echoes", "standard-v1"),
            ("fails", "/fails", "axissynapse-v1"),
            ("goes", "/takes?again", "axissynapse-v1"),
        ] {
            let more = json!({ "profile": profile, "headers": headers });
            let secret = self.create(name, path, more).await;
            self.secrets.push(Secret::shown_once("a generated signing secret", secret.as_str().unwrap()));
        }
        let elsewhere = json!({ "url": self.receiver.url(&format!("/takes?token={TOKEN}")) });
        let secret = self.create("token", "/", elsewhere).await;
        self.secrets.push(Secret::shown_once("a generated signing secret", secret.as_str().unwrap()));
        // Its address is blocked later.
        let elsewhere = json!({ "url": self.receiver.url("/").replace("127.0.0.1", "127.0.0.3"), "headers": headers });
        let secret = self.create("blocked", "/", elsewhere).await;
        self.secrets.push(Secret::shown_once("a generated signing secret", secret.as_str().unwrap()));
        let input = json!({ "name": "canary", "scopes": ["WEBHOOKS_READ", "DELIVERIES_READ", "MESSAGES_PUBLISH"] });
        let created = self.server.data(CREATE_KEY, json!({ "input": input })).await;
        let token = created["createApiKey"]["token"].as_str().unwrap_or_else(|| panic!("{created}")).to_owned();
        self.server.try_graphql(&token, "{ viewer { name } }", &json!({})).await.unwrap();
        self.secrets.push(Secret::shown_once("an API key", token));
    }

    async fn publish(&self) {
        let input = json!({ "type": "user.created", "data": { "text": BODY } });
        let published = self.server.data(PUBLISH, json!({ "input": input })).await;
        assert_eq!(published["publishMessage"]["userErrors"], json!([]));
    }

    /// Messages by every way, and their deliveries.
    pub(super) async fn messages(&mut self) {
        self.publish().await;
        let line = json!({ "type": "user.created", "data": { "text": BODY } }).to_string();
        for (name, form, body) in [
            ("a message by HTTP", "application/json", line.clone()),
            ("messages by lines", "application/x-ndjson", format!("{line}\n{line}\nno line: {BODY}\n")),
        ] {
            let request = self.server.client().post(self.server.url("/v1/messages")).bearer_auth(&self.server.key);
            let status = self.hear(name, request.header("content-type", form).body(body)).await;
            assert!(status == 200 || status == 202, "{status}");
        }
        for name in ["own", "echoes", "fails", "token", "blocked"] {
            let tried = |data: &Value| {
                let nodes = data["deliveries"]["nodes"].as_array().unwrap();
                nodes.len() >= 4 && nodes.iter().all(|node| node["attemptCount"] != json!(0))
            };
            self.server.until(SETTLED, json!({ "id": self.webhook(name) }), tried).await;
            self.server.graphql(TEST, json!({ "id": self.webhook(name) })).await;
        }
        let sent = self.receiver.requests().iter().any(|request| request.header("x-api-key") == Some(HEADER));
        assert!(sent, "the headers were never sent");
    }

    /// Every operation of the documents, with the secrets that its answers show.
    pub(super) async fn every_operation(&mut self) {
        for answer in operations::run_all(&self.receiver, &self.server).await {
            let mut shown = vec![];
            shown_in(&answer, &mut shown);
            let secret = |text: String| Secret::shown_once("a secret of an operation of the documents", text);
            self.secrets.extend(shown.into_iter().map(secret));
        }
    }

    /// Live streams of both kinds, which tell of deliveries and of changes.
    pub(super) async fn live(&mut self) {
        let body = json!({ "query": LIVE }).to_string();
        let request = self.server.client().post(self.server.url("/graphql")).bearer_auth(&self.server.key);
        let request = request.header("content-type", "application/json").header("accept", "text/event-stream");
        let mut events = Events::of(request.body(body).send().await.unwrap()).await;
        events.heard().await;
        let mut socket = self.socket().await;
        self.publish().await;
        for _ in 0..4 {
            let event = events.item().await;
            self.finds.push(Find::new(Area::Live, "an event of a stream", event.to_string()));
        }
        let change = json!({ "webhookId": self.webhook("own"), "description": "watched" });
        self.server.data(UPDATE, json!({ "input": change })).await;
        for _ in 0..2 {
            let frame = socket.next().await.unwrap().unwrap().into_data();
            self.finds.push(Find::new(Area::Live, "a message over a socket", frame.to_vec()));
        }
    }

    /// One that is told of changes, by a key that stands in a message.
    async fn socket(&mut self) -> tokio_tungstenite::WebSocketStream<TcpStream> {
        let url = self.server.url("/graphql").replace("http://", "ws://");
        let address = url.trim_start_matches("ws://").trim_end_matches("/graphql").to_owned();
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        let payload = json!({ "authorization": format!("Bearer {}", self.server.key) });
        let query = "subscription { webhookUpdates { cursor code webhook { url headers { name maskedValue } } } }";
        for message in [
            json!({ "type": "connection_init", "payload": payload }),
            json!({ "id": "1", "type": "subscribe", "payload": { "query": query } }),
            json!({ "id": "2", "type": "subscribe", "payload": { "query": "subscription { auditLog { cursor node { code changes } } }" } }),
        ] {
            socket.send(Message::text(message.to_string())).await.unwrap();
        }
        let frame = socket.next().await.unwrap().unwrap().into_data();
        self.finds.push(Find::new(Area::Live, "a message over a socket", frame.to_vec()));
        socket
    }

    /// Rotations, new headers, a deletion and the way back.
    pub(super) async fn changes(&mut self) {
        let own = json!({ "webhookId": self.webhook("own"), "secret": NEW_OWN });
        let rotated = self.server.data(ROTATE, json!({ "input": own })).await;
        assert_eq!(rotated["rotateWebhookSecret"]["secret"], json!(NEW_OWN), "{rotated}");
        let overlap = json!({ "webhookId": self.webhook("echoes"), "overlapSeconds": 3600 });
        let rotated = self.server.data(ROTATE, json!({ "input": overlap })).await["rotateWebhookSecret"].take();
        assert!(rotated["previousSecretValidUntil"].is_string(), "{rotated}");
        self.secrets.push(Secret::shown_once("a rotated signing secret", rotated["secret"].as_str().unwrap()));
        let headers = json!([{ "name": "X-Api-Key", "value": NEW_HEADER }, { "name": "X-Env", "value": HEADER }]);
        for name in ["echoes", "fails"] {
            let input = json!({ "webhookId": self.webhook(name), "headers": headers });
            let updated = self.server.data(UPDATE, json!({ "input": input })).await;
            assert_eq!(updated["updateWebhook"]["userErrors"], json!([]));
        }
        let both = json!({ "sent": HEADER, "and": NEW_HEADER }).to_string();
        self.receiver.on("/echoes", Script::answer(200, both));
        let id = json!({ "id": self.webhook("goes") });
        for mutation in ["deleteWebhook", "restoreWebhook", "deleteWebhook"] {
            let query =
                format!("mutation($id: ID!) {{ {mutation}(input: {{ webhookId: $id }}) {{ userErrors {{ code }} }} }}");
            let done = self.server.data(&query, id.clone()).await;
            assert_eq!(done[mutation]["userErrors"], json!([]), "{mutation}");
        }
        self.publish().await;
        let arrived = |request: &crate::support::receiver::Received| request.header("x-api-key") == Some(NEW_HEADER);
        let mut count = self.receiver.requests().len();
        while !self.receiver.requests().iter().any(arrived) {
            count += 1;
            self.receiver.wait_for(count).await;
        }
    }

    /// Whatever is refused is refused without a word of it.
    pub(super) async fn mistakes(&mut self) {
        let key = "tdg_canary_wrong_key_0123456789abcdef0123456789abcdef";
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJjYW5hcnkiOiJ0b2tlbiBvZiBzb21lYm9keSJ9.c2lnbmF0dXJlIG9mIGEgY2FuYXJ5";
        for bearer in [key, token] {
            let request = self.server.client().post(self.server.url("/graphql")).bearer_auth(bearer);
            let request =
                request.header("content-type", "application/json").body("{\"query\":\"{ viewer { name } }\"}");
            assert_eq!(self.hear("a wrong credential", request).await, 401);
        }
        self.secrets.push(Secret::never("a wrong key", key));
        self.secrets.push(Secret::never("a token of nobody", token));
        let short = "canary too short";
        let name = "canary: in the name of a header";
        let value = "canary value\r\nof a header";
        let input = json!({ "url": self.receiver.url("/"), "eventFilters": ["user.created"], "profile": "axie-v1", "secret": short });
        let refused = self.server.data(CREATE, json!({ "input": input })).await;
        assert_eq!(refused["createWebhook"]["userErrors"][0]["code"], json!("WEBHOOK_SECRET_INVALID"));
        let headers = json!([{ "name": name, "value": value }]);
        let input = json!({ "webhookId": self.webhook("fails"), "headers": headers });
        let refused = self.server.data(UPDATE, json!({ "input": input })).await;
        assert_eq!(refused["updateWebhook"]["userErrors"][0]["code"], json!("WEBHOOK_HEADER_INVALID"));
        self.secrets.push(Secret::never("a secret that is too short", short));
        self.secrets.push(Secret::never("a wrong name", name));
        self.secrets.push(Secret::never("a wrong value", value));
        for (index, query) in [
            "mutation { createWebhook(input: { url: \"https://example.com\", secret: \"CANARY\", what: 1 }) { secret } }",
            "mutation { createWebhook(input: { secret: \"CANARY\" ",
            "query Q($a: Int!) { viewer(CANARY: \"CANARY\") { name } }",
        ].into_iter().enumerate() {
            let text = format!("canaryInAQueryThatIsRefused{index}");
            self.server.graphql(&query.replace("CANARY", &text), json!({ "a": text })).await;
            self.secrets.push(Secret::allowed_in("something in a query that is refused", text, SENT));
        }
        let text = "canaryInTheAddressOfARequest";
        let request =
            self.server.client().get(self.server.url(&format!("/graphql?query=%7Bviewer%7Bname%7D%7D&token={text}")));
        self.hear("a query by GET", request.bearer_auth(&self.server.key)).await;
        self.secrets.push(Secret::never("a parameter of a request", text));
    }

    /// What everybody may ask for.
    pub(super) async fn everybody(&mut self) {
        let metrics = self.server.metrics.clone();
        for url in [
            metrics,
            self.server.url("/healthz"),
            self.server.url("/readyz"),
            self.server.url("/"),
            self.server.url("/v1/openapi.json"),
        ] {
            let answer = self.server.client().get(&url).bearer_auth(METRICS_TOKEN).send().await.unwrap();
            self.finds.push(Find::new(Area::Metrics, url, answer.bytes().await.unwrap().to_vec()));
        }
    }

    /// The operator's commands, those that fail too.
    pub(super) fn commands(&mut self) {
        let stream = format!("subscription-{}", self.webhook("echoes").as_str().unwrap().trim_start_matches("wh_"));
        let mut commands = vec![
            vec!["export", "export.jsonl"],
            vec!["verify"],
            vec!["events"],
            vec!["state", "--stream", &stream],
            vec!["keys", "status"],
            vec!["keys", "verify"],
            vec!["rebuild"],
            vec!["user", "add", "eve"],
            vec!["export", "export.jsonl"],
        ];
        if let Kind::Sqlite = self.kind {
            commands.push(vec!["backup", "copy.db"]);
        }
        for arguments in commands {
            let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
            command.args(&arguments).arg("--config").arg(self.server.config()).current_dir(self.server.folder());
            let output = command.env("RUST_BACKTRACE", "full").output().unwrap();
            let name = format!("`tidings {}`", arguments.join(" "));
            self.finds.push(Find::new(Area::Command, name.clone(), output.stdout));
            self.finds.push(Find::new(Area::Log, name, output.stderr));
        }
    }

    /// `kill -9` with much under way, and from now on an address is blocked.
    pub(super) async fn crash(&mut self) {
        self.publish().await;
        self.server.kill();
        let text = std::fs::read_to_string(self.server.config()).unwrap();
        let text = text.replace("[egress]\n", "[egress]\ndeny_cidrs = [\"127.0.0.3/32\"]\n");
        std::fs::write(self.server.config(), text).unwrap();
        self.server.restart();
        self.publish().await;
        let blocked = |data: &Value| data.to_string().contains("BLOCKED");
        self.server.until(SETTLED, json!({ "id": self.webhook("blocked") }), blocked).await;
        self.server.graphql(TEST, json!({ "id": self.webhook("blocked") })).await;
        self.server.kill();
    }

    /// Once more with another store's key, which it refuses; then an orderly end.
    pub(super) fn stop(&mut self) {
        self.server.restart();
        assert_eq!(self.server.terminate(), Some(0));
        let key = self.server.folder().join("log.db.key");
        let kept = std::fs::read(&key).unwrap();
        let mut other = kept.clone();
        other[0] = if kept[0] == b'0' { b'1' } else { b'0' };
        std::fs::write(&key, other).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_tidings"))
            .args(["serve", "--config"])
            .arg(self.server.config())
            .output()
            .unwrap();
        assert!(!output.status.success(), "it took another key");
        self.finds.push(Find::new(Area::Log, "a server with another key", [output.stdout, output.stderr].concat()));
        std::fs::write(&key, kept).unwrap();
    }

    /// Looks at every file, as it is now.
    pub(super) async fn look(&mut self, moment: &str) {
        self.finds.extend(files(&self.server, moment));
        if let Kind::Postgres = self.kind {
            self.finds.extend(database_files(&self.server, moment).await);
        }
    }

    /// What was secret, and where to look for it.
    pub(super) fn end(mut self) -> (Vec<Secret>, Vec<Find>) {
        let heard = self.server.heard().into_iter();
        self.finds.extend(heard.map(|answer| Find::new(Area::Answer, "an answer by GraphQL", answer)));
        (self.secrets, self.finds)
    }
}

/// Secrets and tokens that an answer shows.
fn shown_in(answer: &Value, found: &mut Vec<String>) {
    match answer {
        Value::Object(fields) => fields.iter().for_each(|(name, field)| match field.as_str() {
            Some(text) if name == "secret" || name == "token" => found.push(text.to_owned()),
            Some(_) | None => shown_in(field, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| shown_in(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

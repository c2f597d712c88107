//! Every way out of the program: a name that has moved to a private address is refused on each of them.

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::name_server::NameServer;
use crate::support::receiver::{Receiver, Script};
use crate::support::server::Server;

const NAME: &str = "receiver.example.com";
const OUTSIDE: &[&str] = &["127.0.0.1"];
const INSIDE: &[&str] = &["10.9.8.7"];

const CREATE: &str = "mutation($input: CreateWebhookInput!) { m: createWebhook(input: $input) {
    webhook { id } userErrors { code reason message path } } }";
const UPDATE: &str = "mutation($id: ID!, $url: String!) { m: updateWebhook(input: { webhookId: $id, url: $url }) {
    webhook { id } userErrors { code reason message path } } }";
const TEST: &str = "mutation($id: ID!) { m: testWebhookDelivery(input: { webhookId: $id }) {
    result { verified outcome statusCode error } userErrors { code message } } }";
const PUBLISH: &str = "mutation { m: publishMessage(input: { type: \"user.created\", data: {} }) { message { id } userErrors { code } } }";
const REDELIVER: &str = "mutation($id: ID!) { m: redeliverDelivery(input: { deliveryId: $id }) {
    delivery { id } userErrors { code message } } }";
const JOB: &str = "mutation($input: StartRedeliveryInput!) { m: startRedelivery(input: $input) {
    job { id } userErrors { code message } } }";
const DELETE: &str = "mutation($id: ID!) { m: deleteWebhook(input: { webhookId: $id }) { userErrors { code } } }";
const RESTORE: &str = "mutation($id: ID!) { m: restoreWebhook(input: { webhookId: $id }) { userErrors { code } } }";
const ENABLE: &str = "mutation($id: ID!) { m: enableWebhook(input: { webhookId: $id }) { userErrors { code } } }";
const REENABLE: &str = "mutation($id: ID!) { m: reenableWebhook(input: { webhookId: $id, backlog: DRAIN }) {
    userErrors { code message } } }";
const CIRCUIT: &str = "query($id: ID!) { webhook(id: $id) { circuit { state } } }";
const DELIVERIES: &str = "query($id: ID!) { deliveries(filter: { webhookId: $id }, first: 100) { nodes { id status
    attempts(first: 20) { nodes { outcome failureClass statusCode error } } } } }";
const AUDIT: &str = "{ auditLog(first: 100) { nodes { code targetId changes } } }";

struct Setting {
    receiver: Receiver,
    names: NameServer,
    server: Server,
}

async fn setting() -> Setting {
    let (receiver, names) = (Receiver::start().await, NameServer::start().await);
    names.tell(NAME, OUTSIDE);
    // Each attempt makes a connection of its own.
    receiver.on("/hook", Script::answer(200, "").header("connection", "close"));
    let server = Server::start_with(&receiver.ca_file(), &format!("name_servers = [\"{}\"]\n", names.address()));
    Setting { receiver, names, server }
}

impl Setting {
    fn url(&self) -> String {
        self.receiver.url_as(NAME, "/hook")
    }

    async fn webhook(&self, profile: &str) -> Value {
        let input = json!({ "url": self.url(), "eventFilters": ["user.created"], "enabled": true, "profile": profile });
        let mut created = self.server.data(CREATE, json!({ "input": input })).await["m"].take();
        assert_eq!(created["userErrors"], json!([]));
        created["webhook"]["id"].take()
    }

    /// Does it to the thing with that id.
    async fn change(&self, mutation: &str, id: &Value) -> Value {
        let done = self.server.data(mutation, json!({ "id": id })).await["m"].take();
        assert_eq!(done["userErrors"], json!([]), "{mutation}");
        done
    }

    async fn publish(&self) {
        self.change(PUBLISH, &Value::Null).await;
    }

    /// Waits until so many attempts of the webhook were blocked; they are local, and tell no address.
    async fn blocked(&self, id: &Value, count: usize) -> Value {
        let is_blocked = |attempt: &&Value| attempt["outcome"] == json!("ADDRESS_BLOCKED");
        let enough = |data: &Value| attempts(data).into_iter().filter(is_blocked).count() >= count;
        let listed = self.server.until(DELIVERIES, json!({ "id": id }), enough).await;
        for attempt in attempts(&listed).into_iter().filter(is_blocked) {
            assert_eq!((&attempt["failureClass"], &attempt["statusCode"]), (&json!("LOCAL"), &Value::Null));
            assert!(!attempt.to_string().contains("10.9"), "{attempt}");
        }
        listed
    }

    async fn until_all(&self, id: &Value, status: &str) -> Value {
        let is = |delivery: &Value| delivery["status"] == json!(status);
        let all = |data: &Value| !nodes(data).is_empty() && nodes(data).iter().all(is);
        self.server.until(DELIVERIES, json!({ "id": id }), all).await
    }
}

fn nodes(data: &Value) -> &[Value] {
    data["deliveries"]["nodes"].as_array().unwrap()
}

fn attempts(data: &Value) -> Vec<&Value> {
    nodes(data).iter().flat_map(|delivery| delivery["attempts"]["nodes"].as_array().unwrap()).collect()
}

// S4
#[tokio::test(flavor = "multi_thread")]
async fn a_url_whose_name_leads_inside_is_neither_created_nor_set_and_the_reason_is_told() {
    let setting = setting().await;
    let id = setting.webhook("standard-v1").await;
    let connections = setting.receiver.connections();
    for (answers, reason) in [(INSIDE, "address_forbidden"), (&[], "host_unresolved")] {
        setting.names.tell(NAME, answers);
        let input = json!({ "url": setting.url(), "eventFilters": ["user.created"], "enabled": true });
        let created = setting.server.data(CREATE, json!({ "input": input })).await;
        let updated = setting.server.data(UPDATE, json!({ "id": id, "url": setting.url() })).await;
        for answer in [&created["m"], &updated["m"]] {
            let error = &answer["userErrors"][0];
            assert_eq!((&error["code"], &error["reason"]), (&json!("WEBHOOK_INVALID_URL"), &json!(reason)));
            assert_eq!((&error["path"], &answer["webhook"]), (&json!(["input", "url"]), &Value::Null));
            assert!(!answer.to_string().contains("10.9"), "{answer}");
        }
    }
    let own = format!("{}/graphql", setting.server.url("").replace("http://", "https://"));
    let input = json!({ "url": own, "eventFilters": ["user.created"], "enabled": true });
    let ourselves = setting.server.data(CREATE, json!({ "input": input })).await;
    assert_eq!(ourselves["m"]["userErrors"][0]["reason"], json!("address_forbidden"), "{ourselves}");
    assert_eq!(setting.receiver.connections(), connections);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_a_test_a_redelivery_and_a_job_to_a_name_that_has_moved_inside_are_blocked() {
    let setting = setting().await;
    let id = setting.webhook("standard-v1").await;
    setting.publish().await;
    setting.receiver.wait_for(1).await;
    let first = setting.until_all(&id, "SUCCEEDED").await;
    let connections = setting.receiver.connections();

    setting.names.tell(NAME, INSIDE);
    let test = setting.server.data(TEST, json!({ "id": id })).await["m"].take();
    let outcome = (&test["result"]["outcome"], &test["result"]["verified"], &test["userErrors"][0]["code"]);
    assert_eq!(outcome, (&json!("ADDRESS_BLOCKED"), &json!(false), &json!("WEBHOOK_TEST_FAILED")));
    assert!(!test.to_string().contains("10.9"), "{test}");
    setting.publish().await;
    setting.blocked(&id, 2).await;
    setting.change(REDELIVER, &nodes(&first)[0]["id"]).await;
    let listed = setting.blocked(&id, 3).await;
    assert_eq!(setting.receiver.connections(), connections, "nothing was sent");
    assert_eq!(nodes(&listed).iter().filter(|delivery| delivery["status"] == json!("PENDING")).count(), 2);

    setting.names.tell(NAME, OUTSIDE);
    setting.until_all(&id, "SUCCEEDED").await;
    setting.names.tell(NAME, INSIDE);
    let input = json!({ "webhookId": id, "statuses": ["SUCCEEDED"] });
    let job = setting.server.data(JOB, json!({ "input": input })).await;
    assert_eq!(job["m"]["userErrors"], json!([]), "{job}");
    let before = setting.receiver.connections();
    let pending = |data: &Value| {
        let waits = |delivery: &&Value| delivery["status"] == json!("PENDING");
        let blocked = |delivery: &Value| delivery["attempts"]["nodes"][0]["outcome"] == json!("ADDRESS_BLOCKED");
        nodes(data).iter().filter(waits).count() == 2 && nodes(data).iter().filter(waits).all(blocked)
    };
    setting.server.until(DELIVERIES, json!({ "id": id }), pending).await;
    assert_eq!(setting.receiver.connections(), before, "nothing was sent");

    let audit = setting.server.data(AUDIT, Value::Null).await;
    let told = |entry: &&Value| entry["code"] == json!("TENANT_WEBHOOK_EGRESS_BLOCKED");
    let told: Vec<_> = audit["auditLog"]["nodes"].as_array().unwrap().iter().filter(told).collect();
    let [entry] = told.as_slice() else { panic!("once an hour: {audit}") };
    assert_eq!(entry["targetId"], id);
    assert!(entry["changes"]["delivery"]["to"].is_string() && !audit.to_string().contains("10.9"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_and_a_restored_webhook_whose_name_has_moved_inside_are_blocked() {
    let setting = setting().await;
    let id = setting.webhook("axissynapse-v1").await;
    setting.receiver.on("/hook", Script::answer(500, "").header("connection", "close"));
    for count in 1..=10 {
        setting.publish().await;
        setting.receiver.wait_for(count).await;
    }
    let is = |state: &str| {
        let state = json!(state);
        move |data: &Value| data["webhook"]["circuit"]["state"] == state
    };
    setting.server.until(CIRCUIT, json!({ "id": id }), is("OPEN")).await;
    setting.names.tell(NAME, INSIDE);
    let connections = setting.receiver.connections();
    setting.change(REENABLE, &id).await;
    setting.blocked(&id, 1).await;
    let state = setting.server.data(CIRCUIT, json!({ "id": id })).await;
    assert_eq!(state["webhook"]["circuit"]["state"], json!("HALF_OPEN"), "it says nothing about the endpoint");

    let other = setting.server.data(DELETE, json!({ "id": id })).await;
    assert_eq!(other["m"]["userErrors"], json!([]));
    setting.change(RESTORE, &id).await;
    setting.change(ENABLE, &id).await;
    let before = attempts(&setting.server.data(DELIVERIES, json!({ "id": id })).await).len();
    setting.publish().await;
    let more = |data: &Value| {
        attempts(data).len() > before && nodes(data)[0]["attempts"]["nodes"][0]["outcome"] == json!("ADDRESS_BLOCKED")
    };
    setting.server.until(DELIVERIES, json!({ "id": id }), more).await;
    assert_eq!(setting.receiver.connections(), connections, "nothing was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_in_the_environment_of_the_server_are_not_asked() {
    let receiver = Receiver::start().await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let mut environment: Vec<_> = names.into_iter().map(|name| (name, address.clone())).collect();
    environment.extend([("NO_PROXY", String::new()), ("no_proxy", "receiver.example.com".to_owned())]);
    let server = Server::start_among(&receiver.ca_file(), environment);
    let input = json!({ "url": receiver.url("/hook"), "eventFilters": ["user.created"], "enabled": true });
    let created = server.data(CREATE, json!({ "input": input })).await;
    assert_eq!(created["m"]["userErrors"], json!([]), "{created}");
    server.data(PUBLISH, Value::Null).await;
    tokio::select! {
        _ = receiver.wait_for(1) => {}
        _ = proxy.accept() => panic!("the proxy was asked"),
    }
}

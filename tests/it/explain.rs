//! What would be delivered, what was and why, and that nothing is missing: through the API, over both databases.

use serde_json::{Value, json};

use crate::support::receiver::{Receiver, Script};
use crate::support::server::{Kind, Server, on_both};

const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) {
    message { id } userErrors { code message } } }";
const PREVIEW: &str =
    "query($filters: [String!]!, $last: Int) { filterPreview(filters: $filters, lastMessages: $last) {
    eventTypes { name } hints { filter suggestion missedEventTypes }
    messagesLookedAt messagesMatched messages { id type } } }";

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id } userErrors { code message } } }";
const CIRCUIT: &str = "query($id: ID!) { webhook(id: $id) { circuit { state } } }";
const CHANGE: [(&str, &str); 4] = [
    (
        "hold",
        "mutation($id: ID!) { m: holdWebhook(input: { webhookId: $id, until: \"2999-01-01T00:00:00Z\" }) { userErrors { code } } }",
    ),
    (
        "reenable",
        "mutation($id: ID!) { m: reenableWebhook(input: { webhookId: $id, backlog: DISCARD }) { userErrors { code } } }",
    ),
    ("disable", "mutation($id: ID!) { m: disableWebhook(input: { webhookId: $id }) { userErrors { code } } }"),
    ("delete", "mutation($id: ID!) { m: deleteWebhook(input: { webhookId: $id }) { userErrors { code } } }"),
];
const REDELIVER: &str =
    "mutation($id: ID!) { m: redeliverDelivery(input: { deliveryId: $id }) { userErrors { code } } }";
const EXPLAIN: &str =
    "query($message: ID!, $webhook: ID!) { explainDelivery(messageId: $message, webhookId: $webhook) {
    verdict reason webhookVersion eventFilters deliveries { id status sequence redeliveryOf { id } } } }";
const REPORT: &str = "query($webhook: ID!, $from: Long, $to: Long, $first: Int! = 100) {
    sequenceReport(webhookId: $webhook, from: $from, to: $to) { from to firstKnown lastKnown delivered undeliveredCount
        undelivered(first: $first) { sequence delivery { id status } } } }";

/// A server with a webhook that is sent everything of users.
struct Explained {
    server: Server,
    webhook: Value,
}

impl Explained {
    async fn change(&self, what: &str) {
        let (_, mutation) = CHANGE.iter().find(|(name, _)| *name == what).unwrap();
        let done = self.server.data(mutation, json!({ "id": self.webhook })).await;
        assert_eq!(done["m"]["userErrors"], json!([]), "{what}");
    }

    /// The explanation, as soon as it has that verdict.
    async fn explain(&self, message: &Value, verdict: &str) -> Value {
        let variables = json!({ "message": message, "webhook": self.webhook });
        let fits = |data: &Value| data["explainDelivery"]["verdict"] == json!(verdict);
        let explained = self.server.until(EXPLAIN, variables, fits).await["explainDelivery"].take();
        assert!(explained["reason"].is_string(), "{explained}");
        explained
    }

    /// The report, as soon as so many were delivered, and so many were not.
    async fn report(&self, delivered: u32, undelivered: u32) -> Value {
        let fits = |data: &Value| {
            let report = &data["sequenceReport"];
            (&report["delivered"], &report["undeliveredCount"]) == (&json!(delivered), &json!(undelivered))
        };
        self.server.until(REPORT, json!({ "webhook": self.webhook }), fits).await["sequenceReport"].take()
    }
}

async fn it_is_told_why_a_message_was_not_delivered_and_which_numbers_are_missing(kind: Kind) {
    // S22, S25, S33
    let receiver = Receiver::start().await;
    let server = Server::start_on(kind, &receiver.ca_file()).await;
    let early = publish(&server, "user.created").await;
    let input = json!({
        "url": receiver.url("/hook"), "eventFilters": ["user.*"], "enabled": true, "profile": "axissynapse-v1",
    });
    let created = server.data(CREATE, json!({ "input": input })).await;
    let it = Explained { webhook: created["createWebhook"]["webhook"]["id"].clone(), server };
    let unborn = it.explain(&early, "WEBHOOK_NOT_CREATED_YET").await;
    assert_eq!((&unborn["webhookVersion"], &unborn["eventFilters"]), (&Value::Null, &Value::Null));
    let role = publish(&it.server, "role.changed").await;
    let mismatch = it.explain(&role, "FILTER_MISMATCH").await;
    assert_eq!((&mismatch["webhookVersion"], &mismatch["eventFilters"]), (&json!(1), &json!(["user.*"])));
    assert_eq!(it.report(0, 0).await["from"], Value::Null);
    let first = publish(&it.server, "user.created").await;
    let delivered = it.explain(&first, "DELIVERED").await;
    assert_eq!(delivered["deliveries"][0]["sequence"], json!("1"));

    receiver.on("/hook", Script::status(500));
    let mut failing = vec![];
    for count in 2..=11 {
        failing.push(publish(&it.server, "user.created").await);
        receiver.wait_for(count).await;
    }
    let open = |data: &Value| data["webhook"]["circuit"]["state"] == json!("OPEN");
    it.server.until(CIRCUIT, json!({ "id": it.webhook }), open).await;
    let waiting = publish(&it.server, "user.created").await;
    assert_eq!(it.explain(&waiting, "WAITING_FOR_CIRCUIT").await["deliveries"], json!([]));
    let pending = it.explain(&failing[0], "WAITING_FOR_CIRCUIT").await;
    assert_eq!(pending["deliveries"][0]["status"], json!("PENDING"));

    receiver.on("/hook", Script::status(200));
    it.change("reenable").await;
    let skipped = it.explain(&waiting, "SKIPPED").await;
    assert!(skipped["reason"].as_str().unwrap().contains("DISCARD"), "{skipped}");
    let cancelled = it.explain(&failing[0], "CANCELLED").await;
    assert!(cancelled["reason"].as_str().unwrap().contains("circuit breaker"), "{cancelled}");
    let report = it.report(1, 10).await;
    assert_eq!((&report["from"], &report["to"], &report["lastKnown"]), (&json!("1"), &json!("11"), &json!("11")));
    let mut missing = vec![];
    for (number, message) in (2..).zip(&failing) {
        let delivery = it.explain(message, "CANCELLED").await["deliveries"][0]["id"].take();
        missing.push(json!({ "sequence": number.to_string(), "delivery": { "id": delivery, "status": "CANCELLED" } }));
    }
    it.server
        .until(REPORT, json!({ "webhook": it.webhook }), |data| data["sequenceReport"]["undelivered"] == json!(missing))
        .await;
    let part = json!({ "webhook": it.webhook, "from": "3", "to": "5", "first": 2 });
    let part = it.server.data(REPORT, part).await["sequenceReport"].take();
    assert_eq!((&part["undeliveredCount"], &part["undelivered"]), (&json!(3), &json!(missing[1..3])));

    // A repetition fills the gap.
    let again = missing[0]["delivery"]["id"].clone();
    let redelivered = it.server.data(REDELIVER, json!({ "id": again })).await;
    assert_eq!(redelivered["m"]["userErrors"], json!([]));
    let repeated = it.explain(&failing[0], "DELIVERED").await;
    assert_eq!(repeated["deliveries"][0]["redeliveryOf"]["id"], again, "{repeated}");
    assert_eq!(repeated["deliveries"][1]["id"], again);
    assert_eq!(it.report(2, 9).await["undelivered"][0], missing[1]);

    it.change("disable").await;
    let held = publish(&it.server, "user.created").await;
    assert_eq!(it.explain(&held, "WEBHOOK_DISABLED").await["webhookVersion"], json!(2));
    it.change("delete").await;
    let late = publish(&it.server, "user.created").await;
    it.explain(&late, "WEBHOOK_DELETED").await;
    it.explain(&first, "DELIVERED").await;
    it.report(2, 9).await;

    let nobody = json!({ "message": "evt_1", "webhook": it.webhook });
    assert_eq!(it.server.data(EXPLAIN, nobody).await["explainDelivery"], Value::Null);
    let wrong = json!({ "webhook": it.webhook, "from": "1", "to": "10001" });
    let wrong = it.server.graphql(REPORT, wrong).await;
    assert_eq!(wrong["errors"][0]["extensions"]["code"], json!("INVALID_INPUT"), "{wrong}");
}

/// The id of a new message of that type.
async fn publish(server: &Server, event_type: &str) -> Value {
    let input = json!({ "type": event_type, "data": {} });
    let mut published = server.data(PUBLISH, json!({ "input": input })).await;
    assert_eq!(published["publishMessage"]["userErrors"], json!([]));
    published["publishMessage"]["message"]["id"].take()
}

async fn it_is_told_what_is_still_owed_and_what_has_failed(kind: Kind) {
    // S25, S33
    let receiver = Receiver::start().await;
    let server = Server::start_on(kind, &receiver.ca_file()).await;
    let input = json!({
        "url": receiver.url("/hook"), "eventFilters": ["user.*"], "enabled": true, "profile": "axissynapse-v1",
    });
    let created = server.data(CREATE, json!({ "input": input })).await;
    let it = Explained { webhook: created["createWebhook"]["webhook"]["id"].clone(), server };

    receiver.on("/hook", Script::hang());
    let under_way = publish(&it.server, "user.created").await;
    receiver.wait_for(1).await;
    let variables = json!({ "message": under_way, "webhook": it.webhook });
    let scheduled = |data: &Value| data["explainDelivery"]["deliveries"][0]["status"] == json!("PENDING");
    let pending = it.server.until(EXPLAIN, variables, scheduled).await["explainDelivery"].take();
    assert_eq!((&pending["verdict"], &pending["webhookVersion"]), (&json!("PENDING"), &json!(1)));

    receiver.on("/hook", Script::status(500));
    let failing = publish(&it.server, "user.created").await;
    receiver.wait_for(2).await;
    let retried = |data: &Value| data["explainDelivery"]["reason"].as_str().is_some_and(|text| text.contains("failed"));
    let variables = json!({ "message": failing, "webhook": it.webhook });
    let pending = it.server.until(EXPLAIN, variables, retried).await["explainDelivery"].take();
    assert_eq!(pending["verdict"], json!("PENDING"), "{pending}");
    assert!(pending["reason"].as_str().unwrap().contains("the next is due at"), "{pending}");

    it.change("hold").await;
    let paused = it.explain(&failing, "PAUSED").await;
    assert!(paused["reason"].as_str().unwrap().contains("2999"), "{paused}");
    let held = publish(&it.server, "user.created").await;
    assert_eq!(it.explain(&held, "PAUSED").await["deliveries"][0]["status"], json!("PENDING"));
}

async fn what_the_endpoint_wants_no_more_has_failed(kind: Kind) {
    // S25
    let receiver = Receiver::start().await;
    receiver.on("/hook", Script::status(410));
    let server = Server::start_on(kind, &receiver.ca_file()).await;
    let input = json!({
        "url": receiver.url("/hook"), "eventFilters": ["user.*"], "enabled": true, "profile": "axissynapse-v1",
    });
    let created = server.data(CREATE, json!({ "input": input })).await;
    let it = Explained { webhook: created["createWebhook"]["webhook"]["id"].clone(), server };
    let message = publish(&it.server, "user.created").await;
    let failed = it.explain(&message, "FAILED").await;
    assert_eq!(failed["reason"], json!("none of 1 attempts succeeded, and no more follow"));
    assert_eq!(failed["deliveries"][0]["status"], json!("FAILED"));
}

async fn filters_are_tried_on_the_catalogue_and_on_past_messages_before_they_are_saved(kind: Kind) {
    // S11
    let receiver = Receiver::start().await;
    let server = Server::start_on(kind, &receiver.ca_file()).await;
    let mut users = vec![];
    for _ in 0..22 {
        users.push(publish(&server, "user.created").await);
    }
    for _ in 0..3 {
        publish(&server, "role.changed").await;
    }
    let filters = json!(["user.created", "platform.saml.*"]);
    let all = |data: &Value| data["filterPreview"]["messagesLookedAt"] == json!(25);
    let data = server.until(PREVIEW, json!({ "filters": filters, "last": 1000 }), all).await;
    let preview = &data["filterPreview"];
    assert_eq!(preview["eventTypes"], json!([{ "name": "user.created" }]));
    let missed = ["disabled", "enabled", "updated"].map(|end| format!("platform.saml.provider.{end}"));
    let hint = json!({ "filter": "platform.saml.*", "suggestion": "platform.saml.**", "missedEventTypes": missed });
    assert_eq!(preview["hints"], json!([hint]));
    assert_eq!(preview["messagesMatched"], json!(22));
    let newest: Vec<_> = users.iter().rev().take(20).map(|id| json!({ "id": id, "type": "user.created" })).collect();
    assert_eq!(preview["messages"], json!(newest));

    let last = server.data(PREVIEW, json!({ "filters": ["user.*"], "last": 4 })).await;
    assert_eq!(
        (&last["filterPreview"]["messagesLookedAt"], &last["filterPreview"]["messagesMatched"]),
        (&json!(4), &json!(1))
    );
    let none = server.data(PREVIEW, json!({ "filters": [] })).await;
    assert_eq!(
        (&none["filterPreview"]["messagesMatched"], &none["filterPreview"]["eventTypes"]),
        (&json!(0), &json!([]))
    );

    for (filters, last, code, says) in [
        (json!(["user.*", "user*"]), json!(100), "WEBHOOK_FILTER_INVALID", "filter 'user*' is invalid"),
        (json!(["user.*"]), json!(1001), "INVALID_INPUT", "1 to 1000"),
        (json!(["user.*"]), json!(0), "INVALID_INPUT", "1 to 1000"),
        (json!(vec!["a"; 51]), json!(1), "INVALID_INPUT", "at most 50 filters"),
    ] {
        let refused = server.graphql(PREVIEW, json!({ "filters": filters, "last": last })).await;
        assert_eq!(refused["errors"][0]["extensions"]["code"], json!(code), "{refused}");
        assert!(refused["errors"][0]["message"].as_str().unwrap().contains(says), "{refused}");
    }
}

on_both! {
    it_is_told_what_is_still_owed_and_what_has_failed,
    what_the_endpoint_wants_no_more_has_failed,
    filters_are_tried_on_the_catalogue_and_on_past_messages_before_they_are_saved,
    it_is_told_why_a_message_was_not_delivered_and_which_numbers_are_missing,
}

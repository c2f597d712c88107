//! The catalogue of a tenant: versions of event types, and those that are deprecated.

use serde_json::{Value, json};
use tidings::domain::event::EventTypeRegistered;
use tidings::domain::filter::EventType;
use tidings::domain::tenant::Command;

use super::{Api, URL};

const REGISTER: &str = "mutation($input: RegisterEventTypeInput!) { registerEventType(input: $input) {
    eventType { name version stage deprecationReason } position userErrors { code path } } }";
const UPDATE: &str = "mutation($input: UpdateEventTypeInput!) { updateEventType(input: $input) {
    eventType { name description version stage deprecationReason schema example } position userErrors { code path } } }";

/// Registers `order.paid`, and what is to be changed of it from then on.
async fn registered(api: &Api) -> impl AsyncFn(Value) -> Value {
    let input = json!({ "name": "order.paid", "category": "orders", "description": "An order was paid.",
        "schema": { "type": "object" }, "example": {} });
    let made = api.data(REGISTER, json!({ "input": input })).await["registerEventType"].take();
    assert_eq!(
        made["eventType"],
        json!({ "name": "order.paid", "version": "1", "stage": "AVAILABLE", "deprecationReason": null })
    );
    async move |mut change: Value| {
        change["name"] = json!("order.paid");
        api.data(UPDATE, json!({ "input": change })).await["updateEventType"].take()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_schema_of_an_event_type_takes_another_version() {
    let api = Api::start().await;
    let update = registered(&api).await;
    let schema = json!({ "type": "object", "required": ["orderId"] });
    let refused = update(json!({ "schema": schema, "example": { "orderId": "1" } })).await;
    let expected = json!([{ "code": "INVALID_INPUT", "path": ["input", "version"] }]);
    assert_eq!((&refused["userErrors"], &refused["position"]), (&expected, &Value::Null));
    let refused = update(json!({ "schema": schema, "version": "2" })).await;
    assert_eq!(refused["userErrors"], json!([{ "code": "INVALID_INPUT", "path": ["input", "example"] }]));
    let changed = update(json!({ "schema": schema, "version": "2", "example": { "orderId": "1" } })).await;
    assert_eq!(
        changed["eventType"],
        json!({ "name": "order.paid", "description": "An order was paid.", "version": "2", "stage": "AVAILABLE",
            "deprecationReason": null, "schema": schema, "example": { "orderId": "1" } })
    );
    let same = update(json!({ "version": "2" })).await;
    assert_eq!((&same["position"], &same["userErrors"]), (&Value::Null, &json!([])));
    for name in ["user.created", "order.sent", "*"] {
        let refused = api.data(UPDATE, json!({ "input": { "name": name, "version": "2" } })).await;
        let expected = json!([{ "code": "NOT_FOUND", "path": ["input", "name"] }]);
        assert_eq!(refused["updateEventType"]["userErrors"], expected, "{name}");
    }
    let audit = "{ auditLog(filter: { codes: [TENANT_EVENT_TYPE_UPDATED] }) { nodes { target { id } changes } } }";
    let told = api.data(audit, json!({})).await["auditLog"]["nodes"].take();
    let changes = json!({ "version": { "from": "1", "to": "2" },
        "example": { "from": null, "to": { "sizeBytes": 15 } } });
    assert_eq!(told, json!([{ "target": { "id": "ety_order.paid" }, "changes": changes }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deprecated_event_type_is_published_and_picked_by_filters_and_says_why() {
    let api = Api::start().await;
    let update = registered(&api).await;
    let create =
        "mutation($url: String!) { createWebhook(input: { url: $url, eventFilters: [\"order.*\"], enabled: true }) {
        webhook { id } } }";
    let webhook = api.data(create, json!({ "url": URL })).await["createWebhook"]["webhook"]["id"].take();
    let deprecated = update(json!({ "deprecationReason": "use order.settled" })).await["eventType"].take();
    assert_eq!(
        (&deprecated["stage"], &deprecated["deprecationReason"]),
        (&json!("DEPRECATED"), &json!("use order.settled"))
    );
    let list =
        "query($id: ID!) { eventTypes(filter: { stages: [DEPRECATED] }) { nodes { name deprecationReason version } }
        eventType(name: \"order.paid\") { deprecationReason } builtIn: eventType(name: \"user.created\") { version }
        webhook(id: $id) { matchingEventTypes { nodes { name } } } }";
    let listed = api.data(list, json!({ "id": webhook })).await;
    let expected = json!([{ "name": "order.paid", "deprecationReason": "use order.settled", "version": "1" }]);
    assert_eq!((&listed["eventTypes"]["nodes"], &listed["builtIn"]["version"]), (&expected, &json!("1")));
    assert_eq!(listed["eventType"]["deprecationReason"], json!("use order.settled"));
    assert_eq!(listed["webhook"]["matchingEventTypes"]["nodes"], json!([{ "name": "order.paid" }]));
    let publish = "mutation { publishMessage(input: { type: \"order.paid\", data: {} }) { message { id } } }";
    let message = api.data(publish, json!({})).await["publishMessage"]["message"]["id"].take();
    let deliveries = "query($id: ID!) { message(id: $id) { deliveries { nodes { webhookId } } } }";
    loop {
        let seen = api.data(deliveries, json!({ "id": message })).await["message"]["deliveries"]["nodes"].take();
        if seen[0]["webhookId"] == webhook {
            break;
        }
        tokio::task::yield_now().await;
    }
    let back = update(json!({ "deprecationReason": null })).await["eventType"].take();
    assert_eq!((&back["stage"], &back["deprecationReason"]), (&json!("AVAILABLE"), &Value::Null));
    let refused = update(json!({ "deprecationReason": "" })).await;
    assert_eq!(refused["userErrors"], json!([{ "code": "INVALID_INPUT", "path": ["input", "deprecationReason"] }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_type_without_an_example_is_deprecated_without_one() {
    let api = Api::start().await;
    // As old versions registered them.
    let registered = EventTypeRegistered {
        name: EventType::parse("order.paid").unwrap(),
        category: "orders".into(),
        description: "An order was paid.".into(),
        version: "1".into(),
        schema: json!({ "type": "object", "required": ["orderId"] }),
        example: None,
    };
    api.command(api.tenant, Command::RegisterEventType(registered)).await;
    let update = async |change: Value| {
        let mut change = change;
        change["name"] = json!("order.paid");
        api.data(UPDATE, json!({ "input": change })).await["updateEventType"].take()
    };
    let changed = update(json!({ "deprecationReason": "use order.settled" })).await;
    assert_eq!(
        (&changed["userErrors"], &changed["eventType"]["stage"], &changed["eventType"]["example"]),
        (&json!([]), &json!("DEPRECATED"), &Value::Null)
    );
    // Another schema is shown by data that conforms to it.
    let refused = update(json!({ "schema": { "type": "object" }, "version": "2" })).await;
    assert_eq!(refused["userErrors"], json!([{ "code": "INVALID_INPUT", "path": ["input", "example"] }]));
    let refused = update(json!({ "example": {} })).await;
    assert_eq!(refused["userErrors"], json!([{ "code": "INVALID_INPUT", "path": ["input", "example"] }]));
    let changed = update(json!({ "example": { "orderId": "1" } })).await;
    assert_eq!(changed["eventType"]["example"], json!({ "orderId": "1" }));
    let audit = "{ auditLog(first: 1, filter: { codes: [TENANT_EVENT_TYPE_UPDATED] }) { nodes { changes } } }";
    let told = api.data(audit, json!({})).await["auditLog"]["nodes"].take();
    assert_eq!(told, json!([{ "changes": { "example": { "from": null, "to": { "sizeBytes": 15 } } } }]));
}

//! What would be delivered, what was and why, and that nothing is missing: through the API, over both databases.

use serde_json::{Value, json};

use crate::support::receiver::Receiver;
use crate::support::server::{Kind, Server, on_both};

const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) {
    message { id } userErrors { code message } } }";
const PREVIEW: &str =
    "query($filters: [String!]!, $last: Int) { filterPreview(filters: $filters, lastMessages: $last) {
    eventTypes { name } hints { filter suggestion missedEventTypes }
    messagesLookedAt messagesMatched messages { id type } } }";

/// The id of a new message of that type.
async fn publish(server: &Server, event_type: &str) -> Value {
    let input = json!({ "type": event_type, "data": {} });
    let mut published = server.data(PUBLISH, json!({ "input": input })).await;
    assert_eq!(published["publishMessage"]["userErrors"], json!([]));
    published["publishMessage"]["message"]["id"].take()
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
    filters_are_tried_on_the_catalogue_and_on_past_messages_before_they_are_saved,
}

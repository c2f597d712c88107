//! Webhooks as they were, asked through the API.

use serde_json::{Value, json};
use tidings::domain::scope::Scope;

use super::{Api, URL};

const SNAPSHOT: &str = "query($id: ID!, $asOf: WebhookSnapshotAsOf!) { webhookSnapshot(id: $id, asOf: $asOf) {
    webhookId asOf version deleted url description eventFilters enabled circuitState profile since until position openDeliveries
    secrets { version fingerprint createdAt validUntil } changes { field from to } actor { kind id } requestId change { code } } }";

const HISTORY: &str = "query($id: ID!, $first: Int, $after: String, $last: Int, $before: String) {
    webhookHistory(id: $id, first: $first, after: $after, last: $last, before: $before) {
        nodes { version asOf since deleted description changes { field from to } }
        pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }";

/// A webhook that is at version 4, and the positions of its versions.
async fn webhook(api: &Api) -> (Value, Vec<Value>) {
    let create = "mutation($url: String!) { m: createWebhook(input: { url: $url, eventFilters: [\"**\"], enabled: true }) { webhook { id } position } }";
    let created = api.data(create, json!({ "url": URL })).await["m"].take();
    let (id, mut positions) = (created["webhook"]["id"].clone(), vec![created["position"].clone()]);
    for change in [
        "updateWebhook(input: { webhookId: $id, description: \"second\" })",
        "rotateWebhookSecret(input: { webhookId: $id, overlapSeconds: 60 })",
        "disableWebhook(input: { webhookId: $id })",
    ] {
        let change = format!("mutation($id: ID!) {{ m: {change} {{ position userErrors {{ code }} }} }}");
        positions.push(api.data(&change, json!({ "id": id })).await["m"]["position"].take());
    }
    (id, positions)
}

async fn snapshot(api: &Api, id: &Value, as_of: Value) -> Value {
    api.data(SNAPSHOT, json!({ "id": id, "asOf": as_of })).await["webhookSnapshot"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_shown_as_it_was_by_version_position_and_time() {
    let api = Api::start().await;
    let (id, positions) = webhook(&api).await;
    let query = "query($id: ID!) { viewer { apiKeyId } webhook(id: $id) { version secrets { version fingerprint createdAt validUntil } } }";
    let now = api.data(query, json!({ "id": id })).await;
    for (number, position) in (1..).zip(&positions) {
        let by_version = snapshot(&api, &id, json!({ "version": number })).await;
        assert_eq!((&by_version["version"], &by_version["position"]), (&json!(number), position));
        assert_eq!(by_version["actor"], json!({ "kind": "API_KEY", "id": now["viewer"]["apiKeyId"] }));
        assert!(by_version["requestId"].as_str().unwrap().starts_with("req_"));
        assert_eq!(snapshot(&api, &id, json!({ "position": position })).await, by_version);
        let by_time = snapshot(&api, &id, json!({ "time": by_version["since"] })).await;
        assert_eq!((&by_time["since"], &by_time["asOf"]), (&by_version["since"], &by_version["since"]));
        assert_eq!(by_version["asOf"], by_version["since"]);
    }
    let later = snapshot(&api, &id, json!({ "time": "2100-01-01T00:00:00.000Z" })).await;
    assert_eq!((&later["version"], &later["asOf"]), (&json!(4), &json!("2100-01-01T00:00:00.000Z")));
    let first = snapshot(&api, &id, json!({ "version": 1 })).await;
    assert_eq!((&first["description"], &first["enabled"]), (&Value::Null, &json!(true)));
    assert_eq!(first["circuitState"], json!("CLOSED"));
    assert_eq!(first["secrets"].as_array().unwrap().len(), 1);
    let second = snapshot(&api, &id, json!({ "version": 2 })).await;
    assert_eq!(second["change"], json!({ "code": "TENANT_WEBHOOK_UPDATED" }));
    assert_eq!(second["changes"], json!([{ "field": "DESCRIPTION", "from": null, "to": "second" }]));
    assert_eq!(first["until"], second["since"]);
    let third = snapshot(&api, &id, json!({ "version": 3 })).await;
    let fingerprint = |version: &Value| version["secrets"][0]["fingerprint"].clone();
    let change = json!({
        "field": "SECRET",
        "from": { "version": 1, "fingerprint": fingerprint(&first) },
        "to": { "version": 2, "fingerprint": fingerprint(&third) },
    });
    assert_eq!(third["changes"], json!([change]));
    let fourth = snapshot(&api, &id, json!({ "version": 4 })).await;
    assert_eq!((&fourth["secrets"], &fourth["version"]), (&now["webhook"]["secrets"], &now["webhook"]["version"]));
    assert_eq!((&fourth["enabled"], &fourth["until"]), (&json!(false), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_webhook_keeps_its_history() {
    let api = Api::start().await;
    let (id, _) = webhook(&api).await;
    let on_webhook =
        "query($id: ID!) { webhook(id: $id) { history(first: 2) { nodes { version } pageInfo { hasNextPage } } } }";
    let alive = api.data(on_webhook, json!({ "id": id })).await;
    let expected = json!({ "nodes": [{ "version": 4 }, { "version": 3 }], "pageInfo": { "hasNextPage": true } });
    assert_eq!(alive["webhook"]["history"], expected);
    let delete = "mutation($id: ID!) { deleteWebhook(input: { webhookId: $id }) { position } }";
    api.data(delete, json!({ "id": id })).await;
    assert_eq!(api.data(on_webhook, json!({ "id": id })).await["webhook"], Value::Null);
    let all = api.data(HISTORY, json!({ "id": id })).await["webhookHistory"].take();
    let versions: Vec<_> = all["nodes"].as_array().unwrap().iter().map(|node| &node["version"]).collect();
    assert_eq!(versions, [5, 4, 3, 2, 1]);
    assert_eq!((&all["nodes"][0]["deleted"], &all["nodes"][1]["deleted"]), (&json!(true), &json!(false)));
    assert_eq!(all["nodes"][0]["description"], json!("second"));
    assert!(all["nodes"].as_array().unwrap().iter().all(|node| node["asOf"] == node["since"]), "{all}");
    let end = snapshot(&api, &id, json!({ "version": 5 })).await;
    assert_eq!((&end["deleted"], &end["openDeliveries"]), (&json!(true), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_paged_from_either_end() {
    let api = Api::start().await;
    let (id, _) = webhook(&api).await;
    let page = async |arguments: Value| {
        let mut variables = arguments;
        variables["id"] = id.clone();
        let page = api.data(HISTORY, variables).await["webhookHistory"].take();
        let versions = page["nodes"].as_array().unwrap().iter().map(|node| node["version"].as_u64().unwrap());
        (versions.collect::<Vec<_>>(), page["pageInfo"].clone())
    };
    let (versions, info) = page(json!({ "first": 3 })).await;
    assert_eq!((versions, &info["hasNextPage"]), (vec![4, 3, 2], &json!(true)));
    let (versions, info) = page(json!({ "first": 3, "after": info["endCursor"] })).await;
    assert_eq!((versions, &info["hasNextPage"], &info["hasPreviousPage"]), (vec![1], &json!(false), &json!(true)));
    let (versions, info) = page(json!({ "last": 2, "before": info["startCursor"] })).await;
    assert_eq!((versions, &info["hasPreviousPage"]), (vec![3, 2], &json!(true)));
    let other = webhook(&api).await.0;
    let answer = api.answer(&api.key, HISTORY, &json!({ "id": other, "after": info["endCursor"] })).await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], json!("INVALID_CURSOR"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_owed_is_counted_at_every_place_of_the_log() {
    let api = Api::start().await;
    let create = "mutation($url: String!) { m: createWebhook(input: { url: $url, eventFilters: [\"**\"], enabled: true }) { webhook { id } } }";
    let id = api.data(create, json!({ "url": URL })).await["m"]["webhook"]["id"].take();
    let publish = "mutation { m: publishMessage(input: { type: \"user.created\", data: {} }) { position } }";
    let position = api.data(publish, json!({})).await["m"]["position"].take();
    let (shard, published) = position.as_str().unwrap().split_once('-').unwrap();
    let published: u64 = published.parse().unwrap();
    let delivered = "{ deliveries { nodes { status } } }";
    while api.data(delivered, json!({})).await["deliveries"]["nodes"][0]["status"] != json!("SUCCEEDED") {
        tokio::task::yield_now().await;
    }
    let mut open = vec![];
    for seq in published..=published + 2 {
        let found = snapshot(&api, &id, json!({ "position": format!("{shard}-{seq}") })).await;
        open.push(found["openDeliveries"].as_u64().unwrap());
    }
    // The message, the delivery that it is owed by, the answer.
    assert_eq!(open, [0, 1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_that_cannot_be_is_the_askers_error() {
    let api = Api::start().await;
    let (id, positions) = webhook(&api).await;
    let (shard, head) = positions[3].as_str().unwrap().split_once('-').unwrap();
    let ahead = format!("{shard}-{}", head.parse::<u64>().unwrap() + 1_000);
    for (as_of, named) in [
        (json!({ "position": ahead }), ahead.as_str()),
        (json!({ "position": "99-1" }), "another shard"),
        (json!({ "position": "yesterday" }), "'yesterday'"),
        (json!({ "version": 5 }), "no version 5; the newest is 4"),
        (json!({ "version": 0 }), "no version 0"),
        (json!({ "version": -1 }), "no version -1"),
    ] {
        let answer = api.answer(&api.key, SNAPSHOT, &json!({ "id": id, "asOf": as_of })).await;
        assert_eq!(answer["data"], json!({ "webhookSnapshot": null }));
        assert_eq!(answer["errors"][0]["extensions"]["code"], json!("INVALID_INPUT"), "{answer}");
        assert!(answer["errors"][0]["message"].as_str().unwrap().contains(named), "{answer}");
    }
    for as_of in [json!({}), json!({ "version": 1, "position": "0-1" }), json!({ "version": null })] {
        let answer = api.answer(&api.key, SNAPSHOT, &json!({ "id": id, "asOf": as_of })).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], json!("GRAPHQL_VALIDATION_FAILED"), "{as_of}: {answer}");
    }
    assert_eq!(snapshot(&api, &id, json!({ "time": "2001-01-01T00:00:00Z" })).await, Value::Null);
    assert_eq!(snapshot(&api, &id, json!({ "position": "0-1" })).await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_of_anothers_webhook_is_like_one_that_never_was() {
    let api = Api::start().await;
    let (id, positions) = webhook(&api).await;
    let other = api.clock.tenant_id();
    api.tenant(other, "other").await;
    let key = api.key(other, &[Scope::WebhooksRead]).await;
    for id in [id.clone(), json!("wh_01ARZ3NDEKTSV4RRFFQ69G5FAV"), json!("no id at all")] {
        for as_of in [json!({ "version": 1 }), json!({ "version": 99 }), json!({ "position": positions[0] })] {
            let answer = api.answer(&key, SNAPSHOT, &json!({ "id": id, "asOf": as_of })).await;
            assert_eq!(answer, json!({ "data": { "webhookSnapshot": null } }));
        }
        let answer = api.answer(&key, HISTORY, &json!({ "id": id })).await;
        assert_eq!(answer, json!({ "data": { "webhookHistory": null } }));
    }
    // What hangs on a webhook that another scope shows needs its own scope still.
    let writer = api.key(api.tenant, &[Scope::WebhooksWrite]).await;
    let enable =
        "mutation($id: ID!) { enableWebhook(input: { webhookId: $id }) { webhook { id history { nodes { url } } } } }";
    let answer = api.answer(&writer, enable, &json!({ "id": id })).await;
    assert_eq!(answer["data"]["enableWebhook"]["webhook"], json!({ "id": id, "history": null }));
    assert_eq!(answer["errors"][0]["extensions"]["code"], json!("FORBIDDEN"));
}

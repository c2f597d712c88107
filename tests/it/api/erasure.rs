//! Erasing by the API: who may, what it answers, and what the receipt says.

use serde_json::{Value, json};
use tidings::domain::scope::Scope;

use super::{Api, URL};

const PUBLISH: &str =
    "mutation($input: PublishMessageInput!) { publishMessage(input: $input) { message { id } userErrors { code } } }";
const ERASE: &str = "mutation($input: EraseMessagesInput!) { eraseMessages(input: $input) {
    erasure { id kind state reason messages messageIds sizeBytes remains { kind until explanation } }
    erasedMessageIds position userErrors { code path } } }";
const ERASE_SUBJECT: &str = "mutation($input: EraseMessagesOfSubjectInput!) { eraseMessagesOfSubject(input: $input) {
    erasure { id kind } userErrors { code path } } }";
const ERASE_TENANT: &str = "mutation($input: EraseTenantInput!) { eraseTenant(input: $input) {
    erasure { id kind } position userErrors { code path } } }";
const RECEIPT: &str = "query($id: ID!) { erasure(id: $id) { state completedAt messages sizeBytes webhooks secrets
    remains { kind until } } }";
const MESSAGE: &str = "query($id: ID!) { message(id: $id) { data erasedAt sizeBytes } }";

async fn publish(api: &Api, data: Value) -> String {
    let done = api.data(PUBLISH, json!({ "input": { "type": "user.created", "data": data } })).await;
    done["publishMessage"]["message"]["id"].as_str().unwrap().to_owned()
}

/// The receipt, when the erasure is complete.
async fn complete(api: &Api, id: &Value) -> Value {
    for _ in 0..3_000 {
        let receipt = api.data(RECEIPT, json!({ "id": id })).await["erasure"].take();
        if receipt["state"] == "COMPLETE" {
            return receipt;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{id} is never complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn erased_data_is_gone_and_a_receipt_says_what_remains() {
    let api = Api::start().await;
    let (gone, other) = (publish(&api, json!({ "a": 1 })).await, publish(&api, json!({ "a": 2 })).await);

    let input = json!({ "messageIds": [gone], "reason": "ticket 4711" });
    let erased = api.data(ERASE, json!({ "input": input })).await["eraseMessages"].take();

    let erasure = &erased["erasure"];
    assert_eq!(erased["userErrors"], json!([]));
    assert_eq!((&erased["erasedMessageIds"], erased["position"].is_string()), (&json!([gone]), true));
    assert_eq!((&erasure["kind"], &erasure["reason"]), (&json!("MESSAGES"), &json!("ticket 4711")));
    assert_eq!(
        (&erasure["messages"], &erasure["messageIds"], &erasure["sizeBytes"]),
        (&json!(1), &json!([gone]), &json!("7"))
    );
    let message = api.data(MESSAGE, json!({ "id": gone })).await["message"].take();
    assert!(message["data"].is_null() && message["erasedAt"].is_string(), "{message}");
    let message = api.data(MESSAGE, json!({ "id": other })).await["message"].take();
    assert_eq!(message, json!({ "data": { "a": 2 }, "erasedAt": null, "sizeBytes": 7 }));

    let receipt = complete(&api, &erasure["id"]).await;
    assert!(receipt["completedAt"].is_string());
    let kinds: Vec<_> = receipt["remains"].as_array().unwrap().iter().map(|one| one["kind"].clone()).collect();
    assert_eq!(kinds, ["BACKUPS", "RESPONSE_PREVIEWS", "METADATA", "RECEIVERS"]);
    assert!(receipt["remains"].as_array().unwrap()[..3].iter().all(|one| one["until"].is_string()), "{receipt}");

    let again = api.data(ERASE, json!({ "input": { "messageIds": [gone] } })).await["eraseMessages"].take();
    assert_eq!((&again["erasure"], &again["erasedMessageIds"]), (&Value::Null, &json!([])));
    let audit = "{ auditLog(filter: { codes: [TENANT_PAYLOAD_ERASED, TENANT_ERASURE_COMPLETED] }) {
        nodes { code targetId changes } } }";
    let nodes = api.data(audit, Value::Null).await["auditLog"]["nodes"].take();
    let codes: Vec<_> = nodes.as_array().unwrap().iter().map(|node| node["code"].clone()).collect();
    assert_eq!(codes, ["TENANT_ERASURE_COMPLETED", "TENANT_PAYLOAD_ERASED"]);
    assert!(nodes.to_string().contains(&gone) && nodes.to_string().contains("ticket 4711"), "{nodes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_erase_erases_nothing() {
    let api = Api::start().await;
    let message = publish(&api, json!({ "a": 1 })).await;
    let stranger = api.clock.tenant_id();
    api.tenant(stranger, "other").await;
    let foreign = api.key(stranger, &[Scope::MessagesErase, Scope::DeliveriesRead]).await;
    let input = json!({ "input": { "messageIds": [message] } });

    // Alone a key may not, unless its tenant lets it.
    let refused = api.answer(&foreign, ERASE, &input).await;
    assert_eq!(refused["errors"][0]["extensions"]["code"], "FORBIDDEN");
    api.command(stranger, tidings::domain::tenant::Command::SetUnattendedKeys(true)).await;
    for (id, code) in [(message.as_str(), "NOT_FOUND"), ("evt_1", "NOT_FOUND")] {
        let answer = api.answer(&foreign, ERASE, &json!({ "input": { "messageIds": [id] } })).await;
        let expected = json!([{ "code": code, "path": ["input", "messageIds"] }]);
        assert_eq!(answer["data"]["eraseMessages"]["userErrors"], expected);
    }
    for input in [json!({ "messageIds": [] }), json!({ "messageIds": vec![message.clone(); 101] })] {
        let answer = api.data(ERASE, json!({ "input": input })).await;
        assert_eq!(answer["eraseMessages"]["userErrors"][0]["code"], "LIMIT_EXCEEDED");
    }
    for (input, field) in [
        (json!({ "pointer": "a", "equals": 1 }), "pointer"),
        (json!({ "pointer": "/a", "equals": {} }), "equals"),
        (json!({ "pointer": "/a", "equals": [1] }), "equals"),
        (json!({ "pointer": "/a", "equals": 1, "types": ["a b"] }), "types"),
        (json!({ "pointer": "/a", "equals": 1, "reason": "x".repeat(501) }), "reason"),
    ] {
        let answer = api.data(ERASE_SUBJECT, json!({ "input": input })).await["eraseMessagesOfSubject"].take();
        let expected = json!([{ "code": "INVALID_INPUT", "path": ["input", field] }]);
        assert_eq!((&answer["erasure"], &answer["userErrors"]), (&Value::Null, &expected));
    }
    assert!(!api.data(MESSAGE, json!({ "id": message })).await["message"]["data"].is_null());
    let receipt = api.data(ERASE, input).await["eraseMessages"]["erasure"].take();
    let seen = api.answer(&foreign, RECEIPT, &json!({ "id": receipt["id"] })).await;
    assert_eq!(seen["data"], json!({ "erasure": null }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subjects_messages_are_found_by_what_they_say() {
    let api = Api::start().await;
    let hers = publish(&api, json!({ "user": { "mail": "ada@example.org" } })).await;
    let his = publish(&api, json!({ "user": { "mail": "bob@example.org" } })).await;
    let begin = async |input: Value| {
        let done = api.data(ERASE_SUBJECT, json!({ "input": input })).await["eraseMessagesOfSubject"].take();
        assert_eq!((&done["userErrors"], &done["erasure"]["kind"]), (&json!([]), &json!("SUBJECT")));
        complete(&api, &done["erasure"]["id"]).await
    };
    let pointer = "/user/mail";
    for narrow in [json!({ "types": ["user.deleted"] }), json!({ "publishedAt": { "to": "1970-01-02T00:00:00Z" } })] {
        let mut input = json!({ "pointer": pointer, "equals": "ada@example.org" });
        input.as_object_mut().unwrap().extend(narrow.as_object().unwrap().clone());
        assert_eq!(begin(input).await["messages"], 0);
    }
    let receipt = begin(json!({ "pointer": pointer, "equals": "ada@example.org", "types": ["user.created"] })).await;
    assert_eq!(receipt["messages"], 1);
    let data = async |id: String| api.data(MESSAGE, json!({ "id": id })).await["message"]["data"].take();
    assert!(data(hers).await.is_null());
    assert_eq!(data(his).await, json!({ "user": { "mail": "bob@example.org" } }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_erases_a_tenant_for_good() {
    let api = Api::start().await;
    let tenant = api.clock.tenant_id();
    api.tenant(tenant, "leaving").await;
    let key = api.key(tenant, &Scope::ALL).await;
    let create = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { userErrors { code } } }";
    let webhook = json!({ "input": { "url": URL, "eventFilters": ["**"] } });
    let message = json!({ "input": { "type": "user.created", "data": {} } });
    api.answer(&key, create, &webhook).await;
    api.answer(&key, PUBLISH, &message).await;

    for (input, field) in [
        (json!({ "tenantId": tenant.to_string(), "slug": "acme" }), "slug"),
        (json!({ "tenantId": api.tenant.to_string(), "slug": "acme" }), "tenantId"),
        (json!({ "tenantId": "ten_1", "slug": "leaving" }), "tenantId"),
    ] {
        let refused = api.data(ERASE_TENANT, json!({ "input": input })).await["eraseTenant"].take();
        assert_eq!(refused["userErrors"][0]["path"], json!(["input", field]), "{refused}");
    }
    let input =
        json!({ "input": { "tenantId": tenant.to_string(), "slug": "leaving", "reason": "the contract ended" } });
    let erased = api.data(ERASE_TENANT, input.clone()).await["eraseTenant"].take();
    assert_eq!((&erased["userErrors"], &erased["erasure"]["kind"]), (&json!([]), &json!("TENANT")));

    let receipt = complete(&api, &erased["erasure"]["id"]).await;
    assert_eq!((&receipt["messages"], &receipt["webhooks"], &receipt["secrets"]), (&json!(1), &json!(1), &json!(1)));
    // Its keys are known no more; what is known of one is looked up anew within a second.
    let mut refused = Value::Null;
    for _ in 0..3_000 {
        refused = api.answer(&key, PUBLISH, &message).await;
        if refused["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED" {
            break;
        }
        assert_eq!(refused["data"]["publishMessage"]["userErrors"], json!([{ "code": "TENANT_ERASED" }]));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(refused["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
    let again = api.data(ERASE_TENANT, input).await["eraseTenant"].take();
    assert_eq!((&again["erasure"]["id"], &again["position"]), (&erased["erasure"]["id"], &Value::Null));
    let marked = "query($id: ID!) { tenant(id: $id) { erasedAt } }";
    assert!(api.data(marked, json!({ "id": tenant.to_string() })).await["tenant"]["erasedAt"].is_string());
}

//! Jobs through the API, with the whole program and a real endpoint: many failed deliveries are made again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tidings::domain::time::Timestamp;

use crate::support::receiver::{Received, Receiver, Script};
use crate::support::server::{Kind, Server, on_both};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id } userErrors { code message path } } }";
const PUBLISH: &str = "mutation($input: PublishMessagesInput!) { publishMessages(input: $input) {
    results { message { id } userErrors { code } } userErrors { code } } }";
const PREVIEW: &str = "query($webhook: ID!, $selection: RedeliverySelection!) {
    redeliveryPreview(webhookId: $webhook, selection: $selection) {
        count oldestCreatedAt newestCreatedAt refused { reason count } complete } }";
const START: &str = "mutation($input: StartRedeliveryInput!) { startRedelivery(input: $input) {
    jobId job { id state kind total ratePerSecond eventFilters } position userErrors { code message path } } }";
const CANCEL: &str = "mutation($input: CancelJobInput!) { cancelJob(input: $input) {
    webhook { currentJob { id } } position userErrors { code path } } }";
const JOBS: &str = "query($webhook: ID!) { webhook(id: $webhook) { currentJob { id waitingFor scheduled }
    jobs { id state total scheduled passedOver waitingFor startedAt endedAt } } }";
const BY_IDS: &str = "mutation($input: RedeliverDeliveriesInput!) { redeliverDeliveries(input: $input) {
    results { deliveryId delivery { redeliveryOf { id } } userErrors { code path } retry } position userErrors { code } } }";
const DELIVERIES: &str =
    "query($webhook: ID!) { deliveries(filter: { webhookId: $webhook }, first: 100) { nodes { id status } } }";
const BACKFILL_PREVIEW: &str = "query($webhook: ID!) {
    backfillPreview(webhookId: $webhook, from: { time: \"2020-01-01T00:00:00Z\" }) { count backfilledBefore complete } }";
const BACKFILL: &str = "mutation($input: StartBackfillInput!) { startBackfill(input: $input) {
    job { kind total } userErrors { code message path } } }";
const SEQUENCES: &str =
    "query($webhook: ID!) { sequenceReport(webhookId: $webhook) { lastKnown delivered undeliveredCount } }";
const AUDIT: &str = "{ auditLog(first: 100) { nodes { code targetId changes } } }";

/// A server with a profile that tries twice, a tenth of a second apart, and never trips.
struct Setting {
    receiver: Receiver,
    server: Server,
    _folder: tempfile::TempDir,
}

async fn setting(kind: Kind) -> Setting {
    let folder = tempfile::tempdir().unwrap();
    let standard = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/profiles/standard-v1.json");
    let mut profile: Value = serde_json::from_str(&fs::read_to_string(standard).unwrap()).unwrap();
    profile["name"] = json!("two-tries-v1");
    profile["retry"] = json!({ "list": { "delays_ms": [100] } });
    profile.as_object_mut().unwrap().remove("breaker");
    fs::write(folder.path().join("two-tries-v1.json"), profile.to_string()).unwrap();
    let receiver = Receiver::start().await;
    let more = format!("[profiles]\npath = \"{}\"\n", folder.path().display());
    let server = Server::start_on_with(kind, &receiver.ca_file(), &more).await;
    Setting { receiver, server, _folder: folder }
}

impl Setting {
    async fn webhook(&self, profile: &str, filters: &[&str]) -> String {
        let url = self.receiver.url("/hook");
        let input = json!({ "url": url, "eventFilters": filters, "enabled": true, "profile": profile });
        let created = &self.server.data(CREATE, json!({ "input": input })).await["createWebhook"];
        assert_eq!(created["userErrors"], json!([]));
        text(&created["webhook"]["id"])
    }

    async fn publish(&self, event_type: &str, count: usize) {
        for from in (0..count).step_by(100) {
            let message = |n: usize| json!({ "type": event_type, "data": { "n": n } });
            let messages: Vec<_> = (from..count.min(from + 100)).map(message).collect();
            let answer = self.server.data(PUBLISH, json!({ "input": { "messages": messages } })).await;
            assert_eq!(answer["publishMessages"]["userErrors"], json!([]));
        }
    }

    /// So many messages, all deliveries of which have failed; and the requests that were made for them.
    async fn failed(&self, webhook: &str, event_type: &str, count: usize) -> Vec<Received> {
        self.receiver.on("/hook", Script::status(500));
        self.publish(event_type, count).await;
        let all = |data: &Value| data["redeliveryPreview"]["count"] == json!(count.to_string());
        let selection = json!({ "eventFilters": [event_type] });
        self.server.until(PREVIEW, json!({ "webhook": webhook, "selection": selection }), all).await;
        self.receiver.on("/hook", Script::status(200));
        self.receiver.requests()
    }

    /// Waits until so many messages have a delivery that succeeded, each one.
    async fn until_succeeded(&self, webhook: &str, count: usize) {
        let all = |data: &Value| data["redeliveryPreview"]["count"] == json!(count.to_string());
        let asked = json!({ "webhook": webhook, "selection": { "statuses": ["SUCCEEDED"] } });
        let data = self.server.until(PREVIEW, asked, all).await;
        assert_eq!(data["redeliveryPreview"]["refused"], json!([]));
    }

    async fn preview(&self, webhook: &str, selection: Value) -> Value {
        let data = self.server.data(PREVIEW, json!({ "webhook": webhook, "selection": selection })).await;
        data["redeliveryPreview"].clone()
    }

    async fn start(&self, input: Value) -> Value {
        self.server.data(START, json!({ "input": input })).await["startRedelivery"].clone()
    }

    async fn refusal(&self, input: Value) -> String {
        text(&self.start(input).await["userErrors"][0]["code"])
    }

    /// The newest job, once it has ended.
    async fn ended(&self, webhook: &str) -> Value {
        let ended = |data: &Value| data["webhook"]["jobs"][0]["endedAt"] != json!(null);
        let data = self.server.until(JOBS, json!({ "webhook": webhook }), ended).await;
        assert_eq!(data["webhook"]["currentJob"], json!(null));
        data["webhook"]["jobs"][0].clone()
    }

    /// How often each code stands in the audit log.
    async fn audited(&self) -> BTreeMap<String, usize> {
        let audit = self.server.data(AUDIT, json!({})).await;
        let mut counts = BTreeMap::new();
        for row in audit["auditLog"]["nodes"].as_array().unwrap() {
            *counts.entry(text(&row["code"])).or_default() += 1;
        }
        counts
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// Ids and bodies, each once.
fn distinct(requests: &[Received]) -> BTreeSet<(String, Vec<u8>)> {
    requests.iter().map(|request| (request.header("webhook-id").unwrap().to_owned(), request.body.clone())).collect()
}

async fn failed_deliveries_are_replayed_with_unchanged_ids_rate_limited_and_audited_once(kind: Kind) {
    // §5.2 fault 21
    let setting = setting(kind).await;
    let id = setting.webhook("two-tries-v1", &["**"]).await;
    let first = setting.failed(&id, "user.created", 300).await;
    let preview = setting.preview(&id, json!({})).await;
    assert_eq!((&preview["refused"], &preview["complete"]), (&json!([]), &json!(true)));
    assert!(text(&preview["oldestCreatedAt"]) <= text(&preview["newestCreatedAt"]));
    let started = setting.start(json!({ "webhookId": id, "ratePerSecond": 200 })).await;
    assert_eq!(started["userErrors"], json!([]));
    assert_eq!((&started["job"]["total"], &started["job"]["state"]), (&json!("300"), &json!("RUNNING")));
    let job = setting.ended(&id).await;
    assert_eq!((&job["id"], &job["state"]), (&started["jobId"], &json!("DONE")));
    assert_eq!((&job["scheduled"], &job["passedOver"]), (&json!("300"), &json!("0")));
    let requests = setting.receiver.wait_for(first.len() + 300).await;
    let again = &requests[first.len()..];
    assert_eq!((again.len(), distinct(again).len()), (300, 300));
    assert_eq!(distinct(again), distinct(&first), "other ids or bodies");
    // 200 a second; a step is 50 at most, and nothing follows the last one.
    let at = |field: &str| Timestamp::parse(&text(&job[field])).unwrap();
    assert!(at("endedAt").ms_since(at("startedAt")) >= 1_250, "{job}");
    // The audit log may be behind the log.
    let audited = loop {
        let audited = setting.audited().await;
        if audited.contains_key("TENANT_WEBHOOK_JOB_ENDED") {
            break audited;
        }
    };
    let count = |code: &str| audited.get(code).copied().unwrap_or(0);
    assert_eq!((count("TENANT_WEBHOOK_JOB_STARTED"), count("TENANT_WEBHOOK_JOB_ENDED")), (1, 1));
    assert_eq!(count("TENANT_WEBHOOK_REDELIVERED"), 0);
    // Nothing is left to be made again.
    let succeeded = |data: &Value| data["redeliveryPreview"]["count"] == json!("300");
    let selection = json!({ "statuses": ["SUCCEEDED"] });
    setting.server.until(PREVIEW, json!({ "webhook": id, "selection": selection }), succeeded).await;
    let preview = setting.preview(&id, json!({})).await;
    assert_eq!(preview["count"], json!("0"));
    assert_eq!(preview["refused"], json!([{ "reason": "REPEATED_SINCE", "count": "300" }]));
}

async fn a_job_survives_the_end_of_the_process_and_makes_nothing_twice(kind: Kind) {
    // §5.2 fault 21
    let mut setting = setting(kind).await;
    let id = setting.webhook("two-tries-v1", &["**"]).await;
    setting.failed(&id, "user.created", 120).await;
    setting.start(json!({ "webhookId": id, "ratePerSecond": 100 })).await;
    let begun = |data: &Value| text(&data["webhook"]["jobs"][0]["scheduled"]).parse::<u64>().unwrap() >= 20;
    setting.server.until(JOBS, json!({ "webhook": id }), begun).await;
    setting.server.kill();
    setting.server.restart();
    let job = setting.ended(&id).await;
    assert_eq!((&job["state"], &job["scheduled"], &job["passedOver"]), (&json!("DONE"), &json!("120"), &json!("0")));
    let selection = json!({ "statuses": ["SUCCEEDED"] });
    let succeeded = |data: &Value| data["redeliveryPreview"]["count"] == json!("120");
    let asked = json!({ "webhook": id, "selection": selection });
    let data = setting.server.until(PREVIEW, asked, succeeded).await;
    assert_eq!(data["redeliveryPreview"]["refused"], json!([]), "a delivery was made again twice");
}

async fn a_job_takes_what_its_range_statuses_and_filters_pick_and_is_cancelled(kind: Kind) {
    let setting = setting(kind).await;
    let id = setting.webhook("two-tries-v1", &["**"]).await;
    setting.failed(&id, "user.created", 30).await;
    setting.failed(&id, "user.deleted", 40).await;
    let before = setting.preview(&id, json!({})).await;
    assert_eq!(before["count"], json!("70"));
    let range = json!({ "from": before["oldestCreatedAt"], "to": before["oldestCreatedAt"] });
    assert_eq!(setting.preview(&id, range).await["count"], json!("0"), "a range is half open");
    let asked = json!({ "webhook": id, "selection": { "eventFilters": ["user.d*"] } });
    let wrong = setting.server.graphql(PREVIEW, asked).await;
    assert_eq!(wrong["errors"][0]["extensions"]["code"], json!("WEBHOOK_FILTER_INVALID"));
    assert_eq!(setting.preview(&id, json!({ "eventFilters": ["*.deleted"] })).await["count"], json!("40"));
    let started = setting.start(json!({ "webhookId": id, "eventFilters": ["*.deleted"], "ratePerSecond": 1 })).await;
    assert_eq!((&started["job"]["total"], &started["job"]["eventFilters"]), (&json!("40"), &json!(["*.deleted"])));
    let second = json!({ "webhookId": id });
    assert_eq!(setting.refusal(second).await, "LIMIT_EXCEEDED");
    let input = json!({ "webhookId": id, "jobId": started["jobId"] });
    let cancelled = setting.server.data(CANCEL, json!({ "input": input })).await["cancelJob"].clone();
    assert_eq!((&cancelled["userErrors"], &cancelled["webhook"]["currentJob"]), (&json!([]), &json!(null)));
    assert_eq!(setting.ended(&id).await["state"], json!("CANCELLED"));
    let cancelled = setting.server.data(CANCEL, json!({ "input": input })).await["cancelJob"].clone();
    assert_eq!(cancelled["userErrors"], json!([{ "code": "NOT_FOUND", "path": ["input", "jobId"] }]));
    setting.start(json!({ "webhookId": id, "eventFilters": ["user.created"], "ratePerSecond": 500 })).await;
    assert_eq!(setting.ended(&id).await["scheduled"], json!("30"));
}

async fn a_job_is_refused_with_a_documented_code(kind: Kind) {
    // A35, C17
    let setting = setting(kind).await;
    let id = setting.webhook("axie-v1", &["user.created"]).await;
    setting.publish("user.created", 1).await;
    setting.receiver.wait_for(1).await;
    let with = |field: &str, value: Value| {
        let mut input = json!({ "webhookId": id });
        input[field] = value;
        input
    };
    assert_eq!(setting.refusal(with("statuses", json!(["SUCCEEDED"]))).await, "NOT_REDELIVERABLE");
    assert_eq!(setting.refusal(with("eventFilters", json!(["a..b"]))).await, "WEBHOOK_FILTER_INVALID");
    for rate in [-1, 0, 501] {
        assert_eq!(setting.refusal(with("ratePerSecond", json!(rate))).await, "INVALID_INPUT");
    }
    assert_eq!(setting.refusal(json!({ "webhookId": "wh_01KAR4SKMR8JE11RP4D1JYK1S1" })).await, "NOT_FOUND");
    let done = |data: &Value| data["redeliveryPreview"]["refused"][0]["count"] == json!("1");
    let asked = json!({ "webhook": id, "selection": { "statuses": ["SUCCEEDED"] } });
    let preview = setting.server.until(PREVIEW, asked, done).await;
    let forbidden = json!([{ "reason": "PROFILE_FORBIDS", "count": "1" }]);
    let pending = json!([{ "reason": "PENDING", "count": "1" }]);
    assert!([forbidden, pending].contains(&preview["redeliveryPreview"]["refused"]), "{preview}");
    let disable = "mutation($id: ID!) { disableWebhook(input: { webhookId: $id }) { userErrors { code } } }";
    setting.server.data(disable, json!({ "id": id })).await;
    assert_eq!(setting.refusal(json!({ "webhookId": id })).await, "NOT_REDELIVERABLE");
    let started = setting.start(with("queue", json!(true))).await;
    assert_eq!(started["userErrors"], json!([]));
    let data = setting.server.data(JOBS, json!({ "webhook": id })).await;
    assert_eq!(data["webhook"]["currentJob"]["waitingFor"], json!("WEBHOOK_DISABLED"));
}

async fn several_deliveries_are_made_again_by_their_ids_each_with_its_own_answer(kind: Kind) {
    // S26
    let setting = setting(kind).await;
    let id = setting.webhook("two-tries-v1", &["**"]).await;
    let first = setting.failed(&id, "user.created", 2).await;
    let data = setting.server.data(DELIVERIES, json!({ "webhook": id })).await;
    let nodes = data["deliveries"]["nodes"].as_array().unwrap();
    let failed: Vec<_> = nodes.iter().map(|node| text(&node["id"])).collect();
    let unknown = "dlv_01KAR4SKMR8JE11RP4D1JYK1D2";
    let input = json!({ "deliveryIds": [failed[0], unknown, failed[1], "nonsense"] });
    let answer = setting.server.data(BY_IDS, json!({ "input": input })).await["redeliverDeliveries"].clone();
    assert_eq!(answer["userErrors"], json!([]));
    let results = answer["results"].as_array().unwrap();
    for (index, original) in [(0, &failed[0]), (2, &failed[1])] {
        assert_eq!(results[index]["delivery"]["redeliveryOf"]["id"], json!(original), "{answer}");
    }
    for index in [1, 3] {
        let path = json!(["input", "deliveryIds", index.to_string()]);
        assert_eq!(results[index]["userErrors"], json!([{ "code": "NOT_FOUND", "path": path }]));
    }
    let requests = setting.receiver.wait_for(first.len() + 2).await;
    assert_eq!(distinct(&requests[first.len()..]), distinct(&first));
    assert_eq!(setting.audited().await["TENANT_WEBHOOK_REDELIVERED"], 2);
    let input = json!({ "deliveryIds": vec![unknown; 101] });
    let answer = setting.server.data(BY_IDS, json!({ "input": input })).await["redeliverDeliveries"].clone();
    assert_eq!(answer["userErrors"][0]["code"], json!("LIMIT_EXCEEDED"));
}

async fn a_webhook_is_backfilled_with_what_it_did_not_want_before_and_nothing_else(kind: Kind) {
    let mut setting = setting(kind).await;
    setting.publish("user.created", 50).await;
    setting.publish("user.deleted", 20).await;
    let id = setting.webhook("two-tries-v1", &["user.created"]).await;
    setting.publish("user.created", 5).await;
    setting.receiver.wait_for(5).await;
    let count = async |setting: &Setting| {
        let preview = setting.server.data(BACKFILL_PREVIEW, json!({ "webhook": id })).await;
        let preview = &preview["backfillPreview"];
        (text(&preview["count"]), text(&preview["backfilledBefore"]))
    };
    assert_eq!(count(&setting).await, ("50".into(), "0".into()));
    let start = async |setting: &Setting, rate: i32| {
        let input = json!({ "webhookId": id, "from": { "time": "2020-01-01T00:00:00Z" }, "ratePerSecond": rate });
        let started = setting.server.data(BACKFILL, json!({ "input": input })).await["startBackfill"].clone();
        assert_eq!((&started["userErrors"], &started["job"]["kind"]), (&json!([]), &json!("BACKFILL")));
        text(&started["job"]["total"])
    };
    assert_eq!(start(&setting, 50).await, "50");
    let begun = |data: &Value| text(&data["webhook"]["jobs"][0]["scheduled"]).parse::<u64>().unwrap() >= 10;
    setting.server.until(JOBS, json!({ "webhook": id }), begun).await;
    setting.server.kill();
    setting.server.restart();
    let job = setting.ended(&id).await;
    assert_eq!((&job["state"], &job["scheduled"], &job["passedOver"]), (&json!("DONE"), &json!("50"), &json!("0")));
    setting.until_succeeded(&id, 55).await;
    let requests = setting.receiver.requests();
    assert_eq!(distinct(&requests).len(), 55);
    // What was never matched has no place among the matches, and the report of those stays true.
    let numbered: Vec<_> = requests.iter().filter(|request| request.header("webhook-sequence").is_some()).collect();
    assert_eq!(numbered.len(), 5);
    let report = setting.server.data(SEQUENCES, json!({ "webhook": id })).await["sequenceReport"].clone();
    assert_eq!(report, json!({ "lastKnown": "5", "delivered": 5, "undeliveredCount": 0 }));
    assert_eq!(count(&setting).await, ("0".into(), "50".into()));
    // Other filters, and a time without sending.
    let update = "mutation($id: ID!) { updateWebhook(input: { webhookId: $id, eventFilters: [\"user.**\"] }) { userErrors { code } } }";
    setting.server.data(update, json!({ "id": id })).await;
    for (mutation, published) in [("disableWebhook", 3), ("enableWebhook", 0)] {
        let text =
            format!("mutation($id: ID!) {{ {mutation}(input: {{ webhookId: $id }}) {{ userErrors {{ code }} }} }}");
        setting.server.data(&text, json!({ "id": id })).await;
        setting.publish("user.created", published).await;
    }
    assert_eq!(count(&setting).await, ("23".into(), "50".into()));
    assert_eq!(start(&setting, 500).await, "73");
    let job = setting.ended(&id).await;
    assert_eq!((&job["scheduled"], &job["passedOver"]), (&json!("23"), &json!("50")));
    setting.until_succeeded(&id, 78).await;
    assert_eq!(distinct(&setting.receiver.requests()).len(), 78);
    let audited = setting.audited().await;
    assert_eq!((audited["TENANT_WEBHOOK_JOB_STARTED"], audited["TENANT_WEBHOOK_JOB_ENDED"]), (2, 2));
    let input = json!({ "webhookId": id, "from": { "position": "99-1" } });
    let wrong = setting.server.data(BACKFILL, json!({ "input": input })).await;
    let error = &wrong["startBackfill"]["userErrors"][0];
    assert_eq!((&error["code"], &error["path"]), (&json!("INVALID_INPUT"), &json!(["input", "from", "position"])));
}

on_both! {
    a_webhook_is_backfilled_with_what_it_did_not_want_before_and_nothing_else,
    failed_deliveries_are_replayed_with_unchanged_ids_rate_limited_and_audited_once,
    a_job_survives_the_end_of_the_process_and_makes_nothing_twice,
    a_job_takes_what_its_range_statuses_and_filters_pick_and_is_cancelled,
    a_job_is_refused_with_a_documented_code,
    several_deliveries_are_made_again_by_their_ids_each_with_its_own_answer,
}

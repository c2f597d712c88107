//! Publishing over plain HTTP, without GraphQL.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tidings::domain::id::TenantId;
use tidings::domain::scope::Scope;
use tidings::error_code::ErrorCode;
use tidings::event_store::Position;
use tokio::sync::mpsc;

use super::Api;

const PATIENCE: Duration = Duration::from_secs(30);
const ONE: &str = r#"{"type":"user.created","data":{"userId":"user_1"}}"#;

impl Api {
    fn publish(&self, content_type: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let request = self.client.post(self.url("/v1/messages")).bearer_auth(&self.key);
        request.header("content-type", content_type).body(body)
    }
}

/// Places in the log, which are told of new messages.
fn positions<'a>(accepted: impl IntoIterator<Item = &'a Value>) -> Vec<Position> {
    let position = |answer: &Value| answer["message"]["position"].as_str().unwrap().parse().unwrap();
    accepted.into_iter().map(position).collect()
}

async fn told(request: RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

async fn lines(request: RequestBuilder) -> Vec<Value> {
    let text = request.send().await.unwrap().text().await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_published_and_under_its_key_only_once() {
    let api = Api::start().await;
    let (status, answer) = told(api.publish("application/json", ONE)).await;
    let message = &answer["message"];
    assert_eq!((status, &message["duplicate"], &message["type"]), (202, &json!(false), &json!("user.created")));
    assert!(api.read_models.wait_for(positions([&answer])[0], PATIENCE).await);
    let query = "query($id: ID!) { message(id: $id) { id createdAt } }";
    let read = api.data(query, json!({ "id": message["id"] })).await;
    assert_eq!(read["message"], json!({ "id": message["id"], "createdAt": message["createdAt"] }));

    let keyed = |key: &str, body: &'static str| api.publish("application/json", body).header("idempotency-key", key);
    let (first, second) = (told(keyed("signup-1", ONE)).await, told(keyed("\"signup-1\"", ONE)).await);
    assert_eq!((first.0, second.0), (202, 200));
    assert_eq!(first.1["message"]["id"], second.1["message"]["id"]);
    assert_eq!(second.1["message"]["duplicate"], true);
    let other = r#"{"type":"user.created","data":{"userId":"user_2"}}"#;
    let (status, refused) = told(keyed("signup-1", other)).await;
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("IDEMPOTENCY_KEY_REUSED")));
    assert_eq!(refused["error"]["field"], "idempotencyKey");
    let both = r#"{"type":"user.created","data":{},"idempotencyKey":"b"}"#;
    let (status, refused) = told(keyed("a", both)).await;
    assert_eq!((status, &refused["error"]["field"]), (422, &json!("idempotencyKey")));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_for_several_messages_is_refused_rather_than_dropped() {
    let api = Api::start().await;
    let in_binary_mode = ["ce-specversion", "ce-id", "ce-source", "ce-type"];
    for (media_type, body, headers) in [
        ("application/json", format!("[{ONE}]"), &[][..]),
        ("application/cloudevents-batch+json", "[]".to_owned(), &[]),
        ("application/x-ndjson", ONE.to_owned(), &[]),
        ("application/json", "{}".to_owned(), &in_binary_mode),
    ] {
        let request = api.publish(media_type, body).header("idempotency-key", "signup-1");
        let request = headers.iter().fold(request, |request, name| request.header(*name, "1.0"));
        let (status, refused) = told(request).await;
        let error = &refused["error"];
        assert_eq!((status, &error["code"], &error["field"]), (422, &json!("INVALID_INPUT"), &json!("idempotencyKey")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_digit_of_a_number_is_kept() {
    let api = Api::start().await;
    let body = r#"{"type":"user.created","data":{"n":12345678901234567890123,"f":0.1000}}"#;
    let (_, answer) = told(api.publish("application/json", body)).await;
    assert!(api.read_models.wait_for(positions([&answer])[0], PATIENCE).await);
    let read = api.post(
        &api.key,
        json!({ "query": "query($id: ID!) { message(id: $id) { data } }", "variables": { "id": answer["message"]["id"] } })
            .to_string(),
    );
    let text = read.send().await.unwrap().text().await.unwrap();
    assert!(text.contains(r#"{"n":12345678901234567890123,"f":0.1"#), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_messages_are_accepted_or_refused_each_on_its_own() {
    let api = Api::start().await;
    let body = r#"[{"type":"user.created","data":{}}, 7, {"type":"nobody.knows","data":{}},
        {"type":"user.created","data":[]}, {"type":"user.created","data":{},"more":1}, {"type":"user.deleted","data":{}}]"#;
    let (status, answer) = told(api.publish("application/json", body)).await;
    let results = answer["results"].as_array().unwrap();
    let codes: Vec<_> = results.iter().map(|result| result["error"]["code"].as_str()).collect();
    let expected =
        [None, Some("BAD_REQUEST"), Some("EVENT_TYPE_UNKNOWN"), Some("INVALID_INPUT"), Some("BAD_REQUEST"), None];
    assert_eq!((status, codes), (200, expected.to_vec()), "{answer}");
    assert!(positions([&results[0], &results[5]]).is_sorted());
    let fields: Vec<_> = [2, 3].iter().map(|index| &results[*index]["error"]["field"]).collect();
    assert_eq!(fields, ["type", "data"]);

    let many = format!("[{}]", vec![ONE; 101].join(","));
    let (status, refused) = told(api.publish("application/json", many)).await;
    assert_eq!((status, &refused["error"]["code"]), (422, &json!("LIMIT_EXCEEDED")));
    let (status, none) = told(api.publish("application/json", "[]")).await;
    assert_eq!((status, none), (200, json!({ "results": [] })));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_answered_in_their_order_whatever_is_in_them() {
    let api = Api::start().await;
    let body = format!("{ONE}\n\n  \r\n{{ no json\n{ONE}\r\n[1]\n\"{}\"\n{ONE}", "\u{e9}".repeat(5));
    let answers = lines(api.publish("application/x-ndjson", body)).await;
    let accepted: Vec<_> = answers.iter().map(|answer| answer["message"]["id"].is_string()).collect();
    assert_eq!(accepted, [true, false, true, false, false, true]);
    let numbers: Vec<_> = answers.iter().map(|answer| answer["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert_eq!(lines(api.publish("application/x-ndjson", "")).await, Vec::<Value>::new());

    let many: String = (0..2_000).map(|_| format!("{ONE}\n")).collect();
    let answers = lines(api.publish("application/x-ndjson", many)).await;
    assert!(answers.len() == 2_000 && positions(&answers).is_sorted());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_answered_before_the_next_one_is_written() {
    let api = Api::start().await;
    let (writer, written) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let line = || Ok(Frame::data(format!("{ONE}\n").into()));
    let body = stream::unfold(written, |mut written| async { Some((written.recv().await?, written)) });
    let body = reqwest::Body::wrap(StreamBody::new(body));
    writer.send(line()).await.unwrap();
    let mut answer = api.publish("application/x-ndjson", body).send().await.unwrap();
    for number in 1..=3 {
        let told: Value = serde_json::from_slice(&answer.chunk().await.unwrap().unwrap()).unwrap();
        assert_eq!((&told["line"], told["message"]["id"].is_string()), (&json!(number), true));
        writer.send(line()).await.unwrap();
    }
    drop(writer);
    assert_eq!(answer.chunk().await.unwrap().map(|rest| rest.ends_with(b"}\n")), Some(true));
    assert_eq!(answer.chunk().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_key_publishes_no_further_line() {
    let api = Api::start().await;
    let key = api.key(api.tenant, &[Scope::MessagesPublish]).await;
    let (writer, written) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = stream::unfold(written, |mut written| async { Some((written.recv().await?, written)) });
    let body = reqwest::Body::wrap(StreamBody::new(body));
    let line = || Ok(Frame::data(format!("{ONE}\n").into()));
    writer.send(line()).await.unwrap();
    let request = api.client.post(api.url("/v1/messages")).bearer_auth(&key).body(body);
    let mut answer = request.header("content-type", "application/x-ndjson").send().await.unwrap();
    assert!(answer.chunk().await.unwrap().unwrap().starts_with(b"{\"line\":1,\"message\""));
    let own = api.answer(&key, "{ viewer { apiKeyId } }", &json!({})).await["data"]["viewer"]["apiKeyId"].clone();
    let revoke = "mutation($id: ID!) { revokeApiKey(input: { apiKeyId: $id }) { userErrors { code } } }";
    api.data(revoke, json!({ "id": own })).await;
    let end: Value = serde_json::from_slice(&answer.chunk().await.unwrap().unwrap()).unwrap();
    assert_eq!(end["error"]["code"], "UNAUTHENTICATED");
    assert_eq!(answer.chunk().await.unwrap(), None);
    // Nobody reads what it would have said.
    drop(writer.send(line()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_does_not_repeat_a_megabyte() {
    let api = Api::start().await;
    for line in [
        format!("{{\"{}\":1}}", "\u{e9}".repeat(300_000)),
        ONE.replace("\"data\"", "\"occurredAt\":\"x\",\"data\"").replace('x', &"x".repeat(500_000)),
    ] {
        let text = api.publish("application/x-ndjson", line).send().await.unwrap().text().await.unwrap();
        assert!(text.contains("\"error\"") && text.len() < 500, "{}", text.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_end_ends_the_request_and_nothing_before_it_is_lost() {
    let api = Api::start().await;
    let body = format!("{ONE}\n{}\n{ONE}\n", "x".repeat(3 * 1024 * 1024));
    let answers = lines(api.publish("application/x-ndjson", body)).await;
    assert!(answers[0]["message"]["id"].is_string());
    assert_eq!((answers.len(), &answers[1]["error"]["code"]), (2, &json!("QUERY_TOO_LARGE")));
}

/// A client that reads nothing before it has written everything.
async fn written_and_then_read(api: &Api, body: &[&[u8]]) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut connection = tokio::net::TcpStream::connect(api.address).await?;
    let length: usize = body.iter().map(|part| part.len()).sum();
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: tidings\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
         Content-Type: application/x-ndjson\r\nContent-Length: {length}\r\n\r\n",
        api.key
    );
    connection.write_all(head.as_bytes()).await?;
    for part in body {
        connection.write_all(part).await?;
    }
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_writes_on_behind_a_line_that_is_too_long_reads_every_answer() {
    let api = Api::start().await;
    let (before, behind) = (format!("{ONE}\n").repeat(200), format!("{ONE}\n").repeat(1_000));
    let too_long = [b"x".repeat(3 * 1024 * 1024), b"\n".to_vec()].concat();
    // More than what the buffers of a connection hold.
    let mut body = vec![before.as_bytes(), too_long.as_slice()];
    body.extend(std::iter::repeat_n(behind.as_bytes(), 1_000));
    let answer = written_and_then_read(&api, &body).await.unwrap();
    assert!(answer.ends_with("\r\n0\r\n\r\n"), "it ends as it should");
    let told: Vec<Value> = answer
        .lines()
        .filter(|line| line.starts_with("{\"line\""))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let accepted = told.iter().take_while(|answer| answer["message"]["id"].is_string()).count();
    assert_eq!((told.len(), accepted), (201, 200));
    assert_eq!((&told[200]["line"], &told[200]["error"]["code"]), (&json!(201), &json!("QUERY_TOO_LARGE")));
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_events_are_taken_in_all_their_modes() {
    let api = Api::start().await;
    let event = |id: &str| {
        json!({
            "specversion": "1.0", "id": id, "source": "/signup", "type": "user.created", "subject": "is not delivered",
            "time": "2026-11-22T10:40:15.5Z", "datacontenttype": "application/json", "data": { "userId": "user_1" },
        })
    };
    let structured = "application/cloudevents+json; charset=UTF-8";
    let (status, first) = told(api.publish(structured, event("1").to_string())).await;
    assert_eq!((status, &first["message"]["occurredAt"]), (202, &json!("2026-11-22T10:40:15.500Z")));

    // Source and id are what makes a CloudEvent the same one, in whatever mode it comes.
    let binary = |id: &str| {
        let request = api.publish("application/json", r#"{"userId":"user_1"}"#);
        let request = request.header("ce-specversion", "1.0").header("ce-id", id).header("ce-source", "/sign%75p");
        request.header("ce-type", "user.created").header("ce-time", "2026-11-22T10:40:15.5Z")
    };
    let (status, again) = told(binary("1")).await;
    assert_eq!((status, &again["message"]["id"]), (200, &first["message"]["id"]));
    assert_eq!(told(binary("2")).await.0, 202);

    // What stands where makes another one.
    let other = |source: &str, id: &str| {
        let mut event = event(id);
        event["source"] = json!(source);
        told(api.publish(structured, event.to_string()))
    };
    let (one, two) = (other("a", "b c").await, other("a b", "c").await);
    assert_eq!((one.0, two.0), (202, 202), "{one:?} {two:?}");

    let batch = json!([event("1"), event("3"), { "specversion": "1.0" }]).to_string();
    let (_, answer) = told(api.publish("application/cloudevents-batch+json", batch)).await;
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results[0]["message"]["duplicate"], true);
    assert_eq!(results[1]["message"]["duplicate"], false);
    assert_eq!(results[2]["error"]["code"], "BAD_REQUEST");

    for (field, value, blamed) in [
        ("specversion", json!("0.3"), "specversion"),
        ("datacontenttype", json!("text/xml"), "data"),
        ("data", Value::Null, "data"),
        ("data_base64", json!("e30="), "data"),
        ("time", json!("yesterday"), "time"),
        ("id", json!("x".repeat(256)), "id"),
        ("source", json!(""), "id"),
    ] {
        let mut wrong = event("4");
        wrong[field] = value;
        let (status, refused) = told(api.publish(structured, wrong.to_string())).await;
        assert_eq!((status, &refused["error"]["field"]), (422, &json!(blamed)), "{field}: {refused}");
    }
    let (status, refused) = told(api.publish("application/json", "{}").header("ce-specversion", "1.0")).await;
    assert_eq!((status, &refused["error"]["field"]), (400, &json!("ce-id")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_is_said_by_status_and_code() {
    let api = Api::start().await;
    let large = format!(r#"{{"type":"user.created","data":{{"a":"{}"}}}}"#, "x".repeat(300 * 1024));
    for (content_type, body, status, code) in [
        ("text/plain", ONE, 415, "BAD_REQUEST"),
        ("application/json; charset=utf-16", ONE, 415, "BAD_REQUEST"),
        ("application/x-www-form-urlencoded", "type=user.created", 415, "BAD_REQUEST"),
        ("application/json", "", 400, "BAD_REQUEST"),
        ("application/json", "{", 400, "BAD_REQUEST"),
        ("application/json", "\"text\"", 400, "BAD_REQUEST"),
        ("application/json", r#"{"type":"user.created"}"#, 400, "BAD_REQUEST"),
        ("application/json", r#"{"type":"user.created","data":7}"#, 422, "INVALID_INPUT"),
        ("application/json", r#"{"type":"nobody.knows","data":{}}"#, 422, "EVENT_TYPE_UNKNOWN"),
        ("application/json", r#"{"type":"webhook.test","data":{}}"#, 422, "INVALID_INPUT"),
        ("application/json", r#"{"type":"user.created","data":{},"occurredAt":"now"}"#, 422, "INVALID_INPUT"),
        ("application/json", &large, 413, "MESSAGE_TOO_LARGE"),
        ("application/json", &" ".repeat(1024 * 1024 + 1), 413, "QUERY_TOO_LARGE"),
    ] {
        let (found, answer) = told(api.publish(content_type, body.to_owned())).await;
        let shown = &body[..body.len().min(80)];
        assert_eq!((found, &answer["error"]["code"]), (status, &json!(code)), "{content_type} {shown}: {answer}");
        assert!(answer["error"]["requestId"].as_str().unwrap().starts_with("req_"));
    }
    let (status, answer) =
        told(api.client.post(api.url("/v1/messages?tenant=x")).bearer_auth(&api.key).body(ONE)).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("BAD_REQUEST")));
    let got = api.client.get(api.url("/v1/messages")).bearer_auth(&api.key).send().await.unwrap();
    assert_eq!(got.status().as_u16(), 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_publish_does_and_only_for_tenants_of_its_own() {
    let api = Api::start().await;
    let other = TenantId::from_parts(7, 7);
    api.tenant(other, "other").await;
    let publishes = api.key(api.tenant, &[Scope::MessagesPublish]).await;
    let reads = api.key(api.tenant, &[Scope::WebhooksRead, Scope::TenantsAdmin]).await;
    let ask = |key: &str, query: &str| {
        let request = api.client.post(api.url(&format!("/v1/messages{query}"))).bearer_auth(key);
        told(request.header("content-type", "application/json").body(ONE))
    };
    let foreign = format!("?tenantId={other}");
    for (key, query, status, code) in [
        (publishes.as_str(), "", 202, None),
        (&publishes, &format!("?tenantId={}", api.tenant), 202, None),
        (&publishes, &foreign, 404, Some("NOT_FOUND")),
        (&publishes, "?tenantId=nonsense", 404, Some("NOT_FOUND")),
        (&reads, "", 403, Some("FORBIDDEN")),
        (&reads, &foreign, 403, Some("FORBIDDEN")),
        (&api.key, &foreign, 202, None),
        ("tdk_nonsense", "", 401, Some("UNAUTHENTICATED")),
    ] {
        let (found, answer) = ask(key, query).await;
        assert_eq!((found, answer["error"]["code"].as_str()), (status, code), "{query}");
    }
    let without = api.client.post(api.url("/v1/messages")).body(ONE).send().await.unwrap();
    assert_eq!(without.status().as_u16(), 401);
    assert!(without.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_describes_itself() {
    let api = Api::start().await;
    let (status, document) = told(api.client.get(api.url("/v1/openapi.json"))).await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let codes = document["components"]["schemas"]["Error"]["properties"]["code"]["enum"].as_array().unwrap().clone();
    let known: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    assert!(codes.iter().all(|code| known.contains(&code.as_str().unwrap())), "{codes:?}");
}

//! Every operation of `docs/operations`, in order, against the program: what the documents and the playground offer
//! does what it says. The variables are filled in as `docs/operations/README.md` tells.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tidings::clock::{Clock, SystemClock};
use tidings::domain::time::Timestamp;

use crate::support::receiver::{Receiver, Script};
use crate::support::server::Server;

/// Longest wait for an answer that shows something.
const PATIENCE: Duration = Duration::from_secs(60);

const PUBLISH: &str = "mutation { publishMessage(input: { type: \"user.created\", data: {} }) { message { id } } }";

/// What the answers of some operations must come to show: they look at what happens beside them.
const SHOWN: &[(&str, &str)] = &[
    ("106-deliveries", "/deliveries/nodes/0/attempts/nodes/0/statusCode"),
    ("201-failing-deliveries", "/deliveries/nodes/0/lastStatusCode"),
    ("202-delivery", "/delivery/attempts/nodes/0/error"),
    ("302-timers", "/webhook/timers/deliveries/nodes/0"),
    ("403-jobs", "/webhook/currentJob/id"),
    ("602-messages", "/messages/nodes/0"),
    ("801-audit-log", "/auditLog/nodes/0"),
];

/// What takes a person who has logged in, or one who exists, and how it is refused to the key that this test has.
const REFUSED: &[(&str, &str)] = &[
    ("910-step-up", "STEP_UP_REJECTED"),
    ("911-disable-user", "NOT_FOUND"),
    // Whoever wants it has to name it twice.
    ("912-erase-tenant", "INVALID_INPUT"),
];

/// An operation as its files have it.
struct Operation {
    name: String,
    query: String,
    variables: Value,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations")
}

fn operations() -> Vec<Operation> {
    let mut paths: Vec<_> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "graphql"));
    paths.sort();
    let read = |path: PathBuf| {
        let variables = path.with_extension("json");
        Operation {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            query: std::fs::read_to_string(&path).unwrap(),
            variables: variables.exists().then(|| std::fs::read(&variables).unwrap()).map_or(json!({}), |text| {
                serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", variables.display()))
            }),
        }
    };
    paths.into_iter().map(read).collect()
}

/// What stands in the place of placeholders.
#[derive(Default)]
struct Placeholders {
    ids: HashMap<String, String>,
    unique: u32,
    endpoint: String,
}

impl Placeholders {
    fn fill(&mut self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.iter().map(|item| self.fill(item)).collect(),
            Value::Object(fields) => fields.iter().map(|(name, field)| (name.clone(), self.fill(field))).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    fn text(&mut self, text: &str) -> String {
        match text {
            "…" => {
                self.unique += 1;
                format!("unique-{}", self.unique)
            }
            "now+1h" => hour_from_now(1),
            "now-1h" => hour_from_now(-1),
            "https://127.0.0.1:9443/hook" => self.endpoint.clone(),
            _ => match text.strip_suffix("_…") {
                Some(kind) => self.ids.get(kind).unwrap_or_else(|| panic!("nothing has shown {text}")).clone(),
                None => text.to_owned(),
            },
        }
    }

    /// Takes note of the first id of each kind.
    fn notice(&mut self, answer: &str) {
        let mut first = HashMap::new();
        for word in answer.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if let Some((kind @ ("wh" | "evt" | "dlv" | "job" | "key" | "ten" | "era"), rest)) = word.split_once('_')
                && rest.len() >= 20
            {
                first.entry(kind.to_owned()).or_insert_with(|| word.to_owned());
            }
        }
        if !answer.contains("\"token\"") {
            first.remove("key");
        }
        if answer.contains("\"testWebhookDelivery\"") {
            first.remove("evt");
        }
        self.ids.extend(first);
    }
}

fn hour_from_now(hours: i64) -> String {
    Timestamp::from_ms(SystemClock.now().as_ms() + hours * 3_600_000).to_rfc3339_ms()
}

/// The `userErrors` anywhere in an answer.
fn user_errors(answer: &Value) -> Vec<Value> {
    match answer {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, field)| match (name.as_str(), field) {
                ("userErrors", Value::Array(errors)) => errors.clone(),
                _ => user_errors(field),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(user_errors).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => vec![],
    }
}

/// What happens at the endpoint, or to the webhook, before an operation that shows it.
async fn prepare(name: &str, receiver: &Receiver, server: &Server, placeholders: &Placeholders) {
    let pending = "query($id: ID) { deliveries(filter: { webhookId: $id, statuses: [PENDING] }) { nodes { id } } }";
    let hold = "mutation($id: ID!, $until: DateTime) {
        holdWebhook(input: { webhookId: $id, until: $until }) { webhook { id } } }";
    let webhook = json!({ "id": placeholders.ids.get("wh") });
    match name {
        "201-failing-deliveries" => {
            receiver.on("/hook", Script::answer(500, "the disk is full"));
            server.data(PUBLISH, json!({})).await;
        }
        "205-reschedule-delivery" => receiver.on("/hook", Script::status(200)),
        "207-redeliver-delivery" | "208-redeliver-deliveries" => {
            server.until(pending, webhook, |data| data["deliveries"]["nodes"] == json!([])).await;
        }
        "302-timers" => drop(server.data(PUBLISH, json!({})).await),
        // Timers are told as of now; what acts on a delivery finds it in the read models.
        "303-cancel-delivery" => {
            let delivery = json!({ "id": placeholders.ids["dlv"] });
            let known = "query($id: ID!) { delivery(id: $id) { id } }";
            server.until(known, delivery, |data| !data["delivery"].is_null()).await;
        }
        // So that the job has not ended before somebody looks at it.
        "402-start-redelivery" => {
            server.data(hold, json!({ "id": webhook["id"], "until": hour_from_now(1) })).await;
        }
        "405-backfill-preview" => drop(server.data(hold, webhook).await),
        _ => {}
    }
}

/// The first thing that a subscription tells, over server-sent events. What it tells of is done again and again until
/// then: nobody knows when it has begun to listen.
async fn watch(operation: &Operation, variables: &Value, server: &Server, webhook: &str) -> Value {
    let body = json!({ "query": operation.query, "variables": variables }).to_string();
    let request = server.client().post(server.url("/graphql")).bearer_auth(&server.key).body(body);
    let mut stream =
        request.header("content-type", "application/json").header("accept", "text/event-stream").send().await.unwrap();
    let mut heard = String::new();
    let mut act = tokio::time::interval(Duration::from_millis(100));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let name = &operation.name;
    let change = "mutation($id: ID!, $text: String) {
        updateWebhook(input: { webhookId: $id, description: $text }) { webhook { id } } }";
    loop {
        if let Some(told) = heard.split("\n\n").find_map(|event| event.strip_prefix("event: next\ndata: ")) {
            let told: Value = serde_json::from_str(told).unwrap();
            assert!(told.get("errors").is_none(), "{name}: {told}");
            return told;
        }
        tokio::select! {
            chunk = stream.chunk() => {
                let chunk = chunk.unwrap().unwrap_or_else(|| panic!("{name} ended: {heard}"));
                heard.push_str(std::str::from_utf8(&chunk).unwrap());
            }
            now = act.tick() => {
                assert!(now < deadline, "{name} told nothing: {heard}");
                server.data(PUBLISH, json!({})).await;
                let text = format!("{:?}", now);
                server.data(change, json!({ "id": webhook, "text": text })).await;
            }
        }
    }
}

/// Its answer, without errors, once it shows what it is to show.
async fn run(operation: &Operation, variables: &Value, server: &Server) -> Value {
    let shown = SHOWN.iter().find(|(name, _)| *name == operation.name).map(|(_, pointer)| *pointer);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = server.graphql(&operation.query, variables.clone()).await;
        let (name, errors) = (&operation.name, user_errors(&answer));
        if let Some((_, code)) = REFUSED.iter().find(|(refused, _)| refused == name) {
            assert_eq!(errors.first().map(|error| &error["code"]), Some(&json!(code)), "{name}: {answer}");
            return answer;
        }
        assert!(answer.get("errors").is_none() && errors.is_empty(), "{name} with {variables}: {answer}");
        let data = &answer["data"];
        if shown.is_none_or(|pointer| data.pointer(pointer).is_some_and(|found| !found.is_null())) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{name} with {variables} never showed {shown:?}: {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_the_documents_does_what_it_says() {
    let receiver = Receiver::start().await;
    let server = Server::start(&receiver.ca_file());
    run_all(&receiver, &server).await;
}

/// Every operation, one after the other; what each has answered.
pub(crate) async fn run_all(receiver: &Receiver, server: &Server) -> Vec<Value> {
    let mut answers = vec![];
    let mut placeholders = Placeholders { endpoint: receiver.url("/hook"), ..Placeholders::default() };
    let operations = operations();
    assert!(operations.len() > 40);
    for operation in &operations {
        prepare(&operation.name, receiver, server, &placeholders).await;
        let variables = placeholders.fill(&operation.variables);
        let answer = match operation.query.contains("\nsubscription ") {
            true => watch(operation, &variables, server, &placeholders.ids["wh"]).await,
            false => run(operation, &variables, server).await,
        };
        let nothing = answer["data"].as_object().unwrap().values().any(Value::is_null);
        assert!(!nothing, "{} with {variables}: {answer}", operation.name);
        placeholders.notice(&answer.to_string());
        answers.push(answer);
    }
    answers
}

#[test]
fn every_operation_says_what_it_is_for_and_every_root_field_has_one() {
    let operations = operations();
    for Operation { name, query, .. } in &operations {
        let (group, title) = query.strip_prefix("# ").and_then(|text| text.lines().next()?.split_once(": ")).unwrap();
        assert!(!group.is_empty() && !title.is_empty() && !title.ends_with('.'), "{name}");
        assert!(name.as_bytes()[..3].iter().all(u8::is_ascii_digit), "{name}: order by number");
    }
    let asked: HashSet<_> = operations.iter().flat_map(|operation| selected(&operation.query)).collect();
    let missing: Vec<_> = root_fields().into_iter().filter(|field| !asked.contains(field)).collect();
    assert_eq!(missing, Vec::<String>::new(), "root fields without an operation in docs/operations");
}

/// The root fields of an operation: its lines with one indentation.
fn selected(query: &str) -> Vec<String> {
    query.lines().filter_map(|line| field_name(line.strip_prefix("  ")?)).collect()
}

/// The name of the field that a line begins with.
fn field_name(line: &str) -> Option<String> {
    let end = line.find(|c: char| !c.is_ascii_alphanumeric())?;
    let is_field = end > 0 && (line[end..].starts_with(['(', ':']) || line[end..].starts_with(" {"));
    is_field.then(|| line[..end].to_owned())
}

/// The names of the fields of Query, Mutation and Subscription.
fn root_fields() -> Vec<String> {
    let sdl = tidings::graphql::sdl();
    let mut inside = false;
    let mut fields = vec![];
    for line in sdl.lines() {
        match line {
            "type Query {" | "type Mutation {" | "type Subscription {" => inside = true,
            "}" => inside = false,
            _ if inside => fields.extend(line.strip_prefix("  ").and_then(field_name)),
            _ => {}
        }
    }
    assert!(fields.len() > 50, "{fields:?}");
    fields
}

//! Rows of the log that cannot be read: everybody but their owner goes on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, SqliteConnection};

use crate::support::receiver::Receiver;
use crate::support::server::{Kind, Server, on_both};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id } userErrors { code message } } }";
const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) { message { id } userErrors { code message } } }";

async fn create(server: &Server, url: String) -> String {
    let input = json!({ "url": url, "eventFilters": ["**"], "enabled": true });
    let created = server.data(CREATE, json!({ "input": input })).await;
    created["createWebhook"]["webhook"]["id"].as_str().unwrap().to_owned()
}

async fn publish(server: &Server, n: usize) {
    let input = json!({ "type": "user.created", "data": { "n": n } });
    server.data(PUBLISH, json!({ "input": input })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_rows_of_one_subscription_stop_no_other() {
    let receiver = Receiver::start().await;
    let mut server = Server::start(&receiver.ca_file());
    let damaged = create(&server, receiver.url("/damaged")).await;
    create(&server, receiver.url("/healthy")).await;
    publish(&server, 0).await;
    receiver.wait_for(2).await;
    assert_eq!(server.terminate(), Some(0));

    let mut workshop = Workshop::open(server.folder().join("log.db")).await;
    let (_, suffix) = damaged.split_once('_').unwrap();
    let streams = format!("stream IN ('subscription-{suffix}', 'deliveries-{suffix}')");
    let mut rows = 0;
    for table in workshop.tables.clone() {
        rows += workshop.run(format!("UPDATE {table} SET data = '{{' WHERE {streams}")).await;
    }
    // It was created, and owed and delivered a message.
    assert!(rows >= 3, "{rows}");
    workshop.close().await;
    // Are built again from the damaged log.
    std::fs::remove_file(server.folder().join("log.db.read-models")).unwrap();

    server.restart();
    for n in 1..=10 {
        publish(&server, n).await;
    }
    receiver.wait_for(12).await;
    let paths: Vec<_> = receiver.requests().into_iter().skip(2).map(|request| request.target).collect();
    assert_eq!(paths, ["/healthy"; 10]);
}

const TENANT: &str = "mutation($input: CreateTenantInput!) { createTenant(input: $input) { tenant { id } userErrors { code message } } }";
const QUARANTINE: &str = "{ quarantine { holds stream position reason since retryAt } }";

/// What becomes of a row.
const DAMAGES: [&str; 6] = [
    "kind = kind || '_of_a_newer_program'",
    "schema = 70000",
    "data = '{'",
    "data = CAST(x'ff' AS TEXT)",
    "event_id = zeroblob(15)",
    "data = NULL",
];

/// A tenant with a webhook.
struct Victim {
    tenant: String,
    webhook: String,
    /// Where its messages arrive.
    path: String,
}

impl Victim {
    async fn new(server: &Server, receiver: &Receiver, number: usize) -> Self {
        let input = json!({ "name": "Acme", "slug": format!("acme-{number}") });
        let made = server.data(TENANT, json!({ "input": input })).await;
        let tenant = made["createTenant"]["tenant"]["id"].as_str().unwrap().to_owned();
        let path = format!("/{number}");
        let input = json!({ "url": receiver.url(&path), "eventFilters": ["**"], "enabled": true, "tenantId": tenant });
        let made = server.data(CREATE, json!({ "input": input })).await;
        let webhook = made["createWebhook"]["webhook"]["id"].as_str().unwrap().to_owned();
        Self { tenant, webhook, path }
    }

    async fn publish(&self, server: &Server) -> Value {
        let input = json!({ "type": "user.created", "data": {}, "tenantId": self.tenant });
        server.graphql(PUBLISH, json!({ "input": input })).await
    }

    fn stream(&self, category: &str) -> String {
        let owner = if matches!(category, "subscription" | "deliveries") { &self.webhook } else { &self.tenant };
        format!("{category}-{}", owner.split_once('_').unwrap().1)
    }
}

/// The log of a server that does not run, with everything off that protects its rows.
struct Workshop {
    log: SqliteConnection,
    tables: Vec<String>,
    triggers: Vec<String>,
}

impl Workshop {
    async fn open(path: PathBuf) -> Self {
        let mut log = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
        let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name IN ('event', 'bucketed_event')";
        let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut log).await.unwrap();
        let triggers = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'";
        let triggers: Vec<(String, String)> = sqlx::query_as(triggers).fetch_all(&mut log).await.unwrap();
        let mut workshop = Self { log, tables, triggers: vec![] };
        for (name, sql) in triggers {
            workshop.run(format!("DROP TRIGGER {name}")).await;
            workshop.triggers.push(sql);
        }
        workshop.run("PRAGMA ignore_check_constraints = ON".into()).await;
        workshop.declare("data TEXT NOT NULL", "data TEXT").await;
        workshop
    }

    async fn run(&mut self, sql: String) -> u64 {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.log).await.unwrap().rows_affected()
    }

    async fn declare(&mut self, from: &str, to: &str) {
        self.run("PRAGMA writable_schema = ON".into()).await;
        for table in self.tables.clone() {
            let change = format!("replace(sql, '{from}', '{to}') WHERE name = '{table}' AND type = 'table'");
            self.run(format!("UPDATE sqlite_schema SET sql = {change}")).await;
        }
        self.run("PRAGMA writable_schema = RESET".into()).await;
    }

    /// Keeps the first row of a stream as it is, and damages it.
    async fn damage(&mut self, stream: &str, damage: &str) {
        let mut rows = 0;
        for table in self.tables.clone() {
            let row = format!("FROM {table} WHERE stream = '{stream}' AND version = 1");
            let kept = format!("kept_{table}");
            self.run(format!("CREATE TABLE IF NOT EXISTS {kept} AS SELECT * FROM {table} WHERE FALSE")).await;
            self.run(format!("INSERT INTO {kept} SELECT * {row}")).await;
            rows += self.run(format!("UPDATE {table} SET {damage} WHERE stream = '{stream}' AND version = 1")).await;
        }
        assert_eq!(rows, 1, "{stream}");
    }

    async fn mend(&mut self) {
        for table in self.tables.clone() {
            self.run(format!("INSERT OR REPLACE INTO {table} SELECT * FROM kept_{table}")).await;
            self.run(format!("DROP TABLE kept_{table}")).await;
        }
    }

    async fn close(mut self) {
        // A declaration that other columns share is not to be doubled.
        self.declare("data TEXT,", "data TEXT NOT NULL,").await;
        for sql in std::mem::take(&mut self.triggers) {
            self.run(sql).await;
        }
        self.log.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_of_any_stream_holds_back_what_it_concerns_and_nothing_else_until_it_is_mended() {
    let receiver = Receiver::start().await;
    let mut server = Server::start(&receiver.ca_file());
    let mut victims = Vec::new();
    for category in ["messages", "subscription", "deliveries", "tenant"] {
        for damage in DAMAGES {
            victims.push((category, damage, Victim::new(&server, &receiver, victims.len()).await));
        }
    }
    let healthy = Victim::new(&server, &receiver, victims.len()).await;
    for (_, _, victim) in &victims {
        victim.publish(&server).await;
    }
    healthy.publish(&server).await;
    let before = victims.len() + 1;
    receiver.wait_for(before).await;
    assert_eq!(server.terminate(), Some(0));

    let path = server.folder().join("log.db");
    let mut workshop = Workshop::open(path.clone()).await;
    for (category, damage, victim) in &victims {
        workshop.damage(&victim.stream(category), damage).await;
    }
    // As if nothing had been matched yet: subscriptions know by themselves what they have seen.
    let first = victims[0].2.stream("messages");
    let tables = workshop.tables.clone();
    for table in tables {
        let to = format!("(SELECT seq - 1 FROM {table} WHERE stream = '{first}' AND version = 1)");
        workshop.run(format!("UPDATE checkpoint SET seq = coalesce({to}, seq) WHERE reader = 'matcher'")).await;
    }
    workshop.close().await;
    server.restart();

    for (category, _, victim) in &victims {
        let answer = victim.publish(&server).await;
        match *category {
            "tenant" => {
                assert_eq!(answer["errors"][0]["extensions"]["code"], "INTERNAL", "{answer}");
                assert_eq!(answer["errors"][0]["message"], "something failed on our side");
            }
            _ => assert!(answer["data"]["publishMessage"]["message"]["id"].is_string(), "{answer}"),
        }
    }
    for _ in 0..5 {
        healthy.publish(&server).await;
    }
    receiver.wait_for(before + 5).await;
    let held = |category: &str| match category {
        "messages" => "MATCHING",
        "tenant" => "TENANT",
        _ => "WEBHOOK",
    };
    let expected: BTreeMap<_, _> =
        victims.iter().map(|(category, _, victim)| (victim.stream(category), held(category))).collect();
    let entries = |data: &Value| data["quarantine"].as_array().unwrap().clone();
    let told = |data: &Value| -> BTreeMap<String, String> {
        let mut entries = entries(data);
        // One that is not loaded for its settings is not matched either.
        entries
            .retain(|entry| entry["holds"] != "MATCHING" || entry["stream"].as_str().unwrap().starts_with("messages-"));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        entries.iter().map(|entry| (text(&entry["stream"]), text(&entry["holds"]))).collect()
    };
    let all =
        |data: &Value| told(data).iter().map(|(stream, holds)| (stream.clone(), holds.as_str())).eq(expected.clone());
    let data = server.until(QUARANTINE, json!({}), all).await;
    for entry in entries(&data) {
        let position = entry["position"].as_str().unwrap();
        assert!(entry["reason"].as_str().unwrap().contains(position), "{entry}");
        assert_eq!(entry["retryAt"].is_null(), entry["holds"] == "TENANT", "{entry}");
    }
    let arrived = || receiver.requests().into_iter().skip(before).map(|request| request.target);
    assert_eq!(arrived().collect::<Vec<_>>(), vec![healthy.path.clone(); 5]);
    let log = server.stderr();
    for (category, damage, victim) in &victims {
        let stream = victim.stream(category);
        let lines = log.lines().filter(|line| line.contains(&stream) && line.contains("ERROR")).count();
        let once = if *category == "subscription" { 2 } else { 1 };
        assert_eq!(lines, once, "'{stream}' with {damage}:\n{log}");
    }
    assert_eq!(server.terminate(), Some(0));

    let mut workshop = Workshop::open(path).await;
    workshop.mend().await;
    workshop.close().await;
    server.restart();
    for (_, _, victim) in victims.iter().filter(|(category, ..)| *category == "tenant") {
        victim.publish(&server).await;
    }
    receiver.wait_for(before + 5 + victims.len()).await;
    let mut arrived: Vec<_> = arrived().skip(5).collect();
    let mut paths: Vec<_> = victims.iter().map(|(_, _, victim)| victim.path.clone()).collect();
    arrived.sort_unstable();
    paths.sort_unstable();
    assert_eq!(arrived, paths);
    assert_eq!(server.data(QUARANTINE, json!({})).await["quarantine"], json!([]));
}

on_both!(a_damaged_row_holds_back_the_rows_of_its_stream_alone_until_it_is_mended);

/// Runs statements on the log of a server that does not run, past all that protects its rows.
async fn change_log(kind: Kind, server: &Server, statements: &[String]) {
    match kind {
        Kind::Sqlite => {
            let mut workshop = Workshop::open(server.folder().join("log.db")).await;
            for statement in statements {
                assert!(workshop.run(statement.clone()).await > 0, "{statement}");
            }
            workshop.close().await;
        }
        Kind::Postgres => {
            let mut log = PgConnection::connect(server.database_url()).await.unwrap();
            sqlx::raw_sql("SET session_replication_role = replica").execute(&mut log).await.unwrap();
            for statement in statements {
                let done = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut log).await.unwrap();
                assert!(done.rows_affected() > 0, "{statement}");
            }
            log.close().await.unwrap();
        }
    }
}

fn tidings(server: &Server, command: &str) -> (Option<i32>, String) {
    let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    process.arg(command).arg("--config").arg(server.config()).env_remove("TIDINGS_SERVER__LISTEN");
    let output = process.output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

const KEY: &str = "mutation($input: CreateApiKeyInput!) { createApiKey(input: $input) { token userErrors { code } } }";
const STATUSES: &str = "{ deliveries(first: 100) { nodes { status } } auditLog(first: 100) { nodes { code } } }";

/// A key that reads what a tenant has.
async fn reading_key(server: &Server, victim: &Victim) -> String {
    let scopes = ["DELIVERIES_READ", "AUDIT_READ"];
    let input = json!({ "name": "reader", "scopes": scopes, "tenantId": victim.tenant });
    let made = server.data(KEY, json!({ "input": input })).await;
    made["createApiKey"]["token"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

/// Asks until so many deliveries of the tenant are shown, all of them successful. Answers with its audit log's codes.
async fn until_delivered(server: &Server, key: &str, count: usize) -> Vec<String> {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let answer = server.try_graphql(key, STATUSES, &Value::Null).await.unwrap();
        if answer["data"]["deliveries"]["nodes"] == json!(vec![json!({ "status": "SUCCEEDED" }); count]) {
            let entries = answer["data"]["auditLog"]["nodes"].as_array().unwrap();
            return entries.iter().map(|entry| entry["code"].as_str().unwrap().to_owned()).collect();
        }
        assert!(tokio::time::Instant::now() < deadline, "never came true: {answer}\n{}", server.stderr());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn a_damaged_row_holds_back_the_rows_of_its_stream_alone_until_it_is_mended(kind: Kind) {
    let receiver = Receiver::start().await;
    let mut server = Server::start_on(kind, &receiver.ca_file()).await;
    let mut victims = Vec::new();
    for number in 0..3 {
        victims.push(Victim::new(&server, &receiver, number).await);
    }
    let mut keys = Vec::new();
    for victim in &victims {
        keys.push(reading_key(&server, victim).await);
        victim.publish(&server).await;
    }
    receiver.wait_for(3).await;
    for key in &keys {
        until_delivered(&server, key, 1).await;
    }
    assert_eq!(server.terminate(), Some(0));

    let row = |stream: String| format!("WHERE stream = '{stream}' AND version = 1");
    let (life, deliveries) = (row(victims[0].stream("subscription")), row(victims[1].stream("deliveries")));
    let break_rows = [
        format!("UPDATE event SET data = '!' || data {life}"),
        format!("UPDATE bucketed_event SET kind = 'new.' || kind {deliveries}"),
    ];
    change_log(kind, &server, &break_rows).await;
    // Are built again from the damaged log.
    std::fs::remove_file(server.folder().join("log.db.read-models")).unwrap();
    server.restart();

    for victim in &victims {
        victim.publish(&server).await;
    }
    receiver.wait_for(4).await;
    let codes = until_delivered(&server, &keys[2], 2).await;
    assert!(codes.contains(&"TENANT_WEBHOOK_CREATED".to_owned()), "{codes:?}");
    let codes = until_delivered(&server, &keys[1], 0).await;
    assert!(codes.contains(&"TENANT_WEBHOOK_CREATED".to_owned()), "{codes:?}");
    let codes = until_delivered(&server, &keys[0], 1).await;
    assert!(!codes.contains(&"TENANT_WEBHOOK_CREATED".to_owned()) && !codes.is_empty(), "{codes:?}");
    let listed = "{ quarantine { holds projection stream } projections { name heldStreams stopped { error } } }";
    let data = server.data(listed, json!({})).await;
    let mut held: Vec<_> = data["quarantine"].as_array().unwrap().iter().collect();
    held.retain(|entry| entry["holds"] == "READ_MODEL");
    let mut held: Vec<_> = held.iter().map(|entry| (entry["projection"].as_str(), entry["stream"].as_str())).collect();
    held.sort_unstable();
    let (life, deliveries) = (victims[0].stream("subscription"), victims[1].stream("deliveries"));
    let mut expected =
        vec![(Some("audit"), Some(&*life)), (Some("webhooks"), Some(&*life)), (Some("deliveries"), Some(&*deliveries))];
    expected.sort_unstable();
    assert_eq!(held, expected, "{data}");
    let projections = data["projections"].as_array().unwrap();
    assert!(projections.iter().all(|projection| projection["stopped"].is_null()), "{data}");
    let counts = projections.iter().map(|projection| projection["heldStreams"].as_str().unwrap());
    let count: u64 = counts.map(|count| count.parse::<u64>().unwrap()).sum();
    assert_eq!(count, 3, "{data}");
    let (code, said) = tidings(&server, "verify");
    assert!(
        code == Some(1) && said.contains(&format!("read model 'deliveries': expected all of stream '{deliveries}'")),
        "{said}"
    );
    assert_eq!(server.terminate(), Some(0));

    let (life, deliveries) = (row(life), row(deliveries));
    let mend_rows = [
        format!("UPDATE event SET data = substr(data, 2) {life}"),
        format!("UPDATE bucketed_event SET kind = substr(kind, 5) {deliveries}"),
    ];
    change_log(kind, &server, &mend_rows).await;
    server.restart();
    receiver.wait_for(6).await;
    for key in &keys {
        until_delivered(&server, key, 2).await;
    }
    server.until(listed, json!({}), |data| data["quarantine"] == json!([])).await;
    // Its rows are those of a rebuild.
    let (code, said) = tidings(&server, "verify");
    assert!(code == Some(0) && said.contains("no difference"), "{said}");
}

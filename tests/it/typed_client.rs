//! A client in Rust whose types are made from the schema and from the operations of `docs/operations`, on the program itself.

use graphql_client::{GraphQLQuery, Response};
use serde_json::{Value, json};

use crate::support::receiver::Receiver;
use crate::support::server::Server;

type DateTime = String;
#[expect(clippy::upper_case_acronyms, reason = "the schema calls it so")]
type JSON = Value;
type Long = String;

#[derive(GraphQLQuery)]
#[graphql(
    schema_path = "schema/schema.graphql",
    query_path = "docs/operations/102-create-webhook.graphql",
    response_derives = "Debug, PartialEq"
)]
struct CreateWebhook;

#[derive(GraphQLQuery)]
#[graphql(
    schema_path = "schema/schema.graphql",
    query_path = "docs/operations/105-publish-message.graphql",
    response_derives = "Debug, PartialEq"
)]
struct PublishMessage;

#[derive(GraphQLQuery)]
#[graphql(
    schema_path = "schema/schema.graphql",
    query_path = "docs/operations/106-deliveries.graphql",
    response_derives = "Debug, PartialEq"
)]
struct Deliveries;

#[derive(GraphQLQuery)]
#[graphql(
    schema_path = "schema/schema.graphql",
    query_path = "docs/operations/405-backfill-preview.graphql",
    response_derives = "Debug, PartialEq"
)]
struct BackfillPreview;

/// The answer to an operation, in its own types.
async fn ask<Operation: GraphQLQuery>(server: &Server, variables: Operation::Variables) -> Operation::ResponseData {
    let body = serde_json::to_string(&Operation::build_query(variables)).unwrap();
    let request = server.client().post(server.url("/graphql")).bearer_auth(&server.key);
    let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
    let answer: Response<Operation::ResponseData> = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(answer.errors, None);
    answer.data.unwrap()
}

async fn create(server: &Server, url: String) -> create_webhook::CreateWebhookCreateWebhook {
    let input = create_webhook::CreateWebhookInput {
        url,
        event_filters: vec!["user.*".to_owned()],
        description: None,
        enabled: Some(true),
        secret: None,
        profile: None,
        rate_limit_per_second: Some(100),
        ordered: false,
        headers: None,
        retry_policy: None,
        notification_emails: vec![],
        tenant_id: None,
    };
    ask::<CreateWebhook>(server, create_webhook::Variables { input }).await.create_webhook.unwrap()
}

async fn backfill(server: &Server, webhook_id: &str, from: backfill_preview::BackfillFrom) -> Option<Long> {
    let variables = backfill_preview::Variables { webhook_id: webhook_id.to_owned(), from };
    ask::<BackfillPreview>(server, variables).await.backfill_preview.map(|preview| preview.count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typed_client_creates_publishes_and_sees_what_was_delivered() {
    let receiver = Receiver::start().await;
    let server = Server::start(&receiver.ca_file());
    let created = create(&server, receiver.url("/hook")).await;
    assert_eq!(created.user_errors, []);
    let webhook = created.webhook.unwrap();
    assert!(webhook.enabled && created.secret.is_some());
    let refused = create(&server, "http://127.0.0.1/".to_owned()).await;
    assert_eq!(refused.user_errors[0].code, create_webhook::UserErrorCode::WEBHOOK_INVALID_URL);
    assert_eq!(refused.user_errors[0].path, ["input", "url"]);

    let data = json!({ "userId": "user_1" });
    let input = publish_message::PublishMessageInput {
        type_: "user.created".to_owned(),
        data: Some(data.clone()),
        data_json: None,
        idempotency_key: Some("signup-1".to_owned()),
        occurred_at: Some("2026-06-02T14:32:11.483Z".to_owned()),
        tenant_id: None,
    };
    let published = ask::<PublishMessage>(&server, publish_message::Variables { input }).await.publish_message.unwrap();
    let message = published.message.unwrap();
    assert_eq!((message.occurred_at.as_str(), published.duplicate), ("2026-06-02T14:32:11.483Z", Some(false)));

    receiver.wait_for(1).await;
    let delivery = loop {
        let variables = deliveries::Variables { webhook_id: Some(webhook.id.clone()) };
        let page = ask::<Deliveries>(&server, variables).await.deliveries.unwrap();
        let mut done =
            page.nodes.into_iter().filter(|delivery| delivery.status == deliveries::DeliveryStatus::SUCCEEDED);
        match done.next() {
            Some(delivery) => break delivery,
            None => tokio::task::yield_now().await,
        }
    };
    let delivered = delivery.message.unwrap();
    assert_eq!((delivered.id, delivered.data), (message.id, Some(data)));
    assert_eq!(delivery.attempts.unwrap().nodes[0].status_code, Some(200));

    // Of an input that takes exactly one of its fields the client makes an enum.
    let early = backfill_preview::BackfillFrom::Time("1970-01-01T00:00:00Z".to_owned());
    let place = backfill_preview::BackfillFrom::Position(published.position.unwrap());
    let late_comer = create(&server, receiver.url("/late")).await.webhook.unwrap();
    assert_eq!(backfill(&server, &late_comer.id, early).await, Some("1".to_owned()));
    assert_eq!(backfill(&server, &late_comer.id, place).await, Some("0".to_owned()));
}

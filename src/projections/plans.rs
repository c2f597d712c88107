//! What SQLite does for each question, pinned: an index is used and nothing is sorted. Each list is asked in both
//! directions, which must go the same way.

use sqlx::{AssertSqlSafe, Row};

use super::page::List;
use super::{
    ReadModels, audit, backfill, candidates, deleted_webhooks, deliveries, delivery_queries, messages,
    statistic_queries, statistics, tenants, users, webhook_queries, webhooks,
};

/// Beside a search for one of several values: those values.
const VALUES: [&str; 2] = ["SCAN json_each VIRTUAL TABLE INDEX 1:", "CREATE BLOOM FILTER"];

/// Without what stands around the tables.
async fn plan(sql: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let models = ReadModels::open(&folder.path().join("read-models.db")).await.unwrap();
    let query = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")));
    let steps = query.fetch_all(&models.inner.database.readers).await.unwrap();
    let steps = steps.iter().map(|row| row.get::<String, _>("detail"));
    steps.filter(|step| !step.contains("SUBQUERY") && !VALUES.contains(&step.as_str())).collect()
}

async fn list_plan(list: &List) -> Vec<String> {
    let ascending = plan(list.ascending).await;
    assert_eq!(ascending, plan(list.descending).await);
    // Walks go along the same range.
    for nth in [list.nth_ascending, list.nth_descending] {
        assert_eq!(plan(nth).await, ascending);
    }
    ascending
}

#[tokio::test]
async fn lists_are_ranges_of_an_index_in_its_order() {
    for (list, search) in [
        (&tenants::TENANTS, "SEARCH tenant USING INDEX sqlite_autoindex_tenant_1 (id>? AND id<?)"),
        (&tenants::API_KEYS, "SEARCH api_key USING INDEX api_key_by_tenant (tenant=? AND rowid>? AND rowid<?)"),
        (&users::USERS, "SEARCH user USING INDEX user_by_tenant (tenant=? AND rowid>? AND rowid<?)"),
        (
            &deleted_webhooks::ALL,
            "SEARCH deleted_webhook USING INDEX deleted_webhook_by_tenant (tenant=? AND rowid>? AND rowid<?)",
        ),
        (&messages::ALL, "SEARCH message USING INDEX message_by_tenant (tenant=? AND rowid>? AND rowid<?)"),
        (
            &messages::OF_TYPE,
            "SEARCH message USING INDEX message_by_event_type (tenant=? AND event_type=? AND rowid>? AND rowid<?)",
        ),
        (
            &delivery_queries::OF_TENANT,
            "SEARCH delivery USING INDEX delivery_by_tenant (tenant=? AND status=? AND rowid>? AND rowid<?)",
        ),
        (
            &delivery_queries::OF_SUBSCRIPTION,
            "SEARCH delivery USING INDEX delivery_by_subscription (subscription=? AND status=? AND rowid>? AND rowid<?)",
        ),
        (
            &delivery_queries::OF_MESSAGE,
            "SEARCH delivery USING INDEX delivery_by_message (message=? AND rowid>? AND rowid<?)",
        ),
        (&audit::ALL, "SEARCH audit USING INDEX audit_by_tenant (tenant=? AND rowid>? AND rowid<?)"),
        (&audit::OF_CODE, "SEARCH audit USING INDEX audit_by_code (tenant=? AND code=? AND rowid>? AND rowid<?)"),
        (&audit::OF_ACTOR, "SEARCH audit USING INDEX audit_by_actor (tenant=? AND actor_id=? AND rowid>? AND rowid<?)"),
        (&audit::OF_TARGET, "SEARCH audit USING INDEX audit_by_target (tenant=? AND target=? AND rowid>? AND rowid<?)"),
    ] {
        assert_eq!(list_plan(list).await, [search]);
    }
}

#[tokio::test]
async fn webhooks_are_ranges_of_an_index_with_their_last_deliveries() {
    let last = "SEARCH last_delivery USING PRIMARY KEY (subscription=?)";
    for (list, search) in [
        (&webhook_queries::ALL, "SEARCH webhook USING INDEX webhook_by_tenant (tenant=? AND rowid>? AND rowid<?)"),
        (
            &webhook_queries::BY_ENABLED,
            "SEARCH webhook USING INDEX webhook_by_enabled (tenant=? AND enabled=? AND rowid>? AND rowid<?)",
        ),
        (
            &webhook_queries::BY_CIRCUIT,
            "SEARCH webhook USING INDEX webhook_by_circuit (tenant=? AND circuit_state=? AND rowid>? AND rowid<?)",
        ),
    ] {
        assert_eq!(list_plan(list).await, [search, last]);
    }
    for sql in [webhooks::BY_IDS, webhooks::TO_FOLD] {
        assert_eq!(plan(sql).await, ["SEARCH webhook USING INDEX sqlite_autoindex_webhook_1 (id=?)", last]);
    }
    let all = "SEARCH webhook USING INDEX webhook_by_tenant (tenant=?)";
    assert_eq!(plan(webhook_queries::SORTABLE).await, [all, last]);
    let by_positions = "SEARCH webhook USING INTEGER PRIMARY KEY (rowid=?)";
    assert_eq!(plan(webhook_queries::BY_POSITIONS).await, [by_positions, last]);
    let counts = "SEARCH webhook USING COVERING INDEX webhook_by_enabled (tenant=?)";
    assert_eq!(plan(webhook_queries::COUNTS).await, [counts]);
    let tripped = "SEARCH webhook USING COVERING INDEX webhook_by_circuit (tenant=? AND circuit_state=?)";
    assert_eq!(plan(webhook_queries::TRIPPED).await, [tripped]);
}

#[tokio::test]
async fn attempts_are_a_range_of_their_key() {
    let delivery = "SEARCH delivery USING INDEX sqlite_autoindex_delivery_1 (id=?)";
    let attempts = "SEARCH attempt USING PRIMARY KEY (delivery=? AND number>? AND number<?)";
    assert_eq!(list_plan(&delivery_queries::ATTEMPTS).await, [attempts, delivery]);
    let attempt = "SEARCH attempt USING PRIMARY KEY (delivery=? AND number=?)";
    assert_eq!(plan(delivery_queries::ATTEMPT).await, [attempt, delivery]);
    assert_eq!(plan(delivery_queries::POSITION).await, [delivery]);
    let earlier = "SEARCH earlier USING INDEX sqlite_autoindex_delivery_1 (id=?)";
    let later = "SEARCH later EXISTS USING INDEX delivery_by_message (message=?)";
    assert_eq!(plan(delivery_queries::DELIVERED_SINCE).await, [earlier, later]);
}

#[tokio::test]
async fn jobs_go_through_a_range_of_an_index() {
    let later = "SEARCH later USING INDEX delivery_by_message (message=? AND rowid>?)";
    let range =
        "SEARCH delivery USING INDEX delivery_by_subscription (subscription=? AND status=? AND rowid>? AND rowid<?)";
    assert_eq!(plan(candidates::ENDED).await, [range, later]);
    let messages = "SEARCH message USING INDEX message_by_tenant (tenant=? AND rowid>? AND rowid<?)";
    let owed = "SEARCH delivery USING INDEX delivery_by_message (message=?)";
    assert_eq!(plan(backfill::MESSAGES).await, [messages, owed]);
    let count = plan(candidates::COUNT).await;
    assert!(count.iter().any(|step| step == range) && count.iter().any(|step| step == later), "{count:?}");
}

#[tokio::test]
async fn lookups_are_searches_of_a_key() {
    for (sql, search) in [
        (tenants::TENANT, "SEARCH tenant USING INDEX sqlite_autoindex_tenant_1 (id=?)"),
        (users::USER, "SEARCH user USING INDEX sqlite_autoindex_user_2 (name=?)"),
        (users::USER_BY_ID, "SEARCH user USING INDEX sqlite_autoindex_user_1 (id=?)"),
        (tenants::API_KEY_USE, "SEARCH api_key_use USING PRIMARY KEY (id=?)"),
        (tenants::API_KEY, "SEARCH api_key USING INDEX sqlite_autoindex_api_key_1 (id=?)"),
        (tenants::EVENT_TYPE, "SEARCH event_type USING PRIMARY KEY (tenant=? AND name=?)"),
        (tenants::EVENT_TYPES, "SEARCH event_type USING PRIMARY KEY (tenant=?)"),
        (messages::BY_IDS, "SEARCH message USING INDEX sqlite_autoindex_message_1 (id=?)"),
        (delivery_queries::BY_IDS, "SEARCH delivery USING INDEX sqlite_autoindex_delivery_1 (id=?)"),
        (delivery_queries::TO_FOLD, "SEARCH delivery USING INDEX sqlite_autoindex_delivery_1 (id=?)"),
        (audit::BY_POSITION, "SEARCH audit USING INTEGER PRIMARY KEY (rowid=?)"),
        (audit::OWNERS, "SEARCH audit_subscription USING PRIMARY KEY (id=?)"),
        (
            deliveries::CANCEL,
            "SEARCH delivery USING COVERING INDEX delivery_by_subscription (subscription=? AND status=?)",
        ),
    ] {
        assert_eq!(plan(sql).await, [search], "{sql}");
    }
}

#[tokio::test]
async fn statistics_are_ranges_of_their_key() {
    let ever = "SEARCH statistic USING PRIMARY KEY (subject=? AND grain=? AND start_ms=?)";
    assert_eq!(plan(statistic_queries::COUNTS).await, [ever]);
    let since = "SEARCH statistic USING PRIMARY KEY (subject=? AND grain=? AND start_ms>?)";
    assert_eq!(plan(statistic_queries::RECENT).await, [since]);
    // What is summed into few steps is grouped in memory.
    let window = "SEARCH statistic USING PRIMARY KEY (subject=? AND grain=? AND start_ms>? AND start_ms<?)";
    assert_eq!(plan(statistic_queries::SERIES).await, [window, "USE TEMP B-TREE FOR GROUP BY"]);
    let empty = "SEARCH statistic USING COVERING INDEX statistic_empty (count=?)";
    assert_eq!(plan(statistics::DROP_EMPTY).await, [empty]);
}

#[tokio::test]
async fn numbers_are_a_range_of_an_index_in_its_order() {
    // S33
    let of = |range: &str| format!("SEARCH delivery USING INDEX delivery_by_sequence (subscription=? AND {range})");
    assert_eq!(plan(delivery_queries::NUMBERS).await, [of("sequence>? AND sequence<?")]);
    for sql in [delivery_queries::FIRST_NUMBER, delivery_queries::LAST_NUMBER] {
        assert_eq!(plan(sql).await, [of("sequence>?")]);
    }
    let by_positions = "SEARCH delivery USING INTEGER PRIMARY KEY (rowid=?)";
    assert_eq!(plan(delivery_queries::BY_POSITIONS).await, [by_positions]);
}

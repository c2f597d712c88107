//! The read models over a real log: they follow it, survive being stopped anywhere, and can be built again.

mod held;
mod history;
mod filters;
mod lists;
mod rebuilding;
mod retention;
mod statistics;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};
use tidings::event_store::{Log, NewEvent, Position};
use tidings::execute;
use tidings::projections::{Followers, Name, Page, ReadModels, StopClass, TenantScope};

use history::History;

/// An event that can be read, and tells of a delivery that was never scheduled.
fn poison(history: &History) -> NewEvent {
    let sample: serde_json::Value =
        serde_json::from_str(include_str!("../../../schema/events/delivery.succeeded.v1.json")).unwrap();
    NewEvent {
        id: history.clock.event_id(),
        kind: "delivery.succeeded".into(),
        schema: 1,
        at: history.clock.now(),
        data: sample["data"].to_string(),
        meta: None,
        content: None,
    }
}

/// Never reached by a test that passes.
const PATIENCE: Duration = Duration::from_secs(60);

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("read-models.db")
    }
}

/// Read models that follow the history.
async fn following(folder: &Folder, history: &History) -> (ReadModels, Followers) {
    let models = ReadModels::open(&folder.path()).await.unwrap();
    let followers = models.follow(history.log.clone());
    (models, followers)
}

async fn caught_up(models: &ReadModels, history: &History) {
    for head in history.heads() {
        assert!(models.wait_for(head, PATIENCE).await, "stopped: {:?}", models.stopped());
    }
}

/// Every row of every table, in order. Checkpoints aside: they may stand before events that concern nobody.
async fn dump(path: &Path) -> Vec<String> {
    let mut connection = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '%sqlx%' AND name NOT IN ('checkpoint', 'stop', 'held', 'api_key_use')";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut connection).await.unwrap();
    let mut lines = Vec::new();
    for table in &tables {
        let columns =
            format!("SELECT group_concat('quote(' || name || ')', '||'',''||') FROM pragma_table_info('{table}')");
        let columns: String = sqlx::query_scalar(AssertSqlSafe(columns)).fetch_one(&mut connection).await.unwrap();
        let rows = format!("SELECT {columns} FROM {table}");
        for row in sqlx::query(AssertSqlSafe(rows)).fetch_all(&mut connection).await.unwrap() {
            lines.push(format!("{table}: {}", row.get::<String, _>(0)));
        }
    }
    connection.close().await.unwrap();
    lines.sort();
    assert!(!lines.is_empty());
    lines
}

async fn rebuilt(log: &Log) -> Vec<String> {
    let folder = Folder::new();
    ReadModels::rebuild(&folder.path(), log.reader(), &Name::ALL, |_, _| {}).await.unwrap();
    dump(&folder.path()).await
}

#[tokio::test]
async fn runners_stopped_anywhere_end_with_the_rows_of_a_rebuild() {
    for (seed, shards) in (1..).zip([1, 1, 1, 3, 3, 64]) {
        println!("seed {seed}, {shards} shards");
        let (folder, mut history) = (Folder::new(), History::over(shards, seed).await);
        let (mut models, mut followers) = following(&folder, &history).await;
        for round in 0..12 {
            for _ in 0..40 {
                history.anything().await;
            }
            let yields = history.clock.random_u64() % 200;
            for _ in 0..yields {
                tokio::task::yield_now().await;
            }
            // Half of them in the middle of whatever they do.
            if round % 2 == 0 {
                followers.stop().await
            } else {
                drop(followers)
            }
            drop(models);
            (models, followers) = following(&folder, &history).await;
        }
        caught_up(&models, &history).await;
        followers.stop().await;
        assert_eq!(dump(&folder.path()).await, rebuilt(&history.log).await, "seed {seed}");
    }
}

#[tokio::test]
async fn events_followed_one_by_one_make_the_rows_of_a_rebuild() {
    let (folder, mut history) = (Folder::new(), History::new(7).await);
    let (models, followers) = following(&folder, &history).await;
    for _ in 0..150 {
        history.anything().await;
        caught_up(&models, &history).await;
    }
    followers.stop().await;
    assert_eq!(dump(&folder.path()).await, rebuilt(&history.log).await);
}

#[tokio::test]
async fn a_rebuild_says_how_far_it_is_and_is_followed_from_its_end() {
    let (folder, mut history) = (Folder::new(), History::new(8).await);
    for _ in 0..50 {
        history.anything().await;
    }
    std::fs::write(folder.path(), "something old").unwrap();
    let mut told = Vec::new();
    let done = ReadModels::rebuild(&folder.path(), history.log.reader(), &Name::ALL, |done, of| told.push((done, of)))
        .await
        .unwrap();
    let head = history.head().seq;
    assert_eq!((done, told.last()), (head, Some(&(head, head))));
    history.tenant().await;
    let (models, _followers) = following(&folder, &history).await;
    caught_up(&models, &history).await;
    assert_eq!(models.applied(0), history.head().seq);
    assert_eq!(models.tenants(&Page::first(100)).await.unwrap().rows.len(), history.tenants.len());
}

#[tokio::test]
async fn who_waits_for_a_position_reads_what_was_written_there() {
    let (folder, mut history) = (Folder::new(), History::new(9).await);
    let (models, _followers) = following(&folder, &history).await;
    for _ in 0..20 {
        let tenant = history.tenant().await;
        caught_up(&models, &history).await;
        assert!(models.tenant(tenant).await.unwrap().is_some());
    }
    let never = Position { shard: 0, seq: history.head().seq + 1 };
    assert!(!models.wait_for(never, Duration::from_millis(20)).await);
}

#[tokio::test]
async fn of_two_runners_of_a_projection_one_rolls_back_and_goes_on_from_the_other() {
    let (folder, mut history) = (Folder::new(), History::new(10).await);
    let (one, one_follows) = following(&folder, &history).await;
    let (other, other_follows) = following(&folder, &history).await;
    // Both see every event, and one of them writes it.
    for _ in 0..60 {
        history.anything().await;
        caught_up(&one, &history).await;
        caught_up(&other, &history).await;
    }
    assert_eq!([one.stopped(), other.stopped()].concat(), []);
    one_follows.stop().await;
    other_follows.stop().await;
    assert_eq!(dump(&folder.path()).await, rebuilt(&history.log).await);
}

#[tokio::test]
async fn an_event_that_cannot_be_applied_stops_one_projection_and_is_named() {
    let (folder, mut history) = (Folder::new(), History::new(11).await);
    let (models, followers) = following(&folder, &history).await;
    let tenant = history.tenant().await;
    let subscription = history.subscription(tenant).await;
    let (message, seq) = history.publish(tenant, "order.created").await;
    let delivery = history.schedule(subscription, message, seq).await;
    let poison = poison(&history);
    let other = execute::deliveries_stream(history.clock.subscription_id());
    let poisoned = history.append(other, vec![poison]).await;
    let late = history.tenant().await;

    for name in [Name::Tenants, Name::Webhooks, Name::Messages, Name::Audit] {
        while models.applied_by(name, 0) < history.head().seq {
            tokio::task::yield_now().await;
        }
    }
    while models.stopped().is_empty() {
        tokio::task::yield_now().await;
    }
    let [stopped] = &models.stopped()[..] else { panic!("{:?}", models.stopped()) };
    assert_eq!((stopped.projection, stopped.position.seq), (Name::Deliveries, poisoned));
    assert_eq!((stopped.class, stopped.event_type.as_deref()), (StopClass::Event, Some("delivery.succeeded")));
    let standings = models.standings().await.unwrap();
    let standing = standings.iter().find(|standing| standing.projection == Name::Deliveries).unwrap();
    assert_eq!((standing.applied.seq, standing.head), (poisoned - 1, history.head().seq));
    assert!(standing.oldest_unapplied_at.is_some() && standing.stopped.as_ref() == Some(stopped));
    assert!(stopped.reason.contains("'delivery.succeeded'"), "{}", stopped.reason);
    // Who waits for what it will not reach is told at once.
    assert!(!models.wait_for(history.head(), Duration::MAX).await);
    // Everything before it is applied, and everybody else goes on.
    assert_eq!(models.applied_by(Name::Deliveries, 0), poisoned - 1);
    assert!(models.delivery(TenantScope(tenant), delivery).await.unwrap().is_some());
    assert!(models.tenant(late).await.unwrap().is_some());
    followers.stop().await;
    let error =
        ReadModels::rebuild(&Folder::new().path(), history.log.reader(), &Name::ALL, |_, _| {}).await.unwrap_err();
    assert!(
        error.to_string().contains("'deliveries'") && error.to_string().contains("'delivery.succeeded'"),
        "{error}"
    );
}

#[tokio::test]
async fn a_stop_is_remembered_over_a_restart_until_its_cause_is_gone() {
    let (folder, mut history) = (Folder::new(), History::new(18).await);
    let (models, followers) = following(&folder, &history).await;
    for _ in 0..30 {
        history.anything().await;
    }
    caught_up(&models, &history).await;
    // Somebody put a row in the way of the next message.
    let next = history.head().seq + 1;
    execute_sql(
        &folder.path(),
        "CREATE TRIGGER in_the_way BEFORE INSERT ON message BEGIN SELECT RAISE(ABORT, 'in the way'); END",
    )
    .await;
    let tenant = history.tenants[0];
    history.publish(tenant, "order.created").await;
    let stopped = loop {
        match &models.stopped()[..] {
            [] => tokio::task::yield_now().await,
            [stopped] => break stopped.clone(),
            several => panic!("{several:?}"),
        }
    };
    assert_eq!((stopped.projection, stopped.position.seq), (Name::Messages, next));
    assert!(stopped.reason.contains("in the way"), "{}", stopped.reason);
    followers.stop().await;
    drop(models);
    let (models, followers) = following(&folder, &history).await;
    while models.stopped().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(models.stopped(), [stopped]);
    // Its cause goes while nobody follows.
    followers.stop().await;
    drop(models);
    execute_sql(&folder.path(), "DROP TRIGGER in_the_way").await;
    let (models, followers) = following(&folder, &history).await;
    while !models.wait_for(history.head(), PATIENCE).await {}
    assert_eq!(models.stopped(), []);
    followers.stop().await;
    drop(models);
    let (models, _followers) = following(&folder, &history).await;
    caught_up(&models, &history).await;
    assert_eq!(models.stopped(), []);
}

#[tokio::test]
async fn a_projection_that_stops_in_one_shard_goes_on_in_the_others() {
    let (folder, mut history) = (Folder::new(), History::over(64, 17).await);
    let (models, followers) = following(&folder, &history).await;
    let tenant = history.tenant().await;
    let poison = poison(&history);
    let (shard, other) = (history.shard(tenant), execute::deliveries_stream(history.clock.subscription_id()));
    let seq = history.append_in(shard, other, vec![poison]).await;
    for _ in 0..200 {
        history.anything().await;
    }
    while models.stopped().is_empty() {
        tokio::task::yield_now().await;
    }
    let [stopped] = &models.stopped()[..] else { panic!("{:?}", models.stopped()) };
    assert_eq!((stopped.projection, stopped.position), (Name::Deliveries, Position { shard, seq }));
    for head in history.heads().filter(|head| head.shard != shard) {
        assert!(models.wait_for(head, PATIENCE).await);
    }
    for name in [Name::Tenants, Name::Webhooks, Name::Messages, Name::Audit] {
        while models.applied_by(name, shard) < history.log.head(shard) {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(models.applied_by(Name::Deliveries, shard), seq - 1);
    // Tenants of all shards stand in one list, the newest first.
    let tenants = models.tenants(&Page::first(100)).await.unwrap().rows;
    let mut made = history.tenants.clone();
    made.sort_by_key(|tenant| std::cmp::Reverse(tenant.to_bits()));
    assert_eq!(tenants.iter().map(|(_, row)| row.id).collect::<Vec<_>>(), made);
    let rest = Page { after: Some(tenants[0].0.clone()), ..Page::first(100) };
    assert_eq!(models.tenants(&rest).await.unwrap().rows, tenants[1..]);
    followers.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_built_again() {
    let mut history = History::new(13).await;
    for _ in 0..60 {
        history.anything().await;
    }
    let wanted = rebuilt(&history.log).await;
    let folder = Folder::new();
    for make_unusable in ["nothing", "noise", "another version", "rows of a later program"] {
        match make_unusable {
            "noise" => std::fs::write(folder.path(), [7; 8_192]).unwrap(),
            "another version" => execute_sql(&folder.path(), "PRAGMA user_version = 77").await,
            "rows of a later program" => {
                execute_sql(&folder.path(), "UPDATE _sqlx_migrations SET checksum = X'00'").await;
            }
            _ => {}
        }
        let (models, followers) = following(&folder, &history).await;
        caught_up(&models, &history).await;
        followers.stop().await;
        drop(models);
        assert_eq!(dump(&folder.path()).await, wanted, "after {make_unusable}");
    }
}

async fn execute_sql(path: &Path, sql: &'static str) {
    let mut connection = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn rows_of_another_log_are_thrown_away() {
    let mut history = History::new(14).await;
    for _ in 0..60 {
        history.anything().await;
    }
    let folder = Folder::new();
    let (models, followers) = following(&folder, &history).await;
    caught_up(&models, &history).await;
    followers.stop().await;
    drop(models);
    // One log is behind the rows, as after a restored backup; the other is as long, and went another way.
    for seed in [15, 16] {
        let mut other = History::new(seed).await;
        while other.head().seq < if seed == 15 { 20 } else { history.head().seq + 10 } {
            other.anything().await;
        }
        let (models, followers) = following(&folder, &other).await;
        caught_up(&models, &other).await;
        followers.stop().await;
        drop(models);
        assert_eq!(dump(&folder.path()).await, rebuilt(&other.log).await);
    }
}

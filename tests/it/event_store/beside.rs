//! Reading a SQLite log beside the server that writes it.

use std::os::unix::fs::symlink;
use std::path::Path;

use tidings::event_store::{AppendError, EventReader, EventStore, OpenError, Options, SqliteReader, SqliteStore};

use super::sqlite::stranger;
use super::{append, append_one, at, recorded, whole_log, with_content};

async fn refused(path: &Path) -> OpenError {
    SqliteReader::open(path).await.unwrap_err()
}

#[tokio::test]
async fn a_reader_sees_each_commit_and_takes_nothing_from_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let store = SqliteStore::open(Options::at(&path)).await.unwrap();
    let first = with_content(b"body");
    append_one(&store, first.clone()).await.unwrap();

    let reader = SqliteReader::open(&path).await.unwrap();

    assert_eq!(reader.read_log(at(0), 9).await.unwrap(), recorded(&first, 1));
    let mut written = 1;
    for version in 2..=20 {
        assert_eq!(append_one(&store, append("messages-1", version, 1)).await, Ok(version));
        written += 1;
        assert_eq!(reader.head(0).await, Ok(written));
        assert_eq!(reader.stream_version("messages-1").await, Ok(version));
    }
    store.save_checkpoint("matcher", at(7)).await.unwrap();
    store.save_checkpoint("audit", at(3)).await.unwrap();
    let readers = [("audit".to_owned(), 3), ("matcher".to_owned(), 7)];
    assert_eq!(reader.checkpoints(0).await.unwrap(), readers);
    assert_eq!(store.reader().checkpoints(0).await.unwrap(), readers);
    assert_eq!(reader.content(at(1)).await.unwrap().unwrap(), &b"body"[..]);
}

#[tokio::test]
async fn a_reader_keeps_no_writer_out_and_outlives_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let store = SqliteStore::open(Options::at(&path)).await.unwrap();
    let reader = SqliteReader::open(&path).await.unwrap();
    let next = store.reopen().await.unwrap();
    assert!(matches!(append_one(&store, append("a-1", 1, 1)).await, Err(AppendError::Fenced { .. })));
    append_one(&next, append("subscription-1", 1, 1)).await.unwrap();
    store.close().await;
    next.close().await;
    assert_eq!(whole_log(&SqliteStore::open(Options::at(&path)).await.unwrap()).await.len(), 1);
    assert_eq!(reader.head(0).await, Ok(1));
}

#[tokio::test]
async fn a_log_whose_server_is_down_is_read_where_the_folder_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let store = SqliteStore::open(Options::at(&path)).await.unwrap();
    append_one(&store, append("subscription-1", 1, 1)).await.unwrap();
    store.close().await;
    // A link stands in for a folder that cannot be written, which root can: SQLite follows none.
    let shared = folder.path().join("log.db-shm");
    symlink(folder.path().join("nowhere"), &shared).unwrap();
    let refused = refused(&path).await;
    assert!(matches!(refused, OpenError::Unshared(_)), "{refused}");
    assert_eq!(
        refused.to_string(),
        format!("'{}' can be read only while a server runs or by whoever may write to its folder", path.display())
    );

    std::fs::remove_file(&shared).unwrap();

    let reader = SqliteReader::open(&path).await.unwrap();
    assert_eq!(reader.head(0).await, Ok(1));
    reader.close().await;
    // What it left behind does not hinder the next server.
    let store = SqliteStore::open(Options::at(&path)).await.unwrap();
    assert_eq!(append_one(&store, append("subscription-1", 2, 1)).await, Ok(2));
}

#[tokio::test]
async fn what_is_no_log_of_this_program_is_refused_and_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let missing = refused(&path).await;
    assert_eq!(missing.to_string(), format!("the file '{}' cannot be read", path.display()));
    assert!(!path.exists(), "asking made the file");

    let reason = async |path: &Path| {
        let refused = refused(path).await;
        let OpenError::Tables { reason, .. } = refused else { panic!("{refused}") };
        reason
    };
    let other = folder.path().join("other.db");
    let made = SqliteStore::open(Options::at(&other)).await.unwrap();
    made.close().await;
    let mut stranger = stranger(&other).await;
    for (sql, expected) in [
        ("INSERT INTO _sqlx_migrations SELECT 9999, '', 0, TRUE, x'00', 0", "migration 9999 is of a newer program"),
        ("DELETE FROM _sqlx_migrations WHERE version = 9999; UPDATE _sqlx_migrations SET checksum = x'00'", {
            "migration 1 is another one, or was not finished"
        }),
        ("DELETE FROM _sqlx_migrations", "migration 1 is missing; a server applies it"),
        ("DROP TABLE _sqlx_migrations", "it holds no log"),
    ] {
        sqlx::raw_sql(sql).execute(&mut stranger).await.unwrap();
        assert_eq!(reason(&other).await, expected);
    }
}

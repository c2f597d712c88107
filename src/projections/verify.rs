//! Whether the rows are those that the log makes.
//!
//! A copy of the rows is taken, at whatever point a server is just then, and the log is folded again up to exactly the
//! checkpoints of the copy. Then both are compared, table by table and row by row.

use std::cmp::Ordering;
use std::fmt;
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteRow;
use sqlx::{Column, Connection, Decode, Row, Sqlite, SqliteConnection, TypeInfo, ValueRef};

use super::columns::{damaged, unpacked};
use super::database::{self, Database, OpenError};
use super::held::{self, Held};
use super::projection::Name;
use super::rebuild::{self, RebuildError};
use super::tables::{TABLES, Table};
use super::{catch_up, checkpoint, fold, retention};
use crate::event_store::{EventReader, Position};

/// Streams that are told of.
const TOLD: usize = 100;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Rows that were compared.
    pub rows: u64,
    /// Streams that are left out of the rows that the log makes now, so many at most.
    pub held: Vec<Held>,
    /// The first difference, if there is one.
    pub difference: Option<Difference>,
}

/// Where the rows are not those that the log makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// They were folded from another log, or from more than this one holds.
    AnotherLog,
    /// A row is wrong.
    Row {
        /// Whose it is.
        projection: Name,
        /// In which table.
        table: &'static str,
        /// Its key.
        key: String,
        /// What is wrong with it.
        wrong: Wrong,
    },
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The log makes it and the table has it not.
    Missing,
    /// The table has it and the log does not make it.
    Unfounded,
    /// This column differs.
    Column(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnotherLog => f.write_str("the read models were folded from another log"),
            Self::Row { projection, table, key, wrong } => {
                write!(f, "projection '{}', table '{table}', row {key}: ", projection.as_str())?;
                match wrong {
                    Wrong::Missing => f.write_str("it is missing"),
                    Wrong::Unfounded => f.write_str("nothing in the log makes it"),
                    Wrong::Column(column) => write!(f, "column '{column}' differs"),
                }
            }
        }
    }
}

pub(super) async fn verify(
    path: &Path,
    reader: &dyn EventReader,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Verified, RebuildError> {
    let _lock = rebuild::lock(path)?;
    let (copied, folded) = (Scratch::beside(path, ".copy")?, Scratch::beside(path, ".folded")?);
    copy(path, &copied.0).await?;
    let copy = Database::open_existing(&copied.0).await?;
    let verified = compare_copy(&copy, &folded.0, reader, progress).await;
    copy.close().await?;
    verified
}

async fn compare_copy(
    copy: &Database,
    folded: &Path,
    reader: &dyn EventReader,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Verified, RebuildError> {
    let mut write = copy.begin().await?;
    let of_this_log = checkpoint::compare(write.connection(), reader).await;
    let goals = rebuild::places(write.connection(), reader.shards()).await;
    write.abandon().await;
    if !of_this_log? {
        return Ok(Verified { rows: 0, held: vec![], difference: Some(Difference::AnotherLog) });
    }
    // What a server has not come to yet.
    for name in Name::ALL {
        let caught_up = catch_up::all(copy, reader, name, &mut *name.projection()).await;
        caught_up.map_err(|error| RebuildError::of(name, error))?;
    }
    let fresh = Database::open(folded).await?;
    checkpoint::adopt(&fresh, reader).await?;
    fold::fold(&fresh, reader, &goals?, progress).await?;
    // Both up to the same floor, wherever it is by now.
    for shard in 0..reader.shards() {
        let floor = Position { shard, seq: reader.floor(shard).await? };
        for database in [copy, &fresh] {
            forget(database, floor).await?;
        }
    }
    let compared = compare(copy, &fresh).await;
    fresh.close().await?;
    compared
}

/// A consistent copy, while others read and write.
async fn copy(path: &Path, to: &Path) -> Result<(), RebuildError> {
    if !path.is_file() {
        return Err(RebuildError::Missing { path: path.to_owned() });
    }
    let mut connection = database::connect_reader(path).await?;
    let copied = sqlx::query("VACUUM INTO $1").bind(to.to_string_lossy().into_owned()).execute(&mut connection).await;
    connection.close().await?;
    copied?;
    database::protect(to).map_err(|source| RebuildError::Lock { path: to.to_owned(), source })
}

async fn forget(database: &Database, floor: Position) -> Result<(), sqlx::Error> {
    for name in Name::ALL.into_iter().filter(|name| name.forgets() && floor.seq > 0) {
        let mut write = database.begin().await?;
        while !retention::forget(write.connection(), name, floor).await? {}
        write.commit().await?;
    }
    Ok(())
}

async fn compare(copy: &Database, fresh: &Database) -> Result<Verified, RebuildError> {
    let mut live = copy.readers.acquire().await?;
    let mut made = fresh.readers.acquire().await?;
    let held = held::all(&mut made, TOLD).await?;
    let mut rows = 0;
    for table in &TABLES {
        let (compared, difference) = compare_table(table, &mut live, &mut made).await?;
        rows += compared;
        if difference.is_some() {
            return Ok(Verified { rows, held, difference });
        }
    }
    Ok(Verified { rows, held, difference: None })
}

async fn compare_table(
    table: &Table,
    live: &mut SqliteConnection,
    made: &mut SqliteConnection,
) -> Result<(u64, Option<Difference>), sqlx::Error> {
    let mut live = sqlx::query(table.rows).fetch(live);
    let mut made = sqlx::query(table.rows).fetch(made);
    let mut rows = 0;
    let differs = |key: String, wrong| Difference::Row { projection: table.owner, table: table.name, key, wrong };
    loop {
        let (found, wanted) = match (live.try_next().await?, made.try_next().await?) {
            (None, None) => return Ok((rows, None)),
            (Some(found), None) => return Ok((rows, Some(differs(key(table, &cells(&found)?), Wrong::Unfounded)))),
            (None, Some(wanted)) => return Ok((rows, Some(differs(key(table, &cells(&wanted)?), Wrong::Missing)))),
            (Some(found), Some(wanted)) => (found, wanted),
        };
        let (has, should) = (cells(&found)?, cells(&wanted)?);
        let wrong = match has[..table.key].cmp(&should[..table.key]) {
            Ordering::Less => Some((&has, Wrong::Unfounded)),
            Ordering::Greater => Some((&should, Wrong::Missing)),
            Ordering::Equal => {
                let differing = has.iter().zip(&should).position(|(one, other)| one != other);
                differing.map(|index| (&has, Wrong::Column(found.column(index).name().to_owned())))
            }
        };
        if let Some((row, wrong)) = wrong {
            return Ok((rows, Some(differs(key(table, row), wrong))));
        }
        rows += 1;
    }
}

/// A value, ordered as SQLite orders keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cell {
    Null,
    Integer(i64),
    Text(String),
    Blob(Vec<u8>),
}

fn cells(row: &SqliteRow) -> Result<Vec<Cell>, sqlx::Error> {
    (0..row.len()).map(|index| cell(row, index)).collect()
}

fn cell(row: &SqliteRow, index: usize) -> Result<Cell, sqlx::Error> {
    let value = row.try_get_raw(index)?;
    if value.is_null() {
        return Ok(Cell::Null);
    }
    let kind = value.type_info().name().to_owned();
    let cell = match kind.as_str() {
        "INTEGER" => <i64 as Decode<Sqlite>>::decode(value).map(Cell::Integer),
        "TEXT" => <String as Decode<Sqlite>>::decode(value).map(Cell::Text),
        "BLOB" => <Vec<u8> as Decode<Sqlite>>::decode(value).map(Cell::Blob),
        other => Err(format!("no table has a column of type {other}").into()),
    };
    cell.map_err(damaged)
}

/// The key as a person can use it: positions as such, ids in hexadecimal.
fn key(table: &Table, cells: &[Cell]) -> String {
    let texts: Vec<String> = cells[..table.key]
        .iter()
        .enumerate()
        .map(|(index, cell)| match cell {
            Cell::Null => "NULL".to_owned(),
            // A first key column that is a number is a position.
            Cell::Integer(packed) if index == 0 => unpacked(packed.unsigned_abs()).to_string(),
            Cell::Integer(number) => number.to_string(),
            Cell::Text(text) => format!("'{text}'"),
            Cell::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02X}")).collect(),
        })
        .collect();
    texts.join(", ")
}

/// A file of this work alone; what an earlier process left is removed before, and it is removed after.
struct Scratch(PathBuf);

impl Scratch {
    fn beside(path: &Path, suffix: &str) -> Result<Self, OpenError> {
        let path = database::beside(path, suffix);
        database::remove(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whatever stays is removed by the next one.
        drop(database::remove(&self.0));
    }
}

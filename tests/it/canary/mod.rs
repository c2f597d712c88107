//! The canary test: known secrets of every kind, every feature, and then a look everywhere. No secret may stand anywhere
//! but in the one answer that shows it (promise 7, A10, S18).
//!
//! What is secret, and where it may stand, is data: a new kind of secret is a line of [`Story`], a new file of the store
//! one of [`AREAS`].

mod needle;
mod panics;
mod story;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use sqlx::{Connection, PgConnection};

use self::needle::Needles;
use self::story::Story;
use crate::event_store::postgres::database::data_directory;
use crate::support::receiver::Receiver;
use crate::support::server::{Kind, Server, on_both};

/// Where a secret could be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Area {
    /// The log's database, with everything that it keeps beside its file.
    Database,
    /// The read models.
    ReadModels,
    /// What holds keys, and what is sealed.
    Keys,
    /// Log lines, and whatever else the program says on standard error.
    Log,
    /// What commands say and write.
    Command,
    /// `/metrics`, and other things that everybody may ask for.
    Metrics,
    /// Answers to callers.
    Answer,
    /// What live streams tell.
    Live,
}

/// The files of the store's folder, by the beginnings of their names; the first that fits counts.
const AREAS: &[(&str, Area)] = &[
    ("log.db.read-models", Area::ReadModels),
    ("log.db.key", Area::Keys),
    ("log.db", Area::Database),
    ("copy.db", Area::Database),
    ("export.jsonl", Area::Database),
    ("stderr.log", Area::Log),
    ("tidings.toml", Area::Command),
];

/// Where what tenants publish stands: sealed in the log, and told to whoever may read it.
const DATA: &[Area] = &[Area::Answer, Area::Command];
/// Where the operator's key stands.
const KEYS: &[Area] = &[Area::Keys];
/// Where the query of a URL stands, in which receivers like to have tokens.
const URL_QUERY: &[Area] = &[Area::Database, Area::ReadModels, Area::Answer, Area::Live, Area::Command];
/// An answer may show it to whoever has just sent it.
const SENT: &[Area] = &[Area::Answer];

/// Something that must not be found.
struct Secret {
    name: String,
    text: String,
    /// Where it may be found all the same.
    allowed: &'static [Area],
    /// Where it must be found: proves that the look is one.
    known: &'static [Area],
    /// In how many answers it is shown.
    shown: usize,
}

impl Secret {
    fn never(name: &str, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), allowed: &[], known: &[], shown: 0 }
    }

    fn shown_once(name: &str, text: impl Into<String>) -> Self {
        Self { shown: 1, ..Self::never(name, text) }
    }

    fn allowed_in(name: &str, text: impl Into<String>, allowed: &'static [Area]) -> Self {
        Self { allowed, ..Self::never(name, text) }
    }

    fn known_in(self, known: &'static [Area]) -> Self {
        Self { known, ..self }
    }
}

/// Bytes that were found somewhere.
struct Find {
    area: Area,
    name: String,
    bytes: Vec<u8>,
}

impl Find {
    fn new(area: Area, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { area, name: name.into(), bytes: bytes.into() }
    }
}

/// Every file of the store's folder as it is now.
fn files(server: &Server, moment: &str) -> Vec<Find> {
    let mut finds = vec![];
    for entry in std::fs::read_dir(server.folder()).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let area = AREAS.iter().find(|(beginning, _)| name.starts_with(beginning));
        let (_, area) = area.unwrap_or_else(|| panic!("nobody said what '{name}' is"));
        finds.push(Find::new(*area, format!("{name}, {moment}"), std::fs::read(entry.path()).unwrap()));
    }
    finds
}

/// The files of the log's database in PostgreSQL, and the server's write-ahead log.
async fn database_files(server: &Server, moment: &str) -> Vec<Find> {
    let mut connection = PgConnection::connect(server.database_url()).await.unwrap();
    sqlx::query("CHECKPOINT").execute(&mut connection).await.unwrap();
    let oid: i64 = sqlx::query_scalar("SELECT oid::bigint FROM pg_database WHERE datname = current_database()")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let root = data_directory().await;
    let mut finds = vec![];
    for folder in [root.join("base").join(oid.to_string()), root.join("pg_wal")] {
        files_below(&folder, moment, &mut finds);
    }
    assert!(finds.len() > 10, "the files of the database are not in {}", root.display());
    finds
}

/// Others work on the same server: what goes meanwhile is none of ours.
fn files_below(folder: &Path, moment: &str, finds: &mut Vec<Find>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if let Ok(bytes) = std::fs::read(entry.path()) {
            finds.push(Find::new(Area::Database, format!("{}, {moment}", entry.path().display()), bytes));
        }
    }
}

/// Everything that stands somewhere and may not, a line each.
fn leaks(secrets: &[Secret], finds: &[Find]) -> Vec<String> {
    let needles = Needles::of(secrets.iter().map(|secret| secret.text.as_str()));
    let mut shown: HashMap<usize, usize> = HashMap::new();
    let (mut leaks, mut seen) = (vec![], HashSet::new());
    for Find { area, name, bytes } in finds {
        for (index, at) in needles.find(bytes) {
            let secret = &secrets[index];
            seen.insert((index, *area));
            if secret.allowed.contains(area) {
                continue;
            }
            if *area == Area::Answer && secret.shown > 0 {
                *shown.entry(index).or_default() += 1;
                continue;
            }
            let around = &bytes[at.saturating_sub(160)..bytes.len().min(at + 160)];
            leaks.push(format!("{} in {name}, {area:?}: …{}…", secret.name, String::from_utf8_lossy(around)));
        }
    }
    for (index, secret) in secrets.iter().enumerate() {
        // What is known to be there must be found, or nothing would be.
        for area in secret.known.iter().filter(|area| !seen.contains(&(index, **area))) {
            leaks.push(format!("{} was not found in {area:?}, where it must be", secret.name));
        }
        let found = shown.get(&index).copied().unwrap_or(0);
        if found != secret.shown {
            leaks.push(format!("{} was shown by {found} answers, not by {}", secret.name, secret.shown));
        }
    }
    leaks
}

async fn no_secret_stands_anywhere_but_in_the_answer_that_shows_it(kind: Kind) {
    // A10, S8, S18
    let receiver = Receiver::start().await;
    let token_file = receiver.ca_file().with_file_name("metrics.token");
    std::fs::write(&token_file, story::METRICS_TOKEN).unwrap();
    let metrics = format!("[metrics]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"{}\"\n", token_file.display());
    let more = format!("[telemetry]\nfilter = \"trace\"\n{metrics}");
    let server = Server::start_on_with(kind, &receiver.ca_file(), &more).await;
    let mut story = Story::new(receiver, server, kind);
    story.people().await;
    story.webhooks().await;
    story.messages().await;
    story.every_operation().await;
    story.live().await;
    story.changes().await;
    story.mistakes().await;
    story.everybody().await;
    story.commands();
    story.look("while it serves").await;
    story.crash().await;
    story.look("after a crash").await;
    story.stop();
    story.look("after its end").await;
    let (secrets, finds) = story.end();
    let leaks = leaks(&secrets, &finds);
    assert!(
        leaks.is_empty(),
        "{} leaks:\n{}",
        leaks.len(),
        leaks.iter().take(40).cloned().collect::<Vec<_>>().join("\n")
    );
}

on_both!(no_secret_stands_anywhere_but_in_the_answer_that_shows_it);

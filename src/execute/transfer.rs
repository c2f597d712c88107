//! A whole store as one ordered text, and a store made from it again.
//!
//! ```text
//! {"tidings_export":1, "shards":1}
//! {"claim":{…}}  {"checkpoint":{…}}  {"secret":{…}}
//! {"heads":[17]}
//! {"event":{…}}     every event of shard 0 in its order up to its head, then of shard 1, …
//! {"end":{"lines":42, "sha256":"…"}}     over all bytes before this line
//! ```
//!
//! - Writing asks only, and beside a running server. What stands before the heads is at most as new as the events: a
//!   claim without its message would swallow the caller's repetition. Secrets are read before the heads and behind
//!   them, until every subscription's current one is there: one that is made and replaced meanwhile is never seen, and
//!   then the heads are taken anew. Wake-ups are left behind, since none that is
//!   older or newer than the events could be trusted: whoever has deliveries is woken once.
//! - Reading makes new positions: a tenant's shard is that of the new store, and numbers are gapless again. Where an
//!   event refers to a message by its number, the number is replaced. Versions of bucketed streams whose beginning was
//!   dropped begin with 1 again. Ids, times and bodies stay.
//! - Sealed secrets stay sealed: whoever moves a store moves the operator's keys as well. An export holds the key store:
//!   it is for moving, not for keeping (docs/secrets.md).
//! - Snapshots are left behind; they come again by themselves.

mod import;

pub use import::{ImportError, Imported, UNFINISHED, import};

use std::collections::HashSet;
use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::MATCHER;
use super::vault::Binding;
use crate::codec;
use crate::domain::event::{Event, SubscriptionEvent, SubscriptionUpdated};
use crate::domain::subscription::Settings;
use crate::event_store::{Claim, EventReader, Position, ReadError, Recorded, without_holes};
use crate::key_store::{KeyStore, KeyStoreError};

/// Rows read at a time.
const PAGE: usize = 500;
/// Version of the form.
const FORMAT: u32 = 1;

/// What the first line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    tidings_export: u32,
    shards: u16,
}

/// A line between the first and the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Event(Box<EventLine>),
    Claim {
        key: String,
        value: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bucket: Option<u32>,
    },
    /// How far the matcher has come.
    Checkpoint {
        shard: u16,
        seq: u64,
    },
    Heads(Vec<u64>),
    Secret {
        key: String,
        sealed: String,
    },
    End {
        lines: u64,
        sha256: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventLine {
    shard: u16,
    seq: u64,
    stream: String,
    version: u64,
    id: String,
    #[serde(rename = "type")]
    kind: String,
    schema: u16,
    at_ms: i64,
    data: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meta: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Events.
    pub events: u64,
    /// Lines of every kind.
    pub lines: u64,
}

/// Why nothing usable was written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The key store cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyStoreError),
    /// The text cannot be written.
    #[error("the export cannot be written")]
    Write(#[from] io::Error),
}

/// Writes lines, and remembers what it wrote.
struct Out<W> {
    to: W,
    hash: Sha256,
    lines: u64,
}

impl<W: Write> Out<W> {
    fn line(&mut self, line: &impl Serialize) -> Result<(), ExportError> {
        let mut text = serde_json::to_vec(line).map_err(io::Error::from)?;
        text.push(b'\n');
        self.hash.update(&text);
        self.lines += 1;
        Ok(self.to.write_all(&text)?)
    }
}

/// Writes the whole store; `progress` is told how many events are written, of how many.
pub async fn export(
    reader: &dyn EventReader,
    keys: &dyn KeyStore,
    to: impl Write,
    mut progress: impl FnMut(u64, u64),
) -> Result<Exported, ExportError> {
    let mut out = Out { to, hash: Sha256::new(), lines: 0 };
    out.line(&Header { tidings_export: FORMAT, shards: reader.shards() })?;
    for shard in 0..reader.shards() {
        export_claims(reader, shard, &mut out).await?;
        if let Some(seq) = reader.checkpoint(MATCHER, shard).await? {
            out.line(&Line::Checkpoint { shard, seq })?;
        }
    }
    let mut known = HashSet::new();
    export_secrets(keys, &mut known, &mut out).await?;
    let heads = loop {
        let pinned = heads(reader).await?;
        export_secrets(keys, &mut known, &mut out).await?;
        if secrets_are_whole(reader, &pinned, &known).await? {
            break pinned;
        }
    };
    out.line(&Line::Heads(heads.clone()))?;
    let total = heads.iter().sum();
    let mut events = 0;
    for (shard, head) in (0..).zip(heads) {
        let mut after = Position { shard, seq: 0 };
        while after.seq < head {
            let page = reader.read_log(after, PAGE).await?;
            without_holes(after, reader.floor(shard).await?, &page)?;
            let Some(last) = page.last() else { break };
            after = last.position;
            for recorded in page.into_iter().filter(|recorded| recorded.position.seq <= head) {
                let content = reader.content(recorded.position).await?.map(|content| BASE64.encode(content));
                out.line(&Line::Event(Box::new(event_line(recorded, content))))?;
                events += 1;
            }
            progress(events, total);
        }
    }
    let end = Line::End { lines: out.lines, sha256: hex::encode(out.hash.clone().finalize()) };
    out.line(&end)?;
    out.to.flush()?;
    Ok(Exported { events, lines: out.lines })
}

async fn heads(reader: &dyn EventReader) -> Result<Vec<u64>, ReadError> {
    let mut heads = Vec::new();
    for shard in 0..reader.shards() {
        heads.push(reader.head(shard).await?);
    }
    Ok(heads)
}

/// Whether the current secret, custom headers and addresses for notices of every subscription, as of these heads, are among the known ones. A secret is stored
/// before the event that names it, and destroyed after the one that replaces it: only one that was replaced behind the
/// heads can be missing.
async fn secrets_are_whole(
    reader: &dyn EventReader,
    pinned: &[u64],
    known: &HashSet<String>,
) -> Result<bool, ReadError> {
    let moved = heads(reader).await?;
    for ((shard, pinned), moved) in (0..).zip(pinned).zip(moved) {
        let mut after = Position { shard, seq: *pinned };
        while after.seq < moved {
            let page = reader.read_log(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.position;
            for recorded in page.iter().filter(|recorded| replaces_secret(recorded)) {
                let current = secrets_as_of(reader, &recorded.stream, *pinned).await?;
                if current.iter().any(|secret| !known.contains(secret)) {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

fn replaces_secret(recorded: &Recorded) -> bool {
    matches!(
        codec::decode(recorded),
        Ok(Event::Subscription(
            SubscriptionEvent::SecretRotated(_)
                | SubscriptionEvent::Updated(
                    SubscriptionUpdated { headers: Some(_), .. } | SubscriptionUpdated { recipients: Some(_), .. }
                )
                | SubscriptionEvent::Deleted(_)
                | SubscriptionEvent::SecretsDestroyed(_)
        ))
    )
}

/// The rows of what is sealed for a subscription as it was set as of a number; none if it was not made yet.
async fn secrets_as_of(reader: &dyn EventReader, stream: &str, head: u64) -> Result<Vec<String>, ReadError> {
    let (mut settings, mut next) = (None::<Settings>, 1);
    loop {
        let page = reader.read_stream(stream, next, PAGE).await?;
        let Some(last) = page.last() else {
            let rows = settings.iter().flat_map(Binding::in_use).map(|(_, row)| row.name().to_owned());
            return Ok(rows.collect());
        };
        next = last.version + 1;
        for recorded in page.iter().filter(|recorded| recorded.position.seq <= head) {
            match (codec::decode(recorded), &mut settings) {
                (Ok(Event::Subscription(SubscriptionEvent::Created(created))), _) => {
                    settings = Some(Settings::created(&created));
                }
                (Ok(Event::Subscription(event)), Some(settings)) => settings.evolve(&event),
                // What cannot be read is exported as it is.
                (Ok(_) | Err(_), _) => {}
            }
        }
    }
}

fn event_line(recorded: Recorded, content: Option<String>) -> EventLine {
    EventLine {
        shard: recorded.position.shard,
        seq: recorded.position.seq,
        stream: recorded.stream,
        version: recorded.version,
        id: recorded.id.to_string(),
        kind: recorded.kind.into_owned(),
        schema: recorded.schema,
        at_ms: recorded.at.as_ms(),
        data: recorded.data,
        meta: recorded.meta,
        content,
    }
}

async fn export_claims<W: Write>(reader: &dyn EventReader, shard: u16, out: &mut Out<W>) -> Result<(), ExportError> {
    let mut after: Option<String> = None;
    loop {
        let page = reader.claims_after(shard, after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.key.clone());
        for Claim { key, value, bucket } in page {
            out.line(&Line::Claim { key, value, bucket: bucket.map(|bucket| bucket.0) })?;
        }
    }
}

/// Those that are not known yet.
async fn export_secrets<W: Write>(
    keys: &dyn KeyStore,
    known: &mut HashSet<String>,
    out: &mut Out<W>,
) -> Result<(), ExportError> {
    let mut after = String::new();
    loop {
        let page = keys.rows("", &after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after.clone_from(&last.name);
        // A copy brings back nobody who logged out since.
        for row in page.into_iter().filter(|row| !Binding::names_session(&row.name)) {
            if known.insert(row.name.clone()) {
                out.line(&Line::Secret { key: row.name, sealed: BASE64.encode(row.value) })?;
            }
        }
    }
}

//! The log as people and other programs read it: event by event, chosen by stream, tenant, type, place or time.
//!
//! Shard by shard, each in the order of its positions. Reads in pages, so that memory holds no more than one.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{SUBSCRIPTION_CATEGORY, subscription_of, tenant_of};
use crate::codec;
use crate::domain::event::{Event, SubscriptionEvent};
use crate::domain::id::{SubscriptionId, TenantId};
use crate::domain::time::Timestamp;
use crate::event_store::{EventReader, Position, ReadError, Recorded};

/// Events read at a time.
const PAGE: usize = 500;

/// Whoever follows asks after this long, if nothing tells of new events before.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Which events are wanted; everything that is `None` admits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of this stream.
    pub stream: Option<String>,
    /// Of this tenant: its own, its messages', its subscriptions' and their deliveries'.
    pub tenant: Option<TenantId>,
    /// Of this type.
    pub kind: Option<String>,
    /// Behind this position: later ones of its shard, and all of the shards after it.
    pub after: Option<Position>,
    /// Recorded at or after this time.
    pub since: Option<Timestamp>,
    /// Recorded before this time.
    pub until: Option<Timestamp>,
}

/// An event as one line of JSON.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    position: String,
    stream: &'a str,
    version: u64,
    id: String,
    #[serde(rename = "type")]
    kind: &'a str,
    schema: u16,
    at: String,
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a RawValue>,
    /// As text, since all that is stored is text behind a salt.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// The line of an event. Fails if its data are no JSON, which is damage.
    pub fn of(recorded: &'a Recorded, content: Option<&'a str>) -> Result<Self, ReadError> {
        let raw = |text: &'a str| {
            let damaged = |error: serde_json::Error| ReadError::Damaged {
                position: recorded.position,
                stream: Some(recorded.stream.clone()),
                reason: format!("its data are no JSON: {error}"),
            };
            serde_json::from_str::<&RawValue>(text).map_err(damaged)
        };
        Ok(Self {
            position: recorded.position.to_string(),
            stream: &recorded.stream,
            version: recorded.version,
            id: recorded.id.to_string(),
            kind: &recorded.kind,
            schema: recorded.schema,
            at: recorded.at.to_rfc3339_ms(),
            data: raw(&recorded.data)?,
            meta: recorded.meta.as_deref().map(raw).transpose()?,
            content,
        })
    }
}

/// Shows the chosen events to `each`, in order, until it breaks off.
pub async fn list(
    reader: &dyn EventReader,
    selection: &Selection,
    mut each: impl AsyncFnMut(&Recorded) -> Result<ControlFlow<()>, ReadError>,
) -> Result<(), ReadError> {
    if let Some(stream) = &selection.stream {
        return list_stream(reader, stream, selection, &mut 0, &mut each).await.map(drop);
    }
    let first = selection.after.map_or(0, |after| after.shard);
    for shard in first..reader.shards() {
        let mut place = Place::new(reader, shard, selection).await?;
        let head = reader.head(shard).await?;
        // What is appended meanwhile is left to the next call: a listing comes to an end.
        if place.advance(reader, selection, head, &mut each).await?.is_break() {
            return Ok(());
        }
    }
    Ok(())
}

/// Shows the chosen events to `each` as [`list`] does, and then those that are appended, until it breaks off. Events of
/// one shard come in their order. Behind a position, shards before its own are shown from now on.
pub async fn follow(
    reader: &dyn EventReader,
    selection: &Selection,
    mut each: impl AsyncFnMut(&Recorded) -> Result<ControlFlow<()>, ReadError>,
) -> Result<(), ReadError> {
    if let Some(stream) = &selection.stream {
        let mut version = 0;
        while list_stream(reader, stream, selection, &mut version, &mut each).await?.is_continue() {
            reader.wait_for_news(ASK_EVERY).await;
        }
        return Ok(());
    }
    let mut places = Vec::new();
    for shard in 0..reader.shards() {
        let mut place = Place::new(reader, shard, selection).await?;
        if selection.after.is_some_and(|after| shard < after.shard) {
            place.at.seq = reader.head(shard).await?;
        }
        places.push(place);
    }
    loop {
        for place in &mut places {
            let head = reader.head(place.at.shard).await?;
            if place.advance(reader, selection, head, &mut each).await?.is_break() {
                return Ok(());
            }
        }
        reader.wait_for_news(ASK_EVERY).await;
    }
}

/// How far one shard is shown.
struct Place {
    at: Position,
    members: Option<Members>,
}

impl Place {
    /// Where the selection begins.
    async fn new(reader: &dyn EventReader, shard: u16, selection: &Selection) -> Result<Self, ReadError> {
        let members = match selection.tenant {
            Some(tenant) => Some(Members { tenant, subscriptions: subscriptions_of(reader, shard, tenant).await? }),
            None => None,
        };
        let at = selection.after.filter(|after| after.shard == shard).unwrap_or(Position { shard, seq: 0 });
        Ok(Self { at, members })
    }

    async fn advance(
        &mut self,
        reader: &dyn EventReader,
        selection: &Selection,
        head: u64,
        each: &mut impl AsyncFnMut(&Recorded) -> Result<ControlFlow<()>, ReadError>,
    ) -> Result<ControlFlow<()>, ReadError> {
        while self.at.seq < head {
            let page = reader.read_log(self.at, PAGE).await?;
            for recorded in page.iter().filter(|recorded| recorded.position.seq <= head) {
                self.at = recorded.position;
                let is_member = match &mut self.members {
                    Some(members) => members.have(recorded),
                    None => true,
                };
                if is_member && selection.admits(recorded) && each(recorded).await?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            // What is left up to the head was dropped.
            if page.last().is_none_or(|last| last.position.seq >= head) {
                self.at.seq = head;
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Shows the stream from behind a version on, and says which it has come to.
async fn list_stream(
    reader: &dyn EventReader,
    stream: &str,
    selection: &Selection,
    version: &mut u64,
    each: &mut impl AsyncFnMut(&Recorded) -> Result<ControlFlow<()>, ReadError>,
) -> Result<ControlFlow<()>, ReadError> {
    let last = reader.stream_version(stream).await?;
    while *version < last {
        let page = reader.read_stream(stream, *version + 1, PAGE).await?;
        let Some(newest) = page.last() else { break };
        *version = newest.version;
        for recorded in &page {
            let behind = selection.after.is_none_or(|after| recorded.position > after);
            if behind && selection.admits(recorded) && each(recorded).await?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

impl Selection {
    fn admits(&self, recorded: &Recorded) -> bool {
        self.kind.as_ref().is_none_or(|kind| *kind == recorded.kind)
            && self.since.is_none_or(|since| recorded.at >= since)
            && self.until.is_none_or(|until| recorded.at < until)
    }
}

/// Whose streams a tenant's are in one shard.
struct Members {
    tenant: TenantId,
    subscriptions: HashSet<SubscriptionId>,
}

impl Members {
    /// Takes up a subscription of the tenant that is created.
    fn have(&mut self, recorded: &Recorded) -> bool {
        if recorded.version == 1
            && let Ok(Event::Subscription(SubscriptionEvent::Created(created))) = codec::decode(recorded)
            && created.tenant == self.tenant
        {
            self.subscriptions.insert(created.subscription);
        }
        match recorded.stream.split_once('-') {
            Some(("tenant" | "messages", _)) => tenant_of(&recorded.stream) == Some(self.tenant),
            Some(_) => subscription_of(&recorded.stream).is_some_and(|id| self.subscriptions.contains(&id)),
            None => false,
        }
    }
}

/// All subscriptions that the tenant ever had: only their creation says whose they are.
async fn subscriptions_of(
    reader: &dyn EventReader,
    shard: u16,
    tenant: TenantId,
) -> Result<HashSet<SubscriptionId>, ReadError> {
    let up_to = Position { shard, seq: reader.head(shard).await? };
    let mut found = HashSet::new();
    let mut after: Option<(String, u64)> = None;
    loop {
        let place = after.as_ref().map(|(stream, version)| (stream.as_str(), *version));
        let page = reader.read_category(SUBSCRIPTION_CATEGORY, up_to, place, PAGE).await?;
        let Some(last) = page.last() else { return Ok(found) };
        after = Some((last.stream.clone(), last.version));
        // One that cannot be read is nobody's; whoever looks for it names its stream.
        for event in page.iter().filter(|recorded| recorded.version == 1).flat_map(codec::decode) {
            if let Event::Subscription(SubscriptionEvent::Created(created)) = event
                && created.tenant == tenant
            {
                found.insert(created.subscription);
            }
        }
    }
}

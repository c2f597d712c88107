//! `tidings events`: the log as JSON Lines.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::ops::ControlFlow;

use clap::Args;

use super::Source;
use crate::app;
use crate::codec;
use crate::domain::event::{Event, MessageEvent};
use crate::domain::id::TenantId;
use crate::domain::time::Timestamp;
use crate::event_store::{EventReader, Position, ReadError, Recorded};
use crate::execute::contents;
use crate::execute::listing::{self, Line, Selection};
use crate::execute::vault::Vault;

/// Options of `tidings events`.
#[derive(Debug, Args)]
pub(super) struct Events {
    #[command(flatten)]
    source: Source,
    /// Only this stream, such as subscription-01J9….
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Only this tenant's events: its own, its messages', its subscriptions' and their deliveries'.
    #[arg(long, value_name = "ID", conflicts_with = "stream")]
    tenant: Option<TenantId>,
    /// Only this type, such as delivery.succeeded.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only events behind this position, such as 0-17; shards are listed one after the other.
    #[arg(long, value_name = "POSITION")]
    after: Option<Position>,
    /// Only events recorded at or after this RFC 3339 time.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    since: Option<Timestamp>,
    /// Only events recorded before this RFC 3339 time.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    until: Option<Timestamp>,
    /// At most so many.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Go on with events as they are appended, until interrupted.
    #[arg(long, conflicts_with = "until")]
    follow: bool,
    /// With what tenants published, as far as it has not been erased.
    #[arg(long)]
    with_content: bool,
}

/// Why a listing ended early.
enum Broken {
    Read(ReadError),
    Write(io::Error),
}

pub(super) async fn events(options: Events) -> anyhow::Result<()> {
    let config = options.source.load()?;
    let reader = app::reader(&config).await?;
    let vault = if options.with_content { app::vault(&config).await? } else { None };
    if let Some(after) = options.after.filter(|after| after.shard >= reader.shards()) {
        anyhow::bail!("--after {after}: there is no shard {}; the last one is {}", after.shard, reader.shards() - 1);
    }
    let selection = Selection {
        stream: options.stream,
        tenant: options.tenant,
        kind: options.kind,
        after: options.after,
        since: options.since,
        until: options.until,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut left = options.limit.unwrap_or(u64::MAX);
    let mut failure = None;
    let each = async |recorded: &Recorded| {
        if left == 0 {
            return Ok(ControlFlow::Break(()));
        }
        left -= 1;
        let text = match &vault {
            Some(vault) => data(&*reader, vault, recorded).await?,
            None => None,
        };
        let line = Line::of(recorded, text.as_deref())?;
        let written =
            serde_json::to_writer(&mut out, &line).map_err(io::Error::from).and_then(|()| out.write_all(b"\n"));
        // Whoever follows reads now.
        let written = if options.follow { written.and_then(|()| out.flush()) } else { written };
        Ok(match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        })
    };
    let listed = match options.follow {
        true => tokio::select! {
            listed = listing::follow(&*reader, &selection, each) => listed,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                Ok(())
            }
        },
        false => listing::list(&*reader, &selection, each).await,
    };
    let result = listed.map_err(Broken::Read);
    let result = result.and_then(|()| failure.map_or(Ok(()), |error| Err(Broken::Write(error))));
    match result.and_then(|()| out.flush().map_err(Broken::Write)) {
        Ok(()) => Ok(()),
        // Whoever read has enough, as `head` does.
        Err(Broken::Write(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(Broken::Write(error)) => Err(error.into()),
        Err(Broken::Read(error)) => {
            drop(out.flush());
            Err(error.into())
        }
    }
}

/// What a tenant published; `None` of other events, and where it was erased.
async fn data(reader: &dyn EventReader, vault: &Vault, recorded: &Recorded) -> Result<Option<String>, ReadError> {
    let Ok(Event::Message(MessageEvent::Published(published))) = codec::decode(recorded) else { return Ok(None) };
    let Some(content) = reader.content(recorded.position).await? else { return Ok(None) };
    let damaged = |reason: String| {
        let (position, stream) = (recorded.position, Some(recorded.stream.clone()));
        ReadError::Damaged { position, stream, reason }
    };
    contents::open(reader, vault, &published, &content).await.map_err(|error| damaged(error.to_string()))
}

//! `tidings state`: a stream's state as JSON.

use std::io::{self, Write};

use clap::Args;

use super::Source;
use crate::app;
use crate::execute::history::AsOf;

/// Options of `tidings state`.
#[derive(Debug, Args)]
pub(super) struct State {
    #[command(flatten)]
    source: Source,
    /// Whose state: tenant-…, messages-…, subscription-… or deliveries-….
    #[arg(long, value_name = "NAME")]
    stream: String,
    /// As of this position (0-17), version of the stream (17) or RFC 3339 time; now if absent.
    #[arg(long, value_name = "MOMENT")]
    as_of: Option<AsOf>,
}

pub(super) async fn state(options: State) -> anyhow::Result<()> {
    let state = app::state(&options.source.load()?, &options.stream, options.as_of).await?;
    let Some(state) = state else { anyhow::bail!("stream '{}' had no event then", options.stream) };
    writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&state)?)?;
    Ok(())
}

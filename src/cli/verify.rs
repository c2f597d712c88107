//! `tidings verify`: whether the log, and everything folded from it, is what it should be.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::Source;
use super::progress::Progress;
use crate::app;
use crate::domain::ledger::Counts;

/// Ended without having looked at everything.
const COULD_NOT_LOOK: u8 = 2;

/// Options of `tidings verify`.
#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    source: Source,
    /// Leave the read models out.
    #[arg(long)]
    log_only: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Exits with 0 if nothing differs, with 1 if something does, and with 2 if it could not look.
pub(super) async fn verify(options: Verify) -> ExitCode {
    match look(&options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            super::complain(&error);
            ExitCode::from(COULD_NOT_LOOK)
        }
    }
}

async fn look(options: &Verify) -> anyhow::Result<bool> {
    let config = options.source.load()?;
    let progress = Progress::new("verifying");
    let report = app::verify(&config, !options.log_only, |done, total| progress.tell(done, total)).await?;
    progress.end();
    let mut out = io::stdout();
    if options.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
        return Ok(report.differences == 0);
    }
    for difference in &report.first {
        writeln!(out, "{difference}")?;
    }
    let more = report.differences - report.first.len() as u64;
    if more > 0 {
        writeln!(out, "and {more} more")?;
    }
    writeln!(out, "{}", balance(&report.ledger))?;
    writeln!(
        out,
        "{} events in {} streams, {} open deliveries, {} snapshots, {} read models: {}",
        report.events,
        report.streams,
        report.open_deliveries,
        report.snapshots,
        report.read_models,
        match report.differences {
            0 => "no difference".to_owned(),
            1 => "1 difference".to_owned(),
            count => format!("{count} differences"),
        }
    )?;
    Ok(report.differences == 0)
}

/// Where the messages stand, state by state.
fn balance(counts: &Counts) -> String {
    let Counts { pending, held, unmatched, succeeded, failed, expired, .. } = counts;
    let Counts { cancelled, skipped, lost, gone, unaccounted, twice, .. } = counts;
    format!(
        "{} matches: {succeeded} succeeded, {failed} failed, {expired} expired, {cancelled} cancelled, {pending} pending, \
         {unmatched} not yet matched, {held} held, {skipped} skipped, {lost} lost, {gone} gone, {unaccounted} \
         unaccounted, {twice} twice",
        counts.matched()
    )
}

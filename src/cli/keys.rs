//! `tidings keys`: what the operator's keys seal.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::Source;
use super::progress::Progress;
use crate::app::keys::{self, Status};
use crate::clock::SystemClock;

/// Ended without having looked at everything.
const COULD_NOT_LOOK: u8 = 2;

/// Options of `tidings keys`.
#[derive(Debug, Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say how many rows of the key store are sealed under which key. The server may be running.
    Status(Options),
    /// Seal every row under the current key, as the server does by itself while it runs. The server must not be running.
    Rotate(Options),
    /// Copy a SQLite key store, as it is at one moment. The server may be running.
    Backup(Backup),
    /// Open every row, and name those that are damaged: ends with 1 if some are, with 2 if it could not look. The server
    /// may be running.
    Verify(Options),
}

#[derive(Debug, Args)]
struct Options {
    #[command(flatten)]
    source: Source,
    /// How to print the answer.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
struct Backup {
    #[command(flatten)]
    source: Source,
    /// The file to write; it must not exist yet.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

pub(super) async fn keys(options: Keys) -> anyhow::Result<ExitCode> {
    match options.command {
        Command::Status(options) => {
            tell(&keys::status(&options.source.load()?).await?, options.output)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Rotate(options) => {
            let progress = Progress::new("sealing");
            let config = options.source.load()?;
            let status = keys::rotate(&config, &SystemClock, |done, total| progress.tell(done, total)).await?;
            progress.end();
            tell(&status, options.output)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Backup(options) => {
            keys::backup(&options.source.load()?, &options.file).await?;
            let file = options.file.display();
            writeln!(
                io::stdout(),
                "'{file}' is a copy of the key store; the operator's key, which opens it, is not part of it"
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify(options) => Ok(match verify(&options).await {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                super::complain(&error);
                ExitCode::from(COULD_NOT_LOOK)
            }
        }),
    }
}

fn tell(status: &Status, output: Output) -> anyhow::Result<()> {
    let mut out = io::stdout();
    if output == Output::Json {
        serde_json::to_writer(&mut out, status)?;
        return Ok(writeln!(out)?);
    }
    writeln!(out, "{:<18}{:>9}  ", "KEY", "ROWS")?;
    for key in &status.keys {
        let what = match (key.current, key.configured, key.rows) {
            (true, _, _) => "current",
            (false, true, 0) => "old, may go",
            (false, true, _) => "old",
            (false, false, _) => "not configured",
        };
        writeln!(out, "{:<18}{:>9}  {what}", key.id.to_string(), key.rows)?;
    }
    if status.damaged > 0 {
        writeln!(out, "{} rows are damaged: 'tidings keys verify' names them", status.damaged)?;
    }
    Ok(())
}

async fn verify(options: &Options) -> anyhow::Result<bool> {
    let verified = keys::verify(&options.source.load()?).await?;
    let mut out = io::stdout();
    match options.output {
        Output::Json => {
            serde_json::to_writer(&mut out, &verified)?;
            writeln!(out)?;
        }
        Output::Table => {
            for name in &verified.damaged {
                writeln!(out, "damaged: {name}")?;
            }
            writeln!(out, "{} rows, {} damaged", verified.rows, verified.damaged.len())?;
        }
    }
    Ok(verified.damaged.is_empty())
}

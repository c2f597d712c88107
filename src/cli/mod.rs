//! The command line: reads arguments, calls one function, prints what it answers.

pub mod certificates;
mod events;
mod keys;
pub mod listen;
mod progress;
mod state;
mod transfer;
mod user;
mod verify;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::clock::SystemClock;
use crate::config::Config;
use crate::projections::Name;
use crate::{app, telemetry};
use progress::Progress;

/// Tidings delivers webhooks: signed, retried, remembered.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(Serve),
    /// Receive deliveries over TLS, verify and print them: an endpoint for development.
    Listen(listen::ListenOptions),
    /// Fold read models from the log again and put them in the place of the present ones. The server may be running.
    Rebuild(Rebuild),
    /// Print the log as JSON Lines. The server may be running.
    Events(events::Events),
    /// Print the state of a stream, now or as of an earlier moment, as JSON. The server may be running.
    State(state::State),
    /// Check the log and everything folded from it. The server may be running.
    Verify(verify::Verify),
    /// Write a whole store into one file. The server may be running.
    Export(transfer::Export),
    /// Fill an empty store from such a file.
    Import(transfer::Import),
    /// Copy a SQLite log, as it is at one moment. The server may be running.
    Backup(transfer::Backup),
    /// Let people log in. The server must not be running.
    User(user::User),
    /// Tell of the operator's keys and what they seal, or put another in the place of one.
    Keys(keys::Keys),
    /// Print the GraphQL schema, or write all contract files.
    Schema(Schema),
}

#[derive(Debug, Args)]
struct Source {
    /// Configuration file (TOML). Every key is in schema/config.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the log lives: sqlite://PATH or postgres://…. Overrides file and environment.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
}

#[derive(Debug, Args)]
struct Serve {
    #[command(flatten)]
    source: Source,
    /// Address and port to listen on. Overrides file and environment.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

#[derive(Debug, Args)]
struct Rebuild {
    #[command(flatten)]
    source: Source,
    /// Only this one: tenants, webhooks, messages, deliveries or audit. May be given several times.
    #[arg(long, value_name = "NAME", value_parser = projection)]
    projection: Vec<Name>,
}

#[derive(Debug, Args)]
struct Schema {
    /// Write schema.graphql and errors.md into this folder instead.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command that the process was called with.
pub async fn run() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Serve(options) => serve(options).await?,
        Command::Listen(options) => listen::listen(options, std::io::stdout()).await?,
        Command::Rebuild(options) => rebuild(&options).await?,
        Command::Events(options) => events::events(options).await?,
        Command::State(options) => state::state(options).await?,
        Command::Verify(options) => return Ok(verify::verify(options).await),
        Command::Export(options) => transfer::export(options).await?,
        Command::Import(options) => transfer::import(options).await?,
        Command::Backup(options) => transfer::backup(options).await?,
        Command::User(options) => user::user(options).await?,
        Command::Keys(options) => return keys::keys(options).await,
        Command::Schema(options) => schema(options.out.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Says on standard error why the command failed.
pub fn complain(error: &anyhow::Error) {
    // Nobody is left to tell if standard error is gone.
    drop(writeln!(std::io::stderr(), "tidings: {error:#}"));
}

impl Source {
    fn load(&self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(url) = &self.database_url {
            config.database.url.clone_from(url);
            config.log_place()?;
        }
        Ok(config)
    }
}

async fn serve(options: Serve) -> anyhow::Result<()> {
    let mut config = options.source.load()?;
    if let Some(listen) = options.listen {
        config.server.listen = listen;
    }
    telemetry::start(&config.telemetry).context("telemetry.filter is no filter")?;
    let mut out = std::io::stdout();
    let show = |key: &str| {
        writeln!(out, "bootstrap key (shown once): {key}")?;
        out.flush()
    };
    let app = app::App::start(&config, Arc::new(SystemClock), show).await?;
    // Before anybody is told that it runs: an earlier signal would end it without order.
    let signal = shutdown_signal()?;
    if let Some(address) = app.metrics_address() {
        writeln!(out, "metrics on http://{address}/metrics")?;
    }
    if let Some(address) = app.admin_address() {
        writeln!(out, "operators on http://{address}")?;
    }
    writeln!(out, "serving on http://{}", app.address())?;
    out.flush()?;
    app.run_until(signal).await.context("the server had to end")
}

/// Resolves at the first SIGINT or SIGTERM; a second one ends the process at once.
fn shutdown_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("shutting down: attempts under way come to their end first; a second signal ends at once");
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            std::process::abort();
        });
    })
}

fn projection(name: &str) -> Result<Name, String> {
    let known = Name::ALL.map(Name::as_str).join(", ");
    Name::ALL.into_iter().find(|known| known.as_str() == name).ok_or_else(|| format!("it is one of {known}"))
}

async fn rebuild(options: &Rebuild) -> anyhow::Result<()> {
    let config = options.source.load()?;
    telemetry::start(&config.telemetry).context("telemetry.filter is no filter")?;
    let names = if options.projection.is_empty() { &Name::ALL[..] } else { &options.projection };
    let progress = Progress::new("rebuilding");
    let events = app::rebuild(&config, names, |done, head| progress.tell(done, head)).await?;
    progress.end();
    writeln!(std::io::stdout(), "rebuilt from {events} events")?;
    Ok(())
}

fn schema(out: Option<&Path>) -> anyhow::Result<()> {
    let Some(folder) = out else {
        write!(std::io::stdout(), "{}", crate::graphql::sdl())?;
        return Ok(());
    };
    for (name, text) in app::contracts() {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write '{}'", path.display()))?;
    }
    Ok(())
}

//! Log lines: which are written, and how.
//!
//! Lines go to standard error, so that standard output stays what a command answers. No payload, secret, header or full
//! URL is ever logged.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::time::UtcTime;

use crate::config::{LogFormat, Telemetry};

/// Sets up logging for this process. Fails if `telemetry.filter` is no filter; does nothing if it is set up already.
pub fn start(config: &Telemetry) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(&config.filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Colours are for people; in a file they are noise.
        .with_ansi(std::io::stderr().is_terminal());
    // The error says only that a test or an embedding program was first.
    drop(match config.format {
        LogFormat::Text => builder.with_timer(UtcTime::rfc_3339()).try_init(),
        LogFormat::Json => builder.with_timer(UtcTime::rfc_3339()).json().try_init(),
    });
    Ok(())
}

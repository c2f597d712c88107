//! Log lines: which are written, and how.
//!
//! Lines go to standard error, so that standard output stays what a command answers. No payload, secret, header or full
//! URL is ever logged. Of this program's own lines a test says so (`tests/it/canary`). Below [`LIBRARIES`] the libraries tell
//! of bytes as they come and go, keys and data among them; nobody can read all that before each update, so none of it
//! is written, whatever the filter says.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{ParseError, filter_fn};
use tracing_subscriber::fmt::time::UtcTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, Telemetry};

/// The finest lines of other crates that are written.
const LIBRARIES: Level = Level::INFO;
/// Our own lines begin so, those of the binary and those of the library.
const OWN: &str = "tidings";

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
        LogFormat::Text => builder.with_timer(UtcTime::rfc_3339()).finish().with(filter_fn(may_be_written)).try_init(),
        LogFormat::Json => {
            builder.with_timer(UtcTime::rfc_3339()).json().finish().with(filter_fn(may_be_written)).try_init()
        }
    });
    Ok(())
}

/// Whether a line, or a span, may be written at all.
fn may_be_written(line: &Metadata<'_>) -> bool {
    is_own(line.target()) || *line.level() <= LIBRARIES
}

fn is_own(target: &str) -> bool {
    target.strip_prefix(OWN).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_lines_may_be_fine() {
        for own in ["tidings", "tidings::actors::attempt"] {
            assert!(is_own(own), "{own}");
        }
        for other in ["tungstenite::protocol", "tidings_of_others", "hyper", "log", ""] {
            assert!(!is_own(other), "{other}");
        }
    }
}

//! The server as a process of its own, on loopback: TLS receivers and publishers are in this one.
//!
//! Prints what it measured and asserts nothing but completeness. All share the machine, so the figures are those of the
//! whole; processor time and memory are the server process's own, from the operating system.
//!
//! With POSTGRES_TEST_URL the log is kept at that server, in a database for each start; else in SQLite.
//!
//! Arguments name the parts: `rates` (the default), `memory`, `restart`, `overload`, `black-holes`, `many`, `held`, `replay`, `publish`, `hostile`.

#![expect(clippy::print_stdout, reason = "a benchmark's output is its result")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to report")]

mod backlog;
mod cost;
#[path = "../../tests/it/support/hostile.rs"]
mod hostile;
mod rates;
mod scale;
mod support;

#[tokio::main]
async fn main() {
    // The publishers' client insists on a provider, although it speaks plain http.
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let mut parts: Vec<String> = std::env::args().skip(1).filter(|part| !part.starts_with("--")).collect();
    if parts.is_empty() {
        parts.push("rates".to_owned());
    }
    for part in parts {
        match part.as_str() {
            "rates" => rates::measure().await,
            "memory" => scale::memory().await,
            "restart" => scale::restart().await,
            "black-holes" => scale::black_holes().await,
            "overload" => scale::overload().await,
            "held" => backlog::held().await,
            "replay" => backlog::replay().await,
            "publish" => cost::publishing().await,
            "hostile" => cost::hostile().await,
            "many" => scale::many().await,
            unknown => panic!("there is no part '{unknown}'"),
        }
    }
}

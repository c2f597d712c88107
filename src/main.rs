//! The command line; everything else is in the library.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match tidings::cli::run().await {
        Ok(code) => code,
        Err(error) => {
            tidings::cli::complain(&error);
            ExitCode::FAILURE
        }
    }
}

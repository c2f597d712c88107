//! `tidings export`, `tidings import` and `tidings backup`: a store as a file.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::Source;
use super::progress::Progress;
use crate::app;

/// Options of `tidings export`.
#[derive(Debug, Args)]
pub(super) struct Export {
    #[command(flatten)]
    source: Source,
    /// The file to write; it must not exist yet. `-` for standard output.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Options of `tidings import`.
#[derive(Debug, Args)]
pub(super) struct Import {
    #[command(flatten)]
    source: Source,
    /// The file to read. `-` for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Options of `tidings backup`.
#[derive(Debug, Args)]
pub(super) struct Backup {
    #[command(flatten)]
    source: Source,
    /// The file to write; it must not exist yet.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) async fn export(options: Export) -> anyhow::Result<()> {
    let config = options.source.load()?;
    let progress = Progress::new("exporting");
    if is_stream(&options.file) {
        let done = app::export(&config, io::stdout().lock(), |done, total| progress.tell(done, total)).await?;
        progress.end();
        writeln!(io::stderr(), "exported {} events", done.events)?;
        return Ok(());
    }
    let (file, written) = NewFile::create(&options.file)?;
    let out = BufWriter::new(&file);
    let done = app::export(&config, out, |done, total| progress.tell(done, total)).await?;
    file.sync_all()?;
    written.keep();
    progress.end();
    writeln!(
        io::stdout(),
        "exported {} events to '{}'; its secrets stay sealed: keep it as you keep the key store, and take the operator's key along",
        done.events,
        options.file.display()
    )?;
    Ok(())
}

pub(super) async fn import(options: Import) -> anyhow::Result<()> {
    let config = options.source.load()?;
    let progress = Progress::new("importing");
    let done = if is_stream(&options.file) {
        app::import(&config, BufReader::new(io::stdin()), |done, total| progress.tell(done, total)).await?
    } else {
        let file = File::open(&options.file).with_context(|| format!("cannot read '{}'", options.file.display()))?;
        app::import(&config, BufReader::new(file), |done, total| progress.tell(done, total)).await?
    };
    progress.end();
    writeln!(
        io::stdout(),
        "imported {} events; the server needs the operator's key that sealed their secrets",
        done.events
    )?;
    Ok(())
}

pub(super) async fn backup(options: Backup) -> anyhow::Result<()> {
    let config = options.source.load()?;
    app::backup(&config, &options.file).await?;
    writeln!(
        io::stdout(),
        "'{}' is a copy of the log; the key store, and the key file that opens it, is not part of it: copy them apart \
         (docs/secrets.md)",
        options.file.display()
    )?;
    Ok(())
}

fn is_stream(file: &Path) -> bool {
    file == Path::new("-")
}

/// A file that goes away again unless it is kept: a half one must not be taken for a whole one.
struct NewFile<'a>(Option<&'a Path>);

impl<'a> NewFile<'a> {
    fn create(path: &'a Path) -> anyhow::Result<(File, Self)> {
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.write(true).create_new(true).open(path);
        Ok((file.with_context(|| format!("cannot make '{}'", path.display()))?, Self(Some(path))))
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            // What cannot be removed says so to whoever looks at it: it has no end.
            drop(std::fs::remove_file(path));
        }
    }
}

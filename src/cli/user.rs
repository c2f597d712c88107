//! `tidings user`: people who log in.

use std::io::{Read, Write};
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::Source;
use crate::app::users::{self, Credentials};
use crate::clock::SystemClock;
use crate::domain::scope::Scope;
use crate::domain::secret::Secret;

/// The command's arguments.
#[derive(Debug, Args)]
pub(super) struct User {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Let somebody log in. Prints their password and what their authenticator app reads, once.
    Add(Add),
    /// Give somebody another password and other one-time codes; a disabled user may log in again.
    Reset(Reset),
    /// Let somebody log in no more.
    Disable(Named),
}

#[derive(Debug, Args)]
struct Named {
    #[command(flatten)]
    source: Source,
    /// By which they log in: a-z, 0-9, '.', '_', '-' and '@'.
    name: String,
}

#[derive(Debug, Args)]
struct Add {
    #[command(flatten)]
    user: Named,
    /// Public id of their tenant.
    #[arg(long, value_name = "SLUG", default_value = "default")]
    tenant: String,
    /// What they may do, as WEBHOOKS_READ. May be given several times. Without it: everything in their tenant.
    #[arg(long = "scope", value_name = "SCOPE", value_parser = scope)]
    scopes: Vec<Scope>,
    /// Read the password from standard input instead of making one: one line, at least 12 characters.
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Debug, Args)]
struct Reset {
    #[command(flatten)]
    user: Named,
    /// Read the password from standard input instead of making one: one line, at least 12 characters.
    #[arg(long)]
    password_stdin: bool,
}

/// Carries it out. No server may run on the store meanwhile.
pub(super) async fn user(options: User) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock);
    match options.act {
        Act::Add(Add { user, tenant, scopes, password_stdin }) => {
            let inside = || Scope::ALL.into_iter().filter(|scope| *scope != Scope::TenantsAdmin).collect();
            let scopes = if scopes.is_empty() { inside() } else { scopes };
            let chosen = password(password_stdin)?;
            let made = users::add(&user.source.load()?, clock, &tenant, &user.name, scopes, chosen).await?;
            show(&user.name, &made, password_stdin)
        }
        Act::Reset(Reset { user, password_stdin }) => {
            let chosen = password(password_stdin)?;
            let made = users::reset(&user.source.load()?, clock, &user.name, chosen).await?;
            show(&user.name, &made, password_stdin)
        }
        Act::Disable(Named { source, name }) => {
            users::disable(&source.load()?, clock, &name).await?;
            writeln!(std::io::stdout(), "{name} may not log in any more")?;
            Ok(())
        }
    }
}

fn show(name: &str, credentials: &Credentials, chosen: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "user: {name}")?;
    if !chosen {
        writeln!(out, "password (shown once): {}", credentials.password.expose())?;
    }
    writeln!(out, "authenticator (shown once): {}", credentials.uri)?;
    Ok(())
}

fn password(from_stdin: bool) -> anyhow::Result<Option<Secret>> {
    if !from_stdin {
        return Ok(None);
    }
    let mut text = Zeroizing::new(String::new());
    std::io::stdin().take(1024).read_to_string(&mut text).context("the password cannot be read")?;
    Ok(Some(Secret::stored(text.trim_end_matches(['\r', '\n']).to_owned())))
}

fn scope(name: &str) -> Result<Scope, String> {
    serde_json::from_value(name.into()).map_err(|_| {
        let known =
            Scope::ALL.map(|scope| serde_json::to_value(scope).ok().and_then(|name| Some(name.as_str()?.to_owned())));
        format!("it is one of {}", known.into_iter().flatten().collect::<Vec<_>>().join(", "))
    })
}

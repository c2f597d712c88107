//! The operator's delivery profiles: read from their folder before anything else, and held to what the log remembers.
//!
//! - A profile never changes under its name. Its digest is claimed in the log when a server first starts with it, and
//!   whoever has another one does not start. Claims move with an export, so the rule outlives the database.
//! - A profile that a webhook or a tenant uses must be there. Only a claimed one can be used, so the subscriptions are
//!   read only if a claimed one is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::codec;
use crate::domain::event::{Event, SubscriptionEvent, TenantEvent};
use crate::domain::id::SubscriptionId;
use crate::domain::profile::{self, Definition, Problem};
use crate::event_store::{Append, Claim, EventReader, Log, Position};
use crate::execute;

/// The largest file that is read, in bytes; the largest profile is smaller.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Rows read at a time.
const PAGE: usize = 500;

/// Profiles that were read, each with the file that it stands in, by name.
pub type Read = BTreeMap<String, (PathBuf, Definition)>;

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfilesError {
    /// It cannot be read.
    #[error("profiles.path: '{path}' cannot be read")]
    Io {
        /// The folder, or a file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Files in it are no profiles. A line for each problem.
    #[error("profiles.path: {} in '{}':{}", count(problems.len()), folder.display(), lines(folder, problems))]
    Invalid {
        /// The folder.
        folder: PathBuf,
        /// What is wrong, and in which file.
        problems: Vec<(PathBuf, Problem)>,
    },
}

fn count(problems: usize) -> String {
    if problems == 1 { "a problem".to_owned() } else { format!("{problems} problems") }
}

fn lines(folder: &Path, problems: &[(PathBuf, Problem)]) -> String {
    problems.iter().fold(String::new(), |mut text, (file, problem)| {
        let file = file.strip_prefix(folder.parent().unwrap_or(folder)).unwrap_or(file);
        write!(text, "\n  {}: {problem}", file.display()).expect("a string takes everything");
        text
    })
}

/// Reads every profile of the folder, or finds everything that is wrong in it. An empty path has none.
pub fn read(folder: &Path) -> Result<Read, ProfilesError> {
    let mut read = Read::new();
    let mut problems = Vec::new();
    for file in files(folder)? {
        match parse(&file)? {
            Ok(definition) => match read.get(&definition.profile.name) {
                Some((other, _)) => {
                    let other = other.file_name().unwrap_or_default().display();
                    let reason = format!("'{}' is the name of the profile in {other} too", definition.profile.name);
                    problems.push((file, Problem { key: "name".into(), reason }));
                }
                None => drop(read.insert(definition.profile.name.clone(), (file, definition))),
            },
            Err(found) => problems.extend(found.into_iter().map(|problem| (file.clone(), problem))),
        }
    }
    if problems.is_empty() { Ok(read) } else { Err(ProfilesError::Invalid { folder: folder.to_owned(), problems }) }
}

/// The files `*.json`, by name. Others may stand there, and a link is followed.
fn files(folder: &Path) -> Result<Vec<PathBuf>, ProfilesError> {
    if folder.as_os_str().is_empty() {
        return Ok(vec![]);
    }
    let unreadable = |source| ProfilesError::Io { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn parse(file: &Path) -> Result<Result<Definition, Vec<Problem>>, ProfilesError> {
    let unreadable = |source| ProfilesError::Io { path: file.to_owned(), source };
    let size = fs::metadata(file).map_err(unreadable)?.len();
    if size > MAX_FILE_BYTES {
        let reason = format!("the file has {size} bytes, which is no profile");
        return Ok(Err(vec![Problem { key: String::new(), reason }]));
    }
    Ok(Definition::parse(&fs::read(file).map_err(unreadable)?))
}

/// Reads the profiles of the folder and makes them known to this process, which asks for them by name.
pub fn load(folder: &Path) -> anyhow::Result<Read> {
    let read = read(folder)?;
    for (_, definition) in read.values() {
        profile::add(definition.profile.clone())?;
    }
    Ok(read)
}

/// Has the log remember the profiles that are new to it, if all fit.
///
/// # Errors
/// As [`check`], or the log cannot be written.
pub(super) async fn remember(log: &Log, folder: &Path, profiles: &Read) -> anyhow::Result<()> {
    let claimed = check(log.reader(), folder, profiles).await?;
    let new = profiles.iter().filter(|(name, _)| !claimed.contains_key(*name));
    let claims: Vec<Claim> = new
        .map(|(name, (_, definition))| Claim {
            key: execute::profile_claim(name),
            value: definition.digest.clone(),
            bucket: None,
        })
        .collect();
    if !claims.is_empty() {
        let append = Append { claims, ..Append::default() };
        log.append(execute::SLUG_SHARD, append).await.context("the delivery profiles cannot be remembered")?;
    }
    Ok(())
}

/// Holds the profiles to what the log remembers of them: the digests by name.
///
/// # Errors
/// A profile has changed, or is used and missing: all of them are named. Or the log cannot be read.
pub(super) async fn check(
    reader: &dyn EventReader,
    folder: &Path,
    profiles: &Read,
) -> anyhow::Result<BTreeMap<String, String>> {
    let claimed = claimed(reader).await?;
    let mut refused = Vec::new();
    for (name, digest) in &claimed {
        match profiles.get(name) {
            Some((file, definition)) if definition.digest != *digest => refused.push(format!(
                "{}: profile '{name}' is not what it was when this store first had it, and a profile never changes \
                 under its name: bring the file back, and give the changed one a new version",
                file.display()
            )),
            None if profile::built_in().iter().any(|known| known.name == *name) => {
                refused
                    .push(format!("profile '{name}' was the operator's in this store, and is now one of this program"));
            }
            Some(_) | None => {}
        }
    }
    let missing: BTreeSet<&str> =
        claimed.keys().map(String::as_str).filter(|name| profile::find(name).is_err()).collect();
    for (name, user) in users(reader, missing).await? {
        let place = if folder.as_os_str().is_empty() { "profiles.path".into() } else { folder.display().to_string() };
        refused.push(format!("{place}: profile '{name}' is missing, and {user} uses it"));
    }
    if !refused.is_empty() {
        anyhow::bail!("the delivery profiles do not fit the log:\n  {}", refused.join("\n  "));
    }
    Ok(claimed)
}

/// The digests of all profiles that the log remembers, by name.
async fn claimed(reader: &dyn EventReader) -> anyhow::Result<BTreeMap<String, String>> {
    let prefix = execute::profile_claim("");
    let mut claimed = BTreeMap::new();
    let mut after = prefix.clone();
    loop {
        let page = reader.claims_after(execute::SLUG_SHARD, Some(&after), PAGE).await?;
        let is_last = page.len() < PAGE;
        for claim in page {
            let Some(name) = claim.key.strip_prefix(&prefix) else { return Ok(claimed) };
            claimed.insert(name.to_owned(), claim.value);
            after = claim.key;
        }
        if is_last {
            return Ok(claimed);
        }
    }
}

/// Who uses these profiles: for each the first that is found.
async fn users(reader: &dyn EventReader, missing: BTreeSet<&str>) -> anyhow::Result<BTreeMap<String, String>> {
    let mut users = BTreeMap::new();
    if missing.is_empty() {
        return Ok(users);
    }
    for shard in 0..reader.shards() {
        let mut lives: BTreeMap<SubscriptionId, (String, bool)> = BTreeMap::new();
        for category in [execute::TENANT_CATEGORY, execute::SUBSCRIPTION_CATEGORY] {
            let up_to = Position { shard, seq: reader.head(shard).await? };
            let mut after: Option<(String, u64)> = None;
            loop {
                let from = after.as_ref().map(|(stream, version)| (stream.as_str(), *version));
                let page = reader.read_category(category, up_to, from, PAGE).await?;
                let Some(last) = page.last() else { break };
                after = Some((last.stream.clone(), last.version));
                for recorded in &page {
                    // One that cannot be read holds back only whom it concerns, here as elsewhere.
                    match codec::decode(recorded) {
                        Ok(Event::Subscription(SubscriptionEvent::Created(created)))
                            if missing.contains(created.profile.as_str()) =>
                        {
                            lives.insert(created.subscription, (created.profile, true));
                        }
                        Ok(Event::Subscription(SubscriptionEvent::Deleted(_))) => {
                            mark(&mut lives, &recorded.stream, false);
                        }
                        Ok(Event::Subscription(SubscriptionEvent::Restored(_))) => {
                            mark(&mut lives, &recorded.stream, true);
                        }
                        Ok(Event::Tenant(TenantEvent::Created(created)))
                            if missing.contains(created.profile.as_str()) =>
                        {
                            let user = format!("the tenant '{}'", created.slug);
                            users.entry(created.profile).or_insert(user);
                        }
                        Ok(_) | Err(_) => {}
                    }
                }
            }
        }
        for (id, (profile, _)) in lives.into_iter().filter(|(_, (_, is_live))| *is_live) {
            users.insert(profile, format!("webhook {id}"));
        }
    }
    Ok(users)
}

/// Remembers whether a subscription is there: one that is deleted uses no profile, and cannot be restored without it.
fn mark(lives: &mut BTreeMap<SubscriptionId, (String, bool)>, stream: &str, is_live: bool) {
    if let Some((_, known)) = execute::subscription_of(stream).and_then(|id| lives.get_mut(&id)) {
        *known = is_live;
    }
}

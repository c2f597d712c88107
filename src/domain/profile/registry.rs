//! The profiles that there are: those that this program brings, and the operator's.
//!
//! A name stands for one profile as long as the process lives. So what was found once stays found, and is the same.

use std::sync::{LazyLock, PoisonError, RwLock, RwLockReadGuard};

use super::Profile;

/// A profile that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no delivery profile '{0}'")]
pub struct UnknownProfile(pub String);

/// A profile that exists, and otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is another delivery profile '{0}' already")]
pub struct NameTaken(pub String);

/// The profile of new tenants.
pub const DEFAULT: &str = "standard-v1";

/// The text of the profile of new tenants.
pub(super) const DEFAULT_TEXT: &str = include_str!("../../../schema/profiles/standard-v1.json");

static BUILT_IN: LazyLock<Vec<Profile>> = LazyLock::new(|| {
    [
        include_str!("../../../schema/profiles/axie-v1.json"),
        include_str!("../../../schema/profiles/axissynapse-v1.json"),
        DEFAULT_TEXT,
    ]
    .iter()
    .map(|text| serde_json::from_str(text).expect("a test reads every built-in profile"))
    .collect()
});

/// Only ever added to, at start.
static ADDED: RwLock<Vec<&'static Profile>> = RwLock::new(Vec::new());

/// Every profile that this program brings.
pub fn built_in() -> &'static [Profile] {
    &BUILT_IN
}

/// Every profile: the program's, then the operator's by name.
pub fn all() -> Vec<&'static Profile> {
    let mut added = added().clone();
    added.sort_by(|one, other| one.name.cmp(&other.name));
    BUILT_IN.iter().chain(added).collect()
}

/// The profile of that name.
pub fn find(name: &str) -> Result<&'static Profile, UnknownProfile> {
    let named = |profile: &&'static Profile| profile.name == name;
    let found = BUILT_IN.iter().find(named).or_else(|| added().iter().copied().find(named));
    found.ok_or_else(|| UnknownProfile(name.to_owned()))
}

/// Makes a profile known for as long as the process lives; nothing happens if it is known already.
pub fn add(profile: Profile) -> Result<(), NameTaken> {
    // Nobody can see it half added.
    let mut added = ADDED.write().unwrap_or_else(PoisonError::into_inner);
    let known = BUILT_IN.iter().chain(added.iter().copied()).find(|known| known.name == profile.name);
    match known {
        Some(known) if *known == profile => Ok(()),
        Some(_) => Err(NameTaken(profile.name)),
        None => {
            added.push(Box::leak(Box::new(profile)));
            Ok(())
        }
    }
}

fn added() -> RwLockReadGuard<'static, Vec<&'static Profile>> {
    ADDED.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::profile::Definition;

    #[test]
    fn an_added_profile_is_found_and_stays_what_it_was() {
        let text = include_str!("../../../examples/profiles/github-style-v1.json").replace("github-style", "registry");
        let profile = Definition::parse(text.as_bytes()).unwrap().profile;
        assert_eq!(find("registry-v1"), Err(UnknownProfile("registry-v1".into())));
        add(profile.clone()).unwrap();
        add(profile.clone()).unwrap();
        assert_eq!(find("registry-v1"), Ok(&profile));
        let names = |profiles: Vec<&'static Profile>| profiles.iter().filter(|one| one.name == profile.name).count();
        assert_eq!(names(all()), 1);
        let changed = Profile { timeout_ms: 1_000, ..profile.clone() };
        assert_eq!(add(changed), Err(NameTaken("registry-v1".into())));
        assert_eq!(add(Profile { name: DEFAULT.into(), ..profile }), Err(NameTaken(DEFAULT.into())));
    }
}

//! The profiles that there are.

use std::sync::LazyLock;

use super::Profile;

/// A profile that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no delivery profile '{0}'")]
pub struct UnknownProfile(pub String);

/// The profile of new tenants.
pub const DEFAULT: &str = "standard-v1";

static BUILT_IN: LazyLock<Vec<Profile>> = LazyLock::new(|| {
    [
        include_str!("../../../schema/profiles/axie-v1.json"),
        include_str!("../../../schema/profiles/axissynapse-v1.json"),
        include_str!("../../../schema/profiles/standard-v1.json"),
    ]
    .iter()
    .map(|text| serde_json::from_str(text).expect("a test reads every built-in profile"))
    .collect()
});

/// Every profile that this program brings.
pub fn built_in() -> &'static [Profile] {
    &BUILT_IN
}

/// The profile of that name.
pub fn find(name: &str) -> Result<&'static Profile, UnknownProfile> {
    BUILT_IN.iter().find(|profile| profile.name == name).ok_or_else(|| UnknownProfile(name.to_owned()))
}

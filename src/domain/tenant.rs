//! A tenant: its name, its API keys and the event types it announced.

mod event_type;

use std::collections::{BTreeMap, BTreeSet};

pub use event_type::{EventTypeUpdate, OwnEventType};

use super::catalogue;
use super::erasure::{self, Erasures};
use super::event::{
    ApiKeyIssued, ApiKeyRevoked, Change, ErasureAdvanced, ErasureScope, ErasureStarted, EventTypeRegistered,
    TenantCreated, TenantEvent, TenantSettingsChanged, UserAdded, UserAuthenticationFailed, UserCredentialsReset,
    UserDisabled,
};
use super::filter::EventType;
use super::id::{ApiKeyId, ErasureId, SecretId, TenantId, UserId};
use super::profile::{self, UnknownProfile};
use super::scope::Scope;
use crate::error_code::ErrorCode;

/// The most characters of a name.
pub const MAX_NAME_CHARS: usize = 200;
/// The most characters of a slug.
pub const MAX_SLUG_CHARS: usize = 64;
/// The most event types that a tenant may announce.
pub const MAX_EVENT_TYPES: usize = 1_000;
/// The most API keys that a tenant may have at one time.
pub const MAX_API_KEYS: usize = 100;
/// The most users that a tenant may have, disabled ones too.
pub const MAX_USERS: usize = 1_000;
/// The most characters of a user's name.
pub const MAX_USER_NAME_CHARS: usize = 64;

/// A tenant; `created` is `None` before it exists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tenant {
    /// How it came into being.
    pub created: Option<TenantCreated>,
    /// The event types it announced.
    pub event_types: BTreeMap<EventType, OwnEventType>,
    /// The API keys that work.
    pub api_keys: BTreeSet<ApiKeyId>,
    /// Whether API keys may do what otherwise takes a person who has just proved themself.
    pub unattended_keys: bool,
    /// Who logs in with a password.
    pub users: BTreeMap<UserId, User>,
    /// What of its message data is being erased, and whether it is erased itself.
    pub erasures: Erasures,
}

/// Somebody who logs in with a password and one-time codes.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    /// By which they log in.
    pub name: String,
    /// What they may do.
    pub scopes: Vec<Scope>,
    /// The sealed hash of their password.
    pub password: SecretId,
    /// The sealed secret of their one-time codes.
    pub totp: SecretId,
    /// Whether they may not log in.
    pub disabled: bool,
}

/// What can be asked of a tenant.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Come into being.
    Create(TenantCreated),
    /// Announce an event type, which the caller has checked.
    RegisterEventType(EventTypeRegistered),
    /// Define an event type of its own otherwise, which the caller has checked.
    UpdateEventType(Box<EventTypeUpdate>),
    /// Get an API key.
    IssueApiKey(ApiKeyIssued),
    /// Withdraw an API key.
    RevokeApiKey(ApiKeyId),
    /// Let API keys do what otherwise takes a person who has just proved themself, or no more.
    SetUnattendedKeys(bool),
    /// Let somebody log in, whose name the caller has claimed.
    AddUser(UserAdded),
    /// Give a user another password and other one-time codes.
    ResetUser(UserCredentialsReset),
    /// Let a user log in no more.
    DisableUser(UserId),
    /// Remember that somebody could not prove that they are a user.
    FailAuthentication(UserAuthenticationFailed),
    /// Begin to erase message data.
    StartErasure(ErasureStarted),
    /// Remember how far an erasure has come.
    AdvanceErasure(ErasureAdvanced),
    /// End an erasure, whose data has left the database's files.
    CompleteErasure {
        /// Which.
        erasure: ErasureId,
        /// How many webhooks were deleted with it.
        webhooks: u64,
        /// How many keys and secrets were destroyed with it.
        secrets: u64,
        /// Whether parts of it may stand in free space of the files.
        freed: bool,
    },
}

/// Why a command is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// There is no such tenant.
    #[error("there is no such tenant")]
    NotFound,
    /// The id is in use.
    #[error("tenant {0} exists already")]
    Exists(TenantId),
    /// Another tenant has the slug.
    #[error("the slug '{0}' is taken")]
    SlugTaken(String),
    /// The slug is not of the form that envelopes and URLs can carry.
    #[error("'{0}' is no slug: 1 to {MAX_SLUG_CHARS} letters, digits, '_' and '-'")]
    InvalidSlug(String),
    /// A name is empty or too long.
    #[error("a name has 1 to {MAX_NAME_CHARS} characters")]
    InvalidName,
    /// The profile does not exist.
    #[error(transparent)]
    Profile(#[from] UnknownProfile),
    /// The event type exists with another definition, or in the built-in catalogue.
    #[error("the event type '{0}' is registered already")]
    EventTypeExists(EventType),
    /// There is no such event type of the tenant's own.
    #[error("the tenant has no event type '{0}' of its own")]
    NoSuchEventType(EventType),
    /// Somebody else changed the event type in between.
    #[error("the event type '{0}' was changed in the meantime")]
    EventTypeChanged(EventType),
    /// Another schema under the same version.
    #[error("another schema needs another version than '{0}'")]
    VersionNeeded(String),
    /// No more event types.
    #[error("a tenant may register {MAX_EVENT_TYPES} event types at most")]
    TooManyEventTypes,
    /// No more keys.
    #[error("a tenant may have {MAX_API_KEYS} API keys at most")]
    TooManyApiKeys,
    /// A key that may do nothing.
    #[error("an API key needs at least one scope")]
    NoScopes,
    /// There is no such key.
    #[error("there is no such API key")]
    NoSuchApiKey,
    /// There is no such user.
    #[error("there is no such user")]
    NoSuchUser,
    /// The name is not of the form that a user's has.
    #[error("'{0}' is no user's name: 1 to {MAX_USER_NAME_CHARS} of a-z, 0-9, '.', '_', '-' and '@'")]
    InvalidUserName(String),
    /// Somebody has that name.
    #[error("there is a user '{0}' already")]
    UserExists(String),
    /// No more users.
    #[error("a tenant may have {MAX_USERS} users at most")]
    TooManyUsers,
    /// It was erased: nothing is made for it any more.
    #[error("the tenant was erased")]
    Erased,
    /// The erasure's rules refuse it.
    #[error(transparent)]
    Erasure(#[from] erasure::Refusal),
}

impl Refusal {
    /// The code that clients match on.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound | Self::NoSuchApiKey | Self::NoSuchUser | Self::NoSuchEventType(_) => ErrorCode::NotFound,
            Self::Exists(_) | Self::UserExists(_) | Self::EventTypeChanged(_) => ErrorCode::VersionConflict,
            Self::SlugTaken(_)
            | Self::InvalidSlug(_)
            | Self::InvalidName
            | Self::Profile(_)
            | Self::NoScopes
            | Self::VersionNeeded(_)
            | Self::InvalidUserName(_) => ErrorCode::InvalidInput,
            Self::EventTypeExists(_) => ErrorCode::EventTypeExists,
            Self::TooManyEventTypes | Self::TooManyApiKeys | Self::TooManyUsers => ErrorCode::LimitExceeded,
            Self::Erased => ErrorCode::TenantErased,
            Self::Erasure(refusal) => refusal.code(),
        }
    }
}

/// Says what happens. No events: it is so already.
pub fn decide(state: &Tenant, command: Command) -> Result<Vec<TenantEvent>, Refusal> {
    match command {
        Command::Create(created) => create(state, created),
        Command::RegisterEventType(registered) => event_type::register(state.active()?, registered),
        Command::UpdateEventType(update) => event_type::update(state.active()?, *update),
        Command::IssueApiKey(issued) => issue(state.active()?, issued),
        Command::RevokeApiKey(key) if state.living()?.api_keys.contains(&key) => {
            Ok(vec![TenantEvent::ApiKeyRevoked(ApiKeyRevoked { key })])
        }
        Command::RevokeApiKey(_) => Err(Refusal::NoSuchApiKey),
        Command::SetUnattendedKeys(to) => Ok(set_unattended_keys(state.active()?, to)),
        Command::AddUser(added) => add_user(state.active()?, added),
        Command::ResetUser(reset) => {
            state.active()?.user(reset.user).map(|_| vec![TenantEvent::UserCredentialsReset(reset)])
        }
        Command::DisableUser(user) if state.user(user)?.disabled => Ok(vec![]),
        Command::DisableUser(user) => Ok(vec![TenantEvent::UserDisabled(UserDisabled { user })]),
        Command::FailAuthentication(failed) => {
            state.user(failed.user).map(|_| vec![TenantEvent::UserAuthenticationFailed(failed)])
        }
        // All of it is being erased: what else there was to erase goes with it.
        Command::StartErasure(ErasureStarted {
            scope: ErasureScope::Messages { .. } | ErasureScope::Subject { .. },
            ..
        }) if state.is_erased() => Err(Refusal::Erased),
        Command::StartErasure(started) => Ok(state.living()?.erasures.start(started)?),
        Command::AdvanceErasure(advanced) => Ok(state.living()?.erasures.advance(advanced)?),
        Command::CompleteErasure { erasure, webhooks, secrets, freed } => {
            Ok(state.living()?.erasures.complete(erasure, webhooks, secrets, freed)?)
        }
    }
}

fn set_unattended_keys(state: &Tenant, to: bool) -> Vec<TenantEvent> {
    if state.unattended_keys == to {
        return vec![];
    }
    let unattended_keys = Some(Change { from: state.unattended_keys, to });
    vec![TenantEvent::SettingsChanged(TenantSettingsChanged { unattended_keys })]
}

fn add_user(state: &Tenant, added: UserAdded) -> Result<Vec<TenantEvent>, Refusal> {
    check_new_user(state, &added.name, &added.scopes)?;
    Ok(vec![TenantEvent::UserAdded(added)])
}

/// Whether the tenant can have another user of that name who may do that.
pub fn check_new_user(state: &Tenant, name: &str, scopes: &[Scope]) -> Result<(), Refusal> {
    check_user_name(name)?;
    if scopes.is_empty() {
        return Err(Refusal::NoScopes);
    }
    if state.users.values().any(|user| user.name == name) {
        return Err(Refusal::UserExists(name.to_owned()));
    }
    if state.users.len() >= MAX_USERS {
        return Err(Refusal::TooManyUsers);
    }
    Ok(())
}

/// Whether a user can have that name: one spelling only, so that no two look the same.
pub fn check_user_name(name: &str) -> Result<(), Refusal> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-@".contains(&byte);
    match name.len() {
        1..=MAX_USER_NAME_CHARS if name.bytes().all(fits) => Ok(()),
        _ => Err(Refusal::InvalidUserName(name.chars().take(MAX_USER_NAME_CHARS).collect())),
    }
}

fn create(state: &Tenant, created: TenantCreated) -> Result<Vec<TenantEvent>, Refusal> {
    if state.created.is_some() {
        return Err(Refusal::Exists(created.tenant));
    }
    check_name(&created.name)?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if created.slug.is_empty() || created.slug.len() > MAX_SLUG_CHARS || !created.slug.bytes().all(fits) {
        return Err(Refusal::InvalidSlug(created.slug.chars().take(MAX_SLUG_CHARS).collect()));
    }
    profile::find(&created.profile)?;
    Ok(vec![TenantEvent::Created(created)])
}

fn issue(state: &Tenant, issued: ApiKeyIssued) -> Result<Vec<TenantEvent>, Refusal> {
    check_name(&issued.name)?;
    if issued.scopes.is_empty() {
        return Err(Refusal::NoScopes);
    }
    if state.api_keys.len() >= MAX_API_KEYS {
        return Err(Refusal::TooManyApiKeys);
    }
    Ok(vec![TenantEvent::ApiKeyIssued(issued)])
}

fn check_name(name: &str) -> Result<(), Refusal> {
    match name.trim().chars().count() {
        1..=MAX_NAME_CHARS => Ok(()),
        _ => Err(Refusal::InvalidName),
    }
}

impl Tenant {
    /// Whether messages of this type may be published.
    pub fn knows(&self, event_type: &EventType) -> bool {
        self.event_types.contains_key(event_type) || catalogue::find(event_type).is_some()
    }

    /// Remembers what happened.
    pub fn evolve(&mut self, event: &TenantEvent) {
        match event {
            TenantEvent::Created(created) => self.created = Some(created.clone()),
            TenantEvent::EventTypeRegistered(registered) => {
                self.event_types.insert(registered.name.clone(), OwnEventType::registered(registered));
            }
            TenantEvent::EventTypeUpdated(updated) => {
                if let Some(known) = self.event_types.get_mut(&updated.name) {
                    known.evolve(updated);
                }
            }
            TenantEvent::ApiKeyIssued(issued) => {
                self.api_keys.insert(issued.key);
            }
            TenantEvent::ApiKeyRevoked(revoked) => {
                self.api_keys.remove(&revoked.key);
            }
            TenantEvent::SettingsChanged(changed) => {
                self.unattended_keys = changed.unattended_keys.as_ref().map_or(self.unattended_keys, |keys| keys.to);
            }
            TenantEvent::UserAdded(UserAdded { user, name, scopes, password, totp }) => {
                let (name, scopes) = (name.clone(), scopes.clone());
                let added = User { name, scopes, password: *password, totp: *totp, disabled: false };
                self.users.insert(*user, added);
            }
            TenantEvent::UserCredentialsReset(reset) => {
                if let Some(user) = self.users.get_mut(&reset.user) {
                    (user.password, user.totp, user.disabled) = (reset.password, reset.totp, false);
                }
            }
            TenantEvent::UserDisabled(disabled) => {
                if let Some(user) = self.users.get_mut(&disabled.user) {
                    user.disabled = true;
                }
            }
            TenantEvent::UserAuthenticationFailed(_) | TenantEvent::ConfigChanged(_) | TenantEvent::KekRotated(_) => {}
            TenantEvent::ErasureStarted(started) => self.erasures.started(started),
            TenantEvent::ErasureAdvanced(advanced) => self.erasures.advanced(advanced),
            TenantEvent::ErasureCompleted(completed) => self.erasures.completed(completed),
        }
    }

    fn user(&self, id: UserId) -> Result<&User, Refusal> {
        self.living()?.users.get(&id).ok_or(Refusal::NoSuchUser)
    }

    /// Whether its message data, keys and secrets were erased, or are being erased.
    pub fn is_erased(&self) -> bool {
        self.erasures.of_tenant.is_some()
    }

    fn active(&self) -> Result<&Self, Refusal> {
        if self.is_erased() { Err(Refusal::Erased) } else { self.living() }
    }

    fn living(&self) -> Result<&Self, Refusal> {
        self.created.as_ref().map(|_| self).ok_or(Refusal::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::scope::Scope;

    fn created() -> TenantCreated {
        TenantCreated {
            tenant: TenantId::from_parts(1, 1),
            name: "Acme".into(),
            slug: "ent_abc123".into(),
            profile: "axie-v1".into(),
        }
    }

    pub(super) fn acme() -> Tenant {
        let mut tenant = Tenant::default();
        tenant.evolve(&TenantEvent::Created(created()));
        tenant
    }

    fn registered(name: &str, description: &str) -> EventTypeRegistered {
        EventTypeRegistered {
            name: EventType::parse(name).unwrap(),
            category: "own".into(),
            description: description.into(),
            version: "1".into(),
            schema: serde_json::json!({}),
            example: None,
        }
    }

    #[test]
    fn a_slug_must_fit_into_envelopes() {
        for slug in ["", "a b", "ent.abc", "ä", "\"", &"x".repeat(65)] {
            let refusal = decide(&Tenant::default(), Command::Create(TenantCreated { slug: slug.into(), ..created() }));
            assert!(matches!(refusal, Err(Refusal::InvalidSlug(_))), "{slug}");
        }
        assert!(decide(&Tenant::default(), Command::Create(created())).is_ok());
        assert!(matches!(decide(&acme(), Command::Create(created())), Err(Refusal::Exists(_))));
    }

    #[test]
    fn an_event_type_is_registered_once_and_never_over_the_catalogue() {
        // A8
        let mut tenant = acme();
        let events = decide(&tenant, Command::RegisterEventType(registered("chat.opened", "one"))).unwrap();
        events.iter().for_each(|event| tenant.evolve(event));
        assert!(tenant.knows(&EventType::parse("chat.opened").unwrap()));
        assert!(tenant.knows(&EventType::parse("user.created").unwrap()));
        assert!(!tenant.knows(&EventType::parse("chat.closed").unwrap()));
        assert_eq!(decide(&tenant, Command::RegisterEventType(registered("chat.opened", "one"))), Ok(vec![]));
        for name in ["chat.opened", "user.created"] {
            let refusal = decide(&tenant, Command::RegisterEventType(registered(name, "two"))).unwrap_err();
            assert_eq!(refusal.code(), ErrorCode::EventTypeExists);
        }
    }

    #[test]
    fn a_key_works_until_it_is_revoked() {
        let mut tenant = acme();
        let key = ApiKeyId::from_parts(1, 7);
        let issued = ApiKeyIssued {
            key,
            name: "ci".into(),
            hash: "00".into(),
            scopes: vec![Scope::AuditRead],
            expires_at: None,
        };
        let nothing = ApiKeyIssued { scopes: vec![], ..issued.clone() };
        assert_eq!(decide(&tenant, Command::IssueApiKey(nothing)), Err(Refusal::NoScopes));
        for event in decide(&tenant, Command::IssueApiKey(issued)).unwrap() {
            tenant.evolve(&event);
        }
        for event in decide(&tenant, Command::RevokeApiKey(key)).unwrap() {
            tenant.evolve(&event);
        }
        assert_eq!(decide(&tenant, Command::RevokeApiKey(key)), Err(Refusal::NoSuchApiKey));
    }

    #[test]
    fn a_user_is_added_once_and_comes_back_with_new_credentials() {
        let (user, old, new) = (UserId::from_parts(1, 9), SecretId::from_parts(1, 1), SecretId::from_parts(2, 2));
        let scopes = vec![Scope::KeysAdmin];
        let added = UserAdded { user, name: "ada@acme".into(), scopes, password: old, totp: old };
        let mut tenant = acme();
        let mut done = |command: Command| {
            let events = decide(&tenant, command)?;
            events.iter().for_each(|event| tenant.evolve(event));
            Ok((events.len(), tenant.users.get(&user).map(|user| (user.disabled, user.password))))
        };
        assert_eq!(done(Command::DisableUser(user)), Err(Refusal::NoSuchUser));
        assert_eq!(done(Command::AddUser(added.clone())), Ok((1, Some((false, old)))));
        assert_eq!(done(Command::AddUser(added.clone())), Err(Refusal::UserExists("ada@acme".into())));
        assert_eq!(done(Command::DisableUser(user)), Ok((1, Some((true, old)))));
        assert_eq!(done(Command::DisableUser(user)), Ok((0, Some((true, old)))));
        let reset = UserCredentialsReset { user, password: new, totp: new };
        assert_eq!(done(Command::ResetUser(reset)), Ok((1, Some((false, new)))));
        for name in ["", "Ada", "a b", "\u{430}da", &"x".repeat(65)] {
            let refused = done(Command::AddUser(UserAdded { name: name.into(), ..added.clone() }));
            assert!(matches!(refused, Err(Refusal::InvalidUserName(_))), "{name}");
        }
    }

    #[test]
    fn keys_act_unattended_only_where_somebody_said_so() {
        let mut tenant = acme();
        assert!(!tenant.unattended_keys);
        assert_eq!(decide(&tenant, Command::SetUnattendedKeys(false)), Ok(vec![]));
        for event in decide(&tenant, Command::SetUnattendedKeys(true)).unwrap() {
            tenant.evolve(&event);
        }
        assert!(tenant.unattended_keys);
    }

    #[test]
    fn nothing_is_made_for_a_tenant_that_was_erased() {
        let mut tenant = acme();
        let started =
            |scope| Command::StartErasure(ErasureStarted { erasure: ErasureId::from_parts(1, 1), scope, reason: None });
        for event in decide(&tenant, started(ErasureScope::Tenant {})).unwrap() {
            tenant.evolve(&event);
        }
        let named = ErasureScope::Messages { messages: vec![], size_bytes: 0 };
        for command in [
            Command::RegisterEventType(registered("chat.opened", "one")),
            Command::SetUnattendedKeys(true),
            started(named),
        ] {
            assert_eq!(decide(&tenant, command), Err(Refusal::Erased));
        }
        assert_eq!(decide(&tenant, started(ErasureScope::Tenant {})), Ok(vec![]));
        assert_eq!(Refusal::Erased.code(), ErrorCode::TenantErased);
    }

    #[test]
    fn nothing_can_be_asked_of_a_tenant_that_is_not_there() {
        let refusal = decide(&Tenant::default(), Command::RegisterEventType(registered("a.b", ""))).unwrap_err();
        assert_eq!(refusal, Refusal::NotFound);
    }
}

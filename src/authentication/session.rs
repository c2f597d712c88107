//! Sessions of people who logged in here.
//!
//! - What counts is in memory, and the vault keeps of each what a restart must not lose ([`Sessions::recall`]): sealed, and
//!   under a keyed hash of the token, so that nothing a database thief has is a session.
//! - One is kept before its holder has the token, and kept no more before its end is confirmed. When it was used last is
//!   written once in a while: a crash makes it look idle for longer than it was, never for less.
//! - While the log passes from one process to another, both know the sessions that the later one took up. So one that the
//!   vault keeps no more has ended, wherever that was, and one that is not known here may be kept all the same.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::sync::Mutex as Turn;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::domain::id::{SecretId, TenantId, UserId};
use crate::domain::time::Timestamp;
use crate::execute::vault::{Binding, KeyBytes, Vault, VaultError};
use crate::key_store::KeyStoreError;

/// Sessions of one user at one time; a further login ends the oldest.
const MAX_PER_USER: usize = 10;
/// Sessions at one time.
const MAX_SESSIONS: usize = 10_000;
const MINUTE_MS: u64 = 60_000;

/// Of how many parts of the idle time one may be unwritten.
const PARTS_OF_IDLE: u64 = 20;

/// A session's place: the keyed hash of what its holder has. Prints as `***`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId([u8; 32]);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What the holder of a session has.
pub struct SessionToken(Zeroizing<String>);

impl SessionToken {
    pub(super) fn generate(random: &[u8; 32]) -> Self {
        Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(random)))
    }

    /// The token as somebody presents it.
    pub fn presented(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The text, for the one cookie that carries it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn id(&self, pepper: &KeyBytes) -> SessionId {
        let mut mac = Hmac::<Sha256>::new_from_slice(&**pepper).expect("HMAC takes a key of any length");
        mac.update(self.0.as_bytes());
        SessionId(mac.finalize().into_bytes().into())
    }
}

/// One session.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Session {
    pub(super) tenant: TenantId,
    pub(super) user: UserId,
    pub(super) kept: Kept,
    /// When it was last used, as far as that is written.
    written_at: Timestamp,
    /// Whether the vault has it: a full disk lets nobody down who comes to make room.
    is_kept: bool,
}

/// What is kept of it beside whose it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) name: String,
    /// The password by which it began: a reset ends it.
    pub(super) password: SecretId,
    /// When they last proved themself.
    pub(super) authenticated_at: Timestamp,
    pub(super) ends_at: Timestamp,
    pub(super) seen_at: Timestamp,
}

impl Session {
    /// Of somebody who has just proved themself.
    fn begun(tenant: TenantId, user: UserId, name: &str, password: SecretId, now: Timestamp, max_ms: u64) -> Self {
        let (name, ends_at) = (name.to_owned(), now.plus_ms(max_ms));
        let kept = Kept { name, password, authenticated_at: now, ends_at, seen_at: now };
        Self { tenant, user, kept, written_at: now, is_kept: false }
    }

    /// Ends by `latest` at the latest: the longest time may have been made shorter meanwhile.
    fn recalled(binding: &Binding, plain: &[u8], latest: Timestamp) -> Option<(SessionId, Self)> {
        let (tenant, user, hash) = binding.of_session()?;
        let mut kept: Kept = serde_json::from_slice(plain).ok()?;
        kept.ends_at = kept.ends_at.min(latest);
        let written_at = kept.seen_at;
        Some((SessionId(hash), Self { tenant, user, kept, written_at, is_kept: true }))
    }

    fn binding(&self, id: SessionId) -> Binding {
        Binding::session(self.tenant, self.user, &id.0)
    }

    fn text(&self) -> Vec<u8> {
        serde_json::to_vec(&self.kept).expect("names, ids and times are JSON")
    }
}

/// Every session.
pub(super) struct Sessions {
    idle_ms: u64,
    max_ms: u64,
    open: Mutex<HashMap<SessionId, Session>>,
    /// Who looks for a session that is not known here: one at a time, since anybody may ask for it.
    looking: Turn<()>,
    pepper: KeyBytes,
    vault: Arc<Vault>,
    clock: Arc<dyn Clock>,
}

impl Sessions {
    pub(super) fn new(idle_minutes: u64, max_minutes: u64, vault: Arc<Vault>, clock: Arc<dyn Clock>) -> Self {
        let ms = |minutes: u64| minutes.saturating_mul(MINUTE_MS);
        let (idle_ms, max_ms, pepper) = (ms(idle_minutes), ms(max_minutes), vault.session_pepper());
        Self { idle_ms, max_ms, open: Mutex::default(), looking: Turn::default(), pepper, vault, clock }
    }

    /// Takes up the sessions of before the start; those that have ended are kept no more.
    pub(super) async fn recall(&self) -> Result<(), VaultError> {
        let now = self.clock.now();
        let (kept, mut ended) = self.vault.sessions().await?;
        for (binding, plain) in kept {
            match Session::recalled(&binding, &plain, now.plus_ms(self.max_ms))
                .filter(|(_, session)| is_open(session, self.idle_ms, now))
            {
                Some((id, session)) => drop(self.lock().insert(id, session)),
                None => ended.push(binding),
            }
        }
        self.vault.drop_sessions(&ended).await
    }

    pub(super) fn id_of(&self, token: &SessionToken) -> SessionId {
        token.id(&self.pepper)
    }

    /// Begins one for somebody who has just proved themself; until when it lasts at most.
    pub(super) async fn begin(
        &self,
        token: &SessionToken,
        (tenant, user): (TenantId, UserId),
        name: &str,
        password: SecretId,
    ) -> Timestamp {
        let (now, id) = (self.clock.now(), self.id_of(token));
        let mut session = Session::begun(tenant, user, name, password, now, self.max_ms);
        let (binding, text, ends_at) = (session.binding(id), session.text(), session.kept.ends_at);
        match self.vault.keep_session(&binding, &text, &*self.clock).await {
            Ok(()) => session.is_kept = true,
            // Whoever is to make room, or to mend the database, may have to log in for it.
            Err(error) => tracing::warn!("a session cannot be kept, and will end with a restart: {error}"),
        }
        let ended = make_room(&mut self.lock(), user, self.idle_ms, now);
        self.lock().insert(id, session);
        self.forget(&ended).await;
        ends_at
    }

    /// The session, which is used by this.
    pub(super) async fn touch(&self, id: SessionId, now: Timestamp) -> Result<Option<Session>, VaultError> {
        let Some(found) = self.find(id, now).await? else { return Ok(None) };
        let mut open = self.lock();
        if let Some(session) = open.get_mut(&id) {
            session.kept.seen_at = session.kept.seen_at.max(now);
            if now.ms_since(session.written_at) >= self.idle_ms / PARTS_OF_IDLE {
                session.written_at = now;
                self.write_behind(session.binding(id), session.text());
            }
        }
        Ok(Some(found))
    }

    /// The session, if it is open and nobody has ended it elsewhere.
    pub(super) async fn find(&self, id: SessionId, now: Timestamp) -> Result<Option<Session>, VaultError> {
        let Some(session) = self.peek(id, now) else { return Ok(None) };
        if session.is_kept && !self.vault.keeps_session(&session.binding(id)).await? {
            self.lock().remove(&id);
            return Ok(None);
        }
        Ok(Some(session))
    }

    /// The session, if it is open as far as is known here.
    fn peek(&self, id: SessionId, now: Timestamp) -> Option<Session> {
        self.lock().get(&id).filter(|session| is_open(session, self.idle_ms, now)).cloned()
    }

    /// Its holder has proved themself again.
    pub(super) async fn proved(&self, id: SessionId, now: Timestamp) {
        let changed = self.lock().get_mut(&id).map(|session| {
            session.kept.authenticated_at = now;
            (session.binding(id), session.text())
        });
        if let Some((binding, text)) = changed
            && let Err(error) = self.vault.update_session(&binding, &text, &*self.clock).await
        {
            tracing::warn!("a proof cannot be kept, and will not count after a restart: {error}");
        }
    }

    /// Ends a session, also one that is kept and not known here. After an error it goes on, as it would after a restart.
    /// One that is not known is looked for by one caller at a time, and others are told to come again: anybody may ask.
    pub(super) async fn end(&self, id: SessionId) -> Result<(), VaultError> {
        let known = self.lock().get(&id).map(|session| session.binding(id));
        match known {
            Some(binding) => self.vault.drop_sessions(&[binding]).await?,
            None => {
                let busy = |_| KeyStoreError::Unavailable("another session is looked for".into());
                let _turn = self.looking.try_lock().map_err(busy)?;
                self.vault.drop_session_of(&id.0).await?;
            }
        }
        self.lock().remove(&id);
        Ok(())
    }

    /// Ends all of a user. What stays behind of them does not count: their row says that they may log in no more.
    pub(super) async fn end_all_of(&self, user: UserId) {
        let mut ended = Vec::new();
        self.lock().retain(|id, session| {
            if session.user == user {
                ended.push(session.binding(*id));
            }
            session.user != user
        });
        self.forget(&ended).await;
    }

    async fn forget(&self, ended: &[Binding]) {
        if let Err(error) = self.vault.drop_sessions(ended).await {
            tracing::warn!("what is kept of sessions that have ended stays until the next start: {error}");
        }
    }

    /// Nobody waits for it: what is lost by a crash is how lately the session was used.
    fn write_behind(&self, binding: Binding, text: Vec<u8>) {
        let (vault, clock) = (Arc::clone(&self.vault), Arc::clone(&self.clock));
        tokio::spawn(async move {
            if let Err(error) = vault.update_session(&binding, &text, &*clock).await {
                tracing::debug!("the use of a session cannot be written: {error}");
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Session>> {
        self.open.lock().expect("no holder of this lock can panic")
    }
}

fn is_open(session: &Session, idle_ms: u64, now: Timestamp) -> bool {
    now < session.kept.ends_at && now < session.kept.seen_at.plus_ms(idle_ms)
}

/// Ends what has ended by itself, and the oldest where a further one would be too many.
fn make_room(open: &mut HashMap<SessionId, Session>, user: UserId, idle_ms: u64, now: Timestamp) -> Vec<Binding> {
    let over: Vec<_> = open.iter().filter(|(_, session)| !is_open(session, idle_ms, now)).map(|(id, _)| *id).collect();
    let mut ended: Vec<_> = over.iter().filter_map(|id| Some(open.remove(id)?.binding(*id))).collect();
    while open.values().filter(|session| session.user == user).count() >= MAX_PER_USER {
        ended.extend(end_oldest(open, |session| session.user == user));
    }
    if open.len() >= MAX_SESSIONS {
        ended.extend(end_oldest(open, |_| true));
    }
    ended
}

fn end_oldest(open: &mut HashMap<SessionId, Session>, of: impl Fn(&Session) -> bool) -> Option<Binding> {
    let oldest = open.iter().filter(|(_, session)| of(session)).min_by_key(|(_, session)| session.kept.ends_at);
    let id = *oldest?.0;
    open.remove(&id).map(|session| session.binding(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededClock;
    use crate::execute::vault::OperatorKeys;
    use crate::key_store::MemoryKeys;

    const IDLE_MS: u64 = 30 * MINUTE_MS;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_ms(minute * 60_000)
    }

    fn session(number: u8, user: u64, minute: i64) -> (SessionId, Session) {
        let (user, password) = (UserId::from_parts(user, 1), SecretId::from_parts(1, 1));
        let tenant = TenantId::from_parts(1, 1);
        (SessionId([number; 32]), Session::begun(tenant, user, "ada", password, at(minute), 100 * MINUTE_MS))
    }

    #[test]
    fn a_session_ends_when_it_is_idle_and_when_it_is_old() {
        let (_, mut used) = session(1, 1, 0);
        for minute in [29, 58, 87] {
            assert!(is_open(&used, IDLE_MS, at(minute)), "{minute}");
            used.kept.seen_at = at(minute);
        }
        assert!(!is_open(&used, IDLE_MS, at(100)));
        assert!(!is_open(&session(2, 1, 200).1, IDLE_MS, at(230)));
    }

    #[test]
    fn a_user_has_so_many_sessions_and_what_is_over_makes_room() {
        let mut open: HashMap<_, _> = (0..10).map(|number| session(number, 1, i64::from(number))).collect();
        open.extend([session(20, 2, 0)]);
        let user = UserId::from_parts(1, 1);
        let ended = make_room(&mut open, user, IDLE_MS, at(12));
        assert_eq!(ended, [session(0, 1, 0).1.binding(SessionId([0; 32]))]);
        assert_eq!(open.len(), 10);
        assert_eq!(make_room(&mut open, user, IDLE_MS, at(31)).len(), 2);
    }

    #[tokio::test]
    async fn what_is_kept_is_taken_up_again_and_what_has_ended_is_not() {
        let clock: Arc<dyn Clock> = Arc::new(SeededClock::new(at(200), 1));
        let keys = OperatorKeys::new(KeyBytes::new([7; 32]), []);
        let vault = Arc::new(Vault::open(Arc::new(MemoryKeys::default()), keys, &*clock).await.unwrap());
        let sessions = || Sessions::new(30, 100, Arc::clone(&vault), Arc::clone(&clock));
        let (first, tokens) = (sessions(), [1, 2, 3].map(|number| SessionToken::generate(&[number; 32])));
        let (tenant, password) = (TenantId::from_parts(1, 1), SecretId::from_parts(1, 1));
        for (token, user) in tokens.iter().zip([1, 2, 2]) {
            first.begin(token, (tenant, UserId::from_parts(user, 1)), "ada", password).await;
        }
        let (over, old) = session(9, 3, 150);
        vault.keep_session(&old.binding(over), &old.text(), &*clock).await.unwrap();
        let now = clock.now();
        first.proved(first.id_of(&tokens[0]), now.plus_ms(1)).await;
        first.end(first.id_of(&tokens[1])).await.unwrap();
        let second = sessions();
        second.recall().await.unwrap();
        let open = |sessions: &Sessions| {
            tokens.iter().map(|token| sessions.peek(sessions.id_of(token), now)).collect::<Vec<_>>()
        };
        assert_eq!(open(&second)[0].as_ref().unwrap().kept.authenticated_at, now.plus_ms(1));
        assert!(open(&second)[1].is_none());
        assert_eq!(open(&second)[2], open(&first)[2]);
        assert_eq!(vault.sessions().await.unwrap().0.len(), 2);
        second.end_all_of(UserId::from_parts(2, 1)).await;
        second.end(second.id_of(&tokens[0])).await.unwrap();
        // What was ended does not come back by being written.
        vault.update_session(&old.binding(over), &old.text(), &*clock).await.unwrap();
        assert_eq!(vault.sessions().await.unwrap().0.len(), 0);
    }

    #[test]
    fn a_token_is_not_its_id() {
        let (token, pepper) = (SessionToken::generate(&[7; 32]), KeyBytes::new([1; 32]));
        assert_eq!(token.expose().len(), 43);
        assert!(SessionToken::presented(token.expose()).id(&pepper) == token.id(&pepper));
        assert!(token.id(&KeyBytes::new([2; 32])) != token.id(&pepper));
        assert_eq!(format!("{:?}", token.id(&pepper)), "***");
    }
}

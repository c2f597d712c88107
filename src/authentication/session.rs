//! Sessions of people who logged in here.
//!
//! They live in memory alone: a restart ends them all, and nothing that a database thief could use is ever written.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::domain::id::{SecretId, UserId};
use crate::domain::time::Timestamp;

/// Sessions of one user at one time; a further login ends the oldest.
const MAX_PER_USER: usize = 10;
/// Sessions at one time.
const MAX_SESSIONS: usize = 10_000;
const MINUTE_MS: u64 = 60_000;

/// A session's place: the hash of what its holder has. Prints as `***`.
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

    pub(super) fn id(&self) -> SessionId {
        SessionId(Sha256::digest(self.0.as_bytes()).into())
    }
}

/// One session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) user: UserId,
    pub(super) name: String,
    /// The password by which it began: a reset ends it.
    pub(super) password: SecretId,
    /// When they last proved themself.
    pub(super) authenticated_at: Timestamp,
    pub(super) ends_at: Timestamp,
    pub(super) seen_at: Timestamp,
}

/// Every session.
pub(super) struct Sessions {
    idle_ms: u64,
    max_ms: u64,
    open: Mutex<HashMap<SessionId, Session>>,
}

impl Sessions {
    pub(super) fn new(idle_minutes: u64, max_minutes: u64) -> Self {
        let ms = |minutes: u64| minutes.saturating_mul(MINUTE_MS);
        Self { idle_ms: ms(idle_minutes), max_ms: ms(max_minutes), open: Mutex::new(HashMap::new()) }
    }

    /// Begins one for somebody who has just proved themself.
    pub(super) fn begin(&self, token: &SessionToken, user: UserId, name: &str, password: SecretId, now: Timestamp) {
        let mut open = self.lock();
        let idle_ms = self.idle_ms;
        open.retain(|_, session| is_open(session, idle_ms, now));
        while open.values().filter(|session| session.user == user).count() >= MAX_PER_USER {
            end_oldest(&mut open, |session| session.user == user);
        }
        if open.len() >= MAX_SESSIONS {
            end_oldest(&mut open, |_| true);
        }
        let ends_at = now.plus_ms(self.max_ms);
        let session = Session { user, name: name.to_owned(), password, authenticated_at: now, ends_at, seen_at: now };
        open.insert(token.id(), session);
    }

    /// The session, which is used by this.
    pub(super) fn touch(&self, id: SessionId, now: Timestamp) -> Option<Session> {
        let found = self.peek(id, now)?;
        if let Some(session) = self.lock().get_mut(&id) {
            session.seen_at = session.seen_at.max(now);
        }
        Some(found)
    }

    /// The session, if it is open.
    pub(super) fn peek(&self, id: SessionId, now: Timestamp) -> Option<Session> {
        self.lock().get(&id).filter(|session| is_open(session, self.idle_ms, now)).cloned()
    }

    /// Its holder has proved themself again.
    pub(super) fn proved(&self, id: SessionId, now: Timestamp) {
        if let Some(session) = self.lock().get_mut(&id) {
            session.authenticated_at = now;
        }
    }

    pub(super) fn end(&self, id: SessionId) {
        self.lock().remove(&id);
    }

    pub(super) fn end_all_of(&self, user: UserId) {
        self.lock().retain(|_, session| session.user != user);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Session>> {
        self.open.lock().expect("no holder of this lock can panic")
    }
}

fn is_open(session: &Session, idle_ms: u64, now: Timestamp) -> bool {
    now < session.ends_at && now < session.seen_at.plus_ms(idle_ms)
}

fn end_oldest(open: &mut HashMap<SessionId, Session>, of: impl Fn(&Session) -> bool) {
    let oldest = open.iter().filter(|(_, session)| of(session)).min_by_key(|(_, session)| session.ends_at);
    if let Some(id) = oldest.map(|(id, _)| *id) {
        open.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_ms(minute * 60_000)
    }

    fn begin(sessions: &Sessions, random: u8, minute: i64) -> SessionId {
        let token = SessionToken::generate(&[random; 32]);
        let (user, password) = (UserId::from_parts(1, 1), SecretId::from_parts(1, 1));
        sessions.begin(&token, user, "ada", password, at(minute));
        token.id()
    }

    #[test]
    fn a_session_ends_when_it_is_idle_and_when_it_is_old() {
        let sessions = Sessions::new(30, 100);
        let id = begin(&sessions, 1, 0);
        for minute in [29, 58, 87] {
            assert!(sessions.touch(id, at(minute)).is_some(), "{minute}");
        }
        assert!(sessions.touch(id, at(100)).is_none());
        let id = begin(&sessions, 2, 200);
        assert!(sessions.touch(id, at(230)).is_none());
    }

    #[test]
    fn a_user_has_so_many_sessions_and_all_end_together() {
        let sessions = Sessions::new(30, 100);
        let ids: Vec<_> = (0..12).map(|number| begin(&sessions, number, i64::from(number))).collect();
        let open = || ids.iter().filter(|id| sessions.peek(**id, at(12)).is_some()).count();
        assert_eq!((open(), sessions.peek(ids[1], at(12)).is_some()), (MAX_PER_USER, false));
        sessions.end_all_of(UserId::from_parts(1, 1));
        assert_eq!(open(), 0);
    }

    #[test]
    fn a_token_is_not_its_id() {
        let token = SessionToken::generate(&[7; 32]);
        assert_eq!(token.expose().len(), 43);
        assert!(SessionToken::presented(token.expose()).id() == token.id());
        assert_eq!(format!("{:?}", token.id()), "***");
    }
}

//! Who is signed in at the console? A session stands for the key it was opened with, at this gateway alone, and only its
//! digest is kept.
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::store::{KeyDigest, StoreError, random_hex};
use limits::Moment;

/// How long a session lasts at most.
const LASTS: Duration = Duration::from_secs(12 * 3600);
/// Sessions of one key; the oldest makes way for one more.
const OF_KEY: usize = 32;
/// Sessions of all administrators, and of all users; the oldest makes way for one more.
const OF_ADMINS: usize = 1_000;
const OF_USERS: usize = 10_000;

/// The key that a session stands for: the session is good as long as the key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The admin key of the configuration.
    ConfiguredKey,
    /// An administrator's key, by the digest under which it is known.
    Admin(KeyDigest),
    /// A user's key, by the digest under which it is known.
    User(KeyDigest),
}

/// A session, without what opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) owner: Owner,
    /// When it ends, epoch milliseconds.
    pub(super) until_ms: i64,
    /// The same as uptime, which no clock that is set moves.
    until: Duration,
}

/// All sessions. Shared by all workers.
#[derive(Debug)]
pub struct Sessions {
    admins: Mutex<Table>,
    users: Mutex<Table>,
}

/// Sessions by the digest of their token.
#[derive(Debug)]
struct Table {
    most: usize,
    sessions: HashMap<KeyDigest, Session>,
}

impl Default for Sessions {
    fn default() -> Self {
        let table = |most| Mutex::new(Table { most, sessions: HashMap::new() });
        Self { admins: table(OF_ADMINS), users: table(OF_USERS) }
    }
}

impl Sessions {
    /// Opens a session, which ends with its key at the latest; its token, and the session.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub(super) fn open(
        &self,
        owner: Owner,
        key_ends_ms: Option<i64>,
        now: Moment,
    ) -> Result<(String, Session), StoreError> {
        // 256 bits.
        let token = random_hex()? + &random_hex()?;
        let lasts_ms = i64::try_from(LASTS.as_millis()).unwrap_or(i64::MAX);
        let last_ms = now.unix_ms.saturating_add(lasts_ms);
        let until_ms = key_ends_ms.map_or(last_ms, |end_ms| end_ms.min(last_ms));
        let session = Session { owner, until_ms, until: now.uptime.saturating_add(LASTS) };
        self.with(owner, |table| table.insert(KeyDigest::of(&token), session, now.uptime));
        Ok((token, session))
    }

    /// The session of this token, if it has not ended.
    pub(super) fn find(&self, token: &str, now: Moment) -> Option<Session> {
        let digest = KeyDigest::of(token);
        [&self.admins, &self.users].into_iter().find_map(|table| {
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            let session = *table.sessions.get(&digest)?;
            if session.until <= now.uptime {
                table.sessions.remove(&digest);
                return None;
            }
            Some(session)
        })
    }

    /// Ends the session of this token.
    pub(super) fn end(&self, token: &str) {
        let digest = KeyDigest::of(token);
        for table in [&self.admins, &self.users] {
            table.lock().unwrap_or_else(PoisonError::into_inner).sessions.remove(&digest);
        }
    }

    fn with<T>(&self, owner: Owner, act: impl FnOnce(&mut Table) -> T) -> T {
        let table = match owner {
            Owner::ConfiguredKey | Owner::Admin(_) => &self.admins,
            Owner::User(_) => &self.users,
        };
        act(&mut table.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Table {
    fn insert(&mut self, digest: KeyDigest, session: Session, now: Duration) {
        self.sessions.retain(|_, session| session.until > now);
        self.make_way(OF_KEY, |other| other.owner == session.owner);
        self.make_way(self.most, |_| true);
        self.sessions.insert(digest, session);
    }

    /// Ends the oldest of these sessions where there are as many as there may be.
    fn make_way(&mut self, most: usize, is_one: impl Fn(&Session) -> bool) {
        let (mut count, mut oldest) = (0, None);
        for (digest, session) in self.sessions.iter().filter(|(_, session)| is_one(session)) {
            count += 1;
            if oldest.is_none_or(|(until, _)| session.until < until) {
                oldest = Some((session.until, *digest));
            }
        }
        if let Some((_, digest)) = oldest.filter(|_| count >= most) {
            self.sessions.remove(&digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        let uptime = Duration::from_secs(seconds);
        Moment { uptime, unix_ms: i64::try_from(uptime.as_millis()).unwrap() }
    }

    #[test]
    fn a_session_lasts_until_it_is_ended_or_for_twelve_hours() {
        let sessions = Sessions::default();
        let (token, session) = sessions.open(Owner::ConfiguredKey, None, at(1)).unwrap();
        let (other, _) = sessions.open(Owner::ConfiguredKey, Some(7), at(1)).unwrap();
        assert!(token.len() == 64 && token != other);
        assert_eq!(session.until_ms, (12 * 3600 + 1) * 1000);
        assert_eq!(sessions.find(&other, at(1)).unwrap().until_ms, 7, "no longer than its key");
        assert_eq!(sessions.find(&token, at(12 * 3600)), Some(session));
        assert_eq!(sessions.find(&token, at(12 * 3600 + 1)), None);
        sessions.end(&other);
        assert_eq!(sessions.find(&other, at(2)), None);
        assert_eq!(sessions.find("", at(2)), None);
    }

    #[test]
    fn one_key_pushes_out_its_own_oldest_session_and_nobody_elses() {
        let (sessions, ann, ben) = (Sessions::default(), KeyDigest::of("ann"), KeyDigest::of("ben"));
        let open = |owner, second| sessions.open(owner, None, at(second)).unwrap().0;
        let (admin, bens) = (open(Owner::ConfiguredKey, 1), open(Owner::User(ben), 1));
        let first: Vec<String> = (2..40).map(|second| open(Owner::User(ann), second)).collect();
        let left = first.iter().filter(|token| sessions.find(token, at(50)).is_some()).count();
        assert_eq!(left, OF_KEY);
        assert!(sessions.find(&first[0], at(50)).is_none() && sessions.find(first.last().unwrap(), at(50)).is_some());
        assert!(sessions.find(&admin, at(50)).is_some() && sessions.find(&bens, at(50)).is_some());
    }

    #[test]
    fn there_is_an_end_to_the_sessions_of_all_users() {
        let mut table = Table { most: 3, sessions: HashMap::new() };
        for index in 0..10_u64 {
            let owner = Owner::User(KeyDigest::of(&index.to_string()));
            let session = Session { owner, until_ms: 0, until: Duration::from_secs(100 + index) };
            table.insert(KeyDigest::of(&format!("token {index}")), session, Duration::ZERO);
        }
        let mut left: Vec<u64> = table.sessions.values().map(|session| session.until.as_secs()).collect();
        left.sort_unstable();
        assert_eq!(left, [107, 108, 109]);
    }
}

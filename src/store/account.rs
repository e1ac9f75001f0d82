//! What is a user to the request path? A name, limits with what is used of them, and the end.
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::group::UserGroup;
use super::revocation::Revocation;
use super::usage_id::usage_id;
use limits::{Balance, Ledger, Limits, Moment};

const MINUTE_MS: i64 = 60_000;

/// A user's name: `[A-Za-z0-9._@-]{1,64}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserId(Arc<str>);

impl UserId {
    /// Checks a name; `None` where it has another form, or is `.` or `..`.
    pub fn parse(text: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
        // A path with these would be that of another thing.
        let is_dots = matches!(text, "." | "..");
        (!is_dots && (1..=64).contains(&text.len()) && text.bytes().all(allowed)).then(|| Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

/// A user as the database has them.
#[derive(Clone, Debug)]
pub(super) struct UserEntry {
    pub(super) user: UserId,
    pub(super) created_at_ms: i64,
    /// Which user of this name, from 1.
    pub(super) generation: u32,
    pub(super) terms: Terms,
    /// `None` = nothing but the name.
    pub(super) profile: Option<Arc<Profile>>,
    /// To the minute, epoch milliseconds; 0 = never.
    pub(super) last_seen_ms: i64,
    /// The name of the group.
    pub(super) group: Option<Arc<str>>,
}

impl UserEntry {
    pub(super) fn usage_id(&self) -> Arc<str> {
        if self.generation <= 1 { self.user.shared() } else { usage_id(self.user.as_str(), self.generation) }
    }
}

/// What the operator says of a user, beside limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Since when nothing is let in for the user, epoch milliseconds; `None` = everything is.
    pub suspended_at_ms: Option<i64>,
    /// For people.
    pub display_name: Option<String>,
    /// Where to reach them.
    pub email: Option<String>,
    /// For operators.
    pub note: Option<String>,
}

/// A user as the request path sees them. Shared by all keys of the user and by every running request.
#[derive(Debug)]
pub struct Account {
    user: UserId,
    usage_id: Arc<str>,
    created_at_ms: i64,
    state: Mutex<AccountState>,
    last_seen_ms: AtomicI64,
    /// Set when the user is deleted.
    closed: Revocation,
}

#[derive(Debug)]
struct AccountState {
    terms: Terms,
    profile: Option<Arc<Profile>>,
    ledger: Ledger,
    group: Option<Arc<UserGroup>>,
}

/// A change of limits: `None` = as it was, `Some(None)` = no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsChange {
    /// Admissions in any 60 s.
    pub requests_per_minute: Option<Option<u32>>,
    /// Of the requests admitted in any 60 s.
    pub tokens_per_minute: Option<Option<u64>>,
    /// Per UTC day.
    pub tokens_per_day: Option<Option<u64>>,
    /// Requests at a time.
    pub max_concurrency: Option<Option<u32>>,
}

impl LimitsChange {
    /// `base` with what is changed in its place.
    pub fn over(self, base: Limits) -> Limits {
        Limits {
            requests_per_minute: self.requests_per_minute.unwrap_or(base.requests_per_minute),
            tokens_per_minute: self.tokens_per_minute.unwrap_or(base.tokens_per_minute),
            tokens_per_day: self.tokens_per_day.unwrap_or(base.tokens_per_day),
            max_concurrency: self.max_concurrency.unwrap_or(base.max_concurrency),
        }
    }
}

/// What a user may use, and how much of a busy service is theirs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// The limits of all keys together.
    pub limits: Limits,
    /// The user's share beside others': twice the weight, twice the work. Above 0; 1 is everybody's.
    pub weight: f64,
}

impl Default for Terms {
    fn default() -> Self {
        Self { limits: Limits::default(), weight: 1.0 }
    }
}

impl Account {
    pub(super) fn new(entry: &UserEntry, ledger: Ledger) -> Arc<Self> {
        Arc::new(Self {
            user: entry.user.clone(),
            usage_id: entry.usage_id(),
            created_at_ms: entry.created_at_ms,
            state: Mutex::new(AccountState { terms: entry.terms, profile: entry.profile.clone(), ledger, group: None }),
            last_seen_ms: AtomicI64::new(entry.last_seen_ms),
            closed: Revocation::default(),
        })
    }

    /// The user who owns the account.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// When the user was created, epoch milliseconds.
    pub fn created_at_ms(&self) -> i64 {
        self.created_at_ms
    }

    /// The limits and the weight in force.
    pub fn terms(&self) -> Terms {
        self.with(|state| state.terms)
    }

    /// Takes up what has changed, for the next request on.
    pub(super) fn set(&self, entry: &UserEntry) {
        self.with(|state| (state.terms, state.profile) = (entry.terms, entry.profile.clone()));
        self.last_seen_ms.fetch_max(entry.last_seen_ms, Ordering::Relaxed);
    }

    /// By which id usage knows the user: a name that is used again is another user's.
    pub fn usage_id(&self) -> &Arc<str> {
        &self.usage_id
    }

    /// What the operator says of the user.
    pub fn profile(&self) -> Profile {
        self.with(|state| state.profile.as_deref().cloned()).unwrap_or_default()
    }

    /// The user's group.
    pub fn group(&self) -> Option<Arc<UserGroup>> {
        self.with(|state| state.group.clone())
    }

    /// From the next request on; what runs stays in the group that it was admitted under.
    pub(super) fn set_group(&self, group: Option<Arc<UserGroup>>) {
        self.with(|state| state.group = group);
    }

    /// Whether nothing is to be let in for the user.
    pub fn is_suspended(&self) -> bool {
        self.with(|state| state.profile.as_ref().is_some_and(|profile| profile.suspended_at_ms.is_some()))
    }

    /// When the user last sent a request, epoch milliseconds, rounded down to the minute; 0 = never.
    pub(super) fn last_seen_ms(&self) -> i64 {
        self.last_seen_ms.load(Ordering::Relaxed)
    }

    pub(super) fn seen(&self, now: Moment) {
        let minute_ms = now.unix_ms - now.unix_ms.rem_euclid(MINUTE_MS);
        // Most requests find the minute written down already.
        if self.last_seen_ms() < minute_ms {
            self.last_seen_ms.fetch_max(minute_ms, Ordering::Relaxed);
        }
    }

    /// What is used and what is left.
    pub fn balance(&self, now: Moment) -> Balance {
        self.with(|state| state.ledger.balance(state.terms.limits, now))
    }

    /// The limits of all keys together, and what is used of them.
    pub(super) fn with_ledger<T>(&self, act: impl FnOnce(&Limits, &mut Ledger) -> T) -> T {
        self.with(|AccountState { terms, ledger, .. }| act(&terms.limits, ledger))
    }

    pub(super) fn close(&self) {
        self.closed.happen();
    }

    /// Cancelled when the user is deleted.
    pub(super) fn closed(&self) -> CancellationToken {
        self.closed.token()
    }

    fn with<T>(&self, act: impl FnOnce(&mut AccountState) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users_have_a_narrow_form() {
        for good in ["user-123", "a", "A.b_c@d-e", &"x".repeat(64)] {
            assert!(UserId::parse(good).is_some(), "{good}");
        }
        for bad in ["", ".", "..", " ", "a b", "a/b", "é", "a\n", &"x".repeat(65)] {
            assert!(UserId::parse(bad).is_none(), "{bad}");
        }
    }
}

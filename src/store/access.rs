//! Who pays for a request, and what may they ask for? The account and the key that the request path works with.
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::keys::{ApiKey, SecretEnd};
use super::revocation::Revocation;
use limits::{Allowance, Balance, Exceeded, Headroom, Ledger, Limits, Moment, Need, Reservation};
use protocol::ModelName;

const MINUTE_MS: i64 = 60_000;
/// The name of a key that was given none.
pub(super) const DEFAULT_NAME: &str = "default";

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

/// A user as the request path sees them. Shared by all keys of the user and by every running request.
#[derive(Debug)]
pub struct Account {
    user: UserId,
    created_at_ms: i64,
    state: Mutex<AccountState>,
    /// Set when the user is deleted.
    closed: Revocation,
}

#[derive(Debug)]
struct AccountState {
    terms: Terms,
    ledger: Ledger,
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
    pub(super) fn new(user: UserId, created_at_ms: i64, terms: Terms, ledger: Ledger) -> Arc<Self> {
        let state = Mutex::new(AccountState { terms, ledger });
        Arc::new(Self { user, created_at_ms, state, closed: Revocation::default() })
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

    pub(super) fn set_terms(&self, terms: Terms) {
        self.with(|state| state.terms = terms);
    }

    /// What is used and what is left.
    pub fn balance(&self, now: Moment) -> Balance {
        self.with(|state| state.ledger.balance(state.terms.limits, now))
    }

    /// The limits of all keys together, and what is used of them.
    pub(super) fn with_ledger<T>(&self, act: impl FnOnce(&Limits, &mut Ledger) -> T) -> T {
        self.with(|AccountState { terms, ledger }| act(&terms.limits, ledger))
    }

    pub(super) fn close(&self) {
        self.closed.happen();
    }

    fn with<T>(&self, act: impl FnOnce(&mut AccountState) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The models that a key may ask for, by the names that nodes list or by the operator's aliases, matched as Ollama matches
/// names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedModels(Arc<[String]>);

impl AllowedModels {
    /// Allows exactly these names.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().collect())
    }

    /// The names, as the operator gave them.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether `name` is among them.
    pub fn allow(&self, name: &str) -> bool {
        self.0.iter().any(|allowed| ModelName::same(allowed, name))
    }
}

/// The part of a key that the operator chooses and may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// A label for lists.
    pub name: String,
    /// Epoch milliseconds; `None` = it does not end.
    pub expires_at_ms: Option<i64>,
    /// `None` = every model.
    pub allowed_models: Option<AllowedModels>,
    /// The limits of this key alone; those of its user apply as well.
    pub limits: Limits,
}

impl Default for KeySpec {
    fn default() -> Self {
        Self { name: DEFAULT_NAME.to_owned(), expires_at_ms: None, allowed_models: None, limits: Limits::default() }
    }
}

/// A key as the request path sees it: everything about it but the secret.
#[derive(Debug)]
pub struct Key {
    id: Arc<str>,
    account: Arc<Account>,
    created_at_ms: i64,
    state: Mutex<KeyState>,
    last_used_ms: AtomicI64,
    revoked: Revocation,
}

#[derive(Debug)]
struct KeyState {
    spec: KeySpec,
    ledger: Ledger,
    /// The secret in force last, after the one before it for a while.
    secrets: Vec<SecretEnd>,
}

/// What a key is made of.
#[derive(Debug)]
pub(super) struct KeyMaker {
    pub(super) id: Arc<str>,
    pub(super) account: Arc<Account>,
    pub(super) created_at_ms: i64,
    /// 0 = never.
    pub(super) last_used_ms: i64,
    pub(super) spec: KeySpec,
    pub(super) secrets: Vec<SecretEnd>,
}

impl Key {
    pub(super) fn new(maker: KeyMaker, ledger: Ledger) -> Arc<Self> {
        let KeyMaker { id, account, created_at_ms, last_used_ms, spec, secrets } = maker;
        Arc::new(Self {
            id,
            created_at_ms,
            state: Mutex::new(KeyState { spec, ledger, secrets }),
            last_used_ms: AtomicI64::new(last_used_ms),
            revoked: Revocation::default(),
            account,
        })
    }

    /// Names the key in the API; no secret.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The account of the key's owner.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// When it was created, epoch milliseconds.
    pub fn created_at_ms(&self) -> i64 {
        self.created_at_ms
    }

    /// What the operator chose, as in force now.
    pub fn spec(&self) -> KeySpec {
        self.with(|state| state.spec.clone())
    }

    /// Takes effect with the next request; what was used stays used.
    pub(super) fn set_spec(&self, spec: KeySpec) {
        self.with(|state| state.spec = spec);
    }

    /// What is used and left under its own limits.
    pub fn balance(&self, now: Moment) -> Balance {
        self.with_ledger(|limits, ledger| ledger.balance(*limits, now))
    }

    /// Its own limits, and what is used of them.
    pub(super) fn with_ledger<T>(&self, act: impl FnOnce(&Limits, &mut Ledger) -> T) -> T {
        self.with(|KeyState { spec, ledger, .. }| act(&spec.limits, ledger))
    }

    fn with<T>(&self, act: impl FnOnce(&mut KeyState) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// When it was last used, epoch milliseconds, rounded down to the minute.
    pub fn last_used_ms(&self) -> Option<i64> {
        Some(self.last_used_ms.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// Its secrets: the one in force last.
    pub fn secrets(&self) -> Vec<SecretEnd> {
        self.with(|state| state.secrets.clone())
    }

    pub(super) fn set_secrets(&self, secrets: Vec<SecretEnd>) {
        self.with(|state| state.secrets = secrets);
    }

    pub(super) fn used(&self, now: Moment) {
        self.used_at(now.unix_ms - now.unix_ms.rem_euclid(MINUTE_MS));
    }

    pub(super) fn used_at(&self, unix_ms: i64) {
        // Most of a key's requests find the minute written down already.
        if self.last_used_ms.load(Ordering::Relaxed) < unix_ms {
            self.last_used_ms.fetch_max(unix_ms, Ordering::Relaxed);
        }
    }

    pub(super) fn revoke(&self) {
        self.revoked.happen();
    }
}

/// A new key with its secret, which cannot be read again.
#[derive(Debug)]
pub struct MadeKey {
    /// The key.
    pub key: Arc<Key>,
    /// Shown once.
    pub secret: ApiKey,
}

/// Whoever calls: an account and the key that was presented. Without a key, a trusted network stands for the user.
#[derive(Clone, Debug)]
pub struct Access {
    account: Arc<Account>,
    key: Option<Arc<Key>>,
}

impl Access {
    pub(super) fn by_key(key: Arc<Key>) -> Self {
        Self { account: key.account.clone(), key: Some(key) }
    }

    /// Access as the user, without a key.
    pub fn without_key(account: Arc<Account>) -> Self {
        Self { account, key: None }
    }

    /// The user.
    pub fn user(&self) -> &UserId {
        &self.account.user
    }

    /// The user's account.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Whether other gateways may hold a share of the limits.
    pub fn is_shared(&self) -> bool {
        self.account.with_ledger(|_, ledger| ledger.is_shared())
    }

    /// The key, where there is one.
    pub(super) fn key(&self) -> Option<&Arc<Key>> {
        self.key.as_ref()
    }

    /// The key's id, for usage rows.
    pub fn key_id(&self) -> Option<&Arc<str>> {
        self.key.as_ref().map(|key| &key.id)
    }

    /// When the key ends, epoch milliseconds; `None` = it does not, or there is none.
    pub fn expires_at_ms(&self) -> Option<i64> {
        self.key.as_ref()?.with(|state| state.spec.expires_at_ms)
    }

    /// The models that may be asked for; `None` = all.
    pub fn allowed_models(&self) -> Option<AllowedModels> {
        self.key.as_ref()?.with(|state| state.spec.allowed_models.clone())
    }

    /// Set when the key is revoked or its user deleted.
    pub fn revoked(&self) -> CancellationToken {
        self.key.as_ref().map_or(&self.account.closed, |key| &key.revoked).token()
    }

    /// The user's share beside others'.
    pub fn weight(&self) -> f64 {
        self.account.terms().weight
    }

    /// Admits a request under the limits of the user and of the key. See [`Ledger::admit_both`].
    ///
    /// # Errors
    /// [`Exceeded`] when a limit stands in the way.
    pub fn admit(&self, need: Need, now: Moment) -> Result<Reserved, Exceeded> {
        self.account.with_ledger(|limits, ledger| {
            let Some(key) = &self.key else {
                let (of_user, allowance) = ledger.admit(limits, need, now)?;
                return Ok(Reserved { of_user, of_key: None, allowance });
            };
            let ([of_user, of_key], allowance) =
                key.with_ledger(|own_limits, own| Ledger::admit_both((limits, ledger), (own_limits, own), need, now))?;
            Ok(Reserved { of_user, of_key: Some(of_key), allowance })
        })
    }

    /// Whether one more request might be admitted, as far as that can be said before its body is read; `arriving` more of
    /// the user's are being read.
    ///
    /// # Errors
    /// [`Exceeded`] when a limit stands in the way.
    pub fn has_room(&self, arriving: u32, now: Moment) -> Result<(), Exceeded> {
        if self.is_shared() {
            // What others hold may be had for the asking.
            return Ok(());
        }
        let own = self.key.as_ref().map(|key| key.balance(now));
        for balance in [Some(self.account.balance(now)), own].into_iter().flatten() {
            let retry_after = std::time::Duration::from_secs(1);
            if let Some(limit) = balance.limits.max_concurrency
                && balance.running.saturating_add(arriving) >= limit
            {
                return Err(Exceeded::Concurrency { limit, retry_after });
            }
            if let (Some(limit), Some(0)) = (balance.limits.requests_per_minute, balance.requests_left()) {
                return Err(Exceeded::Requests { limit, retry_after: balance.requests_reset.max(retry_after) });
            }
        }
        Ok(())
    }

    /// Settles an ended request. See [`Ledger::settle`].
    pub fn settle(&self, reserved: Reserved, tokens: u64, now: Moment) {
        self.account.with_ledger(|_, ledger| ledger.settle(reserved.of_user, tokens, now));
        if let Some((key, reservation)) = self.key.as_ref().zip(reserved.of_key) {
            key.with_ledger(|_, ledger| ledger.settle(reservation, tokens, now));
        }
    }

    /// Takes an admission back. See [`Ledger::cancel`].
    pub fn cancel(&self, reserved: Reserved, now: Moment) {
        self.account.with_ledger(|_, ledger| ledger.cancel(reserved.of_user, now));
        if let Some((key, reservation)) = self.key.as_ref().zip(reserved.of_key) {
            key.with_ledger(|_, ledger| ledger.cancel(reservation, now));
        }
    }

    /// What is left under the tighter of the user's and the key's limits.
    pub fn headroom(&self, now: Moment) -> Headroom {
        let of_user = self.account.balance(now).headroom();
        self.key.as_ref().map_or(of_user, |key| of_user.and(key.balance(now).headroom()))
    }
}

/// What one admitted request holds until it ends.
#[derive(Debug)]
pub struct Reserved {
    of_user: Reservation,
    of_key: Option<Reservation>,
    /// What the request may use.
    pub allowance: Allowance,
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

    #[test]
    fn a_model_is_allowed_with_and_without_its_usual_tag() {
        let models = AllowedModels::new(["llama3.2".to_owned(), "llava:latest".to_owned(), "qwen3:8b".to_owned()]);
        for good in ["llama3.2", "llama3.2:latest", "llava", "llava:latest", "qwen3:8b", "LLAMA3.2"] {
            assert!(models.allow(good), "{good}");
        }
        for bad in ["llama3.2:1b", "llama3", "qwen3", "qwen3:8", "", ":latest"] {
            assert!(!models.allow(bad), "{bad}");
        }
        assert!(!AllowedModels::new([]).allow("llama3.2"));
    }
}

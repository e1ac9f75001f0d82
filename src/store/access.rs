//! Who pays for a request, and what may they ask for? An account, through one of its keys, as the request path sees both.
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::keys::{ApiKey, KeyDigest, SecretEnd};
use limits::{Allowance, Balance, Exceeded, Headroom, Ledger, Limits, Moment, Need, Reservation};

const MINUTE_MS: i64 = 60_000;
/// The name of a key that was given none.
const DEFAULT_NAME: &str = "default";

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
    closed: CancellationToken,
}

#[derive(Debug)]
struct AccountState {
    terms: Terms,
    ledger: Ledger,
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
        Arc::new(Self { user, created_at_ms, state, closed: CancellationToken::new() })
    }

    /// Whose account this is.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// When the user was made, epoch milliseconds.
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

    /// What is used and left.
    pub fn balance(&self, now: Moment) -> Balance {
        self.with(|state| state.ledger.balance(state.terms.limits, now))
    }

    /// The limits of all keys together, and what is used of them.
    pub(super) fn with_ledger<T>(&self, act: impl FnOnce(&Limits, &mut Ledger) -> T) -> T {
        self.with(|AccountState { terms, ledger }| act(&terms.limits, ledger))
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    fn with<T>(&self, act: impl FnOnce(&mut AccountState) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The models that a key may ask for, by the names that nodes list or by other names that the operator gave them. A name
/// without a tag means `:latest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedModels(Arc<[String]>);

impl AllowedModels {
    /// Exactly these.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().collect())
    }

    /// The names, as they were given.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether `name` is among them.
    pub fn allow(&self, name: &str) -> bool {
        let bare = |name| str::strip_suffix(name, ":latest").unwrap_or(name).to_owned();
        let name = bare(name);
        self.0.iter().any(|allowed| bare(allowed) == name)
    }
}

/// What of a key the operator chooses, and may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// For lists.
    pub name: String,
    /// Epoch milliseconds; `None` = it does not end.
    pub expires_at_ms: Option<i64>,
    /// `None` = every model.
    pub allowed_models: Option<AllowedModels>,
    /// Of this key alone, under those of the user.
    pub limits: Limits,
}

impl Default for KeySpec {
    fn default() -> Self {
        Self { name: DEFAULT_NAME.to_owned(), expires_at_ms: None, allowed_models: None, limits: Limits::default() }
    }
}

/// A key as the request path sees it: not the secret, but what hangs on it.
#[derive(Debug)]
pub struct Key {
    pub(super) id: Arc<str>,
    pub(super) account: Arc<Account>,
    pub(super) created_at_ms: i64,
    state: Mutex<KeyState>,
    /// The secret in force, and the one before it for a while.
    pub(super) secrets: Mutex<Vec<SecretEnd>>,
    pub(super) last_used_ms: AtomicI64,
    revoked: CancellationToken,
}

#[derive(Debug)]
struct KeyState {
    spec: KeySpec,
    ledger: Ledger,
}

impl Key {
    pub(super) fn new(account: &Arc<Account>, row: &entity::key::Model, spec: KeySpec, ledger: Ledger) -> Arc<Self> {
        Arc::new(Self {
            id: row.id.as_str().into(),
            account: account.clone(),
            created_at_ms: row.created_at_ms,
            state: Mutex::new(KeyState { spec, ledger }),
            secrets: Mutex::default(),
            last_used_ms: AtomicI64::new(row.last_used_ms.unwrap_or_default()),
            revoked: account.closed.child_token(),
        })
    }

    /// Names the key in the API; no secret.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Whose key it is.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// When it was made, epoch milliseconds.
    pub fn created_at_ms(&self) -> i64 {
        self.created_at_ms
    }

    /// What the operator chose, as it is in force.
    pub fn spec(&self) -> KeySpec {
        self.with(|state| state.spec.clone())
    }

    /// In force from the next request on; what was used stays used.
    pub(super) fn set_spec(&self, spec: KeySpec) {
        self.with(|state| state.spec = spec);
    }

    /// What is used and left under its own limits.
    pub fn balance(&self, now: Moment) -> Balance {
        self.with_ledger(|limits, ledger| ledger.balance(*limits, now))
    }

    /// Its own limits, and what is used of them.
    pub(super) fn with_ledger<T>(&self, act: impl FnOnce(&Limits, &mut Ledger) -> T) -> T {
        self.with(|KeyState { spec, ledger }| act(&spec.limits, ledger))
    }

    fn with<T>(&self, act: impl FnOnce(&mut KeyState) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// When it was last used, epoch milliseconds, to the minute.
    pub fn last_used_ms(&self) -> Option<i64> {
        Some(self.last_used_ms.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// Its secrets: the one in force last.
    pub fn secrets(&self) -> Vec<SecretEnd> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the secret with this digest still opens the door.
    pub(super) fn opens(&self, digest: &KeyDigest, now: Moment) -> bool {
        let key_end = self.with(|state| state.spec.expires_at_ms);
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let end = secrets.iter().find(|secret| secret.digest == *digest).map(|secret| secret.until_ms);
        let is_past = |end: Option<i64>| end.is_some_and(|end| end <= now.unix_ms);
        end.is_some_and(|end| !is_past(end)) && !is_past(key_end)
    }

    pub(super) fn used(&self, now: Moment) {
        self.last_used_ms.fetch_max(now.unix_ms - now.unix_ms.rem_euclid(MINUTE_MS), Ordering::Relaxed);
    }

    pub(super) fn revoke(&self) {
        self.revoked.cancel();
    }
}

/// A key with its secret, which nobody can tell again.
#[derive(Debug)]
pub struct MadeKey {
    /// The key.
    pub key: Arc<Key>,
    /// To be shown once.
    pub secret: ApiKey,
}

/// Whoever calls: an account, and the key that was shown. Without a key a trusted network stands for the user.
#[derive(Clone, Debug)]
pub struct Access {
    account: Arc<Account>,
    key: Option<Arc<Key>>,
}

impl Access {
    pub(super) fn by_key(key: Arc<Key>) -> Self {
        Self { account: key.account.clone(), key: Some(key) }
    }

    /// As the user, without a key.
    pub fn without_key(account: Arc<Account>) -> Self {
        Self { account, key: None }
    }

    /// Who.
    pub fn user(&self) -> &UserId {
        &self.account.user
    }

    /// Their account.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Whether other gateways may have a share of the limits.
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

    /// The models that may be asked for; `None` = all.
    pub fn allowed_models(&self) -> Option<AllowedModels> {
        self.key.as_ref()?.with(|state| state.spec.allowed_models.clone())
    }

    /// Set when the key is revoked or its user deleted.
    pub fn revoked(&self) -> CancellationToken {
        self.key.as_ref().map_or(&self.account.closed, |key| &key.revoked).clone()
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

    /// What is left under the tighter limits of user and key.
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
    /// What it may use.
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
        for good in ["llama3.2", "llama3.2:latest", "llava", "llava:latest", "qwen3:8b"] {
            assert!(models.allow(good), "{good}");
        }
        for bad in ["llama3.2:1b", "llama3", "qwen3", "qwen3:8", "", ":latest", "LLAMA3.2"] {
            assert!(!models.allow(bad), "{bad}");
        }
        assert!(!AllowedModels::new([]).allow("llama3.2"));
    }
}

//! What is a key to the request path? Everything about it but the secret.
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::allowed_models::AllowedModels;
use super::keys::{ApiKey, SecretEnd};
use super::revocation::Revocation;
use limits::{Balance, Ledger, Limits, Moment};

const MINUTE_MS: i64 = 60_000;
/// The name of a key that was given none.
pub(super) const DEFAULT_NAME: &str = "default";

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

    /// Cancelled when the key is revoked or its user deleted.
    pub(super) fn revoked(&self) -> CancellationToken {
        self.revoked.token()
    }

    /// When it ends, epoch milliseconds; `None` = it does not.
    pub(super) fn expires_at_ms(&self) -> Option<i64> {
        self.with(|state| state.spec.expires_at_ms)
    }

    /// The models that it may be used for; `None` = all.
    pub(super) fn allowed_models(&self) -> Option<AllowedModels> {
        self.with(|state| state.spec.allowed_models.clone())
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

//! May this caller have one more request? A user and the key that was presented, asked together.
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::account::{Account, UserId};
use super::key::{AllowedModels, Key};
use limits::{Allowance, Exceeded, Headroom, Ledger, Moment, Need, Reservation};

/// Whoever calls: an account and the key that was presented. Without a key, a trusted network stands for the user.
#[derive(Clone, Debug)]
pub struct Access {
    account: Arc<Account>,
    key: Option<Arc<Key>>,
}

impl Access {
    pub(super) fn by_key(key: Arc<Key>) -> Self {
        Self { account: key.account().clone(), key: Some(key) }
    }

    /// Access as the user, without a key.
    pub fn without_key(account: Arc<Account>) -> Self {
        Self { account, key: None }
    }

    /// The user.
    pub fn user(&self) -> &UserId {
        self.account.user()
    }

    /// By which id usage knows the user.
    pub fn usage_id(&self) -> &Arc<str> {
        self.account.usage_id()
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
        self.key.as_ref().map(|key| key.id())
    }

    /// When the key ends, epoch milliseconds; `None` = it does not, or there is none.
    pub fn expires_at_ms(&self) -> Option<i64> {
        self.key.as_ref()?.expires_at_ms()
    }

    /// The models that may be asked for; `None` = all.
    pub fn allowed_models(&self) -> Option<AllowedModels> {
        self.key.as_ref()?.allowed_models()
    }

    /// Set when the key is revoked or its user deleted.
    pub fn revoked(&self) -> CancellationToken {
        self.key.as_ref().map_or_else(|| self.account.closed(), |key| key.revoked())
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

//! May this caller have one more request? A user and the key that was presented, asked together.
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::account::{Account, UserId};
use super::allowed_models::AllowedModels;
use super::group::UserGroup;
use super::key::Key;
use limits::{Allowance, Balance, Exceeded, Headroom, Ledger, Limits, Moment, Need, Reservation};

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

    /// The user's group.
    pub fn group(&self) -> Option<Arc<UserGroup>> {
        self.account.group()
    }

    /// Whether other gateways may hold a share of the limits, or have used some of a group's month.
    pub fn is_shared(&self) -> bool {
        self.account.with_ledger(|_, ledger| ledger.is_shared())
            || self.group().is_some_and(|group| group.with_month(|_, month| month.is_shared()))
    }

    /// The key, where there is one.
    pub fn key(&self) -> Option<&Arc<Key>> {
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

    /// The models that may be asked for: those that each of these lists allows.
    pub fn allowed_models(&self) -> Vec<AllowedModels> {
        let of_key = self.key.as_ref().and_then(|key| key.allowed_models());
        of_key.into_iter().chain(self.group().and_then(|group| group.allowed_models())).collect()
    }

    /// Set when the key is revoked or its user deleted.
    pub fn revoked(&self) -> CancellationToken {
        self.key.as_ref().map_or_else(|| self.account.closed(), |key| key.revoked())
    }

    /// The user's share beside others'.
    pub fn weight(&self) -> f64 {
        self.account.terms().weight
    }

    /// Admits a request under the limits of the user, the key and the group. See [`Ledger::admit_all`].
    ///
    /// # Errors
    /// [`Over`] when a limit stands in the way.
    pub fn admit(&self, need: Need, now: Moment) -> Result<Reserved, Over> {
        let group = self.group();
        let admitted = self.with_ledgers(group.as_ref(), |ledgers| Ledger::admit_all(ledgers, need, now));
        let (held, allowance) = admitted
            .map_err(|(place, exceeded)| Over { whose: self.whose(group.as_ref()).swap_remove(place), exceeded })?;
        Ok(Reserved { held, group, allowance })
    }

    /// Acts on the ledgers of the user, the key and a group, with their limits, in the order of [`Access::whose`]. Locks are
    /// taken in this order everywhere.
    fn with_ledgers<T>(
        &self,
        group: Option<&Arc<UserGroup>>,
        act: impl FnOnce(&mut [(&Limits, &mut Ledger)]) -> T,
    ) -> T {
        self.account.with_ledger(|limits, ledger| {
            let of_user = (limits, ledger);
            match (&self.key, group) {
                (None, None) => act(&mut [of_user]),
                (None, Some(group)) => group.with_ledgers(|day, month| act(&mut [of_user, day, month])),
                (Some(key), None) => key.with_ledger(|limits, ledger| act(&mut [of_user, (limits, ledger)])),
                (Some(key), Some(group)) => key.with_ledger(|limits, ledger| {
                    group.with_ledgers(|day, month| act(&mut [of_user, (limits, ledger), day, month]))
                }),
            }
        })
    }

    /// Whose limits hold for the caller. A group has two ledgers.
    fn whose(&self, group: Option<&Arc<UserGroup>>) -> Vec<Whose> {
        let key = self.key.as_ref().map(|key| Whose::Key(key.spec().name));
        let group = group.map(|group| Whose::Group(group.name().clone()));
        let group = [group.clone(), group].into_iter().flatten();
        std::iter::once(Whose::User(self.user().clone())).chain(key).chain(group).collect()
    }

    /// What is used and left of each of these limits.
    pub fn balances(&self, now: Moment) -> Vec<(Whose, Balance)> {
        let group = self.group();
        let balances: Vec<Balance> = self.with_ledgers(group.as_ref(), |ledgers| {
            ledgers.iter_mut().map(|(limits, ledger)| ledger.balance(**limits, now)).collect()
        });
        self.whose(group.as_ref()).into_iter().zip(balances).collect()
    }

    /// Whether one more request might be admitted, as far as that can be said before its body is read; `arriving` more of
    /// the user's are being read.
    ///
    /// # Errors
    /// [`Over`] when a limit stands in the way.
    pub fn has_room(&self, arriving: u32, now: Moment) -> Result<(), Over> {
        if self.is_shared() {
            // What others hold may be had for the asking.
            return Ok(());
        }
        let group = self.group();
        let over = self.with_ledgers(group.as_ref(), |ledgers| {
            let mut balances = ledgers.iter_mut().map(|(limits, ledger)| ledger.balance(**limits, now)).enumerate();
            balances.find_map(|(place, balance)| Some((place, in_the_way(&balance, arriving)?)))
        });
        match over {
            Some((place, exceeded)) => Err(Over { whose: self.whose(group.as_ref()).swap_remove(place), exceeded }),
            None => Ok(()),
        }
    }

    /// Settles an ended request. See [`Ledger::settle`].
    pub fn settle(&self, reserved: Reserved, tokens: u64, now: Moment) {
        self.with_ledgers(reserved.group.as_ref(), |ledgers| {
            for ((_, ledger), held) in ledgers.iter_mut().zip(reserved.held) {
                ledger.settle(held, tokens, now);
            }
        });
    }

    /// Takes an admission back. See [`Ledger::cancel`].
    pub fn cancel(&self, reserved: Reserved, now: Moment) {
        self.with_ledgers(reserved.group.as_ref(), |ledgers| {
            for ((_, ledger), held) in ledgers.iter_mut().zip(reserved.held) {
                ledger.cancel(held, now);
            }
        });
    }

    /// What is left under the tightest of these limits.
    pub fn headroom(&self, now: Moment) -> Headroom {
        self.with_ledgers(self.group().as_ref(), |ledgers| {
            let headrooms = ledgers.iter_mut().map(|(limits, ledger)| ledger.balance(**limits, now).headroom());
            headrooms.reduce(Headroom::and).unwrap_or_default()
        })
    }
}

/// The limit that refuses one more request while `arriving` more are being read, if one does.
fn in_the_way(balance: &Balance, arriving: u32) -> Option<Exceeded> {
    let retry_after = Duration::from_secs(1);
    if let Some(limit) = balance.limits.max_concurrency
        && balance.running.saturating_add(arriving) >= limit
    {
        return Some(Exceeded::Concurrency { limit, retry_after });
    }
    match (balance.limits.requests_per_minute, balance.requests_left()) {
        (Some(limit), Some(0)) => {
            Some(Exceeded::Requests { limit, retry_after: balance.requests_reset.max(retry_after) })
        }
        _ => None,
    }
}

/// What one admitted request holds until it ends.
#[derive(Debug)]
pub struct Reserved {
    /// In the order of the ledgers.
    held: Vec<Reservation>,
    /// The group that it was admitted under, even if the user has left it since.
    group: Option<Arc<UserGroup>>,
    /// What the request may use.
    pub allowance: Allowance,
}

impl Reserved {
    /// The group that it was admitted under.
    pub fn group(&self) -> Option<&Arc<UserGroup>> {
        self.group.as_ref()
    }
}

/// Whose limit it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The user's.
    User(UserId),
    /// A key's, by its name.
    Key(String),
    /// A group's, by its name.
    Group(Arc<str>),
}

impl Whose {
    /// The word in the API.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Key(_) => "key",
            Self::Group(_) => "group",
        }
    }

    /// The name of the user or key.
    pub fn name(&self) -> &str {
        match self {
            Self::User(user) => user.as_str(),
            Self::Key(name) => name,
            Self::Group(name) => name,
        }
    }
}

/// A limit stands in the way of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// Whose limit.
    pub whose: Whose,
    /// Which, and by how much.
    pub exceeded: Exceeded,
}

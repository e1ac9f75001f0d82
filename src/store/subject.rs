//! A user or a key, as a holder of limits with one name in the table `leases`.
use std::sync::Arc;

use super::account::Account;
use super::key::Key;
use limits::{Ledger, Limits};

/// The user or key that limits belong to.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    User(Arc<Account>),
    Key(Arc<Key>),
}

pub(super) fn name_of_user(usage_id: &str) -> String {
    format!("user:{usage_id}")
}

pub(super) fn name_of_key(id: &str) -> String {
    format!("key:{id}")
}

impl Subject {
    pub(super) fn name(&self) -> String {
        match self {
            Self::User(account) => name_of_user(account.usage_id()),
            Self::Key(key) => name_of_key(key.id()),
        }
    }

    /// Whose usage adds up to theirs, by its id there.
    pub(super) fn user(&self) -> &str {
        match self {
            Self::User(account) => account.usage_id(),
            Self::Key(key) => key.account().usage_id(),
        }
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&Limits, &mut Ledger) -> T) -> T {
        match self {
            Self::User(account) => account.with_ledger(act),
            Self::Key(key) => key.with_ledger(act),
        }
    }
}

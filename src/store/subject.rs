//! Whose limits? A user's or a key's, under one name in the table `leases`.
use std::sync::Arc;

use super::account::Account;
use super::key::Key;
use limits::{Ledger, Limits};

/// Whose limits they are.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    User(Arc<Account>),
    Key(Arc<Key>),
}

pub(super) fn name_of_user(user: &str) -> String {
    format!("user:{user}")
}

pub(super) fn name_of_key(id: &str) -> String {
    format!("key:{id}")
}

impl Subject {
    pub(super) fn name(&self) -> String {
        match self {
            Self::User(account) => name_of_user(account.user().as_str()),
            Self::Key(key) => name_of_key(key.id()),
        }
    }

    pub(super) fn user(&self) -> &str {
        match self {
            Self::User(account) => account.user().as_str(),
            Self::Key(key) => key.account().user().as_str(),
        }
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&Limits, &mut Ledger) -> T) -> T {
        match self {
            Self::User(account) => account.with_ledger(act),
            Self::Key(key) => key.with_ledger(act),
        }
    }
}

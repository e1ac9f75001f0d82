//! A user, a key or a group, as a holder of limits with one name in the table `leases`.
use std::sync::Arc;

use super::account::Account;
use super::group::UserGroup;
use super::key::Key;
use limits::{Calendar, Ledger, Limits};

/// Whom limits belong to. A group has two: one counts by the day, as all others, and one by the month.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    User(Arc<Account>),
    Key(Arc<Key>),
    Group(Arc<UserGroup>),
    GroupMonth(Arc<UserGroup>),
}

pub(super) fn name_of_user(usage_id: &str) -> String {
    format!("user:{usage_id}")
}

pub(super) fn name_of_key(id: &str) -> String {
    format!("key:{id}")
}

pub(super) fn name_of_group(usage_id: &str, calendar: Calendar) -> String {
    match calendar {
        Calendar::Day => format!("group:{usage_id}"),
        Calendar::Month => format!("{MONTH}{usage_id}"),
    }
}

/// How the names begin of those that count by the month.
pub(super) const MONTH: &str = "group-month:";

impl Subject {
    pub(super) fn name(&self) -> String {
        match self {
            Self::User(account) => name_of_user(account.usage_id()),
            Self::Key(key) => name_of_key(key.id()),
            Self::Group(group) | Self::GroupMonth(group) => name_of_group(group.usage_id(), self.calendar()),
        }
    }

    /// Over which stretch of the calendar its tokens count.
    pub(super) fn calendar(&self) -> Calendar {
        match self {
            Self::GroupMonth(_) => Calendar::Month,
            Self::User(_) | Self::Key(_) | Self::Group(_) => Calendar::Day,
        }
    }

    /// The user whose usage adds up to theirs, by the id there.
    pub(super) fn user(&self) -> Option<&str> {
        match self {
            Self::User(account) => Some(account.usage_id()),
            Self::Key(key) => Some(key.account().usage_id()),
            Self::Group(_) | Self::GroupMonth(_) => None,
        }
    }

    /// The group whose usage adds up to theirs, by the id there.
    pub(super) fn group(&self) -> Option<&str> {
        match self {
            Self::Group(group) | Self::GroupMonth(group) => Some(group.usage_id()),
            Self::User(_) | Self::Key(_) => None,
        }
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&Limits, &mut Ledger) -> T) -> T {
        match self {
            Self::User(account) => account.with_ledger(act),
            Self::Key(key) => key.with_ledger(act),
            Self::Group(group) => group.with_ledger(act),
            Self::GroupMonth(group) => group.with_month(act),
        }
    }
}

//! What is traded in one transaction: a line for each user or key.
use std::sync::Arc;

use crate::store::access::{Account, Key};
use limits::{Amounts, Claim, Elsewhere, Holding, Ledger, Limits, Moment, Most};

/// Whose limits they are.
#[derive(Clone, Debug)]
pub(in crate::store) enum Subject {
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

/// What is traded of one subject, and what came of it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) subject: Subject,
    pub(super) limits: Limits,
    pub(super) claim: Claim,
    pub(super) block: Amounts,
    pub(super) need: Amounts,
    pub(super) elsewhere: Elsewhere,
    pub(super) holding: Holding,
    pub(super) free: Amounts,
}

impl Line {
    /// What is to be traded of a subject; `None` where it has no limit, or shares none.
    pub(super) fn of(
        subject: Subject,
        most: Option<&Most>,
        block: Amounts,
        need: Amounts,
        now: Moment,
    ) -> Option<Self> {
        let (limits, claim) = subject.with(|limits, ledger| {
            let claim = (*limits != Limits::default()).then(|| ledger.claim(most, now)).flatten();
            claim.map(|claim| (*limits, claim))
        })?;
        let (elsewhere, holding, free) = Default::default();
        Some(Self { subject, limits, claim, block, need, elsewhere, holding, free })
    }

    /// Whether it has less than it may.
    pub(super) fn is_short(&self) -> bool {
        self.claim.free.min(self.block) != self.block.min(Amounts::of(&self.limits))
    }
}

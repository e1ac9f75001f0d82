//! What is traded in one transaction: a line for each user, key or group.
use crate::store::subject::Subject;
use limits::{Amounts, Claim, Elsewhere, Holding, Limits, Moment, Most};

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

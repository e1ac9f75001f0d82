//! What may a gateway's shell, and those who look at it, learn of its part?

use scheduler::{Reach, Scheduler, Time};

use crate::{
    frame::Reported,
    member::Member,
    role::{Candidate, Role},
};

impl Member {
    /// The scheduler of this process. A follower's knows the nodes but no requests.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// The same, for what is not an event.
    pub fn scheduler_mut(&mut self) -> &mut Scheduler {
        &mut self.scheduler
    }

    /// Its present role.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// The gateway to link with, if this one should follow.
    pub fn target(&self) -> Option<&Candidate> {
        let is_worth = |candidate: &&Candidate| candidate.epoch >= self.epoch && candidate.gateway != self.own;
        self.candidate.as_ref().filter(|_| matches!(self.role, Role::Seeking { .. })).filter(is_worth)
    }

    /// The gateway that schedules for this one.
    pub fn leader(&self) -> Option<&Candidate> {
        let Role::Following { leader, .. } = &self.role else { return None };
        self.candidate.as_ref().filter(|candidate| candidate.gateway == *leader)
    }

    /// What this gateway carries, the oldest first: for somebody who cannot ask the leader.
    pub fn carried(&self, now: Time) -> Vec<Reported> {
        self.ledger.report(now)
    }

    /// Whether to ask for the lease.
    pub fn wants_lease(&self) -> bool {
        !self.is_retiring && matches!(self.role, Role::Seeking { .. } | Role::Leading { .. })
    }

    /// The epoch of the lease that it holds, or held last; 0 if it never did.
    pub fn own_epoch(&self) -> u64 {
        self.epoch
    }

    /// Gateways linked to this leader.
    pub fn follower_count(&self) -> usize {
        self.followers.len()
    }

    /// Of a leader: whether some slots are withheld, because a gateway that may be using them has not reported.
    pub fn is_gathering(&self) -> bool {
        matches!(self.role, Role::Leading { .. }) && *self.scheduler.reach() != Reach::Whole
    }

    /// How much longer what runs here should take, with a margin. If this gateway falls silent, its slots stay taken
    /// for as long.
    pub fn busy(&self, now: Time) -> Time {
        self.ledger.busy_until().map_or(Time::ZERO, |until| until.saturating_sub(now))
    }
}

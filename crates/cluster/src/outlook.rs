//! What may a gateway's shell, and those who look at it, learn of its part?

use scheduler::{Pace, Reach, RequestId, Scheduler, Time};

use crate::{
    frame::{Foreseen, Reported},
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

    /// The epoch with which a follower is welcomed; `None` if this gateway does not lead.
    pub fn welcomes(&self) -> Option<u64> {
        match self.role {
            Role::Leading { epoch } => Some(epoch),
            _ => None,
        }
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

    /// What was foreseen for a request of this gateway's, by the scheduler that granted its slot.
    pub fn foreseen(&self, id: RequestId, now: Time) -> Foreseen {
        let sent = self.ledger.get(id).and_then(|carried| carried.sent.as_ref());
        sent.and_then(|sent| sent.foreseen).unwrap_or_else(|| self.planned(id, now))
    }

    /// What this gateway's own scheduler foresees.
    pub(crate) fn planned(&self, id: RequestId, now: Time) -> Foreseen {
        let story = self.scheduler.story(id, now);
        // No message carries a number that is not finite.
        let finite = |pace: &Pace| pace.prefill.is_finite() && pace.token.is_finite();
        Foreseen {
            ahead: story.map(|story| story.ahead),
            expected: story.and_then(|story| story.expected).filter(|seconds| seconds.is_finite()),
            pace: self.scheduler.pace(id).filter(finite),
            certain_pace: self.scheduler.certain_pace(id).filter(finite),
        }
    }

    /// How much longer what runs here should take, with a margin. If this gateway falls silent, its slots stay taken
    /// for as long.
    pub fn busy(&self, now: Time) -> Time {
        self.ledger.busy_until().map_or(Time::ZERO, |until| until.saturating_sub(now))
    }
}

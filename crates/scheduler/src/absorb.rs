//! Does a free slot that every request looked at would rather not use go to one of those behind? The fourth step of a
//! [plan](crate::plan).

use crate::{choose::Sought, decision::Decision, ids::Time, model::ModelId, plan::Plan, scheduler::Scheduler};

/// Only requests up to this place in the line take a slot by this rule.
const MOST_ABSORBED: usize = 256;

impl Scheduler {
    /// Gives a free slot that no request looked at wants to the first request that would not be served sooner by
    /// waiting; false if there is none.
    pub(crate) fn absorb(&mut self, plan: &mut Plan, model: ModelId, now: Time, decisions: &mut Vec<Decision>) -> bool {
        // A request that waits alone was looked at already.
        if plan.waiting == 1 || !plan.forecast.has_start() || self.queue.waiting_for(model) <= plan.ahead {
            return false;
        }
        let Some(sought) = self.beyond(plan, model, 0, now) else { return false };
        let Some((_, seconds)) = self.fastest_start(plan, &sought) else { return false };
        // The first of the others stands for all of them when the slots' capacity is estimated.
        let absorbed = plan.forecast.served_within(seconds, sought.work);
        if self.queue.waiting_for(model) - plan.ahead <= absorbed {
            return false;
        }
        let Some(sought) = self.beyond(plan, model, absorbed, now) else { return false };
        if self.queue.has_its_share(sought.lane, model, plan.forecast.slot_count(), now) {
            return false;
        }
        let Some((place, _)) = self.fastest_start(plan, &sought) else { return false };
        let backlog = plan.backlog(Some(absorbed), 0.0);
        self.start_at(plan, &sought, place, backlog, now, decisions);
        true
    }

    /// The request `count` places behind those that were looked at, or the last one that counts.
    fn beyond(&self, plan: &Plan, model: ModelId, count: usize, now: Time) -> Option<Sought> {
        let line = self.queue.line(model, now, 0, (plan.ahead + count + 1).min(MOST_ABSORBED));
        line.requests.last().and_then(|next| self.look_up(next.id, now))
    }
}

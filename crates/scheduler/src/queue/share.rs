//! How many of a model's slots may one user take while others use the model as well?
//!
//! One slot is kept free for each other user who used the model in the last minute and is not waiting for it now, up to
//! half of the slots. Such a user can come back without waiting for one of a flood's long answers to end. Users who
//! wait need no kept slot: the fair order serves them. If nobody else used the model, one user may take every slot.

use super::{FairQueue, lane::LaneId, users::Users};
use crate::{ids::Time, model::ModelId};

/// With fewer slots than this none is kept: one would be too large a part of them.
const LEAST_SHARED: usize = 4;

impl FairQueue {
    /// Records that a user asked for a model or got an answer from it.
    pub(super) fn note_use(&mut self, lane: LaneId, model: ModelId, now: Time) {
        if self.users.len() <= model.0 {
            self.users.resize_with(model.0 + 1, Users::default);
        }
        self.users[model.0].note(lane, now);
    }

    /// Whether a user runs as many requests of a model as one user may.
    pub(crate) fn has_its_share(&self, lane: LaneId, model: ModelId, slots: usize, now: Time) -> bool {
        let most_kept = if slots < LEAST_SHARED { 0 } else { slots / 2 };
        let most = slots - most_kept;
        let lane_state = &self.lanes[lane.0];
        // Hardly anybody has so many requests running, of whichever models.
        if most_kept == 0 || lane_state.standing.running < most {
            return false;
        }
        let running = lane_state.running_of.get(&model).copied().unwrap_or(0);
        if running < most {
            return false;
        }
        let waits = |other: &LaneId| self.lanes[other.0].waiting.waits_for(model);
        let users = self.users.get(model.0).into_iter().flat_map(|users| users.recent(now));
        let kept = users.filter(|other| *other != lane && !waits(other)).take(most_kept).count();
        kept > 0 && running >= slots - kept
    }
}

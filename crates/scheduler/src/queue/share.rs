//! How many of a model's slots may one user take while others use the model as well?
//!
//! One slot is kept free for each other user who used the model in the last minute and does not wait for it now, up to
//! half of the slots, so that whoever comes back need not wait for one of a flood's long answers to end. Users who wait
//! need no such slot: their turn comes by what was done for them. Where nobody else used a model, one user may take every
//! slot.

use super::{FairQueue, lane::LaneId, users::Users};
use crate::{ids::Time, model::ModelId};

/// Of fewer slots than this none is kept: it would be too large a part of them.
const LEAST_SHARED: usize = 4;

impl FairQueue {
    /// A user asks for a model, or has had an answer of it.
    pub(super) fn note_use(&mut self, lane: LaneId, model: ModelId, now: Time) {
        if self.users.len() <= model.0 {
            self.users.resize_with(model.0 + 1, Users::default);
        }
        self.users[model.0].note(lane, now);
    }

    /// Whether a user has the share of a model's slots that one may have.
    pub(crate) fn has_its_share(&self, lane: LaneId, model: ModelId, slots: usize, now: Time) -> bool {
        let running = self.lanes[lane.0].running_of.get(&model).copied().unwrap_or(0);
        let most_kept = if slots < LEAST_SHARED { 0 } else { slots / 2 };
        if most_kept == 0 || running < slots - most_kept {
            return false;
        }
        let waits = |other: &LaneId| self.lanes[other.0].by_model.contains_key(&model);
        let users = self.users.get(model.0).into_iter().flat_map(|users| users.recent(now));
        let kept = users.filter(|other| *other != lane && !waits(other)).take(most_kept).count();
        kept > 0 && running >= slots - kept
    }
}

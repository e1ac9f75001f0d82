//! Who has a lane, and in which group? Lanes come with a user's first request, and go when they are not needed any more.

use std::sync::Arc;

use super::{
    FairQueue,
    group::{GroupId, Membership},
    lane::{Lane, LaneId, Standing},
};
use crate::ids::Time;

/// Users that are remembered while they have nothing queued or running.
pub(super) const REMEMBERED_LANES: usize = 4096;

impl FairQueue {
    /// The user's lane, created if necessary. The latest weights count, and the latest group.
    pub(crate) fn lane(&mut self, user: &Arc<str>, weight: f64, membership: Option<&Membership>, now: Time) -> LaneId {
        let group = membership.map(|membership| self.group(membership, now));
        if let Some(id) = self.by_user.get(user).copied() {
            self.lanes[id.0].standing.set_weight(weight);
            if self.lanes[id.0].group != group {
                self.change_group(id, group, now);
            }
            return id;
        }
        self.enter_group(group);
        self.forget_idle();
        let standing = Standing::new(weight, self.served_of(group), now);
        let lane = Lane::new(user.clone(), group, standing);
        let id = self.free.pop().unwrap_or(LaneId(self.lanes.len()));
        if id.0 < self.lanes.len() {
            self.lanes[id.0] = lane;
        } else {
            self.lanes.push(lane);
        }
        self.by_user.insert(user.clone(), id);
        self.idle.insert((now, id));
        id
    }

    /// Moves a lane, with what waits in it, to another group. What runs stays charged to the group it was sent under.
    fn change_group(&mut self, id: LaneId, group: Option<GroupId>, now: Time) {
        self.take_out(id);
        let before = self.lanes[id.0].group;
        if let Some(before) = before {
            self.put_in_group(before);
        }
        self.note_idle_group(before, now);
        self.enter_group(group);
        let (begins_at, began_at) = (self.served_of(group), self.served_of(before));
        let lane = &mut self.lanes[id.0];
        lane.group = group;
        // It takes along what it has used beyond the others.
        lane.standing.counter = begins_at + (lane.standing.counter - began_at).max(0.0);
        let waits = !lane.waiting.is_empty();
        if let (Some(group), true) = (group, waits) {
            self.take_out_group(group);
            self.group_resumes(group, now);
        }
        self.put_in(id);
        self.leave_group(before);
    }

    /// Forgets the lanes that were idle longest. Nothing is lost: such a user resumes where everybody else does.
    fn forget_idle(&mut self) {
        if self.by_user.len() < REMEMBERED_LANES {
            return;
        }
        if let Some((_, longest)) = self.idle.pop_first() {
            self.by_user.remove(&self.lanes[longest.0].user);
            self.leave_group(self.lanes[longest.0].group);
            self.free.push(longest);
        }
    }
}

//! How do users and groups come, pay for their requests, and leave the queue's order again? A lane comes with a user's
//! first request, and goes when it is not needed any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    FairQueue,
    group::{Group, Membership},
    lane::{GroupId, Lane, LaneId, Seat, Standing, resumed},
};
use crate::ids::Time;

impl FairQueue {
    /// The group, created if necessary. The latest weight counts.
    pub(super) fn group(&mut self, membership: &Membership, now: Time) -> GroupId {
        if let Some(id) = self.by_group.get(&membership.group).copied() {
            self.groups[id.0].standing.set_weight(membership.weight);
            return id;
        }
        let group = Group {
            name: membership.group.clone(),
            standing: Standing::new(membership.weight, self.served, now),
            served: 0.0,
            members: 0,
            turns: BTreeSet::new(),
            of_model: BTreeMap::new(),
            dues: BTreeMap::new(),
        };
        let id = self.free_groups.pop().unwrap_or(GroupId(self.groups.len()));
        if id.0 < self.groups.len() {
            self.groups[id.0] = group;
        } else {
            self.groups.push(group);
        }
        self.by_group.insert(membership.group.clone(), id);
        id
    }

    /// A lane belongs to the group from now on.
    pub(super) fn enter_group(&mut self, group: Option<GroupId>) {
        if let Some(id) = group {
            self.groups[id.0].members += 1;
        }
    }

    /// A lane belongs to the group no more.
    pub(super) fn leave_group(&mut self, group: Option<GroupId>) {
        let Some(id) = group else { return };
        self.groups[id.0].members -= 1;
        self.forget_unused(id);
    }

    /// Forgets a group without lanes once nothing is charged to it any more.
    fn forget_unused(&mut self, id: GroupId) {
        let group = &self.groups[id.0];
        if group.members == 0 && group.standing.running == 0 {
            self.by_group.remove(&group.name);
            self.free_groups.push(id);
        }
    }

    /// A request of the group is sent to a node. `settled` is the counter of its lane before that.
    pub(super) fn group_dispatched(&mut self, id: GroupId, settled: f64, cost: f64) {
        let group = &mut self.groups[id.0];
        group.served = group.served.max(settled);
        self.served = self.served.max(group.standing.settled());
        group.standing.dispatched(cost);
    }

    /// A request that was charged to the group has left its node.
    pub(super) fn group_settled(&mut self, id: GroupId, charged: f64, cost: f64) {
        self.take_out_group(id);
        self.groups[id.0].standing.ended(charged, cost);
        self.put_in_group(id);
        self.forget_unused(id);
    }

    /// The settled counter at which a lane of this group, or one without, begins.
    pub(super) fn served_of(&self, group: Option<GroupId>) -> f64 {
        group.map_or(self.served, |id| self.groups[id.0].served)
    }

    /// A group in which nothing waits is about to have something waiting.
    pub(super) fn group_resumes(&mut self, id: GroupId, now: Time) {
        if self.groups[id.0].turns.is_empty() {
            self.joins += 1;
            let standing = &mut self.groups[id.0].standing;
            standing.joined = self.joins;
            standing.counter = resumed(standing, self.served, now);
        }
    }

    /// If nothing waits in the group, notes since when.
    pub(super) fn note_idle_group(&mut self, group: Option<GroupId>, now: Time) {
        if let Some(group) = group.map(|id| &mut self.groups[id.0]).filter(|group| group.turns.is_empty()) {
            group.standing.idle_since = now;
        }
    }

    pub(super) fn take_out_group(&mut self, id: GroupId) {
        let group = &self.groups[id.0];
        let turn = group.turn(id);
        if self.turns.remove(&turn) {
            for model in group.of_model.keys() {
                self.of_model[model.0].remove(&turn);
            }
            for (model, due) in group.dues() {
                self.dues[model.0].remove(&(due, Seat::Group(id)));
            }
        }
    }

    pub(super) fn put_in_group(&mut self, id: GroupId) {
        let group = &self.groups[id.0];
        if group.turns.is_empty() {
            return;
        }
        let turn = group.turn(id);
        self.turns.insert(turn);
        for model in group.of_model.keys() {
            self.of_model[model.0].insert(turn);
        }
        for (model, due) in group.dues() {
            self.dues[model.0].insert((due, Seat::Group(id)));
        }
    }

    /// Asserts what must hold after every step; in debug builds only.
    pub(crate) fn check(&self) {
        debug_assert_eq!(self.deadlines.len(), self.length);
        debug_assert_eq!(self.waiting_for.iter().sum::<usize>(), self.length);
        debug_assert_eq!(self.by_user.len() + self.free.len(), self.lanes.len());
        self.check_groups();
        self.lanes.iter().for_each(|lane| lane.waiting.check());
        debug_assert!(self.idle.iter().all(|(_, id)| self.lanes[id.0].is_idle()));
    }

    /// Asserts what must hold of groups after every step; in debug builds only.
    fn check_groups(&self) {
        debug_assert_eq!(self.by_group.len() + self.free_groups.len(), self.groups.len());
        for id in self.by_group.values() {
            let group = &self.groups[id.0];
            debug_assert!(group.members > 0 || group.standing.running > 0, "a group without lanes is forgotten");
            debug_assert_eq!(group.turns.is_empty(), !self.turns.contains(&group.turn(*id)));
            debug_assert_eq!(group.turns.len(), group.dues.values().map(BTreeSet::len).sum::<usize>());
        }
    }
}

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

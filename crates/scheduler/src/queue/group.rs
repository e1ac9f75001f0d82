//! Whose turn is it within a group of users? A group stands among the lanes as one of them, and has an order of its own.
//!
//! Work is charged to the lane and to its group, each by its own weight. So groups get work by their weights first, however
//! many users each has, and a group's work is divided among its users by theirs. A user without a group stands among the
//! groups directly. A group also goes first by right as one user does: once a minute, with its longest overdue request.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    FairQueue,
    lane::{AGED, Counter, LaneId, Seat, Standing, Turn, resumed},
};
use crate::{ids::Time, model::ModelId};

/// A group's index.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(crate) struct GroupId(pub(super) usize);

/// The group that a request is charged to beside its user.
#[derive(Clone, PartialEq, Debug)]
pub struct Membership {
    /// The group's name.
    pub group: Arc<str>,
    /// The group's weight among groups, and users without one: twice the weight gets twice the work. Above 0.
    pub weight: f64,
}

/// What a request was charged at dispatch, and with which group.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Charge {
    pub(super) cost: f64,
    pub(super) group: Option<GroupId>,
}

#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) name: Arc<str>,
    pub(super) standing: Standing,
    /// The settled counter of its lane that was served last. Never decreases.
    pub(super) served: f64,
    /// Lanes in it, idle ones included.
    members: usize,
    /// Its lanes that wait, and the same for each model.
    pub(super) turns: BTreeSet<Turn>,
    pub(super) of_model: BTreeMap<ModelId, BTreeSet<Turn>>,
    /// For the model of each lane's oldest request: when that request may go first.
    pub(super) dues: BTreeMap<ModelId, BTreeSet<(Time, LaneId)>>,
}

impl Group {
    fn turn(&self, id: GroupId) -> Turn {
        (Counter(self.standing.counter), self.standing.joined, Seat::Group(id))
    }

    /// For each model: when the group may go first with a request for it.
    fn dues(&self) -> impl Iterator<Item = (ModelId, Time)> {
        let again = self.standing.went_first_at.map_or(Time::ZERO, |at| at + AGED);
        let firsts = self.dues.iter().filter_map(|(model, dues)| Some((*model, dues.first()?.0)));
        firsts.map(move |(model, due)| (model, due.max(again)))
    }

    pub(super) fn put_in(&mut self, turn: Turn, models: impl Iterator<Item = ModelId>, due: (ModelId, (Time, LaneId))) {
        self.turns.insert(turn);
        for model in models {
            self.of_model.entry(model).or_default().insert(turn);
        }
        self.dues.entry(due.0).or_default().insert(due.1);
    }

    pub(super) fn take_out(
        &mut self,
        turn: Turn,
        models: impl Iterator<Item = ModelId>,
        due: (ModelId, (Time, LaneId)),
    ) {
        self.turns.remove(&turn);
        for model in models {
            remove(&mut self.of_model, model, &turn);
        }
        remove(&mut self.dues, due.0, &due.1);
    }
}

/// Takes an item out of a model's set, and the set with its last item.
fn remove<T: Ord>(sets: &mut BTreeMap<ModelId, BTreeSet<T>>, model: ModelId, item: &T) {
    if let Some(set) = sets.get_mut(&model) {
        set.remove(item);
        if set.is_empty() {
            sets.remove(&model);
        }
    }
}

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

    /// Asserts what must hold of groups after every step; in debug builds only.
    pub(super) fn check_groups(&self) {
        debug_assert_eq!(self.by_group.len() + self.free_groups.len(), self.groups.len());
        for id in self.by_group.values() {
            let group = &self.groups[id.0];
            debug_assert!(group.members > 0 || group.standing.running > 0, "a group without lanes is forgotten");
            debug_assert_eq!(group.turns.is_empty(), !self.turns.contains(&group.turn(*id)));
            debug_assert_eq!(group.turns.len(), group.dues.values().map(BTreeSet::len).sum::<usize>());
        }
    }
}

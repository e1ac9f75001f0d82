//! Whose turn is it within a group of users? A group stands among the lanes as one of them, and has an order of its own.
//!
//! Work is charged to the lane and to its group, each by its own weight. So groups get work by their weights first, however
//! many users each has, and a group's work is divided among its users by theirs. A user without a group stands among the
//! groups directly. A group also goes first by right as one user does: once a minute, with its longest overdue request.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::lane::{AGED, Counter, GroupId, LaneId, Seat, Standing, Turn};
use crate::{ids::Time, model::ModelId};

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
    pub(super) members: usize,
    /// Its lanes that wait, and the same for each model.
    pub(super) turns: BTreeSet<Turn>,
    pub(super) of_model: BTreeMap<ModelId, BTreeSet<Turn>>,
    /// For the model of each lane's oldest request: when that request may go first.
    pub(super) dues: BTreeMap<ModelId, BTreeSet<(Time, LaneId)>>,
}

impl Group {
    pub(super) fn turn(&self, id: GroupId) -> Turn {
        (Counter(self.standing.counter), self.standing.joined, Seat::Group(id))
    }

    /// For each model: when the group may go first with a request for it.
    pub(super) fn dues(&self) -> impl Iterator<Item = (ModelId, Time)> {
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

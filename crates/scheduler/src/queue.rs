//! Who is next? A bounded queue with a lane for each user; the user who has received the least service goes first.
//!
//! Every lane has a counter: the work its requests have cost (see [`crate::request::cost`]) divided by its weight. The
//! lane with the lowest counter goes first. Within a lane, requests that failed an attempt go first, then the oldest. A
//! request is charged its expected cost when it is dispatched, and the difference to its true cost when it has ended.
//!
//! An idle lane earns no credit: it resumes at the last-served lane's counter. Only the settled part of that counter
//! counts. Otherwise an estimate that is far too high, as before the first answer, would keep newcomers behind a flood
//! for dozens of its requests. If a lane has used more than that, half of the excess is forgiven every 30 s while it is
//! idle. While lanes wait, nothing is forgiven, so that over any period the work done for two of them differs by at
//! most twice the dearest request.
//!
//! For each model, the lanes that wait for it are kept in the same order, so finding the next request for a model takes
//! no longer when more requests wait. A group's lanes are kept in the group, which stands in these orders as one (see
//! [`group`]). Once a minute, a lane's oldest request may go first if it has waited for a minute
//! ([`FairQueue::line`]): nobody starves, and a flood cannot age its way to the front.

mod group;
mod groups;
mod lane;
mod order;
mod share;
mod users;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub(crate) use self::group::Charge;
pub use self::group::Membership;
use self::{
    group::Group,
    lane::{GroupId, Lane, Seat, Turn, resumed},
    users::Users,
};
pub(crate) use self::{
    lane::{Entry, LaneId, LanePosition},
    order::{Line, Next},
};
use crate::{
    decision::RefusalReason,
    ids::{RequestId, Time},
    model::ModelId,
    queue_limits::QueueLimits,
};

#[derive(Clone, Debug)]
pub(crate) struct FairQueue {
    limits: QueueLimits,
    lanes: Vec<Lane>,
    free: Vec<LaneId>,
    by_user: BTreeMap<Arc<str>, LaneId>,
    groups: Vec<Group>,
    free_groups: Vec<GroupId>,
    by_group: BTreeMap<Arc<str>, GroupId>,
    /// Lanes with nothing queued or running, longest idle first.
    idle: BTreeSet<(Time, LaneId)>,
    turns: BTreeSet<Turn>,
    /// By [`ModelId`].
    of_model: Vec<BTreeSet<Turn>>,
    waiting_for: Vec<usize>,
    /// Lanes that wait, by [`ModelId`].
    lanes_for: Vec<usize>,
    /// Models that the last request has stopped waiting for.
    emptied: Vec<ModelId>,
    users: Vec<Users>,
    /// For the model of each lane's oldest request, or a group's: when that request may go first.
    dues: Vec<BTreeSet<(Time, Seat)>>,
    deadlines: BTreeSet<(Time, RequestId)>,
    /// Requests that failed an attempt.
    retries: BTreeSet<RequestId>,
    /// The settled counter of the lane that was served last. Never decreases.
    served: f64,
    joins: u64,
    length: usize,
}

impl FairQueue {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            lanes: Vec::new(),
            free: Vec::new(),
            by_user: BTreeMap::new(),
            groups: Vec::new(),
            free_groups: Vec::new(),
            by_group: BTreeMap::new(),
            idle: BTreeSet::new(),
            turns: BTreeSet::new(),
            of_model: Vec::new(),
            waiting_for: Vec::new(),
            lanes_for: Vec::new(),
            emptied: Vec::new(),
            users: Vec::new(),
            dues: Vec::new(),
            deadlines: BTreeSet::new(),
            retries: BTreeSet::new(),
            served: 0.0,
            joins: 0,
            length: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// How many requests wait for a model.
    pub(crate) fn waiting_for(&self, model: ModelId) -> usize {
        self.waiting_for.get(model.0).copied().unwrap_or(0)
    }

    /// Takes the models that have had their last request leave the queue since this was last called.
    pub(crate) fn take_emptied(&mut self) -> impl Iterator<Item = ModelId> {
        self.emptied.drain(..)
    }

    /// How many users wait for a model.
    pub(crate) fn users_for(&self, model: ModelId) -> usize {
        self.lanes_for.get(model.0).copied().unwrap_or(0)
    }

    /// How many requests of a user wait.
    #[cfg(test)]
    pub(crate) fn waiting_of(&self, user: &str) -> usize {
        self.by_user.get(user).map_or(0, |id| self.lanes[id.0].waiting.len())
    }

    /// Every model that a request waits for.
    pub(crate) fn models(&self) -> impl Iterator<Item = ModelId> {
        let waiting = self.waiting_for.iter().enumerate().filter(|(_, count)| **count > 0);
        waiting.map(|(index, _)| ModelId(index))
    }

    /// Why a new request of this user must not wait; `None` if it may.
    pub(crate) fn objection(&self, user: LaneId) -> Option<RefusalReason> {
        if self.lanes[user.0].waiting.len() >= self.limits.max_queued_per_user {
            Some(RefusalReason::UserQueueFull)
        } else if self.length >= self.limits.max_queued {
            Some(RefusalReason::QueueFull)
        } else {
            None
        }
    }

    /// Adds a request. The bounds are not checked here, because an accepted request that failed an attempt returns even
    /// to a full queue.
    pub(crate) fn push(&mut self, id: LaneId, entry: Entry, now: Time) {
        self.wake(id);
        // A lane that keeps its turn need not be taken out of the orders and put in again.
        let keeps_turn = self.keeps_turn(id);
        if self.lanes[id.0].waiting.is_empty() {
            if let Some(group) = self.lanes[id.0].group {
                self.take_out_group(group);
                self.group_resumes(group, now);
            }
            self.joins += 1;
            let served = self.served_of(self.lanes[id.0].group);
            let standing = &mut self.lanes[id.0].standing;
            standing.joined = self.joins;
            // Whoever was idle begins beside the others, not with credit for the time.
            standing.counter = resumed(standing, served, now);
        } else if !keeps_turn {
            self.take_out(id);
        }
        let (model, deadline) = (entry.model, entry.deadline);
        self.deadlines.insert((deadline, entry.id));
        // Such a request may be barred from every node that still serves others, so it is looked at by itself.
        if !entry.position.is_fresh {
            self.retries.insert(entry.id);
        }
        let is_first = self.lanes[id.0].waiting.insert(entry);
        if self.of_model.len() <= model.0 {
            self.of_model.resize_with(model.0 + 1, BTreeSet::new);
            self.dues.resize_with(model.0 + 1, BTreeSet::new);
            self.waiting_for.resize(model.0 + 1, 0);
            self.lanes_for.resize(model.0 + 1, 0);
        }
        self.waiting_for[model.0] += 1;
        self.lanes_for[model.0] += usize::from(is_first);
        self.note_use(id, model, now);
        self.length += 1;
        if !keeps_turn {
            return self.put_in(id);
        }
        if is_first {
            self.of_model[model.0].insert(self.lanes[id.0].turn(id));
        }
        self.renew_due(id);
    }

    /// Removes a request from anywhere in its lane.
    pub(crate) fn remove(&mut self, id: LaneId, position: LanePosition, now: Time) {
        if !self.lanes[id.0].waiting.contains(position) {
            return;
        }
        let keeps_turn = self.keeps_turn(id);
        // The orders are keyed by what the removal changes, so the lane leaves them before it.
        if !keeps_turn {
            self.take_out(id);
        }
        let Some((model, is_last)) = self.drop_entry(id, position, now) else { return };
        if keeps_turn {
            let turn = self.lanes[id.0].turn(id);
            if is_last {
                self.of_model[model.0].remove(&turn);
            }
            if self.lanes[id.0].waiting.is_empty() {
                self.turns.remove(&turn);
            }
            self.renew_due(id);
        } else {
            self.put_in(id);
        }
        self.note_idle_group(self.lanes[id.0].group, now);
        self.rest(id);
    }

    /// Removes a request from its lane, which must leave every order in which that changes its place. Returns its model,
    /// and whether nothing else in the lane waits for that.
    fn drop_entry(&mut self, id: LaneId, position: LanePosition, now: Time) -> Option<(ModelId, bool)> {
        let lane = &mut self.lanes[id.0];
        let (entry, is_last) = lane.waiting.remove(position)?;
        if lane.waiting.is_empty() {
            lane.standing.idle_since = now;
        }
        self.lanes_for[entry.model.0] -= usize::from(is_last);
        self.waiting_for[entry.model.0] -= 1;
        if self.waiting_for[entry.model.0] == 0 {
            self.emptied.push(entry.model);
        }
        self.deadlines.remove(&(entry.deadline, entry.id));
        if !position.is_fresh {
            self.retries.remove(&entry.id);
        }
        self.length -= 1;
        Some((entry.model, is_last))
    }

    /// Ends a lane's idle time before something waits or runs in it.
    fn wake(&mut self, id: LaneId) {
        let lane = &self.lanes[id.0];
        if lane.is_idle() {
            self.idle.remove(&(lane.standing.idle_since, id));
        }
    }

    fn rest(&mut self, id: LaneId) {
        let lane = &self.lanes[id.0];
        if lane.is_idle() {
            self.idle.insert((lane.standing.idle_since, id));
        }
    }

    /// A request of this lane is sent to a node; `waited` is where it stood in the lane, if it was queued before.
    pub(crate) fn dispatched(
        &mut self,
        id: LaneId,
        waited: Option<LanePosition>,
        (model, cost): (ModelId, f64),
        now: Time,
    ) -> Charge {
        self.wake(id);
        self.take_out(id);
        if let Some(position) = waited {
            self.drop_entry(id, position, now);
        }
        let lane = &mut self.lanes[id.0];
        *lane.running_of.entry(model).or_default() += 1;
        let settled = lane.standing.settled();
        lane.standing.dispatched(cost);
        if lane.waiting.is_empty() {
            lane.standing.idle_since = now;
        }
        let group = lane.group;
        match group {
            None => self.served = self.served.max(settled),
            Some(group) => self.group_dispatched(group, settled, cost),
        }
        self.put_in(id);
        self.note_idle_group(group, now);
        Charge { cost, group }
    }

    /// A request of this lane has left its node: `charged` is what it was charged at dispatch, `cost` what it really
    /// cost.
    pub(crate) fn settled(&mut self, id: LaneId, model: ModelId, (charged, cost): (Charge, f64), now: Time) {
        self.take_out(id);
        let lane = &mut self.lanes[id.0];
        if let Some(running) = lane.running_of.get_mut(&model) {
            *running -= 1;
            lane.running_of.retain(|_, running| *running > 0);
        }
        lane.standing.ended(charged.cost, cost);
        self.put_in(id);
        if let Some(group) = charged.group {
            self.group_settled(group, charged.cost, cost);
        }
        self.note_use(id, model, now);
        self.rest(id);
    }

    /// The lane's oldest request has used its right to go first, and its group's.
    pub(crate) fn went_first(&mut self, id: LaneId, now: Time) {
        self.take_out(id);
        self.lanes[id.0].standing.went_first_at = Some(now);
        if let Some(group) = self.lanes[id.0].group {
            self.groups[group.0].standing.went_first_at = Some(now);
        }
        self.put_in(id);
    }

    /// Whether a lane's place in every order stays the same when a request joins or leaves it.
    fn keeps_turn(&self, id: LaneId) -> bool {
        let lane = &self.lanes[id.0];
        lane.group.is_none() && !lane.waiting.is_empty()
    }

    /// The oldest request of a lane that keeps its turn may be another one now.
    fn renew_due(&mut self, id: LaneId) {
        let (before, after) = (self.lanes[id.0].due, self.lanes[id.0].next_due());
        if after == Some(before) {
            return;
        }
        self.dues[before.1.0].remove(&(before.0, Seat::Lane(id)));
        if let Some(due) = after {
            self.lanes[id.0].due = due;
            self.dues[due.1.0].insert((due.0, Seat::Lane(id)));
        }
    }

    /// Takes a lane, and its group, out of every order; needed before changing anything that their places depend on.
    fn take_out(&mut self, id: LaneId) {
        let lane = &self.lanes[id.0];
        let turn = lane.turn(id);
        let Some(group) = lane.group else {
            if self.turns.remove(&turn) {
                for model in lane.waiting.models() {
                    self.of_model[model.0].remove(&turn);
                }
                self.dues[lane.due.1.0].remove(&(lane.due.0, Seat::Lane(id)));
            }
            return;
        };
        self.take_out_group(group);
        let lane = &self.lanes[id.0];
        self.groups[group.0].take_out(turn, lane.waiting.models(), (lane.due.1, (lane.due.0, id)));
    }

    fn put_in(&mut self, id: LaneId) {
        let group = self.lanes[id.0].group;
        if let Some(due) = self.lanes[id.0].next_due() {
            self.lanes[id.0].due = due;
            let lane = &self.lanes[id.0];
            let turn = lane.turn(id);
            if let Some(group) = group {
                self.groups[group.0].put_in(turn, lane.waiting.models(), (due.1, (due.0, id)));
            } else {
                self.turns.insert(turn);
                for model in lane.waiting.models() {
                    self.of_model[model.0].insert(turn);
                }
                self.dues[due.1.0].insert((due.0, Seat::Lane(id)));
            }
        }
        if let Some(group) = group {
            self.put_in_group(group);
        }
    }

    /// Requests that failed an attempt.
    pub(crate) fn retries(&self) -> impl Iterator<Item = RequestId> {
        self.retries.iter().copied()
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The requests whose deadline has passed, the most overdue first.
    pub(crate) fn overdue(&self, now: Time) -> Vec<RequestId> {
        let overdue = self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now);
        overdue.map(|(_, id)| *id).collect()
    }
}

#[cfg(test)]
mod tests;

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
//! no longer when more requests wait. Once a minute, a lane's oldest request may go first if it has waited for a minute
//! ([`FairQueue::line`]): nobody starves, and a flood cannot age its way to the front.

mod lane;
mod order;
mod share;
mod users;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub(crate) use self::{
    lane::{Entry, LaneId, LanePosition},
    order::Next,
};
use self::{
    lane::{Lane, Turn},
    users::Users,
};
use crate::{
    decision::RefusalReason,
    ids::{RequestId, Time},
    model::ModelId,
    queue_limits::QueueLimits,
};

const HALF_LIFE_SECONDS: f64 = 30.0;
/// Users that are remembered while they have nothing queued or running.
const REMEMBERED_LANES: usize = 4096;

#[derive(Clone, Debug)]
pub(crate) struct FairQueue {
    limits: QueueLimits,
    lanes: Vec<Lane>,
    free: Vec<LaneId>,
    by_user: BTreeMap<Arc<str>, LaneId>,
    /// Lanes with nothing queued or running, longest idle first.
    idle: BTreeSet<(Time, LaneId)>,
    turns: BTreeSet<Turn>,
    /// By [`ModelId`].
    of_model: Vec<BTreeSet<Turn>>,
    waiting_for: Vec<usize>,
    /// Models that the last request has stopped waiting for.
    emptied: Vec<ModelId>,
    users: Vec<Users>,
    /// For the model of each lane's oldest request: when that request may go first.
    dues: Vec<BTreeSet<(Time, LaneId)>>,
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
            idle: BTreeSet::new(),
            turns: BTreeSet::new(),
            of_model: Vec::new(),
            waiting_for: Vec::new(),
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
    pub(crate) fn take_emptied(&mut self) -> impl Iterator<Item = ModelId> + use<> {
        std::mem::take(&mut self.emptied).into_iter()
    }

    /// How many users wait for a model.
    pub(crate) fn users_for(&self, model: ModelId) -> usize {
        self.of_model.get(model.0).map_or(0, BTreeSet::len)
    }

    /// How many requests of a user wait.
    pub(crate) fn waiting_of(&self, user: &str) -> usize {
        self.by_user.get(user).map_or(0, |id| self.lanes[id.0].waiting.len())
    }

    /// Every model that a request waits for.
    pub(crate) fn models(&self) -> impl Iterator<Item = ModelId> {
        let waiting = self.waiting_for.iter().enumerate().filter(|(_, count)| **count > 0);
        waiting.map(|(index, _)| ModelId(index))
    }

    /// Why a new request of this user must not wait; `None` if it may.
    pub(crate) fn objection(&self, user: &str) -> Option<RefusalReason> {
        if self.waiting_of(user) >= self.limits.max_queued_per_user {
            Some(RefusalReason::UserQueueFull)
        } else if self.length >= self.limits.max_queued {
            Some(RefusalReason::QueueFull)
        } else {
            None
        }
    }

    /// The user's lane, created if necessary. The latest weight counts.
    pub(crate) fn lane(&mut self, user: &Arc<str>, weight: f64, now: Time) -> LaneId {
        let weight = if weight.is_finite() && weight > 0.0 { weight } else { 1.0 };
        if let Some(id) = self.by_user.get(user).copied() {
            self.lanes[id.0].weight = weight;
            return id;
        }
        self.forget_idle();
        let lane = Lane::new(user.clone(), weight, self.served, now);
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

    /// Forgets the lanes that were idle longest. Nothing is lost: such a user resumes where everybody else does.
    fn forget_idle(&mut self) {
        if self.by_user.len() < REMEMBERED_LANES {
            return;
        }
        if let Some((_, longest)) = self.idle.pop_first() {
            self.by_user.remove(&self.lanes[longest.0].user);
            self.free.push(longest);
        }
    }

    /// Adds a request. The bounds are not checked here, because an accepted request that failed an attempt returns even
    /// to a full queue.
    pub(crate) fn push(&mut self, id: LaneId, entry: Entry, now: Time) {
        self.wake(id);
        if self.lanes[id.0].waiting.is_empty() {
            self.joins += 1;
            let (joined, served) = (self.joins, self.served);
            let lane = &mut self.lanes[id.0];
            lane.joined = joined;
            let idle = now.saturating_sub(lane.idle_since).as_secs_f64();
            let beyond = (lane.counter - served).max(0.0);
            lane.counter = served + beyond * (-idle / HALF_LIFE_SECONDS).exp2();
        } else {
            self.take_out(id);
        }
        let (model, deadline) = (entry.model, entry.deadline);
        let lane = &mut self.lanes[id.0];
        lane.by_model.entry(model).or_default().insert(entry.position);
        self.deadlines.insert((deadline, entry.id));
        if !entry.position.is_fresh {
            self.retries.insert(entry.id);
        }
        lane.waiting.insert(entry.position, entry);
        if self.of_model.len() <= model.0 {
            self.of_model.resize_with(model.0 + 1, BTreeSet::new);
            self.dues.resize_with(model.0 + 1, BTreeSet::new);
            self.waiting_for.resize(model.0 + 1, 0);
        }
        self.waiting_for[model.0] += 1;
        self.note_use(id, model, now);
        self.length += 1;
        self.put_in(id);
    }

    /// Removes a request from anywhere in its lane.
    pub(crate) fn remove(&mut self, id: LaneId, position: LanePosition, now: Time) {
        if !self.lanes[id.0].waiting.contains_key(&position) {
            return;
        }
        self.take_out(id);
        let lane = &mut self.lanes[id.0];
        let Some(entry) = lane.waiting.remove(&position) else { return };
        if let Some(positions) = lane.by_model.get_mut(&entry.model) {
            positions.remove(&position);
            if positions.is_empty() {
                lane.by_model.remove(&entry.model);
            }
        }
        if lane.waiting.is_empty() {
            lane.idle_since = now;
        }
        self.waiting_for[entry.model.0] -= 1;
        if self.waiting_for[entry.model.0] == 0 {
            self.emptied.push(entry.model);
        }
        self.deadlines.remove(&(entry.deadline, entry.id));
        self.retries.remove(&entry.id);
        self.length -= 1;
        self.put_in(id);
        self.rest(id);
    }

    /// Ends a lane's idle time before something waits or runs in it.
    fn wake(&mut self, id: LaneId) {
        self.idle.remove(&(self.lanes[id.0].idle_since, id));
    }

    fn rest(&mut self, id: LaneId) {
        let lane = &self.lanes[id.0];
        if lane.is_idle() {
            self.idle.insert((lane.idle_since, id));
        }
    }

    /// A request of this lane is sent to a node, whether it was queued before or not.
    pub(crate) fn dispatched(&mut self, id: LaneId, model: ModelId, cost: f64, now: Time) {
        self.wake(id);
        let lane = &mut self.lanes[id.0];
        lane.running += 1;
        *lane.running_of.entry(model).or_default() += 1;
        self.served = self.served.max(lane.counter - lane.unsettled);
        lane.unsettled += cost / lane.weight;
        self.charge(id, cost);
        let lane = &mut self.lanes[id.0];
        if lane.waiting.is_empty() {
            lane.idle_since = now;
        }
    }

    /// A request of this lane has left its node: `charged` is what it was charged at dispatch, `cost` what it really
    /// cost.
    pub(crate) fn settled(&mut self, id: LaneId, model: ModelId, (charged, cost): (f64, f64), now: Time) {
        let lane = &mut self.lanes[id.0];
        lane.running -= 1;
        if let Some(running) = lane.running_of.get_mut(&model) {
            *running -= 1;
            lane.running_of.retain(|_, running| *running > 0);
        }
        // The weight may have changed since the dispatch.
        lane.unsettled = if lane.running == 0 { 0.0 } else { (lane.unsettled - charged / lane.weight).max(0.0) };
        self.charge(id, cost - charged);
        self.note_use(id, model, now);
        self.rest(id);
    }

    fn charge(&mut self, id: LaneId, cost: f64) {
        self.take_out(id);
        let lane = &mut self.lanes[id.0];
        lane.counter += cost / lane.weight;
        self.put_in(id);
    }

    /// The lane's oldest request has used its right to go first.
    pub(crate) fn went_first(&mut self, id: LaneId, now: Time) {
        self.take_out(id);
        self.lanes[id.0].went_first_at = Some(now);
        self.put_in(id);
    }

    /// Takes a lane out of every order; needed before changing anything that its place depends on.
    fn take_out(&mut self, id: LaneId) {
        let lane = &self.lanes[id.0];
        let turn = lane.turn(id);
        if self.turns.remove(&turn) {
            for model in lane.by_model.keys() {
                self.of_model[model.0].remove(&turn);
            }
            self.dues[lane.due.1.0].remove(&(lane.due.0, id));
        }
    }

    fn put_in(&mut self, id: LaneId) {
        let Some(due) = self.lanes[id.0].next_due() else { return };
        self.lanes[id.0].due = due;
        let lane = &self.lanes[id.0];
        let turn = lane.turn(id);
        self.turns.insert(turn);
        for model in lane.by_model.keys() {
            self.of_model[model.0].insert(turn);
        }
        self.dues[due.1.0].insert((due.0, id));
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

impl FairQueue {
    /// Asserts what must hold after every step; in debug builds only.
    pub(crate) fn check(&self) {
        debug_assert_eq!(self.deadlines.len(), self.length);
        debug_assert_eq!(self.turns.len(), self.dues.iter().map(BTreeSet::len).sum::<usize>());
        debug_assert_eq!(self.waiting_for.iter().sum::<usize>(), self.length);
        debug_assert!(self.by_user.len() + self.free.len() == self.lanes.len());
        debug_assert!(self.idle.iter().all(|(_, id)| self.lanes[id.0].is_idle()));
    }
}

#[cfg(test)]
mod tests;

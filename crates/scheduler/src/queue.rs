//! Who is next? A bounded queue with a lane per user, served by least service received.
//!
//! Every lane has a counter: the work its requests have cost (see [`super::request::cost`]) over its weight. The lane
//! with the least goes first; within a lane, requests that failed an attempt go first, then the oldest. A request is
//! charged what it is expected to cost when it is dispatched, and the difference when it has ended.
//!
//! A lane that had nothing to wait for has not saved anything up: it joins with at least the counter of whoever was
//! served last, without what that one is only expected to cost: a guess that is far too high, as before any answer was
//! seen, would keep newcomers behind a flood for dozens of its requests. What the lane had used beyond that is forgotten
//! by half in 30 s. While lanes wait, nothing is forgotten, so that over any time the work done for two of them differs
//! by at most twice the dearest request.
//!
//! Every model knows the lanes that wait for it in the same order, so that finding the next request for a model does not
//! depend on how many wait. Once in a minute a lane's oldest request that has waited for a minute has a right to go
//! first ([`FairQueue::due`]): nobody starves, and a flood cannot age its way in.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
    time::Duration,
};

use crate::{
    decision::RefusalReason,
    ids::{RequestId, Time},
    model::ModelId,
    queue_limits::QueueLimits,
};

const HALF_LIFE_SECONDS: f64 = 30.0;
/// A request that has waited so long has a right to the next slot, once in so long for a user.
const AGED: Duration = Duration::from_secs(60);
/// Users that are remembered while they have nothing queued or running.
const REMEMBERED_LANES: usize = 4096;

/// A place within a lane; the least is the front.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(crate) struct Position {
    /// False sorts first: a request that failed an attempt goes to the front.
    pub(crate) is_fresh: bool,
    pub(crate) arrival: u64,
}

/// What the queue keeps of a request.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: RequestId,
    pub(crate) model: ModelId,
    pub(crate) position: Position,
    pub(crate) arrived: Time,
    pub(crate) deadline: Time,
    /// Expected.
    pub(crate) cost: f64,
}

/// Work over weight; never NaN.
#[derive(Copy, Clone, PartialEq, Debug)]
struct Counter(f64);

impl Eq for Counter {}

impl Ord for Counter {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Counter {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Index of a lane.
#[derive(Copy, Clone, Default, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(crate) struct LaneId(usize);

/// A place among the lanes; the least goes next. No two lanes share one.
type Turn = (Counter, u64, LaneId);

#[derive(Clone, Debug)]
struct Lane {
    user: Arc<str>,
    weight: f64,
    counter: f64,
    /// The number of the moment it began to wait: equals go in that order.
    joined: u64,
    /// Since when nothing waits.
    idle_since: Time,
    running: usize,
    /// What of the counter is charged for requests that still run.
    unsettled: f64,
    waiting: BTreeMap<Position, Entry>,
    by_model: BTreeMap<ModelId, BTreeSet<Position>>,
    /// When the oldest has a right to go first; kept while something waits.
    due: Time,
    went_first_at: Option<Time>,
}

impl Lane {
    fn turn(&self, id: LaneId) -> Turn {
        (Counter(self.counter), self.joined, id)
    }

    fn due(&self) -> Option<Time> {
        let oldest = self.waiting.values().map(|entry| entry.arrived).next()?;
        let again = self.went_first_at.map_or(Time::ZERO, |at| at + AGED);
        Some((oldest + AGED).max(again))
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct FairQueue {
    limits: QueueLimits,
    lanes: Vec<Lane>,
    free: Vec<LaneId>,
    by_user: BTreeMap<Arc<str>, LaneId>,
    turns: BTreeSet<Turn>,
    /// By [`ModelId`].
    of_model: Vec<BTreeSet<Turn>>,
    waiting_for: Vec<usize>,
    dues: BTreeSet<(Time, LaneId)>,
    deadlines: BTreeSet<(Time, RequestId)>,
    /// Those that failed an attempt.
    retries: BTreeSet<RequestId>,
    /// The counter of whoever was served last, as far as it is settled; never goes back.
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
            turns: BTreeSet::new(),
            of_model: Vec::new(),
            waiting_for: Vec::new(),
            dues: BTreeSet::new(),
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

    /// How many wait for a model.
    pub(crate) fn waiting_for(&self, model: ModelId) -> usize {
        self.waiting_for.get(model.0).copied().unwrap_or(0)
    }

    /// How many of a user wait.
    pub(crate) fn waiting_of(&self, user: &str) -> usize {
        self.by_user.get(user).map_or(0, |id| self.lanes[id.0].waiting.len())
    }

    /// Every model that somebody waits for.
    pub(crate) fn models(&self) -> impl Iterator<Item = ModelId> {
        let waiting = self.waiting_for.iter().enumerate().filter(|(_, count)| **count > 0);
        waiting.map(|(index, _)| ModelId(index))
    }

    /// Why a new request of this user may not wait, if it may not.
    pub(crate) fn objection(&self, user: &str) -> Option<RefusalReason> {
        if self.waiting_of(user) >= self.limits.max_queued_per_user {
            Some(RefusalReason::UserQueueFull)
        } else if self.length >= self.limits.max_queued {
            Some(RefusalReason::QueueFull)
        } else {
            None
        }
    }

    /// The lane of a user, made if need be. The weight said last counts.
    pub(crate) fn lane(&mut self, user: &Arc<str>, weight: f64, now: Time) -> LaneId {
        let weight = if weight.is_finite() && weight > 0.0 { weight } else { 1.0 };
        if let Some(id) = self.by_user.get(user).copied() {
            self.lanes[id.0].weight = weight;
            return id;
        }
        self.forget_idle();
        let lane = Lane {
            user: user.clone(),
            weight,
            counter: self.served,
            joined: 0,
            idle_since: now,
            running: 0,
            unsettled: 0.0,
            waiting: BTreeMap::new(),
            by_model: BTreeMap::new(),
            due: Time::ZERO,
            went_first_at: None,
        };
        let id = self.free.pop().unwrap_or(LaneId(self.lanes.len()));
        if id.0 < self.lanes.len() {
            self.lanes[id.0] = lane;
        } else {
            self.lanes.push(lane);
        }
        self.by_user.insert(user.clone(), id);
        id
    }

    /// A lane that is in no use is no loss: whoever comes back starts with everybody else.
    fn forget_idle(&mut self) {
        if self.by_user.len() < REMEMBERED_LANES {
            return;
        }
        let lanes = self.by_user.values().copied();
        let idle = lanes.filter(|id| self.lanes[id.0].running == 0 && self.lanes[id.0].waiting.is_empty());
        if let Some(longest) = idle.min_by_key(|id| (self.lanes[id.0].idle_since, *id)) {
            self.by_user.remove(&self.lanes[longest.0].user);
            self.free.push(longest);
        }
    }

    /// Adds a request. The bounds are not checked here: one that was accepted and failed an attempt comes back even to a
    /// full queue.
    pub(crate) fn push(&mut self, id: LaneId, entry: Entry, now: Time) {
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
            self.waiting_for.resize(model.0 + 1, 0);
        }
        self.waiting_for[model.0] += 1;
        self.length += 1;
        self.put_in(id);
    }

    /// Removes a request, wherever it stands.
    pub(crate) fn remove(&mut self, id: LaneId, position: Position, now: Time) {
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
        self.deadlines.remove(&(entry.deadline, entry.id));
        self.retries.remove(&entry.id);
        self.length -= 1;
        self.put_in(id);
    }

    /// A request of this lane is sent to a node, queued before or not.
    pub(crate) fn dispatched(&mut self, id: LaneId, cost: f64, now: Time) {
        let lane = &mut self.lanes[id.0];
        lane.running += 1;
        self.served = self.served.max(lane.counter - lane.unsettled);
        lane.unsettled += cost / lane.weight;
        self.charge(id, cost);
        let lane = &mut self.lanes[id.0];
        if lane.waiting.is_empty() {
            lane.idle_since = now;
        }
    }

    /// A request of this lane is on no node any more: what it was charged when it was sent, and what it cost.
    pub(crate) fn settled(&mut self, id: LaneId, charged: f64, cost: f64) {
        let lane = &mut self.lanes[id.0];
        lane.running -= 1;
        // The weight may have changed since.
        lane.unsettled = if lane.running == 0 { 0.0 } else { (lane.unsettled - charged / lane.weight).max(0.0) };
        self.charge(id, cost - charged);
    }

    fn charge(&mut self, id: LaneId, cost: f64) {
        self.take_out(id);
        let lane = &mut self.lanes[id.0];
        lane.counter += cost / lane.weight;
        self.put_in(id);
    }

    /// The lane's oldest used its right to go first.
    pub(crate) fn went_first(&mut self, id: LaneId, now: Time) {
        self.take_out(id);
        self.lanes[id.0].went_first_at = Some(now);
        self.put_in(id);
    }

    /// Takes a lane out of every order, before something is changed that its place depends on.
    fn take_out(&mut self, id: LaneId) {
        let lane = &self.lanes[id.0];
        let turn = lane.turn(id);
        if self.turns.remove(&turn) {
            for model in lane.by_model.keys() {
                self.of_model[model.0].remove(&turn);
            }
            self.dues.remove(&(lane.due, id));
        }
    }

    fn put_in(&mut self, id: LaneId) {
        let Some(due) = self.lanes[id.0].due() else { return };
        self.lanes[id.0].due = due;
        let lane = &self.lanes[id.0];
        let turn = lane.turn(id);
        self.turns.insert(turn);
        for model in lane.by_model.keys() {
            self.of_model[model.0].insert(turn);
        }
        self.dues.insert((due, id));
    }

    /// Lanes whose oldest request has a right to go first, and that request; the longest overdue first.
    pub(crate) fn due(&self, now: Time) -> impl Iterator<Item = (LaneId, RequestId)> {
        let due = self.dues.iter().take_while(move |(due, _)| *due <= now);
        due.filter_map(|(_, id)| Some((*id, self.lanes[id.0].waiting.values().next()?.id)))
    }

    /// The first so many requests in the order of their turns, each charged to its lane in thought.
    pub(crate) fn first(&self, count: usize, into: &mut Vec<RequestId>) {
        let mut fresh = self.turns.iter().peekable();
        let mut begun: BinaryHeap<Reverse<(Counter, u64, LaneId, Position)>> = BinaryHeap::new();
        while into.len() < count {
            let next = fresh.peek().map(|(counter, joined, id)| (*counter, *joined, *id));
            let is_fresh_first = match (next, begun.peek()) {
                (Some((counter, joined, _)), Some(Reverse((other, other_joined, ..)))) => {
                    (counter, joined) < (*other, *other_joined)
                }
                (next, _) => next.is_some(),
            };
            let (counter, joined, id, after) = if is_fresh_first {
                fresh.next();
                let Some((counter, joined, id)) = next else { return };
                (counter, joined, id, None)
            } else {
                let Some(Reverse((counter, joined, id, position))) = begun.pop() else { return };
                (counter, joined, id, Some(position))
            };
            let lane = &self.lanes[id.0];
            let mut rest = match after {
                None => lane.waiting.range(..),
                Some(after) => lane.waiting.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded)),
            };
            let Some((position, entry)) = rest.next() else { continue };
            into.push(entry.id);
            if rest.next().is_some() {
                let counter = Counter(counter.0 + entry.cost / lane.weight);
                begun.push(Reverse((counter, joined, id, *position)));
            }
        }
    }

    /// The requests for a model, lanes in the order of their turns, the front of each lane first and the others after.
    pub(crate) fn for_model(&self, model: ModelId) -> impl Iterator<Item = RequestId> {
        let lanes = self.of_model.get(model.0).into_iter().flatten();
        lanes.flat_map(move |(_, _, id)| {
            let lane = &self.lanes[id.0];
            let positions = lane.by_model.get(&model).into_iter().flatten();
            positions.filter_map(|position| Some(lane.waiting.get(position)?.id))
        })
    }

    /// Those that failed an attempt.
    pub(crate) fn retries(&self) -> impl Iterator<Item = RequestId> {
        self.retries.iter().copied()
    }

    /// When the first request has waited as long as it may.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The requests that have waited as long as they may, the most overdue first.
    pub(crate) fn overdue(&self, now: Time) -> Vec<RequestId> {
        let overdue = self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now);
        overdue.map(|(_, id)| *id).collect()
    }
}

#[cfg(test)]
mod tests;

//! What waits for one user, and when is it that user's turn?

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc, time::Duration};

use super::lane_queue::LaneQueue;
use crate::{ids::Time, model::ModelId};

const HALF_LIFE_SECONDS: f64 = 30.0;
/// A request that has waited this long may go first; each user, or group, may do so once in the same time.
pub(super) const AGED: Duration = Duration::from_secs(60);

/// Work divided by weight; never NaN.
#[derive(Copy, Clone, PartialEq, Debug)]
pub(super) struct Counter(pub(super) f64);

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

/// A lane's index.
#[derive(Copy, Clone, Default, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(crate) struct LaneId(pub(super) usize);

/// A group's index.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(crate) struct GroupId(pub(super) usize);

/// Who stands in an order: a lane, or all lanes of a group together.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(super) enum Seat {
    Lane(LaneId),
    Group(GroupId),
}

/// A place in an order; the smallest goes next. No two have the same.
pub(super) type Turn = (Counter, u64, Seat);

/// How a lane, or a group, stands among those that compete with it.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) weight: f64,
    pub(super) counter: f64,
    /// A sequence number set when it began to wait; it breaks ties.
    pub(super) joined: u64,
    /// Since when it has had nothing waiting.
    pub(super) idle_since: Time,
    pub(super) running: usize,
    /// The part of the counter that is charged for running requests.
    pub(super) unsettled: f64,
    pub(super) went_first_at: Option<Time>,
}

impl Standing {
    pub(super) fn new(weight: f64, counter: f64, now: Time) -> Self {
        let mut standing =
            Self { weight: 1.0, counter, joined: 0, idle_since: now, running: 0, unsettled: 0.0, went_first_at: None };
        standing.set_weight(weight);
        standing
    }

    pub(super) fn set_weight(&mut self, weight: f64) {
        self.weight = if weight.is_finite() && weight > 0.0 { weight } else { 1.0 };
    }

    /// The part of the counter that is charged for requests which have ended.
    pub(super) fn settled(&self) -> f64 {
        self.counter - self.unsettled
    }

    pub(super) fn dispatched(&mut self, cost: f64) {
        self.running += 1;
        self.unsettled += cost / self.weight;
        self.counter += cost / self.weight;
    }

    pub(super) fn ended(&mut self, charged: f64, cost: f64) {
        self.running -= 1;
        // The weight may have changed since the dispatch.
        self.unsettled = if self.running == 0 { 0.0 } else { (self.unsettled - charged / self.weight).max(0.0) };
        self.counter += (cost - charged) / self.weight;
    }
}

/// The counter with which it begins to wait again: that of whoever was served last, and what it has used beyond that, of
/// which half is forgiven every 30 s that it was idle.
pub(super) fn resumed(standing: &Standing, served: f64, now: Time) -> f64 {
    let idle = now.saturating_sub(standing.idle_since).as_secs_f64();
    let beyond = (standing.counter - served).max(0.0);
    served + beyond * (-idle / HALF_LIFE_SECONDS).exp2()
}

#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) user: Arc<str>,
    pub(super) group: Option<GroupId>,
    pub(super) standing: Standing,
    pub(super) running_of: BTreeMap<ModelId, usize>,
    pub(super) waiting: LaneQueue,
    /// When its oldest request may go first, and that request's model. Meaningful only while something waits.
    pub(super) due: (Time, ModelId),
}

impl Lane {
    pub(super) fn new(user: Arc<str>, group: Option<GroupId>, standing: Standing) -> Self {
        Self {
            user,
            group,
            standing,
            running_of: BTreeMap::new(),
            waiting: LaneQueue::default(),
            due: (Time::ZERO, ModelId(0)),
        }
    }

    pub(super) fn turn(&self, id: LaneId) -> Turn {
        (Counter(self.standing.counter), self.standing.joined, Seat::Lane(id))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.standing.running == 0 && self.waiting.is_empty()
    }

    pub(super) fn next_due(&self) -> Option<(Time, ModelId)> {
        let oldest = self.waiting.oldest()?;
        let again = self.standing.went_first_at.map_or(Time::ZERO, |at| at + AGED);
        Some(((oldest.arrived + AGED).max(again), oldest.model))
    }
}

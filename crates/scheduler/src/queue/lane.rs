//! What waits for one user, and when is it that user's turn?

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    ids::{RequestId, Time},
    model::ModelId,
};

/// A request that has waited this long may go first; each user may do so once in the same time.
const AGED: Duration = Duration::from_secs(60);

/// A place within a lane; the smallest is at the front.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(crate) struct LanePosition {
    /// False sorts first, so requests that failed an attempt are at the front.
    pub(crate) is_fresh: bool,
    pub(crate) arrival: u64,
}

/// What the queue keeps of a request.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: RequestId,
    pub(crate) model: ModelId,
    pub(crate) position: LanePosition,
    pub(crate) arrived: Time,
    pub(crate) deadline: Time,
    /// Its expected cost.
    pub(crate) cost: f64,
}

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

/// A place among the lanes; the smallest goes next. No two lanes have the same.
pub(super) type Turn = (Counter, u64, LaneId);

#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) user: Arc<str>,
    pub(super) weight: f64,
    pub(super) counter: f64,
    /// A sequence number set when the lane began to wait; it breaks ties.
    pub(super) joined: u64,
    /// Since when the lane has had nothing waiting.
    pub(super) idle_since: Time,
    pub(super) running: usize,
    pub(super) running_of: BTreeMap<ModelId, usize>,
    /// The part of the counter that is charged for running requests.
    pub(super) unsettled: f64,
    pub(super) waiting: BTreeMap<LanePosition, Entry>,
    pub(super) by_model: BTreeMap<ModelId, BTreeSet<LanePosition>>,
    /// When its oldest request may go first, and that request's model. Meaningful only while something waits.
    pub(super) due: (Time, ModelId),
    pub(super) went_first_at: Option<Time>,
}

impl Lane {
    pub(super) fn new(user: Arc<str>, weight: f64, counter: f64, now: Time) -> Self {
        Self {
            user,
            weight,
            counter,
            joined: 0,
            idle_since: now,
            running: 0,
            running_of: BTreeMap::new(),
            unsettled: 0.0,
            waiting: BTreeMap::new(),
            by_model: BTreeMap::new(),
            due: (Time::ZERO, ModelId(0)),
            went_first_at: None,
        }
    }

    pub(super) fn turn(&self, id: LaneId) -> Turn {
        (Counter(self.counter), self.joined, id)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running == 0 && self.waiting.is_empty()
    }

    pub(super) fn oldest(&self) -> Option<&Entry> {
        self.waiting.values().next()
    }

    pub(super) fn next_due(&self) -> Option<(Time, ModelId)> {
        let oldest = self.oldest()?;
        let again = self.went_first_at.map_or(Time::ZERO, |at| at + AGED);
        Some(((oldest.arrived + AGED).max(again), oldest.model))
    }
}

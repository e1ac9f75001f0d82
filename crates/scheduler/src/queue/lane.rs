//! What waits for one user, and when is it that user's turn?

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    ids::{RequestId, Time},
    model::ModelId,
};

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
    // Nearly always there is nothing to forgive.
    if beyond > 0.0 { served + beyond * (-idle / HALF_LIFE_SECONDS).exp2() } else { served }
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

/// What a walk through the lanes needs to know of a waiting request.
#[derive(Copy, Clone, Debug)]
pub(super) struct Ranked {
    position: LanePosition,
    pub(super) id: RequestId,
    pub(super) cost: f64,
}

impl Ranked {
    fn of(entry: &Entry) -> Self {
        Self { position: entry.position, id: entry.id, cost: entry.cost }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct LaneQueue {
    entries: BTreeMap<LanePosition, Entry>,
    /// The same by model, in the order of their ids; a model without requests has no part.
    parts: Vec<(ModelId, VecDeque<Ranked>)>,
    /// The memory of a part that has gone, for the next one: most requests find their lane empty, and leave it so.
    spare: VecDeque<Ranked>,
}

/// More memory than for so many requests is not kept for later ones.
const MOST_SPARED: usize = 16;

impl LaneQueue {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn contains(&self, position: LanePosition) -> bool {
        self.entries.contains_key(&position)
    }

    pub(super) fn oldest(&self) -> Option<&Entry> {
        self.entries.values().next()
    }

    /// The models that something waits for.
    pub(super) fn models(&self) -> impl Iterator<Item = ModelId> {
        self.parts.iter().map(|(model, _)| *model)
    }

    pub(super) fn waits_for(&self, model: ModelId) -> bool {
        self.find(model).is_ok()
    }

    /// The requests for a model, in order.
    pub(super) fn of_model(&self, model: ModelId) -> impl Iterator<Item = RequestId> {
        let part = self.find(model).ok().map(|place| &self.parts[place].1);
        part.into_iter().flatten().map(|ranked| ranked.id)
    }

    /// All requests, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Ranked> {
        self.entries.values().map(Ranked::of)
    }

    /// The request for a model that has this many ahead of it, and whether more are behind it.
    pub(super) fn nth_of_model(&self, model: ModelId, ahead: usize) -> Option<(Ranked, bool)> {
        let (_, part) = &self.parts[self.find(model).ok()?];
        Some((*part.get(ahead)?, ahead + 1 < part.len()))
    }

    /// Adds a request; true if nothing else waits for its model.
    pub(super) fn insert(&mut self, entry: Entry) -> bool {
        let ranked = Ranked::of(&entry);
        let place = self.find(entry.model);
        if let Err(place) = place {
            self.parts.insert(place, (entry.model, std::mem::take(&mut self.spare)));
        }
        let (Ok(index) | Err(index)) = place;
        let part = &mut self.parts[index].1;
        let behind = part.partition_point(|other| other.position < ranked.position);
        part.insert(behind, ranked);
        self.entries.insert(entry.position, entry);
        place.is_err()
    }

    /// Removes a request; the second value is true if nothing else waits for its model.
    pub(super) fn remove(&mut self, position: LanePosition) -> Option<(Entry, bool)> {
        let entry = self.entries.remove(&position)?;
        let Ok(index) = self.find(entry.model) else { return Some((entry, false)) };
        let part = &mut self.parts[index].1;
        if let Ok(place) = part.binary_search_by_key(&position, |ranked| ranked.position) {
            part.remove(place);
        }
        let is_last = part.is_empty();
        if is_last {
            self.spare = self.parts.remove(index).1;
            self.spare.shrink_to(MOST_SPARED);
        }
        Some((entry, is_last))
    }

    fn find(&self, model: ModelId) -> Result<usize, usize> {
        self.parts.binary_search_by_key(&model, |(model, _)| *model)
    }

    /// Asserts what must hold after every step; in debug builds only.
    pub(super) fn check(&self) {
        debug_assert_eq!(self.parts.iter().map(|(_, part)| part.len()).sum::<usize>(), self.entries.len());
        debug_assert!(self.parts.iter().all(|(_, part)| !part.is_empty()));
        debug_assert!(self.parts.is_sorted_by(|a, b| a.0 < b.0));
    }
}

//! What waits in one lane, in order: all of it, and for each model?

use std::collections::{BTreeMap, VecDeque};

use crate::{
    ids::{RequestId, Time},
    model::ModelId,
};

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
}

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
            self.parts.insert(place, (entry.model, VecDeque::new()));
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
            self.parts.remove(index);
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

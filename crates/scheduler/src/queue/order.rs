//! In which order are waiting requests considered?

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    iter::Peekable,
    ops::Bound,
};

use super::{
    FairQueue,
    lane::{Counter, Lane, LaneId, LanePosition, Turn},
};
use crate::{
    ids::{RequestId, Time},
    model::ModelId,
};

/// A request, in the order in which requests are considered.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) struct Next {
    pub(crate) id: RequestId,
    /// Its lane, if it may go first because it has waited long.
    pub(crate) by_right: Option<LaneId>,
    /// Requests of the same user ahead of it.
    pub(crate) ahead: usize,
}

/// A lane of which some requests were taken already: where to continue, and how many were taken.
type Begun = Reverse<(Counter, u64, LaneId, LanePosition, usize)>;

impl FairQueue {
    /// The first `count` requests by turn. Each pick is charged to its lane as if it were dispatched.
    pub(crate) fn first(&self, count: usize, into: &mut Vec<RequestId>) {
        let after = |lane: &Lane, position: Option<LanePosition>| {
            let from = position.map_or(Bound::Unbounded, Bound::Excluded);
            let mut rest = lane.waiting.range((from, Bound::Unbounded));
            let next = rest.next().map(|(position, _)| *position);
            (next, rest.next().is_some())
        };
        self.merge(&self.turns, after, &mut |id, _| {
            into.push(id);
            into.len() < count
        });
    }

    /// The same for one model. Requests that may go first come before the others: at most `most_first`, longest overdue
    /// first.
    pub(crate) fn line(&self, model: ModelId, now: Time, most_first: usize, count: usize, into: &mut Vec<Next>) {
        into.clear();
        let Some(turns) = self.of_model.get(model.0) else { return };
        let due = self.dues[model.0].iter().take_while(|(due, _)| *due <= now).take(most_first.min(count));
        into.extend(due.filter_map(|(_, lane)| {
            Some(Next { id: self.lanes[lane.0].oldest()?.id, by_right: Some(*lane), ahead: 0 })
        }));
        let first = into.len();
        if first >= count {
            return;
        }
        let after = |lane: &Lane, position: Option<LanePosition>| {
            let from = position.map_or(Bound::Unbounded, Bound::Excluded);
            let Some(positions) = lane.by_model.get(&model) else { return (None, false) };
            let mut rest = positions.range((from, Bound::Unbounded));
            (rest.next().copied(), rest.next().is_some())
        };
        self.merge(turns, after, &mut |id, ahead| {
            if into[..first].iter().all(|next| next.id != id) {
                into.push(Next { id, by_right: None, ahead });
            }
            into.len() < count
        });
    }

    /// Walks through lanes by turn, and through each lane with `after`, which returns what follows a position and
    /// whether there is more. Stops when `take` has enough.
    fn merge(
        &self,
        turns: &BTreeSet<Turn>,
        after: impl Fn(&Lane, Option<LanePosition>) -> (Option<LanePosition>, bool),
        take: &mut dyn FnMut(RequestId, usize) -> bool,
    ) {
        let mut fresh = turns.iter().peekable();
        let mut begun: BinaryHeap<Begun> = BinaryHeap::new();
        while let Some((counter, joined, id, position, ahead)) = next_lane(&mut fresh, &mut begun) {
            let lane = &self.lanes[id.0];
            let (Some(position), has_more) = after(lane, position) else { continue };
            let Some(entry) = lane.waiting.get(&position) else { continue };
            if has_more {
                let counter = Counter(counter.0 + entry.cost / lane.weight);
                begun.push(Reverse((counter, joined, id, position, ahead + 1)));
            }
            if !take(entry.id, ahead) {
                return;
            }
        }
    }

    /// The requests for a model: lane by lane, by turn.
    pub(crate) fn for_model(&self, model: ModelId) -> impl Iterator<Item = RequestId> {
        let lanes = self.of_model.get(model.0).into_iter().flatten();
        lanes.flat_map(move |(_, _, id)| {
            let lane = &self.lanes[id.0];
            let positions = lane.by_model.get(&model).into_iter().flatten();
            positions.filter_map(|position| Some(lane.waiting.get(position)?.id))
        })
    }

    /// A key that ranks models by how entitled the first request in line is; the smallest goes first.
    pub(crate) fn claim(&self, model: ModelId, now: Time) -> (Reverse<Time>, f64, u64) {
        let due = self.dues.get(model.0).and_then(BTreeSet::first);
        let overdue = due.map_or(Time::ZERO, |(due, _)| now.saturating_sub(*due));
        let first = self.of_model.get(model.0).and_then(BTreeSet::first);
        first
            .map_or((Reverse(overdue), f64::INFINITY, 0), |(counter, joined, _)| (Reverse(overdue), counter.0, *joined))
    }
}

fn next_lane<'a>(
    fresh: &mut Peekable<impl Iterator<Item = &'a Turn>>,
    begun: &mut BinaryHeap<Begun>,
) -> Option<(Counter, u64, LaneId, Option<LanePosition>, usize)> {
    let is_fresh_first = match (fresh.peek(), begun.peek()) {
        (Some((counter, joined, _)), Some(Reverse((other, other_joined, ..)))) => {
            (counter, joined) < (other, other_joined)
        }
        (next, _) => next.is_some(),
    };
    if is_fresh_first {
        fresh.next().map(|(counter, joined, id)| (*counter, *joined, *id, None, 0))
    } else {
        begun.pop().map(|Reverse((counter, joined, id, position, ahead))| (counter, joined, id, Some(position), ahead))
    }
}

//! In which order are waiting requests considered?

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, btree_set},
    iter::Peekable,
    ops::Bound,
};

use super::{
    FairQueue,
    group::Group,
    lane::{Counter, GroupId, LaneId, Ranked, Seat, Turn},
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

/// A place in an order, and how many requests of its lane were taken already.
type Begun = (Counter, u64, Seat, usize);

/// How far a walk through an order has come. Whoever is picked is charged as if it were dispatched.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// The last place of the order that was taken.
    last: Option<Turn>,
    begun: BinaryHeap<Reverse<Begun>>,
}

/// A walk through an order, from where it was left.
struct Walk<'a> {
    fresh: Peekable<btree_set::Range<'a, Turn>>,
    progress: Progress,
}

/// How far a walk through seats has come, and within groups.
#[derive(Clone, Debug, Default)]
struct Course {
    seats: Progress,
    within: BTreeMap<GroupId, Progress>,
}

/// The first requests in line for a model. It can be made longer as long as nothing joins or leaves the queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    pub(crate) requests: Vec<Next>,
    /// How many of them go first by right.
    by_right: usize,
    course: Course,
}

impl FairQueue {
    /// The first `count` requests by turn. Each pick is charged to its lane as if it were dispatched.
    pub(crate) fn first(&self, count: usize, into: &mut Vec<RequestId>) {
        let mut begun = BTreeMap::new();
        let mut nth = |id: LaneId, ahead: usize| {
            let queue = &self.lanes[id.0].waiting;
            let ranked = begun.entry(id).or_insert_with(|| queue.iter()).next()?;
            Some((ranked, ahead + 1 < queue.len()))
        };
        self.merge(&mut Course::default(), &self.turns, |group| Some(&group.turns), &mut nth, &mut |id, _| {
            into.push(id);
            into.len() < count
        });
    }

    /// The same for one model. Requests that may go first come before the others: at most `most_first`, longest overdue
    /// first.
    pub(crate) fn line(&self, model: ModelId, now: Time, most_first: usize, count: usize) -> Line {
        let mut line = Line::default();
        self.renew_line(&mut line, model, now, most_first, count);
        line
    }

    /// The same, in the memory of an earlier line.
    pub(crate) fn renew_line(&self, line: &mut Line, model: ModelId, now: Time, most_first: usize, count: usize) {
        line.requests.clear();
        line.course.clear();
        let due = self.dues.get(model.0).into_iter().flatten().take_while(|(due, _)| *due <= now);
        line.requests.extend(due.take(most_first.min(count)).filter_map(|(_, seat)| {
            let lane = match seat {
                Seat::Lane(lane) => *lane,
                Seat::Group(group) => self.groups[group.0].dues.get(&model)?.first()?.1,
            };
            Some(Next { id: self.lanes[lane.0].waiting.oldest()?.id, by_right: Some(lane), ahead: 0 })
        }));
        line.by_right = line.requests.len();
        self.go_along(line, model, count);
    }

    /// Makes a line longer. It must be for the same model and `most_first`, and nothing may have joined or left the queue
    /// since it was begun.
    pub(crate) fn lengthen(&self, line: &mut Line, model: ModelId, now: Time, most_first: usize, count: usize) {
        if line.by_right == line.requests.len() {
            // More of those who go first may follow.
            return self.renew_line(line, model, now, most_first, count);
        }
        self.go_along(line, model, count);
    }

    fn go_along(&self, Line { requests, by_right, course }: &mut Line, model: ModelId, count: usize) {
        let Some(turns) = self.of_model.get(model.0).filter(|_| requests.len() < count) else { return };
        let mut nth = |id: LaneId, ahead: usize| self.lanes[id.0].waiting.nth_of_model(model, ahead);
        self.merge(course, turns, |group| group.of_model.get(&model), &mut nth, &mut |id, ahead| {
            // Those who go first by right have their place in the order as well.
            if requests[..*by_right].iter().all(|next| next.id != id) {
                requests.push(Next { id, by_right: None, ahead });
            }
            requests.len() < count
        });
    }

    /// Walks through seats by turn, within a group by its own order, which `of_group` finds, and through each lane with
    /// `nth`, which is asked for a lane's requests one after the other, by how many were taken before, and also says
    /// whether there are more. Stops when `take` has enough, and goes on from there if it is called again.
    fn merge(
        &self,
        course: &mut Course,
        turns: &BTreeSet<Turn>,
        of_group: impl Fn(&Group) -> Option<&BTreeSet<Turn>>,
        nth: &mut impl FnMut(LaneId, usize) -> Option<(Ranked, bool)>,
        take: &mut dyn FnMut(RequestId, usize) -> bool,
    ) {
        let mut walk = Walk::through(turns, std::mem::take(&mut course.seats));
        let mut within: BTreeMap<GroupId, Walk<'_>> = BTreeMap::new();
        while let Some(place) = walk.next() {
            let picked = match place {
                (_, _, Seat::Lane(_), ..) => self.pick(place, &mut walk, nth),
                (counter, joined, Seat::Group(id), ..) => {
                    let group = &self.groups[id.0];
                    let Some(turns) = of_group(group) else { continue };
                    let inner = within
                        .entry(id)
                        .or_insert_with(|| Walk::through(turns, course.within.remove(&id).unwrap_or_default()));
                    let Some(place) = inner.next() else { continue };
                    let picked = self.pick(place, inner, nth);
                    let cost = picked.map_or(0.0, |(ranked, _)| ranked.cost);
                    // Charged as if it were dispatched, so that the next pick is another group's if that is entitled to
                    // it.
                    let counter = Counter(counter.0 + cost / group.standing.weight);
                    walk.progress.begun.push(Reverse((counter, joined, Seat::Group(id), 0)));
                    picked
                }
            };
            let Some((ranked, ahead)) = picked else { continue };
            if !take(ranked.id, ahead) {
                break;
            }
        }
        course.seats = walk.progress;
        if !within.is_empty() {
            course.within.extend(within.into_iter().map(|(id, walk)| (id, walk.progress)));
        }
    }

    /// The next request of the lane at this place, and how many of the same user are ahead of it. The lane goes on later in
    /// the walk.
    fn pick(
        &self,
        (counter, joined, seat, ahead): Begun,
        walk: &mut Walk<'_>,
        nth: &mut impl FnMut(LaneId, usize) -> Option<(Ranked, bool)>,
    ) -> Option<(Ranked, usize)> {
        let Seat::Lane(id) = seat else { return None };
        let (ranked, has_more) = nth(id, ahead)?;
        if has_more {
            let counter = Counter(counter.0 + ranked.cost / self.lanes[id.0].standing.weight);
            walk.progress.begun.push(Reverse((counter, joined, seat, ahead + 1)));
        }
        Some((ranked, ahead))
    }

    /// The requests for a model: lane by lane, by turn.
    pub(crate) fn for_model(&self, model: ModelId) -> impl Iterator<Item = RequestId> {
        let seats = self.of_model.get(model.0).into_iter().flatten().map(|(_, _, seat)| *seat);
        let lanes = seats.flat_map(move |seat| {
            let (lane, group) = match seat {
                Seat::Lane(lane) => (Some(lane), None),
                Seat::Group(group) => (None, self.groups[group.0].of_model.get(&model)),
            };
            let lane_of = |(_, _, seat): &Turn| if let Seat::Lane(lane) = seat { Some(*lane) } else { None };
            lane.into_iter().chain(group.into_iter().flatten().filter_map(lane_of))
        });
        lanes.flat_map(move |id| self.lanes[id.0].waiting.of_model(model))
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

impl Course {
    /// Back to the beginning, in the same memory.
    fn clear(&mut self) {
        self.seats.last = None;
        self.seats.begun.clear();
        self.within.clear();
    }
}

impl<'a> Walk<'a> {
    fn through(turns: &'a BTreeSet<Turn>, progress: Progress) -> Self {
        let fresh = match progress.last {
            Some(last) => turns.range((Bound::Excluded(last), Bound::Unbounded)),
            None => turns.range(..),
        };
        Self { fresh: fresh.peekable(), progress }
    }

    fn next(&mut self) -> Option<Begun> {
        let is_fresh_first = match (self.fresh.peek(), self.progress.begun.peek()) {
            (Some((counter, joined, _)), Some(Reverse((other, other_joined, ..)))) => {
                (counter, joined) < (other, other_joined)
            }
            (next, _) => next.is_some(),
        };
        if is_fresh_first {
            let turn = *self.fresh.next()?;
            self.progress.last = Some(turn);
            Some((turn.0, turn.1, turn.2, 0))
        } else {
            self.progress.begun.pop().map(|Reverse(place)| place)
        }
    }
}

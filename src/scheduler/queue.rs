//! Who is next? A bounded queue with a lane per user, served by turns.
//!
//! The user served least recently goes first; within a user, requests that
//! failed an attempt go first, then the oldest. Requests for which the same
//! nodes come into question form a [`Class`]; every class knows its lanes in
//! the order of their turns, so that finding the next request of a class does
//! not depend on how many wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Settings,
    event::{NodeId, RefusalReason, RequestId, Time},
    name::Name,
};

/// The users whose last turn is remembered while they have nothing queued.
/// Forgetting the longest unserved makes them go first, as they would anyway.
const REMEMBERED_USERS: usize = 4096;

/// Requests that can be placed on the same nodes, and so wait for each other.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(super) struct Class {
    /// As the client named it.
    pub(super) model: Arc<str>,
    /// Nodes that failed the request, in their order.
    pub(super) failed_on: Vec<FailedOn>,
}

/// A node that failed a request.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(super) struct FailedOn {
    pub(super) node: NodeId,
    /// Not to be tried again, even if no other node is left.
    pub(super) is_barred: bool,
}

/// A place within a lane; the least is the front.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(super) struct Position {
    /// False sorts first: a request that failed an attempt goes to the front.
    pub(super) is_fresh: bool,
    pub(super) arrival: u64,
}

/// A place among the lanes; the least goes next. No two lanes share one.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
struct Turn {
    /// Zero: never, as far as is remembered.
    last_served: u64,
    joined: u64,
}

/// What the queue keeps of a request.
pub(super) struct Entry {
    pub(super) id: RequestId,
    pub(super) user: Arc<str>,
    pub(super) class: Class,
    pub(super) position: Position,
    pub(super) deadline: Time,
}

/// See the module.
pub(super) struct FairQueue {
    settings: Settings,
    lanes: BTreeMap<Arc<str>, Lane>,
    classes: BTreeMap<Class, ClassIndex>,
    deadlines: BTreeSet<(Time, RequestId)>,
    turns: Turns,
    length: usize,
}

struct Lane {
    turn: Turn,
    length: usize,
    waiting: BTreeMap<Class, BTreeMap<Position, RequestId>>,
}

#[derive(Default)]
struct ClassIndex {
    lanes: BTreeMap<Turn, Arc<str>>,
    length: usize,
}

impl FairQueue {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            lanes: BTreeMap::new(),
            classes: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            turns: Turns::default(),
            length: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Why a new request of this user may not wait, if it may not.
    pub(super) fn objection(&self, user: &str) -> Option<RefusalReason> {
        let own = self.lanes.get(user).map_or(0, |lane| lane.length);
        if own >= self.settings.max_queued_per_user {
            Some(RefusalReason::UserQueueFull)
        } else if self.length >= self.settings.max_queued {
            Some(RefusalReason::QueueFull)
        } else {
            None
        }
    }

    /// Adds a request. The bounds are not checked here: one that was accepted
    /// and failed an attempt comes back even to a full queue.
    pub(super) fn push(&mut self, entry: Entry) {
        let lane = self.lanes.entry(entry.user.clone()).or_insert_with(|| Lane {
            turn: Turn { last_served: self.turns.last_served(&entry.user), joined: entry.position.arrival },
            length: 0,
            waiting: BTreeMap::new(),
        });
        lane.length += 1;
        let waiting = lane.waiting.entry(entry.class.clone()).or_default();
        waiting.insert(entry.position, entry.id);
        let index = self.classes.entry(entry.class).or_default();
        index.lanes.insert(lane.turn, entry.user);
        index.length += 1;
        self.deadlines.insert((entry.deadline, entry.id));
        self.length += 1;
    }

    /// Removes a request, wherever it stands.
    pub(super) fn remove(&mut self, entry: &Entry) {
        let Some(lane) = self.lanes.get_mut(&entry.user) else {
            return;
        };
        let Some(waiting) = lane.waiting.get_mut(&entry.class) else {
            return;
        };
        if waiting.remove(&entry.position).is_none() {
            return;
        }
        let is_last_of_class = waiting.is_empty();
        if let Some(index) = self.classes.get_mut(&entry.class) {
            index.length -= 1;
            if is_last_of_class {
                index.lanes.remove(&lane.turn);
            }
            if index.lanes.is_empty() {
                self.classes.remove(&entry.class);
            }
        }
        if is_last_of_class {
            lane.waiting.remove(&entry.class);
        }
        lane.length -= 1;
        if lane.length == 0 {
            self.lanes.remove(&entry.user);
        }
        self.deadlines.remove(&(entry.deadline, entry.id));
        self.length -= 1;
    }

    /// A request of this user was dispatched, queued before or not: it is the
    /// turn of all others now.
    pub(super) fn served(&mut self, user: &Arc<str>) {
        let last_served = self.turns.take(user);
        let Some(lane) = self.lanes.get_mut(user) else {
            return;
        };
        let before = lane.turn;
        lane.turn.last_served = last_served;
        for class in lane.waiting.keys() {
            if let Some(index) = self.classes.get_mut(class) {
                index.lanes.remove(&before);
                index.lanes.insert(lane.turn, user.clone());
            }
        }
    }

    /// Which of these classes has the request whose turn it is, and that
    /// request; `None` if none of them has any.
    pub(super) fn next_of(&self, classes: &[Class]) -> Option<(usize, RequestId)> {
        let fronts = classes.iter().enumerate().filter_map(|(index, class)| {
            let (turn, user) = self.classes.get(class)?.lanes.first_key_value()?;
            let waiting = self.lanes.get(user)?.waiting.get(class)?;
            let (position, id) = waiting.first_key_value()?;
            Some(((*turn, *position), index, *id))
        });
        let (_, index, id) = fronts.min_by_key(|(order, ..)| *order)?;
        Some((index, id))
    }

    /// Whether a request that was never tried waits for this model.
    pub(super) fn has_fresh(&self, model: &str) -> bool {
        let mut classes = self.classes_of(model).into_iter();
        classes.any(|class| class.failed_on.is_empty())
    }

    /// Every class somebody waits in.
    pub(super) fn classes(&self) -> Vec<Class> {
        self.classes.keys().cloned().collect()
    }

    /// The classes that ask for the model listed under this name.
    pub(super) fn classes_of(&self, listed: &str) -> Vec<Class> {
        if self.classes.is_empty() {
            return Vec::new();
        }
        let name = Name::new(listed);
        let mut classes = Vec::new();
        for spelling in [Some(listed), name.other.as_deref()].into_iter().flatten() {
            let first = Class { model: spelling.into(), failed_on: Vec::new() };
            let from_first = self.classes.range(first..).map(|(class, _)| class);
            classes.extend(from_first.take_while(|class| &*class.model == spelling).cloned());
        }
        classes
    }

    /// The requests of a class, a lane after the other.
    pub(super) fn ids_of(&self, class: &Class) -> Vec<RequestId> {
        let lanes = self.classes.get(class).into_iter().flat_map(|index| index.lanes.values());
        lanes
            .filter_map(|user| self.lanes.get(user)?.waiting.get(class))
            .flat_map(|waiting| waiting.values().copied())
            .collect()
    }

    /// How many wait for each model, under the names clients used.
    pub(super) fn lengths(&self) -> BTreeMap<Arc<str>, usize> {
        let mut lengths = BTreeMap::new();
        for (class, index) in &self.classes {
            *lengths.entry(class.model.clone()).or_default() += index.length;
        }
        lengths
    }

    /// When the first request has waited as long as it may.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The requests that have waited as long as they may, the most overdue first.
    pub(super) fn overdue(&self, now: Time) -> Vec<RequestId> {
        let overdue = self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now);
        overdue.map(|(_, id)| *id).collect()
    }
}

/// When each user was last served, counted in dispatches.
#[derive(Default)]
struct Turns {
    taken: u64,
    of_user: BTreeMap<Arc<str>, u64>,
    in_order: BTreeMap<u64, Arc<str>>,
}

impl Turns {
    fn last_served(&self, user: &str) -> u64 {
        self.of_user.get(user).copied().unwrap_or(0)
    }

    fn take(&mut self, user: &Arc<str>) -> u64 {
        self.taken += 1;
        if let Some(before) = self.of_user.insert(user.clone(), self.taken) {
            self.in_order.remove(&before);
        }
        self.in_order.insert(self.taken, user.clone());
        if self.in_order.len() > REMEMBERED_USERS
            && let Some((_, longest_unserved)) = self.in_order.pop_first()
        {
            self.of_user.remove(&longest_unserved);
        }
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn queue(max_queued: usize, max_queued_per_user: usize) -> FairQueue {
        FairQueue::new(Settings { max_queued, max_queued_per_user })
    }

    fn class(model: &str) -> Class {
        Class { model: model.into(), failed_on: Vec::new() }
    }

    fn entry(id: u64, user: &str, model: &str) -> Entry {
        Entry {
            id: RequestId(id),
            user: user.into(),
            class: class(model),
            position: Position { is_fresh: true, arrival: id },
            deadline: Duration::from_secs(id),
        }
    }

    /// Takes what is next of these models until nothing is left.
    fn drain(queue: &mut FairQueue, entries: &[Entry], models: &[&str]) -> Vec<u64> {
        let classes: Vec<Class> = models.iter().map(|model| class(model)).collect();
        let mut order = Vec::new();
        while let Some((_, id)) = queue.next_of(&classes) {
            let entry = entries.iter().find(|entry| entry.id == id).unwrap();
            queue.remove(entry);
            queue.served(&entry.user);
            order.push(id.0);
        }
        order
    }

    fn fill(queue: &mut FairQueue, entries: &[(u64, &str, &str)]) -> Vec<Entry> {
        let make = |(id, user, model): &(u64, &str, &str)| entry(*id, user, model);
        entries.iter().for_each(|each| queue.push(make(each)));
        entries.iter().map(make).collect()
    }

    #[test]
    fn users_take_turns_and_each_is_served_in_order() {
        let mut queue = queue(10, 10);
        let entries = fill(&mut queue, &[(1, "a", "m"), (2, "a", "m"), (3, "a", "m"), (4, "b", "m"), (5, "b", "m")]);
        assert_eq!(drain(&mut queue, &entries, &["m"]), [1, 4, 2, 5, 3]);
        assert_eq!(queue.len(), 0);
        assert!(queue.lanes.is_empty() && queue.classes.is_empty() && queue.deadlines.is_empty());
    }

    #[test]
    fn a_user_served_a_moment_ago_does_not_go_first_again() {
        let mut queue = queue(10, 10);
        queue.served(&"a".into());
        let entries = fill(&mut queue, &[(1, "a", "m"), (2, "b", "m")]);
        assert_eq!(drain(&mut queue, &entries, &["m"]), [2, 1]);
    }

    #[test]
    fn a_request_that_cannot_go_does_not_hold_up_those_behind_it() {
        let mut queue = queue(10, 10);
        let entries = fill(&mut queue, &[(1, "a", "m"), (2, "a", "n"), (3, "b", "m")]);
        assert_eq!(drain(&mut queue, &entries, &["n"]), [2]);
        assert_eq!(drain(&mut queue, &entries, &["m", "n"]), [3, 1]);
    }

    #[test]
    fn within_a_user_the_oldest_goes_first_across_models() {
        let mut queue = queue(10, 10);
        let entries = fill(&mut queue, &[(1, "a", "z"), (2, "a", "b"), (3, "a", "z")]);
        assert_eq!(drain(&mut queue, &entries, &["b", "z"]), [1, 2, 3]);
    }

    #[test]
    fn a_request_that_failed_an_attempt_goes_to_the_front() {
        let mut queue = queue(10, 10);
        let mut entries = fill(&mut queue, &[(1, "a", "m"), (2, "a", "m")]);
        let failed = || Entry { position: Position { is_fresh: false, arrival: 3 }, ..entry(3, "a", "m") };
        queue.push(failed());
        entries.push(failed());
        assert_eq!(drain(&mut queue, &entries, &["m"]), [3, 1, 2]);
    }

    #[test]
    fn a_full_share_and_a_full_queue_are_told_apart() {
        let mut queue = queue(3, 2);
        fill(&mut queue, &[(1, "a", "m"), (2, "a", "n")]);
        assert_eq!(queue.objection("a"), Some(RefusalReason::UserQueueFull));
        assert_eq!(queue.objection("b"), None);
        fill(&mut queue, &[(3, "b", "m")]);
        assert_eq!(queue.objection("b"), Some(RefusalReason::QueueFull));
    }

    #[test]
    fn a_removed_request_frees_its_place_and_its_deadline() {
        let mut queue = queue(2, 1);
        let entries = fill(&mut queue, &[(1, "a", "m"), (2, "b", "m")]);
        assert_eq!(queue.next_deadline(), Some(Duration::from_secs(1)));
        queue.remove(&entries[0]);
        queue.remove(&entries[0]);
        assert_eq!((queue.len(), queue.objection("a")), (1, None));
        assert_eq!(queue.next_deadline(), Some(Duration::from_secs(2)));
        assert_eq!(queue.overdue(Duration::from_millis(1999)), []);
        assert_eq!(queue.overdue(Duration::from_secs(2)), [RequestId(2)]);
    }

    #[test]
    fn classes_of_a_listed_name_cover_both_spellings_and_retries() {
        let mut queue = queue(10, 10);
        fill(&mut queue, &[(1, "a", "m"), (2, "a", "m:latest"), (3, "a", "m2")]);
        let retried = Class { failed_on: vec![FailedOn { node: NodeId(0), is_barred: true }], ..class("m") };
        queue.push(Entry { class: retried.clone(), ..entry(4, "b", "m") });
        assert_eq!(queue.classes_of("m:latest"), [class("m:latest"), class("m"), retried.clone()]);
        assert_eq!(queue.lengths()[&Arc::from("m")], 2);
        assert_eq!(queue.ids_of(&retried), [RequestId(4)]);
    }

    #[test]
    fn only_so_many_users_are_remembered() {
        let mut turns = Turns::default();
        for user in 0..=REMEMBERED_USERS {
            turns.take(&user.to_string().into());
        }
        assert_eq!(turns.of_user.len(), REMEMBERED_USERS);
        assert_eq!((turns.last_served("0"), turns.last_served("1")), (0, 2));
    }
}

//! In which order does the fair queue serve?

use std::time::Duration;

use super::{groups::REMEMBERED_LANES, *};

const MODEL: ModelId = ModelId(0);

fn at(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

struct Queue(FairQueue);

impl Queue {
    fn new() -> Self {
        Self(FairQueue::new(QueueLimits { max_queued: 10, max_queued_per_user: 3 }))
    }

    fn push(&mut self, id: u64, user: &str, cost: f64, now: Time) -> LaneId {
        self.push_in(id, user, None, cost, now)
    }

    fn push_in(&mut self, id: u64, user: &str, group: Option<&Membership>, cost: f64, now: Time) -> LaneId {
        let lane = self.0.lane(&user.into(), 1.0, group, now);
        let position = LanePosition { is_fresh: true, arrival: id };
        let entry = Entry { id: RequestId(id.into()), model: MODEL, position, arrived: now, deadline: at(1000), cost };
        self.0.push(lane, entry, now);
        lane
    }

    fn order(&self, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        self.0.first(count, &mut ids);
        ids.into_iter().map(|id| id.0 as u64).collect()
    }

    fn dispatch(&mut self, lane: LaneId, id: u64, cost: f64, now: Time) -> Charge {
        let waited = LanePosition { is_fresh: true, arrival: id };
        self.0.dispatched(lane, Some(waited), (MODEL, cost), now)
    }
}

#[test]
fn whoever_was_served_least_goes_first_and_what_is_to_come_is_charged_in_thought() {
    let mut queue = Queue::new();
    let a = queue.push(1, "a", 2.0, at(0));
    queue.push(2, "a", 2.0, at(0));
    for id in 3..6 {
        queue.push(id, "b", 1.0, at(0));
    }
    assert_eq!(queue.order(10), [1, 3, 4, 2, 5]);
    assert_eq!(queue.order(2), [1, 3]);
    let charged = queue.dispatch(a, 1, 2.0, at(0));
    assert_eq!(queue.order(10), [3, 4, 2, 5]);
    // It cost less than expected.
    queue.0.settled(a, MODEL, (charged, 0.5), at(0));
    assert_eq!(queue.order(10), [3, 2, 4, 5]);
}

#[test]
fn a_weight_of_two_is_twice_the_work() {
    let mut queue = Queue::new();
    queue.0.lane(&"a".into(), 2.0, None, at(0));
    for id in [1, 2, 3] {
        let lane = queue.0.lane(&"a".into(), 2.0, None, at(0));
        let position = LanePosition { is_fresh: true, arrival: id };
        let id = RequestId(id.into());
        let entry = Entry { id, model: MODEL, position, arrived: at(0), deadline: at(1000), cost: 1.0 };
        queue.0.push(lane, entry, at(0));
    }
    queue.push(4, "b", 1.0, at(0));
    queue.push(5, "b", 1.0, at(0));
    assert_eq!(queue.order(10), [1, 4, 2, 3, 5]);
}

#[test]
fn whoever_comes_back_has_saved_nothing_up_and_forgets_half_of_what_it_used_in_30_s() {
    let mut queue = Queue::new();
    let a = queue.push(1, "a", 1.0, at(0));
    let b = queue.push(2, "b", 1.0, at(0));
    queue.dispatch(a, 1, 8.0, at(0));
    let charged = queue.dispatch(b, 2, 1.0, at(0));
    queue.0.settled(b, MODEL, (charged, 1.0), at(0));
    let b = queue.push(3, "b", 1.0, at(0));
    queue.dispatch(b, 3, 1.0, at(0));
    // b's counter of 1 is where everybody begins now; a's was 8, and after 30 s it is 1 + 7 / 2.
    let c = queue.push(4, "c", 1.0, at(30));
    let a = queue.push(5, "a", 1.0, at(30));
    assert!((queue.0.lanes[c.0].standing.counter - 1.0).abs() < 1e-9);
    assert!((queue.0.lanes[a.0].standing.counter - 4.5).abs() < 1e-9);
}

#[test]
fn whoever_comes_new_does_not_wait_for_what_others_were_only_expected_to_cost() {
    let mut queue = Queue::new();
    let flood = queue.push(1, "flood", 100.0, at(0));
    queue.push(2, "flood", 100.0, at(0));
    queue.push(3, "flood", 100.0, at(0));
    for charged in [1, 2].map(|id| queue.dispatch(flood, id, 100.0, at(0))) {
        queue.0.settled(flood, MODEL, (charged, 1.0), at(0));
    }
    queue.push(4, "new", 1.0, at(1));
    assert_eq!(queue.order(10), [4, 3]);
}

#[test]
fn bounds_are_for_new_requests_and_tell_a_full_share_from_a_full_queue() {
    let mut queue = Queue::new();
    let a = queue.push(0, "a", 1.0, at(0));
    for id in 1..3 {
        queue.push(id, "a", 1.0, at(0));
    }
    assert_eq!(queue.0.objection(a), Some(RefusalReason::UserQueueFull));
    for id in 3..10 {
        queue.push(id, &format!("u{}", id % 4), 1.0, at(0));
    }
    let new = queue.0.lane(&"new".into(), 1.0, None, at(0));
    assert_eq!(queue.0.objection(new), Some(RefusalReason::QueueFull));
    assert_eq!(queue.0.len(), 10);
}

#[test]
fn who_waited_a_minute_may_go_first_once_a_minute() {
    let mut queue = Queue::new();
    let flood = queue.push(1, "flood", 1.0, at(0));
    queue.push(2, "flood", 1.0, at(0));
    queue.push(3, "other", 1.0, at(30));
    let due = |queue: &Queue, now| {
        let line = queue.0.line(MODEL, now, 4, 10).requests;
        line.iter().filter(|next| next.by_right.is_some()).map(|next| next.id.0).collect::<Vec<_>>()
    };
    assert!(due(&queue, at(59)).is_empty());
    assert_eq!(due(&queue, at(60)), [1]);
    queue.0.went_first(flood, at(60));
    queue.dispatch(flood, 1, 1.0, at(60));
    assert_eq!(due(&queue, at(119)), [3]);
    assert_eq!(due(&queue, at(120)), [3, 2]);
}

#[test]
fn users_in_no_use_are_forgotten_and_those_with_something_are_not() {
    let mut queue = Queue::new();
    queue.push(1, "kept", 1.0, at(0));
    for user in 0..REMEMBERED_LANES + 10 {
        queue.0.lane(&format!("user-{user}").as_str().into(), 1.0, None, at(1));
    }
    assert!(queue.0.by_user.len() <= REMEMBERED_LANES);
    assert_eq!(queue.order(10), [1]);
    assert_eq!(queue.0.waiting_of("kept"), 1);
}

/// Groups `a` with users `a1` and `a2`, and `b` with `b1`.
fn in_groups(weight_of_b: f64) -> Queue {
    let mut queue = Queue::new();
    for (id, user) in [(1, "a1"), (2, "a1"), (3, "a2"), (4, "a2"), (5, "b1"), (6, "b1"), (7, "b1")] {
        let weight = if user == "b1" { weight_of_b } else { 1.0 };
        let membership = Membership { group: user[..1].into(), weight };
        queue.push_in(id, user, Some(&membership), 1.0, at(0));
    }
    queue
}

#[test]
fn groups_take_turns_first_and_then_their_users() {
    let mut queue = in_groups(1.0);
    // Three users compete, but two groups.
    assert_eq!(queue.order(10), [1, 5, 3, 6, 2, 7, 4]);
    // A user without a group is a group of one.
    queue.push(8, "c", 1.0, at(0));
    assert_eq!(queue.order(10), [1, 5, 8, 3, 6, 2, 7, 4]);
    assert_eq!(in_groups(2.0).order(10), [1, 5, 6, 3, 7, 2, 4]);
    assert_eq!(queue.0.users_for(MODEL), 4);
    let of_model: Vec<_> = queue.0.for_model(MODEL).map(|id| id.0).collect();
    assert_eq!(of_model, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn what_a_request_cost_is_charged_to_its_user_and_its_group() {
    let mut queue = in_groups(1.0);
    let a1 = queue.0.by_user["a1"];
    let charged = queue.dispatch(a1, 1, 4.0, at(0));
    assert_eq!(queue.order(10), [5, 6, 7, 3, 4, 2]);
    // It cost less than expected.
    queue.0.settled(a1, MODEL, (charged, 0.5), at(0));
    assert_eq!(queue.order(10), [5, 3, 6, 2, 7, 4]);
}

#[test]
fn a_line_that_is_made_longer_in_steps_is_the_one_made_at_once() {
    let mut queue = in_groups(2.0);
    for (id, user, cost) in [(8, "c", 3.0), (9, "c", 0.5), (10, "d", 1.5), (11, "c", 1.0)] {
        queue.push(id, user, cost, at(id));
    }
    // Nobody, some and all may go first by right.
    for now in [0, 69, 1000].map(at) {
        let whole = queue.0.line(MODEL, now, 4, 11).requests;
        assert_eq!(whole.len(), 11);
        for step in 1..4 {
            let mut line = queue.0.line(MODEL, now, 4, step);
            for count in (step..=11).step_by(step) {
                queue.0.lengthen(&mut line, MODEL, now, 4, count);
                assert_eq!(line.requests, whole[..count], "at {now:?} in steps of {step}");
            }
        }
    }
}

#[test]
fn a_group_goes_first_by_right_once_a_minute_whichever_of_its_users_does() {
    let mut queue = in_groups(1.0);
    let due = |queue: &Queue, now| {
        let line = queue.0.line(MODEL, now, 4, 10).requests;
        line.iter().filter(|next| next.by_right.is_some()).map(|next| next.id.0).collect::<Vec<_>>()
    };
    assert!(due(&queue, at(59)).is_empty());
    assert_eq!(due(&queue, at(60)), [1, 5]);
    let a1 = queue.0.by_user["a1"];
    queue.0.went_first(a1, at(60));
    queue.dispatch(a1, 1, 1.0, at(60));
    assert_eq!(due(&queue, at(119)), [5], "a2 has waited long as well");
    // The group's place is kept from when it may go again.
    assert_eq!(due(&queue, at(120)), [5, 3]);
}

#[test]
fn a_user_who_changes_groups_takes_what_waits_along_and_what_runs_stays_charged_to_the_old_one() {
    let mut queue = in_groups(1.0);
    let a1 = queue.0.by_user["a1"];
    let charged = queue.dispatch(a1, 1, 2.0, at(0));
    assert_eq!(queue.push(8, "a1", 1.0, at(0)), a1);
    // a2 waits for what a1 was charged; a1 competes alone, with what it has used.
    assert_eq!(queue.order(10), [5, 6, 3, 2, 7, 4, 8]);
    queue.0.settled(a1, MODEL, (charged, 0.0), at(0));
    assert_eq!(queue.order(10), [3, 2, 5, 4, 8, 6, 7], "both have it back");
    queue.0.check();
}

#[test]
fn a_group_is_forgotten_with_its_last_user_once_nothing_is_charged_to_it() {
    let mut queue = in_groups(1.0);
    let b1 = queue.0.by_user["b1"];
    let charges = [5, 6, 7].map(|id| queue.dispatch(b1, id, 1.0, at(0)));
    queue.0.lane(&"b1".into(), 1.0, None, at(1));
    for charged in charges {
        queue.0.check();
        assert!(queue.0.by_group.contains_key("b"));
        queue.0.settled(b1, MODEL, (charged, 1.0), at(1));
    }
    queue.0.check();
    assert!(!queue.0.by_group.contains_key("b") && queue.0.free_groups.len() == 1);
    assert_eq!(queue.order(10), [1, 3, 2, 4], "the other one is still there");
}

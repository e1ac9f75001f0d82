//! Who waits, who goes next, and who is refused?

use super::*;

#[test]
fn a_request_is_bound_to_a_node_only_when_a_slot_is_free() {
    let mut scheduler = nodes(&[1]);
    assert_eq!(scheduler.handle(arrived(1, "a", "m"), at(0)), [dispatch(1, 0, 1)]);
    assert_eq!(scheduler.handle(arrived(2, "a", "m"), at(0)), []);
    assert_eq!((scheduler.queued(), scheduler.in_flight()), (1, 1));
    assert_eq!(scheduler.handle(completed(1), at(1)), [dispatch(2, 0, 1)]);
    assert_eq!(scheduler.handle(completed(2), at(2)), []);
    assert_eq!((scheduler.queued(), scheduler.in_flight()), (0, 0));
}

#[test]
fn a_model_without_a_free_slot_does_not_hold_up_another() {
    let mut scheduler = nodes(&[1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    scheduler.handle(arrived(2, "a", "m"), at(0));
    assert_eq!(scheduler.handle(arrived(3, "a", "n"), at(0)), [dispatch(3, 0, 1)]);
}

#[test]
fn waiting_users_take_turns() {
    let mut scheduler = nodes(&[1]);
    for id in 1..=4 {
        scheduler.handle(arrived(id, "flood", "m"), at(0));
    }
    scheduler.handle(arrived(5, "quiet", "m"), at(0));
    assert_eq!(scheduler.handle(completed(1), at(1)), [dispatch(5, 0, 1)]);
}

#[test]
fn both_spellings_of_a_name_wait_for_the_same_slots() {
    let mut scheduler = nodes(&[1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    assert_eq!(scheduler.handle(arrived(2, "a", "m:latest"), at(0)), []);
    assert_eq!(scheduler.handle(arrived(3, "a", "m"), at(0)), []);
    assert_eq!(scheduler.queued_by_model(), [("m:latest".into(), 2)].into());
    assert_eq!(scheduler.nodes()[0].waiting, 2);
    assert_eq!(scheduler.handle(completed(1), at(1)), [dispatch(2, 0, 1)]);
}

#[test]
fn a_full_share_is_refused_apart_from_a_full_queue() {
    let mut scheduler = fleet(QueueLimits { max_queued: 3, max_queued_per_user: 2 }, &[1]);
    for id in 1..=3 {
        assert!(reasons(&scheduler.handle(arrived(id, "a", "m"), at(0))).is_empty());
    }
    let refused = scheduler.handle(arrived(4, "a", "m"), at(0));
    assert_eq!(reasons(&refused), [(4, RefusalReason::UserQueueFull)]);
    scheduler.handle(arrived(5, "b", "m"), at(0));
    let refused = scheduler.handle(arrived(6, "b", "m"), at(0));
    assert_eq!(reasons(&refused), [(6, RefusalReason::QueueFull)]);
    assert_eq!(retry_after(&refused), at(5));
    // A free slot needs no place in the queue.
    assert_eq!(scheduler.handle(arrived(7, "a", "n"), at(0)), [dispatch(7, 0, 1)]);
}

#[test]
fn a_deadline_that_passed_is_refused() {
    let mut scheduler = nodes(&[1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    let waiting = |id, deadline| Event::Arrived(Arrival { deadline, ..arrival(id, "a", "m") });
    scheduler.handle(waiting(2, at(10)), at(0));
    scheduler.handle(waiting(3, at(5)), at(0));
    assert_eq!(scheduler.handle(Event::Tick, at(4)), []);
    // The next beat, which is also the deadline of request 3.
    assert_eq!(scheduler.next_deadline(), Some(at(5)));
    let refused = scheduler.handle(Event::Tick, at(5));
    assert_eq!(reasons(&refused), [(3, RefusalReason::DeadlinePassed)]);
    scheduler.handle(Event::Tick, Duration::from_millis(9500));
    assert_eq!(scheduler.next_deadline(), Some(at(10)));
    let refused = scheduler.handle(waiting(4, at(5)), at(10));
    assert_eq!(reasons(&refused), [(4, RefusalReason::DeadlinePassed)]);
    assert_eq!(reasons(&scheduler.handle(Event::Tick, at(10))), [(2, RefusalReason::DeadlinePassed)]);
    scheduler.handle(completed(1), at(10));
    assert_eq!((scheduler.queued(), scheduler.next_deadline()), (0, None));
}

#[test]
fn a_client_that_leaves_the_queue_frees_its_place() {
    let mut scheduler = fleet(QueueLimits { max_queued: 1, max_queued_per_user: 1 }, &[1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    scheduler.handle(arrived(2, "a", "m"), at(0));
    scheduler.handle(left(2, Outcome::Cancelled), at(0));
    assert_eq!(scheduler.handle(arrived(3, "a", "m"), at(0)), []);
    assert_eq!(scheduler.handle(completed(1), at(1)), [dispatch(3, 0, 1)]);
}

#[test]
fn what_is_not_known_is_ignored() {
    let mut scheduler = nodes(&[1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    scheduler.handle(arrived(2, "a", "m"), at(0));
    let (unknown, node) = (RequestId(9), NodeId(9));
    for event in [
        arrived(1, "a", "m"),
        arrived(2, "b", "n"),
        Event::FirstByte { id: unknown },
        Event::FirstByte { id: RequestId(2) },
        failed(9, Failure::Crashed),
        failed(2, Failure::Crashed),
        completed(9),
        Event::Listed { node, models: vec![].into() },
        Event::Resident { node, loaded: vec![] },
        Event::Answered { node },
        Event::Silent { node, error: String::new() },
    ] {
        assert_eq!(scheduler.handle(event, at(0)), []);
    }
    assert_eq!((scheduler.queued(), scheduler.in_flight()), (1, 1));
}

#[test]
fn the_retry_advice_follows_the_measured_rate() {
    let mut scheduler = fleet(QueueLimits { max_queued: 10, max_queued_per_user: 10 }, &[1]);
    for id in 0..11 {
        scheduler.handle(arrived(id, "a", "m"), at(0));
    }
    for id in 0..5 {
        scheduler.handle(completed(id), at(2 * id));
        scheduler.handle(arrived(100 + id, "a", "m"), at(2 * id));
    }
    let refused = scheduler.handle(arrived(200, "b", "m"), at(8));
    assert_eq!(retry_after(&refused), at(22));
}

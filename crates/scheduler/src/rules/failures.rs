//! What follows from failures, deaths and returns?

use super::*;

#[test]
fn nothing_is_sent_to_a_node_that_never_answered() {
    let mut scheduler = Scheduler::new(QueueLimits::default(), vec![spec(1)]);
    scheduler.handle(Event::Listed { node: NodeId(0), models: vec![model("m")].into() }, at(0));
    let refused = scheduler.handle(arrived(1, "a", "m"), at(0));
    assert_eq!(reasons(&refused), [(1, RefusalReason::NoNode)]);
    assert_eq!((scheduler.serving_nodes(), scheduler.nodes()[0].state), (0, NodeState::Down));
    scheduler.handle(Event::Answered { node: NodeId(0) }, at(1));
    scheduler.handle(Event::Resident { node: NodeId(0), loaded: vec![loaded("m")] }, at(1));
    assert_eq!(scheduler.handle(arrived(2, "a", "m"), at(1)), [dispatch(2, 0, 1)]);
}

#[test]
fn a_model_no_live_node_has_is_refused_at_once_with_the_time_a_node_may_be_back() {
    let mut scheduler = nodes(&[1]);
    let refused = scheduler.handle(arrived(1, "a", "other"), at(0));
    assert_eq!((reasons(&refused), retry_after(&refused)), (vec![(1, RefusalReason::NoNode)], at(5)));
    silence(&mut scheduler, 0, at(0));
    scheduler.handle(Event::Answered { node: NodeId(0) }, at(1));
    silence(&mut scheduler, 0, at(1));
    let refused = scheduler.handle(arrived(2, "a", "m"), at(1));
    assert_eq!(retry_after(&refused), at(2));
    let refused = scheduler.handle(arrived(3, "a", "m"), at(100));
    assert_eq!(retry_after(&refused), at(1));
}

#[test]
fn those_who_wait_for_a_node_that_went_down_are_refused_unless_another_has_the_model() {
    let mut scheduler = nodes(&[1, 1]);
    scheduler.handle(Event::Listed { node: NodeId(1), models: vec![model("n")].into() }, at(0));
    for (id, model) in [(1, "m"), (2, "m"), (3, "n"), (4, "n"), (5, "n")] {
        scheduler.handle(arrived(id, "a", model), at(0));
    }
    assert_eq!(reasons(&silence(&mut scheduler, 0, at(1))), [(2, RefusalReason::NoNode)]);
    assert_eq!((scheduler.queued(), scheduler.in_flight()), (1, 3));
}

#[test]
fn a_listing_without_the_model_refuses_those_who_wait_for_it() {
    let mut scheduler = nodes(&[1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    scheduler.handle(arrived(2, "a", "m"), at(0));
    let refused = scheduler.handle(Event::Listed { node: NodeId(0), models: vec![].into() }, at(1));
    assert_eq!(reasons(&refused), [(2, RefusalReason::NoNode)]);
    assert_eq!(scheduler.handle(completed(1), at(2)), []);
    assert_eq!(scheduler.in_flight(), 0);
}

#[test]
fn a_node_that_comes_back_gets_one_request_and_after_its_first_byte_all() {
    let mut scheduler = nodes(&[2, 1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    scheduler.handle(arrived(2, "a", "m"), at(0));
    silence(&mut scheduler, 0, at(0));
    for id in 3..=5 {
        scheduler.handle(arrived(id, "a", "m"), at(0));
    }
    scheduler.handle(left(1, Outcome::Cancelled), at(0));
    scheduler.handle(left(2, Outcome::Cancelled), at(0));
    assert_eq!(come_back(&mut scheduler, 0, at(1)), [dispatch(4, 0, 1)]);
    assert_eq!(scheduler.nodes()[0].state, NodeState::Suspect);
    let closed = scheduler.handle(Event::FirstByte { id: RequestId(4) }, at(1));
    assert_eq!(closed, [dispatch(5, 0, 1)]);
    assert_eq!(scheduler.nodes()[0].state, NodeState::Up);
}

#[test]
fn a_failed_attempt_goes_to_another_node_at_once() {
    let mut scheduler = nodes(&[1, 1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    assert_eq!(scheduler.handle(failed(1, Failure::Reset), at(0)), [dispatch(1, 1, 2)]);
    assert_eq!(scheduler.handle(completed(1), at(1)), []);
    assert_eq!(scheduler.nodes()[0].failed, 1);
    assert_eq!(scheduler.nodes()[1].completed, 1);
}

#[test]
fn a_failed_attempt_goes_before_what_its_user_sent_later() {
    let mut scheduler = nodes(&[1, 1]);
    for id in 1..=3 {
        scheduler.handle(arrived(id, "a", "m"), at(0));
    }
    assert_eq!(scheduler.handle(failed(1, Failure::Crashed), at(0)), [dispatch(3, 0, 1)]);
    scheduler.handle(arrived(4, "a", "m"), at(0));
    assert_eq!(scheduler.handle(completed(2), at(1)), [dispatch(1, 1, 2)]);
}

#[test]
fn a_failed_attempt_goes_even_before_what_its_user_sent_earlier() {
    let mut scheduler = nodes(&[1, 1]);
    scheduler.handle(Event::Listed { node: NodeId(1), models: vec![model("m:latest")].into() }, at(0));
    silence(&mut scheduler, 0, at(0));
    come_back(&mut scheduler, 0, at(1));
    // On trial, the first node takes one request, whatever the model.
    assert_eq!(scheduler.handle(arrived(1, "b", "n"), at(1)), [dispatch(1, 0, 1)]);
    assert_eq!(scheduler.handle(arrived(2, "a", "n"), at(1)), []);
    assert_eq!(scheduler.handle(arrived(3, "a", "m"), at(1)), [dispatch(3, 1, 1)]);
    assert_eq!(scheduler.handle(failed(3, Failure::Reset), at(1)), []);
    assert_eq!(scheduler.handle(left(1, Outcome::Cancelled), at(1)), [dispatch(3, 0, 2)]);
}

#[test]
fn at_most_three_attempts_are_made() {
    let mut scheduler = nodes(&[1, 1, 1, 1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    assert_eq!(scheduler.handle(failed(1, Failure::Unreachable), at(0)), [dispatch(1, 1, 2)]);
    assert_eq!(scheduler.handle(failed(1, Failure::Unreachable), at(0)), [dispatch(1, 2, 3)]);
    let refused = scheduler.handle(failed(1, Failure::Unreachable), at(0));
    assert_eq!(reasons(&refused), [(1, RefusalReason::Exhausted { last: Failure::Unreachable })]);
    assert_eq!(scheduler.in_flight(), 0);
}

#[test]
fn a_reset_may_go_back_to_the_only_node_and_a_crash_may_not() {
    let mut scheduler = nodes(&[1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    assert_eq!(scheduler.handle(failed(1, Failure::Reset), at(0)), [dispatch(1, 0, 2)]);
    let refused = scheduler.handle(failed(1, Failure::Crashed), at(0));
    assert_eq!(reasons(&refused), [(1, RefusalReason::Exhausted { last: Failure::Crashed })]);
}

#[test]
fn the_only_node_gone_after_a_refused_connection_means_no_node() {
    let mut scheduler = nodes(&[1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    let refused = scheduler.handle(failed(1, Failure::Unreachable), at(0));
    assert_eq!((reasons(&refused), retry_after(&refused)), (vec![(1, RefusalReason::NoNode)], at(1)));
}

#[test]
fn a_busy_only_node_is_asked_again_after_a_second() {
    let mut scheduler = nodes(&[1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    assert_eq!(scheduler.handle(failed(1, Failure::Busy), at(0)), []);
    assert_eq!(scheduler.next_deadline(), Some(at(1)));
    assert_eq!(scheduler.handle(Event::Tick, at(1)), [dispatch(1, 0, 2)]);
    assert_eq!(scheduler.nodes()[0].state, NodeState::Up);
}

#[test]
fn whoever_comes_just_when_a_back_off_ends_does_not_overtake_those_who_wait() {
    let mut scheduler = nodes(&[1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    scheduler.handle(arrived(2, "b", "m"), at(0));
    // The back-off keeps the freed slot from both.
    assert_eq!(scheduler.handle(failed(1, Failure::Busy), at(0)), []);
    assert_eq!(scheduler.handle(arrived(3, "c", "m"), at(1)), [dispatch(2, 0, 1)]);
    assert_eq!(scheduler.handle(completed(2), at(1)), [dispatch(1, 0, 2)]);
    assert_eq!(scheduler.handle(completed(1), at(1)), [dispatch(3, 0, 1)]);
}

#[test]
fn a_client_that_takes_nothing_does_not_make_a_node_silent_and_a_node_that_sends_nothing_is() {
    let begun = || {
        let mut scheduler = nodes(&[1]);
        scheduler.handle(arrived(1, "a", "m"), at(0));
        scheduler.handle(Event::FirstByte { id: RequestId(1) }, at(0));
        scheduler
    };
    let mut scheduler = begun();
    for second in 1..=30 {
        scheduler.handle(Event::Stalled { id: RequestId(1) }, at(second));
        assert_eq!(scheduler.handle(Event::Tick, at(second)), [], "{second}");
    }
    // It takes requests again, and the node has as long as ever.
    let silent = (31..60).find(|second| !scheduler.handle(Event::Tick, at(*second)).is_empty());
    assert_eq!(silent, Some(41));
    let mut scheduler = begun();
    let silent = (1..60).find(|second| !scheduler.handle(Event::Tick, at(*second)).is_empty());
    assert_eq!(silent, Some(11));
    assert_eq!(scheduler.nodes()[0].state, NodeState::Down);
}

#[test]
fn a_missing_model_is_looked_for_elsewhere_and_not_asked_for_again() {
    let mut scheduler = nodes(&[1, 1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    assert_eq!(scheduler.handle(failed(1, Failure::Missing), at(0)), [dispatch(1, 1, 2)]);
    assert_eq!(scheduler.handle(arrived(2, "a", "m"), at(0)), []);
    let refused = scheduler.handle(failed(1, Failure::Missing), at(0));
    let exhausted = RefusalReason::Exhausted { last: Failure::Missing };
    let mut reasons = reasons(&refused);
    reasons.sort_by_key(|(id, _)| *id);
    assert_eq!(reasons, [(1, exhausted), (2, RefusalReason::NoNode)]);
    assert!(scheduler.find_model("m").is_none());
}

#[test]
fn costly_retries_stop_at_the_budget_and_cheap_ones_do_not() {
    let mut scheduler = nodes(&[8, 8]);
    for id in 0..8 {
        scheduler.handle(arrived(id, "a", "m"), at(0));
    }
    // The answers below reset the evidence after each failure, so that the node stays in use.
    let mut retried = 0;
    for id in 0..5 {
        let decisions = scheduler.handle(failed(id, Failure::TimedOut), at(0));
        retried += usize::from(reasons(&decisions).is_empty());
        scheduler.handle(Event::FirstByte { id: RequestId(6) }, at(0));
        scheduler.handle(Event::FirstByte { id: RequestId(7) }, at(0));
    }
    assert_eq!(retried, 3);
    let decisions = scheduler.handle(failed(5, Failure::Busy), at(0));
    assert!(reasons(&decisions).is_empty());
    scheduler.handle(completed(0), at(1));
    scheduler.handle(arrived(8, "a", "m"), at(1));
    let decisions = scheduler.handle(failed(8, Failure::TimedOut), at(1));
    assert!(reasons(&decisions).is_empty());
}

#[test]
fn after_the_first_byte_nothing_is_tried_again() {
    let mut scheduler = nodes(&[1, 1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    scheduler.handle(Event::FirstByte { id: RequestId(1) }, at(0));
    let refused = scheduler.handle(failed(1, Failure::Reset), at(1));
    assert_eq!(reasons(&refused), [(1, RefusalReason::Exhausted { last: Failure::Reset })]);
}

#[test]
fn a_client_that_hangs_up_says_nothing_about_the_node() {
    let mut scheduler = nodes(&[1]);
    for id in 0..10 {
        scheduler.handle(arrived(id, "a", "m"), at(id));
        scheduler.handle(left(id, Outcome::Cancelled), at(id));
    }
    assert_eq!(scheduler.nodes()[0].state, NodeState::Up);
}

#[test]
fn a_route_that_a_node_does_not_have_is_tried_elsewhere_and_remembered() {
    let mut scheduler = nodes(&[1, 1, 1, 1, 1]);
    let by = |id, route| Event::Arrived(Arrival { route: Route(route), ..arrival(id, "a", "m") });
    scheduler.handle(by(1, 7), at(0));
    for node in 1..5 {
        let attempt = node as u32 + 1;
        assert_eq!(scheduler.handle(failed(1, Failure::Unsupported), at(0)), [dispatch(1, node, attempt)]);
    }
    let refused = scheduler.handle(failed(1, Failure::Unsupported), at(0));
    assert_eq!(reasons(&refused), [(1, RefusalReason::Exhausted { last: Failure::Unsupported })]);
    assert!(scheduler.nodes().iter().all(|node| node.state == NodeState::Up));
    let refused = scheduler.handle(by(2, 7), at(1));
    assert_eq!(reasons(&refused), [(2, RefusalReason::NoRoute)]);
    assert_eq!(scheduler.handle(by(3, 6), at(1)), [dispatch(3, 0, 1)]);
    // A different version of Ollama runs there now.
    scheduler.handle(Event::Routes { node: NodeId(3), routes: RouteSet::ALL }, at(2));
    assert_eq!(scheduler.handle(by(4, 7), at(2)), [dispatch(4, 3, 1)]);
}

#[test]
fn a_gateway_without_files_blames_no_node_and_asks_again_after_a_second() {
    let mut scheduler = nodes(&[1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    for second in 0..5 {
        assert_eq!(scheduler.handle(failed(1, Failure::Starved), at(second)), []);
        let again = scheduler.handle(Event::Tick, at(second + 1));
        assert_eq!(again, [dispatch(1, 0, second as u32 + 2)]);
    }
    assert_eq!(scheduler.nodes()[0].state, NodeState::Up);
}

#[test]
fn a_node_that_cannot_load_a_model_is_not_asked_for_it_and_serves_the_others() {
    let mut scheduler = nodes(&[1, 1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    assert_eq!(scheduler.handle(failed(1, Failure::Unloadable), at(0)), [dispatch(1, 1, 2)]);
    assert_eq!(scheduler.handle(arrived(2, "b", "n"), at(0)), [dispatch(2, 0, 1)]);
    assert_eq!(scheduler.handle(arrived(3, "b", "m"), at(0)), []);
    assert_eq!(scheduler.nodes()[0].state, NodeState::Up);
}

#[test]
fn a_route_that_only_a_node_has_that_is_away_may_be_asked_for_again() {
    let mut scheduler = nodes(&[1, 1]);
    let by = |id, route| Event::Arrived(Arrival { route: Route(route), ..arrival(id, "a", "m") });
    scheduler.handle(Event::Routes { node: NodeId(0), routes: RouteSet::ALL.without(Route(7)) }, at(0));
    silence(&mut scheduler, 1, at(0));
    let refused = scheduler.handle(by(1, 7), at(0));
    assert_eq!(reasons(&refused), [(1, RefusalReason::NoNode)]);
    assert_eq!(scheduler.handle(by(2, 6), at(0)), [dispatch(2, 0, 1)]);
    scheduler.handle(Event::Routes { node: NodeId(1), routes: RouteSet::ALL.without(Route(7)) }, at(0));
    let refused = scheduler.handle(by(3, 7), at(0));
    assert_eq!(reasons(&refused), [(3, RefusalReason::NoRoute)]);
}

#[test]
fn a_route_that_no_node_has_is_refused_at_once_however_many_wait() {
    let mut scheduler = nodes(&[1]);
    scheduler.handle(Event::Routes { node: NodeId(0), routes: RouteSet::ALL.without(Route(7)) }, at(0));
    (1..100).for_each(|id| drop(scheduler.handle(arrived(id, &format!("user {id}"), "m"), at(0))));
    let odd = Arrival { route: Route(7), ..arrival(100, "z", "m") };
    let refused = reasons(&scheduler.handle(Event::Arrived(odd), at(0)));
    assert_eq!(refused.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [100]);
}

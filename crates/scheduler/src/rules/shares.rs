//! How does a gateway behave with only a part of the slots, and what becomes of the requests that another gateway's
//! scheduler decided on so far?

use super::*;

const GATEWAYS: [&str; 2] = ["one", "two"];

fn within(own: &str, turns: &[u64]) -> Event {
    let gateways: Arc<[Arc<str>]> = GATEWAYS.iter().map(|name| Arc::from(*name)).collect();
    let shares = turns.iter().map(|turn| Share::new(own.into(), gateways.clone(), *turn));
    Event::Shared { reach: Reach::Within(shares.collect()) }
}

/// Two nodes with three slots have six slots of `m`, three for each gateway. Which gateway gets a node's odd slot
/// depends on the turn.
#[test]
fn two_gateways_together_send_no_more_than_there_are_slots() {
    let mut sent = Vec::new();
    for own in GATEWAYS {
        let mut scheduler = nodes(&[3]);
        scheduler.handle(within(own, &[0]), at(1));
        let decisions: Vec<_> = (0..9).flat_map(|id| scheduler.handle(arrived(id, "u", "m"), at(1))).collect();
        assert!(decisions.len() == scheduler.in_flight() && scheduler.is_within_reach());
        sent.push(decisions.len());
    }
    sent.sort_unstable();
    assert_eq!(sent, [1, 2]);
}

#[test]
fn a_part_that_shrinks_stops_nobody_and_one_that_grows_is_used_at_once() {
    let mut scheduler = nodes(&[2]);
    for id in 0..4 {
        scheduler.handle(arrived(id, "u", "m"), at(1));
    }
    assert_eq!(scheduler.handle(within("one", &[0]), at(2)), []);
    assert!(!scheduler.is_within_reach());
    assert_eq!(scheduler.handle(completed(0), at(3)), [], "the slot is somebody else's now");
    assert!(scheduler.is_within_reach());
    assert_eq!(scheduler.handle(Event::Shared { reach: Reach::Nothing }, at(4)), []);
    assert_eq!(scheduler.handle(completed(1), at(5)), []);
    let decisions = scheduler.handle(Event::Shared { reach: Reach::Whole }, at(6));
    assert_eq!(decisions, [dispatch(2, 0, 1), dispatch(3, 0, 1)]);
}

#[test]
fn while_one_division_replaces_another_both_hold() {
    let mut scheduler = nodes(&[1]);
    scheduler.handle(within("one", &[0, 1]), at(1));
    assert_eq!(scheduler.handle(arrived(1, "u", "m"), at(1)), [], "the only slot changes hands");
    assert!(scheduler.is_starved(at(1)), "and it is not foreseen that it comes back");
    let decisions: Vec<_> = [0, 1].iter().flat_map(|turn| scheduler.handle(within("one", &[*turn]), at(2))).collect();
    assert_eq!(decisions, [dispatch(1, 0, 1)]);
    assert!(!scheduler.is_starved(at(2)));
}

#[test]
fn only_one_gateway_loads_on_a_node_and_one_that_loses_the_right_calls_its_load_off() {
    let small = || NodeSpec { vram_bytes: Some(1), ..spec(2) };
    let mut decided = Vec::new();
    for own in GATEWAYS {
        let mut scheduler = Scheduler::new(QueueLimits::default(), vec![small()]);
        let node = NodeId(0);
        scheduler.handle(Event::Answered { node }, at(0));
        scheduler.handle(Event::Listed { node, models: [model("m:latest"), model("n:latest")].into() }, at(0));
        scheduler.handle(Event::Resident { node, loaded: vec![loaded("m:latest")] }, at(0));
        scheduler.handle(within(own, &[0]), at(0));
        assert_eq!(scheduler.handle(arrived(1, "u", "m"), at(100)), [dispatch(1, 0, 1)]);
        assert_eq!(scheduler.handle(arrived(2, "u", "n"), at(100)), [], "what runs must end first");
        let may_load = !scheduler.is_starved(at(100));
        scheduler.handle(Event::Shared { reach: Reach::Nothing }, at(101));
        assert_eq!(scheduler.handle(completed(1), at(102)), [], "nothing is unloaded");
        let unload = scheduler.handle(within(own, &[0]), at(103));
        assert_eq!(unload.len(), usize::from(may_load), "{unload:?}");
        decided.push(may_load);
    }
    decided.sort_unstable();
    assert_eq!(decided, [false, true]);
}

#[test]
fn no_share_without_a_node_is_promised_while_a_load_that_has_begun_there_goes_on() {
    let mut scheduler = Scheduler::new(QueueLimits::default(), vec![spec(2)]);
    let node = NodeId(0);
    scheduler.handle(Event::Answered { node }, at(0));
    scheduler.handle(Event::Listed { node, models: [model("m:latest")].into() }, at(0));
    let load = scheduler.handle(arrived(1, "u", "m"), at(1));
    assert!(matches!(load[..], [Decision::Load { .. }]), "{load:?}");
    scheduler.handle(Event::Shared { reach: Reach::Nothing }, at(2));
    assert!(!scheduler.is_within_reach());
    scheduler.handle(Event::Loaded { node, model: "m:latest".into(), result: Ok(()) }, at(3));
    assert!(scheduler.is_within_reach());
}

#[test]
fn with_a_part_of_the_slots_no_further_ones_are_looked_for() {
    let learning = NodeSpec { slots: None, ..spec(0) };
    let mut scheduler = Scheduler::new(QueueLimits::default(), vec![learning]);
    let node = NodeId(0);
    scheduler.handle(Event::Answered { node }, at(0));
    scheduler.handle(Event::Listed { node, models: [model("m:latest")].into() }, at(0));
    scheduler.handle(Event::Resident { node, loaded: vec![loaded("m:latest")] }, at(0));
    let sent = |scheduler: &mut Scheduler, reach: Event| {
        scheduler.handle(reach, at(1));
        // A stream that has begun tells from when on a probe could be seen at work.
        let first = scheduler.handle(arrived(0, "u", "m"), at(1)).len();
        scheduler.handle(Event::FirstByte { id: RequestId(0) }, at(2));
        first + (1..3).map(|id| scheduler.handle(arrived(id, "u", "m"), at(2)).len()).sum::<usize>()
    };
    let mut parts: Vec<usize> = GATEWAYS.iter().map(|own| sent(&mut scheduler.clone(), within(own, &[0]))).collect();
    parts.sort_unstable();
    assert_eq!(parts, [0, 1]);
    assert_eq!(sent(&mut scheduler, Event::Shared { reach: Reach::Whole }), 2, "alone it sends a probe");
}

#[test]
fn nodes_and_models_that_come_later_are_shared_as_well() {
    let mut scheduler = Scheduler::new(QueueLimits::default(), Vec::new());
    scheduler.handle(Event::Shared { reach: Reach::Nothing }, at(0));
    let node = NodeId(0);
    scheduler.handle(Event::NodeJoined { node, spec: spec(2) }, at(1));
    scheduler.handle(Event::Answered { node }, at(1));
    scheduler.handle(Event::Listed { node, models: [model("m:latest")].into() }, at(1));
    scheduler.handle(Event::Resident { node, loaded: vec![loaded("m:latest")] }, at(1));
    assert_eq!(scheduler.handle(arrived(1, "u", "m"), at(2)), []);
    assert_eq!(scheduler.handle(Event::Shared { reach: Reach::Whole }, at(3)), [dispatch(1, 0, 1)]);
}

fn adopted(id: u64, user: &str, waited: u64, ongoing: Option<Ongoing>) -> Event {
    let attempts = u32::from(ongoing.is_some());
    Event::Adopted(Box::new(Adopted { arrival: arrival(id, user, "m"), waited: at(waited), attempts, ongoing }))
}

fn ongoing(began_ago: Option<u64>) -> Option<Ongoing> {
    Some(Ongoing { node: NodeId(0), sent_ago: at(5), began_ago: began_ago.map(at), tokens: 3 })
}

#[test]
fn what_runs_keeps_its_slot_and_what_waits_its_age() {
    let mut scheduler = nodes(&[1]);
    scheduler.handle(Event::Shared { reach: Reach::Nothing }, at(100));
    assert_eq!(scheduler.handle(adopted(1, "a", 20, ongoing(Some(2))), at(100)), []);
    assert_eq!(scheduler.handle(adopted(2, "b", 30, None), at(100)), []);
    assert_eq!(scheduler.handle(adopted(2, "b", 30, None), at(100)), [], "it is known");
    assert_eq!(scheduler.handle(Event::Shared { reach: Reach::Whole }, at(101)), [], "the slot is taken");
    assert_eq!(scheduler.waiting(9, at(101))[0].waited, at(31));
    assert_eq!((scheduler.in_flight(), scheduler.queued()), (1, 1));
    assert_eq!(scheduler.handle(completed(1), at(102)), [dispatch(2, 0, 1)]);
}

#[test]
fn an_adopted_request_is_tried_again_before_its_first_byte_and_never_after() {
    for (began_ago, is_retried) in [(None, true), (Some(1), false)] {
        let mut scheduler = nodes(&[1, 1]);
        scheduler.handle(adopted(1, "a", 9, ongoing(began_ago)), at(100));
        assert!(scheduler.runs(RequestId(1), 1));
        let decisions = scheduler.handle(failed(1, Failure::Reset), at(101));
        assert_eq!(decisions == [dispatch(1, 1, 2)], is_retried, "{decisions:?}");
    }
}

#[test]
fn attempts_made_before_count() {
    let mut scheduler = nodes(&[1, 1]);
    let third = Adopted { arrival: arrival(1, "a", "m"), waited: at(9), attempts: 3, ongoing: ongoing(None) };
    scheduler.handle(Event::Adopted(Box::new(third)), at(100));
    let refused = scheduler.handle(failed(1, Failure::Reset), at(101));
    assert_eq!(reasons(&refused), [(1, RefusalReason::Exhausted { last: Failure::Reset })]);
}

#[test]
fn more_than_there_are_slots_is_adopted_and_followed_by_nothing() {
    let mut scheduler = nodes(&[1]);
    for id in [1, 2] {
        scheduler.handle(adopted(id, "a", 9, ongoing(None)), at(100));
    }
    assert_eq!(scheduler.handle(arrived(3, "b", "m"), at(101)), []);
    assert_eq!(scheduler.handle(completed(1), at(102)), []);
    assert_eq!(scheduler.handle(completed(2), at(103)), [dispatch(3, 0, 1)]);
}

#[test]
fn slots_that_are_held_are_used_again_and_no_others() {
    let mut scheduler = nodes(&[3]);
    scheduler.handle(arrived(1, "a", "m"), at(1));
    scheduler.handle(Event::Shared { reach: Reach::Held }, at(2));
    assert_eq!(scheduler.handle(arrived(2, "a", "m"), at(3)), [], "another slot may be somebody else's");
    assert_eq!(scheduler.handle(completed(1), at(4)), [dispatch(2, 0, 1)]);
    assert_eq!(scheduler.handle(adopted(3, "b", 9, ongoing(None)), at(5)), []);
    assert_eq!(scheduler.handle(arrived(4, "a", "m"), at(6)), []);
    assert_eq!(scheduler.handle(completed(2), at(7)), [dispatch(4, 0, 1)]);
    assert_eq!(scheduler.handle(arrived(5, "a", "m"), at(8)), []);
    assert_eq!(scheduler.handle(completed(3), at(9)), [dispatch(5, 0, 1)], "it came with a slot of its own");
}

fn spare(slots: u32) -> Spare {
    Spare { node: NodeId(0), model: "m:latest".into(), slots }
}

#[test]
fn free_slots_that_are_held_can_be_given_up_to_another_gateway() {
    let mut scheduler = nodes(&[3]);
    scheduler.handle(arrived(1, "a", "m"), at(1));
    assert_eq!(scheduler.spare_slots(), [], "all slots are its own");
    scheduler.handle(Event::Shared { reach: Reach::Held }, at(2));
    assert_eq!(scheduler.spare_slots(), []);
    assert_eq!(scheduler.handle(completed(1), at(3)), []);
    assert_eq!(scheduler.spare_slots(), [spare(1)]);
    let mut other = nodes(&[3]);
    other.handle(Event::Shared { reach: Reach::Held }, at(4));
    assert_eq!(other.handle(arrived(2, "b", "m"), at(4)), []);
    assert_eq!(other.handle(Event::Spared(spare(1)), at(5)), [dispatch(2, 0, 1)], "it waited for a slot");
    assert_eq!(other.handle(arrived(3, "b", "m"), at(6)), []);
    assert_eq!(other.spare_slots(), []);
    scheduler.handle(Event::Shared { reach: Reach::Nothing }, at(7));
    scheduler.handle(Event::Spared(spare(9)), at(8));
    assert_eq!(scheduler.handle(arrived(4, "a", "m"), at(9)), [], "what it may not use cannot be given to it");
    scheduler.handle(Event::Spared(Spare { model: "unknown".into(), ..spare(1) }), at(10));
    scheduler.handle(Event::Spared(Spare { node: NodeId(7), ..spare(1) }), at(10));
}

#[test]
fn an_adopted_request_on_a_node_that_has_not_listed_its_models_yet_is_counted_there() {
    let mut scheduler = nodes(&[1]);
    scheduler.handle(Event::NodeJoined { node: NodeId(1), spec: NodeSpec { name: "new".into(), ..spec(1) } }, at(1));
    assert_eq!(scheduler.find_node("new"), Some(NodeId(1)));
    let ongoing = Ongoing { node: NodeId(1), sent_ago: at(1), began_ago: None, tokens: 0 };
    scheduler.handle(adopted(1, "a", 9, Some(ongoing)), at(100));
    assert_eq!(scheduler.nodes()[1].in_flight, 1);
    scheduler.handle(completed(1), at(101));
    assert_eq!((scheduler.nodes()[1].in_flight, scheduler.in_flight()), (0, 0));
}

#[test]
fn a_model_that_no_node_ever_had_is_refused_unless_it_runs() {
    let mut scheduler = nodes(&[1]);
    let unknown = |ongoing| {
        let arrival = arrival(1, "a", "unknown");
        Event::Adopted(Box::new(Adopted { arrival, waited: at(1), attempts: 0, ongoing }))
    };
    assert_eq!(reasons(&scheduler.handle(unknown(None), at(100))), [(1, RefusalReason::NoNode)]);
    assert_eq!(scheduler.handle(unknown(ongoing(None)), at(100)), []);
    assert_eq!(scheduler.nodes()[0].in_flight, 1, "it takes a slot all the same");
    assert_eq!(scheduler.handle(completed(1), at(101)), []);
}

#[test]
fn an_adopted_request_for_which_no_node_is_left_is_refused() {
    let mut scheduler = nodes(&[1]);
    silence(&mut scheduler, 0, at(99));
    assert_eq!(reasons(&scheduler.handle(adopted(1, "a", 9, None), at(100))), [(1, RefusalReason::NoNode)]);
}

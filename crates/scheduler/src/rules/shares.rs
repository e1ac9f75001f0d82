//! How does a gateway behave with only a part of the slots?

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

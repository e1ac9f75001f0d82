//! What follows when a node answers its probes but produces nothing? Times are judged by what was measured before: here
//! a first token after 100 ms, and 20 tokens a second.

use super::*;

const FIRST_TOKEN: Duration = Duration::from_millis(100);

/// Nodes that have shown their speed, and the time now.
fn measured(slots: &[u32]) -> (Scheduler, Time) {
    let mut scheduler = nodes(slots);
    let mut now = at(0);
    for round in 0..3 * slots.len() as u64 {
        let id = 1_000_000 + round;
        // Each goes to a different node, because running requests fill the others.
        let decisions = scheduler.handle(arrived(id, "warm-up", "m"), now);
        assert_eq!(decisions.len(), 1, "{decisions:?}");
        scheduler.handle(Event::FirstByte { id: RequestId(id.into()) }, now + FIRST_TOKEN);
        scheduler.handle(Event::Progress { id: RequestId(id.into()), tokens: 20 }, now + FIRST_TOKEN + at(1));
        if round % slots.len() as u64 == slots.len() as u64 - 1 {
            now += at(2);
            (0..slots.len() as u64).for_each(|back| drop(scheduler.handle(completed(id - back), now)));
        }
    }
    (scheduler, now)
}

/// Lets time pass, one second at a time; returns the decisions and their seconds.
fn wait(scheduler: &mut Scheduler, now: Time, seconds: u64) -> Vec<(u64, Decision)> {
    let ticks = 1..=seconds;
    ticks.flat_map(|past| scheduler.handle(Event::Tick, now + at(past)).into_iter().map(move |it| (past, it))).collect()
}

fn first_byte(scheduler: &mut Scheduler, id: u64, now: Time) {
    scheduler.handle(Event::FirstByte { id: RequestId(id.into()) }, now);
}

#[test]
fn a_request_alone_on_a_silent_node_goes_elsewhere_and_takes_the_node_out_if_it_works_there() {
    let (mut scheduler, now) = measured(&[1, 1]);
    assert_eq!(scheduler.handle(arrived(1, "a", "m"), now), [dispatch(1, 0, 1)]);
    let decided = wait(&mut scheduler, now, 5);
    assert_eq!(decided, [(4, Decision::Abandon { id: RequestId(1) }), (4, dispatch(1, 1, 2))]);
    assert_eq!(scheduler.nodes()[0].state, NodeState::Suspect);
    first_byte(&mut scheduler, 1, now + at(5));
    assert_eq!(scheduler.nodes()[0].state, NodeState::Down);
}

#[test]
fn a_request_that_silences_nodes_reaches_two_of_them_and_takes_none_out() {
    let (mut scheduler, now) = measured(&[1, 1, 1]);
    scheduler.handle(arrived(1, "a", "m"), now);
    let decided = wait(&mut scheduler, now, 30);
    assert_eq!(decided.iter().filter(|(_, it)| matches!(it, Decision::Dispatch { .. })).count(), 1);
    let stuck = RefusalReason::Exhausted { last: Failure::Stuck };
    assert_eq!(reasons(&decided.into_iter().map(|(_, it)| it).collect::<Vec<_>>()), [(1, stuck)]);
    assert!(scheduler.nodes().iter().all(|node| node.transitions.open == 0));
}

#[test]
fn requests_of_two_users_on_a_silent_node_take_it_out_and_go_elsewhere_sooner() {
    let (mut scheduler, now) = measured(&[2, 2]);
    scheduler.handle(Event::Drain { node: NodeId(1), on: true }, now);
    for (id, user) in [(1, "a"), (2, "b")] {
        assert_eq!(scheduler.handle(arrived(id, user, "m"), now), [dispatch(id, 0, 1)]);
    }
    scheduler.handle(Event::Drain { node: NodeId(1), on: false }, now);
    let decided = wait(&mut scheduler, now, 4);
    assert_eq!(decided.iter().map(|(past, _)| *past).collect::<Vec<_>>(), [3; 4]);
    assert!(decided.contains(&(3, dispatch(1, 1, 2))) && decided.contains(&(3, dispatch(2, 1, 2))));
    assert_eq!(scheduler.nodes()[0].state, NodeState::Down);
}

#[test]
fn beside_a_begun_stream_a_quiet_node_gets_nothing_new_and_the_stream_may_go_on() {
    let (mut scheduler, now) = measured(&[2, 1]);
    assert_eq!(scheduler.handle(arrived(1, "a", "m"), now), [dispatch(1, 0, 1)]);
    first_byte(&mut scheduler, 1, now + FIRST_TOKEN);
    scheduler.handle(Event::Drain { node: NodeId(1), on: true }, now);
    let late = now + FIRST_TOKEN;
    assert_eq!(scheduler.handle(arrived(2, "a", "m"), late), [dispatch(2, 0, 1)]);
    scheduler.handle(Event::Drain { node: NodeId(1), on: false }, late);
    let decided = wait(&mut scheduler, late, 4);
    assert_eq!(decided, [(3, Decision::Abandon { id: RequestId(2) }), (3, dispatch(2, 1, 2))]);
    assert_eq!(scheduler.nodes()[0].state, NodeState::Up);
    assert_eq!(scheduler.handle(arrived(3, "b", "m"), late + at(4)), [], "the quiet node is free, and not used");
    // It had only paused. The other node is kept out of this, as it may seem faster now.
    scheduler.handle(Event::Progress { id: RequestId(1), tokens: 30 }, late + at(5));
    let drained = scheduler.handle(Event::Drain { node: NodeId(1), on: true }, late + at(5));
    assert_eq!(drained, [dispatch(3, 0, 1)]);
}

#[test]
fn what_was_not_measured_or_has_no_other_place_to_go_stays() {
    let mut scheduler = nodes(&[1, 1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    assert_eq!(wait(&mut scheduler, at(0), 100), []);
    let (mut scheduler, now) = measured(&[1]);
    scheduler.handle(arrived(1, "a", "m"), now);
    assert_eq!(wait(&mut scheduler, now, 19), []);
}

#[test]
fn in_a_thousand_wedges_every_request_begins_elsewhere_in_time() {
    const NODES: usize = 4;
    let mut dice = crate::properties::random::Dice::new(7);
    let (mut id, mut worst) = (0, Duration::ZERO);
    let (mut scheduler, mut now) = measured(&[4; NODES]);
    for round in 0..1000 {
        let wedged = dice.below(NODES as u64) as usize;
        let sent: Vec<u64> = (0..=dice.below(8))
            .map(|_| {
                id += 1;
                id
            })
            .collect();
        let began = now;
        // The node on which each request runs, and since when.
        let mut running: BTreeMap<u64, (usize, Time)> = BTreeMap::new();
        let mut todo: Vec<Decision> = Vec::new();
        for each in &sent {
            let user = ["a", "b", "c"][dice.below(3) as usize];
            let deadline = now + at(300);
            todo.extend(scheduler.handle(Event::Arrived(Arrival { deadline, ..arrival(*each, user, "m") }), now));
        }
        loop {
            for decision in std::mem::take(&mut todo) {
                match decision {
                    Decision::Dispatch { id, node, .. } => drop(running.insert(id.0 as u64, (node.0, now))),
                    Decision::Abandon { id } => drop(running.remove(&(id.0 as u64))),
                    other => panic!("round {round}: {other:?}"),
                }
            }
            now += FIRST_TOKEN;
            let due: Vec<u64> = running.iter().filter(|(_, (node, _))| *node != wedged).map(|(id, _)| *id).collect();
            for each in due {
                running.remove(&each);
                todo.extend(scheduler.handle(Event::FirstByte { id: RequestId(each.into()) }, now));
                worst = worst.max(now - began);
                todo.extend(scheduler.handle(completed(each), now));
            }
            if scheduler.next_deadline().is_some_and(|deadline| deadline <= now) {
                todo.extend(scheduler.handle(Event::Tick, now));
            }
            assert!(now < began + at(60), "round {round}: {running:?}");
            if running.is_empty() && todo.is_empty() && scheduler.queued() == 0 {
                break;
            }
        }
        // The node works again, and has shown it.
        now += at(31);
        for node in 0..NODES {
            come_back(&mut scheduler, node, now);
        }
        now += at(11);
        for node in 0..NODES {
            come_back(&mut scheduler, node, now);
        }
    }
    assert!(worst <= at(5) + 4 * FIRST_TOKEN, "{worst:?}");
    assert!(worst > at(2), "nothing was ever wedged");
}

/// A scheduler whose first node of two fell silent under the requests of two users, which went to the second one and
/// ended there; and the time now, at which the node may be tried again.
fn with_a_silent_node() -> (Scheduler, Time) {
    let (mut scheduler, now) = measured(&[2, 4]);
    scheduler.handle(Event::Drain { node: NodeId(1), on: true }, now);
    for (id, user) in [(1, "a"), (2, "b")] {
        assert_eq!(scheduler.handle(arrived(id, user, "m"), now), [dispatch(id, 0, 1)]);
    }
    scheduler.handle(Event::Drain { node: NodeId(1), on: false }, now);
    wait(&mut scheduler, now, 5);
    assert_eq!(scheduler.nodes()[0].state, NodeState::Down);
    (1..=2).for_each(|id| drop(scheduler.handle(completed(id), now + at(5))));
    assert_eq!(scheduler.in_flight(), 0);
    (scheduler, now + at(6))
}

#[test]
fn a_silent_node_is_tried_by_the_gateway_and_no_request_goes_there_before_it_has_answered() {
    let (mut scheduler, now) = with_a_silent_node();
    assert!(scheduler.begin_canary(NodeId(0), now) && !scheduler.begin_canary(NodeId(0), now), "one at a time");
    scheduler.handle(Event::Answered { node: NodeId(0) }, now);
    scheduler.handle(Event::Resident { node: NodeId(0), loaded: vec![loaded("m")] }, now);
    assert_eq!(scheduler.handle(arrived(3, "a", "m"), now), [dispatch(3, 1, 1)]);
    scheduler.handle(Event::Drain { node: NodeId(1), on: true }, now);
    assert_eq!(scheduler.handle(arrived(4, "a", "m"), now), []);
    let ended = Event::CanaryEnded { node: NodeId(0), verdict: CanaryVerdict::Answered };
    assert_eq!(scheduler.handle(ended, now), [dispatch(4, 0, 1)]);
    assert_eq!(scheduler.nodes()[0].state, NodeState::Up);
}

#[test]
fn a_canary_that_fails_keeps_a_silent_node_out_and_one_that_shows_nothing_leaves_the_trial_to_a_user() {
    let (mut scheduler, now) = with_a_silent_node();
    assert!(scheduler.begin_canary(NodeId(0), now));
    scheduler.handle(Event::CanaryEnded { node: NodeId(0), verdict: CanaryVerdict::Failed }, now);
    let node = &scheduler.nodes()[0];
    assert_eq!(node.state, NodeState::Down);
    assert_eq!(node.last_error.as_deref(), Some("it did not answer the gateway's own request"));
    assert!(!scheduler.begin_canary(NodeId(0), now + at(1)), "it is out for twice as long");
    assert!(scheduler.begin_canary(NodeId(0), now + at(2)));
    scheduler.handle(Event::Answered { node: NodeId(0) }, now + at(2));
    scheduler.handle(Event::Resident { node: NodeId(0), loaded: vec![loaded("m")] }, now + at(2));
    scheduler.handle(Event::CanaryEnded { node: NodeId(0), verdict: CanaryVerdict::Inconclusive }, now + at(2));
    scheduler.handle(Event::Drain { node: NodeId(1), on: true }, now + at(2));
    assert_eq!(scheduler.handle(arrived(3, "a", "m"), now + at(2)), [dispatch(3, 0, 1)]);
}

#[test]
fn a_node_that_is_drained_or_has_left_is_not_tried() {
    for event in [Event::Drain { node: NodeId(0), on: true }, Event::NodeLeft { node: NodeId(0) }] {
        let (mut scheduler, now) = with_a_silent_node();
        scheduler.handle(event, now);
        assert!(!scheduler.begin_canary(NodeId(0), now));
    }
}

#[test]
fn a_gateway_that_may_use_no_slot_tries_no_silent_node() {
    let (mut scheduler, now) = with_a_silent_node();
    scheduler.handle(Event::Shared { reach: Reach::Nothing }, now);
    assert!(!scheduler.begin_canary(NodeId(0), now), "the slots are others'");
    scheduler.handle(Event::Shared { reach: Reach::Whole }, now);
    assert!(scheduler.begin_canary(NodeId(0), now));
}

#[test]
fn a_gateway_that_was_paused_does_not_take_its_own_silence_for_the_nodes() {
    for is_told in [true, false] {
        let (mut scheduler, now) = measured(&[2, 4]);
        for (id, user) in [(1, "a"), (2, "b"), (3, "c")] {
            scheduler.handle(arrived(id, user, "m"), now);
        }
        if is_told {
            scheduler.woke_up(now + at(30));
        }
        let decisions = scheduler.handle(Event::Tick, now + at(30));
        assert_eq!(decisions.is_empty(), is_told, "{decisions:?}");
        assert_eq!(scheduler.nodes().iter().all(|node| node.state == NodeState::Up), is_told);
    }
}

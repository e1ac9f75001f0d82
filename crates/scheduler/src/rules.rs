//! The rules of the scheduler as a whole, one test each.

use std::{sync::Arc, time::Duration};

use super::*;

const SOON: Time = Duration::from_secs(1000);

fn at(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

fn model(name: &str) -> Model {
    Model { name: name.into(), size_bytes: 1, digest: String::new(), modified_unix: 0, family: String::new() }
}

fn spec(slots: u32) -> NodeSpec {
    NodeSpec { name: "gpu".into(), slots: Some(slots), vram_bytes: None }
}

/// Nodes of so many slots each, all up, all with models `m` and `n` on disk and in memory.
fn fleet(settings: Settings, slots: &[u32]) -> Scheduler {
    let mut scheduler = Scheduler::new(settings, slots.iter().map(|slots| spec(*slots)).collect());
    for node in (0..slots.len()).map(NodeId) {
        scheduler.handle(Event::Answered { node }, at(0));
        let models = vec![model("m:latest"), model("n:latest")];
        scheduler.handle(Event::Listed { node, models }, at(0));
        scheduler.handle(Event::Resident { node, loaded: vec![loaded("m:latest"), loaded("n:latest")] }, at(0));
    }
    scheduler
}

fn loaded(name: &str) -> Loaded {
    Loaded { name: name.into(), vram_bytes: 1, context_length: None }
}

fn nodes(slots: &[u32]) -> Scheduler {
    fleet(Settings::default(), slots)
}

fn arrived(id: u64, user: &str, model: &str) -> Event {
    Event::Arrived(arrival(id, user, model))
}

fn arrival(id: u64, user: &str, model: &str) -> Arrival {
    Arrival {
        id: RequestId(id),
        user: user.into(),
        weight: 1.0,
        model: model.into(),
        prompt_tokens: 10,
        max_output: None,
        known_output: None,
        session: None,
        is_stream: true,
        deadline: SOON,
    }
}

fn failed(id: u64, failure: Failure) -> Event {
    Event::Failed { id: RequestId(id), failure }
}

fn left(id: u64, outcome: Outcome) -> Event {
    Event::Left { id: RequestId(id), outcome }
}

fn completed(id: u64) -> Event {
    left(id, Outcome::Completed)
}

fn silence(scheduler: &mut Scheduler, node: usize, now: Time) -> Vec<Decision> {
    let silent = || Event::Silent { node: NodeId(node), error: "refused".into() };
    scheduler.handle(silent(), now);
    scheduler.handle(silent(), now)
}

/// Answers again, after it has said what is in its memory.
fn come_back(scheduler: &mut Scheduler, node: usize, now: Time) -> Vec<Decision> {
    let loaded = vec![loaded("m:latest"), loaded("n:latest")];
    scheduler.handle(Event::Resident { node: NodeId(node), loaded }, now);
    scheduler.handle(Event::Answered { node: NodeId(node) }, now)
}

fn dispatch(id: u64, node: usize, attempt: u32) -> Decision {
    Decision::Dispatch { id: RequestId(id), node: NodeId(node), attempt }
}

fn reasons(decisions: &[Decision]) -> Vec<(u64, RefusalReason)> {
    let refused = |decision: &Decision| match decision {
        Decision::Refuse { id, refusal } => Some((id.0, refusal.reason)),
        _ => None,
    };
    decisions.iter().filter_map(refused).collect()
}

fn retry_after(decisions: &[Decision]) -> Duration {
    match decisions {
        [Decision::Refuse { refusal, .. }] => refusal.retry_after,
        other => panic!("not one refusal: {other:?}"),
    }
}

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
    let mut scheduler = fleet(Settings { max_queued: 3, max_queued_per_user: 2 }, &[1]);
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
    // A beat, which is a deadline as well here.
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
    let mut scheduler = fleet(Settings { max_queued: 1, max_queued_per_user: 1 }, &[1]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    scheduler.handle(arrived(2, "a", "m"), at(0));
    scheduler.handle(left(2, Outcome::Cancelled), at(0));
    assert_eq!(scheduler.handle(arrived(3, "a", "m"), at(0)), []);
    assert_eq!(scheduler.handle(completed(1), at(1)), [dispatch(3, 0, 1)]);
}

#[test]
fn nothing_is_sent_to_a_node_that_never_answered() {
    let mut scheduler = Scheduler::new(Settings::default(), vec![spec(1)]);
    scheduler.handle(Event::Listed { node: NodeId(0), models: vec![model("m")] }, at(0));
    let refused = scheduler.handle(arrived(1, "a", "m"), at(0));
    assert_eq!(reasons(&refused), [(1, RefusalReason::NoNode)]);
    assert_eq!((scheduler.can_serve(), scheduler.nodes()[0].state), (0, NodeState::Down));
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
    scheduler.handle(Event::Listed { node: NodeId(1), models: vec![model("n")] }, at(0));
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
    let refused = scheduler.handle(Event::Listed { node: NodeId(0), models: vec![] }, at(1));
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
    scheduler.handle(Event::Listed { node: NodeId(1), models: vec![model("m:latest")] }, at(0));
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
fn a_model_that_was_unloaded_is_not_used_while_its_node_still_lists_it() {
    let small = NodeSpec { vram_bytes: Some(1), ..spec(1) };
    let mut scheduler = Scheduler::new(Settings::default(), vec![small]);
    let (node, m, n) = (NodeId(0), Arc::<str>::from("m:latest"), Arc::<str>::from("n:latest"));
    let resident = |names: &[&str]| Event::Resident { node, loaded: names.iter().map(|name| loaded(name)).collect() };
    scheduler.handle(Event::Answered { node }, at(0));
    scheduler.handle(Event::Listed { node, models: vec![model("m:latest"), model("n:latest")] }, at(0));
    scheduler.handle(resident(&["m:latest"]), at(0));
    assert_eq!(scheduler.handle(arrived(1, "a", "n"), at(100)), [Decision::Unload { node, model: m.clone() }]);
    let unloaded = Event::Unloaded { node, model: m, result: Ok(()) };
    assert_eq!(
        scheduler.handle(unloaded, at(100)),
        [Decision::Load { node, model: n.clone(), cause: Some(RequestId(1)) }]
    );

    scheduler.handle(resident(&["m:latest"]), at(101));

    assert_eq!(scheduler.handle(arrived(2, "a", "m"), at(101)), []);
    let is_loaded = Event::Loaded { node, model: n, result: Ok(()) };
    assert_eq!(scheduler.handle(is_loaded, at(103)), [dispatch(1, 0, 1)]);
    // Later it is somebody else's doing.
    assert_eq!(scheduler.handle(resident(&["m:latest", "n:latest"]), at(105)), [dispatch(2, 0, 1)]);
}

#[test]
fn a_load_that_failed_is_the_reason_and_its_next_try_the_advice() {
    let mut scheduler = Scheduler::new(Settings::default(), vec![spec(1)]);
    let (node, m) = (NodeId(0), Arc::<str>::from("m:latest"));
    scheduler.handle(Event::Answered { node }, at(0));
    scheduler.handle(Event::Listed { node, models: vec![model("m:latest")] }, at(0));
    let cause = Some(RequestId(1));
    assert_eq!(scheduler.handle(arrived(1, "a", "m"), at(0)), [Decision::Load { node, model: m.clone(), cause }]);

    let refused = scheduler.handle(Event::Loaded { node, model: m, result: Err(Failure::Crashed) }, at(1));

    let not_loaded = RefusalReason::NotLoaded { last: Failure::Crashed };
    assert_eq!((reasons(&refused), retry_after(&refused)), (vec![(1, not_loaded)], at(10)));
    let refused = scheduler.handle(arrived(2, "a", "m"), at(4));
    assert_eq!((reasons(&refused), retry_after(&refused)), (vec![(2, not_loaded)], at(7)));
}

#[test]
fn what_one_node_shows_of_its_loads_makes_another_worth_a_load() {
    let mut scheduler = Scheduler::new(Settings::default(), vec![spec(1), spec(1)]);
    let m = Arc::<str>::from("m:latest");
    let large = Model { size_bytes: 5_000_000_000, ..model("m:latest") };
    for node in [NodeId(0), NodeId(1)] {
        scheduler.handle(Event::Answered { node }, at(0));
        scheduler.handle(Event::Listed { node, models: vec![large.clone()] }, at(0));
    }
    let begun = scheduler.handle(arrived(1, "a", "m"), at(0));
    let [Decision::Load { node: first, .. }] = begun[..] else { panic!("{begun:?}") };
    let soon = Duration::from_millis(100);
    scheduler.handle(Event::Loaded { node: first, model: m.clone(), result: Ok(()) }, soon);

    let decided = scheduler.handle(arrived(2, "b", "m"), soon);

    let other = NodeId(1 - first.0);
    assert_eq!(decided, [Decision::Load { node: other, model: m, cause: Some(RequestId(2)) }], "rather than wait");
}

#[test]
fn a_load_is_of_whoever_caused_it_or_of_the_next_who_waits_if_that_one_left_before_and_a_hints_is_nobodys() {
    let small = NodeSpec { vram_bytes: Some(1), ..spec(1) };
    let mut scheduler = Scheduler::new(Settings::default(), vec![small]);
    let (node, m, n) = (NodeId(0), Arc::<str>::from("m:latest"), Arc::<str>::from("n:latest"));
    scheduler.handle(Event::Answered { node }, at(0));
    scheduler.handle(Event::Listed { node, models: vec![model("m:latest"), model("n:latest")] }, at(0));
    let hinted = scheduler.handle(Event::Wanted { model: m.clone() }, at(0));
    assert_eq!(hinted, [Decision::Load { node, model: m.clone(), cause: None }]);
    scheduler.handle(Event::Loaded { node, model: m.clone(), result: Ok(()) }, at(1));
    assert_eq!(scheduler.handle(arrived(1, "a", "m"), at(100)), [dispatch(1, 0, 1)]);
    for (id, user) in [(2, "b"), (3, "c"), (4, "d")] {
        assert_eq!(scheduler.handle(arrived(id, user, "n"), at(100)), [], "it waits for what must go");
    }

    assert_eq!(scheduler.handle(left(2, Outcome::Cancelled), at(101)), []);
    assert_eq!(scheduler.handle(completed(1), at(102)), [Decision::Unload { node, model: m.clone() }]);
    let load = scheduler.handle(Event::Unloaded { node, model: m, result: Ok(()) }, at(103));

    assert_eq!(load, [Decision::Load { node, model: n.clone(), cause: Some(RequestId(3)) }]);
    assert_eq!(scheduler.handle(left(3, Outcome::Cancelled), at(104)), [], "it is under way");
    assert_eq!(scheduler.handle(Event::Loaded { node, model: n, result: Ok(()) }, at(105)), [dispatch(4, 0, 1)]);
    let routed = scheduler.nodes()[0].routed;
    assert_eq!((routed.warm, routed.cold), (2, 0), "neither of those that ran had caused a load");
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
    // It takes again, and the node has as long as ever.
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
    // Reset by a success each time, so that the node stays in use.
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
fn two_answers_broken_off_take_a_node_out() {
    let mut scheduler = nodes(&[2]);
    for id in 0..2 {
        scheduler.handle(arrived(id, "a", "m"), at(0));
        scheduler.handle(Event::FirstByte { id: RequestId(id) }, at(0));
    }
    for id in 0..2 {
        scheduler.handle(left(id, Outcome::Failed(Failure::Garbled)), at(1));
    }
    let node = &scheduler.nodes()[0];
    assert_eq!((node.state, node.last_error.as_deref()), (NodeState::Down, Some("sent a broken answer")));
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
        Event::Listed { node, models: vec![] },
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
    let mut scheduler = fleet(Settings { max_queued: 10, max_queued_per_user: 10 }, &[1]);
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

#[test]
fn models_are_the_union_of_all_listings_and_the_live_node_is_believed_first() {
    let mut scheduler = nodes(&[1, 1]);
    let dated = |name: &str, modified_unix, digest: &str| Model { modified_unix, digest: digest.into(), ..model(name) };
    let list = |scheduler: &mut Scheduler, node, models| {
        scheduler.handle(Event::Listed { node: NodeId(node), models }, at(0));
    };
    list(&mut scheduler, 0, vec![dated("old", 1, ""), dated("both:1b", 2, "dead")]);
    list(&mut scheduler, 1, vec![dated("both:1b", 2, "live"), dated("new:latest", 3, "")]);
    silence(&mut scheduler, 0, at(0));
    let names: Vec<_> = scheduler.models().iter().map(|model| &*model.name).collect();
    assert_eq!(names, ["new:latest", "both:1b", "old"]);
    assert_eq!(scheduler.find_model("both:1b").unwrap().digest, "live");
    assert_eq!(scheduler.find_model("new").unwrap().name, "new:latest");
    assert_eq!(scheduler.find_model("old:latest").unwrap().name, "old");
    assert!(scheduler.find_model("both").is_none());
}

#[test]
fn a_view_of_a_node_can_be_written_as_json() {
    let mut scheduler = nodes(&[2]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    let view = serde_json::to_value(scheduler.nodes()).unwrap();
    assert_eq!(view[0]["state"], "up");
    assert_eq!((view[0]["slots"].as_u64(), view[0]["in_flight"].as_u64()), (Some(2), Some(1)));
    assert_eq!(view[0]["models"][0]["name"], "m:latest");
}

#[test]
fn settings_have_defaults_and_refuse_what_they_do_not_know() {
    let settings: Settings = serde_json::from_str(r#"{"max_queued": 7}"#).unwrap();
    assert_eq!(settings, Settings { max_queued: 7, max_queued_per_user: 100 });
    assert_eq!(Settings::default().max_queued, 1000);
    assert!(serde_json::from_str::<Settings>(r#"{"max": 7}"#).is_err());
}

//! When are models loaded and unloaded?

use super::*;

#[test]
fn a_model_that_was_unloaded_is_not_used_while_its_node_still_lists_it() {
    let small = NodeSpec { vram_bytes: Some(1), ..spec(1) };
    let mut scheduler = Scheduler::new(QueueLimits::default(), vec![small]);
    let (node, m, n) = (NodeId(0), Arc::<str>::from("m:latest"), Arc::<str>::from("n:latest"));
    let resident = |names: &[&str]| Event::Resident { node, loaded: names.iter().map(|name| loaded(name)).collect() };
    scheduler.handle(Event::Answered { node }, at(0));
    scheduler.handle(Event::Listed { node, models: vec![model("m:latest"), model("n:latest")].into() }, at(0));
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
    // `m` was unloaded 5 s ago, so another program must have loaded it again.
    assert_eq!(scheduler.handle(resident(&["m:latest", "n:latest"]), at(105)), [dispatch(2, 0, 1)]);
}

#[test]
fn a_load_that_failed_is_the_reason_and_its_next_try_the_advice() {
    let mut scheduler = Scheduler::new(QueueLimits::default(), vec![spec(1)]);
    let (node, m) = (NodeId(0), Arc::<str>::from("m:latest"));
    scheduler.handle(Event::Answered { node }, at(0));
    scheduler.handle(Event::Listed { node, models: vec![model("m:latest")].into() }, at(0));
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
    let mut scheduler = Scheduler::new(QueueLimits::default(), vec![spec(1), spec(1)]);
    let m = Arc::<str>::from("m:latest");
    let large = Model { size_bytes: 5_000_000_000, ..model("m:latest") };
    for node in [NodeId(0), NodeId(1)] {
        scheduler.handle(Event::Answered { node }, at(0));
        scheduler.handle(Event::Listed { node, models: vec![large.clone()].into() }, at(0));
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
    let mut scheduler = Scheduler::new(QueueLimits::default(), vec![small]);
    let (node, m, n) = (NodeId(0), Arc::<str>::from("m:latest"), Arc::<str>::from("n:latest"));
    scheduler.handle(Event::Answered { node }, at(0));
    scheduler.handle(Event::Listed { node, models: vec![model("m:latest"), model("n:latest")].into() }, at(0));
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
fn a_model_loaded_a_moment_ago_stays_if_the_request_that_could_not_wait_has_left_before_it_drained() {
    let small = NodeSpec { vram_bytes: Some(1), ..spec(1) };
    let mut scheduler = Scheduler::new(QueueLimits::default(), vec![small]);
    let (node, m) = (NodeId(0), Arc::<str>::from("m:latest"));
    scheduler.handle(Event::Answered { node }, at(0));
    scheduler.handle(Event::Listed { node, models: vec![model("m:latest"), model("n:latest")].into() }, at(0));
    scheduler.handle(arrived(1, "a", "m"), at(0));
    scheduler.handle(arrived(2, "b", "n"), at(0));
    let is_loaded = Event::Loaded { node, model: m.clone(), result: Ok(()) };
    assert_eq!(scheduler.handle(is_loaded, at(25)), [dispatch(1, 0, 1)]);
    assert_eq!(scheduler.handle(Event::Tick, at(31)), [], "it has waited for 30 s, so `m` has to go");
    let mut unable_to_go_on = scheduler.clone();
    for (id, user, model) in [(3, "c", "m"), (4, "d", "n")] {
        assert_eq!(scheduler.handle(arrived(id, user, model), at(32)), [], "`m` takes nothing any more");
    }
    scheduler.handle(left(2, Outcome::Cancelled), at(33));

    assert_eq!(scheduler.handle(completed(1), at(34)), [dispatch(3, 0, 1)], "`m` stays");
    assert_eq!(unable_to_go_on.handle(completed(1), at(34)), [Decision::Unload { node, model: m.clone() }]);
    scheduler.handle(completed(3), at(62));
    let unloaded = scheduler.handle(Event::Tick, at(63));
    assert_eq!(unloaded, [Decision::Unload { node, model: m }], "the other one has waited for 30 s by now");
}

#[test]
fn while_there_is_room_nowhere_only_those_who_can_start_are_looked_at() {
    let spec = NodeSpec { vram_bytes: Some(1), ..spec(1) };
    let mut scheduler = Scheduler::new(QueueLimits::default(), vec![spec; 2]);
    for (node, name) in [(0, "m:latest"), (1, "n:latest")] {
        let node = NodeId(node);
        scheduler.handle(Event::Answered { node }, at(0));
        let models = vec![model("m:latest"), model("n:latest")];
        scheduler.handle(Event::Listed { node, models: models.into() }, at(0));
        scheduler.handle(Event::Resident { node, loaded: vec![loaded(name)] }, at(0));
    }
    scheduler.handle(arrived(1, "zoe", "n"), at(0));
    let users = 2..60;
    users.clone().for_each(|id| drop(scheduler.handle(arrived(id, &format!("user {id}"), "m"), at(0))));
    // Newcomers are looked at while few wait, so that they can be told how long; those behind come forward.
    users.clone().take(20).for_each(|id| drop(scheduler.handle(completed(id), at(1))));
    let looked_at = |scheduler: &Scheduler| {
        let waiting = scheduler.waiting(100, at(1));
        assert_eq!(waiting.len(), 37);
        waiting.iter().filter(|waiting| waiting.waits_for.is_some()).count()
    };
    assert_eq!(looked_at(&scheduler), 12, "of those who came first");
    // The other model has been in memory for long enough.
    scheduler.handle(Event::Tick, at(31));
    assert_eq!(looked_at(&scheduler), 32, "one of them may be worth a load now");
}

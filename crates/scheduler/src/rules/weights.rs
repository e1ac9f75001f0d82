//! What do names that stand for the same weights share?

use super::*;

const NODE: NodeId = NodeId(0);

fn copy(name: &str, digest: &str) -> Model {
    Model { digest: digest.into(), ..model(name) }
}

fn list(scheduler: &mut Scheduler, models: &[Model], now: Time) -> Vec<Decision> {
    scheduler.handle(Event::Listed { node: NODE, models: models.into() }, now)
}

fn resident(names: &[&str]) -> Event {
    Event::Resident { node: NODE, loaded: names.iter().map(|name| loaded(name)).collect() }
}

/// A node with room for one model, and with `m`, its copy `n`, and `other`.
fn node(slots: Option<u32>) -> Scheduler {
    let small = NodeSpec { vram_bytes: Some(1), slots, ..spec(1) };
    let mut scheduler = Scheduler::new(QueueLimits::default(), vec![small]);
    scheduler.handle(Event::Answered { node: NODE }, at(0));
    list(&mut scheduler, &[copy("m:latest", "same"), copy("n:latest", "same"), copy("other:latest", "o")], at(0));
    scheduler
}

fn serve(scheduler: &mut Scheduler, id: u64, name: &str, now: Time) -> Vec<Decision> {
    let decisions = scheduler.handle(arrived(id, "a", name), now);
    scheduler.handle(completed(id), now);
    decisions
}

#[test]
fn two_names_of_the_same_weights_are_loaded_once_and_never_push_each_other_out() {
    let mut scheduler = node(Some(1));
    let cause = Some(RequestId(1));
    let load = Decision::Load { node: NODE, model: "n:latest".into(), cause };
    assert_eq!(scheduler.handle(arrived(1, "a", "n"), at(0)), [load]);
    assert_eq!(scheduler.handle(arrived(2, "b", "m"), at(1)), [], "what is being loaded is its model as well");
    let is_loaded = Event::Loaded { node: NODE, model: "n:latest".into(), result: Ok(()) };
    assert_eq!(scheduler.handle(is_loaded, at(2)), [dispatch(1, 0, 1)]);
    assert_eq!(scheduler.handle(completed(1), at(3)), [dispatch(2, 0, 1)]);
    scheduler.handle(completed(2), at(4));

    for round in 0..10 {
        // The node shows one of the names.
        scheduler.handle(resident(&["n:latest"]), at(60 * round + 60));
        let (id, name) = (10 + round, ["m", "n"][round as usize % 2]);
        assert_eq!(serve(&mut scheduler, id, name, at(60 * round + 61)), [dispatch(id, 0, 1)]);
    }

    let unload = scheduler.handle(arrived(99, "a", "other"), at(900));
    assert_eq!(unload, [Decision::Unload { node: NODE, model: "m:latest".into() }], "one unload for both");
    assert_eq!(scheduler.handle(arrived(100, "b", "n"), at(900)), [], "it goes under every name");
    let unloaded = Event::Unloaded { node: NODE, model: "m:latest".into(), result: Ok(()) };
    let load = Decision::Load { node: NODE, model: "other:latest".into(), cause: Some(RequestId(99)) };
    assert_eq!(scheduler.handle(unloaded, at(901)), [load]);
    let is_loaded = Event::Loaded { node: NODE, model: "other:latest".into(), result: Ok(()) };
    assert_eq!(scheduler.handle(is_loaded, at(902)), [dispatch(99, 0, 1)]);
    assert_eq!(scheduler.nodes()[0].loaded.len(), 1);
}

#[test]
fn a_request_takes_a_slot_of_the_one_runner_whatever_name_it_gives() {
    let mut scheduler = node(Some(2));
    scheduler.handle(resident(&["m:latest"]), at(0));
    assert_eq!(scheduler.handle(arrived(1, "a", "m"), at(1)), [dispatch(1, 0, 1)]);
    assert_eq!(scheduler.handle(arrived(2, "b", "n"), at(1)), [dispatch(2, 0, 1)]);
    for (id, name) in [(3, "n"), (4, "m")] {
        assert_eq!(scheduler.handle(arrived(id, "c", name), at(1)), [], "both slots are taken");
    }
    assert_eq!(scheduler.handle(completed(1), at(2)), [dispatch(3, 0, 1)]);
    assert_eq!(scheduler.handle(completed(2), at(3)), [dispatch(4, 0, 1)]);
    let uses = &scheduler.nodes()[0].uses;
    assert_eq!(uses.values().map(|each| (each.running, each.slots)).collect::<Vec<_>>(), [(2, 2)]);
}

#[test]
fn the_weights_stay_in_memory_under_the_name_that_is_left() {
    let mut scheduler = node(Some(1));
    scheduler.handle(resident(&["m:latest"]), at(0));
    assert_eq!(scheduler.handle(arrived(1, "a", "m"), at(1)), [dispatch(1, 0, 1)]);
    let others = [copy("n:latest", "same"), copy("other:latest", "o")];

    list(&mut scheduler, &others, at(2));

    assert_eq!(scheduler.handle(arrived(2, "b", "n"), at(2)), [], "its slot is taken");
    assert_eq!(scheduler.handle(completed(1), at(3)), [dispatch(2, 0, 1)]);
    scheduler.handle(completed(2), at(4));
    list(&mut scheduler, &others[..1], at(5));
    assert!(scheduler.models.find("m").is_none(), "nobody needs the name any more");
    // The node says that it does not have the last one.
    assert_eq!(scheduler.handle(arrived(3, "b", "n"), at(6)), [dispatch(3, 0, 1)]);
    let refused = scheduler.handle(failed(3, Failure::Missing), at(7));
    assert_eq!(reasons(&refused).len(), 1, "{refused:?}");
}

#[test]
fn a_name_with_new_content_is_a_model_of_its_own_and_its_requests_go_with_it() {
    for replaced in ["m", "n"] {
        let mut scheduler = node(Some(1));
        scheduler.handle(resident(&["m:latest"]), at(0));
        assert_eq!(scheduler.handle(arrived(1, "a", replaced), at(1)), [dispatch(1, 0, 1)]);
        let digest_of = |name: &str| if name == replaced { "new" } else { "same" };
        let kept = if replaced == "m" { "n" } else { "m" };
        let models = ["m", "n"].map(|name| copy(&format!("{name}:latest"), digest_of(name)));

        list(&mut scheduler, &models, at(2));

        assert_eq!(scheduler.handle(arrived(2, "b", kept), at(2)), [dispatch(2, 0, 1)], "{kept} is in memory");
        assert_eq!(scheduler.handle(completed(1), at(3)), [], "{replaced}");
        assert_eq!(scheduler.in_flight(), 1);
        scheduler.handle(completed(2), at(4));
        let unload = scheduler.handle(arrived(3, "a", replaced), at(500));
        assert_eq!(unload, [Decision::Unload { node: NODE, model: format!("{kept}:latest").into() }]);
    }
}

#[test]
fn models_without_a_digest_share_nothing() {
    let mut scheduler = node(Some(1));
    list(&mut scheduler, &[copy("m:latest", ""), copy("n:latest", "")], at(0));
    scheduler.handle(resident(&["m:latest"]), at(0));
    assert_eq!(serve(&mut scheduler, 1, "m", at(1)), [dispatch(1, 0, 1)]);
    assert_eq!(scheduler.handle(arrived(2, "a", "n"), at(500)).len(), 1, "`m` must go first");
}

#[test]
fn what_was_learned_is_recalled_under_every_name() {
    let mut scheduler = node(None);
    scheduler.fleet[NODE].meet(scheduler.models.find("n").unwrap(), "n").slots = crate::slots::Slots::learned(4);
    let learned = scheduler.learned();
    let mut after = Scheduler::new(QueueLimits::default(), vec![NodeSpec { slots: None, ..spec(1) }]);
    after.recall(learned.clone(), Duration::ZERO);
    list(&mut after, &[copy("n:latest", "same")], at(0));
    let n = after.models.find("n").unwrap();
    assert_eq!(after.fleet[NODE].instance(n).unwrap().slot_count(), 4);
    list(&mut after, &[copy("m:latest", "same"), copy("n:latest", "same"), copy("other:latest", "o")], at(0));
    assert_eq!(after.learned(), learned);
}

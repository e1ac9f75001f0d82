//! What do the scheduler's views show?

use super::*;

#[test]
fn models_are_the_union_of_all_listings_and_the_live_node_is_believed_first() {
    let mut scheduler = nodes(&[1, 1]);
    let dated = |name: &str, modified_unix, digest: &str| Model { modified_unix, digest: digest.into(), ..model(name) };
    let list = |scheduler: &mut Scheduler, node, models: Vec<Model>| {
        scheduler.handle(Event::Listed { node: NodeId(node), models: models.into() }, at(0));
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
    let settings: QueueLimits = serde_json::from_str(r#"{"max_queued": 7}"#).unwrap();
    assert_eq!(settings, QueueLimits { max_queued: 7, max_queued_per_user: 100 });
    assert_eq!(QueueLimits::default().max_queued, 1000);
    assert!(serde_json::from_str::<QueueLimits>(r#"{"max": 7}"#).is_err());
}

#[test]
fn each_change_of_a_nodes_health_is_told_once_with_its_time_and_reason() {
    let told = |scheduler: &mut Scheduler| {
        let changes = scheduler.take_health_changes().into_iter();
        changes.map(|HealthChange { at, after, why, .. }| (at, after.state, after.breaker, why)).collect::<Vec<_>>()
    };
    let mut scheduler = nodes(&[1]);
    assert_eq!(told(&mut scheduler), [(at(0), NodeState::Up, BreakerPhase::Closed, None)]);

    let refused = Some("refused".to_owned());
    silence(&mut scheduler, 0, at(1));
    silence(&mut scheduler, 0, at(2));
    assert_eq!(
        told(&mut scheduler),
        [
            (at(1), NodeState::Suspect, BreakerPhase::Closed, refused.clone()),
            (at(1), NodeState::Down, BreakerPhase::Open, refused.clone()),
        ]
    );
    come_back(&mut scheduler, 0, at(3));
    scheduler.handle(Event::Drain { node: NodeId(0), on: true }, at(4));
    scheduler.handle(Event::Drain { node: NodeId(0), on: true }, at(5));
    assert_eq!(
        told(&mut scheduler),
        [
            (at(3), NodeState::Suspect, BreakerPhase::HalfOpen, refused.clone()),
            (at(4), NodeState::Draining, BreakerPhase::HalfOpen, refused.clone()),
        ]
    );
    // It dies while it drains, which stays an operator's wish.
    silence(&mut scheduler, 0, at(6));
    scheduler.handle(Event::Drain { node: NodeId(0), on: false }, at(7));
    let changes = scheduler.take_health_changes();
    let after: Vec<_> = changes.iter().map(|change| (change.after.state, change.after.is_draining)).collect();
    assert_eq!(after, [(NodeState::Down, true), (NodeState::Down, false)]);
    scheduler.handle(Event::NodeLeft { node: NodeId(0) }, at(8));
    assert!(!scheduler.has_health_changes(), "whoever takes a node out says so");
}

#[test]
fn a_view_says_how_much_of_each_models_slots_is_in_use() {
    let mut scheduler = nodes(&[2]);
    scheduler.handle(arrived(1, "a", "m"), at(0));
    let uses = scheduler.nodes()[0].uses.clone();
    assert_eq!(uses["m:latest"], Use { running: 1, slots: 2 });
    assert_eq!(uses["n:latest"], Use { running: 0, slots: 2 });
    let prompts = &scheduler.nodes()[0].prompts;
    assert!(prompts["m:latest"].sent > 0 && prompts["m:latest"].expected_cached == 0, "{prompts:?}");
    assert_eq!(prompts["n:latest"], PromptTokens::default());
}

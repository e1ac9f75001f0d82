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

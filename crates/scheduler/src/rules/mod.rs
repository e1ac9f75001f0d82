//! The rules of the scheduler as a whole, one test each.

mod blame;
mod failures;
mod loads;
mod queueing;
mod shares;
mod silence;
mod views;
mod weights;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::*;

pub(crate) const SOON: Time = Duration::from_secs(1000);

pub(crate) fn at(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

pub(crate) fn model(name: &str) -> Model {
    Model {
        name: name.into(),
        size_bytes: 1,
        digest: String::new(),
        modified_unix: 0,
        family: String::new(),
        weights: String::new(),
    }
}

pub(crate) fn spec(slots: u32) -> NodeSpec {
    NodeSpec { name: "gpu".into(), slots: Some(slots), vram_bytes: None }
}

/// Nodes with this many slots each, all up, all with models `m` and `n` on disk and in memory.
pub(crate) fn fleet(settings: QueueLimits, slots: &[u32]) -> Scheduler {
    let mut scheduler = Scheduler::new(settings, slots.iter().map(|slots| spec(*slots)).collect());
    for node in (0..slots.len()).map(NodeId) {
        scheduler.handle(Event::Answered { node }, at(0));
        let models = vec![model("m:latest"), model("n:latest")];
        scheduler.handle(Event::Listed { node, models: models.into() }, at(0));
        scheduler.handle(Event::Resident { node, loaded: vec![loaded("m:latest"), loaded("n:latest")] }, at(0));
    }
    scheduler
}

pub(crate) fn loaded(name: &str) -> Loaded {
    Loaded { name: name.into(), vram_bytes: 1, context_length: None }
}

pub(crate) fn nodes(slots: &[u32]) -> Scheduler {
    fleet(QueueLimits::default(), slots)
}

pub(crate) fn arrived(id: u64, user: &str, model: &str) -> Event {
    Event::Arrived(arrival(id, user, model))
}

pub(crate) fn arrival(id: u64, user: &str, model: &str) -> Arrival {
    Arrival {
        id: RequestId(id.into()),
        user: user.into(),
        weight: 1.0,
        membership: None,
        model: model.into(),
        prompt_tokens: 10,
        max_output: None,
        known_output: None,
        prefixes: Arc::default(),
        route: Default::default(),
        is_stream: true,
        deadline: SOON,
    }
}

pub(crate) fn failed(id: u64, failure: Failure) -> Event {
    Event::Failed { id: RequestId(id.into()), failure }
}

pub(crate) fn left(id: u64, outcome: Outcome) -> Event {
    Event::Left { id: RequestId(id.into()), outcome }
}

pub(crate) fn completed(id: u64) -> Event {
    left(id, Outcome::Completed)
}

pub(crate) fn silence(scheduler: &mut Scheduler, node: usize, now: Time) -> Vec<Decision> {
    let silent = || Event::Silent { node: NodeId(node), error: "refused".into() };
    scheduler.handle(silent(), now);
    scheduler.handle(silent(), now)
}

/// Answers again, after it has said what is in its memory.
pub(crate) fn come_back(scheduler: &mut Scheduler, node: usize, now: Time) -> Vec<Decision> {
    let loaded = vec![loaded("m:latest"), loaded("n:latest")];
    scheduler.handle(Event::Resident { node: NodeId(node), loaded }, now);
    scheduler.handle(Event::Answered { node: NodeId(node) }, now)
}

pub(crate) fn dispatch(id: u64, node: usize, attempt: u32) -> Decision {
    Decision::Dispatch { id: RequestId(id.into()), node: NodeId(node), attempt }
}

pub(crate) fn reasons(decisions: &[Decision]) -> Vec<(u64, RefusalReason)> {
    let refused = |decision: &Decision| match decision {
        Decision::Refuse { id, refusal } => Some((id.0 as u64, refusal.reason)),
        _ => None,
    };
    decisions.iter().filter_map(refused).collect()
}

pub(crate) fn retry_after(decisions: &[Decision]) -> Duration {
    match decisions {
        [Decision::Refuse { refusal, .. }] => refusal.retry_after,
        other => panic!("not one refusal: {other:?}"),
    }
}

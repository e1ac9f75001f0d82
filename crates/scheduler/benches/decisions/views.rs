//! What do reports that change nothing cost, and how long do the views for people and clients hold the lock?

use std::sync::Arc;
use std::time::{Duration, Instant};

use scheduler::{Event, NODES_AT_A_LOOK, NodeId};

use crate::fleet::Fleet;
use crate::{Times, Verdict};

const REPORT_MICROSECONDS: f64 = 5.0;
const VIEW_MICROSECONDS: f64 = 100.0;
const REPEATED: usize = 50;

pub fn measure(fleet: &mut Fleet, verdict: &mut Verdict) {
    reports(fleet, verdict);
    let scheduler = &fleet.scheduler;
    view("/health: nodes counted", verdict, || (scheduler.serving_nodes(), scheduler.present_nodes()));
    view("/v1/models: names and dates copied", verdict, || {
        scheduler.models().into_iter().map(|model| (model.name.clone(), model.modified_unix)).collect::<Vec<_>>()
    });
    view("/admin/nodes, /metrics: one page of nodes", verdict, || scheduler.nodes_from(NodeId(0), NODES_AT_A_LOOK));
}

fn reports(fleet: &mut Fleet, verdict: &mut Verdict) {
    let (mut memory, mut disk, mut probes) = (Vec::new(), Vec::new(), Vec::new());
    for node in 0..fleet.nodes() {
        // The first one may bring news; every further one repeats it.
        fleet.hear("memory", fleet.memory(node));
        let again: Vec<_> = (0..3).map(|_| fleet.hear("memory", fleet.memory(node))).collect();
        memory.push(again.into_iter().min().unwrap());
        let again: Vec<_> = (0..3).map(|_| fleet.hear("disk", fleet.disk(node))).collect();
        disk.push(again.into_iter().min().unwrap());
        let again: Vec<_> = (0..3).map(|_| fleet.hear("probe", Event::Answered { node: NodeId(node) })).collect();
        probes.push(again.into_iter().min().unwrap());
    }
    for (what, times) in [("memory", memory), ("disk", disk), ("probe", probes)] {
        let times = Times::new(times);
        verdict.check(&format!("an unchanged report of the {what}, mean"), times.mean(), REPORT_MICROSECONDS, " us");
        verdict.check(&format!("an unchanged report of the {what}, p99"), times.at(0.99), REPORT_MICROSECONDS, " us");
    }
}

fn view<T>(what: &str, verdict: &mut Verdict, look: impl Fn() -> T) {
    let times = (0..REPEATED).map(|_| time(&look));
    let least = times.min().unwrap_or_default();
    verdict.check(what, least.as_nanos() as f64 / 1000.0, VIEW_MICROSECONDS, " us");
}

fn time<T>(look: &impl Fn() -> T) -> Duration {
    let began = Instant::now();
    let seen = look();
    let took = began.elapsed();
    drop(Arc::new(std::hint::black_box(seen)));
    took
}

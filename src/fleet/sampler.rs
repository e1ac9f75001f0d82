//! Who looks at what goes on, every five seconds, and keeps it for an hour?
use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::context::FleetContext;
use super::series::{INTERVAL, Point};
use crate::metrics::Beat;
use scheduler::{NODES_AT_A_LOOK, NodeId};

/// Looks at the counters.
#[derive(Debug)]
pub struct Sampler {
    context: FleetContext,
    before: Before,
}

/// What the counters said last.
#[derive(Debug)]
struct Before {
    at: Duration,
    all: Beat,
    nodes: BTreeMap<String, Beat>,
}

impl Sampler {
    /// Of these nodes; everything begins now.
    pub fn new(context: FleetContext) -> Self {
        let (at, all) = (context.clock.uptime(), context.metrics.pulses().all().beat());
        Self { context, before: Before { at, all, nodes: BTreeMap::new() } }
    }

    /// Looks every five seconds, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        // The first one is at once, when nothing has happened.
        ticks.tick().await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.look(),
            }
        }
    }

    fn look(&mut self) {
        let FleetContext { clock, metrics, dispatcher, plots, .. } = &self.context;
        let now = clock.uptime();
        let elapsed = now.saturating_sub(self.before.at);
        let sizes = dispatcher.read(|scheduler| (scheduler.in_flight(), scheduler.queued()));
        let all = metrics.pulses().all().beat();
        let beats: Vec<(String, Beat, (usize, usize))> = self
            .sizes()
            .into_iter()
            .map(|(name, sizes)| (name.clone(), metrics.pulses().of(&name).beat(), sizes))
            .collect();
        let point = |(name, beat, sizes): &(String, Beat, (usize, usize))| {
            // A node that is new has done nothing before.
            let before = self.before.nodes.get(name).copied().unwrap_or_default();
            (name.clone(), Point::between(before, *beat, elapsed, *sizes))
        };
        let nodes = beats.iter().map(point).collect();
        let whole = Point::between(self.before.all, all, elapsed, sizes);
        plots.push(now, whole, nodes);
        let nodes = beats.into_iter().map(|(name, beat, _)| (name, beat)).collect();
        self.before = Before { at: now, all, nodes };
    }

    /// Requests that run on each node, and that wait for its models.
    fn sizes(&self) -> Vec<(String, (usize, usize))> {
        let (mut sizes, mut first) = (Vec::new(), 0);
        loop {
            let (more, count) = self
                .context
                .dispatcher
                .read(|scheduler| (scheduler.sizes_from(NodeId(first), NODES_AT_A_LOOK), scheduler.node_count()));
            sizes.extend(more);
            first += NODES_AT_A_LOOK;
            if first >= count {
                return sizes;
            }
        }
    }
}

//! Who starts a prober for each node that joins? A task on the main thread, where clients to nodes can live.
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::context::FleetContext;
use super::health::Prober;
use super::settings::HealthSettings;
use super::upstream::Upstream;
use scheduler::NodeId;

/// A node to watch from now on.
#[derive(Debug)]
pub struct Watch {
    pub(crate) node: NodeId,
    /// Ends the prober.
    pub(crate) stop: CancellationToken,
}

/// Starts probers.
#[derive(Debug)]
pub struct Watchers {
    /// Shared by all probers.
    pub context: FleetContext,
    /// The client to the nodes.
    pub upstream: Upstream,
    /// How often the probers ask.
    pub health: HealthSettings,
    /// How long models stay in memory after a canary.
    pub keep_alive: Duration,
    /// The nodes to watch.
    pub wanted: mpsc::Receiver<Watch>,
}

impl Watchers {
    /// Starts probers until `stop`, then waits until every prober has ended, which `stop` causes as well.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut probers = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(Watch { node, stop }) = self.wanted.recv() => {
                    let (health, upstream) = (self.health.clone(), self.upstream.clone());
                    if let Some(prober) = Prober::new(node, &self.context, health, self.keep_alive, upstream) {
                        probers.push(actix_rt::spawn(prober.run(stop)));
                    }
                }
                Some(_) = probers.next() => {}
            }
        }
        while probers.next().await.is_some() {}
    }
}

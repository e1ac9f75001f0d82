//! Who starts a prober for each node that joins? A task on the main thread, where the clients to nodes can live.
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::context::FleetContext;
use super::health::Prober;
use super::health_settings::HealthSettings;
use super::upstream::Upstream;
use scheduler::NodeId;

/// A node to be watched from now on.
#[derive(Debug)]
pub struct Watch {
    pub(crate) node: NodeId,
    /// Ends the watching.
    pub(crate) stop: CancellationToken,
}

/// Starts probers.
#[derive(Debug)]
pub struct Watchers {
    /// What they share.
    pub context: FleetContext,
    /// The client to the nodes.
    pub upstream: Upstream,
    /// How they ask.
    pub health: HealthSettings,
    /// Whom to watch.
    pub wanted: mpsc::Receiver<Watch>,
}

impl Watchers {
    /// Watches until `stop` and until every prober has ended, which that `stop` ends, too.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut probers = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(Watch { node, stop }) = self.wanted.recv() => {
                    if let Some(prober) = Prober::new(node, &self.context, self.health.clone(), self.upstream.clone()) {
                        probers.push(actix_rt::spawn(prober.run(stop)));
                    }
                }
                Some(_) = probers.next() => {}
            }
        }
        while probers.next().await.is_some() {}
    }
}
